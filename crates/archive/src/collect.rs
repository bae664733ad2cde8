//! Garbage collection: removes packages that nothing names any more, and says why the others
//! stay.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use volary_host::FileError;
use volary_model::{Digest, PackageName, Suite};

use crate::archive::Archive;
use crate::entry::{PackageEntry, source_folder};
use crate::error::Error;
use crate::files;
use crate::record::{Placed, Record};
use crate::state::State;

/// What garbage collection spares, besides what is in a suite.
#[derive(Debug, Clone)]
pub struct KeepPolicy {
    /// How many of the newest versions of each package and architecture stay, to be picked.
    pub versions: usize,
    /// How long a version stays after a newer one came: devices may be about to fetch it.
    pub age: SignedDuration,
    /// Packages that something outside still names, and who: `device gate-7 has it`.
    pub named: BTreeMap<Digest, String>,
}

impl Default for KeepPolicy {
    /// Five versions, thirty days.
    fn default() -> Self {
        Self { versions: 5, age: SignedDuration::from_hours(30 * 24), named: BTreeMap::new() }
    }
}

/// Why a package stays.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeepReason {
    /// It is in a suite.
    InSuite(Suite),
    /// Something outside of the archive names it; as the policy says it.
    Named(String),
    /// It is one of the newest versions.
    Newest {
        /// 1 for the newest.
        place: usize,
    },
    /// A package that stays was built from it.
    BuiltFrom,
    /// A newer version came only lately.
    Recent {
        /// When the newer one came.
        since: Timestamp,
    },
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InSuite(suite) => write!(f, "it is in {suite}"),
            Self::Named(by) => f.write_str(by),
            Self::Newest { place: 1 } => f.write_str("it is the newest version"),
            Self::Newest { place } => write!(f, "it is number {place} of the newest versions"),
            Self::BuiltFrom => f.write_str("a package that stays was built from it"),
            Self::Recent { since } => write!(f, "a newer version came only at {since:.0}"),
        }
    }
}

/// A package, and why it stays; without a reason it would go.
pub type Explained = (Arc<PackageEntry>, BTreeSet<KeepReason>);

/// What a collection did, or would do.
#[derive(Debug, Clone, Default)]
pub struct CollectReport {
    /// Packages that went.
    pub removed: Vec<Arc<PackageEntry>>,
    /// Files in the pool that no record names: left by an include that was cut off.
    pub strays: usize,
    /// Bytes freed.
    pub bytes: u64,
    /// How many packages stay.
    pub kept: usize,
}

/// A pool file that no record names stays this long: its include may be about to write one.
const STRAY_AGE: Duration = Duration::from_secs(24 * 3600);

/// For each package of a state why it stays; none for those that nothing keeps.
fn reasons(state: &State, policy: &KeepPolicy, now: Timestamp) -> BTreeMap<Placed, BTreeSet<KeepReason>> {
    let mut reasons: BTreeMap<Placed, BTreeSet<KeepReason>> = BTreeMap::new();
    for suite in state.suites() {
        for entry in state.listed(&suite).expect("a suite of the state is there") {
            reasons.entry(Placed::of(entry)).or_default().insert(KeepReason::InSuite(suite.clone()));
        }
    }
    for versions in state.catalogue.values() {
        let mut newer: Option<&Arc<PackageEntry>> = None;
        for (index, entry) in versions.values().rev().enumerate() {
            let mut keep = |reason| reasons.entry(Placed::of(entry)).or_default().insert(reason);
            if index < policy.versions {
                keep(KeepReason::Newest { place: index + 1 });
            }
            if let Some(by) = policy.named.get(&entry.sha256) {
                keep(KeepReason::Named(by.clone()));
            }
            let since = newer.map(|newer| newer.included_at);
            if let Some(since) = since.filter(|since| now.duration_since(*since) < policy.age) {
                keep(KeepReason::Recent { since });
            }
            newer = Some(entry);
        }
    }
    for source in built_from(state, &reasons) {
        reasons.entry(source).or_default().insert(KeepReason::BuiltFrom);
    }
    reasons
}

/// The source packages of the packages that stay.
fn built_from(state: &State, stay: &BTreeMap<Placed, BTreeSet<KeepReason>>) -> Vec<Placed> {
    let entries = stay.keys().filter_map(|placed| state.placed(placed));
    let binaries = entries.filter(|entry| !entry.is_source());
    let sources = binaries.filter_map(|entry| state.source(&entry.source, &entry.source_version));
    sources.map(|source| Placed::of(source)).collect()
}

impl Archive {
    /// Why the versions of a package stay in the archive, in the order of [`Archive::versions`]; one
    /// without a reason would go.
    ///
    /// # Errors
    /// What reading the journal may bring.
    pub fn why(
        &self,
        name: &PackageName,
        policy: &KeepPolicy,
        now: Timestamp,
    ) -> Result<Vec<Explained>, Error> {
        let inner = self.look()?;
        let mut all = reasons(&inner.state, policy, now);
        let mut of = |entry: &Arc<PackageEntry>| all.remove(&Placed::of(entry)).unwrap_or_default();
        Ok(inner.state.versions(name).map(|entry| (Arc::clone(entry), of(entry))).collect())
    }

    /// Removes the packages that nothing keeps, and what includes that were cut off have left in
    /// the pool. With `dry_run` it only says what would go.
    ///
    /// # Errors
    /// What writing may bring.
    pub fn collect(
        &self,
        policy: &KeepPolicy,
        dry_run: bool,
        now: Timestamp,
    ) -> Result<CollectReport, Error> {
        let (_lock, mut inner) = self.begin_writing(now)?;
        let keep = reasons(&inner.state, policy, now);
        let entries = inner.state.catalogue.values().flat_map(BTreeMap::values);
        let (kept, removed): (Vec<_>, Vec<_>) =
            entries.cloned().partition(|entry| keep.contains_key(&Placed::of(entry)));
        let mut report = CollectReport { kept: kept.len(), ..CollectReport::default() };
        let files = removed.iter().flat_map(|entry| entry.paths());
        report.bytes = files.map(|(_, _, size)| size).sum();
        if !dry_run && !removed.is_empty() {
            let packages = removed.iter().map(|entry| Placed::of(entry)).collect();
            // The record first: a file without one is a stray, a record without a file is a loss.
            self.commit(&mut inner, Record::Remove { at: now, packages })?;
            for entry in &removed {
                self.remove_files(&inner.state, entry)?;
            }
        }
        report.removed = removed;
        self.collect_strays(&inner.state, dry_run, &mut report)?;
        Ok(report)
    }

    fn collect_strays(&self, state: &State, dry_run: bool, report: &mut CollectReport) -> Result<(), Error> {
        let now = SystemTime::now();
        self.collect_stray_sources(state, dry_run, now, report)?;
        let pool = self.public_dir().join("pool/sha256");
        for folder in fs::read_dir(&pool).map_err(FileError::at("list", &pool))? {
            let folder = folder.map_err(FileError::at("list", &pool))?.path();
            for (name, modified) in files::list(&folder)? {
                let digest = name.strip_suffix(".deb").and_then(|hex| Digest::from_hex(hex).ok());
                let known = digest.is_some_and(|digest| state.by_digest(&digest).is_some());
                let old = now.duration_since(modified).is_ok_and(|age| age > STRAY_AGE);
                if known || !old {
                    continue;
                }
                let path = folder.join(name);
                report.strays += 1;
                report.bytes += fs::metadata(&path).map_or(0, |meta| meta.len());
                if !dry_run {
                    volary_host::remove_if_exists(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Removes the files of a package that the state forgot.
    fn remove_files(&self, state: &State, entry: &PackageEntry) -> Result<(), Error> {
        // The same file may stand in another component.
        if state.by_digest(&entry.sha256).is_some() {
            return Ok(());
        }
        for (path, ..) in entry.paths() {
            volary_host::remove_if_exists(&self.public_dir().join(path))?;
        }
        if entry.is_source() {
            let folder = self.public_dir().join(source_folder(&entry.sha256));
            return match fs::remove_dir(&folder) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(FileError::at("remove", &folder)(error).into())
                }
                _ => Ok(()),
            };
        }
        let others = state.binaries_of(&entry.source, &entry.source_version);
        Ok(self.publisher.sidecars.forget(entry, !others)?)
    }

    /// Removes folders of source packages that no record names.
    fn collect_stray_sources(
        &self,
        state: &State,
        dry_run: bool,
        now: SystemTime,
        report: &mut CollectReport,
    ) -> Result<(), Error> {
        let pool = self.public_dir().join("pool/source");
        for folder in files::folders(&pool)? {
            for (source, modified) in files::folders(&folder)?.into_iter().filter_map(files::with_time) {
                let name = source.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let known = Digest::from_hex(&name).is_ok_and(|dsc| state.by_digest(&dsc).is_some());
                if known || now.duration_since(modified).is_ok_and(|age| age <= STRAY_AGE) {
                    continue;
                }
                report.strays += 1;
                for (file, _) in files::list(&source)? {
                    report.bytes += fs::metadata(source.join(file)).map_or(0, |meta| meta.len());
                }
                if !dry_run {
                    fs::remove_dir_all(&source).map_err(FileError::at("remove", &source))?;
                }
            }
        }
        Ok(())
    }
}
