//! Two people sign for a stage, and a stop that passes the gates: all through the real commands.

use volary_host::{Cmd, read_to_string, write_atomic};

use crate::support::Desk;

/// A desk with a second person, bob, whose configuration is returned, and further rules.
fn with_bob(desk: &Desk, rules: &str) -> String {
    desk.ok(&["clone", "fleet"]);
    let key = desk.path().join("bob");
    Cmd::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "bob", "-f"])
        .arg(&key)
        .check()
        .unwrap();
    let config = read_to_string(&desk.folder().join("client.toml")).unwrap();
    let kept: Vec<&str> = config.lines().filter(|line| !line.starts_with("signing_key")).collect();
    let text = format!("{}\nsigning_key = \"{}\"\n", kept.join("\n"), key.display());
    let path = desk.folder().join("bob.toml");
    write_atomic(&path, text.as_bytes(), 0o600).unwrap();
    let signers = desk.fleet().join(".volary/allowed_signers");
    let line = format!("bob@example.com {}", read_to_string(&key.with_extension("pub")).unwrap());
    change(desk, &signers, &format!("{}{line}", read_to_string(&signers).unwrap()));
    if !rules.is_empty() {
        let fleet = desk.fleet().join("volary.yml");
        change(desk, &fleet, &format!("{}{rules}", read_to_string(&fleet).unwrap()));
    }
    path.display().to_string()
}

fn change(desk: &Desk, path: &std::path::Path, text: &str) {
    write_atomic(path, text.as_bytes(), 0o644).unwrap();
    desk.git(&["commit", "-q", "-a", "-S", "-m", "Change the rules"]);
    desk.git(&["push", "-q", "origin", "HEAD:master"]);
}

const TO_CANARY: [&str; 6] = ["promote", "--from", "development", "--to", "canary", "--yes"];

#[test]
fn two_people_sign_for_a_stage() {
    let desk = Desk::new();
    let bob = with_bob(&desk, "quorum: { canary: 2 }\n");
    let fleet = desk.fleet();
    // Canary has no quorum yet, so this one still needs one signature.
    desk.ok_in(&fleet, &TO_CANARY);
    desk.git(&["commit", "-q", "--allow-empty", "-S", "-m", "Work"]);
    let work = desk.git(&["rev-parse", "HEAD"]);
    desk.git(&["push", "-q", "origin", "HEAD:master"]);
    let output = desk.run_in(&fleet, &TO_CANARY);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("canary needs 2 different people; bob@example.com may approve it"), "{said}");
    assert!(said.contains(&format!("volary approve --stage canary {}", &work[..7])), "{said}");

    let approved = desk.ok_in(&fleet, &["--config", &bob, "approve", "--stage", "canary", "--yes"]);
    assert!(
        approved.contains("approved for canary by bob@example.com; 2 people must sign, with"),
        "{approved}"
    );
    assert_eq!(desk.git(&["tag", "--list"]), "", "no tag of a name is left behind");
    let said = desk.ok_in(&fleet, &TO_CANARY);
    assert!(said.contains("canary is at"), "{said}");

    // Where people push, the commit waits on another branch until it is approved.
    let rules = fleet.join("volary.yml");
    let text = read_to_string(&rules).unwrap().replace("canary: 2", "canary: 2, development: 2");
    change(&desk, &rules, &text);
    desk.git(&["commit", "-q", "--allow-empty", "-S", "-m", "More"]);
    desk.git(&["push", "-q", "origin", "HEAD:next"]);
    let output = desk.run_in(&fleet, &["approve", "--stage", "development", "--yes"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("the commit must be named"));
    desk.ok_in(&fleet, &["--config", &bob, "approve", "--stage", "development", "--yes", "origin/next"]);
    desk.git(&["push", "-q", "origin", "origin/next:master"]);
}

#[test]
fn a_stop_waits_for_no_gate_and_lifting_it_does() {
    let desk = Desk::new();
    with_bob(&desk, "");
    let (fleet, rules) = (desk.fleet(), desk.fleet().join("volary.yml"));
    let old = read_to_string(&rules).unwrap();
    desk.ok_in(&fleet, &TO_CANARY);
    let to_production = ["promote", "--from", "canary", "--to", "production", "--yes"];
    let output = desk.run_in(&fleet, &to_production);
    assert_eq!(output.status.code(), Some(3), "the gate asks, since no device says anything");
    change(&desk, &rules, &format!("{old}stop: {{ canary: smoke, production: smoke }}\n"));
    desk.ok_in(&fleet, &TO_CANARY);
    desk.ok_in(&fleet, &to_production);
    change(&desk, &rules, &old);
    desk.ok_in(&fleet, &TO_CANARY);
    let output = desk.run_in(&fleet, &to_production);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(3) && said.contains("healthy"), "{said}");
}
