//! Devices and servers of neighbouring versions understand each other. What an agent before confirm
//! or undo sent is recorded in `recorded/agent-0.1.jsonl`; what a server of that time read is kept
//! below, as it stood then; what comes after us is invented.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use volary_api::v1::device::{
    Convergence, Desired, Drift, DriftedTask, Failure, Outcome, Quarantined, ReceivedBatch, Report, Reverted,
    Turn, Waiting,
};
use volary_model::{CommitId, StageName};

const OLDER: &str = include_str!("recorded/agent-0.1.jsonl");

/// The wire types of servers before confirm or undo. Not to be changed.
mod older {
    use super::{BTreeMap, CommitId, Deserialize, StageName, Timestamp};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    pub enum Outcome {
        Good,
        Failed,
        Refused,
    }

    #[derive(Debug, Deserialize)]
    pub struct Failure {
        pub step: String,
        #[serde(default)]
        pub what: String,
        pub message: String,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "that it is read is the test")]
    pub struct Convergence {
        pub commit: CommitId,
        #[serde(default)]
        pub suite: Option<String>,
        pub outcome: Outcome,
        #[serde(default)]
        pub failure: Option<Failure>,
        pub started_at: Timestamp,
        pub ended_at: Timestamp,
        #[serde(default)]
        pub changed_tasks: u32,
        #[serde(default)]
        pub packages: BTreeMap<String, (String, String)>,
    }

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "that it is read is the test")]
    pub struct Report {
        pub id: String,
        pub at: Timestamp,
        pub agent: String,
        pub boot_id: String,
        pub uptime: u64,
        pub stage: StageName,
        #[serde(default)]
        pub good_commit: Option<CommitId>,
        #[serde(default)]
        pub convergence: Option<Convergence>,
        #[serde(default)]
        pub packages: BTreeMap<String, String>,
        #[serde(default)]
        pub packages_total: u32,
        #[serde(default)]
        pub failed_units: Vec<String>,
        #[serde(default)]
        pub units: BTreeMap<String, String>,
        #[serde(default)]
        pub facts: BTreeMap<String, String>,
        #[serde(default)]
        pub suite_age: Option<u64>,
    }
}

fn commit(digit: char) -> CommitId {
    digit.to_string().repeat(40).parse().unwrap()
}

fn at() -> Timestamp {
    "2026-11-26T12:00:00Z".parse().unwrap()
}

/// The fullest report that this version makes.
fn ours() -> Report {
    let mut report: Report = serde_json::from_str(OLDER.lines().next().unwrap()).unwrap();
    report.convergence = Some(Convergence {
        commit: commit('b'),
        suite: Some("v1.0/r1".into()),
        outcome: Outcome::Failed,
        failure: Some(Failure {
            step: "units".into(),
            what: "x.service".into(),
            message: "it has failed and had not before".into(),
        }),
        started_at: at(),
        ended_at: at(),
        changed_tasks: 3,
        packages: BTreeMap::from([("pulse".into(), ("1.0".into(), "1.1".into()))]),
        reverted: Some(Reverted {
            by: "timer".into(),
            reason: "nobody confirmed it in time".into(),
            at: at(),
            restored: vec!["/etc/nftables.conf".into(), "pulse 1.1 to 1.0".into()],
            left: vec!["/etc/x: the disk is full".into()],
            rebooted: true,
            path_works: Some(true),
            quarantined: true,
            journal: "x[1]: no\n".into(),
        }),
    });
    report.waiting = Some(Waiting {
        commit: commit('c'),
        obstacles: vec!["no window is open".into()],
        held: false,
        turn: false,
    });
    report.quarantined = vec![Quarantined {
        commit: commit('b'),
        rolling: String::new(),
        failure: Failure { step: "units".into(), what: "x.service".into(), message: "failed".into() },
        at: at(),
        times: 1,
    }];
    report.drift = Some(Drift {
        at: at(),
        commit: commit('a'),
        tasks: vec![DriftedTask { task: "Write motd".into(), diff: "-a\n+b\n".into() }],
        tasks_total: 1,
        packages: BTreeMap::from([("pulse".into(), ("1.0".into(), "1.1".into()))]),
        failure: None,
    });
    report
}

#[test]
fn reports_of_an_older_agent_are_read_and_what_they_lack_has_a_default() {
    let reports: Vec<Report> = OLDER.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let ends: Vec<_> = reports
        .iter()
        .map(|report| report.convergence.as_ref().map(|run| (run.outcome, run.reverted.clone())))
        .collect();
    assert_eq!(ends, [Some((Outcome::Good, None)), Some((Outcome::Failed, None)), None]);
    for report in &reports {
        assert!(report.waiting.is_none() && report.quarantined.is_empty() && report.drift.is_none());
    }
    let checks: Vec<usize> = reports.iter().map(|report| report.checks.len()).collect();
    assert_eq!(checks, [2, 0, 2]);
}

#[test]
fn an_older_server_reads_our_reports_and_takes_none_for_good_that_is_not() {
    let text = serde_json::to_string(&ours()).unwrap();
    let read: older::Report = serde_json::from_str(&text).unwrap();
    let run = read.convergence.unwrap();
    assert_eq!(run.outcome, older::Outcome::Failed);
    let failure = run.failure.unwrap();
    assert_eq!((failure.step.as_str(), failure.what.as_str()), ("units", "x.service"));
    assert!(!failure.message.is_empty());
    assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), ours(), "and we read all of it again");
}

/// Puts a field that nobody knows yet into every object.
fn from_the_future(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            // These are maps from names to what they say: nothing there is a field.
            for (name, value) in fields.iter_mut() {
                if !["packages", "units", "facts"].contains(&name.as_str()) {
                    from_the_future(value);
                }
            }
            fields.insert("invented".into(), json!({"later": [1, "two", null]}));
        }
        Value::Array(items) => items.iter_mut().for_each(from_the_future),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_newer_agent_is_understood_as_far_as_we_go() {
    let mut value = serde_json::to_value(ours()).unwrap();
    from_the_future(&mut value);
    assert_eq!(
        serde_json::from_value::<Report>(value.clone()).unwrap(),
        ours(),
        "new fields are passed over"
    );
    value["convergence"]["outcome"] = json!("half-good");
    value["convergence"]["reverted"]["by"] = json!("watchdog");
    value["quarantined"][0]["failure"]["step"] = json!("moon");
    let read: Report = serde_json::from_value(value).unwrap();
    let run = read.convergence.unwrap();
    assert_eq!((run.outcome, run.reverted.unwrap().by.as_str()), (Outcome::Unknown, "watchdog"));
    assert_eq!(read.quarantined[0].failure.step, "moon");
}

#[test]
fn a_newer_server_is_understood_and_an_answer_that_is_not_known_is_no_grant() {
    let desired = json!({
        "stage": "canary", "branch": "canary", "commit": commit('a'), "rolling": "", "poll": 60, "invented": {},
    });
    assert_eq!(serde_json::from_value::<Desired>(desired).unwrap().commit, commit('a'));
    let turn = |value: Value| serde_json::from_value::<Turn>(value).unwrap();
    assert_eq!(turn(json!({"state": "granted", "seconds": 5, "invented": 1})), Turn::Granted { seconds: 5 });
    assert_eq!(turn(json!({"state": "lottery", "odds": 0.1})), Turn::Unknown);
    let batch = json!({"received": ["1"], "invented": []});
    assert_eq!(serde_json::from_value::<ReceivedBatch>(batch).unwrap().received, ["1"]);
}
