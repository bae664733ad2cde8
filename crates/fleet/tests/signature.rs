//! Our verdict on a commit's signature is that of `git verify-commit`.

mod support;

use support::Fleet;
use volary_fleet::{
    AllowedSigners, MemoryObjects, Object, ObjectId, ObjectKind, ObjectSource, ReadObjects, SIGNERS_FILE,
    SignatureError, verify_commit,
};
use volary_model::CommitId;

/// Judges `HEAD` by the signers in the work tree, both ways; panics if the two differ.
fn judge(fleet: &Fleet) -> Result<String, SignatureError> {
    judge_commit(fleet, &fleet.tip("HEAD"))
}

fn judge_commit(fleet: &Fleet, commit: &CommitId) -> Result<String, SignatureError> {
    let git = fleet.command().args(["verify-commit", commit.as_str()]).run().unwrap();
    let text = volary_host::read_to_string(&fleet.work().join(SIGNERS_FILE)).unwrap();
    let allowed = AllowedSigners::parse(&text).unwrap();
    let ours = verify_commit(&fleet.repository().commit(commit).unwrap(), &allowed);
    let said = String::from_utf8_lossy(&git.stderr);
    assert_eq!(git.status.success(), ours.is_ok(), "git: {said}\nours: {ours:?}");
    ours.map(|signer| {
        assert!(said.contains(&signer.fingerprint), "{said}");
        signer.name().to_owned()
    })
}

#[test]
fn each_kind_of_key_is_verified() {
    let kinds: [(&str, &[&str]); 4] = [
        ("ed", &["-t", "ed25519"]),
        ("ecdsa", &["-t", "ecdsa", "-b", "256"]),
        ("rsa", &["-t", "rsa", "-b", "2048"]),
        ("rsa3", &["-t", "rsa", "-b", "3072"]),
    ];
    let fleet = Fleet::empty();
    for (name, kind) in kinds {
        fleet.new_key(name, kind);
        fleet.write(SIGNERS_FILE, &fleet.signer_line(name, ""));
        fleet.commit(name, "One\n\nWith a body, a ü and\n\ntrailing lines\n\n");
        assert_eq!(judge(&fleet).unwrap(), format!("{name}@example.com"));
    }
}

#[test]
fn unsigned_and_foreign_signatures_are_refused() {
    let fleet = Fleet::new();
    fleet.commit("", "Unsigned");
    assert_eq!(judge(&fleet), Err(SignatureError::Unsigned));
    fleet.commit("mallory", "By a stranger");
    assert!(matches!(judge(&fleet), Err(SignatureError::UnknownKey(_))));
}

#[test]
fn validity_is_judged_at_the_time_of_the_commit() {
    let fleet = Fleet::empty();
    let check = |options: &str, at: i64, good: bool| {
        fleet.write(SIGNERS_FILE, &fleet.signer_line("alice", options));
        fleet.at(at);
        fleet.commit("alice", "One");
        assert_eq!(judge(&fleet).is_ok(), good, "{options} at {at}");
    };
    // 2023-11-14T22:13:20Z
    check("valid-before=\"20231115Z\"", 1_700_000_000, true);
    check("valid-before=\"20231114Z\"", 1_700_000_000, false);
    check("valid-after=\"20231115Z\"", 1_700_000_000, false);
    check("valid-after=\"20231114221320Z\",valid-before=\"20231114221321Z\"", 1_700_000_000, true);
    check("valid-after=\"20231114221319Z\",valid-before=\"20231114221320Z\"", 1_700_000_000, true);
    check("valid-after=\"20231114221321Z\"", 1_700_000_000, false);
    check("valid-before=\"20231114221319Z\"", 1_700_000_000, false);
    check("namespaces=\"git\"", 1_700_000_000, true);
    check("namespaces=\"file,git\"", 1_700_000_000, true);
    check("namespaces=\"file\"", 1_700_000_000, false);
}

#[test]
fn a_second_line_of_the_same_key_counts() {
    let fleet = Fleet::empty();
    let lines = fleet.signer_line("alice", "valid-before=\"20200101Z\"") + &fleet.signer_line("alice", "");
    fleet.write(SIGNERS_FILE, &lines);
    fleet.commit("alice", "One");
    judge(&fleet).unwrap();
}

/// Puts a commit object with this content into the repository, whatever git thinks of it.
fn put(fleet: &Fleet, content: &[u8]) -> CommitId {
    let command = fleet.command().args(["hash-object", "-t", "commit", "-w", "--stdin", "--literally"]);
    command.stdin(content).check().unwrap().text().trim().parse().unwrap()
}

fn raw(fleet: &Fleet, commit: &CommitId) -> String {
    fleet.git(&["cat-file", "commit", commit.as_str()]).text()
}

#[test]
fn any_change_after_signing_is_found() {
    let fleet = Fleet::new();
    let head = fleet.commit("alice", "Sign this");
    let good = raw(&fleet, &head);
    let tree = fleet.git(&["rev-parse", "HEAD^{tree}"]).text();
    let other = fleet.git(&["rev-parse", "HEAD:group_vars"]).text();
    for changed in [
        good.replace("Sign this", "Sign that"),
        good.replace(tree.trim(), other.trim()),
        good.replace("Test <test@example.com>", "Alice <alice@example.com>"),
        format!("{good}\n"),
        good.replace("parent ", "parent 0123456789abcdef0123456789abcdef01234567\nparent "),
    ] {
        assert_ne!(changed, good);
        let commit = put(&fleet, changed.as_bytes());
        assert!(matches!(judge_commit(&fleet, &commit), Err(SignatureError::Tampered(_))));
    }
}

#[test]
fn a_signature_for_another_purpose_is_refused() {
    let fleet = Fleet::new();
    let unsigned = fleet.commit("", "For another purpose");
    let payload = raw(&fleet, &unsigned);
    let sign = |namespace: &str| {
        let signature = volary_host::Cmd::new("ssh-keygen")
            .args(["-Y", "sign", "-n", namespace, "-f"])
            .arg(fleet.key("alice"))
            .stdin(payload.as_bytes())
            .check()
            .unwrap();
        let header = signature.text().trim_end().replace('\n', "\n ");
        put(&fleet, payload.replacen("\n\n", &format!("\ngpgsig {header}\n\n"), 1).as_bytes())
    };
    assert_eq!(judge_commit(&fleet, &sign("git")).unwrap(), "alice@example.com");
    assert!(matches!(judge_commit(&fleet, &sign("file")), Err(SignatureError::Namespace(_))));
}

#[test]
fn every_flipped_byte_of_a_signature_is_refused() {
    let fleet = Fleet::new();
    let head = fleet.commit("alice", "Sign this");
    let allowed = AllowedSigners::parse(&fleet.signer_line("alice", "")).unwrap();
    let good = raw(&fleet, &head);
    let start = good.find("gpgsig").unwrap();
    let end = good.find("-----END").unwrap();
    for at in start..end {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'B' { b'C' } else { b'B' };
        let mut objects = MemoryObjects::default();
        let id = objects.insert(Object { kind: ObjectKind::Commit, data: bytes }).unwrap();
        let accepted = objects
            .commit(&id.to_commit())
            .is_ok_and(|commit| commit.signed.is_some() && verify_commit(&commit, &allowed).is_ok());
        assert!(!accepted, "byte {at} of\n{good}");
    }
    assert!(objects_are_equal(&fleet, &head));
}

/// The bytes that the batch reader gives are those of git.
fn objects_are_equal(fleet: &Fleet, commit: &CommitId) -> bool {
    let id = ObjectId::from(commit);
    fleet.repository().load(&id).unwrap().unwrap().data == raw(fleet, commit).into_bytes()
}
