//! Rollups: what is kept of a series when the single measurements go. Pure.
//!
//! A gauge keeps its mean, a counter (`_total`) its last value. A row stands at the end of the time that
//! it is about, so that it lies before the measurements after it, also where those are finer.

use volary_model::is_counter;

use super::block::Rows;

/// Digits of a mean. The noise of measurements is larger than what lies behind them, and they would
/// take most of the room.
const DIGITS: i32 = 5;

/// What is kept of the values of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    /// Their mean.
    Mean,
    /// The last of them.
    Last,
}

impl Kept {
    /// What is kept of a series of this name.
    pub(crate) fn of(name: &str) -> Self {
        if is_counter(name) { Self::Last } else { Self::Mean }
    }
}

/// The rows with one for each `width` seconds that have any.
pub(crate) fn rollup(rows: &Rows, width: i64, kept: impl Fn(u32) -> Kept) -> Rows {
    let end = |time: i64| (time.div_euclid(width) + 1) * width;
    let mut times: Vec<i64> = rows.times.iter().map(|time| end(*time)).collect();
    times.dedup();
    let column = |series: u32, values: &[f64]| {
        let largest =
            values.iter().filter(|value| !value.is_nan()).fold(0.0, |most: f64, v| most.max(v.abs()));
        let mut column = Vec::with_capacity(times.len());
        let mut row = 0;
        for time in &times {
            let from = row;
            while row < rows.times.len() && end(rows.times[row]) == *time {
                row += 1;
            }
            column.push(one(&values[from..row], kept(series), largest));
        }
        column
    };
    let columns = rows.columns.iter().map(|(series, values)| (*series, column(*series, values))).collect();
    Rows { times, boots: rows.boots.clone(), columns }
}

/// One value for several.
fn one(values: &[f64], kept: Kept, largest: f64) -> f64 {
    let present = || values.iter().copied().filter(|value| !value.is_nan());
    let Some(last) = present().next_back() else { return f64::NAN };
    match kept {
        Kept::Last => last,
        Kept::Mean if present().all(|value| value.to_bits() == last.to_bits()) => last,
        Kept::Mean => {
            // Divided before the sum, which could be too large.
            let count = present().count() as f64;
            rounded(present().map(|value| value / count).sum(), largest)
        }
    }
}

/// A value with [`DIGITS`] digits of the largest of its series.
fn rounded(value: f64, largest: f64) -> f64 {
    let digits = DIGITS - 1 - largest.log10().floor() as i32;
    let rounded = match digits {
        0..=300 => {
            let scale = 10_f64.powi(digits);
            (value * scale).round() / scale
        }
        _ => {
            let scale = 10_f64.powi(-digits);
            (value / scale).round() * scale
        }
    };
    if rounded.is_finite() { rounded } else { value }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn gauges_are_averaged_and_counters_keep_their_end() {
        let times = vec![0, 60, 299, 300, 900];
        let gauge = vec![1.0, 2.0, f64::NAN, 7.0, f64::NAN];
        let counter = vec![10.0, 20.0, 30.0, f64::NAN, 5.0];
        let rows = Rows { times, boots: vec![850], columns: BTreeMap::from([(1, gauge), (2, counter)]) };
        let kept = |series| if series == 1 { Kept::Mean } else { Kept::Last };
        let rolled = rollup(&rows, 300, kept);
        assert_eq!(rolled.points(1).collect::<Vec<_>>(), [(300, 1.5), (600, 7.0)]);
        assert_eq!(rolled.points(2).collect::<Vec<_>>(), [(300, 30.0), (1200, 5.0)]);
        assert_eq!((rolled.times, rolled.boots), (vec![300, 600, 1200], vec![850]));
    }

    #[test]
    fn means_are_rounded_and_constants_are_not() {
        let check = |values: &[f64], expected: f64| {
            let largest = values.iter().fold(0.0, |most: f64, value| most.max(value.abs()));
            assert_eq!(one(values, Kept::Mean, largest), expected, "{values:?}");
        };
        check(&[0.1234567, 0.1234567], 0.1234567);
        check(&[1.0, 2.0, 2.0], 1.6667);
        check(&[4_000_000_001.0, 4_000_000_004.0], 4_000_000_000.0);
        check(&[0.0, -0.001], -0.0005);
        assert!(one(&[f64::NAN], Kept::Mean, 0.0).is_nan());
        assert!(one(&[1e308, 1.7e308, 1.7e308], Kept::Mean, 1.7e308).is_finite());
        assert!(one(&[1e-310, 2e-310], Kept::Mean, 2e-310).is_finite());
    }

    #[test]
    fn the_name_says_what_is_kept() {
        assert_eq!(Kept::of("cpu_seconds_total{mode=\"user\"}"), Kept::Last);
        assert_eq!(Kept::of("disk_bytes{of=\"x_total\"}"), Kept::Mean);
    }
}
