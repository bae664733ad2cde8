//! The description of the API, by the API.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

/// The document: it is the same for every server of this version.
static DOCUMENT: LazyLock<Value> = LazyLock::new(|| super::routes::all().document());

/// Its text.
static TEXT: LazyLock<String> = LazyLock::new(|| format!("{:#}\n", *DOCUMENT));

/// An OpenAPI 3.1 document of all that can be asked of a server by HTTP, made from the routes themselves.
pub fn openapi() -> &'static Value {
    &DOCUMENT
}

/// `GET /api/v1/openapi.json`.
pub(crate) async fn show() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}
