//! Two slots on a whole machine: firmware, GRUB with our script, a kernel, and as the first process the
//! agent's own parts that install, switch, keep and go back. A slot B that is kept, one that panics, one
//! that hangs until the watchdog resets it, one that never confirms: the machine is where it should be.

#![allow(clippy::print_stdout, reason = "what each machine went through is worth reading")]
#![allow(clippy::disallowed_methods, reason = "files of tests need not survive a power cut")]

mod common;

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use volary_artifact::{Depends, Draft, Encoding, PayloadDraft, Source, WriteOptions, write};
use volary_boot::{BootState, GRUB_MODULES, Layout, Loader, Place, Table, grub_script};
use volary_host::Cmd;
use volary_model::Slot;
use volary_testkit::{Debian, machine_kernel, wait_until};

const MIB: u64 = 1 << 20;

/// Where each partition begins and how long it is, in MiB: boot, bootenv, root-a, root-b, data.
const PARTS: [(&str, u64, u64); 5] =
    [("boot", 1, 64), ("bootenv", 65, 1), ("root-a", 66, 40), ("root-b", 106, 40), ("data", 146, 64)];

/// How long the probe may take to be built.
const PATIENCE: Duration = Duration::from_secs(900);

/// How long a machine may take for a few boots under emulation. QEMU's NVMe loses an interrupt now and then,
/// and the kernel waits for the disk then: such a machine is begun anew.
const BOOTS: Duration = Duration::from_secs(120);

/// How often.
const TRIES: usize = 4;

struct Bench {
    folder: tempfile::TempDir,
    kernel: PathBuf,
    probe: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let cache = common::cache();
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().parent().unwrap();
        let target = "x86_64-unknown-linux-musl";
        Cmd::new(env!("CARGO"))
            .args([
                "build",
                "--quiet",
                "--package",
                "volary-agent",
                "--example",
                "slots_probe",
                "--target",
                target,
            ])
            .cwd(workspace)
            .timeout(PATIENCE)
            .check()
            .unwrap();
        let built =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        let probe = built.join(target).join("debug/examples/slots_probe");
        let kernel = machine_kernel(&cache, Debian::Bookworm).unwrap().canonicalize().unwrap();
        Self { folder: tempfile::tempdir().unwrap(), kernel, probe }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A root file system: the kernel, the probe, busybox, and what it says of itself.
    fn rootfs(&self, image: &str, todo: &str) -> PathBuf {
        let root = self.at(&format!("{image}.root"));
        for dir in ["dev", "proc", "sys", "run", "tmp", "data", "bin", "sbin", "etc/volary", "var/lib/volary"]
        {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy(&self.kernel, root.join("vmlinuz")).unwrap();
        fs::copy(&self.probe, root.join("sbin/init")).unwrap();
        Cmd::new("strip").arg(root.join("sbin/init")).check().unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for program in ["sh", "mount", "umount", "reboot", "sync"] {
            symlink("busybox", root.join("bin").join(program)).unwrap();
        }
        let put = |path: &str, text: &str| fs::write(root.join(path), text).unwrap();
        put("bin/systemctl", "#!/bin/sh\nsync\nexec reboot -f\n");
        fs::set_permissions(root.join("bin/systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        put("probe", todo);
        put("etc/machine-id", "");
        put(
            "etc/volary/image.json",
            &format!(r#"{{"version": 1, "device_type": "qemu-amd64", "name": "{image}"}}"#),
        );
        put(
            "etc/volary/slots.json",
            r#"{"version": 1, "loader": "grub", "bootenv": "/dev/nvme0n1p2", "a": "/dev/nvme0n1p3",
                "b": "/dev/nvme0n1p4", "data": "/data"}"#,
        );
        if image == "old" {
            put("etc/carried", "of this device");
        }
        self.ext4(&root, image, PARTS[2].2)
    }

    fn ext4(&self, root: &Path, name: &str, mebibytes: u64) -> PathBuf {
        let image = self.at(&format!("{name}.ext4"));
        let _ = fs::remove_file(&image);
        Cmd::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0", "-d"])
            .args([root, &image])
            .arg(format!("{mebibytes}M"))
            .check()
            .unwrap();
        image
    }

    /// The data partition: the artifact of the new image, and what is pinned.
    fn data(&self, name: &str, rootfs: &Path) -> PathBuf {
        let folder = self.at(&format!("{name}.data"));
        fs::create_dir_all(folder.join("volary")).unwrap();
        let bytes = fs::read(rootfs).unwrap();
        let source = Source::new("rootfs.ext4", bytes.len() as u64, bytes.as_slice());
        let draft = Draft {
            name: name.to_owned(),
            depends: Depends { device_types: vec!["qemu-amd64".into()], ..Depends::default() },
            payloads: vec![PayloadDraft::rootfs_image(name, source)],
            ..Draft::default()
        };
        let path = folder.join("new.mender");
        let mut file = fs::File::create_new(&path).unwrap();
        write(&mut file, draft, &WriteOptions { encoding: Encoding::Gzip(6), key: None, threads: 1 })
            .unwrap();
        let artifact = fs::read(&path).unwrap();
        let hex = |bytes: &[u8]| {
            let digest = Sha256::digest(bytes);
            digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let pins = format!("{name} sha256:{} {} sha256:{}", hex(&artifact), artifact.len(), hex(&bytes));
        fs::write(folder.join("pins"), pins).unwrap();
        self.ext4(&folder, &format!("{name}.data"), PARTS[4].2)
    }

    /// The boot partition: GRUB for UEFI, and the script.
    fn boot_partition(&self) -> PathBuf {
        let layout = Layout {
            table: Table::Gpt,
            bootenv: 2,
            root_a: 3,
            root_b: 4,
            device_a: "/dev/nvme0n1p3".to_owned(),
            device_b: "/dev/nvme0n1p4".to_owned(),
            kernel: "/vmlinuz".to_owned(),
            initrd: "/initrd.img".to_owned(),
            arguments: ["rw", "console=ttyS0", "panic=1", "mitigations=off"].map(str::to_owned).into(),
            preamble: vec![
                "serial --unit=0 --speed=115200".to_owned(),
                "terminal_input serial".to_owned(),
                "terminal_output serial".to_owned(),
            ],
        };
        let config = self.at("grub.cfg");
        fs::write(&config, grub_script(&layout).unwrap()).unwrap();
        // The script stands beside GRUB, on whatever disk the firmware started it from.
        let first = self.at("first.cfg");
        fs::write(&first, "set prefix=\"$cmdpath\"\nconfigfile \"${cmdpath}/grub.cfg\"\n").unwrap();
        let grub = self.at("BOOTX64.EFI");
        Cmd::new("grub-mkimage")
            .args(["-O", "x86_64-efi", "-p", "/EFI/BOOT", "-c"])
            .args([&first, Path::new("-o"), &grub])
            .args(GRUB_MODULES)
            .args(["serial", "terminal"])
            .check()
            .unwrap();
        let image = self.at("boot.fat");
        let _ = fs::remove_file(&image);
        fs::File::create_new(&image).unwrap().set_len(PARTS[0].2 * MIB).unwrap();
        Cmd::new("mkfs.fat").args(["-F", "32"]).arg(&image).check().unwrap();
        for folder in ["::/EFI", "::/EFI/BOOT"] {
            Cmd::new("mmd").arg("-i").args([&image, Path::new(folder)]).check().unwrap();
        }
        for file in [&grub, &config] {
            Cmd::new("mcopy").arg("-i").args([&image, file, Path::new("::/EFI/BOOT/")]).check().unwrap();
        }
        image
    }

    /// The whole disk, with the old image in slot A and nothing in slot B.
    fn disk(&self, name: &str, boot: &Path, old: &Path, data: &Path) -> PathBuf {
        let disk = self.at(&format!("{name}.img"));
        let file = fs::File::create_new(&disk).unwrap();
        file.set_len(212 * MIB).unwrap();
        let line = |(name, start, length): (&str, u64, u64)| {
            let kind = if name == "boot" { "U" } else { "L" };
            format!("start={}MiB,size={length}MiB,type={kind},name={name}\n", start)
        };
        let table = format!("label: gpt\n{}", PARTS.map(line).concat());
        Cmd::new("sfdisk").args(["--quiet"]).arg(&disk).stdin(table).check().unwrap();
        let put = |at: u64, bytes: &[u8]| {
            use std::os::unix::fs::FileExt;
            file.write_all_at(bytes, at).unwrap();
        };
        put(PARTS[0].1 * MIB, &fs::read(boot).unwrap());
        put(PARTS[2].1 * MIB, &fs::read(old).unwrap());
        put(PARTS[4].1 * MIB, &fs::read(data).unwrap());
        for write in Loader::Grub.initial(BootState::confirmed(Slot::A)) {
            let Place::Offset(at) = write.place else { panic!("{:?}", write.place) };
            put(PARTS[1].1 * MIB + at, &write.bytes);
        }
        disk
    }

    fn machine(&self, name: &str, disk: &Path) -> Machine {
        let vars = self.at(&format!("{name}.vars"));
        fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).unwrap();
        let console = self.at(&format!("{name}.console"));
        let flash = |unit: u32, rest: &str| format!("if=pflash,format=raw,unit={unit},{rest}");
        let child = Cmd::new("qemu-system-x86_64")
            .args(["-nodefaults", "-display", "none", "-machine", "q35", "-accel", "tcg", "-m", "384"])
            .args(["-drive", &flash(0, "readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd")])
            .args(["-drive", &flash(1, &format!("file={}", vars.display()))])
            .args(["-drive", &format!("if=none,id=d0,format=raw,cache=writeback,file={}", disk.display())])
            .args(["-device", "nvme,drive=d0,serial=slots,bootindex=1"])
            .args(["-serial", &format!("file:{}", console.display())])
            .into_std()
            .spawn()
            .expect("this test needs qemu-system-x86_64; `scripts/setup machine` installs it");
        Machine { child, console }
    }
}

/// A machine that runs; it ends with this.
struct Machine {
    child: std::process::Child,
    console: PathBuf,
}

impl Machine {
    fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).replace('\r', "")
    }

    /// Waits until it said this. `None` if the emulation stalled.
    fn wait_for(&self, what: &str) -> Option<()> {
        let waited = wait_until(what, BOOTS, || {
            let said = self.said();
            assert!(!said.contains("PROBE failed"), "{said}");
            if said.contains(what) { Ok(()) } else { Err(tail(&said)) }
        });
        waited.inspect_err(|error| println!("{error}")).ok()
    }

    /// What it went through: boots of GRUB and what the probe said.
    fn story(&self) -> Vec<String> {
        let said = self.said();
        let ours = said.lines().filter_map(|line| {
            let at = line.find("PROBE runs ").or_else(|| line.find("volary: "))?;
            Some(line[at..].trim().trim_start_matches("PROBE ").to_owned())
        });
        ours.collect()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tail(said: &str) -> String {
    said.lines().rev().take(3).collect::<Vec<_>>().join(" | ")
}

#[test]
fn a_machine_is_in_the_new_slot_if_it_holds_and_in_the_old_one_otherwise() {
    let bench = Bench::new();
    let (boot, old) = (bench.boot_partition(), bench.rootfs("old", "install"));
    let once = |todo: &str, name: &str, data: &Path| {
        let disk = bench.disk(name, &boot, &old, data);
        let machine = bench.machine(name, &disk);
        if todo != "hang" {
            machine.wait_for("PROBE rests")?;
            return Some(machine.story());
        }
        machine.wait_for("PROBE hangs")?;
        drop(machine);
        // What a watchdog does.
        let again = bench.machine(&format!("{name}-again"), &disk);
        again.wait_for("PROBE rests")?;
        Some(again.story())
    };
    let run = |todo: &str| {
        let data = bench.data(todo, &bench.rootfs(todo, todo));
        let story = (0..TRIES).find_map(|number| once(todo, &format!("{todo}-{number}"), &data));
        let story = story.unwrap_or_else(|| panic!("{todo}: the emulation stalled {TRIES} times"));
        println!("{todo}:\n  {}", story.join("\n  "));
        story
    };
    let old_a = |state: &str| format!("runs slot=a image=old state={state} carried=true damaged=0");
    let begin = [
        "volary: booting slot a, trial 0".to_owned(),
        old_a("a"),
        "volary: booting slot b, trial 1".to_owned(),
    ];
    let new_b =
        |image: &str, state: &str| format!("runs slot=b image={image} state={state} carried=true damaged=0");
    let back = [
        "volary: slot b was tried and not confirmed".to_owned(),
        "volary: booting slot a, trial 0".to_owned(),
        old_a("a"),
    ];

    let kept =
        [new_b("commit", "b-begun"), "volary: booting slot b, trial 0".to_owned(), new_b("commit", "b")];
    assert_eq!(run("commit"), [&begin[..], &kept].concat());
    // It never reaches anything of ours.
    let panics = [new_b("panic", "b-begun")];
    assert_eq!(run("panic"), [&begin[..], &panics, &back].concat());
    let forgets = [new_b("forget", "b-begun")];
    assert_eq!(run("forget"), [&begin[..], &forgets, &back].concat());
    // The undo, as the timer calls it, says where the boot goes: GRUB has nothing to undo.
    let waits = [new_b("wait", "b-begun")];
    assert_eq!(run("wait"), [&begin[..], &waits, &back[1..]].concat());
    assert_eq!(run("hang"), back);
}
