//! `metrics:` of `volary.yml`: what devices of a stage measure, how often, and how often they send it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::fields::{FieldError, Fields, did_you_mean};
use crate::yaml::Value;

/// What a device can measure by itself, by the names of the series. The agent knows how; those of
/// units, mounts and the like have a label for each.
pub const SERIES: [&str; 30] = [
    "certificate_expiry_seconds",
    "clock_synchronised",
    "cpu_seconds_total",
    "disk_free_bytes",
    "disk_size_bytes",
    "disk_written_bytes_total",
    "dpkg_broken_packages",
    "dpkg_interrupted",
    "flash_life_used_ratio",
    "flash_pre_eol",
    "inodes_free",
    "inodes_total",
    "journal_errors_total",
    "load1",
    "memory_available_bytes",
    "memory_pressure_ratio",
    "memory_total_bytes",
    "network_receive_bytes_total",
    "network_transmit_bytes_total",
    "oom_kills_total",
    "points_lost_total",
    "reboot_pending",
    "swap_total_bytes",
    "swap_used_bytes",
    "temperature_celsius",
    "unclean_boot",
    "unit_failed",
    "unit_memory_bytes",
    "unit_restarts_total",
    "uptime_seconds",
];

/// `set: basic`: without what changes at each look and no rule needs, for links that cost by the byte.
const NOT_BASIC: [&str; 6] = [
    "inodes_total",
    "load1",
    "memory_pressure_ratio",
    "network_receive_bytes_total",
    "network_transmit_bytes_total",
    "temperature_celsius",
];

/// How the names begin of what a fleet measures itself.
const OWN: &str = "fleet_";

/// One point a minute shows what a minute of trouble did, and costs a device nothing.
const DEFAULT_EVERY: Duration = Duration::from_secs(60);

/// As often as the health of a device is looked at.
const DEFAULT_SEND: Duration = Duration::from_secs(5 * 60);

/// More lines a minute than this tell nobody more, and would fill a link.
const DEFAULT_JOURNAL: u32 = 20;
const MAX_JOURNAL: u32 = 200;

/// The most points of a series between two sendings; what a device sends at once is bounded.
const MAX_POINTS: u64 = 720;

/// The most names in each of the lists.
const MAX_NAMED: usize = 50;

/// What the devices of a stage measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metrics {
    /// How often they measure.
    pub every: Duration,
    /// How often they send what they measured.
    pub send: Duration,
    /// Which of [`SERIES`].
    pub series: BTreeSet<String>,
    /// Units to measure beside those of the archive's packages.
    pub units: Vec<String>,
    /// Files with certificates whose end is watched, beside the device's own: absolute paths.
    pub certificates: Vec<String>,
    /// Series of the fleet's own that a file holds the number of: name → absolute path.
    pub files: BTreeMap<String, String>,
    /// Series of the fleet's own that a program of the checkout prints the number of: name → its path in
    /// the checkout, and its arguments.
    pub commands: BTreeMap<String, Vec<String>>,
    /// How many lines of the journal of priority error and above are sent, a minute at most.
    pub journal: u32,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            every: DEFAULT_EVERY,
            send: DEFAULT_SEND,
            series: SERIES.map(str::to_owned).into(),
            units: Vec::new(),
            certificates: Vec::new(),
            files: BTreeMap::new(),
            commands: BTreeMap::new(),
            journal: DEFAULT_JOURNAL,
        }
    }
}

const KEYS: [&str; 8] = ["every", "send", "set", "units", "certificates", "files", "commands", "journal"];

/// An entry for a stage: a map, or `off`.
pub(super) fn metrics(section: &Fields<'_>, stage: &str) -> Result<Option<Metrics>, FieldError> {
    if let Some(Value::Scalar(text)) = section.get(stage).map(|node| &node.value)
        && !text.is_empty()
    {
        return match text.as_str() {
            "off" => Ok(None),
            other => {
                let message = format!("{other:?} is nothing to do with metrics");
                Err(section.complain(stage, message, "write `off`, or a map as { every: 60s, send: 5m }"))
            }
        };
    }
    let fields = section.map(stage, &KEYS)?;
    let day = Duration::from_secs(24 * 3600);
    let every = match fields.get("every") {
        Some(_) => fields.duration("every", Duration::from_secs(1), Duration::from_secs(3600))?,
        None => DEFAULT_EVERY,
    };
    let send = match fields.get("send") {
        Some(_) => fields.duration("send", every.max(Duration::from_secs(5)), day)?,
        None => DEFAULT_SEND.max(every),
    };
    if send.as_secs() / every.as_secs() > MAX_POINTS {
        let message = format!("{} points would be sent at once", send.as_secs() / every.as_secs());
        let remedy = format!("at most {MAX_POINTS} are: send more often, or measure less often");
        return Err(fields.complain("send", message, remedy));
    }
    let metrics = Metrics {
        every,
        send,
        series: series(&fields)?,
        units: list(&fields, "units", unit)?,
        certificates: list(&fields, "certificates", absolute)?,
        files: files(&fields)?,
        commands: commands(&fields)?,
        journal: match fields.get("journal") {
            Some(_) => fields.number("journal")?,
            None => DEFAULT_JOURNAL,
        },
    };
    if metrics.journal > MAX_JOURNAL {
        let remedy = format!("write at most {MAX_JOURNAL} lines a minute; 0 sends none");
        return Err(fields.complain("journal", format!("{} are too many", metrics.journal), remedy));
    }
    if let Some(name) = metrics.files.keys().find(|name| metrics.commands.contains_key(*name)) {
        let message = format!("{name} is the name of a file and of a command");
        return Err(fields.complain("commands", message, "give each series a name of its own"));
    }
    Ok(Some(metrics))
}

fn series(fields: &Fields<'_>) -> Result<BTreeSet<String>, FieldError> {
    if fields.get("set").is_none() {
        return Ok(Metrics::default().series);
    }
    let named = fields.texts("set")?;
    match named[..] {
        [("full", _)] => return Ok(Metrics::default().series),
        [("basic", _)] => {
            let basic = SERIES.iter().filter(|name| !NOT_BASIC.contains(name));
            return Ok(basic.map(|&name| name.to_owned()).collect());
        }
        _ => {}
    }
    let one = |(name, line): (&str, usize)| {
        if SERIES.contains(&name) {
            return Ok(name.to_owned());
        }
        let message = format!("{name:?} is nothing that a device measures");
        let remedy = match name {
            "full" | "basic" => "write `set: full` or `set: basic` without a list".to_owned(),
            _ if name.starts_with(OWN) => "series of your own are measured because they are named".to_owned(),
            _ => did_you_mean(name, &SERIES),
        };
        Err(fields.complain_at(line, "set", message, remedy))
    };
    named.into_iter().map(one).collect()
}

type Complaint = (String, &'static str);

fn list(
    fields: &Fields<'_>,
    key: &str,
    check: fn(&str) -> Result<(), Complaint>,
) -> Result<Vec<String>, FieldError> {
    if fields.get(key).is_none() {
        return Ok(Vec::new());
    }
    let texts = fields.texts(key)?;
    if texts.len() > MAX_NAMED {
        let message = format!("there are {}, and {MAX_NAMED} are taken", texts.len());
        return Err(fields.complain(key, message, "name those that matter"));
    }
    let one = |(text, line): (&str, usize)| match check(text) {
        Ok(()) => Ok(text.to_owned()),
        Err((message, remedy)) => Err(fields.complain_at(line, key, message, remedy)),
    };
    texts.into_iter().map(one).collect()
}

fn unit(name: &str) -> Result<(), Complaint> {
    let kinds = [".service", ".socket", ".mount", ".timer", ".slice", ".scope"];
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let is_unit = kinds.iter().any(|kind| name.len() > kind.len() && name.ends_with(kind));
    if is_unit && name.len() <= 255 && !name.starts_with('-') && name.bytes().all(plain) {
        Ok(())
    } else {
        Err((format!("{name:?} is not the name of a unit"), "write it in full: app.service"))
    }
}

fn absolute(path: &str) -> Result<(), Complaint> {
    match path.strip_prefix('/') {
        Some(inside) => plain(path, inside),
        None => Err((format!("{path:?} is not an absolute path"), "let it begin with `/`")),
    }
}

fn relative(path: &str) -> Result<(), Complaint> {
    if path.starts_with('/') {
        let remedy = "write the path of a program in the fleet repository, without a `/` before it";
        return Err((format!("{path:?} is not in the fleet repository"), remedy));
    }
    plain(path, path)
}

fn plain(path: &str, inside: &str) -> Result<(), Complaint> {
    let strange = inside.split('/').any(|part| matches!(part, "" | "." | ".."));
    if strange || path.len() > 1000 || path.contains(char::is_control) {
        let remedy = "write it without `.`, `..`, double or trailing slashes and control characters";
        return Err((format!("{path:?} is not written as a plain path"), remedy));
    }
    Ok(())
}

fn files(fields: &Fields<'_>) -> Result<BTreeMap<String, String>, FieldError> {
    own(fields, "files", |section, name| {
        let path = section.text(name)?;
        absolute(path).map_err(|(message, remedy)| section.complain(name, message, remedy))?;
        Ok(path.to_owned())
    })
}

fn commands(fields: &Fields<'_>) -> Result<BTreeMap<String, Vec<String>>, FieldError> {
    own(fields, "commands", |section, name| {
        let words: Vec<&str> = section.texts(name)?.into_iter().map(|(word, _)| word).collect();
        let Some(program) = words.first().filter(|_| words.len() <= MAX_NAMED) else {
            return Err(section.complain(name, "this is no command", "write [metrics/program, argument]"));
        };
        relative(program).map_err(|(message, remedy)| section.complain(name, message, remedy))?;
        Ok(words.into_iter().map(str::to_owned).collect())
    })
}

/// A map of the fleet's own series.
fn own<T>(
    fields: &Fields<'_>,
    key: &str,
    read: fn(&Fields<'_>, &str) -> Result<T, FieldError>,
) -> Result<BTreeMap<String, T>, FieldError> {
    let mut map = BTreeMap::new();
    if fields.get(key).is_none() {
        return Ok(map);
    }
    let section = fields.any_map(key)?;
    for (name, line, _) in fields.entries(key)? {
        let letters = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_own = name.strip_prefix(OWN).is_some_and(|rest| !rest.is_empty());
        if !is_own || name.len() > 60 || !name.bytes().all(letters) {
            let message = format!("{name:?} is no name for a series of your own");
            let remedy = "let it begin with `fleet_`, and use lower-case letters, digits and `_`";
            return Err(section.complain_at(line, name, message, remedy));
        }
        map.insert(name.to_owned(), read(&section, name)?);
    }
    if map.len() > MAX_NAMED {
        let message = format!("there are {}, and {MAX_NAMED} are taken", map.len());
        return Err(fields.complain(key, message, "name those that matter"));
    }
    Ok(map)
}
