//! Whether something leaks: a series that rises through its whole window and will go on.
//!
//! Programs warm up, follow the hours of the day, collect garbage in saw teeth, and rise by a step when a feature
//! is used for the first time. None of that is a leak. What tells a leak apart is that it does not stop: it
//! rises on nearly every day against the same hours of the day before, its floor rises as well, and it rises
//! at the end much as it rose before. `docs/judges.md` has the rates of error.
//!
//! All lengths are parts of the window: a week of days in real use, some minutes in a demonstration.

use std::time::Duration;

use jiff::Timestamp;

use crate::series::{self, Point};
use crate::stats::{median, quantile};

/// A window has seven cycles: a week has seven days.
const CYCLES: usize = 7;

/// Blocks of a cycle: 6 h of a day, short enough for its hours and long enough for a quantile.
const PER_CYCLE: usize = 4;

const BLOCKS: usize = CYCLES * PER_CYCLE;

/// A block counts at most so many values: one in five minutes, if the window is a week.
const PER_BLOCK: usize = 72;

/// A block is told by its lower decile, since what garbage collection and short peaks add lies above it.
const FLOOR_PART: f64 = 0.1;

/// A floor is that of so many blocks. Six are a cycle and a half, which holds the lowest point of saw teeth up to
/// that length.
const FLOOR_BLOCKS: usize = 6;

/// The part of the expected rise that nearly every cycle must show. Higher ones miss leaks beside saw teeth.
const EACH_CYCLE: f64 = 0.25;

/// The part of blocks that must have risen since the cycle before. A step touches four of 24 pairs, two steps
/// touch eight, so that the others show nothing more often than not.
const RISEN: f64 = 0.75;

/// The part of the expected rise that the last two cycles together must show. Above 1, since the tail of a slow
/// warm-up comes close to it.
const OF_LAST: f64 = 1.03;

/// The part of the early rise that the last two cycles must show. What warms up slows down: with a time constant of
/// two cycles 0.25 of it is left, and noise makes 0.3 of that. A leak behind a warm-up of one cycle keeps above 0.5,
/// unless it is small beside the warm-up; then it is found when the warm-up has left the window.
const OF_EARLY: f64 = 0.4;

/// How many of the first steps from cycle to cycle are early: their median, since a step touches two of them.
const EARLY: usize = 4;

/// The part of the expected rise that all steps from cycle to cycle but one must show: two steps touch four of six.
const EACH_STEP: f64 = 0.5;

/// The part of the expected rise that the floor must show: saw teeth blur it.
const OF_FLOOR: f64 = 0.5;

/// The least part of the blocks that must have points.
const KNOWN: f64 = 0.8;

/// How leaks are looked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeakRule {
    /// How long a series is looked at: a week holds the cycle of the day.
    pub window: Duration,
    /// The rise over one window that counts, as a part of the level: 0.09 is 9 %.
    pub at_least: f64,
}

impl Default for LeakRule {
    /// A week, 9 %: 0.032 MiB/h for a service of 60 MiB, which is full in months.
    fn default() -> Self {
        Self { window: Duration::from_secs(7 * 86_400), at_least: 0.09 }
    }
}

/// Whether a series leaks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Leak {
    /// It does.
    Leaks(Growth),
    /// It does not; how it grows is told all the same.
    Steady(Growth),
    /// There are too few points since the start of the process.
    NotEnough {
        /// How long it has been watched without a gap that matters.
        watched: Duration,
    },
}

/// How a series grows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Its level, in its unit.
    pub level: f64,
    /// The middle growth in a second, in its unit.
    pub per_second: f64,
}

/// Judges a series in the order of time. `starts` are the starts of the process that it is about, in any
/// order: a new process begins a new window.
pub fn judge(rule: &LeakRule, points: &[Point], starts: &[Timestamp], now: Timestamp) -> Leak {
    let from = series::before(now, rule.window);
    let begun = starts.iter().copied().filter(|start| *start <= now).max();
    let watched = |from: Timestamp| series::elapsed(from, now).min(rule.window);
    if let Some(start) = begun.filter(|start| *start > from) {
        return Leak::NotEnough { watched: watched(start) };
    }
    let blocks = blocks(points, from, rule.window);
    match Shape::of(&blocks) {
        Some(shape) => {
            let growth = Growth {
                level: shape.level,
                per_second: shape.cycle_rise * CYCLES as f64 / rule.window.as_secs_f64(),
            };
            if shape.leaks(rule.at_least) { Leak::Leaks(growth) } else { Leak::Steady(growth) }
        }
        None => {
            let first = blocks.iter().position(Option::is_some).unwrap_or(BLOCKS);
            Leak::NotEnough { watched: rule.window.mul_f64((BLOCKS - first) as f64 / BLOCKS as f64) }
        }
    }
}

/// The lower decile of each block of the window; `None` where there are no points. Points that are denser than
/// one in five minutes of a week are averaged to that first, as older ones are in the store: the decile of
/// single values lies lower than that of means, which would look like a step.
fn blocks(points: &[Point], from: Timestamp, window: Duration) -> [Option<f64>; BLOCKS] {
    let edge = |block: usize| series::after(from, window.mul_f64(block as f64 / BLOCKS as f64));
    std::array::from_fn(|block| {
        let inside = series::between(points, edge(block), edge(block + 1));
        let part = |point: &Point| {
            let part = series::elapsed(from, point.at).as_secs_f64() / window.as_secs_f64();
            (part * (BLOCKS * PER_BLOCK) as f64) as usize
        };
        let known: Vec<Point> = inside.iter().copied().filter(|point| point.value.is_finite()).collect();
        let values: Vec<f64> = known
            .chunk_by(|before, after| part(before) == part(after))
            .map(|chunk| chunk.iter().map(|point| point.value).sum::<f64>() / chunk.len() as f64)
            .collect();
        quantile(&values, FLOOR_PART)
    })
}

/// What of the blocks the judgement rests on.
struct Shape {
    level: f64,
    /// Of each block since the same block of the cycle before.
    rises: Vec<f64>,
    /// The median of those.
    cycle_rise: f64,
    /// From the mean of the last but two cycles to that of the last.
    last_rise: f64,
    /// The median of the rises from one mean of a cycle to the next.
    middle_rise: f64,
    /// The median of the first [`EARLY`] of those.
    early_rise: f64,
    /// The least of those but one.
    least_but_one: f64,
    /// Of the floor over the last two cycles, and over five.
    floor_rises: (f64, f64),
}

impl Shape {
    /// `None` if too many blocks are missing, or those that matter.
    fn of(blocks: &[Option<f64>; BLOCKS]) -> Option<Self> {
        let known: Vec<f64> = blocks.iter().copied().flatten().collect();
        if (known.len() as f64) < KNOWN * BLOCKS as f64 {
            return None;
        }
        let pairs = blocks.iter().zip(&blocks[PER_CYCLE..]);
        let rises: Vec<f64> = pairs.filter_map(|(before, after)| Some((*after)? - (*before)?)).collect();
        // Without all hours of a day its mean would be that of others; a missing one is filled from the days
        // beside it.
        let means: Vec<f64> = (0..CYCLES).map(|cycle| cycle_mean(blocks, cycle)).collect::<Option<_>>()?;
        let steps: Vec<f64> = means.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let mut sorted = steps.clone();
        sorted.sort_by(f64::total_cmp);
        let floor = |cycle: usize| {
            let end = (cycle + 1) * PER_CYCLE;
            blocks[end - FLOOR_BLOCKS..end].iter().copied().flatten().reduce(f64::min)
        };
        let (last, before, first) = (floor(CYCLES - 1)?, floor(CYCLES - 3)?, floor(1)?);
        Some(Self {
            level: median(&known)?,
            cycle_rise: median(&rises)?,
            rises,
            last_rise: means[CYCLES - 1] - means[CYCLES - 3],
            middle_rise: median(&steps)?,
            early_rise: median(&steps[..EARLY])?,
            least_but_one: sorted[1],
            floor_rises: (last - before, last - first),
        })
    }

    fn leaks(&self, at_least: f64) -> bool {
        // What a rise of `at_least` in the window is in a cycle.
        let cycle = at_least * self.level / CYCLES as f64;
        let risen = self.rises.iter().filter(|rise| **rise > EACH_CYCLE * cycle).count() as f64;
        self.level > 0.0
            && self.last_rise > OF_LAST * 2.0 * cycle
            && self.last_rise > OF_EARLY * 2.0 * self.early_rise
            && self.middle_rise > cycle
            && self.least_but_one > EACH_STEP * cycle
            && risen >= RISEN * self.rises.len() as f64
            && self.floor_rises.0 > OF_FLOOR * 2.0 * cycle
            && self.floor_rises.1 > OF_FLOOR * (CYCLES - 2) as f64 * cycle
    }
}

/// The mean of the blocks of a cycle. A missing block counts as the middle of the same block in the cycles
/// beside it; `None` if that is missing too.
fn cycle_mean(blocks: &[Option<f64>; BLOCKS], cycle: usize) -> Option<f64> {
    let block = |index: usize| {
        blocks[index].or_else(|| {
            let before = index.checked_sub(PER_CYCLE).and_then(|before| blocks[before]);
            let after = blocks.get(index + PER_CYCLE).copied().flatten();
            Some(f64::midpoint(before?, after?))
        })
    };
    let sum: f64 = (cycle * PER_CYCLE..(cycle + 1) * PER_CYCLE).map(block).sum::<Option<f64>>()?;
    Some(sum / PER_CYCLE as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1_048_576.0;

    fn now() -> Timestamp {
        "2026-11-27T00:00:00Z".parse().unwrap()
    }

    /// Points each `step` seconds over `window` seconds until now; `value` gets the part of the window, 0 to 1.
    fn series(window: i64, step: i64, value: impl Fn(f64) -> f64) -> Vec<Point> {
        let count = window / step;
        (0..count)
            .map(|n| Point {
                at: Timestamp::from_second(now().as_second() - window + n * step).unwrap(),
                value: value(n as f64 / count as f64) * MIB,
            })
            .collect()
    }

    fn week(value: impl Fn(f64) -> f64) -> Vec<Point> {
        series(7 * 86_400, 300, value)
    }

    fn check(points: &[Point], leaks: bool) {
        let found = judge(&LeakRule::default(), points, &[], now());
        assert_eq!(matches!(found, Leak::Leaks(_)), leaks, "{found:?}");
        assert!(!matches!(found, Leak::NotEnough { .. }), "{found:?}");
    }

    #[test]
    fn only_what_does_not_stop_is_a_leak() {
        use std::f64::consts::TAU;
        check(&week(|part| 60.0 + 8.4 * part), true);
        check(&week(|part| 60.0 + 16.8 * part + 4.0 * (part * 7.0 * TAU).sin()), true);
        check(&week(|part| 60.0 + 16.8 * part + 10.0 * (part * 13.44).fract()), true);
        check(&week(|_| 60.0), false);
        check(&week(|part| 60.0 + 2.0 * part), false);
        check(&week(|part| 60.0 - 20.0 * part), false);
        check(&week(|part| 60.0 + 10.0 * (part * 7.0 * TAU).sin()), false);
        check(&week(|part| 60.0 + 10.0 * (part * 5.1).fract()), false);
        check(&week(|part| 80.0 - 20.0 * (-part / 0.2).exp()), false);
        // Two days and a half: its last days rise by more than what counts, and by less than the first did.
        check(&week(|part| 90.0 - 30.0 * (-part * 7.0 / 2.5).exp()), false);
        check(&week(|part| 80.0 - 20.0 * (-part * 7.0).exp() + 16.8 * part), true);
        for at in 1..20 {
            check(&week(|part| if part < f64::from(at) / 20.0 { 60.0 } else { 72.0 }), false);
        }
        // Two steps, each in the middle of a day, on a rise too small to count.
        let step = |part: f64, at: f64| if part < at { 0.0 } else { 8.0 };
        check(&week(|part| 60.0 + 2.1 * part + step(part, 1.5 / 7.0) + step(part, 5.5 / 7.0)), false);
    }

    #[test]
    fn a_new_process_begins_a_new_window() {
        let points = week(|part| 60.0 + 16.8 * part);
        let start: Timestamp = "2026-11-25T12:00:00Z".parse().unwrap();
        let later: Timestamp = "2026-12-25T12:00:00Z".parse().unwrap();
        let found = judge(&LeakRule::default(), &points, &[start, later], now());
        assert_eq!(found, Leak::NotEnough { watched: Duration::from_secs(36 * 3600) });
        let long_ago: Timestamp = "2026-11-19T12:00:00Z".parse().unwrap();
        assert!(matches!(judge(&LeakRule::default(), &points, &[long_ago], now()), Leak::Leaks(_)));
    }

    #[test]
    fn gaps_are_bridged_and_missing_data_is_said() {
        let mut points = week(|part| 60.0 + 16.8 * part);
        // Six hours here and there.
        points.retain(|point| ![30, 31, 32, 33, 34, 35, 77, 78, 79].contains(&hours_ago(point)));
        check(&points, true);
        points.retain(|point| hours_ago(point) < 100);
        let found = judge(&LeakRule::default(), &points, &[], now());
        assert_eq!(found, Leak::NotEnough { watched: Duration::from_secs(102 * 3600) });
        let nothing = Leak::NotEnough { watched: Duration::ZERO };
        assert_eq!(judge(&LeakRule::default(), &[], &[], now()), nothing);
        let silly = Point { at: now(), value: f64::NAN };
        assert_eq!(judge(&LeakRule::default(), &[silly], &[], now()), nothing);
    }

    fn hours_ago(point: &Point) -> i64 {
        (now().as_second() - point.at.as_second()) / 3600
    }

    #[test]
    fn minutes_are_enough_where_minutes_are_the_window() {
        let rule = LeakRule { window: Duration::from_secs(280), ..LeakRule::default() };
        let Leak::Leaks(growth) =
            judge(&rule, &series(280, 5, |part| 60.0 + 280.0 / 60.0 * 1.5 * part), &[], now())
        else {
            panic!("it leaks 1.5 MiB a minute");
        };
        assert!((growth.per_second * 60.0 / MIB - 1.5).abs() < 0.01, "{growth:?}");
        assert!(matches!(judge(&rule, &series(280, 5, |_| 60.0), &[], now()), Leak::Steady(_)));
    }
}
