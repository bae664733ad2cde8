//! What the server's git asks before it takes a push.
//!
//! Deletions and rewrites of stage branches, wrong order, unsigned or changed merges and broken
//! configuration are refused, each with a sentence that helps. Approvals are judged in
//! `hook_approval`; other branches and tags are free.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use volary_model::{CommitId, StageName};

use crate::approval::APPROVAL_REFS;
use crate::check::{self, CheckOptions, Severity};
use crate::config::{FleetConfig, Packages, Stage};
use crate::evidence::EVIDENCE_REF;
use crate::hook_approval;
use crate::object::{MAX_OBJECT, ObjectError, ObjectSource, ReadObjects};
use crate::refusal::Refusal;
use crate::repository::GitRepository;
use crate::rules::{LOCK_FILE, Rules, RulesError};
use crate::signers::AllowedSigners;
use crate::step::{Advance, Start, first_parents, is_ancestor, verify_advance};
use crate::tree::file_at;

/// How far back a branch is read to find what was promoted from it.
const HISTORY: usize = 100_000;

/// How far the clocks of people may be ahead of the server's, in seconds. A commit of next year
/// would make every key with an end look expired to those who follow it.
const CLOCKS: i64 = 3600;

/// One line of a pre-receive hook's input: a ref and where it moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefUpdate {
    /// Where it was; `None` if it is new.
    pub old: Option<CommitId>,
    /// Where it goes; `None` if it is deleted.
    pub new: Option<CommitId>,
    /// Its full name: `refs/heads/canary`.
    pub name: String,
}

/// A line that is no ref update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no line of a pre-receive hook, which is `OLD NEW REF`")]
pub struct InvalidUpdate(String);

impl FromStr for RefUpdate {
    type Err = InvalidUpdate;

    fn from_str(line: &str) -> Result<Self, InvalidUpdate> {
        let invalid = || InvalidUpdate(line.chars().take(200).collect());
        let mut words = line.splitn(3, ' ');
        let mut id = || -> Result<Option<CommitId>, InvalidUpdate> {
            let id: CommitId = words.next().and_then(|word| word.parse().ok()).ok_or_else(invalid)?;
            Ok(Some(id).filter(|id| id.as_str().bytes().any(|byte| byte != b'0')))
        };
        let (old, new) = (id()?, id()?);
        let name = words.next().filter(|name| name.starts_with("refs/")).ok_or_else(invalid)?;
        Ok(Self { old, new, name: name.to_owned() })
    }
}

impl RefUpdate {
    /// The branch it moves, or `None` for tags and others.
    pub fn branch(&self) -> Option<&str> {
        self.name.strip_prefix("refs/heads/")
    }
}

/// How a push is judged.
#[derive(Debug, Clone, Default)]
pub struct HookOptions {
    /// Who may sign the first commit of an empty repository; without it, who that commit lists.
    pub initial_signers: Option<AllowedSigners>,
    /// Also let Ansible read the playbook and the inventory.
    pub ansible: bool,
    /// Environment for git: the quarantine variables if the caller is not the hook's own process.
    pub env: Vec<(String, String)>,
}

/// A ref that the push may not move, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    /// The ref.
    pub name: String,
    /// One or two lines for the person who pushed.
    pub message: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.name.strip_prefix("refs/heads/").unwrap_or(&self.name);
        write!(f, "{name}: {}", self.message)
    }
}

/// Judges a push to the repository at `repo`. All of it is taken or nothing.
///
/// # Errors
/// Every rejection, so that a person can mend all at once.
pub fn pre_receive(repo: &Path, updates: &[RefUpdate], options: &HookOptions) -> Result<(), Vec<Rejection>> {
    let whole = |error: ObjectError| {
        vec![Rejection { name: "push".into(), message: format!("it cannot be judged: {error}") }]
    };
    let repository = GitRepository::open_with_env(repo, options.env.clone()).map_err(whole)?;
    let now = volary_host::now().as_second();
    let arriving = updates.iter().filter_map(hook_approval::arriving).collect();
    let repository = repository.with_arriving(arriving);
    let push = Push { repository: &repository, updates, options, now };
    let base = push.base_config().map_err(whole)?;
    let mut rejections = Vec::new();
    for update in updates {
        if update.name.starts_with(APPROVAL_REFS) {
            let judged = push.judge_approval(update, base.as_ref());
            rejections.extend(judged.err().map(|message| Rejection { name: update.name.clone(), message }));
        }
        if update.name == EVIDENCE_REF {
            let message = "only the server writes evidence; fetch it with: git fetch origin ".to_owned();
            rejections.push(Rejection { name: update.name.clone(), message: message + EVIDENCE_REF });
        }
        let Some(branch) = update.branch() else { continue };
        let judged = push.stage_of(branch, update, base.as_ref()).and_then(|stage| match stage {
            Some((stage, config)) => push.judge(update, &stage, &config),
            None => Ok(()),
        });
        match judged {
            Ok(()) => {}
            Err(Trouble::Refused(messages)) => rejections
                .extend(messages.into_iter().map(|message| Rejection { name: update.name.clone(), message })),
            Err(Trouble::Object(error)) => rejections.push(Rejection {
                name: update.name.clone(),
                message: format!("it cannot be judged: {error}"),
            }),
        }
    }
    if rejections.is_empty() { Ok(()) } else { Err(rejections) }
}

enum Trouble {
    Refused(Vec<String>),
    Object(ObjectError),
}

impl From<ObjectError> for Trouble {
    fn from(error: ObjectError) -> Self {
        Self::Object(error)
    }
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Object(error) => Self::Object(error),
            refusal => refused(refusal.to_string()),
        }
    }
}

fn refused(message: String) -> Trouble {
    Trouble::Refused(vec![message])
}

pub(crate) struct Push<'a> {
    pub(crate) repository: &'a GitRepository,
    updates: &'a [RefUpdate],
    options: &'a HookOptions,
    /// Seconds since 1970.
    pub(crate) now: i64,
}

impl Push<'_> {
    pub(crate) fn objects(&self) -> &dyn ObjectSource {
        self.repository
    }

    /// The configuration that says which branches are stages: that of the default branch, and in
    /// an empty repository that of the branch which calls itself the first stage's.
    fn base_config(&self) -> Result<Option<FleetConfig>, ObjectError> {
        if let Some(head) = self.repository.head_branch()?
            && let Some(tip) = self.repository.branch(&head)?
        {
            return self.config_at(&tip);
        }
        for update in self.updates {
            let (Some(branch), Some(new)) = (update.branch(), &update.new) else { continue };
            if let Some(config) = self.config_at(new)?
                && config.first().branch == branch
            {
                return Ok(Some(config));
            }
        }
        Ok(None)
    }

    /// A commit whose configuration cannot be read names no stages.
    fn config_at(&self, commit: &CommitId) -> Result<Option<FleetConfig>, ObjectError> {
        match Rules::at(self.objects(), commit) {
            Ok(rules) => Ok(Some(rules.config)),
            Err(RulesError::Object(error)) => Err(error),
            Err(
                RulesError::Absent { .. }
                | RulesError::NotText { .. }
                | RulesError::TooOld(_)
                | RulesError::Config(_)
                | RulesError::Signers(_),
            ) => Ok(None),
        }
    }

    /// The stage that follows a branch, by the branch's own configuration before the push, else
    /// by that of the default branch.
    fn stage_of(
        &self,
        branch: &str,
        update: &RefUpdate,
        base: Option<&FleetConfig>,
    ) -> Result<Option<(Stage, FleetConfig)>, Trouble> {
        let own = match &update.old {
            Some(old) if self.objects().find_commit(old)?.is_some() => self.config_at(old)?,
            Some(_) | None => None,
        };
        let found = [own.as_ref(), base]
            .into_iter()
            .flatten()
            .find_map(|config| config.stage_of_branch(branch).map(|stage| (stage.clone(), config.clone())));
        match (found, base) {
            // Nothing is a stage yet: the push must make a first stage, or be judged as one.
            (None, None) if Some(branch) == self.repository.head_branch()?.as_deref() => {
                self.explain_first_push(update)
            }
            (found, _) => Ok(found),
        }
    }

    /// The default branch has no usable configuration: say what is wrong with the pushed one.
    fn explain_first_push(&self, update: &RefUpdate) -> Result<Option<(Stage, FleetConfig)>, Trouble> {
        let Some(new) = &update.new else { return Ok(None) };
        match Rules::at(self.objects(), new) {
            Ok(rules) => {
                let first = rules.config.first();
                Err(refused(format!(
                    "volary.yml calls {} the branch of the first stage; push that one first",
                    first.branch
                )))
            }
            Err(RulesError::Object(error)) => Err(error.into()),
            Err(error) => Err(refused(format!("{error}; `volary check` shows all there is to mend"))),
        }
    }

    fn judge(&self, update: &RefUpdate, stage: &Stage, config: &FleetConfig) -> Result<(), Trouble> {
        let name = &stage.name;
        let Some(new) = &update.new else {
            return Err(refused(format!(
                "the branch of stage {name} cannot be deleted; take the stage out of volary.yml first"
            )));
        };
        if self.objects().find_commit(new)?.is_none() {
            return Err(refused(format!("{new} is not a commit")));
        }
        self.in_size(new)?;
        let from_tip = match &stage.from {
            Some(from) => Some(self.tip_after_push(config, from)?),
            None => None,
        };
        let root;
        let start = match (&update.old, &from_tip) {
            (Some(old), _) => Some(Start::After(old)),
            (None, None) => {
                root = self.root_signers(new)?;
                Some(Start::First { signers: &root, quorum: 1 })
            }
            (None, Some(from_tip)) => {
                let base = self.branching_point(stage, from_tip, new)?;
                if base == *new {
                    None
                } else {
                    return self.advance(stage, config, Start::After(&base), new, Some(from_tip)).map(drop);
                }
            }
        };
        match start {
            Some(start) => {
                let advance = self.advance(stage, config, start, new, from_tip.as_ref())?;
                // A branch that is new here may be an old one that moved to this server.
                if update.old.is_some() { self.in_time(&advance) } else { Ok(()) }
            }
            None => self.check(new),
        }
    }

    /// No file is larger than what a device, or this server, would read. Found out by sizes alone: it is not read here either.
    fn in_size(&self, new: &CommitId) -> Result<(), Trouble> {
        let large = self.repository.oversized(new)?;
        if large.is_empty() {
            return Ok(());
        }
        let remedy = "take it out of the commit; images go to the server with `volary image publish`";
        let words = |(path, size): (String, u64)| {
            format!(
                "commit {}: {path} has {size} bytes, more than the {MAX_OBJECT} that a fleet repository may hold; {remedy}",
                new.short()
            )
        };
        Err(Trouble::Refused(large.into_iter().map(words).collect()))
    }

    /// What is pushed now was signed with keys that are valid now, and not in the future.
    fn in_time(&self, advance: &Advance) -> Result<(), Trouble> {
        for step in &advance.steps {
            let made = self.objects().commit(&step.commit)?.committer.seconds;
            if made > self.now + CLOCKS {
                return Err(refused(format!(
                    "commit {} is dated in the future; set the clock of the machine that made it, and \
                     commit again",
                    step.commit.short()
                )));
            }
            let mut signers = std::iter::once(&step.signer).chain(&step.approvals);
            if let Some(signer) = signers.find(|signer| signer.valid_before.is_some_and(|end| self.now > end))
            {
                return Err(refused(format!(
                    "commit {} is signed with a key of {} that has expired ({}); sign it with one that is valid",
                    step.commit.short(),
                    signer.name(),
                    signer.fingerprint
                )));
            }
        }
        Ok(())
    }

    fn advance(
        &self,
        stage: &Stage,
        config: &FleetConfig,
        start: Start<'_>,
        new: &CommitId,
        from_tip: Option<&CommitId>,
    ) -> Result<Advance, Trouble> {
        // Order first: "promote to canary first" helps more than what else is wrong.
        if let (Some(from), Some(from_tip)) = (&stage.from, from_tip) {
            self.in_order(stage, config, from, from_tip, start, new)?;
        }
        let advance = verify_advance(self.objects(), &stage.name, start, new)?;
        if !advance.steps.is_empty() {
            self.check(new)?;
        }
        if stage.packages == Packages::Lock {
            advance.steps.iter().try_for_each(|step| self.newer_agent_first(&stage.name, &step.commit))?;
        }
        Ok(advance)
    }

    /// A device whose agent is too old for a step goes to the one before it, for the release with the newer
    /// agent. So that release must not come with the step itself.
    fn newer_agent_first(&self, stage: &StageName, step: &CommitId) -> Result<(), Trouble> {
        let objects = self.objects();
        let Some(before) = objects.commit(step)?.parents.first().cloned() else { return Ok(()) };
        let (Some(is), Some(was)) = (self.config_at(step)?, self.config_at(&before)?) else { return Ok(()) };
        let Some(needs) = is.needs_agent.filter(|needs| Some(*needs) > was.needs_agent) else {
            return Ok(());
        };
        let lock = |commit: &CommitId| file_at(objects, &objects.commit(commit)?.tree, LOCK_FILE);
        if lock(step)? == lock(&before)? {
            return Ok(());
        }
        Err(refused(format!(
            "commit {} brings another volary.lock to {stage} together with `needs_agent: \"{needs}\"`, so that a \
             device with an older agent could take neither; bring the release with the newer agent there first, and \
             needs_agent after it",
            step.short()
        )))
    }

    /// Everything that the push merges must be on the branch of the stage before.
    fn in_order(
        &self,
        stage: &Stage,
        config: &FleetConfig,
        from: &StageName,
        from_tip: &CommitId,
        start: Start<'_>,
        new: &CommitId,
    ) -> Result<(), Trouble> {
        let history = first_parents(self.objects(), from_tip, HISTORY)?;
        let on_from = |id: &CommitId| history.iter().any(|commit| commit.id == *id);
        let accepted = match start {
            Start::After(accepted) | Start::From(accepted) => accepted,
            Start::First { .. } => return Ok(()),
        };
        for commit in first_parents(self.objects(), new, HISTORY)? {
            if commit.id == *accepted {
                break;
            }
            let Some(merged) = commit.parents.get(1) else { continue };
            if on_from(merged) {
                continue;
            }
            return Err(refused(self.wrong_order(stage, config, from, merged)?));
        }
        Ok(())
    }

    fn wrong_order(
        &self,
        stage: &Stage,
        config: &FleetConfig,
        from: &StageName,
        merged: &CommitId,
    ) -> Result<String, ObjectError> {
        let earlier = config.stage(from).and_then(|from| from.from.as_ref());
        let mut text =
            format!("{} is not on {from}, and {} takes merges of {from} only", merged.short(), stage.name);
        match earlier {
            Some(earlier) if self.is_on(config, earlier, merged)? => {
                text += &format!(
                    "; first `volary promote --from {earlier} --to {from}`, then on to {}",
                    stage.name
                );
            }
            Some(_) | None => text += &format!("; use `volary promote --from {from} --to {}`", stage.name),
        }
        Ok(text)
    }

    fn is_on(&self, config: &FleetConfig, stage: &StageName, commit: &CommitId) -> Result<bool, ObjectError> {
        let Some(stage) = config.stage(stage) else { return Ok(false) };
        match self.repository.branch(&stage.branch)? {
            Some(tip) => is_ancestor(self.objects(), commit, &tip),
            None => Ok(false),
        }
    }

    /// Where the branch of a stage will be if the push is taken.
    fn tip_after_push(&self, config: &FleetConfig, name: &StageName) -> Result<CommitId, Trouble> {
        let missing =
            || refused(format!("the branch of stage {name} does not exist yet; push that one first"));
        let stage = config.stage(name).ok_or_else(missing)?;
        let moved = self.updates.iter().find(|update| update.branch() == Some(&stage.branch));
        match moved {
            Some(update) => update.new.clone().ok_or_else(missing),
            None => self.repository.branch(&stage.branch)?.ok_or_else(missing),
        }
    }

    /// The commit of the stage before from which a new branch starts.
    fn branching_point(
        &self,
        stage: &Stage,
        from_tip: &CommitId,
        new: &CommitId,
    ) -> Result<CommitId, Trouble> {
        let history = first_parents(self.objects(), from_tip, HISTORY)?;
        let start = first_parents(self.objects(), new, HISTORY)?
            .into_iter()
            .find(|commit| history.iter().any(|other| other.id == commit.id));
        let from = stage.from.as_ref().map_or("", StageName::as_str);
        let known = match &start {
            Some(start) => {
                self.config_at(&start.id)?.is_some_and(|config| config.stage(&stage.name).is_some())
            }
            None => false,
        };
        match start {
            // Its rules judge the next commit, so they must know the stage.
            Some(start) if known => Ok(start.id),
            Some(_) | None => Err(refused(format!(
                "a new branch for {} must start at a commit that is on {from} and whose volary.yml has \
                 the stage; promote that to {from} first",
                stage.name
            ))),
        }
    }

    fn root_signers(&self, new: &CommitId) -> Result<AllowedSigners, Trouble> {
        if let Some(signers) = &self.options.initial_signers {
            return Ok(signers.clone());
        }
        match Rules::at(self.objects(), new) {
            Ok(rules) => Ok(rules.signers),
            Err(RulesError::Object(error)) => Err(error.into()),
            Err(error) => Err(refused(format!("{error}; `volary check` shows all there is to mend"))),
        }
    }

    fn check(&self, new: &CommitId) -> Result<(), Trouble> {
        let options = CheckOptions { ansible: self.options.ansible };
        let findings = check::check_commit(self.objects(), new, &options)?;
        let errors: Vec<String> = findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error)
            .map(|finding| format!("commit {}: {finding}", new.short()))
            .collect();
        if errors.is_empty() { Ok(()) } else { Err(Trouble::Refused(errors)) }
    }
}
