//! The end of releases, and the archive's upkeep: checks, collection, why packages stay.

use serde_json::{Value, json};
use volary_api::v1::archive::{Difference, Included, Picked, Pin, Release};
use volary_api::v1::upkeep::{CheckLine, CheckReport, Collected, Why};
use volary_fleet::{FleetLock, LOCK_FILE, LockedRelease};

use crate::support::{Client, DeviceKey, TestServer, good_report, make_deb, wait_for, write};

fn upload(server: &TestServer, name: &str, version: &str) {
    let deb = make_deb(server.scratch(), name, version);
    let path = format!("/api/v1/upload/{name}_{version}_all.deb");
    let included: Included = server.admin().put(&path, &std::fs::read(deb).unwrap()).json();
    assert_eq!(included.added.len(), 1);
}

/// A server that keeps one version of each package, and collects when asked.
fn strict() -> TestServer {
    let mut server = TestServer::made();
    let config = server.layout().config();
    let text = std::fs::read_to_string(&config).unwrap();
    write(&config, format!("{text}\n[gc]\nversions = 1\ndays = 0\nevery = 0\n"));
    server.resume();
    server
}

fn cut(server: &TestServer, name: &str) -> Release {
    server.admin().post("/api/v1/releases", &json!({ "name": name })).json()
}

/// Pins a release in the lock file of the first stage.
fn pin(server: &TestServer, release: &str) {
    let pin: Pin = server.admin().get(&format!("/api/v1/releases/{release}/pin")).json();
    let locked = LockedRelease { release: pin.release, digest: pin.digest, indexes: pin.indexes };
    let text = FleetLock { release: Some(locked), ..FleetLock::default() }.to_text();
    let git = server.fleet_clone();
    git.commit(LOCK_FILE, &text, "Pin it");
    git.push("HEAD").unwrap();
}

fn why(client: &Client, package: &str) -> Vec<(String, Vec<String>)> {
    let found: Vec<Why> = client.get(&format!("/api/v1/archive/why?package={package}")).json();
    found.into_iter().map(|why| (why.package.version, why.reasons)).collect()
}

#[test]
fn a_release_goes_only_when_nobody_uses_it() {
    let server = TestServer::start();
    let (admin, developer) = (server.admin(), server.with_role("developer"));
    upload(&server, "hello", "1.0");
    for name in ["v1", "v2", "v3"] {
        cut(&server, name);
    }
    let protect = json!({"reason": "the auditors want it"});
    let protected: Release = developer.post("/api/v1/releases/v1/protect", &protect).json();
    assert_eq!(protected.protection.unwrap().reason, "the auditors want it");
    admin.delete("/api/v1/releases/v1").refused(409, "the auditors want it");
    developer.post("/api/v1/releases/v1/unprotect", &json!({})).refused(403, "admin");
    let open: Release = admin.post("/api/v1/releases/v1/unprotect", &json!({})).json();
    assert_eq!(open.protection, None);
    developer.delete("/api/v1/releases/v1").refused(403, "admin");
    let two_lines = json!({"reason": "a\nb"});
    developer.post("/api/v1/releases/v1/protect", &two_lines).refused(400, "one line");
    developer.post("/api/v1/releases/v1/protect", &json!({"reason": " "})).refused(400, "one line");
    developer.post("/api/v1/releases/v9/protect", &protect).refused(404, "v9");

    pin(&server, "v2");
    admin.delete("/api/v1/releases/v2").refused(409, "stage development pins v2/r1");
    let device = DeviceKey::new().join(&server, "gate-7", "development");
    let commit = server.admin().get("/api/v1/status").json::<Value>()["stages"][0]["commit"].clone();
    let report = good_report("1", "development", commit.as_str().unwrap(), Some("v3/r1"));
    assert!(device.post("/device/v1/reports", &report).status.is_success());
    admin.delete("/api/v1/releases/v3").refused(409, "device gate-7 has v3/r1");

    let dropped: Release = admin.delete("/api/v1/releases/v1").json();
    assert_eq!((dropped.name.as_str(), dropped.revisions.len()), ("v1", 1));
    admin.delete("/api/v1/releases/v1").refused(404, "v1");
    admin.get("/api/v1/releases/v1").refused(404, "v1");
    admin.post("/api/v1/releases", &json!({"name": "v1"})).refused(409, "v1");
    server.anonymous().get("/archive/dists/v1/r1/InRelease").refused(404, "");
    assert_eq!(server.events("release-dropped"), ["v1 was dropped with all its revisions by admin"]);
    assert_eq!(server.events("release-protected"), ["v1 was protected by a-developer: the auditors want it"]);
    assert_eq!(server.events("release-unprotected"), ["the protection of v1 was ended by admin"]);
}

#[test]
fn collection_spares_what_is_named_and_says_why() {
    let server = strict();
    let (admin, viewer) = (server.admin(), server.with_role("viewer"));
    for (release, version) in [("v1", "1.0"), ("v2", "1.1")] {
        upload(&server, "hello", version);
        cut(&server, release);
    }
    for version in ["1.2", "1.3", "1.4"] {
        upload(&server, "hello", version);
    }
    pin(&server, "v2");
    let protect = json!({"reason": "audit"});
    assert!(admin.post("/api/v1/releases/v1/protect", &protect).status.is_success());
    let mut report = good_report("1", "development", &"a".repeat(40), Some("rolling"));
    report.packages.insert("hello".into(), "1.2".into());
    let device = DeviceKey::new().join(&server, "gate-7", "development");
    assert!(device.post("/device/v1/reports", &report).status.is_success());

    let said = why(&viewer, "hello");
    let expected = [
        ("1.0", vec!["it is in v1/r1 (v1 is protected by admin: audit)"]),
        ("1.1", vec!["it is in v2/r1 (stage development pins v2/r1)"]),
        ("1.2", vec!["device gate-7 has it"]),
        ("1.3", vec![]),
        ("1.4", vec!["it is in rolling", "it is the newest version"]),
    ];
    let expected = expected.map(|(version, reasons)| {
        (version.to_owned(), reasons.into_iter().map(str::to_owned).collect::<Vec<String>>())
    });
    assert_eq!(said, expected);
    let one: Vec<Why> = viewer.get("/api/v1/archive/why?package=hello&version=1.3").json();
    assert_eq!(one.len(), 1);
    viewer.get("/api/v1/archive/why?package=hello&version=9").refused(404, "volary archive why hello");

    let gc =
        |dry_run: bool| admin.post("/api/v1/archive/gc", &json!({ "dry_run": dry_run })).json::<Collected>();
    server.with_role("developer").post("/api/v1/archive/gc", &json!({})).refused(403, "admin");
    let dry = gc(true);
    assert_eq!(
        (dry.removed.len(), dry.removed[0].version.as_str(), dry.kept, dry.dry_run),
        (1, "1.3", 4, true)
    );
    assert!(server.events("archive-collected").is_empty(), "nothing was done");
    assert_eq!(gc(false).removed[0].version, "1.3");
    assert_eq!(gc(false).removed.len(), 0);
    assert_eq!(server.events("archive-collected").len(), 1);
    assert_eq!(why(&viewer, "hello").len(), 4);
}

#[test]
fn the_server_collects_by_itself() {
    let mut server = strict();
    for version in ["1.0", "1.1"] {
        upload(&server, "hello", version);
    }
    server.stop();
    let config = server.layout().config();
    let text = std::fs::read_to_string(&config).unwrap();
    write(&config, text.replace("every = 0", "every = 1"));
    server.resume();
    let said = wait_for("a collection", || server.events("archive-collected").pop());
    assert!(said.starts_with("1 package (hello 1.0) and 0 stray files were removed"), "{said}");
    assert_eq!(why(&server.admin(), "hello").len(), 1);
}

/// The last line, and how many came before it.
fn check(server: &TestServer, deep: bool) -> (usize, CheckReport) {
    let answer = server.admin().post("/api/v1/archive/check", &json!({ "deep": deep }));
    assert_eq!(answer.header("content-type"), "application/x-ndjson");
    let text = answer.text();
    let mut lines: Vec<CheckLine> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let Some(CheckLine::Report(report)) = lines.pop() else { panic!("{text}") };
    for line in &lines {
        assert!(matches!(line, CheckLine::Progress { done, total } if done <= total), "{line:?}");
    }
    (lines.len(), report)
}

#[test]
fn a_check_tells_how_far_it_is_and_what_is_damaged() {
    let server = TestServer::start();
    upload(&server, "hello", "1.0");
    server.with_role("developer").post("/api/v1/archive/check", &json!({})).refused(403, "admin");
    let (progress, report) = check(&server, false);
    assert_eq!((progress, report.packages, report.problems), (0, 1, Vec::new()));
    let (progress, report) = check(&server, true);
    assert!(progress >= 1 && report.problems.is_empty(), "{report:?}");

    let packages: Vec<Value> = server.admin().get("/api/v1/packages").json();
    let hex = packages[0]["sha256"].as_str().unwrap().trim_start_matches("sha256:");
    let pool =
        server.layout().archive().join("public/pool/sha256").join(&hex[..2]).join(format!("{hex}.deb"));
    let mut bytes = std::fs::read(&pool).unwrap();
    bytes[100] ^= 1;
    write(&pool, &bytes);
    assert_eq!(check(&server, false).1.problems.len(), 0, "it has its size still");
    let problems = check(&server, true).1.problems;
    assert!(problems.len() == 1 && problems[0].contains(hex), "{problems:?}");
    assert!(server.events("archive-checked")[0].ends_with("by admin: 1 problem"));
}

#[test]
fn differences_and_picks_say_sizes_and_reasons() {
    let server = TestServer::start();
    let admin = server.admin();
    upload(&server, "hello", "1.0");
    cut(&server, "v1");
    upload(&server, "hello", "1.1");
    upload(&server, "other", "1.0");
    let difference: Difference = admin.get("/api/v1/diff?from=v1/r1&to=rolling").json();
    assert_eq!((difference.from.as_str(), difference.to.as_str()), ("v1/r1", "rolling"));
    let names: Vec<&str> = difference.packages.iter().map(|change| change.name.as_str()).collect();
    assert_eq!(names, ["hello", "other"]);
    let size: u64 = difference.packages.iter().map(|change| change.size).sum();
    let download = &difference.downloads[0];
    assert_eq!((download.architecture.as_str(), download.packages, download.bytes), ("all", 2, size));
    assert!(difference.packages[0].size_before > 0 && difference.packages[1].size_before == 0);

    let picks = json!({"packages": ["hello"], "dry_run": true});
    let picked: Picked = admin.post("/api/v1/releases/v1/picks", &picks).json();
    assert_eq!(picked.changes[0].because, "asked for");
    assert_eq!(picked.downloads[0].packages, 1);
    let release: Release = admin.get("/api/v1/releases/v1").json();
    assert_eq!(release.revisions.len(), 1, "nothing was done");
}
