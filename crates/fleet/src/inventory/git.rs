//! The tree of a commit as the files of an inventory: no checkout needed, every byte proven.

use std::io;

use super::tree::{Entry, FileTree};
use crate::object::{ObjectError, ObjectId, ObjectSource, ReadObjects as _};
use crate::tree::{EntryKind, entry_at, file_at};

/// A git tree.
#[derive(Clone, Copy)]
pub struct GitTree<'a> {
    objects: &'a dyn ObjectSource,
    root: ObjectId,
}

impl<'a> GitTree<'a> {
    /// The tree with this id.
    pub fn new(objects: &'a dyn ObjectSource, root: ObjectId) -> Self {
        Self { objects, root }
    }
}

fn failed(error: ObjectError) -> io::Error {
    io::Error::other(error)
}

impl FileTree for GitTree<'_> {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        if path.is_empty() {
            return Ok(Some(Entry::Folder));
        }
        let Some(entry) = entry_at(self.objects, &self.root, path).map_err(failed)? else { return Ok(None) };
        Ok(match entry.kind {
            EntryKind::File => Some(Entry::File { executable: false }),
            EntryKind::Executable => Some(Entry::File { executable: true }),
            EntryKind::Folder => Some(Entry::Folder),
            EntryKind::Symlink => {
                let target = self.objects.blob(&entry.id).map_err(failed)?;
                let target = String::from_utf8(target);
                Some(Entry::Link(target.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?))
            }
            // Without a checkout of its own it is an empty folder.
            EntryKind::Submodule => Some(Entry::Folder),
        })
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let folder = match path {
            "" => Some((EntryKind::Folder, self.root)),
            path => {
                entry_at(self.objects, &self.root, path).map_err(failed)?.map(|entry| (entry.kind, entry.id))
            }
        };
        match folder {
            Some((EntryKind::Folder, id)) => {
                let tree = self.objects.tree(&id).map_err(failed)?;
                Ok(tree.entries.into_iter().map(|entry| entry.name).collect())
            }
            Some((EntryKind::Submodule, _)) => Ok(Vec::new()),
            Some((EntryKind::File | EntryKind::Executable | EntryKind::Symlink, _)) | None => {
                Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{path} is no folder")))
            }
        }
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let file = file_at(self.objects, &self.root, path).map_err(failed)?;
        file.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no file {path}")))
    }
}
