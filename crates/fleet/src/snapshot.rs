//! The files of a fleet repository, whether they stand in a commit or in a folder.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use volary_host::{Cmd, FileError};

use crate::object::{AHEAD, ObjectError, ObjectId, ObjectSource, ReadObjects};
use crate::tree::{EntryKind, walk};

/// What stands at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileKind {
    File,
    Executable,
    Symlink,
    Submodule,
}

/// A set of files to look at.
pub(crate) trait Files {
    /// All paths from the top, sorted, without folders.
    fn paths(&self) -> &[String];
    /// What stands at a path.
    fn kind(&self, path: &str) -> Option<FileKind>;
    /// The content of a file, or where a link leads; `None` if there is neither.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ObjectError>;
}

/// Files are read in their order if no more than so many are passed over from one to the next.
const NEAR: usize = 8;

/// The files of a commit.
pub(crate) struct CommitFiles<'a> {
    objects: &'a dyn ObjectSource,
    paths: Vec<String>,
    entries: BTreeMap<String, (FileKind, ObjectId)>,
    /// Which of the paths was read last, and up to which they were asked for.
    last: Cell<usize>,
    asked: Cell<usize>,
}

impl<'a> CommitFiles<'a> {
    pub fn new(objects: &'a dyn ObjectSource, tree: &ObjectId) -> Result<Self, ObjectError> {
        let mut entries = BTreeMap::new();
        walk(objects, tree, &mut |path, entry| {
            let kind = match entry.kind {
                EntryKind::Folder => return Ok(true),
                EntryKind::File => FileKind::File,
                EntryKind::Executable => FileKind::Executable,
                EntryKind::Symlink => FileKind::Symlink,
                EntryKind::Submodule => FileKind::Submodule,
            };
            entries.insert(path.to_owned(), (kind, entry.id));
            Ok(true)
        })?;
        let paths = entries.keys().cloned().collect();
        Ok(Self { objects, paths, entries, last: Cell::new(0), asked: Cell::new(0) })
    }

    /// Asks for the files behind this one, if the one before was read just now.
    fn go_on(&self, path: &str) {
        let Ok(at) = self.paths.binary_search_by(|known| known.as_str().cmp(path)) else { return };
        let last = self.last.replace(at);
        let goes_on = at > last && at - last <= NEAR;
        if !goes_on || (at < self.asked.get() && self.asked.get() <= at + AHEAD) {
            return;
        }
        let end = self.paths.len().min(at + AHEAD);
        self.asked.set(end);
        let next = self.paths[at..end].iter().filter_map(|path| self.entries.get(path));
        let next = next.filter(|(kind, _)| *kind != FileKind::Submodule).map(|(_, id)| *id);
        self.objects.soon(&next.collect::<Vec<_>>());
    }
}

impl Files for CommitFiles<'_> {
    fn paths(&self) -> &[String] {
        &self.paths
    }

    fn kind(&self, path: &str) -> Option<FileKind> {
        self.entries.get(path).map(|(kind, _)| *kind)
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ObjectError> {
        match self.entries.get(path) {
            Some((FileKind::Submodule, _)) | None => Ok(None),
            Some((_, id)) => {
                self.go_on(path);
                self.objects.blob(id).map(Some)
            }
        }
    }
}

/// The files in a folder. In a git work tree only those that git tracks or would add: people keep
/// virtual environments and other things beside them.
pub(crate) struct FolderFiles {
    folder: PathBuf,
    paths: Vec<String>,
    kinds: BTreeMap<String, FileKind>,
}

impl FolderFiles {
    pub fn new(folder: &Path) -> Result<Self, ObjectError> {
        let mut kinds = BTreeMap::new();
        if folder.join(".git").exists() {
            let listed = Cmd::new("git")
                .cwd(folder)
                .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard", "."])
                .check()?;
            for name in listed.stdout.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
                note(folder, &String::from_utf8_lossy(name), &mut kinds)?;
            }
        } else {
            note_all(folder, "", &mut kinds)?;
        }
        Ok(Self { folder: folder.to_owned(), paths: kinds.keys().cloned().collect(), kinds })
    }
}

fn note_all(root: &Path, prefix: &str, kinds: &mut BTreeMap<String, FileKind>) -> Result<(), FileError> {
    let folder = root.join(prefix);
    let entries = fs::read_dir(&folder)
        .and_then(|entries| entries.collect::<io::Result<Vec<_>>>())
        .map_err(FileError::at("list", &folder))?;
    for entry in entries {
        let path = crate::tree::join(prefix, &entry.file_name().to_string_lossy());
        if entry.file_type().map_err(FileError::at("look at", &folder))?.is_dir() {
            note_all(root, &path, kinds)?;
        } else {
            note(root, &path, kinds)?;
        }
    }
    Ok(())
}

fn note(root: &Path, path: &str, kinds: &mut BTreeMap<String, FileKind>) -> Result<(), FileError> {
    let full = root.join(path);
    let found = match fs::symlink_metadata(&full) {
        Ok(found) => found,
        // Tracked by git and removed by hand: it is gone.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(FileError::at("look at", &full)(error)),
    };
    let kind = if found.is_symlink() {
        FileKind::Symlink
    } else if found.is_dir() {
        // git lists a folder only if it is another repository.
        FileKind::Submodule
    } else if found.permissions().mode() & 0o100 != 0 {
        FileKind::Executable
    } else {
        FileKind::File
    };
    kinds.insert(path.trim_end_matches('/').to_owned(), kind);
    Ok(())
}

impl Files for FolderFiles {
    fn paths(&self) -> &[String] {
        &self.paths
    }

    fn kind(&self, path: &str) -> Option<FileKind> {
        self.kinds.get(path).copied()
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>, ObjectError> {
        let full = self.folder.join(path);
        match self.kind(path) {
            Some(FileKind::File | FileKind::Executable) => Ok(Some(volary_host::read(&full)?)),
            Some(FileKind::Symlink) => {
                let target = fs::read_link(&full).map_err(FileError::at("read", &full))?;
                Ok(Some(target.as_os_str().as_bytes().to_vec()))
            }
            Some(FileKind::Submodule) | None => Ok(None),
        }
    }
}
