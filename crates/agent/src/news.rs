//! Whether a report says something new: then it goes out at once and is kept long, otherwise it waits
//! for others. Pure.

use std::collections::BTreeMap;

use volary_api::v1::device::Report;
use volary_model::{CommitId, StageName};

use crate::spool::Kind;

/// What somebody would want to hear of when it changes. Not here: memory, disk and times, which
/// change all the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signs {
    stage: StageName,
    good_commit: Option<CommitId>,
    boot_id: String,
    agent: String,
    packages: BTreeMap<String, String>,
    failed_units: Vec<String>,
    units: BTreeMap<String, String>,
    checks: Vec<(String, bool)>,
    waiting: Option<(CommitId, usize)>,
    quarantined: Vec<CommitId>,
    drifted: Option<(u32, usize, bool)>,
}

impl Signs {
    /// Those of a report.
    pub fn of(report: &Report) -> Self {
        Self {
            stage: report.stage.clone(),
            good_commit: report.good_commit.clone(),
            boot_id: report.boot_id.clone(),
            agent: report.agent.clone(),
            packages: report.packages.clone(),
            failed_units: report.failed_units.clone(),
            units: report.units.clone(),
            checks: report.checks.iter().map(|check| (check.name.clone(), check.passed)).collect(),
            // Its sentences name times that pass.
            waiting: report.waiting.as_ref().map(|waiting| (waiting.commit.clone(), waiting.obstacles.len())),
            quarantined: report.quarantined.iter().map(|bad| bad.commit.clone()).collect(),
            drifted: report
                .drift
                .as_ref()
                .map(|drift| (drift.tasks_total, drift.packages.len(), drift.failure.is_some())),
        }
    }
}

/// What a report is worth after one with the signs `before`.
pub fn kind(report: &Report, before: Option<&Signs>) -> Kind {
    match before {
        _ if report.convergence.is_some() => Kind::Result,
        Some(before) if *before == Signs::of(report) => Kind::Health,
        Some(_) | None => Kind::Change,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use volary_api::v1::device::{CheckResult, Waiting};

    /// A report that an older version of the agent made.
    fn report() -> Report {
        let lines = include_str!("../../api/tests/recorded/agent-0.1.jsonl");
        serde_json::from_str(lines.lines().nth(2).unwrap()).unwrap()
    }

    #[test]
    fn what_changes_all_the_time_is_no_news() {
        let before = Signs::of(&report());
        let check = |change: fn(&mut Report), expected: Kind| {
            let mut changed = report();
            change(&mut changed);
            assert_eq!(kind(&changed, Some(&before)), expected);
        };
        check(|report| (report.uptime, report.memory_available, report.disk_free) = (9, 9, 9), Kind::Health);
        check(|report| report.id = "9".into(), Kind::Health);
        check(|report| report.checks[0].output = "other words".into(), Kind::Health);
        check(|report| report.checks[0].passed = false, Kind::Change);
        check(
            |report| report.checks.push(CheckResult { name: "x".into(), ..report.checks[0].clone() }),
            Kind::Change,
        );
        check(|report| report.failed_units.push("x.service".into()), Kind::Change);
        check(|report| report.boot_id = "b".into(), Kind::Change);
        check(
            |report| {
                let commit = "a".repeat(40).parse().unwrap();
                report.waiting = Some(Waiting { commit, obstacles: vec![], held: false, turn: false });
            },
            Kind::Change,
        );
        assert_eq!(kind(&report(), None), Kind::Change, "the first of a process");
        let lines = include_str!("../../api/tests/recorded/agent-0.1.jsonl");
        let result: Report = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        assert_eq!(kind(&result, Some(&before)), Kind::Result);
    }
}
