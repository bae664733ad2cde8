//! What devices and server say to each other.
//!
//! | route | request → answer |
//! |---|---|
//! | `POST /device/v1/enroll` | [`Enroll`] → [`Enrolled`]; no client certificate needed |
//! | `GET  /device/v1/desired` | → [`Desired`] with an `ETag`; 304 if nothing changed, with `Prefer: wait=N` after N seconds |
//! | `POST /device/v1/objects` | [`WantObjects`] → a git pack without deltas |
//! | `POST /device/v1/reports` | [`Report`], may be `content-encoding: gzip` → [`Received`] |
//! | `POST /device/v1/reports/batch` | several, one JSON a line, may be gzip → [`ReceivedBatch`] |
//! | `POST /device/v1/turn` | [`AskTurn`] → [`Turn`] |
//! | `DELETE /device/v1/turn` | gives the turn back |
//!
//! Devices and servers of neighbouring versions talk to each other: fields that are not known are
//! passed over, fields that are not there have a default, and a word that is not known is read as
//! `Unknown` and never as success. So a new fact gets a new field with a default, and a new ending
//! keeps an old word: a convergence that was undone is `failed`, with [`Reverted`] beside it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{Architecture, CommitId, DeviceName, StageName};

/// Asks for an identity. Sent again and again until it is accepted; the key in the request
/// makes the repetition recognisable.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Enroll {
    /// The name the device wants: its host name in the inventory.
    pub name: DeviceName,
    /// The PEM certificate signing request, made with a key that never leaves the device.
    pub csr: String,
    /// The secret of a join token, if it has one.
    #[serde(default)]
    pub secret: Option<String>,
    /// What it runs on.
    pub architecture: Architecture,
    /// `PRETTY_NAME` of its os-release.
    pub os: String,
}

/// The answer to [`Enroll`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Enrolled {
    /// Somebody must say `volary device accept NAME`; ask again later.
    Waiting {
        /// How long to wait before asking again, in seconds.
        again_after: u32,
    },
    /// The device belongs to the fleet.
    Accepted {
        /// Its client certificate, PEM.
        certificate: String,
        /// The stage it begins in.
        stage: StageName,
    },
}

/// What the server thinks the device should be at. Only a hint: the device believes signatures,
/// not the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Desired {
    /// The stage that the server has for the device.
    pub stage: StageName,
    /// The branch of that stage.
    pub branch: String,
    /// The branch's tip.
    pub commit: CommitId,
    /// For a stage that follows rolling: a text that changes whenever rolling does, so that a
    /// new package is noticed without a commit. Empty for pinned stages.
    #[serde(default)]
    pub rolling: String,
    /// For a stage with waves: how the device stands to the rollout of the commit, in words that are others as soon
    /// as it gets another answer to [`AskTurn`]. Empty for other stages.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rollout: String,
    /// How long to wait between two questions, in seconds.
    pub poll: u32,
    /// For how many seconds a question may stay open until there is news: `Prefer: wait=N`. 0 is not
    /// at all.
    #[serde(default)]
    pub long_poll: u32,
}

/// Asks for the git objects between two commits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct WantObjects {
    /// The commit to go to.
    pub want: CommitId,
    /// The commit whose objects are there already.
    #[serde(default)]
    pub have: Option<CommitId>,
}

/// How a convergence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(transform = any_word))]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything the commit asks for holds and the required checks pass.
    Good,
    /// A step failed; `failure` says which.
    Failed,
    /// The commit was not applied, since it is not to be trusted.
    Refused,
    /// A newer agent has a word for it that this version does not know. Never good.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}

/// Words of newer agents are taken too, and told as `unknown`.
#[cfg(feature = "schema")]
fn any_word(schema: &mut schemars::Schema) {
    let mut words = schema.remove("oneOf").and_then(|words| words.as_array().cloned()).unwrap_or_default();
    words.push(serde_json::json!({ "type": "string", "description": "Another version's word." }));
    schema.insert("anyOf".to_owned(), words.into());
}

/// Which step of a convergence failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Failure {
    /// The step: `verify`, `fetch`, `checkpoint`, `playbook`, `packages`, `check`, `units`, `path`,
    /// `confirm`, `undo`, `revert`. Others may come.
    pub step: String,
    /// What failed in it: the task's, package's, check's or unit's name.
    #[serde(default)]
    pub what: String,
    /// Its message.
    pub message: String,
}

/// The result of one convergence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Convergence {
    /// The commit it went for.
    pub commit: CommitId,
    /// The suite it took packages from: `rolling`, `v1.0/r2`; `None` if there is no release yet.
    #[serde(default)]
    pub suite: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// What failed, unless it is good.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// How the device was put back, if it was. `outcome` is then `failed`, which is all that a
    /// server knows that is older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How many tasks of the playbook changed something.
    #[serde(default)]
    pub changed_tasks: u32,
    /// Packages that changed their version: name → (before, after); empty text for "not there".
    #[serde(default)]
    pub packages: BTreeMap<String, (String, String)>,
}

/// How a device was put back after a change that failed or did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reverted {
    /// Who did it: `agent`, `timer` or `boot` (of systemd, without the agent), or `person`.
    pub by: String,
    /// Why, as a sentence.
    pub reason: String,
    /// When, by the device's clock.
    pub at: Timestamp,
    /// Whether the server could be reached after it; `None` if it could not before the change.
    #[serde(default)]
    pub path_works: Option<bool>,
    /// True if it took a reboot.
    #[serde(default)]
    pub rebooted: bool,
    /// What was put back, each in words: files, packages with both versions, units.
    #[serde(default)]
    pub restored: Vec<String>,
    /// What could not be put back, each with the reason.
    #[serde(default)]
    pub left: Vec<String>,
    /// True if the device does not try the commit again by itself.
    #[serde(default)]
    pub quarantined: bool,
    /// The end of the journal at that time.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub journal: String,
}

/// A convergence that may not begin yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Waiting {
    /// The commit to go for.
    pub commit: CommitId,
    /// What stands in the way, as sentences, the weightiest first.
    pub obstacles: Vec<String>,
    /// True if a person holds the device.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub held: bool,
    /// True if it waits for a turn from the server and for nothing else.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub turn: bool,
}

/// A commit that hurt the device, and that it does not try again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Quarantined {
    /// The commit.
    pub commit: CommitId,
    /// The state of rolling that it met; empty for pinned stages.
    #[serde(default)]
    pub rolling: String,
    /// What failed.
    pub failure: Failure,
    /// When it was undone last.
    pub at: Timestamp,
    /// How often it was undone.
    #[serde(default)]
    pub times: u32,
}

/// What differs on a device from the commit that it converged to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Drift {
    /// When it was looked for, by the device's clock.
    pub at: Timestamp,
    /// The commit.
    pub commit: CommitId,
    /// Tasks that would change something, the first of them.
    #[serde(default)]
    pub tasks: Vec<DriftedTask>,
    /// How many tasks that are in all.
    #[serde(default)]
    pub tasks_total: u32,
    /// Packages that are not at the suite's version: name → (installed, suite's).
    #[serde(default)]
    pub packages: BTreeMap<String, (String, String)>,
    /// Why it could not be found out, if so.
    #[serde(default)]
    pub failure: Option<Failure>,
}

impl Drift {
    /// True if the device is what its commit says.
    pub fn is_none(&self) -> bool {
        self.tasks_total == 0 && self.packages.is_empty() && self.failure.is_none()
    }
}

/// A task of the playbook that would change something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DriftedTask {
    /// Its name.
    pub task: String,
    /// The beginning of its difference.
    #[serde(default)]
    pub diff: String,
}

/// What one check of `health/` said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CheckResult {
    /// Its file name.
    pub name: String,
    /// True if the fleet requires it (`health/required.d`).
    pub required: bool,
    /// True if it exited with 0.
    pub passed: bool,
    /// The end of what it printed.
    #[serde(default)]
    pub output: String,
}

/// The image that a device with two slots runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RunningImage {
    /// The kind of hardware that the image is for. A text, since devices that come from elsewhere may
    /// have names that no image of ours could have.
    pub device_type: String,
    /// Its name.
    pub name: String,
    /// The slot that it runs from, `a` or `b`, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<String>,
    /// True until the device has committed itself to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub on_trial: bool,
}

/// What a device tells. Idempotent: the same `id` counts once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Report {
    /// Unique for the device; rises.
    pub id: String,
    /// When it was made, by the device's clock.
    pub at: Timestamp,
    /// Version of the agent.
    pub agent: String,
    /// The kernel's boot id: it changes with each boot.
    pub boot_id: String,
    /// Seconds since boot.
    pub uptime: u64,
    /// The stage it follows.
    pub stage: StageName,
    /// The commit that it converged to last with a good end.
    #[serde(default)]
    pub good_commit: Option<CommitId>,
    /// The convergence that this report is about; `None` for a report of health alone.
    #[serde(default)]
    pub convergence: Option<Convergence>,
    /// What the device knows and may not do yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// What it does not try again, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<Quarantined>,
    /// What the last look for differences found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// Name → version of the packages that the fleet's archive offers and that are installed.
    #[serde(default)]
    pub packages: BTreeMap<String, String>,
    /// Number of all installed packages.
    #[serde(default)]
    pub packages_total: u32,
    /// Failed systemd units.
    #[serde(default)]
    pub failed_units: Vec<String>,
    /// Watched systemd units (those that came with packages of the archive): name → active state.
    #[serde(default)]
    pub units: BTreeMap<String, String>,
    /// The checks of `health/`.
    #[serde(default)]
    pub checks: Vec<CheckResult>,
    /// Memory of the machine, bytes.
    #[serde(default)]
    pub memory_total: u64,
    /// Memory that is available, bytes.
    #[serde(default)]
    pub memory_available: u64,
    /// Size of the root file system, bytes.
    #[serde(default)]
    pub disk_total: u64,
    /// What is free of it for the superuser, bytes.
    #[serde(default)]
    pub disk_free: u64,
    /// The image it runs; `None` for a device without slots, or with an agent that does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<RunningImage>,
    /// Facts: `architecture`, `os`, `kernel`, …
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// Age of the `InRelease` that apt holds of our suite, seconds.
    #[serde(default)]
    pub suite_age: Option<u64>,
}

/// The server has the report on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Received {
    /// The report's id.
    pub id: String,
}

/// What became of several reports.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReceivedBatch {
    /// The ids of those that the server has on disk, in their order.
    #[serde(default)]
    pub received: Vec<String>,
    /// Those that it will never take.
    #[serde(default)]
    pub refused: Vec<RefusedReport>,
}

/// A report that the server will never take.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct RefusedReport {
    /// Its line in the batch, from 1.
    pub line: u32,
    /// Why.
    pub error: String,
}

/// Asks whether the device may change itself now: its fleet bounds how many of a site do so at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AskTurn {
    /// The stage that the device follows.
    pub stage: StageName,
    /// The commit that it goes for.
    pub commit: CommitId,
    /// The commit of which that is on the way, if its agent is too old to read this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub towards: Option<CommitId>,
    /// Its variable `volary_site`; without one the stage is one site.
    #[serde(default)]
    pub site: Option<String>,
    /// The id of the report it made last. A later one about this commit gives the turn back.
    #[serde(default)]
    pub after: String,
}

/// The answer to [`AskTurn`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Turn {
    /// It may.
    Granted {
        /// For how many seconds the turn is its own.
        seconds: u32,
    },
    /// Not now.
    Wait {
        /// Who holds the turns, in a sentence.
        reason: String,
        /// How long to wait before asking again, in seconds.
        again_after: u32,
        /// True if [`Desired`] changes as soon as there is another answer, so that nobody needs to ask before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        told: bool,
    },
    /// A newer server has another answer. It is no grant.
    #[serde(other)]
    #[cfg_attr(feature = "schema", schemars(skip))]
    Unknown,
}
