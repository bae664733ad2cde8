//! The page: signing in, what it shows, and that nothing in it can be made to run.

use serde_json::json;
use volary_api::v1::alert::AlertState;

use crate::alerts::{Reporter, configure, wait_for_alert};
use crate::archive::include;
use crate::support::{Answer, DeviceKey, TestServer, good_report};

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

/// A person's browser that clicks buttons.
pub struct Browser<'a> {
    server: &'a TestServer,
    cookie: String,
}

impl<'a> Browser<'a> {
    pub fn of(server: &'a TestServer, role: &str) -> Self {
        let token = json!({"name": format!("b-{role}"), "role": role});
        let made: serde_json::Value = server.admin().post("/api/v1/tokens", &token).json();
        Self { server, cookie: format!("volary_token={}", made["secret"].as_str().unwrap()) }
    }

    pub fn page(&self, path: &str) -> String {
        let answer = self.server.anonymous().get_with(path, &[("cookie", &self.cookie)]);
        assert_eq!(answer.status.as_u16(), 200, "{}", answer.text());
        answer.text()
    }

    /// What stands in a hidden field.
    pub fn field(page: &str, name: &str) -> String {
        let (_, rest) = page.split_once(&format!("name=\"{name}\" value=\"")).unwrap();
        rest.split_once('"').unwrap().0.to_owned()
    }

    pub fn click(&self, path: &str, form: &str) -> Answer {
        let headers =
            [("content-type", "application/x-www-form-urlencoded"), ("cookie", self.cookie.as_str())];
        self.server.anonymous().post_bytes(path, form.as_bytes(), &headers)
    }
}

#[test]
fn what_fires_is_shown_and_silenced_with_a_click() {
    let mut server = TestServer::made();
    configure(&server, "");
    server.resume();
    let operator = Browser::of(&server, "operator");
    assert!(operator.page("/alerts").contains("Nothing fires. What would is in"));
    let mut device = Reporter::join(&server, "dev-1");
    device.fails("<i>dns");
    let id = wait_for_alert(&server, AlertState::Firing, 1).id;
    let shown = operator.page("/alerts");
    for part in [
        "<span class=\"dot bad small\">critical</span>",
        "dev-1: check &#60;i&#62;dns, rolling, stage development",
        "<a href=\"/devices/dev-1\">dev-1</a> check &#34;&#60;i&#62;dns&#34;: no answer",
        "Alerts <span class=\"firing\">1</span>",
        "<span class=\"small bad\">began</span>",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(page(&server, "/").contains("Alerts <span class=\"firing\">1</span>"));

    let viewer = Browser::of(&server, "viewer");
    let seen = viewer.page("/alerts");
    assert!(seen.contains("dev-1") && !seen.contains("<button class=\"primary\">Silence"), "{seen}");
    let csrf = Browser::field(&shown, "csrf");
    let form = |csrf: &str, reason: &str| format!("csrf={csrf}&alert={id}&reason={reason}");
    let refused = |answer: Answer, status: u16, part: &str| {
        assert_eq!(answer.status.as_u16(), status);
        assert!(answer.text().contains(part), "{}", answer.text());
    };
    refused(viewer.click("/alerts/silence", &form(&csrf, "x")), 403, "did not come from a page");
    refused(operator.click("/alerts/silence", &form("", "x")), 403, "did not come from a page");
    refused(operator.click("/alerts/silence", &form(&csrf, "+")), 400, "the reason must be one line");
    refused(operator.click("/alerts/silence", &format!("csrf={csrf}&alert=99&reason=x")), 404, "99 is over");
    let done = operator.click("/alerts/silence", &form(&csrf, "new+%3Cu%3Enetwork"));
    assert_eq!((done.status.as_u16(), done.header("location")), (303, "/alerts"), "{}", done.text());
    let shown = operator.page("/alerts");
    for part in [
        "rule=device-failed check=&#60;i&#62;dns",
        "new &#60;u&#62;network",
        "b-operator, until ",
        ", in 1 h",
        "· silenced",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(!shown.contains("Silence for 2 h"), "all of it is silenced");

    let silence = Browser::field(&shown, "silence");
    let end = format!("csrf={csrf}&silence={silence}");
    refused(viewer.click("/alerts/unsilence", &end), 403, "did not come from a page");
    assert_eq!(operator.click("/alerts/unsilence", &end).status.as_u16(), 303);
    refused(operator.click("/alerts/unsilence", &end), 404, "no silence");
    assert!(operator.page("/alerts").contains("Silence for 2 h"));
    assert_eq!(server.events("alert-unsilenced").len(), 1);
}

#[test]
fn a_release_is_shown_with_what_it_changes() {
    let server = TestServer::start();
    let admin = server.admin();
    let hello = |version: &str| include(&server, &admin, "hello", version);
    let cut = |name: &str| {
        assert!(admin.post("/api/v1/releases", &json!({"name": name})).status.is_success());
    };
    hello("1.0");
    cut("v1.0");
    hello("1.1");
    cut("v1.1");
    hello("1.2");
    let pick = admin.post("/api/v1/releases/v1.1/picks", &json!({"packages": ["hello"]}));
    assert!(pick.status.is_success(), "{}", pick.text());
    let protect = json!({"reason": "the <b>shop</b> has it"});
    assert!(admin.post("/api/v1/releases/v1.1/protect", &protect).status.is_success());
    assert!(page(&server, "/").contains("<a href=\"/releases/v1.1\"><strong>v1.1</strong></a>"));
    let shown = page(&server, "/releases/v1.1");
    for part in [
        "Packages that changed since v1.0/r1",
        "1.0 to 1.2",
        ">picked hello</span>",
        "takes picks",
        "in 1 package, takes up as much as before",
        "the &#60;b&#62;shop&#60;/b&#62; has it",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(page(&server, "/releases/v1.0").contains("It is the first release"));
    assert!(admin.post("/api/v1/releases/v1.0/freeze", &json!({})).status.is_success());
    assert!(page(&server, "/releases/v1.0").contains("<span class=\"good\">frozen moments ago</span>"));
    let cookie = format!("volary_token={}", server.admin_token());
    for (path, status) in [("/releases/v9", 404), ("/releases/%3Cb%3E", 400)] {
        let answer = server.anonymous().get_with(path, &[("cookie", &cookie)]);
        assert_eq!(answer.status.as_u16(), status, "{path}");
        assert!(!answer.text().contains("<b>"), "{}", answer.text());
    }
}
