//! *No worse than*: whether devices that changed do worse than devices that did not.
//!
//! The device is the unit, since samples of one device are not independent of each other. Its own past
//! is its baseline, since devices differ; unchanged devices at the same hours are the control, since days
//! differ. One rank test for each metric compares the changes, a floor keeps differences that nobody would mind
//! from counting, and the chance of a false alarm holds for all metrics and all looks together. Looks are at
//! fixed times: whoever looks as often as he likes finds something in the end.
//!
//! Each look judges what was measured until its time, so that the answer of today contains those of
//! yesterday and needs no memory.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::DeviceName;

use crate::gate::Say;
use crate::series::{self, Point};
use crate::stats::{fisher_greater, holm, median, rank_sum_greater, shift, smallest_p, spent, upper_rate};
use crate::text;

/// Of a larger group so many are compared, spread evenly over their names: more make the answer hardly
/// better, and counting slower.
const MOST_DEVICES: usize = 200;

/// The least points of a device on each side of its change: a median of fewer is a single moment.
const LEAST_POINTS: usize = 3;

/// The least part of the time that the points of a device must span, on each side.
const LEAST_SPAN: f64 = 0.5;

/// How devices are compared.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// How long devices are watched after their change; the last look is then.
    pub watched: Duration,
    /// How many looks there are in that time, evenly spaced.
    pub looks: u32,
    /// How long before its change a device is its own baseline.
    pub baseline: Duration,
    /// The chance of a false alarm over all metrics and looks.
    pub alpha: f64,
    /// Differences below this part of the baseline do not count: 0.05 is 5 %.
    pub effect: f64,
    /// With fewer changed devices that were measured the answer is *ask*.
    pub devices_at_least: usize,
}

impl Default for Policy {
    /// A day with four looks, at most 2 % false alarms, 5 % difference, 3 devices.
    fn default() -> Self {
        let day = Duration::from_secs(86_400);
        Self { watched: day, looks: 4, baseline: day, alpha: 0.02, effect: 0.05, devices_at_least: 3 }
    }
}

impl Policy {
    /// When the look `number` (from 1) is, after the change.
    fn look(&self, number: u32) -> Duration {
        self.watched.mul_f64(f64::from(number) / f64::from(self.looks.max(1)))
    }

    /// The chance of a false alarm that the look `number` may take.
    fn alpha_of(&self, number: u32) -> f64 {
        let part = |number: u32| f64::from(number) / f64::from(self.looks.max(1));
        spent(self.alpha, part(number)) - spent(self.alpha, part(number - 1))
    }
}

/// Which way a metric gets worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worse {
    /// More is worse: memory in use, errors, restarts.
    Higher,
    /// Less is worse: memory left, throughput.
    Lower,
}

/// A device with what was measured on it.
#[derive(Debug, Clone, Copy)]
pub struct Member<'a> {
    /// The device.
    pub device: &'a DeviceName,
    /// When it changed. Of one that did not change: the middle time at which the others did.
    pub changed_at: Timestamp,
    /// What was measured, in the order of time.
    pub points: &'a [Point],
}

/// A metric of both groups.
#[derive(Debug, Clone)]
pub struct Metric<'a> {
    /// The series.
    pub name: String,
    /// Which way it gets worse.
    pub worse: Worse,
    /// Devices that changed.
    pub changed: Vec<Member<'a>>,
    /// Devices that did not.
    pub unchanged: Vec<Member<'a>>,
}

/// Something that happens to a device or does not: that it did not converge, fell silent, rebooted uncleanly.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// What happens: `silent`.
    pub name: String,
    /// Of each changed device, how long after its change it happened first.
    pub changed: Vec<Option<Duration>>,
    /// Of each unchanged device, how long after the same time.
    pub unchanged: Vec<Option<Duration>>,
}

/// How long after its change a counter of a device had risen by more than in all of the baseline before: the device's own
/// past is the measure here too. `None` within what was measured.
pub fn rose_more(points: &[Point], changed_at: Timestamp, baseline: Duration) -> Option<Duration> {
    // Rollups make fractions of what counts in whole steps.
    const STEP: f64 = 0.5;
    let since = points.partition_point(|point| point.at < changed_at);
    let past = series::between(&points[..since], series::before(changed_at, baseline), changed_at);
    let before = series::increase(past);
    // Restarts while the device changes itself are part of the change: the first point after it is where counting begins.
    let after = &points[since..];
    let mut rose = 0.0;
    after.windows(2).find_map(|pair| {
        rose += series::increase(pair);
        (rose >= before + STEP).then(|| series::elapsed(changed_at, pair[1].at))
    })
}

/// What a comparison came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// *Go* after the last look, *stop* at the first look that shows a difference, *ask* until then and where
    /// data is missing.
    pub say: Say,
    /// Why, with the figures.
    pub reason: String,
    /// The last look that was due, from 1; 0 if none was.
    pub look: u32,
    /// What each test found at that look, or at the look that stopped.
    pub tests: Vec<Tested>,
}

/// What one test found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tested {
    /// The metric or outcome.
    pub name: String,
    /// How many changed devices were measured.
    pub changed: usize,
    /// How many unchanged ones.
    pub unchanged: usize,
    /// The chance of such a difference if there is none, adjusted for the number of tests.
    pub p: f64,
    /// By how much the changed ones got worse: of a metric as a part of the baseline, of an outcome as the
    /// difference of the shares. `None` if it cannot be told.
    pub worse_by: Option<f64>,
    /// Says the difference in figures.
    pub text: String,
}

/// Compares. `changed` is how many devices changed, measured or not; `now` decides which looks are due, counted
/// from `since`, the time at which the last of them changed.
pub fn compare(
    policy: &Policy,
    metrics: &[Metric<'_>],
    outcomes: &[Outcome],
    since: Timestamp,
    now: Timestamp,
) -> Comparison {
    let passed = series::elapsed(since, now);
    let due = (1..=policy.looks).take_while(|number| policy.look(*number) <= passed).last().unwrap_or(0);
    let mut last = Vec::new();
    for number in 1..=due {
        let tests = tests_at(policy, metrics, outcomes, policy.look(number));
        if let Some(worst) = worse(policy, &tests, policy.alpha_of(number)) {
            let reason = format!("worse at look {number} of {}: {}", policy.looks, worst.text);
            return Comparison { say: Say::Stop, reason, look: number, tests };
        }
        last = tests;
    }
    let (say, reason) = match due {
        0 => (
            Say::Ask,
            format!("the first look is in {}", text::duration(policy.look(1).saturating_sub(passed))),
        ),
        _ => without_difference(policy, &last, due, passed),
    };
    Comparison { say, reason, look: due, tests: last }
}

/// The test that shows most clearly that the changed devices are worse.
fn worse<'a>(policy: &Policy, tests: &'a [Tested], alpha: f64) -> Option<&'a Tested> {
    let shows = |test: &&Tested| {
        test.changed >= policy.devices_at_least
            && test.p <= alpha
            && test.worse_by.is_some_and(|by| by > policy.effect)
    };
    tests.iter().filter(shows).min_by(|a, b| a.p.total_cmp(&b.p))
}

fn without_difference(policy: &Policy, tests: &[Tested], due: u32, passed: Duration) -> (Say, String) {
    if tests.is_empty() {
        return (Say::Ask, "nothing was measured that could be compared".to_owned());
    }
    let fewest = tests.iter().min_by_key(|test| test.changed.min(test.unchanged)).expect("there is one");
    let (changed, unchanged) = (fewest.changed, fewest.unchanged);
    let sizes = format!("{} against {unchanged} unchanged", text::count(changed, "changed device"));
    if changed < policy.devices_at_least {
        let asked = policy.devices_at_least;
        return (Say::Ask, format!("{}: {sizes} were measured, at least {asked} are asked", fewest.name));
    }
    let possible = smallest_p(changed, unchanged) * tests.len() as f64;
    if possible > policy.alpha_of(policy.looks) {
        let why = format!("{}: {sizes} can show nothing: the least possible p is {possible:.3}", fewest.name);
        return (Say::Ask, why);
    }
    let compared = text::count(tests.len(), "comparison");
    if due < policy.looks {
        let rest = text::duration(policy.watched.saturating_sub(passed));
        let so_far = format!("no worse at look {due} of {} in {compared}, {sizes}", policy.looks);
        return (Say::Ask, format!("{so_far}; the last look is in {rest}"));
    }
    let rate = 100.0 * upper_rate(changed);
    (
        Say::Go,
        format!(
            "no worse in {compared}, {sizes}; failures of one device in {:.0} or more often would have shown ({rate:.0} %)",
            100.0 / rate
        ),
    )
}

/// All tests on what was measured until `look` after the change.
fn tests_at(policy: &Policy, metrics: &[Metric<'_>], outcomes: &[Outcome], look: Duration) -> Vec<Tested> {
    let mut tests: Vec<Tested> = metrics.iter().map(|metric| of_metric(policy, metric, look)).collect();
    tests.extend(outcomes.iter().map(|outcome| of_outcome(outcome, look)));
    let adjusted = holm(&tests.iter().map(|test| test.p).collect::<Vec<_>>());
    for (test, p) in tests.iter_mut().zip(adjusted) {
        test.p = p;
        test.text = format!("{} (p = {p:.2e})", test.text);
    }
    tests
}

/// The middle of a device's values before and after its change.
struct Change {
    before: f64,
    after: f64,
}

impl Change {
    fn of(member: &Member<'_>, baseline: Duration, look: Duration) -> Option<Self> {
        let middle = |from: Timestamp, length: Duration| {
            let points = series::between(member.points, from, series::after(from, length));
            let (first, last) = (points.first()?, points.last()?);
            let spans = series::elapsed(first.at, last.at).as_secs_f64() >= LEAST_SPAN * length.as_secs_f64();
            let values: Vec<f64> =
                points.iter().map(|point| point.value).filter(|value| value.is_finite()).collect();
            if values.len() < LEAST_POINTS || !spans { None } else { median(&values) }
        };
        Some(Self {
            before: middle(series::before(member.changed_at, baseline), baseline)?,
            after: middle(member.changed_at, look)?,
        })
    }
}

fn of_metric(policy: &Policy, metric: &Metric<'_>, look: Duration) -> Tested {
    let measure = |members: &[Member<'_>]| -> Vec<Change> {
        let known: Vec<Change> =
            members.iter().filter_map(|member| Change::of(member, policy.baseline, look)).collect();
        spread(known)
    };
    let (changed, unchanged) = (measure(&metric.changed), measure(&metric.unchanged));
    let sign = match metric.worse {
        Worse::Higher => 1.0,
        Worse::Lower => -1.0,
    };
    let differences = |group: &[Change]| {
        group.iter().map(|change| sign * (change.after - change.before)).collect::<Vec<_>>()
    };
    let (ours, theirs) = (differences(&changed), differences(&unchanged));
    let p = rank_sum_greater(&ours, &theirs).map_or(1.0, |test| test.p);
    let before = median(&changed.iter().map(|change| change.before.abs()).collect::<Vec<_>>());
    let rise = shift(&ours, &theirs);
    let worse_by = rise.zip(before).map(|(rise, before)| match before > 0.0 {
        true => rise / before,
        // From nothing to something is more than any part of nothing.
        false if rise > 0.0 => f64::INFINITY,
        false => 0.0,
    });
    let by = worse_by.map_or("cannot be compared".to_owned(), |by| match by.is_finite() {
        true => format!("{:+.1} %", 100.0 * sign * by),
        false => "from 0".to_owned(),
    });
    let text = format!(
        "{} {by} beside devices that did not change, {} against {}",
        metric.name,
        text::count(changed.len(), "device"),
        unchanged.len()
    );
    let name = metric.name.clone();
    Tested { name, changed: changed.len(), unchanged: unchanged.len(), p, worse_by, text }
}

/// At most [`MOST_DEVICES`] of a group, spread evenly.
fn spread<T>(group: Vec<T>) -> Vec<T> {
    let all = group.len();
    if all <= MOST_DEVICES {
        return group;
    }
    let is_taken = |index: usize| index * MOST_DEVICES / all != (index + 1) * MOST_DEVICES / all;
    group.into_iter().enumerate().filter(|(index, _)| is_taken(*index)).map(|(_, item)| item).collect()
}

fn of_outcome(outcome: &Outcome, look: Duration) -> Tested {
    let count = |group: &[Option<Duration>]| {
        let hit = group.iter().filter(|after| after.is_some_and(|after| after <= look)).count();
        (hit as u64, group.len() as u64)
    };
    let (ours, theirs) = (count(&outcome.changed), count(&outcome.unchanged));
    let share = |(hit, all): (u64, u64)| if all == 0 { 0.0 } else { hit as f64 / all as f64 };
    Tested {
        name: outcome.name.clone(),
        changed: outcome.changed.len(),
        unchanged: outcome.unchanged.len(),
        p: if theirs.1 == 0 { 1.0 } else { fisher_greater(ours, theirs) },
        worse_by: (ours.1 > 0 && theirs.1 > 0).then(|| share(ours) - share(theirs)),
        text: format!("{}: {} of {} against {} of {}", outcome.name, ours.0, ours.1, theirs.0, theirs.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3600;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + hour * HOUR).unwrap()
    }

    fn name() -> DeviceName {
        "d".parse().unwrap()
    }

    #[test]
    fn a_counter_is_measured_by_its_own_past() {
        let check = |values: &[(i64, f64)], expected: Option<u64>| {
            let points: Vec<Point> =
                values.iter().map(|(hour, value)| Point { at: at(*hour), value: *value }).collect();
            let found = rose_more(&points, at(0), Duration::from_secs(24 * 3600));
            assert_eq!(found.map(|after| after.as_secs() / 3600), expected, "{values:?}");
        };
        check(&[], None);
        check(&[(-20, 3.0), (-1, 3.0), (1, 3.0), (9, 3.0)], None);
        check(&[(-20, 3.0), (-1, 3.0), (1, 3.0), (9, 4.0)], Some(9));
        // It restarted twice before, so two restarts are nothing new.
        check(&[(-20, 1.0), (-1, 3.0), (1, 3.0), (5, 5.0)], None);
        check(&[(-20, 1.0), (-1, 3.0), (1, 3.0), (5, 5.0), (6, 6.0)], Some(6));
        // What is older than the baseline does not count, and neither does what happens while it changes.
        check(&[(-30, 0.0), (-25, 9.0), (-1, 9.0), (1, 10.0), (2, 10.0)], None);
        check(&[(-30, 0.0), (-25, 9.0), (-1, 9.0), (1, 10.0), (2, 11.0)], Some(2));
        // A boot begins the counter anew.
        check(&[(-2, 9.0), (-1, 9.0), (1, 0.0), (2, 0.0), (3, 1.0)], Some(3));
    }

    /// A device with this level for a day before its change at hour 0, and another one for a day after it.
    fn device(before: f64, after: f64) -> Vec<Point> {
        (-24..24).map(|hour| Point { at: at(hour), value: if hour < 0 { before } else { after } }).collect()
    }

    fn devices(count: usize, rise: f64) -> Vec<Vec<Point>> {
        (0..count).map(|n| device(50.0 + n as f64, 50.0 + n as f64 * 1.01 + rise)).collect()
    }

    fn members<'a>(device: &'a DeviceName, group: &'a [Vec<Point>]) -> Vec<Member<'a>> {
        group.iter().map(|points| Member { device, changed_at: at(0), points }).collect()
    }

    fn ask(changed: &[Vec<Point>], unchanged: &[Vec<Point>], worse: Worse, hour: i64) -> Comparison {
        let name = name();
        let members = |group| members(&name, group);
        let metric = Metric {
            name: "memory".to_owned(),
            worse,
            changed: members(changed),
            unchanged: members(unchanged),
        };
        compare(&Policy::default(), &[metric], &[], at(0), at(hour))
    }

    fn check(found: &Comparison, say: Say, look: u32, reason: &str) {
        assert_eq!((found.say, found.look, found.reason.as_str()), (say, look, reason), "{found:?}");
    }

    #[test]
    fn a_difference_stops_and_none_goes() {
        let (same, more) = (devices(5, 0.0), devices(5, 10.0));
        let others = devices(50, 0.0);
        check(
            &ask(&same, &others, Worse::Higher, 24),
            Say::Go,
            4,
            "no worse in 1 comparison, 5 changed devices against 50 unchanged; failures of one device in 2 or more often \
             would have shown (45 %)",
        );
        let stop = "worse at look 1 of 4: memory +18.8 % beside devices that did not change, 5 devices against 50 \
                    (p = 2.87e-7)";
        check(&ask(&more, &others, Worse::Higher, 7), Say::Stop, 1, stop);
        // What was said once is said later as well.
        check(&ask(&more, &others, Worse::Higher, 24), Say::Stop, 1, stop);
        assert_eq!(ask(&more, &others, Worse::Lower, 24).say, Say::Go);
        assert_eq!(ask(&devices(5, -10.0), &others, Worse::Lower, 24).say, Say::Stop);
        // Below the floor of 5 %.
        assert_eq!(ask(&devices(5, 2.0), &others, Worse::Higher, 24).say, Say::Go);
    }

    #[test]
    fn until_the_last_look_and_without_data_it_asks() {
        let (same, others) = (devices(5, 0.0), devices(50, 0.0));
        check(&ask(&same, &others, Worse::Higher, 1), Say::Ask, 0, "the first look is in 5 h");
        let so_far = "no worse at look 2 of 4 in 1 comparison, 5 changed devices against 50 unchanged; the last look is in 11 h";
        check(&ask(&same, &others, Worse::Higher, 13), Say::Ask, 2, so_far);
        check(
            &ask(&same[..2], &others, Worse::Higher, 24),
            Say::Ask,
            4,
            "memory: 2 changed devices against 50 unchanged were measured, at least 3 are asked",
        );
        check(
            &ask(&devices(3, 99.0), &others[..3], Worse::Higher, 24),
            Say::Ask,
            4,
            "memory: 3 changed devices against 3 unchanged can show nothing: the least possible p is 0.050",
        );
        assert_eq!(ask(&same, &[], Worse::Higher, 24).say, Say::Ask);
        let empty = vec![Vec::new(); 5];
        assert_eq!(ask(&empty, &others, Worse::Higher, 24).say, Say::Ask);
        assert_eq!(ask(&[vec![], vec![], vec![], vec![]], &[vec![]], Worse::Higher, 24).say, Say::Ask);
        let silly = vec![device(f64::NAN, f64::INFINITY); 5];
        assert_eq!(ask(&silly, &others, Worse::Higher, 24).say, Say::Ask);
        let nothing = compare(&Policy::default(), &[], &[], at(0), at(24));
        check(&nothing, Say::Ask, 4, "nothing was measured that could be compared");
    }

    #[test]
    fn a_shift_of_all_devices_is_nobodys_fault() {
        let all = |count| (0..count).map(|n| device(50.0 + n as f64, 90.0 + n as f64)).collect::<Vec<_>>();
        assert_eq!(ask(&all(5), &all(50), Worse::Higher, 24).say, Say::Go);
    }

    #[test]
    fn failures_are_counted_exactly() {
        let hours = |hours: &[u64]| -> Vec<Option<Duration>> {
            let failed = hours.iter().map(|hour| Some(Duration::from_secs(hour * 3600)));
            failed.chain(std::iter::repeat(None)).take(10).collect()
        };
        let outcome = |failed: &[u64]| Outcome {
            name: "silent".to_owned(),
            changed: hours(failed),
            unchanged: vec![None; 1000],
        };
        let ask =
            |failed: &[u64], hour| compare(&Policy::default(), &[], &[outcome(failed)], at(0), at(hour));
        assert_eq!(ask(&[], 24).say, Say::Go);
        let found = ask(&[1, 2, 20], 24);
        assert_eq!((found.say, found.look), (Say::Stop, 2), "{found:?}");
        assert_eq!(found.reason, "worse at look 2 of 4: silent: 2 of 10 against 0 of 1000 (p = 8.83e-5)");
        assert_eq!(ask(&[20, 21], 18).say, Say::Ask);
    }

    #[test]
    fn large_groups_are_thinned_evenly() {
        let taken = spread((0..1000).collect::<Vec<_>>());
        assert_eq!(taken.len(), MOST_DEVICES);
        assert!(taken.windows(2).all(|pair| pair[1] - pair[0] == 5));
        assert_eq!(spread(vec![1, 2]), [1, 2]);
    }
}
