//! Gates that rest on the clock and on what was measured.

use std::io::Write;

use volary_api::v1::device::Desired;
use volary_api::v1::fleet::{Say, Verdict};

use crate::alerts::alerts;
use crate::metrics::samples;
use crate::support::{DeviceKey, TestServer, good_report, wait_for};

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
    let of = |verdicts: &[Verdict], gate: &str| {
        let verdict = verdicts.iter().find(|verdict| verdict.gate == gate).unwrap();
        (verdict.say, verdict.reason.clone())
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
