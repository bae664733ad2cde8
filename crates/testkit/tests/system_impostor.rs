//! A device whose server was replaced accepts nothing from the new one: neither when the impostor
//! has keys of its own, nor when it stole the server's certificates and device records.

mod common;

use std::path::Path;
use std::time::Duration;

use volary_api::v1::status::Condition;
use volary_host::Cmd;
use volary_model::CommitId;
use volary_testkit::chain::{Chain, Clone, installed, inventory};
use volary_testkit::{Debian, Device, DeviceOptions, roots, wait_until};

/// Twice the longest wait of a device that was not answered twice.
const LIMIT: Duration = Duration::from_secs(300);

/// A device that follows development and has volary-probe 1.0.
fn follower(chain: &Chain) -> (Device, Clone) {
    let root = roots::device_root(&common::cache(), Debian::Bookworm, &mut |_| {}).unwrap();
    let device = chain.lab().start_device("dev-1", &root, DeviceOptions::default()).unwrap();
    let fleet = chain.clone_of("fleet").unwrap();
    let tip = prepare(chain, &fleet, "1.0");
    chain.join(&device, "development").unwrap();
    // Not only installed but confirmed: a server that is replaced before that undoes the change.
    chain.wait_for_good("dev-1", &tip, LIMIT).unwrap();
    chain.wait_for_package(&device, "volary-probe", "1.0", LIMIT).unwrap();
    (device, fleet)
}

/// Makes the fleet ask for volary-probe in this version, which is the newest in rolling.
fn prepare(chain: &Chain, fleet: &Clone, version: &str) -> CommitId {
    chain.volary(&["archive", "include", &common::probe_deb(chain.logs(), version)]).unwrap();
    fleet.write("inventory.yml", &inventory(&[("dev-1", "development")])).unwrap();
    fleet.hurry(1).unwrap();
    common::want(fleet, "volary-probe");
    let tip = fleet.commit("install the probe").unwrap();
    fleet.push("master").unwrap();
    tip
}

fn journal(device: &Device) -> String {
    device.check(&["journalctl", "--no-pager", "--unit=volary-agent.service"]).unwrap()
}

fn move_dir(from: &Path, to: &Path) {
    Cmd::new("mv").args([from, to]).check().unwrap();
}

fn copy(from: &Path, to: &Path) {
    Cmd::new("rm").arg("-rf").arg(to).check().unwrap();
    Cmd::new("cp").arg("--archive").args([from, to]).check().unwrap();
}

#[test]
fn an_impostor_is_not_believed() {
    let (chain, _logs) = common::chain();
    let (device, fleet) = follower(&chain);
    let (real, other) = (chain.folder().to_owned(), chain.lab().folder().join("real"));
    let agent = device.check(&["systemctl", "show", "--property=MainPID", "volary-agent.service"]).unwrap();

    // The same address, other keys.
    chain.stop_server().unwrap();
    // The agent says each kind of trouble once, so what it says of the impostor may come at once.
    let before = journal(&device).lines().count();
    move_dir(&real, &other);
    move_dir(fleet.dir(), &chain.lab().folder().join("real-fleet"));
    chain.init_server().unwrap();
    chain.start_server().unwrap();
    let impostor = chain.clone_of("fleet").unwrap();
    prepare(&chain, &impostor, "6.66");
    device
        .wait_until("word of the impostor's certificate", LIMIT, |device| {
            let new: Vec<String> = journal(device).lines().skip(before).map(str::to_owned).collect();
            let said = new.join("\n");
            if said.to_lowercase().contains("certificate") { Ok(()) } else { Err(said) }
        })
        .unwrap();
    assert_eq!(installed(&device, "volary-probe").unwrap().as_deref(), Some("1.0"));

    // The impostor now has the real server's authority, certificates and records, but not the keys
    // of the people who sign: its fleet repository is its own.
    chain.stop_server().unwrap();
    for stolen in ["ca", "tls", "db.sqlite", "client.toml"] {
        copy(&other.join(stolen), &real.join(stolen));
    }
    chain.start_server().unwrap();
    let condition = wait_until("the device to refuse", LIMIT, || {
        let known = chain.known("dev-1").map_err(|error| error.to_string())?;
        match known.condition {
            Condition::Refused => Ok(known.reason),
            other => Err(format!("{other:?}: {}", known.reason)),
        }
    });
    let reason = condition.unwrap();
    assert!(!reason.is_empty());
    assert_eq!(installed(&device, "volary-probe").unwrap().as_deref(), Some("1.0"));
    assert_eq!(
        agent,
        device.check(&["systemctl", "show", "--property=MainPID", "volary-agent.service"]).unwrap()
    );

    // The real server is back, and so is the device.
    chain.stop_server().unwrap();
    Cmd::new("rm").arg("-rf").arg(&real).check().unwrap();
    move_dir(&other, &real);
    Cmd::new("rm").arg("-rf").arg(impostor.dir()).check().unwrap();
    move_dir(&chain.lab().folder().join("real-fleet"), fleet.dir());
    chain.start_server().unwrap();
    chain.volary(&["archive", "include", &common::probe_deb(chain.logs(), "1.1")]).unwrap();
    chain.wait_for_package(&device, "volary-probe", "1.1", LIMIT).unwrap();
}
