//! Things that happen to a device or do not, such as a convergence that fails.

use std::time::Duration;

use jiff::Timestamp;
use volary_plan::compare::{Outcome, Policy, compare};
use volary_plan::gate::Say;

use super::{Row, Table, count};
use crate::dice::Dice;

const METHODS: [&str; 3] =
    ["**Volary**: Fisher, 4 looks", "any failure among the changed", "share above the others' by 5 %"];

fn methods(dice: &mut Dice, sizes: (usize, usize), rates: (f64, f64)) -> Vec<bool> {
    let day = 86_400.0;
    let mut group = |size: usize, rate: f64| -> Vec<Option<Duration>> {
        (0..size).map(|_| (dice.unit() < rate).then(|| Duration::from_secs_f64(day * dice.unit()))).collect()
    };
    let (changed, unchanged) = (group(sizes.0, rates.0), group(sizes.1, rates.1));
    let share = |group: &[Option<Duration>]| group.iter().flatten().count() as f64 / group.len() as f64;
    let (ours, theirs) = (share(&changed), share(&unchanged));
    let outcome = Outcome { name: "failed".to_owned(), changed, unchanged };
    let start = Timestamp::UNIX_EPOCH;
    let end = Timestamp::from_second(86_400).expect("a day after 1970");
    let found = compare(&Policy::default(), &[], &[outcome], start, end);
    vec![found.say == Say::Stop, ours > 0.0, ours > theirs + 0.05]
}

pub(super) fn table(runs: u64, seed: u64) -> Table {
    let sizes = [(5, 50), (10, 1_000), (30, 1_000), (100, 10_000)];
    let rates = [(0.01, 0.01), (0.05, 0.05), (0.1, 0.01), (0.3, 0.01)];
    let cases = sizes.into_iter().flat_map(|sizes| rates.map(|rates| (sizes, rates)));
    let row = |(sizes, rates): ((usize, usize), (f64, f64))| Row {
        case: format!(
            "{} of {}, rate {:.0} % to {:.0} %",
            sizes.0,
            sizes.0 + sizes.1,
            100.0 * rates.1,
            100.0 * rates.0
        ),
        alarm_is_right: rates.0 > rates.1,
        runs,
        alarms: count(runs, seed, METHODS.len(), &|dice| methods(dice, sizes, rates)),
    };
    Table {
        title: "Failures".to_owned(),
        explained: "Each device fails with some rate within a day. The alarm is that the changed ones fail more often."
            .to_owned(),
        methods: METHODS.to_vec(),
        rows: cases.map(row).collect(),
    }
}
