//! What is known of the devices, put before the pure judgement of `volary-plan`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use volary_api::v1::device::{Convergence, Drift, Failure, Outcome, Report};
use volary_api::v1::status;
use volary_model::{Architecture, CommitId, DeviceName, StageName};
use volary_plan::alert::{Firing, Subject, of_condition};
use volary_plan::condition::{Condition, Ending, Observed, Standing, Tally, Wanted, condition};
use volary_plan::text;
use volary_store::{Client, Device, DeviceState};

use crate::depot::Depot;
use crate::fleet_view::{FleetView, StageView};
use crate::known::Known;
use crate::rollouts::{self, Rollouts};

/// A device with its judgement.
#[derive(Debug, Clone)]
pub(crate) struct Judged {
    /// What the records have, without the long texts.
    pub(crate) record: Arc<Device>,
    /// Its newest report.
    pub(crate) report: Option<Arc<Report>>,
    /// Its newest convergence.
    pub(crate) convergence: Option<Arc<Convergence>>,
    /// When it was heard of last.
    pub(crate) seen_at: Option<Timestamp>,
    /// Whether it is what its stage wants.
    pub(crate) condition: Condition,
    /// Why not.
    pub(crate) reason: String,
    /// What fires because of that.
    pub(crate) firing: Option<Firing>,
}

/// Judges devices against what their stages want now.
pub(crate) struct Judge<'a> {
    view: &'a FleetView,
    depot: &'a Depot,
    /// The rollouts that go on, if they are known.
    rollouts: Option<&'a Rollouts>,
    /// How often Mender clients ask: that is set on each of them, not in `volary.yml`.
    mender_poll: Duration,
    now: Timestamp,
    /// What is wanted of devices of a stage: made once for all that are alike.
    wanted: HashMap<(StageName, Architecture, Client), Wanted>,
}

impl<'a> Judge<'a> {
    /// A judge for this moment.
    pub(crate) fn new(view: &'a FleetView, depot: &'a Depot, mender_poll: Duration, now: Timestamp) -> Self {
        Self { view, depot, rollouts: None, mender_poll, now, wanted: HashMap::new() }
    }

    /// The same one, who knows what devices wait for before they report it.
    pub(crate) fn with(self, rollouts: &'a Rollouts) -> Self {
        Self { rollouts: Some(rollouts), ..self }
    }

    /// Judges one device; `last_seen` is a newer sign of life than the records have.
    pub(crate) fn judge(&mut self, known: &mut Known, last_seen: Option<Timestamp>) -> Judged {
        let Known { record, report, convergence, observed } = known;
        let seen_at = record.seen_at.max(last_seen);
        observed.seen_at = seen_at;
        let waiting = report.as_ref().and_then(|report| report.waiting.as_ref());
        if let Some(waiting) = waiting.filter(|waiting| waiting.turn) {
            let said = self.said_of_rollout(record, &waiting.commit);
            observed.waiting = said.map_or_else(|| waiting.obstacles.clone(), |said| vec![said]);
        }
        let (view, now) = (self.view, self.now);
        let stage = record.stage.as_ref().and_then(|stage| view.stage(stage));
        let (condition, reason) = match stage {
            None if record.state == DeviceState::Accepted && view.read => {
                let stage = record.stage.as_ref().map_or("none", StageName::as_str);
                (Condition::Failed, format!("its stage {stage} is not in volary.yml"))
            }
            stage => {
                let poll = match record.client {
                    Client::Agent => stage.map_or(Duration::from_secs(60), |stage| stage.rhythm.poll),
                    Client::Mender => self.mender_poll,
                };
                match stage {
                    Some(stage) => condition(self.wanted(stage, record), observed, poll, now),
                    None => condition(&Wanted::default(), observed, poll, now),
                }
            }
        };
        let reason = reason.replace("NAME", record.name.as_str());
        let firing = of_condition(&Subject {
            device: &record.name,
            stage: record.stage.as_ref().map(StageName::as_str),
            observed,
            has: record.suite.as_deref(),
            condition,
            reason: &reason,
        });
        let (record, report, convergence) = (record.clone(), report.clone(), convergence.clone());
        Judged { record, report, convergence, seen_at, condition, reason, firing }
    }

    /// Why the rollout of a commit does not let a device begin now, which may be otherwise since it reported.
    fn said_of_rollout(&self, record: &Device, commit: &CommitId) -> Option<String> {
        let stage = record.stage.as_ref()?;
        let rollouts = self.rollouts?;
        rollouts.get(stage).filter(|now| now.state.commit == *commit)?;
        rollouts::may_begin(rollouts, stage, commit, &record.name).err().map(|(reason, _)| reason)
    }

    /// What is wanted of a device of a stage.
    fn wanted(&mut self, stage: &StageView, record: &Device) -> &Wanted {
        let depot = self.depot;
        self.wanted.entry((stage.name.clone(), record.architecture.clone(), record.client)).or_insert_with(
            || {
                let images = stage.images.iter();
                let mut wanted = Wanted {
                    commit: stage.tip.as_ref().map(|tip| tip.commit.clone()),
                    images: images.map(|(of, image)| (of.to_string(), image.name.to_string())).collect(),
                    ..Wanted::default()
                };
                // Packages come to a Mender device with its image alone.
                if let (Some(suite), Client::Agent) = (&stage.suite, record.client) {
                    wanted.suite = Some(suite.to_string());
                    wanted.packages = depot.offers(suite, &record.architecture).unwrap_or_default();
                }
                wanted
            },
        )
    }
}

/// What a device is judged by, without when it was heard of.
pub(crate) fn observed(
    record: &Device,
    report: Option<&Report>,
    convergence: Option<&Convergence>,
) -> Observed {
    let ending = match convergence {
        Some(convergence) => Some(ending(convergence, record)),
        // Its convergence was reported before this server knew it; what it is at says enough.
        None => record.good_commit.as_ref().map(|_| Ending::Good),
    };
    let (commit, suite) = match convergence {
        Some(convergence) => (Some(convergence.commit.clone()), convergence.suite.clone()),
        None => (record.good_commit.clone(), record.suite.clone()),
    };
    Observed {
        standing: match record.state {
            DeviceState::Waiting => Standing::Waiting,
            DeviceState::Accepted => Standing::Accepted,
            DeviceState::Rejected => Standing::Rejected,
        },
        seen_at: record.seen_at,
        commit,
        suite,
        ending,
        packages: report.map(|report| report.packages.clone()).unwrap_or_default(),
        image: report
            .and_then(|report| report.image.as_ref())
            .map(|image| (image.device_type.clone(), image.name.clone())),
        failed_units: report.map(|report| report.failed_units.clone()).unwrap_or_default(),
        failed_checks: report
            .map(|report| {
                let failed = report.checks.iter().filter(|check| check.required && !check.passed);
                failed.map(|check| (check.name.clone(), check.output.clone())).collect()
            })
            .unwrap_or_default(),
        waiting: report
            .and_then(|report| report.waiting.as_ref())
            .map(|waiting| waiting.obstacles.clone())
            .unwrap_or_default(),
        drift: report.and_then(|report| report.drift.as_ref()).and_then(drift_sentence),
    }
}

/// What a look for drift found, in a sentence; `None` if it found nothing.
fn drift_sentence(drift: &Drift) -> Option<String> {
    if let Some(failure) = &drift.failure {
        return Some(format!("could not look for drift: {}: {}", failure.step, failure.message));
    }
    let mut parts = Vec::new();
    if drift.tasks_total > 0 {
        let names: Vec<String> = drift.tasks.iter().map(|task| format!("{:?}", task.task)).collect();
        let count = text::count(drift.tasks_total as usize, "task");
        parts.push(format!("{count} would change something: {}", text::some(&names, 3)));
    }
    let packages: Vec<String> = drift
        .packages
        .iter()
        .map(|(name, (installed, suite))| format!("{name} {installed}, the suite has {suite}"))
        .collect();
    if !packages.is_empty() {
        parts.push(text::some(&packages, 2));
    }
    (!parts.is_empty()).then(|| format!("drifted: {}", parts.join("; ")))
}

fn ending(convergence: &Convergence, record: &Device) -> Ending {
    let failure = convergence.failure.clone();
    if let Some(reverted) = &convergence.reverted {
        let failure = failure.unwrap_or(Failure {
            step: "convergence".into(),
            what: String::new(),
            message: reverted.reason.clone(),
        });
        return Ending::Reverted {
            to: record.good_commit.clone(),
            step: failure.step,
            what: failure.what,
            message: failure.message,
            left: reverted.left.clone(),
            quarantined: reverted.quarantined,
        };
    }
    match convergence.outcome {
        Outcome::Good => Ending::Good,
        Outcome::Unknown => Ending::Failed {
            step: "convergence".into(),
            what: String::new(),
            message: "it ended in a way that this server does not know; bring the server up to date".into(),
        },
        Outcome::Failed => failure.map_or_else(
            || Ending::Failed { step: "convergence".into(), what: String::new(), message: String::new() },
            |failure| Ending::Failed { step: failure.step, what: failure.what, message: failure.message },
        ),
        Outcome::Refused => {
            Ending::Refused(failure.map_or_else(|| "it gave no reason".into(), |failure| failure.message))
        }
    }
}

/// Counts the devices of a stage.
pub(crate) fn tally(devices: &[Judged], stage: &StageName) -> Tally {
    Tally::of(
        devices
            .iter()
            .filter(|device| device.record.stage.as_ref() == Some(stage))
            .map(|device| (&device.record.name, device.condition, device.reason.as_str())),
    )
}

/// How many devices belong to a stage, and the names of the first of them, `most` at most.
pub(crate) fn members(devices: &[Judged], stage: &StageName, most: usize) -> (usize, Vec<DeviceName>) {
    let is_member = |device: &&Judged| {
        device.record.state == DeviceState::Accepted && device.record.stage.as_ref() == Some(stage)
    };
    let all = devices.iter().filter(is_member);
    (all.clone().count(), all.take(most).map(|device| device.record.name.clone()).collect())
}

/// All devices as they were judged last.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// When; `None` before the first time.
    pub(crate) at: Option<Timestamp>,
    /// How long that took.
    pub(crate) took: Duration,
    /// By what the stages wanted.
    pub(crate) view: Arc<FleetView>,
    /// The devices by name.
    pub(crate) devices: Arc<Vec<Judged>>,
}

impl Judged {
    /// The device as the API shows it.
    pub(crate) fn into_api(self) -> status::Device {
        let record = Arc::unwrap_or_clone(self.record);
        status::Device {
            name: record.name,
            stage: record.stage,
            condition: api_condition(self.condition),
            reason: self.reason,
            commit: record.good_commit,
            suite: record.suite,
            since: record.since,
            seen_at: self.seen_at,
            enrolled_at: record.enrolled_at,
            architecture: record.architecture,
            os: record.os,
            fingerprint: record.fingerprint.hex(),
            report: self.report.map(Arc::unwrap_or_clone),
        }
    }
}

/// A condition as the API has it.
pub(crate) fn api_condition(condition: Condition) -> status::Condition {
    match condition {
        Condition::Good => status::Condition::Good,
        Condition::Converging => status::Condition::Converging,
        Condition::Failed => status::Condition::Failed,
        Condition::Refused => status::Condition::Refused,
        Condition::Silent => status::Condition::Silent,
        Condition::Waiting => status::Condition::Waiting,
        Condition::Rejected => status::Condition::Rejected,
        Condition::New => status::Condition::New,
    }
}
