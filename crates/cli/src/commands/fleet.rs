//! `volary clone`, `bump` and `promote`: the fleet repository in the hands of a person.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use volary_api::client::Client;
use volary_api::v1::archive::Pin;
use volary_api::v1::fleet::{Cve, Promote, Promoted, Promotion, Say, Spread, Trial, TrialNote, Verdict};
use volary_api::v1::image::{Image, ImageChange, PinnedImage};
use volary_fleet::{
    APPROVAL_REFS, EVIDENCE_REF, FleetConfig, FleetLock, LockedImage, LockedRelease, STAGE_TRAILER,
};
use volary_host::Cmd;
use volary_model::{DeviceType, ImageName, ReleaseName, Revision, StageName};
use volary_plan::text;

use super::{bump_keys, encode, image_publish, release};
use crate::config::{Config, Connection};
use crate::failure::Failure;
use crate::out::{Out, Tone, bytes};
use crate::workdir::{FOREIGN_AUTHORITY, WorkDir};

/// How many files and commits `promote` lists before it only counts.
const SHOWN: usize = 20;

/// Options of `volary clone`.
#[derive(Args)]
pub struct CloneArgs {
    /// `fleet`, or the name of a hosted source
    repository: String,
    /// The folder to make; the repository's name if absent
    dir: Option<PathBuf>,
}

/// Options of `volary bump`.
#[derive(Args)]
pub struct BumpArgs {
    /// The release to pin
    #[arg(required_unless_present_any = ["keys", "images"])]
    release: Option<ReleaseName>,
    /// The revision, such as r1; the newest if absent
    #[arg(long, requires = "release")]
    revision: Option<Revision>,
    /// Pin this image for the devices of a type; may be given several times
    #[arg(long = "image", value_name = "TYPE=NAME")]
    images: Vec<String>,
    /// Put the archive's keys into the repository: after `volary archive keys rotate` and `retire`
    #[arg(long, conflicts_with_all = ["release", "images"])]
    keys: bool,
    /// Commit, but do not push
    #[arg(long)]
    no_push: bool,
}

/// Options of `volary promote`.
#[derive(Args)]
pub struct PromoteArgs {
    /// The stage whose commit is merged
    #[arg(long)]
    from: StageName,
    /// The stage that receives it
    #[arg(long)]
    to: StageName,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    /// Let the server merge and sign, where `promote` in volary.yml allows it: as the button of the page
    #[arg(long, conflicts_with = "overrides")]
    by_server: bool,
    /// Merge although this gate does not say go; the reason stays in the history for ever
    #[arg(long = "override", value_name = "GATE=REASON")]
    overrides: Vec<String>,
}

/// Runs `volary clone`.
pub fn clone(args: &CloneArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let config = connection.config()?;
    let name = args.repository.trim_end_matches(".git");
    let dir = args.dir.clone().unwrap_or_else(|| name.into());
    let url = format!("{}/git/{name}.git", config.server.trim_end_matches('/'));
    let mut options = vec![
        ("http.sslCAInfo".to_owned(), config.ca.display().to_string()),
        // An empty helper first: git then asks no other helper for this clone.
        ("credential.helper".to_owned(), String::new()),
        ("credential.helper".to_owned(), helper(&config)?),
    ];
    if let Some(key) = &config.signing_key {
        options.push(("gpg.format".into(), "ssh".into()));
        options.push(("user.signingkey".into(), key.display().to_string()));
        options.push(("commit.gpgsign".into(), "true".into()));
    }
    if name == "fleet" {
        // What `volary verify` reads without a server: who approved, and why it was allowed.
        for kept in [APPROVAL_REFS, EVIDENCE_REF] {
            options.push(("remote.origin.fetch".into(), format!("+{kept}*:{kept}*")));
        }
        options.push(("gpg.ssh.allowedSignersFile".into(), ".volary/allowed_signers".into()));
    }
    // `git clone -c` keeps these settings in the clone. The token is not among them.
    let settings = options.iter().flat_map(|(key, value)| ["-c".to_owned(), format!("{key}={value}")]);
    Cmd::new("git")
        .args(["clone", "--quiet"])
        .args(settings)
        .arg(&url)
        .arg(&dir)
        .env("GIT_TERMINAL_PROMPT", "0")
        .env_remove(FOREIGN_AUTHORITY)
        .timeout(Duration::from_secs(600))
        .check()?;
    out.line(format!("{} is a clone of {url}", dir.display()));
    if std::env::var_os(FOREIGN_AUTHORITY).is_some() {
        out.line(format!(
            "note: {FOREIGN_AUTHORITY} is set and outranks the clone's settings; unset it to use git there"
        ));
    }
    Ok(())
}

/// The command that git asks for the token: this program with this configuration.
fn helper(config: &Config) -> Result<String, Failure> {
    let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', "'\\''"));
    let program = std::env::current_exe()?;
    Ok(format!("!{} --config {} credential", quoted(&program), quoted(&config.path)))
}

/// Options of the credential helper.
#[derive(Args)]
pub struct CredentialArgs {
    /// What git wants: `get`; others are ignored, as git asks for
    operation: String,
}

/// Answers git's question for a password. See gitcredentials(7).
pub fn credential(args: &CredentialArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    if args.operation == "get" {
        let config = connection.config()?;
        out.raw(&format!("username=volary\npassword={}\n", config.token));
    }
    Ok(())
}

/// Runs `volary bump`.
pub fn bump(args: &BumpArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let config = connection.config()?;
    let client = connection.client()?;
    let work = WorkDir::find()?;
    let fleet = read_fleet(&work)?;
    let branch = fleet.first().branch.clone();
    work.fetch()?;
    work.ready_on(&branch)?;

    if args.keys {
        return bump_keys::run(&work, &config, &client, &branch, args.no_push, out);
    }
    let path = work.root().join("volary.lock");
    let old = read_lock(&path)?;
    let mut new = old.clone();
    let mut bumped = Bumped { pin: None, images: Vec::new() };
    if let Some(name) = &args.release {
        let revision = args.revision.map_or(String::new(), |revision| format!("?revision={revision}"));
        let pin: Pin = client.get(&format!("/api/v1/releases/{}/pin{revision}", encode(name.as_str())))?;
        let (release, indexes) = (pin.release.clone(), pin.indexes.clone());
        new.release = Some(LockedRelease { release, digest: pin.digest, indexes });
        bumped.pin = Some(pin);
    }
    for text in &args.images {
        let (device_type, image) = image_to_pin(&client, text)?;
        new.images.insert(device_type.clone(), image.clone());
        bumped.images.push(PinnedImage {
            device_type,
            name: image.name,
            artifact: image.artifact,
            size: image.size,
            known: true,
        });
    }
    let what = bumped.words();
    if old == new {
        out.show(&bumped, |_| out.line(format!("{branch} pins {what} already")));
        return Ok(());
    }
    volary_host::write_atomic(&path, new.to_text().as_bytes(), 0o644)?;
    let commit = work.commit_file(&config, "volary.lock", &bumped.message())?;
    if !args.no_push {
        work.push(commit.as_str(), &branch)?;
    }
    out.show(&bumped, |_| {
        let pushed = if args.no_push { "not pushed yet" } else { "pushed" };
        out.line(format!("{branch} pins {what} at {} ({pushed})", commit.short()));
    });
    if bumped.pin.is_some() {
        bump_keys::remind(&work, &client, out);
    }
    Ok(())
}

/// What `volary bump` pins.
#[derive(Serialize)]
struct Bumped {
    #[serde(flatten)]
    pin: Option<Pin>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<PinnedImage>,
}

impl Bumped {
    /// All of it, in a line.
    fn words(&self) -> String {
        let release = self.pin.iter().map(|pin| pin.release.to_string());
        release.chain(self.images.iter().map(image_words)).collect::<Vec<_>>().join(" and ")
    }

    /// The message of the commit.
    fn message(&self) -> String {
        let images: String =
            self.images.iter().map(|image| format!("Pins {}.\n", image_words(image))).collect();
        match (&self.pin, &self.images[..]) {
            (Some(pin), _) => {
                let (name, revision) = (&pin.release.name, pin.release.revision);
                format!("bump version to {name}\n\nPins revision {revision} of the release.\n{images}")
            }
            (None, [image]) => format!("bump {}\n\nPins artifact {}.\n", image_words(image), image.artifact),
            (None, several) => format!("bump {} images\n\n{images}", several.len()),
        }
    }
}

fn image_words(image: &PinnedImage) -> String {
    format!("image {} for {}", image.name, image.device_type)
}

/// The image that `TYPE=NAME` means, as the lock holds it.
fn image_to_pin(client: &Client, text: &str) -> Result<(DeviceType, LockedImage), Failure> {
    let (device_type, name) = text.split_once('=').ok_or_else(|| {
        let help = "write it as in: --image raspberrypi4=2026-11-22.1; volary image list shows both";
        Failure::with_help(anyhow!("{text:?} names no image"), help)
    })?;
    let device_type: DeviceType = device_type.parse()?;
    let image = image_publish::to_pin(client, &device_type, name)?;
    let Image { name, artifact, size, rootfs, manifest, .. } = image;
    Ok((device_type, LockedImage { name, artifact, size, rootfs, manifest }))
}

/// What is pinned now; nothing if there is no file yet.
fn read_lock(path: &Path) -> Result<FleetLock, Failure> {
    if !path.exists() {
        return Ok(FleetLock::default());
    }
    let text = volary_host::read_to_string(path)?;
    FleetLock::parse(&text).map_err(|error| anyhow!("volary.lock:{error}").into())
}

pub(super) fn read_fleet(work: &WorkDir) -> Result<FleetConfig, Failure> {
    let text = volary_host::read_to_string(&work.root().join("volary.yml"))?;
    FleetConfig::parse(&text).map_err(|error| anyhow!("volary.yml:{error}").into())
}

/// Runs `volary promote`.
pub fn promote(args: &PromoteArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let config = connection.config()?;
    let client = connection.client()?;
    if args.by_server {
        return promote_by_server(args, &client, out);
    }
    let work = WorkDir::find()?;
    work.fetch()?;
    let fleet = read_fleet(&work)?;
    let branch = fleet
        .stage(&args.to)
        .ok_or_else(|| anyhow!("volary.yml has no stage {}; it has {}", args.to, stage_names(&fleet)))?
        .branch
        .clone();
    let path = format!("/api/v1/promotion?from={}&to={}", args.from, args.to);
    let mut promotion: Promotion = client.get(&path)?;
    if let Some(base) = promotion.base.as_ref().filter(|_| !promotion.up_to_date) {
        // What is signed is what this clone sees and can prove, not what the server tells.
        work.verify_promoted(&args.from, base, &promotion.commit)?;
        let brought = work.brought(base, &promotion.commit)?;
        (promotion.files, promotion.commits) = (brought.files, brought.commits);
        promotion.images = brought.images;
    }
    out.show(&promotion, |promotion| show(promotion, out));
    if promotion.up_to_date {
        return Ok(());
    }
    let trailers = answer_gates(&promotion.verdicts, &args.overrides)?;
    if args.dry_run {
        return Ok(());
    }
    let question = format!("merge this into {}? [y/N] ", promotion.to);
    if !args.yes && !confirmed(&question, "merge")? {
        return Err(Failure::no("nothing was merged", None));
    }
    merge(&work, &config, &promotion, &branch, &trailers, out)
}

/// What the button of the page does. It needs no clone: the gates are asked and the merge is signed there.
fn promote_by_server(args: &PromoteArgs, client: &Client, out: &Out) -> Result<(), Failure> {
    let promotion: Promotion = client.get(&format!("/api/v1/promotion?from={}&to={}", args.from, args.to))?;
    if args.dry_run || promotion.up_to_date {
        out.show(&promotion, |promotion| show(promotion, out));
        return Ok(());
    }
    if !out.is_json() {
        show(&promotion, out);
    }
    let question = format!("let the server merge this into {}? [y/N] ", promotion.to);
    if !args.yes && !confirmed(&question, "merge")? {
        return Err(Failure::no("nothing was merged", None));
    }
    let asked = Promote { from: args.from.clone(), to: args.to.clone(), commit: promotion.commit };
    let promoted: Promoted = client.post("/api/v1/promotion", &asked)?;
    out.show(&promoted, |promoted| {
        out.line(format!("{} is at {}, merged by the server", args.to, promoted.merge.short()));
    });
    Ok(())
}

pub(super) fn stage_names(fleet: &FleetConfig) -> String {
    let names: Vec<String> = fleet.stages.iter().map(|stage| stage.name.to_string()).collect();
    names.join(", ")
}

fn merge(
    work: &WorkDir,
    config: &Config,
    promotion: &Promotion,
    branch: &str,
    trailers: &str,
    out: &Out,
) -> Result<(), Failure> {
    let base = promotion.base.as_ref().ok_or_else(|| {
        Failure::with_help(
            anyhow!("the branch {branch} does not exist on the server"),
            format!("make it once: git push origin origin/{branch}:refs/heads/{branch}"),
        )
    })?;
    // What was shown is what is merged: if somebody pushed meanwhile, the server refuses.
    let suite = promotion.suite_after.as_deref().unwrap_or("no release");
    let message = format!(
        "Promote {} to {}: {suite}\n\nMerges {} unchanged.\n\n{STAGE_TRAILER}: {}{trailers}\n",
        promotion.from, promotion.to, promotion.commit, promotion.to
    );
    let commit = work.merge_commit(config, base, &promotion.commit, &message)?;
    // What the server's hook and each device will say, before anything is sent.
    if let Err(refusal) = work.verify_step(&promotion.to, base, &commit)? {
        return Err(Failure::no(refusal.to_string(), None));
    }
    work.push(commit.as_str(), branch)?;
    let devices = text::count(promotion.device_count, "device");
    out.line(format!("{branch} is at {}; {devices} will follow", commit.short()));
    Ok(())
}

/// Every gate must say go or be overridden by name and with a reason. Returns the trailers that
/// keep the overrides in the history.
fn answer_gates(verdicts: &[Verdict], overrides: &[String]) -> Result<String, Failure> {
    let mut trailers = String::new();
    for text in overrides {
        let (gate, reason) =
            text.split_once('=').filter(|(_, reason)| !reason.trim().is_empty()).ok_or_else(|| {
                Failure::with_help(anyhow!("{text:?} gives no reason"), "write --override GATE=REASON")
            })?;
        if !verdicts.iter().any(|verdict| verdict.gate == gate) {
            return Err(anyhow!("there is no gate {gate:?} to override").into());
        }
        trailers.push_str(&format!("\nVolary-Override: {gate} {}", reason.trim().replace('\n', " ")));
    }
    let closed: Vec<&Verdict> = verdicts
        .iter()
        .filter(|verdict| verdict.say != Say::Go)
        .filter(|verdict| !overrides.iter().any(|text| text.split('=').next() == Some(&verdict.gate)))
        .collect();
    match closed.first() {
        None => Ok(trailers),
        Some(first) => {
            let said = closed
                .iter()
                .map(|verdict| format!("{}: {}", verdict.gate, verdict.reason))
                .collect::<Vec<_>>()
                .join("\n  ");
            let help =
                format!("if it must be: --override {}=REASON (kept in the history for ever)", first.gate);
            Err(Failure::no(format!("the gates do not say go:\n  {said}"), Some(help)))
        }
    }
}

/// Asks a person. `verb` is what would be done without asking.
pub(super) fn confirmed(question: &str, verb: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        return Err(Failure::with_help(
            anyhow!("nobody is there to ask"),
            format!("add --yes to {verb} without asking"),
        ));
    }
    eprint_question(question);
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[allow(clippy::print_stderr, reason = "a question belongs on the terminal, not into the output")]
fn eprint_question(question: &str) {
    eprint!("{question}");
}

fn show(promotion: &Promotion, out: &Out) {
    if promotion.up_to_date {
        return out.line(format!("{} has everything of {} already", promotion.to, promotion.from));
    }
    let heading = |text: &str| out.line(format!("\n{}", out.tone(Tone::Bold, text)));
    out.line(out.tone(
        Tone::Bold,
        format!("merging {} {} into {}", promotion.from, promotion.commit.short(), promotion.to),
    ));
    let before = promotion.suite_before.as_deref().unwrap_or("no release");
    let after = promotion.suite_after.as_deref().unwrap_or("no release");
    out.line(format!("suite     {before} → {after}"));
    let devices: Vec<String> = promotion.devices.iter().take(10).map(ToString::to_string).collect();
    let all = promotion.device_count;
    out.line(format!("devices   {all}: {}", text::of_all(&devices, all)));
    heading("packages");
    release::changes(&promotion.packages, out);
    if !promotion.images.is_empty() {
        heading("images");
        let rows = promotion.images.iter().map(|change| image_row(change, out)).collect();
        out.table(&["", "FOR", "FROM", "TO", "SIZE"], rows, "no image differs");
    }
    heading("files");
    list(&promotion.files, "no file differs", out);
    heading("commits");
    list(&promotion.commits, "no commit is new", out);
    if let Some(cves) = &promotion.cves {
        heading("security faults");
        let date = cves.imported_at.strftime("%Y-%m-%d");
        out.line(format!(
            "{} mended, {} new, of Debian {} by data of {date}",
            cves.closed_count, cves.opened_count, cves.release
        ));
        let opened = cves.opened.iter().map(|cve| (out.tone(Tone::Bad, "new"), cve));
        let closed = cves.closed.iter().map(|cve| (out.tone(Tone::Good, "mended"), cve));
        let row = |(word, cve): (String, &Cve)| {
            let fixed = cve.fixed_version.clone().unwrap_or_else(|| "–".to_owned());
            vec![word, cve.id.clone(), cve.source.clone(), cve.urgency.clone(), fixed]
        };
        let rows: Vec<_> = opened.chain(closed).take(SHOWN).map(row).collect();
        out.table(&["", "FAULT", "SOURCE", "URGENCY", "MENDED IN"], rows, "none");
    }
    heading(&format!("what {} did with it", promotion.from));
    trial_lines(&promotion.trial).iter().for_each(|line| out.line(line));
    heading("gates");
    let rows = promotion
        .verdicts
        .iter()
        .map(|verdict| vec![verdict.gate.clone(), say_word(verdict.say, out), verdict.reason.clone()])
        .collect();
    out.table(&["GATE", "SAYS", "WHY"], rows, "none are set for this stage");
    out.line("");
}

/// What the devices did that have the commit already, each line by itself.
fn trial_lines(trial: &Trial) -> Vec<String> {
    let devices = text::count(trial.devices, "device");
    let rest = trial.devices.saturating_sub(trial.good + trial.failed);
    let mut lines =
        vec![format!("{} of {devices} good, {} failed, {rest} not there", trial.good, trial.failed)];
    let spread = |what: &str, spread: &Option<Spread>, word: &dyn Fn(u64) -> String| {
        spread.map(|Spread { least, median, most }| {
            format!("{what}: {}, from {} to {}", word(median), word(least), word(most))
        })
    };
    let number = |number: u64| number.to_string();
    let seconds = |seconds: u64| text::duration(Duration::from_secs(seconds));
    lines.extend(spread("changed tasks", &trial.changed_tasks, &number));
    lines.extend(spread("changed packages", &trial.changed_packages, &number));
    lines.extend(spread("took", &trial.seconds, &seconds));
    let note = |note: &TrialNote| {
        let names: Vec<String> = note.devices.iter().map(ToString::to_string).collect();
        format!("  {} ({})", note.what, text::of_all(&names, note.count))
    };
    lines.extend(trial.failures.iter().map(note));
    if trial.looked > 0 {
        let looked = text::count(trial.looked, "device");
        lines.push(format!("{} of {looked} that looked since found a difference", trial.drifted));
    }
    lines.extend(trial.drift.iter().map(note));
    lines
}

fn image_row(change: &ImageChange, out: &Out) -> Vec<String> {
    let (sign, tone) = match (&change.from, &change.to) {
        (None, _) => ("+", Tone::Good),
        (_, None) => ("-", Tone::Bad),
        _ => ("~", Tone::Warn),
    };
    let name = |name: &Option<ImageName>| name.as_ref().map_or_else(|| "–".into(), ToString::to_string);
    vec![
        out.tone(tone, sign),
        change.device_type.to_string(),
        name(&change.from),
        name(&change.to),
        if change.size > 0 { bytes(change.size) } else { String::new() },
    ]
}

pub(super) fn list(items: &[String], nothing: &str, out: &Out) {
    if items.is_empty() {
        out.line(nothing);
    }
    for item in items.iter().take(SHOWN) {
        out.line(item);
    }
    if let Some(more) = items.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        out.line(format!("and {more} more"));
    }
}

/// A gate's word, in its colour.
pub(super) fn say_word(say: Say, out: &Out) -> String {
    match say {
        Say::Go => out.tone(Tone::Good, "go"),
        Say::Ask => out.tone(Tone::Warn, "ask"),
        Say::Stop => out.tone(Tone::Bad, "stop"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(say: Say) -> Verdict {
        Verdict { gate: "soak".into(), say, reason: "1 h of 24 h".into() }
    }

    #[test]
    fn a_trial_is_told_in_lines() {
        assert_eq!(trial_lines(&Trial::default()), ["0 of 0 devices good, 0 failed, 0 not there"]);
        let note = |what: &str, count| TrialNote {
            what: what.into(),
            count,
            devices: vec!["dev-1".parse().unwrap(), "dev-2".parse().unwrap()],
        };
        let trial = Trial {
            devices: 9,
            good: 5,
            failed: 3,
            changed_tasks: Some(Spread { least: 0, median: 2, most: 4 }),
            seconds: Some(Spread { least: 9, median: 65, most: 3600 }),
            failures: vec![note("check \"dns\"", 3)],
            looked: 2,
            drifted: 2,
            drift: vec![note("task \"Write\" would change something", 2)],
            ..Trial::default()
        };
        assert_eq!(
            trial_lines(&trial),
            [
                "5 of 9 devices good, 3 failed, 1 not there",
                "changed tasks: 2, from 0 to 4",
                "took: 1 min 5 s, from 9 s to 1 h",
                "  check \"dns\" (dev-1, dev-2 and 1 more)",
                "2 of 2 devices that looked since found a difference",
                "  task \"Write\" would change something (dev-1, dev-2)",
            ]
        );
    }

    #[test]
    fn a_closed_gate_needs_a_named_override_with_a_reason() {
        assert_eq!(answer_gates(&[verdict(Say::Go)], &[]).unwrap(), "");
        assert_eq!(answer_gates(&[verdict(Say::Stop)], &[]).unwrap_err().status(), 3);
        assert!(answer_gates(&[verdict(Say::Ask)], &["soak=".into()]).is_err());
        assert!(answer_gates(&[verdict(Say::Ask)], &["frozen=why".into()]).is_err());
        assert_eq!(
            answer_gates(&[verdict(Say::Ask)], &["soak=security fix".into()]).unwrap(),
            "\nVolary-Override: soak security fix"
        );
    }
}
