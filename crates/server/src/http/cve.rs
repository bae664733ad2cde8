//! The data of Debian's security tracker: giving it, and what is known of it.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use schemars::JsonSchema;
use serde::Deserialize;
use volary_api::v1::fleet::CveData;

use crate::app::App;
use crate::cves;
use crate::http::auth::{Developer, Viewer};
use crate::http::batch;
use crate::http::input::{Query, blocking};
use crate::http::refusal::Refusal;

/// For which release of Debian.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ImportQuery {
    /// The release of Debian by its code name: `bookworm`.
    release: String,
}

/// `PUT /api/v1/cves?release=bookworm`.
pub(crate) async fn import(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Query(query): Query<ImportQuery>,
    body: Body,
) -> Result<Json<CveData>, Refusal> {
    if !volary_debian::tracker::is_release(&query.release) {
        return Err(Refusal::invalid("name a release of Debian by its code name, such as bookworm"));
    }
    let (layout, by) = (app.layout.clone(), person.name.clone());
    let now = volary_host::now();
    let data = batch::receive(body, move |bytes| {
        cves::import(&layout, bytes, &query.release, &by, now).map_err(Refusal::invalid)
    })
    .await?;
    let text = format!(
        "{} gave the security tracker's data for {}: {} faults of {} source packages",
        person.name, data.release, data.faults, data.packages
    );
    app.event_by(&person, "cves-imported", &data.release, &text).await;
    Ok(Json(data))
}

/// `GET /api/v1/cves`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
) -> Result<Json<Option<CveData>>, Refusal> {
    let layout = app.layout.clone();
    Ok(Json(blocking(move || cves::data(&layout)).await?.map_err(Refusal::broken)?))
}
