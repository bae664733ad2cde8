//! How a convergence begins: what is offered, whether there is something to do, and whether it may
//! be done now. Nothing here changes the device.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use volary_model::CommitId;

use super::{end, later, next_question, rest};
use crate::event::{Effect, Passed};
use crate::patience::jittered;
use crate::permit::{Circumstances, Obstacle, Permit, permit};
use crate::policy::Policy;
use crate::state::{Failure, Outcome, Phase, Rest, Scope, State, Step, Target, Urge, Waiting, Work};

/// How often in a row an offer for another stage is met with patience. The server needs one
/// report to learn that the device moved; a third such offer is not a delay any more.
const STRAYS: u32 = 3;

/// The longest that a device trusts the server to make an offer when it has another answer: as long as the
/// server may tell it to wait, and the jitter.
const TOLD: Duration = Duration::from_secs(2 * 3600);

/// Takes note of an offer.
pub(super) fn offered(mut state: State, target: Target, poll: u32, now: Timestamp) -> (State, Vec<Effect>) {
    state.memory.poll = Some(poll.clamp(1, 24 * 3600));
    state.memory.unanswered = 0;
    state.memory.told_until = None;
    if target.stage == state.stage {
        state.memory.strays = 0;
        state.memory.offered = Some(target.clone());
        return consider(state, target, now);
    }
    state.memory.offered = None;
    state.memory.strays = state.memory.strays.saturating_add(1);
    if state.memory.strays < STRAYS {
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
    let work = new_work(&state, target, Scope::Full, now);
    end::ended(state, work, Outcome::Refused, Some(failure), now)
}

/// Looks at what is wanted and decides whether there is something to do.
pub(super) fn consider(mut state: State, target: Target, now: Timestamp) -> (State, Vec<Effect>) {
    if !state.is_idle() {
        return rest(state, now);
    }
    let target = next_stop(&mut state, target);
    let urge = std::mem::take(&mut state.memory.urge);
    state.memory.look_again = None;
    if urge == Urge::Again {
        state.forgive(&target);
    }
    let urged = urge != Urge::None;
    if state.quarantine(&target).is_some() {
        let good = state.good.as_ref() == Some(&target);
        state.phase = Phase::Idle(if good { Rest::Content } else { Rest::Quarantined(target) });
        return rest(state, now);
    }
    if waits_for(&state, &target, now) && !urged {
        return rest(state, now);
    }
    if let Phase::Idle(Rest::Waiting(waiting)) = &state.phase
        && waiting.work.target == target
    {
        let mut work = waiting.work.clone();
        work.urged |= urged;
        return begin_or_wait(state, work, now);
    }
    match scope(&state, &target, urged) {
        Some(scope) => begin(state, target, scope, urged, now),
        None => {
            state.phase = Phase::Idle(Rest::Content);
            look_for_drift(state, now)
        }
    }
}

/// Where to go on the way to a target: to the target, but for one that this agent is too old for. Once the
/// commit before that holds, it is looked at again, by what may be a newer agent then.
fn next_stop(state: &mut State, target: Target) -> Target {
    let Some((of, before)) = state.memory.stepping_stone.clone() else { return target };
    let stop = Target { commit: before, ..target.clone() };
    if of == target.commit && state.good.as_ref().is_none_or(|good| good.commit != stop.commit) {
        return stop;
    }
    state.memory.stepping_stone = None;
    target
}

/// The agent is too old for the commit, and goes to the one before it first.
pub(super) fn too_old(mut state: State, before: CommitId, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Verify(work) = state.phase.clone() else { return rest(state, now) };
    state.memory.stepping_stone = Some((work.target.commit.clone(), before));
    if work.urged {
        state.memory.urge = state.memory.urge.max(Urge::Run);
    }
    state.phase = Phase::Idle(Rest::Content);
    consider(state, work.target, now)
}

/// How much there is to do to get there; `None` if the device is there.
fn scope(state: &State, target: &Target, urged: bool) -> Option<Scope> {
    // After something went wrong with this target, or on the way to another one, half is not enough.
    let troubled = match &state.phase {
        Phase::Idle(Rest::Reverted(_)) => true,
        Phase::Idle(Rest::Failed(trouble) | Rest::Refused(trouble)) => trouble.target == *target,
        Phase::Idle(Rest::Content | Rest::Waiting(_) | Rest::Quarantined(_))
        | Phase::Fetch(_)
        | Phase::Verify(_)
        | Phase::Install(_)
        | Phase::Checkpoint(_)
        | Phase::Apply(..)
        | Phase::Reboot(_)
        | Phase::Confirm(_)
        | Phase::Commit(_)
        | Phase::Revert(..)
        | Phase::Drift(_)
        | Phase::Report { .. } => false,
    };
    let at_commit =
        state.good.as_ref().filter(|good| good.stage == target.stage && good.commit == target.commit);
    match at_commit {
        Some(good) if !urged && !troubled => (good.rolling != target.rolling).then_some(Scope::Packages),
        Some(_) | None => Some(Scope::Full),
    }
}

fn begin(
    mut state: State,
    target: Target,
    scope: Scope,
    urged: bool,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    let work = Work { urged, ..new_work(&state, target.clone(), scope, now) };
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

/// A convergence that was not begun before. What is known of the target from earlier counts on.
pub(super) fn new_work(state: &State, target: Target, scope: Scope, now: Timestamp) -> Work {
    let failed = state.trouble().filter(|trouble| trouble.target == target);
    let failed = failed.map_or(0, |trouble| trouble.attempts);
    let reverted = state.reverted_of(&target).map_or(0, |reverted| reverted.times);
    // A commit that takes the place of one that waited takes its turn too: else a fleet with many
    // commits and a long splay would wait for ever.
    let seen_at = match &state.phase {
        Phase::Idle(Rest::Waiting(waiting)) => waiting.work.seen_at,
        _ => now,
    };
    Work {
        attempt: failed.max(reverted).saturating_add(1),
        target,
        scope,
        started_at: now,
        seen_at,
        urged: false,
        suite: None,
        committed_at: None,
        policy: Policy::default(),
        image: None,
        checkpoint: None,
        interruptions: 0,
        stuck: 0,
        changed_tasks: 0,
        packages: BTreeMap::new(),
    }
}

/// The objects are there.
pub(super) fn fetched(mut state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Fetch(work) = state.phase.clone() else { return rest(state, now) };
    state.phase = Phase::Verify(work.clone());
    (state, vec![Effect::Verify(work)])
}

/// The commit may be applied: it counts as accepted from now on, also if it has to wait.
pub(super) fn verified(mut state: State, passed: Passed, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Verify(mut work) = state.phase.clone() else { return rest(state, now) };
    let target = &work.target;
    state.accepted.insert(target.stage.clone(), target.commit.clone());
    state.trusted = Some(target.commit.clone());
    state.policy = passed.policy.clone();
    state.memory.zones = passed.zones;
    if let Some(stage) = passed.stage.filter(|stage| *stage != state.stage) {
        state.stage = stage;
        state.memory.offered = None;
        state.memory.strays = 0;
        state.phase = Phase::Idle(Rest::Content);
        // The server learns of it from the report; then its next answer is of the new stage.
        let soon = Effect::Wait(later(now, jittered(Duration::from_secs(2), state.seed)));
        return (state, vec![Effect::Tell, soon]);
    }
    state.memory.cut_short = 0;
    work.suite = passed.suite;
    work.committed_at = passed.committed_at;
    work.policy = passed.policy;
    work.image = passed.image;
    if work.image.is_some() {
        // It begins from nothing.
        work.scope = Scope::Full;
    }
    let permit = permit_of(&state, &work, now);
    if !permit.obstacles.is_empty() {
        return wait(state, work, permit, now);
    }
    state.memory.failed_units = passed.failed_units;
    if work.policy.needs_turn() {
        // It is this one's even if it was granted before: that was some time ago.
        state.phase = Phase::Verify(work.clone());
        return (state, vec![Effect::AskTurn(work)]);
    }
    change(state, work)
}

/// Nothing stands in the way: the change begins with a checkpoint.
fn change(mut state: State, work: Work) -> (State, Vec<Effect>) {
    let failed_units = std::mem::take(&mut state.memory.failed_units);
    state.failed_before.get_or_insert(failed_units);
    state.memory.turn = false;
    if work.image.is_none() {
        return checkpoint(state, work);
    }
    // What a person could go back to may be in the slot that is written now.
    state.last = state.last.filter(|last| last.work.image.is_none());
    state.phase = Phase::Install(work.clone());
    (state, vec![Effect::Install(work)])
}

/// The image is in the other slot.
pub(super) fn installed(state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let Phase::Install(work) = state.phase.clone() else { return rest(state, now) };
    checkpoint(state, work)
}

fn checkpoint(mut state: State, work: Work) -> (State, Vec<Effect>) {
    state.memory.cut_short = 0;
    state.phase = Phase::Checkpoint(work.clone());
    (state, vec![Effect::Checkpoint(work)])
}

/// The work whose turn the device asks for; `None` in a phase that asks for none.
fn asks_for_turn(phase: &Phase) -> Option<&Work> {
    match phase {
        Phase::Verify(work) => Some(work),
        Phase::Idle(Rest::Waiting(waiting)) => Some(&waiting.work),
        Phase::Idle(
            Rest::Content | Rest::Failed(_) | Rest::Reverted(_) | Rest::Refused(_) | Rest::Quarantined(_),
        )
        | Phase::Fetch(_)
        | Phase::Install(_)
        | Phase::Checkpoint(_)
        | Phase::Apply(..)
        | Phase::Reboot(_)
        | Phase::Confirm(_)
        | Phase::Commit(_)
        | Phase::Revert(..)
        | Phase::Drift(_)
        | Phase::Report { .. } => None,
    }
}

/// The server lets the device change now.
pub(super) fn turn_granted(mut state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let Some(work) = asks_for_turn(&state.phase).cloned() else { return rest(state, now) };
    if matches!(state.phase, Phase::Verify(_)) {
        return change(state, work);
    }
    state.memory.turn = true;
    verify_anew(state, work, now)
}

/// Others of the site change now, or the server that counts them cannot be asked.
pub(super) fn turn_refused(
    mut state: State,
    reason: String,
    again: Timestamp,
    now: Timestamp,
) -> (State, Vec<Effect>) {
    let Some(work) = asks_for_turn(&state.phase).cloned() else { return rest(state, now) };
    state.memory.turn = false;
    let permit = Permit { obstacles: vec![Obstacle::Budget(reason)], look_again: Some(again) };
    wait(state, work, permit, now)
}

/// Once nothing stands in the way, what waited is verified anew: the archive, the disk and the
/// device may be other ones since.
pub(super) fn begin_or_wait(mut state: State, work: Work, now: Timestamp) -> (State, Vec<Effect>) {
    let permit = permit_of(&state, &work, now);
    if !permit.obstacles.is_empty() {
        state.memory.told_until = None;
        return wait(state, work, permit, now);
    }
    if !work.policy.needs_turn() {
        return verify_anew(state, work, now);
    }
    // What it waited for is told until there is another answer.
    let before = match &state.phase {
        Phase::Idle(Rest::Waiting(waiting)) => Some(waiting.obstacles.clone()),
        _ => None,
    };
    let obstacles = before.unwrap_or_default();
    // A clock that went back is not a reason to wait for years.
    let told_until = state.memory.told_until.filter(|until| now < *until && *until <= later(now, TOLD));
    if told_until.is_some() && !work.urged {
        return wait(state, work, Permit { obstacles, look_again: told_until }, now);
    }
    state.phase = Phase::Idle(Rest::Waiting(Box::new(Waiting { work: work.clone(), obstacles })));
    (state, vec![Effect::AskTurn(work)])
}

fn verify_anew(mut state: State, work: Work, now: Timestamp) -> (State, Vec<Effect>) {
    let work = Work { started_at: now, ..work };
    state.phase = Phase::Verify(work.clone());
    (state, vec![Effect::Verify(work)])
}

fn wait(mut state: State, work: Work, permit: Permit, now: Timestamp) -> (State, Vec<Effect>) {
    state.interrupted = None;
    state.memory.look_again = permit.look_again;
    let waiting = Waiting { work, obstacles: permit.obstacles };
    let told = matches!(&state.phase, Phase::Idle(Rest::Waiting(before))
        if before.work.target == waiting.work.target && before.obstacles == waiting.obstacles);
    state.phase = Phase::Idle(Rest::Waiting(Box::new(waiting)));
    let unused = std::mem::take(&mut state.memory.turn);
    let (state, mut effects) = rest(state, now);
    if !told {
        effects.insert(0, Effect::Tell);
    }
    if unused {
        effects.insert(0, Effect::GiveTurnBack);
    }
    (state, effects)
}

/// What would stand in the way of going for a target now, beside a turn from the server.
pub fn outlook(state: &State, target: &Target, passed: &Passed, now: Timestamp) -> Permit {
    let state = State {
        memory: crate::state::Memory { zones: passed.zones.clone(), ..state.memory.clone() },
        ..state.clone()
    };
    let work = Work {
        committed_at: passed.committed_at,
        policy: passed.policy.clone(),
        ..new_work(&state, target.clone(), Scope::Full, now)
    };
    permit_of(&state, &work, now)
}

fn permit_of(state: &State, work: &Work, now: Timestamp) -> Permit {
    let given = Circumstances {
        zones: &state.memory.zones,
        committed_at: work.committed_at,
        hold: state.hold.as_ref(),
        seen_at: work.seen_at,
        luck: luck(state.seed, &work.target),
        urged: work.urged,
        had_its_turn: work.attempt > 1,
    };
    permit(&work.policy, &given, now)
}

/// Each device gets another place for each commit, so that it is not always the same who go first
/// (FNV-1a).
fn luck(seed: u64, target: &Target) -> u64 {
    target.commit.as_str().bytes().fold(seed ^ 0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    })
}

/// A device that is there has time to look for what somebody changed by hand.
fn look_for_drift(mut state: State, now: Timestamp) -> (State, Vec<Effect>) {
    let (Some(policy), Some(good)) = (&state.policy.drift, &state.good) else { return rest(state, now) };
    let known = state.trusted.as_ref() == Some(&good.commit);
    let since = state.drift.as_ref().filter(|drift| drift.commit == good.commit).map(|drift| drift.at);
    let since = since.or(state.good_since).unwrap_or(now);
    let due = later(since, jittered(policy.every, state.seed));
    // A clock that went back is not a reason to wait for years.
    if !known || (since <= now && now < due) {
        return rest(state, now);
    }
    let work = new_work(&state, good.clone(), Scope::Full, now);
    state.phase = Phase::Drift(work.clone());
    (state, vec![Effect::Drift(work)])
}
