//! What can be wrong with an artifact, a key or a draft. Nothing is decided by these texts.

use std::io;

use volary_model::Digest;

/// Why an artifact, a key or a draft was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The artifact's bytes did not come.
    #[error("cannot read the artifact: {0}")]
    Read(#[source] io::Error),
    /// The artifact's bytes could not be put where they belong.
    #[error("cannot write the artifact: {0}")]
    Write(#[source] io::Error),
    /// The source of a payload file failed while the artifact was written.
    #[error("cannot read payload file {name}: {source}")]
    Source {
        /// The payload file.
        name: String,
        /// What its reader said.
        source: io::Error,
    },
    /// One of the nested tar archives breaks the rules of tar, or ours on top of them.
    #[error("{archive}: {reason}")]
    Tar {
        /// Which of the archives.
        archive: String,
        /// Which rule.
        reason: String,
    },
    /// A member is not the one that has to come here.
    #[error("found member {found:?} where {expected} has to stand")]
    Order {
        /// The name in the archive.
        found: String,
        /// What is allowed at this place.
        expected: String,
    },
    /// The archive ends before a member that has to be there.
    #[error("{member} is missing")]
    Missing {
        /// What is missing.
        member: String,
    },
    /// Not Mender's format, or not version 3 of it.
    #[error("version: {reason}")]
    Version {
        /// What it is instead, with a remedy.
        reason: String,
    },
    /// The list of checksums is malformed or does not fit the rest.
    #[error("{member}: {reason}")]
    Manifest {
        /// `manifest` or `manifest-augment`.
        member: &'static str,
        /// Which line or which rule.
        reason: String,
    },
    /// Bytes are not those that the manifest promises.
    #[error("{name} is damaged: its SHA-256 is {actual}, the manifest says {expected}", actual = .actual.hex(), expected = .expected.hex())]
    Checksum {
        /// The name in the manifest.
        name: String,
        /// What the manifest says.
        expected: Digest,
        /// What was read.
        actual: Digest,
    },
    /// A signature is demanded and there is none.
    #[error("the artifact is not signed; sign it with `volary artifact sign`, or allow unsigned artifacts")]
    NotSigned,
    /// The signature is malformed or by none of the keys.
    #[error("manifest.sig: {reason}")]
    Signature {
        /// What is wrong.
        reason: String,
    },
    /// The artifact has unsigned parts that override signed ones.
    #[error(
        "the artifact has an augmented header, which no signature covers; allow it explicitly if its maker is trusted otherwise"
    )]
    Augmented,
    /// A JSON member cannot be read.
    #[error("{member}: {source}")]
    Json {
        /// Which member.
        member: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A header member contradicts the format or another member.
    #[error("{member}: {reason}")]
    Header {
        /// Which member.
        member: String,
        /// Which rule.
        reason: String,
    },
    /// A name is not allowed.
    #[error("{what} {name:?} is not allowed: {rule}")]
    Name {
        /// What kind of name.
        what: &'static str,
        /// The name.
        name: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A part is larger than the caller allows.
    #[error("{what} is larger than the limit of {limit} bytes")]
    Limit {
        /// Which part.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A compressed member cannot be unpacked.
    #[error("{member}: {reason}")]
    Compression {
        /// Which member.
        member: String,
        /// What is wrong, or what this build lacks.
        reason: String,
    },
    /// A key cannot be used.
    #[error("key: {reason}")]
    Key {
        /// What is wrong, with a remedy.
        reason: String,
    },
    /// What was asked to be written makes no valid artifact.
    #[error("cannot make this artifact: {reason}")]
    Draft {
        /// Which rule.
        reason: String,
    },
}

impl Error {
    /// Carries this error through an interface that only knows I/O errors; [`From`] takes it out again.
    pub(crate) fn into_io(self) -> io::Error {
        match self {
            Self::Read(error) => error,
            other => io::Error::other(other),
        }
    }
}

impl From<io::Error> for Error {
    /// An error of ours that travelled as an I/O error comes out unchanged; any other is one of reading.
    fn from(error: io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            let inner = error.into_inner().expect("it was there a line ago");
            return *inner.downcast::<Self>().expect("its type was asked a line ago");
        }
        Self::Read(error)
    }
}
