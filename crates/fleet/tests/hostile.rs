//! Whatever comes from others is read or refused; nothing panics and nothing is endless.

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};
use volary_fleet::{
    AllowedSigners, Commit, FleetConfig, FleetLock, MemoryObjects, ObjectId, PackLimits, RefUpdate, Tree,
    read_pack, verify_commit,
};

const COMMIT: &str = "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\n\
    parent e69de29bb2d1d6434b8b29ae775ad8c2e48c5391\n\
    author Ann <a@x> 1700000000 +0100\n\
    committer Bob B <b@x> 1700000001 -0030\n\
    gpgsig -----BEGIN SSH SIGNATURE-----\n \
    U1NIU0lHAAAAAQAAADMAAAALc3NoLWVkMjU1MTkAAAAg+5Ty3h7VFDAZHkmlWJKbqhPrsx\n \
    aqZeBpsF9a7oP7Ma4AAAADZ2l0AAAAAAAAAAZzaGE1MTIAAABTAAAAC3NzaC1lZDI1NTE5\n \
    AAAAQCNRWNVUN2t78D5u26FnawvxK7rLr4jZSHxEPtPS0KSw28JXlNgknVgLCIotDUL061\n \
    W8YxQPrTdJpTIZg0QajQ4=\n -----END SSH SIGNATURE-----\n\nSubject\n\nKey: value\n";

const SIGNERS: &str = "\"alice,bob\" namespaces=\"git\",valid-after=\"20200101Z\" ssh-ed25519 \
    AAAAC3NzaC1lZDI1NTE5AAAAIPuU8t4e1RQwGR5JpViSm6oT67MWqmXgabBfWu6D+zGu x\n";

const CONFIG: &str = "version: 1\nstages:\n  a: { branch: m }\n  b: { branch: n, from: a }\n\
    gates: { b: { soak: 1h, healthy: { at_least: 98% } } }\nsigners: { b: [x] }\npoll: 60s\n";

/// A valid text with a few bytes changed, removed or put in, or anything at all.
fn near(text: &'static str) -> impl Strategy<Value = Vec<u8>> {
    let edits = proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3u8), 1..6);
    let edited = (Just(text), edits).prop_map(|(text, edits)| {
        let mut bytes = text.as_bytes().to_vec();
        for (index, byte, kind) in edits {
            let at = index.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => drop(bytes.drain(at..(at + usize::from(byte)).min(bytes.len() - 1).max(at))),
            }
        }
        bytes
    });
    prop_oneof![4 => edited, 1 => proptest::collection::vec(any::<u8>(), 0..300)]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn commits(bytes in near(COMMIT)) {
        let id = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        if let Ok(commit) = Commit::parse(&id, &bytes) {
            // The key that signed is the only one listed, so that the signature itself is reached.
            let signers = AllowedSigners::parse(SIGNERS).unwrap();
            let _ = verify_commit(&commit, &signers);
            let _ = (commit.subject().len(), commit.trailer("Key"));
        }
    }

    #[test]
    fn trees(bytes in near("100644 a\0aaaaaaaaaaaaaaaaaaaa40000 b\0bbbbbbbbbbbbbbbbbbbb")) {
        let id = ObjectId::from_bytes([0; 20]);
        if let Ok(tree) = Tree::parse(&id, &bytes) {
            assert!(tree.entries.iter().all(|entry| !entry.name.contains('/') && entry.name != ".."));
        }
    }

    #[test]
    fn packs(bytes in near("PACK\0\0\0\x02\0\0\0\x01\x31x\x01\x01\x01\0")) {
        let mut objects = MemoryObjects::default();
        let limits = PackLimits { object: 1 << 16, total: 1 << 18, count: 100 };
        let _ = read_pack(&bytes[..], &limits, &mut |object| objects.insert(object).map(drop));
    }

    #[test]
    fn texts(signers in near(SIGNERS), config in near(CONFIG)) {
        let _ = AllowedSigners::parse(&String::from_utf8_lossy(&signers));
        let config = String::from_utf8_lossy(&config).into_owned();
        let _ = (FleetConfig::parse(&config), FleetLock::parse(&config), config.parse::<RefUpdate>());
    }
}

#[test]
fn deep_and_wide_texts_end_soon() {
    for text in [
        "[".repeat(200_000),
        "{a: ".repeat(200_000),
        "- ".repeat(200_000),
        format!("version: 1\nstages: {{{}}}", "a,".repeat(50_000)),
        format!("{}: 1", "k".repeat(1 << 20)),
        format!("a: &a [{}]\nb: [*a, *a]", "x,".repeat(10_000)),
    ] {
        assert!(FleetConfig::parse(&text).is_err());
    }
}
