//! Artifacts and modules on a device that is a folder: the calls that a module sees, power cuts in every
//! state, and the modules that Mender ships.

#![allow(clippy::disallowed_methods, reason = "files of tests need not survive a power cut")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use volary_artifact::{Depends, Draft, Encoding, PayloadDraft, Script, Source, WriteOptions, write};
use volary_model::Digest;

use super::machine::State;
use super::record::{self, Record};
use super::{Outcome, commit, install, resume, roll_back, undo_change};
use crate::paths::Paths;

struct Device {
    root: tempfile::TempDir,
    paths: Paths,
}

impl Device {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        paths.prepare().unwrap();
        let device = Self { paths, root };
        let image = r#"{"version": 1, "device_type": "board", "name": "old"}"#;
        fs::write(device.paths.image(), image).unwrap();
        device
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    /// A module that writes down how it is called; `body` is shell, with the state in `$1`.
    fn module(&self, name: &str, body: &str) {
        let folder = &self.paths.module_folders()[1];
        fs::create_dir_all(folder).unwrap();
        let path = folder.join(name);
        let text = format!("#!/bin/sh\necho \"$1\" >> {}\n{body}\nexit 0\n", self.at("calls").display());
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What was called since the last time.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.at("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.at("calls"));
        text.lines().map(str::to_owned).collect()
    }

    fn is_clean(&self) -> bool {
        Record::load(&self.paths).unwrap().is_none()
            && !self.paths.module_tree().exists()
            && !self.paths.module_scripts().exists()
    }

    fn name(&self) -> String {
        record::provides(&self.paths).unwrap()["artifact_name"].clone()
    }
}

fn artifact(module: &str, files: &[(&str, &[u8])], scripts: Vec<Script>) -> Vec<u8> {
    let files = files.iter().map(|(name, bytes)| Source::new(*name, bytes.len() as u64, *bytes)).collect();
    let draft = Draft {
        name: "new".into(),
        depends: Depends { device_types: vec!["board".into()], ..Depends::default() },
        scripts,
        payloads: vec![PayloadDraft::module(module, "new", files)],
        ..Draft::default()
    };
    let mut output = Cursor::new(Vec::new());
    write(&mut output, draft, &WriteOptions { encoding: Encoding::Gzip(1), key: None, threads: 1 }).unwrap();
    output.into_inner()
}

fn usual() -> Vec<u8> {
    artifact("dump", &[("a.txt", b"hello"), ("b.txt", b"world")], Vec::new())
}

const FINE: &str = "case $1 in SupportsRollback) echo Yes;; esac";

#[test]
fn a_module_is_called_as_mender_s_client_calls_it() {
    let device = Device::new();
    let copy = device.at("copy");
    let keep = format!(
        "case $1 in SupportsRollback) echo Yes;; Download) ls -p > {0}.listing;;
         ArtifactInstall) [ \"$(pwd)\" = \"$2\" ] || exit 1; cp -r \"$2\" {0};; esac",
        copy.display()
    );
    device.module("dump", &keep);
    assert_eq!(install(&device.paths, usual().as_slice(), None, None).unwrap(), Outcome::Waiting);
    // As mender-client 3.4 does; the first question is of version 4.
    let asked = ["ProvidePayloadFileSizes", "Download", "SupportsRollback", "ArtifactInstall"];
    assert_eq!(device.calls(), [&asked[..], &["NeedsArtifactReboot"]].concat());
    let file = |name: &str| fs::read_to_string(copy.join(name)).unwrap();
    for (name, text) in [
        ("version", "3"),
        ("current_artifact_name", "old"),
        ("current_artifact_group", ""),
        ("current_device_type", "board"),
        ("header/artifact_name", "new"),
        ("header/artifact_group", ""),
        ("header/payload_type", "dump"),
        ("files/a.txt", "hello"),
        ("files/b.txt", "world"),
    ] {
        assert_eq!(file(name), text, "{name}");
    }
    assert!(file("header/header-info").contains("\"artifact_name\":\"new\""));
    assert!(file("header/type-info").contains("dump"));
    let listing = fs::read_to_string(device.at("copy.listing")).unwrap();
    assert!(listing.contains("stream-next") && listing.contains("streams/") && listing.contains("tmp/"));
    assert!(
        !copy.join("stream-next").exists() && !copy.join("streams").exists() && copy.join("tmp").exists()
    );
    assert_eq!(device.name(), "old");
    assert_eq!(commit(&device.paths).unwrap(), Outcome::Lasts);
    assert_eq!(device.calls(), ["ArtifactCommit", "Cleanup"]);
    assert_eq!(device.name(), "new");
    assert_eq!(record::provides(&device.paths).unwrap()["rootfs-image.dump.version"], "new");
    assert!(device.is_clean());
}

#[test]
fn a_module_may_read_streams_and_has_to_read_all_of_them() {
    let large = vec![7; 3 << 20];
    let bytes = artifact("dump", &[("a.txt", b"hello"), ("large", &large)], Vec::new());
    for (sizes, line) in
        [("", "streams/a.txt\nstreams/large\n"), ("Yes", "streams/a.txt 5\nstreams/large 3145728\n")]
    {
        let device = Device::new();
        let to = device.at("read");
        fs::create_dir_all(&to).unwrap();
        device.module(
            "dump",
            &format!(
                "case $1 in ProvidePayloadFileSizes) echo {sizes};;
                 Download*) while line=$(cat stream-next); [ -n \"$line\" ]; do
                   echo \"$line\" >> {0}/lines; cat \"${{line% *}}\" >> {0}/bytes; done;; esac",
                to.display()
            ),
        );
        assert_eq!(install(&device.paths, bytes.as_slice(), None, None).unwrap(), Outcome::Waiting);
        assert_eq!(fs::read_to_string(to.join("lines")).unwrap(), line);
        assert_eq!(fs::read(to.join("bytes")).unwrap(), [b"hello", &large[..]].concat());
        assert!(!device.paths.module_tree().join("files").exists(), "whoever reads keeps what it needs");
    }
    for body in [
        "[ $1 = Download ] && { line=$(cat stream-next); cat $line > /dev/null; }",
        "[ $1 = Download ] && cat stream-next > /dev/null",
        "[ $1 = Download ] && exit 3",
    ] {
        let device = Device::new();
        device.module("dump", body);
        let outcome = install(&device.paths, bytes.as_slice(), None, None).unwrap();
        assert!(matches!(outcome, Outcome::Back { why: Some(_), inconsistent: false }), "{outcome:?}");
        assert_eq!(device.calls(), ["ProvidePayloadFileSizes", "Download", "Cleanup"], "{body}");
        assert!(device.is_clean());
    }
}

#[test]
fn an_artifact_that_is_not_right_is_never_installed() {
    let device = Device::new();
    device.module("dump", FINE);
    let good = usual();
    // The last bytes of the payload, whose checksum is known when all of it has streamed by.
    let mut bad = good.clone();
    let at = bad.len() - 1536 + 60;
    bad[at] ^= 1;
    let outcome = install(&device.paths, bad.as_slice(), None, None);
    assert!(!matches!(outcome, Ok(Outcome::Waiting)), "{outcome:?}");
    assert!(!device.calls().contains(&"ArtifactInstall".to_owned()));
    let outcome = install(&device.paths, good.as_slice(), Some(Digest::from_bytes([1; 32])), None).unwrap();
    assert!(
        matches!(&outcome, Outcome::Back { why: Some(why), .. } if why.contains("is wanted")),
        "{outcome:?}"
    );
    assert!(!device.calls().contains(&"ArtifactInstall".to_owned()));
    let refused = |bytes: &[u8], expected: &str| {
        let error = install(&device.paths, bytes, None, None).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(device.is_clean() && device.calls().is_empty());
    };
    refused(&artifact("missing", &[("a", b"")], Vec::new()), "there is no update module \"missing\"");
    refused(&artifact("../dump", &[("a", b"")], Vec::new()), "there is no update module");
    fs::write(device.paths.image(), r#"{"version": 1, "device_type": "toaster", "name": "old"}"#).unwrap();
    refused(&good, "device_type");
}

#[test]
fn what_fails_goes_back_as_far_as_the_module_can() {
    let run = |failing: &str, answers: &str| {
        let device = Device::new();
        device.module("dump", &format!("case $1 in {answers} {failing}) exit 1;; esac"));
        let outcome = match install(&device.paths, usual().as_slice(), None, None).unwrap() {
            Outcome::Waiting => commit(&device.paths).unwrap(),
            other => other,
        };
        assert!(device.is_clean());
        let calls = device.calls();
        let at = calls.iter().position(|call| call == failing).unwrap();
        (outcome, calls[at + 1..].to_vec(), device.name())
    };
    let can = "SupportsRollback) echo Yes;;";
    for failing in ["ArtifactInstall", "ArtifactCommit"] {
        let (outcome, calls, name) = run(failing, can);
        assert!(matches!(outcome, Outcome::Back { why: Some(_), inconsistent: false }), "{outcome:?}");
        assert_eq!(calls, ["ArtifactRollback", "ArtifactFailure", "Cleanup"]);
        assert_eq!(name, "old");
        let (outcome, calls, name) = run(failing, "");
        assert!(matches!(outcome, Outcome::Back { why: Some(_), inconsistent: true }), "{outcome:?}");
        assert_eq!(calls, ["ArtifactFailure", "Cleanup"]);
        assert_eq!(name, "new_INCONSISTENT");
    }
    let (_, calls, _) = run("NeedsArtifactReboot", can);
    assert_eq!(calls, ["ArtifactRollback", "ArtifactFailure", "Cleanup"]);
}

#[test]
fn a_person_may_change_their_mind() {
    let device = Device::new();
    device.module("dump", FINE);
    install(&device.paths, usual().as_slice(), None, None).unwrap();
    let error = install(&device.paths, usual().as_slice(), None, None).unwrap_err().to_string();
    assert!(error.contains("is not done yet"), "{error}");
    device.calls();
    let outcome = roll_back(&device.paths).unwrap();
    assert_eq!(outcome, Outcome::Back { why: None, inconsistent: false });
    assert_eq!(device.calls(), ["ArtifactRollback", "Cleanup"]);
    assert!(commit(&device.paths).unwrap_err().to_string().contains("no artifact waits"));
    device.module("dump", "");
    install(&device.paths, usual().as_slice(), None, None).unwrap();
    assert!(roll_back(&device.paths).unwrap_err().to_string().contains("cannot roll back"));
    assert_eq!(commit(&device.paths).unwrap(), Outcome::Lasts);
}

#[test]
fn a_power_cut_in_any_state_is_followed_by_what_the_contract_says() {
    let back: &[&str] = &["ArtifactRollback", "ArtifactFailure", "Cleanup"];
    let cases: [(State, &[&str]); 10] = [
        (State::Download, &["Cleanup"]),
        (State::Install, back),
        (State::Reboot, &["ArtifactVerifyReboot"]),
        (
            State::VerifyReboot,
            &[
                "ArtifactRollback",
                "ArtifactRollbackReboot",
                "ArtifactVerifyRollbackReboot",
                "ArtifactFailure",
                "Cleanup",
            ],
        ),
        (State::Waiting, &[]),
        (State::Commit, back),
        (State::CommitLeave, &["Cleanup"]),
        (State::Rollback, back),
        (State::Failure, &["ArtifactFailure", "Cleanup"]),
        (State::Cleanup, &["Cleanup"]),
    ];
    for (state, expected) in cases {
        let device = Device::new();
        device.module("dump", FINE);
        install(&device.paths, usual().as_slice(), None, None).unwrap();
        device.calls();
        let record = Record::load(&device.paths).unwrap().unwrap();
        let booted = matches!(state, State::Reboot | State::VerifyReboot).then(|| "another boot".to_owned());
        let failed = matches!(state, State::Rollback | State::Failure).then(|| "before".to_owned());
        let reboot = if booted.is_some() { super::Reboot::Yes } else { super::Reboot::No };
        let lasts = state == State::CommitLeave;
        Record { state, boot: booted, failed, reboot, lasts, ..record }.save(&device.paths).unwrap();
        let outcome = resume(&device.paths).unwrap().unwrap();
        assert_eq!(device.calls(), expected, "{state:?}");
        match state {
            State::Reboot | State::Waiting => assert_eq!(outcome, Outcome::Waiting),
            State::CommitLeave => assert_eq!(outcome, Outcome::Lasts),
            _ => {
                assert!(matches!(outcome, Outcome::Back { inconsistent: false, .. }), "{state:?} {outcome:?}")
            }
        }
        assert_eq!(device.name(), if lasts { "new" } else { "old" }, "{state:?}");
        assert!(device.is_clean() || outcome == Outcome::Waiting);
        let again = resume(&device.paths).unwrap();
        assert_eq!(again.is_some(), outcome == Outcome::Waiting);
    }
}

#[test]
fn a_reboot_is_waited_for_and_looked_at_afterwards() {
    let device = Device::new();
    device
        .module("dump", "case $1 in SupportsRollback) echo Yes;; NeedsArtifactReboot) echo Automatic;; esac");
    assert_eq!(install(&device.paths, usual().as_slice(), None, None).unwrap(), Outcome::Reboots);
    assert!(commit(&device.paths).unwrap_err().to_string().contains("boot"));
    assert_eq!(resume(&device.paths).unwrap(), Some(Outcome::Reboots), "it is the same boot still");
    // Without a boot there is none to be made up for.
    device.calls();
    assert!(matches!(roll_back(&device.paths).unwrap(), Outcome::Back { why: None, .. }));
    assert_eq!(device.calls(), ["ArtifactRollback", "Cleanup"]);
    install(&device.paths, usual().as_slice(), None, None).unwrap();
    device.calls();
    let reboot = || {
        let record = Record::load(&device.paths).unwrap().unwrap();
        Record { boot: Some("another".into()), ..record }.save(&device.paths).unwrap();
    };
    reboot();
    assert_eq!(resume(&device.paths).unwrap(), Some(Outcome::Waiting));
    assert_eq!(device.calls(), ["ArtifactVerifyReboot"]);
    assert_eq!(roll_back(&device.paths).unwrap(), Outcome::Reboots, "the way back takes a boot too");
    assert_eq!(device.calls(), ["ArtifactRollback"]);
    reboot();
    assert!(matches!(resume(&device.paths).unwrap(), Some(Outcome::Back { inconsistent: false, .. })));
    assert_eq!(device.calls(), ["ArtifactVerifyRollbackReboot", "Cleanup"]);
}

#[test]
fn scripts_of_the_artifact_run_around_the_module() {
    let device = Device::new();
    device.module("dump", "case $1 in SupportsRollback) echo Yes;; ArtifactCommit) exit 1;; esac");
    let script = |name: &str| Script {
        name: format!("{name}_00"),
        content: format!("#!/bin/sh\necho {name} >> {}\n", device.at("calls").display()).into_bytes(),
    };
    let scripts = [
        "ArtifactInstall_Enter",
        "ArtifactInstall_Leave",
        "ArtifactCommit_Enter",
        "ArtifactCommit_Error",
        "ArtifactRollback_Enter",
        "ArtifactFailure_Leave",
    ]
    .map(script);
    let bytes = artifact("dump", &[("a", b"x")], scripts.into());
    install(&device.paths, bytes.as_slice(), None, None).unwrap();
    assert!(matches!(commit(&device.paths).unwrap(), Outcome::Back { .. }));
    let calls = device.calls();
    let expected = [
        "ProvidePayloadFileSizes",
        "Download",
        "SupportsRollback",
        "ArtifactInstall_Enter",
        "ArtifactInstall",
        "ArtifactInstall_Leave",
        "NeedsArtifactReboot",
        "ArtifactCommit_Enter",
        "ArtifactCommit",
        "ArtifactCommit_Error",
        "ArtifactRollback_Enter",
        "ArtifactRollback",
        "ArtifactFailure",
        "ArtifactFailure_Leave",
        "Cleanup",
    ];
    assert_eq!(calls, expected);
}

#[test]
fn what_lasts_under_a_name_is_not_installed_again() {
    let device = Device::new();
    device.module("dump", FINE);
    let bytes = usual();
    let mut running = crate::slots::hash::Running::default();
    running.update(&bytes);
    let digest = Some(running.finish());
    assert_eq!(install(&device.paths, bytes.as_slice(), digest, Some("app")).unwrap(), Outcome::Waiting);
    assert_eq!(commit(&device.paths).unwrap(), Outcome::Lasts);
    device.calls();
    assert_eq!(install(&device.paths, bytes.as_slice(), digest, Some("app")).unwrap(), Outcome::Lasts);
    assert!(device.calls().is_empty());
    assert_eq!(undo_change(&device.paths, "0000000001", "why").unwrap(), None);
}

/// The modules of Debian's mender-client, if it is there, or where `VOLARY_MENDER_MODULES` says.
fn shipped() -> Option<PathBuf> {
    let named = std::env::var_os("VOLARY_MENDER_MODULES").map(PathBuf::from);
    named.or_else(|| Some("/usr/share/mender/modules/v3".into())).filter(|folder| folder.is_dir())
}

#[test]
#[ignore = "needs the update modules of Debian's mender-client; VOLARY_MENDER_MODULES names their folder"]
fn modules_that_exist_run() {
    let shipped = shipped().expect("VOLARY_MENDER_MODULES names no folder");
    let device = Device::new();
    let folder = &device.paths.module_folders()[1];
    fs::create_dir_all(folder).unwrap();
    for name in ["single-file", "directory", "script"] {
        fs::copy(shipped.join(name), folder.join(name)).unwrap();
    }
    let to = device.at("app");
    let to_text = to.to_str().unwrap();
    let single = |content: &[u8]| {
        artifact(
            "single-file",
            &[
                ("dest_dir", to_text.as_bytes()),
                ("filename", b"app.conf"),
                ("permissions", b"640"),
                ("app.conf", content),
            ],
            Vec::new(),
        )
    };
    let there = || fs::read_to_string(to.join("app.conf")).unwrap_or_default();
    install(&device.paths, single(b"one").as_slice(), None, None).unwrap();
    assert_eq!((commit(&device.paths).unwrap(), there().as_str()), (Outcome::Lasts, "one"));
    assert_eq!(fs::metadata(to.join("app.conf")).unwrap().permissions().mode() & 0o777, 0o640);
    install(&device.paths, single(b"two").as_slice(), None, None).unwrap();
    assert_eq!(there(), "two");
    roll_back(&device.paths).unwrap();
    assert_eq!(there(), "one");

    // The directory module takes a tar.
    let tar = |content: &str| {
        let source = tempfile::tempdir().unwrap();
        fs::write(source.path().join("index.html"), content).unwrap();
        let packed =
            volary_host::Cmd::new("tar").args(["-cf", "-", "-C"]).arg(source.path()).arg(".").check();
        packed.unwrap().stdout
    };
    let www = device.at("www");
    let directory = |content: &str| {
        let tar = tar(content);
        let files: [(&str, &[u8]); 2] =
            [("dest_dir", www.to_str().unwrap().as_bytes()), ("update.tar", &tar)];
        artifact("directory", &files, Vec::new())
    };
    let there = || fs::read_to_string(www.join("index.html")).unwrap_or_default();
    install(&device.paths, directory("one").as_slice(), None, None).unwrap();
    commit(&device.paths).unwrap();
    install(&device.paths, directory("two").as_slice(), None, None).unwrap();
    assert_eq!(there(), "two");
    roll_back(&device.paths).unwrap();
    assert_eq!(there(), "one");

    // A script that fails: its module cannot roll back.
    let script = |text: &str| artifact("script", &[("run", text.as_bytes())], Vec::new());
    let mark = device.at("mark");
    let good = script(&format!("#!/bin/sh\ntouch {}\n", mark.display()));
    install(&device.paths, good.as_slice(), None, None).unwrap();
    assert!(mark.exists());
    commit(&device.paths).unwrap();
    let outcome =
        install(&device.paths, script("#!/bin/sh\necho no room >&2\nexit 1\n").as_slice(), None, None);
    assert!(
        matches!(&outcome.unwrap(), Outcome::Back { why: Some(why), inconsistent: true } if why.contains("no room"))
    );
    assert_eq!(device.name(), "new_INCONSISTENT");
    let _: BTreeMap<String, String> = record::provides(&device.paths).unwrap();
}
