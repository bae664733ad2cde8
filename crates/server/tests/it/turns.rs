//! Turns: at most so many devices of one site change at once, also over a restart.

use serde_json::{Value, json};
use volary_api::v1::device::Turn;
use volary_api::v1::status::Status;

use crate::support::{Client, DeviceKey, TestServer, good_report, wait_for};

const BOUNDED: &str = "version: 1
stages:
  development: { branch: master, packages: rolling }
  canary:      { branch: canary, from: development }
rollout:
  development: { per_site_at_most: 1 }
windows:
  development: { install: \"Mon..Fri 02:00-05:00\", time_zone: device }
freeze:
  - { stage: development, from: 2026-01-01, until: 2999-01-06, reason: Christmas business }
  - { stage: development, from: 2020-01-01, until: 2020-01-06, reason: long over }
";

/// Asks for a turn; `""` if it was given, else the reason.
#[track_caller]
fn ask(device: &Client, commit: &str, site: Option<&str>) -> String {
    let asked = json!({"stage": "development", "commit": commit, "site": site, "after": "1"});
    match device.post("/device/v1/turn", &asked).json() {
        Turn::Granted { seconds } => {
            assert!(seconds > 3600, "as long as a convergence may take: {seconds}");
            String::new()
        }
        Turn::Wait { reason, again_after, told } => {
            assert!((20..=300).contains(&again_after) && !told, "{again_after}");
            reason
        }
        Turn::Unknown => panic!("the server has an answer of its own"),
    }
}

/// A server whose newest commit bounds the stage, and that commit.
fn bounded() -> (TestServer, String) {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    let commit = fleet.commit("volary.yml", BOUNDED, "One at a time");
    fleet.push("HEAD:master").unwrap();
    (server, commit)
}

#[test]
fn one_device_of_a_site_changes_and_the_others_wait_until_its_report() {
    let (mut server, commit) = bounded();
    let keys = [DeviceKey::new(), DeviceKey::new(), DeviceKey::new()];
    let names = ["dev-1", "dev-2", "dev-3"];
    let join = |server: &TestServer| -> Vec<Client> {
        keys.iter().zip(names).map(|(key, name)| key.join(server, name, "development")).collect()
    };
    let devices = join(&server);
    assert_eq!(ask(&devices[0], &commit, Some("north")), "");
    let waits = ask(&devices[1], &commit, Some("north"));
    let said = "at most 1 device of a site may change at once; changing now: dev-1 since";
    assert!(waits.starts_with(said), "{waits}");
    assert_eq!(ask(&devices[2], &commit, Some("south")), "", "another site");
    assert_eq!(ask(&devices[0], &commit, Some("north")), "", "whoever has it keeps it");

    let status: Status = server.admin().get("/api/v1/status").json();
    let stage = &status.stages[0];
    let turns: Vec<_> = stage.turns.iter().map(|turn| (turn.device.as_str(), turn.site.as_str())).collect();
    assert_eq!(turns, [("dev-1", "north"), ("dev-3", "south")]);
    assert_eq!(stage.per_site_at_most, Some(1));

    server.stop();
    server.resume();
    let devices = join_again(&server, &keys, &names);
    assert!(ask(&devices[1], &commit, Some("north")).contains("dev-1"), "a restart gives no second turn");
    // A report of health, and one of another commit, do not give the turn back.
    let mut health = good_report("2", "development", &commit, None);
    health.convergence = None;
    assert!(devices[0].post("/device/v1/reports", &health).status.is_success());
    let other = good_report("3", "development", &"a".repeat(40), None);
    assert!(devices[0].post("/device/v1/reports", &other).status.is_success());
    assert!(ask(&devices[1], &commit, Some("north")).contains("dev-1"));
    let report = good_report("4", "development", &commit, None);
    assert!(devices[0].post("/device/v1/reports", &report).status.is_success());
    assert_eq!(ask(&devices[1], &commit, Some("north")), "");
    assert!(ask(&devices[0], &commit, Some("north")).contains("dev-2"));
    assert!(devices[1].delete("/device/v1/turn").status.is_success(), "it does not change after all");
    assert_eq!(ask(&devices[0], &commit, Some("north")), "");
}

/// The devices with the certificates that they have, at the address of now.
pub(crate) fn join_again(server: &TestServer, keys: &[DeviceKey], names: &[&str]) -> Vec<Client> {
    let known = |(key, name): (&DeviceKey, &&str)| {
        let enrolled: Value = key.enroll(server, name, None).json();
        key.client(server, enrolled["certificate"].as_str().unwrap())
    };
    keys.iter().zip(names).map(known).collect()
}

#[test]
fn a_site_is_bound_by_the_commit_that_a_device_goes_for() {
    let (server, commit) = bounded();
    let fleet = server.git(&server.admin_token(), &server.scratch().join("again"));
    fleet.clone_from(&format!("{}/git/fleet.git", server.url));
    let before = fleet.run(&["rev-parse", "HEAD^"]);
    let devices = [
        DeviceKey::new().join(&server, "dev-1", "development"),
        DeviceKey::new().join(&server, "dev-2", "development"),
    ];
    assert_eq!(ask(&devices[0], &commit, None), "");
    assert!(ask(&devices[1], &commit, None).contains("dev-1"), "without a site the stage is one");
    assert_eq!(ask(&devices[1], &before, None), "", "an older commit without a bound");
    let asked = json!({"stage": "development", "commit": "b".repeat(40)});
    devices[0].post("/device/v1/turn", &asked).refused(404, "not on the branch of any stage");
    let asked = json!({"stage": "canary", "commit": commit});
    devices[0].post("/device/v1/turn", &asked).refused(409, "dev-1 is in the stage development");
    server.anonymous().post("/device/v1/turn", &asked).refused(401, "certificate");
}

#[test]
fn the_status_and_the_page_show_when_a_stage_changes() {
    let (server, _) = bounded();
    let status: Status = server.admin().get("/api/v1/status").json();
    let stage = &status.stages[0];
    assert_eq!(stage.windows, "Mon,Tue,Wed,Thu,Fri 02:00-05:00, time zone: device");
    assert_eq!(stage.freezes, ["2026-01-01 00:00 to 2999-01-07 00:00: Christmas business"]);
    assert_eq!(stage.stop, None);
    let fleet = server.git(&server.admin_token(), &server.scratch().join("again"));
    fleet.clone_from(&format!("{}/git/fleet.git", server.url));
    let stopped = format!("{BOUNDED}stop: {{ development: \"pumps run <backwards>\" }}\n");
    fleet.commit("volary.yml", &stopped, "Stop");
    fleet.push("HEAD:master").unwrap();
    wait_for("the stop is shown", || {
        let status: Status = server.admin().get("/api/v1/status").json();
        (status.stages[0].stop.as_deref() == Some("pumps run <backwards>")).then_some(())
    });
    let cookie = format!("volary_token={}", server.admin_token());
    let page = server.anonymous().get_with("/", &[("cookie", &cookie)]).text();
    for part in
        ["stopped</span> pumps run &#60;backwards&#62;", "Christmas business", "at most 1 device of a site"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
}
