//! Exports of suites: the same signed files in a place of their own, such as a folder of a web
//! server or a bucket behind a CDN, where apt finds them without this archive.
//!
//! What never changes goes first and `InRelease` last, so that a client sees the old suite or the
//! new one; what nothing names any more goes after a time of grace. A run that is cut off leaves
//! a whole tree behind, and the next one goes on where it ended. Not here: buckets (they are
//! behind [`Target`]), and when to export.

mod edition;
mod error;
mod folder;
mod names;
mod note;
mod plan;
mod run;
mod suites;
pub mod target;
mod verify;

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use volary_model::Suite;

pub use error::ExportError;
pub use folder::FolderTarget;
pub use suites::SuiteChoice;
pub use target::{Content, Inventory, Kind, Stat, Target, TargetError};
pub use verify::VerifyReport;

/// How to export.
#[derive(Debug, Clone)]
pub struct ExportOptions {
    /// Also a `Release` and a `Release.gpg`, for clients that read no `InRelease`.
    pub detached: bool,
    /// Suites that are in the target and not asked for go, after the grace.
    pub only: bool,
    /// How long what nothing names any more stays: clients may hold an older index.
    pub grace: SignedDuration,
    /// Look at all that is there, also when nothing changed since the last run.
    pub thorough: bool,
    /// Put these objects again, whatever is there.
    pub again: BTreeSet<String>,
    /// Only say what would be done.
    pub dry_run: bool,
}

impl Default for ExportOptions {
    /// A week of grace: a device that updates its lists each day has long forgotten what goes.
    fn default() -> Self {
        Self {
            detached: false,
            only: false,
            grace: SignedDuration::from_hours(7 * 24),
            thorough: false,
            again: BTreeSet::new(),
            dry_run: false,
        }
    }
}

/// What happens during an export.
#[derive(Debug, Clone, Copy)]
pub enum ExportEvent<'a> {
    /// So much is to be put.
    Planned {
        /// Objects.
        objects: usize,
        /// Bytes.
        bytes: u64,
    },
    /// An object is in the target.
    Put {
        /// Its key.
        key: &'a str,
        /// Bytes.
        size: u64,
    },
    /// From here on clients see a suite's new state.
    Published(&'a str),
    /// An object that nothing named is gone.
    Removed(&'a str),
}

/// What an export did, or would do.
#[derive(Debug, Clone, Default)]
pub struct ExportReport {
    /// The suites that were asked for.
    pub suites: Vec<Suite>,
    /// Those of them that clients see in a new state.
    pub changed: Vec<Suite>,
    /// Objects that were put.
    pub put: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that went because nothing named them for the time of grace.
    pub removed: Vec<String>,
    /// Objects that nothing names, and that wait for their grace to end.
    pub waiting: usize,
    /// Why nothing was removed, if something in the target cannot be read.
    pub kept_because: Option<String>,
    /// True if nothing was done.
    pub dry_run: bool,
}

/// The time of a run, and what it tells.
pub(crate) struct Run<'a> {
    pub(crate) target: &'a dyn Target,
    pub(crate) options: &'a ExportOptions,
    pub(crate) now: Timestamp,
    pub(crate) on_event: &'a (dyn Fn(ExportEvent<'_>) + Sync),
}
