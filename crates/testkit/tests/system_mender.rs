//! The unmodified mender-client of Debian 12 enrols with our server, over TLS with our authority, takes an
//! update to success by a commit, and in a second run a broken one to rollback, with its log on the server.
//!
//! Its slots are two loop devices, its boot environment is the real libubootenv on a file; a reboot ends the
//! client, and the test plays the boot loader by U-Boot's rule.

mod common;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use volary_host::Cmd;
use volary_testkit::chain::{Chain, Clone};
use volary_testkit::{Debian, Process, Sandbox, roots, wait_until};

/// How long one boot of the client may take; most take some seconds.
const PATIENCE: Duration = Duration::from_secs(90);

/// A loop device, let go of at the end.
struct Loop {
    device: String,
    file: PathBuf,
}

impl Loop {
    fn new(file: PathBuf) -> Self {
        let created = std::fs::File::create(&file).unwrap();
        created.set_len(32 << 20).unwrap();
        let device = Cmd::new("losetup").args(["--find", "--show"]).arg(&file).check().unwrap();
        Self { device: device.text().trim().to_owned(), file }
    }

    /// The number at its end, which the client takes for a partition's.
    fn number(&self) -> u32 {
        self.device.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Cmd::new("losetup").args(["--detach", &self.device]).run();
    }
}

/// How a device comes back from a reboot.
#[derive(Clone, Copy, PartialEq)]
enum NewImage {
    Boots,
    DoesNot,
}

/// A board with Mender's client.
struct Board {
    sandbox: Sandbox,
    slots: [Loop; 2],
    boots: u32,
    logs: PathBuf,
}

impl Board {
    fn new(chain: &Chain, verify_key: &[u8]) -> Self {
        let root = roots::mender_root(&common::cache(), Debian::Bookworm, &mut |_| {}).unwrap();
        let sandbox = Sandbox::new(chain.lab(), "board", &root).unwrap();
        let slots = ["a", "b"].map(|slot| Loop::new(chain.lab().folder().join(format!("slot-{slot}"))));
        let write = |path: &str, text: &str| sandbox.write(path, text.as_bytes()).unwrap();
        let conf = json!({
            "ServerURL": chain.url(), "ServerCertificate": "/etc/mender/ca.pem",
            "ArtifactVerifyKey": "/etc/mender/key.pem",
            "RootfsPartA": slots[0].device, "RootfsPartB": slots[1].device,
            "UpdatePollIntervalSeconds": 2, "InventoryPollIntervalSeconds": 3, "RetryPollIntervalSeconds": 1,
        });
        write("/etc/mender/mender.conf", &conf.to_string());
        let ca = volary_host::read(&chain.folder().join("ca/ca.pem")).unwrap();
        sandbox.write("/etc/mender/ca.pem", &ca).unwrap();
        sandbox.write("/etc/mender/key.pem", verify_key).unwrap();
        write("/etc/mender/artifact_info", "artifact_name=release-1\n");
        write("/data/mender/device_type", "device_type=testboard\n");
        write("/etc/fw_env.config", "/fw/env.bin 0x0 0x2000\n/fw/env.bin 0x2000 0x2000\n");
        let number = slots[0].number();
        write(
            "/fw/defaults",
            &format!(
                "bootcount=0\nbootlimit=1\nmender_boot_part={number}\nmender_boot_part_hex={number:X}\n\
                 upgrade_available=0\nmender_check_saveenv_canary=1\nmender_saveenv_canary=1\n"
            ),
        );
        let identity = "#!/bin/sh\necho mac=02:00:00:00:00:01\n";
        write("/usr/share/mender/identity/mender-device-identity", identity);
        let inventory = "#!/bin/sh\necho os=Debian GNU/Linux 12\necho rack=7\n";
        write("/usr/share/mender/inventory/mender-inventory-own", inventory);
        // The client asks for a reboot by this name; what it finds is the end of itself.
        write("/usr/sbin/reboot", "#!/bin/sh\nkill -9 \"$(cat /run/client.pid)\"\n");
        let prepare = "chmod 755 /usr/share/mender/identity/* /usr/share/mender/inventory/* /usr/sbin/reboot && \
                       head -c 16384 /dev/zero | tr '\\0' '\\377' > /fw/env.bin && \
                       fw_setenv -f /fw/defaults -s /fw/defaults";
        sandbox.command(&["sh", "-ec", prepare]).check().unwrap();
        Self { sandbox, slots, boots: 0, logs: chain.logs().to_owned() }
    }

    fn env(&self, name: &str) -> u32 {
        let output = self.sandbox.command(&["fw_printenv", "-n", name]).check().unwrap();
        output.text().trim().parse().unwrap()
    }

    fn set(&self, pairs: &[(&str, String)]) {
        let script: String = pairs.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        self.sandbox.command(&["fw_setenv", "-s", "-"]).stdin(script).check().unwrap();
    }

    /// What U-Boot does: an image on trial that was booted before, or does not boot, gives way to the other.
    fn boot_loader(&self, new: NewImage) {
        if self.env("upgrade_available") != 1 {
            return;
        }
        let count = self.env("bootcount") + 1;
        if count <= self.env("bootlimit") && new == NewImage::Boots {
            return self.set(&[("bootcount", count.to_string())]);
        }
        let [a, b] = [0, 1].map(|at| self.slots[at].number());
        let other = if self.env("mender_boot_part") == a { b } else { a };
        self.set(&[
            ("mender_boot_part", other.to_string()),
            ("mender_boot_part_hex", format!("{other:X}")),
            ("upgrade_available", "0".into()),
            ("bootcount", "0".into()),
        ]);
    }

    /// Boots, and starts the client.
    fn boot(&mut self, chain: &Chain, new: NewImage) -> Process {
        self.boot_loader(new);
        self.boots += 1;
        let log = self.logs.join("client.log");
        let run = "echo $$ > /run/client.pid; exec mender --no-syslog --log-level debug daemon";
        self.sandbox.start(chain.lab(), "mender daemon", &["sh", "-c", run], &log).unwrap()
    }

    /// Boots again each time that the client asks for it, until the server says what is waited for.
    fn run_until(
        &mut self,
        chain: &Chain,
        new: NewImage,
        what: &str,
        is_so: impl Fn() -> Result<(), String>,
    ) {
        let mut client = self.boot(chain, new);
        for _ in 0..6 {
            let end = wait_until(what, PATIENCE, || match client.check_alive() {
                Err(_) => Ok(false),
                Ok(()) => is_so().map(|()| true),
            });
            match end {
                Ok(true) => return drop(client),
                Ok(false) => {
                    drop(client);
                    client = self.boot(chain, new);
                }
                Err(error) => {
                    let log = volary_host::read(&self.logs.join("client.log")).unwrap_or_default();
                    panic!("{error}\n{}", volary_host::tail(&log, 60));
                }
            }
        }
        panic!("the client reboots again and again");
    }

    /// The SHA-256 of so many bytes of a slot.
    fn slot_sum(&self, at: usize, size: u64) -> String {
        let script = "head -c \"$0\" \"$1\" | sha256sum | cut -d' ' -f1";
        let device = &self.slots[at].file;
        let output = Cmd::new("sh").args(["-c", script, &size.to_string()]).arg(device).check().unwrap();
        output.text().trim().to_owned()
    }
}

/// A signed artifact with a real file system in it, published and pinned for the first stage.
fn pin(chain: &Chain, fleet: &Clone, folder: &Path, name: &str) -> Value {
    let tree = folder.join(name);
    volary_host::create_dir(&tree).unwrap();
    volary_host::write_atomic(&tree.join("release"), name.as_bytes(), 0o644).unwrap();
    let image = folder.join(format!("{name}.ext4"));
    let mke2fs = Cmd::new("mke2fs").args(["-q", "-t", "ext4", "-L", name, "-d"]).arg(&tree).arg(&image);
    mke2fs.arg("16M").check().unwrap();
    let (image, artifact) = (image.display().to_string(), folder.join(format!("{name}.mender")));
    let (artifact, key) = (artifact.display().to_string(), folder.join("key.pem").display().to_string());
    let write = ["artifact", "write", &artifact, &image, "--name", name, "--device-type", "testboard"];
    chain.volary(&[&write[..], &["--compression", "gzip", "--key", &key]].concat()).unwrap();
    let published = chain.volary(&["--json", "image", "publish", &artifact]).unwrap();
    fleet.run_volary(&["bump", "--image", &format!("testboard={name}")]).unwrap();
    serde_json::from_str(&published).unwrap()
}

fn deployments(chain: &Chain) -> Vec<Value> {
    let curl = "curl --silent --fail --cacert \"$0\" --oauth2-bearer \"$1\" \"$2\"";
    let config = volary_host::read_to_string(&chain.folder().join("client.toml")).unwrap();
    let token = config.lines().find_map(|line| line.strip_prefix("token = ")).unwrap().trim_matches('"');
    let ca = chain.folder().join("ca/ca.pem").display().to_string();
    let url = format!("{}/api/v1/devices/gate-1/deployments", chain.url());
    let output = chain.command("sh").args(["-c", curl, &ca, token, &url]).check().unwrap();
    serde_json::from_str(&output.text()).unwrap()
}

fn newest_is(chain: &Chain, image: &str, state: &str) -> Result<Value, String> {
    let newest = deployments(chain).into_iter().next().ok_or("there is no deployment")?;
    match newest["image"] == image && newest["state"] == state {
        true => Ok(newest),
        false => Err(format!("{} is {} ({})", newest["image"], newest["state"], newest["substate"])),
    }
}

#[test]
fn the_debian_client_takes_an_update_and_rolls_a_broken_one_back() {
    let (chain, _logs) = common::chain();
    let folder = chain.lab().folder().join("images");
    volary_host::create_dir(&folder).unwrap();
    let key = folder.join("key.pem");
    Cmd::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072", "-out"])
        .arg(&key)
        .check()
        .unwrap();
    let public = Cmd::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&key).check().unwrap().stdout;
    volary_host::write_atomic(&chain.folder().join("artifacts.pub"), &public, 0o644).unwrap();
    chain
        .reconfigure(|text| format!("{text}\n[images]\nkeys = [\"artifacts.pub\"]\n\n[mender]\npoll = 2\n"))
        .unwrap();
    let fleet = chain.clone_of("fleet").unwrap();
    let mut board = Board::new(&chain, &public);

    // It waits, under a name of the server's; a person lets it in under its own.
    board.run_until(&chain, NewImage::Boots, "the device in the lobby", || {
        let devices: Vec<Value> = serde_json::from_str(
            &chain.volary(&["--json", "device", "list"]).map_err(|error| error.to_string())?,
        )
        .unwrap();
        let waiting = devices.iter().find(|device| device["condition"] == "waiting").ok_or("nobody waits")?;
        assert!(waiting["os"].as_str().unwrap().contains("mac=02:00:00:00:00:01"), "{waiting}");
        let name = waiting["name"].as_str().unwrap();
        chain.volary(&["device", "accept", name, "--stage", "development", "--as", "gate-1"]).unwrap();
        Ok(())
    });
    board.run_until(&chain, NewImage::Boots, "the first report", || {
        let known = chain.known("gate-1").map_err(|error| error.to_string())?;
        let report = known.report.ok_or("it has not reported")?;
        let image = report.image.ok_or("it has not said what it runs")?;
        match (image.name.as_str(), report.facts.get("rack").map(String::as_str)) {
            ("release-1", Some("7")) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });

    let image = pin(&chain, &fleet, &folder, "release-2");
    let before = board.boots;
    let head = fleet.head().unwrap();
    board.run_until(&chain, NewImage::Boots, "the update to be a success", || {
        newest_is(&chain, "release-2", "success")?;
        // It says what it runs after the success, and no more once it is off.
        chain.is_good("gate-1", &head)
    });
    assert_eq!(board.boots - before, 2, "one reboot");
    assert_eq!(board.env("mender_boot_part"), board.slots[1].number());
    assert_eq!(board.env("upgrade_available"), 0);
    let size = image["rootfs_size"].as_u64().unwrap();
    assert_eq!(format!("sha256:{}", board.slot_sum(1, size)), image["rootfs"]);

    // The next image does not boot: the boot loader goes back, and the client follows.
    pin(&chain, &fleet, &folder, "release-3");
    board.run_until(&chain, NewImage::DoesNot, "the update to be a failure with a log", || {
        let newest = newest_is(&chain, "release-3", "failure")?;
        newest["log"].as_str().map(drop).ok_or_else(|| "no log yet".to_owned())
    });
    assert_eq!(board.env("mender_boot_part"), board.slots[1].number());
    let newest = newest_is(&chain, "release-3", "failure").unwrap();
    assert_eq!(newest["held"], true);
    assert!(newest["log"].as_str().unwrap().contains("Running Mender client version: 3.4.0"), "{newest}");
    // It is back, and does not try it again: the client goes on asking and is sent nothing.
    board.run_until(&chain, NewImage::Boots, "the device to tell of it", || {
        let report = chain.known("gate-1").map_err(|error| error.to_string())?.report.ok_or("no report")?;
        let waiting = report.waiting.ok_or("it does not wait")?;
        match waiting.obstacles[0].contains("volary device retry gate-1") {
            true => Ok(()),
            false => Err(format!("{waiting:?}")),
        }
    });
    assert_eq!(deployments(&chain).len(), 2);
    let shown = chain.volary(&["device", "show", "gate-1"]).unwrap();
    for part in [
        "failed",
        "reverted",
        "release-2 for testboard",
        "put back     image release-2",
        "quarantined",
        "Reboot to the new update failed",
    ] {
        assert!(shown.contains(part), "{part:?} is missing in:\n{shown}");
    }

    // A commit that pins another image is all that it takes.
    pin(&chain, &fleet, &folder, "release-4");
    let head = fleet.head().unwrap();
    board.run_until(&chain, NewImage::Boots, "the next update to be a success", || {
        newest_is(&chain, "release-4", "success")?;
        chain.is_good("gate-1", &head)
    });
    assert_eq!(board.env("mender_boot_part"), board.slots[0].number());
}
