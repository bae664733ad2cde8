//! Alerts as people read them.

use std::collections::BTreeSet;

use volary_model::DeviceName;

use super::{
    Alert, CHECK, DEVICE_FAILED, DEVICE_REFUSED, DEVICE_SILENT, DEVICE_TYPE, Member, RELEASE, SERIES, STAGE,
    STEP,
};
use crate::text;

/// What is wrong, in one line: `312 devices: check dns, v1.2 to v1.3, type pi4, stage production`.
/// `devices` are those that it is about: all of the alert, or those that no silence covers.
pub fn sentence<'a>(alert: &Alert, devices: impl Iterator<Item = (&'a DeviceName, &'a Member)>) -> String {
    let devices: Vec<_> = devices.collect();
    let who = match devices.as_slice() {
        [(only, _)] => only.to_string(),
        several => text::count(several.len(), "device"),
    };
    let mut parts = vec![what(alert)];
    if let Some(release) = alert.labels.get(RELEASE) {
        let from: BTreeSet<Option<&str>> = devices.iter().map(|(_, member)| member.from.as_deref()).collect();
        parts.push(match from.iter().collect::<Vec<_>>().as_slice() {
            [] | [None] => release.clone(),
            [Some(from)] => format!("{from} to {release}"),
            _ => format!("to {release}"),
        });
    }
    for label in [DEVICE_TYPE, STAGE] {
        parts.extend(alert.labels.get(label).map(|value| format!("{label} {value}")));
    }
    let said = [STEP, CHECK, SERIES, RELEASE, DEVICE_TYPE, STAGE];
    let others = alert.labels.iter().filter(|(label, _)| !said.contains(&label.as_str()));
    parts.extend(others.map(|(label, value)| format!("{label} {value}")));
    format!("{who}: {}", parts.join(", "))
}

/// The first devices of an alert, each with its line, and how many more there are.
pub fn details<'a>(devices: impl Iterator<Item = (&'a DeviceName, &'a Member)>, most: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut left_out = 0;
    for (name, member) in devices {
        match lines.len() < most {
            true => lines.push(format!("{name}: {}", member.summary)),
            false => left_out += 1,
        }
    }
    if left_out > 0 {
        lines.push(format!("and {}", text::count(left_out, "more device")));
    }
    lines
}

fn what(alert: &Alert) -> String {
    let step = alert.labels.get(STEP).map(String::as_str);
    let check = alert.labels.get(CHECK).map(String::as_str);
    match (alert.rule.as_str(), step, check) {
        (DEVICE_FAILED, Some(step), Some(check)) => format!("{step} {check}"),
        (DEVICE_FAILED, Some(step), None) => format!("{step} failed"),
        (DEVICE_REFUSED, ..) => "refused the commit".to_owned(),
        (DEVICE_SILENT, ..) => "silent".to_owned(),
        (rule, _, Some(check)) => format!("{rule} {check}"),
        (rule, _, None) => match alert.labels.get(SERIES) {
            Some(series) => format!("{rule} {series}"),
            None => rule.to_owned(),
        },
    }
}
