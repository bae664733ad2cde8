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
//! | `GET  /api/v1/builds/{id}/buildinfo` | → its `.buildinfo` as text |
//! | `GET  /api/v1/builds/{id}/statuses` | → `Vec<`[`BuildStatus`]`>`, what hooks were told |
//! | `GET  /api/v1/builds/{id}/reproduction` | → [`Reproduction`] or null, the newest |
//! | `POST /api/v1/reproductions` | [`Reproduce`] → [`Reproduction`], queued |

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{Architecture, BuildMethod, BuildScope, CommitId, Digest, SourceName};

/// A registered source repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Source {
    /// Its name.
    pub name: SourceName,
    /// Where it is; for a hosted one the address to push to.
    pub url: String,
    /// True if this server hosts it.
    pub hosted: bool,
    /// The branch whose commits are built.
    pub branch: String,
    /// The architectures to build for, where the source itself does not say.
    #[serde(default)]
    pub architectures: Vec<Architecture>,
    /// The newest commit seen.
    pub tip: Option<CommitId>,
    /// When it was looked at last.
    pub polled_at: Option<Timestamp>,
    /// Why the last look failed, if it did.
    pub problem: Option<String>,
}

/// Registers a source repository.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct AddSource {
    /// Its name.
    pub name: SourceName,
    /// Where it is; `None` makes a hosted repository.
    pub url: Option<String>,
    /// The branch whose commits are built; `master` if absent.
    pub branch: Option<String>,
    /// The architectures to build for; the server's usual ones if empty.
    #[serde(default)]
    pub architectures: Vec<Architecture>,
}

/// Where a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
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
    /// The architecture that is built for.
    pub architecture: Architecture,
    /// Which packages it makes: those of that architecture, those for all, or both.
    pub scope: BuildScope,
    /// How they were made, once it is known.
    pub method: Option<BuildMethod>,
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
    /// Until when it waits because the machine was in trouble; `reason` says in which.
    #[serde(default)]
    pub waits_until: Option<Timestamp>,
    /// SHA-256 of its `.buildinfo`, if there is one to fetch.
    #[serde(default)]
    pub buildinfo: Option<Digest>,
    /// What lintian said, the worst first.
    #[serde(default)]
    pub lintian: Vec<LintianFinding>,
    /// Why the commit was built once more; absent for a new commit.
    #[serde(default)]
    pub because: Option<String>,
    /// The build of which it is a consequence.
    #[serde(default)]
    pub caused_by: Option<i64>,
}

/// Something that lintian found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LintianFinding {
    /// `error`, `warning` or `info`.
    pub severity: String,
    /// In which package.
    pub package: String,
    /// What it is called.
    pub tag: String,
    /// Where and what.
    pub detail: String,
}

/// What a forge or a program was told of a build.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct BuildStatus {
    /// The name of the hook.
    pub hook: String,
    /// The state that it was told last.
    pub told: Option<String>,
    /// How often telling the present one failed.
    pub attempts: u32,
    /// Why.
    pub problem: Option<String>,
}

/// Asks for a build to be made once more and compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reproduce {
    /// The number of a build, or the name of a source for its newest that succeeded.
    pub of: String,
}

/// Where a comparison stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum ReproductionState {
    /// It waits for its turn.
    Queued,
    /// The second build runs.
    Running,
    /// All packages are the same, byte for byte.
    Same,
    /// Some are not.
    Different,
    /// There was nothing to compare; `reason` says why.
    Failed,
}

/// A build that is made once more under other circumstances and compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Reproduction {
    /// Its number.
    pub id: i64,
    /// The build.
    pub build: i64,
    /// Who asked.
    pub asked_by: String,
    /// Where it stands.
    pub state: ReproductionState,
    /// Why there was nothing to compare.
    pub reason: Option<String>,
    /// What was not as in the first build.
    pub varied: Vec<String>,
    /// The packages.
    pub packages: Vec<ComparedPackage>,
    /// When it was asked for.
    pub queued_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

/// A package of two builds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ComparedPackage {
    /// The name of its file.
    pub file: String,
    /// True if it is the same, byte for byte.
    pub same: bool,
    /// What is not.
    pub differences: Vec<Difference>,
}

/// Something that is not the same in two packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename = "BuildDifference"))]
pub struct Difference {
    /// The member of the package: `data.tar.xz`.
    pub member: String,
    /// The file in it.
    pub path: String,
    /// What differs.
    pub what: String,
}
