//! Writes a suite so that apt sees the old one or the new one, never a mix. Not here: what is in
//! the suite, and when to publish.
//!
//! Index files lie under their SHA-256 and are complete before anything names them; `InRelease`
//! is the one file that is replaced. Index files that it no longer names stay for clients in the
//! middle of an update.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use jiff::{SignedDuration, Timestamp};
use volary_debian::release::{self, IndexFile, Release};
use volary_host::FileError;
use volary_model::{Architecture, Component, Digest, Suite};

use crate::content::Content;
use crate::differences::{self, Differences, KnownPatches};
use crate::error::Error;
use crate::files::{self, Prepared};
use crate::frame::{Forms, Frame, FrameCache};
use crate::keyring::{Keyring, Signers};
use crate::listing::{Listed, Listing};
use crate::pdiff;
use crate::render::{self, Blob, Index};
use crate::set::{IndexKind, PackageSet};
use crate::settings::Settings;
use crate::sidecar::Sidecars;
use crate::state::{Past, State};
use crate::upkeep::{self, Extra};

/// How long index files stay after the last `InRelease` that named them: longer than a slow
/// device takes to fetch one of 2 MB over a link of 1 kB/s.
const KEEP: Duration = Duration::from_secs(3600);
/// With more than this many old index files in a folder, those past `KEEP_CROWDED` go.
const CROWD: usize = 128;
/// As `KEEP`, while publishes come back to back.
const KEEP_CROWDED: Duration = Duration::from_secs(600);

/// The field of a Release file that names the digest of the package set.
pub(crate) const SET_FIELD: &str = "X-Package-Set";

/// Everything needed to publish.
#[derive(Debug)]
pub(crate) struct Publisher {
    /// What is served.
    pub(crate) public: PathBuf,
    /// The folder of the keys.
    keys_dir: PathBuf,
    keys: RwLock<Arc<Keyring>>,
    pub(crate) signers: Signers,
    pub(crate) cache: FrameCache,
    pub(crate) sidecars: Sidecars,
    patches: KnownPatches,
}

/// What to publish.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) suite: &'a Suite,
    pub(crate) content: &'a Content,
    pub(crate) architectures: &'a [Architecture],
    pub(crate) settings: &'a Settings,
    /// In which order Packages indexes list the content; without it in order of name.
    pub(crate) listing: Option<&'a Listing>,
    /// The plain Packages indexes that it must have by their paths, as far as they are known.
    pub(crate) indexes: Option<&'a BTreeMap<String, Blob>>,
    pub(crate) base: Base<'a>,
    /// Suites that may have some of the index files already.
    pub(crate) donors: Vec<Suite>,
    /// What devices may hold of this suite; differences from that are offered.
    pub(crate) history: Vec<Past<'a>>,
    /// Index files that were made beside the normal ones.
    pub(crate) extras: Vec<Extra>,
    pub(crate) now: Timestamp,
}

/// Contents much like the one that is published, whose indexes are known.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Base<'a> {
    /// For Packages indexes.
    pub(crate) packages: Option<&'a Content>,
    /// For the others.
    pub(crate) others: Option<&'a Content>,
}

impl<'a> Base<'a> {
    /// One for all.
    pub(crate) fn of(content: &'a Content) -> Self {
        Self { packages: Some(content), others: Some(content) }
    }

    /// What is known of rolling.
    pub(crate) fn rolling(state: &'a State) -> Self {
        Self { packages: Some(&state.listing.base), others: Some(&state.rolling) }
    }
}

impl<'a> Job<'a> {
    /// To publish a suite as the state has it.
    pub(crate) fn of(state: &'a State, suite: &'a Suite, now: Timestamp) -> Result<Self, Error> {
        let (donors, history, listing, indexes) = match suite {
            Suite::Rolling => {
                (Vec::new(), state.history(), Some(&state.listing), Some(&state.rolling_indexes))
            }
            Suite::Release(_) => (vec![Suite::Rolling], Vec::new(), None, None),
        };
        Ok(Self {
            suite,
            content: state.suite(suite)?,
            architectures: state.architectures(suite)?,
            settings: &state.settings,
            listing,
            indexes,
            base: Base::default(),
            donors,
            history,
            extras: Vec::new(),
            now,
        })
    }

    /// What Packages indexes list of a component, which is this set.
    fn listed<'b>(&'b self, component: &Component, set: &'b PackageSet) -> Listed<'b> {
        self.listing.map_or(Listed::in_order(set), |listing| listing.component(component))
    }
}

/// A suite of which only the last step is missing.
#[derive(Debug)]
pub(crate) struct PreparedSuite {
    dir: PathBuf,
    inrelease: Prepared,
    /// Index file under its hash, and the name that simple clients know.
    canonical: Vec<(PathBuf, PathBuf)>,
    /// Index files that the old InRelease names and this one does not.
    superseded: Vec<PathBuf>,
    /// For each folder of index files those that are in use now.
    current: Vec<(PathBuf, Vec<String>)>,
    /// Its plain Packages indexes by their paths.
    pub(crate) indexes: BTreeMap<String, Blob>,
}

/// What stands in a suite's InRelease now.
#[derive(Debug)]
pub(crate) struct Published {
    pub(crate) release: Release,
    modified: SystemTime,
}

/// What of a suite was written while it is prepared.
#[derive(Debug, Default)]
struct Written {
    files: BTreeMap<String, IndexFile>,
    canonical: Vec<(PathBuf, PathBuf)>,
    current: Vec<(PathBuf, Vec<String>)>,
    indexes: BTreeMap<String, Blob>,
}

impl Publisher {
    /// For the archive in a folder.
    pub(crate) fn open(dir: &Path, signers: Signers) -> Result<Self, Error> {
        let keys_dir = dir.join("keys");
        let keys = RwLock::new(Arc::new(Keyring::read(&keys_dir, &signers)?));
        let (cache, sidecars, patches) = (FrameCache::default(), Sidecars::new(dir), KnownPatches::default());
        Ok(Self { public: dir.join("public"), keys_dir, keys, signers, cache, sidecars, patches })
    }

    /// The keys that sign.
    pub(crate) fn keys(&self) -> Arc<Keyring> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the keys again, after a change.
    pub(crate) fn read_keys(&self) -> Result<(), Error> {
        let keys = Keyring::read(&self.keys_dir, &self.signers)?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        Ok(())
    }

    /// Reads the keys again if another process changed them.
    pub(crate) fn refresh_keys(&self) -> Result<(), Error> {
        if self.keys().is_outdated()? { self.read_keys() } else { Ok(()) }
    }

    /// What stands in a suite's InRelease; empty if there is none.
    pub(crate) fn release_text(&self, suite: &Suite) -> Result<String, FileError> {
        Ok(self.published(suite)?.map(|published| published.release.text()).unwrap_or_default())
    }

    /// Puts new signatures under a suite's InRelease, whose content stays as it is.
    pub(crate) fn sign_again(&self, suite: &Suite, now: Timestamp) -> Result<(), Error> {
        let Some(Published { mut release, modified }) = self.published(suite)? else { return Ok(()) };
        let dir = self.suite_dir(suite);
        let before = Published { release: release.clone(), modified };
        let (date, modified) = next_times(Some(&before), now);
        release.fields.set("Date", release::format_date(date));
        let text = self.keys().clearsign(&release.text(), now)?;
        Prepared::write(dir.join("InRelease"), [text.as_bytes()], Some(modified))?.place()?;
        Ok(volary_host::sync_dir(&dir)?)
    }

    /// An index of a component, which is this set.
    fn index(&self, job: &Job<'_>, component: &Component, set: &PackageSet, kind: &IndexKind) -> Arc<Index> {
        if let IndexKind::Packages(_) = kind {
            let base = job.base.packages.and_then(|content| content.component(component));
            render::listed(job.listed(component, set), kind, &self.cache, base)
        } else {
            let base = job.base.others.and_then(|content| content.component(component));
            render::index(set, kind, &self.cache, base)
        }
    }

    /// The folder of a suite.
    pub(crate) fn suite_dir(&self, suite: &Suite) -> PathBuf {
        self.public.join("dists").join(suite.to_string())
    }

    /// The digest of the package set that is published in a suite, if one is.
    pub(crate) fn published_set(&self, suite: &Suite) -> Option<Digest> {
        let published = self.published(suite).ok().flatten()?;
        published.release.fields.get(SET_FIELD)?.parse().ok()
    }

    /// True if a suite is published as it should be: with its content and, where that can change,
    /// by the settings.
    pub(crate) fn is_published(&self, job: &Job<'_>) -> Result<bool, FileError> {
        let Some(Published { release, .. }) = self.published(job.suite)? else { return Ok(false) };
        let content = job.content.digest().to_string();
        let mut indexes = job.indexes.into_iter().flatten();
        // The same packages may be listed in another order.
        let has = |(path, blob): (&String, &Blob)| release.files.get(path) == Some(&listed(*blob));
        let same = release.fields.get(SET_FIELD) == Some(content.as_str()) && indexes.all(has);
        // Releases get new settings with their next publish.
        let is_release = matches!(job.suite, Suite::Release(_));
        let expires = release.fields.get("Valid-Until").is_some() == job.settings.valid_days.is_some();
        let settled = fields(job);
        let mut settled = settled.fields();
        Ok(same
            && (is_release
                || expires && settled.all(|(name, value)| release.fields.get(name) == Some(value))))
    }

    /// True if all differences that a suite offers are there, and the lists of them. They are written
    /// without a flush, so a power cut may take them; apt then fetches the whole index.
    pub(crate) fn has_its_differences(&self, suite: &Suite) -> Result<bool, FileError> {
        let Some(published) = self.published(suite)? else { return Ok(true) };
        let dir = self.suite_dir(suite);
        for (path, file) in &published.release.files {
            let folder = path.strip_suffix("/Index").or_else(|| path.strip_suffix("/Index.gz"));
            let Some(folder) = folder else { continue };
            let folder = dir.join(folder);
            let list = folder.join("by-hash/SHA256").join(&file.sha256);
            // One that cannot be read, or is another one, offers nothing: it is written again.
            let Some(text) = fs::read(&list).ok().filter(|text| Blob::of(text).sha256.hex() == file.sha256)
            else {
                return Ok(false);
            };
            // The packed list says the same in bytes that are no lines.
            for (name, size, _) in pdiff::downloads(&String::from_utf8_lossy(&text)) {
                if fs::metadata(folder.join(name)).map_or(0, |meta| meta.len()) != size {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What is published in a suite. An InRelease that cannot be read counts as none: it is about
    /// to be replaced.
    pub(crate) fn published(&self, suite: &Suite) -> Result<Option<Published>, FileError> {
        let path = self.suite_dir(suite).join("InRelease");
        let text = match volary_host::read_to_string(&path) {
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) if error.source.kind() == std::io::ErrorKind::InvalidData => return Ok(None),
            other => other?,
        };
        let modified =
            fs::metadata(&path).and_then(|meta| meta.modified()).map_err(FileError::at("read", &path))?;
        Ok(Release::parse(&text).ok().map(|release| Published { release, modified }))
    }

    /// Writes all of a suite but the name of its InRelease.
    pub(crate) fn prepare(&self, job: &Job<'_>) -> Result<PreparedSuite, Error> {
        let dir = self.suite_dir(job.suite);
        let before = self.published(job.suite)?;
        let mut written = Written::default();
        for (component, set) in job.content.components() {
            for kind in set.kinds(job.architectures) {
                self.write_index(job, component, set, &kind, &mut written)?;
            }
        }
        let mut release = Release { fields: fields(job), files: written.files };
        let kept = upkeep::kept(before.as_ref(), &release, &dir, job);
        for extra in kept.iter().chain(&job.extras) {
            extra.list(&mut release);
            let (folder, name) = extra.path.rsplit_once('/').expect("extras lie below a component");
            let by_hash = dir.join(folder).join("by-hash/SHA256");
            let hash = extra.blob.sha256.hex();
            written.canonical.push((by_hash.join(&hash), dir.join(folder).join(name)));
            written.current.push((by_hash, vec![hash]));
        }
        let (date, modified) = next_times(before.as_ref(), job.now);
        release.fields.set("Date", release::format_date(date));
        if let Some(days) = job.settings.valid_days {
            let until = date + SignedDuration::from_hours(24 * i64::from(days));
            release.fields.set("Valid-Until", release::format_date(until));
        }
        release.fields.set(SET_FIELD, job.content.digest().to_string());
        let text = self.keys().clearsign(&release.text(), job.now)?;
        let inrelease = Prepared::write(dir.join("InRelease"), [text.as_bytes()], Some(modified))?;
        let Written { canonical, current, indexes, files: _ } = written;
        let current = merged(current);
        let superseded = before.map(|before| superseded(&dir, &before.release, &current)).unwrap_or_default();
        Ok(PreparedSuite { dir, inrelease, canonical, superseded, current, indexes })
    }

    /// Sees to it that the files of an index lie under their hashes.
    fn write_index(
        &self,
        job: &Job<'_>,
        component: &Component,
        set: &PackageSet,
        kind: &IndexKind,
        written: &mut Written,
    ) -> Result<(), Error> {
        let index = self.index(job, component, set, kind);
        let dir = self.suite_dir(job.suite);
        let path = format!("{component}/{kind}");
        let (below, name) = path.rsplit_once('/').expect("an index lies below its component");
        let folder = dir.join(below);
        let by_hash = folder.join("by-hash/SHA256");
        make_dir(&by_hash)?;
        let donors = job.donors.iter().map(|donor| self.suite_dir(donor).join(below).join("by-hash/SHA256"));
        let donors: Vec<PathBuf> = donors.collect();
        let mut hashes = Vec::new();
        let mut is_new = false;
        for form in Form::of(kind) {
            let blob = form.blob(&index);
            is_new |= write_index(&by_hash, &donors, &index, *form)?;
            let file = format!("{name}{}", form.extension());
            written.canonical.push((by_hash.join(blob.sha256.hex()), folder.join(file)));
            written.files.insert(format!("{path}{}", form.extension()), listed(blob));
            hashes.push(blob.sha256.hex());
        }
        // Never served, but apt finds no packages without a word if it is not listed.
        written.files.insert(path.clone(), listed(index.plain));
        if is_new {
            volary_host::sync_dir(&by_hash)?;
        }
        written.current.push((by_hash, hashes));
        if let IndexKind::Packages(_) = kind {
            written.indexes.insert(path.clone(), index.plain);
            let packed = Form::of(kind).iter().map(|form| form.blob(&index).size).min().unwrap_or_default();
            let differences = Differences {
                component,
                kind,
                listed: job.listed(component, set),
                to: index.plain,
                packed,
                history: &job.history,
                known: &self.patches,
                now: job.now,
            };
            if let Some(found) = differences.write(&folder.join("Packages.diff"))? {
                written.files.insert(format!("{path}.diff/Index"), listed(found.index));
                written.files.insert(format!("{path}.diff/Index.gz"), listed(found.index_gz));
                written.current.extend(found.current);
            }
        }
        Ok(())
    }
}

/// The fields that never change within a suite, but for the dates. A device refuses a suite whose
/// Codename, Label or Origin changes.
fn fields(job: &Job<'_>) -> volary_debian::Paragraph {
    let mut fields = volary_debian::Paragraph::new();
    fields.set("Origin", job.settings.origin.as_str());
    fields.set("Label", job.settings.label.as_str());
    fields.set("Suite", job.suite.to_string());
    let description = match job.suite {
        Suite::Rolling => {
            fields.set("Codename", "rolling");
            "the newest build of every package".to_owned()
        }
        Suite::Release(release) => {
            // apt takes the last part off a suite with a slash before it compares the names.
            fields.set("Codename", release.name.as_str());
            fields.set("Version", format!("{} {}", release.name, release.revision));
            format!("release {} revision {}", release.name, release.revision.number())
        }
    };
    let architectures: Vec<&str> = job.architectures.iter().map(Architecture::as_str).collect();
    fields.set("Architectures", architectures.join(" "));
    let mut components: Vec<&str> = job.content.components().keys().map(Component::as_str).collect();
    components.sort_by_key(|component| *component != "main");
    fields.set("Components", components.join(" "));
    fields.set("Description", description);
    fields.set("Acquire-By-Hash", "yes");
    if let Some(url) = &job.settings.url {
        let url = url.trim_end_matches('/');
        fields.set("Changelogs", format!("{url}/changelogs/@CHANGEPATH@_changelog"));
    }
    fields
}

/// The index files that the old InRelease names and the new one does not.
fn superseded(dir: &Path, release: &Release, current: &[(PathBuf, Vec<String>)]) -> Vec<PathBuf> {
    let in_use = current.iter().flat_map(|(folder, names)| names.iter().map(|name| folder.join(name)));
    let in_use: BTreeSet<PathBuf> = in_use.collect();
    let old = by_hash_paths(dir, release).chain(differences::offered(dir, release));
    old.filter(|path| !in_use.contains(path)).collect()
}

/// One entry for each folder: what one index does not use, another may.
fn merged(current: Vec<(PathBuf, Vec<String>)>) -> Vec<(PathBuf, Vec<String>)> {
    let mut folders: BTreeMap<PathBuf, Vec<String>> = BTreeMap::new();
    for (folder, names) in current {
        folders.entry(folder).or_default().extend(names);
    }
    folders.into_iter().collect()
}

impl PreparedSuite {
    /// The last step: from here on apt sees the new suite.
    pub(crate) fn activate(self) -> Result<(), FileError> {
        let now = SystemTime::now();
        for path in &self.superseded {
            files::touch(path, now)?;
        }
        for (existing, path) in &self.canonical {
            files::link_over(existing, path)?;
        }
        self.inrelease.place()?;
        volary_host::sync_dir(&self.dir)?;
        for (folder, keep) in &self.current {
            prune(folder, keep, now)?;
        }
        files::sweep(&self.dir, now)
    }
}

/// A compressed form in which an index is served.
#[derive(Debug, Clone, Copy)]
enum Form {
    Gzip,
    Zstd,
}

impl Form {
    fn of(kind: &IndexKind) -> &'static [Self] {
        match kind.forms() {
            Forms::Gzip => &[Self::Gzip],
            Forms::GzipAndZstd => &[Self::Gzip, Self::Zstd],
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Self::Gzip => ".gz",
            Self::Zstd => ".zst",
        }
    }

    fn bytes(self, frame: &Frame) -> &[u8] {
        match self {
            Self::Gzip => &frame.gz,
            Self::Zstd => &frame.zst,
        }
    }

    fn blob(self, index: &Index) -> Blob {
        match self {
            Self::Gzip => index.gz,
            Self::Zstd => index.zst,
        }
    }
}

pub(crate) fn listed(blob: Blob) -> IndexFile {
    IndexFile { size: blob.size, sha256: blob.sha256.hex() }
}

/// Makes a folder, and flushes it into the ones above if it is new.
pub(crate) fn make_dir(dir: &Path) -> Result<(), FileError> {
    if dir.is_dir() {
        return Ok(());
    }
    volary_host::create_dir(dir)?;
    // Five folders may be new: dists, release, revision, main, binary-*, by-hash.
    dir.ancestors().skip(1).take(6).try_for_each(volary_host::sync_dir)
}

/// Sees to it that an index file lies under its hash. True if it is new there.
fn write_index(by_hash: &Path, donors: &[PathBuf], index: &Index, form: Form) -> Result<bool, FileError> {
    let name = form.blob(index).sha256.hex();
    let path = by_hash.join(&name);
    if path.exists() {
        return Ok(false);
    }
    if donors.iter().any(|donor| fs::hard_link(donor.join(&name), &path).is_ok()) {
        return Ok(true);
    }
    let parts = index.frames().map(|frame| form.bytes(frame));
    Prepared::write(path, parts, None)?.place()?;
    Ok(true)
}

/// Where the index files lie that a Release file names.
fn by_hash_paths<'a>(dir: &'a Path, release: &'a Release) -> impl Iterator<Item = PathBuf> + 'a {
    release.files.iter().filter_map(move |(path, file)| {
        let (folder, _) = path.rsplit_once('/')?;
        Some(dir.join(folder).join("by-hash/SHA256").join(&file.sha256))
    })
}

/// The Date and the time of modification of the next InRelease. apt ignores an InRelease with an
/// older Date without a word, refuses one from more than 10 s ahead, and asks with a resolution
/// of 1 s whether the file was modified. So Date never goes back, but stays within the real time,
/// while the time of modification steps by a second at least.
fn next_times(before: Option<&Published>, now: Timestamp) -> (Timestamp, SystemTime) {
    let now = Timestamp::from_second(now.as_second()).expect("a second of a timestamp is one");
    let mut modified = SystemTime::from(now);
    let Some(before) = before else { return (now, modified) };
    let date = before.release.date().ok().flatten().map_or(now, |date| date.max(now));
    let earliest = whole_second(before.modified) + Duration::from_secs(1);
    modified = modified.max(earliest);
    (date, modified)
}

fn whole_second(time: SystemTime) -> SystemTime {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// Removes index files that no client can be waiting for any more.
fn prune(folder: &Path, keep: &[String], now: SystemTime) -> Result<(), FileError> {
    let files = files::list(folder)?;
    let limit = if files.len() > CROWD { KEEP_CROWDED } else { KEEP };
    for (name, modified) in files {
        let old = now.duration_since(modified).is_ok_and(|age| age > limit);
        if old && !keep.contains(&name) {
            volary_host::remove_if_exists(&folder.join(name))?;
        }
    }
    Ok(())
}
