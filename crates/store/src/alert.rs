//! Alerts with their history, and silences. What an alert means is not known here: its body is kept as
//! the text that came, with the version of its form.

use jiff::Timestamp;

use crate::db::{ms, time};
use crate::feed::enqueue;
use crate::{NewMessage, Store, StoreError};

/// Older changes than this many are forgotten.
const KEEP: i64 = 100_000;

/// An alert as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAlert {
    /// Rises.
    pub id: u64,
    /// Its rule.
    pub rule: String,
    /// `pending`, `firing` or `resolved`.
    pub state: String,
    /// When it fired first.
    pub since: Timestamp,
    /// When it began.
    pub began_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
    /// The version of the body's form.
    pub version: u32,
    /// All of it, JSON.
    pub body: String,
}

/// Something that became of an alert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AlertChange {
    /// The alert.
    pub alert: u64,
    /// When.
    pub at: Timestamp,
    /// What, as a word: `began`.
    pub kind: String,
    /// One sentence.
    pub text: String,
}

/// What alerts came to, written in one step.
#[derive(Debug, Clone, Default)]
pub struct AlertStep {
    /// The alerts that are new or changed.
    pub alerts: Vec<StoredAlert>,
    /// Those that never happened.
    pub forgotten: Vec<u64>,
    /// What became of them.
    pub changes: Vec<AlertChange>,
    /// Whom to tell.
    pub messages: Vec<NewMessage>,
}

/// A silence that somebody makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSilence {
    /// What it covers, JSON.
    pub matchers: String,
    /// Why.
    pub reason: String,
    /// Who made it.
    pub author: String,
    /// When it ends.
    pub ends_at: Timestamp,
}

/// A silence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSilence {
    /// Rises.
    pub id: u64,
    /// What was asked for.
    pub made: NewSilence,
    /// When it was made.
    pub created_at: Timestamp,
    /// Who ended it before its time.
    pub ended_by: Option<String>,
}

type Row = (i64, String, String, i64, Option<i64>, Option<i64>, i64, String);

type SilenceRow = (i64, String, String, String, i64, i64, Option<String>);

const COLUMNS: &str = "id, rule, state, since, began_at, ended_at, version, body";

fn alert((id, rule, state, since, began_at, ended_at, version, body): Row) -> StoredAlert {
    StoredAlert {
        id: unsigned(id),
        rule,
        state,
        since: time(since),
        began_at: began_at.map(time),
        ended_at: ended_at.map(time),
        version: u32::try_from(version).unwrap_or(u32::MAX),
        body,
    }
}

fn unsigned(id: i64) -> u64 {
    u64::try_from(id).unwrap_or(0)
}

/// An id as a column; one that no record can have finds none.
fn signed(id: u64) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

impl Store {
    /// The alerts that are pending or firing, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open_alerts(&self) -> Result<Vec<StoredAlert>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM alerts WHERE state IN ('pending', 'firing') ORDER BY id");
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&self.reader).await?;
        Ok(rows.into_iter().map(alert).collect())
    }

    /// The newest `limit` alerts that are over, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn resolved_alerts(&self, limit: u32) -> Result<Vec<StoredAlert>, StoreError> {
        let sql = format!(
            "SELECT {COLUMNS} FROM alerts WHERE state = 'resolved' ORDER BY ended_at DESC, id DESC LIMIT $1"
        );
        let rows: Vec<Row> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(i64::from(limit)).fetch_all(&self.reader).await?;
        Ok(rows.into_iter().map(alert).collect())
    }

    /// One alert.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn alert(&self, id: u64) -> Result<Option<StoredAlert>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM alerts WHERE id = $1");
        let row: Option<Row> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(signed(id)).fetch_optional(&self.reader).await?;
        Ok(row.map(alert))
    }

    /// The id of the next alert.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn next_alert(&self) -> Result<u64, StoreError> {
        let id: i64 =
            sqlx::query_scalar("SELECT COALESCE(MAX(id), 0) + 1 FROM alerts").fetch_one(&self.reader).await?;
        Ok(unsigned(id))
    }

    /// Writes what alerts came to, and puts the messages about it into their queues, all in one step.
    /// Returns for each feed how many messages had to be dropped.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of it is written.
    pub async fn keep_alerts(
        &self,
        step: &AlertStep,
        now: Timestamp,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        for id in &step.forgotten {
            sqlx::query("DELETE FROM alerts WHERE id = $1").bind(signed(*id)).execute(&mut *tx).await?;
        }
        for alert in &step.alerts {
            sqlx::query(
                "INSERT INTO alerts (id, rule, state, since, began_at, ended_at, version, body)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (id) DO UPDATE SET
                     state = $3, began_at = $5, ended_at = $6, version = $7, body = $8",
            )
            .bind(signed(alert.id))
            .bind(&alert.rule)
            .bind(&alert.state)
            .bind(ms(alert.since))
            .bind(alert.began_at.map(ms))
            .bind(alert.ended_at.map(ms))
            .bind(i64::from(alert.version))
            .bind(&alert.body)
            .execute(&mut *tx)
            .await?;
        }
        for change in &step.changes {
            let seq: i64 = sqlx::query_scalar(
                "INSERT INTO alert_changes (alert, at, kind, text) VALUES ($1, $2, $3, $4) RETURNING seq",
            )
            .bind(signed(change.alert))
            .bind(ms(change.at))
            .bind(&change.kind)
            .bind(&change.text)
            .fetch_one(&mut *tx)
            .await?;
            sqlx::query("DELETE FROM alert_changes WHERE seq <= $1")
                .bind(seq - KEEP)
                .execute(&mut *tx)
                .await?;
        }
        let dropped = enqueue(&mut tx, &step.messages, now).await?;
        tx.commit().await?;
        Ok(dropped)
    }

    /// The newest `limit` changes of alerts, or of one alert, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn alert_changes(
        &self,
        alert: Option<u64>,
        limit: u32,
    ) -> Result<Vec<AlertChange>, StoreError> {
        let rows: Vec<(i64, i64, String, String)> = sqlx::query_as(
            "SELECT alert, at, kind, text FROM alert_changes WHERE COALESCE($1, alert) = alert
             ORDER BY seq DESC LIMIT $2",
        )
        .bind(alert.map(signed))
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        let change =
            |(alert, at, kind, text)| AlertChange { alert: unsigned(alert), at: time(at), kind, text };
        Ok(rows.into_iter().map(change).collect())
    }

    /// Forgets alerts that were over before a time, but never the newest alert, so that no id comes
    /// twice, and silences that ended before it. Returns how many alerts.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn prune_alerts(&self, before: Timestamp) -> Result<u64, StoreError> {
        sqlx::query("DELETE FROM silences WHERE ends_at < $1").bind(ms(before)).execute(&self.writer).await?;
        let done = sqlx::query(
            "DELETE FROM alerts WHERE state = 'resolved' AND ended_at < $1
             AND id < (SELECT MAX(id) FROM alerts)",
        )
        .bind(ms(before))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected())
    }

    /// Makes a silence; returns its id.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_silence(&self, silence: &NewSilence, now: Timestamp) -> Result<u64, StoreError> {
        let id: i64 = sqlx::query_scalar(
            "INSERT INTO silences (matchers, reason, author, created_at, ends_at)
             VALUES ($1, $2, $3, $4, $5) RETURNING id",
        )
        .bind(&silence.matchers)
        .bind(&silence.reason)
        .bind(&silence.author)
        .bind(ms(now))
        .bind(ms(silence.ends_at))
        .fetch_one(&self.writer)
        .await?;
        Ok(unsigned(id))
    }

    /// Ends a silence now. Returns it as it was; `None` if there is none that has not ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn end_silence(
        &self,
        id: u64,
        by: &str,
        now: Timestamp,
    ) -> Result<Option<StoredSilence>, StoreError> {
        let before = self.silences(Some(now)).await?.into_iter().find(|silence| silence.id == id);
        let done =
            sqlx::query("UPDATE silences SET ends_at = $3, ended_by = $2 WHERE id = $1 AND ends_at > $3")
                .bind(signed(id))
                .bind(by)
                .bind(ms(now))
                .execute(&self.writer)
                .await?;
        Ok(before.filter(|_| done.rows_affected() > 0))
    }

    /// The silences, or those that have not ended at a time, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn silences(&self, at: Option<Timestamp>) -> Result<Vec<StoredSilence>, StoreError> {
        let rows: Vec<SilenceRow> = sqlx::query_as(
            "SELECT id, matchers, reason, author, created_at, ends_at, ended_by FROM silences
             WHERE ends_at > $1 ORDER BY id",
        )
        .bind(at.map_or(i64::MIN, ms))
        .fetch_all(&self.reader)
        .await?;
        let silence = |(id, matchers, reason, author, created_at, ends_at, ended_by)| StoredSilence {
            id: unsigned(id),
            made: NewSilence { matchers, reason, author, ends_at: time(ends_at) },
            created_at: time(created_at),
            ended_by,
        };
        Ok(rows.into_iter().map(silence).collect())
    }
}
