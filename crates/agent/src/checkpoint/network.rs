//! The kernel's network state, as its own tools tell it: rules of the firewall, interfaces with
//! their addresses, routes, routing rules, settings. How it is put back is in `undo`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use volary_host::Cmd;

use super::manifest::{Link, Network};

/// Each of these answers in milliseconds.
const LIMIT: Duration = Duration::from_secs(20);

/// Options of `ip` for the two families, in the order of the arrays in [`Network`].
pub const FAMILIES: [&str; 2] = ["-4", "-6"];

/// Programs that save what iptables of the old kind knows; nft shows the new kind.
pub const LEGACY: [&str; 2] = ["iptables-legacy-save", "ip6tables-legacy-save"];

/// Where the kernel names the tables of the old kind that there are; the programs go by the same.
const TABLES: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Settings that are counters or times rather than settings, by the end of their path.
const NO_SETTINGS: [&str; 4] = ["flush", "stable_secret", "nf_conntrack_count", "nf_log_all_netns"];

/// Looks at everything. What has no tool here is left out.
pub fn look() -> Network {
    Network {
        nftables: said(Cmd::new("nft").args(["--stateless", "list", "ruleset"])),
        iptables: [0, 1].map(|family| legacy(LEGACY[family], Path::new(TABLES[family]))),
        routes: FAMILIES.map(routes),
        rules: FAMILIES.map(rules),
        links: links(),
        sysctls: sysctls(Path::new("/proc/sys/net")),
    }
}

fn said(cmd: Cmd) -> Option<String> {
    let output = cmd.timeout(LIMIT).run().ok()?;
    output.status.success().then(|| output.text())
}

/// The rules of the old kind; `None` also if the kernel has no table of it.
fn legacy(program: &str, tables: &Path) -> Option<String> {
    let tables = fs::read_to_string(tables).ok().filter(|tables| !tables.trim().is_empty());
    tables.and_then(|_| said(Cmd::new(program))).map(|rules| without_counters(&rules))
}

/// The lines that matter: dates and counters differ each time.
fn without_counters(rules: &str) -> String {
    let lines = rules.lines().filter(|line| !line.starts_with('#'));
    let plain = |line: &str| match line.split_once(" [") {
        Some((policy, _)) if line.starts_with(':') => format!("{policy}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    lines.map(plain).collect()
}

/// The routes of one family.
pub fn routes(family: &str) -> BTreeSet<String> {
    let listed = said(Cmd::new("ip").args([family, "-details", "route", "show", "table", "all"]));
    listed.unwrap_or_default().lines().filter_map(route).collect()
}

/// One route as the arguments that add it; `None` for those that come by themselves: from the
/// kernel with an address, or from a router's advertisement.
fn route(line: &str) -> Option<String> {
    let mut kept = Vec::new();
    let mut words = line.split_whitespace().peekable();
    while let Some(word) = words.next() {
        match word {
            "linkdown" | "dead" | "cache" | "notify" | "offload" | "trap" | "rt_offload" | "rt_trap" => {}
            "expires" | "error" | "users" | "age" | "pref" => {
                words.next();
            }
            word => kept.push(word),
        }
    }
    let follows = |name: &str, value: &str| kept.windows(2).any(|pair| pair == [name, value]);
    let by_itself = follows("table", "local") || follows("proto", "ra") || kept.first() == Some(&"multicast");
    // An anycast or local route outside of the local table is somebody's own.
    (!by_itself && !kept.is_empty()).then(|| kept.join(" "))
}

/// The routing rules of one family, each as the arguments that add it.
pub fn rules(family: &str) -> BTreeSet<String> {
    let listed = said(Cmd::new("ip").args([family, "rule", "show"]));
    listed.unwrap_or_default().lines().filter_map(rule).collect()
}

fn rule(line: &str) -> Option<String> {
    let (priority, rest) = line.split_once(':')?;
    let rest: Vec<&str> = rest.split_whitespace().filter(|word| *word != "[detached]").collect();
    Some(format!("priority {priority} {}", rest.join(" ")))
}

#[derive(Deserialize)]
struct Shown {
    ifname: String,
    #[serde(default)]
    flags: Vec<String>,
    #[serde(default)]
    mtu: u32,
    master: Option<String>,
    #[serde(default)]
    addr_info: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    family: Option<String>,
    local: Option<String>,
    address: Option<String>,
    prefixlen: Option<u8>,
    broadcast: Option<String>,
    scope: Option<String>,
    label: Option<String>,
    #[serde(default)]
    dynamic: bool,
    #[serde(default)]
    temporary: bool,
    protocol: Option<String>,
}

/// The interfaces.
pub fn links() -> BTreeMap<String, Link> {
    let listed = said(Cmd::new("ip").args(["-json", "-details", "address", "show"]));
    parse_links(&listed.unwrap_or_default())
}

fn parse_links(json: &str) -> BTreeMap<String, Link> {
    let shown: Vec<Shown> = serde_json::from_str(json).unwrap_or_default();
    shown
        .into_iter()
        .map(|link| {
            let addresses = link.addr_info.iter().filter_map(|address| arguments(address, &link.ifname));
            let up = link.flags.iter().any(|flag| flag == "UP");
            let kept =
                Link { up, mtu: link.mtu, master: link.master.clone(), addresses: addresses.collect() };
            (link.ifname, kept)
        })
        .collect()
}

/// An address as the arguments that add it; `None` for those that come by themselves.
fn arguments(address: &Address, interface: &str) -> Option<String> {
    let (local, length) = (address.local.as_deref()?, address.prefixlen?);
    let v6 = address.family.as_deref() == Some("inet6");
    let scope = address.scope.as_deref().unwrap_or("global");
    let by_itself = v6 && (scope == "link" || address.temporary || address.dynamic)
        || address.protocol.as_deref().is_some_and(|by| by.starts_with("kernel"))
        || local == "127.0.0.1"
        || local == "::1";
    if by_itself {
        return None;
    }
    let mut words = match &address.address {
        Some(peer) => format!("{local} peer {peer}/{length}"),
        None => format!("{local}/{length}"),
    };
    if let Some(broadcast) = &address.broadcast {
        words.push_str(&format!(" broadcast {broadcast}"));
    }
    if scope != "global" {
        words.push_str(&format!(" scope {scope}"));
    }
    if let Some(label) = address.label.as_deref().filter(|label| *label != interface && !v6) {
        words.push_str(&format!(" label {label}"));
    }
    Some(words)
}

/// The settings of the network that root can change.
pub fn sysctls(below: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    read_below(below, below, &mut found);
    found
}

fn read_below(top: &Path, folder: &Path, found: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let (Ok(meta), path) = (entry.metadata(), entry.path()) else { continue };
        if meta.is_dir() {
            read_below(top, &path, found);
            continue;
        }
        let counts = NO_SETTINGS.iter().any(|name| path.ends_with(name));
        if counts || meta.mode() & 0o200 == 0 || meta.mode() & 0o400 == 0 {
            continue;
        }
        let name = path.strip_prefix(top).ok().and_then(Path::to_str);
        let value = fs::read_to_string(&path).ok();
        if let (Some(name), Some(value)) = (name, value) {
            found.insert(name.to_owned(), value.trim().to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_that_come_by_themselves_are_left_out() {
        let check = |line: &str, expected: Option<&str>| assert_eq!(route(line).as_deref(), expected);
        check(
            "unicast default via 10.0.0.1 dev eth0 proto static scope global metric 5 linkdown ",
            Some("unicast default via 10.0.0.1 dev eth0 proto static scope global metric 5"),
        );
        check("local 10.0.0.2 dev eth0 table local proto kernel scope host src 10.0.0.2", None);
        check("unicast default via fe80::1 dev eth0 proto ra scope global metric 1 expires 1700sec", None);
        check("blackhole 10.9.0.0/16 table 7 proto boot", Some("blackhole 10.9.0.0/16 table 7 proto boot"));
        check(
            "unicast fd00::/8 dev x proto kernel metric 256 pref medium",
            Some("unicast fd00::/8 dev x proto kernel metric 256"),
        );
    }

    #[test]
    fn rules_become_arguments() {
        assert_eq!(rule("32766:\tfrom all lookup main").unwrap(), "priority 32766 from all lookup main");
    }

    #[test]
    fn addresses_become_arguments() {
        let json = r#"[{"ifname":"eth0","flags":["BROADCAST","UP"],"mtu":1500,"master":"br0","addr_info":[
            {"family":"inet","local":"10.0.0.2","prefixlen":24,"broadcast":"10.0.0.255","scope":"global","label":"eth0"},
            {"family":"inet","local":"10.0.0.3","prefixlen":32,"scope":"link","label":"eth0:1"},
            {"family":"inet","local":"10.1.0.1","address":"10.1.0.2","prefixlen":32,"scope":"global"},
            {"family":"inet6","local":"fe80::1","prefixlen":64,"scope":"link"},
            {"family":"inet6","local":"fd00::1","prefixlen":64,"scope":"global"},
            {"family":"inet6","local":"fd00::2","prefixlen":64,"scope":"global","dynamic":true}]}]"#;
        let links = parse_links(json);
        let link = &links["eth0"];
        assert_eq!((link.up, link.mtu, link.master.as_deref()), (true, 1500, Some("br0")));
        let addresses: Vec<_> = link.addresses.iter().map(String::as_str).collect();
        let expected = [
            "10.0.0.2/24 broadcast 10.0.0.255",
            "10.0.0.3/32 scope link label eth0:1",
            "10.1.0.1 peer 10.1.0.2/32",
            "fd00::1/64",
        ];
        assert_eq!(addresses, expected);
    }

    #[test]
    fn the_old_kind_is_asked_only_if_the_kernel_has_it() {
        let dir = tempfile::tempdir().unwrap();
        let tables = dir.path().join("tables");
        assert_eq!(legacy("echo", &tables), None);
        for (text, rules) in [("\n", None), ("filter\n", Some("\n"))] {
            volary_host::write_atomic(&tables, text.as_bytes(), 0o644).unwrap();
            assert_eq!(legacy("echo", &tables).as_deref(), rules);
        }
    }

    #[test]
    fn counters_of_iptables_do_not_count() {
        let saved = "# Generated on Monday\n*filter\n:INPUT ACCEPT [7:420]\n-A INPUT -j DROP\nCOMMIT\n";
        assert_eq!(without_counters(saved), "*filter\n:INPUT ACCEPT\n-A INPUT -j DROP\nCOMMIT\n");
    }
}
