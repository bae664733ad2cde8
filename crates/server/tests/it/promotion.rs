//! A promotion by a click: what the page shows before, who may, and what is in git afterwards.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};
use volary_api::v1::device::{Drift, DriftedTask, Failure, Outcome, Report};
use volary_api::v1::fleet::{Promotion, Spread, Trial, TrialNote};

use crate::support::{Answer, Client, DeviceKey, Git, TestServer, good_report, wait_for};

const ASKED: &str = "version: 1
stages:
  development: { branch: master, packages: rolling }
  canary:      { branch: canary, from: development }
promote: { canary: asked }
";

/// A server that merges into canary when it is asked to, and a clone with a commit that is not there yet.
fn asked() -> (TestServer, Git) {
    let server = TestServer::start();
    let fleet = let_the_server_merge(&server);
    (server, fleet)
}

/// Lets a server merge into canary when it is asked to; returns a clone with a commit that is not there yet.
pub fn let_the_server_merge(server: &TestServer) -> Git {
    let fleet = server.fleet_clone();
    let keys: Value = server.admin().get("/api/v1/server-keys").json();
    let signers = fleet.run(&["show", "HEAD:.volary/allowed_signers"]);
    let line = keys["promotion"].as_str().unwrap();
    fleet.commit(".volary/allowed_signers", &format!("{signers}\n{line}\n"), "Let the server merge");
    let rules = fleet.commit("volary.yml", ASKED, "When it is asked");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&rules, "canary", "Bring the rules"))).unwrap();
    fleet.commit("notes", "<b>bold</b>\n", "Say <something>");
    fleet.push("HEAD:master").unwrap();
    fleet
}

struct Browser<'a> {
    server: &'a TestServer,
    cookie: String,
}

impl<'a> Browser<'a> {
    fn of(server: &'a TestServer, role: &str) -> Self {
        let admin = server.admin();
        let made: Value =
            admin.post("/api/v1/tokens", &json!({"name": format!("a-{role}"), "role": role})).json();
        Self { server, cookie: format!("volary_token={}", made["secret"].as_str().unwrap()) }
    }

    fn page(&self) -> String {
        let path = "/promotion?from=development&to=canary";
        let answer = self.server.anonymous().get_with(path, &[("cookie", &self.cookie)]);
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        answer.text()
    }

    /// What stands in a hidden field of the form.
    fn field(page: &str, name: &str) -> String {
        let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    fn click(&self, csrf: &str, commit: &str) -> Answer {
        let form = format!("from=development&to=canary&commit={commit}&csrf={csrf}");
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("cookie", self.cookie.as_str())];
        self.server.anonymous().post_bytes("/promotion", form.as_bytes(), &headers)
    }
}

#[test]
fn a_release_manager_merges_with_a_click() {
    let (server, fleet) = asked();
    let developer = Browser::of(&server, "developer");
    let page = developer.page();
    assert!(page.contains("A release manager merges.") && !page.contains("id=\"merge\""), "{page}");
    assert!(page.contains("+&#60;b&#62;bold&#60;/b&#62;"), "the difference is shown and is text: {page}");
    let (csrf, commit) = (Browser::field(&page, "csrf"), Browser::field(&page, "commit"));
    assert_eq!(commit, fleet.run(&["rev-parse", "master"]));
    assert!(developer.click(&csrf, &commit).text().contains("needs the role release-manager"));

    let manager = Browser::of(&server, "release-manager");
    let page = manager.page();
    assert!(page.contains("id=\"merge\">Merge into canary</button>"), "{page}");
    // Another site's form has neither the cookie's secret nor what is made of it.
    assert!(manager.click("", &commit).text().contains("did not come from a page of this server"));
    assert!(manager.click(&csrf, &commit).text().contains("did not come from a page of this server"));
    let csrf = Browser::field(&page, "csrf");
    let other = fleet.run(&["rev-parse", "master^"]);
    assert!(manager.click(&csrf, &other).text().contains("look at what would be merged again"));
    let merged = manager.click(&csrf, &commit);
    assert_eq!((merged.status.as_u16(), merged.header("location")), (303, "/"), "{}", merged.text());

    fleet.run(&["fetch", "--quiet", "origin"]);
    assert_eq!(fleet.run(&["rev-parse", "origin/canary^2"]), commit);
    assert_eq!(fleet.run(&["rev-parse", "origin/canary^{tree}"]), fleet.run(&["rev-parse", "master^{tree}"]));
    let message = fleet.run(&["log", "-1", "--format=%B", "origin/canary"]);
    assert!(message.contains("every gate said go, and a-release-manager asked for it"), "{message}");
    let events = server.events("promoted");
    assert!(events[0].starts_with("a-release-manager merged "), "{events:?}");
    let after: Promotion = server.admin().get("/api/v1/promotion?from=development&to=canary").json();
    assert!(after.up_to_date);
    assert!(manager.page().contains("canary has everything of development."));
    assert!(manager.click(&csrf, &commit).text().contains("has everything of"));
}

#[test]
fn a_promotion_counts_its_devices_and_names_the_first() {
    let (server, _fleet) = asked();
    for number in 0..22 {
        DeviceKey::new().join(&server, &format!("dev-{number:02}"), "canary");
    }
    let found: Promotion = server.admin().get("/api/v1/promotion?from=development&to=canary").json();
    let names: Vec<String> = (0..20).map(|number| format!("dev-{number:02}")).collect();
    assert_eq!(found.device_count, 22);
    assert_eq!(found.devices.iter().map(ToString::to_string).collect::<Vec<_>>(), names);
    assert!(Browser::of(&server, "viewer").page().contains("<dt>devices</dt><dd>22</dd>"));
}

#[test]
fn the_devices_of_the_stage_before_are_the_dry_run() {
    let (server, fleet) = asked();
    let commit = fleet.run(&["rev-parse", "master"]);
    let names = ["dev-1", "dev-2", "dev-3", "dev-4"];
    let devices = names.map(|name| DeviceKey::new().join(&server, name, "development"));
    DeviceKey::new().join(&server, "gate-1", "canary");
    let report = |device: &Client, change: &dyn Fn(&mut Report)| {
        let mut report = good_report("1", "development", &commit, Some("rolling"));
        change(&mut report);
        assert!(device.post("/device/v1/reports", &report).status.is_success());
    };
    let drift = |tasks: &[&str]| Drift {
        at: "2026-11-22T12:30:00Z".parse().unwrap(),
        commit: commit.parse().unwrap(),
        tasks: tasks
            .iter()
            .map(|task| DriftedTask { task: (*task).to_owned(), diff: String::new() })
            .collect(),
        tasks_total: tasks.len() as u32,
        packages: BTreeMap::new(),
        failure: None,
    };
    let run = |report: &mut Report, tasks: u32, seconds: i64| {
        let run = report.convergence.as_mut().unwrap();
        run.changed_tasks = tasks;
        run.ended_at = run.started_at + SignedDuration::from_secs(seconds);
    };
    report(&devices[0], &|report| {
        run(report, 3, 60);
        report.drift = Some(drift(&[]));
    });
    report(&devices[1], &|report| {
        run(report, 5, 90);
        report.drift = Some(drift(&["Write <b>"]));
    });
    report(&devices[2], &|report| {
        report.good_commit = None;
        let run = report.convergence.as_mut().unwrap();
        run.outcome = Outcome::Failed;
        let failure = Failure { step: "check".into(), what: "dns".into(), message: "no answer".into() };
        run.failure = Some(failure);
    });
    let expected = Trial {
        devices: 4,
        good: 2,
        failed: 1,
        changed_tasks: Some(Spread { least: 3, median: 5, most: 5 }),
        changed_packages: Some(Spread { least: 0, median: 0, most: 0 }),
        seconds: Some(Spread { least: 60, median: 90, most: 90 }),
        failures: vec![note("check \"dns\"", "dev-3")],
        looked: 2,
        drifted: 1,
        drift: vec![note("task \"Write <b>\" would change something", "dev-2")],
    };
    let asks = "/api/v1/promotion?from=development&to=canary";
    assert_eq!(server.admin().get(asks).json::<Promotion>().trial, expected);
    let page = Browser::of(&server, "viewer").page();
    for part in [
        "What development did with it",
        "2 of 4 devices good, 1 failed, 1 not there",
        "5, from 3 to 5",
        "1 min 30 s, from 1 min to 1 min 30 s",
        "on 1 of 2 devices that looked",
        "check &#34;dns&#34;",
        "task &#34;Write &#60;b&#62;&#34; would change something",
        "<a href=\"/devices/dev-3\">dev-3</a>",
    ] {
        assert!(page.contains(part), "no {part} in {page}");
    }
    // A later report of the failed one about a commit that came after is no part of it.
    let next = fleet.commit("notes", "next\n", "Go on");
    fleet.push("HEAD:master").unwrap();
    let found = wait_for("the next commit", || {
        let found: Promotion = server.admin().get(asks).json();
        (found.commit.as_str() == next).then_some(found)
    });
    assert_eq!(found.trial, Trial { devices: 4, ..Trial::default() });
}

fn note(what: &str, device: &str) -> TrialNote {
    TrialNote { what: what.to_owned(), count: 1, devices: vec![device.parse().unwrap()] }
}

#[test]
fn where_only_people_merge_the_server_does_not() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    let commit = fleet.commit("notes", "x\n", "Change something");
    fleet.push("HEAD:master").unwrap();
    let asked = json!({"from": "development", "to": "canary", "commit": commit});
    server.admin().post("/api/v1/promotion", &asked).refused(409, "promote: { canary: asked }");
    server.with_role("operator").post("/api/v1/promotion", &asked).refused(403, "release-manager");
    let page = Browser::of(&server, "release-manager").page();
    assert!(page.contains("Only people merge into this stage"), "{page}");
}
