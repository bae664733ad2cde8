//! Sources and builds.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, NoContent, Response};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use volary_api::v1::build::{AddSource, Build, BuildState, Source};
use volary_host::Cmd;
use volary_model::SourceName;

use crate::app::App;
use crate::http::auth::{Admin, Developer, Viewer};
use crate::http::input::{Accepted, Input, Path, Query, blocking, name};
use crate::http::refusal::Refusal;
use crate::repository;

/// How much of a log is sent at once; whoever follows asks again.
const LOG_CHUNK: u64 = 1 << 20;

/// `GET /api/v1/sources`.
pub(crate) async fn sources(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
) -> Result<Json<Vec<Source>>, Refusal> {
    let sources = app.store.sources().await?;
    Ok(Json(sources.into_iter().map(|source| api_source(&app, source)).collect()))
}

pub(crate) fn api_source(app: &App, source: volary_store::Source) -> Source {
    Source {
        hosted: source.url.is_none(),
        url: source.url.unwrap_or_else(|| format!("{}/git/{}.git", app.url, source.name)),
        name: source.name,
        branch: source.branch,
        architectures: if source.architectures.is_empty() {
            app.config.build_architectures.clone()
        } else {
            source.architectures
        },
        tip: source.tip,
        polled_at: source.polled_at,
        problem: source.problem,
    }
}

/// `POST /api/v1/sources`.
pub(crate) async fn add_source(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Input(request): Input<AddSource>,
) -> Result<Json<Source>, Refusal> {
    if request.name.as_str() == "fleet" {
        return Err(Refusal::conflict("the name \"fleet\" belongs to the fleet repository"));
    }
    let branch = request.branch.unwrap_or_else(|| "master".to_owned());
    let valid = Cmd::new("git").args(["check-ref-format", "--branch", &branch]);
    let url = request.url.filter(|url| !url.is_empty());
    if url.as_ref().is_some_and(|url| url.starts_with('-') || url.chars().any(char::is_control)) {
        return Err(Refusal::invalid("the address is not one that git takes"));
    }
    if !request.architectures.is_empty() {
        volary_build::check_architectures(&request.architectures).map_err(Refusal::invalid)?;
    }
    let (source, hosted) = (app.layout.source(&request.name), url.is_none());
    let hosted_branch = branch.clone();
    blocking(move || {
        if !valid.run().is_ok_and(|output| output.status.success()) {
            return Err(Refusal::invalid(format!("{hosted_branch:?} is not the name of a branch")));
        }
        if hosted { repository::create(&source, &hosted_branch).map_err(Refusal::broken) } else { Ok(()) }
    })
    .await??;
    if !app
        .store
        .add_source(&request.name, url.as_deref(), &branch, &request.architectures, volary_host::now())
        .await?
    {
        return Err(Refusal::conflict(format!("a source {} is registered already", request.name))
            .help(format!("remove it first with: volary source remove {}", request.name)));
    }
    app.event_by(
        &person,
        "source-added",
        request.name.as_str(),
        &format!("{} was registered by {}", request.name, person.name),
    )
    .await;
    app.nudges.poll.notify_one();
    let source = find_source(&app, &request.name).await?;
    Ok(Json(api_source(&app, source)))
}

async fn find_source(app: &App, name: &SourceName) -> Result<volary_store::Source, Refusal> {
    let sources = app.store.sources().await?;
    sources.into_iter().find(|source| source.name == *name).ok_or_else(|| {
        Refusal::not_found(format!("there is no source {name}")).help("see them with: volary source list")
    })
}

/// `DELETE /api/v1/sources/{name}`.
pub(crate) async fn remove_source(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Path(source): Path<String>,
) -> Result<NoContent, Refusal> {
    let source: SourceName = name(&source)?;
    find_source(&app, &source).await?;
    app.store.remove_source(&source, volary_host::now()).await?;
    app.event_by(
        &person,
        "source-removed",
        source.as_str(),
        &format!("{source} was removed by {}", person.name),
    )
    .await;
    Ok(NoContent)
}

/// `POST /api/v1/sources/{name}/poll`.
pub(crate) async fn poll_source(
    State(app): State<Arc<App>>,
    Developer(_): Developer,
    Path(source): Path<String>,
) -> Result<Accepted, Refusal> {
    let source: SourceName = name(&source)?;
    find_source(&app, &source).await?;
    app.asked_to_poll.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(source);
    app.nudges.poll.notify_one();
    Ok(Accepted)
}

/// Which builds are asked for.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct BuildsQuery {
    /// Only those of this source.
    source: Option<String>,
    /// How many at most: 20 if nothing is said, and no more than 1000.
    limit: Option<u32>,
}

/// `GET /api/v1/builds`.
pub(crate) async fn builds(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<BuildsQuery>,
) -> Result<Json<Vec<Build>>, Refusal> {
    let source: Option<SourceName> = query.source.as_deref().map(name).transpose()?;
    let limit = query.limit.unwrap_or(20).min(1000);
    let builds = app.store.builds(source.as_ref(), limit).await?;
    Ok(Json(builds.into_iter().map(api_build).collect()))
}

/// `GET /api/v1/builds/{id}`.
pub(crate) async fn build(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(id): Path<String>,
) -> Result<Json<Build>, Refusal> {
    Ok(Json(api_build(find_build(&app, &id).await?)))
}

pub(crate) async fn find_build(app: &App, id: &str) -> Result<volary_store::Build, Refusal> {
    let missing =
        || Refusal::not_found(format!("there is no build {id}")).help("see them with: volary build list");
    let number: i64 = id.parse().map_err(|_| missing())?;
    app.store.build(number).await?.ok_or_else(missing)
}

pub(crate) fn api_build(build: volary_store::Build) -> Build {
    Build {
        id: build.id,
        source: build.source,
        commit: build.commit,
        subject: build.subject,
        author: build.author,
        architecture: build.architecture,
        scope: build.scope,
        method: build.method,
        state: match build.state {
            volary_store::BuildState::Queued => BuildState::Queued,
            // Its packages are not in rolling yet, which is what people wait for.
            volary_store::BuildState::Running | volary_store::BuildState::Built => BuildState::Running,
            volary_store::BuildState::Succeeded => BuildState::Succeeded,
            volary_store::BuildState::Failed => BuildState::Failed,
            volary_store::BuildState::Cancelled => BuildState::Cancelled,
        },
        version: build.version,
        packages: build.packages,
        reason: build.reason,
        queued_at: build.queued_at,
        started_at: build.started_at,
        ended_at: build.ended_at,
        attempts: build.attempts,
        buildinfo: build.buildinfo,
        // Written by us; what another version wrote is no reason to hide the build.
        lintian: serde_json::from_str(&build.lintian).unwrap_or_default(),
        because: build.because,
        caused_by: build.caused_by,
        waits_until: build.not_before,
    }
}

/// From where in a log.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct LogQuery {
    /// How many bytes of it are known already.
    from: Option<u64>,
}

/// `GET /api/v1/builds/{id}/log`.
pub(crate) async fn log(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, Refusal> {
    let build = find_build(&app, &id).await?;
    // The state is read before the file: a log that ends in between is asked for once more.
    let ended = match build.state {
        volary_store::BuildState::Queued
        | volary_store::BuildState::Running
        | volary_store::BuildState::Built => false,
        volary_store::BuildState::Succeeded
        | volary_store::BuildState::Failed
        | volary_store::BuildState::Cancelled => true,
    };
    let (text, whole) = read_log(&app, build.id, query.from.unwrap_or(0)).await?;
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if ended && whole {
        headers.insert(HeaderName::from_static("x-volary-ended"), HeaderValue::from_static("true"));
    }
    Ok((headers, text).into_response())
}

/// A part of a log, and whether it reaches the log's end. A log that was never begun is empty.
pub(crate) async fn read_log(app: &App, id: i64, from: u64) -> Result<(Vec<u8>, bool), Refusal> {
    let path = app.layout.build_log(id);
    let failed = |error: std::io::Error| Refusal::broken(format!("cannot read {}: {error}", path.display()));
    let mut file = match tokio::fs::File::open(&path).await {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((Vec::new(), true)),
        Err(error) => return Err(failed(error)),
    };
    let length = file.metadata().await.map_err(failed)?.len();
    file.seek(std::io::SeekFrom::Start(from.min(length))).await.map_err(failed)?;
    let mut text = Vec::new();
    file.take(LOG_CHUNK).read_to_end(&mut text).await.map_err(failed)?;
    // Clients count bytes of the text that they got: a character must not be cut in two.
    let whole = from + text.len() as u64 >= length;
    if !whole {
        let end = text.iter().rposition(|byte| *byte == b'\n').map_or(text.len(), |position| position + 1);
        text.truncate(end);
    }
    Ok((text, whole))
}

/// `POST /api/v1/builds/{id}/retry`.
pub(crate) async fn retry(
    State(app): State<Arc<App>>,
    Developer(_): Developer,
    Path(id): Path<String>,
) -> Result<Json<Build>, Refusal> {
    let build = find_build(&app, &id).await?;
    let newer = app.store.builds(Some(&build.source), 1000).await?;
    let overtaken = newer.iter().find(|other| {
        other.number > build.number
            && other.architecture == build.architecture
            && other.state == volary_store::BuildState::Succeeded
    });
    if let Some(newer) = overtaken {
        return Err(Refusal::conflict(format!(
            "build {id} was overtaken: build {} of a newer commit is in rolling",
            newer.id
        ))
        .help("rolling only goes forward; push a new commit instead"));
    }
    let retried = app.store.retry_build(build.id, volary_host::now()).await?.ok_or_else(|| {
        Refusal::conflict(format!(
            "build {id} is {}; only one that failed or was cancelled can be repeated",
            build.state
        ))
    })?;
    app.nudges.builds.notify_one();
    Ok(Json(api_build(retried)))
}

/// `POST /api/v1/builds/{id}/cancel`.
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Path(id): Path<String>,
) -> Result<Json<Build>, Refusal> {
    let build = find_build(&app, &id).await?;
    let reason = format!("cancelled by {}", person.name);
    // The record first: a server that dies now does not begin the build again.
    let cancelled =
        app.store.cancel_build(build.id, &reason, volary_host::now()).await?.ok_or_else(|| {
            Refusal::conflict(format!(
                "build {id} is {}; only one that waits or runs can be cancelled",
                build.state
            ))
        })?;
    app.running.stop(build.id);
    let text = format!("{} {}: {reason}", build.source, build.commit.short());
    app.event_by(&person, "build-cancelled", &id, &text).await;
    app.nudges.builds.notify_one();
    Ok(Json(api_build(cancelled)))
}
