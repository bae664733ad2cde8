//! Tar archives as artifacts use them, three levels deep: regular files only, sizes checked, no
//! folders, no links, nothing behind the end. Own code, because general readers allow all of these
//! and read long names without a limit.

use std::io::{self, Read};

use crate::Error;

/// Tar counts in blocks of this many bytes.
pub(crate) const BLOCK: usize = 512;
/// Extended headers hold a name and a few numbers; more is an attack.
const EXTENDED_AT_MOST: u64 = 16 * 1024;
/// Tools pad the end with zeros to a multiple of their record size, at most this.
const ZEROS_AT_MOST: u64 = 1 << 20;

/// Reads members one after the other. As [`Read`] it gives the bytes of the current member.
#[derive(Debug)]
pub(crate) struct TarReader<R> {
    inner: R,
    /// How messages call this archive.
    archive: String,
    /// Bytes of the current member not read yet.
    left: u64,
    /// Zeros behind the current member.
    padding: usize,
    ended: bool,
}

/// A member's name and size.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) size: u64,
}

impl<R: Read> TarReader<R> {
    pub(crate) fn new(archive: impl Into<String>, inner: R) -> Self {
        Self { inner, archive: archive.into(), left: 0, padding: 0, ended: false }
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }

    #[cfg(feature = "write")]
    pub(crate) fn get_ref(&self) -> &R {
        &self.inner
    }

    /// Bytes of the current member that were not read.
    pub(crate) fn left(&self) -> u64 {
        self.left
    }

    pub(crate) fn refused(&self, reason: impl Into<String>) -> Error {
        Error::Tar { archive: self.archive.clone(), reason: reason.into() }
    }

    /// The next member; none after the two blocks of zeros that end an archive. The current member
    /// must have been read to its end.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, Error> {
        debug_assert_eq!(self.left, 0, "a member was left unread");
        if self.ended {
            return Ok(None);
        }
        let mut long_name = None;
        let mut long_size = None;
        // A name and a size may each come in an extended header before the real one.
        for _ in 0..4 {
            let Some(raw) = self.header_block()? else {
                if long_name.is_some() || long_size.is_some() {
                    return Err(self.refused("ends after an extended header"));
                }
                return Ok(None);
            };
            let header = Header::parse(&raw).map_err(|reason| self.refused(reason))?;
            match header.kind {
                b'0' | 0 => {
                    let name = long_name.unwrap_or(header.name);
                    let size = long_size.unwrap_or(header.size);
                    self.start(size);
                    return Ok(Some(Member { name, size }));
                }
                b'L' => {
                    let mut bytes = self.extended(header.size)?;
                    while bytes.last() == Some(&0) {
                        bytes.pop();
                    }
                    let name = String::from_utf8(bytes).map_err(|_| self.refused("a name is not UTF-8"))?;
                    long_name = Some(name);
                }
                b'x' => {
                    let bytes = self.extended(header.size)?;
                    for (key, value) in pax_records(&bytes).map_err(|reason| self.refused(reason))? {
                        match key {
                            "path" => long_name = Some(value.to_owned()),
                            "size" => {
                                let size = value.parse().map_err(|_| self.refused("a size is no number"))?;
                                long_size = Some(size);
                            }
                            "mtime" | "atime" | "ctime" | "uid" | "gid" | "uname" | "gname" | "comment" => {}
                            other => {
                                return Err(
                                    self.refused(format!("extended header key {other:?} is not allowed"))
                                );
                            }
                        }
                    }
                }
                other => {
                    let name = header.name;
                    return Err(self.refused(format!(
                        "{name:?} is of type {:?}; only regular files are allowed",
                        other as char
                    )));
                }
            }
        }
        Err(self.refused("too many extended headers"))
    }

    fn start(&mut self, size: u64) {
        self.left = size;
        self.padding = padding(size);
        if size == 0 {
            // Nothing follows, and nobody will read.
            self.padding = 0;
        }
    }

    /// The content of an extended header.
    fn extended(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > EXTENDED_AT_MOST {
            return Err(self.refused("an extended header is too large"));
        }
        self.start(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(Error::from)?;
        Ok(bytes)
    }

    /// The next header, or none at the end of the archive.
    fn header_block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        self.fill(&mut block)?;
        if block.iter().any(|&byte| byte != 0) {
            return Ok(Some(block));
        }
        self.fill(&mut block)?;
        if block.iter().any(|&byte| byte != 0) {
            return Err(self.refused("a block of zeros stands between members"));
        }
        self.ended = true;
        Ok(None)
    }

    fn fill(&mut self, block: &mut [u8]) -> Result<(), Error> {
        self.inner.read_exact(block).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof if error.get_ref().is_none_or(|inner| !inner.is::<Error>()) => {
                self.refused("ends in the middle; it was cut off")
            }
            _ => error.into(),
        })
    }

    /// Reads a member that was just found into memory.
    pub(crate) fn read_small(&mut self, what: &str, limit: u64) -> Result<Vec<u8>, Error> {
        if self.left > limit {
            return Err(Error::Limit { what: what.to_owned(), limit });
        }
        let mut bytes = Vec::with_capacity(self.left as usize);
        self.read_to_end(&mut bytes).map_err(Error::from)?;
        Ok(bytes)
    }

    /// Checks that nothing but zeros follows the last member, up to the end of the input.
    pub(crate) fn finish(&mut self) -> Result<(), Error> {
        debug_assert!(self.ended, "finish comes after the last member");
        let mut buffer = [0; 4096];
        let mut zeros = 0;
        loop {
            let count = match self.inner.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            zeros += count as u64;
            if buffer[..count].iter().any(|&byte| byte != 0) || zeros > ZEROS_AT_MOST {
                return Err(self.refused("something follows the end of the archive"));
            }
        }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || buffer.is_empty() {
            return Ok(0);
        }
        let most = usize::try_from(self.left).map_or(buffer.len(), |left| left.min(buffer.len()));
        let count = self.inner.read(&mut buffer[..most])?;
        if count == 0 {
            return Err(self.refused("ends in the middle of a member; it was cut off").into_io());
        }
        self.left -= count as u64;
        if self.left == 0 && self.padding > 0 {
            let mut zeros = [0; BLOCK];
            let padding = std::mem::take(&mut self.padding);
            self.fill(&mut zeros[..padding]).map_err(Error::into_io)?;
            if zeros[..padding].iter().any(|&byte| byte != 0) {
                return Err(self.refused("the padding of a member is not zero").into_io());
            }
        }
        Ok(count)
    }
}

/// The zeros that fill a member up to whole blocks.
pub(crate) fn padding(size: u64) -> usize {
    (BLOCK - (size % BLOCK as u64) as usize) % BLOCK
}

struct Header {
    name: String,
    size: u64,
    kind: u8,
}

impl Header {
    fn parse(raw: &[u8; BLOCK]) -> Result<Self, String> {
        let posix = &raw[257..263] == b"ustar\0";
        let gnu = &raw[257..265] == b"ustar  \0";
        if !posix && !gnu {
            return Err("is not a tar archive, or of a dialect from before 1988".into());
        }
        let expected = octal(&raw[148..156]).ok_or("a header checksum is malformed")?;
        if expected != checksum(raw) {
            return Err("a header is damaged: its checksum is wrong".into());
        }
        let mut name = text(&raw[..100])?;
        let prefix = text(&raw[345..500])?;
        if posix && !prefix.is_empty() {
            name = format!("{prefix}/{name}");
        }
        let size = number(&raw[124..136]).ok_or("a size is malformed")?;
        Ok(Self { name, size, kind: raw[156] })
    }
}

fn checksum(raw: &[u8; BLOCK]) -> u64 {
    let bytes = raw.iter().enumerate();
    bytes.map(|(at, &byte)| u64::from(if (148..156).contains(&at) { b' ' } else { byte })).sum()
}

fn text(field: &[u8]) -> Result<String, String> {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    let text = std::str::from_utf8(&field[..end]).map_err(|_| "a name is not UTF-8")?;
    Ok(text.to_owned())
}

/// Octal digits, with blanks before and blanks or zeros behind.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
    if text.is_empty() || text.bytes().any(|b| !(b'0'..=b'7').contains(&b)) {
        return None;
    }
    u64::from_str_radix(text, 8).ok()
}

/// A size: octal, or binary with the first bit set, as GNU writes it from 8 GiB on.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] != 0x80 {
        return octal(field);
    }
    let (high, low) = field[1..].split_at(3);
    let value = u64::from_be_bytes(low.try_into().ok()?);
    // Room for arithmetic on offsets: no file is larger than half of what 64 bits count.
    (high.iter().all(|&byte| byte == 0) && value <= u64::MAX / 4).then_some(value)
}

/// The records of a pax header: `LENGTH KEY=VALUE\n`, where the length counts all of it.
fn pax_records(bytes: &[u8]) -> Result<Vec<(&str, &str)>, String> {
    let malformed = || "an extended header is malformed".to_owned();
    let mut rest = std::str::from_utf8(bytes).map_err(|_| malformed())?;
    let mut records = Vec::new();
    while !rest.is_empty() {
        let (length, _) = rest.split_once(' ').ok_or_else(malformed)?;
        let total: usize = length.parse().map_err(|_| malformed())?;
        let record = rest.get(length.len() + 1..total).ok_or_else(malformed)?;
        let pair = record.strip_suffix('\n').and_then(|record| record.split_once('='));
        records.push(pair.ok_or_else(malformed)?);
        rest = &rest[total..];
    }
    Ok(records)
}

/// The header block of a regular file. Everything that could tell one machine or day from another
/// (owner, times) is zero, so that equal input gives equal bytes.
#[cfg(feature = "write")]
pub(crate) fn header(name: &str, size: u64, mode: u32) -> [u8; BLOCK] {
    assert!(name.len() <= 100, "names were checked before");
    let mut raw = [0; BLOCK];
    raw[..name.len()].copy_from_slice(name.as_bytes());
    let mut put = |at: usize, text: String| raw[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(100, format!("{mode:07o}"));
    put(108, format!("{:07o}", 0));
    put(116, format!("{:07o}", 0));
    // Eleven octal digits end at 8 GiB; beyond that, the binary form that all readers know.
    if size < 1 << 33 {
        put(124, format!("{size:011o}"));
    } else {
        raw[124] = 0x80;
        raw[128..136].copy_from_slice(&size.to_be_bytes());
    }
    raw[136..147].copy_from_slice(b"00000000000");
    raw[156] = b'0';
    raw[257..265].copy_from_slice(b"ustar\x0000");
    let sum = format!("{:06o}\0 ", checksum(&raw));
    raw[148..156].copy_from_slice(sum.as_bytes());
    raw
}

/// A whole member: header, bytes, padding.
#[cfg(feature = "write")]
pub(crate) fn member(name: &str, bytes: &[u8], mode: u32) -> Vec<u8> {
    let size = bytes.len() as u64;
    let mut all = header(name, size, mode).to_vec();
    all.extend_from_slice(bytes);
    all.resize(all.len() + padding(size), 0);
    all
}

/// The two blocks of zeros that end an archive.
#[cfg(feature = "write")]
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

#[cfg(all(test, feature = "write"))]
mod tests {
    use super::*;

    fn names(bytes: &[u8]) -> Result<Vec<(String, u64)>, Error> {
        let mut tar = TarReader::new("test", bytes);
        let mut found = Vec::new();
        while let Some(member) = tar.next()? {
            io::copy(&mut tar, &mut io::sink()).map_err(Error::from)?;
            found.push((member.name, member.size));
        }
        tar.finish()?;
        Ok(found)
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = [member("a", b"hello", 0o644), member("b/c", &[7; 1024], 0o600), END.to_vec()].concat();
        assert_eq!(names(&bytes).unwrap(), [("a".into(), 5), ("b/c".into(), 1024)]);
    }

    #[test]
    fn every_cut_is_noticed() {
        let bytes = [member("a", b"hello", 0o644), END.to_vec()].concat();
        for end in 0..bytes.len() {
            assert!(names(&bytes[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn large_sizes_are_binary() {
        for size in [(1 << 33) - 1, 1 << 33, 1 << 40] {
            assert_eq!(Header::parse(&header("x", size, 0o600)).unwrap().size, size);
        }
    }

    #[test]
    fn pax_names_and_sizes_count() {
        let record = b"13 path=long\n10 size=3\n";
        let mut extended = member("x", record, 0o600);
        extended[156] = b'x';
        let sum = format!("{:06o}\0 ", checksum(extended[..BLOCK].try_into().unwrap()));
        extended[148..156].copy_from_slice(sum.as_bytes());
        let bytes = [extended, member("short", b"abc", 0o600), END.to_vec()].concat();
        assert_eq!(names(&bytes).unwrap(), [("long".into(), 3)]);
    }

    #[test]
    fn something_behind_the_end_is_refused() {
        let mut bytes = [member("a", b"", 0o644), END.to_vec(), vec![0; 8192]].concat();
        assert_eq!(names(&bytes).unwrap().len(), 1);
        bytes.push(1);
        assert!(names(&bytes).is_err());
        bytes.pop();
        bytes.resize(bytes.len() + (2 << 20), 0);
        assert!(names(&bytes).is_err());
    }
}
