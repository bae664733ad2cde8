//! How the chance of a false alarm is shared out: over several metrics, and over several looks.

use super::normal::{normal_quantile, normal_upper};

/// The p values adjusted for being several (Holm): each may be compared with the chance that is allowed
/// for all of them together.
pub fn holm(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|a, b| p[*a].total_cmp(&p[*b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut so_far: f64 = 0.0;
    for (rank, index) in order.into_iter().enumerate() {
        so_far = so_far.max(p[index] * (p.len() - rank) as f64).min(1.0);
        adjusted[index] = so_far;
    }
    adjusted
}

/// How much of the chance `alpha` of a false alarm may be spent by the time that the part `time` (0 to 1)
/// of the observation is over: little early, most of it at the end (Lan and DeMets, in the form of O'Brien and
/// Fleming), so that looking early costs the last look almost nothing.
pub fn spent(alpha: f64, time: f64) -> f64 {
    if time <= 0.0 {
        return 0.0;
    }
    2.0 * normal_upper(normal_quantile(alpha / 2.0) / time.min(1.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holm_adjusts_by_rank_and_never_falls() {
        // By hand: 0.005 × 4, 0.01 × 3, 0.03 × 2, and 0.04 is no less than the one before.
        let adjusted = holm(&[0.01, 0.04, 0.03, 0.005]);
        for (found, expected) in adjusted.iter().zip([0.03, 0.06, 0.06, 0.02]) {
            assert!((found - expected).abs() < 1e-12, "{adjusted:?}");
        }
        assert_eq!(holm(&[0.9, 0.8]), [1.0, 1.0]);
        assert!(holm(&[]).is_empty());
    }

    #[test]
    fn spending_ends_at_alpha() {
        // 2 * norm.sf(norm.isf(0.01) / sqrt(t))
        for (time, expected) in [
            (0.125, 4.707_475_928_656_345e-11),
            (0.25, 3.276_234_783_709_337_7e-06),
            (0.5, 0.001_002_042_203_701_685),
            (1.0, 0.02),
            (7.0, 0.02),
        ] {
            let found = spent(0.02, time);
            assert!((found / expected - 1.0).abs() < 1e-6, "{time}: {found}");
        }
        assert_eq!(spent(0.02, 0.0), 0.0);
    }
}
