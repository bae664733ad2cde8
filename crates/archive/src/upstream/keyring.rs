//! The keys that may sign a foreign publication. Not here: our own key, and who may upload.

use pgp::composed::{CleartextSignedMessage, Deserializable, DetachedSignature, SignedPublicKey};
use pgp::packet::Signature;
use pgp::types::KeyDetails as _;

use jiff::Timestamp;

use super::error::UpstreamError;
use crate::key;

/// Whom to believe.
#[derive(Debug)]
pub enum Trust {
    /// A good signature of one of these keys is needed.
    Keys(Keyring),
    /// Nobody signs, and a person said that this is fine.
    Unsigned,
}

/// Some OpenPGP keys.
#[derive(Debug)]
pub struct Keyring {
    keys: Vec<SignedPublicKey>,
}

impl Keyring {
    /// Reads a keyring, armored (one block after the other is fine) or binary, with one key or
    /// many, as `debian-archive-keyring` has them. Keys of a kind that is not known are left out.
    ///
    /// # Errors
    /// [`UpstreamError::Keyring`] if no key is left.
    pub fn read(bytes: &[u8]) -> Result<Self, UpstreamError> {
        let unusable = |problem: &str| UpstreamError::Keyring(problem.to_owned());
        let mut keys = Vec::new();
        match std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN PGP")) {
            Some(text) => {
                for block in armored_blocks(text) {
                    let (many, _) = SignedPublicKey::from_string_many(block)
                        .map_err(|error| unusable(&format!("an armored block: {error}")))?;
                    keys.extend(many.flatten());
                }
            }
            None => {
                let many = SignedPublicKey::from_bytes_many(bytes)
                    .map_err(|error| unusable(&format!("it is no OpenPGP keyring: {error}")))?;
                keys.extend(many.flatten());
            }
        }
        if keys.is_empty() {
            return Err(unusable("there is no public key in it; give the file that apt has in Signed-By"));
        }
        Ok(Self { keys })
    }

    /// The fingerprints of the keys, in upper-case hexadecimal digits.
    pub fn fingerprints(&self) -> Vec<String> {
        self.keys.iter().map(|key| format!("{:X}", key.fingerprint())).collect()
    }

    /// Checks that one of the keys made a clearsigned text, and returns what it signed.
    pub(super) fn check_clearsigned(&self, text: &str, now: Timestamp) -> Result<String, String> {
        let (message, _) = CleartextSignedMessage::from_string(text).map_err(|error| error.to_string())?;
        let signatures: Vec<&Signature> = message.signatures().iter().collect();
        let signed = message.signed_text();
        self.check(&signatures, signed.as_bytes(), now)?;
        Ok(signed.replace("\r\n", "\n"))
    }

    /// Checks that one of the keys made a signature that lies beside a file.
    pub(super) fn check_detached(
        &self,
        content: &[u8],
        signature: &[u8],
        now: Timestamp,
    ) -> Result<(), String> {
        let armored = std::str::from_utf8(signature).ok().filter(|text| text.contains("-----BEGIN PGP"));
        let found: Vec<DetachedSignature> = match armored {
            Some(text) => {
                let (many, _) =
                    DetachedSignature::from_string_many(text).map_err(|error| error.to_string())?;
                many.flatten().collect()
            }
            None => DetachedSignature::from_bytes_many(signature)
                .map_err(|error| error.to_string())?
                .flatten()
                .collect(),
        };
        let signatures: Vec<&Signature> = found.iter().map(|detached| &detached.signature).collect();
        self.check(&signatures, content, now)
    }

    fn check(&self, signatures: &[&Signature], content: &[u8], now: Timestamp) -> Result<(), String> {
        let made = |key: &SignedPublicKey| {
            signatures.iter().any(|signature| key::is_signature_of(signature, key, content))
        };
        if self.keys.iter().any(|key| key::is_usable(key, now) && made(key)) {
            return Ok(());
        }
        let by: Vec<String> = signatures
            .iter()
            .flat_map(|signature| signature.issuer_fingerprint())
            .map(|fingerprint| format!("{fingerprint:X}"))
            .collect();
        let by = if by.is_empty() { "nobody who names himself".to_owned() } else { by.join(" and ") };
        Err(format!("it is signed by {by}, and none of the {} keys of the keyring made it", self.keys.len()))
    }
}

/// The armored blocks of a text, which may lie one after the other.
fn armored_blocks(text: &str) -> impl Iterator<Item = &str> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    let mut starts: Vec<usize> = text.match_indices(BEGIN).map(|(at, _)| at).collect();
    starts.push(text.len());
    (1..starts.len()).map(move |index| &text[starts[index - 1]..starts[index]])
}
