//! What a rule would have said in the past.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{DeviceName, Severity, WatchKind, WatchRule};

use super::{Finding, History, State, judge, step};
use crate::series;

/// At most so many moments of a past are asked about; a rule that needs more is asked less often than it would be.
const MOST_MOMENTS: u32 = 3000;

/// The shortest time between two moments: rules are not asked more often than devices measure.
const SHORTEST: Duration = Duration::from_secs(15);

/// A time in which a rule fired.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Episode {
    /// The rule.
    pub rule: String,
    /// The device.
    pub device: DeviceName,
    /// The series; empty if the rule is about the device itself.
    pub series: String,
    /// How bad it was.
    pub severity: Severity,
    /// When the rule began to fire.
    pub from: Timestamp,
    /// When it was quiet again; none if it fired until the end.
    pub until: Option<Timestamp>,
    /// The figures when it began.
    pub text: String,
}

/// Asks a rule of a device's past again and again, from a time until another one. Also returns what it says
/// at the end.
pub fn replay(
    rule: &WatchRule,
    history: &dyn History,
    from: Timestamp,
    until: Timestamp,
) -> (Vec<Episode>, Vec<Finding>) {
    let least = series::elapsed(from, until) / MOST_MOMENTS;
    let pace = match &rule.kind {
        WatchKind::Forecast { .. } | WatchKind::Leak { .. } => step(rule) / 4,
        WatchKind::Threshold { .. }
        | WatchKind::Absence { .. }
        | WatchKind::Rate { .. }
        | WatchKind::Flapping { .. }
        | WatchKind::RebootLoop { .. }
        | WatchKind::VersionSkew { .. }
        | WatchKind::ClockSkew { .. } => step(rule),
    };
    let pace = pace.clamp(SHORTEST, Duration::from_secs(3600)).max(least);
    let mut open: BTreeMap<String, Episode> = BTreeMap::new();
    let mut episodes = Vec::new();
    let mut moment = from;
    loop {
        let findings = judge(rule, history, moment);
        for finding in &findings {
            follow(finding, moment, &mut open, &mut episodes);
        }
        if moment >= until {
            episodes.extend(open.into_values());
            episodes.sort_by(|a, b| (a.from, &a.series).cmp(&(b.from, &b.series)));
            return (episodes, findings);
        }
        moment = series::after(moment, pace).min(until);
    }
}

fn follow(
    finding: &Finding,
    moment: Timestamp,
    open: &mut BTreeMap<String, Episode>,
    episodes: &mut Vec<Episode>,
) {
    match finding.state {
        State::Firing => {
            open.entry(finding.series.clone()).or_insert_with(|| Episode {
                rule: finding.rule.clone(),
                device: finding.device.clone(),
                series: finding.series.clone(),
                severity: finding.severity,
                from: moment,
                until: None,
                text: finding.text.clone(),
            });
        }
        State::Quiet | State::NotEnough => {
            if let Some(mut episode) = open.remove(&finding.series) {
                episode.until = Some(moment);
                episodes.push(episode);
            }
        }
    }
}
