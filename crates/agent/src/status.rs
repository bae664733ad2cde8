//! `volary-agent status`: what the device knows of itself, without asking anybody.

use jiff::Timestamp;
use serde::Serialize;
use volary_device::{Phase, Rest, State};
use volary_model::{CommitId, DeviceName, StageName};

use crate::config::Config;

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
    /// Reports that wait to be sent.
    pub waiting_reports: usize,
}

/// A convergence that did not end well.
#[derive(Debug, Serialize)]
pub struct Trouble {
    /// `failed` or `refused`.
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

impl Status {
    /// Puts it together.
    pub fn new(config: &Config, state: &State, waiting_reports: usize) -> Self {
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
            Phase::Idle(Rest::Failed(failed)) => ("idle", Some(trouble("failed", failed))),
            Phase::Idle(Rest::Refused(refused)) => ("idle", Some(trouble("refused", refused))),
            Phase::Fetch(_) => ("fetch", None),
            Phase::Verify(_) => ("verify", None),
            Phase::Apply(_, step) => (step.name(), None),
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
        if self.waiting_reports > 0 {
            lines.push(format!("reports   {} wait to be sent", self.waiting_reports));
        }
        lines.join("\n")
    }
}
