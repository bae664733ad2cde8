//! `group_vars` and `host_vars`: which files hold the variables of a group or a host, and what they say.

use super::document::{self, LoadError};
use super::error::{InventoryError, Reason, Warning};
use super::python;
use super::read::YAML_EXTENSIONS;
use super::tree::{self, FileTree, Target};
use super::value::{Map, Value};

/// Whose variables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entity<'a> {
    Group(&'a str),
    Host(&'a str),
}

impl<'a> Entity<'a> {
    /// The group, if it is one.
    pub fn group(self) -> Option<&'a str> {
        match self {
            Self::Group(name) => Some(name),
            Self::Host(_) => None,
        }
    }

    fn place(self) -> (&'static str, &'a str) {
        match self {
            Self::Group(name) => ("group_vars", name),
            Self::Host(name) => ("host_vars", name),
        }
    }
}

/// Reads files of variables and remembers which.
pub(crate) struct VarsReader<'a> {
    pub tree: &'a dyn FileTree,
    /// All files found, in order.
    pub files: Vec<String>,
    /// Those of them that are vaulted as a whole.
    pub sealed: Vec<String>,
    /// The links that lead to them, in no order.
    pub links: Vec<String>,
    pub warnings: Vec<Warning>,
}

/// Folders in folders in `group_vars/web/`; deeper is a circle of links.
const MAX_DEPTH: usize = 32;

impl<'a> VarsReader<'a> {
    pub fn new(tree: &'a dyn FileTree) -> Self {
        Self { tree, files: Vec::new(), sealed: Vec::new(), links: Vec::new(), warnings: Vec::new() }
    }

    /// Gives out the variables of entities in the order in which they are laid over each other: those
    /// beside each folder, folder after folder.
    pub fn each(
        &mut self,
        folders: &[String],
        entities: &[Entity<'_>],
        lay: &mut dyn FnMut(&Map, &str, Entity<'_>),
    ) -> Result<(), InventoryError> {
        for folder in folders {
            for entity in entities {
                for file in self.find(folder, *entity)? {
                    if let Some(map) = self.load(&file)? {
                        lay(&map, &file, *entity);
                    }
                }
            }
        }
        Ok(())
    }

    /// The files with the variables of an entity beside a folder.
    pub fn find(&mut self, folder: &str, entity: Entity<'_>) -> Result<Vec<String>, InventoryError> {
        let (kind, name) = entity.place();
        if name.starts_with('/') {
            return Ok(Vec::new());
        }
        let path = if folder.is_empty() { kind.to_owned() } else { format!("{folder}/{kind}") };
        let base = match self.resolve(&path)? {
            Target::Folder { path } => path,
            Target::Nothing => return Ok(Vec::new()),
            Target::File { .. } | Target::Outside => {
                let warning = Warning::NoFolder { path };
                if !self.warnings.contains(&warning) {
                    self.warnings.push(warning);
                }
                return Ok(Vec::new());
            }
        };
        // A folder or a file without extension hides the files with one.
        for extension in std::iter::once("").chain(YAML_EXTENSIONS) {
            let Some(path) = tree::join(&base, &format!("{name}{extension}")) else { continue };
            let mut found = Vec::new();
            match self.resolve(&path)? {
                Target::Nothing => continue,
                Target::File { path, .. } => found.push(path),
                Target::Folder { path } => self.folder(&path, 0, &mut found)?,
                Target::Outside => return Err(Reason::Link.of(&path).into()),
            }
            return Ok(found);
        }
        Ok(Vec::new())
    }

    fn resolve(&mut self, path: &str) -> Result<Target, InventoryError> {
        match tree::resolve_noting(self.tree, path, &mut self.links).map_err(InventoryError::read(path))? {
            Target::Outside => Err(Reason::Link.of(path).into()),
            target => Ok(target),
        }
    }

    fn folder(&mut self, path: &str, depth: usize, found: &mut Vec<String>) -> Result<(), InventoryError> {
        if depth > MAX_DEPTH {
            return Err(Reason::Link.of(path).into());
        }
        let mut names = self.tree.list(path).map_err(InventoryError::read(path))?;
        names.sort_unstable();
        for name in names.iter().filter(|name| !name.starts_with('.') && !name.ends_with('~')) {
            let inner = format!("{path}/{name}");
            let extension = python::extension(name);
            match self.resolve(&inner)? {
                Target::Folder { path } if extension.is_empty() => self.folder(&path, depth + 1, found)?,
                Target::File { path, .. } if extension.is_empty() || YAML_EXTENSIONS.contains(&extension) => {
                    found.push(path);
                }
                Target::Folder { .. } | Target::File { .. } | Target::Nothing | Target::Outside => {}
            }
        }
        Ok(())
    }

    /// What is in a file; `None` if it is vaulted or empty.
    pub fn load(&mut self, file: &str) -> Result<Option<Map>, InventoryError> {
        let bytes = self.tree.read(file).map_err(InventoryError::read(file))?;
        if !self.files.iter().any(|known| known == file) {
            self.files.push(file.to_owned());
        }
        let wrong = |message: String| InventoryError::Variables { file: file.to_owned(), message };
        let document = match document::load(&bytes) {
            Ok(document) => document,
            Err(LoadError::Sealed) => {
                if !self.sealed.iter().any(|known| known == file) {
                    self.sealed.push(file.to_owned());
                }
                return Ok(None);
            }
            Err(LoadError::Beyond { what }) => return Err(Reason::Rare { what }.of(file).into()),
            Err(LoadError::Syntax { line: 0, message }) => return Err(wrong(message)),
            Err(LoadError::Syntax { line, message }) => return Err(wrong(format!("line {line}: {message}"))),
        };
        for (line, key) in document.duplicates {
            let warning = Warning::DuplicateKey { file: file.to_owned(), line, key };
            if !self.warnings.contains(&warning) {
                self.warnings.push(warning);
            }
        }
        match document.value {
            Value::Map(map) => Ok(Some(map)),
            other if other.is_truthy() => Err(wrong(format!("a map is needed, this is {}", other.kind()))),
            _ => Ok(None),
        }
    }
}
