//! What is to be told of a Mender device in the words of our own agent's reports, so that conditions, gates,
//! the page and the commands treat it like any other device.

use std::collections::BTreeMap;

use jiff::Timestamp;
use volary_api::v1::device::{
    Convergence, Failure, Outcome, Quarantined, Report, Reverted, RunningImage, Waiting,
};
use volary_model::{CommitId, StageName};
use volary_plan::text;
use volary_store::{Deployment, DeploymentState, MenderDevice};

use super::deployment::is_error;

/// How many lines of a client's log go into a report; all of it is with the deployment.
const JOURNAL: usize = 60;

/// What is known of a device when a report is made.
pub(crate) struct Known<'a> {
    /// Its stage.
    pub(crate) stage: &'a StageName,
    /// The commit that it is good at.
    pub(crate) good_commit: Option<&'a CommitId>,
    /// The tip of its stage.
    pub(crate) tip: Option<&'a CommitId>,
    /// What the client said of itself.
    pub(crate) client: &'a MenderDevice,
    /// Its deployments, newest first.
    pub(crate) history: &'a [Deployment],
}

/// A report of a device, about a convergence if there is one.
pub(crate) fn report(
    known: &Known<'_>,
    convergence: Option<Convergence>,
    id: String,
    now: Timestamp,
) -> Report {
    let inventory = &known.client.inventory;
    let value = |name: &str| inventory.get(name).and_then(|values| values.first()).cloned();
    let good = convergence.as_ref().filter(|run| run.outcome == Outcome::Good).map(|run| run.commit.clone());
    let version = value("mender_client_version").map(|version| format!(" {version}")).unwrap_or_default();
    Report {
        id,
        at: now,
        agent: format!("mender-client{version}"),
        boot_id: String::new(),
        uptime: 0,
        stage: known.stage.clone(),
        good_commit: good.or_else(|| known.good_commit.cloned()),
        convergence,
        waiting: waiting(known),
        quarantined: quarantined(known.history),
        drift: None,
        packages: BTreeMap::new(),
        packages_total: 0,
        failed_units: Vec::new(),
        units: BTreeMap::new(),
        checks: Vec::new(),
        memory_total: 0,
        memory_available: 0,
        disk_total: 0,
        disk_free: 0,
        image: image(known),
        facts: inventory.iter().map(|(name, values)| (name.clone(), values.join(", "))).collect(),
        suite_age: None,
    }
}

/// What it runs, as it said last.
fn image(known: &Known<'_>) -> Option<RunningImage> {
    let provides = &known.client.provides;
    let newest = known.history.first();
    let name = provides.get("artifact_name")?.clone();
    let on_trial =
        newest.is_some_and(|newest| !newest.state.is_over() && newest.furthest == DeploymentState::Rebooting);
    let device_type = provides.get("device_type")?.clone();
    Some(RunningImage { device_type, name, slot: None, on_trial })
}

fn waiting(known: &Known<'_>) -> Option<Waiting> {
    let commit = known.tip?;
    if let Some(open) = known.history.first().filter(|newest| !newest.state.is_over()) {
        return Some(Waiting {
            commit: open.commit.clone(),
            obstacles: vec![progress(open)],
            held: false,
            turn: false,
        });
    }
    let why = &known.client.obstacle;
    (!why.is_empty()).then(|| Waiting {
        commit: commit.clone(),
        obstacles: vec![why.clone()],
        held: false,
        turn: false,
    })
}

/// Where an open deployment stands, in a sentence.
fn progress(open: &Deployment) -> String {
    let does = match open.state {
        DeploymentState::Pending => "was told of",
        DeploymentState::Downloading => "downloads",
        DeploymentState::Installing if open.furthest == DeploymentState::Rebooting => "tries",
        DeploymentState::Installing => "installs",
        DeploymentState::Rebooting => "reboots into",
        DeploymentState::Success => "runs",
        DeploymentState::AlreadyInstalled => "had",
        DeploymentState::Failure | DeploymentState::Aborted => "does without",
    };
    let more = if open.substate.is_empty() { String::new() } else { format!(" ({})", open.substate) };
    format!("{does} image {}{more}", open.name)
}

fn quarantined(history: &[Deployment]) -> Vec<Quarantined> {
    let held = history.iter().rev().filter(|past| past.held);
    held.map(|past| Quarantined {
        commit: past.commit.clone(),
        rolling: String::new(),
        failure: failure(past, past.log.as_deref().and_then(error_in)),
        at: past.finished_at.unwrap_or(past.changed_at),
        times: 1,
    })
    .collect()
}

/// A convergence that had nothing to do: the device runs already what the commit pins, or the commit pins
/// nothing for it.
pub(crate) fn nothing_to_do(commit: &CommitId, now: Timestamp) -> Convergence {
    Convergence {
        commit: commit.clone(),
        suite: None,
        outcome: Outcome::Good,
        failure: None,
        reverted: None,
        started_at: now,
        ended_at: now,
        changed_tasks: 0,
        packages: BTreeMap::new(),
    }
}

/// The convergence that a deployment was, once it is over. `None` if it was called back because something
/// else is to come, which says nothing of the device.
pub(crate) fn convergence(over: &Deployment, error: Option<&str>) -> Option<Convergence> {
    let ended_at = over.finished_at.unwrap_or(over.changed_at);
    let run = Convergence { started_at: over.created_at, ..nothing_to_do(&over.commit, ended_at) };
    match over.state {
        DeploymentState::Success | DeploymentState::AlreadyInstalled => Some(run),
        DeploymentState::Aborted if !over.held => None,
        DeploymentState::Failure | DeploymentState::Aborted => Some(Convergence {
            outcome: Outcome::Failed,
            failure: Some(failure(over, error)),
            reverted: reverted(over, error),
            ..run
        }),
        DeploymentState::Pending
        | DeploymentState::Downloading
        | DeploymentState::Installing
        | DeploymentState::Rebooting => None,
    }
}

fn failure(over: &Deployment, error: Option<&str>) -> Failure {
    let step = if over.furthest < DeploymentState::Installing { "fetch" } else { "image" };
    let message = match error {
        Some(error) => error.to_owned(),
        None if over.state == DeploymentState::Aborted => format!("it was called back: {}", over.substate),
        None => match over.furthest {
            DeploymentState::Rebooting => "the device went back to the image that it had before".to_owned(),
            DeploymentState::Installing => "it could not be installed".to_owned(),
            _ => "it could not be fetched, or is none that the device takes".to_owned(),
        },
    };
    Failure { step: step.to_owned(), what: over.name.to_string(), message }
}

/// How the device was put back, if there was something to put back.
fn reverted(over: &Deployment, error: Option<&str>) -> Option<Reverted> {
    if over.furthest < DeploymentState::Installing {
        return None;
    }
    let before = over.provides.get("artifact_name").map_or("unknown", String::as_str);
    Some(Reverted {
        by: "agent".to_owned(),
        reason: failure(over, error).message,
        at: over.finished_at.unwrap_or(over.changed_at),
        path_works: Some(true),
        rebooted: over.furthest == DeploymentState::Rebooting,
        restored: vec![format!("image {before}")],
        left: Vec::new(),
        quarantined: over.held,
        journal: over.log.as_deref().map(journal).unwrap_or_default(),
    })
}

/// The end of a log, without what only its author wants to know.
fn journal(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| level(line) != Some("debug")).collect();
    lines[lines.len().saturating_sub(JOURNAL)..].join("\n")
}

/// The last error of a log as it is kept.
fn error_in(log: &str) -> Option<&str> {
    let mut errors = log.lines().filter(|line| level(line).is_some_and(is_error));
    errors.next_back().and_then(|line| line.splitn(3, ' ').nth(2))
}

fn level(line: &str) -> Option<&str> {
    line.split(' ').nth(1)
}

/// What a deployment is as an event: its kind and a sentence. Steps on the way are none.
pub(crate) fn event(device: &str, deployment: &Deployment) -> Option<(&'static str, String)> {
    let image = format!("image {}", deployment.name);
    let took = deployment.changed_at.duration_since(deployment.created_at);
    let took = text::duration(std::time::Duration::try_from(took).unwrap_or_default());
    Some(match deployment.state {
        DeploymentState::Pending => ("device-updating", format!("{device} is sent {image}")),
        DeploymentState::Success => ("device-updated", format!("{device} runs {image}, after {took}")),
        DeploymentState::AlreadyInstalled => ("device-updated", format!("{device} had {image} already")),
        DeploymentState::Failure if deployment.furthest < DeploymentState::Installing => {
            ("device-update-failed", format!("{device} could not fetch {image}"))
        }
        DeploymentState::Failure => ("device-update-failed", format!("{device} went back from {image}")),
        DeploymentState::Aborted => (
            "device-update-aborted",
            format!("{image} was called back from {device}: {}", deployment.substate),
        ),
        DeploymentState::Downloading | DeploymentState::Installing | DeploymentState::Rebooting => {
            return None;
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mender::deployment::tests::deployment;

    fn check(state: DeploymentState, furthest: DeploymentState, held: bool, expected: &str) {
        let over = Deployment { state, furthest, held, log: Some("a\nb\n".into()), ..deployment() };
        let said = match convergence(&over, None) {
            None => "nothing".to_owned(),
            Some(run) => {
                let failure = run.failure.map(|failure| format!(" {}: {}", failure.step, failure.message));
                let back = run.reverted.map(|back| format!(", back to {}", back.restored.join(" ")));
                format!("{:?}{}{}", run.outcome, failure.unwrap_or_default(), back.unwrap_or_default())
            }
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn each_end_is_a_convergence() {
        use DeploymentState::{
            Aborted, AlreadyInstalled, Downloading, Failure, Installing, Pending, Rebooting, Success,
        };
        check(Success, Rebooting, false, "Good");
        check(AlreadyInstalled, Pending, false, "Good");
        check(
            Failure,
            Rebooting,
            true,
            "Failed image: the device went back to the image that it had before, back to image release-1",
        );
        check(Failure, Installing, true, "Failed image: it could not be installed, back to image release-1");
        check(
            Failure,
            Downloading,
            false,
            "Failed fetch: it could not be fetched, or is none that the device takes",
        );
        check(Aborted, Installing, false, "nothing");
        check(Aborted, Downloading, true, "Failed fetch: it was called back: ");
        check(Installing, Rebooting, false, "nothing");
    }

    #[test]
    fn a_report_says_what_runs_and_what_happens() {
        let one = |value: &str| vec![value.to_owned()];
        let client = MenderDevice {
            identity: String::new(),
            provides: deployment().provides,
            inventory: BTreeMap::from([
                ("mender_client_version".into(), one("3.4.0")),
                ("mem_total_kB".into(), one("1024")),
                ("mac".into(), vec!["a".into(), "b".into()]),
            ]),
            obstacle: "its window is closed".into(),
        };
        let (stage, tip) = ("canary".parse().unwrap(), "b".repeat(40).parse().unwrap());
        let make = |history: &[Deployment]| {
            let known = Known { stage: &stage, good_commit: None, tip: Some(&tip), client: &client, history };
            report(&known, None, "1".into(), Timestamp::UNIX_EPOCH)
        };
        let idle = make(&[]);
        assert_eq!(
            (idle.agent.as_str(), idle.facts["mem_total_kB"].as_str()),
            ("mender-client 3.4.0", "1024")
        );
        assert_eq!((idle.facts["mac"].as_str(), idle.image.unwrap().name.as_str()), ("a, b", "release-1"));
        assert_eq!(idle.waiting.unwrap().obstacles, ["its window is closed"]);
        let open = Deployment {
            state: DeploymentState::Installing,
            furthest: DeploymentState::Rebooting,
            substate: "x".into(),
            ..deployment()
        };
        let busy = make(std::slice::from_ref(&open));
        assert_eq!(busy.waiting.unwrap().obstacles, ["tries image release-2 (x)"]);
        assert!(busy.image.unwrap().on_trial);
        let done = make(&[Deployment { state: DeploymentState::Success, ..open.clone() }]);
        assert!(!done.image.unwrap().on_trial);
        let log = "t error early\nt debug x\nt ERROR no boot: 7\nt info bye\n".to_owned();
        let failed = Deployment { state: DeploymentState::Failure, held: true, log: Some(log), ..open };
        let back = convergence(&failed, None).unwrap().reverted.unwrap();
        assert_eq!(back.journal, "t error early\nt ERROR no boot: 7\nt info bye");
        let failed = make(&[failed]);
        assert_eq!(failed.quarantined[0].failure.message, "no boot: 7");
        assert_eq!((failed.quarantined.len(), failed.image.unwrap().name.as_str()), (1, "release-1"));
    }
}
