//! Rollouts: how a merged commit reaches the devices of a stage, in waves, and when that stops.
//!
//! The devices of a stage stand in an order that is another one for each commit ([`Place`]). A wave
//! opens the first part of it; the next one opens when the devices of this one have shown that they
//! are well and some time has passed. More failures or more silence than the fleet allows stops the
//! rollout until a person says otherwise. Not here: who counts as failed (`condition`), and how many of
//! a site change at once (`turn`).

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use volary_model::{CommitId, DeviceName, Place};

use crate::text;

/// The part of a wave that must have ended before the next one opens: one device that waits for its
/// window for a week must not hold up a thousand.
const ENOUGH: f64 = 0.9;

/// How unlikely failures must be under what the fleet allows for a rollout to stop before its wave has
/// used up what it may: small, since it is asked after each report.
const UNLIKELY: f64 = 0.001;

/// How the commits of a stage are rolled out.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// The parts of the stage that are open after each wave, in hundredths of a percent, rising; the
    /// last is all.
    pub waves: Vec<u16>,
    /// How long the devices of a wave must be well before the next one opens.
    pub pause: Duration,
    /// The largest share of failed devices that is borne, 0 to 100.
    pub stop_above: f64,
    /// The largest share of devices that may fall silent after they began, 0 to 100.
    pub silent_at_most: f64,
}

/// How a device stands to the commit of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// It has not begun.
    Untouched,
    /// It has not begun, and was not heard of for long.
    Away,
    /// It has not begun, since a person holds it on the device.
    Held,
    /// It has begun and not ended.
    Changing,
    /// It runs the commit and is well.
    Good,
    /// It failed, or is not well since; why.
    Bad(String),
    /// It began and was not heard of since for too long.
    Lost,
}

/// A device of the stage.
#[derive(Debug, Clone)]
pub struct Member {
    /// Its name.
    pub device: DeviceName,
    /// Where it stands in the order.
    pub place: Place,
    /// How it stands to the commit.
    pub standing: Standing,
}

/// What is remembered of a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The commit.
    pub commit: CommitId,
    /// The wave that is open, from 0.
    pub wave: usize,
    /// The last place that is open; `None` while nobody may begin.
    pub open: Option<Place>,
    /// When the wave opened.
    pub opened_at: Timestamp,
    /// Since when enough of its devices have ended, and well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub complete_since: Option<Timestamp>,
    /// Why no further device begins, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub halt: Option<Halt>,
    /// Failed and lost devices that a person has seen and goes on in spite of.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub forgiven: BTreeSet<DeviceName>,
    /// When the last wave was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Timestamp>,
}

/// Why no further device begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    /// Since when.
    pub at: Timestamp,
    /// The person who said so; `None` if the figures did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Why.
    pub reason: String,
}

impl State {
    /// A rollout that begins now.
    pub const fn begin(commit: CommitId, now: Timestamp) -> Self {
        Self {
            commit,
            wave: 0,
            open: None,
            opened_at: now,
            complete_since: None,
            halt: None,
            forgiven: BTreeSet::new(),
            finished_at: None,
        }
    }

    /// True if the rollout was stopped by its figures: the commit hurts.
    pub fn is_stopped(&self) -> bool {
        self.halt.as_ref().is_some_and(|halt| halt.by.is_none())
    }
}

/// How many devices stand how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Devices of the stage that are heard of and not held, or have begun.
    pub all: usize,
    /// Those among them that the open waves reach.
    pub open: usize,
    /// Those that began and have not ended.
    pub changing: usize,
    /// Those that run the commit and are well.
    pub good: usize,
    /// Those that failed.
    pub bad: usize,
    /// Those that fell silent after they began.
    pub lost: usize,
    /// Devices that are not heard of and have not begun.
    pub away: usize,
    /// Devices that persons hold and that have not begun: a wave does not wait for them.
    #[serde(default)]
    pub held: usize,
}

/// What a rollout waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook {
    /// The figures.
    pub count: Count,
    /// A sentence for people.
    pub says: String,
    /// When it may be otherwise without any report.
    pub next_at: Option<Timestamp>,
}

/// What became of a rollout in one step, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A wave opened: its number from 1.
    Opened(usize),
    /// It stopped; why.
    Stopped(String),
    /// It ended: all devices that are heard of have the commit.
    Finished,
}

/// Takes a rollout one step further. Asked again with what it answered and the same figures it changes
/// nothing.
pub fn step(
    policy: &Policy,
    before: State,
    members: &[Member],
    now: Timestamp,
) -> (State, Outlook, Vec<News>) {
    let mut state = before;
    let mut news = Vec::new();
    loop {
        // Devices that went away since leave their places to others: a wave does not shrink.
        if state.halt.is_none() {
            let nobody_could = state.open.is_none();
            state.open = state.open.max(threshold(policy, state.wave, members));
            if nobody_could && state.open.is_some() {
                news.push(News::Opened(state.wave + 1));
                state.opened_at = now;
            }
        }
        let count = count(&state, members);
        if state.halt.is_none()
            && let Some(reason) = too_bad(policy, &state, members)
        {
            news.push(News::Stopped(reason.clone()));
            state.halt = Some(Halt { at: now, by: None, reason });
        }
        if state.halt.is_some() || state.finished_at.is_some() {
            let says = sentence(policy, &state, &count, now);
            return (state, Outlook { count, says, next_at: None }, news);
        }
        let ended = count.good + count.bad + count.lost;
        let complete = count.open > 0 && ended as f64 >= ENOUGH * count.open as f64;
        state.complete_since = complete.then(|| state.complete_since.unwrap_or(now));
        let opens = state.complete_since.and_then(|since| since.checked_add(policy.pause).ok());
        // A wave that adds nobody is no wave.
        let adds_nobody = complete && state.wave > 0 && adds(policy, state.wave, members) == 0;
        if !(complete && (adds_nobody || opens.is_some_and(|opens| opens <= now))) {
            let says = sentence(policy, &state, &count, now);
            return (state, Outlook { count, says, next_at: opens }, news);
        }
        if state.wave + 1 < policy.waves.len() {
            state.wave += 1;
            state.opened_at = now;
            state.complete_since = None;
            if adds(policy, state.wave, members) > 0 {
                news.push(News::Opened(state.wave + 1));
            }
        } else {
            state.finished_at = Some(now);
            news.push(News::Finished);
        }
    }
}

/// Whether a device may begin: the wave that it is in is open, and nothing stopped the rollout. The
/// sentence says why not.
///
/// # Errors
/// The sentence.
pub fn may_begin(policy: &Policy, state: &State, place: Place) -> Result<(), String> {
    if let Some(halt) = &state.halt {
        let who = halt.by.as_ref().map_or_else(|| "by itself".to_owned(), |by| format!("by {by}"));
        return Err(format!("its rollout is stopped {who}: {}", halt.reason));
    }
    if state.finished_at.is_some() || state.open.is_some_and(|open| place <= open) {
        return Ok(());
    }
    let share = policy.waves.get(state.wave).copied().unwrap_or(10_000);
    Err(format!(
        "wave {} of {} ({}) is open, and this device stands at {place}",
        state.wave + 1,
        policy.waves.len(),
        percent(share)
    ))
}

/// Those of whom anything can be learned soon.
fn reachable(member: &&Member) -> bool {
    !matches!(member.standing, Standing::Away | Standing::Held)
}

/// The last place that a wave opens: at least one device, and all with the last.
fn threshold(policy: &Policy, wave: usize, members: &[Member]) -> Option<Place> {
    let share = policy.waves.get(wave).copied().unwrap_or(10_000);
    if share >= 10_000 {
        return Some(Place::LAST);
    }
    let mut places: Vec<Place> = members.iter().filter(reachable).map(|member| member.place).collect();
    places.sort_unstable();
    let devices = (places.len() * usize::from(share)).div_ceil(10_000).max(1);
    places.get(devices - 1).copied()
}

/// How many devices a wave adds to the one before.
fn adds(policy: &Policy, wave: usize, members: &[Member]) -> usize {
    let before = wave.checked_sub(1).and_then(|before| threshold(policy, before, members));
    let until = threshold(policy, wave, members);
    let added = |member: &&Member| {
        before.is_none_or(|before| before < member.place) && until.is_some_and(|until| member.place <= until)
    };
    members.iter().filter(reachable).filter(added).count()
}

fn count(state: &State, members: &[Member]) -> Count {
    let mut count = Count::default();
    for member in members {
        let is_open = state.open.is_some_and(|open| member.place <= open);
        match member.standing {
            Standing::Away => {
                count.away += 1;
                continue;
            }
            Standing::Held => {
                count.held += 1;
                continue;
            }
            Standing::Untouched => {}
            Standing::Changing => count.changing += 1,
            Standing::Good => count.good += usize::from(is_open),
            Standing::Bad(_) => count.bad += usize::from(is_open),
            Standing::Lost => count.lost += usize::from(is_open),
        }
        count.all += 1;
        count.open += usize::from(is_open);
    }
    count
}

/// Why a rollout must stop, if it must. Devices count that began out of turn, too: a commit that hurts
/// them hurts others.
fn too_bad(policy: &Policy, state: &State, members: &[Member]) -> Option<String> {
    let counted = || members.iter().filter(|member| !state.forgiven.contains(&member.device));
    let open = counted()
        .filter(reachable)
        .filter(|member| state.open.is_some_and(|open| member.place <= open))
        .count();
    let bad: Vec<String> = counted()
        .filter_map(|member| match &member.standing {
            Standing::Bad(why) => Some(format!("{} ({why})", member.device)),
            _ => None,
        })
        .collect();
    let lost: Vec<String> = counted()
        .filter(|member| member.standing == Standing::Lost)
        .map(|member| member.device.to_string())
        .collect();
    let good = counted().filter(|member| member.standing == Standing::Good).count();
    let tried = good + bad.len() + lost.len();
    let over = |number: usize, share: f64| {
        number > 0
            && (number as f64 > open.max(tried) as f64 * share / 100.0
                || at_least(tried, share / 100.0, number) < UNLIKELY)
    };
    if over(bad.len(), policy.stop_above) {
        return Some(format!(
            "{} of {} failed, {} % are borne: {}",
            bad.len(),
            text::count(tried, "device"),
            policy.stop_above,
            text::some(&bad, 3)
        ));
    }
    if over(lost.len(), policy.silent_at_most) {
        return Some(format!(
            "{} of {} fell silent, {} % are borne: {}",
            lost.len(),
            text::count(tried, "device"),
            policy.silent_at_most,
            text::some(&lost, 3)
        ));
    }
    None
}

/// The probability of at least `number` failures among `tried` devices that fail with probability `p`.
fn at_least(tried: usize, p: f64, number: usize) -> f64 {
    if p <= 0.0 {
        return if number == 0 { 1.0 } else { 0.0 };
    }
    if p >= 1.0 {
        return 1.0;
    }
    // In logarithms, since the first term of a large fleet is below the smallest number.
    let (mut below, mut term) = (0.0, tried as f64 * (1.0 - p).ln());
    for failed in 0..number {
        below += term.exp();
        term += ((tried - failed) as f64 / (failed + 1) as f64).ln() + (p / (1.0 - p)).ln();
    }
    (1.0 - below).max(0.0)
}

fn sentence(policy: &Policy, state: &State, count: &Count, now: Timestamp) -> String {
    let mut parts = vec![format!("{} of {} good", count.good, text::count(count.all, "device"))];
    for (number, what) in [
        (count.changing, "changing"),
        (count.bad, "failed"),
        (count.lost, "fell silent"),
        (count.away, "away"),
        (count.held, "held by a person"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    let figures = parts.join(", ");
    if let Some(halt) = &state.halt {
        let who = halt.by.as_ref().map_or_else(String::new, |by| format!(" by {by}"));
        return format!("stopped{who}: {} ({figures})", halt.reason);
    }
    if state.finished_at.is_some() {
        return format!("finished: {figures}");
    }
    let wave = format!(
        "wave {} of {} ({}): {figures}",
        state.wave + 1,
        policy.waves.len(),
        percent(policy.waves.get(state.wave).copied().unwrap_or(10_000))
    );
    let Some(since) = state.complete_since else {
        let left = count.open - (count.good + count.bad + count.lost).min(count.open);
        return format!("{wave}; waits for {} of this wave", text::count(left, "device"));
    };
    let held = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    let rest = text::duration(policy.pause.saturating_sub(held));
    if state.wave + 1 < policy.waves.len() {
        format!("{wave}; the next wave opens in {rest}")
    } else {
        format!("{wave}; it ends in {rest}")
    }
}

/// Hundredths of a percent as people write them.
pub fn percent(hundredths: u16) -> String {
    match (hundredths / 100, hundredths % 100) {
        (whole, 0) => format!("{whole} %"),
        (whole, part) => format!("{whole}.{part:02} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Policy {
        Policy {
            waves: vec![100, 1000, 5000, 10_000],
            pause: Duration::from_secs(3600),
            stop_above: 2.0,
            silent_at_most: 5.0,
        }
    }

    fn commit() -> CommitId {
        "c".repeat(40).parse().unwrap()
    }

    fn at(minutes: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + 60 * minutes).unwrap()
    }

    fn fleet(devices: u32) -> Vec<Member> {
        (0..devices)
            .map(|number| {
                let device: DeviceName = format!("dev-{number}").parse().unwrap();
                let place = Place::of(&commit(), &device);
                Member { device, place, standing: Standing::Untouched }
            })
            .collect()
    }

    /// Lets every device that may begin end like that.
    fn end(state: &State, members: &mut [Member], standing: impl Fn(u64) -> Standing) {
        let mut number = 0;
        for member in members {
            if member.standing == Standing::Untouched && may_begin(&policy(), state, member.place).is_ok() {
                member.standing = standing(number);
                number += 1;
            }
        }
    }

    fn touched(members: &[Member]) -> usize {
        members
            .iter()
            .filter(|member| {
                !matches!(member.standing, Standing::Untouched | Standing::Away | Standing::Held)
            })
            .count()
    }

    #[test]
    fn waves_open_one_after_the_other_when_all_is_well() {
        let mut members = fleet(1000);
        let mut state = State::begin(commit(), at(0));
        let mut seen = Vec::new();
        for minute in 0..600 {
            let (next, outlook, _) = step(&policy(), state, &members, at(minute));
            state = next;
            end(&state, &mut members, |_| Standing::Good);
            if seen.last() != Some(&touched(&members)) {
                seen.push(touched(&members));
            }
            if state.finished_at.is_some() {
                assert_eq!(outlook.says, "finished: 1000 of 1000 devices good");
                break;
            }
        }
        assert_eq!(seen, [10, 100, 500, 1000]);
        // The last wave has its pause, too: four hours and the minutes in which they were seen to be good.
        assert_eq!(state.finished_at, Some(at(4 * 60 + 4)));
    }

    #[test]
    fn a_small_fleet_begins_with_one_device_and_skips_empty_waves() {
        let mut members = fleet(5);
        let mut state = State::begin(commit(), at(0));
        let mut seen = Vec::new();
        for minute in 0..600 {
            state = step(&policy(), state, &members, at(minute)).0;
            end(&state, &mut members, |_| Standing::Good);
            if seen.last() != Some(&touched(&members)) {
                seen.push(touched(&members));
            }
        }
        assert_eq!(seen, [1, 3, 5]);
        assert_eq!(state.finished_at, Some(at(3 * 60 + 3)));
    }

    #[test]
    fn what_always_fails_stops_with_the_first_device() {
        let mut members = fleet(10_000);
        let (mut state, _, news) = step(&policy(), State::begin(commit(), at(0)), &members, at(0));
        assert_eq!(news, [News::Opened(1)]);
        let first = members.iter().position(|member| may_begin(&policy(), &state, member.place).is_ok());
        members[first.unwrap()].standing = Standing::Bad("check dns".to_owned());
        // One of a hundred would be within what is borne, two of two are not likely.
        state = step(&policy(), state, &members, at(1)).0;
        assert_eq!(state.halt, None);
        let second = members.iter().position(|member| {
            member.standing == Standing::Untouched && may_begin(&policy(), &state, member.place).is_ok()
        });
        members[second.unwrap()].standing = Standing::Bad("check dns".to_owned());
        let (state, outlook, news) = step(&policy(), state, &members, at(2));
        assert!(state.is_stopped());
        assert!(
            matches!(&news[..], [News::Stopped(why)] if why.starts_with("2 of 2 devices failed, 2 % are"))
        );
        assert!(outlook.says.starts_with("stopped: 2 of 2 devices failed"), "{}", outlook.says);
        assert!(members.iter().all(|member| may_begin(&policy(), &state, member.place).is_err()));
    }

    #[test]
    fn silence_after_the_beginning_stops_and_silence_before_does_not() {
        let mut members = fleet(1000);
        for member in members.iter_mut().take(900) {
            member.standing = Standing::Away;
        }
        let (state, outlook, _) = step(&policy(), State::begin(commit(), at(0)), &members, at(0));
        assert_eq!((outlook.count.away, outlook.count.open, state.halt), (900, 1, None));
        let mut members = fleet(1000);
        let (state, _, _) = step(&policy(), State::begin(commit(), at(0)), &members, at(0));
        end(&state, &mut members, |_| Standing::Lost);
        let (state, outlook, _) = step(&policy(), state, &members, at(60));
        assert!(state.is_stopped());
        assert!(outlook.says.contains("10 of 10 devices fell silent, 5 % are borne"), "{}", outlook.says);
    }

    #[test]
    fn a_wave_does_not_wait_for_a_device_that_a_person_holds() {
        let mut members = fleet(3);
        let (state, outlook, _) = step(&policy(), State::begin(commit(), at(0)), &members, at(0));
        assert_eq!(outlook.count.open, 1);
        // The one of the first wave is held: the next in the order takes its place.
        let first = members.iter().position(|member| Some(member.place) == state.open).unwrap();
        members[first].standing = Standing::Held;
        let (state, outlook, _) = step(&policy(), state, &members, at(1));
        assert_eq!((outlook.count.open, outlook.count.all, outlook.count.held), (1, 2, 1));
        assert!(outlook.says.contains("1 held by a person; waits for 1 device"), "{}", outlook.says);
        assert!(may_begin(&policy(), &state, members[first].place).is_ok(), "it may, once it is let go");
        end(&state, &mut members, |_| Standing::Good);
        let (state, _, _) = step(&policy(), state, &members, at(2));
        let (state, _, _) = step(&policy(), state, &members, at(2 + 60));
        end(&state, &mut members, |_| Standing::Good);
        let mut state = state;
        for minute in [63, 130, 200, 300] {
            state = step(&policy(), state, &members, at(minute)).0;
            end(&state, &mut members, |_| Standing::Good);
        }
        let (state, outlook, _) = step(&policy(), state, &members, at(400));
        assert!(state.finished_at.is_some(), "{}", outlook.says);
        // Let go, it follows.
        assert!(may_begin(&policy(), &state, members[first].place).is_ok());
    }

    #[test]
    fn a_person_goes_on_in_spite_of_what_failed_and_not_of_what_fails_then() {
        let mut members = fleet(1000);
        let (state, _, _) = step(&policy(), State::begin(commit(), at(0)), &members, at(0));
        end(
            &state,
            &mut members,
            |number| if number < 2 { Standing::Bad(String::new()) } else { Standing::Good },
        );
        let (mut state, _, _) = step(&policy(), state, &members, at(1));
        assert!(state.is_stopped());
        state.halt = None;
        state.forgiven = members
            .iter()
            .filter(|member| matches!(member.standing, Standing::Bad(_)))
            .map(|member| member.device.clone())
            .collect();
        let (state, _, news) = step(&policy(), state, &members, at(2));
        assert_eq!((state.halt.clone(), news), (None, vec![]));
        let (state, _, news) = step(&policy(), state, &members, at(62));
        assert_eq!((state.wave, news), (1, vec![News::Opened(2)]));
        end(&state, &mut members, |_| Standing::Bad(String::new()));
        assert!(step(&policy(), state, &members, at(63)).0.is_stopped());
    }

    #[test]
    fn a_step_repeated_changes_nothing_and_nothing_opens_after_a_stop() {
        let mut dice = 1_u64;
        let mut roll = |sides: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % sides
        };
        for _ in 0..300 {
            let mut members = fleet(u32::try_from(roll(200)).unwrap());
            let mut state = State::begin(commit(), at(0));
            let mut open_before = None;
            for minute in 0..100 {
                let now = at(minute * 10);
                let (next, outlook, _) = step(&policy(), state.clone(), &members, now);
                let again = step(&policy(), next.clone(), &members, now);
                assert_eq!((&next, &outlook), (&again.0, &again.1));
                assert!(again.2.is_empty());
                assert!(state.halt.is_none() || state.open == next.open);
                assert!(next.open >= open_before, "a wave never shrinks");
                assert!(outlook.next_at.is_none_or(|at| at > now));
                open_before = next.open;
                state = next;
                for member in &mut members {
                    let may = may_begin(&policy(), &state, member.place).is_ok();
                    member.standing = match (&member.standing, roll(40)) {
                        (Standing::Untouched, 0) => Standing::Away,
                        (Standing::Away, 0..=3) => Standing::Untouched,
                        (Standing::Untouched, 1..=20) if may => Standing::Changing,
                        (Standing::Changing, 0..=20) => Standing::Good,
                        (Standing::Changing, 21) => Standing::Bad("it".to_owned()),
                        (Standing::Changing, 22) => Standing::Lost,
                        (Standing::Lost, 0..=10) => Standing::Good,
                        (standing, _) => standing.clone(),
                    };
                }
            }
        }
    }

    #[test]
    fn the_tail_of_the_binomial_is_right() {
        // The sum of the terms in Python, by math.lgamma.
        for (tried, p, number, expected) in [
            (10, 0.02, 1, 0.182_927),
            (2, 0.02, 2, 0.0004),
            (1000, 0.02, 40, 4.34e-5),
            (50_000, 0.05, 2500, 0.503),
        ] {
            let got = at_least(tried, p, number);
            assert!((got / expected - 1.0).abs() < 0.02, "{tried} {p} {number}: {got}");
        }
        assert!(at_least(5, 0.0, 1) < f64::EPSILON && at_least(5, 1.0, 5) > 0.999);
    }
}
