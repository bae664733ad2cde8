//! `volary image`: disk images, on this machine; what the server has of them is in `image_publish`.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use volary_image::{Bmap, Disk, FlashError, Flashed, Progress, bmap_beside, flash, may_flash, open_image};

use super::{image_build, image_import, image_publish};
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, bytes};
use crate::progress::Line;

/// What to do with an image.
#[derive(Subcommand)]
pub enum ImageCommand {
    /// Build the disk image and the update artifact of a device type
    Build(image_build::BuildArgs),
    /// Take over an image or an artifact that another tool made
    Import(image_import::ImportArgs),
    /// Write an image onto a card or stick, and read it back
    Flash(FlashArgs),
    /// Give an update artifact to the server, for stages to pin and devices to fetch
    Publish(image_publish::PublishArgs),
    /// List the images that the server has
    List,
    /// Show an image that the server has, and why it is kept
    Show(image_publish::OneArgs),
    /// Take an image away from the server: refused while a stage pins it
    Remove(image_publish::OneArgs),
}

/// Options of `volary image flash`.
#[derive(Args)]
pub struct FlashArgs {
    /// The image; it may be packed with gzip, xz or zstd
    image: PathBuf,
    /// The disk, as /dev/sdb; what it holds is lost
    device: PathBuf,
    /// The block map; otherwise IMAGE.bmap if that is there
    #[arg(long, value_name = "FILE")]
    bmap: Option<PathBuf>,
    /// Also take a disk that is built in
    #[arg(long)]
    fixed_disk: bool,
}

/// Runs `volary image …`.
pub fn run(command: ImageCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    match command {
        ImageCommand::Build(args) => image_build::run(&args, out),
        ImageCommand::Import(args) => image_import::run(&args, out),
        ImageCommand::Flash(args) => run_flash(&args, out),
        ImageCommand::Publish(args) => image_publish::publish(&args, connection, out),
        ImageCommand::List => image_publish::list(connection, out),
        ImageCommand::Show(args) => image_publish::show(&args, connection, out),
        ImageCommand::Remove(args) => image_publish::remove(&args, connection, out),
    }
}

#[derive(Serialize)]
struct FlashReport<'a> {
    image: &'a Path,
    bmap: Option<&'a Path>,
    disk: &'a Disk,
    #[serde(flatten)]
    flashed: Flashed,
    seconds: f64,
}

fn run_flash(args: &FlashArgs, out: &Out) -> Result<(), Failure> {
    let disk = Disk::at(&args.device).map_err(flash_failure)?;
    let map_path = args.bmap.clone().or_else(|| bmap_beside(&args.image));
    let bmap = map_path.as_deref().map(read_map).transpose()?;
    let image = open_image(&args.image)?;
    let needs = bmap.as_ref().map(|map| map.image_size).or(image.size);
    may_flash(&disk, needs, args.fixed_disk).map_err(|refusal| flash_failure(refusal.into()))?;
    let started = Instant::now();
    let mut line = Line::new(out);
    let flashed = flash(image, bmap.as_ref(), &disk, &mut |progress| line.show(&said(progress, &disk)));
    line.end();
    let flashed = flashed.map_err(flash_failure)?;
    let seconds = started.elapsed().as_secs_f64();
    let report = FlashReport { image: &args.image, bmap: map_path.as_deref(), disk: &disk, flashed, seconds };
    out.show(&report, |report| {
        let Flashed { image, written } = report.flashed;
        let by = if report.bmap.is_some() { " by its block map" } else { "" };
        out.line(format!(
            "{} is on {}: {} of {} written{by} and read back in {seconds:.0} s",
            args.image.display(),
            args.device.display(),
            bytes(written),
            bytes(image),
        ));
    });
    Ok(())
}

fn read_map(path: &Path) -> Result<Bmap, Failure> {
    let text = volary_host::read_to_string(path)?;
    Ok(Bmap::parse(&text).with_context(|| format!("cannot use {}", path.display()))?)
}

fn said(progress: Progress, disk: &Disk) -> String {
    let name = disk.path.display();
    match progress {
        Progress::Written(done, Some(total)) => {
            format!("writing {name}: {} of {}", bytes(done), bytes(total))
        }
        Progress::Written(done, None) => format!("writing {name}: {}", bytes(done)),
        Progress::Flushing => format!("writing {name}: waiting for the disk"),
        Progress::Verified(done, total) => {
            format!("reading {name} back: {} of {}", bytes(done), bytes(total))
        }
    }
}

fn flash_failure(error: FlashError) -> Failure {
    match &error {
        FlashError::Refused(refusal) => Failure::no(refusal.to_string(), Some(refusal.help().to_owned())),
        FlashError::NoDisk(_) => Failure::with_help(error, "lsblk shows the disks of this machine"),
        FlashError::File(_) | FlashError::Image(_) | FlashError::NotTheMap(_) | FlashError::Lost { .. } => {
            anyhow::Error::from(error).into()
        }
    }
}
