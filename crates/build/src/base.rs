//! The chroot that all builds start from: made by mmdebstrap, kept unpacked, never written to.
//!
//! `chroots/SUITE-ARCH/ID/` has `rootfs/`, `stamp.json` (what it is), `archives/` (downloaded .deb
//! files), `layers/` and `resolved/` (see the layers module). A new one is made in a build's place and renamed
//! here, so that what is here is always whole; ids sort by age, and the newest that fits is used.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use volary_host::{Cmd, CmdError, Lock, LockError, create_dir, write_atomic};
use volary_model::{Architecture, BuildMethod};

use crate::builder::BuilderConfig;
use crate::cache::{Cache, Place};
use crate::diagnose::diagnose;
use crate::emulate::Emulator;
use crate::error::SetupError;
use crate::log::Log;
use crate::repository::at;

/// The hook that finishes the chroot.
const FINISH: &str = include_str!("base.sh");

/// Rises with every change of what is put into the chroot, so that older ones are not used.
const RECIPE: u32 = 1;

/// Downloading and unpacking 150 packages over a slow link.
const MAKE_LIMIT: Duration = Duration::from_secs(3600);

/// When a chroot is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// When there is none, or it is older than the configured age.
    WhenOld,
    /// Now.
    Now,
}

/// Which chroot is wanted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind<'a> {
    pub(crate) config: &'a BuilderConfig,
    /// What is built for.
    pub(crate) architecture: &'a Architecture,
    pub(crate) method: BuildMethod,
}

impl Kind<'_> {
    /// The architecture whose programs are in it.
    fn runs(&self) -> &str {
        match self.method {
            BuildMethod::Native | BuildMethod::Cross => &self.config.architecture,
            BuildMethod::Emulated => self.architecture.as_str(),
        }
    }

    /// The architecture that it has a cross-compiler for.
    fn cross(&self) -> Option<&str> {
        (self.method == BuildMethod::Cross).then_some(self.architecture.as_str())
    }

    /// Its folder under `chroots`.
    fn family(&self) -> String {
        match self.cross() {
            None => format!("{}-{}", self.config.suite, self.runs()),
            Some(target) => format!("{}-{}-to-{target}", self.config.suite, self.runs()),
        }
    }
}

/// What a chroot is. Stored beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    version: u32,
    recipe: u32,
    suite: String,
    architecture: String,
    /// What it has a cross-compiler for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cross: Option<String>,
    mirrors: Vec<String>,
    made: Timestamp,
}

/// A chroot that is there.
#[derive(Debug, Clone)]
pub(crate) struct Base {
    dir: PathBuf,
    /// As it is noted in `uses`.
    pub(crate) id: String,
    /// When its package lists were fetched.
    pub(crate) made: Timestamp,
    /// What runs its programs, if this machine cannot.
    pub(crate) emulator: Option<Emulator>,
}

impl Base {
    #[cfg(test)]
    pub(crate) fn at(dir: PathBuf, id: &str, made: Timestamp) -> Self {
        Self { dir, id: id.to_owned(), made, emulator: None }
    }

    /// What apt answered to which question.
    pub(crate) fn resolved(&self) -> PathBuf {
        self.dir.join("resolved")
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    pub(crate) fn archives(&self) -> PathBuf {
        self.dir.join("archives")
    }

    pub(crate) fn layers(&self) -> PathBuf {
        self.dir.join("layers")
    }
}

/// The chroot to build in, made if need be; it is noted as used by `place`.
pub(crate) fn ensure(
    cache: &Cache,
    kind: &Kind<'_>,
    renewal: Renewal,
    place: &Place,
    log: &mut Log<'_>,
) -> Result<Base, SetupError> {
    let asked = volary_host::now();
    if renewal == Renewal::WhenOld
        && let Some(base) = newest(cache, kind, place)?
    {
        return Ok(base);
    }
    let family = family(cache, kind);
    create_dir(&family)?;
    let _making = lock_to_make(&family.join("making.lock"), place)?;
    // Whoever held the lock before may have made what we want.
    if let Some(base) = newest(cache, kind, place)?
        && (renewal == Renewal::WhenOld || base.made >= asked)
    {
        return Ok(base);
    }
    cache.check_space()?;
    make(cache, kind, place, log)?;
    remove_old(cache, &family)?;
    Ok(newest(cache, kind, place)?.expect("the chroot that was just made is there"))
}

/// The lock for making a chroot of a family, which takes minutes: so that whoever waits for it
/// can be stopped.
fn lock_to_make(path: &Path, place: &Place) -> Result<Lock, SetupError> {
    let started = Instant::now();
    loop {
        match Lock::acquire(path, Duration::from_millis(200)) {
            Err(LockError::Held(_)) if place.stop().is_asked() => return Err(SetupError::Stopped),
            Err(LockError::Held(_)) if started.elapsed() < MAKE_LIMIT => {}
            other => return Ok(other?),
        }
    }
}

fn family(cache: &Cache, kind: &Kind<'_>) -> PathBuf {
    cache.root().join("chroots").join(kind.family())
}

/// The ids in a family, oldest first.
fn ids(family: &Path) -> Vec<String> {
    let mut ids: Vec<String> = fs::read_dir(family)
        .map(|entries| {
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        })
        .unwrap_or_default();
    ids.retain(|id| id.starts_with(|c: char| c.is_ascii_digit()));
    ids.sort();
    ids
}

fn newest(cache: &Cache, kind: &Kind<'_>, place: &Place) -> Result<Option<Base>, SetupError> {
    let emulator = match kind.method {
        BuildMethod::Native | BuildMethod::Cross => None,
        BuildMethod::Emulated => Some(Emulator::of(kind.architecture)?),
    };
    let _books = cache.lock()?;
    let family = family(cache, kind);
    let oldest = volary_host::now()
        .checked_sub(SignedDuration::try_from(kind.config.renew_after).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MIN);
    for id in ids(&family).into_iter().rev() {
        let dir = family.join(&id);
        let text = fs::read_to_string(dir.join("stamp.json")).unwrap_or_default();
        // A stamp of another version of this program is not an error: that chroot is not for us.
        let Ok(stamp) = serde_json::from_str::<Stamp>(&text) else { continue };
        let fits = Stamp { made: stamp.made, ..wanted(kind) } == stamp;
        if fits && stamp.made >= oldest {
            let name = family.file_name().expect("a family has a name").to_string_lossy();
            let id = format!("{name}/{id}");
            place.uses(std::slice::from_ref(&id))?;
            return Ok(Some(Base { dir, id, made: stamp.made, emulator }));
        }
    }
    Ok(None)
}

fn wanted(kind: &Kind<'_>) -> Stamp {
    Stamp {
        version: 1,
        recipe: RECIPE,
        suite: kind.config.suite.clone(),
        architecture: kind.runs().to_owned(),
        cross: kind.cross().map(str::to_owned),
        mirrors: kind.config.mirrors.clone(),
        made: volary_host::now(),
    }
}

fn make(cache: &Cache, kind: &Kind<'_>, place: &Place, log: &mut Log<'_>) -> Result<(), SetupError> {
    let config = kind.config;
    let new = place.dir().join("base");
    let stamp = wanted(kind);
    for dir in ["rootfs", "archives", "layers"] {
        create_dir(&new.join(dir))?;
    }
    let before = log.lines();
    let spaces = ["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
    let entered = match kind.method {
        BuildMethod::Native | BuildMethod::Cross => cache.isolation().unshare(&spaces),
        BuildMethod::Emulated => {
            let at = place.dir().join("emulate");
            create_dir(&at)?;
            cache.isolation().unshare_with(&Emulator::of(kind.architecture)?, &at, &spaces)
        }
    };
    let (architectures, include) = match kind.cross() {
        None => (kind.runs().to_owned(), String::new()),
        Some(target) => {
            (format!("{},{target}", kind.runs()), format!(",crossbuild-essential-{target},libc-dev:{target}"))
        }
    };
    let command = entered
        .args(["mmdebstrap", "--mode=root", "--format=directory", "--variant=buildd"])
        .args(["--architectures", &architectures])
        // dpkg-buildpackage needs it for packages that want root while they are put together.
        .arg(format!("--include=fakeroot{include}"))
        // mmdebstrap looks for what runs another architecture in the machine, not in a namespace.
        .args(["--dpkgopt=force-unsafe-io", "--skip=check/empty,check/qemu,cleanup/apt"])
        .args(["--aptopt=APT::Install-Recommends \"false\"", "--aptopt=Acquire::Languages \"none\""])
        .args(["--aptopt=Acquire::Retries \"3\"", "--aptopt=Dpkg::Use-Pty \"0\""])
        .arg(format!("--customize-hook=cross={}\n{FINISH}", kind.cross().unwrap_or_default()))
        .arg(&config.suite)
        .arg(new.join("rootfs"))
        .args(&config.mirrors)
        .cwd("/")
        .stop(place.stop())
        .timeout(MAKE_LIMIT);
    command.check_lines(&mut |line| log.line(line)).map_err(|error| {
        let said = log.since(before);
        let reason = match &error {
            CmdError::Failed { .. } => diagnose(&said),
            CmdError::TimedOut { .. } => format!("it took more than {} s", MAKE_LIMIT.as_secs()),
            CmdError::Stopped { .. } => return SetupError::Stopped,
            CmdError::Start { .. } | CmdError::Pipe { .. } => error.to_string(),
        };
        if cache.is_full() {
            return cache.check_space().expect_err("a full disk has no room");
        }
        SetupError::Base { name: kind.family(), reason, tail: log.tail() }
    })?;
    let text = serde_json::to_vec_pretty(&stamp).expect("a stamp is plain data");
    write_atomic(&new.join("stamp.json"), &text, 0o644)?;
    // All of it must be on the disk before its name says that it is whole.
    Cmd::new("sync").arg("--file-system").arg(&new).timeout(MAKE_LIMIT).check()?;

    let _books = cache.lock()?;
    let id = stamp.made.strftime("%Y%m%dT%H%M%SZ").to_string();
    let target = family(cache, kind).join(id);
    fs::rename(&new, &target).map_err(at("move the new chroot to", &target))?;
    Ok(volary_host::sync_dir(&family(cache, kind))?)
}

/// Removes all chroots of a family but the newest and those that builds still use.
fn remove_old(cache: &Cache, family: &Path) -> Result<(), SetupError> {
    let trash = cache.place("old-chroots")?;
    {
        let _books = cache.lock()?;
        let used = cache.in_use()?;
        let name = family.file_name().expect("a family has a name").to_string_lossy().into_owned();
        let mut ids = ids(family);
        ids.pop();
        for id in ids {
            let part = format!("{name}/{id}");
            if !used.iter().any(|used| used.starts_with(&part)) {
                let from = family.join(&id);
                // Renamed under the lock, removed without it: the latter takes seconds.
                fs::rename(&from, trash.dir().join(&id)).map_err(at("remove", &from))?;
            }
        }
    }
    Ok(())
}
