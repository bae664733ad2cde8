//! Where the bytes of an artifact come from: a stream that is opened again where it broke off.

use std::io::{self, Read};
use std::ops::Range;
use std::time::Duration;

use crate::http::{HttpError, Server};
use crate::log;

/// How often in a row a stream may break without a byte in between.
const BREAKS: u32 = 6;

/// The first wait after a break; it doubles.
const PAUSE: Duration = Duration::from_secs(1);

/// A place that has an artifact, and perhaps files beside it: `.blocks`, `.from-…`.
pub trait Fetch {
    /// A range of the artifact, if `beside` is empty, or of a file beside it; `None` if it is not there, or if parts of what is
    /// beside it cannot be had alone.
    ///
    /// # Errors
    /// [`HttpError`].
    fn open(&self, beside: &str, range: Range<u64>) -> Result<Option<Box<dyn Read>>, HttpError>;

    /// What it is called in messages.
    fn name(&self, beside: &str) -> String;

    /// Waits before the stream is opened again.
    fn pause(&self, pause: Duration) {
        std::thread::sleep(pause);
    }
}

/// An artifact on the server, or on what stands before it.
pub struct OnServer<'a> {
    /// The server.
    pub server: &'a Server,
    /// The path of the artifact.
    pub path: String,
}

impl Fetch for OnServer<'_> {
    fn open(&self, beside: &str, range: Range<u64>) -> Result<Option<Box<dyn Read>>, HttpError> {
        match beside.is_empty() {
            true => self.server.stream(&self.path, range),
            false => self.server.part(&format!("{}{beside}", self.path), range),
        }
    }

    fn name(&self, beside: &str) -> String {
        format!("{}{}{beside}", self.server.url(), self.path)
    }
}

/// The line broke, and did not come back.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LineBroke(String);

/// There is no such file.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not there")]
pub struct NotThere(String);

/// Wrapped so that whoever unpacks it passes it on as it is.
fn gone(why: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(volary_artifact::Error::Read(io::Error::other(why)))
}

/// A range of an artifact, over as many connections as it takes.
pub struct Stream<'a> {
    fetch: &'a dyn Fetch,
    beside: &'a str,
    at: u64,
    end: u64,
    current: Option<Box<dyn Read>>,
    breaks: u32,
}

impl<'a> Stream<'a> {
    /// The bytes from `from` up to `end` of the artifact, or of a file beside it.
    pub fn new(fetch: &'a dyn Fetch, beside: &'a str, from: u64, end: u64) -> Self {
        Self { fetch, beside, at: from, end, current: None, breaks: 0 }
    }

    fn broke(&mut self, why: String) -> io::Result<()> {
        self.current = None;
        self.breaks += 1;
        if self.breaks >= BREAKS {
            return Err(gone(LineBroke(why)));
        }
        log::say(format!("{} broke off after {} bytes: {why}", self.fetch.name(self.beside), self.at));
        self.fetch.pause(PAUSE * (1 << (self.breaks - 1)));
        Ok(())
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || self.at >= self.end {
            return Ok(0);
        }
        loop {
            if self.current.is_none() {
                match self.fetch.open(self.beside, self.at..self.end) {
                    Ok(Some(body)) => self.current = Some(body),
                    Ok(None) => {
                        let name = self.fetch.name(self.beside);
                        return Err(gone(NotThere(name)));
                    }
                    Err(error @ (HttpError::Unreachable { .. } | HttpError::InTrouble { .. })) => {
                        self.broke(error.to_string())?;
                        continue;
                    }
                    Err(error) => return Err(gone(LineBroke(error.to_string()))),
                }
            }
            let Some(body) = &mut self.current else { continue };
            let most =
                usize::try_from(self.end - self.at).map_or(buffer.len(), |left| left.min(buffer.len()));
            match body.read(&mut buffer[..most]) {
                Ok(0) => self.broke("it is shorter than volary.lock says".to_owned())?,
                Ok(count) => {
                    self.at += count as u64;
                    self.breaks = 0;
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => self.broke(error.to_string())?,
            }
        }
    }
}
