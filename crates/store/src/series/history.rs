//! What was in the log at the start, read while the server answers already.
//!
//! First the ids of all requests, without which nobody knows what came before: seconds for an hour of 100,000
//! devices, in which what comes waits. Then the measurements, beside all else: new ones go on top of those, and
//! nothing becomes a block before all are in memory, so the log stays whole, and a kill costs nothing.

use std::collections::HashMap;
use std::sync::Arc;

use sqlx::SqlitePool;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinHandle};
use volary_model::DeviceName;

use super::bytes::Damaged;
use super::open::corrupt;
use super::writer::Pending;
use super::{Reading, Shared, block, log, write};
use crate::StoreError;

/// Rows of the log in a page, which are in memory together: each has up to some megabytes.
const LOG_ROWS: i64 = 16;

/// Pages that are read and unpacked ahead, so that reading, unpacking and taking up go on beside each other.
const AHEAD: usize = 2;

/// The reading of the log. It ends with this.
pub(crate) struct History(AbortHandle);

impl Drop for History {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Rows of the log with their numbers.
type Page = Vec<(i64, Vec<u8>)>;

/// A page that is being unpacked.
type Unpacking = JoinHandle<Result<Page, StoreError>>;

impl History {
    /// Reads the ids, and begins to read the measurements.
    pub(crate) async fn begin(
        reader: &SqlitePool,
        shared: &Arc<Shared>,
        pending: &mut Pending,
    ) -> Result<Self, StoreError> {
        let last = pending.seq;
        let mut pages = pages(reader.clone(), last);
        while let Some(page) = pages.recv().await {
            let rows = done(page).await?;
            let mut taken = std::mem::take(pending);
            let shared = shared.clone();
            let noted = blocking(move || {
                for (seq, body) in rows {
                    each(seq, &body, |record| {
                        taken.expect(&shared, &record, seq);
                        Ok(())
                    })?;
                }
                Ok(taken)
            });
            *pending = noted.await?;
        }
        let devices = Arc::new(pending.devices.iter().map(|(id, name)| (*id, name.clone())).collect());
        let (reader, shared) = (reader.clone(), shared.clone());
        let reading = tokio::spawn(async move {
            let over = match read(&reader, &shared, devices, last).await {
                Ok(()) => Reading::Done,
                Err(error) => Reading::Failed(error.to_string()),
            };
            shared.reading.send_replace(over);
        });
        Ok(Self(reading.abort_handle()))
    }
}

/// Brings the measurements of the log, up to the row `last`, into memory.
async fn read(
    reader: &SqlitePool,
    shared: &Arc<Shared>,
    devices: Arc<HashMap<i64, DeviceName>>,
    last: i64,
) -> Result<(), StoreError> {
    let mut pages = pages(reader.clone(), last);
    while let Some(page) = pages.recv().await {
        let rows = done(page).await?;
        let (shared, devices) = (shared.clone(), devices.clone());
        let add = move || {
            for (seq, body) in rows {
                each(seq, &body, |record| {
                    let Some(device) = devices.get(&record.device) else { return Ok(()) };
                    let mut shard = write(shared.shard(device));
                    // It may have been forgotten, and even be there anew, meanwhile.
                    let head = shard.get_mut(device).filter(|head| head.id == record.device);
                    let Some(head) = head.filter(|head| seq > head.sealed) else { return Ok(()) };
                    record.rows.iter().try_for_each(|rows| head.add_earlier(rows))
                })?;
            }
            Ok(())
        };
        blocking(add).await?;
    }
    Ok(())
}

/// Reads the log up to the row `last` in its order, ahead of who takes it up.
fn pages(reader: SqlitePool, last: i64) -> mpsc::Receiver<Unpacking> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut after = 0;
        loop {
            let unpacking = match page(&reader, &mut after, last).await {
                Ok(Some(rows)) => tokio::task::spawn_blocking(move || unpacked(rows)),
                Ok(None) => return,
                Err(error) => tokio::spawn(std::future::ready(Err(error))),
            };
            // Who does not want more has met an error, or ends.
            if sender.send(unpacking).await.is_err() {
                return;
            }
        }
    });
    receiver
}

fn unpacked(rows: Page) -> Result<Page, StoreError> {
    let one = |(seq, body): (i64, Vec<u8>)| {
        block::unpack(&body).map(|body| (seq, body)).map_err(|_| corrupt("row of the log", seq))
    };
    rows.into_iter().map(one).collect()
}

async fn page(reader: &SqlitePool, after: &mut i64, last: i64) -> Result<Option<Page>, StoreError> {
    let rows: Page =
        sqlx::query_as("SELECT seq, body FROM log WHERE seq > $1 AND seq <= $2 ORDER BY seq LIMIT $3")
            .bind(*after)
            .bind(last)
            .bind(LOG_ROWS)
            .fetch_all(reader)
            .await?;
    *after = rows.last().map_or(*after, |(seq, _)| *seq);
    Ok(Some(rows).filter(|rows| !rows.is_empty()))
}

fn each(
    seq: i64,
    body: &[u8],
    each: impl FnMut(log::Written<'_>) -> Result<(), Damaged>,
) -> Result<(), StoreError> {
    log::written(body, each).map_err(|_| corrupt("row of the log", seq))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    done(tokio::task::spawn_blocking(work)).await
}

async fn done<T>(work: JoinHandle<Result<T, StoreError>>) -> Result<T, StoreError> {
    work.await.map_err(|_| StoreError::Query(sqlx::Error::WorkerCrashed))?
}
