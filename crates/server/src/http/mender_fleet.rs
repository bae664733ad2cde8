//! The deployments of Mender devices, for people.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::NoContent;
use volary_api::v1::deployment as api;
use volary_model::DeviceName;
use volary_store::{Client, Deployment, Device};

use crate::app::App;
use crate::http::auth::{Developer, Viewer};
use crate::http::input::{Path, name};
use crate::http::mender::{Mender, MenderClient, finish, tell};
use crate::http::refusal::Refusal;
use crate::mender::deployment::abort as aborted;

/// `GET /api/v1/devices/{name}/deployments`.
pub(crate) async fn deployments(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(text): Path<String>,
) -> Result<Json<Vec<api::Deployment>>, Refusal> {
    let device = device(&app, &text).await?;
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
    Path(text): Path<String>,
) -> Result<NoContent, Refusal> {
    let device = device(&app, &text).await?;
    if release(&app, &device).await? == 0 {
        return Err(Refusal::conflict(format!("nothing keeps {text} from trying its image")));
    }
    let text = format!("{} lets {text} try its image again", person.name);
    app.event_by(&person, "device-retry", &text, &text).await;
    Ok(NoContent)
}

/// `POST /api/v1/devices/{name}/abort`.
pub(crate) async fn abort(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Path(text): Path<String>,
) -> Result<NoContent, Refusal> {
    let device = device(&app, &text).await?;
    match call_back(&app, &device, &person.name).await? {
        true => {
            let said = format!("{} calls back the update of {text}", person.name);
            app.event_by(&person, "device-abort", &text, &said).await;
            Ok(NoContent)
        }
        false => Err(Refusal::conflict(format!("{text} has no update on its way"))),
    }
}

/// Calls the open deployment of a device back, for a person. False if there is none.
async fn call_back(app: &App, device: &Device, by: &str) -> Result<bool, Refusal> {
    let _turn = Mender::of(app)?.changing.lock().await;
    let Some(member) = app.registry.member(&device.fingerprint) else { return Ok(false) };
    let client = MenderClient { member, key: device.fingerprint };
    let history = app.store.deployments(&client.key).await?;
    let Some(open) = history.first().filter(|newest| !newest.state.is_over()) else { return Ok(false) };
    finish(app, &client, &aborted(open, &format!("by {by}"), true, volary_host::now())).await?;
    Ok(true)
}

/// Lets images be tried again on a device, for a person. Returns how many ends that concerns.
async fn release(app: &App, device: &Device) -> Result<u64, Refusal> {
    let _turn = Mender::of(app)?.changing.lock().await;
    let count = app.store.release_deployments(&device.fingerprint).await?;
    if let Some(member) = app.registry.member(&device.fingerprint).filter(|_| count > 0) {
        tell(app, &MenderClient { member, key: device.fingerprint }, None).await?;
    }
    Ok(count)
}

/// A device's name from a path.
async fn device(app: &App, text: &str) -> Result<Device, Refusal> {
    let name: DeviceName = name(text)?;
    let device = app.store.device(&name).await?.ok_or_else(|| {
        Refusal::not_found(format!("there is no device {name}")).help("see them with: volary device list")
    })?;
    match device.client {
        Client::Mender => Ok(device),
        Client::Agent => Err(Refusal::conflict(format!("{name} runs our agent, which decides by itself"))
            .help("on the device: volary-agent retry, volary-agent hold")),
    }
}
