//! A poll that brings nothing: the daemon's on a kept connection and on new ones, and that of
//! `ansible-pull --only-if-changed` over TLS on the same repository.

use std::time::{Duration, Instant};

use anyhow::ensure;

use volary_testkit::wire::Traffic;

use super::fleet::DEVICE;
use super::git_server::GitServer;
use super::stand::{QUICK, Stand, UNIT};
use super::{figure, median};

/// For how long polls are counted in one turn.
const WINDOW: Duration = Duration::from_secs(15);

/// New connections in one turn.
const CUTS: usize = 12;

/// The answer has come by then, and the next poll has not.
const SETTLE: Duration = Duration::from_millis(200);

/// Starts of the agent whose first poll is measured.
const STARTS: usize = 5;

/// What one poll costs, the mean of many.
#[derive(Default)]
struct Polls {
    cpu: Vec<f64>,
    bytes: Vec<f64>,
    turns: Vec<f64>,
}

impl Polls {
    fn cpu(&self) -> f64 {
        median(&self.cpu)
    }

    fn bytes(&self) -> f64 {
        median(&self.bytes)
    }
}

/// Measures and writes the figures.
pub fn measure(stand: &Stand<'_>, rounds: usize) -> anyhow::Result<()> {
    let peer = Peer::set_up(stand)?;
    let (mut kept, mut new, mut theirs) = (Polls::default(), Polls::default(), Polls::default());
    stand.wait_until_idle()?;
    for _ in 0..rounds {
        in_window(stand, &mut kept)?;
        on_new_connections(stand, &mut new)?;
        stand.frozen(|| peer.poll(stand, &mut theirs))?;
    }
    let first = (0..STARTS).map(|_| after_a_start(stand)).collect::<anyhow::Result<Vec<_>>>()?;
    publish(stand, &kept, &new, &theirs, median(&first))
}

fn publish(stand: &Stand<'_>, kept: &Polls, new: &Polls, theirs: &Polls, first: f64) -> anyhow::Result<()> {
    let ms = |seconds: f64| (seconds * 1000.0, "ms");
    let peer = ms(theirs.cpu());
    let of = |name, meaning: &str, ours, at_most| figure(stand.workspace, name, meaning, ours, at_most);
    of(
        "agent-poll-cpu",
        "CPU of a poll that brings nothing, over TLS on a kept connection; the peer is ansible-pull \
         --only-if-changed on the same device and repository",
        ms(kept.cpu()),
        0.0,
    )?
    .beside(peer)
    .times_less(300.0)
    .publish(stand.workspace)?;
    of("agent-poll-cpu-new", "the same on a new connection, resumed by a ticket", ms(new.cpu()), 0.0)?
        .beside(peer)
        .times_less(300.0)
        .publish(stand.workspace)?;
    let peer = (theirs.bytes(), "B");
    of(
        "agent-poll-bytes",
        "bytes of all frames of a poll that brings nothing, over TLS on a kept connection",
        (kept.bytes(), "B"),
        0.0,
    )?
    .beside(peer)
    .times_less(10.0)
    .publish(stand.workspace)?;
    of("agent-poll-bytes-new", "the same on a new connection, resumed by a ticket", (new.bytes(), "B"), 0.0)?
        .beside(peer)
        .times_less(10.0)
        .publish(stand.workspace)?;
    of(
        "agent-poll-bytes-start",
        "the same for the first poll of a process: a whole handshake with both certificates, and the answer",
        (first, "B"),
        0.0,
    )?
    .beside(peer)
    .times_less(1.0)
    .publish(stand.workspace)?;
    of(
        "agent-poll-requests",
        "requests of a poll on a kept connection",
        (median(&kept.turns), "requests"),
        1.05,
    )?
    .beside((median(&theirs.turns), "requests"))
    .publish(stand.workspace)
}

/// Polls on the connection that stands. How many there should be is known by the clock.
fn in_window(stand: &Stand<'_>, polls: &mut Polls) -> anyhow::Result<()> {
    stand.proxy.take();
    let (cpu, bytes, started) = (stand.device.unit_cpu(UNIT)?, stand.device.wire_bytes()?, Instant::now());
    std::thread::sleep(WINDOW);
    let (cpu, bytes) = (stand.device.unit_cpu(UNIT)? - cpu, stand.device.wire_bytes()? - bytes);
    let (elapsed, seen) = (started.elapsed(), stand.proxy.take());
    ensure!(seen.connections == 0, "the agent made {} connections although one stood", seen.connections);
    ensure!(seen.turns > 0, "the agent did not ask");
    let count = seen.turns as f64;
    polls.cpu.push(cpu.as_secs_f64() / count);
    polls.bytes.push(bytes as f64 / count);
    polls.turns.push(count / (elapsed.as_secs_f64() / QUICK.as_secs_f64()));
    Ok(())
}

/// Polls that each find their connection gone.
fn on_new_connections(stand: &Stand<'_>, polls: &mut Polls) -> anyhow::Result<()> {
    let (mut cpus, mut sizes) = (Vec::new(), Vec::new());
    for _ in 0..CUTS {
        wait_for(stand, |seen| seen.turns > 0)?;
        std::thread::sleep(SETTLE);
        let (cpu, bytes) = (stand.device.unit_cpu(UNIT)?, stand.device.wire_bytes()?);
        stand.proxy.cut();
        // Its hello, and what it asks when the handshake is over.
        let seen = wait_for(stand, |seen| seen.turns > 1)?;
        ensure!(seen.connections == 1, "the agent made {} connections where one was cut", seen.connections);
        std::thread::sleep(SETTLE);
        cpus.push((stand.device.unit_cpu(UNIT)? - cpu).as_secs_f64());
        sizes.push((stand.device.wire_bytes()? - bytes) as f64);
    }
    polls.cpu.push(median(&cpus));
    polls.bytes.push(median(&sizes));
    Ok(())
}

/// Waits until the proxy saw enough since now, and says what.
fn wait_for(stand: &Stand<'_>, enough: impl Fn(&Traffic) -> bool) -> anyhow::Result<Traffic> {
    let started = Instant::now();
    stand.proxy.take();
    let mut seen = Traffic::default();
    while !enough(&seen) {
        ensure!(started.elapsed() < Duration::from_secs(60), "the agent does not ask");
        std::thread::sleep(Duration::from_millis(10));
        seen = seen + stand.proxy.take();
    }
    Ok(seen)
}

/// Bytes of the first poll after a start: the handshake, the question, the answer.
fn after_a_start(stand: &Stand<'_>) -> anyhow::Result<f64> {
    stand.device.check(&["systemctl", "stop", "volary-agent.service"])?;
    let bytes = stand.device.wire_bytes()?;
    stand.device.check(&["systemctl", "start", "--no-block", "volary-agent.service"])?;
    wait_for(stand, |seen| seen.turns > 1)?;
    std::thread::sleep(SETTLE);
    let bytes = stand.device.wire_bytes()? - bytes;
    stand.wait_until_idle()?;
    Ok(bytes as f64)
}

/// `ansible-pull` on the device, with a checkout of its own.
struct Peer {
    server: GitServer,
    args: Vec<String>,
}

impl Peer {
    fn set_up(stand: &Stand<'_>) -> anyhow::Result<Self> {
        let address = stand.chain.lab().host_address();
        let server = GitServer::start(address, &stand.chain.folder().join("git"))?;
        stand.device.write("/root/git.pem", server.certificate().as_bytes(), 0o644)?;
        let url = format!("https://{address}:{}/fleet.git", server.port());
        let args = [
            "env",
            "GIT_SSL_CAINFO=/root/git.pem",
            "ansible-pull",
            "--url",
            &url,
            "--checkout",
            "master",
            "--directory",
            "/root/pulled",
            "--inventory",
            "inventory.yml",
            "--limit",
            DEVICE,
            "--only-if-changed",
            "site.yml",
        ];
        let peer = Self { server, args: args.map(str::to_owned).to_vec() };
        // The first run clones and applies.
        stand.frozen(|| peer.run(stand, "PLAY RECAP").map(drop))?;
        Ok(peer)
    }

    /// One run that must say so; its CPU and bytes.
    fn run(&self, stand: &Stand<'_>, expected: &str) -> anyhow::Result<(f64, f64)> {
        let bytes = stand.device.wire_bytes()?;
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let (output, cpu) = stand.measure(&args)?;
        let said = output.text();
        ensure!(said.contains(expected), "ansible-pull did not say {expected:?}: {said}");
        Ok((cpu, (stand.device.wire_bytes()? - bytes) as f64))
    }

    fn poll(&self, stand: &Stand<'_>, polls: &mut Polls) -> anyhow::Result<()> {
        self.server.take_requests();
        let (cpu, bytes) = self.run(stand, "Repository has not changed")?;
        polls.cpu.push(cpu);
        polls.bytes.push(bytes);
        polls.turns.push(self.server.take_requests() as f64);
        Ok(())
    }
}
