//! The gates of a promotion: conditions for merging a commit into a stage.
//!
//! A gate says *go*, *stop* or *ask*, with the figures that it rests on. Missing data is *ask*,
//! never *go*.

mod hours;
mod measured;
mod told;

use std::borrow::Cow;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{DeviceName, DeviceType, ImageName, ReleaseRef, Severity};

use crate::compare::Comparison;
use crate::condition::Tally;
use crate::text;
use crate::watch::Finding;

pub use hours::{Frozen, Hours};
pub use told::{Known, Teller, Told, Word, is_due, word_of_exit};

/// What a gate says. The order is that of severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Say {
    /// The condition holds.
    Go,
    /// Data is missing; a person must look.
    Ask,
    /// The condition does not hold.
    Stop,
}

/// The word of one gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The gate, as it is called in `volary.yml`, with its name if there may be several.
    pub gate: Cow<'static, str>,
    /// What it says.
    pub say: Say,
    /// Why, with the figures.
    pub reason: String,
}

/// The gates of one stage, as `volary.yml` has them. Default: none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Gates {
    /// The pinned release must take no more picks.
    pub frozen: bool,
    /// The commit must have been in the stage before, unchanged, for this long.
    pub soak: Option<Duration>,
    /// The devices of the stage before must be well.
    pub healthy: Option<Healthy>,
    /// No watch rule of this severity or worse may fire on the devices of the stage before.
    pub watch: Option<Severity>,
    /// The devices of the stage before must do no worse than others.
    pub no_worse_than: bool,
    /// Merges are let in at some hours only.
    pub time: bool,
    /// No merge while a freeze of the stage is on.
    pub freeze: bool,
    /// Gates whose word comes from elsewhere.
    pub told: Vec<Told>,
}

/// How well the devices of the stage before must be. Shares are percentages, 0 to 100.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Healthy {
    /// The least share of good devices among those that are heard of.
    pub at_least: f64,
    /// The largest share of silent devices.
    pub silent_at_most: f64,
    /// The least number of devices that must have been heard of.
    pub devices_at_least: u32,
}

/// What is known about the commit to be merged.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// The release revision that the commit pins.
    pub release: Option<ReleaseRef>,
    /// When that release was frozen; `None` if it still takes picks or is not known.
    pub frozen_at: Option<Timestamp>,
    /// Since when the stage before has the commit as its tip.
    pub unchanged_since: Option<Timestamp>,
    /// The devices of the stage before.
    pub devices: Tally,
    /// The images that the commit pins.
    pub images: Vec<PinnedImage>,
    /// How the commit reaches the stage before; `None` if that has no waves.
    pub rollout: Option<RolloutSays>,
    /// What watch rules find on the devices of the stage before, or why that cannot be told; `None` if they
    /// were not asked.
    pub findings: Option<Result<Vec<Finding>, String>>,
    /// How these devices do beside others, or why that cannot be told; `None` if they were not compared.
    pub comparison: Option<Result<Comparison, String>>,
    /// Whether merges are let in now, or why that cannot be told; `None` if it is not known.
    pub hours: Option<Result<Hours, String>>,
    /// The freezes of the stage that is merged into; `None` if they are not known.
    pub freeze: Option<Frozen>,
    /// What is known of the gates whose word comes from elsewhere, in their order.
    pub told: Vec<Known>,
}

/// How far a rollout is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RolloutSays {
    /// It is not known: it has not begun.
    Unknown,
    /// It goes on; its sentence.
    Running(String),
    /// It was stopped; its sentence.
    Stopped(String),
    /// All devices that are heard of have the commit; its sentence.
    Finished(String),
}

/// An image that a commit pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedImage {
    /// Its name.
    pub name: ImageName,
    /// For which devices.
    pub device_type: DeviceType,
    /// True if the server has it.
    pub known: bool,
}

/// Asks every gate. An empty answer means that no gate is set. The gate `images` is always there if
/// images are pinned: devices could not even fetch one that the server does not have. So is `rollout`
/// if the stage before has waves: what stopped there goes no further.
pub fn verdicts(gates: &Gates, evidence: &Evidence, now: Timestamp) -> Vec<Verdict> {
    let mut verdicts = Vec::new();
    if gates.frozen {
        verdicts.push(frozen(evidence));
    }
    if let Some(soak) = gates.soak {
        verdicts.push(soaked(soak, evidence, now));
    }
    if let Some(policy) = &gates.healthy {
        verdicts.push(healthy(policy, &evidence.devices));
    }
    if let Some(severity) = gates.watch {
        verdicts.push(measured::watch(severity, evidence.findings.as_ref()));
    }
    if gates.no_worse_than {
        verdicts.push(measured::no_worse_than(evidence.comparison.as_ref()));
    }
    if gates.time {
        verdicts.push(hours::time(evidence.hours.as_ref()));
    }
    if gates.freeze {
        verdicts.push(hours::freeze(evidence.freeze.as_ref()));
    }
    let nothing = std::iter::repeat(&Known::Nothing);
    for (told, known) in gates.told.iter().zip(evidence.told.iter().chain(nothing)) {
        verdicts.push(told::verdict(told, known, now));
    }
    if let Some(rollout) = &evidence.rollout {
        verdicts.push(rolled_out(rollout));
    }
    if !evidence.images.is_empty() {
        verdicts.push(images(&evidence.images));
    }
    verdicts
}

fn frozen(evidence: &Evidence) -> Verdict {
    let (say, reason) = match (&evidence.release, evidence.frozen_at) {
        (None, _) => (Say::Ask, "the commit pins no release, so there is nothing to freeze".to_owned()),
        (Some(release), Some(at)) => (Say::Go, format!("{} is frozen since {at:.0}", release.name)),
        (Some(release), None) => {
            (Say::Stop, format!("{} still takes picks; end it with: volary release freeze {0}", release.name))
        }
    };
    Verdict { gate: "frozen".into(), say, reason }
}

fn soaked(soak: Duration, evidence: &Evidence, now: Timestamp) -> Verdict {
    let asked = text::duration(soak);
    let (say, reason) = match evidence.unchanged_since {
        None => (Say::Ask, "it is not known since when the stage before has this commit".to_owned()),
        Some(since) => {
            let held = Duration::try_from(now.duration_since(since)).unwrap_or_default();
            let so_far = text::duration(held);
            if held >= soak {
                (Say::Go, format!("unchanged for {so_far}, {asked} are asked"))
            } else {
                let rest = text::duration(soak - held);
                (Say::Stop, format!("unchanged for {so_far} of {asked}; wait {rest} more"))
            }
        }
    };
    Verdict { gate: "soak".into(), say, reason }
}

fn rolled_out(rollout: &RolloutSays) -> Verdict {
    let (say, reason) = match rollout {
        RolloutSays::Unknown => (Say::Ask, "its rollout in the stage before has not begun".to_owned()),
        RolloutSays::Running(says) => (Say::Stop, format!("its rollout in the stage before goes on: {says}")),
        RolloutSays::Stopped(says) => (Say::Stop, format!("its rollout in the stage before: {says}")),
        RolloutSays::Finished(says) => (Say::Go, says.clone()),
    };
    Verdict { gate: "rollout".into(), say, reason }
}

fn images(pinned: &[PinnedImage]) -> Verdict {
    let missing: Vec<String> = pinned
        .iter()
        .filter(|image| !image.known)
        .map(|image| format!("{} for {}", image.name, image.device_type))
        .collect();
    let (say, reason) = if missing.is_empty() {
        (Say::Go, format!("the server has {}", text::count(pinned.len(), "pinned image")))
    } else {
        let remedy = "publish it with: volary image publish FILE";
        (Say::Stop, format!("the server does not have {}; {remedy}", text::some(&missing, 3)))
    };
    Verdict { gate: "images".into(), say, reason }
}

fn healthy(policy: &Healthy, devices: &Tally) -> Verdict {
    let (say, reason) = judge_health(policy, devices);
    Verdict { gate: "healthy".into(), say, reason }
}

fn judge_health(policy: &Healthy, devices: &Tally) -> (Say, String) {
    let all = devices.all();
    let heard = all - devices.silent.len();
    // A device on its way may still turn out either way: it can make a go impossible to say,
    // but it cannot make a stop.
    let at_worst = share(devices.good.len(), heard);
    let at_best = share(devices.good.len() + devices.converging.len(), heard);
    let figures = format!("{} of {} good", devices.good.len(), text::count(heard, "device"));
    if heard > 0 && at_best < policy.at_least {
        let asked = percent(policy.at_least);
        let bad: Vec<String> =
            devices.bad.iter().map(|(name, reason)| format!("{name} ({reason})")).collect();
        return (Say::Stop, format!("{figures}, {asked} are asked; failing: {}", text::some(&bad, 3)));
    }
    if heard < policy.devices_at_least as usize {
        let asked = text::count(policy.devices_at_least as usize, "device");
        return (Say::Ask, format!("only {heard} of the asked {asked} were heard of"));
    }
    if share(devices.silent.len(), all) > policy.silent_at_most {
        let most = percent(policy.silent_at_most);
        return (Say::Ask, format!("silent: {}; at most {most} may be", names(&devices.silent)));
    }
    if at_worst < policy.at_least {
        return (Say::Ask, format!("{figures}; still on their way: {}", names(&devices.converging)));
    }
    (Say::Go, figures)
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

fn percent(share: f64) -> String {
    format!("{share} %")
}

fn names(devices: &[DeviceName]) -> String {
    let names: Vec<String> = devices.iter().map(DeviceName::to_string).collect();
    text::some(&names, 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(count: usize) -> Vec<DeviceName> {
        (0..count).map(|number| format!("d{number}").parse().unwrap()).collect()
    }

    fn tally(good: usize, bad: usize, converging: usize, silent: usize) -> Tally {
        Tally {
            good: devices(good),
            bad: devices(bad).into_iter().map(|name| (name, "no path".to_owned())).collect(),
            converging: devices(converging),
            silent: devices(silent),
        }
    }

    fn check_health(devices: &Tally, expected: Say, why: &str) {
        let policy = Healthy { at_least: 98.0, silent_at_most: 10.0, devices_at_least: 2 };
        let (say, reason) = judge_health(&policy, devices);
        assert_eq!((say, reason.as_str()), (expected, why));
    }

    #[test]
    fn health_needs_enough_good_devices_and_enough_data() {
        check_health(&tally(3, 0, 0, 0), Say::Go, "3 of 3 devices good");
        check_health(
            &tally(2, 1, 0, 0),
            Say::Stop,
            "2 of 3 devices good, 98 % are asked; failing: d0 (no path)",
        );
        check_health(&tally(2, 0, 1, 0), Say::Ask, "2 of 3 devices good; still on their way: d0");
        check_health(&tally(4, 0, 0, 1), Say::Ask, "silent: d0; at most 10 % may be");
        check_health(&tally(0, 0, 0, 0), Say::Ask, "only 0 of the asked 2 devices were heard of");
        check_health(&tally(0, 0, 0, 5), Say::Ask, "only 0 of the asked 2 devices were heard of");
        check_health(
            &tally(0, 1, 0, 0),
            Say::Stop,
            "0 of 1 device good, 98 % are asked; failing: d0 (no path)",
        );
    }

    #[test]
    fn more_good_news_never_makes_a_verdict_worse() {
        let policy = Healthy { at_least: 75.0, silent_at_most: 20.0, devices_at_least: 3 };
        for bad in 0..4 {
            for converging in 0..4 {
                for silent in 0..4 {
                    let mut before = Say::Stop;
                    for good in 0..20 {
                        let (say, _) = judge_health(&policy, &tally(good, bad, converging, silent));
                        // With nobody heard of the word is ask; the first device that is
                        // heard of may be one of the bad ones.
                        if good + bad + converging > 0 && good > 0 {
                            assert!(say <= before, "{good} {bad} {converging} {silent}");
                        }
                        before = if good == 0 { Say::Stop } else { say };
                    }
                }
            }
        }
    }

    #[test]
    fn missing_data_is_never_go() {
        let gates = Gates {
            frozen: true,
            soak: Some(Duration::from_secs(60)),
            healthy: Some(Healthy { at_least: 0.0, silent_at_most: 100.0, devices_at_least: 1 }),
            watch: Some(Severity::Critical),
            no_worse_than: true,
            time: true,
            freeze: true,
            told: vec![Told {
                name: "lab".parse().unwrap(),
                from: Teller::External,
                for_long: Duration::from_secs(60),
            }],
        };
        for verdict in verdicts(&gates, &Evidence::default(), Timestamp::UNIX_EPOCH) {
            assert_eq!(verdict.say, Say::Ask, "{}", verdict.gate);
        }
    }

    #[test]
    fn what_is_not_rolled_out_goes_no_further() {
        let check = |rollout: RolloutSays, expected: Say| {
            let evidence = Evidence { rollout: Some(rollout), ..Evidence::default() };
            let verdicts = verdicts(&Gates::default(), &evidence, Timestamp::UNIX_EPOCH);
            assert_eq!(
                (verdicts[0].gate.as_ref(), verdicts[0].say),
                ("rollout", expected),
                "{}",
                verdicts[0].reason
            );
        };
        check(RolloutSays::Unknown, Say::Ask);
        check(RolloutSays::Running("wave 1 of 2".to_owned()), Say::Stop);
        check(RolloutSays::Stopped("stopped: 2 of 2 failed".to_owned()), Say::Stop);
        check(RolloutSays::Finished("finished: 5 of 5 devices good".to_owned()), Say::Go);
    }

    #[test]
    fn soak_and_freeze_say_what_is_missing() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let gates = Gates { frozen: true, soak: Some(Duration::from_secs(86_400)), ..Gates::default() };
        let mut evidence = Evidence {
            release: Some("v1.0/r2".parse().unwrap()),
            unchanged_since: Some("2026-11-22T09:00:00Z".parse().unwrap()),
            ..Evidence::default()
        };
        let said: Vec<String> = verdicts(&gates, &evidence, now).into_iter().map(|v| v.reason).collect();
        assert_eq!(
            said,
            [
                "v1.0 still takes picks; end it with: volary release freeze v1.0",
                "unchanged for 3 h of 1 d; wait 21 h more"
            ]
        );
        evidence.frozen_at = Some(now);
        evidence.unchanged_since = Some("2026-11-20T12:00:00Z".parse().unwrap());
        assert!(verdicts(&gates, &evidence, now).iter().all(|verdict| verdict.say == Say::Go));
    }

    #[test]
    fn an_image_that_the_server_does_not_have_stops() {
        let image = |name: &str, known| PinnedImage {
            name: name.parse().unwrap(),
            device_type: "pi".parse().unwrap(),
            known,
        };
        let mut evidence = Evidence { images: vec![image("a", true)], ..Evidence::default() };
        let ask = |evidence: &Evidence| {
            let verdicts = verdicts(&Gates::default(), evidence, Timestamp::UNIX_EPOCH);
            verdicts.into_iter().map(|verdict| (verdict.say, verdict.reason)).collect::<Vec<_>>()
        };
        assert_eq!(ask(&evidence), [(Say::Go, "the server has 1 pinned image".into())]);
        evidence.images.push(image("b", false));
        let why = "the server does not have b for pi; publish it with: volary image publish FILE";
        assert_eq!(ask(&evidence), [(Say::Stop, why.into())]);
    }

    #[test]
    fn no_gates_let_everything_through() {
        assert!(verdicts(&Gates::default(), &Evidence::default(), Timestamp::UNIX_EPOCH).is_empty());
    }
}
