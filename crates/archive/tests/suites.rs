//! What a suite has beside own packages: components, sources, Contents, xz, an expiry.

mod common;

use std::fs;
use std::path::PathBuf;

use common::{Apt, Http, Lab, now};
use jiff::SignedDuration;
use volary_archive::{Archive, Provenance, UploadPolicy};
use volary_host::Cmd;

const SHOWN: &str = "Auto-Built-Package: debug-symbols\nSection: debug\n";

fn in_release(archive: &Archive, suite: &str) -> String {
    let path = archive.public_dir().join("dists").join(suite).join("InRelease");
    volary_host::read_to_string(&path).unwrap()
}

fn line<'a>(text: &'a str, field: &str) -> &'a str {
    text.lines().find(|line| line.starts_with(field)).unwrap_or_default()
}

/// A source package made by dpkg-source, with its `.changes` as dpkg-genchanges writes it.
fn source(lab: &Lab, name: &str, version: &str) -> PathBuf {
    let dir = lab.dir.path().join(format!("source-{name}-{version}"));
    let tree = dir.join(format!("{name}-{version}"));
    fs::create_dir_all(tree.join("debian/source")).unwrap();
    let write = |path: &str, text: &str| {
        volary_host::write_atomic(&tree.join(path), text.as_bytes(), 0o644).unwrap();
    };
    write("main.c", "int main(void) { return 0; }\n");
    write("debian/source/format", "3.0 (native)\n");
    write(
        "debian/changelog",
        &format!(
            "{name} ({version}) unstable; urgency=medium\n\n  * Do it.\n\n -- A B <a@example.com>  Sun, 22 Nov 2026 12:00:00 +0000\n"
        ),
    );
    write(
        "debian/control",
        &format!(
            "Source: {name}\nSection: misc\nPriority: optional\nMaintainer: A B <a@example.com>\n\
             Build-Depends: libc6-dev\nStandards-Version: 4.6.2\n\nPackage: {name}\nArchitecture: any\n\
             Description: test\n test\n"
        ),
    );
    write("debian/rules", "#!/usr/bin/make -f\n%:\n\ttrue\n");
    Cmd::new("dpkg-source").args(["-b", "."]).cwd(&tree).check().unwrap();
    let changes = Cmd::new("dpkg-genchanges").arg("-S").cwd(&tree).check().unwrap().text();
    let path = dir.join(format!("{name}_{version}_source.changes"));
    volary_host::write_atomic(&path, changes.as_bytes(), 0o644).unwrap();
    path
}

#[test]
fn debug_packages_and_other_sections_stand_in_components_of_their_own() {
    let lab = Lab::new();
    lab.archive.configure(|settings| settings.components.push("extra".parse().unwrap()), now()).unwrap();
    lab.add("hello", "1.0", "amd64", "");
    assert_eq!(line(&in_release(&lab.archive, "rolling"), "Components:"), "Components: main");
    lab.add("hello-dbgsym", "1.0", "amd64", SHOWN);
    lab.add("tool", "1.0", "all", "Section: extra/net\n");
    lab.add("other", "1.0", "all", "Section: unknown/net\n");
    assert_eq!(line(&in_release(&lab.archive, "rolling"), "Components:"), "Components: main debug extra");
    let http = Http::new(lab.archive.public_dir());
    let apt = Apt::new(&http.uri, "rolling", lab.archive.public_key());
    apt.update();
    let found = |apt: &Apt| ["hello", "other", "hello-dbgsym", "tool"].map(|name| apt.candidate(name));
    assert_eq!(found(&apt), ["1.0", "1.0", "nothing", "nothing"]);
    lab.archive.cut(&"v1".parse().unwrap(), now()).unwrap();
    for suite in ["rolling", "v1/r1"] {
        let all = Apt::with(&http.uri, suite, lab.archive.public_key(), "");
        all.sources("Components: main", "Components: main debug extra");
        all.update();
        assert_eq!(found(&all), ["1.0", "1.0", "1.0", "1.0"]);
    }
    assert_eq!(lab.archive.check(true, now()).unwrap().problems, [""; 0]);
}

#[test]
fn sources_are_fetched_by_apt_and_follow_a_pick() {
    let lab = Lab::new();
    let include = |changes: PathBuf| {
        let policy = UploadPolicy::AllowUnsigned;
        lab.archive.include(&[changes], &Provenance::default(), &policy, now()).unwrap()
    };
    assert_eq!(include(source(&lab, "hello", "1.0")).added.len(), 1);
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.cut(&"v1".parse().unwrap(), now()).unwrap();
    include(source(&lab, "hello", "2.0"));
    lab.add("hello", "2.0", "amd64", "");
    let picked = lab.archive.pick(&"v1".parse().unwrap(), &["hello".parse().unwrap()], false, now()).unwrap();
    assert_eq!(picked.changes.len(), 2, "the package and its source: {:?}", picked.changes);
    assert_eq!(lab.list("rolling"), ["hello 2.0 (amd64)"], "a source is no package that installs");
    let http = Http::new(lab.archive.public_dir());
    for (suite, version) in [("v1/r1", "1.0"), ("v1/r2", "2.0"), ("rolling", "2.0")] {
        let apt = Apt::new(&http.uri, suite, lab.archive.public_key());
        apt.sources("Types: deb", "Types: deb deb-src");
        apt.update();
        let output = apt.run("apt-get", &["source", "-q", "hello"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        let tree = apt.path().join(format!("hello-{version}/main.c"));
        assert!(tree.is_file(), "{} is missing: {}{said}", tree.display(), output.text());
    }
    // The same again is known, other content is refused.
    let changes = lab.dir.path().join("source-hello-2.0/hello_2.0_source.changes");
    assert_eq!(include(changes.clone()).known.len(), 1);
    let tar = changes.with_file_name("hello_2.0.tar.xz");
    let mut bytes = volary_host::read(&tar).unwrap();
    bytes[100] ^= 1;
    volary_host::write_atomic(&tar, &bytes, 0o644).unwrap();
    let policy = UploadPolicy::AllowUnsigned;
    let refused = lab.archive.include(&[changes], &Provenance::default(), &policy, now()).unwrap_err();
    assert!(refused.to_string().contains("hello_2.0.tar.xz has SHA-256"), "{refused}");
}

#[test]
fn contents_come_with_the_upkeep_and_stay_over_publishes() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "Section: utils\n");
    lab.add("doc", "1.0", "all", "");
    lab.archive.cut(&"v1".parse().unwrap(), now()).unwrap();
    let report = lab.archive.upkeep(now()).unwrap();
    assert_eq!(report.contents.len(), 2, "{report:?}");
    assert!(lab.archive.upkeep(now()).unwrap().contents.is_empty(), "nothing is due");
    let contents = |suite: &str| {
        let path = lab.archive.public_dir().join(format!("dists/{suite}/main/Contents-amd64.gz"));
        Cmd::new("zcat").arg(path).check().unwrap().text()
    };
    let expected = "usr/share/doc/doc/README doc\nusr/share/doc/hello/README utils/hello\n";
    assert_eq!((contents("v1/r1").as_str(), contents("rolling").as_str()), (expected, expected));
    // Rolling goes on, with the same Contents for an hour.
    lab.add("more", "1.0", "amd64", "");
    let text = in_release(&lab.archive, "rolling");
    assert!(text.contains(" main/Contents-amd64.gz\n") && text.contains(" main/Contents-amd64\n"), "{text}");
    assert!(lab.archive.upkeep(now()).unwrap().contents.is_empty());
    assert_eq!(lab.archive.check(true, now()).unwrap().problems, [""; 0]);
    // What was taken out of packages may be lost: it is in them.
    fs::remove_dir_all(lab.path().join("listings")).unwrap();
    let later = now() + SignedDuration::from_mins(61);
    let again = Archive::open(&lab.path()).unwrap();
    assert_eq!(again.upkeep(later).unwrap().contents.len(), 1);
    assert_eq!(contents("rolling"), format!("{expected}usr/share/doc/more/README more\n"));
    let http = Http::new(lab.archive.public_dir());
    let apt = Apt::new(&http.uri, "rolling", lab.archive.public_key());
    apt.update();
    // Who wants none any more gets rid of them, each device of their lines in InRelease.
    again.configure(|settings| settings.contents = false, later).unwrap();
    let deb = lab.deb("last", "1.0", "amd64", "");
    again.include(&[deb], &Provenance::default(), &UploadPolicy::Refuse, later).unwrap();
    assert!(!in_release(&again, "rolling").contains("Contents"));
    apt.update();
    assert_eq!(apt.candidate("last"), "1.0");
}

#[test]
fn a_frozen_release_is_also_packed_with_xz() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    let v1 = "v1".parse().unwrap();
    lab.archive.cut(&v1, now()).unwrap();
    assert!(lab.archive.upkeep(now()).unwrap().packed.is_empty());
    lab.archive.freeze(&v1, now()).unwrap();
    assert_eq!(lab.archive.upkeep(now()).unwrap().packed.len(), 1);
    assert!(lab.archive.upkeep(now()).unwrap().packed.is_empty());
    let http = Http::new(lab.archive.public_dir());
    let apt = Apt::new(&http.uri, "v1/r1", lab.archive.public_key());
    apt.update();
    assert_eq!(apt.candidate("hello"), "1.0");
    let text = in_release(&lab.archive, "v1/r1");
    let hash = text.lines().find(|line| line.ends_with(" main/binary-amd64/Packages.xz")).unwrap();
    let hash = hash.split_whitespace().next().unwrap();
    let asked = http.requests();
    assert!(asked.iter().any(|line| line.contains(hash)), "apt likes xz best: {asked:?}");
}

#[test]
fn a_signature_stays_valid_by_the_upkeep_alone() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.configure(|settings| settings.valid_days = Some(10), now()).unwrap();
    let first = in_release(&lab.archive, "rolling");
    assert!(!line(&first, "Valid-Until:").is_empty(), "{first}");
    assert!(lab.archive.upkeep(now()).unwrap().renewed.is_empty());
    let later = now() + SignedDuration::from_hours(24 * 6);
    assert_eq!(lab.archive.upkeep(later).unwrap().renewed.len(), 1);
    let second = in_release(&lab.archive, "rolling");
    assert_ne!(line(&first, "Valid-Until:"), line(&second, "Valid-Until:"));
    assert_eq!(line(&first, "X-Package-Set:"), line(&second, "X-Package-Set:"));
}

#[test]
fn an_architecture_that_comes_later_leaves_releases_alone() {
    let lab = Lab::new();
    lab.add("doc", "1.0", "all", "");
    let v1 = "v1".parse().unwrap();
    lab.archive.cut(&v1, now()).unwrap();
    let pin = lab.archive.pin(&"v1/r1".parse().unwrap()).unwrap();
    let add = |architecture: &str| {
        let architecture = architecture.parse().unwrap();
        lab.archive.configure(|settings| settings.architectures.push(architecture), now())
    };
    add("riscv64").unwrap();
    assert!(line(&in_release(&lab.archive, "rolling"), "Architectures:").ends_with("riscv64"));
    lab.add("tool", "1.0", "riscv64", "");
    lab.archive.pick(&v1, &["doc".parse().unwrap()], false, now()).unwrap();
    lab.archive.upkeep(now()).unwrap();
    let again = Archive::open(&lab.path()).unwrap();
    assert_eq!(again.pin(&"v1/r1".parse().unwrap()).unwrap(), pin);
    assert!(!in_release(&again, "v1/r1").contains("riscv64"));
    assert!(add("all").unwrap_err().to_string().contains("all"));
}
