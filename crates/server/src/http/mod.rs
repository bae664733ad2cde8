//! What surrounds each request: panics become an answer, and a line in the log. The routes are in `routes`.

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
mod openapi;
pub(crate) mod page;
pub(crate) mod prometheus;
pub(crate) mod quality;
pub(crate) mod refusal;
pub(crate) mod report;
pub(crate) mod rollout;
mod routes;
mod specification;
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

use crate::app::App;
use crate::http::refusal::Refusal;

pub use specification::openapi;

/// The whole server as a service.
pub(crate) fn router(app: Arc<App>) -> Router {
    routes::all()
        .into_router()
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
