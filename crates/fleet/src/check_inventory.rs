//! The inventory and its variables as devices will read them, and what of them more devices see
//! than need to.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io;

use volary_model::DeviceName;

use crate::check::{Finding, error_in, warning_in};
use crate::inventory::{
    Entry, FileTree, Inline, Inventory, InventoryError, ReadOptions, Value, Warning, fleet_layout,
};
use crate::object::ObjectError;
use crate::snapshot::{FileKind, Files};

/// So many of one kind are named, the rest is counted.
const NAMED: usize = 5;

/// Of more hosts only one of each set of groups is written as an inventory of its own: the groups
/// are what may stand in the way.
const TRIED: usize = 2000;

/// Checks the inventory, if there is one.
pub(crate) fn run(files: &dyn Files, findings: &mut Vec<Finding>) -> Result<(), ObjectError> {
    let tree = FilesTree(files);
    let Ok(Some(layout)) = fleet_layout(&tree) else { return Ok(()) };
    let source = layout.sources.first().map_or("", String::as_str);
    let options = ReadOptions { host: None, origins: true };
    let inventory = match Inventory::read_with(&tree, &layout, &options) {
        Ok(inventory) => inventory,
        Err(error) => {
            findings.push(finding(source, error));
            return Ok(());
        }
    };
    findings.extend(inventory.warnings().iter().filter_map(|warning| remark(source, warning)));
    if inventory.unreadable().is_some() {
        return Ok(());
    }
    names(source, &inventory, findings);
    variables(&tree, &inventory, findings);
    alone(source, &inventory, findings);
    private(&inventory, findings);
    Ok(())
}

/// Whether hosts have files of their own.
pub(crate) fn is_split(files: &dyn Files) -> bool {
    let tree = FilesTree(files);
    let Ok(Some(layout)) = fleet_layout(&tree) else { return false };
    // Any host will do: the question is where the hosts are.
    let options = ReadOptions { host: Some("-"), origins: false };
    Inventory::read_with(&tree, &layout, &options).is_ok_and(|read| !read.hosts_folders().is_empty())
}

fn finding(source: &str, error: InventoryError) -> Finding {
    match error {
        InventoryError::Unsupported(found) => {
            let message = format!("devices cannot read this inventory: {}", found.reason);
            error_in(&found.file, message, found.remedy)
        }
        InventoryError::HostFiles { file, message } => error_in(&file, message, ""),
        InventoryError::Variables { file, message } => error_in(&file, message, "correct the file"),
        InventoryError::Groups { message } => {
            error_in(source, format!("the groups make no tree: {message}"), "correct the `children`")
        }
        InventoryError::Read { path, source } => error_in(&path, source.to_string(), ""),
        error @ InventoryError::UnknownHost { .. } => error_in(source, error.to_string(), ""),
    }
}

/// Names are a matter of taste to Ansible; devices' names are checked on their own.
fn remark(source: &str, warning: &Warning) -> Option<Finding> {
    match warning {
        Warning::Unreadable(found) => Some(error_in(&found.file, found.reason.to_string(), found.remedy)),
        Warning::Skipped { file, group, reason } => Some(warning_in(
            file,
            format!("a part of group {group:?} is passed over: {reason}"),
            "correct it",
        )),
        Warning::DuplicateKey { file, line, key } => {
            let message =
                format!("the key {key:?} stands twice in the map that begins here, the last one counts");
            Some(Finding { line: Some(*line), ..warning_in(file, message, "remove one") })
        }
        Warning::NoFolder { path } => {
            Some(warning_in(path, "it is no folder and is passed over", "make it a folder"))
        }
        Warning::SameName { name } => {
            Some(warning_in(source, format!("{name:?} is a group and a host"), "rename one of them"))
        }
        Warning::GroupName { .. } | Warning::Missing { .. } => None,
    }
}

/// Hosts whose names no device can have would silently never get anything.
fn names(source: &str, inventory: &Inventory, findings: &mut Vec<Finding>) {
    let bad: Vec<_> = inventory.hosts().filter_map(|name| name.parse::<DeviceName>().err()).collect();
    findings.extend(bad.iter().take(NAMED).map(|error| warning_in(source, error.to_string(), "")));
    if let Some(more @ 1..) = bad.len().checked_sub(NAMED) {
        let message = format!("{more} more hosts have names that no device can have");
        findings.push(warning_in(source, message, ""));
    }
}

/// Reads each file of variables once.
fn variables(tree: &FilesTree<'_>, inventory: &Inventory, findings: &mut Vec<Finding>) {
    let mut told = HashSet::new();
    for result in inventory.variable_files(tree) {
        match result {
            Ok(warnings) => {
                for found in warnings.iter().filter_map(|warning| remark("", warning)) {
                    if told.insert(found.to_string()) {
                        findings.push(found);
                    }
                }
            }
            Err(error) => findings.push(finding("", error)),
        }
    }
}

/// Devices whose groups can't be written down alone would refuse the commit.
fn alone(source: &str, inventory: &Inventory, findings: &mut Vec<Finding>) {
    let all: Vec<&str> = inventory.hosts().collect();
    let mut seen = HashSet::new();
    let tried = all.iter().filter(|host| {
        all.len() <= TRIED || inventory.groups_of(host).is_some_and(|groups| seen.insert(groups))
    });
    let mut bad = tried.filter_map(|host| inventory.one_host(host, std::path::Path::new("/")).err());
    findings.extend(bad.next().map(|error| finding(source, error)));
}

/// Variables that look private and stand where every device reads them.
fn private(inventory: &Inventory, findings: &mut Vec<Finding>) {
    let mut hosts: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let mut groups: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for Inline { file, owner, is_host, key, value } in inventory.inline_variables() {
        if looks_private(key, value) {
            let of_kind = if is_host { &mut hosts } else { &mut groups };
            of_kind.entry(file).or_default().insert(format!("{key} of {owner}"));
        }
    }
    for (file, found) in hosts {
        let message = format!("every device can read {}, which look private", listed(&found));
        let remedy =
            "give each host a file of its own with `volary inventory split`, or move them into host_vars/";
        findings.push(warning_in(file, message, remedy));
    }
    for (file, found) in groups {
        let message = format!("every device can read {}, which look private", listed(&found));
        findings.push(warning_in(
            file,
            message,
            "move them into group_vars/, where only devices of the group get them",
        ));
    }
}

fn listed(found: &BTreeSet<String>) -> String {
    let first: Vec<&str> = found.iter().take(NAMED).map(String::as_str).collect();
    match found.len().checked_sub(NAMED) {
        Some(more @ 1..) => format!("{} and {more} more", first.join(", ")),
        _ => first.join(", "),
    }
}

/// Parts of names that secrets have.
const PRIVATE: [&str; 9] =
    ["password", "passwd", "passphrase", "secret", "token", "private_key", "api_key", "apikey", "credential"];

fn looks_private(key: &str, value: &Value) -> bool {
    let key = key.to_lowercase();
    match value {
        // Where a secret is, or whether there is one, is none.
        Value::Null | Value::Bool(_) => false,
        Value::Text(text) if text.is_empty() || text.starts_with("{{") => false,
        value => PRIVATE.iter().any(|part| key.contains(part)) || has_vault(value),
    }
}

fn has_vault(value: &Value) -> bool {
    match value {
        Value::Vault(_) => true,
        Value::List(items) | Value::Set(items) => items.iter().any(has_vault),
        Value::Map(map) => map.iter().any(|(_, value)| has_vault(value)),
        _ => false,
    }
}

/// The files to check as a tree.
struct FilesTree<'a>(&'a dyn Files);

impl FilesTree<'_> {
    /// The paths below a folder.
    fn below(&self, path: &str) -> impl Iterator<Item = &str> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let paths = self.0.paths();
        let from = paths.partition_point(|path| *path < prefix);
        let length = prefix.len();
        paths[from..]
            .iter()
            .take_while(move |path| path.starts_with(&prefix))
            .map(move |path| &path[length..])
    }
}

impl FileTree for FilesTree<'_> {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        Ok(match self.0.kind(path) {
            Some(FileKind::File) => Some(Entry::File { executable: false }),
            Some(FileKind::Executable) => Some(Entry::File { executable: true }),
            Some(FileKind::Symlink) => {
                let target = String::from_utf8(self.read(path)?);
                Some(Entry::Link(target.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?))
            }
            Some(FileKind::Submodule) => Some(Entry::Folder),
            None => (path.is_empty() || self.below(path).next().is_some()).then_some(Entry::Folder),
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names: Vec<String> = Vec::new();
        for below in self.below(path) {
            let name = below.split('/').next().unwrap_or(below);
            if names.last().is_none_or(|last| last != name) {
                names.push(name.to_owned());
            }
        }
        // `a-b` sorts between `a` and what is in it.
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let content = self.0.read(path).map_err(io::Error::other)?;
        content.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no file {path}")))
    }
}
