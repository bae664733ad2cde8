//! Which objects a device needs to go from one commit to another, and nothing that is not its own.
//!
//! A device gets everything to *verify* each step in between (commits, their signers and rules)
//! and everything to *apply* the last one, but no variables of others: `selection` says which are.

use std::collections::{BinaryHeap, HashMap, HashSet};
use std::sync::Arc;

use volary_model::{CommitId, DeviceName};

use crate::object::{ObjectError, ObjectId, ObjectKind, ObjectSource, ReadObjects};
use crate::pack::{PackError, write_pack};
use crate::rules::{CONFIG_FILE, SIGNERS_FILE};
use crate::selection::{Inventories, Selection};
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
    Packer::default().objects(objects, want, have, device)
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
    Packer::default().pack(objects, want, have, device)
}

/// Makes packs for many devices of one repository, and reads an inventory once for all of them.
#[derive(Debug, Default)]
pub struct Packer {
    inventories: Inventories,
}

impl Packer {
    /// As [`pack_for_device`].
    ///
    /// # Errors
    /// [`PackError::Object`] if an object cannot be read.
    pub fn pack(
        &self,
        objects: &dyn ObjectSource,
        want: &CommitId,
        have: Option<&CommitId>,
        device: &DeviceName,
    ) -> Result<Vec<u8>, PackError> {
        let ids = self.objects(objects, want, have, device)?;
        let mut bytes = Vec::new();
        write_pack(objects, &ids, &mut bytes)?;
        Ok(bytes)
    }

    fn objects(
        &self,
        objects: &dyn ObjectSource,
        want: &CommitId,
        have: Option<&CommitId>,
        device: &DeviceName,
    ) -> Result<Vec<ObjectId>, ObjectError> {
        choose(objects, want, have, &|tree| {
            Selection::of(objects, tree, device, &self.inventories).map(Arc::new)
        })
    }
}

/// As [`device_objects`], for the device that `selection` knows: it is given the root of a commit.
pub(crate) fn choose(
    objects: &dyn ObjectSource,
    want: &CommitId,
    have: Option<&CommitId>,
    selection: &dyn Fn(&ObjectId) -> Result<Arc<Selection>, ObjectError>,
) -> Result<Vec<ObjectId>, ObjectError> {
    let wanted = objects.commit(want)?;
    let known = match have.map(|have| objects.find_commit(have)).transpose() {
        Ok(known) => known.flatten(),
        // The id of a file or folder is that of no commit that anybody has.
        Err(ObjectError::Malformed { expected: ObjectKind::Commit, .. }) => None,
        Err(error) => return Err(error),
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
    let mut changes = Changes { objects, new: selection(&wanted.tree)?, old: None, list };
    let old = match &known {
        Some(known) => {
            changes.old = Some(selection(&known.tree)?);
            Some(&known.tree)
        }
        None => None,
    };
    changes.add(&wanted.tree, old, "")?;
    Ok(changes.list.ids)
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
    missing(objects, want, device_objects(objects, want, None, device))
}

/// The first of these objects of `want` that is missing.
pub(crate) fn missing(
    objects: &dyn ObjectSource,
    want: &CommitId,
    ids: Result<Vec<ObjectId>, ObjectError>,
) -> Result<Option<ObjectId>, ObjectError> {
    let ids = match ids {
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

/// What a device needs of a commit and does not have of another one.
struct Changes<'a> {
    objects: &'a dyn ObjectSource,
    new: Arc<Selection>,
    /// Of the commit that the device has.
    old: Option<Arc<Selection>>,
    list: List,
}

impl Changes<'_> {
    /// Adds what differs between two folders at the same path that both concern the device. Equal ids
    /// at the same path are what it has already, because it was sent by the same rule.
    fn add(&mut self, new: &ObjectId, old: Option<&ObjectId>, prefix: &str) -> Result<(), ObjectError> {
        if old == Some(new) {
            if self.old.as_ref() == Some(&self.new) {
                return Ok(());
            }
        } else {
            self.list.add(*new);
        }
        let before = match old {
            Some(old) => self.objects.tree(old)?,
            None => Tree::default(),
        };
        for entry in &self.objects.tree(new)?.entries {
            let path = join(prefix, &entry.name);
            let is_folder = entry.kind == EntryKind::Folder;
            if !self.new.wants(&path, is_folder) {
                continue;
            }
            let had = self.old.as_ref().is_some_and(|old| old.wants(&path, is_folder));
            let same = before.entry(&entry.name).filter(|before| had && before.kind == entry.kind);
            match entry.kind {
                EntryKind::Folder => self.add(&entry.id, same.map(|same| &same.id), &path)?,
                EntryKind::File | EntryKind::Executable | EntryKind::Symlink => {
                    if same.is_none_or(|same| same.id != entry.id) {
                        self.list.add(entry.id);
                    }
                }
                // Another repository's commit is not in this one.
                EntryKind::Submodule => {}
            }
        }
        Ok(())
    }
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
