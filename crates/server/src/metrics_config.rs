//! `[metrics]` in `server.toml`: how measurements of devices are kept.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use volary_store::SeriesOptions;

/// How measurements of devices are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Hours that single measurements are kept.
    pub raw_hours: u32,
    /// Days that one value for five minutes is kept.
    pub five_minutes_days: u32,
    /// Days that one value for an hour is kept.
    pub hour_days: u32,
    /// How many series a device may have at one time.
    pub series_per_device: u32,
    /// How many lines of its journal are kept of each device.
    pub errors_per_device: u32,
    /// The shortest time between two flushes to the disk, in milliseconds: what comes in between waits and
    /// shares one.
    pub gather_ms: u32,
}

impl Default for MetricsConfig {
    /// Two days, two weeks, 400 days.
    fn default() -> Self {
        Self {
            raw_hours: 48,
            five_minutes_days: 14,
            hour_days: 400,
            series_per_device: 1000,
            errors_per_device: 200,
            gather_ms: 200,
        }
    }
}

impl MetricsConfig {
    pub(crate) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// What types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        // A day is rolled up some hours after its end, from single measurements.
        if self.raw_hours < 36 {
            return Err("metrics.raw_hours must be at least 36: days are rolled up after they end".into());
        }
        let days = u64::from(self.five_minutes_days) * 24;
        if days < u64::from(self.raw_hours) || self.hour_days < self.five_minutes_days {
            return Err(
                "metrics: five_minutes_days must be longer than raw_hours, and hour_days longer still".into(),
            );
        }
        if !(1..=10_000).contains(&self.gather_ms) {
            return Err("metrics.gather_ms must be 1 to 10000".into());
        }
        if !(10..=100_000).contains(&self.series_per_device) || self.errors_per_device > 100_000 {
            return Err(
                "metrics.series_per_device must be 10 to 100000, errors_per_device at most 100000".into()
            );
        }
        Ok(())
    }

    /// The same as the store takes it.
    pub(crate) fn options(&self) -> SeriesOptions {
        let hours = |hours: u32| Duration::from_secs(3600 * u64::from(hours));
        SeriesOptions {
            raw: hours(self.raw_hours),
            five_minutes: 24 * hours(self.five_minutes_days),
            hour: 24 * hours(self.hour_days),
            gather: Duration::from_millis(self.gather_ms.into()),
            series: self.series_per_device as usize,
            errors: self.errors_per_device,
            ..SeriesOptions::default()
        }
    }
}
