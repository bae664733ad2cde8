//! Version 1 of the ledger, as the agent wrote it before changes were confirmed or undone. It only
//! reads, and is never changed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Deserialize;
use volary_model::{CommitId, StageName};

use crate::policy::Policy;
use crate::state::{self, Failure, Scope, Step, Target, Trouble};

#[derive(Deserialize)]
pub(super) struct State {
    stage: StageName,
    phase: Phase,
    accepted: BTreeMap<StageName, CommitId>,
    trusted: Option<CommitId>,
    good: Option<Target>,
    good_since: Option<Timestamp>,
    failed_before: Option<BTreeSet<String>>,
    interrupted: Option<(Target, u32)>,
    last_report: u64,
    seed: u64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(dead_code, reason = "what was under way is read, so that a body which is no ledger is refused")]
enum Phase {
    Idle(Rest),
    Fetch(Work),
    Verify(Work),
    Apply(Work, Step),
    Report { work: Work, outcome: Outcome, failure: Option<Failure>, ended_at: Timestamp },
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Rest {
    Content,
    Failed(Trouble),
    Refused(Trouble),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Outcome {
    Good,
    Failed,
    Refused,
}

#[derive(Deserialize)]
struct Work {
    target: Target,
    scope: Scope,
    started_at: Timestamp,
    attempt: u32,
    suite: Option<String>,
    changed_tasks: u32,
    packages: BTreeMap<String, (String, String)>,
}

impl From<State> for state::State {
    fn from(old: State) -> Self {
        Self {
            phase: old.phase.into(),
            accepted: old.accepted,
            trusted: old.trusted,
            good: old.good,
            good_since: old.good_since,
            failed_before: old.failed_before,
            interrupted: old.interrupted,
            last_report: old.last_report,
            ..Self::new(old.stage, old.seed)
        }
    }
}

impl From<Phase> for state::Phase {
    fn from(old: Phase) -> Self {
        match old {
            Phase::Idle(Rest::Content) => Self::Idle(state::Rest::Content),
            Phase::Idle(Rest::Failed(trouble)) => Self::Idle(state::Rest::Failed(trouble)),
            Phase::Idle(Rest::Refused(trouble)) => Self::Idle(state::Rest::Refused(trouble)),
            // As that agent did after a start: it asked, and began anew. What it had changed was
            // not saved before, so it cannot be undone either.
            Phase::Fetch(_) | Phase::Verify(_) | Phase::Apply(..) => Self::Idle(state::Rest::Content),
            Phase::Report { work, outcome, failure, ended_at } => Self::Report {
                work: work.into(),
                outcome: match outcome {
                    Outcome::Good => state::Outcome::Good,
                    Outcome::Failed => state::Outcome::Failed,
                    Outcome::Refused => state::Outcome::Refused,
                },
                failure,
                undone: None,
                ended_at,
            },
        }
    }
}

impl From<Work> for state::Work {
    fn from(old: Work) -> Self {
        Self {
            target: old.target,
            scope: old.scope,
            started_at: old.started_at,
            seen_at: old.started_at,
            attempt: old.attempt,
            urged: false,
            suite: old.suite,
            committed_at: None,
            policy: Policy::default(),
            image: None,
            checkpoint: None,
            interruptions: 0,
            stuck: 0,
            changed_tasks: old.changed_tasks,
            packages: old.packages,
        }
    }
}
