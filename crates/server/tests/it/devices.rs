//! Devices: joining, asking, telling, and those who only pretend.

use std::io::Write;

use serde_json::{Value, json};
use volary_api::v1::device::{Desired, Enrolled, Received};
use volary_api::v1::status::{Condition, Device, Status};

use crate::support::{DeviceKey, TestServer, good_report, wait_for};

#[test]
fn a_device_with_a_join_token_is_in_and_repeats_are_the_same() {
    let server = TestServer::start();
    let (key, secret) = (DeviceKey::new(), server.join_secret("canary", 1));
    let first: Enrolled = key.enroll(&server, "canary-1", Some(&secret)).json();
    let Enrolled::Accepted { certificate, stage } = first else { panic!("{first:?}") };
    assert_eq!(stage.as_str(), "canary");
    let again: Enrolled = key.enroll(&server, "canary-1", Some(&secret)).json();
    let Enrolled::Accepted { certificate: same, .. } = again else { panic!("{again:?}") };
    assert_eq!(certificate, same);
    let other = DeviceKey::new();
    other.enroll(&server, "canary-1", Some(&secret)).refused(409, "belongs to another key");
    other.enroll(&server, "canary-2", Some(&secret)).refused(403, "used as often");
    other.enroll(&server, "canary-2", Some("guess")).refused(403, "not one of this server's");
    key.enroll(&server, "canary-3", None).refused(409, "enrolled under another name: canary-1");
    assert!(key.client(&server, &certificate).get("/device/v1/desired").status.is_success());
}

/// What a thief can do with the key of one device: be that device, and no other.
#[test]
fn a_stolen_key_opens_nothing_of_another_device() {
    let server = TestServer::start();
    let secret = server.join_secret("development", 2);
    let join = |name: &str| {
        let key = DeviceKey::new();
        let Enrolled::Accepted { certificate, .. } = key.enroll(&server, name, Some(&secret)).json() else {
            panic!("{name} was not accepted")
        };
        (key, certificate)
    };
    let ((stolen, own), (_, others)) = (join("dev-1"), join("dev-2"));
    let fleet = server.fleet_clone();
    std::fs::create_dir(fleet.dir.join("host_vars")).unwrap();
    for name in ["dev-1", "dev-2"] {
        fleet.commit(&format!("host_vars/{name}.yml"), &format!("secret: of {name}\n"), "Variables");
    }
    fleet.push("HEAD:master").unwrap();
    let thief = stolen.client(&server, &own);
    let commit = fleet.run(&["rev-parse", "HEAD"]).trim().to_owned();
    let pack = wait_for("the new commit", || {
        let answer = thief.post("/device/v1/objects", &json!({ "want": commit }));
        answer.status.is_success().then_some(answer.body)
    });
    let mut objects = volary_fleet::MemoryObjects::default();
    volary_fleet::read_pack(&pack[..], &volary_fleet::PackLimits::default(), &mut |object| {
        objects.insert(object).map(drop)
    })
    .unwrap();
    let has = |name: &str| {
        use volary_fleet::ReadObjects;
        let blob = fleet.run(&["rev-parse", &format!("HEAD:host_vars/{name}.yml")]);
        objects.find(&blob.trim().parse().unwrap()).unwrap().is_some()
    };
    assert!(has("dev-1") && !has("dev-2"));
    // A certificate that is not for this key, and a request for another name with it.
    let ask = || stolen.client(&server, &others).get("/device/v1/desired");
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(ask)).is_err(), "the handshake must fail");
    stolen.enroll(&server, "dev-2", Some(&secret)).refused(409, "belongs to another key");
}

#[test]
fn an_unknown_device_waits_in_the_lobby() {
    let server = TestServer::start();
    let key = DeviceKey::new();
    let enrolled: Enrolled = key.enroll(&server, "dev-1", None).json();
    assert!(matches!(enrolled, Enrolled::Waiting { again_after: 1.. }));
    let status: Status = server.admin().get("/api/v1/status").json();
    assert_eq!(status.waiting[0].name.as_str(), "dev-1");
    assert!(status.waiting[0].reason.contains("volary device accept dev-1"), "{}", status.waiting[0].reason);
    let admin = server.admin();
    admin.post("/api/v1/devices/dev-1/accept", &json!({"stage": "none"})).refused(404, "canary");
    assert!(admin.post("/api/v1/devices/dev-1/accept", &json!({"stage": "development"})).status.is_success());
    let enrolled: Enrolled = key.enroll(&server, "dev-1", None).json();
    let Enrolled::Accepted { certificate, .. } = enrolled else { panic!("{enrolled:?}") };
    let device = key.client(&server, &certificate);
    assert!(device.get("/device/v1/desired").status.is_success());

    assert!(admin.post("/api/v1/devices/dev-1/reject", &json!({})).status.is_success());
    device.get("/device/v1/desired").refused(403, "no device of this fleet");
    key.enroll(&server, "dev-1", None).refused(403, "rejected");
    assert!(admin.delete("/api/v1/devices/dev-1").status.is_success());
    device.get("/device/v1/desired").refused(403, "no device of this fleet");
    let stranger = DeviceKey::new();
    assert!(matches!(stranger.enroll(&server, "dev-1", None).json(), Enrolled::Waiting { .. }));
}

#[test]
fn a_certificate_of_another_authority_opens_nothing() {
    let (server, other) = (TestServer::start(), TestServer::start());
    let key = DeviceKey::new();
    let secret = other.join_secret("development", 1);
    let enrolled: Enrolled = key.enroll(&other, "dev-1", Some(&secret)).json();
    let Enrolled::Accepted { certificate, .. } = enrolled else { panic!("{enrolled:?}") };
    let client = key.client(&server, &certificate);
    let asked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| client.get("/device/v1/desired")));
    assert!(asked.is_err(), "the handshake must fail");
}

#[test]
fn nothing_new_is_answered_without_a_body() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let answer = device.get("/device/v1/desired");
    let etag = answer.header("etag").to_owned();
    let desired: Desired = answer.json();
    assert_eq!((desired.branch.as_str(), desired.rolling.is_empty()), ("master", false));
    let same = device.get_with("/device/v1/desired", &[("if-none-match", &etag)]);
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));

    let fleet = server.fleet_clone();
    let commit = fleet.commit("note", "1", "Change something");
    fleet.push("HEAD:master").unwrap();
    wait_for("the new commit is desired", || {
        let answer = device.get_with("/device/v1/desired", &[("if-none-match", &etag)]);
        (answer.status.as_u16() == 200 && answer.text().contains(&commit)).then_some(())
    });
    let pinned = DeviceKey::new().join(&server, "prod-1", "production");
    let desired: Desired = pinned.get("/device/v1/desired").json();
    assert_eq!((desired.branch.as_str(), desired.rolling.as_str()), ("production", ""));
}

#[test]
fn connections_are_kept_while_there_is_room() {
    let mut server = TestServer::made();
    let config = server.made.dir.join("server.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    crate::support::write(&config, text.replace("connections = 4096", "connections = 4"));
    server.resume();
    let secret = server.join_secret("development", 1);
    let key = DeviceKey::new();
    let Enrolled::Accepted { certificate, .. } = key.enroll(&server, "dev-1", Some(&secret)).json() else {
        panic!("the device was not accepted")
    };
    // The clients of the lines above may need a moment to give their places back.
    let device = key.client(&server, &certificate);
    wait_for("a kept connection", || {
        (device.get("/device/v1/desired").header("connection") != "close").then_some(())
    });
    let second = key.client(&server, &certificate);
    assert_ne!(second.get("/device/v1/desired").header("connection"), "close");
    // The fourth place is held for whoever comes next.
    let last = key.client(&server, &certificate);
    assert_eq!(last.get("/device/v1/desired").header("connection"), "close");
    wait_for("the place of the last", || {
        (device.get("/device/v1/desired").header("connection") != "close").then_some(())
    });
}

#[test]
fn a_question_may_stay_open_until_there_is_news() {
    let mut server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let etag = device.get("/device/v1/desired").header("etag").to_owned();
    let ask =
        |wait: &str| device.get_with("/device/v1/desired", &[("if-none-match", &etag), ("prefer", wait)]);
    let started = std::time::Instant::now();
    assert_eq!(ask("wait=2").status.as_u16(), 304);
    assert!(started.elapsed().as_secs() >= 2, "it waited");
    let fleet = server.fleet_clone();
    let commit = fleet.commit("note", "1", "Change something");
    let started = std::time::Instant::now();
    let answer = std::thread::scope(|scope| {
        let open = scope.spawn(|| ask("wait=300"));
        std::thread::sleep(std::time::Duration::from_millis(300));
        fleet.push("HEAD:master").unwrap();
        open.join().unwrap()
    });
    assert_eq!(answer.status.as_u16(), 200);
    assert!(answer.text().contains(&commit) && started.elapsed().as_secs() < 120);
    // An end of the server does not wait for the questions that are open.
    let etag = answer.header("etag").to_owned();
    std::thread::scope(|scope| {
        let open = scope.spawn(|| {
            device.get_with("/device/v1/desired", &[("if-none-match", &etag), ("prefer", "wait=300")])
        });
        std::thread::sleep(std::time::Duration::from_millis(300));
        let started = std::time::Instant::now();
        server.stop();
        assert!(started.elapsed().as_secs() < 60);
        assert_eq!(open.join().unwrap().status.as_u16(), 304);
    });
}

#[test]
fn an_idle_poll_needs_neither_git_nor_a_process() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let etag = device.get("/device/v1/desired").header("etag").to_owned();
    let (fleet, away) = (server.layout().fleet(), server.scratch().join("away.git"));
    std::fs::rename(&fleet, &away).unwrap();
    for _ in 0..20 {
        let answer = device.get_with("/device/v1/desired", &[("if-none-match", &etag)]);
        assert_eq!(answer.status.as_u16(), 304);
    }
    std::fs::rename(&away, &fleet).unwrap();
}

#[test]
fn objects_come_as_a_pack_that_git_takes() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let desired: Desired = device.get("/device/v1/desired").json();
    let answer = device.post("/device/v1/objects", &json!({"want": desired.commit}));
    assert!(answer.status.is_success(), "{}", answer.text());
    let scratch = server.git(&server.admin_token(), &server.scratch().join("objects"));
    std::fs::create_dir(&scratch.dir).unwrap();
    scratch.run(&["init", "--quiet", "--bare"]);
    volary_host::Cmd::new("git")
        .cwd(&scratch.dir)
        .args(["unpack-objects", "-q"])
        .stdin(answer.body)
        .check()
        .unwrap();
    assert!(scratch.run(&["cat-file", "-p", &format!("{}:volary.yml", desired.commit)]).contains("stages"));
    let unknown = json!({"want": "0123456789012345678901234567890123456789"});
    device.post("/device/v1/objects", &unknown).refused(404, "not on the branch of any stage");
}

#[test]
fn an_unmerged_branch_is_not_given_to_devices() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let fleet = server.fleet_clone();
    let commit = fleet.commit("secret", "1", "Try something");
    fleet.push("HEAD:refs/heads/try").unwrap();
    device
        .post("/device/v1/objects", &json!({"want": commit}))
        .refused(404, "not on the branch of any stage");
}

#[test]
fn a_report_counts_once_and_shows_in_the_status() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let desired: Desired = device.get("/device/v1/desired").json();
    let mut report = good_report("r1", "development", desired.commit.as_str(), Some("rolling"));
    for _ in 0..2 {
        let received: Received = device.post("/device/v1/reports", &report).json();
        assert_eq!(received.id, "r1");
    }
    let shown: Device = server.admin().get("/api/v1/devices/dev-1").json();
    assert_eq!((shown.condition, shown.reason.as_str()), (Condition::Good, ""));
    assert_eq!(shown.suite.as_deref(), Some("rolling"));
    let reports: Vec<Value> = server.admin().get("/api/v1/devices/dev-1/reports").json();
    assert_eq!(reports.len(), 1);

    // Compressed, and with a failure that has a name.
    report.id = "r2".into();
    let convergence = report.convergence.as_mut().unwrap();
    convergence.outcome = volary_api::v1::device::Outcome::Failed;
    convergence.failure = Some(volary_api::v1::device::Failure {
        step: "playbook".into(),
        what: "Install pulse".into(),
        message: "no such package".into(),
    });
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&serde_json::to_vec(&report).unwrap()).unwrap();
    let body = gzip.finish().unwrap();
    let answer = device.post_bytes("/device/v1/reports", &body, &[("content-encoding", "gzip")]);
    assert!(answer.status.is_success(), "{}", answer.text());
    let shown: Device = server.admin().get("/api/v1/devices/dev-1").json();
    assert_eq!(shown.condition, Condition::Failed);
    assert_eq!(shown.reason, "playbook \"Install pulse\": no such package");
    wait_for("the failure is an event", || {
        let events = server.events("device-failed");
        events.iter().any(|text| text.contains("no such package")).then_some(())
    });
}

#[test]
fn bad_reports_are_refused_with_the_reason() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    device.post_bytes("/device/v1/reports", b"{}", &[]).refused(400, "this is not a report");
    device
        .post_bytes("/device/v1/reports", b"xx", &[("content-encoding", "gzip")])
        .refused(400, "not valid gzip");
    device.post_bytes("/device/v1/reports", b"xx", &[("content-encoding", "br")]).refused(415, "only gzip");
    device.post_bytes("/device/v1/reports", &vec![b' '; 2 << 20], &[]).refused(413, "larger than");
    let mut bomb = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    bomb.write_all(&vec![b' '; 20 << 20]).unwrap();
    let bomb = bomb.finish().unwrap();
    device
        .post_bytes("/device/v1/reports", &bomb, &[("content-encoding", "gzip")])
        .refused(413, "larger than");
    let report = good_report("", "development", &"a".repeat(40), None);
    device.post("/device/v1/reports", &report).refused(400, "1 to 200 characters");
}

#[test]
fn a_device_moves_to_the_stage_that_it_reports() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let report = good_report("1", "canary", &"a".repeat(40), None);
    assert!(device.post("/device/v1/reports", &report).status.is_success());
    let desired: Desired = device.get("/device/v1/desired").json();
    assert_eq!(desired.branch, "canary");
    assert_eq!(server.events("device-moved"), ["dev-1 moved from development to canary"]);
}

#[test]
fn a_stage_that_is_not_there_moves_nobody() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    for id in ["1", "2"] {
        let report = good_report(id, "elsewhere", &"a".repeat(40), None);
        assert!(device.post("/device/v1/reports", &report).status.is_success());
    }
    let shown: Device = server.admin().get("/api/v1/devices/dev-1").json();
    assert_eq!(shown.stage.unwrap().as_str(), "development");
    let events = server.events("device-stage-unknown");
    assert!(events.len() == 1 && events[0].contains("elsewhere"), "{events:?}");
}

#[test]
fn a_join_token_takes_its_name_from_whoever_only_waits_under_it() {
    let server = TestServer::start();
    let squatter = DeviceKey::new();
    assert!(matches!(squatter.enroll(&server, "dev-1", None).json(), Enrolled::Waiting { .. }));
    let key = DeviceKey::new();
    key.enroll(&server, "dev-1", None).refused(409, "belongs to another key");
    key.enroll(&server, "dev-1", Some("guess")).refused(403, "not one of this server's");
    let secret = server.join_secret("canary", 2);
    assert!(matches!(key.enroll(&server, "dev-1", Some(&secret)).json(), Enrolled::Accepted { .. }));
    squatter.enroll(&server, "dev-1", None).refused(409, "belongs to another key");
    squatter.enroll(&server, "dev-1", Some(&secret)).refused(409, "belongs to another key");
}
