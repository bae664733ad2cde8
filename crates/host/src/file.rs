//! Files that are either the old one or the new one, also after a power cut.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A file operation that failed: which, on what, and why.
#[derive(Debug, thiserror::Error)]
#[error("cannot {operation} {}: {source}", .path.display())]
pub struct FileError {
    /// What was tried: "read", "write".
    pub operation: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl FileError {
    /// Names the operation and the path of a system error; made for `map_err`.
    pub fn at<'a>(operation: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self { operation, path: path.to_owned(), source }
    }

    /// True if the file or folder is not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Reads a whole file.
///
/// # Errors
/// [`FileError`] with the path.
pub fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(FileError::at("read", path))
}

/// Reads a whole file as UTF-8.
///
/// # Errors
/// [`FileError`] with the path, also if it is not UTF-8.
pub fn read_to_string(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(FileError::at("read", path))
}

/// Makes a folder with all above it.
///
/// # Errors
/// [`FileError`] with the path.
pub fn create_dir(path: &Path) -> Result<(), FileError> {
    fs::create_dir_all(path).map_err(FileError::at("create", path))
}

/// Removes a file; that it is gone already is fine.
///
/// # Errors
/// [`FileError`] with the path.
pub fn remove_if_exists(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(FileError::at("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Flushes a folder, so that a rename in it survives a power cut.
///
/// # Errors
/// [`FileError`] with the path.
pub fn sync_dir(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(FileError::at("flush", path))
}

/// Replaces a file: writes a temporary one beside it, flushes it, renames it over the old one and
/// flushes the folder. After a power cut there is the old content or the new, never a part.
/// The permission bits are exactly `mode`.
///
/// # Errors
/// [`FileError`] with the path; the old file is then untouched.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut new = NewFile::create(path, mode)?;
    new.file().write_all(bytes).map_err(FileError::at("write", path))?;
    new.keep()
}

/// A large file in the making: nobody sees it under its name before [`NewFile::keep`]. Dropped
/// without that, it leaves nothing behind.
#[derive(Debug)]
pub struct NewFile {
    file: tempfile::NamedTempFile,
    path: PathBuf,
}

impl NewFile {
    /// Begins a file that is to be `path`, with exactly these permission bits.
    ///
    /// # Errors
    /// [`FileError`] with the path.
    pub fn create(path: &Path, mode: u32) -> Result<Self, FileError> {
        let dir = folder_of(path);
        let created = tempfile::NamedTempFile::new_in(dir).and_then(|file| {
            file.as_file().set_permissions(Permissions::from_mode(mode))?;
            Ok(file)
        });
        let file = created.map_err(FileError::at("write", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// The file to write to.
    pub fn file(&mut self) -> &mut File {
        self.file.as_file_mut()
    }

    /// Flushes it and gives it its name, in place of what had it.
    ///
    /// # Errors
    /// [`FileError`] with the path; what was there is then untouched.
    pub fn keep(self) -> Result<(), FileError> {
        let failed = FileError::at("write", &self.path);
        let kept = self.file.as_file().sync_all();
        kept.and_then(|()| self.file.persist(&self.path).map_err(|error| error.error)).map_err(failed)?;
        sync_dir(folder_of(&self.path))
    }

    /// As [`NewFile::keep`], under another name in the same file system: for files that are called
    /// after what is in them.
    ///
    /// # Errors
    /// [`FileError`] with the path; what was there is then untouched.
    pub fn keep_as(mut self, path: &Path) -> Result<(), FileError> {
        path.clone_into(&mut self.path);
        self.keep()
    }

    /// Gives it its name without a flush, for callers that write many files and flush the file
    /// system once: until then a power cut may leave it empty under its name.
    ///
    /// # Errors
    /// [`FileError`] with the path; what was there is then untouched.
    pub fn keep_unflushed(self) -> Result<(), FileError> {
        let persisted = self.file.persist(&self.path).map_err(|error| error.error);
        persisted.map(drop).map_err(FileError::at("write", &self.path))
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_with_its_mode() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        write_atomic(&path, b"old", 0o644).unwrap();
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(read(&path).unwrap(), b"new");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file stays");
    }

    #[test]
    fn a_file_that_is_not_kept_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut new = NewFile::create(&dir.path().join("large"), 0o644).unwrap();
        new.file().write_all(b"half").unwrap();
        drop(new);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_error_names_the_path() {
        let error = read(Path::new("/no/such/file")).unwrap_err();
        assert!(error.is_not_found());
        assert!(error.to_string().starts_with("cannot read /no/such/file: "));
    }
}
