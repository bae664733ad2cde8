//! A fleet repository made by real git and signed by real ssh-keygen, for the outer tests.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::path::{Path, PathBuf};

use volary_fleet::{GitRepository, ObjectId, TemplateValues, approval_message, approval_ref, write_template};
use volary_host::{Cmd, Output};
use volary_model::{CommitId, DeviceName, StageName};

/// A work tree with people who have keys.
pub struct Fleet {
    pub dir: tempfile::TempDir,
    /// Seconds since 1970 of the next commit; each is a minute after the one before.
    clock: std::cell::Cell<i64>,
}

impl Fleet {
    /// Keys for alice, bob and mallory; the template with alice and bob; its first signed commit.
    pub fn new() -> Self {
        let fleet = Self::empty();
        let signers = format!("{}{}", fleet.signer_line("alice", ""), fleet.signer_line("bob", ""));
        write_template(&fleet.work(), &values(&signers)).unwrap();
        fleet.commit("alice", "Begin the fleet");
        fleet
    }

    /// The keys and an empty repository.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let fleet = Self { dir, clock: 1_700_000_000.into() };
        for name in ["alice", "bob", "mallory"] {
            fleet.new_key(name, &["-t", "ed25519"]);
        }
        volary_host::create_dir(&fleet.work()).unwrap();
        fleet.git(&["init", "--quiet", "--initial-branch=master"]);
        fleet
    }

    pub fn new_key(&self, name: &str, kind: &[&str]) {
        Cmd::new("ssh-keygen")
            .args(["-q", "-N", "", "-C", name, "-f"])
            .arg(self.key(name))
            .args(kind)
            .check()
            .unwrap();
    }

    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A line of allowed_signers: `NAME@example.com OPTIONS KEY`.
    pub fn signer_line(&self, name: &str, options: &str) -> String {
        let key = volary_host::read_to_string(&self.key(name).with_extension("pub")).unwrap();
        format!("{name}@example.com {options}{}{}\n", if options.is_empty() { "" } else { " " }, key.trim())
    }

    pub fn write(&self, path: &str, content: &str) {
        let full = self.work().join(path);
        volary_host::create_dir(full.parent().unwrap()).unwrap();
        volary_host::write_atomic(&full, content.as_bytes(), 0o644).unwrap();
    }

    pub fn command(&self) -> Cmd {
        let time = self.clock.get();
        Cmd::new("git")
            .cwd(self.work())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .env("GIT_AUTHOR_DATE", format!("@{time} +0000"))
            .env("GIT_COMMITTER_DATE", format!("@{time} +0000"))
            .args(["-c", "user.name=Test", "-c", "user.email=test@example.com", "-c", "gpg.format=ssh"])
            .args(["-c", "gpg.ssh.allowedSignersFile=.volary/allowed_signers"])
    }

    pub fn git(&self, args: &[&str]) -> Output {
        self.command().args(args).check().unwrap()
    }

    pub fn at(&self, seconds: i64) {
        self.clock.set(seconds);
    }

    /// Commits everything, signed by `who`; unsigned if `who` is empty.
    pub fn commit(&self, who: &str, message: &str) -> CommitId {
        self.git(&["add", "--all"]);
        self.record(who, &["commit", "--quiet", "--allow-empty", "-m", message])
    }

    /// Merges a branch without fast-forward, signed by `who`.
    pub fn merge(&self, who: &str, branch: &str, message: &str) -> CommitId {
        self.record(who, &["merge", "--quiet", "--no-ff", "-X", "theirs", "-m", message, branch])
    }

    /// Merges `from` into `to` with exactly the files of `from`, as `volary promote` does.
    pub fn promote(&self, who: &str, from: &str, to: &str) -> CommitId {
        self.git(&["checkout", "--quiet", to]);
        let commit = self.commit_tree(who, &format!("{from}^{{tree}}"), &[to, from], "Promote");
        self.git(&["reset", "--quiet", "--hard", commit.as_str()]);
        commit
    }

    pub fn commit_tree(&self, who: &str, tree: &str, parents: &[&str], message: &str) -> CommitId {
        let mut command = self.signing(who).args(["commit-tree", tree, "-m", message]);
        if !who.is_empty() {
            command = command.arg(format!("-S{}", self.key(who).display()));
        }
        for parent in parents {
            command = command.args(["-p", parent]);
        }
        self.tick();
        command.check().unwrap().text().trim().parse().unwrap()
    }

    /// Approves a commit for a stage with a signed tag, as `volary approve` does.
    pub fn approve(&self, who: &str, commit: &CommitId, stage_name: &str) -> ObjectId {
        let tree: ObjectId =
            self.git(&["rev-parse", &format!("{commit}^{{tree}}")]).text().trim().parse().unwrap();
        let message = approval_message(commit, &tree, &stage(stage_name));
        self.tag_as_approval(who, commit, stage_name, &message)
    }

    /// A signed tag with any message, kept as an approval.
    pub fn tag_as_approval(&self, who: &str, commit: &CommitId, stage_name: &str, message: &str) -> ObjectId {
        self.signing(who)
            .args(["tag", "-s", "--cleanup=verbatim", "-F", "-", "approval", commit.as_str()])
            .stdin(message)
            .check()
            .unwrap();
        self.tick();
        let tag: ObjectId = self.git(&["rev-parse", "refs/tags/approval"]).text().trim().parse().unwrap();
        let name = approval_ref(commit, &stage(stage_name), &tag);
        self.git(&["update-ref", &name, &tag.to_string()]);
        self.git(&["tag", "--delete", "approval"]);
        tag
    }

    fn record(&self, who: &str, args: &[&str]) -> CommitId {
        let signing = if who.is_empty() { "commit.gpgsign=false" } else { "commit.gpgsign=true" };
        self.signing(who).args(["-c", signing]).args(args).check().unwrap();
        self.tick();
        self.tip("HEAD")
    }

    fn signing(&self, who: &str) -> Cmd {
        self.command().arg("-c").arg(format!("user.signingkey={}", self.key(who).display()))
    }

    fn tick(&self) {
        self.clock.set(self.clock.get() + 60);
    }

    pub fn tip(&self, name: &str) -> CommitId {
        self.git(&["rev-parse", name]).text().trim().parse().unwrap()
    }

    pub fn branch(&self, name: &str, at: &str) {
        self.git(&["branch", "--quiet", name, at]);
    }

    pub fn checkout(&self, name: &str) {
        self.git(&["checkout", "--quiet", name]);
    }

    pub fn repository(&self) -> GitRepository {
        GitRepository::open(&self.work()).unwrap()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }
}

pub fn values(signers: &str) -> TemplateValues {
    TemplateValues {
        fleet_name: "Test fleet".into(),
        signers: signers.into(),
        archive_key: "(key)\n".into(),
        archive_url: "https://fleet.example/archive".into(),
        ca_certificate: None,
    }
}

pub fn stage(name: &str) -> StageName {
    name.parse().unwrap()
}

pub fn device(name: &str) -> DeviceName {
    name.parse().unwrap()
}
