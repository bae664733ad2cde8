//! What is measured on: one device, one server with a proxy before it that counts and can cut, and
//! the fleet.

use std::net::SocketAddr;
use std::time::Duration;

use volary_api::join::JoinToken;
use volary_api::v1::fleet::DeviceToken;
use volary_host::Output;
use volary_model::CommitId;
use volary_testkit::chain::{Chain, Clone, PORT, Tools};
use volary_testkit::roots::device_root;
use volary_testkit::wire::Proxy;
use volary_testkit::{Cache, Debian, Device, DeviceOptions, Lab, LabError};

use super::fleet::{self, DEVICE};
use crate::workspace::Workspace;

/// Our unit, below the top of the device's control groups.
pub const UNIT: &str = "system.slice/volary-agent.service";

/// How long a convergence may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// How often the device asks while polls are measured: often, to have many of them.
pub const QUICK: Duration = Duration::from_secs(1);

/// How often devices ask unless their fleet says otherwise.
pub const USUAL: Duration = Duration::from_secs(60);

/// All of it. Fields are dropped in this order: the device before its lab.
pub struct Stand<'a> {
    pub workspace: &'a Workspace,
    pub device: Device,
    pub proxy: Proxy,
    pub fleet: Clone,
    /// The most memory that the agent had resident when it fetched the fleet for the first time.
    pub first_fetch_peak: u64,
    pub chain: Chain,
}

impl<'a> Stand<'a> {
    /// Sets it up until the device is good. The agent is the one that is shipped; what the server
    /// costs is not measured here.
    pub fn open(workspace: &'a Workspace, hosts: usize) -> anyhow::Result<Self> {
        let tools = Tools::find()?;
        let cache = Cache::open()?;
        let lab = Lab::open(&cache)?;
        let root = device_root(&cache, Debian::Bookworm, &mut |_| {})?;
        let device = lab.start_device(DEVICE, &root, DeviceOptions::default())?;
        let chain = Chain::open(lab, tools, &workspace.target.join("bench-agent"))?;
        let clone = chain.clone_of("fleet")?;
        fleet::write(&clone, hosts)?;
        clone.hurry(1)?;
        fleet::write_poll(&clone, QUICK)?;
        let tip = clone.commit("a fleet to measure on")?;
        clone.push("master")?;
        let server = SocketAddr::from((chain.lab().host_address(), PORT));
        let proxy = Proxy::start(chain.lab().host_address(), server)?;
        let mut stand = Self { workspace, device, proxy, fleet: clone, first_fetch_peak: 0, chain };
        stand.join()?;
        stand.chain.wait_for_good(DEVICE, &tip, PATIENCE)?;
        stand.first_fetch_peak = stand.memory("VmHWM")?;
        Ok(stand)
    }

    /// Installs and enrols the agent as people do, only that it finds the server at the proxy.
    fn join(&self) -> anyhow::Result<()> {
        let given: DeviceToken = self.chain.desk().json(&["device", "token", "--stage", "development"])?;
        let mut token = JoinToken::decode(&given.token)?;
        token.server = self.url();
        self.device.copy_in(&self.chain.tools().agent_deb()?, "/var/tmp/agent.deb", 0o644)?;
        self.device.check(&["dpkg", "--install", "/var/tmp/agent.deb"])?;
        self.device.check(&["volary-agent", "enroll", "--token", &token.encode()])?;
        Ok(())
    }

    /// The server as the device knows it.
    pub fn url(&self) -> String {
        format!("https://{}:{}", self.chain.lab().host_address(), self.proxy.port())
    }

    /// Pushes what was written and waits until the device is at it.
    pub fn converge(&self, message: &str) -> anyhow::Result<CommitId> {
        let tip = self.fleet.commit(message)?;
        self.fleet.push("master")?;
        self.chain.wait_for_good(DEVICE, &tip, PATIENCE)?;
        self.wait_until_idle()?;
        Ok(tip)
    }

    /// Waits until the agent has nothing running and says nothing to the server but its polls.
    pub fn wait_until_idle(&self) -> anyhow::Result<()> {
        Ok(self.device.wait_until("the agent to be idle", PATIENCE, |device| {
            let procs = format!("/sys/fs/cgroup/{UNIT}/cgroup.procs");
            let ask = |args: &[&str]| device.check(args).map_err(|error: LabError| error.to_string());
            let running = ask(&["cat", &procs])?.lines().count();
            let status = ask(&["volary-agent", "status", "--json"])?;
            match running == 1 && status.contains("\"doing\": \"idle\"") {
                true => Ok(()),
                false => Err(format!("{running} processes; {status}")),
            }
        })?)
    }

    /// Runs a program on the device and says what it cost.
    pub fn measure(&self, args: &[&str]) -> anyhow::Result<(Output, f64)> {
        let (output, cpu) = self.device.measure_whole(args)?;
        Ok((output, cpu.as_secs_f64()))
    }

    /// A size of the agent's process in bytes, by its name in `/proc/PID/status`.
    pub fn memory(&self, field: &str) -> anyhow::Result<u64> {
        let pid = self.device.pid_outside(UNIT)?;
        let status = volary_host::read_to_string(format!("/proc/{pid}/status").as_ref())?;
        let size = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        let size = size.and_then(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        Ok(size.ok_or_else(|| anyhow::anyhow!("the kernel gives no {field}"))? * 1024)
    }

    /// Lets the agent stand still while `work` is measured.
    pub fn frozen<T>(&self, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
        let signal = |name: &str| {
            let signal = format!("--signal={name}");
            self.device.check(&["systemctl", "kill", &signal, "volary-agent.service"])
        };
        signal("STOP")?;
        let done = work();
        signal("CONT")?;
        done
    }
}
