//! Builds that are made a second time to be compared, and what came of it.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::db::{ms, parse, time};
use crate::{Store, StoreError};

/// Where a comparison stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReproductionState {
    /// It waits for its turn.
    Queued,
    /// The second build runs.
    Running,
    /// All packages are the same, byte for byte.
    Same,
    /// Some are not.
    Different,
    /// There was nothing to compare.
    Failed,
}

impl ReproductionState {
    const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Same, Self::Different, Self::Failed];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Same => "same",
            Self::Different => "different",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for ReproductionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ReproductionState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reproduction {
    /// Its number.
    pub id: i64,
    /// The build that is made again.
    pub build: i64,
    /// Who asked.
    pub asked_by: String,
    /// Where it stands.
    pub state: ReproductionState,
    /// Why there was nothing to compare.
    pub reason: Option<String>,
    /// What was not as in the first build.
    pub varied: Vec<String>,
    /// What differs in which package, as JSON of whoever compared.
    pub packages: String,
    /// When it was asked for.
    pub queued_at: Timestamp,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    build: i64,
    asked_by: String,
    state: String,
    reason: Option<String>,
    varied: String,
    packages: String,
    queued_at: i64,
    ended_at: Option<i64>,
}

impl TryFrom<Row> for Reproduction {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let Ok(varied) = serde_json::from_str(&row.varied) else {
            return Err(StoreError::Corrupt { what: "list of circumstances", text: row.varied });
        };
        Ok(Self {
            id: row.id,
            build: row.build,
            asked_by: row.asked_by,
            state: parse("state of a comparison", &row.state)?,
            reason: row.reason,
            varied,
            packages: row.packages,
            queued_at: time(row.queued_at),
            ended_at: row.ended_at.map(time),
        })
    }
}

impl Store {
    /// Queues a comparison; one that waits already is taken instead.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reproduce(&self, build: i64, asked_by: &str, now: Timestamp) -> Result<i64, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let waiting: Option<i64> =
            sqlx::query_scalar("SELECT id FROM reproductions WHERE build = $1 AND state = 'queued'")
                .bind(build)
                .fetch_optional(&mut *tx)
                .await?;
        let id = match waiting {
            Some(id) => id,
            None => {
                sqlx::query_scalar(
                    "INSERT INTO reproductions (build, asked_by, state, queued_at)
                     VALUES ($1, $2, 'queued', $3) RETURNING id",
                )
                .bind(build)
                .bind(asked_by)
                .bind(ms(now))
                .fetch_one(&mut *tx)
                .await?
            }
        };
        tx.commit().await?;
        Ok(id)
    }

    /// Takes the oldest comparison that waits.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim_reproduction(&self, now: Timestamp) -> Result<Option<Reproduction>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "UPDATE reproductions SET state = 'running', started_at = $1
             WHERE id = (SELECT id FROM reproductions WHERE state = 'queued' ORDER BY id LIMIT 1)
             RETURNING *",
        )
        .bind(ms(now))
        .fetch_optional(&self.writer)
        .await?;
        row.map(Reproduction::try_from).transpose()
    }

    /// Puts those that a dead server left running back into the queue.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn requeue_reproductions(&self) -> Result<(), StoreError> {
        sqlx::query("UPDATE reproductions SET state = 'queued', started_at = NULL WHERE state = 'running'")
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Notes what came of a comparison.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reproduced(&self, ended: &Reproduction, now: Timestamp) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE reproductions SET state = $2, reason = $3, varied = $4, packages = $5, ended_at = $6
             WHERE id = $1 AND state = 'running'",
        )
        .bind(ended.id)
        .bind(ended.state.as_str())
        .bind(&ended.reason)
        .bind(serde_json::to_string(&ended.varied).expect("a list of texts is JSON"))
        .bind(&ended.packages)
        .bind(ms(now))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// The newest comparison of a build.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reproduction_of(&self, build: i64) -> Result<Option<Reproduction>, StoreError> {
        let row: Option<Row> =
            sqlx::query_as("SELECT * FROM reproductions WHERE build = $1 ORDER BY id DESC LIMIT 1")
                .bind(build)
                .fetch_optional(&self.reader)
                .await?;
        row.map(Reproduction::try_from).transpose()
    }
}
