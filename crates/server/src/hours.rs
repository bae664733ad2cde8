//! Whether a stage lets its devices change now, and lets merges in. Our agent decides the first on the device; for a
//! Mender client, which knows nothing of it, it is decided here before a deployment begins.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use volary_fleet::{Freeze, MergeHours, Moment, Window, Windows, Zone};
use volary_plan::gate;

use crate::fleet_view::{When, freeze_text};

/// Why nothing may begin now; `None` if it may. `device` is the zone of the device's clock, `named` finds
/// others.
pub(crate) fn closed(
    when: &When,
    device: &TimeZone,
    named: &dyn Fn(&str) -> Option<TimeZone>,
    now: Timestamp,
) -> Option<String> {
    if let Some(why) = &when.stop {
        return Some(format!("the fleet repository says stop: {why}"));
    }
    let wall = now.to_zoned(device.clone()).datetime();
    if let Some(freeze) = when.all_freezes.iter().find(|freeze| is_frozen(freeze, wall, now)) {
        return Some(format!("frozen: {}", freeze.reason));
    }
    let windows = when.hours.as_ref()?;
    let zone = match &windows.zone {
        Zone::Device => device.clone(),
        Zone::Utc => TimeZone::UTC,
        Zone::Named(name) => match named(name) {
            Some(zone) => zone,
            None => return Some(format!("time zone {name} is not known on the server: install tzdata")),
        },
    };
    let wall = now.to_zoned(zone).datetime();
    let is_open = windows.install.iter().any(|window| contains(window, wall));
    (!is_open).then(|| format!("no window is open: {}", hours(windows)))
}

/// What the gate `time` is told: whether merges are let in now.
///
/// # Errors
/// The time zone is not known here.
pub(crate) fn of_merges(
    hours: &MergeHours,
    named: &dyn Fn(&str) -> Option<TimeZone>,
    now: Timestamp,
) -> Result<gate::Hours, String> {
    let zone = match &hours.zone {
        // Refused when it is read: a merge has no device.
        Zone::Device | Zone::Utc => TimeZone::UTC,
        Zone::Named(name) => named(name)
            .ok_or_else(|| format!("time zone {name} is not known on the server: install tzdata"))?,
    };
    let wall = now.to_zoned(zone).datetime();
    let open: Vec<String> = hours.open.iter().map(ToString::to_string).collect();
    Ok(gate::Hours {
        open: hours.open.iter().any(|window| contains(window, wall)),
        written: format!("{}, time zone: {}", open.join("; "), hours.zone),
    })
}

/// What the gate `freeze` is told. A freeze on the clock of devices is on while it is on anywhere.
pub(crate) fn of_freezes<'a>(freezes: impl IntoIterator<Item = &'a Freeze>, now: Timestamp) -> gate::Frozen {
    let wall = |hours: i8| now.to_zoned(TimeZone::fixed(jiff::tz::offset(hours))).datetime();
    let (first, last) = (wall(14), wall(-12));
    let has_begun = |moment: Moment| match moment {
        Moment::Exact(at) => at <= now,
        Moment::Local(at) => at <= first,
    };
    let is_over = |moment: Moment| match moment {
        Moment::Exact(at) => at <= now,
        Moment::Local(at) => at <= last,
    };
    let on = freezes.into_iter().find(|freeze| has_begun(freeze.from) && !is_over(freeze.until));
    on.map_or(gate::Frozen::No, |freeze| gate::Frozen::Yes(freeze_text(freeze)))
}

fn is_frozen(freeze: &Freeze, wall: DateTime, now: Timestamp) -> bool {
    let is_past = |moment: Moment| match moment {
        Moment::Exact(at) => at <= now,
        Moment::Local(at) => at <= wall,
    };
    is_past(freeze.from) && !is_past(freeze.until)
}

/// True if the wall clock stands in a window, that of the day before included if it goes over midnight.
fn contains(window: &Window, wall: DateTime) -> bool {
    let minute = u16::from(wall.hour().unsigned_abs()) * 60 + u16::from(wall.minute().unsigned_abs());
    let today = wall.date().weekday();
    match window.until > window.from {
        true => window.days.contains(today) && (window.from..window.until).contains(&minute),
        false => {
            (window.days.contains(today) && minute >= window.from)
                || (window.days.contains(today.previous()) && minute < window.until)
        }
    }
}

fn hours(windows: &Windows) -> String {
    let all: Vec<String> = windows.install.iter().map(ToString::to_string).collect();
    format!("{}, time zone: {}", all.join("; "), windows.zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(when: &When, now: &str, expected: Option<&str>) {
        let berlin = TimeZone::fixed(jiff::tz::offset(1));
        let named = |name: &str| (name == "Europe/Here").then(|| TimeZone::fixed(jiff::tz::offset(2)));
        let said = closed(when, &berlin, &named, now.parse().unwrap());
        assert_eq!(said.as_deref(), expected, "{now}");
    }

    #[test]
    fn merges_have_hours() {
        let hours = |zone| MergeHours { open: vec!["Mon..Thu 08:00-16:00".parse().unwrap()], zone };
        let named = |name: &str| (name == "Europe/Here").then(|| TimeZone::fixed(jiff::tz::offset(2)));
        let check = |zone: Zone, now: &str, open: bool| {
            let found = of_merges(&hours(zone), &named, now.parse().unwrap()).unwrap();
            assert_eq!(found.open, open, "{now}");
        };
        // A Thursday.
        check(Zone::Utc, "2026-11-26T15:59:59Z", true);
        check(Zone::Utc, "2026-11-26T16:00:00Z", false);
        check(Zone::Named("Europe/Here".into()), "2026-11-26T06:00:00Z", true);
        check(Zone::Named("Europe/Here".into()), "2026-11-26T14:00:00Z", false);
        let unknown = of_merges(&hours(Zone::Named("A/B".into())), &named, Timestamp::UNIX_EPOCH);
        assert_eq!(unknown.unwrap_err(), "time zone A/B is not known on the server: install tzdata");
    }

    #[test]
    fn a_freeze_is_on_while_it_is_on_anywhere() {
        let freeze = Freeze {
            stages: Vec::new(),
            from: Moment::Local("2026-12-24T00:00".parse().unwrap()),
            until: Moment::Local("2026-12-27T00:00".parse().unwrap()),
            reason: "rest".into(),
        };
        let is_on = |now: &str| of_freezes([&freeze], now.parse().unwrap()) != gate::Frozen::No;
        assert!(!is_on("2026-12-23T09:59:59Z") && is_on("2026-12-23T10:00:00Z"));
        assert!(is_on("2026-12-27T11:59:59Z") && !is_on("2026-12-27T12:00:00Z"));
        assert_eq!(
            of_freezes([&freeze], "2026-12-25T00:00:00Z".parse().unwrap()),
            gate::Frozen::Yes("2026-12-24 00:00 to 2026-12-27 00:00: rest".into())
        );
    }

    #[test]
    fn stops_freezes_and_windows_close() {
        let mut when = When::default();
        // A Thursday.
        check(&when, "2026-11-26T12:00:00Z", None);
        when.hours = Some(Windows {
            install: vec!["Mon..Fri 02:00-05:00".parse().unwrap(), "Sat 22:00-01:00".parse().unwrap()],
            zone: Zone::Device,
        });
        let shut = "no window is open: Mon,Tue,Wed,Thu,Fri 02:00-05:00; Sat 22:00-01:00, time zone: device";
        check(&when, "2026-11-26T00:59:00Z", Some(shut));
        check(&when, "2026-11-26T01:00:00Z", None);
        check(&when, "2026-11-26T03:59:59Z", None);
        check(&when, "2026-11-26T04:00:00Z", Some(shut));
        check(&when, "2026-11-28T01:30:00Z", Some(shut));
        check(&when, "2026-11-28T21:00:00Z", None);
        check(&when, "2026-11-28T23:59:00Z", None);
        check(&when, "2026-11-29T00:00:00Z", Some(shut));
        when.hours.as_mut().unwrap().zone = Zone::Named("Europe/Here".into());
        check(&when, "2026-11-26T00:00:00Z", None);
        when.hours.as_mut().unwrap().zone = Zone::Named("Europe/There".into());
        let unknown = "time zone Europe/There is not known on the server: install tzdata";
        check(&when, "2026-11-26T00:00:00Z", Some(unknown));
        when.hours = None;
        when.all_freezes = vec![Freeze {
            stages: Vec::new(),
            from: Moment::Local("2026-12-24T00:00".parse().unwrap()),
            until: Moment::Exact("2026-12-27T00:00:00Z".parse().unwrap()),
            reason: "rest".into(),
        }];
        check(&when, "2026-12-23T22:59:00Z", None);
        check(&when, "2026-12-23T23:00:00Z", Some("frozen: rest"));
        check(&when, "2026-12-26T23:59:59Z", Some("frozen: rest"));
        check(&when, "2026-12-27T00:00:00Z", None);
        when.stop = Some("fire".into());
        check(&when, "2026-12-27T00:00:00Z", Some("the fleet repository says stop: fire"));
    }
}
