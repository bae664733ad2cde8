//! How long to wait: back-off that grows and jitter that spreads a fleet over time.

use std::time::Duration;

use jiff::Timestamp;

/// The wait after the first failure. Short, since most failures on a device are a network or an
/// apt lock that is free again a minute later.
const FIRST: u64 = 60;

/// The longest wait. An hour keeps a device that can't converge visible without burning its
/// battery or its data plan.
const LONGEST: u64 = 3600;

/// A wait of `base` plus or minus a tenth, chosen by `seed`, so that devices which started
/// together do not ask together.
pub fn jittered(base: Duration, seed: u64) -> Duration {
    let base = u64::try_from(base.as_millis()).unwrap_or(u64::MAX / 4);
    let spread = base / 5;
    let offset = if spread == 0 { 0 } else { mix(seed) % (spread + 1) };
    Duration::from_millis(base - spread / 2 + offset)
}

/// How long to wait before the try after `attempts` failures in a row.
pub fn retry_after(attempts: u32, seed: u64) -> Duration {
    let doublings = attempts.saturating_sub(1).min(10);
    let base = (FIRST << doublings).min(LONGEST);
    jittered(Duration::from_secs(base), seed.wrapping_add(u64::from(attempts)))
}

/// The number of the next report: the clock in milliseconds, or one more than the last. So numbers
/// rise even if the clock goes back.
pub fn next_report(last: u64, now: Timestamp) -> u64 {
    u64::try_from(now.as_millisecond()).unwrap_or(0).max(last.saturating_add(1))
}

/// A part of `whole`, chosen by `luck`.
pub fn part(whole: Duration, luck: u64) -> Duration {
    let whole = u64::try_from(whole.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(if whole == 0 { 0 } else { mix(luck) % whole })
}

/// The finaliser of `SplitMix64`: neighbouring seeds give unrelated numbers.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_stays_within_a_tenth_and_spreads() {
        let base = Duration::from_secs(60);
        let waits: Vec<_> = (0..1000).map(|seed| jittered(base, seed)).collect();
        assert!(waits.iter().all(|wait| (54_000..=66_000).contains(&wait.as_millis())));
        let early = waits.iter().filter(|wait| **wait < base).count();
        assert!((400..600).contains(&early), "{early} of 1000 are early");
        assert_eq!(jittered(Duration::ZERO, 7), Duration::ZERO);
    }

    #[test]
    fn report_numbers_rise_also_if_the_clock_does_not() {
        let at = |ms| Timestamp::from_millisecond(ms).unwrap();
        assert_eq!(next_report(0, at(5000)), 5000);
        assert_eq!(next_report(9000, at(5000)), 9001);
        assert_eq!(next_report(0, at(-5)), 1);
    }

    #[test]
    fn back_off_grows_to_an_hour_and_no_further() {
        let seconds = |attempts| retry_after(attempts, 1).as_secs();
        assert!((54..=66).contains(&seconds(1)));
        assert!((108..=132).contains(&seconds(2)));
        assert!((3240..=3960).contains(&seconds(20)));
        assert!((3240..=3960).contains(&seconds(u32::MAX)));
    }
}
