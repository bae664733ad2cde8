//! Devices: who they are, whether they belong to the fleet, and what they reported last.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use volary_model::{Architecture, CommitId, DeviceName, Digest, StageName};

use crate::db::{ms, parse, parse_opt, time};
use crate::{Store, StoreError};

/// Signs of life that are written at once: what else is to be written waits so long.
const SEEN: usize = 2000;

/// Whether a device belongs to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// Somebody must decide.
    Waiting,
    /// It does.
    Accepted,
    /// It does not; its certificate counts no more.
    Rejected,
}

impl DeviceState {
    const ALL: [Self; 3] = [Self::Waiting, Self::Accepted, Self::Rejected];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Accepted => "accepted",
            Self::Rejected => "rejected",
        }
    }
}

impl fmt::Display for DeviceState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for DeviceState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(())
    }
}

/// The program on a device that speaks with the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Client {
    /// Our agent, with a certificate.
    #[default]
    Agent,
    /// Mender's client, with tokens.
    Mender,
}

impl Client {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Mender => "mender",
        }
    }
}

impl FromStr for Client {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Agent, Self::Mender].into_iter().find(|client| client.as_str() == text).ok_or(())
    }
}

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: DeviceName,
    /// Whether it belongs to the fleet.
    pub state: DeviceState,
    /// SHA-256 of its public key (the DER of `SubjectPublicKeyInfo`).
    pub fingerprint: Digest,
    /// Its stage.
    pub stage: Option<StageName>,
    /// The PEM signing request that it sent.
    pub csr: String,
    /// The PEM certificate that it got.
    pub certificate: Option<String>,
    /// What it runs on.
    pub architecture: Architecture,
    /// Its operating system.
    pub os: String,
    /// When it enrolled.
    pub enrolled_at: Timestamp,
    /// When it was heard of last.
    pub seen_at: Option<Timestamp>,
    /// The commit it converged to last.
    pub good_commit: Option<CommitId>,
    /// The suite it has.
    pub suite: Option<String>,
    /// When that commit and suite were reported first, by the server's clock.
    pub since: Option<Timestamp>,
    /// Its newest convergence, JSON as it came.
    pub convergence: Option<String>,
    /// Its newest report, JSON as it came.
    pub report: Option<String>,
    /// What it speaks with.
    pub client: Client,
}

/// Devices changed since some time, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceChanges {
    /// What to ask after next time.
    pub last: i64,
    /// The devices as they are now; `None` for those that were forgotten.
    pub devices: Vec<(DeviceName, Option<Device>)>,
}

/// What is read of a device.
const SELECT: &str = "SELECT devices.*,
    (SELECT at FROM device_seen WHERE device_seen.name = devices.name) AS alive_at FROM devices";

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    state: String,
    fingerprint: String,
    stage: Option<String>,
    csr: String,
    certificate: Option<String>,
    architecture: String,
    os: String,
    enrolled_at: i64,
    seen_at: Option<i64>,
    good_commit: Option<String>,
    suite: Option<String>,
    since: Option<i64>,
    convergence: Option<String>,
    report: Option<String>,
    client: String,
    #[sqlx(default)]
    alive_at: Option<i64>,
}

impl TryFrom<Row> for Device {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            name: parse("device name", &row.name)?,
            state: parse("device state", &row.state)?,
            fingerprint: Digest::from_hex(&row.fingerprint)
                .map_err(|_| StoreError::Corrupt { what: "fingerprint", text: row.fingerprint })?,
            stage: parse_opt("stage name", row.stage.as_deref())?,
            csr: row.csr,
            certificate: row.certificate,
            architecture: parse("architecture", &row.architecture)?,
            os: row.os,
            enrolled_at: time(row.enrolled_at),
            seen_at: row.seen_at.max(row.alive_at).map(time),
            good_commit: parse_opt("commit", row.good_commit.as_deref())?,
            suite: row.suite,
            since: row.since.map(time),
            convergence: row.convergence,
            report: row.report,
            client: parse("client", &row.client)?,
        })
    }
}

/// A device that asks to belong to the fleet.
#[derive(Debug, Clone)]
pub struct Enrolling {
    /// The name it wants.
    pub name: DeviceName,
    /// SHA-256 of its public key.
    pub fingerprint: Digest,
    /// Its PEM signing request.
    pub csr: String,
    /// What it runs on.
    pub architecture: Architecture,
    /// Its operating system.
    pub os: String,
    /// SHA-256 of the join token's secret, if it has one.
    pub secret: Option<Digest>,
    /// What it speaks with.
    pub client: Client,
}

/// Why a join token's secret opens no door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinRefusal {
    /// No token has it.
    Unknown,
    /// Its time is over.
    Expired,
    /// As many devices as may have used it.
    UsedUp,
}

/// Where an enrolment stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrolment {
    /// The device is known under this name and key.
    Known {
        /// The device as it is now.
        device: Box<Device>,
        /// True if this request made it known or accepted.
        changed: bool,
    },
    /// Another key has that name.
    NameTaken {
        /// The other key's fingerprint.
        by: Digest,
    },
    /// That key has another name.
    KeyTaken {
        /// The other name.
        by: DeviceName,
    },
    /// The secret is no good.
    Refused(JoinRefusal),
}

impl Store {
    /// All devices by name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn devices(&self) -> Result<Vec<Device>, StoreError> {
        let sql = format!("{SELECT} ORDER BY name");
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&self.reader).await?;
        rows.into_iter().map(Device::try_from).collect()
    }

    /// At most `limit` of the devices that changed after the change `after`, as they are now. All that a row
    /// says counts, but not when a device was heard of.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn device_changes(&self, after: i64, limit: u32) -> Result<DeviceChanges, StoreError> {
        let changes: Vec<(i64, String)> =
            sqlx::query_as("SELECT seq, name FROM device_changes WHERE seq > $1 ORDER BY seq LIMIT $2")
                .bind(after)
                .bind(i64::from(limit))
                .fetch_all(&self.reader)
                .await?;
        let mut found = DeviceChanges { last: after, devices: Vec::with_capacity(changes.len()) };
        for (seq, name) in changes {
            let name: DeviceName = parse("device name", &name)?;
            // One that changes meanwhile comes again.
            let device = self.device(&name).await?;
            found.devices.push((name, device));
            found.last = seq;
        }
        Ok(found)
    }

    /// How many devices wait to be accepted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn waiting_devices(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM devices WHERE state = 'waiting'")
            .fetch_one(&self.reader)
            .await?;
        Ok(u64::try_from(count).unwrap_or(0))
    }

    /// When each device was heard of last.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn last_seen(&self) -> Result<Vec<(DeviceName, Timestamp)>, StoreError> {
        let rows: Vec<(String, i64)> =
            sqlx::query_as("SELECT name, at FROM device_seen").fetch_all(&self.reader).await?;
        rows.into_iter().map(|(name, at)| Ok((parse("device name", &name)?, time(at)))).collect()
    }

    /// Who the accepted devices are: name, key, stage.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn members(&self) -> Result<Vec<(DeviceName, Digest, StageName)>, StoreError> {
        let rows: Vec<(String, String, String)> = sqlx::query_as(
            "SELECT name, fingerprint, stage FROM devices WHERE state = 'accepted' AND stage IS NOT NULL",
        )
        .fetch_all(&self.reader)
        .await?;
        let member = |(name, key, stage): (String, String, String)| {
            let digest = Digest::from_hex(&key)
                .map_err(|_| StoreError::Corrupt { what: "fingerprint", text: key.clone() })?;
            Ok((parse("device name", &name)?, digest, parse("stage name", &stage)?))
        };
        rows.into_iter().map(member).collect()
    }

    /// One device.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn device(&self, name: &DeviceName) -> Result<Option<Device>, StoreError> {
        let sql = format!("{SELECT} WHERE name = $1");
        let row: Option<Row> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(name.as_str()).fetch_optional(&self.reader).await?;
        row.map(Device::try_from).transpose()
    }

    /// The device with this public key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn device_by_key(&self, fingerprint: &Digest) -> Result<Option<Device>, StoreError> {
        let sql = format!("{SELECT} WHERE fingerprint = $1");
        let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(fingerprint.hex())
            .fetch_optional(&self.reader)
            .await?;
        row.map(Device::try_from).transpose()
    }

    /// Takes an enrolment, in one step: the token's use is counted if and only if the device
    /// became accepted by it. A repetition with the same name and key changes nothing. A good
    /// secret takes the name from another key that only waits under it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn enroll(&self, enrolling: &Enrolling, now: Timestamp) -> Result<Enrolment, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let rows: Vec<Row> = sqlx::query_as("SELECT * FROM devices WHERE name = $1 OR fingerprint = $2")
            .bind(enrolling.name.as_str())
            .bind(enrolling.fingerprint.hex())
            .fetch_all(&mut *tx)
            .await?;
        let known: Vec<Device> = rows.into_iter().map(Device::try_from).collect::<Result<_, _>>()?;
        let (own, others): (Vec<Device>, Vec<Device>) =
            known.into_iter().partition(|device| device.fingerprint == enrolling.fingerprint);
        // Anybody can wait under any name; whoever has a secret that counts comes before them.
        let in_the_way =
            |device: &&Device| device.state != DeviceState::Waiting || enrolling.secret.is_none();
        if let Some(other) = others.iter().find(in_the_way) {
            return Ok(Enrolment::NameTaken { by: other.fingerprint });
        }
        if let Some(other) = own.iter().find(|device| device.name != enrolling.name) {
            return Ok(Enrolment::KeyTaken { by: other.name.clone() });
        }
        let known = own.into_iter().next();
        let decided = known.as_ref().is_some_and(|device| device.state != DeviceState::Waiting);
        let waits_on = known.is_some() && enrolling.secret.is_none();
        if let Some(device) = known.filter(|_| decided || waits_on) {
            return Ok(Enrolment::Known { device: Box::new(device), changed: false });
        }
        let stage = match &enrolling.secret {
            None => None,
            Some(secret) => match use_secret(&mut tx, secret, now).await? {
                Ok(stage) => Some(stage),
                Err(refusal) => return Ok(Enrolment::Refused(refusal)),
            },
        };
        // Only a good secret comes here while another waits under the name.
        sqlx::query("DELETE FROM devices WHERE name = $1 AND fingerprint <> $2 AND state = 'waiting'")
            .bind(enrolling.name.as_str())
            .bind(enrolling.fingerprint.hex())
            .execute(&mut *tx)
            .await?;
        let state = if stage.is_some() { DeviceState::Accepted } else { DeviceState::Waiting };
        let row: Row = sqlx::query_as(
            "INSERT INTO devices (name, state, fingerprint, stage, csr, architecture, os, enrolled_at, client)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
             ON CONFLICT (name) DO UPDATE SET state = excluded.state, stage = excluded.stage
             RETURNING *",
        )
        .bind(enrolling.name.as_str())
        .bind(state.as_str())
        .bind(enrolling.fingerprint.hex())
        .bind(stage)
        .bind(&enrolling.csr)
        .bind(enrolling.architecture.as_str())
        .bind(&enrolling.os)
        .bind(ms(now))
        .bind(enrolling.client.as_str())
        .fetch_one(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(Enrolment::Known { device: Box::new(row.try_into()?), changed: true })
    }

    /// Accepts a device, or moves an accepted one to another stage. Returns false if there is
    /// none of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn accept_device(&self, name: &DeviceName, stage: &StageName) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE devices SET state = 'accepted', stage = $2 WHERE name = $1")
            .bind(name.as_str())
            .bind(stage.as_str())
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Keeps the certificate that a device got.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn device_certified(&self, name: &DeviceName, certificate: &str) -> Result<(), StoreError> {
        sqlx::query("UPDATE devices SET certificate = $2 WHERE name = $1")
            .bind(name.as_str())
            .bind(certificate)
            .execute(&self.writer)
            .await?;
        Ok(())
    }

    /// Rejects a device. Returns false if there is none of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reject_device(&self, name: &DeviceName) -> Result<bool, StoreError> {
        let done = sqlx::query("UPDATE devices SET state = 'rejected', certificate = NULL WHERE name = $1")
            .bind(name.as_str())
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Forgets a device with its reports. Returns false if there is none of that name.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn remove_device(&self, name: &DeviceName) -> Result<bool, StoreError> {
        let done = sqlx::query("DELETE FROM devices WHERE name = $1")
            .bind(name.as_str())
            .execute(&self.writer)
            .await?;
        Ok(done.rows_affected() > 0)
    }

    /// Notes when devices were heard of last; many at once, since each flush of the disk and each statement costs
    /// nearly the same for one and for a thousand.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn devices_seen(&self, seen: &[(DeviceName, Timestamp)]) -> Result<(), StoreError> {
        for some in seen.chunks(SEEN) {
            let some: Vec<(&str, i64)> = some.iter().map(|(name, at)| (name.as_str(), ms(*at))).collect();
            // One that was forgotten meanwhile has no row.
            sqlx::query(
                "INSERT INTO device_seen (name, at)
                 SELECT devices.name, j.value ->> 1 FROM json_each($1) AS j
                 JOIN devices ON devices.name = j.value ->> 0 WHERE true
                 ON CONFLICT (name) DO UPDATE SET at = MAX(at, excluded.at)",
            )
            .bind(serde_json::to_string(&some).expect("names and numbers are JSON"))
            .execute(&self.writer)
            .await?;
        }
        Ok(())
    }

    /// Adds a join token by the hash of its secret.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_join_secret(
        &self,
        hash: &Digest,
        stage: &StageName,
        uses: u32,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        // Old ones are of no use to anybody; this is the one moment when the table grows.
        sqlx::query("DELETE FROM join_secrets WHERE expires_at < $1")
            .bind(ms(now) - 30 * 86_400_000)
            .execute(&self.writer)
            .await?;
        sqlx::query(
            "INSERT INTO join_secrets (hash, stage, uses_left, expires_at, created_at)
             VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(hash.hex())
        .bind(stage.as_str())
        .bind(i64::from(uses))
        .bind(ms(expires_at))
        .bind(ms(now))
        .execute(&self.writer)
        .await?;
        Ok(())
    }
}

/// Takes one use of a join token and returns its stage.
async fn use_secret(
    tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
    secret: &Digest,
    now: Timestamp,
) -> Result<Result<String, JoinRefusal>, StoreError> {
    let row: Option<(String, i64, i64)> =
        sqlx::query_as("SELECT stage, uses_left, expires_at FROM join_secrets WHERE hash = $1")
            .bind(secret.hex())
            .fetch_optional(&mut **tx)
            .await?;
    let Some((stage, uses_left, expires_at)) = row else { return Ok(Err(JoinRefusal::Unknown)) };
    if expires_at <= ms(now) {
        return Ok(Err(JoinRefusal::Expired));
    }
    if uses_left <= 0 {
        return Ok(Err(JoinRefusal::UsedUp));
    }
    sqlx::query("UPDATE join_secrets SET uses_left = uses_left - 1 WHERE hash = $1")
        .bind(secret.hex())
        .execute(&mut **tx)
        .await?;
    Ok(Ok(stage))
}
