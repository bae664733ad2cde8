//! A device with a kernel of its own, as a virtual machine: what a container cannot show. It comes
//! back from a firewall that closes everything, from a power cut behind it, from a network card that
//! only a reboot brings back, and from a wrong clock. Many minutes: QEMU emulates the processor.

#![allow(clippy::print_stdout, reason = "how long each took is worth reading")]

mod common;

use std::time::Duration;

use serde_json::Value;
use volary_api::v1::fleet::DeviceToken;
use volary_api::v1::status::Condition;
use volary_model::CommitId;
use volary_testkit::chain::{Chain, Clone, inventory};
use volary_testkit::{Debian, LabError, Machine, wait_until};

/// How long a convergence or an undo may take under emulation, on a computer that does other things too: the
/// machine's own time passes as slowly as its processor works, and what is judged is that time.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The time to confirm in `volary.yml`, in seconds.
const WITHIN: u64 = 30;

/// How long after it was broken the machine is back at the latest, in seconds of its own clock.
const BACK: i64 = WITHIN as i64 + 120;

/// In the words of the agent, and in those of the timer.
const PATH: &str = "path: the server c";

const NAME: &str = "dev-1";

/// Lets nothing in and nothing out, also after a boot.
const CLOSE: &str = r#"
    - name: write the firewall
      ansible.builtin.copy:
        dest: /etc/nftables.conf
        content: |
          flush ruleset
          table inet closed {
            chain in { type filter hook input priority 0; policy drop; }
            chain out { type filter hook output priority 0; policy drop; }
          }
    - name: also after a boot
      ansible.builtin.command: systemctl enable nftables.service
    - name: close everything
      ansible.builtin.command: nft -f /etc/nftables.conf
"#;

/// No checkpoint knows the drivers; a boot loads this one again.
const UNPLUG: &str =
    "    - name: take the network card away\n      ansible.builtin.command: modprobe --remove virtio_net\n";

const LATE: &str = "    - name: set the clock\n      ansible.builtin.command: date --set \"+2 years\"\n";

/// A fleet of one device without packages, so that a playbook is all that a convergence is. Its
/// next stage asks how the device is.
fn fleet(chain: &Chain) -> Clone {
    let fleet = chain.clone_of("fleet").unwrap();
    let config = volary_host::read_to_string(&fleet.dir().join("volary.yml")).unwrap();
    let gate = "gates:\n  canary:\n    healthy: { at_least: 98%, silent_at_most: 2%, devices_at_least: 1 }\n";
    let config = config
        .replace("packages: rolling", "packages: lock")
        .replace("poll: 60s", "poll: 5s")
        .replace("gates:\n", gate);
    let config = format!("{config}\nconfirm: {{ development: {WITHIN}s }}\n");
    fleet.write("volary.yml", &config).unwrap();
    fleet.write("inventory.yml", &inventory(&[(NAME, "development")])).unwrap();
    // Those of the template ask for packages of a suite, and this fleet has none.
    fleet.run_git(&["rm", "-r", "--quiet", "health/required.d"]).unwrap();
    fleet
}

/// A commit whose playbook writes `content` to a file, notes the time, then does `tasks`.
fn commit(fleet: &Clone, content: &str, tasks: &str) -> CommitId {
    let playbook = format!(
        "---\n- hosts: all\n  gather_facts: false\n  tasks:\n    - name: write the file\n      \
         ansible.builtin.copy: {{ content: {content}, dest: /etc/written }}\n    - name: note the time\n      \
         ansible.builtin.shell: date +%s > /var/tmp/hit\n{}",
        tasks.trim_start_matches('\n')
    );
    fleet.write("site.yml", &playbook).unwrap();
    let commit = fleet.commit(content).unwrap();
    fleet.push("master").unwrap();
    commit
}

fn start(chain: &Chain) -> Machine<'_> {
    let machine = Machine::start_new(chain.lab(), &common::cache(), Debian::Bookworm, NAME).unwrap();
    let token: DeviceToken = chain.desk().json(&["device", "token", "--stage", "development"]).unwrap();
    machine.copy_in(&chain.tools().agent_deb().unwrap(), "/var/tmp/agent.deb", 0o644).unwrap();
    machine.check(&["dpkg", "--install", "/var/tmp/agent.deb"]).unwrap();
    machine.check(&["volary-agent", "enroll", "--token", &token.token]).unwrap();
    machine
}

/// Fails with what helps to understand it.
fn told<T>(machine: &Machine<'_>, result: Result<T, LabError>) -> T {
    result.unwrap_or_else(|error| {
        let units = ["--unit", "volary-agent", "--unit", "volary-rescue*"];
        let journal = machine.exec(&[&["journalctl", "--no-pager", "--lines", "80"], &units[..]].concat());
        let journal = journal.map(|output| output.text()).unwrap_or_default();
        panic!("{error}\nits journal:\n{journal}\nits console:\n{}", machine.console_end(20))
    })
}

fn text(machine: &Machine<'_>, path: &str) -> Result<String, String> {
    let output = machine.exec(&["cat", path]).map_err(|error| error.to_string())?;
    if output.status.success() { Ok(output.text().trim().to_owned()) } else { Err(format!("no {path}")) }
}

/// Waits until the undo of `commit` ended, and gives what it says.
fn undone(machine: &Machine<'_>, commit: &CommitId) -> Value {
    let found = machine.wait_until("the undo", PATIENCE, |machine| {
        let undone = text(machine, "/var/lib/volary/checkpoint/undone.json")?;
        let undone: Value = serde_json::from_str(&undone).map_err(|error| error.to_string())?;
        if undone["target"]["commit"] == commit.as_str() { Ok(undone) } else { Err("an earlier one".into()) }
    });
    told(machine, found)
}

/// When an undo ended, in seconds since 1970.
fn at(undone: &Value) -> i64 {
    let at: jiff::Timestamp = undone["at"].as_str().unwrap().parse().unwrap();
    at.as_second()
}

/// The number that a program of the machine prints.
fn seconds(machine: &Machine<'_>, args: &[&str]) -> i64 {
    machine.check(args).unwrap().trim().parse().unwrap()
}

/// The machine is as it was with `good`, follows again, and the commit goes no further. Gives the
/// seconds from the task that broke it to the end of the undo, by the machine's own clock.
fn check_back(
    chain: &Chain,
    fleet: &Clone,
    machine: &Machine<'_>,
    bad: &CommitId,
    says: &str,
) -> (i64, Value) {
    let undone = undone(machine, bad);
    let took = at(&undone) - seconds(machine, &["cat", "/var/tmp/hit"]);
    assert_eq!(undone["could_not"], serde_json::json!([]), "{undone:#}");
    assert_eq!(text(machine, "/etc/written").unwrap(), "good", "{undone:#}");
    let rules = machine.check(&["nft", "list", "ruleset"]).unwrap();
    assert!(!rules.contains("drop"), "{rules}");
    assert_eq!(machine.check(&["systemctl", "is-enabled", "volary-agent"]).unwrap().trim(), "enabled");
    // The server hears why, as soon as it can hear anything.
    let known = wait_until("the cause on the server", PATIENCE, || {
        let known = chain.known(NAME).map_err(|error| error.to_string())?;
        let is_it = known.condition == Condition::Failed && known.reason.contains(says);
        if is_it { Ok(known.reason) } else { Err(format!("{:?}: {}", known.condition, known.reason)) }
    });
    println!("{NAME}: {}", told(machine, known));
    let refused = fleet.volary(&["promote", "--from", "development", "--to", "canary", "--yes"]).unwrap();
    let said = format!("{}{}", refused.text(), String::from_utf8_lossy(&refused.stderr));
    assert!(!refused.status.success() && said.contains(&format!("failing: {NAME} (")), "{said}");
    // It does not try again by itself what it undid.
    let status = machine.check(&["volary-agent", "status", "--json"]).unwrap();
    let status: Value = serde_json::from_str(&status).unwrap();
    let bad_here = |entry: &Value| entry["commit"] == bad.as_str();
    assert!(status["quarantined"].as_array().unwrap().iter().any(bad_here), "{status:#}");
    (took, undone)
}

#[test]
fn a_machine_comes_back_from_what_cuts_it_off() {
    let (chain, _logs) = common::chain();
    let fleet = fleet(&chain);
    let good = commit(&fleet, "good", "");
    // A gate judges from the first merge after the one that brings it.
    fleet.run_volary(&["promote", "--from", "development", "--to", "canary", "--yes"]).unwrap();
    let machine = start(&chain);
    told(&machine, chain.wait_for_good(NAME, &good, PATIENCE));
    let rules = text(&machine, "/etc/nftables.conf").unwrap();

    let bad = commit(&fleet, "closed", CLOSE);
    let (took, _) = check_back(&chain, &fleet, &machine, &bad, PATH);
    println!("figure undo-machine.firewall ours {took} s peer - goal <= {BACK}");
    assert!(took <= BACK, "it took {took} s");
    assert_eq!(text(&machine, "/etc/nftables.conf").unwrap(), rules);
    assert!(!machine.exec(&["systemctl", "is-enabled", "--quiet", "nftables"]).unwrap().status.success());

    // The power goes behind the closed firewall, which is closed again by the next boot.
    let bad = commit(&fleet, "dark", CLOSE);
    let closed = machine.wait_until("a closed firewall", PATIENCE, |machine| {
        let rules = machine.exec(&["nft", "list", "ruleset"]).map_err(|error| error.to_string())?.text();
        let armed = text(machine, "/var/lib/volary/checkpoint/armed.json")?;
        if rules.contains("drop") && armed.contains("confirming") { Ok(()) } else { Err(armed) }
    });
    told(&machine, closed);
    // The worst case: all of the change is on the disk.
    machine.check(&["sync"]).unwrap();
    machine.cut_power().unwrap();
    machine.start().unwrap();
    let (_, undone) = check_back(&chain, &fleet, &machine, &bad, "reverted to");
    let loaded =
        machine.check(&["journalctl", "--boot", "--no-pager", "--unit", "nftables.service"]).unwrap();
    assert!(loaded.contains("Finished nftables.service"), "the boot closed it again: {loaded}");
    let booted = seconds(&machine, &["sh", "-c", "date -d \"$(uptime -s)\" +%s"]);
    println!("figure undo-machine.power ours {} s peer - goal <= {BACK}", at(&undone) - booted);

    // Only a boot helps.
    let boot = machine.check(&["cat", "/proc/sys/kernel/random/boot_id"]).unwrap();
    let bad = commit(&fleet, "unplugged", UNPLUG);
    let (took, undone) = check_back(&chain, &fleet, &machine, &bad, PATH);
    println!("figure undo-machine.reboot ours {took} s peer - goal -");
    assert_eq!(undone["rebooted"], true, "{undone:#}");
    assert_ne!(machine.check(&["cat", "/proc/sys/kernel/random/boot_id"]).unwrap(), boot);

    // No certificate is valid any more by such a clock. The machine's own time passes more slowly.
    let lag = |machine: &Machine<'_>| volary_host::now().as_second() - seconds(machine, &["date", "+%s"]);
    let before = lag(&machine);
    let bad = commit(&fleet, "late", LATE);
    let (took, undone) = check_back(&chain, &fleet, &machine, &bad, "path \"clock\"");
    println!("figure undo-machine.clock ours {took} s peer - goal <= {BACK}");
    assert!(took <= BACK, "it took {took} s");
    assert!(undone["units"].to_string().contains("the clock, which was"), "{undone:#}");
    let after = lag(&machine);
    assert!(
        (before - 30..before + 3600).contains(&after),
        "the clock is {after} s behind, it was {before} s"
    );

    // After all of this the next commit is taken.
    let next = commit(&fleet, "next", "");
    told(&machine, chain.wait_for_good(NAME, &next, PATIENCE));
    assert_eq!(text(&machine, "/etc/written").unwrap(), "next");
    machine.stop().unwrap();
}
