//! A rotation of the archive's keys, from the first command to the last.

use crate::support::Desk;

const ARCHIVE_KEY: &str = ".volary/archive.asc";

#[test]
fn keys_rotate_through_the_fleet_repository() {
    let mut desk = Desk::new();
    desk.ok(&["clone", "fleet"]);
    let fleet = desk.fleet();
    let old = desk.json(&["archive", "keys", "list"])["keys"][0]["fingerprint"].as_str().unwrap().to_owned();
    let said = desk.ok(&["archive", "keys", "rotate"]);
    assert!(said.contains("volary bump --keys") && said.contains("volary archive keys retire"), "{said}");
    let listed = desk.ok(&["archive", "keys", "list"]);
    assert!(
        listed.contains("leaves, since") && listed.contains("without a key that stays: stage"),
        "{listed}"
    );
    let new = desk.json(&["archive", "keys", "list"])["keys"][1]["fingerprint"].as_str().unwrap().to_owned();
    let (status, said) = desk.fails(&["archive", "keys", "retire"]);
    assert!(
        status == 1 && said.contains("stage canary at") && said.contains("help: bring the keys"),
        "{said}"
    );

    let said = desk.ok_in(&fleet, &["bump", "--keys"]);
    assert!(said.contains(&format!("adds {new}")) && !said.contains("removes"), "{said}");
    assert!(desk.git(&["log", "-1", "--format=%B"]).contains(&format!("adds {new}")));
    assert_eq!(desk.git(&["diff", "--name-only", "HEAD~1"]), ARCHIVE_KEY);
    let again = desk.ok_in(&fleet, &["bump", "--keys"]);
    assert!(again.contains("has the archive's keys already"), "{again}");
    let promote = |from: &str, to: &str| {
        let args = ["promote", "--from", from, "--to", to, "--yes", "--override", "healthy=no devices yet"];
        let args = if to == "production" { &args[..] } else { &args[..6] };
        desk.ok_in(&fleet, args);
    };
    promote("development", "canary");
    let (_, said) = desk.fails(&["archive", "keys", "retire"]);
    assert!(said.contains("stage production") && !said.contains("stage canary"), "{said}");
    promote("canary", "production");
    let said = desk.ok(&["archive", "keys", "retire"]);
    assert!(said.contains(&format!("{old} signs no more")), "{said}");
    let said = desk.ok_in(&fleet, &["bump", "--keys"]);
    assert!(said.contains(&format!("removes {old}")) && !said.contains("adds"), "{said}");

    // What is in the clone is what signs, also after a kill.
    desk.kill();
    desk.start();
    let inrelease = desk.folder().join("archive/public/dists/rolling/InRelease");
    let keyring = desk.path().join("keyring.gpg");
    let asc = volary_host::read(&fleet.join(ARCHIVE_KEY)).unwrap();
    let gpg = volary_host::Cmd::new("gpg").args(["--batch", "--homedir"]).arg(desk.path());
    gpg.args(["--dearmor", "-o"]).arg(&keyring).stdin(asc).check().unwrap();
    volary_host::Cmd::new("gpgv").arg("--keyring").args([&keyring, &inrelease]).check().unwrap();
    let events = desk.ok(&["events"]);
    assert!(events.contains("rotated by admin") && events.contains("was retired by admin"), "{events}");
}

#[test]
fn keys_that_devices_do_not_know_are_not_brought() {
    let desk = Desk::new();
    desk.ok(&["clone", "fleet"]);
    desk.ok(&["archive", "keys", "rotate"]);
    desk.ok(&["archive", "keys", "retire", "--force"]);
    let fleet = desk.fleet();
    let output = desk.run_in(&fleet, &["bump", "--keys"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("none of the keys"), "{said}");
    assert_eq!(desk.git(&["status", "--porcelain"]), "");
}

#[test]
fn what_is_asked_wrongly_is_explained() {
    let desk = Desk::new();
    let (_, said) = desk.fails(&["archive", "keys", "add"]);
    assert!(said.contains("no key was named"), "{said}");
    let (status, _) = desk.fails(&["archive", "keys", "rotate", "--signer", "card"]);
    assert_eq!(status, 2);
    let (_, said) = desk.fails(&["archive", "keys", "retire"]);
    assert!(said.contains("no key leaves"), "{said}");
    let (_, said) = desk.fails(&["archive", "keys", "retire", "ABCD"]);
    assert!(said.contains("no key ABCD"), "{said}");
}
