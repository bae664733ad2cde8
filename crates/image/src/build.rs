//! One image from one order, step by step.

use std::fs::File;
use std::io::{BufReader, BufWriter};
use std::ops::Range;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use volary_artifact::{Depends, Draft, PayloadDraft, Source, WriteOptions};
use volary_boot::Place;
use volary_host::{FileError, NewFile, create_dir, write_atomic};
use volary_model::{BootFile, BootLoader, DeviceType, Digest, ImageName, Slot, StageName};

use crate::bill::{self, InstalledPackage, Subject};
use crate::disk::{self, Part};
use crate::error::BuildError;
use crate::filesystem::{self, Ext4};
use crate::layout::{Layout, Sizes, TableKind};
use crate::order::{BuildEvent, Order};
use crate::read_table::FoundPartition;
use crate::rootfs::{self, Root};
use crate::sweep::{self, Fate, Ours, Swept};
use crate::tools::Tools;
use crate::{boot_partition, contents};

/// dpkg's list of what is installed.
const STATUS: &str = "var/lib/dpkg/status";

/// A file of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageFile {
    /// Its name, in the folder of the image.
    pub file: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub digest: Digest,
}

/// What is known of an image: `NAME.json` beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ImageRecord {
    /// The version of this format: 1.
    pub version: u32,
    /// The device type.
    pub device_type: DeviceType,
    /// What the image is called.
    pub name: ImageName,
    /// The stage that it was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<StageName>,
    /// The disk to flash.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk: Option<ImageFile>,
    /// The update artifact.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub artifact: Option<ImageFile>,
    /// The root file system in both, as it stands in a slot: its size and digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rootfs: Option<RootfsRecord>,
    /// The partitions of a disk that others made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<FoundPartition>,
    /// Who made it.
    pub maker: String,
}

/// A root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootfsRecord {
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub digest: Digest,
}

/// Makes an image: the disk with its block map, the update artifact, and beside them `.packages`,
/// `.spdx.json`, `.provenance.json` and the record itself as `.json`. Equal orders give equal bytes.
///
/// # Errors
/// [`BuildError`]; nothing is then left under the image's names.
pub fn build(order: &Order<'_>, on_event: &mut dyn FnMut(BuildEvent<'_>)) -> Result<ImageRecord, BuildError> {
    create_dir(order.output)?;
    let work = tempfile::Builder::new()
        .prefix(".image-")
        .tempdir_in(order.output)
        .map_err(FileError::at("write in", order.output))?;
    let builder = Builder { order, work: work.path(), layout: layout(order) };
    builder.run(on_event)
}

/// How the disk of an order is divided.
fn layout(order: &Order<'_>) -> Layout {
    let recipe = order.recipe;
    let table = if recipe.gpt { TableKind::Gpt } else { TableKind::Mbr };
    let sizes = Sizes { boot: recipe.boot_size, root: recipe.root_size, data: recipe.data_size };
    Layout::two_slots(table, sizes, order.device_type.as_str())
}

struct Builder<'a> {
    order: &'a Order<'a>,
    work: &'a Path,
    layout: Layout,
}

impl Builder<'_> {
    fn run(&self, on_event: &mut dyn FnMut(BuildEvent<'_>)) -> Result<ImageRecord, BuildError> {
        let order = self.order;
        on_event(BuildEvent::Step("fetching the tools"));
        let grub = (order.recipe.loader == BootLoader::GrubEfi).then_some(&order.recipe.architecture);
        let tools = Tools::ensure(order.cache, &order.recipe.mirror, grub, &mut |line| {
            on_event(BuildEvent::Said(line));
        })?;
        on_event(BuildEvent::Step("installing packages"));
        let root = rootfs::make(order, self.work, &mut |line| on_event(BuildEvent::Said(line)))?;
        on_event(BuildEvent::Step("cleaning up the root"));
        let swept = self.sweep(&root)?;
        let packages = installed(&swept)?;
        on_event(BuildEvent::Step("making file systems"));
        let rootfs = self.work.join("root.ext4");
        self.ext4(&tools, "root", order.recipe.root_size, &self.work.join("swept.tar"), &rootfs)?;
        let data = self.data(&tools)?;
        let boot = self.boot(&tools, &swept)?;
        on_event(BuildEvent::Step("putting the disk together"));
        let disk = self.disk(&tools, &rootfs, &data, &boot)?;
        on_event(BuildEvent::Step("writing the artifact"));
        let (artifact, rootfs_digest) = self.artifact(&rootfs)?;
        let record = ImageRecord {
            version: 1,
            device_type: order.device_type.clone(),
            name: order.name.clone(),
            stage: Some(order.stage.clone()),
            disk: Some(disk),
            artifact: Some(artifact),
            rootfs: Some(RootfsRecord { size: order.recipe.root_size, digest: rootfs_digest }),
            partitions: Vec::new(),
            maker: order.maker.to_owned(),
        };
        on_event(BuildEvent::Step("describing it"));
        self.describe(&record, &packages, &root, &tools)?;
        Ok(record)
    }

    /// A file of the image.
    fn target(&self, ending: &str) -> PathBuf {
        self.order.output.join(self.name(ending))
    }

    fn name(&self, ending: &str) -> String {
        format!("{}-{}{ending}", self.order.device_type, self.order.name)
    }

    fn sweep(&self, root: &Root) -> Result<Swept, BuildError> {
        let order = self.order;
        let ours = contents::root(order.recipe, &self.layout, order.device_type, order.name);
        let is_boot_file = |path: &str| {
            order.recipe.boot_files.values().any(|file| match file {
                BootFile::Root(wanted) if wanted.ends_with('/') => path.starts_with(&wanted[1..]),
                // What a link leads to lies beside it, or in /boot.
                BootFile::Root(wanted) => {
                    boot_partition::matches(&wanted[1..], path) || is_beside(path, &wanted[1..])
                }
                BootFile::Fleet(_) => false,
            })
        };
        let fate = |path: &str, is_folder: bool| match ours.get(path) {
            Some(Ours::Folder(_)) | None => match path {
                STATUS | "vmlinuz" => Fate::Read,
                _ if is_boot_file(path) && !is_folder => Fate::Read,
                _ => sweep::fate(path, is_folder),
            },
            Some(Ours::File(..) | Ours::Link(_)) => Fate::Drop,
        };
        let failed = || FileError::at("read", &root.tar);
        let mut input = BufReader::with_capacity(1 << 20, File::open(&root.tar).map_err(failed())?);
        let path = self.work.join("swept.tar");
        let write = || FileError::at("write", &path);
        let mut output = BufWriter::with_capacity(1 << 20, File::create(&path).map_err(write())?);
        let swept = sweep::sweep(&mut input, &mut output, &fate).map_err(failed())?;
        if !swept.links.contains_key("vmlinuz") && !swept.files.contains_key("vmlinuz") {
            return Err(BuildError::NoKernel(order.recipe.kernel.to_string()));
        }
        sweep::add(&mut output, &swept, &ours, order.epoch).map_err(write())?;
        sweep::finish(&mut output).map_err(write())?;
        volary_host::remove_if_exists(&root.tar)?;
        Ok(swept)
    }

    fn ext4(
        &self,
        tools: &Tools,
        what: &'static str,
        size: u64,
        tar: &Path,
        path: &Path,
    ) -> Result<(), BuildError> {
        let ext4 = Ext4 { what, seed: self.order.device_type.as_str(), size, can_grow: what == "data" };
        filesystem::ext4(tools, &ext4, tar, path)
    }

    fn data(&self, tools: &Tools) -> Result<PathBuf, BuildError> {
        let tar = self.work.join("data.tar");
        let mut bytes = Vec::new();
        let time = self.order.epoch;
        sweep::add(&mut bytes, &Swept::default(), &contents::data(self.order.device_type), time)
            .and_then(|()| sweep::finish(&mut bytes))
            .map_err(FileError::at("write", &tar))?;
        write_atomic(&tar, &bytes, 0o644)?;
        let path = self.work.join("data.ext4");
        self.ext4(tools, "data", self.order.recipe.data_size, &tar, &path)?;
        Ok(path)
    }

    fn boot(&self, tools: &Tools, swept: &Swept) -> Result<PathBuf, BuildError> {
        let order = self.order;
        let folder = self.work.join("boot");
        boot_partition::fill(order.recipe, &self.layout, swept, order.fleet, tools, order.epoch, &folder)?;
        let path = self.work.join("boot.fat");
        let (label, seed) = (contents::boot_label(order.recipe), order.device_type.as_str());
        filesystem::fat(tools, &folder, &path, order.recipe.boot_size, label, seed, order.epoch)?;
        Ok(path)
    }

    fn disk(&self, tools: &Tools, rootfs: &Path, data: &Path, boot: &Path) -> Result<ImageFile, BuildError> {
        let whole: Range<u64> = 0..self.order.recipe.boot_size;
        let parts = [
            Part { name: "boot", path: boot, used: vec![whole] },
            Part { name: "root-a", path: rootfs, used: filesystem::used(tools, rootfs)? },
            Part { name: "data", path: data, used: filesystem::used(tools, data)? },
        ];
        let state = volary_boot::BootState::confirmed(Slot::A);
        let writes = boot_partition::state_loader(self.order.recipe).initial(state);
        let raw: Vec<_> = writes
            .into_iter()
            .filter_map(|write| match write.place {
                Place::Offset(offset) => Some((offset, write.bytes)),
                Place::File(_) => None,
            })
            .collect();
        let unfinished = self.work.join("disk.img");
        let disk = disk::assemble(&self.layout, &raw, &parts, &unfinished)?;
        write_atomic(&self.target(".img.bmap"), disk.bmap.to_text().as_bytes(), 0o644)?;
        let path = self.target(".img");
        std::fs::rename(&unfinished, &path).map_err(FileError::at("write", &path))?;
        Ok(ImageFile { file: self.name(".img"), size: self.layout.size, digest: disk.digest })
    }

    fn artifact(&self, rootfs: &Path) -> Result<(ImageFile, Digest), BuildError> {
        let order = self.order;
        let file = File::open(rootfs).map_err(FileError::at("read", rootfs))?;
        let content = BufReader::with_capacity(1 << 20, file);
        // Its name is part of the artifact's content.
        let source = Source::new(format!("{}.ext4", order.device_type), order.recipe.root_size, content);
        let draft = Draft {
            name: order.name.to_string(),
            depends: Depends { device_types: vec![order.device_type.to_string()], ..Depends::default() },
            payloads: vec![PayloadDraft::rootfs_image(order.name.as_str(), source)],
            ..Draft::default()
        };
        let options = WriteOptions { encoding: order.encoding, key: order.key, ..WriteOptions::default() };
        let path = self.target(".mender");
        let mut file = NewFile::create(&path, 0o644)?;
        let written = volary_artifact::write(file.file(), draft, &options)?;
        file.keep()?;
        let digest = File::open(&path)
            .and_then(|mut file| disk::sum(&mut file))
            .map_err(FileError::at("read", &path))?;
        let rootfs = written.info.payloads[0].files[0].digest;
        Ok((ImageFile { file: self.name(".mender"), size: written.size, digest }, rootfs))
    }

    fn describe(
        &self,
        record: &ImageRecord,
        packages: &[InstalledPackage],
        root: &Root,
        tools: &Tools,
    ) -> Result<(), BuildError> {
        let order = self.order;
        let created = i64::try_from(order.epoch)
            .ok()
            .and_then(|seconds| Timestamp::from_second(seconds).ok())
            .unwrap_or_default()
            .to_string();
        let rootfs = record.rootfs.as_ref().expect("a build has one").digest;
        let name = format!("{} {}", order.device_type, order.name);
        let subject = Subject {
            name: &name,
            suite: &order.recipe.suite,
            rootfs,
            created: &created,
            maker: order.maker,
        };
        let provenance = self.provenance(record, root, tools)?;
        write_atomic(&self.target(".packages"), bill::list(packages).as_bytes(), 0o644)?;
        for (ending, value) in [
            (".spdx.json", &bill::spdx(packages, &subject)),
            (".provenance.json", &provenance),
            (".json", &serde_json::to_value(record).expect("a record is plain data")),
        ] {
            let text = serde_json::to_string_pretty(value).expect("it is plain data");
            write_atomic(&self.target(ending), format!("{text}\n").as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// An in-toto statement with SLSA's provenance, version 1.
    fn provenance(&self, record: &ImageRecord, root: &Root, tools: &Tools) -> Result<Value, BuildError> {
        let order = self.order;
        let subject =
            |file: &ImageFile| json!({ "name": file.file, "digest": { "sha256": file.digest.hex() } });
        let subjects: Vec<Value> =
            [&record.disk, &record.artifact].into_iter().flatten().map(subject).collect();
        let mut inputs: Vec<Value> = root
            .lists
            .lines()
            .filter_map(|line| line.split_once("  "))
            .map(|(sum, name)| json!({ "name": format!("apt list {name}"), "digest": { "sha256": sum } }))
            .collect();
        let recipe = order.recipe_digest.hex();
        inputs.push(json!({ "name": format!("device-types/{}.yml", order.device_type), "digest": { "sha256": recipe } }));
        if let Some(commit) = order.commit {
            inputs.push(json!({ "name": "fleet repository", "digest": { "gitCommit": commit } }));
        }
        if let Some(agent) = order.agent {
            let digest = File::open(agent).and_then(|mut file| disk::sum(&mut file));
            let digest = digest.map_err(FileError::at("read", agent))?.hex();
            inputs.push(json!({ "name": "volary-agent", "digest": { "sha256": digest } }));
        }
        for (name, digest) in tools.digests()? {
            inputs.push(json!({ "name": format!("tool {name}"), "digest": { "sha256": digest.hex() } }));
        }
        Ok(json!({
            "_type": "https://in-toto.io/Statement/v1",
            "subject": subjects,
            "predicateType": "https://slsa.dev/provenance/v1",
            "predicate": {
                "buildDefinition": {
                    "buildType": "urn:volary:image-build:1",
                    "externalParameters": {
                        "deviceType": order.device_type, "name": order.name, "stage": order.stage,
                        "sourceDateEpoch": order.epoch,
                    },
                    "resolvedDependencies": inputs,
                },
                "runDetails": { "builder": { "id": format!("urn:volary:{}", order.maker) } },
            },
        }))
    }
}

/// True if `path` could be what the link `link` leads to.
fn is_beside(path: &str, link: &str) -> bool {
    let (folder, name) = link.rsplit_once('/').unwrap_or(("", link));
    let inside = path.strip_prefix(folder).map(|rest| rest.trim_start_matches('/'));
    let stem = name.split('.').next().unwrap_or(name);
    let target = inside.or(path.strip_prefix("boot/"));
    target.is_some_and(|rest| rest.trim_start_matches("boot/").starts_with(stem))
}

fn installed(swept: &Swept) -> Result<Vec<InstalledPackage>, BuildError> {
    let status =
        swept.files.get(STATUS).ok_or_else(|| BuildError::Packages(format!("there is no /{STATUS}")))?;
    bill::installed(&String::from_utf8_lossy(status))
}
