//! A new fleet has no packages yet. Its first device is well all the same: apt keeps no index of a
//! suite that lists it as empty, and that is not a missing one.

mod common;

use std::time::Duration;

use volary_testkit::chain::inventory;
use volary_testkit::{Debian, DeviceOptions, roots};

#[test]
fn the_first_device_of_an_empty_fleet_is_good() {
    let (chain, _logs) = common::chain();
    let root = roots::device_root(&common::cache(), Debian::Bookworm, &mut |_| {}).unwrap();
    let device = chain.lab().start_device("dev-1", &root, DeviceOptions::default()).unwrap();
    let fleet = chain.clone_of("fleet").unwrap();
    fleet.write("inventory.yml", &inventory(&[("dev-1", "development")])).unwrap();
    fleet.hurry(5).unwrap();
    let commit = fleet.commit("add dev-1").unwrap();
    fleet.push("master").unwrap();
    chain.join(&device, "development").unwrap();
    chain.wait_for_good("dev-1", &commit, Duration::from_secs(180)).unwrap();
}
