//! State scripts by Mender's contract: `STATE_Enter_NN`, `STATE_Leave_NN` and `STATE_Error_NN`, run in the
//! order of their names, without arguments. Exit status 0 is fine, 21 asks to be run again later,
//! anything else fails the state.
//!
//! The scripts of an artifact are kept on the data partition, so that both slots have them; those of the
//! root file system (`Download`) are below `/etc/mender/scripts`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use volary_artifact::Script;
use volary_host::{Cmd, FileError, create_dir, write_atomic};

use super::SlotsError;
use crate::log;
use crate::paths::Paths;

/// The exit status that means: later.
const LATER: i32 = 21;

/// Mender's defaults: once a minute, for half an hour, and an hour for one script.
const PAUSE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30 * 60);
const LIMIT: Duration = Duration::from_secs(60 * 60);

/// How much of what a script says is kept.
const SAID: usize = 10 << 10;

/// The version of the contract, which stands in a file beside the scripts.
const VERSION: &[u8] = b"3";

/// A state that has scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// The artifact is fetched; these scripts are of the root file system only.
    Download,
    /// The boot state is about to say that the other slot is tried.
    Install,
    /// The device is about to boot into it.
    Reboot,
    /// The new system is about to be kept.
    Commit,
    /// It goes back.
    Rollback,
    /// The device is about to boot into the old system.
    RollbackReboot,
    /// It failed.
    Failure,
}

impl State {
    const fn name(self) -> &'static str {
        match self {
            Self::Download => "Download",
            Self::Install => "ArtifactInstall",
            Self::Reboot => "ArtifactReboot",
            Self::Commit => "ArtifactCommit",
            Self::Rollback => "ArtifactRollback",
            Self::RollbackReboot => "ArtifactRollbackReboot",
            Self::Failure => "ArtifactFailure",
        }
    }
}

/// When in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// Before.
    Enter,
    /// After.
    Leave,
    /// After it failed.
    Error,
}

impl Moment {
    const fn name(self) -> &'static str {
        match self {
            Self::Enter => "Enter",
            Self::Leave => "Leave",
            Self::Error => "Error",
        }
    }
}

fn kept(paths: &Paths) -> PathBuf {
    paths.slots_state().join("scripts")
}

/// Keeps the scripts of an artifact that was verified, in place of those of the one before.
///
/// # Errors
/// [`SlotsError`].
pub fn keep(paths: &Paths, scripts: &[Script]) -> Result<(), SlotsError> {
    keep_in(&kept(paths), scripts)
}

/// As [`keep`], in this folder.
///
/// # Errors
/// [`SlotsError`].
pub fn keep_in(folder: &Path, scripts: &[Script]) -> Result<(), SlotsError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(FileError::at("remove", folder)(error).into());
        }
        Ok(()) | Err(_) => {}
    }
    create_dir(folder)?;
    for script in scripts {
        write_atomic(&folder.join(&script.name), &script.content, 0o755)?;
    }
    Ok(write_atomic(&folder.join("version"), VERSION, 0o644)?)
}

/// Runs the scripts of a state. Those of `Error`, and of states that lead back, run all and fail
/// nothing: what is undone is undone.
///
/// # Errors
/// [`SlotsError::Script`], with what the script said.
pub fn run(paths: &Paths, state: State, moment: Moment) -> Result<(), SlotsError> {
    let folder = match state {
        State::Download => paths.on_device(Path::new("/etc/mender/scripts")),
        _ => kept(paths),
    };
    run_in(&folder, state, moment)
}

/// As [`run`], with the scripts of this folder.
///
/// # Errors
/// [`SlotsError::Script`].
pub fn run_in(folder: &Path, state: State, moment: Moment) -> Result<(), SlotsError> {
    run_with(folder, state, moment, PAUSE, PATIENCE)
}

fn run_with(
    folder: &Path,
    state: State,
    moment: Moment,
    pause: Duration,
    patience: Duration,
) -> Result<(), SlotsError> {
    let lenient =
        moment == Moment::Error || matches!(state, State::Rollback | State::RollbackReboot | State::Failure);
    for name in of(folder, state, moment) {
        if let Err(error) = one(&folder.join(&name), pause, patience) {
            if !lenient {
                return Err(error);
            }
            log::say(error.to_string());
        }
    }
    Ok(())
}

/// Their names in order.
fn of(folder: &Path, state: State, moment: Moment) -> Vec<String> {
    let prefix = format!("{}_{}_", state.name(), moment.name());
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let ours = |name: &String| {
        let rest = name.strip_prefix(&prefix).unwrap_or_default().as_bytes();
        let number = rest.len() >= 2 && rest[..2].iter().all(u8::is_ascii_digit);
        number && (rest.len() == 2 || rest[2] == b'_')
    };
    let mut names: Vec<String> = names.filter(ours).collect();
    names.sort();
    names
}

fn one(script: &Path, pause: Duration, patience: Duration) -> Result<(), SlotsError> {
    let since = Instant::now();
    let name = script.file_name().unwrap_or_default().to_string_lossy().into_owned();
    loop {
        log::say(format!("running {name}"));
        let output = Cmd::new(script).timeout(LIMIT).run()?;
        let said = String::from_utf8_lossy(&output.stderr[..output.stderr.len().min(SAID)]).into_owned();
        if !said.trim().is_empty() {
            log::say(format!("{name}: {}", said.trim_end()));
        }
        match output.status.code() {
            Some(0) => return Ok(()),
            Some(LATER) if since.elapsed() + pause <= patience => std::thread::sleep(pause),
            Some(LATER) => {
                let minutes = patience.as_secs() / 60;
                return Err(SlotsError::Script(format!("{name} asked for more time than {minutes} minutes")));
            }
            code => {
                let code = code.map_or_else(|| "a signal".to_owned(), |code| format!("status {code}"));
                return Err(SlotsError::Script(format!("{name} ended with {code}\n{said}")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device() -> (tempfile::TempDir, Paths) {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        paths.prepare().unwrap();
        (root, paths)
    }

    fn script(name: &str, text: &str) -> Script {
        Script { name: name.to_owned(), content: format!("#!/bin/sh\n{text}\n").into_bytes() }
    }

    #[test]
    fn scripts_run_in_order_and_only_those_of_the_moment() {
        let (root, paths) = device();
        let log = root.path().join("log");
        let say = |word: &str| format!("echo {word} >> {}", log.display());
        let scripts = [
            script("ArtifactInstall_Enter_10_b", &say("b")),
            script("ArtifactInstall_Enter_02_a", &say("a")),
            script("ArtifactInstall_Leave_00", &say("leave")),
            script("ArtifactCommit_Enter_00", &say("commit")),
        ];
        keep(&paths, &scripts).unwrap();
        run(&paths, State::Install, Moment::Enter).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "a\nb\n");
        // Those of another artifact take their place.
        keep(&paths, &[script("ArtifactInstall_Enter_00", &say("new"))]).unwrap();
        run(&paths, State::Install, Moment::Enter).unwrap();
        run(&paths, State::Install, Moment::Leave).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "a\nb\nnew\n");
    }

    #[test]
    fn a_script_that_fails_says_why_and_one_that_leads_back_fails_nothing() {
        let (root, paths) = device();
        let log = root.path().join("log");
        let second = format!("echo second >> {}", log.display());
        keep(
            &paths,
            &[
                script("ArtifactInstall_Enter_00", "echo no room >&2; exit 1"),
                script("ArtifactInstall_Enter_01", &second),
                script("ArtifactRollback_Enter_00", "exit 1"),
                script("ArtifactRollback_Enter_01", &second),
            ],
        )
        .unwrap();
        let error = run(&paths, State::Install, Moment::Enter).unwrap_err().to_string();
        assert!(error.contains("ArtifactInstall_Enter_00") && error.contains("no room"), "{error}");
        assert!(!log.exists());
        run(&paths, State::Rollback, Moment::Enter).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "second\n");
    }

    #[test]
    fn a_script_may_ask_for_more_time() {
        let (root, paths) = device();
        let log = root.path().join("log");
        let text = format!("echo x >> {0}; [ $(wc -l < {0}) -ge 3 ] || exit 21", log.display());
        keep(&paths, &[script("ArtifactCommit_Enter_00", &text)]).unwrap();
        let wait = Duration::from_millis(1);
        run_with(&kept(&paths), State::Commit, Moment::Enter, wait, PATIENCE).unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "x\nx\nx\n");
        keep(&paths, &[script("ArtifactCommit_Enter_00", "exit 21")]).unwrap();
        let error = run_with(&kept(&paths), State::Commit, Moment::Enter, wait, Duration::from_millis(20));
        assert!(error.unwrap_err().to_string().contains("more time"));
    }
}
