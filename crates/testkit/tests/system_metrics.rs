//! Measurements of a real device: its systemd, its journal, its cgroups, on their way to the server.

mod common;

use std::time::Duration;

use serde_json::Value;
use volary_testkit::chain::inventory;
use volary_testkit::{Debian, Device, DeviceOptions, roots, wait_until};

const METRICS: &str = "
metrics:
  development:
    every: 2s
    send: 5s
    units: [app.service, weak.service]
    files: { fleet_queue: /run/queue }
    commands: { fleet_pressure: [metrics/pressure, '2'] }
";

/// A unit that works, and one that dies each time.
const UNITS: [(&str, &str); 2] = [
    ("app.service", "[Service]\nExecStart=sleep infinity\n"),
    ("weak.service", "[Unit]\nStartLimitBurst=2\n[Service]\nExecStart=false\nRestart=always\nRestartSec=0\n"),
];

/// What a look on the device finds now.
fn shown(device: &Device) -> Value {
    serde_json::from_str(&device.check(&["volary-agent", "metrics", "--json"]).unwrap()).unwrap()
}

#[test]
fn a_device_measures_itself_and_the_server_has_it() {
    let (chain, _logs) = common::chain();
    let root = roots::device_root(&common::cache(), Debian::Bookworm, &mut |_| {}).unwrap();
    let device = chain.lab().start_device("dev-1", &root, DeviceOptions::default()).unwrap();
    for (name, text) in UNITS {
        device.write(&format!("/etc/systemd/system/{name}"), text.as_bytes(), 0o644).unwrap();
    }
    device.write("/run/queue", b"17\n", 0o644).unwrap();
    device.check(&["systemctl", "daemon-reload"]).unwrap();
    device.check(&["systemctl", "start", "app.service"]).unwrap();
    let fleet = chain.clone_of("fleet").unwrap();
    fleet.hurry(1).unwrap();
    let config = volary_host::read_to_string(&fleet.dir().join("volary.yml")).unwrap();
    let config = config.replace("packages: rolling", "packages: lock");
    fleet.write("volary.yml", &format!("{config}{METRICS}")).unwrap();
    fleet.write("inventory.yml", &inventory(&[("dev-1", "development")])).unwrap();
    fleet
        .write(
            "site.yml",
            "---\n- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Do nothing\n      \
                    ansible.builtin.command: 'true'\n",
        )
        .unwrap();
    fleet.write("metrics/pressure", "#!/bin/sh\necho \"$1.5\"\n").unwrap();
    fleet.run_git(&["update-index", "--add", "--chmod=+x", "metrics/pressure"]).unwrap();
    fleet.run_git(&["config", "core.fileMode", "false"]).unwrap();
    fleet.run_git(&["rm", "-r", "--quiet", "health/required.d"]).unwrap();
    let commit = fleet.commit("measure").unwrap();
    fleet.push("master").unwrap();
    chain.join(&device, "development").unwrap();
    chain.wait_for_good("dev-1", &commit, Duration::from_secs(300)).unwrap();

    // It fails, which is what it is there for; before, it would have undone the change.
    device.exec(&["systemctl", "start", "weak.service"]).unwrap();
    let look = wait_until("weak.service to be given up", Duration::from_secs(60), || {
        let look = shown(&device);
        let failed = look["series"]["unit_failed{unit=\"weak.service\"}"].as_f64();
        if failed == Some(1.0) { Ok(look) } else { Err(look.to_string()) }
    })
    .unwrap();
    let value = |name: &str| look["series"][name].as_f64();
    assert_eq!((value("fleet_queue"), value("fleet_pressure")), (Some(17.0), Some(2.5)), "{look:#}");
    assert_eq!(value("unit_failed{unit=\"app.service\"}"), Some(0.0), "{look:#}");
    assert_eq!(value("unit_failed{unit=\"weak.service\"}"), Some(1.0), "{look:#}");
    assert!(value("unit_restarts_total{unit=\"weak.service\"}") >= Some(1.0), "{look:#}");
    assert!(value("memory_total_bytes") > Some(1e6) && value("disk_free_bytes{mount=\"/\"}") > Some(1e6));
    let certificate = value("certificate_expiry_seconds{file=\"/etc/volary/device.crt\"}");
    assert!(certificate > Some(86_400.0), "{look:#}");
    device.check(&["logger", "--priority", "user.err", "--tag", "pump", "it is stuck"]).unwrap();

    // The server has the numbers and the line of the journal.
    let metrics = |args: &[&str]| chain.desk().json::<Value>(&[&["metrics", "dev-1"], args].concat());
    let has = |text: &str, args: &[&str]| {
        wait_until(text, Duration::from_secs(120), || match metrics(args) {
            Ok(answer) if answer.to_string().contains(text) => Ok(()),
            Ok(answer) => Err(answer.to_string()),
            Err(error) => Err(error.to_string()),
        })
    };
    has("it is stuck", &["--errors"]).unwrap();
    has("fleet_pressure", &[]).unwrap();
    has("journal_errors_total{unit=\\\"pump\\\"}", &[]).unwrap();

    // The rules of a clone are asked of what the server has of the device.
    let tested = fleet.run_volary(&["--json", "watch", "test", "--all", "--device", "dev-1"]).unwrap();
    let tested: Value = serde_json::from_str(&tested).unwrap();
    let now = tested["now"].as_array().unwrap();
    let quiet = |rule: &str| now.iter().any(|found| found["rule"] == rule && found["state"] == "quiet");
    assert!(quiet("disk-low") && quiet("clock"), "{now:#?}");
}
