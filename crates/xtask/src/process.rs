//! What a running process used, by what Linux says in `/proc` (proc(5)). `self` is this one.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;

/// Its processor time, in steps of 10 ms.
pub fn cpu(process: &str) -> anyhow::Result<Duration> {
    let stat = volary_host::read_to_string(&Path::new("/proc").join(process).join("stat"))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok());
    let ticks = ticks(11).zip(ticks(12)).context("/proc/…/stat is not as it should be")?;
    Ok(Duration::from_millis((ticks.0 + ticks.1) * 10))
}

/// Its resident memory in bytes.
pub fn resident(process: &str) -> anyhow::Result<f64> {
    let status = volary_host::read_to_string(&Path::new("/proc").join(process).join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 =
        line.and_then(|line| line.split_whitespace().next()).context("there is no VmRSS")?.parse()?;
    Ok(kib * 1024.0)
}
