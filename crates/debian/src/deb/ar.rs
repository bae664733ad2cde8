//! The outer `ar` archive of a `.deb`, read forward only.

use std::io::{self, Read};

use super::Problem;

/// The members of an archive, one after the other. Reads as the content of the member that
/// `next` found last.
pub(super) struct Members<R> {
    reader: R,
    /// Where the reader stands, for messages.
    position: u64,
    name: String,
    size: u64,
    remaining: u64,
    padding: u64,
}

/// Carried inside an `io::Error` through the decompressors: the file ends within a member.
#[derive(Debug, thiserror::Error)]
#[error("the file is cut off")]
pub(super) struct CutOff;

impl<R: Read> Members<R> {
    /// Reads the magic number.
    pub(super) fn begin(mut reader: R) -> Result<Self, Problem> {
        let mut magic = [0; 8];
        match read_up_to(&mut reader, &mut magic).map_err(Problem::Read)? {
            8 if &magic == b"!<arch>\n" => {}
            _ => return Err(Problem::NotAr),
        }
        Ok(Self { reader, position: 8, name: String::new(), size: 0, remaining: 0, padding: 0 })
    }

    /// Skips what is left of this member and steps to the next; `None` at the end of the file.
    pub(super) fn next(&mut self) -> Result<Option<String>, Problem> {
        let name = self.name.clone();
        io::copy(self, &mut io::sink()).map_err(|error| super::unpack::problem(&name, error))?;
        let mut pad = [0; 1];
        if self.padding == 1 {
            // Some writers leave the padding of the last member away.
            self.position += read_up_to(&mut self.reader, &mut pad).map_err(Problem::Read)? as u64;
        }
        let mut header = [0; 60];
        match read_up_to(&mut self.reader, &mut header).map_err(Problem::Read)? {
            0 => return Ok(None),
            60 => {}
            _ => return Err(Problem::Truncated("a member header".to_owned())),
        }
        let wrong = || Problem::MemberHeader(self.position);
        let text = std::str::from_utf8(&header).map_err(|_| wrong())?;
        if !text.is_ascii() || !text.ends_with("`\n") {
            return Err(wrong());
        }
        let digits = text[48..58].trim_end();
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        self.size = digits.parse().map_err(|_| wrong())?;
        self.remaining = self.size;
        self.padding = self.size % 2;
        self.position += 60;
        // GNU ar ends names with a slash.
        let name = text[..16].trim_end();
        self.name = name.strip_suffix('/').unwrap_or(name).to_owned();
        Ok(Some(self.name.clone()))
    }

    /// Bytes of this member.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn into_inner(self) -> R {
        self.reader
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let count = self.reader.read(&mut buffer[..want])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, CutOff));
        }
        self.remaining -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

/// Fills the buffer as far as the file reaches.
fn read_up_to(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
