//! The builder's folder: chroots that are kept, and a place for each running build. Several
//! builders may share it; what a killed one left behind is removed by the next.
//!
//! ```text
//! build/                    in the cache of Volary; all that follows is in it
//! lock                      held for moments, while places and chroots are handed out or removed
//! chroots/SUITE-ARCH/ID/    see the base and depends modules
//! work/NAME/                one running build; `uses` names the chroot parts that it reads
//! work/NAME.lock            held as long as that build lives
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_host::{Lock, LockError, Stop, create_dir, remove_if_exists, write_atomic};

use crate::error::SetupError;
use crate::isolation::Isolation;
use crate::repository::at;

/// The bookkeeping lock is held for a rename or two; who waits this long waits for a broken disk.
const LOCK_WAIT: Duration = Duration::from_secs(120);

/// With less than this free, a build would most likely die of it: a small one writes 200 MiB.
const NEEDED_MIB: u64 = 512;

/// Where builders keep their chroots unless told otherwise: `$VOLARY_CACHE`, or `/var/cache/volary`
/// for root, or `volary` in the user's cache folder.
pub fn default_cache() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = variable("VOLARY_CACHE") {
        return path;
    }
    if Isolation::here() == Isolation::Root {
        return PathBuf::from("/var/cache/volary");
    }
    let home_cache = || variable("HOME").map(|home| home.join(".cache"));
    variable("XDG_CACHE_HOME").or_else(home_cache).unwrap_or_else(|| PathBuf::from("/tmp")).join("volary")
}

/// The folder, opened.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    root: PathBuf,
    isolation: Isolation,
    boot: String,
}

/// A folder of one running build, removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    dir: PathBuf,
    lock_path: PathBuf,
    isolation: Isolation,
    /// Ends what is done here.
    stop: Stop,
    _lock: Lock,
}

impl Cache {
    pub(crate) fn open(root: &Path, isolation: Isolation) -> Result<Self, SetupError> {
        // Other caches of Volary may live beside ours.
        let root = std::path::absolute(root).map_err(at("resolve", root))?.join("build");
        // These separate overlay options and the fields of a bind.
        let reserved = |c: &char| matches!(c, ':' | ',' | '\\') || c.is_whitespace();
        if let Some(character) = root.to_string_lossy().chars().find(reserved) {
            return Err(SetupError::CachePath { path: root, character });
        }
        for dir in ["chroots", "work"] {
            create_dir(&root.join(dir))?;
        }
        let boot = volary_host::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?;
        let cache = Self { root, isolation, boot: boot.trim().to_owned() };
        cache.clean()?;
        Ok(cache)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn isolation(&self) -> Isolation {
        self.isolation
    }

    /// Names this start of the machine.
    pub(crate) fn boot(&self) -> &str {
        &self.boot
    }

    /// The bookkeeping lock. Never held while something long is done.
    pub(crate) fn lock(&self) -> Result<Lock, SetupError> {
        Ok(Lock::acquire(&self.root.join("lock"), LOCK_WAIT)?)
    }

    /// A new empty folder for one build, whose name begins with `name`.
    pub(crate) fn place(&self, name: &str) -> Result<Place, SetupError> {
        let _books = self.lock()?;
        let work = self.root.join("work");
        for count in 1.. {
            let dir = work.join(format!("{name}.{count}"));
            let lock_path = work.join(format!("{name}.{count}.lock"));
            if dir.exists() {
                continue;
            }
            let lock = match Lock::acquire(&lock_path, Duration::ZERO) {
                Ok(lock) => lock,
                Err(LockError::Held(_)) => continue,
                Err(error) => return Err(error.into()),
            };
            fs::create_dir(&dir).map_err(at("create", &dir))?;
            let stop = Stop::default();
            return Ok(Place { dir, lock_path, isolation: self.isolation, stop, _lock: lock });
        }
        unreachable!("a number is free")
    }

    /// Removes what builders left behind that are no more.
    fn clean(&self) -> Result<(), SetupError> {
        let mut left = Vec::new();
        {
            let _books = self.lock()?;
            for name in self.work_names()? {
                let lock_path = self.root.join("work").join(format!("{name}.lock"));
                if let Ok(lock) = Lock::acquire(&lock_path, Duration::ZERO) {
                    let dir = self.root.join("work").join(&name);
                    let stop = Stop::default();
                    left.push(Place { dir, lock_path, isolation: self.isolation, stop, _lock: lock });
                }
            }
        }
        for place in &left {
            tracing::info!(place = %place.dir.display(), "removing what a build left behind");
        }
        Ok(())
    }

    fn work_names(&self) -> Result<BTreeSet<String>, SetupError> {
        let work = self.root.join("work");
        let mut names = BTreeSet::new();
        for entry in fs::read_dir(&work).map_err(at("read", &work))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            names.insert(name.strip_suffix(".lock").map(str::to_owned).unwrap_or(name));
        }
        Ok(names)
    }

    /// The parts of chroots that living builds read. Ask while holding the bookkeeping lock.
    pub(crate) fn in_use(&self) -> Result<BTreeSet<String>, SetupError> {
        let mut used = BTreeSet::new();
        for name in self.work_names()? {
            let text = fs::read_to_string(self.root.join("work").join(name).join("uses")).unwrap_or_default();
            used.extend(text.lines().map(str::to_owned));
        }
        Ok(used)
    }

    /// Refuses to begin what would most likely die of a full disk.
    pub(crate) fn check_space(&self) -> Result<(), SetupError> {
        let free_mib = self.free_mib()?;
        if free_mib < NEEDED_MIB {
            return Err(SetupError::DiskFull { path: self.root.clone(), free_mib, needed_mib: NEEDED_MIB });
        }
        Ok(())
    }

    /// True if so little is free that a failure just now was most likely because of it.
    pub(crate) fn is_full(&self) -> bool {
        self.free_mib().is_ok_and(|free| free < 16)
    }

    fn free_mib(&self) -> Result<u64, SetupError> {
        let stat =
            rustix::fs::statvfs(&self.root).map_err(|error| at("measure", &self.root)(error.into()))?;
        Ok((stat.f_bavail * stat.f_frsize) >> 20)
    }
}

impl Place {
    /// The same place, for work that can be stopped.
    pub(crate) fn stoppable(mut self, stop: &Stop) -> Self {
        self.stop = stop.clone();
        self
    }

    pub(crate) fn stop(&self) -> &Stop {
        &self.stop
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Notes which parts of chroots this build reads, so that nobody removes them. To be called
    /// while holding the bookkeeping lock, before the part is used.
    pub(crate) fn uses(&self, parts: &[String]) -> Result<(), SetupError> {
        Ok(write_atomic(&self.dir.join("uses"), parts.join("\n").as_bytes(), 0o644)?)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.isolation.remove(&self.dir) {
            tracing::warn!(%error, "a build's folder stays; the next start removes it");
            return;
        }
        let _ = remove_if_exists(&self.lock_path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::open(&dir.path().join("cache"), Isolation::here()).unwrap();
        (dir, cache)
    }

    fn work(cache: &Cache) -> usize {
        fs::read_dir(cache.root().join("work")).unwrap().count()
    }

    #[test]
    fn a_place_vanishes_with_its_build() {
        let (_dir, cache) = cache();
        let (one, two) = (cache.place("hello-1").unwrap(), cache.place("hello-1").unwrap());
        assert_ne!(one.dir(), two.dir());
        drop((one, two));
        assert_eq!(work(&cache), 0);
    }

    #[test]
    fn what_a_killed_builder_left_is_removed_and_the_living_are_spared() {
        let (_dir, cache) = cache();
        let living = cache.place("living").unwrap();
        living.uses(&["base".to_owned()]).unwrap();
        let dead = cache.root().join("work/dead.1/upper/deep");
        fs::create_dir_all(&dead).unwrap();
        let again = Cache::open(cache.root().parent().unwrap(), Isolation::here()).unwrap();
        assert!(living.dir().exists());
        assert!(!cache.root().join("work/dead.1").exists());
        assert_eq!(again.in_use().unwrap(), BTreeSet::from(["base".to_owned()]));
        drop(living);
        assert_eq!(work(&cache), 0);
    }

    #[test]
    fn a_path_that_mount_options_cannot_hold_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a:b", "a b", "a,b"] {
            let error = Cache::open(&dir.path().join(name), Isolation::here()).unwrap_err();
            assert!(matches!(error, SetupError::CachePath { .. }), "{error}");
        }
    }
}
