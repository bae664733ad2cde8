//! What this machine is and how it is: read from the kernel, nothing started but dpkg once.

use std::collections::BTreeMap;
use std::path::Path;

use volary_host::{Cmd, CmdError, read_to_string};
use volary_model::{Architecture, InvalidName};

/// Why the machine cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// dpkg does not answer.
    #[error(transparent)]
    Dpkg(#[from] CmdError),
    /// dpkg answers nonsense.
    #[error(transparent)]
    Architecture(#[from] InvalidName),
}

/// Sizes in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sizes {
    /// All of it.
    pub total: u64,
    /// What can be used.
    pub free: u64,
}

/// The architecture as dpkg names it.
///
/// # Errors
/// [`FactsError`] if dpkg is not there: then this is no Debian.
pub fn architecture() -> Result<Architecture, FactsError> {
    Ok(Cmd::new("dpkg").arg("--print-architecture").check()?.text().trim().parse()?)
}

/// `PRETTY_NAME` of os-release.
pub fn os() -> String {
    let text = read_to_string(Path::new("/etc/os-release")).unwrap_or_default();
    pretty_name(&text).unwrap_or_else(|| "unknown".to_owned())
}

fn pretty_name(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// The id of this boot.
pub fn boot_id() -> String {
    read_to_string(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default().trim().to_owned()
}

/// Seconds since boot.
pub fn uptime() -> u64 {
    let text = read_to_string(Path::new("/proc/uptime")).unwrap_or_default();
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

/// Memory of the machine; `free` is what programs can get without swapping.
pub fn memory() -> Sizes {
    meminfo(&read_to_string(Path::new("/proc/meminfo")).unwrap_or_default())
}

fn meminfo(text: &str) -> Sizes {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
    };
    Sizes { total: field("MemTotal:").unwrap_or(0) * 1024, free: field("MemAvailable:").unwrap_or(0) * 1024 }
}

/// The root file system; `free` is what the superuser can fill.
pub fn disk() -> Sizes {
    rustix::fs::statvfs("/")
        .map(|stat| Sizes { total: stat.f_blocks * stat.f_frsize, free: stat.f_bfree * stat.f_frsize })
        .unwrap_or_default()
}

/// Facts for the report.
pub fn facts(architecture: &Architecture) -> BTreeMap<String, String> {
    let uname = rustix::system::uname();
    BTreeMap::from([
        ("architecture".to_owned(), architecture.to_string()),
        ("os".to_owned(), os()),
        ("kernel".to_owned(), uname.release().to_string_lossy().into_owned()),
        ("hostname".to_owned(), uname.nodename().to_string_lossy().into_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_understood() {
        assert!(memory().total > memory().free && memory().free > 0);
        assert!(disk().total > 0 && boot_id().len() == 36);
        let sizes = meminfo("MemTotal:  2048 kB\nMemFree: 1 kB\nMemAvailable:   1024 kB\n");
        assert_eq!(sizes, Sizes { total: 2 << 20, free: 1 << 20 });
        assert_eq!(pretty_name("A=b\nPRETTY_NAME=\"Debian 12\"\n").unwrap(), "Debian 12");
    }
}
