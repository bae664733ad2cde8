//! How a convergence ends: its report, and what the device does after it.

use jiff::Timestamp;

use super::{begin, change, later, rest};
use crate::event::Effect;
use crate::patience::{next_report, retry_after};
use crate::state::{Drift, Failure, Outcome, Phase, Rest, Scope, State, Step, Trouble, Work};

/// How many tasks of a drift are named: enough to see what happened.
const TASKS: usize = 50;

/// The convergence is over, and its report is next.
pub(super) fn ended(
    mut state: State,
    work: Work,
    outcome: Outcome,
    failure: Option<Failure>,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    state.memory.cut_short = 0;
    state.last_report = next_report(state.last_report, now);
    state.phase = Phase::Report { work, outcome, failure, undone: None, ended_at: now };
    (state, vec![Effect::Report])
}

/// The report is on disk.
pub(super) fn stored(mut state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Report { work, outcome, failure, .. } = state.phase.clone() else {
        return rest(state, now);
    };
    state.interrupted = None;
    let trouble = |failure: Option<Failure>| Trouble {
        retry_at: later(now, retry_after(work.attempt, state.seed)),
        target: work.target.clone(),
        attempts: work.attempt,
        failure: failure.unwrap_or(Failure {
            step: Step::Verify,
            what: String::new(),
            message: "no reason was given".to_owned(),
        }),
    };
    let next = match outcome {
        Outcome::Good => Rest::Content,
        // It could not be undone: that is in quarantine.
        Outcome::Failed if state.quarantine(&work.target).is_some() => Rest::Quarantined(work.target.clone()),
        Outcome::Failed => Rest::Failed(trouble(failure)),
        Outcome::Refused => Rest::Refused(trouble(failure)),
        Outcome::Reverted => change::rest_after_revert(&state, &work, trouble(failure)),
    };
    state.phase = Phase::Idle(next);
    if outcome == Outcome::Good {
        let moved = state.good.as_ref().is_none_or(|good| good.commit != work.target.commit);
        if moved || state.good_since.is_none() {
            state.good_since = Some(now);
        }
        state.forgive(&work.target);
        state.good = Some(work.target);
        state.failed_before = None;
    }
    match state.memory.undone.take() {
        Some(undone) => change::undone_meanwhile(state, *undone, now),
        None => rest(state, now),
    }
}

/// It was looked for what differs from the commit.
pub(super) fn drifted(
    mut state: State,
    mut changes: Vec<String>,
    failure: Option<Failure>,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    let Phase::Drift(work) = state.phase.clone() else { return rest(state, now) };
    let differs = !changes.is_empty();
    changes.truncate(TASKS);
    state.interrupted = None;
    state.drift = Some(Drift { at: now, commit: work.target.commit.clone(), changes, failure });
    state.phase = Phase::Idle(Rest::Content);
    let repair = state.policy.drift.as_ref().is_some_and(|policy| policy.repair);
    let (state, mut effects) = if differs && repair && state.quarantine(&work.target).is_none() {
        let work =
            Work { policy: state.policy.clone(), ..begin::new_work(&state, work.target, Scope::Full, now) };
        begin::begin_or_wait(state, work, now)
    } else {
        rest(state, now)
    };
    effects.insert(0, Effect::Tell);
    (state, effects)
}
