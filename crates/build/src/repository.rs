//! A git repository on this machine, asked through git itself: tips, history, one commit, its tree.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use volary_host::{Cmd, CmdError, FileError, create_dir, remove_if_exists};
use volary_model::CommitId;

use crate::error::GitError;
use crate::submodule::{Submodule, resolve};

/// Writing out a very large tree takes this long at most.
const EXPORT_LIMIT: Duration = Duration::from_secs(600);

/// A repository on this machine, bare or not.
#[derive(Debug, Clone)]
pub struct Repository {
    path: PathBuf,
}

/// What a commit says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitInfo {
    /// Its id.
    pub id: CommitId,
    /// The first line of its message.
    pub subject: String,
    /// Who wrote it.
    pub author: String,
    /// Their mail address.
    pub author_email: String,
    /// Who committed it.
    pub committer: String,
    /// Their mail address.
    pub committer_email: String,
    /// When it was committed; the date of the version and the clock of the build.
    pub committed: Timestamp,
}

impl Repository {
    /// The repository at `path` (for a bare one, the folder itself). It is not looked at yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The newest commit of a branch.
    ///
    /// # Errors
    /// [`GitError::NoBranch`], [`GitError::Unreachable`] if there is no repository.
    pub fn tip(&self, branch: &str) -> Result<CommitId, GitError> {
        let reference = branch_ref(branch)?;
        if !self.git().args(["rev-parse", "--git-dir"]).run()?.status.success() {
            return Err(GitError::Unreachable {
                url: self.path.display().to_string(),
                said: "there is no git repository".to_owned(),
            });
        }
        let spec = format!("{reference}^{{commit}}");
        let output =
            self.git().args(["rev-parse", "--verify", "--quiet", "--end-of-options", &spec]).run()?;
        if !output.status.success() {
            let url = self.path.display().to_string();
            return Err(GitError::NoBranch { url, branch: branch.to_owned() });
        }
        commit_id(&output.text())
    }

    /// The commits to build after `last`, up to and with `tip`: along first parents, oldest first,
    /// so that a merge counts once. Only the tip if nothing was built yet or history was rewritten.
    ///
    /// # Errors
    /// [`GitError::NoCommit`] if the tip is not here; git's own failures.
    pub fn new_commits(&self, last: Option<&CommitId>, tip: &CommitId) -> Result<Vec<CommitId>, GitError> {
        if !self.has(tip)? {
            return Err(GitError::NoCommit { commit: tip.clone(), repository: self.path.clone() });
        }
        let Some(last) = last else { return Ok(vec![tip.clone()]) };
        if last == tip {
            return Ok(Vec::new());
        }
        let grew = self.has(last)?
            && self
                .git()
                .args(["merge-base", "--is-ancestor", last.as_str(), tip.as_str()])
                .run()?
                .status
                .success();
        if !grew {
            return Ok(vec![tip.clone()]);
        }
        let range = format!("{last}..{tip}");
        let listed = self.git().args(["rev-list", "--first-parent", "--reverse", &range, "--"]).check()?;
        listed.text().lines().map(commit_id).collect()
    }

    /// True if the commit is in this repository.
    ///
    /// # Errors
    /// Only if git cannot be run.
    pub fn has(&self, commit: &CommitId) -> Result<bool, GitError> {
        let spec = format!("{commit}^{{commit}}");
        Ok(self.git().args(["cat-file", "-e", &spec]).run()?.status.success())
    }

    /// What a commit says about itself.
    ///
    /// # Errors
    /// [`GitError::NoCommit`].
    pub fn commit_info(&self, commit: &CommitId) -> Result<CommitInfo, GitError> {
        if !self.has(commit)? {
            return Err(GitError::NoCommit { commit: commit.clone(), repository: self.path.clone() });
        }
        let format = "--format=%s%x00%an%x00%ae%x00%cn%x00%ce%x00%ct";
        let output = self
            .git()
            .args(["-c", "log.showSignature=false", "log", "-1", "--no-decorate", "--encoding=UTF-8", format])
            .args([commit.as_str(), "--"])
            .check()?;
        let text = output.text();
        let fields: Vec<&str> = text.trim_end_matches('\n').split('\0').collect();
        let answer = || GitError::Answer(text.chars().take(200).collect());
        let [subject, author, author_email, committer, committer_email, seconds] = fields[..] else {
            return Err(answer());
        };
        let seconds = seconds.parse().map_err(|_| answer())?;
        Ok(CommitInfo {
            id: commit.clone(),
            subject: subject.to_owned(),
            author: author.to_owned(),
            author_email: author_email.to_owned(),
            committer: committer.to_owned(),
            committer_email: committer_email.to_owned(),
            committed: Timestamp::from_second(seconds).map_err(|_| answer())?,
        })
    }

    /// The text of a small file of a commit; `None` if there is no ordinary file of that name, or
    /// one above `limit` bytes.
    ///
    /// # Errors
    /// Only if git cannot be run.
    pub fn file(&self, commit: &CommitId, path: &str, limit: u64) -> Result<Option<String>, GitError> {
        let listed =
            self.git().args(["ls-tree", "--long", "-z", commit.as_str(), "--", path]).check()?.text();
        // mode, type, id, size, tab, name.
        let fields: Vec<&str> = listed.split_whitespace().collect();
        let [mode, "blob", id, size, ..] = fields[..] else { return Ok(None) };
        let fits = size.parse::<u64>().is_ok_and(|size| size <= limit);
        if !mode.starts_with("100") || !fits {
            return Ok(None);
        }
        Ok(Some(self.git().args(["cat-file", "blob", id]).check()?.text()))
    }

    /// Whether a commit has something at a path, of whatever kind.
    ///
    /// # Errors
    /// Only if git cannot be run, or there is no such commit.
    pub(crate) fn has_path(&self, commit: &CommitId, path: &str) -> Result<bool, GitError> {
        let listed = self.git().args(["ls-tree", "-z", commit.as_str(), "--", path]).check()?.text();
        Ok(!listed.is_empty())
    }

    /// The submodules of a commit; `url` is the address of this repository.
    ///
    /// # Errors
    /// Only if git cannot be run, or answers what it never does.
    pub(crate) fn submodules(&self, commit: &CommitId, url: &str) -> Result<Vec<Submodule>, GitError> {
        let listed = self.git().args(["ls-tree", "-r", "-z", commit.as_str()]).check()?.text();
        let links: Vec<(&str, &str)> = listed
            .split('\0')
            .filter_map(|line| line.strip_prefix("160000 commit ")?.split_once('\t'))
            .collect();
        if links.is_empty() {
            return Ok(Vec::new());
        }
        let blob = format!("{commit}:.gitmodules");
        // It fails if there is no such file, which leaves every submodule without an address.
        let settings =
            self.git().args(["config", "--blob", &blob, "-z", "--get-regexp", r"^submodule\."]).run()?.text();
        let settings: BTreeMap<&str, &str> =
            settings.split('\0').filter_map(|setting| setting.split_once('\n')).collect();
        let address = |path: &str| {
            let name = settings
                .iter()
                .find_map(|(key, value)| key.strip_suffix(".path").filter(|_| *value == path))?;
            settings.get(format!("{name}.url").as_str()).map(|given| resolve(url, given))
        };
        links
            .into_iter()
            .map(|(id, path)| {
                Ok(Submodule { path: path.to_owned(), commit: commit_id(id)?, url: address(path) })
            })
            .collect()
    }

    /// Writes the files of a commit into the folder `into`, which is made; without `.git`.
    ///
    /// Unlike `git archive`, it does not leave out what `.gitattributes` marks `export-ignore`,
    /// because some upstreams mark `debian/` so.
    ///
    /// # Errors
    /// [`GitError::NoCommit`]; a full disk shows as git's own failure.
    pub fn export(&self, commit: &CommitId, into: &Path) -> Result<(), GitError> {
        if !self.has(commit)? {
            return Err(GitError::NoCommit { commit: commit.clone(), repository: self.path.clone() });
        }
        create_dir(into)?;
        let index = into.with_extension("volary-index");
        remove_if_exists(&index)?;
        let git = |args: &[&str]| -> Result<(), CmdError> {
            let command = self.git().arg("--work-tree").arg(into).args(args);
            command.env("GIT_INDEX_FILE", &index).cwd(into).timeout(EXPORT_LIMIT).check().map(drop)
        };
        git(&["read-tree", commit.as_str()])?;
        git(&["checkout-index", "--all", "--force"])?;
        remove_if_exists(&index)?;
        Ok(())
    }

    /// git on this repository, whoever owns its files, and without anything that would ask or run
    /// hooks.
    pub(crate) fn git(&self) -> Cmd {
        // An absolute path, because some calls run in another folder.
        let path = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        quiet_git().arg("--git-dir").arg(git_dir(&path))
    }
}

/// A work tree keeps its repository in `.git`; a bare repository is the folder itself.
fn git_dir(path: &Path) -> PathBuf {
    let inner = path.join(".git");
    if inner.exists() { inner } else { path.to_owned() }
}

/// git that never asks for anything and is not led by what a repository or a caller's environment
/// sets.
pub(crate) fn quiet_git() -> Cmd {
    let settings = [
        "safe.directory=*",
        "core.hooksPath=/dev/null",
        "core.autocrlf=false",
        "core.fsmonitor=false",
        "advice.detachedHead=false",
    ];
    let mut git = Cmd::new("git");
    for setting in settings {
        git = git.args(["-c", setting]);
    }
    for inherited in
        ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_QUARANTINE_PATH"]
    {
        git = git.env_remove(inherited);
    }
    git.env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C.UTF-8")
}

/// `refs/heads/<branch>`, if git allows that name.
pub(crate) fn branch_ref(branch: &str) -> Result<String, GitError> {
    let reference = format!("refs/heads/{branch}");
    if quiet_git().args(["check-ref-format", &reference]).run()?.status.success() {
        Ok(reference)
    } else {
        Err(GitError::InvalidBranch(branch.chars().take(200).collect()))
    }
}

pub(crate) fn commit_id(text: &str) -> Result<CommitId, GitError> {
    text.trim().parse().map_err(|_| GitError::Answer(text.chars().take(200).collect()))
}

/// Names a file operation on a path; the same as the host's, for this crate's many callers.
pub(crate) fn at<'a>(
    operation: &'static str,
    path: &'a Path,
) -> impl FnOnce(std::io::Error) -> FileError + use<'a> {
    FileError::at(operation, path)
}
