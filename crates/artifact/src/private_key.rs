//! Private keys in PEM files, and signing. Nothing here runs on a device.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Signer;
use p256::pkcs8::DecodePrivateKey;
use ring::signature::{self, RsaKeyPair};

use crate::key::{bad_key, decode_pem};
use crate::{Error, PublicKey};

/// A key that artifacts are signed with.
pub struct PrivateKey {
    secret: Secret,
    public: PublicKey,
}

enum Secret {
    Rsa(Box<RsaKeyPair>),
    EcdsaP256(Box<p256::ecdsa::SigningKey>),
}

impl PrivateKey {
    /// Reads a PEM file with an unencrypted private key: PKCS #8, PKCS #1 or SEC 1.
    ///
    /// # Errors
    /// [`Error::Key`] if it is no such file or not a key that artifacts are signed with.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        let (label, der) = decode_pem(pem)?;
        match label {
            "RSA PRIVATE KEY" => Self::rsa(RsaKeyPair::from_der(&der)),
            "EC PRIVATE KEY" => Self::ecdsa(
                p256::SecretKey::from_sec1_der(&der)
                    .map_err(|_| bad_key("it is no key for the curve P-256"))?,
            ),
            "PRIVATE KEY" => match p256::SecretKey::from_pkcs8_der(&der) {
                Ok(secret) => Self::ecdsa(secret),
                Err(_) => Self::rsa(RsaKeyPair::from_pkcs8(&der)),
            },
            "ENCRYPTED PRIVATE KEY" => {
                Err(bad_key("it is encrypted; decrypt it with `openssl pkey -in FILE`"))
            }
            other => Err(bad_key(&format!("a PEM block {other:?} is no private key"))),
        }
    }

    fn rsa(pair: Result<RsaKeyPair, ring::error::KeyRejected>) -> Result<Self, Error> {
        let pair = pair.map_err(|why| {
            bad_key(&format!("it is neither ECDSA on P-256 nor RSA with 2048 to 4096 bits ({why})"))
        })?;
        let public = PublicKey::rsa(pair.public().as_ref().to_vec());
        Ok(Self { secret: Secret::Rsa(Box::new(pair)), public })
    }

    fn ecdsa(secret: p256::SecretKey) -> Result<Self, Error> {
        let public = PublicKey::ecdsa(&secret.public_key());
        Ok(Self { secret: Secret::EcdsaP256(Box::new(secret.into())), public })
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// How many characters a signature of this key has in an artifact.
    pub(crate) fn signature_len(&self) -> usize {
        let bytes = match &self.secret {
            Secret::Rsa(pair) => pair.public().modulus_len(),
            Secret::EcdsaP256(_) => 64,
        };
        bytes.div_ceil(3) * 4
    }

    /// The text of `manifest.sig`. The same bytes and key give the same text.
    pub(crate) fn sign(&self, message: &[u8]) -> String {
        match &self.secret {
            Secret::Rsa(pair) => {
                let mut bytes = vec![0; pair.public().modulus_len()];
                let random = ring::rand::SystemRandom::new();
                pair.sign(&signature::RSA_PKCS1_SHA256, &random, message, &mut bytes)
                    .expect("the buffer has the size of the modulus, and the system has random numbers");
                STANDARD.encode(bytes)
            }
            Secret::EcdsaP256(key) => {
                let signature: p256::ecdsa::Signature = key.sign(message);
                STANDARD.encode(signature.to_bytes())
            }
        }
    }
}

impl fmt::Debug for PrivateKey {
    /// Never the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PrivateKey").field("public", &self.public).finish_non_exhaustive()
    }
}
