//! A sync of a mirror: from the signed head of a foreign suite to a component of rolling.
//!
//! Nothing of the archive changes before the one record at the end. What was fetched until then
//! stays in the staging folder, where the next sync finds it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use volary_debian::relation::Offers;
use volary_model::{Architecture, Component, Digest, PackageName};

use super::download::{Job, Staging, Step, Wanted};
use super::error::UpstreamError;
use super::index::{Indexes, Scope};
use super::item::{Item, Source, check_deb};
use super::offered::Offered;
use super::publication::{Publication, Seen};
use super::select::{NamePattern, Present, Reason, Selection, Unfulfilled, select};
use super::sources::{self, Sources};
use super::spec::{Link, Spec};
use super::translation::Translations;
use crate::archive::Archive;
use crate::content::{Edits, place_of};
use crate::entry::PackageEntry;
use crate::error::Error;
use crate::files;
use crate::mirror::MirrorOrigin;
use crate::publish::make_dir;
use crate::record::{Placed, Record, StoredPackage};
use crate::state::State;

/// One sync.
#[derive(Debug)]
pub struct Sync<'a> {
    /// The mirror, which is a component of rolling.
    pub mirror: &'a Component,
    /// What it takes.
    pub spec: &'a Spec,
    /// From where.
    pub link: Link<'a>,
    /// The time.
    pub now: Timestamp,
}

/// What a sync did.
#[derive(Debug, Default)]
pub struct Synced {
    /// False if the publication is as it was.
    pub is_new: bool,
    /// How many packages came and went.
    pub added: usize,
    /// How many packages went.
    pub removed: usize,
    /// How many packages the mirror has.
    pub packages: usize,
    /// Why each is in; empty if nothing is new.
    pub reasons: BTreeMap<(PackageName, Architecture), Reason>,
    /// What a chosen package needs and nothing fulfils.
    pub unfulfilled: Vec<Unfulfilled>,
    /// Names of the filter that no package has.
    pub unmatched: Vec<NamePattern>,
    /// Packages that were left out, with the reason.
    pub left_out: Vec<String>,
}

/// What is to be done once all files are there.
struct Plan {
    /// All that the mirror is to have, and where its files are to come from.
    items: Vec<Item>,
    left_out: Vec<String>,
}

impl Archive {
    /// Brings a mirror to the state of its publication. Costs one small request when nothing is
    /// new there.
    ///
    /// # Errors
    /// [`Error::Upstream`] with what is wrong there, or what writing may bring. Rolling is then as
    /// it was, and what was fetched is kept for the next sync.
    pub fn sync(&self, sync: &Sync<'_>) -> Result<Synced, Error> {
        let Sync { mirror, spec, link, now } = sync;
        self.check_mirror_name(mirror)?;
        let staging = Staging::new(&self.staging_dir(mirror))?;
        let before = self.look()?.state.mirrors.get(*mirror).map(|mirror| mirror.origin.clone());
        let url = link.fetch.place();
        // Another place may be behind the one before, and yet be right.
        let same_place = before.as_ref().filter(|origin| origin.url == url && origin.suite == spec.suite);
        let seen = same_place.and_then(|origin| Some(Seen { date: origin.date?, release: origin.release }));
        link.watch.step(Step::Reading);
        let publication = Publication::open(link.fetch, &spec.suite, link.trust, seen.as_ref(), *now)?;
        if seen.as_ref() == Some(&publication.seen)
            && before.as_ref().is_some_and(|origin| origin.spec == spec.digest())
        {
            staging.clear()?;
            let packages = self.mirror(mirror)?.map_or(0, |state| state.packages);
            return Ok(Synced { packages, ..Synced::default() });
        }
        let job = Job { fetch: link.fetch, staging: &staging, patience: link.patience, watch: link.watch };
        let scope = Scope {
            components: &spec.components,
            architectures: &spec.architectures,
            languages: &spec.languages,
            sources: spec.filter.sources,
        };
        let indexes = publication.indexes(&job, &scope)?;
        let offered = all_offered(&indexes)?;
        let present = present(&self.look()?.state, mirror, &spec.architectures);
        let selection = select(&spec.architectures, &offered, &spec.filter, &present);
        let origin = MirrorOrigin {
            url,
            suite: spec.suite.clone(),
            date: Some(publication.seen.date),
            release: publication.seen.release,
            spec: spec.digest(),
        };
        let mut plan = self.plan(sync, &selection, &indexes, &origin)?;
        self.fetch(&job, link.parallel, &mut plan)?;
        link.watch.step(Step::Publishing);
        let (added, removed) = self.publish_mirror(sync, origin, &staging, &mut plan)?;
        staging.clear()?;
        let packages = self.mirror(mirror)?.map_or(0, |state| state.packages);
        let reason = |one: &super::Selected<'_>| {
            ((one.offered.name.clone(), one.offered.architecture.clone()), one.reason.clone())
        };
        Ok(Synced {
            is_new: true,
            added,
            removed,
            packages,
            reasons: selection.chosen.iter().map(reason).collect(),
            unfulfilled: selection.unfulfilled,
            unmatched: selection.unmatched,
            left_out: plan.left_out,
        })
    }

    /// Takes a mirror out of rolling. Releases keep what they have of it.
    ///
    /// # Errors
    /// What writing may bring.
    pub fn drop_mirror(&self, mirror: &Component, now: Timestamp) -> Result<usize, Error> {
        Staging::new(&self.staging_dir(mirror))?.clear()?;
        let (_lock, mut inner) = self.begin_writing(now)?;
        if !inner.state.mirrors.contains_key(mirror) {
            return Ok(0);
        }
        let remove: Vec<Arc<PackageEntry>> =
            inner.state.rolling.component(mirror).into_iter().flat_map(|set| set.iter().cloned()).collect();
        let edits: Edits = remove.iter().map(|entry| (place_of(entry), None)).collect();
        let (prepared, rolling) = self.prepare_rolling(&inner.state, &edits, now)?;
        let record = Record::Mirror {
            at: now,
            mirror: mirror.clone(),
            origin: None,
            packages: Vec::new(),
            add: Vec::new(),
            remove: remove.iter().map(|entry| entry.sha256).collect(),
            rolling: rolling.record.clone(),
        };
        self.commit_rolling(&mut inner, &record, prepared, |state| {
            state.mirrored(mirror.clone(), None, now);
            state.roll(rolling, now)
        })?;
        Ok(remove.len())
    }

    fn staging_dir(&self, mirror: &Component) -> PathBuf {
        self.incoming_dir().join(format!("mirror-{mirror}"))
    }

    /// A mirror must not mix with own packages.
    fn check_mirror_name(&self, mirror: &Component) -> Result<(), Error> {
        let own = self.settings()?.components;
        if *mirror == Component::main() || *mirror == Component::debug() || own.contains(mirror) {
            return Err(UpstreamError::Name(mirror.clone()).into());
        }
        Ok(())
    }

    /// What the mirror is to have, package by package, against what the archive has.
    fn plan(
        &self,
        sync: &Sync<'_>,
        selection: &Selection<'_>,
        indexes: &Indexes,
        origin: &MirrorOrigin,
    ) -> Result<Plan, Error> {
        let translations = Translations::read(&indexes.translations);
        let provenance = Arc::new(origin.provenance());
        let source = Source { component: sync.mirror, provenance: &provenance, now: sync.now };
        let mut items: Vec<Item> = selection
            .chosen
            .iter()
            .map(|one| source.binary(one.offered, translations.of(one.offered)))
            .collect();
        let mut left_out = Vec::new();
        if sync.spec.filter.sources {
            let mut offered = Sources::new();
            for (path, text) in &indexes.sources {
                sources::read(text, path, &mut offered)?;
            }
            let wanted: BTreeSet<(String, String)> = selection
                .chosen
                .iter()
                .map(|one| (one.offered.source.clone(), one.offered.source_version.as_str().to_owned()))
                .collect();
            // One version of each source: the newest, as of all packages.
            let mut newest: BTreeMap<PackageName, Item> = BTreeMap::new();
            for key in wanted {
                let Some(found) = offered.get(&key) else {
                    left_out.push(format!("source {} {}: the publication does not have it", key.0, key.1));
                    continue;
                };
                let item = source.source(found);
                match newest.get(&found.name) {
                    Some(there) if there.entry.version >= item.entry.version => {}
                    _ => drop(newest.insert(found.name.clone(), item)),
                }
            }
            items.extend(newest.into_values());
        }
        let inner = self.look()?;
        items.retain_mut(|item| {
            let sha256 = item.entry.sha256;
            if let Some(there) = inner.state.placed(&Placed::of(&item.entry)) {
                item.known = Some(Arc::clone(there));
            } else if let Some(problem) = conflict(&inner.state, &item.entry) {
                left_out.push(problem);
                return false;
            } else if inner.state.by_digest(&sha256).is_some() {
                // The same package is in another component: its files are in the pool.
                item.wanted.clear();
            }
            true
        });
        Ok(Plan { items, left_out })
    }

    /// Brings the files that the pool lacks, and looks into each package.
    fn fetch(&self, job: &Job<'_>, parallel: usize, plan: &mut Plan) -> Result<(), Error> {
        let places: Vec<(usize, Wanted)> = plan
            .items
            .iter()
            .enumerate()
            .filter(|(_, item)| item.known.is_none())
            .flat_map(|(index, item)| item.wanted.iter().map(move |wanted| (index, wanted.clone())))
            .collect();
        let wanted: Vec<Wanted> = places.iter().map(|(_, wanted)| wanted.clone()).collect();
        let needed: BTreeSet<Digest> = wanted.iter().map(|one| one.sha256).collect();
        job.staging.keep_only(&|digest| needed.contains(digest))?;
        job.staging.check_space(&wanted)?;
        let bytes = wanted.iter().map(|one| one.size).sum();
        job.watch.step(Step::Fetching { files: wanted.len() as u64, bytes });
        let unusable: Mutex<BTreeMap<usize, String>> = Mutex::default();
        let items = &plan.items;
        job.fetch_all(&wanted, parallel, &|index, path| {
            let index = places[index].0;
            if let Err(problem) = self.look_into(&items[index], path)? {
                let mut unusable = unusable.lock().expect("nobody panics with this lock");
                unusable.insert(index, format!("{}: {problem}", items[index].entry));
            }
            Ok(())
        })?;
        let unusable = unusable.into_inner().expect("nobody panics with this lock");
        let mut index = 0;
        plan.items.retain(|_| {
            index += 1;
            !unusable.contains_key(&(index - 1))
        });
        plan.left_out.extend(unusable.into_values());
        Ok(())
    }

    /// Reads a package that came: its file list is kept, and it must be what the index says.
    fn look_into(&self, item: &Item, path: &Path) -> Result<Result<(), String>, UpstreamError> {
        if item.entry.is_source() {
            return Ok(Ok(()));
        }
        match check_deb(&item.entry, path)? {
            Ok(extract) => {
                self.publisher.sidecars.keep(&item.entry, &extract, true)?;
                Ok(Ok(()))
            }
            Err(problem) => Ok(Err(problem)),
        }
    }

    /// Puts the files into the pool and the packages into rolling. Returns how many came and went.
    fn publish_mirror(
        &self,
        sync: &Sync<'_>,
        origin: MirrorOrigin,
        staging: &Staging,
        plan: &mut Plan,
    ) -> Result<(usize, usize), Error> {
        let (_lock, mut inner) = self.begin_writing(sync.now)?;
        // Somebody may have brought packages since they were compared.
        plan.items.retain(|item| match conflict(&inner.state, &item.entry) {
            Some(problem) if item.known.is_none() => {
                plan.left_out.push(problem);
                false
            }
            _ => true,
        });
        let mut fresh = Vec::new();
        let mut desired: BTreeMap<_, Arc<PackageEntry>> = BTreeMap::new();
        for item in plan.items.drain(..) {
            let entry = match item.known {
                Some(known) => known,
                None => {
                    let entry = Arc::new(item.entry);
                    self.link_into_pool(&entry, staging)?;
                    fresh.push(Arc::clone(&entry));
                    entry
                }
            };
            desired.insert(place_of(&entry), entry);
        }
        self.flush(&fresh)?;
        let nothing = crate::set::PackageSet::default();
        let current = inner.state.rolling.component(sync.mirror).unwrap_or(&nothing);
        let mut edits = Edits::new();
        let (mut add, mut remove) = (Vec::new(), Vec::new());
        for there in current.iter() {
            if desired.get(&place_of(there)).is_none_or(|entry| entry.sha256 != there.sha256) {
                edits.insert(place_of(there), None);
                remove.push(there.sha256);
            }
        }
        for (place, entry) in &desired {
            if current.get(&entry.name, &entry.architecture).is_none_or(|there| there.sha256 != entry.sha256)
            {
                edits.insert(place.clone(), Some(Arc::clone(entry)));
                add.push(entry.sha256);
            }
        }
        let counts = (add.len(), remove.len());
        let (prepared, rolling) = self.prepare_rolling(&inner.state, &edits, sync.now)?;
        let record = Record::Mirror {
            at: sync.now,
            mirror: sync.mirror.clone(),
            origin: Some(origin.clone()),
            packages: fresh.iter().map(|entry| StoredPackage::from_entry(entry)).collect(),
            add,
            remove,
            rolling: rolling.record.clone(),
        };
        self.commit_rolling(&mut inner, &record, prepared, |state| {
            state.catalogue_all(&fresh);
            state.mirrored(sync.mirror.clone(), Some(origin), sync.now);
            state.roll(rolling, sync.now)
        })?;
        Ok(counts)
    }

    /// Gives staged files their second name in the pool. They keep the first, so that a failure
    /// from here on costs no second download.
    fn link_into_pool(&self, entry: &PackageEntry, staging: &Staging) -> Result<(), Error> {
        for (path, sha256, _) in entry.paths() {
            let staged = staging.path(&sha256);
            let path = self.public_dir().join(path);
            // Without a staged file it is in the pool already.
            if staged.is_file() {
                make_dir(path.parent().expect("a pool path has a folder"))?;
                files::link_over(&staged, &path)?;
            }
        }
        Ok(())
    }
}

/// Why a package cannot stand beside what the archive has.
fn conflict(state: &State, entry: &PackageEntry) -> Option<String> {
    let there = state.content_of(entry).filter(|there| *there != entry.sha256)?;
    Some(format!(
        "{entry}: the archive has this version with other content ({} there, {} here)",
        there.short(),
        entry.sha256.short()
    ))
}

/// All packages of the indexes.
pub(super) fn all_offered(indexes: &Indexes) -> Result<Vec<Offered<'_>>, UpstreamError> {
    let mut all = Vec::new();
    for (path, text) in &indexes.packages {
        all.extend(Offered::all(text, path)?);
    }
    Ok(all)
}

/// What rolling has besides a mirror.
fn present(state: &State, mirror: &Component, architectures: &[Architecture]) -> Present {
    let offers = |architecture: &Architecture| {
        let mut offers = Offers::new();
        for entry in state.rolling.binaries().filter(|entry| entry.component != *mirror) {
            if entry.serves(architecture) {
                offers.add(entry.name.as_str(), &entry.version, entry.relations().provides.as_deref());
            }
        }
        offers
    };
    architectures.iter().map(|architecture| (architecture.clone(), offers(architecture))).collect()
}
