//! Where real apt falls silent: it ends with success and offers nothing, or keeps what it had.
//!
//! Each row of `ROWS` breaks a suite in one way, and proves twice: that this apt does fall silent
//! (should a later apt complain, the row says so), and that the audit finds it. That no operation of
//! the archive leads there is proven in `apt_follows.rs`. `ARCHIVE_TEST_APT_ROOT` takes the apt of
//! another Debian.

mod common;
mod foreign;

use std::fs::{self, FileTimes};
use std::path::Path;
use std::time::{Duration, SystemTime};

use common::audit::{Fault, Held, faults};
use common::{Apt, Http, Lab};
use foreign::Foreign;
use pgp::composed::SignedSecretKey;
use pgp::composed::{ArmorOptions, CleartextSignedMessage, KeyType, SecretKeyParamsBuilder};
use pgp::types::Password;
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

/// What rolling of a lab says of itself.
fn release_text(lab: &Lab) -> String {
    let text =
        volary_host::read_to_string(&lab.archive.public_dir().join("dists/rolling/InRelease")).unwrap();
    volary_debian::clearsign::payload(&text).unwrap().into_owned()
}

impl Forge {
    fn new() -> Self {
        let lab = Lab::new();
        let texts = ["1.0", "2.0"].map(|version| {
            lab.add("hello", version, "amd64", "");
            release_text(&lab)
        });
        Self::of(lab, texts)
    }

    /// What is served is a copy of the lab's, with these texts.
    fn of(lab: Lab, texts: [String; 2]) -> Self {
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
        assert_eq!(apt.complaints(), "", "{fault:?}: the first state is sound");
        assert_eq!(apt.candidate("hello"), "1.0", "{fault:?}");
        (row.break_it)(&forge);
        let said = apt.complaints();
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

/// What an apt must be told to fetch the lists of files, as apt-file tells it.
const CONTENTS: [&str; 3] = [
    "Acquire::IndexTargets::deb::Contents-deb::MetaKey=$(COMPONENT)/Contents-$(ARCHITECTURE)",
    "Acquire::IndexTargets::deb::Contents-deb::ShortDescription=Contents-$(ARCHITECTURE)",
    "Acquire::IndexTargets::deb::Contents-deb::Description=$(RELEASE)/$(COMPONENT) Contents",
];

/// Sources and Contents are as Packages: listed in packed form alone, they are not there for apt.
#[test]
fn sources_and_contents_need_their_plain_form_too() {
    let lab = Lab::new();
    let foreign = Foreign::new("ed25519");
    let (dsc, deb) = foreign.source(&lab, "hello", "1.0");
    lab.include(&[dsc, deb]).unwrap();
    lab.archive.upkeep(common::now()).unwrap();
    let text = release_text(&lab);
    let forge = Forge::of(lab, [text.clone(), text]);
    let key = public_of(&forge.key);
    let http = Http::new(&forge.public());
    let fetched = || {
        let apt = Apt::new(&http.uri, "rolling", &key);
        apt.sources("Types: deb", "Types: deb deb-src");
        let mut args: Vec<&str> = CONTENTS.iter().flat_map(|option| ["-o", option]).collect();
        args.push("update");
        let output = apt.run("apt-get", &args);
        let said = output.text() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("E:"), "{said}");
        let lists: Vec<_> = fs::read_dir(apt.path().join("state/lists")).unwrap().flatten().collect();
        let has = |part: &str| lists.iter().any(|list| list.file_name().to_string_lossy().contains(part));
        assert_eq!(apt.candidate("hello"), "1.0");
        (has("_Sources"), has("_Contents-amd64"))
    };
    for (index, left) in [("main/source/Sources", (false, true)), ("main/Contents-amd64", (true, false))] {
        forge.second(|text| without_lines(text, index));
        assert_eq!(fetched(), left, "{index}");
        assert_eq!(faults(&forge.public(), "rolling", None, &key), [Fault::PlainUnlisted], "{index}");
        forge.second(str::to_owned);
        assert_eq!(fetched(), (true, true), "{index}");
        assert_eq!(faults(&forge.public(), "rolling", None, &key), []);
    }
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
