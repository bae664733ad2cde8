//! What commands answer with `--json` that have no listing of their own; the forms are stable.

use jiff::Timestamp;
use serde::Serialize;
use volary_model::{CommitId, DeviceName, StageName};

use crate::by_hand::Change;
use crate::config::Config;
use crate::enroll::{Ending, Wanted};
use crate::status::LastUndo;
use crate::undo::Undone;

/// The version of these forms.
const VERSION: u32 = 1;

/// `volary-agent version`.
#[derive(Debug, Serialize)]
pub struct Version {
    /// The version of this format: 1.
    pub version: u32,
    /// The version of the agent.
    pub agent: &'static str,
    /// What `ansible-playbook --version` says first; `None` if there is none.
    pub ansible: Option<String>,
}

impl Version {
    /// Of this program.
    pub const fn new(ansible: Option<String>) -> Self {
        Self { version: VERSION, agent: env!("CARGO_PKG_VERSION"), ansible }
    }
}

/// `volary-agent enroll`.
#[derive(Debug, Serialize)]
pub struct Enrolment {
    /// The version of this format: 1.
    pub version: u32,
    /// `enrolled` or `waiting`.
    pub outcome: &'static str,
    /// The device.
    pub name: DeviceName,
    /// The server.
    pub server: String,
    /// The stage that it begins in.
    pub stage: StageName,
}

impl Enrolment {
    /// How it ended.
    pub fn new(ending: &Ending, wanted: &Wanted) -> Self {
        let (outcome, name, server, stage) = match ending {
            Ending::Enrolled(Config { name, server, stage, .. }) => ("enrolled", name, server, stage),
            Ending::Waiting(name) => ("waiting", name, &wanted.server, &wanted.stage),
        };
        Self { version: VERSION, outcome, name: name.clone(), server: server.clone(), stage: stage.clone() }
    }
}

/// `volary-agent confirm`.
#[derive(Debug, Serialize)]
pub struct Confirmed {
    /// The version of this format: 1.
    pub version: u32,
    /// The commit that stays.
    pub confirmed: CommitId,
}

impl Confirmed {
    /// That it does.
    pub const fn new(commit: CommitId) -> Self {
        Self { version: VERSION, confirmed: commit }
    }
}

/// `volary-agent revert`.
#[derive(Debug, Serialize)]
pub struct Revert {
    /// The version of this format: 1.
    pub version: u32,
    /// `asked` (nothing was done without `--yes`), `undone`, `incomplete` or `rebooting`.
    pub outcome: &'static str,
    /// The commit of the change.
    pub commit: CommitId,
    /// After when it was applied; `None` if it waited to be confirmed.
    pub applied_after: Option<Timestamp>,
    /// What was put back.
    pub undo: Option<LastUndo>,
}

impl Revert {
    /// What would be undone.
    pub fn asked(change: Change) -> Self {
        Self {
            version: VERSION,
            outcome: "asked",
            commit: change.commit,
            applied_after: change.after,
            undo: None,
        }
    }

    /// How it ended; the rest of an undo without an end follows with the boot.
    pub fn done(change: Change, undone: Option<&Undone>) -> Self {
        let outcome = match undone {
            None => "rebooting",
            Some(undone) if undone.could_not.is_empty() => "undone",
            Some(_) => "incomplete",
        };
        Self { outcome, undo: undone.map(LastUndo::of), ..Self::asked(change) }
    }
}
