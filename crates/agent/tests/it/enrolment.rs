//! Getting an identity, also with interruptions.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use volary_agent::enroll::{Ending, Wanted, enroll};
use volary_agent::paths::Paths;
use volary_api::join::JoinToken;
use volary_host::{Cmd, read_to_string};

use crate::fleet::Fleet;
use crate::stub::Stub;

fn wanted(stub: &Stub, stage: &str, signers: &str) -> Wanted {
    let token = JoinToken::decode(&stub.token(stage, signers)).unwrap();
    Wanted::from_token(token, "dev-1".parse().unwrap())
}

#[test]
fn a_device_waits_in_the_lobby_and_keeps_its_key() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let root = tempfile::tempdir().unwrap();
    let paths = Paths::below(root.path());
    let wanted = wanted(&stub, "development", &fleet.signers(&["alice"]));
    stub.world().accepts = false;
    let ending = enroll(&paths, &wanted, Duration::ZERO).unwrap();
    assert_eq!(ending, Ending::Waiting("dev-1".parse().unwrap()));
    let key = read_to_string(&paths.key()).unwrap();
    let mode = std::fs::metadata(paths.key()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "the key is for root alone");

    stub.world().accepts = true;
    let unfinished = volary_agent::enroll::unfinished(&paths).unwrap().unwrap();
    assert_eq!(unfinished, wanted);
    assert!(matches!(enroll(&paths, &unfinished, Duration::ZERO).unwrap(), Ending::Enrolled(_)));
    assert_eq!(read_to_string(&paths.key()).unwrap(), key);
    assert!(volary_agent::enroll::unfinished(&paths).unwrap().is_none(), "the secret is gone");
    // Once more changes nothing and asks nobody.
    let requests = stub.world().requests.len();
    assert!(matches!(enroll(&paths, &wanted, Duration::ZERO).unwrap(), Ending::Enrolled(_)));
    assert_eq!(stub.world().requests.len(), requests);
}

#[test]
fn what_is_wrong_is_said() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let check = |wanted: Wanted, expected: &str| {
        let root = tempfile::tempdir().unwrap();
        let error = enroll(&Paths::below(root.path()), &wanted, Duration::ZERO).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    let good = wanted(&stub, "development", &fleet.signers(&["alice"]));
    check(wanted(&stub, "canary", &good.signers), "volary device token --stage development");
    check(Wanted { signers: "# nobody\n".into(), ..good.clone() }, "allowed signers is empty");
    check(Wanted { ca: "nonsense".into(), ..good.clone() }, "CA certificate");
    let other = Stub::start(&fleet.work());
    check(Wanted { server: other.url, ..good.clone() }, "cannot reach");
    stub.world().trouble = Some(403);
    check(good, "the stub is in trouble");
}

#[test]
fn how_it_ended_is_told_as_json_too() {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let root = tempfile::tempdir().unwrap();
    let token = stub.token("development", &fleet.signers(&["alice"]));
    let check = |status: i32, outcome: &str| {
        let args = ["enroll", "--token", &token, "--name", "dev-1", "--no-wait", "--json"];
        let agent = Cmd::new(env!("CARGO_BIN_EXE_volary-agent")).env("VOLARY_AGENT_ROOT", root.path());
        let output = agent.args(args).run().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{said}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let expected = serde_json::json!({
            "version": 1,
            "outcome": outcome,
            "name": "dev-1",
            "server": stub.url,
            "stage": "development",
        });
        assert_eq!(told, expected, "{said}");
    };
    stub.world().accepts = false;
    check(4, "waiting");
    stub.world().accepts = true;
    check(0, "enrolled");
}
