//! The smallest device with two slots, as a whole machine: firmware, boot loader with our script, a
//! kernel, and as its first process the agent's own parts that install, switch, keep and go back
//! (`slots_probe`). On every board that has a boot loader of ours.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use volary_artifact::{Depends, Draft, Encoding, PayloadDraft, Source, WriteOptions, write};
use volary_boot::{
    BootState, GRUB_MODULES, Layout, Loader, Place, Table, UBootDisk, boot_scr, grub_script, uboot_script,
};
use volary_host::Cmd;
use volary_image::{Layout as DiskLayout, MIB, Sizes, TableKind, partition_table};
use volary_model::Slot;
use volary_testkit::{Debian, roots};

/// The sizes of the partitions in MiB.
const BOOT: u64 = 64;
const ROOT: u64 = 64;
const DATA: u64 = 96;

/// What drives a virtio disk, in the order in which it can be loaded.
const MODULES: [&str; 6] = [
    "virtio/virtio_ring",
    "virtio/virtio",
    "virtio/virtio_pci_modern_dev",
    "virtio/virtio_pci_legacy_dev",
    "virtio/virtio_pci",
    "block/virtio_blk",
];

/// The first process of the initial RAM disk.
const FIRST: &str = "#!/bin/busybox sh
set -e
cd /bin
./busybox mount -t devtmpfs devtmpfs /dev
./busybox mount -t proc proc /proc
for module in $(./busybox cat /modules); do ./busybox insmod /$module; done
for word in $(./busybox cat /proc/cmdline); do
  case $word in root=*) root=${word#root=} ;; esac
done
./busybox mount -t ext4 $root /root
./busybox umount /proc
./busybox umount /dev
exec ./busybox switch_root /root /sbin/init
";

/// How long the probe may take to be built.
const PATIENCE: Duration = Duration::from_secs(1800);

/// What is flashed, and what boots it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Board {
    /// A PC with UEFI and GRUB.
    UefiAmd64,
    /// An ARM board with U-Boot, as Debian's u-boot-qemu has it.
    UBootArm64,
    /// The same with a disk as a Raspberry Pi has it: an MBR with the boot state in its extended partition.
    UBootMbr,
}

impl Board {
    fn architecture(self) -> &'static str {
        match self {
            Self::UefiAmd64 => "amd64",
            Self::UBootArm64 | Self::UBootMbr => "arm64",
        }
    }

    fn target(self) -> &'static str {
        match self {
            Self::UefiAmd64 => "x86_64-unknown-linux-musl",
            Self::UBootArm64 | Self::UBootMbr => "aarch64-unknown-linux-musl",
        }
    }

    fn loader(self) -> Loader {
        match self {
            Self::UefiAmd64 => Loader::Grub,
            Self::UBootArm64 | Self::UBootMbr => Loader::UBoot,
        }
    }

    /// As `slots.json` calls it.
    fn loader_name(self) -> &'static str {
        match self {
            Self::UefiAmd64 => "grub",
            Self::UBootArm64 | Self::UBootMbr => "u-boot",
        }
    }

    fn console(self) -> &'static str {
        match self {
            Self::UefiAmd64 => "console=ttyS0",
            Self::UBootArm64 | Self::UBootMbr => "console=ttyAMA0",
        }
    }

    /// Where partitions are, as the image builder lays them out.
    pub fn disk(self) -> DiskLayout {
        let table = match self {
            Self::UefiAmd64 | Self::UBootArm64 => TableKind::Gpt,
            Self::UBootMbr => TableKind::Mbr,
        };
        let sizes = Sizes { boot: BOOT * MIB, root: ROOT * MIB, data: DATA * MIB };
        DiskLayout::two_slots(table, sizes, "qemu")
    }

    /// The disk's driver is a module: an initial RAM disk loads it.
    ///
    /// NVMe is in the kernel, but QEMU's tells of a write cache and ignores the order to write through it
    /// (FUA), so that what ext4 takes for safe is lost with the power. A virtio disk knows flushes alone.
    fn needs_modules(self) -> bool {
        self == Self::UefiAmd64
    }

    /// A partition as the kernel calls it.
    fn device(self, name: &str) -> String {
        let disk = if self.needs_modules() { "vda" } else { "nvme0n1p" };
        format!("/dev/{disk}{}", self.disk().partition(name).unwrap().number)
    }

    /// The disk `d0` as QEMU attaches it.
    fn disk_device(self) -> &'static str {
        if self.needs_modules() {
            "virtio-blk-pci,drive=d0,serial=slots,bootindex=1"
        } else {
            "nvme,drive=d0,serial=slots,bootindex=1"
        }
    }

    /// Where the boot state, or a slot, is on the disk, in bytes.
    pub fn place(self, name: &str) -> Range<u64> {
        let disk = self.disk();
        let partition = disk.partition(name).unwrap();
        partition.start..partition.start + partition.size
    }

    /// The probe, built for it.
    fn probe(self) -> PathBuf {
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().parent().unwrap();
        let mut build = Cmd::new(env!("CARGO"))
            .args(["build", "--quiet", "--package", "volary-agent", "--example", "slots_probe"])
            .args(["--target", self.target()]);
        if self != Self::UefiAmd64 {
            // As xtask does for the agent: Rust brings musl's start files.
            build = build
                .env("CC_aarch64_unknown_linux_musl", "aarch64-linux-gnu-gcc")
                .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER", "rust-lld");
        }
        build.cwd(workspace).timeout(PATIENCE).check().unwrap();
        let built =
            std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), PathBuf::from);
        built.join(self.target()).join("debug/examples/slots_probe")
    }

    fn strip(self) -> &'static str {
        match self {
            Self::UefiAmd64 => "strip",
            Self::UBootArm64 | Self::UBootMbr => "aarch64-linux-gnu-strip",
        }
    }
}

/// Makes file systems and disks for a board.
pub struct Bench {
    pub board: Board,
    folder: tempfile::TempDir,
    root: PathBuf,
    probe: PathBuf,
}

impl Bench {
    pub fn new(board: Board) -> Self {
        let cache = super::common::cache();
        let root = roots::kernel_root(&cache, Debian::Bookworm, board.architecture()).unwrap();
        let bench = Self {
            board,
            folder: tempfile::tempdir().unwrap(),
            root: root.path().to_owned(),
            probe: board.probe(),
        };
        Cmd::new(board.strip()).arg("-o").args([bench.at("probe"), bench.probe.clone()]).check().unwrap();
        bench
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn kernel(&self) -> PathBuf {
        let boot = fs::read_dir(self.root.join("boot")).unwrap().flatten().map(|entry| entry.path());
        let mut kernels = boot.filter(|path| path.to_string_lossy().contains("/vmlinuz-"));
        kernels.next().expect("the package with the kernel brings one")
    }

    /// The initial RAM disk: busybox and the modules.
    fn initrd(&self) -> PathBuf {
        let archive = self.at("initrd.img");
        let root = self.at("initrd");
        for dir in ["bin", "dev", "proc", "root"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        let busybox = self.busybox();
        fs::copy(&busybox, root.join("bin/busybox")).unwrap();
        let modules = fs::read_dir(self.root.join("lib/modules")).unwrap().flatten().next().unwrap().path();
        let mut files = vec![".", "bin", "bin/busybox", "dev", "proc", "root", "init", "modules"];
        let names = MODULES.map(|module| format!("{}.ko", module.rsplit('/').next().unwrap()));
        for (module, name) in MODULES.iter().zip(&names) {
            fs::copy(modules.join(format!("kernel/drivers/{module}.ko")), root.join(name)).unwrap();
            files.push(name);
        }
        fs::write(root.join("modules"), names.join("\n")).unwrap();
        fs::write(root.join("init"), FIRST).unwrap();
        fs::set_permissions(root.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
        let packer = Cmd::new(&busybox).args(["cpio", "-o", "-H", "newc", "-F"]).arg(&archive);
        packer.cwd(&root).stdin(format!("{}\n", files.join("\n"))).check().unwrap();
        archive
    }

    fn busybox(&self) -> PathBuf {
        let paths = ["bin/busybox", "usr/bin/busybox"].map(|path| self.root.join(path));
        paths.into_iter().find(|path| path.is_file()).expect("the root has busybox")
    }

    /// A root file system: the kernel, the probe, busybox, what it says of itself, and `ballast` MiB that no
    /// other image has.
    pub fn rootfs(&self, image: &str, todo: &str, ballast: u64) -> PathBuf {
        let root = self.at(&format!("{image}.root"));
        for dir in ["dev", "proc", "sys", "run", "tmp", "data", "bin", "sbin", "etc/volary", "var/lib/volary"]
        {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::copy(self.kernel(), root.join("vmlinuz")).unwrap();
        fs::copy(self.at("probe"), root.join("sbin/init")).unwrap();
        if self.board.needs_modules() {
            fs::copy(self.initrd(), root.join("initrd.img")).unwrap();
        }
        fs::copy(self.busybox(), root.join("bin/busybox")).unwrap();
        for program in ["sh", "mount", "umount", "reboot", "sync", "sha256sum"] {
            symlink("busybox", root.join("bin").join(program)).unwrap();
        }
        let put = |path: &str, text: &str| fs::write(root.join(path), text).unwrap();
        put("bin/systemctl", "#!/bin/sh\nsync\nexec reboot -f\n");
        fs::set_permissions(root.join("bin/systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
        put("probe", todo);
        put("etc/machine-id", "");
        put(
            "etc/volary/image.json",
            &format!(r#"{{"version": 1, "device_type": "qemu", "name": "{image}"}}"#),
        );
        let device = |name: &str| self.board.device(name);
        let slots = json!({
            "version": 1, "loader": self.board.loader_name(), "bootenv": device("bootenv"),
            "a": device("root-a"), "b": device("root-b"), "data": "/data",
        });
        put("etc/volary/slots.json", &slots.to_string());
        put("data-device", &device("data"));
        if image == "old" {
            put("etc/carried", "of this device");
        }
        fs::write(root.join("ballast"), noise(image, ballast * MIB)).unwrap();
        let files = ["vmlinuz", "sbin/init", "bin/busybox", "ballast", "etc/volary/image.json"];
        let sums = files.map(|file| format!("{}  /{file}\n", sum(&fs::read(root.join(file)).unwrap())));
        put("sums", &sums.concat());
        self.ext4(&root, image, ROOT)
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

    /// The data partition: the artifact of each image, and beside it what is pinned.
    pub fn data(&self, name: &str, images: &[(&str, &Path)]) -> PathBuf {
        let folder = self.at(&format!("{name}.data"));
        fs::create_dir_all(folder.join("volary")).unwrap();
        for (image, rootfs) in images {
            let bytes = fs::read(rootfs).unwrap();
            let source = Source::new("rootfs.ext4", bytes.len() as u64, bytes.as_slice());
            let draft = Draft {
                name: (*image).to_owned(),
                depends: Depends { device_types: vec!["qemu".into()], ..Depends::default() },
                payloads: vec![PayloadDraft::rootfs_image(image, source)],
                ..Draft::default()
            };
            let path = folder.join(format!("{image}.mender"));
            let mut file = fs::File::create_new(&path).unwrap();
            write(&mut file, draft, &WriteOptions { encoding: Encoding::Gzip(6), key: None, threads: 1 })
                .unwrap();
            let artifact = fs::read(&path).unwrap();
            let pins = format!("{image} sha256:{} {} sha256:{}", sum(&artifact), artifact.len(), sum(&bytes));
            fs::write(folder.join(format!("{image}.pins")), pins).unwrap();
        }
        let order: Vec<&str> = images.iter().map(|(image, _)| *image).collect();
        fs::write(folder.join("images"), order.join("\n")).unwrap();
        self.ext4(&folder, &format!("{name}.data"), DATA)
    }

    fn layout(&self) -> Layout {
        let preamble: &[&str] = match self.board {
            Board::UefiAmd64 => {
                &["serial --unit=0 --speed=115200", "terminal_input serial", "terminal_output serial"]
            }
            Board::UBootArm64 | Board::UBootMbr => &[],
        };
        let console = self.board.console();
        let disk = self.board.disk();
        let number = |name: &str| disk.partition(name).unwrap().number;
        Layout {
            table: if disk.table == TableKind::Gpt { Table::Gpt } else { Table::Mbr },
            bootenv: number("bootenv"),
            root_a: number("root-a"),
            root_b: number("root-b"),
            device_a: self.board.device("root-a"),
            device_b: self.board.device("root-b"),
            kernel: "/vmlinuz".to_owned(),
            initrd: "/initrd.img".to_owned(),
            arguments: ["rw", console, "loglevel=5", "panic=1", "mitigations=off"].map(str::to_owned).into(),
            preamble: preamble.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    /// The boot partition: the boot loader where it does not come with the board, and the script.
    pub fn boot_partition(&self) -> PathBuf {
        let layout = self.layout();
        let image = self.at("boot.fat");
        fs::File::create(&image).unwrap().set_len(BOOT * MIB).unwrap();
        Cmd::new("mkfs.fat").args(["-F", "32"]).arg(&image).check().unwrap();
        let copy = |file: &Path, to: &str| {
            Cmd::new("mcopy").arg("-i").args([&image, file, Path::new(to)]).check().unwrap();
        };
        match self.board {
            Board::UefiAmd64 => {
                for folder in ["::/EFI", "::/EFI/BOOT"] {
                    Cmd::new("mmd").arg("-i").args([&image, Path::new(folder)]).check().unwrap();
                }
                let config = self.at("grub.cfg");
                fs::write(&config, grub_script(&layout).unwrap()).unwrap();
                copy(&config, "::/EFI/BOOT/");
                copy(&self.grub(), "::/EFI/BOOT/");
            }
            Board::UBootArm64 | Board::UBootMbr => {
                let disk = UBootDisk { own_environment: false, boot: "booti".to_owned(), device_tree: None };
                let script = self.at("boot.scr");
                fs::write(&script, boot_scr(&uboot_script(&layout, &disk).unwrap())).unwrap();
                copy(&script, "::/boot.scr");
            }
        }
        image
    }

    fn grub(&self) -> PathBuf {
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
        grub
    }

    /// The whole disk, with the old image in slot A and nothing in slot B.
    pub fn disk(&self, name: &str, boot: &Path, old: &Path, data: &Path) -> PathBuf {
        let disk = self.at(&format!("{name}.img"));
        let layout = self.board.disk();
        let file = fs::File::create_new(&disk).unwrap();
        file.set_len(layout.size).unwrap();
        let put = |at: u64, bytes: &[u8]| file.write_all_at(bytes, at).unwrap();
        for write in partition_table(&layout) {
            put(write.offset, &write.bytes);
        }
        for (name, path) in [("boot", boot), ("root-a", old), ("data", data)] {
            put(self.board.place(name).start, &fs::read(path).unwrap());
        }
        for write in self.board.loader().initial(BootState::confirmed(Slot::A)) {
            let Place::Offset(at) = write.place else { panic!("{:?}", write.place) };
            put(self.board.place("bootenv").start + at, &write.bytes);
        }
        disk
    }

    /// Switches a machine on. `drive` is its disk for QEMU, called `d0`.
    pub fn machine(&self, name: &str, drive: &str) -> Machine {
        let console = self.at(&format!("{name}.console"));
        let vars = self.at(&format!("{name}.vars"));
        let flash = |unit: u32, rest: &str| format!("if=pflash,format=raw,unit={unit},{rest}");
        let qemu = match self.board {
            Board::UefiAmd64 => {
                fs::copy("/usr/share/OVMF/OVMF_VARS_4M.fd", &vars).unwrap();
                start("qemu-system-x86_64")
                    .args(["-machine", "q35", "-m", "384"])
                    .args(["-drive", &flash(0, "readonly=on,file=/usr/share/OVMF/OVMF_CODE_4M.fd")])
                    .args(["-drive", &flash(1, &format!("file={}", vars.display()))])
            }
            Board::UBootArm64 | Board::UBootMbr => start("qemu-system-aarch64")
                .args(["-machine", "virt", "-cpu", "cortex-a57", "-m", "512"])
                .args(["-bios", "/usr/lib/u-boot/qemu_arm64/u-boot.bin"]),
        };
        let child = qemu
            .args(["-nodefaults", "-display", "none", "-accel", "tcg", "-smp", "1"])
            .args(["-drive", drive])
            .args(["-device", self.board.disk_device()])
            .args(["-serial", &format!("file:{}", console.display())])
            .into_std()
            .spawn()
            .expect("this test needs QEMU; `scripts/setup machine` installs it");
        Machine { child, console }
    }
}

/// QEMU, which ends when the test does, however that ends.
fn start(qemu: &str) -> Cmd {
    Cmd::new("setpriv").args(["--pdeathsig", "KILL", qemu])
}

/// A disk as a file of this machine, for QEMU.
pub fn file_drive(disk: &Path) -> String {
    format!("if=none,id=d0,format=raw,cache=writeback,file={}", disk.display())
}

/// A machine that runs; it ends with this.
pub struct Machine {
    child: std::process::Child,
    console: PathBuf,
}

impl Machine {
    /// All that it said.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).replace('\r', "")
    }

    /// What it went through: boots of the boot loader and what the probe said.
    pub fn story(&self) -> Vec<String> {
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

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What no packer makes smaller, and the same each time.
fn noise(name: &str, length: u64) -> Vec<u8> {
    (0..length.div_ceil(32)).flat_map(|block| Sha256::digest(format!("{name} {block}"))).collect()
}
