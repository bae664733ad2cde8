//! Fetches only what the device lacks: with the pair of what it runs and what it gets, if the server has
//! one, and with the block file beside the artifact. Both need no trust: what comes out must be the root
//! file system that the fleet pinned. If neither is there, or does not come to that, the whole artifact
//! does it.

use std::cell::Cell;
use std::io::{self, Read};

use volary_artifact::Reader;
use volary_artifact::blocks::{self, BlocksError, Ranges, ReadAt, WriteAt};
use volary_device::Image;
use volary_host::{create_dir, write_atomic};
use volary_model::{Digest, Slot};

use super::SlotsError;
use super::artifact_keys;
use super::install::{InstallError, Installed, Job};
use super::medium::Medium;
use super::source::{Fetch, LineBroke, Stream};
use crate::log;
use crate::paths::Paths;

/// How much is written between two flushes.
const FLUSH: u64 = if cfg!(test) { 256 << 10 } else { 32 << 20 };

/// A file beside the artifact.
struct Beside<'a> {
    fetch: &'a dyn Fetch,
    name: &'a str,
}

impl Ranges for Beside<'_> {
    fn range(&mut self, start: u64, length: u64) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(Stream::new(self.fetch, self.name, start, start + length)))
    }
}

/// A slot that is read and written in parts.
struct Parts<'a> {
    medium: &'a Medium,
    length: u64,
    unflushed: &'a Cell<u64>,
}

impl ReadAt for Parts<'_> {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self.medium.read_at(buffer, offset) {
            Ok(count) if count == buffer.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl WriteAt for Parts<'_> {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.unflushed.set(self.unflushed.get() + bytes.len() as u64);
        self.medium.write_at(bytes, offset).map_err(io::Error::other)
    }
}

/// What became of a try.
enum Try {
    /// The image should be there, with so many bytes in all.
    Done(u64),
    /// It is not, or not all of it.
    Not,
}

impl Job<'_> {
    /// `None` if the whole artifact is needed.
    pub(super) fn lacking(&self) -> Result<Option<Installed>, InstallError> {
        // A server that has no block file has no pair either, as a rule.
        if !self.has(".blocks") {
            return Ok(None);
        }
        // What the whole artifact would prove is the root file system, and its scripts. The one is pinned by
        // itself; the others need the pinned manifest then, or the artifact's own signature.
        let keys = artifact_keys(&self.slots.paths)?;
        let front = Stream::new(self.fetch, "", 0, self.image.size);
        let reader = Reader::open(front, &self.policy(&keys))?;
        self.check(reader.info())?;
        let manifest = reader.info().manifest;
        let scripts = reader.scripts().to_vec();
        drop(reader);
        match self.image.manifest {
            Some(pinned) if pinned != manifest => {
                return Err(InstallError::Refused(format!(
                    "the artifact's manifest has the digest {manifest}, and volary.lock pins {pinned}"
                )));
            }
            Some(_) => {}
            // Scripts that are not there may have been taken out.
            None if keys.is_empty() => return Ok(None),
            None => {}
        }
        let old = Medium::open(&self.slots.device(self.slots.running), false)?;
        let mut installed = Installed::default();
        let mut made = Try::Not;
        if let Some(from) = known(&self.slots.paths, self.slots.running).or(self.image.from) {
            made = self.pair(&old, &from, &mut installed)?;
        }
        if matches!(made, Try::Not) {
            made = self.blocks(&old, &mut installed)?;
        }
        let Try::Done(length) = made else { return Ok(None) };
        self.slot.flush()?;
        match self.read_back(&scripts, length) {
            Ok(()) => Ok(Some(Installed { length, ..installed })),
            Err(InstallError::Refused(why)) => {
                log::say(format!("{why}; the whole artifact is fetched"));
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// True if there is such a file. A line that breaks now is found by what comes next.
    fn has(&self, name: &str) -> bool {
        matches!(self.fetch.open(name, 0..1), Ok(Some(_)))
    }

    fn pair(&self, old: &Medium, from: &Digest, installed: &mut Installed) -> Result<Try, InstallError> {
        let name = format!(".from-{}", from.hex());
        let length = Cell::new(0);
        let applied = self.with(old, &name, &length, |beside, old, target, progress| {
            blocks::apply_pair(beside, old, target, &self.image.rootfs, progress)
        });
        Ok(match told(applied, "the pair")? {
            Some(applied) => {
                installed.read += applied.fetched;
                installed.written += applied.written;
                if applied.complete { Try::Done(length.get()) } else { Try::Not }
            }
            None => Try::Not,
        })
    }

    fn blocks(&self, old: &Medium, installed: &mut Installed) -> Result<Try, InstallError> {
        let length = Cell::new(0);
        let assembled = self.with(old, ".blocks", &length, |beside, old, target, progress| {
            blocks::assemble(beside, old, target, &self.image.rootfs, progress)
        });
        Ok(match told(assembled, "the block file")? {
            Some(assembled) => {
                installed.read += assembled.fetched;
                installed.written += assembled.written;
                Try::Done(length.get())
            }
            None => Try::Not,
        })
    }

    /// Calls it with the file beside the artifact, both slots, and a flush now and then.
    fn with<T>(
        &self,
        old: &Medium,
        name: &str,
        length: &Cell<u64>,
        make: impl FnOnce(
            &mut dyn Ranges,
            &dyn ReadAt,
            &mut dyn WriteAt,
            &mut dyn FnMut(blocks::Progress) -> io::Result<()>,
        ) -> Result<T, BlocksError>,
    ) -> Result<T, BlocksError> {
        let of = |medium: &Medium| {
            let failed = |error| BlocksError::Read { what: "the slot", source: io::Error::other(error) };
            medium.length().map_err(failed)
        };
        let unflushed = Cell::new(0);
        let old = Parts { medium: old, length: of(old)?, unflushed: &unflushed };
        let mut target = Parts { medium: &self.slot, length: of(&self.slot)?, unflushed: &unflushed };
        let mut progress = |progress: blocks::Progress| {
            length.set(progress.of);
            if unflushed.get() < FLUSH {
                return Ok(());
            }
            unflushed.set(0);
            self.slot.flush().map_err(io::Error::other)
        };
        make(&mut Beside { fetch: self.fetch, name }, &old, &mut target, &mut progress)
    }
}

/// What the line or the disk said is told; anything else is a reason to try otherwise.
fn told<T>(result: Result<T, BlocksError>, what: &str) -> Result<Option<T>, InstallError> {
    let error = match result {
        Ok(value) => return Ok(Some(value)),
        Err(error) => error,
    };
    match &error {
        BlocksError::Fetch { source, .. } => {
            let text = source.to_string();
            if is_of_line(source) {
                return Err(InstallError::Line(text));
            }
        }
        BlocksError::Read { .. } | BlocksError::Write { .. } => {
            return Err(SlotsError::Script(error.to_string()).into());
        }
        BlocksError::Image { .. } | BlocksError::Malformed { .. } | BlocksError::AnotherImage { .. } => {}
    }
    log::say(format!("{what} does not help: {error}"));
    Ok(None)
}

/// True if the line broke; not if there is no such file.
fn is_of_line(error: &io::Error) -> bool {
    let mut inner: Option<&(dyn std::error::Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(error) = inner {
        if error.is::<LineBroke>() {
            return true;
        }
        inner = error
            .downcast_ref::<io::Error>()
            .and_then(|error| error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)))
            .or_else(|| error.source());
    }
    false
}

/// Which root file system was put into a slot: pairs are named by it.
pub(super) fn remember(paths: &Paths, image: &Image) -> Result<(), SlotsError> {
    create_dir(&paths.slots_state())?;
    Ok(write_atomic(&file(paths, image.into), image.rootfs.to_string().as_bytes(), 0o600)?)
}

fn known(paths: &Paths, slot: Slot) -> Option<Digest> {
    volary_host::read_to_string(&file(paths, slot)).ok()?.trim().parse().ok()
}

fn file(paths: &Paths, slot: Slot) -> std::path::PathBuf {
    paths.slots_state().join(format!("rootfs.{slot}"))
}
