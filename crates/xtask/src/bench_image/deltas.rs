//! What travels from one image to the next, and what it costs the device.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use volary_host::{Cmd, create_dir, read_to_string, write_atomic};
use volary_testkit::{Cache, Lab};

use crate::figures::Figure;
use crate::workspace::Workspace;

/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The steps from the image `before`.
const STEPS: [(&str, &str); 3] = [
    ("small", "openssl and libssl3"),
    ("security", "all security updates, the kernel included"),
    ("trixie", "bookworm to trixie"),
];

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

/// Measures all methods on these steps, all of them if none is named. What a step needs is kept, so that the steps may be
/// measured one by one; docs/deltas.md is made as soon as all are there.
pub fn run(workspace: &Workspace, program: &Path, steps: &[String]) -> anyhow::Result<()> {
    let cache = Cache::open()?;
    let folder = cache.dir().join("deltas");
    create_dir(&folder)?;
    make_images(&folder)?;
    let lab = Lab::open(&cache)?;
    let kept = workspace.target.join("deltas");
    create_dir(&kept)?;
    let place = |step: &str| kept.join(format!("{step}.json"));
    for (step, about) in STEPS {
        if !steps.is_empty() && !steps.iter().any(|wanted| wanted == step) {
            continue;
        }
        let work = Work { images: &folder, folder: folder.join(step), program, lab: &lab };
        let needs = work.step(step)?;
        for (method, need) in &needs {
            println!("{step}: {method}: {}", need.words());
        }
        write_atomic(&place(step), &serde_json::to_vec_pretty(&needs)?, 0o644)?;
        figures(workspace, step, about, &needs)?;
    }
    let mut table = BTreeMap::new();
    for (step, _) in STEPS {
        if !place(step).exists() {
            return Ok(());
        }
        let text = read_to_string(&place(step))?;
        let needs: Needs = serde_json::from_str(&text).with_context(|| place(step).display().to_string())?;
        table.insert(step, needs);
    }
    let page = page(&table)?;
    Ok(write_atomic(&workspace.path("docs/deltas.md"), page.as_bytes(), 0o644)?)
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

    fn step(&self, step: &str) -> anyhow::Result<Needs> {
        create_dir(&self.folder)?;
        let (old, new) = (self.image("before"), self.image(step));
        let out = self.folder.join("out");
        let file = |end: &str| self.folder.join(format!("new.{end}"));
        let ours = |what: &str| Cmd::new(self.program).arg(what).timeout(PATIENCE);
        let mut needs: Vec<(&str, Need)> = Vec::new();

        let artifact = file("gz");
        self.run(Cmd::new("sh").args(["-c", "exec gzip -6 <\"$1\" >\"$2\"", "sh"]).arg(&new).arg(&artifact))?;
        let device = self.run(
            Cmd::new("sh").args(["-c", "exec gzip -dc <\"$1\" >\"$2\"", "sh"]).arg(&artifact).arg(&out),
        )?;
        needs.push(("the whole artifact, gzip", Need { bytes: size(&artifact)?, device: Some(device) }));

        let blocks = file("blocks");
        self.run(ours("blocks").arg(&new).arg(&blocks).arg("9"))?;
        let (told, device) = self.told(&ours("assemble").arg(&old).arg(&blocks).arg(&out))?;
        same(&out, &new)?;
        needs.push((BLOCKS, Need { bytes: number_after(&told, "fetched ")?, device: Some(device) }));

        let pair = file("pair");
        self.run(ours("pair").arg(&old).arg(&new).arg(&pair).arg("19"))?;
        let (told, device) = self.told(&ours("apply").arg(&old).arg(&pair).arg(&out))?;
        same(&out, &new)?;
        needs.push((PAIR, Need { bytes: number_after(&told, "fetched ")?, device: Some(device) }));

        needs.push((RAUC, Need { bytes: rauc(&old, &new)?, device: None }));
        needs.push((CASYNC, Need { bytes: self.casync(&old, &new)?, device: None }));

        let patch = file("xdelta");
        let tool = || Cmd::new("xdelta3").timeout(PATIENCE);
        let encode = tool().args(["-e", "-9", "-S", "djw", "-B", "1073741824", "-f", "-s"]);
        self.run(encode.arg(&old).arg(&new).arg(&patch))?;
        let decode = tool().args(["-d", "-B", "67108864", "-f", "-s"]).arg(&old).arg(&patch).arg(&out);
        let device = self.run(decode)?;
        same(&out, &new)?;
        needs.push((XDELTA, Need { bytes: size(&patch)?, device: Some(device) }));

        let patch = file("zst");
        let from = format!("--patch-from={}", old.display());
        let tool = || Cmd::new("zstd").args(["--long=31", "-q", "-f", &from]).timeout(PATIENCE);
        self.run(tool().arg("-19").arg(&new).arg("-o").arg(&patch))?;
        let device = self.run(tool().args(["-d", "--memory=2048MB"]).arg(&patch).arg("-o").arg(&out))?;
        same(&out, &new)?;
        needs.push((ZSTD, Need { bytes: size(&patch)?, device: Some(device) }));
        std::fs::remove_dir_all(&self.folder)?;
        Ok(needs.into_iter().map(|(method, need)| (method.to_owned(), need)).collect())
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
    fn casync(&self, old: &Path, new: &Path) -> anyhow::Result<u64> {
        let folder = self.folder.join("casync");
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        create_dir(&folder)?;
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
        std::fs::remove_dir_all(&folder)?;
        Ok(bytes)
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

const BLOCKS: &str = "**block file** (any version to any)";
const PAIR: &str = "**pair** (this version to that)";
const RAUC: &str = "RAUC, adaptive (any to any)";
const CASYNC: &str = "casync, 16 KiB (any to any)";
const XDELTA: &str = "xdelta3 (pair)";
const ZSTD: &str = "zstd --patch-from (pair)";

impl Need {
    fn words(&self) -> String {
        let bytes = format!("{:.2} MB", self.bytes as f64 / 1e6);
        match self.device {
            None => bytes,
            Some((cpu, memory)) => format!("{bytes}, {cpu:.1} s, {memory:.0} MiB"),
        }
    }
}

fn of(needs: &[(String, Need)], method: &str) -> anyhow::Result<Need> {
    needs.iter().find(|(name, _)| name == method).map(|(_, need)| *need).context(method.to_owned())
}

fn figures(workspace: &Workspace, step: &str, about: &str, needs: &Needs) -> anyhow::Result<()> {
    let mb = |method| of(needs, method).map(|need| need.bytes as f64 / 1e6);
    for (name, ours, peer, words) in [
        (
            "blocks-rauc",
            BLOCKS,
            RAUC,
            "bytes of the block file that a device fetches, beside RAUC's adaptive method",
        ),
        ("blocks-casync", BLOCKS, CASYNC, "bytes of the block file that a device fetches, beside casync"),
        ("pair-xdelta", PAIR, XDELTA, "bytes of the pair, beside xdelta3"),
        ("pair-zstd", PAIR, ZSTD, "bytes of the pair, beside zstd --patch-from"),
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
    let (_, memory) = of(needs, PAIR)?.device.context("it was run")?;
    let meaning = format!("{about}: memory of the program that applies the pair");
    Figure::new(workspace, &format!("delta-{step}-pair-memory"), &meaning, (memory, "MiB"), 16.0)?
        .by("make bench-image")
        .publish(workspace)
}

fn page(table: &BTreeMap<&str, Needs>) -> anyhow::Result<String> {
    let mut page = String::from(
        "# What travels from one image to the next\n\nMade by `make bench-image`. Images are ext4 of 1 GiB with some 550 MB in them, \
         from bookworm with a cloud kernel, ssh, Ansible and git. Each cell: bytes that the device fetches, index included; \
         CPU and memory of the program that applies them, where it could be run beside ours. A device of any method also writes the \
         image.\n\n| method |",
    );
    for (_, about) in STEPS {
        write!(page, " {about} |")?;
    }
    page.push_str("\n|---|---|---|---|\n");
    let methods = table.values().next().into_iter().flatten().map(|(method, _)| method);
    for method in methods {
        write!(page, "| {method} |")?;
        for (step, _) in STEPS {
            write!(page, " {} |", of(&table[step], method)?.words())?;
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
