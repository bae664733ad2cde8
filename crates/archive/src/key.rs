//! The archive's OpenPGP key: made, kept, used to sign suites. The form is what apt 2.6 (gpgv)
//! and apt 3.0 (sqv) both take: an Ed25519 key of version 4, SHA-512, no expiry. Not here: whom
//! to trust.

use std::path::Path;

use jiff::Timestamp;
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, Deserializable, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
    SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::types::{KeyDetails as _, Password, Timestamp as PgpTime};

use crate::error::Error;

/// A key that can sign suites.
#[derive(Debug)]
pub(crate) struct Signer {
    key: SignedSecretKey,
    public: String,
}

fn failed(path: &Path) -> impl Fn(&dyn std::fmt::Display) -> Error + '_ {
    move |problem| Error::Key { path: path.to_owned(), problem: problem.to_string() }
}

fn pgp_time(time: Timestamp) -> PgpTime {
    // OpenPGP ends in 2106; a clock beyond that is wrong anyway.
    PgpTime::from_secs(u32::try_from(time.as_second()).unwrap_or(u32::MAX))
}

impl Signer {
    /// Makes a key and returns the armored secret key. `path` is for messages.
    pub(crate) fn generate(user_id: &str, now: Timestamp, path: &Path) -> Result<String, Error> {
        let failed = failed(path);
        let mut params = SecretKeyParamsBuilder::default();
        params
            // The OpenPGP form that gpgv 2.2 and sqv both read; RFC 9580's newer one they do not.
            .key_type(KeyType::Ed25519Legacy)
            .can_certify(true)
            .can_sign(true)
            .created_at(pgp_time(now))
            .primary_user_id(user_id.to_owned());
        let params = params.build().map_err(|error| failed(&error))?;
        let key = params.generate(rand::rngs::OsRng).map_err(|error| failed(&error))?;
        key.to_armored_string(ArmorOptions::default()).map_err(|error| failed(&error))
    }

    /// Reads an armored secret key.
    pub(crate) fn read(armored: &str, path: &Path) -> Result<Self, Error> {
        let failed = failed(path);
        let (key, _) = SignedSecretKey::from_string(armored).map_err(|error| failed(&error))?;
        let public = key.to_public_key().to_armored_string(ArmorOptions::default());
        let public = public.map_err(|error| failed(&error))?;
        Ok(Self { key, public })
    }

    /// The armored public key.
    pub(crate) fn public(&self) -> &str {
        &self.public
    }

    /// Puts a text into a clearsign frame, as `InRelease` has it.
    pub(crate) fn clearsign(&self, text: &str, now: Timestamp, path: &Path) -> Result<String, Error> {
        let failed = failed(path);
        self.sign(text, now).map_err(|error| failed(&error))
    }

    fn sign(&self, text: &str, now: Timestamp) -> pgp::errors::Result<String> {
        let key = &self.key.primary_key;
        let mut config = SignatureConfig::from_key(rand::rngs::OsRng, key, SignatureType::Text)?;
        config.hash_alg = HashAlgorithm::Sha512;
        // A signature from before its key would be refused: a clock may have gone back.
        let time = pgp_time(now).max(key.created_at());
        config.hashed_subpackets = vec![
            Subpacket::regular(SubpacketData::SignatureCreationTime(time))?,
            Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint()))?,
        ];
        config.unhashed_subpackets =
            vec![Subpacket::regular(SubpacketData::IssuerKeyId(key.legacy_key_id()))?];
        // The frame adds a line end of its own; with two, readers see an empty line more.
        let text = text.strip_suffix('\n').unwrap_or(text);
        CleartextSignedMessage::new(text, config, key, &Password::empty())?
            .to_armored_string(ArmorOptions::default())
    }
}

/// Why a clearsigned text is not accepted from a set of keys.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VerifyError {
    /// Not a well-formed clearsigned text.
    #[error("{0}")]
    Form(pgp::errors::Error),
    /// None of the keys made any good signature.
    #[error("none of the accepted keys made it")]
    NoMatch,
    /// A key of the list cannot be read.
    #[error("an accepted key cannot be read: {0}")]
    Key(pgp::errors::Error),
}

/// Checks that one of `keys` (armored) signed a clearsigned text with a hash function that is
/// still trusted, and that the key was neither expired nor revoked.
pub(crate) fn verify(text: &str, keys: &[String], now: Timestamp) -> Result<(), VerifyError> {
    let (message, _) = CleartextSignedMessage::from_string(text).map_err(VerifyError::Form)?;
    let signed = message.signed_text();
    for armored in keys {
        let (key, _) = SignedPublicKey::from_string(armored).map_err(VerifyError::Key)?;
        if !is_usable(&key, now) {
            continue;
        }
        for signature in message.signatures().iter().filter(|signature| is_strong(signature)) {
            let by_primary = signature.verify(&key.primary_key, signed.as_bytes()).is_ok();
            let by_subkey = || {
                key.public_subkeys.iter().any(|subkey| {
                    let may_sign = subkey.signatures.iter().any(|binding| binding.key_flags().sign());
                    may_sign
                        && subkey.verify_bindings(&key.primary_key).is_ok()
                        && !is_revoked(&subkey.signatures)
                        && signature.verify(&subkey.key, signed.as_bytes()).is_ok()
                })
            };
            if by_primary || by_subkey() {
                return Ok(());
            }
        }
    }
    Err(VerifyError::NoMatch)
}

fn is_strong(signature: &pgp::packet::Signature) -> bool {
    matches!(
        signature.hash_alg(),
        Some(
            HashAlgorithm::Sha256
                | HashAlgorithm::Sha384
                | HashAlgorithm::Sha512
                | HashAlgorithm::Sha3_256
                | HashAlgorithm::Sha3_512
        )
    )
}

fn is_revoked(signatures: &[pgp::packet::Signature]) -> bool {
    signatures.iter().any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation))
}

/// True if the key has a good self-signature, is not revoked and has not expired.
fn is_usable(key: &SignedPublicKey, now: Timestamp) -> bool {
    if !key.details.revocation_signatures.is_empty() {
        return false;
    }
    let own = key.details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.verify_certification(&key.primary_key, pgp::types::Tag::UserId, &user.id).is_ok()
        })
    });
    let latest = own.chain(&key.details.direct_signatures).max_by_key(|signature| signature.created());
    let Some(latest) = latest else { return false };
    let expires = latest.key_expiration_time().map_or(0, |validity| u64::from(validity.as_secs()));
    let created = u64::from(key.primary_key.created_at().as_secs());
    expires == 0 || u64::try_from(now.as_second()).is_ok_and(|now| now < created + expires)
}
