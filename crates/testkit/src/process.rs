//! A program that runs beside the devices, such as the server, and ends with the lab.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use volary_host::{Cmd, FileError};

use crate::{LabError, cgroup, wait_until};

/// A running program. Its output goes to a file. Dropping it ends it, with all it started.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    group: PathBuf,
    log: PathBuf,
}

impl Process {
    /// Starts `program` with `args` in the control group `group`, which is made.
    pub(crate) fn start(
        what: &str,
        group: PathBuf,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
        log: &Path,
    ) -> Result<Self, LabError> {
        volary_host::create_dir(&group)?;
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .and_then(|file| Ok((file.try_clone()?, file)))
            .map_err(FileError::at("write", log))?;
        // The shell is gone before the program starts: it only moves itself into the group.
        let mut cmd = Cmd::new("sh")
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(&group)
            .arg(program)
            .args(args);
        for (key, value) in env {
            cmd = cmd.env(key, value);
        }
        let mut command = cmd.into_std();
        // A process group of its own keeps it from a Ctrl-C that is meant for us.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.0)
            .stderr(output.1)
            .spawn()
            .map_err(|source| volary_host::CmdError::Start { program: what.to_owned(), source })?;
        Ok(Self { what: what.to_owned(), child, group, log: log.to_owned() })
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processor time that it and all it started have used.
    ///
    /// # Errors
    /// That the kernel does not tell.
    pub fn cpu(&self) -> Result<Duration, LabError> {
        crate::cost::cpu(&self.group)
    }

    /// Fails if it ended on its own; for use while waiting for what it does.
    ///
    /// # Errors
    /// [`LabError::Ended`] with the end of its output.
    pub fn check_alive(&mut self) -> Result<(), LabError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.ended(&status.to_string())),
            Err(error) => Err(self.ended(&error.to_string())),
        }
    }

    fn ended(&self, status: &str) -> LabError {
        let log = volary_host::read(&self.log).unwrap_or_default();
        LabError::Ended {
            what: self.what.clone(),
            status: status.to_owned(),
            log: self.log.clone(),
            tail: volary_host::tail(&log, 20),
        }
    }

    /// SIGKILL to the program; what it started follows when this is dropped, as systemd does it.
    ///
    /// # Errors
    /// [`LabError::Waited`] if the kernel does not let it go.
    pub fn kill(&mut self) -> Result<(), LabError> {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// Asks it to end (SIGTERM) and waits up to `limit` for that.
    ///
    /// # Errors
    /// [`LabError::Waited`] if it does not end; it then runs on.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus, LabError> {
        self.signal(Signal::TERM);
        self.wait(limit)
    }

    fn signal(&mut self, signal: Signal) {
        // Not after it was reaped: the number may belong to another process then.
        if matches!(self.child.try_wait(), Ok(None))
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process(pid, signal);
        }
    }

    fn wait(&mut self, limit: Duration) -> Result<ExitStatus, LabError> {
        let child = &mut self.child;
        wait_until(&format!("the end of {}", self.what), limit, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = cgroup::kill(&self.group);
        let _ = self.child.wait();
    }
}
