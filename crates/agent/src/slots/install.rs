//! Puts an image into the slot that does not run: streamed, resumable, verified before anything may
//! boot it.
//!
//! The journal says what is known to be in the slot and is written before the first byte changes. A
//! stream that was cut off by the power goes on at the last mark of the artifact ([`super::tap`]); one
//! without marks begins anew and writes only what is not there already.

use std::cell::RefCell;
use std::io::{self, Read};

use ring::digest::{Context, SHA256};
use volary_artifact::{Info, Limits, PayloadType, Policy, PublicKey, Reader, Script, unpack};
use volary_device::Image;
use volary_model::Digest;

use super::journal::{Journal, Mark, Progress};
use super::lacking::remember;
use super::medium::Medium;
use super::source::{Fetch, LineBroke, NotThere, Stream};
use super::tap::{Seen, Tap};
use super::writer::Writer;
use super::{Slots, SlotsError, artifact_keys, hash, scripts};
use crate::log;

/// What is read and hashed at once.
const BUFFER: usize = 256 << 10;

/// Where the file begins in the payload's archive: after one header, as every tool writes it that Mender
/// knows. Where it does not, the slot is found to be wrong and written anew without marks.
const HEADER: u64 = 512;

/// Why an image is not in the slot.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// The artifact does not come.
    #[error("{0}")]
    Line(String),
    /// The artifact is not to be trusted, or not for this device.
    #[error("{0}")]
    Refused(String),
    /// The device cannot take it.
    #[error(transparent)]
    Slots(#[from] SlotsError),
}

impl From<volary_host::FileError> for InstallError {
    fn from(error: volary_host::FileError) -> Self {
        Self::Slots(error.into())
    }
}

impl From<volary_artifact::Error> for InstallError {
    fn from(error: volary_artifact::Error) -> Self {
        match error {
            volary_artifact::Error::Read(error) => from_io(error),
            other => Self::Refused(format!("the artifact is refused: {other}")),
        }
    }
}

/// What a read said: the line, or the artifact.
pub(super) fn from_io(error: io::Error) -> InstallError {
    let of_line = error.get_ref().is_some_and(|inner| inner.is::<LineBroke>() || inner.is::<NotThere>());
    if of_line {
        return InstallError::Line(error.to_string());
    }
    if error.get_ref().is_some_and(|inner| inner.is::<volary_artifact::Error>()) {
        return volary_artifact::Error::from(error).into();
    }
    InstallError::Refused(format!("the artifact cannot be read: {error}"))
}

/// How an installation went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Installed {
    /// Bytes of the root file system.
    pub length: u64,
    /// How many of them had to be written this time.
    pub written: u64,
    /// Bytes of the artifact that were read this time.
    pub read: u64,
}

/// Puts the image there, unless it is there already. The lock is in the caller's hand.
///
/// # Errors
/// [`InstallError`]; what was written so far is used again the next time.
pub fn install(slots: &Slots, image: &Image, fetch: &dyn Fetch) -> Result<Installed, InstallError> {
    // A slot that is written must not be the one that boots next, whatever was meant before.
    slots.stay()?;
    let journal = Journal::load(&slots.paths).filter(|journal| journal.is_of(image));
    let mut mark = None;
    match journal.map(|journal| journal.progress) {
        Some(Progress::Verified { length }) => {
            return Ok(Installed { length, ..Installed::default() });
        }
        Some(Progress::Writing { mark: found }) => mark = found,
        Some(Progress::Used) | None => {}
    }
    if mark.is_none() {
        Journal::begin(image).save(&slots.paths)?;
        slots.forget_checkpoints_of(image.into)?;
    }
    let slot = Medium::open(&slots.device(image.into), true)?;
    let job = Job { slots, image, fetch, slot };
    if let Some(mark) = mark {
        log::say(format!("image {} goes on after {} bytes", image.name, mark.at));
        match job.resume(&mark) {
            Ok(installed) => return Ok(installed),
            Err(InstallError::Refused(why)) => {
                // It may be that the mark was wrong, and not the artifact.
                log::say(format!("{why}; image {} is fetched anew", image.name));
                Journal::begin(image).save(&slots.paths)?;
            }
            Err(other) => return Err(other),
        }
    }
    if let Some(installed) = job.lacking()? {
        return Ok(installed);
    }
    job.whole()
}

pub(super) struct Job<'a> {
    pub(super) slots: &'a Slots,
    pub(super) image: &'a Image,
    pub(super) fetch: &'a dyn Fetch,
    pub(super) slot: Medium,
}

impl Job<'_> {
    pub(super) fn policy<'k>(&self, keys: &'k [PublicKey]) -> Policy<'k> {
        if keys.is_empty() { Policy::unsigned() } else { Policy::signed_by(keys) }
    }

    /// From the first byte on.
    fn whole(&self) -> Result<Installed, InstallError> {
        let stream = Stream::new(self.fetch, "", 0, self.image.size);
        let (tap, seen) = Tap::new(stream);
        let keys = artifact_keys(&self.slots.paths)?;
        let mut reader = Reader::open(tap, &self.policy(&keys))?;
        self.check(reader.info())?;
        let scripts = reader.scripts().to_vec();
        let Some(file) = reader.next_file()? else {
            return Err(InstallError::Refused("the artifact has no payload".to_owned()));
        };
        // What is read back from the slot is what counts, and hashed anyway.
        let mut file = file.unchecked();
        let length = file.size();
        self.check_length(length)?;
        let mut writer = Writer::new(&self.slot, 0);
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = file.read(&mut buffer).map_err(from_io)?;
            if count == 0 {
                break;
            }
            writer.take(&buffer[..count])?;
            self.note(&mut writer, &seen, length)?;
        }
        if reader.next_file()?.is_some() {
            return Err(InstallError::Refused("the artifact has more than one payload file".to_owned()));
        }
        drop(reader);
        let written = writer.finish()?;
        self.conclude(&seen, &scripts, Installed { length, written, read: 0 }, 0)
    }

    /// From a mark on. The beginning of the artifact is read again: it has the scripts.
    fn resume(&self, mark: &Mark) -> Result<Installed, InstallError> {
        let mut front = Vec::new();
        Stream::new(self.fetch, "", 0, mark.member.0).read_to_end(&mut front).map_err(from_io)?;
        if hash::of(&front) != mark.front {
            return Err(InstallError::Refused("the beginning of the artifact is another one now".to_owned()));
        }
        let kind = member_kind(&front)?;
        let keys = artifact_keys(&self.slots.paths)?;
        let reader = Reader::open(front.as_slice(), &self.policy(&keys))?;
        self.check(reader.info())?;
        let scripts = reader.scripts().to_vec();
        let (begin, length) = mark.file;
        self.check_length(length)?;
        let stream = Stream::new(self.fetch, "", mark.at, self.image.size);
        let (mut tap, seen) = Tap::resumed(stream, mark, kind);
        let member = (&mut tap).take(mark.member.1 - mark.at);
        let mut payload = unpack("the payload", kind, member, &Limits::default())?;
        // What is before the file, or was written already and is in the same block.
        let before = begin.saturating_sub(mark.unpacked);
        skip(&mut payload, before)?;
        let at = (mark.unpacked + before) - begin;
        let mut writer = Writer::new(&self.slot, at);
        let mut left = length - at;
        let mut buffer = vec![0; BUFFER];
        while left > 0 {
            let most = usize::try_from(left).map_or(BUFFER, |left| left.min(BUFFER));
            let count = payload.read(&mut buffer[..most]).map_err(from_io)?;
            if count == 0 {
                return Err(InstallError::Refused("the payload is shorter than it said".to_owned()));
            }
            left -= count as u64;
            writer.take(&buffer[..count])?;
            self.note(&mut writer, &seen, length)?;
        }
        io::copy(&mut payload, &mut io::sink()).map_err(from_io)?;
        drop(payload);
        io::copy(&mut tap, &mut io::sink()).map_err(from_io)?;
        let written = writer.finish()?;
        let read = mark.at - mark.member.0;
        self.conclude(&seen, &scripts, Installed { length, written, read: 0 }, read)
    }

    /// That the artifact is a root file system for this device, and the one that was pinned.
    pub(super) fn check(&self, info: &Info) -> Result<(), InstallError> {
        let refused = |why: String| Err(InstallError::Refused(why));
        let device_type = &self.slots.image.device_type;
        if !info.depends.device_types.iter().any(|each| each == device_type.as_str()) {
            let types = info.depends.device_types.join(", ");
            return refused(format!("the artifact is for {types}, and this device is {device_type}"));
        }
        let [payload] = info.payloads.as_slice() else {
            return refused(format!("the artifact has {} payloads instead of one", info.payloads.len()));
        };
        if payload.kind != PayloadType::RootfsImage {
            return refused(format!("the artifact holds a {}, not a root file system", payload.kind));
        }
        let digest = payload.files.first().map(|file| file.digest);
        if digest != Some(self.image.rootfs) {
            return refused(
                "the root file system in the artifact is not the one that volary.lock pins".into(),
            );
        }
        Ok(())
    }

    fn check_length(&self, length: u64) -> Result<(), InstallError> {
        let room = self.slot.length()?;
        if length <= room {
            return Ok(());
        }
        let into = self.image.into;
        let why = format!("the root file system has {length} bytes, and slot {into} has {room}");
        Err(InstallError::Refused(why))
    }

    /// Writes down how far it got, now and then.
    fn note(&self, writer: &mut Writer<'_>, seen: &RefCell<Seen>, length: u64) -> Result<(), InstallError> {
        let Some(durable) = writer.flush_if_due()? else { return Ok(()) };
        let Some(mark) = seen.borrow_mut().mark(HEADER + durable, (HEADER, length)) else { return Ok(()) };
        let progress = Progress::Writing { mark: Some(mark) };
        Journal { progress, ..Journal::begin(self.image) }.save(&self.slots.paths)?;
        Ok(())
    }

    /// Everything is written: it counts if it is what was pinned.
    fn conclude(
        &self,
        seen: &RefCell<Seen>,
        scripts: &[Script],
        installed: Installed,
        skipped: u64,
    ) -> Result<Installed, InstallError> {
        let (length, digest) = (seen.borrow().length(), seen.borrow().digest());
        if (length, digest) != (self.image.size, self.image.artifact) {
            return Err(InstallError::Refused(format!(
                "the artifact has {length} bytes with {digest}, and volary.lock pins {} with {}",
                self.image.size, self.image.artifact
            )));
        }
        self.read_back(scripts, installed.length)?;
        Ok(Installed { read: length - skipped, ..installed })
    }

    /// What is in the slot counts if it is the root file system that was pinned.
    pub(super) fn read_back(&self, scripts: &[Script], length: u64) -> Result<(), InstallError> {
        self.slot.forget_cache();
        let there = read_back(&self.slot, length)?;
        if there != self.image.rootfs {
            Journal::begin(self.image).save(&self.slots.paths)?;
            return Err(InstallError::Refused(format!(
                "slot {} was written and reads back as {there}, not {}; the artifact holds something else than its \
                 manifest says, or the disk is failing",
                self.image.into, self.image.rootfs
            )));
        }
        scripts::keep(&self.slots.paths, scripts)?;
        let progress = Progress::Verified { length };
        Journal { progress, ..Journal::begin(self.image) }.save(&self.slots.paths)?;
        remember(&self.slots.paths, self.image)?;
        Ok(())
    }
}

/// The compression of the payload's member, by the header that the front ends with.
fn member_kind(front: &[u8]) -> Result<volary_artifact::Compression, InstallError> {
    let refused = || InstallError::Refused("the payload does not begin where it was".to_owned());
    let header = front.len().checked_sub(512).map(|at| &front[at..]).ok_or_else(refused)?;
    let name = tar::Header::from_byte_slice(header).path_bytes();
    let name = std::str::from_utf8(&name).map_err(|_| refused())?;
    volary_artifact::Compression::of_member(name, "data/0000.tar").ok_or_else(refused)
}

fn skip(input: &mut impl Read, count: u64) -> Result<(), InstallError> {
    let copied = io::copy(&mut input.take(count), &mut io::sink()).map_err(from_io)?;
    if copied == count { Ok(()) } else { Err(InstallError::Refused("the payload ends too soon".to_owned())) }
}

/// The hash of what is in the slot, with the processor's instructions for it wherever there are some.
fn read_back(slot: &Medium, length: u64) -> Result<Digest, InstallError> {
    let mut sum = Context::new(&SHA256);
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < length {
        let most = usize::try_from(length - at).map_or(BUFFER, |left| left.min(BUFFER));
        let count = slot.read_at(&mut buffer[..most], at)?;
        if count == 0 {
            break;
        }
        sum.update(&buffer[..count]);
        at += count as u64;
    }
    let mut digest = [0; 32];
    digest.copy_from_slice(sum.finish().as_ref());
    Ok(Digest::from_bytes(digest))
}
