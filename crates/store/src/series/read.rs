//! What is asked of the past.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use volary_model::DeviceName;

use super::block::{self, Rows};
use super::bytes::Damaged;
use super::upkeep::WIDTHS;
use super::{JournalLine, Series, time};
use crate::StoreError;

/// Points of several series.
type Found = BTreeMap<String, Vec<(Timestamp, f64)>>;

impl Series {
    /// The points of a series between two times, both included, oldest first: single measurements as
    /// long as there are any, then one for five minutes, then one for an hour, each at the end of the time
    /// that it is about. Counters (`_total`) begin anew at [`Series::boots`].
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn range(
        &self,
        device: &DeviceName,
        series: &str,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<(Timestamp, f64)>, StoreError> {
        let mut found = self.ranges(device, |name| name == series, from, to, 0).await?;
        Ok(found.remove(series).unwrap_or_default())
    }

    /// As [`Series::range`] for all series that `wanted` wants: a block is read once for all of them. With
    /// a `step` of 300 or 3,600 seconds and more, rollups are taken where there are some, which is quicker.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn ranges(
        &self,
        device: &DeviceName,
        wanted: impl Fn(&str) -> bool,
        from: Timestamp,
        to: Timestamp,
        step: u32,
    ) -> Result<Found, StoreError> {
        self.shared.whole()?;
        let (from, to) = (from.as_second(), to.as_second());
        let step = i64::from(step);
        let Some(id) = self.shared.with(device, |head| head.id) else { return Ok(Found::new()) };
        let numbers = self.numbers(wanted);
        // The coarsest that is fine enough first, then finer ones, then coarser ones.
        let best = (0..3).rev().find(|level| *level == 0 || WIDTHS[*level] <= step).unwrap_or(0);
        let order = (0..=best).rev().chain(best + 1..3);
        let mut rows: [Vec<Vec<u8>>; 3] = Default::default();
        let mut covered = from;
        for level in (0..=2_usize).rev() {
            let found: Vec<(i64, Vec<u8>)> = sqlx::query_as(
                "SELECT last, body FROM blocks
                 WHERE device = $1 AND level = $2 AND last >= $3 AND first <= $4 ORDER BY id",
            )
            .bind(id)
            .bind(level as i64)
            .bind(if level < best { covered } else { from })
            // A row of a rollup begins before its time.
            .bind(to.saturating_add(WIDTHS[level]))
            .fetch_all(&self.reader)
            .await?;
            if level > 0 && level <= best {
                covered = found.iter().map(|(last, _)| *last).fold(covered, i64::max);
            }
            rows[level] = found.into_iter().map(|(_, body)| body).collect();
        }
        let pending = self.shared.with(device, |head| head.pending(|series| numbers.contains_key(&series)));
        let order: Vec<usize> = order.collect();
        let work = move || collect(&rows, &pending.unwrap_or_default(), &numbers, &order, from, to);
        let found = tokio::task::spawn_blocking(work).await;
        found.map_err(|_| StoreError::Query(sqlx::Error::WorkerCrashed))?.map_err(damaged)
    }

    /// When a device booted between two times, as far as measurements tell: its counters (`_total`) began
    /// anew.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn boots(
        &self,
        device: &DeviceName,
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Timestamp>, StoreError> {
        self.shared.whole()?;
        let Some((id, pending)) = self.shared.with(device, |head| (head.id, head.pending(|_| false))) else {
            return Ok(Vec::new());
        };
        let bodies: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT body FROM blocks WHERE device = $1 AND level = 2 AND last >= $2 AND first <= $3
             UNION ALL
             SELECT body FROM blocks WHERE device = $1 AND level = 0 AND last >= $2 AND first <= $3",
        )
        .bind(id)
        .bind(from.as_second())
        .bind(to.as_second())
        .fetch_all(&self.reader)
        .await?;
        let mut boots: BTreeSet<i64> = pending.into_iter().flat_map(|rows| rows.boots).collect();
        for body in bodies {
            boots.extend(block::decode(&body, |_| false).map_err(damaged)?.boots);
        }
        Ok(boots.range(from.as_second()..=to.as_second()).map(|boot| time(*boot)).collect())
    }

    /// The newest lines of a device's journal, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn errors(&self, device: &DeviceName, limit: u32) -> Result<Vec<JournalLine>, StoreError> {
        let Some(id) = self.shared.with(device, |head| head.id) else { return Ok(Vec::new()) };
        let rows: Vec<(i64, i64, String, String)> = sqlx::query_as(
            "SELECT at, priority, unit, message FROM errors WHERE device = $1 ORDER BY at DESC, id DESC LIMIT $2",
        )
        .bind(id)
        .bind(i64::from(limit))
        .fetch_all(&self.reader)
        .await?;
        let line = |(at, priority, unit, message)| JournalLine {
            at: time(at),
            priority: u8::try_from(priority).unwrap_or(u8::MAX),
            unit,
            message,
        };
        Ok(rows.into_iter().map(line).collect())
    }

    /// The bytes of the file, what is free in it included.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn file_size(&self) -> Result<u64, StoreError> {
        let pages: i64 = sqlx::query_scalar("PRAGMA page_count").fetch_one(&self.reader).await?;
        let size: i64 = sqlx::query_scalar("PRAGMA page_size").fetch_one(&self.reader).await?;
        Ok(u64::try_from(pages.saturating_mul(size)).unwrap_or(0))
    }

    /// The bytes of all blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn block_bytes(&self) -> Result<u64, StoreError> {
        let bytes: Option<i64> =
            sqlx::query_scalar("SELECT SUM(LENGTH(body)) FROM blocks").fetch_one(&self.reader).await?;
        Ok(u64::try_from(bytes.unwrap_or(0)).unwrap_or(0))
    }

    fn numbers(&self, wanted: impl Fn(&str) -> bool) -> BTreeMap<u32, String> {
        let names = self.shared.names();
        let found = names.all().filter(|(_, name)| wanted(name));
        found.map(|(number, name)| (number, name.to_owned())).collect()
    }
}

/// Puts the points of all levels together: of each time the level counts that comes first in `order`.
fn collect(
    blocks: &[Vec<Vec<u8>>; 3],
    pending: &[Rows],
    numbers: &BTreeMap<u32, String>,
    order: &[usize],
    from: i64,
    to: i64,
) -> Result<Found, Damaged> {
    let mut levels: [Rows; 3] = Default::default();
    for (level, blocks) in blocks.iter().enumerate() {
        let mut parts = Vec::with_capacity(blocks.len());
        for body in blocks {
            parts.push(block::decode(body, |series| numbers.contains_key(&series))?);
        }
        if level == 0 {
            parts.extend_from_slice(pending);
        }
        levels[level] = Rows::merge(&parts);
    }
    let mut found = Found::new();
    for (number, name) in numbers {
        let points = layered(&levels, *number, order);
        let points = points.range(from..=to).map(|(at, value)| (time(*at), *value));
        let points: Vec<(Timestamp, f64)> = points.collect();
        if !points.is_empty() {
            found.insert(name.clone(), points);
        }
    }
    Ok(found)
}

/// The points of a series: where a level has none, those of the next.
fn layered(levels: &[Rows; 3], series: u32, order: &[usize]) -> BTreeMap<i64, f64> {
    // First second, last second, point; none lies over another.
    let mut taken: BTreeMap<i64, (i64, i64, f64)> = BTreeMap::new();
    for level in order {
        let span = |at: i64| if *level == 0 { (at, at) } else { (at - WIDTHS[*level], at - 1) };
        let is_free = |(first, last): (i64, i64)| {
            taken.range(..=last).next_back().is_none_or(|(_, (before, ..))| *before < first)
        };
        let points = levels[*level].points(series).map(|(at, value)| (span(at), at, value));
        let fresh: Vec<((i64, i64), i64, f64)> = points.filter(|(span, ..)| is_free(*span)).collect();
        taken.extend(fresh.into_iter().map(|((first, last), at, value)| (first, (last, at, value))));
    }
    taken.into_values().map(|(_, at, value)| (at, value)).collect()
}

/// What damage in a block is to who asked.
pub(super) fn damaged(damaged: Damaged) -> StoreError {
    StoreError::Corrupt { what: "block of measurements", text: damaged.to_string() }
}
