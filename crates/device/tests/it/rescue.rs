//! The dead man's rule.

use volary_device::{Armed, Cause, Mode, Observed, Rescue, rescue};

use crate::common::target;

fn armed(mode: Mode) -> Armed {
    Armed {
        version: 1,
        checkpoint: "c1".into(),
        target: target(1, ""),
        mode,
        grace: 360,
        deadline: 1360,
        latest: 4960,
        boot: "one".into(),
        boots: 0,
        path_worked: true,
    }
}

fn seen(clock: u64) -> Observed {
    Observed { clock, boot: "one".into(), agent_alive: true, path_works: true, undoing: false }
}

#[track_caller]
fn check(armed: &Armed, seen: &Observed, expected: &Rescue) {
    assert_eq!(rescue(Some(armed), seen), *expected);
}

#[test]
fn nothing_is_done_where_nothing_is_armed() {
    assert_eq!(rescue(None, &seen(9999)), Rescue::Nothing);
    assert_eq!(rescue(None, &Observed { undoing: true, ..seen(0) }), Rescue::Finish);
}

#[test]
fn while_it_applies_the_path_and_the_agent_move_the_deadline() {
    let applying = armed(Mode::Applying);
    check(&applying, &seen(1020), &Rescue::Nothing);
    check(&applying, &seen(1200), &Rescue::Extend(Armed { deadline: 1560, ..applying.clone() }));
    // But not for ever.
    check(&applying, &seen(4900), &Rescue::Extend(Armed { deadline: 4960, ..applying.clone() }));
    check(&applying, &seen(4960), &Rescue::Undo(Cause::Unconfirmed));
    let lost = |clock| Observed { path_works: false, ..seen(clock) };
    check(&applying, &lost(1359), &Rescue::Nothing);
    check(&applying, &lost(1360), &Rescue::Undo(Cause::PathLost));
    let dead = |clock| Observed { agent_alive: false, ..seen(clock) };
    check(&applying, &dead(1359), &Rescue::Nothing);
    check(&applying, &dead(1360), &Rescue::Undo(Cause::AgentGone));
    let never = Armed { path_worked: false, ..applying };
    check(&never, &lost(1200), &Rescue::Extend(Armed { deadline: 1560, ..never.clone() }));
}

#[test]
fn while_it_is_confirmed_nothing_moves_the_deadline() {
    let confirming = armed(Mode::Confirming);
    check(&confirming, &seen(1359), &Rescue::Nothing);
    check(&confirming, &seen(1360), &Rescue::Undo(Cause::Unconfirmed));
    check(&confirming, &Observed { path_works: false, ..seen(1360) }, &Rescue::Undo(Cause::PathLost));
    check(&confirming, &Observed { agent_alive: false, ..seen(1360) }, &Rescue::Undo(Cause::AgentGone));
}

#[test]
fn the_confirmation_sets_the_deadline_once_and_only_if_the_path_works() {
    let within = std::time::Duration::from_secs(300);
    assert_eq!(Armed::grace_of(within), 360);
    let applying = armed(Mode::Applying);
    let confirming = applying.confirming(within, &seen(1200));
    assert_eq!((confirming.mode, confirming.deadline), (Mode::Confirming, 1560));
    assert_eq!(confirming.left(1200), within);
    assert_eq!(confirming.left(1450).as_secs(), 50, "who comes back in the middle has the rest");
    assert_eq!(confirming.confirming(within, &seen(1300)), confirming, "for the last time");
    let lost = Observed { path_works: false, ..seen(1200) };
    assert_eq!(applying.confirming(within, &lost).deadline, 1360, "a lost path does not move it");
    let never = Armed { path_worked: false, ..applying };
    assert_eq!(never.confirming(within, &lost).deadline, 1560);
    assert_eq!(never.confirming(std::time::Duration::ZERO, &lost).left(1200).as_secs(), 0);
}

#[test]
fn a_boot_gives_the_grace_once_more_but_not_for_ever() {
    for mode in [Mode::Applying, Mode::Confirming] {
        let before = armed(mode);
        let booted = |boot: &str| Observed { boot: boot.into(), agent_alive: false, ..seen(20) };
        let first = Armed { boot: "two".into(), boots: 1, deadline: 380, latest: 3980, ..before.clone() };
        check(&before, &booted("two"), &Rescue::Extend(first.clone()));
        check(&first, &Observed { boot: "two".into(), path_works: false, ..seen(379) }, &Rescue::Nothing);
        let second = Armed { boot: "three".into(), boots: 2, ..first.clone() };
        check(&first, &booted("three"), &Rescue::Extend(second.clone()));
        check(&second, &booted("four"), &Rescue::Undo(Cause::Boots));
    }
}
