//! The page in a real browser: `make check-page`.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use volary_api::v1::alert::AlertState;

use crate::alerts::{Reporter, configure, wait_for_alert};
use crate::archive::include;
use crate::promotion::let_the_server_merge;
use crate::support::{TestServer, write};
use crate::users::{PASSWORD, add};
use volary_host::Cmd;

/// How long a browser may take for all pages in four ways: a minute, on a busy machine many.
const PATIENCE: Duration = Duration::from_secs(600);

/// A browser goes through all pages of a fleet that has something of everything, merges with a click, and
/// git has the merge.
#[test]
#[ignore = "needs chromium, node and what make check-page installs"]
fn a_browser_finds_every_page_in_order_and_merges() {
    let out = PathBuf::from(std::env::var("VOLARY_PAGE_OUT").expect("make check-page says where to"));
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/check-page.mjs");
    let mut server = TestServer::made();
    configure(&server, "");
    server.resume();
    let admin = server.admin();
    include(&server, &admin, "hello", "1.0");
    assert!(admin.post("/api/v1/releases", &json!({"name": "v1.0"})).status.is_success());
    include(&server, &admin, "hello", "1.1");
    assert!(admin.post("/api/v1/releases", &json!({"name": "v1.1"})).status.is_success());
    let mut devices: Vec<Reporter> =
        (1..=5).map(|number| Reporter::join(&server, &format!("dev-{number}"))).collect();
    devices.iter_mut().take(3).for_each(Reporter::good);
    devices.iter_mut().skip(3).for_each(|device| device.fails("dns"));
    wait_for_alert(&server, AlertState::Firing, 2);
    let fleet = let_the_server_merge(&server);
    add(&server, "alice", "admin");
    let commit = fleet.run(&["rev-parse", "master"]);
    let said = Cmd::new("node")
        .arg(script)
        .env("VOLARY_PAGE_URL", &server.url)
        .env("VOLARY_PAGE_USER", "alice")
        .env("VOLARY_PAGE_PASSWORD", PASSWORD)
        .env("VOLARY_PAGE_OUT", out)
        .timeout(PATIENCE)
        .check()
        .unwrap();
    println!("{}", said.text().trim());
    fleet.run(&["fetch", "--quiet", "origin"]);
    assert_eq!(fleet.run(&["rev-parse", "origin/canary^2"]), commit);
    let silenced = server.events("alert-silenced");
    assert!(silenced[0].ends_with("looked at by a browser"), "{silenced:?}");
}

/// A person signs in through a real provider, which gives the claims only for the access token.
#[test]
#[ignore = "needs chromium, node and what make check-page installs"]
fn a_browser_signs_in_through_a_real_provider() {
    let out = PathBuf::from(std::env::var("VOLARY_PAGE_OUT").expect("make check-page says where to"));
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../scripts/check-oidc.mjs");
    // Free now; the provider begins once the server, whose address it must know, runs.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut server = TestServer::made();
    configure(
        &server,
        &format!(
            "[oidc]\nissuer = \"http://127.0.0.1:{port}\"\nclient_id = \"volary\"\n\
             client_secret_file = \"oidc.secret\"\n[oidc.roles]\nops = \"operator\"\n"
        ),
    );
    let secret = "a secret of 32 letters, & = % + / ";
    write(server.made.dir.join("oidc.secret"), secret);
    server.resume();
    let said = Cmd::new("node")
        .arg(script)
        .env("VOLARY_PAGE_URL", &server.url)
        .env("VOLARY_PAGE_OUT", out)
        .env("VOLARY_OIDC_PORT", port.to_string())
        .env("VOLARY_OIDC_SECRET", secret.trim())
        .check()
        .unwrap();
    println!("{}", said.text().trim());
    let events: Vec<serde_json::Value> = server.admin().get("/api/v1/events?people=true").json();
    let by = json!({"name": "alice@example.com", "how": "oidc", "subject": "alice"});
    assert!(events.iter().any(|event| event["kind"] == "signed-in" && event["by"] == by), "{events:?}");
}
