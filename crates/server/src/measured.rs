//! What measurements say before a merge: findings of watch rules, and how changed devices do beside others. Kept
//! in a file, so that git's hook, which is a process of its own, reads what the server has found.
//!
//! Not here: the loop that measures (`reconcile::measured`), and the judges (`volary_plan`).

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_fleet::NoWorseThan;
use volary_model::{CommitId, DeviceName, StageName, is_counter};
use volary_plan::compare::{Comparison, Member, Metric, Outcome, Policy, Worse, compare, rose_more};
use volary_plan::series::{Point, elapsed};
use volary_plan::watch::Finding;

use crate::Layout;

const VERSION: u32 = 1;

/// What is older says nothing about now: the server was down, or does not get around.
pub(crate) const STALE: Duration = Duration::from_secs(15 * 60);

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measured {
    version: u32,
    /// When.
    pub(crate) at: Timestamp,
    /// True if it was not asked again since the start, since history is still being read.
    #[serde(default)]
    reading: bool,
    /// By the stage that would be merged from.
    pub(crate) stages: BTreeMap<StageName, OfStage>,
}

/// What was found on the devices of a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct OfStage {
    /// The commit that they should have.
    pub(crate) commit: CommitId,
    /// When each was first known to have it.
    pub(crate) changed: BTreeMap<DeviceName, Timestamp>,
    /// What the watch rules say.
    pub(crate) findings: Vec<Finding>,
    /// How they do beside others, by the stage that would be merged into; or why that cannot be told.
    pub(crate) comparisons: BTreeMap<StageName, Result<Comparison, String>>,
}

impl Measured {
    /// What was found at this time.
    pub(crate) fn new(at: Timestamp, stages: BTreeMap<StageName, OfStage>) -> Self {
        Self { version: VERSION, at, reading: false, stages }
    }

    /// The same, of use for no gate: the server has begun, and does not have all measurements yet.
    pub(crate) fn while_reading(self) -> Self {
        Self { reading: true, ..self }
    }

    /// Why this is of use for no gate.
    pub(crate) fn unread(&self) -> Option<&'static str> {
        self.reading
            .then_some("the history of measurements is still being read after the start of the server")
    }

    /// What was written last; nothing if it cannot be read: it is written again soon.
    pub(crate) fn read(layout: &Layout) -> Option<Self> {
        let bytes = volary_host::read(&layout.measured()).ok()?;
        serde_json::from_slice::<Self>(&bytes).ok().filter(|measured| measured.version == VERSION)
    }

    /// Writes it for the hook, and for the next start.
    pub(crate) fn write(&self, layout: &Layout) -> Result<(), String> {
        let text = serde_json::to_vec(self).expect("it is plain data");
        volary_host::write_atomic(&layout.measured(), &text, 0o600).map_err(|error| error.to_string())
    }

    /// What was found on devices that have this commit of a stage, if that is not too old.
    pub(crate) fn of(&self, from: &StageName, commit: &CommitId, now: Timestamp) -> Option<&OfStage> {
        let is_new = !self.reading && elapsed(self.at, now) <= STALE;
        self.stages.get(from).filter(|stage| is_new && stage.commit == *commit)
    }
}

/// What watch rules say of each device, and when they were asked.
pub(crate) type Watched = BTreeMap<DeviceName, (Timestamp, Vec<Finding>)>;

/// The points of some devices, by the name of the series.
pub(crate) type Points = BTreeMap<DeviceName, BTreeMap<String, Vec<Point>>>;

/// What is compared: devices that changed, with when, and devices that did not.
pub(crate) struct Groups<'a> {
    /// When each of the changed ones changed.
    pub(crate) changed: &'a BTreeMap<DeviceName, Timestamp>,
    /// Their points.
    pub(crate) ours: &'a Points,
    /// The points of the unchanged ones.
    pub(crate) theirs: &'a Points,
}

/// The policy of a gate.
pub(crate) fn policy(gate: &NoWorseThan) -> Policy {
    Policy {
        watched: gate.watched,
        looks: gate.looks,
        effect: gate.effect.fraction(),
        devices_at_least: gate.devices_at_least as usize,
        ..Policy::default()
    }
}

/// True if a series is compared.
pub(crate) fn is_compared(series: &str) -> bool {
    worse(series).is_some() || is_restarts(series)
}

/// True for the counter of how often a unit was restarted by systemd itself. It rises too seldom for a middle value to move, so
/// that it did is what counts.
fn is_restarts(series: &str) -> bool {
    series.split('{').next() == Some("unit_restarts_total")
}

/// Which way a series gets worse, of those that are compared; counters count by the hour.
fn worse(series: &str) -> Option<Worse> {
    match series.split('{').next().unwrap_or_default() {
        "unit_memory_bytes" | "cpu_seconds_total" | "journal_errors_total" => Some(Worse::Higher),
        "memory_available_bytes" => Some(Worse::Lower),
        _ => None,
    }
}

/// How the changed devices do beside the others.
pub(crate) fn compared(policy: &Policy, groups: &Groups<'_>, now: Timestamp) -> Result<Comparison, String> {
    let mut times: Vec<Timestamp> = groups.changed.values().copied().collect();
    times.sort();
    let Some(since) = times.last().copied() else {
        return Err("no device has the commit and is good".to_owned());
    };
    let middle = times[times.len() / 2];
    // A series that few devices have, such as that of a unit of one device, tells nothing about the commit.
    let mut devices_of: BTreeMap<&str, usize> = BTreeMap::new();
    for series in groups.ours.values().flat_map(BTreeMap::keys) {
        *devices_of.entry(series).or_default() += 1;
    }
    let known = |series: &str| groups.theirs.values().any(|points| points.contains_key(series));
    let metrics: Vec<Metric<'_>> = devices_of
        .iter()
        .filter(|(series, count)| 2 * **count >= groups.ours.len() && known(series))
        .filter_map(|(series, _)| {
            let unchanged = groups.theirs.iter().filter_map(|(device, points)| {
                Some(Member { device, changed_at: middle, points: points.get(*series)? })
            });
            let changed = groups.ours.iter().filter_map(|(device, points)| {
                let changed_at = *groups.changed.get(device)?;
                Some(Member { device, changed_at, points: points.get(*series)? })
            });
            Some(Metric {
                name: (*series).to_owned(),
                worse: worse(series)?,
                changed: changed.collect(),
                unchanged: unchanged.collect(),
            })
        })
        .collect();
    let restarts = restarts(policy, groups, middle);
    Ok(compare(policy, &metrics, restarts.as_slice(), since, now))
}

/// When a unit of each device was restarted more often than in the baseline; nothing if restarts are not measured.
fn restarts(policy: &Policy, groups: &Groups<'_>, middle: Timestamp) -> Option<Outcome> {
    // The first of its units; the outer `None` is a device that measures no restarts.
    let first = |points: &BTreeMap<String, Vec<Point>>, changed_at| {
        let counters: Vec<&Vec<Point>> =
            points.iter().filter(|(series, _)| is_restarts(series)).map(|(_, points)| points).collect();
        let rose = counters.iter().filter_map(|points| rose_more(points, changed_at, policy.baseline)).min();
        (!counters.is_empty()).then_some(rose)
    };
    let ours = groups.ours.iter().filter_map(|(device, points)| first(points, *groups.changed.get(device)?));
    let changed: Vec<_> = ours.collect();
    let unchanged: Vec<_> = groups.theirs.values().filter_map(|points| first(points, middle)).collect();
    let measured = !changed.is_empty() && !unchanged.is_empty();
    measured.then(|| Outcome { name: "a unit restarted more often".to_owned(), changed, unchanged })
}

/// A counter, but that of restarts, as how much it rises in an hour, one point for each hour that it has two points in; other series as they
/// are.
pub(crate) fn by_the_hour(series: &str, points: Vec<Point>) -> Vec<Point> {
    if !is_counter(series) || is_restarts(series) {
        return points;
    }
    let hour = |point: &Point| point.at.as_second().div_euclid(3600);
    points
        .chunk_by(|a, b| hour(a) == hour(b))
        .filter_map(|chunk| {
            let (first, last) = (chunk.first()?, chunk.last()?);
            let hours = elapsed(first.at, last.at).as_secs_f64() / 3600.0;
            let value = volary_plan::series::increase(chunk) / hours;
            (hours > 0.0).then_some(Point { at: last.at, value })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: i64 = 1_800_000_000;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(START + minute * 60).unwrap()
    }

    fn device(number: usize) -> DeviceName {
        format!("d{number}").parse().unwrap()
    }

    /// Two days of a device, with another level in the second.
    fn points(before: f64, after: f64) -> BTreeMap<String, Vec<Point>> {
        let point = |minute: i64| Point { at: at(minute), value: if minute < 0 { before } else { after } };
        BTreeMap::from([(
            "unit_memory_bytes{unit=\"app\"}".to_owned(),
            (-1440..1440).step_by(30).map(point).collect(),
        )])
    }

    fn compared_with(rise: f64) -> Result<Comparison, String> {
        let ours: Points =
            (0..5).map(|n| (device(n), points(60.0 + n as f64, 60.0 + n as f64 + rise))).collect();
        let theirs: Points = (5..60).map(|n| (device(n), points(60.0 + n as f64, 60.2 + n as f64))).collect();
        let changed = ours.keys().map(|name| (name.clone(), at(0))).collect();
        compared(&Policy::default(), &Groups { changed: &changed, ours: &ours, theirs: &theirs }, at(1440))
    }

    #[test]
    fn devices_that_do_worse_stop() {
        use volary_plan::gate::Say;
        assert_eq!(compared_with(0.0).unwrap().say, Say::Go);
        let found = compared_with(20.0).unwrap();
        assert!(
            found.say == Say::Stop && found.reason.contains("unit_memory_bytes{unit=\"app\"} +3"),
            "{found:?}"
        );
        let (nobody, none) = (BTreeMap::new(), Points::new());
        let groups = Groups { changed: &nobody, ours: &none, theirs: &none };
        assert!(compared(&Policy::default(), &groups, at(0)).is_err());
    }

    #[test]
    fn restarts_that_are_new_stop() {
        use volary_plan::gate::Say;
        // Memory alike on all, and a unit that is restarted once, six hours after the change.
        let device_with = |n: usize, restarted: bool| {
            let mut all = points(60.0 + n as f64, 60.2 + n as f64);
            let counter = |minute: i64| Point {
                at: at(minute),
                value: if restarted && minute >= 360 { 5.0 } else { 4.0 },
            };
            let counters = (-1440..1440).step_by(30).map(counter).collect();
            all.insert("unit_restarts_total{unit=\"app\"}".to_owned(), counters);
            (device(n), all)
        };
        let judged = |restarting: usize| {
            let ours: Points = (0..5).map(|n| device_with(n, n < restarting)).collect();
            let theirs: Points = (5..60).map(|n| device_with(n, n == 9)).collect();
            let changed = ours.keys().map(|name| (name.clone(), at(0))).collect();
            let groups = Groups { changed: &changed, ours: &ours, theirs: &theirs };
            compared(&Policy::default(), &groups, at(1440)).unwrap()
        };
        assert_eq!(judged(0).say, Say::Go, "{:?}", judged(0));
        assert_eq!(judged(1).say, Say::Go, "{:?}", judged(1));
        let found = judged(4);
        assert_eq!(found.say, Say::Stop, "{found:?}");
        assert!(found.reason.contains("a unit restarted more often: 4 of 5 against 1 of 55"), "{found:?}");
    }

    #[test]
    fn counters_count_by_the_hour() {
        let counted: Vec<Point> =
            (0..120).map(|minute| Point { at: at(minute), value: minute as f64 }).collect();
        let hours = by_the_hour("journal_errors_total{unit=\"x\"}", counted.clone());
        assert!(hours.iter().all(|point| (point.value - 60.0).abs() < 1e-9) && hours.len() >= 2, "{hours:?}");
        assert_eq!(by_the_hour("unit_memory_bytes", counted.clone()), counted);
    }

    #[test]
    fn what_is_old_or_of_another_commit_says_nothing() {
        let commit = |digit: &str| digit.repeat(40).parse::<CommitId>().unwrap();
        let stage: StageName = "canary".parse().unwrap();
        let of = OfStage {
            commit: commit("a"),
            changed: BTreeMap::new(),
            findings: Vec::new(),
            comparisons: BTreeMap::from([("production".parse().unwrap(), Err("few".to_owned()))]),
        };
        let measured = Measured::new(at(0), BTreeMap::from([(stage.clone(), of.clone())]));
        assert_eq!(measured.of(&stage, &commit("a"), at(14)), Some(&of));
        assert_eq!(measured.of(&stage, &commit("a"), at(16)), None);
        assert_eq!(measured.of(&stage, &commit("b"), at(1)), None);
        let reading = measured.clone().while_reading();
        assert!(measured.unread().is_none() && reading.unread().is_some());
        assert_eq!(reading.of(&stage, &commit("a"), at(0)), None);
        let text = serde_json::to_string(&measured).unwrap();
        assert_eq!(serde_json::from_str::<Measured>(&text).unwrap(), measured);
    }
}
