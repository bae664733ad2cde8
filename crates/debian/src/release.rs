//! `Release` and `InRelease` files: fields and the SHA-256 list, read and written. Not here:
//! signatures, and what the dates must be.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;

use crate::clearsign::{self, ClearsignError};
use crate::control::{ControlError, Paragraph};

/// An index file that a `Release` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexFile {
    /// Bytes.
    pub size: u64,
    /// 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// A `Release` file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    /// All fields but the file lists, in order.
    pub fields: Paragraph,
    /// The index files by their path below the suite.
    pub files: BTreeMap<String, IndexFile>,
}

/// What is wrong with a `Release` file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// Its clearsign frame.
    #[error(transparent)]
    Clearsign(#[from] ClearsignError),
    /// It is no control text.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A line of the SHA-256 list.
    #[error("the line {0:?} of SHA256 is not a hash, a size and a path")]
    FileLine(String),
    /// A path that stands there twice, with other content each time: readers would not agree.
    #[error("{0} stands in SHA256 twice, and not with the same hash and size")]
    Twice(String),
    /// A date that cannot be read.
    #[error("the field {0} is not a date: {1:?}")]
    Date(&'static str, String),
}

/// The lists of older hash functions; never believed, and left out of the fields.
const OLD_LISTS: [&str; 3] = ["MD5Sum", "SHA1", "SHA512"];

impl Release {
    /// Reads a `Release` or `InRelease`. The signature of an `InRelease` is not looked at.
    ///
    /// # Errors
    /// [`ReleaseError`].
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        let payload = clearsign::payload(text)?;
        let mut fields = Paragraph::parse(&payload)?;
        let mut files = BTreeMap::new();
        for line in fields.lines("SHA256") {
            let wrong = || ReleaseError::FileLine(line.chars().take(120).collect());
            let words: Vec<&str> = line.split_whitespace().collect();
            let [sha256, size, path] = words[..] else { return Err(wrong()) };
            let leaves = path.starts_with('/') || path.split('/').any(|part| part == "..");
            if sha256.len() != 64 || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) || leaves {
                return Err(wrong());
            }
            let size = size.parse().map_err(|_| wrong())?;
            let file = IndexFile { size, sha256: sha256.to_ascii_lowercase() };
            if files.insert(path.to_owned(), file.clone()).is_some_and(|before| before != file) {
                return Err(ReleaseError::Twice(path.chars().take(120).collect()));
            }
        }
        fields.remove("SHA256");
        OLD_LISTS.iter().for_each(|name| fields.remove(name));
        Ok(Self { fields, files })
    }

    /// The time of the field `Date`, if there is one.
    ///
    /// # Errors
    /// [`ReleaseError::Date`].
    pub fn date(&self) -> Result<Option<Timestamp>, ReleaseError> {
        self.time("Date")
    }

    /// The time of the field `Valid-Until`, if there is one.
    ///
    /// # Errors
    /// [`ReleaseError::Date`].
    pub fn valid_until(&self) -> Result<Option<Timestamp>, ReleaseError> {
        self.time("Valid-Until")
    }

    fn time(&self, name: &'static str) -> Result<Option<Timestamp>, ReleaseError> {
        let Some(text) = self.fields.get(name) else { return Ok(None) };
        parse_date(text).map(Some).ok_or_else(|| ReleaseError::Date(name, text.chars().take(80).collect()))
    }

    /// The text of the `Release` file; every line is ended.
    pub fn text(&self) -> String {
        let mut text = self.fields.to_string();
        if !self.files.is_empty() {
            text.push_str("SHA256:\n");
        }
        for (path, file) in &self.files {
            writeln!(text, " {} {:>8} {path}", file.sha256, file.size).expect("a String takes any write");
        }
        text
    }
}

/// Writes a time as `Release` files have it: `Sun, 22 Nov 2026 10:00:00 UTC`. Parts of a second
/// are cut off.
pub fn format_date(time: Timestamp) -> String {
    time.strftime("%a, %d %b %Y %H:%M:%S UTC").to_string()
}

/// Reads a date of a `Release` file: UTC, or with an offset as in RFC 5322.
pub fn parse_date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let text = match text.rsplit_once(' ') {
        Some((rest, "UTC" | "GMT" | "Z")) => format!("{rest} +0000"),
        _ => text.to_owned(),
    };
    jiff::fmt::rfc2822::parse(&text).ok().map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_is_written_and_read_back() {
        let mut release = Release::default();
        let time = Timestamp::from_second(1_795_341_600).unwrap();
        release.fields.set("Codename", "rolling");
        release.fields.set("Date", format_date(time));
        let file = IndexFile { size: 17, sha256: "ab".repeat(32) };
        release.files.insert("main/binary-amd64/Packages".to_owned(), file);
        let read = Release::parse(&release.text()).unwrap();
        assert_eq!(read, release);
        assert_eq!(read.date().unwrap(), Some(time));
        assert_eq!(read.valid_until().unwrap(), None);
    }

    #[test]
    fn dates_in_both_forms() {
        let expected = Timestamp::from_second(1_795_341_600).unwrap();
        for text in ["Sun, 22 Nov 2026 10:00:00 UTC", "Sun, 22 Nov 2026 11:00:00 +0100"] {
            assert_eq!(parse_date(text), Some(expected), "{text}");
        }
        assert_eq!(parse_date("yesterday"), None);
    }

    #[test]
    fn wrong_lists_are_refused() {
        for line in ["abc 1 x", &format!("{} 1 ../x", "a".repeat(64)), &format!("{} x", "a".repeat(64))] {
            assert!(Release::parse(&format!("SHA256:\n {line}\n")).is_err(), "{line}");
        }
        let line = |byte: &str| format!(" {} 1 x\n", byte.repeat(64));
        assert!(Release::parse(&format!("SHA256:\n{}{}", line("a"), line("b"))).is_err());
        assert!(Release::parse(&format!("SHA256:\n{}{}", line("a"), line("a"))).is_ok());
    }
}
