//! One device's own part of the repository, on that device: which objects it needs, which are missing,
//! and its files on disk. Not here: making packs for many devices (`Packer`).

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use volary_model::{CommitId, DeviceName};

use crate::checkout::{self, CheckoutError, CheckoutSummary};
use crate::object::{ObjectError, ObjectId, ObjectSource};
use crate::selection::{Inventories, Selection};
use crate::transfer;

/// A device has to do with the commit that it is at, the next one, and those of another stage.
const KEPT: usize = 4;

/// What is a device's own. The inventory of a commit is read once: it is named by its content, so
/// that what it says about the device never changes.
#[derive(Debug)]
pub struct Own {
    device: DeviceName,
    known: Mutex<Vec<(ObjectId, Arc<Selection>)>>,
}

impl Own {
    /// What is this device's.
    pub const fn new(device: DeviceName) -> Self {
        Self { device, known: Mutex::new(Vec::new()) }
    }

    /// As [`crate::device_objects`].
    ///
    /// # Errors
    /// [`ObjectError`] if an object cannot be read.
    pub fn objects(
        &self,
        objects: &dyn ObjectSource,
        want: &CommitId,
        have: Option<&CommitId>,
    ) -> Result<Vec<ObjectId>, ObjectError> {
        transfer::choose(objects, want, have, &|tree| self.selection(objects, tree))
    }

    /// As [`crate::missing_for_device`].
    ///
    /// # Errors
    /// [`ObjectError`] but for missing objects.
    pub fn missing(
        &self,
        objects: &dyn ObjectSource,
        want: &CommitId,
    ) -> Result<Option<ObjectId>, ObjectError> {
        transfer::missing(objects, want, self.objects(objects, want, None))
    }

    /// As [`crate::checkout`] for the device.
    ///
    /// # Errors
    /// [`CheckoutError`]; the folder may then be partly changed.
    pub fn checkout(
        &self,
        objects: &dyn ObjectSource,
        tree: &ObjectId,
        dest: &Path,
    ) -> Result<CheckoutSummary, CheckoutError> {
        checkout::selected(objects, tree, dest, Some(self.selection(objects, tree)?))
    }

    fn selection(&self, objects: &dyn ObjectSource, tree: &ObjectId) -> Result<Arc<Selection>, ObjectError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = known.iter().position(|(id, _)| id == tree) {
            // The one that was asked for last is the last to go.
            let found = known.remove(at);
            known.push(found.clone());
            return Ok(found.1);
        }
        let read = Arc::new(Selection::of(objects, tree, &self.device, &Inventories::default())?);
        if known.len() == KEPT {
            known.remove(0);
        }
        known.push((*tree, Arc::clone(&read)));
        Ok(read)
    }
}
