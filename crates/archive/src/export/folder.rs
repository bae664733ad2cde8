//! An export into a folder, for any web server that shows files.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use sha2::{Digest as _, Sha256};
use volary_model::Digest;

use crate::export::target::{Content, Inventory, Kind, Stat, Target, TargetError};
use crate::files;

/// A folder.
#[derive(Debug, Clone)]
pub struct FolderTarget {
    root: PathBuf,
}

impl FolderTarget {
    /// The folder at `root`; it is made when something is put into it.
    pub fn new(root: &Path) -> Self {
        Self { root: std::path::absolute(root).unwrap_or_else(|_| root.to_owned()) }
    }

    fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    fn failed(&self, operation: &'static str, key: &str) -> impl Fn(io::Error) -> TargetError + use<> {
        let what = self.path(key).display().to_string();
        move |error| TargetError { operation, what: what.clone(), problem: error.to_string() }
    }

    fn walk(&self, dir: &Path, inventory: &mut Inventory) -> io::Result<()> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            let meta = entry.metadata()?;
            if meta.is_dir() {
                self.walk(&path, inventory)?;
            } else {
                let key = path.strip_prefix(&self.root).expect("a walk stays below its root");
                inventory.insert(key.to_string_lossy().into_owned(), meta.len());
            }
        }
        Ok(())
    }

    fn write(&self, path: &Path, content: Content<'_>, kind: Kind) -> io::Result<()> {
        let dir = path.parent().expect("an object lies in a folder");
        fs::create_dir_all(dir)?;
        let mut file = tempfile::Builder::new()
            .prefix(files::TEMPORARY)
            .permissions(Permissions::from_mode(0o644))
            .tempfile_in(dir)?;
        // `tempfile` subtracts the umask; what is served must be readable.
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        match content {
            Content::Bytes(bytes) => io::Write::write_all(&mut file, bytes)?,
            Content::File(source) => drop(io::copy(&mut File::open(source)?, &mut file)?),
        }
        if kind >= Kind::Named {
            // apt asks with a resolution of a second whether a file changed, and the clock may
            // have gone back.
            let before = fs::metadata(path).and_then(|meta| meta.modified()).ok();
            let earliest = before.map(|before| before + Duration::from_secs(1));
            let now = SystemTime::now();
            let modified = earliest.map_or(now, |earliest| earliest.max(now));
            file.as_file().set_times(FileTimes::new().set_modified(modified))?;
            file.as_file().sync_data()?;
        }
        file.persist(path).map_err(|error| error.error)?;
        if kind >= Kind::Named { File::open(dir)?.sync_all() } else { Ok(()) }
    }
}

impl Target for FolderTarget {
    fn name(&self) -> String {
        self.root.display().to_string()
    }

    fn list(&self) -> Result<Inventory, TargetError> {
        let mut inventory = Inventory::new();
        self.walk(&self.root, &mut inventory).map_err(self.failed("list", ""))?;
        Ok(inventory)
    }

    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, TargetError> {
        match File::open(self.path(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => {
                let mut bytes = Vec::new();
                other.and_then(|mut file| file.read_to_end(&mut bytes)).map_err(self.failed("read", key))?;
                Ok(Some(bytes))
            }
        }
    }

    fn digest(&self, key: &str) -> Result<Option<Digest>, TargetError> {
        let mut hash = Sha256::new();
        match File::open(self.path(key)).and_then(|mut file| io::copy(&mut file, &mut hash)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed("read", key)(error)),
            Ok(_) => Ok(Some(Digest::from_bytes(hash.finalize().into()))),
        }
    }

    fn stat(&self, key: &str) -> Result<Option<Stat>, TargetError> {
        let found = fs::metadata(self.path(key))
            .and_then(|meta| Ok(Stat { size: meta.len(), modified: meta.modified()? }));
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            other => other.map(Some).map_err(self.failed("read", key)),
        }
    }

    fn put(&self, key: &str, content: Content<'_>, kind: Kind) -> Result<(), TargetError> {
        self.write(&self.path(key), content, kind).map_err(self.failed("write", key))
    }

    fn remove(&self, key: &str) -> Result<(), TargetError> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(self.failed("remove", key)(error));
            }
            _ => {}
        }
        // Folders go with their last file; one that is not empty stays.
        for dir in path.ancestors().skip(1).take_while(|dir| **dir != self.root) {
            if fs::remove_dir(dir).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), TargetError> {
        let flushed =
            File::open(&self.root).and_then(|folder| rustix::fs::syncfs(&folder).map_err(io::Error::from));
        flushed.map_err(self.failed("flush", ""))
    }
}
