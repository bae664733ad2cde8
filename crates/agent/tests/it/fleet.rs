//! A fleet repository made by real git, with keys made by real ssh-keygen.

use std::path::{Path, PathBuf};

use volary_host::{Cmd, create_dir, write_atomic};
use volary_model::CommitId;

/// A repository with a work tree and people who sign.
pub struct Fleet {
    dir: tempfile::TempDir,
}

/// What stands in `volary.yml` unless a test says otherwise: no stage needs packages.
pub const CONFIG: &str = "\
version: 1
stages:
  development: { branch: master, packages: lock }
  canary: { branch: canary, from: development }
signers:
  canary: [alice@volary.test]
poll: 60s
confirm: { development: 1s, canary: 1s }
";

pub const INVENTORY: &str = "all:\n  hosts:\n    dev-1: {}\n    other: {}\n";

impl Fleet {
    /// A repository whose first commit is signed by alice.
    pub fn new() -> Self {
        let fleet = Self { dir: tempfile::tempdir().unwrap() };
        create_dir(&fleet.work()).unwrap();
        for person in ["alice", "bob", "mallory"] {
            Cmd::new("ssh-keygen")
                .args(["-q", "-t", "ed25519", "-N", "", "-C", person, "-f"])
                .arg(fleet.key(person))
                .check()
                .unwrap();
        }
        fleet.git(&["init", "-q", "-b", "master"]);
        fleet.put("volary.yml", CONFIG);
        fleet.put("volary.lock", "version: 1\n");
        fleet.put("inventory.yml", INVENTORY);
        fleet.put("site.yml", &fleet.playbook("one"));
        fleet.put("host_vars/other/secret.yml", "secret: not for dev-1\n");
        fleet.put(".volary/allowed_signers", &fleet.signers(&["alice", "bob"]));
        fleet.commit("alice", "Begin");
        fleet
    }

    /// The lines of `allowed_signers` for these people.
    pub fn signers(&self, people: &[&str]) -> String {
        let line = |person: &&str| {
            let key = volary_host::read_to_string(&self.key(person).with_extension("pub")).unwrap();
            format!("{person}@volary.test {key}")
        };
        people.iter().map(line).collect()
    }

    /// A playbook that writes `content` into [`Fleet::written`].
    pub fn playbook(&self, content: &str) -> String {
        let dest = self.written();
        format!(
            "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Write the file\n      copy:\n        \
             content: {content}\n        dest: {}\n        mode: '0644'\n",
            dest.display()
        )
    }

    /// The file that the playbook writes.
    pub fn written(&self) -> PathBuf {
        self.dir.path().join("written")
    }

    /// The work tree.
    pub fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn key(&self, person: &str) -> PathBuf {
        self.dir.path().join(person)
    }

    /// Writes a file of the work tree.
    pub fn put(&self, path: &str, text: &str) {
        self.put_mode(path, text, 0o644);
    }

    /// Writes an executable of the work tree.
    pub fn put_executable(&self, path: &str, text: &str) {
        self.put_mode(path, text, 0o755);
    }

    fn put_mode(&self, path: &str, text: &str, mode: u32) {
        let path = self.work().join(path);
        create_dir(path.parent().unwrap_or(Path::new("/"))).unwrap();
        write_atomic(&path, text.as_bytes(), mode).unwrap();
    }

    /// Commits everything, signed by a person; `nobody` does not sign.
    pub fn commit(&self, person: &str, message: &str) -> CommitId {
        self.git(&["add", "--all"]);
        self.signed(person, &["commit", "-q", "--allow-empty", "-m", message]);
        self.head()
    }

    /// As [`Fleet::commit`], at a time in seconds since 1970.
    pub fn commit_at(&self, person: &str, message: &str, seconds: i64) -> CommitId {
        self.git(&["add", "--all"]);
        let date = format!("@{seconds} +0000");
        let key = format!("user.signingkey={}", self.key(person).display());
        let git = self.command().env("GIT_AUTHOR_DATE", &date).env("GIT_COMMITTER_DATE", &date);
        let git = git.args(["-c", "commit.gpgsign=true", "-c", &key]);
        git.args(["commit", "-q", "--allow-empty", "-m", message]).check().unwrap();
        self.head()
    }

    /// Makes `canary` go to what `master` has, as `volary promote` does.
    pub fn promote(&self, person: &str) -> CommitId {
        let known = self.try_git(&["rev-parse", "--verify", "-q", "canary"]).is_some();
        if !known {
            let first = self.git(&["rev-list", "--max-parents=0", "master"]);
            self.git(&["branch", "canary", &first]);
        }
        self.git(&["checkout", "-q", "canary"]);
        self.signed(person, &["merge", "-q", "--no-ff", "-m", "Promote", "master"]);
        let tip = self.head();
        self.git(&["checkout", "-q", "master"]);
        tip
    }

    /// A merge of `master` into `canary` that has the files of `tree` instead.
    pub fn promote_tree(&self, person: &str, tree: &str) -> CommitId {
        let (canary, master) = (self.git(&["rev-parse", "canary"]), self.git(&["rev-parse", "master"]));
        let mut git = self.command();
        git = git.arg("-c").arg(format!("user.signingkey={}", self.key(person).display()));
        git = git.args(["commit-tree", "-S", tree, "-p", &canary, "-p", &master, "-m", "Promote"]);
        git.check().unwrap().text().trim().parse().unwrap()
    }

    /// Approves a commit for a stage; returns the tag.
    pub fn approve(&self, person: &str, commit: &CommitId, stage: &str) -> String {
        let tree = self.git(&["rev-parse", &format!("{commit}^{{tree}}")]).parse().unwrap();
        let message = volary_fleet::approval_message(commit, &tree, &stage.parse().unwrap());
        let key = format!("user.signingkey={}", self.key(person).display());
        let tag = self.command().args(["-c", &key, "tag", "-s", "--cleanup=verbatim", "-F", "-", "x"]);
        tag.arg(commit.as_str()).stdin(message).check().unwrap();
        let tag = self.git(&["rev-parse", "refs/tags/x"]);
        let name = volary_fleet::approval_ref(commit, &stage.parse().unwrap(), &tag.parse().unwrap());
        self.git(&["update-ref", &name, &tag]);
        self.git(&["tag", "--delete", "x"]);
        tag
    }

    /// The commit before the one that is checked out.
    pub fn parent(&self) -> CommitId {
        self.git(&["rev-parse", "HEAD~1"]).parse().unwrap()
    }

    /// The commit that is checked out.
    pub fn head(&self) -> CommitId {
        self.git(&["rev-parse", "HEAD"]).parse().unwrap()
    }

    /// Runs git and returns what it printed.
    pub fn git(&self, args: &[&str]) -> String {
        self.command().args(args).check().unwrap().text().trim().to_owned()
    }

    fn try_git(&self, args: &[&str]) -> Option<String> {
        self.command().args(args).check().ok().map(|output| output.text())
    }

    fn signed(&self, person: &str, args: &[&str]) {
        let mut git = self.command();
        if person == "nobody" {
            git = git.args(["-c", "commit.gpgsign=false"]);
        } else {
            git = git.args(["-c", "commit.gpgsign=true", "-c"]);
            git = git.arg(format!("user.signingkey={}", self.key(person).display()));
        }
        git.args(args).check().unwrap();
    }

    fn command(&self) -> Cmd {
        Cmd::new("git")
            .cwd(self.work())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .args(["-c", "user.name=A Person", "-c", "user.email=alice@volary.test"])
            .args(["-c", "gpg.format=ssh"])
    }
}
