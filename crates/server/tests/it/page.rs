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
    assert!(page.contains("href=\"/promotion?from=development&#38;to=canary\""), "{page}");
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

#[test]
fn a_device_has_a_page_with_its_convergences_and_measurements() {
    let server = TestServer::start();
    let commit = server.fleet_clone().run(&["rev-parse", "HEAD"]);
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let mut report = good_report("1", "development", &commit, None);
    report.convergence.as_mut().unwrap().packages.insert("hello<b>".into(), ("1.0".into(), "2.0".into()));
    assert!(device.post("/device/v1/reports", &report).status.is_success());
    let samples = json!({
        "id": "1", "boot_id": "b", "at": volary_host::now(), "age": 0, "step": 60, "points": 3,
        "series": {"memory_available_bytes": [1048576, 3145728, 2097152], "cpu_seconds_total": [10, 40, 70]},
        "errors": [{"age": 5, "priority": 3, "unit": "app.service", "message": "it <i>broke</i>"}]
    });
    let sent = device.post_bytes("/device/v1/metrics", format!("{samples}\n").as_bytes(), &[]);
    assert!(sent.status.is_success(), "{}", sent.text());
    let page = page(&server, "/devices/dev-1?hours=1");
    for part in [
        "hello&#60;b&#62; 1.0 to 2.0",
        "1.0 MiB to 3.0 MiB",
        "<strong class=\"nowrap\">2.0 MiB</strong>",
        "0.500 s/s",
        "it &#60;i&#62;broke&#60;/i&#62;",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let cookie = format!("volary_token={}", server.admin_token());
    let gone = server.anonymous().get_with("/devices/dev-2", &[("cookie", &cookie)]);
    assert_eq!(gone.status.as_u16(), 404);
}

#[test]
fn events_are_found_by_what_is_in_them() {
    let server = TestServer::start();
    DeviceKey::new().join(&server, "dev-77", "development");
    assert!(page(&server, "/events").contains("this server was made"));
    let found = page(&server, "/events?q=DEV-77");
    assert!(found.contains("dev-77 enrolled") && !found.contains("this server was made"), "{found}");
    assert!(page(&server, "/events?q=%3Cb%3E").contains("among the newest has “&#60;b&#62;” in it"));
}
