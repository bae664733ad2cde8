//! The rules by which a stage moves forward: signed, in order, identical, never back.
//!
//! One function for the server's hook, the command line and the device. The rules for a step
//! stand in the commit *before* it, which was accepted already; so a commit can change who signs
//! the next one, and how many, never who signed itself. Nothing is written and no clock is read here.

use std::collections::{HashSet, VecDeque};

use volary_model::{CommitId, StageName};

use crate::commit::Commit;
use crate::diff::changed_files;
use crate::object::{ObjectError, ObjectId, ObjectSource, ReadObjects};
use crate::quorum::{Ballot, electorate};
use crate::refusal::{NAMED, Refusal, Shortage};
use crate::rules::{Rules, RulesError};
use crate::signature::{Made, SignatureError, Signer, verify};
use crate::signers::AllowedSigners;

/// A trailer of a promotion's message that binds it to one stage: `Volary-Stage: canary`. A merge
/// that carries it is refused on the branch of any other stage.
pub const STAGE_TRAILER: &str = "Volary-Stage";

/// More steps at once than any stage makes; a bound against endless histories.
pub(crate) const MAX_STEPS: usize = 100_000;

/// What the caller has accepted before.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// Nothing on any stage yet: the tip must be signed by these.
    First {
        /// The root of trust, which came by another way than the repository.
        signers: &'a AllowedSigners,
        /// How many different people of them must have signed; more if the tip itself says so.
        quorum: u32,
    },
    /// Nothing on this stage yet, and this commit of another stage: its rules for this one count.
    From(&'a CommitId),
    /// This commit; it and its rules are trusted.
    After(&'a CommitId),
}

/// A way forward in which every step was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advance {
    /// Where it leads.
    pub tip: CommitId,
    /// The steps, oldest first; empty if the tip is what was accepted before.
    pub steps: Vec<Step>,
}

/// One verified commit of a stage branch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The commit.
    pub commit: CommitId,
    /// Who signed it.
    pub signer: Signer,
    /// Who approved it beside, one signature for each person; empty where one is enough.
    pub approvals: Vec<Signer>,
    /// The commit of the stage before that it merged; `None` on the first stage.
    pub merged: Option<CommitId>,
}

/// Verifies that a stage may go to `tip`.
///
/// Walks the first parents back to what was accepted, then judges each step forward: signed by a
/// key that the commit before allows for this stage, and approved by as many further people as it
/// asks for; on a stage with `from`, a merge whose files are exactly those of its second parent, which
/// itself contains what was merged before.
///
/// # Errors
/// [`Refusal`], the first one on the way forward.
pub fn verify_advance(
    objects: &dyn ObjectSource,
    stage: &StageName,
    start: Start<'_>,
    tip: &CommitId,
) -> Result<Advance, Refusal> {
    if matches!(start, Start::After(accepted) if accepted == tip) {
        return Ok(Advance { tip: tip.clone(), steps: Vec::new() });
    }
    let mut judge = Judge::begin(objects, stage, start, tip)?;
    let mut steps = Vec::new();
    match start {
        Start::First { .. } | Start::From(_) => steps.push(judge.step(&objects.commit(tip)?, None)?),
        Start::After(accepted) => {
            let mut before = objects.commit(accepted)?;
            for commit in path_from(objects, stage, accepted, tip)? {
                steps.push(judge.step(&commit, Some(&before))?);
                judge.accept(&commit).map_err(|refusal| match refusal {
                    Refusal::TooOld { commit, cause, before: None } => {
                        let before = Some(before.id.clone()).filter(|before| before != accepted);
                        Refusal::TooOld { commit, cause, before }
                    }
                    other => other,
                })?;
                before = commit;
            }
        }
    }
    can_go_on(stage, tip, &rules_of_tip(objects, tip)?, objects.commit(tip)?.committer.seconds)?;
    Ok(Advance { tip: tip.clone(), steps })
}

fn rules_of_tip(objects: &dyn ObjectSource, tip: &CommitId) -> Result<Rules, Refusal> {
    Rules::at(objects, tip).map_err(|cause| match cause {
        RulesError::Object(error) => Refusal::Object(error),
        cause => without_rules(tip, cause),
    })
}

/// Nothing can be judged by the rules of this commit.
fn without_rules(commit: &CommitId, cause: RulesError) -> Refusal {
    let commit = commit.clone();
    match cause {
        RulesError::TooOld(cause) => Refusal::TooOld { commit, cause, before: None },
        cause => Refusal::Rules { commit, cause },
    }
}

/// A tip after which too few people could sign would be the last one for ever.
fn can_go_on(stage: &StageName, tip: &CommitId, rules: &Rules, time: i64) -> Result<(), Refusal> {
    let needed = rules.config.quorum_of(stage);
    let people = electorate(rules, stage, time);
    if people >= usize::try_from(needed).expect("32 bits fit") {
        return Ok(());
    }
    Err(Refusal::DeadEnd { commit: tip.clone(), stage: stage.clone(), needed, people })
}

/// The commits after `accepted` up to `tip` along first parents, oldest first.
fn path_from(
    objects: &dyn ObjectSource,
    stage: &StageName,
    accepted: &CommitId,
    tip: &CommitId,
) -> Result<Vec<Commit>, Refusal> {
    let mut path = Vec::new();
    let mut next = tip.clone();
    while next != *accepted {
        if path.len() >= MAX_STEPS {
            return Err(Refusal::TooMany);
        }
        // On a device the history ends where its first fetch began.
        let commit = match objects.find_commit(&next)? {
            Some(commit) => commit,
            None if path.is_empty() => return Err(ObjectError::Missing { id: (&next).into() }.into()),
            None => return Err(not_reached(objects, stage, accepted, tip)?),
        };
        let Some(parent) = commit.parents.first().cloned() else {
            return Err(not_reached(objects, stage, accepted, tip)?);
        };
        path.push(commit);
        next = parent;
    }
    path.reverse();
    Ok(path)
}

fn not_reached(
    objects: &dyn ObjectSource,
    stage: &StageName,
    accepted: &CommitId,
    tip: &CommitId,
) -> Result<Refusal, ObjectError> {
    let (tip, accepted, stage) = (tip.clone(), accepted.clone(), stage.clone());
    Ok(if is_ancestor(objects, &tip, &accepted)? {
        Refusal::Older { tip, accepted, stage }
    } else {
        Refusal::Rewritten { tip, accepted, stage }
    })
}

/// Who judges the next step.
struct Judge<'a> {
    objects: &'a dyn ObjectSource,
    stage: &'a StageName,
    /// The rules before that step.
    rules: Rules,
    /// At least so many people must have signed.
    least: u32,
    /// The newest time of what was accepted, as it claims itself, in seconds since 1970.
    seen: i64,
}

impl<'a> Judge<'a> {
    fn begin(
        objects: &'a dyn ObjectSource,
        stage: &'a StageName,
        start: Start<'_>,
        tip: &CommitId,
    ) -> Result<Self, Refusal> {
        match start {
            Start::First { signers, quorum } => {
                let rules = Rules { config: rules_of_tip(objects, tip)?.config, signers: signers.clone() };
                let least = rules.config.quorum_of(stage).max(quorum);
                Ok(Self { objects, stage, rules, least, seen: i64::MIN })
            }
            Start::From(commit) | Start::After(commit) => {
                let rules = Rules::at(objects, commit).map_err(|cause| without_rules(commit, cause))?;
                let seen = objects.commit(commit)?.committer.seconds;
                Ok(Self { objects, stage, least: rules.config.quorum_of(stage), rules, seen })
            }
        }
    }

    fn step(&self, commit: &Commit, before: Option<&Commit>) -> Result<Step, Refusal> {
        let (id, stage) = (&commit.id, self.stage);
        let known = self.rules.config.stage(stage);
        let known =
            known.ok_or_else(|| Refusal::UnknownStage { stage: stage.clone(), commit: id.clone() })?;
        let refused = |cause| Refusal::Signature { commit: id.clone(), cause };
        let signed = commit.signed.as_ref().ok_or_else(|| refused(SignatureError::Unsigned))?;
        let not_before = self.not_before(commit)?;
        let made = Made { claimed: commit.committer.seconds, not_before };
        let signer = verify(signed, &self.rules.signers, made).map_err(refused)?;
        if !self.rules.config.may_sign(stage, &signer.principals) {
            return Err(Refusal::NotAllowed {
                commit: id.clone(),
                signer: signer.name().to_owned(),
                stage: stage.clone(),
                allowed: self.rules.config.signers.get(stage).cloned().unwrap_or_default(),
            });
        }
        let merged = match &known.from {
            None => None,
            // A fleet's very first commit is where all its stages begin.
            Some(_) if before.is_none() && commit.parents.is_empty() => None,
            Some(from) => Some(verify_promotion(self.objects, stage, from, commit, before)?),
        };
        // Only a promotion is bound: a merge brought back to the first stage is an ordinary commit.
        if let (Some(found), true) = (commit.trailer(STAGE_TRAILER), known.from.is_some())
            && found != stage.as_str()
        {
            return Err(Refusal::OtherStage {
                commit: id.clone(),
                stage: stage.clone(),
                found: found.to_owned(),
            });
        }
        let approvals = self.quorum(commit, merged.as_ref(), &signer, not_before)?;
        Ok(Step { commit: id.clone(), signer, approvals, merged })
    }

    /// A commit was made after its parents, and after everything that was accepted before it.
    fn not_before(&self, commit: &Commit) -> Result<i64, ObjectError> {
        let mut newest = self.seen;
        for parent in &commit.parents {
            // On a device the history ends where its first fetch began.
            if let Some(parent) = self.objects.find_commit(parent)? {
                newest = newest.max(parent.committer.seconds);
            }
        }
        Ok(newest)
    }

    /// Who approved the commit beside its signer, if that must be somebody and is enough.
    fn quorum(
        &self,
        commit: &Commit,
        merged: Option<&CommitId>,
        signer: &Signer,
        not_before: i64,
    ) -> Result<Vec<Signer>, Refusal> {
        if self.least <= 1 {
            return Ok(Vec::new());
        }
        let ballot = Ballot {
            objects: self.objects,
            rules: &self.rules,
            stage: self.stage,
            commit,
            merged,
            not_before,
        };
        let count = ballot.count(signer)?;
        if count.approvals.len() + 1 >= usize::try_from(self.least).expect("32 bits fit") {
            return Ok(count.approvals);
        }
        let signed = std::iter::once(signer).chain(&count.approvals);
        let shortage = Shortage {
            needed: self.least,
            signed: signed.map(|signer| signer.name().to_owned()).collect(),
            missing: count.missing,
            approve: merged.unwrap_or(&commit.id).clone(),
            unusable: count.unusable,
        };
        Err(Refusal::Quorum {
            commit: commit.id.clone(),
            stage: self.stage.clone(),
            shortage: Box::new(shortage),
        })
    }

    /// From here on the rules of this commit count.
    fn accept(&mut self, commit: &Commit) -> Result<(), Refusal> {
        self.seen = self.seen.max(commit.committer.seconds);
        match Rules::in_tree(self.objects, &commit.tree) {
            Ok(rules) => {
                self.least = rules.config.quorum_of(self.stage);
                self.rules = rules;
                Ok(())
            }
            Err(RulesError::Object(error)) => Err(error.into()),
            // No mistake but rules that cannot be known here: who they let in, or no longer let in, could judge
            // nothing.
            Err(cause @ RulesError::TooOld(_)) => Err(without_rules(&commit.id, cause)),
            // A mistake that a later commit repaired: the last good rules go on.
            Err(
                RulesError::Absent { .. }
                | RulesError::NotText { .. }
                | RulesError::Config(_)
                | RulesError::Signers(_),
            ) => Ok(()),
        }
    }
}

fn verify_promotion(
    objects: &dyn ObjectSource,
    stage: &StageName,
    from: &StageName,
    commit: &Commit,
    before: Option<&Commit>,
) -> Result<CommitId, Refusal> {
    let [_, merged] = &commit.parents[..] else {
        return Err(Refusal::NotAMerge {
            commit: commit.id.clone(),
            stage: stage.clone(),
            from: from.clone(),
        });
    };
    let promoted = objects.commit(merged)?;
    if promoted.tree != commit.tree {
        return Err(Refusal::TreeDiffers {
            commit: commit.id.clone(),
            merged: merged.clone(),
            stage: stage.clone(),
            paths: differing_paths(objects, &promoted.tree, &commit.tree),
        });
    }
    if let Some(before) = before {
        // What the branch had: what its last merge brought, or the commit where it began.
        let had = before.parents.get(1).unwrap_or(&before.id);
        if !is_ancestor(objects, had, merged)? {
            return Err(Refusal::GoesBack {
                commit: commit.id.clone(),
                stage: stage.clone(),
                merged: merged.clone(),
                before: had.clone(),
            });
        }
    }
    Ok(merged.clone())
}

/// On a device the older folders may not be there; then the refusal names no paths.
fn differing_paths(objects: &dyn ObjectSource, old: &ObjectId, new: &ObjectId) -> Vec<String> {
    changed_files(objects, old, new, NAMED)
        .map(|changes| changes.into_iter().map(|change| change.path).collect())
        .unwrap_or_default()
}

/// True if `old` is `new` or in its history, as far as the history is at hand.
///
/// # Errors
/// [`ObjectError`] but for commits that are missing: a shallow history ends there.
pub fn is_ancestor(objects: &dyn ObjectSource, old: &CommitId, new: &CommitId) -> Result<bool, ObjectError> {
    let mut seen = HashSet::from([new.clone()]);
    let mut queue = VecDeque::from([new.clone()]);
    while let Some(id) = queue.pop_front() {
        if id == *old {
            return Ok(true);
        }
        let Some(commit) = objects.find_commit(&id)? else { continue };
        queue.extend(commit.parents.into_iter().filter(|parent| seen.insert(parent.clone())));
    }
    Ok(false)
}

/// The commits of a branch along first parents, newest first: what the branch itself went through.
///
/// # Errors
/// [`ObjectError`] but for commits that are missing: a shallow history ends there.
pub fn first_parents(
    objects: &dyn ObjectSource,
    tip: &CommitId,
    limit: usize,
) -> Result<Vec<Commit>, ObjectError> {
    let mut commits = Vec::new();
    let mut next = Some(tip.clone());
    while let Some(id) = next.take().filter(|_| commits.len() < limit) {
        let Some(commit) = objects.find_commit(&id)? else { break };
        next = commit.parents.first().cloned();
        commits.push(commit);
    }
    Ok(commits)
}
