//! Weeks of a service's memory that do not leak, and some that do.

use std::f64::consts::TAU;

use jiff::Timestamp;
use volary_plan::leak::{Leak, LeakRule, judge};
use volary_plan::series::Point;
use volary_plan::stats::{kendall, median, normal_upper, quantile, seasonal_kendall, theil_sen};

use super::noise::{autocorrelated, normal, uniform};
use super::{Row, Table, count};
use crate::dice::Dice;

/// A sample each 5 min, for 7 days.
const PER_HOUR: usize = 12;
const SAMPLES: usize = 7 * 24 * PER_HOUR;
const MIB: f64 = 1_048_576.0;

/// How a service uses memory, beside what it leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// The same all the time.
    Flat,
    /// 20 MiB more, at first fast and then slower, with a time constant of 6 to 48 h.
    WarmUp,
    /// The same with a time constant of 24 h.
    WarmUpOfADay,
    /// The slowest warm-up: a time constant of 48 h.
    SlowWarmUp,
    /// 4 MiB up and down with the hours of the day.
    DayCycle,
    /// 12 MiB up and down with the hours of the day.
    LargeDayCycle,
    /// Garbage of 10 MiB that is collected each 2 to 33 h.
    SawTooth,
    /// The same each 12.5 h.
    SawToothOfHalfADay,
    /// 12 MiB more from some moment on, in the middle half of the week.
    Step,
    /// 8 MiB more, twice, in the middle three quarters.
    TwoSteps,
    /// A step in a cycle.
    StepInCycle,
    /// A warm-up in a cycle.
    WarmUpInCycle,
    /// It wanders: each change stays.
    Wandering,
}

impl Shape {
    fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::WarmUp => "warm-up of 20 MiB in 6 to 48 h",
            Self::WarmUpOfADay => "warm-up of 20 MiB in 24 h",
            Self::SlowWarmUp => "warm-up of 20 MiB in 48 h",
            Self::DayCycle => "cycle of the day, ± 4 MiB",
            Self::LargeDayCycle => "cycle of the day, ± 12 MiB",
            Self::SawTooth => "saw teeth of 10 MiB in 2 to 33 h",
            Self::SawToothOfHalfADay => "saw teeth of 10 MiB in 12.5 h",
            Self::Step => "one step of 12 MiB",
            Self::TwoSteps => "two steps of 8 MiB",
            Self::StepInCycle => "a step in a cycle",
            Self::WarmUpInCycle => "a warm-up in a cycle",
            Self::Wandering => "wandering",
        }
    }
}

/// The memory of a week, in MiB.
fn week(dice: &mut Dice, shape: Shape, leak: f64) -> Vec<f64> {
    let level = 60.0 + normal(dice, 5.0);
    let noise = autocorrelated(dice, SAMPLES, 0.9, 1.0);
    let at = |dice: &mut Dice, from: f64, until: f64| uniform(dice, from, until) * SAMPLES as f64;
    let phase = uniform(dice, 0.0, TAU);
    let tau = match shape {
        Shape::WarmUpOfADay => 24.0,
        Shape::SlowWarmUp => 48.0,
        _ => uniform(dice, 6.0, 48.0),
    };
    let (first, second) = match shape {
        Shape::TwoSteps => (at(dice, 0.125, 0.875), at(dice, 0.125, 0.875)),
        _ => (at(dice, 0.25, 0.75), 0.0),
    };
    let period = match shape {
        Shape::SawToothOfHalfADay => 150.0,
        _ => uniform(dice, 24.0, 400.0).floor(),
    };
    let mut wandered = 0.0;
    let mut value = |(sample, noise): (usize, f64)| {
        let (n, hour) = (sample as f64, sample as f64 / PER_HOUR as f64);
        let warm = || 20.0 * (1.0 - (-hour / tau).exp());
        let cycle = |height: f64| height * (TAU * hour / 24.0 + phase).sin();
        let step = |height: f64, at: f64| if n > at { height } else { 0.0 };
        let more = match shape {
            Shape::Flat => 0.0,
            Shape::WarmUp | Shape::WarmUpOfADay | Shape::SlowWarmUp => warm(),
            Shape::DayCycle => cycle(4.0),
            Shape::LargeDayCycle => cycle(12.0),
            Shape::SawTooth | Shape::SawToothOfHalfADay => 10.0 * (n % period) / period,
            Shape::Step => step(12.0, first),
            Shape::TwoSteps => step(8.0, first) + step(8.0, second),
            Shape::StepInCycle => step(12.0, first) + cycle(4.0),
            Shape::WarmUpInCycle => warm() + cycle(4.0),
            Shape::Wandering => {
                wandered += normal(dice, 0.08);
                wandered
            }
        };
        level + noise + more + leak * hour
    };
    noise.into_iter().enumerate().map(&mut value).collect()
}

const METHODS: [&str; 6] = [
    "**Volary**",
    "line through all samples, p < 0.001",
    "last hour above the first by 10 %",
    "Mann-Kendall on 6 h deciles, p < 0.001",
    "Theil-Sen on them, 99 % bound above 0 and 0.05 %/h",
    "seasonal Kendall on the last half",
];

/// The rule of `volary-plan`.
fn ours(samples: &[f64]) -> bool {
    let start = 1_800_000_000;
    let points: Vec<Point> = samples
        .iter()
        .zip((start..).step_by(3600 / PER_HOUR))
        .map(|(value, at)| Point { at: Timestamp::from_second(at).expect("after 2027"), value: value * MIB })
        .collect();
    let end = Timestamp::from_second(start + 7 * 86_400).expect("after 2027");
    matches!(judge(&LeakRule::default(), &points, &[], end), Leak::Leaks(_))
}

fn methods(samples: &[f64]) -> Vec<bool> {
    let deciles: Vec<f64> = samples.chunks(6 * PER_HOUR).filter_map(|block| quantile(block, 0.1)).collect();
    let mean = |hour: &[f64]| hour.iter().sum::<f64>() / hour.len() as f64;
    vec![
        ours(samples),
        line_rises(samples),
        mean(&samples[SAMPLES - PER_HOUR..]) > 1.1 * mean(&samples[..PER_HOUR]),
        kendall(&deciles).p_rise < 0.001,
        theil(&deciles),
        last_half(&deciles),
    ]
}

/// A straight line by least squares whose slope is above 0 with p < 0.001, as if samples were independent.
fn line_rises(values: &[f64]) -> bool {
    let count = values.len() as f64;
    let (x, y) = ((count - 1.0) / 2.0, values.iter().sum::<f64>() / count);
    let (mut xx, mut xy, mut yy) = (0.0, 0.0, 0.0);
    for (n, value) in values.iter().enumerate() {
        let (dx, dy) = (n as f64 - x, value - y);
        (xx, xy, yy) = (xx + dx * dx, xy + dx * dy, yy + dy * dy);
    }
    let slope = xy / xx;
    let error = ((yy - slope * xy) / (count - 2.0) / xx).sqrt();
    slope > 0.0 && 2.0 * normal_upper(slope / error) < 0.001
}

/// The lower bound of the slope is above 0 and the slope above 0.05 % of the level an hour.
fn theil(deciles: &[f64]) -> bool {
    let points: Vec<(f64, f64)> =
        deciles.iter().enumerate().map(|(n, value)| (6.0 * n as f64, *value)).collect();
    let (Some(slope), Some(level)) = (theil_sen(&points, 0.99), median(deciles)) else { return false };
    slope.low > 0.0 && slope.middle > 0.0005 * level
}

/// The last half against the same hours of the day before: it rises by the season's test, by 1.2 % a day in
/// the middle and by 0.6 % in the lower quartile.
fn last_half(deciles: &[f64]) -> bool {
    let half = &deciles[deciles.len() / 2..];
    let rises: Vec<f64> = half.iter().zip(&half[4..]).map(|(before, after)| after - before).collect();
    let level = median(deciles).unwrap_or_default();
    seasonal_kendall(half, 4).z > 2.3
        && median(&rises).is_some_and(|rise| rise > 0.012 * level)
        && quantile(&rises, 0.25).is_some_and(|rise| rise > 0.006 * level)
}

/// In how many of so many weeks the rule of `volary-plan` finds a leak.
pub(super) fn found(shape: Shape, leak: f64, runs: u64, seed: u64) -> u64 {
    count(runs, seed, 1, &|dice| vec![ours(&week(dice, shape, leak))])[0]
}

fn row(shape: Shape, leak: f64, runs: u64, seed: u64) -> Row {
    let alarms = count(runs, seed, METHODS.len(), &|dice| methods(&week(dice, shape, leak)));
    let case = match leak > 0.0 {
        true if shape == Shape::Flat => format!("leak of {leak} MiB/h"),
        true => format!("leak of {leak} MiB/h, {}", shape.name()),
        false => shape.name().to_owned(),
    };
    Row { case, alarm_is_right: leak > 0.0, runs, alarms }
}

pub(super) fn table(runs: u64, seed: u64) -> Table {
    let sound = [
        Shape::Flat,
        Shape::WarmUp,
        Shape::SlowWarmUp,
        Shape::DayCycle,
        Shape::LargeDayCycle,
        Shape::SawTooth,
        Shape::Step,
        Shape::TwoSteps,
        Shape::StepInCycle,
        Shape::WarmUpInCycle,
        Shape::Wandering,
    ];
    let leaks = [
        (Shape::Flat, 0.03),
        (Shape::Flat, 0.05),
        (Shape::DayCycle, 0.05),
        (Shape::SawToothOfHalfADay, 0.05),
        (Shape::Flat, 0.1),
        (Shape::WarmUpOfADay, 0.1),
        (Shape::DayCycle, 0.1),
        (Shape::SawToothOfHalfADay, 0.1),
        (Shape::Step, 0.1),
    ];
    let cases = sound.into_iter().map(|shape| (shape, 0.0)).chain(leaks);
    Table {
        title: "Leaks".to_owned(),
        explained: "The memory of a service of 60 ± 5 MiB, a sample each 5 min for a week, with noise of 1 MiB whose samples \
                    depend on each other (0.9). The alarm is that it leaks."
            .to_owned(),
        methods: METHODS.to_vec(),
        rows: cases.map(|(shape, leak)| row(shape, leak, runs, seed)).collect(),
    }
}
