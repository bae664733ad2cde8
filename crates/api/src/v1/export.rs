//! Exports of suites to folders and buckets, for people.
//!
//! | route | request → answer |
//! |---|---|
//! | `GET  /api/v1/exports` | → `Vec<`[`Export`]`>`: those that the server keeps up to date |
//! | `POST /api/v1/exports/{name}/run` | → [`Export`]; it is run at once, also while it waits after a failure |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// An export that the server keeps up to date.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Export {
    /// Its name in `server.toml`.
    pub name: String,
    /// Where it goes: a folder, or `s3://bucket/prefix`.
    pub to: String,
    /// What is exported, as `server.toml` says it.
    pub suites: Vec<String>,
    /// How it is.
    pub state: ExportState,
    /// When a run last ended well.
    pub done_at: Option<Timestamp>,
    /// Why the last run failed.
    pub problem: Option<String>,
    /// When it is tried again after a failure.
    pub next_at: Option<Timestamp>,
    /// What the last run that ended well did.
    pub last: Option<Exported>,
}

/// How an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ExportState {
    /// The target has what the archive has.
    Current,
    /// The archive has a newer state, which is about to be exported.
    Behind,
    /// A run is at work.
    Running,
    /// The last run failed; it is tried again.
    Failed,
}

/// What an export did, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Exported {
    /// The suites that were asked for.
    pub suites: Vec<String>,
    /// Those of them that clients see in a new state.
    pub changed: Vec<String>,
    /// Objects that were put.
    pub put: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that went, because nothing named them for the time of grace.
    pub removed: Vec<String>,
    /// Objects that nothing names and that wait for that time to end.
    pub waiting: u64,
    /// Why nothing was removed, if something in the target cannot be read.
    pub kept_because: Option<String>,
    /// True if nothing was done.
    pub dry_run: bool,
}

/// What a look at all of an export found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Verified {
    /// The suites that are there.
    pub suites: Vec<String>,
    /// Objects that were read and hashed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong.
    pub problems: Vec<ExportProblem>,
    /// Suites of which the archive has a later state.
    pub behind: Vec<String>,
}

/// An object of an export that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ExportProblem {
    /// Its key.
    pub key: String,
    /// What is wrong.
    pub problem: String,
}
