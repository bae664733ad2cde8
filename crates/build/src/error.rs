//! What can go wrong, for people: one line that says why, and the end of the log where there is one.

use std::path::PathBuf;
use std::time::Duration;

use volary_host::{CmdError, FileError, LockError};
use volary_model::{Architecture, CommitId};

use crate::builder::Phase;
use crate::changelog::ChangelogError;
use crate::recipe::RecipeError;

/// Why a source repository could not be asked or copied.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// The URL does not answer, is no repository, or wants a password.
    #[error("cannot reach the source repository {url}: {said}")]
    Unreachable {
        /// The URL, without its password.
        url: String,
        /// What git said last.
        said: String,
    },
    /// The repository answers, but has no such branch.
    #[error("{url} has no branch {branch:?}; push it, or register the source with another --branch")]
    NoBranch {
        /// The URL or path of the repository.
        url: String,
        /// The branch that was asked for.
        branch: String,
    },
    /// Not a name that a branch can have.
    #[error("{0:?} is no valid name of a branch")]
    InvalidBranch(String),
    /// Not something that git may be given as an address.
    #[error("{0:?} is no valid URL of a git repository")]
    InvalidUrl(String),
    /// The commit is not in this repository.
    #[error("commit {commit} is not in {}", .repository.display())]
    NoCommit {
        /// The commit.
        commit: CommitId,
        /// The repository that was asked.
        repository: PathBuf,
    },
    /// A submodule of the commit is not at hand.
    #[error("the submodule {path} (commit {}) cannot be had: {why}", .commit.short())]
    Submodule {
        /// Its folder in the source.
        path: String,
        /// Its commit.
        commit: CommitId,
        /// Why, and what to do.
        why: String,
    },
    /// git answered with something else than it should.
    #[error("git gave an answer that cannot be read: {0:?}")]
    Answer(String),
    /// git failed.
    #[error(transparent)]
    Git(#[from] CmdError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another process works on the same mirror for very long.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Trouble of the builder or its machine: the source is not to blame, and the same build may work
/// when this is mended.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// A program that builds need is not installed.
    #[error("{program} is not installed; run `apt-get install {package}`")]
    MissingProgram {
        /// The program.
        program: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// No emulator for an architecture is installed.
    #[error("{program} is not installed; run `apt-get install qemu-user-static`")]
    MissingEmulator {
        /// The emulator.
        program: String,
    },
    /// There is no emulator for an architecture.
    #[error("there is no emulator for {architecture}; there are some for {known}")]
    NoEmulator {
        /// The architecture to build for.
        architecture: Architecture,
        /// Those that can be built for.
        known: String,
    },
    /// There are no subordinate user ids for a builder that is not root.
    #[error(
        "user id {uid} has no subordinate ids in /etc/subuid and /etc/subgid; \
         add 65536 with `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER`, or build as root"
    )]
    NoSubordinateIds {
        /// The user that runs the builder.
        uid: u32,
    },
    /// There is too little room for a build.
    #[error(
        "only {free_mib} MiB are free under {}, and a build needs {needed_mib}; \
         make room, or move the cache with VOLARY_CACHE", .path.display()
    )]
    DiskFull {
        /// The cache.
        path: PathBuf,
        /// What is free.
        free_mib: u64,
        /// What must be free to start.
        needed_mib: u64,
    },
    /// The chroot could not be made.
    #[error("cannot make the {name} chroot with mmdebstrap: {reason}")]
    Base {
        /// Which: the Debian suite and what it is for, `bookworm-amd64`.
        name: String,
        /// The line of the log that says why.
        reason: String,
        /// The end of the log.
        tail: String,
    },
    /// The chroot is there but could not be entered.
    #[error("cannot enter the build chroot: {reason}")]
    Enter {
        /// The line of the log that says why.
        reason: String,
        /// The end of the log.
        tail: String,
    },
    /// Package lists or packages could not be fetched.
    #[error("cannot fetch build dependencies: {reason}")]
    Packages {
        /// The line of the log that says why.
        reason: String,
        /// The end of the log.
        tail: String,
    },
    /// A path that cannot be used for overlay mounts.
    #[error("{} cannot hold the cache: its path has a character that mount options reserve ({character:?})", .path.display())]
    CachePath {
        /// The cache.
        path: PathBuf,
        /// The character.
        character: char,
    },
    /// Somebody asked it to stop.
    #[error("it was cancelled")]
    Stopped,
    /// A program of the machine failed.
    #[error(transparent)]
    Run(#[from] CmdError),
    /// A file operation failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Another builder holds the cache for very long.
    #[error(transparent)]
    Lock(#[from] LockError),
}

/// Why a commit did not become packages. `Display` is one line; [`BuildError::tail`] has more.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The commit could not be read from its repository.
    #[error(transparent)]
    Unpack(#[from] GitError),
    /// There is no Debian packaging at that commit.
    #[error(
        "there is no {missing} in the source at {commit}; add Debian packaging (`dh_make` writes a first one)"
    )]
    NoPackaging {
        /// The file that is missing: `debian/control`.
        missing: &'static str,
        /// The short commit.
        commit: String,
    },
    /// Nothing here can build for that architecture.
    #[error("nothing can build for {architecture}; there are emulators for {known}")]
    Architecture {
        /// The architecture that was asked for.
        architecture: Architecture,
        /// Those that can be built for, beside the machine's own.
        known: String,
    },
    /// What the source says about how it is built cannot be used.
    #[error("{source} (in commit {commit})")]
    Recipe {
        /// The short commit.
        commit: String,
        /// What is wrong in it.
        source: RecipeError,
    },
    /// The changelog cannot be used.
    #[error("debian/changelog of {commit} cannot be read: {source}")]
    Changelog {
        /// The short commit.
        commit: String,
        /// What is wrong in it.
        source: ChangelogError,
    },
    /// The changelog is larger than any honest one, and is not read.
    #[error("debian/changelog of {commit} has more than 4 MiB; cut off its oldest entries")]
    LongChangelog {
        /// The short commit.
        commit: String,
    },
    /// A program inside the chroot failed: the reason is the line of the log that explains most.
    #[error("{reason}")]
    Failed {
        /// What was being done.
        phase: Phase,
        /// One line.
        reason: String,
        /// The last lines of the log.
        tail: String,
    },
    /// The build took too long; everything it had started was killed.
    #[error("stopped after {} s while {}: {last}", .limit.as_secs(), .phase.doing())]
    TimedOut {
        /// What was being done.
        phase: Phase,
        /// The limit of the whole build.
        limit: Duration,
        /// The last line of the log, which often names the culprit.
        last: String,
        /// The last lines of the log.
        tail: String,
    },
    /// It said nothing for too long; everything it had started was killed.
    #[error(
        "stopped while {}: it said nothing for {} s after: {last} (build_silence in server.toml)",
        .phase.doing(), .limit.as_secs()
    )]
    Silent {
        /// What was being done.
        phase: Phase,
        /// How long it may say nothing.
        limit: Duration,
        /// The last line of the log, which often names the culprit.
        last: String,
        /// The last lines of the log.
        tail: String,
    },
    /// It wrote more than it may; everything it had started was killed.
    #[error(
        "stopped while {}: it wrote more than {} MiB (build_disk in server.toml)",
        .phase.doing(), .limit >> 20
    )]
    DiskLimit {
        /// What was being done.
        phase: Phase,
        /// How many bytes it may write.
        limit: u64,
        /// The last lines of the log.
        tail: String,
    },
    /// It needed more memory than it may have.
    #[error("not enough memory while {}: {reason} (build_memory in server.toml)", .phase.doing())]
    OutOfMemory {
        /// What was being done.
        phase: Phase,
        /// What the log says of it.
        reason: String,
        /// The last lines of the log.
        tail: String,
    },
    /// lintian found what the policy does not let through.
    #[error("lintian stops it: {first}{}", more(*.others))]
    Lintian {
        /// The worst of what stops it.
        first: String,
        /// How much else does.
        others: usize,
        /// The last lines of the log.
        tail: String,
    },
    /// Somebody cancelled it.
    #[error("it was cancelled")]
    Cancelled,
    /// It said that it succeeded, but left no package.
    #[error("the build succeeded but made no package: {why}")]
    NothingBuilt {
        /// What is missing.
        why: String,
        /// The last lines of the log.
        tail: String,
    },
    /// The builder or its machine is in trouble.
    #[error(transparent)]
    Setup(#[from] SetupError),
}

impl BuildError {
    /// The last lines of the log, or nothing where the build did not come so far.
    pub fn tail(&self) -> &str {
        match self {
            Self::Failed { tail, .. }
            | Self::TimedOut { tail, .. }
            | Self::Silent { tail, .. }
            | Self::DiskLimit { tail, .. }
            | Self::OutOfMemory { tail, .. }
            | Self::Lintian { tail, .. }
            | Self::NothingBuilt { tail, .. } => tail,
            Self::Setup(
                SetupError::Base { tail, .. }
                | SetupError::Enter { tail, .. }
                | SetupError::Packages { tail, .. },
            ) => tail,
            Self::Unpack(_)
            | Self::NoPackaging { .. }
            | Self::Architecture { .. }
            | Self::Recipe { .. }
            | Self::Changelog { .. }
            | Self::LongChangelog { .. }
            | Self::Cancelled
            | Self::Setup(_) => "",
        }
    }

    /// True if the source itself failed in the chroot, so that another kind of chroot may do.
    pub(crate) fn is_of_the_source(&self) -> bool {
        matches!(self, Self::Failed { .. } | Self::NothingBuilt { .. })
    }

    /// True if the machine is to blame rather than the commit: the same build may succeed later.
    pub fn is_setup(&self) -> bool {
        matches!(self, Self::Setup(_))
    }
}

fn more(others: usize) -> String {
    if others == 0 { String::new() } else { format!(" (and {others} more)") }
}

/// So that file, process and lock errors inside a build become trouble of the builder.
macro_rules! as_setup {
    ($($type:ty),*) => {$(
        impl From<$type> for BuildError {
            fn from(error: $type) -> Self {
                Self::Setup(error.into())
            }
        }
    )*};
}
as_setup!(CmdError, FileError, LockError);
