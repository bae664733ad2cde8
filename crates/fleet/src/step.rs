//! The rules by which a stage moves forward: signed, in order, identical, never back.
//!
//! One function for the server's hook, the command line and the device. The rules for a step
//! stand in the commit *before* it, which was accepted already; so a commit can change who signs
//! the next one, never who signed itself. Nothing is written and no clock is read here.

use std::collections::{HashSet, VecDeque};

use volary_model::{CommitId, StageName};

use crate::commit::Commit;
use crate::diff::changed_files;
use crate::object::{ObjectError, ObjectId, ObjectSource, ReadObjects};
use crate::rules::{Rules, RulesError};
use crate::signature::{SignatureError, Signer, verify_commit};
use crate::signers::AllowedSigners;

/// A trailer of a promotion's message that binds it to one stage: `Volary-Stage: canary`. A merge
/// that carries it is refused on the branch of any other stage.
pub const STAGE_TRAILER: &str = "Volary-Stage";

/// More steps at once than any stage makes; a bound against endless histories.
const MAX_STEPS: usize = 100_000;

/// How many differing paths a refusal names.
const NAMED_PATHS: usize = 3;

/// What the caller has accepted before.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// Nothing on this stage yet: the tip must be signed by one of these.
    First {
        /// The root of trust, which came by another way than the repository.
        signers: &'a AllowedSigners,
    },
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
    /// The commit of the stage before that it merged; `None` on the first stage.
    pub merged: Option<CommitId>,
}

/// Why a tip is not accepted. Each message tells a person what to do.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The signature is missing or does not count.
    #[error("commit {} is refused: {cause}", .commit.short())]
    Signature {
        /// The commit.
        commit: CommitId,
        /// What is wrong with it.
        cause: SignatureError,
    },
    /// The signer may not sign for this stage.
    #[error(
        "commit {} is signed by {signer}, who may not sign for {stage}; `signers:` in volary.yml allows {}",
        .commit.short(), .allowed.join(", ")
    )]
    NotAllowed {
        /// The commit.
        commit: CommitId,
        /// Who signed.
        signer: String,
        /// The stage.
        stage: StageName,
        /// Who may.
        allowed: Vec<String>,
    },
    /// A stage with `from` got a commit that is no promotion.
    #[error(
        "commit {} is not a merge of {from} into {stage}, and {stage} takes nothing else; \
         use `volary promote --from {from} --to {stage}`", .commit.short()
    )]
    NotAMerge {
        /// The commit.
        commit: CommitId,
        /// The stage.
        stage: StageName,
        /// The stage it takes merges from.
        from: StageName,
    },
    /// The merge changed something.
    #[error(
        "the merge {} does not have exactly the files of {}, which it promotes to {stage}{}; \
         make the change on the first stage and use `volary promote`",
        .commit.short(), .merged.short(), paths_text(.paths)
    )]
    TreeDiffers {
        /// The merge.
        commit: CommitId,
        /// What it merged.
        merged: CommitId,
        /// The stage.
        stage: StageName,
        /// The first paths that differ; empty where the files themselves are not at hand.
        paths: Vec<String>,
    },
    /// The merge promotes something older than the one before it.
    #[error(
        "the merge {} takes {stage} back: {} does not contain {}, which {stage} has already; \
         undo a change with `git revert` on the first stage and promote that",
        .commit.short(), .merged.short(), .before.short()
    )]
    GoesBack {
        /// The merge.
        commit: CommitId,
        /// The stage.
        stage: StageName,
        /// What it merged.
        merged: CommitId,
        /// What was there before.
        before: CommitId,
    },
    /// The merge was signed for another stage.
    #[error("commit {} was signed for stage {found}, not for {stage}", .commit.short())]
    OtherStage {
        /// The commit.
        commit: CommitId,
        /// The stage.
        stage: StageName,
        /// The stage in its trailer.
        found: String,
    },
    /// The tip is older than what was accepted.
    #[error("{} is older than {}, which {stage} has already; a stage never goes back", .tip.short(), .accepted.short())]
    Older {
        /// The tip.
        tip: CommitId,
        /// What was accepted.
        accepted: CommitId,
        /// The stage.
        stage: StageName,
    },
    /// The accepted commit is not in the tip's history.
    #[error(
        "{} does not follow from {}, which {stage} has already: the branch was rewritten; \
         put the new work on top of it instead", .tip.short(), .accepted.short()
    )]
    Rewritten {
        /// The tip.
        tip: CommitId,
        /// What was accepted.
        accepted: CommitId,
        /// The stage.
        stage: StageName,
    },
    /// `volary.yml` does not know the stage.
    #[error("there is no stage {stage} in volary.yml of commit {}", .commit.short())]
    UnknownStage {
        /// The stage.
        stage: StageName,
        /// Where it was looked for.
        commit: CommitId,
    },
    /// The tip's own rules could not judge the next commit.
    #[error("commit {} is refused, because nothing could follow it: {cause}", .commit.short())]
    Rules {
        /// The commit.
        commit: CommitId,
        /// What is wrong.
        cause: RulesError,
    },
    /// More commits than can be looked at.
    #[error("there are more than {MAX_STEPS} commits after the accepted one")]
    TooMany,
    /// An object cannot be read.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

fn paths_text(paths: &[String]) -> String {
    if paths.is_empty() { String::new() } else { format!(" (different: {})", paths.join(", ")) }
}

/// Verifies that a stage may go to `tip`.
///
/// Walks the first parents back to what was accepted, then judges each step forward: signed by a
/// key that the commit before allows for this stage; on a stage with `from`, a merge whose files
/// are exactly those of its second parent, which itself contains what was merged before.
///
/// # Errors
/// [`Refusal`], the first one on the way forward.
pub fn verify_advance(
    objects: &dyn ObjectSource,
    stage: &StageName,
    start: Start<'_>,
    tip: &CommitId,
) -> Result<Advance, Refusal> {
    let tip_rules = || {
        Rules::at(objects, tip).map_err(|cause| match cause {
            RulesError::Object(error) => Refusal::Object(error),
            cause => Refusal::Rules { commit: tip.clone(), cause },
        })
    };
    let mut steps = Vec::new();
    match start {
        Start::First { signers } => {
            let rules = Rules { config: tip_rules()?.config, signers: signers.clone() };
            let commit = objects.commit(tip)?;
            steps.push(verify_step(objects, &rules, stage, &commit, None)?);
        }
        Start::After(accepted) if accepted == tip => {}
        Start::After(accepted) => {
            let path = path_from(objects, stage, accepted, tip)?;
            let mut rules = Rules::at(objects, accepted)
                .map_err(|cause| Refusal::Rules { commit: accepted.clone(), cause })?;
            let mut before = objects.commit(accepted)?;
            for commit in path {
                steps.push(verify_step(objects, &rules, stage, &commit, Some(&before))?);
                match Rules::in_tree(objects, &commit.tree) {
                    Ok(next) => rules = next,
                    Err(RulesError::Object(error)) => return Err(error.into()),
                    // A mistake that a later commit repaired: the last good rules go on.
                    Err(
                        RulesError::Absent { .. }
                        | RulesError::NotText { .. }
                        | RulesError::Config(_)
                        | RulesError::Signers(_),
                    ) => {}
                }
                before = commit;
            }
            tip_rules()?;
        }
    }
    Ok(Advance { tip: tip.clone(), steps })
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

fn verify_step(
    objects: &dyn ObjectSource,
    rules: &Rules,
    stage: &StageName,
    commit: &Commit,
    before: Option<&Commit>,
) -> Result<Step, Refusal> {
    let id = &commit.id;
    let known = rules.config.stage(stage);
    let known = known.ok_or_else(|| Refusal::UnknownStage { stage: stage.clone(), commit: id.clone() })?;
    let signer = verify_commit(commit, &rules.signers)
        .map_err(|cause| Refusal::Signature { commit: id.clone(), cause })?;
    if !rules.config.may_sign(stage, &signer.principals) {
        return Err(Refusal::NotAllowed {
            commit: id.clone(),
            signer: signer.name().to_owned(),
            stage: stage.clone(),
            allowed: rules.config.signers.get(stage).cloned().unwrap_or_default(),
        });
    }
    let merged = match &known.from {
        None => None,
        // A fleet's very first commit is where all its stages begin.
        Some(_) if before.is_none() && commit.parents.is_empty() => None,
        Some(from) => Some(verify_promotion(objects, stage, from, commit, before)?),
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
    Ok(Step { commit: id.clone(), signer, merged })
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
    changed_files(objects, old, new, NAMED_PATHS)
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
