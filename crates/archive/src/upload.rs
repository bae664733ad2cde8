//! Who may upload with a `.changes`.

use jiff::Timestamp;

use crate::error::RefusalReason;
use crate::key;

/// Which `.changes` files are taken. Single `.deb` files carry no signature; whether their
/// bringer may bring them is for the caller to know.
#[derive(Debug, Clone, Default)]
pub enum UploadPolicy {
    /// Only those signed by one of these OpenPGP keys (ASCII armored, one key each). With an
    /// empty list no `.changes` is taken at all.
    Signed(Vec<String>),
    /// Also unsigned ones: for those that our own builder made, or that a person at the server
    /// brings.
    AllowUnsigned,
    /// Not said: as `Signed` with no key.
    #[default]
    Refuse,
}

impl UploadPolicy {
    /// Checks the text of a `.changes`.
    pub(crate) fn check(&self, text: &str, signed: bool, now: Timestamp) -> Result<(), RefusalReason> {
        let keys: &[String] = match self {
            Self::AllowUnsigned => return Ok(()),
            Self::Signed(keys) => keys,
            Self::Refuse => &[],
        };
        if !signed {
            return Err(RefusalReason::Unsigned);
        }
        key::verify(text, keys, now).map_err(|error| RefusalReason::Signature(error.to_string()))
    }
}
