//! The files of a device: which belong to a checkpoint, and how they are.
//!
//! A file that was not written to since the last checkpoint is known by its number, size and times
//! and is not read again, so an idle device pays one `lstat` for each file and no more.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use volary_host::FileError;

use super::blobs;
use super::manifest::{Entry, FileName, Kind, LeftOut, Manifest, Seen};
use crate::paths::Paths;

/// The folders that are always remembered. `/etc` has what systemd enables too.
const TREES: [&str; 6] =
    ["/etc", "/root/.ssh", "/usr/local/bin", "/usr/local/etc", "/usr/local/sbin", "/var/spool/cron"];

/// Who the device is and how far it went. They come back if they are gone, and are left as they
/// are otherwise: a record of accepted commits that goes back would let a server replay an older
/// one, and the server may know only the newest certificate.
const ONLY_IF_GONE: [&str; 5] = [
    "/etc/machine-id",
    "/etc/volary/accepted.json",
    "/etc/volary/device.crt",
    "/etc/volary/device.key",
    "/etc/volary/enrolling.json",
];

/// What no undo may touch: what undoes, what the kernel writes, and locks.
const NEVER: [&str; 6] = [
    "/etc/.pwd.lock",
    "/etc/adjtime",
    "/etc/fake-hwclock.data",
    "/etc/mtab",
    super::boot::UNIT_FILE,
    super::boot::LINK,
];

/// A larger file is left out: configuration is small, and each is held in memory once.
const LARGEST_FILE: u64 = 16 << 20;

/// What one tree may hold altogether.
const LARGEST_TREE: u64 = 256 << 20;

/// Entries of one tree: somebody named a folder with data.
const MOST_ENTRIES: usize = 50_000;

/// A file that was changed this short before the last checkpoint is read again: the clock of a file
/// system may tick only each 10 ms (or 2 s), so a second change may look like none.
const TICK: i64 = 3;

/// The trees of a checkpoint: ours and those that the fleet names, each once and none within
/// another. Names that are no absolute path are left away.
pub fn trees(named: &[PathBuf]) -> Vec<PathBuf> {
    let all: BTreeSet<PathBuf> = TREES
        .iter()
        .map(PathBuf::from)
        .chain(named.iter().filter(|path| path.is_absolute() && path.components().count() > 1).cloned())
        .collect();
    all.iter().filter(|tree| !tree.ancestors().skip(1).any(|above| all.contains(above))).cloned().collect()
}

/// True if nothing that an undo does may touch this path.
pub fn is_never_touched(path: &Path) -> bool {
    NEVER.iter().any(|never| path == Path::new(never)) || path.starts_with("/var/lib/volary")
}

/// What a walk found.
#[derive(Debug, Default)]
pub struct Found {
    /// Each path that is there, in the order of paths.
    pub entries: BTreeMap<PathBuf, Metadata>,
    /// What is left out, and why.
    pub left_out: Vec<LeftOut>,
}

/// Walks the trees. What is on another file system, too large, or no file at all is left out.
pub fn walk(paths: &Paths, trees: &[PathBuf]) -> Found {
    walk_within(paths, trees, &Limits { file: LARGEST_FILE, tree: LARGEST_TREE, entries: MOST_ENTRIES })
}

/// Walks the trees without a limit: contents are not read.
pub fn walk_all(paths: &Paths, trees: &[PathBuf]) -> Found {
    walk_within(paths, trees, &Limits { file: u64::MAX, tree: u64::MAX, entries: usize::MAX })
}

struct Limits {
    file: u64,
    tree: u64,
    entries: usize,
}

fn walk_within(paths: &Paths, trees: &[PathBuf], limits: &Limits) -> Found {
    let mut found = Found::default();
    let mounts = volary_host::mount_points();
    for tree in trees {
        let Ok(top) = fs::symlink_metadata(paths.on_device(tree)) else { continue };
        let mut walk = Walk {
            paths,
            limits,
            mounts: &mounts,
            top: tree,
            bytes: 0,
            entries: BTreeMap::new(),
            left_out: Vec::new(),
        };
        match walk.enter(tree, top) {
            Ok(()) => found.entries.append(&mut walk.entries),
            Err(why) => {
                walk.left_out.retain(|out| !out.path.as_path().starts_with(tree));
                walk.left_out.push(LeftOut { path: tree.as_path().into(), why });
            }
        }
        found.left_out.append(&mut walk.left_out);
    }
    found
}

struct Walk<'a> {
    paths: &'a Paths,
    limits: &'a Limits,
    mounts: &'a BTreeSet<PathBuf>,
    top: &'a Path,
    bytes: u64,
    entries: BTreeMap<PathBuf, Metadata>,
    left_out: Vec<LeftOut>,
}

impl Walk<'_> {
    /// Takes one path and all below it; the error says why the whole tree is left out.
    fn enter(&mut self, path: &Path, meta: Metadata) -> Result<(), String> {
        if is_never_touched(path) {
            return Ok(());
        }
        if path != self.top && self.mounts.contains(&self.paths.on_device(path)) {
            self.leave_out(path, "it is on another file system");
            return Ok(());
        }
        let kind = meta.file_type();
        if !(kind.is_file() || kind.is_dir() || kind.is_symlink()) {
            self.leave_out(path, "it is no file, folder or link");
            return Ok(());
        }
        if kind.is_file() {
            if meta.len() > self.limits.file {
                self.leave_out(path, &format!("it has more than {} MiB", LARGEST_FILE >> 20));
                return Ok(());
            }
            self.bytes = self.bytes.saturating_add(meta.len());
        }
        self.entries.insert(path.to_owned(), meta);
        if self.bytes > self.limits.tree || self.entries.len() > self.limits.entries {
            return Err(format!("it holds more than {} MiB or {MOST_ENTRIES} entries", LARGEST_TREE >> 20));
        }
        if kind.is_dir() {
            let below = match fs::read_dir(self.paths.on_device(path)) {
                Ok(below) => below,
                Err(error) => {
                    self.leave_out(path, &format!("it cannot be read: {error}"));
                    return Ok(());
                }
            };
            for entry in below.flatten() {
                // Gone since it was listed: then it is not there.
                let Ok(meta) = entry.metadata() else { continue };
                self.enter(&path.join(entry.file_name()), meta)?;
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, path: &Path, why: &str) {
        self.left_out.push(LeftOut { path: path.into(), why: why.to_owned() });
    }
}

/// What is known of the files from the last checkpoint.
#[derive(Debug, Default)]
pub struct Known<'a> {
    last: Option<&'a Manifest>,
    /// Contents that are certainly on the disk.
    pub contents: BTreeSet<String>,
}

impl<'a> Known<'a> {
    /// From the last whole checkpoint.
    pub fn from(last: Option<&'a Manifest>) -> Self {
        Self { last, contents: last.map(|last| blobs::of(last).collect()).unwrap_or_default() }
    }

    /// The content of a file that was not written to since.
    fn content(&self, path: &Path, seen: &Seen) -> Option<String> {
        let last = self.last?;
        if seen.ctime.0 + TICK > last.clock.wall.as_second() {
            return None;
        }
        match &last.entry(path)?.kind {
            Kind::File { sha256, seen: before, .. } if before == seen => Some(sha256.clone()),
            Kind::File { .. } | Kind::Folder | Kind::Link { .. } => None,
        }
    }
}

/// Bytes of files that must be read, and at most be written.
pub fn to_read(found: &Found, known: &Known<'_>) -> u64 {
    let files = found.entries.iter().filter(|(_, meta)| meta.is_file());
    files.filter(|(path, meta)| known.content(path, &seen(meta)).is_none()).map(|(_, meta)| meta.len()).sum()
}

/// Turns what was found into entries and keeps the contents in `blobs`.
///
/// # Errors
/// [`FileError`] if a content cannot be written. A file that cannot be read is left out.
pub fn keep(
    paths: &Paths,
    found: &mut Found,
    known: &Known<'_>,
    dir: &Path,
) -> Result<Vec<Entry>, FileError> {
    let mut entries = Vec::new();
    for (path, meta) in std::mem::take(&mut found.entries) {
        let real = paths.on_device(&path);
        let kind = if meta.is_dir() {
            Kind::Folder
        } else if meta.is_symlink() {
            // Gone since: then it is not there.
            let Ok(target) = fs::read_link(&real) else { continue };
            Kind::Link { target: target.into() }
        } else {
            let seen = seen(&meta);
            let sha256 = match known.content(&path, &seen) {
                Some(sha256) => sha256,
                None => match blobs::keep(dir, &real, &known.contents) {
                    Ok(sha256) => sha256,
                    Err(error) if error.operation == "read" => {
                        found.left_out.push(LeftOut { path: path.as_path().into(), why: error.to_string() });
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let only_if_gone = ONLY_IF_GONE.iter().any(|name| path == Path::new(name));
            Kind::File { sha256, seen, only_if_gone }
        };
        let xattrs = if meta.is_symlink() { BTreeMap::new() } else { xattrs(&real) };
        entries.push(Entry {
            path: FileName::from(path),
            kind,
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            mtime: (meta.mtime(), u32::try_from(meta.mtime_nsec()).unwrap_or(0)),
            xattrs,
        });
    }
    Ok(entries)
}

/// By what a file is known again.
pub fn seen(meta: &Metadata) -> Seen {
    Seen { dev: meta.dev(), ino: meta.ino(), size: meta.len(), ctime: (meta.ctime(), meta.ctime_nsec()) }
}

/// The extended attributes of a file or folder, access lists and capabilities among them. None
/// where the file system has no such thing.
pub fn xattrs(path: &Path) -> BTreeMap<String, String> {
    let mut names = Vec::with_capacity(1024);
    let mut found = BTreeMap::new();
    if rustix::fs::llistxattr(path, rustix::buffer::spare_capacity(&mut names)).is_err() {
        return found;
    }
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let mut value = Vec::with_capacity(4096);
        if rustix::fs::lgetxattr(path, name, rustix::buffer::spare_capacity(&mut value)).is_ok() {
            found.insert(name.to_owned(), blobs::hex(&value));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_named_once() {
        let named = ["/etc/ssh", "/opt/app", "relative", "/", "/opt/app/conf"].map(PathBuf::from);
        let all = trees(&named);
        assert!(all.contains(&PathBuf::from("/opt/app")) && all.contains(&PathBuf::from("/etc")));
        assert_eq!(all.len(), TREES.len() + 1, "{all:?}");
    }

    #[test]
    fn a_tree_that_is_too_large_is_left_out_whole() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        let tree = dir.path().join("etc/sub");
        volary_host::create_dir(&tree).unwrap();
        for number in 0..3 {
            let file = fs::File::create(tree.join(format!("{number}"))).unwrap();
            // A hole: it takes no place here.
            file.set_len(LARGEST_FILE + number).unwrap();
        }
        let found = walk(&paths, &[PathBuf::from("/etc")]);
        assert_eq!(found.left_out.len(), 2, "{:?}", found.left_out);
        assert_eq!(found.entries.len(), 3);
        for number in 0..20 {
            fs::File::create(tree.join(format!("m{number}"))).unwrap().set_len(LARGEST_FILE).unwrap();
        }
        let found = walk(&paths, &[PathBuf::from("/etc")]);
        assert!(found.entries.is_empty());
        assert_eq!(found.left_out.len(), 1, "{:?}", found.left_out);
        assert!(found.left_out[0].why.contains("256 MiB"));
    }
}
