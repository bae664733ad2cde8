//! The page of a promotion: what a merge would change, what the gates say, and the button.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use askama::Template;
use axum::extract::{Form, Query, State};
use axum::http::{HeaderMap, Uri};
use axum::response::Response;
use serde::Deserialize;
use volary_api::v1::archive::{Difference, PackageChange};
use volary_api::v1::fleet::{Cve, CveChanges, Promote, Promotion, Role, Say, Spread, Trial, TrialNote};
use volary_fleet::Rules;
use volary_model::{CommitId, DeviceName, StageName, Suite};
use volary_plan::text;

use super::view::bytes;
use super::{Head, clicked, page};
use crate::app::App;
use crate::compared::Differences;
use crate::http::auth::{self, Person};
use crate::http::fleet::merge;
use crate::http::input::{blocking, name};
use crate::http::refusal::Refusal;
use crate::promotion::{self, Facts};

/// How many of each list are shown.
pub(super) const SHOWN: usize = 100;

/// Two stages.
#[derive(Deserialize)]
pub(crate) struct Stages {
    from: String,
    to: String,
}

/// What somebody asked for with the button.
#[derive(Deserialize)]
pub(crate) struct Click {
    from: String,
    to: String,
    commit: String,
    csrf: String,
}

#[derive(Template)]
#[template(path = "promotion.html")]
struct PromotionPage {
    head: Head,
    from: StageName,
    to: StageName,
    commit: CommitId,
    base: String,
    up_to_date: bool,
    suites: String,
    verdicts: Vec<Row>,
    groups: Vec<(String, usize)>,
    devices: usize,
    trial: TrialView,
    packages: Vec<PackageRow>,
    more_packages: usize,
    ships: String,
    sources: Vec<SourceRow>,
    /// What is said about security faults; empty where nobody gave the data.
    cves: String,
    cve_rows: Vec<CveRow>,
    images: Vec<String>,
    reboots: String,
    commits: Vec<String>,
    diff: Vec<DiffLine>,
    diff_cut: bool,
    /// Why the button is not there; empty if it is.
    closed: String,
    command: String,
}

struct Row {
    tone: &'static str,
    word: &'static str,
    name: String,
    text: String,
}

/// What the devices of the stage before did with the commit.
struct TrialView {
    /// Of which devices, in words.
    summary: String,
    tone: &'static str,
    facts: Vec<(&'static str, String)>,
    notes: Vec<NoteRow>,
}

struct NoteRow {
    tone: &'static str,
    word: &'static str,
    what: String,
    count: usize,
    devices: Vec<DeviceName>,
    more: usize,
}

pub(super) struct PackageRow {
    pub(super) name: String,
    pub(super) versions: String,
    pub(super) size: String,
}

pub(super) struct SourceRow {
    pub(super) name: String,
    pub(super) versions: String,
    pub(super) entries: Vec<String>,
}

struct CveRow {
    tone: &'static str,
    word: &'static str,
    id: String,
    source: String,
    urgency: String,
}

struct DiffLine {
    tone: &'static str,
    text: String,
}

/// `GET /promotion?from=A&to=B`.
pub(crate) async fn show(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    uri: Uri,
    Query(stages): Query<Stages>,
) -> Response {
    page(&app, &headers, &uri, async |person, head| {
        let (from, to): (StageName, StageName) = (name(&stages.from)?, name(&stages.to)?);
        Ok(collect(&app, person, from, to, head).await?.render())
    })
    .await
}

/// `POST /promotion`: the button.
pub(crate) async fn click(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    Form(click): Form<Click>,
) -> Response {
    let merged = async {
        let person = auth::person_who_clicked(&app, &headers, &click.csrf).await?;
        person.must_be(Role::ReleaseManager)?;
        let asked = Promote { from: name(&click.from)?, to: name(&click.to)?, commit: name(&click.commit)? };
        merge(&app, &person, asked).await
    };
    clicked(&app, "/", merged.await)
}

async fn collect(
    app: &Arc<App>,
    person: Person,
    from: StageName,
    to: StageName,
    head: Head,
) -> Result<PromotionPage, Refusal> {
    crate::reconcile::stages(app.clone()).await.map_err(Refusal::broken)?;
    let facts = Facts::gather_lately(app).await?;
    let groups = groups(&facts, &to);
    let (depot, stages) = (app.archive.clone(), (from, to));
    let gathered = blocking(move || -> Result<_, Refusal> {
        let (from, to) = stages;
        let found = promotion::preview(&facts, &from, &to)?;
        let suite = |text: &Option<String>| text.as_ref().and_then(|text| text.parse::<Suite>().ok());
        let difference = match (suite(&found.suite_before), suite(&found.suite_after)) {
            (Some(before), Some(after)) if before != after => Some(depot.difference(&before, &after)?),
            _ => None,
        };
        let differences = facts.differences(&found)?;
        let (repository, _) = facts.repository()?;
        let merges = found.base.as_ref().is_some_and(|base| {
            Rules::at(&repository, base)
                .is_ok_and(|rules| rules.config.promote_of(&to) != volary_fleet::Promote::People)
        });
        Ok((found, difference, differences, merges))
    });
    let (found, difference, differences, merges) = gathered.await??;
    Ok(view(&person, Gathered { found, difference, differences, merges, groups }, head))
}

struct Gathered {
    found: Promotion,
    difference: Option<Difference>,
    differences: Arc<Differences>,
    /// True if the server may merge.
    merges: bool,
    groups: Vec<(String, usize)>,
}

fn view(person: &Person, gathered: Gathered, head: Head) -> PromotionPage {
    let Gathered { found, difference, differences, merges, groups } = gathered;
    let (from, to) = (found.from.clone(), found.to.clone());
    let command = format!("volary promote --from {from} --to {to}");
    let open = found.verdicts.iter().all(|verdict| verdict.say == Say::Go);
    let closed = if found.up_to_date {
        format!("{to} has everything of {from}.")
    } else if !open {
        "Not every gate says go.".to_owned()
    } else if !merges {
        "Only people merge into this stage, with a signature of their own.".to_owned()
    } else if !person.may(Role::ReleaseManager) {
        "A release manager merges.".to_owned()
    } else {
        String::new()
    };
    let reboots = reboots(&found);
    PromotionPage {
        head,
        base: found.base.as_ref().map_or("nothing", |base| base.short()).to_owned(),
        up_to_date: found.up_to_date,
        suites: suites(&found),
        verdicts: found.verdicts.iter().map(row).collect(),
        devices: found.device_count,
        trial: trial(&found.trial),
        groups,
        more_packages: found.packages.len().saturating_sub(SHOWN),
        packages: found.packages.iter().take(SHOWN).map(package).collect(),
        ships: ships(difference.as_ref(), &found),
        sources: sources(difference.as_ref()),
        cves: found.cves.as_ref().map(cve_text).unwrap_or_default(),
        cve_rows: found.cves.iter().flat_map(cve_rows).take(SHOWN).collect(),
        images: found
            .images
            .iter()
            .map(|image| {
                let name = |name: &Option<volary_model::ImageName>| {
                    name.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string)
                };
                format!("{}: {} to {}", image.device_type, name(&image.from), name(&image.to))
            })
            .collect(),
        reboots,
        commits: found.commits.into_iter().take(SHOWN).collect(),
        diff: differences.diff.0.lines().map(diff_line).collect(),
        diff_cut: differences.diff.1,
        closed,
        command,
        commit: found.commit,
        from,
        to,
    }
}

fn row(verdict: &volary_api::v1::fleet::Verdict) -> Row {
    let (tone, word) = match verdict.say {
        Say::Go => ("good", "go"),
        Say::Ask => ("warn", "ask"),
        Say::Stop => ("bad", "stop"),
    };
    Row { tone, word, name: verdict.gate.clone(), text: verdict.reason.clone() }
}

fn trial(found: &Trial) -> TrialView {
    let devices = text::count(found.devices, "device");
    let rest = found.devices.saturating_sub(found.good + found.failed);
    let spread = |what, spread: Option<Spread>, word: &dyn Fn(u64) -> String| {
        spread.map(|Spread { least, median, most }| {
            (what, format!("{}, from {} to {}", word(median), word(least), word(most)))
        })
    };
    let number = |number: u64| number.to_string();
    let seconds = |seconds: u64| text::duration(Duration::from_secs(seconds));
    let looked = (found.looked > 0).then(|| {
        (
            "differs since",
            format!("on {} of {} that looked", found.drifted, text::count(found.looked, "device")),
        )
    });
    let facts = [
        spread("changed tasks", found.changed_tasks, &number),
        spread("changed packages", found.changed_packages, &number),
        spread("took", found.seconds, &seconds),
        looked,
    ];
    let note = |tone, word| {
        move |note: &TrialNote| NoteRow {
            tone,
            word,
            what: note.what.clone(),
            count: note.count,
            devices: note.devices.clone(),
            more: note.count.saturating_sub(note.devices.len()),
        }
    };
    let failed = found.failures.iter().map(note("bad", "failed"));
    let drifted = found.drift.iter().map(note("warn", "differs"));
    TrialView {
        summary: format!("{} of {devices} good, {} failed, {rest} not there", found.good, found.failed),
        tone: match (found.failed, found.good) {
            (0, 0) => "warn",
            (0, _) => "good",
            _ => "bad",
        },
        facts: facts.into_iter().flatten().collect(),
        notes: failed.chain(drifted).collect(),
    }
}

fn suites(found: &Promotion) -> String {
    let word = |suite: &Option<String>| suite.clone().unwrap_or_else(|| "no release".to_owned());
    match found.suite_before == found.suite_after {
        true if found.suite_after.is_none() => "There is no release before or after".to_owned(),
        true => format!("{} stays", word(&found.suite_after)),
        false => format!("{} to {}", word(&found.suite_before), word(&found.suite_after)),
    }
}

pub(super) fn package(change: &PackageChange) -> PackageRow {
    let version = |version: &Option<String>, none: &str| version.clone().unwrap_or_else(|| none.to_owned());
    PackageRow {
        name: format!("{} ({})", change.name, change.architecture),
        versions: format!("{} to {}", version(&change.from, "new"), version(&change.to, "gone")),
        size: if change.to.is_some() { bytes(change.size) } else { String::new() },
    }
}

/// What a device of each architecture fetches.
fn ships(difference: Option<&Difference>, found: &Promotion) -> String {
    let mut parts: Vec<String> = difference
        .iter()
        .flat_map(|difference| &difference.downloads)
        .map(|download| {
            let packages = text::count(usize::try_from(download.packages).unwrap_or(usize::MAX), "package");
            format!("{} in {packages} ({})", bytes(download.bytes), download.architecture)
        })
        .collect();
    let images: u64 = found.images.iter().map(|image| image.size).sum();
    if images > 0 {
        parts.push(format!("images of {} at most, less where only blocks differ", bytes(images)));
    }
    if parts.is_empty() { "nothing but configuration".to_owned() } else { parts.join(", ") }
}

/// Packages after whose change a device runs the old one until it boots.
fn reboots(found: &Promotion) -> String {
    let kernels: Vec<String> = found
        .packages
        .iter()
        .filter(|change| change.to.is_some())
        .filter(|change| {
            let name = change.name.as_str();
            ["linux-image", "linux-base", "raspberrypi-kernel", "systemd-boot"]
                .iter()
                .any(|start| name.starts_with(start))
        })
        .map(|change| change.name.to_string())
        .collect();
    match (found.images.is_empty(), kernels.is_empty()) {
        (false, _) => "one, into the other slot, for each device that takes an image".to_owned(),
        (true, false) => format!("none by itself; {} counts after the next one", text::some(&kernels, 3)),
        (true, true) => "none".to_owned(),
    }
}

pub(super) fn sources(difference: Option<&Difference>) -> Vec<SourceRow> {
    let sources = difference.iter().flat_map(|difference| &difference.sources);
    sources
        .take(SHOWN)
        .map(|source| SourceRow {
            name: source.source.clone(),
            versions: format!("{} to {}", source.from.as_deref().unwrap_or("new"), source.to),
            entries: source.entries.iter().map(|entry| entry.changes.clone()).collect(),
        })
        .collect()
}

fn cve_text(cves: &CveChanges) -> String {
    let date = cves.imported_at.strftime("%Y-%m-%d");
    let (closed, opened) = (cves.closed_count, cves.opened_count);
    format!("{closed} mended, {opened} new, of Debian {} by data of {date}.", cves.release)
}

/// What comes first: that is what speaks against it.
fn cve_rows(cves: &CveChanges) -> impl Iterator<Item = CveRow> {
    let row = |tone, word| {
        move |cve: &Cve| CveRow {
            tone,
            word,
            id: cve.id.clone(),
            source: cve.source.clone(),
            urgency: cve.urgency.clone(),
        }
    };
    cves.opened.iter().map(row("bad", "new")).chain(cves.closed.iter().map(row("good", "mended")))
}

fn diff_line(line: &str) -> DiffLine {
    let tone = match line.as_bytes() {
        [b'+', b'+', b'+', ..]
        | [b'-', b'-', b'-', ..]
        | [b'd', ..]
        | [b'i', ..]
        | [b'n', ..]
        | [b'@', ..] => "dim",
        [b'+', ..] => "good",
        [b'-', ..] => "bad",
        _ => "",
    };
    DiffLine { tone, text: line.to_owned() }
}

/// How many devices of each kind a merge reaches.
fn groups(facts: &Facts, stage: &StageName) -> Vec<(String, usize)> {
    // By what it is made of: a text for each device of a large stage would be most of the work.
    let mut groups: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for device in facts.of_stage(stage) {
        let image = device.report.as_ref().and_then(|report| report.image.as_ref());
        let kind = match image {
            Some(image) => (image.device_type.as_str(), ""),
            None => (device.record.os.as_str(), device.record.architecture.as_str()),
        };
        *groups.entry(kind).or_default() += 1;
    }
    let text = |(first, second): (&str, &str)| match second {
        "" => first.to_owned(),
        _ => format!("{first}, {second}"),
    };
    groups.into_iter().map(|(kind, count)| (text(kind), count)).collect()
}
