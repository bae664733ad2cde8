//! Lines of the journal of priority error and above: what the last reading left, bounded.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use volary_api::v1::metrics::JournalError;
use volary_host::{Cmd, Stop};

use super::Moment;

/// The most lines that are read at once; a storm of more is passed over.
const READ: usize = 5000;

/// The most lines that are sent at once.
const SENT: usize = 1000;

/// How much of a message is sent, in bytes: its beginning says what it is about.
const MESSAGE: usize = 300;

/// The most units whose lines are counted apart.
const UNITS: usize = 30;

/// Where journald keeps its files, each machine's in a folder of its own (systemd-journald.service(8)).
const FOLDERS: [&str; 2] = ["/run/log/journal", "/var/log/journal"];

/// A file that was written less than this many nanoseconds ago may be written again without a trace:
/// journald sets the time of a file up to a quarter of a second late, and some file systems count whole seconds.
const SETTLED: i128 = 2_000_000_000;

/// How long journalctl may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// How long ago it was written.
    pub age: Duration,
    /// 0 to 3.
    pub priority: u8,
    /// Who wrote it, or whom it is about.
    pub unit: String,
    /// Its beginning.
    pub message: String,
}

/// What a reading found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// Oldest first.
    pub lines: Vec<Line>,
    /// From where to read on; `None` if nothing was found.
    pub cursor: Option<String>,
    /// True if there were more.
    pub cut: bool,
    /// The journal's files from before it was read: while they stay the same, there is nothing new.
    pub files: Option<Files>,
}

/// The journal's files as they are at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files(Vec<(PathBuf, [i128; 3])>);

impl Files {
    /// Those below `root`; `None` if they tell nothing, since there are none or one was written just now.
    pub fn look(root: &Path, now: Timestamp) -> Option<Self> {
        let within = |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten();
        let mut files = Vec::new();
        for folder in FOLDERS.iter().flat_map(|folder| within(root.join(folder.trim_start_matches('/')))) {
            for file in within(folder.path()) {
                let facts = file.metadata().ok()?;
                let written = i128::from(facts.mtime()) * 1_000_000_000 + i128::from(facts.mtime_nsec());
                if now.as_nanosecond() - written < SETTLED {
                    return None;
                }
                files.push((file.path(), [written, facts.len().into(), facts.ino().into()]));
            }
        }
        files.sort();
        (!files.is_empty()).then_some(Self(files))
    }
}

/// Reads what came after a cursor; without one, since the boot. Nothing if the files are still these.
pub type Read = fn(Option<&str>, Option<&Files>, &Moment) -> Reading;

/// Reads the journal of this machine.
pub fn read(after: Option<&str>, known: Option<&Files>, now: &Moment) -> Reading {
    let files = Files::look(Path::new("/"), now.at);
    if files.is_some() && files.as_ref() == known {
        return Reading::default();
    }
    let reading = run(after, now);
    // A cursor of a journal that is not there any more.
    let reading = if reading.is_none() && after.is_some() { run(None, now) } else { reading };
    let files = files.filter(|_| reading.is_some());
    let mut reading = Reading { files, ..reading.unwrap_or_default() };
    if reading.cut {
        reading.cursor = end().or(reading.cursor);
    }
    reading
}

fn run(after: Option<&str>, now: &Moment) -> Option<Reading> {
    let stop = Stop::default();
    let from = after.map_or_else(|| "--boot".to_owned(), |cursor| format!("--after-cursor={cursor}"));
    let command = journalctl()
        .args(["--priority=3", "--output=json", &from])
        .arg("--output-fields=PRIORITY,MESSAGE,_SYSTEMD_UNIT,UNIT,SYSLOG_IDENTIFIER")
        .timeout(LIMIT)
        .stop(&stop);
    let mut reading = Reading::default();
    let ended = command.check_lines(&mut |text| {
        if reading.lines.len() == READ {
            reading.cut = true;
            stop.ask();
        } else if let Some((line, cursor)) = parse(text, now) {
            reading.lines.push(line);
            reading.cursor = Some(cursor);
        }
    });
    // One that was stopped has said enough, and one that ran out of time may have.
    (ended.is_ok() || reading.cursor.is_some()).then_some(reading)
}

/// Where the journal ends.
fn end() -> Option<String> {
    let shown = journalctl().args(["--lines=0", "--show-cursor"]).timeout(LIMIT).check().ok()?.text();
    shown.lines().find_map(|line| line.strip_prefix("-- cursor: ")).map(str::to_owned)
}

fn journalctl() -> Cmd {
    Cmd::new("journalctl").args(["--no-pager", "--quiet"])
}

/// A line of journalctl's JSON, with its cursor. A field that stands twice is a list, and so is one that
/// is no text.
fn parse(text: &str, now: &Moment) -> Option<(Line, String)> {
    let entry: Value = serde_json::from_str(text).ok()?;
    let field = |name: &str| entry.get(name).map(words).filter(|text| !text.is_empty());
    let micros = |name: &str| field(name)?.parse().ok().map(Duration::from_micros);
    let boot = field("_BOOT_ID").unwrap_or_default();
    let age = if !boot.is_empty() && boot == now.boot_id.replace('-', "") {
        now.awake.saturating_sub(micros("__MONOTONIC_TIMESTAMP")?)
    } else {
        let written = micros("__REALTIME_TIMESTAMP")?.as_micros();
        let written = Timestamp::from_microsecond(i64::try_from(written).ok()?).ok()?;
        Duration::try_from(now.at.duration_since(written)).unwrap_or_default()
    };
    // What systemd says of a unit it says in its own name.
    let unit = field("UNIT").or_else(|| field("_SYSTEMD_UNIT")).or_else(|| field("SYSLOG_IDENTIFIER"));
    let line = Line {
        age,
        priority: field("PRIORITY")?.parse().ok().filter(|priority| *priority <= 3)?,
        unit: unit.unwrap_or_default().chars().filter(|letter| !letter.is_control()).take(120).collect(),
        message: beginning(&field("MESSAGE").unwrap_or_default()),
    };
    Some((line, field("__CURSOR")?))
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => match items.first() {
            Some(first @ Value::String(_)) => words(first),
            _ => {
                let bytes = items.iter().filter_map(|item| u8::try_from(item.as_u64()?).ok());
                String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
            }
        },
        Value::Number(number) => number.to_string(),
        Value::Null | Value::Bool(_) | Value::Object(_) => String::new(),
    }
}

fn beginning(message: &str) -> String {
    let plain: String = message
        .trim()
        .chars()
        .take(MESSAGE)
        .map(|letter| if letter.is_control() { ' ' } else { letter })
        .collect();
    let end = (0..=plain.len().min(MESSAGE)).rev().find(|&at| plain.is_char_boundary(at)).unwrap_or(0);
    plain[..end].to_owned()
}

/// The lines that are sent, and how many are not: so many of each minute, of which one unit gets half at
/// most, so that a noisy one does not hide the others.
pub fn throttled(lines: &[Line], per_minute: u32) -> (Vec<JournalError>, u32) {
    let mut counts: BTreeMap<(u64, Option<&str>), u32> = BTreeMap::new();
    let mut kept = Vec::new();
    for line in lines {
        let minute = line.age.as_secs() / 60;
        let of_unit = counts.get(&(minute, Some(&line.unit))).copied().unwrap_or(0);
        let of_all = counts.get(&(minute, None)).copied().unwrap_or(0);
        if of_all >= per_minute || of_unit >= per_minute.div_ceil(2) || kept.len() == SENT {
            continue;
        }
        counts.insert((minute, Some(&line.unit)), of_unit + 1);
        counts.insert((minute, None), of_all + 1);
        kept.push(JournalError {
            age: line.age.as_secs(),
            priority: line.priority,
            unit: line.unit.clone(),
            message: line.message.clone(),
        });
    }
    let left_out = u32::try_from(lines.len() - kept.len()).unwrap_or(u32::MAX);
    (kept, left_out)
}

/// How many lines each unit wrote.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Totals(BTreeMap<String, u64>);

impl Totals {
    /// With these lines too.
    #[must_use]
    pub fn with(&self, lines: &[Line]) -> Self {
        let mut totals = self.clone();
        for line in lines {
            let is_full = totals.0.len() >= UNITS;
            let name = if is_full && !totals.0.contains_key(&line.unit) { "" } else { &line.unit };
            *totals.0.entry(name.to_owned()).or_default() += 1;
        }
        totals
    }

    /// How many lines each unit had written at points in time, which are so long ago; oldest first. `self`
    /// counts those before `lines`.
    #[expect(clippy::cast_precision_loss, reason = "nobody writes 2^53 lines")]
    pub fn columns(&self, lines: &[Line], ages: &[Duration]) -> BTreeMap<String, Vec<Option<f64>>> {
        let after = self.with(lines);
        let count = |unit: &str, age: Duration| {
            let of_unit =
                |line: &&Line| line.unit == unit || (unit.is_empty() && !after.0.contains_key(&line.unit));
            let written = lines.iter().filter(of_unit).filter(|line| line.age >= age).count() as u64;
            Some((self.0.get(unit).copied().unwrap_or(0) + written) as f64)
        };
        let columns =
            after.0.keys().map(|unit| (unit.clone(), ages.iter().map(|age| count(unit, *age)).collect()));
        columns.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Moment {
        Moment {
            boot_id: "0a1b2c3d-0000-0000-0000-000000000001".to_owned(),
            since_boot: Duration::from_secs(5000),
            awake: Duration::from_secs(1000),
            at: "2026-11-27T12:00:00Z".parse().unwrap(),
        }
    }

    fn line(age: u64, unit: &str) -> Line {
        Line { age: Duration::from_secs(age), priority: 3, unit: unit.to_owned(), message: String::new() }
    }

    #[test]
    fn lines_of_journalctl_are_understood() {
        let text = |boot: &str, rest: &str| {
            format!(
                "{{\"__CURSOR\":\"s=1;i=2\",\"__REALTIME_TIMESTAMP\":\"1795780740000000\",\
                 \"__MONOTONIC_TIMESTAMP\":\"990000000\",\"_BOOT_ID\":\"{boot}\",\"PRIORITY\":\"3\"{rest}}}"
            )
        };
        let (same, other) = ("0a1b2c3d000000000000000000000001", "0a1b2c3d000000000000000000000002");
        let check = |text: &str, age: u64, unit: &str, message: &str| {
            let (line, cursor) = parse(text, &now()).unwrap();
            assert_eq!((line.age.as_secs(), &line.unit[..], &line.message[..]), (age, unit, message));
            assert_eq!(cursor, "s=1;i=2");
        };
        check(
            &text(same, ",\"MESSAGE\":\"no\\ndisk\",\"_SYSTEMD_UNIT\":\"a.service\""),
            10,
            "a.service",
            "no disk",
        );
        check(&text(other, ",\"MESSAGE\":[195,169],\"SYSLOG_IDENTIFIER\":\"kernel\""), 60, "kernel", "é");
        let about = ",\"MESSAGE\":null,\"UNIT\":[\"b.service\",\"c\"],\"_SYSTEMD_UNIT\":\"init.scope\"";
        check(&text(same, about), 10, "b.service", "");
        for garbage in ["", "{}", "[]", "null", "\u{0}", &text(same, "")[..60], "{\"PRIORITY\":\"9\"}"] {
            assert_eq!(parse(garbage, &now()), None, "{garbage}");
        }
        assert_eq!(beginning(&"é".repeat(500)).len(), 300);
        assert_eq!(beginning(&format!("x{}", "é".repeat(500))).len(), 299);
    }

    #[test]
    fn a_journal_that_nobody_wrote_to_is_known() {
        let root = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-11-27T12:00:00Z".parse().unwrap();
        let look = |at: Timestamp| Files::look(root.path(), at);
        assert_eq!(look(now), None, "there is none");
        let folder = root.path().join("var/log/journal/0123");
        volary_host::create_dir(&folder).unwrap();
        let write = |name: &str, seconds: i64| {
            let file = fs::File::create(folder.join(name)).unwrap();
            let written = now.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap();
            file.set_modified(written.into()).unwrap();
        };
        write("system.journal", -10);
        let known = look(now);
        assert!(known.is_some() && look(now) == known);
        write("system.journal", -5);
        let later = look(now);
        assert!(later.is_some() && later != known, "something was written");
        write("user-1000.journal", -5);
        let more = look(now);
        assert!(more.is_some() && more != later, "another file");
        write("system.journal", -1);
        assert_eq!(look(now), None, "it may be written again without a trace");
        write("system.journal", 3600);
        assert_eq!(look(now), None, "so may one of the future");
    }

    #[test]
    fn a_noisy_unit_does_not_hide_the_others() {
        let mut lines: Vec<Line> = (0..100).map(|_| line(130, "noisy")).collect();
        lines.extend((0..12).map(|_| line(125, "other")));
        lines.push(line(5, "noisy"));
        let (kept, left_out) = throttled(&lines, 20);
        assert_eq!((kept.len(), left_out), (21, 92));
        assert_eq!(kept.iter().filter(|line| line.unit == "other").count(), 10);
        assert_eq!(kept.last().unwrap().age, 5, "the next minute counts anew");
        assert_eq!(throttled(&lines, 0), (Vec::new(), 113));
        assert_eq!(throttled(&lines, 1).0.len(), 2);
    }

    #[test]
    fn lines_are_counted_at_the_time_of_the_points() {
        let before = Totals::default().with(&[line(500, "a")]);
        let lines = [line(100, "a"), line(50, "b"), line(5, "a")];
        let ages = [120, 60, 0].map(Duration::from_secs);
        let columns = before.columns(&lines, &ages);
        assert_eq!(columns["a"], [Some(1.0), Some(2.0), Some(3.0)]);
        assert_eq!(columns["b"], [Some(0.0), Some(0.0), Some(1.0)]);
        let many: Vec<Line> = (0..100).map(|number| line(1, &format!("unit{number:03}"))).collect();
        let columns = Totals::default().columns(&many, &[Duration::ZERO]);
        assert_eq!((columns.len(), columns[""][0]), (UNITS + 1, Some(70.0)));
    }
}
