//! What is in the other slot, as far as it is known to be on the disk: `slots/install.json`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use volary_device::Image;
use volary_host::{create_dir, write_atomic};
use volary_model::{Digest, Slot};

use super::SlotsError;
use super::hash::Running;
use crate::paths::Paths;

/// The record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// The version of this format: 1.
    pub version: u32,
    /// The artifact that goes into the slot.
    pub artifact: Digest,
    /// The root file system in it.
    pub rootfs: Digest,
    /// The slot.
    pub into: Slot,
    /// How far it got.
    pub progress: Progress,
}

/// How far an image got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Progress {
    /// It is written; what is there of it may be anything.
    Writing {
        /// Where to go on, once that is known.
        mark: Option<Mark>,
    },
    /// It was read back and is what the fleet pinned. Nothing was changed in it since.
    Verified {
        /// The length of the root file system.
        length: u64,
    },
    /// It was verified, and then changed: what must survive is carried over, or it ran.
    Used,
}

/// Where an artifact can be read on from, after its reader was lost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Bytes of the artifact before it.
    pub at: u64,
    /// Bytes of the unpacked payload archive before it.
    pub unpacked: u64,
    /// The hash of the artifact up to it.
    pub hash: Running,
    /// Where the payload's member begins and ends in the artifact.
    pub member: (u64, u64),
    /// Where the root file system begins in the unpacked payload archive, and its length.
    pub file: (u64, u64),
    /// The hash of everything before the payload's member.
    pub front: Digest,
}

impl Journal {
    /// `None` if there is none, or none that this agent understands: then it begins anew.
    pub fn load(paths: &Paths) -> Option<Self> {
        let bytes = volary_host::read(&path(paths)).ok()?;
        let journal: Self = serde_json::from_slice(&bytes).ok()?;
        (journal.version == 1).then_some(journal)
    }

    /// A record for an image of which nothing is there.
    pub fn begin(image: &Image) -> Self {
        Self {
            version: 1,
            artifact: image.artifact,
            rootfs: image.rootfs,
            into: image.into,
            progress: Progress::Writing { mark: None },
        }
    }

    /// True if it tells of this image.
    pub fn is_of(&self, image: &Image) -> bool {
        self.artifact == image.artifact && self.rootfs == image.rootfs && self.into == image.into
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn save(&self, paths: &Paths) -> Result<(), SlotsError> {
        let path = path(paths);
        #[cfg(test)]
        super::fuse::step().map_err(volary_host::FileError::at("write", &path))?;
        create_dir(&paths.slots_state())?;
        let bytes = serde_json::to_vec(self).expect("a journal is JSON");
        Ok(write_atomic(&path, &bytes, 0o600)?)
    }
}

fn path(paths: &Paths) -> PathBuf {
    paths.slots_state().join("install.json")
}
