//! Installs an artifact into a slot as the agent does, with nothing around it, for a benchmark: `make bench-image`
//! measures it beside Mender's client.
//!
//!     install_image ARTIFACT SLOT DEVICE_TYPE NAME SHA256_OF_ARTIFACT SHA256_OF_ROOTFS
//!
//! Prints how much of the slot was written.

#![allow(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;

use volary_agent::http::HttpError;
use volary_agent::paths::Paths;
use volary_agent::slots::Slots;
use volary_agent::slots::install::install;
use volary_agent::slots::source::Fetch;
use volary_boot::{BootState, Loader, Place};
use volary_device::Image;
use volary_host::{create_dir, write_atomic};
use volary_model::Slot;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// An artifact in a file of this machine, and nothing beside it.
struct InFile(String);

impl Fetch for InFile {
    fn open(&self, beside: &str, range: Range<u64>) -> std::result::Result<Option<Box<dyn Read>>, HttpError> {
        let Ok(mut file) = fs::File::open(self.name(beside)) else { return Ok(None) };
        if file.seek(SeekFrom::Start(range.start)).is_err() {
            return Ok(None);
        }
        Ok(Some(Box::new(file.take(range.end - range.start))))
    }

    fn name(&self, beside: &str) -> String {
        format!("{}{beside}", self.0)
    }
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [artifact, slot, device_type, name, digest, rootfs] = args.as_slice() else {
        return Err("usage: install_image ARTIFACT SLOT DEVICE_TYPE NAME DIGEST ROOTFS".into());
    };
    let root = tempfile::tempdir()?;
    device(root.path(), slot, device_type)?;
    let paths = Paths::below(root.path());
    paths.prepare()?;
    let slots = Slots::open(&paths)?.ok_or("there is no slots.json")?;
    let image = Image {
        name: name.parse()?,
        artifact: digest.parse()?,
        size: fs::metadata(artifact)?.len(),
        rootfs: rootfs.parse()?,
        manifest: None,
        from: None,
        into: Slot::B,
    };
    let installed = install(&slots, &image, &InFile(artifact.clone()))?;
    println!("{} bytes, {} written", installed.length, installed.written);
    Ok(())
}

/// A device that runs from slot A, and whose slot B is `slot`.
fn device(root: &Path, slot: &str, device_type: &str) -> Result<()> {
    let put = |path: &str, bytes: &[u8]| -> Result<()> {
        let path = root.join(path);
        create_dir(path.parent().ok_or("it has a folder")?)?;
        Ok(write_atomic(&path, bytes, 0o600)?)
    };
    put("proc/cmdline", b"volary.slot=a\n")?;
    let slots = r#"{"version": 1, "loader": "grub", "bootenv": "/dev/bootenv", "a": "/dev/slot-a",
                    "b": "/dev/slot-b", "data": "/data"}"#;
    put("etc/volary/slots.json", slots.as_bytes())?;
    let image = format!(r#"{{"version": 1, "device_type": "{device_type}", "name": "before"}}"#);
    put("etc/volary/image.json", image.as_bytes())?;
    put("dev/slot-a", &[0; 4096])?;
    let mut bootenv = vec![0; 1 << 20];
    for write in Loader::Grub.initial(BootState::confirmed(Slot::A)) {
        let Place::Offset(at) = write.place else { return Err("GRUB's state has offsets".into()) };
        bootenv[at as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
    }
    put("dev/bootenv", &bootenv)?;
    Ok(std::os::unix::fs::symlink(slot, root.join("dev/slot-b"))?)
}
