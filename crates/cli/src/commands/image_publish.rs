//! `volary image publish`, `list`, `show` and `remove`: the images that the server has.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use clap::Args;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use volary_api::client::Client;
use volary_api::v1::image::Image;
use volary_artifact::{Policy, Reader};
use volary_model::{DeviceType, Digest};

use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago, bytes};
use crate::progress::Line;

/// Options of `volary image publish`.
#[derive(Args)]
pub struct PublishArgs {
    /// The artifact: what `volary image build` and `volary artifact write` make
    file: PathBuf,
}

/// Which image.
#[derive(Args)]
pub struct OneArgs {
    /// Its name, TYPE=NAME if several device types have one of that name, or the SHA-256 of its artifact
    image: String,
}

/// Runs `volary image publish`.
pub fn publish(args: &PublishArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    let size = open(&args.file)?.metadata()?.len();
    let mut line = Line::new(out);
    // Here first: a broken file is not worth the way to the server, nor is one that it has.
    let artifact = checked(&args.file, size, &mut line)?;
    let known: Vec<Image> = client.get("/api/v1/images")?;
    let (image, is_new) = match known.into_iter().find(|image| image.artifact == artifact) {
        Some(image) => (image, false),
        None => {
            let mut told = Told { of: open(&args.file)?, done: 0, size, verb: "sending", line: &mut line };
            let path = format!("/api/v1/images?digest={artifact}");
            (client.put_for(&path, &mut told)?, true)
        }
    };
    line.end();
    let published = Published { image, is_new };
    out.show(&published, |published| {
        let Published { image, is_new } = published;
        let verb = if *is_new { "is published" } else { "was published already" };
        out.line(format!("{} for {} {verb}, {}", image.name, types(image), bytes(image.size)));
        if image.rootfs_size.is_some() {
            for device_type in &image.device_types {
                out.line(format!("help: pin it with: volary bump --image {device_type}={}", image.name));
            }
        } else {
            out.line("help: devices that have what it needs get it in place of the whole image");
        }
    });
    Ok(())
}

/// An image, and whether the server had it already.
#[derive(Serialize)]
struct Published {
    #[serde(flatten)]
    image: Image,
    is_new: bool,
}

fn open(path: &Path) -> Result<File, Failure> {
    Ok(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
}

/// Checks an artifact to its end; returns its digest.
fn checked(path: &Path, size: u64, line: &mut Line) -> Result<Digest, Failure> {
    let mut hashed =
        Hashed { of: Told { of: open(path)?, done: 0, size, verb: "checking", line }, sum: Sha256::new() };
    Reader::open(&mut hashed, &Policy::unsigned())
        .and_then(Reader::finish)
        .with_context(|| format!("{} is not a sound artifact", path.display()))?;
    Ok(Digest::from_bytes(hashed.sum.finalize().into()))
}

struct Hashed<R> {
    of: R,
    sum: Sha256,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.of.read(buffer)?;
        self.sum.update(&buffer[..count]);
        Ok(count)
    }
}

/// A file that tells how far it was read.
struct Told<'a> {
    of: File,
    done: u64,
    size: u64,
    verb: &'static str,
    line: &'a mut Line,
}

impl Read for Told<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.of.read(buffer)?;
        self.done += count as u64;
        let percent = self.done * 100 / self.size.max(1);
        self.line.show(&format!("{} {percent} % of {}", self.verb, bytes(self.size)));
        Ok(count)
    }
}

/// Runs `volary image list`.
pub fn list(connection: &Connection, out: &Out) -> Result<(), Failure> {
    let images: Vec<Image> = connection.client()?.get("/api/v1/images")?;
    out.show(&images, |images| {
        let row = |image: &Image| {
            let pinned: Vec<&str> = image.pinned_by.iter().map(|stage| stage.as_str()).collect();
            vec![
                image.name.to_string(),
                types(image),
                image.kind.clone(),
                bytes(image.size),
                ago(image.published_at),
                if pinned.is_empty() { "–".into() } else { pinned.join(", ") },
                image.artifact.short(),
            ]
        };
        out.table(
            &["IMAGE", "FOR", "PAYLOAD", "SIZE", "PUBLISHED", "PINNED BY", "ARTIFACT"],
            images.iter().map(row).collect(),
            "no images yet; publish one with: volary image publish FILE",
        );
    });
    Ok(())
}

/// Runs `volary image show`.
pub fn show(args: &OneArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let image = find(&connection.client()?, &args.image)?;
    out.show(&image, |image| {
        let row = |name: &str, value: &str| out.line(format!("{name:<13}{value}"));
        row("image", image.name.as_str());
        row("for", &types(image));
        row("artifact", &format!("{}, {}", image.artifact, bytes(image.size)));
        let whole = image.rootfs_size.map(|size| format!(", {}", bytes(size))).unwrap_or_default();
        row("rootfs", &format!("{}{whole}", image.rootfs));
        row("payload", &image.kind);
        for (key, values) in &image.depends {
            row("needs", &format!("{key}={}", values.join(" or ")));
        }
        row("signed by", image.signed_by.as_deref().unwrap_or("the server does not ask"));
        row("published", &format!("by {} {}", image.published_by, ago(image.published_at)));
        image.kept.iter().for_each(|why| row("kept", why));
        if image.kept.is_empty() {
            row("kept", &out.tone(Tone::Warn, "no: it goes with the next housekeeping"));
        }
    });
    Ok(())
}

/// Runs `volary image remove`.
pub fn remove(args: &OneArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    let image = find(&client, &args.image)?;
    let removed: Image = client.delete_for(&format!("/api/v1/images/{}", image.artifact.hex()))?;
    out.show(&removed, |image| {
        out.line(format!("{} for {} is gone, {} are free", image.name, types(image), bytes(image.size)));
    });
    Ok(())
}

fn types(image: &Image) -> String {
    let types: Vec<&str> = image.device_types.iter().map(DeviceType::as_str).collect();
    types.join(", ")
}

/// The one image that a text means.
fn find(client: &Client, text: &str) -> Result<Image, Failure> {
    let images: Vec<Image> = client.get("/api/v1/images")?;
    let mut found = matching(&images, text);
    match found.len() {
        1 => Ok(found.remove(0).clone()),
        0 => Err(Failure::with_help(
            anyhow!("the server has no image {text}"),
            "see those that it has with: volary image list",
        )),
        several => {
            let artifacts: Vec<String> = found.iter().map(|image| image.artifact.hex()).collect();
            Err(Failure::with_help(
                anyhow!("{several} images are called {text}"),
                format!("name one by its artifact: {}", artifacts.join(", ")),
            ))
        }
    }
}

fn matching<'a>(images: &'a [Image], text: &str) -> Vec<&'a Image> {
    let hex = text.trim_start_matches("sha256:");
    let (device_type, name) = match text.split_once('=') {
        Some((device_type, name)) => (Some(device_type), name),
        None => (None, text),
    };
    let is_meant = |image: &&Image| {
        let is_for = |wanted: &str| image.device_types.iter().any(|known| known.as_str() == wanted);
        image.artifact.hex() == hex || (image.name.as_str() == name && device_type.is_none_or(is_for))
    };
    images.iter().filter(is_meant).collect()
}

/// The whole image of this name for a device type, to pin it.
pub fn to_pin(client: &Client, device_type: &DeviceType, name: &str) -> Result<Image, Failure> {
    let images: Vec<Image> = client.get("/api/v1/images")?;
    let for_type: Vec<&Image> = images
        .iter()
        .filter(|image| image.rootfs_size.is_some() && image.device_types.contains(device_type))
        .collect();
    let found = for_type.iter().find(|image| image.name.as_str() == name).copied();
    found.cloned().ok_or_else(|| {
        let known: Vec<String> = for_type.iter().map(|image| image.name.to_string()).collect();
        let help = match known.is_empty() {
            true => "publish one with: volary image publish FILE".to_owned(),
            false => format!("it has: {}", volary_plan::text::some(&known, 5)),
        };
        Failure::with_help(anyhow!("the server has no image {name} for {device_type}"), help)
    })
}
