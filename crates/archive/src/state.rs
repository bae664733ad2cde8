//! What the journal adds up to: all packages, rolling, the releases. Not here: files.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use jiff::Timestamp;
use volary_debian::Version;
use volary_model::{Architecture, Digest, PackageName, ReleaseName, ReleaseRef, Revision, Suite};

use crate::entry::PackageEntry;
use crate::error::{Error, RefusalReason};
use crate::record::Record;
use crate::render::Blob;
use crate::set::{Edits, Key, PackageSet, key_of};

/// Everything there is.
#[derive(Debug, Default)]
pub(crate) struct State {
    /// All packages ever included, by name and architecture, then version.
    pub(crate) catalogue: BTreeMap<Key, BTreeMap<Version, Arc<PackageEntry>>>,
    by_digest: HashMap<Digest, Arc<PackageEntry>>,
    /// The content that removed versions had: a version means one content for ever.
    removed: BTreeMap<Key, BTreeMap<Version, Digest>>,
    pub(crate) rolling: PackageSet,
    /// The digest of rolling that the last record named.
    pub(crate) rolling_digest: Option<Digest>,
    /// The plain Packages indexes of rolling as the last record named them.
    rolling_indexes: BTreeMap<Architecture, Blob>,
    /// What rolling was before, oldest first.
    history: VecDeque<Generation>,
    pub(crate) releases: BTreeMap<ReleaseName, Release>,
}

/// How many earlier states of rolling devices may hold and still update by a difference. Each
/// costs 270 bytes in the list that every device fetches when something changed; with five the
/// whole update stays below 4 kB.
const HISTORY: usize = 5;

/// An earlier state of rolling.
#[derive(Debug)]
struct Generation {
    set: PackageSet,
    indexes: BTreeMap<Architecture, Blob>,
}

/// A state that a device may hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Past<'a> {
    pub(crate) set: &'a PackageSet,
    /// Its plain Packages indexes.
    pub(crate) indexes: &'a BTreeMap<Architecture, Blob>,
}

/// A release with its revisions, at least one.
#[derive(Debug)]
pub(crate) struct Release {
    pub(crate) revisions: Vec<ReleaseRevision>,
    pub(crate) frozen_at: Option<Timestamp>,
}

/// One revision.
#[derive(Debug)]
pub(crate) struct ReleaseRevision {
    pub(crate) set: PackageSet,
    pub(crate) digest: Digest,
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
    /// The packages of a suite, and their digest if it is known already.
    pub(crate) fn suite(&self, suite: &Suite) -> Result<(&PackageSet, Option<Digest>), Error> {
        match suite {
            Suite::Rolling => Ok((&self.rolling, self.rolling_digest)),
            Suite::Release(reference) => {
                let revision = self.revision(reference)?;
                Ok((&revision.set, Some(revision.digest)))
            }
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

    /// All versions of a package, over all architectures, oldest first.
    pub(crate) fn versions(&self, name: &PackageName) -> impl Iterator<Item = &Arc<PackageEntry>> {
        let first: Key = (name.clone(), "0".parse().expect("a digit is a valid architecture"));
        self.catalogue
            .range(first..)
            .take_while(move |((own, _), _)| own == name)
            .flat_map(|(_, versions)| versions.values())
    }

    /// The package with this content.
    pub(crate) fn by_digest(&self, digest: &Digest) -> Option<&Arc<PackageEntry>> {
        self.by_digest.get(digest)
    }

    /// Whether a package may come in: `Ok(Some)` gives the entry that is there already with the
    /// same content, `Ok(None)` means that it is new.
    pub(crate) fn admit(
        &self,
        entry: &PackageEntry,
        architectures: &[Architecture],
    ) -> Result<Option<Arc<PackageEntry>>, RefusalReason> {
        if let Some(there) = self.by_digest(&entry.sha256) {
            return Ok(Some(Arc::clone(there)));
        }
        if !entry.is_all() && !architectures.contains(&entry.architecture) {
            let known: Vec<&str> = architectures.iter().map(Architecture::as_str).chain(["all"]).collect();
            return Err(RefusalReason::Architecture {
                found: entry.architecture.clone(),
                known: known.join(", "),
            });
        }
        let key = key_of(entry);
        let there = self.catalogue.get(&key).and_then(|versions| versions.get(&entry.version));
        let removed = || self.removed.get(&key).and_then(|versions| versions.get(&entry.version)).copied();
        let same = there.map(|there| there.sha256).or_else(removed);
        if let Some(there) = same.filter(|there| *there != entry.sha256) {
            return Err(RefusalReason::OtherContent {
                package: entry.to_string(),
                there,
                offered: entry.sha256,
            });
        }
        match self.rolling.get(&entry.name, &entry.architecture) {
            Some(there) if there.version > entry.version => {
                Err(RefusalReason::Backwards { package: entry.to_string(), there: there.version.clone() })
            }
            _ => Ok(None),
        }
    }

    /// Rolling after these packages came in: the newest of each package and architecture. A
    /// package that became `all` takes the place of older ones for single architectures.
    pub(crate) fn rolling_with(&self, entries: &[Arc<PackageEntry>]) -> PackageSet {
        let mut edits = Edits::new();
        for entry in entries {
            let newest = edits.get(&key_of(entry)).and_then(Option::as_ref);
            let newest = newest.or_else(|| self.rolling.get(&entry.name, &entry.architecture));
            if newest.is_none_or(|newest| newest.version < entry.version) {
                edits.insert(key_of(entry), Some(Arc::clone(entry)));
            }
        }
        for entry in entries.iter().filter(|entry| entry.is_all()) {
            for other in self.rolling.named(&entry.name) {
                if !other.is_all() && other.version < entry.version {
                    edits.entry(key_of(other)).or_insert(None);
                }
            }
        }
        self.rolling.with(&edits)
    }

    /// What rolling was before it became what it is, oldest first.
    pub(crate) fn history(&self) -> Vec<Past<'_>> {
        self.history.iter().map(|past| Past { set: &past.set, indexes: &past.indexes }).collect()
    }

    /// As `history`, for when rolling is about to change: what it is now comes last.
    pub(crate) fn history_with_current(&self) -> Vec<Past<'_>> {
        let mut history = self.history();
        if self.rolling_digest.is_some() {
            history.push(Past { set: &self.rolling, indexes: &self.rolling_indexes });
        }
        let surplus = history.len().saturating_sub(HISTORY);
        history.split_off(surplus)
    }

    /// Makes a record's change. The digest that it names is not compared here.
    ///
    /// # Errors
    /// The record does not fit what came before it.
    pub(crate) fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Include { at, provenance, packages, rolling, indexes } => {
                let provenance = Arc::new(provenance);
                let entries: Vec<Arc<PackageEntry>> = packages
                    .into_iter()
                    .map(|package| package.into_entry(&provenance, at).map(Arc::new))
                    .collect::<Result<_, _>>()
                    .map_err(|error| error.to_string())?;
                let set = self.rolling_with(&entries);
                self.included(&entries, set, rolling, indexes);
            }
            Record::Cut { at, release, set } => {
                let revision = ReleaseRevision {
                    set: self.rolling.clone(),
                    digest: set,
                    created: at,
                    asked: Vec::new(),
                };
                self.releases.insert(release, Release { revisions: vec![revision], frozen_at: None });
            }
            Record::Pick { at, release, asked, add, remove, set } => {
                let mut edits = Edits::new();
                let find = |digest: &Digest| {
                    self.by_digest
                        .get(digest)
                        .ok_or_else(|| format!("a pick names the unknown package {digest}"))
                };
                for digest in &remove {
                    edits.insert(key_of(find(digest)?), None);
                }
                for digest in &add {
                    let entry = find(digest)?;
                    edits.insert(key_of(entry), Some(Arc::clone(entry)));
                }
                let release = self.releases.get_mut(&release).ok_or("a pick names an unknown release")?;
                let picked = release.latest().set.with(&edits);
                release.revisions.push(ReleaseRevision { set: picked, digest: set, created: at, asked });
            }
            Record::Remove { packages, at: _ } => {
                for digest in &packages {
                    self.remove(digest)
                        .ok_or_else(|| format!("a removal names the unknown package {digest}"))?;
                }
            }
            Record::Freeze { at, release } => {
                let release = self.releases.get_mut(&release).ok_or("a freeze names an unknown release")?;
                release.frozen_at = Some(at);
            }
        }
        Ok(())
    }

    /// Forgets a package, but for the content of its version.
    fn remove(&mut self, digest: &Digest) -> Option<()> {
        let entry = self.by_digest.remove(digest)?;
        let key = key_of(&entry);
        let versions = self.catalogue.get_mut(&key)?;
        versions.remove(&entry.version);
        if versions.is_empty() {
            self.catalogue.remove(&key);
        }
        self.removed.entry(key).or_default().insert(entry.version.clone(), *digest);
        Some(())
    }

    /// Takes packages in, with rolling as it is after that.
    pub(crate) fn included(
        &mut self,
        entries: &[Arc<PackageEntry>],
        set: PackageSet,
        digest: Digest,
        indexes: BTreeMap<Architecture, Blob>,
    ) {
        for entry in entries {
            self.by_digest.insert(entry.sha256, Arc::clone(entry));
            let versions = self.catalogue.entry(key_of(entry)).or_default();
            versions.insert(entry.version.clone(), Arc::clone(entry));
        }
        let set = std::mem::replace(&mut self.rolling, set);
        let indexes = std::mem::replace(&mut self.rolling_indexes, indexes);
        if self.rolling_digest.replace(digest).is_some() {
            self.history.push_back(Generation { set, indexes });
        }
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
    }
}
