//! Upload descriptions: `.changes` (deb-changes(5)) and source packages' `.dsc` (dsc(5)). Not
//! here: reading the files that they name, or checking signatures.

use std::collections::HashSet;

use crate::clearsign::{self, ClearsignError};
use crate::control::{ControlError, Paragraph};
use crate::version::{InvalidVersion, Version};

/// A file that a `.changes` or `.dsc` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// A plain file name, beside the description.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// A `.changes` or `.dsc` file, out of its clearsign frame.
#[derive(Debug, Clone)]
pub struct Changes {
    /// All its fields.
    pub paragraph: Paragraph,
    /// The source package.
    pub source: String,
    /// The version of the source package.
    pub version: Version,
    /// What it names with SHA-256.
    pub files: Vec<ListedFile>,
    /// True if it stood in a clearsign frame; says nothing about whose signature that is.
    pub signed: bool,
}

/// What is wrong with a `.changes` or `.dsc`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangesError {
    /// The clearsign frame.
    #[error(transparent)]
    Clearsign(#[from] ClearsignError),
    /// The paragraph.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The version.
    #[error(transparent)]
    Version(#[from] InvalidVersion),
    /// The source package's name.
    #[error("{0:?} is not the name of a source package")]
    Source(String),
    /// A line of a file list.
    #[error("the line {0:?} of {1} is not a hash, a size and a file name")]
    FileLine(String, &'static str),
    /// A file name that leads elsewhere.
    #[error("{0:?} is not a plain file name")]
    FileName(String),
    /// The lists do not name the same files.
    #[error("{0} stands in Files but not in Checksums-Sha256")]
    NoSha256(String),
    /// The same file twice.
    #[error("{0} is listed twice")]
    Twice(String),
}

fn shown(text: &str) -> String {
    text.chars().take(120).collect()
}

impl Changes {
    /// Reads a `.changes` or `.dsc`, signed or not.
    ///
    /// # Errors
    /// [`ChangesError`].
    pub fn parse(text: &str) -> Result<Self, ChangesError> {
        let signed = clearsign::split(text)?;
        let payload = signed.as_ref().map_or(text, |signed| &signed.payload);
        let paragraph = Paragraph::parse(payload)?;
        // "Source: name (version)" where a binary-only upload has another version.
        let source = paragraph.require("Source")?.split_whitespace().next().unwrap_or("").to_owned();
        if !crate::is_package_name(&source) {
            return Err(ChangesError::Source(shown(&source)));
        }
        let version = paragraph.require("Version")?.parse()?;
        paragraph.require("Checksums-Sha256")?;
        let files = listed(&paragraph, "Checksums-Sha256")?;
        let names: HashSet<&str> = files.iter().map(|file| file.name.as_str()).collect();
        for line in paragraph.lines("Files") {
            let name = line.split_whitespace().last().unwrap_or("");
            if !names.contains(name) {
                return Err(ChangesError::NoSha256(shown(name)));
            }
        }
        Ok(Self { source, version, files, signed: signed.is_some(), paragraph })
    }
}

/// Reads the lines `hash size name` of a field.
fn listed(paragraph: &Paragraph, field: &'static str) -> Result<Vec<ListedFile>, ChangesError> {
    let mut files: Vec<ListedFile> = Vec::new();
    let mut names = HashSet::new();
    for line in paragraph.lines(field) {
        let wrong = || ChangesError::FileLine(shown(line), field);
        let words: Vec<&str> = line.split_whitespace().collect();
        let [hash, size, name] = words[..] else { return Err(wrong()) };
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let size = size.parse().map_err(|_| wrong())?;
        if !crate::is_file_name(name) {
            return Err(ChangesError::FileName(shown(name)));
        }
        if !names.insert(name) {
            return Err(ChangesError::Twice(shown(name)));
        }
        files.push(ListedFile { name: name.to_owned(), size, sha256: hash.to_ascii_lowercase() });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(files: &str) -> String {
        let hash = "a".repeat(64);
        format!(
            "Source: hello\nVersion: 1:2.0-1\nChecksums-Sha256:\n {hash} 10 hello_2.0-1_amd64.deb\n{files}"
        )
    }

    #[test]
    fn an_upload_is_read() {
        let changes =
            Changes::parse(&text("Files:\n 0123 10 misc optional hello_2.0-1_amd64.deb\n")).unwrap();
        assert_eq!((changes.source.as_str(), changes.version.as_str()), ("hello", "1:2.0-1"));
        assert_eq!((changes.files.len(), changes.files[0].size, changes.signed), (1, 10, false));
    }

    /// With a search through the list for each line, this many would take minutes.
    #[test]
    fn long_lists_take_no_longer_for_each_line() {
        let hash = "a".repeat(64);
        let list: String = (0..25_000).map(|n| format!(" {hash} 1 file{n}_1.0_all.deb\n")).collect();
        let files = format!("Files:\n{}", " 0 1 - - hello_2.0-1_amd64.deb\n".repeat(60_000));
        assert_eq!(Changes::parse(&text(&(list + &files))).unwrap().files.len(), 25_001);
    }

    #[test]
    fn wrong_lists_are_refused() {
        let hash = "a".repeat(64);
        for more in [
            format!(" {hash} 10 ../x.deb\n"),
            format!(" {hash} -1 x.deb\n"),
            format!(" {hash} x.deb\n"),
            " abc 10 x.deb\n".to_owned(),
            format!(" {hash} 10 hello_2.0-1_amd64.deb\n"),
            "Files:\n 0123 10 misc optional other.deb\n".to_owned(),
        ] {
            assert!(Changes::parse(&text(&more)).is_err(), "{more}");
        }
    }
}
