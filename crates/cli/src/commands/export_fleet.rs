//! `volary export-fleet`: what devices need of the fleet, as folders of plain files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;
use volary_fleet::{ReadObjects, write_mirror};
use volary_model::{CommitId, DeviceName, StageName};

use super::fleet::read_fleet;
use crate::failure::Failure;
use crate::out::Out;
use crate::workdir::WorkDir;

/// Options of `volary export-fleet`.
#[derive(Args)]
pub struct ExportFleetArgs {
    /// A device, by its name in the inventory; may be given several times
    #[arg(long = "device", value_name = "NAME", required = true)]
    devices: Vec<DeviceName>,
    /// The folder: a USB stick, or what a web server serves; each device has a folder of its own in it
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Do not ask the server for what is new first
    #[arg(long)]
    offline: bool,
}

/// What was written for a device.
#[derive(Serialize)]
struct Exported {
    device: DeviceName,
    folder: PathBuf,
    stages: BTreeMap<StageName, CommitId>,
    objects: usize,
    new: usize,
}

/// Runs `volary export-fleet`.
pub fn run(args: &ExportFleetArgs, out: &Out) -> Result<(), Failure> {
    let work = WorkDir::find()?;
    if !args.offline {
        work.fetch()?;
    }
    let fleet = read_fleet(&work)?;
    let objects = work.objects()?;
    let mut stages = BTreeMap::new();
    for stage in &fleet.stages {
        // A branch that does not exist yet is no reason to keep the others from the devices.
        if let Some(tip) = objects.resolve(&format!("refs/remotes/origin/{}", stage.branch))? {
            objects.commit(&tip)?;
            stages.insert(stage.name.clone(), tip);
        }
    }
    if stages.is_empty() {
        let help = "this clone has no branch of a stage; fetch them: git fetch origin";
        return Err(Failure::with_help(anyhow!("there is nothing to export"), help));
    }
    let mut exported = Vec::new();
    for device in &args.devices {
        let folder = args.to.join(device.as_str());
        let summary = write_mirror(&objects, &stages, device, &folder)?;
        exported.push(Exported {
            device: device.clone(),
            folder,
            stages: stages.clone(),
            objects: summary.objects,
            new: summary.new,
        });
    }
    out.show(&exported, |exported| {
        for one in exported {
            let folder = one.folder.display();
            out.line(format!("{}: {} objects in {folder}, {} of them new", one.device, one.objects, one.new));
        }
        out.line("on the device: volary-agent run --from DIR");
    });
    Ok(())
}
