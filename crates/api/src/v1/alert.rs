//! Alerts, silences, and the feeds that tell others.
//!
//! | route | request → answer |
//! |---|---|
//! | `GET /api/v1/alerts?resolved=N` | → `Vec<`[`Alert`]`>`: the open ones, oldest first, then the last N that are over |
//! | `GET /api/v1/alerts/{id}` | → [`AlertDetails`] |
//! | `GET /api/v1/alert-changes?limit=N` | → `Vec<`[`AlertChange`]`>`, newest first |
//! | `GET /api/v1/silences?all=true` | → `Vec<`[`Silence`]`>`: those that have not ended, or all |
//! | `POST /api/v1/silences` | [`NewSilence`] → [`Silence`] |
//! | `DELETE /api/v1/silences/{id}` | ends it now |
//! | `GET /api/v1/feeds` | → `Vec<`[`Feed`]`>` |

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::DeviceName;

/// Where an alert is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum AlertState {
    /// It has not fired for long enough to be told.
    Pending,
    /// It goes on.
    Firing,
    /// It is over.
    Resolved,
}

/// How bad an alert is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// Worth a look in working hours.
    Warning,
    /// Somebody should look now.
    Critical,
}

/// One cause that something is wrong with devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Alert {
    /// Rises.
    pub id: u64,
    /// What is wrong, in one line: `312 devices: check dns, v1.2 to v1.3, type pi4`.
    pub summary: String,
    /// The rule that fires: `device-failed`, `device-refused`, `device-silent`, or a watch rule.
    pub rule: String,
    /// What tells this cause from others: `step`, `check`, `release`, `type`, `stage`.
    pub labels: BTreeMap<String, String>,
    /// How bad it is.
    pub severity: Severity,
    /// Where it is in its life.
    pub state: AlertState,
    /// How many devices it has, or had last.
    pub devices: usize,
    /// How many of them a silence covers.
    pub silenced: usize,
    /// How many devices it had at most at one time.
    pub most: usize,
    /// When it fired first.
    pub since: Timestamp,
    /// When it began.
    pub began_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
}

/// A device of an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AlertDevice {
    /// Its name.
    pub device: DeviceName,
    /// Since when it fires.
    pub since: Timestamp,
    /// Since when it is quiet, if it is; it counts until that has lasted.
    #[serde(default)]
    pub quiet_since: Option<Timestamp>,
    /// True if a silence covers it.
    pub silenced: bool,
    /// One line about it.
    pub summary: String,
}

/// An alert with its devices and history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AlertDetails {
    /// The alert.
    pub alert: Alert,
    /// Its devices by name; at the end those that it had last.
    pub devices: Vec<AlertDevice>,
    /// What became of it, newest first.
    pub changes: Vec<AlertChange>,
}

/// Something that became of an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AlertChange {
    /// The alert.
    pub alert: u64,
    /// When.
    pub at: Timestamp,
    /// `began`, `spread`, `worse`, `resolved`.
    pub kind: String,
    /// One sentence.
    pub text: String,
}

/// Asks that people are not told of some alerts for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct NewSilence {
    /// Conditions that must all hold: `stage=canary`, `device=shop-*`, `rule=device-silent`, …
    pub matchers: Vec<String>,
    /// For how many seconds.
    pub seconds: u64,
    /// Why.
    pub reason: String,
}

/// A silence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Silence {
    /// Rises.
    pub id: u64,
    /// Conditions that must all hold.
    pub matchers: Vec<String>,
    /// Why.
    pub reason: String,
    /// Who made it.
    pub author: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends, or ended.
    pub ends_at: Timestamp,
    /// Who ended it before its time.
    #[serde(default)]
    pub ended_by: Option<String>,
}

/// How a feed is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Feed {
    /// Its kind and name: `webhook/ops`.
    pub name: String,
    /// How many messages wait for it.
    pub waiting: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many messages it took in all.
    pub sent: u64,
    /// When it was told last.
    pub sent_at: Option<Timestamp>,
    /// How many messages were dropped in all, since its queue was full or they were too old for it.
    pub dropped: u64,
    /// How many messages it refused in all.
    pub refused: u64,
    /// Why it fails, if it does.
    pub problem: Option<String>,
    /// Since when it fails.
    pub failing_since: Option<Timestamp>,
}
