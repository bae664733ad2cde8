//! Which files differ between two folders of the repository.

use crate::object::{ObjectError, ObjectId, ObjectSource, ReadObjects};
use crate::tree::{EntryKind, Tree, TreeEntry, join, walk};

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// Its content, or whether it is executable, is another.
    Changed,
    /// It is gone.
    Removed,
}

/// One file that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Its path from the top of the repository.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// The files that differ between two folders, in the order of their paths within each folder.
/// Equal folders are not read at all. At most `limit` are returned.
///
/// # Errors
/// [`ObjectError`] if a folder cannot be read.
pub fn changed_files(
    objects: &dyn ObjectSource,
    old: &ObjectId,
    new: &ObjectId,
    limit: usize,
) -> Result<Vec<Change>, ObjectError> {
    let mut changes = Vec::new();
    compare(objects, Some(old), Some(new), "", limit, &mut changes)?;
    changes.truncate(limit);
    Ok(changes)
}

fn compare(
    objects: &dyn ObjectSource,
    old: Option<&ObjectId>,
    new: Option<&ObjectId>,
    prefix: &str,
    limit: usize,
    changes: &mut Vec<Change>,
) -> Result<(), ObjectError> {
    if old == new || changes.len() >= limit {
        return Ok(());
    }
    let read = |id: Option<&ObjectId>| id.map_or_else(|| Ok(Tree::default()), |id| objects.tree(id));
    let (before, after) = (read(old)?, read(new)?);
    let mut names: Vec<&str> =
        before.entries.iter().chain(&after.entries).map(|entry| entry.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let (was, is) = (before.entry(name), after.entry(name));
        if was == is {
            continue;
        }
        let path = join(prefix, name);
        let folder = |entry: Option<&TreeEntry>| {
            entry.filter(|entry| entry.kind == EntryKind::Folder).map(|entry| entry.id)
        };
        let file = |entry: Option<&TreeEntry>| entry.is_some_and(|entry| entry.kind != EntryKind::Folder);
        let kind = match (file(was), file(is)) {
            (true, true) => Some(ChangeKind::Changed),
            (false, true) => Some(ChangeKind::Added),
            (true, false) => Some(ChangeKind::Removed),
            (false, false) => None,
        };
        changes.extend(kind.map(|kind| Change { path: path.clone(), kind }));
        let (was, is) = (folder(was), folder(is));
        if was.is_some() || is.is_some() {
            compare(objects, was.as_ref(), is.as_ref(), &path, limit, changes)?;
        }
    }
    Ok(())
}

/// The paths of all files in a folder.
///
/// # Errors
/// [`ObjectError`] if a folder cannot be read.
pub fn files(objects: &dyn ObjectSource, tree: &ObjectId) -> Result<Vec<String>, ObjectError> {
    let mut paths = Vec::new();
    walk(objects, tree, &mut |path, entry| {
        if entry.kind != EntryKind::Folder {
            paths.push(path.to_owned());
        }
        Ok(true)
    })?;
    Ok(paths)
}
