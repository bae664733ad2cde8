//! Lives of alerts, told step by step, and what holds in any life.

use std::collections::BTreeSet;

use proptest::prelude::{ProptestConfig, Strategy, prop, proptest};

use super::*;
use crate::condition::{Condition, Ending, Observed, Standing};
use crate::watch::{Finding, State};

const POLICY: Policy = Policy {
    hold: Duration::from_secs(60),
    settle: Duration::from_secs(300),
    spread: Duration::from_secs(300),
};

fn at(seconds: u32) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + i64::from(seconds)).unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
}

fn firing(device: &str, check: &str) -> Firing {
    Firing {
        rule: DEVICE_FAILED.into(),
        device: device.parse().unwrap(),
        labels: labels(&[(STEP, "check"), (CHECK, check), (RELEASE, "v1.3"), (DEVICE_TYPE, "pi4")]),
        from: Some("v1.2".into()),
        severity: Severity::Warning,
        summary: format!("check {check:?}: no answer"),
    }
}

/// A life: at each second what fires, and what that came to.
#[derive(Default)]
struct Life {
    alerts: Vec<Alert>,
    silences: Vec<Silence>,
    next_id: u64,
}

impl Life {
    fn step(&mut self, second: u32, firing: &[Firing]) -> Decision {
        let input = Input {
            before: &self.alerts,
            firing,
            silences: &self.silences,
            policy: POLICY,
            next_id: self.next_id,
            now: at(second),
        };
        let decision = decide(&input);
        let ids = decision
            .alerts
            .iter()
            .map(|alert| alert.id + 1)
            .chain(decision.forgotten.iter().map(|id| id + 1));
        self.next_id = ids.max().unwrap_or(0).max(self.next_id);
        self.alerts.clone_from(&decision.alerts);
        self.alerts.retain(|alert| alert.state != AlertState::Resolved);
        decision
    }

    fn silence(&mut self, matchers: &[&str], until: u32) {
        let matchers = matchers.iter().map(|matcher| matcher.parse().unwrap()).collect();
        self.silences.push(Silence { id: 1, matchers, ends_at: at(until) });
    }
}

/// What is told at each step of a life.
#[track_caller]
fn check(life: &mut Life, steps: &[(u32, &[Firing], &str)]) {
    for (second, firing, expected) in steps {
        let decision = life.step(*second, firing);
        let told: Vec<String> = decision
            .changes
            .iter()
            .map(|(id, change)| {
                let alert = decision.alerts.iter().find(|alert| alert.id == *id).unwrap();
                format!(
                    "{id} {}: {}",
                    change.as_str(),
                    sentence(alert, alert.heard(&life.silences, at(*second)))
                )
            })
            .collect();
        assert_eq!(told.join("; "), *expected, "at {second} s");
    }
}

#[test]
fn one_message_tells_of_all_devices_with_one_cause() {
    let many: Vec<Firing> = (0..312).map(|index| firing(&format!("d{index}"), "dns")).collect();
    let steps: &[(u32, &[Firing], &str)] = &[
        (0, &many, ""),
        (59, &many, ""),
        (60, &many, "0 began: 312 devices: check dns, v1.2 to v1.3, type pi4"),
        (90, &many, ""),
        (100, &[], ""),
        (399, &[], ""),
        (400, &[], "0 resolved: 312 devices: check dns, v1.2 to v1.3, type pi4"),
        (500, &[], ""),
    ];
    check(&mut Life::default(), steps);
}

#[test]
fn causes_are_told_apart() {
    let both = [firing("a", "dns"), firing("b", "disk"), firing("a", "disk")];
    let steps: &[(u32, &[Firing], &str)] = &[
        (0, &both, ""),
        (
            60,
            &both,
            "0 began: 2 devices: check disk, v1.2 to v1.3, type pi4; 1 began: a: check dns, v1.2 to v1.3, type pi4",
        ),
    ];
    check(&mut Life::default(), steps);
}

#[test]
fn what_is_short_is_not_told_and_what_flaps_is_told_once() {
    let one = [firing("a", "dns")];
    let steps: &[(u32, &[Firing], &str)] = &[
        (0, &one, ""),
        (30, &[], ""),
        (330, &[], ""),
        // It comes and goes, and never for as long as is waited for.
        (400, &one, ""),
        (430, &[], ""),
        (460, &one, "1 began: a: check dns, v1.2 to v1.3, type pi4"),
        (490, &[], ""),
        (600, &one, ""),
        (700, &[], ""),
        (999, &[], ""),
        (1000, &[], "1 resolved: a: check dns, v1.2 to v1.3, type pi4"),
    ];
    check(&mut Life::default(), steps);
}

#[test]
fn spread_and_worsening_are_told() {
    let some = |count: usize| -> Vec<Firing> {
        (0..count).map(|index| firing(&format!("d{index}"), "dns")).collect()
    };
    let mut worse = some(4);
    worse[2].severity = Severity::Critical;
    let text =
        |kind: &str, count: u32| format!("0 {kind}: {count} devices: check dns, v1.2 to v1.3, type pi4");
    let steps: &[(u32, &[Firing], &str)] = &[
        (0, &some(2), ""),
        (60, &some(2), &text("began", 2)),
        (61, &some(4), ""),
        (360, &some(3), &text("spread", 4)),
        (700, &some(4), ""),
        (701, &worse, &text("worse", 4)),
        (702, &worse, ""),
    ];
    check(&mut Life::default(), steps);
}

#[test]
fn silences_cover_devices_and_alerts_until_they_end() {
    let both = [firing("shop-1", "dns"), firing("home-1", "dns")];
    let mut life = Life::default();
    life.silence(&["device=shop-*", "rule=device-failed"], 1000);
    let steps: &[(u32, &[Firing], &str)] = &[
        (0, &both, ""),
        (60, &both, "0 began: home-1: check dns, v1.2 to v1.3, type pi4"),
        (999, &both, ""),
        (1000, &both, "0 spread: 2 devices: check dns, v1.2 to v1.3, type pi4"),
    ];
    check(&mut life, steps);
    let mut life = Life::default();
    life.silence(&["check=dns"], 500);
    let steps: &[(u32, &[Firing], &str)] = &[
        (0, &both, ""),
        (60, &both, ""),
        (500, &both, "0 began: 2 devices: check dns, v1.2 to v1.3, type pi4"),
    ];
    check(&mut life, steps);
    let mut life = Life::default();
    life.silence(&["release=v1.4"], 500);
    check(&mut life, &[(0, &both, ""), (60, &both, "0 began: 2 devices: check dns, v1.2 to v1.3, type pi4")]);
}

#[test]
fn a_server_that_just_began_finds_nobody_silent() {
    let silent = |device: &str| Firing { rule: DEVICE_SILENT.into(), ..firing(device, "x") };
    let mut life = Life::default();
    life.step(0, &[silent("a")]);
    let left = without_new(vec![silent("a"), silent("b"), firing("c", "dns")], &life.alerts, DEVICE_SILENT);
    let names: Vec<&str> = left.iter().map(|one| one.device.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
}

#[test]
fn conditions_become_causes() {
    let observed = Observed {
        standing: Standing::Accepted,
        seen_at: None,
        commit: None,
        suite: Some("v1.3/r1".into()),
        ending: Some(Ending::Good),
        packages: BTreeMap::new(),
        image: Some(("pi4".into(), "2026.1".into())),
        failed_units: vec!["a.service".into()],
        failed_checks: vec![],
        waiting: vec![],
        drift: None,
    };
    let device = "d".parse().unwrap();
    let check = |condition, observed: &Observed, expected: &str| {
        let fires = of_condition(&Subject {
            device: &device,
            stage: Some("canary"),
            observed,
            has: Some("v1.2/r1"),
            condition,
            reason: "why\nnot",
        });
        let said = fires.map_or_else(String::new, |fires| {
            let labels: Vec<String> =
                fires.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
            format!("{} {} {}: {}", fires.rule, fires.severity.as_str(), labels.join(" "), fires.summary)
        });
        assert_eq!(said, expected);
    };
    check(Condition::Good, &observed, "");
    check(Condition::Converging, &observed, "");
    check(
        Condition::Failed,
        &observed,
        "device-failed critical check=a.service release=v1.3/r1 stage=canary step=units type=pi4: why",
    );
    let reverted = |left: &[&str]| Observed {
        ending: Some(Ending::Reverted {
            to: None,
            step: "check".into(),
            what: "dns".into(),
            message: String::new(),
            left: left.iter().map(|left| (*left).to_owned()).collect(),
            quarantined: true,
        }),
        ..observed.clone()
    };
    let dns = "check=dns release=v1.3/r1 stage=canary step=check type=pi4: why";
    check(Condition::Failed, &reverted(&[]), &format!("device-failed warning {dns}"));
    check(Condition::Failed, &reverted(&["x"]), &format!("device-failed critical {dns}"));
    let rest = "release=v1.3/r1 stage=canary type=pi4: why";
    check(Condition::Silent, &observed, &format!("device-silent warning {rest}"));
    check(Condition::Refused, &observed, &format!("device-refused critical {rest}"));
}

#[test]
fn watch_rules_become_causes_and_missing_data_changes_nothing() {
    let finding = |state| Finding {
        rule: "leak".into(),
        device: "a".parse().unwrap(),
        series: "unit_memory_bytes{unit=\"app.service\"}".into(),
        state,
        severity: Severity::Critical,
        text: "3 % a day\nrestart it".into(),
        since: None,
    };
    let at_release = |release| Place { stage: Some("canary"), release: Some(release), device_type: None };
    let place = at_release("v1.3/r1");
    assert_eq!(of_finding(&finding(State::Quiet), &place, &[]), None);
    assert_eq!(of_finding(&finding(State::NotEnough), &place, &[]), None);
    let fires = of_finding(&finding(State::Firing), &place, &[]).unwrap();
    assert_eq!(fires.summary, "3 % a day");
    let mut life = Life::default();
    life.step(0, std::slice::from_ref(&fires));
    let text = "a: leak unit_memory_bytes{unit=\"app.service\"}, v1.3/r1, stage canary";
    check(&mut life, &[(60, std::slice::from_ref(&fires), &format!("0 began: {text}"))]);
    // Also if it got another release meanwhile: that does not say that the leak is gone.
    let later = of_finding(&finding(State::NotEnough), &at_release("v1.4/r1"), &life.alerts);
    assert_eq!(later, Some(fires));
}

#[test]
fn long_lists_of_devices_are_cut() {
    let many: Vec<Firing> = (0..5).map(|index| firing(&format!("d{index}"), "dns")).collect();
    let mut life = Life::default();
    let decision = life.step(0, &many);
    let lines = details(decision.alerts[0].devices.iter(), 2);
    assert_eq!(lines, ["d0: check \"dns\": no answer", "d1: check \"dns\": no answer", "and 3 more devices"]);
}

/// What fires at each of some times: bits say which of three devices fail which of two checks.
fn lives() -> impl Strategy<Value = Vec<(u32, u8)>> {
    prop::collection::vec((1_u32..400, 0_u8..64), 1..60)
}

fn fires(bits: u8) -> Vec<Firing> {
    let pairs = [("a", "dns"), ("b", "dns"), ("c", "dns"), ("a", "disk"), ("b", "disk"), ("c", "disk")];
    let chosen = pairs.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
    chosen.map(|(_, (device, check))| firing(device, check)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn alerts_begin_once_end_once_and_never_overlap(life in lives(), quiet: bool) {
        let (mut alerts, mut second) = (Life::default(), 0);
        if quiet {
            alerts.silence(&["rule=*"], u32::MAX);
        }
        let (mut began, mut resolved) = (BTreeSet::new(), BTreeSet::new());
        for (wait, bits) in life {
            second += wait;
            let now = fires(bits);
            let decision = alerts.step(second, &now);
            for (id, change) in &decision.changes {
                match change {
                    Change::Began => assert!(began.insert(*id)),
                    Change::Resolved => assert!(began.contains(id) && resolved.insert(*id)),
                    Change::Spread | Change::Worse => assert!(began.contains(id) && !resolved.contains(id)),
                }
            }
            assert!(!quiet || decision.changes.is_empty());
            let open: Vec<_> = alerts.alerts.iter().map(|alert| (&alert.rule, &alert.labels)).collect();
            assert_eq!(open.iter().collect::<BTreeSet<_>>().len(), open.len(), "one alert a cause");
            for one in &now {
                let alert = alerts.alerts.iter().find(|alert| alert.labels == one.labels).unwrap();
                assert!(alert.devices[&one.device].quiet_since.is_none());
            }
            for alert in &alerts.alerts {
                assert!(!alert.devices.is_empty() && alert.most >= alert.devices.len());
            }
        }
        // All is quiet in the end, and everything that began has ended.
        alerts.step(second + 1, &[]);
        let last = alerts.step(second + 301, &[]);
        resolved.extend(last.changes.iter().map(|(id, _)| *id));
        assert!(alerts.alerts.is_empty());
        assert_eq!(began, resolved);
    }

    #[test]
    fn the_order_of_what_fires_does_not_matter(life in lives()) {
        let (mut forward, mut backward, mut second) = (Life::default(), Life::default(), 0);
        for (wait, bits) in life {
            second += wait;
            let mut now = fires(bits);
            // The same device twice, once worse.
            now.extend(now.first().cloned().map(|one| Firing { severity: Severity::Critical, ..one }));
            let one = forward.step(second, &now);
            now.reverse();
            backward.alerts.reverse();
            assert_eq!(one, backward.step(second, &now));
        }
    }

    #[test]
    fn matchers_of_any_text_are_refused_or_kept(text in "\\PC{0,40}") {
        if let Ok(matcher) = text.parse::<Matcher>() {
            assert_eq!(matcher.to_string(), text);
        }
    }
}
