//! Looks for what differs from the commit that holds: what the playbook would change, by Ansible's
//! check mode, and packages that are not at the suite's version. Nothing is changed. When to look, and
//! whether to repair, is decided in `volary-device`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use volary_api::v1::device::DriftedTask;
use volary_device::{Event, Failure, Step, Work};
use volary_host::{FileError, read, write_atomic};
use volary_model::CommitId;

use crate::agent::Agent;
use crate::paths::Paths;
use crate::repo::RepoError;
use crate::{log, work};

/// How many tasks are told with their differences, and how long these may be: it goes with each
/// report until the next look.
const TASKS: usize = 20;
const DIFF: usize = 1000;

/// How many packages are told.
const PACKAGES: usize = 50;

/// How many names the machine gets: as many as it keeps.
const NAMES: usize = 50;

/// What was found, in more words than the ledger needs. Kept beside it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Found {
    tasks: Vec<DriftedTask>,
    packages: BTreeMap<String, (String, String)>,
}

/// What was found against a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Details {
    /// The commit.
    pub commit: CommitId,
    /// Tasks that would change something, the first of them, each with the beginning of its
    /// difference.
    pub tasks: Vec<DriftedTask>,
    /// How many tasks that are in all.
    pub tasks_total: u32,
    /// Packages that are not at the suite's version: name → (installed, suite's).
    pub packages: BTreeMap<String, (String, String)>,
    /// What the machine is told: names of tasks and packages.
    names: Vec<String>,
}

impl Details {
    fn new(commit: CommitId, found: Found) -> Self {
        let package = |name: &String| format!("package {name}");
        let names = found.tasks.iter().map(|task| task.task.clone());
        let short = |task: &DriftedTask| DriftedTask {
            task: task.task.clone(),
            diff: task.diff.chars().take(DIFF).collect(),
        };
        Self {
            commit,
            names: names.chain(found.packages.keys().map(package)).take(NAMES).collect(),
            tasks_total: u32::try_from(found.tasks.len()).unwrap_or(u32::MAX),
            tasks: found.tasks.iter().take(TASKS).map(short).collect(),
            packages: found.packages.into_iter().take(PACKAGES).collect(),
        }
    }

    /// What the machine was told of it.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

/// Looks, and keeps what was found.
pub fn look(agent: &Agent, work: &Work) -> Event {
    log::say("looking for what differs from the commit");
    let failed = |step, message: String| {
        Event::Failed(Failure { step, what: String::new(), message: message.chars().take(4000).collect() })
    };
    let found = match find(agent, work) {
        Ok(found) => found,
        Err((step, message)) => return failed(step, message),
    };
    let details = Details::new(work.target.commit.clone(), found);
    let changes = details.names.clone();
    if let Err(error) = keep(&agent.paths, &details) {
        log::say(error.to_string());
    }
    Event::Drifted { changes }
}

fn find(agent: &Agent, work: &Work) -> Result<Found, (Step, String)> {
    let suite = suite_of(agent, work).map_err(|error| (Step::Verify, error.to_string()))?;
    let limit = agent.state.policy.run_within;
    let tasks = work::would_change(agent, &work.target, suite.as_deref(), limit)
        .map_err(|error| (Step::Playbook, format!("{}: {error}", error.what())))?;
    let packages = match &suite {
        Some(suite) => work::would_move(agent, suite).map_err(|error| (Step::Packages, error.to_string()))?,
        None => BTreeMap::new(),
    };
    Ok(Found { tasks, packages })
}

/// The suite of the commit, whose files are put on disk again if somebody touched them.
fn suite_of(agent: &Agent, work: &Work) -> Result<Option<String>, RepoError> {
    let repo = agent.repo()?;
    let wishes = repo.wishes(&work.target)?;
    repo.checkout(&work.target.commit)?;
    Ok(wishes.lock.suite_for(&wishes.stage).map(|suite| suite.to_string()))
}

fn keep(paths: &Paths, details: &Details) -> Result<(), FileError> {
    let json = serde_json::to_vec(details).expect("details have only text keys");
    write_atomic(&paths.drift(), &json, 0o600)
}

/// What the last look found, if it is still there.
pub fn details(paths: &Paths) -> Option<Details> {
    serde_json::from_slice(&read(&paths.drift()).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_is_bounded_and_the_machine_hears_of_packages_too() {
        let task = |number: usize| DriftedTask { task: format!("task {number}"), diff: "é".repeat(5000) };
        let version = ("1".to_owned(), "2".to_owned());
        let found = Found {
            tasks: (0..200).map(task).collect(),
            packages: (0..99).map(|number| (format!("p{number:02}"), version.clone())).collect(),
        };
        let details = Details::new("a".repeat(40).parse().unwrap(), found);
        assert_eq!(
            (details.tasks.len(), details.tasks_total, details.packages.len()),
            (TASKS, 200, PACKAGES)
        );
        assert_eq!(details.tasks[0].diff.chars().count(), DIFF);
        assert_eq!(details.names().len(), NAMES);
        let one = Found { tasks: vec![task(0)], packages: [("pulse".to_owned(), version)].into() };
        let details = Details::new("a".repeat(40).parse().unwrap(), one);
        assert_eq!(details.names(), ["task 0", "package pulse"]);
    }
}
