//! What must be known at each request and may not cost a query: which keys belong to which device,
//! and who was heard of when.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use jiff::Timestamp;
use volary_model::{DeviceName, Digest, StageName};
use volary_store::{Device, DeviceState, Store, StoreError};

/// An accepted device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    /// Its name.
    pub(crate) name: DeviceName,
    /// Its stage.
    pub(crate) stage: StageName,
}

/// The devices of the fleet by their key, and the newest signs of life.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    members: RwLock<Members>,
    /// One reading of the records at a time: an older one must not overwrite a newer one.
    reading: tokio::sync::Mutex<()>,
    /// When each was heard of, and whether that is in the records.
    seen: Mutex<HashMap<DeviceName, (Timestamp, bool)>>,
    used: Mutex<HashMap<String, Timestamp>>,
}

#[derive(Debug, Default)]
struct Members {
    by_key: HashMap<Digest, Member>,
    keys: HashMap<DeviceName, Digest>,
}

impl Members {
    fn put(&mut self, key: Digest, member: Member) {
        self.keys.insert(member.name.clone(), key);
        self.by_key.insert(key, member);
    }
}

impl Registry {
    /// Reads all devices.
    pub(crate) async fn load(&self, store: &Store) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        let mut members = Members::default();
        for (name, key, stage) in store.members().await? {
            members.put(key, Member { name, stage });
        }
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
        let seen = store.last_seen().await?.into_iter().map(|(name, at)| (name, (at, true)));
        *lock(&self.seen) = seen.collect();
        Ok(())
    }

    /// Reads one device again, after a change.
    pub(crate) async fn refresh(&self, store: &Store, name: &DeviceName) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        let device = store.device(name).await?;
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(key) = members.keys.remove(name) {
            members.by_key.remove(&key);
        }
        if let Some((key, member)) = device.as_ref().and_then(member) {
            members.put(key, member);
        }
        drop(members);
        if device.is_none() {
            lock(&self.seen).remove(name);
        }
        Ok(())
    }

    /// The accepted device with this key.
    pub(crate) fn member(&self, key: &Digest) -> Option<Member> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).by_key.get(key).cloned()
    }

    /// How many accepted devices there are.
    pub(crate) fn count(&self) -> usize {
        self.members.read().unwrap_or_else(PoisonError::into_inner).by_key.len()
    }

    /// Notes that a device was heard of.
    pub(crate) fn seen(&self, name: &DeviceName, now: Timestamp) {
        let mut seen = lock(&self.seen);
        match seen.get_mut(name) {
            Some(known) => *known = (now, false),
            None => drop(seen.insert(name.clone(), (now, false))),
        }
    }

    /// When a device was heard of last, other than by a report.
    pub(crate) fn last_seen(&self, name: &DeviceName) -> Option<Timestamp> {
        lock(&self.seen).get(name).map(|(at, _)| *at)
    }

    /// Notes that a token was used.
    pub(crate) fn token_used(&self, name: &str, now: Timestamp) {
        lock(&self.used).insert(name.to_owned(), now);
    }

    /// Writes the signs of life to the records.
    pub(crate) async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        let new = |(name, (at, written)): (&DeviceName, &(Timestamp, bool))| {
            (!written).then(|| (name.clone(), *at))
        };
        let seen: Vec<(DeviceName, Timestamp)> = lock(&self.seen).iter().filter_map(new).collect();
        store.devices_seen(&seen).await?;
        {
            let mut kept = lock(&self.seen);
            for (name, at) in &seen {
                if let Some((newest, written)) = kept.get_mut(name) {
                    *written = newest == at;
                }
            }
        }
        let used = std::mem::take(&mut *lock(&self.used));
        for (name, at) in used {
            store.token_used(&name, at).await?;
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn member(device: &Device) -> Option<(Digest, Member)> {
    match (device.state, &device.stage) {
        (DeviceState::Accepted, Some(stage)) => {
            Some((device.fingerprint, Member { name: device.name.clone(), stage: stage.clone() }))
        }
        (DeviceState::Accepted | DeviceState::Waiting | DeviceState::Rejected, _) => None,
    }
}
