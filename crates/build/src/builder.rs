//! One build from a commit to packages: the order of the steps, and nothing of how each is done.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use volary_host::{Cmd, Stop, remove_if_exists, write_atomic};
use volary_model::{Architecture, BuildMethod, BuildScope, CommitId, SourceName};

use crate::base::{self, Kind, Renewal};
use crate::cache::{Cache, Place, default_cache};
use crate::changelog::{Changelog, NewEntry};
use crate::circumstances::Circumstances;
use crate::collect::{Collected, collect, collect_source, read_bounded};
use crate::depends::{self, Wanted};
use crate::diagnose::diagnose;
use crate::emulate::{can_emulate, emulated};
use crate::error::{BuildError, SetupError};
use crate::isolation::{Bind, Ended, Isolation, Network, Run, RunAs};
use crate::limits::{Broken, Limits, Watch};
use crate::lintian::{self, Finding, LintianPolicy};
use crate::log::Log;
use crate::recipe::{RECIPE_FILE, Rebuild, Recipe, RecipeError};
use crate::repository::{CommitInfo, Repository, at};
use crate::source_package;
use crate::sources::AptSource;
use crate::submodule::{self, Origin};
use crate::target::{Target, methods};
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
    /// The architecture to build on. Empty for the machine's own.
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
    /// The address of the repository, for submodules that are named relative to it.
    pub url: String,
    /// What submodules may come from.
    pub origins: Vec<Origin>,
    /// The number of this build of this source; it must rise with every commit.
    pub number: u64,
    /// The architecture to build for; `None` for the machine's own.
    pub architecture: Option<Architecture>,
    /// Which of its packages to make.
    pub scope: BuildScope,
    /// The folder for the packages; it is made if need be.
    pub output: PathBuf,
    /// The file for the whole log, which can be read while it grows.
    pub log: PathBuf,
    /// How long it may take, without the time to make a chroot; under emulation four times that.
    pub timeout: Duration,
    /// What else bounds it.
    pub limits: Limits,
    /// Cancels it.
    pub stop: Stop,
    /// Archives besides the suite's own.
    pub extra_sources: Vec<AptSource>,
    /// Why the same commit is built once more; stands in the changelog.
    pub because: Option<String>,
    /// Whether the source package is made too.
    pub source_package: bool,
    /// What lintian is to do with the packages.
    pub lintian: LintianPolicy,
    /// Builds under other circumstances than usual, which must not show in the packages.
    pub again: bool,
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
    pub architecture: Architecture,
    /// How.
    pub method: BuildMethod,
    /// All files: .deb, .buildinfo, .changes, and those of the source package.
    pub files: Vec<PathBuf>,
    /// The .changes among them, which does not name the source package.
    pub changes: PathBuf,
    /// The .dsc among them, if it was wanted and could be made.
    pub source_package: Option<PathBuf>,
    /// What the source says that it is built with: its `Build-Depends` fields in one.
    pub build_depends: String,
    /// What its recipe wants to be built after it.
    pub rebuild: Rebuild,
    /// What was not as usual; empty for a usual build.
    pub varied: Vec<String>,
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
    /// The source package is made.
    Source,
    /// `dpkg-buildpackage` runs.
    Build,
    /// The packages are taken out.
    Collect,
    /// lintian looks at them.
    Lintian,
}

impl Phase {
    /// What is being done, to go after "while": "installing build dependencies".
    pub fn doing(self) -> &'static str {
        match self {
            Self::Base => "making the chroot",
            Self::Unpack => "unpacking the source",
            Self::Dependencies => "installing build dependencies",
            Self::Source => "making the source package",
            Self::Build => "building",
            Self::Collect => "collecting the packages",
            Self::Lintian => "running lintian",
        }
    }

    /// One lower-case word, for records and for JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Unpack => "unpack",
            Self::Dependencies => "dependencies",
            Self::Source => "source",
            Self::Build => "build",
            Self::Collect => "collect",
            Self::Lintian => "lintian",
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
    /// Something that lintian found.
    Finding(&'a Finding),
}

/// Builds packages on this machine.
#[derive(Debug, Clone)]
pub struct Builder {
    config: BuilderConfig,
    cache: Cache,
}

/// What is read of a source's recipe, in bytes.
const RECIPE_LIMIT: u64 = 64 << 10;

/// Emulated programs run 4 to 20 times slower, and a build is not only programs.
const EMULATED_TIMES: u32 = 4;

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

/// The architecture of this machine's programs.
///
/// # Errors
/// [`SetupError::Run`] if this is no Debian.
pub fn native_architecture() -> Result<Architecture, SetupError> {
    let said = Cmd::new("dpkg").arg("--print-architecture").check()?.text();
    Ok(said.trim().parse().expect("dpkg names architectures as Debian does"))
}

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
            config.architecture = native_architecture()?.to_string();
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
        let native = self.native();
        let kind = Kind { config: &self.config, architecture: &native, method: BuildMethod::Native };
        base::ensure(&self.cache, &kind, renewal, &place, &mut log).map(drop)
    }

    /// The architecture of this machine.
    pub fn native(&self) -> Architecture {
        self.config.architecture.parse().expect("dpkg names architectures as Debian does")
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
        let recipe = recipe(request)?;
        let native = self.native();
        let architecture = request.architecture.as_ref().unwrap_or(&native);
        if *architecture != native && !can_emulate(architecture) {
            return Err(BuildError::Architecture { architecture: architecture.clone(), known: emulated() });
        }
        let ways = methods(architecture, &self.config.architecture, request.scope, recipe.cross);
        let (last, before) = ways.split_last().expect("there is a way");
        let target = |method| Target { architecture, scope: request.scope, method };
        for method in before {
            match self.attempt(request, &target(*method), &recipe, log) {
                Err(error) if error.is_of_the_source() => {
                    log.line(&format!("==> {method} failed: {error}"));
                    log.line(&format!("==> trying {last}; {RECIPE_FILE} can say so at once: `cross: never`"));
                }
                other => return other,
            }
        }
        self.attempt(request, &target(*last), &recipe, log)
    }

    /// Builds in one way, in a place of its own.
    fn attempt(
        &self,
        request: &BuildRequest,
        target: &Target<'_>,
        recipe: &Recipe,
        log: &mut Log<'_>,
    ) -> Result<Built, BuildError> {
        let started = Instant::now();
        let mut clock = Clock { phases: Vec::new() };
        let name = format!("{}-{}-{}", request.source, request.number, request.commit.short());
        let place = self.cache.place(&name)?.stoppable(&request.stop);
        let kind = Kind { config: &self.config, architecture: target.architecture, method: target.method };
        let base =
            clock.time(Phase::Base, || base::ensure(&self.cache, &kind, Renewal::WhenOld, &place, log))?;
        let limit = match target.method {
            BuildMethod::Native | BuildMethod::Cross => request.timeout,
            BuildMethod::Emulated => request.timeout * EMULATED_TIMES,
        };
        let deadline = Instant::now() + limit;

        log.phase(Phase::Unpack);
        let usual = Circumstances::usual(self.config.jobs);
        let circumstances =
            if request.again { Circumstances::other(self.config.jobs) } else { usual.clone() };
        let varied = if request.again { circumstances.differences(&usual) } else { Vec::new() };
        let source = clock.time(Phase::Unpack, || unpack(request, &place, &circumstances))?;
        log.line(&format!("{} {} from {}", source.package, source.version, request.commit));
        log.line(&format!("for {} ({})", target.architecture, target.method));
        if let Some(because) = &request.because {
            log.line(because);
        }
        for line in &varied {
            log.line(&format!("other than usual: {line}"));
        }

        log.phase(Phase::Dependencies);
        let wanted = Wanted {
            cache: &self.cache,
            base: &base,
            place: &place,
            tree: &source.tree,
            extra: &request.extra_sources,
            target,
            deadline,
            limit,
        };
        let lower = clock.time(Phase::Dependencies, || depends::ensure(&wanted, log))?;

        let mut sources = None;
        if request.source_package {
            log.phase(Phase::Source);
            sources = clock.time(Phase::Source, || self.source_package(request, &source, &wanted, log))?;
        }

        log.phase(Phase::Build);
        let step = Compile { request, source: &source, wanted: &wanted, lower: &lower };
        clock.time(Phase::Build, || self.compile(&step, &circumstances, log))?;

        log.phase(Phase::Collect);
        let inside = place.dir().join("build/upper").join(circumstances.folder);
        let collected = clock.time(Phase::Collect, || collect(&inside, &request.output))?;
        let (changes, mut files) = match collected {
            Collected::Nothing(why) => return Err(BuildError::NothingBuilt { why, tail: log.tail() }),
            Collected::Files { changes, files } => (changes, files),
        };
        let mut source_package = None;
        if let Some(from) = sources {
            match collect_source(&from, &request.output)? {
                Collected::Nothing(why) => log.line(&format!("there is no source package: {why}")),
                Collected::Files { changes: dsc, files: more } => {
                    files.extend(more);
                    source_package = Some(dsc);
                }
            }
        }
        if request.lintian.run {
            log.phase(Phase::Lintian);
            clock.time(Phase::Lintian, || self.lintian(request, &wanted, log))?;
        }
        Ok(Built {
            package: source.package,
            version: source.version,
            commit: source.commit,
            architecture: target.architecture.clone(),
            method: target.method,
            files,
            changes,
            source_package,
            build_depends: source.build_depends,
            rebuild: recipe.rebuild,
            varied,
            duration: started.elapsed(),
            phases: clock.phases,
        })
    }

    /// Where the source package lies, if one could be made.
    fn source_package(
        &self,
        request: &BuildRequest,
        source: &Source,
        build: &Wanted<'_>,
        log: &mut Log<'_>,
    ) -> Result<Option<PathBuf>, BuildError> {
        let tree = build.place.dir().join("build/upper");
        let made = build.place.dir().join("source");
        let rootfs = build.base.rootfs();
        let repository = Repository::new(&request.repository);
        let fallback = source.commit.committed.as_second();
        let wanted = source_package::Wanted {
            isolation: self.config.isolation,
            lower: &[&tree, &rootfs],
            place: &made,
            emulator: build.base.emulator.as_ref(),
            package: &source.package,
            version: &source.version,
            upstream_time: source_package::upstream_time(&repository, &request.commit).unwrap_or(fallback),
            deadline: build.deadline,
            watch: Watch { limits: &request.limits, stop: &request.stop },
        };
        Ok(match source_package::make(&wanted, log)? {
            None => Some(made.join("upper/build")),
            Some(why) => {
                log.line(&format!("there is no source package: {why}"));
                None
            }
        })
    }

    fn lintian(
        &self,
        request: &BuildRequest,
        build: &Wanted<'_>,
        log: &mut Log<'_>,
    ) -> Result<(), BuildError> {
        let (base, deadline) = (build.base, build.deadline);
        // lintian runs where the build ran, as a program of that chroot's own architecture.
        let method = match build.target.method {
            BuildMethod::Native | BuildMethod::Cross => BuildMethod::Native,
            BuildMethod::Emulated => BuildMethod::Emulated,
        };
        let target = Target { scope: BuildScope::Full, method, ..*build.target };
        let place = self.cache.place("lintian")?.stoppable(&request.stop);
        let tree = place.dir().join("wanted");
        lintian::write_source(&tree)?;
        let wanted = Wanted {
            cache: &self.cache,
            base,
            place: &place,
            tree: &tree,
            extra: &[],
            target: &target,
            deadline,
            limit: build.limit,
        };
        let lower = depends::ensure(&wanted, log).map_err(|error| match error {
            BuildError::Failed { reason, tail, .. } => {
                SetupError::Packages { reason: format!("lintian: {reason}"), tail }.into()
            }
            error => error,
        })?;
        let lower: Vec<&Path> = lower.iter().map(PathBuf::as_path).collect();
        let packages =
            Bind { source: request.output.clone(), target: "/volary/packages".to_owned(), writable: false };
        let before = log.lines();
        let ended = self.config.isolation.run(
            &Run {
                lower: &lower,
                place: &place.dir().join("run"),
                emulator: base.emulator.as_ref(),
                network: Network::Off,
                run_as: RunAs::Builder,
                binds: &[packages],
                environment: &Circumstances::usual(1).environment,
                dir: "/",
                command: lintian::COMMAND,
                timeout: deadline.saturating_duration_since(Instant::now()),
                watch: Watch { limits: &request.limits, stop: &request.stop },
                host: "builder",
            },
            log,
        )?;
        if ended != Ended::Well {
            return Err(ended_badly(ended, Phase::Lintian, (request, build.limit), before, log));
        }
        let findings = lintian::findings(&log.since(before));
        for finding in &findings {
            log.finding(finding);
        }
        match request.lintian.refused(&findings)[..] {
            [] => Ok(()),
            [first, ref others @ ..] => {
                Err(BuildError::Lintian { first: first.to_string(), others: others.len(), tail: log.tail() })
            }
        }
    }

    fn compile(
        &self,
        step: &Compile<'_>,
        circumstances: &Circumstances,
        log: &mut Log<'_>,
    ) -> Result<(), BuildError> {
        let request = step.request;
        let before = log.lines();
        let lower: Vec<&Path> = step.lower.iter().map(PathBuf::as_path).collect();
        let mut environment = circumstances.environment.clone();
        environment.extend(step.wanted.target.environment(circumstances.jobs));
        let on =
            circumstances.processor.map_or(String::new(), |number| format!("taskset --cpu-list {number} "));
        let command = step.wanted.target.buildpackage();
        let ended = self.config.isolation.run(
            &Run {
                lower: &lower,
                place: &step.wanted.place.dir().join("build"),
                emulator: step.wanted.base.emulator.as_ref(),
                network: Network::Off,
                run_as: RunAs::Builder,
                binds: &[],
                environment: &environment,
                dir: &format!("/{}/{}", circumstances.folder, step.source.package),
                command: &format!("umask {} && {on}{command}", circumstances.umask),
                timeout: step.wanted.deadline.saturating_duration_since(Instant::now()),
                watch: Watch { limits: &request.limits, stop: &request.stop },
                host: circumstances.host,
            },
            log,
        )?;
        match ended {
            Ended::Well => Ok(()),
            ended => Err(ended_badly(ended, Phase::Build, (step.request, step.wanted.limit), before, log)),
        }
    }
}

/// What is compiled, and where.
struct Compile<'a> {
    request: &'a BuildRequest,
    source: &'a Source,
    wanted: &'a Wanted<'a>,
    lower: &'a [PathBuf],
}

/// Why a command of the build did not end well; its words begin at line `before` of the log.
fn ended_badly(
    ended: Ended,
    phase: Phase,
    (request, limit): (&BuildRequest, Duration),
    before: usize,
    log: &Log<'_>,
) -> BuildError {
    let (last, tail) = (log.last().to_owned(), log.tail());
    let reason = || diagnose(&log.since(before));
    match ended {
        Ended::Broken(Broken::Asked) => BuildError::Cancelled,
        Ended::Broken(Broken::Silent) => {
            BuildError::Silent { phase, limit: request.limits.silence.unwrap_or_default(), last, tail }
        }
        Ended::Broken(Broken::Disk) => {
            BuildError::DiskLimit { phase, limit: request.limits.disk.unwrap_or_default(), tail }
        }
        Ended::OutOfMemory => BuildError::OutOfMemory { phase, reason: reason(), tail },
        Ended::TimedOut => BuildError::TimedOut { phase, limit, last, tail },
        Ended::Well | Ended::Badly(_) => BuildError::Failed { phase, reason: reason(), tail },
    }
}

/// A source that is ready to build.
struct Source {
    package: String,
    version: String,
    commit: CommitInfo,
    tree: PathBuf,
    build_depends: String,
}

/// What the source says about how it is built.
fn recipe(request: &BuildRequest) -> Result<Recipe, BuildError> {
    let repository = Repository::new(&request.repository);
    // One that is not there is complained of where the commit is unpacked.
    if !repository.has(&request.commit)? {
        return Ok(Recipe::default());
    }
    let recipe = match repository.file(&request.commit, RECIPE_FILE, RECIPE_LIMIT)? {
        Some(text) => Recipe::parse(&text),
        // Built as if it said nothing, it would surprise its author.
        None if repository.has_path(&request.commit, RECIPE_FILE)? => Err(RecipeError::unread(RECIPE_LIMIT)),
        None => Ok(Recipe::default()),
    };
    recipe.map_err(|source| BuildError::Recipe { commit: request.commit.short().to_owned(), source })
}

fn unpack(
    request: &BuildRequest,
    place: &Place,
    circumstances: &Circumstances,
) -> Result<Source, BuildError> {
    let repository = Repository::new(&request.repository);
    let commit = repository.commit_info(&request.commit)?;
    let inside = place.dir().join("build/upper").join(circumstances.folder);
    let unpacked = inside.join("source");
    submodule::export(&repository, &request.commit, &request.url, &request.origins, &unpacked)?;
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
    let change = match &request.because {
        Some(because) => format!("{} ({because})", commit.subject),
        None => commit.subject.clone(),
    };
    let entry = NewEntry {
        version: &version,
        change: &change,
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
    let control = within(&tree, "debian/control").map(|path| read_bounded(&path)).transpose()?.flatten();
    let build_depends = build_depends(&control.unwrap_or_default());
    Ok(Source { package: changelog.package, version, commit, tree, build_depends })
}

/// The `Build-Depends` fields of `debian/control` in one.
fn build_depends(control: &str) -> String {
    let mut fields: Vec<String> = Vec::new();
    let mut within = false;
    let source =
        control.lines().filter(|line| !line.starts_with('#')).skip_while(|line| line.trim().is_empty());
    for line in source.take_while(|line| !line.trim().is_empty()) {
        if line.starts_with([' ', '\t']) {
            if within && let Some(field) = fields.last_mut() {
                field.push(' ');
                field.push_str(line.trim());
            }
            continue;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let name = name.to_ascii_lowercase();
        within = matches!(name.as_str(), "build-depends" | "build-depends-arch" | "build-depends-indep");
        if within {
            fields.push(value.trim().to_owned());
        }
    }
    fields.join(", ")
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn build_dependencies_are_those_of_the_source() {
        let control = "\n# x\nSource: x\nBuild-Depends: a (>= 1),\n# b,\n c\nPriority: optional\n\
                       Build-Depends-Indep: d\n\nPackage: x\nBuild-Depends: no\n";
        assert_eq!(build_depends(control), "a (>= 1), c, d");
        assert_eq!(build_depends(""), "");
    }
}
