//! What is in memory of a device: its newest values, and what is in no block yet.

use std::collections::VecDeque;

use super::block::{self, Rows, decode_rows, encode_rows};
use super::bytes::{Damaged, Reader, put, put_signed};

/// The version of a state.
const VERSION: u8 = 1;

/// Pieces that lie beside each other before they become one, which takes a third of the room.
const LOOSE: usize = 16;

/// The ids that are remembered at least; all of a device's last request are.
const SEEN: usize = 32;

/// The newest value of a series.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Newest {
    /// The series' number.
    pub(crate) series: u32,
    /// When it was measured; seconds, which fit until 2106.
    pub(crate) at: u32,
    /// The value.
    pub(crate) value: f64,
}

/// What is in memory of a device.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Head {
    /// Its number.
    pub(crate) id: i64,
    /// When the server got measurements last.
    pub(crate) received: i64,
    /// The newest value of each series, by the series' number.
    pub(crate) newest: Vec<Newest>,
    /// Hashes of the ids that it sent last.
    pub(crate) seen: VecDeque<u64>,
    /// Hash of the boot id; 0 before the first.
    pub(crate) boot: u64,
    /// How many lines of its journal were left out.
    pub(crate) errors_left_out: u64,
    /// How many of its points were left out, since it has too many series.
    pub(crate) left_out: u64,
    /// The row of the log up to which everything is in blocks.
    pub(crate) sealed: i64,
    /// When the first piece came, and in which row of the log.
    pub(crate) since: i64,
    pub(crate) seq: i64,
    /// How many rows the pieces have.
    pub(crate) rows: usize,
    /// Rows that are in no block, oldest first, encoded.
    pieces: Vec<Box<[u8]>>,
    /// How many of the last pieces are as they came.
    loose: usize,
    /// How many pieces in the log, older than all of these, are still to be read after a start.
    unread: usize,
    /// Those that were read already; the last so many are as they came.
    earlier: Vec<Box<[u8]>>,
    earlier_loose: usize,
}

impl Head {
    /// The head of a device that has measured nothing.
    pub(crate) fn new(id: i64) -> Self {
        Self { id, ..Self::default() }
    }

    /// True if these measurements came before.
    pub(crate) fn has_seen(&self, id: u64) -> bool {
        self.seen.contains(&id)
    }

    /// True if there is something that is in no block.
    pub(crate) fn is_pending(&self) -> bool {
        self.unread > 0 || !self.pieces.is_empty()
    }

    /// So many pieces more are in the log, and are read later, by [`Head::add_earlier`].
    pub(crate) fn expect(&mut self, pieces: usize) {
        self.unread += pieces;
    }

    /// Adds rows from the log, as they are written there: they are older than what came since the start.
    pub(crate) fn add_earlier(&mut self, piece: &[u8]) -> Result<(), Damaged> {
        self.unread = self.unread.checked_sub(1).ok_or(Damaged("it has more rows than before"))?;
        self.earlier.push(piece.into());
        self.earlier_loose += 1;
        if self.earlier_loose < LOOSE && self.unread > 0 {
            return Ok(());
        }
        // One decoding for many pieces, which is most of the work of a start.
        let merged = block::merge(&self.earlier[self.earlier.len() - self.earlier_loose..])?;
        self.earlier.truncate(self.earlier.len() - self.earlier_loose);
        self.earlier_loose = 0;
        self.rows += merged.rows;
        merged.newest.into_iter().for_each(|(series, at, value)| self.note(series, at, value));
        self.earlier.push(merged.body.into());
        if self.unread == 0 {
            self.earlier.append(&mut self.pieces);
            self.pieces = std::mem::take(&mut self.earlier);
        }
        Ok(())
    }

    /// Remembers the ids of a request.
    pub(crate) fn remember(&mut self, ids: &[u64]) {
        self.seen.extend(ids);
        let most = SEEN.max(ids.len());
        self.seen.drain(..self.seen.len().saturating_sub(most));
    }

    fn note_newest(&mut self, rows: &Rows) {
        for (series, values) in &rows.columns {
            let last = rows.times.iter().zip(values).rev().find(|(_, value)| !value.is_nan());
            let Some((at, value)) = last else { continue };
            self.note(*series, *at, *value);
        }
    }

    fn note(&mut self, series: u32, at: i64, value: f64) {
        let newest = Newest { series, at: u32::try_from(at).unwrap_or(0), value };
        match self.newest.binary_search_by_key(&series, |known| known.series) {
            Ok(place) if self.newest[place].at <= newest.at => self.newest[place] = newest,
            Ok(_) => {}
            Err(place) => self.newest.insert(place, newest),
        }
    }

    /// Adds rows.
    pub(crate) fn add(&mut self, rows: &Rows) {
        self.note_newest(rows);
        self.rows += rows.times.len();
        self.pieces.push(encode_rows(rows).into());
        self.loose += 1;
        if self.loose == LOOSE {
            let place = self.pieces.len() - LOOSE;
            // They were written by this process, so they are not damaged.
            if let Ok(merged) = block::merge(&self.pieces[place..]) {
                self.pieces.truncate(place);
                self.pieces.push(merged.body.into());
            }
            self.loose = 0;
        }
    }

    /// What is in no block, in parts.
    pub(crate) fn pending(&self, wanted: impl Fn(u32) -> bool) -> Vec<Rows> {
        // They were written by this process.
        self.pieces.iter().filter_map(|piece| decode_rows(piece, &wanted).ok()).collect()
    }

    /// Everything up to this row of the log is in blocks now.
    pub(crate) fn clear(&mut self, seq: i64) {
        self.sealed = seq;
        self.pieces = Vec::new();
        (self.loose, self.rows) = (0, 0);
    }

    /// Forgets series that were not measured in the last `seconds` in which the device measured.
    pub(crate) fn forget_series(&mut self, seconds: i64) {
        let before = self.received - seconds;
        self.newest.retain(|newest| i64::from(newest.at) >= before);
    }

    /// The same without what is in no block.
    pub(crate) fn clone_state(&self) -> Self {
        let (seen, newest) = (self.seen.clone(), self.newest.clone());
        Self { seen, newest, pieces: Vec::new(), earlier: Vec::new(), ..*self }
    }

    /// What must be known after the next start, besides the log.
    pub(crate) fn state(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        put_signed(&mut out, self.received);
        out.extend(self.boot.to_le_bytes());
        put(&mut out, self.errors_left_out);
        put(&mut out, self.left_out);
        put_signed(&mut out, self.sealed);
        put(&mut out, self.seen.len() as u64);
        self.seen.iter().for_each(|id| out.extend(id.to_le_bytes()));
        put(&mut out, self.newest.len() as u64);
        let mut before = 0;
        for newest in &self.newest {
            put(&mut out, u64::from(newest.series - before));
            put_signed(&mut out, self.received - i64::from(newest.at));
            out.extend(newest.value.to_le_bytes());
            before = newest.series;
        }
        out
    }

    /// What [`Head::state`] wrote.
    pub(crate) fn read(id: i64, state: &[u8]) -> Result<Self, Damaged> {
        let mut reader = Reader(state);
        if reader.byte()? != VERSION {
            return Err(Damaged("its version is not known"));
        }
        let received = reader.signed()?;
        let boot = fixed(&mut reader)?;
        let errors_left_out = reader.number()?;
        let left_out = reader.number()?;
        let sealed = reader.signed()?;
        let mut seen = VecDeque::new();
        for _ in 0..reader.count(8)? {
            seen.push_back(fixed(&mut reader)?);
        }
        let mut newest = Vec::new();
        let mut series = 0_u32;
        for _ in 0..reader.count(10)? {
            let step = u32::try_from(reader.number()?).map_err(|_| Damaged("a series has no number"))?;
            series = series.checked_add(step).ok_or(Damaged("a series has no number"))?;
            let at = received.wrapping_sub(reader.signed()?);
            let value = f64::from_bits(fixed(&mut reader)?);
            newest.push(Newest { series, at: u32::try_from(at).unwrap_or(0), value });
        }
        Ok(Self { id, received, boot, errors_left_out, left_out, sealed, seen, newest, ..Self::default() })
    }
}

/// Eight bytes as a number.
pub(crate) fn fixed(reader: &mut Reader<'_>) -> Result<u64, Damaged> {
    let bytes = reader.bytes(8)?;
    Ok(u64::from_le_bytes(bytes.try_into().expect("eight were asked for")))
}

/// A hash of a text that is the same in each version: FNV-1a.
pub(crate) fn hash(text: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn row(time: i64, value: f64) -> Rows {
        Rows { times: vec![time], boots: Vec::new(), columns: BTreeMap::from([(7, vec![value])]) }
    }

    #[test]
    fn pieces_become_one_and_lose_nothing() {
        let mut head = Head::default();
        for minute in 0..50 {
            head.add(&row(60 * minute, minute as f64));
        }
        assert_eq!(head.pieces.len(), 3 + 2);
        let all = Rows::merge(&head.pending(|_| true));
        assert_eq!(all.points(7).count(), 50);
        assert_eq!(head.newest, [Newest { series: 7, at: 49 * 60, value: 49.0 }]);
        head.add(&row(5, 1.0));
        assert_eq!(head.newest[0].value, 49.0, "what comes late is not the newest");
        head.clear(1);
        assert!(!head.is_pending());
    }

    #[test]
    fn what_is_read_later_is_older() {
        let written = |minute: i64| encode_rows(&row(60 * minute, minute as f64));
        let mut head = Head::default();
        head.expect(40);
        assert!(head.is_pending());
        for minute in 0..40 {
            if minute % 8 == 7 {
                head.add(&row(60 * (1000 + minute), 1.0));
            }
            head.add_earlier(&written(minute)).unwrap();
        }
        assert!(head.add_earlier(&written(0)).is_err(), "there was no more");
        let all = Rows::merge(&head.pending(|_| true));
        let minutes: Vec<i64> = all.points(7).map(|(at, _)| at / 60).collect();
        let expected: Vec<i64> = (0..40).chain((1007..1040).step_by(8)).collect();
        assert_eq!((minutes, head.rows), (expected, 45));
        assert_eq!(head.newest, [Newest { series: 7, at: 1039 * 60, value: 1.0 }]);
        head.expect(1);
        assert!(head.add_earlier(&[1, 2, 3]).is_err());
    }

    #[test]
    fn the_state_survives() {
        let mut head = Head { id: 3, received: 5000, boot: 9, errors_left_out: 2, ..Head::default() };
        head.add(&row(4000, 0.5));
        head.remember(&[1, 2, u64::MAX]);
        let read = Head::read(3, &head.state()).unwrap();
        head.clear(0);
        assert_eq!(read, head);
        for length in 0..head.state().len() {
            assert!(Head::read(3, &head.state()[..length]).is_err());
        }
    }

    #[test]
    fn all_ids_of_the_last_request_are_remembered() {
        let mut head = Head::default();
        let many: Vec<u64> = (0..100).collect();
        head.remember(&many);
        assert!(many.iter().all(|id| head.has_seen(*id)));
        head.remember(&[1000]);
        assert!(head.has_seen(1000) && head.has_seen(99) && !head.has_seen(0));
    }
}
