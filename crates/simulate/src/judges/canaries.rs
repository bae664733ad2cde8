//! Promotions: some devices of a fleet change, and one metric of four rises on them or does not.

use jiff::Timestamp;
use volary_model::DeviceName;
use volary_plan::compare::{Member, Metric, Policy, Worse, compare};
use volary_plan::gate::Say;
use volary_plan::series::Point;
use volary_plan::stats::{median, normal_quantile, normal_upper, rank_sum_greater};

use super::noise::{autocorrelated, normal};
use super::{Row, Table, count};
use crate::dice::Dice;

/// How many metrics a promotion is judged by.
const METRICS: usize = 4;

const HOURS: usize = 24;

/// A made-up fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fleet {
    changed: usize,
    unchanged: usize,
    /// Samples in an hour; large fleets have one, so that they fit into memory.
    per_hour: usize,
    /// Of so many runs one is made.
    part: u64,
}

impl Fleet {
    const SMALL: Self = Self { changed: 5, unchanged: 50, per_hour: 6, part: 1 };
}

const FLEETS: [Fleet; 6] = [
    Fleet { changed: 3, unchanged: 7, per_hour: 6, part: 1 },
    Fleet::SMALL,
    Fleet { changed: 10, unchanged: 100, per_hour: 6, part: 1 },
    Fleet { changed: 20, unchanged: 980, per_hour: 1, part: 2 },
    Fleet { changed: 100, unchanged: 9_900, per_hour: 1, part: 20 },
    Fleet { changed: 1_000, unchanged: 99_000, per_hour: 1, part: 200 },
];

/// A metric of a device: a day before and a day after.
struct Measured {
    before: Vec<f64>,
    after: Vec<f64>,
}

/// Devices differ by 20 %, follow the day, and share a shift that has nothing to do with the change.
fn metric(dice: &mut Dice, fleet: Fleet, rise: f64) -> (Vec<Measured>, Vec<Measured>) {
    let samples = HOURS * fleet.per_hour;
    let memory = 0.97_f64.powf(6.0 / fleet.per_hour as f64);
    let (whole_day, shared) = (normal(dice, 1.0), normal(dice, 1.5));
    let mut device = |rise: f64| {
        let level = (60.0 + normal(dice, 12.0)).max(20.0);
        let mut day = |level: f64| -> Vec<f64> {
            let noise = autocorrelated(dice, samples, memory, 3.0);
            let hour = |n: usize| std::f64::consts::TAU * n as f64 / samples as f64;
            noise
                .iter()
                .enumerate()
                .map(|(n, noise)| level + whole_day + noise + 2.0 * hour(n).sin())
                .collect()
        };
        let before = day(level);
        Measured { before, after: day(level * (1.0 + rise) + shared) }
    };
    let changed = (0..fleet.changed).map(|_| device(rise)).collect();
    (changed, (0..fleet.unchanged).map(|_| device(0.0)).collect())
}

const METHODS: [&str; 7] = [
    "**Volary**: 4 metrics, 4 looks",
    "samples pooled, Mann-Whitney 5 %",
    "samples pooled, Kayenta's rule",
    "canaries only, before and after, Welch 5 %",
    "one value a device, Mann-Whitney 5 %",
    "one change a device, Mann-Whitney 5 %",
    "the same each hour of the day",
];

/// All metrics of a promotion; the first one rises.
fn metrics(dice: &mut Dice, fleet: Fleet, rise: f64) -> Vec<(Vec<Measured>, Vec<Measured>)> {
    (0..METRICS).map(|n| metric(dice, fleet, if n == 0 { rise } else { 0.0 })).collect()
}

fn methods(dice: &mut Dice, fleet: Fleet, rise: f64) -> Vec<bool> {
    let metrics = metrics(dice, fleet, rise);
    let (changed, unchanged) = &metrics[0];
    let mut alarms = vec![ours(&metrics, fleet)];
    let pool = |group: &[Measured]| group.iter().flat_map(|device| device.after.clone()).collect::<Vec<_>>();
    let (ours, theirs) = (pool(changed), pool(unchanged));
    let greater = |ours: &[f64], theirs: &[f64]| rank_sum_greater(ours, theirs).map_or(1.0, |test| test.p);
    let p = greater(&ours, &theirs);
    alarms.push(p < 0.05);
    alarms.push(kayenta(&ours, &theirs, p));
    let before: Vec<f64> = changed.iter().flat_map(|device| device.before.clone()).collect();
    alarms.push(welch(&ours, &before) < 0.05);
    let middle =
        |group: &[Measured]| group.iter().filter_map(|device| median(&device.after)).collect::<Vec<_>>();
    alarms.push(greater(&middle(changed), &middle(unchanged)) < 0.05);
    let change = |group: &[Measured], hours: usize| {
        let of = |device: &Measured| {
            Some(median(&device.after[..hours * fleet.per_hour])? - median(&device.before)?)
        };
        group.iter().filter_map(of).collect::<Vec<_>>()
    };
    let look = |hours: usize| greater(&change(changed, hours), &change(unchanged, hours)) < 0.05;
    alarms.push(look(HOURS));
    alarms.push((1..=HOURS).any(look));
    alarms
}

/// The comparison of `volary-plan` over the whole promotion.
fn ours(metrics: &[(Vec<Measured>, Vec<Measured>)], fleet: Fleet) -> bool {
    let changed_at = 1_800_000_000;
    let step = 3600 / fleet.per_hour;
    let points = |device: &Measured| -> Vec<Point> {
        let first = changed_at - 86_400;
        let times = (first..).step_by(step).map(|at| Timestamp::from_second(at).expect("after 2027"));
        times
            .zip(device.before.iter().chain(&device.after))
            .map(|(at, value)| Point { at, value: *value })
            .collect()
    };
    let name: DeviceName = "device".parse().expect("a name");
    let changed_at = Timestamp::from_second(changed_at).expect("after 2027");
    let all: Vec<[Vec<Vec<Point>>; 2]> = metrics
        .iter()
        .map(|(changed, unchanged)| {
            [changed.iter().map(points).collect(), unchanged.iter().map(points).collect()]
        })
        .collect();
    let metrics: Vec<Metric<'_>> = all
        .iter()
        .enumerate()
        .map(|(number, [changed, unchanged])| Metric {
            name: format!("metric {number}"),
            worse: Worse::Higher,
            changed: changed.iter().map(|points| Member { device: &name, changed_at, points }).collect(),
            unchanged: unchanged.iter().map(|points| Member { device: &name, changed_at, points }).collect(),
        })
        .collect();
    let end = Timestamp::from_second(changed_at.as_second() + 86_400).expect("after 2027");
    compare(&Policy::default(), &metrics, &[], changed_at, end).say == Say::Stop
}

/// The lower end of the 98 % interval of the shift is above a quarter of the shift (approximated by p).
fn kayenta(ours: &[f64], theirs: &[f64], p: f64) -> bool {
    let (Some(ours), Some(theirs)) = (median(ours), median(theirs)) else { return false };
    let z = normal_quantile(p.clamp(1e-300, 0.5));
    ours > theirs && z > 0.0 && 1.0 - normal_quantile(0.01) / z > 0.25
}

/// Welch's test of whether the mean of the first is higher; with hundreds of samples t is normal.
fn welch(ours: &[f64], theirs: &[f64]) -> f64 {
    let moments = |values: &[f64]| {
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        (mean, values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (count - 1.0) / count)
    };
    let ((mean, error), (other, its_error)) = (moments(ours), moments(theirs));
    normal_upper((mean - other) / (error + its_error).sqrt())
}

/// How many of so many promotions of a small fleet are stopped, if a metric of four rises.
pub(super) fn stopped(rise: f64, runs: u64, seed: u64) -> u64 {
    count(runs, seed, 1, &|dice| vec![ours(&metrics(dice, Fleet::SMALL, rise), Fleet::SMALL)])[0]
}

fn row(fleet: Fleet, rise: f64, runs: u64, seed: u64) -> Row {
    let runs = (runs / fleet.part).max(1);
    let alarms = count(runs, seed, METHODS.len(), &|dice| methods(dice, fleet, rise));
    let rises = if rise > 0.0 { format!("+{:.0} %", 100.0 * rise) } else { "no change".to_owned() };
    let case = format!("{} of {}, {rises}", fleet.changed, fleet.changed + fleet.unchanged);
    Row { case, alarm_is_right: rise > 0.0, runs, alarms }
}

pub(super) fn table(runs: u64, seed: u64) -> Table {
    let cases = FLEETS.into_iter().flat_map(|fleet| [0.0, 0.05, 0.1, 0.25].map(|rise| (fleet, rise)));
    Table {
        title: "No worse than".to_owned(),
        explained: "Fleets of which some devices change. Devices differ by 20 %, samples of one depend on each other \
                    (0.97 from one to the next after 10 min), days have hours, and after the change everything shifts on \
                    all devices. The alarm is that the changed ones are worse. Volary judges a whole promotion: four \
                    metrics, of which one rises, four looks, and a floor of 5 %; where the groups are too small to show anything \
                    (3 of 10) it asks a person. The others judge that metric alone, which favours them."
            .to_owned(),
        methods: METHODS.to_vec(),
        rows: cases.map(|(fleet, rise)| row(fleet, rise, runs, seed)).collect(),
    }
}
