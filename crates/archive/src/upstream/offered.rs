//! What an index offers, as light as a choice among 100,000 packages needs it: most fields are
//! read again only for what is chosen.

use volary_debian::Version;
use volary_debian::control::Paragraph;
use volary_debian::packages::Package;
use volary_debian::relation::{self, Relation};
use volary_model::{Architecture, Digest, PackageName};

use super::error::UpstreamError;

/// How much a package matters to a system (Debian policy 2.5), the most important first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Priority {
    /// The system breaks without it.
    Required,
    /// What one expects on any system.
    Important,
    /// A small but not too limited system.
    Standard,
    /// All others, and those without a priority or with one of their own.
    Optional,
    /// As optional, on old systems.
    Extra,
}

impl Priority {
    /// The word of a `Priority` field.
    pub fn of(text: &str) -> Self {
        match text {
            "required" => Self::Required,
            "important" => Self::Important,
            "standard" => Self::Standard,
            "extra" => Self::Extra,
            _ => Self::Optional,
        }
    }

    /// The word that indexes have.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Important => "important",
            Self::Standard => "standard",
            Self::Optional => "optional",
            Self::Extra => "extra",
        }
    }
}

/// A package that an index offers.
#[derive(Debug, Clone)]
pub struct Offered<'a> {
    /// Its name.
    pub name: PackageName,
    /// Its version.
    pub version: Version,
    /// Its architecture, or `all`.
    pub architecture: Architecture,
    /// The source package.
    pub source: String,
    /// The version of the source package.
    pub source_version: Version,
    /// How much it matters.
    pub priority: Priority,
    /// Where its file lies, from the root.
    pub filename: String,
    /// Bytes of its file.
    pub size: u64,
    /// SHA-256 of its file.
    pub sha256: Digest,
    /// What its `Provides` names, with the version where one is given.
    pub provides: Vec<(String, Option<Version>)>,
    /// Its paragraph in the index.
    pub stanza: &'a str,
}

impl<'a> Offered<'a> {
    /// The packages of an index. `path` is for messages.
    ///
    /// # Errors
    /// [`UpstreamError::Index`] with the package.
    pub fn all(text: &'a str, path: &str) -> Result<Vec<Self>, UpstreamError> {
        let unusable = |problem: String| UpstreamError::Index { path: path.to_owned(), problem };
        let mut all = Vec::new();
        for stanza in stanzas(text) {
            let paragraph = Paragraph::parse(stanza).map_err(|error| unusable(error.to_string()))?;
            let package = Package::read(paragraph).map_err(|error| unusable(error.to_string()))?;
            all.push(Self::from_package(package, stanza).map_err(unusable)?);
        }
        Ok(all)
    }

    fn from_package(package: Package, stanza: &'a str) -> Result<Self, String> {
        let field = |name| package.paragraph.get(name).unwrap_or("");
        let provides = relation::parse(field("Provides")).unwrap_or_default();
        let provides = provides.into_iter().flat_map(|relation| relation.alternatives).map(|target| {
            let version = target.version.filter(|(operator, _)| *operator == relation::Operator::Equal);
            (target.name, version.map(|(_, version)| version))
        });
        Ok(Self {
            provides: provides.collect(),
            priority: Priority::of(field("Priority")),
            name: package.name.parse().map_err(|error| format!("{error}"))?,
            architecture: package.architecture.parse().map_err(|error| format!("{error}"))?,
            version: package.version,
            source: package.source,
            source_version: package.source_version,
            filename: package.filename,
            size: package.size,
            sha256: Digest::from_hex(&package.sha256).map_err(|error| error.to_string())?,
            stanza,
        })
    }

    /// True if it is for all architectures.
    pub fn is_all(&self) -> bool {
        self.architecture.as_str() == "all"
    }

    /// All fields of its paragraph.
    pub fn paragraph(&self) -> Paragraph {
        Paragraph::parse(self.stanza).expect("it was read once already")
    }

    /// The dependencies that one of its fields names; none if the field is not understood, as in
    /// apt.
    pub(super) fn relations(&self, fields: &[&str]) -> Vec<Relation> {
        let paragraph = self.paragraph();
        let read = |field: &&str| relation::parse(paragraph.get(field).unwrap_or("")).unwrap_or_default();
        fields.iter().flat_map(read).collect()
    }
}

/// The paragraphs of a text, each without the empty lines around it.
pub(super) fn stanzas(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(['\n', '\r']);
        if rest.is_empty() {
            return None;
        }
        let end = rest.find("\n\n").map_or(rest.len(), |at| at + 1);
        let (stanza, after) = rest.split_at(end);
        rest = after;
        Some(stanza)
    })
}
