//! Measurements of devices over time, in a file of their own, so that nothing of them holds up the
//! records.
//!
//! One task writes ([`writer`]): what comes while a commit is on its way goes into the next, together,
//! and is acknowledged once it is on disk. It goes into a log, and in memory into the device's
//! [`head`]; after an hour a device's head becomes a [`block`]. Blocks of a day become rows of five
//! minutes and of an hour ([`rollup`]), and go when their time is over. `docs/metrics-store.md` has the
//! sizes. Not here: what a name or a value means, and clocks: each call says what time it is.

mod block;
mod bytes;
mod column;
mod head;
mod history;
mod log;
mod names;
mod open;
mod read;
mod rollup;
mod tail;
mod upkeep;
mod writer;

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use jiff::Timestamp;
use sqlx::SqlitePool;
use tokio::sync::{mpsc, oneshot, watch};
use volary_model::DeviceName;

use crate::StoreError;
use head::Head;
use names::Names;
pub use tail::{Tail, TailRequest, TailSeries};
use writer::Command;

/// In how many parts the devices lie, each with a lock of its own.
const SHARDS: usize = 64;

/// How measurements are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesOptions {
    /// How long single measurements are kept.
    pub raw: Duration,
    /// How long one value for five minutes is kept.
    pub five_minutes: Duration,
    /// How long one value for an hour is kept.
    pub hour: Duration,
    /// The shortest time between two commits: what comes in between waits and shares one.
    pub gather: Duration,
    /// How long measurements stay in the log and in memory before they become a block.
    pub hold: Duration,
    /// How many series a device may have at one time; points of more are left out.
    pub series: usize,
    /// How many names of series all devices may have together.
    pub names: usize,
    /// How many lines of its journal are kept of each device.
    pub errors: u32,
    /// How many requests may wait for a commit; more are refused.
    pub queue: usize,
    /// How long opening waits for what is in the log: that of a thousand devices is read by then, that of a
    /// larger fleet is read on beside all else.
    pub patience: Duration,
}

impl Default for SeriesOptions {
    /// Two days, two weeks, 400 days.
    fn default() -> Self {
        let days = |days: u64| Duration::from_secs(days * 86_400);
        Self {
            raw: days(2),
            five_minutes: days(14),
            hour: days(400),
            gather: Duration::from_millis(200),
            hold: Duration::from_secs(3600),
            series: 1000,
            names: 200_000,
            errors: 200,
            queue: 20_000,
            patience: Duration::from_secs(2),
        }
    }
}

/// What a device measured, all at the same times.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSamples {
    /// Unique for the device.
    pub id: String,
    /// Changes with each boot.
    pub boot_id: String,
    /// When it was measured, in whole seconds since 1970 by the server's clock, rising.
    pub times: Vec<i64>,
    /// Names with a value for each time, finite; NaN where there is none.
    pub series: Vec<(String, Vec<f64>)>,
    /// Lines of its journal.
    pub errors: Vec<JournalLine>,
    /// How many more there were.
    pub errors_left_out: u32,
}

/// What came in one request.
#[derive(Debug, Clone, PartialEq)]
pub struct NewBatch {
    /// The device.
    pub device: DeviceName,
    /// When it came.
    pub received: Timestamp,
    /// The measurements, oldest first.
    pub samples: Vec<NewSamples>,
}

/// A line of a device's journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalLine {
    /// When, by the server's clock.
    pub at: Timestamp,
    /// As syslog has them: 0 (emergency) to 7.
    pub priority: u8,
    /// The unit, or who wrote it.
    pub unit: String,
    /// The message.
    pub message: String,
}

/// Measurements that are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Appended {
    /// How many of the samples are new; the others came before.
    pub new: usize,
    /// How many of their points were left out, since the device, or all together, have too many series.
    pub left_out: u64,
}

/// Why measurements were not kept.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// More wait for the disk than may.
    #[error("measurements come faster than the disk takes them; send them again later")]
    Busy,
    /// The database failed: disk full, file damaged.
    #[error("measurements could not be written: {0}")]
    Failed(String),
}

/// A value with its time.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// The series.
    pub series: Arc<str>,
    /// When it was measured.
    pub at: Timestamp,
    /// The value.
    pub value: f64,
}

/// The newest values of a device.
#[derive(Debug, Clone, PartialEq)]
pub struct Latest {
    /// When the server got measurements of it last.
    pub received: Timestamp,
    /// By the name of the series.
    pub values: Vec<Value>,
    /// Lines of its journal that were left out, by the device or here.
    pub errors_left_out: u64,
    /// Points that were left out, since it has too many series.
    pub left_out: u64,
}

/// The newest values of a device, where they lie.
#[derive(Debug, Clone, Copy)]
pub struct LatestOf<'a> {
    head: &'a Head,
    names: &'a Names,
}

impl LatestOf<'_> {
    /// When the server got measurements of it last.
    pub fn received(&self) -> Timestamp {
        time(self.head.received)
    }

    /// The value of a series with its time.
    pub fn get(&self, series: &str) -> Option<(Timestamp, f64)> {
        let number = self.names.number(series)?;
        let place = self.head.newest.binary_search_by_key(&number, |newest| newest.series).ok()?;
        let newest = self.head.newest[place];
        Some((time(newest.at.into()), newest.value))
    }

    /// All values, in no order that means anything.
    pub fn values(&self) -> impl Iterator<Item = Value> {
        self.head.newest.iter().map(|newest| Value {
            series: self.names.name(newest.series),
            at: time(newest.at.into()),
            value: newest.value,
        })
    }
}

/// What the store of measurements has done since it was opened, and has now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeriesStats {
    /// Devices with measurements.
    pub devices: u64,
    /// Names of series.
    pub names: u64,
    /// Requests that are on disk.
    pub requests: u64,
    /// Points that are on disk.
    pub points: u64,
    /// Points that were left out, since there are too many series.
    pub left_out: u64,
    /// Requests that were refused, since too many waited.
    pub refused: u64,
    /// Commits.
    pub commits: u64,
    /// Blocks that were written.
    pub blocks: u64,
}

/// The measurements of a server's devices. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Series {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    reader: SqlitePool,
}

/// What the writer changes and others read.
#[derive(Debug)]
pub(crate) struct Shared {
    shards: Vec<RwLock<HashMap<DeviceName, Head>>>,
    names: RwLock<Names>,
    counts: Counts,
    /// The last row of the log.
    seq: AtomicI64,
    /// Who follows the log, and after which row each goes on.
    holds: Mutex<BTreeMap<String, i64>>,
    /// How far the log was read after the start.
    reading: watch::Sender<Reading>,
}

/// How far the log was read after the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reading {
    Going,
    Done,
    Failed(String),
}

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: AtomicU64,
    pub(crate) points: AtomicU64,
    pub(crate) left_out: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) blocks: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        Self {
            shards: std::iter::repeat_with(RwLock::default).take(SHARDS).collect(),
            names: RwLock::default(),
            counts: Counts::default(),
            seq: AtomicI64::new(0),
            holds: Mutex::default(),
            reading: watch::Sender::new(Reading::Going),
        }
    }

    fn shard(&self, device: &DeviceName) -> &RwLock<HashMap<DeviceName, Head>> {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(device);
        &self.shards[(hash % SHARDS as u64) as usize]
    }

    /// What `look` says of a device's head, if it has one.
    pub(crate) fn with<T>(&self, device: &DeviceName, look: impl FnOnce(&Head) -> T) -> Option<T> {
        read(self.shard(device)).get(device).map(look)
    }

    /// True once all that the log had at the start is in memory.
    pub(crate) fn is_read(&self) -> bool {
        *self.reading.borrow() == Reading::Done
    }

    /// An error as long as there is something of a device in the log that is not in memory.
    pub(crate) fn whole(&self) -> Result<(), StoreError> {
        match &*self.reading.borrow() {
            Reading::Done => Ok(()),
            Reading::Going => Err(StoreError::Reading),
            Reading::Failed(why) => Err(StoreError::Unread(why.clone())),
        }
    }

    /// The row of the log after which somebody still reads.
    pub(crate) fn held(&self) -> Option<i64> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner).values().min().copied()
    }

    pub(crate) fn names(&self) -> RwLockReadGuard<'_, Names> {
        read(&self.names)
    }
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

/// Whole seconds as a time.
pub(crate) fn time(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap_or(Timestamp::UNIX_EPOCH)
}

impl Series {
    /// Keeps what came in a request. Samples that came before count once.
    ///
    /// # Errors
    /// [`AppendError`]; then nothing of it is kept, and it is to be sent again.
    pub async fn append(&self, batch: NewBatch) -> Result<Appended, AppendError> {
        let (ack, answer) = oneshot::channel();
        self.commands.try_send(Command::Append(batch, ack)).map_err(|_| {
            self.shared.counts.refused.fetch_add(1, Ordering::Relaxed);
            AppendError::Busy
        })?;
        answer.await.unwrap_or_else(|_| Err(AppendError::Failed("the server is stopping".into())))
    }

    /// Makes blocks of what is due, and visits the next of all devices: rollups of days that are over,
    /// and what is too old goes. To be called each few seconds.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn upkeep(&self, now: Timestamp) -> Result<(), StoreError> {
        self.ask(|ack| Command::Upkeep(now, ack)).await
    }

    /// Forgets a device with all that it measured.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget(&self, device: &DeviceName) -> Result<(), StoreError> {
        self.ask(|ack| Command::Forget(device.clone(), ack)).await
    }

    /// Ends the writer after what it has taken, and closes the file.
    pub async fn close(&self) {
        let (ack, answer) = oneshot::channel();
        if self.commands.send(Command::Close(ack)).await.is_ok() {
            let _ = answer.await;
        }
        self.reader.close().await;
    }

    async fn ask(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Command,
    ) -> Result<(), StoreError> {
        let (ack, answer) = oneshot::channel();
        let closed = || StoreError::Query(sqlx::Error::PoolClosed);
        self.commands.send(command(ack)).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    /// True as long as measurements that were taken before the start are still read: what is asked of the past is
    /// refused with [`StoreError::Reading`], and what is new is taken.
    pub fn is_reading(&self) -> bool {
        !self.shared.is_read()
    }

    /// Waits until all that was taken before the start can be asked for.
    ///
    /// # Errors
    /// [`StoreError::Unread`].
    pub async fn history(&self) -> Result<(), StoreError> {
        let mut reading = self.shared.reading.subscribe();
        // The sender lives as long as this.
        let _ = reading.wait_for(|reading| *reading != Reading::Going).await;
        self.shared.whole()
    }

    /// The newest values of a device; `None` if it has never measured anything.
    ///
    /// # Errors
    /// [`StoreError::Reading`], [`StoreError::Unread`].
    pub fn latest(&self, device: &DeviceName) -> Result<Option<Latest>, StoreError> {
        self.shared.whole()?;
        let names = self.shared.names();
        Ok(self.shared.with(device, |head| {
            let of = LatestOf { head, names: &names };
            let mut values: Vec<Value> = of.values().collect();
            values.sort_by(|a, b| a.series.cmp(&b.series));
            let (errors_left_out, left_out) = (head.errors_left_out, head.left_out);
            Latest { received: of.received(), values, errors_left_out, left_out }
        }))
    }

    /// The names of a device's series that were measured in the last day, sorted.
    ///
    /// # Errors
    /// [`StoreError::Reading`], [`StoreError::Unread`].
    pub fn series_of(&self, device: &DeviceName) -> Result<Vec<Arc<str>>, StoreError> {
        let values = self.latest(device)?.map_or_else(Vec::new, |latest| latest.values);
        Ok(values.into_iter().map(|value| value.series).collect())
    }

    /// Looks at the newest values of all devices, in no order that means anything. `look` must be
    /// quick: what is measured meanwhile waits. There are none while history is read: old values would be told as
    /// the newest.
    pub fn for_each_latest(&self, mut look: impl FnMut(&DeviceName, LatestOf<'_>)) {
        if self.is_reading() {
            return;
        }
        for shard in &self.shared.shards {
            let names = self.shared.names();
            for (device, head) in read(shard).iter() {
                look(device, LatestOf { head, names: &names });
            }
        }
    }

    /// What was done, and what there is.
    pub fn stats(&self) -> SeriesStats {
        let counts = &self.shared.counts;
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        SeriesStats {
            devices: self.shared.shards.iter().map(|shard| read(shard).len() as u64).sum(),
            names: self.shared.names().len() as u64,
            requests: of(&counts.requests),
            points: of(&counts.points),
            left_out: of(&counts.left_out),
            refused: of(&counts.refused),
            commits: of(&counts.commits),
            blocks: of(&counts.blocks),
        }
    }
}
