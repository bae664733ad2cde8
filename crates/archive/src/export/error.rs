//! What can go wrong in an export.

use volary_host::{FileError, LockError};

use crate::error::Error;
use crate::export::target::TargetError;

/// Why an export did not happen, or did not end. The target is whole in each case, as its clients
/// see it.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The archive itself.
    #[error(transparent)]
    Archive(#[from] Error),
    /// A file of the archive.
    #[error(transparent)]
    File(#[from] FileError),
    /// The target.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Another export to the same target is at work.
    #[error("another export to {target} is at work: {source}")]
    Busy {
        /// The target.
        target: String,
        /// The lock.
        source: LockError,
    },
    /// A file is not what the signed suite says.
    #[error("{key} cannot be exported: {problem}; `volary archive check` looks at the whole archive")]
    Damaged {
        /// The file.
        key: String,
        /// What is wrong.
        problem: String,
    },
    /// Something else lies in the target.
    #[error("{target} has files that no export made, such as {found}; export to an empty place")]
    Foreign {
        /// The target.
        target: String,
        /// One of them.
        found: String,
    },
    /// Another archive exports to the target.
    #[error("{target} is an export of {found:?}, and this archive is {own:?}; choose another place")]
    OtherArchive {
        /// The target.
        target: String,
        /// The archive there.
        found: String,
        /// This archive.
        own: String,
    },
    /// The exporter's note in the target cannot be read.
    #[error(
        "volary-export.json in {target} cannot be read: {problem}; remove it if the place is this archive's alone, and export again"
    )]
    Note {
        /// The target.
        target: String,
        /// What is wrong.
        problem: String,
    },
    /// An object is not there after it was put.
    #[error("{key} is not in {target} as it was put: {problem}")]
    NotTaken {
        /// The object.
        key: String,
        /// The target.
        target: String,
        /// What is there.
        problem: String,
    },
}

impl ExportError {
    /// A file of the archive that is not what it should be.
    pub(crate) fn damaged(key: &str, problem: &(impl std::fmt::Display + ?Sized)) -> Self {
        Self::Damaged { key: key.to_owned(), problem: problem.to_string() }
    }
}
