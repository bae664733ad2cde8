//! The device's private key: a file for root alone, or a key of the TPM. Which of the two is decided
//! at enrolment, and the file `device.key` says which it is.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use volary_host::{FileError, read, write_atomic};
use volary_model::DeviceName;

use crate::paths::Paths;
use crate::tpm::tls::Key;
use crate::tpm::{TpmError, TpmKey};

/// Where a new key is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyPlace {
    /// A file that root alone can read.
    #[default]
    File,
    /// The TPM of this device: whoever copies the disk has not copied the key.
    Tpm,
}

impl std::str::FromStr for KeyPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "file" => Ok(Self::File),
            "tpm" => Ok(Self::Tpm),
            other => Err(format!("a key is made in a file or in the tpm, not in {other:?}")),
        }
    }
}

/// The key of this device.
#[derive(Debug)]
pub enum DeviceKey {
    /// PEM.
    File(String),
    /// What the TPM opens.
    Tpm(Box<Key>),
}

/// Why there is no usable key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The TPM.
    #[error(transparent)]
    Tpm(#[from] TpmError),
    /// What the file says is not understood.
    #[error("{} is no private key: {detail}; enrol again with volary-agent enroll", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The key that is there is of the other kind.
    #[error("this device has a key in {}, which is not where the new one is wanted; remove that file to make a new key", .0.display())]
    OtherPlace(PathBuf),
    /// The certificate request cannot be made.
    #[error("cannot make a key and a certificate request: {0}")]
    Request(#[from] rcgen::Error),
}

impl DeviceKey {
    /// The key that is there.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn load(paths: &Paths) -> Result<Self, KeyError> {
        let path = paths.key();
        let invalid = |detail: String| KeyError::Invalid { path: path.clone(), detail };
        let text = String::from_utf8(read(&path)?).map_err(|_| invalid("it is no text".to_owned()))?;
        if !text.trim_start().starts_with('{') {
            return Ok(Self::File(text));
        }
        let key: TpmKey = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        Ok(Self::Tpm(Box::new(Key::new(key, &paths.tpm())?)))
    }

    /// The key that is there, or a new one in `place`. It is on disk before it is used.
    ///
    /// # Errors
    /// [`KeyError`], also if there is one in the other place.
    pub fn load_or_make(paths: &Paths, place: KeyPlace) -> Result<Self, KeyError> {
        match Self::load(paths) {
            Ok(key) if key.place() == place => Ok(key),
            Ok(_) => Err(KeyError::OtherPlace(paths.key())),
            Err(KeyError::File(error)) if error.is_not_found() => {
                Self::make(&paths.key(), &paths.tpm(), place)
            }
            Err(error) => Err(error),
        }
    }

    fn make(path: &Path, tpm: &Path, place: KeyPlace) -> Result<Self, KeyError> {
        let (text, key) = match place {
            KeyPlace::File => {
                let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?.serialize_pem();
                (key.clone(), Self::File(key))
            }
            KeyPlace::Tpm => {
                let key = TpmKey::make(tpm)?;
                let text = serde_json::to_string(&key).expect("a key of a TPM is text") + "\n";
                (text, Self::Tpm(Box::new(Key::new(key, tpm)?)))
            }
        };
        // A key of the TPM is no use elsewhere, but why should anybody read it?
        write_atomic(path, text.as_bytes(), 0o600)?;
        Ok(key)
    }

    /// Where it is.
    pub const fn place(&self) -> KeyPlace {
        match self {
            Self::File(_) => KeyPlace::File,
            Self::Tpm(_) => KeyPlace::Tpm,
        }
    }

    /// A certificate request for the device `name`, PEM.
    ///
    /// # Errors
    /// [`KeyError::Request`].
    pub fn request(&self, name: &DeviceName) -> Result<String, KeyError> {
        let mut parameters = rcgen::CertificateParams::new(vec![name.to_string()])?;
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name.as_str());
        let request = match self {
            Self::File(pem) => parameters.serialize_request(&rcgen::KeyPair::from_pem(pem)?)?,
            Self::Tpm(key) => parameters.serialize_request(key.as_ref())?,
        };
        Ok(request.pem()?)
    }
}
