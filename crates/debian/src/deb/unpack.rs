//! Decompression of a member, with a limit on what comes out.

use std::io::{self, Read};

use super::Problem;
use super::ar::CutOff;

/// Memory that a decompressor may take for its window: xz -9 needs 65 MiB, zstd --ultra -22 128.
const MEMORY: u64 = 256 << 20;

/// Carried inside an `io::Error`: more came out than may.
#[derive(Debug, thiserror::Error)]
#[error("it unpacks to more than {0} bytes")]
struct TooMuch(u64);

/// Opens the content of member `name` for reading, whatever its compression.
pub(super) fn open<'a, R: Read + 'a>(
    member: R,
    name: &str,
    limit: u64,
) -> Result<Box<dyn Read + 'a>, Problem> {
    let unusable = |source| Problem::Unpack { member: name.to_owned(), source };
    let extension = name.split_once(".tar").map_or("", |(_, extension)| extension);
    let reader: Box<dyn Read + 'a> = match extension {
        "" => Box::new(member),
        ".gz" => Box::new(flate2::read::MultiGzDecoder::new(member)),
        ".xz" => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MEMORY, liblzma::stream::CONCATENATED)
                .map_err(|error| unusable(error.into()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(member, stream))
        }
        ".zst" => {
            let mut decoder = zstd::stream::read::Decoder::new(member).map_err(unusable)?;
            decoder.window_log_max(27).map_err(unusable)?;
            Box::new(decoder)
        }
        _ => return Err(Problem::Compression(name.to_owned())),
    };
    Ok(Box::new(Limited { reader, left: limit, limit }))
}

/// Says in our terms what a read error of member `name` means.
pub(super) fn problem(name: &str, error: io::Error) -> Problem {
    let inner = error.get_ref();
    if inner.is_some_and(|inner| inner.is::<CutOff>()) {
        return Problem::Truncated(name.to_owned());
    }
    if let Some(TooMuch(limit)) = inner.and_then(|inner| inner.downcast_ref()) {
        return Problem::Bomb { member: name.to_owned(), limit: *limit };
    }
    if error.raw_os_error().is_some() {
        return Problem::Read(error);
    }
    Problem::Unpack { member: name.to_owned(), source: error }
}

struct Limited<R> {
    reader: R,
    left: u64,
    limit: u64,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.reader.read(buffer)?;
        self.left =
            self.left.checked_sub(count as u64).ok_or_else(|| io::Error::other(TooMuch(self.limit)))?;
        Ok(count)
    }
}
