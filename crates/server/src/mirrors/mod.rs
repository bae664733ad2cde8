//! Mirrors of foreign archives: their definitions, how their syncs went, and what runs. What a
//! sync does is in `volary_archive`, when one is due in `reconcile`.

pub(crate) mod definition;
pub(crate) mod http;
pub(crate) mod live;
pub(crate) mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use volary_api::v1::mirror as api;
use volary_archive::upstream::{Fetch, Folder, Keyring, Link, Patience, Sync, Trust};
use volary_model::Component;

use crate::depot::Depot;
use crate::mirrors::definition::{Definition, Place, Signed};
use crate::mirrors::http::Http;
use crate::mirrors::live::Live;
use crate::mirrors::report::Stored;

/// How many files of one mirror are fetched at once: more would be a burden to public mirrors.
const PARALLEL: usize = 4;

/// How many syncs and imports run at once: each holds the indexes of its archive in memory.
const SLOTS: usize = 2;

/// After a failure the next try comes no later than this.
const RETRY: Duration = Duration::from_secs(900);

/// The mirrors of this server.
pub(crate) struct Mirrors {
    /// The definitions, one file for each mirror, with their keyrings and reports.
    dir: PathBuf,
    /// Those that somebody wants synced now.
    asked: Mutex<BTreeSet<Component>>,
    /// Those that are being synced.
    running: Mutex<BTreeMap<Component, Arc<Live>>>,
    imports: Mutex<Vec<Arc<ImportJob>>>,
    /// Syncs and imports wait for one of these.
    pub(crate) slots: tokio::sync::Semaphore,
    stopping: Arc<AtomicBool>,
}

/// An import that was begun.
pub(crate) struct ImportJob {
    /// How far it is.
    pub(crate) live: Live,
    /// How it ended, with the packages that came.
    pub(crate) ended: Mutex<Option<(api::Report, Vec<String>)>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Mirrors {
    /// Those whose definitions are in a folder.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self {
            dir,
            asked: Mutex::default(),
            running: Mutex::default(),
            imports: Mutex::default(),
            slots: tokio::sync::Semaphore::new(SLOTS),
            stopping: Arc::default(),
        }
    }

    /// The folder.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Lets all that runs end soon; what was fetched is kept.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The names of those that are defined.
    pub(crate) fn names(&self) -> Vec<Component> {
        let files = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut names: Vec<Component> =
            files.filter_map(|file| file.file_name().to_str()?.strip_suffix(".toml")?.parse().ok()).collect();
        names.sort();
        names
    }

    /// Wants a sync soon.
    pub(crate) fn ask(&self, name: &Component) {
        lock(&self.asked).insert(name.clone());
    }

    /// True if somebody wants a sync.
    pub(crate) fn is_asked(&self, name: &Component) -> bool {
        lock(&self.asked).contains(name)
    }

    /// Marks a sync as begun; `None` if one runs.
    pub(crate) fn begin(&self, name: &Component) -> Option<Arc<Live>> {
        let mut running = lock(&self.running);
        if running.contains_key(name) {
            return None;
        }
        let live = Arc::new(Live::new(self.stopping.clone(), volary_host::now()));
        running.insert(name.clone(), live.clone());
        lock(&self.asked).remove(name);
        Some(live)
    }

    /// Marks a sync as over.
    pub(crate) fn end(&self, name: &Component) {
        lock(&self.running).remove(name);
    }

    /// The sync that runs.
    pub(crate) fn running(&self, name: &Component) -> Option<Arc<Live>> {
        lock(&self.running).get(name).cloned()
    }

    /// Begins an import; its number.
    pub(crate) fn begin_import(&self) -> (u64, Arc<ImportJob>) {
        let live = Live::new(self.stopping.clone(), volary_host::now());
        let job = Arc::new(ImportJob { live, ended: Mutex::default() });
        let mut imports = lock(&self.imports);
        imports.push(job.clone());
        (imports.len() as u64, job)
    }

    /// An import by its number.
    pub(crate) fn import(&self, id: u64) -> Option<Arc<ImportJob>> {
        let index = usize::try_from(id).ok()?.checked_sub(1)?;
        lock(&self.imports).get(index).cloned()
    }

    /// What the API says of a mirror. Blocks.
    pub(crate) fn describe(
        &self,
        name: &Component,
        depot: &Depot,
    ) -> Result<api::Mirror, volary_archive::Error> {
        let (definition, problem) = match Definition::read(&self.dir, name) {
            Ok(definition) => (definition.map(|one| one.to_api()), None),
            Err(problem) => (None, Some(problem)),
        };
        let state = depot.archive().mirror(name)?.map(|state| api::State {
            at: state.at,
            url: state.origin.url,
            suite: state.origin.suite,
            date: state.origin.date,
            release: state.origin.release,
            packages: state.packages as u64,
            bytes: state.bytes,
        });
        Ok(api::Mirror {
            definition,
            name: name.clone(),
            state,
            last: Stored::read(&self.dir, name).map(|stored| stored.to_api()),
            running: self.running(name).map(|live| live.progress()),
            problem,
        })
    }

    /// Syncs a mirror, and keeps how that went. Blocks for as long as it takes.
    pub(crate) fn sync(&self, definition: &Definition, depot: &Depot, live: &Live) -> Result<Stored, String> {
        let mut stored = Stored::read(&self.dir, &definition.name).unwrap_or_default();
        let outcome = self.try_sync(definition, depot, live);
        stored.take(outcome, definition.spec().digest(), live.fetched_in_all(), volary_host::now());
        stored.write(&self.dir, &definition.name).map_err(|error| error.to_string())?;
        Ok(stored)
    }

    fn try_sync(
        &self,
        definition: &Definition,
        depot: &Depot,
        live: &Live,
    ) -> Result<volary_archive::upstream::Synced, String> {
        let text = |error: volary_archive::Error| error.to_string();
        let trust = match &definition.signed {
            Signed::Nobody => Trust::Unsigned,
            Signed::By(path) => read_keyring(&self.dir.join(path))?,
        };
        let fetch = fetcher(&definition.place)?;
        let own = depot.archive().settings().map_err(text)?.architectures;
        let mut spec = definition.spec();
        if spec.architectures.is_empty() {
            spec.architectures = own;
        } else if let Some(other) = spec.architectures.iter().find(|one| !own.contains(one)) {
            return Err(format!("this archive has no architecture {other}"));
        }
        let link = Link {
            fetch: &*fetch,
            trust: &trust,
            watch: live,
            patience: Patience::default(),
            parallel: PARALLEL,
        };
        let sync = Sync { mirror: &definition.name, spec: &spec, link, now: volary_host::now() };
        depot.archive().sync(&sync).map_err(text)
    }
}

/// The way to a publication.
pub(crate) fn fetcher(place: &Place) -> Result<Box<dyn Fetch>, String> {
    match place {
        Place::Folder(path) => Ok(Box::new(Folder::new(path))),
        Place::Url(url) => Ok(Box::new(Http::new(url)?)),
    }
}

fn read_keyring(path: &Path) -> Result<Trust, String> {
    let bytes = volary_host::read(path).map_err(|error| error.to_string())?;
    let keyring = Keyring::read(&bytes).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(Trust::Keys(keyring))
}

/// Whether a mirror is to be synced now.
pub(crate) fn is_due(last: Option<&Stored>, definition: &Definition, asked: bool, now: Timestamp) -> bool {
    let Some(last) = last else { return true };
    if asked || last.spec != Some(definition.spec().digest()) {
        return true;
    }
    if definition.interval.is_zero() {
        return false;
    }
    let wait = if last.problem.is_some() { definition.interval.min(RETRY) } else { definition.interval };
    // A clock that was set back must not end the syncs.
    Duration::try_from(now.duration_since(last.at)).map_or(true, |age| age >= wait)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;

    #[test]
    #[allow(clippy::field_reassign_with_default, reason = "the other fields belong to `report`")]
    fn a_sync_is_due_when_its_time_comes() {
        let mut definition = definition::tests::example();
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1000);
        let last = |hours: i64, problem: bool, spec| {
            let mut last = Stored::default();
            last.at = now - SignedDuration::from_hours(hours);
            last.problem = problem.then(|| "the link is down".to_owned());
            last.spec = Some(spec);
            last
        };
        let spec = definition.spec().digest();
        definition.interval = Duration::from_secs(3 * 3600);
        let check = |last: Option<Stored>, definition: &Definition, asked, expected| {
            assert_eq!(is_due(last.as_ref(), definition, asked, now), expected, "{last:?}");
        };
        check(None, &definition, false, true);
        check(Some(last(2, false, spec)), &definition, false, false);
        check(Some(last(2, false, spec)), &definition, true, true);
        check(Some(last(3, false, spec)), &definition, false, true);
        check(Some(last(-1, false, spec)), &definition, false, true);
        check(Some(last(1, true, spec)), &definition, false, true);
        check(Some(last(0, true, spec)), &definition, false, false);
        let other = volary_model::Digest::from_bytes([1; 32]);
        check(Some(last(0, false, other)), &definition, false, true);
        definition.interval = Duration::ZERO;
        check(Some(last(900, true, spec)), &definition, false, false);
    }
}
