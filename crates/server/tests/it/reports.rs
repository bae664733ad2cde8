//! Reports: many at once, of older and newer agents, and of what was undone.

use std::io::Write;

use serde_json::{Value, json};
use volary_api::v1::device::{Desired, ReceivedBatch, Report};
use volary_api::v1::fleet::{Say, Verdict};
use volary_api::v1::status::{Condition, Device};

use crate::support::{Client, DeviceKey, TestServer, good_report, wait_for};

/// What an agent before confirm or undo sent.
const OLDER: &str = include_str!("../../../api/tests/recorded/agent-0.1.jsonl");

fn gzip(text: &str) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap()
}

fn send(device: &Client, lines: &[String]) -> ReceivedBatch {
    let body = gzip(&lines.join("\n"));
    device.post_bytes("/device/v1/reports/batch", &body, &[("content-encoding", "gzip")]).json()
}

fn shown(server: &TestServer) -> Device {
    server.admin().get("/api/v1/devices/dev-1").json()
}

fn kept(server: &TestServer, query: &str) -> Vec<Report> {
    server.admin().get(&format!("/api/v1/devices/dev-1/reports?{query}")).json()
}

#[test]
fn a_batch_counts_each_report_once_and_a_bad_one_does_not_keep_the_others_out() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let tip = device.get("/device/v1/desired").json::<Desired>().commit;
    let line = |id: &str| serde_json::to_string(&good_report(id, "development", tip.as_str(), None)).unwrap();
    let mut health: Value = serde_json::from_str(&line("3")).unwrap();
    health["convergence"] = Value::Null;
    let lines = [line("1"), "{\"id\": 7}".to_owned(), line("2"), health.to_string()];
    for _ in 0..2 {
        let answer = send(&device, &lines);
        assert_eq!(answer.received, ["1", "2", "3"]);
        let refused: Vec<_> = answer.refused.iter().map(|refused| refused.line).collect();
        assert_eq!(refused, [2]);
        assert!(answer.refused[0].error.contains("not a report"), "{}", answer.refused[0].error);
        let ids = |query: &str| -> Vec<String> {
            kept(&server, query).into_iter().map(|report| report.id).collect()
        };
        assert_eq!(ids("limit=9"), ["3", "2", "1"]);
        assert_eq!(ids("limit=9&results=true"), ["2", "1"]);
    }
    assert_eq!(send(&device, &[]).received, Vec::<String>::new());
    let many: Vec<String> = (0..1001).map(|_| "{}".to_owned()).collect();
    let body = gzip(&many.join("\n"));
    let answer = device.post_bytes("/device/v1/reports/batch", &body, &[("content-encoding", "gzip")]);
    answer.refused(413, "1001 reports");
}

#[test]
fn reports_of_older_and_newer_agents_are_kept_and_judged() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let older: Vec<String> = OLDER.lines().map(str::to_owned).collect();
    assert_eq!(send(&device, &older).received.len(), 3);
    let device_shown = shown(&server);
    assert_eq!(device_shown.condition, Condition::Failed);
    assert_eq!(device_shown.reason, "playbook \"Break\": Failed as requested from task");

    let mut newer: Value =
        serde_json::to_value(good_report("9999999999999999", "development", &"a".repeat(40), None)).unwrap();
    newer["convergence"]["outcome"] = json!("half-good");
    newer["convergence"]["invented"] = json!([1]);
    newer["mood"] = json!({"is": "fine"});
    assert!(device.post("/device/v1/reports", &newer).status.is_success());
    let device_shown = shown(&server);
    assert_eq!(device_shown.condition, Condition::Failed, "what is not understood is not good");
    assert!(device_shown.reason.contains("bring the server up to date"), "{}", device_shown.reason);
}

/// A report that a convergence to `commit` was undone and the device is at `back` again.
fn reverted(id: &str, stage: &str, commit: &str, back: &str) -> Report {
    let mut report = serde_json::to_value(good_report(id, stage, back, None)).unwrap();
    report["convergence"]["commit"] = json!(commit);
    report["convergence"]["outcome"] = json!("failed");
    report["convergence"]["failure"] =
        json!({"step": "units", "what": "x.service", "message": "it has failed and had not before\nlog"});
    report["convergence"]["reverted"] = json!({
        "by": "timer", "reason": "nobody confirmed it in time", "at": "2026-11-22T12:00:00Z",
        "restored": ["/etc/x.conf"], "left": [], "rebooted": false, "path_works": true, "quarantined": true,
        "journal": "x[1]: no",
    });
    report["quarantined"] = json!([{
        "commit": commit, "failure": {"step": "units", "what": "x.service", "message": "no"},
        "at": "2026-11-22T12:00:00Z", "times": 1,
    }]);
    serde_json::from_value(report).unwrap()
}

#[test]
fn a_commit_that_was_undone_somewhere_goes_no_further() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    let back = fleet.run(&["rev-parse", "HEAD"]);
    let gated = "version: 1
stages:
  development: { branch: master, packages: rolling }
  canary:      { branch: canary, from: development }
gates:
  canary: { healthy: { at_least: 51%, silent_at_most: 0%, devices_at_least: 2 } }
";
    let bad = fleet.commit("volary.yml", gated, "Set a gate");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&bad, "canary", "Bring the gate"))).unwrap();
    let bad = fleet.commit("site.yml", "- hosts: all\n", "Break");
    fleet.push("HEAD:master").unwrap();
    let devices = ["dev-1", "dev-2"].map(|name| DeviceKey::new().join(&server, name, "development"));
    let good = good_report("1", "development", &bad, Some("rolling"));
    assert!(devices[1].post("/device/v1/reports", &good).status.is_success());
    assert!(
        devices[0].post("/device/v1/reports", &reverted("1", "development", &bad, &back)).status.is_success()
    );

    let device = shown(&server);
    assert_eq!(device.condition, Condition::Failed);
    let why = format!("reverted to {}: units \"x.service\": it has failed and had not before", &back[..7]);
    assert_eq!(device.reason, why);
    let report = device.report.unwrap();
    assert_eq!(report.convergence.unwrap().reverted.unwrap().restored, ["/etc/x.conf"]);
    assert_eq!(report.quarantined[0].commit.as_str(), bad);
    wait_for("the event", || {
        server.events("device-failed").iter().any(|text| text.contains(&why)).then_some(())
    });

    let gates: Vec<Verdict> = wait_for("the gate has seen the commit", || {
        let gates: Vec<Verdict> = server.admin().get(&format!("/api/v1/gates?to=canary&commit={bad}")).json();
        (gates[0].say != Say::Ask).then_some(gates)
    });
    assert_eq!(gates[0].say, Say::Stop);
    assert_eq!(gates[0].reason, format!("1 of 2 devices good, 51 % are asked; failing: dev-1 ({why})"));
    let said = fleet.push(&format!("{}:canary", fleet.merge(&bad, "canary", "Go on"))).unwrap_err();
    assert!(said.contains("the gate \"healthy\" says stop"), "{said}");
}

#[test]
fn what_a_device_waits_for_and_what_has_drifted_is_shown() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let tip = device.get("/device/v1/desired").json::<Desired>().commit;
    let mut report =
        serde_json::to_value(good_report("1", "development", tip.as_str(), Some("rolling"))).unwrap();
    report["drift"] = json!({
        "at": "2026-11-22T12:00:00Z", "commit": tip, "tasks_total": 2,
        "tasks": [{"task": "Write motd", "diff": "-a\n+b"}, {"task": "Start <it>"}],
        "packages": {"pulse": ["1.0", "1.1"]},
    });
    assert!(device.post("/device/v1/reports", &report).status.is_success());
    let drifted = "drifted: 2 tasks would change something: \"Write motd\", \"Start <it>\"; pulse 1.0, the suite \
                   has 1.1";
    assert_eq!((shown(&server).condition, shown(&server).reason.as_str()), (Condition::Good, drifted));
    let cookie = format!("volary_token={}", server.admin_token());
    let page = server.anonymous().get_with("/", &[("cookie", &cookie)]).text();
    assert!(page.contains("Start &#60;it&#62;"), "{page}");

    report["id"] = json!("2");
    report["convergence"] = Value::Null;
    report["good_commit"] = json!("a".repeat(40));
    report["waiting"] = json!({"commit": tip, "obstacles": ["no window is open until 02:00"]});
    assert!(device.post("/device/v1/reports", &report).status.is_success());
    let page = server.anonymous().get_with("/", &[("cookie", &cookie)]).text();
    assert!(page.contains("no window is open until 02:00"), "{page}");
}
