//! Rules in words.

use std::time::Duration;

use volary_model::{Bound, WatchKind};

use super::condition::Unit;
use crate::text;

/// When a rule of this kind fires, in words.
pub fn describe(kind: &WatchKind) -> String {
    let within = |duration: &Duration| text::duration(*duration);
    match kind {
        WatchKind::Threshold { series, bound, part_of } => {
            let unit = if part_of.is_some() { Unit::Part } else { Unit::of(series.name()) };
            let bound = match bound {
                Bound::Above(bound) => format!("above {}", unit.show(*bound)),
                Bound::Below(bound) => format!("below {}", unit.show(*bound)),
            };
            match part_of {
                Some(whole) => format!("{series} is {bound} of {whole}"),
                None => format!("{series} is {bound}"),
            }
        }
        WatchKind::Absence { series: Some(series), longer_than } => {
            format!("{series} has no points for {}", within(longer_than))
        }
        WatchKind::Absence { series: None, longer_than } => {
            format!("nothing is heard of the device for {}", within(longer_than))
        }
        WatchKind::Rate { series, above, within: time } => {
            format!(
                "{series} rises by more than {} in {}",
                Unit::of(series.name()).show(*above),
                within(time)
            )
        }
        WatchKind::Forecast { series, full_within, window, part_of, free_below } => {
            let whole = part_of.as_ref();
            let little = whole.map(|whole| format!(", below {} of {whole}", Unit::Part.show(*free_below)));
            let little = little.unwrap_or_default();
            format!(
                "{series} may be used up in {} by the last {}{little}",
                within(full_within),
                within(window)
            )
        }
        WatchKind::Leak { series, window, at_least } => {
            format!("{series} leaks {} or more in {}", Unit::Part.show(*at_least), within(window))
        }
        WatchKind::Flapping { series, restarts, within: time } => {
            format!("{series} rises by {restarts} in {}", within(time))
        }
        WatchKind::RebootLoop { boots, within: time } => {
            format!("the device boots {} in {}", text::count(*boots as usize, "time"), within(time))
        }
        WatchKind::VersionSkew { longer_than } => {
            format!("the device is not what its stage wants for {}", within(longer_than))
        }
        WatchKind::ClockSkew { more_than } => format!("the clock is wrong by {}", within(more_than)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_told_in_words() {
        let pattern = |text: &str| text.parse().unwrap();
        let check = |kind: WatchKind, expected: &str| assert_eq!(describe(&kind), expected);
        check(
            WatchKind::Threshold {
                series: pattern("disk_free_bytes"),
                bound: Bound::Below(0.05),
                part_of: Some("disk_size_bytes".to_owned()),
            },
            "disk_free_bytes is below 5.0 % of disk_size_bytes",
        );
        let series = pattern("unit_memory_bytes{unit=\"app-*\"}");
        check(
            WatchKind::Leak { series, window: Duration::from_secs(7 * 86_400), at_least: 0.09 },
            "unit_memory_bytes{unit=\"app-*\"} leaks 9.0 % or more in 7 d",
        );
        check(
            WatchKind::RebootLoop { boots: 3, within: Duration::from_secs(1800) },
            "the device boots 3 times in 30 min",
        );
    }
}
