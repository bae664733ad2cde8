//! Checking the archive, and removing what nothing names, for people.
//!
//! | route | request → answer |
//! |---|---|
//! | `POST /api/v1/archive/check` | [`Check`] → [`CheckLine`]s, each as JSON on a line of its own; the last is no progress |
//! | `POST /api/v1/archive/gc` | [`Collect`] → [`Collected`] |
//! | `GET  /api/v1/archive/why?package=P&version=V` | → `Vec<`[`Why`]`>`; without a version for all |

use serde::{Deserialize, Serialize};

use super::Problem;
use super::archive::Package;

/// Checks that every suite is whole.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Also read every file and compare its hash.
    #[serde(default)]
    pub deep: bool,
}

/// A line of the answer to [`Check`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum CheckLine {
    /// It goes on.
    Progress {
        /// Bytes that were read.
        done: u64,
        /// Bytes that are to be read.
        total: u64,
    },
    /// It is done.
    Report(CheckReport),
    /// It could not be done.
    Failed(Problem),
}

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct CheckReport {
    /// How many suites were looked at.
    pub suites: u64,
    /// How many index files.
    pub indexes: u64,
    /// How many package files.
    pub packages: u64,
    /// What is wrong, each with the file; empty if all is whole.
    pub problems: Vec<String>,
}

/// Removes what nothing names.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Collect {
    /// Only say what would go.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a collection removed, or would remove.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Collected {
    /// Packages.
    pub removed: Vec<Package>,
    /// Files that no record names: left by an upload that was cut off.
    pub strays: u64,
    /// Bytes freed.
    pub bytes: u64,
    /// How many packages stay.
    pub kept: u64,
    /// True if nothing was done.
    pub dry_run: bool,
}

/// Why a package stays in the archive.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Why {
    /// The package.
    pub package: Package,
    /// The reasons; empty if the next collection removes it.
    pub reasons: Vec<String>,
}
