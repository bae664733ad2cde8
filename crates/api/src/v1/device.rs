//! What devices and server say to each other.
//!
//! | route | request → answer |
//! |---|---|
//! | `POST /device/v1/enroll` | [`Enroll`] → [`Enrolled`]; no client certificate needed |
//! | `GET  /device/v1/desired` | → [`Desired`] with an `ETag`; 304 if nothing changed |
//! | `POST /device/v1/objects` | [`WantObjects`] → a git pack without deltas |
//! | `POST /device/v1/reports` | [`Report`], may be `content-encoding: gzip` → [`Received`] |

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{Architecture, CommitId, DeviceName, StageName};

/// Asks for an identity. Sent again and again until it is accepted; the key in the request
/// makes the repetition recognisable.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Enroll {
    /// The name the device wants: its host name in the inventory.
    pub name: DeviceName,
    /// The PEM certificate signing request, made with a key that never leaves the device.
    pub csr: String,
    /// The secret of a join token, if it has one.
    #[serde(default)]
    pub secret: Option<String>,
    /// What it runs on.
    pub architecture: Architecture,
    /// `PRETTY_NAME` of its os-release.
    pub os: String,
}

/// The answer to [`Enroll`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Enrolled {
    /// Somebody must say `volary device accept NAME`; ask again later.
    Waiting {
        /// How long to wait before asking again, in seconds.
        again_after: u32,
    },
    /// The device belongs to the fleet.
    Accepted {
        /// Its client certificate, PEM.
        certificate: String,
        /// The stage it begins in.
        stage: StageName,
    },
}

/// What the server thinks the device should be at. Only a hint: the device believes signatures,
/// not the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Desired {
    /// The stage that the server has for the device.
    pub stage: StageName,
    /// The branch of that stage.
    pub branch: String,
    /// The branch's tip.
    pub commit: CommitId,
    /// For a stage that follows rolling: a text that changes whenever rolling does, so that a
    /// new package is noticed without a commit. Empty for pinned stages.
    #[serde(default)]
    pub rolling: String,
    /// How long to wait between two questions, in seconds.
    pub poll: u32,
    /// Why the device should not change now, in words, if others of its site change: it counts
    /// where the signed `volary.yml` limits how many may at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
}

/// Asks for the git objects between two commits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WantObjects {
    /// The commit to go to.
    pub want: CommitId,
    /// The commit whose objects are there already.
    #[serde(default)]
    pub have: Option<CommitId>,
}

/// How a convergence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Everything the commit asks for holds and the required checks pass.
    Good,
    /// A step failed; `failure` says which.
    Failed,
    /// The commit was not applied, since it is not to be trusted.
    Refused,
}

/// Which step of a convergence failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step: `verify`, `fetch`, `checkpoint`, `playbook`, `packages`, `check`, `units`, `path`,
    /// `confirm`, `undo`, `revert`. Others may come.
    pub step: String,
    /// What failed in it: the task's, package's, check's or unit's name.
    #[serde(default)]
    pub what: String,
    /// Its message.
    pub message: String,
}

/// The result of one convergence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Convergence {
    /// The commit it went for.
    pub commit: CommitId,
    /// The suite it took packages from: `rolling`, `v1.0/r2`; `None` if there is no release yet.
    #[serde(default)]
    pub suite: Option<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// What failed, unless it is good.
    #[serde(default)]
    pub failure: Option<Failure>,
    /// How the device was put back, if it was. `outcome` is then `failed`, which is all that a
    /// server knows that is older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<Reverted>,
    /// When it started.
    pub started_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// How many tasks of the playbook changed something.
    #[serde(default)]
    pub changed_tasks: u32,
    /// Packages that changed their version: name → (before, after); empty text for "not there".
    #[serde(default)]
    pub packages: BTreeMap<String, (String, String)>,
}

/// How a device was put back after a change that failed or did not hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reverted {
    /// Who did it: `agent`, `timer`, `boot` or `person`.
    pub by: String,
    /// Why, as a sentence.
    pub reason: String,
    /// When.
    pub at: Timestamp,
    /// Whether the server could be reached after it; `None` if it could not before the change.
    #[serde(default)]
    pub path_works: Option<bool>,
    /// True if it took a reboot.
    #[serde(default)]
    pub rebooted: bool,
    /// What was put back.
    #[serde(default)]
    pub restored: Vec<String>,
    /// What could not be put back.
    #[serde(default)]
    pub left: Vec<String>,
    /// True if the device does not try the commit again by itself.
    #[serde(default)]
    pub quarantined: bool,
}

/// A convergence that may not begin yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// The commit to go for.
    pub commit: CommitId,
    /// What stands in the way, as sentences, the weightiest first.
    pub obstacles: Vec<String>,
}

/// A commit that hurt the device, and that it does not try again by itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quarantined {
    /// The commit.
    pub commit: CommitId,
    /// The state of rolling that it met; empty for pinned stages.
    #[serde(default)]
    pub rolling: String,
    /// What failed.
    pub failure: Failure,
    /// When it was undone last.
    pub at: Timestamp,
    /// How often it was undone.
    pub times: u32,
}

/// What differs on a device from the commit that it converged to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// When it was looked for.
    pub at: Timestamp,
    /// The commit.
    pub commit: CommitId,
    /// Tasks that would change something.
    #[serde(default)]
    pub changes: Vec<String>,
    /// Why it could not be found out, if so.
    #[serde(default)]
    pub failure: Option<Failure>,
}

/// What one check of `health/` said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckResult {
    /// Its file name.
    pub name: String,
    /// True if the fleet requires it (`health/required.d`).
    pub required: bool,
    /// True if it exited with 0.
    pub passed: bool,
    /// The end of what it printed.
    #[serde(default)]
    pub output: String,
}

/// What a device tells. Idempotent: the same `id` counts once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Unique for the device; rises.
    pub id: String,
    /// When it was made, by the device's clock.
    pub at: Timestamp,
    /// Version of the agent.
    pub agent: String,
    /// The kernel's boot id: it changes with each boot.
    pub boot_id: String,
    /// Seconds since boot.
    pub uptime: u64,
    /// The stage it follows.
    pub stage: StageName,
    /// The commit that it converged to last with a good end.
    #[serde(default)]
    pub good_commit: Option<CommitId>,
    /// The convergence that this report is about; `None` for a report of health alone.
    #[serde(default)]
    pub convergence: Option<Convergence>,
    /// What the device knows and may not do yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// What it does not try again, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quarantined: Vec<Quarantined>,
    /// What the last look for differences found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<Drift>,
    /// Name → version of the packages that the fleet's archive offers and that are installed.
    #[serde(default)]
    pub packages: BTreeMap<String, String>,
    /// Number of all installed packages.
    #[serde(default)]
    pub packages_total: u32,
    /// Failed systemd units.
    #[serde(default)]
    pub failed_units: Vec<String>,
    /// Watched systemd units (those that came with packages of the archive): name → active state.
    #[serde(default)]
    pub units: BTreeMap<String, String>,
    /// The checks of `health/`.
    #[serde(default)]
    pub checks: Vec<CheckResult>,
    /// Memory of the machine, bytes.
    #[serde(default)]
    pub memory_total: u64,
    /// Memory that is available, bytes.
    #[serde(default)]
    pub memory_available: u64,
    /// Size of the root file system, bytes.
    #[serde(default)]
    pub disk_total: u64,
    /// What is free of it for the superuser, bytes.
    #[serde(default)]
    pub disk_free: u64,
    /// Facts: `architecture`, `os`, `kernel`, …
    #[serde(default)]
    pub facts: BTreeMap<String, String>,
    /// Age of the `InRelease` that apt holds of our suite, seconds.
    #[serde(default)]
    pub suite_age: Option<u64>,
}

/// The server has the report on disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Received {
    /// The report's id.
    pub id: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A report as agents made it before changes were undone.
    const BEFORE: &str = r#"{
        "id": "0000001795000000", "at": "2026-11-22T10:00:00Z", "agent": "0.1.0", "boot_id": "b", "uptime": 60,
        "stage": "canary", "good_commit": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "convergence": {
            "commit": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb", "suite": null, "outcome": "failed",
            "failure": { "step": "units", "what": "a.service", "message": "it has failed" },
            "started_at": "2026-11-22T09:59:00Z", "ended_at": "2026-11-22T10:00:00Z",
            "changed_tasks": 3, "packages": {}
        }
    }"#;

    /// What a server before that read of it, with its own rules: the outcomes were these three.
    #[derive(Deserialize)]
    struct OldReport {
        convergence: Option<OldConvergence>,
    }

    #[derive(Deserialize)]
    struct OldConvergence {
        outcome: OldOutcome,
        failure: Option<Failure>,
        changed_tasks: u32,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    enum OldOutcome {
        Good,
        Failed,
        Refused,
    }

    fn new_report() -> Report {
        let mut report: Report = serde_json::from_str(BEFORE).unwrap();
        let failure = report.convergence.as_ref().and_then(|run| run.failure.clone()).unwrap();
        let commit = report.convergence.as_ref().map(|run| run.commit.clone()).unwrap();
        report.convergence.as_mut().unwrap().reverted = Some(Reverted {
            by: "timer".into(),
            reason: "the agent did not run any more".into(),
            at: report.at,
            path_works: Some(true),
            rebooted: false,
            restored: vec!["/etc/motd".into()],
            left: vec![],
            quarantined: true,
        });
        report.waiting = Some(Waiting { commit: commit.clone(), obstacles: vec!["frozen".into()] });
        let at = report.at;
        report.quarantined =
            vec![Quarantined { commit: commit.clone(), rolling: String::new(), failure, at, times: 1 }];
        report.drift = Some(Drift { at, commit, changes: vec!["motd".into()], failure: None });
        report
    }

    #[test]
    fn a_server_takes_reports_of_agents_that_undo_nothing() {
        let report: Report = serde_json::from_str(BEFORE).unwrap();
        assert_eq!(report.convergence.unwrap().reverted, None);
        assert_eq!((report.waiting, report.quarantined, report.drift), (None, vec![], None));
    }

    #[test]
    fn a_server_that_knows_no_undo_takes_it_as_a_failure() {
        let text = serde_json::to_string(&new_report()).unwrap();
        let old: OldReport = serde_json::from_str(&text).unwrap();
        let run = old.convergence.unwrap();
        assert_eq!((run.outcome, run.changed_tasks), (OldOutcome::Failed, 3));
        assert_eq!(run.failure.unwrap().what, "a.service");
    }

    #[test]
    fn nothing_is_lost_on_the_wire() {
        let text = serde_json::to_string(&new_report()).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), new_report());
    }

    #[test]
    fn an_offer_of_an_older_server_limits_nobody() {
        let text = r#"{"stage": "canary", "branch": "canary", "commit":
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "poll": 60}"#;
        assert_eq!(serde_json::from_str::<Desired>(text).unwrap().budget, None);
    }
}
