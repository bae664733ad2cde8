//! Turns of devices that may change now. How many a site has is decided by whoever asks.

use jiff::Timestamp;
use volary_model::{CommitId, DeviceName, StageName};

use crate::db::{ms, parse, time};
use crate::{Store, StoreError};

/// A turn that a device asks for.
#[derive(Debug, Clone)]
pub struct NewTurn {
    /// The device.
    pub device: DeviceName,
    /// Its stage.
    pub stage: StageName,
    /// Its site; empty if the stage is one site.
    pub site: String,
    /// The commit that it goes for.
    pub commit: CommitId,
    /// The id of its newest report: what it reports of this commit later gives the turn back.
    pub after: String,
}

/// A turn that a device has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// The device.
    pub device: DeviceName,
    /// Its stage.
    pub stage: StageName,
    /// Its site; empty if the stage is one site.
    pub site: String,
    /// The commit that it goes for.
    pub commit: CommitId,
    /// Since when.
    pub granted_at: Timestamp,
    /// Until when, unless it is given back before.
    pub expires_at: Timestamp,
}

type Row = (String, String, String, String, i64, i64);

fn turn(row: Row) -> Result<Turn, StoreError> {
    let (device, stage, site, commit, granted_at, expires_at) = row;
    Ok(Turn {
        device: parse("device name", &device)?,
        stage: parse("stage name", &stage)?,
        site,
        commit: parse("commit", &commit)?,
        granted_at: time(granted_at),
        expires_at: time(expires_at),
    })
}

impl Store {
    /// Gives a turn if `decide` says until when, given the turns of the stage and site that count
    /// now. One transaction, so that two servers never give the same turn to two devices. A turn
    /// that the device had for something else is gone either way.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn take_turn<T: Send>(
        &self,
        wanted: &NewTurn,
        now: Timestamp,
        decide: impl FnOnce(&[Turn]) -> (Option<Timestamp>, T) + Send,
    ) -> Result<T, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query("DELETE FROM turns WHERE expires_at <= $1").bind(ms(now)).execute(&mut *tx).await?;
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT device, stage, site, commit_id, granted_at, expires_at FROM turns
             WHERE stage = $1 AND site = $2",
        )
        .bind(wanted.stage.as_str())
        .bind(&wanted.site)
        .fetch_all(&mut *tx)
        .await?;
        let held: Vec<Turn> = rows.into_iter().map(turn).collect::<Result<_, _>>()?;
        let before = held.iter().find(|turn| turn.device == wanted.device && turn.commit == wanted.commit);
        let since = before.map_or(now, |turn| turn.granted_at);
        let (until, answer) = decide(&held);
        sqlx::query("DELETE FROM turns WHERE device = $1")
            .bind(wanted.device.as_str())
            .execute(&mut *tx)
            .await?;
        if let Some(until) = until {
            sqlx::query(
                "INSERT INTO turns (device, stage, site, commit_id, after, granted_at, expires_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)",
            )
            .bind(wanted.device.as_str())
            .bind(wanted.stage.as_str())
            .bind(&wanted.site)
            .bind(wanted.commit.as_str())
            .bind(&wanted.after)
            .bind(ms(since))
            .bind(ms(until))
            .execute(&mut *tx)
            .await?;
        }
        tx.commit().await?;
        Ok(answer)
    }

    /// Gives a device's turn back. Returns false if it had none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn give_turn_back(&self, device: &DeviceName) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM turns WHERE device = $1")
            .bind(device.as_str())
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// All turns that count now, by device.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn turns(&self, now: Timestamp) -> Result<Vec<Turn>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT device, stage, site, commit_id, granted_at, expires_at FROM turns
             WHERE expires_at > $1 ORDER BY device",
        )
        .bind(ms(now))
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter().map(turn).collect()
    }
}
