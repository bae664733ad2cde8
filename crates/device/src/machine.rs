//! The machine: `step(state, event, now) → (state, effects)`.
//!
//! ```text
//! Idle → Fetch → Verify → Apply(playbook → packages → units → checks) → Report → Idle
//!   ↑                └ refused ┘          └ failed ┘                      │
//!   └── waits with back-off; another offer ends the wait ─────────────────┘
//! ```
//!
//! The effects are carried out in their order, [`Effect::Record`] first, so that what the device
//! is about to do is on disk before it does it. One event answers the last effect.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use volary_model::StageName;

use crate::patience::{jittered, retry_after};
use crate::state::{Failure, Outcome, Phase, Rest, Scope, State, Step, Target, Trouble, Work};

/// Seconds between two questions while the server has not said otherwise.
const POLL: u32 = 60;

/// How often a convergence may be cut off (power, crash, out of memory) before it counts as
/// failed: else one that kills the agent would run in a circle for ever.
const INTERRUPTIONS: u32 = 3;

/// How often in a row an offer for another stage is met with patience. The server needs one
/// report to learn that the device moved; a third such offer is not a delay any more.
const STRAYS: u32 = 3;

/// How many convergences in a row may end for want of a server before that is reported as a
/// failure. The question was answered each time, so the report will reach somebody.
const CUT_SHORT: u32 = 3;

/// The longest wait for a server that does not answer, in seconds: a fleet should be back ten
/// minutes after its server is.
const LONGEST_SILENCE: u64 = 600;

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The agent started.
    Started,
    /// It is time.
    Due,
    /// A person wants a convergence now, whether it is needed or not.
    Nudged,
    /// The server answered with what it wants.
    Offered {
        /// That.
        target: Target,
        /// Seconds until the next question.
        poll: u32,
    },
    /// The server answered that nothing changed since it answered last.
    Unchanged,
    /// The server, or the archive, could not be reached or is in trouble; with its message.
    Unreachable(String),
    /// The objects are there.
    Fetched,
    /// The commit may be applied.
    Verified(Passed),
    /// The step is done.
    Done(Gains),
    /// The step failed.
    Failed(Failure),
    /// What was offered is not to be trusted.
    Refused(Failure),
    /// The report is on disk.
    Stored {
        /// Its number.
        report: u64,
    },
}

/// What verification found out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passed {
    /// The suite that packages come from; `None` without a release.
    pub suite: Option<String>,
    /// The stage that the device's variables name, if they name one.
    pub stage: Option<StageName>,
    /// Units that have failed now, before anything is applied.
    pub failed_units: BTreeSet<String>,
}

/// What a step changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gains {
    /// Tasks that changed something.
    pub changed_tasks: u32,
    /// Packages: name → (before, after).
    pub packages: BTreeMap<String, (String, String)>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Write the state to the ledger, before anything else.
    Record,
    /// Ask the server. Answered by `Offered`, `Unchanged` or `Unreachable`.
    Ask,
    /// Fetch the objects. Answered by `Fetched`, `Unreachable`, `Failed` or `Refused`.
    Fetch(Target),
    /// Verify the commit. Answered by `Verified`, `Unreachable`, `Failed` or `Refused`.
    Verify(Work),
    /// Carry out a step. Answered by `Done`, `Unreachable` or `Failed`.
    Apply(Work, Step),
    /// Store a report of the convergence that ended. Answered by `Stored`.
    Report,
    /// Tell the server how the device is, without a convergence. Not answered.
    Tell,
    /// Nothing until this time, or until something happens.
    Wait(Timestamp),
}

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
    match event {
        Event::Started => started(state, now),
        Event::Due => question(state, now),
        Event::Nudged => {
            state.forced = true;
            question(state, now)
        }
        Event::Offered { target, poll } => offered(state, target, poll, now),
        Event::Unchanged => {
            state.unanswered = 0;
            match state.offered.clone() {
                Some(target) => consider(state, target, now),
                None => rest(state, now),
            }
        }
        Event::Unreachable(message) => unreachable(state, message, now),
        Event::Fetched => fetched(state, now),
        Event::Verified(passed) => verified(state, passed, now),
        Event::Done(gains) => done(state, gains, now),
        Event::Failed(failure) => ended(state, Outcome::Failed, Some(failure), now),
        Event::Refused(failure) => ended(state, Outcome::Refused, Some(failure), now),
        Event::Stored { report } => stored(state, report, now),
    }
}

/// After a start the machine asks what is wanted now rather than going on with what was wanted
/// when the power went: each step can be repeated, and the newest commit may be another one.
fn started(mut state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let (work, step) = match &state.phase {
        Phase::Idle(_) => return (state, vec![Effect::Ask]),
        Phase::Report { .. } => return (state, vec![Effect::Report]),
        Phase::Fetch(work) => (work.clone(), Step::Fetch),
        Phase::Verify(work) => (work.clone(), Step::Verify),
        Phase::Apply(work, step) => (work.clone(), *step),
    };
    let times = match &state.interrupted {
        Some((target, times)) if *target == work.target => times + 1,
        Some(_) | None => 1,
    };
    if times >= INTERRUPTIONS {
        state.interrupted = None;
        let message = format!("the agent was stopped {times} times while it was in this step");
        let failure = Failure { step, what: String::new(), message };
        return ended(state, Outcome::Failed, Some(failure), now);
    }
    state.interrupted = Some((work.target, times));
    state.phase = Phase::Idle(Rest::Content);
    (state, vec![Effect::Ask])
}

/// A question only makes sense between convergences.
fn question(state: State, now: Timestamp) -> (State, Vec<Effect>) {
    if state.is_idle() { (state, vec![Effect::Ask]) } else { rest(state, now) }
}

fn offered(mut state: State, target: Target, poll: u32, now: Timestamp) -> (State, Vec<Effect>) {
    state.poll = Some(poll.clamp(1, 24 * 3600));
    state.unanswered = 0;
    if target.stage == state.stage {
        state.strays = 0;
        state.offered = Some(target.clone());
        return consider(state, target, now);
    }
    state.offered = None;
    state.strays = state.strays.saturating_add(1);
    if state.strays < STRAYS {
        let wait = Effect::Wait(next_question(&state, now));
        return (state, vec![Effect::Tell, wait]);
    }
    if !state.is_idle() || waits_for(&state, &target, now) {
        return rest(state, now);
    }
    let message = format!(
        "the server offers a commit of stage {}, but this device follows {}; a device is moved by \
         volary_stage in its variables, not by the server",
        target.stage, state.stage
    );
    let failure = Failure { step: Step::Verify, what: String::new(), message };
    state.phase = Phase::Fetch(new_work(&state, target, Scope::Full, now));
    ended(state, Outcome::Refused, Some(failure), now)
}

/// Looks at what is wanted and decides whether there is something to do.
fn consider(mut state: State, target: Target, now: Timestamp) -> (State, Vec<Effect>) {
    if !state.is_idle() || (waits_for(&state, &target, now) && !state.forced) {
        return rest(state, now);
    }
    let in_trouble = state.trouble().is_some();
    let at_commit =
        state.good.as_ref().filter(|good| good.stage == target.stage && good.commit == target.commit);
    let scope = match at_commit {
        Some(good) if !state.forced && !in_trouble => {
            if good.rolling == target.rolling {
                return rest(state, now);
            }
            Scope::Packages
        }
        Some(_) | None => Scope::Full,
    };
    state.forced = false;
    let work = new_work(&state, target.clone(), scope, now);
    match scope {
        Scope::Full => {
            state.phase = Phase::Fetch(work);
            (state, vec![Effect::Fetch(target)])
        }
        // The commit is here and holds; the suite is verified all the same.
        Scope::Packages => {
            state.phase = Phase::Verify(work.clone());
            (state, vec![Effect::Verify(work)])
        }
    }
}

fn waits_for(state: &State, target: &Target, now: Timestamp) -> bool {
    state.trouble().is_some_and(|trouble| trouble.target == *target && now < trouble.retry_at)
}

fn new_work(state: &State, target: Target, scope: Scope, now: Timestamp) -> Work {
    let before = state.trouble().filter(|trouble| trouble.target == target);
    Work {
        attempt: before.map_or(1, |trouble| trouble.attempts.saturating_add(1)),
        target,
        scope,
        started_at: now,
        suite: None,
        changed_tasks: 0,
        packages: BTreeMap::new(),
    }
}

fn unreachable(mut state: State, message: String, now: Timestamp) -> (State, Vec<Effect>) {
    let (work, step) = match &state.phase {
        Phase::Idle(_) | Phase::Report { .. } => {
            state.unanswered = state.unanswered.saturating_add(1);
            return rest(state, now);
        }
        Phase::Fetch(work) => (work, Step::Fetch),
        Phase::Verify(work) => (work, Step::Verify),
        Phase::Apply(work, step) => (work, *step),
    };
    state.cut_short = state.cut_short.saturating_add(1);
    let failure = Failure { step, what: String::new(), message };
    if state.cut_short >= CUT_SHORT {
        return ended(state, Outcome::Failed, Some(failure), now);
    }
    // Not worth a report: it could not be sent. The attempt does not count either.
    let trouble = Trouble {
        target: work.target.clone(),
        failure,
        attempts: work.attempt.saturating_sub(1),
        retry_at: later(now, retry_after(state.cut_short, state.seed)),
    };
    state.phase = Phase::Idle(Rest::Failed(trouble));
    rest(state, now)
}

fn fetched(mut state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Fetch(work) = state.phase.clone() else { return rest(state, now) };
    state.phase = Phase::Verify(work.clone());
    (state, vec![Effect::Verify(work)])
}

fn verified(mut state: State, passed: Passed, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Verify(mut work) = state.phase.clone() else { return rest(state, now) };
    let target = &work.target;
    state.accepted.insert(target.stage.clone(), target.commit.clone());
    state.trusted = Some(target.commit.clone());
    if let Some(stage) = passed.stage.filter(|stage| *stage != state.stage) {
        state.stage = stage;
        state.offered = None;
        state.strays = 0;
        state.phase = Phase::Idle(Rest::Content);
        // The server learns of it from the report; then its next answer is of the new stage.
        let soon = Effect::Wait(later(now, jittered(Duration::from_secs(2), state.seed)));
        return (state, vec![Effect::Tell, soon]);
    }
    state.failed_before.get_or_insert(passed.failed_units);
    work.suite = passed.suite;
    let first = match work.scope {
        Scope::Full => Step::Playbook,
        Scope::Packages => Step::Packages,
    };
    apply(state, work, first)
}

fn apply(mut state: State, work: Work, step: Step) -> (State, Vec<Effect>) {
    state.phase = Phase::Apply(work.clone(), step);
    (state, vec![Effect::Apply(work, step)])
}

fn done(state: State, gains: Gains, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Apply(mut work, step) = state.phase.clone() else { return rest(state, now) };
    work.changed_tasks = work.changed_tasks.saturating_add(gains.changed_tasks);
    for (name, (before, after)) in gains.packages {
        // The playbook and the package step may both move a package: the first "before" counts.
        let entry = work.packages.entry(name).or_insert((before, String::new()));
        entry.1 = after;
    }
    match step {
        Step::Playbook => apply(state, work, Step::Packages),
        Step::Packages => apply(state, work, Step::Units),
        Step::Units => apply(state, work, Step::Check),
        Step::Check | Step::Fetch | Step::Verify => {
            let state = State { phase: Phase::Apply(work, step), ..state };
            ended(state, Outcome::Good, None, now)
        }
    }
}

fn ended(
    mut state: State,
    outcome: Outcome,
    failure: Option<Failure>,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    let work = match state.phase.clone() {
        Phase::Fetch(work) | Phase::Verify(work) | Phase::Apply(work, _) => work,
        Phase::Idle(_) | Phase::Report { .. } => return rest(state, now),
    };
    state.cut_short = 0;
    state.phase = Phase::Report { work, outcome, failure, ended_at: now };
    (state, vec![Effect::Report])
}

fn stored(mut state: State, report: u64, now: Timestamp) -> (State, Vec<Effect>) {
    state.last_report = state.last_report.max(report);
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
    let phase = match outcome {
        Outcome::Good => Phase::Idle(Rest::Content),
        Outcome::Failed => Phase::Idle(Rest::Failed(trouble(failure))),
        Outcome::Refused => Phase::Idle(Rest::Refused(trouble(failure))),
    };
    state.phase = phase;
    if outcome == Outcome::Good {
        let moved = state.good.as_ref().is_none_or(|good| good.commit != work.target.commit);
        if moved || state.good_since.is_none() {
            state.good_since = Some(now);
        }
        state.good = Some(work.target);
        state.failed_before = None;
    }
    rest(state, now)
}

fn rest(state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let next = next_question(&state, now);
    (state, vec![Effect::Wait(next)])
}

fn next_question(state: &State, now: Timestamp) -> Timestamp {
    let seed = state.seed ^ now.as_millisecond().unsigned_abs();
    if state.unanswered > 0 {
        let wait = retry_after(state.unanswered, seed).min(Duration::from_secs(LONGEST_SILENCE));
        return later(now, wait);
    }
    let poll = Duration::from_secs(u64::from(state.poll.unwrap_or(POLL)));
    later(now, jittered(poll, seed))
}

/// A time that far ahead; a clock near the end of time stays there instead of overflowing.
fn later(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}
