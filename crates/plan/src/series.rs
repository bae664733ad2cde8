//! Points of a series in the order of time, and what judges need of them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// A measured value and when it was measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Point {
    /// When.
    pub at: Timestamp,
    /// How much, in the unit of the series.
    pub value: f64,
}

/// The points at `from` or later and before `until`, of points in the order of time.
pub fn between(points: &[Point], from: Timestamp, until: Timestamp) -> &[Point] {
    let start = points.partition_point(|point| point.at < from);
    let end = points.partition_point(|point| point.at < until);
    points.get(start..end).unwrap_or_default()
}

/// A moment before another; the earliest one there is if that would be before all time.
pub fn before(moment: Timestamp, duration: Duration) -> Timestamp {
    let shift = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    moment.checked_sub(shift).unwrap_or(Timestamp::MIN)
}

/// A moment after another; the latest one there is if that would be after all time.
pub fn after(moment: Timestamp, duration: Duration) -> Timestamp {
    let shift = SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
    moment.checked_add(shift).unwrap_or(Timestamp::MAX)
}

/// How long it is from one moment to a later one; nothing if it is not later.
pub fn elapsed(from: Timestamp, until: Timestamp) -> Duration {
    Duration::try_from(until.duration_since(from)).unwrap_or_default()
}

/// How much a counter rose over these points. A fall is a new start from zero, as after a reboot.
pub fn increase(points: &[Point]) -> f64 {
    let rise = |pair: &[Point]| {
        let (before, after) = (pair[0].value, pair[1].value);
        if after >= before { after - before } else { after.max(0.0) }
    };
    points.windows(2).map(rise).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(values: &[(i64, f64)]) -> Vec<Point> {
        values
            .iter()
            .map(|(at, value)| Point { at: Timestamp::from_second(*at).unwrap(), value: *value })
            .collect()
    }

    #[test]
    fn spans_are_half_open() {
        let all = points(&[(1, 1.0), (2, 2.0), (3, 3.0)]);
        let at = |second| Timestamp::from_second(second).unwrap();
        assert_eq!(between(&all, at(1), at(3)), &all[..2]);
        assert!(between(&all, at(3), at(1)).is_empty());
        assert_eq!(before(Timestamp::MIN, Duration::MAX), Timestamp::MIN);
        assert_eq!(elapsed(at(5), at(3)), Duration::ZERO);
    }

    #[test]
    fn a_counter_that_begins_anew_is_not_a_fall() {
        assert!((increase(&points(&[(1, 5.0), (2, 8.0), (3, 1.0), (4, 2.0)])) - 5.0).abs() < 1e-12);
        assert_eq!(increase(&[]), 0.0);
    }
}
