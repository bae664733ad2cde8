//! What goes on beside the taking: rollups of days that are over, and the end of what is too old. Each
//! device is visited in turn, so that a fleet's work is spread over hours.

use jiff::Timestamp;
use sqlx::{Sqlite, Transaction};

use super::block::{self, DAY, Rows};
use super::rollup::{Kept, rollup};
use super::writer::Writer;
use crate::StoreError;

/// Seconds of the rows of the levels that are rollups.
pub(super) const WIDTHS: [i64; 3] = [1, 300, 3600];

/// Days in a block of the hourly level.
const PERIOD: i64 = 30;

/// Seconds that the measurements of a day may be late for its rollup; later ones make another.
const LATE: i64 = 5400;

/// Seconds in which all devices are visited once.
const ROUND: i64 = 6 * 3600;

/// Devices in one visit at least, and at most.
const VISITS: (i64, i64) = (16, 256);

impl Writer {
    /// Makes blocks and visits the next devices.
    pub(super) async fn upkeep(&mut self, now: Timestamp) -> Result<(), StoreError> {
        if !self.has_history() {
            return Ok(());
        }
        self.seal(now.as_second()).await?;
        let passed = self.upkeep_at.replace(now).map_or(0, |before| now.as_second() - before.as_second());
        let all = self.pending.devices.len() as i64;
        let count = (all * passed / ROUND + 1).clamp(VISITS.0, VISITS.1);
        let after = self.pending.devices.range(self.visited + 1..);
        let ids: Vec<i64> = after.take(count as usize).map(|(id, _)| *id).collect();
        // After the last comes the first.
        self.visited = if (ids.len() as i64) < count { 0 } else { ids.last().copied().unwrap_or(0) };
        if ids.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin_with("BEGIN IMMEDIATE").await?;
        for id in ids {
            self.visit(&mut tx, id, now.as_second()).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    async fn visit(&self, tx: &mut Transaction<'_, Sqlite>, device: i64, now: i64) -> Result<(), StoreError> {
        let over = (now - LATE).div_euclid(DAY);
        let days: Vec<i64> =
            sqlx::query_scalar("SELECT day FROM due WHERE device = $1 AND day < $2 ORDER BY day")
                .bind(device)
                .bind(over)
                .fetch_all(&mut **tx)
                .await?;
        for day in &days {
            self.roll_up(tx, device, *day).await?;
        }
        sqlx::query("DELETE FROM due WHERE device = $1 AND day < $2")
            .bind(device)
            .bind(over)
            .execute(&mut **tx)
            .await?;
        let keep = [self.how.raw, self.how.five_minutes, self.how.hour];
        for (level, keep) in (0_i64..).zip(keep) {
            let before = now - i64::try_from(keep.as_secs()).unwrap_or(i64::MAX);
            // What is in no rollup stays, however short the time is.
            let before = if level == 0 { before.min(over * DAY) } else { before };
            sqlx::query("DELETE FROM blocks WHERE device = $1 AND level = $2 AND last < $3")
                .bind(device)
                .bind(level)
                .bind(before)
                .execute(&mut **tx)
                .await?;
        }
        Ok(())
    }

    /// Brings the measurements of a day into the coarser levels.
    async fn roll_up(
        &self,
        tx: &mut Transaction<'_, Sqlite>,
        device: i64,
        day: i64,
    ) -> Result<(), StoreError> {
        let (start, end) = (day * DAY, (day + 1) * DAY);
        let raw = Rows::merge(&blocks(tx, device, 0, start - 1, end - 1).await?);
        let kept = |series| Kept::of(&self.shared.names().name(series));
        let five = rollup(&raw, WIDTHS[1], kept);
        add(tx, device, 1, (start, end), five).await?;
        let first = day.div_euclid(PERIOD) * PERIOD * DAY;
        add(tx, device, 2, (first, first + PERIOD * DAY), rollup(&raw, WIDTHS[2], kept)).await
    }
}

/// Puts rows over those that a level has between two times, the second included, into one block.
async fn add(
    tx: &mut Transaction<'_, Sqlite>,
    device: i64,
    level: i64,
    (after, until): (i64, i64),
    rows: Rows,
) -> Result<(), StoreError> {
    let mut parts = blocks(tx, device, level, after, until).await?;
    parts.push(rows);
    let rows = Rows::merge(&parts);
    let (Some(first), Some(last)) = (rows.times.first(), rows.times.last()) else { return Ok(()) };
    sqlx::query("DELETE FROM blocks WHERE device = $1 AND level = $2 AND last > $3 AND last <= $4")
        .bind(device)
        .bind(level)
        .bind(after)
        .bind(until)
        .execute(&mut **tx)
        .await?;
    sqlx::query("INSERT INTO blocks (device, level, first, last, body) VALUES ($1, $2, $3, $4, $5)")
        .bind(device)
        .bind(level)
        .bind(first)
        .bind(last)
        .bind(block::encode(&rows))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// The blocks of a level that end after one time and until another.
async fn blocks(
    tx: &mut Transaction<'_, Sqlite>,
    device: i64,
    level: i64,
    after: i64,
    until: i64,
) -> Result<Vec<Rows>, StoreError> {
    let bodies: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT body FROM blocks WHERE device = $1 AND level = $2 AND last > $3 AND last <= $4 ORDER BY id",
    )
    .bind(device)
    .bind(level)
    .bind(after)
    .bind(until)
    .fetch_all(&mut **tx)
    .await?;
    bodies.iter().map(|body| block::decode(body, |_| true).map_err(super::read::damaged)).collect()
}
