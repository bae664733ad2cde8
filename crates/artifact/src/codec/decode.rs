//! Unpacking with bounded memory: a stream of one thread, or independent blocks in several.

use std::io::{self, BufReader, Chain, Cursor, Read};

use super::Compression;
use super::blocks::{self, Blocks, Next};
use crate::{Error, Limits};

/// Input of a stream decoder: what was read ahead to look for blocks, then the rest.
type Ahead<R> = BufReader<Chain<Cursor<Vec<u8>>, R>>;

/// Large enough that a read costs nothing beside the unpacking.
const BUFFER: usize = 64 * 1024;

/// Unpacks one member.
pub(crate) struct Decoder<R: Read> {
    member: String,
    kind: Compression,
    limits: Limits,
    mode: Mode<R>,
}

enum Mode<R: Read> {
    Blocks {
        blocks: Blocks,
        input: R,
    },
    /// The last blocks are under way; behind them is something that only the stream decoder can read.
    Draining {
        blocks: Blocks,
        then: Box<Stream<R>>,
    },
    Stream(Box<Stream<R>>),
    /// Only between two of the others.
    Switching,
}

impl<R: Read> Decoder<R> {
    pub(crate) fn new(member: &str, kind: Compression, input: R, limits: &Limits) -> Result<Self, Error> {
        let fail = |error: io::Error| refused(member, &error);
        let mode = match Blocks::new(kind, limits).map_err(fail)? {
            Some(blocks) => Mode::Blocks { blocks, input },
            None => Mode::Stream(Box::new(Stream::new(kind, Vec::new(), input, limits).map_err(fail)?)),
        };
        Ok(Self { member: member.to_owned(), kind, limits: *limits, mode })
    }

    /// Gives the input back after the end of the unpacked bytes was read.
    pub(crate) fn into_inner(self) -> R {
        match self.mode {
            Mode::Blocks { input, .. } => input,
            Mode::Draining { then, .. } => then.into_inner(),
            Mode::Stream(stream) => stream.into_inner(),
            Mode::Switching => unreachable!("a read left the decoder in the middle of a switch"),
        }
    }

    fn step(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.mode {
                Mode::Stream(stream) => return stream.read(buffer),
                Mode::Draining { blocks, .. } => {
                    let count = blocks.read(buffer)?;
                    if count > 0 {
                        return Ok(count);
                    }
                    let Mode::Draining { then, .. } = std::mem::replace(&mut self.mode, Mode::Switching)
                    else {
                        unreachable!("matched above");
                    };
                    self.mode = Mode::Stream(then);
                }
                Mode::Blocks { blocks, input } => {
                    if blocks.wants_more() {
                        match blocks::next(self.kind, input, &self.limits)? {
                            Next::Block(block) => blocks.submit(block),
                            Next::End => blocks.end(),
                            Next::Other(ahead) => self.switch(ahead)?,
                        }
                        continue;
                    }
                    return blocks.read(buffer);
                }
                Mode::Switching => return Err(io::Error::other("the decoder failed before")),
            }
        }
    }

    /// Leaves the blocks for the stream decoder.
    fn switch(&mut self, ahead: Vec<u8>) -> io::Result<()> {
        if let Mode::Blocks { blocks, input } = std::mem::replace(&mut self.mode, Mode::Switching) {
            let then = Box::new(Stream::new(self.kind, ahead, input, &self.limits)?);
            self.mode = Mode::Draining { blocks, then };
        }
        Ok(())
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.step(buffer).map_err(|error| {
            let ours = error.get_ref().is_some_and(|inner| inner.is::<Error>());
            let from_input = error.raw_os_error().is_some();
            if ours || from_input || error.kind() == io::ErrorKind::Interrupted {
                return error;
            }
            refused(&self.member, &error).into_io()
        })
    }
}

fn refused(member: &str, error: &io::Error) -> Error {
    Error::Compression { member: member.to_owned(), reason: format!("cannot be unpacked: {error}") }
}

/// One thread, any stream.
enum Stream<R: Read> {
    None(Chain<Cursor<Vec<u8>>, R>),
    Gzip(Box<flate2::bufread::MultiGzDecoder<Ahead<R>>>),
    #[cfg(feature = "xz")]
    Xz(liblzma::bufread::XzDecoder<Ahead<R>>),
    #[cfg(feature = "zstd")]
    Zstd(zstd::stream::read::Decoder<'static, Ahead<R>>),
}

impl<R: Read> Stream<R> {
    fn new(kind: Compression, ahead: Vec<u8>, input: R, limits: &Limits) -> io::Result<Self> {
        let input = Cursor::new(ahead).chain(input);
        let buffered = |input| BufReader::with_capacity(BUFFER, input);
        Ok(match kind {
            Compression::None => Self::None(input),
            Compression::Gzip => Self::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(buffered(input)))),
            #[cfg(feature = "xz")]
            Compression::Xz => {
                let memory = limits.decoder_memory;
                let stream =
                    liblzma::stream::Stream::new_stream_decoder(memory, liblzma::stream::CONCATENATED)?;
                Self::Xz(liblzma::bufread::XzDecoder::new_stream(buffered(input), stream))
            }
            #[cfg(feature = "zstd")]
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered(input))?;
                decoder.window_log_max(window_log(limits))?;
                Self::Zstd(decoder)
            }
            #[cfg(not(all(feature = "xz", feature = "zstd")))]
            other => {
                let _ = limits;
                let text = format!("this build has no {} decoder; use gzip for this device", other.suffix());
                return Err(io::Error::other(text));
            }
        })
    }

    fn into_inner(self) -> R {
        let (_, input) = match self {
            Self::None(input) => input.into_inner(),
            Self::Gzip(decoder) => decoder.into_inner().into_inner().into_inner(),
            #[cfg(feature = "xz")]
            Self::Xz(decoder) => decoder.into_inner().into_inner().into_inner(),
            #[cfg(feature = "zstd")]
            Self::Zstd(decoder) => decoder.finish().into_inner().into_inner(),
        };
        input
    }
}

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(input) => input.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            #[cfg(feature = "xz")]
            Self::Xz(decoder) => decoder.read(buffer),
            #[cfg(feature = "zstd")]
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

/// The largest zstd window, as a power of two, that the memory limit has room for.
#[cfg(feature = "zstd")]
pub(super) fn window_log(limits: &Limits) -> u32 {
    // The library's own bounds are 10 and, on small machines, 30.
    limits.decoder_memory.max(1).ilog2().clamp(10, 30)
}
