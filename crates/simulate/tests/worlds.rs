//! A sample of the campaign, and the worlds in which it found something.

use volary_simulate::{Campaign, Run, campaign, run};

fn trace(seed: u64) -> Vec<String> {
    run(Run { seed, devices: 2, trace: true }).1
}

#[test]
fn in_two_thousand_worlds_every_rule_holds() {
    let tally = campaign(Campaign { runs: 2000, devices: 1, seed: 1, limit: None }, &|_| {});
    assert_eq!(tally.violations, []);
    let summary = tally.summary;
    assert_eq!((summary.runs, tally.broken), (2000, 0));
    // What never happened was not tested.
    for (what, count, at_least) in [
        ("confirmed", summary.confirmed, 3000),
        ("undone by the agent", summary.undone_by_agent, 1000),
        ("undone by the timer", summary.undone_by_timer, 500),
        ("undone by people", summary.undone_by_person, 50),
        ("weeks offline", summary.weeks_offline, 20),
        ("effects", summary.effects, 1_000_000),
    ] {
        assert!(count >= at_least, "only {count} × {what}");
    }
}

#[test]
fn devices_that_need_a_turn_arrive_too() {
    let tally = campaign(Campaign { runs: 400, devices: 1, seed: 5000, limit: None }, &|_| {});
    assert_eq!(tally.violations, []);
    assert!(tally.summary.confirmed >= 400, "{:?}", tally.summary.confirmed);
    let waits = (5000..5040).step_by(2).flat_map(trace).filter(|line| line.contains("TurnRefused")).count();
    assert!(waits > 0, "somebody had to wait");
}

#[test]
fn a_seed_is_a_world() {
    assert_eq!(trace(7), trace(7));
    assert_ne!(trace(7), trace(8));
    assert!(trace(7).iter().any(|line| line.contains("the agent starts")));
}

#[test]
fn devices_share_a_world() {
    let (ended, _) = run(Run { seed: 11, devices: 40, trace: false });
    let summary = ended.unwrap();
    assert_eq!((summary.runs, summary.devices), (1, 40));
}

/// Each of these broke a rule once. What was wrong stands beside it.
#[test]
fn what_was_found_stays_mended() {
    for (seed, what) in [
        (64, "the confirmation set the deadline anew although the path was gone since the playbook"),
        (127, "the same, after a boot"),
        (173, "the same"),
        (111, "a report that was cut off was told twice"),
        (350, "a hold that was said while the clock was days ahead lasted for days"),
        (2893, "the same"),
        (1109, "a person's revert was not heard of by a device that had begun with the next commit"),
        (1955, "the same"),
    ] {
        if let Err(violation) = run(Run { seed, devices: 1, trace: false }).0 {
            panic!("{what}: {violation}");
        }
    }
}
