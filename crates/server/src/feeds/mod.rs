//! Feeds: other systems that are told of alerts and of how devices are. `[feeds.KIND.NAME]` in
//! `server.toml` turns one on; each runs by itself, and one that is away holds up no other.
//!
//! What must arrive (alerts, points of time series) goes through a durable queue (`queue`); what is a
//! state (Alertmanager's alerts, Icinga's objects) is compared and sent again until it is known there.

mod alertmanager;
mod datadog;
mod http;
mod icinga;
mod labels;
mod mail;
mod measure;
mod otlp;
pub(crate) mod prometheus;
mod queue;
mod remote_write;
mod webhook;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;
use volary_plan::alert::{Alert, Change, Silence};
use volary_store::NewMessage;

use crate::address;
use crate::app::App;
use crate::facts::Judged;
use crate::tls::listener::asked_to_stop;
use measure::Subject;

pub use alertmanager::AlertmanagerConfig;
pub use datadog::DatadogConfig;
pub(crate) use http::{Endpoint, agent};
pub use icinga::IcingaConfig;
pub use mail::MailConfig;
pub use otlp::OtlpConfig;
pub(crate) use queue::note_full;
pub use remote_write::RemoteWriteConfig;
pub(crate) use remote_write::RemoteWrites;
pub use webhook::WebhookConfig;

/// MiB that may wait for one feed, unless it says otherwise: weeks of alerts, hours of measurements.
const QUEUE: u32 = 64;

/// How soon to look again for the first judgement after a start.
const SOON: Duration = Duration::from_millis(200);

/// Who is told, by kind and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedsConfig {
    /// Programs that take Alertmanager's webhook.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub webhook: BTreeMap<String, WebhookConfig>,
    /// People.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub mail: BTreeMap<String, MailConfig>,
    /// Prometheus' Alertmanager.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub alertmanager: BTreeMap<String, AlertmanagerConfig>,
    /// Icinga 2.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub icinga: BTreeMap<String, IcingaConfig>,
    /// Datadog.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub datadog: BTreeMap<String, DatadogConfig>,
    /// Collectors of OpenTelemetry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub otlp: BTreeMap<String, OtlpConfig>,
    /// Receivers of Prometheus' remote write.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub prometheus: BTreeMap<String, RemoteWriteConfig>,
}

impl FeedsConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        for name in self.names() {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let own = name.split_once('/').map_or("", |(_, own)| own);
            if own.is_empty() || !own.chars().all(plain) {
                return Err(format!("feeds: {name}: a name is letters, digits, -, _ and ."));
            }
        }
        let at = |kind: &str, name: &str, result: Result<(), String>| {
            result.map_err(|problem| format!("feeds.{kind}.{name}: {problem}"))
        };
        self.webhook.iter().try_for_each(|(name, feed)| at("webhook", name, feed.check()))?;
        self.mail.iter().try_for_each(|(name, feed)| at("mail", name, feed.check()))?;
        self.alertmanager.iter().try_for_each(|(name, feed)| at("alertmanager", name, feed.check()))?;
        self.icinga.iter().try_for_each(|(name, feed)| at("icinga", name, feed.check()))?;
        self.datadog.iter().try_for_each(|(name, feed)| at("datadog", name, feed.check()))?;
        self.otlp.iter().try_for_each(|(name, feed)| at("otlp", name, feed.check()))?;
        self.prometheus.iter().try_for_each(|(name, feed)| at("prometheus", name, feed.check()))
    }

    /// The names of all feeds, as `kind/name`.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        names.extend(self.webhook.keys().map(|name| webhook::feed(name)));
        names.extend(self.mail.keys().map(|name| mail::feed(name)));
        names.extend(self.alertmanager.keys().map(|name| alertmanager::feed(name)));
        names.extend(self.icinga.keys().map(|name| icinga::feed(name)));
        names.extend(self.datadog.keys().map(|name| datadog::feed(name)));
        names.extend(self.otlp.keys().map(|name| otlp::feed(name)));
        names.extend(self.prometheus.keys().map(|name| remote_write::feed(name)));
        names
    }
}

/// Something to tell of an alert.
#[derive(Debug, Clone, Copy)]
pub(crate) struct News<'a> {
    /// The alert after it.
    pub(crate) alert: &'a Alert,
    /// What became of it.
    pub(crate) change: Change,
    /// The silences.
    pub(crate) silences: &'a [Silence],
    /// The fleet's name.
    pub(crate) fleet: &'a str,
    /// The server's address.
    pub(crate) url: &'a str,
    /// Now.
    pub(crate) now: Timestamp,
}

/// The messages that tell all feeds of it.
pub(crate) fn messages(config: &FeedsConfig, news: &News<'_>) -> Vec<NewMessage> {
    let mut messages = Vec::new();
    for (name, feed) in &config.webhook {
        let body = webhook::body(name, news);
        messages.push(NewMessage { feed: webhook::feed(name), limit: limit(feed.queue_mib), body });
    }
    for (name, feed) in &config.mail {
        let body = mail::body(news);
        messages.push(NewMessage { feed: mail::feed(name), limit: limit(feed.queue_mib), body });
    }
    for (name, feed) in &config.datadog {
        let body = datadog::event(news);
        messages.push(NewMessage { feed: datadog::feed(name), limit: limit(feed.queue_mib), body });
    }
    messages
}

/// Starts all feeds.
pub(crate) fn start(app: &Arc<App>, stop: &watch::Receiver<bool>, tasks: &mut JoinSet<()>) {
    let root = app.layout.root();
    for (name, feed) in &app.config.feeds.webhook {
        let destination = webhook::Webhook::new(root, feed.clone());
        tasks.spawn(queue::deliver(app.clone(), webhook::feed(name), destination, stop.clone()));
    }
    for (name, feed) in &app.config.feeds.mail {
        let destination = mail::Mail::new(root, feed.clone(), &app.config.fleet);
        tasks.spawn(queue::deliver(app.clone(), mail::feed(name), destination, stop.clone()));
    }
    remote_write::start(app, &app.config.feeds.prometheus, stop, tasks);
    for (name, feed) in &app.config.feeds.alertmanager {
        tasks.spawn(alertmanager::keep(app.clone(), name.clone(), feed.clone(), stop.clone()));
    }
    for (name, feed) in &app.config.feeds.icinga {
        tasks.spawn(icinga::keep(app.clone(), name.clone(), feed.clone(), stop.clone()));
    }
    for (name, feed) in &app.config.feeds.datadog {
        let source =
            Source { feed: datadog::feed(name), interval: feed.interval, limit: limit(feed.queue_mib) };
        let destination = datadog::Datadog::new(root, feed.clone());
        tasks.spawn(queue::deliver(app.clone(), source.feed.clone(), destination, stop.clone()));
        tasks.spawn(source.keep(
            app.clone(),
            |_, devices, subjects, now| datadog::values(subjects, devices, now),
            stop.clone(),
        ));
    }
    for (name, feed) in &app.config.feeds.otlp {
        let source = Source { feed: otlp::feed(name), interval: feed.interval, limit: limit(feed.queue_mib) };
        let destination = otlp::Otlp::new(root, feed.clone());
        tasks.spawn(queue::deliver(app.clone(), source.feed.clone(), destination, stop.clone()));
        tasks.spawn(source.keep(
            app.clone(),
            |app, _, subjects, now| otlp::values(subjects, &app.config.fleet, now),
            stop.clone(),
        ));
    }
}

/// Writes the messages with all values of a moment.
type Write = fn(&App, &[Judged], &[Subject], Timestamp) -> Result<Vec<Vec<u8>>, String>;

/// Where the values of a feed come from, again and again.
struct Source {
    feed: String,
    /// Seconds.
    interval: u32,
    limit: u64,
}

impl Source {
    /// Puts all values into the queue at each interval, until the server stops.
    async fn keep(self, app: Arc<App>, write: Write, mut stop: watch::Receiver<bool>) {
        loop {
            // Right after the start the devices have yet to be judged.
            let is_judged = app.judged.get().at.is_some();
            let wait = if is_judged { Duration::from_secs(self.interval.into()) } else { SOON };
            if is_judged && let Err(problem) = self.measure(&app, write).await {
                tracing::error!(feed = self.feed, %problem, "values are lost");
            }
            tokio::select! {
                () = asked_to_stop(&mut stop) => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn measure(&self, app: &Arc<App>, write: Write) -> Result<(), String> {
        let now = volary_host::now();
        let devices = app.devices().await.map_err(|error| error.to_string())?;
        let worker = app.clone();
        let bodies =
            tokio::task::spawn_blocking(move || write(&worker, &devices, &measure::all(&devices, now), now))
                .await
                .map_err(|error| format!("it has a bug: {error}"))??;
        let message = |body| NewMessage { feed: self.feed.clone(), limit: self.limit, body };
        let messages: Vec<NewMessage> = bodies.into_iter().map(message).collect();
        queue::put(app, &messages).await
    }
}

/// Seconds between two values of a series, unless a feed says otherwise.
pub(crate) fn default_interval() -> u32 {
    60
}

/// Refuses an interval at which nothing new could be told.
pub(crate) fn check_interval(seconds: u32) -> Result<(), String> {
    if (10..=3_600).contains(&seconds) { Ok(()) } else { Err("interval must be 10 to 3600 seconds".into()) }
}

pub(crate) fn default_queue() -> u32 {
    QUEUE
}

pub(crate) fn limit(mib: u32) -> u64 {
    u64::from(mib) << 20
}

/// Refuses what is no address of a web service.
pub(crate) fn check_url(url: &str) -> Result<(), String> {
    if address::is_web(url) {
        return Ok(());
    }
    Err(format!("url {url:?} must begin with https:// or http://"))
}

/// Refuses a queue that holds nothing.
pub(crate) fn check_queue(mib: u32) -> Result<(), String> {
    if mib == 0 { Err("queue_mib must be at least 1".into()) } else { Ok(()) }
}
