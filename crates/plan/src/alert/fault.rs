//! What fires because of a device's condition.

use std::collections::BTreeMap;

use volary_model::DeviceName;

use super::{
    CHECK, DEVICE_FAILED, DEVICE_REFUSED, DEVICE_SILENT, DEVICE_TYPE, Firing, RELEASE, STAGE, STEP, Severity,
};
use crate::condition::{Condition, Ending, Observed};

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
    let mut label = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            let value: String = value.chars().filter(|c| !c.is_control()).take(LABEL).collect();
            labels.insert(name.to_owned(), value);
        }
    };
    if let Some((step, what)) = fault {
        label(STEP, Some(step));
        label(CHECK, Some(what));
    }
    let release = observed.suite.as_deref().or(subject.has);
    label(RELEASE, release);
    label(DEVICE_TYPE, observed.image.as_ref().map(|(device_type, _)| device_type.as_str()));
    label(STAGE, subject.stage);
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
