//! The door to a foreign publication, and its implementation for a folder.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where the files of a publication come from. Paths are relative to its root, with slashes, and
/// were checked to stay below it.
pub trait Fetch: Send + Sync {
    /// What people know it as: its address without a password.
    fn place(&self) -> String;

    /// Opens a file from a position on, to read at most `size` bytes of it; `None` if there is no
    /// such file.
    ///
    /// # Errors
    /// [`FetchError`].
    fn open(&self, path: &str, from: u64, size: u64) -> Result<Option<Opened>, FetchError>;

    /// A whole small file; `None` if there is no such file.
    ///
    /// # Errors
    /// [`FetchError`], also if the file is larger than `limit` bytes.
    fn small(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, FetchError> {
        let failed = |problem: String| FetchError { path: path.to_owned(), problem, lasting: false };
        let Some(opened) = self.open(path, 0, limit)? else { return Ok(None) };
        let mut bytes = Vec::new();
        opened.reader.take(limit + 1).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
        if bytes.len() as u64 > limit {
            return Err(failed(format!("it is larger than {limit} bytes")));
        }
        Ok(Some(bytes))
    }
}

/// A file that is being read.
pub struct Opened {
    /// Where the bytes begin: what was asked for, or 0 if the other side cannot begin in the
    /// middle.
    pub from: u64,
    /// The bytes.
    pub reader: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("from", &self.from).finish_non_exhaustive()
    }
}

/// A file that could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{path} cannot be fetched: {problem}")]
pub struct FetchError {
    /// Which.
    pub path: String,
    /// What the network or the system said.
    pub problem: String,
    /// True if trying again would bring the same.
    pub lasting: bool,
}

/// A publication in a folder, such as on a disk that somebody brought.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// The folder that has `dists/`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }
}

impl Fetch for Folder {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn open(&self, path: &str, from: u64, _: u64) -> Result<Option<Opened>, FetchError> {
        let failed = |error: io::Error| FetchError {
            path: self.root.join(path).display().to_string(),
            problem: error.to_string(),
            lasting: true,
        };
        let mut file = match File::open(self.root.join(path)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(failed)?,
        };
        if !file.metadata().map_err(failed)?.is_file() {
            return Err(failed(io::Error::other("it is not a file")));
        }
        file.seek(SeekFrom::Start(from)).map_err(failed)?;
        Ok(Some(Opened { from, reader: Box::new(file) }))
    }
}
