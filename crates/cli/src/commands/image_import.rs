//! `volary image import`: images and artifacts of other tools, kept beside ours.

use std::path::PathBuf;

use clap::Args;
use volary_artifact::{Policy, PublicKey};
use volary_image::{Import, ImportError, import};
use volary_model::{DeviceType, ImageName};

use super::artifact::read_key;
use super::image_build::output_folder;
use crate::failure::Failure;
use crate::out::{Out, bytes};

/// Options of `volary image import`.
#[derive(Args)]
pub struct ImportArgs {
    /// A disk image (packed with gzip, xz or zstd, or not), or an artifact in Mender's format
    file: PathBuf,
    /// The device type; an artifact says its own, unless it is for several
    #[arg(long, value_name = "TYPE")]
    device_type: Option<DeviceType>,
    /// What a disk image is called; an artifact says its own
    #[arg(long)]
    name: Option<ImageName>,
    /// A public key (PEM) of which one must have signed an artifact; may be given several times
    #[arg(long = "key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// The folder that it goes into
    #[arg(long, short, default_value = "images", value_name = "DIR")]
    output: PathBuf,
}

/// Runs it.
pub fn run(args: &ImportArgs, out: &Out) -> Result<(), Failure> {
    let keys: Vec<PublicKey> =
        args.keys.iter().map(|path| read_key(path, PublicKey::from_pem)).collect::<Result<_, _>>()?;
    let policy = if keys.is_empty() { Policy::unsigned() } else { Policy::signed_by(&keys) };
    let output = output_folder(&args.output)?;
    let order = Import {
        file: &args.file,
        device_type: args.device_type.as_ref(),
        name: args.name.as_ref(),
        policy: &policy,
        output: &output,
    };
    let record = import(&order).map_err(failure)?;
    out.show(&record, |record| {
        for file in [&record.disk, &record.artifact].into_iter().flatten() {
            let path = args.output.join(&file.file);
            out.line(format!("{}  {}  {}", path.display(), bytes(file.size), file.digest.short()));
        }
        for partition in &record.partitions {
            let name = if partition.name.is_empty() { "–" } else { &partition.name };
            out.line(format!("  partition {:<3} {name:<12} {}", partition.number, bytes(partition.size)));
        }
        match &record.rootfs {
            Some(rootfs) => out.line(format!("  root {}  {}", bytes(rootfs.size), rootfs.digest.short())),
            None if record.artifact.is_some() => {
                out.line("  its payload is no root file system: volary.lock cannot pin it");
            }
            None => {}
        }
    });
    Ok(())
}

fn failure(error: ImportError) -> Failure {
    let help = match &error {
        ImportError::Missing(_, "name") => "give it with --name",
        ImportError::Missing(..) => "give it with --device-type",
        ImportError::OtherMap(..) | ImportError::Bmap(..) => {
            "take the map that belongs to it, or move it away"
        }
        ImportError::Taken(_) => "give another --name, or another folder with --output",
        _ => return anyhow::Error::from(error).into(),
    };
    Failure::with_help(error, help)
}
