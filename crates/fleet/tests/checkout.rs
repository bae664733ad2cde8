//! A checkout is what the commit says, whatever was in the folder before.

mod support;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use support::Fleet;
use volary_fleet::{
    CheckoutError, CheckoutSummary, MemoryObjects, Object, ObjectId, ObjectKind, ReadObjects, checkout,
};
use volary_host::Cmd;

#[test]
fn a_checkout_is_that_of_git() {
    let fleet = Fleet::new();
    symlink("../site.yml", fleet.work().join("group_vars/link")).unwrap();
    fs::set_permissions(fleet.work().join("site.yml"), fs::Permissions::from_mode(0o755)).unwrap();
    let tip = fleet.commit("alice", "A link and a program");
    let repository = fleet.repository();
    let tree = repository.commit(&tip).unwrap().tree;
    let dest = fleet.path().join("dest");
    let first = checkout(&repository, &tree, &dest, None).unwrap();
    assert!(first.written > 30 && first.removed == 0, "{first:?}");
    fleet.git(&["worktree", "add", "--quiet", "--detach", "../expected", "HEAD"]);
    fs::remove_file(fleet.path().join("expected/.git")).unwrap();
    Cmd::new("diff")
        .args(["-r", "--no-dereference"])
        .arg(&dest)
        .arg(fleet.path().join("expected"))
        .check()
        .unwrap();
    assert_eq!(fs::metadata(dest.join("site.yml")).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::metadata(dest.join("volary.yml")).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(checkout(&repository, &tree, &dest, None).unwrap(), CheckoutSummary::default());
}

#[test]
fn whatever_was_there_is_mended() {
    let fleet = Fleet::new();
    let outside = fleet.path().join("outside");
    fs::create_dir(&outside).unwrap();
    volary_host::write_atomic(&outside.join("precious"), b"keep me", 0o600).unwrap();
    let repository = fleet.repository();
    let tree = repository.commit(&fleet.tip("HEAD")).unwrap().tree;
    let dest = fleet.path().join("dest");
    checkout(&repository, &tree, &dest, None).unwrap();

    volary_host::write_atomic(&dest.join("dev-1.yml"), b"- hosts: all\n", 0o644).unwrap();
    volary_host::write_atomic(&dest.join("site.yml"), b"changed", 0o600).unwrap();
    fs::remove_dir_all(dest.join("group_vars")).unwrap();
    symlink(&outside, dest.join("group_vars")).unwrap();
    fs::remove_file(dest.join("volary.yml")).unwrap();
    symlink(outside.join("precious"), dest.join("volary.yml")).unwrap();
    fs::remove_file(dest.join("ansible.cfg")).unwrap();
    fs::create_dir(dest.join("ansible.cfg")).unwrap();
    symlink(&outside, dest.join("stray")).unwrap();
    fs::set_permissions(dest.join("inventory.yml"), fs::Permissions::from_mode(0o666)).unwrap();

    let summary = checkout(&repository, &tree, &dest, None).unwrap();
    assert!(summary.removed >= 3, "{summary:?}");
    assert!(!dest.join("dev-1.yml").exists() && !dest.join("stray").exists());
    assert_eq!(volary_host::read(&outside.join("precious")).unwrap(), b"keep me");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    assert_eq!(checkout(&repository, &tree, &dest, None).unwrap(), CheckoutSummary::default());
    assert_eq!(
        volary_host::read(&dest.join("site.yml")).unwrap(),
        volary_host::read(&fleet.work().join("site.yml")).unwrap()
    );
}

fn tree(objects: &mut MemoryObjects, entries: &[(&str, &str, ObjectId)]) -> ObjectId {
    let mut data = Vec::new();
    for (mode, name, id) in entries {
        data.extend_from_slice(format!("{mode} {name}\0").as_bytes());
        data.extend_from_slice(id.as_bytes());
    }
    objects.insert(Object { kind: ObjectKind::Tree, data }).unwrap()
}

#[test]
fn nothing_is_written_outside() {
    let dir = tempfile::tempdir().unwrap();
    let mut objects = MemoryObjects::default();
    let mut blob = |text: &str| objects.insert(Object { kind: ObjectKind::Blob, data: text.into() }).unwrap();
    let (out, up) = (blob("/etc/passwd"), blob("../../x"));
    let dest = dir.path().join("dest");
    for id in [out, up] {
        let tree = tree(&mut objects, &[("120000", "link", id)]);
        assert!(matches!(checkout(&objects, &tree, &dest, None), Err(CheckoutError::Link { .. })));
    }
    let module = tree(&mut objects, &[("160000", "module", out)]);
    assert!(matches!(checkout(&objects, &module, &dest, None), Err(CheckoutError::Submodule { .. })));
    for name in ["..", ".git", "a/b"] {
        let tree = tree(&mut objects, &[("100644", name, out)]);
        assert!(matches!(checkout(&objects, &tree, &dest, None), Err(CheckoutError::Object(_))));
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
