//! The page of a release: its revisions, and what it changes against the release before it.

use std::sync::Arc;

use askama::Template;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use volary_api::v1::archive::{Difference, Release};
use volary_archive::Error;
use volary_model::{ReleaseName, ReleaseRef, Suite};
use volary_plan::text;

use super::promotion::{PackageRow, SHOWN, SourceRow, package, sources};
use super::view::{ago, bytes};
use super::{Head, page};
use crate::app::App;
use crate::http::input::{blocking, name};

#[derive(Template)]
#[template(path = "release.html")]
struct ReleasePage {
    head: Head,
    name: ReleaseName,
    frozen: bool,
    /// Whether it takes picks, in words.
    state: String,
    protected: String,
    revisions: Vec<RevisionRow>,
    /// The suite that it is compared with; empty for the first release.
    before: String,
    packages: Vec<PackageRow>,
    more_packages: usize,
    downloads: Vec<String>,
    sources: Vec<SourceRow>,
}

struct RevisionRow {
    number: String,
    when: String,
    packages: String,
    digest: String,
    picks: Vec<String>,
}

/// `GET /releases/{name}`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
    Path(release): Path<String>,
) -> Response {
    page(&app, &headers, &uri, async |_, head| {
        let release: ReleaseName = name(&release)?;
        let depot = app.archive.clone();
        let found = blocking(move || -> Result<_, Error> {
            let release = depot.release(&release)?;
            let before = before(&release, &depot.releases()?);
            let suites = before.zip(newest(&release));
            let difference = suites.map(|(before, own)| depot.difference(&before, &own)).transpose()?;
            Ok((release, difference))
        });
        let (release, difference) = found.await??;
        Ok(view(head, release, difference.as_ref()).render())
    })
    .await
}

/// The newest revision of a release.
fn newest(release: &Release) -> Option<Suite> {
    let revision = release.revisions.last()?.revision;
    Some(Suite::Release(ReleaseRef { name: release.name.clone(), revision }))
}

/// The newest revision of the release that was cut last before this one.
fn before(release: &Release, all: &[Release]) -> Option<Suite> {
    let cut = |release: &Release| release.revisions.first().map(|first| first.created_at);
    let own = cut(release)?;
    let earlier = all.iter().filter(|other| other.name != release.name);
    let earlier = earlier.filter_map(|other| Some((cut(other)?, other))).filter(|(at, _)| *at <= own);
    newest(earlier.max_by_key(|(at, _)| *at)?.1)
}

fn view(head: Head, release: Release, difference: Option<&Difference>) -> ReleasePage {
    let now = volary_host::now();
    let packages = difference.map(|difference| difference.packages.as_slice()).unwrap_or_default();
    let revisions = release.revisions.iter().rev().map(|revision| RevisionRow {
        number: revision.revision.to_string(),
        when: format!("{} ago", ago(revision.created_at, now)),
        packages: text::count(usize::try_from(revision.packages).unwrap_or(usize::MAX), "package"),
        digest: revision.digest.hex(),
        picks: revision.picks.clone(),
    });
    ReleasePage {
        head,
        frozen: release.frozen_at.is_some(),
        state: match release.frozen_at {
            Some(at) => format!("frozen {} ago", ago(at, now)),
            None => "takes picks".to_owned(),
        },
        protected: release
            .protection
            .as_ref()
            .map(|protection| format!("Protected by {}: {}", protection.by, protection.reason))
            .unwrap_or_default(),
        revisions: revisions.collect(),
        before: difference.map(|difference| difference.from.clone()).unwrap_or_default(),
        packages: packages.iter().take(SHOWN).map(package).collect(),
        more_packages: packages.len().saturating_sub(SHOWN),
        downloads: difference.map(downloads).unwrap_or_default(),
        sources: sources(difference),
        name: release.name,
    }
}

/// What a device that has all of the packages fetches, for each architecture.
fn downloads(difference: &Difference) -> Vec<String> {
    let of = |download: &volary_api::v1::archive::Download| {
        let packages = text::count(usize::try_from(download.packages).unwrap_or(usize::MAX), "package");
        let by = bytes(download.growth.unsigned_abs());
        let takes = match download.growth {
            0 => "takes up as much as before".to_owned(),
            1.. => format!("takes up {by} more"),
            _ => format!("takes up {by} less"),
        };
        format!("{}: {} in {packages}, {takes}", download.architecture, bytes(download.bytes))
    };
    difference.downloads.iter().map(of).collect()
}
