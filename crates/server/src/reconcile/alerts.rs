//! What is wrong in the fleet becomes alerts: what fires is decided on by `volary_plan::alert`, kept,
//! and told.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use volary_model::{DeviceName, StageName};
use volary_plan::alert::{
    Alert, AlertState, Change, DEVICE_FAILED, DEVICE_REFUSED, DEVICE_SILENT, Decision, Firing, Input, Place,
    Policy, Silence, decide, of_finding, sentence, without_new,
};
use volary_store::{AlertChange, AlertStep, DeviceState, StoredAlert, StoredSilence};

use crate::app::App;
use crate::facts::{Judged, Judgement};
use crate::feeds::{self, News};

/// The version of the form in which alerts are kept.
const VERSION: u32 = 1;

/// How long at least between two messages about the spread of one alert.
const SPREAD: Duration = Duration::from_secs(300);

/// How much longer than it takes every device to ask once a server waits after its start until it calls
/// one silent.
const COME_BACK: Duration = Duration::from_secs(120);

/// Decides which alerts begin, go on and end, and tells.
pub(super) async fn alerts(app: Arc<App>) -> Result<(), String> {
    let now = volary_host::now();
    let judged = app.judged.get();
    if judged.at.is_none() {
        return Ok(());
    }
    let before = open_alerts(&app).await?;
    let silences = open_silences(&app, now).await?;
    let firing = firing(&app, &judged, &before, now);
    let next_id = app.store.next_alert().await.map_err(|error| error.to_string())?;
    let policy = Policy {
        hold: Duration::from_secs(app.config.alerts.hold.into()),
        settle: Duration::from_secs(app.config.alerts.settle.into()),
        spread: SPREAD,
    };
    let input = Input { before: &before, firing: &firing, silences: &silences, policy, next_id, now };
    let decision = decide(&input);
    let step = step(&app, &before, &silences, &decision, now);
    if step.alerts.is_empty() && step.forgotten.is_empty() {
        return Ok(());
    }
    let dropped = app.store.keep_alerts(&step, now).await.map_err(|error| error.to_string())?;
    feeds::note_full(&app, dropped).await;
    for change in &step.changes {
        let kind = format!("alert-{}", change.kind);
        app.event(&kind, &change.alert.to_string(), &change.text).await;
    }
    app.nudges.feeds.notify_waiters();
    Ok(())
}

/// Forgets what was over long ago.
pub(super) async fn tidy(app: Arc<App>) -> Result<(), String> {
    let age = SignedDuration::from_hours(24 * i64::from(app.config.alerts.days));
    let before = volary_host::now().checked_sub(age).unwrap_or(Timestamp::MIN);
    app.store.prune_alerts(before).await.map_err(|error| error.to_string())?;
    let gone = app.store.keep_feeds(&app.config.feeds.names()).await.map_err(|error| error.to_string())?;
    for feed in gone {
        tracing::info!(feed, "the feed is not configured any more; what waited for it is gone");
    }
    Ok(())
}

/// What fires now.
fn firing(app: &App, judged: &Judgement, before: &[Alert], now: Timestamp) -> Vec<Firing> {
    let poll = app.view.get().stages.iter().map(|stage| stage.rhythm.poll).max().unwrap_or_default();
    let poll = if app.mender.is_some() { poll.max(app.config.mender_poll()) } else { poll };
    let up = Duration::try_from(now.duration_since(app.started_at)).unwrap_or_default();
    let is_fresh = up < poll.saturating_add(COME_BACK);
    let (watched, is_reading) = (app.watched.get(), app.series.is_reading());
    let found = |device: &Judged| -> Vec<Firing> {
        let record = &device.record;
        let image = device.report.as_ref().and_then(|report| report.image.as_ref());
        let place = Place {
            stage: record.stage.as_ref().map(StageName::as_str),
            release: record.suite.as_deref(),
            device_type: image.map(|image| image.device_type.as_str()),
        };
        // Right after a start, what was found before holds until the rules were asked again.
        let Some((_, findings)) = watched.get(&record.name) else {
            return if is_fresh || is_reading {
                still_firing(before, &record.name).collect()
            } else {
                Vec::new()
            };
        };
        findings.iter().filter_map(|finding| of_finding(finding, &place, before)).collect()
    };
    let mut firing: Vec<Firing> = judged.devices.iter().filter_map(|device| device.firing.clone()).collect();
    firing.extend(
        judged.devices.iter().filter(|device| device.record.state == DeviceState::Accepted).flat_map(found),
    );
    if is_fresh { without_new(firing, before, DEVICE_SILENT) } else { firing }
}

/// What watch rules found of a device before.
fn still_firing<'a>(before: &'a [Alert], device: &'a DeviceName) -> impl Iterator<Item = Firing> + 'a {
    let conditions = [DEVICE_FAILED, DEVICE_REFUSED, DEVICE_SILENT];
    let of_watch = move |alert: &&Alert| !conditions.contains(&alert.rule.as_str());
    before.iter().filter(of_watch).filter_map(move |alert| {
        let member = alert.devices.get(device).filter(|member| member.quiet_since.is_none())?;
        Some(Firing {
            rule: alert.rule.clone(),
            device: device.clone(),
            labels: alert.labels.clone(),
            from: member.from.clone(),
            severity: alert.severity,
            summary: member.summary.clone(),
        })
    })
}

/// What a decision changes in the records, and whom it tells what.
fn step(app: &App, before: &[Alert], silences: &[Silence], decision: &Decision, now: Timestamp) -> AlertStep {
    let mut step = AlertStep { forgotten: decision.forgotten.clone(), ..AlertStep::default() };
    for alert in &decision.alerts {
        if !before.contains(alert) {
            step.alerts.push(to_stored(alert));
        }
    }
    for (id, change) in &decision.changes {
        let Some(alert) = decision.alerts.iter().find(|alert| alert.id == *id) else { continue };
        let text = match alert.state {
            AlertState::Resolved => format!("over: {}", sentence(alert, alert.devices.iter())),
            AlertState::Pending | AlertState::Firing => sentence(alert, alert.heard(silences, now)),
        };
        step.changes.push(AlertChange { alert: *id, at: now, kind: change.as_str().into(), text });
        let news = News { alert, change: *change, silences, fleet: &app.config.fleet, url: &app.url, now };
        step.messages.extend(feeds::messages(&app.config.feeds, &news));
    }
    // An alert that began and ended under a silence is in the history all the same.
    for alert in &decision.alerts {
        let told = decision.changes.iter().any(|(id, _)| *id == alert.id);
        if alert.state == AlertState::Resolved && !told {
            let text = format!("over, silenced all the time: {}", sentence(alert, alert.devices.iter()));
            let kind = Change::Resolved.as_str().into();
            step.changes.push(AlertChange { alert: alert.id, at: now, kind, text });
        }
    }
    step
}

/// The open alerts.
pub(crate) async fn open_alerts(app: &App) -> Result<Vec<Alert>, String> {
    let stored = app.store.open_alerts().await.map_err(|error| error.to_string())?;
    stored.iter().map(from_stored).collect()
}

/// The silences that have not ended.
pub(crate) async fn open_silences(app: &App, now: Timestamp) -> Result<Vec<Silence>, String> {
    let stored = app.store.silences(Some(now)).await.map_err(|error| error.to_string())?;
    stored.iter().map(silence_from_stored).collect()
}

/// A record as an alert.
pub(crate) fn from_stored(stored: &StoredAlert) -> Result<Alert, String> {
    let known = if stored.version == VERSION { serde_json::from_str(&stored.body).ok() } else { None };
    known.ok_or_else(|| {
        format!("alert {} has the form {}, which this version cannot read", stored.id, stored.version)
    })
}

fn to_stored(alert: &Alert) -> StoredAlert {
    StoredAlert {
        id: alert.id,
        rule: alert.rule.clone(),
        state: alert.state.as_str().into(),
        since: alert.since,
        began_at: alert.began_at,
        ended_at: alert.ended_at,
        version: VERSION,
        body: serde_json::to_string(alert).expect("an alert is plain data"),
    }
}

/// A record as a silence.
fn silence_from_stored(stored: &StoredSilence) -> Result<Silence, String> {
    let matchers = serde_json::from_str(&stored.made.matchers)
        .map_err(|error| format!("silence {} cannot be read: {error}", stored.id))?;
    Ok(Silence { id: stored.id, matchers, ends_at: stored.made.ends_at })
}
