//! A pair: what turns one image into another, packed against what resembles it.
//!
//! ```text
//! head      104 bytes: "VOLPAIR1", lengths of both images, number of segments, SHA-256 of both
//! table     16 bytes for each segment: hash of what it makes, blocks that it makes, bytes of its body
//! bodies    numbers (LEB128) and packed bytes
//! ```
//!
//! A body is: how many references, each a place (even: of the old image, odd: of the new one; in blocks) and a length in
//! blocks; how many operations, each a length in blocks times four plus a kind (0 zeros, 1 of the old image from a place,
//! 2 of the new image from a place, 3 new); then how many blocks are new, and their zstd frame without magic number, whose
//! dictionary is all references together.

use std::io;

use ring::digest::{Context, SHA256};
use volary_model::Digest;
use zstd::zstd_safe::{DCtx, DParameter, FrameFormat};

use super::assemble::put;
use super::fetch::Fetch;
use super::format::LARGEST;
use super::{BLOCK, BlocksError, Progress, Ranges, ReadAt, WriteAt, hash, malformed, roll};
use crate::header::to_digest;

pub(super) const MAGIC: [u8; 8] = *b"VOLPAIR1";
pub(super) const HEAD: usize = 104;
pub(super) const ROW: usize = 16;
/// The most blocks that are new in a segment: 1 MiB.
pub(super) const NEW: usize = 256;
/// The most blocks that a segment makes: 16 MiB.
pub(super) const MAKES: usize = 4096;
/// The most blocks of all references of a segment: 6 MiB. The device has them in memory.
pub(super) const REFERENCES: usize = 1536;
/// Bytes of a body that is worth a look whether what it makes is there already.
const SMALL: u32 = 4096;
/// Bodies are fetched together up to this.
const TOGETHER: u64 = 256 << 10;
/// Bytes that are made at once.
const PIECE: usize = 64 * BLOCK;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) old_length: u64,
    pub(super) new_length: u64,
    pub(super) segments: u64,
    pub(super) old: Digest,
    pub(super) new: Digest,
}

impl Head {
    #[cfg(feature = "write")]
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for number in [self.old_length, self.new_length, self.segments, 0] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(self.old.as_bytes());
        bytes.extend_from_slice(self.new.as_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Self, BlocksError> {
        let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let digest = |at: usize| Digest::from_bytes(bytes[at..at + 32].try_into().expect("32 bytes"));
        let head = Self {
            old_length: number(8),
            new_length: number(16),
            segments: number(24),
            old: digest(40),
            new: digest(72),
        };
        if bytes[..8] != MAGIC || number(32) != 0 {
            return Err(malformed("it does not begin with VOLPAIR1"));
        }
        let blocks = head.new_length / BLOCK as u64;
        let whole = head.new_length.is_multiple_of(BLOCK as u64) && blocks > 0 && head.new_length <= LARGEST;
        if !whole || head.segments == 0 || head.segments > blocks {
            return Err(malformed("its lengths are impossible"));
        }
        Ok(head)
    }
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) hash: u64,
    pub(super) blocks: u32,
    pub(super) body: u32,
}

impl Row {
    #[cfg(feature = "write")]
    pub(super) fn to_bytes(self) -> [u8; ROW] {
        let mut bytes = [0; ROW];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.blocks.to_le_bytes());
        bytes[12..].copy_from_slice(&self.body.to_le_bytes());
        bytes
    }

    fn parse(bytes: &[u8]) -> Self {
        let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
        let hash = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
        Self { hash, blocks: number(8), body: number(12) }
    }
}

/// What an operation makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Zeros { blocks: u64 },
    Old { at: u64, blocks: u64 },
    Again { at: u64, blocks: u64 },
    New { blocks: u64 },
}

/// A run of blocks that new ones are packed against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reference {
    /// Of the new image, which is before the segment; else of the old one.
    pub(super) of_new: bool,
    pub(super) at: u64,
    pub(super) blocks: u64,
}

#[cfg(feature = "write")]
pub(super) fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

/// What is left of a body.
struct Body<'a>(&'a [u8]);

impl Body<'_> {
    fn number(&mut self) -> Result<u64, BlocksError> {
        let mut number = 0;
        for shift in (0..63).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or_else(|| malformed("a segment ends too early"))?;
            self.0 = rest;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(malformed("a number is too long"))
    }

    /// A number of things of which each takes a byte at least.
    fn count(&mut self) -> Result<usize, BlocksError> {
        let count = self.number()?;
        if count > self.0.len() as u64 {
            return Err(malformed("a segment says that it has more than it has"));
        }
        Ok(count as usize)
    }
}

/// How a pair went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// True if the image is in place and has the SHA-256 that was expected. Otherwise what fits together is in place.
    pub complete: bool,
    /// Bytes fetched.
    pub fetched: u64,
    /// Requests made for them.
    pub requests: u32,
    /// Bytes that were written to the target; the others were there already.
    pub written: u64,
    /// Segments that did not come out since the device is not quite the old image.
    pub failed: u32,
}

/// Puts the image in place in `target`, out of `old` and a pair. What of it does not come out is left to
/// [`assemble`](super::assemble). Memory: 9 MiB. Nothing is flushed; `progress` may do so.
///
/// # Errors
/// [`BlocksError`]: `Malformed` and `AnotherImage` if it is no pair to this image.
pub fn apply_pair(
    pair: &mut dyn Ranges,
    old: &dyn ReadAt,
    target: &mut dyn WriteAt,
    expected: &Digest,
    progress: &mut dyn FnMut(Progress) -> io::Result<()>,
) -> Result<Applied, BlocksError> {
    let mut fetch = Fetch::new(pair);
    let head = Head::parse(&fetch.all(0, HEAD as u64)?)?;
    if head.new != *expected {
        return Err(BlocksError::AnotherImage { expected: *expected, actual: head.new });
    }
    if head.new_length > target.length() {
        return Err(malformed(format!("an image of {} bytes does not fit", head.new_length)));
    }
    let table = fetch.all(HEAD as u64, head.segments * ROW as u64)?;
    let rows: Vec<Row> = table.chunks_exact(ROW).map(Row::parse).collect();
    let fits = |row: &Row| row.blocks > 0 && row.blocks as usize <= MAKES && row.body < 8 << 20;
    let blocks: u64 = rows.iter().map(|row| u64::from(row.blocks)).sum();
    if !rows.iter().all(fits) || blocks * BLOCK as u64 != head.new_length {
        return Err(malformed("its segments do not make the image"));
    }
    let mut maker = Maker {
        old,
        target,
        whole: Context::new(&SHA256),
        at: 0,
        written: 0,
        buffer: vec![0; PIECE],
        context: Vec::new(),
        new: Vec::new(),
    };
    let mut body_at = (HEAD + table.len()) as u64;
    let mut held: (u64, Vec<u8>) = (0, Vec::new());
    let mut failed = 0;
    for (index, row) in rows.iter().enumerate() {
        let end = body_at + u64::from(row.body);
        if row.body > SMALL && maker.is_there(row)? {
            maker.pass(row)?;
        } else {
            if end > held.0 + held.1.len() as u64 {
                let further = rows[index..].iter().scan(body_at, |end, row| {
                    *end += u64::from(row.body);
                    Some(*end)
                });
                let until =
                    further.take_while(|&until| until <= body_at + TOGETHER).last().unwrap_or(end).max(end);
                // Not both at once.
                held = (body_at, Vec::new());
                held.1 = fetch.all(body_at, until - body_at)?;
            }
            let body = &held.1[(body_at - held.0) as usize..(end - held.0) as usize];
            failed += u32::from(!maker.make(row, body)?);
        }
        body_at = end;
        let state = Progress { done: maker.at * BLOCK as u64, of: head.new_length, fetched: fetch.bytes };
        progress(state).map_err(|source| BlocksError::Write { what: "the slot", source })?;
    }
    let actual = to_digest(maker.whole);
    let complete = failed == 0 && actual == *expected;
    Ok(Applied { complete, fetched: fetch.bytes, requests: fetch.requests, written: maker.written, failed })
}

struct Maker<'a> {
    old: &'a dyn ReadAt,
    target: &'a mut dyn WriteAt,
    whole: Context,
    /// Blocks that are made.
    at: u64,
    written: u64,
    buffer: Vec<u8>,
    /// What the new blocks of the last segment were packed against. It and the next are kept, since memory that is given
    /// back and taken again in other sizes comes to twice as much.
    context: Vec<u8>,
    /// The new blocks.
    new: Vec<u8>,
}

impl Maker<'_> {
    /// True if what the segment makes is in the target.
    fn is_there(&mut self, row: &Row) -> Result<bool, BlocksError> {
        let mut so_far = 0;
        self.each_piece(row, &mut |piece| so_far = piece.chunks_exact(BLOCK).map(hash).fold(so_far, roll))?;
        Ok(so_far == row.hash)
    }

    fn pass(&mut self, row: &Row) -> Result<(), BlocksError> {
        let mut whole = self.whole.clone();
        self.each_piece(row, &mut |piece| whole.update(piece))?;
        self.whole = whole;
        self.at += u64::from(row.blocks);
        Ok(())
    }

    fn each_piece(&mut self, row: &Row, each: &mut dyn FnMut(&[u8])) -> Result<(), BlocksError> {
        let end = self.at + u64::from(row.blocks);
        let mut at = self.at;
        while at < end {
            let piece = &mut self.buffer[..PIECE.min((end - at) as usize * BLOCK)];
            self.target.read_at(at * BLOCK as u64, piece).map_err(slot)?;
            each(piece);
            at += (piece.len() / BLOCK) as u64;
        }
        Ok(())
    }

    /// Makes a segment; false if something else came out.
    fn make(&mut self, row: &Row, body: &[u8]) -> Result<bool, BlocksError> {
        // Without the new blocks the rest is still of use.
        let (operations, mut right) = self.open(row, body)?;
        let old_blocks = self.old.length() / BLOCK as u64;
        let mut taken = 0;
        let mut so_far = 0;
        for operation in operations {
            let (mut place, blocks) = match operation {
                Operation::Zeros { blocks } | Operation::New { blocks } => (0, blocks),
                Operation::Old { at, blocks } | Operation::Again { at, blocks } => (at, blocks),
            };
            let mut left = blocks as usize * BLOCK;
            while left > 0 {
                let piece = &mut self.buffer[..PIECE.min(left)];
                match operation {
                    Operation::Zeros { .. } => piece.fill(0),
                    Operation::New { .. } => {
                        piece.copy_from_slice(&self.new[taken..taken + piece.len()]);
                        taken += piece.len();
                    }
                    Operation::Old { .. } if place + (piece.len() / BLOCK) as u64 > old_blocks => {
                        // The slot that runs is another one.
                        right = false;
                    }
                    Operation::Old { .. } => {
                        self.old.read_at(place * BLOCK as u64, piece).map_err(running)?
                    }
                    Operation::Again { .. } => {
                        self.target.read_at(place * BLOCK as u64, piece).map_err(slot)?
                    }
                }
                so_far = piece.chunks_exact(BLOCK).map(hash).fold(so_far, roll);
                self.whole.update(piece);
                self.written += put(self.target, self.at * BLOCK as u64, piece, false)?;
                let made = (piece.len() / BLOCK) as u64;
                place += made;
                self.at += made;
                left -= piece.len();
            }
        }
        right &= so_far == row.hash;
        Ok(right)
    }

    /// Reads a body: its operations, and whether its new blocks could be unpacked here.
    fn open(&mut self, row: &Row, body: &[u8]) -> Result<(Vec<Operation>, bool), BlocksError> {
        let mut body = Body(body);
        let mut references = Vec::new();
        for _ in 0..body.count()? {
            let (place, blocks) = (body.number()?, body.number()?);
            references.push(Reference { of_new: place & 1 == 1, at: place >> 1, blocks });
        }
        if references.iter().fold(0u64, |sum, reference| sum.saturating_add(reference.blocks))
            > REFERENCES as u64
        {
            return Err(malformed("a segment refers to too much"));
        }
        let (mut operations, mut makes, mut news) = (Vec::new(), 0u64, 0u64);
        for _ in 0..body.count()? {
            let number = body.number()?;
            let blocks = number >> 2;
            makes = makes.saturating_add(blocks);
            operations.push(match number & 3 {
                0 => Operation::Zeros { blocks },
                1 => Operation::Old { at: body.number()?, blocks },
                2 => {
                    let at = body.number()?;
                    // What is made by this very operation is not there yet.
                    if at.saturating_add(blocks) > self.at.saturating_add(makes - blocks) {
                        return Err(malformed("a segment repeats what is not there"));
                    }
                    Operation::Again { at, blocks }
                }
                _ => {
                    news = news.saturating_add(blocks);
                    Operation::New { blocks }
                }
            });
        }
        if makes != u64::from(row.blocks) || news != body.number()? || news > NEW as u64 {
            return Err(malformed("a segment makes something else than its row says"));
        }
        self.new.clear();
        self.new.resize(news as usize * BLOCK, 0);
        let unpacked = news == 0 || self.unpack(&references, body.0)?;
        Ok((operations, unpacked))
    }

    /// Unpacks the new blocks; false if what the device has is not what they were packed against.
    fn unpack(&mut self, references: &[Reference], packed: &[u8]) -> Result<bool, BlocksError> {
        let blocks: usize = references.iter().map(|reference| reference.blocks as usize).sum();
        self.context.clear();
        self.context.reserve_exact(blocks * BLOCK);
        for reference in references {
            let start = self.context.len();
            let place = reference.at.saturating_mul(BLOCK as u64);
            self.context.resize(start + reference.blocks as usize * BLOCK, 0);
            let part = &mut self.context[start..];
            let end = place.saturating_add(part.len() as u64);
            if reference.of_new {
                if end > self.at * BLOCK as u64 {
                    return Err(malformed("a segment refers to what is not there"));
                }
                self.target.read_at(place, part).map_err(slot)?;
            } else if end <= self.old.length() {
                self.old.read_at(place, part).map_err(running)?;
            }
        }
        let unpacked = (|| {
            let mut decoder = DCtx::create();
            decoder.set_parameter(DParameter::Format(FrameFormat::Magicless))?;
            if !self.context.is_empty() {
                decoder.ref_prefix(&self.context)?;
            }
            decoder.decompress(&mut self.new[..], packed)
        })();
        let is_whole = unpacked.is_ok_and(|size| size == self.new.len());
        if !is_whole {
            self.new.fill(0);
        }
        Ok(is_whole)
    }
}

fn slot(source: io::Error) -> BlocksError {
    BlocksError::Read { what: "the slot", source }
}

fn running(source: io::Error) -> BlocksError {
    BlocksError::Read { what: "the slot that runs", source }
}
