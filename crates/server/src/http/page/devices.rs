//! The page of all devices, a hundred at a time.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;

use super::view::{DeviceRow, device_row};
use super::{Head, page};
use crate::app::App;
use crate::http::fleet::DevicesQuery;

/// How many are shown at once.
const SHOWN: usize = 100;

#[derive(Template)]
#[template(path = "devices.html")]
struct DevicesPage {
    head: Head,
    q: String,
    stage: String,
    condition: String,
    stages: Vec<String>,
    conditions: &'static [&'static str],
    devices: Vec<DeviceRow>,
    /// How many are like that, and how many there are.
    found: usize,
    all: usize,
    /// The name after which the next ones are.
    next: Option<String>,
}

/// `GET /devices?stage=…&condition=…&q=…&after=…`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
    Query(query): Query<DevicesQuery>,
) -> Response {
    page(&app, &headers, &uri, async |_, head| {
        let now = volary_host::now();
        let all = app.devices_lately().await?;
        let found = query.of(&all)?;
        let after = query.place(&found);
        let shown = &found[after..found.len().min(after + SHOWN)];
        let next = shown.last().filter(|_| after + shown.len() < found.len());
        let next = next.map(|last| last.record.name.to_string());
        let devices = shown.iter().map(|device| device_row(&(*device).clone().into_api(), now)).collect();
        Ok(DevicesPage {
            head,
            q: query.q.trim().to_owned(),
            stage: query.stage.clone(),
            condition: query.condition.clone(),
            stages: app.view.get().stages.iter().map(|stage| stage.name.to_string()).collect(),
            conditions: &DevicesQuery::CONDITIONS,
            devices,
            found: found.len(),
            all: all.len(),
            next,
        }
        .render())
    })
    .await
}
