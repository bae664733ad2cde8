//! Files, folders and links back to what the checkpoint holds; what is new in its folders removed.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags};
use volary_host::{FileError, NewFile, create_dir};

use super::Undo;
use crate::checkpoint::files::{seen, walk_all, xattrs};
use crate::checkpoint::manifest::{Entry, Kind};
use crate::checkpoint::{blobs, files};

/// Puts everything back.
pub(super) fn put_back(undo: &mut Undo<'_>) {
    let manifest = undo.manifest;
    for entry in &manifest.files {
        match one(undo, entry) {
            Ok(true) => {
                undo.undone.files += 1;
                undo.changed.insert(entry.path.as_path().to_owned());
            }
            Ok(false) => {}
            Err(error) => undo.could_not(error.to_string()),
        }
    }
    remove_new(undo);
    name_left_out(undo);
    if let Err(error) = blobs::flush(undo.store.dir()) {
        undo.could_not(error.to_string());
    }
}

/// Puts one entry back; false if it was as it should be.
pub(super) fn one(undo: &Undo<'_>, entry: &Entry) -> Result<bool, FileError> {
    let real = undo.paths.on_device(entry.path.as_path());
    let now = fs::symlink_metadata(&real).ok();
    match &entry.kind {
        Kind::Folder => {
            let mut changed = false;
            if !now.as_ref().is_some_and(Metadata::is_dir) {
                clear(&real, now.as_ref())?;
                create_dir(&real)?;
                changed = true;
            }
            Ok(attributes(&real, entry)? || changed)
        }
        Kind::Link { target } => {
            let same = now.as_ref().is_some_and(Metadata::is_symlink)
                && fs::read_link(&real).is_ok_and(|there| there == target.as_path());
            if same {
                return owner_of_link(&real, entry, now.as_ref());
            }
            clear(&real, now.as_ref())?;
            parent(&real)?;
            symlink(target.as_path(), &real).map_err(FileError::at("link", &real))?;
            owner_of_link(&real, entry, fs::symlink_metadata(&real).ok().as_ref())?;
            Ok(true)
        }
        Kind::File { only_if_gone: true, .. } if now.is_some() => Ok(false),
        Kind::File { sha256, seen: before, .. } => {
            if now.as_ref().is_some_and(|now| now.is_file() && seen(now) == *before) {
                return Ok(false);
            }
            let bytes = blobs::read(&undo.store.dir().join("blobs"), sha256)?;
            let same = now.as_ref().is_some_and(|now| now.is_file() && now.len() == bytes.len() as u64)
                && fs::read(&real).is_ok_and(|there| there == bytes);
            if same {
                return attributes(&real, entry);
            }
            if now.as_ref().is_some_and(Metadata::is_dir) {
                clear(&real, now.as_ref())?;
            }
            parent(&real)?;
            write(&real, entry, &bytes)?;
            Ok(true)
        }
    }
}

/// The new file has its owner, mode and attributes before it has its name: nobody sees a key that
/// all can read.
fn write(real: &Path, entry: &Entry, bytes: &[u8]) -> Result<(), FileError> {
    let failed = || FileError::at("put back", real);
    let mut new = NewFile::create(real, 0o600)?;
    let file = new.file();
    file.write_all(bytes).map_err(failed())?;
    let owner = (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)));
    rustix::fs::fchown(&*file, owner.0, owner.1).map_err(|error| failed()(error.into()))?;
    // After the owner, which takes away the bits for other identities.
    rustix::fs::fchmod(&*file, Mode::from_raw_mode(entry.mode)).map_err(|error| failed()(error.into()))?;
    for (name, value) in &entry.xattrs {
        let set = rustix::fs::fsetxattr(&*file, name.as_str(), &unhex(value), XattrFlags::empty());
        set.map_err(|error| failed()(error.into()))?;
    }
    rustix::fs::futimens(&*file, &times(entry)).map_err(|error| failed()(error.into()))?;
    new.keep_unflushed()
}

fn times(entry: &Entry) -> Timestamps {
    Timestamps {
        last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        last_modification: Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1.into() },
    }
}

/// Owner, mode, attributes and time of what is there; false if they were right.
fn attributes(real: &Path, entry: &Entry) -> Result<bool, FileError> {
    let failed = || FileError::at("put back", real);
    let now = fs::symlink_metadata(real).map_err(failed())?;
    let mut changed = false;
    if (now.uid(), now.gid()) != (entry.uid, entry.gid) {
        std::os::unix::fs::chown(real, Some(entry.uid), Some(entry.gid)).map_err(failed())?;
        changed = true;
    }
    if changed || now.mode() & 0o7777 != entry.mode {
        let mode = Mode::from_raw_mode(entry.mode);
        rustix::fs::chmod(real, mode).map_err(|error| failed()(error.into()))?;
        changed = true;
    }
    let attributes = xattrs(real);
    if attributes != entry.xattrs {
        set_attributes(real, &attributes, &entry.xattrs).map_err(|error| failed()(error.into()))?;
        changed = true;
    }
    let is_file = matches!(entry.kind, Kind::File { .. });
    let time = (now.mtime(), u32::try_from(now.mtime_nsec()).unwrap_or(0));
    if is_file && time != entry.mtime {
        let set = rustix::fs::utimensat(CWD, real, &times(entry), AtFlags::SYMLINK_NOFOLLOW);
        set.map_err(|error| failed()(error.into()))?;
        changed = true;
    }
    Ok(changed)
}

fn set_attributes(
    real: &Path,
    now: &BTreeMap<String, String>,
    before: &BTreeMap<String, String>,
) -> rustix::io::Result<()> {
    for name in now.keys().filter(|name| !before.contains_key(*name)) {
        rustix::fs::lremovexattr(real, name.as_str())?;
    }
    for (name, value) in before.iter().filter(|(name, value)| now.get(*name) != Some(value)) {
        rustix::fs::lsetxattr(real, name.as_str(), &unhex(value), XattrFlags::empty())?;
    }
    Ok(())
}

fn owner_of_link(real: &Path, entry: &Entry, now: Option<&Metadata>) -> Result<bool, FileError> {
    if now.is_some_and(|now| (now.uid(), now.gid()) == (entry.uid, entry.gid)) {
        return Ok(false);
    }
    std::os::unix::fs::lchown(real, Some(entry.uid), Some(entry.gid))
        .map_err(FileError::at("put back", real))?;
    Ok(true)
}

fn unhex(text: &str) -> Vec<u8> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or("0"));
    digits.map(|pair| u8::from_str_radix(pair, 16).unwrap_or(0)).collect()
}

fn parent(real: &Path) -> Result<(), FileError> {
    match real.parent() {
        Some(above) if !above.is_dir() => create_dir(above),
        _ => Ok(()),
    }
}

/// Takes away what is in the place of something else.
fn clear(real: &Path, now: Option<&Metadata>) -> Result<(), FileError> {
    match now {
        Some(_) => remove_tree(real),
        None => Ok(()),
    }
}

/// Removes a file, or a folder with all in it.
pub(super) fn remove_tree(real: &Path) -> Result<(), FileError> {
    let meta = fs::symlink_metadata(real).map_err(FileError::at("remove", real))?;
    let removed = if meta.is_dir() { fs::remove_dir_all(real) } else { fs::remove_file(real) };
    removed.map_err(FileError::at("remove", real))
}

/// What was not saved and was written to since cannot be put back; nobody is to believe that it was.
fn name_left_out(undo: &mut Undo<'_>) {
    let (manifest, since) = (undo.manifest, undo.manifest.clock.wall.as_second());
    for out in &manifest.left_out {
        let meta = fs::symlink_metadata(undo.paths.on_device(out.path.as_path()));
        if meta.is_ok_and(|meta| meta.is_dir() || meta.ctime() >= since) {
            undo.could_not(format!("{} was not saved: {}", out.path.as_path().display(), out.why));
        }
    }
}

/// Removes what the checkpoint's folders have and the checkpoint has not.
fn remove_new(undo: &mut Undo<'_>) {
    let manifest = undo.manifest;
    let trees: Vec<PathBuf> = manifest.trees.iter().map(|tree| tree.as_path().to_owned()).collect();
    let found = walk_all(undo.paths, &trees);
    let unknown = |path: &Path| manifest.left_out.iter().any(|out| path.starts_with(out.path.as_path()));
    let others = found.left_out.iter().map(|out| out.path.as_path());
    let new: Vec<(PathBuf, bool)> = found
        .entries
        .iter()
        .map(|(path, meta)| (path.clone(), meta.is_dir()))
        // A socket or a pipe in a saved folder is new too, if it was not noted as left out.
        .chain(
            others.filter(|path| !undo.paths.on_device(path).is_dir()).map(|path| (path.to_owned(), false)),
        )
        .filter(|(path, _)| manifest.entry(path).is_none() && !unknown(path))
        .filter(|(path, _)| !files::is_never_touched(path))
        .collect();
    // What is in a folder goes before the folder. A folder stays if something in it does.
    for (path, folder) in new.into_iter().rev() {
        let real = undo.paths.on_device(&path);
        let removed = if folder { fs::remove_dir(&real) } else { fs::remove_file(&real) };
        match removed {
            Ok(()) => {
                undo.undone.removed += 1;
                undo.changed.insert(path);
            }
            Err(error) if folder && error.kind() == std::io::ErrorKind::DirectoryNotEmpty => {}
            Err(error) => undo.could_not(FileError::at("remove", &real)(error).to_string()),
        }
    }
}
