//! What merging one stage into the next would do, put together for people to decide.

use std::collections::BTreeSet;
use std::sync::Arc;

use volary_api::v1::fleet::{Promotion, Verdict};
use volary_api::v1::image::ImageChange;
use volary_fleet::{
    ChangeKind, FleetConfig, GitRepository, ImageStep, ReadObjects, changed_files, image_steps, is_ancestor,
};
use volary_model::{CommitId, GateName, StageName};
use volary_plan::rollout::State;
use volary_store::{Branch, GateWord, Rollout, StoreError};

use crate::Layout;
use crate::app::App;
use crate::depot::Depot;
use crate::facts::{Judged, members};
use crate::fleet_view;
use crate::gates::{GateError, Question};
use crate::trial::trial;

/// How many files and commits are listed at most.
const LISTED: usize = 500;

/// What the answer rests on.
pub(crate) struct Facts {
    layout: Layout,
    depot: Arc<Depot>,
    devices: Vec<Judged>,
    branches: Vec<Branch>,
    rollouts: Vec<Rollout<State>>,
    words: Vec<GateWord>,
    commands: BTreeSet<GateName>,
}

impl Facts {
    /// Collects what is known now.
    pub(crate) async fn gather(app: &App) -> Result<Self, StoreError> {
        Self::gather_for(app, None).await
    }

    /// As [`Facts::gather`], with what was said for gates of one commit more than the tips of branches.
    pub(crate) async fn gather_for(app: &App, also: Option<&CommitId>) -> Result<Self, StoreError> {
        Ok(Self {
            layout: app.layout.clone(),
            depot: app.archive.clone(),
            devices: app.devices().await?,
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
    Ok(Promotion {
        files: changed(&repository, base.as_ref(), &commit)?,
        commits: commits(&repository, base.as_ref(), &commit)?,
        devices: members(&facts.devices, to),
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

fn changed(
    repository: &GitRepository,
    base: Option<&CommitId>,
    commit: &CommitId,
) -> Result<Vec<String>, GateError> {
    let Some(base) = base else { return Ok(Vec::new()) };
    let (old, new) = (repository.commit(base)?.tree, repository.commit(commit)?.tree);
    let changes = changed_files(repository, &old, &new, LISTED)?;
    let line = |kind, path| match kind {
        ChangeKind::Added => format!("A {path}"),
        ChangeKind::Changed => format!("M {path}"),
        ChangeKind::Removed => format!("D {path}"),
    };
    Ok(changes.into_iter().map(|change| line(change.kind, change.path)).collect())
}

/// The commits that people made; merges between stages say nothing new.
fn commits(
    repository: &GitRepository,
    base: Option<&CommitId>,
    commit: &CommitId,
) -> Result<Vec<String>, GateError> {
    let range = base.map_or_else(|| commit.to_string(), |base| format!("{base}..{commit}"));
    let limit = format!("--max-count={LISTED}");
    let listed = repository
        .git()
        .args(["log", "--no-merges", "--no-show-signature", &limit, "--format=%H %s", &range, "--"])
        .check()
        .map_err(|error| GateError::Fleet(error.to_string()))?;
    let short = |line: &str| {
        line.split_once(' ').map(|(id, subject)| format!("{} {subject}", &id[..7.min(id.len())]))
    };
    Ok(listed.text().lines().filter_map(short).collect())
}
