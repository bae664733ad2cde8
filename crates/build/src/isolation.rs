//! Enters a fresh view of a chroot: an overlay in namespaces of its own, which vanish with the
//! command however it ends. What runs inside is the caller's business.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_host::{Cmd, CmdError};
use volary_model::Architecture;

use crate::control::Group;
use crate::emulate::Emulator;
use crate::error::SetupError;
use crate::limits::{Broken, Watch};
use crate::log::Log;
use crate::repository::at;

/// The script that mounts the view and runs the command in it.
const ENTER: &str = include_str!("enter.sh");

/// The script that makes a user namespace with all ids.
const IDENTITY: &str = include_str!("identity.sh");

/// The script that registers an emulator in a user namespace.
const EMULATE: &str = include_str!("emulate.sh");

/// What the scripts answer when the view could not be made.
const NOT_ENTERED: i32 = 125;

/// How the rights to mount and to own files of several users are had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// The builder is root.
    Root,
    /// The builder is a plain user with subordinate ids: the same inside a user namespace.
    User,
}

/// Whether the command can reach a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    /// As the machine can.
    On,
    /// Only itself, by the loopback interface.
    Off,
}

/// Who the command is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RunAs {
    /// root of the chroot: for apt.
    Root,
    /// The unprivileged user of the chroot; what lies in /build is made its own.
    Builder,
}

/// A folder of this machine that is seen inside.
#[derive(Debug, Clone)]
pub(crate) struct Bind {
    /// The folder here.
    pub source: PathBuf,
    /// Its place inside, which is made if need be.
    pub target: String,
    /// True if the command may write to it.
    pub writable: bool,
}

/// One command in one view.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// The folders that make the view, the topmost first. They are never written to.
    pub lower: &'a [&'a Path],
    /// A folder of ours: `upper` in it takes what is written, `root` is the mount point.
    pub place: &'a Path,
    /// What runs the programs inside, if this machine cannot.
    pub emulator: Option<&'a Emulator>,
    pub network: Network,
    pub run_as: RunAs,
    pub binds: &'a [Bind],
    /// The whole environment of the command.
    pub environment: &'a [(&'a str, String)],
    /// The folder inside to run in.
    pub dir: &'a str,
    /// Text for the chroot's /bin/sh. Ours, never a source's.
    pub command: &'a str,
    pub timeout: Duration,
    /// What ends it before its time. Memory and processes are bounded for the builder only: what
    /// apt needs is not the source's doing.
    pub watch: Watch<'a>,
    /// The name of the host inside.
    pub host: &'a str,
}

/// How a command inside ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// With exit status 0.
    Well,
    /// With another one: which, or -1 if a signal ended it.
    Badly(i32),
    /// It was killed because its time was up.
    TimedOut,
    /// It was killed because somebody asked, or a bound was broken.
    Broken(Broken),
    /// It, or something in it, was killed for want of memory.
    OutOfMemory,
}

impl Isolation {
    /// What this process can do: root's way if it is root.
    pub fn here() -> Self {
        if rustix::process::geteuid().is_root() { Self::Root } else { Self::User }
    }

    /// Removes a folder with files of any owner; that it is gone already is fine.
    pub(crate) fn remove(self, path: &Path) -> Result<(), SetupError> {
        if !path.exists() {
            return Ok(());
        }
        match self {
            Self::Root => fs::remove_dir_all(path).map_err(at("remove", path))?,
            Self::User => {
                let remove = self.unshare(&[]).args(["rm", "-rf", "--"]).arg(path);
                remove.timeout(Duration::from_secs(600)).check()?;
            }
        }
        Ok(())
    }

    /// `unshare` with what this kind needs, dying with the thread that started it.
    pub(crate) fn unshare(self, more: &[&str]) -> Cmd {
        let user: &[&str] = match self {
            Self::Root => &[],
            Self::User => &["--user", "--map-root-user", "--map-auto"],
        };
        // When the builder is killed, nothing of a build may go on.
        Cmd::new("setpriv").args(["--pdeathsig", "KILL", "unshare"]).args(user).args(more).arg("--")
    }

    /// As [`Isolation::unshare`] with a user namespace in any case, in which the emulator runs
    /// the programs that it knows. `at` is an empty folder, which gets a mount in the namespace;
    /// `more` must ask for a mount namespace.
    pub(crate) fn unshare_with(self, emulator: &Emulator, at: &Path, more: &[&str]) -> Cmd {
        let outer = Cmd::new("setpriv").args(["--pdeathsig", "KILL"]);
        let entered = match self {
            // The rights that the second program gains in its namespace take the signal from it.
            Self::Root => outer
                .args(["/bin/sh", "-c", IDENTITY, "identity", "setpriv", "--pdeathsig", "KILL", "unshare"])
                .args(more),
            Self::User => outer.args(["unshare", "--user", "--map-root-user", "--map-auto"]).args(more),
        };
        entered
            .args(["--", "/bin/sh", "-c", EMULATE, "emulate"])
            .env("EMULATE", &emulator.registration)
            .env("EMULATE_NAME", &emulator.name)
            .env("EMULATE_AT", at)
    }

    /// A command that runs the program in its further arguments as root of name spaces of its own, in
    /// which programs of another architecture run too. `at` is an empty folder, which gets a mount there.
    ///
    /// # Errors
    /// [`SetupError::NoEmulator`] and [`SetupError::MissingEmulator`].
    pub fn foreign(self, architecture: &Architecture, at: &Path) -> Result<Cmd, SetupError> {
        let spaces = ["--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"];
        Ok(self.unshare_with(&Emulator::of(architecture)?, at, &spaces))
    }

    fn overlay_options(self, emulated: bool) -> &'static str {
        match (self, emulated) {
            // Nothing here must survive a power cut: no flush ever reaches the disk.
            (Self::Root, false) => "volatile",
            (Self::Root, true) | (Self::User, _) => "volatile,userxattr",
        }
    }

    /// Runs a command in a fresh view; each line it says goes to the log.
    pub(crate) fn run(self, run: &Run<'_>, log: &mut Log<'_>) -> Result<Ended, SetupError> {
        let [upper, root, scratch] = ["upper", "root", "scratch"].map(|name| run.place.join(name));
        // A scratch folder of an earlier run in the same place belongs to a mount that is gone.
        self.remove(&scratch)?;
        for dir in [&upper, &root, &scratch] {
            fs::create_dir_all(dir).map_err(at("create", dir))?;
        }
        let lower: Vec<String> = run.lower.iter().map(|dir| dir.display().to_string()).collect();
        let mut spaces = vec!["--mount", "--pid", "--fork", "--kill-child=KILL", "--ipc", "--uts"];
        let network = match run.network {
            Network::On => "on",
            Network::Off => {
                spaces.push("--net");
                "off"
            }
        };
        let bounds = Bounds::of(run, log);
        let entered = match run.emulator {
            None => self.unshare(&spaces),
            // The view is mounted over it.
            Some(emulator) => self.unshare_with(emulator, &root, &spaces),
        };
        let emulated = run.emulator.is_some();
        let command = bounds
            .enter(entered)
            .args(["/bin/sh", "-c", ENTER])
            .env("LOWER", lower.join(":"))
            .env("UPPER", &upper)
            .env("SCRATCH", &scratch)
            .env("ROOT", &root)
            .env("OPTIONS", self.overlay_options(emulated))
            .env("LOCKED", self.locked_flags(emulated))
            .env("NETWORK", network)
            .env("RUN_AS", if run.run_as == RunAs::Builder { "builder" } else { "root" })
            .env("BINDS", run.binds.iter().map(bind_line).collect::<String>())
            .env(
                "INSIDE",
                run.environment.iter().map(|(key, value)| format!("{key}={value}\n")).collect::<String>(),
            )
            .env("DIR", run.dir)
            .env("COMMAND", run.command)
            .env("LIMITS", &bounds.each)
            .env("HOST", run.host)
            .timeout(run.timeout);
        let before = log.lines();
        let (ended, broken) = run.watch.over(&upper, |stop, heard| {
            command.stop(stop).check_lines(&mut |line| {
                heard.again();
                log.line(line);
            })
        });
        match ended {
            Ok(_) => Ok(Ended::Well),
            Err(CmdError::Stopped { .. }) => {
                Ok(Ended::Broken(broken.expect("only a broken bound asks a command to stop")))
            }
            Err(_) if bounds.group.as_ref().is_some_and(Group::ran_out_of_memory) => Ok(Ended::OutOfMemory),
            Err(CmdError::TimedOut { .. }) => Ok(Ended::TimedOut),
            Err(CmdError::Failed { status, .. })
                if status.code() == Some(NOT_ENTERED)
                    || status.code().is_none() && status.signal().is_none() =>
            {
                Err(not_entered(log, before))
            }
            Err(CmdError::Failed { status, .. }) => Ok(Ended::Badly(status.code().unwrap_or(-1))),
            Err(error @ (CmdError::Start { .. } | CmdError::Pipe { .. })) => Err(error.into()),
        }
    }

    fn locked_flags(self, emulated: bool) -> &'static str {
        match (self, emulated) {
            (Self::Root, false) => "nosuid,nodev",
            (Self::Root, true) | (Self::User, _) => "nosuid,nodev,relatime",
        }
    }
}

/// How memory and processes of one command are bounded.
struct Bounds {
    group: Option<Group>,
    /// Options of prlimit(1), for each process by itself.
    each: String,
}

impl Bounds {
    fn of(run: &Run<'_>, log: &mut Log<'_>) -> Self {
        let limits = run.watch.limits;
        let none = Self { group: None, each: String::new() };
        if run.run_as == RunAs::Root || (limits.memory.is_none() && limits.processes.is_none()) {
            return none;
        }
        let mib = |bytes: u64| format!("{} MiB of memory", bytes >> 20);
        let count = |count: u64| format!("{count} processes");
        let both: Vec<_> = limits.memory.map(mib).into_iter().chain(limits.processes.map(count)).collect();
        let both = both.join(" and ");
        let name = run.place.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
        match Group::create(&name, limits) {
            Ok(group) => {
                log.line(&format!("limits: {both}, by a control group"));
                Self { group: Some(group), each: String::new() }
            }
            Err(why) => {
                log.line(&format!("limits: {both}, by rlimits: the memory of each process, the processes of all builds ({why})"));
                let memory = limits.memory.map(|bytes| format!("--data={bytes} "));
                let processes = limits.processes.map(|count| format!("--nproc={count} "));
                Self { each: [memory, processes].into_iter().flatten().collect(), ..none }
            }
        }
    }

    /// The command, in the group if there is one.
    fn enter(&self, command: Cmd) -> Cmd {
        let Some(group) = &self.group else { return command };
        let script = r#"echo $$ >"$ENTRANCE" || exit 125; exec "$@""#;
        command.within(&["/bin/sh", "-c", script, "sh"]).env("ENTRANCE", group.entrance())
    }
}

fn bind_line(bind: &Bind) -> String {
    let mode = if bind.writable { "rw" } else { "ro" };
    format!("{mode} {} {}\n", bind.source.display(), bind.target)
}

fn not_entered(log: &Log<'_>, before: usize) -> SetupError {
    let said = if log.lines() > before { log.last() } else { "unshare failed without a word" };
    let hint = "; overlay mounts need a cache on ext4, xfs or btrfs (VOLARY_CACHE), and the right to mount";
    let reason = if said.contains("overlay") { format!("{said}{hint}") } else { said.to_owned() };
    SetupError::Enter { reason, tail: log.tail() }
}
