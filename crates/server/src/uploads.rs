//! Uploads on their way: who writes to them, and the moment from which nobody does. Their files are
//! moved into the archive's pool as they are, so nobody may be able to change what was checked.
//! Not here: receiving or including them.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use volary_host::FileError;

/// The uploads that are written to now, with the number of writers.
#[derive(Debug, Default, Clone)]
pub(crate) struct Uploads(Arc<Mutex<BTreeMap<PathBuf, usize>>>);

/// Somebody writes to an upload. It must live until the last file is closed.
#[derive(Debug)]
pub(crate) struct Writing {
    uploads: Uploads,
    dir: PathBuf,
}

/// Why an upload cannot be sealed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotSealed {
    /// Somebody still writes to it.
    Writing,
    /// There is none.
    Missing,
}

impl Uploads {
    /// Makes the folder of an upload if need be, to write to it.
    pub(crate) fn write(&self, dir: &Path) -> Result<Writing, FileError> {
        *self.lock().entry(dir.to_owned()).or_default() += 1;
        // Counted first, so that nobody seals the upload in between.
        let writing = Writing { uploads: self.clone(), dir: dir.to_owned() };
        volary_host::create_dir(dir)?;
        Ok(writing)
    }

    /// Gives an upload a name that nobody knows, if nobody writes to it. Nothing can come into it
    /// from then on, and a second request finds nothing to include.
    pub(crate) fn seal(&self, dir: &Path) -> Result<Result<PathBuf, NotSealed>, FileError> {
        let writers = self.lock();
        if writers.contains_key(dir) {
            return Ok(Err(NotSealed::Writing));
        }
        let sealed = dir.with_file_name(new_id());
        match std::fs::rename(dir, &sealed) {
            Ok(()) => Ok(Ok(sealed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(NotSealed::Missing)),
            Err(error) => Err(FileError::at("rename", dir)(error)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let mut writers = self.uploads.lock();
        if let Some(count) = writers.get_mut(&self.dir) {
            *count -= 1;
            if *count == 0 {
                writers.remove(&self.dir);
            }
        }
    }
}

/// The name of a new upload: 32 hexadecimal digits that nobody can guess.
pub(crate) fn new_id() -> String {
    let id: [u8; 16] = rand::random();
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_sealed_once_and_only_when_nobody_writes() {
        let root = tempfile::tempdir().unwrap();
        let uploads = Uploads::default();
        let dir = root.path().join("a");
        assert_eq!(uploads.seal(&dir).unwrap(), Err(NotSealed::Missing));
        let (first, second) = (uploads.write(&dir).unwrap(), uploads.write(&dir).unwrap());
        drop(first);
        assert_eq!(uploads.seal(&dir).unwrap(), Err(NotSealed::Writing));
        drop(second);
        let sealed = uploads.seal(&dir).unwrap().unwrap();
        assert!(sealed.is_dir() && sealed.parent() == dir.parent());
        assert_eq!(uploads.seal(&dir).unwrap(), Err(NotSealed::Missing));
        // Whoever comes late makes a new upload.
        let late = uploads.write(&dir).unwrap();
        assert_ne!(uploads.seal(&dir).unwrap(), Ok(sealed));
        drop(late);
    }
}
