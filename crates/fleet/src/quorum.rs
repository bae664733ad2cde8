//! How many different people signed for a step, and how many could sign for the next one.
//!
//! A commit carries one signature; further people sign approvals of it (`approval`). What counts is
//! people, not keys and not names.

use std::collections::BTreeMap;

use volary_model::{CommitId, StageName};

use crate::approval::approvals_of;
use crate::commit::Commit;
use crate::object::{ObjectError, ObjectSource, ReadObjects};
use crate::rules::Rules;
use crate::signature::{Made, Signer, verify};
use crate::signers::{AllowedSigner, NAMESPACE};

/// What is to be counted.
pub(crate) struct Ballot<'a> {
    pub objects: &'a dyn ObjectSource,
    /// The rules before the step.
    pub rules: &'a Rules,
    pub stage: &'a StageName,
    /// The step.
    pub commit: &'a Commit,
    /// What it promotes, if it is a promotion.
    pub merged: Option<&'a CommitId>,
    /// What came before was there at this time.
    pub not_before: i64,
}

/// Who signed, beside the commit's own signer.
pub(crate) struct Count {
    /// One approval of each further person.
    pub approvals: Vec<Signer>,
    /// Others who may sign for the stage and did not, by the first name of each.
    pub missing: Vec<String>,
    /// Why approvals that are there do not count.
    pub unusable: Vec<String>,
}

impl Ballot<'_> {
    /// Counts who approved the step: of the commit itself, or of what it promotes to this stage.
    pub fn count(&self, signer: &Signer) -> Result<Count, ObjectError> {
        let lines = &self.rules.signers.signers;
        let people = self.rules.signers.people();
        let person_of = |signer: &Signer| {
            let line = lines.iter().position(|line| line.fingerprint() == signer.fingerprint);
            people[line.expect("a verified signer stands in the list")]
        };
        let first = person_of(signer);
        let mut counted: BTreeMap<usize, Signer> = BTreeMap::new();
        let mut unusable = Vec::new();
        for commit in std::iter::once(&self.commit.id).chain(self.merged) {
            // Whoever approves a commit has it already; what it merges is among what came before.
            let its_own = if *commit == self.commit.id { self.commit.committer.seconds } else { i64::MIN };
            let not_before = self.not_before.max(its_own);
            for approval in approvals_of(self.objects, commit)? {
                if approval.stage != *self.stage || approval.tree != self.commit.tree {
                    continue;
                }
                let made = Made { claimed: approval.tagger.seconds, not_before };
                match verify(&approval.signed, &self.rules.signers, made) {
                    Ok(signer) if !self.rules.config.may_sign(self.stage, &signer.principals) => {
                        unusable.push(format!("{} may not sign for {}", signer.name(), self.stage));
                    }
                    Ok(signer) if person_of(&signer) != first => {
                        counted.entry(person_of(&signer)).or_insert(signer);
                    }
                    Ok(_) => {}
                    Err(error) => unusable.push(error.to_string()),
                }
            }
        }
        let mut missing: BTreeMap<usize, String> = BTreeMap::new();
        for (line, person) in lines.iter().zip(&people) {
            let may = line.signs_in(NAMESPACE) && self.rules.config.may_sign(self.stage, &line.principals);
            if may && *person != first && !counted.contains_key(person) {
                missing.entry(*person).or_insert_with(|| line.principals[0].clone());
            }
        }
        Ok(Count {
            approvals: counted.into_values().collect(),
            missing: missing.into_values().collect(),
            unusable,
        })
    }
}

/// Who approved a commit for a stage, one signature for each person, by these rules. For people to
/// look at: what counts for a step is decided in `step`.
///
/// # Errors
/// [`ObjectError`].
pub fn approvers(
    objects: &dyn ObjectSource,
    rules: &Rules,
    stage: &StageName,
    commit: &CommitId,
) -> Result<Vec<Signer>, ObjectError> {
    let approved = objects.commit(commit)?;
    let mut signers: Vec<Signer> = Vec::new();
    for approval in approvals_of(objects, commit)? {
        let made = Made { claimed: approval.tagger.seconds, not_before: approved.committer.seconds };
        if approval.stage == *stage
            && approval.tree == approved.tree
            && let Ok(signer) = verify(&approval.signed, &rules.signers, made)
            && rules.config.may_sign(stage, &signer.principals)
            && !signers.iter().any(|known| known.name() == signer.name())
        {
            signers.push(signer);
        }
    }
    Ok(signers)
}

/// How many different people could sign for a stage by these rules, at a time or later.
pub(crate) fn electorate(rules: &Rules, stage: &StageName, time: i64) -> usize {
    let could = |line: &AllowedSigner| {
        line.signs_in(NAMESPACE) && rules.config.may_sign(stage, &line.principals) && !line.has_expired(time)
    };
    let lines = rules.signers.signers.iter().zip(rules.signers.people());
    let mut people: Vec<usize> = lines.filter(|(line, _)| could(line)).map(|(_, person)| person).collect();
    people.sort_unstable();
    people.dedup();
    people.len()
}
