//! Signing an artifact that exists already. Its manifest names every other byte, so that only one
//! small member changes; the payload is checked all the same, so that nobody signs what is broken.

use std::io::{Read, Seek, SeekFrom, Write};

use crate::tar::{TarReader, member};
use crate::{Error, Policy, PrivateKey, verify};

/// What [`sign_in_place`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// The signature was replaced.
    Signed,
    /// Nothing was changed: the artifact has no signature of the same size, so everything behind it
    /// would have to move. Use [`sign_copy`].
    NeedsCopy,
}

/// Copies an artifact, checks it on the way, and signs the copy; an old signature is replaced.
/// Returns the size of the copy in bytes. After an error the copy must be thrown away.
///
/// # Errors
/// As [`verify`], with `policy`, and [`Error::Write`].
pub fn sign_copy(
    input: impl Read,
    mut output: impl Write,
    key: &PrivateKey,
    policy: &Policy<'_>,
) -> Result<u64, Error> {
    let (front, input) = Front::read(input, policy)?;
    let signature = member("manifest.sig", key.sign(&front.manifest).as_bytes(), 0o600);
    let mut written = 0;
    for part in [&front.raw[..front.signature.start], &signature, &front.raw[front.signature.end..]] {
        output.write_all(part).map_err(Error::Write)?;
        written += part.len() as u64;
    }
    let mut copied = 0;
    let rest = Tee { input, output: &mut output, copied: &mut copied };
    verify((&front.raw[..]).chain(rest), policy)?;
    output.flush().map_err(Error::Write)?;
    Ok(written + copied)
}

/// Replaces the signature of an artifact where it stands, with one write of a few hundred bytes, after
/// checking the whole artifact. A crash in that write can leave the signature broken, never the rest;
/// sign again then (with a policy that ignores signatures).
///
/// # Errors
/// As [`verify`], with `policy`, and [`Error::Write`].
pub fn sign_in_place(
    mut file: impl Read + Write + Seek,
    key: &PrivateKey,
    policy: &Policy<'_>,
) -> Result<InPlace, Error> {
    let base = file.stream_position()?;
    verify(&mut file, policy)?;
    file.seek(SeekFrom::Start(base))?;
    let (front, _) = Front::read(&mut file, policy)?;
    let signature = member("manifest.sig", key.sign(&front.manifest).as_bytes(), 0o600);
    if signature.len() != front.signature.len() {
        return Ok(InPlace::NeedsCopy);
    }
    file.seek(SeekFrom::Start(base + front.signature.start as u64))?;
    file.write_all(&signature).and_then(|()| file.flush()).map_err(Error::Write)?;
    Ok(InPlace::Signed)
}

/// The first bytes of an artifact and where its signature is or belongs.
struct Front {
    raw: Vec<u8>,
    manifest: Vec<u8>,
    signature: std::ops::Range<usize>,
}

impl Front {
    fn read<R: Read>(input: R, policy: &Policy<'_>) -> Result<(Self, R), Error> {
        let mut tar = TarReader::new("artifact", Recorder { input, raw: Vec::new() });
        let mut manifest = Vec::new();
        for name in ["version", "manifest"] {
            let found = tar.next()?.ok_or_else(|| Error::Missing { member: name.to_owned() })?;
            if found.name != name {
                return Err(Error::Order { found: found.name, expected: name.to_owned() });
            }
            manifest = tar.read_small(name, policy.limits.manifest)?;
        }
        let start = tar.get_ref().raw.len();
        let mut end = start;
        if tar.next()?.is_some_and(|found| found.name == "manifest.sig") {
            tar.read_small("manifest.sig", policy.limits.manifest)?;
            end = tar.get_ref().raw.len();
        }
        let Recorder { input, raw } = tar.into_inner();
        Ok((Self { raw, manifest, signature: start..end }, input))
    }
}

/// Keeps what is read.
struct Recorder<R> {
    input: R,
    raw: Vec<u8>,
}

impl<R: Read> Read for Recorder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.raw.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}

/// Writes what is read.
struct Tee<'a, R, W> {
    input: R,
    output: &'a mut W,
    copied: &'a mut u64,
}

impl<R: Read, W: Write> Read for Tee<'_, R, W> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.output.write_all(&buffer[..count]).map_err(|error| Error::Write(error).into_io())?;
        *self.copied += count as u64;
        Ok(count)
    }
}
