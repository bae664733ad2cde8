//! The archive as real apt and gpgv see it.

mod common;

use common::{Apt, Http, Lab};
use volary_archive::{Pick, Provenance, UploadPolicy};
use volary_host::Cmd;

#[test]
fn apt_updates_without_a_warning_and_installs() {
    let lab = Lab::new();
    let http = Http::new(lab.archive.public_dir());
    let apt = Apt::new(&http.uri, "rolling", lab.archive.public_key());
    apt.update();
    assert_eq!(apt.candidate("hello"), "nothing", "an empty suite is a suite");
    let deb = lab.deb("hello", "1.0-1", "amd64", "");
    lab.include(std::slice::from_ref(&deb)).unwrap();
    lab.add("tools", "2.0", "all", "Depends: hello\n");
    apt.update();
    assert_eq!((apt.candidate("hello").as_str(), apt.candidate("tools").as_str()), ("1.0-1", "2.0"));
    assert_eq!(apt.download("hello"), volary_host::read(&deb).unwrap());
    lab.add("hello", "1.1-1", "amd64", "");
    apt.update();
    assert_eq!(apt.candidate("hello"), "1.1-1");
    let installed = apt.run("apt-get", &["-s", "install", "tools"]).text();
    assert!(installed.contains("Inst hello (1.1-1 Test archive:rolling [amd64])"), "{installed}");
}

#[test]
fn publishes_within_one_second_are_all_seen() {
    let lab = Lab::new();
    let http = Http::new(lab.archive.public_dir());
    let apt = Apt::new(&http.uri, "rolling", lab.archive.public_key());
    // All of them have the same Date, only the time of modification differs.
    let clock = common::now();
    for version in 1..=5 {
        let version = format!("1.{version}");
        let deb = lab.deb("hello", &version, "amd64", "");
        lab.archive.include(&[deb], &Provenance::default(), &UploadPolicy::Refuse, clock).unwrap();
        apt.update();
        assert_eq!(apt.candidate("hello"), version);
    }
}

#[test]
fn every_revision_of_a_release_stays_installable() {
    let lab = Lab::new();
    let name = "v1.0".parse().unwrap();
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.cut(&name, common::now()).unwrap();
    lab.add("hello", "2.0", "amd64", "");
    let pick: Pick = "hello".parse().unwrap();
    lab.archive.pick(&name, &[pick], false, common::now()).unwrap();
    let http = Http::new(lab.archive.public_dir());
    for (suite, version) in [("v1.0/r1", "1.0"), ("v1.0/r2", "2.0")] {
        let apt = Apt::new(&http.uri, suite, lab.archive.public_key());
        apt.update();
        assert_eq!(apt.candidate("hello"), version);
        assert!(!apt.download("hello").is_empty());
        let policy = apt.run("apt-cache", &["policy"]).text();
        assert!(
            policy.contains(&format!("release v=v1.0 {},o=Test,a={suite},n=v1.0", &suite[5..])),
            "{policy}"
        );
    }
}

#[test]
fn every_compressed_form_is_read() {
    let lab = Lab::new();
    let debs: Vec<_> =
        (0..60).map(|number| lab.deb(&format!("package-{number:02}"), "1", "all", "")).collect();
    lab.include(&debs).unwrap();
    let http = Http::new(lab.archive.public_dir());
    for form in ["gz", "zst"] {
        let apt = Apt::new(&http.uri, "rolling", lab.archive.public_key());
        let order = format!("Acquire::CompressionTypes::Order::={form}");
        let output = apt.run("apt-get", &["-o", &order, "update"]);
        assert!(output.status.success(), "{form}: {}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(apt.candidate("package-59"), "1", "{form}");
        assert_eq!(apt.candidate("package-00"), "1", "{form}");
    }
}

#[test]
fn gpgv_accepts_the_signature_and_nothing_altered() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    let keyring = lab.dir.path().join("key.gpg");
    let dearmor = Cmd::new("gpg")
        .args(["--batch", "--yes", "--homedir"])
        .arg(lab.dir.path())
        .args(["--dearmor", "-o"])
        .arg(&keyring)
        .stdin(lab.archive.public_key());
    dearmor.check().unwrap();
    let inrelease = lab.archive.public_dir().join("dists/rolling/InRelease");
    let verify =
        |path: &std::path::Path| Cmd::new("gpgv").arg("--keyring").args([&keyring, path]).run().unwrap();
    let output = verify(&inrelease);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("Good signature from \"Test archive\""), "{said}");
    let altered = lab.dir.path().join("altered");
    let text = volary_host::read_to_string(&inrelease).unwrap().replace("Origin: Test", "Origin: Tost");
    volary_host::write_atomic(&altered, text.as_bytes(), 0o644).unwrap();
    assert!(!verify(&altered).status.success());
}

#[test]
fn apt_refuses_an_index_that_was_altered() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    let by_hash = lab.archive.public_dir().join("dists/rolling/main/binary-amd64/by-hash/SHA256");
    for entry in std::fs::read_dir(by_hash).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = volary_host::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        volary_host::write_atomic(&path, &bytes, 0o644).unwrap();
    }
    let http = Http::new(lab.archive.public_dir());
    let apt = Apt::new(&http.uri, "rolling", lab.archive.public_key());
    assert!(!apt.run("apt-get", &["update"]).status.success());
    assert_eq!(apt.candidate("hello"), "nothing");
}

#[test]
fn a_change_is_fetched_as_a_difference() {
    let lab = Lab::new();
    let debs: Vec<_> =
        (0..40).map(|number| lab.deb(&format!("package-{number:02}"), "1.0", "amd64", "")).collect();
    lab.include(&debs).unwrap();
    let http = Http::new(lab.archive.public_dir());
    let fresh = || Apt::new(&http.uri, "rolling", lab.archive.public_key());
    let (apt, late) = (fresh(), fresh());
    let check = |apt: &Apt, package: &str, version: &str| {
        http.requests();
        apt.update();
        let requests = http.requests();
        let has = |part: &str| requests.iter().any(|line| line.contains(part) && line.contains("\" 200"));
        assert!(has(".gz HTTP") && has("Packages.diff") && !has("binary-amd64/by-hash"), "{requests:#?}");
        assert_eq!(apt.candidate(package), version);
        // The index that came out is the one that a fresh apt fetches whole.
        let list = |apt: &Apt| apt.run("apt-cache", &["dumpavail"]).text();
        let whole = fresh();
        whole.update();
        assert_eq!(list(apt), list(&whole));
    };
    apt.update();
    late.update();
    lab.add("package-17", "1.1", "amd64", "");
    check(&apt, "package-17", "1.1");
    let first = lab.deb("a-first", "1.0", "amd64", "Section: misc\n");
    let last = lab.deb("zz-last", "1.0", "all", "");
    lab.include(&[first, last]).unwrap();
    check(&apt, "a-first", "1.0");
    lab.add("package-00", "1.1", "amd64", "Section: misc\n");
    lab.add("package-39", "1.1", "all", "");
    check(&apt, "package-00", "1.1");
    check(&late, "package-39", "1.1");
}
