//! Rules on small histories.

use volary_model::{Bound, SeriesPattern};

use super::*;
use crate::series::Point;

const START: i64 = 1_800_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(START + seconds).unwrap()
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn pattern(text: &str) -> SeriesPattern {
    text.parse().unwrap()
}

fn device(series: &[(&str, Vec<(i64, f64)>)]) -> Recorded {
    let mut device = Recorded::new("d1".parse().unwrap(), "canary".parse().unwrap());
    for (name, points) in series {
        let points = points.iter().map(|(second, value)| Point { at: at(*second), value: *value }).collect();
        device.series.insert((*name).to_owned(), points);
    }
    device
}

/// A value each `step` seconds from 0 until before `until`.
fn each(step: i64, until: i64, value: impl Fn(i64) -> f64) -> Vec<(i64, f64)> {
    (0..until / step).map(|n| (n * step, value(n * step))).collect()
}

fn rule(kind: WatchKind, held_for: u64, clear_after: u64) -> WatchRule {
    WatchRule {
        name: "r".to_owned(),
        kind,
        stages: Vec::new(),
        held_for: seconds(held_for),
        clear_after: seconds(clear_after),
        severity: Severity::Warning,
        text: "look".to_owned(),
    }
}

fn only(rule: &WatchRule, device: &Recorded, second: i64) -> Finding {
    let mut findings = judge(rule, device, at(second));
    assert_eq!(findings.len(), 1, "{findings:?}");
    findings.remove(0)
}

#[track_caller]
fn check(rule: &WatchRule, device: &Recorded, second: i64, state: State, text: &str) {
    let finding = only(rule, device, second);
    assert_eq!((finding.state, finding.text.as_str()), (state, text));
    assert_eq!(finding.since.is_some(), state == State::Firing);
}

fn above(bound: f64) -> WatchKind {
    WatchKind::Threshold { series: pattern("temperature_celsius"), bound: Bound::Above(bound), part_of: None }
}

#[test]
fn a_threshold_fires_after_its_time_and_clears_after_its_time() {
    let hot = |second: i64| if (600..1800).contains(&second) { 90.0 } else { 50.0 };
    let device = device(&[("temperature_celsius{zone=\"cpu\"}", each(10, 3600, hot))]);
    let rule = rule(above(80.0), 300, 120);
    check(&rule, &device, 500, State::Quiet, "50 °C, at most 80 °C is right");
    check(&rule, &device, 700, State::Quiet, "90 °C, at most 80 °C is right");
    check(&rule, &device, 960, State::Firing, "90 °C, at most 80 °C is right; look");
    check(&rule, &device, 1850, State::Firing, "50 °C, at most 80 °C is right; look");
    check(&rule, &device, 1960, State::Quiet, "50 °C, at most 80 °C is right");
    let finding = only(&rule, &device, 960);
    assert_eq!(
        (finding.series.as_str(), finding.severity),
        ("temperature_celsius{zone=\"cpu\"}", Severity::Warning)
    );
    assert_eq!(only(&rule, &device, 20_000).state, State::NotEnough);
}

#[test]
fn a_value_at_its_bound_does_not_flap() {
    // It crosses the bound each minute; a rule without times would come and go 120 times.
    let device = device(&[(
        "temperature_celsius",
        each(10, 7200, |second| 80.0 + f64::from((second / 60 % 2) as i32) * 2.0),
    )]);
    let (nervous, calm) = (rule(above(81.0), 0, 0), rule(above(81.0), 300, 300));
    let episodes = |rule: &WatchRule| replay(rule, &device, at(0), at(7200)).0.len();
    assert!(episodes(&nervous) > 50 && episodes(&calm) == 0, "{} {}", episodes(&nervous), episodes(&calm));
    // One that was on for long goes on while the value comes back again and again.
    let device = self::device(&[(
        "temperature_celsius",
        each(10, 7200, |second| if second < 1000 || second % 250 < 200 { 90.0 } else { 50.0 }),
    )]);
    let found = replay(&rule(above(81.0), 180, 300), &device, at(0), at(7190)).0;
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn a_part_is_of_its_sibling() {
    let kind = WatchKind::Threshold {
        series: pattern("disk_free_bytes{mount=\"/*\"}"),
        bound: Bound::Below(0.1),
        part_of: Some("disk_size_bytes".to_owned()),
    };
    let mut device = device(&[
        ("disk_free_bytes{mount=\"/\"}", vec![(0, 50.0)]),
        ("disk_free_bytes{mount=\"/data\"}", vec![(0, 5.0)]),
        ("disk_size_bytes{mount=\"/\"}", vec![(0, 100.0)]),
        ("disk_size_bytes{mount=\"/data\"}", vec![(0, 100.0)]),
    ]);
    let rule = rule(kind, 0, 0);
    let states = |device: &Recorded| {
        judge(&rule, device, at(60))
            .into_iter()
            .map(|finding| (finding.state, finding.text))
            .collect::<Vec<_>>()
    };
    let root = (State::Quiet, "50.0 %, at least 10.0 % is right".to_owned());
    let data = (State::Firing, "5.0 %, at least 10.0 % is right; look".to_owned());
    assert_eq!(states(&device), [root.clone(), data]);
    device.series.remove("disk_size_bytes{mount=\"/data\"}");
    assert_eq!(states(&device), [root, (State::NotEnough, "disk_size_bytes is not known".to_owned())]);
}

#[test]
fn what_is_not_there_is_absent_or_not_known() {
    let absence = |series: Option<&str>| {
        rule(WatchKind::Absence { series: series.map(pattern), longer_than: seconds(600) }, 0, 0)
    };
    let device = device(&[("a", vec![(0, 1.0), (60, 1.0)])]);
    check(&absence(None), &device, 300, State::Quiet, "last heard of, for 4 min");
    check(&absence(None), &device, 1000, State::Firing, "last heard of, for 15 min 40 s; look");
    check(&absence(Some("a")), &device, 1000, State::Firing, "last heard of, for 15 min 40 s; look");
    check(&absence(Some("b")), &device, 500, State::Quiet, "never heard of, for 8 min 20 s");
    check(&absence(Some("b")), &device, 700, State::Firing, "never heard of, for 11 min 40 s; look");
    let empty = Recorded::new("d".parse().unwrap(), "canary".parse().unwrap());
    check(&absence(None), &empty, 700, State::NotEnough, "the device has never been heard of");
    check(&rule(above(1.0), 0, 0), &empty, 700, State::NotEnough, "the device has no such series");
}

#[test]
fn counters_count_over_reboots() {
    let errors = |second: i64| if second < 600 { 100.0 } else { (second - 600) as f64 / 10.0 };
    let device = device(&[
        ("journal_errors_total{unit=\"x\"}", each(60, 1800, errors)),
        ("unit_restarts_total{unit=\"x\"}", each(60, 1800, |second| (second / 300) as f64)),
    ]);
    let rate = |above: f64| {
        rule(WatchKind::Rate { series: pattern("journal_errors_total"), above, within: seconds(3600) }, 0, 0)
    };
    check(&rate(100.0), &device, 1790, State::Firing, "114 more in 1 h, at most 100 is right; look");
    check(&rate(120.0), &device, 1790, State::Quiet, "114 more in 1 h, at most 120 is right");
    let flapping = |restarts| {
        rule(
            WatchKind::Flapping { series: pattern("unit_restarts_total"), restarts, within: seconds(700) },
            0,
            0,
        )
    };
    check(&flapping(2), &device, 1250, State::Firing, "2 restarts in 11 min 40 s; look");
    check(&flapping(3), &device, 1250, State::Quiet, "2 restarts in 11 min 40 s");
}

#[test]
fn a_boot_loop_fires_until_it_has_been_quiet() {
    let mut device = device(&[]);
    device.boots = [0, 300, 600, 900].map(at).to_vec();
    let rule = rule(WatchKind::RebootLoop { boots: 3, within: seconds(1800) }, 0, 1800);
    check(&rule, &device, 500, State::Quiet, "2 boots in 30 min");
    check(&rule, &device, 700, State::Firing, "3 boots in 30 min; look");
    check(&rule, &device, 3000, State::Firing, "0 boots in 30 min; look");
    check(&rule, &device, 4700, State::Quiet, "0 boots in 30 min");
    let (episodes, _) = replay(&rule, &device, at(0), at(9000));
    assert_eq!(episodes.len(), 1, "{episodes:?}");
    assert!(episodes[0].from >= at(600) && episodes[0].from <= at(1100), "{episodes:?}");
}

#[test]
fn skews_of_versions_and_clocks() {
    let mut device = device(&[("clock_offset_seconds", vec![(0, -90.0)])]);
    device.behind =
        vec![Behind { from: at(0), until: Some(at(5000)), why: "at aaa, its stage is at bbb".into() }];
    let skew = rule(WatchKind::VersionSkew { longer_than: seconds(3600) }, 0, 0);
    check(&skew, &device, 60, State::Quiet, "at aaa, its stage is at bbb, for 1 min");
    check(&skew, &device, 4000, State::Firing, "at aaa, its stage is at bbb, for 1 h 6 min; look");
    check(&skew, &device, 5000, State::Quiet, "it is what its stage wants");
    let clock = |more_than| rule(WatchKind::ClockSkew { more_than: seconds(more_than) }, 0, 0);
    check(&clock(60), &device, 30, State::Firing, "the clock is 1 min 30 s slow; look");
    check(&clock(120), &device, 30, State::Quiet, "the clock is 1 min 30 s slow");
}

#[test]
fn a_disk_that_fills_is_told_before_it_is_full() {
    let hour = 3600;
    let kind = WatchKind::Forecast {
        series: pattern("disk_free_bytes"),
        full_within: seconds(3 * 86_400),
        window: seconds(72 * 3600),
        part_of: Some("disk_size_bytes".to_owned()),
        free_below: 0.4,
    };
    let rule = rule(kind, 0, 0);
    let disk = |free: &dyn Fn(i64) -> f64| {
        device(&[
            ("disk_free_bytes", each(600, 72 * hour, free)),
            ("disk_size_bytes", each(600, 72 * hour, |_| 1e10)),
        ])
    };
    let falls = disk(&|second| 3e9 - 10_000.0 * second as f64);
    check(
        &rule,
        &falls,
        72 * hour,
        State::Firing,
        "394.8 MiB free (4 %), full in 11 h 30 min at 34.3 MiB an hour; look",
    );
    // A clean-up of half of it does not turn the trend around, and noise makes none.
    let cleaned = disk(&|second| 4e9 - 15_000.0 * second as f64 + if second > 60 * hour { 8e8 } else { 0.0 });
    assert_eq!(only(&rule, &cleaned, 72 * hour).state, State::Firing);
    let noise = disk(&|second| 3e9 + 1e7 * ((second / 600 * 7919 % 100) as f64 - 50.0));
    assert_eq!(only(&rule, &noise, 72 * hour).state, State::Quiet);
    let roomy = disk(&|second| 9e9 - 10_000.0 * second as f64);
    assert_eq!(only(&rule, &roomy, 72 * hour).state, State::Quiet);
    let young = disk(&|second| 3e9 - 10_000.0 * second as f64);
    assert_eq!(only(&rule, &young, 20 * hour).state, State::NotEnough);
}

#[test]
fn a_leak_is_watched_from_the_last_start_of_its_unit() {
    let kind = || WatchKind::Leak {
        series: pattern("unit_memory_bytes{unit=\"app*\"}"),
        window: seconds(600),
        at_least: 0.09,
    };
    let memory = |second: i64| 6e7 + second as f64 * 1_048_576.0 / 60.0;
    let name = |series: &str| format!("{series}{{unit=\"app.service\"}}");
    let mut device = device(&[
        (&name("unit_memory_bytes"), each(5, 1200, memory)),
        ("unit_memory_bytes{unit=\"other.service\"}", each(5, 1200, memory)),
        (&name("unit_restarts_total"), each(5, 1200, |_| 3.0)),
    ]);
    let rule = rule(kind(), 0, 25);
    let found = only(&rule, &device, 1190);
    assert_eq!(found.state, State::Firing);
    assert!(found.text.starts_with("71.9 MiB and 59.5 MiB an hour, +13.8 % in 10 min"), "{}", found.text);
    let (episodes, now) = replay(&rule, &device, at(0), at(1190));
    assert_eq!((episodes.len(), now.len()), (1, 1), "{episodes:?}");
    assert!(episodes[0].from <= at(640), "{episodes:?}");
    let restarts = each(5, 1200, |second| if second < 1000 { 3.0 } else { 0.0 });
    let restarts = restarts.into_iter().map(|(second, value)| Point { at: at(second), value }).collect();
    device.series.insert(name("unit_restarts_total"), restarts);
    check(&rule, &device, 1190, State::NotEnough, "watched for 3 min 10 s of 10 min since the last start");
}

#[test]
fn a_rule_needs_what_it_means_and_what_it_compares_with() {
    let part = WatchKind::Threshold {
        series: pattern("disk_free_bytes"),
        bound: Bound::Below(0.1),
        part_of: Some("disk_size_bytes".to_owned()),
    };
    let check = |kind: &WatchKind, series: &str, expected| {
        assert_eq!(needs(&rule(kind.clone(), 0, 0), series), expected, "{series}");
    };
    check(&part, "disk_free_bytes{mount=\"/\"}", true);
    check(&part, "disk_size_bytes{mount=\"/\"}", true);
    check(&part, "load1", false);
    check(&WatchKind::RebootLoop { boots: 3, within: seconds(60) }, "load1", false);
    let leak = WatchKind::Leak { series: pattern("unit_memory_bytes"), window: seconds(600), at_least: 0.09 };
    check(&leak, "unit_restarts_total{unit=\"x\"}", true);
}

#[test]
fn rules_watch_their_stages() {
    let mut rule = rule(above(1.0), 0, 0);
    rule.stages = vec!["production".parse().unwrap()];
    assert_eq!(judge(&rule, &device(&[("temperature_celsius", vec![(0, 9.0)])]), at(1)), []);
}

#[test]
fn a_history_is_written_and_read() {
    let mut device = device(&[("a{u=\"x\"}", vec![(0, 1.5)])]);
    device.boots.push(at(0));
    let text = serde_json::to_string(&device).unwrap();
    assert_eq!(serde_json::from_str::<Recorded>(&text).unwrap(), device);
}
