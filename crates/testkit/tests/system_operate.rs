//! Convergence as an operator wants it, on real devices: one device of a site at a time, holds,
//! windows and stops, and an agent that brings itself up to date.

mod common;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use volary_api::v1::device::{Outcome, Report};
use volary_host::{Cmd, create_dir, now, write_atomic};
use volary_model::CommitId;
use volary_testkit::chain::{Chain, Clone, installed, inventory};
use volary_testkit::{Debian, Device, DeviceOptions, LabError, roots, wait_until};

/// How long a convergence may take on a busy machine.
const CONVERGENCE: Duration = Duration::from_secs(300);

/// A stage that needs no packages, whose devices ask often and confirm soon.
const CONFIG: &str = "version: 1
stages:
  development: { branch: master, packages: lock }
  canary: { branch: canary, from: development }
poll: 2s
confirm: { development: 3s }
";

/// Notes when it began, works for a while, writes `content` where an undo looks.
fn playbook(content: &str, seconds: u32) -> String {
    format!(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Note the time\n      \
         ansible.builtin.shell: date +%s.%N > /var/tmp/began-{content}\n    - name: Work\n      \
         ansible.builtin.command: sleep {seconds}\n    - name: Write\n      ansible.builtin.copy: {{ content: \
         {content}, dest: /etc/content }}\n"
    )
}

/// Devices of the stage development that have joined, and a clone of the fleet.
fn fleet(chain: &Chain, names: &[&str]) -> (Clone, Vec<Device>) {
    let fleet = chain.clone_of("fleet").unwrap();
    let hosts: Vec<(&str, &str)> = names.iter().map(|name| (*name, "development")).collect();
    fleet.write("inventory.yml", &inventory(&hosts)).unwrap();
    fleet.write("volary.yml", CONFIG).unwrap();
    fleet.write("site.yml", &playbook("zero", 0)).unwrap();
    let commit = push(&fleet, "Begin");
    let root = roots::device_root(&common::cache(), Debian::Bookworm, &mut |_| {}).unwrap();
    let devices = chain.lab().start_devices(names, &root, &DeviceOptions::default()).unwrap();
    for device in &devices {
        chain.join(device, "development").unwrap();
    }
    for name in names {
        chain.wait_for_good(name, &commit, CONVERGENCE).unwrap();
    }
    (fleet, devices)
}

fn push(fleet: &Clone, message: &str) -> CommitId {
    let commit = fleet.commit(message).unwrap();
    fleet.push("master").unwrap();
    commit
}

fn wait_for_reason(chain: &Chain, device: &str, part: &str) -> String {
    wait_until(&format!("{device} to say {part:?}"), CONVERGENCE, || {
        let reason = chain.known(device).map_err(|error| error.to_string())?.reason;
        if reason.contains(part) { Ok(reason) } else { Err(reason) }
    })
    .unwrap()
}

fn content(device: &Device) -> String {
    String::from_utf8(device.read("/etc/content").unwrap()).unwrap()
}

/// The result that the server has of a commit on a device, newest first.
fn result(chain: &Chain, device: &str, commit: &CommitId) -> Report {
    let (_, reports): (serde_json::Value, Vec<Report>) =
        chain.desk().json(&["device", "show", device]).unwrap();
    let of = |report: &Report| report.convergence.as_ref().is_some_and(|run| run.commit == *commit);
    reports.into_iter().find(of).expect("the server has its result")
}

/// From the first task to the end of the confirmation.
fn changed(chain: &Chain, device: &Device, commit: &CommitId, content: &str) -> (Timestamp, Timestamp) {
    let text = String::from_utf8(device.read(&format!("/var/tmp/began-{content}")).unwrap()).unwrap();
    let began: f64 = text.trim().parse().unwrap();
    let run = result(chain, device.name(), commit).convergence.unwrap();
    assert_eq!(run.outcome, Outcome::Good, "{run:?}");
    (Timestamp::from_microsecond((began * 1e6) as i64).unwrap(), run.ended_at)
}

#[test]
fn one_device_of_a_site_changes_at_a_time() {
    let (chain, _logs) = common::chain();
    let (fleet, devices) = fleet(&chain, &["dev-1", "dev-2"]);
    let body = || -> Result<(), LabError> {
        let bounded = format!("{CONFIG}rollout: {{ development: {{ per_site_at_most: 1 }} }}\n");
        fleet.write("volary.yml", &bounded)?;
        fleet.write("site.yml", &playbook("one", 15))?;
        let commit = push(&fleet, "One at a time");
        let (waits, holds) = wait_until("one to wait for the other", CONVERGENCE, || {
            let reason =
                |name| chain.known(name).map(|known| known.reason).map_err(|error| error.to_string());
            let (first, second) = (reason("dev-1")?, reason("dev-2")?);
            if first.contains("changing now: dev-2") {
                Ok((0, 1))
            } else if second.contains("changing now: dev-1") {
                Ok((1, 0))
            } else {
                Err(format!("{first}; {second}"))
            }
        })?;
        let status = chain.volary(&["status"])?;
        assert!(status.contains(&format!("at most 1 device of a site; now: dev-{}", holds + 1)), "{status}");
        let said = devices[waits].check(&["volary-agent", "status"])?;
        assert!(said.contains(&format!("changing now: dev-{}", holds + 1)), "{said}");
        // Whoever has the turn keeps it over a crash of the server.
        chain.kill_server()?;
        chain.start_server()?;
        chain.wait_for_good("dev-1", &commit, CONVERGENCE)?;
        chain.wait_for_good("dev-2", &commit, CONVERGENCE)?;
        let times = [&devices[0], &devices[1]].map(|device| changed(&chain, device, &commit, "one"));
        let (first, second) =
            if times[0].0 < times[1].0 { (times[0], times[1]) } else { (times[1], times[0]) };
        assert!(first.1 <= second.0, "they changed at once: {times:?}");

        // Two sites do not wait for each other.
        fleet.write("host_vars/dev-1.yml", "volary_site: north\n")?;
        fleet.write("host_vars/dev-2.yml", "volary_site: south\n")?;
        fleet.write("site.yml", &playbook("two", 20))?;
        let commit = push(&fleet, "Two sites");
        let turns = wait_until("both to change", CONVERGENCE, || {
            let status = chain.status().map_err(|error| error.to_string())?;
            let turns = &status.stages[0].turns;
            if turns.len() == 2 { Ok(turns.clone()) } else { Err(format!("{turns:?}")) }
        })?;
        let sites: Vec<&str> = turns.iter().map(|turn| turn.site.as_str()).collect();
        assert_eq!(sites, ["north", "south"]);
        chain.wait_for_good("dev-1", &commit, CONVERGENCE)?;
        chain.wait_for_good("dev-2", &commit, CONVERGENCE)?;
        wait_until("the turns to be given back", CONVERGENCE, || {
            let status = chain.status().map_err(|error| error.to_string())?;
            if status.stages[0].turns.is_empty() { Ok(()) } else { Err("not yet".to_owned()) }
        })
    };
    let done = body();
    chain.collect(&devices);
    done.unwrap();
}

#[test]
fn a_hold_a_window_and_a_stop_keep_a_device_as_it_is() {
    let (chain, _logs) = common::chain();
    let (fleet, devices) = fleet(&chain, &["dev-1"]);
    let device = &devices[0];
    let body = || -> Result<(), LabError> {
        device.check(&["volary-agent", "hold", "--for", "1h", "the", "cabinet", "is", "open"])?;
        fleet.write("site.yml", &playbook("held", 0))?;
        let commit = push(&fleet, "While held");
        let reason = wait_for_reason(&chain, "dev-1", "the cabinet is open");
        assert!(reason.contains("held"), "{reason}");
        let planned = device.check(&["volary-agent", "plan"])?;
        for part in ["waits     held on the device", "changes   Write", "+held"] {
            assert!(planned.contains(part), "{part}: {planned}");
        }
        assert_eq!(content(device), "zero");
        device.check(&["volary-agent", "release"])?;
        chain.wait_for_good("dev-1", &commit, CONVERGENCE)?;
        assert_eq!(content(device), "held");

        // A window that opens two hours from now.
        let hour = |hours| {
            now().checked_add(SignedDuration::from_hours(hours)).unwrap().strftime("%H:00").to_string()
        };
        let install = format!("{}-{}", hour(2), hour(3));
        let windows =
            format!("{CONFIG}windows: {{ development: {{ install: \"{install}\", time_zone: UTC }} }}\n");
        fleet.write("volary.yml", &windows)?;
        fleet.write("site.yml", &playbook("window", 0))?;
        let commit = push(&fleet, "Outside of the window");
        wait_for_reason(&chain, "dev-1", "the next window opens");
        assert!(chain.volary(&["status"])?.contains(&install), "the status shows the windows");
        assert_eq!(content(device), "held");
        // A person who stands there need not wait.
        device.check(&["volary-agent", "run"])?;
        chain.wait_for_good("dev-1", &commit, CONVERGENCE)?;
        assert_eq!(content(device), "window");

        let stopped = format!("{CONFIG}stop: {{ development: \"pumps run backwards\" }}\n");
        fleet.write("volary.yml", &stopped)?;
        fleet.write("site.yml", &playbook("stopped", 0))?;
        push(&fleet, "Stop");
        wait_for_reason(&chain, "dev-1", "pumps run backwards");
        assert!(chain.volary(&["status"])?.contains("stopped: pumps run backwards"));
        let asked = device.exec(&["volary-agent", "run"])?;
        assert!(!asked.status.success(), "a stop outranks a person: {}", asked.text());
        assert_eq!(content(device), "window");
        fleet.write("volary.yml", CONFIG)?;
        let commit = push(&fleet, "Go on");
        chain.wait_for_good("dev-1", &commit, CONVERGENCE)?;
        assert_eq!(content(device), "stopped");

        let log = device.check(&["volary-agent", "log", "-n", "2"])?;
        assert!(log.lines().next().unwrap().contains(commit.short()), "the newest first: {log}");
        Ok(())
    };
    let done = body();
    chain.collect(&devices);
    done.unwrap();
}

/// What `volary rollout list` says once it has all of these parts.
fn wait_for_rollout(chain: &Chain, parts: &[&str]) -> Result<String, LabError> {
    wait_until(&format!("the rollout to say {parts:?}"), CONVERGENCE, || {
        let said = chain.volary(&["rollout", "list"]).map_err(|error| error.to_string())?;
        // The newest is the first.
        let newest: String = said.lines().take(3).collect::<Vec<_>>().join("\n");
        if parts.iter().all(|part| newest.contains(part)) { Ok(newest) } else { Err(newest) }
    })
}

#[test]
fn a_bad_commit_comes_no_further_than_its_first_wave() {
    const NAMES: [&str; 3] = ["dev-1", "dev-2", "dev-3"];
    let (chain, _logs) = common::chain();
    let (fleet, devices) = fleet(&chain, &NAMES);
    let body = || -> Result<(), LabError> {
        // Wave one of three devices is one device. Nobody waits an hour: a person opens the second wave.
        let waves = "rollout: { development: { waves: [30%, 100%], pause: 1h } }\n";
        fleet.write("volary.yml", &format!("{CONFIG}{waves}"))?;
        let fails = "    - name: Fail\n      ansible.builtin.command: \"false\"\n";
        fleet.write("site.yml", &format!("{}{fails}", playbook("bad", 0)))?;
        let bad = push(&fleet, "Break it");
        let said = wait_for_rollout(&chain, &[bad.short(), "stopped: 1 of 1 device failed"])?;
        let hurt: Vec<&Device> = devices.iter().filter(|device| said.contains(device.name())).collect();
        assert!(hurt.len() == 1 && said.contains("Fail"), "it names who failed and why: {said}");
        let run = result(&chain, hurt[0].name(), &bad).convergence.expect("it is about the bad commit");
        assert!(run.reverted.is_some(), "it was undone there: {run:?}");
        let others: Vec<&Device> = devices.iter().filter(|device| device.name() != hurt[0].name()).collect();
        for device in &others {
            wait_for_reason(&chain, device.name(), "its rollout is stopped by itself");
            assert!(!device.exec(&["test", "-e", "/var/tmp/began-bad"])?.status.success(), "it began");
        }
        assert!(devices.iter().all(|device| content(device) == "zero"));

        // A commit that mends it is a rollout of its own, which does not wait for a device that is held.
        others[0].check(&["volary-agent", "hold", "in", "use"])?;
        fleet.write("site.yml", &playbook("mended", 0))?;
        let mended = push(&fleet, "Mend it");
        wait_for_rollout(&chain, &[mended.short(), "wave 1 of 2", "1 held by a person"])?;
        chain.volary(&["rollout", "stop", "development", "--reason", "lunch"])?;
        wait_for_rollout(&chain, &[mended.short(), "stopped by ", "lunch"])?;
        chain.volary(&["rollout", "resume", "development", "--reason", "back again"])?;
        wait_for_rollout(&chain, &["wave 1 of 2", "1 of 2 devices good"])?;
        chain.volary(&["rollout", "next", "development", "--reason", "nobody waits an hour"])?;
        for device in [hurt[0], others[1]] {
            chain.wait_for_good(device.name(), &mended, CONVERGENCE)?;
        }
        wait_for_rollout(&chain, &["2 of 2 devices good, 1 held by a person"])?;
        assert_eq!(content(others[0]), "zero");
        others[0].check(&["volary-agent", "release"])?;
        chain.wait_for_good(others[0].name(), &mended, CONVERGENCE)
    };
    let done = body();
    chain.collect(&devices);
    done.unwrap();
}

/// The agent's package once more under a higher version.
fn newer_agent(chain: &Chain, version: &str) -> String {
    let folder = chain.lab().folder().join("newer-agent");
    create_dir(&folder).unwrap();
    let tree = folder.join("tree");
    Cmd::new("dpkg-deb")
        .arg("--raw-extract")
        .arg(chain.tools().agent_deb().unwrap())
        .arg(&tree)
        .check()
        .unwrap();
    let control = tree.join("DEBIAN/control");
    let text = volary_host::read_to_string(&control).unwrap();
    let lines = text.lines().map(|line| match line.strip_prefix("Version: ") {
        Some(_) => format!("Version: {version}\n"),
        None => format!("{line}\n"),
    });
    write_atomic(&control, lines.collect::<String>().as_bytes(), 0o644).unwrap();
    let deb = folder.join(format!("volary-agent_{version}_amd64.deb"));
    Cmd::new("dpkg-deb").args(["--root-owner-group", "--build"]).args([&tree, &deb]).check().unwrap();
    deb.display().to_string()
}

/// The device does not have the suite yet; what apt would do is told all the same, and nothing stays.
fn plans_the_new_agent(device: &Device) -> Result<(), LabError> {
    let lists = || device.check(&["sh", "-c", "ls -lR --time-style=full-iso /var/lib/apt/lists /etc/apt"]);
    let before = lists()?;
    let old = installed(device, "volary-agent")?.expect("it was installed to join");
    let planned = device.check(&["volary-agent", "plan"])?;
    for part in
        [&format!("package   volary-agent {old} to 9.0"), "changes   ", "waits     held on the device"]
    {
        assert!(planned.contains(part), "{part}: {planned}");
    }
    assert_eq!(lists()?, before, "the lists and sources of apt are as they were");
    assert_eq!(installed(device, "volary-agent")?, Some(old));
    Ok(())
}

#[test]
fn a_good_new_agent_takes_over_and_confirms_its_own_change() {
    let (chain, _logs) = common::chain();
    let (fleet, devices) = fleet(&chain, &["dev-1"]);
    let device = &devices[0];
    let body = || -> Result<(), LabError> {
        let process =
            || device.check(&["systemctl", "show", "--value", "--property=MainPID", "volary-agent"]);
        let before = process()?;
        chain.volary(&["archive", "include", &newer_agent(&chain, "9.0")])?;
        fleet.write(
            "volary.yml",
            &CONFIG.replace("packages: lock }\n  canary", "packages: rolling }\n  canary"),
        )?;
        let site = "- hosts: all\n  become: true\n  roles: [volary.fleet.apt_source]\n";
        fleet.write("site.yml", site)?;
        device.check(&["volary-agent", "hold", "to", "look", "first"])?;
        let commit = push(&fleet, "A new agent");
        wait_for_reason(&chain, "dev-1", "to look first");
        plans_the_new_agent(device)?;
        device.check(&["volary-agent", "release"])?;
        chain.wait_for_package(device, "volary-agent", "9.0", CONVERGENCE)?;
        chain.wait_for_good("dev-1", &commit, CONVERGENCE)?;
        assert_eq!(process()?, before, "the service was not restarted: its apt would have died with it");
        let program = device.check(&["readlink", &format!("/proc/{}/exe", before.trim())])?;
        assert_eq!(program.trim(), "/usr/bin/volary-agent", "the process runs the new file");
        // The one that took over is the one that confirmed.
        let journal = device.check(&["journalctl", "--no-pager", "--output=cat", "--unit=volary-agent"])?;
        let at = |part: &str| journal.rfind(part).unwrap_or_else(|| panic!("{part}: {journal}"));
        assert!(at("is new: going on with it") < at("good: commit"), "{journal}");
        assert!(
            device.exec(&["test", "-e", "/var/lib/volary/checkpoint/armed.json"])?.status.code() == Some(1)
        );
        let run = result(&chain, "dev-1", &commit).convergence.unwrap();
        assert_eq!(run.packages["volary-agent"].1, "9.0");
        assert_eq!(installed(device, "volary-agent")?.as_deref(), Some("9.0"));
        Ok(())
    };
    let done = body();
    chain.collect(&devices);
    done.unwrap();
}
