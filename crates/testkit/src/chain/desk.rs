//! A person's desk: a home folder with git's settings, and the way to the server. Every command
//! given here is written down with its output, so that a failure can be understood afterwards.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_host::{Cmd, FileError, Output, create_dir, write_atomic};

use crate::LabError;

/// Who the person is, for git and for the fleet's signers.
pub(super) const EMAIL: &str = "ada@volary.test";

/// Where a person works. Cheap to copy; the copies share the home folder.
#[derive(Debug, Clone)]
pub struct Desk {
    home: PathBuf,
    volary: PathBuf,
    config: PathBuf,
    log: PathBuf,
}

impl Desk {
    /// A desk in the folder `home`, for a person who uses the client configuration `config`.
    ///
    /// # Errors
    /// That the folder cannot be written.
    pub fn new(home: &Path, volary: &Path, config: &Path, log: &Path) -> Result<Self, LabError> {
        create_dir(home)?;
        let settings =
            format!("[user]\n\tname = Ada Example\n\temail = {EMAIL}\n[init]\n\tdefaultBranch = master\n");
        write_atomic(&home.join(".gitconfig"), settings.as_bytes(), 0o644)?;
        Ok(Self {
            home: home.to_owned(),
            volary: volary.to_owned(),
            config: config.to_owned(),
            log: log.to_owned(),
        })
    }

    /// The home folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// A program with this person's environment, and nothing of the machine's own settings.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        // Some machines set these for a proxy of theirs; git would prefer them to our authority.
        let foreign =
            ["XDG_CONFIG_HOME", "SSH_AUTH_SOCK", "GIT_SSL_CAINFO", "GIT_SSL_CAPATH", "CURL_CA_BUNDLE"];
        let cmd = foreign.iter().fold(Cmd::new(program), |cmd, name| cmd.env_remove(name));
        cmd.env("HOME", &self.home)
            .env("VOLARY_CONFIG", &self.config)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("NO_COLOR", "1")
            .cwd(&self.home)
            .timeout(Duration::from_secs(120))
    }

    /// The command line `volary`.
    pub fn volary(&self, args: &[&str]) -> Cmd {
        self.command(&self.volary).args(args)
    }

    /// Runs a command of this desk to its end, whatever its exit status.
    ///
    /// # Errors
    /// That it could not be run, or took too long.
    pub fn run(&self, cmd: &Cmd) -> Result<Output, LabError> {
        let output = cmd.run();
        self.note(cmd, output.as_ref().ok());
        Ok(output?)
    }

    /// Runs a command of this desk, which must succeed.
    ///
    /// # Errors
    /// As [`Desk::run`], and that it failed, with what it said.
    pub fn check(&self, cmd: &Cmd) -> Result<Output, LabError> {
        let output = self.run(cmd)?;
        if output.status.success() {
            return Ok(output);
        }
        let said = if output.stderr.trim_ascii().is_empty() { &output.stdout } else { &output.stderr };
        let tail = volary_host::tail(said, 30);
        Err(volary_host::CmdError::Failed { command: cmd.line(), status: output.status, tail }.into())
    }

    /// Runs `volary … --json` and reads what it printed.
    ///
    /// # Errors
    /// As [`Desk::check`], and that the answer is not as expected.
    pub fn json<T: serde::de::DeserializeOwned>(&self, args: &[&str]) -> Result<T, LabError> {
        let cmd = self.volary(args).arg("--json");
        let output = self.check(&cmd)?;
        serde_json::from_slice(&output.stdout).map_err(|source| LabError::Answer {
            command: cmd.line(),
            source,
            answer: output.text(),
        })
    }

    fn note(&self, cmd: &Cmd, output: Option<&Output>) {
        let mut text = format!("$ {}\n", cmd.line());
        if let Some(output) = output {
            for stream in [&output.stdout, &output.stderr] {
                text.push_str(&String::from_utf8_lossy(stream));
            }
            text.push_str(&format!("[{} after {} ms]\n", output.status, output.elapsed.as_millis()));
        }
        // The log helps to understand failures; that it cannot be written is none.
        let written = File::options()
            .create(true)
            .append(true)
            .open(&self.log)
            .and_then(|mut log| log.write_all(text.as_bytes()))
            .map_err(FileError::at("write", &self.log));
        drop(written);
    }
}
