//! How many devices a commit that hurts them touches before its rollout stops, on made-up fleets, beside the
//! ways of others that count how installations ended.
//!
//! The decisions are those of `volary_plan::rollout`. The others are written down from their descriptions,
//! with the same waves and pauses: *batches* goes on when nine of ten devices of a batch installed, and takes
//! silence for a failure after a day (Flight Control); *groups* stops when more of a group than the threshold
//! failed to install, and goes on when nine of ten installed (hawkBit). Both look at the end of the
//! installation and at nothing later.

use std::time::Duration;

use jiff::Timestamp;
use volary_model::{CommitId, DeviceName, Place};
use volary_plan::rollout::{Member, Policy, Standing, State, may_begin, step};

use crate::dice::Dice;

/// How often reports are looked at, in minutes.
const TICK: u64 = 5;

/// Nothing takes longer.
const LONGEST: u64 = 14 * 24 * 60;

/// How long a device that is gone is waited for: three polls and ten minutes.
const SILENT_AFTER: u64 = 15;

/// After which time batches take silence for a failure.
const BATCH_TIMEOUT: u64 = 24 * 60;

/// What a commit does to devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Nothing; one device in two hundred fails for reasons of its own.
    None,
    /// One device in twenty fails to install it.
    OneInTwenty,
    /// Every device fails to install it.
    Always,
    /// Every device installs it, and fails an hour later.
    AfterAnHour,
    /// Every device installs it, and is not heard of from then on.
    Silence,
    /// Nothing, and all clocks of devices are wrong by up to three hours.
    WrongClocks,
}

impl Harm {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::None, Self::OneInTwenty, Self::Always, Self::AfterAnHour, Self::Silence, Self::WrongClocks];

    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::None => "sound; 0.5 % fail for reasons of their own",
            Self::OneInTwenty => "5 % fail to install it",
            Self::Always => "all fail to install it",
            Self::AfterAnHour => "all fail an hour after they installed it",
            Self::Silence => "all fall silent after they installed it",
            Self::WrongClocks => "sound, and clocks are wrong by up to 3 h",
        }
    }

    /// True if the rollout should stop.
    pub const fn hurts(self) -> bool {
        !matches!(self, Self::None | Self::WrongClocks)
    }
}

/// How a rollout ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// How many devices began.
    pub touched: usize,
    /// True if it was stopped, false if it went to its end.
    pub stopped: bool,
    /// The wave that was open, from 1.
    pub wave: usize,
}

/// Whose way it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Ours.
    Volary,
    /// Batches that count installations, with a time limit.
    Batches,
    /// Groups that count installations, with a threshold of errors.
    Groups,
}

/// The waves that all have.
pub fn policy() -> Policy {
    Policy {
        waves: vec![100, 1000, 5000, 10_000],
        pause: Duration::from_secs(3600),
        stop_above: 2.0,
        silent_at_most: 5.0,
    }
}

/// What becomes of one device: minutes after it began.
#[derive(Debug, Clone)]
struct Fate {
    device: DeviceName,
    place: Place,
    /// How long until it begins once it may.
    begins_after: u64,
    /// How long it installs.
    installs: u64,
    /// It fails then.
    install_fails: bool,
    /// It fails so long after it installed.
    fails_later: Option<u64>,
    /// It is not heard of after it installed.
    silent: bool,
    begun: Option<u64>,
}

fn fates(devices: u32, harm: Harm, commit: &CommitId, dice: &mut Dice) -> Vec<Fate> {
    (0..devices)
        .map(|number| {
            let device: DeviceName = format!("d{number}").parse().expect("it is a name");
            let own_reasons = dice.chance(5);
            Fate {
                place: Place::of(commit, &device),
                device,
                begins_after: dice.between(0, 10),
                installs: dice.between(4, 20),
                install_fails: match harm {
                    Harm::OneInTwenty => dice.chance(50),
                    Harm::Always => true,
                    Harm::None | Harm::AfterAnHour | Harm::Silence | Harm::WrongClocks => own_reasons,
                },
                fails_later: (harm == Harm::AfterAnHour).then_some(60),
                silent: harm == Harm::Silence,
                begun: None,
            }
        })
        .collect()
}

impl Fate {
    /// How it stands at this minute.
    fn standing(&self, now: u64) -> Standing {
        let Some(begun) = self.begun else { return Standing::Untouched };
        let installed = begun + self.begins_after + self.installs;
        if self.silent {
            return if now < installed + SILENT_AFTER { Standing::Changing } else { Standing::Lost };
        }
        if now < installed {
            return Standing::Changing;
        }
        if self.install_fails || self.fails_later.is_some_and(|later| installed + later <= now) {
            return Standing::Bad("made up".to_owned());
        }
        Standing::Good
    }

    /// How its installation ended, for those who count that alone: `None` while it goes on.
    fn installed(&self, now: u64) -> Option<bool> {
        let begun = self.begun?;
        let end = begun + self.begins_after + self.installs;
        if self.silent {
            return (begun + BATCH_TIMEOUT <= now).then_some(false);
        }
        (end <= now).then_some(!self.install_fails)
    }
}

/// Rolls one commit out.
pub fn roll_out(way: Way, devices: u32, harm: Harm, seed: u64) -> Ended {
    let mut dice = Dice::new(seed ^ u64::from(devices));
    let digits = format!("{:016x}", dice.between(0, u64::MAX));
    let commit: CommitId = digits.repeat(3)[..40].parse().expect("it is hexadecimal");
    let mut fates = fates(devices, harm, &commit, &mut dice);
    match way {
        Way::Volary => ours(&mut fates, commit),
        Way::Batches | Way::Groups => theirs(way, &mut fates),
    }
}

fn ours(fates: &mut [Fate], commit: CommitId) -> Ended {
    let policy = policy();
    let at = |minute: u64| {
        Timestamp::from_second(1_800_000_000 + i64::try_from(minute * 60).unwrap_or(0))
            .expect("it is in range")
    };
    let mut state = State::begin(commit, at(0));
    let mut minute = 0;
    while minute < LONGEST {
        let members: Vec<Member> = fates
            .iter()
            .map(|fate| Member {
                device: fate.device.clone(),
                place: fate.place,
                standing: fate.standing(minute),
            })
            .collect();
        state = step(&policy, state, &members, at(minute)).0;
        if state.halt.is_some() || state.finished_at.is_some() {
            break;
        }
        for fate in fates.iter_mut().filter(|fate| fate.begun.is_none()) {
            if may_begin(&policy, &state, fate.place).is_ok() {
                fate.begun = Some(minute);
            }
        }
        minute += TICK;
    }
    Ended { touched: touched(fates), stopped: state.halt.is_some(), wave: state.wave + 1 }
}

/// Each wave is a group of its own: what those before it do later is not looked at.
fn theirs(way: Way, fates: &mut [Fate]) -> Ended {
    let policy = policy();
    fates.sort_by_key(|fate| fate.place);
    let (mut minute, mut from) = (0, 0);
    let waves = policy.waves.len();
    for (wave, share) in (1..).zip(policy.waves) {
        let until = (fates.len() * usize::from(share)).div_ceil(10_000).max(1);
        if until == from {
            continue;
        }
        for fate in &mut fates[from..until] {
            fate.begun = Some(minute);
        }
        let group = from..until;
        loop {
            let ends: Vec<Option<bool>> =
                fates[group.clone()].iter().map(|fate| fate.installed(minute)).collect();
            let good = ends.iter().filter(|end| **end == Some(true)).count();
            let bad = ends.iter().filter(|end| **end == Some(false)).count();
            let part = |count: usize| count as f64 * 100.0 / ends.len() as f64;
            let ended = good + bad == ends.len();
            let stops = match way {
                Way::Groups => part(bad) > policy.stop_above,
                _ => ended && part(good) < 90.0,
            };
            if stops || minute > LONGEST {
                return Ended { touched: touched(fates), stopped: true, wave };
            }
            if ended && part(good) >= 90.0 {
                break;
            }
            minute += TICK;
        }
        minute += policy.pause.as_secs() / 60;
        from = until;
    }
    Ended { touched: touched(fates), stopped: false, wave: waves }
}

fn touched(fates: &[Fate]) -> usize {
    fates.iter().filter(|fate| fate.begun.is_some()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hurts_stops_in_the_first_wave_that_can_show_it_and_what_does_not_goes_through() {
        for seed in 0..10 {
            for harm in [Harm::Always, Harm::AfterAnHour, Harm::Silence] {
                let ended = roll_out(Way::Volary, 1000, harm, seed);
                assert_eq!((ended.stopped, ended.wave, ended.touched), (true, 1, 10), "{harm:?} {seed}");
            }
        }
        let through = (0..10).filter(|seed| !roll_out(Way::Volary, 1000, Harm::WrongClocks, *seed).stopped);
        assert!(through.count() >= 8);
    }

    #[test]
    fn who_counts_installations_alone_does_not_see_what_fails_later() {
        for way in [Way::Batches, Way::Groups] {
            let ended = roll_out(way, 1000, Harm::AfterAnHour, 1);
            assert_eq!((ended.stopped, ended.touched), (false, 1000), "{way:?}");
            assert!(roll_out(way, 1000, Harm::Always, 1).stopped);
        }
    }
}
