//! The tree of a commit as the files of an inventory: no checkout needed, every byte proven.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::rc::Rc;

use super::error::InventoryError;
use super::tree::{Entry, FileTree};
use crate::object::{ObjectError, ObjectId, ObjectSource, ReadObjects as _};
use crate::tree::{EntryKind, Tree, TreeEntry, entry_among};

/// A git tree. Remembers the folders that it has read: an inventory looks into the same ones again
/// and again.
pub struct GitTree<'a> {
    objects: &'a dyn ObjectSource,
    root: ObjectId,
    folders: RefCell<HashMap<ObjectId, Rc<Tree>>>,
}

impl<'a> GitTree<'a> {
    /// The tree with this id.
    pub fn new(objects: &'a dyn ObjectSource, root: ObjectId) -> Self {
        Self { objects, root, folders: RefCell::default() }
    }

    fn folder(&self, id: &ObjectId) -> io::Result<Rc<Tree>> {
        if let Some(known) = self.folders.borrow().get(id) {
            return Ok(Rc::clone(known));
        }
        let tree = Rc::new(self.objects.tree(id).map_err(failed)?);
        self.folders.borrow_mut().insert(*id, Rc::clone(&tree));
        Ok(tree)
    }

    /// What stands at a path other than the root.
    fn at(&self, path: &str) -> io::Result<Option<TreeEntry>> {
        entry_among(&self.root, path, |id| self.folder(id))
    }
}

fn failed(error: ObjectError) -> io::Error {
    io::Error::other(error)
}

/// The object behind an inventory that could not be read from git, if that was the cause: a fault of
/// the store or the network, not of who wrote the inventory.
pub(crate) fn object_error(error: InventoryError) -> Result<ObjectError, InventoryError> {
    match error {
        InventoryError::Read { path, source } => {
            source.downcast().map_err(|source| InventoryError::Read { path, source })
        }
        other => Err(other),
    }
}

impl FileTree for GitTree<'_> {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        if path.is_empty() {
            return Ok(Some(Entry::Folder));
        }
        let Some(entry) = self.at(path)? else { return Ok(None) };
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
            path => self.at(path)?.map(|entry| (entry.kind, entry.id)),
        };
        match folder {
            Some((EntryKind::Folder, id)) => {
                Ok(self.folder(&id)?.entries.iter().map(|entry| entry.name.clone()).collect())
            }
            Some((EntryKind::Submodule, _)) => Ok(Vec::new()),
            Some((EntryKind::File | EntryKind::Executable | EntryKind::Symlink, _)) | None => {
                Err(io::Error::new(io::ErrorKind::NotADirectory, format!("{path} is no folder")))
            }
        }
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        match self.at(path)? {
            Some(TreeEntry { kind: EntryKind::File | EntryKind::Executable, id, .. }) => {
                self.objects.blob(&id).map_err(failed)
            }
            Some(_) | None => {
                Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no file {path}")))
            }
        }
    }
}
