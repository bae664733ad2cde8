//! Reports of devices, each counted once, and which packages they showed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use volary_model::{CommitId, DeviceName, StageName};

use crate::db::{ms, parse, time};
use crate::{Store, StoreError};

/// How many reports of a device are kept, of convergences and of health each: a day of health must
/// not push out how the last convergences ended.
const KEEP: i64 = 200;

/// A report with what the records need to know of it.
#[derive(Debug, Clone)]
pub struct NewReport {
    /// The device.
    pub device: DeviceName,
    /// The report's id, unique for the device.
    pub id: String,
    /// The stage that the device says it follows; `None`, if there is no such stage, keeps the old.
    pub stage: Option<StageName>,
    /// The commit it converged to last.
    pub good_commit: Option<CommitId>,
    /// The suite it has, if the report tells.
    pub suite: Option<String>,
    /// The convergence it is about, JSON, if it is about one.
    pub convergence: Option<String>,
    /// The commit of that convergence: its report gives the device's turn back.
    pub converged: Option<CommitId>,
    /// The packages that it has: name → version.
    pub packages: BTreeMap<String, String>,
    /// Its operating system, if the report tells.
    pub os: Option<String>,
    /// The report, JSON as it came.
    pub body: String,
}

/// A report as it was kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReport {
    /// When the server got it.
    pub received_at: Timestamp,
    /// The report, JSON as it came.
    pub body: String,
}

/// A package version on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sighting {
    /// The device.
    pub device: DeviceName,
    /// When the version was reported first.
    pub first_seen: Timestamp,
}

impl Store {
    /// Keeps a report, in one step with all that follows from it. Returns false if the same id
    /// was there already; then nothing changes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn add_report(&self, report: &NewReport, now: Timestamp) -> Result<bool, StoreError> {
        let added = self.add_reports(std::slice::from_ref(report), now).await?;
        Ok(added.first() == Some(&true))
    }

    /// Keeps reports in their order, all in one step with all that follows from them: a device that
    /// was away for a week costs one write to the disk and not a thousand. Says of each whether it
    /// is new.
    ///
    /// # Errors
    /// [`StoreError`]; then none of them is kept.
    pub async fn add_reports(&self, reports: &[NewReport], now: Timestamp) -> Result<Vec<bool>, StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let mut added = Vec::with_capacity(reports.len());
        let mut sighted = None;
        let mut grown = BTreeSet::new();
        for report in reports {
            let is_new = add(&mut tx, report, now, &mut sighted).await?;
            if is_new {
                grown.insert((&report.device, result(report)));
            }
            added.push(is_new);
        }
        for (device, result) in grown {
            prune(&mut tx, device, result).await?;
        }
        tx.commit().await?;
        Ok(added)
    }

    /// Replaces the report of a device's newest convergence, since more came to be known of it. It stays
    /// in its place among the others.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn amend_report(&self, report: &NewReport) -> Result<(), StoreError> {
        let mut tx = self.writer.begin_with("BEGIN IMMEDIATE").await?;
        let old: Option<String> =
            sqlx::query_scalar("SELECT body FROM reports WHERE device = $1 AND id = $2")
                .bind(report.device.as_str())
                .bind(&report.id)
                .fetch_optional(&mut *tx)
                .await?;
        let Some(old) = old else { return Ok(()) };
        sqlx::query("UPDATE reports SET body = $3 WHERE device = $1 AND id = $2")
            .bind(report.device.as_str())
            .bind(&report.id)
            .bind(&report.body)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "UPDATE devices SET convergence = COALESCE($4, convergence),
                 report = CASE WHEN report = $2 THEN $3 ELSE report END
             WHERE name = $1",
        )
        .bind(report.device.as_str())
        .bind(&old)
        .bind(&report.body)
        .bind(&report.convergence)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The newest `limit` reports of a device, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn reports(&self, device: &DeviceName, limit: u32) -> Result<Vec<StoredReport>, StoreError> {
        self.newest(device, 0, limit).await
    }

    /// The newest `limit` reports of convergences of a device, newest first.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn results(&self, device: &DeviceName, limit: u32) -> Result<Vec<StoredReport>, StoreError> {
        self.newest(device, 1, limit).await
    }

    async fn newest(
        &self,
        device: &DeviceName,
        least: i64,
        limit: u32,
    ) -> Result<Vec<StoredReport>, StoreError> {
        let rows: Vec<(i64, String)> = sqlx::query_as(
            "SELECT received_at, body FROM reports WHERE device = $1 AND result >= $3
             ORDER BY seq DESC LIMIT $2",
        )
        .bind(device.as_str())
        .bind(i64::from(limit))
        .bind(least)
        .fetch_all(&self.reader)
        .await?;
        Ok(rows
            .into_iter()
            .map(|(received_at, body)| StoredReport { received_at: time(received_at), body })
            .collect())
    }

    /// The devices whose newest report has this version of a package.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn devices_with(&self, package: &str, version: &str) -> Result<Vec<Sighting>, StoreError> {
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT device, first_seen FROM sightings
             WHERE package = $1 AND version = $2 AND gone_at IS NULL ORDER BY first_seen, device",
        )
        .bind(package)
        .bind(version)
        .fetch_all(&self.reader)
        .await?;
        rows.into_iter()
            .map(|(device, first_seen)| {
                Ok(Sighting { device: parse("device name", &device)?, first_seen: time(first_seen) })
            })
            .collect()
    }
}

/// A device with the packages that it was noted to have last.
type Sighted<'a> = Option<(&'a DeviceName, &'a BTreeMap<String, String>)>;

/// What stands in the column `result`.
fn result(report: &NewReport) -> i64 {
    i64::from(report.convergence.is_some())
}

/// Keeps one report. False if the same id was there already; then nothing changes.
async fn add<'a>(
    tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
    report: &'a NewReport,
    now: Timestamp,
    sighted: &mut Sighted<'a>,
) -> Result<bool, StoreError> {
    let added = sqlx::query(
        "INSERT INTO reports (device, id, received_at, body, result) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (device, id) DO NOTHING",
    )
    .bind(report.device.as_str())
    .bind(&report.id)
    .bind(ms(now))
    .bind(&report.body)
    .bind(result(report))
    .execute(&mut **tx)
    .await?;
    if added.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(
        "UPDATE devices SET report = $2, reported_at = $3, seen_at = $3, stage = COALESCE($4, stage),
             os = COALESCE($7, os),
             since = CASE WHEN COALESCE(good_commit, '') = COALESCE($5, '')
                 AND COALESCE(suite, '') = COALESCE($6, suite, '') THEN since ELSE $3 END,
             good_commit = $5, suite = COALESCE($6, suite),
             convergence = COALESCE($8, convergence)
         WHERE name = $1",
    )
    .bind(report.device.as_str())
    .bind(&report.body)
    .bind(ms(now))
    .bind(report.stage.as_ref().map(StageName::as_str))
    .bind(report.good_commit.as_ref().map(CommitId::as_str))
    .bind(&report.suite)
    .bind(&report.os)
    .bind(&report.convergence)
    .execute(&mut **tx)
    .await?;
    // A device that was away sends many with the same packages.
    if *sighted != Some((&report.device, &report.packages)) {
        sight(tx, report, now).await?;
        *sighted = Some((&report.device, &report.packages));
    }
    if let Some(commit) = &report.converged {
        sqlx::query("DELETE FROM turns WHERE device = $1 AND commit_id = $2 AND after < $3")
            .bind(report.device.as_str())
            .bind(commit.as_str())
            .bind(&report.id)
            .execute(&mut **tx)
            .await?;
    }
    Ok(true)
}

/// Removes the oldest reports of a device.
async fn prune(
    tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
    device: &DeviceName,
    result: i64,
) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM reports WHERE device = $1 AND result = $3 AND seq <= (SELECT seq FROM reports
         WHERE device = $1 AND result = $3 ORDER BY seq DESC LIMIT 1 OFFSET $2)",
    )
    .bind(device.as_str())
    .bind(KEEP)
    .bind(result)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Notes which package versions a device has come to have and has no more.
async fn sight(
    tx: &mut sqlx::Transaction<'_, sqlx::Sqlite>,
    report: &NewReport,
    now: Timestamp,
) -> Result<(), StoreError> {
    let before: Vec<(String, String)> =
        sqlx::query_as("SELECT package, version FROM sightings WHERE device = $1 AND gone_at IS NULL")
            .bind(report.device.as_str())
            .fetch_all(&mut **tx)
            .await?;
    let before: BTreeSet<(String, String)> = before.into_iter().collect();
    let after: BTreeSet<(String, String)> = report.packages.clone().into_iter().collect();
    for (package, version) in before.difference(&after) {
        sqlx::query("UPDATE sightings SET gone_at = $4 WHERE device = $1 AND package = $2 AND version = $3")
            .bind(report.device.as_str())
            .bind(package)
            .bind(version)
            .bind(ms(now))
            .execute(&mut **tx)
            .await?;
    }
    for (package, version) in after.difference(&before) {
        sqlx::query(
            "INSERT INTO sightings (device, package, version, first_seen) VALUES ($1, $2, $3, $4)
             ON CONFLICT (device, package, version) DO UPDATE SET gone_at = NULL",
        )
        .bind(report.device.as_str())
        .bind(package)
        .bind(version)
        .bind(ms(now))
        .execute(&mut **tx)
        .await?;
    }
    Ok(())
}
