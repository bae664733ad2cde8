//! Builds: a queue that survives a kill at any moment.

use std::fmt;
use std::str::FromStr;

use jiff::{SignedDuration, Timestamp};
use volary_model::{Architecture, BuildMethod, BuildScope, CommitId, Digest, SourceName};

use crate::db::{ms, parse, parse_opt, time};
use crate::{Store, StoreError};

/// A build that takes the server down with it (memory, disk) must not do so for ever.
const MAX_CUT_OFF: i64 = 5;

/// How long a build waits after the machine's trouble put it back: this long after the first
/// time, twice as long after each further one.
const FIRST_WAIT: SignedDuration = SignedDuration::from_secs(30);

/// The longest such wait: whoever mends a machine should not wait longer for it to be noticed.
const LONGEST_WAIT: SignedDuration = SignedDuration::from_mins(15);

/// Where a build stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuildState {
    /// It waits for its turn.
    Queued,
    /// A worker has it.
    Running,
    /// Its packages are on disk and not yet in the archive.
    Built,
    /// Its packages are in the archive.
    Succeeded,
    /// It failed.
    Failed,
    /// Somebody ended it.
    Cancelled,
}

impl BuildState {
    const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::Built, Self::Succeeded, Self::Failed, Self::Cancelled];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Built => "built",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for BuildState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for BuildState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// A commit to be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewBuild {
    /// The commit.
    pub commit: CommitId,
    /// The first line of its message.
    pub subject: String,
    /// Its author.
    pub author: String,
    /// When it was committed.
    pub committed_at: Timestamp,
    /// The builds that it needs, at least one; the others wait for the first.
    pub targets: Vec<(Architecture, BuildScope)>,
}

/// One build of one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// Its number on this server.
    pub id: i64,
    /// The source.
    pub source: SourceName,
    /// The commit.
    pub commit: CommitId,
    /// Its number among the source's builds: the N of the version.
    pub number: u64,
    /// The first line of the commit's message.
    pub subject: String,
    /// The commit's author.
    pub author: String,
    /// When the commit was made.
    pub committed_at: Timestamp,
    /// The architecture that is built for.
    pub architecture: Architecture,
    /// Which packages it makes.
    pub scope: BuildScope,
    /// True for the first build of its commit, for which the others wait.
    pub leads: bool,
    /// How they are made, once that is known.
    pub method: Option<BuildMethod>,
    /// Where it stands.
    pub state: BuildState,
    /// The version it made.
    pub version: Option<String>,
    /// The packages it made: `name=version`.
    pub packages: Vec<String>,
    /// Why it failed.
    pub reason: Option<String>,
    /// When it was queued.
    pub queued_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub ended_at: Option<Timestamp>,
    /// How often it was tried.
    pub attempts: u32,
    /// SHA-256 of its `.buildinfo`, if that is kept.
    pub buildinfo: Option<Digest>,
    /// What lintian said, as JSON of whoever ran it.
    pub lintian: String,
    /// Why the commit was built once more; `None` for a new commit.
    pub because: Option<String>,
    /// The build of which it is a consequence.
    pub caused_by: Option<i64>,
    /// Until when it waits after trouble of the machine.
    pub not_before: Option<Timestamp>,
}

#[derive(sqlx::FromRow)]
pub(crate) struct Row {
    id: i64,
    source: String,
    commit_id: String,
    number: i64,
    subject: String,
    author: String,
    committed_at: i64,
    architecture: String,
    scope: String,
    leads: i64,
    method: Option<String>,
    state: String,
    version: Option<String>,
    packages: String,
    reason: Option<String>,
    queued_at: i64,
    started_at: Option<i64>,
    ended_at: Option<i64>,
    attempts: i64,
    buildinfo: Option<String>,
    lintian: String,
    because: Option<String>,
    caused_by: Option<i64>,
    not_before: Option<i64>,
}

impl TryFrom<Row> for Build {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        let Ok(packages) = serde_json::from_str(&row.packages) else {
            return Err(StoreError::Corrupt { what: "list of packages", text: row.packages });
        };
        Ok(Self {
            id: row.id,
            source: parse("source name", &row.source)?,
            commit: parse("commit", &row.commit_id)?,
            number: u64::try_from(row.number).unwrap_or(0),
            subject: row.subject,
            author: row.author,
            committed_at: time(row.committed_at),
            architecture: parse("architecture", &row.architecture)?,
            scope: parse("scope of a build", &row.scope)?,
            leads: row.leads != 0,
            method: parse_opt("build method", row.method.as_deref())?,
            state: parse("build state", &row.state)?,
            version: row.version,
            packages,
            reason: row.reason,
            queued_at: time(row.queued_at),
            started_at: row.started_at.map(time),
            ended_at: row.ended_at.map(time),
            attempts: u32::try_from(row.attempts).unwrap_or(0),
            buildinfo: parse_opt("digest", row.buildinfo.as_deref())?,
            lintian: row.lintian,
            because: row.because,
            caused_by: row.caused_by,
            not_before: row.not_before.map(time),
        })
    }
}

impl Store {
    /// The newest `limit` builds, of one source or of all, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn builds(&self, source: Option<&SourceName>, limit: u32) -> Result<Vec<Build>, StoreError> {
        let rows: Vec<Row> =
            sqlx::query_as("SELECT * FROM builds WHERE $1 = '' OR source = $1 ORDER BY id DESC LIMIT $2")
                .bind(source.map_or("", SourceName::as_str))
                .bind(i64::from(limit))
                .fetch_all(&self.reader)
                .await?;
        rows.into_iter().map(Build::try_from).collect()
    }

    /// One build.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn build(&self, id: i64) -> Result<Option<Build>, StoreError> {
        let row: Option<Row> = sqlx::query_as("SELECT * FROM builds WHERE id = $1")
            .bind(id)
            .fetch_optional(&self.reader)
            .await?;
        row.map(Build::try_from).transpose()
    }

    /// The newest build of a source that made this version.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn build_of_version(
        &self,
        source: &SourceName,
        version: &str,
    ) -> Result<Option<Build>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "SELECT * FROM builds WHERE source = $1 AND version = $2 ORDER BY id DESC LIMIT 1",
        )
        .bind(source.as_str())
        .bind(version)
        .fetch_optional(&self.reader)
        .await?;
        row.map(Build::try_from).transpose()
    }

    /// Puts every build that a dead server left running back into the queue, with its number and
    /// thus its version; one that was cut off too often fails instead. Returns them as they are
    /// then. To be called before any worker starts.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn requeue_running(&self, now: Timestamp) -> Result<Vec<Build>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "UPDATE builds SET
                 state = CASE WHEN attempts < $1 THEN 'queued' ELSE 'failed' END,
                 reason = CASE WHEN attempts < $1 THEN NULL
                     ELSE 'the server was stopped during each of ' || attempts || ' attempts' END,
                 ended_at = CASE WHEN attempts < $1 THEN NULL ELSE $2 END,
                 started_at = CASE WHEN attempts < $1 THEN NULL ELSE started_at END
             WHERE state = 'running' RETURNING *",
        )
        .bind(MAX_CUT_OFF)
        .bind(ms(now))
        .fetch_all(&self.writer)
        .await?;
        rows.into_iter().map(Build::try_from).collect()
    }

    /// Puts a running build back into the queue since the machine, not its commit, is in trouble;
    /// this is no attempt that counts. It waits for a while, longer each time, so that it does not
    /// hold up what may work. The problem stays with it until it is taken again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn build_postponed(&self, id: i64, problem: &str, now: Timestamp) -> Result<(), StoreError> {
        // 1 << n is two to the power of n; above 10 it is the longest wait anyway.
        sqlx::query(
            "UPDATE builds SET state = 'queued', reason = $2, started_at = NULL, version = NULL,
                 attempts = MAX(attempts - 1, 0), setbacks = setbacks + 1,
                 not_before = $3 + MIN($4 * (1 << MIN(setbacks, 10)), $5)
             WHERE id = $1 AND state = 'running'",
        )
        .bind(id)
        .bind(problem)
        .bind(ms(now))
        .bind(i64::try_from(FIRST_WAIT.as_millis()).expect("it is seconds"))
        .bind(i64::try_from(LONGEST_WAIT.as_millis()).expect("it is minutes"))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Lets every build that waits after trouble of the machine be tried at once: the server was
    /// started anew, most likely by somebody who mended it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_waits(&self) -> Result<(), StoreError> {
        sqlx::query("UPDATE builds SET not_before = NULL WHERE state = 'queued' AND not_before IS NOT NULL")
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Takes the oldest build whose turn it is. Builds of one source for one architecture go in
    /// order, so that rolling never sees an older commit after a newer one; one that waits after
    /// trouble of the machine holds up only those. A commit's first build ends before its others
    /// begin. One that waits for others is taken when they are over, however they ended.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn claim_build(&self, now: Timestamp) -> Result<Option<Build>, StoreError> {
        let row: Option<Row> = sqlx::query_as(
            "UPDATE builds SET state = 'running', started_at = $1, ended_at = NULL, reason = NULL,
                 attempts = attempts + 1, not_before = NULL
             WHERE id = (SELECT id FROM builds AS b WHERE state = 'queued' AND COALESCE(not_before, 0) <= $1
                 AND NOT EXISTS (SELECT 1 FROM builds AS o
                     WHERE o.source = b.source AND o.architecture = b.architecture
                     AND (o.state IN ('running', 'built')
                         OR (o.state = 'queued' AND o.id < b.id AND o.not_before > $1)))
                 AND NOT EXISTS (SELECT 1 FROM builds AS first
                     WHERE first.source = b.source AND first.number = b.number AND first.leads = 1
                     AND first.id != b.id AND first.state IN ('queued', 'running', 'built'))
                 AND NOT EXISTS (SELECT 1 FROM builds AS w, json_each(b.waits_for) AS j
                     WHERE w.id = j.value AND w.state IN ('queued', 'running', 'built'))
                 ORDER BY id LIMIT 1)
             RETURNING *",
        )
        .bind(ms(now))
        .fetch_optional(&self.writer)
        .await?;
        row.map(Build::try_from).transpose()
    }

    /// Builds whose packages are on disk and not yet in the archive, oldest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn built(&self) -> Result<Vec<Build>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as("SELECT * FROM builds WHERE state = 'built' ORDER BY id")
            .fetch_all(&self.reader)
            .await?;
        rows.into_iter().map(Build::try_from).collect()
    }

    /// Notes that a running build's packages are on disk.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn build_built(
        &self,
        id: i64,
        version: &str,
        method: BuildMethod,
        packages: &[String],
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE builds SET state = 'built', version = $2, packages = $3, method = $4
             WHERE id = $1 AND state = 'running'",
        )
        .bind(id)
        .bind(version)
        .bind(serde_json::to_string(packages).expect("a list of texts is JSON"))
        .bind(method.as_str())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Notes what lintian said of a build's packages.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn build_lintian(&self, id: i64, findings: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE builds SET lintian = $2 WHERE id = $1")
            .bind(id)
            .bind(findings)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Notes which `.buildinfo` of a build is kept.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn keep_buildinfo(&self, id: i64, sha256: &Digest) -> Result<(), StoreError> {
        sqlx::query("UPDATE builds SET buildinfo = $2 WHERE id = $1")
            .bind(id)
            .bind(sha256.to_string())
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Notes that a build's `.buildinfo` is kept no longer.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_buildinfo(&self, id: i64) -> Result<(), StoreError> {
        sqlx::query("UPDATE builds SET buildinfo = NULL WHERE id = $1")
            .bind(id)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Notes that a build's packages are in the archive, under the names that they have there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn build_succeeded(
        &self,
        id: i64,
        packages: &[String],
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE builds SET state = 'succeeded', packages = $2, ended_at = $3
             WHERE id = $1 AND state = 'built'",
        )
        .bind(id)
        .bind(serde_json::to_string(packages).expect("a list of texts is JSON"))
        .bind(ms(now))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Notes that a build failed, with the reason in one line. If it was the first of its commit,
    /// the others fail with it, and are returned.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn build_failed(
        &self,
        id: i64,
        reason: &str,
        now: Timestamp,
    ) -> Result<Vec<Build>, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "UPDATE builds SET state = 'failed', reason = $2, ended_at = $3
             WHERE id = $1 AND state IN ('running', 'built')",
        )
        .bind(id)
        .bind(reason)
        .bind(ms(now))
        .execute(&mut *tx)
        .await?;
        let ended = end_with(&mut tx, id, now).await?;
        tx.commit().await?;
        Ok(ended)
    }

    /// Ends a build that waits or runs, with the reason in one line, and with it those that wait
    /// for it. Returns it as it is then, or `None` if it was neither: what ended already, or is
    /// being published, is not undone.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn cancel_build(
        &self,
        id: i64,
        reason: &str,
        now: Timestamp,
    ) -> Result<Option<Build>, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let row: Option<Row> = sqlx::query_as(
            "UPDATE builds SET state = 'cancelled', reason = $2, ended_at = $3
             WHERE id = $1 AND state IN ('queued', 'running') RETURNING *",
        )
        .bind(id)
        .bind(reason)
        .bind(ms(now))
        .fetch_optional(&mut *tx)
        .await?;
        end_with(&mut tx, id, now).await?;
        tx.commit().await?;
        row.map(Build::try_from).transpose()
    }

    /// Queues a failed or cancelled build again, and those that ended because of it without being
    /// tried. One that waits after trouble of the machine need not wait any longer. Returns `None`
    /// if it is in none of these states.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn retry_build(&self, id: i64, now: Timestamp) -> Result<Option<Build>, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let row: Option<Row> = sqlx::query_as(
            "UPDATE builds SET queued_at = CASE state WHEN 'queued' THEN queued_at ELSE $2 END,
                 state = 'queued', started_at = NULL, ended_at = NULL,
                 reason = NULL, version = NULL, method = NULL, packages = '[]', not_before = NULL
             WHERE id = $1
             AND (state IN ('failed', 'cancelled') OR (state = 'queued' AND not_before IS NOT NULL))
             RETURNING *",
        )
        .bind(id)
        .bind(ms(now))
        .fetch_optional(&mut *tx)
        .await?;
        sqlx::query(
            "UPDATE builds SET state = 'queued', queued_at = $2, ended_at = NULL, reason = NULL
             FROM (SELECT * FROM builds WHERE id = $1 AND leads = 1 AND state = 'queued') AS first
             WHERE builds.source = first.source AND builds.number = first.number
             AND builds.state IN ('failed', 'cancelled') AND builds.attempts = 0",
        )
        .bind(id)
        .bind(ms(now))
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        row.map(Build::try_from).transpose()
    }
}

/// Ends the builds that wait for this one, if it is the first of its commit and ended without
/// packages.
async fn end_with(
    tx: &mut sqlx::SqliteConnection,
    id: i64,
    now: Timestamp,
) -> Result<Vec<Build>, StoreError> {
    let rows: Vec<Row> = sqlx::query_as(
        "UPDATE builds SET state = first.state, ended_at = $2, not_before = NULL,
             reason = 'build ' || first.id || ' of the same commit for ' || first.architecture
                 || CASE first.state WHEN 'failed' THEN ' failed' ELSE ' was cancelled' END
         FROM (SELECT * FROM builds WHERE id = $1 AND leads = 1 AND state IN ('failed', 'cancelled'))
             AS first
         WHERE builds.source = first.source AND builds.number = first.number
         AND builds.state = 'queued' RETURNING *",
    )
    .bind(id)
    .bind(ms(now))
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(Build::try_from).collect()
}
