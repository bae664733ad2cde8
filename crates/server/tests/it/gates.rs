//! Gates that rest on the clock and on what was measured.

use std::io::Write;

use serde_json::json;
use volary_api::v1::device::Desired;
use volary_api::v1::fleet::{GateStatus, Say, TokenSecret, Verdict};

use crate::alerts::alerts;
use crate::metrics::samples;
use crate::support::{Client, DeviceKey, TestServer, good_report, wait_for};

const GATED: &str = "version: 1
stages:
  development: { branch: master, packages: rolling }
  canary:      { branch: canary, from: development }
  production:  { branch: production, from: canary }
gates:
  canary:
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
    let gated = fleet.commit("volary.yml", GATED, "Set gates");
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

const TOLD: &str = "version: 1
stages:
  development: { branch: master, packages: rolling }
  canary:      { branch: canary, from: development }
  production:  { branch: production, from: canary }
gates:
  canary:
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
    let gated = fleet.commit("volary.yml", TOLD, "Set gates");
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
    let gated = fleet.commit("volary.yml", &text, "Set gates");
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
