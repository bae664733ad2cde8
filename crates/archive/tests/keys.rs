//! The archive's keys: rotation as real apt, gpgv and sqv see it, signers that are commands, and
//! power cuts in between.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{Apt, Http, Lab, now};
use volary_archive::{Archive, Error, KeyInfo, NewKey, Others, SignerCommand, Signers};
use volary_host::Cmd;

const SUITES: [&str; 2] = ["rolling", "v1/r1"];

fn lab() -> Lab {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    lab.archive.cut(&"v1".parse().unwrap(), now()).unwrap();
    lab
}

fn rotate(archive: &Archive) -> KeyInfo {
    archive.add_key(&NewKey::Generate, Others::Leave, now()).unwrap()
}

fn keys(archive: &Archive) -> Vec<KeyInfo> {
    archive.keys().unwrap().keys
}

fn inrelease(dir: &Path, suite: &str) -> PathBuf {
    dir.join("public/dists").join(suite).join("InRelease")
}

fn assert_whole(archive: &Archive) {
    assert_eq!(archive.check(true, now()).unwrap().problems, Vec::<String>::new());
}

#[test]
fn devices_with_either_key_go_on_through_a_rotation() {
    let lab = lab();
    let http = Http::new(lab.archive.public_dir());
    let old = keys(&lab.archive)[0].public.clone();
    let early = SUITES.map(|suite| Apt::new(&http.uri, suite, &old));
    early.iter().for_each(|apt| drop(apt.update()));

    let new = rotate(&lab.archive).public;
    let both = lab.archive.public_key();
    let during: Vec<Apt> = [&old, &new, &both]
        .into_iter()
        .flat_map(|key| SUITES.map(|suite| Apt::new(&http.uri, suite, key)))
        .collect();
    for apt in early.iter().chain(&during) {
        apt.update();
        assert_eq!(apt.candidate("hello"), "1.0");
    }
    lab.add("hello", "1.1", "amd64", "");
    let rolling = [&early[0], &during[0], &during[2], &during[4]];
    for apt in rolling {
        apt.update();
        assert_eq!(apt.candidate("hello"), "1.1");
    }
    assert_whole(&lab.archive);

    assert_eq!(lab.archive.retire_keys(None, now()).unwrap().len(), 1);
    lab.add("hello", "1.2", "amd64", "");
    for apt in &during[2..] {
        apt.update();
    }
    assert_eq!(
        (during[2].candidate("hello").as_str(), during[4].candidate("hello").as_str()),
        ("1.2", "1.2")
    );
    // The one that never got the new key: apt warns, and keeps what it has.
    let output = early[0].run("apt-get", &["update"]);
    let said = output.text() + &String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("NO_PUBKEY") || said.contains("Missing key"), "{said}");
    assert_eq!(early[0].candidate("hello"), "1.1");
    assert_whole(&lab.archive);
    // The new key alone is what is given out now.
    assert_eq!(lab.archive.public_key(), new);
    assert_eq!(volary_host::read_to_string(&lab.archive.public_dir().join("archive.asc")).unwrap(), new);
}

/// The text of a clearsigned file, with the line ends that were signed, and the signature.
fn split(inrelease: &Path, to: &Path) -> [PathBuf; 2] {
    let text = volary_host::read_to_string(inrelease).unwrap();
    let (_, text) = text.split_once("\n\n").unwrap();
    let (text, signature) = text.split_once("\n-----BEGIN PGP SIGNATURE-----").unwrap();
    let paths = [to.join("signature.asc"), to.join("text")];
    let signature = format!("-----BEGIN PGP SIGNATURE-----{signature}");
    volary_host::write_atomic(&paths[0], signature.as_bytes(), 0o644).unwrap();
    volary_host::write_atomic(&paths[1], text.replace('\n', "\r\n").as_bytes(), 0o644).unwrap();
    paths
}

#[test]
fn sqv_and_gpgv_accept_both_signatures() {
    let lab = lab();
    let first = keys(&lab.archive)[0].clone();
    let second = lab.archive.add_key(&NewKey::Generate, Others::Stay, now()).unwrap();
    assert_eq!(keys(&lab.archive).iter().filter(|key| key.leaving.is_some()).count(), 0);
    for suite in SUITES {
        let file = inrelease(&lab.path(), suite);
        let [signature, text] = split(&file, lab.dir.path());
        for (name, key) in [("first", &first.public), ("second", &second.public)] {
            let keyring = lab.dir.path().join(format!("{name}.asc"));
            volary_host::write_atomic(&keyring, key.as_bytes(), 0o644).unwrap();
            let sqv = Cmd::new("sqv").arg("--keyring").args([&keyring, &signature, &text]);
            sqv.check().unwrap();
            let binary = lab.dir.path().join(format!("{name}.gpg"));
            let dearmor = Cmd::new("gpg").args(["--batch", "--yes", "--homedir"]).arg(lab.dir.path());
            dearmor.args(["--dearmor", "-o"]).arg(&binary).stdin(key.as_bytes()).check().unwrap();
            let output =
                Cmd::new("gpgv").args(["--status-fd", "1", "--keyring"]).args([&binary, &file]).run();
            let said = output.unwrap().text();
            assert!(said.contains("VALIDSIG"), "{said}");
        }
        let both = lab.dir.path().join("both.asc");
        volary_host::write_atomic(&both, lab.archive.public_key().as_bytes(), 0o644).unwrap();
        let sqv = Cmd::new("sqv").args(["--signatures", "2", "--keyring"]).args([&both, &signature, &text]);
        assert_eq!(sqv.check().unwrap().text().lines().count(), 2);
    }
}

#[test]
fn a_rotation_that_was_cut_off_is_finished() {
    let lab = lab();
    let json = lab.path().join("keys/keys.json");
    let before = SUITES.map(|suite| volary_host::read(&inrelease(&lab.path(), suite)).unwrap());
    let old_json = volary_host::read(&json).unwrap();
    rotate(&lab.archive);
    let done = volary_host::read_to_string(&json).unwrap();
    let cut = |json_text: &[u8], signed: usize| {
        volary_host::write_atomic(&json, json_text, 0o600).unwrap();
        for (suite, old) in SUITES.iter().zip(&before).skip(signed) {
            volary_host::write_atomic(&inrelease(&lab.path(), suite), old, 0o644).unwrap();
        }
    };
    let unfinished = done.replace("\"signed\": 1", "\"signed\": 0");
    assert_ne!(unfinished, done);
    for signed in 0..=SUITES.len() {
        cut(unfinished.as_bytes(), signed);
        let opened = Archive::open(&lab.path()).unwrap();
        assert_whole(&opened);
        assert_eq!((keys(&opened).len(), opened.keys().unwrap().all_signed), (2, true));
    }
    // A process that runs on finishes it too, at its next write.
    cut(unfinished.as_bytes(), 0);
    lab.add("hello", "1.1", "amd64", "");
    assert_whole(&lab.archive);
    // Before the new keys.json was there, nothing has happened.
    cut(&old_json, 0);
    let opened = Archive::open(&lab.path()).unwrap();
    assert_eq!(keys(&opened).len(), 1);
}

#[test]
fn another_process_signs_with_the_new_keys() {
    let lab = lab();
    let other = Archive::open(&lab.path()).unwrap();
    rotate(&other);
    lab.add("hello", "1.1", "amd64", "");
    assert_whole(&lab.archive);
    assert_whole(&other);
    assert_eq!(lab.archive.public_key(), other.public_key());
}

#[test]
fn a_rotation_ends_once_and_can_be_taken_back() {
    let lab = lab();
    let refused = |fingerprint: Option<&str>, expected: &str| {
        let error = lab.archive.retire_keys(fingerprint, now()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    refused(None, "no key leaves");
    let first = keys(&lab.archive)[0].fingerprint.clone();
    refused(Some(&first), "the only key that signs");
    let second = rotate(&lab.archive).fingerprint;
    let again = lab.archive.add_key(&NewKey::Generate, Others::Leave, now()).unwrap_err().to_string();
    assert!(again.contains("a rotation is under way"), "{again}");
    lab.archive.retire_keys(Some(&second), now()).unwrap();
    assert_eq!(keys(&lab.archive).iter().map(|key| key.leaving).collect::<Vec<_>>(), [None]);
    assert_whole(&lab.archive);
    let third = rotate(&lab.archive).fingerprint;
    lab.archive.retire_keys(None, now()).unwrap();
    assert_eq!(keys(&lab.archive)[0].fingerprint, third);
    let secrets = std::fs::read_dir(lab.path().join("keys")).unwrap().filter(|entry| {
        let name = entry.as_ref().unwrap().file_name().into_string().unwrap();
        name.ends_with(".asc") && !name.ends_with(".pub.asc")
    });
    assert_eq!(secrets.count(), 1, "secret parts of retired keys are gone");
    assert_eq!(lab.archive.keys().unwrap().retired.len(), 2);
}

/// A key in a GnuPG home, as one on a card would be: we never see its secret part.
struct Gpg(tempfile::TempDir);

impl Gpg {
    fn new(algorithm: &str) -> Self {
        let gpg = Self(tempfile::tempdir().unwrap());
        let args =
            ["--passphrase", "", "--quick-gen-key", "Card <card@example.com>", algorithm, "sign", "never"];
        gpg.run(&args);
        gpg
    }

    fn run(&self, args: &[&str]) -> String {
        Cmd::new("gpg").args(["--batch", "--homedir"]).arg(self.0.path()).args(args).check().unwrap().text()
    }

    fn public(&self) -> String {
        self.run(&["--armor", "--export"])
    }

    fn signer(&self, args: &[&str]) -> SignerCommand {
        let home = self.0.path().display().to_string();
        let first = ["gpg", "--batch", "--homedir", &home];
        command(&first.iter().chain(args).copied().collect::<Vec<_>>())
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let _ = Cmd::new("gpgconf").arg("--homedir").arg(self.0.path()).args(["--kill", "all"]).run();
    }
}

fn command(words: &[&str]) -> SignerCommand {
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    SignerCommand { command, timeout: Duration::from_secs(60) }
}

fn with_signer(lab: &Lab, signer: SignerCommand) -> Archive {
    Archive::open_with(&lab.path(), Signers::from([("card".to_owned(), signer)])).unwrap()
}

fn card(gpg: &Gpg) -> NewKey {
    NewKey::Command { signer: "card".to_owned(), public: gpg.public() }
}

#[test]
fn a_command_signs_for_a_key_that_lies_elsewhere() {
    for algorithm in ["ed25519", "rsa3072"] {
        let gpg = Gpg::new(algorithm);
        let forms: [&[&str]; 3] = [
            &["--digest-algo", "SHA512", "--clearsign"],
            &["--digest-algo", "SHA512", "--textmode", "--detach-sign", "--armor"],
            &["--digest-algo", "SHA512", "--textmode", "--detach-sign"],
        ];
        for form in forms {
            let lab = lab();
            let archive = with_signer(&lab, gpg.signer(form));
            let key = archive.add_key(&card(&gpg), Others::Leave, now()).unwrap();
            assert_eq!(
                (key.user_id.as_str(), key.signer.as_deref()),
                ("Card <card@example.com>", Some("card"))
            );
            archive.retire_keys(None, now()).unwrap();
            let deb = lab.deb("hello", "1.1", "amd64", "");
            archive
                .include(&[deb], &Default::default(), &volary_archive::UploadPolicy::Refuse, now())
                .unwrap();
            assert_whole(&archive);
            let http = Http::new(archive.public_dir());
            for suite in SUITES {
                Apt::new(&http.uri, suite, archive.public_key()).update();
            }
        }
    }
}

#[test]
fn a_signer_that_fails_leaves_the_old_suite() {
    let (gpg, other) = (Gpg::new("ed25519"), Gpg::new("ed25519"));
    let lab = lab();
    let good = gpg.signer(&["--clearsign"]);
    let before = volary_host::read(&inrelease(&lab.path(), "rolling")).unwrap();
    let bad: [(SignerCommand, &str); 8] = [
        (
            SignerCommand { timeout: Duration::from_secs(1), ..command(&["sleep", "600"]) },
            "did not end within 1 s",
        ),
        (command(&["sh", "-c", "echo no card >&2; exit 3"]), "no card"),
        (command(&["echo", "hello"]), "no OpenPGP signature but \"hello"),
        (command(&["true"]), "no OpenPGP signature"),
        (command(&["/nowhere/sign"]), "cannot run /nowhere/sign"),
        (other.signer(&["--clearsign"]), "is another key used?"),
        (gpg.signer(&["--armor", "--detach-sign"]), "--textmode"),
        (
            command(&[
                "sh",
                "-c",
                "sed s/Test/Tost/ | gpg --batch --homedir \"$0\" --clearsign",
                &gpg.0.path().display().to_string(),
            ]),
            "another text",
        ),
    ];
    // A key that does not sign is not taken.
    for (signer, expected) in &bad {
        let archive = with_signer(&lab, signer.clone());
        let error = archive.add_key(&card(&gpg), Others::Leave, now()).unwrap_err().to_string();
        assert!(error.contains(expected), "{expected}: {error}");
        assert_eq!(keys(&archive).len(), 1);
    }
    let archive = with_signer(&lab, good);
    archive.add_key(&card(&gpg), Others::Stay, now()).unwrap();
    assert_ne!(volary_host::read(&inrelease(&lab.path(), "rolling")).unwrap(), before);
    let signed = volary_host::read(&inrelease(&lab.path(), "rolling")).unwrap();
    // One that worked once and fails now stops the publish, and nothing else.
    for (signer, expected) in &bad {
        let archive = with_signer(&lab, signer.clone());
        let deb = lab.deb("hello", "1.1", "amd64", "");
        let include = |archive: &Archive| {
            archive.include(
                std::slice::from_ref(&deb),
                &Default::default(),
                &volary_archive::UploadPolicy::Refuse,
                now(),
            )
        };
        let error = include(&archive).unwrap_err();
        assert!(matches!(error, Error::Signer { .. }) && error.to_string().contains(expected), "{error}");
        assert_eq!(volary_host::read(&inrelease(&lab.path(), "rolling")).unwrap(), signed, "{expected}");
        assert_eq!(lab.list("rolling"), ["hello 1.0 (amd64)"]);
    }
    // Without the command's name the archive opens, and says what is missing.
    let archive = Archive::open(&lab.path()).unwrap();
    let error = archive.cut(&"v2".parse().unwrap(), now()).unwrap_err().to_string();
    assert!(error.contains("[signers.card]"), "{error}");
    // The way out of a broken card.
    let broken = keys(&archive)[1].fingerprint.clone();
    archive.retire_keys(Some(&broken), now()).unwrap();
    archive.cut(&"v2".parse().unwrap(), now()).unwrap();
    assert_whole(&archive);
}

#[test]
fn keys_that_devices_cannot_use_are_refused() {
    let lab = lab();
    for (algorithm, expected) in [
        ("rsa1024", "below 2048 bits"),
        ("brainpoolP256r1", ""),
        ("dsa2048", "RSA keys only"),
        ("secp256k1", "RSA keys only"),
    ] {
        let gpg = Gpg::new(algorithm);
        let archive = with_signer(&lab, gpg.signer(&["--clearsign"]));
        let error = archive.add_key(&card(&gpg), Others::Leave, now()).unwrap_err().to_string();
        assert!(error.contains("cannot be used") && error.contains(expected), "{algorithm}: {error}");
    }
    let unknown = NewKey::Command { signer: "other".to_owned(), public: String::new() };
    let error = lab.archive.add_key(&unknown, Others::Leave, now()).unwrap_err().to_string();
    assert!(error.contains("there is no signer \"other\""), "{error}");
    // A secret key that somebody brings.
    let gpg = Gpg::new("ed25519");
    let secret = gpg.run(&["--armor", "--export-secret-keys"]);
    lab.archive.add_key(&NewKey::Secret(secret), Others::Leave, now()).unwrap();
    lab.archive.retire_keys(None, now()).unwrap();
    lab.add("hello", "1.1", "amd64", "");
    assert_whole(&lab.archive);
}
