//! Exports into a folder, read by real apt through a plain web server.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use common::audit::{Held, faults};
use common::{Apt, Http, Lab};
use jiff::SignedDuration;
use volary_archive::Pick;
use volary_archive::export::{
    Content, ExportError, ExportOptions, ExportReport, FolderTarget, Inventory, Kind, Stat, Target,
    TargetError,
};
use volary_host::Cmd;
use volary_model::Digest;

struct Place {
    dir: tempfile::TempDir,
    target: FolderTarget,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = FolderTarget::new(dir.path());
        Self { dir, target }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn digests(&self) -> BTreeMap<String, Digest> {
        let digest = |key: String| {
            let digest = self.target.digest(&key).unwrap().unwrap();
            (key, digest)
        };
        self.keys().into_iter().map(digest).collect()
    }

    fn keys(&self) -> BTreeSet<String> {
        self.target.list().unwrap().into_keys().collect()
    }
}

fn export_at(
    lab: &Lab,
    target: &dyn Target,
    suites: &[&str],
    options: &ExportOptions,
    hours: i64,
) -> Result<ExportReport, ExportError> {
    let choices: Vec<_> = suites.iter().map(|suite| suite.parse().unwrap()).collect();
    let now = common::now() + SignedDuration::from_hours(hours);
    lab.archive.export(target, &choices, options, now, &|_| {})
}

fn export(lab: &Lab, target: &dyn Target, suites: &[&str]) -> ExportReport {
    export_at(lab, target, suites, &ExportOptions::default(), 0).unwrap()
}

fn whole(lab: &Lab, target: &dyn Target) {
    let report = lab.archive.verify_export(target, common::now()).unwrap();
    assert_eq!(report.problems, []);
    assert!(report.objects > 0 && report.behind.is_empty(), "{report:?}");
}

/// A release of two revisions, and rolling a step further.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    lab.add("tools", "1.0", "all", "");
    lab.archive.cut(&"v1.0".parse().unwrap(), common::now()).unwrap();
    lab.add("hello", "1.1", "amd64", "");
    let pick: Pick = "hello".parse().unwrap();
    lab.archive.pick(&"v1.0".parse().unwrap(), &[pick], false, common::now()).unwrap();
    lab.add("hello", "2.0", "amd64", "");
    lab
}

#[test]
fn apt_installs_from_an_export_and_follows_it() {
    let lab = lab();
    let place = Place::new();
    let report = export(&lab, &place.target, &["all"]);
    assert_eq!(report.suites.len(), 3);
    assert_eq!(report.changed, report.suites);
    whole(&lab, &place.target);
    let http = Http::new(place.path());
    let key = volary_host::read_to_string(&place.path().join("archive.asc")).unwrap();
    for (suite, version) in [("v1.0/r1", "1.0"), ("v1.0/r2", "1.1"), ("rolling", "2.0")] {
        let apt = Apt::new(&http.uri, suite, &key);
        apt.update();
        assert_eq!(apt.candidate("hello"), version);
        assert!(!apt.download("hello").is_empty());
    }
    // A device that follows it sees each publish, also two within a second.
    let apt = Apt::new(&http.uri, "rolling", &key);
    apt.update();
    for version in ["2.1", "2.2", "2.3"] {
        let held = Held::read(place.path(), "rolling");
        lab.add("hello", version, "amd64", "");
        let report = export(&lab, &place.target, &["all"]);
        assert_eq!(report.changed, ["rolling".parse().unwrap()]);
        assert_eq!(faults(place.path(), "rolling", Some(&held), &key), []);
        apt.update();
        assert_eq!(apt.candidate("hello"), version);
    }
    whole(&lab, &place.target);
}

#[test]
fn only_what_is_missing_is_put() {
    let lab = lab();
    let place = Place::new();
    export(&lab, &place.target, &["all"]);
    let before = place.digests();
    let again = export(&lab, &place.target, &["all"]);
    assert_eq!((again.put, again.bytes, again.changed.len()), (0, 0, 0));
    lab.add("more", "1", "all", "");
    let report = export(&lab, &place.target, &["all"]);
    // The InRelease and the note come on top.
    let own = |key: &str| key.ends_with("/InRelease") || key == "volary-export.json";
    let after = place.digests();
    let new = after.iter().filter(|(key, digest)| before.get(*key) != Some(*digest) && !own(key));
    let new: Vec<&String> = new.map(|(key, _)| key).collect();
    assert_eq!(new.iter().filter(|key| key.starts_with("pool/")).count(), 1, "{new:#?}");
    assert!(new.iter().all(|key| key.starts_with("pool/") || key.starts_with("dists/rolling/")), "{new:#?}");
    assert_eq!(report.put, new.len(), "{report:?} {new:#?}");
    let dry = ExportOptions { dry_run: true, ..ExportOptions::default() };
    lab.add("more", "2", "all", "");
    let (keys, dry) = (place.keys(), export_at(&lab, &place.target, &["all"], &dry, 0).unwrap());
    assert!(dry.put > 0 && dry.dry_run);
    assert_eq!(place.keys(), keys);
}

#[test]
fn what_nothing_names_goes_after_its_grace() {
    let lab = lab();
    let place = Place::new();
    export(&lab, &place.target, &["rolling"]);
    let old = lab.archive.versions(&"hello".parse().unwrap()).unwrap();
    let old = old.iter().find(|entry| entry.version.as_str() == "2.0").unwrap().filename();
    lab.add("hello", "3.0", "amd64", "");
    let report = export(&lab, &place.target, &["rolling"]);
    assert!(report.removed.is_empty() && report.waiting > 0);
    let options = ExportOptions::default();
    let early = export_at(&lab, &place.target, &["rolling"], &options, 24 * 6).unwrap();
    assert!(early.removed.is_empty() && place.keys().contains(&old));
    let late = export_at(&lab, &place.target, &["rolling"], &options, 24 * 8).unwrap();
    assert!(late.removed.contains(&old) && !place.keys().contains(&old), "{late:?}");
    whole(&lab, &place.target);
}

#[test]
fn suites_that_were_not_asked_for_stay_unless_only_these_are_wanted() {
    let lab = lab();
    let place = Place::new();
    export(&lab, &place.target, &["v1.0/r1"]);
    export(&lab, &place.target, &["rolling"]);
    let options = ExportOptions::default();
    export_at(
        &lab,
        &place.target,
        &["rolling"],
        &ExportOptions { thorough: true, ..options.clone() },
        24 * 30,
    )
    .unwrap();
    whole(&lab, &place.target);
    assert!(place.keys().contains("dists/v1.0/r1/InRelease"));
    let only = ExportOptions { only: true, thorough: true, ..options };
    for (days, stays) in [(31, true), (37, true), (39, false)] {
        export_at(&lab, &place.target, &["rolling"], &only, 24 * days).unwrap();
        whole(&lab, &place.target);
        assert_eq!(place.keys().contains("dists/v1.0/r1/InRelease"), stays, "day {days}");
    }
    export_at(&lab, &place.target, &["rolling"], &only, 24 * 50).unwrap();
    assert!(!place.keys().iter().any(|key| key.starts_with("dists/v1.0")), "{:#?}", place.keys());
    whole(&lab, &place.target);
}

#[test]
fn what_was_tampered_with_is_found_and_put_again() {
    let lab = lab();
    let place = Place::new();
    export(&lab, &place.target, &["all"]);
    let keys = place.keys();
    let find = |part: &str| keys.iter().find(|key| key.contains(part)).unwrap().clone();
    for part in ["pool/sha256", "rolling/main/binary-amd64/by-hash", "rolling/InRelease", "Packages.diff/"] {
        let key = find(part);
        let path = place.path().join(&key);
        let mut bytes = volary_host::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        volary_host::write_atomic(&path, &bytes, 0o644).unwrap();
        let found = lab.archive.verify_export(&place.target, common::now()).unwrap();
        assert!(found.problems.iter().any(|(bad, _)| *bad == key), "{key}: {:?}", found.problems);
        let again = found.problems.into_iter().map(|(key, _)| key).collect();
        let options = ExportOptions { again, thorough: true, ..ExportOptions::default() };
        export_at(&lab, &place.target, &["all"], &options, 0).unwrap();
        whole(&lab, &place.target);
    }
    fs::remove_file(place.path().join(find("pool/sha256"))).unwrap();
    let found = lab.archive.verify_export(&place.target, common::now()).unwrap();
    assert_eq!(
        found.problems.iter().map(|(_, problem)| problem.as_str()).collect::<Vec<_>>(),
        ["it is missing"]
    );
}

#[test]
fn a_place_with_other_files_is_refused() {
    let (lab, other) = (lab(), Lab::new());
    let place = Place::new();
    fs::create_dir(place.path().join("pool")).unwrap();
    volary_host::write_atomic(&place.path().join("pool/theirs.deb"), b"x", 0o644).unwrap();
    let refused = export_at(&lab, &place.target, &["all"], &ExportOptions::default(), 0).unwrap_err();
    assert!(refused.to_string().contains("pool/theirs.deb"), "{refused}");
    assert_eq!(place.keys().len(), 1);
    drop(other);
    let missing = export_at(&lab, &Place::new().target, &["v9"], &ExportOptions::default(), 0).unwrap_err();
    assert!(missing.to_string().contains("there is no release v9"), "{missing}");
}

/// A target that breaks off after some puts, as a killed run does.
#[derive(Debug)]
struct Failing {
    inner: FolderTarget,
    left: AtomicUsize,
}

impl Target for Failing {
    fn name(&self) -> String {
        self.inner.name()
    }
    fn list(&self) -> Result<Inventory, TargetError> {
        self.inner.list()
    }
    fn read(&self, key: &str) -> Result<Option<Vec<u8>>, TargetError> {
        self.inner.read(key)
    }
    fn digest(&self, key: &str) -> Result<Option<Digest>, TargetError> {
        self.inner.digest(key)
    }
    fn stat(&self, key: &str) -> Result<Option<Stat>, TargetError> {
        self.inner.stat(key)
    }
    fn put(&self, key: &str, content: Content<'_>, kind: Kind) -> Result<(), TargetError> {
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        match left {
            Ok(_) => self.inner.put(key, content, kind),
            Err(_) => {
                Err(TargetError { operation: "write", what: key.to_owned(), problem: "gone".to_owned() })
            }
        }
    }
    fn remove(&self, key: &str) -> Result<(), TargetError> {
        self.inner.remove(key)
    }
    fn flush(&self) -> Result<(), TargetError> {
        self.inner.flush()
    }
}

#[test]
fn wherever_a_run_breaks_off_clients_see_a_whole_suite() {
    let lab = lab();
    let place = Place::new();
    export(&lab, &place.target, &["rolling"]);
    lab.add("hello", "4.0", "amd64", "");
    lab.add("tools", "4.0", "all", "");
    let mut done = false;
    for puts in 0.. {
        let fresh = Place::new();
        Cmd::new("cp").arg("-a").args([&place.path().join("."), fresh.path()]).check().unwrap();
        let failing = Failing { inner: fresh.target.clone(), left: AtomicUsize::new(puts) };
        let result = export_at(&lab, &failing, &["rolling"], &ExportOptions::default(), 0);
        // What clients see is whole at each point: all that the InRelease there names is there.
        let report = lab.archive.verify_export(&fresh.target, common::now()).unwrap();
        let by_hash = |key: &str| {
            let list = key.ends_with("/Index") || key.ends_with("/Index.gz");
            let patch = key.contains(".diff/") && !list;
            key.contains("/by-hash/") || key.starts_with("pool/") || patch
        };
        let bad: Vec<_> = report.problems.iter().filter(|(key, _)| by_hash(key)).collect();
        assert!(bad.is_empty(), "after {puts} puts: {bad:?}");
        export(&lab, &fresh.target, &["rolling"]);
        whole(&lab, &fresh.target);
        if result.is_ok() {
            done = true;
            break;
        }
    }
    assert!(done);
}

/// `Release` with `Release.gpg`, for gpgv, sqv, and an apt that gets no `InRelease`.
#[test]
fn a_detached_signature_is_good() {
    let lab = lab();
    let place = Place::new();
    let options = ExportOptions { detached: true, ..ExportOptions::default() };
    export_at(&lab, &place.target, &["rolling"], &options, 0).unwrap();
    let suite = place.path().join("dists/rolling");
    let keyring = place.path().parent().unwrap().join(format!("key-{}.gpg", std::process::id()));
    let dearmor = Cmd::new("gpg").args(["--batch", "--yes", "--dearmor", "-o"]).arg(&keyring);
    dearmor.stdin(lab.archive.public_key()).check().unwrap();
    let files: [PathBuf; 2] = [suite.join("Release.gpg"), suite.join("Release")];
    Cmd::new("gpgv").arg("--keyring").arg(&keyring).args(&files).check().unwrap();
    Cmd::new("sqv").arg("--keyring").arg(&keyring).args(&files).check().unwrap();
    fs::remove_file(keyring).unwrap();
    fs::remove_file(suite.join("InRelease")).unwrap();
    let http = Http::new(place.path());
    let apt = Apt::new(&http.uri, "rolling", lab.archive.public_key());
    apt.update();
    assert_eq!(apt.candidate("hello"), "2.0");
    let text = volary_host::read_to_string(&files[1]).unwrap().replace("Origin: Test", "Origin: Tost");
    volary_host::write_atomic(&files[1], text.as_bytes(), 0o644).unwrap();
    let apt = Apt::new(&http.uri, "rolling", lab.archive.public_key());
    assert!(!apt.run("apt-get", &["update"]).status.success());
}

/// A package with a changelog.
fn deb_with_changelog(dir: &Path, name: &str) -> PathBuf {
    let tree = dir.join(format!("tree-{name}"));
    let doc = tree.join(format!("usr/share/doc/{name}"));
    fs::create_dir_all(&doc).unwrap();
    fs::create_dir_all(tree.join("DEBIAN")).unwrap();
    let control = format!(
        "Package: {name}\nVersion: 1:1.0\nArchitecture: all\nMaintainer: A B <a@example.com>\n\
         Description: test\n"
    );
    volary_host::write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    let changelog = format!(
        "{name} (1:1.0) stable; urgency=low\n\n  * Only {name} has this.\n\n \
         -- A B <a@example.com>  Sun, 22 Nov 2026 10:00:00 +0000\n"
    );
    volary_host::write_atomic(&doc.join("changelog"), changelog.as_bytes(), 0o644).unwrap();
    Cmd::new("gzip").arg("-9n").arg(doc.join("changelog")).check().unwrap();
    let deb = dir.join(format!("{name}.deb"));
    Cmd::new("dpkg-deb").args(["--root-owner-group", "-b"]).args([&tree, &deb]).check().unwrap();
    deb
}

#[test]
fn changelogs_come_along_and_go_with_their_packages() {
    let lab = Lab::new();
    let debs = ["hello", "libtool"].map(|name| deb_with_changelog(lab.dir.path(), name));
    lab.include(&debs).unwrap();
    let place = Place::new();
    export(&lab, &place.target, &["rolling"]);
    whole(&lab, &place.target);
    let key = "changelogs/main/libt/libtool/libtool_1.0_changelog";
    assert!(place.keys().contains(key), "{:?}", place.keys());
    let http = Http::new(place.path());
    let apt = Apt::new(&http.uri, "rolling", lab.archive.public_key());
    apt.update();
    // As a device is told whose packages come from elsewhere than the server.
    let from = format!(
        "Acquire::Changelogs::URI::Override::Origin::Test={}changelogs/@CHANGEPATH@_changelog",
        http.uri
    );
    for name in ["hello", "libtool"] {
        let said = apt.run("apt-get", &["-o", &from, "changelog", name]);
        let text = said.text();
        assert!(text.contains(&format!("Only {name} has this.")), "{said:?}");
    }
    // Nothing is put twice; what was tampered with is found and put right; what was lost too.
    assert_eq!(export(&lab, &place.target, &["rolling"]).put, 0);
    for spoil in [true, false] {
        match spoil {
            true => volary_host::write_atomic(&place.path().join(key), b"other", 0o644).unwrap(),
            false => fs::remove_file(place.path().join(key)).unwrap(),
        }
        let found = lab.archive.verify_export(&place.target, common::now()).unwrap().problems;
        assert_eq!(found.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), [key]);
        let again = BTreeSet::from([key.to_owned()]);
        let options = ExportOptions { again, thorough: true, ..ExportOptions::default() };
        assert_eq!(export_at(&lab, &place.target, &["rolling"], &options, 0).unwrap().put, 1);
        whole(&lab, &place.target);
    }
    // It goes with the last suite that names it.
    lab.archive.cut(&"v1".parse().unwrap(), common::now()).unwrap();
    let only = ExportOptions { only: true, grace: SignedDuration::ZERO, ..ExportOptions::default() };
    export_at(&lab, &place.target, &["v1"], &only, 0).unwrap();
    assert!(place.keys().contains(key));
    let other = Lab::new();
    other.archive.cut(&"v2".parse().unwrap(), common::now()).unwrap();
    // First its suite goes, then what that named.
    for hours in 0..3 {
        export_at(&other, &place.target, &["v2"], &only, hours).unwrap();
    }
    assert!(!place.keys().contains(key), "{:?}", place.keys());
}

#[test]
fn releases_are_exported_with_xz() {
    let lab = lab();
    let place = Place::new();
    let digests = || {
        ["v1.0/r1", "v1.0/r2", "rolling"]
            .map(|suite| lab.archive.suite_digest(&suite.parse().unwrap()).unwrap())
    };
    let before = digests();
    export(&lab, &place.target, &["all"]);
    whole(&lab, &place.target);
    let has = |suite: &str| place.keys().contains(&format!("dists/{suite}/main/binary-amd64/Packages.xz"));
    assert!(has("v1.0/r1") && has("v1.0/r2"));
    assert!(!has("rolling"), "it changes with each publish");
    assert_eq!(digests(), before, "the content is as it was");
    assert_eq!(export(&lab, &place.target, &["all"]).put, 0, "it is packed once");
    let http = Http::new(place.path());
    let apt = Apt::new(&http.uri, "v1.0/r1", lab.archive.public_key());
    let output = apt.run("apt-get", &["-o", "Acquire::CompressionTypes::Order::=xz", "update"]);
    assert!(output.status.success());
    let packed = http.requests();
    let xz = volary_host::read(&place.path().join("dists/v1.0/r1/main/binary-amd64/Packages.xz")).unwrap();
    let hash = Cmd::new("sha256sum").stdin(xz).check().unwrap().text();
    assert!(packed.iter().any(|line| line.contains(&hash[..64])), "{packed:#?}");
    assert_eq!(apt.candidate("hello"), "1.0");
}

#[test]
fn a_changelog_that_a_power_cut_emptied_is_made_again() {
    let lab = Lab::new();
    let deb = deb_with_changelog(lab.dir.path(), "hello");
    let included = lab.include(&[deb]).unwrap();
    let path = lab.archive.public_dir().join("changelogs/main/h/hello/hello_1.0_changelog");
    let before = volary_host::read_to_string(&path).unwrap();
    std::fs::File::create(&path).unwrap();
    let digest = included.added[0].sha256;
    assert_eq!(lab.archive.changelog(&digest).unwrap().as_deref(), Some(before.as_str()));
    assert_eq!(volary_host::read_to_string(&path).unwrap(), before);
}
