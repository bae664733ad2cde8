//! Fetching parts of a file, counted.

use std::io::{self, BufReader, Read};

use super::{BlocksError, Ranges};

/// What can be read of a part at once.
const BODY: usize = 16 << 10;

/// A file somewhere else, and what was fetched of it.
pub(super) struct Fetch<'a> {
    from: &'a mut dyn Ranges,
    /// Bytes fetched.
    pub(super) bytes: u64,
    /// Requests made.
    pub(super) requests: u32,
}

impl<'a> Fetch<'a> {
    pub(super) fn new(from: &'a mut dyn Ranges) -> Self {
        Self { from, bytes: 0, requests: 0 }
    }

    /// All of a part.
    pub(super) fn all(&mut self, start: u64, length: u64) -> Result<Vec<u8>, BlocksError> {
        let failed = |source| BlocksError::Fetch { start, end: start.saturating_add(length), source };
        let mut bytes = Vec::new();
        let body = self.from.range(start, length).map_err(failed)?;
        BufReader::with_capacity(BODY, body).take(length).read_to_end(&mut bytes).map_err(failed)?;
        if (bytes.len() as u64) < length {
            return Err(failed(io::ErrorKind::UnexpectedEof.into()));
        }
        self.requests += 1;
        self.bytes += length;
        Ok(bytes)
    }
}
