//! What work costs: CPU time of whole process trees, to the microsecond, by control groups.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use volary_host::{Cmd, CmdError, FileError, Output};

use crate::{LabError, cgroup};

/// What a piece of work took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Time on processors, in user programs and the kernel, of all processes together.
    pub cpu: Duration,
    /// Time on the clock.
    pub wall: Duration,
}

impl std::ops::Add for Cost {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, wall: self.wall + other.wall }
    }
}

/// A control group in which commands are measured. What they leave running is ended with it.
#[derive(Debug)]
pub struct Meter {
    group: PathBuf,
}

impl Meter {
    pub(crate) fn new(group: PathBuf) -> Result<Self, LabError> {
        volary_host::create_dir(&group)?;
        Ok(Self { group })
    }

    /// Runs a command, which must succeed, and says what it and all it started cost.
    ///
    /// # Errors
    /// As [`Cmd::check`].
    pub fn check(&self, cmd: &Cmd) -> Result<(Output, Cost), LabError> {
        let (output, cost) = self.run(cmd)?;
        if output.status.success() {
            return Ok((output, cost));
        }
        let said = if output.stderr.trim_ascii().is_empty() { &output.stdout } else { &output.stderr };
        let tail = volary_host::tail(said, 20);
        Err(CmdError::Failed { command: cmd.line(), status: output.status, tail }.into())
    }

    /// Runs a command and says what it cost, however it ends. The caller sees to it that it ends.
    ///
    /// # Errors
    /// That it cannot be started.
    pub fn run(&self, cmd: &Cmd) -> Result<(Output, Cost), LabError> {
        let entering = self.entering(cmd);
        let before = cpu(&self.group)?;
        let started = Instant::now();
        // Not `Cmd::run`, which looks only every few milliseconds whether a program has ended.
        let output = entering.into_std().stdin(std::process::Stdio::null()).output();
        let wall = started.elapsed();
        let output = output.map_err(|source| CmdError::Start { program: cmd.line(), source })?;
        let cost = Cost { cpu: cpu(&self.group)? - before, wall };
        let output =
            Output { status: output.status, stdout: output.stdout, stderr: output.stderr, elapsed: wall };
        Ok((output, cost))
    }

    /// The same command, by way of a shell that moves itself into the group and is gone then.
    fn entering(&self, cmd: &Cmd) -> Cmd {
        let inner = cmd.clone().into_std();
        let mut outer = Cmd::new("sh").args(["-c", ENTER]).arg(&self.group);
        outer = outer.arg(inner.get_program()).args(inner.get_args());
        for (name, value) in inner.get_envs() {
            outer = match value {
                Some(value) => outer.env(name, value),
                None => outer.env_remove(name),
            };
        }
        match inner.get_current_dir() {
            Some(dir) => outer.cwd(dir),
            None => outer,
        }
    }
}

const ENTER: &str = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";

impl Drop for Meter {
    fn drop(&mut self) {
        let _ = cgroup::kill(&self.group);
        let _ = std::fs::remove_dir(&self.group);
    }
}

/// The CPU time of all that ran in a group so far.
pub(crate) fn cpu(group: &Path) -> Result<Duration, LabError> {
    let file = group.join("cpu.stat");
    let text = volary_host::read_to_string(&file)?;
    let used = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let used = used.and_then(|number| number.trim().parse().ok()).map(Duration::from_micros);
    let missing = || std::io::Error::other("it has no usage_usec");
    used.ok_or_else(|| FileError::at("read", &file)(missing()).into())
}
