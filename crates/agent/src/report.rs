//! What the device tells: a convergence that ended, and how the machine is.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use jiff::Timestamp;
use volary_api::v1::device::{self as wire, CheckResult, Report, RunningImage};
use volary_device::{Drift, Failure, Obstacle, Outcome, Phase, Rest, State, Undone, UndoneBy};
use volary_model::Architecture;

use crate::apt::{self, Inventory, Source};
use crate::drift::Details;
use crate::{facts, units};

/// What is looked up for each report. What cannot be found out is left out: a report with holes
/// is better than none.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// The database of dpkg.
    pub dpkg: PathBuf,
    /// What it has.
    pub inventory: Inventory,
    /// The suite as apt holds it, if it does.
    pub source: Option<Source>,
    /// The checks of the fleet.
    pub checks: Vec<CheckResult>,
    /// The details of the last look for drift.
    pub drift: Option<Details>,
    /// The image that runs.
    pub image: Option<RunningImage>,
    /// The end of the journal at the time of the last undo, if somebody else than the agent did it.
    pub journal: String,
}

/// Puts a report together. It is about the convergence that ended, if the state is there.
pub fn build(state: &State, look: Look, architecture: &Architecture, number: u64, now: Timestamp) -> Report {
    let inventory = look.inventory;
    let offers = look.source.as_ref().and_then(|source| apt::offers(source, None).ok()).unwrap_or_default();
    let names: BTreeSet<&str> = offers.iter().map(|offer| offer.name.as_str()).collect();
    let offered: Vec<_> =
        inventory.packages.iter().filter(|package| names.contains(package.name.as_str())).collect();
    let watched = units::of_packages(
        &look.dpkg,
        offered.iter().map(|package| (package.name.as_str(), package.architecture.as_str())),
    );
    let (memory, disk) = (facts::memory(), facts::disk());
    Report {
        // Of fixed length, so that the order of names is the order of numbers.
        id: format!("{number:016}"),
        at: now,
        agent: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: facts::boot_id(),
        uptime: facts::uptime(),
        stage: state.stage.clone(),
        good_commit: good_commit(state),
        convergence: convergence(state, &look.journal),
        waiting: waiting(state),
        quarantined: quarantined(state),
        drift: state.drift.as_ref().map(|found| drift(found, look.drift.as_ref())),
        packages: offered.iter().map(|package| (package.name.clone(), package.version.to_string())).collect(),
        packages_total: total(&inventory),
        failed_units: units::failed().unwrap_or_default().into_iter().collect(),
        units: active(&watched),
        checks: look.checks,
        memory_total: memory.total,
        memory_available: memory.free,
        disk_total: disk.total,
        disk_free: disk.free,
        image: look.image,
        facts: facts::facts(architecture),
        suite_age: look.source.as_ref().and_then(|source| apt::suite_age(source, now)),
    }
}

fn total(inventory: &Inventory) -> u32 {
    u32::try_from(inventory.packages.len()).unwrap_or(u32::MAX)
}

fn active(watched: &BTreeSet<String>) -> BTreeMap<String, String> {
    let looked = units::look(watched).unwrap_or_default();
    // A unit that nobody enabled and that does not run is not expected to.
    let dormant = |unit: &units::Unit| unit.active == "inactive" && unit.file != "enabled";
    looked.into_iter().filter(|(_, unit)| !dormant(unit)).map(|(name, unit)| (name, unit.active)).collect()
}

/// The commit that holds, counting the convergence that just ended well.
fn good_commit(state: &State) -> Option<volary_model::CommitId> {
    match &state.phase {
        Phase::Report { work, outcome: Outcome::Good, .. } => Some(work.target.commit.clone()),
        _ => state.good.as_ref().map(|good| good.commit.clone()),
    }
}

fn convergence(state: &State, journal: &str) -> Option<wire::Convergence> {
    let Phase::Report { work, outcome, failure, undone, ended_at } = &state.phase else { return None };
    Some(wire::Convergence {
        commit: work.target.commit.clone(),
        suite: work.suite.clone(),
        outcome: match outcome {
            Outcome::Good => wire::Outcome::Good,
            Outcome::Failed => wire::Outcome::Failed,
            Outcome::Refused => wire::Outcome::Refused,
            // A server that does not know of undos takes it as what it was before the undo.
            Outcome::Reverted => wire::Outcome::Failed,
        },
        reverted: undone.as_deref().map(|undone| reverted(state, undone, journal)),
        failure: failure.as_ref().map(wire_failure),
        started_at: work.started_at,
        ended_at: *ended_at,
        changed_tasks: work.changed_tasks,
        packages: work.packages.clone(),
    })
}

fn reverted(state: &State, undone: &Undone, journal: &str) -> wire::Reverted {
    let by = match undone.by {
        UndoneBy::Agent => "agent",
        UndoneBy::Timer => "timer",
        UndoneBy::Boot => "boot",
        UndoneBy::Person => "person",
    };
    wire::Reverted {
        by: by.to_owned(),
        reason: undone.words(),
        at: undone.at,
        path_works: undone.path_works,
        rebooted: undone.rebooted,
        restored: undone.restored.clone(),
        left: undone.left.clone(),
        quarantined: state.quarantine(&undone.target).is_some(),
        journal: journal.to_owned(),
    }
}

fn waiting(state: &State) -> Option<wire::Waiting> {
    let Phase::Idle(Rest::Waiting(waiting)) = &state.phase else { return None };
    Some(wire::Waiting {
        commit: waiting.work.target.commit.clone(),
        obstacles: waiting.obstacles.iter().map(ToString::to_string).collect(),
        held: waiting
            .obstacles
            .iter()
            .any(|obstacle| matches!(obstacle, Obstacle::Held(_) | Obstacle::HeldUntil(..))),
        turn: matches!(waiting.obstacles[..], [Obstacle::Budget(_)]),
    })
}

fn quarantined(state: &State) -> Vec<wire::Quarantined> {
    let quarantined = state.reverted.iter().filter(|reverted| reverted.quarantined);
    quarantined
        .map(|reverted| wire::Quarantined {
            commit: reverted.target.commit.clone(),
            rolling: reverted.target.rolling.clone(),
            failure: wire_failure(&reverted.failure),
            at: reverted.at,
            times: reverted.times,
        })
        .collect()
}

/// What the machine remembers of a look for drift, with its details if they are those of that look.
fn drift(found: &Drift, details: Option<&Details>) -> wire::Drift {
    let details =
        details.filter(|details| details.names() == found.changes && details.commit == found.commit);
    let failure = found.failure.as_ref().map(wire_failure);
    match details {
        Some(details) if failure.is_none() => wire::Drift {
            at: found.at,
            commit: found.commit.clone(),
            tasks: details.tasks.clone(),
            tasks_total: details.tasks_total,
            packages: details.packages.clone(),
            failure,
        },
        Some(_) | None => wire::Drift {
            at: found.at,
            commit: found.commit.clone(),
            tasks: found
                .changes
                .iter()
                .map(|name| wire::DriftedTask { task: name.clone(), diff: String::new() })
                .collect(),
            tasks_total: u32::try_from(found.changes.len()).unwrap_or(u32::MAX),
            packages: BTreeMap::new(),
            failure,
        },
    }
}

fn wire_failure(failure: &Failure) -> wire::Failure {
    wire::Failure {
        step: failure.step.name().to_owned(),
        what: failure.what.clone(),
        message: failure.message.clone(),
    }
}
