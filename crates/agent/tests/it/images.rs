//! An image by a merge: the whole way through another slot, with the real agent. The slots are files,
//! and the test is the boot loader.

use std::fs;
use std::io::Cursor;
use std::time::Duration;

use volary_agent::agent::Agent;
use volary_agent::paths::Paths;
use volary_agent::slots::Slots;
use volary_agent::status::SlotsStatus;
use volary_artifact::{Depends, Draft, Encoding, PayloadDraft, Script, Source, WriteOptions, write};
use volary_boot::{BootState, Loader, Place};
use volary_device::{Phase, Rest};
use volary_fleet::{FleetLock, LockedImage};
use volary_host::write_atomic;
use volary_model::{Digest, Slot};

use crate::convergence::Device;

const LENGTH: usize = 3 << 20;

fn image_json(name: &str) -> String {
    format!(r#"{{"version": 1, "device_type": "board", "name": "{name}"}}"#)
}

fn digest(bytes: &[u8]) -> Digest {
    use sha2::{Digest as _, Sha256};
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// A device with two slots and the image `old`; its fleet pins the image `new`.
struct WithSlots {
    device: Device,
    rootfs: Vec<u8>,
}

impl WithSlots {
    fn new(scripts: Vec<Script>) -> Self {
        let device = Device::new();
        let rootfs: Vec<u8> =
            (0..LENGTH).map(|number| (number / 7 % 251) as u8 ^ (number >> 16) as u8).collect();
        let source = Source::new("rootfs.ext4", LENGTH as u64, rootfs.as_slice());
        let draft = Draft {
            name: "new".into(),
            depends: Depends { device_types: vec!["board".into()], ..Depends::default() },
            scripts,
            payloads: vec![PayloadDraft::rootfs_image("new", source)],
            ..Draft::default()
        };
        let mut artifact = Cursor::new(Vec::new());
        let options = WriteOptions { encoding: Encoding::Gzip(1), key: None, threads: 1 };
        write(&mut artifact, draft, &options).unwrap();
        let artifact = artifact.into_inner();
        let locked = LockedImage {
            name: "new".parse().unwrap(),
            artifact: digest(&artifact),
            size: artifact.len() as u64,
            rootfs: digest(&rootfs),
            manifest: None,
        };
        let lock = FleetLock { release: None, images: [("board".parse().unwrap(), locked.clone())].into() };
        device.stub.world().images.insert(locked.artifact.hex(), artifact);
        device.fleet.put("volary.lock", &lock.to_text());
        device.fleet.commit("alice", "Pin an image");
        let slots = Self { device, rootfs };
        slots.put("proc/cmdline", b"volary.slot=a");
        slots.put(
            "etc/volary/slots.json",
            br#"{"version": 1, "loader": "grub", "bootenv": "/dev/bootenv", "a": "/dev/slot-a",
                 "b": "/dev/slot-b", "data": "/data"}"#,
        );
        slots.put("etc/volary/image.json", image_json("old").as_bytes());
        slots.put("dev/slot-a", &vec![1; LENGTH]);
        slots.put("dev/slot-b", &vec![2; LENGTH]);
        // What is mounted of the new slot, in place of a real mount.
        slots.put("run/volary/other-slot/etc/volary/image.json", image_json("new").as_bytes());
        let mut bootenv = vec![0; 1 << 20];
        for write in Loader::Grub.initial(BootState::confirmed(Slot::A)) {
            let Place::Offset(at) = write.place else { panic!() };
            bootenv[at as usize..at as usize + write.bytes.len()].copy_from_slice(&write.bytes);
        }
        slots.put("dev/bootenv", &bootenv);
        slots
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.device.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        write_atomic(&path, bytes, 0o644).unwrap();
    }

    fn paths(&self) -> Paths {
        Paths::below(self.device.root.path())
    }

    fn state(&self) -> BootState {
        Slots::open(&self.paths()).unwrap().unwrap().boot_state().unwrap().state
    }

    /// One turn of an agent that just started.
    fn start(&mut self) {
        self.device.agent = Agent::open(&self.paths()).unwrap();
        let started = self.device.agent.started();
        self.device.agent.turn(started, Duration::ZERO).unwrap();
    }

    /// The boot loader.
    fn boot(&mut self) -> Slot {
        let slots = Slots::open(&self.paths()).unwrap().unwrap();
        let after = self.state().at_boot();
        slots.set(after).unwrap();
        let name = if after.slot == Slot::A { "old" } else { "new" };
        self.put("proc/cmdline", format!("volary.slot={}", after.slot).as_bytes());
        self.put("etc/volary/image.json", image_json(name).as_bytes());
        after.slot
    }

    /// Up to the reboot into the new slot.
    fn install(&mut self) {
        self.device.stub.want("development", &self.device.fleet.head());
        self.start();
        let state = self.device.agent.state();
        assert!(matches!(state.phase, Phase::Reboot(_)), "{:?}", state.phase);
        assert_eq!(self.state(), BootState::on_trial(Slot::B));
        assert_eq!(fs::read(self.device.root.path().join("dev/slot-b")).unwrap(), self.rootfs);
    }

    fn written(&self) -> bool {
        self.device.fleet.written().exists()
    }
}

#[test]
fn a_pinned_image_is_installed_booted_and_kept() {
    let mut slots = WithSlots::new(Vec::new());
    slots.device.stub.world().breaks = 2;
    slots.install();
    assert!(!slots.written(), "the playbook is for the new system");
    let carried = slots.device.root.path().join("run/volary/other-slot/etc/volary/agent.json");
    assert!(carried.exists());
    // An agent that starts before the device is down only goes on with that.
    slots.start();
    assert_eq!(slots.state(), BootState::on_trial(Slot::B));
    assert!(!slots.written());

    assert_eq!(slots.boot(), Slot::B);
    slots.start();
    assert_eq!(slots.device.stub.last_failure(), "good");
    assert!(slots.written());
    assert_eq!(slots.state(), BootState::confirmed(Slot::B));
    let report = slots.device.stub.last_result();
    let image = report.image.unwrap();
    assert_eq!((image.name.as_str(), image.slot.as_deref(), image.on_trial), ("new", Some("b"), false));
    let status = SlotsStatus::of(&slots.paths()).unwrap();
    assert_eq!((status.running, status.next, status.on_trial), (Some(Slot::B), Some(Slot::B), false));
    assert_eq!(slots.boot(), Slot::B, "for ever");
    // There is nothing to do any more.
    let asked = slots.device.stub.world().requests.len();
    slots.start();
    assert_eq!(slots.device.stub.world().requests.len(), asked + 1);
}

#[test]
fn a_system_that_does_not_come_up_is_told_and_not_tried_for_ever() {
    let mut slots = WithSlots::new(Vec::new());
    slots.install();
    assert_eq!((slots.boot(), slots.boot()), (Slot::B, Slot::A));
    slots.start();
    let told = slots.device.stub.last_failure();
    assert_eq!(
        told,
        "failed image new: the new system did not come up: the boot loader went back to the one before"
    );
    assert_eq!(slots.state(), BootState::confirmed(Slot::A));
    assert!(!slots.written());
    // Once more, since it may have been the power.
    slots.device.agent.turn(volary_device::Event::Nudged { again: false }, Duration::ZERO).unwrap();
    assert_eq!(slots.state(), BootState::on_trial(Slot::B));
    assert_eq!((slots.boot(), slots.boot()), (Slot::B, Slot::A));
    slots.start();
    let phase = &slots.device.agent.state().phase;
    assert!(matches!(phase, Phase::Idle(Rest::Quarantined(_))), "{phase:?}");
    slots.device.agent.turn(volary_device::Event::Due, Duration::ZERO).unwrap();
    assert_eq!(slots.state(), BootState::confirmed(Slot::A));
}

#[test]
fn a_system_that_does_not_hold_is_left_for_the_one_before() {
    let mut slots = WithSlots::new(Vec::new());
    slots.device.fleet.put_executable("health/required.d/10-pump", "#!/bin/sh\necho no pump\nexit 1\n");
    slots.device.fleet.commit("alice", "Look after the pump");
    slots.install();
    assert_eq!(slots.boot(), Slot::B);
    slots.start();
    assert!(slots.written());
    assert_eq!(slots.state(), BootState::confirmed(Slot::A), "the undo begins with the boot state");
    assert!(matches!(slots.device.agent.state().phase, Phase::Revert(..)));
    assert_eq!(slots.boot(), Slot::A);
    slots.start();
    let told = slots.device.stub.last_failure();
    assert!(told.starts_with("failed check 10-pump: no pump"), "{told}");
    let undone = slots.device.stub.last_result().convergence.unwrap().reverted.unwrap();
    assert!(undone.rebooted);
    assert!(matches!(slots.device.agent.state().phase, Phase::Idle(Rest::Quarantined(_))));
    assert_eq!(slots.boot(), Slot::A);
}

#[test]
fn scripts_of_the_artifact_run_in_both_systems_and_may_refuse_the_new_one() {
    let log = tempfile::tempdir().unwrap();
    let path = log.path().join("log");
    let script = |name: &str, end: &str| Script {
        name: name.to_owned(),
        content: format!("#!/bin/sh\necho {name} >> {}\n{end}\n", path.display()).into_bytes(),
    };
    let mut slots = WithSlots::new(vec![
        script("ArtifactInstall_Enter_00", ""),
        script("ArtifactInstall_Leave_00", ""),
        script("ArtifactReboot_Enter_00", ""),
        script("ArtifactReboot_Leave_00", ""),
        script("ArtifactCommit_Enter_00", "echo not today >&2; exit 1"),
        script("ArtifactCommit_Leave_00", ""),
        script("ArtifactRollback_Enter_00", ""),
        script("ArtifactRollbackReboot_Enter_00", ""),
        script("ArtifactFailure_Enter_00", ""),
    ]);
    slots.install();
    assert_eq!(slots.boot(), Slot::B);
    slots.start();
    assert_eq!(slots.boot(), Slot::A);
    slots.start();
    let told = slots.device.stub.last_failure();
    assert!(told.contains("ArtifactCommit_Enter_00") && told.contains("not today"), "{told}");
    let ran = fs::read_to_string(&path).unwrap().replace("_00\n", " ");
    assert_eq!(
        ran.trim(),
        "ArtifactInstall_Enter ArtifactInstall_Leave ArtifactReboot_Enter ArtifactReboot_Leave \
         ArtifactCommit_Enter ArtifactRollback_Enter ArtifactRollbackReboot_Enter ArtifactFailure_Enter"
    );
}

#[test]
fn an_image_that_is_not_the_pinned_one_is_refused_and_never_booted() {
    let mut slots = WithSlots::new(Vec::new());
    for bytes in slots.device.stub.world().images.values_mut() {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }
    let told = slots.device.converge();
    assert!(told.starts_with("refused image new: "), "{told}");
    assert_eq!(slots.state(), BootState::confirmed(Slot::A));
    assert!(!slots.written());
}
