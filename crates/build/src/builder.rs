//! One build from a commit to packages: the order of the steps, and nothing of how each is done.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use volary_host::{Cmd, Stop, remove_if_exists, write_atomic};
use volary_model::{CommitId, SourceName};

use crate::base::{self, Renewal};
use crate::cache::{Cache, Place, default_cache};
use crate::changelog::{Changelog, NewEntry};
use crate::collect::{Collected, collect, read_bounded};
use crate::depends::{self, Wanted};
use crate::diagnose::diagnose;
use crate::error::{BuildError, SetupError};
use crate::isolation::{Ended, Isolation, Network, Run, RunAs};
use crate::limits::{Broken, Limits, Watch};
use crate::log::Log;
use crate::repository::{CommitInfo, Repository, at};
use crate::sources::AptSource;
use crate::version::version_for;

/// How builds are done on this machine.
#[derive(Debug, Clone)]
pub struct BuilderConfig {
    /// The folder for chroots and running builds; on ext4, xfs or btrfs. Several builders may
    /// share it.
    pub cache: PathBuf,
    /// The Debian suite to build in: `bookworm`.
    pub suite: String,
    /// What mmdebstrap gets as mirrors: URLs, or lines of sources.list. Empty for its defaults.
    pub mirrors: Vec<String>,
    /// A chroot older than this is made anew.
    pub renew_after: Duration,
    /// How rights are had.
    pub isolation: Isolation,
    /// The architecture to build on and for. Empty for the machine's own.
    pub architecture: String,
    /// How many processes a build may run at a time.
    pub jobs: usize,
}

impl Default for BuilderConfig {
    fn default() -> Self {
        Self {
            cache: default_cache(),
            suite: "bookworm".to_owned(),
            mirrors: Vec::new(),
            renew_after: Duration::from_secs(7 * 24 * 3600),
            isolation: Isolation::here(),
            architecture: String::new(),
            jobs: std::thread::available_parallelism().map_or(1, usize::from),
        }
    }
}

/// What to build.
#[derive(Debug, Clone)]
pub struct BuildRequest {
    /// The name under which the source is known; only for the names of folders.
    pub source: SourceName,
    /// The repository that has the commit.
    pub repository: PathBuf,
    /// The commit to build.
    pub commit: CommitId,
    /// The number of this build of this source; it must rise with every commit.
    pub number: u64,
    /// The folder for the packages; it is made if need be.
    pub output: PathBuf,
    /// The file for the whole log, which can be read while it grows.
    pub log: PathBuf,
    /// How long it may take, without the time to make a chroot.
    pub timeout: Duration,
    /// What else bounds it.
    pub limits: Limits,
    /// Cancels it.
    pub stop: Stop,
    /// Archives besides the suite's own.
    pub extra_sources: Vec<AptSource>,
}

/// What was built.
#[derive(Debug, Clone)]
pub struct Built {
    /// The source package's name, from its changelog.
    pub package: String,
    /// The version of the packages.
    pub version: String,
    /// The commit.
    pub commit: CommitInfo,
    /// The architecture that was built.
    pub architecture: String,
    /// All files: .deb, .buildinfo, .changes.
    pub files: Vec<PathBuf>,
    /// The .changes among them.
    pub changes: PathBuf,
    /// How long all took.
    pub duration: Duration,
    /// How long each step took, in their order.
    pub phases: Vec<PhaseTime>,
}

/// How long one step took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhaseTime {
    /// The step.
    pub phase: Phase,
    /// Its wall time.
    pub duration: Duration,
}

/// The steps of a build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A chroot is made; most builds find one.
    Base,
    /// The commit's files are written out and get their version.
    Unpack,
    /// What it build-depends on is installed.
    Dependencies,
    /// `dpkg-buildpackage` runs.
    Build,
    /// The packages are taken out.
    Collect,
}

impl Phase {
    /// What is being done, to go after "while": "installing build dependencies".
    pub fn doing(self) -> &'static str {
        match self {
            Self::Base => "making the chroot",
            Self::Unpack => "unpacking the source",
            Self::Dependencies => "installing build dependencies",
            Self::Build => "building",
            Self::Collect => "collecting the packages",
        }
    }

    /// One lower-case word, for records and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Unpack => "unpack",
            Self::Dependencies => "dependencies",
            Self::Build => "build",
            Self::Collect => "collect",
        }
    }
}

/// What a build says while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A step begins.
    Phase(Phase),
    /// A line of the log.
    Line(&'a str),
}

/// Builds packages on this machine.
#[derive(Debug, Clone)]
pub struct Builder {
    config: BuilderConfig,
    cache: Cache,
}

/// The programs of this machine that builds need, and the Debian packages that have them.
const PROGRAMS: [(&str, &str); 10] = [
    ("git", "git"),
    ("mmdebstrap", "mmdebstrap"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("prlimit", "util-linux"),
    ("mount", "mount"),
    ("ip", "iproute2"),
    ("hostname", "hostname"),
    ("dpkg", "dpkg"),
    ("sync", "coreutils"),
];

impl Builder {
    /// Checks what this machine has, and removes what a killed builder left.
    ///
    /// # Errors
    /// [`SetupError`] with the program that is missing, or the folder that cannot be used.
    pub fn open(mut config: BuilderConfig) -> Result<Self, SetupError> {
        for (program, package) in PROGRAMS {
            if !is_installed(program) {
                return Err(SetupError::MissingProgram { program, package });
            }
        }
        if config.isolation == Isolation::User {
            check_subordinate_ids()?;
        }
        if config.architecture.is_empty() {
            config.architecture =
                Cmd::new("dpkg").arg("--print-architecture").check()?.text().trim().to_owned();
        }
        let cache = Cache::open(&config.cache, config.isolation)?;
        Ok(Self { config, cache })
    }

    /// What it was opened with; an empty architecture is replaced by the machine's.
    pub fn config(&self) -> &BuilderConfig {
        &self.config
    }

    /// Makes the chroot if there is none, if it is too old, or in any case: so that the first
    /// build need not wait.
    ///
    /// # Errors
    /// [`SetupError::Base`] with mmdebstrap's reason, [`SetupError::DiskFull`].
    pub fn prepare(&self, renewal: Renewal, on_event: &mut dyn FnMut(Event<'_>)) -> Result<(), SetupError> {
        let place = self.cache.place("chroot")?;
        let mut log = Log::create(&place.dir().join("log"), on_event)?;
        log.phase(Phase::Base);
        base::ensure(&self.cache, &self.config, renewal, &place, &mut log).map(drop)
    }

    /// Builds one commit. Several may run at a time, in threads or in processes.
    ///
    /// # Errors
    /// [`BuildError`], whose text is one line; [`BuildError::is_setup`] tells the machine's fault
    /// from the commit's.
    pub fn build(
        &self,
        request: &BuildRequest,
        on_event: &mut dyn FnMut(Event<'_>),
    ) -> Result<Built, BuildError> {
        let mut log = Log::create(&request.log, on_event)?;
        let result = match self.logged(request, &mut log) {
            // Whatever it died of just then.
            Err(_) if request.stop.is_asked() => Err(BuildError::Cancelled),
            result => result,
        };
        match &result {
            Ok(built) => {
                log.line(&format!("==> built {} {}", built.package, built.version));
            }
            Err(error) => log.line(&format!("==> failed: {error}")),
        }
        // Whatever a build died of, if the disk is full now, that is what is to be mended.
        match result {
            Err(error) if !error.is_setup() && self.cache.is_full() => {
                self.cache.check_space()?;
                Err(error)
            }
            other => other,
        }
    }

    fn logged(&self, request: &BuildRequest, log: &mut Log<'_>) -> Result<Built, BuildError> {
        self.cache.check_space()?;
        let started = Instant::now();
        let mut clock = Clock { phases: Vec::new() };
        let name = format!("{}-{}-{}", request.source, request.number, request.commit.short());
        let place = self.cache.place(&name)?.stoppable(&request.stop);
        let base = clock
            .time(Phase::Base, || base::ensure(&self.cache, &self.config, Renewal::WhenOld, &place, log))?;
        let deadline = Instant::now() + request.timeout;

        log.phase(Phase::Unpack);
        let source = clock.time(Phase::Unpack, || unpack(request, &place))?;
        log.line(&format!("{} {} from {}", source.package, source.version, request.commit));

        log.phase(Phase::Dependencies);
        let wanted = Wanted {
            cache: &self.cache,
            base: &base,
            place: &place,
            tree: &source.tree,
            extra: &request.extra_sources,
            deadline,
            limit: request.timeout,
        };
        let lower = clock.time(Phase::Dependencies, || depends::ensure(&wanted, log))?;

        log.phase(Phase::Build);
        clock.time(Phase::Build, || self.compile(request, &source, &place, &lower, deadline, log))?;

        log.phase(Phase::Collect);
        let inside = place.dir().join("build/upper/build");
        let collected = clock.time(Phase::Collect, || collect(&inside, &request.output))?;
        match collected {
            Collected::Nothing(why) => Err(BuildError::NothingBuilt { why, tail: log.tail() }),
            Collected::Files { changes, files } => Ok(Built {
                package: source.package,
                version: source.version,
                commit: source.commit,
                architecture: self.config.architecture.clone(),
                files,
                changes,
                duration: started.elapsed(),
                phases: clock.phases,
            }),
        }
    }

    fn compile(
        &self,
        request: &BuildRequest,
        source: &Source,
        place: &Place,
        lower: &[PathBuf],
        deadline: Instant,
        log: &mut Log<'_>,
    ) -> Result<(), BuildError> {
        let before = log.lines();
        let lower: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
        let ended = self.config.isolation.run(
            &Run {
                lower: &lower,
                place: &place.dir().join("build"),
                network: Network::Off,
                run_as: RunAs::Builder,
                binds: &[],
                environment: &[
                    ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
                    // As Debian's own builders: a build must not need a home.
                    ("HOME", "/nonexistent".to_owned()),
                    ("USER", "builder".to_owned()),
                    ("LOGNAME", "builder".to_owned()),
                    ("SHELL", "/bin/sh".to_owned()),
                    ("LC_ALL", "C.UTF-8".to_owned()),
                    ("DEB_BUILD_OPTIONS", format!("parallel={}", self.config.jobs)),
                ],
                dir: &format!("/build/{}", source.package),
                command: "dpkg-buildpackage -b -us -uc",
                timeout: deadline.saturating_duration_since(Instant::now()),
                watch: Watch { limits: &request.limits, stop: &request.stop },
            },
            log,
        )?;
        let (phase, tail) = (Phase::Build, log.tail());
        match ended {
            Ended::Well => Ok(()),
            Ended::Broken(Broken::Asked) => Err(BuildError::Cancelled),
            Ended::Broken(Broken::Silent) => {
                let limit = request.limits.silence.unwrap_or_default();
                Err(BuildError::Silent { phase, limit, last: log.last().to_owned(), tail })
            }
            Ended::Broken(Broken::Disk) => {
                Err(BuildError::DiskLimit { phase, limit: request.limits.disk.unwrap_or_default(), tail })
            }
            Ended::OutOfMemory => {
                let reason = diagnose(&log.since(before));
                Err(BuildError::OutOfMemory { phase, reason, tail })
            }
            Ended::Badly(_) => Err(BuildError::Failed { phase, reason: diagnose(&log.since(before)), tail }),
            Ended::TimedOut => {
                Err(BuildError::TimedOut { phase, limit: request.timeout, last: log.last().to_owned(), tail })
            }
        }
    }
}

/// A source that is ready to build.
struct Source {
    package: String,
    version: String,
    commit: CommitInfo,
    tree: PathBuf,
}

fn unpack(request: &BuildRequest, place: &Place) -> Result<Source, BuildError> {
    let repository = Repository::new(&request.repository);
    let commit = repository.commit_info(&request.commit)?;
    let inside = place.dir().join("build/upper/build");
    let unpacked = inside.join("source");
    repository.export(&request.commit, &unpacked)?;
    let short = request.commit.short().to_owned();
    for missing in ["debian/control", "debian/changelog", "debian/rules"] {
        if within(&unpacked, missing).is_none() {
            return Err(BuildError::NoPackaging { missing, commit: short });
        }
    }
    let path = within(&unpacked, "debian/changelog").expect("it was there a moment ago");
    let Some(text) = read_bounded(&path)? else { return Err(BuildError::LongChangelog { commit: short }) };
    let broken = |source| BuildError::Changelog { commit: short.clone(), source };
    let changelog = Changelog::parse(&text).map_err(broken)?;
    let version = version_for(&changelog.version, request.number, commit.committed, &request.commit)
        .expect("the changelog's version was checked");
    let entry = NewEntry {
        version: &version,
        change: &commit.subject,
        name: &commit.committer,
        email: &commit.committer_email,
        date: commit.committed,
    };
    let new = changelog.with_entry(&text, &entry);
    remove_if_exists(&path)?;
    write_atomic(&path, new.as_bytes(), 0o644)?;
    // The folder's name shows in the log, and in debugging information of careless packages.
    let tree = inside.join(&changelog.package);
    if tree != unpacked {
        fs::rename(&unpacked, &tree).map_err(at("rename", &unpacked))?;
    }
    Ok(Source { package: changelog.package, version, commit, tree })
}

/// The file `name` of an unpacked source, links followed, if it is an ordinary file that does not
/// lie outside: a source may contain any link.
fn within(tree: &Path, name: &str) -> Option<PathBuf> {
    let tree = tree.canonicalize().ok()?;
    let path = tree.join(name).canonicalize().ok()?;
    (path.starts_with(&tree) && path.is_file()).then_some(path)
}

struct Clock {
    phases: Vec<PhaseTime>,
}

impl Clock {
    fn time<T, E>(&mut self, phase: Phase, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let started = Instant::now();
        let result = work();
        self.phases.push(PhaseTime { phase, duration: started.elapsed() });
        result
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// A user namespace with more than one id needs ids that belong to the user.
fn check_subordinate_ids() -> Result<(), SetupError> {
    if !is_installed("newuidmap") {
        return Err(SetupError::MissingProgram { program: "newuidmap", package: "uidmap" });
    }
    let uid = rustix::process::geteuid().as_raw();
    let mapped = Isolation::User.unshare(&[]).arg("true").run()?;
    if mapped.status.success() { Ok(()) } else { Err(SetupError::NoSubordinateIds { uid }) }
}
