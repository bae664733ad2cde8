//! Packing in parallel with the same bytes whatever the number of threads: the input is cut into
//! blocks of a fixed size that do not know each other.

use std::fmt;
use std::io::{self, Write};
use std::str::FromStr;

use super::Compression;
use super::blocks::{GZIP_FIELD, GZIP_HEADER};
use crate::pool::{Pool, Work};

/// How to pack a payload. The levels are those of libdeflate, liblzma and zstd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not at all.
    None,
    /// gzip at level 1 to 12. Every Mender client reads it, the ones in Debian too.
    Gzip(u8),
    /// xz at level 0 to 9: smallest, and by far the slowest.
    Xz(u8),
    /// zstd at level 1 to 19. Mender reads it from client 4 on; Debian's client 3.4 does not.
    Zstd(u8),
}

/// A name that is no compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown compression {0:?}; known are none, gzip, lzma, zstd_fastest, zstd_fast, zstd_better, zstd_best"
)]
pub struct UnknownEncoding(String);

impl Encoding {
    /// The compression without the level.
    pub fn compression(self) -> Compression {
        match self {
            Self::None => Compression::None,
            Self::Gzip(_) => Compression::Gzip,
            Self::Xz(_) => Compression::Xz,
            Self::Zstd(_) => Compression::Zstd,
        }
    }
}

impl Default for Encoding {
    /// Mender's default: gzip.
    fn default() -> Self {
        Self::Gzip(2)
    }
}

impl FromStr for Encoding {
    type Err = UnknownEncoding;

    /// Mender's names. The levels of gzip and zstd_fast were measured to be the fastest that are no
    /// larger than what Mender's tool makes of the same name; the other levels follow their order. gzip at level 1
    /// takes a sixth less time and makes 3 % more, which is what Mender's tool makes: devices would pay for it.
    fn from_str(name: &str) -> Result<Self, UnknownEncoding> {
        Ok(match name {
            "none" => Self::None,
            "gzip" => Self::default(),
            "lzma" | "xz" => Self::Xz(6),
            "zstd_fastest" => Self::Zstd(2),
            "zstd_fast" => Self::Zstd(3),
            "zstd_better" => Self::Zstd(7),
            "zstd_best" => Self::Zstd(15),
            other => return Err(UnknownEncoding(other.to_owned())),
        })
    }
}

impl fmt::Display for Encoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Gzip(level) => write!(f, "gzip level {level}"),
            Self::Xz(level) => write!(f, "xz level {level}"),
            Self::Zstd(level) => write!(f, "zstd level {level}"),
        }
    }
}

/// gzip looks back 32 KiB: at this size the blocks cost nothing that can be measured.
const GZIP_BLOCK: usize = 1 << 20;
/// zstd looks back further; 8 MiB costs about 1 % of size and is what a decoder needs of memory.
const ZSTD_BLOCK: usize = 8 << 20;
/// xz at level 6 looks back 8 MiB; liblzma's own choice is three times that.
const XZ_BLOCK: u64 = 24 << 20;
/// Bytes that are handed on at once where nothing is cut into blocks.
const PLAIN_BLOCK: usize = 1 << 20;

/// Packs one member. The caller reads into [`Encoder::space`] and says how much with [`Encoder::advance`].
pub(crate) struct Encoder<W: Write> {
    block: Vec<u8>,
    filled: usize,
    output: Output<W>,
}

enum Output<W: Write> {
    Plain(W),
    Blocks { pool: Pool, output: W },
    Xz(Box<liblzma::write::XzEncoder<W>>),
}

impl<W: Write> Encoder<W> {
    pub(crate) fn new(encoding: Encoding, threads: usize, output: W) -> io::Result<Self> {
        let (size, output) = match encoding {
            Encoding::None => (PLAIN_BLOCK, Output::Plain(output)),
            Encoding::Gzip(level) => {
                let pool = Pool::new(threads, || gzip_worker(level))?;
                (GZIP_BLOCK, Output::Blocks { pool, output })
            }
            Encoding::Zstd(level) => {
                let pool = Pool::new(threads, || zstd_worker(level))?;
                (ZSTD_BLOCK, Output::Blocks { pool, output })
            }
            Encoding::Xz(level) => {
                let mut builder = liblzma::stream::MtStreamBuilder::new();
                builder.threads(threads.clamp(1, 64) as u32).block_size(XZ_BLOCK).preset(u32::from(level));
                let stream = builder.check(liblzma::stream::Check::Crc64).encoder()?;
                (PLAIN_BLOCK, Output::Xz(Box::new(liblzma::write::XzEncoder::new_stream(output, stream))))
            }
        };
        Ok(Self { block: vec![0; size], filled: 0, output })
    }

    /// Where the next bytes go; never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.block[self.filled..]
    }

    /// `count` bytes of the space are filled.
    pub(crate) fn advance(&mut self, count: usize) -> io::Result<()> {
        self.filled += count;
        if self.filled == self.block.len() { self.flush_block() } else { Ok(()) }
    }

    /// Packs bytes that are already somewhere.
    pub(crate) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let space = self.space();
            let count = space.len().min(bytes.len());
            space[..count].copy_from_slice(&bytes[..count]);
            bytes = &bytes[count..];
            self.advance(count)?;
        }
        Ok(())
    }

    fn flush_block(&mut self) -> io::Result<()> {
        let filled = std::mem::take(&mut self.filled);
        if filled == 0 {
            return Ok(());
        }
        match &mut self.output {
            Output::Plain(output) => output.write_all(&self.block[..filled]),
            Output::Xz(encoder) => encoder.write_all(&self.block[..filled]),
            Output::Blocks { pool, output } => {
                let size = self.block.len();
                let mut fresh = Vec::new();
                if pool.is_full()
                    && let Some(done) = pool.take()
                {
                    let done = done?;
                    output.write_all(&done.result)?;
                    fresh = done.block;
                }
                // What stands in it does not matter; only the bytes that are filled later count.
                fresh.resize(size, 0);
                let mut block = std::mem::replace(&mut self.block, fresh);
                block.truncate(filled);
                pool.submit(block);
                Ok(())
            }
        }
    }

    /// Packs what is left and gives the output back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.flush_block()?;
        match self.output {
            Output::Plain(output) => Ok(output),
            Output::Xz(encoder) => encoder.finish(),
            Output::Blocks { mut pool, mut output } => {
                while let Some(done) = pool.take() {
                    output.write_all(&done?.result)?;
                }
                Ok(output)
            }
        }
    }
}

fn gzip_worker(level: u8) -> io::Result<Work> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "gzip has levels 1 to 12");
    let level = libdeflater::CompressionLvl::new(i32::from(level)).map_err(|_| invalid())?;
    let mut encoder = libdeflater::Compressor::new(level);
    let mut packed = Vec::new();
    let zeros = vec![0; GZIP_BLOCK];
    // An image has many blocks with nothing in them, and packing one takes a quarter of the time of another.
    let mut of_zeros = Vec::new();
    Ok(Box::new(move |block| {
        let nothing = block == zeros;
        if nothing && !of_zeros.is_empty() {
            return Ok(of_zeros.clone());
        }
        packed.resize(GZIP_HEADER + encoder.deflate_compress_bound(block.len()) + 8, 0);
        let body = &mut packed[GZIP_HEADER..];
        let count = encoder.deflate_compress(block, body).map_err(io::Error::other)?;
        let end = GZIP_HEADER + count;
        packed[..16].copy_from_slice(&GZIP_START);
        packed[16..20].copy_from_slice(&(end as u32 + 8).to_le_bytes());
        packed[end..end + 4].copy_from_slice(&libdeflater::crc32(block).to_le_bytes());
        packed[end + 4..end + 8].copy_from_slice(&(block.len() as u32).to_le_bytes());
        if nothing {
            packed[..end + 8].clone_into(&mut of_zeros);
        }
        Ok(packed[..end + 8].to_vec())
    }))
}

/// RFC 1952: magic, deflate, an extra field; no time, no name, no system; 8 bytes of extra field, of
/// which 4 are the content of our subfield.
const GZIP_START: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 8, 0, GZIP_FIELD[0], GZIP_FIELD[1], 4, 0];

fn zstd_worker(level: u8) -> io::Result<Work> {
    let mut encoder = zstd::bulk::Compressor::new(i32::from(level))?;
    // Without it the window is what the level usually takes, and the block is cut up once more.
    encoder.set_parameter(zstd::zstd_safe::CParameter::WindowLog(ZSTD_BLOCK.ilog2()))?;
    Ok(Box::new(move |block| encoder.compress(block)))
}
