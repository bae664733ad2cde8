//! Sources and builds, for people.
//!
//! | route | request → answer |
//! |---|---|
//! | `GET  /api/v1/sources` | → `Vec<`[`Source`]`>` |
//! | `POST /api/v1/sources` | [`AddSource`] → [`Source`] |
//! | `DELETE /api/v1/sources/{name}` | → nothing; builds and packages stay |
//! | `POST /api/v1/sources/{name}/poll` | → nothing; look for commits now |
//! | `GET  /api/v1/builds?source=S&limit=N` | → `Vec<`[`Build`]`>`, newest first |
//! | `GET  /api/v1/builds/{id}` | → [`Build`] |
//! | `GET  /api/v1/builds/{id}/log?from=N` | → the log as text from byte `N`; header `x-volary-ended: true` when it is whole |
//! | `POST /api/v1/builds/{id}/retry` | → [`Build`], queued again |
//! | `POST /api/v1/builds/{id}/cancel` | → [`Build`], ended; it must wait or run |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{CommitId, SourceName};

/// A registered source repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// Its name.
    pub name: SourceName,
    /// Where it is; for a hosted one the address to push to.
    pub url: String,
    /// True if this server hosts it.
    pub hosted: bool,
    /// The branch whose commits are built.
    pub branch: String,
    /// The newest commit seen.
    pub tip: Option<CommitId>,
    /// When it was looked at last.
    pub polled_at: Option<Timestamp>,
    /// Why the last look failed, if it did.
    pub problem: Option<String>,
}

/// Registers a source repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddSource {
    /// Its name.
    pub name: SourceName,
    /// Where it is; `None` makes a hosted repository.
    pub url: Option<String>,
    /// The branch whose commits are built; `master` if absent.
    pub branch: Option<String>,
}

/// Where a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BuildState {
    /// It waits for its turn.
    Queued,
    /// It runs.
    Running,
    /// Its packages are in rolling.
    Succeeded,
    /// It failed; `reason` says why.
    Failed,
    /// Somebody ended it; `reason` says who.
    Cancelled,
}

/// One build of one commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// Its number on this server, from 1.
    pub id: i64,
    /// The source.
    pub source: SourceName,
    /// The commit.
    pub commit: CommitId,
    /// The first line of the commit's message.
    pub subject: String,
    /// The commit's author, as git writes it.
    pub author: String,
    /// Where it stands.
    pub state: BuildState,
    /// The version it made, once known.
    pub version: Option<String>,
    /// The binary packages it made: `name=version`.
    pub packages: Vec<String>,
    /// Why it failed, in one line.
    pub reason: Option<String>,
    /// When it was queued.
    pub queued_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How often it was tried.
    pub attempts: u32,
}
