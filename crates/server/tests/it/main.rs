//! A real server with real TLS, asked by real clients: HTTP, git, devices.

mod accounts;
mod alerts;
mod archive;
mod browser;
mod builds;
mod contract;
mod cves;
mod devices;
mod feeds;
mod forges;
mod gates;
mod git;
mod images;
mod keys;
mod mender;
mod metrics;
mod mirrors;
mod oidc;
mod openapi;
mod page;
mod privacy;
mod prometheus;
mod promotion;
mod recorder;
mod reports;
mod rollouts;
mod server;
mod statuses;
mod support;
mod turns;
mod upkeep;
mod uploads;
mod users;

/// Not a test of its own: the hook of a test's repository runs this program with this test's name,
/// since `volary` itself is not there when only this crate is built.
#[test]
fn hook_entry() {
    if std::env::var_os("VOLARY_TEST_HOOK").is_none() {
        return;
    }
    let input = std::io::read_to_string(std::io::stdin()).unwrap();
    match volary_server::pre_receive(&input) {
        Ok(()) => std::process::exit(0),
        Err(refused) => {
            eprintln!("{refused}");
            std::process::exit(1);
        }
    }
}
