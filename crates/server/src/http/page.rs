//! The pages for people: rendered here, without anything from elsewhere, and kept current by a
//! small script that fetches them again.

pub(crate) mod alerts;
pub(crate) mod device;
pub(crate) mod devices;
pub(crate) mod happened;
pub(crate) mod login;
pub(crate) mod oidc;
pub(crate) mod promotion;
pub(crate) mod release;
pub(crate) mod rollout;
mod view;

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use volary_api::v1::fleet::Role;
use volary_plan::alert::AlertState;

use crate::app::App;
use crate::http::auth::{self, Person};
use crate::http::build::{api_build, find_build, read_log};
use crate::http::refusal::Refusal;
use crate::http::status::{TraceQuery, journey, newest_events, whole};

/// In the addresses of the assets, so that a browser never mixes two versions.
pub(crate) const ASSETS_VERSION: &str = env!("CARGO_PKG_VERSION");

const STYLE: &str = include_str!("../../assets/style.css");
const SCRIPT: &str = include_str!("../../assets/live.js");

/// Nothing from elsewhere, nothing inline: whatever stands in a commit's subject stays text.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; \
                      img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// How many devices of a stage the overview shows; the page of devices has all.
const DEVICES: usize = 40;

/// How many events the page shows.
const EVENTS: u32 = 25;

/// How much of a log's end the page shows at once; the command line has all of it.
const LOG_TAIL: u64 = 256 << 10;

/// `GET /`.
pub(crate) async fn home(State(app): State<Arc<App>>, headers: HeaderMap, uri: Uri) -> Response {
    page(&app, &headers, &uri, async |person, head| {
        let status = whole(&app, Some(DEVICES)).await?;
        let events = newest_events(&app, EVENTS, false).await?;
        Ok(view::Home::new(status, events, &app.view.get(), &person, head).render())
    })
    .await
}

/// `GET /trace?package=P&version=V`.
pub(crate) async fn trace(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
    query: Result<Query<TraceQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    page(&app, &headers, &uri, async |_, head| {
        let Query(query) = query.map_err(|_| Refusal::invalid("name a package and its version"))?;
        let trace = journey(&app, &query).await?;
        Ok(view::Journey::new(trace, &app.view.get(), head).render())
    })
    .await
}

/// `GET /builds/{id}`.
pub(crate) async fn build(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
    Path(id): Path<String>,
) -> Response {
    page(&app, &headers, &uri, async |_, head| {
        let record = find_build(&app, &id).await?;
        let length = tokio::fs::metadata(app.layout.build_log(record.id)).await.map_or(0, |log| log.len());
        let from = length.saturating_sub(LOG_TAIL);
        let (text, whole) = read_log(&app, record.id, from).await?;
        let next = from + text.len() as u64;
        let log = view::Log { text: String::from_utf8_lossy(&text).into_owned(), cut: from > 0, next, whole };
        Ok(view::BuildPage::new(api_build(record), log, head).render())
    })
    .await
}

/// Renders for a person who is signed in; sends others to sign in, and shows refusals as a page.
async fn page(
    app: &App,
    headers: &HeaderMap,
    uri: &Uri,
    render: impl AsyncFnOnce(Person, Head) -> Result<askama::Result<String>, Refusal>,
) -> Response {
    let person = match auth::person(app, &Method::GET, headers).await {
        Ok(person) => person,
        Err(refusal) if refusal.status() == StatusCode::UNAUTHORIZED => return login::away(uri),
        Err(refusal) => return refused(app, &refusal),
    };
    let shown = async {
        person.must_be(Role::Viewer)?;
        let head = Head::new(app, headers, &person).await?;
        render(person, head).await
    };
    match shown.await {
        Ok(html) => html_page(StatusCode::OK, html),
        Err(refusal) => refused(app, &refusal),
    }
}

/// A refusal as a page.
fn refused(app: &App, refusal: &Refusal) -> Response {
    let (problem, help) = (refusal.sentence().to_owned(), refusal.advice().to_owned());
    let shown = view::RefusalPage { fleet: app.config.fleet.clone(), problem, help };
    html_page(refusal.status(), shown.render())
}

/// After a button: on to the page at `path`, or why it was not done.
fn clicked<T>(app: &App, path: &str, done: Result<T, Refusal>) -> Response {
    match done {
        Ok(_) => Redirect::to(path).into_response(),
        Err(refusal) => refused(app, &refusal),
    }
}

/// What the head of each page shows, and what its forms carry.
struct Head {
    fleet: String,
    person: String,
    /// How many alerts fire.
    firing: usize,
    /// What tells that a form came from the page.
    csrf: String,
}

impl Head {
    async fn new(app: &App, headers: &HeaderMap, person: &Person) -> Result<Self, Refusal> {
        let alerts = app.store.open_alerts().await?;
        Ok(Self {
            fleet: app.config.fleet.clone(),
            person: person.name.clone(),
            firing: alerts.iter().filter(|alert| alert.state == AlertState::Firing.as_str()).count(),
            csrf: auth::csrf(headers).unwrap_or_default(),
        })
    }
}

fn html_page(status: StatusCode, html: askama::Result<String>) -> Response {
    let Ok(html) = html else {
        return Refusal::broken("the page cannot be rendered").into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (status, headers, html).into_response()
}

/// `GET /assets/{name}`.
pub(crate) async fn asset(Path(name): Path<String>) -> Result<Response, Refusal> {
    let (content_type, text) = match name.as_str() {
        "style.css" => ("text/css; charset=utf-8", STYLE),
        "live.js" => ("text/javascript; charset=utf-8", SCRIPT),
        _ => return Err(Refusal::not_found("there is nothing at this address")),
    };
    let headers = [(header::CONTENT_TYPE, content_type), (header::CACHE_CONTROL, "public, max-age=3600")];
    Ok((headers, text).into_response())
}
