//! Rollouts: a commit reaches the devices in waves, stops when it hurts them, and a person goes on.

use std::time::{Duration, Instant};

use serde_json::json;
use volary_api::v1::device::{Desired, Failure, Outcome, Turn, Waiting};
use volary_api::v1::rollout::{Rollout, State};
use volary_api::v1::status;

use crate::page::Browser;
use crate::support::{Client, DeviceKey, TestServer, good_report, wait_for};
use crate::turns::join_again;

const WAVES: &str = "version: 1
stages:
  development: { branch: master, packages: rolling }
  canary:      { branch: canary, from: development }
rollout:
  development: { waves: [20%, 60%, 100%], pause: 0s }
";

const NAMES: [&str; 5] = ["dev-1", "dev-2", "dev-3", "dev-4", "dev-5"];

/// Five devices that are well, and the first commit that comes to them in waves.
struct Fleet {
    server: TestServer,
    keys: Vec<DeviceKey>,
    devices: Vec<Client>,
    commit: String,
}

impl Fleet {
    fn new() -> Self {
        let server = TestServer::start();
        let fleet = server.fleet_clone();
        let before = fleet.run(&["rev-parse", "HEAD"]);
        let keys: Vec<DeviceKey> = NAMES.iter().map(|_| DeviceKey::new()).collect();
        let join = |(key, name): (&DeviceKey, &&str)| key.join(&server, name, "development");
        let devices: Vec<Client> = keys.iter().zip(&NAMES).map(join).collect();
        for device in &devices {
            let report = good_report("1", "development", &before, None);
            assert!(device.post("/device/v1/reports", &report).status.is_success());
        }
        let commit = fleet.commit("volary.yml", WAVES, "In waves");
        fleet.push("HEAD:master").unwrap();
        let fleet = Self { server, keys, devices, commit };
        fleet.wait("the first wave", |rollout| rollout.says.contains("wave 1 of 3 (20 %)"));
        fleet
    }

    fn rollout(&self) -> Option<Rollout> {
        let rollouts: Vec<Rollout> = self.server.admin().get("/api/v1/rollouts").json();
        rollouts.into_iter().find(|rollout| rollout.commit.as_str() == self.commit)
    }

    #[track_caller]
    fn wait(&self, what: &str, holds: impl Fn(&Rollout) -> bool) -> Rollout {
        wait_for(what, || self.rollout().filter(&holds))
    }

    /// Asks for a turn; `""` if it was given, else the reason.
    fn ask(&self, device: usize) -> String {
        self.ask_with(device, &json!({"stage": "development", "commit": self.commit, "after": "1"}))
    }

    fn ask_with(&self, device: usize, asked: &serde_json::Value) -> String {
        match self.devices[device].post("/device/v1/turn", asked).json() {
            Turn::Granted { .. } => String::new(),
            Turn::Wait { reason, again_after, told } => {
                assert!((20..=600).contains(&again_after) && told, "{again_after}");
                reason
            }
            Turn::Unknown => panic!("the server has an answer of its own"),
        }
    }

    fn granted(&self) -> Vec<usize> {
        (0..NAMES.len()).filter(|device| self.ask(*device).is_empty()).collect()
    }

    fn report(&self, device: usize, outcome: Outcome) {
        let mut report = good_report("2", "development", &self.commit, None);
        let convergence = report.convergence.as_mut().unwrap();
        convergence.outcome = outcome;
        if outcome == Outcome::Failed {
            report.good_commit = None;
            let message = "no answer".to_owned();
            convergence.failure = Some(Failure { step: "check".to_owned(), what: "dns".to_owned(), message });
        }
        assert!(self.devices[device].post("/device/v1/reports", &report).status.is_success());
    }

    fn say(&self, verb: &str) -> crate::support::Answer {
        let path = format!("/api/v1/rollouts/development/{verb}");
        self.server.admin().post(&path, &json!({"reason": "it is said"}))
    }
}

#[test]
fn a_commit_reaches_the_devices_in_waves_also_over_a_restart() {
    let mut fleet = Fleet::new();
    let first = fleet.granted();
    assert_eq!(first.len(), 1, "{first:?}");
    let other = (0..5).find(|device| !first.contains(device)).unwrap();
    let waits = fleet.ask(other);
    assert!(waits.starts_with("wave 1 of 3 (20 %) is open, and this device stands at "), "{waits}");
    fleet.report(first[0], Outcome::Good);
    fleet.wait("the second wave", |rollout| rollout.wave == 2);
    let second = fleet.granted();
    assert_eq!(second.len(), 3, "{second:?}");
    fleet.server.stop();
    fleet.server.resume();
    fleet.devices = join_again(&fleet.server, &fleet.keys, &NAMES);
    fleet.wait("the second wave again", |rollout| rollout.says.starts_with("wave 2 of 3 (60 %): 1 of 5"));
    for device in second {
        fleet.report(device, Outcome::Good);
    }
    fleet.wait("the third wave", |rollout| rollout.wave == 3);
    (0..5).for_each(|device| fleet.report(device, Outcome::Good));
    let done = fleet.wait("the end", |rollout| rollout.state == State::Finished);
    assert_eq!(done.says, "finished: 5 of 5 devices good");
}

#[test]
fn a_device_with_an_older_agent_goes_to_the_commit_before_in_its_turn_for_the_newest() {
    let mut fleet = Fleet::new();
    let before = fleet.commit.clone();
    let clone = fleet.server.git(&fleet.server.admin_token(), &fleet.server.scratch().join("again"));
    clone.clone_from(&format!("{}/git/fleet.git", fleet.server.url));
    fleet.commit = clone.commit("motd", "hello\n", "What older agents cannot read");
    clone.push("HEAD:master").unwrap();
    fleet.wait("its first wave", |rollout| rollout.says.contains("wave 1 of 3 (20 %)"));
    let on_the_way =
        |to: &str| json!({"stage": "development", "commit": before, "towards": to, "after": "1"});
    // Without a word of where it goes it is one that nobody rolls out any more.
    let asked = json!({"stage": "development", "commit": before, "after": "1"});
    assert_eq!(fleet.ask_with(0, &asked), "the rollout of this commit has not begun yet");
    let newest = fleet.commit.clone();
    let may: Vec<usize> =
        (0..5).filter(|device| fleet.ask_with(*device, &on_the_way(&newest)).is_empty()).collect();
    assert_eq!(may.len(), 1, "{may:?}");
    fleet.wait("it changes", |rollout| rollout.says.contains("0 of 5 devices good, 1 changing"));
    // It got there, and its agent is a newer one.
    let report = good_report("11", "development", &before, None);
    assert!(fleet.devices[may[0]].post("/device/v1/reports", &report).status.is_success());
    assert_eq!(fleet.granted(), may);
    fleet.report(may[0], Outcome::Good);
    fleet.wait("the second wave", |rollout| rollout.wave == 2);
    let second = (0..5).filter(|device| fleet.ask_with(*device, &on_the_way(&newest)).is_empty()).count();
    assert_eq!(second, 3);
    fleet.say("stop");
    assert!(fleet.ask_with(may[0], &on_the_way(&newest)).contains("it is said"));
    for (commit, towards) in [(&newest, &before), (&newest, &newest), (&before, &"b".repeat(40))] {
        let asked = json!({"stage": "development", "commit": commit, "towards": towards});
        fleet.devices[0].post("/device/v1/turn", &asked).refused(409, "not on the way");
    }
}

#[test]
fn a_commit_that_hurts_stops_with_its_first_device_until_a_person_goes_on() {
    let fleet = Fleet::new();
    fleet.say("resume").refused(409, "is not stopped");
    let first = fleet.granted()[0];
    fleet.report(first, Outcome::Failed);
    let stopped = fleet.wait("the stop", |rollout| rollout.state == State::Stopped);
    assert!(stopped.says.contains("1 of 1 device failed, 2 % are borne: dev-"), "{}", stopped.says);
    assert!(stopped.says.contains("check \"dns\": no answer"), "{}", stopped.says);
    assert_eq!(fleet.granted(), [0_usize; 0]);
    let waits = fleet.ask(first);
    assert!(waits.starts_with("its rollout is stopped by itself: 1 of 1 device failed"), "{waits}");
    fleet.say("next").refused(409, "volary rollout resume development");

    let resumed: Rollout = fleet.say("resume").json();
    assert_eq!((resumed.state, resumed.wave), (State::Running, 2), "{}", resumed.says);
    let second = fleet.granted();
    assert_eq!(second.len(), 3);
    let hurried: Rollout = fleet.say("next").json();
    assert_eq!(hurried.wave, 3);
    assert_eq!(fleet.granted().len(), 5);
    let held: Rollout = fleet.say("stop").json();
    assert_eq!((held.state, held.stopped_by.is_some()), (State::Stopped, true));
    assert!(fleet.ask(second[0]).contains("it is said"));
    fleet
        .server
        .anonymous()
        .post("/api/v1/rollouts/development/resume", &json!({"reason": "x"}))
        .refused(401, "");
    fleet
        .server
        .admin()
        .post("/api/v1/rollouts/canary/stop", &json!({"reason": "x"}))
        .refused(404, "no rollout");
}

#[test]
fn a_device_that_waits_hears_of_a_stop_and_of_its_turn_at_once() {
    let fleet = Fleet::new();
    let first = fleet.granted()[0];
    let waits = (first + 1) % NAMES.len();
    let client = &fleet.devices[waits];
    let mut report = good_report("2", "development", &fleet.commit, None);
    (report.good_commit, report.convergence) = (None, None);
    let (commit, obstacles) = (fleet.commit.parse().unwrap(), vec!["as it was told before".to_owned()]);
    report.waiting = Some(Waiting { commit, obstacles, held: false, turn: true });
    assert!(client.post("/device/v1/reports", &report).status.is_success());
    let asks = json!({"stage": "development", "commit": fleet.commit, "after": "1"});
    assert!(matches!(client.post("/device/v1/turn", &asks).json(), Turn::Wait { told: true, .. }));
    let answer = client.get("/device/v1/desired");
    let etag = answer.header("etag").to_owned();
    let said = answer.json::<Desired>().rollout;
    assert!(said.starts_with("wave 1 of 3 (20 %) is open, and this device stands at "), "{said}");

    let long =
        |etag: &str| client.get_with("/device/v1/desired", &[("if-none-match", etag), ("prefer", "wait=60")]);
    let (stopped, took) = std::thread::scope(|scope| {
        let begun = Instant::now();
        let asks = scope.spawn(|| long(&etag));
        fleet.report(first, Outcome::Failed);
        (asks.join().unwrap(), begun.elapsed())
    });
    assert!(took < Duration::from_secs(30), "{took:?}");
    let etag = stopped.header("etag").to_owned();
    let said = stopped.json::<Desired>().rollout;
    assert!(said.starts_with("its rollout is stopped by itself: 1 of 1 device failed"), "{said}");
    let shown = wait_for("the device's sentence", || {
        let devices: Vec<status::Device> = fleet.server.admin().get("/api/v1/devices").json();
        let device = devices.into_iter().find(|device| device.name.as_str() == NAMES[waits])?;
        Some(device.reason).filter(|reason| reason.contains("its rollout is stopped by itself"))
    });
    assert!(!shown.contains("as it was told before"), "{shown}");

    let opened = std::thread::scope(|scope| {
        let asks = scope.spawn(|| long(&etag));
        fleet.say("resume");
        fleet.say("next");
        asks.join().unwrap()
    });
    let (etag, desired) = (opened.header("etag").to_owned(), opened.json::<Desired>());
    // Its wave may be the second or the third.
    let desired = if desired.rollout == "open" { desired } else { long(&etag).json() };
    assert_eq!(desired.rollout, "open");
    assert!(matches!(client.post("/device/v1/turn", &asks).json(), Turn::Granted { .. }));
}

#[test]
fn people_take_a_hand_in_a_rollout_with_a_click() {
    let fleet = Fleet::new();
    let operator = Browser::of(&fleet.server, "operator");
    let shown = operator.page("/");
    assert!(shown.contains("value=\"stop\"") && !shown.contains("value=\"next\""), "{shown}");
    assert!(!Browser::of(&fleet.server, "viewer").page("/").contains("action=\"/rollouts"));
    let csrf = Browser::field(&shown, "csrf");
    let form = |csrf: &str, verb: &str| format!("csrf={csrf}&verb={verb}&reason=it+%3Cb%3Eburns");
    let path = "/rollouts/development";
    assert!(operator.click(path, &form("", "stop")).text().contains("did not come from a page"));
    assert_eq!(operator.click(path, &form(&csrf, "next")).status.as_u16(), 403);
    let stopped = operator.click(path, &form(&csrf, "stop"));
    assert_eq!((stopped.status.as_u16(), stopped.header("location")), (303, "/"), "{}", stopped.text());
    assert_eq!(fleet.rollout().unwrap().state, State::Stopped);
    assert_eq!(operator.click(path, &form(&csrf, "stop")).status.as_u16(), 409);
    assert_eq!(operator.click(path, &form(&csrf, "resume")).status.as_u16(), 403);

    let manager = Browser::of(&fleet.server, "release-manager");
    let shown = manager.page("/");
    assert!(shown.contains("value=\"resume\"") && !shown.contains("value=\"next\""), "{shown}");
    assert!(shown.contains("it &#60;b&#62;burns") && !shown.contains("it <b>burns"), "{shown}");
    let csrf = Browser::field(&shown, "csrf");
    assert_eq!(manager.click(path, &form(&csrf, "resume")).status.as_u16(), 303);
    assert!(manager.page("/").contains("value=\"next\""));
    assert_eq!(manager.click(path, &form(&csrf, "next")).status.as_u16(), 303);
    assert_eq!(fleet.rollout().unwrap().wave, 2);
    let said = fleet.server.events("rollout-hurried");
    assert_eq!(said, ["b-release-manager opened the next wave in development: it <b>burns"]);
}
