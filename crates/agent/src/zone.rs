//! The time zones by whose clocks the fleet means its windows.

use jiff::fmt::temporal::Pieces;
use jiff::tz::TimeZone;
use volary_device::{Policy, Zone, Zones};

/// The device's own zone, and those that these policies name. One that the device does not know
/// (it needs tzdata) is left out, and the machine says so.
pub fn of<'a>(policies: impl IntoIterator<Item = &'a Policy>) -> Zones {
    let mut zones = Zones { device: TimeZone::system(), ..Zones::default() };
    for policy in policies {
        if let Zone::Named(name) = &policy.zone
            && let Some(zone) = named(name)
        {
            zones.named.insert(name.clone(), zone);
        }
    }
    zones
}

/// `UTC`, a place (`Europe/Berlin`) or a distance from UTC (`+02:00`).
fn named(name: &str) -> Option<TimeZone> {
    if name == "UTC" {
        return Some(TimeZone::UTC);
    }
    TimeZone::get(name).ok().or_else(|| {
        let moment = format!("2000-01-01T00:00{name}");
        Some(TimeZone::fixed(Pieces::parse(&moment).ok()?.to_numeric_offset()?))
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn zones_are_known_by_place_and_by_distance() {
        let noon: Timestamp = "2026-07-01T12:00:00Z".parse().unwrap();
        for (name, hour) in
            [("UTC", 12), ("+02:00", 14), ("-03:30", 8), ("Europe/Berlin", 14), ("Africa/Ouagadougou", 12)]
        {
            let policy = Policy { zone: Zone::Named(name.into()), ..Policy::default() };
            let zones = of([&policy]);
            assert_eq!(i32::from(zones.named[name].to_datetime(noon).hour()), hour, "{name}");
        }
        let policy = Policy { zone: Zone::Named("Nowhere/Atall".into()), ..Policy::default() };
        assert!(of([&policy]).named.is_empty());
    }
}
