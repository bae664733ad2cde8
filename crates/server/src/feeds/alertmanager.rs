//! Prometheus' Alertmanager: it is told each minute of all alerts that go on, as Prometheus does it, and
//! of each that is over until it has taken that. It groups, routes and silences as it is used to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use volary_plan::alert::{Alert, AlertState, Silence};

use super::check_url;
use super::http::{Endpoint, Login};
use super::labels::{annotations, fingerprint, labels};
use super::queue::{Answer, fails, works_again};
use crate::app::App;
use crate::reconcile::{open_alerts, open_silences};
use crate::tls::listener::asked_to_stop;

/// How often it is told of what goes on: it forgets what it is not told of for some minutes.
const AGAIN: Duration = Duration::from_secs(60);

/// How long it takes an alert to be over if this server is away: four times [`AGAIN`], as Prometheus does.
const FORGET: SignedDuration = SignedDuration::from_secs(240);

/// How long at least between two tellings, however often the bell rings.
const GATHER: Duration = Duration::from_millis(500);

/// How many alerts that are over are kept while it is away. Each is a cause, not a device.
const MOST: usize = 10_000;

/// An Alertmanager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlertmanagerConfig {
    /// Its address, without `/api`.
    pub url: String,
    /// Its certificate authority (PEM), if it is none that this machine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The user, where a password is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The file with the user's password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
}

impl AlertmanagerConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if self.user.is_some() != self.password_file.is_some() {
            return Err("user and password_file belong together".into());
        }
        check_url(&self.url)
    }
}

/// The feed's name.
pub(super) fn feed(name: &str) -> String {
    format!("alertmanager/{name}")
}

/// An alert as `POST /api/v2/alerts` takes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Postable {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: Timestamp,
    ends_at: Timestamp,
    #[serde(rename = "generatorURL")]
    generator_url: String,
}

/// What it was told, or is to be told, as going on; by fingerprint.
type Known = BTreeMap<String, Postable>;

/// Tells one Alertmanager, until the server stops.
pub(super) async fn keep(
    app: Arc<App>,
    name: String,
    config: AlertmanagerConfig,
    mut stop: watch::Receiver<bool>,
) {
    let login = config.user.zip(config.password_file);
    let login = login.map(|(user, password_file)| Login { user, password_file });
    let endpoint = Arc::new(Endpoint::new(app.layout.root(), &config.url, config.ca_file, login));
    let feed = feed(&name);
    loop {
        let wait = match round(&app, &feed, &endpoint).await {
            Ok(wait) => wait,
            Err(problem) => {
                tracing::error!(feed, %problem, "the feed cannot be prepared");
                AGAIN
            }
        };
        tokio::select! {
            () = asked_to_stop(&mut stop) => return,
            () = tokio::time::sleep(wait) => {}
            () = app.nudges.feeds.notified() => tokio::time::sleep(GATHER).await,
        }
    }
}

async fn round(app: &Arc<App>, feed: &str, endpoint: &Arc<Endpoint>) -> Result<Duration, String> {
    let text = |error: volary_store::StoreError| error.to_string();
    let now = volary_host::now();
    let state = app.store.feed_state(feed).await.map_err(text)?;
    let known: Known = serde_json::from_str(&state).unwrap_or_default();
    let (alerts, silences) = (open_alerts(app).await?, open_silences(app, now).await?);
    let (firing, over) = compare(known, &alerts, &silences, &app.config.fleet, &app.url, now);
    // Before it is told: what a kill cuts off is told again, never forgotten.
    let all: Known = firing.iter().chain(&over).map(|one| (fingerprint(&one.labels), one.clone())).collect();
    let noted = serde_json::to_string(&all).expect("an alert is plain data");
    if noted != state && !(all.is_empty() && state.is_empty()) {
        app.store.set_feed_state(feed, &noted).await.map_err(text)?;
    }
    let record = app.store.feed(feed).await.map_err(text)?;
    let later = record.next_at.filter(|next| *next > now);
    if let Some(later) = later {
        return Ok(Duration::try_from(later.duration_since(now)).unwrap_or(AGAIN).min(AGAIN));
    }
    if all.is_empty() {
        return Ok(AGAIN);
    }
    let body: Vec<&Postable> = firing.iter().chain(&over).collect();
    let body = serde_json::to_vec(&body).expect("an alert is plain data");
    let worker = endpoint.clone();
    let answer = tokio::task::spawn_blocking(move || {
        worker.tell("/api/v2/alerts", &[("content-type", "application/json")], &body)
    })
    .await
    .map_err(|error| format!("it has a bug: {error}"))?;
    match answer {
        Answer::Taken => {
            works_again(app, feed, record.attempts).await.map_err(text)?;
            if !over.is_empty() {
                let left: Known = firing.into_iter().map(|one| (fingerprint(&one.labels), one)).collect();
                let noted = serde_json::to_string(&left).expect("an alert is plain data");
                app.store.set_feed_state(feed, &noted).await.map_err(text)?;
            }
            Ok(AGAIN)
        }
        Answer::Never(problem) | Answer::Later(problem, _) => {
            // The state is told again in any case, so nothing is lost by trying.
            fails(app, feed, record.attempts.min(2), &problem, None).await.map_err(text)?;
            Ok(Duration::from_secs(5))
        }
    }
}

/// What goes on, and what it was told of that does not any more.
fn compare(
    known: Known,
    alerts: &[Alert],
    silences: &[Silence],
    fleet: &str,
    url: &str,
    now: Timestamp,
) -> (Vec<Postable>, Vec<Postable>) {
    let until = now.checked_add(FORGET).unwrap_or(Timestamp::MAX);
    let mut firing: Known = BTreeMap::new();
    for alert in alerts.iter().filter(|alert| alert.state == AlertState::Firing) {
        let heard: Vec<_> = alert.heard(silences, now).collect();
        if heard.is_empty() {
            continue;
        }
        let labels = labels(alert, fleet);
        let one = Postable {
            annotations: annotations(alert, heard.into_iter()),
            starts_at: alert.began_at.unwrap_or(alert.since),
            ends_at: until,
            generator_url: url.to_owned(),
            labels,
        };
        firing.insert(fingerprint(&one.labels), one);
    }
    let over = known.into_iter().filter(|(id, _)| !firing.contains_key(id)).map(|(_, mut one)| {
        one.ends_at = one.ends_at.min(now);
        one
    });
    let mut over: Vec<Postable> = over.collect();
    // The oldest go first; it would have forgotten them.
    over.sort_by_key(|one| std::cmp::Reverse(one.ends_at));
    over.truncate(MOST);
    (firing.into_values().collect(), over)
}
