//! What commands of the server and others said about commits, for gates.

use jiff::Timestamp;
use volary_model::{CommitId, GateName, StageName};

use crate::db::{ms, parse, time};
use crate::{Store, StoreError};

/// How many are listed.
const LISTED: i64 = 500;

/// What was said last of a commit under the name of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateWord {
    /// The stage of the merge that a command was asked for; `None` is what others said, which counts for each stage.
    pub stage: Option<StageName>,
    /// The gate's name.
    pub gate: GateName,
    /// The commit that would be merged.
    pub commit: CommitId,
    /// `go`, `ask` or `stop`.
    pub say: String,
    /// Why, in one line.
    pub reason: String,
    /// The token that said it; a command has none.
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// Stage, gate, commit, word, reason, who, when.
type Row = (String, String, String, String, String, Option<String>, i64);

const COLUMNS: &str = "SELECT stage, gate, commit_id, say, reason, said_by, said_at FROM gate_words";

impl Store {
    /// Replaces what was said before.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_gate_word(&self, word: &GateWord) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO gate_words (stage, gate, commit_id, say, reason, said_by, said_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (stage, gate, commit_id) DO UPDATE SET
                 say = excluded.say, reason = excluded.reason, said_by = excluded.said_by, said_at = excluded.said_at",
        )
        .bind(word.stage.as_ref().map_or("", StageName::as_str))
        .bind(word.gate.as_str())
        .bind(word.commit.as_str())
        .bind(&word.say)
        .bind(&word.reason)
        .bind(&word.by)
        .bind(ms(word.at))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// What was said of the tips of branches, and of one commit more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn gate_words(&self, also: Option<&CommitId>) -> Result<Vec<GateWord>, StoreError> {
        let sql = format!(
            "{COLUMNS} WHERE commit_id IN (SELECT tip FROM branches) OR commit_id = $1 ORDER BY gate, stage"
        );
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(also.map_or("", CommitId::as_str))
            .fetch_all(&self.reader)
            .await?;
        rows.into_iter().map(read).collect()
    }

    /// What was said last, the newest first; of one commit, if it is named.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn newest_gate_words(&self, commit: Option<&CommitId>) -> Result<Vec<GateWord>, StoreError> {
        let sql = format!(
            "{COLUMNS} WHERE $1 = '' OR commit_id = $1 ORDER BY said_at DESC, gate, stage LIMIT {LISTED}"
        );
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(commit.map_or("", CommitId::as_str))
            .fetch_all(&self.reader)
            .await?;
        rows.into_iter().map(read).collect()
    }

    /// Forgets what was said longer ago.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn forget_gate_words(&self, before: Timestamp) -> Result<(), StoreError> {
        sqlx::query("DELETE FROM gate_words WHERE said_at < $1")
            .bind(ms(before))
            .execute(&self.writer)
            .await?;
        Ok(())
    }
}

fn read((stage, gate, commit, say, reason, by, at): Row) -> Result<GateWord, StoreError> {
    Ok(GateWord {
        stage: if stage.is_empty() { None } else { Some(parse("stage", &stage)?) },
        gate: parse("gate", &gate)?,
        commit: parse("commit", &commit)?,
        say,
        reason,
        by,
        at: time(at),
    })
}
