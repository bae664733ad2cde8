//! `gates:` and `signers:` of `volary.yml`: what a merge into a stage needs.
//!
//! Whether a gate is open is decided elsewhere; here are only its numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use volary_model::{GateName, Severity, StageName};

use super::windows::{Window, Zone};
use crate::fields::{FieldError, Fields, did_you_mean};
use crate::yaml::{Node, Value};

/// The most hours of a gate.
const MAX_HOURS: usize = 50;

/// The most gates of one kind whose word comes from elsewhere.
const MAX_TOLD: usize = 20;

const DAY: Duration = Duration::from_secs(86_400);

/// Conditions of a merge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gates {
    /// The release in `volary.lock` takes no more picks.
    pub frozen: bool,
    /// How long the commit has been on the stage before, unchanged.
    pub soak: Option<Duration>,
    /// How the devices of the stage before must be.
    pub healthy: Option<Healthy>,
    /// No watch rule of this severity or worse fires on the devices of the stage before.
    pub watch: Option<Severity>,
    /// The devices of the stage before do no worse than unchanged devices of a stage.
    pub no_worse_than: Option<NoWorseThan>,
    /// When merges are let in.
    pub time: Option<MergeHours>,
    /// No merge while a freeze of the stage is on.
    pub freeze: bool,
    /// Commands of the server that must say go, and after how long each is run again.
    pub command: BTreeMap<GateName, Duration>,
    /// What others must have said over the API, and how old that may be.
    pub external: BTreeMap<GateName, Duration>,
}

/// How devices that changed are compared with those that did not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoWorseThan {
    /// The stage of the unchanged devices.
    pub stage: StageName,
    /// How long devices are watched after their change.
    pub watched: Duration,
    /// How many looks there are in that time.
    pub looks: u32,
    /// Differences below this part do not count.
    pub effect: Percent,
    /// So many changed devices must have been measured.
    pub devices_at_least: u32,
}

/// Hours in which merges are let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergeHours {
    /// Inside any of these; there is at least one.
    pub open: Vec<Window>,
    /// Whose clock that is; never that of devices.
    pub zone: Zone,
}

/// How the devices of the stage before must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthy {
    /// At least this part of them is healthy.
    pub at_least: Percent,
    /// At most this part of them is silent.
    pub silent_at_most: Percent,
    /// There are at least so many of them.
    pub devices_at_least: u32,
}

/// A part of a whole, in hundredths of a percent so that 99.95 % is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

impl Percent {
    /// So many hundredths of a percent, at most 10,000.
    pub const fn from_hundredths(hundredths: u16) -> Option<Self> {
        if hundredths <= 10_000 { Some(Self(hundredths)) } else { None }
    }

    /// The part as a number from 0 to 10,000.
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// The part as a number from 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

pub(super) fn gates(section: &Fields<'_>, stage: &str) -> Result<Gates, FieldError> {
    let known =
        ["frozen", "soak", "healthy", "watch", "no_worse_than", "time", "freeze", "command", "external"];
    let fields = section.map(stage, &known)?;
    Ok(Gates {
        frozen: match fields.get("frozen") {
            Some(_) => fields.truth("frozen")?,
            None => false,
        },
        soak: match fields.get("soak") {
            Some(_) => Some(fields.duration("soak", Duration::ZERO, Duration::from_secs(366 * 86_400))?),
            None => None,
        },
        healthy: match fields.get("healthy") {
            Some(_) => Some(healthy(&fields)?),
            None => None,
        },
        watch: match fields.get("watch") {
            Some(_) => Some(fields.parsed("watch")?),
            None => None,
        },
        no_worse_than: match fields.get("no_worse_than") {
            Some(node) => Some(no_worse_than(&fields, node)?),
            None => None,
        },
        time: match fields.get("time") {
            Some(_) => Some(time(&fields)?),
            None => None,
        },
        freeze: match fields.get("freeze") {
            Some(_) => fields.truth("freeze")?,
            None => false,
        },
        command: told(&fields, "command")?,
        external: told(&fields, "external")?,
    })
}

/// Names of gates whose word comes from elsewhere, each with how old the word may be.
fn told(gates: &Fields<'_>, kind: &str) -> Result<BTreeMap<GateName, Duration>, FieldError> {
    let mut told = BTreeMap::new();
    if gates.get(kind).is_none() {
        return Ok(told);
    }
    let fields = gates.any_map(kind)?;
    let entries = gates.entries(kind)?;
    if entries.is_empty() || entries.len() > MAX_TOLD {
        let message = format!("there are {} names, and 1 to {MAX_TOLD} are taken", entries.len());
        return Err(gates.complain(kind, message, "write each as NAME: 24h"));
    }
    for (key, line, _) in entries {
        let name = key.parse().map_err(|error| fields.complain_at(line, key, format!("{error}"), ""))?;
        told.insert(name, fields.duration(key, Duration::from_secs(60), DAY * 366)?);
    }
    Ok(told)
}

/// A stage, or a map with how it is compared. Whether there is such a stage is seen by the whole file.
fn no_worse_than(gates: &Fields<'_>, node: &Node) -> Result<NoWorseThan, FieldError> {
    let plain =
        |stage| NoWorseThan { stage, watched: DAY, looks: 4, effect: Percent(500), devices_at_least: 3 };
    if matches!(node.value, Value::Scalar(_)) {
        return Ok(plain(gates.parsed("no_worse_than")?));
    }
    let fields = gates.map("no_worse_than", &["stage", "watched", "looks", "effect", "devices_at_least"])?;
    let mut read = plain(fields.parsed("stage")?);
    if fields.get("watched").is_some() {
        read.watched = fields.duration("watched", Duration::from_secs(60), DAY * 30)?;
    }
    if fields.get("looks").is_some() {
        read.looks = fields.number("looks")?;
    }
    if fields.get("effect").is_some() {
        read.effect = fields.percent("effect")?;
    }
    if fields.get("devices_at_least").is_some() {
        read.devices_at_least = fields.number("devices_at_least")?;
    }
    match read.looks {
        1..=6 => Ok(read),
        looks => {
            let remedy = "write 1 to 6: each look takes of the 2 % of false alarms that all share";
            Err(fields.complain("looks", format!("{looks} looks are not taken"), remedy))
        }
    }
}

fn time(gates: &Fields<'_>) -> Result<MergeHours, FieldError> {
    let fields = gates.map("time", &["open", "time_zone"])?;
    let remedy = "write it as \"Mon..Thu 08:00-16:00\"";
    let texts = fields.texts("open")?;
    if texts.is_empty() || texts.len() > MAX_HOURS {
        let message = format!("there are {} times, and 1 to {MAX_HOURS} are taken", texts.len());
        return Err(fields.complain("open", message, remedy));
    }
    let window = |(text, line): (&str, usize)| {
        text.parse().map_err(|message: String| fields.complain_at(line, "open", message, remedy))
    };
    let zone = match fields.get("time_zone") {
        Some(_) => fields.parsed("time_zone")?,
        None => Zone::Utc,
    };
    if zone == Zone::Device {
        let message = "a merge is made by people and not by a device";
        return Err(fields.complain("time_zone", message, "write `UTC` or `Area/City`"));
    }
    Ok(MergeHours { open: texts.into_iter().map(window).collect::<Result<_, _>>()?, zone })
}

/// A stage that a gate compares with and that is not there.
pub(super) fn unknown_stage(
    root: &Fields<'_>,
    gates: &std::collections::BTreeMap<StageName, Gates>,
    stages: &[StageName],
) -> Option<FieldError> {
    let mut compared =
        gates.iter().filter_map(|(into, gates)| Some((into, &gates.no_worse_than.as_ref()?.stage)));
    let (into, unknown) = compared.find(|(_, stage)| !stages.contains(stage))?;
    let known: Vec<&str> = stages.iter().map(StageName::as_str).collect();
    let message = format!("{into}.no_worse_than: there is no stage \"{unknown}\"");
    Some(root.complain("gates", message, did_you_mean(unknown.as_str(), &known)))
}

fn healthy(gates: &Fields<'_>) -> Result<Healthy, FieldError> {
    let fields = gates.map("healthy", &["at_least", "silent_at_most", "devices_at_least"])?;
    let or = |name: &str, default: u16| match fields.get(name) {
        Some(_) => fields.percent(name),
        None => Ok(Percent(default)),
    };
    Ok(Healthy {
        at_least: or("at_least", 10_000)?,
        silent_at_most: or("silent_at_most", 0)?,
        devices_at_least: match fields.get("devices_at_least") {
            Some(_) => fields.number("devices_at_least")?,
            None => 1,
        },
    })
}

pub(super) fn signers(section: &Fields<'_>, stage: &str) -> Result<Vec<String>, FieldError> {
    let remedy = "write a list of names from .volary/allowed_signers: [alice@example.com]";
    if !matches!(section.get(stage), Some(Node { value: Value::List(_), .. })) {
        return Err(section.complain(stage, "this is not a list", remedy));
    }
    let names: Vec<String> = section.texts(stage)?.into_iter().map(|(name, _)| name.to_owned()).collect();
    if names.is_empty() {
        return Err(section.complain(stage, "nobody may sign for this stage", remedy));
    }
    Ok(names)
}

/// How many different people must have signed: never more than may sign.
pub(super) fn quorum(section: &Fields<'_>, stage: &str) -> Result<u32, FieldError> {
    match section.number(stage)? {
        0 => Err(section.complain(stage, "a commit that nobody signed is never taken", "write at least 1")),
        people => Ok(people),
    }
}
