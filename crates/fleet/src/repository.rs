//! A git repository on this machine, read through one long-lived `git cat-file --batch`.
//!
//! For the server and the command line; devices have no git and use `LooseStore`. Works inside
//! git's hooks, where new objects stand in a quarantine folder named by the environment.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use volary_host::{Cmd, CmdError};
use volary_model::CommitId;

use crate::approval::{APPROVAL_REFS, read_approval_ref};
use crate::object::{AHEAD, MAX_OBJECT, Object, ObjectError, ObjectId, ObjectKind, ObjectSource};

/// Variables by which a caller's environment could turn git to another repository or index.
const FOREIGN: [&str; 5] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR"];

/// A git repository, bare or with a work tree.
#[derive(Debug)]
pub struct GitRepository {
    git_dir: PathBuf,
    env: Vec<(String, String)>,
    reader: Mutex<Option<BatchReader>>,
    /// Approvals by the commit they approve; read once, since a repository is opened for one task.
    approvals: OnceLock<HashMap<CommitId, Vec<ObjectId>>>,
    /// Approvals that a push brings and no ref names yet.
    arriving: Vec<(CommitId, ObjectId)>,
}

/// So many answers that nobody asked for yet are kept, and so many bytes.
const EARLY: usize = 1024;
const EARLY_BYTES: usize = MAX_OBJECT as usize;

#[derive(Debug)]
struct BatchReader {
    child: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
    /// What was asked for and is not answered, in the order of the answers.
    asked: VecDeque<ObjectId>,
    /// What was answered before it was wanted.
    early: HashMap<ObjectId, Object>,
    early_bytes: usize,
}

impl Drop for BatchReader {
    fn drop(&mut self) {
        // It may have ended by itself; either way it must not stay as a zombie.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl GitRepository {
    /// Opens the repository at `path`: a bare one, a `.git` folder, or any folder of a work tree.
    ///
    /// # Errors
    /// [`ObjectError::Git`] if git finds no repository there.
    pub fn open(path: &Path) -> Result<Self, ObjectError> {
        Self::open_with_env(path, Vec::new())
    }

    /// As [`GitRepository::open`], and sets environment variables for each git that is run: the
    /// quarantine variables of a hook, when the caller is not the hook itself.
    ///
    /// # Errors
    /// As [`GitRepository::open`].
    pub fn open_with_env(path: &Path, env: Vec<(String, String)>) -> Result<Self, ObjectError> {
        let mut repository = Self {
            git_dir: path.to_owned(),
            env,
            reader: Mutex::new(None),
            approvals: OnceLock::new(),
            arriving: Vec::new(),
        };
        // A bare repository, as servers have them, is known by what is in it. Starting git for that, and for each
        // branch, would be most of the time of a look at a promotion.
        if let Some(bare) = bare(path) {
            repository.git_dir = bare;
            return Ok(repository);
        }
        // Asking git, not guessing: it knows work trees and `.git` files.
        let found = repository.bare_git().cwd(path).args(["rev-parse", "--absolute-git-dir"]).check()?;
        repository.git_dir = PathBuf::from(found.text().trim_end_matches('\n'));
        Ok(repository)
    }

    /// The same repository with approvals that a push brings.
    pub(crate) fn with_arriving(mut self, approvals: Vec<(CommitId, ObjectId)>) -> Self {
        self.arriving = approvals;
        self
    }

    /// The repository's own folder.
    pub fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// A git command in this repository, with its surroundings cleaned: no replaced objects, no
    /// foreign repository from the environment, no question to a terminal.
    pub fn git(&self) -> Cmd {
        self.bare_git().arg("--git-dir").arg(&self.git_dir)
    }

    fn bare_git(&self) -> Cmd {
        let mut command = Cmd::new("git")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_NO_LAZY_FETCH", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C");
        for name in FOREIGN {
            command = command.env_remove(name);
        }
        for (name, value) in &self.env {
            command = command.env(name, value);
        }
        command
    }

    /// The commit that a name means (`master`, `refs/heads/canary`, `HEAD~1`), or `None`.
    ///
    /// # Errors
    /// [`ObjectError::Git`] if git cannot be run.
    pub fn resolve(&self, name: &str) -> Result<Option<CommitId>, ObjectError> {
        let wanted = format!("{name}^{{commit}}");
        let output =
            self.git().args(["rev-parse", "--verify", "--quiet", "--end-of-options", &wanted]).run()?;
        Ok(if output.status.success() { output.text().trim().parse().ok() } else { None })
    }

    /// The commit at the tip of a branch, or `None` if there is no such branch.
    ///
    /// # Errors
    /// [`ObjectError::Git`] if git cannot be run.
    pub fn branch(&self, branch: &str) -> Result<Option<CommitId>, ObjectError> {
        let name = format!("refs/heads/{branch}");
        // A loose reference comes before a packed one, and only git writes them. All else git knows better.
        let is_plain = branch.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
        let loose = if is_plain { self.read_line(&name) } else { None };
        match loose.and_then(|line| line.parse().ok()) {
            Some(commit) => Ok(Some(commit)),
            None => self.resolve(&name),
        }
    }

    /// The branch that `HEAD` names, also if it has no commit yet.
    ///
    /// # Errors
    /// [`ObjectError::Git`] if git cannot be run.
    pub fn head_branch(&self) -> Result<Option<String>, ObjectError> {
        let head = self.read_line("HEAD");
        let named = head.as_deref().and_then(|line| line.strip_prefix("ref: refs/heads/"));
        // A repository that keeps its references in another way has a name there that none can have.
        if let Some(branch) = named.filter(|branch| !branch.starts_with('.')) {
            return Ok(Some(branch.to_owned()));
        }
        let output = self.git().args(["symbolic-ref", "--quiet", "HEAD"]).run()?;
        Ok(output.text().trim().strip_prefix("refs/heads/").map(str::to_owned))
    }

    /// The only line of a file of the repository; `None` if it is otherwise.
    fn read_line(&self, path: &str) -> Option<String> {
        let text = volary_host::read_to_string(&self.git_dir.join(path)).ok()?;
        let line = text.strip_suffix('\n')?.trim_end();
        (!line.contains('\n')).then(|| line.to_owned())
    }

    fn read_approvals(&self) -> Result<HashMap<CommitId, Vec<ObjectId>>, ObjectError> {
        let listed = self.git().args(["for-each-ref", "--format=%(refname)", APPROVAL_REFS]).check()?;
        let mut approvals: HashMap<CommitId, Vec<ObjectId>> = HashMap::new();
        let kept = listed.text();
        let kept = kept.lines().filter_map(read_approval_ref).map(|(commit, _, tag)| (commit, tag));
        for (commit, tag) in kept.chain(self.arriving.iter().cloned()) {
            approvals.entry(commit).or_default().push(tag);
        }
        Ok(approvals)
    }

    fn start(&self) -> Result<BatchReader, ObjectError> {
        let mut command = self.git().args(["cat-file", "--batch"]).into_std();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| self.trouble(&error))?;
        let requests = child.stdin.take().expect("stdin is piped");
        let answers = BufReader::new(child.stdout.take().expect("stdout is piped"));
        Ok(BatchReader {
            child,
            requests,
            answers,
            asked: VecDeque::new(),
            early: HashMap::new(),
            early_bytes: 0,
        })
    }

    fn trouble(&self, reason: &dyn std::fmt::Display) -> ObjectError {
        ObjectError::Conversation {
            repository: self.git_dir.display().to_string(),
            reason: format!("did not answer: {reason}"),
        }
    }
}

/// The folder itself, if it is a bare repository by what git looks for.
fn bare(path: &Path) -> Option<PathBuf> {
    let is_bare = path.join("HEAD").is_file() && path.join("objects").is_dir() && path.join("refs").is_dir();
    is_bare.then(|| path.canonicalize().ok()).flatten()
}

impl GitRepository {
    /// The files that come with a commit and are larger than [`MAX_OBJECT`], with their sizes in bytes.
    ///
    /// # Errors
    /// [`ObjectError::Conversation`] if git cannot be asked.
    pub(crate) fn oversized(&self, new: &CommitId) -> Result<Vec<(String, u64)>, ObjectError> {
        let told = |error: CmdError| self.trouble(&error);
        // The list may be longer than what is kept of a program's words, so that it is looked at line by line.
        let list = || self.git().args(["rev-list", "--objects", new.as_str(), "--not", "--all"]);
        let filter = format!("--filter=blob:limit={}", MAX_OBJECT + 1);
        let mut ids: Vec<String> = Vec::new();
        list()
            .args([&filter, "--filter-print-omitted"])
            .check_lines(&mut |line| ids.extend(line.strip_prefix('~').map(str::to_owned)))
            .map_err(told)?;
        let mut large = Vec::new();
        for id in ids {
            let size = self.git().args(["cat-file", "-s", &id]).check().map_err(told)?.text();
            let mut path = String::new();
            let mut look = |line: &str| {
                if let Some(rest) = line.strip_prefix(&id) {
                    rest.trim().clone_into(&mut path);
                }
            };
            list().check_lines(&mut look).map_err(told)?;
            large.push((path, size.trim().parse().unwrap_or(MAX_OBJECT + 1)));
        }
        Ok(large)
    }
}

impl ObjectSource for GitRepository {
    fn load(&self, id: &ObjectId) -> Result<Option<Object>, ObjectError> {
        // A panic elsewhere cannot leave a half-read answer: the reader is taken out while in use.
        let mut slot = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reader = match slot.take() {
            Some(reader) => reader,
            None => self.start()?,
        };
        let mut answer = reader.get(id);
        // What follows a size that is too large is not read: that reader is of no use any more.
        if let Ok(Answer::TooLarge(other, _)) = answer
            && other != *id
        {
            reader = self.start()?;
            answer = reader.get(id);
        }
        match answer.map_err(|error| self.trouble(&error))? {
            Answer::TooLarge(_, size) => Err(ObjectError::TooLarge { id: *id, size }),
            Answer::Found(object) => {
                *slot = Some(reader);
                Ok(Some(object))
            }
            Answer::Missing => {
                *slot = Some(reader);
                Ok(None)
            }
        }
    }

    fn soon(&self, ids: &[ObjectId]) {
        let mut slot = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let reader = match slot.take() {
            Some(reader) => Ok(reader),
            None => self.start(),
        };
        // If it does not work, `load` says so.
        if let Ok(mut reader) = reader
            && reader.ask_ahead(ids).is_ok()
        {
            *slot = Some(reader);
        }
    }

    fn approvals(&self, of: &CommitId) -> Result<Vec<ObjectId>, ObjectError> {
        let approvals = match self.approvals.get() {
            Some(approvals) => approvals,
            None => {
                let read = self.read_approvals()?;
                self.approvals.get_or_init(|| read)
            }
        };
        Ok(approvals.get(of).cloned().unwrap_or_default())
    }
}

enum Answer {
    Found(Object),
    Missing,
    TooLarge(ObjectId, u64),
}

impl BatchReader {
    fn get(&mut self, id: &ObjectId) -> io::Result<Answer> {
        if let Some(object) = self.early.remove(id) {
            self.early_bytes -= object.data.len();
            return Ok(Answer::Found(object));
        }
        if !self.asked.contains(id) {
            self.ask(&[*id])?;
        }
        while let Some(next) = self.asked.pop_front() {
            match self.answer(next)? {
                Answer::Found(object) if next != *id => self.keep(next, object),
                Answer::Missing if next != *id => {}
                answer => return Ok(answer),
            }
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it did not answer"))
    }

    fn keep(&mut self, id: ObjectId, object: Object) {
        if self.early.len() == EARLY || self.early_bytes + object.data.len() > EARLY_BYTES {
            self.early.clear();
            self.early_bytes = 0;
        }
        self.early_bytes += object.data.len();
        if let Some(before) = self.early.insert(id, object) {
            self.early_bytes -= before.data.len();
        }
    }

    fn ask_ahead(&mut self, ids: &[ObjectId]) -> io::Result<()> {
        let new = ids.iter().filter(|id| !self.early.contains_key(*id) && !self.asked.contains(*id));
        let new: Vec<ObjectId> = new.take(AHEAD.saturating_sub(self.asked.len())).copied().collect();
        self.ask(&new)
    }

    /// In one write: each one wakes git up.
    fn ask(&mut self, ids: &[ObjectId]) -> io::Result<()> {
        let lines: String = ids.iter().map(|id| format!("{id}\n")).collect();
        self.requests.write_all(lines.as_bytes())?;
        self.asked.extend(ids);
        Ok(())
    }

    fn answer(&mut self, id: ObjectId) -> io::Result<Answer> {
        let strange = |text: &str| io::Error::new(io::ErrorKind::InvalidData, format!("it said {text:?}"));
        let mut line = String::new();
        self.answers.by_ref().take(256).read_line(&mut line)?;
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, kind, size] = words[..] else {
            return if words.last() == Some(&"missing") { Ok(Answer::Missing) } else { Err(strange(&line)) };
        };
        let size: u64 = size.parse().map_err(|_| strange(&line))?;
        if size > MAX_OBJECT {
            return Ok(Answer::TooLarge(id, size));
        }
        let kind = ObjectKind::from_name(kind).ok_or_else(|| strange(&line))?;
        let mut data = vec![0; size as usize];
        self.answers.read_exact(&mut data)?;
        let mut newline = [0];
        self.answers.read_exact(&mut newline)?;
        Ok(Answer::Found(Object { kind, data }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_come_in_whatever_order_they_were_asked_for() {
        let scratch = tempfile::tempdir().unwrap();
        let git = |args: &[&str], input: &str| {
            let git = Cmd::new("git").arg("-C").arg(scratch.path()).args(args).stdin(input);
            git.check().unwrap().text().trim().to_owned()
        };
        git(&["init", "-q", "--bare"], "");
        let blobs: Vec<(ObjectId, String)> = (0..150)
            .map(|n| {
                let text = format!("blob {n}\n").repeat(1 + 40 * n);
                (git(&["hash-object", "-w", "--stdin"], &text).parse().unwrap(), text)
            })
            .collect();
        let ids: Vec<ObjectId> = blobs.iter().map(|(id, _)| *id).collect();
        let nowhere: ObjectId = "1".repeat(40).parse().unwrap();
        let repository = GitRepository::open(scratch.path()).unwrap();
        let check = |n: usize| {
            let object = repository.load(&blobs[n].0).unwrap().unwrap();
            assert_eq!(object.data, blobs[n].1.as_bytes(), "{n}");
        };
        // In order, with one that is twice in the list and one that is nowhere.
        repository.soon(&[&ids[..10], &ids[3..4], &[nowhere], &ids[10..]].concat());
        (0..20).for_each(check);
        assert_eq!(repository.load(&nowhere).unwrap(), None);
        // Backwards, others than asked for, again and again, and more than are kept.
        (0..20).rev().for_each(check);
        for start in [100, 0, 50, 100, 20] {
            repository.soon(&ids[start..]);
            [start + 30, start, 149, 3, start + 1].into_iter().for_each(check);
        }
        (0..150).for_each(check);
    }

    /// One that is too large is told when it is wanted, and keeps no other from being read.
    #[test]
    fn a_large_object_ahead_is_passed_over() {
        let scratch = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            Cmd::new("git").arg("-C").arg(scratch.path()).args(args).check().unwrap().text().trim().to_owned()
        };
        git(&["init", "-q", "--bare"]);
        let create = |name: &str| std::fs::File::create(scratch.path().join(name)).unwrap();
        create("small").write_all(b"small").unwrap();
        create("large").set_len(MAX_OBJECT + 1).unwrap();
        let write = |name: &str| -> ObjectId { git(&["hash-object", "-w", name]).parse().unwrap() };
        let (small, large) = (write("small"), write("large"));
        let repository = GitRepository::open(scratch.path()).unwrap();
        for _ in 0..2 {
            repository.soon(&[large, small]);
            assert_eq!(repository.load(&small).unwrap().unwrap().data, b"small");
            repository.soon(&[small, large]);
            let refused = repository.load(&large);
            assert!(matches!(refused, Err(ObjectError::TooLarge { id, .. }) if id == large), "{refused:?}");
        }
    }

    /// What is read from files is what git says.
    #[test]
    fn references_are_what_git_says() {
        let scratch = tempfile::tempdir().unwrap();
        let bare = scratch.path().join("fleet.git");
        let git = |args: &[&str]| {
            let who = ["-c", "user.name=Dora", "-c", "user.email=dora@example.com"];
            Cmd::new("git")
                .arg("-C")
                .arg(&bare)
                .args(who)
                .args(args)
                .check()
                .unwrap()
                .text()
                .trim()
                .to_owned()
        };
        std::fs::create_dir(&bare).unwrap();
        git(&["init", "-q", "--bare", "-b", "master"]);
        let repository = GitRepository::open(&bare).unwrap();
        assert_eq!(repository.git_dir(), bare.canonicalize().unwrap());
        let check = |branch: &str| {
            let listed = git(&["for-each-ref", "--format=%(objectname)", &format!("refs/heads/{branch}")]);
            let expected = (!listed.is_empty()).then(|| listed.parse().unwrap());
            assert_eq!(repository.branch(branch).unwrap(), expected, "{branch}");
        };
        check("master");
        assert_eq!(repository.head_branch().unwrap().as_deref(), Some("master"), "it has no commit yet");
        let tree = git(&["hash-object", "-w", "-t", "tree", "/dev/null"]);
        let first = git(&["commit-tree", &tree, "-m", "First"]);
        let second = git(&["commit-tree", &tree, "-p", &first, "-m", "Second"]);
        for branch in ["master", "team/canary"] {
            git(&["update-ref", &format!("refs/heads/{branch}"), &first]);
            check(branch);
        }
        git(&["pack-refs", "--all"]);
        check("master");
        check("team/canary");
        // A loose one comes before a packed one.
        git(&["update-ref", "refs/heads/master", &second]);
        check("master");
        assert_eq!(repository.branch("master").unwrap().unwrap().as_str(), second);
        git(&["symbolic-ref", "refs/heads/alias", "refs/heads/master"]);
        check("alias");
        git(&["symbolic-ref", "HEAD", "refs/heads/team/canary"]);
        assert_eq!(repository.head_branch().unwrap().as_deref(), Some("team/canary"));
        git(&["update-ref", "--no-deref", "HEAD", &first]);
        assert_eq!(repository.head_branch().unwrap(), None);
        assert_eq!(repository.branch("../../HEAD").unwrap(), None);
        assert!(GitRepository::open(scratch.path()).is_err());
    }
}
