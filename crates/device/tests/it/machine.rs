//! The machine by the thousand: random worlds with crashes at every effect, and the rules that
//! must hold in each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::common::{
    Dice, NUDGE, START, all_good, applied, at, checkpointed, commit, failure, feed, fresh, gains, offer,
    passed, target, undone, verified,
};
use volary_device::{
    Cause, Effect, Event, Outcome, Passed, Phase, Policy, Rest, Step, Undone, Work, decode, encode, step,
};

#[test]
fn a_new_commit_is_converged_to_in_order() {
    let mut state = fresh();
    let mut seen = Vec::new();
    for event in all_good(1, "a") {
        let (next, effects) = step(state, event, at(0));
        assert_eq!(effects[0], Effect::Record, "every move is recorded first");
        seen.push(effects.last().unwrap().clone());
        state = next;
    }
    let steps: Vec<_> = seen
        .iter()
        .filter_map(|effect| if let Effect::Apply(_, step) = effect { Some(*step) } else { None })
        .collect();
    assert_eq!(steps, [Step::Playbook, Step::Packages]);
    assert!(matches!(
        seen[..],
        [
            Effect::Fetch(_),
            Effect::Verify(_),
            Effect::Checkpoint(_),
            Effect::Apply(..),
            Effect::Apply(..),
            Effect::Confirm(_),
            Effect::Disarm(_),
            Effect::Report,
            Effect::Wait(_)
        ]
    ));
    assert_eq!(state.good, Some(target(1, "a")));
    assert_eq!(state.accepted.values().collect::<Vec<_>>(), [&commit(1)]);
    let (_, effects) = step(state, Event::Unchanged, at(60));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "nothing is written while idle: {effects:?}");
}

#[test]
fn a_change_of_rolling_alone_leads_to_the_packages_only() {
    let (state, _) = feed(fresh(), all_good(1, "a"), at(0));
    let (state, effects) = feed(state, [offer(1, "b"), verified(), checkpointed()], at(60));
    assert!(matches!(effects.last(), Some(Effect::Apply(_, Step::Packages))), "{effects:?}");
    let rest = [Event::Done(gains()), Event::Confirmed, Event::Disarmed, Event::Stored];
    let (state, _) = feed(state, rest, at(61));
    assert_eq!(state.good, Some(target(1, "b")));
    assert_eq!(state.good_since, Some(at(0)), "the commit is the same since then");
}

#[test]
fn a_failed_commit_is_retried_with_growing_waits() {
    let mut state = fresh();
    let mut now = at(0);
    let mut waits = Vec::new();
    for attempt in 1..=8 {
        let failed = Event::Failed(failure(Step::Verify));
        let events = [offer(1, ""), Event::Fetched, failed];
        let (next, effects) = feed(state, events, now);
        assert_eq!(effects.last(), Some(&Effect::Report));
        let (next, _) = step(next, Event::Stored, now);
        let trouble = next.trouble().unwrap().clone();
        assert_eq!(u64::from(trouble.attempts), attempt);
        waits.push(trouble.retry_at.duration_since(now).as_secs());
        // Before its time, the same offer changes nothing.
        let (next, effects) = step(next, Event::Unchanged, now);
        assert!(matches!(effects[..], [Effect::Wait(_)]), "{effects:?}");
        now = trouble.retry_at;
        state = next;
    }
    assert!(waits.windows(2).all(|pair| pair[1] > pair[0] || pair[1] > 3000), "{waits:?}");
    assert!(waits[0] >= 54 && *waits.last().unwrap() <= 3960, "{waits:?}");
}

#[test]
fn another_offer_or_a_person_ends_the_wait() {
    let failing = [offer(1, ""), Event::Failed(failure(Step::Fetch)), Event::Stored];
    let (state, _) = feed(fresh(), failing, at(0));
    let (_, effects) = step(state.clone(), offer(2, ""), at(1));
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(2, ""))));
    let (_, effects) = feed(state, [NUDGE, Event::Unchanged], at(1));
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(1, ""))));
    let (state, _) = feed(fresh(), all_good(1, "a"), at(0));
    let (_, effects) = feed(state, [NUDGE, Event::Unchanged], at(1));
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(1, "a"))), "also if all is well");
}

#[test]
fn units_that_had_failed_before_a_bad_commit_stay_the_measure() {
    let broken =
        |unit: &str| Box::new(Passed { failed_units: BTreeSet::from([unit.to_owned()]), ..passed() });
    let failed = Event::Failed(failure(Step::Units));
    let undone = Event::Undone(undone(1, "", Cause::Failed, Some(true)));
    let (state, _) = feed(fresh(), applied(1, ""), at(0));
    let (state, _) = feed(state, [failed, undone, Event::Stored], at(1));
    let (state, _) = feed(state, [offer(2, ""), Event::Fetched, Event::Verified(broken("new"))], at(2));
    assert_eq!(state.failed_before, Some(BTreeSet::new()), "what the bad commit broke still counts");
}

#[test]
fn the_variables_move_a_device_and_the_server_does_not() {
    let moved = Passed { stage: Some("canary".parse().unwrap()), ..passed() };
    let (state, effects) =
        feed(fresh(), [offer(1, ""), Event::Fetched, Event::Verified(Box::new(moved))], at(0));
    assert_eq!(state.stage.as_str(), "canary");
    assert!(matches!(effects[..], [Effect::Record, Effect::Tell, Effect::Wait(_)]), "{effects:?}");
    // The server still offers the old stage: patience twice, then a refusal, then back-off.
    let mut state = state;
    for _ in 0..2 {
        let (next, effects) = step(state, offer(2, ""), at(60));
        assert!(matches!(effects[..], [Effect::Tell, Effect::Wait(_)]), "{effects:?}");
        state = next;
    }
    let (state, effects) = step(state, offer(2, ""), at(120));
    assert_eq!(effects.last(), Some(&Effect::Report));
    assert!(matches!(&state.phase, Phase::Report { outcome: Outcome::Refused, .. }));
    let (state, _) = step(state, Event::Stored, at(120));
    let (_, effects) = step(state, offer(2, ""), at(130));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "{effects:?}");
}

#[test]
fn a_commit_that_kills_the_agent_before_it_changes_anything_ends_as_a_failure() {
    let mut state = fresh();
    for crash in 1..=3 {
        let (next, effects) = feed(state, [offer(1, ""), Event::Fetched], at(crash));
        assert!(matches!(effects.last(), Some(Effect::Verify(_))));
        let (next, effects) = step(next, START, at(crash));
        let expected = if crash == 3 { Effect::Report } else { Effect::Ask };
        assert_eq!(effects.last(), Some(&expected), "after crash {crash}");
        state = next;
    }
    let (state, _) = step(state, Event::Stored, at(9));
    assert_eq!(state.trouble().unwrap().failure.step, Step::Verify);
}

#[test]
fn an_archive_that_stays_away_is_reported_in_the_end() {
    let mut state = fresh();
    let mut now = at(0);
    for round in 1..=3 {
        let (next, effects) = feed(state, [offer(1, ""), Event::Unreachable("no route to host".into())], now);
        let reported = effects.last() == Some(&Effect::Report);
        assert_eq!(reported, round == 3, "round {round}: {effects:?}");
        now = next.trouble().map_or(now, |trouble| trouble.retry_at);
        state = next;
    }
}

#[test]
fn a_silent_server_is_asked_less_and_less_but_always_again() {
    let mut state = fresh();
    let mut longest = Duration::ZERO;
    for _ in 0..50 {
        let (next, effects) = step(state, Event::Unreachable("timed out".into()), at(0));
        let [Effect::Wait(until)] = effects[..] else { panic!("{effects:?}") };
        let wait = Duration::try_from(until.duration_since(at(0))).unwrap();
        assert!(wait >= Duration::from_secs(50) && wait <= Duration::from_secs(660), "{wait:?}");
        longest = longest.max(wait);
        state = next;
    }
    assert!(longest > Duration::from_secs(500), "{longest:?}");
}

fn undone_of(work: &Work) -> Box<Undone> {
    let target = work.target.clone();
    Box::new(Undone { target, ..*undone(0, "", Cause::Failed, Some(true)) })
}

/// What the random world does with an effect; `None` for those that are not answered.
fn answer(effect: &Effect, dice: &mut Dice, tip: u64, reports: &mut u64) -> Option<Event> {
    let unlucky = dice.roll(5) == 0;
    let away = || Event::Unreachable("away".into());
    Some(match effect {
        Effect::Record | Effect::Tell | Effect::GiveTurnBack | Effect::Wait(_) => return None,
        Effect::Ask if unlucky => away(),
        Effect::Ask if dice.roll(4) == 0 => Event::Unchanged,
        Effect::Ask => offer(tip, if dice.roll(3) == 0 { "b" } else { "a" }),
        Effect::Fetch(_) if unlucky => away(),
        Effect::Fetch(_) => Event::Fetched,
        Effect::Verify(_) if unlucky && dice.roll(2) == 0 => away(),
        Effect::Verify(_) if unlucky => Event::Refused(failure(Step::Verify)),
        Effect::Verify(_) if dice.roll(2) == 0 => {
            let policy = Policy { per_site_at_most: Some(1), ..Policy::default() };
            Event::Verified(Box::new(Passed { policy, ..passed() }))
        }
        Effect::Verify(_) => verified(),
        Effect::AskTurn(_) if unlucky => {
            Event::TurnRefused { reason: "others".into(), again_after: 30, told: false }
        }
        Effect::AskTurn(_) => Event::TurnGranted,
        Effect::Install(_) if unlucky => away(),
        Effect::Install(_) => Event::Installed,
        Effect::Reboot(_) => Event::Rebooting,
        Effect::Checkpoint(_) if unlucky => Event::Failed(failure(Step::Checkpoint)),
        Effect::Checkpoint(_) => checkpointed(),
        Effect::Apply(_, step) if unlucky => Event::Failed(failure(*step)),
        Effect::Apply(..) => Event::Done(gains()),
        Effect::Confirm(_) if unlucky => Event::Failed(failure(Step::Check)),
        Effect::Confirm(_) => Event::Confirmed,
        Effect::Disarm(_) if unlucky => Event::Failed(failure(Step::Confirm)),
        Effect::Disarm(_) => Event::Disarmed,
        Effect::Undo(..) if unlucky => Event::Rebooting,
        Effect::Undo(work, _) => Event::Undone(undone_of(work)),
        Effect::Drift(_) => Event::Drifted { changes: vec!["one".into()] },
        Effect::Report => {
            *reports += 1;
            Event::Stored
        }
    })
}

/// Runs one world for `turns` wake-ups, checks the rules on the way, and then lets the world be
/// kind: the device must arrive.
fn world(seed: u64, turns: u32) {
    let mut dice = Dice(seed | 1);
    let mut state = fresh();
    let mut ledger = encode(&state, 1);
    let (mut now, mut tip, mut reports) = (at(0), 1, 0);
    let mut event = START;
    let mut begun = BTreeMap::new();
    for turn in 0.. {
        assert!(turn < turns * 50, "seed {seed}: it never comes to rest");
        let kind = turn > turns;
        if turn == turns + 1 {
            // The newest may be in quarantine for good reasons; the next one is not.
            tip += 1;
        }
        if kind && state.is_idle() && state.good.as_ref().is_some_and(|good| good.commit == commit(tip)) {
            return;
        }
        let (next, effects) = step(state, event, now);
        state = next;
        let mut reply = None;
        for effect in &effects {
            // The power may go before any effect; what was recorded is what is left.
            if !kind && dice.roll(40) == 0 {
                state = decode([Some(&ledger), None]).unwrap().state;
                reply = Some(START);
                break;
            }
            match effect {
                Effect::Record => ledger = encode(&state, 1),
                Effect::Wait(until) => {
                    assert!(*until > now, "seed {seed}: a wait that is over is a tight loop");
                    now = *until;
                    reply = Some(Event::Due);
                }
                Effect::Fetch(target) => {
                    let tries = begun.entry((target.commit.to_string(), now)).or_insert(0);
                    *tries += 1;
                    assert!(*tries <= 12, "seed {seed}: the same commit again and again at one time");
                }
                _ => {}
            }
            let answered = if kind {
                answer_kindly(effect, tip, &mut reports)
            } else {
                answer(effect, &mut dice, tip, &mut reports)
            };
            reply = answered.or(reply);
        }
        event = reply.unwrap_or_else(|| panic!("seed {seed}: {effects:?} leads nowhere"));
        if !kind && dice.roll(20) == 0 {
            tip += 1;
        }
        if !kind && state.is_idle() && dice.roll(30) == 0 {
            event = NUDGE;
        }
    }
}

fn answer_kindly(effect: &Effect, tip: u64, reports: &mut u64) -> Option<Event> {
    Some(match effect {
        Effect::Record | Effect::Tell | Effect::GiveTurnBack | Effect::Wait(_) => return None,
        Effect::Ask => offer(tip, "a"),
        Effect::Fetch(_) => Event::Fetched,
        Effect::Verify(_) => verified(),
        Effect::AskTurn(_) => Event::TurnGranted,
        Effect::Install(_) => Event::Installed,
        Effect::Reboot(_) => Event::Rebooting,
        Effect::Checkpoint(_) => checkpointed(),
        Effect::Apply(..) => Event::Done(gains()),
        Effect::Confirm(_) => Event::Confirmed,
        Effect::Disarm(_) => Event::Disarmed,
        Effect::Undo(work, _) => Event::Undone(undone_of(work)),
        Effect::Drift(_) => Event::Drifted { changes: vec![] },
        Effect::Report => {
            *reports += 1;
            Event::Stored
        }
    })
}

#[test]
fn in_every_world_the_device_arrives() {
    for seed in 1..=400 {
        world(seed * 7919, 120);
    }
}

#[test]
fn a_commit_for_newer_agents_is_reached_by_way_of_the_one_before_it() {
    let too_old = || Event::TooOld { before: commit(2) };
    let (state, _) = feed(fresh(), all_good(1, ""), at(0));
    let (state, effects) = feed(state, [offer(3, ""), Event::Fetched, too_old()], at(1));
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(2, ""))));
    assert_eq!(
        state.accepted.values().collect::<Vec<_>>(),
        [&commit(1)],
        "neither counts as accepted by that"
    );
    // What it does there fails, and is waited for, whatever the server says meanwhile.
    let (state, _) =
        feed(state, [Event::Fetched, Event::Failed(failure(Step::Verify)), Event::Stored], at(2));
    let (state, effects) = feed(state, [offer(3, "")], at(3));
    assert!(matches!(effects[..], [Effect::Wait(_)]), "{effects:?}");
    let (state, effects) = feed(state, [offer(3, "")], at(100_000));
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(2, ""))));
    let rest = applied(2, "").into_iter().skip(1).chain([Event::Confirmed, Event::Disarmed, Event::Stored]);
    let (state, _) = feed(state, rest, at(100_001));
    assert_eq!(state.good, Some(target(2, "")));
    // Now it is looked at again, and there is nowhere else to go.
    let (state, effects) = feed(state, [Event::Unchanged], at(100_002));
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(3, ""))));
    let (state, _) =
        feed(state, [Event::Fetched, Event::Failed(failure(Step::Verify)), Event::Stored], at(100_003));
    assert!(state.trouble().is_some_and(|trouble| trouble.target == target(3, "")));
    // Another offer is not met with the way to this one.
    let (state, _) =
        feed(state, [offer(4, ""), Event::Fetched, Event::TooOld { before: commit(3) }], at(200_000));
    let (_, effects) =
        feed(state, [Event::Failed(failure(Step::Fetch)), Event::Stored, offer(5, "")], at(200_001));
    assert_eq!(effects.last(), Some(&Effect::Fetch(target(5, ""))));
}

#[test]
fn a_way_that_is_in_quarantine_is_not_taken() {
    let (state, _) = feed(fresh(), all_good(1, ""), at(0));
    let (state, _) = feed(state, applied(2, ""), at(1));
    let undo = [Event::Failed(failure(Step::Units)), Event::Undone(undone(2, "", Cause::Failed, Some(true)))];
    let (state, _) = feed(state, undo.into_iter().chain([Event::Stored]), at(2));
    assert!(state.quarantine(&target(2, "")).is_some());
    let (state, effects) =
        feed(state, [offer(3, ""), Event::Fetched, Event::TooOld { before: commit(2) }], at(3));
    assert!(matches!(effects.last(), Some(Effect::Wait(_))), "{effects:?}");
    assert_eq!(state.phase, Phase::Idle(Rest::Quarantined(target(2, ""))));
}
