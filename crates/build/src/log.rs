//! The log of one build: every line goes to its file as it comes, and the end stays in memory.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use volary_host::FileError;

use crate::builder::{Event, Phase};
use crate::lintian::Finding;
use crate::repository::at;

/// More than this is not written: a build that shouts for ever must not fill the disk.
const FILE_LIMIT: u64 = 256 << 20;

/// Lines that an error shows.
const TAIL_LINES: usize = 30;

/// Lines in which the reason of a failure is searched. Parallel builds say much after the error.
const KEPT_LINES: usize = 20_000;

/// A longer line is cut in memory (not in the file).
const LINE_LIMIT: usize = 1000;

pub(crate) struct Log<'a> {
    file: File,
    written: u64,
    lines: usize,
    kept: VecDeque<String>,
    on_event: &'a mut dyn FnMut(Event<'_>),
}

impl<'a> Log<'a> {
    /// Starts an empty log in `path`.
    pub(crate) fn create(path: &Path, on_event: &'a mut dyn FnMut(Event<'_>)) -> Result<Self, FileError> {
        if let Some(dir) = path.parent() {
            volary_host::create_dir(dir)?;
        }
        let file = OpenOptions::new()
            .create(true)
            .write(true)
            .truncate(true)
            .open(path)
            .map_err(at("write", path))?;
        Ok(Self { file, written: 0, lines: 0, kept: VecDeque::new(), on_event })
    }

    /// Says that a phase begins.
    pub(crate) fn phase(&mut self, phase: Phase) {
        (self.on_event)(Event::Phase(phase));
        self.line(&format!("==> {}", phase.doing()));
    }

    pub(crate) fn line(&mut self, line: &str) {
        if self.written < FILE_LIMIT {
            let mut bytes = line.as_bytes().to_vec();
            bytes.push(b'\n');
            self.written += bytes.len() as u64;
            if self.written >= FILE_LIMIT {
                bytes.extend_from_slice(b"(the log is longer than 256 MiB; the rest is not kept)\n");
            }
            // A full disk must not hide how the build itself ends; that fails soon enough.
            let _ = self.file.write_all(&bytes);
        }
        self.lines += 1;
        if self.kept.len() == KEPT_LINES {
            self.kept.pop_front();
        }
        self.kept.push_back(line.chars().take(LINE_LIMIT).collect());
        (self.on_event)(Event::Line(line));
    }

    /// Hands on what lintian found; its line is in the log already.
    pub(crate) fn finding(&mut self, finding: &Finding) {
        (self.on_event)(Event::Finding(finding));
    }

    /// How many lines there were so far.
    pub(crate) fn lines(&self) -> usize {
        self.lines
    }

    /// The last line that says something.
    pub(crate) fn last(&self) -> &str {
        self.kept.iter().rev().map(|line| line.trim()).find(|line| !line.is_empty()).unwrap_or_default()
    }

    /// The last lines, for an error.
    pub(crate) fn tail(&self) -> String {
        let from = self.kept.len().saturating_sub(TAIL_LINES);
        self.kept.iter().skip(from).map(String::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The lines from number `from` on, as far as they are still in memory.
    pub(crate) fn since(&self, from: usize) -> String {
        let gone = self.lines - self.kept.len();
        let skip = from.saturating_sub(gone);
        self.kept.iter().skip(skip).map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}
