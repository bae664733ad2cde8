//! The keys of the archive: `keys/keys.json` says which sign, `keys/FINGERPRINT.asc` are the
//! secret ones, `keys/FINGERPRINT.pub.asc` the public ones. Every suite is signed by all of them.
//! Not here: changing them (`rotation`).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use jiff::Timestamp;
use pgp::composed::{CleartextSignedMessage, SignedPublicKey};
use serde::{Deserialize, Serialize};
use volary_host::FileError;

use crate::error::Error;
use crate::key;
use crate::signer::{Signer, SignerCommand};

/// The commands that sign for keys in hardware, by name.
pub type Signers = BTreeMap<String, SignerCommand>;

/// `keys.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeysFile {
    version: u64,
    /// Rises with each change of the keys.
    pub(crate) generation: u64,
    /// The generation by whose keys all suites are signed. While it is behind, they have to be
    /// signed again.
    pub(crate) signed: u64,
    pub(crate) keys: Vec<KeyRecord>,
    /// Keys that sign no more, oldest first.
    #[serde(default)]
    pub(crate) retired: Vec<RetiredRecord>,
}

/// A key that signs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct KeyRecord {
    pub(crate) fingerprint: String,
    pub(crate) since: Timestamp,
    /// When a rotation began that ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) leaving: Option<Timestamp>,
    /// The name of the command that signs with it; the secret key is ours if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) signer: Option<String>,
}

/// A key that signed once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RetiredRecord {
    pub(crate) fingerprint: String,
    pub(crate) since: Timestamp,
    pub(crate) until: Timestamp,
}

impl KeysFile {
    /// The file of a new archive, before it has a key.
    pub(crate) fn empty() -> Self {
        Self { version: 1, generation: 0, signed: 0, keys: Vec::new(), retired: Vec::new() }
    }

    /// Writes `keys.json`: from here on it is so.
    pub(crate) fn write(&self, dir: &Path) -> Result<(), FileError> {
        let text = serde_json::to_vec_pretty(self).expect("a list of keys is plain data");
        volary_host::write_atomic(&dir.join("keys.json"), &text, 0o600)
    }
}

/// One key with all that is needed to use it.
#[derive(Debug)]
pub(crate) struct RingKey {
    pub(crate) record: KeyRecord,
    pub(crate) public: SignedPublicKey,
    signer: Signer,
}

/// When and how large `keys.json` was when it was read: another process may change it.
type Stamp = (SystemTime, u64);

/// All keys that sign.
#[derive(Debug)]
pub(crate) struct Keyring {
    /// The folder.
    pub(crate) dir: PathBuf,
    pub(crate) file: KeysFile,
    pub(crate) keys: Vec<RingKey>,
    stamp: Stamp,
}

/// Where a secret key lies.
pub(crate) fn secret_path(dir: &Path, fingerprint: &str) -> PathBuf {
    dir.join(format!("{fingerprint}.asc"))
}

/// Where a public key lies.
pub(crate) fn public_path(dir: &Path, fingerprint: &str) -> PathBuf {
    dir.join(format!("{fingerprint}.pub.asc"))
}

fn stamp(dir: &Path) -> Result<Stamp, FileError> {
    let path = dir.join("keys.json");
    let meta = std::fs::metadata(&path).map_err(FileError::at("read", &path))?;
    Ok((meta.modified().map_err(FileError::at("read", &path))?, meta.len()))
}

fn unusable(path: &Path) -> impl FnOnce(String) -> Error + '_ {
    move |problem| Error::Key { path: path.to_owned(), problem }
}

impl Keyring {
    /// Reads the keys in a folder.
    pub(crate) fn read(dir: &Path, signers: &Signers) -> Result<Self, Error> {
        let path = dir.join("keys.json");
        // First, so that a change while we read is noticed later.
        let stamp = stamp(dir)?;
        let damaged = |problem: String| Error::Damaged { path: path.clone(), problem };
        let value: serde_json::Value =
            serde_json::from_slice(&volary_host::read(&path)?).map_err(|error| damaged(error.to_string()))?;
        if let Some(version) = value["version"].as_u64().filter(|version| *version > 1) {
            return Err(Error::Newer { path, version });
        }
        let file: KeysFile = serde_json::from_value(value).map_err(|error| damaged(error.to_string()))?;
        if file.keys.is_empty() {
            return Err(damaged("it has no key".to_owned()));
        }
        let keys = file.keys.iter().map(|record| read_key(dir, record, signers)).collect::<Result<_, _>>()?;
        Ok(Self { dir: dir.to_owned(), file, keys, stamp })
    }

    /// True if another process has changed the keys.
    pub(crate) fn is_outdated(&self) -> Result<bool, FileError> {
        Ok(stamp(&self.dir)? != self.stamp)
    }

    /// The public keys as one armored block.
    pub(crate) fn public_text(&self) -> String {
        key::public_text(self.keys.iter().map(|key| &key.public)).expect("keys that were read can be written")
    }

    /// Puts a text into a clearsign frame with the signatures of all keys.
    pub(crate) fn clearsign(&self, text: &str, now: Timestamp) -> Result<String, Error> {
        // The frame adds a line end of its own; with two, readers see an empty line more.
        let text = text.strip_suffix('\n').unwrap_or(text);
        let mut signatures = Vec::with_capacity(self.keys.len());
        for key in &self.keys {
            signatures.extend(key.sign(text, now)?);
        }
        key::frame(text, signatures).map_err(unusable(&self.dir))
    }

    /// The keys that did not sign a clearsigned text, or may not any more.
    pub(crate) fn missing_in(&self, text: &str, now: Timestamp) -> Result<Vec<&str>, String> {
        let (message, _) = CleartextSignedMessage::from_string(text).map_err(|error| error.to_string())?;
        let good = |key: &RingKey| key::is_usable(&key.public, now) && key::signed(&message, &key.public);
        let missing = self.keys.iter().filter(|key| !good(key));
        Ok(missing.map(|key| key.record.fingerprint.as_str()).collect())
    }
}

impl RingKey {
    pub(crate) fn new(record: KeyRecord, public: SignedPublicKey, signer: Signer) -> Self {
        Self { record, public, signer }
    }

    /// Signs, and proves that it did.
    pub(crate) fn sign(&self, text: &str, now: Timestamp) -> Result<Vec<pgp::packet::Signature>, Error> {
        let failed = |problem| Error::Signer { fingerprint: self.record.fingerprint.clone(), problem };
        self.signer.sign(&self.public, text, now).map_err(failed)
    }
}

fn read_key(dir: &Path, record: &KeyRecord, signers: &Signers) -> Result<RingKey, Error> {
    let path = public_path(dir, &record.fingerprint);
    let public = key::read_public(&volary_host::read_to_string(&path)?).map_err(unusable(&path))?;
    let public = public.into_iter().next().expect("a list of keys that was read has one");
    if key::fingerprint(&public) != record.fingerprint {
        return Err(unusable(&path)(format!("it is the key {}", key::fingerprint(&public))));
    }
    let signer = match &record.signer {
        None => {
            let path = secret_path(dir, &record.fingerprint);
            let secret = key::read_secret(&volary_host::read_to_string(&path)?).map_err(unusable(&path))?;
            Signer::Own(Box::new(secret))
        }
        Some(name) => match signers.get(name) {
            Some(command) => Signer::Command(command.clone()),
            None => Signer::Unknown(name.clone()),
        },
    };
    Ok(RingKey::new(record.clone(), public, signer))
}
