//! A person's clone of a repository that the server hosts.

use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_host::{Cmd, Output, create_dir, write_atomic};
use volary_model::CommitId;

use super::Desk;
use crate::LabError;

/// A clone, and the person's desk that it is on.
#[derive(Debug)]
pub struct Clone {
    desk: Desk,
    dir: PathBuf,
}

impl Clone {
    pub(super) fn new(desk: Desk, dir: PathBuf) -> Self {
        Self { desk, dir }
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A git command in this clone; for callers that look at how it ends.
    pub fn git(&self, args: &[&str]) -> Cmd {
        self.desk.command("git").args(args).cwd(&self.dir)
    }

    /// Runs git, which must succeed, and gives what it printed.
    ///
    /// # Errors
    /// That git failed, with what it said.
    pub fn run_git(&self, args: &[&str]) -> Result<String, LabError> {
        Ok(self.desk.check(&self.git(args))?.text())
    }

    /// Runs `volary` in this clone: `bump`, `promote`, `check`.
    ///
    /// # Errors
    /// That it could not be run; a non-zero exit status is no error.
    pub fn volary(&self, args: &[&str]) -> Result<Output, LabError> {
        self.desk.run(&self.desk.volary(args).cwd(&self.dir).timeout(Duration::from_secs(300)))
    }

    /// Runs `volary` in this clone, which must succeed, and gives what it printed.
    ///
    /// # Errors
    /// That it failed, with what it said.
    pub fn run_volary(&self, args: &[&str]) -> Result<String, LabError> {
        Ok(self.desk.check(&self.desk.volary(args).cwd(&self.dir).timeout(Duration::from_secs(300)))?.text())
    }

    /// Writes a file.
    ///
    /// # Errors
    /// That it cannot be written.
    pub fn write(&self, path: &str, text: &str) -> Result<(), LabError> {
        let path = self.dir.join(path);
        if let Some(parent) = path.parent() {
            create_dir(parent)?;
        }
        Ok(write_atomic(&path, text.as_bytes(), 0o644)?)
    }

    /// Lets devices ask each second, and watch a change for `seconds`: tests have little time. The
    /// stages are those of the template.
    ///
    /// # Errors
    /// That `volary.yml` cannot be read or written.
    pub fn hurry(&self, seconds: u64) -> Result<(), LabError> {
        let config = volary_host::read_to_string(&self.dir.join("volary.yml"))?;
        let stages = ["development", "canary", "production"].map(|stage| format!("{stage}: {seconds}s"));
        let config = config.replace("poll: 60s", "poll: 1s");
        self.write("volary.yml", &format!("{config}\nconfirm: {{ {} }}\n", stages.join(", ")))
    }

    /// Commits everything in the folder.
    ///
    /// # Errors
    /// That git failed, also if there is nothing to commit.
    pub fn commit(&self, message: &str) -> Result<CommitId, LabError> {
        self.run_git(&["add", "--all"])?;
        self.run_git(&["commit", "--quiet", "--message", message])?;
        self.head()
    }

    /// Pushes what is checked out to `branch`.
    ///
    /// # Errors
    /// That the push was refused, with what the server said.
    pub fn push(&self, branch: &str) -> Result<(), LabError> {
        self.run_git(&["push", "--quiet", "origin", &format!("HEAD:refs/heads/{branch}")]).map(drop)
    }

    /// The commit that is checked out.
    ///
    /// # Errors
    /// That there is none.
    pub fn head(&self) -> Result<CommitId, LabError> {
        let id = self.run_git(&["rev-parse", "HEAD"])?;
        Ok(id.trim().parse()?)
    }

    /// Takes over what the server has on the branch that is checked out.
    ///
    /// # Errors
    /// That git failed.
    pub fn pull(&self) -> Result<(), LabError> {
        self.run_git(&["pull", "--quiet", "--ff-only"]).map(drop)
    }
}
