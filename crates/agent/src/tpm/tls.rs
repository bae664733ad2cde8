//! A TPM's key where TLS and certificate requests want one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, KeyProvider};
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{TpmError, TpmKey};

/// A key with the way to its TPM.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Key {
    key: TpmKey,
    path: PathBuf,
    point: Vec<u8>,
}

impl Key {
    /// The key, for use by the TPM at `path`.
    ///
    /// # Errors
    /// [`TpmError::Answer`] if its public part is damaged.
    pub fn new(key: TpmKey, path: &Path) -> Result<Self, TpmError> {
        let point = key.point(path)?;
        Ok(Self { key, path: path.to_owned(), point })
    }

    /// What is given to TLS as the private key: it says where the key is, and is understood by
    /// [`provider`] alone.
    pub fn reference(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a key's place is text")
    }

    fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.key.sign(&self.path, &Sha256::digest(message).into())
    }
}

impl rcgen::PublicKeyData for Key {
    fn der_bytes(&self) -> &[u8] {
        &self.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

/// A certificate request is signed by the TPM too. `rcgen` keeps no reason, so that it is told.
impl rcgen::SigningKey for Key {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_message(message).map_err(|error| {
            crate::log::say(error.to_string());
            rcgen::Error::RemoteKeyError
        })
    }
}

/// The usual cryptography, only that private keys are references to keys of a TPM.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { key_provider: &Keys, ..rustls::crypto::ring::default_provider() })
}

#[derive(Debug)]
struct Keys;

impl KeyProvider for Keys {
    fn load_private_key(&self, key: PrivateKeyDer<'static>) -> Result<Arc<dyn SigningKey>, rustls::Error> {
        let key: Key = serde_json::from_slice(key.secret_der())
            .map_err(|error| rustls::Error::General(format!("this is no key of a TPM: {error}")))?;
        Ok(Arc::new(TlsKey(Arc::new(key))))
    }
}

#[derive(Debug)]
struct TlsKey(Arc<Key>);

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let ours = SignatureScheme::ECDSA_NISTP256_SHA256;
        offered.contains(&ours).then(|| Box::new(TlsSigner(Arc::clone(&self.0))) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

struct TlsSigner(Arc<Key>);

impl fmt::Debug for TlsSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key of the TPM")
    }
}

impl Signer for TlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign_message(message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}
