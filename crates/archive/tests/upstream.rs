//! Reading what others publish: signatures, dates, indexes, downloads.

mod common;
mod foreign;

use std::fs;
use std::path::Path;

use common::{Lab, now};
use foreign::{Blind, Foreign, edit, write};
use jiff::{SignedDuration, Timestamp};
use volary_archive::upstream::{
    Folder, Job, Keyring, Offered, Patience, Publication, Scope, Seen, Staging, Trust, UpstreamError,
};

fn open(root: &Path, suite: &str, trust: &Trust) -> Result<Publication, UpstreamError> {
    Publication::open(&Folder::new(root), suite, trust, None, now())
}

/// What a suite offers, as `name version architecture` in order.
fn offers(root: &Path, publication: &Publication) -> Result<Vec<String>, UpstreamError> {
    let dir = tempfile::tempdir().unwrap();
    let staging = Staging::new(dir.path())?;
    let fetch = Folder::new(root);
    let job = Job { fetch: &fetch, staging: &staging, patience: Patience::default(), watch: &Blind };
    let architectures = ["amd64".parse().unwrap(), "arm64".parse().unwrap()];
    let components = publication.components();
    let scope =
        Scope { components: &components, architectures: &architectures, languages: &[], sources: false };
    let indexes = publication.indexes(&job, &scope)?;
    let mut all = Vec::new();
    for (path, text) in &indexes.packages {
        let offered = Offered::all(text, path)?;
        all.extend(offered.iter().map(|one| format!("{} {} {}", one.name, one.version, one.architecture)));
    }
    all.sort();
    all.dedup();
    Ok(all)
}

fn some_debs(lab: &Lab) -> Vec<std::path::PathBuf> {
    vec![
        lab.deb("hello", "1.0", "amd64", ""),
        lab.deb("hello", "1.0", "arm64", ""),
        lab.deb("hello-data", "2:1.0-1", "all", "Source: hello (1.0-1)\n"),
    ]
}

const SOME: [&str; 3] = ["hello 1.0 amd64", "hello 1.0 arm64", "hello-data 2:1.0-1 all"];

#[test]
fn trees_of_aptly_reprepro_and_our_own_are_read() {
    let lab = Lab::new();
    let debs = some_debs(&lab);
    lab.include(&debs).unwrap();
    let own = Trust::Keys(Keyring::read(lab.archive.public_key().as_bytes()).unwrap());
    // RSA as most publications have it, in a keyring of several armored blocks; Ed25519, binary.
    let rsa = Foreign::new("rsa3072");
    let ed25519 = Foreign::new("ed25519");
    let both = [rsa.key(true), ed25519.key(true)].concat();
    let both = Trust::Keys(Keyring::read(&both).unwrap());
    let aptly = rsa.aptly(&debs);
    let reprepro = ed25519.reprepro(&debs);
    let check = |root: &Path, suite: &str, trust: &Trust| {
        let publication = open(root, suite, trust).unwrap();
        assert_eq!(offers(root, &publication).unwrap(), SOME, "{}", root.display());
        assert_eq!(publication.architectures(), ["amd64", "arm64"]);
        assert!(publication.components().contains(&"main".to_owned()));
    };
    check(lab.archive.public_dir(), "rolling", &own);
    check(&aptly, "stable", &both);
    check(&aptly, "stable", &rsa.trust());
    check(&reprepro, "stable", &both);
    check(&reprepro, "stable", &ed25519.trust());
    // Without InRelease the signature lies beside, which old publications have.
    fs::remove_file(aptly.join("dists/stable/InRelease")).unwrap();
    check(&aptly, "stable", &rsa.trust());
    fs::remove_file(aptly.join("dists/stable/Release.gpg")).unwrap();
    let error = open(&aptly, "stable", &rsa.trust()).unwrap_err().to_string();
    assert!(error.contains("there is none; say --unsigned"), "{error}");
    check(&aptly, "stable", &Trust::Unsigned);
    let error = open(&reprepro, "testing", &both).unwrap_err().to_string();
    assert!(error.contains("has no suite testing"), "{error}");
}

#[test]
fn only_the_right_key_is_believed() {
    let lab = Lab::new();
    let (right, wrong) = (Foreign::new("ed25519"), Foreign::new("ed25519"));
    let root = right.reprepro(&some_debs(&lab));
    let refused = |trust: &Trust| {
        let error = open(&root, "stable", trust).unwrap_err();
        assert!(matches!(error, UpstreamError::Signature { .. }), "{error}");
        error.to_string()
    };
    let error = refused(&wrong.trust());
    assert!(error.contains("none of the 1 keys of the keyring made it"), "{error}");
    let suite = root.join("dists/stable");
    let good = fs::read_to_string(suite.join("InRelease")).unwrap();
    edit(&suite.join("InRelease"), "Codename: stable", "Codename: Stable");
    refused(&right.trust());
    // What stands outside of the signature does not count.
    write(&suite.join("InRelease"), format!("Codename: evil\n{good}"));
    open(&root, "stable", &right.trust()).unwrap_err();
    write(&suite.join("InRelease"), good);
    open(&root, "stable", &right.trust()).unwrap();
    for garbage in [&b""[..], b"garbage", b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nxx\n"] {
        assert!(matches!(Keyring::read(garbage), Err(UpstreamError::Keyring(_))));
    }
}

#[test]
fn stale_and_replayed_suites_are_refused() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let root = foreign.reprepro(&some_debs(&lab));
    let trust = foreign.trust();
    let suite = root.join("dists/stable");
    let seen = open(&root, "stable", &trust).unwrap().seen;
    let at = |before: Option<&Seen>, now: Timestamp| {
        Publication::open(&Folder::new(&root), "stable", &trust, before, now)
    };
    assert_eq!(at(Some(&seen), now()).unwrap().seen, seen, "the same again is fine");
    let hour = SignedDuration::from_hours(1);
    let later = Seen { date: seen.date + hour, ..seen.clone() };
    let error = at(Some(&later), now()).unwrap_err();
    assert!(matches!(error, UpstreamError::Backwards { .. }), "{error}");
    let error = at(None, now() - hour).unwrap_err();
    assert!(matches!(error, UpstreamError::Ahead { .. }), "{error}");
    let until = volary_debian::release::format_date(now() + hour);
    edit(&suite.join("Release"), "Codename:", &format!("Valid-Until: {until}\nCodename:"));
    foreign.sign(&suite);
    at(None, now()).unwrap();
    let error = at(None, now() + hour * 2).unwrap_err().to_string();
    assert!(error.contains("was valid until"), "{error}");
    // Another suite, well signed, in the place of this one.
    let error = Publication::open(&Folder::new(&root), "main-line", &trust, None, now()).unwrap_err();
    assert!(matches!(error, UpstreamError::NoSuite { .. }), "{error}");
    fs::rename(&suite, root.join("dists/oldstable")).unwrap();
    let error = open(&root, "oldstable", &trust).unwrap_err().to_string();
    assert!(error.contains("it says main-line and stable, and oldstable is wanted"), "{error}");
    let error = open(&root, "../x", &trust).unwrap_err().to_string();
    assert!(error.contains("below dists/"), "{error}");
}

#[test]
fn a_tampered_index_is_refused() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let root = foreign.aptly(&some_debs(&lab));
    let publication = open(&root, "stable", &foreign.trust()).unwrap();
    let folder = root.join("dists/stable/main/binary-amd64");
    let index = folder.join("Packages.gz");
    let mut bytes = fs::read(&index).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    write(&index, &bytes);
    let error = offers(&root, &publication).unwrap_err().to_string();
    assert!(error.contains("Packages.gz has SHA-256"), "{error}");
    fs::remove_file(&index).unwrap();
    let error = offers(&root, &publication).unwrap_err();
    assert!(matches!(error, UpstreamError::Gone { .. }), "{error}");
}
