//! What apt and dpkg said last, for as long as the files that they said it from are the same. They
//! are asked several times in one convergence and again for each report, and on a small device each
//! answer costs a good part of a second.
//!
//! A kept answer is never older than the files: those are looked at before each use, and an answer
//! from files that changed just now is not kept at all. What is in the indexes of a suite is not
//! kept; it is read, and compared with the lock, each time. That a suite needs no update is known if
//! apt took the very same `InRelease` by the same keys and settings before, and the archive has no other.

use std::cell::RefCell;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use volary_debian::release::Release;
use volary_host::{CmdError, now, read, read_to_string};
use volary_model::Architecture;

use crate::apt::{self, AptError, Inventory, Source};
use crate::checkpoint::packages;

/// What apt's answer about sources comes from, with what is in these folders.
const SETTINGS: [&str; 3] = ["/etc/apt", "/etc/apt/apt.conf.d", "/etc/apt/sources.list.d"];

/// What apt judges the signature of a suite by, beside its settings and what the source names itself.
const KEYS: [&str; 2] = ["/etc/apt/trusted.gpg", "/etc/apt/trusted.gpg.d"];

/// Where apt keeps which packages came by themselves.
const MARKS: &str = "/var/lib/apt/extended_states";

/// Files that changed less than this many nanoseconds ago may change again without a trace: there are
/// file systems that count whole seconds only.
const SETTLED: i128 = 2_000_000_000;

/// The last answers.
#[derive(Debug, Default)]
pub struct Answers {
    listed: Memo<PathBuf, String>,
    marked: Memo<PathBuf, String>,
    source: Memo<(String, String, Architecture), Source>,
    fetched: RefCell<Option<Fetched>>,
}

/// A suite as apt fetched it and found it good.
#[derive(Debug, PartialEq, Eq)]
struct Fetched {
    source: Source,
    judged_by: Stamp,
    /// Its `InRelease`, and when the archive says that it was made.
    release: Vec<u8>,
    modified: Timestamp,
    /// The file of each index as it was put there; `None` for one that is empty, which apt does not fetch.
    /// apt sets its owner each time, which changes the inode.
    indexes: Vec<Option<[i128; 4]>>,
}

impl Answers {
    /// What dpkg lists of its packages, by its database in `admin`.
    ///
    /// # Errors
    /// [`CmdError`].
    pub fn listed(&self, admin: &Path) -> Result<String, CmdError> {
        // The second is dpkg's journal of what is not in the first yet.
        let stamp = Stamp::of(&[&admin.join("status"), &admin.join("updates")]);
        self.listed.get(admin.to_owned(), stamp, || apt::listed(admin), |_| true)
    }

    /// As [`apt::installed`].
    ///
    /// # Errors
    /// [`CmdError`].
    pub fn installed(&self, admin: &Path) -> Result<Inventory, CmdError> {
        Ok(apt::inventory(admin, &self.listed(admin)?))
    }

    /// As [`apt::mended`].
    ///
    /// # Errors
    /// [`CmdError`].
    pub fn mended(&self, admin: &Path) -> Result<Inventory, CmdError> {
        let found = self.installed(admin)?;
        if found.interrupted { apt::mended(admin) } else { Ok(found) }
    }

    /// As [`packages::marked`].
    ///
    /// # Errors
    /// [`CmdError`].
    pub fn marked(&self, admin: &Path) -> Result<String, CmdError> {
        let stamp = Stamp::of(&[Path::new(MARKS), &admin.join("status"), &admin.join("updates")]);
        self.marked.get(admin.to_owned(), stamp, packages::marked, |_| true)
    }

    /// As [`apt::update`], unless apt would find the suite as it has it: it took it before, nothing that it
    /// judged it by is different, and `has_other` says that the archive has no other `InRelease` than the
    /// one given to it.
    ///
    /// # Errors
    /// [`CmdError`] with apt's own words.
    pub fn update(
        &self,
        source: &Source,
        has_other: impl FnOnce(&[u8], Timestamp) -> bool,
    ) -> Result<(), CmdError> {
        if let Some(is) = Fetched::of(source, judged_by(source))
            && self.fetched.borrow().as_ref() == Some(&is)
            && is_valid(&is.release, now())
            && !has_other(&is.release, is.modified)
        {
            return Ok(());
        }
        self.fetched.replace(None);
        let judged_by = judged_by(source);
        apt::update(source)?;
        self.fetched.replace(Fetched::of(source, judged_by));
        Ok(())
    }

    /// As [`apt::source`].
    ///
    /// # Errors
    /// [`AptError`].
    pub fn source(&self, url: &str, suite: &str, architecture: &Architecture) -> Result<Source, AptError> {
        let stamp = Stamp::of(&SETTINGS.map(Path::new));
        let question = (url.to_owned(), suite.to_owned(), architecture.clone());
        let ask = || apt::source(url, suite, architecture);
        // Whoever moved the folders of apt keeps sources where nobody looks for changes.
        let is_usual =
            |source: &Source| SETTINGS.iter().any(|folder| source.entry.parent() == Some(folder.as_ref()));
        self.source.get(question, stamp, ask, is_usual)
    }
}

impl Fetched {
    /// As it is now; `None` if that can't be told, or could change without a trace.
    fn of(source: &Source, judged_by: Stamp) -> Option<Self> {
        let path = apt::release_of(source)?;
        let (release, modified) =
            (read(&path).ok()?, fs::metadata(&path).and_then(|facts| facts.modified()).ok()?);
        let as_put = |file: PathBuf| {
            facts(&file).map(|[_, modified, number, size, device]| Some([modified, number, size, device]))
        };
        let index = |path: &PathBuf| match apt::kept_at(path) {
            Some(file) => as_put(file),
            None => apt::is_empty_by_release(path).then_some(None),
        };
        let indexes = source.indexes.iter().map(index).collect::<Option<_>>()?;
        let modified = Timestamp::try_from(modified).ok()?;
        judged_by.is_settled.then(|| Self { source: source.clone(), judged_by, release, modified, indexes })
    }
}

/// The settings of apt and the keys, those that the source names itself among them.
fn judged_by(source: &Source) -> Stamp {
    let entry = read_to_string(&source.entry).unwrap_or_default();
    let named = entry.split(|letter: char| letter.is_whitespace() || "=[],".contains(letter));
    let named = named.filter(|word| word.starts_with('/')).map(Path::new).chain([source.entry.as_path()]);
    Stamp::of(&SETTINGS.iter().chain(&KEYS).map(Path::new).chain(named).collect::<Vec<_>>())
}

/// True unless its time is over, which apt has to say.
fn is_valid(release: &[u8], now: Timestamp) -> bool {
    let release = Release::parse(&String::from_utf8_lossy(release)).ok();
    let until = release.and_then(|release| release.valid_until().ok());
    until.is_some_and(|until| until.is_none_or(|until| now < until))
}

/// Files, each as its inode says it is. Whoever writes to one, or puts another in its place, changes
/// that.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    files: Vec<(PathBuf, Option<[i128; 5]>)>,
    /// True if none of them changed just now.
    is_settled: bool,
}

impl Stamp {
    /// Of these files and folders as they are now, with the entries of each folder.
    fn of(paths: &[&Path]) -> Self {
        let mut files = Vec::new();
        for path in paths {
            files.push(((*path).to_owned(), facts(path)));
            let mut entries: Vec<PathBuf> =
                fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            entries.sort();
            files.extend(entries.into_iter().map(|entry| (entry.clone(), facts(&entry))));
        }
        let latest = files.iter().filter_map(|(_, facts)| Some(facts.as_ref()?[0])).max();
        let is_settled = latest.is_none_or(|latest| latest + SETTLED < now().as_nanosecond());
        Self { files, is_settled }
    }
}

/// When the inode changed, when the content, its number, size and device. What a link leads to counts.
fn facts(path: &Path) -> Option<[i128; 5]> {
    let facts: Metadata = fs::metadata(path).ok()?;
    let time = |seconds: i64, nanoseconds: i64| i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    let (changed, modified) =
        (time(facts.ctime(), facts.ctime_nsec()), time(facts.mtime(), facts.mtime_nsec()));
    Some([changed, modified, facts.ino().into(), facts.size().into(), facts.dev().into()])
}

/// The last answer, with the question and the files that it came from.
#[derive(Debug)]
struct Memo<K, V>(RefCell<Option<(K, Stamp, V)>>);

impl<K, V> Default for Memo<K, V> {
    fn default() -> Self {
        Self(RefCell::new(None))
    }
}

impl<K: PartialEq, V: Clone> Memo<K, V> {
    /// The last answer, if the question and the files are the same; otherwise asks. The stamp is
    /// taken before: what changes while the question is answered is seen the next time. Errors are
    /// not kept, nor what `may_keep` does not want to be.
    fn get<E>(
        &self,
        question: K,
        stamp: Stamp,
        ask: impl FnOnce() -> Result<V, E>,
        may_keep: impl FnOnce(&V) -> bool,
    ) -> Result<V, E> {
        if let Some((asked, then, answer)) = self.0.borrow().as_ref()
            && *asked == question
            && then.files == stamp.files
        {
            return Ok(answer.clone());
        }
        let answer = ask()?;
        let kept = (stamp.is_settled && may_keep(&answer)).then(|| (question, stamp, answer.clone()));
        self.0.replace(kept);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::{Duration, SystemTime};

    use super::*;

    struct Asked<'a> {
        memo: Memo<&'static str, u32>,
        folder: &'a Path,
        times: u32,
    }

    impl Asked<'_> {
        /// Asks, and pretends that all files are old; returns how often it was asked in all.
        fn get(&mut self, question: &'static str) -> u32 {
            let stamp = Stamp { is_settled: true, ..Stamp::of(&[self.folder]) };
            let ask = || {
                self.times += 1;
                Ok::<_, ()>(self.times)
            };
            self.memo.get(question, stamp, ask, |_| true).unwrap()
        }
    }

    #[test]
    fn an_answer_is_kept_until_a_file_changes() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = dir.path().join("file");
        let mut asked = Asked { memo: Memo::default(), folder: dir.path(), times: 0 };
        assert_eq!((asked.get("a"), asked.get("a")), (1, 1));
        assert_eq!((asked.get("b"), asked.get("a")), (2, 3));
        // By a rename, and by another of the same length.
        volary_host::write_atomic(&file, b"one", 0o644).unwrap();
        assert_eq!((asked.get("a"), asked.get("a")), (4, 4));
        volary_host::write_atomic(&file, b"two", 0o644).unwrap();
        assert_eq!((asked.get("a"), asked.get("a")), (5, 5));
        // In place; the time of the content is put back, as by cp --preserve.
        std::thread::sleep(Duration::from_millis(20));
        let opened = fs::File::options().write(true).open(&file).unwrap();
        std::io::Write::write_all(&mut &opened, b"six").unwrap();
        opened.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!((asked.get("a"), asked.get("a")), (6, 6));
        fs::remove_file(&file).unwrap();
        assert_eq!((asked.get("a"), asked.get("a")), (7, 7));
        // Behind a link.
        let linked = other.path().join("linked");
        volary_host::write_atomic(&linked, b"one", 0o644).unwrap();
        symlink(&linked, &file).unwrap();
        assert_eq!((asked.get("a"), asked.get("a")), (8, 8));
        volary_host::write_atomic(&linked, b"two", 0o644).unwrap();
        assert_eq!((asked.get("a"), asked.get("a")), (9, 9));
    }

    #[test]
    fn an_answer_from_files_that_just_changed_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let stamp = || Stamp::of(&[dir.path()]);
        assert!(!stamp().is_settled);
        let memo: Memo<(), u32> = Memo::default();
        for expected in 1..=2 {
            assert_eq!(memo.get((), stamp(), || Ok::<_, ()>(expected), |_| true), Ok(expected));
        }
        assert!(Stamp::of(&[Path::new("/bin/sh")]).is_settled);
    }

    #[test]
    fn neither_errors_nor_what_is_unusual_is_kept() {
        let memo: Memo<(), u32> = Memo::default();
        let stamp = || Stamp { files: Vec::new(), is_settled: true };
        assert_eq!(memo.get((), stamp(), || Err("no"), |_| true), Err("no"));
        assert_eq!(memo.get((), stamp(), || Ok::<_, &str>(1), |_| false), Ok(1));
        assert_eq!(memo.get((), stamp(), || Ok::<_, &str>(2), |_| true), Ok(2));
        assert_eq!(memo.get((), stamp(), || Ok::<_, &str>(3), |_| true), Ok(2));
    }

    #[test]
    fn dpkg_is_asked_again_when_its_database_changes() {
        let dir = tempfile::tempdir().unwrap();
        let admin = dir.path();
        for folder in ["updates", "info"] {
            fs::create_dir(admin.join(folder)).unwrap();
        }
        let package = |version: &str| {
            let text = format!(
                "Package: pulse\nStatus: install ok installed\nArchitecture: all\nVersion: {version}\n\
                 Maintainer: a <a@example.com>\nDescription: b\n"
            );
            volary_host::write_atomic(&admin.join("status"), text.as_bytes(), 0o644).unwrap();
        };
        let answers = Answers::default();
        let version = || answers.installed(admin).unwrap().versions()["pulse"].clone();
        for wanted in ["1", "2", "3"] {
            package(wanted);
            assert_eq!((version().as_str(), version().as_str()), (wanted, wanted));
        }
        volary_host::write_atomic(&admin.join("updates/0000"), b"", 0o644).unwrap();
        assert!(answers.installed(admin).unwrap().interrupted);
    }

    #[test]
    fn a_suite_is_known_for_as_long_as_nothing_of_it_differs() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let put =
            |name: &str, text: &str| volary_host::write_atomic(&at(name), text.as_bytes(), 0o644).unwrap();
        let (index, release) = ("a_dists_v1_main_binary-amd64_Packages", "a_dists_v1_InRelease");
        put(index, "one");
        put("key.asc", "key");
        put("v.sources", &format!("Signed-By: {}\n", at("key.asc").display()));
        put(release, "Suite: v1\n");
        let source = Source { indexes: vec![at(index)], entry: at("v.sources") };
        // As if all of it were old.
        let look = || {
            let settled = Stamp { is_settled: true, ..judged_by(&source) };
            Fetched::of(&source, settled)
        };
        let first = look();
        assert!(first.is_some() && first == look());
        assert!(Fetched::of(&source, judged_by(&source)).is_none(), "the source was written just now");
        for name in [release, index, "key.asc", "v.sources"] {
            let before = look();
            put(name, &format!("{} # changed\n", volary_host::read_to_string(&at(name)).unwrap()));
            assert!(before.is_some() && before != look(), "{name}");
        }
        let plain = look();
        volary_host::remove_if_exists(&at(index)).unwrap();
        assert_eq!(look(), None);
        // As apt keeps it with Acquire::GzipIndexes.
        let packed = format!("{index}.lz4");
        put(&packed, "one");
        let before = look();
        assert!(before.is_some() && before != plain);
        put(&packed, "two");
        assert!(look().is_some() && before != look());
        volary_host::remove_if_exists(&at(&packed)).unwrap();
        // An empty one is not fetched at all.
        for (size, known) in [("0", true), ("7", false)] {
            let sum = "ab".repeat(32);
            put(release, &format!("Suite: v1\nSHA256:\n {sum} {size} main/binary-amd64/Packages\n"));
            assert_eq!(look().is_some_and(|look| look.indexes == [None]), known);
        }
    }

    #[test]
    fn what_is_out_of_date_is_left_to_apt() {
        let now = "2026-11-27T07:00:00Z".parse().unwrap();
        for (text, valid) in [
            ("Suite: a\n", true),
            ("Suite: a\nValid-Until: Fri, 27 Nov 2026 07:00:01 UTC\n", true),
            ("Suite: a\nValid-Until: Fri, 27 Nov 2026 07:00:00 UTC\n", false),
            ("Suite: a\nValid-Until: soon\n", false),
        ] {
            assert_eq!(is_valid(text.as_bytes(), now), valid, "{text}");
        }
    }
}
