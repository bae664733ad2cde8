//! What a device remembers between two steps of the machine.
//!
//! Everything here but the fields marked as forgotten is in the ledger, so it survives a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{CommitId, StageName};

/// What a device goes for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The stage it belongs to.
    pub stage: StageName,
    /// The tip of that stage's branch.
    pub commit: CommitId,
    /// Changes whenever the rolling suite does; empty for a pinned stage.
    pub rolling: String,
}

/// A part of a convergence, as it is named in reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Getting the commit's objects.
    Fetch,
    /// Signatures, forward order, the pin.
    Verify,
    /// The playbook.
    Playbook,
    /// Packages of the suite.
    Packages,
    /// The fleet's own checks.
    Check,
    /// Units of systemd.
    Units,
}

impl Step {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Playbook => "playbook",
            Self::Packages => "packages",
            Self::Check => "check",
            Self::Units => "units",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a convergence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything holds.
    Good,
    /// A step failed.
    Failed,
    /// What was offered is not to be trusted; nothing of it was executed.
    Refused,
}

/// Which step failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// What failed in it: a task, a package, a check, a unit; may be empty.
    pub what: String,
    /// Its message.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        if !self.what.is_empty() {
            write!(f, " {:?}", self.what)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// How much of a convergence is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Scope {
    /// All of it.
    Full,
    /// The commit holds already and only the rolling suite changed.
    Packages,
}

/// A convergence under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// What it goes for.
    pub target: Target,
    /// How much of it is needed.
    pub scope: Scope,
    /// When it started.
    pub started_at: Timestamp,
    /// The how-manieth try in a row at this target this is, from 1.
    pub attempt: u32,
    /// The suite that packages come from; known after verification, `None` without a release.
    pub suite: Option<String>,
    /// Tasks of the playbook that changed something.
    pub changed_tasks: u32,
    /// Packages that changed: name → (before, after), empty text for "not there".
    pub packages: BTreeMap<String, (String, String)>,
}

/// Where the device is in a convergence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// None is under way.
    Idle(Rest),
    /// The objects of the commit are fetched.
    Fetch(Work),
    /// The commit is verified; nothing of it has been executed.
    Verify(Work),
    /// A step changes the device or looks at it.
    Apply(Work, Step),
    /// It ended; the report is to be stored.
    Report {
        /// The convergence.
        work: Work,
        /// How it ended.
        outcome: Outcome,
        /// What failed, unless it is good.
        failure: Option<Failure>,
        /// When it ended.
        ended_at: Timestamp,
    },
}

/// Why a device is idle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rest {
    /// There is nothing to do, or nothing was asked yet.
    Content,
    /// The last convergence failed; it is tried again.
    Failed(Trouble),
    /// The last offer was refused; it is looked at again, since a server can be put right.
    Refused(Trouble),
}

impl Rest {
    /// The trouble, if there is one.
    pub const fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Content => None,
            Self::Failed(trouble) | Self::Refused(trouble) => Some(trouble),
        }
    }
}

/// A convergence that did not end well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// What it went for.
    pub target: Target,
    /// What failed.
    pub failure: Failure,
    /// How often in a row.
    pub attempts: u32,
    /// When it is tried again, unless something else is offered before.
    pub retry_at: Timestamp,
}

/// Everything a device remembers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The stage it follows.
    pub stage: StageName,
    /// Where it is.
    pub phase: Phase,
    /// For each stage that it ever followed, the commit it accepted last. Only goes forward.
    pub accepted: BTreeMap<StageName, CommitId>,
    /// The commit accepted last of all: its signers are those that count next.
    pub trusted: Option<CommitId>,
    /// What it converged to last with a good end.
    pub good: Option<Target>,
    /// Since when.
    pub good_since: Option<Timestamp>,
    /// Units that had failed before the first convergence after the last good one: they do not
    /// count against it. `None` while it is good.
    pub failed_before: Option<BTreeSet<String>>,
    /// The target whose convergence was cut off by the end of the process, and how often.
    pub interrupted: Option<(Target, u32)>,
    /// Number of the report made last. Reports are numbered by the clock in milliseconds, or one
    /// more than the last: so they rise even if the clock goes back or this record is lost.
    pub last_report: u64,
    /// Where jitter comes from: different on each device.
    pub seed: u64,

    /// What the server offered last. Forgotten at the end of the process.
    #[serde(skip)]
    pub offered: Option<Target>,
    /// How long to wait between two questions, in seconds, as the server said. Forgotten.
    #[serde(skip)]
    pub poll: Option<u32>,
    /// Questions in a row that got no answer. Forgotten.
    #[serde(skip)]
    pub unanswered: u32,
    /// Convergences in a row that ended since a server could not be reached. Forgotten.
    #[serde(skip)]
    pub cut_short: u32,
    /// Offers in a row for a stage that is not ours. Forgotten.
    #[serde(skip)]
    pub strays: u32,
    /// Somebody asked for a convergence now. Forgotten.
    #[serde(skip)]
    pub forced: bool,
}

impl State {
    /// A device that was just enrolled.
    pub const fn new(stage: StageName, seed: u64) -> Self {
        Self {
            stage,
            phase: Phase::Idle(Rest::Content),
            accepted: BTreeMap::new(),
            trusted: None,
            good: None,
            good_since: None,
            failed_before: None,
            interrupted: None,
            last_report: 0,
            seed,
            offered: None,
            poll: None,
            unanswered: 0,
            cut_short: 0,
            strays: 0,
            forced: false,
        }
    }

    /// What waits to be tried again, if anything.
    pub const fn trouble(&self) -> Option<&Trouble> {
        match &self.phase {
            Phase::Idle(rest) => rest.trouble(),
            Phase::Fetch(_) | Phase::Verify(_) | Phase::Apply(..) | Phase::Report { .. } => None,
        }
    }

    /// True if no convergence is under way.
    pub const fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle(_))
    }

    /// True if `other` differs in something that the ledger holds.
    pub fn differs_durably(&self, other: &Self) -> bool {
        let durable = |state: &Self| Self {
            offered: None,
            poll: None,
            unanswered: 0,
            cut_short: 0,
            strays: 0,
            forced: false,
            ..state.clone()
        };
        durable(self) != durable(other)
    }
}
