//! Icinga 2: a host for each device with passive services, kept in step, and a result at once when one
//! changes and again each third of its life.
//!
//! Icinga gets states, not a history, so nothing waits in a queue: what it shows after an outage is how
//! devices are then. Results carry no time of their own: Icinga takes its own clock, and so never thinks
//! that one is older than the last, which it would drop without a word. If this server is away, results
//! grow stale and Icinga itself says so. Objects are addressed by name, so the user needs no right to
//! filter.

mod api;
mod objects;
mod results;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use volary_plan::text;

use super::http::{Endpoint, Login};
use super::queue::{fails, works_again};
use crate::address;
use crate::app::App;
use crate::facts::Judged;
use crate::tls::listener::asked_to_stop;

use api::{Api, Trouble};
use objects::{Known, Step};
use results::{CheckResult, Found};

/// How often results are looked at, besides when devices change.
const LOOK: Duration = Duration::from_secs(5);

/// How long at least between two looks, however often the bell rings.
const GATHER: Duration = Duration::from_millis(200);

/// How often all objects are listed: somebody may have changed them there.
const LIST: Duration = Duration::from_secs(600);

/// An Icinga 2.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IcingaConfig {
    /// The address of its API: `https://icinga.example:5665`.
    pub url: String,
    /// The `ApiUser`.
    pub user: String,
    /// The file with its password.
    pub password_file: PathBuf,
    /// Icinga's certificate authority: a copy of its `/var/lib/icinga2/certs/ca.crt`.
    pub ca_file: PathBuf,
    /// Seconds for which a result is good; it is sent again each third of that.
    #[serde(default = "default_ttl")]
    pub ttl: u32,
    /// The template of hosts there.
    #[serde(default = "default_host_template")]
    pub host_template: String,
    /// The template of services there.
    #[serde(default = "default_service_template")]
    pub service_template: String,
}

fn default_ttl() -> u32 {
    900
}

fn default_host_template() -> String {
    "volary-device".into()
}

fn default_service_template() -> String {
    "volary-check".into()
}

impl IcingaConfig {
    pub(super) fn check(&self) -> Result<(), String> {
        if !address::is_https(&self.url) {
            return Err(format!("url {:?} must begin with https://", self.url));
        }
        if self.ttl < 15 {
            return Err("ttl must be at least 15 seconds".into());
        }
        Ok(())
    }
}

/// The feed's name.
pub(super) fn feed(name: &str) -> String {
    format!("icinga/{name}")
}

/// What is known of an Icinga, in memory.
struct Mirror {
    api: Api,
    fleet: String,
    /// How long a result is good.
    ttl: Duration,
    /// What objects it has, and when they were listed; `None` if that is not known.
    listed: Option<(Instant, Known)>,
    /// What it was told last of each object: what of it matters, and when.
    told: BTreeMap<String, (String, Instant)>,
    /// Objects that it would not take, until they are listed again.
    refused: BTreeSet<String>,
    /// Why the first of them was refused.
    refusal: Option<String>,
    /// Hosts that were found missing since the last list, and were made again.
    missed: BTreeSet<String>,
}

/// Keeps one Icinga in step, until the server stops.
pub(super) async fn keep(app: Arc<App>, name: String, config: IcingaConfig, mut stop: watch::Receiver<bool>) {
    let feed = feed(&name);
    let ttl = Duration::from_secs(config.ttl.into());
    let login = Login { user: config.user, password_file: config.password_file };
    let endpoint = Endpoint::new(app.layout.root(), &config.url, Some(config.ca_file), Some(login));
    let mut mirror = Some(Mirror {
        api: Api::new(endpoint, config.host_template, config.service_template),
        fleet: app.config.fleet.clone(),
        ttl,
        listed: None,
        told: BTreeMap::new(),
        refused: BTreeSet::new(),
        refusal: None,
        missed: BTreeSet::new(),
    });
    loop {
        if let Err(problem) = round(&app, &feed, &mut mirror).await {
            tracing::error!(feed, %problem, "the feed cannot be prepared");
        }
        tokio::select! {
            () = asked_to_stop(&mut stop) => return,
            () = tokio::time::sleep(LOOK) => {}
            () = app.nudges.feeds.notified() => tokio::time::sleep(GATHER).await,
        }
    }
}

async fn round(app: &Arc<App>, feed: &str, kept: &mut Option<Mirror>) -> Result<(), String> {
    let store_says = |error: volary_store::StoreError| error.to_string();
    let record = app.store.feed(feed).await.map_err(store_says)?;
    if record.next_at.is_some_and(|next| next > volary_host::now()) {
        return Ok(());
    }
    let (judged, view) = (app.judged.get(), app.view.get());
    if !view.read || judged.at.is_none() {
        return Ok(());
    }
    let (watched, leak_rules) = (app.watched.get(), app.leak_rules.get());
    let found = Found { watched: &watched, leak_rules: &leak_rules };
    let results = results::of(&judged.devices, &view, &found);
    let worker = app.clone();
    let mut mirror = kept.take().ok_or("it has a bug: an earlier round broke off")?;
    let (mirror, outcome) = tokio::task::spawn_blocking(move || {
        let outcome = mirror.converge(&judged.devices, &results, &|| *worker.stop.borrow());
        (mirror, outcome)
    })
    .await
    .map_err(|error| format!("it has a bug: {error}"))?;
    let refusal = mirror.refusal.clone();
    *kept = Some(mirror);
    match (outcome, refusal) {
        (Err(problem), _) => fails(app, feed, record.attempts, &problem, None).await.map_err(store_says),
        // Some objects are refused, the others are served: no reason to wait.
        (Ok(_), Some(refusal)) => {
            let now = volary_host::now();
            app.store.feed_failed(feed, &refusal, now, now).await.map_err(store_says)
        }
        (Ok(told), None) => {
            works_again(app, feed, record.attempts).await.map_err(store_says)?;
            if told && record.attempts == 0 {
                app.store.feed_works(feed, volary_host::now()).await.map_err(store_says)?;
            }
            Ok(())
        }
    }
}

impl Mirror {
    /// Brings the objects in step, and tells what is new or due. Returns whether anything was sent.
    fn converge(
        &mut self,
        devices: &[Judged],
        results: &[CheckResult],
        asked_to_stop: &dyn Fn() -> bool,
    ) -> Result<bool, String> {
        let outcome = self.try_to_converge(devices, results, asked_to_stop);
        if outcome.is_err() {
            // It may have been restarted, with an older state.
            self.listed = None;
            self.told.clear();
        }
        outcome
    }

    fn try_to_converge(
        &mut self,
        devices: &[Judged],
        results: &[CheckResult],
        asked_to_stop: &dyn Fn() -> bool,
    ) -> Result<bool, String> {
        let now = Instant::now();
        let listed = self.listed.take().filter(|(at, _)| now.duration_since(*at) < LIST);
        let (at, mut known) = match listed {
            Some(listed) => listed,
            None => {
                self.refused.clear();
                self.refusal = None;
                self.missed.clear();
                (now, self.api.list(&self.fleet)?)
            }
        };
        let wanted = objects::wanted(devices, &self.fleet, results);
        let mut sent = false;
        for step in objects::steps(&wanted, &known) {
            if asked_to_stop() {
                break;
            }
            if self.refused.contains(step.object()) {
                continue;
            }
            sent = true;
            match self.api.take(&step) {
                Ok(()) => known.note(&step),
                Err(Trouble::Refused(why) | Trouble::Missing(why)) => self.refuse(step.object(), why),
                Err(Trouble::Away(why)) => return Err(why),
            }
            if let Step::Delete(object) = &step {
                self.told.remove(object);
            }
        }
        sent |= self.tell(results, &mut known, asked_to_stop)?;
        self.listed = Some((at, known));
        Ok(sent)
    }

    /// Sends the results that are new or due.
    fn tell(
        &mut self,
        results: &[CheckResult],
        known: &mut Known,
        asked_to_stop: &dyn Fn() -> bool,
    ) -> Result<bool, String> {
        let mut sent = false;
        for result in results {
            let now = Instant::now();
            let is_known = known.is_ours(&result.object) && !self.refused.contains(&result.object);
            let is_fresh = self.told.get(&result.object).is_some_and(|(matters, at)| {
                *matters == result.matters && now.duration_since(*at) < self.ttl / 3
            });
            if !is_known || is_fresh {
                continue;
            }
            if asked_to_stop() {
                break;
            }
            match self.api.tell(result, self.ttl) {
                Ok(()) => {
                    self.told.insert(result.object.clone(), (result.matters.clone(), now));
                    sent = true;
                }
                Err(Trouble::Refused(why)) => self.refuse(&result.object, why),
                Err(Trouble::Missing(why)) => self.miss(&result.object, why, known),
                Err(Trouble::Away(why)) => return Err(why),
            }
        }
        Ok(sent)
    }

    /// Somebody deleted it there: the next look makes it again, once. If it is missing again, the user
    /// lacks a right, for which Icinga answers the same.
    fn miss(&mut self, object: &str, why: String, known: &mut Known) {
        let host = object.split_once('!').map_or(object, |(host, _)| host).to_owned();
        let below = format!("{host}!");
        self.told.retain(|told, _| *told != host && !told.starts_with(&below));
        known.note(&Step::Delete(host.clone()));
        if !self.missed.insert(host) {
            self.refuse(object, why);
        }
    }

    fn refuse(&mut self, object: &str, why: String) {
        self.refused.insert(object.to_owned());
        let count = text::count(self.refused.len(), "object");
        self.refusal.get_or_insert_with(|| format!("{count} refused, {object} first: {why}"));
    }
}
