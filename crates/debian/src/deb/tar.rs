//! The tar archives inside a `.deb`, read forward only. Takes what dpkg takes: ustar, old GNU,
//! GNU long names; no pax headers, which dpkg refuses.

use std::io::Read;

use sha2::{Digest as _, Sha256};

use super::{Problem, unpack};

/// What an entry is, as far as a package's listing cares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A file with content.
    File,
    /// A folder.
    Folder,
    /// A link, a device or a pipe.
    Other,
}

/// One entry.
pub(super) struct Entry {
    /// Its path without a leading `./`; empty for the root folder.
    pub(super) path: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
    header: Box<[u8; BLOCK]>,
    long_link: Option<Vec<u8>>,
}

impl Entry {
    /// What a header says besides path, kind and size, with its name.
    pub(super) fn fields(&self) -> Vec<(&'static str, String)> {
        let text = |from: usize, to: usize| {
            let field = self.header[from..to].split(|&byte| byte == 0).next().unwrap_or(b"");
            String::from_utf8_lossy(field).into_owned()
        };
        let octal =
            |from, to| number(&self.header[from..to]).map_or_else(|| text(from, to), |n| format!("{n:o}"));
        let decimal =
            |from, to| number(&self.header[from..to]).map_or_else(|| text(from, to), |n| n.to_string());
        let link = match &self.long_link {
            Some(link) => String::from_utf8_lossy(link).trim_end_matches('\0').to_owned(),
            None => text(157, 257),
        };
        vec![
            ("kind", char::from(self.header[156].max(b'0')).to_string()),
            ("mode", octal(100, 108)),
            (
                "owner",
                format!(
                    "{}:{} ({}:{})",
                    decimal(108, 116),
                    decimal(116, 124),
                    text(265, 297),
                    text(297, 329)
                ),
            ),
            ("time", decimal(136, 148)),
            ("link", link),
        ]
    }
}

/// The entries of an archive.
pub(super) struct Entries<'a, R> {
    reader: R,
    member: &'a str,
    /// Content and padding of the last entry that was not read yet.
    content: u64,
    padding: u64,
    listed: usize,
}

const BLOCK: usize = 512;
/// Longest path; Linux has 4096.
const LONGEST_NAME: u64 = 16 << 10;
/// Most bytes of all paths of one package together; Debian's largest has about 10 MB.
const LISTING_LIMIT: usize = 256 << 20;

impl<'a, R: Read> Entries<'a, R> {
    pub(super) fn new(reader: R, member: &'a str) -> Self {
        Self { reader, member, content: 0, padding: 0, listed: 0 }
    }

    /// Steps to the next entry, skipping what is left of this one.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Problem> {
        let mut long_name: Option<Vec<u8>> = None;
        let mut long_link: Option<Vec<u8>> = None;
        loop {
            self.skip()?;
            let mut header = [0; BLOCK];
            self.fill(&mut header)?;
            if header.iter().all(|&byte| byte == 0) {
                return self.end();
            }
            self.check_sum(&header)?;
            let kind = header[156];
            let size = number(&header[124..136]).ok_or_else(|| self.wrong("an entry has no valid size"))?;
            // Links and folders have no content, whatever their size field says.
            let stored = if matches!(kind, b'1'..=b'6') { 0 } else { size };
            self.content = stored;
            self.padding = stored.wrapping_neg() % BLOCK as u64;
            match kind {
                b'L' | b'K' => {
                    if size > LONGEST_NAME {
                        return Err(self.wrong("a name is too long"));
                    }
                    let name = self.content()?;
                    if kind == b'L' {
                        long_name = Some(name);
                    } else {
                        long_link = Some(name);
                    }
                    continue;
                }
                0 | b'0' | b'7' | b'1'..=b'6' => {}
                _ => return Err(self.wrong("it has an entry of a kind that dpkg does not take")),
            }
            let raw = long_name.take().unwrap_or_else(|| short_name(&header));
            let raw: &[u8] = raw.split(|&byte| byte == 0).next().unwrap_or(b"");
            let kind = match kind {
                b'5' => Kind::Folder,
                0 if raw.ends_with(b"/") => Kind::Folder,
                0 | b'0' | b'7' => Kind::File,
                _ => Kind::Other,
            };
            let path = self.checked_path(raw)?;
            self.listed += path.len() + 1;
            if self.listed > LISTING_LIMIT {
                return Err(self.wrong("it has too many files"));
            }
            return Ok(Some(Entry { path, kind, size: stored, header: Box::new(header), long_link }));
        }
    }

    /// The content of the entry that `next` found last. Its size was checked by the caller.
    pub(super) fn content(&mut self) -> Result<Vec<u8>, Problem> {
        let mut content = vec![0; usize::try_from(self.content).map_err(|_| self.wrong("it is too large"))?];
        self.fill(&mut content)?;
        self.content = 0;
        Ok(content)
    }

    /// SHA-256 of the content of the entry that `next` found last.
    pub(super) fn digest(&mut self) -> Result<[u8; 32], Problem> {
        let mut hash = Sha256::new();
        let mut buffer = [0; 16 << 10];
        while self.content > 0 {
            let part = buffer.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
            self.fill(&mut buffer[..part])?;
            hash.update(&buffer[..part]);
            self.content -= part as u64;
        }
        Ok(hash.finalize().into())
    }

    /// Reads the compressed stream to its end: its checksum stands there.
    fn end(&mut self) -> Result<Option<Entry>, Problem> {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match self.reader.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unpack::problem(self.member, error)),
            }
        }
    }

    fn skip(&mut self) -> Result<(), Problem> {
        let mut left =
            self.content.checked_add(self.padding).ok_or_else(|| self.wrong("an entry is too large"))?;
        let mut buffer = [0; 16 << 10];
        while left > 0 {
            let part = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.fill(&mut buffer[..part])?;
            left -= part as u64;
        }
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Problem> {
        self.reader.read_exact(buffer).map_err(|error| {
            // `read_exact` makes an error without a cause when the stream ends early.
            if error.kind() == std::io::ErrorKind::UnexpectedEof && error.get_ref().is_none() {
                return self.wrong("it ends too early");
            }
            match unpack::problem(self.member, error) {
                Problem::Unpack { source, .. } if source.kind() == std::io::ErrorKind::UnexpectedEof => {
                    self.wrong("it ends too early")
                }
                problem => problem,
            }
        })
    }

    fn check_sum(&self, header: &[u8; BLOCK]) -> Result<(), Problem> {
        let sum: u64 = header
            .iter()
            .enumerate()
            .map(|(index, &byte)| if (148..156).contains(&index) { 32 } else { u64::from(byte) })
            .sum();
        if number(&header[148..156]) == Some(sum) {
            Ok(())
        } else {
            Err(self.wrong("a header has a wrong checksum"))
        }
    }

    fn checked_path(&self, raw: &[u8]) -> Result<String, Problem> {
        let name = String::from_utf8_lossy(raw);
        let refused =
            || Problem::Path { member: self.member.to_owned(), name: name.chars().take(200).collect() };
        if name.starts_with('/') || name.chars().any(char::is_control) {
            return Err(refused());
        }
        let mut path = String::with_capacity(name.len());
        for part in name.split('/').filter(|part| !part.is_empty() && *part != ".") {
            if part == ".." {
                return Err(refused());
            }
            if !path.is_empty() {
                path.push('/');
            }
            path.push_str(part);
        }
        Ok(path)
    }

    fn wrong(&self, what: &'static str) -> Problem {
        Problem::Tar { member: self.member.to_owned(), what }
    }
}

/// The name in a header; POSIX archives have a second field that comes before it.
fn short_name(header: &[u8; BLOCK]) -> Vec<u8> {
    let text = |field: &[u8]| field.split(|&byte| byte == 0).next().unwrap_or(b"").to_vec();
    let name = text(&header[..100]);
    let prefix = if &header[257..263] == b"ustar\0" { text(&header[345..500]) } else { Vec::new() };
    if prefix.is_empty() { name } else { [prefix, name].join(&b'/') }
}

/// A number of a header: octal text, or GNU's binary form for large ones.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] == 0x80 {
        // A field of 12 bytes has room for more than we hold, one of 8 for less.
        let digits = &field[1..];
        let (high, low) = digits.split_at(digits.len().saturating_sub(8));
        let small = high.iter().all(|&byte| byte == 0);
        return small.then(|| low.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)));
    }
    let text = field.split(|&byte| byte == 0).next().unwrap_or(b"");
    let text = std::str::from_utf8(text).ok()?.trim();
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_either_form() {
        let check = |field: &[u8], expected| assert_eq!(number(field), expected, "{field:?}");
        check(b"0000017\0", Some(15));
        check(b"      7 ", Some(7));
        check(&[0; 8], Some(0));
        check(b"9\0\0\0\0\0\0\0", None);
        check(&[0x80, 0, 0, 0, 0, 0, 1, 2], Some(0x0102));
        check(&[0x80, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 2], Some((1 << 56) + 2));
        check(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0], None);
    }
}
