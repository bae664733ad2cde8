//! People with a password: accounts, sessions, the log-in page, and who did what.

use serde_json::{Value, json};
use volary_server::{UserChange, change_user};

use crate::page::Browser;
use crate::support::{Answer, Client, TestServer};

pub const PASSWORD: &str = "correct horse battery";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

/// Makes an account.
pub fn add(server: &TestServer, name: &str, role: &str) {
    let new = json!({"name": name, "role": role, "password": PASSWORD});
    let made = server.admin().post("/api/v1/users", &new);
    assert!(made.status.is_success(), "{}", made.text());
}

fn login(server: &TestServer, name: &str, password: &str) -> Answer {
    server.anonymous().post("/api/v1/login", &json!({"user": name, "password": password}))
}

fn secret(server: &TestServer, name: &str, password: &str) -> String {
    login(server, name, password).json::<Value>()["secret"].as_str().unwrap().to_owned()
}

fn client(server: &TestServer, name: &str, password: &str) -> Client {
    Client::new(server, Some(secret(server, name, password)), None)
}

#[test]
fn a_person_signs_in_and_may_what_the_role_lets_them() {
    let server = TestServer::start();
    let admin = server.admin();
    add(&server, "alice", "viewer");
    let alice = client(&server, "alice", PASSWORD);
    let me: Value = alice.get("/api/v1/me").json();
    assert_eq!(
        (&me["name"], &me["role"], &me["how"]),
        (&json!("alice"), &json!("viewer"), &json!("password"))
    );
    let release = json!({"name": "v1"});
    alice.post("/api/v1/releases", &release).refused(403, "volary user role alice developer");
    alice.get("/api/v1/users").refused(403, "alice is a viewer");
    // From the next request on, without signing in again.
    assert!(admin.post("/api/v1/users/alice/role", &json!({"role": "developer"})).status.is_success());
    assert!(alice.post("/api/v1/releases", &release).status.is_success());
    // git takes the session as it takes a token.
    let git = server.git(&secret(&server, "alice", PASSWORD), &server.scratch().join("clone"));
    git.clone_from(&format!("{}/git/fleet.git", server.url));
    git.commit("note", "1", "a note");
    git.push("HEAD:master").unwrap();
    let told = crate::support::wait_for("the record of the push", || server.events("pushed").pop());
    assert_eq!(told, "alice pushed to fleet: master");

    let users = admin.get("/api/v1/users").text();
    assert!(users.contains("alice") && !users.contains("argon2"), "{users}");
    assert!(admin.delete("/api/v1/users/alice").status.is_success());
    alice.get("/api/v1/me").refused(401, "the session is over");
    admin.delete("/api/v1/users/alice").refused(404, "no user");
}

#[test]
fn accounts_that_cannot_be_are_refused() {
    let server = TestServer::start();
    let admin = server.admin();
    let check = |name: &str, role: &str, password: &str, status: u16, part: &str| {
        let new = json!({"name": name, "role": role, "password": password});
        admin.post("/api/v1/users", &new).refused(status, part);
    };
    add(&server, "alice", "viewer");
    check("alice", "viewer", PASSWORD, 409, "there is a user \"alice\" already");
    check("a b", "viewer", PASSWORD, 400, "letters, digits");
    check("bob", "viewer", "short", 400, "at least 12");
    check("bob", "upload", PASSWORD, 400, "for tokens");
    check("bob", "king", PASSWORD, 400, "unknown variant");
    admin.post("/api/v1/users/bob/role", &json!({"role": "admin"})).refused(404, "no user");
    admin.post("/api/v1/users/bob/password", &json!({"password": PASSWORD})).refused(404, "no user");
}

#[test]
fn unknown_users_and_wrong_passwords_get_the_same_answer_and_then_wait() {
    let server = TestServer::start();
    add(&server, "alice", "viewer");
    let answers = ["alice", "nobody"].map(|name| {
        let answer = login(&server, name, "wrong password");
        answer.refused(401, "the user or the password is wrong");
        answer.text()
    });
    assert_eq!(answers[0], answers[1]);
    for _ in 0..4 {
        login(&server, "alice", "wrong password").refused(401, "wrong");
        login(&server, "nobody", "wrong password").refused(401, "wrong");
    }
    // The right password does not help while the account waits: that would tell that it is right.
    let answer = login(&server, "alice", PASSWORD);
    answer.refused(429, "too many wrong passwords");
    assert!(answer.header("retry-after").parse::<u64>().unwrap() >= 1);
    login(&server, "nobody", PASSWORD).refused(429, "too many wrong passwords");
    let told = server.events("sign-in-refused");
    assert_eq!(told.len(), 1, "of accounts alone: {told:?}");
    // It is over by itself.
    crate::support::wait_for("the end of the wait", || {
        login(&server, "alice", PASSWORD).status.is_success().then_some(())
    });
}

#[test]
fn a_new_password_ends_other_sessions_and_needs_the_old_one() {
    let server = TestServer::start();
    add(&server, "alice", "viewer");
    let (here, there) = (client(&server, "alice", PASSWORD), client(&server, "alice", PASSWORD));
    let path = "/api/v1/users/alice/password";
    let new = "a better horse battery";
    here.post(path, &json!({"password": new})).refused(400, "your password until now is missing");
    here.post(path, &json!({"password": new, "old": "wrong"})).refused(403, "until now is wrong");
    here.post("/api/v1/users/bob/password", &json!({"password": new})).refused(403, "role admin");
    assert!(here.post(path, &json!({"password": new, "old": PASSWORD})).status.is_success());
    assert!(here.get("/api/v1/me").status.is_success());
    there.get("/api/v1/me").refused(401, "not known");
    login(&server, "alice", PASSWORD).refused(401, "wrong");
    // An administrator needs no old one, and then all sessions end.
    assert!(server.admin().post(path, &json!({"password": PASSWORD})).status.is_success());
    here.get("/api/v1/me").refused(401, "not known");
}

#[test]
fn sessions_end_by_signing_out_by_others_and_by_their_time() {
    let mut server = TestServer::start();
    add(&server, "alice", "viewer");
    add(&server, "bob", "viewer");
    let (alice, other, bob) = (
        client(&server, "alice", PASSWORD),
        client(&server, "alice", PASSWORD),
        client(&server, "bob", PASSWORD),
    );
    let seen: Vec<Value> = alice.get("/api/v1/sessions").json();
    assert_eq!(seen.len(), 2, "{seen:?}");
    let own = seen.iter().find(|session| session["own"] == true).unwrap();
    let id = |session: &Value| format!("/api/v1/sessions/{}", session["id"]);
    bob.delete(&id(own)).refused(404, "no session");
    let second = seen.iter().find(|session| session["own"] == false).unwrap();
    assert!(alice.delete(&id(second)).status.is_success());
    other.get("/api/v1/me").refused(401, "not known");
    assert!(alice.post("/api/v1/logout", &json!({})).status.is_success());
    alice.get("/api/v1/me").refused(401, "not known");
    server.admin().post("/api/v1/logout", &json!({})).refused(409, "volary token remove admin");
    assert_eq!(server.admin().get("/api/v1/sessions").json::<Vec<Value>>().len(), 1);
    // They survive a restart.
    let kept = secret(&server, "bob", PASSWORD);
    server.stop();
    server.resume();
    assert!(Client::new(&server, Some(kept), None).get("/api/v1/me").status.is_success());
}

#[test]
fn the_first_administrator_is_made_on_the_server_itself() {
    let mut server = TestServer::made();
    let dir = server.made.dir.clone();
    let made = |name: &str| {
        change_user(
            &dir,
            name,
            UserChange::Add { role: volary_api::v1::fleet::Role::Admin, password: PASSWORD.into() },
        )
    };
    made("root").unwrap();
    assert!(made("root").unwrap_err().to_string().contains("already"));
    server.resume();
    // Also while it runs.
    made("root2").unwrap();
    let root = client(&server, "root2", PASSWORD);
    assert!(root.delete("/api/v1/tokens/admin").status.is_success(), "users are administrators too");
    assert!(root.delete("/api/v1/users/root").status.is_success());
    root.delete("/api/v1/users/root2").refused(409, "last administrator");
    root.post("/api/v1/users/root2/role", &json!({"role": "viewer"})).refused(409, "last administrator");
    change_user(&dir, "root2", UserChange::Password("another horse battery".into())).unwrap();
    root.get("/api/v1/me").refused(401, "not known");
}

#[test]
fn a_browser_signs_in_with_a_password_and_comes_to_the_page_that_it_wanted() {
    let server = TestServer::start();
    add(&server, "alice", "viewer");
    let browser = server.anonymous();
    let away = browser.get("/promotion?from=development&to=canary");
    assert_eq!(away.status.as_u16(), 303);
    assert_eq!(away.header("location"), "/login?next=/promotion%3Ffrom%3Ddevelopment%26to%3Dcanary");
    let asked = browser.get(away.header("location")).text();
    assert_eq!(Browser::field(&asked, "next"), "/promotion?from=development&#38;to=canary");
    let sign_in = |next: &str, password: &str, headers: &[(&str, &str)]| {
        let form = format!("user=alice&password={}&next={next}", password.replace(' ', "+"));
        let headers: Vec<_> = [FORM].iter().chain(headers).copied().collect();
        browser.post_bytes("/login", form.as_bytes(), &headers)
    };
    let wrong = sign_in("/alerts", "wrong", &[]);
    assert_eq!(wrong.status.as_u16(), 401);
    assert!(
        wrong.text().contains("The user or the password is wrong.")
            && wrong.text().contains("value=\"alice\"")
    );
    let done = sign_in("/alerts", PASSWORD, &[]);
    assert_eq!((done.status.as_u16(), done.header("location")), (303, "/alerts"));
    for part in ["HttpOnly", "Secure", "SameSite=Lax"] {
        assert!(done.header("set-cookie").contains(part));
    }
    // No open redirect, and no signing in from another site.
    for evil in
        ["//evil.example", "https://evil.example", "/%5Cevil.example", "%2F%2Fevil.example", "/%09/evil"]
    {
        assert_eq!(sign_in(evil, PASSWORD, &[]).header("location"), "/", "{evil}");
    }
    for headers in [[("sec-fetch-site", "cross-site")], [("origin", "https://evil.example")]] {
        assert_eq!(sign_in("/", PASSWORD, &headers).status.as_u16(), 403);
    }
    let own = [("origin", server.url.as_str())];
    assert_eq!(sign_in("/", PASSWORD, &own).status.as_u16(), 303);

    // The account's page: another password, and the end of the session.
    let cookie = done.header("set-cookie").split(';').next().unwrap().to_owned();
    let with = |path: &str| browser.get_with(path, &[("cookie", &cookie)]);
    let click = |path: &str, form: &str| {
        browser.post_bytes(path, form.as_bytes(), &[FORM, ("cookie", cookie.as_str())])
    };
    let page = with("/account").text();
    let csrf = Browser::field(&page, "csrf");
    let new = "a+better+horse+battery";
    let form = |csrf: &str, again: &str| {
        format!("csrf={csrf}&old={}&password={new}&again={again}", PASSWORD.replace(' ', "+"))
    };
    assert_eq!(click("/account/password", &form("x", new)).status.as_u16(), 403);
    assert!(click("/account/password", &form(&csrf, "other")).text().contains("typed in two ways"));
    let changed = click("/account/password", &form(&csrf, new));
    assert_eq!((changed.status.as_u16(), changed.header("location")), (303, "/account"));
    assert!(with("/account").status.is_success());
    let out = click("/logout", "");
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(with("/account").status.as_u16(), 303, "the session is over, not only the cookie");
}

#[test]
fn the_record_says_who_did_what_and_how_they_had_signed_in() {
    let server = TestServer::start();
    add(&server, "alice", "developer");
    let alice = client(&server, "alice", PASSWORD);
    assert!(alice.post("/api/v1/releases", &json!({"name": "v1"})).status.is_success());
    let events: Vec<Value> = server.admin().get("/api/v1/events?people=true").json();
    let of = |kind: &str| events.iter().find(|event| event["kind"] == kind).unwrap()["by"].clone();
    assert_eq!(of("release-cut"), json!({"name": "alice", "how": "password"}));
    assert_eq!(of("signed-in"), json!({"name": "alice", "how": "password"}));
    assert_eq!(of("user-made"), json!({"name": "admin", "how": "token"}));
    assert!(events.iter().all(|event| event["kind"] != "server-made"));
    let viewer = Browser::of(&server, "viewer");
    assert!(viewer.page("/events?people=true").contains("<span class=\"dim\">alice (password)</span>"));
}
