//! Turns: how many devices of one site may change at once, and who may now.
//!
//! A device asks for a turn before it changes itself and gives it back with the report of how that
//! went. A turn ends by itself after some time, so that a device that falls silent does not hold up
//! its site for ever. Not here: where turns are kept, and how many a site has (`volary.yml` at the
//! commit that the device goes for says so).

use std::time::Duration;

use jiff::Timestamp;
use volary_model::DeviceName;

use crate::text;

/// What a convergence needs besides its playbook and the time of confirming: fetching packages over
/// a slow link, an undo with a reboot.
const MARGIN: Duration = Duration::from_secs(15 * 60);

/// The longest turn, whatever the fleet allows a run to take.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// How soon to ask again at least and at most: a person may be watching, and a site with many
/// devices must not ask for nothing all the time.
const AGAIN: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(300));

/// A turn that somebody has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The device.
    pub device: DeviceName,
    /// Since when.
    pub since: Timestamp,
    /// Until when, unless it is given back before.
    pub until: Timestamp,
}

/// The answer to a device that asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It may change itself.
    Granted {
        /// Until when the turn is its own.
        until: Timestamp,
    },
    /// It must wait.
    Wait {
        /// Who holds the turns, in a sentence.
        reason: String,
        /// When to ask again.
        again_after: Duration,
    },
}

/// How long a turn lasts: as long as an honest convergence may take, and no longer.
pub fn length(run_within: Duration, confirm_within: Duration) -> Duration {
    run_within.saturating_add(confirm_within).saturating_add(MARGIN).min(LONGEST)
}

/// Decides whether `device` may change itself while the devices in `held`, of the same site, do.
/// Whoever has a turn already gets it again, from now on: it was restarted, or the answer was lost.
pub fn decide(
    device: &DeviceName,
    at_most: u32,
    held: &[Held],
    length: Duration,
    now: Timestamp,
) -> Decision {
    let mut others: Vec<&Held> =
        held.iter().filter(|turn| turn.until > now && turn.device != *device).collect();
    if others.len() < at_most as usize {
        return Decision::Granted { until: now.checked_add(length).unwrap_or(Timestamp::MAX) };
    }
    others.sort_by_key(|turn| turn.until);
    let first = others.first().map_or(now, |turn| turn.until);
    let left = Duration::try_from(first.duration_since(now)).unwrap_or_default();
    Decision::Wait { reason: reason(&others, at_most), again_after: left.clamp(AGAIN.0, AGAIN.1) }
}

fn reason(others: &[&Held], at_most: u32) -> String {
    let most = format!("at most {} of a site may change at once", text::count(at_most as usize, "device"));
    let names: Vec<String> = others
        .iter()
        // Not for how long: the device tells each other answer as news.
        .map(|turn| format!("{} since {}", turn.device, turn.since.strftime("%H:%M UTC")))
        .collect();
    if names.is_empty() {
        return format!("{most}: volary.yml lets none");
    }
    format!("{most}; changing now: {}", text::some(&names, 3))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "2026-11-26T12:00:00Z";
    const LENGTH: Duration = Duration::from_secs(3600);

    fn now() -> Timestamp {
        NOW.parse().unwrap()
    }

    fn held(device: &str, since: i64, until: i64) -> Held {
        let at = |seconds: i64| Timestamp::from_second(now().as_second() + seconds).unwrap();
        Held { device: device.parse().unwrap(), since: at(since), until: at(until) }
    }

    fn check(at_most: u32, others: &[Held], expected: &str) {
        let said = match decide(&"a".parse().unwrap(), at_most, others, LENGTH, now()) {
            Decision::Granted { until } => format!("granted until {until}"),
            Decision::Wait { reason, again_after } => format!("{} s: {reason}", again_after.as_secs()),
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn as_many_as_may_change_at_once() {
        let granted = "granted until 2026-11-26T13:00:00Z";
        check(1, &[], granted);
        check(2, &[held("b", -60, 600)], granted);
        check(
            1,
            &[held("b", -60, 600)],
            "300 s: at most 1 device of a site may change at once; changing now: b since 11:59 UTC",
        );
        check(
            2,
            &[held("c", -60, 90), held("b", -120, 40)],
            "40 s: at most 2 devices of a site may change at once; changing now: b since 11:58 UTC, c \
             since 11:59 UTC",
        );
        check(0, &[], "20 s: at most 0 devices of a site may change at once: volary.yml lets none");
    }

    #[test]
    fn a_turn_that_ended_counts_no_more() {
        check(1, &[held("b", -7200, 0)], "granted until 2026-11-26T13:00:00Z");
        check(1, &[held("b", -7200, -1)], "granted until 2026-11-26T13:00:00Z");
    }

    #[test]
    fn whoever_has_a_turn_gets_it_again() {
        check(1, &[held("a", -600, 60)], "granted until 2026-11-26T13:00:00Z");
    }

    #[test]
    fn a_site_whose_budget_became_smaller_lets_nobody_in_until_enough_are_through() {
        let others = [held("b", -60, 600), held("c", -60, 600), held("d", -60, 5)];
        check(
            1,
            &others,
            "20 s: at most 1 device of a site may change at once; changing now: d since 11:59 UTC, b \
             since 11:59 UTC, c since 11:59 UTC",
        );
    }

    #[test]
    fn a_turn_is_bounded() {
        let hour = Duration::from_secs(3600);
        assert_eq!(length(hour, Duration::from_secs(300)), Duration::from_secs(3600 + 300 + 900));
        assert_eq!(length(Duration::MAX, hour), LONGEST);
    }
}
