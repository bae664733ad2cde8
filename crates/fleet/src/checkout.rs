//! Makes a folder on disk equal to a folder of the repository.
//!
//! Files that are right already are not touched, stray ones are removed, so it can run before each
//! use and also mends what somebody or a power cut changed. Nothing is ever written outside.

use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use volary_host::FileError;
use volary_model::DeviceName;

use crate::object::{ObjectError, ObjectId, ObjectSource, ReadObjects};
use crate::selection::{Inventories, Selection};
use crate::tree::{EntryKind, TreeEntry, join};

/// Why a folder could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    /// An object cannot be read.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// A file cannot be written or removed.
    #[error(transparent)]
    File(#[from] FileError),
    /// A symbolic link leads out of the repository.
    #[error(
        "the symbolic link {path} leads to {target:?}, outside the repository; use a relative path inside it"
    )]
    Link {
        /// Its path in the repository.
        path: String,
        /// Where it leads.
        target: String,
    },
    /// The folder holds another repository.
    #[error("{path} is a git submodule, which devices cannot fetch; copy its files into the repository")]
    Submodule {
        /// Its path in the repository.
        path: String,
    },
}

/// What a checkout did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CheckoutSummary {
    /// Files and links that were written.
    pub written: usize,
    /// Files, links and folders that were there and did not belong.
    pub removed: usize,
}

/// Makes `dest` hold exactly the files of `tree`: modes 644 and 755, nothing else beside them.
/// With `device`, variables of others are left out, as they are when objects are sent to it.
///
/// Files are not flushed one by one: after a power cut the next call finds and mends a torn one,
/// so call it before each use. For an atomic change, fill a new folder and switch a link to it.
///
/// # Errors
/// [`CheckoutError`]; the folder may then be partly changed.
pub fn checkout(
    objects: &dyn ObjectSource,
    tree: &ObjectId,
    dest: &Path,
    device: Option<&DeviceName>,
) -> Result<CheckoutSummary, CheckoutError> {
    let selection = match device {
        Some(device) => Some(Arc::new(Selection::of(objects, tree, device, &Inventories::default())?)),
        None => None,
    };
    selected(objects, tree, dest, selection)
}

/// As [`checkout`], with what was selected before.
pub(crate) fn selected(
    objects: &dyn ObjectSource,
    tree: &ObjectId,
    dest: &Path,
    selection: Option<Arc<Selection>>,
) -> Result<CheckoutSummary, CheckoutError> {
    let mut checkout = Checkout { objects, selection, summary: CheckoutSummary::default() };
    checkout.folder(tree, dest, "")?;
    Ok(checkout.summary)
}

/// True if a symbolic link at `path` with this target stays inside the repository. Steps up are
/// allowed only at the beginning: the folders above a link are real ones, so counting them is
/// right, while `..` after a name could climb out through another link.
pub(crate) fn link_stays_inside(path: &str, target: &str) -> bool {
    let depth = path.matches('/').count();
    let ups = target.split('/').take_while(|name| *name == "..").count();
    let mut rest = target.split('/').skip(ups);
    !target.is_empty()
        && !target.contains('\0')
        && ups <= depth
        && rest.all(|name| !name.is_empty() && name != ".." && !name.eq_ignore_ascii_case(".git"))
}

struct Checkout<'a> {
    objects: &'a dyn ObjectSource,
    selection: Option<Arc<Selection>>,
    summary: CheckoutSummary,
}

impl Checkout<'_> {
    fn folder(&mut self, tree: &ObjectId, dest: &Path, prefix: &str) -> Result<(), CheckoutError> {
        let mut entries = self.objects.tree(tree)?.entries;
        if let Some(selection) = &self.selection {
            entries
                .retain(|entry| selection.wants(&join(prefix, &entry.name), entry.kind == EntryKind::Folder));
        }
        if !metadata(dest)?.is_some_and(|found| found.is_dir()) {
            self.remove(dest)?;
            volary_host::create_dir(dest)?;
        }
        set_mode(dest, 0o755)?;
        self.remove_strays(dest, &entries)?;
        for entry in &entries {
            let path = join(prefix, &entry.name);
            let dest = dest.join(&entry.name);
            match entry.kind {
                EntryKind::Folder => self.folder(&entry.id, &dest, &path)?,
                EntryKind::File => self.file(entry, &dest, 0o644)?,
                EntryKind::Executable => self.file(entry, &dest, 0o755)?,
                EntryKind::Symlink => self.link(entry, &dest, &path)?,
                EntryKind::Submodule => return Err(CheckoutError::Submodule { path }),
            }
        }
        Ok(())
    }

    fn remove_strays(&mut self, dest: &Path, entries: &[TreeEntry]) -> Result<(), FileError> {
        let found = fs::read_dir(dest)
            .and_then(|found| found.collect::<io::Result<Vec<_>>>())
            .map_err(FileError::at("list", dest))?;
        for stray in found {
            if !entries.iter().any(|entry| stray.file_name() == entry.name.as_str()) {
                self.remove(&stray.path())?;
            }
        }
        Ok(())
    }

    /// Never follows a link: what it leads to is not ours.
    fn remove(&mut self, path: &Path) -> Result<(), FileError> {
        let Some(found) = metadata(path)? else { return Ok(()) };
        let removed = if found.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
        removed.map_err(FileError::at("remove", path))?;
        self.summary.removed += 1;
        Ok(())
    }

    fn file(&mut self, entry: &TreeEntry, dest: &Path, mode: u32) -> Result<(), CheckoutError> {
        let content = self.objects.blob(&entry.id)?;
        let found = metadata(dest)?;
        if let Some(found) = &found
            && found.is_file()
            && found.len() == content.len() as u64
            && volary_host::read(dest)? == content
        {
            if found.permissions().mode() & 0o7777 != mode {
                set_mode(dest, mode)?;
                self.summary.written += 1;
            }
            return Ok(());
        }
        if found.is_some() {
            self.remove(dest)?;
            self.summary.removed -= 1;
        }
        let write = || {
            let mut file = fs::OpenOptions::new().write(true).create_new(true).open(dest)?;
            io::Write::write_all(&mut file, &content)
        };
        write().map_err(FileError::at("write", dest))?;
        set_mode(dest, mode)?;
        self.summary.written += 1;
        Ok(())
    }

    fn link(&mut self, entry: &TreeEntry, dest: &Path, path: &str) -> Result<(), CheckoutError> {
        let content = self.objects.blob(&entry.id)?;
        let target = String::from_utf8_lossy(&content).into_owned();
        if !link_stays_inside(path, &target) {
            return Err(CheckoutError::Link { path: path.to_owned(), target });
        }
        let found = metadata(dest)?;
        if found.as_ref().is_some_and(Metadata::is_symlink)
            && fs::read_link(dest).map_err(FileError::at("read", dest))? == Path::new(&target)
        {
            return Ok(());
        }
        if found.is_some() {
            self.remove(dest)?;
            self.summary.removed -= 1;
        }
        symlink(&target, dest).map_err(FileError::at("write", dest))?;
        self.summary.written += 1;
        Ok(())
    }
}

fn metadata(path: &Path) -> Result<Option<Metadata>, FileError> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(FileError::at("look at", path)(error)),
    }
}

fn set_mode(path: &Path, mode: u32) -> Result<(), FileError> {
    fs::set_permissions(path, Permissions::from_mode(mode)).map_err(FileError::at("set the mode of", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_inside() {
        for (path, target) in [("a", "b"), ("a/b", "../c"), ("a/b/c", "../../d/e"), ("a/b", "..")] {
            assert!(link_stays_inside(path, target), "{path} -> {target}");
        }
        for (path, target) in [
            ("a", "/etc/passwd"),
            ("a", ".."),
            ("a", "../b"),
            ("a/b", "../../c"),
            ("a", "b/../../c"),
            ("a/b", "c/../d"),
            ("a", ""),
            ("a", ".git/config"),
        ] {
            assert!(!link_stays_inside(path, target), "{path} -> {target}");
        }
    }
}
