//! `watch:` of `volary.yml`: the rules that watch devices.
//!
//! Whether a rule fires is decided elsewhere; here are only its numbers.

use std::time::Duration;

use volary_model::{Bound, SeriesPattern, Severity, StageName, WatchKind, WatchRule};

use crate::fields::{FieldError, Fields, did_you_mean};
use crate::yaml::Value;

/// The most rules: each is asked of each device.
const MAX_RULES: usize = 100;

/// The longest text, in bytes: it stands in alerts and tables.
const MAX_TEXT: usize = 1000;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// The longest time that a rule looks back: no longer than measurements are kept in full.
const LONGEST: Duration = Duration::from_secs(60 * 86_400);

/// A leak and a forecast are asked again after this part of their window; their state clears no sooner.
const PART_OF_WINDOW: u32 = 24;

/// Keys of every rule.
const COMMON: [&str; 7] = ["name", "kind", "stages", "for", "clear", "severity", "text"];

pub(super) fn rules(root: &Fields<'_>, stages: &[StageName]) -> Result<Vec<WatchRule>, FieldError> {
    let Some(node) = root.get("watch") else { return Ok(Vec::new()) };
    let items = match &node.value {
        Value::List(items) if items.len() <= MAX_RULES => items.as_slice(),
        Value::List(items) => {
            let message = format!("there are {} rules, and {MAX_RULES} are taken", items.len());
            return Err(root.complain("watch", message, "one pattern of series may stand for several rules"));
        }
        Value::Scalar(text) if text.is_empty() => &[],
        Value::Scalar(_) | Value::Map(_) => {
            let remedy = "write `- { name: …, kind: …, … }` lines";
            return Err(root.complain("watch", "this is not a list", remedy));
        }
    };
    let mut rules: Vec<WatchRule> = Vec::new();
    for (number, item) in items.iter().enumerate() {
        let path = format!("watch[{number}]");
        // The keys depend on the kind, so that is read first.
        let kind = kind_of(&Fields::of_any_key(item, &path)?)?;
        let known: Vec<&str> = COMMON.iter().chain(keys(kind)).copied().collect();
        let fields = Fields::new(item, &path, &known)?;
        let rule = rule(&fields, kind, stages)?;
        if rules.iter().any(|other| other.name == rule.name) {
            let message = format!("there are two rules {:?}", rule.name);
            return Err(fields.complain("name", message, "give each rule a name of its own"));
        }
        rules.push(rule);
    }
    Ok(rules)
}

fn kind_of<'a>(fields: &Fields<'a>) -> Result<&'a str, FieldError> {
    let kind = fields.text("kind")?;
    if WatchKind::NAMES.contains(&kind) {
        return Ok(kind);
    }
    let remedy = did_you_mean(kind, &WatchKind::NAMES);
    Err(fields.complain("kind", format!("there is no kind {kind:?}"), remedy))
}

/// The keys of a kind, beside those of all.
fn keys(kind: &str) -> &'static [&'static str] {
    match kind {
        "threshold" => &["series", "above", "below", "of"],
        "absence" => &["series", "longer_than"],
        "rate" => &["series", "above", "within"],
        "forecast" => &["series", "of", "full_within", "window", "free_below"],
        "leak" => &["series", "window", "at_least"],
        "flapping" => &["series", "restarts", "within"],
        "reboot-loop" => &["boots", "within"],
        "version-skew" => &["longer_than"],
        // The last of the kinds, which were compared with their list before.
        _ => &["more_than"],
    }
}

fn rule(fields: &Fields<'_>, kind: &str, stages: &[StageName]) -> Result<WatchRule, FieldError> {
    let name = fields.text("name")?;
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.len() > 64 || !name.bytes().all(is_plain) {
        let message = format!("{name:?} is no name of a rule");
        return Err(fields.complain("name", message, "write 1 to 64 lower-case letters, digits and dashes"));
    }
    let kind = what(fields, kind)?;
    let held_for = or(fields, "for", default_for(&kind), Duration::ZERO, DAY * 7)?;
    let clear_after = or(fields, "clear", default_clear(&kind).max(held_for), Duration::ZERO, DAY * 7)?;
    Ok(WatchRule {
        name: name.to_owned(),
        kind,
        stages: named_stages(fields, stages)?,
        held_for,
        clear_after,
        severity: match fields.get("severity") {
            Some(_) => fields.parsed("severity")?,
            None => Severity::Warning,
        },
        text: match fields.get("text") {
            Some(_) => text(fields)?,
            None => String::new(),
        },
    })
}

/// A single value that is out of bounds may be a mistake of the measurement; a window of them is none.
fn default_for(kind: &WatchKind) -> Duration {
    match kind {
        WatchKind::Threshold { .. } | WatchKind::ClockSkew { .. } => 300 * SECOND,
        WatchKind::Absence { .. }
        | WatchKind::Rate { .. }
        | WatchKind::Forecast { .. }
        | WatchKind::Leak { .. }
        | WatchKind::Flapping { .. }
        | WatchKind::RebootLoop { .. }
        | WatchKind::VersionSkew { .. } => Duration::ZERO,
    }
}

/// What counts over a time clears after the same time, so that a rule does not come and go with each restart.
fn default_clear(kind: &WatchKind) -> Duration {
    match kind {
        WatchKind::Threshold { .. }
        | WatchKind::ClockSkew { .. }
        | WatchKind::Absence { .. }
        | WatchKind::VersionSkew { .. } => Duration::ZERO,
        WatchKind::Rate { within, .. }
        | WatchKind::Flapping { within, .. }
        | WatchKind::RebootLoop { within, .. } => *within,
        WatchKind::Forecast { window, .. } | WatchKind::Leak { window, .. } => *window / PART_OF_WINDOW,
    }
}

fn what(fields: &Fields<'_>, kind: &str) -> Result<WatchKind, FieldError> {
    Ok(match kind {
        "threshold" => {
            let part_of = whole(fields)?;
            WatchKind::Threshold {
                series: series(fields)?,
                bound: bound(fields, part_of.is_some())?,
                part_of,
            }
        }
        "absence" => WatchKind::Absence {
            series: match fields.get("series") {
                Some(_) => Some(series(fields)?),
                None => None,
            },
            longer_than: fields.duration("longer_than", SECOND, LONGEST)?,
        },
        "rate" => WatchKind::Rate {
            series: series(fields)?,
            above: amount(fields, "above")?,
            within: fields.duration("within", SECOND, LONGEST)?,
        },
        "forecast" => WatchKind::Forecast {
            series: series(fields)?,
            full_within: or(fields, "full_within", 3 * DAY, SECOND, 366 * DAY)?,
            window: or(fields, "window", 3 * DAY, 10 * SECOND, LONGEST)?,
            part_of: whole(fields)?,
            free_below: part(fields, "free_below", 0.4)?,
        },
        "leak" => WatchKind::Leak {
            series: series(fields)?,
            window: or(fields, "window", 7 * DAY, 60 * SECOND, LONGEST)?,
            at_least: part(fields, "at_least", 0.09)?,
        },
        "flapping" => WatchKind::Flapping {
            series: match fields.get("series") {
                Some(_) => series(fields)?,
                None => SeriesPattern::named("unit_restarts_total").expect("it is a name"),
            },
            restarts: times(fields, "restarts", 3)?,
            within: or(fields, "within", 600 * SECOND, SECOND, LONGEST)?,
        },
        "reboot-loop" => WatchKind::RebootLoop {
            boots: times(fields, "boots", 3)?,
            within: or(fields, "within", HOUR / 2, SECOND, LONGEST)?,
        },
        "version-skew" => {
            WatchKind::VersionSkew { longer_than: fields.duration("longer_than", SECOND, LONGEST)? }
        }
        _ => WatchKind::ClockSkew { more_than: or(fields, "more_than", 60 * SECOND, SECOND, 366 * DAY)? },
    })
}

fn named_stages(fields: &Fields<'_>, stages: &[StageName]) -> Result<Vec<StageName>, FieldError> {
    if fields.get("stages").is_none() {
        return Ok(Vec::new());
    }
    let find = |(name, line): (&str, usize)| {
        stages.iter().find(|stage| stage.as_str() == name).cloned().ok_or_else(|| {
            let known: Vec<&str> = stages.iter().map(StageName::as_str).collect();
            let message = format!("there is no stage {name:?}");
            fields.complain_at(line, "stages", message, did_you_mean(name, &known))
        })
    };
    fields.texts("stages")?.into_iter().map(find).collect()
}

fn text(fields: &Fields<'_>) -> Result<String, FieldError> {
    let text = fields.text("text")?.trim();
    if text.len() > MAX_TEXT {
        let message = format!("the text has {} bytes, and {MAX_TEXT} are taken", text.len());
        return Err(fields.complain("text", message, "say in a sentence what to do"));
    }
    Ok(text.to_owned())
}

fn series(fields: &Fields<'_>) -> Result<SeriesPattern, FieldError> {
    fields.parsed("series")
}

/// `of:`, the name of a series that is the whole.
fn whole(fields: &Fields<'_>) -> Result<Option<String>, FieldError> {
    if fields.get("of").is_none() {
        return Ok(None);
    }
    let name = fields.text("of")?;
    match SeriesPattern::named(name) {
        Some(_) => Ok(Some(name.to_owned())),
        None => {
            let message = format!("{name:?} is no name of a series");
            Err(fields.complain("of", message, "write it without labels: they are those of `series`"))
        }
    }
}

fn bound(fields: &Fields<'_>, is_part: bool) -> Result<Bound, FieldError> {
    let value = |name: &str| match is_part {
        true => fields.percent(name).map(|percent| percent.fraction()),
        false => amount(fields, name),
    };
    match (fields.get("above"), fields.get("below")) {
        (Some(_), None) => Ok(Bound::Above(value("above")?)),
        (None, Some(_)) => Ok(Bound::Below(value("below")?)),
        (Some(_), Some(_)) => Err(fields.complain(
            "below",
            "there are two bounds",
            "write two rules, or one of `above` and `below`",
        )),
        (None, None) => Err(fields.complain("above", "there is no bound", "write `above: …` or `below: …`")),
    }
}

fn or(
    fields: &Fields<'_>,
    name: &str,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Result<Duration, FieldError> {
    if fields.get(name).is_none() { Ok(default) } else { fields.duration(name, least, most) }
}

fn part(fields: &Fields<'_>, name: &str, default: f64) -> Result<f64, FieldError> {
    if fields.get(name).is_none() { Ok(default) } else { Ok(fields.percent(name)?.fraction()) }
}

fn times(fields: &Fields<'_>, name: &str, default: u32) -> Result<u32, FieldError> {
    if fields.get(name).is_none() {
        return Ok(default);
    }
    match fields.number(name)? {
        0 => Err(fields.complain(name, "0 would always hold", "write at least 1")),
        number => Ok(number),
    }
}

/// A number, or one with a unit of size: `3`, `-0.5`, `64MiB`.
fn amount(fields: &Fields<'_>, name: &str) -> Result<f64, FieldError> {
    const UNITS: [(&str, f64); 6] = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("kB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
    ];
    let text = fields.text(name)?;
    let split = UNITS.iter().find_map(|(unit, size)| Some((text.strip_suffix(unit)?.trim_end(), *size)));
    let (number, size) = split.unwrap_or((text, 1.0));
    let is_plain = number.bytes().all(|byte| byte.is_ascii_digit() || b"-.".contains(&byte));
    match number.parse::<f64>() {
        Ok(number) if is_plain && number.is_finite() => Ok(number * size),
        Ok(_) | Err(_) => {
            let remedy = "write it as 3, 0.5 or 64MiB; as 5% with `of`, the series that is the whole";
            Err(fields.complain(name, format!("{text:?} is not a number"), remedy))
        }
    }
}
