//! The folder of checkpoints: which there are, which is armed, and who may undo it.
//!
//! Three calls decide everything, each atomic and under one lock: `armed.json` appears (the change
//! may begin), `armed.json` goes (confirmed, for ever), `undoing.json` appears (undone, for ever;
//! `armed.json` has no say any more). Whoever comes second accepts what is decided.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use volary_host::{
    FileError, Lock, LockError, create_dir, read, remove_if_exists, since_boot, sync_dir, write_atomic,
};

use volary_device::Target;
use volary_model::Slot;

use super::manifest::Manifest;
use crate::paths::Paths;
use volary_device::{Armed, Cause, Mode};

/// How long to wait for whoever holds the lock: an undo with packages may take a while.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

/// Why something in the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// It is not what this agent understands.
    #[error("{path} is not valid: {detail}")]
    Invalid {
        /// The file.
        path: String,
        /// What is wrong.
        detail: String,
    },
}

/// Who undid a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum By {
    /// The agent itself, when a step or the confirmation failed.
    Agent,
    /// The dead man's timer.
    Timer,
    /// The unit of the boot.
    Boot,
    /// A person.
    Person,
}

/// Why a change is undone, and what it hurt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// In a word.
    pub cause: Cause,
    /// The step that failed: `playbook`, `units`, `path`, …
    #[serde(default)]
    pub step: String,
    /// What failed in it: a task, a unit, a check.
    #[serde(default)]
    pub what: String,
    /// Its own words.
    #[serde(default)]
    pub message: String,
    /// The end of the journal of what failed.
    #[serde(default)]
    pub journal: String,
}

/// `undoing.json`: an undo that began and is repeated until it ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undoing {
    /// What was armed.
    pub armed: Armed,
    /// Who began it.
    pub by: By,
    /// Why.
    pub reason: Reason,
    /// True once the device was switched off and on as the last resort.
    #[serde(default)]
    pub rebooted: bool,
    /// True once it made the slot boot that the checkpoint was made in.
    #[serde(default)]
    pub switched: bool,
    /// How often it was begun.
    #[serde(default)]
    pub tries: u32,
}

/// The folder of checkpoints, with the lock in the hand.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    _lock: Lock,
}

impl Store {
    /// Opens it and waits for whoever works in it, an undo included.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(paths: &Paths) -> Result<Self, StoreError> {
        Self::open_within(paths, PATIENCE)
    }

    /// Opens it, and waits this long for whoever works in it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_within(paths: &Paths, patience: Duration) -> Result<Self, StoreError> {
        use std::os::unix::fs::PermissionsExt;
        let dir = paths.checkpoint();
        create_dir(&dir)?;
        // Contents of all files of /etc lie below.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
            .map_err(FileError::at("protect", &dir))?;
        let lock = Lock::acquire(&dir.join("lock"), patience)?;
        Ok(Self { dir, _lock: lock })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The folder of one checkpoint.
    pub fn folder(&self, id: &str) -> PathBuf {
        self.dir.join(id)
    }

    /// The checkpoints that are whole, oldest first.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = names(&self.dir)
            .into_iter()
            .filter(|name| is_id(name) && self.folder(name).join("manifest.json").exists())
            .collect();
        ids.sort();
        ids
    }

    /// A name that none had before, later in the order of names than all.
    pub fn next_id(&self) -> String {
        let taken = names(&self.dir).into_iter().filter(|name| is_id(name));
        let last = taken.filter_map(|name| name.parse::<u64>().ok()).max().unwrap_or(0);
        format!("{:010}", last + 1)
    }

    /// Reads one checkpoint.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn manifest(&self, id: &str) -> Result<Manifest, StoreError> {
        let path = self.folder(id).join("manifest.json");
        parse(&path, &read(&path)?)
    }

    /// The armed checkpoint.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn armed(&self) -> Result<Option<Armed>, StoreError> {
        load(&self.dir.join("armed.json"))
    }

    /// The undo that began and did not end.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn undoing(&self) -> Result<Option<Undoing>, StoreError> {
        load(&self.dir.join("undoing.json"))
    }

    /// Arms, or moves the deadline of what is armed.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn arm(&self, armed: &Armed) -> Result<(), StoreError> {
        save(&self.dir.join("armed.json"), armed)
    }

    /// The commit point: what was changed stays. False if somebody else began to undo it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn disarm(&self, id: &str) -> Result<bool, StoreError> {
        let ours = self.armed()?.is_some_and(|armed| armed.checkpoint == id);
        if !ours || self.undoing()?.is_some() {
            return Ok(false);
        }
        self.forget_armed()?;
        Ok(true)
    }

    /// Takes what is armed for an undo. From here on it is undone, by whoever comes. `None` if it
    /// was confirmed before; an undo that began already is given back as it is.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn claim(&self, by: By, reason: Reason) -> Result<Option<Undoing>, StoreError> {
        if let Some(begun) = self.undoing()? {
            return Ok(Some(begun));
        }
        let Some(armed) = self.armed()? else { return Ok(None) };
        let undoing = Undoing { armed, by, reason, rebooted: false, switched: false, tries: 0 };
        self.note(&undoing)?;
        self.forget_armed()?;
        Ok(Some(undoing))
    }

    fn forget_armed(&self) -> Result<(), StoreError> {
        remove_if_exists(&self.dir.join("armed.json"))?;
        Ok(sync_dir(&self.dir)?)
    }

    /// Begins the undo of a checkpoint that was confirmed before: a person wants it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn claim_confirmed(&self, id: &str, target: &Target, reason: Reason) -> Result<Undoing, StoreError> {
        let armed = Armed {
            version: 1,
            checkpoint: id.to_owned(),
            target: target.clone(),
            mode: Mode::Confirming,
            grace: 0,
            deadline: boot_seconds(),
            latest: boot_seconds(),
            boot: volary_host::boot_id(),
            boots: 0,
            path_worked: false,
        };
        let undoing = Undoing { armed, by: By::Person, reason, rebooted: false, switched: false, tries: 0 };
        self.note(&undoing)?;
        Ok(undoing)
    }

    /// Writes down how far an undo came.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn note(&self, undoing: &Undoing) -> Result<(), StoreError> {
        save(&self.dir.join("undoing.json"), undoing)
    }

    /// Ends an undo: how it went, and then that it is over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn end(&self, undone: &impl Serialize) -> Result<(), StoreError> {
        save(&self.dir.join("undone.json"), undone)?;
        // First what a crash may have left beside it: alone it would be undone once more.
        self.forget_armed()?;
        remove_if_exists(&self.dir.join("undoing.json"))?;
        Ok(sync_dir(&self.dir)?)
    }

    /// Removes the checkpoints that were made in a slot whose content is gone. What is armed or being
    /// undone was made in the slot that runs.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn forget_slot(&self, slot: Slot) -> Result<(), StoreError> {
        let ids = self.ids();
        let stays = |id: &&String| self.manifest(id).is_ok_and(|manifest| manifest.slot != Some(slot));
        let keep: Vec<&str> = ids.iter().filter(stays).map(String::as_str).collect();
        if keep.len() == ids.len() { Ok(()) } else { self.prune(&keep) }
    }

    /// Removes checkpoints but those in `keep`, and contents that none of these has. What is
    /// armed or being undone stays in any case.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn prune(&self, keep: &[&str]) -> Result<(), StoreError> {
        let armed = self.armed()?.map(|armed| armed.checkpoint);
        let undoing = self.undoing()?.map(|undoing| undoing.armed.checkpoint);
        let stays =
            |id: &str| keep.contains(&id) || armed.as_deref() == Some(id) || undoing.as_deref() == Some(id);
        for id in names(&self.dir).into_iter().filter(|name| is_id(name) && !stays(name)) {
            let folder = self.folder(&id);
            fs::remove_dir_all(&folder).map_err(FileError::at("remove", &folder))?;
        }
        let mut used = std::collections::BTreeSet::new();
        for id in self.ids() {
            used.extend(super::blobs::of(&self.manifest(&id)?));
        }
        Ok(super::blobs::prune(&self.dir.join("blobs"), &used)?)
    }
}

/// Milliseconds of the boot clock.
pub fn boot_ms() -> u64 {
    u64::try_from(since_boot().as_millis()).unwrap_or(u64::MAX)
}

/// Whole seconds of the boot clock.
pub fn boot_seconds() -> u64 {
    since_boot().as_secs()
}

/// Reads `armed.json` without the lock, for those who only look.
pub fn peek_armed(paths: &Paths) -> Option<Armed> {
    load(&paths.checkpoint().join("armed.json")).ok().flatten()
}

/// Reads `undoing.json` without the lock, for those who only look.
pub fn peek_undoing(paths: &Paths) -> Option<Undoing> {
    load(&paths.checkpoint().join("undoing.json")).ok().flatten()
}

fn is_id(name: &str) -> bool {
    name.len() == 10 && name.bytes().all(|byte| byte.is_ascii_digit())
}

fn names(dir: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}

/// Reads a file of JSON; `None` if it is not there.
pub(crate) fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, StoreError> {
    match read(path) {
        Ok(bytes) => parse(path, &bytes).map(Some),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn parse<T: DeserializeOwned>(path: &Path, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes)
        .map_err(|error| StoreError::Invalid { path: path.display().to_string(), detail: error.to_string() })
}

fn save(path: &Path, value: &impl Serialize) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(value).expect("what the agent remembers is JSON");
    Ok(write_atomic(path, &bytes, 0o600)?)
}
