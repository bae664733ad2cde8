//! Reads tree objects, which are folders, and finds files in them.
//!
//! Every name that leaves this file is safe to join to a folder: no slash, no `..`, no `.git`.

use std::borrow::Borrow;
use std::collections::HashSet;

use crate::object::{ObjectError, ObjectId, ObjectKind, ObjectSource, ReadObjects};

/// Folders in folders in folders: deeper than any fleet, shallow enough for the stack.
const MAX_DEPTH: usize = 64;

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EntryKind {
    /// A file, mode 644 when checked out.
    File,
    /// An executable file, mode 755 when checked out.
    Executable,
    /// A symbolic link.
    Symlink,
    /// A folder.
    Folder,
    /// A commit of another repository.
    Submodule,
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TreeEntry {
    /// Its name, without a slash.
    pub name: String,
    /// What it is.
    pub kind: EntryKind,
    /// The object with its content.
    pub id: ObjectId,
}

/// A folder.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tree {
    /// Its entries in git's order.
    pub entries: Vec<TreeEntry>,
}

impl Tree {
    /// Parses the content of a tree object.
    ///
    /// # Errors
    /// [`ObjectError::Malformed`] also for names that could leave the folder they stand in.
    pub fn parse(id: &ObjectId, data: &[u8]) -> Result<Self, ObjectError> {
        parse(data).map(|entries| Self { entries }).map_err(|reason| ObjectError::Malformed {
            id: *id,
            expected: ObjectKind::Tree,
            reason,
        })
    }

    /// The entry with this name.
    pub fn entry(&self, name: &str) -> Option<&TreeEntry> {
        self.entries.iter().find(|entry| entry.name == name)
    }
}

fn parse(mut rest: &[u8]) -> Result<Vec<TreeEntry>, String> {
    let mut entries: Vec<TreeEntry> = Vec::new();
    while !rest.is_empty() {
        let space = rest.iter().take(8).position(|&byte| byte == b' ').ok_or("an entry has no mode")?;
        let kind = match &rest[..space] {
            b"100644" | b"100664" => EntryKind::File,
            b"100755" => EntryKind::Executable,
            b"120000" => EntryKind::Symlink,
            b"40000" => EntryKind::Folder,
            b"160000" => EntryKind::Submodule,
            mode => return Err(format!("mode {:?} is unknown", String::from_utf8_lossy(mode))),
        };
        rest = &rest[space + 1..];
        let end = rest.iter().position(|&byte| byte == 0).ok_or("an entry's name does not end")?;
        let name = str::from_utf8(&rest[..end]).map_err(|_| "a file name is not UTF-8")?;
        check_name(name)?;
        let bytes: [u8; 20] = rest
            .get(end + 1..end + 21)
            .and_then(|id| id.try_into().ok())
            .ok_or("its last entry is cut off")?;
        if entries.last().is_some_and(|last| sort_key(&last.name, last.kind) >= sort_key(name, kind)) {
            return Err("its entries are not in order".into());
        }
        rest = &rest[end + 21..];
        entries.push(TreeEntry { name: name.to_owned(), kind, id: ObjectId::from_bytes(bytes) });
    }
    let mut names = HashSet::with_capacity(entries.len());
    match entries.iter().find(|entry| !names.insert(entry.name.as_str())) {
        Some(entry) => Err(format!("the name {:?} stands twice in it", entry.name)),
        None => Ok(entries),
    }
}

/// git sorts folders as if their names ended in a slash.
fn sort_key(name: &str, kind: EntryKind) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    if kind == EntryKind::Folder {
        key.push(b'/');
    }
    key
}

fn check_name(name: &str) -> Result<(), String> {
    let bad = name.is_empty()
        || name.len() > 255
        || name == "."
        || name == ".."
        || name.eq_ignore_ascii_case(".git")
        || name.contains(['/', '\0', '\n']);
    if bad { Err(format!("the file name {name:?} is not allowed")) } else { Ok(()) }
}

/// The entry at `path` (names joined by slashes) below a folder, or `None` if there is none.
///
/// # Errors
/// [`ObjectError`] if a folder on the way cannot be read.
pub fn entry_at(
    objects: &dyn ObjectSource,
    root: &ObjectId,
    path: &str,
) -> Result<Option<TreeEntry>, ObjectError> {
    entry_among(root, path, |id| objects.tree(id))
}

/// The same where folders are read, or remembered, by somebody else.
pub(crate) fn entry_among<T: Borrow<Tree>, E>(
    root: &ObjectId,
    path: &str,
    read: impl Fn(&ObjectId) -> Result<T, E>,
) -> Result<Option<TreeEntry>, E> {
    let mut folder = *root;
    let mut names = path.split('/').peekable();
    while let Some(name) = names.next() {
        let Some(entry) = read(&folder)?.borrow().entry(name).cloned() else { return Ok(None) };
        if names.peek().is_none() {
            return Ok(Some(entry));
        }
        if entry.kind != EntryKind::Folder {
            return Ok(None);
        }
        folder = entry.id;
    }
    Ok(None)
}

/// The content of the file at `path` below a folder, or `None` if no file is there.
///
/// # Errors
/// [`ObjectError`] if a folder on the way or the file cannot be read.
pub fn file_at(
    objects: &dyn ObjectSource,
    root: &ObjectId,
    path: &str,
) -> Result<Option<Vec<u8>>, ObjectError> {
    match entry_at(objects, root, path)? {
        Some(TreeEntry { kind: EntryKind::File | EntryKind::Executable, id, .. }) => {
            objects.blob(&id).map(Some)
        }
        Some(_) | None => Ok(None),
    }
}

/// Calls `visit` with the path and the entry of everything below a folder, each folder before
/// what is in it. If `visit` returns false for a folder, that folder is not entered.
///
/// # Errors
/// [`ObjectError`] if a folder cannot be read or folders are nested too deeply.
pub fn walk(
    objects: &dyn ObjectSource,
    root: &ObjectId,
    visit: &mut dyn FnMut(&str, &TreeEntry) -> Result<bool, ObjectError>,
) -> Result<(), ObjectError> {
    walk_below(objects, root, "", 0, visit)
}

fn walk_below(
    objects: &dyn ObjectSource,
    folder: &ObjectId,
    prefix: &str,
    depth: usize,
    visit: &mut dyn FnMut(&str, &TreeEntry) -> Result<bool, ObjectError>,
) -> Result<(), ObjectError> {
    if depth > MAX_DEPTH {
        let reason = format!("folders are nested more than {MAX_DEPTH} deep");
        return Err(ObjectError::Malformed { id: *folder, expected: ObjectKind::Tree, reason });
    }
    for entry in &objects.tree(folder)?.entries {
        let path = join(prefix, &entry.name);
        if visit(&path, entry)? && entry.kind == EntryKind::Folder {
            walk_below(objects, &entry.id, &path, depth + 1, visit)?;
        }
    }
    Ok(())
}

pub(crate) fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mode: &str, name: &str) -> Vec<u8> {
        [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &[7; 20]].concat()
    }

    #[test]
    fn git_order_is_kept() {
        let good = [entry("100644", "a.b"), entry("40000", "a"), entry("100755", "a0")].concat();
        let names: Vec<_> = parse(&good).unwrap().into_iter().map(|entry| entry.name).collect();
        assert_eq!(names, ["a.b", "a", "a0"]);
    }

    #[test]
    fn tricks_are_refused() {
        let check = |data: Vec<u8>, expected: &str| {
            let error = parse(&data).unwrap_err();
            assert!(error.contains(expected), "{error}");
        };
        for name in ["..", ".", "", ".git", ".GIT", "a/b", "a\nb"] {
            check(entry("100644", name), "not allowed");
        }
        check([entry("100644", "b"), entry("100644", "a")].concat(), "not in order");
        check([entry("100644", "a"), entry("100644", "a.b"), entry("40000", "a")].concat(), "twice");
        check(entry("100600", "a"), "unknown");
        check(entry("100644", "a")[..20].to_vec(), "cut off");
        check(b"garbage without end".to_vec(), "mode");
    }
}
