//! Rising and falling over time, by ranks, so that wild values do not count for more than others.

use super::normal::{normal_quantile, normal_upper};
use super::quantile::of_sorted;

/// The most points that are compared pair by pair: 500 make 125,000 pairs, some milliseconds. Callers
/// reduce longer series to blocks before.
const MOST_POINTS: usize = 500;

/// A slope with its bounds, in units of the value for each unit of the time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Slope {
    /// The median of the slopes between all pairs of points.
    pub middle: f64,
    /// The lower bound.
    pub low: f64,
    /// The upper bound.
    pub high: f64,
}

/// The slope by Theil and Sen with the bounds of `confidence` (0.95) by Sen. Points are (time, value); of
/// more than 500 a regular part is taken. `None` for fewer than three points, or if all have one time.
pub fn theil_sen(points: &[(f64, f64)], confidence: f64) -> Option<Slope> {
    let step = points.len().div_ceil(MOST_POINTS).max(1);
    let points: Vec<(f64, f64)> = points.iter().copied().step_by(step).collect();
    let mut slopes = Vec::with_capacity(points.len() * points.len().saturating_sub(1) / 2);
    for (index, first) in points.iter().enumerate() {
        let rise = |later: &(f64, f64)| (later.1 - first.1) / (later.0 - first.0);
        slopes.extend(points[index + 1..].iter().filter(|later| later.0 != first.0).map(rise));
    }
    if points.len() < 3 || slopes.is_empty() {
        return None;
    }
    slopes.sort_by(f64::total_cmp);
    let values: Vec<f64> = points.iter().map(|point| point.1).collect();
    let spread = normal_quantile((1.0 - confidence) / 2.0) * variance(&values).sqrt();
    let count = slopes.len() as f64;
    let low = ((count - spread) / 2.0).round() - 1.0;
    let high = ((count + spread) / 2.0).round();
    let at = |index: f64| slopes[(index.max(0.0) as usize).min(slopes.len() - 1)];
    Some(Slope { middle: of_sorted(&slopes, 0.5)?, low: at(low), high: at(high) })
}

/// The result of Mann and Kendall's test for a trend.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kendall {
    /// Pairs that rise less pairs that fall.
    pub s: f64,
    /// `s` in standard deviations, corrected for ties and for the steps of `s`.
    pub z: f64,
    /// The chance of such a rise without a trend.
    pub p_rise: f64,
}

impl Kendall {
    fn new(s: f64, variance: f64) -> Self {
        let corrected = (s.abs() - 1.0).max(0.0).copysign(s);
        let z = if variance > 0.0 { corrected / variance.sqrt() } else { 0.0 };
        Self { s, z, p_rise: normal_upper(z) }
    }
}

/// Mann and Kendall's test of whether values in the order of time rise.
pub fn kendall(values: &[f64]) -> Kendall {
    Kendall::new(sum_of_signs(values), variance(values))
}

/// The same for values that come back in a cycle of `season` values, such as hours of the day: only
/// values of the same place in the cycle are compared.
pub fn seasonal_kendall(values: &[f64], season: usize) -> Kendall {
    let (mut s, mut sum) = (0.0, 0.0);
    for place in 0..season.max(1) {
        let same: Vec<f64> = values.iter().copied().skip(place).step_by(season.max(1)).collect();
        s += sum_of_signs(&same);
        sum += variance(&same);
    }
    Kendall::new(s, sum)
}

fn sum_of_signs(values: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (index, first) in values.iter().enumerate() {
        for later in &values[index + 1..] {
            sum += f64::from(i8::from(later > first) - i8::from(later < first));
        }
    }
    sum
}

/// The variance of the sum of signs without a trend.
fn variance(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let part = |n: f64| n * (n - 1.0) * (2.0 * n + 5.0);
    let ties: f64 = sorted.chunk_by(|a, b| a == b).map(|group| part(group.len() as f64)).sum();
    (part(values.len() as f64) - ties).max(0.0) / 18.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wild_value_does_not_turn_the_slope() {
        // scipy.stats.theilslopes(y, x, alpha=0.95), alpha=0.99
        let values = [1.0, 2.1, 2.9, 4.2, 4.8, 6.5, 6.9, 30.0, 9.1, 9.9];
        let points: Vec<(f64, f64)> =
            values.iter().enumerate().map(|(at, value)| (at as f64, *value)).collect();
        let check = |confidence: f64, low: f64, high: f64| {
            let slope = theil_sen(&points, confidence).unwrap();
            let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
            assert!(near(slope.middle, 1.0) && near(slope.low, low) && near(slope.high, high), "{slope:?}");
        };
        check(0.95, 0.95, 1.1);
        check(0.99, 0.866_666_666_666_666_6, 1.7);
        assert_eq!(theil_sen(&points[..2], 0.95), None);
        assert_eq!(theil_sen(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)], 0.95), None);
    }

    #[test]
    fn trends_are_found_by_their_order() {
        // By Gilbert's formula with ties: s = 23, variance = 64.33, z = 22 / 8.02.
        let found = kendall(&[1.0, 3.0, 2.0, 4.0, 4.0, 6.0, 5.0, 8.0]);
        assert!(
            (found.s - 23.0).abs() < 1e-12 && (found.z - 2.742_866_395_247_163_2).abs() < 1e-12,
            "{found:?}"
        );
        assert!((kendall(&[3.0, 2.0, 1.0]).z + 2.0 / (66.0_f64 / 18.0).sqrt()).abs() < 1e-12);
        assert_eq!(kendall(&[5.0; 9]).z, 0.0);
        assert_eq!(kendall(&[]).z, 0.0);
    }

    #[test]
    fn a_cycle_is_no_trend() {
        let cycle: Vec<f64> = (0..28).map(|n| [0.0, 5.0, 9.0, 4.0][n % 4]).collect();
        assert_eq!(seasonal_kendall(&cycle, 4).s, 0.0);
        let rises: Vec<f64> = cycle.iter().enumerate().map(|(n, value)| value + n as f64 * 0.01).collect();
        assert!(seasonal_kendall(&rises, 4).z > 4.0 && kendall(&rises).z < 4.0);
    }
}
