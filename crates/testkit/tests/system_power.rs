//! The power goes while a device changes: in the playbook, and in a package's script. The device is
//! whole again without help, and at the new commit.

mod common;

use std::path::Path;
use std::time::Duration;

use volary_host::{Cmd, create_dir, write_atomic};
use volary_model::CommitId;
use volary_testkit::chain::{Chain, Clone, installed, inventory, unit_state};
use volary_testkit::{Debian, Device, DeviceOptions, roots};

const LIMIT: Duration = Duration::from_secs(300);

const PACKAGE: &str = "volary-probe";

/// A version of a package that takes its time to be configured, so that the power can go meanwhile.
fn slow_deb(folder: &Path, version: &str) -> String {
    let tree = folder.join(format!("slow-{version}"));
    create_dir(&tree.join("DEBIAN")).unwrap();
    create_dir(&tree.join("usr/share/probe")).unwrap();
    write_atomic(&tree.join("usr/share/probe/version"), version.as_bytes(), 0o644).unwrap();
    write_atomic(&tree.join("DEBIAN/postinst"), b"#!/bin/sh\nsleep 8\n", 0o755).unwrap();
    let control = format!(
        "Package: {PACKAGE}\nVersion: {version}\nArchitecture: all\n\
         Maintainer: Volary tests <tests@volary.test>\nDescription: slow to be configured\n"
    );
    write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    let deb = folder.join(format!("{PACKAGE}_{version}_all.deb"));
    Cmd::new("dpkg-deb")
        .args(["--root-owner-group", "-Znone", "--build"])
        .args([&tree, &deb])
        .check()
        .unwrap();
    deb.display().to_string()
}

/// Two files, and a while between them.
fn site(content: &str, pause: u32) -> String {
    format!(
        "---\n- hosts: all\n  become: true\n  roles:\n    - role: volary.fleet.apt_source\n    \
         - role: volary.fleet.packages\n  tasks:\n    \
         - name: the first half\n      ansible.builtin.copy: {{ dest: /etc/one, content: \"{content}\" }}\n    \
         - name: wait\n      ansible.builtin.command: sleep {pause}\n    \
         - name: the second half\n      ansible.builtin.copy: {{ dest: /etc/two, content: \"{content}\" }}\n"
    )
}

/// A commit that pins a release of what `rolling` has.
fn release(fleet: &Clone, chain: &Chain, version: &str, content: &str, pause: u32) -> CommitId {
    chain.volary(&["archive", "include", &slow_deb(chain.logs(), version)]).unwrap();
    let name = format!("v{version}");
    chain.volary(&["release", "cut", &name]).unwrap();
    fleet.write("site.yml", &site(content, pause)).unwrap();
    fleet.commit(content).unwrap();
    // It pushes both commits at once.
    fleet.run_volary(&["bump", &name]).unwrap();
    fleet.head().unwrap()
}

/// Cuts the power as soon as `look` is content, and switches the device on again.
fn cut(device: &Device, what: &str, look: impl Fn(&Device) -> bool) {
    let look = |device: &Device| if look(device) { Ok(()) } else { Err(journal(device)) };
    device.wait_until(what, LIMIT, look).unwrap();
    device.kill().unwrap();
    device.start().unwrap();
}

fn journal(device: &Device) -> String {
    let journal = device.exec(&["journalctl", "--no-pager", "--lines", "5", "--output", "cat"]);
    journal.map(|output| output.text()).unwrap_or_default()
}

fn text(device: &Device, path: &str) -> String {
    String::from_utf8(device.read(path).unwrap_or_default()).unwrap()
}

fn exists(device: &Device, path: &str) -> bool {
    device.exec(&["test", "-e", path]).is_ok_and(|output| output.status.success())
}

/// Nothing is left in between, and nothing waits to be undone.
fn check_whole(device: &Device, version: &str, content: &str) {
    assert_eq!(installed(device, PACKAGE).unwrap().as_deref(), Some(version));
    assert_eq!(device.check(&["dpkg", "--audit"]).unwrap(), "");
    assert_eq!(text(device, "/usr/share/probe/version"), version);
    assert_eq!((text(device, "/etc/one").as_str(), text(device, "/etc/two").as_str()), (content, content));
    for record in ["armed.json", "undoing.json"] {
        assert!(!exists(device, &format!("/var/lib/volary/checkpoint/{record}")), "{record} is left");
    }
    assert_eq!(unit_state(device, "volary-agent").unwrap(), "active");
    assert_eq!(device.failed_units().unwrap(), Vec::<String>::new());
}

#[test]
fn a_device_is_whole_after_a_power_cut_in_the_middle_of_a_change() {
    let (chain, _logs) = common::chain();
    let fleet = chain.clone_of("fleet").unwrap();
    fleet.write("inventory.yml", &inventory(&[("dev-1", "development")])).unwrap();
    fleet.hurry(10).unwrap();
    let config = volary_host::read_to_string(&fleet.dir().join("volary.yml")).unwrap();
    fleet.write("volary.yml", &config.replace("packages: rolling", "packages: lock")).unwrap();
    common::want(&fleet, PACKAGE);
    let first = release(&fleet, &chain, "1.0", "first", 0);
    let root = roots::device_root(&common::cache(), Debian::Bookworm, &mut |_| {}).unwrap();
    let device = chain.lab().start_device("dev-1", &root, DeviceOptions::default()).unwrap();
    chain.join(&device, "development").unwrap();
    chain.wait_for_good("dev-1", &first, LIMIT).unwrap();
    check_whole(&device, "1.0", "first");

    // Between two files of one playbook.
    fleet.write("site.yml", &site("second", 15)).unwrap();
    let second = fleet.commit("second").unwrap();
    fleet.push("master").unwrap();
    cut(&device, "the first half", |device| text(device, "/etc/one") == "second");
    assert_ne!(text(&device, "/etc/two"), "second", "the power went before the second half");
    chain.wait_for_good("dev-1", &second, LIMIT).unwrap();
    check_whole(&device, "1.0", "second");

    // In a package's own script.
    let third = release(&fleet, &chain, "1.1", "third", 0);
    cut(&device, "dpkg", |device| {
        let asked = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", PACKAGE];
        device.exec(&asked).is_ok_and(|output| output.text() == "half-configured 1.1")
    });
    chain.wait_for_good("dev-1", &third, LIMIT).unwrap();
    check_whole(&device, "1.1", "third");
}
