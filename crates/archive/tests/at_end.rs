//! A rolling that lists its newest packages at the end of its indexes, as large ones do: to apt it is
//! as any other. `ARCHIVE_TEST_APT_ROOT` takes the apt of another Debian.

mod common;

use common::audit::{Held, faults};
use common::{Apt, Http, Lab};
use jiff::SignedDuration;
use sha2::Digest as _;
use volary_archive::export::{ExportOptions, FolderTarget};
use volary_archive::{Archive, KeepPolicy, Provenance, Settings, UploadPolicy};

fn lab() -> Lab {
    let lab = Lab::with(&Settings { news_at_end_from: 1, ..common::settings() });
    let debs: Vec<_> = ["hello".to_owned()].into_iter().chain((0..FURTHER).map(further)).collect();
    let debs: Vec<_> = debs.iter().map(|name| lab.deb(name, "1", "amd64", &noise(name))).collect();
    lab.include(&debs).unwrap();
    lab
}

/// How many packages there are besides `hello`.
const FURTHER: usize = 100;

fn further(number: usize) -> String {
    format!("further-{number}")
}

/// A field that does not compress, so that a difference is smaller than the index.
fn noise(name: &str) -> String {
    let digest = volary_model::Digest::from_bytes(sha2::Sha256::digest(name).into());
    format!("Homepage: https://example.com/{}\n", digest.hex())
}

/// The versions that apt knows of a package, the highest first.
fn versions(apt: &Apt, package: &str) -> Vec<String> {
    let text = apt.run("apt-cache", &["madison", package]).text();
    text.lines().map(|line| line.split('|').nth(1).unwrap().trim().to_owned()).collect()
}

/// The indexes that were fetched whole since the last time.
fn fetched_whole(http: &Http) -> Vec<String> {
    http.requests().into_iter().filter(|line| line.contains("/binary-amd64/by-hash/")).collect()
}

#[test]
fn apt_follows_news_at_the_end_by_differences_and_sees_the_highest() {
    let mut lab = lab();
    let http = Http::new(lab.archive.public_dir());
    let key = lab.archive.public_key();
    let apt = Apt::new(&http.uri, "rolling", &key);
    apt.update();
    http.requests();
    let mut single = 0;
    let published = common::now() - SignedDuration::from_mins(90);
    for version in 2..90 {
        let package = if version % 4 == 0 { "hello".to_owned() } else { further(version) };
        let deb = lab.deb(&package, &version.to_string(), "amd64", &noise(&package));
        let held = Held::read(lab.archive.public_dir(), "rolling");
        lab.archive.include(&[deb], &Provenance::default(), &UploadPolicy::Refuse, published).unwrap();
        if version % 20 == 0 {
            // What stands at the end is known from the journal.
            let path = lab.path();
            lab.archive = Archive::open(&path).unwrap();
        }
        assert_eq!(faults(lab.archive.public_dir(), "rolling", Some(&held), &key), [], "{version}");
        apt.update();
        assert_eq!(fetched_whole(&http), [""; 0], "version {version} comes as a difference");
        assert_eq!(apt.candidate(&package), version.to_string());
        let known = versions(&apt, &package).len();
        assert!(known <= 2, "{known} versions of {package}");
        single += usize::from(known == 1);
    }
    // The versions before are listed too, until the index is written in order of name again.
    assert_eq!(single, 1);
    assert_eq!(versions(&apt, "hello"), ["88", "84"]);
    // It also goes when nobody has published for an hour.
    assert_eq!(lab.archive.upkeep(published + SignedDuration::from_mins(55)).unwrap().ordered, []);
    let inrelease = lab.archive.public_dir().join("dists/rolling/InRelease");
    let before = volary_host::read(&inrelease).unwrap();
    let modified = std::fs::metadata(&inrelease).unwrap().modified().unwrap();
    assert_eq!(lab.archive.upkeep(common::now()).unwrap().ordered, ["rolling".parse().unwrap()]);
    // As after a power cut between the journal and the InRelease.
    volary_host::write_atomic(&inrelease, &before, 0o644).unwrap();
    std::fs::File::options().write(true).open(&inrelease).unwrap().set_modified(modified).unwrap();
    let path = lab.path();
    lab.archive = Archive::open(&path).unwrap();
    assert_eq!(lab.archive.upkeep(common::now()).unwrap().ordered, []);
    apt.update();
    assert_eq!(versions(&apt, "hello"), ["88"]);
    assert_eq!(fetched_whole(&http), [""; 0], "the order comes as a difference");
    assert_eq!(lab.archive.check(true, common::now()).unwrap().problems, [""; 0]);
}

#[test]
fn what_is_listed_stays_and_releases_have_none_of_it() {
    let lab = lab();
    lab.add("hello", "2", "amd64", "");
    let apt = |suite: &str| {
        let http = Http::new(lab.archive.public_dir());
        let apt = Apt::new(&http.uri, suite, lab.archive.public_key());
        apt.update();
        (apt, http)
    };
    let (rolling, _http) = apt("rolling");
    assert_eq!(versions(&rolling, "hello"), ["2", "1"]);
    // Nothing keeps version 1 but that it is listed.
    let policy = KeepPolicy { versions: 1, age: SignedDuration::ZERO, ..KeepPolicy::default() };
    let report = lab.archive.collect(&policy, false, common::now()).unwrap();
    assert_eq!(report.removed.len(), 0);
    assert!(!rolling.download("hello=1").is_empty());
    let release = lab.archive.cut(&"v1".parse().unwrap(), common::now()).unwrap();
    assert_eq!(release.revisions[0].packages, 1 + FURTHER);
    let (cut, _http) = apt("v1/r1");
    assert_eq!(versions(&cut, "hello"), ["2"]);
    assert_eq!(lab.archive.check(true, common::now()).unwrap().problems, [""; 0]);

    let folder = tempfile::tempdir().unwrap();
    let target = FolderTarget::new(folder.path());
    let choice = "rolling".parse().unwrap();
    lab.archive.export(&target, &[choice], &ExportOptions::default(), common::now(), &|_| {}).unwrap();
    let http = Http::new(folder.path());
    let exported = Apt::new(&http.uri, "rolling", lab.archive.public_key());
    exported.update();
    for version in ["hello=1", "hello=2"] {
        assert!(!exported.download(version).is_empty(), "{version}");
    }

    // A package for all architectures takes the place of the others, which must not be listed then.
    lab.add("hello", "3", "all", "");
    let (rolling, _http) = apt("rolling");
    assert_eq!(versions(&rolling, "hello"), ["3"]);
    let report = lab.archive.collect(&policy, false, common::now()).unwrap();
    assert_eq!(report.removed.iter().map(ToString::to_string).collect::<Vec<_>>(), ["hello 1 (amd64)"]);
}
