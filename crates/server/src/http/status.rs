//! The whole chain, one package's journey, and what happened.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;
use volary_api::v1::image::PinnedImage;
use volary_api::v1::rollout::Rollout;
use volary_api::v1::status::{
    By, Condition as ApiCondition, Device, Event, HeldTurn, Stage, Status, Trace, TracedDevice, TracedStage,
};
use volary_debian::Version;
use volary_fleet::LockedImage;
use volary_model::{Architecture, DeviceType, PackageName, StageName};
use volary_plan::condition::Condition;

use crate::app::App;
use crate::facts::{Judged, api_condition};
use crate::fleet_view::StageView;
use crate::http::alert;
use crate::http::auth::{Viewer, how_from};
use crate::http::build::{api_build, api_source};
use crate::http::input::{Query, blocking, name};
use crate::http::refusal::Refusal;
use crate::http::rollout;

/// True for the rollout of the commit that the stage is at.
fn is_of(rollout: &Rollout, stage: &StageView) -> bool {
    rollout.stage == stage.name && stage.tip.as_ref().is_some_and(|tip| tip.commit == rollout.commit)
}

/// How many builds the overview shows.
const BUILDS: u32 = 20;

/// How much is wanted.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct StatusQuery {
    /// At most so many devices of each stage, those first that need a look; all if nothing is said.
    devices: Option<usize>,
}

/// `GET /api/v1/status?devices=N`.
pub(crate) async fn status(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<StatusQuery>,
) -> Result<Json<Status>, Refusal> {
    Ok(Json(whole(&app, query.devices).await?))
}

/// The chain from left to right, with at most so many devices of each stage.
pub(crate) async fn whole(app: &Arc<App>, most: Option<usize>) -> Result<Status, Refusal> {
    let view = app.view.get();
    let sources = app.store.sources().await?;
    let builds = app.store.builds(None, BUILDS).await?;
    let depot = app.archive.clone();
    let releases = blocking(move || depot.releases()).await??;
    let devices = app.devices_lately().await?;
    let rollouts = rollout::list(app).await?;
    let turns = app.store.turns(volary_host::now()).await?;
    let mut problems = view.problems.clone();
    problems.extend(app.outcomes.problems());
    problems.extend(app.exports.problems());
    problems.extend(alert::feed_problems(app).await?);
    let stages = view
        .stages
        .iter()
        .map(|stage| Stage {
            name: stage.name.clone(),
            branch: stage.branch.clone(),
            commit: stage.tip.as_ref().map(|tip| tip.commit.clone()),
            subject: stage.tip.as_ref().map(|tip| tip.subject.clone()).unwrap_or_default(),
            committed_at: stage.tip.as_ref().map(|tip| tip.committed_at),
            suite: stage.suite.as_ref().map(ToString::to_string),
            images: stage.images.iter().map(|(of, image)| pinned_image(app, of, image)).collect(),
            stop: stage.when.stop.clone(),
            freezes: stage.when.freezes.clone(),
            windows: stage.when.windows.clone(),
            per_site_at_most: stage.pace.per_site_at_most,
            promotes_when: app.promotions.get().get(&stage.name).cloned(),
            rollout: rollouts.iter().find(|rollout| is_of(rollout, stage)).cloned(),
            turns: turns.iter().filter(|turn| turn.stage == stage.name).map(held_turn).collect(),
            conditions: conditions(&devices, &stage.name),
            devices: of_stage(&devices, &stage.name, most),
        })
        .collect();
    for device in devices.iter() {
        let lost = device.record.stage.as_ref().filter(|stage| view.read && view.stage(stage).is_none());
        if let (Some(stage), volary_store::DeviceState::Accepted) = (lost, device.record.state) {
            problems.push(format!(
                "device {} follows the stage {stage}, which is not in volary.yml",
                device.record.name
            ));
        }
    }
    Ok(Status {
        at: volary_host::now(),
        fleet: app.config.fleet.clone(),
        sources: sources.into_iter().map(|source| api_source(app, source)).collect(),
        builds: builds.into_iter().map(api_build).collect(),
        releases,
        stages,
        waiting: devices
            .iter()
            .filter(|device| device.condition == Condition::Waiting)
            .map(|device| device.clone().into_api())
            .collect(),
        problems,
    })
}

fn pinned_image(app: &App, device_type: &DeviceType, image: &LockedImage) -> PinnedImage {
    PinnedImage {
        device_type: device_type.clone(),
        name: image.name.clone(),
        artifact: image.artifact,
        size: image.size,
        known: app.images.has(&image.artifact),
    }
}

fn held_turn(turn: &volary_store::Turn) -> HeldTurn {
    HeldTurn {
        device: turn.device.clone(),
        site: turn.site.clone(),
        commit: turn.commit.clone(),
        since: turn.granted_at,
        until: turn.expires_at,
    }
}

fn in_stage<'a>(devices: &'a [Judged], stage: &'a StageName) -> impl Iterator<Item = &'a Judged> {
    devices
        .iter()
        .filter(|device| !matches!(device.condition, Condition::Waiting | Condition::Rejected))
        .filter(move |device| device.record.stage.as_ref() == Some(stage))
}

fn conditions(devices: &[Judged], stage: &StageName) -> BTreeMap<ApiCondition, usize> {
    let mut conditions = BTreeMap::new();
    for device in in_stage(devices, stage) {
        *conditions.entry(api_condition(device.condition)).or_default() += 1;
    }
    conditions
}

fn of_stage(devices: &[Judged], stage: &StageName, most: Option<usize>) -> Vec<Device> {
    let mut found: Vec<&Judged> = in_stage(devices, stage).collect();
    if let Some(most) = most.filter(|most| *most < found.len()) {
        // Stable, so those that are alike stay in the order of their names.
        found.sort_by_key(|device| urgency(device.condition));
        found.truncate(most);
    }
    found.into_iter().map(|device| device.clone().into_api()).collect()
}

/// What a person looks at first.
fn urgency(condition: Condition) -> u8 {
    match condition {
        Condition::Failed => 0,
        Condition::Refused => 1,
        Condition::Silent => 2,
        Condition::Converging => 3,
        Condition::New | Condition::Waiting | Condition::Rejected => 4,
        Condition::Good => 5,
    }
}

/// A package version.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct TraceQuery {
    /// The package.
    package: String,
    /// Its version.
    version: String,
    /// The architecture; any if none is named.
    architecture: Option<String>,
}

/// `GET /api/v1/trace`.
pub(crate) async fn trace(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<TraceQuery>,
) -> Result<Json<Trace>, Refusal> {
    Ok(Json(journey(&app, &query).await?))
}

/// The journey of a package version.
pub(crate) async fn journey(app: &Arc<App>, query: &TraceQuery) -> Result<Trace, Refusal> {
    let package: PackageName = name(&query.package)?;
    let version: Version = query.version.parse().map_err(|_| {
        Refusal::invalid(format!("{:?} is not the version of a Debian package", query.version))
    })?;
    let depot = app.archive.clone();
    let architecture: Option<Architecture> = query.architecture.as_deref().map(name).transpose()?;
    let (found, suites, versions) = blocking(move || {
        let found = depot.with_version(&package, &version)?;
        Ok::<_, volary_archive::Error>((
            found,
            depot.suites_with(&package, &version)?,
            depot.versions(&package)?,
        ))
    })
    .await??;
    let architectures: Vec<Architecture> = found.iter().map(|each| each.architecture.clone()).collect();
    let mut meant =
        found.into_iter().filter(|each| architecture.as_ref().is_none_or(|name| each.architecture == *name));
    let found = meant.next().ok_or_else(|| {
        let refusal = Refusal::not_found(format!("the archive has no {} {}", query.package, query.version));
        match versions.last() {
            Some(_) => refusal.help(format!("it has: {}", versions.join(", "))),
            None => refusal.help("see what there is with: volary archive list"),
        }
    })?;
    let build = match found.build {
        Some(id) => app.store.build(id).await?.map(api_build),
        None => None,
    };
    let view = app.view.get();
    let stages = view
        .stages
        .iter()
        .filter_map(|stage| {
            let suite = stage.suite.as_ref().filter(|suite| suites.contains(suite))?;
            let tip = stage.tip.as_ref()?;
            Some(TracedStage {
                stage: stage.name.clone(),
                suite: suite.to_string(),
                commit: tip.commit.clone(),
                committed_at: tip.committed_at,
            })
        })
        .collect();
    let sightings = app.store.devices_with(found.name.as_str(), &found.version).await?;
    let mut devices = Vec::new();
    for sighting in sightings {
        let record = app.store.device(&sighting.device).await?;
        if let Some(stage) = record.and_then(|record| record.stage) {
            devices.push(TracedDevice { device: sighting.device, stage, since: sighting.first_seen });
        }
    }
    Ok(Trace {
        package: found,
        architectures,
        build,
        suites: suites.iter().map(ToString::to_string).collect(),
        stages,
        devices,
    })
}

/// `GET /api/v1/events`.
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<EventsQuery>,
) -> Result<Json<Vec<Event>>, Refusal> {
    Ok(Json(newest_events(&app, query.limit.unwrap_or(50).min(1000), query.people).await?))
}

/// Which events, and how many.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct EventsQuery {
    /// How many at most: 50 if nothing is said, and no more than 1000.
    limit: Option<u32>,
    /// True for what people did alone.
    #[serde(default)]
    people: bool,
}

/// The newest events; only what people did if `by_people`.
pub(crate) async fn newest_events(app: &App, limit: u32, by_people: bool) -> Result<Vec<Event>, Refusal> {
    let events = app.store.events(limit, by_people).await?;
    let event = |event: volary_store::Event| Event {
        id: event.id,
        at: event.at,
        kind: event.kind,
        subject: event.subject,
        text: event.text,
        by: event.by.map(|by| By { name: by.name, how: how_from(&by.how), subject: by.subject }),
    };
    Ok(events.into_iter().map(event).collect())
}
