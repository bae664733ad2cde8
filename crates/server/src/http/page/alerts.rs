//! The page of alerts: what is wrong now, what people do not want to hear of, and what was.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Form, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use jiff::Timestamp;
use serde::Deserialize;
use volary_api::v1::alert::NewSilence;
use volary_api::v1::fleet::Role;
use volary_plan::alert::{Alert, AlertState, Severity, Silence, sentence};
use volary_plan::text;

use super::view::ago;
use super::{Head, clicked, page};
use crate::app::App;
use crate::http::alert::{end_silence, make_silence, wire_silence};
use crate::http::auth;
use crate::http::refusal::Refusal;
use crate::reconcile::{from_stored, open_silences};

/// How many devices of an alert are shown.
const DEVICES: usize = 20;

/// How many changes of alerts are shown.
const CHANGES: u32 = 50;

/// How long the button silences, in seconds.
const SILENCED: u64 = 2 * 3600;

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsPage {
    head: Head,
    alerts: Vec<AlertRow>,
    silences: Vec<SilenceRow>,
    changes: Vec<ChangeRow>,
    /// True if the person may silence.
    silences_them: bool,
}

struct AlertRow {
    id: u64,
    tone: &'static str,
    word: &'static str,
    sentence: String,
    /// Since when, and how many of it nobody hears of.
    about: String,
    devices: Vec<DeviceRow>,
    more: usize,
    /// True if a silence covers each of its devices.
    silenced: bool,
}

struct DeviceRow {
    name: String,
    since: String,
    reason: String,
    silenced: bool,
}

struct SilenceRow {
    id: u64,
    matchers: String,
    reason: String,
    author: String,
    until: String,
}

struct ChangeRow {
    at: String,
    tone: &'static str,
    kind: String,
    text: String,
}

/// An alert that somebody does not want to hear of for a while.
#[derive(Deserialize)]
pub(crate) struct SilenceClick {
    alert: u64,
    reason: String,
    csrf: String,
}

/// A silence that somebody ends.
#[derive(Deserialize)]
pub(crate) struct UnsilenceClick {
    silence: String,
    csrf: String,
}

/// `GET /alerts`.
pub(crate) async fn show(State(app): State<Arc<App>>, headers: HeaderMap, uri: Uri) -> Response {
    page(&app, &headers, &uri, async |person, head| {
        let now = volary_host::now();
        let silences = open_silences(&app, now).await.map_err(Refusal::broken)?;
        let alerts: Vec<Alert> = app
            .store
            .open_alerts()
            .await?
            .iter()
            .map(from_stored)
            .collect::<Result<_, _>>()
            .map_err(Refusal::broken)?;
        let mut alerts: Vec<AlertRow> = alerts.iter().map(|alert| alert_row(alert, &silences, now)).collect();
        // What somebody should look at first comes first.
        alerts.sort_by_key(|row| (row.silenced, rank(row.word)));
        let silences = app.store.silences(Some(now)).await?;
        let shown = AlertsPage {
            alerts,
            silences: silences
                .into_iter()
                .map(|stored| wire_silence(stored).map(|silence| silence_row(silence, now)))
                .collect::<Result<_, _>>()?,
            changes: app.store.alert_changes(None, CHANGES).await?.into_iter().map(change_row).collect(),
            silences_them: person.may(Role::Operator),
            head,
        };
        Ok(shown.render())
    })
    .await
}

/// `POST /alerts/silence`: the button of an alert. It covers what has the same cause, also on devices that
/// come later.
pub(crate) async fn silence(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Form(click): Form<SilenceClick>,
) -> Response {
    let made = async {
        let person = auth::person_who_clicked(&app, &headers, &click.csrf).await?;
        person.must_be(Role::Operator)?;
        let gone = || {
            Refusal::not_found(format!("alert {} is over", click.alert)).help("see what fires now at /alerts")
        };
        let stored = app.store.alert(click.alert).await?.ok_or_else(gone)?;
        let alert = from_stored(&stored).map_err(Refusal::broken)?;
        if alert.state == AlertState::Resolved {
            return Err(gone());
        }
        let labels = alert.labels.iter().map(|(label, value)| format!("{label}={value}"));
        let matchers = std::iter::once(format!("rule={}", alert.rule)).chain(labels).collect();
        let asked = NewSilence { matchers, seconds: SILENCED, reason: click.reason };
        make_silence(&app, &person, &asked).await
    };
    clicked(&app, "/alerts", made.await)
}

/// `POST /alerts/unsilence`: the button of a silence.
pub(crate) async fn unsilence(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Form(click): Form<UnsilenceClick>,
) -> Response {
    let ended = async {
        let person = auth::person_who_clicked(&app, &headers, &click.csrf).await?;
        person.must_be(Role::Operator)?;
        end_silence(&app, &person, &click.silence).await
    };
    clicked(&app, "/alerts", ended.await)
}

fn rank(word: &str) -> usize {
    ["critical", "warning"].iter().position(|known| *known == word).unwrap_or(2)
}

fn alert_row(alert: &Alert, silences: &[Silence], now: Timestamp) -> AlertRow {
    let (tone, word) = match (alert.state, alert.severity) {
        (AlertState::Pending, _) => ("off", "pending"),
        (AlertState::Resolved, _) => ("good", "resolved"),
        (AlertState::Firing, Severity::Critical) => ("bad", "critical"),
        (AlertState::Firing, Severity::Warning) => ("warn", "warning"),
    };
    let all = alert.devices.len();
    let silenced = all - alert.heard(silences, now).count();
    let mut about = vec![format!("for {}", ago(alert.began_at.unwrap_or(alert.since), now))];
    if alert.most > all {
        about.push(format!("{} at most", text::count(alert.most, "device")));
    }
    if silenced > 0 {
        about.push(if silenced == all {
            "silenced".to_owned()
        } else {
            format!("{silenced} of {all} silenced")
        });
    }
    let devices = alert.devices.iter().take(DEVICES).map(|(name, member)| DeviceRow {
        name: name.to_string(),
        since: ago(member.since, now),
        reason: member.summary.clone(),
        silenced: silences.iter().any(|silence| silence.covers(alert, name, now)),
    });
    AlertRow {
        id: alert.id,
        tone,
        word,
        sentence: sentence(alert, alert.devices.iter()),
        about: about.join(" · "),
        devices: devices.collect(),
        more: all.saturating_sub(DEVICES),
        silenced: all > 0 && silenced == all,
    }
}

fn silence_row(silence: volary_api::v1::alert::Silence, now: Timestamp) -> SilenceRow {
    SilenceRow {
        id: silence.id,
        matchers: silence.matchers.join(" "),
        reason: silence.reason,
        author: silence.author,
        until: format!("{}, in {}", silence.ends_at.strftime("%F %H:%M"), ago(now, silence.ends_at)),
    }
}

fn change_row(change: volary_store::AlertChange) -> ChangeRow {
    ChangeRow {
        at: change.at.strftime("%F %T").to_string(),
        tone: match change.kind.as_str() {
            "resolved" => "good",
            "began" | "worse" => "bad",
            _ => "warn",
        },
        kind: change.kind,
        text: change.text,
    }
}
