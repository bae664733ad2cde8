//! `volary image build`: from a device type in the fleet repository to files that can be flashed and
//! installed.

use std::fs::Permissions;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, anyhow};
use clap::Args;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use volary_artifact::{Encoding, PrivateKey};
use volary_fleet::{
    CA_FILE, CONFIG_FILE, DEVICE_TYPES, FleetConfig, FleetLock, LOCK_FILE, parse_device_type,
};
use volary_host::Cmd;
use volary_image::{BuildError, BuildEvent, ImageRecord, Order, build};
use volary_model::{ArchiveSource, DeviceType, Digest, ImageName, Recipe, StageName, Suite};

use super::artifact::read_key;
use crate::failure::Failure;
use crate::out::{Out, Tone, bytes};
use crate::progress::Line;

/// Options of `volary image build`.
#[derive(Args)]
pub struct BuildArgs {
    /// The device type: device-types/NAME.yml of the fleet repository
    device_type: DeviceType,
    /// The stage whose suite and variables it is made with
    #[arg(long)]
    stage: StageName,
    /// What the image is called; otherwise the day and a number
    #[arg(long)]
    name: Option<ImageName>,
    /// The folder that it goes into
    #[arg(long, short, default_value = "images", value_name = "DIR")]
    output: PathBuf,
    /// The agent's Debian package; otherwise it comes from the archive of the device type
    #[arg(long, value_name = "FILE")]
    agent_deb: Option<PathBuf>,
    /// How the artifact is packed: none, gzip, lzma, zstd_fastest, zstd_fast, zstd_better or zstd_best
    #[arg(long, default_value = "gzip")]
    compression: String,
    /// The private key (PEM) that the artifact is signed with
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The time of the build in seconds since 1970; otherwise that of the fleet repository's commit
    #[arg(long, env = "SOURCE_DATE_EPOCH", value_name = "SECONDS")]
    epoch: Option<u64>,
}

/// Runs it.
pub fn run(args: &BuildArgs, out: &Out) -> Result<(), Failure> {
    let fleet = fleet_folder()?;
    let recipe_file = format!("{DEVICE_TYPES}/{}.yml", args.device_type);
    let text = read_recipe(&fleet, &recipe_file)?;
    let recipe = parse_device_type(&text).map_err(|error| anyhow!("{recipe_file}: {error}"))?;
    let archive = archive(&fleet, &recipe, &args.stage)?;
    let commit = git(&fleet, &["rev-parse", "HEAD"]);
    let epoch = match args.epoch {
        Some(epoch) => epoch,
        None => commit_time(&fleet)?,
    };
    let name = match &args.name {
        Some(name) => name.clone(),
        None => free_name(&args.output, &args.device_type, epoch)?,
    };
    if args.agent_deb.is_none() && archive.is_none() && recipe.sources.is_empty() {
        return Err(Failure::with_help(
            anyhow!("the agent's package is nowhere: {recipe_file} has no archive"),
            "give it with --agent-deb FILE, or name the fleet's archive in the device type",
        ));
    }
    let encoding: Encoding = args.compression.parse().map_err(anyhow::Error::from)?;
    let key = args.key.as_deref().map(|path| read_key(path, PrivateKey::from_pem)).transpose()?;
    let agent = args.agent_deb.as_deref().map(absolute).transpose()?;
    if let Some(agent) = &agent {
        let of = Cmd::new("dpkg-deb").arg("--field").arg(agent).arg("Architecture").check()?.text();
        if ![recipe.architecture.as_str(), "all"].contains(&of.trim()) {
            let help = "build the package for that architecture, or take it from the fleet's archive";
            let what = agent.display();
            let error = anyhow!("{what} is for {}, and the device for {}", of.trim(), recipe.architecture);
            return Err(Failure::with_help(error, help));
        }
    }
    let output = output_folder(&args.output)?;
    let authority = authority(&fleet)?;
    let order = Order {
        recipe: &recipe,
        recipe_digest: Digest::from_bytes(Sha256::digest(&text).into()),
        device_type: &args.device_type,
        name: &name,
        stage: &args.stage,
        archive,
        ca: authority.as_ref().map(NamedTempFile::path),
        fleet: &fleet,
        commit: commit.as_deref(),
        agent: agent.as_deref(),
        epoch,
        encoding,
        key: key.as_ref(),
        output: &output,
        cache: &cache_folder(),
        maker: concat!("volary-", env!("CARGO_PKG_VERSION")),
    };
    let started = Instant::now();
    let record = make(&order, out)?;
    out.show(&record, |record| show(record, &args.output, started.elapsed().as_secs(), out));
    Ok(())
}

fn make(order: &Order<'_>, out: &Out) -> Result<ImageRecord, Failure> {
    let mut line = Line::new(out);
    let (mut step, mut log) = ("", String::new());
    let built = build(order, &mut |event| match event {
        BuildEvent::Step(next) => {
            step = next;
            line.show(&format!("{}: {step}", order.device_type));
        }
        BuildEvent::Said(said) => {
            log.push_str(said);
            log.push('\n');
            let said: String = said.chars().filter(|c| !c.is_control()).take(60).collect();
            line.show(&format!("{}: {step}: {said}", order.device_type));
        }
    });
    line.end();
    built.map_err(|error| {
        let path = order.output.join(format!("{}-{}.log", order.device_type, order.name));
        let kept = !log.is_empty() && volary_host::write_atomic(&path, log.as_bytes(), 0o644).is_ok();
        let help = help(&error)
            .map(str::to_owned)
            .or(kept.then(|| format!("all that was said is in {}", path.display())));
        match help {
            Some(help) => Failure::with_help(error, help),
            None => anyhow::Error::from(error).into(),
        }
    })
}

fn help(error: &BuildError) -> Option<&'static str> {
    match error {
        BuildError::TooSmall { .. } => Some("make it larger under `partitions:` in the device type"),
        BuildError::NoSuite(_) => Some("pin a release with: volary bump, or give `suite:` under `archive:`"),
        BuildError::NoKernel(_) => Some("name another package under `kernel:` in the device type"),
        _ => None,
    }
}

/// The folder around this one that has a `volary.yml`.
fn fleet_folder() -> Result<PathBuf, Failure> {
    let here = std::env::current_dir().context("cannot tell the current folder")?;
    let found = here.ancestors().find(|folder| folder.join(CONFIG_FILE).is_file());
    found.map(Path::to_owned).ok_or_else(|| {
        Failure::with_help(
            anyhow!("this folder is in no fleet repository (no volary.yml above it)"),
            "make a clone with: volary clone fleet",
        )
    })
}

fn read_recipe(fleet: &Path, file: &str) -> Result<String, Failure> {
    let path = fleet.join(file);
    if path.is_file() {
        return Ok(volary_host::read_to_string(&path)?);
    }
    let folder = fleet.join(DEVICE_TYPES);
    let entries = folder.read_dir().into_iter().flatten().flatten();
    let mut known: Vec<String> = entries
        .filter_map(|entry| {
            entry.file_name().to_str().and_then(|name| name.strip_suffix(".yml")).map(str::to_owned)
        })
        .collect();
    known.sort();
    let help = if known.is_empty() {
        format!("write {file}; docs/device-types.md shows how")
    } else {
        format!("known are {}", known.join(", "))
    };
    Err(Failure::with_help(anyhow!("there is no {file}"), help))
}

/// The fleet's archive with the suite that the stage installs from.
fn archive(
    fleet: &Path,
    recipe: &Recipe,
    stage: &StageName,
) -> Result<Option<(ArchiveSource, Suite)>, Failure> {
    let config = FleetConfig::parse(&volary_host::read_to_string(&fleet.join(CONFIG_FILE))?)
        .map_err(|error| anyhow!("{CONFIG_FILE}: {error}"))?;
    let Some(of_stage) = config.stage(stage) else {
        let known: Vec<_> = config.stages.iter().map(|stage| stage.name.to_string()).collect();
        let help = format!("it has {}", known.join(", "));
        return Err(Failure::with_help(anyhow!("{CONFIG_FILE} has no stage {stage}"), help));
    };
    let Some(archive) = recipe.archive.clone() else { return Ok(None) };
    if let Some(suite) = &archive.suite {
        let suite = suite.clone();
        return Ok(Some((archive, suite)));
    }
    let lock = FleetLock::parse(&volary_host::read_to_string(&fleet.join(LOCK_FILE))?)
        .map_err(|error| anyhow!("{LOCK_FILE}: {error}"))?;
    match lock.suite_for(of_stage) {
        Some(suite) => Ok(Some((archive, suite))),
        None => {
            let error = BuildError::NoSuite(stage.to_string());
            let help = help(&error).unwrap_or_default().to_owned();
            Err(Failure::with_help(error, help))
        }
    }
}

/// A copy of the fleet's authority that apt can read in its own user namespace, wherever the clone is.
fn authority(fleet: &Path) -> Result<Option<NamedTempFile>, Failure> {
    let path = fleet.join(CA_FILE);
    if !path.is_file() {
        return Ok(None);
    }
    let mut copy = tempfile::Builder::new()
        .prefix("volary-ca-")
        .permissions(Permissions::from_mode(0o644))
        .tempfile()
        .context("cannot write to the folder for temporary files")?;
    copy.write_all(&volary_host::read(&path)?)?;
    Ok(Some(copy))
}

fn git(folder: &Path, args: &[&str]) -> Option<String> {
    let output = Cmd::new("git").arg("-C").arg(folder).args(args).run().ok()?;
    output.status.success().then(|| output.text().trim().to_owned())
}

fn commit_time(fleet: &Path) -> Result<u64, Failure> {
    let time = git(fleet, &["log", "-1", "--format=%ct"]).and_then(|time| time.parse().ok());
    time.ok_or_else(|| {
        Failure::with_help(
            anyhow!("{} has no commit that could give the time of the build", fleet.display()),
            "give it with --epoch SECONDS, or SOURCE_DATE_EPOCH",
        )
    })
}

/// The day of the build and the first number that no image in the folder has.
fn free_name(output: &Path, device_type: &DeviceType, epoch: u64) -> Result<ImageName, Failure> {
    let time = i64::try_from(epoch).ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let time = time.ok_or_else(|| anyhow!("{epoch} is no time"))?;
    let day = time.strftime("%Y-%m-%d").to_string();
    let taken = |number: &u32| output.join(format!("{device_type}-{day}.{number}.json")).exists();
    let number = (1..).find(|number| !taken(number)).unwrap_or(1);
    Ok(format!("{day}.{number}").parse()?)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    Ok(path.canonicalize().with_context(|| format!("cannot read {}", path.display()))?)
}

/// The folder of images, made if it is not there. Images are no part of the repository around it.
pub fn output_folder(path: &Path) -> Result<PathBuf, Failure> {
    if !path.exists() {
        volary_host::create_dir(path)?;
        volary_host::write_atomic(&path.join(".gitignore"), b"*\n", 0o644)?;
    }
    absolute(path)
}

/// Where the tools are kept between builds.
fn cache_folder() -> PathBuf {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let base = folder("VOLARY_CACHE")
        .or_else(|| folder("XDG_CACHE_HOME").map(|cache| cache.join("volary")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/volary")))
        .unwrap_or_else(|| "/var/cache/volary".into());
    base.join("image")
}

fn show(record: &ImageRecord, output: &Path, seconds: u64, out: &Out) {
    let row =
        |name: &str, value: &str| out.line(format!("{}{value}", out.tone(Tone::Dim, format!("{name:<10}"))));
    out.line(format!("{} {} is made ({seconds} s):", record.device_type, record.name));
    for (what, file) in [("disk", &record.disk), ("artifact", &record.artifact)] {
        if let Some(file) = file {
            let path = output.join(&file.file);
            row(what, &format!("{}  {}  {}", path.display(), bytes(file.size), file.digest.short()));
        }
    }
    if let Some(rootfs) = &record.rootfs {
        row("root", &format!("{}  {}", bytes(rootfs.size), rootfs.digest.short()));
    }
    let stem = output.join(format!("{}-{}", record.device_type, record.name));
    row("beside", &format!("{}.{{img.bmap,packages,spdx.json,provenance.json,json}}", stem.display()));
    out.line(format!("flash it with: volary image flash {}.img /dev/DISK", stem.display()));
}
