//! Opening the file, and bringing what was in memory back from it.

use std::path::Path;
use std::sync::atomic::Ordering;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteJournalMode, SqlitePoolOptions};
use tokio::sync::mpsc;
use volary_model::DeviceName;

use super::head::Head;
use super::writer::{Pending, Writer};
use super::{Series, SeriesOptions, Shared, log, write};
use crate::StoreError;
use crate::db::{options, parse};

/// Readers beside the writer.
const READERS: u32 = 4;

/// Several blocks fit into one page; with SQLite's usual 4 KiB most of a page would be empty.
const PAGE: u32 = 16_384;

/// Rows of the log that are in memory at once when they are read.
const LOG_ROWS: i64 = 256;

impl Series {
    /// Opens the file, makes it if it is not there, and reads what was in memory when it was last
    /// open. Starts the task that writes; it ends with the last clone, or with [`Series::close`].
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
        tokio::spawn(Writer::new(db, shared.clone(), how, pending).run(inbox));
        Ok(Self { shared, commands, reader })
    }
}

/// Reads names, states and the log into memory.
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
    let mut after = 0;
    loop {
        let rows: Vec<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT seq, body FROM log WHERE seq > $1 ORDER BY seq LIMIT $2")
                .bind(after)
                .bind(LOG_ROWS)
                .fetch_all(db)
                .await?;
        let Some((last, _)) = rows.last() else { break };
        after = *last;
        for (seq, body) in rows {
            let records = log::decode(&body).map_err(|_| corrupt("row of the log", seq))?;
            records.into_iter().for_each(|record| pending.apply(shared, &record, seq));
        }
    }
    // A log that was emptied must not begin with numbers that states name already.
    let sealed = pending.devices.values().filter_map(|device| shared.with(device, |head| head.sealed)).max();
    pending.seq = after.max(sealed.unwrap_or(0));
    shared.seq.store(pending.seq, Ordering::Release);
    Ok(pending)
}

fn corrupt(what: &'static str, id: i64) -> StoreError {
    StoreError::Corrupt { what, text: format!("number {id} in metrics.sqlite") }
}
