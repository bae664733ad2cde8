//! A promotion by a click: what the page shows before, who may, and what is in git afterwards.

use serde_json::{Value, json};
use volary_api::v1::fleet::Promotion;

use crate::support::{Answer, Git, TestServer};

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
