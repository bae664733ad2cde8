//! What suites get beside the normal publish, later and without hurry: `Contents`, indexes packed
//! with xz where nothing changes any more, and signatures that stay valid.
//!
//! What was made before is found in the InRelease itself, so that nothing else has to be kept.

use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use volary_debian::release::Release;
use volary_model::{Architecture, Digest, Suite};

use crate::archive::Archive;
use crate::content::{Content, Edits};
use crate::entry::Provenance;
use crate::error::Error;
use crate::files::Prepared;
use crate::publish::{Job, Published, listed, make_dir};
use crate::record::Record;
use crate::render::{self, Blob};
use crate::set::IndexKind;
use crate::settings::Settings;
use crate::state::State;

/// The field of a Release file that names the content which its Contents were made of.
const CONTENTS_SET: &str = "X-Contents-Set";
/// The field that says when.
const CONTENTS_DATE: &str = "X-Contents-Date";

/// How old the Contents of rolling may be: nobody looks for files of the last hour, and each
/// costs far more than a publish.
const CONTENTS_AGE: SignedDuration = SignedDuration::from_hours(1);

/// How long rolling must have been left alone before its indexes are written in order of name again.
const QUIET: SignedDuration = SignedDuration::from_hours(1);

/// Level 6 of xz: what Debian takes for indexes; more gains nothing below 8 MB.
const XZ_LEVEL: u32 = 6;

/// An index file that was made beside the normal ones, under its hash already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extra {
    /// Its path below the suite.
    pub(crate) path: String,
    pub(crate) blob: Blob,
    /// The plain form, where no other file has it.
    plain: Option<Blob>,
    /// Of Contents: what they were made of, and when.
    made_of: Option<(Digest, Timestamp)>,
}

impl Extra {
    /// Adds it to a Release file.
    pub(crate) fn list(&self, release: &mut Release) {
        release.files.insert(self.path.clone(), listed(self.blob));
        if let (Some(plain), Some((path, _))) = (self.plain, self.path.rsplit_once('.')) {
            release.files.insert(path.to_owned(), listed(plain));
        }
        if let Some((digest, date)) = self.made_of {
            release.fields.set(CONTENTS_SET, digest.to_string());
            release.fields.set(CONTENTS_DATE, date.to_string());
        }
    }
}

/// The extras of a published suite that are still right for its next publish.
pub(crate) fn kept(before: Option<&Published>, next: &Release, dir: &Path, job: &Job<'_>) -> Vec<Extra> {
    let Some(before) = before.map(|before| &before.release) else { return Vec::new() };
    let made_of = contents_state(before);
    let mut extras = Vec::new();
    for (path, file) in &before.files {
        let Some((plain_path, ending)) = path.rsplit_once('.') else { continue };
        let Some((component, name)) = plain_path.split_once('/') else { continue };
        let is_contents = ending == "gz" && name.starts_with("Contents-");
        let is_same = || {
            let hash = |release: &Release| release.files.get(plain_path).map(|file| file.sha256.clone());
            hash(before).is_some() && hash(before) == hash(next)
        };
        let has_component = job.content.components().keys().any(|known| known.as_str() == component);
        let is_right = if is_contents {
            job.settings.contents && has_component && made_of.is_some()
        } else {
            ending == "xz" && is_same()
        };
        if !is_right || job.extras.iter().any(|extra| extra.path == *path) {
            continue;
        }
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let there = dir.join(folder).join("by-hash/SHA256").join(&file.sha256).exists();
        let plain = before.files.get(plain_path).filter(|_| is_contents).and_then(blob);
        if let Some(blob) = blob(file).filter(|_| there) {
            let made_of = made_of.filter(|_| is_contents);
            extras.push(Extra { path: path.clone(), blob, plain, made_of });
        }
    }
    extras
}

fn blob(file: &volary_debian::release::IndexFile) -> Option<Blob> {
    Some(Blob { sha256: Digest::from_hex(&file.sha256).ok()?, size: file.size })
}

fn contents_state(release: &Release) -> Option<(Digest, Timestamp)> {
    let digest = release.fields.get(CONTENTS_SET)?.parse().ok()?;
    Some((digest, release.fields.get(CONTENTS_DATE)?.parse().ok()?))
}

/// What a suite lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Due {
    contents: bool,
    xz: bool,
    renewal: bool,
}

impl Due {
    fn any(self) -> bool {
        self.contents || self.xz || self.renewal
    }
}

/// What a suite lacks, with what it has.
struct Lacking {
    due: Due,
    content: Content,
    architectures: Vec<Architecture>,
}

/// What a suite lacks, by what stands in its Release file.
fn due(
    release: &Release,
    suite: &Suite,
    packed: bool,
    content: Digest,
    settings: &Settings,
    now: Timestamp,
) -> Due {
    let made = contents_state(release);
    let contents = match (&made, suite) {
        _ if !settings.contents => false,
        (None, _) => true,
        (Some((of, date)), Suite::Rolling) => *of != content && now.duration_since(*date) >= CONTENTS_AGE,
        (Some((of, _)), Suite::Release(_)) => *of != content,
    };
    let has_xz = release.files.keys().any(|path| path.ends_with("/Packages.xz"));
    let until = release.valid_until().ok().flatten();
    let renewal = match (settings.valid_days, until) {
        (None, until) => until.is_some(),
        (Some(_), None) => true,
        (Some(days), Some(until)) => {
            let half = SignedDuration::from_hours(12 * i64::from(days));
            until.duration_since(now) < half
        }
    };
    Due { contents, xz: packed && !has_xz, renewal }
}

/// What an upkeep did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpkeepReport {
    /// Suites that got new Contents.
    pub contents: Vec<Suite>,
    /// Suites whose indexes were packed with xz.
    pub packed: Vec<Suite>,
    /// Suites whose signature was renewed.
    pub renewed: Vec<Suite>,
    /// Suites whose indexes were written in order of name again.
    pub ordered: Vec<Suite>,
}

impl Archive {
    /// Gives each suite what it lacks: `Contents`, indexes packed with xz once its release is
    /// frozen, a signature that stays valid, an order of its own in which nothing is listed that was
    /// replaced. Costs next to nothing if nothing is due; call it
    /// every minute, and after a freeze. A cut or a pick can wait for its turn: a release that
    /// takes picks has its next revision soon.
    ///
    /// # Errors
    /// What reading and writing may bring. Suites before the one that failed are done.
    pub fn upkeep(&self, now: Timestamp) -> Result<UpkeepReport, Error> {
        let mut report = UpkeepReport::default();
        if self.put_in_order(now)? {
            report.ordered.push(Suite::Rolling);
        }
        let suites = self.look()?.state.suites();
        for suite in suites {
            self.keep_up(&suite, now, &mut report)?;
        }
        Ok(report)
    }

    /// Writes the indexes of rolling in order of name if it has news at their end and nobody has published
    /// for a while. What was replaced is listed no more from then on.
    fn put_in_order(&self, now: Timestamp) -> Result<bool, Error> {
        let is_due = |state: &State| {
            let is_quiet = |since| now.duration_since(since) >= QUIET;
            state.listing.news.len() > 0 && state.history().last().is_none_or(|past| is_quiet(past.until))
        };
        if !is_due(&self.look()?.state) {
            return Ok(false);
        }
        let (_lock, mut inner) = self.begin_writing(now)?;
        if !is_due(&inner.state) {
            return Ok(false);
        }
        let (prepared, rolling) = self.prepare_rolling(&inner.state, &Edits::new(), now)?;
        let (provenance, packages) = (Provenance::default(), Vec::new());
        let record = Record::Include { at: now, provenance, packages, rolling: rolling.record.clone() };
        self.commit_rolling(&mut inner, &record, prepared, |state| state.roll(rolling, now))?;
        Ok(true)
    }

    /// Packs the indexes of releases with xz, frozen or not: what is exported is fetched by many
    /// and does not change. Rolling does at each publish, and devices follow it by differences.
    pub(crate) fn pack(&self, suites: &[Suite], now: Timestamp) -> Result<(), Error> {
        for suite in suites.iter().filter(|suite| matches!(suite, Suite::Release(_))) {
            let Some(lacking) = self.lacks(suite, true, now)? else { continue };
            if lacking.due.xz {
                let due = Due { xz: true, ..Due::default() };
                self.bring_up(suite, &Lacking { due, ..lacking }, now)?;
            }
        }
        Ok(())
    }

    fn keep_up(&self, suite: &Suite, now: Timestamp, report: &mut UpkeepReport) -> Result<(), Error> {
        let Some(lacking) = self.lacks(suite, false, now)? else { return Ok(()) };
        if !self.bring_up(suite, &lacking, now)? {
            return Ok(());
        }
        for (done, list) in [
            (lacking.due.contents, &mut report.contents),
            (lacking.due.xz, &mut report.packed),
            (lacking.due.renewal, &mut report.renewed),
        ] {
            if done {
                list.push(suite.clone());
            }
        }
        Ok(())
    }

    /// Makes what is due and publishes it; false if the suite is gone.
    fn bring_up(&self, suite: &Suite, lacking: &Lacking, now: Timestamp) -> Result<bool, Error> {
        let Lacking { due, content, architectures } = lacking;
        // Packing may take seconds; nobody waits for it.
        let mut extras = Vec::new();
        if due.contents {
            extras.extend(self.make_contents(suite, content, architectures, now)?);
        }
        if due.xz {
            extras.extend(self.make_xz(suite, content, architectures)?);
        }
        let (_lock, inner) = self.begin_writing(now)?;
        // It may have been dropped in the meantime.
        if inner.state.suite(suite).is_err() {
            return Ok(false);
        }
        let job = Job { extras, ..Job::of(&inner.state, suite, now)? };
        self.publisher.prepare(&job)?.activate()?;
        Ok(true)
    }

    /// What a suite lacks, if anything. With `packed` it is to have xz whether frozen or not.
    fn lacks(&self, suite: &Suite, packed: bool, now: Timestamp) -> Result<Option<Lacking>, Error> {
        let inner = self.look()?;
        let Ok(content) = inner.state.suite(suite) else { return Ok(None) };
        let Some(published) = self.publisher.published(suite)? else { return Ok(None) };
        let packed = packed || is_frozen(&inner.state, suite);
        let due = due(&published.release, suite, packed, content.digest(), &inner.state.settings, now);
        if !due.any() {
            return Ok(None);
        }
        let architectures = inner.state.architectures(suite)?.to_vec();
        Ok(Some(Lacking { due, content: content.clone(), architectures }))
    }

    fn make_contents(
        &self,
        suite: &Suite,
        content: &Content,
        architectures: &[Architecture],
        now: Timestamp,
    ) -> Result<Vec<Extra>, Error> {
        let dir = self.publisher.suite_dir(suite);
        let made_of = Some((content.digest(), now));
        let mut extras = Vec::new();
        for (component, set) in content.components() {
            for architecture in architectures {
                let sidecars = &self.publisher.sidecars;
                let index = render::contents(set, architecture, &self.publisher.cache, sidecars)?;
                let kind = IndexKind::Contents(architecture.clone());
                let parts: Vec<&[u8]> = index.frames.iter().map(|frame| &frame.gz[..]).collect();
                write_extra(&dir.join(component.as_str()), &index.gz, &parts)?;
                let path = format!("{component}/{kind}.gz");
                extras.push(Extra { path, blob: index.gz, plain: Some(index.plain), made_of });
            }
        }
        Ok(extras)
    }

    fn make_xz(
        &self,
        suite: &Suite,
        content: &Content,
        architectures: &[Architecture],
    ) -> Result<Vec<Extra>, Error> {
        let dir = self.publisher.suite_dir(suite);
        let mut extras = Vec::new();
        for (component, set) in content.components() {
            for kind in set.kinds(architectures) {
                // In one stream: apt stops after the first of several.
                let mut packed = Vec::new();
                let mut encoder = liblzma::write::XzEncoder::new(&mut packed, XZ_LEVEL);
                for chunk in set.chunks() {
                    std::io::Write::write_all(&mut encoder, &chunk.text(&kind))
                        .expect("a Vec takes any write");
                }
                encoder.finish().expect("a Vec takes any write");
                let blob = Blob::of(&packed);
                let path = format!("{component}/{kind}.xz");
                let folder = path.rsplit_once('/').expect("an index lies below its component").0;
                write_extra(&dir.join(folder), &blob, &[&packed])?;
                extras.push(Extra { path, blob, plain: None, made_of: None });
            }
        }
        Ok(extras)
    }
}

/// True if a suite is the last revision of a frozen release: what production will fetch.
fn is_frozen(state: &State, suite: &Suite) -> bool {
    let Suite::Release(reference) = suite else { return false };
    state
        .release(&reference.name)
        .is_ok_and(|release| release.frozen_at.is_some() && release.latest_number() == reference.revision)
}

fn write_extra(folder: &Path, blob: &Blob, parts: &[&[u8]]) -> Result<(), Error> {
    let by_hash = folder.join("by-hash/SHA256");
    make_dir(&by_hash)?;
    let path = by_hash.join(blob.sha256.hex());
    if !path.exists() {
        Prepared::write(path, parts.iter().copied(), None)?.place()?;
        volary_host::sync_dir(&by_hash)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let architectures = vec!["amd64".parse().unwrap()];
        Settings { valid_days: Some(10), ..Settings::new("Test", "Test", architectures) }
    }

    fn release(fields: &[(&str, String)]) -> Release {
        let mut release = Release::default();
        for (name, value) in fields {
            release.fields.set(name, value.as_str());
        }
        release
    }

    #[test]
    fn contents_are_due_at_once_for_a_release_and_hourly_for_rolling() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24);
        let [old, new] = [1, 2].map(|byte| Digest::from_bytes([byte; 32]));
        let v1: Suite = "v1/r1".parse().unwrap();
        let made = |digest: Digest, minutes| {
            let date = now - SignedDuration::from_mins(minutes);
            release(&[(CONTENTS_SET, digest.to_string()), (CONTENTS_DATE, date.to_string())])
        };
        let check =
            |release: &Release, suite: &Suite| due(release, suite, false, new, &settings(), now).contents;
        assert!(check(&release(&[]), &Suite::Rolling) && check(&release(&[]), &v1));
        assert!(!check(&made(new, 300), &Suite::Rolling) && !check(&made(new, 300), &v1));
        assert!(check(&made(old, 60), &Suite::Rolling) && check(&made(old, 0), &v1));
        assert!(!check(&made(old, 59), &Suite::Rolling));
        let without = Settings { contents: false, ..settings() };
        assert!(!due(&release(&[]), &v1, false, new, &without, now).contents);
    }

    #[test]
    fn a_signature_is_renewed_when_half_of_its_time_is_over() {
        let now = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(24 * 365);
        let check = |until: Option<i64>, settings: &Settings| {
            let field = until.map(|hours| {
                let until = now + SignedDuration::from_hours(hours);
                ("Valid-Until", volary_debian::release::format_date(until))
            });
            let release = release(field.as_slice());
            due(&release, &Suite::Rolling, false, Digest::from_bytes([1; 32]), settings, now).renewal
        };
        assert!(check(None, &settings()) && check(Some(119), &settings()) && check(Some(-5), &settings()));
        assert!(!check(Some(121), &settings()));
        let never = Settings { valid_days: None, ..settings() };
        assert!(check(Some(121), &never) && !check(None, &never));
    }
}
