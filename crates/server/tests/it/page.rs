//! The page: signing in, what it shows, and that nothing in it can be made to run.

use serde_json::json;

use crate::support::{DeviceKey, TestServer, good_report};

/// The page at `path` for a browser that signed in.
fn page(server: &TestServer, path: &str) -> String {
    let cookie = format!("volary_token={}", server.admin_token());
    let answer = server.anonymous().get_with(path, &[("cookie", &cookie)]);
    assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
    let policy = answer.header("content-security-policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    answer.text()
}

#[test]
fn a_browser_signs_in_with_a_token() {
    let server = TestServer::start();
    let browser = server.anonymous();
    let away = browser.get("/");
    assert_eq!((away.status.as_u16(), away.header("location")), (303, "/login"));
    let form = [("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(browser.post_bytes("/login", b"token=wrong", &form).status.as_u16(), 401);
    let body = format!("token={}", server.admin_token());
    let signed_in = browser.post_bytes("/login", body.as_bytes(), &form);
    assert_eq!((signed_in.status.as_u16(), signed_in.header("location")), (303, "/"));
    let cookie = signed_in.header("set-cookie");
    for part in ["HttpOnly", "Secure", "SameSite=Lax"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    let link = browser.get(&format!("/login?token={}", server.admin_token()));
    assert_eq!(link.status.as_u16(), 303);
    // The cookie opens what changes nothing, and only that.
    let cookie = format!("volary_token={}", server.admin_token());
    let cookie = [("cookie", cookie.as_str())];
    browser.post_bytes("/api/v1/tokens", b"{}", &cookie).refused(401, "needs a token");
}

#[test]
fn an_empty_page_says_what_to_do_next() {
    let server = TestServer::start();
    let page = page(&server, "/");
    for command in ["volary source add", "volary release cut", "volary device token --stage canary"] {
        assert!(page.contains(command), "{command}");
    }
}

#[test]
fn the_page_shows_the_fleet_and_escapes_what_others_wrote() {
    let server = TestServer::start();
    let fleet = server.fleet_clone();
    fleet.commit("note", "1", "<script>alert(1)</script> & more");
    fleet.push("HEAD:master").unwrap();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let mut report = good_report("1", "development", &"a".repeat(40), Some("rolling"));
    report.failed_units = vec!["<b>bad.service".into()];
    assert!(device.post("/device/v1/reports", &report).status.is_success());
    assert!(DeviceKey::new().enroll(&server, "new-1", None).status.is_success());
    let page = page(&server, "/");
    assert!(page.contains("&#60;script&#62;alert(1)") && !page.contains("<script>alert"), "{page}");
    assert!(page.contains("failed units: &#60;b&#62;bad.service"), "{page}");
    assert!(page.contains("volary device accept new-1"));
    assert!(page.contains("volary promote --from development --to canary"));
}

#[test]
fn what_is_not_there_has_a_page_too() {
    let server = TestServer::start();
    let cookie = format!("volary_token={}", server.admin_token());
    for path in ["/trace?package=x1&version=1", "/trace", "/builds/9", "/trace?package=A&version=1"] {
        let answer = server.anonymous().get_with(path, &[("cookie", &cookie)]);
        assert!(answer.status.is_client_error(), "{path}");
        assert!(answer.text().contains("<!doctype html>"), "{path}");
    }
    assert!(server.anonymous().get("/assets/style.css").status.is_success());
    server.anonymous().get("/assets/../Cargo.toml").refused(404, "nothing");
    assert!(
        server.admin().post("/api/v1/sources", &json!({"name": "x", "url": "/nowhere"})).status.is_success()
    );
    assert!(page(&server, "/").contains("/nowhere"));
}
