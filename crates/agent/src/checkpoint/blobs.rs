//! Contents of files by their SHA-256, shared by all checkpoints.
//!
//! A content is written without a flush of its own: one flush of the whole file system, before
//! the manifest that names it is written, is enough. So only a content that a whole manifest names
//! is known to be on the disk; another one is written again.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use volary_host::{FileError, NewFile, create_dir};

use super::manifest::{Kind, Manifest};

/// The contents that a checkpoint needs.
pub fn of(manifest: &Manifest) -> impl Iterator<Item = String> + '_ {
    manifest.files.iter().filter_map(|entry| match &entry.kind {
        Kind::File { sha256, .. } => Some(sha256.clone()),
        Kind::Folder | Kind::Link { .. } => None,
    })
}

/// Where a content is.
pub fn path(dir: &Path, sha256: &str) -> PathBuf {
    // 256 folders, since a folder with thousands of files is slow on some file systems.
    dir.join(sha256.get(..2).unwrap_or("xx")).join(sha256)
}

/// Keeps the content of a file and gives its name. `known` are the contents that need not be
/// written.
///
/// # Errors
/// [`FileError`]: the file cannot be read, or its content not be written.
pub fn keep(dir: &Path, file: &Path, known: &BTreeSet<String>) -> Result<String, FileError> {
    let mut bytes = Vec::new();
    File::open(file)
        .and_then(|mut file| file.read_to_end(&mut bytes))
        .map_err(FileError::at("read", file))?;
    let name: String = hex(&Sha256::digest(&bytes));
    if !known.contains(&name) {
        let target = path(dir, &name);
        let folder = target.parent().expect("a content is in a folder");
        create_dir(folder)?;
        let mut new = NewFile::create(&target, 0o600)?;
        new.file().write_all(&bytes).map_err(FileError::at("write", &target))?;
        new.keep_unflushed()?;
    }
    Ok(name)
}

/// Reads a content and makes sure that it is the one.
///
/// # Errors
/// [`FileError`]: it is not there, or it is damaged.
pub fn read(dir: &Path, sha256: &str) -> Result<Vec<u8>, FileError> {
    let path = path(dir, sha256);
    let bytes = volary_host::read(&path)?;
    if hex(&Sha256::digest(&bytes)) == sha256 {
        return Ok(bytes);
    }
    Err(FileError::at("use", &path)(io::Error::other("its content is damaged")))
}

/// Puts all that was written to this file system on the disk.
///
/// # Errors
/// [`FileError`].
pub fn flush(dir: &Path) -> Result<(), FileError> {
    let flushed = File::open(dir).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
    flushed.map_err(FileError::at("flush", dir))
}

/// Removes contents that nobody needs, also those that a crash left half written.
///
/// # Errors
/// [`FileError`].
pub fn prune(dir: &Path, used: &BTreeSet<String>) -> Result<(), FileError> {
    let list = |dir: &Path| match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| entry.map(|entry| entry.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    };
    for folder in list(dir).map_err(FileError::at("read", dir))? {
        for file in list(&folder).map_err(FileError::at("read", &folder))? {
            let wanted =
                file.file_name().and_then(|name| name.to_str()).is_some_and(|name| used.contains(name));
            if !wanted {
                volary_host::remove_if_exists(&file)?;
            }
        }
    }
    Ok(())
}

/// Bytes as hex digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_are_shared_checked_and_pruned() {
        let dir = tempfile::tempdir().unwrap();
        let (blobs, file) = (dir.path().join("blobs"), dir.path().join("file"));
        volary_host::write_atomic(&file, b"content", 0o644).unwrap();
        let name = keep(&blobs, &file, &BTreeSet::new()).unwrap();
        assert_eq!(read(&blobs, &name).unwrap(), b"content");
        let path = path(&blobs, &name);
        // A crash left it half written, and no manifest names it: it is written again.
        volary_host::write_atomic(&path, b"cont", 0o600).unwrap();
        assert!(read(&blobs, &name).unwrap_err().to_string().contains("damaged"));
        keep(&blobs, &file, &BTreeSet::new()).unwrap();
        assert_eq!(read(&blobs, &name).unwrap(), b"content");
        prune(&blobs, &BTreeSet::from([name.clone()])).unwrap();
        assert!(path.exists());
        prune(&blobs, &BTreeSet::new()).unwrap();
        assert!(!path.exists());
    }
}
