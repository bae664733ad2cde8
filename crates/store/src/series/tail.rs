//! What was taken, in its order, for those who pass it on: they follow the log, so that nothing is
//! written twice and a kill loses nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use volary_model::DeviceName;

use super::{Series, log, read};
use crate::StoreError;

/// A part of what was taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tail {
    /// Up to where it goes; the next part is after it.
    pub last: i64,
    /// The requests in it, in their order.
    pub requests: Vec<TailRequest>,
}

/// What came in one request.
#[derive(Debug, Clone, PartialEq)]
pub struct TailRequest {
    /// The device.
    pub device: DeviceName,
    /// When it came, in seconds since 1970.
    pub received: i64,
    /// The points of each series, oldest first, times in seconds since 1970.
    pub series: Vec<TailSeries>,
}

/// The name of a series, and its points.
pub type TailSeries = (Arc<str>, Vec<(i64, f64)>);

impl Series {
    /// The place after all that was taken until now.
    pub fn tail_end(&self) -> i64 {
        self.shared.seq.load(Ordering::Acquire)
    }

    /// What was taken after the place `after`, of at most `commits` commits. Empty if there is nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn tail(&self, after: i64, commits: u32) -> Result<Tail, StoreError> {
        let rows: Vec<(i64, Vec<u8>)> =
            sqlx::query_as("SELECT seq, body FROM log WHERE seq > $1 ORDER BY seq LIMIT $2")
                .bind(after)
                .bind(i64::from(commits))
                .fetch_all(&self.reader)
                .await?;
        let mut tail = Tail { last: rows.last().map_or(after, |(seq, _)| *seq), requests: Vec::new() };
        if rows.is_empty() {
            return Ok(tail);
        }
        let mut devices: HashMap<i64, DeviceName> = HashMap::new();
        for shard in &self.shared.shards {
            devices.extend(read(shard).iter().map(|(device, head)| (head.id, device.clone())));
        }
        for (seq, body) in rows {
            let records = log::decode(&body).map_err(|error| StoreError::Corrupt {
                what: "row of the log of measurements",
                text: format!("number {seq}: {error}"),
            })?;
            for record in records {
                // One that was forgotten meanwhile is passed over.
                let Some(device) = devices.get(&record.device) else { continue };
                let mut series: BTreeMap<u32, Vec<(i64, f64)>> = BTreeMap::new();
                for rows in &record.rows {
                    for number in rows.columns.keys() {
                        series.entry(*number).or_default().extend(rows.points(*number));
                    }
                }
                let names = self.shared.names();
                let series =
                    series.into_iter().map(|(number, points)| (names.name(number), points)).collect();
                tail.requests.push(TailRequest { device: device.clone(), received: record.received, series });
            }
        }
        Ok(tail)
    }

    /// Keeps what was taken after the place `after` until `reader` says that it needs it no more, by a later
    /// place.
    pub fn hold(&self, reader: &str, after: i64) {
        let mut holds = self.shared.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.insert(reader.to_owned(), after);
    }
}
