//! What the journal says: one record for each transaction.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_debian::Version;
use volary_model::{Architecture, Digest, PackageName, ReleaseName};

use crate::entry::{PackageEntry, Provenance};
use crate::render::Blob;

/// A transaction. Each names the digest of the package set that it led to, so that reading the
/// journal again proves that it leads there still.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Record {
    /// Packages came in. Those that are the newest of their kind are in rolling from now on.
    Include {
        at: Timestamp,
        provenance: Provenance,
        packages: Vec<StoredPackage>,
        rolling: Digest,
        /// The plain Packages indexes of rolling, for differences to it later on.
        indexes: BTreeMap<Architecture, Blob>,
    },
    /// A release was made from rolling; it has revision 1.
    Cut { at: Timestamp, release: ReleaseName, set: Digest },
    /// A release got its next revision.
    Pick {
        at: Timestamp,
        release: ReleaseName,
        /// What was asked for, as written: `hello`, `hello=1.0`.
        asked: Vec<String>,
        /// Digests of the packages that came in.
        add: Vec<Digest>,
        /// Digests of the packages that went out.
        remove: Vec<Digest>,
        set: Digest,
    },
    /// Packages that nothing named any more were removed. Their versions stay taken.
    Remove { at: Timestamp, packages: Vec<Digest> },
    /// A release takes no more picks.
    Freeze { at: Timestamp, release: ReleaseName },
}

/// A package as the journal keeps it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredPackage {
    name: PackageName,
    version: String,
    architecture: Architecture,
    source: PackageName,
    source_version: String,
    sha256: Digest,
    size: u64,
    stanza: String,
}

impl StoredPackage {
    pub(crate) fn from_entry(entry: &PackageEntry) -> Self {
        Self {
            name: entry.name.clone(),
            version: entry.version.as_str().to_owned(),
            architecture: entry.architecture.clone(),
            source: entry.source.clone(),
            source_version: entry.source_version.as_str().to_owned(),
            sha256: entry.sha256,
            size: entry.size,
            stanza: entry.stanza.to_string(),
        }
    }

    pub(crate) fn into_entry(
        self,
        provenance: &Arc<Provenance>,
        at: Timestamp,
    ) -> Result<PackageEntry, volary_debian::InvalidVersion> {
        let version: Version = self.version.parse()?;
        Ok(PackageEntry {
            name: self.name,
            version,
            architecture: self.architecture,
            source: self.source,
            source_version: self.source_version.parse()?,
            sha256: self.sha256,
            size: self.size,
            stanza: self.stanza.into(),
            provenance: Arc::clone(provenance),
            included_at: at,
            relations: OnceLock::new(),
        })
    }
}
