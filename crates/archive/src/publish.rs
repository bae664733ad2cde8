//! Writes a suite so that apt sees the old one or the new one, never a mix. Not here: what is in
//! the suite, and when to publish.
//!
//! Index files lie under their SHA-256 and are complete before anything names them; `InRelease`
//! is the one file that is replaced. Index files that it no longer names stay for clients in the
//! middle of an update.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use volary_debian::release::{self, IndexFile, Release};
use volary_host::FileError;
use volary_model::{Architecture, Digest, Suite};

use crate::differences::{Differences, patches_to};
use crate::error::Error;
use crate::files::{self, Prepared};
use crate::frame::{Frame, FrameCache};
use crate::keyring::{Keyring, Signers};
use crate::pdiff;
use crate::render::{self, Blob, Index, Rendered};
use crate::set::PackageSet;
use crate::settings::Settings;
use crate::state::Past;

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
}

/// What to publish.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) suite: &'a Suite,
    pub(crate) set: &'a PackageSet,
    /// Suites that may have some of the index files already.
    pub(crate) donors: &'a [Suite],
    /// What devices may hold of this suite; differences from that are offered.
    pub(crate) history: Vec<Past<'a>>,
    pub(crate) now: Timestamp,
}

impl<'a> Job<'a> {
    /// To publish a revision of a release, which never changes.
    pub(crate) fn release(
        suite: &'a Suite,
        set: &'a PackageSet,
        donors: &'a [Suite],
        now: Timestamp,
    ) -> Self {
        Self { suite, set, donors, history: Vec::new(), now }
    }
}

/// A suite of which only the last step is missing.
#[derive(Debug)]
pub(crate) struct PreparedSuite {
    dir: PathBuf,
    inrelease: Prepared,
    /// Index file under its hash, and the name that simple clients know.
    canonical: Vec<(PathBuf, PathBuf)>,
    /// Index files that the old InRelease names.
    superseded: Vec<PathBuf>,
    /// For each folder of index files those that are in use now.
    current: Vec<(PathBuf, Vec<String>)>,
}

/// What stands in a suite's InRelease now.
#[derive(Debug)]
struct Published {
    release: Release,
    modified: SystemTime,
}

impl Publisher {
    /// For the archive in a folder.
    pub(crate) fn open(dir: &Path, signers: Signers) -> Result<Self, Error> {
        let keys_dir = dir.join("keys");
        let keys = RwLock::new(Arc::new(Keyring::read(&keys_dir, &signers)?));
        Ok(Self { public: dir.join("public"), keys_dir, keys, signers, cache: FrameCache::default() })
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

    /// What a set looks like to apt.
    /// `base` is a similar set that was rendered before, to save work.
    pub(crate) fn rendered<'a>(
        &self,
        set: &'a PackageSet,
        settings: &Settings,
        base: Option<&PackageSet>,
    ) -> &'a Rendered {
        set.rendered().get_or_init(|| render::render(set, &settings.architectures, &self.cache, base))
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

    /// True if all differences that a suite offers are there. They are written without a flush, so
    /// a power cut may take them.
    pub(crate) fn has_its_differences(&self, suite: &Suite) -> Result<bool, FileError> {
        let Some(published) = self.published(suite)? else { return Ok(true) };
        let dir = self.suite_dir(suite);
        for (path, file) in &published.release.files {
            let Some(folder) = path.strip_suffix("/Index") else { continue };
            let folder = dir.join(folder);
            let text = volary_host::read_to_string(&folder.join("by-hash/SHA256").join(&file.sha256))?;
            for (name, size) in pdiff::downloads(&text) {
                if fs::metadata(folder.join(name)).map_or(0, |meta| meta.len()) != size {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What is published in a suite. An InRelease that cannot be read counts as none: it is about
    /// to be replaced.
    fn published(&self, suite: &Suite) -> Result<Option<Published>, FileError> {
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
    pub(crate) fn prepare(&self, job: &Job<'_>, settings: &Settings) -> Result<PreparedSuite, Error> {
        let Job { suite, set, donors, history, now } = job;
        let now = *now;
        let rendered = self.rendered(set, settings, None);
        let dir = self.suite_dir(suite);
        let before = self.published(suite)?;
        let mut release = Release { fields: self.fields(suite, settings), ..Release::default() };
        let mut prepared_canonical = Vec::new();
        let mut current = Vec::new();
        for (architecture, index) in &rendered.indexes {
            let below = format!("main/binary-{architecture}");
            let folder = dir.join(&below);
            let by_hash = folder.join("by-hash/SHA256");
            make_dir(&by_hash)?;
            let donors = donors.iter().map(|donor| self.suite_dir(donor).join(&below).join("by-hash/SHA256"));
            let donors: Vec<PathBuf> = donors.collect();
            for (form, blob) in [(Form::Gzip, index.gz), (Form::Zstd, index.zst)] {
                write_index(&by_hash, &donors, blob, index, form)?;
                let name = format!("Packages{}", form.extension());
                prepared_canonical.push((by_hash.join(blob.sha256.hex()), folder.join(&name)));
                release.files.insert(format!("{below}/{name}"), listed(blob));
            }
            // Never served, but apt finds no packages without a word if it is not listed.
            release.files.insert(format!("{below}/Packages"), listed(index.plain));
            volary_host::sync_dir(&by_hash)?;
            current.push((by_hash, vec![index.gz.sha256.hex(), index.zst.sha256.hex()]));
            let differences = Differences { architecture, set, to: index.plain, history };
            if let Some(written) = differences.write(&folder.join("Packages.diff"))? {
                release.files.insert(format!("{below}/Packages.diff/Index"), listed(written.index));
                current.extend(written.current);
            }
        }
        let (date, modified) = next_times(before.as_ref(), now);
        release.fields.set("Date", release::format_date(date));
        release.fields.set(SET_FIELD, rendered.digest.to_string());
        let text = self.keys().clearsign(&release.text(), now)?;
        let inrelease = Prepared::write(dir.join("InRelease"), [text.as_bytes()], Some(modified))?;
        let mut superseded = Vec::new();
        if let Some(before) = &before {
            superseded.extend(by_hash_paths(&dir, &before.release));
            for architecture in rendered.indexes.keys() {
                superseded.extend(patches_to(&dir, &before.release, architecture)?);
            }
        }
        Ok(PreparedSuite { dir, inrelease, canonical: prepared_canonical, superseded, current })
    }

    /// The fields that never change within a suite, but for the dates. A device refuses a suite
    /// whose Codename, Label or Origin changes.
    fn fields(&self, suite: &Suite, settings: &Settings) -> volary_debian::Paragraph {
        let mut fields = volary_debian::Paragraph::new();
        fields.set("Origin", settings.origin.as_str());
        fields.set("Label", settings.label.as_str());
        fields.set("Suite", suite.to_string());
        let description = match suite {
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
        let architectures: Vec<&str> = settings.architectures.iter().map(Architecture::as_str).collect();
        fields.set("Architectures", architectures.join(" "));
        fields.set("Components", "main");
        fields.set("Description", description);
        fields.set("Acquire-By-Hash", "yes");
        fields
    }
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

/// The compressed forms in which an index is served.
#[derive(Debug, Clone, Copy)]
enum Form {
    Gzip,
    Zstd,
}

impl Form {
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
}

fn listed(blob: Blob) -> IndexFile {
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

/// Sees to it that an index file lies under its hash.
fn write_index(
    by_hash: &Path,
    donors: &[PathBuf],
    blob: Blob,
    index: &Index,
    form: Form,
) -> Result<(), FileError> {
    let name = blob.sha256.hex();
    let path = by_hash.join(&name);
    if path.exists() {
        return Ok(());
    }
    for donor in donors {
        if fs::hard_link(donor.join(&name), &path).is_ok() {
            return Ok(());
        }
    }
    let parts = index.frames.iter().map(|frame| form.bytes(frame));
    Prepared::write(path, parts, None)?.place()
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
