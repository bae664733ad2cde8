//! Git's loose objects in a folder, which is all that a device keeps of the repository.
//!
//! Real git reads such a folder. Files are written whole and renamed into place but not flushed
//! one by one: a file that a power cut tore does not hash to its name, counts as missing, and is
//! fetched again. That spares a device's flash hundreds of flushes for each commit.
//!
//! A tag that approves a commit is found by the commit: beside the objects there is an empty file
//! `approvals/COMMIT/TAG` for each. They prove nothing; the tags do.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::Compression;
use flate2::read::ZlibDecoder;
use flate2::write::ZlibEncoder;
use volary_host::FileError;

use volary_model::CommitId;

use crate::approval::Approval;
use crate::object::{MAX_OBJECT, Object, ObjectError, ObjectId, ObjectKind, ObjectSource};

/// The longest header: `commit`, a space, 20 digits, a zero byte.
const MAX_HEADER: usize = 32;

/// The folder that says which tags approve which commit.
const APPROVALS: &str = "approvals";

/// A folder of loose objects: `ab/cdef…` below it.
#[derive(Debug)]
pub struct LooseStore {
    folder: PathBuf,
}

impl LooseStore {
    /// The store in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// [`FileError`] if the folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self, FileError> {
        volary_host::create_dir(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// Keeps an object; that it is there already is fine, unless its file is torn: then it is
    /// written anew.
    ///
    /// # Errors
    /// [`ObjectError`] if the file cannot be written, or the content is a SHA-1 attack.
    pub fn insert(&self, object: &Object) -> Result<ObjectId, ObjectError> {
        let id = ObjectId::of(object.kind, &object.data)?;
        if let Some(approval) = Approval::of_object(object) {
            let folder = self.approvals_of(&approval.commit);
            volary_host::create_dir(&folder)?;
            let path = folder.join(id.to_string());
            File::create(&path).map_err(FileError::at("write", &path))?;
        }
        if self.load(&id)?.is_some() {
            return Ok(id);
        }
        let path = self.path(&id);
        let parent = path.parent().expect("an object's path has a folder");
        volary_host::create_dir(parent)?;
        // git's own cleaning removes files with this prefix if we die here.
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let temporary = parent.join(format!("tmp_obj_{}_{count}", std::process::id()));
        let written = write_object(&temporary, object).and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            return Err(FileError::at("write", &path)(error).into());
        }
        Ok(id)
    }

    /// Every object for which `keep` is false is removed, and so are left-over temporary files.
    /// Returns how many files went.
    ///
    /// # Errors
    /// [`FileError`] if a folder cannot be read or a file not removed.
    pub fn retain(&self, keep: &dyn Fn(&ObjectId) -> bool) -> Result<usize, FileError> {
        let mut removed = 0;
        for folder in list(&self.folder)? {
            let prefix = name_of(&folder);
            if prefix.len() != 2 || !folder.is_dir() {
                continue;
            }
            for file in list(&folder)? {
                let id = format!("{prefix}{}", name_of(&file)).parse::<ObjectId>().ok();
                if id.is_none_or(|id| !keep(&id)) {
                    volary_host::remove_if_exists(&file)?;
                    removed += 1;
                }
            }
        }
        self.forget_approvals(keep)?;
        Ok(removed)
    }

    fn forget_approvals(&self, keep: &dyn Fn(&ObjectId) -> bool) -> Result<(), FileError> {
        let folder = self.folder.join(APPROVALS);
        let commits = if folder.is_dir() { list(&folder)? } else { Vec::new() };
        for commit in commits {
            let mut left = 0;
            for file in list(&commit)? {
                if name_of(&file).parse().is_ok_and(|id| keep(&id)) {
                    left += 1;
                } else {
                    volary_host::remove_if_exists(&file)?;
                }
            }
            if left == 0 {
                fs::remove_dir(&commit).map_err(FileError::at("remove", &commit))?;
            }
        }
        Ok(())
    }

    fn approvals_of(&self, commit: &CommitId) -> PathBuf {
        self.folder.join(APPROVALS).join(commit.as_str())
    }

    fn path(&self, id: &ObjectId) -> PathBuf {
        self.folder.join(loose_path(id))
    }
}

/// Where an object lies below a folder of loose objects: `ab/cdef…`.
pub fn loose_path(id: &ObjectId) -> String {
    let hex = id.to_string();
    format!("{}/{}", &hex[..2], &hex[2..])
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, FileError> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect())
        .map_err(FileError::at("list", folder))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn write_object(path: &Path, object: &Object) -> io::Result<()> {
    let file = File::create(path)?;
    let mut encoder = ZlibEncoder::new(file, Compression::fast());
    encoder.write_all(format!("{} {}\0", object.kind, object.data.len()).as_bytes())?;
    encoder.write_all(&object.data)?;
    let file = encoder.finish()?;
    file.set_permissions(Permissions::from_mode(0o444))
}

impl ObjectSource for LooseStore {
    fn load(&self, id: &ObjectId) -> Result<Option<Object>, ObjectError> {
        let path = self.path(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(FileError::at("open", &path)(error).into()),
        };
        // A torn or swapped file is the same as none: whoever needs it fetches it again.
        let Some(object) = read_loose(file) else { return Ok(None) };
        Ok((ObjectId::of(object.kind, &object.data)? == *id).then_some(object))
    }

    fn approvals(&self, of: &CommitId) -> Result<Vec<ObjectId>, ObjectError> {
        let folder = self.approvals_of(of);
        if !folder.is_dir() {
            return Ok(Vec::new());
        }
        let mut tags = Vec::new();
        for file in list(&folder)? {
            // Of a torn tag only the name is left; it comes again with the objects.
            if let Ok(tag) = name_of(&file).parse()
                && self.load(&tag)?.is_some()
            {
                tags.push(tag);
            }
        }
        Ok(tags)
    }
}

/// Reads the content of a loose object's file; `None` if it is torn. What it hashes to is not looked
/// at here.
pub fn read_loose(file: impl Read) -> Option<Object> {
    let mut data = Vec::new();
    let limit = MAX_OBJECT + MAX_HEADER as u64 + 1;
    ZlibDecoder::new(file).take(limit).read_to_end(&mut data).ok()?;
    let end = data.iter().take(MAX_HEADER).position(|&byte| byte == 0)?;
    let (kind, size) = str::from_utf8(&data[..end]).ok()?.split_once(' ')?;
    let (kind, size) = (ObjectKind::from_name(kind)?, size.parse::<usize>().ok()?);
    data.drain(..=end);
    (data.len() == size).then_some(Object { kind, data })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::ReadObjects;

    fn blob(text: &str) -> Object {
        Object { kind: ObjectKind::Blob, data: text.into() }
    }

    #[test]
    fn a_torn_file_counts_as_missing_and_heals() {
        let dir = tempfile::tempdir().unwrap();
        let store = LooseStore::open(dir.path()).unwrap();
        let id = store.insert(&blob("precious")).unwrap();
        let path = store.path(&id);
        let whole = volary_host::read(&path).unwrap();
        for torn in [&whole[..0], &whole[..5], &whole[..whole.len() - 5], b"zeroes\0\0\0"] {
            volary_host::write_atomic(&path, torn, 0o444).unwrap();
            assert!(store.find(&id).unwrap().is_none());
            store.insert(&blob("precious")).unwrap();
            assert_eq!(store.blob(&id).unwrap(), b"precious");
        }
    }

    #[test]
    fn a_swapped_file_counts_as_missing() {
        let dir = tempfile::tempdir().unwrap();
        let store = LooseStore::open(dir.path()).unwrap();
        let (good, evil) = (store.insert(&blob("good")).unwrap(), store.insert(&blob("evil")).unwrap());
        let bytes = volary_host::read(&store.path(&evil)).unwrap();
        volary_host::write_atomic(&store.path(&good), &bytes, 0o444).unwrap();
        assert!(store.find(&good).unwrap().is_none());
    }

    #[test]
    fn what_nobody_needs_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = LooseStore::open(dir.path()).unwrap();
        let (keep, drop) = (store.insert(&blob("keep")).unwrap(), store.insert(&blob("drop")).unwrap());
        assert_eq!(store.retain(&|id| *id == keep).unwrap(), 1);
        assert!(store.find(&keep).unwrap().is_some() && store.find(&drop).unwrap().is_none());
    }
}
