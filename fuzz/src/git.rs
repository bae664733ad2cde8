//! What devices read from a server that they do not trust: git objects, packs, signatures, and
//! the files that say whom to trust and what to install.

use std::sync::LazyLock;

use volary_fleet::{
    AllowedSigners, Commit, FleetConfig, FleetLock, MemoryObjects, ObjectId, ObjectKind, PackLimits, Tree,
    read_pack, verify_commit, write_pack,
};

use crate::memory::bounded;

/// A signer for signatures to be looked up under; its key signed the seeds.
static SIGNERS: LazyLock<AllowedSigners> =
    LazyLock::new(|| AllowedSigners::parse(include_str!("../seeds/signers")).expect("the seeds are right"));

/// The first byte says what the rest is.
pub fn all(data: &[u8]) {
    let Some((&kind, data)) = data.split_first() else { return };
    LazyLock::force(&SIGNERS);
    bounded(64 * data.len() + (4 << 20), || match kind {
        b'c' => commit(data),
        b't' => tree(data),
        b'p' => pack(data),
        _ => {
            let Ok(text) = std::str::from_utf8(data) else { return };
            match kind {
                b's' => drop(AllowedSigners::parse(text)),
                b'f' => drop(FleetConfig::parse(text)),
                b'l' => lock(text),
                _ => {}
            }
        }
    });
}

fn commit(data: &[u8]) {
    let id = ObjectId::from_bytes([7; 20]).to_commit();
    let Ok(commit) = Commit::parse(&id, data) else { return };
    if let Some(signed) = &commit.signed {
        let header: usize = signed.armored.len();
        assert!(signed.payload.len() + header < data.len() + 1, "more was signed than is there");
        let again = Commit::parse(&id, &signed.payload).expect("without its signature it is a commit");
        assert_eq!(
            (&again.tree, &again.parents, &again.message),
            (&commit.tree, &commit.parents, &commit.message)
        );
        assert!(again.signed.is_none());
    }
    let _ = verify_commit(&commit, &SIGNERS);
}

fn tree(data: &[u8]) {
    let Ok(tree) = Tree::parse(&ObjectId::from_bytes([7; 20]), data) else { return };
    let mut names: Vec<String> = Vec::new();
    for entry in &tree.entries {
        let name = entry.name.to_lowercase();
        assert!(!["", ".", "..", ".git"].contains(&name.as_str()) && !name.contains(['/', '\0']), "{name:?}");
        assert_eq!(tree.entry(&entry.name), Some(entry));
        names.push(entry.name.clone());
    }
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), tree.entries.len(), "a name stands there twice");
}

/// A pack whose checksum is put right. What was read is written again and reads the same.
fn pack(data: &[u8]) {
    use sha1_checked::{Digest as _, Sha1};
    let limits = PackLimits { object: 1 << 20, total: 2 << 20, count: 1000 };
    let pack = [data, &Sha1::digest(data)[..]].concat();
    let mut objects = MemoryObjects::default();
    let mut ids = Vec::new();
    let read = read_pack(&pack[..], &limits, &mut |object| {
        assert!(object.data.len() as u64 <= limits.object);
        ids.push((objects.insert(object.clone())?, object.kind));
        Ok(())
    });
    let Ok(count) = read else { return };
    assert_eq!(count as usize, ids.len());
    let mut written = Vec::new();
    let only: Vec<ObjectId> = ids.iter().map(|(id, _)| *id).collect();
    write_pack(&objects, &only, &mut written).expect("all objects are there");
    let mut again: Vec<(ObjectId, ObjectKind)> = Vec::new();
    read_pack(&written[..], &limits, &mut |object| {
        again.push((ObjectId::of(object.kind, &object.data)?, object.kind));
        Ok(())
    })
    .expect("what is written reads back");
    assert_eq!(again, ids);
}

fn lock(text: &str) {
    let Ok(lock) = FleetLock::parse(text) else { return };
    assert_eq!(FleetLock::parse(&lock.to_text()).expect("what is written reads back"), lock);
}
