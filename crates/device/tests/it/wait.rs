//! What a device does with a change that it may not begin.

use std::time::Duration;

use jiff::civil::time;
use volary_device::{Days, Effect, Event, Hold, Obstacle, Passed, Phase, Policy, Rest, State, Window, step};

use crate::common::{NUDGE, START, at, checkpointed, feed, fresh, offer, passed, target, verified};

/// Nights from 1 to 2 o'clock UTC; `at(0)` is a Friday, 08:00.
fn nights() -> Policy {
    let window = Window { days: Days::ALL, start: time(1, 0, 0, 0), end: time(2, 0, 0, 0) };
    Policy { windows: vec![window], ..Policy::default() }
}

fn with(policy: Policy) -> Event {
    Event::Verified(Box::new(Passed { policy, ..passed() }))
}

fn obstacles(state: &State) -> &[Obstacle] {
    match &state.phase {
        Phase::Idle(Rest::Waiting(waiting)) => &waiting.obstacles,
        other => panic!("{other:?}"),
    }
}

const OPENS: u64 = 17 * 3600;

#[test]
fn a_window_is_waited_for_and_the_change_verified_anew() {
    let (state, effects) = feed(fresh(), [offer(1, ""), Event::Fetched, with(nights())], at(0));
    assert!(matches!(effects[..], [Effect::Record, Effect::Tell, Effect::Wait(_)]), "{effects:?}");
    assert_eq!(obstacles(&state), [Obstacle::Window { opens: Some(at(OPENS)) }]);
    assert!(state.accepted.values().any(|commit| *commit == target(1, "").commit), "it goes no further back");
    // Idle questions write nothing; just before the window it does not oversleep.
    let (state, effects) = step(state, Event::Unchanged, at(100));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "{effects:?}");
    let (state, effects) = step(state, Event::Unchanged, at(OPENS - 2));
    assert_eq!(effects, [Effect::Wait(at(OPENS))]);
    let (state, effects) = feed(state, [Event::Due, Event::Unchanged], at(OPENS));
    assert!(matches!(effects.last(), Some(Effect::Verify(_))), "{effects:?}");
    let (_, effects) = feed(state, [with(nights()), checkpointed()], at(OPENS + 1));
    assert!(matches!(effects.last(), Some(Effect::Apply(..))), "{effects:?}");
}

#[test]
fn a_newer_commit_takes_the_place_of_one_that_waits() {
    let (state, _) = feed(fresh(), [offer(1, ""), Event::Fetched, with(nights())], at(0));
    let (state, effects) = step(state, offer(2, ""), at(60));
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(2, ""))));
    let (state, _) = feed(state, [Event::Fetched, with(nights())], at(61));
    assert_eq!(obstacles(&state).len(), 1);
    // And one without windows ends the wait.
    let (_, effects) = feed(state, [offer(3, ""), Event::Fetched, verified()], at(62));
    assert!(matches!(effects.last(), Some(Effect::Checkpoint(_))));
}

#[test]
fn a_person_ignores_windows_but_not_a_stop() {
    let (state, _) = feed(fresh(), [offer(1, ""), Event::Fetched, with(nights())], at(0));
    let (state, effects) = feed(state, [NUDGE, Event::Unchanged], at(1));
    assert!(matches!(effects.last(), Some(Effect::Verify(_))), "{effects:?}");
    let (_, effects) = step(state, with(nights()), at(2));
    assert!(matches!(effects.last(), Some(Effect::Checkpoint(_))), "{effects:?}");

    let stopped = Policy { stop: Some("fire".into()), ..nights() };
    let (state, _) = feed(fresh(), [NUDGE, offer(1, ""), Event::Fetched, with(stopped)], at(0));
    assert_eq!(obstacles(&state), [Obstacle::Stopped("fire".into())]);
}

#[test]
fn a_hold_ends_by_itself_or_by_a_person() {
    let hold = |until| Event::Held(Hold { since: at(0), until, reason: "mine".into() });
    let begin = || [offer(1, ""), Event::Fetched, verified()];
    let (state, _) = feed(fresh(), [hold(None)].into_iter().chain(begin()), at(0));
    assert_eq!(obstacles(&state), [Obstacle::Held("mine".into())]);
    let (_, effects) = feed(state, [Event::Released, Event::Unchanged], at(1));
    assert!(matches!(effects.last(), Some(Effect::Verify(_))), "{effects:?}");
    let (state, _) = feed(fresh(), [hold(Some(at(500)))].into_iter().chain(begin()), at(0));
    assert_eq!(obstacles(&state), [Obstacle::HeldUntil(at(500), "mine".into())]);
    let (state, effects) = feed(state, [Event::Due, Event::Unchanged], at(500));
    assert!(matches!(effects.last(), Some(Effect::Verify(_))), "{effects:?}");
    assert_eq!(state.hold, None);
}

fn limited() -> Event {
    with(Policy { per_site_at_most: Some(1), ..Policy::default() })
}

fn refused(reason: &str) -> Event {
    Event::TurnRefused { reason: reason.into(), again_after: 30, told: false }
}

#[test]
fn a_hold_outlives_no_clock_that_was_put_right() {
    // Held for ten minutes while the clock was a year ahead.
    let year = 365 * 86_400;
    let hold = Hold { since: at(year), until: Some(at(year + 600)), reason: "mine".into() };
    let (state, _) = step(fresh(), Event::Held(hold), at(year));
    let (state, _) = feed(state, [offer(1, ""), Event::Fetched, verified()], at(0));
    assert_eq!(obstacles(&state), [Obstacle::HeldUntil(at(600), "mine".into())]);
    let (_, effects) = feed(state, [Event::Due, Event::Unchanged], at(600));
    assert!(matches!(effects.last(), Some(Effect::Verify(_))), "{effects:?}");
}

#[test]
fn a_turn_is_asked_for_where_the_fleet_limits_a_site() {
    let (_, effects) = feed(fresh(), [offer(1, ""), Event::Fetched, verified()], at(0));
    assert!(matches!(effects.last(), Some(Effect::Checkpoint(_))), "no limit, no question");
    let (state, effects) = feed(fresh(), [offer(1, ""), Event::Fetched, limited()], at(0));
    assert!(matches!(effects.last(), Some(Effect::AskTurn(_))), "{effects:?}");
    let (_, effects) = step(state.clone(), Event::TurnGranted, at(1));
    assert!(matches!(effects.last(), Some(Effect::Checkpoint(_))), "{effects:?}");

    let (state, effects) = step(state, refused("dev-2 of this site changes now"), at(1));
    assert_eq!(obstacles(&state), [Obstacle::Budget("dev-2 of this site changes now".into())]);
    assert!(effects.contains(&Effect::Tell), "{effects:?}");
    let Some(Effect::Wait(until)) = effects.last() else { panic!("{effects:?}") };
    assert!(*until <= at(1 + 34), "it asks again as soon as the server says: {until}");

    // Waiting costs no write of the ledger and no report while nothing changes.
    let (state, effects) = feed(state, [Event::Due, Event::Unchanged], at(31));
    assert_eq!(effects.len(), 1, "{effects:?}");
    assert!(matches!(effects.last(), Some(Effect::AskTurn(_))), "{effects:?}");
    let (state, effects) = step(state, refused("dev-2 of this site changes now"), at(32));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "{effects:?}");

    // With a turn in hand what waited is looked at anew.
    let (state, effects) = feed(state, [Event::Due, Event::Unchanged, Event::TurnGranted], at(62));
    assert!(matches!(effects.last(), Some(Effect::Verify(_))), "{effects:?}");
    let (_, effects) = feed(state.clone(), [limited(), Event::TurnGranted], at(63));
    assert!(matches!(effects.last(), Some(Effect::Checkpoint(_))), "{effects:?}");
    // If something else stands in the way by then, others get the turn.
    let frozen = with(Policy { per_site_at_most: Some(1), stop: Some("fire".into()), ..Policy::default() });
    let (_, effects) = step(state, frozen, at(63));
    assert!(effects.contains(&Effect::GiveTurnBack), "{effects:?}");
}

#[test]
fn a_device_that_is_told_asks_for_its_turn_when_the_offer_changes() {
    let in_waves = || with(Policy { waves: vec![3000, 10_000], ..Policy::default() });
    let wave = |after| Event::TurnRefused { reason: "wave 1 is open".into(), again_after: after, told: true };
    let begin_at = |now| feed(fresh(), [offer(1, ""), Event::Fetched, in_waves(), wave(600)], now).0;
    let begin = || begin_at(at(0));
    let (state, effects) = feed(begin(), [Event::Due, Event::Unchanged], at(60));
    assert!(
        matches!(effects[..], [Effect::Wait(until)] if until < at(130)),
        "it goes on asking for news: {effects:?}"
    );
    assert_eq!(obstacles(&state), [Obstacle::Budget("wave 1 is open".into())]);
    let (state, effects) = feed(state, [Event::Due, offer(1, "")], at(120));
    assert!(matches!(effects.last(), Some(Effect::AskTurn(_))), "the server has another answer: {effects:?}");
    let (_, effects) = feed(state, [Event::TurnGranted], at(120));
    assert!(matches!(effects.last(), Some(Effect::Verify(_))), "{effects:?}");

    let (_, effects) = feed(begin(), [Event::Due, Event::Unchanged], at(760));
    assert!(
        matches!(effects.last(), Some(Effect::AskTurn(_))),
        "the server may have forgotten it: {effects:?}"
    );
    let (_, effects) = feed(begin_at(at(86_400)), [Event::Due, Event::Unchanged], at(0));
    assert!(matches!(effects.last(), Some(Effect::AskTurn(_))), "a clock that went back: {effects:?}");
    let (_, effects) = feed(begin(), [NUDGE, Event::Unchanged], at(60));
    assert!(matches!(effects.last(), Some(Effect::AskTurn(_))), "a person asks: {effects:?}");

    // A hold is told at once, and what was told before it counts no more after it.
    let hold = Event::Held(Hold { since: at(60), until: None, reason: "mine".into() });
    let (state, effects) = feed(begin(), [hold, Event::Unchanged], at(60));
    assert_eq!(obstacles(&state), [Obstacle::Held("mine".into())]);
    assert!(effects.contains(&Effect::Tell), "{effects:?}");
    let (_, effects) = feed(state, [Event::Released, Event::Unchanged], at(61));
    assert!(matches!(effects.last(), Some(Effect::AskTurn(_))), "{effects:?}");
}

#[test]
fn a_turn_is_not_taken_while_something_else_stands_in_the_way() {
    let policy = Policy { per_site_at_most: Some(1), ..nights() };
    let (state, effects) = feed(fresh(), [offer(1, ""), Event::Fetched, with(policy)], at(0));
    assert!(matches!(obstacles(&state)[..], [Obstacle::Window { .. }]));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::AskTurn(_))), "{effects:?}");
}

#[test]
fn a_crash_while_the_turn_is_asked_for_begins_anew() {
    let (state, _) = feed(fresh(), [offer(1, ""), Event::Fetched, limited()], at(0));
    let (_, effects) = step(state, START, at(1));
    assert!(matches!(effects.last(), Some(Effect::Ask)), "{effects:?}");
}

#[test]
fn a_fleet_spreads_and_a_stream_of_commits_does_not_starve_it() {
    let policy = || Policy { splay: Duration::from_secs(7200), ..Policy::default() };
    let mut begun = Vec::new();
    for seed in 0..200 {
        let mut state = State::new("development".parse().unwrap(), seed * 7919);
        for minute in 0..=120 {
            // A new commit every ten minutes.
            let events = [offer(1 + minute / 10, ""), Event::Fetched, with(policy())];
            let mut applies = false;
            for event in events {
                let (next, effects) = step(state, event, at(minute * 60));
                state = next;
                applies |= matches!(effects.last(), Some(Effect::Checkpoint(_)));
            }
            if applies {
                begun.push(minute);
                break;
            }
        }
    }
    assert_eq!(begun.len(), 200, "each had its turn within the splay");
    let early = begun.iter().filter(|minute| **minute < 10).count();
    assert!(early < 60, "{early} of 200 began in the first tenth");
}

#[test]
fn whoever_is_too_old_waits_for_the_turn_on_its_way_and_says_where_it_goes() {
    let wave = || Event::TurnRefused { reason: "wave 1 is open".into(), again_after: 3600, told: true };
    let too_old = Event::TooOld { before: target(1, "").commit };
    let (state, effects) = feed(fresh(), [offer(2, ""), Event::Fetched, too_old], at(0));
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(1, ""))));
    let (state, effects) = feed(state, [Event::Fetched, limited()], at(1));
    let asked = |effects: &[Effect]| match effects.last() {
        Some(Effect::AskTurn(work)) => work.target.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(asked(&effects), target(1, ""));
    assert_eq!(state.towards(&target(1, "")), Some(&target(2, "").commit));
    let (state, _) = step(state, wave(), at(2));
    assert_eq!(obstacles(&state), [Obstacle::Budget("wave 1 is open".into())]);
    // Nothing new: it asks for no turn, nor for the files again.
    let (state, effects) = feed(state, [Event::Due, Event::Unchanged], at(62));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "{effects:?}");
    // Its wave is open, so the same offer has another tag.
    let (state, effects) = feed(state, [Event::Due, offer(2, "")], at(122));
    assert_eq!(asked(&effects), target(1, ""));
    assert_eq!(state.towards(&target(1, "")), Some(&target(2, "").commit));
    let (_, effects) = feed(state.clone(), [Event::TurnGranted, limited(), Event::TurnGranted], at(123));
    assert!(
        matches!(effects.last(), Some(Effect::Checkpoint(work)) if work.target == target(1, "")),
        "{effects:?}"
    );
    // Something newer came meanwhile: that is looked at, and this is no way to it.
    let (state, effects) = feed(
        state,
        [Event::TurnRefused { reason: "x".into(), again_after: 30, told: false }, offer(3, "")],
        at(124),
    );
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(3, ""))));
    assert_eq!(state.towards(&target(1, "")), None);
    assert_eq!(state.towards(&target(3, "")), None);
}
