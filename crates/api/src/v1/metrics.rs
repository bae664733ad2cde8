//! Measurements: what devices send, and what people ask for.
//!
//! | route | request → answer |
//! |---|---|
//! | `POST /device/v1/metrics` | [`Samples`], one JSON a line, may be `content-encoding: gzip` → [`super::device::ReceivedBatch`] |
//! | `GET /api/v1/devices/{name}/metrics` | → [`DeviceMetrics`] |
//! | `GET /api/v1/devices/{name}/metrics/{series}?from&to&step` | → list of [`SeriesPoints`]: of this series, or of all whose name without labels it is |
//! | `GET /api/v1/devices/{name}/errors?limit` | → list of [`JournalLine`], newest first |
//!
//! A batch is received once it is on the server's disk. 503 means that the disk does not keep up: the device
//! sends it again later. `from` and `to` are times as in RFC 3339, by default the last day; `step` is in seconds.
//!
//! A series is named as Prometheus does: `memory_available_bytes`,
//! `unit_memory_bytes{unit="app.service"}`. Names end in their unit: `_bytes`, `_seconds`, `_ratio`,
//! `_celsius`; counters that only rise until a reboot end in `_total`. What a fleet measures itself
//! begins with `fleet_`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use volary_model::{DeviceName, SeriesName};

/// The most series in one [`Samples`], so that a mistake in a fleet's own measurement cannot fill
/// the server.
pub const SERIES_LIMIT: usize = 500;

/// The most points of a series in one [`Samples`].
pub const POINTS_LIMIT: usize = 1440;

/// Points of several series at the same evenly spaced times.
///
/// Devices' clocks are not believed: the last point was made `age` seconds before the request was
/// sent, by the device's monotonic clock, and the server counts back from when it received it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Samples {
    /// Unique for the device; rises. The same id counts once.
    pub id: String,
    /// The kernel's boot id: counters begin anew with each.
    pub boot_id: String,
    /// When it was sent, by the device's clock; tells how wrong that is.
    pub at: Timestamp,
    /// Seconds between the newest points and the sending. Without a monotonic clock that reaches back
    /// (a reboot lies between) it is the difference of the device's clock.
    #[serde(default)]
    pub age: u64,
    /// Seconds between two points.
    pub step: u32,
    /// How many points each series has.
    pub points: u32,
    /// The series, oldest point first; `null` where there is none. Shorter ones lack their oldest
    /// points. An integer is written without a fraction.
    #[serde(serialize_with = "without_fractions")]
    pub series: BTreeMap<String, Vec<Option<f64>>>,
    /// Lines of the journal of priority error and above since the samples before, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<JournalError>,
    /// How many such lines were left out, since there were too many.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub errors_left_out: u32,
}

/// A line of the journal of priority error, critical, alert or emergency.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JournalError {
    /// Seconds before the sending.
    pub age: u64,
    /// 0 (emergency) to 3 (error), as syslog has them.
    pub priority: u8,
    /// The unit, or the identifier of who wrote it.
    #[serde(default)]
    pub unit: String,
    /// The beginning of the message.
    pub message: String,
}

/// What a device measured last.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct DeviceMetrics {
    /// The device.
    pub device: DeviceName,
    /// When the server got measurements of it last; `None` if it never did.
    #[serde(default)]
    pub received_at: Option<Timestamp>,
    /// The newest value of each series of the last day, by name.
    #[serde(default)]
    pub values: Vec<LatestValue>,
    /// How many lines of its journal were left out, by the device or by the server.
    #[serde(default)]
    pub errors_left_out: u64,
    /// How many points were left out, since it has too many series.
    #[serde(default)]
    pub points_left_out: u64,
}

impl DeviceMetrics {
    /// Those of a device that has measured nothing.
    pub fn of(device: DeviceName) -> Self {
        Self { device, received_at: None, values: Vec::new(), errors_left_out: 0, points_left_out: 0 }
    }
}

/// The newest value of a series.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct LatestValue {
    /// The series.
    pub series: SeriesName,
    /// When it was measured, by the server's clock.
    pub at: Timestamp,
    /// The value.
    pub value: f64,
}

/// A series over time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct SeriesPoints {
    /// The series.
    pub series: SeriesName,
    /// Its points, oldest first. A point that stands for some time (a mean; of a counter the last value)
    /// stands at the end of it.
    pub points: Vec<(Timestamp, f64)>,
    /// When the device booted in that time: counters began anew.
    #[serde(default)]
    pub boots: Vec<Timestamp>,
}

/// A line of a device's journal, as the server has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JournalLine {
    /// When, by the server's clock.
    pub at: Timestamp,
    /// 0 (emergency) to 3 (error), as syslog has them.
    pub priority: u8,
    /// The unit, or the identifier of who wrote it.
    pub unit: String,
    /// The beginning of the message.
    pub message: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// Integers up to here are exact in a double, and so in every reader of JSON.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn without_fractions<S: Serializer>(
    series: &BTreeMap<String, Vec<Option<f64>>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(series.iter().map(|(name, points)| (name, Points(points))))
}

struct Points<'a>(&'a [Option<f64>]);

impl Serialize for Points<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|point| point.map(Number)))
    }
}

struct Number(f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[expect(clippy::cast_possible_truncation, reason = "it is a whole number below 2^53")]
        if self.0.fract() == 0.0 && self.0.abs() <= EXACT {
            serializer.serialize_i64(self.0 as i64)
        } else {
            serializer.serialize_f64(self.0)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_no_fraction_and_come_back() {
        let points = vec![None, Some(5.0), Some(-0.25), Some(1e300), Some(f64::NAN)];
        let samples = Samples {
            id: "1".to_owned(),
            boot_id: String::new(),
            at: Timestamp::UNIX_EPOCH,
            age: 0,
            step: 60,
            points: 5,
            series: BTreeMap::from([("load1".to_owned(), points)]),
            errors: Vec::new(),
            errors_left_out: 0,
        };
        let text = serde_json::to_string(&samples).unwrap();
        assert!(text.contains(r#""load1":[null,5,-0.25,1e+300,null]"#), "{text}");
        let back: Samples = serde_json::from_str(&text).unwrap();
        assert_eq!(back.series["load1"], [None, Some(5.0), Some(-0.25), Some(1e300), None]);
    }
}
