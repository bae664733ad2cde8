//! The archive's keys over the API: a rotation that waits for stages and devices.

use serde_json::json;
use volary_api::v1::keys::{Key, Keys, RetiredKey};

use crate::support::{Client, DeviceKey, Git, TestServer, good_report};

const KEYS: &str = "/api/v1/archive/keys";

fn keys(client: &Client) -> Keys {
    client.get(KEYS).json()
}

/// Commits the keys that the server has now, and brings them to the first two stages.
fn bring_keys(server: &TestServer, fleet: &Git) -> [String; 2] {
    let commit = fleet.commit(".volary/archive.asc", &keys(&server.admin()).public, "Bring the keys");
    fleet.push("HEAD:master").unwrap();
    let merge = fleet.merge(&commit, "canary", "Promote");
    fleet.push(&format!("{merge}:canary")).unwrap();
    [commit, merge]
}

#[test]
fn old_keys_are_retired_only_when_everybody_has_the_new_one() {
    let server = TestServer::start();
    let admin = server.admin();
    let before = keys(&admin);
    assert_eq!((before.keys.len(), before.all_signed, before.not_yet.len()), (1, true, 0));
    server.with_role("developer").post(KEYS, &json!({"source": {"from": "generate"}})).refused(403, "admin");

    let fleet = server.fleet_clone();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let tip = fleet.run(&["rev-parse", "HEAD"]);
    assert!(
        device.post("/device/v1/reports", &good_report("1", "development", &tip, None)).status.is_success()
    );

    let new: Key = admin.post(KEYS, &json!({"source": {"from": "generate"}, "rotate": true})).json();
    let during = keys(&admin);
    assert_eq!(during.keys.iter().map(|key| key.leaving.is_some()).collect::<Vec<_>>(), [true, false]);
    let short = &tip[..7];
    let expected = ["stage development", "stage canary", "stage production", "device dev-1"]
        .map(|name| format!("{name} at {short}"));
    assert_eq!(during.not_yet, expected);
    let retire = format!("{KEYS}/retire");
    admin.post(&retire, &json!({})).refused(409, "stage development");

    let [commit, _] = bring_keys(&server, &fleet);
    admin.post(&retire, &json!({})).refused(409, "stage production");
    assert_eq!(keys(&admin).not_yet.len(), 2, "production's branch, and the device");
    let merge = fleet.merge(&commit, "production", "no");
    fleet.push(&format!("{merge}:production")).unwrap_err();
    let merged = fleet.run(&["rev-parse", "origin/canary"]);
    let merge = fleet.merge(&merged, "production", "Promote\n\nVolary-Override: healthy no device yet");
    fleet.push(&format!("{merge}:production")).unwrap();
    admin.post(&retire, &json!({})).refused(409, &format!("device dev-1 at {short}"));
    let report = good_report("2", "development", &commit, None);
    assert!(device.post("/device/v1/reports", &report).status.is_success());
    let gone: Vec<RetiredKey> = admin.post(&retire, &json!({})).json();
    assert_eq!(gone[0].fingerprint, before.keys[0].fingerprint);
    let after = keys(&admin);
    assert_eq!((after.keys.len(), after.keys[0].fingerprint.as_str()), (1, new.fingerprint.as_str()));
    assert_eq!(after.retired.len(), 1);
    admin.post(&retire, &json!({})).refused(409, "no key leaves");
    for kind in ["key-rotation-begun", "key-retired"] {
        assert!(server.events(kind)[0].ends_with("by admin"), "{:?}", server.events(kind));
    }
}

#[test]
fn a_forced_retirement_says_who_was_left() {
    let server = TestServer::start();
    let admin = server.admin();
    let rotate = json!({"source": {"from": "generate"}, "rotate": true});
    let new: Key = admin.post(KEYS, &rotate).json();
    admin.post(KEYS, &rotate).refused(409, "a rotation is under way");
    let gone: Vec<RetiredKey> = admin.post(&format!("{KEYS}/retire"), &json!({"force": true})).json();
    assert_eq!(gone.len(), 1);
    let event = &server.events("key-retired")[0];
    assert!(event.contains("although stage development at"), "{event}");
    admin
        .post(&format!("{KEYS}/retire"), &json!({"fingerprint": new.fingerprint}))
        .refused(409, "the only key");
}

#[test]
fn a_signer_of_the_configuration_signs() {
    let mut server = TestServer::made();
    let home = server.scratch().join("gnupg");
    std::fs::create_dir(&home).unwrap();
    let gpg = |args: &[&str]| {
        volary_host::Cmd::new("gpg")
            .args(["--batch", "--homedir"])
            .arg(&home)
            .args(args)
            .check()
            .unwrap()
            .text()
    };
    gpg(&["--passphrase", "", "--quick-gen-key", "Card <card@example.com>", "ed25519", "sign", "never"]);
    let public = gpg(&["--armor", "--export"]);
    let config = server.made.dir.join("server.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let command = json!(["gpg", "--batch", "--homedir", home, "--clearsign"]);
    crate::support::write(&config, format!("{text}[signers.card]\ncommand = {command}\n"));
    server.resume();
    let admin = server.admin();
    let source = json!({"from": "signer", "name": "card", "public": public});
    let key: Key = admin.post(KEYS, &json!({"source": source})).json();
    assert_eq!((key.signer.as_deref(), key.user_id.as_str()), (Some("card"), "Card <card@example.com>"));
    let other = json!({"from": "signer", "name": "hsm", "public": ""});
    admin.post(KEYS, &json!({"source": other})).refused(409, "there is no signer \"hsm\"");
    let _ = volary_host::Cmd::new("gpgconf").arg("--homedir").arg(&home).args(["--kill", "all"]).run();
}
