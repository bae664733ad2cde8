//! Releases from the cut to the drop, and the archive's upkeep, as people type it.

use crate::support::Desk;

/// A release with two packages, and newer ones in rolling: `app` needs the newer `lib`.
fn desk() -> Desk {
    let desk = Desk::new();
    let old = [desk.deb("lib", "1.0", ""), desk.deb("app", "1.0", "Depends: lib\n")];
    desk.ok(&["archive", "include", &old[0], &old[1]]);
    desk.ok(&["release", "cut", "v1"]);
    let new = [desk.deb("lib", "1.1", ""), desk.deb("app", "1.1", "Depends: lib (>= 1.1)\n")];
    desk.ok(&["archive", "include", &new[0], &new[1]]);
    desk
}

/// The line of a table, or of a list, that begins with this, with single spaces.
#[track_caller]
fn line(text: &str, start: &str) -> String {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text.lines().map(words).find(|line| line.starts_with(start)).unwrap_or_else(|| panic!("{start}: {text}"))
}

#[test]
fn a_dry_pick_says_what_comes_and_why_and_changes_nothing() {
    let desk = desk();
    let said = desk.ok(&["release", "pick", "v1", "app", "--dry-run"]);
    assert!(line(&said, "~ app all 1.0 1.1").ends_with("asked for"), "{said}");
    assert!(line(&said, "~ lib all 1.0 1.1").ends_with("app needs lib (>= 1.1)"), "{said}");
    assert!(
        said.contains("v1/r2 would be the newest revision") && said.contains("nothing was changed"),
        "{said}"
    );
    assert!(line(&said, "all: a device with all of it fetches 2 packages").contains("installed"), "{said}");
    let breaks = desk.deb("foe", "1.0", "Breaks: lib (<< 9)\n");
    desk.ok(&["archive", "include", &breaks]);
    let (status, said) = desk.fails(&["release", "pick", "v1", "foe", "--dry-run"]);
    assert_eq!(status, 1);
    assert!(said.contains("foe 1.0") && said.contains("breaks or conflicts with lib (<< 9)"), "{said}");
    let shown = desk.json(&["release", "show", "v1"]);
    assert_eq!(shown["revisions"].as_array().unwrap().len(), 1);
    let picked = desk.json(&["release", "pick", "v1", "app"]);
    assert_eq!(picked["changes"][1]["because"], "app needs lib (>= 1.1)");
    let again = desk.ok(&["release", "pick", "v1", "app", "--dry-run"]);
    assert!(again.contains("v1/r2 has all of this already"), "{again}");
}

#[test]
fn a_difference_tells_versions_changes_and_sizes() {
    let desk = desk();
    let said = desk.ok(&["release", "diff", "v1", "rolling"]);
    assert!(said.starts_with("from v1/r1 to rolling:"), "{said}");
    line(&said, "~ app all 1.0 1.1");
    line(&said, "app 1.0 → 1.1");
    line(&said, "1.1 A B <a@example.com> Sun, 22 Nov 2026");
    assert_eq!(said.matches("* Bring 1.1.").count(), 2, "{said}");
    assert!(!said.contains("Bring 1.0"), "only what is new: {said}");
    let back = desk.ok(&["release", "diff", "rolling", "v1/r1"]);
    assert!(back.contains("1.1 → 1.0, which takes back"), "{back}");
    let json = desk.json(&["release", "diff", "v1", "rolling"]);
    assert_eq!(json["sources"][0]["entries"][0]["changes"], "  * Bring 1.1.");
    assert_eq!(json["downloads"][0]["packages"], 2);
    let same = desk.ok(&["release", "diff", "v1", "v1/r1"]);
    assert!(same.contains("no package differs"), "{same}");
}

#[test]
fn a_release_is_shown_protected_and_dropped() {
    let desk = desk();
    let said = desk.ok(&["release", "protect", "v1", "--reason", "the auditors want it"]);
    assert!(said.contains("v1 cannot be dropped"), "{said}");
    let shown = desk.ok(&["release", "show", "v1"]);
    assert!(shown.contains("the auditors want it") && shown.contains("packages of v1/r1"), "{shown}");
    line(&shown, "lib 1.0 all – –");
    let json = desk.json(&["release", "show", "v1/r1"]);
    assert_eq!((&json["protection"]["by"], &json["suite"]), (&"admin".into(), &"v1/r1".into()));
    assert_eq!(json["packages"].as_array().unwrap().len(), 2);
    assert!(desk.ok(&["release", "list"]).contains("open, protected"));
    let (_, said) = desk.fails(&["release", "show", "rolling"]);
    assert!(said.contains("volary archive list"), "{said}");
    let (status, said) = desk.fails(&["release", "drop", "v1"]);
    assert!(status == 1 && said.contains("the auditors want it"), "{said}");
    assert!(said.contains("volary release unprotect v1"), "{said}");
    desk.ok(&["release", "unprotect", "v1"]);

    desk.ok(&["clone", "fleet"]);
    desk.ok_in(&desk.fleet(), &["bump", "v1"]);
    let (status, said) = desk.fails(&["release", "drop", "v1"]);
    assert!(
        status == 1 && said.contains("stage development pins v1/r1") && said.contains("help: "),
        "{said}"
    );
    desk.ok(&["release", "cut", "v2"]);
    desk.ok_in(&desk.fleet(), &["bump", "v2"]);
    let said = desk.ok(&["release", "drop", "v1"]);
    assert!(said.contains("v1 is gone, with 1 revision"), "{said}");
    let (_, said) = desk.fails(&["release", "cut", "v1"]);
    assert!(said.contains("v1"), "{said}");
    let events = desk.ok(&["events"]);
    for part in
        ["v1 was protected by admin: the auditors want it", "protection of v1 was ended", "v1 was dropped"]
    {
        assert!(events.contains(part), "{part}: {events}");
    }
}

#[test]
fn the_archive_is_checked_and_collected() {
    let desk = desk();
    let dry = desk.ok(&["archive", "gc", "--dry-run"]);
    assert!(dry.contains("no package can go") && dry.contains("4 packages in the archive"), "{dry}");
    assert_eq!(desk.json(&["archive", "gc"])["kept"], 4);
    let why = desk.ok(&["archive", "why", "lib=1.0"]);
    assert!(why.contains("stays: it is in v1/r1") && !why.contains("lib 1.1"), "{why}");
    assert_eq!(desk.json(&["archive", "why", "lib"]).as_array().unwrap().len(), 2);
    let (_, said) = desk.fails(&["archive", "why", "nothing"]);
    assert!(said.contains("the archive has no package nothing"), "{said}");

    for args in [&["archive", "check"][..], &["archive", "check", "--deep"]] {
        let output = desk.run_in(desk.path(), args);
        assert!(output.status.success() && output.stderr.is_empty(), "quiet in a pipe: {output:?}");
        assert_eq!(output.text().lines().count(), 1, "{}", output.text());
        assert!(output.text().ends_with("all are whole\n"), "{}", output.text());
    }
    let packages = desk.json(&["archive", "list"]);
    let hex = packages[0]["sha256"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let deb = desk.folder().join("archive/public/pool/sha256").join(&hex[..2]).join(format!("{hex}.deb"));
    volary_host::write_atomic(&deb, b"short", 0o644).unwrap();
    let output = desk.run_in(desk.path(), &["archive", "check"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(output.text().contains(&hex), "{}", output.text());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.contains("error: the archive is not whole: 1 problem"), "{errors}");
    let json = desk.run_in(desk.path(), &["--json", "archive", "check"]);
    assert_eq!(json.status.code(), Some(3));
    let report: serde_json::Value = serde_json::from_str(&json.text()).unwrap();
    assert_eq!(report["problems"].as_array().unwrap().len(), 1);
}
