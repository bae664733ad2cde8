//! Changes of the archive's keys: a further one, another one in the place of those that are there
//! (for a time both sign), an end for the old ones.
//!
//! The order of a change: the files of the new key; then `keys.json` (from here on it has
//! happened); then every suite is signed again and `archive.asc` is written; then `keys.json`
//! says that this is done. A crash in between is finished by the next opening or writing.

use std::collections::BTreeSet;

use jiff::Timestamp;
use pgp::composed::SignedPublicKey;
use volary_model::Suite;

use crate::archive::{Archive, Inner};
use crate::error::Error;
use crate::key;
use crate::keyring::{KeyRecord, Keyring, KeysFile, RetiredRecord, RingKey, public_path, secret_path};
use crate::signer::Signer;

/// How far back a key is dated, so that a device whose clock is behind does not take it for one
/// from the future.
const BACKDATED: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

/// A key of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// 40 upper-case hexadecimal digits.
    pub fingerprint: String,
    /// Whose it is, as it says itself.
    pub user_id: String,
    /// Since when it signs.
    pub since: Timestamp,
    /// When the rotation began that ends it; `None` for a key that stays.
    pub leaving: Option<Timestamp>,
    /// The command that signs with it; `None` if its secret part lies in the archive's folder.
    pub signer: Option<String>,
    /// The public key, ASCII armored.
    pub public: String,
}

/// A key that signed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetiredKey {
    /// 40 upper-case hexadecimal digits.
    pub fingerprint: String,
    /// Since when it signed.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
}

/// The keys of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Those that sign.
    pub keys: Vec<KeyInfo>,
    /// Those that signed once, oldest first.
    pub retired: Vec<RetiredKey>,
    /// False while suites wait to be signed by what the keys are now, since that failed.
    pub all_signed: bool,
}

/// Where a new key comes from.
#[derive(Debug, Clone)]
pub enum NewKey {
    /// It is made.
    Generate,
    /// This armored secret key, without a passphrase.
    Secret(String),
    /// The key lies elsewhere, and a command signs with it.
    Command {
        /// The name under which the command is set up.
        signer: String,
        /// The armored public key.
        public: String,
    },
}

/// What becomes of the keys that are there when a new one comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Others {
    /// They stay: there are several signers.
    Stay,
    /// They leave: this is a rotation, and ends with [`Archive::retire_keys`].
    Leave,
}

/// Why a change of the keys is not made.
#[derive(Debug, thiserror::Error)]
pub enum KeyRefusal {
    /// The new key cannot be used.
    #[error("the new key cannot be used: {0}")]
    Unusable(String),
    /// It is there already.
    #[error("the key {0} signs already")]
    Known(String),
    /// It was retired.
    #[error("the key {0} was retired; a key that was given up does not come back: use a new one")]
    Retired(String),
    /// No such command.
    #[error("there is no signer {0:?}; set it up under [signers.{0}] in server.toml, and restart the server")]
    NoSigner(String),
    /// A rotation is under way.
    #[error("a rotation is under way: {0} leaves; end it first with `volary archive keys retire`")]
    Rotating(String),
    /// No key leaves.
    #[error(
        "no key leaves; begin a rotation with `volary archive keys rotate`, or name the key that is to go"
    )]
    NotRotating,
    /// No such key.
    #[error("the archive has no key {0}; `volary archive keys list` shows those that sign")]
    NoKey(String),
    /// Nothing would sign.
    #[error("{0} is the only key that signs; bring another first with `volary archive keys rotate`")]
    Last(String),
}

impl Archive {
    /// The keys of the archive.
    ///
    /// # Errors
    /// What reading them may bring.
    pub fn keys(&self) -> Result<Keys, Error> {
        let _turn = self.look()?;
        let ring = self.publisher.keys();
        let retired = ring.file.retired.iter().map(|key| RetiredKey {
            fingerprint: key.fingerprint.clone(),
            since: key.since,
            until: key.until,
        });
        Ok(Keys {
            keys: ring.keys.iter().map(info).collect(),
            retired: retired.collect(),
            all_signed: ring.file.signed == ring.file.generation,
        })
    }

    /// Takes a key in: from now on it signs every suite, beside those that are there.
    ///
    /// # Errors
    /// [`Error::Keys`], [`Error::Signer`] if it does not sign; then nothing has changed. What
    /// writing may bring after that is finished by the next operation.
    pub fn add_key(&self, new: &NewKey, others: Others, now: Timestamp) -> Result<KeyInfo, Error> {
        let (_lock, inner) = self.begin()?;
        let ring = self.publisher.keys();
        if others == Others::Leave
            && let Some(leaving) = ring.file.keys.iter().find(|key| key.leaving.is_some())
        {
            return Err(KeyRefusal::Rotating(leaving.fingerprint.clone()).into());
        }
        let (key, secret) = self.prepare_key(&inner, new, now)?;
        let fingerprint = &key.record.fingerprint;
        if ring.file.keys.iter().any(|known| known.fingerprint == *fingerprint) {
            return Err(KeyRefusal::Known(fingerprint.clone()).into());
        }
        if ring.file.retired.iter().any(|known| known.fingerprint == *fingerprint) {
            return Err(KeyRefusal::Retired(fingerprint.clone()).into());
        }
        // A key that cannot sign would stop every publish.
        key.sign(self.publisher.release_text(&Suite::Rolling)?.trim_end(), now)?;
        write_key(&ring, &key, secret.as_deref())?;
        let mut file = ring.file.clone();
        if others == Others::Leave {
            file.keys.iter_mut().for_each(|key| key.leaving = Some(now));
        }
        file.keys.push(key.record.clone());
        self.change_keys(&inner, &ring, file, now)?;
        Ok(info(&key))
    }

    /// Ends keys: the ones that leave, or the named one. Their secret parts are removed. To name
    /// the new key of a rotation takes the rotation back.
    ///
    /// # Errors
    /// As [`Archive::add_key`].
    pub fn retire_keys(&self, fingerprint: Option<&str>, now: Timestamp) -> Result<Vec<RetiredKey>, Error> {
        let (_lock, inner) = self.begin()?;
        let ring = self.publisher.keys();
        let going = going(&ring.file, fingerprint)?;
        let mut file = ring.file.clone();
        let (gone, keys) = file.keys.into_iter().partition(|key| going.contains(&key.fingerprint));
        let gone: Vec<KeyRecord> = gone;
        file.keys = keys;
        if file.keys.iter().all(|key| key.leaving.is_some()) {
            // It was the new key that went: the rotation is taken back.
            file.keys.iter_mut().for_each(|key| key.leaving = None);
        }
        let gone = gone.into_iter().map(|key| RetiredRecord {
            fingerprint: key.fingerprint,
            since: key.since,
            until: now,
        });
        let gone: Vec<RetiredRecord> = gone.collect();
        file.retired.extend(gone.iter().cloned());
        self.change_keys(&inner, &ring, file, now)?;
        let retired = gone.into_iter().map(|key| RetiredKey {
            fingerprint: key.fingerprint,
            since: key.since,
            until: key.until,
        });
        Ok(retired.collect())
    }

    /// Which keys [`Archive::retire_keys`] would end, and which would stay.
    ///
    /// # Errors
    /// [`Error::Keys`], or what reading may bring.
    pub fn retirement(&self, fingerprint: Option<&str>) -> Result<(Vec<KeyInfo>, Vec<KeyInfo>), Error> {
        let keys = self.keys()?.keys;
        let going = going(&self.publisher.keys().file, fingerprint)?;
        Ok(keys.into_iter().partition(|key| going.contains(&key.fingerprint)))
    }

    /// Signs all suites by the keys as they are, if that is still to be done.
    pub(crate) fn finish_keys(&self, inner: &Inner, now: Timestamp) -> Result<(), Error> {
        let ring = self.publisher.keys();
        if ring.file.signed == ring.file.generation {
            return Ok(());
        }
        let public = self.public_dir().join("archive.asc");
        volary_host::write_atomic(&public, ring.public_text().as_bytes(), 0o644)?;
        for suite in inner.state.suites() {
            self.sign_again(inner, &suite, now)?;
        }
        for retired in &ring.file.retired {
            volary_host::remove_if_exists(&secret_path(&ring.dir, &retired.fingerprint))?;
        }
        let mut file = ring.file.clone();
        file.signed = file.generation;
        file.write(&ring.dir)?;
        self.publisher.read_keys()
    }

    /// Puts new signatures under what a suite has.
    fn sign_again(&self, inner: &Inner, suite: &Suite, now: Timestamp) -> Result<(), Error> {
        let content = inner.state.suite(suite)?.digest();
        if self.publisher.published_set(suite) == Some(content) {
            return self.publisher.sign_again(suite, now);
        }
        self.republish(&inner.state, suite, now)
    }

    fn change_keys(
        &self,
        inner: &Inner,
        ring: &Keyring,
        mut file: KeysFile,
        now: Timestamp,
    ) -> Result<(), Error> {
        file.generation += 1;
        file.write(&ring.dir)?;
        self.publisher.read_keys()?;
        self.finish_keys(inner, now)
    }

    /// A key that is not the archive's yet, with its armored secret part if we have that.
    fn prepare_key(
        &self,
        inner: &Inner,
        new: &NewKey,
        now: Timestamp,
    ) -> Result<(RingKey, Option<String>), Error> {
        let unusable = |problem| Error::from(KeyRefusal::Unusable(problem));
        let (public, signer, name, secret) = match new {
            NewKey::Command { signer: name, public } => {
                let command = self.publisher.signers.get(name);
                let command = command.ok_or_else(|| KeyRefusal::NoSigner(name.clone()))?;
                let public = one(key::read_public(public).map_err(unusable)?).map_err(unusable)?;
                (public, Signer::Command(command.clone()), Some(name.clone()), None)
            }
            NewKey::Secret(_) | NewKey::Generate => {
                let key = match new {
                    NewKey::Secret(armored) => key::read_secret(armored),
                    _ => key::generate(&user_id(&inner.state.settings.origin), created(now)),
                };
                let key = key.map_err(unusable)?;
                let armored = key::secret_text(&key).map_err(unusable)?;
                (key.to_public_key(), Signer::Own(Box::new(key)), None, Some(armored))
            }
        };
        key::check_for_apt(&public, now).map_err(unusable)?;
        let fingerprint = key::fingerprint(&public);
        let record = KeyRecord { fingerprint, since: now, leaving: None, signer: name };
        Ok((RingKey::new(record, public, signer), secret))
    }
}

/// The fingerprints of the public keys in an armored text.
///
/// # Errors
/// Why it cannot be read.
pub fn fingerprints(armored: &str) -> Result<BTreeSet<String>, String> {
    Ok(key::read_public(armored)?.iter().map(key::fingerprint).collect())
}

fn user_id(origin: &str) -> String {
    format!("{origin} archive")
}

fn created(now: Timestamp) -> Timestamp {
    now.checked_sub(BACKDATED).unwrap_or(now)
}

fn one(mut keys: Vec<SignedPublicKey>) -> Result<SignedPublicKey, String> {
    match (keys.len(), keys.pop()) {
        (1, Some(key)) => Ok(key),
        (count, _) => Err(format!("there are {count} public keys; give one")),
    }
}

fn info(key: &RingKey) -> KeyInfo {
    KeyInfo {
        fingerprint: key.record.fingerprint.clone(),
        user_id: key::user_id(&key.public),
        since: key.record.since,
        leaving: key.record.leaving,
        signer: key.record.signer.clone(),
        public: key::public_text([&key.public]).expect("a key that was read can be written"),
    }
}

/// The fingerprints of the keys that a retirement ends.
fn going(file: &KeysFile, fingerprint: Option<&str>) -> Result<BTreeSet<String>, KeyRefusal> {
    let going: BTreeSet<String> = match fingerprint {
        None => {
            let leaving = file.keys.iter().filter(|key| key.leaving.is_some());
            leaving.map(|key| key.fingerprint.clone()).collect()
        }
        Some(wanted) => {
            let known = file.keys.iter().find(|key| key.fingerprint.eq_ignore_ascii_case(wanted));
            known.map(|key| key.fingerprint.clone()).into_iter().collect()
        }
    };
    match (going.first(), fingerprint) {
        (None, None) => Err(KeyRefusal::NotRotating),
        (None, Some(wanted)) => Err(KeyRefusal::NoKey(wanted.to_owned())),
        (Some(first), _) => {
            let stays = |key: &&KeyRecord| !going.contains(&key.fingerprint);
            file.keys.iter().find(stays).ok_or_else(|| KeyRefusal::Last(first.clone()))?;
            Ok(going)
        }
    }
}

/// Writes the files of a key. Without a line in `keys.json` they are nothing.
fn write_key(ring: &Keyring, key: &RingKey, secret: Option<&str>) -> Result<(), Error> {
    let fingerprint = &key.record.fingerprint;
    if let Some(secret) = secret {
        volary_host::write_atomic(&secret_path(&ring.dir, fingerprint), secret.as_bytes(), 0o600)?;
    }
    let public = info(key).public;
    volary_host::write_atomic(&public_path(&ring.dir, fingerprint), public.as_bytes(), 0o644)?;
    Ok(())
}

/// The first key of a new archive.
pub(crate) fn first_key(dir: &std::path::Path, origin: &str, now: Timestamp) -> Result<String, Error> {
    let unusable = |problem| Error::Key { path: dir.to_owned(), problem };
    let secret = key::generate(&user_id(origin), created(now)).map_err(unusable)?;
    let public = secret.to_public_key();
    let fingerprint = key::fingerprint(&public);
    let armored = key::secret_text(&secret).map_err(unusable)?;
    volary_host::write_atomic(&secret_path(dir, &fingerprint), armored.as_bytes(), 0o600)?;
    let armored = key::public_text([&public]).map_err(unusable)?;
    volary_host::write_atomic(&public_path(dir, &fingerprint), armored.as_bytes(), 0o644)?;
    let mut file = KeysFile::empty();
    file.keys.push(KeyRecord { fingerprint, since: now, leaving: None, signer: None });
    file.write(dir)?;
    Ok(armored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(keys: &[(&str, bool)]) -> KeysFile {
        let mut file = KeysFile::empty();
        let at = Timestamp::UNIX_EPOCH;
        file.keys = keys
            .iter()
            .map(|(name, leaving)| KeyRecord {
                fingerprint: (*name).to_owned(),
                since: at,
                leaving: leaving.then_some(at),
                signer: None,
            })
            .collect();
        file
    }

    fn check(keys: &[(&str, bool)], wanted: Option<&str>, expected: Result<&[&str], &str>) {
        match (going(&file(keys), wanted), expected) {
            (Ok(going), Ok(expected)) => assert!(going.iter().eq(expected), "{going:?}"),
            (Err(refusal), Err(expected)) => assert!(refusal.to_string().contains(expected), "{refusal}"),
            (found, _) => panic!("{found:?}"),
        }
    }

    #[test]
    fn a_key_that_stays_is_left_whatever_goes() {
        check(&[("A", true), ("B", false)], None, Ok(&["A"]));
        check(&[("A", true), ("B", true), ("C", false)], None, Ok(&["A", "B"]));
        check(&[("A", false), ("B", false)], None, Err("no key leaves"));
        check(&[("A", false), ("B", false)], Some("a"), Ok(&["A"]));
        check(&[("A", false)], Some("A"), Err("the only key"));
        check(&[("A", true), ("B", false)], Some("B"), Ok(&["B"]));
        check(&[("A", false)], Some("X"), Err("has no key X"));
    }
}
