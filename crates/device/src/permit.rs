//! May the device change now? What stands in the way, and when to look again. Pure: the clock, the
//! zones and what people said are given.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::civil::{DateTime, Time};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use crate::patience::part;
use crate::policy::{Freeze, Moment, Policy, Window, Zone};
use crate::state::Hold;

/// When to look again at a clock that is not set: soon, since time comes with the network.
const CLOCK: Duration = Duration::from_secs(60);

/// By how much the clock may be behind the newest commit and still count as set: people's clocks
/// and the device's differ, and some commit with a wrong time zone.
const BEHIND: Duration = Duration::from_secs(24 * 3600);

/// How many days the next opening is looked for: each window comes once a week, and one may be
/// swallowed when the clocks go forward.
const AHEAD: i64 = 15;

/// Why a device does not change now, although it should.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Obstacle {
    /// The signed fleet repository says stop, and why. It outranks all else.
    Stopped(String),
    /// A person on the device holds it, until released.
    Held(String),
    /// A person on the device holds it, until this time at the latest.
    HeldUntil(Timestamp, String),
    /// The fleet takes no changes.
    Frozen {
        /// Until this time.
        until: Timestamp,
        /// Why; may be empty.
        reason: String,
    },
    /// The clock is further back than the commit to apply: it was never set, so nobody knows
    /// whether a window is open.
    ClockUnset,
    /// The zone of the windows is not known on this device.
    ZoneUnknown(String),
    /// No window is open.
    Window {
        /// When the next one opens; `None` if none does.
        opens: Option<Timestamp>,
    },
    /// The devices of the fleet do not change all at once.
    Splay {
        /// This device's turn.
        until: Timestamp,
    },
    /// The server lets others of the site go first; its words.
    Budget(String),
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |at: &Timestamp| at.strftime("%F %T UTC").to_string();
        let because = |f: &mut fmt::Formatter<'_>, why: &str| {
            if why.is_empty() { Ok(()) } else { write!(f, ": {why}") }
        };
        match self {
            Self::Stopped(why) => {
                f.write_str("the fleet repository says stop")?;
                because(f, why)
            }
            Self::Held(why) => {
                f.write_str("held on the device")?;
                because(f, why)
            }
            Self::HeldUntil(until, why) => {
                write!(f, "held on the device until {}", at(until))?;
                because(f, why)
            }
            Self::Frozen { until, reason } => {
                write!(f, "frozen until {}", at(until))?;
                because(f, reason)
            }
            Self::ClockUnset => f.write_str("the clock is not set, so no window can be told"),
            Self::ZoneUnknown(name) => {
                write!(f, "time zone {name} is not known on this device: install tzdata")
            }
            Self::Window { opens: Some(opens) } => write!(f, "the next window opens {}", at(opens)),
            Self::Window { opens: None } => f.write_str("no window ever opens"),
            Self::Splay { until } => write!(f, "spread over the fleet, its turn is {}", at(until)),
            Self::Budget(said) => f.write_str(said),
        }
    }
}

/// Whether a device may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permit {
    /// What stands in the way, the weightiest first; it may change if there is nothing.
    pub obstacles: Vec<Obstacle>,
    /// When that may be otherwise; always in the future. `None` if only an event can change it.
    pub look_again: Option<Timestamp>,
}

/// The zones that a policy may mean.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zones {
    /// The device's own.
    pub device: TimeZone,
    /// Others, by their names.
    pub named: BTreeMap<String, TimeZone>,
}

impl Default for Zones {
    fn default() -> Self {
        Self { device: TimeZone::UTC, named: BTreeMap::new() }
    }
}

impl Zones {
    fn of(&self, zone: &Zone) -> Result<&TimeZone, Obstacle> {
        match zone {
            Zone::Device => Ok(&self.device),
            Zone::Named(name) => self.named.get(name).ok_or_else(|| Obstacle::ZoneUnknown(name.clone())),
        }
    }
}

/// What a permit depends on beside the policy and the time.
#[derive(Debug, Clone)]
pub struct Circumstances<'a> {
    /// The zones.
    pub zones: &'a Zones,
    /// When the commit to apply was made, by the clock of whoever made it.
    pub committed_at: Option<Timestamp>,
    /// What a person on the device said.
    pub hold: Option<&'a Hold>,
    /// When this device first knew what to go for.
    pub seen_at: Timestamp,
    /// Decides this device's place in the splay.
    pub luck: u64,
    /// A person asked for it now: windows and splay do not count.
    pub urged: bool,
    /// It had its turn, and tries again.
    pub had_its_turn: bool,
}

/// Whether a device may change now.
pub fn permit(policy: &Policy, given: &Circumstances<'_>, now: Timestamp) -> Permit {
    let mut obstacles = Vec::new();
    let mut again: Vec<Timestamp> = Vec::new();
    obstacles.extend(policy.stop.clone().map(Obstacle::Stopped));
    if let Some(hold) = given.hold.filter(|hold| hold.until.is_none_or(|until| now < until)) {
        again.extend(hold.until);
        obstacles.push(match hold.until {
            Some(until) => Obstacle::HeldUntil(until, hold.reason.clone()),
            None => Obstacle::Held(hold.reason.clone()),
        });
    }
    let timed = !policy.windows.is_empty() || !policy.freezes.is_empty();
    let unset = given.committed_at.is_some_and(|at| later(now, BEHIND) < at);
    if timed && unset {
        obstacles.push(Obstacle::ClockUnset);
        again.push(later(now, CLOCK));
    } else {
        match frozen(policy, given.zones, now) {
            Ok(None) => {}
            Ok(Some((until, freeze))) => {
                again.push(until);
                obstacles.push(Obstacle::Frozen { until, reason: freeze.reason.clone() });
            }
            Err(unknown) => obstacles.push(unknown),
        }
        if !given.urged
            && let Some(obstacle) = turn(policy, given, now)
        {
            again.extend(match obstacle {
                Obstacle::Window { opens } => opens,
                Obstacle::Splay { until } => Some(until),
                Obstacle::Stopped(_)
                | Obstacle::Held(_)
                | Obstacle::HeldUntil(..)
                | Obstacle::Frozen { .. }
                | Obstacle::ClockUnset
                | Obstacle::ZoneUnknown(_)
                | Obstacle::Budget(_) => None,
            });
            if !obstacles.contains(&obstacle) {
                obstacles.push(obstacle);
            }
        }
    }
    let look_again = again.into_iter().filter(|at| *at > now).min();
    Permit { obstacles, look_again }
}

/// The freeze that holds now and ends last, and when.
fn frozen<'a>(
    policy: &'a Policy,
    zones: &Zones,
    now: Timestamp,
) -> Result<Option<(Timestamp, &'a Freeze)>, Obstacle> {
    if policy.freezes.is_empty() {
        return Ok(None);
    }
    let zone = zones.of(&policy.zone)?;
    let exact = |moment| match moment {
        Moment::Exact(at) => at,
        // A moment that the clocks skip is the one after the gap.
        Moment::Local(wall) => zone.to_timestamp(wall).unwrap_or(Timestamp::MAX),
    };
    let spans = policy.freezes.iter().map(|freeze| (exact(freeze.from), exact(freeze.until), freeze));
    let holds = spans.filter(|(from, until, _)| *from <= now && now < *until);
    Ok(holds.map(|(_, until, freeze)| (until, freeze)).max_by_key(|(until, _)| *until))
}

/// What windows and splay say.
fn turn(policy: &Policy, given: &Circumstances<'_>, now: Timestamp) -> Option<Obstacle> {
    let mut from = given.seen_at;
    let mut splay = if given.had_its_turn { Duration::ZERO } else { policy.splay };
    if !policy.windows.is_empty() {
        let zone = match given.zones.of(&policy.zone) {
            Ok(zone) => zone,
            Err(unknown) => return Some(unknown),
        };
        let calendar = Calendar { windows: &policy.windows, zone };
        if !calendar.is_open(now) {
            return Some(Obstacle::Window { opens: calendar.opens_after(now) });
        }
        // In the second half of a window nobody should begin only since the lot says so.
        let (opened, closes) = (calendar.opened_before(now), calendar.closes_after(now));
        if let (Some(opened), Some(closes)) = (opened, closes) {
            let half = Duration::try_from(closes.duration_since(opened)).unwrap_or_default() / 2;
            splay = splay.min(half);
        }
        from = from.max(opened.unwrap_or(from));
    }
    let until = later(from, part(splay, given.luck));
    // A clock that went back says nothing about whose turn it is.
    (from <= now && now < until).then_some(Obstacle::Splay { until })
}

/// Windows on the wall clock of a zone. A moment that the clocks skip in spring belongs to no
/// window, one that comes twice in autumn belongs to it twice.
struct Calendar<'a> {
    windows: &'a [Window],
    zone: &'a TimeZone,
}

impl Calendar<'_> {
    fn is_open(&self, at: Timestamp) -> bool {
        let wall = self.zone.to_datetime(at);
        self.windows.iter().any(|window| window.has(wall.date(), wall.time()))
    }

    fn opens_after(&self, now: Timestamp) -> Option<Timestamp> {
        self.edges(now, 0..AHEAD).into_iter().filter(|at| *at > now).find(|at| self.is_open(*at))
    }

    fn closes_after(&self, now: Timestamp) -> Option<Timestamp> {
        self.edges(now, 0..AHEAD).into_iter().filter(|at| *at > now).find(|at| !self.is_open(*at))
    }

    /// The moment since which it is open without a break, if that is not weeks ago.
    fn opened_before(&self, now: Timestamp) -> Option<Timestamp> {
        let edges: Vec<Timestamp> = self.edges(now, -AHEAD..1).into_iter().filter(|at| *at <= now).collect();
        let closed = edges.iter().rposition(|at| !self.is_open(*at));
        match closed {
            Some(closed) => edges.get(closed + 1).copied(),
            None => None,
        }
    }

    /// Every moment around `now` at which a window may begin or end, in order: their own, and those
    /// at which the clocks change.
    fn edges(&self, now: Timestamp, days: std::ops::Range<i64>) -> Vec<Timestamp> {
        let today = self.zone.to_datetime(now).date();
        let mut edges = Vec::new();
        for day in days.start - 1..days.end + 1 {
            let Ok(date) = today.checked_add(Span::new().days(day)) else { continue };
            for window in self.windows {
                edges.extend(self.moments(date.to_datetime(window.start)));
                edges.extend(self.moments(date.to_datetime(window.end)));
            }
        }
        let reach = |days: i64| {
            let date = today.checked_add(Span::new().days(days)).ok()?;
            self.zone.to_timestamp(date.to_datetime(Time::midnight())).ok()
        };
        if let (Some(from), Some(until)) = (reach(days.start - 1), reach(days.end + 1)) {
            let changes = self.zone.following(from).map(|change| change.timestamp());
            edges.extend(changes.take_while(|at| *at < until));
        }
        edges.sort_unstable();
        edges.dedup();
        edges
    }

    /// When the wall clock shows this: never, once or twice.
    fn moments(&self, wall: DateTime) -> Vec<Timestamp> {
        let offsets = match self.zone.to_ambiguous_timestamp(wall).offset() {
            AmbiguousOffset::Unambiguous { offset } => vec![offset],
            AmbiguousOffset::Gap { .. } => vec![],
            AmbiguousOffset::Fold { before, after } => vec![before, after],
        };
        offsets.into_iter().filter_map(|offset| offset.to_timestamp(wall).ok()).collect()
    }
}

fn later(from: Timestamp, wait: Duration) -> Timestamp {
    from.checked_add(wait).unwrap_or(Timestamp::MAX)
}
