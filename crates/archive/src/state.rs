//! What the journal adds up to: all packages, rolling, the releases. Not here: files.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use volary_debian::Version;
use volary_model::{Architecture, Component, Digest, PackageName, ReleaseName, ReleaseRef, Revision, Suite};

use crate::content::{Content, Edits, place_of};
use crate::entry::PackageEntry;
use crate::error::{Error, RefusalReason};
use crate::lifecycle::Protection;
use crate::listing::Listing;
use crate::mirror::{Mirror, MirrorOrigin};
use crate::record::{Placed, Record, RollingRecord};
use crate::render::Blob;
use crate::settings::Settings;

/// Name, architecture and component: ordered so that all of one name stand together.
type Key = (PackageName, Architecture, Component);

/// Everything there is.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) settings: Settings,
    /// All packages ever included, by name, architecture and component, then version.
    pub(crate) catalogue: BTreeMap<Key, BTreeMap<Version, Arc<PackageEntry>>>,
    by_digest: HashMap<Digest, Arc<PackageEntry>>,
    /// The content that removed versions had: a version means one content for ever.
    removed: BTreeMap<Key, BTreeMap<Version, Digest>>,
    pub(crate) rolling: Content,
    /// In which order its Packages indexes list it.
    pub(crate) listing: Listing,
    /// True once a record named what rolling is.
    has_rolling: bool,
    /// The plain Packages indexes of rolling by their paths, as the last record named them.
    pub(crate) rolling_indexes: BTreeMap<String, Blob>,
    /// What rolling was before, oldest first.
    history: VecDeque<Generation>,
    /// How often rolling changed.
    changes: u64,
    pub(crate) releases: BTreeMap<ReleaseName, Release>,
    /// Releases that were dropped, with the time.
    pub(crate) dropped: BTreeMap<ReleaseName, Timestamp>,
    /// The last state of each mirror.
    pub(crate) mirrors: BTreeMap<Component, Mirror>,
}

/// How many earlier states of rolling are remembered, for differences from them. Each costs what
/// changed after it, and for a large index some 100 kB of intermediate hashes.
const HISTORY: usize = 64;

/// What rolling becomes.
#[derive(Debug)]
pub(crate) struct NextRolling {
    pub(crate) content: Content,
    pub(crate) listing: Listing,
    pub(crate) record: RollingRecord,
}

/// An earlier state of rolling.
#[derive(Debug)]
struct Generation {
    listing: Listing,
    indexes: BTreeMap<String, Blob>,
    /// When the next one took its place.
    until: Timestamp,
    /// How often rolling had changed before.
    number: u64,
}

/// A state that a device may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past<'a> {
    pub(crate) listing: &'a Listing,
    /// Its plain Packages indexes by their paths.
    pub(crate) indexes: &'a BTreeMap<String, Blob>,
    /// When it was replaced.
    pub(crate) until: Timestamp,
    /// Later ones have higher numbers.
    pub(crate) number: u64,
}

/// A release with its revisions, at least one.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) revisions: Vec<ReleaseRevision>,
    pub(crate) frozen_at: Option<Timestamp>,
    pub(crate) protection: Option<Protection>,
    /// Those that the archive had when it was cut. One that comes later must not change what a
    /// lock file named.
    pub(crate) architectures: Vec<Architecture>,
}

/// One revision.
#[derive(Debug)]
pub(crate) struct ReleaseRevision {
    pub(crate) content: Content,
    pub(crate) created: Timestamp,
    pub(crate) asked: Vec<String>,
}

impl Release {
    pub(crate) fn latest(&self) -> &ReleaseRevision {
        self.revisions.last().expect("a release has at least one revision")
    }

    /// The number of the latest revision.
    pub(crate) fn latest_number(&self) -> Revision {
        number(self.revisions.len() - 1)
    }
}

/// The revision at this place of a release's list.
pub(crate) fn number(index: usize) -> Revision {
    u32::try_from(index + 1).ok().and_then(Revision::new).expect("nobody makes 4 thousand million revisions")
}

impl State {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            catalogue: BTreeMap::new(),
            by_digest: HashMap::new(),
            removed: BTreeMap::new(),
            rolling: Content::default(),
            listing: Listing::default(),
            has_rolling: false,
            rolling_indexes: BTreeMap::new(),
            history: VecDeque::new(),
            changes: 0,
            releases: BTreeMap::new(),
            dropped: BTreeMap::new(),
            mirrors: BTreeMap::new(),
        }
    }

    /// The packages of a suite.
    pub(crate) fn suite(&self, suite: &Suite) -> Result<&Content, Error> {
        match suite {
            Suite::Rolling => Ok(&self.rolling),
            Suite::Release(reference) => Ok(&self.revision(reference)?.content),
        }
    }

    /// What the indexes of a suite list: its packages, and in rolling maybe versions that they replaced.
    pub(crate) fn listed(&self, suite: &Suite) -> Result<impl Iterator<Item = &Arc<PackageEntry>>, Error> {
        let (first, then) = match suite {
            Suite::Rolling => (&self.listing.base, Some(&self.listing.news)),
            Suite::Release(_) => (self.suite(suite)?, None),
        };
        Ok(first.iter().chain(then.into_iter().flat_map(Content::iter)))
    }

    /// The architectures that a suite has indexes for.
    pub(crate) fn architectures(&self, suite: &Suite) -> Result<&[Architecture], Error> {
        match suite {
            Suite::Rolling => Ok(&self.settings.architectures),
            Suite::Release(reference) => Ok(&self.release(&reference.name)?.architectures),
        }
    }

    pub(crate) fn release(&self, name: &ReleaseName) -> Result<&Release, Error> {
        self.releases.get(name).ok_or_else(|| Error::NoRelease(name.clone()))
    }

    pub(crate) fn revision(&self, reference: &ReleaseRef) -> Result<&ReleaseRevision, Error> {
        let index = reference.revision.number() as usize - 1;
        let missing = || Error::NoSuite(Suite::Release(reference.clone()));
        self.release(&reference.name)?.revisions.get(index).ok_or_else(missing)
    }

    /// All suites: rolling, then each revision of each release.
    pub(crate) fn suites(&self) -> Vec<Suite> {
        let revisions = self.releases.iter().flat_map(|(name, release)| {
            (0..release.revisions.len())
                .map(|index| Suite::Release(ReleaseRef { name: name.clone(), revision: number(index) }))
        });
        std::iter::once(Suite::Rolling).chain(revisions).collect()
    }

    /// All versions of a package, over all architectures and components, oldest first for each.
    pub(crate) fn versions(&self, name: &PackageName) -> impl Iterator<Item = &Arc<PackageEntry>> {
        self.all_of(name).map(|(entry, ..)| entry).filter(|entry| !entry.is_source())
    }

    /// The source package of this name and version.
    pub(crate) fn source(&self, name: &PackageName, version: &Version) -> Option<&Arc<PackageEntry>> {
        self.all_of(name)
            .map(|(entry, ..)| entry)
            .find(|entry| entry.is_source() && entry.version == *version)
    }

    /// True if a binary package that was built from this source package is there.
    pub(crate) fn binaries_of(&self, source: &PackageName, version: &Version) -> bool {
        let mut entries = self.catalogue.values().flat_map(BTreeMap::values);
        entries.any(|entry| !entry.is_source() && entry.source == *source && entry.source_version == *version)
    }

    /// All that has this name, with its version and architecture.
    fn all_of(&self, name: &PackageName) -> impl Iterator<Item = (&Arc<PackageEntry>, &Version, &str)> {
        let digit = "0".parse().expect("a digit is a valid architecture");
        let first: Key = (name.clone(), digit, "0".parse().expect("a digit is a valid component"));
        self.catalogue.range(first..).take_while(move |((own, ..), _)| own == name).flat_map(
            |((_, architecture, _), versions)| {
                versions.iter().map(move |(version, entry)| (entry, version, architecture.as_str()))
            },
        )
    }

    /// A package with this content.
    pub(crate) fn by_digest(&self, digest: &Digest) -> Option<&Arc<PackageEntry>> {
        self.by_digest.get(digest)
    }

    /// The package with this content in a component.
    pub(crate) fn placed(&self, placed: &Placed) -> Option<&Arc<PackageEntry>> {
        let some = self.by_digest.get(&placed.sha256)?;
        if some.component == placed.component {
            return Some(some);
        }
        let key = (some.name.clone(), some.architecture.clone(), placed.component.clone());
        self.catalogue.get(&key)?.get(&some.version).filter(|entry| entry.sha256 == placed.sha256)
    }

    /// The content that a version has or had, in any component.
    pub(crate) fn content_of(&self, entry: &PackageEntry) -> Option<Digest> {
        let there = self
            .all_of(&entry.name)
            .find(|(_, version, architecture)| {
                **version == entry.version && *architecture == entry.architecture.as_str()
            })
            .map(|(there, ..)| there.sha256);
        let removed = || {
            let versions = self.removed.get(&key_of(entry))?;
            versions.get(&entry.version).copied()
        };
        there.or_else(removed)
    }

    /// Whether a package may come in: `Ok(Some)` gives the entry that is there already with the
    /// same content, `Ok(None)` means that it is new.
    pub(crate) fn admit(&self, entry: &PackageEntry) -> Result<Option<Arc<PackageEntry>>, RefusalReason> {
        if let Some(there) = self.placed(&Placed::of(entry)) {
            return Ok(Some(Arc::clone(there)));
        }
        let architectures = &self.settings.architectures;
        if !entry.is_all() && !entry.is_source() && !architectures.contains(&entry.architecture) {
            let known: Vec<&str> = architectures.iter().map(Architecture::as_str).chain(["all"]).collect();
            return Err(RefusalReason::Architecture {
                found: entry.architecture.clone(),
                known: known.join(", "),
            });
        }
        if let Some(there) = self.content_of(entry).filter(|there| *there != entry.sha256) {
            return Err(RefusalReason::OtherContent {
                package: entry.to_string(),
                there,
                offered: entry.sha256,
            });
        }
        match self.rolling.at(entry) {
            Some(there) if there.version > entry.version => {
                Err(RefusalReason::Backwards { package: entry.to_string(), there: there.version.clone() })
            }
            _ => Ok(None),
        }
    }

    /// How rolling changes when these packages come in: it has the newest of each package and
    /// architecture. A package that became `all` takes the place of older ones for single architectures.
    pub(crate) fn rolling_edits(&self, entries: &[Arc<PackageEntry>]) -> Edits {
        let mut edits = Edits::new();
        for entry in entries {
            let newest = edits.get(&place_of(entry)).and_then(Option::as_ref);
            let newest = newest.or_else(|| self.rolling.at(entry));
            if newest.is_none_or(|newest| newest.version < entry.version) {
                edits.insert(place_of(entry), Some(Arc::clone(entry)));
            }
        }
        for entry in entries.iter().filter(|entry| entry.is_all()) {
            for other in self.rolling.named(&entry.name).filter(|other| other.component == entry.component) {
                if !other.is_all() && other.version < entry.version {
                    edits.entry(place_of(other)).or_insert(None);
                }
            }
        }
        edits
    }

    /// Rolling after these changes, without what its indexes will be.
    pub(crate) fn next_rolling(&self, edits: &Edits) -> NextRolling {
        let at_end = self.listing.takes(edits, self.settings.news_at_end_from);
        let (content, listing) = self.changed(edits, at_end);
        let record = RollingRecord { content: content.digest(), indexes: BTreeMap::new(), at_end };
        NextRolling { content, listing, record }
    }

    fn changed(&self, edits: &Edits, at_end: bool) -> (Content, Listing) {
        let content = self.rolling.with(edits);
        let listing = if at_end { self.listing.with_news(edits) } else { Listing::in_order(content.clone()) };
        (content, listing)
    }

    /// Rolling after these changes, as a record says.
    fn recorded(&self, edits: &Edits, record: RollingRecord) -> NextRolling {
        let (content, listing) = self.changed(edits, record.at_end);
        NextRolling { content, listing, record }
    }

    /// What rolling was before it became what it is, oldest first.
    pub(crate) fn history(&self) -> Vec<Past<'_>> {
        fn past(past: &Generation) -> Past<'_> {
            let Generation { listing, indexes, until, number } = past;
            Past { listing, indexes, until: *until, number: *number }
        }
        self.history.iter().map(past).collect()
    }

    /// As `history`, for when rolling is about to change: what it is now comes last.
    pub(crate) fn history_with_current(&self, now: Timestamp) -> Vec<Past<'_>> {
        let mut history = self.history();
        if self.has_rolling {
            history.push(Past {
                listing: &self.listing,
                indexes: &self.rolling_indexes,
                until: now,
                number: self.changes,
            });
        }
        let surplus = history.len().saturating_sub(HISTORY);
        history.split_off(surplus)
    }

    /// Makes a record's change.
    ///
    /// # Errors
    /// The record does not fit what came before it.
    pub(crate) fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Include { at, provenance, packages, rolling } => {
                let provenance = Arc::new(provenance);
                let entries = packages
                    .into_iter()
                    .map(|package| package.into_entry(&provenance, at).map(Arc::new))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| error.to_string())?;
                let next = self.recorded(&self.rolling_edits(&entries), rolling);
                self.catalogue_all(&entries);
                self.roll(next, at)
            }
            Record::Mirror { at, mirror, origin, packages, add, remove, rolling } => {
                let provenance = Arc::new(origin.as_ref().map(MirrorOrigin::provenance).unwrap_or_default());
                let entries = packages
                    .into_iter()
                    .map(|package| package.into_entry(&provenance, at).map(Arc::new))
                    .collect::<Result<Vec<_>, _>>()
                    .map_err(|error| error.to_string())?;
                self.catalogue_all(&entries);
                let next = self.recorded(&self.edits(&mirror, &add, &remove)?, rolling);
                self.mirrored(mirror, origin, at);
                self.roll(next, at)
            }
            Record::Cut { at, release, architectures, content } => {
                let revision =
                    ReleaseRevision { content: self.rolling.clone(), created: at, asked: Vec::new() };
                same(revision.content.digest(), content)?;
                let revisions = vec![revision];
                self.releases
                    .insert(release, Release { revisions, frozen_at: None, protection: None, architectures });
                Ok(())
            }
            Record::Pick { at, release, asked, add, remove, content } => {
                let mut edits = Edits::new();
                for placed in &remove {
                    edits.insert(place_of(self.known(placed)?), None);
                }
                for placed in &add {
                    let entry = self.known(placed)?;
                    edits.insert(place_of(entry), Some(Arc::clone(entry)));
                }
                let release = self.releases.get_mut(&release).ok_or("a pick names an unknown release")?;
                let picked = release.latest().content.with(&edits);
                same(picked.digest(), content)?;
                release.revisions.push(ReleaseRevision { content: picked, created: at, asked });
                Ok(())
            }
            Record::Remove { packages, at: _ } => packages.iter().try_for_each(|placed| self.remove(placed)),
            Record::Protect { release, protection } => {
                let release =
                    self.releases.get_mut(&release).ok_or("a protection names an unknown release")?;
                release.protection = Some(protection);
                Ok(())
            }
            Record::Unprotect { release, at: _ } => {
                let release =
                    self.releases.get_mut(&release).ok_or("a protection names an unknown release")?;
                release.protection = None;
                Ok(())
            }
            Record::Drop { at, release } => {
                self.releases.remove(&release).ok_or("a drop names an unknown release")?;
                self.dropped.insert(release, at);
                Ok(())
            }
            Record::Freeze { at, release } => {
                let release = self.releases.get_mut(&release).ok_or("a freeze names an unknown release")?;
                release.frozen_at = Some(at);
                Ok(())
            }
            Record::Configure { settings, at: _ } => {
                self.settings = settings;
                Ok(())
            }
        }
    }

    fn known(&self, placed: &Placed) -> Result<&Arc<PackageEntry>, String> {
        self.placed(placed).ok_or_else(|| format!("a record names the unknown package {}", placed.sha256))
    }

    /// Notes where a mirror's state came from, or that there is no such mirror any more.
    pub(crate) fn mirrored(&mut self, mirror: Component, origin: Option<MirrorOrigin>, at: Timestamp) {
        match origin {
            Some(origin) => self.mirrors.insert(mirror, Mirror { origin, at }),
            None => self.mirrors.remove(&mirror),
        };
    }

    /// The edits that bring and take packages of a mirror.
    pub(crate) fn edits(
        &self,
        mirror: &Component,
        add: &[Digest],
        remove: &[Digest],
    ) -> Result<Edits, String> {
        let find = |sha256: &Digest| self.known(&Placed { component: mirror.clone(), sha256: *sha256 });
        let mut edits = Edits::new();
        for sha256 in remove {
            edits.insert(place_of(find(sha256)?), None);
        }
        for sha256 in add {
            let entry = find(sha256)?;
            edits.insert(place_of(entry), Some(Arc::clone(entry)));
        }
        Ok(edits)
    }

    /// Forgets a package, but for the content of its version.
    fn remove(&mut self, placed: &Placed) -> Result<(), String> {
        let entry = Arc::clone(self.known(placed)?);
        let key = key_of(&entry);
        let versions = self.catalogue.get_mut(&key).ok_or("a removal names a package twice")?;
        versions.remove(&entry.version);
        if versions.is_empty() {
            self.catalogue.remove(&key);
        }
        self.removed.entry(key).or_default().insert(entry.version.clone(), placed.sha256);
        let other = self
            .all_of(&entry.name)
            .map(|(other, ..)| other)
            .find(|other| other.sha256 == placed.sha256)
            .map(Arc::clone);
        match other {
            // The same file in another component.
            Some(other) => self.by_digest.insert(placed.sha256, other),
            None => self.by_digest.remove(&placed.sha256),
        };
        Ok(())
    }

    /// Takes packages into the catalogue; in which suites they are is another matter.
    pub(crate) fn catalogue_all(&mut self, entries: &[Arc<PackageEntry>]) {
        for entry in entries {
            self.by_digest.entry(entry.sha256).or_insert_with(|| Arc::clone(entry));
            let versions = self.catalogue.entry(key_of(entry)).or_default();
            versions.insert(entry.version.clone(), Arc::clone(entry));
        }
    }

    /// Lets rolling become what a record says.
    pub(crate) fn roll(&mut self, next: NextRolling, at: Timestamp) -> Result<(), String> {
        let NextRolling { content, listing, record } = next;
        same(content.digest(), record.content)?;
        self.rolling = content;
        let listing = std::mem::replace(&mut self.listing, listing);
        let indexes = std::mem::replace(&mut self.rolling_indexes, record.indexes);
        if std::mem::replace(&mut self.has_rolling, true) {
            self.history.push_back(Generation { listing, indexes, until: at, number: self.changes });
            self.changes += 1;
        }
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        Ok(())
    }
}

fn key_of(entry: &PackageEntry) -> Key {
    (entry.name.clone(), entry.architecture.clone(), entry.component.clone())
}

/// Proves that reading the journal again leads to what was published.
fn same(found: Digest, expected: Digest) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    Err(format!("a record leads to the packages {found} and says {expected}"))
}
