//! What the tests of this crate share.

#![allow(dead_code, reason = "no test uses all of it")]

/// A small generator of numbers with a fixed seed, so that a failure comes again.
pub struct Random(pub u64);

impl Random {
    /// From 0 to `limit`, without it.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// One of several.
    pub fn one_of<'a>(&mut self, parts: &[&'a str]) -> &'a str {
        parts[self.below(parts.len())]
    }
}
