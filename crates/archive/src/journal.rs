//! The journal: an append-only file, one line for each transaction. What is in it has happened.
//!
//! The first line names the format. Each further line is 16 hexadecimal digits of the SHA-256 of
//! the rest, a space, and a record as JSON. A last line that is not whole was never acknowledged
//! and is cut off by the next writer; damage anywhere before it is an error, never skipped.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use volary_host::FileError;
use volary_model::Digest;

use crate::error::Error;
use crate::record::Record;

const HEADING: &str = "volary archive journal 1\n";
const HEADING_START: &str = "volary archive journal ";

/// A journal that was read up to some place.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    /// Up to here it was read.
    offset: u64,
}

impl Journal {
    /// The first content of a new journal.
    pub(crate) fn heading() -> &'static [u8] {
        HEADING.as_bytes()
    }

    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let mut file =
            OpenOptions::new().read(true).write(true).open(path).map_err(FileError::at("open", path))?;
        let mut heading = Vec::new();
        let mut reader = io::Read::take(&mut file, HEADING.len() as u64);
        reader.read_to_end(&mut heading).map_err(FileError::at("read", path))?;
        if heading != HEADING.as_bytes() {
            let text = String::from_utf8_lossy(&heading);
            let version = text
                .strip_prefix(HEADING_START)
                .and_then(|rest| rest.split_whitespace().next())
                .and_then(|number| number.parse().ok());
            return Err(match version {
                Some(version) if version > 1 => Error::Newer { path: path.to_owned(), version },
                _ => Error::Damaged { path: path.to_owned(), problem: "its first line is wrong".to_owned() },
            });
        }
        Ok(Self { path: path.to_owned(), file, offset: HEADING.len() as u64 })
    }

    /// True if it holds more than was read.
    pub(crate) fn has_more(&self) -> Result<bool, FileError> {
        let length = self.file.metadata().map_err(FileError::at("read", &self.path))?.len();
        Ok(length > self.offset)
    }

    /// Reads what was added since the last time. Call it with the lock held: a writer may cut
    /// off its own failed line.
    pub(crate) fn read_more(&mut self) -> Result<Vec<Record>, Error> {
        let failed = |error| FileError::at("read", &self.path)(error);
        self.file.seek(SeekFrom::Start(self.offset)).map_err(failed)?;
        let mut bytes = Vec::new();
        self.file.read_to_end(&mut bytes).map_err(failed)?;
        let mut records = Vec::new();
        let mut rest = &bytes[..];
        let mut offset = self.offset;
        while !rest.is_empty() {
            let end = rest.iter().position(|&byte| byte == b'\n');
            match end.and_then(|end| parse_line(&rest[..end])) {
                Some(record) => {
                    let length = end.expect("a parsed line has an end") + 1;
                    records.push(record.map_err(|problem| self.damaged_at(&problem, offset))?);
                    rest = &rest[length..];
                    offset += length as u64;
                }
                None if is_torn(rest) => break,
                None => return Err(self.damaged_at("a line does not fit its checksum", offset)),
            }
        }
        // Only now, so that the next call finds the damage again and skips no record before it.
        self.offset = offset;
        Ok(records)
    }

    /// Adds a record and flushes. When this returns `Ok` the transaction has happened. When it
    /// fails, what was written is taken back.
    pub(crate) fn append(&mut self, record: &Record) -> Result<(), FileError> {
        let json = serde_json::to_vec(record).expect("records are plain data");
        let mut line = Vec::with_capacity(json.len() + 18);
        line.extend_from_slice(checksum(&json).as_bytes());
        line.push(b' ');
        line.extend_from_slice(&json);
        line.push(b'\n');
        let written = (|| {
            // Cuts off what a writer that died left behind.
            self.file.set_len(self.offset)?;
            self.file.seek(SeekFrom::Start(self.offset))?;
            self.file.write_all(&line)?;
            self.file.sync_data()
        })();
        if let Err(error) = written {
            let _ = self.file.set_len(self.offset);
            return Err(FileError::at("write", &self.path)(error));
        }
        self.offset += line.len() as u64;
        Ok(())
    }

    pub(crate) fn damaged(&self, problem: &str) -> Error {
        self.damaged_at(problem, self.offset)
    }

    fn damaged_at(&self, problem: &str, offset: u64) -> Error {
        let problem = format!("{problem}, after byte {offset}");
        Error::Damaged { path: self.path.clone(), problem }
    }
}

fn checksum(json: &[u8]) -> String {
    let mut hex = Digest::from_bytes(Sha256::digest(json).into()).hex();
    hex.truncate(16);
    hex
}

/// The record of a line; `None` if the line does not fit its checksum.
fn parse_line(line: &[u8]) -> Option<Result<Record, String>> {
    let (sum, json) = (line.get(..16)?, line.get(17..)?);
    if line[16] != b' ' || sum != checksum(json).as_bytes() {
        return None;
    }
    Some(serde_json::from_slice(json).map_err(|error| format!("a record is not understood: {error}")))
}

/// True if no whole line follows the broken one: then it is the end that a crash left.
fn is_torn(rest: &[u8]) -> bool {
    let lines = rest.split_inclusive(|&byte| byte == b'\n').skip(1);
    !lines.into_iter().any(|line| line.strip_suffix(b"\n").is_some_and(|line| parse_line(line).is_some()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn freeze(name: &str) -> Record {
        Record::Freeze { at: jiff::Timestamp::UNIX_EPOCH, release: name.parse().unwrap() }
    }

    fn names(records: Vec<Record>) -> Vec<String> {
        let name = |record| match record {
            Record::Freeze { release, .. } => release.to_string(),
            other => panic!("{other:?}"),
        };
        records.into_iter().map(name).collect()
    }

    fn new(dir: &Path) -> PathBuf {
        let path = dir.join("journal");
        volary_host::write_atomic(&path, Journal::heading(), 0o644).unwrap();
        path
    }

    #[test]
    fn every_cut_keeps_the_lines_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = new(dir.path());
        let mut journal = Journal::open(&path).unwrap();
        journal.append(&freeze("v1")).unwrap();
        let first = volary_host::read(&path).unwrap().len();
        journal.append(&freeze("v2")).unwrap();
        let whole = volary_host::read(&path).unwrap();
        for end in first..whole.len() {
            volary_host::write_atomic(&path, &whole[..end], 0o644).unwrap();
            let mut journal = Journal::open(&path).unwrap();
            assert_eq!(names(journal.read_more().unwrap()), ["v1"], "cut at {end}");
            journal.append(&freeze("v3")).unwrap();
            let mut again = Journal::open(&path).unwrap();
            assert_eq!(names(again.read_more().unwrap()), ["v1", "v3"]);
        }
    }

    #[test]
    fn damage_in_the_middle_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = new(dir.path());
        let mut journal = Journal::open(&path).unwrap();
        journal.append(&freeze("v1")).unwrap();
        journal.append(&freeze("v2")).unwrap();
        let mut bytes = volary_host::read(&path).unwrap();
        bytes[HEADING.len() + 30] ^= 1;
        volary_host::write_atomic(&path, &bytes, 0o644).unwrap();
        let mut journal = Journal::open(&path).unwrap();
        for _ in 0..2 {
            let error = journal.read_more().unwrap_err().to_string();
            assert!(error.contains("does not fit its checksum"), "{error}");
        }
    }

    #[test]
    fn another_process_sees_what_was_added() {
        let dir = tempfile::tempdir().unwrap();
        let path = new(dir.path());
        let mut writer = Journal::open(&path).unwrap();
        let mut reader = Journal::open(&path).unwrap();
        assert!(!reader.has_more().unwrap());
        writer.append(&freeze("v1")).unwrap();
        assert!(reader.has_more().unwrap());
        assert_eq!(names(reader.read_more().unwrap()), ["v1"]);
        assert!(!reader.has_more().unwrap());
    }

    #[test]
    fn a_newer_format_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        volary_host::write_atomic(&path, b"volary archive journal 2\nabc", 0o644).unwrap();
        assert!(matches!(Journal::open(&path), Err(Error::Newer { version: 2, .. })));
    }
}
