//! The log: what was taken and is in no block yet. One row for each commit, packed together.

use super::block::{self, Rows};
use super::bytes::{Damaged, Reader, put, put_signed};
use super::head::fixed;

/// The quickest: rows of the log live for an hour.
const ZSTD_LEVEL: i32 = 1;

/// One request of a device, with its measurements as rows or as [`Written`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Record<R = Rows> {
    /// The device's number.
    pub(crate) device: i64,
    /// When it came.
    pub(crate) received: i64,
    /// Hash of the newest boot id.
    pub(crate) boot: u64,
    /// Hashes of the ids.
    pub(crate) ids: Vec<u64>,
    /// How many lines of the journal, and how many points, were left out.
    pub(crate) errors_left_out: u64,
    pub(crate) left_out: u64,
    /// The measurements.
    pub(crate) rows: Vec<R>,
}

/// A row of the log.
pub(crate) fn encode(records: &[&Record]) -> Vec<u8> {
    let mut out = Vec::new();
    for record in records {
        put_signed(&mut out, record.device);
        put_signed(&mut out, record.received);
        out.extend(record.boot.to_le_bytes());
        put(&mut out, record.ids.len() as u64);
        record.ids.iter().for_each(|id| out.extend(id.to_le_bytes()));
        put(&mut out, record.errors_left_out);
        put(&mut out, record.left_out);
        put(&mut out, record.rows.len() as u64);
        for rows in &record.rows {
            let rows = block::encode_rows(rows);
            put(&mut out, rows.len() as u64);
            out.extend(rows);
        }
    }
    block::pack(&out, ZSTD_LEVEL)
}

/// A request in an unpacked row of the log: its measurements are what [`block::encode_rows`] wrote.
pub(crate) type Written<'a> = Record<&'a [u8]>;

/// What [`encode`] wrote.
pub(crate) fn decode(body: &[u8]) -> Result<Vec<Record>, Damaged> {
    let body = block::unpack(body)?;
    let mut records = Vec::new();
    written(&body, |written| {
        let rows = written.rows.iter().map(|rows| block::decode_rows(rows, |_| true));
        let Written { device, received, boot, ids, errors_left_out, left_out, .. } = written;
        let rows = rows.collect::<Result<_, _>>()?;
        records.push(Record { device, received, boot, ids, errors_left_out, left_out, rows });
        Ok(())
    })?;
    Ok(records)
}

/// Goes through an unpacked row of the log.
pub(crate) fn written<'a>(
    body: &'a [u8],
    mut each: impl FnMut(Written<'a>) -> Result<(), Damaged>,
) -> Result<(), Damaged> {
    let mut reader = Reader(body);
    while !reader.is_empty() {
        let device = reader.signed()?;
        let received = reader.signed()?;
        let boot = fixed(&mut reader)?;
        let mut ids = Vec::new();
        for _ in 0..reader.count(8)? {
            ids.push(fixed(&mut reader)?);
        }
        let errors_left_out = reader.number()?;
        let left_out = reader.number()?;
        let mut rows = Vec::new();
        for _ in 0..reader.count(1)? {
            let length = reader.count(1)?;
            rows.push(reader.bytes(length)?);
        }
        each(Written { device, received, boot, ids, errors_left_out, left_out, rows })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn records_survive() {
        let rows =
            Rows { times: vec![60, 120], boots: vec![60], columns: BTreeMap::from([(1, vec![0.5, 2.0])]) };
        let record = |device| Record {
            device,
            received: 130,
            boot: 7,
            ids: vec![1, 2],
            errors_left_out: 1,
            left_out: 0,
            rows: vec![rows.clone(), rows.clone()],
        };
        let records = vec![record(1), record(2)];
        let body = encode(&records.iter().collect::<Vec<_>>());
        assert_eq!(decode(&body).unwrap(), records);
        assert!(decode(&body[..body.len() - 1]).is_err());
    }
}
