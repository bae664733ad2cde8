//! Tokens: who may what, and what those get who may not.

use serde_json::{Value, json};

use crate::support::{Client, TestServer};

#[test]
fn every_route_wants_a_token_and_says_so() {
    let server = TestServer::start();
    let anonymous = server.anonymous();
    for path in ["/api/v1/status", "/api/v1/builds", "/git/fleet.git/info/refs?service=git-upload-pack"] {
        let answer = anonymous.get(path);
        answer.refused(401, "this needs a token");
        assert_eq!(answer.header("www-authenticate"), "Basic realm=\"Volary\"");
    }
    Client::new(&server, Some("wrong".into()), None).get("/api/v1/status").refused(401, "not known");
    anonymous.get("/device/v1/desired").refused(401, "client certificate");
    anonymous.get("/nowhere").refused(404, "nothing at this address");
    anonymous.delete("/api/v1/status").refused(405, "does not take this method");
}

#[test]
fn roles_bound_what_a_token_may() {
    let server = TestServer::start();
    let (viewer, developer) = (server.with_role("viewer"), server.with_role("developer"));
    assert!(viewer.get("/api/v1/status").status.is_success());
    viewer.post("/api/v1/releases", &json!({"name": "v1"})).refused(403, "needs the role developer");
    developer.post("/api/v1/tokens", &json!({"name": "x", "role": "admin"})).refused(403, "role admin");
    assert!(developer.post("/api/v1/releases", &json!({"name": "v1"})).status.is_success());
}

#[test]
fn a_token_ends_when_it_is_removed_and_the_last_administrator_stays() {
    let server = TestServer::start();
    let viewer = server.with_role("viewer");
    let admin = server.admin();
    admin.post("/api/v1/tokens", &json!({"name": "a-viewer", "role": "viewer"})).refused(409, "already");
    admin.post("/api/v1/tokens", &json!({"name": "a b", "role": "viewer"})).refused(400, "letters");
    assert!(viewer.get("/api/v1/status").status.is_success());
    assert!(admin.delete("/api/v1/tokens/a-viewer").status.is_success());
    viewer.get("/api/v1/status").refused(401, "not known");
    admin.delete("/api/v1/tokens/admin").refused(409, "last administrator");
    let tokens: Vec<Value> = admin.get("/api/v1/tokens").json();
    assert_eq!(tokens.len(), 1);
    assert!(tokens[0]["used_at"].is_string(), "{tokens:?}");
    assert!(!admin.get("/api/v1/tokens").text().contains(&server.admin_token()));
}

#[test]
fn requests_that_make_no_sense_are_told_why() {
    let server = TestServer::start();
    let admin = server.admin();
    admin.post_bytes("/api/v1/tokens", b"{", &[]).refused(400, "body is not what this route takes");
    admin.post_bytes("/api/v1/tokens", &vec![b' '; 2 << 20], &[]).refused(413, "larger than the 1024 KiB");
    admin.get("/api/v1/packages?suite=../x").refused(400, "not valid");
    admin.get("/api/v1/builds/7").refused(404, "volary build list");
    admin.get("/api/v1/trace?package=hello&version=1").refused(404, "the archive has no hello 1");
    admin.get("/api/v1/devices/none").refused(404, "volary device list");
    admin.post("/api/v1/sources", &json!({"name": "fleet"})).refused(409, "belongs to the fleet");
    admin.post("/api/v1/sources", &json!({"name": "x", "branch": "a..b"})).refused(400, "name of a branch");
}
