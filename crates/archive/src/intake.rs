//! Takes offered files in: copies them beside the pool while it hashes and reads them, so that
//! what was checked is what is kept. Files that were given to the archive need no copy. Not here:
//! whether they may stay.

use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use tempfile::TempPath;
use volary_debian::changes::Changes;
use volary_debian::deb;
use volary_host::FileError;
use volary_model::{Component, Digest};

use crate::entry::{PackageEntry, Provenance};
use crate::error::{Error, RefusalReason};
use crate::files;
use crate::sidecar::Extract;
use crate::upload::UploadPolicy;

/// Largest `.changes`; a real one has a few KB.
const CHANGES_LIMIT: u64 = 4 << 20;

/// A package that was copied, read and found well-formed.
#[derive(Debug)]
pub(crate) struct Candidate {
    /// As the caller named it.
    pub(crate) file: String,
    pub(crate) entry: PackageEntry,
    /// Its files in the order of `PackageEntry::paths`. Closed, because a call may bring more
    /// files than a process may have open.
    pub(crate) files: Vec<Held>,
    pub(crate) extract: Extract,
}

/// A file that was checked, and can no more become another one.
#[derive(Debug)]
pub(crate) enum Held {
    /// A copy of it; dropped, it is gone.
    Copy(TempPath),
    /// The file itself, which was given to the archive.
    Own(PathBuf),
}

impl Held {
    /// Gives it its place in the pool.
    pub(crate) fn place(self, path: &Path) -> Result<(), FileError> {
        let placed = match self {
            Self::Copy(copy) => copy.persist(path).map_err(|error| error.error),
            Self::Own(own) => fs::rename(own, path),
        };
        placed.map_err(FileError::at("write", path))
    }
}

/// Where and how files come in.
#[derive(Debug)]
pub(crate) struct Intake<'a> {
    /// A folder on the pool's file system.
    pub(crate) incoming: &'a Path,
    /// The number of the pool's file system if the files are given to the archive; those on it are
    /// not copied.
    pub(crate) own_on: Option<u64>,
    /// Further components for own packages.
    pub(crate) components: &'a [Component],
    pub(crate) provenance: &'a Arc<Provenance>,
    pub(crate) policy: &'a UploadPolicy,
    pub(crate) now: Timestamp,
}

/// Passes through what is read, and writes it down.
struct Copying<'a> {
    from: File,
    to: &'a mut File,
    /// A write error must not look like an unreadable package.
    failed: &'a mut Option<io::Error>,
}

impl Read for Copying<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.from.read(buffer)?;
        if let Err(error) = self.to.write_all(&buffer[..count]) {
            *self.failed = Some(error);
            return Err(io::Error::other("the copy cannot be written"));
        }
        Ok(count)
    }
}

impl Intake<'_> {
    /// Takes in `.deb` files and what `.changes` files name.
    pub(crate) fn take(&self, paths: &[PathBuf]) -> Result<Vec<Candidate>, Error> {
        let mut candidates = Vec::new();
        for path in paths {
            let file = path.display().to_string();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("deb" | "ddeb") => candidates.push(self.take_deb(path, file)?),
                Some("changes") => self.take_changes(path, &file, &mut candidates)?,
                Some("dsc") => candidates.push(self.take_source(path, file)?),
                _ => return Err(Error::refused(&file)(RefusalReason::Kind)),
            }
        }
        Ok(candidates)
    }

    fn take_deb(&self, path: &Path, file: String) -> Result<Candidate, Error> {
        let unreadable = |error| Error::refused(&file)(RefusalReason::Read(error));
        let from = File::open(path).map_err(unreadable)?;
        let metadata = from.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(unreadable(io::Error::other("it is not a file")));
        }
        let (read, held) = if self.is_own(path, &metadata) {
            let read = deb::read(&from, &file);
            // It will be served.
            from.set_permissions(Permissions::from_mode(0o644)).map_err(FileError::at("write", path))?;
            (read, Held::Own(path.to_owned()))
        } else {
            let mut copy = files::temporary(self.incoming)?;
            let mut failed = None;
            let read = deb::read(Copying { from, to: copy.as_file_mut(), failed: &mut failed }, &file);
            if let Some(error) = failed {
                return Err(FileError::at("write in", self.incoming)(error).into());
            }
            (read, Held::Copy(copy.into_temp_path()))
        };
        let deb = read.map_err(Error::refused(&file))?;
        let entry = PackageEntry::from_deb(&deb, self.components, Arc::clone(self.provenance), self.now)
            .map_err(Error::refused(&file))?;
        Ok(Candidate { file, entry, files: vec![held], extract: Extract::of(deb) })
    }

    /// True if a file can be moved into the pool as it is. Another name of it, or a link to it,
    /// would be a way to change it later.
    fn is_own(&self, path: &Path, opened: &Metadata) -> bool {
        let named = |named: Metadata| (named.dev(), named.ino()) == (opened.dev(), opened.ino());
        self.own_on == Some(opened.dev())
            && opened.nlink() == 1
            && fs::symlink_metadata(path).is_ok_and(named)
    }

    fn take_changes(&self, path: &Path, file: &str, to: &mut Vec<Candidate>) -> Result<(), Error> {
        let mut text = String::new();
        File::open(path)
            .and_then(|from| from.take(CHANGES_LIMIT).read_to_string(&mut text))
            .map_err(RefusalReason::Read)
            .map_err(Error::refused(file))?;
        let changes = Changes::parse(&text).map_err(Error::refused(file))?;
        self.policy.check(&text, changes.signed, self.now).map_err(Error::refused(file))?;
        let before = to.len();
        for listed in changes.files.iter().filter(|listed| is_package(&listed.name)) {
            let beside = path.with_file_name(&listed.name);
            if !beside.is_file() {
                return Err(Error::refused(file)(RefusalReason::MissingFile(listed.name.clone())));
            }
            let length =
                beside.metadata().map_err(|error| Error::refused(file)(RefusalReason::Read(error)))?.len();
            let mismatch = |what, expected: String, found: String| {
                Error::refused(file)(RefusalReason::Mismatch {
                    name: listed.name.clone(),
                    what,
                    expected,
                    found,
                })
            };
            if length != listed.size {
                return Err(mismatch("size", listed.size.to_string(), length.to_string()));
            }
            let name = beside.display().to_string();
            let candidate = if listed.name.ends_with(".dsc") {
                self.take_source(&beside, name)?
            } else {
                self.take_deb(&beside, name)?
            };
            let found = candidate.entry.sha256;
            if Digest::from_hex(&listed.sha256).ok() != Some(found) {
                return Err(mismatch("SHA-256", listed.sha256.clone(), found.hex()));
            }
            to.push(candidate);
        }
        if to.len() == before {
            return Err(Error::refused(file)(RefusalReason::NoPackages));
        }
        Ok(())
    }
}

fn is_package(name: &str) -> bool {
    name.ends_with(".deb") || name.ends_with(".ddeb") || name.ends_with(".dsc")
}
