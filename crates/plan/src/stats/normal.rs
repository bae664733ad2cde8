//! The normal distribution.

/// The chance that a standard normal value lies above `z`. Relative error below 1e-9 up to `z` = 30.
pub fn normal_upper(z: f64) -> f64 {
    if z.is_nan() {
        return 1.0;
    }
    if z < 0.0 {
        return 1.0 - normal_upper(-z);
    }
    let density = (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    if z < 2.5 {
        // The series of the area between 0 and z, all of whose terms are positive.
        let (mut term, mut sum, mut odd) = (z, z, 1.0);
        while term > 1e-17 * sum {
            odd += 2.0;
            term *= z * z / odd;
            sum += term;
        }
        return 0.5 - density * sum;
    }
    // The continued fraction of Mills' ratio, from far out inwards.
    let ratio = (1..=200).rev().fold(z, |tail, k| z + f64::from(k) / tail);
    density / ratio
}

/// The `z` above which a standard normal value lies with the chance `p`; infinite for 0 and 1.
pub fn normal_quantile(p: f64) -> f64 {
    if p <= 0.0 {
        return f64::INFINITY;
    }
    if p >= 1.0 {
        return f64::NEG_INFINITY;
    }
    // Halving is slow and cannot fail; it runs a handful of times for each judgement.
    let (mut low, mut high) = (-40.0, 40.0);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if normal_upper(middle) > p { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn areas_are_those_of_tables() {
        // scipy.stats.norm.sf(z)
        for (z, expected) in [
            (0.0, 0.5),
            (1.0, 0.158_655_253_931_457_07),
            (2.326, 0.010_009_275_340_867_669),
            (3.09, 0.001_000_782_476_614_011_5),
            (5.0, 2.866_515_718_791_933e-07),
            (8.0, 6.220_960_574_271_74e-16),
            (-1.5, 0.933_192_798_731_141_9),
        ] {
            let found = normal_upper(z);
            assert!((found / expected - 1.0).abs() < 1e-9, "{z}: {found}");
        }
        let (below, above) = (normal_upper(2.5 - 1e-12), normal_upper(2.5));
        assert!((below / above - 1.0).abs() < 1e-9, "{below} {above}");
    }

    #[test]
    fn quantiles_invert_areas() {
        // scipy.stats.norm.isf(p)
        for (p, expected) in [
            (0.05, 1.644_853_626_951_472_9),
            (0.01, 2.326_347_874_040_840_8),
            (1e-6, 4.753_424_308_822_899),
            (0.9, -1.281_551_565_544_600_4),
        ] {
            let found = normal_quantile(p);
            assert!((found - expected).abs() < 1e-8, "{p}: {found}");
        }
        assert_eq!((normal_quantile(0.0), normal_quantile(1.0)), (f64::INFINITY, f64::NEG_INFINITY));
    }
}
