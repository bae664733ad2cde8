//! The server merges by itself where `volary.yml` lets it, and nowhere else.

use std::time::{Duration, Instant};

use volary_host::{read_to_string, write_atomic};

use crate::support::Desk;

const PROMOTE: &str = "promote: { canary: automatic }\ngates:\n  canary: { soak: 1s }\n";

fn edit(desk: &Desk, file: &str, change: impl FnOnce(String) -> String, message: &str) {
    let path = desk.fleet().join(file);
    let text = change(read_to_string(&path).unwrap());
    write_atomic(&path, text.as_bytes(), 0o644).unwrap();
    desk.git(&["add", file]);
    desk.git(&["commit", "--quiet", "-m", message]);
    desk.git(&["push", "--quiet", "origin", "HEAD:master"]);
}

/// A clone of a fleet whose rules of canary let the server merge like that.
fn let_the_server_merge(desk: &Desk, rules: &str) {
    desk.ok(&["clone", "fleet"]);
    let keys = desk.ok(&["server-keys"]);
    let line = keys.lines().find(|line| line.starts_with("volary-promoter ")).unwrap().to_owned();
    edit(desk, ".volary/allowed_signers", |text| format!("{text}{line}\n"), "Let the server merge");
    let with_rules = |text: String| text.replacen("gates:\n", rules, 1);
    edit(desk, "volary.yml", with_rules, "Let it merge into canary");
    // The rules for this are not in canary yet: a person brings them there.
    let to_canary = ["promote", "--from", "development", "--to", "canary", "--yes"];
    desk.ok_in(&desk.fleet(), &to_canary);
}

#[test]
fn a_person_lets_the_server_merge_without_a_clone() {
    let desk = Desk::new();
    let_the_server_merge(&desk, "promote: { canary: asked }\ngates:\n");
    let by_server = ["promote", "--by-server", "--from", "development", "--to", "canary"];
    let with = |more: &[&'static str]| [&by_server[..], more].concat();
    let said = desk.ok(&with(&["--yes"]));
    assert!(said.contains("canary has everything of development already"), "{said}");

    edit(&desk, "site.yml", |text| format!("{text}# changed\n"), "Change something");
    let wanted = desk.git(&["rev-parse", "HEAD"]);
    let shown = desk.ok(&with(&["--dry-run"]));
    assert!(shown.contains("M site.yml") && shown.contains("Change something"), "{shown}");
    assert!(shown.contains("what development did with it\n0 of 0 devices good"), "{shown}");
    let shown = desk.json(&with(&["--dry-run"]));
    assert_eq!((&shown["commit"], &shown["trial"]["devices"]), (&wanted.as_str().into(), &0.into()));
    let (status, said) = desk.fails(&with(&[]));
    assert!(status == 1 && said.contains("add --yes to merge without asking"), "{status}: {said}");
    let at = |branch: &str| {
        desk.git(&["fetch", "--quiet", "origin"]);
        desk.git(&["rev-parse", branch])
    };
    assert_ne!(at("origin/canary^2"), wanted, "nothing was merged so far");

    let promoted = desk.json(&with(&["--yes"]));
    assert_eq!(
        (at("origin/canary^2"), at("origin/canary")),
        (wanted, promoted["merge"].as_str().unwrap().to_owned())
    );
    assert_eq!(at("origin/canary^{tree}"), desk.git(&["rev-parse", "HEAD^{tree}"]));
    let message = desk.git(&["log", "-1", "--format=%B", "origin/canary"]);
    assert!(message.contains("every gate said go, and ") && message.contains(" asked for it"), "{message}");
    let proven = desk.ok_in(&desk.fleet(), &["verify", "--stage", "canary"]);
    assert!(proven.contains("signed by volary-promoter"), "{proven}");
    let events = desk.ok(&["events", "--people"]);
    assert!(events.contains(" merged "), "{events}");

    let (status, said) =
        desk.fails(&["promote", "--by-server", "--from", "canary", "--to", "production", "--yes"]);
    assert!(status != 0 && said.contains("the gates do not say go"), "{said}");
    let (_, said) = desk.fails(&with(&["--yes", "--override", "soak=why"]));
    assert!(said.contains("--override"), "who overrides a gate signs for it: {said}");
}

#[test]
fn the_server_merges_once_the_gates_say_go_and_signs_nothing_else() {
    let desk = Desk::new();
    let_the_server_merge(&desk, PROMOTE);

    edit(&desk, "site.yml", |text| format!("{text}# changed\n"), "Change something");
    let wanted = desk.git(&["rev-parse", "HEAD"]);
    let begun = Instant::now();
    loop {
        desk.git(&["fetch", "--quiet", "origin"]);
        if desk.git(&["rev-parse", "origin/canary^2"]) == wanted {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(120), "{}", desk.ok(&["status"]));
        std::thread::sleep(Duration::from_millis(300));
    }
    let message = desk.git(&["log", "-1", "--format=%B", "origin/canary"]);
    assert!(message.contains("every gate said go") && message.contains("Volary-Stage: canary"), "{message}");
    let events = desk.ok(&["events"]);
    assert!(events.contains("every gate said go: "), "{events}");
    while !desk.run_in(&desk.fleet(), &["verify"]).status.success() {
        let text = desk.run_in(&desk.fleet(), &["verify"]).text();
        assert!(begun.elapsed() < Duration::from_secs(120), "{text}");
        std::thread::sleep(Duration::from_millis(300));
        desk.git(&["fetch", "--quiet", "origin"]);
    }
    let proven = desk.ok_in(&desk.fleet(), &["verify", "--stage", "canary"]);
    assert!(proven.contains("signed by volary-promoter") && proven.contains("go soak"), "{proven}");

    // Whoever has the server's key can neither write what people write nor merge elsewhere.
    let key = desk.folder().join("promotion/key").display().to_string();
    let signed = |branch: &str, args: &[&str]| {
        let key = format!("user.signingkey={key}");
        let with = ["-c", "gpg.format=ssh", "-c", &key];
        desk.git(&[&with[..], args].concat());
        let push = desk.try_git(&["push", "origin", &format!("HEAD:{branch}")]);
        assert!(!push.status.success());
        String::from_utf8_lossy(&push.stderr).into_owned()
    };
    let said = signed("master", &["commit", "--quiet", "--allow-empty", "-S", "-m", "Not a person"]);
    assert!(said.contains("volary-promoter, who may not sign for development"), "{said}");
    desk.git(&["checkout", "--quiet", "-b", "elsewhere", "origin/production"]);
    let merge = ["merge", "--quiet", "--no-ff", "-S", "-m", "Not there", "origin/canary"];
    let said = signed("production", &merge);
    assert!(said.contains("not in .volary/allowed_signers of the commit before"), "{said}");
}
