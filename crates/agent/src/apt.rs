//! Packages by the real dpkg and apt: what is installed, what the suite offers, and the move.
//! Which packages move is decided in `volary-device`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, fcntl_lock};
use sha2::{Digest as _, Sha256};
use volary_debian::Version;
use volary_debian::packages::{PackagesError, iterate};
use volary_debian::release::Release;
use volary_device::{Change, Installed, Offer, plan_upgrade};
use volary_fleet::LockedRelease;
use volary_host::{Cmd, CmdError, FileError, read, read_to_string};
use volary_model::{Architecture, Digest, IndexName, Suite};

use crate::log;
use crate::pin::{self, PinError};
use crate::units;

/// How long dpkg may take to finish what was interrupted: a large upgrade on a slow card.
const INSTALL: Duration = Duration::from_secs(3600);

/// How long fetching one suite's indexes may take.
pub(crate) const UPDATE: Duration = Duration::from_secs(600);

/// How long to wait for somebody else's apt before an interrupted dpkg is mended.
const BUSY: Duration = Duration::from_secs(120);

/// How `apt-get indextargets` is asked to list what [`find_source`] reads.
pub(crate) const TARGETS: &str =
    "$(CREATED_BY)|$(SITE)|$(REPO_URI)|$(RELEASE)|$(ARCHITECTURE)|$(FILENAME)|$(SOURCESENTRY)";

/// apt waits this many seconds for another apt or dpkg to end.
const LOCK: &str = "DPkg::Lock::Timeout=120";

/// All packages that are installed on the device.
#[derive(Debug, Clone, Default)]
pub struct Inventory {
    /// Those that may move.
    pub packages: Vec<Installed<Version>>,
    /// Those that somebody put on hold; they stay.
    pub held: BTreeSet<String>,
    /// True if dpkg was interrupted and must be let finish first.
    pub interrupted: bool,
}

/// The suite as apt holds it on this device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// The indexes of packages, as files, one for each component.
    pub indexes: Vec<PathBuf>,
    /// The file of `/etc/apt` that names the suite.
    pub entry: PathBuf,
}

/// Why packages did not get where they should be.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// A program failed.
    #[error(transparent)]
    Cmd(#[from] CmdError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// No source of apt is our suite.
    #[error(
        "no source of apt is {url} with suite {suite}; let the playbook use the role volary.fleet.apt_source, \
         or write the source itself with volary_archive_url and volary_suite"
    )]
    NoSource {
        /// The archive.
        url: String,
        /// The suite.
        suite: String,
    },
    /// What apt holds is not what the signed lock names.
    #[error(
        "the archive serves other content than the signed lock: apt's {index} is {found}, the lock says \
         {locked}"
    )]
    OtherContent {
        /// The file.
        index: String,
        /// What apt holds.
        found: Digest,
        /// What the lock says.
        locked: String,
    },
    /// The suite that apt holds is not the locked one.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// The index cannot be understood.
    #[error("the index {path} is not valid: {source}")]
    Index {
        /// Its file.
        path: String,
        /// What is wrong.
        source: PackagesError,
    },
}

/// What dpkg has, by its database in `admin` (`/var/lib/dpkg` on a device).
///
/// # Errors
/// [`CmdError`] if dpkg-query fails.
pub fn installed(admin: &Path) -> Result<Inventory, CmdError> {
    Ok(inventory(admin, &listed(admin)?))
}

/// What dpkg lists of its packages: state, name, architecture and version of each.
///
/// # Errors
/// [`CmdError`] if dpkg-query cannot run.
pub fn listed(admin: &Path) -> Result<String, CmdError> {
    let format = "${db:Status-Abbrev}\\t${Package}\\t${Architecture}\\t${Version}\\n";
    let listed =
        Cmd::new("dpkg-query").arg("--admindir").arg(admin).args(["--show", "--showformat", format]).run()?;
    // Without any package dpkg-query ends with 1, which is no error of a device.
    Ok(listed.text())
}

/// The packages that dpkg listed, by its database in `admin`.
pub fn inventory(admin: &Path, listed: &str) -> Inventory {
    let mut inventory = parse(listed);
    let journal = std::fs::read_dir(admin.join("updates"));
    inventory.interrupted |= journal.is_ok_and(|mut entries| entries.next().is_some());
    inventory
}

/// What dpkg has once nobody works on it, after it was let finish what a power cut interrupted.
/// Somebody else's apt that runs right now looks the same as an interrupted one, so its end is
/// waited for first.
///
/// # Errors
/// [`CmdError`].
pub fn mended(admin: &Path) -> Result<Inventory, CmdError> {
    let found = installed(admin)?;
    if !found.interrupted {
        return Ok(found);
    }
    let free = wait_for_others(&admin.join("lock-frontend"), BUSY);
    let found = installed(admin)?;
    if !found.interrupted || !free {
        return Ok(found);
    }
    log::say("dpkg was interrupted: letting it finish");
    let configure = noninteractive(Cmd::new("dpkg").arg("--admindir").arg(admin))
        .args(["--force-confold", "--configure", "-a"])
        .timeout(INSTALL)
        .check();
    // What dpkg can't finish alone (a dependency that never came) apt may. If neither can, the
    // playbook still runs: it may be what mends it, and whatever needs apt says what is wrong.
    let mended = configure.or_else(|_| {
        let fix = Cmd::new("apt-get").args(["install", "-q", "-y", "--fix-broken", "--no-remove"]);
        noninteractive(fix).args(["-o", LOCK]).timeout(INSTALL).check()
    });
    if let Err(error) = mended {
        log::say(error.to_string());
    }
    installed(admin)
}

/// True as soon as nobody holds the lock that apt and dpkg work under.
fn wait_for_others(lock: &Path, limit: Duration) -> bool {
    let started = Instant::now();
    loop {
        let Ok(file) = File::options().write(true).open(lock) else { return true };
        // Closing the file gives the lock back at once.
        if fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return true;
        }
        if started.elapsed() > limit {
            return false;
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn parse(listed: &str) -> Inventory {
    let mut inventory = Inventory::default();
    for line in listed.lines() {
        let mut fields = line.split('\t');
        let (Some(status), Some(name), Some(architecture), Some(version)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let mut letters = status.chars();
        let (wanted, is) = (letters.next(), letters.next());
        // U: unpacked, F: half-configured, H: half-installed, W and t: triggers are due.
        inventory.interrupted |= matches!(is, Some('U' | 'F' | 'H'));
        let Ok(version) = version.parse() else { continue };
        if !matches!(is, Some('i' | 'U' | 'F' | 'W' | 't')) {
            continue;
        }
        if wanted == Some('h') {
            inventory.held.insert(name.to_owned());
        }
        let (name, architecture) = (name.to_owned(), architecture.to_owned());
        inventory.packages.push(Installed { name, architecture, version });
    }
    inventory
}

impl Inventory {
    /// Name → version as text.
    pub fn versions(&self) -> BTreeMap<String, String> {
        self.packages.iter().map(|package| (package.name.clone(), package.version.to_string())).collect()
    }
}

/// The packages that differ: name → (before, after), empty text for "not there".
pub fn changes(
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> BTreeMap<String, (String, String)> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| {
            let side = |map: &BTreeMap<String, String>| map.get(name).cloned().unwrap_or_default();
            let (before, after) = (side(before), side(after));
            (before != after).then(|| (name.clone(), (before, after)))
        })
        .collect()
}

/// The suite at `url` as apt knows it, whether its indexes were fetched already or not.
///
/// # Errors
/// [`AptError::NoSource`] if no source of apt names it.
pub fn source(url: &str, suite: &str, architecture: &Architecture) -> Result<Source, AptError> {
    let listed =
        Cmd::new("apt-get").args(["indextargets", "--no-release-info", "--format", TARGETS]).check()?;
    find_source(&listed.text(), url, suite, architecture)
        .ok_or_else(|| AptError::NoSource { url: url.to_owned(), suite: suite.to_owned() })
}

/// The suite at `url` among what `apt-get indextargets` listed as [`TARGETS`].
pub(crate) fn find_source(
    listed: &str,
    url: &str,
    suite: &str,
    architecture: &Architecture,
) -> Option<Source> {
    let mut found: Option<Source> = None;
    for line in listed.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [by, _, repository, release, arch, file, entry] = fields[..] else { continue };
        let ours = repository.trim_end_matches('/') == url.trim_end_matches('/') && release == suite;
        if by != "Packages" || !ours || arch != architecture.as_str() {
            continue;
        }
        let entry = PathBuf::from(entry.rsplit_once(':').map_or(entry, |(path, _)| path));
        let source = found.get_or_insert_with(|| Source { indexes: Vec::new(), entry });
        source.indexes.push(PathBuf::from(file));
    }
    found
}

/// Fetches the indexes of this one source. Others (a mirror of Debian that is away, say) have no
/// say in whether our packages can be installed. apt's cache of all sources is left alone: made anew
/// for this one alone, it would be made once more for all of them by whoever asks apt next.
///
/// # Errors
/// [`CmdError`] with apt's own words.
pub fn update(source: &Source) -> Result<(), CmdError> {
    let list = format!("Dir::Etc::sourcelist={}", source.entry.display());
    noninteractive(Cmd::new("apt-get").args(["update", "-q", "--error-on=any"]))
        .args(["-o", &list, "-o", "Dir::Etc::sourceparts=-", "-o", "APT::Get::List-Cleanup=0"])
        .args(["-o", "pkgCacheFile::Generate=0", "-o", LOCK])
        .timeout(UPDATE)
        .check()
        .map(drop)
}

/// The packages that the indexes offer. With `locked`, only if they are those that the lock names.
///
/// # Errors
/// [`AptError`].
pub fn offers(source: &Source, locked: Option<&LockedRelease>) -> Result<Vec<Offer<Version>>, AptError> {
    let mut offers = Vec::new();
    for path in &source.indexes {
        let bytes = index(path)?;
        if let Some(locked) = locked {
            compare(path, &bytes, locked)?;
        }
        for package in iterate(&String::from_utf8_lossy(&bytes)) {
            let package =
                package.map_err(|source| AptError::Index { path: path.display().to_string(), source })?;
            let (name, architecture) = (package.name, package.architecture);
            offers.push(Offer { name, architecture, version: package.version });
        }
    }
    Ok(offers)
}

/// Passes an index that the lock names.
fn compare(path: &Path, bytes: &[u8], locked: &LockedRelease) -> Result<(), AptError> {
    let found = Digest::from_bytes(Sha256::digest(bytes).into());
    let name = place(path).and_then(|(_, index)| index.parse::<IndexName>().ok());
    let expected = name.and_then(|name| locked.indexes.get(&name));
    if expected == Some(&found) {
        return Ok(());
    }
    let locked = expected.map_or_else(|| "nothing of it".to_owned(), Digest::to_string);
    Err(AptError::OtherContent { index: path.display().to_string(), found, locked })
}

/// Takes apart the name that apt gives an index: the part that all files of its suite begin with,
/// and `component/architecture`.
fn place(index: &Path) -> Option<(&str, String)> {
    let (before, after) = index.to_str()?.rsplit_once("_binary-")?;
    let (suite, component) = before.rsplit_once('_')?;
    let (architecture, _) = after.split_once("_Packages")?;
    Some((suite, format!("{component}/{architecture}")))
}

/// Holds the `InRelease` that apt verified and works by against the lock: the one that the agent
/// looked at before may have been another.
///
/// # Errors
/// [`AptError`].
pub fn check_release(
    source: &Source,
    locked: &LockedRelease,
    architecture: &Architecture,
) -> Result<(), AptError> {
    let path = release_of(source).ok_or_else(|| PinError::NoSuite(Suite::Release(locked.release.clone())))?;
    let bytes = read(&path)?;
    Ok(pin::compare(&String::from_utf8_lossy(&bytes), locked, architecture)?)
}

/// The file of apt that holds the suite's `InRelease`.
pub(crate) fn release_of(source: &Source) -> Option<PathBuf> {
    let (suite, _) = place(source.indexes.first()?)?;
    Some(PathBuf::from(format!("{suite}_InRelease")))
}

/// How apt may pack the indexes that it keeps (`Acquire::GzipIndexes`).
const PACKED: [&str; 5] = [".lz4", ".gz", ".xz", ".zst", ".bz2"];

/// The index as text, also if apt keeps it packed.
fn index(path: &Path) -> Result<Vec<u8>, AptError> {
    match kept_at(path) {
        Some(file) if PACKED.iter().any(|suffix| file.to_string_lossy().ends_with(suffix)) => unpacked(&file),
        None if is_empty_by_release(path) => Ok(Vec::new()),
        // If it is not there, reading it says so.
        _ => Ok(read(path)?),
    }
}

/// The file in which apt keeps an index, packed or not; `None` if there is none.
pub(crate) fn kept_at(index: &Path) -> Option<PathBuf> {
    let packed = PACKED.map(|suffix| PathBuf::from(format!("{}{suffix}", index.display())));
    std::iter::once(index.to_owned()).chain(packed).find(|file| file.exists())
}

/// True if apt's verified `InRelease` says that this index is empty: apt does not fetch those, and
/// the suite of a new archive is.
pub(crate) fn is_empty_by_release(index: &Path) -> bool {
    let Some((suite, name)) = place(index) else { return false };
    let Ok(name) = name.parse::<IndexName>() else { return false };
    let release = read(Path::new(&format!("{suite}_InRelease"))).ok();
    let release = release.and_then(|bytes| Release::parse(&String::from_utf8_lossy(&bytes)).ok());
    let entry = release.and_then(|mut release| release.files.remove(&name.path()));
    entry.is_some_and(|file| file.size == 0)
}

fn unpacked(path: &Path) -> Result<Vec<u8>, AptError> {
    Ok(Cmd::new("/usr/lib/apt/apt-helper").arg("cat-file").arg(path).check()?.stdout)
}

/// The packages that must move to be at the suite's version.
pub fn moves(inventory: &Inventory, offers: &[Offer<Version>]) -> Vec<Change<Version>> {
    let mut moves = plan_upgrade(&inventory.packages, offers);
    moves.retain(|change| !inventory.held.contains(&change.name));
    moves
}

/// What apt is asked for: `name=version` of each package that must move.
pub fn plan(inventory: &Inventory, offers: &[Offer<Version>]) -> Vec<String> {
    moves(inventory, offers).iter().map(Change::argument).collect()
}

/// Moves packages to these versions, up or down, within `limit`. Nothing is removed for it: a suite that needs
/// that must say so in its playbook.
///
/// # Errors
/// [`CmdError`] with apt's own words.
pub fn install(arguments: &[String], limit: Duration) -> Result<(), CmdError> {
    noninteractive(Cmd::new("apt-get").args(["install", "-q", "-y", "--allow-downgrades", "--no-remove"]))
        .arg("--no-install-recommends")
        .args(["-o", "Dpkg::Options::=--force-confold", "-o", "Dpkg::Options::=--force-confdef"])
        .args(["-o", "Dpkg::Use-Pty=0", "-o", LOCK])
        .args(arguments)
        .timeout(limit)
        .check()
        .map(drop)
}

/// apt and dpkg with nobody to answer.
pub(crate) fn noninteractive(cmd: Cmd) -> Cmd {
    units::unprotected(cmd)
        .env(crate::undo::MARK, "yes")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .env("APT_LISTCHANGES_FRONTEND", "none")
        .env("NEEDRESTART_SUSPEND", "1")
        .env("LC_ALL", "C.UTF-8")
}

/// Seconds since the suite's `InRelease` that apt holds was made; `None` if there is none.
pub fn suite_age(source: &Source, now: jiff::Timestamp) -> Option<u64> {
    let text = read_to_string(&release_of(source)?).ok()?;
    let date = volary_debian::release::Release::parse(&text).ok()?.date().ok()??;
    u64::try_from(now.duration_since(date).as_secs()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_is_understood() {
        let listed = "ii \tlibc6\tamd64\t2.36-9\nrc \tgone\tamd64\t1\nhi \tkept\tall\t1.0\nun \tnever\t\t\n\
                      iF \thalf\tamd64\t2\n";
        let found = parse(listed);
        let names: Vec<_> = found.packages.iter().map(|package| package.name.as_str()).collect();
        assert_eq!(names, ["libc6", "kept", "half"]);
        assert_eq!(found.held, BTreeSet::from(["kept".to_owned()]));
        assert!(found.interrupted && !parse("ii \ta1\tall\t1\n").interrupted);
    }

    #[test]
    fn held_packages_stay() {
        let offer = |name: &str| Offer {
            name: name.into(),
            architecture: "all".into(),
            version: "2".parse().unwrap(),
        };
        let have = parse("ii \tmoves\tamd64\t1\nhi \tkept\tall\t1.0\n");
        assert_eq!(plan(&have, &[offer("moves"), offer("kept"), offer("other")]), ["moves=2"]);
    }

    #[test]
    fn the_lock_of_others_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let lock = dir.path().join("lock-frontend");
        assert!(wait_for_others(&lock, Duration::ZERO), "no lock at all");
        volary_host::write_atomic(&lock, b"", 0o640).unwrap();
        assert!(wait_for_others(&lock, Duration::ZERO), "nobody holds it");
        // A lock of this kind belongs to a process, so another one must hold it.
        let hold = "import fcntl,sys,time; f=open(sys.argv[1],'w'); fcntl.lockf(f,fcntl.LOCK_EX); \
                    print('held',flush=True); time.sleep(60)";
        let mut python = Cmd::new("python3").args(["-c", hold]).arg(&lock).into_std();
        let mut holder = python.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut told = [0; 4];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut told).unwrap();
        assert!(!wait_for_others(&lock, Duration::ZERO));
        holder.kill().unwrap();
        holder.wait().unwrap();
        assert!(wait_for_others(&lock, Duration::from_secs(10)));
    }

    #[test]
    fn our_suite_is_found_among_the_sources() {
        let listed = "Packages|https://d|https://d/debian/|bookworm|amd64|/l/a|/etc/apt/sources.list:1\n\
                      Translations|s|https://v:1/archive/|v1.0/r2||/l/t|/etc/apt/x:1\n\
                      Packages|s|https://v:1/archive/|v1.0/r2|arm64|/l/x|/etc/apt/x:1\n\
                      Packages|s|https://v:1/archive/|v1.0/r2|amd64|/l/b|/etc/apt/sources.list.d/v.sources:3\n\
                      Packages|s|https://v:1/archive/|v1.0/r2|amd64|/l/c|/etc/apt/sources.list.d/v.sources:3\n";
        let found = find_source(listed, "https://v:1/archive", "v1.0/r2", &"amd64".parse().unwrap());
        let expected = Source {
            indexes: vec!["/l/b".into(), "/l/c".into()],
            entry: "/etc/apt/sources.list.d/v.sources".into(),
        };
        assert_eq!(found, Some(expected));
    }

    #[test]
    fn an_empty_index_that_apt_does_not_fetch_offers_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("volary.test_archive_dists_rolling_main_binary-amd64_Packages");
        let source = Source { indexes: vec![index], entry: "/etc/apt/x".into() };
        assert!(offers(&source, None).is_err(), "without a release nothing is known");
        let release = dir.path().join("volary.test_archive_dists_rolling_InRelease");
        for (size, known) in [("0", true), ("7", false)] {
            let text =
                format!("Suite: rolling\nSHA256:\n {} {size} main/binary-amd64/Packages\n", "ab".repeat(32));
            volary_host::write_atomic(&release, text.as_bytes(), 0o644).unwrap();
            assert_eq!(offers(&source, None).is_ok_and(|offers| offers.is_empty()), known);
        }
    }

    #[test]
    fn an_index_is_compared_with_the_lock_whatever_dots_its_name_has() {
        let dir = tempfile::tempdir().unwrap();
        let index = dir.path().join("volary.test_archive_dists_v1.0_r1_main_binary-amd64_Packages");
        let source = Source { indexes: vec![index.clone()], entry: "/etc/apt/x".into() };
        let error = offers(&source, None).unwrap_err().to_string();
        assert!(error.contains("cannot read"), "{error}");
        let text = "Package: pulse\nVersion: 1\nArchitecture: all\nFilename: pool/x.deb\nSize: 1\nSHA256: ";
        let text = format!("{text}{}\n", "ab".repeat(32));
        volary_host::write_atomic(&index, text.as_bytes(), 0o644).unwrap();
        let digest = Digest::from_bytes(Sha256::digest(text.as_bytes()).into());
        let locked = |digest| LockedRelease {
            release: "v1.0/r1".parse().unwrap(),
            digest: Digest::from_bytes([1; 32]),
            indexes: [("main/amd64".parse().unwrap(), digest)].into(),
        };
        assert_eq!(offers(&source, Some(&locked(digest))).unwrap().len(), 1);
        let other = Source {
            indexes: vec![dir.path().join("volary.test_archive_dists_v1.0_r1_other_binary-amd64_Packages")],
            entry: "/etc/apt/x".into(),
        };
        volary_host::write_atomic(&other.indexes[0], text.as_bytes(), 0o644).unwrap();
        let error = offers(&other, Some(&locked(digest))).unwrap_err();
        assert!(error.to_string().contains("the lock says nothing of it"), "{error}");
        let error = offers(&source, Some(&locked(Digest::from_bytes([7; 32])))).unwrap_err();
        assert!(error.to_string().contains("other content than the signed lock"), "{error}");
    }

    #[test]
    fn changes_name_both_sides() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
        };
        let found =
            changes(&map(&[("a", "1"), ("b", "1"), ("c", "1")]), &map(&[("a", "1"), ("b", "2"), ("d", "1")]));
        let text: Vec<_> =
            found.iter().map(|(name, (before, after))| format!("{name}:{before}>{after}")).collect();
        assert_eq!(text, ["b:1>2", "c:1>", "d:>1"]);
    }
}
