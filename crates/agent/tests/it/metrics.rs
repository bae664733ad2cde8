//! Measurements: from the device to the server, through its absence and through a server that does not
//! know them.

use std::path::Path;

use tempfile::TempDir;
use volary_agent::agent::Agent;
use volary_agent::metrics::{Looker, Meter, Plan};
use volary_agent::paths::Paths;

use crate::daemon::{agent, check, end, start};
use crate::fleet::Fleet;
use crate::stub::Stub;

const METRICS: &str =
    "metrics:\n  development: { every: 10s, send: 30s, files: { fleet_queue: /run/queue } }\n";

/// A device that is at a commit which wants measurements.
fn device() -> (Fleet, Stub, TempDir) {
    let fleet = Fleet::new();
    let stub = Stub::start(&fleet.work());
    let root = tempfile::tempdir().unwrap();
    let rules = volary_host::read_to_string(&fleet.work().join("volary.yml")).unwrap();
    fleet.put("volary.yml", &(rules + METRICS));
    fleet.commit("alice", "Measure");
    let token = stub.token("development", &fleet.signers(&["alice"]));
    check(root.path(), &["enroll", "--token", &token, "--name", "dev-1"], 0, "belongs");
    stub.want("development", &fleet.head());
    check(root.path(), &["run"], 0, "good: commit");
    volary_host::write_atomic(&root.path().join("run/queue"), b"17\n", 0o644).unwrap();
    (fleet, stub, root)
}

/// A meter of the device that has looked once.
fn measured(root: &Path) -> (Agent, Meter) {
    let paths = Paths::below(root);
    let (agent, meter) = (Agent::open(&paths).unwrap(), Meter::new(&paths));
    meter.follow(Plan::of(&agent));
    meter.measure(&mut Looker::of(&paths));
    (agent, meter)
}

fn asked(stub: &Stub) -> usize {
    stub.world().requests.iter().filter(|line| *line == "POST /device/v1/metrics").count()
}

#[test]
fn points_arrive_and_are_forgotten() {
    let (_fleet, stub, root) = device();
    check(root.path(), &["metrics"], 0, "fleet_queue");
    let shown = agent(root.path(), &["metrics", "--json"]).check().unwrap().text();
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["every"], &shown["series"]["fleet_queue"]), (&10.into(), &17.0.into()));
    let (agent, meter) = measured(root.path());
    meter.send(&agent.another_server().unwrap());
    assert_eq!((stub.world().metrics.len(), meter.waiting()), (1, 0));
    let samples = stub.world().metrics.remove(0);
    assert_eq!((&samples.boot_id, samples.step, samples.points), (&volary_host::boot_id(), 10, 1));
    assert_eq!(samples.series["fleet_queue"], [Some(17.0)]);
    assert!(samples.series.keys().any(|name| name.starts_with("certificate_expiry_seconds")));
    assert!(!samples.series.contains_key("load1"), "this root has no /proc");
    meter.end(true);
    assert_eq!(meter.waiting(), 0, "nothing is kept twice");
}

#[test]
fn a_server_that_does_not_know_them_is_asked_once() {
    let (_fleet, stub, root) = device();
    stub.world().knows_metrics = false;
    let (agent, meter) = measured(root.path());
    let server = agent.another_server().unwrap();
    meter.send(&server);
    assert!(!meter.is_due() && meter.due_in().unwrap().as_secs() > 5 * 3600);
    meter.end(true);
    assert_eq!((asked(&stub), meter.waiting()), (1, 1));
    // It is brought up to date, and the device starts anew: its daemon sends with the first question.
    stub.world().knows_metrics = true;
    let daemon = start(root.path());
    stub.wait_for("the measurements", |world| !world.metrics.is_empty());
    assert_eq!(end(daemon, "-TERM"), Some(0));
    assert_eq!(stub.world().metrics[0].series["fleet_queue"], [Some(17.0)]);
}

#[test]
fn what_was_measured_outlives_an_absence_and_what_is_refused_does_not() {
    let (_fleet, stub, root) = device();
    stub.world().trouble = Some(500);
    for number in 1..=3 {
        let (agent, meter) = measured(root.path());
        meter.send(&agent.another_server().unwrap());
        meter.end(true);
        assert_eq!(meter.waiting(), number);
    }
    stub.world().trouble = None;
    let (agent, meter) = measured(root.path());
    let server = agent.another_server().unwrap();
    meter.send(&server);
    let ids: Vec<String> = stub.world().metrics.iter().map(|samples| samples.id.clone()).collect();
    assert!(ids.len() == 4 && ids.is_sorted(), "{ids:?}");
    assert_eq!((asked(&stub), meter.waiting()), (5, 0), "three in one request, then the newest");
    // The server takes nothing of this boot: it is given up, not sent for ever.
    stub.world().refuses = vec![volary_host::boot_id()];
    let (_, meter) = measured(root.path());
    meter.end(true);
    let (_, meter) = measured(root.path());
    meter.send(&server);
    assert_eq!((stub.world().metrics.len(), meter.waiting()), (4, 0));
}
