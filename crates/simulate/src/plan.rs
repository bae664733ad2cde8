//! What a world has in store: which commits come when and what they do to a device, when the server
//! is how, and what happens to a device from outside. All of it follows from the seed, before the
//! first step is taken.

use std::time::Duration;

use jiff::civil::time;
use volary_device::{Days, DriftPolicy, Freeze, Moment, Policy, Window};
use volary_model::CommitId;

use crate::dice::Dice;

/// Milliseconds of the world's own, true time, which begins at 0.
pub(crate) type Ms = u64;

pub(crate) const SECOND: Ms = 1000;
pub(crate) const MINUTE: Ms = 60 * SECOND;
pub(crate) const HOUR: Ms = 60 * MINUTE;
pub(crate) const DAY: Ms = 24 * HOUR;

/// When the world begins, in seconds since 1970: a Friday morning.
pub(crate) const EPOCH: i64 = 1_795_766_400;

/// What a commit does to a device that applies it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It changes something and is fine.
    Good,
    /// It changes nothing.
    Nothing,
    /// The path to the server is gone so many milliseconds after the playbook began.
    BreaksPath(Ms),
    /// A task fails, always.
    FailsTask,
    /// A task fails half of the time: a mirror that comes and goes.
    Flaky,
    /// The agent dies in the middle of the playbook, always.
    KillsAgent,
    /// The agent's unit is stopped and disabled.
    StopsAgent,
    /// A new version of the agent comes along that ends as soon as it starts.
    BadAgent,
    /// A service dies so many milliseconds after the playbook ended.
    KillsService(Ms),
    /// The disk is full.
    FillsDisk,
    /// The device boots again and again.
    Reboots,
    /// The clock is put off by so many seconds.
    MovesClock(i64),
}

impl Kind {
    /// True if a device should keep it.
    pub(crate) const fn is_good(self) -> bool {
        matches!(self, Self::Good | Self::Nothing | Self::Flaky)
    }
}

/// What the system of an image does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// It runs.
    Fine,
    /// Its kernel panics.
    Panics,
    /// It hangs until the watchdog comes.
    Hangs,
    /// It comes up without an agent.
    WithoutAgent,
    /// A service of it does not run.
    Sick,
}

/// The images of a world in which devices have two slots.
#[derive(Debug, Clone)]
pub(crate) struct Images {
    /// What each does, by number; 0 is what a device comes with.
    pub(crate) systems: Vec<System>,
    /// Which one each commit pins.
    pub(crate) pinned: Vec<usize>,
}

/// A commit of the stage.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    /// When it is merged.
    pub(crate) at: Ms,
    pub(crate) kind: Kind,
    pub(crate) policy: Policy,
}

/// How the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// As it should be.
    Fine,
    /// No connection.
    Down,
    /// It answers, with errors.
    InTrouble,
    /// One answer of three gets lost.
    Lossy,
    /// It offers what the stage was before.
    OffersOld,
    /// It offers the commit of another stage.
    OffersOther,
    /// It offers a commit that nobody signed.
    OffersForged,
}

/// What happens to a device from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blow {
    /// The link goes, for so long.
    LinkLost(Ms),
    /// The power goes, for so long.
    PowerCut(Ms),
    /// The clock jumps by so many seconds.
    ClockJump(i64),
    /// Somebody changes a file by hand.
    HandEdit,
    /// A person: `volary-agent run`.
    Run,
    /// A person: `volary-agent run --again`.
    RunAgain,
    /// A person: `volary-agent hold`, for so long.
    Hold(Ms),
    /// A person: `volary-agent release`.
    Release,
    /// A person: `volary-agent revert`.
    Revert,
    /// A person: `volary-agent confirm`.
    Confirm,
}

/// When the process or the power ends, counted in effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crashes {
    /// Never.
    None,
    /// At one effect: the how-manieth of the run.
    Once(u64),
    /// At so many out of a thousand.
    Often(u64),
}

/// A world.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) commits: Vec<Commit>,
    /// Since when the server is how, in order; the first from 0 on.
    pub(crate) moods: Vec<(Ms, Mood)>,
    /// When all trouble ends and the last, good commit is merged.
    pub(crate) kind_from: Ms,
    /// Seconds between two questions.
    pub(crate) poll: u32,
    /// How often rolling changes; never if the stage is pinned.
    pub(crate) rolling: Option<Ms>,
    /// The images, if devices have slots.
    pub(crate) images: Option<Images>,
}

impl Plan {
    /// Lets only one device of a site change at once.
    pub(crate) fn limit_sites(&mut self) {
        for commit in &mut self.commits {
            commit.policy.per_site_at_most = Some(1);
        }
    }
}

/// What a device has in store.
#[derive(Debug, Clone)]
pub(crate) struct Fate {
    pub(crate) blows: Vec<(Ms, Blow)>,
    pub(crate) crashes: Crashes,
    /// Its clock runs on while it is off.
    pub(crate) has_rtc: bool,
}

/// The world of these dice.
pub(crate) fn plan(dice: &mut Dice) -> Plan {
    let length = match dice.between(0, 100) {
        // Somebody must be offline for a week, and for two.
        0..3 => 16 * DAY,
        3..20 => DAY + dice.between(0, DAY),
        _ => 2 * HOUR + dice.between(0, 8 * HOUR),
    };
    let windows = dice.chance(100);
    let confirm = dice.pick(&[30, 60, 300]);
    let count = dice.between(1, 9);
    let mut at: Vec<Ms> = (0..count).map(|_| dice.between(0, length)).collect();
    at[0] = 0;
    at.sort_unstable();
    let mut commits: Vec<Commit> = at
        .into_iter()
        .map(|at| Commit { at, kind: kind(dice, confirm), policy: policy(dice, confirm, windows) })
        .collect();
    commits.push(Commit { at: length, kind: Kind::Good, policy: plain(confirm) });
    let count = commits.len();
    Plan {
        commits,
        moods: moods(dice, length),
        kind_from: length,
        poll: dice.pick(&[60, 300, 300, 900]),
        rolling: dice.chance(200).then(|| dice.between(HOUR, 6 * HOUR)),
        images: dice.chance(400).then(|| images(dice, count)),
    }
}

/// The last commit pins one that runs.
fn images(dice: &mut Dice, commits: usize) -> Images {
    let mut images = Images { systems: vec![System::Fine], pinned: Vec::new() };
    let mut pinned = 0;
    for number in 1..=commits {
        if number == commits || dice.chance(400) {
            let fine = number == commits || dice.chance(500);
            let bad = dice.pick(&[System::Panics, System::Hangs, System::WithoutAgent, System::Sick]);
            images.systems.push(if fine { System::Fine } else { bad });
            pinned = images.systems.len() - 1;
        }
        images.pinned.push(pinned);
    }
    images
}

fn kind(dice: &mut Dice, confirm: u64) -> Kind {
    let within = dice.between(0, confirm * 9 / 10 * SECOND);
    match dice.between(0, 20) {
        0..7 => Kind::Good,
        7 => Kind::Nothing,
        8..11 => Kind::BreaksPath(dice.between(0, 10 * SECOND) + within),
        11 => Kind::FailsTask,
        12 => Kind::Flaky,
        13 => Kind::KillsAgent,
        14 => Kind::StopsAgent,
        15 => Kind::BadAgent,
        16 => Kind::KillsService(within),
        17 => Kind::FillsDisk,
        18 => Kind::Reboots,
        _ => Kind::MovesClock(if dice.chance(500) { 86_400 * 30 } else { -86_400 * 400 }),
    }
}

fn plain(confirm: u64) -> Policy {
    Policy { confirm_within: Duration::from_secs(confirm), ..Policy::default() }
}

fn policy(dice: &mut Dice, confirm: u64, windows: bool) -> Policy {
    let mut policy = plain(confirm);
    if windows {
        policy.windows = vec![Window { days: Days::ALL, start: time(22, 0, 0, 0), end: time(4, 0, 0, 0) }];
    }
    if dice.chance(50) {
        policy.stop = Some("a test of the brakes".to_owned());
    }
    if dice.chance(50) {
        let from = EPOCH + i64::try_from(dice.between(0, 12 * 3600)).unwrap_or(0);
        let moment = |second| Moment::Exact(jiff::Timestamp::from_second(second).unwrap_or_default());
        policy.freezes =
            vec![Freeze { from: moment(from), until: moment(from + 7200), reason: "night".to_owned() }];
    }
    if dice.chance(200) {
        policy.splay = Duration::from_secs(dice.between(60, 3600));
    }
    if dice.chance(200) {
        policy.drift = Some(DriftPolicy { every: Duration::from_secs(3600), repair: dice.chance(500) });
    }
    policy
}

fn moods(dice: &mut Dice, length: Ms) -> Vec<(Ms, Mood)> {
    let mut moods = vec![(0, Mood::Fine)];
    let mut at = 0;
    while at < length {
        at += dice.between(10 * MINUTE, 5 * HOUR);
        let mood = dice.pick(&[
            Mood::Down,
            Mood::Down,
            Mood::InTrouble,
            Mood::Lossy,
            Mood::OffersOld,
            Mood::OffersOther,
            Mood::OffersForged,
        ]);
        moods.push((at, mood));
        at += dice.between(MINUTE, HOUR);
        moods.push((at, Mood::Fine));
    }
    moods.retain(|(at, _)| *at < length);
    moods.push((length, Mood::Fine));
    moods
}

/// What a device has in store in this world. `number` lets a single crash walk through the effects
/// of a run, one after the other.
pub(crate) fn fate(dice: &mut Dice, plan: &Plan, number: u64) -> Fate {
    let end = plan.kind_from;
    let mut blows = Vec::new();
    if end > 10 * DAY {
        let away = dice.pick(&[7 * DAY + HOUR, 14 * DAY]);
        blows.push((dice.between(HOUR, DAY), Blow::LinkLost(away)));
    }
    let calm = dice.chance(300);
    for _ in 0..if calm { 0 } else { dice.between(0, 10) } {
        let blow = match dice.between(0, 14) {
            0..3 => Blow::LinkLost(dice.between(5 * SECOND, 2 * HOUR)),
            3..6 => Blow::PowerCut(dice.between(10 * SECOND, HOUR)),
            6 => Blow::ClockJump(dice.pick(&[-86_400 * 7, -3600, 3600, 86_400 * 3])),
            7 => Blow::HandEdit,
            8 => Blow::Run,
            9 => Blow::RunAgain,
            10 => Blow::Hold(dice.between(MINUTE, 2 * HOUR)),
            11 => Blow::Release,
            12 => Blow::Revert,
            _ => Blow::Confirm,
        };
        // Half of them soon after a commit, when there is something to hit.
        let commit = dice.pick(&plan.commits).at;
        let near = commit + dice.between(0, 15 * MINUTE);
        let at = if dice.chance(500) { near } else { dice.between(0, end) };
        blows.push((at.min(end.saturating_sub(1)), blow));
    }
    blows.sort_by_key(|(at, _)| *at);
    let crashes = match number % 4 {
        0 => Crashes::None,
        1 | 2 => Crashes::Once(number / 4 % 150),
        _ => Crashes::Often(dice.pick(&[5, 20, 80])),
    };
    Fate { blows, crashes, has_rtc: dice.chance(700) }
}

impl Plan {
    /// The id of a commit; its number counts from 1.
    pub(crate) fn id(number: usize) -> CommitId {
        format!("{number:040x}").parse().expect("40 digits are a commit")
    }

    /// The number of a commit, if it is one of the stage.
    pub(crate) fn number(&self, id: &CommitId) -> Option<usize> {
        let number = usize::from_str_radix(id.as_str(), 16).ok()?;
        (1..=self.commits.len()).contains(&number).then_some(number)
    }

    /// The commit with this number.
    pub(crate) fn commit(&self, number: usize) -> &Commit {
        &self.commits[number - 1]
    }

    /// The number of the newest commit.
    pub(crate) fn tip(&self, now: Ms) -> usize {
        self.commits.iter().filter(|commit| commit.at <= now).count().max(1)
    }

    /// The state of rolling; empty if the stage is pinned.
    pub(crate) fn rolling(&self, now: Ms) -> String {
        self.rolling.map_or_else(String::new, |period| (now.min(self.kind_from) / period).to_string())
    }

    /// True if the server offered something else than the newest at some time of these.
    pub(crate) fn lied(&self, from: Ms, until: Ms) -> bool {
        let lies = |mood| matches!(mood, Mood::OffersOld | Mood::OffersOther | Mood::OffersForged);
        let began = self.moods.iter().any(|(at, mood)| (from..=until).contains(at) && lies(*mood));
        began || lies(self.mood(from))
    }

    /// How the server is.
    pub(crate) fn mood(&self, now: Ms) -> Mood {
        self.moods.iter().rev().find(|(at, _)| *at <= now).map_or(Mood::Fine, |(_, mood)| *mood)
    }
}
