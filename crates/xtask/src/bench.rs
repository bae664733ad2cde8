//! Measures: what the agent weighs on disk, and in memory while it has nothing to do.

use std::time::Duration;

use anyhow::{Context, ensure};
use volary_testkit::chain::{Chain, Tools, inventory};
use volary_testkit::roots::device_root;
use volary_testkit::{Cache, Debian, Device, DeviceOptions, Lab};

use crate::figures::Figure;
use crate::workspace::Workspace;

/// A device with 64 MB of memory for everything is the smallest that the agent should fit on.
const IDLE_MIB: f64 = 12.0;

/// What a metered link should carry for an update of the agent, unpacked.
const SIZE_MIB: f64 = 8.0;

const MIB: f64 = 1024.0 * 1024.0;

/// Measures and writes the figures.
pub fn run() -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    let tools = Tools::find()?;
    let cache = Cache::open()?;
    let logs = workspace.target.join("bench");
    let lab = Lab::open(&cache)?;
    let root = device_root(&cache, Debian::Bookworm, &mut |_| {})?;
    let device = lab.start_device("dev-1", &root, DeviceOptions::default())?;
    let chain = Chain::open(lab, tools, &logs)?;
    let fleet = chain.clone_of("fleet")?;
    fleet.write("inventory.yml", &inventory(&[("dev-1", "development")]))?;
    let config = volary_host::read_to_string(&fleet.dir().join("volary.yml"))?;
    fleet.write("volary.yml", &format!("{config}\nconfirm: {{ development: 1s }}\n"))?;
    let tip = fleet.commit("add dev-1")?;
    fleet.push("master")?;
    chain.join(&device, "development")?;
    chain.wait_for_good("dev-1", &tip, Duration::from_secs(300))?;

    let size: f64 = device.check(&["stat", "--format", "%s", "/usr/bin/volary-agent"])?.trim().parse()?;
    let size = Figure::new(
        &workspace,
        "agent-size",
        "the static binary of the agent",
        (size / MIB, "MiB"),
        SIZE_MIB,
    )?;
    size.publish(&workspace)?;
    let idle = Figure::new(
        &workspace,
        "agent-idle-memory",
        "resident memory of the agent between two polls",
        (resident(&device)?, "MiB"),
        IDLE_MIB,
    )?;
    idle.publish(&workspace)?;
    let dynamic = device.exec(&["ldd", "/usr/bin/volary-agent"])?;
    let said = format!("{}{}", dynamic.text(), String::from_utf8_lossy(&dynamic.stderr));
    ensure!(
        said.contains("statically linked") || said.contains("not a dynamic executable"),
        "the agent is not static: {said}"
    );
    Ok(())
}

/// In MiB, when nothing of a convergence runs any more.
fn resident(device: &Device) -> anyhow::Result<f64> {
    let pid = device.wait_until("the agent to be idle", Duration::from_secs(120), |device| {
        let ask =
            |args: &[&str]| device.exec(args).map(|output| output.text()).map_err(|error| error.to_string());
        let pid = ask(&["systemctl", "show", "--property=MainPID", "--value", "volary-agent.service"])?;
        let children = ask(&["ps", "-o", "comm=", "--ppid", pid.trim()])?;
        if children.trim().is_empty() {
            Ok(pid.trim().to_owned())
        } else {
            Err(format!("it runs {children}"))
        }
    })?;
    let status = device.check(&["cat", &format!("/proc/{pid}/status")])?;
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("the kernel gives no VmRSS")?;
    Ok(kib.trim().trim_end_matches("kB").trim().parse::<f64>()? / 1024.0)
}
