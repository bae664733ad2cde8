//! Why a foreign publication is not taken.

use jiff::Timestamp;
use volary_host::FileError;

use super::fetch::FetchError;

/// Why a publication, or a part of it, is not taken. Nothing has changed in the archive.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// A file of ours.
    #[error(transparent)]
    File(#[from] FileError),
    /// A file of theirs.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// There is no such suite.
    #[error("{place} has no suite {suite}: there is neither {path}/InRelease nor {path}/Release")]
    NoSuite {
        /// The publication.
        place: String,
        /// The suite.
        suite: String,
        /// Its folder.
        path: String,
    },
    /// A file that the Release file names is not there.
    #[error("{place} names {path} but does not have it; it may be in the middle of an update, so try again")]
    Gone {
        /// The publication.
        place: String,
        /// The file.
        path: String,
    },
    /// No good signature.
    #[error("the signature of {path} is not accepted: {problem}")]
    Signature {
        /// The signed file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A keyring that cannot be used.
    #[error("the keyring cannot be used: {0}")]
    Keyring(String),
    /// The Release file is not understood.
    #[error("{path} is not a usable Release file: {problem}")]
    Release {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// The Release file is for something else.
    #[error(
        "{path} is for another suite: it says {says}, and {wanted} is wanted; \
         if that is the same, name the suite as it names itself"
    )]
    OtherSuite {
        /// The file.
        path: String,
        /// What it names.
        says: String,
        /// What was asked for.
        wanted: String,
    },
    /// Past its Valid-Until.
    #[error(
        "{place} is stale: {suite} was valid until {until}; its mirror has stopped, or somebody replays an old state"
    )]
    Expired {
        /// The publication.
        place: String,
        /// The suite.
        suite: String,
        /// Its end.
        until: Timestamp,
    },
    /// Older than what we have.
    #[error(
        "{place} went back in time: {suite} is of {date}, and we have that of {had}; \
         somebody replays an old state, or its mirror lags behind"
    )]
    Backwards {
        /// The publication.
        place: String,
        /// The suite.
        suite: String,
        /// What it says now.
        date: Timestamp,
        /// What it said before.
        had: Timestamp,
    },
    /// From the future.
    #[error("{suite} of {place} is of {date}, which is in the future; is this machine's clock right?")]
    Ahead {
        /// The publication.
        place: String,
        /// The suite.
        suite: String,
        /// Its date.
        date: Timestamp,
    },
    /// A mirror with the name of a component of own packages.
    #[error("a mirror cannot be named {0}: own packages are there; choose another name")]
    Name(volary_model::Component),
    /// The suite does not have what is asked for.
    #[error("{suite} has no {what} {name}; it has: {there}")]
    Lacks {
        /// The suite.
        suite: String,
        /// "component", "architecture".
        what: &'static str,
        /// What was asked for.
        name: String,
        /// What there is.
        there: String,
    },
    /// An index that cannot be read.
    #[error("the index {path} cannot be used: {problem}")]
    Index {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// A file is not what the signed list says.
    #[error(
        "{path} has {what} {found}, and the signed list says {expected}; it was damaged or tampered with"
    )]
    Mismatch {
        /// The file.
        path: String,
        /// "size" or "SHA-256".
        what: &'static str,
        /// As listed.
        expected: String,
        /// As found.
        found: String,
    },
    /// A package is not what its index says.
    #[error("{path} is not the package that the index describes: {problem}")]
    Package {
        /// The file.
        path: String,
        /// What is wrong.
        problem: String,
    },
    /// Not enough room.
    #[error(
        "{needed} bytes are needed in {dir} and {free} are free; make room, or take less with a narrower filter"
    )]
    Space {
        /// The folder.
        dir: String,
        /// What is to come, with a reserve.
        needed: u64,
        /// What there is.
        free: u64,
    },
    /// Somebody asked to stop.
    #[error("it was stopped; what was fetched is kept, and the next sync goes on from there")]
    Stopped,
}
