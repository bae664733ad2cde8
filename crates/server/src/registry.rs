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
    members: RwLock<HashMap<Digest, Member>>,
    /// One reading of the records at a time: an older one must not overwrite a newer one.
    reading: tokio::sync::Mutex<()>,
    seen: Mutex<HashMap<DeviceName, Timestamp>>,
    used: Mutex<HashMap<String, Timestamp>>,
}

impl Registry {
    /// Reads all devices.
    pub(crate) async fn load(&self, store: &Store) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        let members = store.devices().await?.iter().filter_map(member).collect();
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = members;
        Ok(())
    }

    /// Reads one device again, after a change.
    pub(crate) async fn refresh(&self, store: &Store, name: &DeviceName) -> Result<(), StoreError> {
        let _turn = self.reading.lock().await;
        let device = store.device(name).await?;
        let mut members = self.members.write().unwrap_or_else(PoisonError::into_inner);
        members.retain(|_, member| member.name != *name);
        members.extend(device.as_ref().and_then(member));
        Ok(())
    }

    /// The accepted device with this key.
    pub(crate) fn member(&self, key: &Digest) -> Option<Member> {
        self.members.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// How many accepted devices there are.
    pub(crate) fn count(&self) -> usize {
        self.members.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Notes that a device was heard of.
    pub(crate) fn seen(&self, name: &DeviceName, now: Timestamp) {
        lock(&self.seen).insert(name.clone(), now);
    }

    /// When a device was heard of last, if that is not yet in the records.
    pub(crate) fn last_seen(&self, name: &DeviceName) -> Option<Timestamp> {
        lock(&self.seen).get(name).copied()
    }

    /// Notes that a token was used.
    pub(crate) fn token_used(&self, name: &str, now: Timestamp) {
        lock(&self.used).insert(name.to_owned(), now);
    }

    /// Writes the signs of life to the records.
    pub(crate) async fn flush(&self, store: &Store) -> Result<(), StoreError> {
        // They stay until they are written: readers in between must not see older ones.
        let seen: Vec<(DeviceName, Timestamp)> = lock(&self.seen).clone().into_iter().collect();
        store.devices_seen(&seen).await?;
        {
            let mut kept = lock(&self.seen);
            for (name, at) in &seen {
                if kept.get(name) == Some(at) {
                    kept.remove(name);
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
