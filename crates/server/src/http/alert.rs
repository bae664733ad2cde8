//! Alerts, silences and feeds for people.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::Deserialize;
use volary_api::v1::alert::{
    Alert, AlertChange, AlertDetails, AlertDevice, AlertState, Feed, NewSilence, Severity, Silence,
};
use volary_plan::alert::{self, Matcher, sentence};
use volary_plan::text;
use volary_store::{FeedRecord, StoredSilence};

use crate::app::App;
use crate::http::auth::{Operator, Person, Viewer};
use crate::http::input::{Input, Path, Query};
use crate::http::refusal::Refusal;
use crate::reconcile::{from_stored, open_silences};

/// The longest silence, seconds: what is silenced for longer is forgotten, not silenced.
const LONGEST: u64 = 90 * 86_400;

/// The longest reason: it stands in lists.
const REASON: usize = 500;

/// How many conditions a silence has at most.
const MATCHERS: usize = 20;

/// How many changes of one alert are shown.
const CHANGES: u32 = 200;

/// What of the alerts is asked for.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ListQuery {
    /// How many that are over come after the open ones, at most 1000.
    #[serde(default)]
    resolved: u32,
}

/// `GET /api/v1/alerts`.
pub(crate) async fn alerts(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<Alert>>, Refusal> {
    let now = volary_host::now();
    let silences = open_silences(&app, now).await.map_err(Refusal::broken)?;
    let mut stored = app.store.open_alerts().await?;
    if query.resolved > 0 {
        stored.extend(app.store.resolved_alerts(query.resolved.min(1000)).await?);
    }
    let alerts = stored.iter().map(|stored| from_stored(stored).map(|alert| wire(&alert, &silences, now)));
    Ok(Json(alerts.collect::<Result<_, _>>().map_err(Refusal::broken)?))
}

/// `GET /api/v1/alerts/{id}`.
pub(crate) async fn alert(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Path(id): Path<String>,
) -> Result<Json<AlertDetails>, Refusal> {
    let now = volary_host::now();
    let missing = || Refusal::not_found(format!("there is no alert {id}")).help("see: volary alert list");
    let id: u64 = id.parse().map_err(|_| missing())?;
    let stored = app.store.alert(id).await?.ok_or_else(missing)?;
    let alert = from_stored(&stored).map_err(Refusal::broken)?;
    let silences = open_silences(&app, now).await.map_err(Refusal::broken)?;
    let changes = app.store.alert_changes(Some(id), CHANGES).await?;
    let devices = alert.devices.iter().map(|(name, member)| AlertDevice {
        device: name.clone(),
        since: member.since,
        quiet_since: member.quiet_since,
        silenced: silences.iter().any(|silence| silence.covers(&alert, name, now)),
        summary: member.summary.clone(),
    });
    Ok(Json(AlertDetails {
        devices: devices.collect(),
        changes: changes.into_iter().map(change).collect(),
        alert: wire(&alert, &silences, now),
    }))
}

/// How many changes are asked for.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct ChangesQuery {
    /// How many at most; no more than 1000.
    #[serde(default = "default_changes")]
    limit: u32,
}

fn default_changes() -> u32 {
    50
}

/// `GET /api/v1/alert-changes`.
pub(crate) async fn changes(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<ChangesQuery>,
) -> Result<Json<Vec<AlertChange>>, Refusal> {
    let changes = app.store.alert_changes(None, query.limit.min(1000)).await?;
    Ok(Json(changes.into_iter().map(change).collect()))
}

/// Which silences are asked for.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct SilencesQuery {
    /// True for those that are over too.
    #[serde(default)]
    all: bool,
}

/// `GET /api/v1/silences`.
pub(crate) async fn silences(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
    Query(query): Query<SilencesQuery>,
) -> Result<Json<Vec<Silence>>, Refusal> {
    let at = (!query.all).then(volary_host::now);
    let silences = app.store.silences(at).await?;
    Ok(Json(silences.into_iter().map(wire_silence).collect::<Result<_, _>>()?))
}

/// `POST /api/v1/silences`.
pub(crate) async fn silence(
    State(app): State<Arc<App>>,
    Operator(person): Operator,
    Input(request): Input<NewSilence>,
) -> Result<Json<Silence>, Refusal> {
    Ok(Json(make_silence(&app, &person, &request).await?))
}

/// Silences for a person.
pub(crate) async fn make_silence(
    app: &App,
    person: &Person,
    request: &NewSilence,
) -> Result<Silence, Refusal> {
    let matchers: Vec<Matcher> = request
        .matchers
        .iter()
        .map(|matcher| matcher.parse())
        .collect::<Result<_, alert::InvalidMatcher>>()
        .map_err(Refusal::invalid)?;
    if matchers.is_empty() || matchers.len() > MATCHERS {
        return Err(Refusal::invalid(format!("a silence needs 1 to {MATCHERS} conditions"))
            .help("such as: volary alert silence stage=canary --for 2h --reason \"new network\""));
    }
    if request.seconds == 0 || request.seconds > LONGEST {
        return Err(Refusal::invalid("a silence lasts between a second and 90 days"));
    }
    let reason = request.reason.trim().to_owned();
    if reason.is_empty() || reason.chars().any(char::is_control) || reason.chars().count() > REASON {
        return Err(Refusal::invalid(format!("the reason must be one line of 1 to {REASON} characters")));
    }
    let now = volary_host::now();
    let length =
        SignedDuration::try_from(Duration::from_secs(request.seconds)).unwrap_or(SignedDuration::MAX);
    let made = volary_store::NewSilence {
        matchers: serde_json::to_string(&matchers).expect("matchers are texts"),
        reason: reason.clone(),
        author: person.name.clone(),
        ends_at: now.checked_add(length).unwrap_or(Timestamp::MAX),
    };
    let id = app.store.add_silence(&made, now).await?;
    let text = format!(
        "{} silenced {} for {}: {reason}",
        person.name,
        list(&matchers),
        text::duration(Duration::from_secs(request.seconds))
    );
    app.event_by(person, "alert-silenced", &id.to_string(), &text).await;
    app.nudges.alerts.notify_one();
    app.nudges.feeds.notify_waiters();
    let stored = StoredSilence { id, made, created_at: now, ended_by: None };
    wire_silence(stored)
}

/// `DELETE /api/v1/silences/{id}`.
pub(crate) async fn unsilence(
    State(app): State<Arc<App>>,
    Operator(person): Operator,
    Path(id): Path<String>,
) -> Result<Json<Silence>, Refusal> {
    Ok(Json(end_silence(&app, &person, &id).await?))
}

/// Ends a silence for a person.
pub(crate) async fn end_silence(app: &App, person: &Person, id: &str) -> Result<Silence, Refusal> {
    let missing = || {
        Refusal::not_found(format!("there is no silence {id} that has not ended"))
            .help("see: volary alert silences")
    };
    let id: u64 = id.parse().map_err(|_| missing())?;
    let now = volary_host::now();
    let mut ended = app.store.end_silence(id, &person.name, now).await?.ok_or_else(missing)?;
    ended.made.ends_at = now;
    ended.ended_by = Some(person.name.clone());
    let silence = wire_silence(ended)?;
    let text =
        format!("{} ended the silence of {} by {}", person.name, silence.matchers.join(" "), silence.author);
    app.event_by(person, "alert-unsilenced", &id.to_string(), &text).await;
    app.nudges.alerts.notify_one();
    app.nudges.feeds.notify_waiters();
    Ok(silence)
}

/// `GET /api/v1/feeds`.
pub(crate) async fn feeds(
    State(app): State<Arc<App>>,
    Viewer(_): Viewer,
) -> Result<Json<Vec<Feed>>, Refusal> {
    let mut feeds = Vec::new();
    for name in app.config.feeds.names() {
        feeds.push(feed(app.store.feed(&name).await?));
    }
    Ok(Json(feeds))
}

/// What is wrong with feeds, in sentences.
pub(crate) async fn feed_problems(app: &App) -> Result<Vec<String>, Refusal> {
    let mut problems = Vec::new();
    for name in app.config.feeds.names() {
        let record = app.store.feed(&name).await?;
        if let (Some(problem), Some(since)) = (record.problem, record.failing_since) {
            problems.push(format!("feed {name} fails since {since:.0}: {problem}"));
        }
    }
    Ok(problems)
}

fn feed(record: FeedRecord) -> Feed {
    Feed {
        name: record.name,
        waiting: record.waiting,
        bytes: record.bytes,
        sent: record.sent,
        sent_at: record.sent_at,
        dropped: record.dropped,
        refused: record.refused,
        problem: record.problem,
        failing_since: record.failing_since,
    }
}

fn change(change: volary_store::AlertChange) -> AlertChange {
    AlertChange { alert: change.alert, at: change.at, kind: change.kind, text: change.text }
}

fn list(matchers: &[Matcher]) -> String {
    matchers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

pub(crate) fn wire_silence(stored: StoredSilence) -> Result<Silence, Refusal> {
    let matchers: Vec<Matcher> = serde_json::from_str(&stored.made.matchers)
        .map_err(|error| Refusal::broken(format!("silence {} cannot be read: {error}", stored.id)))?;
    Ok(Silence {
        id: stored.id,
        matchers: matchers.iter().map(ToString::to_string).collect(),
        reason: stored.made.reason,
        author: stored.made.author,
        created_at: stored.created_at,
        ends_at: stored.made.ends_at,
        ended_by: stored.ended_by,
    })
}

fn wire(alert: &alert::Alert, silences: &[alert::Silence], now: Timestamp) -> Alert {
    let heard = alert.heard(silences, now).count();
    Alert {
        id: alert.id,
        summary: sentence(alert, alert.devices.iter()),
        rule: alert.rule.clone(),
        labels: alert.labels.clone(),
        severity: match alert.severity {
            alert::Severity::Warning => Severity::Warning,
            alert::Severity::Critical => Severity::Critical,
        },
        state: match alert.state {
            alert::AlertState::Pending => AlertState::Pending,
            alert::AlertState::Firing => AlertState::Firing,
            alert::AlertState::Resolved => AlertState::Resolved,
        },
        devices: alert.devices.len(),
        silenced: alert.devices.len() - heard,
        most: alert.most,
        since: alert.since,
        began_at: alert.began_at,
        ended_at: alert.ended_at,
    }
}
