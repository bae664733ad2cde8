//! A local copy of a source repository that somebody else hosts. It is a cache: whatever is wrong
//! with it is mended by fetching again.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_host::{CmdError, Lock, create_dir, remove_if_exists};
use volary_model::CommitId;

use crate::error::GitError;
use crate::repository::{Repository, at, branch_ref, commit_id, quiet_git};

/// Asking for a branch's tip: one small request.
const ASK_LIMIT: Duration = Duration::from_secs(45);

/// Fetching: the first copy of a large repository over a slow link.
const FETCH_LIMIT: Duration = Duration::from_secs(1800);

/// A bare mirror of the one branch of a repository that is built.
#[derive(Debug, Clone)]
pub struct SourceMirror {
    repository: Repository,
}

impl SourceMirror {
    /// The mirror in the folder `path`; it is made by the first [`SourceMirror::update`].
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { repository: Repository::new(path) }
    }

    /// The copy, to ask about commits and to build from.
    pub fn repository(&self) -> &Repository {
        &self.repository
    }

    /// Brings the branch's newest commit here and returns its id. Costs one small request when
    /// nothing is new. Safe to call from several processes; what an interrupted call left behind
    /// is cleaned up.
    ///
    /// # Errors
    /// [`GitError::Unreachable`], [`GitError::NoBranch`], [`GitError::InvalidBranch`].
    pub fn update(&self, url: &str, branch: &str) -> Result<CommitId, GitError> {
        if url.is_empty() || url.starts_with('-') || url.contains(char::is_control) {
            return Err(GitError::InvalidUrl(url.chars().take(200).collect()));
        }
        let reference = branch_ref(branch)?;
        let path = self.repository.path();
        create_dir(path)?;
        let _lock = Lock::acquire(&path.join("volary.lock"), FETCH_LIMIT)?;

        let tip = remote_tip(url, branch, &reference)?;
        if self.repository.tip(branch).is_ok_and(|known| known == tip) {
            return Ok(tip);
        }
        if let Err(first) = self.fetch(url, &reference) {
            // A dropped connection is no reason to fetch everything again; a broken mirror is.
            if !self.is_whole() {
                tracing::warn!(mirror = %path.display(), %first, "the mirror is damaged; making it anew");
                empty(path)?;
            }
            self.fetch(url, &reference).map_err(|error| unreachable(url, error))?;
        }
        // Not what was announced but what came: the branch may have moved in between.
        self.repository.tip(branch)
    }

    fn is_whole(&self) -> bool {
        let check =
            self.repository.git().args(["fsck", "--connectivity-only", "--no-dangling", "--no-progress"]);
        check.timeout(FETCH_LIMIT).run().is_ok_and(|output| output.status.success())
    }

    fn fetch(&self, url: &str, reference: &str) -> Result<(), CmdError> {
        let path = self.repository.path();
        // We hold the mirror's lock, so a lock of git's in it belongs to a process that died.
        remove_stale_locks(path);
        quiet_git().args(["init", "--quiet", "--bare", "--"]).arg(path).check()?;
        let spec = format!("+{reference}:{reference}");
        network_git(|git| git.arg("--git-dir").arg(path))
            .args(["-c", "gc.autoDetach=false", "fetch", "--quiet", "--no-tags", "--no-write-fetch-head"])
            .args(["--end-of-options", url, &spec])
            .timeout(FETCH_LIMIT)
            .check()?;
        Ok(())
    }
}

fn remote_tip(url: &str, branch: &str, reference: &str) -> Result<CommitId, GitError> {
    let output = network_git(|git| git)
        .args(["ls-remote", "--exit-code", "--end-of-options", url, reference])
        .timeout(ASK_LIMIT)
        .run()
        .map_err(|error| unreachable(url, error))?;
    // git's documented answer to --exit-code when no reference matches.
    if output.status.code() == Some(2) {
        return Err(GitError::NoBranch { url: redacted(url), branch: branch.to_owned() });
    }
    if !output.status.success() {
        let said = volary_host::tail(&output.stderr, 20);
        return Err(GitError::Unreachable { url: redacted(url), said: said_line(&said, url) });
    }
    let text = output.text();
    let line = text.lines().find(|line| line.ends_with(reference)).unwrap_or_default();
    commit_id(line.split_whitespace().next().unwrap_or_default())
}

/// git for the network: gives up on a link that has gone quiet, and never asks for a password.
fn network_git(place: impl FnOnce(volary_host::Cmd) -> volary_host::Cmd) -> volary_host::Cmd {
    let mut git = quiet_git()
        .args(["-c", "http.lowSpeedLimit=100", "-c", "http.lowSpeedTime=60"])
        .env("GIT_ASKPASS", "true")
        .env("SSH_ASKPASS", "true");
    if std::env::var_os("GIT_SSH_COMMAND").is_none() {
        git =
            git.env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=20 -o ServerAliveInterval=20");
    }
    place(git)
}

fn unreachable(url: &str, error: CmdError) -> GitError {
    let said = match &error {
        CmdError::Start { .. } | CmdError::Pipe { .. } | CmdError::Stopped { .. } => {
            return GitError::Git(error);
        }
        CmdError::TimedOut { timeout, .. } => format!("no answer within {} s", timeout.as_secs()),
        CmdError::Failed { tail, .. } => said_line(tail, url),
    };
    GitError::Unreachable { url: redacted(url), said }
}

/// The line of git's that says why: its first `fatal:` or `error:`, otherwise the last.
fn said_line(said: &str, url: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let why = lines.iter().find(|line| line.starts_with("fatal:") || line.starts_with("error:"));
    let line = why.or(lines.last()).copied().unwrap_or("git said nothing");
    let line = line.trim_start_matches("fatal:").trim_start_matches("error:").trim();
    line.replace(url, &redacted(url))
}

/// The URL without the password that somebody put into it.
fn redacted(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let host_from = rest.find('/').unwrap_or(rest.len());
    match rest[..host_from].rfind('@') {
        Some(at) => format!("{scheme}://{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

fn remove_stale_locks(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let kind = entry.file_type();
        if kind.as_ref().is_ok_and(fs::FileType::is_dir) {
            if entry.file_name() != "objects" {
                remove_stale_locks(&path);
            }
        } else if path.extension().is_some_and(|end| end == "lock") && entry.file_name() != "volary.lock" {
            // If it cannot be removed, git will say so better than we could here.
            let _ = remove_if_exists(&path);
        }
    }
}

/// Empties the mirror but for our own lock, which is held.
fn empty(path: &Path) -> Result<(), GitError> {
    for entry in fs::read_dir(path).map_err(at("read", path))?.flatten() {
        if entry.file_name() == "volary.lock" {
            continue;
        }
        let inner = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir {
            fs::remove_dir_all(&inner).map_err(at("remove", &inner))?;
        } else {
            remove_if_exists(&inner)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let check = |url: &str, expected: &str| assert_eq!(redacted(url), expected);
        check("https://me:secret@host/x@y.git", "https://host/x@y.git");
        check("https://host/x.git", "https://host/x.git");
        check("git@host:x.git", "git@host:x.git");
        check("/srv/git/x.git", "/srv/git/x.git");
        let line = said_line("warning: x\nfatal: unable to access 'https://a:b@h/': no", "https://a:b@h/");
        assert_eq!(line, "unable to access 'https://h/': no");
    }
}
