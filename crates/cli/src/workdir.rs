//! A person's clone of the fleet repository: what `bump` and `promote` do with git there.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use volary_api::v1::image::ImageChange;
use volary_fleet::{
    APPROVAL_REFS, EVIDENCE_REF, FleetLock, GitRepository, Images, LOCK_FILE, ObjectId, ReadObjects, Refusal,
    Start, file_at, image_steps,
};
use volary_host::{Cmd, Output};
use volary_model::{CommitId, StageName};

use crate::config::Config;
use crate::failure::Failure;

/// Fetching and pushing may cross a slow line.
const NETWORK_TIMEOUT: Duration = Duration::from_secs(600);

/// An environment variable that outranks the authority a clone is configured for.
pub const FOREIGN_AUTHORITY: &str = "GIT_SSL_CAINFO";

/// The clone that a command was started in.
pub struct WorkDir {
    root: PathBuf,
}

impl WorkDir {
    /// Finds the clone around the current folder.
    pub fn find() -> Result<Self, Failure> {
        let output = Cmd::new("git").args(["rev-parse", "--show-toplevel"]).run()?;
        let root = PathBuf::from(output.text().trim_end());
        if !output.status.success() || !root.join("volary.yml").is_file() {
            return Err(Failure::with_help(
                anyhow!("this folder is in no clone of a fleet repository (no volary.yml at its top)"),
                "make one with: volary clone fleet",
            ));
        }
        Ok(Self { root })
    }

    /// The top of the clone.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn git(&self) -> Cmd {
        Cmd::new("git")
            .cwd(&self.root)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env_remove(FOREIGN_AUTHORITY)
            .timeout(NETWORK_TIMEOUT)
    }

    /// The objects of the clone.
    pub fn objects(&self) -> Result<GitRepository, Failure> {
        Ok(GitRepository::open(&self.root)?)
    }

    /// The commit that a name means here.
    pub fn resolve(&self, name: &str) -> Result<CommitId, Failure> {
        self.objects()?.resolve(name)?.ok_or_else(|| {
            Failure::with_help(
                anyhow!("{name} is no commit in this clone"),
                "git log --all shows those that are",
            )
        })
    }

    /// The commit that a branch of the server is at.
    pub fn remote(&self, branch: &str) -> Result<CommitId, Failure> {
        self.resolve(&format!("refs/remotes/origin/{branch}"))
    }

    /// Brings the remote branches and the approvals up to date.
    pub fn fetch(&self) -> Result<(), Failure> {
        let approvals = format!("+{APPROVAL_REFS}*:{APPROVAL_REFS}*");
        // A pattern, since a fleet without a promotion has none yet.
        let evidence = format!("+{EVIDENCE_REF}*:{EVIDENCE_REF}*");
        self.git()
            .args(["fetch", "--quiet", "--prune", "origin"])
            .args(["+refs/heads/*:refs/remotes/origin/*", &approvals, &evidence])
            .check()?;
        Ok(())
    }

    /// Makes sure that `branch` is checked out, clean, and what the server has.
    pub fn ready_on(&self, branch: &str) -> Result<(), Failure> {
        let current = self.git().args(["symbolic-ref", "--short", "-q", "HEAD"]).run()?.text();
        if current.trim() != branch {
            return Err(Failure::with_help(
                anyhow!("the pin is committed on {branch}, but this clone is on {}", current.trim()),
                format!("git switch {branch}"),
            ));
        }
        let status = self.git().args(["status", "--porcelain", "--untracked-files=no"]).check()?.text();
        if !status.trim().is_empty() {
            return Err(Failure::with_help(
                anyhow!("this clone has changes that are not committed"),
                "commit them, or put them away with: git stash",
            ));
        }
        self.git().args(["merge", "--quiet", "--ff-only", &format!("origin/{branch}")]).check().map_err(
            |error| {
                Failure::with_help(
                    error,
                    format!("bring this clone in step: git pull --rebase origin {branch}"),
                )
            },
        )?;
        Ok(())
    }

    /// Commits one file with a signature.
    pub fn commit_file(&self, config: &Config, file: &str, message: &str) -> Result<CommitId, Failure> {
        self.git().args(["add", "--", file]).check()?;
        let args = signing(config)?;
        self.signed(self.git().args(args).args(["commit", "--quiet", "-S", "-m", message, "--", file]))?;
        Ok(self.git().args(["rev-parse", "HEAD"]).check()?.text().trim().parse()?)
    }

    /// Makes a signed merge of `second` into `first` whose tree is exactly that of `second`.
    pub fn merge_commit(
        &self,
        config: &Config,
        first: &CommitId,
        second: &CommitId,
        message: &str,
    ) -> Result<CommitId, Failure> {
        let tree = format!("{second}^{{tree}}");
        let output = self.signed(
            self.git()
                .args(signing(config)?)
                .args(["commit-tree", "-S", "-p", first.as_str(), "-p", second.as_str(), "-F", "-", &tree])
                .stdin(message),
        )?;
        Ok(output.text().trim().parse()?)
    }

    fn signed(&self, command: Cmd) -> Result<Output, Failure> {
        command.check().map_err(|error| {
            Failure::with_help(
                error,
                "commits on stage branches are signed; git needs: git config gpg.format ssh, \
                 git config user.signingkey ~/.ssh/id_ed25519.pub, and user.name and user.email",
            )
        })
    }

    /// Makes a signed tag that approves a commit for a stage, and gives it to the server.
    pub fn approve(
        &self,
        config: &Config,
        commit: &CommitId,
        stage: &StageName,
    ) -> Result<ObjectId, Failure> {
        let tree = self.objects()?.commit(commit)?.tree;
        // git makes signed tags only with a name; it is taken away again at once.
        let name = format!("volary-approval-{}", std::process::id());
        let message = volary_fleet::approval_message(commit, &tree, stage);
        let tag = self.git().args(signing(config)?).args(["tag", "-s", "--cleanup=verbatim", "-F", "-"]);
        self.signed(tag.args([&name, commit.as_str()]).stdin(message))?;
        let made = self.git().args(["rev-parse", &format!("refs/tags/{name}")]).check()?.text();
        self.git().args(["tag", "--delete", &name]).check()?;
        let tag: ObjectId = made.trim().parse()?;
        let kept = volary_fleet::approval_ref(commit, stage, &tag);
        self.push_to(&tag.to_string(), &kept, "approval")?;
        self.git().args(["update-ref", &kept, &tag.to_string()]).check()?;
        Ok(tag)
    }

    /// Pushes a commit to a branch of the server. What the server's hook says is passed on.
    pub fn push(&self, commit: &str, branch: &str) -> Result<(), Failure> {
        self.push_to(commit, &format!("refs/heads/{branch}"), branch)?;
        // Keep the remote branch of the clone in step, as an ordinary push would.
        self.git().args(["update-ref", &format!("refs/remotes/origin/{branch}"), commit]).check()?;
        Ok(())
    }

    fn push_to(&self, object: &str, target: &str, shown: &str) -> Result<(), Failure> {
        let output = self.git().args(["push", "--quiet", "origin", &format!("{object}:{target}")]).run()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let hook: Vec<&str> =
            said.lines().filter_map(|line| line.strip_prefix("remote: ")).map(str::trim_end).collect();
        let reason = if hook.is_empty() { said.trim().to_owned() } else { hook.join("\n  ") };
        Err(Failure::no(format!("the push to {shown} was refused:\n  {reason}"), None))
    }
}

/// What a promotion brings, as the clone itself sees it.
pub struct Brought {
    /// Files that differ: `M site.yml`.
    pub files: Vec<String>,
    /// Commits that come along: short id and subject, newest first.
    pub commits: Vec<String>,
    /// Images that are pinned otherwise.
    pub images: Vec<ImageChange>,
}

impl WorkDir {
    /// Proves that `commit` is what people signed for the stage `from`: every step of its branch
    /// since what `base` merged last. The server named the commit, and it could name any.
    pub fn verify_promoted(
        &self,
        from: &StageName,
        base: &CommitId,
        commit: &CommitId,
    ) -> Result<(), Failure> {
        let objects = GitRepository::open(&self.root)?;
        let last = objects.commit(base)?;
        let had = last.parents.get(1).unwrap_or(base).clone();
        volary_fleet::verify_advance(&objects, from, Start::After(&had), commit).map_err(|refusal| {
            let help = format!("nothing was signed; do not promote this before you know where it comes from: git log {had}..{commit}");
            Failure::no(format!("the server offers a commit that was not signed for {from}: {refusal}"), Some(help))
        })?;
        Ok(())
    }

    /// Proves that a stage may go from `base` to `commit`, but for approvals that are missing yet.
    pub fn verify_step(
        &self,
        stage: &StageName,
        base: &CommitId,
        commit: &CommitId,
    ) -> Result<Result<(), Refusal>, Failure> {
        match volary_fleet::verify_advance(&self.objects()?, stage, Start::After(base), commit) {
            Ok(_) => Ok(Ok(())),
            Err(Refusal::Object(error)) => Err(error.into()),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// What lies between two commits.
    pub fn brought(&self, base: &CommitId, commit: &CommitId) -> Result<Brought, Failure> {
        let steps = image_steps(&self.images_at(base)?, &self.images_at(commit)?);
        let images = steps.into_iter().map(|step| ImageChange {
            device_type: step.device_type,
            from: step.from.map(|image| image.name),
            size: step.to.as_ref().map_or(0, |image| image.size),
            to: step.to.map(|image| image.name),
        });
        let lines = |command: Cmd| -> Result<Vec<String>, Failure> {
            Ok(command.check()?.text().lines().map(|line| line.replacen('\t', " ", 1)).collect())
        };
        let (base, commit) = (base.as_str(), commit.as_str());
        let diff = self.git().args(["diff", "--name-status", "--no-renames", base, commit]);
        let log = self.git().args(["log", "--format=%h %s", &format!("{base}..{commit}")]);
        Ok(Brought { files: lines(diff)?, commits: lines(log)?, images: images.collect() })
    }

    /// The images that a commit pins.
    fn images_at(&self, commit: &CommitId) -> Result<Images, Failure> {
        let objects = self.objects()?;
        let tree = objects.commit(commit)?.tree;
        let Some(bytes) = file_at(&objects, &tree, LOCK_FILE)? else { return Ok(Images::new()) };
        let lock = FleetLock::parse(&String::from_utf8_lossy(&bytes))
            .map_err(|error| anyhow!("{LOCK_FILE} of commit {}: {error}", commit.short()))?;
        Ok(lock.images)
    }
}

/// Git's options for a signature: the configured key, or else what git itself is configured for.
fn signing(config: &Config) -> Result<Vec<String>, Failure> {
    let Some(key) = &config.signing_key else {
        return Ok(Vec::new());
    };
    if !key.is_file() {
        return Err(Failure::with_help(
            anyhow!("the signing key {} is not there", key.display()),
            "set signing_key in client.toml, or take the line out to use git's own configuration",
        ));
    }
    let options =
        ["-c".into(), "gpg.format=ssh".into(), "-c".into(), format!("user.signingkey={}", key.display())];
    Ok(options.into())
}
