//! What merging one stage into the next would do, put together for people to decide.

use std::collections::BTreeSet;
use std::sync::Arc;

use volary_api::v1::fleet::{Promotion, Verdict};
use volary_api::v1::image::ImageChange;
use volary_fleet::{FleetConfig, GitRepository, ImageStep, image_steps, is_ancestor};
use volary_model::{CommitId, GateName, StageName};
use volary_plan::rollout::State;
use volary_store::{Branch, GateWord, Rollout, StoreError};

use crate::Layout;
use crate::app::App;
use crate::compared::{Compared, Differences};
use crate::depot::Depot;
use crate::facts::{Judged, members};
use crate::fleet_view;
use crate::gates::{GateError, Question};
use crate::trial::trial;

/// How many of the devices that will move are named.
const DEVICES: usize = 20;

/// What the answer rests on.
pub(crate) struct Facts {
    layout: Layout,
    depot: Arc<Depot>,
    devices: Arc<Vec<Judged>>,
    compared: Arc<Compared>,
    branches: Vec<Branch>,
    rollouts: Vec<Rollout<State>>,
    words: Vec<GateWord>,
    commands: BTreeSet<GateName>,
}

impl Facts {
    /// Collects what is known now.
    pub(crate) async fn gather(app: &App) -> Result<Self, StoreError> {
        Self::with(app, Arc::new(app.devices().await?), None).await
    }

    /// The same for who only looks, or is judged by the hook when it comes to a merge: the devices of a large fleet are
    /// as they were some seconds ago.
    pub(crate) async fn gather_lately(app: &App) -> Result<Self, StoreError> {
        Self::with(app, app.devices_lately().await?, None).await
    }

    /// As [`Facts::gather_lately`], with what was said for gates of one commit more than the tips of branches.
    pub(crate) async fn gather_for(app: &App, also: &CommitId) -> Result<Self, StoreError> {
        Self::with(app, app.devices_lately().await?, Some(also)).await
    }

    async fn with(app: &App, devices: Arc<Vec<Judged>>, also: Option<&CommitId>) -> Result<Self, StoreError> {
        Ok(Self {
            layout: app.layout.clone(),
            depot: app.archive.clone(),
            devices,
            compared: app.compared.clone(),
            branches: app.store.branches().await?,
            rollouts: app.store.rollouts().await?,
            words: app.store.gate_words(also).await?,
            commands: app.config.gate_commands.keys().cloned().collect(),
        })
    }

    /// The devices of a stage.
    pub(crate) fn of_stage<'a>(&'a self, stage: &'a StageName) -> impl Iterator<Item = &'a Judged> {
        self.devices.iter().filter(move |device| device.record.stage.as_ref() == Some(stage))
    }

    /// How the commit of a promotion differs from what is there.
    pub(crate) fn differences(&self, of: &Promotion) -> Result<Arc<Differences>, GateError> {
        let repository = fleet_view::open(&self.layout).map_err(GateError::Fleet)?;
        self.compared.of(&repository, of.base.as_ref(), &of.commit)
    }

    pub(crate) fn repository(&self) -> Result<(GitRepository, FleetConfig), GateError> {
        let repository = fleet_view::open(&self.layout).map_err(GateError::Fleet)?;
        let config = fleet_view::head_config(&repository).map_err(GateError::Fleet)?;
        Ok((repository, config))
    }
}

/// Asks the gates of merging a commit into a stage.
pub(crate) fn gates(facts: &Facts, to: &StageName, commit: &CommitId) -> Result<Vec<Verdict>, GateError> {
    let (repository, config) = facts.repository()?;
    ask(facts, &repository, &config, to, commit)
}

fn ask(
    facts: &Facts,
    repository: &GitRepository,
    config: &FleetConfig,
    to: &StageName,
    commit: &CommitId,
) -> Result<Vec<Verdict>, GateError> {
    let question = Question {
        layout: &facts.layout,
        repository,
        config,
        depot: &facts.depot,
        devices: &facts.devices,
        branches: &facts.branches,
        rollouts: &facts.rollouts,
        words: &facts.words,
        commands: &facts.commands,
    };
    question.ask(to, commit)
}

/// What merging the tip of `from` into `to` would do.
pub(crate) fn preview(facts: &Facts, from: &StageName, to: &StageName) -> Result<Promotion, GateError> {
    let (repository, config) = facts.repository()?;
    let stage = |name: &StageName| config.stage(name).ok_or_else(|| GateError::NoStage(name.clone()));
    let (source, target) = (stage(from)?, stage(to)?);
    if target.from.as_ref() != Some(from) {
        let takes =
            target.from.as_ref().map_or("pushes by people only".into(), |from| format!("merges from {from}"));
        return Err(GateError::Fleet(format!("{to} takes {takes}, not from {from}")));
    }
    let commit = repository
        .branch(&source.branch)?
        .ok_or_else(|| GateError::Fleet(format!("the branch {} does not exist", source.branch)))?;
    let base = repository.branch(&target.branch)?;
    let up_to_date = match &base {
        Some(base) => is_ancestor(&repository, &commit, base)?,
        None => false,
    };
    let rules =
        |commit: &CommitId| fleet_view::rules_at(&repository, commit, to, &config).map_err(GateError::Fleet);
    let rules_before = base.as_ref().map(rules).transpose()?;
    let rules_after = rules(&commit)?;
    let images_before = rules_before.as_ref().map(|rules| rules.images.clone()).unwrap_or_default();
    let images = image_steps(&images_before, &rules_after.images).into_iter().map(image_change).collect();
    let before = rules_before.and_then(|rules| rules.suite);
    let after = rules_after.suite;
    let cves = crate::cves::between(&facts.layout, &facts.depot, before.as_ref(), after.as_ref());
    let cves = cves.map_err(GateError::Cves)?;
    let packages = match &after {
        Some(after) => facts.depot.diff(before.as_ref(), after)?,
        None => Vec::new(),
    };
    let verdicts = if up_to_date { Vec::new() } else { ask(facts, &repository, &config, to, &commit)? };
    let compared = facts.compared.of(&repository, base.as_ref(), &commit)?;
    let (device_count, devices) = members(&facts.devices, to, DEVICES);
    Ok(Promotion {
        files: compared.files.clone(),
        commits: compared.commits.clone(),
        device_count,
        devices,
        trial: trial(&facts.devices, from, &commit),
        from: from.clone(),
        to: to.clone(),
        images,
        suite_before: before.map(|suite| suite.to_string()),
        suite_after: after.map(|suite| suite.to_string()),
        packages,
        cves,
        verdicts,
        up_to_date,
        commit,
        base,
    })
}

fn image_change(step: ImageStep) -> ImageChange {
    ImageChange {
        device_type: step.device_type,
        from: step.from.map(|image| image.name),
        size: step.to.as_ref().map_or(0, |image| image.size),
        to: step.to.map(|image| image.name),
    }
}
