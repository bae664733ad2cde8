//! Packages, suites and releases, for people.
//!
//! | route | request → answer |
//! |---|---|
//! | `PUT  /api/v1/uploads/{id}/{file}` | bytes → nothing; `id` is 32 hexadecimal digits that the client chose |
//! | `PUT  /api/v1/uploads/{id}` | several files as a tar archive → nothing |
//! | `POST /api/v1/uploads/{id}/include` | [`Include`] → [`Included`]; the upload ends with it |
//! | `PUT` or `POST /api/v1/upload/{file}` | bytes → [`Included`]; a `.deb`, or a `.tar` of a `.changes` with its files |
//! | `GET  /api/v1/packages?suite=S` | → `Vec<`[`Package`]`>` |
//! | `GET  /api/v1/releases` | → `Vec<`[`Release`]`>` |
//! | `POST /api/v1/releases` | [`Cut`] → [`Release`] |
//! | `GET  /api/v1/releases/{name}` | → [`Release`] |
//! | `POST /api/v1/releases/{name}/picks` | [`Pick`] → [`Picked`] |
//! | `POST /api/v1/releases/{name}/freeze` | → [`Release`] |
//! | `POST /api/v1/releases/{name}/protect` | [`Protect`] → [`Release`] |
//! | `POST /api/v1/releases/{name}/unprotect` | → [`Release`] |
//! | `DELETE /api/v1/releases/{name}` | → the [`Release`] that is gone; refused while something uses it |
//! | `GET  /api/v1/releases/{name}/pin` | → [`Pin`] of the newest revision, `?revision=r1` for another |
//! | `GET  /api/v1/diff?from=S&to=S` | → [`Difference`] |

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{
    Architecture, CommitId, Digest, IndexName, PackageName, ReleaseName, ReleaseRef, Revision, SourceName,
};

/// Takes the uploaded files into the archive and rolling.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Include {
    /// Take a `.changes` without a signature (only an administrator may say so).
    #[serde(default)]
    pub allow_unsigned: bool,
}

/// What an inclusion did.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Included {
    /// Packages that are new in the archive.
    pub added: Vec<Package>,
    /// Packages that were there already with the same content.
    pub already_there: Vec<Package>,
}

/// One package in a suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Package {
    /// Its name.
    pub name: PackageName,
    /// Its Debian version.
    pub version: String,
    /// `amd64`, `all`, …
    pub architecture: Architecture,
    /// The Debian source package that it was built from.
    pub source: String,
    /// Size of the .deb in bytes.
    pub size: u64,
    /// SHA-256 of the .deb.
    pub sha256: Digest,
    /// The registered source that it came from, if our builder made it.
    #[serde(default)]
    pub built_from: Option<SourceName>,
    /// The commit that it was built from.
    #[serde(default)]
    pub commit: Option<CommitId>,
    /// The build that made it.
    #[serde(default)]
    pub build: Option<i64>,
    /// When it came into the archive.
    pub included_at: Timestamp,
}

/// A release with all its revisions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Release {
    /// Its name.
    pub name: ReleaseName,
    /// When it was frozen; `None` while it takes picks.
    pub frozen_at: Option<Timestamp>,
    /// Why it must not be dropped, if that is so.
    #[serde(default)]
    pub protection: Option<Protection>,
    /// Its revisions, oldest first; never empty.
    pub revisions: Vec<ReleaseRevision>,
}

/// Why a release must not be dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Protection {
    /// Since when.
    pub since: Timestamp,
    /// Who said so.
    pub by: String,
    /// Why.
    pub reason: String,
}

/// Protects a release from being dropped.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Protect {
    /// Why, in a line.
    pub reason: String,
}

/// One immutable revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ReleaseRevision {
    /// Its number.
    pub revision: Revision,
    /// The digest of its package set.
    pub digest: Digest,
    /// When it was made.
    pub created_at: Timestamp,
    /// How many packages it holds.
    pub packages: u64,
    /// What was picked to make it: `name=version`; empty for the cut.
    pub picks: Vec<String>,
}

/// Cuts a release from rolling.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Cut {
    /// Its name.
    pub name: ReleaseName,
}

/// Picks packages from rolling into an open release.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pick {
    /// `name` or `name=version`.
    pub packages: Vec<String>,
    /// Only say what would happen.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a pick did, or would do.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Picked {
    /// The new revision, or the one it would be.
    pub release: ReleaseRef,
    /// What changes against the revision before, with what was taken along for dependencies.
    pub changes: Vec<PackageChange>,
    /// What that means for a device of each architecture.
    #[serde(default)]
    pub downloads: Vec<Download>,
    /// True if nothing was done.
    pub dry_run: bool,
}

/// A package that differs between two suites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PackageChange {
    /// Its name.
    pub name: PackageName,
    /// Its architecture.
    pub architecture: Architecture,
    /// Its version before; `None` if it is new.
    pub from: Option<String>,
    /// Its version after; `None` if it is gone.
    pub to: Option<String>,
    /// Bytes of the .deb that a device fetches for it.
    #[serde(default)]
    pub size: u64,
    /// Bytes of the .deb before.
    #[serde(default)]
    pub size_before: u64,
    /// Bytes that it takes up on a device.
    #[serde(default)]
    pub installed: u64,
    /// Bytes that it took up before.
    #[serde(default)]
    pub installed_before: u64,
    /// Why it comes along with a pick.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub because: String,
}

/// What a device of an architecture that has all of the packages fetches for a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Download {
    /// The architecture; `all` if every device fetches the same.
    pub architecture: Architecture,
    /// How many packages it fetches.
    pub packages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many bytes more the packages take up afterwards, by what they say themselves.
    pub growth: i64,
}

/// What differs between two suites.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Difference {
    /// The first suite.
    pub from: String,
    /// The second suite.
    pub to: String,
    /// The packages that are not the same.
    pub packages: Vec<PackageChange>,
    /// What that means for a device of each architecture.
    pub downloads: Vec<Download>,
    /// What changed in their sources, as their changelogs say.
    pub sources: Vec<SourceChange>,
}

/// What changed in a source package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SourceChange {
    /// Its name.
    pub source: String,
    /// Its version in the first suite; `None` if it is new.
    pub from: Option<String>,
    /// Its version in the second suite.
    pub to: String,
    /// True if the second suite has the older one: then these entries are what is lost.
    pub backwards: bool,
    /// The entries between the two, newest first; the newest one of a source that is new.
    pub entries: Vec<ChangelogEntry>,
}

/// An entry of a changelog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ChangelogEntry {
    /// The version that it describes.
    pub version: String,
    /// What changed, as written.
    pub changes: String,
    /// Who made it and when.
    pub trailer: String,
}

/// What `volary.lock` says of a release revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Pin {
    /// The release and its revision.
    pub release: ReleaseRef,
    /// The digest of the package set.
    pub digest: Digest,
    /// SHA-256 of each plain `Packages` index, by component and architecture.
    pub indexes: BTreeMap<IndexName, Digest>,
}
