//! Opening the file, and bringing what was in memory back from it; the log is for [`super::history`].

use std::path::Path;
use std::sync::atomic::Ordering;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions};
use tokio::sync::mpsc;
use volary_model::DeviceName;

use super::head::Head;
use super::writer::{Pending, Writer};
use super::{Reading, Series, SeriesOptions, Shared, write};
use crate::StoreError;
use crate::db::{options, parse};

/// Readers beside the writer.
const READERS: u32 = 4;

/// Several blocks fit into one page; with SQLite's usual 4 KiB most of a page would be empty.
const PAGE: u32 = 16_384;

impl Series {
    /// Opens the file, makes it if it is not there, and begins to read what was in memory when it was last
    /// open; see [`Series::is_reading`]. Starts the task that writes; it ends with the last clone, or with
    /// [`Series::close`].
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::Migrate`], [`StoreError::Corrupt`].
    pub async fn open(path: &Path, how: SeriesOptions) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let file = options(path).create_if_missing(true).page_size(PAGE).journal_mode(SqliteJournalMode::Wal);
        let pool = SqlitePoolOptions::new().max_connections(1);
        let db = pool.connect_with(file.clone()).await.map_err(failed)?;
        sqlx::migrate!("./migrations/series")
            .run(&db)
            .await
            .map_err(|source| StoreError::Migrate { path: path.to_owned(), source })?;
        let pool = SqlitePoolOptions::new().max_connections(READERS);
        let reader = pool.connect_with(file.read_only(true)).await.map_err(failed)?;
        let shared = std::sync::Arc::new(Shared::new());
        let pending = load(&db, &shared).await?;
        let (commands, inbox) = mpsc::channel(how.queue.max(1));
        let patience = how.patience;
        let mut reading = shared.reading.subscribe();
        tokio::spawn(Writer::new(db, shared.clone(), how, pending).run(inbox, reader.clone()));
        let is_over = reading.wait_for(|reading| *reading != Reading::Going);
        let read = match patience.is_zero() {
            // A timer fires late, and a short log would be read all the same.
            true => None,
            false => tokio::time::timeout(patience, is_over).await.ok(),
        };
        if let Some(Ok(Reading::Failed(why))) = read.as_ref().map(|read| read.as_deref()) {
            return Err(StoreError::Unread(why.clone()));
        }
        drop(read);
        Ok(Self { shared, commands, reader })
    }
}

/// Reads names and states into memory.
async fn load(db: &SqlitePool, shared: &Shared) -> Result<Pending, StoreError> {
    let names: Vec<(i64, String)> = sqlx::query_as("SELECT id, name FROM series").fetch_all(db).await?;
    for (id, name) in names {
        let number = u32::try_from(id).map_err(|_| corrupt("series", id))?;
        write(&shared.names).insert(number, &name);
    }
    let devices: Vec<(i64, String, Vec<u8>)> =
        sqlx::query_as("SELECT id, name, state FROM devices ORDER BY id").fetch_all(db).await?;
    let mut pending = Pending::default();
    for (id, name, state) in devices {
        let device: DeviceName = parse("device name", &name)?;
        let head = match state.is_empty() {
            true => Head::new(id),
            false => Head::read(id, &state).map_err(|_| corrupt("device's state", id))?,
        };
        pending.last_device = pending.last_device.max(id);
        pending.devices.insert(id, device.clone());
        write(shared.shard(&device)).insert(device, head);
    }
    let last: Option<i64> = sqlx::query_scalar("SELECT MAX(seq) FROM log").fetch_one(db).await?;
    // A log that was emptied must not begin with numbers that states name already.
    let sealed = pending.devices.values().filter_map(|device| shared.with(device, |head| head.sealed)).max();
    pending.seq = last.unwrap_or(0).max(sealed.unwrap_or(0));
    shared.seq.store(pending.seq, Ordering::Release);
    Ok(pending)
}

pub(super) fn corrupt(what: &'static str, id: i64) -> StoreError {
    StoreError::Corrupt { what, text: format!("number {id} in metrics.sqlite") }
}
