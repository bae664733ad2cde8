//! Reading requests: bounded, with a time limit, and with a sentence when they are wrong.

use std::error::Error as _;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use volary_model::InvalidName;

use crate::http::refusal::Refusal;

/// The largest JSON request of a person.
const JSON_LIMIT: usize = 1 << 20;

/// How long a small body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(60);

/// A JSON body.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        let body = read_body(request.into_body(), JSON_LIMIT).await?;
        // An empty body stands for a request that leaves everything at its default.
        let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(body).map(Self).map_err(|error| {
            Refusal::invalid(format!("the request's body is not what this route takes: {error}"))
        })
    }
}

/// The query, as its fields.
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let query = axum::extract::Query::try_from_uri(&parts.uri).map_err(|error| {
            let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
            Refusal::invalid(format!("the query is not what this route takes: {why}"))
        })?;
        Ok(Self(query.0))
    }
}

/// What stands in the path, in its order.
pub(crate) struct Path<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        let path = path.map_err(|error| Refusal::new(error.status(), error.body_text()))?;
        Ok(Self(path.0))
    }
}

/// It was asked for, and will be done.
pub(crate) struct Accepted;

impl IntoResponse for Accepted {
    fn into_response(self) -> Response {
        StatusCode::ACCEPTED.into_response()
    }
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read_body(body: Body, limit: usize) -> Result<Bytes, Refusal> {
    let collected = tokio::time::timeout(BODY_TIME, Limited::new(body, limit).collect()).await;
    match collected {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit as u64)),
        Ok(Err(_)) => Err(Refusal::invalid("the request's body broke off")),
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time")),
    }
}

/// The refusal of a body above its limit.
pub(crate) fn too_large(limit: u64) -> Refusal {
    Refusal::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        format!("the request's body is larger than the {} KiB that this route takes", limit >> 10),
    )
}

/// A part of the path or query as a checked name.
pub(crate) fn name<T: FromStr<Err = InvalidName>>(text: &str) -> Result<T, Refusal> {
    text.parse().map_err(Refusal::invalid)
}

/// Runs code that works on files and processes without holding up the others.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Refusal::broken(format!("the server has a bug: {error}")))
}
