//! The ledger's format: two copies, each with a version, a number and a checksum.
//!
//! ```text
//! volary-ledger 1 <number> <length of the body> <CRC-32 of the body>\n
//! { … the state as JSON … }
//! ```
//!
//! Writes alternate between the copies, so the one that a power cut may tear is never the newest
//! whole one. Not here: files.

use crate::State;

/// The version that this code writes, and the only one it reads so far.
const VERSION: u32 = 1;

/// What was found in the two copies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedLedger {
    /// The newest whole state.
    pub state: State,
    /// The number to give to the next write.
    pub next: u64,
    /// True if one copy was there and not whole: a write was cut off, or the disk is bad.
    pub torn: bool,
}

/// Why there is no state in the copies.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Neither copy is there: the device is new, or its state was deleted.
    #[error("there is no ledger")]
    Missing,
    /// No copy is whole.
    #[error("no copy of the ledger is whole")]
    Damaged,
    /// It was written by a later version of the agent.
    #[error("the ledger has version {0}, and this agent knows version 1: install the newer agent again")]
    Newer(u32),
}

/// Which of the two copies a write with this number goes to.
pub const fn slot(number: u64) -> usize {
    (number % 2) as usize
}

/// The bytes of one copy.
pub fn encode(state: &State, number: u64) -> Vec<u8> {
    let body = serde_json::to_vec(state).expect("a state has only text keys");
    let header = format!("volary-ledger {VERSION} {number} {} {:08x}\n", body.len(), crc32(&body));
    [header.into_bytes(), body].concat()
}

/// The newest whole state of the two copies.
///
/// # Errors
/// [`LedgerError`].
pub fn decode(copies: [Option<&[u8]>; 2]) -> Result<LoadedLedger, LedgerError> {
    if copies.iter().all(Option::is_none) {
        return Err(LedgerError::Missing);
    }
    let mut best: Option<(State, u64)> = None;
    let mut torn = false;
    for copy in copies.into_iter().flatten() {
        match one(copy) {
            Ok((state, number)) => {
                if best.as_ref().is_none_or(|(_, other)| number > *other) {
                    best = Some((state, number));
                }
            }
            Err(LedgerError::Newer(version)) => return Err(LedgerError::Newer(version)),
            Err(LedgerError::Missing | LedgerError::Damaged) => torn = true,
        }
    }
    let (state, number) = best.ok_or(LedgerError::Damaged)?;
    Ok(LoadedLedger { state, next: number.saturating_add(1), torn })
}

fn one(copy: &[u8]) -> Result<(State, u64), LedgerError> {
    let damaged = || LedgerError::Damaged;
    let end = copy.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
    let header = std::str::from_utf8(&copy[..end]).map_err(|_| damaged())?;
    let body = &copy[end + 1..];
    let mut words = header.split(' ');
    if words.next() != Some("volary-ledger") {
        return Err(damaged());
    }
    let version: u32 = words.next().and_then(|word| word.parse().ok()).ok_or_else(damaged)?;
    if version > VERSION {
        return Err(LedgerError::Newer(version));
    }
    let number: u64 = words.next().and_then(|word| word.parse().ok()).ok_or_else(damaged)?;
    let length: usize = words.next().and_then(|word| word.parse().ok()).ok_or_else(damaged)?;
    let sum = words.next().ok_or_else(damaged)?;
    if length != body.len() || sum != format!("{:08x}", crc32(body)) || words.next().is_some() {
        return Err(damaged());
    }
    Ok((serde_json::from_slice(body).map_err(|_| damaged())?, number))
}

/// CRC-32 as in gzip (polynomial 0xEDB88320): it finds what a torn or rotten write leaves.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for &byte in bytes {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(report: u64) -> State {
        let mut state = State::new("canary".parse().unwrap(), 7);
        state.last_report = report;
        state
    }

    #[test]
    fn the_checksum_is_the_known_one() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn the_newer_copy_counts() {
        let (old, new) = (encode(&state(1), 8), encode(&state(2), 9));
        let loaded = decode([Some(&old), Some(&new)]).unwrap();
        assert_eq!((loaded.state.last_report, loaded.next, loaded.torn), (2, 10, false));
        assert_ne!(slot(loaded.next), slot(9), "the next write spares the newest copy");
        assert_eq!(decode([Some(&new), None]).unwrap().state.last_report, 2);
    }

    #[test]
    fn a_write_cut_at_any_byte_leaves_the_state_before() {
        let (old, new) = (encode(&state(1), 8), encode(&state(2), 9));
        for cut in 0..new.len() {
            let loaded = decode([Some(&old), Some(&new[..cut])]).unwrap();
            assert_eq!((loaded.state.last_report, loaded.torn), (1, true), "cut at {cut}");
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = encode(&state(1), 8);
        for bit in 0..whole.len() * 8 {
            let mut rotten = whole.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            match decode([Some(&rotten), None]) {
                // The header's own number is not summed; another number with the same state is
                // still that state.
                Ok(loaded) => assert_eq!(loaded.state, state(1)),
                Err(error) => assert!(matches!(error, LedgerError::Damaged | LedgerError::Newer(_))),
            }
        }
    }

    #[test]
    fn missing_and_newer_are_told_apart() {
        assert_eq!(decode([None, None]), Err(LedgerError::Missing));
        assert_eq!(decode([Some(b""), None]), Err(LedgerError::Damaged));
        assert_eq!(decode([Some(b"volary-ledger 2 1 0 0\n"), None]), Err(LedgerError::Newer(2)));
    }
}
