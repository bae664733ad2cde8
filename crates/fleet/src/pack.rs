//! Git's packfile, version 2, without deltas: how objects travel to devices.
//!
//! Deltas are left out on purpose: a device then needs one object in memory at a time and no code
//! for chains; the transfer is small anyhow because only changed files are in it. Which objects
//! belong into a pack is decided in `transfer`.

use std::io::{self, BufRead, Read, Write};

use flate2::Compression;
use flate2::bufread::ZlibDecoder;
use flate2::write::ZlibEncoder;
use sha1_checked::{Digest as _, Sha1};

use crate::object::{MAX_OBJECT, Object, ObjectError, ObjectId, ObjectKind, ObjectSource, ReadObjects};

/// What a received pack may hold. A server that is not trusted must not fill a device's disk.
#[derive(Debug, Clone, Copy)]
pub struct PackLimits {
    /// Bytes of one object, unpacked.
    pub object: u64,
    /// Bytes of all objects together, unpacked.
    pub total: u64,
    /// How many objects.
    pub count: u32,
}

impl Default for PackLimits {
    /// 32 MiB an object, 256 MiB in all, 200,000 objects: far above any fleet repository.
    fn default() -> Self {
        Self { object: MAX_OBJECT, total: 256 << 20, count: 200_000 }
    }
}

/// Why a pack is refused.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// The stream ended early or could not be read.
    #[error("the pack could not be read to its end: {0}")]
    Read(#[source] io::Error),
    /// It is no pack, or not version 2.
    #[error("this is no git pack of version 2")]
    NotAPack,
    /// It holds a delta.
    #[error("object {0} of the pack is a delta; packs for devices are made without deltas")]
    Delta(u32),
    /// It is larger than allowed.
    #[error("the pack has more {what} than the {limit} allowed")]
    TooLarge {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// One object's data does not unpack to the promised size.
    #[error("object {index} of the pack is damaged: {reason}")]
    Damaged {
        /// Its number, from 0.
        index: u32,
        /// What is wrong.
        reason: String,
    },
    /// Its checksum at the end is wrong, or something follows it.
    #[error("the pack's checksum is wrong; it was damaged on its way, fetch it again")]
    Checksum,
    /// An object cannot be kept or read.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Reads a pack and gives each object to `keep`, one at a time. Objects are named by their own
/// content, so those kept before an error was found do no harm.
///
/// # Errors
/// [`PackError`]; only after `Ok` is the pack known to be whole. Returns the number of objects.
pub fn read_pack(
    input: impl BufRead,
    limits: &PackLimits,
    keep: &mut dyn FnMut(Object) -> Result<(), ObjectError>,
) -> Result<u32, PackError> {
    let mut input = Hashed { inner: input, hasher: Sha1::new() };
    let mut header = [0; 12];
    input.read_exact(&mut header).map_err(PackError::Read)?;
    let word = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
    if &header[..4] != b"PACK" || word(4) != 2 {
        return Err(PackError::NotAPack);
    }
    let count = word(8);
    if count > limits.count {
        return Err(PackError::TooLarge { what: "objects", limit: limits.count.into() });
    }
    let mut total = 0;
    for index in 0..count {
        let (kind, size) = entry_header(&mut input, index)?;
        if size > limits.object {
            return Err(PackError::TooLarge { what: "bytes in one object", limit: limits.object });
        }
        total += size;
        if total > limits.total {
            return Err(PackError::TooLarge { what: "bytes", limit: limits.total });
        }
        keep(Object { kind, data: inflate(&mut input, index, size)? })?;
    }
    let Hashed { inner: mut rest, hasher } = input;
    let mut trailer = [0; 20];
    rest.read_exact(&mut trailer).map_err(PackError::Read)?;
    let at_end = rest.fill_buf().map_err(PackError::Read)?.is_empty();
    if hasher.finalize()[..] != trailer || !at_end {
        return Err(PackError::Checksum);
    }
    Ok(count)
}

/// Writes the objects as a pack without deltas, in the order of `ids`.
///
/// # Errors
/// [`PackError::Object`] if one cannot be read, [`PackError::Read`] if `output` fails.
pub fn write_pack(
    objects: &dyn ObjectSource,
    ids: &[ObjectId],
    output: &mut dyn Write,
) -> Result<(), PackError> {
    let count = u32::try_from(ids.len())
        .map_err(|_| PackError::TooLarge { what: "objects", limit: u32::MAX.into() })?;
    let mut hasher = Sha1::new();
    let mut put = |bytes: &[u8]| {
        hasher.update(bytes);
        output.write_all(bytes).map_err(PackError::Read)
    };
    put(b"PACK\0\0\0\x02")?;
    put(&count.to_be_bytes())?;
    for id in ids {
        let object = objects.read(id)?;
        let mut encoder = ZlibEncoder::new(encode_header(&object), Compression::default());
        encoder
            .write_all(&object.data)
            .and_then(|()| encoder.finish())
            .map_err(PackError::Read)
            .and_then(|bytes| put(&bytes))?;
    }
    let trailer = hasher.finalize();
    output.write_all(&trailer).map_err(PackError::Read)
}

/// Passes bytes on and hashes those that were consumed.
struct Hashed<R> {
    inner: R,
    hasher: Sha1,
}

impl<R: BufRead> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.inner.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Hashed<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // A buffer that is not yet consumed is given again without another read.
        if let Ok(buffer) = self.inner.fill_buf() {
            self.hasher.update(&buffer[..count]);
        }
        self.inner.consume(count);
    }
}

/// The kind in three bits, the size in groups of 4, 7, 7, … bits, low ones first.
fn entry_header(input: &mut impl Read, index: u32) -> Result<(ObjectKind, u64), PackError> {
    let mut byte = [0];
    input.read_exact(&mut byte).map_err(PackError::Read)?;
    let kind = match byte[0] >> 4 & 7 {
        1 => ObjectKind::Commit,
        2 => ObjectKind::Tree,
        3 => ObjectKind::Blob,
        4 => ObjectKind::Tag,
        6 | 7 => return Err(PackError::Delta(index)),
        kind => return Err(PackError::Damaged { index, reason: format!("kind {kind} is unknown") }),
    };
    let mut size = u64::from(byte[0] & 15);
    let mut shift = 4;
    while byte[0] & 0x80 != 0 {
        if shift > 46 {
            return Err(PackError::Damaged { index, reason: "its size has too many digits".into() });
        }
        input.read_exact(&mut byte).map_err(PackError::Read)?;
        size |= u64::from(byte[0] & 0x7f) << shift;
        shift += 7;
    }
    Ok((kind, size))
}

fn inflate(input: &mut impl BufRead, index: u32, size: u64) -> Result<Vec<u8>, PackError> {
    // Grown as bytes come, not reserved as promised: a promise costs the sender nothing.
    let mut data = Vec::new();
    let mut decoder = ZlibDecoder::new(input);
    decoder
        .by_ref()
        .take(size + 1)
        .read_to_end(&mut data)
        .map_err(|error| PackError::Damaged { index, reason: error.to_string() })?;
    if data.len() as u64 != size {
        let reason = format!("it unpacks to another size than the {size} bytes promised");
        return Err(PackError::Damaged { index, reason });
    }
    // The checksum of the zlib stream itself is only read once the end is looked for.
    match decoder.read(&mut [0]) {
        Ok(0) => Ok(data),
        Ok(_) => Err(PackError::Damaged { index, reason: "it goes on after its end".into() }),
        Err(error) => Err(PackError::Damaged { index, reason: error.to_string() }),
    }
}

fn encode_header(object: &Object) -> Vec<u8> {
    let kind = match object.kind {
        ObjectKind::Commit => 1,
        ObjectKind::Tree => 2,
        ObjectKind::Blob => 3,
        ObjectKind::Tag => 4,
    };
    let mut rest = object.data.len() as u64;
    let mut bytes = vec![kind << 4 | (rest & 15) as u8];
    rest >>= 4;
    while rest > 0 {
        *bytes.last_mut().expect("there is a first byte") |= 0x80;
        bytes.push((rest & 0x7f) as u8);
        rest >>= 7;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::MemoryObjects;

    fn sample() -> (MemoryObjects, Vec<ObjectId>) {
        let mut objects = MemoryObjects::default();
        let ids = [0, 1, 15, 16, 2047, 2048, 70_000]
            .map(|size| Object { kind: ObjectKind::Blob, data: vec![b'x'; size] })
            .map(|object| objects.insert(object).unwrap());
        (objects, ids.to_vec())
    }

    fn read(bytes: &[u8], limits: &PackLimits) -> Result<MemoryObjects, PackError> {
        let mut objects = MemoryObjects::default();
        // A tiny buffer makes every object cross its edges.
        let input = io::BufReader::with_capacity(7, bytes);
        read_pack(input, limits, &mut |object| objects.insert(object).map(drop))?;
        Ok(objects)
    }

    #[test]
    fn what_was_written_is_read() {
        let (objects, ids) = sample();
        let mut bytes = Vec::new();
        write_pack(&objects, &ids, &mut bytes).unwrap();
        let back = read(&bytes, &PackLimits::default()).unwrap();
        for id in &ids {
            assert_eq!(back.read(id).unwrap(), objects.read(id).unwrap());
        }
    }

    #[test]
    fn no_cut_and_no_flip_passes() {
        let (objects, ids) = sample();
        let mut bytes = Vec::new();
        write_pack(&objects, &ids[..4], &mut bytes).unwrap();
        for at in 0..bytes.len() {
            assert!(read(&bytes[..at], &PackLimits::default()).is_err(), "cut at {at}");
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x20;
            assert!(read(&flipped, &PackLimits::default()).is_err(), "flip at {at}");
        }
        assert!(matches!(
            read(&[&bytes[..], b"x"].concat(), &PackLimits::default()),
            Err(PackError::Checksum)
        ));
    }

    #[test]
    fn limits_hold() {
        let (objects, ids) = sample();
        let mut bytes = Vec::new();
        write_pack(&objects, &ids, &mut bytes).unwrap();
        let check = |limits: PackLimits, expected: &str| {
            let error = read(&bytes, &limits).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        let wide = PackLimits::default();
        check(PackLimits { count: 6, ..wide }, "more objects than the 6");
        check(PackLimits { object: 60_000, ..wide }, "more bytes in one object");
        check(PackLimits { total: 72_000, ..wide }, "more bytes than");
    }
}
