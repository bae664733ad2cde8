//! Devices, tokens and promotions, for people.
//!
//! | route | request → answer |
//! |---|---|
//! | `GET  /api/v1/devices` | → `Vec<`[`Device`](super::status::Device)`>` |
//! | `GET  /api/v1/devices/{name}` | → [`Device`](super::status::Device) |
//! | `GET  /api/v1/devices/{name}/reports?limit=N&results=BOOL` | → `Vec<`[`Report`](super::device::Report)`>`, newest first; `results=true`: only those of convergences |
//! | `POST /api/v1/devices/{name}/accept` | [`Accept`] → nothing |
//! | `POST /api/v1/devices/{name}/reject` | → nothing; its certificate counts no more |
//! | `DELETE /api/v1/devices/{name}` | → nothing |
//! | `POST /api/v1/device-tokens` | [`NewDeviceToken`] → [`DeviceToken`] |
//! | `GET  /api/v1/tokens` | → `Vec<`[`Token`]`>` |
//! | `POST /api/v1/tokens` | [`NewToken`] → [`TokenSecret`] |
//! | `DELETE /api/v1/tokens/{name}` | → nothing |
//! | `GET  /api/v1/promotion?from=A&to=B` | → [`Promotion`] |
//! | `POST /api/v1/promotion` | [`Promote`] → [`Promoted`]; the server merges, where `promote` in `volary.yml` lets it |
//! | `GET  /api/v1/server-keys` | → [`ServerKeys`] |
//! | `GET  /api/v1/gates?to=B&commit=C` | → `Vec<`[`Verdict`]`>`: the gates of merging commit C into B |
//! | `GET  /api/v1/cves` | → [`CveData`] or null |
//! | `PUT  /api/v1/cves?release=R` | the data of Debian's security tracker (JSON) → [`CveData`] |
//! | `GET  /api/v1/gate-statuses[?commit=C]` | → `Vec<`[`GateStatus`]`>`, the newest first |
//! | `POST /api/v1/gate-statuses` | [`NewGateStatus`] → [`GateStatus`]: what an `external` gate says of a commit |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{CommitId, Component, DeviceName, GateName, StageName};

use super::archive::PackageChange;
use super::image::ImageChange;

/// Accepts a waiting device.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Accept {
    /// The stage it begins in.
    pub stage: StageName,
    /// The name it gets: for devices whose client is Mender's, which do not know their own.
    #[serde(default, rename = "as", skip_serializing_if = "Option::is_none")]
    pub as_name: Option<DeviceName>,
}

/// Asks for a join token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewDeviceToken {
    /// The stage that devices with it begin in.
    pub stage: StageName,
    /// How many devices may use it.
    pub uses: u32,
    /// How long it is good for, in seconds.
    pub valid_for: u64,
}

/// A join token; see [`crate::join`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceToken {
    /// The token's text.
    pub token: String,
    /// Until when it is good.
    pub expires_at: Timestamp,
}

/// What a person's or a program's token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// Everything.
    Admin,
    /// What developers and operators may; merge on the page, and let a rollout go on.
    ReleaseManager,
    /// See everything; accept, reject and remove devices, silence alerts, stop a rollout.
    Operator,
    /// See everything; push to git and to the archive; cut, pick, freeze.
    Developer,
    /// See everything, change nothing; read the git repositories.
    Viewer,
    /// Upload packages within its limits, and nothing else: for build machines elsewhere.
    Upload,
    /// Say what external gates of its limits say of commits, and nothing else: for test benches and the like.
    Gate,
}

/// What a token that may only upload may upload. An empty list limits nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UploadLimits {
    /// Patterns of package names: `hello*`.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Components of rolling, which is the only suite that takes uploads: `main`, and `debug` for debug
    /// symbols.
    #[serde(default)]
    pub components: Vec<Component>,
    /// The external gates that it may speak for; only with the role `gate`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gates: Vec<GateName>,
}

/// A token, without its secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Token {
    /// Its name: who or what uses it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// What it may upload, if it may do nothing else.
    #[serde(default)]
    pub limits: Option<UploadLimits>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was used last.
    pub used_at: Option<Timestamp>,
}

/// Asks for a token.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewToken {
    /// Its name: who or what will use it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// What it may upload, or for which gates it may speak; only with the roles `upload` and `gate`.
    #[serde(default)]
    pub limits: Option<UploadLimits>,
}

/// A new token; the only time its secret is shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TokenSecret {
    /// Its name.
    pub name: String,
    /// The secret.
    pub secret: String,
}

/// What a gate says; the severest word last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Say {
    /// The condition holds.
    Go,
    /// Data is missing; a person must look.
    Ask,
    /// The condition does not hold.
    Stop,
}

/// A gate's word with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verdict {
    /// The gate: `frozen`, `soak`, `healthy`, `images`.
    pub gate: String,
    /// What it says.
    pub say: Say,
    /// Why, with the figures.
    pub reason: String,
}

/// Asks the server to merge.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Promote {
    /// The stage whose commit is merged.
    pub from: StageName,
    /// The stage that receives it.
    pub to: StageName,
    /// The commit that was looked at: if `from` is at another one by now, nothing is merged.
    pub commit: CommitId,
}

/// The server merged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Promoted {
    /// The merge.
    pub merge: CommitId,
}

/// The server's own keys, as lines for `.volary/allowed_signers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ServerKeys {
    /// It signs evidence, and can sign nothing else.
    pub evidence: String,
    /// It merges into stages with `promote: automatic`.
    pub promotion: String,
}

/// What was said of a commit under the name of a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct GateStatus {
    /// The gate's name.
    pub gate: GateName,
    /// The stage of the merge that a command of the server was run for; nothing for what others say.
    #[serde(default)]
    pub stage: Option<StageName>,
    /// The commit that would be merged.
    pub commit: CommitId,
    /// The word.
    pub say: Say,
    /// Why, in one line.
    pub reason: String,
    /// The token that said it; a command has none.
    #[serde(default)]
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// Says what an external gate says of a commit.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewGateStatus {
    /// The gate's name.
    pub gate: GateName,
    /// The commit that would be merged: the tip of the stage before.
    pub commit: CommitId,
    /// The word.
    pub say: Say,
    /// Why, in one line.
    pub reason: String,
}

/// What merging one stage into the next would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Promotion {
    /// The stage whose commit is merged.
    pub from: StageName,
    /// The stage that receives it.
    pub to: StageName,
    /// The commit to merge: the tip of `from`'s branch.
    pub commit: CommitId,
    /// The tip of `to`'s branch now.
    pub base: Option<CommitId>,
    /// True if `to` has everything of `from` already.
    pub up_to_date: bool,
    /// Suite of `to` now.
    pub suite_before: Option<String>,
    /// Suite of `to` afterwards.
    pub suite_after: Option<String>,
    /// Packages that change for the devices of `to`.
    pub packages: Vec<PackageChange>,
    /// Images that change for them.
    #[serde(default)]
    pub images: Vec<ImageChange>,
    /// Files of the fleet repository that change: `M site.yml`, `A …`, `D …`.
    pub files: Vec<String>,
    /// Commits that come along: short id and subject, newest first.
    pub commits: Vec<String>,
    /// How many devices will move.
    #[serde(default)]
    pub device_count: usize,
    /// The first of them, at most 20; `GET /api/v1/devices?stage=…` has all.
    pub devices: Vec<DeviceName>,
    /// Security faults that the change of packages mends and brings; `None` where nobody gave the data for it.
    #[serde(default)]
    pub cves: Option<CveChanges>,
    /// What the devices of `from` did with the commit: they are the dry run.
    #[serde(default)]
    pub trial: Trial,
    /// What the gates say.
    pub verdicts: Vec<Verdict>,
}

/// What the devices of a stage did with a commit, by what they reported last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Trial {
    /// All devices of the stage.
    pub devices: usize,
    /// Those that came to the commit and are well.
    pub good: usize,
    /// Those that failed with it, were put back, or are not well since.
    pub failed: usize,
    /// How many tasks changed something on a device; `None` if no device told.
    pub changed_tasks: Option<Spread>,
    /// How many packages changed on a device.
    pub changed_packages: Option<Spread>,
    /// How many seconds a device took from the beginning until the commit held.
    pub seconds: Option<Spread>,
    /// What failed, on the most devices first.
    pub failures: Vec<TrialNote>,
    /// Devices that have the commit and looked since for what differs from it.
    pub looked: usize,
    /// Those of them that found something.
    pub drifted: usize,
    /// What they found, tasks that would change something and packages, on the most devices first.
    pub drift: Vec<TrialNote>,
}

/// Values of several devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Spread {
    /// The least.
    pub least: u64,
    /// The one in the middle.
    pub median: u64,
    /// The most.
    pub most: u64,
}

/// Something that was seen on devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct TrialNote {
    /// What, as a sentence.
    pub what: String,
    /// On how many devices.
    pub count: usize,
    /// The first of them.
    pub devices: Vec<DeviceName>,
}

/// Which data of Debian's security tracker the server has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CveData {
    /// The release of Debian that it was read for.
    pub release: String,
    /// When it was given.
    pub imported_at: Timestamp,
    /// Who gave it.
    pub by: String,
    /// Source packages with faults.
    pub packages: usize,
    /// Their faults.
    pub faults: usize,
}

/// The security faults that a change of packages mends and brings, the most urgent first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CveChanges {
    /// The release of Debian that the data is for.
    pub release: String,
    /// When the data was given.
    pub imported_at: Timestamp,
    /// How many are mended.
    pub closed_count: usize,
    /// How many come.
    pub opened_count: usize,
    /// Those that are mended; 200 at most.
    pub closed: Vec<Cve>,
    /// Those that come; 200 at most.
    pub opened: Vec<Cve>,
}

/// A security fault of a source package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cve {
    /// Its name: `CVE-2024-6387`.
    pub id: String,
    /// The source package.
    pub source: String,
    /// How urgent Debian finds it: `high`, `low`, `not yet assigned`.
    pub urgency: String,
    /// The first version without it, if there is one.
    #[serde(default)]
    pub fixed_version: Option<String>,
}
