//! One OpenPGP key: made, read, used to sign a text, and asked whether it signed one. The form is
//! what apt 2.6 (gpgv) and apt 3.0 (sqv) both take: an Ed25519 key of version 4, SHA-512, no
//! expiry. Not here: which keys the archive has (`keyring`), and whom to trust.

use std::fmt::Display;

use jiff::Timestamp;
use pgp::composed::{
    ArmorOptions, CleartextSignedMessage, Deserializable, KeyType, SecretKeyParamsBuilder, SignedPublicKey,
    SignedSecretKey,
};
use pgp::crypto::hash::HashAlgorithm;
use pgp::packet::{Signature, SignatureConfig, SignatureType, Subpacket, SubpacketData};
use pgp::ser::Serialize as _;
use pgp::types::{EcdsaPublicParams, KeyDetails as _, Password, PublicParams, Timestamp as PgpTime};

fn pgp_time(time: Timestamp) -> PgpTime {
    // OpenPGP ends in 2106; a clock beyond that is wrong anyway.
    PgpTime::from_secs(u32::try_from(time.as_second()).unwrap_or(u32::MAX))
}

/// The fingerprint as people compare it: 40 upper-case hexadecimal digits.
pub(crate) fn fingerprint(key: &SignedPublicKey) -> String {
    format!("{:X}", key.primary_key.fingerprint())
}

/// The first user id.
pub(crate) fn user_id(key: &SignedPublicKey) -> String {
    let first = key.details.users.first();
    first.map(|user| String::from_utf8_lossy(user.id.id()).into_owned()).unwrap_or_default()
}

/// Makes a key.
pub(crate) fn generate(user_id: &str, now: Timestamp) -> Result<SignedSecretKey, String> {
    let mut params = SecretKeyParamsBuilder::default();
    params
        // The OpenPGP form that gpgv 2.2 and sqv both read; RFC 9580's newer one they do not.
        .key_type(KeyType::Ed25519Legacy)
        .can_certify(true)
        .can_sign(true)
        .created_at(pgp_time(now))
        .primary_user_id(user_id.to_owned());
    let params = params.build().map_err(|error| error.to_string())?;
    params.generate(rand::rngs::OsRng).map_err(text)
}

/// Armors a secret key.
pub(crate) fn secret_text(key: &SignedSecretKey) -> Result<String, String> {
    key.to_armored_string(ArmorOptions::default()).map_err(text)
}

/// Reads an armored secret key.
pub(crate) fn read_secret(armored: &str) -> Result<SignedSecretKey, String> {
    Ok(SignedSecretKey::from_string(armored).map_err(text)?.0)
}

/// Reads all public keys of an armored text, which may have one block or several.
pub(crate) fn read_public(armored: &str) -> Result<Vec<SignedPublicKey>, String> {
    const BEGIN: &str = "-----BEGIN PGP PUBLIC KEY BLOCK-----";
    let mut keys = Vec::new();
    for block in armored.match_indices(BEGIN).map(|(start, _)| &armored[start..]) {
        let (many, _) = SignedPublicKey::from_string_many(block).map_err(text)?;
        for key in many {
            keys.push(key.map_err(text)?);
        }
    }
    if keys.is_empty() {
        return Err("it has no armored OpenPGP public key".to_owned());
    }
    Ok(keys)
}

/// Armors public keys as one block: apt 2.6 reads no second one.
pub(crate) fn public_text<'a>(keys: impl IntoIterator<Item = &'a SignedPublicKey>) -> Result<String, String> {
    let keys: Vec<&SignedPublicKey> = keys.into_iter().collect();
    let mut bytes = Vec::new();
    let block = pgp::armor::BlockType::PublicKey;
    pgp::armor::write(&keys, block, &mut bytes, None, true).map_err(text)?;
    String::from_utf8(bytes).map_err(text)
}

fn text(error: impl Display) -> String {
    error.to_string()
}

/// Says why devices could not use a key: what gpgv or sqv refuse.
pub(crate) fn check_for_apt(key: &SignedPublicKey, now: Timestamp) -> Result<(), String> {
    match key.primary_key.public_params() {
        PublicParams::EdDSALegacy(_) => {}
        PublicParams::ECDSA(
            EcdsaPublicParams::P256 { .. } | EcdsaPublicParams::P384 { .. } | EcdsaPublicParams::P521 { .. },
        ) => {}
        // Modulus and exponent, each after its length; no exponent has more than a few bytes.
        PublicParams::RSA(params) if params.write_len() >= 2048 / 8 + 4 => {}
        PublicParams::RSA(_) => return Err("RSA keys below 2048 bits are refused by apt 3.0".to_owned()),
        _ => {
            return Err(
                "apt on Debian 12 and 13 takes Ed25519 (version 4), NIST P-256 to P-521 and RSA keys \
                        only"
                    .to_owned(),
            );
        }
    }
    let Some(own) = self_signature(key) else {
        return Err("it has no good signature of its own".to_owned());
    };
    if !is_strong(own) {
        return Err("its own signature uses SHA-1, which apt 3.0 refuses".to_owned());
    }
    if !is_usable(key, now) {
        return Err("it is revoked or has expired".to_owned());
    }
    Ok(())
}

/// Signs a text as a clearsign frame holds it: without a line end after the last line.
pub(crate) fn sign(key: &SignedSecretKey, text: &str, now: Timestamp) -> Result<Signature, String> {
    let own = key.details.users.iter().flat_map(|user| &user.signatures);
    let bound = own.filter_map(Signature::created).max();
    let key = &key.primary_key;
    let config = || {
        let mut config = SignatureConfig::from_key(rand::rngs::OsRng, key, SignatureType::Text)?;
        config.hash_alg = HashAlgorithm::Sha512;
        // A signature from before its key, or from before the key was bound to its name, is
        // refused, the second by sqv alone: a clock may have gone back.
        let time = pgp_time(now).max(key.created_at()).max(bound.unwrap_or(key.created_at()));
        config.hashed_subpackets = vec![
            Subpacket::regular(SubpacketData::SignatureCreationTime(time))?,
            Subpacket::regular(SubpacketData::IssuerFingerprint(key.fingerprint()))?,
        ];
        config.unhashed_subpackets =
            vec![Subpacket::regular(SubpacketData::IssuerKeyId(key.legacy_key_id()))?];
        CleartextSignedMessage::new(text, config, key, &Password::empty())
    };
    let message = config().map_err(self::text)?;
    message.signatures().first().cloned().ok_or_else(|| "no signature was made".to_owned())
}

/// Puts a text with its signatures into a clearsign frame, as `InRelease` has it.
pub(crate) fn frame(text: &str, signatures: Vec<Signature>) -> Result<String, String> {
    CleartextSignedMessage::new_many(text, |_| Ok(signatures))
        .and_then(|message| message.to_armored_string(ArmorOptions::default()))
        .map_err(self::text)
}

/// True if this signature over `text` (with the line ends of a clearsigned text) is the key's, or
/// that of one of its subkeys that may sign.
pub(crate) fn is_signature_of(signature: &Signature, key: &SignedPublicKey, text: &[u8]) -> bool {
    if !is_strong(signature) {
        return false;
    }
    signature.verify(&key.primary_key, text).is_ok()
        || key.public_subkeys.iter().any(|subkey| {
            let may_sign = subkey.signatures.iter().any(|binding| binding.key_flags().sign());
            may_sign
                && subkey.verify_bindings(&key.primary_key).is_ok()
                && !is_revoked(&subkey.signatures)
                && signature.verify(&subkey.key, text).is_ok()
        })
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
    Key(String),
}

/// Checks that one of `keys` (armored) signed a clearsigned text with a hash function that is
/// still trusted, and that the key was neither expired nor revoked.
pub(crate) fn verify(text: &str, keys: &[String], now: Timestamp) -> Result<(), VerifyError> {
    let (message, _) = CleartextSignedMessage::from_string(text).map_err(VerifyError::Form)?;
    for armored in keys {
        for key in read_public(armored).map_err(VerifyError::Key)? {
            if is_usable(&key, now) && signed(&message, &key) {
                return Ok(());
            }
        }
    }
    Err(VerifyError::NoMatch)
}

/// True if one of the signatures of a clearsigned text is the key's.
pub(crate) fn signed(message: &CleartextSignedMessage, key: &SignedPublicKey) -> bool {
    let text = message.signed_text();
    message.signatures().iter().any(|signature| is_signature_of(signature, key, text.as_bytes()))
}

fn is_strong(signature: &Signature) -> bool {
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

fn is_revoked(signatures: &[Signature]) -> bool {
    signatures.iter().any(|signature| signature.typ() == Some(SignatureType::SubkeyRevocation))
}

/// The newest good signature of the key on itself.
fn self_signature(key: &SignedPublicKey) -> Option<&Signature> {
    let own = key.details.users.iter().flat_map(|user| {
        user.signatures.iter().filter(|signature| {
            signature.verify_certification(&key.primary_key, pgp::types::Tag::UserId, &user.id).is_ok()
        })
    });
    own.chain(&key.details.direct_signatures).max_by_key(|signature| signature.created())
}

/// True if the key has a good self-signature, is not revoked and has not expired.
pub(crate) fn is_usable(key: &SignedPublicKey, now: Timestamp) -> bool {
    if !key.details.revocation_signatures.is_empty() {
        return false;
    }
    let Some(latest) = self_signature(key) else { return false };
    let expires = latest.key_expiration_time().map_or(0, |validity| u64::from(validity.as_secs()));
    let created = u64::from(key.primary_key.created_at().as_secs());
    expires == 0 || u64::try_from(now.as_second()).is_ok_and(|now| now < created + expires)
}
