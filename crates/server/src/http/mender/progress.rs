//! What a client says of an update on its way.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use volary_store::Deployment;

use super::tell::amend;
use super::{BODY_LIMIT, Mender, MenderClient, finish, parse, tell};
use crate::app::App;
use crate::http::input::{Path, read_body};
use crate::http::refusal::Refusal;
use crate::mender::deployment::{Said, Step, advance, log_error, log_text};
use crate::mender::next::failed_downloads;
use crate::mender::{report, wire};

/// The largest log that is read; Mender's own limit is 1 MiB.
const LOG_LIMIT: usize = 4 << 20;

/// `PUT /api/devices/v1/deployments/device/deployments/{id}/status`.
pub(crate) async fn status(
    State(app): State<Arc<App>>,
    client: MenderClient,
    Path(id): Path<String>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let status: wire::Status = parse(&read_body(body, BODY_LIMIT).await?)?;
    let said = Said::parse(&status.status)
        .ok_or_else(|| Refusal::invalid(format!("{:?} is no status of a deployment", status.status)))?;
    let _turn = Mender::of(&app)?.changing.lock().await;
    let history = app.store.deployments(&client.key).await?;
    let now = find(&history, &id)?;
    let failed = failed_downloads(&history, &now.artifact);
    let substate = status.substate.unwrap_or_default();
    let step = advance(now, said, &substate, is_wanted(&app, &client, now), failed, volary_host::now());
    let aborted = || Refusal::conflict("Deployment aborted");
    match step {
        Step::Same => Ok(StatusCode::NO_CONTENT),
        Step::Aborted(None) => Err(aborted()),
        Step::Aborted(Some(over)) => {
            finish(&app, &client, &over).await?;
            Err(aborted())
        }
        Step::Now(next) if next.state.is_over() => {
            // Words that follow an end only add to it.
            if next.state == now.state {
                app.store.set_deployment(&next).await?
            } else {
                finish(&app, &client, &next).await?
            }
            Ok(StatusCode::NO_CONTENT)
        }
        Step::Now(next) => {
            app.store.set_deployment(&next).await?;
            tell(&app, &client, None).await?;
            Ok(StatusCode::NO_CONTENT)
        }
    }
}

fn find<'a>(history: &'a [Deployment], id: &str) -> Result<&'a Deployment, Refusal> {
    history
        .iter()
        .find(|deployment| deployment.id == id)
        .ok_or_else(|| Refusal::not_found(format!("there is no deployment {id:?} of this device")))
}

/// True if the device's stage still pins what the deployment brings, as far as its branch can be read.
fn is_wanted(app: &App, client: &MenderClient, deployment: &Deployment) -> bool {
    let view = app.view.get();
    match view.stage(&client.member.stage).filter(|stage| stage.tip.is_some()) {
        Some(stage) => {
            let pinned = stage.images.get(&deployment.device_type);
            pinned.is_some_and(|pinned| pinned.artifact == deployment.artifact)
        }
        None => true,
    }
}

/// `PUT /api/devices/v1/deployments/device/deployments/{id}/log`.
pub(crate) async fn log(
    State(app): State<Arc<App>>,
    client: MenderClient,
    Path(id): Path<String>,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let log: wire::Log = parse(&read_body(body, LOG_LIMIT).await?)?;
    let _turn = Mender::of(&app)?.changing.lock().await;
    let history = app.store.deployments(&client.key).await?;
    let mut deployment = find(&history, &id)?.clone();
    deployment.log = Some(log_text(&log.messages));
    app.store.set_deployment(&deployment).await?;
    // The failure was told before its log came.
    if let Some(told) = report::convergence(&deployment, log_error(&log.messages).as_deref()) {
        amend(&app, &client, told).await?;
    }
    Ok(StatusCode::NO_CONTENT)
}
