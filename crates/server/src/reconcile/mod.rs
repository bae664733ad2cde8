//! The reconcilers: each is woken by a timer or a bell, reads the state, converges, and keeps how
//! that went. Normal work and recovery after a kill are the same path.

mod alerts;
mod builds;
mod deltas;
mod devices;
mod forge_promotions;
mod gate_commands;
mod gc;
mod images;
mod measured;
mod mirrors;
mod promotions;
mod rebuilds;
mod reproductions;
mod rollouts;
mod sources;
mod stages;
mod statuses;
mod tidy;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::App;
use crate::export;
use crate::feeds;
use crate::nudge::Nudges;
use crate::tls::listener::asked_to_stop;

pub(crate) use alerts::{from_stored, open_alerts, open_silences};
pub(crate) use builds::recover;
pub(crate) use gate_commands::Run as GateRun;
pub(crate) use rollouts::rollouts;
pub(crate) use stages::stages;

/// How often signs of life go from memory to disk; a kill loses no more than this.
const FLUSH: Duration = Duration::from_secs(10);

/// How often the fleet repository is read without a push: somebody may work on the server itself.
const STAGES: Duration = Duration::from_secs(15);

/// How often devices are judged without a report: silence makes no sound.
const DEVICES: Duration = Duration::from_secs(30);

/// How often the gates of automatic promotions are asked.
const PROMOTIONS: Duration = Duration::from_secs(10);

/// How often it is looked for commands of gates that are due.
const GATE_COMMANDS: Duration = Duration::from_secs(10);

/// How often rollouts are looked at without a report: pauses end, and silence makes no sound.
const ROLLOUTS: Duration = Duration::from_secs(15);
/// How often alerts are looked at without a bell: they begin and end by waiting.
const ALERTS: Duration = Duration::from_secs(10);

/// How often the mirrors are looked at; each has an interval of its own.
const MIRRORS: Duration = Duration::from_secs(10);

/// How often packages that were built but not published are tried again.
const PUBLISH: Duration = Duration::from_secs(30);

/// How often suites get what is made without hurry, such as Contents.
const SUITES: Duration = Duration::from_secs(60);

/// How often hooks that could not be told are tried, at most: each has its own waits.
const STATUSES: Duration = Duration::from_secs(5);

/// How often forges are told of promotions without a bell: gates change by time alone.
const FORGES: Duration = Duration::from_secs(15);

/// How often builds without plan are looked for, besides when one ends.
const REBUILDS: Duration = Duration::from_secs(60);

/// How often old logs and images are looked for.
const TIDY: Duration = Duration::from_secs(6 * 3600);

/// How often images without their block files and pairs are looked for, besides when one is published.
const DELTAS: Duration = Duration::from_secs(60);

/// How often measurements are looked after: each device in turn.
const METRICS: Duration = Duration::from_secs(5);

/// How often the devices before a gate are measured: a watch rule that fires stops the next merge so soon.
const MEASURED: Duration = Duration::from_secs(60);

/// How often the certificate's age is looked at.
const CERTIFICATE: Duration = Duration::from_secs(86_400);

/// How often old uploads are looked for.
const UPLOADS: Duration = Duration::from_secs(86_400);

/// Starts all reconcilers.
pub(crate) fn start(app: &Arc<App>, stop: &watch::Receiver<bool>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let poll = app.config.poll_interval().min(Duration::from_secs(10));
    tasks.spawn(every(app.clone(), stop.clone(), "stages", STAGES, Some(|nudges| &nudges.stages), stages));
    tasks.spawn(every(
        app.clone(),
        stop.clone(),
        "sources",
        poll,
        Some(|nudges| &nudges.poll),
        sources::sources,
    ));
    tasks.spawn(every(
        app.clone(),
        stop.clone(),
        "devices",
        DEVICES,
        Some(|nudges| &nudges.devices),
        devices::devices,
    ));
    tasks.spawn(every(
        app.clone(),
        stop.clone(),
        "rollouts",
        ROLLOUTS,
        Some(|nudges| &nudges.rollouts),
        rollouts::gathered,
    ));
    tasks.spawn(every(
        app.clone(),
        stop.clone(),
        "promotions",
        PROMOTIONS,
        Some(|nudges| &nudges.promotions),
        promotions::promotions,
    ));
    let bell: Option<Bell> = Some(|nudges| &nudges.gate_commands);
    let commands = gate_commands::gate_commands;
    tasks.spawn(every(app.clone(), stop.clone(), "commands of gates", GATE_COMMANDS, bell, commands));
    tasks.spawn(every(
        app.clone(),
        stop.clone(),
        "mirrors",
        MIRRORS,
        Some(|nudges| &nudges.mirrors),
        mirrors::mirrors,
    ));
    let bell: Option<Bell> = Some(|nudges| &nudges.alerts);
    tasks.spawn(every(app.clone(), stop.clone(), "alerts", ALERTS, bell, alerts::alerts));
    tasks.spawn(every(app.clone(), stop.clone(), "old alerts", TIDY, None, alerts::tidy));
    feeds::start(app, stop, &mut tasks);
    tasks.spawn(mirrors::stopper(app.clone(), stop.clone()));
    tasks.spawn(every(app.clone(), stop.clone(), "publish", PUBLISH, None, builds::publish_all));
    if !app.config.status_hook.is_empty() {
        let bell: Option<Bell> = Some(|nudges| &nudges.statuses);
        tasks.spawn(every(app.clone(), stop.clone(), "status hooks", STATUSES, bell, statuses::statuses));
    }
    if app.config.status_hook.iter().any(|hook| hook.promotions) {
        let run = forge_promotions::forge_promotions;
        let bell: Option<Bell> = Some(|nudges| &nudges.forges);
        tasks.spawn(every(app.clone(), stop.clone(), "promotions at forges", FORGES, bell, run));
    }
    let bell: Option<Bell> = Some(|nudges| &nudges.rebuilds);
    tasks.spawn(every(app.clone(), stop.clone(), "rebuilds", REBUILDS, bell, rebuilds::plan_all));
    tasks.spawn(every(app.clone(), stop.clone(), "old builds", TIDY, None, tidy::tidy));
    tasks.spawn(every(app.clone(), stop.clone(), "images", TIDY, None, images::images));
    let bell: Option<Bell> = Some(|nudges| &nudges.deltas);
    tasks.spawn(every(app.clone(), stop.clone(), "deltas", DELTAS, bell, deltas::deltas));
    tasks.spawn(every(app.clone(), stop.clone(), "signs of life", FLUSH, None, flush));
    tasks.spawn(every(app.clone(), stop.clone(), "metrics", METRICS, None, metrics));
    tasks.spawn(every(app.clone(), stop.clone(), "gates", MEASURED, None, measured::measured));
    tasks.spawn(every(app.clone(), stop.clone(), "suites", SUITES, Some(|nudges| &nudges.suites), suites));
    tasks.spawn(every(app.clone(), stop.clone(), "certificate", CERTIFICATE, None, certificate));
    tasks.spawn(every(app.clone(), stop.clone(), "uploads", UPLOADS, None, uploads));
    if app.config.gc.every > 0 {
        let period = Duration::from_secs(3600 * u64::from(app.config.gc.every));
        tasks.spawn(every(app.clone(), stop.clone(), "gc", period, None, gc::gc));
    }
    for _ in 0..app.config.build_workers {
        tasks.spawn(builds::worker(app.clone(), stop.clone()));
    }
    for export in &app.config.exports {
        tasks.spawn(export::keep(app.clone(), export.clone(), stop.clone()));
    }
    tasks
}

type Bell = fn(&Nudges) -> &tokio::sync::Notify;

/// Runs a reconciler now, then whenever its time comes or its bell rings.
async fn every<F>(
    app: Arc<App>,
    mut stop: watch::Receiver<bool>,
    name: &'static str,
    period: Duration,
    bell: Option<Bell>,
    run: fn(Arc<App>) -> F,
) where
    F: Future<Output = Result<(), String>> + Send + 'static,
{
    loop {
        // In a task of its own, so that a bug ends one run and not the reconciler.
        let outcome = tokio::spawn(run(app.clone())).await;
        let problem = match outcome {
            Ok(Ok(())) => None,
            Ok(Err(problem)) => Some(problem),
            Err(error) => Some(format!("it has a bug: {error}")),
        };
        app.outcomes.keep(name, problem);
        let rung = async {
            match bell {
                Some(bell) => bell(&app.nudges).notified().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = asked_to_stop(&mut stop) => return,
            () = tokio::time::sleep(period) => {}
            () = rung => {}
        }
    }
}

async fn flush(app: Arc<App>) -> Result<(), String> {
    app.registry.flush(&app.store).await.map_err(|error| error.to_string())
}

async fn suites(app: Arc<App>) -> Result<(), String> {
    let depot = app.archive.clone();
    let report = tokio::task::spawn_blocking(move || depot.keep_up()).await;
    let report = report.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    if report != volary_archive::UpkeepReport::default() {
        tracing::info!(?report, "suites were kept up");
    }
    Ok(())
}

async fn metrics(app: Arc<App>) -> Result<(), String> {
    app.series.upkeep(volary_host::now()).await.map_err(|error| error.to_string())
}

async fn certificate(app: Arc<App>) -> Result<(), String> {
    let worker = app.clone();
    tokio::task::spawn_blocking(move || worker.renew_certificate())
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

async fn uploads(app: Arc<App>) -> Result<(), String> {
    tokio::task::spawn_blocking(move || crate::serve::sweep_uploads(&app.layout))
        .await
        .map_err(|error| error.to_string())
}
