//! What all handlers and reconcilers share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use volary_host::Stop;
use volary_model::{DeviceName, StageName};
use volary_plan::series::elapsed;
use volary_plan::text;
use volary_store::{By, NewEvent, Series, Store, StoreError};

use crate::compared::Compared;
use crate::config::Config;
use crate::depot::Depot;
use crate::export::Keeper;
use crate::facts::{Judge, Judged, Judgement};
use crate::feeds::RemoteWrites;
use crate::fleet_view::FleetView;
use crate::http::auth::{Person, Tokens};
use crate::http::mender::Mender;
use crate::images::Images;
use crate::known::{Devices, Known};
use crate::measured::Watched;
use crate::mirrors::Mirrors;
use crate::nudge::{Nudges, Outcomes};
use crate::oidc::Oidc;
use crate::reconcile::GateRun;
use crate::registry::Registry;
use crate::rollouts::{Now, Rollouts};
use crate::standing::Standings;
use crate::throttle::Throttle;
use crate::tls::authority::{self, Authority};
use crate::tls::listener::CurrentCertificate;
use crate::uploads::Uploads;
use crate::{Layout, ServerError};

/// One running server.
pub(crate) struct App {
    /// Where its files are.
    pub(crate) layout: Layout,
    /// What the operator set.
    pub(crate) config: Config,
    /// The address that clients get to see.
    pub(crate) url: String,
    /// The records.
    pub(crate) store: Store,
    /// What devices measured.
    pub(crate) series: Series,
    /// How devices stood when they were judged last.
    pub(crate) standings: Current<Standings>,
    /// How sending measurements on does.
    pub(crate) remote_writes: RemoteWrites,
    /// The archive.
    pub(crate) archive: Arc<Depot>,
    /// Uploads to it that are on their way.
    pub(crate) uploads: Uploads,
    /// The artifacts of images.
    pub(crate) images: Arc<Images>,
    /// One change of images at a time, from the file to the record.
    pub(crate) changing_images: tokio::sync::Mutex<()>,
    /// What is needed for devices whose client is Mender's; `None` if they are not served.
    pub(crate) mender: Option<Mender>,
    /// The mirrors of foreign archives.
    pub(crate) mirrors: Mirrors,
    /// The certificate authority.
    pub(crate) authority: Authority,
    /// Who the devices are, and when they were heard of.
    pub(crate) registry: Registry,
    /// What is known of them.
    pub(crate) known: tokio::sync::Mutex<Devices>,
    /// The tokens in memory.
    pub(crate) tokens: Tokens,
    /// Who gave wrong passwords how often.
    pub(crate) throttle: Mutex<Throttle>,
    /// Signing in through a provider, if there is one.
    pub(crate) oidc: Option<Arc<Oidc>>,
    /// How many passwords are looked at at once: each takes 19 MiB.
    pub(crate) hashing: tokio::sync::Semaphore,
    /// The bells of the reconcilers.
    pub(crate) nudges: Nudges,
    /// How their last runs ended.
    pub(crate) outcomes: Outcomes,
    /// The stages as they were read last.
    pub(crate) view: Current<FleetView>,
    /// The rollouts that go on.
    pub(crate) rollouts: Current<Rollouts>,
    /// What the stages wait for that the server merges into.
    pub(crate) promotions: Current<BTreeMap<StageName, String>>,
    /// One step of them at a time: an older one must not replace a newer one.
    pub(crate) rolling_out: tokio::sync::Mutex<()>,
    /// All devices as they were judged last, for alerts, feeds, and who only looks.
    pub(crate) judged: Current<Judgement>,
    /// One judgement at a time for those who only look: the others take what it found.
    pub(crate) looking_at_devices: tokio::sync::Mutex<()>,
    /// How commits differ that somebody looked at.
    pub(crate) compared: Arc<Compared>,
    /// The names of the watch rules that look for leaks.
    pub(crate) leak_rules: Current<BTreeSet<String>>,
    /// What watch rules say of devices.
    pub(crate) watched: Current<Watched>,
    /// Changes with rolling's content; for devices that follow it.
    pub(crate) rolling: Current<String>,
    /// Rings when devices may have something new to do: for questions that stay open.
    pub(crate) news: Notify,
    /// When this server began.
    pub(crate) started_at: jiff::Timestamp,
    /// True once the server is to end.
    pub(crate) stop: watch::Receiver<bool>,
    /// Sources that somebody wants looked at now, not only when their time comes.
    pub(crate) asked_to_poll: std::sync::Mutex<std::collections::BTreeSet<volary_model::SourceName>>,
    /// Sources that are being looked at.
    pub(crate) looking: std::sync::Mutex<std::collections::BTreeSet<volary_model::SourceName>>,
    /// One reading of the fleet repository at a time.
    pub(crate) reading_stages: tokio::sync::Mutex<()>,
    /// The commands of gates that run.
    pub(crate) gate_runs: Mutex<BTreeSet<GateRun>>,
    /// The builds that run.
    pub(crate) running: RunningBuilds,
    /// One publication of a build at a time.
    pub(crate) publishing: tokio::sync::Mutex<()>,
    /// How the declared exports are.
    pub(crate) exports: Keeper,
    /// The certificate in use.
    pub(crate) certificate: Arc<CurrentCertificate>,
    /// How many packs for devices are made at once: each reads the repository at full speed.
    pub(crate) packs: tokio::sync::Semaphore,
    /// Makes them: what it read for one device serves the next.
    pub(crate) packer: volary_fleet::Packer,
}

/// So many devices are a large fleet: judging them takes more than some milliseconds.
const LARGE: usize = 2000;

/// What was judged so long ago is good enough to look at: devices are judged each 30 s without a bell too.
const LATELY: Duration = Duration::from_secs(40);

/// Devices that are judged without a break.
const AT_ONCE: usize = 512;

/// How the builds that run are ended.
#[derive(Debug, Default)]
pub(crate) struct RunningBuilds(Mutex<BTreeMap<i64, Stop>>);

impl RunningBuilds {
    /// Notes that a build runs from now on.
    pub(crate) fn begin(&self, id: i64) -> Stop {
        let stop = Stop::default();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id, stop.clone());
        stop
    }

    /// Notes that it runs no more.
    pub(crate) fn end(&self, id: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// Ends it, if it runs.
    pub(crate) fn stop(&self, id: i64) {
        if let Some(stop) = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            stop.ask();
        }
    }
}

/// A value that is replaced as a whole and read often.
#[derive(Debug, Default)]
pub(crate) struct Current<T>(RwLock<Arc<T>>);

impl<T> Current<T> {
    /// Begins with this value.
    pub(crate) fn new(value: T) -> Self {
        Self(RwLock::new(Arc::new(value)))
    }

    /// The value now.
    pub(crate) fn get(&self) -> Arc<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the value.
    pub(crate) fn set(&self, value: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
    }
}

impl App {
    /// All devices by name, judged now.
    pub(crate) async fn devices(&self) -> Result<Vec<Judged>, StoreError> {
        Ok(self.judge().await?.0)
    }

    /// All devices by name, judged now by what the stages want in this view.
    pub(crate) async fn judge(&self) -> Result<(Vec<Judged>, Arc<FleetView>), StoreError> {
        let mut known = self.known.lock().await;
        known.refresh(&self.store).await?;
        let view = self.view.get();
        let rollouts = self.rollouts.get();
        let judge = Judge::new(&view, &self.archive, self.config.mender_poll(), volary_host::now());
        let mut judge = judge.with(&rollouts);
        let mut judged = Vec::with_capacity(known.all.len());
        for (number, (name, device)) in known.all.iter_mut().enumerate() {
            judged.push(judge.judge(device, self.registry.last_seen(name)));
            // Others, devices among them, come in between.
            if number % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok((judged, view))
    }

    /// All devices by name, for who only looks: of a large fleet as they were judged last, some seconds ago, but never
    /// by what a stage wanted before.
    pub(crate) async fn devices_lately(&self) -> Result<Arc<Vec<Judged>>, StoreError> {
        if let Some(devices) = self.judged_lately() {
            return Ok(devices);
        }
        let _turn = self.looking_at_devices.lock().await;
        if let Some(devices) = self.judged_lately() {
            return Ok(devices);
        }
        let (devices, view) = self.judge().await?;
        let devices = Arc::new(devices);
        if devices.len() > LARGE {
            let (at, took) = (Some(volary_host::now()), self.judged.get().took);
            self.judged.set(Judgement { at, took, view, devices: devices.clone() });
        }
        Ok(devices)
    }

    fn judged_lately(&self) -> Option<Arc<Vec<Judged>>> {
        let judged = self.judged.get();
        // Judging takes at most a tenth of the time, so a fleet that takes long is judged less often.
        let is_new = elapsed(judged.at?, volary_host::now()) < LATELY + judged.took * 10;
        let is_large = judged.devices.len() > LARGE;
        (is_new && is_large && judged.view.wants_as(&self.view.get())).then(|| judged.devices.clone())
    }

    /// One device, judged now.
    pub(crate) async fn device(&self, name: &DeviceName) -> Result<Option<Judged>, StoreError> {
        let view = self.view.get();
        let record = self.store.device(name).await?;
        let rollouts = self.rollouts.get();
        let judge = Judge::new(&view, &self.archive, self.config.mender_poll(), volary_host::now());
        let mut judge = judge.with(&rollouts);
        Ok(record.map(|record| judge.judge(&mut Known::of(record), self.registry.last_seen(name))))
    }

    /// Adds an event that no person caused. That it cannot be written must not undo what happened.
    pub(crate) async fn event(&self, kind: &str, subject: &str, text: &str) {
        self.add_event(kind, subject, text, None).await;
    }

    /// As [`Self::event`], for many at once.
    pub(crate) async fn events(&self, events: &[NewEvent]) {
        for NewEvent { kind, subject, text } in events {
            self.say(kind, subject, text, None);
        }
        if let Err(error) = self.store.add_events(volary_host::now(), events).await {
            tracing::error!(%error, "{} are lost", text::count(events.len(), "event"));
        }
    }

    /// Adds an event to the record of what people did.
    pub(crate) async fn event_by(&self, person: &Person, kind: &str, subject: &str, text: &str) {
        self.add_event(kind, subject, text, Some(&person.by())).await;
    }

    /// As [`Self::event_by`], for somebody who is only just signed in.
    pub(crate) async fn event_by_record(&self, by: &By, kind: &str, subject: &str, text: &str) {
        self.add_event(kind, subject, text, Some(by)).await;
    }

    async fn add_event(&self, kind: &str, subject: &str, text: &str, by: Option<&By>) {
        self.say(kind, subject, text, by);
        if let Err(error) = self.store.add_event(volary_host::now(), kind, subject, text, by).await {
            tracing::error!(%error, kind, subject, "an event is lost");
        }
    }

    /// Says to the journal what happened, and to who waits for it.
    fn say(&self, kind: &str, subject: &str, text: &str, by: Option<&By>) {
        tracing::info!(kind, subject, by = by.map(|by| &by.name), how = by.map(|by| &by.how), "{text}");
        if kind.starts_with("build-") {
            self.nudges.statuses.notify_one();
        }
    }

    /// Replaces what is known of one rollout. Devices that wait for it hear of it if they may begin now, or may not.
    pub(crate) fn set_rollout(&self, stage: &StageName, now: Now) {
        let mut rollouts = (*self.rollouts.get()).clone();
        let is_news = rollouts.get(stage).is_none_or(|before| !before.answers_as(&now));
        rollouts.insert(stage.clone(), now);
        self.rollouts.set(rollouts);
        if is_news {
            self.news.notify_waiters();
            self.nudges.devices.notify_one();
        }
    }

    /// Forgets the rollouts of all other stages.
    pub(crate) fn keep_rollouts(&self, stages: &BTreeSet<StageName>) {
        let mut rollouts = (*self.rollouts.get()).clone();
        rollouts.retain(|stage, _| stages.contains(stage));
        self.rollouts.set(rollouts);
    }

    /// Renews the server's certificate if its time has come, and uses the new one from then on.
    pub(crate) fn renew_certificate(&self) -> Result<(), ServerError> {
        if self.authority.renew_server(&self.layout, &self.config.hosts)? {
            let pair = authority::server_certificate(&self.layout)?;
            self.certificate.replace(pair).map_err(|error| ServerError::Certificate {
                operation: "use",
                path: self.layout.tls_certificate(),
                detail: error.to_string(),
            })?;
            tracing::info!("the server's certificate was renewed");
        }
        Ok(())
    }

    /// Reads rolling's digest again, after an inclusion.
    pub(crate) fn rolling_changed(&self) {
        match self.archive.rolling_digest() {
            Ok(digest) => {
                self.rolling.set(digest);
                self.news.notify_waiters();
            }
            Err(error) => tracing::error!(%error, "cannot read rolling"),
        }
        self.nudges.devices.notify_one();
        self.nudges.exports.notify_waiters();
    }
}
