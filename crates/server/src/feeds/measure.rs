//! The figures of the fleet for systems that keep time series: one value each for every device, and
//! how many devices of each stage are in which condition.
//!
//! Times are this server's: a device with a wrong clock would spoil the series of others. A device
//! that is silent has no values but that it is, rather than old ones again and again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use volary_api::v1::device::Report;
use volary_plan::condition::Condition;
use volary_store::DeviceState;

use crate::facts::Judged;

/// What a value counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unit {
    /// Things.
    One,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// One value now.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Value {
    /// `volary.device.memory.available`.
    pub(crate) name: &'static str,
    pub(crate) unit: Unit,
    pub(crate) value: f64,
    /// What tells it from others of the same name.
    pub(crate) labels: Vec<(&'static str, String)>,
}

/// The values of a device, or of the fleet as a whole.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Subject {
    /// The device; `None` for the fleet.
    pub(crate) device: Option<String>,
    /// What it is: stage, release, device type.
    pub(crate) labels: Vec<(&'static str, String)>,
    pub(crate) values: Vec<Value>,
}

/// All values now.
pub(crate) fn all(devices: &[Judged], now: Timestamp) -> Vec<Subject> {
    let accepted = || devices.iter().filter(|device| device.record.state == DeviceState::Accepted);
    let mut conditions: BTreeMap<(String, &'static str), u32> = BTreeMap::new();
    for device in accepted() {
        let stage = device.record.stage.as_ref().map(ToString::to_string).unwrap_or_default();
        *conditions.entry((stage, word(device.condition))).or_default() += 1;
    }
    let counted = conditions.into_iter().map(|((stage, condition), count)| Value {
        name: "volary.devices",
        unit: Unit::One,
        value: count.into(),
        labels: vec![("stage", stage), ("condition", condition.to_owned())],
    });
    let fleet = Subject { device: None, labels: Vec::new(), values: counted.collect() };
    [fleet].into_iter().chain(accepted().map(|device| of_device(device, now))).collect()
}

fn of_device(device: &Judged, now: Timestamp) -> Subject {
    let record = &device.record;
    let mut labels = Vec::new();
    let mut label = |name, value: Option<String>| labels.extend(value.map(|value| (name, value)));
    label("stage", record.stage.as_ref().map(ToString::to_string));
    label("release", record.suite.clone());
    let image = device.report.as_ref().and_then(|report| report.image.as_ref());
    label("type", image.map(|image| image.device_type.clone()));
    let is_good = device.condition == Condition::Good;
    let mut values = vec![value("volary.device.good", Unit::One, f64::from(u8::from(is_good)))];
    if let Some(seen_at) = device.seen_at {
        let age = now.duration_since(seen_at).as_secs().max(0);
        values.push(value("volary.device.last_seen", Unit::Seconds, age as f64));
    }
    if device.condition != Condition::Silent {
        values.extend(device.report.iter().flat_map(|report| of_report(report)));
    }
    Subject { device: Some(record.name.to_string()), labels, values }
}

fn of_report(report: &Report) -> Vec<Value> {
    let count = |number: usize| number as f64;
    let failed = report.checks.iter().filter(|check| !check.passed).count();
    let mut values = vec![
        value("volary.device.uptime", Unit::Seconds, report.uptime as f64),
        value("volary.device.units.failed", Unit::One, count(report.failed_units.len())),
        value("volary.device.checks.failed", Unit::One, count(failed)),
        value("volary.device.packages", Unit::One, report.packages_total.into()),
    ];
    for (name, bytes) in [
        ("volary.device.memory.available", report.memory_available),
        ("volary.device.memory.total", report.memory_total),
        ("volary.device.disk.free", report.disk_free),
        ("volary.device.disk.total", report.disk_total),
    ] {
        // 0 stands for an agent that does not tell.
        if bytes > 0 {
            values.push(value(name, Unit::Bytes, bytes as f64));
        }
    }
    if let Some(age) = report.suite_age {
        values.push(value("volary.device.suite.age", Unit::Seconds, age as f64));
    }
    values
}

fn value(name: &'static str, unit: Unit, value: f64) -> Value {
    Value { name, unit, value, labels: Vec::new() }
}

/// The word of a condition.
pub(crate) const fn word(condition: Condition) -> &'static str {
    match condition {
        Condition::Good => "good",
        Condition::Converging => "converging",
        Condition::Failed => "failed",
        Condition::Refused => "refused",
        Condition::Silent => "silent",
        Condition::Waiting => "waiting",
        Condition::Rejected => "rejected",
        Condition::New => "new",
    }
}
