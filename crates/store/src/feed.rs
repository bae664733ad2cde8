//! What other systems are still to be told: a queue for each feed, in order, bounded in bytes. The
//! oldest messages go first when it is full, and how many is counted.

use jiff::Timestamp;

use crate::db::{ms, time};
use crate::{Store, StoreError};

/// A message for a feed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewMessage {
    /// The feed.
    pub feed: String,
    /// How many bytes of messages may wait for it, this one included.
    pub limit: u64,
    /// What to tell.
    pub body: Vec<u8>,
}

/// A message that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Rises; unique among all feeds.
    pub seq: i64,
    /// When it was put there.
    pub at: Timestamp,
    /// What to tell.
    pub body: Vec<u8>,
}

/// Why messages left a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    /// The other side has it.
    Sent,
    /// The other side will never take it.
    Refused,
    /// It is too old for the other side.
    Dropped,
}

/// How a feed is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FeedRecord {
    /// Its name.
    pub name: String,
    /// How many messages wait.
    pub waiting: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How often sending failed in a row.
    pub attempts: u32,
    /// When it is tried again.
    pub next_at: Option<Timestamp>,
    /// Why it failed last.
    pub problem: Option<String>,
    /// Since when it fails.
    pub failing_since: Option<Timestamp>,
    /// How many messages the other side took in all.
    pub sent: u64,
    /// When it took the last one.
    pub sent_at: Option<Timestamp>,
    /// How many were dropped in all, since the queue was full or they were too old.
    pub dropped: u64,
    /// How many the other side refused in all.
    pub refused: u64,
}

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    waiting: i64,
    bytes: i64,
    attempts: i64,
    next_at: i64,
    problem: Option<String>,
    failing_since: Option<i64>,
    sent: i64,
    sent_at: Option<i64>,
    dropped: i64,
    refused: i64,
}

fn count(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

impl From<Row> for FeedRecord {
    fn from(row: Row) -> Self {
        Self {
            name: row.name,
            waiting: count(row.waiting),
            bytes: count(row.bytes),
            attempts: u32::try_from(row.attempts).unwrap_or(u32::MAX),
            next_at: (row.next_at > 0).then(|| time(row.next_at)),
            problem: row.problem,
            failing_since: row.failing_since.map(time),
            sent: count(row.sent),
            sent_at: row.sent_at.map(time),
            dropped: count(row.dropped),
            refused: count(row.refused),
        }
    }
}

impl Store {
    /// Puts messages into their queues, in one step. Returns for each feed how many messages had to be
    /// dropped.
    ///
    /// # Errors
    /// [`StoreError`]; then none is there.
    pub async fn enqueue(
        &self,
        messages: &[NewMessage],
        now: Timestamp,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let dropped = enqueue(&mut tx, messages, now).await?;
        tx.commit().await?;
        Ok(dropped)
    }

    /// The oldest `limit` messages of a feed, in order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn messages(&self, feed: &str, limit: u32) -> Result<Vec<Message>, StoreError> {
        let rows: Vec<(i64, i64, Vec<u8>)> =
            sqlx::query_as("SELECT seq, at, body FROM feed_queue WHERE feed = $1 ORDER BY seq LIMIT $2")
                .bind(feed)
                .bind(i64::from(limit))
                .fetch_all(&self.reader)
                .await?;
        Ok(rows.into_iter().map(|(seq, at, body)| Message { seq, at: time(at), body }).collect())
    }

    /// Takes a message out of its queue. One that is gone already counts nowhere.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn message_leaves(
        &self,
        feed: &str,
        seq: i64,
        why: Leaves,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let bytes: Option<i64> =
            sqlx::query_scalar("DELETE FROM feed_queue WHERE feed = $1 AND seq = $2 RETURNING LENGTH(body)")
                .bind(feed)
                .bind(seq)
                .fetch_optional(&mut *tx)
                .await?;
        if let Some(bytes) = bytes {
            let sql = match why {
                Leaves::Sent => {
                    "UPDATE feeds SET bytes = bytes - $2, sent = sent + 1, sent_at = $3 WHERE name = $1"
                }
                Leaves::Refused => {
                    "UPDATE feeds SET bytes = bytes - $2, refused = refused + 1 WHERE name = $1"
                }
                Leaves::Dropped => {
                    "UPDATE feeds SET bytes = bytes - $2, dropped = dropped + 1 WHERE name = $1"
                }
            };
            sqlx::query(sql).bind(feed).bind(bytes).bind(ms(now)).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Notes that a feed could be reached.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn feed_works(&self, feed: &str, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO feeds (name, sent_at) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET
                 attempts = 0, next_at = 0, problem = NULL, failing_since = NULL, sent_at = $2",
        )
        .bind(feed)
        .bind(ms(now))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Notes that a feed could not be told, and when it is tried again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn feed_failed(
        &self,
        feed: &str,
        problem: &str,
        next_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO feeds (name, attempts, problem, next_at, failing_since) VALUES ($1, 1, $2, $3, $4)
             ON CONFLICT (name) DO UPDATE SET attempts = attempts + 1, problem = $2, next_at = $3,
                 failing_since = COALESCE(failing_since, $4)",
        )
        .bind(feed)
        .bind(problem)
        .bind(ms(next_at))
        .bind(ms(now))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// How one feed is; one that was never used has nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn feed(&self, name: &str) -> Result<FeedRecord, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT f.*, (SELECT COUNT(*) FROM feed_queue WHERE feed = f.name) AS waiting
             FROM feeds AS f WHERE f.name = $1",
        )
        .bind(name)
        .fetch_optional(&self.reader)
        .await?;
        Ok(row.map_or_else(|| FeedRecord { name: name.to_owned(), ..FeedRecord::default() }, Into::into))
    }

    /// What a feed remembers, JSON; empty if nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn feed_state(&self, feed: &str) -> Result<String, StoreError> {
        let state: Option<String> = sqlx::query_scalar("SELECT state FROM feeds WHERE name = $1")
            .bind(feed)
            .fetch_optional(&self.reader)
            .await?;
        Ok(state.unwrap_or_default())
    }

    /// Replaces what a feed remembers.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_feed_state(&self, feed: &str, state: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO feeds (name, state) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET state = excluded.state",
        )
        .bind(feed)
        .bind(state)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Forgets all feeds but these, with what waits for them: they are not configured any more.
    /// Returns the names of those that it forgot.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keep_feeds(&self, names: &[String]) -> Result<Vec<String>, StoreError> {
        let known: Vec<String> =
            sqlx::query_scalar("SELECT name FROM feeds ORDER BY name").fetch_all(&self.reader).await?;
        let gone: Vec<String> = known.into_iter().filter(|name| !names.contains(name)).collect();
        for name in &gone {
            sqlx::query("DELETE FROM feeds WHERE name = $1").bind(name).execute(&self.writer).await?;
        }
        Ok(gone)
    }
}

/// Puts messages into their queues, and drops the oldest of a queue that is too full.
pub(crate) async fn enqueue(
    tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
    messages: &[NewMessage],
    now: Timestamp,
) -> Result<Vec<(String, u64)>, StoreError> {
    let mut dropped: Vec<(String, u64)> = Vec::new();
    for message in messages {
        let size = i64::try_from(message.body.len()).unwrap_or(i64::MAX);
        sqlx::query(
            "INSERT INTO feeds (name, bytes) VALUES ($1, $2)
             ON CONFLICT (name) DO UPDATE SET bytes = bytes + $2",
        )
        .bind(&message.feed)
        .bind(size)
        .execute(&mut **tx)
        .await?;
        sqlx::query("INSERT INTO feed_queue (feed, at, body) VALUES ($1, $2, $3)")
            .bind(&message.feed)
            .bind(ms(now))
            .bind(&message.body)
            .execute(&mut **tx)
            .await?;
        let gone = make_room(tx, message).await?;
        match dropped.iter_mut().find(|(feed, _)| *feed == message.feed) {
            _ if gone == 0 => {}
            Some((_, count)) => *count += gone,
            None => dropped.push((message.feed.clone(), gone)),
        }
    }
    Ok(dropped)
}

/// Drops the oldest messages until the rest fits. The newest stays, however large.
async fn make_room(
    tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
    message: &NewMessage,
) -> Result<u64, StoreError> {
    let limit = i64::try_from(message.limit).unwrap_or(i64::MAX);
    let mut gone = 0;
    loop {
        let row: Option<(i64, i64)> = sqlx::query_as(
            "SELECT q.seq, LENGTH(q.body) FROM feed_queue AS q JOIN feeds AS f ON f.name = q.feed
             WHERE f.name = $1 AND f.bytes > $2
               AND q.seq < (SELECT MAX(seq) FROM feed_queue WHERE feed = $1)
             ORDER BY q.seq LIMIT 1",
        )
        .bind(&message.feed)
        .bind(limit)
        .fetch_optional(&mut **tx)
        .await?;
        let Some((seq, size)) = row else { return Ok(gone) };
        sqlx::query("DELETE FROM feed_queue WHERE seq = $1").bind(seq).execute(&mut **tx).await?;
        sqlx::query("UPDATE feeds SET bytes = bytes - $2, dropped = dropped + 1 WHERE name = $1")
            .bind(&message.feed)
            .bind(size)
            .execute(&mut **tx)
            .await?;
        gone += 1;
    }
}
