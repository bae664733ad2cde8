//! Asks the watch rules of the devices before a gate, and compares devices that changed with others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use volary_api::v1::device::Outcome;
use volary_fleet::{FleetConfig, Gates, Rules};
use volary_model::{CommitId, DeviceName, StageName, WatchKind, WatchRule};
use volary_plan::condition::Condition;
use volary_plan::series::{Point, before, elapsed};
use volary_plan::watch::{Behind, Finding, Recorded, judge, needs, reach};
use volary_store::DeviceState;

use crate::app::App;
use crate::facts::Judged;
use crate::fleet_view;
use crate::measured::{
    Groups, Measured, OfStage, Points, STALE, Watched, by_the_hour, compared, is_compared, policy,
};

/// Rules that look back further are asked with one point for five minutes, which is quicker and lasts longer.
const COARSE: Duration = Duration::from_secs(86_400);
const COARSE_STEP: u32 = 300;

/// A run asks the rules of devices for so long; those that were asked longest ago come first in the next.
const BUDGET: Duration = Duration::from_secs(20);

/// Of a large stage so many devices are read for a comparison; `compare` takes no more either.
const MOST_DEVICES: usize = 200;

/// A stage with rules, or with gates that need measurements.
struct Asked {
    from: StageName,
    commit: CommitId,
    moved_at: Timestamp,
    rules: Vec<WatchRule>,
    /// The stages that are merged into, with their gates.
    into: Vec<(StageName, Gates)>,
}

/// Asks the rules of all devices, for alerts and gates, and compares the devices that a gate asks about.
pub(super) async fn measured(app: Arc<App>) -> Result<(), String> {
    let text = |error: volary_store::StoreError| error.to_string();
    let now = volary_host::now();
    let branches = app.store.branches().await.map_err(text)?;
    let worker = app.clone();
    let asked = tokio::task::spawn_blocking(move || asked(&worker, &branches)).await;
    let asked = asked.map_err(|error| error.to_string())??;
    let rules = asked.iter().flat_map(|asked| &asked.rules);
    let leaks = rules.filter(|rule| matches!(rule.kind, WatchKind::Leak { .. }));
    app.leak_rules.set(leaks.map(|rule| rule.name.clone()).collect());
    if app.series.is_reading() {
        // What the last run found is from before the start, and nothing is known of the time since.
        let known = Measured::read(&app.layout).unwrap_or_else(|| Measured::new(now, BTreeMap::new()));
        known.while_reading().write(&app.layout)?;
        app.series.history().await.map_err(text)?;
    }
    let (now, known) = (volary_host::now(), Measured::read(&app.layout));
    if asked.is_empty() && known.is_none() {
        app.watched.set(Watched::new());
        return Ok(());
    }
    let devices = app.devices().await.map_err(text)?;
    let watched = watch(&app, &asked, &devices).await.map_err(text)?;
    let mut stages = BTreeMap::new();
    for asked in asked {
        if asked.into.is_empty() {
            continue;
        }
        let before = known.as_ref().and_then(|known| known.stages.get(&asked.from));
        let changed = changed(&asked, &devices, before, now);
        let named = |device: &Judged| {
            watched
                .get(&device.record.name)
                .filter(|(at, _)| elapsed(*at, now) <= STALE)
                .map(|(_, findings)| findings.clone())
        };
        let findings = of_stage(&devices, &asked.from).filter_map(named).flatten().collect();
        let mut comparisons = BTreeMap::new();
        for (into, gates) in &asked.into {
            let Some(gate) = &gates.no_worse_than else { continue };
            let policy = policy(gate);
            let from = before_all(&changed, policy.baseline).unwrap_or(now);
            let ours = points(&app, changed.keys(), from, now).await.map_err(text)?;
            let unchanged: Vec<&DeviceName> = of_stage(&devices, &gate.stage)
                .map(|device| &device.record.name)
                .filter(|name| !changed.contains_key(*name))
                .collect();
            let step = unchanged.len().div_ceil(MOST_DEVICES).max(1);
            let theirs = points(&app, unchanged.into_iter().step_by(step), from, now).await.map_err(text)?;
            let moved = app.store.branches().await.map_err(text)?;
            let found = match stage_moved(&app, &moved, &gate.stage).filter(|moved| *moved > from) {
                Some(moved) if gate.stage != asked.from => Err(format!(
                    "{} changed itself, at {moved:.0}; it is no measure until its devices have been \
                                 unchanged for long enough",
                    gate.stage
                )),
                Some(_) | None => {
                    compared(&policy, &Groups { changed: &changed, ours: &ours, theirs: &theirs }, now)
                }
            };
            comparisons.insert(into.clone(), found);
        }
        stages.insert(asked.from, OfStage { commit: asked.commit, changed, findings, comparisons });
    }
    app.watched.set(watched);
    app.nudges.alerts.notify_waiters();
    if stages.is_empty() && known.is_none() { Ok(()) } else { Measured::new(now, stages).write(&app.layout) }
}

/// Asks the rules of as many devices as there is time for; what was found of the others before stays.
async fn watch(app: &App, asked: &[Asked], devices: &[Judged]) -> Result<Watched, volary_store::StoreError> {
    let begun = Instant::now();
    let known = app.watched.get();
    let mut queue: Vec<(&Asked, &Judged)> = asked
        .iter()
        .flat_map(|asked| of_stage(devices, &asked.from).map(move |device| (asked, device)))
        .collect();
    queue.sort_by_key(|(_, device)| known.get(&device.record.name).map(|(at, _)| *at));
    let mut watched = Watched::new();
    for (asked, device) in queue {
        let name = &device.record.name;
        let entry = match known.get(name) {
            Some(before) if begun.elapsed() > BUDGET => before.clone(),
            None if begun.elapsed() > BUDGET => continue,
            Some(_) | None => {
                let now = volary_host::now();
                (now, findings_of(app, asked, device, now).await?)
            }
        };
        watched.insert(name.clone(), entry);
    }
    Ok(watched)
}

/// The stages whose devices are asked about, with what is asked.
fn asked(app: &App, branches: &[volary_store::Branch]) -> Result<Vec<Asked>, String> {
    let repository = fleet_view::open(&app.layout)?;
    let head = fleet_view::head_config(&repository)?;
    let config_at = |commit: &CommitId| -> Option<FleetConfig> {
        Rules::at(&repository, commit).ok().map(|rules| rules.config)
    };
    let mut all = Vec::new();
    for from in &head.stages {
        let Some(branch) = branches.iter().find(|branch| branch.name == from.branch) else { continue };
        let mut into = Vec::new();
        for stage in head.after(&from.name) {
            let base = repository.branch(&stage.branch).map_err(|error| error.to_string())?;
            let gates = fleet_view::gates_into(&repository, &stage.name, base.as_ref(), &branch.tip, &head);
            if gates.watch.is_some() || gates.no_worse_than.is_some() {
                into.push((stage.name.clone(), gates));
            }
        }
        let rules = config_at(&branch.tip).map(|config| config.watch).unwrap_or_default();
        if into.is_empty() && rules.is_empty() {
            continue;
        }
        let (commit, moved_at) = (branch.tip.clone(), branch.moved_at);
        all.push(Asked { from: from.name.clone(), commit, moved_at, rules, into });
    }
    Ok(all)
}

fn of_stage<'a>(devices: &'a [Judged], stage: &'a StageName) -> impl Iterator<Item = &'a Judged> {
    devices.iter().filter(move |device| {
        device.record.state == DeviceState::Accepted && device.record.stage.as_ref() == Some(stage)
    })
}

/// When a stage got its commit.
fn stage_moved(app: &App, branches: &[volary_store::Branch], stage: &StageName) -> Option<Timestamp> {
    let view = app.view.get();
    let branch = &view.stages.iter().find(|known| known.name == *stage)?.branch;
    branches.iter().find(|known| known.name == *branch).map(|branch| branch.moved_at)
}

fn before_all(changed: &BTreeMap<DeviceName, Timestamp>, baseline: Duration) -> Option<Timestamp> {
    changed.values().min().map(|first| before(*first, baseline))
}

/// When each device first had the commit: as was known before, else by the end of its convergence, which a device's wrong
/// clock cannot put before the commit or into the future.
fn changed(
    asked: &Asked,
    devices: &[Judged],
    known: Option<&OfStage>,
    now: Timestamp,
) -> BTreeMap<DeviceName, Timestamp> {
    let known = known.filter(|known| known.commit == asked.commit).map(|known| &known.changed);
    let first = |device: &Judged| {
        let name = device.record.name.clone();
        if let Some(at) = known.and_then(|known| known.get(&name)) {
            return Some((name, *at));
        }
        let convergence = device.convergence.as_ref()?;
        let there = convergence.commit == asked.commit && convergence.outcome == Outcome::Good;
        there.then(|| (name, convergence.ended_at.clamp(asked.moved_at.min(now), now)))
    };
    of_stage(devices, &asked.from).filter_map(first).collect()
}

/// What the rules of a stage say of a device.
async fn findings_of(
    app: &App,
    asked: &Asked,
    device: &Judged,
    now: Timestamp,
) -> Result<Vec<Finding>, volary_store::StoreError> {
    let name = &device.record.name;
    let mut findings = Vec::new();
    for coarse in [false, true] {
        let rules: Vec<&WatchRule> =
            asked.rules.iter().filter(|rule| (reach(rule) > COARSE) == coarse).collect();
        let Some(longest) = rules.iter().map(|rule| reach(rule)).max() else { continue };
        let from = before(now, longest);
        let wanted = |series: &str| rules.iter().any(|rule| needs(rule, series));
        let step = if coarse { COARSE_STEP } else { 0 };
        let found = app.series.ranges(name, wanted, from, now, step).await?;
        let mut recorded = Recorded::new(name.clone(), asked.from.clone());
        recorded.seen = device.seen_at.into_iter().collect();
        recorded.boots = app.series.boots(name, from, now).await?;
        recorded.series = found.into_iter().map(|(series, points)| (series, as_points(points))).collect();
        if device.condition == Condition::Converging {
            recorded.behind.push(Behind { from: asked.moved_at, until: None, why: device.reason.clone() });
        }
        findings.extend(rules.iter().flat_map(|rule| judge(rule, &recorded, now)));
    }
    Ok(findings)
}

fn as_points(points: Vec<(Timestamp, f64)>) -> Vec<Point> {
    points.into_iter().map(|(at, value)| Point { at, value }).collect()
}

/// What is compared of some devices.
async fn points<'a>(
    app: &App,
    devices: impl Iterator<Item = &'a DeviceName>,
    from: Timestamp,
    now: Timestamp,
) -> Result<Points, volary_store::StoreError> {
    let mut all = Points::new();
    for device in devices {
        let found = app.series.ranges(device, is_compared, from, now, COARSE_STEP).await?;
        let points = found.into_iter().map(|(series, points)| {
            let points = by_the_hour(&series, as_points(points));
            (series, points)
        });
        all.insert(device.clone(), points.collect());
    }
    Ok(all)
}
