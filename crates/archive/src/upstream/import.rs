//! Import: brings the packages of a publication of aptly, reprepro or any other into rolling, as
//! if somebody had uploaded them. Done again it does nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use jiff::Timestamp;
use volary_debian::Version;
use volary_host::FileError;
use volary_model::{Architecture, Component, PackageName};

use super::download::{Job, Staging, Step, Wanted};
use super::error::UpstreamError;
use super::index::Scope;
use super::item::{Item, Source};
use super::publication::Publication;
use super::sources::{self, Sources};
use super::spec::Link;
use super::sync::all_offered;
use crate::archive::Archive;
use crate::entry::{Provenance, component_of};
use crate::error::Error;
use crate::upload::UploadPolicy;

/// How many packages one transaction takes: enough that its cost does not count, few enough that
/// an interruption loses little.
const BATCH: usize = 500;

/// What to import.
#[derive(Debug)]
pub struct Import<'a> {
    /// The suite.
    pub suite: &'a str,
    /// The publication's components; if empty, all that it has.
    pub components: &'a [String],
    /// The way to it.
    pub link: Link<'a>,
    /// Who asked, for the provenance.
    pub by: &'a str,
    /// Only say what would happen.
    pub dry_run: bool,
    /// The time.
    pub now: Timestamp,
}

/// What an import did, or would do.
#[derive(Debug, Default)]
pub struct Imported {
    /// Packages that came, as `name version (architecture)`.
    pub added: Vec<String>,
    /// How many were there already with the same content.
    pub known: usize,
    /// Packages that were left out, with the reason.
    pub left_out: Vec<String>,
}

impl Archive {
    /// Brings the packages of a publication into rolling, the source packages included.
    ///
    /// # Errors
    /// [`Error::Upstream`] with what is wrong there, or what writing may bring. Packages that came
    /// before the error stay, and the next import goes on after them.
    pub fn import(&self, import: &Import<'_>) -> Result<Imported, Error> {
        let Import { suite, link, now, .. } = import;
        link.watch.step(Step::Reading);
        let publication = Publication::open(link.fetch, suite, link.trust, None, *now)?;
        let staging = Staging::new(&self.incoming_dir().join("import"))?;
        let job = Job { fetch: link.fetch, staging: &staging, patience: link.patience, watch: link.watch };
        let architectures = self.architectures_of(&publication)?;
        let all = publication.components();
        let components = if import.components.is_empty() { &all } else { import.components };
        let scope = Scope { components, architectures: &architectures, languages: &[], sources: true };
        let indexes = publication.indexes(&job, &scope)?;
        let place = link.fetch.place();
        let note = format!("imported from {place} {suite} ({}) by {}", publication.seen.release, import.by);
        let provenance = Provenance { note: Some(note), ..Provenance::default() };
        let offered = all_offered(&indexes)?;
        let mut found = Sources::new();
        for (path, text) in &indexes.sources {
            sources::read(text, path, &mut found)?;
        }
        let component = Component::main();
        let shared = std::sync::Arc::new(provenance.clone());
        let source = Source { component: &component, provenance: &shared, now: *now };
        let own = self.settings()?.components;
        let binaries = offered.iter().map(|one| {
            let mut item = source.binary(one, std::collections::BTreeMap::new());
            // As an upload of it would.
            item.entry.component = component_of(&one.paragraph(), &own);
            item
        });
        let items: Vec<Item> = binaries.chain(found.values().map(|one| source.source(one))).collect();
        let mut imported = Imported::default();
        let new = self.new_items(items, &mut imported)?;
        if import.dry_run {
            imported.added = new.iter().map(|item| item.entry.to_string()).collect();
            return Ok(imported);
        }
        let wanted: Vec<Wanted> = new.iter().flat_map(|item| item.wanted.iter().cloned()).collect();
        staging.check_space(&wanted)?;
        let bytes = wanted.iter().map(|one| one.size).sum();
        link.watch.step(Step::Fetching { files: wanted.len() as u64, bytes });
        for batch in new.chunks(BATCH) {
            let wanted: Vec<Wanted> = batch.iter().flat_map(|item| item.wanted.iter().cloned()).collect();
            job.fetch_all(&wanted, link.parallel, &|_, _| Ok(()))?;
            self.import_batch(batch, &staging, &provenance, *now, &mut imported)?;
            // The pool has copies.
            wanted.iter().try_for_each(|one| volary_host::remove_if_exists(&staging.path(&one.sha256)))?;
        }
        staging.clear()?;
        Ok(imported)
    }

    /// The architectures that both have.
    fn architectures_of(&self, publication: &Publication) -> Result<Vec<Architecture>, Error> {
        let theirs = publication.architectures();
        let ours = self.settings()?.architectures;
        let both: Vec<Architecture> =
            ours.iter().filter(|one| theirs.iter().any(|their| their == one.as_str())).cloned().collect();
        if both.is_empty() && !theirs.is_empty() {
            return Err(UpstreamError::Lacks {
                suite: publication.suite.clone(),
                what: "architecture of this archive, which are",
                name: ours.iter().map(Architecture::as_str).collect::<Vec<_>>().join(" "),
                there: theirs.join(", "),
            }
            .into());
        }
        Ok(both)
    }

    /// The items that may come in and are not there yet, each once, the oldest version of a
    /// package first: rolling only goes forward.
    fn new_items(&self, mut items: Vec<Item>, imported: &mut Imported) -> Result<Vec<Item>, Error> {
        let place = |item: &Item| -> (PackageName, Architecture, Version) {
            let entry = &item.entry;
            (entry.name.clone(), entry.architecture.clone(), entry.version.clone())
        };
        items.sort_by_cached_key(place);
        let inner = self.look()?;
        let mut seen = BTreeSet::new();
        items.retain(|item| {
            // A package for all is in the index of each architecture.
            if !seen.insert(item.entry.sha256) {
                return false;
            }
            match inner.state.admit(&item.entry) {
                Ok(None) => true,
                Ok(Some(_)) => {
                    imported.known += 1;
                    false
                }
                Err(reason) => {
                    imported.left_out.push(format!("{}: {reason}", item.entry));
                    false
                }
            }
        });
        items.dedup_by(|later, first| {
            let same = place(later) == place(first);
            if same {
                imported
                    .left_out
                    .push(format!("{}: it is published twice with different content", later.entry));
            }
            same
        });
        Ok(items)
    }

    fn import_batch(
        &self,
        batch: &[Item],
        staging: &Staging,
        provenance: &Provenance,
        now: Timestamp,
        imported: &mut Imported,
    ) -> Result<(), Error> {
        // An include knows packages by the ends of their names, and a .dsc by the files beside it.
        let names = tempfile::tempdir_in(self.incoming_dir())
            .map_err(FileError::at("write in", &self.incoming_dir()))?;
        let mut paths: Vec<PathBuf> = Vec::new();
        for (number, item) in batch.iter().enumerate() {
            let folder = names.path().join(number.to_string());
            volary_host::create_dir(&folder)?;
            let link = |sha256: &volary_model::Digest, name: &str| {
                let path = folder.join(name);
                fs::hard_link(staging.path(sha256), &path).map_err(FileError::at("link", &path))?;
                Ok::<_, Error>(path)
            };
            let path = if item.entry.is_source() {
                for file in &item.entry.files[1..] {
                    link(&file.sha256, &file.name)?;
                }
                link(&item.entry.sha256, &item.entry.files[0].name)?
            } else {
                let entry = &item.entry;
                link(&entry.sha256, &format!("{}_{}_{}.deb", entry.name, entry.version, entry.architecture))?
            };
            paths.push(path);
        }
        // The signature of the publication covers all of it, a .dsc too.
        match self.include(&paths, provenance, &UploadPolicy::AllowUnsigned, now) {
            Ok(included) => {
                imported.added.extend(included.added.iter().map(ToString::to_string));
                imported.known += included.known.len();
                Ok(())
            }
            // All or nothing: who is in the way is left out, and the others come by themselves.
            Err(Error::Refused { .. }) if batch.len() > 1 => {
                let (first, second) = batch.split_at(batch.len() / 2);
                drop(names);
                self.import_batch(first, staging, provenance, now, imported)?;
                self.import_batch(second, staging, provenance, now, imported)
            }
            Err(Error::Refused { reason, .. }) => {
                imported.left_out.push(format!("{}: {reason}", batch[0].entry));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
