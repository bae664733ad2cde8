//! What the inventory says about one host: its groups, and its variables merged by precedence.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Where each of them comes from.
    pub origins: BTreeMap<String, Origin>,
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

/// Where a variable comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The group whose variable it is; `None` for the host's own.
    pub group: Option<String>,
    /// The file; empty if the inventory was read without noting that.
    pub file: String,
}

/// Variables, and where each comes from.
#[derive(Default)]
struct Merged {
    variables: Map,
    origins: BTreeMap<String, Origin>,
}

impl Merged {
    /// Lays variables over those that are there.
    fn lay(&mut self, vars: &Map, group: Option<&str>, file: impl Fn(&str) -> String) {
        for (key, _) in vars.iter() {
            if let Some(name) = key.as_text() {
                let origin = Origin { group: group.map(str::to_owned), file: file(name) };
                self.origins.insert(name.to_owned(), origin);
            }
        }
        self.variables.overlay(vars);
    }

    /// Lays those over that stand in the sources.
    fn lay_inline(&mut self, vars: &Map, origins: &graph::Origins, group: Option<&str>) {
        self.lay(vars, group, |name| {
            origins.get(name).map_or_else(String::new, |file| file.as_ref().to_owned())
        });
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

    let mut merged = Merged::default();
    let all = &graph.groups[0];
    merged.lay_inline(&all.vars, &all.origins, Some(ALL));
    for group in &others {
        merged.lay_inline(&group.vars, &group.origins, Some(&group.name));
    }
    let beside = &inventory.vars_folders;
    let play = std::slice::from_ref(&inventory.playbook_folder);
    let all = [Entity::Group(ALL)];
    let entities: Vec<Entity<'_>> = others.iter().map(|group| Entity::Group(&group.name)).collect();
    let mine = [Entity::Host(name)];
    let mut reader = VarsReader::new(tree);
    // Ansible's default order of precedence; files about `all` come before the groups' files, but
    // after what the inventory itself says about the groups.
    let mut lay = |merged: &mut Merged, folders: &[String], entities: &[Entity<'_>]| {
        reader.each(folders, entities, &mut |vars, file, entity| {
            merged.lay(vars, entity.group(), |_| file.to_owned());
        })
    };
    lay(&mut merged, beside, &all)?;
    lay(&mut merged, play, &all)?;
    lay(&mut merged, beside, &entities)?;
    lay(&mut merged, play, &entities)?;
    merged.lay_inline(&host.vars, &host.origins, None);
    lay(&mut merged, beside, &mine)?;
    lay(&mut merged, play, &mine)?;
    for internal in INTERNAL {
        merged.variables.remove(internal);
        merged.origins.remove(internal);
    }
    let groups = named.iter().map(|group| GroupView {
        name: group.name.clone(),
        depth: group.depth,
        priority: group.priority,
    });
    Ok(HostView {
        name: name.to_owned(),
        groups: groups.collect(),
        variables: merged.variables,
        origins: merged.origins,
        files: reader.files,
        sealed: reader.sealed,
        warnings: reader.warnings,
    })
}

/// The files of variables of a host to which links lead, and those links.
pub(crate) fn linked_files(
    inventory: &Inventory,
    tree: &dyn FileTree,
    name: &str,
) -> Result<BTreeSet<String>, InventoryError> {
    let graph = &inventory.graph;
    let host = graph.host_id(name).ok_or_else(|| InventoryError::UnknownHost { name: name.to_owned() })?;
    let mut reader = VarsReader::new(tree);
    let mut linked = BTreeSet::new();
    let groups = graph.hosts[host].groups.iter().map(|&group| Entity::Group(&graph.groups[group].name));
    for entity in groups.chain([Entity::Host(name)]) {
        for folder in inventory.vars_folders.iter().chain([&inventory.playbook_folder]) {
            let files = reader.find(folder, entity)?;
            if !reader.links.is_empty() {
                linked.extend(files);
                linked.extend(reader.links.drain(..));
            }
        }
    }
    Ok(linked)
}

/// Reads each file of variables of all groups and hosts once.
pub(crate) fn variable_files(
    inventory: &Inventory,
    tree: &dyn FileTree,
) -> Vec<Result<Vec<Warning>, InventoryError>> {
    let graph = &inventory.graph;
    let groups = graph.groups.iter().map(|group| Entity::Group(&group.name));
    let hosts = graph.hosts.iter().map(|host| Entity::Host(&host.name));
    let entities: Vec<Entity<'_>> = groups.chain(hosts).collect();
    let folders: BTreeSet<&String> =
        inventory.vars_folders.iter().chain([&inventory.playbook_folder]).collect();
    let mut seen = BTreeSet::new();
    let mut results = Vec::new();
    for folder in folders {
        for entity in &entities {
            let mut reader = VarsReader::new(tree);
            let files = match reader.find(folder, *entity) {
                Ok(files) => files,
                Err(error) => {
                    results.push(Err(error));
                    continue;
                }
            };
            for file in files {
                if seen.insert(file.clone()) {
                    results.extend(reader.load(&file).err().map(Err));
                }
            }
            if !reader.warnings.is_empty() {
                results.push(Ok(reader.warnings));
            }
        }
    }
    results
}
