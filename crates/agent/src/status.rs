//! `volary-agent status`: what the device knows of itself, without asking anybody.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use volary_device::{Phase, Rest, State};
use volary_model::{CommitId, DeviceName, DeviceType, ImageName, Slot, StageName};

use crate::checkpoint::store::By;
use crate::config::Config;
use crate::paths::Paths;
use crate::slots::Slots;
use crate::slots::journal::{Journal, Progress};
use crate::undo;

/// Everything `status` says; the JSON form of it is stable.
#[derive(Debug, Serialize)]
pub struct Status {
    /// The version of this format: 1.
    pub version: u32,
    /// The version of the agent.
    pub agent: &'static str,
    /// The device.
    pub name: DeviceName,
    /// Its server.
    pub server: String,
    /// The stage it follows.
    pub stage: StageName,
    /// What it is doing: `idle`, `fetch`, `verify`, `playbook`, …
    pub doing: String,
    /// The commit it converged to last with a good end.
    pub good_commit: Option<CommitId>,
    /// Since when.
    pub good_since: Option<Timestamp>,
    /// The commit it accepted last.
    pub accepted_commit: Option<CommitId>,
    /// What went wrong last, if it did.
    pub trouble: Option<Trouble>,
    /// What it would do and may not do yet.
    pub waiting: Option<Waiting>,
    /// What it does not try again by itself, oldest first.
    pub quarantined: Vec<Quarantined>,
    /// Who on the device holds it.
    pub hold: Option<Hold>,
    /// What the last look for differences found.
    pub drift: Option<Drift>,
    /// The last undo, whoever did it.
    pub last_undo: Option<LastUndo>,
    /// Its two slots; `None` on a device that has none.
    pub slots: Option<SlotsStatus>,
    /// Reports that wait to be sent.
    pub waiting_reports: usize,
}

/// A convergence that did not end well.
#[derive(Debug, Serialize)]
pub struct Trouble {
    /// `failed`, `reverted` or `refused`.
    pub outcome: &'static str,
    /// The commit.
    pub commit: CommitId,
    /// The step.
    pub step: &'static str,
    /// What failed in it.
    pub what: String,
    /// Its message.
    pub message: String,
    /// How often in a row.
    pub attempts: u32,
    /// When it is tried again.
    pub retry_at: Timestamp,
}

/// A convergence that may not begin yet.
#[derive(Debug, Serialize)]
pub struct Waiting {
    /// The commit.
    pub commit: CommitId,
    /// What stands in the way, the weightiest first.
    pub obstacles: Vec<String>,
}

/// A commit that hurt this device.
#[derive(Debug, Serialize)]
pub struct Quarantined {
    /// The commit.
    pub commit: CommitId,
    /// What failed, in one sentence.
    pub why: String,
    /// When it was undone last.
    pub at: Timestamp,
    /// How often it was undone.
    pub times: u32,
}

/// A person on the device wants no changes.
#[derive(Debug, Serialize)]
pub struct Hold {
    /// Since when.
    pub since: Timestamp,
    /// Until when at the latest.
    pub until: Option<Timestamp>,
    /// Why.
    pub reason: String,
}

/// The last undo on this device.
#[derive(Debug, Serialize)]
pub struct LastUndo {
    /// What was undone.
    pub commit: CommitId,
    /// When that ended.
    pub at: Timestamp,
    /// Who did it: `agent`, `timer`, `boot` or `person`.
    pub by: &'static str,
    /// Why.
    pub why: String,
    /// How many files were put back or removed.
    pub files: u32,
    /// Packages that were put back: name → (after the change, after the undo).
    pub packages: BTreeMap<String, (String, String)>,
    /// What could not be put back.
    pub left: Vec<String>,
    /// True if it took a reboot.
    pub rebooted: bool,
}

impl LastUndo {
    /// What is told of it.
    pub fn of(undone: &undo::Undone) -> Self {
        Self {
            commit: undone.target.commit.clone(),
            at: undone.at,
            by: match undone.by {
                By::Agent => "agent",
                By::Timer => "timer",
                By::Boot => "boot",
                By::Person => "person",
            },
            why: undone.reason.message.clone(),
            files: undone.files + undone.removed,
            packages: undone.packages.clone(),
            left: undone.could_not.clone(),
            rebooted: undone.rebooted,
        }
    }
}

/// The two slots.
#[derive(Debug, Serialize)]
pub struct SlotsStatus {
    /// The kind of hardware, as the image says.
    pub device_type: Option<DeviceType>,
    /// The image that runs.
    pub image: Option<ImageName>,
    /// The slot that runs, `a` or `b`.
    pub running: Option<Slot>,
    /// The slot that boots next.
    pub next: Option<Slot>,
    /// True until the one that runs was confirmed.
    pub on_trial: bool,
    /// What is known of the other one.
    pub other: &'static str,
    /// What is wrong with them.
    pub problems: Vec<String>,
}

impl SlotsStatus {
    /// Looks; `None` on a device without slots.
    pub fn of(paths: &Paths) -> Option<Self> {
        let mut status = Self {
            device_type: None,
            image: None,
            running: None,
            next: None,
            on_trial: false,
            other: match Journal::load(paths).map(|journal| journal.progress) {
                Some(Progress::Writing { .. }) => "an image, half written",
                Some(Progress::Verified { .. }) => "an image, verified",
                Some(Progress::Used) | None => "what ran before",
            },
            problems: Vec::new(),
        };
        match Slots::open(paths) {
            Ok(None) => return None,
            Ok(Some(slots)) => {
                status.device_type = Some(slots.image.device_type.clone());
                status.image = Some(slots.image.name.clone());
                status.running = Some(slots.running);
                match slots.boot_state() {
                    Ok(found) => {
                        status.next = Some(found.state.at_boot().slot);
                        status.on_trial = found.state.slot == slots.running && found.state.trial.is_some();
                        status.problems = found.damaged;
                    }
                    Err(error) => status.problems.push(error.to_string()),
                }
            }
            Err(error) => status.problems.push(error.to_string()),
        }
        Some(status)
    }

    fn lines(&self) -> Vec<String> {
        let word = |slot: Option<Slot>| slot.map_or_else(|| "unknown".to_owned(), |slot| slot.to_string());
        let image = self.image.as_ref().map_or_else(|| "unknown".to_owned(), ToString::to_string);
        let trial = if self.on_trial { ", on trial" } else { "" };
        let (running, next) = (word(self.running), word(self.next));
        let mut lines = vec![format!("image     {image} in slot {running}{trial}; slot {next} boots next")];
        lines.push(format!("other     {}", self.other));
        lines.extend(self.problems.iter().map(|problem| format!("problem   {problem}")));
        lines
    }
}

/// What differs from the commit that holds.
#[derive(Debug, Serialize)]
pub struct Drift {
    /// When it was looked for.
    pub at: Timestamp,
    /// Tasks that would change something.
    pub changes: Vec<String>,
    /// Why it could not be found out.
    pub failure: Option<String>,
}

impl Status {
    /// Puts it together.
    pub fn new(
        config: &Config,
        state: &State,
        last_undo: Option<&undo::Undone>,
        waiting_reports: usize,
    ) -> Self {
        let trouble = |outcome, trouble: &volary_device::Trouble| Trouble {
            outcome,
            commit: trouble.target.commit.clone(),
            step: trouble.failure.step.name(),
            what: trouble.failure.what.clone(),
            message: trouble.failure.message.clone(),
            attempts: trouble.attempts,
            retry_at: trouble.retry_at,
        };
        let (doing, trouble) = match &state.phase {
            Phase::Idle(Rest::Content) => ("idle", None),
            Phase::Idle(Rest::Waiting(_)) => ("waiting", None),
            Phase::Idle(Rest::Quarantined(_)) => ("quarantined", None),
            Phase::Idle(Rest::Failed(failed)) => ("idle", Some(trouble("failed", failed))),
            Phase::Idle(Rest::Reverted(reverted)) => ("idle", Some(trouble("reverted", reverted))),
            Phase::Idle(Rest::Refused(refused)) => ("idle", Some(trouble("refused", refused))),
            Phase::Fetch(_) => ("fetch", None),
            Phase::Verify(_) => ("verify", None),
            Phase::Install(_) => ("image", None),
            Phase::Checkpoint(_) => ("checkpoint", None),
            Phase::Apply(_, step) => (step.name(), None),
            Phase::Reboot(_) => ("reboot", None),
            Phase::Confirm(_) | Phase::Commit(_) => ("confirm", None),
            Phase::Revert(..) => ("undo", None),
            Phase::Drift(_) => ("drift", None),
            Phase::Report { .. } => ("report", None),
        };
        Self {
            version: 1,
            agent: env!("CARGO_PKG_VERSION"),
            name: config.name.clone(),
            server: config.server.clone(),
            stage: state.stage.clone(),
            doing: doing.to_owned(),
            good_commit: state.good.as_ref().map(|good| good.commit.clone()),
            good_since: state.good_since,
            accepted_commit: state.trusted.clone(),
            trouble,
            waiting: waiting(state),
            quarantined: quarantined(state),
            hold: state.hold.as_ref().map(|hold| Hold {
                since: hold.since,
                until: hold.until,
                reason: hold.reason.clone(),
            }),
            drift: state.drift.as_ref().map(|drift| Drift {
                at: drift.at,
                changes: drift.changes.clone(),
                failure: drift.failure.as_ref().map(ToString::to_string),
            }),
            last_undo: last_undo.map(LastUndo::of),
            slots: None,
            waiting_reports,
        }
    }

    /// For a person.
    pub fn text(&self) -> String {
        let commit = |commit: &Option<CommitId>| {
            commit.as_ref().map_or_else(|| "none yet".to_owned(), |commit| commit.short().to_owned())
        };
        let since = self.good_since.map(|at| format!(" since {}", at.strftime("%F %T UTC")));
        let mut lines = vec![
            format!("device    {}", self.name),
            format!("server    {}", self.server),
            format!("stage     {}", self.stage),
            format!("good      {}{}", commit(&self.good_commit), since.unwrap_or_default()),
            format!("accepted  {}", commit(&self.accepted_commit)),
            format!("doing     {}", self.doing),
        ];
        lines.extend(self.slots.iter().flat_map(SlotsStatus::lines));
        if let Some(trouble) = &self.trouble {
            let what = if trouble.what.is_empty() { String::new() } else { format!(" {:?}", trouble.what) };
            lines.push(format!(
                "{:<9} commit {} in {}{what}",
                trouble.outcome,
                trouble.commit.short(),
                trouble.step
            ));
            lines.extend(trouble.message.lines().map(|line| format!("          {line}")));
            let at = trouble.retry_at.strftime("%F %T UTC");
            lines.push(format!("again     {at}, after {} attempts", trouble.attempts));
        }
        if let Some(waiting) = &self.waiting {
            lines.push(format!("next      commit {}", waiting.commit.short()));
            lines.extend(waiting.obstacles.iter().map(|obstacle| format!("waits     {obstacle}")));
        }
        if let (Some(hold), None) = (&self.hold, &self.waiting) {
            let until = hold.until.map(|at| format!(" until {}", at.strftime("%F %T UTC")));
            lines.push(format!("held      by a person{}: {}", until.unwrap_or_default(), hold.reason));
        }
        for quarantined in &self.quarantined {
            let at = quarantined.at.strftime("%F %T UTC");
            lines.push(format!("bad       commit {}, undone {at}", quarantined.commit.short()));
            lines.extend(quarantined.why.lines().map(|line| format!("          {line}")));
        }
        if self.doing == "quarantined" {
            lines.push("help      the commit is not tried again: volary-agent run --again".to_owned());
        }
        if let Some(undo) = &self.last_undo {
            let at = undo.at.strftime("%F %T UTC");
            let boot = if undo.rebooted { ", with a reboot" } else { "" };
            lines.push(format!("undone    commit {} by the {}{boot}, {at}", undo.commit.short(), undo.by));
            lines.extend(undo.why.lines().next().map(|why| format!("          {why}")));
            lines.extend(undo.left.iter().map(|left| format!("          NOT put back: {left}")));
        }
        if let Some(drift) = self.drift.as_ref().filter(|drift| !drift.changes.is_empty()) {
            lines.push(format!("drift     {} tasks would change something", drift.changes.len()));
            lines.extend(drift.changes.iter().map(|task| format!("          {task}")));
        }
        if self.waiting_reports > 0 {
            lines.push(format!("reports   {} wait to be sent", self.waiting_reports));
        }
        lines.join("\n")
    }
}

fn waiting(state: &State) -> Option<Waiting> {
    let Phase::Idle(Rest::Waiting(waiting)) = &state.phase else { return None };
    Some(Waiting {
        commit: waiting.work.target.commit.clone(),
        obstacles: waiting.obstacles.iter().map(ToString::to_string).collect(),
    })
}

fn quarantined(state: &State) -> Vec<Quarantined> {
    let quarantined = state.reverted.iter().filter(|reverted| reverted.quarantined);
    quarantined
        .map(|reverted| Quarantined {
            commit: reverted.target.commit.clone(),
            why: reverted.failure.to_string(),
            at: reverted.at,
            times: reverted.times,
        })
        .collect()
}
