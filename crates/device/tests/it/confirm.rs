//! Confirm or undo: every change ends in one of the two, whatever happens in between.

use volary_device::{
    Cause, DriftPolicy, Effect, Event, Outcome, Passed, Phase, Policy, Rest, State, Step, UndoneBy, step,
};

use crate::common::{
    NUDGE, START, all_good, applied, at, checkpointed, commit, failure, feed, fresh, gains, offer, passed,
    target, undone, verified,
};

const AGAIN: Event = Event::Nudged { again: true };

fn reverted_by(cause: Cause, path_works: Option<bool>) -> Event {
    Event::Undone(undone(1, "", cause, path_works))
}

fn started_after(cause: Cause, path_works: Option<bool>) -> Event {
    Event::Started { undone: Some(undone(1, "", cause, path_works)), running: None }
}

/// A device in each phase of the first convergence, from the checkpoint on.
fn in_phase(phase: &str) -> State {
    let mut events = vec![offer(1, ""), Event::Fetched, verified()];
    let more = [
        ("checkpoint", vec![]),
        ("playbook", vec![checkpointed()]),
        ("packages", vec![Event::Done(gains())]),
        ("confirm", vec![Event::Done(gains())]),
        ("commit", vec![Event::Confirmed]),
    ];
    for (name, next) in more {
        events.extend(next);
        if name == phase {
            return feed(fresh(), events, at(0)).0;
        }
    }
    assert_eq!(phase, "revert");
    feed(in_phase("confirm"), [Event::Failed(failure(Step::Check))], at(0)).0
}

/// Feeds the events; says what the last effect is, and what is remembered of commit 1 after the
/// report is stored, if there is one.
fn check(state: State, events: impl IntoIterator<Item = Event>, effect: &str, memory: &str) {
    let (state, effects) = feed(state, events, at(1));
    let last = format!("{:?}", effects.last().unwrap());
    assert!(last.starts_with(effect), "{last}");
    if !matches!(state.phase, Phase::Report { .. }) {
        assert_eq!(memory, "");
        return;
    }
    let (state, _) = step(state, Event::Stored, at(1));
    let found = match (&state.phase, state.reverted_of(&target(1, ""))) {
        (Phase::Idle(Rest::Quarantined(_)), Some(bad)) => format!("quarantined for {}", bad.failure.step),
        (Phase::Idle(Rest::Reverted(trouble)), Some(bad)) => {
            assert!(!bad.quarantined);
            format!("again after {} for {}", trouble.attempts, bad.failure.step)
        }
        (Phase::Idle(Rest::Content), None) => "good".to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found, memory);
}

#[test]
fn a_start_goes_on_where_the_device_was_changed() {
    check(in_phase("checkpoint"), [START], "Disarm", "");
    check(in_phase("checkpoint"), [START, Event::Disarmed], "Ask", "");
    check(in_phase("playbook"), [START], "Apply(", "");
    check(in_phase("packages"), [START], "Apply(", "");
    check(in_phase("confirm"), [START], "Confirm", "");
    check(in_phase("commit"), [START], "Disarm", "");
    check(in_phase("revert"), [START], "Undo", "");
    let (state, effects) = step(in_phase("packages"), START, at(1));
    assert!(matches!(effects.last(), Some(Effect::Apply(_, Step::Playbook))), "from the beginning");
    assert_eq!(state.work().unwrap().checkpoint.as_deref(), Some("c1"), "with the same checkpoint");
}

#[test]
fn without_a_path_nothing_is_begun_that_could_take_it_away() {
    let away = || Event::Unreachable("no route to host".into());
    let (state, effects) = step(in_phase("checkpoint"), away(), at(1));
    assert!(matches!(effects.last(), Some(Effect::Wait(_))), "{effects:?}");
    assert!(matches!(state.phase, Phase::Idle(Rest::Failed(_))));
    // The path that goes in the middle is the change's fault, until the undo shows otherwise.
    check(in_phase("playbook"), [away()], "Undo", "");
    check(in_phase("confirm"), [away()], "Undo", "");
}

#[test]
fn a_change_that_was_cut_off_is_never_taken_for_none() {
    let (state, _) = step(in_phase("packages"), START, at(1));
    let nothing = Event::Done(volary_device::Gains::default());
    let (state, effects) = feed(state, [nothing.clone(), nothing], at(2));
    assert!(matches!(effects.last(), Some(Effect::Confirm(_))));
    assert_eq!(state.work().unwrap().confirm_within(), Policy::default().confirm_within);
}

#[test]
fn what_changed_nothing_is_looked_at_once() {
    let (mut state, _) = feed(fresh(), [offer(1, ""), Event::Fetched, verified(), checkpointed()], at(0));
    for _ in 0..2 {
        state = step(state, Event::Done(volary_device::Gains::default()), at(0)).0;
    }
    assert!(state.work().unwrap().confirm_within().is_zero());
    // It cannot have broken a check, but it can have hidden what it did to the network.
    let undone = reverted_by(Cause::Failed, Some(true));
    let by = |step| [Event::Failed(failure(step)), undone.clone()];
    check(state.clone(), by(Step::Check), "Report", "again after 1 for check");
    check(state, by(Step::Path), "Report", "quarantined for path");
}

#[test]
fn a_check_that_fails_without_a_change_is_tried_again_less_and_less_often() {
    let (mut state, mut now, mut waits) = (fresh(), at(0), Vec::new());
    for attempt in 1..=10 {
        let events = [offer(1, ""), Event::Fetched, verified(), checkpointed()];
        let nothing = Event::Done(volary_device::Gains::default());
        let failed = [nothing.clone(), nothing, Event::Failed(failure(Step::Check))];
        let undone = [reverted_by(Cause::Failed, Some(true)), Event::Stored];
        state = feed(state, events.into_iter().chain(failed).chain(undone), now).0;
        let trouble = state.trouble().expect("it is tried again").clone();
        assert_eq!(trouble.attempts, attempt);
        // Nothing before that begins it anew: no answer of the server, no start.
        for event in [Event::Unchanged, offer(1, ""), Event::Unchanged] {
            let (_, effects) = step(state.clone(), event, now);
            assert!(matches!(effects[..], [Effect::Wait(_)]), "{effects:?}");
        }
        waits.push(trouble.retry_at.duration_since(now).as_secs());
        now = trouble.retry_at;
    }
    assert!(waits.windows(2).take(5).all(|pair| pair[1] > pair[0]), "{waits:?}");
    assert!(
        (54..=66).contains(&waits[0]) && waits[6..].iter().all(|wait| (3240..=3960).contains(wait)),
        "{waits:?}"
    );
}

#[test]
fn three_interruptions_of_a_change_undo_it() {
    let (state, effects) = feed(in_phase("playbook"), [START, START, START], at(1));
    assert!(matches!(effects.last(), Some(Effect::Undo(..))), "{effects:?}");
    check(state, [reverted_by(Cause::Failed, Some(true))], "Report", "again after 1 for playbook");
}

#[test]
fn what_could_not_be_applied_is_tried_three_times() {
    let mut state = fresh();
    let mut now = at(0);
    for attempt in 1..=3 {
        let events = [offer(1, ""), Event::Fetched, verified(), checkpointed()];
        let (next, effects) = feed(state, events, now);
        assert!(matches!(effects.last(), Some(Effect::Apply(..))), "{effects:?}");
        let failed = [Event::Failed(failure(Step::Packages)), reverted_by(Cause::Failed, Some(true))];
        let (next, _) = feed(next, failed, now);
        let Phase::Report { work, outcome: Outcome::Reverted, undone: Some(_), .. } = &next.phase else {
            panic!("{:?}", next.phase)
        };
        assert_eq!(work.attempt, attempt);
        state = step(next, Event::Stored, now).0;
        now = state.trouble().map_or(now, |trouble| trouble.retry_at);
    }
    let bad = state.quarantine(&target(1, "")).unwrap();
    assert_eq!((bad.times, bad.failure.step), (3, Step::Packages));
    let (state, effects) = feed(state, [offer(1, ""), NUDGE, Event::Unchanged], at(99_999));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "{effects:?}");
    assert_eq!(state.phase, Phase::Idle(Rest::Quarantined(target(1, ""))));
}

#[test]
fn what_hurt_is_not_tried_again_until_a_person_or_another_commit_comes() {
    let undone = reverted_by(Cause::Failed, Some(true));
    for step in [Step::Units, Step::Check, Step::Path, Step::Confirm] {
        let memory = format!("quarantined for {step}");
        check(in_phase("confirm"), [Event::Failed(failure(step)), undone.clone()], "Report", &memory);
    }
    let hurt = [Event::Failed(failure(Step::Path)), undone, Event::Stored];
    let (state, _) = feed(in_phase("confirm"), hurt, at(1));
    let tries = |event: [Event; 2]| {
        let (_, effects) = feed(state.clone(), event, at(2));
        matches!(effects.last(), Some(Effect::Fetch(_)))
    };
    assert!(!tries([Event::Due, offer(1, "")]));
    assert!(!tries([NUDGE, offer(1, "")]));
    assert!(tries([AGAIN, offer(1, "")]));
    assert!(tries([Event::Due, offer(2, "")]));
    assert!(tries([Event::Due, offer(1, "another rolling")]));
}

#[test]
fn a_path_that_stays_away_is_not_the_commits_fault() {
    let undone = reverted_by(Cause::Failed, Some(false));
    let mut state = in_phase("confirm");
    for times in 1..=3_u32 {
        let lost = [Event::Failed(failure(Step::Path)), undone.clone()];
        let memory =
            if times < 3 { format!("again after {times} for path") } else { "quarantined for path".into() };
        check(state.clone(), lost.clone(), "Report", &memory);
        (state, _) = feed(state, lost, at(0));
        (state, _) = step(state, Event::Stored, at(0));
        (state, _) = feed(state, applied(1, ""), at(100_000 * u64::from(times)));
    }
}

#[test]
fn an_undo_from_outside_is_learnt_of_at_the_start() {
    for phase in ["playbook", "packages", "confirm", "commit"] {
        check(
            in_phase(phase),
            [started_after(Cause::PathLost, Some(true))],
            "Report",
            "quarantined for path",
        );
        check(
            in_phase(phase),
            [started_after(Cause::AgentGone, Some(true))],
            "Report",
            "quarantined for confirm",
        );
        check(
            in_phase(phase),
            [started_after(Cause::PathLost, Some(false))],
            "Report",
            "again after 1 for path",
        );
        check(in_phase(phase), [reverted_by(Cause::Unconfirmed, None)], "Report", "quarantined for confirm");
    }
    check(in_phase("playbook"), [started_after(Cause::Boots, None)], "Report", "again after 1 for playbook");
    check(in_phase("confirm"), [started_after(Cause::Boots, None)], "Report", "quarantined for confirm");
    // The failure that led to the undo counts, whoever finished it.
    check(in_phase("revert"), [started_after(Cause::AgentGone, None)], "Report", "quarantined for check");
    // Nothing had been changed yet.
    check(in_phase("checkpoint"), [started_after(Cause::AgentGone, None)], "Ask", "");
}

#[test]
fn an_undo_is_heard_of_once() {
    let (state, _) = feed(in_phase("confirm"), [started_after(Cause::PathLost, None)], at(1));
    let (state, _) = step(state, Event::Stored, at(1));
    let (state, effects) = step(state, started_after(Cause::PathLost, None), at(2));
    assert_eq!(effects, [Effect::Ask]);
    // With another checkpoint it is news, also for a device that lost its ledger.
    check(fresh(), [started_after(Cause::PathLost, None)], "Report", "quarantined for path");
    assert!(state.quarantine(&target(1, "")).is_some());
}

#[test]
fn an_undo_that_fails_is_tried_again_and_then_told() {
    let mut state = in_phase("revert");
    let broken = || Event::Failed(failure(Step::Undo));
    for _ in 0..4 {
        let (next, effects) = step(state, broken(), at(1));
        assert!(matches!(effects.last(), Some(Effect::Wait(_))), "{effects:?}");
        let (next, effects) = step(next, Event::Due, at(500));
        assert!(matches!(effects.last(), Some(Effect::Undo(..))), "{effects:?}");
        state = next;
    }
    let (state, _) = step(state, broken(), at(1));
    let Phase::Report { outcome: Outcome::Failed, failure: Some(failure), undone: None, .. } = &state.phase
    else {
        panic!("{:?}", state.phase)
    };
    assert_eq!(failure.to_string(), "undo \"it\": broke; after that it failed: check \"it\": broke");
    let (state, _) = step(state, Event::Stored, at(1));
    assert_eq!(state.phase, Phase::Idle(Rest::Quarantined(target(1, ""))));
}

#[test]
fn a_reboot_in_an_undo_is_waited_for() {
    let (state, effects) = step(in_phase("revert"), Event::Rebooting, at(1));
    assert_eq!(effects, [Effect::Wait(at(301))]);
    check(state, [START, reverted_by(Cause::Failed, Some(true))], "Report", "quarantined for check");
}

#[test]
fn a_timer_that_cannot_be_disarmed_is_disarmed_again_or_was_first() {
    let (state, effects) = step(in_phase("commit"), Event::Failed(failure(Step::Confirm)), at(1));
    assert_eq!(effects.last(), Some(&Effect::Wait(at(6))));
    let (state, effects) = step(state, Event::Due, at(6));
    assert!(matches!(effects.last(), Some(Effect::Disarm(_))));
    check(state.clone(), [Event::Disarmed], "Report", "good");
    check(state, [reverted_by(Cause::Unconfirmed, Some(true))], "Report", "quarantined for confirm");
}

#[test]
fn a_person_confirms_or_reverts() {
    check(in_phase("confirm"), [Event::Confirmed], "Disarm", "");
    let by_person = Event::Undone(Box::new(volary_device::Undone {
        by: UndoneBy::Person,
        ..*undone(1, "", Cause::Person, Some(true))
    }));
    check(in_phase("confirm"), [Event::RevertAsked], "Undo", "");
    check(in_phase("confirm"), [Event::RevertAsked, by_person.clone()], "Report", "quarantined for revert");
    // Also what was confirmed; then the device is what it was before.
    let (state, _) = feed(fresh(), all_good(7, ""), at(0));
    let (state, _) = feed(state, all_good(1, ""), at(10));
    assert_eq!(state.good, Some(target(1, "")));
    let (state, effects) = step(state, Event::RevertAsked, at(20));
    assert!(
        matches!(effects.last(), Some(Effect::Undo(work, _)) if work.checkpoint.as_deref() == Some("c1"))
    );
    let (state, _) = feed(state, [by_person.clone(), Event::Stored, offer(1, "")], at(21));
    assert_eq!((&state.good, state.good_since), (&Some(target(7, "")), Some(at(0))));
    assert_eq!(state.phase, Phase::Idle(Rest::Quarantined(target(1, ""))));
    let (_, effects) = step(state, Event::RevertAsked, at(22));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "there is nothing more to undo: {effects:?}");
    // The person used the rescue directly, since the agent was dead.
    let (state, _) = feed(fresh(), all_good(7, ""), at(0));
    let (state, _) = feed(state, all_good(1, ""), at(10));
    let Event::Undone(told) = by_person else { unreachable!() };
    let back = |events: &[Event]| {
        let (state, _) = feed(state.clone(), events.iter().cloned(), at(20));
        let (state, effects) =
            step(state, Event::Started { undone: Some(told.clone()), running: None }, at(21));
        assert_eq!(effects.last(), Some(&Effect::Report));
        (state.good.map(|good| good.commit), state.reverted.len())
    };
    assert_eq!(back(&[]), (Some(commit(7)), 1));
    // Also if the next one had begun.
    assert_eq!(back(&[offer(2, "")]), (Some(commit(7)), 1));
    assert_eq!(back(&[offer(2, ""), Event::Fetched]), (Some(commit(7)), 1));
    // The good end is told first if it was not yet.
    let (state, _) = feed(fresh(), all_good(7, ""), at(0));
    let (state, _) = feed(state, applied(1, ""), at(10));
    let (state, _) = feed(state, [Event::Confirmed, Event::Disarmed], at(10));
    let (state, effects) = step(state, Event::Started { undone: Some(told), running: None }, at(20));
    assert_eq!((effects.last(), &state.reverted[..]), (Some(&Effect::Report), &[][..]));
    let (state, effects) = step(state, Event::Stored, at(21));
    assert_eq!((effects.last(), state.good), (Some(&Effect::Report), Some(target(7, ""))));
}

#[test]
fn the_sixteen_newest_are_remembered() {
    let mut state = fresh();
    for number in 1..=20 {
        let hurt =
            [Event::Failed(failure(Step::Path)), Event::Undone(undone(number, "", Cause::Failed, None))];
        (state, _) = feed(state, applied(number, ""), at(number));
        (state, _) = feed(state, hurt, at(number));
        (state, _) = step(state, Event::Stored, at(number));
    }
    let commits: Vec<_> = state.reverted.iter().map(|bad| bad.target.commit.clone()).collect();
    assert_eq!(commits, (5..=20).map(commit).collect::<Vec<_>>());
}

#[test]
fn drift_is_looked_for_told_and_repaired_if_the_fleet_says_so() {
    let converged = |repair| {
        let drift = Some(DriftPolicy { every: std::time::Duration::from_secs(3600), repair });
        let passed = Passed { policy: Policy { drift, ..Policy::default() }, ..passed() };
        let mut events = applied(1, "");
        events[2] = Event::Verified(Box::new(passed));
        events.extend([Event::Confirmed, Event::Disarmed, Event::Stored]);
        feed(fresh(), events, at(0)).0
    };
    let found =
        |changes: &[&str]| Event::Drifted { changes: changes.iter().map(|&task| task.into()).collect() };
    let (state, effects) = step(converged(false), Event::Unchanged, at(3000));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "not yet: {effects:?}");
    let (state, effects) = step(state, Event::Unchanged, at(4000));
    assert!(matches!(effects.last(), Some(Effect::Drift(_))));
    let (state, effects) = step(state, found(&["motd"]), at(4001));
    assert!(matches!(effects[..], [Effect::Record, Effect::Tell, Effect::Wait(_)]), "{effects:?}");
    assert_eq!(state.drift.as_ref().unwrap().changes, ["motd"]);
    let (_, effects) = step(state, Event::Unchanged, at(5000));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "{effects:?}");

    let (state, _) = step(converged(true), Event::Unchanged, at(4000));
    let (_, effects) = step(state.clone(), found(&[]), at(4001));
    assert!(matches!(effects.last(), Some(Effect::Wait(_))));
    let (state, effects) = step(state, found(&["motd"]), at(4001));
    assert!(matches!(effects[..], [Effect::Record, Effect::Tell, Effect::Verify(_)]), "{effects:?}");
    let (_, effects) = feed(state, [verified()], at(4002));
    assert!(matches!(effects.last(), Some(Effect::Checkpoint(_))), "as any other change");
}

#[test]
fn a_look_for_drift_that_kills_the_agent_is_given_up() {
    let (mut state, _) = feed(fresh(), all_good(1, ""), at(0));
    state.policy.drift = Some(DriftPolicy { every: std::time::Duration::from_secs(3600), repair: false });
    for crash in 1..=3 {
        let (next, effects) = step(state, offer(1, ""), at(9000));
        assert!(matches!(effects.last(), Some(Effect::Drift(_))));
        let (next, effects) = step(next, START, at(9000));
        assert_eq!(matches!(effects.last(), Some(Effect::Wait(_))), crash == 3, "{effects:?}");
        state = next;
    }
    assert!(state.drift.unwrap().failure.is_some());
}
