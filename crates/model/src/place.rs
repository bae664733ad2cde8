//! The order in which the devices of a stage take a commit.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{CommitId, DeviceName};

/// Where a device stands among all in the rollout of a commit: from 0, the first, to 65,535.
///
/// Anybody can compute it, the device too, and it is another one for each commit, so that it is not
/// always the same who go first: FNV-1a (64 bit, offset `cbf29ce484222325`, prime `100000001b3`) over the
/// commit's hexadecimal name, a slash and the device's name, finished as `SplitMix64` does, of which
/// the upper 16 bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Place(u16);

impl Place {
    /// The place of a device in the rollout of a commit.
    pub fn of(commit: &CommitId, device: &DeviceName) -> Self {
        let bytes = commit.as_str().bytes().chain([b'/']).chain(device.as_str().bytes());
        let hash = bytes.fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
        });
        let mut z = hash;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^= z >> 31;
        Self(u16::try_from(z >> 48).unwrap_or(u16::MAX))
    }

    /// The last place: whoever opens it opens all.
    pub const LAST: Self = Self(u16::MAX);

    /// True if it lies within the first `hundredths` hundredths of a percent of all places.
    pub fn is_within(self, hundredths: u16) -> bool {
        u64::from(self.0) * 10_000 < u64::from(hundredths) << 16
    }
}

/// In percent of all places, with two digits.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hundredths = (u32::from(self.0) * 10_000) >> 16;
        write!(f, "{}.{:02} %", hundredths / 100, hundredths % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(digit: char) -> CommitId {
        digit.to_string().repeat(40).parse().unwrap()
    }

    fn place(commit: &CommitId, number: u32) -> Place {
        Place::of(commit, &format!("dev-{number}").parse().unwrap())
    }

    #[test]
    fn places_are_spread_evenly_and_another_for_each_commit() {
        let (one, two) = (commit('1'), commit('2'));
        let first = |commit: &CommitId| (0..10_000).filter(|n| place(commit, *n).is_within(100)).count();
        assert!((70..130).contains(&first(&one)), "{} of 10,000 are in the first percent", first(&one));
        assert!((70..130).contains(&first(&two)));
        let both = (0..10_000).filter(|n| place(&one, *n).is_within(1000) && place(&two, *n).is_within(1000));
        assert!((60..140).contains(&both.count()));
    }

    /// Devices and servers of all versions must agree.
    #[test]
    fn a_place_never_changes() {
        let of = |number| place(&commit('a'), number).to_string();
        assert_eq!([of(1), of(2), of(3)], ["46.81 %", "59.75 %", "8.98 %"]);
    }

    #[test]
    fn all_are_within_the_whole_and_none_within_nothing() {
        assert!(Place::LAST.is_within(10_000));
        assert!(!Place(0).is_within(0));
        assert!(Place(0).is_within(1));
    }
}
