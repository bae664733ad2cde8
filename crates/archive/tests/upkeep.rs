//! Checking the archive, and removing what nothing names.

mod common;

use std::collections::BTreeMap;

use common::{Lab, now};
use jiff::SignedDuration;
use volary_archive::{Archive, CheckReport, KeepPolicy, KeepReason, Pick};

fn lab() -> Lab {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.cut(&"v1".parse().unwrap(), now()).unwrap();
    for version in ["1.1", "1.2", "1.3"] {
        lab.add("hello", version, "amd64", "");
    }
    lab
}

fn policy(versions: usize) -> KeepPolicy {
    KeepPolicy { versions, age: SignedDuration::ZERO, named: BTreeMap::new() }
}

#[test]
fn a_whole_archive_has_no_problems() {
    let report = lab().archive.check(true, now()).unwrap();
    // Two suites with two forms for two architectures, and the list of differences of one, plain and
    // packed: nothing changed for arm64.
    let expected = CheckReport { suites: 2, indexes: 10, packages: 4, problems: Vec::new() };
    assert_eq!(report, expected);
}

#[test]
fn damage_is_found_and_named() {
    let check = |damage: &dyn Fn(&Lab), deep: bool, expected: &str| {
        let lab = lab();
        damage(&lab);
        let problems = lab.archive.check(deep, now()).unwrap().problems;
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains(expected), "{problems:?}");
    };
    let package = |lab: &Lab| {
        let entry = &lab.archive.packages(&"rolling".parse().unwrap()).unwrap()[0];
        lab.archive.public_dir().join(entry.filename())
    };
    check(&|lab| std::fs::remove_file(package(lab)).unwrap(), false, "No such file");
    check(&|lab| volary_host::write_atomic(&package(lab), b"short", 0o644).unwrap(), false, "it has 5 bytes");
    let flip = |lab: &Lab| {
        let mut bytes = volary_host::read(&package(lab)).unwrap();
        bytes[100] ^= 1;
        volary_host::write_atomic(&package(lab), &bytes, 0o644).unwrap();
    };
    check(&flip, true, "its content is sha256:");
    let inrelease = |lab: &Lab| lab.archive.public_dir().join("dists/v1/r1/InRelease");
    let alter = |lab: &Lab| {
        let text = volary_host::read_to_string(&inrelease(lab))
            .unwrap()
            .replace("Components: main", "Components: evil");
        volary_host::write_atomic(&inrelease(lab), text.as_bytes(), 0o644).unwrap();
    };
    check(&alter, false, "its signature is wrong");
    check(&|lab| std::fs::remove_file(inrelease(lab)).unwrap(), false, "v1/r1/InRelease");
}

#[test]
fn lists_of_differences_that_are_gone_or_damaged_are_written_again() {
    let folder = |lab: &Lab| {
        lab.archive.public_dir().join("dists/rolling/main/binary-amd64/Packages.diff/by-hash/SHA256")
    };
    let whole = |archive: &Archive| assert_eq!(archive.check(true, now()).unwrap().problems, [""; 0]);
    let damage = |lab: &Lab, damage: &dyn Fn(&std::path::Path)| {
        let lists: Vec<_> =
            std::fs::read_dir(folder(lab)).unwrap().map(|list| list.unwrap().path()).collect();
        assert!(!lists.is_empty());
        lists.iter().for_each(|list| damage(list));
        assert!(!lab.archive.check(false, now()).unwrap().problems.is_empty(), "the damage is found");
    };
    let gone = |list: &std::path::Path| std::fs::remove_file(list).unwrap();
    let cut = |list: &std::path::Path| volary_host::write_atomic(list, b"SHA256-Current: ", 0o644).unwrap();
    for how in [&gone as &dyn Fn(&std::path::Path), &cut] {
        let lab = lab();
        damage(&lab, how);
        whole(&Archive::open(&lab.path()).unwrap());
        damage(&lab, how);
        lab.add("hello", "1.4", "amd64", "");
        whole(&lab.archive);
    }
}

#[test]
fn collection_removes_what_nothing_names_and_says_why_the_rest_stays() {
    let lab = lab();
    let hello = "hello".parse().unwrap();
    let all = lab.archive.versions(&hello).unwrap();
    let why_by = |policy: &KeepPolicy, index: usize| {
        let (entry, reasons) = lab.archive.why(&hello, policy, now()).unwrap().swap_remove(index);
        assert_eq!(entry.sha256, all[index].sha256);
        reasons.into_iter().collect::<Vec<_>>()
    };
    let why = |index: usize| why_by(&policy(2), index);
    assert_eq!(why(0), [KeepReason::InSuite("v1/r1".parse().unwrap())]);
    assert_eq!(why(1), []);
    assert_eq!(why(2), [KeepReason::Newest { place: 2 }]);
    assert_eq!(why(3), [KeepReason::InSuite("rolling".parse().unwrap()), KeepReason::Newest { place: 1 }]);
    let dry = lab.archive.collect(&policy(2), true, now()).unwrap();
    assert_eq!((dry.removed.len(), dry.kept, dry.bytes), (1, 3, all[1].size));
    assert!(lab.archive.public_dir().join(all[1].filename()).is_file());
    let mut spare = policy(2);
    spare.named.insert(all[1].sha256, "device gate-7 has it".into());
    assert_eq!(why_by(&spare, 1), [KeepReason::Named("device gate-7 has it".into())]);
    assert!(lab.archive.collect(&spare, false, now()).unwrap().removed.is_empty());
    let recent = KeepPolicy { age: SignedDuration::from_hours(1), ..policy(2) };
    assert!(lab.archive.collect(&recent, false, now()).unwrap().removed.is_empty());
    let done = lab.archive.collect(&policy(2), false, now()).unwrap();
    assert_eq!(done.removed[0].sha256, all[1].sha256);
    assert!(!lab.archive.public_dir().join(all[1].filename()).exists());
    let opened = Archive::open(&lab.path()).unwrap();
    assert_eq!(opened.check(true, now()).unwrap().problems, Vec::<String>::new());
    let pick: Pick = "hello=1.1".parse().unwrap();
    let error = opened.pick(&"v1".parse().unwrap(), &[pick], false, now()).unwrap_err().to_string();
    assert!(error.contains("the archive has 1.3, 1.2, 1.0"), "{error}");
}

#[test]
fn a_removed_version_keeps_its_content() {
    let lab = Lab::new();
    let old = lab.deb("hello", "1.0", "amd64", "");
    lab.include(std::slice::from_ref(&old)).unwrap();
    lab.add("hello", "2.0", "amd64", "");
    assert_eq!(lab.archive.collect(&policy(1), false, now()).unwrap().removed.len(), 1);
    let other = lab.deb("hello", "1.0", "amd64", "Section: misc\n");
    assert!(lab.include(&[other]).unwrap_err().to_string().contains("with other content"));
}
