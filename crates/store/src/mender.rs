//! Devices whose client is Mender's, and the images that they were sent. What follows from either is
//! decided elsewhere.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use volary_model::{CommitId, DeviceName, DeviceType, Digest, ImageName, StageName};

use crate::db::{ms, parse, time};
use crate::image::{hex, json, text};
use crate::{Store, StoreError};

/// How many deployments of a device are kept.
const KEEP: i64 = 50;

/// What is known of a Mender client beside the device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MenderDevice {
    /// Its identity data, JSON as it came.
    pub identity: String,
    /// What it provided when it asked for an update last.
    pub provides: BTreeMap<String, String>,
    /// Its inventory: attribute → values.
    pub inventory: BTreeMap<String, Vec<String>>,
    /// Why it is sent no update, if so.
    pub obstacle: String,
}

/// Where a deployment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeploymentState {
    /// The device was told of it.
    Pending,
    /// It fetches the artifact.
    Downloading,
    /// It installs, or makes up its mind after the reboot.
    Installing,
    /// It boots into the new slot.
    Rebooting,
    /// It runs the image.
    Success,
    /// It does not, and is where it was.
    Failure,
    /// It had the image already.
    AlreadyInstalled,
    /// It was called back.
    Aborted,
}

impl DeploymentState {
    const ALL: [Self; 8] = [
        Self::Pending,
        Self::Downloading,
        Self::Installing,
        Self::Rebooting,
        Self::Success,
        Self::Failure,
        Self::AlreadyInstalled,
        Self::Aborted,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Downloading => "downloading",
            Self::Installing => "installing",
            Self::Rebooting => "rebooting",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::AlreadyInstalled => "already-installed",
            Self::Aborted => "aborted",
        }
    }

    /// True if nothing more is to come.
    pub const fn is_over(self) -> bool {
        match self {
            Self::Pending | Self::Downloading | Self::Installing | Self::Rebooting => false,
            Self::Success | Self::Failure | Self::AlreadyInstalled | Self::Aborted => true,
        }
    }
}

impl fmt::Display for DeploymentState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DeploymentState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// An image that a device was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deployment {
    /// Its id, as Mender's clients know it.
    pub id: String,
    /// The device's key.
    pub device: Digest,
    /// The device's stage.
    pub stage: StageName,
    /// The commit whose lock pins the image.
    pub commit: CommitId,
    /// The device's type.
    pub device_type: DeviceType,
    /// The image.
    pub name: ImageName,
    /// The pinned artifact.
    pub artifact: Digest,
    /// The artifact that it is sent: the pinned one, or another that leads to the same.
    pub served: Digest,
    /// What the device provided when it began.
    pub provides: BTreeMap<String, String>,
    /// Where it stands.
    pub state: DeploymentState,
    /// The client's words for that.
    pub substate: String,
    /// How far it came: never a state in which it is over.
    pub furthest: DeploymentState,
    /// True if the image is not tried again on this device before somebody says so.
    pub held: bool,
    /// True if somebody said that how it ended counts no more.
    pub released: bool,
    /// When it began.
    pub created_at: Timestamp,
    /// When it was heard of last.
    pub changed_at: Timestamp,
    /// When it was over.
    pub finished_at: Option<Timestamp>,
    /// The client's log, if it sent one.
    pub log: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: String,
    fingerprint: String,
    stage: String,
    commit_id: String,
    device_type: String,
    name: String,
    artifact: String,
    served: String,
    provides: String,
    state: String,
    substate: String,
    furthest: String,
    held: i64,
    released: i64,
    created_at: i64,
    changed_at: i64,
    finished_at: Option<i64>,
    log: Option<String>,
}

impl TryFrom<Row> for Deployment {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            id: row.id,
            device: hex("fingerprint", &row.fingerprint)?,
            stage: parse("stage name", &row.stage)?,
            commit: parse("commit", &row.commit_id)?,
            device_type: parse("device type", &row.device_type)?,
            name: parse("image name", &row.name)?,
            artifact: hex("artifact", &row.artifact)?,
            served: hex("artifact", &row.served)?,
            provides: json("list of provides", &row.provides)?,
            state: parse("state of a deployment", &row.state)?,
            substate: row.substate,
            furthest: parse("state of a deployment", &row.furthest)?,
            held: row.held != 0,
            released: row.released != 0,
            created_at: time(row.created_at),
            changed_at: time(row.changed_at),
            finished_at: row.finished_at.map(time),
            log: row.log,
        })
    }
}

impl Store {
    /// Notes that a device's client is Mender's.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn mender_seen(&self, device: &Digest, identity: &str) -> Result<(), StoreError> {
        sqlx::query(
            "INSERT INTO mender_devices (fingerprint, identity) VALUES ($1, $2)
             ON CONFLICT (fingerprint) DO UPDATE SET identity = excluded.identity
             WHERE identity <> excluded.identity",
        )
        .bind(device.hex())
        .bind(identity)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// What is known of a Mender client.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn mender_device(&self, device: &Digest) -> Result<Option<MenderDevice>, StoreError> {
        let row: Option<(String, String, String, String)> = sqlx::query_as(
            "SELECT identity, provides, inventory, obstacle FROM mender_devices WHERE fingerprint = $1",
        )
        .bind(device.hex())
        .fetch_optional(&self.reader)
        .await?;
        row.map(|(identity, provides, inventory, obstacle)| {
            Ok(MenderDevice {
                identity,
                provides: json("list of provides", &provides)?,
                inventory: json("inventory", &inventory)?,
                obstacle,
            })
        })
        .transpose()
    }

    /// Replaces what a device provides and why it is sent no update.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_mender_provides(
        &self,
        device: &Digest,
        provides: &BTreeMap<String, String>,
        obstacle: &str,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE mender_devices SET provides = $2, obstacle = $3 WHERE fingerprint = $1")
            .bind(device.hex())
            .bind(text(provides))
            .bind(obstacle)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Replaces a device's inventory.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_mender_inventory(
        &self,
        device: &Digest,
        inventory: &BTreeMap<String, Vec<String>>,
    ) -> Result<(), StoreError> {
        sqlx::query("UPDATE mender_devices SET inventory = $2 WHERE fingerprint = $1")
            .bind(device.hex())
            .bind(text(inventory))
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// The deployments of a device, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn deployments(&self, device: &Digest) -> Result<Vec<Deployment>, StoreError> {
        let rows: Vec<Row> =
            sqlx::query_as("SELECT * FROM mender_deployments WHERE fingerprint = $1 ORDER BY seq DESC")
                .bind(device.hex())
                .fetch_all(&self.reader)
                .await?;
        rows.into_iter().map(Deployment::try_from).collect()
    }

    /// Adds a deployment, and forgets the oldest ones of the device.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_deployment(&self, deployment: &Deployment) -> Result<(), StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        sqlx::query(
            "INSERT INTO mender_deployments (id, fingerprint, stage, commit_id, device_type, name, artifact,
                 served, provides, state, substate, furthest, held, created_at, changed_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)",
        )
        .bind(&deployment.id)
        .bind(deployment.device.hex())
        .bind(deployment.stage.as_str())
        .bind(deployment.commit.as_str())
        .bind(deployment.device_type.as_str())
        .bind(deployment.name.as_str())
        .bind(deployment.artifact.hex())
        .bind(deployment.served.hex())
        .bind(text(&deployment.provides))
        .bind(deployment.state.as_str())
        .bind(&deployment.substate)
        .bind(deployment.furthest.as_str())
        .bind(i64::from(deployment.held))
        .bind(ms(deployment.created_at))
        .bind(ms(deployment.changed_at))
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "DELETE FROM mender_deployments WHERE fingerprint = $1 AND seq <= (SELECT seq FROM
             mender_deployments WHERE fingerprint = $1 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
        )
        .bind(deployment.device.hex())
        .bind(KEEP)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Replaces what changes of a deployment: where it stands, and its log.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn set_deployment(&self, deployment: &Deployment) -> Result<(), StoreError> {
        sqlx::query(
            "UPDATE mender_deployments SET state = $2, substate = $3, furthest = $4, held = $5,
                 changed_at = $6, finished_at = $7, log = $8
             WHERE id = $1",
        )
        .bind(&deployment.id)
        .bind(deployment.state.as_str())
        .bind(&deployment.substate)
        .bind(deployment.furthest.as_str())
        .bind(i64::from(deployment.held))
        .bind(ms(deployment.changed_at))
        .bind(deployment.finished_at.map(ms))
        .bind(&deployment.log)
        .execute(&self.writer)
        .await?;
        Ok(())
    }

    /// Lets every image be tried again on a device, at once. Returns how many deployments that concerns.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn release_deployments(&self, device: &Digest) -> Result<u64, StoreError> {
        let done = sqlx::query(
            "UPDATE mender_deployments SET held = 0, released = 1
             WHERE fingerprint = $1 AND released = 0 AND state IN ('failure', 'aborted')",
        )
        .bind(device.hex())
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected())
    }

    /// Gives a device that waits another name. False if the name is taken, or if it does not wait.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn rename_waiting(&self, name: &DeviceName, to: &DeviceName) -> Result<bool, StoreError> {
        let done = sqlx::query(
            "UPDATE devices SET name = $2 WHERE name = $1 AND state = 'waiting'
             AND NOT EXISTS (SELECT 1 FROM devices WHERE name = $2)",
        )
        .bind(name.as_str())
        .bind(to.as_str())
        .execute(&self.writer)
        .await?;
        Ok(done.rows_affected() > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Client, DeviceState, Enrolling, Enrolment};

    #[tokio::test]
    async fn a_device_and_its_deployments_survive_and_go_together() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("db")).await.unwrap();
        let device = Digest::from_bytes([1; 32]);
        let enrolling = Enrolling {
            name: "mender-1".parse().unwrap(),
            fingerprint: device,
            csr: String::new(),
            architecture: "unknown".parse().unwrap(),
            os: "x".into(),
            secret: None,
            client: Client::Mender,
        };
        let at = |second| Timestamp::from_second(second).unwrap();
        let enrolled = store.enroll(&enrolling, at(1)).await.unwrap();
        assert!(
            matches!(enrolled, Enrolment::Known { device, changed: true } if device.client == Client::Mender)
        );
        store.mender_seen(&device, "{}").await.unwrap();
        let (old, new): (DeviceName, DeviceName) = ("mender-1".parse().unwrap(), "gate-7".parse().unwrap());
        assert!(store.rename_waiting(&old, &new).await.unwrap());
        assert!(!store.rename_waiting(&old, &new).await.unwrap());
        store.accept_device(&new, &"canary".parse().unwrap()).await.unwrap();
        assert!(!store.rename_waiting(&new, &old).await.unwrap());
        let provides = BTreeMap::from([("artifact_name".to_owned(), "a".to_owned())]);
        store.set_mender_provides(&device, &provides, "why").await.unwrap();
        let inventory = BTreeMap::from([("mac".to_owned(), vec!["1".to_owned(), "2".to_owned()])]);
        store.set_mender_inventory(&device, &inventory).await.unwrap();
        store.mender_seen(&device, "{\"mac\":1}").await.unwrap();
        let known = store.mender_device(&device).await.unwrap().unwrap();
        let identity = "{\"mac\":1}".to_owned();
        let expected =
            MenderDevice { identity, provides: provides.clone(), inventory, obstacle: "why".into() };
        assert_eq!(known, expected);

        let mut deployment = Deployment {
            id: String::new(),
            device,
            stage: "canary".parse().unwrap(),
            commit: "a".repeat(40).parse().unwrap(),
            device_type: "pi".parse().unwrap(),
            name: "2026.1".parse().unwrap(),
            artifact: Digest::from_bytes([2; 32]),
            served: Digest::from_bytes([3; 32]),
            provides,
            state: DeploymentState::Pending,
            substate: String::new(),
            furthest: DeploymentState::Pending,
            held: false,
            released: false,
            created_at: at(5),
            changed_at: at(5),
            finished_at: None,
            log: None,
        };
        for number in 0..60 {
            deployment.id = number.to_string();
            store.add_deployment(&deployment).await.unwrap();
        }
        deployment.state = DeploymentState::Failure;
        deployment.furthest = DeploymentState::Rebooting;
        (deployment.held, deployment.finished_at, deployment.log) = (true, Some(at(9)), Some("log".into()));
        store.set_deployment(&deployment).await.unwrap();
        let known = store.deployments(&device).await.unwrap();
        assert_eq!((known.len(), &known[0]), (50, &deployment));
        assert_eq!(store.release_deployments(&device).await.unwrap(), 1);
        assert_eq!(store.release_deployments(&device).await.unwrap(), 0);
        assert_eq!(store.device(&new).await.unwrap().unwrap().state, DeviceState::Accepted);
        store.remove_device(&new).await.unwrap();
        assert_eq!(store.deployments(&device).await.unwrap(), []);
        assert_eq!(store.mender_device(&device).await.unwrap(), None);
    }
}
