//! Medians and other quantiles.

/// The median; `None` of nothing. Values that are no numbers count as the largest.
pub fn median(values: &[f64]) -> Option<f64> {
    quantile(values, 0.5)
}

/// The value below which the part `part` (0 to 1) of the values lies, interpolated between neighbours;
/// `None` of nothing.
pub fn quantile(values: &[f64], part: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    of_sorted(&sorted, part)
}

/// As [`quantile`], of values that are sorted already.
pub(crate) fn of_sorted(sorted: &[f64], part: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = part.clamp(0.0, 1.0) * last as f64;
    let below = (at.floor() as usize).min(last);
    let above = (below + 1).min(last);
    Some(sorted[below] + (at - at.floor()) * (sorted[above] - sorted[below]))
}

/// How far the first group lies above the second: the median of all differences between one of each
/// (Hodges and Lehmann). `None` if a group is empty.
pub fn shift(ours: &[f64], theirs: &[f64]) -> Option<f64> {
    let differences: Vec<f64> =
        ours.iter().flat_map(|ours| theirs.iter().map(move |theirs| ours - theirs)).collect();
    median(&differences)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_interpolated() {
        // numpy.quantile([1, 2, 4, 8, 16], q)
        let values = [16.0, 1.0, 4.0, 2.0, 8.0];
        for (part, expected) in [(0.0, 1.0), (0.1, 1.4), (0.25, 2.0), (0.5, 4.0), (0.9, 12.8), (1.0, 16.0)] {
            assert!((quantile(&values, part).unwrap() - expected).abs() < 1e-12, "{part}");
        }
        assert_eq!(median(&[1.0, 2.0]), Some(1.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_shift_ignores_one_wild_value() {
        assert_eq!(shift(&[11.0, 12.0, 1e9], &[1.0, 2.0, 3.0]), Some(10.0));
        assert_eq!(shift(&[], &[1.0]), None);
    }
}
