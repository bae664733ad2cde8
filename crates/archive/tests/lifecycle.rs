//! The end of releases, protection from it, packages that do not go together, and a check that
//! tells how far it is.

mod common;

use common::{Lab, now};
use volary_archive::{Archive, Error, KeepPolicy, Pick, PickResult};
use volary_model::ReleaseName;

fn name(text: &str) -> ReleaseName {
    text.parse().unwrap()
}

fn lab() -> Lab {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.cut(&name("v1"), now()).unwrap();
    lab.archive.cut(&name("v2"), now()).unwrap();
    lab
}

#[test]
fn a_dropped_release_is_gone_for_ever_and_frees_its_packages() {
    let lab = lab();
    let other = Archive::open(&lab.path()).unwrap();
    lab.add("hello", "2.0", "amd64", "");
    let dropped = lab.archive.drop_release(&name("v1"), now()).unwrap();
    assert_eq!((dropped.name.as_str(), dropped.revisions.len()), ("v1", 1));
    assert!(!lab.archive.public_dir().join("dists/v1").exists());
    assert!(lab.archive.public_dir().join("dists/v2/r1/InRelease").is_file());
    for archive in [&lab.archive, &other] {
        assert!(matches!(archive.release(&name("v1")), Err(Error::NoRelease(_))));
        assert!(matches!(archive.cut(&name("v1"), now()), Err(Error::Dropped(_))));
        assert_eq!(archive.check(true, now()).unwrap().problems, Vec::<String>::new());
    }
    let policy = KeepPolicy { versions: 1, age: jiff::SignedDuration::ZERO, ..KeepPolicy::default() };
    assert_eq!(lab.archive.collect(&policy, true, now()).unwrap().removed.len(), 0, "v2 has it still");
    lab.archive.drop_release(&name("v2"), now()).unwrap();
    assert_eq!(lab.archive.collect(&policy, false, now()).unwrap().removed.len(), 1);
    assert_eq!(Archive::open(&lab.path()).unwrap().releases().unwrap().len(), 0);
}

#[test]
fn a_drop_that_was_cut_off_is_finished() {
    let lab = lab();
    let dists = lab.archive.public_dir().join("dists");
    let kept = lab.dir.path().join("kept");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        volary_host::Cmd::new("cp").arg("-a").args([from, to]).check().unwrap();
    };
    copy(&dists.join("v1"), &kept);
    lab.archive.drop_release(&name("v1"), now()).unwrap();
    // After the line in the journal; after the first rename; and in the middle of the removal.
    for left in ["v1", ".dropped-v1"] {
        copy(&kept, &dists.join(left));
        let opened = Archive::open(&lab.path()).unwrap();
        assert!(!dists.join("v1").exists() && !dists.join(".dropped-v1").exists(), "{left}");
        assert_eq!(opened.check(true, now()).unwrap().problems, Vec::<String>::new());
    }
    copy(&kept, &dists.join("v1"));
    copy(&kept, &dists.join(".dropped-v1"));
    lab.archive.drop_release(&name("v2"), now()).unwrap();
    assert_eq!(std::fs::read_dir(&dists).unwrap().count(), 1, "only rolling is left");
}

#[test]
fn a_protected_release_stays() {
    let lab = lab();
    let release = lab.archive.protect(&name("v1"), "alice", "in the field", now()).unwrap();
    assert_eq!(release.protection.unwrap().reason, "in the field");
    let opened = Archive::open(&lab.path()).unwrap();
    let error = opened.drop_release(&name("v1"), now()).unwrap_err().to_string();
    assert!(error.contains("protected by alice: in the field"), "{error}");
    assert!(matches!(opened.protect(&name("v9"), "a", "", now()), Err(Error::NoRelease(_))));
    for _ in 0..2 {
        assert_eq!(opened.unprotect(&name("v1"), now()).unwrap().protection, None);
    }
    lab.archive.drop_release(&name("v1"), now()).unwrap();
}

fn pick(lab: &Lab, picks: &[&str]) -> Result<PickResult, String> {
    let picks: Vec<Pick> = picks.iter().map(|pick| pick.parse().unwrap()).collect();
    lab.archive.pick(&name("v1"), &picks, false, now()).map_err(|error| error.to_string())
}

/// A release with these packages, and rolling with those on top.
fn released(before: &[(&str, &str, &str)], after: &[(&str, &str, &str)]) -> Lab {
    let lab = Lab::new();
    for (package, version, more) in before {
        lab.add(package, version, "amd64", more);
    }
    lab.archive.cut(&name("v1"), now()).unwrap();
    for (package, version, more) in after {
        lab.add(package, version, "amd64", more);
    }
    lab
}

#[test]
fn a_pick_takes_along_what_goes_with_it_or_is_refused() {
    let base: &[(&str, &str, &str)] = &[("app", "1.0", ""), ("lib", "1.0", "")];
    // What comes in breaks the old one, and rolling has one that fits.
    let fits = released(base, &[("app", "2.0", "Breaks: lib (<< 2)\n"), ("lib", "2.0", "")]);
    let result = pick(&fits, &["app"]).unwrap();
    assert_eq!(
        result.changes.iter().map(|change| change.package.as_str()).collect::<Vec<_>>(),
        ["app", "lib"]
    );
    // The one that is there breaks what comes in.
    let reverse =
        released(&[("app", "1.0", ""), ("lib", "1.0", "Conflicts: app (>= 2)\n")], &[("app", "2.0", "")]);
    let error = pick(&reverse, &["app"]).unwrap_err();
    assert!(error.contains("lib 1.0 (amd64) breaks or conflicts with app (>= 2)"), "{error}");
    assert_eq!(reverse.list("v1/r1"), ["app 1.0 (amd64)", "lib 1.0 (amd64)"]);
    // Rolling has none that fits.
    let none = released(base, &[("app", "2.0", "Conflicts: lib\n")]);
    let error = pick(&none, &["app"]).unwrap_err();
    assert!(error.contains("conflicts with lib") && error.contains("lib 1.0"), "{error}");
    // Both are asked for.
    let both = released(base, &[("app", "2.0", "Breaks: lib (<< 3)\n"), ("lib", "2.0", "")]);
    assert!(pick(&both, &["app", "lib"]).unwrap_err().contains("breaks or conflicts with lib (<< 3)"));
    assert!(pick(&both, &["lib"]).is_ok(), "the old app has nothing against it");
}

#[test]
fn what_is_for_all_architectures_comes_along_once() {
    let lab = |before: &[(&str, &str, &str)], after: &[(&str, &str, &str)]| {
        let lab = Lab::new();
        before.iter().for_each(|(package, version, more)| drop(lab.add(package, version, "all", more)));
        lab.archive.cut(&name("v1"), now()).unwrap();
        after.iter().for_each(|(package, version, more)| drop(lab.add(package, version, "all", more)));
        lab
    };
    let base: &[(&str, &str, &str)] = &[("app", "1.0", "Depends: lib (<< 2)\n"), ("lib", "1.0", "")];
    let comes = |lab: &Lab, package: &str| {
        let changes = pick(lab, &[package]).unwrap().changes;
        changes.iter().map(|change| change.package.to_string()).collect::<Vec<_>>()
    };
    let needs = lab(base, &[("app", "2.0", "Depends: lib (>= 2)\n"), ("lib", "2.0", "")]);
    assert_eq!(comes(&needs, "app"), ["app", "lib"]);
    let source = "Source: both\n";
    let app = format!("{source}Depends: lib (<< 2)\n");
    let before = [("app", "1.0", app.as_str()), ("lib", "1.0", source)];
    let siblings = lab(&before, &[("app", "2.0", source), ("lib", "2.0", source)]);
    assert_eq!(comes(&siblings, "lib"), ["app", "lib"]);
    let base = [("app", "1.0", ""), ("lib", "1.0", "")];
    let clash = lab(&base, &[("app", "2.0", "Breaks: lib (<< 2)\n"), ("lib", "2.0", "")]);
    assert_eq!(comes(&clash, "app"), ["app", "lib"]);
}

#[test]
fn what_clashed_before_and_alternatives_may_come() {
    let more = "Conflicts: other\n";
    let before = released(&[("app", "1.0", more), ("other", "1.0", "")], &[("app", "2.0", more)]);
    assert!(pick(&before, &["app"]).is_ok());
    // One of several on each device, as mail servers are.
    let one = "Provides: mail-server\nConflicts: mail-server\n";
    let servers = released(&[("post", "1.0", one), ("app", "1.0", "")], &[("exim", "1.0", one)]);
    assert!(pick(&servers, &["exim"]).is_ok());
    // A name that only the other provides.
    let provided = released(
        &[("lib", "1.0", "Provides: old-abi\n"), ("app", "1.0", "")],
        &[("app", "2.0", "Breaks: old-abi\n")],
    );
    assert!(pick(&provided, &["app"]).unwrap_err().contains("old-abi"));
}

#[test]
fn a_deep_check_tells_how_far_it_is_and_can_be_ended() {
    let lab = lab();
    lab.add("hello", "2.0", "amd64", "");
    let mut seen = Vec::new();
    let report = lab.archive.check_with(true, now(), &mut |done, total| {
        seen.push((done, total));
        true
    });
    assert_eq!(report.unwrap().unwrap().problems, Vec::<String>::new());
    assert!(seen.len() == 3 && seen[0].0 == 0 && seen[2].0 == seen[2].1 && seen[2].1 > 0, "{seen:?}");
    assert_eq!(lab.archive.check_with(true, now(), &mut |_, _| false).unwrap(), None);
    // Publishing goes on while packages are read.
    let deb = lab.deb("hello", "3.0", "amd64", "");
    let report = lab.archive.check_with(true, now(), &mut |done, _| {
        if done == 0 {
            lab.include(std::slice::from_ref(&deb)).unwrap();
        }
        true
    });
    assert_eq!(report.unwrap().unwrap().problems, Vec::<String>::new());
}
