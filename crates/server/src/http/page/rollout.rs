//! The buttons of a rollout, on the overview.

use std::sync::Arc;

use axum::extract::{Form, Path, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use volary_api::v1::fleet::Role;
use volary_api::v1::rollout::Say;

use super::clicked;
use crate::app::App;
use crate::http::auth;
use crate::http::rollout::{open_next, resume_it, stop_it};

/// What somebody does with a rollout.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Verb {
    Stop,
    Resume,
    Next,
}

/// A button, and why it was pressed.
#[derive(Deserialize)]
pub(crate) struct Click {
    verb: Verb,
    reason: String,
    csrf: String,
}

/// `POST /rollouts/{stage}`.
pub(crate) async fn click(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Path(stage): Path<String>,
    Form(click): Form<Click>,
) -> Response {
    let done = async {
        let person = auth::person_who_clicked(&app, &headers, &click.csrf).await?;
        let said = Say { reason: click.reason };
        match click.verb {
            Verb::Stop => {
                person.must_be(Role::Operator)?;
                stop_it(&app, &person, &stage, &said).await
            }
            Verb::Resume => {
                person.must_be(Role::ReleaseManager)?;
                resume_it(&app, &person, &stage, &said).await
            }
            Verb::Next => {
                person.must_be(Role::ReleaseManager)?;
                open_next(&app, &person, &stage, &said).await
            }
        }
    };
    clicked(&app, "/", done.await)
}
