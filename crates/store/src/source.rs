//! Registered source repositories.

use jiff::Timestamp;
use volary_model::{Architecture, CommitId, SourceName};

use crate::db::{ms, parse, parse_opt, time};
use crate::{NewBuild, Store, StoreError};

/// A source repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub name: SourceName,
    /// Where it is; `None` if this server hosts it.
    pub url: Option<String>,
    /// The branch whose commits are built.
    pub branch: String,
    /// The architectures to build for, where the source itself does not say; empty for the
    /// server's usual ones.
    pub architectures: Vec<Architecture>,
    /// The newest commit for which builds were queued.
    pub tip: Option<CommitId>,
    /// When it was looked at last.
    pub polled_at: Option<Timestamp>,
    /// Why the last look failed.
    pub problem: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    url: Option<String>,
    branch: String,
    architectures: String,
    tip: Option<String>,
    polled_at: Option<i64>,
    problem: Option<String>,
}

impl TryFrom<Row> for Source {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let Ok(architectures) = serde_json::from_str(&row.architectures) else {
            return Err(StoreError::Corrupt { what: "list of architectures", text: row.architectures });
        };
        Ok(Self {
            architectures,
            name: parse("source name", &row.name)?,
            url: row.url,
            branch: row.branch,
            tip: parse_opt("commit", row.tip.as_deref())?,
            polled_at: row.polled_at.map(time),
            problem: row.problem,
        })
    }
}

impl Store {
    /// All registered sources by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn sources(&self) -> Result<Vec<Source>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT name, url, branch, architectures, tip, polled_at, problem FROM sources
             WHERE removed_at IS NULL ORDER BY name",
        )
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter().map(Source::try_from).collect()
    }

    /// Registers a source. Returns false if the name is taken. A source that was removed and
    /// comes back keeps its counter, so that its versions go on rising.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_source(
        &self,
        name: &SourceName,
        url: Option<&str>,
        branch: &str,
        architectures: &[Architecture],
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "INSERT INTO sources (name, url, branch, created_at, architectures) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (name) DO UPDATE SET url = excluded.url, branch = excluded.branch,
                 architectures = excluded.architectures, tip = NULL, polled_at = NULL, problem = NULL, removed_at = NULL
             WHERE sources.removed_at IS NOT NULL",
        )
        .bind(name.as_str())
        .bind(url)
        .bind(branch)
        .bind(ms(now))
        .bind(serde_json::to_string(architectures).expect("a list of names is JSON"))
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Removes a source; its builds stay, those that wait are dropped. Returns false if there is
    /// none of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_source(&self, name: &SourceName, now: Timestamp) -> Result<bool, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let done = sqlx::query("UPDATE sources SET removed_at = $2 WHERE name = $1 AND removed_at IS NULL")
            .bind(name.as_str())
            .bind(ms(now))
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "UPDATE builds SET state = 'failed', reason = 'the source was removed', ended_at = $2
             WHERE source = $1 AND state = 'queued'",
        )
        .bind(name.as_str())
        .bind(ms(now))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes that a source was looked at, and what went wrong if something did.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn source_polled(
        &self,
        name: &SourceName,
        problem: Option<&str>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE sources SET polled_at = $2, problem = $3 WHERE name = $1")
            .bind(name.as_str())
            .bind(ms(now))
            .bind(problem)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Moves a source's tip and queues the builds for the commits that came, oldest first, in one
    /// step: after a crash there are both or neither. Does nothing and returns no build if the
    /// tip is not `seen` any more, since then somebody else did it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn advance_source(
        &self,
        name: &SourceName,
        seen: Option<&CommitId>,
        tip: &CommitId,
        commits: &[NewBuild],
        now: Timestamp,
    ) -> Result<Vec<i64>, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let moved = sqlx::query(
            "UPDATE sources SET tip = $2 WHERE name = $1 AND removed_at IS NULL
             AND COALESCE(tip, '') = $3",
        )
        .bind(name.as_str())
        .bind(tip.as_str())
        .bind(seen.map_or("", CommitId::as_str))
        .execute(&mut *tx)
        .await?;
        let mut ids = Vec::new();
        if moved.rows_affected() > 0 {
            for commit in commits {
                let number: i64 = sqlx::query_scalar(
                    "UPDATE sources SET counter = counter + 1 WHERE name = $1 RETURNING counter",
                )
                .bind(name.as_str())
                .fetch_one(&mut *tx)
                .await?;
                for (index, (architecture, scope)) in commit.targets.iter().enumerate() {
                    let id: i64 = sqlx::query_scalar(
                        "INSERT INTO builds (source, commit_id, number, subject, author, committed_at,
                             architecture, scope, leads, state, queued_at)
                         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'queued', $10) RETURNING id",
                    )
                    .bind(name.as_str())
                    .bind(commit.commit.as_str())
                    .bind(number)
                    .bind(&commit.subject)
                    .bind(&commit.author)
                    .bind(ms(commit.committed_at))
                    .bind(architecture.as_str())
                    .bind(scope.as_str())
                    .bind(i64::from(index == 0))
                    .bind(ms(now))
                    .fetch_one(&mut *tx)
                    .await?;
                    ids.push(id);
                }
            }
        }
        tx.commit().await?;
        Ok(ids)
    }
}
