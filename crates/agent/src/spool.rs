//! Reports that wait to be sent: one file each, so that they survive reboots and weeks offline
//! within a limit. How a convergence ended and what changed is worth more than that all is as it was:
//! it stays longer and goes out at once, while health waits until several can go together. While the
//! server answers it waits in memory: a power cut takes half an hour of "all is as it was", and the card
//! is not written every few minutes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use volary_api::v1::device::Report;
use volary_host::{FileError, read, remove_if_exists, write_atomic};

use crate::http::{HttpError, Server};
use crate::log;

/// How many reports may wait.
const COUNT: usize = 500;

/// How many bytes they may have together.
const BYTES: u64 = 4 << 20;

/// How many of the newest changes are worth as much as results: a check that comes and goes each
/// minute must not push out how convergences ended, nor be pushed out itself.
const CHANGES: usize = 100;

/// How long health may wait: the server judges by it, but nothing in it is new.
const GATHER: Duration = Duration::from_secs(30 * 60);

/// How many reports go out in one request, and how many bytes of them before they are packed. A
/// request that breaks off on a bad link is sent again as a whole.
const BATCH: usize = 200;
const BATCH_BYTES: u64 = 1 << 20;

/// What a report is worth. The order is that in which they go when there are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// All is as it was.
    Health,
    /// Something is other than in the report before.
    Change,
    /// A convergence ended.
    Result,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Health, Self::Change, Self::Result];

    /// How the names of its files end.
    const fn suffix(self) -> &'static str {
        match self {
            Self::Health => "-health.json",
            Self::Change => "-change.json",
            Self::Result => "-result.json",
        }
    }
}

/// The spool folder. Clones are the same one.
#[derive(Debug, Clone)]
pub struct Spool {
    folder: PathBuf,
    /// Health that is in memory only, oldest first.
    gathering: Arc<Mutex<Vec<Gathering>>>,
}

/// One report that waits in memory.
#[derive(Debug)]
struct Gathering {
    waiting: Waiting,
    json: Vec<u8>,
}

/// One report that waits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Waiting {
    name: String,
    size: u64,
}

impl Waiting {
    /// A file that an agent with other kinds left counts as a result: who knows what it is.
    fn kind(&self) -> Kind {
        Kind::ALL.into_iter().find(|kind| self.name.ends_with(kind.suffix())).unwrap_or(Kind::Result)
    }

    /// When it was made: its number is the clock in milliseconds.
    fn made_at(&self) -> Option<Timestamp> {
        let (id, _) = self.name.split_once('-')?;
        Timestamp::from_millisecond(id.parse().ok()?).ok()
    }
}

impl Spool {
    /// The spool in `folder`.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder, gathering: Arc::default() }
    }

    /// Keeps a report. If there are too many, the oldest health goes first, then the oldest changes
    /// but for the newest of them, then the oldest of all.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn keep(&self, report: &Report, kind: Kind) -> Result<(), FileError> {
        let json = serde_json::to_vec(report).expect("a report has only text keys");
        self.write(&name_of(report, kind), &json)?;
        for name in too_many(&self.waiting()?, COUNT, BYTES) {
            remove_if_exists(&self.folder.join(name))?;
        }
        Ok(())
    }

    /// Keeps a report of health in memory, for a server that answers: it goes out with the next ones,
    /// or [`Spool::settle`] writes it.
    pub fn gather(&self, report: &Report) {
        let json = serde_json::to_vec(report).expect("a report has only text keys");
        let waiting = Waiting { name: name_of(report, Kind::Health), size: json.len() as u64 };
        self.gathering().push(Gathering { waiting, json });
    }

    /// Writes what is in memory only: the server is away, or the process ends. What cannot be written
    /// stays in memory.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn settle(&self) -> Result<(), FileError> {
        let mut gathering = self.gathering();
        while let Some(Gathering { waiting, json }) = gathering.first() {
            self.write(&waiting.name, json)?;
            gathering.remove(0);
        }
        Ok(())
    }

    fn write(&self, name: &str, json: &[u8]) -> Result<(), FileError> {
        write_atomic(&self.folder.join(name), json, 0o600)
    }

    fn gathering(&self) -> MutexGuard<'_, Vec<Gathering>> {
        // Whole reports, whatever happened to the thread that had them.
        self.gathering.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many reports wait.
    pub fn count(&self) -> usize {
        self.waiting().map_or(0, |waiting| waiting.len())
    }

    /// Sends what waits, if there is something new among it or it has waited long enough.
    ///
    /// # Errors
    /// [`HttpError`] if the server is away.
    pub fn send_if_due(&self, server: &Server, now: Timestamp) -> Result<usize, HttpError> {
        if is_due(&self.waiting().unwrap_or_default(), now) { self.send(server) } else { Ok(0) }
    }

    /// Sends what waits, oldest first, and removes what the server has. Stops at the first that
    /// does not get through; one that the server does not take is dropped, as it never will.
    ///
    /// # Errors
    /// [`HttpError`] if the server is away.
    pub fn send(&self, server: &Server) -> Result<usize, HttpError> {
        let sent = self.send_all(server);
        if sent.is_err()
            && let Err(error) = self.settle()
        {
            log::say(error.to_string());
        }
        sent
    }

    fn send_all(&self, server: &Server) -> Result<usize, HttpError> {
        let waiting = self.waiting().unwrap_or_default();
        let mut sent = 0;
        for batch in batches(&waiting) {
            sent += match batch {
                // The route for one is the oldest, so every server has it.
                [one] => self.send_one(server, one)?,
                many => self.send_many(server, many)?,
            };
        }
        Ok(sent)
    }

    fn send_one(&self, server: &Server, waiting: &Waiting) -> Result<usize, HttpError> {
        let Some(json) = self.json(waiting) else { return Ok(0) };
        let sent = match server.report(&json) {
            Ok(()) => 1,
            Err(error @ HttpError::Refused { status: 400 | 409 | 413 | 422, .. }) => {
                log::say(format!("a report is lost: {error}"));
                0
            }
            Err(error) => return Err(error),
        };
        self.forget(waiting);
        Ok(sent)
    }

    fn send_many(&self, server: &Server, batch: &[Waiting]) -> Result<usize, HttpError> {
        let mut lines = Vec::new();
        let mut files = Vec::new();
        for waiting in batch {
            if let Some(json) = self.json(waiting) {
                lines.push(json);
                files.push(waiting);
            }
        }
        let answer = match server.reports(&lines) {
            Ok(Some(answer)) => answer,
            // A server of before does not know batches, and one that takes this batch for wrong may
            // still take most of its reports.
            Ok(None) | Err(HttpError::Refused { status: 400 | 409 | 413 | 422, .. }) => {
                return files.iter().try_fold(0, |sent, one| Ok(sent + self.send_one(server, one)?));
            }
            Err(error) => return Err(error),
        };
        let has = |file: &Waiting| answer.received.iter().any(|id| file.name.starts_with(&format!("{id}-")));
        let received: Vec<&&Waiting> = files.iter().filter(|file| has(file)).collect();
        received.iter().for_each(|file| self.forget(file));
        for refused in &answer.refused {
            let line = usize::try_from(refused.line).unwrap_or(0).checked_sub(1);
            if let Some(file) = line.and_then(|line| files.get(line)).filter(|file| !has(file)) {
                log::say(format!("a report is lost: {}", refused.error));
                self.forget(file);
            }
        }
        Ok(received.len())
    }

    fn json(&self, waiting: &Waiting) -> Option<Vec<u8>> {
        let gathered =
            self.gathering().iter().find(|one| one.waiting == *waiting).map(|one| one.json.clone());
        gathered.or_else(|| read(&self.folder.join(&waiting.name)).ok())
    }

    fn forget(&self, waiting: &Waiting) {
        self.gathering().retain(|one| one.waiting != *waiting);
        if let Err(error) = remove_if_exists(&self.folder.join(&waiting.name)) {
            log::say(error.to_string());
        }
    }

    fn waiting(&self) -> Result<Vec<Waiting>, FileError> {
        let entries = fs::read_dir(&self.folder).map_err(FileError::at("list", &self.folder))?;
        let mut waiting: Vec<Waiting> = entries
            .flatten()
            .filter(|entry| Path::new(&entry.file_name()).extension().is_some_and(|kind| kind == "json"))
            .map(|entry| Waiting {
                name: entry.file_name().to_string_lossy().into_owned(),
                size: entry.metadata().map_or(0, |meta| meta.len()),
            })
            .collect();
        waiting.extend(self.gathering().iter().map(|one| one.waiting.clone()));
        waiting.sort();
        Ok(waiting)
    }
}

/// The name of a report's file.
fn name_of(report: &Report, kind: Kind) -> String {
    format!("{}{}", report.id, kind.suffix())
}

/// True if something of this should go out now. `waiting` is sorted, oldest first.
fn is_due(waiting: &[Waiting], now: Timestamp) -> bool {
    let is_new = waiting.iter().any(|report| report.kind() > Kind::Health);
    // A number that is no time, or one of the future, comes from a clock that jumped.
    let old = |at: Timestamp| at > now || now.duration_since(at).unsigned_abs() >= GATHER;
    is_new || waiting.first().is_some_and(|oldest| oldest.made_at().is_none_or(old))
}

/// What goes out in one request each, in order.
fn batches(waiting: &[Waiting]) -> Vec<&[Waiting]> {
    let mut batches = Vec::new();
    let (mut from, mut size) = (0, 0);
    for (at, report) in waiting.iter().enumerate() {
        if at > from && (at - from == BATCH || size + report.size > BATCH_BYTES) {
            batches.push(&waiting[from..at]);
            (from, size) = (at, 0);
        }
        size += report.size;
    }
    if from < waiting.len() {
        batches.push(&waiting[from..]);
    }
    batches
}

/// Which reports go so that the rest keeps the limits. `waiting` is sorted, oldest first.
fn too_many(waiting: &[Waiting], count: usize, bytes: u64) -> Vec<&str> {
    let (mut left, mut size) = (waiting.len(), waiting.iter().map(|report| report.size).sum::<u64>());
    let of = |kind: Kind| waiting.iter().filter(move |report| report.kind() == kind);
    let old_changes = of(Kind::Change).count().saturating_sub(CHANGES);
    let worth_least: Vec<&Waiting> = of(Kind::Health).chain(of(Kind::Change).take(old_changes)).collect();
    let rest = waiting.iter().filter(|report| !worth_least.contains(report));
    let mut gone = Vec::new();
    for report in worth_least.iter().copied().chain(rest) {
        // The newest of all stays, however large it is.
        if (left <= count && size <= bytes) || left == 1 {
            break;
        }
        gone.push(report.name.as_str());
        left -= 1;
        size -= report.size;
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(name: &str) -> Waiting {
        Waiting { name: format!("{name}.json"), size: 10 }
    }

    fn check_gone(all: &[Waiting], count: usize, bytes: u64, expected: &[&str]) {
        let gone: Vec<&str> =
            too_many(all, count, bytes).into_iter().map(|name| name.trim_end_matches(".json")).collect();
        assert_eq!(gone, expected);
    }

    #[test]
    fn old_health_goes_first_and_the_last_stays() {
        let all = [
            report("1-result"),
            report("2-health"),
            report("3-change"),
            report("4-health"),
            report("5-result"),
        ];
        check_gone(&all, 5, 50, &[]);
        check_gone(&all, 4, 50, &["2-health"]);
        check_gone(&all, 9, 25, &["2-health", "4-health", "1-result"]);
        check_gone(&all, 1, 50, &["2-health", "4-health", "1-result", "3-change"]);
        check_gone(&all[..1], 9, 1, &[]);
    }

    #[test]
    fn what_comes_and_goes_does_not_push_out_results() {
        let mut all = vec![report("0000-result")];
        all.extend((1..=300).map(|number| report(&format!("{number:04}-change"))));
        let gone = too_many(&all, 150, u64::MAX);
        assert_eq!((gone.len(), gone[0], gone[150]), (151, "0001-change.json", "0151-change.json"));
        let gone = too_many(&all, 50, u64::MAX);
        assert_eq!((gone[200], gone[201]), ("0000-result.json", "0201-change.json"), "then by age");
    }

    #[test]
    fn health_waits_for_company_and_what_is_new_does_not() {
        let minute = |number: i64| Timestamp::from_second(1_800_000_000 + number * 60).unwrap();
        let at = |number: i64, kind: &str| report(&format!("{:016}-{kind}", minute(number).as_millisecond()));
        let check = |waiting: &[Waiting], now: i64, due: bool| assert_eq!(is_due(waiting, minute(now)), due);
        check(&[], 0, false);
        check(&[at(0, "health"), at(5, "health")], 29, false);
        check(&[at(0, "health"), at(5, "health")], 30, true);
        check(&[at(0, "health"), at(5, "change")], 5, true);
        check(&[at(5, "result")], 5, true);
        check(&[at(60, "health")], 0, true);
        check(&[report("strange-health")], 0, true);
    }

    #[test]
    fn health_that_gathers_is_written_when_it_must_be() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path().to_owned());
        let lines = include_str!("../../api/tests/recorded/agent-0.1.jsonl");
        let template: Report = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
        let report = |id: &str| Report { id: id.to_owned(), ..template.clone() };
        let on_disk = || fs::read_dir(dir.path()).unwrap().count();
        spool.gather(&report("2"));
        spool.gather(&report("3"));
        spool.keep(&report("1"), Kind::Change).unwrap();
        assert_eq!((spool.count(), spool.clone().count(), on_disk()), (3, 3, 1));
        let names =
            |spool: &Spool| spool.waiting().unwrap().into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(&spool), ["1-change.json", "2-health.json", "3-health.json"]);
        let second = spool.waiting().unwrap().remove(1);
        assert_eq!(second.size, spool.json(&second).unwrap().len() as u64);
        spool.forget(&second);
        assert_eq!((spool.count(), spool.json(&second)), (2, None));
        spool.settle().unwrap();
        spool.settle().unwrap();
        let other = Spool::new(dir.path().to_owned());
        assert_eq!(
            (names(&other), names(&spool)),
            (names(&spool), vec!["1-change.json".into(), "3-health.json".into()])
        );
        let third = other.waiting().unwrap().remove(1);
        assert_eq!(serde_json::from_slice::<Report>(&other.json(&third).unwrap()).unwrap(), report("3"));
        // A folder that is gone: what cannot be written stays.
        spool.gather(&report("4"));
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(spool.settle().is_err());
        assert_eq!(spool.gathering().len(), 1);
    }

    #[test]
    fn a_batch_has_its_bounds() {
        let sizes =
            |waiting: &[Waiting]| batches(waiting).into_iter().map(<[Waiting]>::len).collect::<Vec<_>>();
        let many: Vec<Waiting> = (0..450).map(|number| report(&format!("{number}-health"))).collect();
        assert_eq!(sizes(&many), [200, 200, 50]);
        let large = Waiting { name: "1-result.json".into(), size: 700 << 10 };
        assert_eq!(sizes(&[report("0-result"), large.clone(), large]), [2, 1]);
        assert_eq!(sizes(&[]), Vec::<usize>::new());
    }
}
