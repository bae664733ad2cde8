//! Windows, freezes and clocks, on the days on which they are hard.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use proptest::prelude::*;
use volary_device::{
    Circumstances, Days, Freeze, Hold, Moment, Obstacle, Policy, Window, Zone, Zones, permit,
};

fn ts(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn window(days: Days, start: &str, end: &str) -> Window {
    let time = |text: &str| text.parse::<Time>().unwrap();
    Window { days, start: time(start), end: time(end) }
}

fn freeze(from: &str, until: &str) -> Freeze {
    let moment = |text: &str| match text.parse() {
        Ok(exact) => Moment::Exact(exact),
        Err(_) => Moment::Local(text.parse().unwrap()),
    };
    Freeze { from: moment(from), until: moment(until), reason: "holidays".into() }
}

fn zones() -> Zones {
    let named = ["Europe/Berlin", "America/Sao_Paulo"];
    let named = named.map(|name| (name.to_owned(), TimeZone::get(name).unwrap()));
    Zones { device: TimeZone::UTC, named: BTreeMap::from(named) }
}

fn given(zones: &Zones) -> Circumstances<'_> {
    Circumstances {
        zones,
        committed_at: None,
        hold: None,
        seen_at: Timestamp::UNIX_EPOCH,
        luck: 0,
        urged: false,
        had_its_turn: false,
    }
}

/// Whether it may change at that time, and when to look again.
fn look(policy: &Policy, now: &str) -> String {
    let permit = permit(policy, &given(&zones()), ts(now));
    let again = permit.look_again.map_or_else(String::new, |at| format!(" until {at}"));
    if permit.obstacles.is_empty() { "open".to_owned() + &again } else { "waits".to_owned() + &again }
}

#[track_caller]
fn check(policy: &Policy, now: &str, expected: &str) {
    assert_eq!(look(policy, now), expected, "at {now}");
}

fn berlin(windows: Vec<Window>) -> Policy {
    Policy { windows, zone: Zone::Named("Europe/Berlin".into()), ..Policy::default() }
}

fn working_days() -> Days {
    use Weekday::{Friday, Monday, Thursday, Tuesday, Wednesday};
    Days::of([Monday, Tuesday, Wednesday, Thursday, Friday])
}

#[test]
fn a_window_opens_on_its_days() {
    let policy = berlin(vec![window(working_days(), "02:00", "05:00")]);
    // 2026-11-27 is a Friday; Berlin is an hour ahead.
    check(&policy, "2026-11-27T00:59:59Z", "waits until 2026-11-27T01:00:00Z");
    check(&policy, "2026-11-27T01:00:00Z", "open");
    check(&policy, "2026-11-27T03:59:59Z", "open");
    check(&policy, "2026-11-27T04:00:00Z", "waits until 2026-11-30T01:00:00Z");
    check(&policy, "2026-11-28T02:00:00Z", "waits until 2026-11-30T01:00:00Z");
}

#[test]
fn a_window_over_midnight_belongs_to_the_day_on_which_it_starts() {
    let policy = berlin(vec![window(Days::of([Weekday::Saturday]), "22:00", "04:00")]);
    check(&policy, "2026-11-28T20:59:00Z", "waits until 2026-11-28T21:00:00Z");
    check(&policy, "2026-11-28T23:30:00Z", "open");
    check(&policy, "2026-11-29T02:59:00Z", "open");
    check(&policy, "2026-11-29T03:00:00Z", "waits until 2026-12-05T21:00:00Z");
    let all_day = berlin(vec![window(Days::of([Weekday::Sunday]), "00:00", "00:00")]);
    check(&all_day, "2026-11-29T22:59:00Z", "open");
    check(&all_day, "2026-11-29T23:00:00Z", "waits until 2026-12-05T23:00:00Z");
}

#[test]
fn the_clocks_go_forward_and_back() {
    // Berlin skips 02:00 to 03:00 on 2027-03-28 and has it twice on 2026-10-25.
    let policy = berlin(vec![window(Days::ALL, "02:30", "04:00")]);
    check(&policy, "2027-03-28T00:59:00Z", "waits until 2027-03-28T01:00:00Z");
    check(&policy, "2027-03-28T01:00:00Z", "open");
    check(&policy, "2027-03-28T02:00:00Z", "waits until 2027-03-29T00:30:00Z");
    let skipped = berlin(vec![window(Days::ALL, "02:00", "03:00")]);
    check(&skipped, "2027-03-28T00:30:00Z", "waits until 2027-03-29T00:00:00Z");
    let twice = berlin(vec![window(Days::ALL, "02:15", "02:45")]);
    check(&twice, "2026-10-25T00:20:00Z", "open");
    check(&twice, "2026-10-25T00:45:00Z", "waits until 2026-10-25T01:15:00Z");
    check(&twice, "2026-10-25T01:20:00Z", "open");
    check(&twice, "2026-10-25T01:45:00Z", "waits until 2026-10-26T01:15:00Z");
}

#[test]
fn the_zone_is_the_devices_or_a_named_one() {
    let windows = vec![window(Days::ALL, "02:00", "05:00")];
    let device = Policy { windows: windows.clone(), ..Policy::default() };
    check(&device, "2026-11-27T02:00:00Z", "open");
    let there = Policy {
        windows: windows.clone(),
        zone: Zone::Named("America/Sao_Paulo".into()),
        ..Policy::default()
    };
    check(&there, "2026-11-27T02:00:00Z", "waits until 2026-11-27T05:00:00Z");
    let nowhere = Policy { windows, zone: Zone::Named("Nowhere".into()), ..Policy::default() };
    let found = permit(&nowhere, &given(&zones()), ts("2026-11-27T02:00:00Z")).obstacles;
    assert_eq!(found, [Obstacle::ZoneUnknown("Nowhere".into())]);
}

#[test]
fn a_freeze_is_meant_by_the_clock_of_its_zone() {
    let freezes = vec![
        freeze("2026-12-24T00:00", "2026-12-27T00:00"),
        freeze("2026-12-26T12:00:00Z", "2026-12-28T00:00"),
    ];
    let policy = Policy { freezes, ..berlin(vec![]) };
    check(&policy, "2026-12-23T22:59:59Z", "open");
    check(&policy, "2026-12-23T23:00:00Z", "waits until 2026-12-26T23:00:00Z");
    check(&policy, "2026-12-26T22:00:00Z", "waits until 2026-12-27T23:00:00Z");
    check(&policy, "2026-12-27T23:00:00Z", "open");
    let unknown = Policy { zone: Zone::Named("Nowhere".into()), ..policy };
    let found = permit(&unknown, &given(&zones()), ts("2026-12-25T02:00:00Z")).obstacles;
    assert_eq!(found, [Obstacle::ZoneUnknown("Nowhere".into())]);
}

#[test]
fn a_clock_that_was_never_set_opens_and_closes_nothing() {
    let zones = zones();
    let committed_at = Some(ts("2026-11-27T10:00:00Z"));
    let given = Circumstances { committed_at, ..given(&zones) };
    let night = Policy { windows: vec![window(Days::ALL, "00:00", "05:00")], ..Policy::default() };
    let at_boot = ts("1970-01-01T00:10:00Z");
    let found = permit(&night, &given, at_boot);
    assert_eq!(
        (found.obstacles, found.look_again),
        (vec![Obstacle::ClockUnset], Some(ts("1970-01-01T00:11:00Z")))
    );
    let frozen =
        Policy { freezes: vec![freeze("2026-12-20T00:00:00Z", "2027-01-02T00:00:00Z")], ..Policy::default() };
    assert_eq!(permit(&frozen, &given, at_boot).obstacles, [Obstacle::ClockUnset]);
    assert!(
        permit(&Policy::default(), &given, at_boot).obstacles.is_empty(),
        "without windows it does not matter"
    );
    // A developer whose clock is some hours ahead is not a reason to wait.
    assert!(permit(&night, &given, ts("2026-11-27T03:00:00Z")).obstacles.is_empty());
}

#[test]
fn the_weightiest_comes_first_and_the_soonest_is_looked_at() {
    let zones = zones();
    let hold = Hold {
        since: ts("2026-12-24T00:00:00Z"),
        until: Some(ts("2026-12-26T00:00:00Z")),
        reason: "x".into(),
    };
    let policy = Policy {
        stop: Some("fire".into()),
        windows: vec![window(Days::ALL, "02:00", "05:00")],
        freezes: vec![freeze("2026-12-20T00:00:00Z", "2027-01-02T00:00:00Z")],
        ..Policy::default()
    };
    let given = Circumstances { hold: Some(&hold), ..given(&zones) };
    let found = permit(&policy, &given, ts("2026-12-25T12:00:00Z"));
    let told: Vec<_> = found.obstacles.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "the fleet repository says stop: fire",
            "held on the device until 2026-12-26 00:00:00 UTC: x",
            "frozen until 2027-01-02 00:00:00 UTC: holidays",
            "the next window opens 2026-12-26 02:00:00 UTC",
        ]
    );
    assert_eq!(found.look_again, hold.until);
    let urged = Circumstances { urged: true, ..given };
    assert_eq!(
        permit(&policy, &urged, ts("2026-12-25T12:00:00Z")).obstacles.len(),
        3,
        "a freeze still counts"
    );
}

#[test]
fn a_splay_begins_with_the_window_and_leaves_its_second_half_alone() {
    let zones = zones();
    let policy =
        Policy { splay: Duration::from_secs(86_400), ..berlin(vec![window(Days::ALL, "02:00", "05:00")]) };
    let opens = ts("2026-11-27T01:00:00Z");
    for luck in 0..100 {
        let given = Circumstances { luck, ..given(&zones) };
        let found = permit(&policy, &given, opens);
        if let [Obstacle::Splay { until }] = found.obstacles[..] {
            assert!(until < ts("2026-11-27T02:30:00Z"), "{until}");
            assert!(permit(&policy, &given, until).obstacles.is_empty());
        } else {
            assert_eq!(found.obstacles, []);
        }
        let again = Circumstances { had_its_turn: true, ..given };
        assert!(permit(&policy, &again, opens).obstacles.is_empty());
    }
}

proptest! {
    /// Whatever the windows are: what is looked at again is in the future, and a window that is told
    /// to open is open then, and was not a second before.
    #[test]
    fn what_is_promised_holds(
        days in prop::collection::btree_set(0_i8..7, 1..7),
        start in 0_i8..24, length in 1_i8..30, quarter in 0_i8..4,
        second in 1_774_000_000_i64..1_806_000_000,
        zone in 0_usize..3,
    ) {
        let days = Days::of(days.into_iter().map(|day| Weekday::from_monday_zero_offset(day).unwrap()));
        let end = (start + length) % 24;
        let window = Window {
            days,
            start: jiff::civil::time(start, quarter * 15, 0, 0),
            end: jiff::civil::time(end, 0, 0, 0),
        };
        let zone = [Zone::Device, Zone::Named("Europe/Berlin".into()), Zone::Named("America/Sao_Paulo".into())][zone].clone();
        let policy = Policy { windows: vec![window], zone, ..Policy::default() };
        let zones = zones();
        let given = given(&zones);
        let now = Timestamp::from_second(second).unwrap();
        let found = permit(&policy, &given, now);
        prop_assert_eq!(found.obstacles.is_empty(), found.look_again.is_none());
        if let Some(opens) = found.look_again {
            prop_assert!(opens > now);
            prop_assert!(permit(&policy, &given, opens).obstacles.is_empty());
            let before = Timestamp::from_second(opens.as_second() - 1).unwrap();
            prop_assert!(!permit(&policy, &given, before).obstacles.is_empty());
        }
    }
}
