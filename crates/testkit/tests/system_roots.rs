//! Roots for clients of apt: another Debian runs in a sandbox, keeps what it writes, and leaves the
//! root as it was.

mod common;

use volary_testkit::{Debian, Lab, Sandbox, roots};

fn check(debian: Debian, version: &str) {
    let root = roots::apt_root(&common::cache(), debian, &mut |_| {}).unwrap();
    let lab = Lab::open(&common::cache()).unwrap();
    let sandbox = Sandbox::new(&lab, "one", &root).unwrap();
    let said = sandbox.command(&["cat", "/etc/debian_version"]).check().unwrap().text();
    assert!(said.starts_with(version), "{said}");
    sandbox.command(&["apt-get", "--version"]).check().unwrap();
    sandbox.write("/srv/new/file", b"kept").unwrap();
    assert_eq!(sandbox.command(&["cat", "/srv/new/file"]).check().unwrap().text(), "kept");
    assert!(!root.path().join("srv/new").exists());
    let sources = sandbox.command(&["sh", "-c", "cat /etc/apt/sources.list /etc/apt/sources.list.d/*"]);
    assert_eq!(sources.run().unwrap().text(), "", "no outside source is left");
}

#[test]
fn debian_12() {
    check(Debian::Bookworm, "12");
}

#[test]
fn debian_13() {
    check(Debian::Trixie, "13");
}
