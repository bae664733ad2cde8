//! All routes, and what surrounds each request: panics become an answer, and a line in the log.

pub(crate) mod alert;
pub(crate) mod archive;
pub(crate) mod auth;
mod batch;
pub(crate) mod build;
pub(crate) mod cve;
pub(crate) mod device;
pub(crate) mod export;
pub(crate) mod files;
pub(crate) mod fleet;
pub(crate) mod gate;
pub(crate) mod git;
pub(crate) mod image;
pub(crate) mod input;
pub(crate) mod keys;
pub(crate) mod lifecycle;
pub(crate) mod mender;
pub(crate) mod mender_fleet;
pub(crate) mod metrics;
pub(crate) mod mirror;
pub(crate) mod page;
pub(crate) mod prometheus;
pub(crate) mod quality;
pub(crate) mod refusal;
pub(crate) mod report;
pub(crate) mod rollout;
pub(crate) mod status;
pub(crate) mod turn;
pub(crate) mod upkeep;
pub(crate) mod users;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post, put};

use crate::app::App;
use crate::http::refusal::Refusal;

/// The whole server as a service.
pub(crate) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/device/v1/enroll", post(device::enroll))
        .route("/device/v1/desired", get(device::desired))
        .route("/device/v1/objects", post(device::objects))
        .route("/device/v1/reports", post(report::report))
        .route("/device/v1/reports/batch", post(report::batch))
        .route("/device/v1/metrics", post(metrics::receive))
        .route("/device/v1/turn", post(turn::ask).delete(turn::give_back))
        .route("/api/devices/v1/authentication/auth_requests", post(mender::authenticate))
        .route(
            "/api/devices/v1/deployments/device/deployments/next",
            get(mender::next_by_query).post(mender::next_v1),
        )
        .route("/api/devices/v2/deployments/device/deployments/next", post(mender::next_v2))
        .route("/api/devices/v1/deployments/device/deployments/{id}/status", put(mender::status))
        .route("/api/devices/v1/deployments/device/deployments/{id}/log", put(mender::log))
        .route("/api/devices/v1/deployments/artifacts/{artifact}", get(mender::download))
        .route("/api/devices/v1/inventory/device/attributes", put(mender::inventory).patch(mender::inventory))
        .route("/api/v1/uploads/{id}/include", post(archive::include))
        .route("/api/v1/uploads/{id}", put(archive::upload_batch))
        .route("/api/v1/uploads/{id}/{file}", put(archive::upload))
        .route("/api/v1/upload/{file}", put(archive::upload_one).post(archive::upload_one))
        .route("/api/v1/packages", get(archive::packages))
        .route("/api/v1/releases", get(archive::releases).post(archive::cut))
        .route("/api/v1/releases/{name}", get(archive::release).delete(lifecycle::drop_release))
        .route("/api/v1/releases/{name}/protect", post(lifecycle::protect))
        .route("/api/v1/releases/{name}/unprotect", post(lifecycle::unprotect))
        .route("/api/v1/releases/{name}/picks", post(archive::pick))
        .route("/api/v1/releases/{name}/freeze", post(archive::freeze))
        .route("/api/v1/releases/{name}/pin", get(archive::pin))
        .route("/api/v1/exports", get(export::exports))
        .route("/api/v1/exports/{name}/run", post(export::run))
        .route("/api/v1/diff", get(archive::diff))
        .route("/api/v1/archive/check", post(upkeep::check))
        .route("/api/v1/archive/gc", post(upkeep::collect))
        .route("/api/v1/archive/why", get(upkeep::why))
        .route("/api/v1/archive/keys", get(keys::keys).post(keys::add))
        .route("/api/v1/archive/keys/retire", post(keys::retire))
        .route("/api/v1/images", get(image::images).put(image::publish).post(image::publish))
        .route("/api/v1/images/{artifact}", get(image::image).delete(image::remove))
        .route("/api/v1/mirrors", get(mirror::mirrors).post(mirror::add))
        .route("/api/v1/mirrors/{name}", get(mirror::mirror).delete(mirror::remove))
        .route("/api/v1/mirrors/{name}/packages", get(mirror::packages))
        .route("/api/v1/mirrors/{name}/sync", post(mirror::sync))
        .route("/api/v1/imports", post(mirror::import))
        .route("/api/v1/imports/{id}", get(mirror::import_status))
        .route("/api/v1/sources", get(build::sources).post(build::add_source))
        .route("/api/v1/sources/{name}", delete(build::remove_source))
        .route("/api/v1/sources/{name}/poll", post(build::poll_source))
        .route("/api/v1/builds", get(build::builds))
        .route("/api/v1/builds/{id}", get(build::build))
        .route("/api/v1/builds/{id}/log", get(build::log))
        .route("/api/v1/builds/{id}/retry", post(build::retry))
        .route("/api/v1/builds/{id}/cancel", post(build::cancel))
        .route("/api/v1/builds/{id}/buildinfo", get(quality::buildinfo))
        .route("/api/v1/builds/{id}/statuses", get(quality::statuses))
        .route("/api/v1/builds/{id}/reproduction", get(quality::reproduction))
        .route("/api/v1/reproductions", post(quality::reproduce))
        .route("/api/v1/devices", get(fleet::devices))
        .route("/api/v1/devices/{name}", get(fleet::device).delete(fleet::remove))
        .route("/api/v1/devices/{name}/reports", get(fleet::reports))
        .route("/api/v1/devices/{name}/metrics", get(metrics::latest))
        .route("/api/v1/devices/{name}/metrics/{series}", get(metrics::points))
        .route("/api/v1/devices/{name}/errors", get(metrics::errors))
        .route("/api/v1/devices/{name}/deployments", get(mender_fleet::deployments))
        .route("/api/v1/devices/{name}/retry", post(mender_fleet::retry))
        .route("/api/v1/devices/{name}/abort", post(mender_fleet::abort))
        .route("/api/v1/devices/{name}/accept", post(fleet::accept))
        .route("/api/v1/devices/{name}/reject", post(fleet::reject))
        .route("/api/v1/device-tokens", post(fleet::device_token))
        .route("/api/v1/tokens", get(fleet::tokens).post(fleet::add_token))
        .route("/api/v1/tokens/{name}", delete(fleet::remove_token))
        .route("/api/v1/login", post(users::login))
        .route("/api/v1/logout", post(users::logout))
        .route("/api/v1/me", get(users::me))
        .route("/api/v1/users", get(users::users).post(users::add))
        .route("/api/v1/users/{name}", delete(users::remove))
        .route("/api/v1/users/{name}/role", post(users::set_role))
        .route("/api/v1/users/{name}/password", post(users::set_password))
        .route("/api/v1/sessions", get(users::sessions))
        .route("/api/v1/sessions/{id}", delete(users::end))
        .route("/api/v1/promotion", get(fleet::promotion).post(fleet::promote))
        .route("/api/v1/server-keys", get(fleet::server_keys))
        .route("/api/v1/gates", get(fleet::gates))
        .route("/api/v1/cves", get(cve::show).put(cve::import))
        .route("/api/v1/gate-statuses", get(gate::statuses).post(gate::say))
        .route("/api/v1/rollouts", get(rollout::rollouts))
        .route("/api/v1/rollouts/{stage}/stop", post(rollout::stop))
        .route("/api/v1/rollouts/{stage}/resume", post(rollout::resume))
        .route("/api/v1/rollouts/{stage}/next", post(rollout::next))
        .route("/api/v1/status", get(status::status))
        .route("/api/v1/trace", get(status::trace))
        .route("/api/v1/events", get(status::events))
        .route("/api/v1/alerts", get(alert::alerts))
        .route("/api/v1/alerts/{id}", get(alert::alert))
        .route("/api/v1/alert-changes", get(alert::changes))
        .route("/api/v1/silences", get(alert::silences).post(alert::silence))
        .route("/api/v1/silences/{id}", delete(alert::unsilence))
        .route("/api/v1/feeds", get(alert::feeds))
        .route("/metrics", get(prometheus::metrics))
        .route("/prometheus/sd", get(prometheus::discovery))
        .route("/archive/{*path}", get(files::archive))
        .route("/images/{name}", get(files::image))
        .route("/git/{*path}", any(git::serve))
        .route("/", get(page::home))
        .route("/devices", get(page::devices::show))
        .route("/devices/{name}", get(page::device::show))
        .route("/alerts", get(page::alerts::show))
        .route("/alerts/silence", post(page::alerts::silence))
        .route("/alerts/unsilence", post(page::alerts::unsilence))
        .route("/events", get(page::happened::show))
        .route("/releases/{name}", get(page::release::show))
        .route("/rollouts/{stage}", post(page::rollout::click))
        .route("/promotion", get(page::promotion::show).post(page::promotion::click))
        .route("/trace", get(page::trace))
        .route("/builds/{id}", get(page::build))
        .route("/login", get(page::login::form).post(page::login::login))
        .route("/login/oidc", get(page::oidc::begin))
        .route("/login/oidc/callback", get(page::oidc::callback))
        .route("/logout", post(page::login::logout))
        .route("/account", get(page::login::account))
        .route("/account/password", post(page::login::password))
        .route("/account/end", post(page::login::end))
        .route("/assets/{name}", get(page::asset))
        .route("/healthz", get(|| async { "ok\n" }))
        .fallback(|| async { Refusal::not_found("there is nothing at this address") })
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take this method")
        })
        .layer(from_fn(around))
        // Each route that reads a body bounds it itself; large ones are streamed.
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

/// Runs a request so that a bug in it is one answer and one log line.
async fn around(request: Request, next: Next) -> Response {
    let started = Instant::now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut answer = Box::pin(next.run(request));
    let answer = std::future::poll_fn(|context| {
        match catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(context))) {
            Ok(Poll::Ready(response)) => Poll::Ready(response),
            Ok(Poll::Pending) => Poll::Pending,
            Err(panic) => Poll::Ready(panicked(panic.as_ref())),
        }
    });
    let mut response = answer.await;
    let (status, took) = (response.status().as_u16(), started.elapsed());
    tracing::debug!(%method, path, status, ?took, "request");
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Response {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("no message");
    Refusal::broken(format!("the server has a bug: {text}"))
        .help("the server goes on; please report this with the server's log")
        .into_response()
}
