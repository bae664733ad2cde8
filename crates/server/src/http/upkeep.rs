//! Checking the archive, collecting garbage, and why a package stays.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio_util::io::ReaderStream;
use volary_api::v1::Problem;
use volary_api::v1::upkeep::{Check, CheckLine, CheckReport, Collect, Collected, Why};
use volary_archive::KeepPolicy;
use volary_model::{Digest, PackageName};
use volary_plan::text::{count, some};

use crate::app::App;
use crate::archive_users::{Users, installed};
use crate::http::auth::{Admin, Person, Viewer};
use crate::http::input::{Input, Query, blocking, name};
use crate::http::refusal::Refusal;

/// How many lines of progress may wait for a slow reader.
const LINES: usize = 16;

/// How often progress is told: often enough for a person, seldom enough for the line.
const PACE: Duration = Duration::from_millis(200);

/// How many bytes of them may be on their way.
const LINE_BUFFER: usize = 16 << 10;

/// `POST /api/v1/archive/check`.
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(request): Input<Check>,
) -> Response {
    let (send, mut receive) = mpsc::channel::<Vec<u8>>(LINES);
    let depot = app.archive.clone();
    tokio::spawn(async move {
        let lines = send.clone();
        let checked = blocking(move || {
            let mut told: Option<Instant> = None;
            depot.check(request.deep, &mut |done, total| {
                if done == total || told.is_none_or(|told| told.elapsed() >= PACE) {
                    told = Some(Instant::now());
                    // A reader that is slow loses lines of progress.
                    let _ = lines.try_send(line(&CheckLine::Progress { done, total }));
                }
                // One that went away ends the check.
                !lines.is_closed()
            })
        })
        .await;
        let last = match checked.map(|checked| checked.map_err(Refusal::from)) {
            Ok(Ok(Some(report))) => {
                let how = if request.deep { "with all its files " } else { "" };
                let found = count(report.problems.len(), "problem");
                let text = format!("the archive was checked {how}by {}: {found}", person.name);
                app.event_by(&person, "archive-checked", "archive", &text).await;
                CheckLine::Report(CheckReport {
                    suites: report.suites as u64,
                    indexes: report.indexes as u64,
                    packages: report.packages as u64,
                    problems: report.problems,
                })
            }
            Ok(Ok(None)) => return,
            Ok(Err(refusal)) | Err(refusal) => CheckLine::Failed(Problem {
                error: refusal.sentence().to_owned(),
                help: Some(refusal.advice().to_owned()).filter(|help| !help.is_empty()),
            }),
        };
        let _ = send.send(line(&last)).await;
    });
    let (mut writer, reader) = tokio::io::duplex(LINE_BUFFER);
    tokio::spawn(async move {
        while let Some(line) = receive.recv().await {
            // The reader went away: with the receiver dropped, the check ends too.
            if writer.write_all(&line).await.is_err() {
                return;
            }
        }
    });
    let body = Body::from_stream(ReaderStream::new(reader));
    ([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response()
}

fn line(line: &CheckLine) -> Vec<u8> {
    let mut text = serde_json::to_vec(line).expect("a wire type is JSON");
    text.push(b'\n');
    text
}

/// Who uses which release now.
pub(crate) async fn archive_users(app: &Arc<App>) -> Result<Users, Refusal> {
    let devices = app.store.devices().await?;
    let app = app.clone();
    blocking(move || Users::read(&app.layout, &devices, &app.config.exports)).await
}

/// What the operator lets stay, with what devices have.
async fn policy(app: &App) -> Result<KeepPolicy, Refusal> {
    // Suites keep what is in them, so the releases of lock files are safe. A device may have more:
    // what it took from rolling, or from a release that was dropped.
    let devices = app.store.devices().await?;
    let depot = app.archive.clone();
    let named = blocking(move || {
        let mut named: BTreeMap<Digest, String> = BTreeMap::new();
        for ((package, version), devices) in installed(&devices).map_err(|problem| {
            Refusal::conflict(problem).help("wait for its next report, or take the device away")
        })? {
            if let (Ok(package), Ok(version)) = (package.parse(), version.parse()) {
                let digests = depot.digests(&package, &version)?;
                named.extend(digests.into_iter().map(|digest| (digest, devices.sentence())));
            }
        }
        Ok::<_, Refusal>(named)
    })
    .await??;
    let gc = &app.config.gc;
    let age = SignedDuration::from_hours(24 * i64::from(gc.days));
    Ok(KeepPolicy { versions: gc.versions as usize, age, named })
}

/// Collects, and tells.
pub(crate) async fn run(app: &App, dry_run: bool, person: Option<&Person>) -> Result<Collected, Refusal> {
    let policy = policy(app).await?;
    let depot = app.archive.clone();
    let collected = blocking(move || depot.collect(&policy, dry_run)).await??;
    if !dry_run && (!collected.removed.is_empty() || collected.strays > 0) {
        let removed: Vec<String> =
            collected.removed.iter().map(|package| format!("{} {}", package.name, package.version)).collect();
        let what = match removed.is_empty() {
            true => "no package".to_owned(),
            false => format!("{} ({})", count(removed.len(), "package"), some(&removed, 10)),
        };
        let by = person.map_or("the server itself", |person| &person.name);
        let text = format!(
            "{what} and {} were removed from the archive by {by}, {} kB",
            count(collected.strays as usize, "stray file"),
            collected.bytes.div_ceil(1000)
        );
        match person {
            Some(person) => app.event_by(person, "archive-collected", "archive", &text).await,
            None => app.event("archive-collected", "archive", &text).await,
        }
    }
    Ok(collected)
}

/// `POST /api/v1/archive/gc`.
pub(crate) async fn collect(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(request): Input<Collect>,
) -> Result<Json<Collected>, Refusal> {
    Ok(Json(run(&app, request.dry_run, Some(&person)).await?))
}

/// A package.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct WhyQuery {
    /// The package.
    package: String,
    /// Its version; all if none is named.
    version: Option<String>,
}

/// `GET /api/v1/archive/why`.
pub(crate) async fn why(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<WhyQuery>,
) -> Result<Json<Vec<Why>>, Refusal> {
    let package: PackageName = name(&query.package)?;
    let version = query.version.map(|version| version.parse().map_err(Refusal::invalid)).transpose()?;
    let (policy, users) = (policy(&app).await?, archive_users(&app).await?);
    let depot = app.archive.clone();
    let asked = package.clone();
    let found =
        blocking(move || depot.why(&package, version.as_ref(), &policy, &|suite| users.of_suite(suite)))
            .await??;
    if found.is_empty() {
        let text = format!("the archive has no package {asked}, or not in this version");
        return Err(
            Refusal::not_found(text).help(format!("see its versions with: volary archive why {asked}"))
        );
    }
    Ok(Json(found))
}
