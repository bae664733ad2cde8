//! The inventory of one host that is handed to `ansible-playbook`.
//!
//! It has the host's groups and those above them, each with the variables that the sources give it.
//! The other groups are there by name and empty, so that `inventory_hostname in groups['db']` is false
//! and no error; of other hosts there is nothing.
//!
//! `group_vars` and `host_vars` stay what they are: the file is written beside the source, where
//! Ansible finds them. So precedence is Ansible's own, also for groups that a play makes while it
//! runs, and what is vaulted is decrypted by the one who has the password.

use std::path::Path;

use super::document;
use super::emit;
use super::error::{InventoryError, Reason};
use super::graph::{Graph, Group, GroupId, Host, HostId};
use super::value::{Map, Value};
use super::{Inventory, yaml_source};

/// The file with the host. Its name is hidden, so that it is no part of a folder of sources.
pub const ONE_HOST_FILE: &str = ".volary-one-host.yml";
/// A file without hosts, that makes Ansible read the variables beside one more source.
const FOLDER_FILE: &str = ".volary-folder.yml";

/// Files to write and arguments to give to `ansible-playbook`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handover {
    /// Path in the tree and content.
    pub files: Vec<(String, String)>,
    /// The paths for `-i`, in order; one may stand twice.
    pub sources: Vec<String>,
}

/// Writes the inventory of a host of a tree that is checked out at `root`.
pub(crate) fn write(inventory: &Inventory, name: &str, root: &Path) -> Result<Handover, InventoryError> {
    if let Some(unsupported) = inventory.unreadable() {
        return Err(unsupported.clone().into());
    }
    let graph = &inventory.graph;
    let host = graph.host_id(name).ok_or_else(|| InventoryError::UnknownHost { name: name.to_owned() })?;
    let vars = host_vars(&graph.hosts[host], root);
    let document = groups(graph, host, &vars);
    let mut text =
        format!("# The inventory of {} alone, written by volary; changes are lost.\n", name.escape_debug());
    emit::entries(&mut text, &document, 0);
    if !is_same(graph, host, &vars, &text) {
        let what = format!("groups from which no inventory of {name} alone can be made");
        let source = graph.hosts[host].origin.as_ref().map_or(String::new(), |source| source.file.clone());
        return Err(Reason::Rare { what }.of(&source).into());
    }
    Ok(handover(&inventory.vars_folders, text))
}

fn handover(folders: &[String], text: String) -> Handover {
    let beside = |folder: &str, file: &str| match folder {
        "" => file.to_owned(),
        folder => format!("{folder}/{file}"),
    };
    let mut handover = Handover { files: Vec::new(), sources: Vec::new() };
    for folder in folders {
        if handover.files.is_empty() {
            handover.files.push((beside(folder, ONE_HOST_FILE), text.clone()));
        }
        let first = &handover.files[0].0;
        let path = match beside(folder, ONE_HOST_FILE) {
            path if path == *first => path,
            _ => beside(folder, FOLDER_FILE),
        };
        if !handover.files.iter().any(|(known, _)| *known == path) {
            handover.files.push((path.clone(), "all: {}\n".to_owned()));
        }
        handover.sources.push(path);
    }
    handover
}

/// The host's own variables, with the two by which playbooks find the original source.
fn host_vars(host: &Host, root: &Path) -> Map {
    let mut vars = Map::new();
    if let Some(origin) = &host.origin {
        let absolute = |path: &str| {
            let path = if path.is_empty() { root.to_path_buf() } else { root.join(path) };
            Value::text(path.to_string_lossy())
        };
        vars.insert(Value::text("inventory_file"), absolute(&origin.file));
        vars.insert(Value::text("inventory_dir"), absolute(&origin.folder));
    }
    vars.overlay(&host.vars);
    vars
}

/// The host's groups, one after the other; links between them by name.
fn groups(graph: &Graph, host: HostId, vars: &Map) -> Map {
    let mut mine = graph.hosts[host].groups.clone();
    mine.sort_unstable();
    let mut document = Map::new();
    let mut vars = Some(vars);
    for &id in &mine {
        let group = &graph.groups[id];
        let mut sections = Map::new();
        let own = group_vars(group);
        if !own.is_empty() {
            sections.insert(Value::text("vars"), Value::Map(own));
        }
        let below = group.children.iter().filter(|child| mine.contains(child));
        let children: Map = below.map(|&child| (graph.groups[child].name.as_str(), Value::Null)).collect();
        if !children.is_empty() {
            sections.insert(Value::text("children"), Value::Map(children));
        }
        if graph.names(id, host) {
            // The variables stand where the host is first named.
            let vars = vars.take().map_or(Value::Null, |vars| Value::Map(vars.clone()));
            let hosts = Map::from_iter([(graph.hosts[host].name.as_str(), vars)]);
            sections.insert(Value::text("hosts"), Value::Map(hosts));
        }
        document.insert(Value::text(group.name.as_str()), Value::Map(sections));
    }
    // A group with the name of the host would be what `--limit` finds.
    let host = &graph.hosts[host].name;
    for group in graph.groups.iter().filter(|group| group.name != *host) {
        if !document.contains(&group.name) {
            document.insert(Value::text(group.name.as_str()), Value::Map(Map::new()));
        }
    }
    document
}

fn group_vars(group: &Group) -> Map {
    let mut vars = Map::new();
    if group.priority != 1 {
        vars.insert(Value::text("ansible_group_priority"), Value::Int(group.priority.into()));
    }
    vars.overlay(&group.vars);
    vars
}

/// Reads what was written and compares: groups, their order of precedence, all variables.
fn is_same(graph: &Graph, host: HostId, vars: &Map, text: &str) -> bool {
    let mut again = Graph::new();
    let Ok(document) = document::load(text.as_bytes()) else { return false };
    if yaml_source::read(&mut again, &document, &mut Vec::new()).is_err() || again.reconcile().is_err() {
        return false;
    }
    let Some(copy) = again.host_id(&graph.hosts[host].name) else { return false };
    let describe = |graph: &Graph, ids: &[GroupId]| -> Vec<(String, usize, i64, Map)> {
        let sorted = graph.by_precedence(ids).into_iter().map(|id| &graph.groups[id]);
        sorted.map(|group| (group.name.clone(), group.depth, group.priority, group.vars.clone())).collect()
    };
    let mine = describe(graph, &graph.hosts[host].groups);
    again.hosts.len() == 1
        && again.hosts[copy].vars == *vars
        && describe(&again, &again.hosts[copy].groups) == mine
}
