//! A server with a large fleet in its records: made by `volary init`, then filled with devices that have keys,
//! certificates of the server's authority and reports, as if they had been with it for long.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use rcgen::{
    CertificateParams, ExtendedKeyUsagePurpose, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use sha2::{Digest as _, Sha256};
use volary_api::v1::device::{CheckResult, Convergence, Outcome, Report};
use volary_host::Cmd;
use volary_model::{CommitId, DeviceName, StageName};
use volary_store::{NewReport, Store};

/// The stages with their branches, and which share of the devices is in each, in percent.
pub const STAGES: [(&str, &str, usize); 3] =
    [("development", "master", 1), ("canary", "canary", 9), ("production", "production", 90)];

/// Devices whose report comes in one transaction when the records are filled.
const AT_ONCE: usize = 1000;

/// A server's folder with its fleet.
pub struct Fleet {
    pub folder: PathBuf,
    /// `https://…` without a slash at the end.
    pub port: u16,
    pub commits: Commits,
    pub token: String,
}

/// What the stages are at: the last one is a commit behind, so that there is something to promote.
#[derive(Debug, Clone)]
pub struct Commits {
    pub newer: CommitId,
    pub older: CommitId,
}

impl Commits {
    /// That of a device.
    pub fn of(&self, device: usize) -> anyhow::Result<&CommitId> {
        let is_last = stage(device)?.as_str() == STAGES[STAGES.len() - 1].0;
        Ok(if is_last { &self.older } else { &self.newer })
    }
}

/// A device's name.
pub fn name(device: usize) -> anyhow::Result<DeviceName> {
    Ok(format!("device-{device:06}").parse()?)
}

/// The stage of a device.
pub fn stage(device: usize) -> anyhow::Result<StageName> {
    let mut place = device % 100;
    for (stage, _, share) in STAGES {
        if place < share {
            return Ok(stage.parse()?);
        }
        place -= share;
    }
    unreachable!("the shares are 100 percent")
}

impl Fleet {
    /// Makes the server and its devices.
    pub async fn make(volary: &Path, folder: PathBuf, port: u16, devices: usize) -> anyhow::Result<Self> {
        let (home, dir) = (folder.join("home"), folder.join("server"));
        volary_host::create_dir(&home)?;
        let text = dir.display().to_string();
        let number = port.to_string();
        Cmd::new(volary)
            .args(["init", &text, "--fleet", "load", "--host", "127.0.0.1", "--port", &number])
            .args(["--operator", "ada@volary.test"])
            .env("HOME", &home)
            .timeout(Duration::from_secs(60))
            .check()?;
        let commits = push(&dir.join("git/fleet.git"))?;
        let config = dir.join("server.toml");
        let known = volary_host::read_to_string(&config)?;
        volary_host::write_atomic(&config, with_connections(&known, 300_000).as_bytes(), 0o600)?;
        let client = volary_host::read_to_string(&dir.join("client.toml"))?;
        let token = client
            .lines()
            .find_map(|line| line.trim().strip_prefix("token")?.split('"').nth(1).map(str::to_owned))
            .context("client.toml has no token")?;
        let fleet = Self { folder: dir, port, commits, token };
        fleet.fill(devices).await?;
        Ok(fleet)
    }

    async fn fill(&self, devices: usize) -> anyhow::Result<()> {
        let database = self.folder.join("db.sqlite");
        // Makes the tables.
        Store::open(&database).await?.close().await;
        let key = KeyPair::from_pem(&volary_host::read_to_string(&self.folder.join("ca/ca.key"))?)?;
        let authority = volary_host::read_to_string(&self.folder.join("ca/ca.pem"))?;
        let issuer = Issuer::from_ca_cert_pem(&authority, key)?;
        let db = sqlx::SqlitePool::connect(&format!("sqlite:{}", database.display())).await?;
        let mut keys = Vec::new();
        let mut tx = db.begin().await?;
        for device in 0..devices {
            let own = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
            let mut params = CertificateParams::default();
            params.distinguished_name.push(rcgen::DnType::CommonName, name(device)?.as_str());
            params.use_authority_key_identifier_extension = true;
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            let certificate = params.signed_by(&own, &issuer)?;
            let digest: [u8; 32] = Sha256::digest(rcgen::PublicKeyData::subject_public_key_info(&own)).into();
            let fingerprint: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
            sqlx::query(
                "INSERT INTO devices (name, state, fingerprint, stage, csr, certificate, architecture, os,
                                      enrolled_at, client)
                 VALUES ($1, 'accepted', $2, $3, $4, $5, 'amd64', 'Debian GNU/Linux 12 (bookworm)', $6, 'agent')",
            )
            .bind(name(device)?.as_str())
            .bind(fingerprint)
            .bind(stage(device)?.as_str())
            .bind(CertificateParams::default().serialize_request(&own)?.pem()?)
            .bind(certificate.pem())
            .bind(Timestamp::now().as_millisecond() - 86_400_000)
            .execute(&mut *tx)
            .await?;
            for part in [own.serialize_der(), certificate.der().to_vec()] {
                keys.extend(u32::try_from(part.len())?.to_le_bytes());
                keys.extend(part);
            }
        }
        tx.commit().await?;
        db.close().await;
        volary_host::write_atomic(&self.folder.join("devices.keys"), &keys, 0o600)?;
        let store = Store::open(&database).await?;
        let all: Vec<usize> = (0..devices).collect();
        for some in all.chunks(AT_ONCE) {
            let reports: Vec<NewReport> =
                some.iter().map(|device| self.first_report(*device)).collect::<anyhow::Result<_>>()?;
            let added = store.add_reports(&reports, Timestamp::now()).await?;
            ensure!(added.iter().all(|added| *added), "a device had a report before");
        }
        store.close().await;
        Ok(())
    }

    fn first_report(&self, device: usize) -> anyhow::Result<NewReport> {
        let commit = self.commits.of(device)?;
        let mut report = report(device, 0, commit)?;
        let now = Timestamp::now();
        // The first stage of the template follows rolling, the others have no release yet.
        let suite = (report.stage.as_str() == STAGES[0].0).then(|| "rolling".to_owned());
        let convergence = Convergence {
            commit: commit.clone(),
            suite: suite.clone(),
            outcome: Outcome::Good,
            failure: None,
            reverted: None,
            started_at: now,
            ended_at: now,
            changed_tasks: 3,
            packages: BTreeMap::new(),
        };
        report.convergence = Some(convergence.clone());
        Ok(NewReport {
            device: name(device)?,
            id: report.id.clone(),
            stage: Some(report.stage.clone()),
            good_commit: report.good_commit.clone(),
            suite,
            convergence: Some(serde_json::to_string(&convergence)?),
            converged: Some(commit.clone()),
            packages: report.packages.clone(),
            os: None,
            body: serde_json::to_string(&report)?,
        })
    }

    /// Keys and certificates of the devices, as DER.
    pub fn keys(folder: &Path, devices: usize) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let bytes = volary_host::read(&folder.join("devices.keys"))?;
        let mut rest = bytes.as_slice();
        let mut next = || -> anyhow::Result<Vec<u8>> {
            let (length, after) = rest.split_first_chunk::<4>().context("the keys end too early")?;
            let (part, after) = after
                .split_at_checked(u32::from_le_bytes(*length) as usize)
                .context("the keys end too early")?;
            rest = after;
            Ok(part.to_vec())
        };
        (0..devices).map(|_| Ok((next()?, next()?))).collect()
    }
}

/// Adds a commit to the first one, and puts the branches of all stages but the last there.
fn push(repository: &Path) -> anyhow::Result<Commits> {
    let index = repository.join("load.index");
    let git = |args: &[&str]| -> anyhow::Result<String> {
        let git = Cmd::new("git").arg("-C").arg(repository).args([
            "-c",
            "user.name=Ada",
            "-c",
            "user.email=ada@volary.test",
        ]);
        let done =
            git.args(args).env("GIT_INDEX_FILE", &index).stdin("A fleet that is measured.\n").check()?;
        Ok(done.text().trim().to_owned())
    };
    let older = git(&["rev-parse", "master"])?;
    git(&["read-tree", &older])?;
    let blob = git(&["hash-object", "-w", "--stdin"])?;
    git(&["update-index", "--add", "--cacheinfo", &format!("100644,{blob},README.md")])?;
    let tree = git(&["write-tree"])?;
    let newer = git(&["commit-tree", &tree, "-p", &older, "-m", "Say what this is"])?;
    for (number, (_, branch, _)) in STAGES.iter().enumerate() {
        let tip = if number + 1 == STAGES.len() { &older } else { &newer };
        git(&["update-ref", &format!("refs/heads/{branch}"), tip])?;
    }
    volary_host::remove_if_exists(&index)?;
    Ok(Commits { newer: newer.parse()?, older: older.parse()? })
}

/// A `server.toml` with another number of connections.
fn with_connections(config: &str, connections: u32) -> String {
    let others =
        config.lines().filter(|line| !line.starts_with("connections")).map(|line| format!("{line}\n"));
    std::iter::once(format!("connections = {connections}\n")).chain(others).collect()
}

/// What a device reports of its health: 20 packages of the archive, three units, two checks.
pub fn report(device: usize, number: u64, commit: &CommitId) -> anyhow::Result<Report> {
    let mut report: Report = serde_json::from_value(serde_json::json!({
        "id": format!("{number:016}"), "at": Timestamp::now(), "agent": "0.1.0",
        "boot_id": "2f1c7a50-0000-4000-8000-000000000000", "uptime": 86_400 + number, "stage": stage(device)?,
    }))?;
    report.good_commit = Some(commit.clone());
    report.packages =
        (0..20).map(|package| (format!("app-part-{package}"), format!("1.{}.0-1", package % 7))).collect();
    report.packages_total = 412;
    report.units = (0..3).map(|unit| (format!("app-{unit}.service"), "active".to_owned())).collect();
    let check =
        |name: &str| CheckResult { name: name.into(), required: true, passed: true, output: String::new() };
    report.checks = vec![check("dns"), check("app")];
    (report.memory_total, report.memory_available) = (1_025_507_328, 500_000_000 + number);
    (report.disk_total, report.disk_free) = (3_900_000_000, 1_900_000_000);
    let facts =
        [("architecture", "amd64"), ("kernel", "6.1.0-28-amd64"), ("os", "Debian GNU/Linux 12 (bookworm)")];
    report.facts = facts.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    report.suite_age = Some(300);
    Ok(report)
}
