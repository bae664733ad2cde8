//! Releases: cut, pick with what is needed, refuse what would break, freeze, compare.

mod common;

use common::{Lab, now};
use volary_archive::{Archive, Because, Error, Pick, PickResult};
use volary_model::{ReleaseName, Suite};

fn name(text: &str) -> ReleaseName {
    text.parse().unwrap()
}

fn pick(lab: &Lab, picks: &[&str], dry_run: bool) -> Result<PickResult, Error> {
    let picks: Vec<Pick> = picks.iter().map(|text| text.parse().unwrap()).collect();
    lab.archive.pick(&name("v1"), &picks, dry_run, now())
}

fn changes(result: &PickResult) -> Vec<String> {
    let text = |change: &volary_archive::PickChange| {
        let from = change.replaces.as_ref().map_or("-", |entry| entry.version.as_str());
        let to = change.incoming.as_ref().map_or("-", |entry| entry.version.as_str());
        format!("{} {from}>{to}", change.package)
    };
    result.changes.iter().map(text).collect()
}

#[test]
fn a_release_is_a_snapshot_that_takes_picks() {
    let lab = Lab::new();
    lab.add("app", "1.0", "amd64", "Depends: libc6 (>= 2.30), libapp1 (>= 1.0)\n");
    lab.add("libapp1", "1.0", "amd64", "");
    let cut = lab.archive.cut(&name("v1"), now()).unwrap();
    assert_eq!((cut.revisions.len(), cut.latest().packages), (1, 2));
    assert!(matches!(lab.archive.cut(&name("v1"), now()), Err(Error::ReleaseExists(_))));
    lab.add("libapp1", "2.0", "amd64", "");
    lab.add("app", "2.0", "amd64", "Depends: libapp1 (>= 2.0)\n");
    let dry = pick(&lab, &["app"], true).unwrap();
    assert_eq!(changes(&dry), ["app 1.0>2.0", "libapp1 1.0>2.0"]);
    assert_eq!(lab.archive.release(&name("v1")).unwrap().revisions.len(), 1, "a dry run does nothing");
    let done = pick(&lab, &["app"], false).unwrap();
    assert_eq!((done.release.to_string(), done.digest), ("v1/r2".to_owned(), dry.digest));
    assert!(
        matches!(&done.changes[1].because, Because::Needed { by, dependency } if by.as_str() == "app" && dependency == "libapp1 (>= 2.0)")
    );
    assert_eq!(lab.list("v1/r1"), ["app 1.0 (amd64)", "libapp1 1.0 (amd64)"]);
    assert_eq!(lab.list("v1/r2"), ["app 2.0 (amd64)", "libapp1 2.0 (amd64)"]);
    assert_eq!(lab.archive.suite_digest(&Suite::Rolling).unwrap(), done.digest, "equal sets have one digest");
    let again = pick(&lab, &["app"], false).unwrap();
    assert_eq!((again.release.to_string(), again.changes.len()), ("v1/r2".to_owned(), 0));
    let diff = lab.archive.diff(&"v1/r1".parse().unwrap(), &"v1/r2".parse().unwrap()).unwrap();
    assert_eq!(diff.len(), 2);
    assert_eq!(diff[0].from_version().unwrap().as_str(), "1.0");
    assert_eq!(diff[0].to_version().unwrap().as_str(), "2.0");
    let suites = lab.archive.suites_with(&"app".parse().unwrap(), &"2.0".parse().unwrap()).unwrap();
    assert_eq!(suites.iter().map(ToString::to_string).collect::<Vec<_>>(), ["rolling", "v1/r2"]);
}

#[test]
fn a_pick_that_would_break_something_is_refused_by_name() {
    let lab = Lab::new();
    lab.add("app", "1.0", "amd64", "Depends: libapp1 (= 1.0)\n");
    lab.add("libapp1", "1.0", "amd64", "");
    lab.archive.cut(&name("v1"), now()).unwrap();
    lab.add("libapp1", "2.0", "amd64", "");
    lab.add("lost", "1.0", "amd64", "Depends: libapp1 (>= 3)\n");
    let check = |picks: &[&str], expected: &str| {
        let error = pick(&lab, picks, false).unwrap_err().to_string();
        assert_eq!(error, format!("release v1 cannot take this pick: {expected}"));
        assert_eq!(lab.archive.release(&name("v1")).unwrap().revisions.len(), 1);
    };
    check(
        &["libapp1"],
        "app 1.0 (amd64), which is in the release, depends on libapp1 (= 1.0), and \
         the release would have libapp1 2.0 and rolling has libapp1 2.0; \
         pick a version of app that fits too",
    );
    check(
        &["lost"],
        "lost 1.0 (amd64) depends on libapp1 (>= 3), and \
         the release would have libapp1 1.0 and rolling has libapp1 2.0; \
         pick a version that fits, or build what is missing",
    );
    check(&["nothing"], "there is no package nothing in the archive");
    check(&["libapp1=7"], "there is no libapp1 7; the archive has 2.0, 1.0");
    check(&[], "no package was named");
    assert!(matches!(lab.archive.freeze(&name("v2"), now()), Err(Error::NoRelease(_))));
}

#[test]
fn packages_of_one_source_stay_together() {
    let lab = Lab::new();
    lab.add("libfoo1", "1.0", "amd64", "Source: foo\n");
    lab.add("libfoo-dev", "1.0", "amd64", "Source: foo\nDepends: libfoo1 (= 1.0)\n");
    lab.archive.cut(&name("v1"), now()).unwrap();
    lab.add("libfoo1", "1.1", "amd64", "Source: foo\n");
    lab.add("libfoo-dev", "1.1", "amd64", "Source: foo\nDepends: libfoo1 (= 1.1)\n");
    let result = pick(&lab, &["libfoo1"], false).unwrap();
    assert_eq!(changes(&result), ["libfoo-dev 1.0>1.1", "libfoo1 1.0>1.1"]);
    assert!(matches!(&result.changes[0].because, Because::SameSource { with } if with.as_str() == "libfoo1"));
}

#[test]
fn an_older_version_can_be_picked_back() {
    let lab = Lab::new();
    lab.add("app", "1.0", "amd64", "");
    lab.add("app", "2.0", "amd64", "");
    lab.archive.cut(&name("v1"), now()).unwrap();
    assert_eq!(changes(&pick(&lab, &["app=1.0"], false).unwrap()), ["app 2.0>1.0"]);
    assert_eq!(lab.list("v1/r2"), ["app 1.0 (amd64)"]);
}

#[test]
fn what_was_broken_before_does_not_stand_in_the_way() {
    let lab = Lab::new();
    lab.add("app", "1.0", "amd64", "");
    lab.add("lib", "1.0", "amd64", "");
    lab.add("broken", "1.0", "amd64", "Depends: lib (>= 9)\n");
    lab.archive.cut(&name("v1"), now()).unwrap();
    lab.add("app", "1.1", "amd64", "Depends: mail-reader | lib (>= 9), debian-has-this\n");
    assert_eq!(changes(&pick(&lab, &["app"], false).unwrap()), ["app 1.0>1.1"]);
}

#[test]
fn virtual_packages_and_architectures_count() {
    let lab = Lab::new();
    lab.add("app", "1.0", "all", "");
    lab.archive.cut(&name("v1"), now()).unwrap();
    for architecture in ["amd64", "arm64"] {
        lab.add("engine", "2.0", architecture, "Provides: engine-abi-2\n");
    }
    lab.add("app", "1.1", "all", "Depends: engine-abi-2\n");
    assert_eq!(
        changes(&pick(&lab, &["app"], false).unwrap()),
        ["app 1.0>1.1", "engine ->2.0", "engine ->2.0"]
    );
    lab.add("app", "1.2", "amd64", "");
    lab.add("app", "1.2", "arm64", "");
    assert_eq!(changes(&pick(&lab, &["app=1.2"], false).unwrap()), ["app 1.1>-", "app ->1.2", "app ->1.2"]);
}

#[test]
fn a_frozen_release_takes_nothing_more() {
    let lab = Lab::new();
    lab.add("app", "1.0", "amd64", "");
    lab.archive.cut(&name("v1"), now()).unwrap();
    lab.add("app", "2.0", "amd64", "");
    let frozen = lab.archive.freeze(&name("v1"), now()).unwrap().frozen_at;
    assert!(frozen.is_some());
    assert_eq!(lab.archive.freeze(&name("v1"), now()).unwrap().frozen_at, frozen, "the first time counts");
    let error = pick(&lab, &["app"], false).unwrap_err().to_string();
    assert_eq!(error, "release v1 is frozen and takes no more picks; cut a new release");
}

#[test]
fn all_is_the_same_after_a_restart() {
    let lab = Lab::new();
    lab.add("app", "1.0", "amd64", "");
    lab.archive.cut(&name("v1"), now()).unwrap();
    lab.add("app", "2.0", "amd64", "");
    pick(&lab, &["app"], false).unwrap();
    lab.archive.freeze(&name("v1"), now()).unwrap();
    let again = Archive::open(&lab.path()).unwrap();
    let info = again.release(&name("v1")).unwrap();
    assert_eq!(format!("{info:?}"), format!("{:?}", lab.archive.release(&name("v1")).unwrap()));
    let reference = "v1/r2".parse().unwrap();
    assert_eq!(again.pin(&reference).unwrap(), lab.archive.pin(&reference).unwrap());
}

#[test]
fn a_pin_names_the_plain_indexes() {
    let lab = Lab::new();
    lab.add("app", "1.0", "amd64", "");
    lab.archive.cut(&name("v1"), now()).unwrap();
    let pin = lab.archive.pin(&"v1/r1".parse().unwrap()).unwrap();
    assert_eq!(pin.indexes.len(), 2);
    let folder = lab.archive.public_dir().join("dists/v1/r1");
    for (name, digest) in &pin.indexes {
        let index = folder.join(format!("{}.gz", name.path()));
        let sum = volary_host::Cmd::new("sh").args(["-c", "gunzip -c \"$0\" | sha256sum"]).arg(&index);
        assert!(sum.check().unwrap().text().starts_with(&digest.hex()));
        let inrelease = volary_host::read_to_string(&folder.join("InRelease")).unwrap();
        assert!(inrelease.contains(&digest.hex()) && inrelease.contains(&pin.digest.to_string()));
    }
    // The digest of the set can be worked out by anybody.
    let packages = lab.archive.packages(&"v1/r1".parse().unwrap()).unwrap();
    let line = format!("app amd64 1.0 {}\n", packages[0].sha256.hex());
    let script = "import hashlib, sys; sha = hashlib.sha256\n\
                  chunk = sha(sys.stdin.buffer.read()).digest()\n\
                  print(sha(b'main ' + sha(chunk).hexdigest().encode() + b'\\n').hexdigest())";
    let sum = volary_host::Cmd::new("python3").args(["-c", script]).stdin(line).check().unwrap().text();
    assert_eq!(sum.trim_end(), pin.digest.hex());
}
