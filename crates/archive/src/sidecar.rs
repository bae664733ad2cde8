//! What is taken out of packages when they come in, so that nobody need unpack them again: their
//! file lists, for `Contents`, and their changelogs, for `apt changelog`. All of it is in the
//! packages, so it is not flushed, and read from there if it was lost.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use volary_debian::deb::{self, Deb};
use volary_host::FileError;
use volary_model::Digest;

use crate::archive::Archive;
use crate::entry::{PackageEntry, pool_path};
use crate::error::Error;
use crate::files::Prepared;
use crate::publish::make_dir;
use crate::set::Listing;

/// Fast, because it runs with each include.
const LEVEL: i32 = 3;
/// Most bytes of one list; those of Debian's largest packages have some 10 MB.
const LIMIT: u64 = 256 << 20;

/// Keeps file lists and changelogs.
#[derive(Debug)]
pub(crate) struct Sidecars {
    /// File lists by the hash of their package.
    listings: PathBuf,
    /// What is served.
    public: PathBuf,
}

impl Sidecars {
    pub(crate) fn new(dir: &Path) -> Self {
        Self { listings: dir.join("listings"), public: dir.join("public") }
    }

    /// Keeps what a package brought. Nobody asks for its file list where there is no `Contents`.
    pub(crate) fn keep(&self, entry: &PackageEntry, deb: &Extract, contents: bool) -> Result<(), FileError> {
        if contents {
            self.keep_listing(&entry.sha256, &deb.files)?;
        }
        match &deb.changelog {
            Some(changelog) => self.keep_changelog(entry, changelog),
            None => Ok(()),
        }
    }

    fn keep_listing(&self, sha256: &Digest, files: &str) -> Result<(), FileError> {
        let path = self.listing_path(sha256);
        let packed =
            zstd::bulk::compress(files.as_bytes(), LEVEL).expect("a buffer of the right size is made");
        make_folder(&path)?;
        Prepared::unflushed(path, &packed)?.place()
    }

    fn keep_changelog(&self, entry: &PackageEntry, changelog: &str) -> Result<(), FileError> {
        let path = self.public.join(changelog_path(entry));
        // Packages of one source have the same. An empty one is what a power cut left.
        if fs::metadata(&path).is_ok_and(|meta| meta.len() > 0) {
            return Ok(());
        }
        make_folder(&path)?;
        Prepared::unflushed(path, changelog.as_bytes())?.place()
    }

    /// Removes what was kept for a package. Its changelog goes only with the last package of its
    /// source's version, which the caller knows.
    pub(crate) fn forget(&self, entry: &PackageEntry, with_changelog: bool) -> Result<(), FileError> {
        volary_host::remove_if_exists(&self.listing_path(&entry.sha256))?;
        if with_changelog {
            volary_host::remove_if_exists(&self.public.join(changelog_path(entry)))?;
        }
        Ok(())
    }

    fn listing_path(&self, sha256: &Digest) -> PathBuf {
        let hex = sha256.hex();
        self.listings.join(&hex[..2]).join(format!("{hex}.zst"))
    }

    fn read_listing(&self, sha256: &Digest) -> Option<String> {
        let file = File::open(self.listing_path(sha256)).ok()?;
        // An empty list is not an empty file: that is what a power cut left.
        if file.metadata().ok()?.len() == 0 {
            return None;
        }
        let mut text = String::new();
        zstd::Decoder::new(file).ok()?.take(LIMIT).read_to_string(&mut text).ok()?;
        Some(text)
    }

    fn changelog(&self, entry: &PackageEntry) -> Result<Option<String>, Error> {
        match volary_host::read_to_string(&self.public.join(changelog_path(entry))) {
            Err(error) if error.is_not_found() => {}
            Ok(empty) if empty.is_empty() => {}
            other => return Ok(Some(other?)),
        }
        Ok(self.extract(entry)?.changelog)
    }

    /// Reads a package of the pool again.
    fn extract(&self, entry: &PackageEntry) -> Result<Extract, Error> {
        let path = self.public.join(pool_path(&entry.sha256));
        let file = File::open(&path).map_err(FileError::at("read", &path))?;
        let name = path.display().to_string();
        let deb = deb::read(file, &name).map_err(Error::refused(&name))?;
        let extract = Extract::of(deb);
        self.keep(entry, &extract, true)?;
        Ok(extract)
    }
}

impl Listing for Sidecars {
    fn paths(&self, entry: &PackageEntry) -> Result<String, Error> {
        match self.read_listing(&entry.sha256) {
            Some(paths) => Ok(paths),
            None => Ok(self.extract(entry)?.files),
        }
    }
}

/// What is kept of a package beside the pool.
#[derive(Debug, Default)]
pub(crate) struct Extract {
    /// The paths in it, one a line.
    files: String,
    changelog: Option<String>,
}

impl Extract {
    pub(crate) fn of(deb: Deb) -> Self {
        // A line end in a name would be two files; nobody looks for such.
        let files: Vec<&str> =
            deb.files.iter().map(String::as_str).filter(|path| !path.contains('\n')).collect();
        Self { files: files.join("\n"), changelog: deb.changelog }
    }
}

fn changelog_path(entry: &PackageEntry) -> String {
    changelog_key(entry.component.as_str(), entry.source.as_str(), entry.source_version.as_str())
}

/// Where apt looks for the changelog of a package, from the archive's root: component, the first
/// letter of the source (four of `lib…`), source, source and version without its epoch.
pub(crate) fn changelog_key(component: &str, source: &str, version: &str) -> String {
    let letters = if source.starts_with("lib") { 4 } else { 1 };
    let prefix = source.get(..letters).unwrap_or(source);
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    format!("changelogs/{component}/{prefix}/{source}/{source}_{version}_changelog")
}

fn make_folder(path: &Path) -> Result<(), FileError> {
    let folder = path.parent().expect("kept files lie in folders");
    if folder.is_dir() {
        return Ok(());
    }
    match fs::create_dir_all(folder) {
        Err(error) => Err(FileError::at("create", folder)(error)),
        Ok(()) => make_dir(folder),
    }
}

impl Archive {
    /// The changelog of a package as it was built, newest entry first; `None` if it has none, or
    /// if the archive does not have the package.
    ///
    /// # Errors
    /// What reading may bring.
    pub fn changelog(&self, package: &Digest) -> Result<Option<String>, Error> {
        let entry = self.look()?.state.by_digest(package).cloned();
        match entry {
            Some(entry) if !entry.is_source() => self.publisher.sidecars.changelog(&entry),
            _ => Ok(None),
        }
    }
}
