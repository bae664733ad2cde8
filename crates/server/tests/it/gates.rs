//! Gates that rest on the clock and on what was measured.

use std::io::Write;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use volary_api::v1::device::{Desired, ReceivedBatch};
use volary_api::v1::fleet::{GateStatus, Say, TokenSecret, Verdict};

use crate::alerts::alerts;
use crate::metrics::samples;
use crate::support::{Client, DeviceKey, TestServer, good_report, wait_for, with_gates};

const GATED: &str = "  canary:
    watch: warning
    no_worse_than: production
    time: { open: \"00:00-24:00\" }
    freeze: true
freeze:
  - { stage: canary, from: 2020-01-01, until: 2100-01-01, reason: rest }
watch:
  - { name: memory, kind: threshold, series: memory_available_bytes, below: 1MiB, for: 0s, text: restart it }
";

#[test]
fn what_was_measured_and_the_clock_decide_a_merge() {
    let mut server = TestServer::start();
    let fleet = server.fleet_clone();
    let gated = fleet.commit("volary.yml", &with_gates(GATED), "Set gates");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&gated, "canary", "Bring the gates"))).unwrap();
    let commit = fleet.commit("note", "1", "Change");
    fleet.push("HEAD:master").unwrap();
    let ask = |server: &TestServer| -> Vec<Verdict> {
        server.admin().get(&format!("/api/v1/gates?to=canary&commit={commit}")).json()
    };
    let verdicts = ask(&server);
    assert_eq!(of(&verdicts, "watch").0, Say::Ask, "nothing was measured");
    assert_eq!(of(&verdicts, "no_worse_than").0, Say::Ask);
    assert_eq!(
        of(&verdicts, "time"),
        (Say::Go, "merges are let in now: 00:00-24:00, time zone: UTC".to_owned())
    );
    let frozen = "a freeze is on: 2020-01-01 00:00 to 2100-01-02 00:00: rest";
    assert_eq!(of(&verdicts, "freeze"), (Say::Stop, frozen.to_owned()));

    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let desired: Desired = device.get("/device/v1/desired").json();
    let report = good_report("1", "development", desired.commit.as_str(), Some("rolling"));
    assert!(device.post("/device/v1/reports", &report).status.is_success());
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(samples("1").to_string().as_bytes()).unwrap();
    let body = gzip.finish().unwrap();
    assert!(
        device.post_bytes("/device/v1/metrics", &body, &[("content-encoding", "gzip")]).status.is_success()
    );
    // A start measures at once.
    server.stop();
    server.resume();
    let verdicts = wait_for("the rules are asked", || {
        let verdicts = ask(&server);
        (of(&verdicts, "watch").0 == Say::Stop).then_some(verdicts)
    });
    let expected = "1 finding of severity warning or worse: memory on dev-1 (20.0 KiB, at least 1.0 MiB is right; restart it)";
    assert_eq!(of(&verdicts, "watch").1, expected);
    let (say, reason) = of(&verdicts, "no_worse_than");
    assert_eq!(say, Say::Ask, "{reason}");
    assert!(
        reason.contains("production changed itself") || reason.contains("the first look is in"),
        "{reason}"
    );
    wait_for("the finding is an alert", || {
        alerts(&server).into_iter().find(|alert| alert.rule == "memory" && alert.devices == 1)
    });
    // The hook reads what the server found; that listens on another port since its second start.
    fleet.run(&["remote", "set-url", "origin", &format!("{}/git/fleet.git", server.url)]);
    let merge = fleet.merge(&commit, "canary", "Promote");
    let said = fleet.push(&format!("{merge}:canary")).unwrap_err();
    assert!(said.contains("memory on dev-1"), "{said}");
}

const COMPARED: &str = "  canary: { no_worse_than: production }
";

/// Points of 60 hours, one for five minutes.
const POINTS: u32 = 720;

/// The devices had the commit for so many hours.
const HAVE_IT: i64 = 30;

/// What a device sends after days: its memory goes up and down over the day, and after the change it is `factor` times what
/// it was.
fn days(device: u32, factor: f64) -> Value {
    let changed = POINTS - HAVE_IT as u32 * 12;
    let memory = |point: u32| {
        let day = f64::from(point % 288) / 288.0 * std::f64::consts::TAU;
        let wobble = f64::from((point * 7919 + device * 104_729) % 1000) / 1000.0;
        let factor = if point > changed { factor } else { 1.0 };
        factor * (1e8 + f64::from(device) * 1e6 + 4e6 * day.sin() + 2e6 * wobble)
    };
    json!({
        "id": format!("{device:06}"), "boot_id": "b", "at": Timestamp::now(), "age": 0, "step": 300, "points": POINTS,
        "series": {
            "unit_memory_bytes{unit=\"app.service\"}": (0..POINTS).map(memory).collect::<Vec<f64>>(),
            "cpu_seconds_total": (0..POINTS).map(|point| f64::from(point) * 3.0).collect::<Vec<f64>>(),
            "unit_restarts_total{unit=\"app.service\"}": vec![2; POINTS as usize],
        },
    })
}

/// What the gate says of a commit that makes devices need `factor` times the memory, from what they send.
fn compared_by_measurements(factor: f64) -> (Say, String) {
    let mut server = TestServer::start();
    let fleet = server.fleet_clone();
    let gated = fleet.commit("volary.yml", &with_gates(COMPARED), "Set gates");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&gated, "canary", "Bring the gates"))).unwrap();
    let commit = fleet.commit("note", "1", "Change");
    fleet.push("HEAD:master").unwrap();
    wait_for("the commit", || server.admin().get("/api/v1/status").text().contains(&commit).then_some(()));
    server.stop();
    // All of it was merged days ago.
    let now = Timestamp::now();
    let moved = (now - SignedDuration::from_hours(HAVE_IT + 1)).as_millisecond();
    let database = format!("sqlite:{}", server.layout().database().display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let db = sqlx::SqlitePool::connect(&database).await.unwrap();
        let set = "UPDATE branches SET moved_at = CASE name WHEN 'master' THEN $1 ELSE $1 - 864000000 END";
        assert!(sqlx::query(set).bind(moved).execute(&db).await.unwrap().rows_affected() > 1);
        db.close().await;
    });
    server.resume();
    for number in 0..17 {
        let is_changed = number < 5;
        let (stage, at) = if is_changed { ("development", &commit) } else { ("production", &gated) };
        let device = DeviceKey::new().join(&server, &format!("dev-{number}"), stage);
        let mut report = good_report("1", stage, at, Some("rolling"));
        let run = report.convergence.as_mut().unwrap();
        (run.started_at, run.ended_at) = (now, now - SignedDuration::from_hours(HAVE_IT));
        assert!(device.post("/device/v1/reports", &report).status.is_success());
        let answer: ReceivedBatch =
            device.post("/device/v1/metrics", &days(number, if is_changed { factor } else { 1.0 })).json();
        assert_eq!(answer.received.len(), 1, "{:?}", answer.refused);
    }
    // A start measures at once.
    server.stop();
    server.resume();
    wait_for("the comparison", || {
        let verdicts: Vec<Verdict> =
            server.admin().get(&format!("/api/v1/gates?to=canary&commit={commit}")).json();
        let (say, reason) = of(&verdicts, "no_worse_than");
        // What was found while the devices reported may be of a part of them.
        (say != Say::Ask).then_some((say, reason))
    })
}

#[test]
fn devices_that_need_more_memory_than_those_before_the_change_stop_a_merge() {
    let (say, reason) = compared_by_measurements(1.2);
    assert_eq!(say, Say::Stop, "{reason}");
    assert!(
        reason.starts_with("worse at look ") && reason.contains("unit_memory_bytes{unit=\"app.service\"}"),
        "{reason}"
    );
    let (say, reason) = compared_by_measurements(1.0);
    assert_eq!(say, Say::Go, "{reason}");
    assert!(
        reason.starts_with("no worse in 3 comparisons, 5 changed devices against 12 unchanged"),
        "{reason}"
    );
}

const TOLD: &str = "  canary:
    command: { rig: 1h, other: 1h }
    external: { field-test: 7d }
";

/// Says by the subjects of the commits that it reads; the newest first.
const RIG: &str = r#"input=$(cat)
case $input in
*"Break the pump"*) echo first; echo "the pump broke"; echo; exit 1;;
*"Hang"*) echo waiting; sleep 600;;
*"Confuse"*) echo "what is this" >&2; exit 7;;
esac
test -r KEY && { echo "the server's key can be read"; exit 1; }
grep -q 'NoNewPrivs:.1' /proc/self/status || { echo "more rights can be had"; exit 1; }
grep -q 'CapEff:.0000000000000000' /proc/self/status || { echo "there are capabilities"; exit 1; }
echo "fine, with ${VOLARY_SECRET:-no secret}""#;

fn of(verdicts: &[Verdict], gate: &str) -> (Say, String) {
    let verdict = verdicts.iter().find(|verdict| verdict.gate == gate).unwrap();
    (verdict.say, verdict.reason.clone())
}

#[test]
fn a_command_of_the_server_speaks_for_a_gate_and_may_do_nothing_else() {
    let mut server = TestServer::made();
    let script = RIG.replace("KEY", &server.layout().evidence_key().display().to_string());
    let config = std::fs::read_to_string(server.layout().config()).unwrap();
    let command = toml::Value::from(vec!["/bin/sh".to_owned(), "-c".to_owned(), script]);
    let section = format!("\n[gate_commands.rig]\ncommand = {command}\ntimeout = 2\n");
    crate::support::write(server.layout().config(), format!("{config}{section}"));
    server.resume();
    let fleet = server.fleet_clone();
    let gated = fleet.commit("volary.yml", &with_gates(TOLD), "Set gates");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&gated, "canary", "Bring the gates"))).unwrap();
    let mut commit = String::new();
    for (subject, say, why) in [
        ("Improve the pump", Say::Go, "fine, with no secret ("),
        ("Confuse the rig", Say::Ask, "what is this ("),
        ("Hang for ever", Say::Ask, "it did not end within 2 s and was stopped ("),
        ("Break the pump", Say::Stop, "the pump broke ("),
    ] {
        commit = fleet.commit("note", subject, subject);
        fleet.push("HEAD:master").unwrap();
        let query = format!("/api/v1/gates?to=canary&commit={commit}");
        let verdicts = wait_for("the command has spoken", || {
            let verdicts: Vec<Verdict> = server.admin().get(&query).json();
            let not_yet = of(&verdicts, "command:rig").1.contains("has not been run");
            (!not_yet).then_some(verdicts)
        });
        let (said, reason) = of(&verdicts, "command:rig");
        assert!(said == say && reason.starts_with(why), "{subject}: {said:?} {reason}");
        let (said, reason) = of(&verdicts, "command:other");
        assert!(said == Say::Ask && reason.contains("[gate_commands.other]"), "{reason}");
    }
    let listed: Vec<GateStatus> = server.admin().get("/api/v1/gate-statuses").json();
    assert_eq!(listed.len(), 4, "each was run once: {listed:?}");
    assert_eq!(listed[0].stage.as_ref().unwrap().as_str(), "canary");
    let merge = fleet.merge(&commit, "canary", "Promote");
    let said = fleet.push(&format!("{merge}:canary")).unwrap_err();
    assert!(said.contains("the pump broke"), "{said}");
}

#[test]
fn others_speak_for_the_gates_of_their_token_only() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    let text = TOLD.replace("    command: { rig: 1h, other: 1h }\n", "");
    let gated = fleet.commit("volary.yml", &with_gates(&text), "Set gates");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&gated, "canary", "Bring the gates"))).unwrap();
    let commit = fleet.commit("note", "1", "Change");
    fleet.push("HEAD:master").unwrap();
    let verdict = || {
        let verdicts: Vec<Verdict> =
            server.admin().get(&format!("/api/v1/gates?to=canary&commit={commit}")).json();
        of(&verdicts, "external:field-test")
    };
    assert_eq!(verdict().0, Say::Ask, "nobody said anything");

    let token = |body: &serde_json::Value| server.admin().post("/api/v1/tokens", body);
    token(&json!({"name": "bench", "role": "gate"})).refused(400, "names its gates");
    token(&json!({"name": "bench", "role": "viewer", "limits": {"gates": ["field-test"]}}))
        .refused(400, "names its gates");
    let made: TokenSecret =
        token(&json!({"name": "bench", "role": "gate", "limits": {"gates": ["field-test"]}})).json();
    let bench = Client::new(&server, Some(made.secret), None);
    let say = |gate: &str, commit: &str, say: &str| {
        let said = json!({"gate": gate, "commit": commit, "say": say, "reason": "12 of 12 runs"});
        bench.post("/api/v1/gate-statuses", &said)
    };
    say("other", &commit, "go").refused(403, "may not speak for the gate other");
    say("field-test", &"a".repeat(40), "go").refused(404, "has no commit");
    bench.get("/api/v1/status").refused(403, "gate");
    let said = json!({"gate": "field-test", "commit": commit, "say": "go", "reason": "mine"});
    server.with_role("operator").post("/api/v1/gate-statuses", &said).refused(403, "operator");

    say("field-test", &commit, "stop");
    let (said, reason) = verdict();
    assert!(said == Say::Stop && reason.starts_with("12 of 12 runs (bench, "), "{reason}");
    let merge = fleet.merge(&commit, "canary", "Promote");
    assert!(fleet.push(&format!("{merge}:canary")).unwrap_err().contains("external:field-test"));
    say("field-test", &commit, "go");
    assert_eq!(verdict().0, Say::Go);
    fleet.push(&format!("{merge}:canary")).unwrap();
    // What it rested on can be proven later.
    wait_for("the evidence is kept", || (!server.events("evidence-kept").is_empty()).then_some(()));
    let git = volary_host::Cmd::new("git").cwd(server.layout().fleet());
    let note = git.args(["notes", "--ref", "volary-evidence", "show", &merge]).check().unwrap().text();
    assert!(note.contains("external:field-test") && note.contains("12 of 12 runs (bench, "), "{note}");
}
