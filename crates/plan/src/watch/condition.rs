//! Whether the condition of a rule holds at one moment.

use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use volary_model::{Bound, SeriesPattern, WatchKind, sibling};

use super::History;
use crate::leak::{self, Leak, LeakRule};
use crate::series::{self, Point};
use crate::stats::{median, theil_sen};
use crate::text;

/// How old the newest point may be to tell about now: some devices send each hour.
pub(super) const STALE: Duration = Duration::from_secs(2 * 3600);

/// A forecast rests on at most so many values, the medians of as many equal parts of its window.
const FORECAST_PARTS: u32 = 48;

/// So many of them must be there.
const FORECAST_LEAST: usize = 16;

/// The bounds of the trend of a forecast: all of them must fall, and the one that falls most says how soon it may
/// be full.
const CONFIDENCE: f64 = 0.95;

/// Whether a condition holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Seen {
    /// It does; the figures.
    Holds(String),
    /// It does not; the figures.
    Not(String),
    /// There is too little to tell; what is missing.
    Unknown(String),
}

/// The series that a rule is asked of: of the device, or none where it asks of the device itself.
pub(super) fn series_of<'a>(kind: &WatchKind, history: &'a dyn History) -> Vec<&'a str> {
    let Some(pattern) = pattern(kind) else { return vec![""] };
    history.series().into_iter().filter(|series| pattern.matches(series)).collect()
}

/// The series that a rule names.
pub(super) fn pattern(kind: &WatchKind) -> Option<SeriesPattern> {
    match kind {
        WatchKind::Threshold { series, .. }
        | WatchKind::Rate { series, .. }
        | WatchKind::Forecast { series, .. }
        | WatchKind::Leak { series, .. }
        | WatchKind::Flapping { series, .. }
        | WatchKind::Absence { series: Some(series), .. } => Some(series.clone()),
        WatchKind::ClockSkew { .. } => SeriesPattern::named("clock_offset_seconds"),
        WatchKind::Absence { series: None, .. }
        | WatchKind::RebootLoop { .. }
        | WatchKind::VersionSkew { .. } => None,
    }
}

/// Asks about one series at one moment. The window of what is looked at ends then.
pub(super) fn at(kind: &WatchKind, history: &dyn History, series: &str, moment: Timestamp) -> Seen {
    let view = View { history, series, moment };
    match kind {
        WatchKind::Threshold { bound, part_of, .. } => view.threshold(*bound, part_of.as_deref()),
        WatchKind::Absence { series: pattern, longer_than } => view.absence(pattern.is_some(), *longer_than),
        WatchKind::Rate { above, within, .. } => view.rate(*above, *within),
        WatchKind::Forecast { full_within, window, part_of, free_below, .. } => {
            view.forecast(*full_within, *window, part_of.as_deref(), *free_below)
        }
        WatchKind::Leak { window, at_least, .. } => {
            view.leak(&LeakRule { window: *window, at_least: *at_least })
        }
        WatchKind::Flapping { restarts, within, .. } => view.flapping(*restarts, *within),
        WatchKind::RebootLoop { boots, within } => view.reboots(*boots, *within),
        WatchKind::VersionSkew { longer_than } => view.behind(*longer_than),
        WatchKind::ClockSkew { more_than } => view.clock(*more_than),
    }
}

fn holds(holds: bool, text: String) -> Seen {
    if holds { Seen::Holds(text) } else { Seen::Not(text) }
}

struct View<'a> {
    history: &'a dyn History,
    series: &'a str,
    moment: Timestamp,
}

impl<'a> View<'a> {
    /// The points of the last `window`, the moment included.
    fn points(&self, series: &str, window: Duration) -> &'a [Point] {
        let until = series::after(self.moment, Duration::from_nanos(1));
        self.history.points(series, series::before(self.moment, window), until)
    }

    /// The newest value of a series.
    fn newest(&self, series: &str) -> Option<f64> {
        self.points(series, STALE).iter().rev().map(|point| point.value).find(|value| value.is_finite())
    }

    fn no_points(&self, window: Duration) -> Seen {
        Seen::Unknown(format!("no points in {}", text::duration(window)))
    }

    fn threshold(&self, bound: Bound, part_of: Option<&str>) -> Seen {
        let Some(value) = self.newest(self.series) else { return self.no_points(STALE) };
        let (value, unit) = match part_of {
            None => (value, Unit::of(self.series)),
            Some(whole) => match self.newest(&sibling(self.series, whole)) {
                Some(whole) if whole > 0.0 => (value / whole, Unit::Part),
                Some(_) | None => return Seen::Unknown(format!("{whole} is not known")),
            },
        };
        let (is_wrong, bound) = match bound {
            Bound::Above(bound) => (value > bound, format!("at most {}", unit.show(bound))),
            Bound::Below(bound) => (value < bound, format!("at least {}", unit.show(bound))),
        };
        holds(is_wrong, format!("{}, {bound} is right", unit.show(value)))
    }

    fn absence(&self, of_series: bool, longer_than: Duration) -> Seen {
        let last = match of_series {
            true => {
                let until = series::after(self.moment, Duration::from_nanos(1));
                self.history.points(self.series, Timestamp::MIN, until).last().map(|point| point.at)
            }
            false => self.history.seen_at(self.moment),
        };
        // What was never there is absent since the device is known.
        match last.or_else(|| self.history.known_since()) {
            None => Seen::Unknown("the device has never been heard of".to_owned()),
            Some(since) => {
                let absent = series::elapsed(since, self.moment);
                let what = if last.is_some() { "last" } else { "never" };
                holds(absent > longer_than, format!("{what} heard of, for {}", text::duration(absent)))
            }
        }
    }

    fn rate(&self, above: f64, within: Duration) -> Seen {
        let points = self.points(self.series, within);
        if points.is_empty() {
            return self.no_points(within);
        }
        let rise = series::increase(points);
        holds(
            rise > above,
            format!(
                "{} more in {}, at most {} is right",
                number(rise),
                text::duration(within),
                number(above)
            ),
        )
    }

    fn forecast(
        &self,
        full_within: Duration,
        window: Duration,
        part_of: Option<&str>,
        free_below: f64,
    ) -> Seen {
        let all = self.points(self.series, window);
        let Some(free) = all.iter().rev().map(|point| point.value).find(|value| value.is_finite()) else {
            return self.no_points(window);
        };
        let part = match part_of {
            None => None,
            Some(whole) => match self.newest(&sibling(self.series, whole)) {
                Some(size) if size > 0.0 => Some(free / size),
                Some(_) | None => return Seen::Unknown(format!("{whole} is not known")),
            },
        };
        let blocks = medians(all, series::before(self.moment, window), window);
        if blocks.len() < FORECAST_LEAST {
            let watched = window.mul_f64(blocks.len() as f64 / f64::from(FORECAST_PARTS));
            let (watched, asked) = (text::duration(watched), text::duration(window));
            return Seen::Unknown(format!("watched for {watched} of {asked}"));
        }
        let Some(slope) = theil_sen(&blocks, CONFIDENCE) else { return self.no_points(window) };
        let unit = Unit::of(self.series);
        let mut said = format!("{} free", unit.show(free));
        if let Some(part) = part {
            write!(said, " ({:.0} %)", 100.0 * part).expect("a String takes any write");
        }
        if slope.middle >= 0.0 || slope.high >= 0.0 {
            return Seen::Not(format!("{said}, not falling"));
        }
        // It falls for certain, and by the bound that falls most it may be full so soon.
        let left = Duration::try_from_secs_f64(free.max(0.0) / -slope.low).unwrap_or(Duration::MAX);
        let likely = Duration::try_from_secs_f64(free.max(0.0) / -slope.middle).unwrap_or(Duration::MAX);
        let is_little = part.is_none_or(|part| part < free_below);
        write!(said, ", full in {} at {} an hour", text::duration(likely), unit.show(-slope.middle * 3600.0))
            .expect("a String takes any write");
        holds(left < full_within && is_little, said)
    }

    fn leak(&self, rule: &LeakRule) -> Seen {
        let points = self.points(self.series, rule.window);
        let mut starts = self.history.boots().to_vec();
        starts.extend(self.restarts(rule.window));
        let unit = Unit::of(self.series);
        let said = |growth: &leak::Growth| {
            let week = growth.per_second * rule.window.as_secs_f64();
            let rise = format!("{:+.1} % in {}", 100.0 * week / growth.level, text::duration(rule.window));
            format!(
                "{} and {} an hour, {rise}",
                unit.show(growth.level),
                unit.show(growth.per_second * 3600.0)
            )
        };
        match leak::judge(rule, points, &starts, self.moment) {
            Leak::Leaks(growth) => Seen::Holds(said(&growth)),
            Leak::Steady(growth) => Seen::Not(said(&growth)),
            Leak::NotEnough { watched } => {
                let (watched, asked) = (text::duration(watched), text::duration(rule.window));
                Seen::Unknown(format!("watched for {watched} of {asked} since the last start"))
            }
        }
    }

    /// When the unit of the series restarted: its counter changed, by hand too, since that counts from 0 again.
    fn restarts(&self, window: Duration) -> Vec<Timestamp> {
        if !self.series.starts_with("unit_") {
            return Vec::new();
        }
        let counts = self.points(&sibling(self.series, "unit_restarts_total"), window);
        counts.windows(2).filter(|pair| pair[0].value != pair[1].value).map(|pair| pair[1].at).collect()
    }

    fn flapping(&self, restarts: u32, within: Duration) -> Seen {
        let points = self.points(self.series, within);
        if points.is_empty() {
            return self.no_points(within);
        }
        let rise = series::increase(points);
        let said = format!("{} restarts in {}", number(rise), text::duration(within));
        // A counter of whole numbers, with room for how they are kept.
        holds(rise > f64::from(restarts) - 0.5, said)
    }

    fn reboots(&self, boots: u32, within: Duration) -> Seen {
        let from = series::before(self.moment, within);
        let count = self.history.boots().iter().filter(|boot| **boot > from && **boot <= self.moment).count();
        let said = format!("{} in {}", text::count(count, "boot"), text::duration(within));
        holds(count >= boots as usize, said)
    }

    fn behind(&self, longer_than: Duration) -> Seen {
        match self.history.behind(self.moment) {
            None => Seen::Not("it is what its stage wants".to_owned()),
            Some((since, why)) => {
                let behind = series::elapsed(since, self.moment);
                holds(behind > longer_than, format!("{why}, for {}", text::duration(behind)))
            }
        }
    }

    fn clock(&self, more_than: Duration) -> Seen {
        let Some(offset) = self.newest(self.series) else { return self.no_points(STALE) };
        let way = if offset < 0.0 { "slow" } else { "fast" };
        let wrong = Duration::try_from_secs_f64(offset.abs()).unwrap_or(Duration::MAX);
        holds(wrong > more_than, format!("the clock is {} {way}", text::duration(wrong)))
    }
}

/// The median of each part of the window that has points, with its place in seconds.
fn medians(points: &[Point], from: Timestamp, window: Duration) -> Vec<(f64, f64)> {
    let part = window.as_secs_f64() / f64::from(FORECAST_PARTS);
    let place = |point: &Point| (series::elapsed(from, point.at).as_secs_f64() / part).floor();
    let known: Vec<Point> = points.iter().copied().filter(|point| point.value.is_finite()).collect();
    let middle = |group: &[Point]| {
        let values: Vec<f64> = group.iter().map(|point| point.value).collect();
        Some((place(&group[0]) * part, median(&values)?))
    };
    known.chunk_by(|a, b| place(a) == place(b)).filter_map(middle).collect()
}

/// The unit of a series, which its name ends in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Bytes,
    Seconds,
    Celsius,
    Part,
    Number,
}

impl Unit {
    pub(super) fn of(series: &str) -> Self {
        let name = series.split('{').next().unwrap_or_default();
        let name = name.strip_suffix("_total").unwrap_or(name);
        match name.rsplit('_').next() {
            Some("bytes") => Self::Bytes,
            Some("seconds") => Self::Seconds,
            Some("celsius") => Self::Celsius,
            Some("ratio") => Self::Part,
            Some(_) | None => Self::Number,
        }
    }

    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Bytes => text::size(value),
            Self::Seconds if value >= 0.0 && value.is_finite() => {
                text::duration(Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX))
            }
            Self::Seconds => format!("{} s", number(value)),
            Self::Celsius => format!("{} °C", number(value)),
            Self::Part => format!("{:.1} %", 100.0 * value),
            Self::Number => number(value),
        }
    }
}

/// A number without digits that say nothing.
fn number(value: f64) -> String {
    if value.fract() == 0.0 || value.abs() >= 1000.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
