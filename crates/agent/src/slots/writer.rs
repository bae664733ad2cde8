//! Puts a root file system into a slot: from the beginning on, only where it differs, flushed in steps.

use super::SlotsError;
use super::medium::Medium;

/// What is compared and written at once: what an SD card erases, or a part of it.
const PIECE: usize = if cfg!(test) { 64 << 10 } else { 1 << 20 };

/// Within a piece only what differs is written, in parts of this size.
const PART: usize = if cfg!(test) { 4 << 10 } else { 64 << 10 };

/// How much may be lost in a power cut, and how much the kernel may hold back.
const FLUSH: u64 = if cfg!(test) { 256 << 10 } else { 32 << 20 };

/// A slot that is written.
pub struct Writer<'a> {
    slot: &'a Medium,
    /// Where the piece begins.
    at: u64,
    piece: Vec<u8>,
    there: Vec<u8>,
    unflushed: u64,
    /// Bytes that had to be written.
    pub written: u64,
}

impl<'a> Writer<'a> {
    /// Begins at a place.
    pub fn new(slot: &'a Medium, at: u64) -> Self {
        Self { slot, at, piece: Vec::with_capacity(PIECE), there: vec![0; PIECE], unflushed: 0, written: 0 }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn take(&mut self, mut bytes: &[u8]) -> Result<(), SlotsError> {
        while !bytes.is_empty() {
            let used = (PIECE - self.piece.len()).min(bytes.len());
            self.piece.extend_from_slice(&bytes[..used]);
            bytes = &bytes[used..];
            if self.piece.len() == PIECE {
                self.put()?;
            }
        }
        Ok(())
    }

    fn put(&mut self) -> Result<(), SlotsError> {
        let length = self.piece.len();
        let count = self.slot.read_at(&mut self.there[..length], self.at)?;
        let mut differs = None;
        for from in (0..length).step_by(PART) {
            let until = (from + PART).min(length);
            let equal = until <= count && self.piece[from..until] == self.there[from..until];
            // Neighbours go together.
            match (equal, differs) {
                (false, None) => differs = Some(from),
                (true, Some(begin)) => {
                    self.slot.write_at(&self.piece[begin..from], self.at + begin as u64)?;
                    self.written += (from - begin) as u64;
                    differs = None;
                }
                (true, None) | (false, Some(_)) => {}
            }
        }
        if let Some(begin) = differs {
            self.slot.write_at(&self.piece[begin..], self.at + begin as u64)?;
            self.written += (length - begin) as u64;
        }
        self.at += length as u64;
        self.unflushed += length as u64;
        self.piece.clear();
        Ok(())
    }

    /// How much is on the disk, if it is time to write that down; it is flushed then.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn flush_if_due(&mut self) -> Result<Option<u64>, SlotsError> {
        if self.unflushed < FLUSH {
            return Ok(None);
        }
        self.slot.flush()?;
        self.unflushed = 0;
        Ok(Some(self.at))
    }

    /// Writes and flushes the rest.
    ///
    /// # Errors
    /// [`SlotsError`].
    pub fn finish(mut self) -> Result<u64, SlotsError> {
        if !self.piece.is_empty() {
            self.put()?;
        }
        self.slot.flush()?;
        Ok(self.written)
    }
}
