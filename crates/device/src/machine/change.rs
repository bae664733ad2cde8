//! How a convergence changes the device: checkpoint, apply, confirm, and commit or revert. From the
//! checkpoint on there are two ends only, and each of them is recorded before it is gone to.

use std::time::Duration;

use jiff::Timestamp;

use super::{INTERRUPTIONS, begin, end, first_step, later, rest};
use crate::event::{Effect, Gains};
use crate::patience::{next_report, retry_after};
use crate::rescue::Cause;
use crate::state::{
    Failure, Last, Outcome, Phase, Rest, Reverted, Running, Scope, State, Step, Target, Undone, Urge, Work,
};

/// How long a device needs at most until it is down.
pub(super) const REBOOT: Duration = Duration::from_secs(300);

/// How often a target may be undone before it is quarantined, if it is not at once: a mirror that
/// is away for a while must not cost a device a commit.
const TIMES: u32 = 3;

/// The same for an image that the device came back from by itself. Nobody knows whether the system or
/// the power was the cause, and each try costs two boots.
const BOOTS: u32 = 2;

/// How often it is tried to put a device back. Then it is told as it is: a person must look.
const UNDO_TRIES: u32 = 5;

/// The first wait after a disarming that failed. The timer waits a minute longer than the
/// confirmation took, so there is time for a few tries.
const DISARM_AGAIN: u64 = 5;

/// The longest one.
const DISARM_AGAIN_LONGEST: u64 = 600;

/// The checkpoint is there and the timer armed.
pub(super) fn checkpointed(mut state: State, id: String, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Checkpoint(mut work) = state.phase.clone() else { return rest(state, now) };
    work.checkpoint = Some(id);
    // The checkpoint before is not kept.
    state.last = None;
    let first = if work.image.is_some() { Step::Image } else { first_step(work.scope) };
    apply(state, work, first)
}

fn apply(mut state: State, work: Work, step: Step) -> (State, Vec<Effect>) {
    state.phase = Phase::Apply(work.clone(), step);
    (state, vec![Effect::Apply(work, step)])
}

/// The process ended while the device changed: on with the same checkpoint, but not for ever.
pub(super) fn go_on(
    state: State,
    mut work: Work,
    step: Step,
    running: Option<Running>,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    let elsewhere = work.is_elsewhere(running);
    if elsewhere && step != Step::Image {
        return fell_back(state, work, now);
    }
    work.interruptions = work.interruptions.saturating_add(1);
    if work.interruptions >= INTERRUPTIONS {
        let message = format!("the agent was stopped {} times while it was in this step", work.interruptions);
        return revert(state, work, Failure { step, what: String::new(), message }, now);
    }
    let first = if elsewhere { Step::Image } else { first_step(work.scope) };
    apply(state, work, first)
}

/// The device was to boot into the other slot.
pub(super) fn booted(
    mut state: State,
    work: Work,
    running: Option<Running>,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    if !work.is_elsewhere(running) {
        let first = first_step(work.scope);
        return apply(state, work, first);
    }
    if running.is_some_and(|running| running.other_is_next) {
        state.phase = Phase::Reboot(work.clone());
        return (state, vec![Effect::Reboot(work)]);
    }
    fell_back(state, work, now)
}

/// The boot loader went back to the slot before, and nothing of the change is in it.
pub(super) fn fell_back(state: State, work: Work, now: Timestamp) -> (State, Vec<Effect>) {
    let message = match &state.phase {
        Phase::Reboot(_) => "the new system did not come up: the boot loader went back to the one before",
        _ => "the new system was not confirmed: the boot loader went back to the one before",
    };
    let what = work.image.as_ref().map(|image| image.name.to_string()).unwrap_or_default();
    revert(state, work, Failure { step: Step::Image, what, message: message.to_owned() }, now)
}

/// A step is done.
pub(super) fn done(mut state: State, gains: Gains, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Apply(mut work, step) = state.phase.clone() else { return rest(state, now) };
    work.changed_tasks = work.changed_tasks.saturating_add(gains.changed_tasks);
    for (name, (before, after)) in gains.packages {
        // The playbook and the package step may both move a package: the first "before" counts.
        let entry = work.packages.entry(name).or_insert((before, String::new()));
        entry.1 = after;
    }
    match step {
        Step::Image => {
            state.phase = Phase::Reboot(work.clone());
            (state, vec![Effect::Reboot(work)])
        }
        Step::Playbook => apply(state, work, Step::Packages),
        Step::Packages
        | Step::Fetch
        | Step::Verify
        | Step::Check
        | Step::Units
        | Step::Checkpoint
        | Step::Path
        | Step::Confirm
        | Step::Undo
        | Step::Revert => {
            state.phase = Phase::Confirm(work.clone());
            (state, vec![Effect::Confirm(work)])
        }
    }
}

/// The change holds.
pub(super) fn confirmed(mut state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Confirm(work) = state.phase.clone() else { return rest(state, now) };
    state.phase = Phase::Commit(work.clone());
    (state, vec![Effect::Disarm(work)])
}

/// The timer is disarmed.
pub(super) fn disarmed(mut state: State, now: Timestamp) -> (State, Vec<Effect>) {
    match state.phase.clone() {
        Phase::Commit(work) => {
            let (before, before_since) = (state.good.clone(), state.good_since);
            state.last = Some(Box::new(Last { work: work.clone(), before, before_since }));
            end::ended(state, work, Outcome::Good, None, now)
        }
        // After a start in the middle of a checkpoint: nothing was changed yet.
        Phase::Checkpoint(work) => super::interrupted(state, work, Step::Checkpoint, now),
        Phase::Idle(_)
        | Phase::Fetch(_)
        | Phase::Verify(_)
        | Phase::Install(_)
        | Phase::Apply(..)
        | Phase::Reboot(_)
        | Phase::Confirm(_)
        | Phase::Revert(..)
        | Phase::Drift(_)
        | Phase::Report { .. } => rest(state, now),
    }
}

/// Something failed, or what was offered is not to be trusted; what that means depends on how far
/// it got.
pub(super) fn failed(
    mut state: State,
    failure: Failure,
    outcome: Outcome,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    match state.phase.clone() {
        Phase::Idle(_) | Phase::Report { .. } => rest(state, now),
        Phase::Fetch(work) | Phase::Verify(work) | Phase::Install(work) | Phase::Checkpoint(work) => {
            end::ended(state, work, outcome, Some(failure), now)
        }
        Phase::Apply(work, _) | Phase::Reboot(work) | Phase::Confirm(work) => {
            revert(state, work, failure, now)
        }
        Phase::Drift(_) => end::drifted(state, Vec::new(), Some(failure), now),
        Phase::Commit(mut work) => {
            let wait = DISARM_AGAIN.saturating_mul(1 << work.stuck.min(10)).min(DISARM_AGAIN_LONGEST);
            work.stuck = work.stuck.saturating_add(1);
            state.phase = Phase::Commit(work);
            (state, vec![Effect::Wait(later(now, Duration::from_secs(wait)))])
        }
        Phase::Revert(mut work, first) => {
            work.stuck = work.stuck.saturating_add(1);
            if work.stuck >= UNDO_TRIES {
                return not_undone(state, work, &first, &failure, now);
            }
            let wait = retry_after(work.stuck, state.seed);
            state.phase = Phase::Revert(work, first);
            (state, vec![Effect::Wait(later(now, wait))])
        }
    }
}

/// Begins the undo.
fn revert(mut state: State, work: Work, failure: Failure, _now: Timestamp) -> (State, Vec<Effect>) {
    let work = Work { stuck: 0, ..work };
    state.phase = Phase::Revert(work.clone(), failure.clone());
    (state, vec![Effect::Undo(work, failure)])
}

/// A person wants the last change undone, whether it was confirmed or not.
pub(super) fn revert_asked(mut state: State, now: Timestamp) -> (State, Vec<Effect>) {
    // What somebody wanted before is not wanted any more.
    state.memory.urge = Urge::None;
    let failure =
        Failure { step: Step::Revert, what: String::new(), message: Cause::Person.text().to_owned() };
    match state.phase.clone() {
        Phase::Apply(work, _) | Phase::Confirm(work) => revert(state, work, failure, now),
        Phase::Idle(_) => match &state.last {
            Some(last) => {
                let work = Work { started_at: now, ..last.work.clone() };
                revert(state, work, failure, now)
            }
            None => rest(state, now),
        },
        Phase::Fetch(_)
        | Phase::Verify(_)
        | Phase::Install(_)
        | Phase::Checkpoint(_)
        | Phase::Reboot(_)
        | Phase::Commit(_)
        | Phase::Revert(..)
        | Phase::Drift(_)
        | Phase::Report { .. } => rest(state, now),
    }
}

/// The device was put back, by whomever.
pub(super) fn undone(state: State, undone: Undone, now: Timestamp) -> (State, Vec<Effect>) {
    let by_others = |step| Failure { step, what: String::new(), message: undone.words() };
    let (work, failure) = match state.phase.clone() {
        // Whatever failed before: a person does not want it.
        Phase::Revert(work, _) if undone.cause == Cause::Person => (work, by_others(Step::Revert)),
        Phase::Revert(work, failure) => (work, failure),
        Phase::Apply(work, step) => {
            let step = step_of(undone.cause, step);
            (work, by_others(step))
        }
        Phase::Reboot(work) => {
            let step = step_of(undone.cause, Step::Image);
            (work, by_others(step))
        }
        Phase::Confirm(work) | Phase::Commit(work) => {
            let step = step_of(undone.cause, Step::Confirm);
            (work, by_others(step))
        }
        // Nothing had been changed: it begins anew.
        Phase::Checkpoint(work) => {
            let state = State { undone: Some(undone.checkpoint), ..state };
            return super::interrupted(state, work, Step::Checkpoint, now);
        }
        Phase::Idle(_)
        | Phase::Fetch(_)
        | Phase::Verify(_)
        | Phase::Install(_)
        | Phase::Drift(_)
        | Phase::Report { .. } => {
            return rest(state, now);
        }
    };
    reverted(state, work, failure, undone, now)
}

/// An undo of which the ledger knows nothing: a person started it, or the ledger was lost.
pub(super) fn undone_meanwhile(state: State, undone: Undone, now: Timestamp) -> (State, Vec<Effect>) {
    let last = state.last.as_ref().filter(|last| last.work.checkpoint.as_ref() == Some(&undone.checkpoint));
    let work = match last {
        Some(last) => last.work.clone(),
        None => begin::new_work(&state, undone.target.clone(), Scope::Full, now),
    };
    let step = step_of(undone.cause, Step::Confirm);
    let failure = Failure { step, what: String::new(), message: undone.words() };
    reverted(state, work, failure, undone, now)
}

/// Which step an undo by others counts against, if the device was in `during`.
const fn step_of(cause: Cause, during: Step) -> Step {
    match cause {
        Cause::Failed | Cause::Boots => during,
        Cause::PathLost => Step::Path,
        Cause::AgentGone | Cause::Unconfirmed => Step::Confirm,
        Cause::Person => Step::Revert,
    }
}

fn reverted(
    mut state: State,
    work: Work,
    failure: Failure,
    undone: Undone,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    state.undone = Some(undone.checkpoint.clone());
    if let Some(last) = state.last.take_if(|last| last.work.checkpoint == work.checkpoint) {
        state.good = last.before;
        state.good_since = last.before_since;
    }
    let times = state.reverted_of(&work.target).map_or(0, |reverted| reverted.times).saturating_add(1);
    let quarantined = match verdict(&work, &failure, &undone) {
        Verdict::Hurts => true,
        Verdict::MayHurt(limit) => times >= limit,
        Verdict::Harmless => false,
    };
    remember(&mut state, &work.target, &failure, times, quarantined, now);
    state.last_report = next_report(state.last_report, now);
    state.phase = Phase::Report {
        work,
        outcome: Outcome::Reverted,
        failure: Some(failure),
        undone: Some(Box::new(undone)),
        ended_at: now,
    };
    (state, vec![Effect::Report])
}

fn remember(
    state: &mut State,
    target: &Target,
    failure: &Failure,
    times: u32,
    quarantined: bool,
    now: Timestamp,
) {
    state.remember_reverted(Reverted {
        target: target.clone(),
        failure: failure.clone(),
        at: now,
        times,
        quarantined,
    });
}

/// What an undo says about the target.
enum Verdict {
    /// It was applied, and it hurt: never again.
    Hurts,
    /// It could not be applied, or something else was the cause: not for ever, but so often.
    MayHurt(u32),
    /// It changed nothing, so it cannot be what is broken: again and again, in growing steps.
    Harmless,
}

fn verdict(work: &Work, failure: &Failure, undone: &Undone) -> Verdict {
    match failure.step {
        Step::Revert => Verdict::Hurts,
        // The path is away also without the change.
        _ if undone.path_works == Some(false) => Verdict::MayHurt(TIMES),
        Step::Check | Step::Units if work.is_unchanged() => Verdict::Harmless,
        Step::Check | Step::Units | Step::Path | Step::Confirm => Verdict::Hurts,
        Step::Fetch | Step::Verify | Step::Playbook | Step::Packages | Step::Checkpoint | Step::Undo => {
            Verdict::MayHurt(TIMES)
        }
        Step::Image => Verdict::MayHurt(BOOTS),
    }
}

/// The device could not be put back. That is told as it is, and nothing is tried again by itself.
fn not_undone(
    mut state: State,
    work: Work,
    first: &Failure,
    last: &Failure,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    let message = format!("{}; after that it failed: {first}", last.message);
    let failure = Failure { step: Step::Undo, what: last.what.clone(), message };
    let times = state.reverted_of(&work.target).map_or(0, |reverted| reverted.times).saturating_add(1);
    state.last = None;
    remember(&mut state, &work.target, &failure, times, true, now);
    end::ended(state, work, Outcome::Failed, Some(failure), now)
}

/// What a device does with a target that it is done with.
pub(super) fn rest_after_revert(state: &State, work: &Work, trouble: crate::state::Trouble) -> Rest {
    match state.quarantine(&work.target) {
        Some(_) => Rest::Quarantined(work.target.clone()),
        None => Rest::Reverted(trouble),
    }
}
