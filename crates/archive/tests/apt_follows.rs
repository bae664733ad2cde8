//! Real apt follows a suite through all that the archive does with it: no operation leads to where
//! apt falls silent (see `apt_silent.rs`). `ARCHIVE_TEST_APT_ROOT` takes the apt of another Debian.

mod common;
mod foreign;

use std::path::Path;
use std::time::Duration;

use common::audit::{Fault, Held, faults};
use common::{Apt, Http, Lab};
use foreign::{Blind, Foreign};
use jiff::{SignedDuration, Timestamp};
use volary_archive::upstream::{Filter, Folder, Link, Patience, Spec, Sync};
use volary_archive::{Archive, NewKey, Others, Pick, Provenance, UploadPolicy};
use volary_model::{Component, Suite};

/// A device that follows a suite of ours through whatever happens.
struct Device<'a> {
    lab: &'a Lab,
    apt: Apt,
    suite: &'static str,
    held: Held,
    key: String,
}

impl<'a> Device<'a> {
    fn new(lab: &'a Lab, http: &Http, suite: &'static str) -> Self {
        let key = lab.archive.public_key();
        let apt = Apt::new(&http.uri, suite, &key);
        apt.update();
        let held = Held::read(lab.archive.public_dir(), suite);
        Self { lab, apt, suite, held, key }
    }

    /// Takes the keys that the archive gives out now, as its fleet repository tells it.
    fn learn(&mut self) {
        self.key = self.lab.archive.public_key();
        self.apt.trust(&self.key);
    }

    /// After an operation: the suite has no fault for a device that saw the state before, and
    /// apt, which updates without a word, offers this version.
    fn sees(&mut self, what: &str, package: &str, version: &str) {
        let public = self.lab.archive.public_dir();
        assert_eq!(faults(public, self.suite, Some(&self.held), &self.key), [], "{what}");
        self.apt.update();
        assert_eq!(self.apt.candidate(package), version, "{what}");
        self.held = Held::read(public, self.suite);
    }
}

#[test]
fn no_operation_silences_apt() {
    let mut lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    let http = Http::new(lab.archive.public_dir());
    let start = common::now();
    let include = |lab: &Lab, version: &str, at| {
        let deb = lab.deb("hello", version, "amd64", "");
        lab.archive.include(&[deb], &Provenance::default(), &UploadPolicy::Refuse, at).unwrap();
    };
    {
        let mut device = Device::new(&lab, &http, "rolling");
        for version in ["1.1", "1.2", "1.3"] {
            include(&lab, version, start);
            device.sees("another publish in the same second", "hello", version);
        }
        include(&lab, "1.4", start - Duration::from_secs(86_400));
        device.sees("a publish after the clock was set back", "hello", "1.4");
        let refused = lab.deb("hello", "1.0", "amd64", "Section: misc\n");
        lab.include(&[refused]).unwrap_err();
        device.sees("a refused package", "hello", "1.4");
        lab.add("tools", "1", "all", "");
        device.sees("a package for all architectures", "tools", "1");
    }
    let path = lab.path();
    lab.archive = volary_archive::Archive::open(&path).unwrap();
    let name = "v1.0".parse().unwrap();
    let mut cut = Device::new(&lab, &http, "rolling");
    lab.archive.cut(&name, start).unwrap();
    cut.sees("a restart and a cut", "hello", "1.4");
    let mut first = Device::new(&lab, &http, "v1.0/r1");
    lab.add("hello", "2.0", "amd64", "");
    let pick: Pick = "hello".parse().unwrap();
    lab.archive.pick(&name, &[pick], false, common::now()).unwrap();
    first.sees("a pick into the next revision", "hello", "1.4");
    let mut second = Device::new(&lab, &http, "v1.0/r2");
    lab.archive.freeze(&name, common::now()).unwrap();
    second.sees("a freeze", "hello", "2.0");
    first.sees("a freeze of a later revision", "hello", "1.4");
    // Both devices know the old key alone, and hear of the new one while both sign.
    let mut rolling = Device::new(&lab, &http, "rolling");
    lab.archive.add_key(&NewKey::Generate, Others::Leave, common::now()).unwrap();
    first.sees("the begin of a key rotation", "hello", "1.4");
    rolling.sees("the begin of a key rotation", "hello", "2.0");
    for device in [&mut first, &mut rolling] {
        device.learn();
    }
    lab.archive.retire_keys(None, common::now()).unwrap();
    lab.add("hello", "3.0", "amd64", "");
    first.sees("the end of a key rotation", "hello", "1.4");
    rolling.sees("the end of a key rotation", "hello", "3.0");
}

fn until(lab: &Lab, suite: &str) -> Timestamp {
    let path = lab.archive.public_dir().join("dists").join(suite).join("InRelease");
    let text = volary_host::read_to_string(&path).unwrap();
    let release = volary_debian::release::Release::parse(&text).unwrap();
    release.valid_until().unwrap().expect("it expires")
}

/// A signature that expires is renewed before, and each renewal is followed.
#[test]
fn renewed_signatures_are_followed() {
    let dir = tempfile::tempdir().unwrap();
    let start = common::now() - SignedDuration::from_hours(8 * 24);
    let archive = Archive::create(&dir.path().join("archive"), &common::settings(), start).unwrap();
    let lab = Lab { dir, archive };
    let deb = lab.deb("hello", "1.0", "amd64", "");
    lab.archive.include(&[deb], &Provenance::default(), &UploadPolicy::Refuse, start).unwrap();
    lab.archive.cut(&"v1.0".parse().unwrap(), start).unwrap();
    lab.archive.configure(|settings| settings.valid_days = Some(10), start).unwrap();
    lab.archive.upkeep(start).unwrap();
    let http = Http::new(lab.archive.public_dir());
    let suites = ["rolling", "v1.0/r1"];
    let content = || suites.map(|suite| lab.archive.suite_digest(&suite.parse().unwrap()).unwrap());
    let before = content();
    let mut devices = suites.map(|suite| Device::new(&lab, &http, suite));
    for device in &mut devices {
        device.sees("an expiry", "hello", "1.0");
        assert!(until(&lab, device.suite) < common::now() + SignedDuration::from_hours(3 * 24));
    }
    let report = lab.archive.upkeep(common::now()).unwrap();
    assert_eq!(report.renewed.len(), suites.len(), "{report:?}");
    for device in &mut devices {
        device.sees("a renewed signature", "hello", "1.0");
        assert!(until(&lab, device.suite) > common::now() + SignedDuration::from_hours(9 * 24));
    }
    assert_eq!(content(), before, "a renewal touches no content");
}

#[test]
fn an_added_architecture_silences_nobody() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.cut(&"v1.0".parse().unwrap(), common::now()).unwrap();
    let http = Http::new(lab.archive.public_dir());
    let (mut rolling, mut first) = (Device::new(&lab, &http, "rolling"), Device::new(&lab, &http, "v1.0/r1"));
    let armhf = "armhf".parse().unwrap();
    lab.archive.configure(|settings| settings.architectures.push(armhf), common::now()).unwrap();
    rolling.sees("an added architecture", "hello", "1.0");
    first.sees("an added architecture", "hello", "1.0");
    lab.add("hello", "1.0", "armhf", "");
    lab.add("hello", "2.0", "amd64", "");
    rolling.sees("a package of it", "hello", "2.0");
    lab.archive.cut(&"v2.0".parse().unwrap(), common::now()).unwrap();
    lab.archive.upkeep(common::now()).unwrap();
    rolling.sees("a cut with it", "hello", "2.0");
    first.sees("a cut with it", "hello", "1.0");
    Device::new(&lab, &http, "v2.0/r1").sees("the release with it", "hello", "2.0");
}

/// Syncs the mirror `debian` with these packages of a tree.
fn mirror(lab: &Lab, tree: &Path, foreign: &Foreign, packages: &[&str], at: Timestamp) {
    let packages = packages.iter().map(|name| name.parse().unwrap()).collect();
    let spec = Spec {
        suite: "stable".to_owned(),
        components: vec!["main".to_owned()],
        architectures: vec!["amd64".parse().unwrap()],
        languages: Vec::new(),
        filter: Filter { packages, ..Filter::default() },
    };
    let patience = Patience { attempts: 1, pause: Duration::ZERO };
    let (fetch, trust) = (Folder::new(tree), foreign.trust());
    let link = Link { fetch: &fetch, trust: &trust, watch: &Blind, patience, parallel: 1 };
    lab.archive.sync(&Sync { mirror: &debian(), spec: &spec, link, now: at }).unwrap();
}

fn debian() -> Component {
    "debian".parse().unwrap()
}

#[test]
fn a_mirror_silences_nobody_and_its_end_is_said() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    let foreign = Foreign::new("ed25519");
    let tree = foreign.aptly(&[lab.deb("app", "1.0", "amd64", "")]);
    let http = Http::new(lab.archive.public_dir());
    let mut own = Device::new(&lab, &http, "rolling");
    mirror(&lab, &tree, &foreign, &[], common::now());
    own.sees("a first sync", "hello", "1.0");
    let mut both = Device::new(&lab, &http, "rolling");
    both.apt.sources("Components: main", "Components: main debian");
    both.sees("a mirror", "app", "1.0");
    let tree = foreign.aptly(&[lab.deb("app", "2.0", "amd64", "")]);
    mirror(&lab, &tree, &foreign, &[], common::now());
    own.sees("a later sync", "hello", "1.0");
    both.sees("a later sync", "app", "2.0");
    lab.add("hello", "2.0", "amd64", "");
    both.sees("a publish beside a mirror", "hello", "2.0");
    both.sees("a publish beside a mirror", "app", "2.0");
    lab.archive.drop_mirror(&debian(), common::now()).unwrap();
    own.apt.update();
    assert_eq!(own.apt.candidate("hello"), "2.0", "a mirror's end");
    let public = lab.archive.public_dir();
    assert_eq!(faults(public, "rolling", Some(&both.held), &both.key), [Fault::ComponentGone]);
    let said = both.apt.complaints();
    assert!(said.contains("doesn't have the component 'debian'"), "{said}");
}

/// The same suite goes back to what it was, within one second, and apt goes back with it.
#[test]
fn a_suite_that_goes_back_to_an_earlier_set_is_followed() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    let foreign = Foreign::new("ed25519");
    let debs = ["app", "tool"].map(|name| lab.deb(name, "1.0", "amd64", ""));
    let tree = foreign.aptly(&debs);
    let at = common::now();
    mirror(&lab, &tree, &foreign, &["app"], at);
    let first = lab.archive.suite_digest(&Suite::Rolling).unwrap();
    let http = Http::new(lab.archive.public_dir());
    let mut device = Device::new(&lab, &http, "rolling");
    device.apt.sources("Components: main", "Components: main debian");
    device.sees("the first set", "tool", "nothing");
    for _ in 0..3 {
        mirror(&lab, &tree, &foreign, &["app", "tool"], at);
        device.sees("the second set", "tool", "1.0");
        mirror(&lab, &tree, &foreign, &["app"], at);
        assert_eq!(lab.archive.suite_digest(&Suite::Rolling).unwrap(), first);
        device.sees("the first set again", "tool", "nothing");
        device.sees("the first set again", "app", "1.0");
    }
}

/// A device that goes back from one revision to the one before, and forward again.
#[test]
fn a_rollback_is_followed() {
    let lab = Lab::new();
    let name = "v1.0".parse().unwrap();
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.cut(&name, common::now()).unwrap();
    lab.add("hello", "2.0", "amd64", "");
    lab.archive.pick(&name, &["hello".parse::<Pick>().unwrap()], false, common::now()).unwrap();
    let http = Http::new(lab.archive.public_dir());
    let apt = Apt::new(&http.uri, "v1.0/r1", lab.archive.public_key());
    for (suite, version) in [("v1.0/r2", "2.0"), ("v1.0/r1", "1.0"), ("v1.0/r2", "2.0"), ("rolling", "2.0")] {
        apt.follow(&http.uri, suite);
        apt.update();
        assert_eq!(apt.candidate("hello"), version, "{suite}");
    }
}

/// apt before 2.7 takes a `Snapshot` and follows the live suite nevertheless, so a device is held
/// back by the suite's name alone.
#[test]
fn a_revision_holds_a_device_back_where_a_snapshot_does_not() {
    let lab = Lab::new();
    let name = "v1.0".parse().unwrap();
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.cut(&name, common::now()).unwrap();
    lab.add("hello", "2.0", "amd64", "");
    let http = Http::new(lab.archive.public_dir());
    let apt = Apt::with(&http.uri, "rolling", lab.archive.public_key(), "Snapshot: r1\n");
    if apt.is_before(2, 7) {
        assert_eq!(apt.complaints(), "");
        assert_eq!(apt.candidate("hello"), "2.0");
    } else {
        assert!(!apt.run("apt-get", &["update"]).status.success());
    }
    apt.follow(&http.uri, "v1.0/r1");
    apt.update();
    assert_eq!(apt.candidate("hello"), "1.0");
}
