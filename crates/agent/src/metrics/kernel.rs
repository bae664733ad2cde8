//! What the kernel counts for the whole machine: `/proc`.

use super::files::{Root, whole};
use super::sink::{Sink, rounded};

/// Ticks of `/proc/stat` in a second, on every machine (`USER_HZ`).
const TICKS: f64 = 100.0;

/// The most network interfaces that are told apart.
const INTERFACES: usize = 16;

/// Interfaces without a link of their own: loops, ends of containers, what shapes traffic.
const NOT_LINKS: [&str; 7] = ["lo", "veth", "ifb", "dummy", "docker", "br-", "virbr"];

/// Looks.
pub fn look(root: &Root, sink: &mut Sink<'_>) {
    let read = |path: &str| root.text(path).unwrap_or_default();
    sink.put("uptime_seconds", read("/proc/uptime").split('.').next().and_then(whole));
    if sink.wants(&["cpu_seconds_total"]) {
        sink.put("cpu_seconds_total", cpu(&read("/proc/stat")));
    }
    if sink.wants(&["load1"]) {
        sink.put("load1", decimal(read("/proc/loadavg").split_whitespace().next().unwrap_or_default()));
    }
    memory(&read("/proc/meminfo"), sink);
    if sink.wants(&["memory_pressure_ratio"]) {
        sink.put("memory_pressure_ratio", pressure(&read("/proc/pressure/memory")));
    }
    if sink.wants(&["oom_kills_total"]) {
        let vmstat = read("/proc/vmstat");
        sink.put("oom_kills_total", vmstat.lines().find_map(|line| whole(line.strip_prefix("oom_kill ")?)));
    }
    if sink.wants(&["network_receive_bytes_total", "network_transmit_bytes_total"]) {
        network(&read("/proc/net/dev"), sink);
    }
}

/// Time at work, of all cores together: user, nice, system, interrupts and what a host took.
fn cpu(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks: Vec<f64> = line.split_whitespace().map_while(whole).collect();
    let at = |place: usize| ticks.get(place).copied().unwrap_or(0.0);
    (ticks.len() >= 4).then(|| (at(0) + at(1) + at(2) + at(5) + at(6) + at(7)) / TICKS)
}

fn memory(meminfo: &str, sink: &mut Sink<'_>) {
    let field = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
        Some(whole(line.trim().strip_suffix("kB")?.trim())? * 1024.0)
    };
    sink.put("memory_total_bytes", field("MemTotal:"));
    sink.put("memory_available_bytes", field("MemAvailable:"));
    let (total, free) = (field("SwapTotal:"), field("SwapFree:"));
    sink.put("swap_total_bytes", total);
    sink.put("swap_used_bytes", total.zip(free).map(|(total, free)| (total - free).max(0.0)));
}

/// `some avg10=0.00 avg60=1.25 …`: the share of a minute, in percent.
fn pressure(text: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let share = line.split_whitespace().find_map(|word| decimal(word.strip_prefix("avg60=")?))?;
    (0.0..=100.0).contains(&share).then(|| rounded(share / 100.0))
}

/// A number with a fraction and without a sign.
fn decimal(text: &str) -> Option<f64> {
    let is_plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_plain { text.parse().ok() } else { None }
}

fn network(text: &str, sink: &mut Sink<'_>) {
    let links = text.lines().filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let name = name.trim();
        let counters: Vec<f64> = counters.split_whitespace().map_while(whole).collect();
        let is_link = !NOT_LINKS.iter().any(|not| name.starts_with(not));
        Some((name, *counters.first()?, *counters.get(8)?)).filter(|_| is_link)
    });
    for (name, received, sent) in links.take(INTERFACES) {
        sink.put_of("network_receive_bytes_total", "interface", name, received);
        sink.put_of("network_transmit_bytes_total", "interface", name, sent);
    }
}
