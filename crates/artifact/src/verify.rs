//! The whole artifact in one call.

use std::io::Read;

use crate::{Error, Info, Policy, Reader};

/// Reads what stands before the payload and checks it; the payload is neither read nor checked.
///
/// # Errors
/// As [`Reader::open`].
pub fn inspect(input: impl Read, policy: &Policy<'_>) -> Result<Info, Error> {
    Reader::open(input, policy).map(|reader| reader.info().clone())
}

/// Reads and checks everything, up to the last byte.
///
/// # Errors
/// As [`Reader::open`].
pub fn verify(input: impl Read, policy: &Policy<'_>) -> Result<Info, Error> {
    Reader::open(input, policy)?.finish()
}
