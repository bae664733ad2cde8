//! Rollouts: how far each commit came among the devices of its stage, and whom it was let reach.
//! What the state means is decided elsewhere; here it is JSON.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use volary_model::{CommitId, DeviceName, StageName};

use crate::db::{ms, parse, time};
use crate::{Store, StoreError};

/// How many rollouts of a stage are kept that are over.
const KEEP: i64 = 50;

/// A rollout as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout<S> {
    /// The stage.
    pub stage: StageName,
    /// The commit.
    pub commit: CommitId,
    /// How it stands.
    pub state: S,
    /// The same in a sentence.
    pub says: String,
    /// When it began.
    pub began_at: Timestamp,
    /// When it was finished, or another commit came.
    pub ended_at: Option<Timestamp>,
}

type Row = (String, String, String, String, i64, Option<i64>);

const ONE: &str = "SELECT stage, commit_id, state, says, began_at, ended_at FROM rollouts
                   WHERE stage = $1 AND commit_id = $2";

const ALL: &str = "SELECT stage, commit_id, state, says, began_at, ended_at FROM rollouts
                   ORDER BY began_at DESC, stage";

fn rollout<S: DeserializeOwned>(row: Row) -> Result<Rollout<S>, StoreError> {
    let (stage, commit, state, says, began_at, ended_at) = row;
    Ok(Rollout {
        stage: parse("stage name", &stage)?,
        commit: parse("commit", &commit)?,
        state: serde_json::from_str(&state)
            .map_err(|_| StoreError::Corrupt { what: "state of a rollout", text: state })?,
        says,
        began_at: time(began_at),
        ended_at: ended_at.map(time),
    })
}

impl Store {
    /// Changes the rollout of a commit in one step: `change` gets what is kept, if anything is, and
    /// answers with the new state, its sentence and whether it is over; `None` leaves it as it is. The
    /// rollouts of other commits in the stage are over with the first word of this one.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn change_rollout<S, T>(
        &self,
        stage: &StageName,
        commit: &CommitId,
        now: Timestamp,
        change: impl FnOnce(Option<S>) -> (Option<(S, String, bool)>, T) + Send,
    ) -> Result<T, StoreError>
    where
        S: Serialize + DeserializeOwned + Send,
        T: Send,
    {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let row: Option<Row> =
            sqlx::query_as(ONE).bind(stage.as_str()).bind(commit.as_str()).fetch_optional(&mut *tx).await?;
        let before = row.map(rollout::<S>).transpose()?;
        let (state, answer) = change(before.map(|before| before.state));
        if let Some((state, says, is_over)) = state {
            sqlx::query(
                "UPDATE rollouts SET ended_at = $3 WHERE stage = $1 AND commit_id <> $2 AND ended_at IS NULL",
            )
            .bind(stage.as_str())
            .bind(commit.as_str())
            .bind(ms(now))
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "INSERT INTO rollouts (stage, commit_id, state, says, began_at, ended_at)
                 VALUES ($1, $2, $3, $4, $5, $6)
                 ON CONFLICT (stage, commit_id) DO UPDATE SET state = excluded.state, says = excluded.says,
                     ended_at = CASE WHEN excluded.ended_at IS NULL THEN NULL
                                     ELSE COALESCE(rollouts.ended_at, excluded.ended_at) END",
            )
            .bind(stage.as_str())
            .bind(commit.as_str())
            .bind(serde_json::to_string(&state).expect("a state is JSON"))
            .bind(says)
            .bind(ms(now))
            .bind(is_over.then_some(ms(now)))
            .execute(&mut *tx)
            .await?;
            forget_old(&mut tx, stage).await?;
        }
        tx.commit().await?;
        Ok(answer)
    }

    /// The rollout of a commit in a stage.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rollout<S: DeserializeOwned>(
        &self,
        stage: &StageName,
        commit: &CommitId,
    ) -> Result<Option<Rollout<S>>, StoreError> {
        let row: Option<Row> = sqlx::query_as(ONE)
            .bind(stage.as_str())
            .bind(commit.as_str())
            .fetch_optional(&self.reader)
            .await?;
        row.map(rollout).transpose()
    }

    /// All rollouts that are kept, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rollouts<S: DeserializeOwned>(&self) -> Result<Vec<Rollout<S>>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(ALL).fetch_all(&self.reader).await?;
        rows.into_iter().map(rollout).collect()
    }

    /// Notes that a device was let begin.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rollout_begun(
        &self,
        stage: &StageName,
        commit: &CommitId,
        device: &DeviceName,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO rollout_devices (stage, commit_id, device, began_at) VALUES ($1, $2, $3, $4)
             ON CONFLICT (stage, commit_id, device) DO NOTHING",
        )
        .bind(stage.as_str())
        .bind(commit.as_str())
        .bind(device.as_str())
        .bind(ms(now))
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Notes that a device did not begin after all.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rollout_not_begun(&self, stage: &StageName, device: &DeviceName) -> Result<(), StoreError> {
        sqlx::query(
            "DELETE FROM rollout_devices WHERE stage = $1 AND device = $2 AND commit_id IN
                 (SELECT commit_id FROM rollouts WHERE stage = $1 AND ended_at IS NULL)",
        )
        .bind(stage.as_str())
        .bind(device.as_str())
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// The devices that were let begin.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rollout_devices(
        &self,
        stage: &StageName,
        commit: &CommitId,
    ) -> Result<BTreeSet<DeviceName>, StoreError> {
        let names: Vec<String> =
            sqlx::query_scalar("SELECT device FROM rollout_devices WHERE stage = $1 AND commit_id = $2")
                .bind(stage.as_str())
                .bind(commit.as_str())
                .fetch_all(&self.reader)
                .await?;
        names.iter().map(|name| parse("device name", name)).collect()
    }
}

async fn forget_old(tx: &mut sqlx::SqliteConnection, stage: &StageName) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM rollouts WHERE stage = $1 AND ended_at IS NOT NULL AND commit_id NOT IN
             (SELECT commit_id FROM rollouts WHERE stage = $1 ORDER BY began_at DESC LIMIT $2)",
    )
    .bind(stage.as_str())
    .bind(KEEP)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "DELETE FROM rollout_devices WHERE stage = $1 AND commit_id NOT IN
             (SELECT commit_id FROM rollouts WHERE stage = $1)",
    )
    .bind(stage.as_str())
    .execute(&mut *tx)
    .await?;
    Ok(())
}
