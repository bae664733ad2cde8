//! Where real apt falls silent: it ends with success and offers nothing, or keeps what it had.
//!
//! Each row of `ROWS` breaks a suite in one way, and proves twice: that this apt does fall silent
//! (should a later apt complain, the row says so), and that the audit finds it. The second half
//! proves that no operation of the archive leads there. `ARCHIVE_TEST_APT_ROOT` takes the apt of
//! another Debian.

mod common;

use std::fs::{self, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::audit::{Fault, Held, faults};
use common::{Apt, Http, Lab};
use pgp::composed::SignedSecretKey;
use pgp::composed::{ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder};
use pgp::types::Password;
use volary_archive::{NewKey, Others, Pick, Provenance, UploadPolicy};
use volary_host::Cmd;

/// A suite that somebody else wrote: it had hello 1.0, and gets hello 2.0 with a fault.
struct Forge {
    lab: Lab,
    /// What is served.
    dir: tempfile::TempDir,
    key: SignedSecretKey,
    /// The Release texts of the two states.
    texts: [String; 2],
}

/// A key as a foreign archive has it.
fn new_key() -> SignedSecretKey {
    let mut params = SecretKeyParamsBuilder::default();
    let params = params
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .primary_user_id("Somebody else".to_owned());
    params.build().unwrap().generate(rand::rngs::OsRng).unwrap()
}

fn public_of(key: &SignedSecretKey) -> String {
    key.to_public_key().to_armored_string(ArmorOptions::default()).unwrap()
}

impl Forge {
    fn new() -> Self {
        let lab = Lab::new();
        let inrelease = lab.archive.public_dir().join("dists/rolling/InRelease");
        let texts = ["1.0", "2.0"].map(|version| {
            lab.add("hello", version, "amd64", "");
            let text = volary_host::read_to_string(&inrelease).unwrap();
            volary_debian::clearsign::payload(&text).unwrap().into_owned()
        });
        let dir = tempfile::tempdir().unwrap();
        Cmd::new("cp")
            .arg("-a")
            .args([lab.archive.public_dir(), &dir.path().join("public")])
            .check()
            .unwrap();
        let forge = Self { lab, dir, key: new_key(), texts };
        forge.publish(&forge.texts[0], &forge.key, SystemTime::now() - Duration::from_secs(600));
        forge
    }

    fn public(&self) -> std::path::PathBuf {
        self.dir.path().join("public")
    }

    /// Signs a text and puts it in place.
    fn publish(&self, text: &str, key: &SignedSecretKey, modified: SystemTime) {
        let path = self.public().join("dists/rolling/InRelease");
        let text = text.strip_suffix('\n').unwrap_or(text);
        let signed =
            CleartextSignedMessage::sign(rand::rngs::OsRng, text, &key.primary_key, &Password::empty());
        let signed = signed.unwrap().to_armored_string(ArmorOptions::default()).unwrap();
        volary_host::write_atomic(&path, signed.as_bytes(), 0o644).unwrap();
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_times(FileTimes::new().set_modified(modified)).unwrap();
    }

    /// Publishes the second state with another text, as if all else were well.
    fn second(&self, edit: impl Fn(&str) -> String) {
        self.publish(&edit(&self.texts[1]), &self.key, SystemTime::now());
    }

    fn modified(&self) -> SystemTime {
        Held::read(&self.public(), "rolling").modified()
    }
}

/// A way to break a suite.
struct Row {
    fault: Fault,
    break_it: fn(&Forge),
    /// What an apt that held hello 1.0 offers after a successful update.
    left: &'static str,
    /// A part of the warning or notice that apt gives; most give none.
    says: Option<&'static str>,
}

const NOTHING: &str = "nothing";

const ROWS: &[Row] = &[
    Row {
        fault: Fault::PlainUnlisted,
        break_it: |forge| forge.second(|text| without_lines(text, "binary-amd64/Packages")),
        left: NOTHING,
        says: None,
    },
    Row { fault: Fault::LineOrder, break_it: |forge| forge.second(reversed), left: NOTHING, says: None },
    Row {
        fault: Fault::IndexMissing,
        break_it: |forge| {
            forge.second(|text| {
                let text = without_lines(text, "binary-amd64/Packages.gz");
                without_lines(&without_lines(&text, "binary-amd64/Packages.zst"), "binary-amd64/Packages")
            });
        },
        left: NOTHING,
        says: None,
    },
    Row {
        // What a device sees that has another architecture than the archive.
        fault: Fault::ArchitectureGone,
        break_it: |forge| {
            forge.second(|text| {
                let text = text.replace("Architectures: amd64 arm64", "Architectures: arm64");
                let amd64 = |line: &&str| !(line.starts_with(' ') && line.contains("binary-amd64/"));
                text.lines().filter(amd64).flat_map(|line| [line, "\n"]).collect()
            });
        },
        left: NOTHING,
        says: None,
    },
    Row {
        fault: Fault::ComponentGone,
        break_it: |forge| {
            forge.second(|text| {
                text.replace("Components: main", "Components: other").replace(" main/", " other/")
            });
        },
        left: NOTHING,
        says: Some("doesn't have the component 'main'"),
    },
    Row {
        fault: Fault::OlderDate,
        break_it: |forge| forge.second(|text| with_field(text, "Date", "Sun, 01 Nov 2026 00:00:00 UTC")),
        left: "1.0",
        says: None,
    },
    Row {
        fault: Fault::NotModified,
        break_it: |forge| forge.publish(&forge.texts[1], &forge.key, forge.modified()),
        left: "1.0",
        says: None,
    },
    Row {
        // A rollback that puts the old file back as it was.
        fault: Fault::NotModified,
        break_it: |forge| {
            forge.publish(&forge.texts[1], &forge.key, forge.modified() - Duration::from_secs(3600));
        },
        left: "1.0",
        says: None,
    },
    Row {
        fault: Fault::OtherSigner,
        break_it: |forge| forge.publish(&forge.texts[1], &new_key(), SystemTime::now()),
        left: "1.0",
        says: Some("The repository is not updated and the previous index files will be used"),
    },
];

/// A text without the lines that end so.
fn without_lines(text: &str, end: &str) -> String {
    text.lines().filter(|line| !line.ends_with(end)).flat_map(|line| [line, "\n"]).collect()
}

/// A text with another value of a field.
fn with_field(text: &str, name: &str, value: &str) -> String {
    let start = format!("{name}: ");
    let line = |line: &str| match line.starts_with(&start) {
        true => format!("{start}{value}\n"),
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// The lines of the hash list as path, size, digest.
fn reversed(text: &str) -> String {
    let line = |line: &str| match line.split_whitespace().collect::<Vec<_>>()[..] {
        [hash, size, path] if line.starts_with(' ') => format!(" {path} {size} {hash}\n"),
        _ => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// Updates, which must succeed, and gives what apt complained of.
fn update(apt: &Apt) -> String {
    let output = apt.run("apt-get", &["update"]);
    let said = output.text() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("E:"), "{said}");
    said.lines().filter(|line| line.starts_with("W:") || line.starts_with("N:")).collect()
}

#[test]
fn apt_falls_silent_on_each_row_and_the_audit_finds_it() {
    let forge = Forge::new();
    let key = public_of(&forge.key);
    let http = Http::new(&forge.public());
    let state_one =
        || forge.publish(&forge.texts[0], &forge.key, SystemTime::now() - Duration::from_secs(600));
    for row in ROWS {
        let fault = row.fault;
        state_one();
        let held = Held::read(&forge.public(), "rolling");
        let apt = Apt::new(&http.uri, "rolling", &key);
        assert_eq!(update(&apt), "", "{fault:?}: the first state is sound");
        assert_eq!(apt.candidate("hello"), "1.0", "{fault:?}");
        (row.break_it)(&forge);
        let said = update(&apt);
        assert!(
            row.says.map_or(said.is_empty(), |part| said.contains(part)),
            "{fault:?}: apt said: {said:?}"
        );
        assert_eq!(apt.candidate("hello"), row.left, "{fault:?}");
        assert_eq!(faults(&forge.public(), "rolling", Some(&held), &key), [fault]);
        // It is this fault and nothing else that hid the new version.
        forge.second(str::to_owned);
        assert_eq!(faults(&forge.public(), "rolling", Some(&held), &key), [], "{fault:?}");
        let fresh = Apt::new(&http.uri, "rolling", &key);
        fresh.update();
        assert_eq!(fresh.candidate("hello"), "2.0", "{fault:?}");
    }
    drop(forge.lab);
}

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
        assert_eq!(update(&apt), "");
        assert_eq!(apt.candidate("hello"), "2.0");
    } else {
        assert!(!apt.run("apt-get", &["update"]).status.success());
    }
    apt.follow(&http.uri, "v1.0/r1");
    apt.update();
    assert_eq!(apt.candidate("hello"), "1.0");
}

/// The folder has no `.gz` of an index that nothing lists, or a list without its files.
#[test]
fn every_listed_index_is_there_under_its_hash() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    lab.add("hello", "2.0", "amd64", "");
    let suite = lab.archive.public_dir().join("dists/rolling");
    let text = volary_host::read_to_string(&suite.join("InRelease")).unwrap();
    let release = volary_debian::release::Release::parse(&text).unwrap();
    for (path, file) in &release.files {
        let (folder, name) = path.rsplit_once('/').unwrap();
        let there = length(&suite.join(folder).join("by-hash/SHA256").join(&file.sha256));
        // The plain form is listed because apt wants it so, and served in no other form.
        let plain = release.files.contains_key(&format!("{path}.gz"));
        assert!(there == Some(file.size) || plain, "{path} ({name}): {there:?}");
    }
}

fn length(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|meta| meta.len())
}
