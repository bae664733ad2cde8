//! `make bench-inventory`: what a device, and the server, pay for a one-line change of the device's
//! group, in a small fleet and in a large one, with one file for each host.
//!
//! All of it is real: `volary serve`, a push, and in a container `volary-agent plan`, which asks,
//! fetches, proves, puts files on disk and makes the inventory of this device, and forgets it all
//! again, so that each round does the same. `ansible-playbook` is taken away from the device before:
//! it would cost many times the rest, and the same in both fleets. Not here: what Ansible costs.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use clap::Args;
use volary_model::CommitId;
use volary_testkit::chain::{Chain, Clone, Tools};
use volary_testkit::roots::device_root;
use volary_testkit::{Cache, Debian, Device, DeviceOptions, Lab};

use crate::bench_archive::{median, release_tools};
use crate::figures::Figure;
use crate::workspace::Workspace;

/// The device that is measured.
const DEVICE: &str = "dev-1";

/// What every device may fetch for such a change, with all of TLS, HTTP, TCP and IP.
const FETCH_BYTES: f64 = 100_000.0;

/// How much more CPU a device of the large fleet may need.
const CPU_RATIO: f64 = 1.2;

/// What the server may need for one device: 100,000 devices in an hour on two processors.
const SERVER_MS: f64 = 72.0;

/// What the server may need in memory while it does, beside what it has anyway.
const SERVER_MIB: f64 = 16.0;

/// How long a person may wait for a push.
const PUSH_SECONDS: f64 = 5.0;

/// How often the line is changed and pushed; once more then for the device to look at.
const PUSHES: usize = 5;

/// How the benchmark of inventories runs.
#[derive(Args)]
pub struct BenchInventoryArgs {
    /// Hosts of the large fleet
    #[arg(long, default_value_t = 100_000)]
    hosts: usize,
    /// Hosts of the small one
    #[arg(long, default_value_t = 100)]
    small: usize,
    /// Sites, which are groups, in both
    #[arg(long, default_value_t = 50)]
    sites: usize,
    /// How often each device looks
    #[arg(long, default_value_t = 15)]
    rounds: usize,
}

/// Measures and writes the figures.
pub fn run(args: &BenchInventoryArgs) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    let tools = release_tools(&workspace)?;
    let cache = Cache::open()?;
    let open = |hosts: usize| Fleet::open(&workspace, &cache, &tools, hosts, args.sites);
    let fleets = [open(args.small)?, open(args.hosts)?];
    let mut costs = [Vec::new(), Vec::new()];
    let mut pushes = Vec::new();
    for turn in 0..PUSHES {
        fleets[0].change(turn)?;
        pushes.push(fleets[1].change(turn)?);
    }
    for fleet in &fleets {
        fleet.follow()?;
        fleet.change(PUSHES)?;
    }
    // In turn, so that what else the machine does concerns both.
    for _ in 0..args.rounds {
        for (fleet, costs) in fleets.iter().zip(&mut costs) {
            costs.push(fleet.look()?);
        }
    }
    let [small, large] = &costs;
    publish(&workspace, args, small, large, &pushes)
}

fn publish(
    workspace: &Workspace,
    args: &BenchInventoryArgs,
    small: &[Look],
    large: &[Look],
    pushes: &[Push],
) -> anyhow::Result<()> {
    let of = |looks: &[Look], what: fn(&Look) -> f64| median(&looks.iter().map(what).collect::<Vec<_>>());
    let both = |what: fn(&Look) -> f64| (of(small, what), of(large, what));
    let figure = |name: &str, meaning: String, value: f64, unit: &str, goal: f64| {
        let figure = Figure::new(workspace, name, &meaning, (value, unit), goal)?;
        figure.by("make bench-inventory").publish(workspace)
    };
    let (hosts, few) = (args.hosts, args.small);
    let (less, bytes) = both(|look| look.bytes as f64);
    let meaning = format!(
        "bytes on the device's network, both ways, TLS, TCP and IP included, for a one-line change of its \
         group in a fleet of {hosts} hosts; {less:.0} in one of {few}"
    );
    figure("inventory-fetch", meaning, bytes, "B", FETCH_BYTES)?;
    let (less, cpu) = both(|look| look.device.as_secs_f64() * 1e3);
    let meaning = format!(
        "CPU of the agent to ask, fetch, prove, check out and make its inventory after that change in a fleet \
         of {hosts} hosts ({cpu:.1} ms) over that in one of {few} ({less:.1} ms), Ansible left out"
    );
    figure("inventory-agent-cpu", meaning, cpu / less, "×", CPU_RATIO)?;
    let (less, cpu) = both(|look| look.server.as_secs_f64() * 1e3);
    let meaning = format!(
        "CPU of the server, git and TLS included, for the device's questions and its pack in a fleet of {hosts} \
         hosts; {less:.1} ms in one of {few}"
    );
    figure("inventory-server-cpu", meaning, cpu, "ms", SERVER_MS)?;
    let (less, peak) = both(|look| look.grown as f64 / 1024.0);
    let meaning = format!(
        "memory that the server needs at most for that pack beside what it had before; {less:.2} MiB in the \
         fleet of {few}"
    );
    figure("inventory-server-memory", meaning, peak, "MiB", SERVER_MIB)?;
    let of_pushes = |what: fn(&Push) -> Duration| {
        median(&pushes.iter().map(|push| what(push).as_secs_f64()).collect::<Vec<_>>())
    };
    let meaning = format!(
        "time that a person waits for the push of that change in a fleet of {hosts} hosts, with the server's \
         checks of all of it; {:.2} s of CPU on the server",
        of_pushes(|push| push.server)
    );
    figure("inventory-push", meaning, of_pushes(|push| push.wall), "s", PUSH_SECONDS)
}

/// What a push took.
struct Push {
    wall: Duration,
    server: Duration,
}

/// What one look of the device cost.
struct Look {
    device: Duration,
    server: Duration,
    bytes: u64,
    /// By how many KiB the server's memory grew meanwhile, at most.
    grown: u64,
}

/// A server with a fleet of so many hosts, one of which is a device.
struct Fleet {
    device: Device,
    chain: Chain,
    clone: Clone,
}

impl Fleet {
    fn open(
        workspace: &Workspace,
        cache: &Cache,
        tools: &Tools,
        hosts: usize,
        sites: usize,
    ) -> anyhow::Result<Self> {
        let logs = workspace.target.join(format!("bench-inventory/{hosts}"));
        let lab = Lab::open(cache)?;
        let root = device_root(cache, Debian::Bookworm, &mut |_| {})?;
        let device = lab.start_device(DEVICE, &root, DeviceOptions::default())?;
        let chain = Chain::open(lab, tools.clone(), &logs)?;
        let clone = chain.clone_of("fleet")?;
        clone.write("inventory.yml", &inventory(hosts, sites))?;
        clone.write("site.yml", PLAYBOOK)?;
        let config = volary_host::read_to_string(&clone.dir().join("volary.yml"))?;
        // Without packages there is no apt in what is measured.
        let bare = config.replace("branch: master, packages: rolling", "branch: master");
        ensure!(bare != config, "volary.yml does not say packages: rolling");
        clone.write("volary.yml", &format!("{bare}\nconfirm: {{ development: 1s }}\n"))?;
        clone.commit("add the hosts")?;
        let started = Instant::now();
        clone.run_volary(&["inventory", "split"])?;
        println!("{hosts} hosts: split in {:.1} s", started.elapsed().as_secs_f64());
        let tip = clone.commit("give each host a file")?;
        let started = Instant::now();
        clone.push("master")?;
        println!("{hosts} hosts: first push in {:.1} s", started.elapsed().as_secs_f64());
        chain.join(&device, "development")?;
        chain.wait_for_good(DEVICE, &tip, Duration::from_secs(300))?;
        Ok(Self { device, chain, clone })
    }

    /// Lets the device come to the newest commit, and makes it ready to be measured.
    fn follow(&self) -> anyhow::Result<()> {
        self.device.check(&["systemctl", "restart", "volary-agent.service"])?;
        self.chain.wait_for_good(DEVICE, &self.clone.head()?, Duration::from_secs(300))?;
        self.device.check(&["systemctl", "stop", "volary-agent.service"])?;
        self.device.check(&["mv", "/usr/bin/ansible-playbook", "/usr/bin/ansible-playbook.away"])?;
        Ok(())
    }

    /// Changes one line of the device's group.
    fn change(&self, turn: usize) -> anyhow::Result<Push> {
        let path = "inventory/groups.yml";
        let before = volary_host::read_to_string(&self.clone.dir().join(path))?;
        let (old, new) = (format!("\"10.{turn}.0.1\""), format!("\"10.{}.0.1\"", turn + 1));
        let after = before.replacen(&old, &new, 1);
        ensure!(before != after, "{path} does not say {old}");
        self.clone.write(path, &after)?;
        self.clone.commit("move the gateway")?;
        let before = self.chain.server_cpu()?;
        let started = Instant::now();
        self.clone.push("master")?;
        let wall = started.elapsed();
        Ok(Push { wall, server: self.chain.server_cpu()? - before })
    }

    fn look(&self) -> anyhow::Result<Look> {
        let tip: CommitId = self.clone.head()?;
        let (_, nothing) = self.device.measure(&["true"])?;
        let server = self.chain.server_id()?;
        forget_peak(server)?;
        let (had, before, sent) = (memory(server, "VmRSS:")?, self.chain.server_cpu()?, self.traffic()?);
        let (output, cost) = self.device.measure(&["volary-agent", "plan", "--json"])?;
        let bytes = self.traffic()? - sent;
        let look = Look {
            device: cost.cpu.saturating_sub(nothing.cpu),
            server: self.chain.server_cpu()? - before,
            bytes,
            grown: memory(server, "VmHWM:")?.saturating_sub(had),
        };
        let said: serde_json::Value = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("volary-agent plan says {}", output.text()))?;
        ensure!(said["commit"] == tip.as_str() && said["there"] == false, "it does not see {tip}: {said}");
        let unknown = said["unknown"].to_string();
        ensure!(unknown.contains("ansible-playbook"), "it did not get as far as Ansible: {said}");
        Ok(look)
    }

    /// All that went over the device's network so far.
    fn traffic(&self) -> anyhow::Result<u64> {
        let text = self.device.check(&["cat", "/proc/net/dev"])?;
        let interfaces = text.lines().filter_map(|line| line.split_once(':'));
        let mut sum = 0;
        for (_, counters) in interfaces.filter(|(name, _)| name.trim() != "lo") {
            let counters: Vec<u64> =
                counters.split_whitespace().map_while(|field| field.parse().ok()).collect();
            // Received first, and after eight of those, sent.
            sum += counters.first().zip(counters.get(8)).map_or(0, |(received, sent)| received + sent);
        }
        Ok(sum)
    }
}

/// Lets the kernel see the greatest need for memory of a process anew.
fn forget_peak(process: u32) -> std::io::Result<()> {
    let mut file = File::options().write(true).open(format!("/proc/{process}/clear_refs"))?;
    file.write_all(b"5")
}

/// In KiB.
fn memory(process: u32, field: &str) -> anyhow::Result<u64> {
    let status = volary_host::read_to_string(Path::new(&format!("/proc/{process}/status")))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    let number = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse().ok());
    number.with_context(|| format!("the kernel gives no {field}"))
}

const PLAYBOOK: &str = "\
---
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.copy: {dest: /run/level, content: \"{{ level }}\"}
";

/// Hosts in groups by stage, by role and by site. The group whose line changes is the site of the device.
fn inventory(hosts: usize, sites: usize) -> String {
    const ROLES: usize = 10;
    let names: Vec<String> = std::iter::once(DEVICE.to_owned())
        .chain((2..=hosts).map(|number| format!("host-{number:06}")))
        .collect();
    let mut text = String::from("---\nall:\n  children:\n");
    let mut group = |name: &str, vars: &str, members: &mut dyn Iterator<Item = &String>| {
        text.push_str(&format!("    {name}:\n{vars}      hosts:\n"));
        members.for_each(|member| text.push_str(&format!("        {member}:\n")));
    };
    group("development", "", &mut names.iter().take(1));
    group("production", "", &mut names.iter().skip(1));
    for role in 0..ROLES {
        let vars = format!("      vars: {{level: {}, port: {}}}\n", role + 1, 8000 + role);
        group(&format!("role_{role}"), &vars, &mut names.iter().skip(role).step_by(ROLES));
    }
    for site in 0..sites {
        let vars = format!("      vars: {{volary_site: site-{site}, gateway: 10.{site}.0.1}}\n");
        group(&format!("site_{site}"), &vars, &mut names.iter().skip(site).step_by(sites));
    }
    text
}
