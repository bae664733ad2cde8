//! What the devices of a stage did with a commit, put together for who promotes it: they are its dry run. Pure.

use std::collections::BTreeMap;

use volary_api::v1::device::{Convergence, Drift, Outcome};
use volary_api::v1::fleet::{Spread, Trial, TrialNote};
use volary_model::{CommitId, DeviceName, StageName};
use volary_plan::condition::Condition;
use volary_store::DeviceState;

use crate::facts::Judged;

/// How many different notes are told, and of each how many devices by name.
const NOTES: usize = 20;
const NAMES: usize = 5;

/// What was seen, and on which devices.
#[derive(Default)]
struct Notes(BTreeMap<String, Vec<DeviceName>>);

/// What the devices of a stage did with a commit, by what they reported last.
pub(crate) fn trial(devices: &[Judged], stage: &StageName, commit: &CommitId) -> Trial {
    let mut trial = Trial::default();
    let (mut failures, mut drift) = (Notes::default(), Notes::default());
    let (mut tasks, mut packages, mut seconds) = (Vec::new(), Vec::new(), Vec::new());
    let members = devices.iter().filter(|device| device.record.state == DeviceState::Accepted);
    for device in members.filter(|device| device.record.stage.as_ref() == Some(stage)) {
        trial.devices += 1;
        let run = device.convergence.as_deref().filter(|run| run.commit == *commit);
        let is_there = device.record.good_commit.as_ref() == Some(commit);
        if run.is_none() && !is_there {
            continue;
        }
        if run.is_some_and(|run| run.outcome != Outcome::Good)
            || matches!(device.condition, Condition::Failed | Condition::Refused)
        {
            trial.failed += 1;
            failures.add(failure(device, run), device);
        } else {
            trial.good += 1;
        }
        if let Some(run) = run.filter(|run| run.outcome == Outcome::Good) {
            tasks.push(u64::from(run.changed_tasks));
            packages.push(run.packages.len() as u64);
            let took = run.ended_at.duration_since(run.started_at).as_secs();
            seconds.extend(u64::try_from(took));
        }
        let looked = device.report.as_ref().and_then(|report| report.drift.as_ref());
        if let Some(found) = looked.filter(|found| found.commit == *commit) {
            trial.looked += 1;
            trial.drifted += usize::from(!found.is_none());
            differences(found).into_iter().for_each(|what| drift.add(what, device));
        }
    }
    Trial {
        changed_tasks: spread(tasks),
        changed_packages: spread(packages),
        seconds: spread(seconds),
        failures: failures.most(),
        drift: drift.most(),
        ..trial
    }
}

/// Why a device is not well. Without the message, which may be another one on each device: who wants it asks the
/// device.
fn failure(device: &Judged, run: Option<&Convergence>) -> String {
    let failed = run.filter(|run| run.outcome != Outcome::Good);
    let undone = if failed.is_some_and(|run| run.reverted.is_some()) { ", and was undone" } else { "" };
    match failed.and_then(|run| run.failure.as_ref()) {
        Some(failure) if failure.what.is_empty() => format!("{}{undone}: {}", failure.step, failure.message),
        Some(failure) => format!("{} {:?}{undone}", failure.step, failure.what),
        None => device.reason.clone(),
    }
}

fn differences(drift: &Drift) -> Vec<String> {
    if let Some(failure) = &drift.failure {
        return vec![format!("could not look: {} {:?}", failure.step, failure.what)];
    }
    let tasks = drift.tasks.iter().map(|task| format!("task {:?} would change something", task.task));
    let packages = drift.packages.iter().map(|(name, (installed, suite))| {
        format!(
            "{name} is at {}, the suite has {suite}",
            if installed.is_empty() { "nothing" } else { installed }
        )
    });
    tasks.chain(packages).collect()
}

impl Notes {
    fn add(&mut self, what: String, device: &Judged) {
        self.0.entry(what).or_default().push(device.record.name.clone());
    }

    /// What was seen on the most devices, first.
    fn most(self) -> Vec<TrialNote> {
        let note = |(what, mut devices): (String, Vec<DeviceName>)| {
            let count = devices.len();
            devices.truncate(NAMES);
            TrialNote { what, count, devices }
        };
        let mut notes: Vec<TrialNote> = self.0.into_iter().map(note).collect();
        notes.sort_by_key(|note| std::cmp::Reverse(note.count));
        notes.truncate(NOTES);
        notes
    }
}

fn spread(mut values: Vec<u64>) -> Option<Spread> {
    values.sort_unstable();
    let median = *values.get(values.len() / 2)?;
    Some(Spread { least: *values.first()?, median, most: *values.last()? })
}
