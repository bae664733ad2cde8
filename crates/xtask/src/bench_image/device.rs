//! What installing the artifact of a 1 GiB image costs a device: our installer, built as the agent is, beside
//! Debian's mender-client in its mode without a server. Both write to a loop device that was empty.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use volary_host::{Cmd, create_dir};
use volary_testkit::{Cache, Debian, Lab, Sandbox, roots};

use super::deltas::number_after;
use crate::deb;
use crate::figures::Figure;
use crate::workspace::Workspace;

/// How long one program may take.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Each is run this often, in turns, and the best counts: the machine has other work.
const ROUNDS: usize = 3;

/// Bytes of the image.
const SIZE: u64 = 1 << 30;

/// MiB that ours may hold.
const MEMORY: f64 = 32.0;

/// CPU seconds, and MiB at the peak.
#[derive(Debug, Clone, Copy)]
struct Need {
    cpu: f64,
    memory: f64,
}

impl Need {
    fn least(self, other: Self) -> Self {
        Self { cpu: self.cpu.min(other.cpu), memory: self.memory.max(other.memory) }
    }
}

/// A loop device over a sparse file, let go of at the end.
struct Loop {
    device: String,
    file: PathBuf,
}

impl Loop {
    fn empty(file: PathBuf) -> anyhow::Result<Self> {
        File::create(&file)?.set_len(SIZE)?;
        let device = Cmd::new("losetup").args(["--find", "--show"]).arg(&file).check()?;
        Ok(Self { device: device.text().trim().to_owned(), file })
    }

    /// The number at its end, which Mender's client takes for a partition's.
    fn number(&self) -> &str {
        self.device.trim_start_matches(|c: char| !c.is_ascii_digit())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Cmd::new("losetup").args(["--detach", &self.device]).run();
        let _ = std::fs::remove_file(&self.file);
    }
}

/// Measures, and publishes the figures. `program` is the example `figures`, which makes the image and the artifact.
pub fn run(workspace: &Workspace, program: &Path) -> anyhow::Result<()> {
    let installer = deb::compile_example(workspace, "install_image")?;
    let cache = Cache::open()?;
    let lab = Lab::open(&cache)?;
    let folder = lab.folder().join("install");
    create_dir(&folder)?;
    let tool = || Cmd::new(program).timeout(PATIENCE);
    let image = PathBuf::from(tool().arg("--image").arg(&folder).check()?.text().trim());
    let artifact = folder.join("image.mender");
    tool().arg("--write").arg(&image).arg(&artifact).args(["gzip", "2"]).check()?;
    let [of_artifact, of_image] = [&artifact, &image].map(|file| sum(file));
    let (of_artifact, of_image) = (of_artifact?, of_image?);
    std::fs::remove_file(&image)?;

    let mut best: Option<(Need, Need)> = None;
    for round in 0..ROUNDS {
        let slot = Loop::empty(folder.join("slot"))?;
        let ours = Cmd::new(&installer)
            .arg(&artifact)
            .args([slot.device.as_str(), "board", "release-1", &of_artifact, &of_image])
            .timeout(PATIENCE);
        let ours = measure(&lab, &ours)?;
        ensure!(sum(&slot.file)? == of_image, "ours wrote something else");
        drop(slot);
        let peer = peer(&lab, &cache, &artifact, &of_image, round)?;
        println!("ours {ours:?}, mender-client {peer:?}");
        best = Some(best.map_or((ours, peer), |(a, b)| (a.least(ours), b.least(peer))));
    }
    let Some((ours, peer)) = best else { return Ok(()) };
    let publish = |figure: Figure| figure.by("make bench-image").publish(workspace);
    let meaning = "installing the artifact of a 1 GiB image: CPU, beside mender-client of Debian";
    let figure = Figure::new(workspace, "install-cpu", meaning, (ours.cpu, "s"), 0.0)?;
    publish(figure.beside((peer.cpu, "s")).times_less(2.0))?;
    let meaning = "installing the artifact of a 1 GiB image: memory, beside mender-client of Debian";
    let figure = Figure::new(workspace, "install-memory", meaning, (ours.memory, "MiB"), MEMORY)?;
    publish(figure.beside((peer.memory, "MiB")))
}

/// `mender install` of an artifact on a board of its own.
fn peer(lab: &Lab, cache: &Cache, artifact: &Path, of_image: &str, round: usize) -> anyhow::Result<Need> {
    let root = roots::mender_root(cache, Debian::Bookworm, &mut |_| {})?;
    let board = Sandbox::new(lab, &format!("board-{round}"), &root)?;
    let slots = ["a", "b"].map(|name| Loop::empty(lab.folder().join(format!("slot-{name}"))));
    let [Ok(a), Ok(b)] = slots else { anyhow::bail!("there is no loop device left") };
    let conf = serde_json::json!({ "RootfsPartA": a.device, "RootfsPartB": b.device, "DeviceTypeFile": "/device_type" });
    board.write("/etc/mender/mender.conf", conf.to_string().as_bytes())?;
    board.write("/etc/mender/artifact_info", b"artifact_name=before\n")?;
    board.write("/device_type", b"device_type=board\n")?;
    board.write("/data/mender/device_type", b"device_type=board\n")?;
    board.write("/var/lib/mender/device_type", b"device_type=board\n")?;
    board.write("/etc/fw_env.config", b"/fw/env.bin 0x0 0x2000\n/fw/env.bin 0x2000 0x2000\n")?;
    let number: u32 = a.number().parse()?;
    let defaults = format!(
        "bootcount=0\nbootlimit=1\nmender_boot_part={number}\nmender_boot_part_hex={number:X}\n\
         upgrade_available=0\nmender_check_saveenv_canary=1\nmender_saveenv_canary=1\n"
    );
    board.write("/fw/defaults", defaults.as_bytes())?;
    let prepare = "head -c 16384 /dev/zero | tr '\\0' '\\377' > /fw/env.bin && fw_setenv -f /fw/defaults -s /fw/defaults";
    board.command(&["sh", "-ec", prepare]).check()?;
    // A file inside, as the device would have it; a read-only mount of one is not measured.
    let place = "/image.mender";
    let copied = Cmd::new("cp").args(["--reflink=auto"]).arg(artifact);
    copied.arg(board.writable().join(&place[1..])).timeout(PATIENCE).check()?;
    let install = board.command(&["mender", "--no-syslog", "install", place]).timeout(PATIENCE);
    let need = measure(lab, &install)?;
    ensure!(sum(&b.file)? == of_image, "mender-client wrote something else");
    std::fs::remove_file(board.writable().join(&place[1..]))?;
    Ok(need)
}

fn measure(lab: &Lab, command: &Cmd) -> anyhow::Result<Need> {
    let measured = command.clone().within(&["time", "--quiet", "--format=peak %M"]);
    let (output, cost) = lab.meter("install")?.check(&measured)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let memory = number_after(&said, "peak ")? as f64 / 1024.0;
    Ok(Need { cpu: cost.cpu.as_secs_f64(), memory })
}

/// The SHA-256 of a file, as the lock writes it.
fn sum(file: &Path) -> anyhow::Result<String> {
    let said = Cmd::new("sha256sum").arg(file).timeout(PATIENCE).check()?.text();
    Ok(format!("sha256:{}", said.split(' ').next().unwrap_or_default()))
}
