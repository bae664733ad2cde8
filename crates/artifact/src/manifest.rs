//! The list of checksums: one line for each file, and nothing that could be read two ways.

use std::collections::BTreeMap;

use volary_model::Digest;

use crate::{Error, name};

/// What a manifest line speaks of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    Version,
    /// `header.tar…` or `header-augment.tar…`, with its suffix.
    Header(String),
    /// A payload's index and a file name.
    Data(usize, String),
}

/// A parsed manifest. Its raw bytes are what a signature covers.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) entries: BTreeMap<Entry, Digest>,
    /// Of the raw bytes.
    pub(crate) digest: Digest,
}

impl Manifest {
    /// Reads `manifest` or `manifest-augment`.
    pub(crate) fn parse(member: &'static str, raw: &[u8]) -> Result<Self, Error> {
        let refused = |reason: String| Error::Manifest { member, reason };
        let text = std::str::from_utf8(raw).map_err(|_| refused("not UTF-8".into()))?;
        let Some(lines) = text.strip_suffix('\n') else {
            return Err(refused("the last line does not end with a newline".into()));
        };
        let mut entries = BTreeMap::new();
        for line in lines.split('\n') {
            let (hex, file) = line.split_at_checked(64).ok_or_else(|| refused(malformed(line)))?;
            let file = file.strip_prefix("  ").ok_or_else(|| refused(malformed(line)))?;
            if hex.bytes().any(|b| b.is_ascii_uppercase()) {
                return Err(refused(malformed(line)));
            }
            let digest = Digest::from_hex(hex).map_err(|_| refused(malformed(line)))?;
            let entry = entry(member, file)?;
            if entries.insert(entry, digest).is_some() {
                return Err(refused(format!("{file} is listed twice")));
            }
        }
        Ok(Self { entries, digest: crate::header::digest(raw) })
    }

    pub(crate) fn header(&self, file: &str) -> Option<Digest> {
        self.entries.get(&Entry::Header(file.to_owned())).copied()
    }

    pub(crate) fn data(&self) -> impl Iterator<Item = (usize, &str, Digest)> {
        self.entries.iter().filter_map(|(entry, digest)| match entry {
            Entry::Data(payload, file) => Some((*payload, file.as_str(), *digest)),
            Entry::Version | Entry::Header(_) => None,
        })
    }

    /// True if exactly one header is listed, the one that follows.
    pub(crate) fn only_header_is(&self, file: &str) -> bool {
        let mut headers = self.entries.keys().filter_map(|entry| match entry {
            Entry::Header(file) => Some(file.as_str()),
            Entry::Version | Entry::Data(..) => None,
        });
        headers.next() == Some(file) && headers.next().is_none()
    }
}

fn malformed(line: &str) -> String {
    let line: String = line.chars().take(120).collect();
    format!("line {line:?} is not 64 lower-case hexadecimal digits, two spaces and a name")
}

fn entry(member: &'static str, file: &str) -> Result<Entry, Error> {
    let augment = member == "manifest-augment";
    if file == "version" && !augment {
        return Ok(Entry::Version);
    }
    let header = if augment { "header-augment.tar" } else { "header.tar" };
    if let Some(suffix) = file.strip_prefix(header)
        && ["", ".gz", ".xz", ".zst"].contains(&suffix)
    {
        return Ok(Entry::Header(file.to_owned()));
    }
    let data = file.strip_prefix("data/").and_then(|rest| rest.split_once('/'));
    let index = data.and_then(|(index, _)| payload_index(index));
    if let (Some((_, base)), Some(index)) = (data, index) {
        name::check_file(base)?;
        return Ok(Entry::Data(index, base.to_owned()));
    }
    Err(Error::Manifest { member, reason: format!("{file:?} is no part of an artifact") })
}

/// Reads the four digits that number a payload.
pub(crate) fn payload_index(text: &str) -> Option<usize> {
    (text.len() == 4 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// One line of a manifest.
#[cfg(feature = "write")]
pub(crate) fn line(digest: &Digest, file: &str) -> String {
    format!("{}  {file}\n", digest.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(raw: &str, good: bool) {
        assert_eq!(Manifest::parse("manifest", raw.as_bytes()).is_ok(), good, "{raw:?}");
    }

    #[test]
    fn lines() {
        let hex = "0a".repeat(32);
        check(&format!("{hex}  version\n"), true);
        check(&format!("{hex}  data/0000/a.ext4\n{hex}  header.tar.zst\n{hex}  version\n"), true);
        check(&format!("{hex}  version"), false);
        check(&format!("{hex} version\n"), false);
        check(&format!("{hex}   version\n"), false);
        check(&format!("{hex}  version\n\n"), false);
        check(&format!("{hex}  version\n{hex}  version\n"), false);
        check(&format!("{}  version\n", hex.to_uppercase()), false);
        check(&format!("{hex}  data/0000/../../etc/passwd\n"), false);
        check(&format!("{hex}  data/000/a\n"), false);
        check(&format!("{hex}  data/+001/a\n"), false);
        check(&format!("{hex}  header-augment.tar.gz\n"), false);
        check(&format!("{hex}  header.tar.bz2\n"), false);
        check("", false);
        check("ä", false);
    }
}
