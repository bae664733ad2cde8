//! The kernel's network state back to what it was, by its differences: what did not change is not
//! touched, so a device that is reached over its network stays reachable while it is mended.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use volary_host::Cmd;

use super::Undo;
use crate::checkpoint::manifest::{Link, Network};
use crate::checkpoint::network::{FAMILIES, LEGACY, look, routes, rules, sysctls};

const LIMIT: Duration = Duration::from_secs(20);

/// Puts everything back that differs.
pub(super) fn put_back(undo: &mut Undo<'_>) {
    let Some(before) = &undo.manifest.network else { return };
    let now = look();
    firewall(undo, before, &now);
    for command in of_links(&before.links, &now.links) {
        ip(undo, &command);
    }
    for (index, family) in FAMILIES.into_iter().enumerate() {
        for command in of_lines("rule", family, &before.rules[index], &rules(family)) {
            ip(undo, &command);
        }
        // Again for those that need a route of the first round. Addresses that went took routes
        // along, so it is looked anew.
        for round in 0..2 {
            for command in of_lines("route", family, &before.routes[index], &routes(family)) {
                if round == 1 || !needs_another(&command) {
                    ip(undo, &command);
                }
            }
        }
    }
    settings(undo, &before.sysctls);
    // What matters is whether it is as it was, not what a single command said.
    differences(undo, before, &look());
}

fn firewall(undo: &mut Undo<'_>, before: &Network, now: &Network) {
    if now.nftables.is_some()
        && before.nftables.as_deref().unwrap_or_default() != now.nftables.as_deref().unwrap_or_default()
    {
        let rules = before.nftables.as_deref().unwrap_or_default();
        load(undo, "nft", &["-f", "-"], &format!("flush ruleset\n{rules}"), "the rules of nftables");
    }
    for (index, program) in LEGACY.into_iter().enumerate() {
        let (before, now) = (&before.iptables[index], &now.iptables[index]);
        if now.is_some() && before != now {
            let restore = program.replace("-save", "-restore");
            let rules = before.clone().unwrap_or_else(|| open(now.as_deref().unwrap_or_default()));
            load(undo, &restore, &[], &rules, "the rules of iptables");
        }
    }
}

/// The tables that there are now, empty and open: there were none before.
fn open(now: &str) -> String {
    let mut text = String::new();
    for line in now.lines() {
        if line.starts_with('*') || line == "COMMIT" {
            text.push_str(line);
        } else if let Some(chain) = line.strip_prefix(':').filter(|_| !line.ends_with(" -")) {
            text.push_str(&format!(":{} ACCEPT", chain.split(' ').next().unwrap_or_default()));
        } else {
            continue;
        }
        text.push('\n');
    }
    text
}

fn load(undo: &mut Undo<'_>, program: &str, args: &[&str], rules: &str, what: &str) {
    match Cmd::new(program).args(args).stdin(rules).timeout(LIMIT).check() {
        Ok(_) => undo.undone.network.push(what.to_owned()),
        Err(error) => undo.could_not(format!("{what}: {error}")),
    }
}

fn ip(undo: &mut Undo<'_>, command: &str) {
    let done = Cmd::new("ip").args(command.split(' ')).timeout(LIMIT).run();
    if done.is_ok_and(|output| output.status.success()) {
        undo.undone.network.push(format!("ip {command}"));
    }
}

/// Lines that are gone are added, those that are new deleted, those first.
fn of_lines(kind: &str, family: &str, before: &BTreeSet<String>, now: &BTreeSet<String>) -> Vec<String> {
    let delete = now.difference(before).map(|line| format!("{family} {kind} delete {line}"));
    let add = before.difference(now).map(|line| format!("{family} {kind} add {line}"));
    delete.chain(add).collect()
}

/// A route by a router needs the route to that router.
fn needs_another(command: &str) -> bool {
    command.contains(" add ") && (command.contains(" via ") || command.contains(" nexthop "))
}

fn of_links(before: &BTreeMap<String, Link>, now: &BTreeMap<String, Link>) -> Vec<String> {
    let mut commands = Vec::new();
    let all: BTreeSet<&String> = before.values().flat_map(|link| &link.addresses).collect();
    // An address that a new interface took over, as a bridge does, must not be there twice.
    for (name, link) in now.iter().filter(|(name, _)| !before.contains_key(*name)) {
        for address in link.addresses.iter().filter(|address| all.contains(address)) {
            commands.push(format!("address delete {address} dev {name}"));
        }
    }
    for (name, was) in before {
        // What is gone, as a container's, comes back with whoever made it.
        let Some(is) = now.get(name) else { continue };
        if was.master != is.master {
            commands.push(match &was.master {
                Some(master) => format!("link set dev {name} master {master}"),
                None => format!("link set dev {name} nomaster"),
            });
        }
        if was.mtu != is.mtu && was.mtu > 0 {
            commands.push(format!("link set dev {name} mtu {}", was.mtu));
        }
        if was.up && !is.up {
            commands.push(format!("link set dev {name} up"));
        }
        for address in is.addresses.difference(&was.addresses) {
            commands.push(format!("address delete {address} dev {name}"));
        }
        for address in was.addresses.difference(&is.addresses) {
            commands.push(format!("address add {address} dev {name}"));
        }
        if !was.up && is.up {
            commands.push(format!("link set dev {name} down"));
        }
    }
    commands
}

/// Some settings change others when they are written (forwarding does), those of `all` those of
/// each interface; so these first, and all of it twice.
fn settings(undo: &mut Undo<'_>, before: &BTreeMap<String, String>) {
    let top = Path::new("/proc/sys/net");
    let mut count = 0;
    for _ in 0..2 {
        let now = sysctls(top);
        let mut todo: Vec<(&String, &String)> =
            before.iter().filter(|(name, value)| now.get(*name).is_some_and(|now| now != *value)).collect();
        todo.sort_by_key(|(name, _)| {
            (!name.ends_with("ip_forward"), !name.contains("/all/"), (*name).clone())
        });
        for (name, value) in todo {
            let path = top.join(name);
            let written = std::fs::OpenOptions::new()
                .write(true)
                .open(&path)
                .and_then(|mut file| std::io::Write::write_all(&mut file, value.as_bytes()));
            count += u32::from(written.is_ok());
        }
    }
    if count > 0 {
        undo.undone.network.push(format!("{count} settings of /proc/sys/net"));
    }
}

/// Names what is not as it was.
fn differences(undo: &mut Undo<'_>, before: &Network, now: &Network) {
    undo.undone.could_not.retain(|line| !line.starts_with("network: "));
    let mut left = Vec::new();
    for (index, family) in FAMILIES.into_iter().enumerate() {
        left.extend(of_lines("route", family, &before.routes[index], &now.routes[index]));
        left.extend(of_lines("rule", family, &before.rules[index], &now.rules[index]));
    }
    left.extend(of_links(&before.links, &now.links));
    for line in left {
        undo.could_not(format!("network: it still needs: ip {line}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(up: bool, addresses: &[&str]) -> Link {
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        Link { up, mtu: 1500, master: None, addresses }
    }

    fn map(links: &[(&str, Link)]) -> BTreeMap<String, Link> {
        links.iter().map(|(name, link)| ((*name).to_owned(), link.clone())).collect()
    }

    #[test]
    fn only_differences_are_mended() {
        let before = map(&[("eth0", link(true, &["10.0.0.2/24"]))]);
        assert_eq!(of_links(&before, &before), Vec::<String>::new());
        let down = map(&[("eth0", Link { mtu: 576, ..link(false, &["10.9.0.2/24"]) })]);
        let expected = [
            "link set dev eth0 mtu 1500",
            "link set dev eth0 up",
            "address delete 10.9.0.2/24 dev eth0",
            "address add 10.0.0.2/24 dev eth0",
        ];
        assert_eq!(of_links(&before, &down), expected);
    }

    #[test]
    fn a_bridge_gives_back_what_it_took() {
        let before = map(&[("eth0", link(true, &["10.0.0.2/24"]))]);
        let bridged = map(&[
            ("br0", link(true, &["10.0.0.2/24", "10.5.0.1/24"])),
            ("eth0", Link { master: Some("br0".into()), ..link(true, &[]) }),
        ]);
        let expected = [
            "address delete 10.0.0.2/24 dev br0",
            "link set dev eth0 nomaster",
            "address add 10.0.0.2/24 dev eth0",
        ];
        assert_eq!(of_links(&before, &bridged), expected);
    }

    #[test]
    fn wrong_routes_go_before_right_ones_come() {
        let set = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let commands = of_lines(
            "route",
            "-4",
            &set(&["unicast default via 10.0.0.1 dev eth0"]),
            &set(&["unicast default via 10.0.0.9 dev eth0"]),
        );
        let expected = [
            "-4 route delete unicast default via 10.0.0.9 dev eth0",
            "-4 route add unicast default via 10.0.0.1 dev eth0",
        ];
        assert_eq!(commands, expected);
        assert!(!needs_another(&commands[0]) && needs_another(&commands[1]));
    }

    #[test]
    fn tables_that_were_not_there_are_opened() {
        let now = "*filter\n:INPUT DROP\n:mine -\n-A INPUT -j mine\nCOMMIT\n";
        assert_eq!(open(now), "*filter\n:INPUT ACCEPT\nCOMMIT\n");
    }
}
