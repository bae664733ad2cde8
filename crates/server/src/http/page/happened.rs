//! The page of what happened: all events, and those that people caused alone.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Deserialize;

use super::view::event_tone;
use super::{Head, page};
use crate::app::App;
use crate::http::auth::how_text;
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
    /// Only what people did.
    #[serde(default)]
    people: bool,
}

#[derive(Template)]
#[template(path = "events.html")]
struct EventsPage {
    head: Head,
    q: String,
    people: bool,
    events: Vec<Row>,
    more: bool,
}

struct Row {
    at: String,
    kind: String,
    tone: &'static str,
    text: String,
    /// Who did it, and how they had signed in; empty if nobody did.
    by: String,
}

/// `GET /events?q=…&people=true`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
    Query(which): Query<Which>,
) -> Response {
    page(&app, &headers, &uri, async |_, head| {
        let wanted = which.q.trim().to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        let found = newest_events(&app, EVENTS, which.people).await?;
        let mut events: Vec<Row> = found
            .into_iter()
            .filter(|event| {
                let by = event.by.as_ref().is_some_and(|by| has(&by.name));
                by || has(&event.kind) || has(&event.subject) || has(&event.text)
            })
            .map(|event| Row {
                at: event.at.strftime("%F %T").to_string(),
                tone: event_tone(&event.kind),
                by: event.by.map(|by| format!("{} ({})", by.name, how_text(by.how))).unwrap_or_default(),
                kind: event.kind,
                text: event.text,
            })
            .take(SHOWN + 1)
            .collect();
        let more = events.len() > SHOWN;
        events.truncate(SHOWN);
        Ok(EventsPage { head, q: which.q.trim().to_owned(), people: which.people, events, more }.render())
    })
    .await
}
