//! Finding blocks that can be unpacked on their own: gzip members that say how long they are (ours
//! do), and zstd frames, whose length follows from their block headers.
//!
//! A gzip member of ours has an extra field `Vo` of four bytes: the size of the whole member. RFC 1952
//! lets every other reader skip it.

use std::io::{self, Read};

use super::Compression;
use crate::Limits;
use crate::pool::Pool;

/// The subfield of the gzip header that holds the member's size.
pub(super) const GZIP_FIELD: [u8; 2] = *b"Vo";
/// Bytes of a gzip header with that one subfield.
pub(super) const GZIP_HEADER: usize = 20;

/// What comes next in the compressed bytes.
pub(super) enum Next {
    /// A block that stands on its own.
    Block(Vec<u8>),
    /// Nothing.
    End,
    /// Something else; these bytes of it were read.
    Other(Vec<u8>),
}

/// Blocks under way and the one that is being read.
pub(super) struct Blocks {
    pool: Pool,
    current: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Blocks {
    /// Starts workers where blocks are possible and several threads are wanted.
    pub(super) fn new(kind: Compression, limits: &Limits) -> io::Result<Option<Self>> {
        if limits.threads < 2 {
            return Ok(None);
        }
        let pool = match kind {
            #[cfg(feature = "write")]
            Compression::Gzip => Some(Pool::new(limits.threads, || Ok(gzip_worker()))?),
            #[cfg(feature = "zstd")]
            Compression::Zstd => {
                let window = super::decode::window_log(limits);
                Some(Pool::new(limits.threads, || zstd_worker(window))?)
            }
            _ => None,
        };
        Ok(pool.map(|pool| Self { pool, current: Vec::new(), at: 0, ended: false }))
    }

    pub(super) fn wants_more(&self) -> bool {
        !self.ended && !self.pool.is_full()
    }

    pub(super) fn submit(&mut self, block: Vec<u8>) {
        self.pool.submit(block);
    }

    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    /// Bytes in order; none once nothing is under way.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.current.len() {
            let Some(block) = self.pool.take() else {
                return Ok(0);
            };
            self.current = block?.result;
            self.at = 0;
        }
        let count = buffer.len().min(self.current.len() - self.at);
        buffer[..count].copy_from_slice(&self.current[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

/// Takes the next block from the compressed bytes.
pub(super) fn next(kind: Compression, input: &mut impl Read, limits: &Limits) -> io::Result<Next> {
    match kind {
        Compression::Gzip => next_gzip(input, limits),
        Compression::Zstd => next_zstd(input, limits),
        Compression::None | Compression::Xz => Ok(Next::Other(Vec::new())),
    }
}

/// Most bytes of one block before or after unpacking: a few of them are in memory for each thread.
fn largest(limits: &Limits) -> u64 {
    limits.decoder_memory / 4
}

/// Reads up to `more` further bytes; fewer only at the end of the input.
fn extend(block: &mut Vec<u8>, input: &mut impl Read, more: usize) -> io::Result<usize> {
    input.take(more as u64).read_to_end(block)
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle of a block")
}

fn next_gzip(input: &mut impl Read, limits: &Limits) -> io::Result<Next> {
    let mut block = Vec::new();
    let count = extend(&mut block, input, GZIP_HEADER)?;
    if count == 0 {
        return Ok(Next::End);
    }
    let Some(size) = gzip_member_size(&block).filter(|&size| u64::from(size) <= largest(limits)) else {
        return Ok(Next::Other(block));
    };
    let more = (size as usize).saturating_sub(GZIP_HEADER);
    block.reserve_exact(more);
    if extend(&mut block, input, more)? < more {
        return Err(cut_off());
    }
    let unpacked = u64::from(le32(&block[block.len() - 4..]));
    Ok(if unpacked <= largest(limits) { Next::Block(block) } else { Next::Other(block) })
}

/// The size that our extra field gives; the smallest possible member is the header and 10 bytes.
fn gzip_member_size(header: &[u8]) -> Option<u32> {
    let ours = header.len() == GZIP_HEADER
        && header[..4] == [0x1f, 0x8b, 8, 4]
        && header[10..12] == [8, 0]
        && header[12..14] == GZIP_FIELD
        && header[14..16] == [4, 0];
    ours.then(|| le32(&header[16..20])).filter(|&size| size as usize >= GZIP_HEADER + 10)
}

fn le32(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"))
}

/// RFC 8878, section 3.1.
const ZSTD_MAGIC: u32 = 0xfd2f_b528;

fn next_zstd(input: &mut impl Read, limits: &Limits) -> io::Result<Next> {
    let mut frame = Vec::new();
    let count = extend(&mut frame, input, 5)?;
    if count == 0 {
        return Ok(Next::End);
    }
    if count < 5 || le32(&frame) != ZSTD_MAGIC {
        return Ok(Next::Other(frame));
    }
    let descriptor = frame[4];
    let single_segment = descriptor & 0x20 != 0;
    let dictionary = descriptor & 3 != 0;
    let size_bytes = match descriptor >> 6 {
        0 => usize::from(single_segment),
        flag => 1 << flag,
    };
    if size_bytes == 0 || dictionary {
        // The unpacked size is unknown, or bytes are needed that are not here.
        return Ok(Next::Other(frame));
    }
    let rest_of_header = usize::from(!single_segment) + size_bytes;
    if extend(&mut frame, input, rest_of_header)? < rest_of_header {
        return Err(cut_off());
    }
    if zstd_content_size(&frame[frame.len() - size_bytes..]) > largest(limits) {
        return Ok(Next::Other(frame));
    }
    loop {
        let at = frame.len();
        if extend(&mut frame, input, 3)? < 3 {
            return Err(cut_off());
        }
        let header = u32::from_le_bytes([frame[at], frame[at + 1], frame[at + 2], 0]);
        // A block of type 1 is one byte that is repeated.
        let body = if header >> 1 & 3 == 1 { 1 } else { (header >> 3) as usize };
        let last = header & 1 == 1;
        let body = body + if last && descriptor & 4 != 0 { 4 } else { 0 };
        if (frame.len() + body) as u64 > largest(limits) + 65_536 {
            return Ok(Next::Other(frame));
        }
        if extend(&mut frame, input, body)? < body {
            return Err(cut_off());
        }
        if last {
            return Ok(Next::Block(frame));
        }
    }
}

/// The field of 1, 2, 4 or 8 bytes; that of two counts from 256 on.
fn zstd_content_size(field: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    bytes[..field.len()].copy_from_slice(field);
    u64::from_le_bytes(bytes).saturating_add(if field.len() == 2 { 256 } else { 0 })
}

#[cfg(feature = "write")]
fn gzip_worker() -> crate::pool::Work {
    let mut decoder = libdeflater::Decompressor::new();
    Box::new(move |block| {
        let mut unpacked = vec![0; le32(&block[block.len() - 4..]) as usize];
        let count = decoder.gzip_decompress(block, &mut unpacked).map_err(io::Error::other)?;
        unpacked.truncate(count);
        Ok(unpacked)
    })
}

#[cfg(feature = "zstd")]
fn zstd_worker(window: u32) -> io::Result<crate::pool::Work> {
    let mut decoder = zstd::bulk::Decompressor::new()?;
    decoder.set_parameter(zstd::zstd_safe::DParameter::WindowLogMax(window))?;
    Ok(Box::new(move |frame| {
        let single_segment = frame[4] & 0x20 != 0;
        let size_bytes = match frame[4] >> 6 {
            0 => 1,
            flag => 1 << flag,
        };
        let at = 5 + usize::from(!single_segment);
        let size = zstd_content_size(&frame[at..at + size_bytes]);
        decoder.decompress(frame, size as usize)
    }))
}
