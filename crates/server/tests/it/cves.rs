//! The data of Debian's security tracker names what a promotion mends and brings: before it, on its page, and in its evidence.

use serde_json::{Value, json};
use volary_api::v1::archive::Pin;
use volary_api::v1::fleet::{CveData, Promotion};
use volary_fleet::{FleetLock, Images, LockedRelease};

use crate::support::{TestServer, make_deb, wait_for};

const STAGES: &str = "version: 1
stages:
  development: { branch: master, packages: rolling }
  canary:      { branch: canary, from: development }
";

/// In the form of https://security-tracker.debian.org/tracker/data/json.
pub fn tracker() -> Value {
    let fault =
        |status: Value| json!({"description": "…", "scope": "remote", "releases": {"bookworm": status}});
    json!({
        "curl": {"CVE-2026-9": fault(json!({"status": "open", "urgency": "high", "repositories": {"bookworm": "1"}}))},
        "pump": {
            "CVE-2026-1": fault(json!({"status": "resolved", "fixed_version": "1.1-1", "urgency": "low**"})),
            "CVE-2026-2": fault(json!({"status": "resolved", "fixed_version": "1.1-1", "urgency": "high"})),
            "CVE-2026-3": fault(json!({"status": "open", "urgency": "medium"})),
            "CVE-2026-4": fault(json!({"status": "resolved", "fixed_version": "0", "urgency": "high"})),
        },
        "valve": {"CVE-2026-5": fault(json!({"status": "open", "urgency": "not yet assigned"}))},
    })
}

/// Packages into rolling, a release of them, and its pin as a lock.
fn release(server: &TestServer, name: &str, packages: &[(&str, &str)]) -> String {
    let admin = server.admin();
    let id = "c".repeat(31) + &name.chars().last().unwrap().to_string();
    for (package, version) in packages {
        let deb = make_deb(server.scratch(), package, version);
        let path = format!("/api/v1/uploads/{id}/{}", deb.file_name().unwrap().to_str().unwrap());
        assert!(admin.put(&path, &std::fs::read(&deb).unwrap()).status.is_success());
    }
    let answer = admin.post(&format!("/api/v1/uploads/{id}/include"), &json!({"allow_unsigned": true}));
    assert!(answer.status.is_success(), "{}", answer.text());
    let answer = admin.post("/api/v1/releases", &json!({"name": name}));
    assert!(answer.status.is_success(), "{}", answer.text());
    let pin: Pin = admin.get(&format!("/api/v1/releases/{name}/pin")).json();
    let locked = LockedRelease { release: pin.release, digest: pin.digest, indexes: pin.indexes };
    FleetLock { release: Some(locked), images: Images::new() }.to_text()
}

#[test]
fn a_promotion_names_the_security_faults_that_it_mends_and_brings() {
    let server = TestServer::start();
    let admin = server.admin();
    let fleet = server.fleet_clone();
    fleet.commit("volary.yml", STAGES, "Have two stages");
    let first = fleet.commit("volary.lock", &release(&server, "v1", &[("pump", "1.0-1")]), "Pin v1");
    fleet.push("HEAD:master").unwrap();
    fleet.push(&format!("{}:canary", fleet.merge(&first, "canary", "Bring v1"))).unwrap();
    let lock = release(&server, "v2", &[("pump", "1.1-1"), ("valve", "2")]);
    let commit = fleet.commit("volary.lock", &lock, "Pin v2");
    fleet.push("HEAD:master").unwrap();

    let ask = || -> Promotion { admin.get("/api/v1/promotion?from=development&to=canary").json() };
    assert_eq!(ask().cves, None, "nobody gave the data");
    let give =
        |release: &str, data: &str| admin.put(&format!("/api/v1/cves?release={release}"), data.as_bytes());
    let data = tracker().to_string();
    give("bookworm", &data[..data.len() / 2]).refused(400, "not the data of Debian's security tracker: EOF");
    give("trixie", &data).refused(400, "says nothing of a release \"trixie\"");
    give("../etc", &data).refused(400, "code name");
    let path = "/api/v1/cves?release=bookworm";
    server.with_role("viewer").put(path, data.as_bytes()).refused(403, "developer");
    let given: CveData = give("bookworm", &data).json();
    assert_eq!((given.packages, given.faults), (3, 6));
    assert_eq!(admin.get("/api/v1/cves").json::<Option<CveData>>().unwrap(), given);

    let found = ask().cves.unwrap();
    let ids = |cves: &[volary_api::v1::fleet::Cve]| {
        cves.iter().map(|cve| format!("{} {} {}", cve.id, cve.source, cve.urgency)).collect::<Vec<_>>()
    };
    assert_eq!(ids(&found.closed), ["CVE-2026-2 pump high", "CVE-2026-1 pump low"]);
    assert_eq!(ids(&found.opened), ["CVE-2026-5 valve not yet assigned"]);
    assert_eq!(found.closed[0].fixed_version.as_deref(), Some("1.1-1"));
    let cookie = format!("volary_token={}", server.admin_token());
    let path = "/promotion?from=development&to=canary";
    let page = server.anonymous().get_with(path, &[("cookie", &cookie)]).text();
    assert!(page.contains("2 mended, 1 new, of Debian bookworm") && page.contains("CVE-2026-5"), "{page}");

    let merge = fleet.merge(&commit, "canary", "Promote v2");
    fleet.push(&format!("{merge}:canary")).unwrap();
    let note = wait_for("the evidence is kept", || {
        let git = volary_host::Cmd::new("git").cwd(server.layout().fleet());
        let shown = git.args(["notes", "--ref", "volary-evidence", "show", &merge]).run().unwrap();
        shown.status.success().then(|| shown.text())
    });
    assert!(note.contains("CVE-2026-2 pump (high)") && note.contains("CVE-2026-5 valve"), "{note}");
}
