//! Commits that cut a device off or break it: each device is back on the commit before within the
//! time to confirm and two minutes, without help from outside, and the server tells why.
//! Real server, real agent, real systemd, apt, nftables; seven ways to lose a device.

#![allow(clippy::print_stdout, reason = "how long each took is worth reading")]

mod common;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use volary_host::{Cmd, create_dir, write_atomic};
use volary_testkit::chain::{Chain, Clone, inventory, unit_state};
use volary_testkit::{Debian, Device, DeviceOptions, roots, wait_until};

/// The time to confirm in `volary.yml`, in seconds.
const WITHIN: u64 = 20;

/// How long after it was broken a device is back at the latest, in seconds.
const BACK: i64 = WITHIN as i64 + 120;

/// A busy machine needs longer for what is not counted: fetching, verifying, starting.
const LIMIT: Duration = Duration::from_secs(420);

/// What one device suffers: the tasks of the bad commit, and what the reason must say.
struct Case {
    device: &'static str,
    tasks: &'static str,
    says: &'static str,
    /// What the server's short reason must say.
    tells: &'static str,
}

const CASES: [Case; 6] = [
    Case {
        device: "dev-firewall",
        tasks: r#"
    - name: drop all traffic
      ansible.builtin.copy:
        dest: /etc/nftables.conf
        content: |
          flush ruleset
          table inet closed {
            chain in { type filter hook input priority 0; policy drop; }
            chain out { type filter hook output priority 0; policy drop; }
          }
    - name: load the rules
      ansible.builtin.command: nft -f /etc/nftables.conf
    - name: load them at boot
      ansible.builtin.systemd: { name: nftables, enabled: true }
"#,
        says: "10.77.",
        tells: "path: the server cannot be reached",
    },
    Case {
        device: "dev-dns",
        tasks: r#"
    - name: name a server that does not answer
      ansible.builtin.copy: { dest: /etc/resolv.conf, content: "nameserver 192.0.2.1\n" }
"#,
        says: "volary.test",
        tells: "volary.test",
    },
    Case {
        device: "dev-route",
        tasks: r#"
    - name: send everything to nobody
      ansible.builtin.shell: ip route add {{ lab_server }}/32 via {{ lab_nobody }} dev host0
    - name: again at each boot
      ansible.builtin.copy:
        dest: /etc/systemd/system/wrong-route.service
        content: |
          [Service]
          Type=oneshot
          ExecStart=/bin/ip route replace {{ lab_server }}/32 via {{ lab_nobody }} dev host0
          [Install]
          WantedBy=multi-user.target
    - name: enable it
      ansible.builtin.systemd: { name: wrong-route, enabled: true, daemon_reload: true }
"#,
        says: "10.77.",
        tells: "path: the server cannot be reached",
    },
    Case {
        device: "dev-disk",
        tasks: r#"
    - name: fill the disk
      ansible.builtin.command: dd if=/dev/zero of=/opt/filler bs=1M
"#,
        says: "space",
        tells: "fill the disk",
    },
    Case {
        device: "dev-agent",
        tasks: r#"
    - name: stop the agent for ever
      ansible.builtin.systemd: { name: volary-agent, state: stopped, enabled: false }
"#,
        says: "agent",
        tells: "the agent did not run",
    },
    Case {
        device: "dev-service",
        tasks: r#"
    - name: a service that dies after a while
      ansible.builtin.copy:
        dest: /etc/systemd/system/fragile.service
        content: |
          [Service]
          ExecStart=/bin/sh -c 'echo fragile begins; sleep 20; echo fragile broke; exit 1'
          [Install]
          WantedBy=multi-user.target
    - name: start it
      ansible.builtin.systemd: { name: fragile, enabled: true, state: restarted, daemon_reload: true }
"#,
        says: "fragile broke",
        tells: "fragile.service",
    },
];

/// Packages that every device installs; it crashes on one device only, which is alone then.
const CRASHES: &str = "dev-crash";

fn site(marker: &str, cases: &[Case], lab: Ipv4Addr) -> String {
    let mut text = format!(
        "---\n- name: Bring the device to what its stage wants\n  hosts: all\n  become: true\n  vars:\n    \
         lab_server: {lab}\n    lab_nobody: {}\n  roles:\n    - role: volary.fleet.apt_source\n    \
         - role: volary.fleet.packages\n    - role: volary.fleet.service_health\n  tasks:\n    \
         - name: leave a mark\n      ansible.builtin.copy: {{ dest: /etc/mark, content: \"{marker}\" }}\n",
        Ipv4Addr::new(lab.octets()[0], lab.octets()[1], lab.octets()[2], 250),
    );
    for case in cases {
        // The last moment before: a busy machine takes its time until then.
        text.push_str(&format!(
            "    - name: note the time\n      ansible.builtin.shell: date +%s > /run/hit\n      \
             when: inventory_hostname == \"{}\"\n",
            case.device
        ));
        for task in case.tasks.trim_matches('\n').split("\n    - ") {
            let task = task.trim_start_matches("    - ");
            text.push_str(&format!("    - {task}\n      when: inventory_hostname == \"{}\"\n", case.device));
        }
    }
    text
}

/// Answers one name for as long as the test runs.
fn dns(lab: Ipv4Addr) {
    let socket = UdpSocket::bind((lab, 53)).unwrap();
    std::thread::spawn(move || {
        let mut packet = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut packet) {
            let question = &packet[12..length];
            let Some(end) = question.iter().position(|&byte| byte == 0) else { continue };
            let Some(kind) = question.get(end + 2) else { continue };
            let is_a = *kind == 1 && question[..end].windows(6).any(|part| part == b"volary");
            let mut answer = packet[..2].to_vec();
            answer.extend([0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            answer.extend(&question[..end + 5]);
            if is_a {
                answer.extend([0xC0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4]);
                answer.extend(lab.octets());
            }
            drop(socket.send_to(&answer, from));
        }
    });
}

fn json(device: &Device, path: &str) -> Option<Value> {
    serde_json::from_slice(&device.read(path).ok()?).ok()
}

/// Waits until an undo ended and gives what it says.
fn undone(device: &Device) -> Value {
    let found = device.wait_until("the undo", LIMIT, |device| {
        json(device, "/var/lib/volary/checkpoint/undone.json").ok_or_else(|| {
            let asked = [
                "journalctl",
                "--no-pager",
                "-n",
                "4",
                "-o",
                "cat",
                "-u",
                "volary-agent",
                "-u",
                "volary-rescue",
            ];
            device.exec(&asked).map(|output| output.text()).unwrap_or_default()
        })
    });
    found.unwrap_or_else(|error| {
        panic!("{error}\n{}", device.exec(&["journalctl", "--no-pager", "-n", "200"]).unwrap().text())
    })
}

/// Seconds from the task that breaks the device to the end of the undo, by the device's own clock.
fn seconds(device: &Device, undone: &Value) -> i64 {
    let hit = String::from_utf8(device.read("/run/hit").unwrap()).unwrap();
    let at: jiff::Timestamp = undone["at"].as_str().unwrap().parse().unwrap();
    at.as_second() - hit.trim().parse::<i64>().unwrap()
}

fn setting_up(chain: &Chain) -> (Clone, Vec<Device>) {
    let lab = chain.lab().host_address();
    let names: Vec<&str> = CASES.iter().map(|case| case.device).chain([CRASHES]).collect();
    let fleet = chain.clone_of("fleet").unwrap();
    let members: Vec<(&str, &str)> = names.iter().map(|name| (*name, "development")).collect();
    fleet.write("inventory.yml", &inventory(&members)).unwrap();
    fleet.hurry(WITHIN).unwrap();
    fleet.write("site.yml", &site("before", &[], lab)).unwrap();
    let good = fleet.commit("begin").unwrap();
    fleet.push("master").unwrap();

    let root = roots::device_root(&common::cache(), Debian::Bookworm, &mut |_| {}).unwrap();
    let devices: Vec<Device> = names
        .iter()
        .map(|name| {
            let mut options = DeviceOptions::default();
            if *name == "dev-disk" {
                options.disk = Some(700);
            }
            if *name == "dev-dns" {
                // Only the name server knows the server.
                options.files = vec![
                    ("/etc/hosts".into(), b"127.0.0.1 localhost\n".to_vec(), 0o644),
                    ("/etc/resolv.conf".into(), format!("nameserver {lab}\n").into_bytes(), 0o644),
                ];
            }
            let device = chain.lab().start_device(name, &root, options).unwrap();
            chain.join(&device, "development").unwrap();
            if *name == "dev-dns" {
                let script = format!("sed -i s/{lab}/volary.test/ /etc/volary/agent.json");
                device.check(&["sh", "-c", &script]).unwrap();
                device.check(&["systemctl", "restart", "volary-agent"]).unwrap();
            }
            device
        })
        .collect();
    for device in &devices {
        chain.wait_for_good(device.name(), &good, LIMIT).unwrap();
        assert_eq!(device.read("/etc/mark").unwrap(), b"before");
        // What was done so far is no undo.
        assert_eq!(json(device, "/var/lib/volary/checkpoint/undone.json"), None);
    }
    (fleet, devices)
}

/// The device is as it was: files, units, network, and the agent follows again.
fn check_back(chain: &Chain, device: &Device, says: &str, tells: &str) {
    let undone = undone(device);
    let took = seconds(device, &undone);
    println!("figure undo.{} ours {took} s peer - goal <= {BACK}", device.name());
    assert!(took <= BACK, "{}: it took {took} s: {undone:#}", device.name());
    assert_eq!(device.read("/etc/mark").unwrap(), b"before", "{undone:#}");
    let reason = undone["reason"].to_string() + &undone["could_not"].to_string();
    assert!(reason.contains(says), "{}: {undone:#}", device.name());
    let active = || match unit_state(device, "volary-agent").unwrap().as_str() {
        "active" => Ok(()),
        other => Err(other.to_owned()),
    };
    wait_until("the agent", Duration::from_secs(60), active).unwrap();
    let known = wait_until("the server to hear of it", LIMIT, || {
        let known = chain.known(device.name()).map_err(|error| error.to_string())?;
        if known.reason.contains(tells) {
            Ok(known)
        } else {
            Err(format!("{:?}: {}", known.condition, known.reason))
        }
    });
    let known = known.unwrap_or_else(|error| panic!("{error}\n{undone:#}"));
    println!("{}: {:?}: {}", device.name(), known.condition, known.reason);
}

/// A package of the agent that ends at once.
fn crashing_agent(folder: &Path) -> String {
    let tree = folder.join("crashing");
    create_dir(&tree.join("DEBIAN")).unwrap();
    create_dir(&tree.join("usr/bin")).unwrap();
    let program = "#!/bin/sh\necho this agent crashes >&2\nkill -SEGV $$\n";
    write_atomic(&tree.join("usr/bin/volary-agent"), program.as_bytes(), 0o755).unwrap();
    let control = "Package: volary-agent\nVersion: 99\nArchitecture: all\n\
                   Maintainer: Volary tests <tests@volary.test>\nDescription: an agent that crashes\n";
    write_atomic(&tree.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    let deb = folder.join("volary-agent_99_all.deb");
    Cmd::new("dpkg-deb")
        .args(["--root-owner-group", "-Znone", "--build"])
        .args([&tree, &deb])
        .check()
        .unwrap();
    deb.display().to_string()
}

#[test]
fn a_device_comes_back_from_every_bad_commit() {
    let (chain, logs) = common::chain();
    let lab = chain.lab().host_address();
    dns(lab);
    let (fleet, devices) = setting_up(&chain);
    let of = |name: &str| devices.iter().find(|device| device.name() == name).unwrap();
    for device in &devices {
        device.check(&["systemctl", "stop", "volary-agent"]).unwrap();
    }
    // One half after the other, so that a small machine is not what makes it slow.
    for half in CASES.chunks(3) {
        fleet.write("site.yml", &site("after", half, lab)).unwrap();
        fleet.commit("break things").unwrap();
        fleet.push("master").unwrap();
        for case in half {
            of(case.device).check(&["systemctl", "start", "volary-agent"]).unwrap();
        }
        for case in half {
            check_back(&chain, of(case.device), case.says, case.tells);
        }
        for case in half {
            of(case.device).stop().unwrap();
        }
    }
    // Last of all a package that each device would install.
    let device = of(CRASHES);
    let before = device.read("/usr/bin/volary-agent").unwrap();
    fleet.write("site.yml", &site("before", &[], lab)).unwrap();
    let good = fleet.commit("mend things").unwrap();
    fleet.push("master").unwrap();
    device.check(&["systemctl", "start", "volary-agent"]).unwrap();
    chain.wait_for_good(CRASHES, &good, LIMIT).unwrap();
    device.check(&["sh", "-c", "date +%s > /run/hit"]).unwrap();
    chain.volary(&["archive", "include", &crashing_agent(logs.path())]).unwrap();
    check_back(&chain, device, "agent", "the agent did not run");
    assert!(device.read("/usr/bin/volary-agent").unwrap() == before, "the agent before is back");
}
