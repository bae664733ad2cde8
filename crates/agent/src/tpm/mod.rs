//! A private key that a TPM 2.0 made and that never leaves it: made at enrolment, used to sign the
//! certificate request and each whole TLS handshake.
//!
//! The kernel's `/dev/tpmrm0` is spoken to directly: five commands are needed, and a static binary
//! has no TPM library to load. Nothing is kept in the TPM: the key is a blob on disk that only this
//! TPM can open, below the owner's storage key, which is made anew from the TPM's seed for each
//! signature. So a TPM that was reset, suspended or used by others in between is as good as before.
//! Not here: the bytes of the commands (`wire`), what TLS wants of a key (`tls`).

mod device;
pub mod tls;
mod wire;

use std::path::Path;

use serde::{Deserialize, Serialize};

use device::Device;
pub use wire::Problem;

/// A key of this device's TPM, as it lies on disk: useless anywhere else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TpmKey {
    /// The version of this format: 1.
    version: u32,
    /// The public part, as the TPM writes it (`TPMT_PUBLIC`), hexadecimal.
    #[serde(with = "hex")]
    public: Vec<u8>,
    /// The private part, encrypted by the TPM (`TPM2B_PRIVATE`), hexadecimal.
    #[serde(with = "hex")]
    private: Vec<u8>,
}

/// Why the TPM did not do it.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// It is not there, or does not answer.
    #[error("cannot use the TPM {path}: {source}{}", hint(source))]
    Device {
        /// Where it is.
        path: String,
        /// What happened.
        source: std::io::Error,
    },
    /// It answered something else than it should.
    #[error("the TPM {path} cannot {what}: {source}")]
    Answer {
        /// Where it is.
        path: String,
        /// What it was to do.
        what: &'static str,
        /// What it answered.
        source: Problem,
    },
}

fn hint(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::NotFound => "; this machine has none, or it is switched off in the firmware",
        _ => "",
    }
}

impl TpmKey {
    /// Has the TPM at `path` make a new key: ECDSA on P-256, for signatures only.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn make(path: &Path) -> Result<Self, TpmError> {
        let mut session = Session::open(path)?;
        let made = session.do_one("make a key", &wire::create(session.storage), wire::created)?;
        session.end();
        Ok(Self { version: 1, public: made.public, private: made.private })
    }

    /// Has the TPM at `path` sign a SHA-256 digest. The signature is in DER, as TLS and X.509 want it.
    ///
    /// # Errors
    /// [`TpmError`], also if the key is another TPM's.
    pub fn sign(&self, path: &Path, digest: &[u8; 32]) -> Result<Vec<u8>, TpmError> {
        let mut session = Session::open(path)?;
        let load = wire::load(session.storage, &self.private, &self.public);
        let key =
            session.do_one("load this device's key, which another TPM may have made", &load, wire::handle)?;
        let signed = session.do_one("sign", &wire::sign(key, digest), wire::signature);
        session.forget(key);
        session.end();
        signed
    }

    /// The point on the curve, uncompressed, as X.509 has it.
    ///
    /// # Errors
    /// [`TpmError::Answer`] if the public part is damaged.
    pub fn point(&self, path: &Path) -> Result<Vec<u8>, TpmError> {
        wire::point(&self.public).map_err(|source| TpmError::Answer {
            path: path.display().to_string(),
            what: "have made this public key",
            source,
        })
    }
}

/// One open TPM with the owner's storage key loaded. Whatever is loaded is forgotten at the end, by
/// us, and by the kernel if we die.
struct Session<'a> {
    path: &'a Path,
    device: Device,
    storage: u32,
}

impl<'a> Session<'a> {
    fn open(path: &'a Path) -> Result<Self, TpmError> {
        let device = Device::open(path)
            .map_err(|source| TpmError::Device { path: path.display().to_string(), source })?;
        let mut session = Self { path, device, storage: 0 };
        let what = "make the owner's storage key; if an owner password was set, tpm2_clear or the firmware removes it";
        session.storage = session.do_one(what, &wire::create_primary(), wire::handle)?;
        Ok(session)
    }

    /// One command and what its answer says.
    fn do_one<T>(
        &mut self,
        what: &'static str,
        command: &[u8],
        read: impl FnOnce(&[u8]) -> Result<T, Problem>,
    ) -> Result<T, TpmError> {
        let path = || self.path.display().to_string();
        let answer = self.device.ask(command).map_err(|source| TpmError::Device { path: path(), source })?;
        read(&answer).map_err(|source| TpmError::Answer { path: path(), what, source })
    }

    fn forget(&mut self, handle: u32) {
        // That it stays loaded hurts nobody: the kernel forgets it when the file is closed.
        let _ = self.device.ask(&wire::flush(handle));
    }

    fn end(mut self) {
        let storage = self.storage;
        self.forget(storage);
    }
}

/// Bytes as hexadecimal text.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        serializer.serialize_str(&text)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
        let text = String::deserialize(deserializer)?;
        let pairs = text.as_bytes().chunks(2);
        let byte = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
            u8::from_str_radix(text, 16).ok()
        };
        pairs.map(byte).collect::<Option<_>>().ok_or_else(|| D::Error::custom("it is not hexadecimal"))
    }
}
