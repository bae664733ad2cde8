//! What one device needs of a fleet, as a folder of plain files: for a USB stick, or any web server.
//!
//! ```text
//! volary-fleet.json     where each stage is, and which tags approve which commit
//! objects/ab/cdef…      git's loose objects
//! ```
//!
//! The index proves nothing: a device checks what it finds as it checks what a server sends. There is
//! a folder for each device, since none gets the variables of others. Not here: how a device reaches
//! the folder.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use volary_model::{CommitId, DeviceName, StageName};

use crate::loose::LooseStore;
use crate::object::{Object, ObjectError, ObjectId, ObjectSource, ReadObjects};
use crate::pack::PackLimits;
use crate::step::first_parents;
use crate::transfer::device_objects;

/// The name of the index.
pub const MIRROR_FILE: &str = "volary-fleet.json";

/// The folder with the objects.
pub const MIRROR_OBJECTS: &str = "objects";

/// How far back a branch is followed: more commits than any stage has.
const HISTORY: usize = 100_000;

/// The index of the folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorIndex {
    /// The version of this format: 1.
    pub version: u32,
    /// The device that it is for.
    pub device: DeviceName,
    /// Where each stage is.
    pub stages: BTreeMap<StageName, CommitId>,
    /// The ids of tags that approve a commit.
    #[serde(default)]
    pub approvals: BTreeMap<CommitId, Vec<String>>,
}

/// What a folder holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MirrorSummary {
    /// Its objects.
    pub objects: usize,
    /// Those of them that were not there before.
    pub new: usize,
}

impl MirrorIndex {
    /// The tags that may approve a commit.
    pub fn approvals_of(&self, commit: &CommitId) -> Vec<ObjectId> {
        let tags = self.approvals.get(commit).into_iter().flatten();
        tags.filter_map(|tag| tag.parse().ok()).collect()
    }
}

/// Writes what `device` needs to follow any of the stages, from whatever commit it is at. What is
/// there already is kept, what nobody needs any more goes; a reader finds the old or the new state.
///
/// # Errors
/// [`ObjectError`].
pub fn write_mirror(
    objects: &dyn ObjectSource,
    stages: &BTreeMap<StageName, CommitId>,
    device: &DeviceName,
    folder: &Path,
) -> Result<MirrorSummary, ObjectError> {
    let mut ids: BTreeSet<ObjectId> = BTreeSet::new();
    for tip in stages.values() {
        ids.extend(device_objects(objects, tip, None, device)?);
        // And the way there from the beginning: commits with their rules are small.
        if let Some(first) = first_parents(objects, tip, HISTORY)?.last() {
            ids.extend(device_objects(objects, tip, Some(&first.id), device)?);
        }
    }
    let store = LooseStore::open(&folder.join(MIRROR_OBJECTS))?;
    let mut approvals: BTreeMap<CommitId, Vec<String>> = BTreeMap::new();
    let mut new = 0;
    for id in &ids {
        // The parents of a first commit are named and not always there.
        let Some(object) = objects.find(id)? else { continue };
        if store.find(id)?.is_none() {
            new += 1;
            store.insert(&object)?;
        }
        let commit = id.to_commit();
        let tags = objects.approvals(&commit)?;
        if !tags.is_empty() {
            approvals.insert(commit, tags.iter().map(ToString::to_string).collect());
        }
    }
    let index = MirrorIndex { version: 1, device: device.clone(), stages: stages.clone(), approvals };
    let text = serde_json::to_string_pretty(&index).expect("an index is text") + "\n";
    volary_host::write_atomic(&folder.join(MIRROR_FILE), text.as_bytes(), 0o644)?;
    store.retain(&|id| ids.contains(id))?;
    Ok(MirrorSummary { objects: ids.len(), new })
}

/// Copies into a device's own store what it needs to go from `have` to `want`, and is not there yet.
/// Every object is proven by its hash on the way, and asked for once.
///
/// # Errors
/// [`ObjectError`].
pub fn copy_for_device(
    from: &dyn ObjectSource,
    into: &LooseStore,
    want: &CommitId,
    have: Option<&CommitId>,
    device: &DeviceName,
) -> Result<(), ObjectError> {
    let filling = Filling { store: into, from, left: Cell::new(PackLimits::default()) };
    let mut parents: HashSet<ObjectId> = HashSet::new();
    if have.is_none() {
        parents.extend(filling.commit(want)?.parents.iter().map(ObjectId::from));
    }
    for id in device_objects(&filling, want, have, device)? {
        // As with a server: a history may begin here.
        if filling.find(&id)?.is_none() && !parents.contains(&id) {
            return Err(ObjectError::Missing { id });
        }
    }
    Ok(())
}

/// A store that gets what it does not have from somewhere else, as it is read.
struct Filling<'a> {
    store: &'a LooseStore,
    from: &'a dyn ObjectSource,
    /// How much more may come: no more than of a server, which is not trusted either.
    left: Cell<PackLimits>,
}

impl Filling<'_> {
    fn count(&self, id: &ObjectId, object: &Object) -> Result<(), ObjectError> {
        let size = object.data.len() as u64;
        let left = self.left.get();
        match (left.count.checked_sub(1), left.total.checked_sub(size)) {
            (Some(count), Some(total)) => {
                self.left.set(PackLimits { count, total, ..left });
                Ok(())
            }
            (None, _) | (_, None) => Err(ObjectError::TooLarge { id: *id, size }),
        }
    }
}

impl ObjectSource for Filling<'_> {
    fn load(&self, id: &ObjectId) -> Result<Option<Object>, ObjectError> {
        if let Some(object) = self.store.load(id)? {
            return Ok(Some(object));
        }
        let found = self.from.find(id)?;
        if let Some(object) = &found {
            self.count(id, object)?;
            self.store.insert(object)?;
        }
        Ok(found)
    }

    fn approvals(&self, of: &CommitId) -> Result<Vec<ObjectId>, ObjectError> {
        let mut tags = self.store.approvals(of)?;
        for tag in self.from.approvals(of)? {
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }
}
