//! What the agent weighs: on disk, in memory, and in wake-ups of a device that has nothing to do.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::figure;
use super::fleet::write_poll;
use super::rest::{self, Cause, Count};
use super::stand::{QUICK, Stand, UNIT, USUAL};

/// In bytes of 1000, as people buy disks and data plans.
const SIZE_MB: f64 = 6.0;

/// Resident between two polls.
const IDLE_MIB: f64 = 8.0;

/// Resident at most while a fleet of a thousand hosts is fetched for the first time.
const FETCH_MIB: f64 = 16.0;

/// A timer for each poll; the answer of the server is waited for.
const WAKE_UPS: f64 = 3.0;

/// How often the device looks at itself unless its fleet says otherwise.
const LOOKS: Duration = Duration::from_secs(60);

const MIB: f64 = 1024.0 * 1024.0;

/// Measures and writes the figures.
pub fn measure(stand: &Stand<'_>, watch: Duration) -> anyhow::Result<()> {
    size(stand)?;
    let workspace = stand.workspace;
    figure(
        workspace,
        "agent-first-fetch-memory",
        "resident memory of the agent at most, from its start until the first convergence of a fleet of 1,000 hosts ended",
        (stand.first_fetch_peak as f64 / MIB, "MiB"),
        FETCH_MIB,
    )?
    .publish(workspace)?;
    write_poll(&stand.fleet, USUAL)?;
    stand.converge("ask as often as usual")?;
    idle(stand, watch)?;
    at_rest(stand, watch)?;
    write_poll(&stand.fleet, QUICK)?;
    stand.converge("ask often")?;
    Ok(())
}

fn size(stand: &Stand<'_>) -> anyhow::Result<()> {
    let size = stand.device.check(&["stat", "--format", "%s", "/usr/bin/volary-agent"])?;
    let size: f64 = size.trim().parse()?;
    let dynamic = stand.device.exec(&["ldd", "/usr/bin/volary-agent"])?;
    let said = format!("{}{}", dynamic.text(), String::from_utf8_lossy(&dynamic.stderr));
    ensure!(
        said.contains("statically linked") || said.contains("not a dynamic executable"),
        "the agent is not static: {said}"
    );
    figure(
        stand.workspace,
        "agent-size",
        "the static binary of the agent, stripped",
        (size / 1e6, "MB"),
        SIZE_MB,
    )?
    .publish(stand.workspace)
}

/// Watches a device that has nothing to do, with the usual time between two polls.
fn idle(stand: &Stand<'_>, watch: Duration) -> anyhow::Result<()> {
    let workspace = stand.workspace;
    // The report of the convergence is sent and forgotten by then.
    std::thread::sleep(Duration::from_secs(5));
    stand.wait_until_idle()?;
    stand.proxy.take();
    let before = Sample::take(stand)?;
    std::thread::sleep(watch);
    let after = Sample::take(stand)?;
    let seen = stand.proxy.take();
    let minutes = watch.as_secs_f64() / 60.0;
    println!("watched for {minutes:.1} min: {seen:?}, {} wake-ups", after.wake_ups - before.wake_ups);
    figure(
        workspace,
        "agent-idle-memory",
        "resident memory of the agent between two polls",
        (stand.memory("VmRSS")? as f64 / MIB, "MiB"),
        IDLE_MIB,
    )?
    .publish(workspace)?;
    let rate = (after.wake_ups - before.wake_ups) as f64 / minutes;
    figure(
        workspace,
        "agent-idle-wake-ups",
        "how often a minute a thread of the agent slept and was woken, with a poll each 60 s: by timers, and \
         within what they began by the server, by programs that ended, by the disk",
        (rate, "/min"),
        WAKE_UPS,
    )?
    .publish(workspace)?;
    figure(
        workspace,
        "agent-idle-cpu",
        "CPU in an hour of a device that has nothing to do, polls, health reports and all that they start",
        ((after.cpu - before.cpu) / minutes * 60.0, "s"),
        15.0,
    )?
    .publish(workspace)?;
    figure(
        workspace,
        "agent-idle-bytes",
        "bytes of all frames in an hour of a device that has nothing to do, health reports included",
        ((after.bytes - before.bytes) as f64 / minutes * 60.0 / 1000.0, "kB"),
        100.0,
    )?
    .publish(workspace)
}

/// Watches what wakes it, with strace: apart from the rest, since whoever is watched costs more.
fn at_rest(stand: &Stand<'_>, watch: Duration) -> anyhow::Result<()> {
    let pid = stand.device.pid_outside(UNIT)?;
    let wake_ups = rest::watch(pid, watch, &stand.workspace.target.join("bench-agent/strace"))?;
    for wake_up in &wake_ups {
        println!("{wake_up}");
    }
    let count = Count::of(&wake_ups);
    // Polls are up to a tenth early.
    let beyond = count.beyond(watch, USUAL * 9 / 10, LOOKS);
    let meaning = format!(
        "what woke an agent at rest in {:.1} min and was no timer of its own, was one for nothing, or came more \
         often than a poll each 60 s and a look each 60 s; those were {} and {}",
        watch.as_secs_f64() / 60.0,
        count.by(Cause::Asked),
        count.by(Cause::Looked)
    );
    figure(stand.workspace, "agent-idle-wake-ups-beyond", &meaning, (f64::from(beyond), "wake-ups"), 0.0)?
        .publish(stand.workspace)
}

struct Sample {
    cpu: f64,
    bytes: u64,
    wake_ups: u64,
}

impl Sample {
    fn take(stand: &Stand<'_>) -> anyhow::Result<Self> {
        let pid = stand.device.pid_outside(UNIT)?;
        let mut wake_ups = 0;
        let tasks = std::path::PathBuf::from(format!("/proc/{pid}/task"));
        for task in tasks.read_dir().context("the agent has gone")? {
            let status = volary_host::read_to_string(&task?.path().join("status"))?;
            let count = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            wake_ups += count.and_then(|count| count.trim().parse::<u64>().ok()).unwrap_or(0);
        }
        let cpu = stand.device.unit_cpu(UNIT)?.as_secs_f64();
        Ok(Self { cpu, bytes: stand.device.wire_bytes()?, wake_ups })
    }
}
