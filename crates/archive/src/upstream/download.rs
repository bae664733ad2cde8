//! Brings listed files into a staging folder: resumable, checked by size and hash, several at
//! once. Not here: what is wanted, and what becomes of it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use volary_host::FileError;
use volary_model::Digest;

use super::error::UpstreamError;
use super::fetch::{Fetch, FetchError};

/// Room that a sync leaves: the archive must be able to publish, and others to work.
const RESERVE: u64 = 256 << 20;

/// How much is read at once; between two reads somebody may ask to stop.
const CHUNK: usize = 64 << 10;

/// A file that a signed list names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where it is, from the root.
    pub path: String,
    /// Where it is also, under its hash: asked for first, because it cannot be replaced meanwhile.
    pub by_hash: Option<String>,
    /// Bytes.
    pub size: u64,
    /// What it must be.
    pub sha256: Digest,
}

/// How patient a download is with a bad link.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// So many attempts in a row may bring nothing. One that brings a byte counts as success.
    pub attempts: u32,
    /// How long to wait after the first of them; each further wait is twice as long.
    pub pause: Duration,
}

impl Default for Patience {
    /// Five attempts, 15 s of waiting in all.
    fn default() -> Self {
        Self { attempts: 5, pause: Duration::from_secs(1) }
    }
}

/// A folder in which files wait until all are there. It survives a restart.
#[derive(Debug)]
pub struct Staging {
    dir: PathBuf,
}

impl Staging {
    /// Makes the folder, if it is not there.
    ///
    /// # Errors
    /// [`UpstreamError::File`].
    pub fn new(dir: &Path) -> Result<Self, UpstreamError> {
        volary_host::create_dir(dir)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Where a file is once it is whole.
    pub fn path(&self, sha256: &Digest) -> PathBuf {
        self.dir.join(sha256.hex())
    }

    fn part(&self, sha256: &Digest) -> PathBuf {
        self.dir.join(format!("{}.part", sha256.hex()))
    }

    /// Bytes of a file that are here already, whole or not.
    pub fn has(&self, sha256: &Digest) -> u64 {
        let length = |path: PathBuf| fs::metadata(path).map_or(0, |meta| meta.len());
        length(self.path(sha256)).max(length(self.part(sha256)))
    }

    /// Refuses to begin what would fill the disk.
    ///
    /// # Errors
    /// [`UpstreamError::Space`].
    pub fn check_space(&self, wanted: &[Wanted]) -> Result<(), UpstreamError> {
        let missing = |one: &Wanted| one.size.saturating_sub(self.has(&one.sha256));
        let needed = wanted.iter().map(missing).fold(0, u64::saturating_add);
        let stat = rustix::fs::statvfs(&self.dir)
            .map_err(|error| FileError::at("look at", &self.dir)(error.into()))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        match needed.saturating_add(RESERVE) {
            // What is here already needs no room.
            _ if needed == 0 => Ok(()),
            needed if needed <= free => Ok(()),
            needed => Err(UpstreamError::Space { dir: self.dir.display().to_string(), needed, free }),
        }
    }

    /// Removes all files but those that are `wanted`: an older sync left them.
    ///
    /// # Errors
    /// [`UpstreamError::File`].
    pub fn keep_only(&self, wanted: &dyn Fn(&Digest) -> bool) -> Result<(), UpstreamError> {
        for (name, _) in crate::files::list(&self.dir)? {
            let digest = Digest::from_hex(name.trim_end_matches(".part"));
            if !digest.is_ok_and(|digest| wanted(&digest)) {
                volary_host::remove_if_exists(&self.dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Removes all of it.
    ///
    /// # Errors
    /// [`UpstreamError::File`].
    pub fn clear(&self) -> Result<(), UpstreamError> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(FileError::at("remove", &self.dir)(error).into())
            }
            _ => Ok(()),
        }
    }
}

/// What a sync or an import does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It fetches and reads the indexes.
    Reading,
    /// It fetches packages.
    Fetching {
        /// How many files.
        files: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// It publishes.
    Publishing,
}

/// What a sync or an import tells, and asks.
pub trait Watch: Send + Sync {
    /// It goes on to the next step.
    fn step(&self, step: Step);
    /// So many bytes more are here.
    fn fetched(&self, bytes: u64);
    /// One file more is whole.
    fn whole(&self);
    /// True if somebody wants it to end.
    fn is_stopped(&self) -> bool;
}

/// One place, one staging folder.
pub struct Job<'a> {
    /// Where files come from.
    pub fetch: &'a dyn Fetch,
    /// Where they go.
    pub staging: &'a Staging,
    /// With a bad link.
    pub patience: Patience,
    /// Who wants to know.
    pub watch: &'a dyn Watch,
}

impl std::fmt::Debug for Job<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("staging", &self.staging).finish_non_exhaustive()
    }
}

/// A file in the making, with the hash of what it has.
struct Part {
    file: File,
    path: PathBuf,
    hasher: Sha256,
    have: u64,
}

impl Job<'_> {
    /// Brings all files, `parallel` at once. `done` is called with each that is whole, on the
    /// thread that brought it.
    ///
    /// # Errors
    /// The first failure. What is here already stays for the next time.
    pub fn fetch_all(
        &self,
        wanted: &[Wanted],
        parallel: usize,
        done: &(dyn Fn(usize, &Path) -> Result<(), UpstreamError> + Sync),
    ) -> Result<(), UpstreamError> {
        let queue = Mutex::new(wanted.iter().enumerate());
        let failure = Mutex::new(None);
        let failed = AtomicBool::new(false);
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let next = queue.lock().expect("nobody panics with this lock").next();
                let Some((index, one)) = next else { return };
                let fetched = self.fetch_one(one).and_then(|path| done(index, &path));
                self.watch.whole();
                if let Err(error) = fetched {
                    failed.store(true, Ordering::Relaxed);
                    failure.lock().expect("nobody panics with this lock").get_or_insert(error);
                }
            }
        };
        std::thread::scope(|scope| {
            (1..parallel.min(wanted.len())).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        failure.into_inner().expect("nobody panics with this lock").map_or(Ok(()), Err)
    }

    /// Brings one file, and returns where it is.
    ///
    /// # Errors
    /// [`UpstreamError`]: the link is too bad, or what came is not what is listed.
    pub fn fetch_one(&self, wanted: &Wanted) -> Result<PathBuf, UpstreamError> {
        let whole = self.staging.path(&wanted.sha256);
        if whole.is_file() {
            // It was checked once, but a power cut may have taken its content.
            if hash_of(&whole)? == wanted.sha256 {
                self.watch.fetched(wanted.size);
                return Ok(whole);
            }
            volary_host::remove_if_exists(&whole)?;
        }
        let mut part = Part::open(&self.staging.part(&wanted.sha256), wanted.size)?;
        let resumed = part.have > 0;
        self.watch.fetched(part.have);
        self.complete(&mut part, wanted)?;
        let mut found = part.digest();
        if found != wanted.sha256 && resumed {
            // What an earlier run left was wrong, perhaps: a power cut may damage a part.
            part.restart()?;
            self.complete(&mut part, wanted)?;
            found = part.digest();
        }
        if found != wanted.sha256 {
            volary_host::remove_if_exists(&part.path)?;
            let (path, expected) = (wanted.path.clone(), wanted.sha256.hex());
            return Err(UpstreamError::Mismatch { path, what: "SHA-256", expected, found: found.hex() });
        }
        fs::rename(&part.path, &whole).map_err(FileError::at("rename", &part.path))?;
        Ok(whole)
    }

    /// Reads on until the part has all bytes.
    fn complete(&self, part: &mut Part, wanted: &Wanted) -> Result<(), UpstreamError> {
        let mut fruitless = 0;
        while part.have < wanted.size {
            let before = part.have;
            let error = match self.attempt(part, wanted) {
                Ok(()) => continue,
                Err(UpstreamError::Fetch(error)) if !error.lasting => error,
                Err(error) => return Err(error),
            };
            fruitless = if part.have > before { 0 } else { fruitless + 1 };
            if fruitless >= self.patience.attempts {
                return Err(error.into());
            }
            if part.have == before {
                self.pause(fruitless)?;
            }
        }
        Ok(())
    }

    /// Waits before the next attempt, and listens meanwhile.
    fn pause(&self, fruitless: u32) -> Result<(), UpstreamError> {
        const STEP: Duration = Duration::from_millis(100);
        let mut left = self.patience.pause * 2_u32.saturating_pow(fruitless.saturating_sub(1)).min(64);
        while !left.is_zero() {
            if self.watch.is_stopped() {
                return Err(UpstreamError::Stopped);
            }
            std::thread::sleep(left.min(STEP));
            left = left.saturating_sub(STEP);
        }
        Ok(())
    }

    /// One request: as many bytes as it brings.
    fn attempt(&self, part: &mut Part, wanted: &Wanted) -> Result<(), UpstreamError> {
        let paths = wanted.by_hash.iter().chain([&wanted.path]);
        let mut opened = None;
        for path in paths {
            opened = self.fetch.open(path, part.have, wanted.size)?.map(|opened| (path, opened));
            if opened.is_some() {
                break;
            }
        }
        let Some((path, mut opened)) = opened else {
            return Err(UpstreamError::Gone { place: self.fetch.place(), path: wanted.path.clone() });
        };
        if opened.from != part.have {
            part.restart()?;
        }
        let mut buffer = vec![0; CHUNK];
        while part.have < wanted.size {
            if self.watch.is_stopped() {
                return Err(UpstreamError::Stopped);
            }
            let broken = |problem: String| FetchError { path: path.clone(), problem, lasting: false };
            let room = usize::try_from(wanted.size - part.have).map_or(CHUNK, |left| left.min(CHUNK));
            match opened.reader.read(&mut buffer[..room]) {
                Ok(0) => {
                    let problem = format!("it ended after {} of {} bytes", part.have, wanted.size);
                    return Err(broken(problem).into());
                }
                Ok(count) => {
                    part.write(&buffer[..count])?;
                    self.watch.fetched(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(broken(error.to_string()).into()),
            }
        }
        Ok(())
    }
}

impl Part {
    /// Opens what an earlier run left, or a new one.
    fn open(path: &Path, size: u64) -> Result<Self, UpstreamError> {
        let failed = |error| FileError::at("write", path)(error);
        let options = OpenOptions::new().create(true).read(true).write(true).truncate(false).clone();
        let mut file = options.open(path).map_err(failed)?;
        let mut hasher = Sha256::new();
        let mut have = copy(&mut file, &mut hasher).map_err(failed)?;
        if have > size {
            file.set_len(0).and_then(|()| file.rewind()).map_err(failed)?;
            (hasher, have) = (Sha256::new(), 0);
        }
        Ok(Self { file, path: path.to_owned(), hasher, have })
    }

    fn restart(&mut self) -> Result<(), UpstreamError> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(FileError::at("write", &self.path))?;
        (self.hasher, self.have) = (Sha256::new(), 0);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), UpstreamError> {
        self.file.write_all(bytes).map_err(FileError::at("write", &self.path))?;
        self.hasher.update(bytes);
        self.have += bytes.len() as u64;
        Ok(())
    }

    fn digest(&self) -> Digest {
        Digest::from_bytes(self.hasher.clone().finalize().into())
    }
}

fn copy(file: &mut File, hasher: &mut Sha256) -> io::Result<u64> {
    let mut buffer = vec![0; CHUNK];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(total),
            count => {
                hasher.update(&buffer[..count]);
                total += count as u64;
            }
        }
    }
}

/// SHA-256 of a file.
pub(super) fn hash_of(path: &Path) -> Result<Digest, UpstreamError> {
    let mut hasher = Sha256::new();
    let read = File::open(path).and_then(|mut file| copy(&mut file, &mut hasher));
    read.map_err(FileError::at("read", path))?;
    Ok(Digest::from_bytes(hasher.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::fetch::Opened;
    use std::sync::atomic::{AtomicU64, AtomicUsize};

    /// Serves one file, but breaks off each time after some bytes, and counts.
    struct Cutting {
        content: Vec<u8>,
        /// Bytes for each request; none left means nothing comes.
        each: usize,
        ranges: bool,
        requests: AtomicUsize,
        sent: AtomicU64,
    }

    impl Cutting {
        fn new(content: &[u8], each: usize) -> Self {
            let (requests, sent) = (AtomicUsize::new(0), AtomicU64::new(0));
            Self { content: content.to_vec(), each, ranges: true, requests, sent }
        }
    }

    impl Fetch for Cutting {
        fn place(&self) -> String {
            "a cutting server".to_owned()
        }

        fn open(&self, path: &str, from: u64, _: u64) -> Result<Option<Opened>, FetchError> {
            if path != "file" {
                return Ok(None);
            }
            self.requests.fetch_add(1, Ordering::Relaxed);
            let from = if self.ranges { from } else { 0 };
            let rest = &self.content[from as usize..];
            let part = rest[..rest.len().min(self.each)].to_vec();
            self.sent.fetch_add(part.len() as u64, Ordering::Relaxed);
            Ok(Some(Opened { from, reader: Box::new(io::Cursor::new(part)) }))
        }
    }

    #[derive(Default)]
    struct Counter {
        bytes: AtomicU64,
        stop_after: Option<u64>,
    }

    impl Watch for Counter {
        fn step(&self, _: Step) {}

        fn whole(&self) {}

        fn fetched(&self, bytes: u64) {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }

        fn is_stopped(&self) -> bool {
            self.stop_after.is_some_and(|limit| self.bytes.load(Ordering::Relaxed) >= limit)
        }
    }

    fn wanted(content: &[u8]) -> Wanted {
        let sha256 = Digest::from_bytes(Sha256::digest(content).into());
        Wanted {
            path: "file".to_owned(),
            by_hash: Some("hash".to_owned()),
            size: content.len() as u64,
            sha256,
        }
    }

    const IMPATIENT: Patience = Patience { attempts: 3, pause: Duration::ZERO };

    struct Lab {
        dir: tempfile::TempDir,
        watch: Counter,
    }

    impl Lab {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), watch: Counter::default() }
        }

        fn fetch(&self, server: &Cutting, wanted: &Wanted) -> Result<Vec<u8>, UpstreamError> {
            let staging = Staging::new(&self.dir.path().join("staging"))?;
            let job = Job { fetch: server, staging: &staging, patience: IMPATIENT, watch: &self.watch };
            Ok(volary_host::read(&job.fetch_one(wanted)?)?)
        }
    }

    fn content() -> Vec<u8> {
        (0..300_000_u32).flat_map(u32::to_le_bytes).collect()
    }

    #[test]
    fn a_link_that_breaks_off_again_and_again_brings_it_in_the_end() {
        let content = content();
        let server = Cutting::new(&content, 100_000);
        let lab = Lab::new();
        assert!(lab.fetch(&server, &wanted(&content)).unwrap() == content);
        assert_eq!(server.requests.load(Ordering::Relaxed), 12);
        assert_eq!(server.sent.load(Ordering::Relaxed), content.len() as u64, "no byte came twice");
    }

    #[test]
    fn a_dead_link_ends_and_what_came_is_kept() {
        let content = content();
        let mut server = Cutting::new(&content, 0);
        let lab = Lab::new();
        let error = lab.fetch(&server, &wanted(&content)).unwrap_err().to_string();
        assert_eq!(error, "file cannot be fetched: it ended after 0 of 1200000 bytes");
        assert_eq!(server.requests.load(Ordering::Relaxed), 3);
        server.each = usize::MAX;
        let stopping = Lab { watch: Counter { stop_after: Some(500_000), ..Counter::default() }, ..lab };
        let error = stopping.fetch(&server, &wanted(&content)).unwrap_err();
        assert!(matches!(error, UpstreamError::Stopped), "{error}");
        let again = Lab { watch: Counter::default(), ..stopping };
        server.sent = AtomicU64::new(0);
        assert!(again.fetch(&server, &wanted(&content)).unwrap() == content);
        assert!(server.sent.load(Ordering::Relaxed) <= 700_000, "it went on where it was");
        // Whole already: nothing is asked for.
        server.requests = AtomicUsize::new(0);
        assert!(again.fetch(&server, &wanted(&content)).unwrap() == content);
        assert_eq!(server.requests.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_server_without_ranges_begins_anew() {
        let content = content();
        let mut server = Cutting::new(&content, usize::MAX);
        server.ranges = false;
        let lab = Lab::new();
        let part = lab.dir.path().join(format!("staging/{}.part", wanted(&content).sha256.hex()));
        volary_host::create_dir(part.parent().unwrap()).unwrap();
        volary_host::write_atomic(&part, &content[..1000], 0o644).unwrap();
        assert!(lab.fetch(&server, &wanted(&content)).unwrap() == content);
    }

    #[test]
    fn damaged_leftovers_are_not_believed() {
        let content = content();
        let server = Cutting::new(&content, usize::MAX);
        let lab = Lab::new();
        let whole = lab.dir.path().join("staging").join(wanted(&content).sha256.hex());
        let part = whole.with_extension("part");
        volary_host::create_dir(part.parent().unwrap()).unwrap();
        for (path, bytes) in
            [(&part, vec![1; 1000]), (&whole, vec![0; content.len()]), (&part, vec![1; 2_000_000])]
        {
            volary_host::remove_if_exists(&whole).unwrap();
            volary_host::write_atomic(path, &bytes, 0o644).unwrap();
            assert!(lab.fetch(&server, &wanted(&content)).unwrap() == content, "{}", bytes.len());
        }
    }

    #[test]
    fn another_content_is_refused_and_leaves_nothing() {
        let mut other = content();
        other[7] ^= 1;
        let server = Cutting::new(&other, usize::MAX);
        let lab = Lab::new();
        let error = lab.fetch(&server, &wanted(&content())).unwrap_err().to_string();
        assert!(error.contains("file has SHA-256"), "{error}");
        assert_eq!(fs::read_dir(lab.dir.path().join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_not_begun() {
        let lab = Lab::new();
        let staging = Staging::new(lab.dir.path()).unwrap();
        let huge = Wanted { size: u64::MAX / 2, ..wanted(b"x") };
        let error = staging.check_space(&[huge]).unwrap_err().to_string();
        assert!(error.contains("bytes are needed in"), "{error}");
        staging.check_space(&[wanted(b"x")]).unwrap();
    }
}
