//! Two groups of devices: is the first worse than the second?

use super::normal::normal_upper;

/// The most steps of counting for an exact rank test; above it the normal approximation stands in. At
/// this bound an exact test takes some 10 ms.
const EXACT_STEPS: usize = 10_000_000;

/// The result of a rank test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RankSum {
    /// The chance that a first group that is no different would lie so high.
    pub p: f64,
    /// True if it was counted, false if approximated.
    pub exact: bool,
}

/// Wilcoxon's rank-sum test (Mann and Whitney's) of whether the first group lies above the second. Exact for
/// small groups, ties included. `None` if a group is empty.
pub fn rank_sum_greater(ours: &[f64], theirs: &[f64]) -> Option<RankSum> {
    if ours.is_empty() || theirs.is_empty() {
        return None;
    }
    let ranked = Ranked::of(ours, theirs);
    Some(match ranked.exact() {
        Some(p) => RankSum { p, exact: true },
        None => RankSum { p: ranked.approximate(), exact: false },
    })
}

/// Values of both groups in one order. Ranks are doubled, so that those of ties are whole numbers.
struct Ranked {
    ranks: Vec<usize>,
    ours: usize,
    sum: usize,
    /// Sum of t³ - t over groups of t equal values.
    ties: f64,
}

impl Ranked {
    fn of(ours: &[f64], theirs: &[f64]) -> Self {
        let mut all: Vec<(f64, bool)> = ours.iter().map(|value| (*value, true)).collect();
        all.extend(theirs.iter().map(|value| (*value, false)));
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut ranked = Self { ranks: Vec::with_capacity(all.len()), ours: ours.len(), sum: 0, ties: 0.0 };
        // Equality and not order: 0.0 and -0.0 are one value.
        for group in all.chunk_by(|a, b| a.0 == b.0) {
            let first = ranked.ranks.len() + 1;
            let doubled = 2 * first + group.len() - 1;
            ranked.sum += doubled * group.iter().filter(|(_, is_ours)| *is_ours).count();
            ranked.ranks.extend(std::iter::repeat_n(doubled, group.len()));
            let size = group.len() as f64;
            ranked.ties += size * (size * size - 1.0);
        }
        ranked
    }

    /// Counts in how many choices of as many values as ours the sum of ranks is at least ours.
    fn exact(&self) -> Option<f64> {
        let all = self.ranks.len();
        let others = all - self.ours;
        // The smaller group is counted; of the other one the sum is at most what is left.
        let (chosen, limit) = if self.ours <= others {
            (self.ours, None)
        } else {
            (others, Some(self.ranks.iter().sum::<usize>() - self.sum))
        };
        let most: usize = self.ranks.iter().rev().take(chosen).sum();
        if all.checked_mul(chosen)?.checked_mul(most + 1)? > EXACT_STEPS {
            return None;
        }
        // ways[k * width + s]: choices of k values with the sum s.
        let width = most + 1;
        let mut ways = vec![0.0_f64; (chosen + 1) * width];
        ways[0] = 1.0;
        for (seen, rank) in self.ranks.iter().enumerate() {
            for k in (1..=chosen.min(seen + 1)).rev() {
                let (before, after) = ways.split_at_mut(k * width);
                let before = &before[(k - 1) * width..];
                for sum in *rank..width {
                    after[sum] += before[sum - rank];
                }
            }
        }
        let last = &ways[chosen * width..];
        let total: f64 = last.iter().sum();
        let extreme: f64 = match limit {
            None => last.get(self.sum..).unwrap_or_default().iter().sum(),
            Some(limit) => last[..=limit.min(most)].iter().sum(),
        };
        Some((extreme / total).min(1.0))
    }

    /// With corrections for ties and for the steps between ranks.
    fn approximate(&self) -> f64 {
        let all = self.ranks.len() as f64;
        let (ours, others) = (self.ours as f64, all - self.ours as f64);
        let above = self.sum as f64 / 2.0 - ours * (all + 1.0) / 2.0;
        let variance = ours * others / 12.0 * (all + 1.0 - self.ties / (all * (all - 1.0)));
        if variance <= 0.0 { 1.0 } else { normal_upper((above - 0.5) / variance.sqrt()) }
    }
}

/// The smallest p value that groups of these sizes can show: the first group lies above all others.
pub fn smallest_p(ours: usize, theirs: usize) -> f64 {
    // 1 / C(ours + theirs, ours)
    (1..=ours).map(|k| k as f64 / (theirs + k) as f64).product()
}

/// Fisher's exact test of whether `ours.0` of `ours.1` is a larger part than `theirs.0` of `theirs.1`: the
/// chance of so many or more in the first group, if both are alike.
pub fn fisher_greater(ours: (u64, u64), theirs: (u64, u64)) -> f64 {
    let (hit, all) = (ours.0 + theirs.0, ours.1 + theirs.1);
    let most = hit.min(ours.1);
    let whole = ln_choose(all, hit);
    let chance = |k: u64| {
        let others = hit - k;
        if others > theirs.1 {
            return 0.0;
        }
        (ln_choose(ours.1, k) + ln_choose(theirs.1, others) - whole).exp()
    };
    (ours.0..=most).map(chance).sum::<f64>().min(1.0)
}

fn ln_choose(n: u64, k: u64) -> f64 {
    let k = k.min(n.saturating_sub(k));
    (1..=k).map(|i| ((n - k + i) as f64 / i as f64).ln()).sum()
}

/// The largest rate of failures that is still compatible with none among `devices`, at 95 %.
pub fn upper_rate(devices: usize) -> f64 {
    if devices == 0 { 1.0 } else { 1.0 - 0.05_f64.powf(1.0 / devices as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ours: &[f64], theirs: &[f64], expected: f64, exact: bool) {
        let found = rank_sum_greater(ours, theirs).unwrap();
        assert!((found.p / expected - 1.0).abs() < 1e-9 && found.exact == exact, "{found:?} {expected}");
    }

    #[test]
    fn ranks_of_small_groups_are_counted() {
        // scipy.stats.mannwhitneyu(a, b, alternative="greater", method="exact")
        check(&[3.1, 4.7, 5.5, 9.0], &[1.2, 2.0, 2.9, 3.0, 4.1, 5.0, 6.3], 0.081_818_181_818_181_82, true);
        // With ties: the share of all choices of four ranks (scipy.stats.rankdata) with at least that sum.
        check(&[5.0, 5.0, 7.0, 9.0], &[1.0, 2.0, 5.0, 5.0, 6.0, 7.0, 3.0], 0.1, true);
        // The first group may be the larger one: 1 / C(5, 2).
        check(&[4.0, 5.0, 6.0], &[1.0, 2.0], 0.1, true);
        check(&[1.0, 2.0, 3.0], &[5.0, 6.0], 1.0, true);
        check(&[1.0, 1.0], &[1.0, 1.0, 1.0], 1.0, true);
        assert_eq!(rank_sum_greater(&[], &[1.0]), None);
    }

    #[test]
    fn large_groups_are_approximated() {
        // mannwhitneyu(arange(30) * 1.3 + 4, arange(400) * 0.1, alternative="greater", method="asymptotic")
        let ours: Vec<f64> = (0..30).map(|n| (f64::from(n) * 130.0 + 400.0).round() / 100.0).collect();
        let theirs: Vec<f64> = (0..400).map(|n| (f64::from(n) * 10.0).round() / 100.0).collect();
        check(&ours, &theirs, 0.098_364_575_150_766_23, false);
    }

    #[test]
    fn the_exact_test_is_right_so_often() {
        // Over all choices of 3 of 8 distinct ranks, p is at most any of its values exactly so often.
        let mut all = Vec::new();
        for a in 0..8 {
            for b in a + 1..8 {
                for c in b + 1..8 {
                    let is_ours = |n: &i32| [a, b, c].contains(n);
                    let value = |n: i32| f64::from(n);
                    let (ours, theirs): (Vec<i32>, Vec<i32>) = (0..8).partition(is_ours);
                    let ours: Vec<f64> = ours.into_iter().map(value).collect();
                    let theirs: Vec<f64> = theirs.into_iter().map(value).collect();
                    all.push(rank_sum_greater(&ours, &theirs).unwrap().p);
                }
            }
        }
        for p in &all {
            let share = all.iter().filter(|other| **other <= p + 1e-12).count() as f64 / all.len() as f64;
            assert!((share - p).abs() < 1e-12, "{share} {p}");
        }
        let smallest = all.iter().copied().fold(1.0, f64::min);
        assert!((smallest - smallest_p(3, 5)).abs() < 1e-15);
    }

    #[test]
    fn shares_are_compared_exactly() {
        // scipy.stats.fisher_exact([[a, n - a], [c, m - c]], alternative="greater")
        for (ours, theirs, expected) in [
            ((1, 5), (2, 1000), 0.014_865_968_782_123_632),
            ((2, 10), (10, 1000), 0.005_527_475_035_037_062),
            ((3, 50), (10, 1000), 0.020_740_816_977_069_38),
            ((0, 5), (3, 7), 1.0),
            ((4, 5), (1, 60), 3.644_117_208_368_926e-05),
        ] {
            let found = fisher_greater(ours, theirs);
            assert!((found / expected - 1.0).abs() < 1e-8, "{ours:?}: {found}");
        }
        assert_eq!(fisher_greater((0, 0), (0, 0)), 1.0);
    }

    #[test]
    fn what_a_group_can_show() {
        assert!((upper_rate(5) - 0.450_7).abs() < 1e-4 && (upper_rate(59) - 0.049_5).abs() < 1e-4);
        assert_eq!(upper_rate(0), 1.0);
        assert!((smallest_p(2, 50) - 1.0 / 1326.0).abs() < 1e-15);
    }
}
