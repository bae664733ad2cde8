//! Public keys in PEM files and signatures over a manifest: RSA (PKCS #1 v1.5) and ECDSA on P-256, both with
//! SHA-256. That is all that Mender's tools read in an artifact; its Ed25519 keys sign requests only.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::pkcs8::EncodePublicKey;
use p256::pkcs8::der::{Decode, asn1::ObjectIdentifier};
use p256::pkcs8::spki::SubjectPublicKeyInfoRef;
use ring::signature::{self, UnparsedPublicKey};

use crate::{Error, header};

/// Which algorithm a key is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyKind {
    /// RSA, PKCS #1 v1.5 with SHA-256.
    Rsa,
    /// ECDSA on P-256 with SHA-256.
    EcdsaP256,
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "RSA",
            Self::EcdsaP256 => "ECDSA P-256",
        })
    }
}

const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");

/// A key that signatures are checked with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey {
    kind: KeyKind,
    /// RSA: the PKCS #1 structure. P-256: the uncompressed point.
    bytes: Vec<u8>,
    fingerprint: String,
}

impl PublicKey {
    /// Reads a PEM file with a `PUBLIC KEY`, or takes the public half of a private key.
    ///
    /// # Errors
    /// [`Error::Key`] if it is no such file or not a key that artifacts are signed with.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let (label, der) = decode_pem(pem)?;
        match label {
            "PUBLIC KEY" => Self::from_spki(&der),
            "RSA PUBLIC KEY" => Ok(Self::rsa(der)),
            #[cfg(feature = "write")]
            _ => crate::PrivateKey::from_pem(pem).map(|key| key.public_key().clone()),
            #[cfg(not(feature = "write"))]
            other => Err(bad_key(&format!("a PEM block {other:?} is no public key"))),
        }
    }

    fn from_spki(der: &[u8]) -> Result<Self, Error> {
        let spki =
            SubjectPublicKeyInfoRef::from_der(der).map_err(|_| bad_key("it is not a public key in DER"))?;
        let bytes = spki.subject_public_key.as_bytes().ok_or_else(|| bad_key("its bits are malformed"))?;
        match spki.algorithm.oid {
            RSA => Ok(Self::rsa(bytes.to_vec())),
            EC if spki.algorithm.parameters_oid().is_ok_and(|curve| curve == P256) => {
                let point = p256::PublicKey::from_sec1_bytes(bytes)
                    .map_err(|_| bad_key("it is no point on P-256"))?;
                Ok(Self::ecdsa(&point))
            }
            EC => Err(bad_key(
                "Mender knows only the curve P-256; make one with `openssl ecparam -genkey -name prime256v1`",
            )),
            ED25519 => {
                Err(bad_key("no Mender tool reads artifacts signed with Ed25519; use RSA or ECDSA P-256"))
            }
            other => Err(bad_key(&format!("algorithm {other} is not known; use RSA or ECDSA P-256"))),
        }
    }

    pub(crate) fn rsa(pkcs1: Vec<u8>) -> Self {
        let fingerprint = header::digest(&pkcs1).to_string();
        Self { kind: KeyKind::Rsa, bytes: pkcs1, fingerprint }
    }

    pub(crate) fn ecdsa(point: &p256::PublicKey) -> Self {
        let spki = point.to_public_key_der().expect("a point has a DER form");
        let key = p256::ecdsa::VerifyingKey::from(point);
        let bytes = key.to_encoded_point(false).as_bytes().to_vec();
        Self { kind: KeyKind::EcdsaP256, bytes, fingerprint: header::digest(spki.as_bytes()).to_string() }
    }

    /// Which algorithm it is for.
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// A name for the key: `sha256:` of its DER form (RSA: PKCS #1, P-256: SubjectPublicKeyInfo).
    pub fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }

    /// True if the signature over these bytes is by this key.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithm: &dyn signature::VerificationAlgorithm = match self.kind {
            KeyKind::Rsa => &signature::RSA_PKCS1_2048_8192_SHA256,
            // Mender writes r and s bare; with a hardware key, its tool writes DER.
            KeyKind::EcdsaP256 if signature.len() == 64 => &signature::ECDSA_P256_SHA256_FIXED,
            KeyKind::EcdsaP256 => &signature::ECDSA_P256_SHA256_ASN1,
        };
        UnparsedPublicKey::new(algorithm, &self.bytes).verify(message, signature).is_ok()
    }
}

/// The bytes of a `manifest.sig`.
pub(crate) fn decode_signature(text: &[u8]) -> Result<Vec<u8>, Error> {
    let reason = "it is not base64 without line breaks; Mender's C++ client refuses any other form";
    STANDARD.decode(text).map_err(|_| Error::Signature { reason: reason.into() })
}

pub(crate) fn bad_key(reason: &str) -> Error {
    Error::Key { reason: reason.to_owned() }
}

/// The first PEM block that is a key: `openssl ecparam -genkey` puts its parameters before it.
pub(crate) fn decode_pem(pem: &str) -> Result<(&str, Vec<u8>), Error> {
    let mut rest = pem;
    loop {
        let missing = || bad_key("the file has no PEM block with a key in it");
        let (_, begun) = rest.split_once("-----BEGIN ").ok_or_else(missing)?;
        let (label, body) = begun.split_once("-----").ok_or_else(missing)?;
        let (body, after) = body.split_once("-----END ").ok_or_else(missing)?;
        rest = after;
        if label == "EC PARAMETERS" {
            continue;
        }
        if body.contains("ENCRYPTED") {
            return Err(bad_key("it is encrypted; decrypt it with `openssl pkey -in FILE`"));
        }
        let text: String = body.split_whitespace().collect();
        let der = STANDARD.decode(text).map_err(|_| bad_key("its PEM block is not base64"))?;
        return Ok((label, der));
    }
}
