//! What a build leaves besides its packages, and building it once more to compare.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use volary_api::v1::build::{BuildStatus, Reproduce, Reproduction, ReproductionState};
use volary_model::SourceName;
use volary_store::BuildState;

use crate::app::App;
use crate::http::auth::{Developer, Viewer};
use crate::http::build::find_build;
use crate::http::input::{Input, Path, name};
use crate::http::refusal::Refusal;

/// `GET /api/v1/builds/{id}/buildinfo`.
pub(crate) async fn buildinfo(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(id): Path<String>,
) -> Result<Response, Refusal> {
    let build = find_build(&app, &id).await?;
    let missing = || Refusal::not_found(format!("build {id} has no .buildinfo (any more)"));
    if build.buildinfo.is_none() {
        return Err(missing());
    }
    let path = app.layout.buildinfo(build.id);
    let text = tokio::fs::read(&path).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => missing(),
        _ => Refusal::broken(format!("cannot read {}: {error}", path.display())),
    })?;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, plain)], text).into_response())
}

/// `GET /api/v1/builds/{id}/statuses`.
pub(crate) async fn statuses(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(id): Path<String>,
) -> Result<Json<Vec<BuildStatus>>, Refusal> {
    let build = find_build(&app, &id).await?;
    let known = |hook: &str| app.config.status_hook.iter().any(|known| known.name == hook);
    let told = app.store.statuses(build.id).await?.into_iter().filter(|status| known(&status.hook));
    let status = |status: volary_store::Status| BuildStatus {
        hook: status.hook,
        told: status.told,
        attempts: status.attempts,
        problem: status.problem,
    };
    Ok(Json(told.map(status).collect()))
}

/// `GET /api/v1/builds/{id}/reproduction`.
pub(crate) async fn reproduction(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(id): Path<String>,
) -> Result<Json<Option<Reproduction>>, Refusal> {
    let build = find_build(&app, &id).await?;
    Ok(Json(app.store.reproduction_of(build.id).await?.map(api_reproduction)))
}

/// `POST /api/v1/reproductions`.
pub(crate) async fn reproduce(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Input(request): Input<Reproduce>,
) -> Result<Json<Reproduction>, Refusal> {
    let build = if request.of.bytes().all(|byte| byte.is_ascii_digit()) {
        find_build(&app, &request.of).await?
    } else {
        let source: SourceName = name(&request.of)?;
        let builds = app.store.builds(Some(&source), 1000).await?;
        builds.into_iter().find(|build| build.state == BuildState::Succeeded).ok_or_else(|| {
            Refusal::not_found(format!("{source} has no build that succeeded"))
                .help("see its builds with: volary build list --source NAME")
        })?
    };
    if build.state != BuildState::Succeeded {
        return Err(Refusal::conflict(format!(
            "build {} is {}; only one that succeeded can be compared",
            build.id, build.state
        )));
    }
    app.store.reproduce(build.id, &person.name, volary_host::now()).await?;
    app.nudges.builds.notify_one();
    let queued = app.store.reproduction_of(build.id).await?;
    queued.map(|queued| Json(api_reproduction(queued))).ok_or_else(|| Refusal::broken("it is not there"))
}

fn api_reproduction(record: volary_store::Reproduction) -> Reproduction {
    Reproduction {
        id: record.id,
        build: record.build,
        asked_by: record.asked_by,
        state: match record.state {
            volary_store::ReproductionState::Queued => ReproductionState::Queued,
            volary_store::ReproductionState::Running => ReproductionState::Running,
            volary_store::ReproductionState::Same => ReproductionState::Same,
            volary_store::ReproductionState::Different => ReproductionState::Different,
            volary_store::ReproductionState::Failed => ReproductionState::Failed,
        },
        reason: record.reason,
        varied: record.varied,
        packages: serde_json::from_str(&record.packages).unwrap_or_default(),
        queued_at: record.queued_at,
        ended_at: record.ended_at,
    }
}
