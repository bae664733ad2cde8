//! What the journal says: one record for each transaction.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_debian::Version;
use volary_model::{Architecture, Component, Digest, PackageName, ReleaseName};

use crate::entry::{PackageEntry, Provenance, SourceFile};
use crate::lifecycle::Protection;
use crate::mirror::MirrorOrigin;
use crate::render::Blob;
use crate::settings::Settings;

/// A transaction. Each names the digest of the content that it led to, so that reading the
/// journal again proves that it leads there still.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Record {
    /// Packages came in. Those that are the newest of their kind are in rolling from now on. Without any, its indexes were
    /// written in order of name again.
    Include { at: Timestamp, provenance: Provenance, packages: Vec<StoredPackage>, rolling: RollingRecord },
    /// A mirror, which is a component of rolling, has a new state.
    Mirror {
        at: Timestamp,
        mirror: Component,
        /// `None` when the mirror was given up.
        origin: Option<MirrorOrigin>,
        /// Those that the archive did not have.
        packages: Vec<StoredPackage>,
        /// What the mirror has more than before, and what it has no more.
        add: Vec<Digest>,
        remove: Vec<Digest>,
        rolling: RollingRecord,
    },
    /// A release was made from rolling; it has revision 1.
    Cut { at: Timestamp, release: ReleaseName, architectures: Vec<Architecture>, content: Digest },
    /// A release got its next revision.
    Pick {
        at: Timestamp,
        release: ReleaseName,
        /// What was asked for, as written: `hello`, `hello=1.0`.
        asked: Vec<String>,
        /// The packages that came in.
        add: Vec<Placed>,
        /// The packages that went out.
        remove: Vec<Placed>,
        content: Digest,
    },
    /// Packages that nothing named any more were removed. Their versions stay taken.
    Remove { at: Timestamp, packages: Vec<Placed> },
    /// A release takes no more picks.
    Freeze { at: Timestamp, release: ReleaseName },
    /// A release must not be dropped.
    Protect { release: ReleaseName, protection: Protection },
    /// A release may be dropped again.
    Unprotect { at: Timestamp, release: ReleaseName },
    /// A release is gone; its name stays taken.
    Drop { at: Timestamp, release: ReleaseName },
    /// The settings of the archive changed.
    Configure { at: Timestamp, settings: Settings },
}

/// What rolling is after a record.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RollingRecord {
    pub(crate) content: Digest,
    /// The plain Packages indexes by their paths, for differences to them later on.
    pub(crate) indexes: BTreeMap<String, Blob>,
    /// True if they list what the record brought at their end, after what they listed before; false if
    /// they are in order of name.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) at_end: bool,
}

/// A package of the archive in its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Placed {
    pub(crate) component: Component,
    pub(crate) sha256: Digest,
}

impl Placed {
    pub(crate) fn of(entry: &PackageEntry) -> Self {
        Self { component: entry.component.clone(), sha256: entry.sha256 }
    }
}

/// A package as the journal keeps it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredPackage {
    name: PackageName,
    version: String,
    architecture: Architecture,
    component: Component,
    source: PackageName,
    source_version: String,
    sha256: Digest,
    size: u64,
    stanza: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    files: Vec<SourceFile>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    translations: BTreeMap<String, Box<str>>,
}

impl StoredPackage {
    pub(crate) fn from_entry(entry: &PackageEntry) -> Self {
        Self {
            name: entry.name.clone(),
            version: entry.version.as_str().to_owned(),
            architecture: entry.architecture.clone(),
            component: entry.component.clone(),
            source: entry.source.clone(),
            source_version: entry.source_version.as_str().to_owned(),
            sha256: entry.sha256,
            size: entry.size,
            stanza: entry.stanza.to_string(),
            files: entry.files.clone(),
            translations: entry.translations.clone(),
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
            component: self.component,
            source: self.source,
            source_version: self.source_version.parse()?,
            sha256: self.sha256,
            size: self.size,
            stanza: self.stanza.into(),
            files: self.files,
            translations: self.translations,
            provenance: Arc::clone(provenance),
            included_at: at,
            relations: OnceLock::new(),
        })
    }
}
