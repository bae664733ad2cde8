//! Bare repositories that people push to.

use std::path::Path;

use volary_host::{Cmd, CmdError};

/// Settings of every hosted repository.
const SETTINGS: [(&str, &str); 6] = [
    ("http.receivepack", "true"),
    // A torn or malicious object is refused before anybody can fetch it.
    ("receive.fsckObjects", "true"),
    ("receive.autogc", "true"),
    ("gc.autoDetach", "false"),
    ("core.logAllRefUpdates", "true"),
    // A power cut after a push was acknowledged must not lose it.
    ("core.fsync", "committed"),
];

/// Makes a bare repository, or brings one that is there up to date.
pub(crate) fn create(path: &Path, branch: &str) -> Result<(), CmdError> {
    Cmd::new("git")
        .args(["init", "--quiet", "--bare", "--initial-branch", branch, "--"])
        .arg(path)
        .check()?;
    for (key, value) in SETTINGS {
        git(path).args(["config", key, value]).check()?;
    }
    git(path).args(["symbolic-ref", "HEAD", &format!("refs/heads/{branch}")]).check()?;
    Ok(())
}

/// git on a bare repository, whoever owns its files.
pub(crate) fn git(path: &Path) -> Cmd {
    Cmd::new("git")
        .args(["-c", "safe.directory=*", "--git-dir"])
        .arg(path)
        .env_remove("GIT_DIR")
        .env("LC_ALL", "C.UTF-8")
}
