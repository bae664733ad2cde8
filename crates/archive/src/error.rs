//! What can go wrong in the archive, said so that a person knows what to do.

use std::path::PathBuf;

use volary_debian::Version;
use volary_debian::changes::ChangesError;
use volary_debian::deb::DebError;
use volary_host::{FileError, LockError};
use volary_model::{Architecture, Digest, InvalidName, ReleaseName, Suite};

use crate::lifecycle::Protection;
use crate::pick::PickRefusal;
use crate::rotation::KeyRefusal;
use crate::upstream::UpstreamError;

/// Why an operation on the archive did not happen. Unless the variant says otherwise, nothing
/// has changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder of the archive.
    #[error(transparent)]
    File(#[from] FileError),
    /// A foreign publication is not taken.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// Another process works on the archive for too long.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// There is no archive.
    #[error("{} is not an archive: it has no archive.json; make one with `volary init`", .0.display())]
    NotAnArchive(PathBuf),
    /// There is one already.
    #[error("{} has an archive already", .0.display())]
    Exists(PathBuf),
    /// Settings that cannot be used.
    #[error("the archive cannot have {0}")]
    Settings(String),
    /// A state file that cannot be read.
    #[error("{} is damaged: {problem}; restore it from a backup", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// A state file of a newer Volary.
    #[error("{} has format version {version}, and this Volary knows 1; use a newer one", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u64,
    },
    /// The signing key cannot be used.
    #[error("the key {} cannot be used: {problem}", .path.display())]
    Key {
        /// The key file.
        path: PathBuf,
        /// What the OpenPGP library said.
        problem: String,
    },
    /// A key does not sign. Suites are as they were.
    #[error("the key {fingerprint} did not sign, so nothing was published: {problem}")]
    Signer {
        /// The key.
        fingerprint: String,
        /// What its signer said, or what is wrong with what it made.
        problem: String,
    },
    /// The keys cannot be changed so.
    #[error(transparent)]
    Keys(#[from] KeyRefusal),
    /// An offered file is refused.
    #[error("{file} is refused: {reason}")]
    Refused {
        /// The file as the caller named it.
        file: String,
        /// Why.
        reason: Box<RefusalReason>,
    },
    /// No such suite.
    #[error("there is no suite {0}")]
    NoSuite(Suite),
    /// No such release.
    #[error("there is no release {0}; `volary release list` shows those that are")]
    NoRelease(ReleaseName),
    /// A release of that name is there already.
    #[error("there is a release {0} already; a release is cut once, and then takes picks")]
    ReleaseExists(ReleaseName),
    /// A release of that name was dropped.
    #[error("there was a release {0}, and lock files may still name it; take another name")]
    Dropped(ReleaseName),
    /// The release must not go.
    #[error("release {release} is protected by {}{}; end that first with `volary release unprotect {release}`",
        .protection.by, if .protection.reason.is_empty() { String::new() } else { format!(": {}", .protection.reason) })]
    Protected {
        /// The release.
        release: ReleaseName,
        /// Who said so, and why.
        protection: Protection,
    },
    /// The release takes no more picks.
    #[error("release {0} is frozen and takes no more picks; cut a new release")]
    Frozen(ReleaseName),
    /// A pick that would not leave a whole release.
    #[error("release {release} cannot take this pick: {refusal}")]
    Pick {
        /// The release.
        release: ReleaseName,
        /// Why.
        refusal: Box<PickRefusal>,
    },
}

/// Why an offered file does not enter the archive.
#[derive(Debug, thiserror::Error)]
pub enum RefusalReason {
    /// Neither kind of file.
    #[error("it is neither a .deb nor a .changes")]
    Kind,
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Read(#[source] std::io::Error),
    /// Not a usable package.
    #[error("{}", .0.problem)]
    Deb(#[from] DebError),
    /// Not a usable .changes.
    #[error("{0}")]
    Changes(#[from] ChangesError),
    /// A name that is valid for Debian but not for us.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// No signature where one must be.
    #[error("it is not signed, and this archive takes only signed uploads; sign it with `debsign`")]
    Unsigned,
    /// A signature by nobody who may upload.
    #[error("its signature is not by a key that may upload here: {0}")]
    Signature(String),
    /// A file beside a .changes is missing.
    #[error("it names {0}, which is not beside it")]
    MissingFile(String),
    /// A file beside a .changes is another one.
    #[error("it says that {name} has {what} {expected}, but it has {found}")]
    Mismatch {
        /// The file.
        name: String,
        /// "size" or "SHA-256".
        what: &'static str,
        /// As listed.
        expected: String,
        /// As found.
        found: String,
    },
    /// A .changes without any package.
    #[error("it names no .deb")]
    NoPackages,
    /// Its bringer may bring other packages only.
    #[error("it is {package}, and this token may upload {limits} only")]
    Limited {
        /// Name, version and architecture.
        package: String,
        /// What may be brought.
        limits: String,
    },
    /// An architecture that the archive does not have.
    #[error("its architecture {found} is not one of this archive's ({known})")]
    Architecture {
        /// That of the package.
        found: Architecture,
        /// The archive's, separated by commas.
        known: String,
    },
    /// The version exists with other content.
    #[error(
        "{package} is in the archive with other content: {} is there, {} was offered; \
         a version means one content for ever, so build it again with a higher version",
        .there.short(), .offered.short()
    )]
    OtherContent {
        /// Name, version and architecture.
        package: String,
        /// SHA-256 of what is there.
        there: Digest,
        /// SHA-256 of what was offered.
        offered: Digest,
    },
    /// Older than what rolling has.
    #[error(
        "{package} is older than {there} in rolling, and rolling only goes forward; give it a higher version"
    )]
    Backwards {
        /// Name, version and architecture.
        package: String,
        /// The version in rolling.
        there: Version,
    },
}

impl Error {
    /// Says which offered file is refused; made for `map_err`.
    pub(crate) fn refused<R: Into<RefusalReason>>(file: &str) -> impl FnOnce(R) -> Self + use<'_, R> {
        move |reason| Self::Refused { file: file.to_owned(), reason: Box::new(reason.into()) }
    }
}
