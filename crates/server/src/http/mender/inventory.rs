//! What a device tells of itself.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, StatusCode};

use super::{BODY_LIMIT, Mender, MenderClient, parse, tell, unauthorized};
use crate::app::App;
use crate::http::input::read_body;
use crate::http::refusal::Refusal;
use crate::mender::wire;

/// How many attributes an inventory may have.
const ATTRIBUTES: usize = 500;

/// `PUT` and `PATCH /api/devices/v1/inventory/device/attributes`.
pub(crate) async fn inventory(
    State(app): State<Arc<App>>,
    client: MenderClient,
    method: Method,
    body: Body,
) -> Result<StatusCode, Refusal> {
    let attributes: Vec<wire::Attribute> = parse(&read_body(body, BODY_LIMIT).await?)?;
    let _turn = Mender::of(&app)?.changing.lock().await;
    let known = app.store.mender_device(&client.key).await?.ok_or_else(unauthorized)?;
    let mut inventory = if method == Method::PATCH { known.inventory.clone() } else { BTreeMap::new() };
    inventory.extend(attributes.into_iter().map(|attribute| (attribute.name.clone(), attribute.values())));
    if inventory.len() > ATTRIBUTES {
        let problem = format!("an inventory has at most {ATTRIBUTES} attributes");
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, problem));
    }
    if inventory != known.inventory {
        app.store.set_mender_inventory(&client.key, &inventory).await?;
        tell(&app, &client, None).await?;
    }
    // Not 204: clients take that for a failure.
    Ok(StatusCode::OK)
}
