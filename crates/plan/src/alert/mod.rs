//! Alerts: what is wrong in the fleet, told by cause and not device by device.
//!
//! Whatever fires is put together by its rule and labels: the step and check that fail, the release,
//! the device type, the stage. Each such cause has at most one open alert. It begins after it has
//! fired for some time, tells when it became worse or spread to twice as many devices, and ends when
//! nothing of it has fired for some time. Not here: what fires (`condition`, watch rules), where
//! alerts are kept, and who is told how.

mod fault;
mod silence;
mod words;

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::DeviceName;

pub use volary_model::Severity;

pub use fault::{Place, Subject, of_condition, of_finding};
pub use silence::{InvalidMatcher, Matcher, Silence};
pub use words::{details, sentence};

/// The rule of devices whose convergence, check or unit failed.
pub const DEVICE_FAILED: &str = "device-failed";
/// The rule of devices that refused what the server offered.
pub const DEVICE_REFUSED: &str = "device-refused";
/// The rule of devices that are not heard of any more.
pub const DEVICE_SILENT: &str = "device-silent";

/// The label of the step that failed.
pub const STEP: &str = "step";
/// The label of what failed in that step: a check, a unit, a package.
pub const CHECK: &str = "check";
/// The label of the release that the device went for, or has.
pub const RELEASE: &str = "release";
/// The label of the device type.
pub const DEVICE_TYPE: &str = "type";
/// The label of the series that a watch rule looks at.
pub const SERIES: &str = "series";
/// The label of the stage.
pub const STAGE: &str = "stage";

/// Something that is wrong with one device now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firing {
    /// The rule that says so.
    pub rule: String,
    /// The device.
    pub device: DeviceName,
    /// What tells this cause from others, by [`STEP`], [`RELEASE`] and the like.
    pub labels: BTreeMap<String, String>,
    /// The release that the device comes from, if it is on its way between two.
    pub from: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// One line about this device.
    pub summary: String,
}

/// Where an alert is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AlertState {
    /// It has not fired for long enough to be told.
    Pending,
    /// It goes on.
    Firing,
    /// It is over.
    Resolved,
}

impl AlertState {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// A device of an alert.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Since when it fires.
    pub since: Timestamp,
    /// Since when it does not fire any more; it counts until that has lasted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_since: Option<Timestamp>,
    /// The release that it comes from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// One line about it.
    pub summary: String,
}

/// What people were told of an alert last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// When.
    pub at: Timestamp,
    /// How many devices it had.
    pub devices: usize,
    /// How bad it was.
    pub severity: Severity,
}

/// One cause that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alert {
    /// Rises.
    pub id: u64,
    /// The rule.
    pub rule: String,
    /// What tells this cause from others.
    pub labels: BTreeMap<String, String>,
    /// How bad it is, or was at its end.
    pub severity: Severity,
    /// Where it is in its life.
    pub state: AlertState,
    /// When it fired first.
    pub since: Timestamp,
    /// When it had fired for long enough.
    #[serde(default)]
    pub began_at: Option<Timestamp>,
    /// When it was over.
    #[serde(default)]
    pub ended_at: Option<Timestamp>,
    /// Its devices; at the end those that it had last.
    pub devices: BTreeMap<DeviceName, Member>,
    /// How many it had at most at one time.
    pub most: usize,
    /// What people were told of it; `None` if nothing, since it is pending or silenced.
    #[serde(default)]
    pub told: Option<Told>,
}

/// How patient alerts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long a device must fire before an alert begins.
    pub hold: Duration,
    /// How long it must be quiet before it counts no more.
    pub settle: Duration,
    /// How long at least between two messages about the spread of one alert.
    pub spread: Duration,
}

/// What happened with an alert that people should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Change {
    /// It began, or a silence over it ended.
    Began,
    /// It has at least twice as many devices as people were told.
    Spread,
    /// It became worse than people were told.
    Worse,
    /// It is over.
    Resolved,
}

impl Change {
    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Began => "began",
            Self::Spread => "spread",
            Self::Worse => "worse",
            Self::Resolved => "resolved",
        }
    }
}

/// What is known when alerts are decided.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The open alerts.
    pub before: &'a [Alert],
    /// What fires now, in any order.
    pub firing: &'a [Firing],
    /// The silences, also those that ended.
    pub silences: &'a [Silence],
    /// How patient alerts are.
    pub policy: Policy,
    /// The id of the next new alert.
    pub next_id: u64,
    /// Now.
    pub now: Timestamp,
}

/// How it is after that.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Decision {
    /// The alerts, by id: the open ones, and those that are over now.
    pub alerts: Vec<Alert>,
    /// What people should be told, with the alert's id, in its order.
    pub changes: Vec<(u64, Change)>,
    /// Ids of alerts that were over before they began. They never happened.
    pub forgotten: Vec<u64>,
}

type Cause<'a> = (&'a str, &'a BTreeMap<String, String>);

/// Decides which alerts begin, go on and end.
pub fn decide(input: &Input<'_>) -> Decision {
    let mut firing: BTreeMap<Cause<'_>, Vec<&Firing>> = BTreeMap::new();
    for one in input.firing {
        firing.entry((&one.rule, &one.labels)).or_default().push(one);
    }
    let mut before: Vec<&Alert> =
        input.before.iter().filter(|alert| alert.state != AlertState::Resolved).collect();
    before.sort_by_key(|alert| alert.id);
    let mut decision = Decision::default();
    for alert in before {
        let fires = firing.remove(&(alert.rule.as_str(), &alert.labels)).unwrap_or_default();
        go_on(alert.clone(), &fires, input, &mut decision);
    }
    for (id, ((rule, labels), fires)) in (input.next_id..).zip(firing) {
        let fresh = Alert {
            id,
            rule: rule.to_owned(),
            labels: labels.clone(),
            severity: Severity::Warning,
            state: AlertState::Pending,
            since: input.now,
            began_at: None,
            ended_at: None,
            devices: BTreeMap::new(),
            most: 0,
            told: None,
        };
        go_on(fresh, &fires, input, &mut decision);
    }
    decision
}

/// Leaves out devices that newly fire by this rule: right after a start, a server has heard of nobody.
pub fn without_new(firing: Vec<Firing>, before: &[Alert], rule: &str) -> Vec<Firing> {
    let known = |one: &Firing| {
        before.iter().any(|alert| alert.rule == one.rule && alert.devices.contains_key(&one.device))
    };
    firing.into_iter().filter(|one| one.rule != rule || known(one)).collect()
}

impl Alert {
    /// The devices that no silence covers now.
    pub fn heard<'a>(
        &'a self,
        silences: &'a [Silence],
        now: Timestamp,
    ) -> impl Iterator<Item = (&'a DeviceName, &'a Member)> {
        self.devices
            .iter()
            .filter(move |(device, _)| !silences.iter().any(|silence| silence.covers(self, device, now)))
    }
}

fn go_on(mut alert: Alert, fires: &[&Firing], input: &Input<'_>, decision: &mut Decision) {
    let now = input.now;
    for (_, member) in alert.devices.iter_mut() {
        member.quiet_since.get_or_insert(now);
    }
    // Of several about one device, the first in its order, so that theirs does not matter.
    let mut fires = fires.to_vec();
    fires.sort_by(|a, b| (&a.device, &b.severity, &a.summary).cmp(&(&b.device, &a.severity, &b.summary)));
    fires.dedup_by(|a, b| a.device == b.device);
    for one in &fires {
        let since = alert.devices.get(&one.device).map_or(now, |member| member.since);
        let member =
            Member { since, quiet_since: None, from: one.from.clone(), summary: one.summary.clone() };
        alert.devices.insert(one.device.clone(), member);
    }
    if let Some(worst) = fires.iter().map(|one| one.severity).max() {
        alert.severity = worst;
    }
    let settled =
        |member: &Member| member.quiet_since.is_some_and(|since| lasted(since, now) >= input.policy.settle);
    if alert.devices.values().all(settled) {
        return end(alert, now, decision);
    }
    alert.devices.retain(|_, member| !settled(member));
    alert.most = alert.most.max(alert.devices.len());
    let held =
        |member: &Member| member.quiet_since.is_none() && lasted(member.since, now) >= input.policy.hold;
    if alert.state == AlertState::Pending && alert.devices.values().any(held) {
        alert.state = AlertState::Firing;
        alert.began_at = Some(now);
    }
    if let Some(change) = news(&alert, input) {
        let devices = alert.heard(input.silences, now).count();
        alert.told = Some(Told { at: now, devices, severity: alert.severity });
        decision.changes.push((alert.id, change));
    }
    decision.alerts.push(alert);
}

fn end(mut alert: Alert, now: Timestamp, decision: &mut Decision) {
    if alert.state == AlertState::Pending {
        decision.forgotten.push(alert.id);
        return;
    }
    alert.state = AlertState::Resolved;
    alert.ended_at = Some(now);
    if alert.told.is_some() {
        decision.changes.push((alert.id, Change::Resolved));
    }
    decision.alerts.push(alert);
}

/// What is new about an alert that goes on.
fn news(alert: &Alert, input: &Input<'_>) -> Option<Change> {
    if alert.state != AlertState::Firing {
        return None;
    }
    let devices = alert.heard(input.silences, input.now).count();
    match alert.told {
        _ if devices == 0 => None,
        None => Some(Change::Began),
        Some(told) if alert.severity > told.severity => Some(Change::Worse),
        Some(told) => {
            let spread = devices >= told.devices.saturating_mul(2) && devices > told.devices;
            (spread && lasted(told.at, input.now) >= input.policy.spread).then_some(Change::Spread)
        }
    }
}

/// How long something has lasted. A clock that was set back makes it short, not an error.
fn lasted(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
