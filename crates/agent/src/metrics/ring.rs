//! Points that were measured and not sent: columns of numbers, at evenly spaced times. Pure.

use std::collections::BTreeMap;

/// Points of several series. Times are numbers of steps since boot.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Ring {
    /// The time of the newest.
    newest: u64,
    points: usize,
    /// Oldest first, all up to the newest; a series that began later is shorter.
    series: BTreeMap<String, Vec<Option<f64>>>,
}

impl Ring {
    /// How many points there are.
    pub const fn points(&self) -> usize {
        self.points
    }

    /// The time of the newest.
    pub const fn newest(&self) -> u64 {
        self.newest
    }

    /// How many points there would be with one at `time`.
    pub fn points_with(&self, time: u64) -> u64 {
        if self.points == 0 { 1 } else { time.saturating_sub(self.newest).saturating_add(self.points as u64) }
    }

    /// Adds what was found at a time; one that is not later than the newest is dropped.
    pub fn push(&mut self, time: u64, values: BTreeMap<String, f64>) {
        let passed = if self.points == 0 { 1 } else { time.saturating_sub(self.newest) };
        let Some(missed) = usize::try_from(passed).ok().and_then(|passed| passed.checked_sub(1)) else {
            return;
        };
        for column in self.series.values_mut() {
            column.resize(column.len() + missed, None);
        }
        for (name, value) in &values {
            if let Some(column) = self.series.get_mut(name) {
                column.push(Some(*value));
            }
        }
        for (name, column) in &mut self.series {
            if !values.contains_key(name) {
                column.push(None);
            }
        }
        for (name, value) in values {
            self.series.entry(name).or_insert_with(|| vec![Some(value)]);
        }
        self.points += missed + 1;
        self.newest = time;
    }

    /// The columns.
    pub const fn series(&self) -> &BTreeMap<String, Vec<Option<f64>>> {
        &self.series
    }

    /// Forgets the oldest.
    pub fn forget(&mut self, oldest: usize) {
        self.points = self.points.saturating_sub(oldest);
        for column in self.series.values_mut() {
            column.drain(..column.len().saturating_sub(self.points));
        }
        self.series.retain(|_, column| column.iter().any(Option::is_some));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(of: &[(&str, f64)]) -> BTreeMap<String, f64> {
        of.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect()
    }

    #[test]
    fn columns_end_together() {
        let mut ring = Ring::default();
        ring.push(100, values(&[("a", 1.0)]));
        ring.push(101, values(&[("a", 2.0), ("b", 5.0)]));
        ring.push(101, values(&[("a", 9.0)]));
        ring.push(99, values(&[("a", 9.0)]));
        ring.push(104, values(&[("b", 6.0)]));
        assert_eq!((ring.points(), ring.newest(), ring.points_with(106)), (5, 104, 7));
        assert_eq!(ring.series()["a"], [Some(1.0), Some(2.0), None, None, None]);
        assert_eq!(ring.series()["b"], [Some(5.0), None, None, Some(6.0)]);
        ring.forget(2);
        assert_eq!((ring.points(), ring.newest()), (3, 104));
        assert_eq!(ring.series().keys().collect::<Vec<_>>(), ["b"], "nothing is left of a");
        assert_eq!(ring.series()["b"], [None, None, Some(6.0)]);
        ring.push(105, values(&[("b", 7.0)]));
        ring.forget(9);
        assert_eq!((ring.points(), ring.points_with(1), ring.series().len()), (0, 1, 0));
        ring.push(7, values(&[("a", 1.0)]));
        assert_eq!((ring.points(), ring.newest()), (1, 7));
    }
}
