//! A package of a publication on its way into the archive.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use jiff::Timestamp;
use volary_debian::deb::{self, Problem};
use volary_host::FileError;
use volary_model::Component;

use super::download::Wanted;
use super::error::UpstreamError;
use super::offered::Offered;
use super::sources::OfferedSource;
use crate::entry::{self, PackageEntry, Provenance, SourceFile};
use crate::sidecar::Extract;
use crate::source;

/// A package that is to be in a component, with the files that must be fetched for it.
pub(super) struct Item {
    pub(super) entry: PackageEntry,
    pub(super) wanted: Vec<Wanted>,
    /// The same package, if the component had it before.
    pub(super) known: Option<Arc<PackageEntry>>,
}

/// What all packages of one sync have in common.
pub(super) struct Source<'a> {
    pub(super) component: &'a Component,
    pub(super) provenance: &'a Arc<Provenance>,
    pub(super) now: Timestamp,
}

impl Source<'_> {
    /// A binary package. Its paragraph is that of the index and not that of the package: the
    /// index has the priorities that its makers settled.
    pub(super) fn binary(&self, offered: &Offered<'_>, translations: BTreeMap<String, Box<str>>) -> Item {
        let mut control = offered.paragraph();
        if translations.is_empty() {
            // It would promise descriptions that nobody has.
            control.remove("Description-md5");
        }
        let source = offered.source.parse().unwrap_or_else(|_| offered.name.clone());
        let entry = PackageEntry {
            name: offered.name.clone(),
            version: offered.version.clone(),
            architecture: offered.architecture.clone(),
            component: self.component.clone(),
            source,
            source_version: offered.source_version.clone(),
            sha256: offered.sha256,
            size: offered.size,
            stanza: entry::stanza(&control, &offered.sha256, offered.size).into(),
            files: Vec::new(),
            translations,
            provenance: Arc::clone(self.provenance),
            included_at: self.now,
            relations: OnceLock::new(),
        };
        Item { entry, wanted: vec![wanted(offered)], known: None }
    }

    /// A source package.
    pub(super) fn source(&self, offered: &OfferedSource) -> Item {
        let files: Vec<SourceFile> = offered
            .files
            .iter()
            .map(|file| SourceFile { name: file.name.clone(), sha256: file.sha256, size: file.size })
            .collect();
        let entry = PackageEntry {
            name: offered.name.clone(),
            version: offered.version.clone(),
            architecture: "source".parse().expect("it is a valid name"),
            component: self.component.clone(),
            source: offered.name.clone(),
            source_version: offered.version.clone(),
            sha256: files[0].sha256,
            size: files[0].size,
            stanza: source::stanza(&offered.paragraph, offered.name.as_str(), &files).into(),
            files,
            translations: BTreeMap::new(),
            provenance: Arc::clone(self.provenance),
            included_at: self.now,
            relations: OnceLock::new(),
        };
        Item { entry, wanted: wanted_source(offered), known: None }
    }
}

/// The file of a binary package.
pub(super) fn wanted(offered: &Offered<'_>) -> Wanted {
    Wanted { path: offered.filename.clone(), by_hash: None, size: offered.size, sha256: offered.sha256 }
}

/// The files of a source package.
pub(super) fn wanted_source(offered: &OfferedSource) -> Vec<Wanted> {
    let wanted = |file: &super::sources::OfferedFile| Wanted {
        path: format!("{}/{}", offered.directory, file.name),
        by_hash: None,
        size: file.size,
        sha256: file.sha256,
    };
    offered.files.iter().map(wanted).collect()
}

/// Reads a package that was fetched. The outer error is of this machine, the inner one says why
/// the package is not what its index describes.
pub(super) fn check_deb(entry: &PackageEntry, path: &Path) -> Result<Result<Extract, String>, UpstreamError> {
    let file = File::open(path).map_err(FileError::at("read", path))?;
    let deb = match deb::read(std::io::BufReader::new(file), "") {
        Ok(deb) => deb,
        Err(error) => match error.problem {
            Problem::Read(error) => return Err(FileError::at("read", path)(error).into()),
            problem => return Ok(Err(problem.to_string())),
        },
    };
    let says = |deb: &deb::Deb| format!("{} {} ({})", deb.package, deb.version, deb.architecture);
    if says(&deb) != entry.to_string() {
        return Ok(Err(format!("the file is {}", says(&deb))));
    }
    Ok(Ok(Extract::of(deb)))
}
