//! What the signed `volary.yml` says about changes of this device, in the words of the machine.

use std::time::Duration;

use jiff::civil::Time;
use volary_device::{Days, DriftPolicy, Freeze, Moment, Policy, Window, Zone};
use volary_fleet as fleet;
use volary_fleet::FleetConfig;
use volary_model::StageName;

/// The policy of a device of this stage, at this site.
pub fn of(config: &FleetConfig, stage: &StageName, site: Option<String>) -> Policy {
    let windows = config.windows_of(stage);
    let rollout = config.rollout_of(stage);
    let waves = rollout.and_then(|rollout| rollout.waves.as_ref());
    Policy {
        confirm_within: config.confirm_of(stage),
        run_within: config.run_within_of(stage),
        windows: windows.iter().flat_map(|windows| &windows.install).map(window).collect(),
        zone: windows.map_or(Zone::Device, |windows| zone(&windows.zone)),
        freezes: config.freezes_of(stage).map(freeze).collect(),
        stop: config.stop_of(stage).map(str::to_owned),
        trees: config.checkpoint.clone(),
        carry: config.carry.clone(),
        splay: config.splay_of(stage),
        drift: config.drift_of(stage).map(|drift| DriftPolicy {
            every: drift.every,
            repair: match drift.action {
                fleet::DriftAction::Report => false,
                fleet::DriftAction::Repair => true,
            },
        }),
        per_site_at_most: rollout.and_then(|rollout| rollout.per_site_at_most),
        site,
        waves: waves.map(shares).unwrap_or_default(),
        pause: waves.map_or(Duration::ZERO, |waves| waves.pause),
    }
}

fn shares(waves: &fleet::Waves) -> Vec<u16> {
    waves.shares.iter().map(|share| share.hundredths()).collect()
}

fn window(window: &fleet::Window) -> Window {
    Window { days: Days::of(window.days.iter()), start: time(window.from), end: time(window.until) }
}

/// Minutes since midnight; 24:00 is midnight, and what ends then ends on the next day.
fn time(minutes: u16) -> Time {
    let part = |value: u16| i8::try_from(value).unwrap_or(0);
    Time::new(part(minutes / 60 % 24), part(minutes % 60), 0, 0).unwrap_or(Time::midnight())
}

fn zone(zone: &fleet::Zone) -> Zone {
    match zone {
        fleet::Zone::Device => Zone::Device,
        fleet::Zone::Utc => Zone::Named("UTC".to_owned()),
        fleet::Zone::Named(name) => Zone::Named(name.clone()),
    }
}

fn freeze(freeze: &fleet::Freeze) -> Freeze {
    let moment = |moment| match moment {
        fleet::Moment::Exact(at) => Moment::Exact(at),
        fleet::Moment::Local(wall) => Moment::Local(wall),
    };
    Freeze { from: moment(freeze.from), until: moment(freeze.until), reason: freeze.reason.clone() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_section_arrives() {
        let text = "version: 1\nstages:\n  one: { branch: master }\n  two: { branch: two, from: one }\n\
                    confirm: { two: 7s }\nrun_within: { two: 2h }\ncheckpoint: [/srv]\nwindows:\n  two: { \
                    install: [\"Mon..Fri 02:00-05:00\", \"Sun 00:00-24:00\"], time_zone: UTC }\nfreeze:\n  - { \
                    stage: two, from: 2026-12-24, until: 2026-12-26, reason: rest }\nstop: { one: fire }\nsplay: \
                    { two: 1h }\nrollout: { two: { per_site_at_most: 2 } }\ndrift: { two: { every: 6h, do: repair \
                    } }\n";
        let config = FleetConfig::parse(text).unwrap();
        let one = of(&config, &"one".parse().unwrap(), None);
        assert_eq!(
            one,
            Policy { stop: Some("fire".into()), trees: vec!["/srv".into()], ..Policy::default() }
        );
        let two = of(&config, &"two".parse().unwrap(), Some("attic".into()));
        assert_eq!((two.confirm_within, two.run_within), (Duration::from_secs(7), Duration::from_secs(7200)));
        let windows: Vec<_> = two.windows.iter().map(ToString::to_string).collect();
        assert_eq!(windows, ["Mon,Tue,Wed,Thu,Fri 02:00-05:00", "Sun 00:00-00:00"]);
        assert_eq!(two.zone, Zone::Named("UTC".into()));
        let local = |text: &str| Moment::Local(text.parse().unwrap());
        let rest = Freeze {
            from: local("2026-12-24T00:00"),
            until: local("2026-12-27T00:00"),
            reason: "rest".into(),
        };
        assert_eq!((two.freezes, two.stop), (vec![rest], None));
        assert_eq!(two.drift, Some(DriftPolicy { every: Duration::from_secs(6 * 3600), repair: true }));
        assert_eq!((two.splay, two.per_site_at_most), (Duration::from_secs(3600), Some(2)));
        assert_eq!(two.site.as_deref(), Some("attic"));
    }
}
