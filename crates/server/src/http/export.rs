//! The exports that the server keeps up to date.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use volary_api::v1::export::Export;

use crate::app::App;
use crate::http::auth::{Developer, Viewer};
use crate::http::input::Path;
use crate::http::refusal::Refusal;

/// `GET /api/v1/exports`.
pub(crate) async fn exports(State(app): State<Arc<App>>, Viewer(_): Viewer) -> Json<Vec<Export>> {
    Json(app.config.exports.iter().map(|config| app.exports.show(config)).collect())
}

/// `POST /api/v1/exports/{name}/run`.
pub(crate) async fn run(
    State(app): State<Arc<App>>,
    Developer(_): Developer,
    Path(name): Path<String>,
) -> Result<Json<Export>, Refusal> {
    let config = app.config.exports.iter().find(|config| config.name == name).ok_or_else(|| {
        Refusal::not_found(format!("there is no export {name:?}"))
            .help("see those that are with: volary archive exports")
    })?;
    app.exports.ask(&config.name);
    app.nudges.exports.notify_waiters();
    Ok(Json(app.exports.show(config)))
}
