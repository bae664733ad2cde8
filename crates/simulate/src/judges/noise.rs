//! Noise as measurements have it.

use crate::dice::Dice;

/// A normal value with the mean 0 and this standard deviation.
pub(super) fn normal(dice: &mut Dice, deviation: f64) -> f64 {
    // Box and Muller; the logarithm of 0 is kept out.
    let radius = (-2.0 * (1.0 - dice.unit()).ln()).sqrt();
    deviation * radius * (std::f64::consts::TAU * dice.unit()).cos()
}

/// A value between two bounds, each as likely as any other.
pub(super) fn uniform(dice: &mut Dice, from: f64, until: f64) -> f64 {
    from + (until - from) * dice.unit()
}

/// A series whose values depend on the one before, by the factor `memory`.
pub(super) fn autocorrelated(dice: &mut Dice, count: usize, memory: f64, deviation: f64) -> Vec<f64> {
    let fresh = deviation * (1.0 - memory * memory).sqrt();
    let mut value = normal(dice, deviation);
    let next = |_| {
        let now = value;
        value = memory * value + normal(dice, fresh);
        now
    };
    (0..count).map(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_its_spread_and_its_memory() {
        let mut dice = Dice::new(1);
        let values = autocorrelated(&mut dice, 200_000, 0.9, 2.0);
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let product = |lag: usize| {
            values.iter().zip(&values[lag..]).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>() / count
        };
        assert!(mean.abs() < 0.1 && (product(0) - 4.0).abs() < 0.2, "{mean} {}", product(0));
        assert!((product(1) / product(0) - 0.9).abs() < 0.01);
    }
}
