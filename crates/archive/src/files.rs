//! Files of the archive: written whole, flushed, and put in place by a rename. Not here: which.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, IoSlice, Write};
use std::os::unix::fs::{FileExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use tempfile::NamedTempFile;
use volary_host::FileError;

/// How names of half-written files begin. Whatever has such a name and is old was left by a
/// process that died.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// After this time nobody writes to a half-written file any more.
const ABANDONED: std::time::Duration = std::time::Duration::from_secs(6 * 3600);

/// A file that is complete and flushed, but does not have its name yet. Dropped, it is gone.
#[derive(Debug)]
pub(crate) struct Prepared {
    file: NamedTempFile,
    path: PathBuf,
}

/// Makes a temporary file in a folder.
pub(crate) fn temporary(dir: &Path) -> Result<NamedTempFile, FileError> {
    tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(Permissions::from_mode(0o644))
        .tempfile_in(dir)
        .map_err(FileError::at("write in", dir))
}

impl Prepared {
    /// Writes all of a file but its name. `modified` is its time of modification, if not now.
    pub(crate) fn write<'a>(
        path: PathBuf,
        parts: impl IntoIterator<Item = &'a [u8]>,
        modified: Option<SystemTime>,
    ) -> Result<Self, FileError> {
        let prepared = Self::unflushed_parts(path, parts)?;
        let file = prepared.file.as_file();
        let stamped = modified.map_or(Ok(()), |time| file.set_times(FileTimes::new().set_modified(time)));
        stamped.and_then(|()| file.sync_data()).map_err(FileError::at("write", &prepared.path))?;
        Ok(prepared)
    }

    /// As `write`, for a file that may be gone after a power cut.
    pub(crate) fn unflushed(path: PathBuf, bytes: &[u8]) -> Result<Self, FileError> {
        Self::unflushed_parts(path, [bytes])
    }

    fn unflushed_parts<'a>(
        path: PathBuf,
        parts: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self, FileError> {
        let dir = path.parent().expect("files of the archive lie in folders");
        let mut file = temporary(dir)?;
        let written = (|| {
            // `tempfile` subtracts the umask; served files must be readable.
            file.as_file().set_permissions(Permissions::from_mode(0o644))?;
            write_parts(file.as_file_mut(), parts)
        })();
        written.map_err(FileError::at("write", &path))?;
        Ok(Self { file, path })
    }

    /// Gives the file its name, in place of what had it. The folder is not flushed.
    pub(crate) fn place(self) -> Result<(), FileError> {
        let failed = FileError::at("write", &self.path);
        self.file.persist(&self.path).map(drop).map_err(|error| failed(error.error))
    }
}

/// How many parts are written at once: what Linux takes in one call.
const PARTS: usize = 1024;

/// Files from so many bytes on go past the page cache. They are indexes, of which the next publish
/// writes others, and finding memory for them costs several times what writing them does.
const LARGE: usize = 512 << 10;

/// How much is written at once past the page cache.
const BLOCK: usize = 1 << 20;

/// What the addresses, places and lengths of such writes are multiples of; no disk wants more.
const ALIGNMENT: usize = 4096;

fn write_parts<'a>(file: &mut File, parts: impl IntoIterator<Item = &'a [u8]>) -> io::Result<()> {
    let parts: Vec<&[u8]> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    let size: usize = parts.iter().map(|part| part.len()).sum();
    // Not every file system can.
    if size >= LARGE && set_direct(file, true).is_ok() {
        return write_past_cache(file, &parts);
    }
    write_gathered(file, &parts)
}

fn set_direct(file: &File, direct: bool) -> io::Result<()> {
    let mut flags = rustix::fs::fcntl_getfl(file)?;
    flags.set(rustix::fs::OFlags::DIRECT, direct);
    Ok(rustix::fs::fcntl_setfl(file, flags)?)
}

/// Writes parts into an empty file that was set to go past the page cache.
fn write_past_cache(file: &File, parts: &[&[u8]]) -> io::Result<()> {
    // What is never read need not be set to zero.
    let mut memory: Vec<u8> = Vec::with_capacity(BLOCK + ALIGNMENT);
    let start = memory.as_ptr().align_offset(ALIGNMENT);
    memory.resize(start, 0);
    let full = start + BLOCK;
    let mut offset = 0;
    for mut part in parts.iter().copied() {
        while !part.is_empty() {
            let (now, later) = part.split_at(part.len().min(full - memory.len()));
            memory.extend_from_slice(now);
            part = later;
            if memory.len() == full {
                write_block(file, &memory[start..], offset)?;
                memory.truncate(start);
                offset += BLOCK as u64;
            }
        }
    }
    // The rest is no multiple.
    set_direct(file, false)?;
    file.write_all_at(&memory[start..], offset)
}

/// Writes a block at its place; through the page cache if the file system only now says that it
/// cannot do without.
fn write_block(file: &File, block: &[u8], offset: u64) -> io::Result<()> {
    match file.write_all_at(block, offset) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
            set_direct(file, false)?;
            file.write_all_at(block, offset)
        }
        other => other,
    }
}

/// Writes many parts with few calls: the kernel then takes memory for them in large pieces, which
/// is several times cheaper than a call for each part.
fn write_gathered(file: &mut File, parts: &[&[u8]]) -> io::Result<()> {
    let mut parts = parts.iter().map(|part| IoSlice::new(part));
    loop {
        let mut some: Vec<IoSlice<'_>> = parts.by_ref().take(PARTS).collect();
        let mut rest = &mut some[..];
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            match file.write_vectored(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => IoSlice::advance_slices(&mut rest, count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Gives an existing file a second name, in place of what had it.
pub(crate) fn link_over(existing: &Path, path: &Path) -> Result<(), FileError> {
    let failed = FileError::at("link", path);
    let dir = path.parent().expect("files of the archive lie in folders");
    let name = path.file_name().expect("a file has a name").to_string_lossy();
    let between = dir.join(format!("{TEMPORARY}{}-{name}", std::process::id()));
    let linked = (|| {
        remove_quietly(&between)?;
        fs::hard_link(existing, &between)?;
        fs::rename(&between, path)?;
        // A rename between two names of one file does nothing and leaves both.
        remove_quietly(&between)
    })();
    linked.map_err(failed)
}

fn remove_quietly(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Sets a file's time of modification; that it is gone is fine.
pub(crate) fn touch(path: &Path, time: SystemTime) -> Result<(), FileError> {
    match File::options().write(true).open(path) {
        Ok(file) => file.set_times(FileTimes::new().set_modified(time)).map_err(FileError::at("touch", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(FileError::at("touch", path)(error)),
    }
}

/// The files of a folder with their names and times of modification; none if it is not there.
pub(crate) fn list(dir: &Path) -> Result<Vec<(String, SystemTime)>, FileError> {
    let failed = |error| FileError::at("list", dir)(error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(failed)?;
        // A file may go between listing and looking.
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_file() {
            let modified = meta.modified().map_err(failed)?;
            files.push((entry.file_name().to_string_lossy().into_owned(), modified));
        }
    }
    Ok(files)
}

/// The folders in a folder; none if it is not there.
pub(crate) fn folders(dir: &Path) -> Result<Vec<PathBuf>, FileError> {
    let failed = |error| FileError::at("list", dir)(error);
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(failed)?,
    };
    let paths = entries.map(|entry| entry.map(|entry| entry.path()).map_err(failed));
    let paths: Vec<PathBuf> = paths.collect::<Result<_, _>>()?;
    Ok(paths.into_iter().filter(|path| path.is_dir()).collect())
}

/// A path with its time of modification, unless it has gone.
pub(crate) fn with_time(path: PathBuf) -> Option<(PathBuf, SystemTime)> {
    let modified = fs::metadata(&path).and_then(|meta| meta.modified()).ok()?;
    Some((path, modified))
}

/// Removes what dead processes left in a folder.
pub(crate) fn sweep(dir: &Path, now: SystemTime) -> Result<(), FileError> {
    for (name, modified) in list(dir)? {
        let old = now.duration_since(modified).is_ok_and(|age| age > ABANDONED);
        if name.starts_with(TEMPORARY) && old {
            volary_host::remove_if_exists(&dir.join(name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_size_have_their_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let bytes: Vec<u8> = (0..3 * BLOCK as u32).map(|number| (number % 251) as u8).collect();
        for size in [0, 1, LARGE - 1, LARGE, LARGE + 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK - 7] {
            for part in [1000, 4096, BLOCK + 3, usize::MAX] {
                let path = dir.path().join("file");
                let parts = bytes[..size].chunks(part);
                Prepared::write(path.clone(), parts, None).unwrap().place().unwrap();
                assert!(fs::read(&path).unwrap() == bytes[..size], "{size} bytes in parts of {part}");
            }
        }
    }
}
