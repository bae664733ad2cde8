//! The forward counter: which commits this device accepted, kept in two folders beside the ledger.
//!
//! A device that forgets how far it went would take an older signed commit. So the record stands
//! in `/etc/volary` and in `/var/backups`, apart from the ledger in `/var/lib/volary`: whoever
//! empties one or two of the three does not make the device forget. Each says after how many writes
//! of the ledger it was made, and the furthest counts.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use volary_device::State;
use volary_host::{FileError, create_dir, read, write_atomic};
use volary_model::{CommitId, Digest, StageName};

use crate::log;
use crate::paths::Paths;

/// What a device accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    version: u32,
    /// The number of the ledger's write that it was made for.
    #[serde(default)]
    at: u64,
    /// The fleet: the SHA-256 of its authority's certificate. What was accepted of another fleet
    /// says nothing about this one.
    #[serde(default)]
    fleet: Option<Digest>,
    accepted: BTreeMap<StageName, CommitId>,
    trusted: Option<CommitId>,
}

/// What the folders hold.
#[derive(Debug)]
pub struct Found {
    /// The furthest record of this fleet.
    pub best: Option<Accepted>,
    /// True if every folder holds exactly that one.
    pub whole: bool,
}

/// A record is there and cannot be read, and no other one is. Going on without it could let a
/// server send the device back in time.
#[derive(Debug, thiserror::Error)]
#[error(
    "{path} is damaged: it says which commits this device accepted; restore it, or remove it if the \
     ledger in /var/lib/volary is whole"
)]
pub struct Damaged {
    path: String,
}

/// Why the records cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AcceptedError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// All that are there are damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
}

impl Accepted {
    /// The record of a state, made for this write of the ledger.
    pub fn of(state: &State, at: u64, fleet: Option<Digest>) -> Self {
        Self { version: 2, at, fleet, accepted: state.accepted.clone(), trusted: state.trusted.clone() }
    }

    /// The number of the ledger's write that it was made for.
    pub const fn at(&self) -> u64 {
        self.at
    }

    /// True if it says of a state what is so.
    pub fn tells(&self, state: &State) -> bool {
        self.accepted == state.accepted && self.trusted == state.trusted
    }

    /// True if it knows of a commit at all.
    pub fn is_empty(&self) -> bool {
        self.accepted.is_empty()
    }

    /// Makes a state remember.
    pub fn remind(&self, state: &mut State) {
        state.accepted.clone_from(&self.accepted);
        state.trusted.clone_from(&self.trusted);
    }

    /// Writes it into every folder. One folder that takes no writes is survived: the other has it.
    ///
    /// # Errors
    /// [`FileError`] if none could be written.
    pub fn save(&self, paths: &Paths) -> Result<(), FileError> {
        let bytes = serde_json::to_vec(self).expect("a record of commits is text");
        let write = |path: &Path| {
            create_dir(path.parent().expect("a record has a folder"))?;
            write_atomic(path, &bytes, 0o644)
        };
        let mut written = false;
        let mut trouble = None;
        for path in paths.accepted() {
            match write(&path) {
                Ok(()) => written = true,
                Err(error) => trouble = Some(error),
            }
        }
        match trouble {
            None => Ok(()),
            Some(error) if written => {
                log::say(format!("what was accepted is recorded in one place only: {error}"));
                Ok(())
            }
            Some(error) => Err(error),
        }
    }
}

/// Reads the records and finds the furthest one of this fleet.
///
/// # Errors
/// [`AcceptedError`].
pub fn load(paths: &Paths, fleet: Option<Digest>) -> Result<Found, AcceptedError> {
    let mut records = Vec::new();
    let mut damaged = None;
    let places = paths.accepted();
    for path in &places {
        match read(path) {
            Ok(bytes) => match serde_json::from_slice::<Accepted>(&bytes) {
                Ok(record) => records.push(record),
                Err(_) => damaged = Some(Damaged { path: path.display().to_string() }),
            },
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.into()),
        }
    }
    let of_this_fleet = |record: &Accepted| {
        // Records of agents before 2026-11-26 do not say which fleet they are of.
        record.fleet.is_none() || fleet.is_none() || record.fleet == fleet
    };
    let read = records.len();
    records.retain(of_this_fleet);
    let best = records.iter().max_by_key(|record| record.at).cloned();
    match (best, damaged) {
        (None, Some(damaged)) if read == 0 => Err(damaged.into()),
        (best, damaged) => {
            let whole = damaged.is_none()
                && records.len() == places.len()
                && records.iter().all(|record| Some(record) == best.as_ref());
            Ok(Found { best, whole })
        }
    }
}

/// What names the fleet of a device that is enrolled.
///
/// # Errors
/// [`FileError`] if the authority's certificate is there and cannot be read.
pub fn fleet(paths: &Paths) -> Result<Option<Digest>, FileError> {
    match read(&paths.ca()) {
        Ok(bytes) => Ok(Some(Digest::from_bytes(Sha256::digest(bytes.trim_ascii()).into()))),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
