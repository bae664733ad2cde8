//! The ledger's format: two copies, each with a version, a number and a checksum.
//!
//! ```text
//! volary-ledger 2 <number> <length of the body> <CRC-32 of the body>\n
//! { … the state as JSON … }
//! ```
//!
//! Writes alternate between the copies, so the one that a power cut may tear is never the newest
//! whole one. A body of an earlier version goes through each version after it, one module each.
//! Not here: files.

mod v1;

use crate::State;

/// The version that this code writes.
const VERSION: u32 = 2;

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
    /// The newest copy was written by a later version of the agent, which was taken back since.
    #[error("the ledger has version {version}, and this agent knows version {VERSION}")]
    Newer {
        /// Its version.
        version: u32,
        /// The number to give to the next write, so that it counts.
        next: u64,
    },
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
    let mut best: Option<(Body, u64)> = None;
    let mut torn = false;
    for copy in copies.into_iter().flatten() {
        let Some((body, number)) = one(copy) else {
            torn = true;
            continue;
        };
        if best.as_ref().is_none_or(|(_, other)| number > *other) {
            best = Some((body, number));
        }
    }
    let (body, number) = best.ok_or(LedgerError::Damaged)?;
    let next = number.saturating_add(1);
    match body {
        Body::Known(state) => Ok(LoadedLedger { state: *state, next, torn }),
        Body::Newer(version) => Err(LedgerError::Newer { version, next }),
    }
}

/// What a whole copy holds.
enum Body {
    Known(Box<State>),
    Newer(u32),
}

/// A copy and its number; `None` if it is not whole.
fn one(copy: &[u8]) -> Option<(Body, u64)> {
    let end = copy.iter().position(|&byte| byte == b'\n')?;
    let header = std::str::from_utf8(&copy[..end]).ok()?;
    let body = &copy[end + 1..];
    let mut words = header.split(' ');
    if words.next() != Some("volary-ledger") {
        return None;
    }
    let version: u32 = words.next()?.parse().ok()?;
    let number: u64 = words.next()?.parse().ok()?;
    if version > VERSION {
        // Later versions keep these two words, whatever comes after them.
        return Some((Body::Newer(version), number));
    }
    let length: usize = words.next()?.parse().ok()?;
    if length != body.len() || words.next()? != format!("{:08x}", crc32(body)) || words.next().is_some() {
        return None;
    }
    let state = match version {
        1 => serde_json::from_slice::<v1::State>(body).ok()?.into(),
        VERSION => serde_json::from_slice(body).ok()?,
        _ => return None,
    };
    Some((Body::Known(Box::new(state)), number))
}

/// CRC-32 as in gzip (polynomial 0xEDB88320): it finds what a torn or rotten write leaves.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| (crc >> 8) ^ CRC[usize::from(crc.to_le_bytes()[0] ^ byte)];
    !bytes.iter().fold(u32::MAX, step)
}

/// What each value of a byte does to the checksum.
const CRC: [u32; 256] = {
    let mut table = [0_u32; 256];
    let mut index = 0;
    while index < table.len() {
        let mut crc = index as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xEDB8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use volary_model::CommitId;

    use super::*;
    use crate::{Phase, Rest};

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
                Err(error) => assert!(matches!(error, LedgerError::Damaged | LedgerError::Newer { .. })),
            }
        }
    }

    #[test]
    fn missing_and_newer_are_told_apart() {
        assert_eq!(decode([None, None]), Err(LedgerError::Missing));
        assert_eq!(decode([Some(b""), None]), Err(LedgerError::Damaged));
        let newer = LedgerError::Newer { version: 3, next: 10 };
        assert_eq!(decode([Some(b"volary-ledger 3 9 and more\n"), None]), Err(newer.clone()));
        assert_eq!(decode([Some(&encode(&state(1), 8)), Some(b"volary-ledger 3 9 x\n")]), Err(newer));
    }

    #[test]
    fn an_agent_that_came_back_after_a_newer_one_counts_again() {
        let newer = b"volary-ledger 3 9 and more\n".as_slice();
        let Err(LedgerError::Newer { next, .. }) = decode([Some(newer), Some(newer)]) else { panic!() };
        let ours = encode(&state(7), next);
        let loaded = decode([Some(&ours), Some(newer)]).unwrap();
        assert_eq!((loaded.state.last_report, loaded.next), (7, 11));
    }

    /// What the agent of version 0.1.0 wrote, in each of its phases.
    #[test]
    fn version_1_is_read() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/ledger-1/");
        for (name, expected) in [
            ("idle", "content"),
            ("failed", "failed at check"),
            ("refused", "refused at check"),
            ("fetch", "content"),
            ("verify", "content"),
            // Nothing was saved before that change: there is nothing to go back to.
            ("apply", "content"),
            ("report", "report Failed at check"),
        ] {
            let bytes = std::fs::read([folder, name].concat()).unwrap();
            let loaded = decode([Some(&bytes), None]).unwrap();
            assert_eq!((loaded.next, loaded.torn), (8, false));
            let state = loaded.state;
            let found = match &state.phase {
                Phase::Idle(Rest::Content) => "content".to_owned(),
                Phase::Idle(Rest::Failed(trouble)) => format!("failed at {}", trouble.failure.step),
                Phase::Idle(Rest::Refused(trouble)) => format!("refused at {}", trouble.failure.step),
                Phase::Report { work, outcome, failure: Some(failure), .. } => {
                    assert_eq!((work.changed_tasks, work.attempt, work.packages.len()), (3, 2, 1));
                    format!("report {outcome:?} at {}", failure.step)
                }
                other => panic!("{other:?}"),
            };
            assert_eq!(found, expected, "{name}");
            let commit = |digit: &str| digit.repeat(40).parse::<CommitId>().unwrap();
            assert_eq!(state.accepted.values().collect::<Vec<_>>(), [&commit("b")]);
            assert_eq!(state.trusted, Some(commit("b")));
            assert_eq!(state.good.as_ref().map(|good| &good.commit), Some(&commit("a")));
            assert_eq!((state.last_report, state.seed), (1_795_000_000_000, 42));
            assert_eq!(state.interrupted.as_ref().map(|(_, times)| *times), Some(1));
            assert!(state.failed_before.as_ref().is_some_and(|units| units.contains("old.service")));
            // What is written from it is of this version, and the same.
            let again = decode([Some(&encode(&state, 8)), Some(&bytes)]).unwrap();
            assert_eq!((again.state, again.next), (state, 9));
        }
    }
}
