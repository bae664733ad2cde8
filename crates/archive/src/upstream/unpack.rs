//! Decompression of an index: bounded, and checked against the signed size and hash.

use std::io::Read;

use sha2::{Digest as _, Sha256};
use volary_debian::release::IndexFile;
use volary_model::Digest;

use super::error::UpstreamError;

/// Largest plain index. Debian's main has 55 MB for each architecture; a bomb has more.
pub(super) const LIMIT: u64 = 1 << 30;

/// Memory that a decompressor may take for its window: xz -9 needs 65 MiB.
const MEMORY: u64 = 256 << 20;

/// Unpacks an index whose compression its name tells, as text. It must be exactly what `listed`
/// says.
pub(super) fn unpack(reader: impl Read, path: &str, listed: &IndexFile) -> Result<String, UpstreamError> {
    let unusable = |problem: String| UpstreamError::Index { path: path.to_owned(), problem };
    if listed.size > LIMIT {
        return Err(unusable(format!("it unpacks to {} bytes, and at most {LIMIT} are read", listed.size)));
    }
    let failed = |error: std::io::Error| unusable(error.to_string());
    let extension = path.rsplit_once('.').map_or("", |(_, extension)| extension);
    let reader: Box<dyn Read + '_> = match extension {
        "gz" => Box::new(flate2::read::MultiGzDecoder::new(reader)),
        "xz" => {
            let stream = liblzma::stream::Stream::new_stream_decoder(MEMORY, liblzma::stream::CONCATENATED)
                .map_err(|error| failed(error.into()))?;
            Box::new(liblzma::read::XzDecoder::new_stream(reader, stream))
        }
        "zst" => {
            let mut decoder = zstd::stream::read::Decoder::new(reader).map_err(failed)?;
            decoder.window_log_max(27).map_err(failed)?;
            Box::new(decoder)
        }
        _ => Box::new(reader),
    };
    let mut bytes = Vec::new();
    // One byte more than it may have, to notice that it has more.
    reader.take(listed.size + 1).read_to_end(&mut bytes).map_err(failed)?;
    let mismatch = |what, expected, found| UpstreamError::Mismatch {
        path: format!("{path}, unpacked,"),
        what,
        expected,
        found,
    };
    if bytes.len() as u64 != listed.size {
        let found = if bytes.len() as u64 > listed.size { "more" } else { "less" };
        return Err(mismatch("size", listed.size.to_string(), found.to_owned()));
    }
    let found = Digest::from_bytes(Sha256::digest(&bytes).into()).hex();
    if found != listed.sha256 {
        return Err(mismatch("SHA-256", listed.sha256.clone(), found));
    }
    String::from_utf8(bytes).map_err(|_| unusable("it is not UTF-8".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    const TEXT: &[u8] = b"Package: hello\n";

    fn listed(size: u64) -> IndexFile {
        IndexFile { size, sha256: Digest::from_bytes(Sha256::digest(TEXT).into()).hex() }
    }

    fn packed(extension: &str) -> Vec<u8> {
        match extension {
            "gz" => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                encoder.write_all(TEXT).unwrap();
                encoder.finish().unwrap()
            }
            "xz" => {
                let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
                encoder.write_all(TEXT).unwrap();
                encoder.finish().unwrap()
            }
            "zst" => zstd::encode_all(TEXT, 1).unwrap(),
            _ => TEXT.to_vec(),
        }
    }

    #[test]
    fn every_compression_gives_the_same_text() {
        for extension in ["gz", "xz", "zst", ""] {
            let path = format!("Packages.{extension}");
            let text = unpack(&packed(extension)[..], &path, &listed(TEXT.len() as u64)).unwrap();
            assert_eq!(text.as_bytes(), TEXT, "{path}");
        }
    }

    fn check(bytes: &[u8], size: u64, expected: &str) {
        let error = unpack(bytes, "Packages.gz", &listed(size)).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_is_not_as_listed_is_refused() {
        let good = packed("gz");
        check(&good, TEXT.len() as u64 - 1, "has size more");
        check(&good, TEXT.len() as u64 + 1, "has size less");
        check(&good[..good.len() - 9], TEXT.len() as u64, "cannot be used");
        check(b"hello", 5, "cannot be used");
        check(&good, LIMIT + 1, "at most 1073741824 are read");
        let other = zstd::encode_all(&b"Package: hellO\n"[..], 1).unwrap();
        let error = unpack(&other[..], "Packages.zst", &listed(15)).unwrap_err().to_string();
        assert!(error.contains("SHA-256"), "{error}");
    }
}
