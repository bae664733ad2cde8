//! Puts what the server knows before the gates of `volary-plan`. Runs in the server and, reading
//! only, in git's hook.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use jiff::tz::TimeZone;
use volary_api::v1::fleet::{CveChanges, Say, Verdict};
use volary_fleet::{FleetConfig, GitRepository, LockedImage};
use volary_model::{CommitId, GateName, StageName, Suite};
use volary_plan::gate::{self, Evidence, RolloutSays, Teller, Told};
use volary_plan::rollout::State;
use volary_store::{Branch, GateWord, Rollout, Store};

use crate::Layout;
use crate::config::Config;
use crate::depot::Depot;
use crate::facts::{Judge, Judged, tally};
use crate::fleet_view::{self, FleetView, StageRules};
use crate::hours;
use crate::known::Known;
use crate::measured::Measured;

/// Why gates could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum GateError {
    /// The fleet repository cannot be read.
    #[error("{0}")]
    Fleet(String),
    /// An object of it cannot be read.
    #[error(transparent)]
    Object(#[from] volary_fleet::ObjectError),
    /// The records cannot be read.
    #[error(transparent)]
    Store(#[from] volary_store::StoreError),
    /// The archive cannot be read.
    #[error(transparent)]
    Archive(#[from] volary_archive::Error),
    /// The data of security faults cannot be read.
    #[error("{0}")]
    Cves(String),
    /// The stage is not there, or nothing is merged into it.
    #[error("there is no stage {0} that takes merges")]
    NoStage(StageName),
    /// The runtime could not start.
    #[error("cannot read the records: {0}")]
    Start(#[from] std::io::Error),
}

/// Asks the gates of merging `commit` into the stage `to`, on the folder of a server that may be
/// running: for git's hook and for people on the server itself.
///
/// # Errors
/// [`GateError`]; a gate that lacks data says *ask* instead.
pub fn gates(dir: &Path, to: &StageName, commit: &CommitId) -> Result<Vec<Verdict>, GateError> {
    let layout = Layout::new(dir);
    let repository = fleet_view::open(&layout).map_err(GateError::Fleet)?;
    let config = fleet_view::head_config(&repository).map_err(GateError::Fleet)?;
    of_merge(&layout, &repository, &config, to, commit).map(|asked| asked.verdicts)
}

/// What the gates said, and what they were shown.
pub(crate) struct Asked {
    /// Their words.
    pub(crate) verdicts: Vec<Verdict>,
    /// The devices of the stage before; none if no gate was to be asked.
    pub(crate) devices: Vec<Judged>,
    /// The release revision that the commit pins.
    pub(crate) release: Option<String>,
    /// The security faults that the merge mends and brings.
    pub(crate) cves: Option<CveChanges>,
}

/// As [`gates`], with the repository as the hook sees it.
pub(crate) fn of_merge(
    layout: &Layout,
    repository: &GitRepository,
    config: &FleetConfig,
    to: &StageName,
    commit: &CommitId,
) -> Result<Asked, GateError> {
    let stage = config.stage(to).ok_or_else(|| GateError::NoStage(to.clone()))?;
    let base = repository.branch(&stage.branch)?;
    let asked = fleet_view::gates_into(repository, to, base.as_ref(), commit, config);
    let rules = fleet_view::rules_at(repository, commit, to, config).map_err(GateError::Fleet)?;
    let release = match &rules.suite {
        Some(Suite::Release(release)) => Some(release.to_string()),
        Some(Suite::Rolling) | None => None,
    };
    // Most stages of most fleets have no gates; then nothing needs to be opened.
    let has_waves = in_waves(repository, config, stage.from.as_ref(), commit)?;
    let nothing_is_asked =
        asked == volary_fleet::Gates::default() && pinned(layout, &rules).is_empty() && !has_waves;
    if nothing_is_asked && !layout.cves().is_file() {
        return Ok(Asked { verdicts: Vec::new(), devices: Vec::new(), release, cves: None });
    }
    let view = FleetView::read(layout, &FleetView::default());
    // Opening may finish what a killed server left undone, signatures among it.
    let own = Config::read(&layout.config()).ok();
    let signers = own.as_ref().map(Config::signers).unwrap_or_default();
    let mender_poll = own.as_ref().map(Config::mender_poll).unwrap_or_default();
    let depot = Depot::open(&layout.archive(), signers)?;
    let before = match &base {
        Some(base) => fleet_view::rules_at(repository, base, to, config).map_err(GateError::Fleet)?.suite,
        None => None,
    };
    let cves = crate::cves::between(layout, &depot, before.as_ref(), rules.suite.as_ref());
    let cves = cves.map_err(GateError::Cves)?;
    if nothing_is_asked {
        return Ok(Asked { verdicts: Vec::new(), devices: Vec::new(), release, cves });
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (records, branches, rollouts, words) = runtime.block_on(async {
        let store = Store::open_read_only(&layout.database()).await?;
        let rollouts = store.rollouts().await?;
        let words = store.gate_words(Some(commit)).await?;
        Ok::<_, GateError>((store.devices().await?, store.branches().await?, rollouts, words))
    })?;
    let mut judge = Judge::new(&view, &depot, mender_poll, volary_host::now());
    let devices: Vec<Judged> =
        records.into_iter().map(|record| judge.judge(&mut Known::of(record), None)).collect();
    let question = Question {
        layout,
        repository,
        config,
        depot: &depot,
        devices: &devices,
        branches: &branches,
        rollouts: &rollouts,
        words: &words,
        commands: &own.map(|own| own.gate_commands.into_keys().collect()).unwrap_or_default(),
    };
    let verdicts = question.ask(to, commit)?;
    let is_before = |device: &Judged| device.record.stage == stage.from;
    Ok(Asked { verdicts, devices: devices.into_iter().filter(is_before).collect(), release, cves })
}

/// What is known when gates are asked.
pub(crate) struct Question<'a> {
    /// Where the server's files are.
    pub(crate) layout: &'a Layout,
    /// The fleet repository.
    pub(crate) repository: &'a GitRepository,
    /// Its configuration at the tip of the default branch.
    pub(crate) config: &'a FleetConfig,
    /// The archive.
    pub(crate) depot: &'a Depot,
    /// All devices with their conditions.
    pub(crate) devices: &'a [Judged],
    /// Since when the branches are where they are.
    pub(crate) branches: &'a [Branch],
    /// The rollouts that are kept.
    pub(crate) rollouts: &'a [Rollout<State>],
    /// What was said for gates of the commit, among other words.
    pub(crate) words: &'a [GateWord],
    /// The commands of gates that the server has.
    pub(crate) commands: &'a BTreeSet<GateName>,
}

/// Whether a commit reaches the devices of the stage before in waves.
fn in_waves(
    repository: &GitRepository,
    config: &FleetConfig,
    from: Option<&StageName>,
    commit: &CommitId,
) -> Result<bool, GateError> {
    let Some(from) = from else { return Ok(false) };
    let rules = fleet_view::rules_at(repository, commit, from, config).map_err(GateError::Fleet)?;
    Ok(rules.pace.waves.is_some())
}

impl Question<'_> {
    fn rollout(&self, stage: &StageName, commit: &CommitId) -> RolloutSays {
        let known = self.rollouts.iter().find(|known| known.stage == *stage && known.commit == *commit);
        known.map_or(RolloutSays::Unknown, said)
    }

    /// What is known of a gate whose word comes from elsewhere.
    fn known(&self, told: &Told, to: &StageName, commit: &CommitId) -> gate::Known {
        let stage = match told.from {
            Teller::Command if !self.commands.contains(&told.name) => return gate::Known::NoCommand,
            Teller::Command => Some(to),
            Teller::External => None,
        };
        let of_this = |word: &&GateWord| {
            word.gate == told.name && word.commit == *commit && word.stage.as_ref() == stage
        };
        let said = |word: &GateWord| {
            gate::Known::Said(gate::Word {
                say: say_from(&word.say),
                reason: word.reason.clone(),
                by: word.by.clone(),
                at: word.at,
            })
        };
        self.words.iter().find(of_this).map_or(gate::Known::Nothing, said)
    }

    /// Asks the gates of merging `commit` into `to`.
    pub(crate) fn ask(&self, to: &StageName, commit: &CommitId) -> Result<Vec<Verdict>, GateError> {
        let no_stage = || GateError::NoStage(to.clone());
        let stage = self.config.stage(to).ok_or_else(no_stage)?;
        let from = stage.from.as_ref().and_then(|from| self.config.stage(from)).ok_or_else(no_stage)?;
        let base = self.repository.branch(&stage.branch)?;
        let config = fleet_view::config_into(self.repository, to, base.as_ref(), commit, self.config);
        let asked = config.as_ref().map(|config| config.gates_of(to)).unwrap_or_default();
        let now = volary_host::now();
        let rules =
            fleet_view::rules_at(self.repository, commit, to, self.config).map_err(GateError::Fleet)?;
        let images = pinned(self.layout, &rules);
        let rollout = if rules.when.stop.is_none()
            && in_waves(self.repository, self.config, Some(&from.name), commit)?
        {
            Some(self.rollout(&from.name, commit))
        } else {
            None
        };
        let release = match rules.suite {
            Some(Suite::Release(release)) => Some(release),
            Some(Suite::Rolling) | None => None,
        };
        let frozen_at = match &release {
            Some(release) => self.depot.frozen_at(&release.name)?,
            None => None,
        };
        // The devices of the stage before tell about the commit that they were sent, no other.
        let sent = self.branches.iter().find(|branch| branch.name == from.branch && branch.tip == *commit);
        let is_measured = asked.watch.is_some() || asked.no_worse_than.is_some();
        let measured = if is_measured { Measured::read(self.layout) } else { None };
        let unread = measured.as_ref().and_then(Measured::unread);
        let measured = measured.as_ref().and_then(|measured| measured.of(&from.name, commit, now));
        let gates = plan_gates(&asked);
        let evidence = Evidence {
            told: gates.told.iter().map(|told| self.known(told, to, commit)).collect(),
            frozen_at,
            release,
            unchanged_since: sent.map(|branch| branch.moved_at),
            devices: sent.map(|_| tally(self.devices, &from.name)).unwrap_or_default(),
            images,
            rollout,
            findings: match unread {
                Some(why) => Some(Err(why.to_owned())),
                None => measured.map(|measured| Ok(measured.findings.clone())),
            },
            comparison: match unread {
                Some(why) => Some(Err(why.to_owned())),
                None => measured.and_then(|measured| measured.comparisons.get(to).cloned()),
            },
            hours: asked.time.as_ref().map(|time| hours::of_merges(time, &zone, now)),
            freeze: config.as_ref().map(|config| hours::of_freezes(config.freezes_of(to), now)),
        };
        let verdicts = gate::verdicts(&gates, &evidence, now);
        let known = sent.is_some();
        Ok(verdicts
            .into_iter()
            .map(|verdict| if known { verdict } else { without_devices(verdict, &from.branch) })
            .map(api_verdict)
            .collect())
    }
}

/// How far a rollout is, for the gate.
fn said(rollout: &Rollout<State>) -> RolloutSays {
    let says = rollout.says.clone();
    match &rollout.state {
        state if state.finished_at.is_some() => RolloutSays::Finished(says),
        state if state.halt.is_some() => RolloutSays::Stopped(says),
        _ => RolloutSays::Running(says),
    }
}

/// The images that a commit pins; none if it stops the stage, since that must not wait.
fn pinned(layout: &Layout, rules: &StageRules) -> Vec<gate::PinnedImage> {
    if rules.when.stop.is_some() {
        return Vec::new();
    }
    let known = |image: &LockedImage| layout.image(&image.artifact).is_file();
    let pinned = rules.images.iter().map(|(device_type, image)| gate::PinnedImage {
        name: image.name.clone(),
        device_type: device_type.clone(),
        known: known(image),
    });
    pinned.collect()
}

/// No devices at all could still satisfy a policy that asks for none; and the reason is another.
fn without_devices(verdict: gate::Verdict, branch: &str) -> gate::Verdict {
    if !["healthy", "watch", "no_worse_than"].contains(&verdict.gate.as_ref()) {
        return verdict;
    }
    let reason = format!("the commit is not the tip of {branch}, so its devices say nothing about it");
    gate::Verdict { say: gate::Say::Ask, reason, ..verdict }
}

fn plan_gates(gates: &volary_fleet::Gates) -> gate::Gates {
    gate::Gates {
        frozen: gates.frozen,
        soak: gates.soak,
        healthy: gates.healthy.as_ref().map(|healthy| gate::Healthy {
            at_least: f64::from(healthy.at_least.hundredths()) / 100.0,
            silent_at_most: f64::from(healthy.silent_at_most.hundredths()) / 100.0,
            devices_at_least: healthy.devices_at_least,
        }),
        watch: gates.watch,
        no_worse_than: gates.no_worse_than.is_some(),
        time: gates.time.is_some(),
        freeze: gates.freeze,
        told: told(&gates.command, Teller::Command).chain(told(&gates.external, Teller::External)).collect(),
    }
}

fn told(gates: &BTreeMap<GateName, Duration>, from: Teller) -> impl Iterator<Item = Told> {
    gates.iter().map(move |(name, for_long)| Told { name: name.clone(), from, for_long: *for_long })
}

/// The record's word for what a gate says.
pub(crate) fn word_text(say: gate::Say) -> &'static str {
    match say {
        gate::Say::Go => "go",
        gate::Say::Ask => "ask",
        gate::Say::Stop => "stop",
    }
}

/// What a record says; a word that is not known lets nothing through.
pub(crate) fn say_from(text: &str) -> gate::Say {
    match text {
        "go" => gate::Say::Go,
        "stop" => gate::Say::Stop,
        _ => gate::Say::Ask,
    }
}

/// A time zone of the data base on this machine.
fn zone(name: &str) -> Option<TimeZone> {
    TimeZone::get(name).ok()
}

fn api_verdict(verdict: gate::Verdict) -> Verdict {
    Verdict {
        gate: verdict.gate.into_owned(),
        say: match verdict.say {
            gate::Say::Go => Say::Go,
            gate::Say::Ask => Say::Ask,
            gate::Say::Stop => Say::Stop,
        },
        reason: verdict.reason,
    }
}
