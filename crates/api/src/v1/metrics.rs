//! Measurements: what devices send, and what people ask for.
//!
//! | route | request → answer |
//! |---|---|
//! | `POST /device/v1/metrics` | [`Samples`], one JSON a line, may be `content-encoding: gzip` → [`super::device::ReceivedBatch`] |
//!
//! A series is named as Prometheus does: `memory_available_bytes`,
//! `unit_memory_bytes{unit="app.service"}`. Names end in their unit: `_bytes`, `_seconds`, `_ratio`,
//! `_celsius`; counters that only rise until a reboot end in `_total`. What a fleet measures itself
//! begins with `fleet_`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

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

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}
