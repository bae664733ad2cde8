//! Batches of points that could not be sent, in a folder: one file each, packed. They survive reboots,
//! and weeks offline within a limit; the oldest go first. Beside them, what the device remembers.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::time::Duration;

use flate2::read::GzDecoder;
use serde::{Deserialize, Serialize};
use volary_api::v1::metrics::Samples;
use volary_host::{FileError, create_dir, read, remove_if_exists, write_atomic};

use super::Moment;
use crate::http::gzip;
use crate::log;

/// How many bytes the batches may have together. An hour of the default set has some 5 KB.
const BYTES: u64 = 4 << 20;

/// How many there may be: each takes a block of the file system, however small it is.
const COUNT: usize = 1500;

/// No batch is longer when it is unpacked.
const UNPACKED: u64 = 32 << 20;

/// A batch as it lies on disk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// The version of this format: 1.
    pub version: u32,
    /// When it was made, in milliseconds since the boot that its samples name.
    pub since_boot: u64,
    /// What is sent, as if it had been sent when it was made.
    pub samples: Samples,
}

impl Batch {
    /// What is to be sent now.
    pub fn ready(&self, now: &Moment) -> Samples {
        let made = &self.samples;
        let waited = if !made.boot_id.is_empty() && made.boot_id == now.boot_id {
            now.since_boot.saturating_sub(Duration::from_millis(self.since_boot)).as_secs()
        } else {
            // The clock may have been wrong at either time; not more than 0 if it went back.
            u64::try_from(now.at.duration_since(made.at).as_secs()).unwrap_or(0)
        };
        let mut samples = made.clone();
        samples.at = now.at;
        samples.age = samples.age.saturating_add(waited);
        for error in &mut samples.errors {
            error.age = error.age.saturating_add(waited);
        }
        samples
    }
}

/// What the device remembers beside the points.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kept {
    /// The version of this format: 1.
    pub version: u32,
    /// The boot in which it was written.
    pub boot_id: String,
    /// Whether the boot before that ended badly, if it is known.
    pub unclean: Option<bool>,
    /// True if the agent was asked to end, as when the machine shuts down.
    pub ended: bool,
    /// The last id that was given.
    pub last_id: u64,
    /// From where the journal is to be read on.
    pub cursor: Option<String>,
    /// How many points were lost since they found no place.
    pub lost: u64,
}

impl Kept {
    /// What it says in this boot, if it was written in this one or the one before; `hint` is what the
    /// hardware says of how that ended.
    #[must_use]
    pub fn in_boot(self, boot_id: &str, hint: Option<bool>) -> Self {
        let unclean = match &self.boot_id[..] {
            "" => hint,
            written if written == boot_id => self.unclean,
            // Whoever ends in order says so.
            _ => Some(!self.ended),
        };
        Self { version: 1, boot_id: boot_id.to_owned(), unclean, ended: false, ..self }
    }
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// The name of a batch on disk: its id and how many points it has.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    fn of(samples: &Samples) -> Self {
        Self(format!("{}-{}.json.gz", samples.id, samples.points))
    }

    /// How many points it has.
    pub fn points(&self) -> u64 {
        let points = self.0.strip_suffix(".json.gz").and_then(|stem| stem.rsplit_once('-'));
        points.and_then(|(_, points)| points.parse().ok()).unwrap_or(0)
    }
}

impl Store {
    /// The one in `folder`, which is made when something is written.
    pub const fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// Writes a batch. Returns how many points of older ones had to go.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn keep(&self, batch: &Batch) -> Result<u64, FileError> {
        create_dir(&self.folder)?;
        let json = serde_json::to_vec(batch).expect("a batch has only text keys");
        write_atomic(&self.folder.join(Name::of(&batch.samples).0), &gzip(&json), 0o600)?;
        let mut lost = 0;
        for name in too_many(&self.waiting(), COUNT, BYTES) {
            self.forget(name)?;
            lost += name.points();
        }
        Ok(lost)
    }

    /// Reads one; `None` if it is damaged, and then it is removed.
    pub fn batch(&self, name: &Name) -> Option<Batch> {
        let path = self.folder.join(&name.0);
        let mut json = Vec::new();
        let packed = read(&path).ok()?;
        let unpacked = GzDecoder::new(&packed[..]).take(UNPACKED).read_to_end(&mut json);
        let batch = unpacked
            .map_err(|error| error.to_string())
            .and_then(|_| serde_json::from_slice::<Batch>(&json).map_err(|error| error.to_string()));
        match batch {
            Ok(batch) if batch.version == 1 => Some(batch),
            Ok(Batch { version, .. }) => self.give_up(name, &format!("it has version {version}")),
            Err(error) => self.give_up(name, &error),
        }
    }

    fn give_up(&self, name: &Name, why: &str) -> Option<Batch> {
        log::say(format!("measurements in {} are lost: {why}", self.folder.join(&name.0).display()));
        if let Err(error) = self.forget(name) {
            log::say(error.to_string());
        }
        None
    }

    /// Removes one.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn forget(&self, name: &Name) -> Result<(), FileError> {
        remove_if_exists(&self.folder.join(&name.0))
    }

    /// What the device remembers; nothing if it is damaged.
    pub fn kept(&self) -> Kept {
        let bytes = read(&self.folder.join("state.json")).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Writes what the device remembers.
    ///
    /// # Errors
    /// [`FileError`].
    pub fn remember(&self, kept: &Kept) -> Result<(), FileError> {
        create_dir(&self.folder)?;
        let json = serde_json::to_vec(kept).expect("it has only text keys");
        write_atomic(&self.folder.join("state.json"), &json, 0o600)
    }

    /// The batches that wait, oldest first, and how many bytes each has.
    pub fn waiting(&self) -> Vec<(Name, u64)> {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let mut sized: Vec<(Name, u64)> = entries
            .filter_map(|entry| Some((entry.file_name().into_string().ok()?, entry)))
            .filter(|(name, _)| name.ends_with(".json.gz"))
            .map(|(name, entry)| (Name(name), entry.metadata().map_or(0, |facts| facts.len())))
            .collect();
        sized.sort();
        sized
    }
}

/// Which batches go so that the rest keeps the limits: the oldest, but never the newest of all.
fn too_many(sized: &[(Name, u64)], count: usize, bytes: u64) -> Vec<&Name> {
    let (mut left, mut size) = (sized.len(), sized.iter().map(|(_, size)| size).sum::<u64>());
    let mut gone = Vec::new();
    for (name, own) in sized {
        if (left <= count && size <= bytes) || left == 1 {
            break;
        }
        gone.push(name);
        left -= 1;
        size -= own;
    }
    gone
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use volary_api::v1::metrics::JournalError;

    use super::*;

    fn batch(id: u64, points: u32) -> Batch {
        let error = JournalError { age: 7, priority: 3, unit: "a".to_owned(), message: "b".to_owned() };
        Batch {
            version: 1,
            since_boot: 60_000,
            samples: Samples {
                id: format!("{id:016}"),
                boot_id: "one".to_owned(),
                at: "2026-11-27T12:00:00Z".parse().unwrap(),
                age: 5,
                step: 60,
                points,
                series: BTreeMap::from([("load1".to_owned(), vec![Some(1.0)])]),
                errors: vec![error],
                errors_left_out: 0,
            },
        }
    }

    fn moment(boot_id: &str, since_boot: u64, at: &str) -> Moment {
        let since_boot = Duration::from_secs(since_boot);
        Moment { boot_id: boot_id.to_owned(), since_boot, awake: since_boot, at: at.parse().unwrap() }
    }

    #[test]
    fn a_batch_ages_by_the_clock_that_tells() {
        let check = |now: Moment, age: u64| {
            let samples = batch(1, 1).ready(&now);
            assert_eq!((samples.age, samples.errors[0].age, samples.at), (age, age + 2, now.at));
        };
        check(moment("one", 160, "2026-11-27T12:01:00Z"), 105);
        check(moment("one", 160, "1970-01-01T00:01:00Z"), 105);
        check(moment("two", 30, "2026-11-27T12:01:00Z"), 65);
        check(moment("two", 30, "1970-01-01T00:01:00Z"), 5);
    }

    #[test]
    fn what_waits_comes_back_and_the_oldest_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().join("metrics"));
        assert_eq!((store.waiting(), store.kept()), (Vec::new(), Kept::default()));
        for id in [3, 1, 2] {
            assert_eq!(store.keep(&batch(id, 60)).unwrap(), 0);
        }
        let waiting: Vec<Name> = store.waiting().into_iter().map(|(name, _)| name).collect();
        assert_eq!(store.batch(&waiting[0]), Some(batch(1, 60)));
        let sized: Vec<(Name, u64)> = waiting.iter().cloned().zip([10, 10, 10]).collect();
        assert_eq!(too_many(&sized, 3, 30), Vec::<&Name>::new());
        assert_eq!(too_many(&sized, 2, 30), [&waiting[0]]);
        assert_eq!(too_many(&sized, 3, 5), [&waiting[0], &waiting[1]], "the newest stays");
        assert_eq!(waiting[0].points(), 60);
        store.forget(&waiting[0]).unwrap();
        let left: Vec<Name> = store.waiting().into_iter().map(|(name, _)| name).collect();
        assert_eq!(left, waiting[1..]);
    }

    #[test]
    fn what_is_damaged_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().to_owned());
        store.keep(&batch(1, 60)).unwrap();
        let (name, _) = store.waiting().remove(0);
        let path = dir.path().join(&name.0);
        let whole = read(&path).unwrap();
        for bytes in [&whole[..whole.len() / 2], b"", b"garbage", &gzip(b"{}"), &gzip(b"{\"version\":2}")] {
            write_atomic(&path, bytes, 0o600).unwrap();
            assert_eq!(store.batch(&name), None);
            assert_eq!(store.waiting(), []);
        }
        write_atomic(&dir.path().join("state.json"), b"{", 0o600).unwrap();
        assert_eq!(store.kept(), Kept::default());
    }

    #[test]
    fn an_end_that_was_not_one_is_found() {
        let kept = |ended: bool| Kept {
            version: 1,
            boot_id: "one".to_owned(),
            unclean: Some(false),
            ended,
            last_id: 7,
            ..Kept::default()
        };
        assert_eq!(kept(true).in_boot("two", Some(true)).unclean, Some(false));
        assert_eq!(kept(false).in_boot("two", None).unclean, Some(true));
        assert_eq!(kept(false).in_boot("one", None).unclean, Some(false), "only the agent ended");
        assert_eq!(Kept::default().in_boot("one", None).unclean, None);
        assert_eq!(Kept::default().in_boot("one", Some(true)).unclean, Some(true));
        assert_eq!(kept(true).in_boot("two", None).last_id, 7);
    }
}
