//! Ansible inventories, read without Ansible: groups and variables of a host, equal to what
//! `ansible-inventory --host` says, and the inventory of this one host for `ansible-playbook`.
//!
//! [`Inventory::read`] reads sources from a [`FileTree`] (a folder, git objects), in YAML, JSON or
//! Ansible's INI; [`Inventory::host`] adds `group_vars` and `host_vars`. What only Ansible can read
//! (programs, plugins) comes back as [`Unsupported`]: then the whole inventory is Ansible's business.
//! Nothing is decrypted, templated or run here.

mod compose;
mod construct;
mod document;
mod emit;
mod error;
mod git;
mod graph;
mod host;
mod hosts;
mod ini;
mod integer;
mod json;
mod literal;
mod literal_text;
mod one_host;
mod python;
mod read;
mod scalar;
mod settings;
mod source;
mod tree;
mod value;
mod vars;
mod words;
mod yaml_source;

pub use error::{InventoryError, Reason, Unsupported, Warning};
pub use git::GitTree;
pub use host::{GroupView, HostView};
pub use integer::Integer;
pub use json::to_json;
pub use one_host::{Handover, ONE_HOST_FILE};
pub use tree::{DirTree, Entry, FileTree, MemoryTree};
pub use value::{Map, Value};

use std::path::Path;

use graph::Graph;
use tree::Target;

/// Where an inventory is, and the playbook with it. Paths are relative to the root of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The sources in order, as with `-i`: files or folders.
    pub sources: Vec<String>,
    /// The folder of the playbook, whose `group_vars` and `host_vars` count too; `""` for the root.
    pub playbook_folder: String,
}

impl Layout {
    /// One source, and the playbook at the root of the tree.
    pub fn new(source: impl Into<String>) -> Self {
        Self { sources: vec![source.into()], playbook_folder: String::new() }
    }
}

/// An inventory: groups and hosts, with the variables that stand in the sources themselves.
#[derive(Debug, Clone)]
pub struct Inventory {
    graph: Graph,
    /// The folders beside which `group_vars` and `host_vars` may be, one for each source.
    vars_folders: Vec<String>,
    playbook_folder: String,
    warnings: Vec<Warning>,
}

impl Inventory {
    /// Reads the sources.
    ///
    /// # Errors
    /// [`InventoryError::Unsupported`] for what is left to Ansible; others as they say. A source that
    /// no format fits is a [`Warning::Unreadable`], as with Ansible.
    pub fn read(tree: &dyn FileTree, layout: &Layout) -> Result<Self, InventoryError> {
        let settings = settings::read(tree)?;
        let outside = |path: &String| Reason::Link.of(path);
        let normal = |path: &String| tree::join("", path).ok_or_else(|| outside(path));
        let sources = layout.sources.iter().map(normal).collect::<Result<Vec<String>, Unsupported>>()?;
        let playbook_folder = normal(&layout.playbook_folder)?;
        vars_plugins(tree, &playbook_folder)?;
        let mut warnings = Vec::new();
        let graph = read::sources(tree, &sources, &settings, &mut warnings)?;
        let mut vars_folders = Vec::new();
        for source in &sources {
            let target = tree::resolve(tree, source).map_err(InventoryError::read(source))?;
            let folder = if matches!(target, Target::Folder { .. }) { source } else { tree::parent(source) };
            vars_folders.push(folder.to_owned());
        }
        Ok(Self { graph, vars_folders, playbook_folder, warnings })
    }

    /// The names of all hosts, in the order in which they were first seen.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.graph.hosts.iter().map(|host| host.name.as_str())
    }

    /// The names of all groups, `all` and `ungrouped` included, in the order in which they were first seen.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.graph.groups.iter().map(|group| group.name.as_str())
    }

    /// The hosts that a group names itself, and the groups directly under it, each in order.
    pub fn members(&self, group: &str) -> Option<(Vec<&str>, Vec<&str>)> {
        let group = &self.graph.groups[self.graph.group_id(group)?];
        let hosts = group.hosts.iter().map(|&host| self.graph.hosts[host].name.as_str()).collect();
        let children = group.children.iter().map(|&child| self.graph.groups[child].name.as_str()).collect();
        Some((hosts, children))
    }

    /// What may be a mistake in the sources.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// Groups and variables of a host, with those from `group_vars` and `host_vars` in the tree.
    ///
    /// # Errors
    /// [`InventoryError::UnknownHost`], and those of the files of variables.
    pub fn host(&self, tree: &dyn FileTree, name: &str) -> Result<HostView, InventoryError> {
        host::view(self, tree, name)
    }

    /// The inventory of one host for `ansible-playbook`, where the tree is checked out at `root` with
    /// the `group_vars`, and the `host_vars` of this host.
    ///
    /// # Errors
    /// [`InventoryError::UnknownHost`]; [`InventoryError::Unsupported`] also if a source could not be
    /// read, or if the host's groups can't be written as an inventory of its own.
    pub fn one_host(&self, name: &str, root: &Path) -> Result<Handover, InventoryError> {
        one_host::write(self, name, root)
    }
}

/// Ansible loads plugins for variables from a folder beside the playbook.
fn vars_plugins(tree: &dyn FileTree, folder: &str) -> Result<(), InventoryError> {
    let path = if folder.is_empty() { "vars_plugins".to_owned() } else { format!("{folder}/vars_plugins") };
    let Target::Folder { path } = tree::resolve(tree, &path).map_err(InventoryError::read(&path))? else {
        return Ok(());
    };
    let names = tree.list(&path).map_err(InventoryError::read(&path))?;
    match names.iter().find(|name| name.ends_with(".py")) {
        Some(name) => Err(Reason::VarsPlugin.of(&format!("{path}/{name}")).into()),
        None => Ok(()),
    }
}
