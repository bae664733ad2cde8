//! `volary.yml`: the stages of a fleet, who may sign for them, the gates between them, and how
//! their devices go through a change.
//!
//! Read by hand from YAML nodes, so that each complaint names field, line and remedy. One file
//! here for each kind of section; `docs/volary-yml.md` explains them to people. What follows from
//! them is decided elsewhere.

mod conduct;
mod freeze;
mod gates;
mod metrics;
mod needs;
mod promote;
mod rollout;
mod stages;
mod watch;
mod windows;

use std::collections::BTreeMap;
use std::time::Duration;

use volary_model::{StageName, WatchRule};

use crate::fields::{FieldError, Fields, did_you_mean};

pub use conduct::{Drift, DriftAction};
pub use freeze::{Freeze, Moment};
pub use gates::{Gates, Healthy, MergeHours, NoWorseThan, Percent};
pub use metrics::{Metrics, SERIES};
pub use needs::{AgentVersion, InvalidAgentVersion, TooOld};
pub(crate) use needs::{asks_for_enough, check as check_age};
pub use promote::{PROMOTER, Promote};
pub use rollout::{Rollout, SITE_VARIABLE, Waves};
pub use stages::{Packages, Stage};
pub use windows::{Weekdays, Window, Windows, Zone};

/// How often devices ask when `poll` is not given: soon enough for a person who waits.
const DEFAULT_POLL: Duration = Duration::from_secs(60);

/// The longest open question: what stands between device and server forgets silent connections.
const LONGEST_POLL: Duration = Duration::from_secs(300);

/// Every section that may stand in the file.
const SECTIONS: &[&str] = &[
    "version",
    needs::KEY,
    "stages",
    "gates",
    "signers",
    "quorum",
    "promote",
    "poll",
    "long_poll",
    "confirm",
    "run_within",
    "checkpoint",
    "carry",
    "windows",
    "freeze",
    "stop",
    "splay",
    "rollout",
    "drift",
    "fresh",
    "metrics",
    "watch",
];

/// The content of `volary.yml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetConfig {
    /// How new an agent must be to read the file; any can where nothing is said.
    pub needs_agent: Option<AgentVersion>,
    /// The stages, each after the one it takes merges from; the first has no `from`.
    pub stages: Vec<Stage>,
    /// Conditions for merging *into* a stage.
    pub gates: BTreeMap<StageName, Gates>,
    /// Principals of `.volary/allowed_signers` that may sign for a stage; a stage that is not
    /// named here takes all of them.
    pub signers: BTreeMap<StageName, Vec<String>>,
    /// How many different people must have signed; one where nothing is said.
    pub quorum: BTreeMap<StageName, u32>,
    /// Who merges into a stage; people where nothing is said.
    pub promote: BTreeMap<StageName, Promote>,
    /// How often devices ask for news.
    pub poll: Duration,
    /// How long a question of a device stays open for news to come; not at all if zero.
    pub long_poll: Duration,
    /// How long a change is watched before it counts as good.
    pub confirm: BTreeMap<StageName, Duration>,
    /// How long one convergence may take.
    pub run_within: BTreeMap<StageName, Duration>,
    /// Trees that are saved before a change, beside those that always are: absolute paths.
    pub checkpoint: Vec<String>,
    /// What goes into a new slot with its image, beside what always does: absolute paths.
    pub carry: Vec<String>,
    /// When devices may change; at any time where nothing is said.
    pub windows: BTreeMap<StageName, Windows>,
    /// Times in which nothing changes.
    pub freezes: Vec<Freeze>,
    /// Stages that change nothing until a later commit takes the stop away, and why.
    pub stops: BTreeMap<StageName, String>,
    /// Over how long the devices of a stage spread the beginning of a change.
    pub splay: BTreeMap<StageName, Duration>,
    /// How a stage is rolled out.
    pub rollout: BTreeMap<StageName, Rollout>,
    /// Looking for what changed on devices without a commit; not looked for where nothing is said.
    pub drift: BTreeMap<StageName, Drift>,
    /// A commit of the stage that is older than this makes a device say that its server may keep
    /// newer ones back.
    pub fresh: BTreeMap<StageName, Duration>,
    /// Rules that watch devices.
    pub watch: Vec<WatchRule>,
    /// What devices measure; `None` is nothing. A stage that is not named has the default.
    pub metrics: BTreeMap<StageName, Option<Metrics>>,
}

impl FleetConfig {
    /// Parses and validates the text of `volary.yml`.
    ///
    /// # Errors
    /// [`FieldError`] with line, field and remedy.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let root = crate::yaml::parse(text).map_err(FieldError::from)?;
        // First of all: a newer file may have anything else in it.
        let needs_agent = needs::needed(&root)?;
        if let Err(too_old) = needs::check(text) {
            let fields = Fields::of_any_key(&root, "")?;
            return Err(fields.complain(needs::KEY, too_old.to_string(), "update Volary here first"));
        }
        let fields = Fields::new(&root, "", SECTIONS)?;
        fields.version()?;
        let stages = stages::stages(&fields)?;
        let names: Vec<StageName> = stages.iter().map(|stage| stage.name.clone()).collect();
        let config = Self {
            needs_agent,
            stages,
            gates: per_stage(&fields, "gates", &names, gates::gates)?,
            signers: per_stage(&fields, "signers", &names, gates::signers)?,
            quorum: per_stage(&fields, "quorum", &names, gates::quorum)?,
            promote: per_stage(&fields, "promote", &names, promote::promote)?,
            poll: match fields.get("poll") {
                Some(_) => fields.duration("poll", Duration::from_secs(1), Duration::from_secs(86_400))?,
                None => DEFAULT_POLL,
            },
            long_poll: match fields.get("long_poll") {
                Some(_) => fields.duration("long_poll", Duration::from_secs(10), LONGEST_POLL)?,
                None => Duration::ZERO,
            },
            confirm: per_stage(&fields, "confirm", &names, conduct::confirm)?,
            run_within: per_stage(&fields, "run_within", &names, conduct::run_within)?,
            checkpoint: conduct::paths(&fields, "checkpoint")?,
            carry: conduct::paths(&fields, "carry")?,
            windows: per_stage(&fields, "windows", &names, windows::windows)?,
            freezes: freeze::freezes(&fields, &names)?,
            stops: per_stage(&fields, "stop", &names, freeze::stop)?,
            splay: per_stage(&fields, "splay", &names, conduct::splay)?,
            rollout: per_stage(&fields, "rollout", &names, rollout::rollout)?,
            drift: per_stage(&fields, "drift", &names, conduct::drift)?,
            fresh: per_stage(&fields, "fresh", &names, conduct::fresh)?,
            watch: watch::rules(&fields, &names)?,
            metrics: per_stage(&fields, "metrics", &names, metrics::metrics)?,
        };
        let contradiction = gates::unknown_stage(&fields, &config.gates, &names)
            .or_else(|| config.first_stage_gate(&fields))
            .or_else(|| promote::into_first(&config, &fields))
            .or_else(|| config.quorum_too_high(&fields));
        contradiction.map_or(Ok(config), Err)
    }

    /// The stage with this name.
    pub fn stage(&self, name: &StageName) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == *name)
    }

    /// The stage that follows this branch.
    pub fn stage_of_branch(&self, branch: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.branch == branch)
    }

    /// The stage without `from`: the one that people push to.
    pub fn first(&self) -> &Stage {
        self.stages.first().expect("a parsed configuration has a first stage")
    }

    /// The stages that take merges from this one.
    pub fn after<'a>(&'a self, name: &'a StageName) -> impl Iterator<Item = &'a Stage> {
        self.stages.iter().filter(move |stage| stage.from.as_ref() == Some(name))
    }

    /// The gates of merging into a stage; none are written as the default.
    pub fn gates_of(&self, name: &StageName) -> Gates {
        self.gates.get(name).cloned().unwrap_or_default()
    }

    /// True if somebody with one of these names may sign for the stage. The server's own key may where
    /// the file says so, and nowhere else.
    pub fn may_sign(&self, stage: &StageName, principals: &[String]) -> bool {
        if principals.iter().any(|name| name == PROMOTER) {
            return self.promote_of(stage) != Promote::People;
        }
        self.signers.get(stage).is_none_or(|names| names.iter().any(|name| principals.contains(name)))
    }

    /// Who merges into a stage.
    pub fn promote_of(&self, name: &StageName) -> Promote {
        self.promote.get(name).copied().unwrap_or_default()
    }

    /// How many different people must have signed for a stage.
    pub fn quorum_of(&self, name: &StageName) -> u32 {
        self.quorum.get(name).copied().unwrap_or(1)
    }

    /// How long a change of this stage is watched before it counts as good.
    pub fn confirm_of(&self, name: &StageName) -> Duration {
        self.confirm.get(name).copied().unwrap_or(conduct::DEFAULT_CONFIRM)
    }

    /// How long one convergence of this stage may take.
    pub fn run_within_of(&self, name: &StageName) -> Duration {
        self.run_within.get(name).copied().unwrap_or(conduct::DEFAULT_RUN)
    }

    /// Over how long the devices of this stage spread the beginning of a change.
    pub fn splay_of(&self, name: &StageName) -> Duration {
        self.splay.get(name).copied().unwrap_or_default()
    }

    /// When the devices of this stage may change; `None` is at any time.
    pub fn windows_of(&self, name: &StageName) -> Option<&Windows> {
        self.windows.get(name)
    }

    /// The freezes of this stage, past and future.
    pub fn freezes_of<'a>(&'a self, name: &'a StageName) -> impl Iterator<Item = &'a Freeze> {
        self.freezes.iter().filter(move |freeze| freeze.stages.contains(name))
    }

    /// Why this stage is stopped, if it is.
    pub fn stop_of(&self, name: &StageName) -> Option<&str> {
        self.stops.get(name).map(String::as_str)
    }

    /// How this stage is rolled out; `None` is all at once.
    pub fn rollout_of(&self, name: &StageName) -> Option<&Rollout> {
        self.rollout.get(name)
    }

    /// How this stage looks for drift; `None` is not at all.
    pub fn drift_of(&self, name: &StageName) -> Option<Drift> {
        self.drift.get(name).copied()
    }

    /// How old the newest commit of this stage may be; `None` is as old as it likes.
    pub fn fresh_of(&self, name: &StageName) -> Option<Duration> {
        self.fresh.get(name).copied()
    }

    /// What the devices of this stage measure; `None` is nothing.
    pub fn metrics_of(&self, name: &StageName) -> Option<Metrics> {
        self.metrics.get(name).cloned().unwrap_or_else(|| Some(Metrics::default()))
    }

    fn first_stage_gate(&self, fields: &Fields<'_>) -> Option<FieldError> {
        let first = &self.first().name;
        self.gates.contains_key(first).then(|| {
            let message =
                format!("{first} is the first stage: people push to it and nothing is merged into it");
            fields.complain("gates", message, format!("remove gates.{first}"))
        })
    }

    /// More people than `signers` names could never sign.
    fn quorum_too_high(&self, fields: &Fields<'_>) -> Option<FieldError> {
        let (stage, needed, there) = self.quorum.iter().find_map(|(stage, needed)| {
            let mut names = self.signers.get(stage)?.clone();
            names.sort();
            names.dedup();
            (usize::try_from(*needed).expect("32 bits fit") > names.len()).then_some((
                stage,
                needed,
                names.len(),
            ))
        })?;
        let message = format!("{needed} people must sign for {stage}, and signers.{stage} names {there}");
        Some(fields.complain("quorum", message, "name more people there, or ask for fewer"))
    }
}

/// A section with one entry for each stage that it speaks of.
fn per_stage<T>(
    root: &Fields<'_>,
    name: &str,
    stages: &[StageName],
    read: fn(&Fields<'_>, &str) -> Result<T, FieldError>,
) -> Result<BTreeMap<StageName, T>, FieldError> {
    let mut map = BTreeMap::new();
    if root.get(name).is_none() {
        return Ok(map);
    }
    let section = root.any_map(name)?;
    for (key, line, _) in root.entries(name)? {
        let Some(stage) = stages.iter().find(|stage| stage.as_str() == key) else {
            let known: Vec<&str> = stages.iter().map(StageName::as_str).collect();
            let message = format!("there is no stage {key:?}");
            return Err(section.complain_at(line, key, message, did_you_mean(key, &known)));
        };
        map.insert(stage.clone(), read(&section, key)?);
    }
    Ok(map)
}
