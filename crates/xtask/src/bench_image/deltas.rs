//! What travels from one image to the next, and what it costs the device.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use volary_host::{Cmd, create_dir, read_to_string, write_atomic};
use volary_testkit::{Cache, Lab};

use crate::figures::Figure;
use crate::workspace::Workspace;

/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// A step from the image `before`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Step {
    /// openssl and libssl3
    Small,
    /// All security updates, the kernel included
    Security,
    /// bookworm to trixie
    Trixie,
}

impl Step {
    /// The name of the image that it leads to, and what it is.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Small => ("small", "openssl and libssl3"),
            Self::Security => ("security", "all security updates, the kernel included"),
            Self::Trixie => ("trixie", "bookworm to trixie"),
        }
    }
}

/// A way to bring a device the new image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Method {
    /// All of it
    Gzip,
    /// Ours, any version to any
    Blocks,
    /// Ours, this version to that
    Pair,
    /// RAUC's adaptive method
    Rauc,
    /// casync
    Casync,
    /// xdelta3
    Xdelta,
    /// zstd --patch-from
    Zstd,
}

impl Method {
    /// How the page calls it.
    fn title(self) -> &'static str {
        match self {
            Self::Gzip => "the whole artifact, gzip",
            Self::Blocks => "**block file** (any version to any)",
            Self::Pair => "**pair** (this version to that)",
            Self::Rauc => "RAUC, adaptive (any to any)",
            Self::Casync => "casync, 16 KiB (any to any)",
            Self::Xdelta => "xdelta3 (pair)",
            Self::Zstd => "zstd --patch-from (pair)",
        }
    }
}

/// What one method needs for one step.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Need {
    bytes: u64,
    /// Seconds and MiB on the device, where its program could be run.
    device: Option<(f64, f64)>,
}

/// What the methods need for one step, in the order of the page.
type Needs = Vec<(String, Need)>;

/// Measures these methods on these steps, all of them if none is named. What a step needs is kept, so that they may be
/// measured one by one; docs/deltas.md is made as soon as all are there.
pub fn run(workspace: &Workspace, program: &Path, steps: &[Step], methods: &[Method]) -> anyhow::Result<()> {
    let cache = Cache::open()?;
    let folder = cache.dir().join("deltas");
    create_dir(&folder)?;
    make_images(&folder)?;
    let lab = Lab::open(&cache)?;
    let kept = workspace.target.join("deltas");
    create_dir(&kept)?;
    let place = |step: Step| kept.join(format!("{}.json", step.names().0));
    let all = Step::value_variants();
    for &step in all.iter().filter(|step| steps.is_empty() || steps.contains(step)) {
        let (name, about) = step.names();
        let work = Work { images: &folder, folder: folder.join(name), program, lab: &lab };
        let before = if place(step).exists() { read(&place(step))? } else { Needs::new() };
        let mut needs = Needs::new();
        for &method in Method::value_variants() {
            let title = method.title().to_owned();
            if methods.is_empty() || methods.contains(&method) {
                let need = work.need(name, method)?;
                println!("{name}: {title}: {}", need.words());
                needs.push((title, need));
            } else {
                needs.push((title, of(&before, method)?));
            }
        }
        write_atomic(&place(step), &serde_json::to_vec_pretty(&needs)?, 0o644)?;
        figures(workspace, name, about, &needs)?;
    }
    if !all.iter().all(|&step| place(step).exists()) {
        return Ok(());
    }
    let table: BTreeMap<Step, Needs> =
        all.iter().map(|&step| anyhow::Ok((step, read(&place(step))?))).collect::<Result<_, _>>()?;
    let page = page(&table)?;
    Ok(write_atomic(&workspace.path("docs/deltas.md"), page.as_bytes(), 0o644)?)
}

fn read(place: &Path) -> anyhow::Result<Needs> {
    serde_json::from_str(&read_to_string(place)?).with_context(|| place.display().to_string())
}

fn make_images(folder: &Path) -> anyhow::Result<()> {
    Cmd::new("sh")
        .args(["-c", include_str!("images.sh")])
        .env("TOOLS", folder.join("tools"))
        .cwd(folder)
        .timeout(PATIENCE)
        .check()
        .context("the images cannot be made")?;
    Ok(())
}

struct Work<'a> {
    images: &'a Path,
    /// What is made in between goes here, for each step apart.
    folder: PathBuf,
    program: &'a Path,
    lab: &'a Lab,
}

impl Work<'_> {
    fn image(&self, name: &str) -> PathBuf {
        self.images.join(format!("{name}.ext4"))
    }

    fn need(&self, step: &str, method: Method) -> anyhow::Result<Need> {
        // What a run that was cut off left there would count as chunks that a device has.
        if self.folder.exists() {
            std::fs::remove_dir_all(&self.folder)?;
        }
        create_dir(&self.folder)?;
        let (old, new) = (self.image("before"), self.image(step));
        let out = self.folder.join("out");
        let file = self.folder.join("new");
        let ours = |what: &str| Cmd::new(self.program).arg(what).timeout(PATIENCE);
        let need = match method {
            Method::Gzip => {
                self.run(
                    Cmd::new("sh").args(["-c", "exec gzip -6 <\"$1\" >\"$2\"", "sh"]).arg(&new).arg(&file),
                )?;
                let unpack = Cmd::new("sh").args(["-c", "exec gzip -dc <\"$1\" >\"$2\"", "sh"]);
                let device = self.run(unpack.arg(&file).arg(&out))?;
                Need { bytes: size(&file)?, device: Some(device) }
            }
            Method::Blocks => {
                self.run(ours("blocks").arg(&new).arg(&file).arg("9"))?;
                let (told, device) = self.told(&ours("assemble").arg(&old).arg(&file).arg(&out))?;
                Need { bytes: number_after(&told, "fetched ")?, device: Some(device) }
            }
            Method::Pair => {
                self.run(ours("pair").arg(&old).arg(&new).arg(&file).arg("19"))?;
                let (told, device) = self.told(&ours("apply").arg(&old).arg(&file).arg(&out))?;
                Need { bytes: number_after(&told, "fetched ")?, device: Some(device) }
            }
            Method::Rauc => Need { bytes: rauc(&old, &new)?, device: None },
            Method::Casync => self.casync(&old, &new, &out)?,
            Method::Xdelta => {
                let tool = || Cmd::new("xdelta3").timeout(PATIENCE);
                let encode = tool().args(["-e", "-9", "-S", "djw", "-B", "1073741824", "-f", "-s"]);
                self.run(encode.arg(&old).arg(&new).arg(&file))?;
                let decode = tool().args(["-d", "-B", "67108864", "-f", "-s"]).arg(&old).arg(&file).arg(&out);
                let device = self.run(decode)?;
                Need { bytes: size(&file)?, device: Some(device) }
            }
            Method::Zstd => {
                let from = format!("--patch-from={}", old.display());
                let tool = || Cmd::new("zstd").args(["--long=31", "-q", "-f", &from]).timeout(PATIENCE);
                self.run(tool().arg("-19").arg(&new).arg("-o").arg(&file))?;
                let device =
                    self.run(tool().args(["-d", "--memory=2048MB"]).arg(&file).arg("-o").arg(&out))?;
                Need { bytes: size(&file)?, device: Some(device) }
            }
        };
        if need.device.is_some() {
            same(&out, &new)?;
        }
        std::fs::remove_dir_all(&self.folder)?;
        Ok(need)
    }

    /// CPU seconds and MiB at the peak.
    fn run(&self, command: Cmd) -> anyhow::Result<(f64, f64)> {
        Ok(self.told(&command)?.1)
    }

    fn told(&self, command: &Cmd) -> anyhow::Result<(String, (f64, f64))> {
        // GNU time, which knows the peak of a child; processor time by a control group.
        let measured = command.clone().within(&["time", "--quiet", "--format=peak %M"]);
        let (output, cost) = self.lab.meter("deltas")?.check(&measured)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let peak = number_after(&said, "peak ")? as f64 / 1024.0;
        Ok((output.text(), (cost.cpu.as_secs_f64(), peak)))
    }

    /// Bytes of the chunks that the old image has not, and of the index: chunks of 16 KiB, where casync needs least.
    fn casync(&self, old: &Path, new: &Path, out: &Path) -> anyhow::Result<Need> {
        let folder = &self.folder;
        let make = |name: &str, image: &Path| {
            Cmd::new("casync")
                .args(["make", "--chunk-size=4096:16384:65536", "--compression=zstd"])
                .arg(format!("--store={}", folder.join(name).display()))
                .arg(folder.join(format!("{name}.caibx")))
                .arg(image)
                .timeout(PATIENCE)
                .check()
        };
        make("old", old)?;
        make("new", new)?;
        let chunks = |name: &str| -> anyhow::Result<BTreeMap<String, u64>> {
            let mut chunks = BTreeMap::new();
            for shelf in folder.join(name).read_dir()? {
                for chunk in shelf?.path().read_dir()? {
                    let chunk = chunk?;
                    chunks.insert(chunk.file_name().to_string_lossy().into_owned(), chunk.metadata()?.len());
                }
            }
            Ok(chunks)
        };
        let has = chunks("old")?;
        let lacks = chunks("new")?.into_iter().filter(|(name, _)| !has.contains_key(name));
        let bytes = lacks.map(|(_, size)| size).sum::<u64>() + size(&folder.join("new.caibx"))?;
        let extract = Cmd::new("casync")
            .args(["extract", "--seed-output=no"])
            .arg(format!("--store={}", folder.join("new").display()))
            .arg(format!("--seed={}", old.display()))
            .arg(folder.join("new.caibx"))
            .arg(out)
            .timeout(PATIENCE);
        Ok(Need { bytes, device: Some(self.run(extract)?) })
    }
}

/// What RAUC's adaptive method fetches (block-hash-index, RAUC's manual, "Adaptive Updates"): an index with 32 bytes for each 4 KiB
/// block of the image, and for blocks that no slot has the compressed blocks of the bundle's squashfs that hold them,
/// 128 KiB each and packed as `zstd -15` packs them.
fn rauc(old: &Path, new: &Path) -> anyhow::Result<u64> {
    const BLOCK: usize = 4096;
    const PART: usize = 128 << 10;
    let mut has = HashSet::new();
    each_part(old, PART, &mut |part| {
        has.extend(part.chunks(BLOCK).map(|block| <[u8; 32]>::from(Sha256::digest(block))));
        Ok(())
    })?;
    let mut bytes = 0;
    each_part(new, PART, &mut |part| {
        bytes += 32 * part.len().div_ceil(BLOCK) as u64;
        let lacks = |block: &[u8]| {
            block.iter().any(|&byte| byte != 0) && !has.contains(&<[u8; 32]>::from(Sha256::digest(block)))
        };
        if part.chunks(BLOCK).any(lacks) {
            let packed = Cmd::new("zstd").args(["-15", "-q", "-c"]).stdin(part).timeout(PATIENCE).check()?;
            bytes += packed.stdout.len() as u64;
        }
        Ok(())
    })?;
    Ok(bytes)
}

fn each_part(
    path: &Path,
    size: usize,
    each: &mut dyn FnMut(&[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut file = File::open(path)?;
    let mut part = vec![0; size];
    let length = file.metadata()?.len();
    for at in (0..length).step_by(size) {
        let part = &mut part[..size.min((length - at) as usize)];
        file.read_exact(part)?;
        each(part)?;
    }
    Ok(())
}

fn same(a: &Path, b: &Path) -> anyhow::Result<()> {
    let same = Cmd::new("cmp").arg(a).arg(b).run()?;
    ensure!(same.status.success(), "{} is not what it should be: {}", a.display(), b.display());
    Ok(std::fs::remove_file(a)?)
}

fn size(path: &Path) -> anyhow::Result<u64> {
    Ok(std::fs::metadata(path)?.len())
}

pub(super) fn number_after(text: &str, word: &str) -> anyhow::Result<u64> {
    let rest = text.split_once(word).with_context(|| format!("no {word:?} in {text:?}"))?.1;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().with_context(|| format!("no number after {word:?} in {text:?}"))
}

impl Need {
    fn words(&self) -> String {
        let bytes = format!("{:.2} MB", self.bytes as f64 / 1e6);
        match self.device {
            None => bytes,
            Some((cpu, memory)) => format!("{bytes}, {cpu:.1} s, {memory:.0} MiB"),
        }
    }
}

fn of(needs: &Needs, method: Method) -> anyhow::Result<Need> {
    let title = method.title();
    let found = needs.iter().find(|(name, _)| name == title).map(|(_, need)| *need);
    found.with_context(|| format!("{title} was not measured before"))
}

fn figures(workspace: &Workspace, step: &str, about: &str, needs: &Needs) -> anyhow::Result<()> {
    let mb = |method| of(needs, method).map(|need| need.bytes as f64 / 1e6);
    for (name, ours, peer, words) in [
        (
            "blocks-rauc",
            Method::Blocks,
            Method::Rauc,
            "bytes of the block file that a device fetches, beside RAUC's adaptive method",
        ),
        (
            "blocks-casync",
            Method::Blocks,
            Method::Casync,
            "bytes of the block file that a device fetches, beside casync",
        ),
        ("pair-xdelta", Method::Pair, Method::Xdelta, "bytes of the pair, beside xdelta3"),
        ("pair-zstd", Method::Pair, Method::Zstd, "bytes of the pair, beside zstd --patch-from"),
    ] {
        Figure::new(
            workspace,
            &format!("delta-{step}-{name}"),
            &format!("{about}: {words}"),
            (mb(ours)?, "MB"),
            0.0,
        )?
        .beside((mb(peer)?, "MB"))
        .times_less(1.0)
        .by("make bench-image")
        .publish(workspace)?;
    }
    let (_, memory) = of(needs, Method::Pair)?.device.context("it was run")?;
    let meaning = format!("{about}: memory of the program that applies the pair");
    Figure::new(workspace, &format!("delta-{step}-pair-memory"), &meaning, (memory, "MiB"), 16.0)?
        .by("make bench-image")
        .publish(workspace)
}

fn page(table: &BTreeMap<Step, Needs>) -> anyhow::Result<String> {
    let mut page = String::from(
        "# What travels from one image to the next\n\nMade by `make bench-image`. Images are ext4 of 1 GiB with some 550 MB in them, \
         from bookworm with a cloud kernel, ssh, Ansible and git. Each cell: bytes that the device fetches, index included; \
         CPU and memory of the program that applies them, where it could be run beside ours. A device of any method also writes the \
         image.\n\n| method |",
    );
    for step in table.keys() {
        write!(page, " {} |", step.names().1)?;
    }
    page.push_str("\n|---|---|---|---|\n");
    for &method in Method::value_variants() {
        write!(page, "| {} |", method.title())?;
        for needs in table.values() {
            write!(page, " {} |", of(needs, method)?.words())?;
        }
        page.push('\n');
    }
    page.push_str(
        "\nRAUC's row is computed from its format, since it runs on devices only: the index, and the squashfs blocks that hold what no slot \
         has. casync's is the sum of the chunks that are missing, and its index.\n\
         How ours work: [block files](decisions/2026-11-26-block-files.md).\n",
    );
    Ok(page)
}
