//! Watch rules: what is wrong with a device by its measurements.
//!
//! A rule is asked at several moments until now. It fires when its condition has held for as long as the
//! rule says, and is quiet again only when the condition has not held for as long as it takes to clear; so a
//! value at its bound does not make it come and go. All of that follows from the history, and nothing has to be
//! remembered. Not here: alerts of many devices (`alert`), where measurements are kept, how often rules are asked.

mod condition;
mod describe;
mod history;
mod replay;

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{DeviceName, Severity, WatchKind, WatchRule};

use crate::series;
use condition::Seen;

pub use describe::describe;
pub use history::{Behind, History, Recorded};
pub use replay::{Episode, replay};

/// How many moments are looked at in the shorter of the times to fire and to clear.
const MOMENTS: u32 = 4;

/// How many times the times to fire and to clear are looked back: a rule fires for longer than that only if its
/// condition held for all of its time to fire in between.
const LOOK_BACK: u32 = 3;

/// What a rule says of one series of a device, or of the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule.
    pub rule: String,
    /// The device.
    pub device: DeviceName,
    /// The series with its labels; empty if the rule is about the device itself.
    pub series: String,
    /// Whether the rule fires.
    pub state: State,
    /// How bad that is.
    pub severity: Severity,
    /// The figures, and what to do about it.
    pub text: String,
    /// Since when the condition holds, if the rule fires; no earlier than what was looked at. Whoever keeps findings
    /// keeps the first.
    pub since: Option<Timestamp>,
}

/// Whether a rule fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It does.
    Firing,
    /// It does not.
    Quiet,
    /// There is too little data to tell.
    NotEnough,
}

/// Asks a rule of a device: one finding for each series that the rule means. One that means a series which
/// the device does not have finds *not enough*; none if it does not watch the stage.
pub fn judge(rule: &WatchRule, history: &dyn History, now: Timestamp) -> Vec<Finding> {
    if !rule.stages.is_empty() && !rule.stages.contains(history.stage()) {
        return Vec::new();
    }
    let series = condition::series_of(&rule.kind, history);
    if series.is_empty() {
        return vec![absent(rule, history, now)];
    }
    series.into_iter().map(|series| of_series(rule, history, series, now)).collect()
}

/// How long back a rule looks, at most: what its history must reach.
pub fn reach(rule: &WatchRule) -> Duration {
    let window = match &rule.kind {
        WatchKind::Threshold { .. } | WatchKind::ClockSkew { .. } => condition::STALE,
        WatchKind::Absence { longer_than, .. } | WatchKind::VersionSkew { longer_than } => *longer_than,
        WatchKind::Rate { within, .. }
        | WatchKind::Flapping { within, .. }
        | WatchKind::RebootLoop { within, .. } => *within,
        WatchKind::Forecast { window, .. } | WatchKind::Leak { window, .. } => *window,
    };
    window.saturating_add(look_back(rule))
}

/// True if a rule needs this series to judge any: it means the series, or compares with it.
pub fn needs(rule: &WatchRule, series: &str) -> bool {
    let name = series.split('{').next().unwrap_or_default();
    let beside = match &rule.kind {
        WatchKind::Threshold { part_of, .. } | WatchKind::Forecast { part_of, .. } => part_of.as_deref(),
        // Tells when a process began anew.
        WatchKind::Leak { .. } => Some("unit_restarts_total"),
        WatchKind::Absence { .. }
        | WatchKind::Rate { .. }
        | WatchKind::Flapping { .. }
        | WatchKind::RebootLoop { .. }
        | WatchKind::VersionSkew { .. }
        | WatchKind::ClockSkew { .. } => None,
    };
    beside == Some(name) || condition::pattern(&rule.kind).is_some_and(|pattern| pattern.matches(series))
}

fn look_back(rule: &WatchRule) -> Duration {
    rule.held_for.saturating_add(rule.clear_after).saturating_mul(LOOK_BACK)
}

/// The time between two moments at which a rule is asked.
fn step(rule: &WatchRule) -> Duration {
    let shorter = match (rule.held_for, rule.clear_after) {
        (Duration::ZERO, clear) => clear,
        (held, Duration::ZERO) => held,
        (held, clear) => held.min(clear),
    };
    match &rule.kind {
        // Long windows change little from one moment to the next, and cost the most.
        WatchKind::Forecast { .. } | WatchKind::Leak { .. } => shorter,
        WatchKind::Threshold { .. }
        | WatchKind::Absence { .. }
        | WatchKind::Rate { .. }
        | WatchKind::Flapping { .. }
        | WatchKind::RebootLoop { .. }
        | WatchKind::VersionSkew { .. }
        | WatchKind::ClockSkew { .. } => shorter / MOMENTS,
    }
}

fn of_series(rule: &WatchRule, history: &dyn History, series: &str, now: Timestamp) -> Finding {
    let step = step(rule);
    let count = match step.as_nanos() {
        0 => 0,
        nanos => u32::try_from(look_back(rule).as_nanos() / nanos).unwrap_or(u32::MAX),
    };
    let mut latch = Latch::new(rule);
    let mut last = Seen::Unknown(String::new());
    let mut held = None;
    for back in (0..=count).rev() {
        let moment = series::before(now, step * back);
        last = condition::at(&rule.kind, history, series, moment);
        latch.see(&last, moment);
        if let Seen::Holds(figures) = &last {
            held = Some(figures.clone());
        }
    }
    let (state, since) = match (latch.fires_since, &last) {
        (Some(since), _) => (State::Firing, Some(since)),
        (None, Seen::Unknown(_)) => (State::NotEnough, None),
        (None, Seen::Holds(_) | Seen::Not(_)) => (State::Quiet, None),
    };
    let figures = match (state, last, held) {
        // What it fires for is more than that nothing newer can be told.
        (State::Firing, Seen::Unknown(now), Some(held)) => format!("{held}; by now {now}"),
        (_, Seen::Holds(figures) | Seen::Not(figures) | Seen::Unknown(figures), _) => figures,
    };
    finding(rule, history, series, state, since, figures)
}

/// The finding of a rule whose series the device does not have.
fn absent(rule: &WatchRule, history: &dyn History, now: Timestamp) -> Finding {
    let pattern = condition::pattern(&rule.kind).map(|pattern| pattern.to_string()).unwrap_or_default();
    // A series that never was is absent all the more.
    if matches!(rule.kind, WatchKind::Absence { .. }) {
        return of_series(rule, history, &pattern, now);
    }
    let figures = "the device has no such series".to_owned();
    finding(rule, history, &pattern, State::NotEnough, None, figures)
}

fn finding(
    rule: &WatchRule,
    history: &dyn History,
    series: &str,
    state: State,
    since: Option<Timestamp>,
    figures: String,
) -> Finding {
    let text = match (state, rule.text.as_str()) {
        (State::Firing, text) if !text.is_empty() => format!("{figures}; {text}"),
        (State::Firing | State::Quiet | State::NotEnough, _) => figures,
    };
    Finding {
        rule: rule.name.clone(),
        device: history.device().clone(),
        series: series.to_owned(),
        state,
        severity: rule.severity,
        text,
        since,
    }
}

/// Goes on when a condition has held long enough, and off when it has not held long enough.
struct Latch {
    held_for: Duration,
    clear_after: Duration,
    holds_since: Option<Timestamp>,
    not_since: Option<Timestamp>,
    fires_since: Option<Timestamp>,
}

impl Latch {
    fn new(rule: &WatchRule) -> Self {
        Self {
            held_for: rule.held_for,
            clear_after: rule.clear_after,
            holds_since: None,
            not_since: None,
            fires_since: None,
        }
    }

    /// What cannot be told changes nothing: it neither fires nor clears.
    fn see(&mut self, seen: &Seen, moment: Timestamp) {
        match seen {
            Seen::Holds(_) => {
                self.not_since = None;
                let since = *self.holds_since.get_or_insert(moment);
                if self.fires_since.is_none() && series::elapsed(since, moment) >= self.held_for {
                    self.fires_since = Some(since);
                }
            }
            Seen::Not(_) => {
                self.holds_since = None;
                let since = *self.not_since.get_or_insert(moment);
                if series::elapsed(since, moment) >= self.clear_after {
                    self.fires_since = None;
                }
            }
            Seen::Unknown(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
