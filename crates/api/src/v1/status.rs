//! The state of the whole chain, as the page and `volary status` show it.
//!
//! | route | request → answer |
//! |---|---|
//! | `GET /api/v1/status` | → [`Status`] |
//! | `GET /api/v1/trace?package=P&version=V` | → [`Trace`] |
//! | `GET /api/v1/events?limit=N&people=BOOL` | → `Vec<`[`Event`]`>`, newest first; `people=true`: only what people did |

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{Architecture, CommitId, DeviceName, StageName};

use super::archive::{Package, Release};
use super::build::{Build, Source};
use super::device::Report;
use super::image::PinnedImage;
use super::rollout::Rollout;
use super::user::How;

/// The chain from left to right.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Status {
    /// When this was put together.
    pub at: Timestamp,
    /// The fleet's name.
    pub fleet: String,
    /// Source repositories.
    pub sources: Vec<Source>,
    /// The newest builds.
    pub builds: Vec<Build>,
    /// Releases, newest first.
    pub releases: Vec<Release>,
    /// Stages in the order of promotion.
    pub stages: Vec<Stage>,
    /// Devices that wait to be accepted.
    pub waiting: Vec<Device>,
    /// What is wrong with the fleet repository itself, if anything.
    pub problems: Vec<String>,
}

/// One stage.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Stage {
    /// Its name.
    pub name: StageName,
    /// Its branch.
    pub branch: String,
    /// The branch's tip.
    pub commit: Option<CommitId>,
    /// The first line of that commit's message.
    pub subject: String,
    /// When that commit was made.
    pub committed_at: Option<Timestamp>,
    /// The suite it takes packages from.
    pub suite: Option<String>,
    /// The images it pins.
    #[serde(default)]
    pub images: Vec<PinnedImage>,
    /// Why nothing changes in it, if its newest commit stops it.
    #[serde(default)]
    pub stop: Option<String>,
    /// The freezes that are not over, in words. Those without a time zone are in device time.
    #[serde(default)]
    pub freezes: Vec<String>,
    /// The windows in which its devices change, in words; empty if they may at any time.
    #[serde(default)]
    pub windows: String,
    /// How many devices of one site may change at once, if that is bounded.
    #[serde(default)]
    pub per_site_at_most: Option<u32>,
    /// The devices that have a turn to change now, if that is bounded.
    #[serde(default)]
    pub turns: Vec<HeldTurn>,
    /// What the server waits for before it merges the stage before into this one by itself, if it would.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promotes_when: Option<String>,
    /// How its newest commit reaches the devices, if that is in waves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// How many of its devices are in each condition.
    #[serde(default)]
    pub conditions: BTreeMap<Condition, usize>,
    /// Its devices by name; with `?devices=N` at most N, those first that need a look.
    pub devices: Vec<Device>,
}

/// A device that may change now, where the fleet bounds how many of a site do so at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct HeldTurn {
    /// The device.
    pub device: DeviceName,
    /// Its site; empty if the stage is one site.
    #[serde(default)]
    pub site: String,
    /// The commit that it goes for.
    pub commit: CommitId,
    /// Since when.
    pub since: Timestamp,
    /// Until when, if it is not heard of before.
    pub until: Timestamp,
}

/// Whether a device is what its stage wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// It runs what its stage wants and is healthy.
    Good,
    /// It is on its way: it reported something older and no failure.
    Converging,
    /// Its last convergence failed, or a required check or unit fails.
    Failed,
    /// It refused what the server offered.
    Refused,
    /// It was not heard of for three polls.
    Silent,
    /// It waits to be accepted.
    Waiting,
    /// It was rejected.
    Rejected,
    /// It is accepted and has not reported yet.
    New,
}

/// One device as the server knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Device {
    /// Its name.
    pub name: DeviceName,
    /// Its stage.
    pub stage: Option<StageName>,
    /// Whether it is what its stage wants.
    pub condition: Condition,
    /// Why, in a sentence: what failed, what it waits for, since when it is silent.
    pub reason: String,
    /// The commit it converged to last.
    pub commit: Option<CommitId>,
    /// The suite it has.
    pub suite: Option<String>,
    /// Since when it is at that commit and suite.
    pub since: Option<Timestamp>,
    /// When it was heard of last.
    pub seen_at: Option<Timestamp>,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// What it runs on.
    pub architecture: Architecture,
    /// Its operating system.
    pub os: String,
    /// SHA-256 fingerprint of its public key, to compare before accepting.
    pub fingerprint: String,
    /// Its newest report.
    pub report: Option<Report>,
}

/// The journey of one package version from its commit to the devices.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Trace {
    /// The package.
    pub package: Package,
    /// All architectures that have this version of it.
    #[serde(default)]
    pub architectures: Vec<Architecture>,
    /// The build that made it, if our builder did.
    pub build: Option<Build>,
    /// The suites that hold it.
    pub suites: Vec<String>,
    /// The stages whose branch takes packages from one of these suites, with the commit.
    pub stages: Vec<TracedStage>,
    /// The devices that run it, with the time of the report that said so first.
    pub devices: Vec<TracedDevice>,
}

/// A stage that offers a package version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TracedStage {
    /// The stage.
    pub stage: StageName,
    /// The suite.
    pub suite: String,
    /// Its tip.
    pub commit: CommitId,
    /// When that commit was made.
    pub committed_at: Timestamp,
}

/// A device that runs a package version.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TracedDevice {
    /// The device.
    pub device: DeviceName,
    /// Its stage.
    pub stage: StageName,
    /// When it reported the version for the first time.
    pub since: Timestamp,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Event {
    /// Rises.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// What: `build-failed`, `package-included`, `release-cut`, `branch-moved`, `device-failed`, …
    pub kind: String,
    /// About what: a build, a release, a device.
    pub subject: String,
    /// One sentence.
    pub text: String,
    /// Who did it, if it was a person or a program with a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<By>,
}

/// A person, or a program with a token, as records name them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct By {
    /// The name of the account or token, or what the provider says.
    pub name: String,
    /// How they had signed in.
    pub how: How,
    /// What the provider calls them; it never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
}
