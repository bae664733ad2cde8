//! Builds that are a consequence of others: what is known to plan them, and queueing them.

use jiff::Timestamp;
use volary_model::SourceName;

use crate::db::{ms, parse};
use crate::{Build, Store, StoreError};

/// What a build that ended well says for planning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildFacts {
    /// Its source.
    pub source: SourceName,
    /// The packages that it was built with.
    pub needs: Vec<String>,
    /// What it made: `name=version`.
    pub packages: Vec<String>,
    /// True if its dependents are to be built again.
    pub asks: bool,
}

/// A source to build again, its newest commit that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRebuild {
    /// The source.
    pub source: SourceName,
    /// Why, in words.
    pub because: String,
    /// Those of the same plan that must be over before.
    pub after: Vec<SourceName>,
}

fn list(text: String) -> Result<Vec<String>, StoreError> {
    serde_json::from_str(&text).map_err(|_| StoreError::Corrupt { what: "list of packages", text })
}

impl Store {
    /// Notes what planning needs to know of a running build.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn build_needs(&self, id: i64, needs: &[String], asks: bool) -> Result<(), StoreError> {
        // What is itself a consequence has none: its plan was made as a whole. Those of a commit are
        // planned once, for all architectures.
        sqlx::query(
            "UPDATE builds SET needs = $2, asks = $3,
                 planned = CASE WHEN $3 = 1 AND caused_by IS NULL AND leads = 1 THEN 0 ELSE 1 END
             WHERE id = $1",
        )
        .bind(id)
        .bind(serde_json::to_string(needs).expect("a list of texts is JSON"))
        .bind(i64::from(asks))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Builds that ended well and whose consequences are still to be planned, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn unplanned(&self) -> Result<Vec<Build>, StoreError> {
        let rows: Vec<crate::build::Row> =
            sqlx::query_as("SELECT * FROM builds WHERE planned = 0 AND state = 'succeeded' ORDER BY id")
                .fetch_all(&self.reader)
                .await?;
        rows.into_iter().map(Build::try_from).collect()
    }

    /// What the newest build that ended well says, for each registered source.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn build_facts(&self) -> Result<Vec<BuildFacts>, StoreError> {
        let rows: Vec<(String, String, String, i64)> = sqlx::query_as(
            "SELECT source, needs, packages, asks FROM builds WHERE id IN
                 (SELECT MAX(b.id) FROM builds AS b JOIN sources AS s ON s.name = b.source
                  WHERE b.state = 'succeeded' AND b.leads = 1 AND s.removed_at IS NULL GROUP BY b.source)
             ORDER BY source",
        )
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter()
            .map(|(source, needs, packages, asks)| {
                Ok(BuildFacts {
                    source: parse("source name", &source)?,
                    needs: list(needs)?,
                    packages: list(packages)?,
                    asks: asks != 0,
                })
            })
            .collect()
    }

    /// Queues the consequences of a build, in their order, and notes that it was planned: after a
    /// crash there are both or neither. A source whose newest commit waits to be built anyway is
    /// not queued twice. Returns the new builds.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn queue_rebuilds(
        &self,
        cause: i64,
        rebuilds: &[NewRebuild],
        now: Timestamp,
    ) -> Result<Vec<Build>, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let planned = sqlx::query("UPDATE builds SET planned = 1 WHERE id = $1 AND planned = 0")
            .bind(cause)
            .execute(&mut *tx)
            .await?;
        let mut queued: Vec<(SourceName, Build)> = Vec::new();
        for rebuild in rebuilds.iter().filter(|_| planned.rows_affected() > 0) {
            let waits: Option<i64> = sqlx::query_scalar(
                "SELECT id FROM builds WHERE source = $1 AND state = 'queued' AND leads = 1 LIMIT 1",
            )
            .bind(rebuild.source.as_str())
            .fetch_optional(&mut *tx)
            .await?;
            if waits.is_some() {
                continue;
            }
            let number: i64 = sqlx::query_scalar(
                "UPDATE sources SET counter = counter + 1 WHERE name = $1 RETURNING counter",
            )
            .bind(rebuild.source.as_str())
            .fetch_one(&mut *tx)
            .await?;
            // All builds of that commit again; each waits for those of its own architecture.
            let before: Vec<(i64, String)> = sqlx::query_as(
                "SELECT id, architecture FROM builds WHERE source = $1 AND number =
                     (SELECT number FROM builds WHERE source = $1 AND leads = 1 AND state = 'succeeded'
                      ORDER BY id DESC LIMIT 1)
                 ORDER BY id",
            )
            .bind(rebuild.source.as_str())
            .fetch_all(&mut *tx)
            .await?;
            for (id, architecture) in before {
                let siblings: Vec<i64> = sqlx::query_scalar(
                    "SELECT o.id FROM builds AS o JOIN builds AS c ON c.id = $1
                     WHERE o.source = c.source AND o.number = c.number AND o.id != c.id
                     AND o.architecture = $2",
                )
                .bind(cause)
                .bind(&architecture)
                .fetch_all(&mut *tx)
                .await?;
                let planned = queued.iter().filter(|(source, build)| {
                    rebuild.after.contains(source) && build.architecture.as_str() == architecture
                });
                let after: Vec<i64> = planned.map(|(_, build)| build.id).chain(siblings).collect();
                let row: crate::build::Row = sqlx::query_as(
                    "INSERT INTO builds (source, commit_id, number, subject, author, committed_at,
                         architecture, scope, leads, state, queued_at, because, caused_by, waits_for)
                     SELECT source, commit_id, $2, subject, author, committed_at,
                         architecture, scope, leads, 'queued', $3, $4, $5, $6
                     FROM builds WHERE id = $1 RETURNING *",
                )
                .bind(id)
                .bind(number)
                .bind(ms(now))
                .bind(&rebuild.because)
                .bind(cause)
                .bind(serde_json::to_string(&after).expect("a list of numbers is JSON"))
                .fetch_one(&mut *tx)
                .await?;
                queued.push((rebuild.source.clone(), row.try_into()?));
            }
        }
        tx.commit().await?;
        Ok(queued.into_iter().map(|(_, build)| build).collect())
    }
}
