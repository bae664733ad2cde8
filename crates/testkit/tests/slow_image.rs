//! Images as people make them: built with the command, equal on another day in another folder, and
//! booted by real firmware to a device that belongs to the fleet. Many minutes.

#![allow(clippy::print_stdout, reason = "how long each took is worth reading")]

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use volary_api::v1::fleet::DeviceToken;
use volary_host::Cmd;
use volary_testkit::chain::{Chain, Clone, Tools, inventory};
use volary_testkit::{Firmware, LabError, Machine};

/// How long something may take under emulation, on a computer that does other things too.
const PATIENCE: Duration = Duration::from_secs(900);

/// How long a build may take on a slow network.
const BUILD: Duration = Duration::from_secs(1800);

const GIB: u64 = 1 << 30;

const NAME: &str = "dev-1";

/// What is done to the root before it is packed.
const PLAYBOOK: &str = "\
- hosts: all
  tasks:
    - name: say what this is
      ansible.builtin.copy:
        content: \"{{ volary_stage }} {{ volary_device_type }} {{ volary_image }}\\n\"
        dest: /etc/motd
    - name: make a user
      ansible.builtin.user: { name: operator, shell: /bin/bash }
";

/// The type of the examples, with the playbook and further packages.
fn device_type(packages: &str) -> String {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/device-types/qemu-amd64.yml");
    let text = volary_host::read_to_string(&example).unwrap();
    format!("{}playbook: image.yml\n", text.replace("packages: [", &format!("packages: [{packages}")))
}

/// The command that builds, in a fleet repository of its own.
fn build(folder: &Path) -> Cmd {
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        volary_host::create_dir(path.parent().unwrap()).unwrap();
        volary_host::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
    };
    write("volary.yml", "version: 1\nstages:\n  development: { branch: master, packages: rolling }\n");
    write("image.yml", PLAYBOOK);
    // It must be in the root too, or the programs in there would have the true time.
    write("device-types/qemu-amd64.yml", &device_type("datefudge, "));
    let tools = Tools::find().unwrap();
    Cmd::new(&tools.volary)
        .args(["image", "build", "qemu-amd64", "--stage", "development", "--name", "same", "--agent-deb"])
        .arg(tools.agent_deb().unwrap())
        .env("SOURCE_DATE_EPOCH", volary_host::now().as_second().to_string())
        .cwd(folder)
        .timeout(BUILD)
}

/// The files of an image and their sums.
fn sums(folder: &Path) -> String {
    let script = "cd images && sha256sum *";
    Cmd::new("sh").args(["-c", script]).cwd(folder).timeout(PATIENCE).check().unwrap().text()
}

#[test]
fn an_image_is_the_same_on_another_day_in_another_folder() {
    let here = tempfile::tempdir().unwrap();
    let folder = |name: &str| -> PathBuf {
        let path = here.path().join(name);
        volary_host::create_dir(&path).unwrap();
        path
    };
    let (first, second) = (folder("first"), folder("in/another/place"));
    let now = volary_host::now();
    let epoch = now.as_second().to_string();
    build(&first).env("SOURCE_DATE_EPOCH", &epoch).check().unwrap();
    let later = now.checked_add(jiff::SignedDuration::from_hours(75)).unwrap().to_string();
    build(&second)
        .env("SOURCE_DATE_EPOCH", &epoch)
        .env("TZ", "Asia/Tokyo")
        .within(&["datefudge", &later])
        .check()
        .unwrap();
    let sums_of_first = sums(&first);
    assert_eq!(sums_of_first.lines().count(), 7, "{sums_of_first}");
    assert_eq!(sums(&second), sums_of_first);
}

/// A fleet of one device without packages.
fn fleet(chain: &Chain) -> Clone {
    let fleet = chain.clone_of("fleet").unwrap();
    let config = volary_host::read_to_string(&fleet.dir().join("volary.yml")).unwrap();
    let config = config.replace("packages: rolling", "packages: lock").replace("poll: 60s", "poll: 5s");
    fleet.write("volary.yml", &format!("{config}\nconfirm: {{ development: 5s }}\n")).unwrap();
    fleet.write("inventory.yml", &inventory(&[(NAME, "development")])).unwrap();
    // Those of the template ask for packages of a suite, and this fleet has none.
    fleet.run_git(&["rm", "-r", "--quiet", "health/required.d"]).unwrap();
    let site = "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: write the file\n      \
                ansible.builtin.copy: { content: followed, dest: /etc/written }\n";
    fleet.write("site.yml", site).unwrap();
    fleet.write("image.yml", PLAYBOOK).unwrap();
    fleet.write("device-types/qemu-amd64.yml", &device_type("")).unwrap();
    fleet
}

/// Fails with what helps to understand it.
fn told<T>(machine: &Machine<'_>, result: Result<T, LabError>) -> T {
    result.unwrap_or_else(|error| {
        let journal = machine.exec(&["journalctl", "--no-pager", "--boot", "--lines", "80"]);
        let journal = journal.map(|output| output.text()).unwrap_or_default();
        panic!("{error}\nits journal:\n{journal}\nits console:\n{}", machine.console_end(30))
    })
}

/// What belongs to this device only.
fn identity(machine: &Machine<'_>) -> String {
    machine.check(&["sh", "-c", "cat /etc/machine-id /etc/ssh/ssh_host_*_key.pub /etc/hostname"]).unwrap()
}

#[test]
fn a_flashed_device_boots_and_belongs_to_the_fleet() {
    let (chain, _logs) = common::chain();
    let fleet = fleet(&chain);
    let commit = fleet.commit("describe the device").unwrap();
    fleet.push("master").unwrap();

    let started = Instant::now();
    let deb = chain.tools().agent_deb().unwrap();
    let args =
        ["image", "build", "qemu-amd64", "--stage", "development", "--name", "one", "--json", "--agent-deb"];
    let built = Cmd::new(&chain.tools().volary).args(args).arg(&deb).cwd(fleet.dir()).timeout(BUILD).check();
    let record: Value = serde_json::from_str(&built.unwrap().text()).unwrap();
    println!("built in {:.0} s", started.elapsed().as_secs_f64());
    let image = fleet.dir().join("images").join(record["disk"]["file"].as_str().unwrap());

    // As a person does who puts the card into a laptop.
    let token: DeviceToken = chain.desk().json(&["device", "token", "--stage", "development"]).unwrap();
    for (name, text) in [("token", format!("{}\r\n", token.token)), ("settings", format!("name={NAME}\r\n"))]
    {
        let file = chain.folder().join(name);
        volary_host::write_atomic(&file, text.as_bytes(), 0o600).unwrap();
        let at = format!("{}@@1M", image.display());
        let target = format!("::/volary/{name}");
        Cmd::new("mcopy")
            .args(["-i", &at])
            .arg(&file)
            .arg(target)
            .env("MTOOLS_SKIP_CHECK", "1")
            .check()
            .unwrap();
    }

    let machine = Machine::from_image(chain.lab(), NAME, Firmware::UefiAmd64, &image, 4 * GIB).unwrap();
    let started = Instant::now();
    machine.start().unwrap();
    println!("booted in {:.0} s", started.elapsed().as_secs_f64());
    told(
        &machine,
        machine.wait_until("the enrolment", PATIENCE, |machine| {
            let found =
                machine.exec(&["test", "-e", "/etc/volary/agent.json"]).map_err(|error| error.to_string())?;
            if found.status.success() { Ok(()) } else { Err("it has no agent.json".to_owned()) }
        }),
    );
    told(&machine, chain.wait_for_good(NAME, &commit, PATIENCE));
    println!("followed its branch after {:.0} s", started.elapsed().as_secs_f64());

    let said = |args: &[&str]| machine.check(args).unwrap().trim().to_owned();
    assert_eq!(said(&["cat", "/etc/written"]), "followed");
    assert_eq!(said(&["cat", "/etc/motd"]), "development qemu-amd64 one");
    assert_eq!(said(&["hostname"]), NAME);
    let told_image: Value = serde_json::from_str(&said(&["cat", "/etc/volary/image.json"])).unwrap();
    assert_eq!(told_image["name"], "one");
    assert!(said(&["cat", "/proc/cmdline"]).contains("volary.slot=a"));
    assert_eq!(said(&["systemctl", "--failed", "--no-legend"]), "");
    // The watchdog is fed, the token is gone, the data has the disk.
    assert_eq!(said(&["cat", "/sys/class/watchdog/watchdog0/state"]), "active");
    assert_eq!(said(&["ls", "/boot/efi/volary"]), "README.txt\nsettings");
    let data: u64 = said(&["stat", "--file-system", "--format=%b", "/data"]).parse().unwrap();
    assert!(data * 4096 > 3 * GIB / 2, "/data has {data} blocks");
    let prompt = volary_host::read(&machine.console()).unwrap();
    assert!(
        String::from_utf8_lossy(&prompt).contains(&format!("{NAME} login:")),
        "{}",
        machine.console_end(20)
    );

    let before = identity(&machine);
    assert_eq!(before.lines().count(), 5, "{before}");
    machine.cut_power().unwrap();
    machine.start().unwrap();
    assert_eq!(identity(&machine), before);
    told(&machine, chain.wait_for_good(NAME, &commit, PATIENCE));
}
