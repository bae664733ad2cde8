//! The archive as its users see it: create, open, include, cut, pick, freeze. Questions to it
//! are in `query`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use volary_host::{FileError, Lock};
use volary_model::{Digest, ReleaseName, ReleaseRef, Revision, Suite};

use crate::content::{Edits, place_of};
use crate::entry::{PackageEntry, Provenance};
use crate::error::Error;
use crate::files;
use crate::intake::{Candidate, Intake};
use crate::journal::Journal;
use crate::keyring::Signers;
use crate::pick::{self, Pick, PickResult};
use crate::publish::{Base, Job, PreparedSuite, Publisher, make_dir};
use crate::query::{ReleaseInfo, info};
use crate::record::{Placed, Record, StoredPackage};
use crate::rotation;
use crate::settings::{self, Settings};
use crate::state::{NextRolling, State};
use crate::upload::UploadPolicy;

/// How long an operation waits for another process that works on the archive.
const LOCK_WAIT: Duration = Duration::from_secs(120);

/// Above this many new files one flush of the file system is cheaper than one for each.
const FLUSH_EACH: usize = 8;

/// What an include did.
#[derive(Debug, Clone)]
pub struct Included {
    /// Packages that were new.
    pub added: Vec<Arc<PackageEntry>>,
    /// Packages that were there already with the same content.
    pub known: Vec<Arc<PackageEntry>>,
    /// The digest of rolling's package set after it.
    pub rolling: Digest,
}

/// An archive in a folder. One value serves many threads; several processes may have the same
/// folder open. All operations block.
#[derive(Debug)]
pub struct Archive {
    dir: PathBuf,
    pub(crate) publisher: Publisher,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    journal: Journal,
    pub(crate) state: State,
    /// Suites whose last step failed, such as on a full disk. The next writer does it again.
    unpublished: Vec<Suite>,
    /// Why the state is not what the journal says. It is right no more, and nothing of it may
    /// be shown or published.
    damage: Option<String>,
}

impl Inner {
    fn whole(&self) -> Result<(), Error> {
        self.damage.as_deref().map_or(Ok(()), |problem| Err(self.journal.damaged(problem)))
    }

    fn apply(&mut self, record: Record) -> Result<(), Error> {
        self.damage = self.state.apply(record).err();
        self.whole()
    }
}

impl Archive {
    /// Makes an archive in a folder, with a new key and an empty `rolling`.
    ///
    /// # Errors
    /// [`Error::Exists`], [`Error::Settings`], or what writing may bring.
    pub fn create(dir: &Path, settings: &Settings, now: Timestamp) -> Result<Self, Error> {
        settings::check(settings)?;
        volary_host::create_dir(dir)?;
        let lock_path = dir.join("lock");
        let lock = Lock::acquire(&lock_path, LOCK_WAIT)?;
        if dir.join("archive.json").exists() {
            return Err(Error::Exists(dir.to_owned()));
        }
        for below in ["incoming", "public/dists/rolling", "public/pool/sha256"] {
            volary_host::create_dir(&dir.join(below))?;
        }
        let keys = dir.join("keys");
        if !keys.is_dir() {
            DirBuilder::new().mode(0o700).create(&keys).map_err(FileError::at("create", &keys))?;
        }
        let public = rotation::first_key(&keys, &settings.origin, now)?;
        volary_host::write_atomic(&dir.join("public/archive.asc"), public.as_bytes(), 0o644)?;
        volary_host::write_atomic(&dir.join("journal"), Journal::heading(), 0o644)?;
        // Last, because its presence says that all is there.
        settings::write(dir, settings)?;
        drop(lock);
        Self::open_at(dir, Signers::default(), now)
    }

    /// Opens an archive, and finishes what a process that died may have left undone.
    ///
    /// # Errors
    /// [`Error::NotAnArchive`], [`Error::Damaged`], [`Error::Newer`], or what reading and
    /// publishing may bring.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::open_with(dir, Signers::default())
    }

    /// As [`Archive::open`], with the commands that sign for keys in hardware.
    ///
    /// # Errors
    /// As [`Archive::open`].
    pub fn open_with(dir: &Path, signers: Signers) -> Result<Self, Error> {
        Self::open_at(dir, signers, volary_host::now())
    }

    fn open_at(dir: &Path, signers: Signers, now: Timestamp) -> Result<Self, Error> {
        let settings = settings::read(dir)?;
        let publisher = Publisher::open(dir, signers)?;
        let journal = Journal::open(&dir.join("journal"))?;
        let inner = Inner { journal, state: State::new(settings), unpublished: Vec::new(), damage: None };
        let archive = Self { dir: dir.to_owned(), publisher, inner: Mutex::new(inner) };
        let (_lock, inner) = archive.begin()?;
        for suite in inner.state.suites() {
            archive.republish(&inner.state, &suite, now)?;
        }
        archive.finish_keys(&inner, now)?;
        archive.clear_dropped(&inner)?;
        if !archive.publisher.has_its_differences(&Suite::Rolling)? {
            archive.publish(&inner.state, &Suite::Rolling, now)?;
        }
        files::sweep(&archive.dir.join("incoming"), SystemTime::now())?;
        drop(inner);
        Ok(archive)
    }

    /// The public keys of the archive as one ASCII armored block, for apt's `Signed-By`.
    pub fn public_key(&self) -> String {
        self.publisher.keys().public_text()
    }

    /// The folder to serve: it has `dists/` and `pool/`.
    pub fn public_dir(&self) -> &Path {
        &self.publisher.public
    }

    /// What is settled for the archive.
    ///
    /// # Errors
    /// What reading the journal may bring.
    pub fn settings(&self) -> Result<Settings, Error> {
        Ok(self.look()?.state.settings.clone())
    }

    /// Changes what is settled, and publishes rolling so. Releases keep the architectures that
    /// they were cut with; the rest they get with their next publish.
    ///
    /// # Errors
    /// [`Error::Settings`], or what writing may bring.
    pub fn configure(&self, change: impl FnOnce(&mut Settings), now: Timestamp) -> Result<(), Error> {
        let (_lock, mut inner) = self.begin_writing(now)?;
        let mut settings = inner.state.settings.clone();
        change(&mut settings);
        settings::check(&settings)?;
        if settings == inner.state.settings {
            return Ok(());
        }
        self.commit(&mut inner, Record::Configure { at: now, settings })?;
        self.republish(&inner.state, &Suite::Rolling, now)
    }

    /// Takes `.deb` files, and the packages that `.changes` files name, into the pool and into
    /// rolling. All of them or none; published before it returns. Files that are there already
    /// with the same content are fine.
    ///
    /// # Errors
    /// [`Error::Refused`] with the file and the reason, or what writing may bring.
    pub fn include(
        &self,
        files: &[PathBuf],
        provenance: &Provenance,
        policy: &UploadPolicy,
        now: Timestamp,
    ) -> Result<Included, Error> {
        self.take(files, None, provenance, policy, now)
    }

    /// As [`Archive::include`], for files that are given to the archive: where it can it moves them
    /// into the pool, which costs half of what a copy does. Nobody else may be able to write to
    /// them any more, and the caller removes what is left of them.
    ///
    /// # Errors
    /// As [`Archive::include`].
    pub fn include_own(
        &self,
        files: &[PathBuf],
        provenance: &Provenance,
        policy: &UploadPolicy,
        now: Timestamp,
    ) -> Result<Included, Error> {
        let pool = self.publisher.public.join("pool");
        let own_on = fs::metadata(&pool).map_err(FileError::at("read", &pool))?.dev();
        self.take(files, Some(own_on), provenance, policy, now)
    }

    fn take(
        &self,
        files: &[PathBuf],
        own_on: Option<u64>,
        provenance: &Provenance,
        policy: &UploadPolicy,
        now: Timestamp,
    ) -> Result<Included, Error> {
        let incoming = self.incoming_dir();
        let provenance = Arc::new(provenance.clone());
        // Reading and hashing take the longest, and need no lock.
        let components = self.settings()?.components;
        let (incoming, components, provenance) = (&incoming, &components, &provenance);
        let intake = Intake { incoming, own_on, components, provenance, policy, now };
        let candidates = intake.take(files)?;
        for candidate in &candidates {
            policy.admit(&candidate.entry).map_err(Error::refused(&candidate.file))?;
        }
        let (_lock, mut inner) = self.begin_writing(now)?;
        let (new, known) = self.admit(&inner.state, candidates)?;
        let rolling = inner.state.rolling.digest();
        if new.is_empty() {
            return Ok(Included { added: Vec::new(), known, rolling });
        }
        let mut added = Vec::with_capacity(new.len());
        for candidate in new {
            added.push(self.store(&inner.state.settings, candidate)?);
        }
        self.flush(&added)?;
        let edits = inner.state.rolling_edits(&added);
        let (prepared, rolling) = self.prepare_rolling(&inner.state, &edits, now)?;
        let digest = rolling.record.content;
        let packages = added.iter().map(|entry| StoredPackage::from_entry(entry)).collect();
        let provenance = Provenance::clone(provenance);
        let record = Record::Include { at: now, provenance, packages, rolling: rolling.record.clone() };
        self.commit_rolling(&mut inner, &record, prepared, |state| {
            state.catalogue_all(&added);
            state.roll(rolling, now)
        })?;
        Ok(Included { added, known, rolling: digest })
    }

    /// Writes all of rolling after these changes but the name of its InRelease, and says what the
    /// journal must say of it.
    pub(crate) fn prepare_rolling(
        &self,
        state: &State,
        edits: &Edits,
        now: Timestamp,
    ) -> Result<(PreparedSuite, NextRolling), Error> {
        let mut next = state.next_rolling(edits);
        let job = Job {
            content: &next.content,
            listing: Some(&next.listing),
            base: Base::rolling(state),
            history: state.history_with_current(now),
            ..Job::of(state, &Suite::Rolling, now)?
        };
        let prepared = self.publisher.prepare(&job)?;
        next.record.indexes.clone_from(&prepared.indexes);
        Ok((prepared, next))
    }

    /// Makes a release from what rolling has now. Its first revision is r1.
    ///
    /// # Errors
    /// [`Error::ReleaseExists`], or what writing may bring.
    pub fn cut(&self, name: &ReleaseName, now: Timestamp) -> Result<ReleaseInfo, Error> {
        let (_lock, mut inner) = self.begin_writing(now)?;
        if inner.state.releases.contains_key(name) {
            return Err(Error::ReleaseExists(name.clone()));
        }
        if inner.state.dropped.contains_key(name) {
            return Err(Error::Dropped(name.clone()));
        }
        let suite = Suite::Release(ReleaseRef { name: name.clone(), revision: Revision::FIRST });
        let job = Job::of(&inner.state, &Suite::Rolling, now)?;
        let (donors, base) = (vec![Suite::Rolling], Base::rolling(&inner.state));
        let job = Job { suite: &suite, listing: None, base, donors, history: Vec::new(), ..job };
        let prepared = self.publisher.prepare(&job)?;
        let architectures = inner.state.settings.architectures.clone();
        let content = inner.state.rolling.digest();
        self.commit(&mut inner, Record::Cut { at: now, release: name.clone(), architectures, content })?;
        activate(&mut inner, suite, prepared)?;
        info(&inner.state, name)
    }

    /// Takes packages into a release, with what they need from rolling, as its next revision.
    /// With `dry_run` it only says what would happen.
    ///
    /// # Errors
    /// [`Error::NoRelease`], [`Error::Frozen`], [`Error::Pick`] with the dependency that would
    /// break, or what writing may bring.
    pub fn pick(
        &self,
        name: &ReleaseName,
        picks: &[Pick],
        dry_run: bool,
        now: Timestamp,
    ) -> Result<PickResult, Error> {
        let (_lock, mut inner) = self.begin_writing(now)?;
        let release = inner.state.release(name)?;
        if release.frozen_at.is_some() {
            return Err(Error::Frozen(name.clone()));
        }
        let base = &release.latest().content;
        let changes = pick::plan(&inner.state, base, &release.architectures, picks)
            .map_err(|refusal| Error::Pick { release: name.clone(), refusal })?;
        let latest = ReleaseRef { name: name.clone(), revision: release.latest_number() };
        if changes.is_empty() {
            let digest = base.digest();
            return Ok(PickResult { release: latest, digest, changes, dry_run });
        }
        let next = ReleaseRef { revision: latest.revision.next(), name: latest.name.clone() };
        let edits: Edits = changes.iter().map(|change| (change.place(), change.incoming.clone())).collect();
        let content = base.with(&edits);
        let digest = content.digest();
        let result = PickResult { release: next.clone(), digest, changes, dry_run };
        if dry_run {
            return Ok(result);
        }
        let donors = vec![Suite::Release(latest.clone()), Suite::Rolling];
        let suite = Suite::Release(next);
        let latest = Suite::Release(latest);
        let job = Job::of(&inner.state, &latest, now)?;
        let job = Job { suite: &suite, content: &content, base: Base::of(base), donors, ..job };
        let prepared = self.publisher.prepare(&job)?;
        let placed = |entry: &Arc<PackageEntry>| Placed::of(entry);
        let record = Record::Pick {
            at: now,
            release: name.clone(),
            asked: picks.iter().map(Pick::to_string).collect(),
            add: result.changes.iter().filter_map(|change| change.incoming.as_ref()).map(placed).collect(),
            remove: result.changes.iter().filter_map(|change| change.replaces.as_ref()).map(placed).collect(),
            content: digest,
        };
        self.commit(&mut inner, record)?;
        activate(&mut inner, suite, prepared)?;
        Ok(result)
    }

    /// Ends a release: it takes no more picks, for ever. One that is frozen stays so.
    ///
    /// # Errors
    /// [`Error::NoRelease`], or what writing may bring.
    pub fn freeze(&self, name: &ReleaseName, now: Timestamp) -> Result<ReleaseInfo, Error> {
        let (_lock, mut inner) = self.begin_writing(now)?;
        if inner.state.release(name)?.frozen_at.is_none() {
            self.commit(&mut inner, Record::Freeze { at: now, release: name.clone() })?;
        }
        info(&inner.state, name)
    }

    /// Takes the lock and reads what other processes did.
    pub(crate) fn begin(&self) -> Result<(Lock, MutexGuard<'_, Inner>), Error> {
        // Threads first queue here, so that they need not poll for the file.
        let mut inner = self.inner.lock().expect("nobody panics with this lock");
        let lock = Lock::acquire(&self.dir.join("lock"), LOCK_WAIT)?;
        inner.whole()?;
        self.publisher.refresh_keys()?;
        for record in inner.journal.read_more()? {
            inner.apply(record)?;
        }
        Ok((lock, inner))
    }

    /// As `begin`, and finishes what an earlier writer could not.
    pub(crate) fn begin_writing(&self, now: Timestamp) -> Result<(Lock, MutexGuard<'_, Inner>), Error> {
        let (lock, mut inner) = self.begin()?;
        self.finish_keys(&inner, now)?;
        // Rolling may also have been left by another process.
        let mut suites = std::mem::take(&mut inner.unpublished);
        suites.push(Suite::Rolling);
        for (index, suite) in suites.iter().enumerate() {
            if let Err(error) = self.republish(&inner.state, suite, now) {
                inner.unpublished = suites.split_off(index);
                return Err(error);
            }
        }
        Ok((lock, inner))
    }

    /// The state for reading; waits for other processes only if one of them changed something.
    pub(crate) fn look(&self) -> Result<MutexGuard<'_, Inner>, Error> {
        let inner = self.inner.lock().expect("nobody panics with this lock");
        inner.whole()?;
        if !inner.journal.has_more()? {
            return Ok(inner);
        }
        drop(inner);
        self.begin().map(|(_lock, inner)| inner)
    }

    /// Writes a record and makes its change.
    pub(crate) fn commit(&self, inner: &mut Inner, record: Record) -> Result<(), Error> {
        inner.journal.append(&record)?;
        inner.apply(record)
    }

    /// Writes a record that changes rolling, makes its change, which the caller has worked out
    /// already, and publishes.
    pub(crate) fn commit_rolling(
        &self,
        inner: &mut Inner,
        record: &Record,
        prepared: PreparedSuite,
        change: impl FnOnce(&mut State) -> Result<(), String>,
    ) -> Result<(), Error> {
        inner.journal.append(record)?;
        inner.damage = change(&mut inner.state).err();
        inner.whole()?;
        activate(inner, Suite::Rolling, prepared)
    }

    /// Where files are on their way in.
    pub(crate) fn incoming_dir(&self) -> PathBuf {
        self.dir.join("incoming")
    }

    /// Splits candidates into those that are new and those that are there already.
    fn admit(
        &self,
        state: &State,
        candidates: Vec<Candidate>,
    ) -> Result<(Vec<Candidate>, Vec<Arc<PackageEntry>>), Error> {
        let mut new: Vec<Candidate> = Vec::new();
        let mut places = BTreeMap::new();
        let mut known = Vec::new();
        for candidate in candidates {
            let admitted = state.admit(&candidate.entry);
            if let Some(there) = admitted.map_err(Error::refused(&candidate.file))? {
                known.push(there);
                continue;
            }
            let entry = &candidate.entry;
            match places.entry((place_of(entry), entry.version.clone())) {
                MapEntry::Vacant(place) => {
                    place.insert(entry.sha256);
                    new.push(candidate);
                }
                // The same file twice in one call.
                MapEntry::Occupied(place) if *place.get() == entry.sha256 => {}
                MapEntry::Occupied(place) => {
                    let reason = crate::RefusalReason::OtherContent {
                        package: entry.to_string(),
                        there: *place.get(),
                        offered: entry.sha256,
                    };
                    return Err(Error::refused(&candidate.file)(reason));
                }
            }
        }
        Ok((new, known))
    }

    /// Moves the files of a package into the pool. Without a record that names them they are
    /// nothing.
    fn store(&self, settings: &Settings, candidate: Candidate) -> Result<Arc<PackageEntry>, Error> {
        let entry = candidate.entry;
        for ((path, ..), file) in entry.paths().into_iter().zip(candidate.files) {
            let path = self.publisher.public.join(path);
            make_dir(path.parent().expect("a pool path has a folder"))?;
            file.place(&path)?;
        }
        self.publisher.sidecars.keep(&entry, &candidate.extract, settings.contents)?;
        Ok(Arc::new(entry))
    }

    /// Flushes the files of packages that were stored.
    pub(crate) fn flush(&self, entries: &[Arc<PackageEntry>]) -> Result<(), Error> {
        let pool = self.publisher.public.join("pool");
        if entries.len() > FLUSH_EACH {
            let folder = File::open(&pool).map_err(FileError::at("flush", &pool))?;
            let flushed = rustix::fs::syncfs(&folder);
            return Ok(flushed.map_err(|error| FileError::at("flush", &pool)(error.into()))?);
        }
        let paths = entries.iter().flat_map(|entry| entry.paths());
        for path in paths.map(|(path, ..)| self.publisher.public.join(path)) {
            let flushed = File::open(&path).and_then(|file| file.sync_data());
            flushed.map_err(FileError::at("write", &path))?;
            volary_host::sync_dir(path.parent().expect("a pool path has a folder"))?;
        }
        Ok(())
    }

    /// Publishes a suite if what is published is not what it should be.
    pub(crate) fn republish(&self, state: &State, suite: &Suite, now: Timestamp) -> Result<(), Error> {
        let content = state.suite(suite)?.digest();
        if self.publisher.is_published(&Job::of(state, suite, now)?)? {
            return Ok(());
        }
        tracing::info!(%suite, %content, "publishing a suite that was left unpublished");
        self.publish(state, suite, now)
    }

    fn publish(&self, state: &State, suite: &Suite, now: Timestamp) -> Result<(), Error> {
        self.publisher.prepare(&Job::of(state, suite, now)?)?.activate()?;
        Ok(())
    }
}

/// Does the last step of a publish, or remembers that it is due.
pub(crate) fn activate(inner: &mut Inner, suite: Suite, prepared: PreparedSuite) -> Result<(), Error> {
    prepared.activate().inspect_err(|_| inner.unpublished.push(suite))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_that_cannot_be_applied_stops_all_that_follows() {
        let dir = tempfile::tempdir().unwrap();
        let settings = Settings::new("Test", "Test", vec!["amd64".parse().unwrap()]);
        let now = Timestamp::UNIX_EPOCH;
        let archive = Archive::create(dir.path(), &settings, now).unwrap();
        let mut journal = Journal::open(&dir.path().join("journal")).unwrap();
        journal.read_more().unwrap();
        let freeze = Record::Freeze { at: now, release: "v1".parse().unwrap() };
        journal.append(&freeze).unwrap();
        for _ in 0..2 {
            let errors = [
                archive.look().map(drop).unwrap_err(),
                archive.cut(&"v2".parse().unwrap(), now).map(drop).unwrap_err(),
                archive.check(false, now).map(drop).unwrap_err(),
            ];
            for error in errors {
                assert!(error.to_string().contains("a freeze names an unknown release"), "{error}");
            }
        }
    }
}
