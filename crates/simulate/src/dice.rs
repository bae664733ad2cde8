//! Chance that can be repeated.

/// A generator (`SplitMix64`): the same seed gives the same numbers.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice of this seed.
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Other dice, that depend on these and on what they are for.
    pub(crate) fn fork(&mut self, purpose: u64) -> Self {
        Self(self.next() ^ purpose.wrapping_mul(0xD134_2543_DE82_EF95))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `from` until before `until`.
    pub(crate) fn between(&mut self, from: u64, until: u64) -> u64 {
        if until <= from { from } else { from + self.next() % (until - from) }
    }

    /// A number from 0 until before 1.
    #[allow(clippy::cast_precision_loss)]
    pub(crate) fn unit(&mut self) -> f64 {
        // 53 bits are what a float holds exactly.
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// True so many times out of a thousand.
    pub(crate) fn chance(&mut self, thousandth: u64) -> bool {
        self.next() % 1000 < thousandth
    }

    /// One of these.
    pub(crate) fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        let at = usize::try_from(self.next() % of.len() as u64).unwrap_or(0);
        of[at].clone()
    }
}
