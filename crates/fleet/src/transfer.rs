//! Which objects a device needs to go from one commit to another, and nothing that is not its own.
//!
//! A device gets everything to *verify* each step in between (commits, their signers and rules)
//! and everything to *apply* the last one, but no `host_vars` of other hosts.

use std::collections::{BinaryHeap, HashMap, HashSet};

use volary_model::{CommitId, DeviceName};

use crate::object::{ObjectError, ObjectId, ObjectSource, ReadObjects};
use crate::pack::{PackError, write_pack};
use crate::rules::{CONFIG_FILE, SIGNERS_FILE};
use crate::tree::{EntryKind, Tree, entry_at, join};

/// The objects that `device` needs to go from `have` to `want`, in an order to send them.
///
/// All commits that `want` reaches and `have` does not, each with its root folder, its signers and
/// its `volary.yml`; for `want` also the folders and files that differ from `have`, except
/// `host_vars` of other hosts. Without `have`, or if this repository does not know it: only the
/// commit `want`, its direct parents, and all its folders and files. Approvals come with their commits.
///
/// # Errors
/// [`ObjectError`] if an object cannot be read.
pub fn device_objects(
    objects: &dyn ObjectSource,
    want: &CommitId,
    have: Option<&CommitId>,
    device: &DeviceName,
) -> Result<Vec<ObjectId>, ObjectError> {
    let wanted = objects.commit(want)?;
    let known = match have {
        Some(have) => objects.find_commit(have)?,
        None => None,
    };
    let mut list = List::default();
    list.add((&wanted.id).into());
    match &known {
        Some(known) => {
            for commit in between(objects, want, &known.id)? {
                let tree = objects.commit(&commit)?.tree;
                list.add((&commit).into());
                add_rules(objects, &tree, &mut list)?;
            }
        }
        // With its parents a promotion can be compared with what was promoted.
        None => wanted.parents.iter().for_each(|parent| list.add(parent.into())),
    }
    add_approvals(objects, &mut list)?;
    let old = known.as_ref().map(|known| &known.tree);
    add_changed(objects, &wanted.tree, old, "", device, &mut list)?;
    Ok(list.ids)
}

/// The same objects as a pack without deltas.
///
/// # Errors
/// [`PackError::Object`] if an object cannot be read.
pub fn pack_for_device(
    objects: &dyn ObjectSource,
    want: &CommitId,
    have: Option<&CommitId>,
    device: &DeviceName,
) -> Result<Vec<u8>, PackError> {
    let ids = device_objects(objects, want, have, device)?;
    let mut bytes = Vec::new();
    write_pack(objects, &ids, &mut bytes)?;
    Ok(bytes)
}

/// The first object that is missing to check out `want` for `device`, or `None` if all are there.
/// A device asks this before it tells a server what it has: a torn file counts as missing.
///
/// # Errors
/// [`ObjectError`] but for missing objects.
pub fn missing_for_device(
    objects: &dyn ObjectSource,
    want: &CommitId,
    device: &DeviceName,
) -> Result<Option<ObjectId>, ObjectError> {
    let ids = match device_objects(objects, want, None, device) {
        Ok(ids) => ids,
        Err(ObjectError::Missing { id }) => return Ok(Some(id)),
        Err(error) => return Err(error),
    };
    let parents: HashSet<ObjectId> = objects.commit(want)?.parents.iter().map(ObjectId::from).collect();
    for id in ids {
        if !parents.contains(&id) && objects.find(&id)?.is_none() {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// True if the file at `path` carries variables of a host other than `device`.
///
/// An inventory can be any folder, with folders in it, so `host_vars` counts wherever it is.
pub fn is_of_other_host(path: &str, device: &DeviceName) -> bool {
    let mut names = path.split('/').skip_while(|name| *name != "host_vars").skip(1);
    let Some(host) = names.next() else { return false };
    let stem = [".yml", ".yaml", ".json"].iter().find_map(|end| host.strip_suffix(end)).unwrap_or(host);
    stem != device.as_str()
}

#[derive(Default)]
struct List {
    ids: Vec<ObjectId>,
    seen: HashSet<ObjectId>,
}

impl List {
    fn add(&mut self, id: ObjectId) {
        if self.seen.insert(id) {
            self.ids.push(id);
        }
    }
}

/// The approvals of the commits in the list, which are still all that is in it but for rules.
fn add_approvals(objects: &dyn ObjectSource, list: &mut List) -> Result<(), ObjectError> {
    for id in list.ids.clone() {
        objects.approvals(&id.to_commit())?.into_iter().for_each(|tag| list.add(tag));
    }
    Ok(())
}

fn add_rules(objects: &dyn ObjectSource, root: &ObjectId, list: &mut List) -> Result<(), ObjectError> {
    list.add(*root);
    for path in [CONFIG_FILE, SIGNERS_FILE] {
        if let Some((folder, _)) = path.split_once('/')
            && let Some(entry) = entry_at(objects, root, folder)?
        {
            list.add(entry.id);
        }
        if let Some(entry) = entry_at(objects, root, path)?
            && matches!(entry.kind, EntryKind::File | EntryKind::Executable)
        {
            list.add(entry.id);
        }
    }
    Ok(())
}

/// Adds what differs between two folders at the same path. Equal ids at the same path are what
/// the device has already, because it was sent by the same rule.
fn add_changed(
    objects: &dyn ObjectSource,
    new: &ObjectId,
    old: Option<&ObjectId>,
    prefix: &str,
    device: &DeviceName,
    list: &mut List,
) -> Result<(), ObjectError> {
    if old == Some(new) {
        return Ok(());
    }
    list.add(*new);
    let before = match old {
        Some(old) => objects.tree(old)?,
        None => Tree::default(),
    };
    for entry in &objects.tree(new)?.entries {
        let path = join(prefix, &entry.name);
        let same = before.entry(&entry.name).filter(|before| before.kind == entry.kind);
        match entry.kind {
            EntryKind::Folder => {
                add_changed(objects, &entry.id, same.map(|same| &same.id), &path, device, list)?;
            }
            EntryKind::File | EntryKind::Executable | EntryKind::Symlink => {
                if same.is_none_or(|same| same.id != entry.id) && !is_of_other_host(&path, device) {
                    list.add(entry.id);
                }
            }
            // Another repository's commit is not in this one.
            EntryKind::Submodule => {}
        }
    }
    Ok(())
}

/// The commits that `want` reaches and `have` does not, newest first.
///
/// Walks both histories by commit time and stops when only commits of `have` are left. A wrong
/// clock can make the list longer than needed, never shorter.
fn between(
    objects: &dyn ObjectSource,
    want: &CommitId,
    have: &CommitId,
) -> Result<Vec<CommitId>, ObjectError> {
    let mut known: HashMap<CommitId, bool> = HashMap::new();
    let mut queue: BinaryHeap<(i64, CommitId)> = BinaryHeap::new();
    let mut waiting_wanted = 0usize;
    let mut found = Vec::new();
    for (id, is_old) in [(have, true), (want, false)] {
        if known.insert(id.clone(), is_old || known.get(id) == Some(&true)).is_none() {
            queue.push((objects.commit(id)?.committer.seconds, id.clone()));
            waiting_wanted += usize::from(!is_old);
        }
    }
    while waiting_wanted > 0 {
        let Some((_, id)) = queue.pop() else { break };
        let is_old = known[&id];
        if !is_old {
            waiting_wanted -= 1;
            found.push(id.clone());
        }
        for parent in objects.commit(&id)?.parents {
            match known.get(&parent).copied() {
                None => {
                    // The start of a shallow history: nothing to send from beyond it.
                    let Some(commit) = objects.find_commit(&parent)? else { continue };
                    queue.push((commit.committer.seconds, parent.clone()));
                    waiting_wanted += usize::from(!is_old);
                    known.insert(parent, is_old);
                }
                Some(false) if is_old => {
                    // Reached from the wanted side before; it counts no more as wanted.
                    if queue.iter().any(|(_, waiting)| *waiting == parent) {
                        waiting_wanted -= 1;
                    }
                    known.insert(parent, true);
                }
                Some(_) => {}
            }
        }
    }
    found.retain(|id| !known[id]);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_vars_of_others_are_known_by_their_path() {
        let device: DeviceName = "web.example.com".parse().unwrap();
        for mine in [
            "host_vars/web.example.com.yml",
            "host_vars/web.example.com/a.yml",
            "host_vars/web.example.com",
            "inventory/host_vars/web.example.com.yaml",
            "group_vars/all.yml",
            "hosts/host_vars/web.example.com.json",
            "hosts",
            "host_vars",
            "inventory/host_vars",
        ] {
            assert!(!is_of_other_host(mine, &device), "{mine}");
        }
        for other in [
            "host_vars/web.example.yml",
            "host_vars/web/secret.yml",
            "inventory/host_vars/other.json",
            "inventory/site-7/host_vars/other/vault.yml",
            "hosts/host_vars/other.yml",
            "hosts/host_vars/other/vault.yml",
            "roles/x/host_vars/other.yml",
            // The variables of a host whose name ends like a file.
            "host_vars/web.example.com.yml.yml",
        ] {
            assert!(is_of_other_host(other, &device), "{other}");
        }
    }
}
