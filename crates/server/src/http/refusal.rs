//! How the server says no: a status and a [`Problem`], never an empty page.

use std::fmt::Display;

use axum::Json;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use volary_api::v1::Problem;

/// A request that is not done.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    problem: Problem,
    /// Seconds after which it may be tried again.
    wait: Option<u64>,
}

impl Refusal {
    /// A refusal with this status and sentence.
    pub(crate) fn new(status: StatusCode, error: impl Display) -> Self {
        Self { status, problem: Problem { error: error.to_string(), help: None }, wait: None }
    }

    /// Adds what to do about it.
    #[must_use]
    pub(crate) fn help(mut self, help: impl Display) -> Self {
        self.problem.help = Some(help.to_string());
        self
    }

    /// Adds when to try again, in seconds.
    #[must_use]
    pub(crate) fn again_after(mut self, seconds: u64) -> Self {
        self.wait = Some(seconds);
        self
    }

    /// Says in an answer's headers when to try again.
    pub(crate) fn add_wait(&self, headers: &mut HeaderMap) {
        if let Some(seconds) = self.wait {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
    }

    /// The request cannot be understood.
    pub(crate) fn invalid(error: impl Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, error)
    }

    /// What it is about is not there.
    pub(crate) fn not_found(error: impl Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, error)
    }

    /// What is there does not allow it.
    pub(crate) fn conflict(error: impl Display) -> Self {
        Self::new(StatusCode::CONFLICT, error)
    }

    /// The server failed; the operator finds it in the log too.
    pub(crate) fn broken(error: impl Display) -> Self {
        tracing::error!(%error, "a request failed");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, error)
    }

    /// The sentence.
    pub(crate) fn sentence(&self) -> &str {
        &self.problem.error
    }

    /// What to do about it; empty if nobody knows.
    pub(crate) fn advice(&self) -> &str {
        self.problem.help.as_deref().unwrap_or_default()
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(&self.problem)).into_response();
        let headers = response.headers_mut();
        self.add_wait(headers);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED {
            // git asks for a password only after it was told the scheme.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"Volary\""));
        }
        response
    }
}

impl From<volary_store::StoreError> for Refusal {
    fn from(error: volary_store::StoreError) -> Self {
        if matches!(error, volary_store::StoreError::Reading) {
            return Self::new(StatusCode::SERVICE_UNAVAILABLE, error);
        }
        Self::broken(error)
    }
}

impl From<volary_host::FileError> for Refusal {
    fn from(error: volary_host::FileError) -> Self {
        Self::broken(error)
    }
}
