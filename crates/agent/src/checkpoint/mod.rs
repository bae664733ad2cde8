//! What a device saves before a change so that it can go back, and who may undo the change.
//!
//! `docs/decisions/2026-11-26-confirm-or-undo.md` says what is on disk and which call decides
//! what. [`take`] saves, [`arm`] starts the dead man's timer, [`Lifeline`] moves its deadline while
//! the path to the server works, [`confirming`] sets it for the last time, and [`disarm`] is the
//! commit point. Not here: putting anything back (`undo`), and the rescue itself (`rescue`).

pub mod blobs;
pub mod boot;
pub mod files;
pub mod keep;
mod lifeline;
pub mod manifest;
pub mod network;
pub mod packages;
mod repack;
pub mod state;
pub mod store;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_host::{CmdError, FileError, create_dir, remove_if_exists, write_atomic};

pub use lifeline::Lifeline;
use manifest::{Manifest, PathWas, VERSION};
use store::{Store, StoreError, boot_seconds};
use volary_device::Target;
use volary_model::{CommitId, Slot};

use crate::answers::Answers;
use crate::log;
use crate::paths::Paths;
use volary_device::{Armed, Mode};

/// How long after the time to confirm the change is undone from outside: the agent itself is given
/// this long to do it, or to say that all is well.
const MARGIN: Duration = Duration::from_secs(60);

/// Room that is left on the disk beyond what a checkpoint takes.
const ROOM: u64 = 8 << 20;

/// Given up when the disk is full: an undo writes files and unpacks packages.
const RESERVE: u64 = 16 << 20;

/// What a checkpoint is taken for.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// What the change goes for.
    pub target: Target,
    /// The slot that runs; `None` on a device without slots.
    pub slot: Option<Slot>,
    /// True if the change puts an image into the other slot.
    pub image: bool,
    /// Folders that the fleet names beside ours.
    pub trees: Vec<PathBuf>,
    /// The way to the server.
    pub path: PathWas,
}

/// Why there is no checkpoint, so that nothing is changed.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The folder of checkpoints.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A program.
    #[error(transparent)]
    Cmd(#[from] CmdError),
    /// The last change is not undone yet.
    #[error("the change to commit {} is being undone; it is waited for", .0.short())]
    Undoing(CommitId),
    /// The disk is full.
    #[error(
        "a checkpoint needs {needed} MiB on the disk of {dir} and {free} MiB are free; make room, \
         nothing was changed"
    )]
    Full {
        /// What it takes.
        needed: u64,
        /// What there is.
        free: u64,
        /// Where.
        dir: String,
    },
}

/// Saves what the device is. Nothing is armed yet.
///
/// # Errors
/// [`CheckpointError`].
pub fn take(paths: &Paths, wanted: &Wanted, answers: &Answers) -> Result<Manifest, CheckpointError> {
    let store = Store::open(paths)?;
    if let Some(undoing) = store.undoing()? {
        return Err(CheckpointError::Undoing(undoing.armed.target.commit));
    }
    let ids = store.ids();
    // One that cannot be read only costs that all files are read again.
    let last = ids.last().and_then(|id| store.manifest(id).ok());
    let known = files::Known::from(last.as_ref());
    // What is still armed was armed for this same convergence, before it was cut off: it knows the
    // device as it was before any change.
    if let Some(armed) = store.armed()? {
        return Ok(store.manifest(&armed.checkpoint)?);
    }
    let clock = state::clock();
    let trees = files::trees(&wanted.trees);
    let mut found = files::walk(paths, &trees);
    make_room(&store, files::to_read(&found, &known))?;
    let blobs = store.dir().join("blobs");
    create_dir(&blobs)?;
    let files = files::keep(paths, &mut found, &known, &blobs)?;
    // Without apt there are no marks.
    let marked =
        if paths.is_device() { answers.marked(paths.dpkg()).unwrap_or_default() } else { String::new() };
    let packages = packages::of(&answers.listed(paths.dpkg())?, &marked);
    let id = store.next_id();
    let manifest = Manifest {
        version: VERSION,
        id: id.clone(),
        target: wanted.target.clone(),
        clock,
        slot: wanted.slot,
        image: wanted.image,
        path: wanted.path.clone(),
        trees: trees.into_iter().map(Into::into).collect(),
        files,
        left_out: found.left_out,
        packages: packages.installed,
        manual: packages.manual,
        held: packages.held,
        units: if paths.is_device() { state::units()? } else { Default::default() },
        network: paths.is_device().then(network::look),
        memory_was_free: state::memory_is_free(),
    };
    let folder = store.folder(&id);
    create_dir(&folder.join("packages"))?;
    copy_ledger(paths, &folder)?;
    blobs::flush(store.dir())?;
    let bytes = serde_json::to_vec(&manifest).expect("a manifest is JSON");
    write_atomic(&folder.join("manifest.json"), &bytes, 0o600)?;
    Ok(manifest)
}

/// The ledger as it is now: an older agent that is put back may not read what a newer one writes.
fn copy_ledger(paths: &Paths, folder: &Path) -> Result<(), FileError> {
    for slot in 0..2 {
        match volary_host::read(&paths.ledger(slot)) {
            Ok(bytes) => write_atomic(&folder.join(format!("ledger.{slot}")), &bytes, 0o600)?,
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Makes sure that a checkpoint of this many bytes fits, and that there is a reserve for the undo.
fn make_room(store: &Store, bytes: u64) -> Result<(), CheckpointError> {
    let free = free_at(store.dir());
    if free < bytes + ROOM {
        return Err(CheckpointError::Full {
            needed: (bytes + ROOM).div_ceil(1 << 20),
            free: free >> 20,
            dir: store.dir().display().to_string(),
        });
    }
    let reserve = store.dir().join("reserve");
    // On a small or nearly full disk a smaller one is better than none.
    let size = RESERVE.min((free - bytes) / 4);
    if std::fs::metadata(&reserve).is_ok_and(|meta| meta.len() >= size) {
        return Ok(());
    }
    let made = File::create(&reserve).and_then(|file| {
        use rustix::fs::FallocateFlags;
        Ok(rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, size)?)
    });
    if let Err(error) = made {
        log::say(format!("no reserve for an undo on a full disk: {error}"));
    }
    Ok(())
}

/// Bytes that root can still write where `dir` is.
pub fn free_at(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map(|stat| stat.f_bfree * stat.f_frsize).unwrap_or(0)
}

/// Gives up the reserve.
pub fn release_reserve(paths: &Paths) {
    let _ = remove_if_exists(&paths.checkpoint().join("reserve"));
}

/// How long a change may take.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// How long it is watched before it counts as good.
    pub confirm: Duration,
    /// How long it may be applied at most.
    pub run: Duration,
}

/// From here on the change is undone unless it is confirmed. The grace is the time to confirm
/// and a minute.
///
/// # Errors
/// [`CheckpointError`]; then nothing may be changed.
pub fn arm(paths: &Paths, manifest: &Manifest, times: Times) -> Result<(), CheckpointError> {
    let store = Store::open(paths)?;
    if let Some(undoing) = store.undoing()? {
        return Err(CheckpointError::Undoing(undoing.armed.target.commit));
    }
    if paths.is_device() {
        boot::copy_program(paths)?;
        boot::install(paths)?;
    }
    let grace = times.confirm + MARGIN;
    let armed = Armed {
        version: 1,
        checkpoint: manifest.id.clone(),
        target: manifest.target.clone(),
        mode: Mode::Applying,
        grace: grace.as_secs(),
        deadline: boot_seconds() + grace.as_secs(),
        latest: boot_seconds() + (times.run + grace).as_secs(),
        boot: volary_host::boot_id(),
        boots: 0,
        path_worked: manifest.path.worked,
    };
    store.arm(&armed)?;
    boot::start_timer(paths, &manifest.id, grace)?;
    Ok(())
}

/// Moves the deadline to now and the grace, while the change is applied.
///
/// # Errors
/// [`StoreError`].
pub fn prove(paths: &Paths) -> Result<(), StoreError> {
    let store = Store::open_within(paths, Duration::from_secs(5))?;
    let Some(armed) = store.armed()?.filter(|armed| armed.mode == Mode::Applying) else { return Ok(()) };
    if store.undoing()?.is_some() {
        return Ok(());
    }
    let deadline = boot_seconds().saturating_add(armed.grace).min(armed.latest);
    store.arm(&Armed { deadline, boot: volary_host::boot_id(), ..armed })
}

/// The change is applied; the deadline is set for the last time. Begun again after a crash, it
/// stays where it was.
///
/// # Errors
/// [`StoreError`].
pub fn confirming(paths: &Paths, confirm_within: Duration) -> Result<(), StoreError> {
    let store = Store::open(paths)?;
    let Some(armed) = store.armed()?.filter(|armed| armed.mode == Mode::Applying) else { return Ok(()) };
    let grace = confirm_within + MARGIN;
    store.arm(&Armed {
        mode: Mode::Confirming,
        grace: grace.as_secs(),
        deadline: boot_seconds() + grace.as_secs(),
        boot: volary_host::boot_id(),
        ..armed
    })
}

/// True if a change waits to be confirmed.
pub fn is_armed(paths: &Paths) -> bool {
    store::peek_armed(paths).is_some()
}

/// Where the playbook's plugin writes what is made and changed, if a checkpoint is armed.
pub fn made_file(paths: &Paths) -> Option<PathBuf> {
    let armed = store::peek_armed(paths)?;
    Some(paths.checkpoint().join(armed.checkpoint).join("made.jsonl"))
}

/// How much of the time to confirm is left; `None` if nothing is armed any more.
pub fn remaining(paths: &Paths) -> Option<Duration> {
    let armed = store::peek_armed(paths)?;
    if store::peek_undoing(paths).is_some() || armed.boot != volary_host::boot_id() {
        return None;
    }
    let left = Duration::from_secs(armed.deadline.saturating_sub(boot_seconds()));
    Some(left.saturating_sub(MARGIN))
}

/// The commit point: the change stays. False if it is being undone, or was. Of the checkpoints
/// stays the one before the last change, for `volary-agent revert`.
///
/// # Errors
/// [`StoreError`].
pub fn disarm(paths: &Paths, changed: bool) -> Result<bool, StoreError> {
    let store = Store::open(paths)?;
    let Some(armed) = store.armed()? else { return Ok(false) };
    if !store.disarm(&armed.checkpoint)? {
        return Ok(false);
    }
    boot::stop_timer(paths);
    let ids = store.ids();
    let before = ids.iter().rfind(|id| **id != armed.checkpoint);
    // A convergence that changed nothing is nothing to go back from.
    let keep = if changed { &armed.checkpoint } else { before.unwrap_or(&armed.checkpoint) };
    store.prune(&[keep])?;
    keep::prune(paths);
    Ok(true)
}
