//! A `Packages` index: what it offers, one package at a time. Not here: fetching or
//! decompressing it.

use crate::control::{ControlError, Paragraph, Paragraphs};
use crate::version::{InvalidVersion, Version};

/// One package of an index.
#[derive(Debug, Clone)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// The source package; its own name if the field is absent.
    pub source: String,
    /// The version of the source package; its own if none is named.
    pub source_version: Version,
    /// Where its file lies, from the archive's root.
    pub filename: String,
    /// Bytes of its file.
    pub size: u64,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
    /// All fields.
    pub paragraph: Paragraph,
}

/// What is wrong with an index.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PackagesError {
    /// It is no control text.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A package has no valid version.
    #[error("package {package}: {error}")]
    Version {
        /// The package.
        package: String,
        /// Why it is no version.
        error: InvalidVersion,
    },
    /// A field has no usable value.
    #[error("package {package}: the field {field} has the unusable value {value:?}")]
    Value {
        /// The package.
        package: String,
        /// The field.
        field: &'static str,
        /// Its value, shortened.
        value: String,
    },
}

/// The packages of an index, in its order. Stops after the first error.
pub fn iterate(text: &str) -> impl Iterator<Item = Result<Package, PackagesError>> + '_ {
    Paragraphs::new(text).map(|paragraph| Package::read(paragraph?))
}

/// Takes the source package's name and version out of the fields of a binary package: the
/// `Source` field is absent where both are its own, and has the version in brackets where only
/// that differs.
///
/// # Errors
/// The text in brackets is no version.
pub fn source_of(
    package: &str,
    version: &Version,
    source: Option<&str>,
) -> Result<(String, Version), InvalidVersion> {
    let source = source.map_or("", str::trim);
    if source.is_empty() {
        return Ok((package.to_owned(), version.clone()));
    }
    match source.split_once('(') {
        None => Ok((source.to_owned(), version.clone())),
        Some((name, rest)) => Ok((name.trim().to_owned(), rest.trim_end_matches(')').trim().parse()?)),
    }
}

impl Package {
    /// The package that a paragraph of an index describes.
    ///
    /// # Errors
    /// [`PackagesError`] with the field.
    pub fn read(paragraph: Paragraph) -> Result<Self, PackagesError> {
        let name = paragraph.require("Package")?.to_owned();
        let invalid = |error| PackagesError::Version { package: name.clone(), error };
        let version: Version = paragraph.require("Version")?.parse().map_err(invalid)?;
        let architecture = paragraph.require("Architecture")?.to_owned();
        let (source, source_version) =
            source_of(&name, &version, paragraph.get("Source")).map_err(invalid)?;
        let filename = paragraph.require("Filename")?.to_owned();
        let value = |field, value: &str| PackagesError::Value {
            package: name.clone(),
            field,
            value: value.chars().take(80).collect(),
        };
        let size_text = paragraph.require("Size")?;
        let size = size_text.parse().map_err(|_| value("Size", size_text))?;
        let sha256 = paragraph.require("SHA256")?.to_ascii_lowercase();
        if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(value("SHA256", &sha256));
        }
        if filename.starts_with('/') || filename.split('/').any(|part| part == "..") {
            return Err(value("Filename", &filename));
        }
        Ok(Self { name, version, architecture, source, source_version, filename, size, sha256, paragraph })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(filename: &str) -> String {
        let hash = "B".repeat(64);
        format!(
            "Package: libx\nSource: x (1.0-2)\nVersion: 1.0-2+b1\nArchitecture: amd64\nFilename: {filename}\nSize: 12\nSHA256: {hash}\n\n"
        )
    }

    #[test]
    fn packages_come_with_their_source() {
        let text = text("pool/x.deb").repeat(2);
        let all: Vec<Package> = iterate(&text).map(Result::unwrap).collect();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].source.as_str(), all[0].source_version.as_str()), ("x", "1.0-2"));
        assert_eq!((all[0].size, all[0].sha256.as_str()), (12, "b".repeat(64).as_str()));
    }

    #[test]
    fn a_name_that_leaves_the_archive_is_refused() {
        for filename in ["/etc/passwd", "pool/../../x.deb"] {
            assert!(iterate(&text(filename)).next().unwrap().is_err());
        }
    }
}
