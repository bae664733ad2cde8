//! A block: rows of measurements of one device, in columns.
//!
//! Version 1 is a byte 1, the length that zstd packed or 0 if it did not pay, and then the rows: the
//! times as differences of differences; the times of boots; the different sets of rows that series have
//! values in, each as lengths of runs; and for each series its number, its set, its column's length,
//! and its column.

use std::collections::BTreeMap;

use super::bytes::{Damaged, Reader, put, put_signed};
use super::column;

/// Seconds of a day.
pub(crate) const DAY: i64 = 86_400;

/// The version of the form.
const VERSION: u8 = 1;

/// More gains little on blocks of some kilobytes.
const ZSTD_LEVEL: i32 = 3;

/// The largest block that is read, unpacked.
const LARGEST: usize = 64 << 20;

/// Measurements of one device, by time.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Rows {
    /// The times of the rows, seconds, rising.
    pub(crate) times: Vec<i64>,
    /// When the device booted: counters that only rise begin anew there.
    pub(crate) boots: Vec<i64>,
    /// For each series, by its number, a value for each row; NaN where it has none.
    pub(crate) columns: BTreeMap<u32, Vec<f64>>,
}

impl Rows {
    /// The points of a series.
    pub(crate) fn points(&self, series: u32) -> impl Iterator<Item = (i64, f64)> {
        let column = self.columns.get(&series).map_or(&[][..], Vec::as_slice);
        self.times.iter().copied().zip(column.iter().copied()).filter(|(_, value)| !value.is_nan())
    }

    /// The rows of each day, counted from 1970.
    pub(crate) fn by_day(&self) -> Vec<(i64, Self)> {
        let mut days: Vec<(i64, Self)> = Vec::new();
        let mut from = 0;
        while from < self.times.len() {
            let day = self.times[from].div_euclid(DAY);
            let to = self.times.partition_point(|time| time.div_euclid(DAY) <= day);
            let cut = |values: &Vec<f64>| values[from..to].to_vec();
            let columns = self.columns.iter().map(|(series, values)| (*series, cut(values))).collect();
            let boots = self.boots.iter().copied().filter(|boot| boot.div_euclid(DAY) == day).collect();
            days.push((day, Self { times: self.times[from..to].to_vec(), boots, columns }));
            from = to;
        }
        days
    }

    /// Rows in any order, with later ones of the same time over earlier ones.
    pub(crate) fn merge(parts: &[Self]) -> Self {
        let mut times: Vec<i64> = parts.iter().flat_map(|part| &part.times).copied().collect();
        times.sort_unstable();
        times.dedup();
        let mut boots: Vec<i64> = parts.iter().flat_map(|part| &part.boots).copied().collect();
        boots.sort_unstable();
        boots.dedup();
        let mut columns: BTreeMap<u32, Vec<f64>> = BTreeMap::new();
        for part in parts {
            let places: Vec<usize> =
                part.times.iter().map(|time| times.partition_point(|t| t < time)).collect();
            for (series, values) in &part.columns {
                let column = columns.entry(*series).or_insert_with(|| vec![f64::NAN; times.len()]);
                for (place, value) in places.iter().zip(values).filter(|(_, value)| !value.is_nan()) {
                    column[*place] = *value;
                }
            }
        }
        Self { times, boots, columns }
    }
}

/// The block of these rows.
pub(crate) fn encode(rows: &Rows) -> Vec<u8> {
    pack(&encode_rows(rows), ZSTD_LEVEL)
}

/// Reads a block: only the series that `wanted` wants.
pub(crate) fn decode(block: &[u8], wanted: impl Fn(u32) -> bool) -> Result<Rows, Damaged> {
    decode_rows(&unpack(block)?, wanted)
}

/// Bytes behind their version, packed if that makes them fewer.
pub(crate) fn pack(body: &[u8], level: i32) -> Vec<u8> {
    let packed = zstd::bulk::compress(body, level).ok().filter(|packed| packed.len() < body.len());
    let (length, body) = packed.as_deref().map_or((0, body), |packed| (body.len(), packed));
    let mut out = Vec::with_capacity(6 + body.len());
    out.push(VERSION);
    put(&mut out, length as u64);
    out.extend_from_slice(body);
    out
}

/// What [`pack`] packed.
pub(crate) fn unpack(packed: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut reader = Reader(packed);
    if reader.byte()? != VERSION {
        return Err(Damaged("its version is not known"));
    }
    match usize::try_from(reader.number()?) {
        Ok(0) => Ok(reader.0.to_vec()),
        Ok(length) if length <= LARGEST => {
            zstd::bulk::decompress(reader.0, length).map_err(|_| Damaged("it does not unpack"))
        }
        Ok(_) | Err(_) => Err(Damaged("it is too large")),
    }
}

/// Rows, not packed.
pub(crate) fn encode_rows(rows: &Rows) -> Vec<u8> {
    let mut body = Vec::with_capacity(64 + rows.columns.len() * (8 + rows.times.len() * 2));
    put_times(&mut body, &rows.times);
    put_times(&mut body, &rows.boots);
    let mut sets: Vec<Vec<u64>> = Vec::new();
    let mut series = Vec::new();
    let mut columns = Vec::new();
    let mut before = 0;
    for (id, values) in &rows.columns {
        let present: Vec<f64> = values.iter().copied().filter(|value| !value.is_nan()).collect();
        if present.is_empty() {
            continue;
        }
        let runs = runs(values);
        let set = sets.iter().position(|known| *known == runs).unwrap_or_else(|| {
            sets.push(runs);
            sets.len() - 1
        });
        let start = columns.len();
        column::encode(&present, &mut columns);
        put(&mut series, u64::from(id - before));
        put(&mut series, set as u64);
        put(&mut series, (columns.len() - start) as u64);
        before = *id;
    }
    put(&mut body, sets.len() as u64);
    for runs in &sets {
        put(&mut body, runs.len() as u64);
        runs.iter().for_each(|run| put(&mut body, *run));
    }
    put(&mut body, series.len() as u64);
    body.extend(series);
    body.extend(columns);
    body
}

/// What [`encode_rows`] wrote: only the series that `wanted` wants.
pub(crate) fn decode_rows(body: &[u8], wanted: impl Fn(u32) -> bool) -> Result<Rows, Damaged> {
    let mut reader = Reader(body);
    let times = take_times(&mut reader)?;
    let boots = take_times(&mut reader)?;
    let mut sets = Vec::new();
    for _ in 0..reader.count(1)? {
        sets.push(take_rows(&mut reader, times.len())?);
    }
    let length = reader.count(1)?;
    let mut series = Reader(reader.bytes(length)?);
    let mut columns = BTreeMap::new();
    let mut id = 0_u32;
    while !series.is_empty() {
        let step = u32::try_from(series.number()?).map_err(|_| Damaged("a series has no number"))?;
        id = id.checked_add(step).ok_or(Damaged("a series has no number"))?;
        let set = usize::try_from(series.number()?).ok().and_then(|set| sets.get(set));
        let places: &Vec<usize> = set.ok_or(Damaged("a series is in no row"))?;
        let length = usize::try_from(series.number()?).map_err(|_| Damaged("a column is too long"))?;
        let mut column = Reader(reader.bytes(length)?);
        if !wanted(id) {
            continue;
        }
        let mut values = vec![f64::NAN; times.len()];
        for (place, value) in places.iter().zip(column::decode(&mut column, places.len())?) {
            values[*place] = value;
        }
        columns.insert(id, values);
    }
    Ok(Rows { times, boots, columns })
}

/// Pieces as [`encode_rows`] wrote them, as one.
#[derive(Debug, PartialEq)]
pub(crate) struct Merged {
    /// As [`encode_rows`] writes all of them together.
    pub(crate) body: Vec<u8>,
    /// How many rows it has.
    pub(crate) rows: usize,
    /// The last value of each series, with its time, by the number of the series.
    pub(crate) newest: Vec<(u32, i64, f64)>,
}

/// Makes one piece of many: what [`decode_rows`], [`Rows::merge`] and [`encode_rows`] do. Nearly always the pieces
/// follow each other and have the same series in all rows; then it is done without maps, at a tenth of the cost.
///
/// # Errors
/// A piece is damaged.
pub(crate) fn merge(pieces: &[Box<[u8]>]) -> Result<Merged, Damaged> {
    if let Some(dense) = Dense::of(pieces)? {
        return Ok(dense.merged());
    }
    let parts: Vec<Rows> =
        pieces.iter().map(|piece| decode_rows(piece, |_| true)).collect::<Result<_, _>>()?;
    let rows = Rows::merge(&parts);
    let newest = rows.columns.iter().filter_map(|(series, values)| {
        let last = rows.times.iter().zip(values).rev().find(|(_, value)| !value.is_nan());
        last.map(|(at, value)| (*series, *at, *value))
    });
    Ok(Merged { body: encode_rows(&rows), rows: rows.times.len(), newest: newest.collect() })
}

/// Rows in which each series has a value in each.
#[derive(Default)]
struct Dense {
    times: Vec<i64>,
    boots: Vec<i64>,
    series: Vec<u32>,
    columns: Vec<Vec<f64>>,
}

impl Dense {
    /// The pieces as one, or `None` if they are otherwise.
    fn of(pieces: &[Box<[u8]>]) -> Result<Option<Self>, Damaged> {
        let mut all = Self::default();
        for (number, piece) in pieces.iter().enumerate() {
            let mut reader = Reader(piece);
            let times = take_times(&mut reader)?;
            let rises = times.is_sorted_by(|before, after| before < after);
            let follows = all.times.last().zip(times.first()).is_none_or(|(last, first)| last < first);
            all.boots.extend(take_times(&mut reader)?);
            // One set of rows, of one run.
            let is_dense = reader.number()? == 1
                && reader.number()? == 1
                && usize::try_from(reader.number()?) == Ok(times.len());
            if !(is_dense && rises && follows && !times.is_empty()) {
                return Ok(None);
            }
            let length = reader.count(1)?;
            let mut series = Reader(reader.bytes(length)?);
            let (mut id, mut place) = (0_u32, 0);
            while !series.is_empty() {
                let step = u32::try_from(series.number()?).map_err(|_| Damaged("a series has no number"))?;
                id = id.checked_add(step).ok_or(Damaged("a series has no number"))?;
                if series.number()? != 0 {
                    return Err(Damaged("a series is in no row"));
                }
                let length =
                    usize::try_from(series.number()?).map_err(|_| Damaged("a column is too long"))?;
                let mut column = Reader(reader.bytes(length)?);
                if number == 0 {
                    all.series.push(id);
                    all.columns.push(Vec::with_capacity(pieces.len() * times.len()));
                } else if all.series.get(place) != Some(&id) {
                    return Ok(None);
                }
                column::decode_into(&mut column, times.len(), &mut all.columns[place])?;
                place += 1;
            }
            if place != all.series.len() {
                return Ok(None);
            }
            all.times.extend(times);
        }
        all.boots.sort_unstable();
        all.boots.dedup();
        let is_some = !all.series.is_empty() && all.series.is_sorted_by(|before, after| before < after);
        // No writer writes that a series has no value.
        let is_whole = all.columns.iter().flatten().all(|value| !value.is_nan());
        Ok(Some(all).filter(|_| is_some && is_whole))
    }

    fn merged(self) -> Merged {
        let rows = self.times.len();
        let mut body = Vec::with_capacity(64 + self.columns.len() * (8 + rows * 2));
        put_times(&mut body, &self.times);
        put_times(&mut body, &self.boots);
        for number in [1, 1, rows as u64] {
            put(&mut body, number);
        }
        let (mut series, mut columns) = (Vec::new(), Vec::with_capacity(self.columns.len() * rows * 2));
        let mut before = 0;
        for (id, values) in self.series.iter().zip(&self.columns) {
            let start = columns.len();
            column::encode(values, &mut columns);
            put(&mut series, u64::from(id - before));
            put(&mut series, 0);
            put(&mut series, (columns.len() - start) as u64);
            before = *id;
        }
        put(&mut body, series.len() as u64);
        body.extend(series);
        body.extend(columns);
        let last = self.times[rows - 1];
        let newest = self.series.iter().zip(&self.columns).map(|(id, values)| (*id, last, values[rows - 1]));
        Merged { body, rows, newest: newest.collect() }
    }
}

fn put_times(out: &mut Vec<u8>, times: &[i64]) {
    put(out, times.len() as u64);
    let (mut before, mut step) = (0_i64, 0_i64);
    for time in times {
        let next = time.wrapping_sub(before);
        put_signed(out, next.wrapping_sub(step));
        (before, step) = (*time, next);
    }
}

fn take_times(reader: &mut Reader<'_>) -> Result<Vec<i64>, Damaged> {
    let (mut time, mut step) = (0_i64, 0_i64);
    let mut times = Vec::new();
    for _ in 0..reader.count(1)? {
        step = step.wrapping_add(reader.signed()?);
        time = time.wrapping_add(step);
        times.push(time);
    }
    Ok(times)
}

/// How long the runs of rows with, without, with ... a value are.
fn runs(values: &[f64]) -> Vec<u64> {
    let mut runs = vec![0];
    let mut present = true;
    for value in values {
        if value.is_nan() == present {
            present = !present;
            runs.push(0);
        }
        *runs.last_mut().expect("it begins with one") += 1;
    }
    runs
}

/// The rows that have a value.
fn take_rows(reader: &mut Reader<'_>, rows: usize) -> Result<Vec<usize>, Damaged> {
    let mut places = Vec::new();
    let (mut row, mut present) = (0_usize, true);
    for _ in 0..reader.count(1)? {
        let run = usize::try_from(reader.number()?).map_err(|_| Damaged("a run is too long"))?;
        let end = row.checked_add(run).filter(|end| *end <= rows).ok_or(Damaged("a run is too long"))?;
        if present {
            places.extend(row..end);
        }
        (row, present) = (end, !present);
    }
    Ok(places)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows() -> Rows {
        let times: Vec<i64> = (0..60).map(|row| 1_795_000_000 + 60 * row + i64::from(row == 7)).collect();
        let dense = (0..60).map(f64::from).collect();
        let sparse = (0..60).map(|row| if row % 5 == 2 { 0.25 * f64::from(row) } else { f64::NAN }).collect();
        let columns = BTreeMap::from([(3, dense), (4, vec![1.5; 60]), (900_000, sparse)]);
        Rows { times, boots: vec![1_795_000_240], columns }
    }

    /// As bits, since no NaN equals itself.
    fn bits(rows: &Rows) -> Vec<(u32, Vec<u64>)> {
        let of = |values: &Vec<f64>| values.iter().map(|value| value.to_bits()).collect();
        rows.columns.iter().map(|(series, values)| (*series, of(values))).collect()
    }

    #[test]
    fn rows_survive() {
        for rows in [rows(), Rows::default()] {
            let read = decode(&encode(&rows), |_| true).unwrap();
            assert_eq!((&read.times, &read.boots), (&rows.times, &rows.boots));
            assert_eq!(bits(&read), bits(&rows));
        }
        let one = decode(&encode(&rows()), |series| series == 900_000).unwrap();
        assert_eq!(one.columns.len(), 1);
        assert_eq!(one.points(900_000).nth(1), Some((1_795_000_421, 1.75)));
    }

    #[test]
    fn a_later_part_wins() {
        let part = |times: &[i64], series: u32, values: &[f64]| Rows {
            times: times.to_vec(),
            boots: vec![5],
            columns: BTreeMap::from([(series, values.to_vec())]),
        };
        let merged = Rows::merge(&[
            part(&[10, 30], 1, &[1.0, 3.0]),
            part(&[20, 30], 1, &[2.0, 4.0]),
            part(&[10], 2, &[7.0]),
        ]);
        assert_eq!(merged.points(1).collect::<Vec<_>>(), [(10, 1.0), (20, 2.0), (30, 4.0)]);
        assert_eq!(merged.points(2).collect::<Vec<_>>(), [(10, 7.0)]);
        assert_eq!(merged.boots, [5]);
    }

    /// One piece of many is what the slow way makes of them, whatever they are.
    #[test]
    fn pieces_become_what_their_rows_are_together() {
        let piece = |times: &[i64], boots: &[i64], columns: &[(u32, &[f64])]| Rows {
            times: times.to_vec(),
            boots: boots.to_vec(),
            columns: columns.iter().map(|(series, values)| (*series, values.to_vec())).collect(),
        };
        let check = |parts: &[Rows], dense: bool| {
            let pieces: Vec<Box<[u8]>> = parts.iter().map(|rows| encode_rows(rows).into()).collect();
            let rows = Rows::merge(parts);
            let merged = merge(&pieces).unwrap();
            assert_eq!((merged.rows, &merged.body), (rows.times.len(), &encode_rows(&rows)));
            let last = |series| rows.points(series).last();
            let newest: Vec<_> =
                merged.newest.iter().map(|(series, at, value)| (*series, (*at, *value))).collect();
            let expected: Vec<_> =
                rows.columns.keys().filter_map(|series| Some((*series, last(*series)?))).collect();
            assert_eq!(newest, expected);
            assert_eq!(Dense::of(&pieces).unwrap().is_some(), dense);
        };
        let minutes: Vec<Rows> = (0..16)
            .map(|minute| {
                let value = f64::from(minute as i32);
                let boots: &[i64] = if minute == 9 { &[540] } else { &[] };
                piece(
                    &[60 * minute],
                    boots,
                    &[(3, &[value * 4096.0]), (9, &[0.1 * value]), (70_000, &[-0.0])],
                )
            })
            .collect();
        check(&minutes, true);
        check(
            &[piece(&[1, 2], &[], &[(1, &[1.0, 2.0])]), piece(&[5, 9], &[], &[(1, &[1e300, 0.1 + 0.2])])],
            true,
        );
        // Another series, a hole, a time that comes again, an older one, nothing at all.
        let one = piece(&[10], &[], &[(1, &[1.0])]);
        check(&[one.clone(), piece(&[20], &[], &[(2, &[1.0])])], false);
        check(&[one.clone(), piece(&[20], &[], &[(1, &[1.0]), (2, &[1.0])])], false);
        check(&[piece(&[20], &[], &[(1, &[1.0]), (2, &[1.0])]), one.clone()], false);
        check(&[one.clone(), piece(&[20, 30], &[], &[(1, &[1.0, f64::NAN])])], false);
        check(&[one.clone(), piece(&[10], &[], &[(1, &[2.0])])], false);
        check(&[one.clone(), piece(&[5], &[], &[(1, &[2.0])])], false);
        check(&[one.clone(), piece(&[20], &[3], &[])], false);
        check(&[one, Rows::default()], false);
        check(&[], false);
    }

    #[test]
    fn pieces_that_are_damaged_are_an_error_or_other_rows() {
        let piece = encode_rows(&rows());
        for place in 0..piece.len() {
            let mut bad = piece.clone();
            bad[place] ^= 0x55;
            let _ = merge(&[bad.into(), piece.clone().into()]);
            assert!(merge(&[piece[..place].into()]).is_err());
        }
    }

    #[test]
    fn any_damage_is_an_error_or_other_rows() {
        let block = encode(&rows());
        for place in 0..block.len() {
            let mut bad = block.clone();
            bad[place] ^= 0x55;
            let _ = decode(&bad, |_| true);
            let _ = decode(&block[..place], |_| true);
        }
        assert!(decode(&[2, 0], |_| true).is_err());
    }
}
