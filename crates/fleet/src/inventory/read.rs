//! Reads the sources of an inventory in Ansible's order: folders, files, one format after the other.

use super::document::{self, Document};
use super::error::{InventoryError, Reason, Warning};
use super::graph::{Graph, Source};
use super::host_files::{self, Config as HostFiles};
use super::settings::Settings;
use super::source::SourceError;
use super::tree::{self, FileTree, Target};
use super::value::Value;
use super::{ReadOptions, ini, python, yaml_source};

/// In folders of sources these names hold no inventory.
const IGNORED_NAMES: [&str; 3] = ["host_vars", "group_vars", "vars_plugins"];

/// Deeper folders are a circle of links.
const MAX_DEPTH: usize = 32;

/// The extensions of files in YAML or JSON; none will do too.
pub(crate) const YAML_EXTENSIONS: [&str; 3] = [".yml", ".yaml", ".json"];

/// What was read.
pub(crate) struct Sources {
    pub graph: Graph,
    pub warnings: Vec<Warning>,
    /// The files that were read, but for those of single hosts.
    pub files: Vec<String>,
}

/// Reads all sources into a graph.
pub(crate) fn sources(
    tree: &dyn FileTree,
    paths: &[String],
    settings: &Settings,
    options: &ReadOptions<'_>,
    hosts_folders: &mut Vec<String>,
) -> Result<Sources, InventoryError> {
    let mut graph = Graph::new();
    graph.noting = options.origins;
    let mut reader = Reader {
        tree,
        settings,
        graph,
        only: options.host,
        warnings: Vec::new(),
        files: Vec::new(),
        hosts_folders,
    };
    let mut parsed = false;
    for path in paths {
        parsed |= reader.source(path, 0)?;
    }
    let Reader { mut graph, mut warnings, files, .. } = reader;
    if parsed {
        graph.reconcile().map_err(|error| InventoryError::Groups { message: error.to_string() })?;
    }
    name_warnings(&graph, &mut warnings);
    Ok(Sources { graph, warnings, files })
}

fn name_warnings(graph: &Graph, warnings: &mut Vec<Warning>) {
    for group in &graph.groups {
        let begins = group.name.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
        if !begins || group.name.chars().any(|c| !c.is_alphanumeric() && c != '_') {
            warnings.push(Warning::GroupName { group: group.name.clone() });
        }
        if graph.host_id(&group.name).is_some() {
            warnings.push(Warning::SameName { name: group.name.clone() });
        }
    }
}

struct Reader<'a> {
    tree: &'a dyn FileTree,
    settings: &'a Settings,
    graph: Graph,
    only: Option<&'a str>,
    warnings: Vec<Warning>,
    files: Vec<String>,
    hosts_folders: &'a mut Vec<String>,
}

impl Reader<'_> {
    /// Reads a file, or all in a folder; says whether anything was an inventory.
    fn source(&mut self, path: &str, depth: usize) -> Result<bool, InventoryError> {
        match tree::resolve(self.tree, path).map_err(InventoryError::read(path))? {
            Target::Outside => Err(Reason::Link.of(path).into()),
            Target::Nothing => {
                self.warnings.push(Warning::Missing { path: path.to_owned() });
                Ok(false)
            }
            Target::File { path: file, executable } => {
                let bytes = self.tree.read(&file).map_err(InventoryError::read(&file))?;
                self.graph.source =
                    Some(Source { file: path.to_owned(), folder: tree::parent(path).to_owned() });
                self.graph.note(path);
                self.files.push(path.to_owned());
                self.file(path, &bytes, executable)
            }
            Target::Folder { .. } if depth > MAX_DEPTH => Err(Reason::Link.of(path).into()),
            Target::Folder { path: folder } => {
                let mut names = self.tree.list(&folder).map_err(InventoryError::read(&folder))?;
                names.sort_unstable();
                let mut parsed = false;
                for name in names.iter().filter(|name| !is_ignored(name, self.settings)) {
                    let inner = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                    parsed |= self.source(&inner, depth + 1)?;
                }
                Ok(parsed)
            }
        }
    }

    /// Tries the formats in Ansible's order. One that fails may leave behind what it read.
    fn file(&mut self, path: &str, bytes: &[u8], executable: bool) -> Result<bool, InventoryError> {
        // A file with the mode of a program that the kernel does not know is not run.
        if executable && (bytes.starts_with(b"#!") || bytes.starts_with(b"\x7fELF")) {
            return Err(Reason::Script.of(path).into());
        }
        if document::is_sealed(bytes) {
            return Err(Reason::SealedInventory.of(path).into());
        }
        let extension = python::extension(path);
        let mut attempts = Vec::new();
        if path.ends_with(".yml") || path.ends_with(".yaml") || extension.is_empty() || extension == ".json" {
            match self.yaml(path, bytes) {
                Ok(()) => return Ok(true),
                Err(error) => attempts.push(failure("YAML", path, error)?),
            }
        }
        match ini::read(&mut self.graph, bytes) {
            Ok(()) => return Ok(true),
            Err(error) => attempts.push(failure("INI", path, error)?),
        }
        if extension == ".toml" {
            return Err(Reason::Toml.of(path).into());
        }
        self.warnings.push(Warning::Unreadable(Reason::Unreadable { attempts }.of(path)));
        Ok(false)
    }

    fn yaml(&mut self, path: &str, bytes: &[u8]) -> Result<(), FormatError> {
        let document = document::load(bytes).map_err(SourceError::from)?;
        if let Some(name) = plugin(&document.value)
            && (path.ends_with(".yml") || path.ends_with(".yaml"))
        {
            let Some(config) = HostFiles::of(path, &document.value) else {
                return Err(FormatError::Whole(Reason::Plugin { name }.of(path).into()));
            };
            return self.host_files(config.map_err(FormatError::Whole)?).map_err(FormatError::Whole);
        }
        self.duplicates(path, &document);
        let mut skipped = Vec::new();
        let result = yaml_source::read(&mut self.graph, &document, &mut skipped);
        let skipped = skipped.into_iter();
        self.warnings.extend(skipped.map(|part| Warning::Skipped {
            file: path.to_owned(),
            group: part.group,
            reason: part.reason,
        }));
        Ok(result?)
    }

    fn host_files(&mut self, config: HostFiles) -> Result<(), InventoryError> {
        if !self.settings.may_configure {
            let value = "a list without auto".to_owned();
            let reason = Reason::Setting { key: "[inventory] enable_plugins".to_owned(), value };
            return Err(reason.of("ansible.cfg").into());
        }
        self.hosts_folders.push(config.hosts());
        host_files::read(self.tree, &mut self.graph, &config, self.only, &mut self.warnings)
    }

    fn duplicates(&mut self, path: &str, document: &Document) {
        for (line, key) in &document.duplicates {
            let warning = Warning::DuplicateKey { file: path.to_owned(), line: *line, key: key.clone() };
            self.warnings.push(warning);
        }
    }
}

enum FormatError {
    /// This format does not fit, or not surely.
    Source(SourceError),
    /// It is the right format, and nothing else is to be tried.
    Whole(InventoryError),
}

impl From<SourceError> for FormatError {
    fn from(error: SourceError) -> Self {
        Self::Source(error)
    }
}

/// What a format had against a file; an error if Ansible may see it in another way.
fn failure(format: &str, path: &str, error: impl Into<FormatError>) -> Result<String, InventoryError> {
    match error.into() {
        FormatError::Whole(error) => Err(error),
        FormatError::Source(SourceError::Refused { line: 0, message }) => Ok(format!("{format}: {message}")),
        FormatError::Source(SourceError::Refused { line, message }) => {
            Ok(format!("{format}, line {line}: {message}"))
        }
        FormatError::Source(SourceError::Beyond(what)) => Err(Reason::Rare { what }.of(path).into()),
    }
}

fn plugin(value: &Value) -> Option<String> {
    let plugin = value.as_map()?.get("plugin").filter(|plugin| plugin.is_truthy())?;
    Some(plugin.as_text().map_or_else(|| plugin.kind().to_owned(), str::to_owned))
}

fn is_ignored(name: &str, settings: &Settings) -> bool {
    let ends = &settings.ignored_ends;
    name.starts_with('.')
        || IGNORED_NAMES.contains(&name)
        || ends.iter().any(|end| name.ends_with(end.as_str()))
        || settings.ignored_parts.iter().any(|part| part.is_in(name))
}
