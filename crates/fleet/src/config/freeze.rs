//! `freeze:` and `stop:` of `volary.yml`: when a stage changes nothing at all.
//!
//! A freeze has a beginning and an end; a stop lasts until a later commit of the stage takes it
//! away. A device obeys the stop of the newest commit that it accepted, applied or not.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime, Time};
use volary_model::StageName;

use crate::fields::{FieldError, Fields, did_you_mean};
use crate::yaml::Value;

/// The most freezes: more than a fleet plans ahead, and few enough to walk through.
const MAX_FREEZES: usize = 200;

/// The longest reason, in bytes: it stands in reports and tables.
const MAX_REASON: usize = 500;

/// A time in which stages change nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Freeze {
    /// The stages, at least one.
    pub stages: Vec<StageName>,
    /// The first moment of it.
    pub from: Moment,
    /// The first moment after it.
    pub until: Moment,
    /// Why, for people.
    pub reason: String,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The same everywhere: it was written with `Z` or an offset.
    Exact(Timestamp),
    /// On the clock of the stage's windows: in their time zone, or the device's without one.
    Local(DateTime),
}

pub(super) fn freezes(root: &Fields<'_>, stages: &[StageName]) -> Result<Vec<Freeze>, FieldError> {
    let Some(node) = root.get("freeze") else { return Ok(Vec::new()) };
    let items = match &node.value {
        Value::List(items) if items.len() <= MAX_FREEZES => items.as_slice(),
        Value::List(items) => {
            let message = format!("there are {} freezes, and {MAX_FREEZES} are taken", items.len());
            return Err(root.complain("freeze", message, "remove those that are over"));
        }
        Value::Scalar(text) if text.is_empty() => &[],
        Value::Scalar(_) | Value::Map(_) => {
            let remedy = "write `- { stage: …, from: …, until: …, reason: … }` lines";
            return Err(root.complain("freeze", "this is not a list", remedy));
        }
    };
    let numbered = items.iter().enumerate();
    let read = |(number, item)| {
        let path = format!("freeze[{number}]");
        freeze(&Fields::new(item, &path, &["stage", "from", "until", "reason"])?, stages)
    };
    numbered.map(read).collect()
}

fn freeze(fields: &Fields<'_>, stages: &[StageName]) -> Result<Freeze, FieldError> {
    let known: Vec<&str> = stages.iter().map(StageName::as_str).collect();
    let mut frozen = Vec::new();
    for (name, line) in fields.texts("stage")? {
        match stages.iter().find(|stage| stage.as_str() == name) {
            Some(stage) => frozen.push(stage.clone()),
            None => {
                let message = format!("there is no stage {name:?}");
                return Err(fields.complain_at(line, "stage", message, did_you_mean(name, &known)));
            }
        }
    }
    if frozen.is_empty() {
        return Err(fields.complain("stage", "no stage is named", "write one, or a list of them"));
    }
    let from = moment(fields, "from", false)?;
    let until = moment(fields, "until", true)?;
    let backwards = match (from, until) {
        (Moment::Exact(from), Moment::Exact(until)) => until <= from,
        (Moment::Local(from), Moment::Local(until)) => until <= from,
        // Offsets differ by 26 hours at most, so these are compared on the device.
        (Moment::Exact(_), Moment::Local(_)) | (Moment::Local(_), Moment::Exact(_)) => false,
    };
    if backwards {
        return Err(fields.complain("until", "it ends before it begins", "write a later time than `from`"));
    }
    Ok(Freeze { stages: frozen, from, until, reason: reason(fields, "reason")? })
}

/// A date, or a date and a time, with an offset or without. A date as an end means all of that day.
fn moment(fields: &Fields<'_>, name: &str, is_end: bool) -> Result<Moment, FieldError> {
    let text = fields.text(name)?;
    let remedy = "write 2026-12-20, 2026-12-20T18:00 or 2026-12-20T18:00:00Z";
    let bad = || fields.complain(name, format!("{text:?} is no date or time"), remedy);
    if let Ok(exact) = text.parse::<Timestamp>() {
        return Ok(Moment::Exact(exact));
    }
    if text.len() == "2026-12-20".len() {
        let date: Date = text.parse().map_err(|_| bad())?;
        let first = if is_end { date.tomorrow().map_err(|_| bad())? } else { date };
        return Ok(Moment::Local(first.to_datetime(Time::midnight())));
    }
    // The reader takes zones in brackets and forgets them; here they would look as if they counted.
    let is_plain =
        text.contains(':') && text.bytes().all(|byte| byte.is_ascii_digit() || b"-:T ".contains(&byte));
    match text.parse::<DateTime>() {
        Ok(local) if is_plain => Ok(Moment::Local(local)),
        Ok(_) | Err(_) => Err(bad()),
    }
}

pub(super) fn stop(section: &Fields<'_>, stage: &str) -> Result<String, FieldError> {
    reason(section, stage)
}

fn reason(fields: &Fields<'_>, name: &str) -> Result<String, FieldError> {
    let text = fields.text(name)?.trim();
    match text.len() {
        1..=MAX_REASON => Ok(text.to_owned()),
        _ => {
            let message = format!("the reason has {} bytes, and 1 to {MAX_REASON} are taken", text.len());
            Err(fields.complain(name, message, "say in a sentence why, for those who wait"))
        }
    }
}
