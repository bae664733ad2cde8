//! Commits that cut a device off or break it: each device is back on the commit before within the
//! time to confirm and two minutes, without help from outside, the server tells why, and the commit
//! is kept from the next stage. Real server, real agent, real systemd, apt, nftables; seven ways to
//! lose a device, one of them on Debian 13 too.

#![allow(clippy::print_stdout, reason = "how long each took is worth reading")]

mod common;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use volary_host::{Cmd, Output, create_dir, write_atomic};
use volary_model::CommitId;
use volary_testkit::chain::{Chain, Clone, unit_state};
use volary_testkit::{Debian, Device, DeviceOptions, roots, wait_until};

/// The time to confirm in `volary.yml`, in seconds.
const WITHIN: u64 = 20;

/// How long after it was broken a device is back at the latest, in seconds.
const BACK: i64 = WITHIN as i64 + 120;

/// A busy machine needs longer for what is not counted: fetching, verifying, starting.
const LIMIT: Duration = Duration::from_secs(420);

/// What one device suffers: the tasks of the bad commit, and what the reason must say. Each has a
/// stage of its own, so that each commit is judged by what it did and by nothing else.
struct Case {
    /// Its stage is what follows the dash.
    device: &'static str,
    debian: Debian,
    tasks: &'static str,
    says: &'static str,
    /// What the server's short reason must say.
    tells: &'static str,
}

/// Lets nothing in and nothing out.
const FIREWALL: &str = r#"
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
"#;

const CASES: [Case; 8] = [
    Case {
        device: "dev-firewall",
        debian: Debian::Bookworm,
        tasks: FIREWALL,
        says: "10.77.",
        tells: "path: the server cannot be reached",
    },
    Case {
        device: "dev-trixie",
        debian: Debian::Trixie,
        tasks: FIREWALL,
        says: "10.77.",
        tells: "path: the server cannot be reached",
    },
    Case {
        device: "dev-dns",
        debian: Debian::Bookworm,
        tasks: r#"
    - name: name a server that does not answer
      ansible.builtin.copy: { dest: /etc/resolv.conf, content: "nameserver 192.0.2.1\n" }
"#,
        says: "volary.test",
        tells: "volary.test",
    },
    Case {
        device: "dev-route",
        debian: Debian::Bookworm,
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
        debian: Debian::Bookworm,
        tasks: r#"
    - name: fill the disk
      ansible.builtin.command: dd if=/dev/zero of=/opt/filler bs=1M
"#,
        says: "space",
        tells: "fill the disk",
    },
    Case {
        device: "dev-agent",
        debian: Debian::Bookworm,
        tasks: r#"
    - name: stop the agent for ever
      ansible.builtin.systemd: { name: volary-agent, state: stopped, enabled: false }
"#,
        says: "agent",
        tells: "the agent did not run",
    },
    Case {
        device: "dev-service",
        debian: Debian::Bookworm,
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
    // What its commit does is in the release that it pins.
    Case {
        device: "dev-crash",
        debian: Debian::Bookworm,
        tasks: "",
        says: "agent",
        tells: "the agent did not run",
    },
];

impl Case {
    fn stage(&self) -> &'static str {
        self.device.trim_start_matches("dev-")
    }

    fn next_stage(&self) -> String {
        format!("after-{}", self.stage())
    }

    /// Those of both stages: they are called as these.
    fn branches(&self) -> [String; 2] {
        [self.stage().to_owned(), self.next_stage()]
    }
}

/// The configuration and the inventory of a fleet with two stages for each case, the second of
/// which asks how the device of the first is.
fn describe(fleet: &Clone) {
    let (mut stages, mut gates, mut confirm) = (String::new(), String::new(), Vec::new());
    let mut inventory = String::from("---\nall:\n  children:\n");
    for case in &CASES {
        let (device, stage, next) = (case.device, case.stage(), case.next_stage());
        stages += &format!("  {stage}: {{ branch: {stage}, from: development }}\n");
        stages += &format!("  {next}: {{ branch: {next}, from: {stage} }}\n");
        gates += &format!(
            "  {next}:\n    healthy: {{ at_least: 100%, silent_at_most: 0%, devices_at_least: 1 }}\n"
        );
        confirm.push(format!("{stage}: {WITHIN}s"));
        inventory += &format!("    {stage}: {{ hosts: {{ {device}: }} }}\n");
    }
    let config = format!(
        "version: 1\nstages:\n  development: {{ branch: master, packages: rolling }}\n{stages}gates:\n{gates}poll: \
         1s\nconfirm: {{ {} }}\n",
        confirm.join(", ")
    );
    fleet.write("volary.yml", &config).unwrap();
    fleet.write("inventory.yml", &inventory).unwrap();
}

/// The playbook of a commit for a device, or for all of them.
fn site(device: &str, marker: &str, tasks: &str, lab: Ipv4Addr) -> String {
    let nobody = Ipv4Addr::new(lab.octets()[0], lab.octets()[1], lab.octets()[2], 250);
    // The time is noted at the last moment before: a busy machine takes its time until then.
    format!(
        "---\n- name: Bring {device} to what its stage wants\n  hosts: all\n  become: true\n  vars:\n    \
         lab_server: {lab}\n    lab_nobody: {nobody}\n  roles:\n    - role: volary.fleet.apt_source\n    \
         - role: volary.fleet.packages\n    - role: volary.fleet.service_health\n  tasks:\n    \
         - name: leave a mark\n      ansible.builtin.copy: {{ dest: /etc/mark, content: \"{marker}\" }}\n    \
         - name: note the time\n      ansible.builtin.shell: date +%s > /run/hit\n{}",
        tasks.trim_start_matches('\n')
    )
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
    let fleet = chain.clone_of("fleet").unwrap();
    describe(&fleet);
    fleet.commit("describe the stages").unwrap();
    for branch in ["master".to_owned()].into_iter().chain(CASES.iter().flat_map(Case::branches)) {
        fleet.push(&branch).unwrap();
    }
    fleet.write("site.yml", &site("each device", "before", "", lab)).unwrap();
    fleet.commit("begin").unwrap();
    chain.volary(&["archive", "include", &common::probe_deb(chain.logs(), "1.0")]).unwrap();
    chain.volary(&["release", "cut", "v1.0"]).unwrap();
    fleet.run_volary(&["bump", "v1.0"]).unwrap();

    let goods: Vec<CommitId> = CASES.iter().map(|case| hand_over(&fleet, case)).collect();
    let devices: Vec<Device> = CASES.iter().map(|case| start(chain, case)).collect();
    for (device, good) in devices.iter().zip(&goods) {
        chain.wait_for_good(device.name(), good, LIMIT).unwrap();
        assert_eq!(device.read("/etc/mark").unwrap(), b"before");
        // What was done so far is no undo.
        assert_eq!(json(device, "/var/lib/volary/checkpoint/undone.json"), None);
    }
    (fleet, devices)
}

fn start(chain: &Chain, case: &Case) -> Device {
    let lab = chain.lab().host_address();
    let root = roots::device_root(&common::cache(), case.debian, &mut |_| {}).unwrap();
    let mut options = DeviceOptions::default();
    if case.stage() == "disk" {
        options.disk = Some(700);
    }
    if case.stage() == "dns" {
        // Only the name server knows the server.
        options.files = vec![
            ("/etc/hosts".into(), b"127.0.0.1 localhost\n".to_vec(), 0o644),
            ("/etc/resolv.conf".into(), format!("nameserver {lab}\n").into_bytes(), 0o644),
        ];
    }
    let device = chain.lab().start_device(case.device, &root, options).unwrap();
    chain.join(&device, case.stage()).unwrap();
    if case.stage() == "dns" {
        let script = format!("sed -i s/{lab}/volary.test/ /etc/volary/agent.json");
        device.check(&["sh", "-c", &script]).unwrap();
        device.check(&["systemctl", "restart", "volary-agent"]).unwrap();
    }
    device
}

/// Merges what `development` has into the stage of the case, for its device. What the device will
/// say of it is not known then, so that the stage after it stays closed.
fn hand_over(fleet: &Clone, case: &Case) -> CommitId {
    fleet.run_volary(&["promote", "--from", "development", "--to", case.stage(), "--yes"]).unwrap();
    fleet.run_git(&["fetch", "--quiet"]).unwrap();
    let commit = fleet.run_git(&["rev-parse", &format!("origin/{}", case.stage())]).unwrap();
    refused(fleet, case, "");
    commit.trim().parse().unwrap()
}

/// Neither the command nor git gets the commit into the next stage, and both are told why.
fn refused(fleet: &Clone, case: &Case, why: &str) {
    let (stage, next) = (case.stage(), case.next_stage());
    let said = |output: &Output| format!("{}{}", output.text(), String::from_utf8_lossy(&output.stderr));
    let promoted = fleet.volary(&["promote", "--from", stage, "--to", &next, "--yes"]).unwrap();
    let told = said(&promoted);
    assert!(!promoted.status.success(), "{next} was open: {told}");
    assert!(told.contains("healthy") && told.contains(why), "{next}: {told}");

    let (from, to) = (format!("origin/{stage}"), format!("origin/{next}"));
    let message = format!("Promote it all the same\n\nVolary-Stage: {next}");
    fleet.run_git(&["checkout", "--quiet", "--detach", &to]).unwrap();
    fleet.run_git(&["merge", "--quiet", "--no-ff", "--message", &message, &from]).unwrap();
    let push = fleet.git(&["push", "--quiet", "origin", &format!("HEAD:refs/heads/{next}")]).run().unwrap();
    let told = said(&push);
    assert!(!push.status.success(), "{next} took a push: {told}");
    assert!(told.contains("the gate \"healthy\" says") && told.contains(why), "{next}: {told}");
    fleet.run_git(&["checkout", "--quiet", "master"]).unwrap();
    let tip = fleet.run_git(&["ls-remote", "origin", &format!("refs/heads/{next}")]).unwrap();
    let before = fleet.run_git(&["rev-parse", &to]).unwrap();
    assert!(tip.starts_with(before.trim()), "{tip}");
}

/// The device is as it was: files, units, network, and the agent follows again. The commit goes no
/// further.
fn check_back(chain: &Chain, fleet: &Clone, device: &Device, case: &Case, bad: &CommitId) {
    let undone = undone(device);
    assert_eq!(undone["target"]["commit"], bad.as_str(), "{undone:#}");
    let took = seconds(device, &undone);
    println!("figure undo.{} ours {took} s peer - goal <= {BACK}", device.name());
    assert!(took <= BACK, "{}: it took {took} s: {undone:#}", device.name());
    assert_eq!(device.read("/etc/mark").unwrap(), b"before", "{undone:#}");
    let reason = undone["reason"].to_string() + &undone["could_not"].to_string();
    assert!(reason.contains(case.says), "{}: {undone:#}", device.name());
    let active = || match unit_state(device, "volary-agent").unwrap().as_str() {
        "active" => Ok(()),
        other => Err(other.to_owned()),
    };
    wait_until("the agent", Duration::from_secs(300), active).unwrap();
    let known = wait_until("the server to hear of it", LIMIT, || {
        let known = chain.known(device.name()).map_err(|error| error.to_string())?;
        if known.reason.contains(case.tells) {
            Ok(known)
        } else {
            Err(format!("{:?}: {}", known.condition, known.reason))
        }
    });
    let known = known.unwrap_or_else(|error| panic!("{error}\n{undone:#}"));
    println!("{}: {:?}: {}", device.name(), known.condition, known.reason);
    refused(fleet, case, &format!("failing: {} ({})", case.device, known.reason));
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
    let of = |case: &Case| devices.iter().find(|device| device.name() == case.device).unwrap();
    let agent_before = of(&CASES[7]).read("/usr/bin/volary-agent").unwrap();
    // One half after the other, so that a small machine is not what makes it slow.
    for half in CASES.chunks(4) {
        let mut bad = Vec::new();
        for case in half {
            fleet.write("site.yml", &site(case.device, "after", case.tasks, lab)).unwrap();
            if case.stage() == "crash" {
                chain.volary(&["archive", "include", &crashing_agent(logs.path())]).unwrap();
                chain.volary(&["release", "cut", "v1.1"]).unwrap();
            }
            fleet.commit(&format!("break {}", case.device)).unwrap();
            fleet.push("master").unwrap();
            if case.stage() == "crash" {
                fleet.run_volary(&["bump", "v1.1"]).unwrap();
            }
            bad.push(hand_over(&fleet, case));
        }
        for (case, bad) in half.iter().zip(&bad) {
            check_back(&chain, &fleet, of(case), case, bad);
        }
        for case in half {
            if case.stage() == "crash" {
                let agent = of(case).read("/usr/bin/volary-agent").unwrap();
                assert!(agent == agent_before, "the agent before is back");
            }
            of(case).stop().unwrap();
        }
    }
}
