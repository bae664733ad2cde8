//! The one task that writes: requests become records of the log, commits are shared, heads become
//! blocks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jiff::Timestamp;
use sqlx::{Sqlite, SqlitePool, Transaction};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use volary_model::DeviceName;

use super::block::{self, Rows};
use super::head::{Head, hash};
use super::history::History;
use super::log::{self, Record, Written};
use super::{
    AppendError, Appended, JournalLine, NewBatch, NewSamples, Reading, SeriesOptions, Shared, write,
};
use crate::StoreError;

/// Requests in one commit: their records are in memory together.
const GROUP: usize = 4096;

/// Points in one commit: a row of the log is unpacked as a whole.
const POINTS: usize = 1 << 20;

/// Heads that become blocks in one commit: others wait for it.
const SEALS: usize = 64;

/// Rows of a head that become a block before its time: a device that was away sends many.
const ROWS: usize = 1500;

/// Seconds after which a series that is measured no more is forgotten among the newest values.
const FORGOTTEN: i64 = 86_400;

/// What the writer is asked to do.
#[derive(Debug)]
pub(crate) enum Command {
    Append(NewBatch, Ack),
    Upkeep(Timestamp, oneshot::Sender<Result<(), StoreError>>),
    Forget(DeviceName, oneshot::Sender<Result<(), StoreError>>),
    Close(oneshot::Sender<()>),
}

type Ack = oneshot::Sender<Result<Appended, AppendError>>;

/// Which devices have something that is in no block, and since when.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// All devices by their number.
    pub(crate) devices: BTreeMap<i64, DeviceName>,
    /// Since when, in which row of the log, which device; the oldest first. One that has become a block since
    /// is passed over.
    queue: VecDeque<(i64, i64, DeviceName)>,
    /// Those that have many rows.
    full: Vec<DeviceName>,
    /// The last row of the log.
    pub(crate) seq: i64,
    /// The largest number that a device has had: the log may name one that was forgotten.
    pub(crate) last_device: i64,
}

impl Pending {
    /// Brings a new record into memory.
    fn apply(&mut self, shared: &Shared, record: &Record, seq: i64) {
        let Record { device, received, boot, ref ids, errors_left_out, left_out, .. } = *record;
        let rows = Vec::new();
        let written = Written { device, received, boot, ids: ids.clone(), errors_left_out, left_out, rows };
        let is_full = self.note(shared, &written, seq, |head| {
            let was = head.rows;
            record.rows.iter().for_each(|rows| head.add(rows));
            was < ROWS && head.rows >= ROWS
        });
        if is_full == Some(true)
            && let Some(device) = self.devices.get(&record.device)
        {
            self.full.push(device.clone());
        }
    }

    /// Brings a record of the log into memory, without its measurements, which are read later.
    pub(crate) fn expect(&mut self, shared: &Shared, record: &Written<'_>, seq: i64) {
        self.last_device = self.last_device.max(record.device);
        self.note(shared, record, seq, |head| head.expect(record.rows.len()));
    }

    /// All but the measurements of a record, which `add` adds. `None` if it is of a device that was forgotten,
    /// or in a block.
    fn note<T>(
        &mut self,
        shared: &Shared,
        record: &Written<'_>,
        seq: i64,
        add: impl FnOnce(&mut Head) -> T,
    ) -> Option<T> {
        let device = self.devices.get(&record.device)?;
        let mut shard = write(shared.shard(device));
        let head = shard.get_mut(device).filter(|head| seq > head.sealed)?;
        if !head.is_pending() {
            (head.since, head.seq) = (record.received, seq);
            self.queue.push_back((record.received, seq, device.clone()));
        }
        head.received = head.received.max(record.received);
        head.boot = record.boot;
        head.errors_left_out += record.errors_left_out;
        head.left_out += record.left_out;
        head.remember(&record.ids);
        Some(add(head))
    }

    /// To be called once all that the log had at the start is in memory.
    fn history_is_read(&mut self, shared: &Shared) {
        let is_full = |device: &&DeviceName| shared.with(device, |head| head.rows >= ROWS) == Some(true);
        self.full = self.devices.values().filter(is_full).cloned().collect();
    }

    /// The devices that are to become blocks at `now`.
    fn due(&mut self, shared: &Shared, now: i64, hold: i64) -> Vec<DeviceName> {
        let mut due = std::mem::take(&mut self.full);
        while due.len() < SEALS {
            self.skip(shared, &[]);
            match self.queue.front() {
                Some((since, ..)) if since + hold <= now => {
                    let (_, _, device) = self.queue.pop_front().expect("there is one");
                    if !due.contains(&device) {
                        due.push(device);
                    }
                }
                Some(_) | None => break,
            }
        }
        due
    }

    /// Passes over those at the front that have become blocks, or do now.
    fn skip(&mut self, shared: &Shared, now: &[Sealed]) {
        let stands = |(since, seq, device): &(i64, i64, DeviceName)| {
            let same = |head: &Head| head.is_pending() && head.since == *since && head.seq == *seq;
            shared.with(device, same) == Some(true) && now.iter().all(|sealed| sealed.device != *device)
        };
        while self.queue.front().is_some_and(|front| !stands(front)) {
            self.queue.pop_front();
        }
    }
}

/// The writer.
pub(crate) struct Writer {
    pub(super) db: SqlitePool,
    pub(super) shared: Arc<Shared>,
    pub(super) how: SeriesOptions,
    pub(super) pending: Pending,
    /// Names and devices that are in memory and not in the file.
    names: Vec<(u32, String)>,
    devices: Vec<(i64, DeviceName)>,
    /// The device that was visited last.
    pub(super) visited: i64,
    /// The time of the last upkeep.
    pub(super) upkeep_at: Option<Timestamp>,
    committed: Option<Instant>,
    /// What is still read of the log; nothing becomes a block before.
    history: Option<History>,
}

/// A head as blocks.
pub(super) struct Sealed {
    device: DeviceName,
    id: i64,
    /// Day, first and last time, block.
    blocks: Vec<(i64, i64, i64, Vec<u8>)>,
    state: Vec<u8>,
}

/// What a request becomes.
struct Taken {
    record: Record,
    appended: Appended,
    points: u64,
    errors: Vec<JournalLine>,
}

impl Writer {
    pub(crate) fn new(db: SqlitePool, shared: Arc<Shared>, how: SeriesOptions, pending: Pending) -> Self {
        Self {
            db,
            shared,
            how,
            pending,
            names: Vec::new(),
            devices: Vec::new(),
            visited: 0,
            upkeep_at: None,
            committed: None,
            history: None,
        }
    }

    /// Works until nobody asks any more. What comes before the ids in the log are known waits; the measurements
    /// in it are read beside.
    pub(crate) async fn run(mut self, mut inbox: mpsc::Receiver<Command>, reader: SqlitePool) {
        match History::begin(&reader, &self.shared, &mut self.pending).await {
            Ok(history) => self.history = Some(history),
            Err(error) => {
                self.shared.reading.send_replace(Reading::Failed(error.to_string()));
                refuse_all(inbox, &error).await;
                return self.db.close().await;
            }
        }
        let mut commands = Vec::new();
        while inbox.recv_many(&mut commands, GROUP).await > 0 {
            if commands.iter().any(|command| matches!(command, Command::Append(..))) {
                // Who comes alone does not wait.
                if let Some(committed) = self.committed {
                    tokio::time::sleep_until(committed + self.how.gather).await;
                }
                while commands.len() < GROUP
                    && let Ok(command) = inbox.try_recv()
                {
                    commands.push(command);
                }
            }
            let mut group = Vec::new();
            let mut others = Vec::new();
            for command in commands.drain(..) {
                match command {
                    Command::Append(batch, ack) => group.push((batch, ack)),
                    other => others.push(other),
                }
            }
            for part in parts(group) {
                self.append(part).await;
            }
            for command in others {
                match command {
                    Command::Append(..) => {}
                    Command::Upkeep(now, ack) => {
                        let _ = ack.send(self.upkeep(now).await);
                    }
                    Command::Forget(device, ack) => {
                        let _ = ack.send(self.forget(&device).await);
                    }
                    Command::Close(ack) => {
                        self.db.close().await;
                        let _ = ack.send(());
                        return;
                    }
                }
            }
        }
        self.db.close().await;
    }

    async fn append(&mut self, group: Vec<(NewBatch, Ack)>) {
        let now = group.iter().map(|(batch, _)| batch.received.as_second()).max().unwrap_or_default();
        let mut open = HashMap::new();
        let (mut taken, mut acks) = (Vec::new(), Vec::new());
        for (batch, ack) in group {
            taken.push(self.take(batch, &mut open));
            acks.push(ack);
        }
        let outcome = self.commit(&taken, now).await;
        self.committed = Some(Instant::now());
        let answer = |taken: &Taken| match &outcome {
            Ok(()) => Ok(taken.appended),
            Err(error) => Err(AppendError::Failed(error.to_string())),
        };
        for (taken, ack) in taken.iter().zip(acks) {
            // Who asked may have gone.
            let _ = ack.send(answer(taken));
        }
    }

    /// Makes blocks of what is due.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(super) async fn seal(&mut self, now: i64) -> Result<(), StoreError> {
        loop {
            let before = self.shared.counts.blocks.load(Ordering::Relaxed);
            self.commit(&[], now).await?;
            if self.shared.counts.blocks.load(Ordering::Relaxed) == before {
                return Ok(());
            }
        }
    }

    /// What a request becomes. `open` has the boot and the ids of those before it in the same commit.
    fn take(&mut self, batch: NewBatch, open: &mut HashMap<i64, (u64, Vec<u64>)>) -> Taken {
        let known = self.shared.with(&batch.device, |head| (head.id, head.boot));
        let (id, boot) = known.unwrap_or_else(|| (self.new_device(&batch.device), 0));
        let received = batch.received.as_second();
        let record = Record {
            device: id,
            received,
            boot,
            ids: Vec::new(),
            errors_left_out: 0,
            left_out: 0,
            rows: Vec::new(),
        };
        let mut taken = Taken { record, appended: Appended::default(), points: 0, errors: Vec::new() };
        let before = open.entry(id).or_insert((boot, Vec::new()));
        for samples in batch.samples {
            let number = hash(&samples.id);
            let seen = self.shared.with(&batch.device, |head| head.has_seen(number)) == Some(true);
            taken.record.ids.push(number);
            if seen || before.1.contains(&number) {
                continue;
            }
            before.1.push(number);
            taken.appended.new += 1;
            let boot = hash(&samples.boot_id);
            let booted = before.0 != 0 && before.0 != boot;
            before.0 = boot;
            taken.add(&self.numbers(&batch.device, &samples), samples, booted, self.how.errors as usize);
        }
        taken.record.boot = before.0;
        taken.appended.left_out = taken.record.left_out;
        taken
    }

    /// The numbers of the samples' series; `None` for those that are left out.
    fn numbers(&mut self, device: &DeviceName, samples: &NewSamples) -> Vec<Option<u32>> {
        let mut numbers: Vec<Option<u32>> = {
            let names = self.shared.names();
            samples.series.iter().map(|(name, _)| names.number(name)).collect()
        };
        let is_known = |head: &Head, number: Option<u32>| {
            number
                .is_some_and(|number| head.newest.binary_search_by_key(&number, |known| known.series).is_ok())
        };
        let known: Vec<bool> = self
            .shared
            .with(device, |head| numbers.iter().map(|number| is_known(head, *number)).collect())
            .unwrap_or_default();
        let has = self.shared.with(device, |head| head.newest.len()).unwrap_or(0);
        let mut room = self.how.series.saturating_sub(has);
        for ((number, known), (name, _)) in numbers.iter_mut().zip(known).zip(&samples.series) {
            if known {
                continue;
            }
            if room == 0 {
                *number = None;
                continue;
            }
            room -= 1;
            if number.is_none() {
                *number = self.new_name(name);
            }
        }
        numbers
    }

    fn new_name(&mut self, name: &str) -> Option<u32> {
        let mut names = write(&self.shared.names);
        if names.len() >= self.how.names {
            return None;
        }
        let number = names.add(name);
        self.names.push((number, name.to_owned()));
        Some(number)
    }

    fn new_device(&mut self, device: &DeviceName) -> i64 {
        self.pending.last_device += 1;
        let id = self.pending.last_device;
        self.devices.push((id, device.clone()));
        self.pending.devices.insert(id, device.clone());
        write(self.shared.shard(device)).insert(device.clone(), Head::new(id));
        id
    }

    /// Writes records and what is due as blocks, all in one step, and then brings it into memory.
    async fn commit(&mut self, taken: &[Taken], now: i64) -> Result<(), StoreError> {
        let hold = i64::try_from(self.how.hold.as_secs()).unwrap_or(i64::MAX);
        let due = if self.has_history() { self.pending.due(&self.shared, now, hold) } else { Vec::new() };
        let sealed: Vec<Sealed> = due.iter().filter_map(|device| self.sealed(device)).collect();
        let written = self.write(taken, &sealed).await;
        if let Err(error) = written {
            // What was due is due again.
            for (device, since) in due.into_iter().rev().filter_map(|device| {
                let since = self.shared.with(&device, |head| (head.since, head.seq))?;
                Some((device, since))
            }) {
                self.pending.queue.push_front((since.0, since.1, device));
            }
            return Err(error);
        }
        self.names.clear();
        self.devices.clear();
        let counts = &self.shared.counts;
        for sealed in &sealed {
            if let Some(head) = write(self.shared.shard(&sealed.device)).get_mut(&sealed.device) {
                head.clear(self.pending.seq);
                head.forget_series(FORGOTTEN);
            }
            counts.blocks.fetch_add(sealed.blocks.len() as u64, Ordering::Relaxed);
        }
        if !taken.is_empty() {
            self.pending.seq += 1;
            self.shared.seq.store(self.pending.seq, Ordering::Release);
        }
        for taken in taken {
            self.pending.apply(&self.shared, &taken.record, self.pending.seq);
            counts.requests.fetch_add(1, Ordering::Relaxed);
            counts.points.fetch_add(taken.points, Ordering::Relaxed);
            counts.left_out.fetch_add(taken.record.left_out, Ordering::Relaxed);
        }
        counts.commits.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// True once all that the log had at the start is in memory.
    pub(super) fn has_history(&mut self) -> bool {
        let is_read = self.shared.is_read();
        if is_read && self.history.take().is_some() {
            self.pending.history_is_read(&self.shared);
        }
        is_read
    }

    /// A head as blocks, one for each day.
    fn sealed(&self, device: &DeviceName) -> Option<Sealed> {
        let (id, parts, state) = self.shared.with(device, |head| {
            let mut after = head.clone_state();
            after.sealed = self.pending.seq;
            (head.id, head.pending(|_| true), after.state())
        })?;
        let days = Rows::merge(&parts).by_day();
        let blocks = days.into_iter().map(|(day, rows)| {
            let (first, last) = (rows.times[0], rows.times[rows.times.len() - 1]);
            (day, first, last, block::encode(&rows))
        });
        Some(Sealed { device: device.clone(), id, blocks: blocks.collect(), state })
    }

    async fn write(&mut self, taken: &[Taken], sealed: &[Sealed]) -> Result<(), StoreError> {
        let mut tx = self.db.begin_with("BEGIN IMMEDIATE").await?;
        for (number, name) in &self.names {
            sqlx::query("INSERT INTO series (id, name) VALUES ($1, $2)")
                .bind(i64::from(*number))
                .bind(name)
                .execute(&mut *tx)
                .await?;
        }
        for (id, name) in &self.devices {
            sqlx::query("INSERT INTO devices (id, name, state) VALUES ($1, $2, $3)")
                .bind(id)
                .bind(name.as_str())
                .bind(&[][..])
                .execute(&mut *tx)
                .await?;
        }
        if !taken.is_empty() {
            let records: Vec<&Record> = taken.iter().map(|taken| &taken.record).collect();
            sqlx::query("INSERT INTO log (seq, body) VALUES ($1, $2)")
                .bind(self.pending.seq + 1)
                .bind(log::encode(&records))
                .execute(&mut *tx)
                .await?;
        }
        for taken in taken.iter().filter(|taken| !taken.errors.is_empty()) {
            write_errors(&mut tx, taken, self.how.errors).await?;
        }
        for sealed in sealed {
            write_sealed(&mut tx, sealed).await?;
        }
        if !sealed.is_empty() {
            self.pending.skip(&self.shared, sealed);
            let needed = self.pending.queue.front().map_or(self.pending.seq + 1, |(_, seq, _)| *seq);
            let held = self.shared.held().map_or(needed, |held| held + 1);
            sqlx::query("DELETE FROM log WHERE seq < $1").bind(needed.min(held)).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    async fn forget(&mut self, device: &DeviceName) -> Result<(), StoreError> {
        let Some(id) = self.shared.with(device, |head| head.id) else { return Ok(()) };
        let mut tx = self.db.begin_with("BEGIN IMMEDIATE").await?;
        for statement in [
            "DELETE FROM blocks WHERE device = $1",
            "DELETE FROM due WHERE device = $1",
            "DELETE FROM errors WHERE device = $1",
            "DELETE FROM devices WHERE id = $1",
        ] {
            sqlx::query(statement).bind(id).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        write(self.shared.shard(device)).remove(device);
        self.pending.devices.remove(&id);
        self.devices.retain(|(new, _)| *new != id);
        Ok(())
    }
}

impl Taken {
    /// Adds samples that are new.
    fn add(&mut self, numbers: &[Option<u32>], samples: NewSamples, booted: bool, errors: usize) {
        let boots = samples.times.first().copied().filter(|_| booted).into_iter().collect();
        let mut rows = Rows { times: samples.times, boots, columns: BTreeMap::new() };
        for (number, (_, values)) in numbers.iter().zip(samples.series) {
            let points = values.iter().filter(|value| !value.is_nan()).count() as u64;
            match number {
                Some(number) if values.len() == rows.times.len() => {
                    self.points += points;
                    rows.columns.insert(*number, values);
                }
                Some(_) | None => self.record.left_out += points,
            }
        }
        self.record.rows.push(rows);
        let surplus = (self.errors.len() + samples.errors.len()).saturating_sub(errors);
        self.errors.extend(samples.errors);
        self.errors.drain(..surplus);
        self.record.errors_left_out += u64::from(samples.errors_left_out) + surplus as u64;
    }
}

/// Without the ids in the log nobody knows what came before: nothing is taken, and devices keep it.
async fn refuse_all(mut inbox: mpsc::Receiver<Command>, error: &StoreError) {
    let failed = || StoreError::Unread(error.to_string());
    while let Some(command) = inbox.recv().await {
        match command {
            Command::Append(_, ack) => drop(ack.send(Err(AppendError::Failed(error.to_string())))),
            Command::Upkeep(_, ack) | Command::Forget(_, ack) => drop(ack.send(Err(failed()))),
            Command::Close(ack) => {
                let _ = ack.send(());
                return;
            }
        }
    }
}

/// Requests in parts of some [`POINTS`].
fn parts(group: Vec<(NewBatch, Ack)>) -> Vec<Vec<(NewBatch, Ack)>> {
    let mut parts = Vec::new();
    let (mut part, mut points) = (Vec::new(), 0);
    for (batch, ack) in group {
        points +=
            batch.samples.iter().map(|samples| samples.times.len() * samples.series.len()).sum::<usize>();
        part.push((batch, ack));
        if points >= POINTS {
            parts.push(std::mem::take(&mut part));
            points = 0;
        }
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty());
    parts
}

/// Adds lines of a device's journal; the oldest go.
async fn write_errors(tx: &mut Transaction<'_, Sqlite>, taken: &Taken, keep: u32) -> Result<(), StoreError> {
    for line in &taken.errors {
        sqlx::query("INSERT INTO errors (device, at, priority, unit, message) VALUES ($1, $2, $3, $4, $5)")
            .bind(taken.record.device)
            .bind(line.at.as_second())
            .bind(i64::from(line.priority))
            .bind(&line.unit)
            .bind(&line.message)
            .execute(&mut **tx)
            .await?;
    }
    sqlx::query(
        "DELETE FROM errors WHERE device = $1 AND id IN
             (SELECT id FROM errors WHERE device = $1 ORDER BY at DESC, id DESC LIMIT -1 OFFSET $2)",
    )
    .bind(taken.record.device)
    .bind(i64::from(keep))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn write_sealed(tx: &mut Transaction<'_, Sqlite>, sealed: &Sealed) -> Result<(), StoreError> {
    for (day, first, last, body) in &sealed.blocks {
        sqlx::query("INSERT INTO blocks (device, level, first, last, body) VALUES ($1, 0, $2, $3, $4)")
            .bind(sealed.id)
            .bind(first)
            .bind(last)
            .bind(body)
            .execute(&mut **tx)
            .await?;
        sqlx::query("INSERT INTO due (device, day) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(sealed.id)
            .bind(day)
            .execute(&mut **tx)
            .await?;
    }
    sqlx::query("UPDATE devices SET state = $2 WHERE id = $1")
        .bind(sealed.id)
        .bind(&sealed.state)
        .execute(&mut **tx)
        .await?;
    Ok(())
}
