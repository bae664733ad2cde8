//! Ansible inventories, read without Ansible: groups and variables of a host, equal to what
//! `ansible-inventory --host` says, and the inventory of this one host for `ansible-playbook`.
//!
//! [`Inventory::read`] reads sources from a [`FileTree`] (a folder, git objects), in YAML, JSON,
//! Ansible's INI, or with one file for each host; [`Inventory::host`] adds `group_vars` and
//! `host_vars`. What only Ansible can read (programs, plugins) comes back as [`Unsupported`], and
//! nobody guesses what it may mean. Nothing is decrypted, templated or run here.

mod compose;
mod construct;
mod document;
mod emit;
mod error;
mod git;
mod graph;
mod host;
mod host_files;
mod hosts;
mod ini;
mod integer;
mod json;
mod literal;
mod literal_text;
mod one_host;
mod place;
mod python;
mod read;
mod scalar;
mod settings;
mod source;
mod split;
mod split_text;
mod tree;
mod value;
mod vars;
mod words;
mod yaml_source;

pub use error::{InventoryError, Reason, Unsupported, Warning};
pub use git::GitTree;
pub(crate) use git::object_error;
pub use host::{GroupView, HostView, Origin};
pub use integer::Integer;
pub use json::to_json;
pub use one_host::{Handover, ONE_HOST_FILE};
pub use place::{INVENTORIES, PLAYBOOKS, fleet_layout, playbook};
pub use split::{Change, Split, SplitError};
pub use tree::{DirTree, Entry, FileTree, MemoryTree};
pub use value::{Map, Value};

use std::collections::BTreeSet;
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

/// A variable that stands in a source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Inline<'a> {
    pub file: &'a str,
    /// The group or host.
    pub owner: &'a str,
    pub is_host: bool,
    pub key: &'a str,
    pub value: &'a Value,
}

/// What of an inventory is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReadOptions<'a> {
    /// Only this host, where hosts have files of their own. Elsewhere all hosts are read.
    pub host: Option<&'a str>,
    /// Whether to note in which file each variable stands, for [`HostView::origins`].
    pub origins: bool,
}

/// An inventory: groups and hosts, with the variables that stand in the sources themselves.
#[derive(Debug, Clone)]
pub struct Inventory {
    graph: Graph,
    /// The folders beside which `group_vars` and `host_vars` may be, one for each source.
    vars_folders: Vec<String>,
    playbook_folder: String,
    warnings: Vec<Warning>,
    hosts_folders: Vec<String>,
    files: Vec<String>,
}

impl Inventory {
    /// Reads the sources.
    ///
    /// # Errors
    /// [`InventoryError::Unsupported`] for what is left to Ansible; others as they say. A source that
    /// no format fits is a [`Warning::Unreadable`], as with Ansible.
    pub fn read(tree: &dyn FileTree, layout: &Layout) -> Result<Self, InventoryError> {
        Self::read_with(tree, layout, &ReadOptions::default())
    }

    /// Reads the sources, as far as one host needs them, or with more about them.
    ///
    /// # Errors
    /// As [`Inventory::read`].
    pub fn read_with(
        tree: &dyn FileTree,
        layout: &Layout,
        options: &ReadOptions<'_>,
    ) -> Result<Self, InventoryError> {
        Self::read_noting(tree, layout, options, &mut Vec::new())
    }

    /// Reads the sources, and adds the folders in which hosts have files of their own to a list that
    /// is right also if the rest can't be read.
    pub(crate) fn read_noting(
        tree: &dyn FileTree,
        layout: &Layout,
        options: &ReadOptions<'_>,
        hosts_folders: &mut Vec<String>,
    ) -> Result<Self, InventoryError> {
        let settings = settings::read(tree)?;
        let outside = |path: &String| Reason::Link.of(path);
        let normal = |path: &String| tree::join("", path).ok_or_else(|| outside(path));
        let sources = layout.sources.iter().map(normal).collect::<Result<Vec<String>, Unsupported>>()?;
        let playbook_folder = normal(&layout.playbook_folder)?;
        vars_plugins(tree, &playbook_folder)?;
        let read = read::sources(tree, &sources, &settings, options, hosts_folders)?;
        let mut vars_folders = Vec::new();
        for source in &sources {
            let target = tree::resolve(tree, source).map_err(InventoryError::read(source))?;
            let folder = if matches!(target, Target::Folder { .. }) { source } else { tree::parent(source) };
            vars_folders.push(folder.to_owned());
        }
        Ok(Self {
            graph: read.graph,
            vars_folders,
            playbook_folder,
            warnings: read.warnings,
            files: read.files,
            hosts_folders: hosts_folders.clone(),
        })
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

    /// The folders in which hosts have files of their own: `inventory/hosts`.
    pub fn hosts_folders(&self) -> &[String] {
        &self.hosts_folders
    }

    /// The file of a host in such a folder: `3f/web-1.yml`.
    pub fn host_file(name: &str) -> String {
        host_files::host_path(name)
    }

    /// The groups that a host is in, `all` included; `None` if the inventory does not have it.
    pub fn groups_of(&self, name: &str) -> Option<Vec<&str>> {
        let host = &self.graph.hosts[self.graph.host_id(name)?];
        Some(host.groups.iter().map(|&group| self.graph.groups[group].name.as_str()).collect())
    }

    /// The variables that stand in the sources where every device reads them, but for those in files
    /// of single hosts. The inventory must have been read with origins.
    pub(crate) fn inline_variables(&self) -> impl Iterator<Item = Inline<'_>> {
        let groups = self.graph.groups.iter().map(|group| (&group.name, false, &group.vars, &group.origins));
        let hosts = self.graph.hosts.iter().map(|host| (&host.name, true, &host.vars, &host.origins));
        groups.chain(hosts).flat_map(move |(owner, is_host, vars, origins)| {
            origins.iter().filter_map(move |(key, file)| {
                let of_one = |folder: &String| {
                    file.strip_prefix(folder.as_str()).is_some_and(|rest| rest.starts_with('/'))
                };
                let value = vars.get(key).filter(|_| !self.hosts_folders.iter().any(of_one))?;
                Some(Inline { file, owner, is_host, key, value })
            })
        })
    }

    /// Reads each file of variables of all groups and hosts once; what may be a mistake in it.
    pub(crate) fn variable_files(&self, tree: &dyn FileTree) -> Vec<Result<Vec<Warning>, InventoryError>> {
        host::variable_files(self, tree)
    }

    /// Files of variables of a host to which links lead, and those links.
    pub(crate) fn linked_files(
        &self,
        tree: &dyn FileTree,
        name: &str,
    ) -> Result<BTreeSet<String>, InventoryError> {
        host::linked_files(self, tree, name)
    }

    /// What may be a mistake in the sources.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// A source that could not be read in full, whose rest nobody knows.
    pub fn unreadable(&self) -> Option<&Unsupported> {
        self.warnings.iter().find_map(|warning| match warning {
            Warning::Unreadable(unsupported) => Some(unsupported),
            Warning::GroupName { .. }
            | Warning::SameName { .. }
            | Warning::Missing { .. }
            | Warning::Skipped { .. }
            | Warning::DuplicateKey { .. }
            | Warning::NoFolder { .. } => None,
        })
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
