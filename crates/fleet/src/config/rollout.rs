//! `rollout:` of `volary.yml`: how a commit reaches the devices of a stage.
//!
//! When the next wave opens and when all stops is decided elsewhere; here are only the numbers.

use std::time::Duration;

use super::gates::Percent;
use crate::fields::{FieldError, Fields, percent};
use crate::yaml::{Node, Value};

/// How a stage is rolled out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// So many devices of one site change at once at most; any number if `None`. The site of a device
    /// is its variable [`SITE_VARIABLE`].
    pub per_site_at_most: Option<u32>,
    /// In which waves; all at once if `None`.
    pub waves: Option<Waves>,
}

/// The waves of a rollout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waves {
    /// The parts of the stage that are open after each, rising; the last is all.
    pub shares: Vec<Percent>,
    /// How long the devices of a wave must be well before the next one opens.
    pub pause: Duration,
    /// The largest part of failed devices that is borne.
    pub stop_above: Percent,
    /// The largest part of devices that may fall silent after they began.
    pub silent_at_most: Percent,
}

/// The variable of a device that names its site.
pub const SITE_VARIABLE: &str = "volary_site";

/// The most waves: more would be a list of devices.
const MAX_WAVES: usize = 20;

/// Where `pause` is silent: what most faults of a new release need to show.
const PAUSE: Duration = Duration::from_secs(3600);

/// Where `stop_above` is silent.
const STOP_ABOVE: u16 = 200;

/// Where `silent_at_most` is silent: devices are switched off by people, too.
const SILENT_AT_MOST: u16 = 500;

/// Keys that mean nothing without waves.
const OF_WAVES: [&str; 3] = ["pause", "stop_above", "silent_at_most"];

pub(super) fn rollout(section: &Fields<'_>, stage: &str) -> Result<Rollout, FieldError> {
    let known = ["waves", "pause", "stop_above", "silent_at_most", "per_site_at_most"];
    let fields = section.map(stage, &known)?;
    let waves = match fields.get("waves") {
        Some(_) => Some(waves(&fields)?),
        None => None,
    };
    if let (None, Some(key)) = (&waves, OF_WAVES.into_iter().find(|key| fields.get(key).is_some())) {
        let remedy = "write them: waves: [1%, 10%, 50%, 100%]";
        return Err(fields.complain(key, "it means nothing without `waves`", remedy));
    }
    let per_site_at_most = match fields.get("per_site_at_most") {
        Some(_) => Some(per_site(&fields)?),
        None => None,
    };
    if waves.is_none() && per_site_at_most.is_none() {
        let remedy = "write `waves: [1%, 10%, 50%, 100%]` or `per_site_at_most: 1`, or remove it";
        return Err(section.complain(stage, "nothing is said of the rollout", remedy));
    }
    Ok(Rollout { per_site_at_most, waves })
}

fn per_site(fields: &Fields<'_>) -> Result<u32, FieldError> {
    match fields.number("per_site_at_most")? {
        0 => {
            let remedy = "write at least 1; `stop:` keeps a stage from changing";
            Err(fields.complain("per_site_at_most", "with 0 no device would ever change", remedy))
        }
        number => Ok(number),
    }
}

fn waves(fields: &Fields<'_>) -> Result<Waves, FieldError> {
    let share = |name: &str, otherwise: u16| match fields.get(name) {
        Some(_) => fields.percent(name),
        None => Ok(Percent::from_hundredths(otherwise).expect("it is at most all")),
    };
    Ok(Waves {
        shares: shares(fields)?,
        pause: match fields.get("pause") {
            Some(_) => fields.duration("pause", Duration::ZERO, Duration::from_secs(31 * 86_400))?,
            None => PAUSE,
        },
        stop_above: share("stop_above", STOP_ABOVE)?,
        silent_at_most: share("silent_at_most", SILENT_AT_MOST)?,
    })
}

fn shares(fields: &Fields<'_>) -> Result<Vec<Percent>, FieldError> {
    let remedy = "write rising parts of the stage that end with all of it: [1%, 10%, 50%, 100%]";
    if !matches!(fields.get("waves"), Some(Node { value: Value::List(_), .. })) {
        return Err(fields.complain("waves", "this is not a list", remedy));
    }
    let mut shares: Vec<Percent> = Vec::new();
    for (text, line) in fields.texts("waves")? {
        let complain = |message: String| fields.complain_at(line, "waves", message, remedy);
        let share = percent(text).ok_or_else(|| complain(format!("{text:?} is not a percentage")))?;
        if share.hundredths() == 0 || shares.last().is_some_and(|before| *before >= share) {
            return Err(complain(format!("{share} adds no device to the wave before")));
        }
        shares.push(share);
    }
    if shares.last().is_none_or(|last| last.hundredths() != 10_000) {
        return Err(fields.complain("waves", "the last wave is not 100%", remedy));
    }
    if shares.len() > MAX_WAVES {
        let message = format!("there are {} waves, and {MAX_WAVES} are taken", shares.len());
        return Err(fields.complain("waves", message, "leave some out"));
    }
    Ok(shares)
}
