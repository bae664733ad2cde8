//! The deployments of Mender devices, for people.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use volary_api::v1::deployment as api;
use volary_store::Deployment;

use crate::app::App;
use crate::http::auth::{Developer, Viewer};
use crate::http::mender::{call_back, device, release};
use crate::http::refusal::Refusal;

/// `GET /api/v1/devices/{name}/deployments`.
pub(crate) async fn deployments(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(name): Path<String>,
) -> Result<Json<Vec<api::Deployment>>, Refusal> {
    let device = device(&app, &name).await?;
    let deployments = app.store.deployments(&device.fingerprint).await?;
    Ok(Json(deployments.into_iter().map(shown).collect()))
}

fn shown(deployment: Deployment) -> api::Deployment {
    api::Deployment {
        id: deployment.id,
        stage: deployment.stage,
        commit: deployment.commit,
        device_type: deployment.device_type,
        image: deployment.name,
        artifact: deployment.artifact,
        served: deployment.served,
        provides: deployment.provides,
        state: deployment.state.to_string(),
        substate: deployment.substate,
        held: deployment.held,
        created_at: deployment.created_at,
        changed_at: deployment.changed_at,
        finished_at: deployment.finished_at,
        log: deployment.log,
    }
}

/// `POST /api/v1/devices/{name}/retry`.
pub(crate) async fn retry(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    let device = device(&app, &name).await?;
    if release(&app, &device).await? == 0 {
        return Err(Refusal::conflict(format!("nothing keeps {name} from trying its image")));
    }
    let text = format!("{} lets {name} try its image again", person.name);
    app.event("device-retry", &name, &text).await;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /api/v1/devices/{name}/abort`.
pub(crate) async fn abort(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Path(name): Path<String>,
) -> Result<StatusCode, Refusal> {
    let device = device(&app, &name).await?;
    match call_back(&app, &device, &person.name).await? {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(Refusal::conflict(format!("{name} has no update on its way"))),
    }
}
