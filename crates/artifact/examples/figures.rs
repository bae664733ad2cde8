//! Measures writing and verifying a 1 GiB artifact against Mender's own tool, in the same run and
//! alternating, and prints one line for each figure (DESIGN.md, section 10).
//!
//!     cargo run --release -p volary-artifact --example figures [IMAGE]
//!
//! Without IMAGE it makes an ext4 of this machine's /usr. The peers are Debian's `mender-artifact` for
//! gzip and, where `MENDER_ARTIFACT_4` names one, a tool of version 4 for zstd.

#![allow(clippy::print_stdout, reason = "printing is what a benchmark is for")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use volary_artifact::{
    Depends, Draft, Encoding, Limits, PayloadDraft, Policy, Source, WriteOptions, verify, write,
};
use volary_host::{Cmd, read_to_string};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Each measure is taken this often and the best counts: the machine has other work.
const ROUNDS: usize = 3;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["--write", image, output, encoding, threads] => {
            write_one(Path::new(image), Path::new(output), encoding, threads.parse()?)
        }
        // For who installs one.
        ["--image", folder] => {
            println!("{}", make_image(Path::new(folder))?.display());
            Ok(())
        }
        ["--verify", file, threads] => verify_one(Path::new(file), threads.parse()?),
        [] => measure(None),
        [image] => measure(Some(Path::new(image))),
        _ => Err("usage: figures [IMAGE]".into()),
    }
}

/// Ours, as a process of its own, so that both sides pay for starting.
fn write_one(image: &Path, output: &Path, encoding: &str, threads: usize) -> Result<()> {
    let file = File::open(image)?;
    let source = Source::new("root.ext4", file.metadata()?.len(), file);
    let draft = Draft {
        name: "release-1".into(),
        depends: Depends { device_types: vec!["board".into()], ..Depends::default() },
        payloads: vec![PayloadDraft::rootfs_image("release-1", source)],
        ..Draft::default()
    };
    let encoding: Encoding = encoding.parse()?;
    write(File::create(output)?, draft, &WriteOptions { encoding, key: None, threads })?;
    report_memory()
}

fn verify_one(file: &Path, threads: usize) -> Result<()> {
    let mut policy = Policy::unsigned();
    policy.limits = Limits { threads, ..Limits::default() };
    verify(File::open(file)?, &policy)?;
    report_memory()
}

/// The most memory that this process had, in kB.
fn report_memory() -> Result<()> {
    let status = read_to_string(Path::new("/proc/self/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0 kB");
    println!("{}", line.trim().trim_end_matches(" kB"));
    Ok(())
}

/// What one run of a program cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    cpu: f64,
    wall: f64,
    memory_mib: f64,
}

/// Runs a program and takes the processor time of the children that ended, in ticks of 10 ms.
fn cost(command: &Cmd) -> Result<Cost> {
    let before = children_seconds()?;
    let started = Instant::now();
    let output = command.check()?;
    let wall = started.elapsed().as_secs_f64();
    let memory_mib = output.text().trim().parse::<f64>().unwrap_or(0.0) / 1024.0;
    Ok(Cost { cpu: children_seconds()? - before, wall, memory_mib })
}

fn children_seconds() -> Result<f64> {
    let stat = read_to_string(Path::new("/proc/self/stat"))?;
    let (_, fields) = stat.rsplit_once(") ").ok_or("no name in /proc/self/stat")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    // cutime and cstime are fields 16 and 17 of proc(5); two were cut off.
    Ok((fields[13].parse::<f64>()? + fields[14].parse::<f64>()?) / 100.0)
}

/// The best of several runs of ours and the peer, alternating.
fn race(ours: &Cmd, peer: &Cmd) -> Result<(Cost, Cost)> {
    let mut best: Option<(Cost, Cost)> = None;
    for _ in 0..ROUNDS {
        let (a, b) = (cost(ours)?, cost(peer)?);
        let least = |x: Cost, y: Cost| Cost {
            cpu: x.cpu.min(y.cpu),
            wall: x.wall.min(y.wall),
            memory_mib: x.memory_mib.max(y.memory_mib),
        };
        best = Some(best.map_or((a, b), |(c, d)| (least(a, c), least(b, d))));
    }
    best.ok_or_else(|| "no rounds".into())
}

/// Prints a figure; the goal is about the ratio of ours to the peer.
fn figure(name: &str, unit: &str, ours: f64, peer: f64, goal: f64) {
    let ratio = ours / peer;
    let holds = if ratio <= goal { "yes" } else { "no" };
    println!(
        "figure {name} ours {ours:.2} {unit} peer {peer:.2} {unit} ratio {ratio:.3} goal <= {goal} holds {holds}"
    );
}

fn measure(image: Option<&Path>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let image = image.map_or_else(|| make_image(dir.path()), |image| Ok(image.to_owned()))?;
    let debian = ("mender-artifact".to_owned(), "gzip");
    let newer = std::env::var("MENDER_ARTIFACT_4").ok().map(|tool| (tool, "zstd_fast"));
    for (tool, encoding) in std::iter::once(debian).chain(newer) {
        measure_one(dir.path(), &image, &tool, encoding)?;
    }
    Ok(())
}

fn measure_one(dir: &Path, image: &Path, tool: &str, encoding: &str) -> Result<()> {
    let (ours, theirs) = (dir.join("ours.mender"), dir.join("theirs.mender"));
    let me =
        || Cmd::new(std::env::current_exe().expect("a process has a path")).timeout(Duration::from_secs(900));
    let peer = || Cmd::new(tool).timeout(Duration::from_secs(900));
    let threads = std::thread::available_parallelism()?.to_string();

    let write_ours = me().arg("--write").arg(image).arg(&ours).args([encoding, &threads]);
    let write_peer = peer()
        .args([
            "write",
            "rootfs-image",
            "-n",
            "release-1",
            "-t",
            "board",
            "--no-progress",
            "--compression",
            encoding,
        ])
        .arg("-f")
        .arg(image)
        .arg("-o")
        .arg(&theirs);
    let (a, b) = race(&write_ours, &write_peer)?;
    peer().arg("validate").arg(&ours).check()?;
    let goal = if encoding == "gzip" { 1.0 / 3.0 } else { 0.5 };
    figure(&format!("artifact-write-{encoding}-wall"), "s", a.wall, b.wall, goal);
    figure(&format!("artifact-write-{encoding}-cpu"), "s", a.cpu, b.cpu, 1.0);
    let mb = |path: &PathBuf| std::fs::metadata(path).map(|meta| meta.len() as f64 / 1e6);
    figure(&format!("artifact-write-{encoding}-size"), "MB", mb(&ours)?, mb(&theirs)?, 1.0);
    println!("note: ours wrote {encoding} in at most {:.0} MiB of memory", a.memory_mib);

    let verify_peer = peer().arg("validate").arg(&ours);
    for (name, threads) in [("verify", threads.as_str()), ("verify-one-thread", "1")] {
        let (a, b) = race(&me().arg("--verify").arg(&ours).arg(threads), &verify_peer)?;
        figure(&format!("artifact-{name}-{encoding}-cpu"), "s", a.cpu, b.cpu, 1.0);
        figure(&format!("artifact-{name}-{encoding}-wall"), "s", a.wall, b.wall, 1.0);
        println!("note: ours verified {encoding} in at most {:.0} MiB of memory", a.memory_mib);
    }
    Ok(())
}

/// A 1 GiB ext4 of about 950 MB of real files.
fn make_image(dir: &Path) -> Result<PathBuf> {
    let (root, image) = (dir.join("root"), dir.join("root.ext4"));
    let script = format!(
        "set -e; left=950000; number=0; \
         for part in /usr/bin /usr/share /usr/lib/* /usr/include; do \
           size=$(du -sk \"$part\" | cut -f1); [ \"$size\" -lt \"$left\" ] || continue; \
           left=$((left - size)); number=$((number + 1)); mkdir -p {root}/$number; \
           cp -a \"$part\" {root}/$number/; done; \
         truncate -s 1G {image}; \
         mke2fs -q -t ext4 -m 0 -d {root} {image}; rm -r {root}",
        root = root.display(),
        image = image.display()
    );
    Cmd::new("sh").args(["-c", &script]).timeout(Duration::from_secs(900)).check()?;
    Ok(image)
}
