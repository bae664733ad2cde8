//! `volary verify`: what a promotion rested on is proven from a clone alone.

use std::time::{Duration, Instant};

use serde_json::Value;
use volary_host::Cmd;

use crate::support::Desk;

#[test]
fn a_promotion_is_proven_without_the_server_and_forgeries_are_not() {
    let mut desk = Desk::new();
    desk.ok(&["clone", "fleet"]);
    let fleet = desk.fleet();
    desk.ok_in(&fleet, &["verify"]);
    let promote = |desk: &Desk, from: &str, to: &str| {
        let args = ["promote", "--from", from, "--to", to, "--yes", "--override", "healthy=no devices yet"];
        desk.ok_in(&fleet, if to == "canary" { &args[..6] } else { &args })
    };
    volary_host::write_atomic(&fleet.join("site-note"), b"one\n", 0o644).unwrap();
    desk.git(&["add", "site-note"]);
    desk.git(&["commit", "--quiet", "-m", "Note the first"]);
    desk.git(&["push", "--quiet", "origin", "HEAD:master"]);
    promote(&desk, "development", "canary");
    promote(&desk, "canary", "production");
    // The server signs once the branch is there.
    let begun = Instant::now();
    while !desk.run_in(&fleet, &["verify"]).status.success() {
        assert!(begun.elapsed() < Duration::from_secs(60), "{}", desk.run_in(&fleet, &["verify"]).text());
        std::thread::sleep(Duration::from_millis(200));
        desk.git(&["fetch", "--quiet", "origin"]);
    }

    desk.kill();
    let shown = desk.ok_in(&fleet, &["verify"]);
    assert!(shown.contains("overridden: no devices yet"), "{shown}");
    assert!(shown.contains("signed by volary-server: healthy"), "{shown}");
    let proven: Value =
        serde_json::from_str(&desk.ok_in(&fleet, &["verify", "--json", "--stage", "production"])).unwrap();
    let step = &proven["stages"][0]["newest"][0];
    assert_eq!(step["evidence"]["state"], "proven");
    assert_eq!(step["evidence"]["evidence"]["gates"][0]["overridden"], "no devices yet");

    // Plain OpenSSH says the same of the note.
    let merge = step["commit"].as_str().unwrap().to_owned();
    let notes = ["notes", "--ref", "refs/notes/volary-evidence"];
    let note = Cmd::new("git").cwd(&fleet).args(notes).args(["show", &merge]).check().unwrap().text();
    let (text, signature) = note.split_at(note.find("-----BEGIN").unwrap());
    volary_host::write_atomic(&fleet.join("note.sig"), signature.as_bytes(), 0o600).unwrap();
    let verify = |text: &str| {
        Cmd::new("ssh-keygen")
            .cwd(&fleet)
            .args(["-Y", "verify", "-f", ".volary/allowed_signers", "-I", "volary-server"])
            .args(["-n", "volary-evidence", "-s", "note.sig"])
            .stdin(text)
            .run()
            .unwrap()
    };
    assert!(verify(text).status.success(), "{}", verify(text).text());

    // Anything else in the note is refused, and so is none at all.
    let forged = note.replace("no devices yet", "all is very well");
    let with = |note: &str| {
        let args = ["add", "--force", "-F", "-", &merge];
        Cmd::new("git").cwd(&fleet).args(notes).args(args).stdin(note).check().unwrap();
        let run = desk.run_in(&fleet, &["verify", "--stage", "production"]);
        (run.status.success(), run.text())
    };
    let (holds, said) = with(&forged);
    assert!(!holds && said.contains("was changed after signing"), "{said}");
    let (holds, said) = with(text);
    assert!(!holds && said.contains("no SSH signature"), "{said}");
    Cmd::new("git").cwd(&fleet).args(notes).args(["remove", &merge]).check().unwrap();
    let run = desk.run_in(&fleet, &["verify", "--stage", "production"]);
    assert!(!run.status.success() && run.text().contains("no evidence"), "{}", run.text());
}
