//! What fires because of a device's condition, or of a watch rule.

use std::collections::BTreeMap;

use volary_model::DeviceName;

use super::{
    Alert, CHECK, DEVICE_FAILED, DEVICE_REFUSED, DEVICE_SILENT, DEVICE_TYPE, Firing, RELEASE, SERIES, STAGE,
    STEP, Severity,
};
use crate::condition::{Condition, Ending, Observed};
use crate::watch::{Finding, State};

/// The longest name of a check or task in a label.
const LABEL: usize = 100;

/// The step of a device whose stage does not exist.
const NO_STAGE: &str = "stage";

/// What of a device fires.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Its name.
    pub device: &'a DeviceName,
    /// Its stage.
    pub stage: Option<&'a str>,
    /// What is known of it.
    pub observed: &'a Observed,
    /// The release that it has.
    pub has: Option<&'a str>,
    /// Its condition.
    pub condition: Condition,
    /// Why it is not good.
    pub reason: &'a str,
}

/// Where a device stands in the fleet: what makes causes of watch rules differ.
#[derive(Debug, Clone, Copy, Default)]
pub struct Place<'a> {
    /// Its stage.
    pub stage: Option<&'a str>,
    /// The release that it has.
    pub release: Option<&'a str>,
    /// Its device type.
    pub device_type: Option<&'a str>,
}

/// What fires because of a watch rule. Where there is too little data to tell, it is as it was in the open
/// alerts `before`: a device that does not measure is not well for that.
pub fn of_finding(finding: &Finding, place: &Place<'_>, before: &[Alert]) -> Option<Firing> {
    let mut labels = BTreeMap::new();
    label(&mut labels, SERIES, Some(&finding.series));
    label(&mut labels, RELEASE, place.release);
    label(&mut labels, DEVICE_TYPE, place.device_type);
    label(&mut labels, STAGE, place.stage);
    let known = || {
        let mut alerts = before.iter().filter(|alert| alert.rule == finding.rule);
        let alert = alerts.find(|alert| {
            alert.labels.get(SERIES) == labels.get(SERIES) && alert.devices.contains_key(&finding.device)
        })?;
        Some((alert.labels.clone(), alert.severity, alert.devices[&finding.device].summary.clone()))
    };
    let (labels, severity, summary) = match finding.state {
        State::Quiet => return None,
        State::NotEnough => known()?,
        State::Firing => {
            let summary = finding.text.lines().next().unwrap_or_default().to_owned();
            (labels, finding.severity, summary)
        }
    };
    let (rule, device) = (finding.rule.clone(), finding.device.clone());
    Some(Firing { rule, device, labels, from: None, severity, summary })
}

/// Sets a label, if there is a value for it.
fn label(labels: &mut BTreeMap<String, String>, name: &str, value: Option<&str>) {
    if let Some(value) = value.filter(|value| !value.is_empty()) {
        let value: String = value.chars().filter(|c| !c.is_control()).take(LABEL).collect();
        labels.insert(name.to_owned(), value);
    }
}

/// What fires because of a device's condition, if it is one that nobody waits for.
pub fn of_condition(subject: &Subject<'_>) -> Option<Firing> {
    let observed = subject.observed;
    let (rule, severity, fault) = match subject.condition {
        Condition::Good
        | Condition::Converging
        | Condition::Waiting
        | Condition::Rejected
        | Condition::New => return None,
        Condition::Silent => (DEVICE_SILENT, Severity::Warning, None),
        Condition::Refused => (DEVICE_REFUSED, Severity::Critical, None),
        Condition::Failed => {
            let (severity, step, what) = failed(observed);
            (DEVICE_FAILED, severity, Some((step, what)))
        }
    };
    let mut labels = BTreeMap::new();
    if let Some((step, what)) = fault {
        label(&mut labels, STEP, Some(step));
        label(&mut labels, CHECK, Some(what));
    }
    let release = observed.suite.as_deref().or(subject.has);
    label(&mut labels, RELEASE, release);
    label(&mut labels, DEVICE_TYPE, observed.image.as_ref().map(|(device_type, _)| device_type.as_str()));
    label(&mut labels, STAGE, subject.stage);
    let from = subject.has.filter(|has| Some(*has) != release).map(str::to_owned);
    let summary = subject.reason.lines().next().unwrap_or_default().to_owned();
    Some(Firing { rule: rule.to_owned(), device: subject.device.clone(), labels, from, severity, summary })
}

/// Which step failed, and what in it. A device that is back at what it was is no emergency.
fn failed(observed: &Observed) -> (Severity, &str, &str) {
    match &observed.ending {
        Some(Ending::Failed { step, what, .. }) => return (Severity::Critical, step, what),
        Some(Ending::Reverted { step, what, left, .. }) => {
            let severity = if left.is_empty() { Severity::Warning } else { Severity::Critical };
            return (severity, step, what);
        }
        Some(Ending::Good | Ending::Refused(_)) | None => {}
    }
    if let Some((name, _)) = observed.failed_checks.first() {
        return (Severity::Critical, "check", name);
    }
    match observed.failed_units.first() {
        Some(unit) => (Severity::Critical, "units", unit),
        None => (Severity::Critical, NO_STAGE, ""),
    }
}
