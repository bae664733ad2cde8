//! What the inventory says about one host: its groups, and its variables merged by precedence.

use super::error::{InventoryError, Warning};
use super::graph::ALL;
use super::tree::FileTree;
use super::value::Map;
use super::vars::{Entity, VarsReader};
use super::{Inventory, graph};

/// Variables that Ansible sets itself, whatever an inventory says; `ansible-inventory` leaves them out.
const INTERNAL: [&str; 19] = [
    "ansible_diff_mode",
    "ansible_config_file",
    "ansible_facts",
    "ansible_forks",
    "ansible_inventory_sources",
    "ansible_limit",
    "ansible_playbook_python",
    "ansible_run_tags",
    "ansible_skip_tags",
    "ansible_verbosity",
    "ansible_version",
    "inventory_dir",
    "inventory_file",
    "inventory_hostname",
    "inventory_hostname_short",
    "groups",
    "group_names",
    "omit",
    "playbook_dir",
];

/// One host as `ansible-inventory --host` shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct HostView {
    /// Its name.
    pub name: String,
    /// Its groups in order of precedence: later ones override earlier ones. `all` comes first.
    pub groups: Vec<GroupView>,
    /// Its variables, but for those in `sealed` files.
    pub variables: Map,
    /// Files of variables that were read, in order, each once.
    pub files: Vec<String>,
    /// Files of variables that are vaulted as a whole: only `ansible-playbook` can tell what is in
    /// them, and that it may override what is in `variables`.
    pub sealed: Vec<String>,
    /// What may be a mistake in those files.
    pub warnings: Vec<Warning>,
}

/// A group of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// Its name.
    pub name: String,
    /// Its distance from `all`, the longest way.
    pub depth: usize,
    /// `ansible_group_priority`, 1 unless set.
    pub priority: i64,
}

impl HostView {
    /// What `group_names` is in a playbook: sorted, without `all`.
    pub fn group_names(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.groups.iter().map(|group| group.name.as_str()).collect();
        names.retain(|name| *name != ALL);
        names.sort_unstable();
        names
    }
}

/// Merges what concerns one host.
pub(crate) fn view(
    inventory: &Inventory,
    tree: &dyn FileTree,
    name: &str,
) -> Result<HostView, InventoryError> {
    let graph = &inventory.graph;
    let host = graph.host_id(name).ok_or_else(|| InventoryError::UnknownHost { name: name.to_owned() })?;
    let host = &graph.hosts[host];
    let groups = graph.by_precedence(&host.groups);
    let named: Vec<&graph::Group> = groups.iter().map(|&group| &graph.groups[group]).collect();
    let others: Vec<&graph::Group> = named.iter().copied().filter(|group| group.name != ALL).collect();

    let mut variables = graph.groups[0].vars.clone();
    for group in &others {
        variables.overlay(&group.vars);
    }
    let beside = &inventory.vars_folders;
    let play = std::slice::from_ref(&inventory.playbook_folder);
    let all = [Entity::Group(ALL)];
    let entities: Vec<Entity<'_>> = others.iter().map(|group| Entity::Group(&group.name)).collect();
    let mine = [Entity::Host(name)];
    let mut reader = VarsReader::new(tree);
    // Ansible's default order of precedence; files about `all` come before the groups' files, but
    // after what the inventory itself says about the groups.
    reader.overlay(&mut variables, beside, &all)?;
    reader.overlay(&mut variables, play, &all)?;
    reader.overlay(&mut variables, beside, &entities)?;
    reader.overlay(&mut variables, play, &entities)?;
    variables.overlay(&host.vars);
    reader.overlay(&mut variables, beside, &mine)?;
    reader.overlay(&mut variables, play, &mine)?;
    for internal in INTERNAL {
        variables.remove(internal);
    }
    let groups = named.iter().map(|group| GroupView {
        name: group.name.clone(),
        depth: group.depth,
        priority: group.priority,
    });
    Ok(HostView {
        name: name.to_owned(),
        groups: groups.collect(),
        variables,
        files: reader.files,
        sealed: reader.sealed,
        warnings: reader.warnings,
    })
}
