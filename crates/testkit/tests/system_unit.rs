//! The agent's process on a device: nobody can connect to it, nobody else can read its key, and what
//! it starts has none of its protection.

mod common;

use std::time::Duration;

use volary_testkit::chain::inventory;
use volary_testkit::{Debian, DeviceOptions, roots};

const CAP_SYS_RESOURCE: u32 = 24;

#[test]
fn the_agent_listens_nowhere_and_shares_nothing() {
    let (chain, _logs) = common::chain();
    let root = roots::device_root(&common::cache(), Debian::Bookworm, &mut |_| {}).unwrap();
    let device = chain.lab().start_device("dev-1", &root, DeviceOptions::default()).unwrap();
    let fleet = chain.clone_of("fleet").unwrap();
    fleet.hurry(1).unwrap();
    let config = volary_host::read_to_string(&fleet.dir().join("volary.yml")).unwrap();
    fleet.write("volary.yml", &config.replace("packages: rolling", "packages: lock")).unwrap();
    fleet.write("inventory.yml", &inventory(&[("dev-1", "development")])).unwrap();
    fleet.run_git(&["rm", "-r", "--quiet", "health/required.d"]).unwrap();
    let playbook = "---\n- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Tell what it may\n      \
                    ansible.builtin.shell: cat /proc/self/oom_score_adj > /root/score && \
                    ss --listening --numeric --tcp --udp --processes > /root/sockets\n";
    fleet.write("site.yml", playbook).unwrap();
    let commit = fleet.commit("look around").unwrap();
    fleet.push("master").unwrap();
    chain.join(&device, "development").unwrap();
    chain.wait_for_good("dev-1", &commit, Duration::from_secs(300)).unwrap();

    // While a playbook ran, and now.
    let now = device.check(&["ss", "--listening", "--numeric", "--tcp", "--udp", "--processes"]).unwrap();
    for sockets in [String::from_utf8(device.read("/root/sockets").unwrap()).unwrap(), now] {
        assert!(sockets.contains("Local Address") && !sockets.contains("volary"), "{sockets}");
    }
    assert_eq!(device.read("/root/score").unwrap(), b"0\n");
    let own = device.check(&["systemctl", "show", "--property=MainPID", "--value", "volary-agent"]).unwrap();
    let score = device.check(&["cat", &format!("/proc/{}/oom_score_adj", own.trim())]).unwrap();
    // Machines without CAP_SYS_RESOURCE, some virtual ones among them, cannot protect a process.
    let status = volary_host::read_to_string("/proc/self/status".as_ref()).unwrap();
    let capabilities = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
    let may_protect = u64::from_str_radix(capabilities, 16).unwrap() & (1 << CAP_SYS_RESOURCE) != 0;
    assert_eq!(score.trim(), if may_protect { "-500" } else { "0" });
    let shown = device.check(&["systemctl", "show", "volary-agent"]).unwrap();
    for limit in ["OOMScoreAdjust=-500", "CPUWeight=50", "IOWeight=50", "TasksMax=1024"] {
        assert!(shown.lines().any(|line| line == limit), "{limit} is not in force");
    }
    assert!(!shown.lines().any(|line| line == "MemoryMax=infinity"), "the memory is not limited");
    for (path, expected) in [
        ("/etc/volary/device.key", "600 root:root"),
        ("/var/lib/volary", "700 root:root"),
        ("/run/volary", "700 root:root"),
    ] {
        assert_eq!(device.check(&["stat", "-c", "%a %U:%G", path]).unwrap().trim(), expected, "{path}");
    }
}
