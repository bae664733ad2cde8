//! The fleet repository through real git: clone, push, and each way to be refused.

use serde_json::json;
use volary_api::v1::device::Desired;
use volary_api::v1::fleet::{Promotion, Say, Verdict};

use crate::support::{DeviceKey, TestServer, good_report, wait_for, with_gates};

const GATED: &str = "  canary: { healthy: { at_least: 100%, silent_at_most: 0%, devices_at_least: 1 } }\n";

#[test]
fn the_first_commit_is_signed_and_on_every_stage() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    let tip = fleet.run(&["rev-parse", "HEAD"]);
    for branch in ["master", "canary", "production"] {
        assert_eq!(fleet.run(&["rev-parse", &format!("origin/{branch}")]), tip);
    }
    let verified = fleet
        .try_run(&["-c", "gpg.ssh.allowedSignersFile=.volary/allowed_signers", "verify-commit", "-v", "HEAD"])
        .unwrap();
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    assert!(said.contains("Good \"git\" signature for op@example.com"), "{said}");
}

#[test]
fn a_viewer_reads_and_a_developer_writes() {
    let server = TestServer::start();
    let url = format!("{}/git/fleet.git", server.url);
    for (role, may) in [("viewer", false), ("developer", true)] {
        server.with_role(role);
        let secret: volary_api::v1::fleet::TokenSecret = server
            .admin()
            .post("/api/v1/tokens", &json!({"name": format!("git-{role}"), "role": role}))
            .json();
        let git = server.git(&secret.secret, &server.scratch().join(role));
        git.clone_from(&url);
        git.commit("note", role, "Note");
        let pushed = git.push("HEAD:master");
        assert_eq!(pushed.is_ok(), may, "{role}: {pushed:?}");
    }
    let stranger = server.git("wrong", &server.scratch().join("stranger"));
    std::fs::create_dir(&stranger.dir).unwrap();
    let said = stranger.try_run(&["ls-remote", &url]).unwrap_err().to_string();
    assert!(said.contains("could not read Username"), "git must be asked for a password: {said}");
}

#[test]
fn pushes_that_break_a_rule_are_refused_with_a_sentence() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    let check = |what: &str, part: &str| {
        let said = fleet.push(what).unwrap_err();
        assert!(said.contains(part), "{what}: {said:?} has no {part:?}");
    };
    fleet.run(&["commit", "--quiet", "--allow-empty", "--no-gpg-sign", "-m", "Unsigned"]);
    check("HEAD:master", "it is not signed");
    fleet.run(&["reset", "--quiet", "--hard", "origin/master"]);

    let direct = fleet.commit("note", "1", "Straight to production");
    check("HEAD:production", "production");
    fleet.push("HEAD:master").unwrap();
    let early = fleet.merge(&direct, "production", "Skip canary");
    check(&format!("{early}:production"), "promote --from development --to canary");
    check(":canary", "cannot be deleted");
    check("+origin/master~1:master", "master");

    fleet.commit("volary.yml", "version: 1\nstagess: {}\n", "Mistype");
    check("HEAD:master", "stages");
    let good = fleet.merge(&direct, "canary", "Promote");
    fleet.push(&format!("{good}:canary")).unwrap();
    wait_for("the move is an event", || {
        let events = server.events("branch-moved");
        events.iter().any(|text| text.contains("Promote")).then_some(())
    });
}

#[test]
fn a_gate_keeps_a_merge_out_until_it_says_go_or_is_overridden() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    // The gate must stand in the branch that it guards before it guards anything.
    let gated = fleet.commit("volary.yml", &with_gates(GATED), "Set a gate");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&gated, "canary", "Bring the gate"))).unwrap();

    let commit = fleet.commit("note", "1", "Change");
    fleet.push("HEAD:master").unwrap();
    let merge = fleet.merge(&commit, "canary", "Promote");
    let said = fleet.push(&format!("{merge}:canary")).unwrap_err();
    assert!(said.contains("the gate \"healthy\" says ask"), "{said}");
    assert!(said.contains("Volary-Override: healthy REASON"), "{said}");

    let promotion: Promotion = server.admin().get("/api/v1/promotion?from=development&to=canary").json();
    assert_eq!((promotion.commit.as_str(), promotion.up_to_date), (commit.as_str(), false));
    assert_eq!((promotion.files.clone(), promotion.commits.len()), (vec!["A note".to_owned()], 1));
    assert_eq!(promotion.verdicts[0].say, Say::Ask);

    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let desired: Desired = device.get("/device/v1/desired").json();
    let report = good_report("1", "development", desired.commit.as_str(), Some("rolling"));
    assert!(device.post("/device/v1/reports", &report).status.is_success());
    let gates: Vec<Verdict> = server.admin().get(&format!("/api/v1/gates?to=canary&commit={commit}")).json();
    assert_eq!(gates[0].say, Say::Go, "{gates:?}");
    fleet.push(&format!("{merge}:canary")).unwrap();
    let promotion: Promotion = server.admin().get("/api/v1/promotion?from=development&to=canary").json();
    assert!(promotion.up_to_date);

    // Now the device is behind again, and somebody takes it upon themselves.
    let next = fleet.commit("note", "2", "Change again");
    fleet.push("HEAD:master").unwrap();
    wait_for("the device is behind", || {
        let gates: Vec<Verdict> =
            server.admin().get(&format!("/api/v1/gates?to=canary&commit={next}")).json();
        (gates[0].say == Say::Ask).then_some(())
    });
    let merge = fleet.merge(&next, "canary", "Promote\n\nVolary-Override: healthy the customer waits");
    fleet.push(&format!("{merge}:canary")).unwrap();
    wait_for("the override is an event", || {
        let events = server.events("gate-overridden");
        events.iter().any(|text| text.contains("the customer waits")).then_some(())
    });
}

#[test]
fn a_stage_that_the_default_branch_forgot_keeps_its_gates() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    let gated = fleet.commit("volary.yml", &with_gates(GATED), "Set a gate");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&gated, "canary", "Bring the gate"))).unwrap();

    let without = "version: 1\nstages:\n  development: { branch: master, packages: rolling }\n";
    let commit = fleet.commit("volary.yml", without, "Take the stages away");
    fleet.push("HEAD:master").unwrap();
    let merge = fleet.merge(&commit, "canary", "Promote");
    let said = fleet.push(&format!("{merge}:canary")).unwrap_err();
    assert!(said.contains("the gate \"healthy\" says"), "{said}");
}

#[test]
fn promotions_between_the_wrong_stages_are_explained() {
    let server = TestServer::start();
    let admin = server.admin();
    admin.get("/api/v1/promotion?from=development&to=production").refused(409, "takes merges from canary");
    admin.get("/api/v1/promotion?from=x&to=y").refused(404, "no stage");
}

#[test]
fn hosted_sources_take_pushes_and_queue_builds() {
    let server = TestServer::start();
    let admin = server.admin();
    assert!(admin.post("/api/v1/sources", &json!({"name": "pulse"})).status.is_success());
    admin.post("/api/v1/sources", &json!({"name": "pulse"})).refused(409, "registered already");
    let git = server.git(&server.admin_token(), &server.scratch().join("pulse"));
    git.clone_from(&format!("{}/git/pulse.git", server.url));
    git.run(&["checkout", "--quiet", "-b", "master"]);
    let first = git.commit("a", "1", "First");
    git.push("HEAD:master").unwrap();
    git.commit("a", "2", "Second");
    let third = git.commit("a", "3", "Third");
    wait_for("the first commit is seen", || {
        let sources: Vec<serde_json::Value> = admin.get("/api/v1/sources").json();
        (sources[0]["tip"] == json!(first)).then_some(())
    });
    git.push("HEAD:master").unwrap();
    let builds = wait_for("each commit has its build", || {
        let builds: Vec<serde_json::Value> = admin.get("/api/v1/builds?source=pulse").json();
        (builds.len() == 3).then_some(builds)
    });
    assert_eq!((&builds[0]["commit"], &builds[0]["subject"]), (&json!(third), &json!("Third")));
    // The builder of the tests is broken: that is told, and no commit is blamed for it.
    wait_for("the builder's trouble is in the status", || {
        let status: serde_json::Value = admin.get("/api/v1/status").json();
        status["problems"].to_string().contains("no:cache").then_some(())
    });
    let builds: Vec<serde_json::Value> = admin.get("/api/v1/builds?source=pulse").json();
    assert!(builds.iter().all(|build| build["state"] != "failed"), "{builds:?}");
    assert!(server.events("build-failed").is_empty());
    assert!(admin.delete("/api/v1/sources/pulse").status.is_success());
    let sources: Vec<serde_json::Value> = admin.get("/api/v1/sources").json();
    assert!(sources.is_empty());
}
