//! What happened, in order, and who did it.

use jiff::Timestamp;

use crate::db::{ms, time};
use crate::{Store, StoreError};

/// Older events than this many are forgotten; a busy fleet writes some hundred a day.
const KEEP: i64 = 100_000;

/// What people did is kept for so many events: years, even where devices write a thousand a day.
const KEEP_CHANGES: i64 = 2_000_000;

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
    /// Who did it, if it was a person.
    pub by: Option<By>,
}

/// Something that no person caused, before it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// What, as a word: `device-failed`.
    pub kind: String,
    /// About what.
    pub subject: String,
    /// One sentence.
    pub text: String,
}

/// How many events are kept in one step at most: others write in between.
const TOGETHER: usize = 2_000;

/// A person as records name them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct By {
    /// The name of their account or token, or what their provider says.
    pub name: String,
    /// How they had signed in, as the server writes it: `token`, `password`, `oidc`.
    pub how: String,
    /// What their provider calls them, which never changes.
    pub subject: Option<String>,
}

/// Id, time, kind, subject, text, and who: name, how, subject.
type Row = (i64, i64, String, String, String, Option<String>, Option<String>, Option<String>);

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
        by: Option<&By>,
    ) -> Result<i64, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO events (at, kind, subject, text, by_name, by_how, by_subject)
             VALUES ($1, $2, $3, $4, $5, $6, $7) RETURNING id",
        )
        .bind(ms(at))
        .bind(kind)
        .bind(subject)
        .bind(text)
        .bind(by.map(|by| &by.name))
        .bind(by.map(|by| &by.how))
        .bind(by.and_then(|by| by.subject.as_ref()))
        .fetch_one(&mut *tx)
        .await?;
        forget(&mut tx, id).await?;
        tx.commit().await?;
        Ok(id)
    }

    /// Adds events that happened at one time, in their order; many at once, since each flush of the disk costs the
    /// same for one and for a thousand.
    ///
    /// # Errors
    /// [`StoreError`]; then the last of them are not kept.
    pub async fn add_events(&self, at: Timestamp, events: &[NewEvent]) -> Result<(), StoreError> {
        for some in events.chunks(TOGETHER) {
            let rows: Vec<[&str; 3]> =
                some.iter().map(|event| [&*event.kind, &*event.subject, &*event.text]).collect();
            let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
            let done = sqlx::query(
                "INSERT INTO events (at, kind, subject, text)
                 SELECT $1, j.value ->> 0, j.value ->> 1, j.value ->> 2 FROM json_each($2) AS j ORDER BY j.key",
            )
            .bind(ms(at))
            .bind(serde_json::to_string(&rows).expect("texts are JSON"))
            .execute(&mut *tx)
            .await?;
            forget(&mut tx, done.last_insert_rowid()).await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// The newest `limit` events, newest first; only what people did if `by_people`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn events(&self, limit: u32, by_people: bool) -> Result<Vec<Event>, StoreError> {
        let only = if by_people { "WHERE by_name IS NOT NULL" } else { "" };
        let text = format!(
            "SELECT id, at, kind, subject, text, by_name, by_how, by_subject FROM events {only}
             ORDER BY id DESC LIMIT $1"
        );
        let rows: Vec<Row> =
            sqlx::query_as(sqlx::AssertSqlSafe(text)).bind(i64::from(limit)).fetch_all(&self.reader).await?;
        let event = |(id, at, kind, subject, text, name, how, by_subject): Row| Event {
            id,
            at: time(at),
            kind,
            subject,
            text,
            by: name.map(|name| By { name, how: how.unwrap_or_default(), subject: by_subject }),
        };
        Ok(rows.into_iter().map(event).collect())
    }
}

/// Forgets what is too old, once there is an event with this id.
async fn forget(tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>, id: i64) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM events WHERE id > $1 AND id <= $2 AND by_name IS NULL")
        // The range before was emptied already, but for what people did; looking at some of it again costs nothing.
        .bind(id - KEEP - 2 * TOGETHER as i64)
        .bind(id - KEEP)
        .execute(&mut **tx)
        .await?;
    sqlx::query("DELETE FROM events WHERE id <= $1").bind(id - KEEP_CHANGES).execute(&mut **tx).await?;
    Ok(())
}
