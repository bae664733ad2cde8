//! A mirror as the archive keeps it: where its state came from. Reading the foreign archive is in
//! `upstream`.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::Digest;

use crate::entry::Provenance;

/// Where the state of a mirror came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MirrorOrigin {
    /// The address of the foreign archive.
    pub url: String,
    /// Its suite.
    pub suite: String,
    /// The `Date` of its Release file.
    pub date: Option<Timestamp>,
    /// SHA-256 of that file.
    pub release: Digest,
    /// Changes with what is wanted of it.
    pub spec: Digest,
}

impl MirrorOrigin {
    /// Where its packages came from.
    pub(crate) fn provenance(&self) -> Provenance {
        Provenance {
            note: Some(format!("mirrored from {} {}", self.url, self.suite)),
            ..Provenance::default()
        }
    }
}

/// The last state of a mirror. Its packages are a component of rolling.
#[derive(Debug, Clone)]
pub struct Mirror {
    /// Where it came from.
    pub origin: MirrorOrigin,
    /// When it was taken.
    pub at: Timestamp,
}
