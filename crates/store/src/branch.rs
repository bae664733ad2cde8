//! Where the branches of the fleet repository were seen, and since when.

use jiff::Timestamp;
use volary_model::CommitId;

use crate::db::{ms, parse, time};
use crate::{Store, StoreError};

/// A branch with its tip as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Branch {
    /// Its name.
    pub name: String,
    /// Its tip.
    pub tip: CommitId,
    /// When the server saw that tip first, by its own clock: a committer's clock may lie.
    pub moved_at: Timestamp,
}

impl Store {
    /// All branches that were seen.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn branches(&self) -> Result<Vec<Branch>, StoreError> {
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as("SELECT name, tip, moved_at FROM branches ORDER BY name")
                .fetch_all(&self.reader)
                .await?;
        rows.into_iter()
            .map(|(name, tip, moved_at)| {
                Ok(Branch { name, tip: parse("commit", &tip)?, moved_at: time(moved_at) })
            })
            .collect()
    }

    /// Notes a branch's tip. Returns true if it was another one before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn branch_seen(&self, name: &str, tip: &CommitId, now: Timestamp) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO branches (name, tip, moved_at) VALUES ($1, $2, $3)
             ON CONFLICT (name) DO UPDATE SET tip = excluded.tip, moved_at = excluded.moved_at
             WHERE branches.tip <> excluded.tip",
        )
        .bind(name)
        .bind(tip.as_str())
        .bind(ms(now))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }
}
