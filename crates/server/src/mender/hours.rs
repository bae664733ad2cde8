//! Whether a stage lets its devices change now. Our agent decides that on the device; for a Mender client,
//! which knows nothing of it, it is decided here before a deployment begins.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use volary_fleet::{Freeze, Moment, Window, Windows, Zone};

use crate::fleet_view::When;

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
