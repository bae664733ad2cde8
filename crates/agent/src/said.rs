//! What commands answer with `--json` that have no listing of their own; the forms are stable.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use serde::Serialize;
use volary_model::{CommitId, DeviceName, Digest, StageName};

use crate::by_hand::Change;
use crate::config::Config;
use crate::enroll::{Ending, Wanted};
use crate::modules::machine::State;
use crate::modules::record::{self, Record};
use crate::modules::{ModuleError, Outcome};
use crate::paths::Paths;
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

/// `volary-agent artifact`.
#[derive(Debug, Serialize)]
pub struct Artifact {
    /// The version of this format: 1.
    pub version: u32,
    /// What the command did: `waiting`, `reboots`, `lasts`, `back`; none of `show`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<&'static str>,
    /// Why it is back, if that was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// The artifact that is not done.
    pub waits: Option<String>,
    /// Where that one is.
    pub state: Option<State>,
    /// What the device provides.
    pub provides: BTreeMap<String, String>,
    /// The digest of the artifact that lasts under each name.
    pub lasting: BTreeMap<String, Digest>,
}

impl Artifact {
    /// How it is, and how a command ended.
    ///
    /// # Errors
    /// [`ModuleError`].
    pub fn new(paths: &Paths, outcome: Option<&Outcome>) -> Result<Self, ModuleError> {
        let under_way = Record::load(paths)?;
        Ok(Self {
            version: VERSION,
            outcome: outcome.map(|outcome| match outcome {
                Outcome::Waiting => "waiting",
                Outcome::Reboots => "reboots",
                Outcome::Lasts => "lasts",
                Outcome::Back { .. } => "back",
            }),
            why: match outcome {
                Some(Outcome::Back { why, .. }) => why.clone(),
                _ => None,
            },
            state: under_way.as_ref().map(|record| record.state),
            waits: under_way.map(|record| record.artifact),
            provides: record::provides(paths)?,
            lasting: record::lasting(paths)?,
        })
    }

    /// For a person.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if let (Some(name), Some(state)) = (&self.waits, &self.state) {
            writeln!(text, "artifact {name} is not done: {state:?}").expect("a String takes any write");
        }
        for (key, value) in &self.provides {
            writeln!(text, "{key}: {value}").expect("a String takes any write");
        }
        text.trim_end().to_owned()
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
