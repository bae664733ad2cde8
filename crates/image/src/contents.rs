//! What the builder puts into the root file system, the boot partition and the data partition beside
//! what packages bring: pure.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use volary_boot::{ENVIRONMENT_OFFSETS, ENVIRONMENT_SIZE};
use volary_model::{BootLoader, DeviceType, ImageName, Recipe};

use crate::layout::Layout;
use crate::sweep::Ours;

const GROW: &str = include_str!("device/grow-data.sh");
const IDENTITY: &str = include_str!("device/identity.sh");
const ENROLL: &str = include_str!("device/enroll.sh");

/// Packages that every image has: what boots it, what its first boot needs, and what the agent's
/// package would bring anyway.
const PACKAGES: [&str; 11] = [
    "ansible-core",
    "ca-certificates",
    "dbus",
    "e2fsprogs",
    "fdisk",
    "initramfs-tools",
    "python3-apt",
    "systemd-sysv",
    "udev",
    "util-linux",
    "zstd",
];

/// Who else could configure the network.
const NETWORKERS: [&str; 6] = ["network-manager", "ifupdown", "ifupdown2", "connman", "netplan.io", "dhcpcd"];

/// Who else could set the clock.
const CLOCKS: [&str; 5] = ["chrony", "ntp", "ntpsec", "openntpd", "systemd-timesyncd"];

fn names_any(recipe: &Recipe, of: &[&str]) -> bool {
    recipe.packages.iter().any(|package| of.contains(&package.as_str()))
}

/// True if the image's network comes from systemd, because the recipe names nobody else.
fn has_networkd(recipe: &Recipe) -> bool {
    !names_any(recipe, &NETWORKERS)
}

/// What is installed: the agent too, if it is to come from the sources.
pub(crate) fn packages(recipe: &Recipe, with_agent: bool) -> Vec<String> {
    let mut all: BTreeSet<String> = PACKAGES.map(str::to_owned).into();
    all.extend(recipe.packages.iter().map(ToString::to_string));
    all.insert(recipe.kernel.to_string());
    if with_agent {
        all.insert("volary-agent".to_owned());
    }
    if has_networkd(recipe) {
        all.insert("systemd-resolved".to_owned());
    }
    if !names_any(recipe, &CLOCKS) {
        // Without the right time no certificate is valid.
        all.insert("systemd-timesyncd".to_owned());
    }
    all.into_iter().collect()
}

/// The label of the boot partition. cloud-init looks for its seed on a file system of this name.
pub(crate) fn boot_label(recipe: &Recipe) -> &'static str {
    if names_any(recipe, &["cloud-init"]) { "CIDATA" } else { "BOOT" }
}

/// Where the boot partition is mounted.
pub(crate) fn boot_folder(loader: BootLoader) -> &'static str {
    match loader {
        BootLoader::GrubEfi => "/boot/efi",
        BootLoader::UBoot | BootLoader::RaspberryPi => "/boot/firmware",
    }
}

/// Our files in the root.
pub(crate) fn root(
    recipe: &Recipe,
    layout: &Layout,
    device_type: &DeviceType,
    name: &ImageName,
) -> BTreeMap<String, Ours> {
    let boot = boot_folder(recipe.loader);
    let mut all = BTreeMap::new();
    let mut file =
        |path: &str, text: String, mode| all.insert(path.to_owned(), Ours::File(text.into_bytes(), mode));

    let image = json!({ "version": 1, "device_type": device_type, "name": name });
    file("etc/volary/image.json", format!("{image}\n"), 0o644);
    let loader = match recipe.loader {
        BootLoader::GrubEfi => "grub",
        BootLoader::UBoot | BootLoader::RaspberryPi => "u-boot",
    };
    let slots = json!({
        "version": 1, "loader": loader, "bootenv": layout.device("bootenv"),
        "a": layout.device("root-a"), "b": layout.device("root-b"), "data": "/data",
    });
    file("etc/volary/slots.json", format!("{slots}\n"), 0o644);
    if matches!(recipe.loader, BootLoader::UBoot | BootLoader::RaspberryPi) {
        file("etc/fw_env.config", fw_env(&layout.device("bootenv")), 0o644);
    }
    file("etc/mender/artifact_info", format!("artifact_name={name}\n"), 0o644);

    file("etc/fstab", fstab(layout, boot), 0o644);
    file("etc/hostname", format!("{device_type}\n"), 0o644);
    // There and empty: systemd makes one at the first boot, without taking every unit's preset again.
    file("etc/machine-id", String::new(), 0o444);
    file("etc/sysctl.d/50-volary.conf", SYSCTL.to_owned(), 0o644);
    if !recipe.modules.is_empty() {
        file("etc/modules-load.d/50-volary.conf", recipe.modules.join("\n") + "\n", 0o644);
    }
    let watchdog = recipe.watchdog.as_secs();
    if watchdog > 0 {
        let text = format!("[Manager]\nRuntimeWatchdogSec={watchdog}s\nRebootWatchdogSec=2min\n");
        file("etc/systemd/system.conf.d/50-volary-watchdog.conf", text, 0o644);
    }

    let ours = |script: &str| script.replace("@BOOT@", boot).replace("@UNNAMED@", device_type.as_str());
    file("usr/lib/volary/grow-data", GROW.to_owned(), 0o755);
    file("usr/lib/volary/identity", ours(IDENTITY), 0o755);
    file("usr/lib/volary/enroll", ours(ENROLL), 0o755);
    let units = "usr/lib/systemd/system";
    file(&format!("{units}/volary-grow-data.service"), grow_unit(layout), 0o644);
    file(&format!("{units}/volary-identity.service"), identity_unit(boot), 0o644);
    file(&format!("{units}/volary-enroll.service"), enroll_unit(boot), 0o644);
    // The agent's state is on the data partition, or the agent does not run.
    let needs = "[Unit]\nRequiresMountsFor=/var/lib/volary /var/backups/volary-agent\n";
    file(&format!("{units}/volary-agent.service.d/50-data.conf"), needs.to_owned(), 0o644);

    if has_networkd(recipe) {
        file("usr/lib/systemd/network/90-volary-dhcp.network", DHCP.to_owned(), 0o644);
        for (wanted, unit) in NETWORKD {
            let link = format!("{units}/{wanted}.wants/{unit}");
            all.insert(link, Ours::Link(format!("../{unit}")));
        }
        all.insert(
            "etc/resolv.conf".to_owned(),
            Ours::Link("../run/systemd/resolve/stub-resolv.conf".to_owned()),
        );
    }
    for unit in ["volary-grow-data", "volary-identity", "volary-enroll"] {
        let link = format!("{units}/multi-user.target.wants/{unit}.service");
        all.insert(link, Ours::Link(format!("../{unit}.service")));
    }
    for (path, mode) in [
        ("data", 0o755),
        (&boot[1..], 0o755),
        ("var/lib/volary", 0o700),
        ("var/backups/volary-agent", 0o700),
        ("var/backups", 0o755),
    ] {
        all.insert(path.to_owned(), Ours::Folder(mode));
    }
    all
}

/// Any cable, after what the fleet says.
const DHCP: &str = "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n";

/// What has systemd configure the network.
const NETWORKD: [(&str, &str); 3] = [
    ("multi-user.target", "systemd-networkd.service"),
    ("sockets.target", "systemd-networkd.socket"),
    ("network-online.target", "systemd-networkd-wait-online.service"),
];

/// The kernel restarts the device instead of standing still, and the boot loader does the rest.
const SYSCTL: &str =
    "kernel.panic=10\nkernel.panic_on_oops=1\nkernel.softlockup_panic=1\nkernel.hung_task_panic=1\n";

/// Seconds that a mount waits for its partition. Only what needs the mount waits with it, and a slow processor takes
/// minutes to find all devices at its first start, more so under emulation.
const DEVICE: u64 = 180;

fn fstab(layout: &Layout, boot: &str) -> String {
    // Without data the device still starts, so that somebody can look at it.
    let bind = "none bind,nofail,x-systemd.requires-mounts-for=/data 0 0";
    format!(
        "# The root comes from the boot loader, which knows the slot.\n\
         {} {boot} vfat ro,nofail,umask=0077,x-systemd.device-timeout={DEVICE} 0 0\n\
         {} /data ext4 defaults,nofail,x-systemd.device-timeout={DEVICE} 0 2\n\
         /data/volary /var/lib/volary {bind}\n\
         /data/volary-backups /var/backups/volary-agent {bind}\n",
        layout.tag("boot"),
        layout.tag("data"),
    )
}

/// Where `fw_printenv` and `fw_setenv` find the boot state.
fn fw_env(bootenv: &str) -> String {
    let copy = |offset: u64| format!("{bootenv} {offset:#x} {ENVIRONMENT_SIZE:#x}\n");
    ENVIRONMENT_OFFSETS.map(copy).concat()
}

fn grow_unit(layout: &Layout) -> String {
    format!(
        "[Unit]\nDescription=Grow the data partition to the disk\nRequiresMountsFor=/data\nAfter=data.mount\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/lib/volary/grow-data {}\n",
        layout.device("data")
    )
}

fn identity_unit(boot: &str) -> String {
    let mount = boot[1..].replace('/', "-");
    format!(
        "[Unit]\nDescription=Make what belongs to this device only\n\
         After={mount}.mount systemd-machine-id-commit.service cloud-init-local.service\n\
         Before=systemd-user-sessions.service ssh.service sshd.service volary-agent.service volary-enroll.service\n\n\
         [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/usr/lib/volary/identity\n"
    )
}

fn enroll_unit(boot: &str) -> String {
    format!(
        "[Unit]\nDescription=Enrol with what lies on the boot partition\n\
         ConditionPathExists=!/etc/volary/agent.json\nConditionPathExists=|{boot}/volary/token\n\
         ConditionPathExists=|{boot}/volary/settings\n\
         RequiresMountsFor={boot} /var/lib/volary\nWants=network-online.target\n\
         After=network-online.target volary-identity.service cloud-init.service\nStartLimitIntervalSec=0\n\n\
         [Service]\nType=exec\nExecStart=/usr/lib/volary/enroll\nRestart=on-failure\nRestartSec=30\nUMask=0077\n"
    )
}

/// What the data partition begins with.
pub(crate) fn data(device_type: &DeviceType) -> BTreeMap<String, Ours> {
    let kind = format!("device_type={device_type}\n").into_bytes();
    [
        ("volary", Ours::Folder(0o700)),
        ("volary-backups", Ours::Folder(0o700)),
        ("mender", Ours::Folder(0o755)),
        ("mender/device_type", Ours::File(kind, 0o644)),
    ]
    .map(|(path, what)| (path.to_owned(), what))
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tools_of_u_boot_find_both_copies() {
        let bootenv = "/dev/disk/by-partlabel/bootenv";
        let expected = format!("{bootenv} 0x0 0x4000\n{bootenv} 0x80000 0x4000\n");
        assert_eq!(fw_env(bootenv), expected);
    }
}
