//! One export, from the look at what is there to the removal of what nothing names.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use volary_debian::release::Release;
use volary_host::Lock;
use volary_model::{Digest, Suite};

use crate::archive::Archive;
use crate::export::edition::Edition;
use crate::export::names::{self, Named};
use crate::export::note::{self, Note};
use crate::export::plan::{self, Object};
use crate::export::target::{Content, Inventory, Kind, Target};
use crate::export::{ExportError, ExportEvent, ExportOptions, ExportReport, Run, SuiteChoice};
use crate::render::Blob;

/// How many objects are on their way at once: enough that a distant bucket is not waited for,
/// few enough for one connection pool and little memory.
const WORKERS: usize = 8;

/// How often an `InRelease` is put again because its time of modification did not rise.
const STEPS: usize = 5;

/// How long is waited for another export to the same target. A program that was just started
/// holds a lock for a moment that its parent has given back.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// The key of the archive's public key.
pub(crate) const PUBLIC_KEY: &str = "archive.asc";

/// Suites that clients do not see as they should, and the state in which they see them.
type Changed = BTreeMap<String, Option<Release>>;

/// All that is to be in the target.
pub(crate) struct Wanted {
    pub(crate) editions: Vec<Edition>,
    pub(crate) named: Vec<Named>,
}

impl Archive {
    /// Brings suites into a target, and removes what has been unnamed there for too long. Several
    /// archives cannot share a target; it must be empty at first.
    ///
    /// # Errors
    /// [`ExportError`]; clients then see what they saw before, and the next run goes on.
    pub fn export(
        &self,
        target: &dyn Target,
        choices: &[SuiteChoice],
        options: &ExportOptions,
        now: Timestamp,
        on_event: &(dyn Fn(ExportEvent<'_>) + Sync),
    ) -> Result<ExportReport, ExportError> {
        let run = Run { target, options, now, on_event };
        let _lock = self.lock_export(target)?;
        let suites = self.chosen(choices)?;
        if !options.dry_run {
            self.pack(&suites, now)?;
        }
        let editions = self.editions(&suites, options)?;
        let (note, inventory) = run.begin(&self.export_name()?)?;
        let mut report = ExportReport { suites, dry_run: options.dry_run, ..ExportReport::default() };
        let changed = run.changed(&editions)?;
        let names = report.suites.iter().zip(&editions).filter(|(_, e)| changed.contains_key(&e.suite));
        report.changed = names.map(|(suite, _)| suite.clone()).collect();
        let key_is_there = target.read(PUBLIC_KEY)?.is_some_and(|key| key == self.public_key().as_bytes());
        let over = note.unnamed.values().any(|since| plan::is_over(*since, options.grace, now));
        let settled = changed.is_empty() && key_is_there && !note.unfinished && !over;
        if settled && !options.thorough && options.again.is_empty() {
            report.waiting = note.unnamed.len();
            return Ok(report);
        }
        let inventory = match inventory {
            Some(inventory) => inventory,
            None => target.list()?,
        };
        let named: Result<Vec<Named>, ExportError> =
            editions.iter().map(|edition| self.names(edition)).collect();
        let wanted = Wanted { editions, named: named? };
        self.bring(&run, &wanted, &changed, note, inventory, &mut report)?;
        Ok(report)
    }

    /// A text that changes with what an export of these suites has to bring.
    ///
    /// # Errors
    /// That a suite is not there, or cannot be read.
    pub fn export_state(&self, choices: &[SuiteChoice]) -> Result<Digest, ExportError> {
        let mut hash = Sha256::new();
        hash.update(self.public_key());
        for suite in self.chosen(choices)? {
            hash.update(suite.to_string());
            hash.update(volary_host::read(&self.publisher.suite_dir(&suite).join("InRelease"))?);
        }
        Ok(Digest::from_bytes(hash.finalize().into()))
    }

    /// One export to a target at a time.
    fn lock_export(&self, target: &dyn Target) -> Result<Lock, ExportError> {
        let dir = self.public_dir().parent().expect("what is served lies in the archive").join("exports");
        volary_host::create_dir(&dir)?;
        let name = Blob::of(target.name().as_bytes()).sha256.hex();
        Lock::acquire(&dir.join(format!("{}.lock", &name[..16])), LOCK_WAIT)
            .map_err(|source| ExportError::Busy { target: target.name(), source })
    }

    /// The archive as the note of an export names it.
    pub(crate) fn export_name(&self) -> Result<String, ExportError> {
        let settings = self.settings()?;
        Ok(format!("{} {}", settings.origin, settings.label))
    }

    fn editions(&self, suites: &[Suite], options: &ExportOptions) -> Result<Vec<Edition>, ExportError> {
        let edition = |suite: &Suite| {
            let path = self.publisher.suite_dir(suite).join("InRelease");
            Edition::new(&suite.to_string(), volary_host::read_to_string(&path)?, options)
        };
        suites.iter().map(edition).collect()
    }

    fn names(&self, edition: &Edition) -> Result<Named, ExportError> {
        names::of_suite(&edition.suite, &edition.release, &|key| self.served(key))
    }

    /// A file that is served; `None` if it is not there.
    fn served(&self, key: &str) -> Result<Option<Vec<u8>>, ExportError> {
        match volary_host::read(&self.public_dir().join(key)) {
            Err(error) if error.is_not_found() => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// The changelogs that the archive has of what suites name, as far as they are wanted: that is
    /// asked for each with its size, before it is read.
    pub(crate) fn changelogs(
        &self,
        named: &[Named],
        wanted: impl Fn(&str, u64) -> bool,
    ) -> Result<Vec<Object>, ExportError> {
        let keys: BTreeSet<&String> = named.iter().flat_map(|named| &named.changelogs).collect();
        let mut found = Vec::new();
        for key in keys {
            let path = self.public_dir().join(key);
            let Ok(size) = std::fs::metadata(&path).map(|meta| meta.len()) else { continue };
            if wanted(key, size) {
                let sha256 = crate::check::hash(&path).map_err(|error| ExportError::damaged(key, &error))?;
                found.push(Object { key: key.clone(), size, sha256, kind: Kind::Named });
            }
        }
        Ok(found)
    }

    /// Puts what is missing, then what names it, then removes what nothing names.
    fn bring(
        &self,
        run: &Run<'_>,
        wanted: &Wanted,
        changed: &Changed,
        mut note: Note,
        mut inventory: Inventory,
        report: &mut ExportReport,
    ) -> Result<(), ExportError> {
        let again = &run.options.again;
        let objects = wanted.named.iter().flat_map(|named| &named.objects);
        let changelogs = self.changelogs(&wanted.named, |key, size| {
            inventory.get(key) != Some(&size) || again.contains(key)
        })?;
        let missing = plan::missing(objects.chain(&changelogs), &inventory, again);
        let is_right = |edition: &Edition, key: &str, object: &Object| {
            let there = inventory.get(key) == Some(&object.size) && !again.contains(key);
            // After a run that was cut off nobody knows which of the second names are right.
            there && !note.unfinished && is_as_before(edition, changed, key, object)
        };
        let copies = wanted.editions.iter().zip(&wanted.named).flat_map(|(edition, named)| {
            named.copies.iter().filter(move |(key, object)| !is_right(edition, key, object))
        });
        let copies: Vec<&(String, Object)> = copies.collect();
        let sizes =
            missing.iter().map(|object| object.size).chain(copies.iter().map(|(_, object)| object.size));
        report.put = missing.len() + copies.len();
        report.bytes = sizes.sum();
        (run.on_event)(ExportEvent::Planned { objects: report.put, bytes: report.bytes });
        if !run.options.dry_run {
            // The note first: a run that is cut off must be seen, and the place be known as ours.
            note.unfinished = true;
            note.write(run.target)?;
            self.put_all(run, &missing, &copies)?;
            run.target.flush()?;
            run.put_checked(PUBLIC_KEY, self.public_key().as_bytes(), Kind::Release)?;
            for edition in wanted.editions.iter().filter(|edition| changed.contains_key(&edition.suite)) {
                run.publish(edition)?;
            }
            inventory.extend(copies.iter().map(|(key, object)| (key.clone(), object.size)));
            inventory.extend(missing.iter().map(|object| (object.key.clone(), object.size)));
        }
        self.remove(run, wanted, &mut note, &inventory, report)?;
        if run.options.dry_run {
            return Ok(());
        }
        note.unfinished = false;
        note.write(run.target)
    }

    fn put_all(
        &self,
        run: &Run<'_>,
        missing: &[&Object],
        copies: &[&(String, Object)],
    ) -> Result<(), ExportError> {
        let packages: Vec<_> = missing.iter().filter(|object| object.kind == Kind::Package).collect();
        let indexes: Vec<_> = missing.iter().filter(|object| object.kind != Kind::Package).collect();
        in_parallel(&packages, |object| self.put(run, &object.key, object, object.kind))?;
        in_parallel(&indexes, |object| self.put(run, &object.key, object, object.kind))?;
        in_parallel(copies, |(key, object)| self.put(run, key, object, Kind::Named))
    }

    /// Puts a served file under a key, and sees that it arrived.
    fn put(&self, run: &Run<'_>, key: &str, object: &Object, kind: Kind) -> Result<(), ExportError> {
        let path = self.whole_file(object)?;
        run.target.put(key, Content::File(&path), kind)?;
        let there = run.target.stat(key)?.map(|stat| stat.size);
        if there != Some(object.size) {
            let problem = there.map_or("it is missing".to_owned(), |size| format!("it has {size} bytes"));
            return Err(run.not_taken(key, problem));
        }
        // What is small enough to be looked at is looked at; the pool is left to `verify`, and to
        // the checksum that a bucket compares while it takes an object.
        if kind != Kind::Package && run.target.digest(key)? != Some(object.sha256) {
            return Err(run.not_taken(key, "it has another content".to_owned()));
        }
        (run.on_event)(ExportEvent::Put { key, size: object.size });
        Ok(())
    }

    /// The path of a served file, which has its hash now.
    fn whole_file(&self, object: &Object) -> Result<PathBuf, ExportError> {
        let path = self.public_dir().join(&object.key);
        let found = crate::check::hash(&path).map_err(|error| ExportError::damaged(&object.key, &error))?;
        if found == object.sha256 {
            return Ok(path);
        }
        Err(ExportError::damaged(&object.key, "it does not have its hash"))
    }

    fn remove(
        &self,
        run: &Run<'_>,
        wanted: &Wanted,
        note: &mut Note,
        inventory: &Inventory,
        report: &mut ExportReport,
    ) -> Result<(), ExportError> {
        let mut named = BTreeSet::from([note::KEY.to_owned(), PUBLIC_KEY.to_owned()]);
        for (edition, names) in wanted.editions.iter().zip(&wanted.named) {
            named.extend(edition.files.iter().map(|(name, _)| edition.key(name)));
            name_all(names, &mut named);
        }
        if let Err(error) = self.name_others(run, wanted, note, inventory, &mut named) {
            // A suite that cannot be read names nobody knows what.
            report.kept_because = Some(error.to_string());
            return Ok(());
        }
        let sweep = plan::sweep(inventory, &named, &note.unnamed, run.options.grace, run.now);
        report.waiting = sweep.unnamed.len();
        if !run.options.dry_run {
            for key in &sweep.remove {
                run.target.remove(key)?;
                (run.on_event)(ExportEvent::Removed(key));
            }
        }
        report.removed = sweep.remove;
        note.unnamed = sweep.unnamed;
        Ok(())
    }

    /// Adds what the suites name that are in the target and were not asked for.
    fn name_others(
        &self,
        run: &Run<'_>,
        wanted: &Wanted,
        note: &Note,
        inventory: &Inventory,
        named: &mut BTreeSet<String>,
    ) -> Result<(), ExportError> {
        for (key, suite) in inventory.keys().filter_map(|key| Some((key, plan::suite_of(key)?))) {
            if wanted.editions.iter().any(|edition| edition.suite == suite) {
                continue;
            }
            if run.options.only {
                // It is on its way out. What it names stays as long as itself.
                let since = note.unnamed.get(key).copied().unwrap_or(run.now);
                if plan::is_over(since, run.options.grace, run.now) {
                    continue;
                }
            } else {
                let also = ["InRelease", "Release", "Release.gpg"];
                named.extend(also.map(|name| format!("dists/{suite}/{name}")));
            }
            let (_, names) = run.names_there(suite)?;
            name_all(&names, named);
        }
        Ok(())
    }
}

/// Whether the state of the suite that is in the target listed the same index under this name.
fn is_as_before(edition: &Edition, changed: &Changed, key: &str, object: &Object) -> bool {
    let Some(old) = changed.get(&edition.suite) else { return true };
    let path = key.strip_prefix(&edition.key("")).unwrap_or(key);
    let listed = old.as_ref().and_then(|old| old.files.get(path));
    listed.is_some_and(|file| file.sha256 == object.sha256.hex())
}

fn name_all(names: &Named, named: &mut BTreeSet<String>) {
    named.extend(names.objects.iter().map(|object| object.key.clone()));
    named.extend(names.copies.iter().map(|(key, _)| key.clone()));
    named.extend(names.changelogs.iter().cloned());
}

impl Run<'_> {
    /// The note of the target, and what is there if it was looked at.
    fn begin(&self, archive: &str) -> Result<(Note, Option<Inventory>), ExportError> {
        if let Some(note) = Note::read(self.target, archive)? {
            return Ok((note, None));
        }
        let inventory = self.target.list()?;
        match inventory.keys().next() {
            None => Ok((Note::new(archive), Some(inventory))),
            Some(found) => Err(ExportError::Foreign { target: self.target.name(), found: found.clone() }),
        }
    }

    /// The suites that the target has not, or in another state, with what is there of them.
    fn changed(&self, editions: &[Edition]) -> Result<Changed, ExportError> {
        let mut changed = Changed::new();
        for edition in editions {
            let mut same = true;
            let mut old = None;
            for (name, content) in &edition.files {
                let there = self.target.read(&edition.key(name))?;
                same &= there.as_ref() == Some(content);
                old = there;
            }
            if !same {
                let old = old.and_then(|old| Release::parse(std::str::from_utf8(&old).ok()?).ok());
                changed.insert(edition.suite.clone(), old);
            }
        }
        Ok(changed)
    }

    /// What a suite of the target names, as the target has it.
    pub(crate) fn names_there(&self, suite: &str) -> Result<(String, Named), ExportError> {
        let key = format!("dists/{suite}/InRelease");
        let damaged = |problem: &dyn std::fmt::Display| ExportError::NotTaken {
            key: key.clone(),
            target: self.target.name(),
            problem: problem.to_string(),
        };
        let bytes = self.target.read(&key)?.ok_or_else(|| damaged(&"it is missing"))?;
        let text = String::from_utf8(bytes).map_err(|error| damaged(&error))?;
        let release = Release::parse(&text).map_err(|error| damaged(&error))?;
        let read = |key: &str| Ok(self.target.read(key)?);
        let names = names::of_suite(suite, &release, &read).map_err(|error| match error {
            ExportError::Damaged { key, problem } => {
                ExportError::NotTaken { key, target: self.target.name(), problem }
            }
            other => other,
        })?;
        Ok((text, names))
    }

    fn publish(&self, edition: &Edition) -> Result<(), ExportError> {
        for (name, content) in &edition.files {
            self.put_later(&edition.key(name), content)?;
        }
        (self.on_event)(ExportEvent::Published(&edition.suite));
        Ok(())
    }

    /// Puts a file so that a client that has the one before sees a later time of modification:
    /// apt asks with a resolution of a second.
    fn put_later(&self, key: &str, content: &[u8]) -> Result<(), ExportError> {
        let second =
            |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let before = self.target.stat(key)?.map(|stat| second(stat.modified));
        for _ in 0..STEPS {
            self.put_checked(key, content, Kind::Release)?;
            let after = self.target.stat(key)?.map(|stat| second(stat.modified));
            if before.is_none() || after > before {
                return Ok(());
            }
            // The time of a bucket is its own; a second later it is a second later.
            std::thread::sleep(Duration::from_millis(1100));
        }
        Err(self.not_taken(
            key,
            "its time of modification does not rise; is the other side's clock right?".to_owned(),
        ))
    }

    fn put_checked(&self, key: &str, content: &[u8], kind: Kind) -> Result<(), ExportError> {
        self.target.put(key, Content::Bytes(content), kind)?;
        if self.target.read(key)?.as_deref() == Some(content) {
            return Ok(());
        }
        Err(self.not_taken(key, "it has another content".to_owned()))
    }

    fn not_taken(&self, key: &str, problem: String) -> ExportError {
        ExportError::NotTaken { key: key.to_owned(), target: self.target.name(), problem }
    }
}

/// Does something with each, several at once; ends soon after the first that fails.
pub(crate) fn in_parallel<T: Sync>(
    items: &[T],
    act: impl Fn(&T) -> Result<(), ExportError> + Sync,
) -> Result<(), ExportError> {
    let next = AtomicUsize::new(0);
    let failure = Mutex::new(None);
    let work = || {
        while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = act(item) {
                failure.lock().expect("nobody panics with this lock").get_or_insert(error);
                next.store(items.len(), Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS.min(items.len()) {
            scope.spawn(work);
        }
    });
    match failure.into_inner().expect("nobody panics with this lock") {
        Some(error) => Err(error),
        None => Ok(()),
    }
}
