//! A device that is away for long: what it keeps of its reports, and how it comes back.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use volary_agent::spool::{Kind, Spool};
use volary_api::v1::device::{Outcome, Report};
use volary_device::Event;

use crate::convergence::Device;

/// A report of a real device, made at another time; `with_result` with the convergence it is about.
fn report(template: &Report, at: Timestamp, with_result: bool) -> Report {
    let mut report = template.clone();
    report.id = format!("{:016}", at.as_millisecond());
    report.at = at;
    if !with_result {
        report.convergence = None;
    }
    // As many packages as a device with a good part of an archive has.
    report.packages =
        (0..150).map(|number| (format!("package-{number}"), "1.2.3-4+git5".to_owned())).collect();
    report
}

/// Fills the spool with a week of health each five minutes, a failing convergence each hour, and a unit
/// that comes and goes each three hours.
fn week(spool: &Spool, template: &Report) -> (usize, usize) {
    let begin: Timestamp = "2026-11-16T00:00:00Z".parse().unwrap();
    let (mut results, mut changes) = (0, 0);
    for minute in (0..7 * 24 * 60).step_by(5) {
        let at = begin + SignedDuration::from_mins(minute);
        let kind = match minute {
            minute if minute % 60 == 0 => Kind::Result,
            minute if minute % 180 == 5 => Kind::Change,
            _ => Kind::Health,
        };
        results += usize::from(kind == Kind::Result);
        changes += usize::from(kind == Kind::Change);
        spool.keep(&report(template, at, kind == Kind::Result), kind).unwrap();
    }
    (results, changes)
}

fn template(device: &mut Device) -> Report {
    device.converge();
    device.stub.last_result()
}

#[test]
fn a_week_of_reports_is_kept_within_its_limit_and_all_of_it_arrives() {
    let mut device = Device::new();
    let template = template(&mut device);
    let folder = device.state_folder().join("spool");
    let spool = Spool::new(folder.clone());
    let (results, changes) = week(&spool, &template);
    assert_eq!((results, changes), (168, 56));
    let files: Vec<(String, u64)> = std::fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), entry.metadata().unwrap().len()))
        .collect();
    let bytes: u64 = files.iter().map(|(_, size)| size).sum();
    assert!(files.len() <= 500 && bytes <= 4 << 20, "{} files, {bytes} bytes", files.len());
    let of = |suffix: &str| files.iter().filter(|(name, _)| name.ends_with(suffix)).count();
    assert_eq!((of("-result.json"), of("-change.json")), (results, changes), "none of them had to go");
    assert!(of("-health.json") > 100, "the rest is the newest health: {}", of("-health.json"));

    let before = device.stub.world().reports.len();
    device.stub.world().requests.clear();
    device.turn(Event::Due);
    let world = device.stub.world();
    let sent: Vec<String> = world.reports[before..].iter().map(|report| report.id.clone()).collect();
    assert_eq!(sent.len(), files.len());
    assert!(sent.is_sorted(), "oldest first, so that the newest counts last");
    let requests = world.requests.iter().filter(|line| line.contains("reports")).count();
    assert!(requests <= 8, "{requests} requests");
    drop(world);
    assert_eq!(device.agent.waiting_reports(), 0);
}

#[test]
fn a_device_that_was_away_goes_to_the_newest_commit_in_one_step() {
    let mut device = Device::new();
    assert_eq!(device.converge(), "good");
    device.stub.world().trouble = Some(503);
    for number in 0..5 {
        device.fleet.put("site.yml", &device.fleet.playbook(&format!("missed-{number}")));
        device.fleet.commit("alice", "Go on");
        device.agent.turn(Event::Due, Duration::ZERO).unwrap();
        device.agent.tell_if_free().unwrap();
    }
    assert!(device.agent.waiting_reports() >= 5);
    device.stub.world().trouble = None;
    device.stub.world().requests.clear();
    assert_eq!(device.converge(), "good");
    let world = device.stub.world();
    let fetched = world.requests.iter().filter(|line| line.contains("objects")).count();
    assert_eq!(fetched, 1, "not one for each commit that was missed");
    let last = world.reports.last().unwrap();
    assert_eq!(last.convergence.as_ref().map(|run| run.outcome), Some(Outcome::Good));
    assert_eq!(last.good_commit, Some(device.fleet.head()));
    drop(world);
    assert_eq!(device.agent.waiting_reports(), 0);
}

#[test]
fn an_older_server_gets_reports_one_by_one_and_a_bad_one_is_dropped() {
    let mut device = Device::new();
    let template = template(&mut device);
    let spool = Spool::new(device.state_folder().join("spool"));
    let begin: Timestamp = "2026-11-16T00:00:00Z".parse().unwrap();
    let put = |minutes: [i64; 3]| {
        minutes.map(|minute| {
            let report = report(&template, begin + SignedDuration::from_mins(minute), true);
            spool.keep(&report, Kind::Result).unwrap();
            report.id
        })
    };
    let came = |device: &Device, ids: &[String]| {
        let world = device.stub.world();
        let reports = world.reports.iter().map(|report| &report.id);
        reports.filter(|id| ids.contains(id)).cloned().collect::<Vec<_>>()
    };
    let ids = put([0, 1, 2]);
    device.stub.world().refuses = vec![ids[1].clone()];
    device.turn(Event::Due);
    assert_eq!(came(&device, &ids), [ids[0].clone(), ids[2].clone()]);
    assert_eq!(device.agent.waiting_reports(), 0, "what is never taken is not sent for ever");

    device.stub.world().knows_batches = false;
    for minutes in [[10, 11, 12], [20, 21, 22]] {
        let ids = put(minutes);
        device.stub.world().requests.clear();
        device.turn(Event::Due);
        assert_eq!(came(&device, &ids), ids);
        let world = device.stub.world();
        let tried = world.requests.iter().filter(|line| line.ends_with("batch")).count();
        assert_eq!(tried, usize::from(minutes[0] == 10), "it is not asked again and again");
    }
}

#[test]
fn health_waits_for_company_and_what_changed_goes_at_once() {
    let mut device = Device::new();
    device.fleet.put_executable("health/required.d/10-up", "#!/bin/sh\ntest ! -e /tmp/never-there\n");
    let flag = device.root.path().join("bad");
    let check = format!("#!/bin/sh\ntest ! -e {}\n", flag.display());
    device.fleet.put_executable("health/wanted.d/flag", &check);
    device.fleet.commit("alice", "Check");
    assert_eq!(device.converge(), "good");
    let before = device.stub.world().reports.len();
    for _ in 0..3 {
        device.agent.tell_if_free().unwrap();
    }
    assert_eq!(device.stub.world().reports.len(), before, "nothing is new");
    assert_eq!(device.agent.waiting_reports(), 3);
    volary_host::write_atomic(&flag, b"", 0o644).unwrap();
    device.agent.tell_if_free().unwrap();
    assert_eq!(device.stub.world().reports.len(), before + 4, "a check fails: all of it goes");
    assert_eq!(device.agent.waiting_reports(), 0);
}
