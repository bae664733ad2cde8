//! Why a stage does not move to a commit: one sentence for each way, with the remedy.

use volary_model::{CommitId, StageName};

use crate::config::TooOld;
use crate::object::ObjectError;
use crate::rules::RulesError;
use crate::signature::SignatureError;
use crate::step::MAX_STEPS;

/// How many paths or notes a refusal names.
pub(crate) const NAMED: usize = 3;

/// Who signed, and who would have to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// How many people the stage needs.
    pub needed: u32,
    /// Who signed or approved.
    pub signed: Vec<String>,
    /// Who else could.
    pub missing: Vec<String>,
    /// What they would approve.
    pub approve: CommitId,
    /// Why some approvals do not count.
    pub unusable: Vec<String>,
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
        "commit {} is signed by {signer}, who may not sign for {stage}; volary.yml allows {}",
        .commit.short(), may_sign(.allowed)
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
    /// Fewer people signed than the stage needs.
    #[error(
        "commit {} is signed by {}, and {stage} needs {} different people; {}, with: \
         volary approve --stage {stage} {}{}",
        .commit.short(), .shortage.signed.join(" and "), .shortage.needed, others_text(&.shortage.missing),
        .shortage.approve.short(), unusable_text(&.shortage.unusable)
    )]
    Quorum {
        /// The commit.
        commit: CommitId,
        /// The stage.
        stage: StageName,
        /// Who is missing.
        shortage: Box<Shortage>,
    },
    /// After this commit nobody could sign the next one.
    #[error(
        "commit {} is refused, because nothing could follow it: {stage} needs {needed} different people to sign, \
         and {people} of .volary/allowed_signers could", .commit.short()
    )]
    DeadEnd {
        /// The commit.
        commit: CommitId,
        /// The stage.
        stage: StageName,
        /// How many it needs.
        needed: u32,
        /// How many there are.
        people: usize,
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
    /// The commit is as it should be, as far as this program can tell: its rules are for newer ones.
    #[error("commit {}: {cause}", .commit.short())]
    TooOld {
        /// The first such commit on the way.
        commit: CommitId,
        /// The versions.
        cause: TooOld,
        /// The commit before it, up to which everything was verified; `None` if that was accepted before.
        before: Option<CommitId>,
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

fn others_text(missing: &[String]) -> String {
    match missing {
        [] => "nobody else may sign".to_owned(),
        [one] => format!("{one} may approve it"),
        several => format!("approvals may come from {}", several.join(", ")),
    }
}

fn unusable_text(unusable: &[String]) -> String {
    let notes: Vec<String> =
        unusable.iter().take(NAMED).map(|why| format!("\n  an approval does not count: {why}")).collect();
    notes.concat()
}

/// Whom `signers` names; where it names nobody, the server's own key is all that may not.
fn may_sign(signers: &[String]) -> String {
    if signers.is_empty() { "people".to_owned() } else { signers.join(", ") }
}
