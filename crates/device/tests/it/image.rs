//! A convergence that goes through another slot: it goes on there, or the device is back.

use volary_device::{
    Effect, Event, Image, Outcome, Passed, Phase, Rest, Running, State, Step, decode, encode, step,
};
use volary_model::{Digest, Slot};

use crate::common::{START, at, checkpointed, failure, feed, fresh, gains, offer, passed, target, undone};

fn with_image() -> Event {
    let digest = Digest::from_bytes([7; 32]);
    let image = Image {
        name: "2026-11-22.1".parse().unwrap(),
        artifact: digest,
        size: 1 << 28,
        rootfs: digest,
        manifest: None,
        from: None,
        into: Slot::B,
    };
    Event::Verified(Box::new(Passed { image: Some(Box::new(image)), ..passed() }))
}

fn started_in(slot: Slot, other_is_next: bool) -> Event {
    Event::Started { undone: None, running: Some(Running { slot, other_is_next }) }
}

/// A device in each phase, with what its ledger keeps.
fn in_phase(phase: &str) -> State {
    let mut events = vec![offer(1, ""), Event::Fetched, with_image()];
    let more = [
        ("install", vec![]),
        ("checkpoint", vec![Event::Installed]),
        ("switch", vec![checkpointed()]),
        ("reboot", vec![Event::Done(gains())]),
        ("playbook", vec![started_in(Slot::B, false)]),
        ("packages", vec![Event::Done(gains())]),
        ("confirm", vec![Event::Done(gains())]),
        ("commit", vec![Event::Confirmed]),
    ];
    for (name, next) in more {
        events.extend(next);
        if name == phase {
            let state = feed(fresh(), events, at(0)).0;
            return decode([Some(&encode(&state, 1)), None]).unwrap().state;
        }
    }
    panic!("no phase {phase}")
}

fn last(state: State, events: impl IntoIterator<Item = Event>) -> String {
    let (_, effects) = feed(state, events, at(1));
    match effects.last().unwrap() {
        Effect::Apply(_, step) => format!("apply {step}"),
        Effect::Undo(_, failure) => format!("undo {}: {}", failure.step, failure.message),
        other => format!("{other:?}").split('(').next().unwrap().to_lowercase(),
    }
}

#[test]
fn an_image_is_installed_before_the_checkpoint_and_booted_after_it() {
    let steps = [
        ("install", Event::Installed, "checkpoint"),
        ("checkpoint", checkpointed(), "apply image"),
        ("switch", Event::Done(gains()), "reboot"),
        ("reboot", Event::Rebooting, "wait"),
        ("playbook", Event::Done(gains()), "apply packages"),
        ("packages", Event::Done(gains()), "confirm"),
        ("confirm", Event::Confirmed, "disarm"),
        ("commit", Event::Disarmed, "report"),
    ];
    for (phase, event, expected) in steps {
        assert_eq!(last(in_phase(phase), [event]), expected, "{phase}");
    }
    let (state, _) = feed(in_phase("commit"), [Event::Disarmed, Event::Stored], at(1));
    assert_eq!(state.good, Some(target(1, "")));
}

#[test]
fn a_start_goes_on_in_the_slot_that_it_should_be_in() {
    for (phase, slot, next, expected) in [
        ("install", Slot::A, false, "ask"),
        ("checkpoint", Slot::A, false, "disarm"),
        // Cut off before the boot state was written, after it, and after the boot.
        ("switch", Slot::A, false, "apply image"),
        ("switch", Slot::A, true, "apply image"),
        ("switch", Slot::B, false, "apply playbook"),
        // The agent started again before the device was down.
        ("reboot", Slot::A, true, "reboot"),
        ("reboot", Slot::B, false, "apply playbook"),
        ("playbook", Slot::B, false, "apply playbook"),
        ("confirm", Slot::B, false, "confirm"),
        ("commit", Slot::B, false, "disarm"),
    ] {
        assert_eq!(last(in_phase(phase), [started_in(slot, next)]), expected, "{phase} in {slot}");
    }
}

#[test]
fn a_device_that_is_back_in_the_old_slot_undoes_and_says_why() {
    for (phase, expected) in [
        ("reboot", "undo image: the new system did not come up: the boot loader went back to the one before"),
        (
            "playbook",
            "undo image: the new system was not confirmed: the boot loader went back to the one before",
        ),
        (
            "packages",
            "undo image: the new system was not confirmed: the boot loader went back to the one before",
        ),
        (
            "confirm",
            "undo image: the new system was not confirmed: the boot loader went back to the one before",
        ),
        (
            "commit",
            "undo image: the new system was not confirmed: the boot loader went back to the one before",
        ),
    ] {
        assert_eq!(last(in_phase(phase), [started_in(Slot::A, false)]), expected, "{phase}");
        // Slots that cannot be understood any more are no reason to stay.
        assert_eq!(last(in_phase(phase), [START]), expected, "{phase}");
    }
}

#[test]
fn an_image_that_does_not_come_up_twice_is_quarantined() {
    let mut state = fresh();
    for times in 1..=2 {
        let events = [offer(1, ""), Event::Fetched, with_image(), Event::Installed, checkpointed()];
        (state, _) = feed(state, events, at(times * 100_000));
        let events = [
            Event::Done(gains()),
            started_in(Slot::A, false),
            Event::Undone(undone(1, "", volary_device::Cause::Failed, Some(true))),
        ];
        (state, _) = feed(state, events, at(times * 100_000));
        let Phase::Report { outcome, failure: Some(failure), .. } = &state.phase else { panic!("{state:?}") };
        assert_eq!(
            (*outcome, failure.step, failure.what.as_str()),
            (Outcome::Reverted, Step::Image, "2026-11-22.1")
        );
        (state, _) = step(state, Event::Stored, at(times * 100_000));
        assert_eq!(matches!(state.phase, Phase::Idle(Rest::Quarantined(_))), times == 2, "{:?}", state.phase);
    }
}

#[test]
fn an_undo_boots_the_old_slot_first() {
    let (state, effects) = step(in_phase("confirm"), Event::Failed(failure(Step::Check)), at(1));
    assert!(matches!(effects.last(), Some(Effect::Undo(..))));
    let (state, effects) = step(state, Event::Rebooting, at(1));
    assert!(matches!(effects.last(), Some(Effect::Wait(_))));
    assert_eq!(last(state, [started_in(Slot::A, false)]), "undo check: broke");
}

#[test]
fn a_line_that_breaks_is_waited_for_and_a_bad_artifact_is_refused() {
    let (state, _) = step(in_phase("install"), Event::Unreachable("away".into()), at(1));
    assert!(matches!(state.phase, Phase::Idle(Rest::Failed(_))));
    let refused = Event::Refused(failure(Step::Image));
    let (state, _) = feed(in_phase("install"), [refused, Event::Stored], at(1));
    assert!(matches!(state.phase, Phase::Idle(Rest::Refused(_))));
}

#[test]
fn what_was_confirmed_in_a_slot_can_be_undone_until_the_slot_before_is_written() {
    let (state, _) = feed(in_phase("commit"), [Event::Disarmed, Event::Stored], at(1));
    assert_eq!(last(state.clone(), [Event::RevertAsked]), "undo revert: a person asked for it");
    let (state, _) = feed(state, [offer(2, ""), Event::Fetched, with_image()], at(2));
    assert!(state.last.is_none());
}
