//! What a device remembers between two steps of the machine.
//!
//! Everything here but the fields marked as forgotten is in the ledger, so it survives a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{CommitId, Digest, ImageName, Slot, StageName};

use crate::permit::{Obstacle, Zones};
use crate::policy::Policy;
use crate::rescue::Cause;

/// How many reverted targets are remembered: a device that is offered more bad commits in a row
/// has other troubles, and each entry costs some 500 bytes of every write of the ledger.
const REVERTED: usize = 16;

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
    /// The image: another root file system.
    Image,
    /// The playbook.
    Playbook,
    /// Packages of the suite.
    Packages,
    /// The fleet's own checks.
    Check,
    /// Units of systemd.
    Units,
    /// Saving what the device is before it changes.
    Checkpoint,
    /// The management path: can the server still be reached.
    Path,
    /// Holding for as long as the fleet wants.
    Confirm,
    /// Putting the device back.
    Undo,
    /// A person wants it undone.
    Revert,
}

impl Step {
    /// Its name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fetch => "fetch",
            Self::Verify => "verify",
            Self::Image => "image",
            Self::Playbook => "playbook",
            Self::Packages => "packages",
            Self::Check => "check",
            Self::Units => "units",
            Self::Checkpoint => "checkpoint",
            Self::Path => "path",
            Self::Confirm => "confirm",
            Self::Undo => "undo",
            Self::Revert => "revert",
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
    /// A step failed before anything was changed, or what was changed could not be undone.
    Failed,
    /// What was offered is not to be trusted; nothing of it was executed.
    Refused,
    /// It failed or did not hold, and the device was put back.
    Reverted,
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
    /// When the device first knew of the target.
    pub seen_at: Timestamp,
    /// The how-manieth try in a row at this target this is, from 1.
    pub attempt: u32,
    /// A person asked for it.
    pub urged: bool,
    /// The suite that packages come from; known after verification, `None` without a release.
    pub suite: Option<String>,
    /// When the commit was made; known after verification.
    pub committed_at: Option<Timestamp>,
    /// What the fleet says about changes; known after verification.
    pub policy: Policy,
    /// The image that goes into the other slot first; `None` if the device runs the one that the
    /// fleet pins, or has no slots. Known after verification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Box<Image>>,
    /// What the device goes back to if it does not hold.
    pub checkpoint: Option<String>,
    /// How often it was cut off while it changed the device.
    pub interruptions: u32,
    /// How often it could not be confirmed, or undone, for want of a disk or the like.
    pub stuck: u32,
    /// Tasks of the playbook that changed something.
    pub changed_tasks: u32,
    /// Packages that changed: name → (before, after), empty text for "not there".
    pub packages: BTreeMap<String, (String, String)>,
}

/// An image to install, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its name: what the slot says of itself then.
    pub name: ImageName,
    /// The SHA-256 of the update artifact.
    pub artifact: Digest,
    /// The artifact's length in bytes.
    pub size: u64,
    /// The SHA-256 of the root file system, as it stands in the slot.
    pub rootfs: Digest,
    /// The SHA-256 of the artifact's manifest: with it, parts of the image may be fetched by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<Digest>,
    /// The SHA-256 that the root file system had which runs, if that is known: there may be a short way from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<Digest>,
    /// The slot that it goes into; the device goes back to the other one.
    pub into: Slot,
}

/// Which slot a device runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Running {
    /// It.
    pub slot: Slot,
    /// True if the other one is tried at the next boot.
    pub other_is_next: bool,
}

impl Undone {
    /// Why, in words.
    pub fn words(&self) -> String {
        if self.said.is_empty() { self.cause.text().to_owned() } else { self.said.clone() }
    }
}

impl Work {
    /// True if it changed nothing, as far as it says. Whoever was cut off does not know what it
    /// had changed before.
    pub fn is_unchanged(&self) -> bool {
        self.changed_tasks == 0 && self.packages.is_empty() && self.interruptions == 0 && self.image.is_none()
    }

    /// True if the device does not run the slot that the image went into.
    pub fn is_elsewhere(&self, running: Option<Running>) -> bool {
        self.image.as_ref().is_some_and(|image| running.map(|running| running.slot) != Some(image.into))
    }

    /// How long it has to hold before it is confirmed. What changed nothing is looked at once.
    pub fn confirm_within(&self) -> Duration {
        if self.is_unchanged() { Duration::ZERO } else { self.policy.confirm_within }
    }
}

/// How an undo ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Undone {
    /// The checkpoint that the device was put back to.
    pub checkpoint: String,
    /// What the change had gone for.
    pub target: Target,
    /// Who undid it.
    pub by: UndoneBy,
    /// Why.
    pub cause: Cause,
    /// The same in the words of whoever undid it; may be empty.
    #[serde(default)]
    pub said: String,
    /// When.
    pub at: Timestamp,
    /// Whether the management path works after it; `None` if it did not work before the change
    /// either, so that nobody can tell.
    pub path_works: Option<bool>,
    /// True if it took a reboot.
    pub rebooted: bool,
    /// What was put back, for a person.
    pub restored: Vec<String>,
    /// What could not be put back, for a person.
    pub left: Vec<String>,
}

/// Who put a device back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UndoneBy {
    /// The agent.
    Agent,
    /// The dead man's timer.
    Timer,
    /// The unit of the boot, which stands in for the timer.
    Boot,
    /// A person on the device.
    Person,
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
    /// The image goes into the slot that does not run, and is verified there.
    Install(Work),
    /// What the device is gets saved; nothing has been changed.
    Checkpoint(Work),
    /// A step changes the device.
    Apply(Work, Step),
    /// The boot state says that the other slot is tried; the device boots.
    Reboot(Work),
    /// It was changed; it is looked at whether that holds.
    Confirm(Work),
    /// It holds; the dead man's timer is told so.
    Commit(Work),
    /// It failed, or does not hold; the device is put back.
    Revert(Work, Failure),
    /// The device is as it should be; what differs from the commit is looked for.
    Drift(Work),
    /// It ended; the report is to be stored.
    Report {
        /// The convergence.
        work: Work,
        /// How it ended.
        outcome: Outcome,
        /// What failed, unless it is good.
        failure: Option<Failure>,
        /// How it was undone, if it was.
        undone: Option<Box<Undone>>,
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
    /// What to do is known and verified, and something stands in the way.
    Waiting(Box<Waiting>),
    /// The last convergence failed before it changed anything; it is tried again.
    Failed(Trouble),
    /// The last convergence failed and was undone; it is tried again.
    Reverted(Trouble),
    /// The last offer was refused; it is looked at again, since a server can be put right.
    Refused(Trouble),
    /// What is offered hurt this device before and is not tried again, see [`State::reverted`].
    Quarantined(Target),
}

impl Rest {
    /// The trouble, if there is one.
    pub const fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Content | Self::Waiting(_) | Self::Quarantined(_) => None,
            Self::Failed(trouble) | Self::Reverted(trouble) | Self::Refused(trouble) => Some(trouble),
        }
    }
}

/// A convergence that may not begin yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// It.
    pub work: Work,
    /// What stands in the way, the weightiest first.
    pub obstacles: Vec<Obstacle>,
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

/// A target that was undone on this device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverted {
    /// It.
    pub target: Target,
    /// Why, the last time.
    pub failure: Failure,
    /// When, the last time.
    pub at: Timestamp,
    /// How often.
    pub times: u32,
    /// True if it is not tried again until a person says so.
    pub quarantined: bool,
}

/// A person on the device wants no changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    /// Since when.
    pub since: Timestamp,
    /// Until when at the latest; `None` until it is released.
    pub until: Option<Timestamp>,
    /// Why; may be empty.
    pub reason: String,
}

/// The last convergence that was confirmed: a person may still have it undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Last {
    /// It.
    pub work: Work,
    /// What the device was before.
    pub before: Option<Target>,
    /// Since when it was that.
    pub before_since: Option<Timestamp>,
}

/// What the last look for differences found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// When.
    pub at: Timestamp,
    /// Which commit the device was compared with.
    pub commit: CommitId,
    /// Tasks that would change something.
    pub changes: Vec<String>,
    /// Why it could not be found out, if so.
    pub failure: Option<Failure>,
}

/// What a person on the device asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Urge {
    /// Nothing.
    #[default]
    None,
    /// A convergence now, whether it is needed or not.
    Run,
    /// The same, also of what is quarantined.
    Again,
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
    /// What the fleet says about changes, by that commit.
    #[serde(default)]
    pub policy: Policy,
    /// What it converged to last with a good end.
    pub good: Option<Target>,
    /// Since when.
    pub good_since: Option<Timestamp>,
    /// Units that had failed before the first convergence after the last good one: they do not
    /// count against it. `None` while it is good.
    pub failed_before: Option<BTreeSet<String>>,
    /// The target whose convergence was cut off by the end of the process, and how often.
    pub interrupted: Option<(Target, u32)>,
    /// What was undone here, oldest first; the quarantine among it. See [`State::quarantine`].
    #[serde(default)]
    pub reverted: Vec<Reverted>,
    /// The checkpoint of the last undo that is known: `undone.json` tells of it again and again.
    #[serde(default)]
    pub undone: Option<String>,
    /// The last convergence that was confirmed, while it can still be undone.
    #[serde(default)]
    pub last: Option<Box<Last>>,
    /// A person on the device wants no changes.
    #[serde(default)]
    pub hold: Option<Hold>,
    /// What the last look for differences found.
    #[serde(default)]
    pub drift: Option<Drift>,
    /// Number of the report made last. Reports are numbered by the clock in milliseconds, or one
    /// more than the last: so they rise even if the clock goes back or this record is lost.
    pub last_report: u64,
    /// Where jitter comes from: different on each device.
    pub seed: u64,

    /// What only the process knows.
    #[serde(skip)]
    pub memory: Memory,
}

/// What a device knows only until its process ends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Memory {
    /// What the server offered last.
    pub offered: Option<Target>,
    /// A commit that this agent is too old for, and the one to go to first.
    pub stepping_stone: Option<(CommitId, CommitId)>,
    /// The server gave a turn that is not used yet.
    pub turn: bool,
    /// Until when no turn is asked for without an offer, since the server makes one when its answer changes.
    pub told_until: Option<Timestamp>,
    /// Units that had failed when the commit was verified for which a turn is asked.
    pub failed_units: BTreeSet<String>,
    /// How long to wait between two questions, in seconds, as the server said.
    pub poll: Option<u32>,
    /// Questions in a row that got no answer.
    pub unanswered: u32,
    /// Convergences in a row that ended since a server could not be reached.
    pub cut_short: u32,
    /// Offers in a row for a stage that is not ours.
    pub strays: u32,
    /// Somebody asked for a convergence.
    pub urge: Urge,
    /// The time zones of the policy.
    pub zones: Zones,
    /// When an obstacle may be gone.
    pub look_again: Option<Timestamp>,
    /// An undo that is heard of once the report before it is stored.
    pub undone: Option<Box<Undone>>,
}

impl State {
    /// A device that was just enrolled.
    pub fn new(stage: StageName, seed: u64) -> Self {
        Self {
            stage,
            phase: Phase::Idle(Rest::Content),
            accepted: BTreeMap::new(),
            trusted: None,
            policy: Policy::default(),
            good: None,
            good_since: None,
            failed_before: None,
            interrupted: None,
            reverted: Vec::new(),
            undone: None,
            last: None,
            hold: None,
            drift: None,
            last_report: 0,
            seed,
            memory: Memory::default(),
        }
    }

    /// What waits to be tried again, if anything.
    pub const fn trouble(&self) -> Option<&Trouble> {
        match &self.phase {
            Phase::Idle(rest) => rest.trouble(),
            Phase::Fetch(_)
            | Phase::Verify(_)
            | Phase::Install(_)
            | Phase::Checkpoint(_)
            | Phase::Apply(..)
            | Phase::Reboot(_)
            | Phase::Confirm(_)
            | Phase::Commit(_)
            | Phase::Revert(..)
            | Phase::Drift(_)
            | Phase::Report { .. } => None,
        }
    }

    /// The convergence under way, or that ended or waits.
    pub fn work(&self) -> Option<&Work> {
        match &self.phase {
            Phase::Idle(Rest::Waiting(waiting)) => Some(&waiting.work),
            Phase::Idle(
                Rest::Content | Rest::Failed(_) | Rest::Reverted(_) | Rest::Refused(_) | Rest::Quarantined(_),
            ) => None,
            Phase::Fetch(work)
            | Phase::Verify(work)
            | Phase::Install(work)
            | Phase::Checkpoint(work)
            | Phase::Apply(work, _)
            | Phase::Reboot(work)
            | Phase::Confirm(work)
            | Phase::Commit(work)
            | Phase::Revert(work, _)
            | Phase::Drift(work)
            | Phase::Report { work, .. } => Some(work),
        }
    }

    /// True if no convergence is under way.
    pub const fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle(_))
    }

    /// The commit that a target is only on the way to, since this agent is too old for that one.
    pub fn towards(&self, target: &Target) -> Option<&CommitId> {
        let (of, before) = self.memory.stepping_stone.as_ref()?;
        (*before == target.commit).then_some(of)
    }

    /// Why this target is not tried again, if it is not: a commit counts together with the state of
    /// rolling that it met.
    pub fn quarantine(&self, target: &Target) -> Option<&Reverted> {
        self.reverted_of(target).filter(|reverted| reverted.quarantined)
    }

    /// What is remembered of a target that was undone.
    pub fn reverted_of(&self, target: &Target) -> Option<&Reverted> {
        self.reverted.iter().find(|reverted| is_same(&reverted.target, target))
    }

    /// Forgets that a target was undone.
    pub fn forgive(&mut self, target: &Target) {
        self.reverted.retain(|reverted| !is_same(&reverted.target, target));
    }

    /// Remembers a target that was undone, in the place of what was known of it.
    pub fn remember_reverted(&mut self, reverted: Reverted) {
        self.forgive(&reverted.target);
        self.reverted.push(reverted);
        let excess = self.reverted.len().saturating_sub(REVERTED);
        self.reverted.drain(..excess);
    }

    /// True if `other` differs in something that the ledger holds.
    pub fn differs_durably(&self, other: &Self) -> bool {
        // Without `..`: whoever adds a field decides here.
        let Self {
            stage,
            phase,
            accepted,
            trusted,
            policy,
            good,
            good_since,
            failed_before,
            interrupted,
            reverted,
            undone,
            last,
            hold,
            drift,
            last_report,
            seed,
            memory: _,
        } = self;
        *stage != other.stage
            || *phase != other.phase
            || *accepted != other.accepted
            || *trusted != other.trusted
            || *policy != other.policy
            || *good != other.good
            || *good_since != other.good_since
            || *failed_before != other.failed_before
            || *interrupted != other.interrupted
            || *reverted != other.reverted
            || *undone != other.undone
            || *last != other.last
            || *hold != other.hold
            || *drift != other.drift
            || *last_report != other.last_report
            || *seed != other.seed
    }
}

/// A merge makes another commit, so the stage adds nothing.
fn is_same(one: &Target, other: &Target) -> bool {
    one.commit == other.commit && one.rolling == other.rolling
}
