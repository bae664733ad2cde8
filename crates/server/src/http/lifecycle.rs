//! The end of releases, and protection from it.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use volary_api::v1::archive::{Protect, Release};
use volary_model::ReleaseName;
use volary_plan::text::some;

use crate::app::App;
use crate::http::auth::{Admin, Developer};
use crate::http::input::{Input, Path, blocking, name};
use crate::http::refusal::Refusal;
use crate::http::upkeep::archive_users;

/// The longest reason: it stands in lists.
const REASON: usize = 500;

/// `DELETE /api/v1/releases/{name}`.
pub(crate) async fn drop_release(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Path(release): Path<String>,
) -> Result<Json<Release>, Refusal> {
    let release: ReleaseName = name(&release)?;
    let (depot, asked) = (app.archive.clone(), release.clone());
    blocking(move || depot.release(&asked)).await??;
    let users = archive_users(&app).await?.of_release(&release);
    if !users.is_empty() {
        return Err(Refusal::conflict(format!("{release} is in use: {}", some(&users, 10))).help(
            "pin another release with volary bump and promote it, wait until the devices converged, and take \
             it out of the exports in server.toml",
        ));
    }
    let (depot, asked) = (app.archive.clone(), release.clone());
    let dropped = blocking(move || depot.drop_release(&asked)).await??;
    let text = format!("{release} was dropped with all its revisions by {}", person.name);
    app.event_by(&person, "release-dropped", release.as_str(), &text).await;
    Ok(Json(dropped))
}

/// `POST /api/v1/releases/{name}/protect`.
pub(crate) async fn protect(
    State(app): State<Arc<App>>,
    Developer(person): Developer,
    Path(release): Path<String>,
    Input(request): Input<Protect>,
) -> Result<Json<Release>, Refusal> {
    let release: ReleaseName = name(&release)?;
    let reason = request.reason.trim().to_owned();
    if reason.is_empty() || reason.chars().any(char::is_control) || reason.chars().count() > REASON {
        return Err(Refusal::invalid(format!("the reason must be one line of 1 to {REASON} characters")));
    }
    let depot = app.archive.clone();
    let by = person.name.clone();
    let why = reason.clone();
    let after = blocking(move || depot.protect(&release, &by, &why)).await??;
    let text = format!("{} was protected by {}: {reason}", after.name, person.name);
    app.event_by(&person, "release-protected", after.name.as_str(), &text).await;
    Ok(Json(after))
}

/// `POST /api/v1/releases/{name}/unprotect`.
pub(crate) async fn unprotect(
    State(app): State<Arc<App>>,
    Admin(person): Admin,
    Path(release): Path<String>,
) -> Result<Json<Release>, Refusal> {
    let release: ReleaseName = name(&release)?;
    let depot = app.archive.clone();
    let (before, after) = blocking(move || {
        let before = depot.release(&release)?;
        Ok::<_, volary_archive::Error>((before, depot.unprotect(&release)?))
    })
    .await??;
    if before.protection.is_some() {
        let text = format!("the protection of {} was ended by {}", after.name, person.name);
        app.event_by(&person, "release-unprotected", after.name.as_str(), &text).await;
    }
    Ok(Json(after))
}
