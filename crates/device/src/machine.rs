//! The machine: `step(state, event, now) → (state, effects)`.
//!
//! ```text
//! Idle → Fetch → Verify → (waits) → (Install) → Checkpoint → Apply → Confirm
//!   ↑      └ failed ┴ refused ┐                     └ failed ┐ │        │ it holds
//!   │                         ↓                              │ ↓        ↓
//!   └──────────────────────── Report ←───────────────────────┴ Revert   Commit
//!                               ↑←───────────────────────────────┴────────┘
//! ```
//!
//! The effects are carried out in their order, [`Effect::Record`] first, so that what the device
//! is about to do is on disk before it does it. One event answers the last effect. What is between
//! two starts of the agent stands here; how a convergence begins, changes the device and ends is in
//! `begin`, `change` and `end`.

mod begin;
mod change;
mod end;

pub use begin::outlook;

use std::time::Duration;

use jiff::Timestamp;

use crate::event::{Effect, Event};
use crate::patience::{jittered, retry_after};
use crate::state::{Failure, Hold, Outcome, Phase, Rest, Running, Scope, State, Step, Urge, Work};

/// Seconds between two questions while the server has not said otherwise.
const POLL: u32 = 60;

/// How often a convergence may be cut off (power, crash, out of memory) before it counts as
/// failed: else one that kills the agent would run in a circle for ever.
const INTERRUPTIONS: u32 = 3;

/// How many convergences in a row may end for want of a server before that is reported as a
/// failure. The question was answered each time, so the report will reach somebody.
const CUT_SHORT: u32 = 3;

/// The longest wait for a server that does not answer, in seconds: a fleet should be back ten
/// minutes after its server is.
const LONGEST_SILENCE: u64 = 600;

/// The next state and what to do. The last effect is the one that the next event answers.
pub fn step(state: State, event: Event, now: Timestamp) -> (State, Vec<Effect>) {
    let before = state.clone();
    let (after, mut effects) = decide(state, event, now);
    if after.differs_durably(&before) {
        effects.insert(0, Effect::Record);
    }
    (after, effects)
}

fn decide(mut state: State, event: Event, now: Timestamp) -> (State, Vec<Effect>) {
    state.hold = state.hold.and_then(|hold| still_held(hold, now));
    match event {
        Event::Started { undone, running } => started(state, undone.map(|undone| *undone), running, now),
        Event::Due => question(state, now),
        Event::Nudged { again } => {
            state.memory.urge = if again { Urge::Again } else { state.memory.urge.max(Urge::Run) };
            question(state, now)
        }
        Event::Held(hold) => {
            state.hold = Some(hold);
            rest(state, now)
        }
        Event::Released => {
            state.hold = None;
            question(state, now)
        }
        Event::RevertAsked => change::revert_asked(state, now),
        Event::Offered { target, poll } => begin::offered(state, target, poll, now),
        Event::Unchanged => {
            state.memory.unanswered = 0;
            match state.memory.offered.clone() {
                Some(target) => begin::consider(state, target, now),
                None => rest(state, now),
            }
        }
        Event::Unreachable(message) => unreachable(state, message, now),
        Event::Fetched => begin::fetched(state, now),
        Event::Verified(passed) => begin::verified(state, *passed, now),
        Event::TooOld { before } => begin::too_old(state, before, now),
        Event::TurnGranted => begin::turn_granted(state, now),
        Event::TurnRefused { reason, again_after, told } => {
            let again = Duration::from_secs(u64::from(again_after.clamp(1, 3600)));
            let again = later(now, jittered(again, state.seed));
            state.memory.told_until = told.then_some(again);
            begin::turn_refused(state, reason, again, now)
        }
        Event::Installed => begin::installed(state, now),
        Event::Checkpointed { id } => change::checkpointed(state, id, now),
        Event::Done(gains) => change::done(state, gains, now),
        Event::Confirmed => change::confirmed(state, now),
        Event::Disarmed => change::disarmed(state, now),
        Event::Undone(undone) => change::undone(state, *undone, now),
        // If it does not come, it is undone without it.
        Event::Rebooting => (state, vec![Effect::Wait(later(now, change::REBOOT))]),
        Event::Drifted { changes } => end::drifted(state, changes, None, now),
        Event::Failed(failure) => change::failed(state, failure, Outcome::Failed, now),
        Event::Refused(failure) => change::failed(state, failure, Outcome::Refused, now),
        Event::Stored => end::stored(state, now),
    }
}

/// A hold that is not over. If the clock went back it lasts as long as was said from now on, and not
/// until a time that may be years away.
fn still_held(mut hold: Hold, now: Timestamp) -> Option<Hold> {
    if let Some(until) = hold.until
        && now < hold.since
    {
        let span = Duration::try_from(until.duration_since(hold.since)).unwrap_or_default();
        hold = Hold { since: now, until: Some(later(now, span)), ..hold };
    }
    hold.until.is_none_or(|until| now < until).then_some(hold)
}

/// What was begun before the device changed begins anew, since the newest commit may be another
/// one. What changed the device goes on: it is confirmed, or undone.
fn started(
    state: State,
    undone: Option<crate::state::Undone>,
    running: Option<Running>,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    let news = undone.filter(|undone| state.undone.as_ref() != Some(&undone.checkpoint));
    match (state.phase.clone(), news) {
        // What was begun and not changed is as nothing beside an undo that the ledger does not know.
        (
            Phase::Idle(_) | Phase::Fetch(_) | Phase::Verify(_) | Phase::Install(_) | Phase::Drift(_),
            Some(undone),
        ) => change::undone_meanwhile(state, undone, now),
        (Phase::Idle(_), None) => (state, vec![Effect::Ask]),
        (Phase::Fetch(work), None) => interrupted(state, work, Step::Fetch, now),
        (Phase::Verify(work), None) => interrupted(state, work, Step::Verify, now),
        (Phase::Install(work), None) => interrupted(state, work, Step::Image, now),
        (Phase::Drift(work), None) => interrupted(state, work, Step::Playbook, now),
        // First how the one before ended, then that it was undone after all.
        (Phase::Report { .. }, news) => {
            let mut state = state;
            state.memory.undone = news.map(Box::new);
            (state, vec![Effect::Report])
        }
        // The timer put back what was not changed yet.
        (Phase::Checkpoint(work), Some(undone)) => {
            let state = State { undone: Some(undone.checkpoint), ..state };
            interrupted(state, work, Step::Checkpoint, now)
        }
        // It may be armed, and nobody is to undo what was not done.
        (Phase::Checkpoint(work), None) => (state, vec![Effect::Disarm(work)]),
        (
            Phase::Apply(..) | Phase::Reboot(_) | Phase::Confirm(_) | Phase::Commit(_) | Phase::Revert(..),
            Some(undone),
        ) => change::undone(state, undone, now),
        (Phase::Apply(work, step), None) => change::go_on(state, work, step, running, now),
        (Phase::Reboot(work), None) => change::booted(state, work, running, now),
        (Phase::Confirm(work) | Phase::Commit(work), None) if work.is_elsewhere(running) => {
            change::fell_back(state, work, now)
        }
        (Phase::Confirm(work), None) => (state, vec![Effect::Confirm(work)]),
        (Phase::Commit(work), None) => (state, vec![Effect::Disarm(work)]),
        (Phase::Revert(work, failure), None) => (state, vec![Effect::Undo(work, failure)]),
    }
}

/// The process ended in a step that changes nothing: once more from the beginning, but not for ever.
fn interrupted(mut state: State, work: Work, step: Step, now: Timestamp) -> (State, Vec<Effect>) {
    let times = match &state.interrupted {
        Some((target, times)) if *target == work.target => times + 1,
        Some(_) | None => 1,
    };
    if times >= INTERRUPTIONS {
        state.interrupted = None;
        let message = format!("the agent was stopped {times} times while it was in this step");
        let failure = Failure { step, what: String::new(), message };
        return change::failed(state, failure, Outcome::Failed, now);
    }
    state.interrupted = Some((work.target, times));
    state.phase = Phase::Idle(Rest::Content);
    (state, vec![Effect::Ask])
}

/// It is time for something: for a question between convergences, else for what did not get done.
fn question(state: State, now: Timestamp) -> (State, Vec<Effect>) {
    match state.phase.clone() {
        Phase::Idle(_) => (state, vec![Effect::Ask]),
        Phase::Commit(work) => (state, vec![Effect::Disarm(work)]),
        Phase::Revert(work, failure) => (state, vec![Effect::Undo(work, failure)]),
        Phase::Fetch(_)
        | Phase::Verify(_)
        | Phase::Install(_)
        | Phase::Checkpoint(_)
        | Phase::Apply(..)
        | Phase::Reboot(_)
        | Phase::Confirm(_)
        | Phase::Drift(_)
        | Phase::Report { .. } => rest(state, now),
    }
}

fn unreachable(mut state: State, message: String, now: Timestamp) -> (State, Vec<Effect>) {
    let failure = |step| Failure { step, what: String::new(), message: message.clone() };
    let (work, step) = match state.phase.clone() {
        Phase::Idle(_) | Phase::Report { .. } => {
            state.memory.unanswered = state.memory.unanswered.saturating_add(1);
            return rest(state, now);
        }
        Phase::Fetch(work) => (work, Step::Fetch),
        Phase::Verify(work) => (work, Step::Verify),
        Phase::Install(work) => (work, Step::Image),
        Phase::Drift(_) => return end::drifted(state, Vec::new(), Some(failure(Step::Playbook)), now),
        // A change that takes the path away could not be told from one that does not.
        Phase::Checkpoint(work) => (work, Step::Checkpoint),
        // What was changed so far is undone.
        Phase::Apply(_, step) => return change::failed(state, failure(step), Outcome::Failed, now),
        Phase::Reboot(_) => return change::failed(state, failure(Step::Image), Outcome::Failed, now),
        Phase::Confirm(_) => return change::failed(state, failure(Step::Path), Outcome::Failed, now),
        Phase::Commit(_) => return change::failed(state, failure(Step::Confirm), Outcome::Failed, now),
        Phase::Revert(..) => return change::failed(state, failure(Step::Undo), Outcome::Failed, now),
    };
    state.memory.cut_short = state.memory.cut_short.saturating_add(1);
    if state.memory.cut_short >= CUT_SHORT {
        return end::ended(state, work, Outcome::Failed, Some(failure(step)), now);
    }
    // Not worth a report: it could not be sent. The attempt does not count either.
    let attempts = work.attempt.saturating_sub(1);
    let wait = retry_after(state.memory.cut_short, state.seed);
    let trouble = crate::state::Trouble {
        target: work.target,
        failure: failure(step),
        attempts,
        retry_at: later(now, wait),
    };
    state.phase = Phase::Idle(Rest::Failed(trouble));
    rest(state, now)
}

fn first_step(scope: Scope) -> Step {
    match scope {
        Scope::Full => Step::Playbook,
        Scope::Packages => Step::Packages,
    }
}

fn rest(state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let mut next = next_question(&state, now);
    if let (true, Some(again)) = (state.is_idle(), state.memory.look_again)
        && again > now
        && state.memory.unanswered == 0
    {
        next = next.min(again);
    }
    (state, vec![Effect::Wait(next)])
}

fn next_question(state: &State, now: Timestamp) -> Timestamp {
    let seed = state.seed ^ now.as_millisecond().unsigned_abs();
    if state.memory.unanswered > 0 {
        let wait = retry_after(state.memory.unanswered, seed).min(Duration::from_secs(LONGEST_SILENCE));
        return later(now, wait);
    }
    let poll = Duration::from_secs(u64::from(state.memory.poll.unwrap_or(POLL)));
    later(now, jittered(poll, seed))
}

/// A time that far ahead; a clock near the end of time stays there instead of overflowing.
fn later(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}
