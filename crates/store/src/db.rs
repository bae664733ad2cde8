//! Opening the database, and what all records share: errors, times, texts.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

/// How long a statement waits for another process's write (a hook that reads, a backup).
const BUSY: Duration = Duration::from_secs(20);

/// Readers beside the one writer: enough for the page, the API and the reconcilers at once.
const READERS: u32 = 4;

/// The database of one server. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) writer: SqlitePool,
    pub(crate) reader: SqlitePool,
}

/// Why a record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened, or was written by a newer version.
    #[error("cannot open the database {}: {source}", .path.display())]
    Open {
        /// The database file.
        path: PathBuf,
        /// What the driver said.
        source: sqlx::Error,
    },
    /// Its tables could not be brought to this version's form.
    #[error("cannot bring the database {} to this version: {source}; was it written by a newer volary?", .path.display())]
    Migrate {
        /// The database file.
        path: PathBuf,
        /// What the driver said.
        source: sqlx::migrate::MigrateError,
    },
    /// A statement failed: disk full, file damaged.
    #[error("the database failed: {0}; is the disk full?")]
    Query(#[from] sqlx::Error),
    /// A record holds what this version would never write.
    #[error("the database holds a {what} that is not valid: {text:?}")]
    Corrupt {
        /// Which column.
        what: &'static str,
        /// Its content.
        text: String,
    },
    /// Measurements were taken before the start, and are not in memory yet.
    #[error(
        "the history of measurements is still being read after the start of the server; ask again in a minute"
    )]
    Reading,
    /// Measurements that were taken before the start cannot be read.
    #[error("the history of measurements cannot be read: {0}")]
    Unread(String),
}

impl Store {
    /// Opens the database, makes it if it is not there, and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::Migrate`].
    pub async fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let options = options(path).create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options.clone())
            .await
            .map_err(failed)?;
        sqlx::migrate!("./migrations/sqlite")
            .run(&writer)
            .await
            .map_err(|source| StoreError::Migrate { path: path.to_owned(), source })?;
        let reader = SqlitePoolOptions::new()
            .max_connections(READERS)
            .connect_with(options.read_only(true))
            .await
            .map_err(failed)?;
        Ok(Self { writer, reader })
    }

    /// Opens a database that a running server writes, only to read it.
    ///
    /// # Errors
    /// [`StoreError::Open`], also if there is no such file.
    pub async fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        let reader = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options(path).read_only(true))
            .await
            .map_err(|source| StoreError::Open { path: path.to_owned(), source })?;
        Ok(Self { writer: reader.clone(), reader })
    }

    /// Closes all connections after the running statements, and leaves one file behind.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }
}

pub(crate) fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(BUSY)
        .foreign_keys(true)
        // What was acknowledged is on disk: a device deletes its report after the answer.
        .synchronous(SqliteSynchronous::Full)
}

/// A time as it stands in a column.
pub(crate) fn ms(time: Timestamp) -> i64 {
    time.as_millisecond()
}

/// A column as a time.
pub(crate) fn time(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// A column as a checked name.
pub(crate) fn parse<T: FromStr>(what: &'static str, text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt { what, text: text.chars().take(200).collect() })
}

/// A column that may be empty as a checked name.
pub(crate) fn parse_opt<T: FromStr>(what: &'static str, text: Option<&str>) -> Result<Option<T>, StoreError> {
    text.map(|text| parse(what, text)).transpose()
}
