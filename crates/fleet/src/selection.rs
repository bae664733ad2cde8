//! Which files of a commit are a device's own business: the server sends no others, the device
//! misses no others, and both ask here.
//!
//! A device gets everything but variables of others: in `host_vars` only its own, in `group_vars`
//! those of the groups that it is in (with all groups above them), and of hosts that have files of
//! their own only its own one. Which groups those are says the inventory of the same commit. Variables
//! of a group that the inventory does not have are for everybody: a play may make that group while it
//! runs. If the inventory can't be read, or does not have the device, the device gets no variables of
//! groups at all: it could not use them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use volary_model::DeviceName;

use crate::inventory::{GitTree, Inventory, InventoryError, ReadOptions, fleet_layout, object_error};
use crate::object::{ObjectError, ObjectId, ObjectSource};

/// What of one commit concerns one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Selection {
    device: String,
    /// Whether the inventory has the device.
    is_known: bool,
    groups: BTreeSet<String>,
    /// The groups of the inventory that it is not in.
    other_groups: BTreeSet<String>,
    /// Where hosts have files of their own.
    hosts_folders: Vec<String>,
    /// The device's own file in such a folder: `3f/web-1.yml`.
    own_file: String,
    /// Files and links through which links lead to the device's variables.
    linked: BTreeSet<String>,
}

/// Inventories that were read last, for a server that many devices ask about the same commit.
#[derive(Debug, Default)]
pub(crate) struct Inventories(Mutex<Vec<(ObjectId, Arc<Inventory>)>>);

/// As many stages, and the commits before, are asked about at once.
const KEPT: usize = 8;

impl Inventories {
    fn known(&self, root: &ObjectId) -> Option<Arc<Inventory>> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter().find(|(id, _)| id == root).map(|(_, inventory)| Arc::clone(inventory))
    }

    fn keep(&self, root: &ObjectId, inventory: &Arc<Inventory>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() == KEPT {
            kept.remove(0);
        }
        kept.push((*root, Arc::clone(inventory)));
    }
}

impl Selection {
    /// Reads the inventory in the tree of a commit.
    pub fn of(
        objects: &dyn ObjectSource,
        root: &ObjectId,
        device: &DeviceName,
        inventories: &Inventories,
    ) -> Result<Self, ObjectError> {
        let tree = GitTree::new(objects, *root);
        let mut selection = Self {
            device: device.as_str().to_owned(),
            is_known: false,
            groups: BTreeSet::new(),
            other_groups: BTreeSet::new(),
            hosts_folders: Vec::new(),
            own_file: Inventory::host_file(device.as_str()),
            linked: BTreeSet::new(),
        };
        let Some(inventory) = read(&tree, root, device, inventories, &mut selection.hosts_folders)? else {
            return Ok(selection);
        };
        let Some(groups) = inventory.groups_of(device.as_str()) else { return Ok(selection) };
        selection.is_known = true;
        selection.groups = groups.into_iter().map(str::to_owned).collect();
        let others = inventory.groups().filter(|group| !selection.groups.contains(*group));
        selection.other_groups = others.map(str::to_owned).collect();
        selection.linked = match inventory.linked_files(&tree, device.as_str()) {
            Ok(files) => files,
            // Whoever reads the variables meets the same and says so.
            Err(error) => match object_error(error) {
                Ok(error) => return Err(error),
                Err(_) => BTreeSet::new(),
            },
        };
        Ok(selection)
    }

    /// Whether the device gets what stands at a path. For a folder: whether there may be anything
    /// for it in there.
    pub fn wants(&self, path: &str, is_folder: bool) -> bool {
        let inner = |folder: &String| path.strip_prefix(folder.as_str())?.strip_prefix('/');
        if let Some(rest) = self.hosts_folders.iter().find_map(inner) {
            return rest == self.own_file || is_folder && begins(&self.own_file, rest);
        }
        let by_name = match variables(path) {
            None | Some((_, "")) => true,
            Some((Kind::Host, rest)) => owners(rest).any(|owner| owner == self.device),
            Some((Kind::Group, rest)) => self.wants_group(rest, is_folder),
        };
        by_name
            || self.linked.contains(path)
            || is_folder && self.linked.iter().any(|linked| begins(linked, path))
    }

    fn wants_group(&self, path: &str, is_folder: bool) -> bool {
        owners(path).any(|owner| self.groups.contains(owner))
            // A group with a slash in its name has its file in a folder.
            || is_folder && self.groups.iter().any(|group| begins(group, path))
            || self.is_known
                && !owners(path).any(|owner| self.other_groups.contains(owner))
                && may_be_made(path)
    }
}

fn read(
    tree: &GitTree<'_>,
    root: &ObjectId,
    device: &DeviceName,
    inventories: &Inventories,
    hosts_folders: &mut Vec<String>,
) -> Result<Option<Arc<Inventory>>, ObjectError> {
    if let Some(known) = inventories.known(root) {
        return Ok(Some(known));
    }
    let options = ReadOptions { host: Some(device.as_str()), origins: false };
    let read = match fleet_layout(tree) {
        Ok(Some(layout)) => Inventory::read_noting(tree, &layout, &options, hosts_folders),
        Ok(None) => return Ok(None),
        Err(error) => Err(error),
    };
    match read {
        Ok(inventory) => {
            let inventory = Arc::new(inventory);
            // Otherwise it was read for this device alone, which cost little.
            if hosts_folders.is_empty() {
                inventories.keep(root, &inventory);
            }
            Ok(Some(inventory))
        }
        Err(error) => match object_error(error) {
            Ok(error) => Err(error),
            Err(
                InventoryError::Unsupported(_)
                | InventoryError::UnknownHost { .. }
                | InventoryError::Variables { .. }
                | InventoryError::Groups { .. }
                | InventoryError::HostFiles { .. }
                | InventoryError::Read { .. },
            ) => Ok(None),
        },
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Group,
    Host,
}

/// What follows `group_vars/` or `host_vars/`. An inventory can be any folder, with folders in it, so
/// those names count wherever they are.
fn variables(path: &str) -> Option<(Kind, &str)> {
    let mut at = 0;
    for name in path.split('/') {
        let end = at + name.len();
        let rest = path.get(end + 1..).unwrap_or("");
        match name {
            "group_vars" => return Some((Kind::Group, rest)),
            "host_vars" => return Some((Kind::Host, rest)),
            _ => at = end + 1,
        }
    }
    None
}

/// The groups or hosts whose variables may be in a file or folder below `group_vars` or `host_vars`.
fn owners(path: &str) -> impl Iterator<Item = &str> {
    let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
    ends.flat_map(|end| {
        let name = &path[..end];
        [Some(name), stem(name)].into_iter().flatten()
    })
}

fn stem(name: &str) -> Option<&str> {
    [".yml", ".yaml", ".json"].iter().find_map(|end| name.strip_suffix(end))
}

/// Whether a play may make a group while it runs that has its variables here. A copy that an editor
/// left behind, `db.yml.orig`, is of no such group.
fn may_be_made(path: &str) -> bool {
    let name = path.split('/').next().unwrap_or(path);
    let name = stem(name).unwrap_or(name);
    !name.is_empty() && name.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

/// Whether `folder` is above `path`.
fn begins(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection(groups: &[&str]) -> Selection {
        Selection {
            device: "web.example.com".to_owned(),
            is_known: true,
            other_groups: ["db", "website", "we", "shared"].map(str::to_owned).into(),
            groups: groups.iter().map(|&group| group.to_owned()).collect(),
            hosts_folders: vec!["inventory/hosts".to_owned()],
            own_file: "3f/web.example.com.yml".to_owned(),
            linked: BTreeSet::from(["group_vars/shared/x.yml".to_owned()]),
        }
    }

    #[track_caller]
    fn check(wanted: bool, is_folder: bool, paths: &[&str]) {
        for path in paths {
            assert_eq!(selection(&["all", "web", "site/7"]).wants(path, is_folder), wanted, "{path}");
        }
    }

    #[test]
    fn own_files_are_wanted() {
        check(
            true,
            false,
            &[
                "host_vars/web.example.com.yml",
                "host_vars/web.example.com/a.yml",
                "host_vars/web.example.com",
                "inventory/host_vars/web.example.com.yaml",
                "hosts/host_vars/web.example.com.json",
                "hosts",
                "host_vars",
                "inventory/host_vars",
                "group_vars/all.yml",
                "inventory/group_vars/web",
                "group_vars/web/vault.yml",
                "group_vars/web/host_vars/other.yml",
                "group_vars/web.yml/x.yml",
                "group_vars/site/7.yml",
                "group_vars/shared/x.yml",
                "group_vars/made_at_run_time.yml",
                "group_vars/made/vault.yml",
                "inventory/hosts/3f/web.example.com.yml",
                "inventory/hosts.yml",
                "roles/x/files/hosts/aa/other.yml",
            ],
        );
        check(
            true,
            true,
            &["group_vars", "group_vars/web", "group_vars/site", "group_vars/shared", "inventory/hosts"],
        );
        check(true, true, &["inventory/hosts/3f", "host_vars/web.example.com", "roles", "inventory"]);
    }

    #[test]
    fn those_of_others_are_not() {
        check(
            false,
            false,
            &[
                "host_vars/web.example.yml",
                "host_vars/web/secret.yml",
                "inventory/host_vars/other.json",
                "inventory/site-7/host_vars/other/vault.yml",
                "roles/x/host_vars/other.yml",
                "host_vars/group_vars/web.yml",
                // The variables of a host whose name ends like a file.
                "host_vars/web.example.com.yml.yml",
                "group_vars/db.yml",
                "group_vars/website.yml",
                "group_vars/we",
                "group_vars/db.yml.orig",
                "group_vars/.db.yml.swp",
                "inventory/group_vars/db/vault.yml",
                "group_vars/shared/y.yml",
                "inventory/hosts/3f/other.yml",
                "inventory/hosts/aa/web.example.com.yml",
                "inventory/hosts/web.example.com.yml",
            ],
        );
        check(false, true, &["group_vars/db", "host_vars/other", "inventory/hosts/aa", "inventory/hosts/3"]);
    }
}
