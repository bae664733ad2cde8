//! One package of the archive: what it is, where it came from, how an index shows it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_debian::control::Paragraph;
use volary_debian::relation::{self, Relation};
use volary_debian::{Version, deb::Deb, packages};
use volary_model::{Architecture, CommitId, Component, Digest, PackageName, SourceName};

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

/// A file of a source package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceFile {
    /// Its name, as the `.dsc` has it: `hello_1.0.orig.tar.xz`.
    pub name: String,
    /// SHA-256 of it.
    pub sha256: Digest,
    /// Bytes.
    pub size: u64,
}

/// A package that is in the archive: a binary one, or a source package with the architecture
/// `source`.
#[derive(Debug)]
pub struct PackageEntry {
    /// Its name.
    pub name: PackageName,
    /// Its version.
    pub version: Version,
    /// Its architecture, `all`, or `source`.
    pub architecture: Architecture,
    /// Where in a suite it stands.
    pub component: Component,
    /// The source package that it was built from, and that one's version.
    pub source: PackageName,
    /// The version of the source package.
    pub source_version: Version,
    /// SHA-256 of the .deb, or of the .dsc.
    pub sha256: Digest,
    /// Bytes of the .deb, or of the .dsc.
    pub size: u64,
    /// Its paragraph in the index, each line ended, without the empty line after it.
    pub stanza: Box<str>,
    /// The files of a source package, the `.dsc` among them; none for a binary one.
    pub files: Vec<SourceFile>,
    /// Descriptions by language, as paragraphs like `stanza`; only packages of mirrors have them.
    pub translations: BTreeMap<String, Box<str>>,
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
    /// `Breaks` and `Conflicts`.
    pub(crate) against: Vec<Relation>,
    /// The names in `Provides`.
    provided: Vec<String>,
    pub(crate) provides: Option<String>,
}

/// Fields that say what the archive knows better, or that no binary package may bring along.
const OWN_FIELDS: [&str; 7] = ["Filename", "Size", "MD5sum", "SHA1", "SHA256", "SHA512", "Status"];

/// The architecture of source packages.
const SOURCE: &str = "source";

/// The path of a package file from the archive's root. apt names the file after the package
/// itself when it fetches it, but wants the ending.
pub(crate) fn pool_path(sha256: &Digest) -> String {
    let hex = sha256.hex();
    format!("pool/sha256/{}/{hex}.deb", &hex[..2])
}

/// The folder of a source package from the archive's root, by the SHA-256 of its `.dsc`. Its files
/// keep their names there, because the `.dsc` names them.
pub(crate) fn source_folder(dsc: &Digest) -> String {
    let hex = dsc.hex();
    format!("pool/source/{}/{hex}", &hex[..2])
}

/// Where an own package stands: debug symbols apart, the rest where the first part of its section
/// says, if that is a component of this archive.
pub(crate) fn component_of(control: &Paragraph, components: &[Component]) -> Component {
    if control.get("Auto-Built-Package") == Some("debug-symbols") {
        return Component::debug();
    }
    let area = control.get("Section").and_then(|section| section.split_once('/')).map(|(area, _)| area);
    components
        .iter()
        .find(|component| Some(component.as_str()) == area)
        .cloned()
        .unwrap_or_else(Component::main)
}

/// The paragraph of the Packages index for a package.
pub(crate) fn stanza(control: &Paragraph, sha256: &Digest, size: u64) -> String {
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
        components: &[Component],
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
            component: component_of(&deb.control, components),
            source: source.parse()?,
            source_version,
            sha256,
            size: deb.size,
            stanza: stanza(&deb.control, &sha256, deb.size).into(),
            files: Vec::new(),
            translations: BTreeMap::new(),
            provenance,
            included_at: now,
            relations: OnceLock::new(),
        })
    }

    /// The path of its file from the archive's root; of a source package, of its `.dsc`.
    pub fn filename(&self) -> String {
        self.paths().swap_remove(0).0
    }

    /// The paths of its files from the archive's root, with what is in them.
    pub fn paths(&self) -> Vec<(String, Digest, u64)> {
        if !self.is_source() {
            return vec![(pool_path(&self.sha256), self.sha256, self.size)];
        }
        let folder = source_folder(&self.sha256);
        self.files.iter().map(|file| (format!("{folder}/{}", file.name), file.sha256, file.size)).collect()
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

    /// True if it is a source package.
    pub fn is_source(&self) -> bool {
        self.architecture.as_str() == SOURCE
    }

    pub(crate) fn relations(&self) -> &Relations {
        self.relations.get_or_init(|| {
            let paragraph = self.paragraph();
            let read = |field| relation::parse(paragraph.get(field).unwrap_or("")).unwrap_or_default();
            let needs = read("Pre-Depends").into_iter().chain(read("Depends")).collect();
            let against = read("Breaks").into_iter().chain(read("Conflicts")).collect();
            let provided = read("Provides").into_iter().flat_map(|one| one.alternatives);
            let provided = provided.map(|target| target.name).collect();
            Relations { needs, against, provided, provides: paragraph.get("Provides").map(str::to_owned) }
        })
    }

    /// The names that it provides besides its own.
    pub(crate) fn provided(&self) -> &[String] {
        &self.relations().provided
    }
}
