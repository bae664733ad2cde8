//! One real device: it boots, is reached and reaches, keeps its disk, and leaves nothing behind.
//! Needs root; the first run makes the root file system (under a minute).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use volary_host::Cmd;
use volary_testkit::{Cache, Debian, DeviceOptions, Lab, LabError, Root, roots, wait_until};

fn root(cache: &Cache) -> Root {
    roots::device_root(cache, Debian::Bookworm, &mut |_| {}).unwrap()
}

/// What a lab with this number would leave on the machine.
fn traces(folder: &Path, bridge: &str) -> BTreeSet<String> {
    let lines = |program: &str, args: &[&str]| Cmd::new(program).args(args).check().unwrap().text();
    let mounts = lines("cat", &["/proc/mounts"]);
    let links = lines("ip", &["-oneline", "link"]);
    let processes = lines("ps", &["-eo", "args"]);
    let number = bridge.trim_start_matches("vly");
    let machine = format!("vly{number}d");
    let mut found: BTreeSet<String> = [mounts, links, processes]
        .iter()
        .flat_map(|text| text.lines())
        .filter(|line| {
            line.contains(&folder.display().to_string())
                || line.contains(&format!(" {bridge}:"))
                || line.contains(&format!("master {bridge} "))
                || line.contains(&machine)
        })
        .map(str::to_owned)
        .collect();
    found.extend(folder.exists().then(|| folder.display().to_string()));
    found
}

fn check_nothing_left(folder: &Path, bridge: &str) {
    wait_until("the machine to be clean", Duration::from_secs(30), || {
        let left = traces(folder, bridge);
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .unwrap();
}

fn bridge(lab: &Lab) -> String {
    format!("vly{}", lab.host_address().octets()[2])
}

#[test]
fn a_device_lives_through_stop_power_cut_and_reboot() {
    let cache = Cache::open().unwrap();
    let root = root(&cache);
    let lab = Lab::open(&cache).unwrap();
    let options = DeviceOptions { host_names: vec!["other.test".into()], ..DeviceOptions::default() };
    let started = Instant::now();
    let device = lab.start_device("dev-1", &root, options).unwrap();
    assert!(started.elapsed() < Duration::from_secs(60));
    assert_eq!(device.failed_units().unwrap(), Vec::<String>::new());
    assert_eq!(device.check(&["hostname"]).unwrap(), "dev-1\n");
    assert_eq!(device.check(&["ps", "-o", "comm=", "1"]).unwrap(), "systemd\n");
    assert!(device.check(&["getent", "hosts", "other.test"]).unwrap().contains("10.77."));
    assert!(matches!(lab.start_device("dev-1", &root, DeviceOptions::default()), Err(LabError::Twice(_))));

    reaches_the_host(&lab, &device);

    let kept = |what: &str| {
        assert_eq!(device.read("/etc/kept").unwrap(), what.as_bytes());
        assert_eq!(device.check(&["stat", "-c", "%a", "/etc/kept"]).unwrap(), "600\n");
    };
    device.write("/etc/kept", b"stop", 0o600).unwrap();
    device.stop().unwrap();
    assert!(matches!(device.exec(&["true"]), Err(LabError::NotRunning(_))));
    device.start().unwrap();
    kept("stop");

    device.write("/etc/kept", b"power cut", 0o600).unwrap();
    device.kill().unwrap();
    device.start().unwrap();
    kept("power cut");

    let boot = |device: &volary_testkit::Device| {
        device.check(&["systemctl", "show", "--property=UserspaceTimestampMonotonic"])
    };
    let before = boot(&device).unwrap();
    let _ = device.exec(&["systemctl", "reboot"]);
    device
        .wait_until("another boot", Duration::from_secs(60), |device| match boot(device) {
            Ok(now) if now != before => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .unwrap();
    device.wait_for_boot().unwrap();
    kept("power cut");

    let (folder, bridge) = (lab.folder().to_owned(), bridge(&lab));
    assert!(!traces(&folder, &bridge).is_empty(), "the test would find traces");
    drop(device);
    drop(lab);
    check_nothing_left(&folder, &bridge);
}

fn reaches_the_host(lab: &Lab, device: &volary_testkit::Device) {
    let listener = TcpListener::bind((lab.host_address(), 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(b"hello from the host").unwrap();
        let mut said = String::new();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_to_string(&mut said).unwrap();
        (peer.ip().to_string(), said)
    });
    let script = format!("exec 3<>/dev/tcp/volary.test/{port}; cat <&3; echo -n hello back >&3");
    assert_eq!(device.check(&["bash", "-c", &script]).unwrap(), "hello from the host");
    assert_eq!(server.join().unwrap(), (device.address().to_string(), "hello back".to_owned()));
}

#[test]
fn six_devices_start_together_and_two_labs_live_side_by_side() {
    let cache = Cache::open().unwrap();
    let root = root(&cache);
    let lab = Lab::open(&cache).unwrap();
    let other = Lab::open(&cache).unwrap();
    assert_ne!(lab.host_address(), other.host_address());
    let names = ["dev-1", "canary-1", "canary-2", "prod-1", "prod-2", "prod-3"];
    let devices = lab.start_devices(&names, &root, &DeviceOptions::default()).unwrap();
    let twin = other.start_device("dev-1", &root, DeviceOptions::default()).unwrap();
    let mut ids = BTreeSet::new();
    for device in devices.iter().chain([&twin]) {
        assert_eq!(device.check(&["hostname"]).unwrap().trim(), device.name());
        assert!(ids.insert(device.check(&["cat", "/etc/machine-id"]).unwrap()), "machine ids are unique");
    }
    // Also somebody with another cache leaves labs alone that live.
    let elsewhere = tempfile::tempdir().unwrap();
    let elsewhere = Cache::at(elsewhere.path()).unwrap();
    Lab::cleanup_stale(&elsewhere).unwrap();
    Lab::cleanup_stale(&cache).unwrap();
    let third = Lab::open(&elsewhere).unwrap();
    assert!(![lab.host_address(), other.host_address()].contains(&third.host_address()));
    twin.check(&["true"]).unwrap();
}

/// The owner of a lab for the test below: it opens one, says where, and waits to be killed.
#[test]
fn lab_of_a_killed_owner() {
    let Some(report) = std::env::var_os("VOLARY_TEST_OWNER") else { return };
    let cache = Cache::open().unwrap();
    let lab = Lab::open(&cache).unwrap();
    let _device = lab.start_device("dev-1", &root(&cache), DeviceOptions::default()).unwrap();
    let _process = lab
        .start_process("sleep", Path::new("sleep"), &["1000"], &[], &lab.folder().join("logs/sleep"))
        .unwrap();
    let text = format!("{} {}", lab.folder().display(), bridge(&lab));
    volary_host::write_atomic(Path::new(&report), text.as_bytes(), 0o600).unwrap();
    loop {
        std::thread::park();
    }
}

#[test]
fn a_killed_owner_leaves_nothing() {
    root(&Cache::open().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let report = dir.path().join("report");
    let mut owner = Cmd::new(std::env::current_exe().unwrap())
        .args(["--exact", "lab_of_a_killed_owner", "--nocapture"])
        .env("VOLARY_TEST_OWNER", &report)
        .into_std();
    let mut owner =
        owner.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    let said = wait_until("the owner's report", Duration::from_secs(60), || {
        volary_host::read_to_string(&report).map_err(|error| error.to_string())
    })
    .unwrap();
    let (folder, bridge) = said.split_once(' ').unwrap();
    assert!(traces(Path::new(folder), bridge).len() > 3);
    owner.kill().unwrap();
    owner.wait().unwrap();
    check_nothing_left(Path::new(folder), bridge);
}
