//! What a person at the device does with a change: undo the last one, or end the confirmation
//! early. Not here: the command line.

use std::fmt;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use volary_host::write_atomic;
use volary_model::CommitId;

use crate::checkpoint::store::{self, By, Reason, Store, StoreError};
use crate::paths::Paths;
use crate::rescue;
use crate::undo::{self, Ended, How, Undone};
use volary_device::{Cause, Mode};

/// How long the agent may take to see that a person confirmed: it looks with each watch.
const NOTICE: Duration = Duration::from_secs(30);

/// Why a person cannot have what they want.
#[derive(Debug, thiserror::Error)]
pub enum ByHandError {
    /// The folder of checkpoints.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is none.
    #[error("there is no checkpoint to go back to: this device has not changed since it was enrolled")]
    None,
    /// The change is not complete.
    #[error("commit {0} is still being applied; confirm it when that is over, or undo it with revert")]
    Applying(String),
    /// Nothing waits.
    #[error("no change waits to be confirmed")]
    Nothing,
}

/// What [`revert`] would undo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The commit that it went for.
    pub commit: CommitId,
    /// When it began; `None` if it waits to be confirmed.
    pub after: Option<Timestamp>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let commit = self.commit.short();
        match self.after {
            Some(after) => write!(f, "commit {commit}, applied after {after}"),
            None => write!(f, "commit {commit}, which waits to be confirmed"),
        }
    }
}

/// The armed change, or the last one that was confirmed.
///
/// # Errors
/// [`ByHandError`].
pub fn last_change(paths: &Paths) -> Result<Change, ByHandError> {
    if let Some(armed) = store::peek_armed(paths) {
        return Ok(Change { commit: armed.target.commit, after: None });
    }
    let store = Store::open(paths)?;
    let id = store.ids().pop().ok_or(ByHandError::None)?;
    let manifest = store.manifest(&id)?;
    Ok(Change { commit: manifest.target.commit, after: Some(manifest.clock.wall) })
}

/// Undoes the last change.
///
/// # Errors
/// [`ByHandError`].
pub fn revert(paths: &Paths) -> Result<Option<Undone>, ByHandError> {
    let store = Store::open(paths)?;
    let reason = Reason {
        cause: Cause::Person,
        step: "revert".to_owned(),
        what: String::new(),
        message: Cause::Person.text().to_owned(),
        journal: String::new(),
    };
    let undoing = match store.claim(By::Person, reason.clone())? {
        Some(undoing) => undoing,
        None => {
            let id = store.ids().pop().ok_or(ByHandError::None)?;
            let target = store.manifest(&id)?.target;
            store.claim_confirmed(&id, &target, reason)?
        }
    };
    let ended = undo::run(paths, &store, undoing, How::default())?;
    drop(store);
    match ended {
        Ended::Undone(undone) => {
            rescue::start_agent(paths, false);
            Ok(Some(*undone))
        }
        Ended::Rebooting => Ok(None),
    }
}

/// Ends the confirmation early, with a good end, and says of which commit.
///
/// # Errors
/// [`ByHandError`].
pub fn confirm(paths: &Paths) -> Result<CommitId, ByHandError> {
    let armed = store::peek_armed(paths).ok_or(ByHandError::Nothing)?;
    if armed.mode == Mode::Applying {
        return Err(ByHandError::Applying(armed.target.commit.short().to_owned()));
    }
    let file = asked_file(paths);
    write_atomic(&file, armed.checkpoint.as_bytes(), 0o600).map_err(StoreError::from)?;
    let begun = Instant::now();
    while rescue::agent_is_alive() && begun.elapsed() < NOTICE {
        match store::peek_armed(paths) {
            Some(now) if now.checkpoint == armed.checkpoint => std::thread::sleep(Duration::from_millis(200)),
            Some(_) | None => return Ok(armed.target.commit),
        }
    }
    // Nobody watches; the person's word counts all the same.
    match crate::checkpoint::disarm(paths, true)? {
        true => Ok(armed.target.commit),
        false => Err(ByHandError::Nothing),
    }
}

/// True if a person confirmed this checkpoint.
pub fn is_confirmed(paths: &Paths, checkpoint: &str) -> bool {
    volary_host::read_to_string(&asked_file(paths)).is_ok_and(|id| id == checkpoint)
}

fn asked_file(paths: &Paths) -> std::path::PathBuf {
    paths.checkpoint().join("confirmed")
}
