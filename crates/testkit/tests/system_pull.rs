//! The fleet repository is plain git and plain Ansible: `ansible-pull` without any agent of ours
//! brings a device to its stage, and git alone verifies the history.

mod common;

use volary_testkit::chain::{installed, inventory};
use volary_testkit::{Debian, DeviceOptions, roots};

#[test]
fn plain_ansible_pull_and_plain_git_do() {
    let (chain, _logs) = common::chain();
    let root = roots::device_root(&common::cache(), Debian::Bookworm, &mut |_| {}).unwrap();
    let device = chain.lab().start_device("canary-1", &root, DeviceOptions::default()).unwrap();
    let fleet = chain.clone_of("fleet").unwrap();
    fleet.write("inventory.yml", &inventory(&[("canary-1", "canary")])).unwrap();
    common::want(&fleet, "volary-probe");
    fleet.commit("add canary-1").unwrap();
    fleet.push("master").unwrap();
    chain.volary(&["archive", "include", &common::probe_deb(chain.logs(), "1.0")]).unwrap();
    chain.volary(&["release", "cut", "v1.0"]).unwrap();
    chain.volary(&["archive", "include", &common::probe_deb(chain.logs(), "1.1")]).unwrap();
    fleet.run_volary(&["bump", "v1.0"]).unwrap();
    fleet.run_volary(&["promote", "--from", "development", "--to", "canary", "--yes"]).unwrap();

    // A reader's token is all that a device needs for this.
    let token = chain.volary(&["token", "add", "puller", "--role", "viewer"]).unwrap();
    let authority = volary_host::read(&fleet.dir().join(".volary/ca.pem")).unwrap();
    device.write("/etc/fleet-ca.pem", &authority, 0o644).unwrap();
    let url = chain.url().replace("https://", &format!("https://volary:{}@", token.trim()));
    let url = format!("{url}/git/fleet.git");
    let pull = ["env", "GIT_SSL_CAINFO=/etc/fleet-ca.pem", "ansible-pull", "-U", &url, "-C", "canary"];
    let pull = [&pull[..], &["-i", "inventory.yml", "-l", "canary-1", "site.yml"]].concat();
    let said = device.check(&pull).unwrap();
    assert!(said.contains("failed=0"), "{said}");
    // The release, not what is newer in rolling.
    assert_eq!(installed(&device, "volary-probe").unwrap().as_deref(), Some("1.0"));
    // A second run finds everything done.
    let said = device.check(&pull).unwrap();
    let recap = said.lines().find(|line| line.contains("failed=0")).unwrap_or_default().to_owned();
    assert!(recap.contains("changed=0"), "{said}");

    fleet
        .run_volary(&[
            "promote",
            "--from",
            "canary",
            "--to",
            "production",
            "--yes",
            "--override",
            "healthy=test",
        ])
        .unwrap();
    fleet.run_git(&["fetch", "--quiet"]).unwrap();
    let signers = "gpg.ssh.allowedSignersFile=.volary/allowed_signers";
    let log = ["-c", signers, "log", "--show-signature", "--format=commit %H %G?", "origin/production"];
    let log = fleet.run_git(&log).unwrap();
    let commits: Vec<&str> = log.lines().filter(|line| line.starts_with("commit ")).collect();
    assert!(commits.len() >= 4 && commits.iter().all(|line| line.ends_with(" G")), "{log}");
    assert!(log.contains("Good \"git\" signature for ada@volary.test"), "{log}");
}
