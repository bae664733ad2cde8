//! What happened, in order.

use jiff::Timestamp;

use crate::db::{ms, time};
use crate::{Store, StoreError};

/// Older events than this many are forgotten; a busy fleet writes some hundred a day.
const KEEP: i64 = 100_000;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Rises.
    pub id: i64,
    /// When.
    pub at: Timestamp,
    /// What, as a word: `build-failed`.
    pub kind: String,
    /// About what: a build, a release, a device.
    pub subject: String,
    /// One sentence.
    pub text: String,
}

impl Store {
    /// Adds an event.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_event(
        &self,
        at: Timestamp,
        kind: &str,
        subject: &str,
        text: &str,
    ) -> Result<i64, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO events (at, kind, subject, text) VALUES ($1, $2, $3, $4) RETURNING id",
        )
        .bind(ms(at))
        .bind(kind)
        .bind(subject)
        .bind(text)
        .fetch_one(&mut *tx)
        .await?;
        sqlx::query("DELETE FROM events WHERE id <= $1").bind(id - KEEP).execute(&mut *tx).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// The newest `limit` events, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events(&self, limit: u32) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<(i64, i64, String, String, String)> =
            sqlx::query_as("SELECT id, at, kind, subject, text FROM events ORDER BY id DESC LIMIT $1")
                .bind(i64::from(limit))
                .fetch_all(&self.reader)
                .await?;
        Ok(rows
            .into_iter()
            .map(|(id, at, kind, subject, text)| Event { id, at: time(at), kind, subject, text })
            .collect())
    }
}
