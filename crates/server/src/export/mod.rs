//! Exports of suites, run by hand or kept up to date: where they go and with which key. What is
//! exported and in which order is decided in the archive; buckets are here because they are
//! reached through HTTP.

mod bucket;
mod credentials;
mod keeper;
mod place;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use volary_api::v1::export::{ExportProblem, Exported, Verified};
use volary_archive::Archive;
use volary_archive::export::{ExportError, ExportReport, VerifyReport};

pub use place::ExportConfig;
pub use volary_archive::export::ExportEvent;

use crate::{Layout, ServerError};

pub(crate) use keeper::{Keeper, keep};

/// How to run an export by hand.
#[derive(Debug, Clone, Default)]
pub struct ExportRun {
    /// Suites in the target that were not asked for go after the grace.
    pub only: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Put these objects again.
    pub again: BTreeSet<String>,
}

/// Why an export cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ExportFailure {
    /// The place or the suites.
    #[error("{0}")]
    Place(String),
    /// No key for a bucket.
    #[error(
        "there is no key for the bucket; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a file with credentials"
    )]
    NoCredentials,
    /// The file with the key.
    #[error("the credentials in {} cannot be used: {problem}", .path.display())]
    Credentials {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The bucket's client.
    #[error("the bucket cannot be used: {0}")]
    Store(String),
    /// The server's folder.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The export itself.
    #[error(transparent)]
    Export(#[from] ExportError),
}

/// Exports suites of the server in `dir`, which may be running.
///
/// # Errors
/// [`ExportFailure`]; clients of the target then see what they saw before.
pub fn export(
    dir: &Path,
    config: &ExportConfig,
    run: &ExportRun,
    on_event: &(dyn Fn(ExportEvent<'_>) + Sync),
) -> Result<Exported, ExportFailure> {
    let archive = open(dir)?;
    let mut options = config.options();
    (options.only, options.dry_run, options.again) = (run.only, run.dry_run, run.again.clone());
    // A person who asks wants to know that it is whole, and not what was so the last time.
    options.thorough = true;
    let choices = config.choices().map_err(ExportFailure::Place)?;
    let target = config.target()?;
    Ok(exported(archive.export(&*target, &choices, &options, volary_host::now(), on_event)?))
}

/// Reads and checks all that is in the target of an export.
///
/// # Errors
/// That it cannot be read at all; what is wrong in it is in the answer.
pub fn verify_export(dir: &Path, config: &ExportConfig) -> Result<Verified, ExportFailure> {
    let archive = open(dir)?;
    Ok(verified(archive.verify_export(&*config.target()?, volary_host::now())?))
}

fn open(dir: &Path) -> Result<Archive, ServerError> {
    let layout = Layout::new(dir);
    if !layout.config().is_file() {
        return Err(ServerError::NotInitialised(layout.root().to_owned()));
    }
    Ok(Archive::open(&layout.archive())?)
}

fn exported(report: ExportReport) -> Exported {
    Exported {
        suites: report.suites.iter().map(ToString::to_string).collect(),
        changed: report.changed.iter().map(ToString::to_string).collect(),
        put: report.put as u64,
        bytes: report.bytes,
        removed: report.removed,
        waiting: report.waiting as u64,
        kept_because: report.kept_because,
        dry_run: report.dry_run,
    }
}

fn verified(report: VerifyReport) -> Verified {
    let problem = |(key, problem)| ExportProblem { key, problem };
    Verified {
        suites: report.suites,
        objects: report.objects as u64,
        bytes: report.bytes,
        problems: report.problems.into_iter().map(problem).collect(),
        behind: report.behind,
    }
}
