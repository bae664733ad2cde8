//! An alert in the words that Alertmanager and what listens to it know: labels, annotations,
//! fingerprint. Labels are its identity there, so what changes while it lasts is an annotation.

use std::collections::BTreeMap;

use volary_model::DeviceName;
use volary_plan::alert::{Alert, Member, details, sentence};

/// How many devices a description names.
const DEVICES: usize = 10;

/// The labels of an alert.
pub(crate) fn labels(alert: &Alert, fleet: &str) -> BTreeMap<String, String> {
    let mut labels = alert.labels.clone();
    labels.insert("alertname".into(), alert.rule.clone());
    labels.insert("severity".into(), alert.severity.as_str().into());
    labels.insert("fleet".into(), fleet.into());
    labels
}

/// What is said of these devices of an alert.
pub(crate) fn annotations<'a>(
    alert: &Alert,
    devices: impl Iterator<Item = (&'a DeviceName, &'a Member)> + Clone,
) -> BTreeMap<String, String> {
    let text = |name: &str, value: String| (name.to_owned(), value);
    BTreeMap::from([
        text("summary", sentence(alert, devices.clone())),
        text("devices", devices.clone().count().to_string()),
        text("description", details(devices, DEVICES).join("\n")),
        text("alert", alert.id.to_string()),
    ])
}

/// The fingerprint that Prometheus and Alertmanager give a set of labels: FNV-1a of its names and
/// values in order, with a byte that no text has after each.
pub(crate) fn fingerprint(labels: &BTreeMap<String, String>) -> String {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        for byte in text.bytes().chain([0xff]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fingerprint_is_that_of_prometheus() {
        // As Alertmanager 0.25 shows it.
        let labels = [("alertname", "device-failed"), ("check", "dns"), ("stage", "canary")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(fingerprint(&labels.into_iter().collect()), "f7f0c230118bf17d");
    }
}
