//! Where the files of an inventory come from: a folder, git objects, memory.
//!
//! Paths are relative to the root of the tree, with `/` between names; the root is `""`. Links are
//! followed here, and never out of the tree.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A file.
    File {
        /// Whether it may be executed.
        executable: bool,
    },
    /// A folder.
    Folder,
    /// A symbolic link and what it says.
    Link(String),
}

/// A tree of files.
pub trait FileTree {
    /// What stands at a path; links are not followed. Nothing there is `None`.
    ///
    /// # Errors
    /// If it can't be found out.
    fn entry(&self, path: &str) -> io::Result<Option<Entry>>;

    /// The names in a folder, in any order.
    ///
    /// # Errors
    /// If the folder can't be read.
    fn list(&self, path: &str) -> io::Result<Vec<String>>;

    /// The content of a file.
    ///
    /// # Errors
    /// If the file can't be read.
    fn read(&self, path: &str) -> io::Result<Vec<u8>>;
}

/// A folder on disk.
#[derive(Debug, Clone)]
pub struct DirTree {
    root: PathBuf,
}

impl DirTree {
    /// The tree below a folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn at(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl FileTree for DirTree {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.at(path);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        if meta.is_symlink() {
            return Ok(Some(Entry::Link(utf8(&fs::read_link(&path)?)?)));
        }
        let executable = meta.permissions().mode() & 0o111 != 0;
        Ok(Some(if meta.is_dir() { Entry::Folder } else { Entry::File { executable } }))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        fs::read_dir(self.at(path))?.map(|entry| utf8(Path::new(&entry?.file_name()))).collect()
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        fs::read(self.at(path))
    }
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::InvalidFilename
    )
}

fn utf8(path: &Path) -> io::Result<String> {
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the file name {} is not UTF-8", path.display()))
    })
}

/// A tree in memory: paths of files and what is in them.
#[derive(Debug, Clone, Default)]
pub struct MemoryTree {
    files: BTreeMap<String, Vec<u8>>,
}

impl MemoryTree {
    /// An empty tree.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets a file; its folders are there with it.
    #[must_use]
    pub fn with(mut self, path: &str, content: impl Into<Vec<u8>>) -> Self {
        self.files.insert(path.to_owned(), content.into());
        self
    }
}

impl FileTree for MemoryTree {
    fn entry(&self, path: &str) -> io::Result<Option<Entry>> {
        if self.files.contains_key(path) {
            return Ok(Some(Entry::File { executable: false }));
        }
        let folder = path.is_empty() || self.files.keys().any(|file| inside(file, path).is_some());
        Ok(folder.then_some(Entry::Folder))
    }

    fn list(&self, path: &str) -> io::Result<Vec<String>> {
        let below = self.files.keys().filter_map(|file| inside(file, path));
        let mut names: Vec<String> =
            below.filter_map(|rest| rest.split('/').next()).map(str::to_owned).collect();
        names.dedup();
        Ok(names)
    }

    fn read(&self, path: &str) -> io::Result<Vec<u8>> {
        let content = self.files.get(path).cloned();
        content.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no file {path}")))
    }
}

fn inside<'a>(file: &'a str, folder: &str) -> Option<&'a str> {
    if folder.is_empty() { Some(file) } else { file.strip_prefix(folder)?.strip_prefix('/') }
}

/// A path that is inside a folder or next to it, `.` and `..` resolved; `None` if it leaves the tree.
pub(crate) fn join(folder: &str, path: &str) -> Option<String> {
    let mut names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()?),
            name => names.push(name),
        }
    }
    Some(names.join("/"))
}

/// The folder that a path is in.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// What a path leads to after all links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    Nothing,
    File {
        path: String,
        executable: bool,
    },
    Folder {
        path: String,
    },
    /// A link on the way leaves the tree or goes in circles.
    Outside,
}

/// More links than this on one path are a circle; Linux gives up at the same number.
const MAX_LINKS: usize = 40;

/// Follows links on a path.
pub(crate) fn resolve(tree: &dyn FileTree, path: &str) -> io::Result<Target> {
    resolve_noting(tree, path, &mut Vec::new())
}

/// Follows links on a path, and notes where each stands.
pub(crate) fn resolve_noting(
    tree: &dyn FileTree,
    path: &str,
    passed: &mut Vec<String>,
) -> io::Result<Target> {
    let mut open: Vec<String> = path.rsplit('/').filter(|name| !name.is_empty()).map(str::to_owned).collect();
    let mut at = String::new();
    let mut links = 0;
    let mut last = Entry::Folder;
    while let Some(name) = open.pop() {
        let Some(next) = join(&at, &name) else { return Ok(Target::Outside) };
        match tree.entry(&next)? {
            None => return Ok(Target::Nothing),
            Some(Entry::Link(target)) => {
                links += 1;
                if links > MAX_LINKS || target.starts_with('/') {
                    return Ok(Target::Outside);
                }
                passed.push(next);
                open.extend(target.rsplit('/').filter(|name| !name.is_empty()).map(str::to_owned));
            }
            Some(entry) => {
                if matches!(entry, Entry::File { .. }) && !open.is_empty() {
                    return Ok(Target::Nothing);
                }
                at = next;
                last = entry;
            }
        }
    }
    Ok(match last {
        Entry::File { executable } => Target::File { path: at, executable },
        Entry::Folder | Entry::Link(_) => Target::Folder { path: at },
    })
}
