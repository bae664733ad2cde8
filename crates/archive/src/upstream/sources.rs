//! The source packages of a publication. Not here: which of them are wanted.

use std::collections::HashMap;

use volary_debian::Version;
use volary_debian::control::Paragraph;
use volary_model::{Digest, PackageName};

use super::error::UpstreamError;
use super::offered::stanzas;

/// A source package that an index offers.
#[derive(Debug, Clone)]
pub(crate) struct OfferedSource {
    pub(crate) name: PackageName,
    pub(crate) version: Version,
    /// Where its files lie, from the root.
    pub(crate) directory: String,
    /// The `.dsc` first.
    pub(crate) files: Vec<OfferedFile>,
    /// All fields.
    pub(crate) paragraph: Paragraph,
}

/// A file of a source package.
#[derive(Debug, Clone)]
pub(crate) struct OfferedFile {
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) sha256: Digest,
}

/// The source packages of an index by name and version, both as text.
pub(super) type Sources = HashMap<(String, String), OfferedSource>;

/// Reads a Sources index.
pub(super) fn read(text: &str, path: &str, to: &mut Sources) -> Result<(), UpstreamError> {
    for stanza in stanzas(text) {
        let unusable = |problem: String| UpstreamError::Index { path: path.to_owned(), problem };
        let source = OfferedSource::parse(stanza).map_err(unusable)?;
        to.insert((source.name.to_string(), source.version.as_str().to_owned()), source);
    }
    Ok(())
}

impl OfferedSource {
    fn parse(stanza: &str) -> Result<Self, String> {
        let paragraph = Paragraph::parse(stanza).map_err(|error| error.to_string())?;
        let field = |name| paragraph.require(name).map_err(|error| error.to_string());
        let name: PackageName = field("Package")?.parse().map_err(|error| format!("{error}"))?;
        let version = field("Version")?.parse().map_err(|error| format!("{error}"))?;
        let directory = field("Directory")?.to_owned();
        let wrong = |what: &str| format!("source package {name}: {what}");
        if directory.starts_with('/') || directory.split('/').any(|part| part == "..") {
            return Err(wrong("its Directory leaves the archive"));
        }
        let mut files = Vec::new();
        for line in paragraph.lines("Checksums-Sha256") {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [sha256, size, file] = words[..] else { return Err(wrong("a line of Checksums-Sha256")) };
            let usable = || wrong("a line of Checksums-Sha256 is not a hash, a size and a file name");
            if !volary_debian::is_file_name(file) {
                return Err(usable());
            }
            files.push(OfferedFile {
                name: file.to_owned(),
                size: size.parse().map_err(|_| usable())?,
                sha256: Digest::from_hex(sha256).map_err(|_| usable())?,
            });
        }
        files.sort_by_key(|file| !file.name.ends_with(".dsc"));
        if !files.first().is_some_and(|file| file.name.ends_with(".dsc")) {
            return Err(wrong("it names no .dsc"));
        }
        Ok(Self { name, version, directory, files, paragraph })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &str, expected: Result<&str, &str>) {
        let text = format!("Package: hello\nVersion: 1.0-1\nDirectory: pool/h\nChecksums-Sha256:\n{lines}\n");
        let mut sources = Sources::new();
        let read = read(&text, "Sources", &mut sources).map_err(|error| error.to_string());
        match expected {
            Ok(first) => {
                read.unwrap();
                let source = &sources[&("hello".to_owned(), "1.0-1".to_owned())];
                assert_eq!(source.files[0].name, first);
            }
            Err(problem) => assert!(read.unwrap_err().contains(problem)),
        }
    }

    #[test]
    fn a_source_package_has_its_dsc_first() {
        let hash = "a".repeat(64);
        check(&format!(" {hash} 7 hello.tar.xz\n {hash} 8 hello.dsc"), Ok("hello.dsc"));
        check(&format!(" {hash} 7 hello.tar.xz"), Err("no .dsc"));
        check(&format!(" {hash} 7 ../hello.dsc"), Err("file name"));
        check(&format!(" {hash} x hello.dsc"), Err("file name"));
        check(&format!(" {hash} hello.dsc"), Err("a line of"));
    }
}
