//! When a device may change, and how a change is confirmed: what the signed `volary.yml` of a commit
//! says for the device's stage. Not here: whether that lets it change now (`permit`).

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time, Weekday};
use serde::{Deserialize, Serialize};
use volary_model::Place;

/// How long a change has to hold before it is confirmed, unless the fleet says otherwise: longer
/// than a service needs to die of a leak at start, short enough for a person to wait.
const CONFIRM_WITHIN: Duration = Duration::from_secs(300);

/// How long a run may take, unless the fleet says otherwise: some install a lot on a slow card.
const RUN_WITHIN: Duration = Duration::from_secs(3600);

/// What the fleet says about changes of a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Policy {
    /// How long a change has to hold before it is confirmed.
    pub confirm_within: Duration,
    /// How long a run may take.
    pub run_within: Duration,
    /// When changes may begin; always if there is none.
    pub windows: Vec<Window>,
    /// By which clock windows and freezes are meant.
    pub zone: Zone,
    /// When no change may begin.
    pub freezes: Vec<Freeze>,
    /// Why nothing may change at all until another commit says otherwise.
    pub stop: Option<String>,
    /// Trees that are saved before a change, beside those that always are.
    pub trees: Vec<String>,
    /// What is carried into a new slot, beside what always is.
    pub carry: Vec<String>,
    /// Over how long the devices spread their changes.
    pub splay: Duration,
    /// Whether to look for what differs from the commit, and what to do about it.
    pub drift: Option<DriftPolicy>,
    /// How many devices of a site may change at once; the server counts them.
    pub per_site_at_most: Option<u32>,
    /// The site of this device.
    pub site: Option<String>,
    /// In which waves a commit reaches the devices of the stage, each the part of them that is open then
    /// in hundredths of a percent; the server opens them. All at once if there is none.
    pub waves: Vec<u16>,
    /// The least time between two waves.
    pub pause: Duration,
}

impl Policy {
    /// True if the server is asked before a change begins.
    pub fn needs_turn(&self) -> bool {
        self.per_site_at_most.is_some() || !self.waves.is_empty()
    }

    /// When the wave of a device opens if nobody judges them, and its number from 1: as soon as it could
    /// at the earliest with a server. For devices that follow a place which only has files.
    pub fn wave_by_clock(&self, place: Place, committed_at: Timestamp) -> (usize, Timestamp) {
        let wave = self.waves.iter().position(|share| place.is_within(*share));
        let wave = wave.unwrap_or(self.waves.len().saturating_sub(1));
        let wait = self.pause.saturating_mul(u32::try_from(wave).unwrap_or(u32::MAX));
        (wave + 1, committed_at.checked_add(wait).unwrap_or(Timestamp::MAX))
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            confirm_within: CONFIRM_WITHIN,
            run_within: RUN_WITHIN,
            windows: Vec::new(),
            zone: Zone::Device,
            freezes: Vec::new(),
            stop: None,
            trees: Vec::new(),
            carry: Vec::new(),
            splay: Duration::ZERO,
            drift: None,
            per_site_at_most: None,
            site: None,
            waves: Vec::new(),
            pause: Duration::ZERO,
        }
    }
}

/// By which clock windows and freezes are meant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Zone {
    /// The device's own.
    Device,
    /// That of a place: `Europe/Berlin`; or a fixed one: `UTC`, `+02:00`.
    Named(String),
}

/// A time of some days of the week: from `start` until before `end`, by the clock on the wall.
///
/// If `end` is not after `start`, it is that time of the next day; the day is then the one on
/// which it starts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// The days on which it starts.
    pub days: Days,
    /// The first moment.
    pub start: Time,
    /// The first moment after it.
    pub end: Time,
}

impl Window {
    /// True if this moment of the wall clock belongs to it.
    pub fn has(&self, date: Date, time: Time) -> bool {
        let today = self.days.has(date.weekday());
        if self.start < self.end {
            return today && self.start <= time && time < self.end;
        }
        let yesterday = self.days.has(date.weekday().previous());
        (today && self.start <= time) || (yesterday && time < self.end)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Time| time.strftime("%H:%M").to_string();
        write!(f, "{} {}-{}", self.days, time(self.start), time(self.end))
    }
}

/// A set of days of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Days(u8);

impl Days {
    /// Every day.
    pub const ALL: Self = Self(0x7f);

    /// These days.
    pub fn of(days: impl IntoIterator<Item = Weekday>) -> Self {
        Self(days.into_iter().fold(0, |set, day| set | bit(day)))
    }

    /// True if the day belongs to it.
    pub const fn has(self, day: Weekday) -> bool {
        self.0 & bit(day) != 0
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("every day");
        }
        let name = |day: Weekday| match day {
            Weekday::Monday => "Mon",
            Weekday::Tuesday => "Tue",
            Weekday::Wednesday => "Wed",
            Weekday::Thursday => "Thu",
            Weekday::Friday => "Fri",
            Weekday::Saturday => "Sat",
            Weekday::Sunday => "Sun",
        };
        let days = Weekday::Monday.cycle_forward().take(7).filter(|day| self.has(*day));
        f.write_str(&days.map(name).collect::<Vec<_>>().join(","))
    }
}

const fn bit(day: Weekday) -> u8 {
    1 << day.to_monday_zero_offset()
}

/// A time in which no change begins.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Its first moment.
    pub from: Moment,
    /// The first moment after it.
    pub until: Moment,
    /// Why, in the fleet's words.
    pub reason: String,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Moment {
    /// The same everywhere.
    Exact(Timestamp),
    /// By the clock of the policy's zone.
    Local(DateTime),
}

/// What to do about what differs from the commit that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DriftPolicy {
    /// How often to look.
    pub every: Duration,
    /// True to converge again if something differs; false to report it only.
    pub repair: bool,
}
