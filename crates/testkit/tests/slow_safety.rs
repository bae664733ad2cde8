//! The archive while everything happens to it, through the real programs: short versions of
//! `make campaign-archive`.

mod common;

use std::time::Duration;

use volary_testkit::safety::{Outcome, Trial};
use volary_testkit::wire::WebFolder;
use volary_testkit::{AptClient, Debian};

/// Enough packages for many frames in an index.
const PACKAGES: usize = 300;

fn nothing_is_wrong(outcome: &Outcome) {
    assert!(outcome.publishes > 0 && outcome.tries > 0, "nothing was tried: {outcome:?}");
    assert!(outcome.faults.is_empty(), "{}", outcome.faults.join("\n"));
}

#[test]
fn readers_find_every_file_that_an_inrelease_names() {
    let (chain, logs) = common::chain();
    let trial = Trial::open(&chain, PACKAGES, logs.path()).unwrap();
    let gaps = [Duration::ZERO, Duration::from_millis(100), Duration::from_secs(3)];
    for (gap, reading) in trial.race(40, &gaps).unwrap() {
        assert!(reading.generations >= 2, "{gap:?} behind: {reading:?}");
        assert_eq!(reading.faults, 0, "{gap:?} behind: {}", reading.told.join("\n"));
    }
}

#[test]
fn apt_updates_without_a_complaint_while_all_changes() {
    let (chain, logs) = common::chain();
    let trial = Trial::open(&chain, PACKAGES, logs.path()).unwrap();
    let fleet = chain.clone_of("fleet").unwrap();
    let key = volary_host::read(&fleet.dir().join(".volary/archive.asc")).unwrap();
    let authority = volary_host::read(&fleet.dir().join(".volary/ca.pem")).unwrap();
    let web = WebFolder::start(chain.lab().host_address(), &trial.public()).unwrap();
    let places = [
        (Debian::Bookworm, format!("{}/archive", chain.url())),
        (Debian::Trixie, format!("http://{}", web.address())),
    ];
    let clients = places.map(|(debian, uri)| {
        let client = AptClient::new(chain.lab(), &common::cache(), debian, debian.codename()).unwrap();
        client.trust(&key, Some(&authority)).unwrap();
        client.source(&uri, "rolling", "main").unwrap();
        client
    });
    nothing_is_wrong(&trial.clients(40, &clients).unwrap());
}

#[test]
fn a_killed_server_comes_back_with_all_that_it_acknowledged() {
    let (chain, logs) = common::chain();
    let trial = Trial::open(&chain, PACKAGES, logs.path()).unwrap();
    nothing_is_wrong(&trial.kills(10, 3).unwrap());
}

#[test]
fn many_writers_at_once_lose_nothing() {
    let (chain, logs) = common::chain();
    let trial = Trial::open(&chain, PACKAGES, logs.path()).unwrap();
    nothing_is_wrong(&trial.writers(6, 8).unwrap());
}
