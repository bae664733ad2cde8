//! What comes into the archive, and what is refused with which reason.

mod common;

use std::path::PathBuf;

use common::{Lab, now};
use volary_archive::{Provenance, UploadPolicy};
use volary_host::Cmd;

/// Everything that lies in the served tree and the journal, to see that a refusal changes nothing.
fn snapshot(lab: &Lab) -> String {
    let find = "find . -path ./lock -prune -o -type f -printf '%p %s %T@\\n' | sort";
    Cmd::new("sh").args(["-c", find]).cwd(lab.path()).run().unwrap().text()
}

fn refused(lab: &Lab, files: &[PathBuf], policy: &UploadPolicy, expected: &str) {
    let before = snapshot(lab);
    let error = lab.archive.include(files, &Provenance::default(), policy, now()).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
    assert!(error.contains(" is refused: "), "{error}");
    assert_eq!(snapshot(lab), before, "nothing changes");
}

fn write(lab: &Lab, name: &str, bytes: &[u8]) -> PathBuf {
    let path = lab.dir.path().join(name);
    volary_host::write_atomic(&path, bytes, 0o644).unwrap();
    path
}

#[test]
fn the_same_file_again_is_fine() {
    let lab = Lab::new();
    let deb = lab.deb("hello", "1.0", "amd64", "");
    assert_eq!(lab.include(std::slice::from_ref(&deb)).unwrap().added.len(), 1);
    let before = snapshot(&lab);
    let again = lab.include(&[deb.clone(), deb]).unwrap();
    assert_eq!((again.added.len(), again.known.len()), (0, 2));
    assert_eq!(snapshot(&lab), before);
}

/// Gives files to the archive, and says what of them is left.
fn give(lab: &Lab, files: &[PathBuf]) -> Vec<PathBuf> {
    let given = lab.archive.include_own(files, &Provenance::default(), &UploadPolicy::AllowUnsigned, now());
    given.unwrap();
    files.iter().filter(|file| file.exists()).cloned().collect()
}

/// The file of a package in the pool, as its index names it.
fn pooled(lab: &Lab, name: &str) -> PathBuf {
    let entries = lab.archive.packages(&"rolling".parse().unwrap()).unwrap();
    let entry = entries.iter().find(|entry| entry.name.as_str() == name).unwrap();
    lab.archive.public_dir().join(entry.filename())
}

#[test]
fn files_that_are_given_are_moved_and_whole() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let lab = Lab::new();
    let deb = lab.deb("hello", "1.0", "amd64", "");
    let bytes = volary_host::read(&deb).unwrap();
    std::fs::set_permissions(&deb, std::fs::Permissions::from_mode(0o600)).unwrap();
    let inode = std::fs::metadata(&deb).unwrap().ino();
    // Named twice, it is still one file.
    assert!(give(&lab, &[deb.clone(), deb]).is_empty());
    let meta = std::fs::metadata(pooled(&lab, "hello")).unwrap();
    assert_eq!((meta.ino(), meta.mode() & 0o777), (inode, 0o644), "it is the same file, and can be served");
    assert_eq!(volary_host::read(&pooled(&lab, "hello")).unwrap(), bytes);
    // What a `.changes` names is moved as well.
    let other = lab.deb("other", "1.0", "amd64", "");
    assert_eq!(give(&lab, &[changes(&lab, &[&other], |text| text)]).len(), 1);
    assert!(!other.exists() && pooled(&lab, "other").exists());
}

#[test]
fn files_that_have_another_way_to_them_are_copied() {
    let lab = Lab::new();
    let [linked, pointed] = ["linked", "pointed"].map(|name| lab.deb(name, "1.0", "amd64", ""));
    let second = lab.dir.path().join("second.deb");
    std::fs::hard_link(&linked, &second).unwrap();
    let pointer = lab.dir.path().join("pointer.deb");
    std::os::unix::fs::symlink(&pointed, &pointer).unwrap();
    let files = [linked.clone(), pointer];
    assert_eq!(give(&lab, &files), files, "nothing is moved");
    for (name, original) in [("linked", &second), ("pointed", &pointed)] {
        let before = volary_host::read(&pooled(&lab, name)).unwrap();
        std::fs::OpenOptions::new().write(true).open(original).unwrap().set_len(1).unwrap();
        assert_eq!(volary_host::read(&pooled(&lab, name)).unwrap(), before);
    }
}

#[test]
fn what_is_wrong_is_refused_with_the_reason() {
    let lab = Lab::new();
    lab.add("hello", "2.0", "amd64", "");
    let check = |files: &[PathBuf], expected: &str| refused(&lab, files, &UploadPolicy::Refuse, expected);
    let good = lab.deb("other", "1.0", "amd64", "");
    let changed = lab.deb("hello", "2.0", "amd64", "Section: misc\n");
    check(&[good.clone(), changed], "hello 2.0 (amd64) is in the archive with other content");
    check(
        &[good.clone(), lab.deb("hello", "1.9", "amd64", "")],
        "hello 1.9 (amd64) is older than 2.0 in rolling",
    );
    check(
        &[good.clone(), lab.deb("hello", "3.0", "riscv64", "")],
        "riscv64 is not one of this archive's (amd64, arm64, all)",
    );
    check(&[good.clone(), write(&lab, "garbage.deb", b"garbage")], "does not begin with \"!<arch>\"");
    let whole = volary_host::read(&good).unwrap();
    check(&[write(&lab, "cut.deb", &whole[..whole.len() - 600])], "it is cut off");
    check(&[good.clone(), write(&lab, "notes.txt", b"hello")], "neither a .deb nor a .changes");
    check(&[good.clone(), lab.dir.path().join("missing.deb")], "No such file");
    check(&[good.clone(), lab.deb("other", "1.0", "amd64", "Section: misc\n")], "with other content");
    assert_eq!(lab.list("rolling"), ["hello 2.0 (amd64)"]);
    lab.include(&[good]).unwrap();
}

/// Makes a .changes for packages that lie beside it.
fn changes(lab: &Lab, debs: &[&PathBuf], change: impl Fn(String) -> String) -> PathBuf {
    let mut sums = String::new();
    for deb in debs {
        let sum = Cmd::new("sha256sum").arg(deb).run().unwrap().text();
        let size = std::fs::metadata(deb).unwrap().len();
        let name = deb.file_name().unwrap().to_str().unwrap();
        sums += &format!(" {} {size} {name}\n", sum.split(' ').next().unwrap());
    }
    let text = format!("Format: 1.8\nSource: hello\nVersion: 1.0\nChecksums-Sha256:\n{sums}");
    write(lab, "hello.changes", change(text).as_bytes())
}

#[test]
fn a_changes_file_brings_what_it_names() {
    let lab = Lab::new();
    let (a, b) =
        (lab.deb("hello", "1.0", "amd64", ""), lab.deb("hello-doc", "1.0", "all", "Source: hello\n"));
    let upload = changes(&lab, &[&a, &b], |text| text);
    refused(
        &lab,
        std::slice::from_ref(&upload),
        &UploadPolicy::Refuse,
        "it is not signed, and this archive takes only signed uploads",
    );
    let included =
        lab.archive.include(&[upload], &Provenance::default(), &UploadPolicy::AllowUnsigned, now()).unwrap();
    assert_eq!(included.added.len(), 2);
    assert!(included.added.iter().all(|entry| entry.source.as_str() == "hello"));
}

#[test]
fn a_changes_file_that_lies_is_refused() {
    let lab = Lab::new();
    let deb = lab.deb("hello", "1.0", "amd64", "");
    let check = |change: &dyn Fn(String) -> String, expected: &str| {
        let upload = changes(&lab, &[&deb], change);
        refused(&lab, &[upload], &UploadPolicy::AllowUnsigned, expected);
    };
    let size = std::fs::metadata(&deb).unwrap().len();
    check(&|text| text.replace(&format!(" {size} "), " 17 "), "has size 17, but it has");
    let sum = Cmd::new("sha256sum").arg(&deb).run().unwrap().text()[..64].to_owned();
    check(&|text| text.replace(&sum, &"0".repeat(64)), "has SHA-256 0000");
    check(&|text| text.replace("hello_1.0", "hullo_1.0"), "which is not beside it");
    check(&|text| text.replace("hello_1.0", "../hello_1.0"), "is not a plain file name");
    check(&|text| text.replace(".deb", ".txt"), "it names no .deb");
    check(&|_| "Source: hello\n".to_owned(), "the field Version is missing");
    check(&|_| "\u{1}".to_owned(), "control character");
}

#[test]
fn signed_uploads_are_checked_against_the_accepted_keys() {
    let lab = Lab::new();
    let deb = lab.deb("hello", "1.0", "amd64", "");
    let upload = changes(&lab, &[&deb], |text| text);
    let gpg = |home: &str, args: &[&str]| {
        let home = lab.dir.path().join(home);
        std::fs::create_dir_all(&home).unwrap();
        Cmd::new("gpg")
            .args([
                "--batch",
                "--yes",
                "--quiet",
                "--pinentry-mode",
                "loopback",
                "--passphrase",
                "",
                "--homedir",
            ])
            .arg(home)
            .args(args)
            .check()
            .unwrap()
            .text()
    };
    for home in ["alice", "mallory"] {
        gpg(home, &["--quick-gen-key", &format!("{home}@example.com"), "ed25519", "sign", "never"]);
    }
    let signed = lab.dir.path().join("signed.changes");
    let sign = |home: &str| {
        gpg(home, &["--clearsign", "-o", signed.to_str().unwrap(), upload.to_str().unwrap()]);
    };
    let alice = UploadPolicy::Signed(vec![gpg("alice", &["--armor", "--export"])]);
    refused(&lab, std::slice::from_ref(&upload), &alice, "it is not signed");
    sign("mallory");
    refused(&lab, std::slice::from_ref(&signed), &alice, "not by a key that may upload here");
    sign("alice");
    let text = volary_host::read_to_string(&signed).unwrap();
    write(&lab, "signed.changes", text.replace("Version: 1.0", "Version: 1.1").as_bytes());
    refused(&lab, std::slice::from_ref(&signed), &alice, "not by a key that may upload here");
    write(&lab, "signed.changes", format!("Evil: yes\n{text}").as_bytes());
    refused(&lab, std::slice::from_ref(&signed), &alice, "text outside of the signed part");
    write(&lab, "signed.changes", text.as_bytes());
    lab.archive.include(&[signed], &Provenance::default(), &alice, now()).unwrap();
    // gpg leaves its agents running.
    for home in ["alice", "mallory"] {
        let home = lab.dir.path().join(home);
        let _ = Cmd::new("gpgconf").arg("--homedir").arg(home).args(["--kill", "all"]).run();
    }
}

#[test]
fn provenance_is_kept_over_a_restart() {
    let lab = Lab::new();
    let provenance = Provenance {
        source: Some("hello".parse().unwrap()),
        commit: Some("0123456789abcdef0123456789abcdef01234567".parse().unwrap()),
        build: Some(7),
        note: Some("by hand".to_owned()),
    };
    let deb = lab.deb("hello", "1.0", "amd64", "");
    lab.archive.include(&[deb], &provenance, &UploadPolicy::Refuse, now()).unwrap();
    let again = volary_archive::Archive::open(&lab.path()).unwrap();
    let packages = again.packages(&"rolling".parse().unwrap()).unwrap();
    assert_eq!(*packages[0].provenance, provenance);
    assert_eq!(again.public_key(), lab.archive.public_key());
}

#[test]
fn rolling_offers_the_newest_of_each_architecture() {
    let lab = Lab::new();
    lab.add("hello", "1.0", "amd64", "");
    lab.add("hello", "1.0", "arm64", "");
    lab.add("hello", "1.1", "arm64", "");
    assert_eq!(lab.list("rolling"), ["hello 1.0 (amd64)", "hello 1.1 (arm64)"]);
    lab.add("hello", "2.0", "all", "");
    assert_eq!(lab.list("rolling"), ["hello 2.0 (all)"]);
    let versions = lab.archive.versions(&"hello".parse().unwrap()).unwrap();
    assert_eq!(versions.len(), 4);
}

/// From how many earlier states rolling's index of amd64 can be reached by differences.
fn offered(lab: &Lab) -> usize {
    let dists = lab.archive.public_dir().join("dists/rolling");
    let release = volary_host::read_to_string(&dists.join("InRelease")).unwrap();
    let diff = "main/binary-amd64/Packages.diff";
    let listed = release.lines().find(|line| line.ends_with(&format!(" {diff}/Index")));
    let Some(sha256) = listed.and_then(|line| line.split_whitespace().next()) else { return 0 };
    let text = volary_host::read_to_string(&dists.join(format!("{diff}/by-hash/SHA256/{sha256}"))).unwrap();
    // Each earlier state from which a device can come stands once in the history.
    let history = text.lines().skip_while(|line| !line.starts_with("SHA256-History:")).skip(1);
    history.take_while(|line| line.starts_with(' ')).count()
}

#[test]
fn differences_that_are_not_worth_it_are_left_out() {
    let lab = Lab::new();
    let offered = || offered(&lab);
    lab.add("hello", "1.0", "amd64", "");
    lab.add("hello", "1.1", "amd64", "");
    assert_eq!(offered(), 1);
    // More text than a difference may have comes in at once.
    let large = format!("X-Large: {}\n", "x".repeat(100 << 10));
    let files: Vec<_> =
        (0..3).map(|number| lab.deb(&format!("large{number}"), "1.0", "amd64", &large)).collect();
    lab.include(&files).unwrap();
    assert_eq!(offered(), 0);
    lab.add("hello", "1.2", "amd64", "");
    assert_eq!(offered(), 1, "from the state before, not from those before the large import");
}

/// apt 3.0 prints an error if it does not find the state that it holds, and who updates while
/// publishes come back to back may be many behind.
#[test]
fn differences_lead_from_each_state_of_the_last_seconds_and_from_few_older_ones() {
    let lab = Lab::new();
    let debs: Vec<_> =
        (0..40).map(|number| lab.deb(&format!("package-{number:02}"), "1.0", "amd64", "")).collect();
    lab.include(&debs).unwrap();
    let begun = now() + jiff::SignedDuration::from_mins(10);
    let publish = |number: i64, seconds: i64| {
        let deb = lab.deb("hello", &format!("1.{number}"), "amd64", "");
        let at = begun + jiff::SignedDuration::from_secs(seconds);
        lab.archive.include(&[deb], &Provenance::default(), &UploadPolicy::Refuse, at).unwrap();
        offered(&lab)
    };
    let seconds = |number: i64| number / 2;
    let burst: Vec<usize> = (0..9).map(|number| publish(number, seconds(number))).collect();
    assert_eq!(burst, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let slow: Vec<usize> = (9..12).map(|number| publish(number, 60 * number)).collect();
    assert_eq!(slow, [4, 4, 4]);
    // Another process makes the same of them.
    let again = volary_archive::Archive::open(&lab.path()).unwrap();
    assert_eq!(again.check(true, now()).unwrap().problems, [""; 0]);
    assert_eq!(offered(&lab), 4);
}
