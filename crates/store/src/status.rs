//! Who was told what about builds. What was told last is kept, and not what is to be told: a hook
//! that is unreachable for a day is told the end and not each step on the way.

use jiff::{SignedDuration, Timestamp};

use crate::build::Row;
use crate::db::ms;
use crate::{Build, Store, StoreError};

/// How many are told in one go.
const AT_ONCE: i64 = 200;

/// The state as others see it: a build is running until its packages are in the archive.
const SEEN: &str = "CASE b.state WHEN 'built' THEN 'running' ELSE b.state END";

/// A build whose state a hook was not told yet.
#[derive(Debug, Clone)]
pub struct Untold {
    /// The build.
    pub build: Build,
    /// How often it was tried in vain.
    pub attempts: u32,
}

/// What a hook was told of a build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The hook.
    pub hook: String,
    /// The state that it was told last.
    pub told: Option<String>,
    /// How often telling the present one failed.
    pub attempts: u32,
    /// Why.
    pub problem: Option<String>,
}

impl Store {
    /// Notes a hook that was not known yet. From then on it is told of what is not over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn know_status_hook(&self, hook: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT OR IGNORE INTO status_hooks (name, since) VALUES ($1, 1 + COALESCE(
                 (SELECT MAX(id) FROM builds WHERE state IN ('succeeded', 'failed', 'cancelled')), 0))",
        )
        .bind(hook)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// What a hook is to be told now, oldest build first; nothing that ended longer than `age` ago.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn untold(
        &self,
        hook: &str,
        age: SignedDuration,
        now: Timestamp,
    ) -> Result<Vec<Untold>, StoreError> {
        #[derive(sqlx::FromRow)]
        struct Found {
            #[sqlx(flatten)]
            build: Row,
            status_attempts: i64,
        }
        let sql = format!(
            "SELECT b.*, COALESCE(s.attempts, 0) AS status_attempts FROM builds AS b
             LEFT JOIN statuses AS s ON s.build = b.id AND s.hook = $1
             WHERE b.id >= (SELECT since FROM status_hooks WHERE name = $1)
               AND COALESCE(s.told, '') <> {SEEN} AND COALESCE(s.next_at, 0) <= $2
               AND (b.ended_at IS NULL OR b.ended_at > $3)
             ORDER BY b.id LIMIT $4"
        );
        let oldest = now.checked_sub(age).unwrap_or(Timestamp::MIN);
        let rows: Vec<Found> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(hook)
            .bind(ms(now))
            .bind(ms(oldest))
            .bind(AT_ONCE)
            .fetch_all(&self.reader)
            .await?;
        rows.into_iter()
            .map(|row| {
                let attempts = u32::try_from(row.status_attempts).unwrap_or(0);
                Ok(Untold { build: row.build.try_into()?, attempts })
            })
            .collect()
    }

    /// Notes that a hook was told this state of a build.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn status_told(&self, build: i64, hook: &str, state: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO statuses (build, hook, told) VALUES ($1, $2, $3)
             ON CONFLICT (build, hook) DO UPDATE SET told = $3, attempts = 0, next_at = 0, problem = NULL",
        )
        .bind(build)
        .bind(hook)
        .bind(state)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Notes that a hook could not be told, and when it is tried again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn status_failed(
        &self,
        build: i64,
        hook: &str,
        problem: &str,
        next_at: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO statuses (build, hook, attempts, problem, next_at) VALUES ($1, $2, 1, $3, $4)
             ON CONFLICT (build, hook) DO UPDATE SET
                 attempts = attempts + 1, problem = $3, next_at = $4",
        )
        .bind(build)
        .bind(hook)
        .bind(problem)
        .bind(ms(next_at))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// What each hook was told of a build.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn statuses(&self, build: i64) -> Result<Vec<Status>, StoreError> {
        let rows: Vec<(String, Option<String>, i64, Option<String>)> = sqlx::query_as(
            "SELECT hook, told, attempts, problem FROM statuses WHERE build = $1 ORDER BY hook",
        )
        .bind(build)
        .fetch_all(&self.reader)
        .await?;
        let status = |(hook, told, attempts, problem)| Status {
            hook,
            told,
            attempts: u32::try_from(attempts).unwrap_or(0),
            problem,
        };
        Ok(rows.into_iter().map(status).collect())
    }
}
