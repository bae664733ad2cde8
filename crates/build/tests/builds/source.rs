//! A git repository in a temporary folder, with commits that are the same each time.

use std::path::Path;

use volary_host::{Cmd, create_dir, write_atomic};
use volary_model::CommitId;

/// A git repository in a folder that goes away.
pub struct Source {
    pub dir: tempfile::TempDir,
}

impl Source {
    /// An empty one.
    pub fn new() -> Self {
        let source = Self { dir: tempfile::tempdir().unwrap() };
        source.git(&["init", "--quiet", "--initial-branch=master", "."]);
        source
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        create_dir(path.parent().unwrap()).unwrap();
        // An executable debian/install would be a program.
        let mode = if name == "debian/rules" { 0o755 } else { 0o644 };
        write_atomic(&path, text.as_bytes(), mode).unwrap();
    }

    pub fn git(&self, args: &[&str]) -> String {
        let mut git = Cmd::new("git").args(["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]);
        for key in ["GIT_AUTHOR_DATE", "GIT_COMMITTER_DATE"] {
            git = git.env(key, "2026-11-22T10:00:05Z");
        }
        git.args(args).cwd(self.path()).check().unwrap().text().trim().to_owned()
    }

    /// Commits everything.
    pub fn commit(&self, subject: &str) -> CommitId {
        self.git(&["add", "--all", "--force", "."]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", subject]);
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }
}
