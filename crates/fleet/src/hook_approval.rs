//! What the server's git asks before it takes an approval, or lets one go.
//!
//! Devices judge approvals themselves; this keeps out what would never count, and tells the person
//! why.

use volary_model::{CommitId, StageName};

use crate::approval::{Approval, read_approval_ref};
use crate::config::FleetConfig;
use crate::hook::{Push, RefUpdate};
use crate::object::{ObjectError, ObjectId, ReadObjects};
use crate::rules::Rules;
use crate::signature::{Made, verify};
use crate::step::is_ancestor;

/// The approval that a ref update brings: the commit that it is for, and the tag.
pub(crate) fn arriving(update: &RefUpdate) -> Option<(CommitId, ObjectId)> {
    let (commit, _, tag) = read_approval_ref(&update.name)?;
    (update.new.as_ref().map(ObjectId::from) == Some(tag)).then_some((commit, tag))
}

impl Push<'_> {
    /// Judges a push to `refs/approvals/`. The message says what to do.
    pub(crate) fn judge_approval(
        &self,
        update: &RefUpdate,
        base: Option<&FleetConfig>,
    ) -> Result<(), String> {
        let (commit, stage, tag) = read_approval_ref(&update.name).ok_or_else(|| {
            "approvals are kept as refs/approvals/COMMIT/STAGE/TAG; make one with: volary approve".to_owned()
        })?;
        let branch = base.and_then(|base| base.stage(&stage)).map(|stage| stage.branch.clone());
        let branch = branch.ok_or_else(|| format!("there is no stage {stage} in volary.yml"))?;
        let broken = |error: ObjectError| format!("it cannot be judged: {error}");
        let tip = self.repository.branch(&branch).map_err(broken)?;
        match (&update.new, &tip) {
            (None, Some(tip)) if is_ancestor(self.objects(), &commit, tip).map_err(broken)? => Err(format!(
                "{} is on {stage} already, and devices on their way to it need the approval",
                commit.short()
            )),
            (None, _) => Ok(()),
            (Some(new), _) if ObjectId::from(new) != tag => {
                Err("the ref must name the tag that it keeps; use volary approve".to_owned())
            }
            (Some(_), tip) => self.judge_new(&tag, &commit, &stage, tip.as_ref()),
        }
    }

    fn judge_new(
        &self,
        tag: &ObjectId,
        commit: &CommitId,
        stage: &StageName,
        tip: Option<&CommitId>,
    ) -> Result<(), String> {
        let text = |error: ObjectError| error.to_string();
        let object = self.objects().read(tag).map_err(text)?;
        let approval = Approval::parse(tag, &object.data).map_err(text)?;
        if approval.commit != *commit || approval.stage != *stage {
            return Err(format!(
                "it approves {} for {}, and the ref says {} for {stage}",
                approval.commit.short(),
                approval.stage,
                commit.short()
            ));
        }
        if self.objects().commit(commit).map_err(text)?.tree != approval.tree {
            return Err(format!("it names other files than those of {}", commit.short()));
        }
        // Before a stage has a branch, the commit's own rules are all there is.
        let rules = Rules::at(self.objects(), tip.unwrap_or(commit)).map_err(|error| error.to_string())?;
        let made = Made { claimed: approval.tagger.seconds, not_before: i64::MIN };
        let signer = verify(&approval.signed, &rules.signers, made).map_err(|error| error.to_string())?;
        if signer.valid_before.is_some_and(|end| self.now > end) {
            return Err(format!("the key of {} has expired; sign with one that is valid", signer.name()));
        }
        if rules.config.may_sign(stage, &signer.principals) {
            return Ok(());
        }
        Err(format!("it is signed by {}, who may not sign for {stage}", signer.name()))
    }
}
