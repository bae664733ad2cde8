//! One package of the archive: what it is, where it came from, how an index shows it.

use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_debian::control::Paragraph;
use volary_debian::relation::{self, Relation};
use volary_debian::{Version, deb::Deb, packages};
use volary_model::{Architecture, CommitId, Digest, PackageName, SourceName};

use crate::error::RefusalReason;

/// Where a package came from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// The registered source repository that it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceName>,
    /// The commit that it was built from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<CommitId>,
    /// The number of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<i64>,
    /// Who included it and why, for packages that were not built here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// A package that is in the archive.
#[derive(Debug)]
pub struct PackageEntry {
    /// Its name.
    pub name: PackageName,
    /// Its version.
    pub version: Version,
    /// Its architecture, or `all`.
    pub architecture: Architecture,
    /// The source package that it was built from, and that one's version.
    pub source: PackageName,
    /// The version of the source package.
    pub source_version: Version,
    /// SHA-256 of the .deb.
    pub sha256: Digest,
    /// Bytes of the .deb.
    pub size: u64,
    /// Its paragraph in the Packages index, each line ended, without the empty line after it.
    pub stanza: Box<str>,
    /// Where it came from.
    pub provenance: Arc<Provenance>,
    /// When it was included.
    pub included_at: Timestamp,
    pub(crate) relations: OnceLock<Relations>,
}

/// What a package needs and gives, read out of its stanza on first use.
#[derive(Debug, Default)]
pub(crate) struct Relations {
    /// `Pre-Depends` and `Depends`.
    pub(crate) needs: Vec<Relation>,
    pub(crate) provides: Option<String>,
}

/// Fields that say what the archive knows better, or that no binary package may bring along.
const OWN_FIELDS: [&str; 7] = ["Filename", "Size", "MD5sum", "SHA1", "SHA256", "SHA512", "Status"];

/// The path of a package file from the archive's root. apt names the file after the package
/// itself when it fetches it, but wants the ending.
pub(crate) fn pool_path(sha256: &Digest) -> String {
    let hex = sha256.hex();
    format!("pool/sha256/{}/{hex}.deb", &hex[..2])
}

/// The paragraph of the Packages index for a package.
fn stanza(control: &Paragraph, sha256: &Digest, size: u64) -> String {
    let mut paragraph = Paragraph::new();
    // apt reads any order, but people look for the name first.
    for (name, value) in control.fields().filter(|(name, _)| name.eq_ignore_ascii_case("Package")) {
        paragraph.set(name, value);
    }
    let foreign = |name: &str| !OWN_FIELDS.iter().any(|own| own.eq_ignore_ascii_case(name));
    for (name, value) in control.fields().filter(|(name, _)| foreign(name)) {
        paragraph.set(name, value);
    }
    paragraph.set("Filename", pool_path(sha256));
    paragraph.set("Size", size.to_string());
    paragraph.set("SHA256", sha256.hex());
    paragraph.to_string()
}

impl fmt::Display for PackageEntry {
    /// Name, version and architecture, as in `hello 1.0 (amd64)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.name, self.version, self.architecture)
    }
}

impl PackageEntry {
    /// The entry for a .deb that was read.
    pub(crate) fn from_deb(
        deb: &Deb,
        provenance: Arc<Provenance>,
        now: Timestamp,
    ) -> Result<Self, RefusalReason> {
        let (source, source_version) =
            packages::source_of(&deb.package, &deb.version, deb.control.get("Source"))
                .map_err(volary_debian::changes::ChangesError::from)?;
        let sha256 = Digest::from_bytes(deb.sha256);
        Ok(Self {
            name: deb.package.parse()?,
            version: deb.version.clone(),
            architecture: deb.architecture.parse()?,
            source: source.parse()?,
            source_version,
            sha256,
            size: deb.size,
            stanza: stanza(&deb.control, &sha256, deb.size).into(),
            provenance,
            included_at: now,
            relations: OnceLock::new(),
        })
    }

    /// The path of its file from the archive's root.
    pub fn filename(&self) -> String {
        pool_path(&self.sha256)
    }

    /// All fields of its index paragraph.
    pub fn paragraph(&self) -> Paragraph {
        Paragraph::parse(&self.stanza).expect("a stanza was written by us")
    }

    /// True if a device of `architecture` can install it.
    pub fn serves(&self, architecture: &Architecture) -> bool {
        self.architecture == *architecture || self.is_all()
    }

    /// True if it is for all architectures.
    pub fn is_all(&self) -> bool {
        self.architecture.as_str() == "all"
    }

    pub(crate) fn relations(&self) -> &Relations {
        self.relations.get_or_init(|| {
            let paragraph = self.paragraph();
            let read = |field| relation::parse(paragraph.get(field).unwrap_or("")).unwrap_or_default();
            let needs = read("Pre-Depends").into_iter().chain(read("Depends")).collect();
            Relations { needs, provides: paragraph.get("Provides").map(str::to_owned) }
        })
    }
}
