//! The page of what happened: all events, and those that people caused alone.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;

use super::view::event_tone;
use super::{Head, page};
use crate::app::App;
use crate::http::status::newest_events;

/// How many events are looked through.
const EVENTS: u32 = 1000;

/// How many are shown.
const SHOWN: usize = 300;

/// Which events.
#[derive(Deserialize)]
pub(crate) struct Which {
    /// Only those whose kind, subject or text has this in it.
    #[serde(default)]
    q: String,
}

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    head: Head,
    q: String,
    events: Vec<Row>,
    more: bool,
}

struct Row {
    at: String,
    kind: String,
    tone: &'static str,
    text: String,
}

/// `GET /events?q=…`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Query(which): Query<Which>,
) -> Response {
    page(&app, &headers, async |_, head| {
        let wanted = which.q.trim().to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        let found = newest_events(&app, EVENTS).await?;
        let mut events: Vec<Row> = found
            .into_iter()
            .filter(|event| has(&event.kind) || has(&event.subject) || has(&event.text))
            .map(|event| Row {
                at: event.at.strftime("%F %T").to_string(),
                tone: event_tone(&event.kind),
                kind: event.kind,
                text: event.text,
            })
            .take(SHOWN + 1)
            .collect();
        let more = events.len() > SHOWN;
        events.truncate(SHOWN);
        Ok(EventsPage { head, q: which.q.trim().to_owned(), events, more }.render())
    })
    .await
}
