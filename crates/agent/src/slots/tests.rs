//! Install, cut, resume, verify, switch: on files instead of devices, by the hundred.

#![allow(clippy::disallowed_methods, reason = "files of tests need not survive a power cut")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use volary_artifact::{
    Depends, Draft, Encoding, PayloadDraft, PrivateKey, Script, Source, WriteOptions, write,
};
use volary_boot::{BootState, Loader, MenderParts, Place, Trial};
use volary_device::{Event, Image, Policy, Scope, Target, Work};
use volary_host::Cmd;
use volary_model::{Digest, Slot};

use super::install::{InstallError, install};
use super::journal::{Journal, Progress};
use super::source::Fetch;
use super::switch::{self, Way};
use super::{Slots, SlotsError, fuse};
use crate::http::HttpError;
use crate::paths::Paths;

fn digest(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::digest(bytes).into())
}

/// Bytes that compress to about a half.
fn noise(size: usize, mut state: u64) -> Vec<u8> {
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 & 0x3c
    };
    (0..size).map(|_| next()).collect()
}

/// A device on which slot A runs.
struct Device {
    root: tempfile::TempDir,
    paths: Paths,
}

impl Device {
    fn new(loader: Loader, room: usize) -> Self {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::below(root.path());
        paths.prepare().unwrap();
        let device = Self { paths, root };
        device.put("proc/cmdline", b"quiet volary.slot=a panic=10\n");
        let (name, bootenv) = match loader {
            Loader::Grub => ("grub", "/dev/bootenv"),
            Loader::UBoot => ("u-boot", "/dev/bootenv"),
            Loader::MenderGrub(_) => ("mender-grub", "/boot/efi/grub-mender-grubenv"),
        };
        device.put(
            "etc/volary/slots.json",
            format!(
                r#"{{"version": 1, "loader": "{name}", "bootenv": "{bootenv}", "a": "/dev/slot2",
                     "b": "/dev/slot3", "data": "/data"}}"#
            )
            .as_bytes(),
        );
        device.put("etc/volary/image.json", &image_json("old"));
        device.put("dev/slot2", &vec![0xA5; room]);
        device.put("dev/slot3", &noise(room, 99));
        if bootenv == "/dev/bootenv" {
            device.put("dev/bootenv", &vec![0; 1 << 20]);
        }
        for write in loader.initial(BootState::confirmed(Slot::A)) {
            match write.place {
                Place::Offset(at) => {
                    let mut bytes = fs::read(device.at("dev/bootenv")).unwrap();
                    bytes[at as usize..at as usize + write.bytes.len()].copy_from_slice(&write.bytes);
                    device.put("dev/bootenv", &bytes);
                }
                Place::File(file) => device.put(&format!("{bootenv}/{file}")[1..], &write.bytes),
            }
        }
        device
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.path().join(path)
    }

    fn put(&self, path: &str, bytes: &[u8]) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn slots(&self) -> Slots {
        Slots::open(&self.paths).unwrap().unwrap()
    }

    fn state(&self) -> BootState {
        self.slots().boot_state().unwrap().state
    }

    /// What the boot loader does; says which slot runs then.
    fn boot(&self) -> Slot {
        let slots = self.slots();
        let after = self.state().at_boot();
        if after != self.state() {
            slots.set(after).unwrap();
        }
        self.put("proc/cmdline", format!("volary.slot={}\n", after.slot).as_bytes());
        after.slot
    }

    fn is_verified(&self) -> bool {
        matches!(Journal::load(&self.paths), Some(Journal { progress: Progress::Verified { .. }, .. }))
    }
}

fn image_json(name: &str) -> Vec<u8> {
    format!(r#"{{"version": 1, "device_type": "board", "name": "{name}"}}"#).into_bytes()
}

/// An artifact, and what the lock says of it.
struct Made {
    bytes: Vec<u8>,
    rootfs: Vec<u8>,
    image: Image,
}

fn made(rootfs: Vec<u8>, encoding: Encoding, device_type: &str, key: Option<&PrivateKey>) -> Made {
    let source = Source::new("rootfs.ext4", rootfs.len() as u64, rootfs.as_slice());
    let draft = Draft {
        name: "new".into(),
        depends: Depends { device_types: vec![device_type.into()], ..Depends::default() },
        scripts: vec![Script {
            name: "ArtifactInstall_Enter_00".into(),
            content: b"#!/bin/sh\nexit 0\n".to_vec(),
        }],
        payloads: vec![PayloadDraft::rootfs_image("new", source)],
        ..Draft::default()
    };
    let mut output = Cursor::new(Vec::new());
    write(&mut output, draft, &WriteOptions { encoding, key, threads: 1 }).unwrap();
    pinned(output.into_inner(), rootfs)
}

fn pinned(bytes: Vec<u8>, rootfs: Vec<u8>) -> Made {
    let reader = volary_artifact::Reader::open(bytes.as_slice(), &volary_artifact::Policy::unsigned());
    let image = Image {
        name: "new".parse().unwrap(),
        artifact: digest(&bytes),
        size: bytes.len() as u64,
        rootfs: digest(&rootfs),
        // What is no artifact has none.
        manifest: reader.ok().map(|reader| reader.info().manifest),
        from: None,
        into: Slot::B,
    };
    Made { bytes, rootfs, image }
}

fn usual(size: usize, encoding: Encoding) -> Made {
    made(noise(size, 7), encoding, "board", None)
}

/// A server whose line breaks.
struct Line<'a> {
    bytes: &'a [u8],
    /// After how many bytes each connection breaks; the last one does not.
    breaks: RefCell<Vec<usize>>,
    read: Rc<Cell<u64>>,
    /// Files beside the artifact, and which were asked for.
    beside: BTreeMap<String, Vec<u8>>,
    asked: RefCell<Vec<String>>,
}

impl<'a> Line<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            breaks: RefCell::default(),
            read: Rc::default(),
            beside: BTreeMap::new(),
            asked: RefCell::default(),
        }
    }
}

struct Breaking {
    bytes: Cursor<Vec<u8>>,
    left: usize,
    read: Rc<Cell<u64>>,
}

impl Read for Breaking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(self.left).min(10_000);
        if most == 0 && !buffer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::ConnectionReset, "it broke"));
        }
        let count = self.bytes.read(&mut buffer[..most])?;
        self.left -= count;
        self.read.set(self.read.get() + count as u64);
        Ok(count)
    }
}

impl Fetch for Line<'_> {
    fn open(&self, beside: &str, range: Range<u64>) -> Result<Option<Box<dyn Read>>, HttpError> {
        let file =
            if beside.is_empty() { Some(self.bytes) } else { self.beside.get(beside).map(Vec::as_slice) };
        let Some(file) = file else { return Ok(None) };
        self.asked.borrow_mut().push(beside.to_owned());
        let bytes = file[range.start as usize..range.end as usize].to_vec();
        let left =
            if self.breaks.borrow().is_empty() { usize::MAX } else { self.breaks.borrow_mut().remove(0) };
        Ok(Some(Box::new(Breaking { bytes: Cursor::new(bytes), left, read: Rc::clone(&self.read) })))
    }

    fn name(&self, _beside: &str) -> String {
        "the test".to_owned()
    }

    fn pause(&self, _pause: Duration) {}
}

const MIB: usize = 1 << 20;

#[test]
fn an_image_gets_into_the_other_slot_whatever_packs_it() {
    for encoding in [Encoding::None, Encoding::Gzip(1), Encoding::Xz(0), Encoding::Zstd(1)] {
        let made = usual(3 * MIB + 12_345, encoding);
        let device = Device::new(Loader::Grub, 4 * MIB);
        let line = Line::new(&made.bytes);
        let installed = install(&device.slots(), &made.image, &line).unwrap();
        assert_eq!(installed.length, made.rootfs.len() as u64, "{encoding:?}");
        assert_eq!(fs::read(device.at("dev/slot3")).unwrap()[..made.rootfs.len()], made.rootfs);
        assert_eq!(fs::read(device.at("dev/slot2")).unwrap(), vec![0xA5; 4 * MIB]);
        assert!(device.is_verified());
        assert_eq!(device.state(), BootState::confirmed(Slot::A), "nothing boots it yet");
        // It is known to be there.
        let again = install(&device.slots(), &made.image, &line).unwrap();
        assert_eq!((again.read, again.written), (0, 0));
    }
}

#[test]
fn what_is_there_already_is_not_written() {
    let made = usual(2 * MIB, Encoding::Gzip(1));
    let device = Device::new(Loader::Grub, 2 * MIB);
    let mut almost = made.rootfs.clone();
    almost[MIB + 5] ^= 1;
    device.put("dev/slot3", &almost);
    let installed = install(&device.slots(), &made.image, &Line::new(&made.bytes)).unwrap();
    assert_eq!(installed.written, 4 << 10, "one part of 4 KiB");
    assert_eq!(fs::read(device.at("dev/slot3")).unwrap(), made.rootfs);
}

#[test]
fn a_line_that_breaks_is_taken_up_where_it_broke() {
    let made = usual(2 * MIB, Encoding::Gzip(1));
    for breaks in [vec![0], vec![1, 2, 3], vec![600, 1500, 70_000, 0, 0, 300_000], vec![made.bytes.len() - 1]]
    {
        let device = Device::new(Loader::Grub, 2 * MIB);
        let line = Line::new(&made.bytes);
        line.breaks.replace(breaks.clone());
        install(&device.slots(), &made.image, &line).unwrap();
        assert_eq!(line.read.get(), made.bytes.len() as u64, "{breaks:?}");
        assert_eq!(fs::read(device.at("dev/slot3")).unwrap(), made.rootfs);
    }
}

#[test]
fn a_line_that_is_gone_is_told_as_that() {
    let made = usual(2 * MIB, Encoding::Gzip(1));
    let device = Device::new(Loader::Grub, 2 * MIB);
    let line = Line::new(&made.bytes);
    line.breaks.replace([vec![700_000], vec![0; 10]].concat());
    let error = install(&device.slots(), &made.image, &line).unwrap_err();
    assert!(matches!(error, InstallError::Line(_)), "{error}");
    assert!(!device.is_verified());
    // The next time it goes on.
    let installed = install(&device.slots(), &made.image, &Line::new(&made.bytes)).unwrap();
    assert!(installed.read <= made.bytes.len() as u64, "{installed:?}");
    assert!(device.is_verified());
}

/// Cuts the power at every `step`-th write and flush of an installation, starts again, and looks
/// whether only what was not on the disk is fetched again.
fn cut_everywhere(made: &Made, step: u64, resumes: bool) {
    // `make powercut` leaves out none.
    let every = std::env::var("VOLARY_CUT_EVERY").ok().and_then(|text| text.parse().ok());
    let step = every.unwrap_or(step);
    let room = made.rootfs.len();
    let device = Device::new(Loader::Grub, room);
    let (result, calls) =
        fuse::with(u64::MAX, 0, || install(&device.slots(), &made.image, &Line::new(&made.bytes)));
    result.unwrap();
    assert!(calls > 10, "{calls}");
    let mut fetched = 0;
    for at in (0..calls).step_by(step as usize) {
        let device = Device::new(Loader::Grub, room);
        let line = Line::new(&made.bytes);
        let (result, _) = fuse::with(at, at * 31 + 7, || install(&device.slots(), &made.image, &line));
        let error = result.unwrap_err();
        assert!(matches!(error, InstallError::Slots(_)), "cut at {at}: {error}");
        assert_eq!(device.state(), BootState::confirmed(Slot::A), "cut at {at}");
        assert!(!device.is_verified(), "cut at {at}");
        // And once more, a bit later: it goes on from what went on.
        let again = Line::new(&made.bytes);
        let (result, _) = fuse::with(5, at, || install(&device.slots(), &made.image, &again));
        assert!(result.is_err() || device.is_verified());
        let last = Line::new(&made.bytes);
        install(&device.slots(), &made.image, &last).unwrap();
        fetched += last.read.get();
        assert_eq!(fs::read(device.at("dev/slot3")).unwrap(), made.rootfs, "cut at {at}");
        assert!(device.is_verified());
    }
    let cuts = calls.div_ceil(step);
    let share = fetched * 100 / (cuts * made.bytes.len() as u64);
    assert!(!resumes || share < 90, "{share} % of the artifact were fetched again");
}

#[test]
fn a_power_cut_at_any_write_is_taken_up() {
    cut_everywhere(&usual(4 * MIB, Encoding::Gzip(1)), 11, true);
    cut_everywhere(&usual(4 * MIB, Encoding::None), 19, true);
    cut_everywhere(&usual(18 * MIB, Encoding::Zstd(1)), 101, true);
    cut_everywhere(&usual(2 * MIB, Encoding::Xz(0)), 23, false);
}

#[test]
fn what_mender_s_own_tool_packs_is_installed_and_taken_up_too() {
    let folder = tempfile::tempdir().unwrap();
    let rootfs = noise(2 * MIB, 7);
    let (image, artifact) = (folder.path().join("rootfs.ext4"), folder.path().join("new.mender"));
    fs::write(&image, &rootfs).unwrap();
    for compression in ["gzip", "none", "lzma"] {
        Cmd::new("mender-artifact")
            .args(["write", "rootfs-image", "-n", "new", "-t", "board", "--compression", compression, "-f"])
            .arg(&image)
            .arg("-o")
            .arg(&artifact)
            .check()
            .expect("these tests need Debian's package mender-artifact; `make setup` installs it");
        let made = pinned(fs::read(&artifact).unwrap(), rootfs.clone());
        cut_everywhere(&made, 23, compression == "none");
    }
}

#[test]
fn an_artifact_that_is_not_what_was_pinned_is_refused() {
    let made_ = usual(MIB, Encoding::Gzip(1));
    let check = |bytes: &[u8], image: &Image, room: usize, expected: &str| {
        let device = Device::new(Loader::Grub, room);
        let error = install(&device.slots(), image, &Line::new(bytes)).unwrap_err();
        assert!(matches!(error, InstallError::Refused(_)), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(!device.is_verified());
        assert_eq!(device.state(), BootState::confirmed(Slot::A));
        let work = work(image);
        assert!(matches!(switch::switch(&device.paths, &work), Event::Failed(_)), "it never boots");
        assert_eq!(device.state(), BootState::confirmed(Slot::A));
    };
    // Every part of it is looked at, whatever byte is another one.
    for at in [0, 300, 700, 1600, 2200, 3000, made_.bytes.len() / 2, made_.bytes.len() - 2000] {
        let mut bytes = made_.bytes.clone();
        bytes[at] ^= 0x10;
        check(&bytes, &made_.image, MIB, "");
    }
    let other = Image { artifact: digest(b"other"), ..made_.image.clone() };
    check(&made_.bytes, &other, MIB, "volary.lock pins");
    let other = Image { rootfs: digest(b"other"), ..made_.image.clone() };
    check(&made_.bytes, &other, MIB, "not the one that volary.lock pins");
    check(&made_.bytes, &made_.image, MIB - 1, "slot b has 1048575");
    let foreign = made(made_.rootfs.clone(), Encoding::None, "toaster", None);
    check(&foreign.bytes, &foreign.image, MIB, "is for toaster");
    // One that was pinned as it is, and holds another root file system than its manifest says.
    let plain = usual(MIB, Encoding::None);
    let mut bytes = plain.bytes.clone();
    let at = bytes.len() - 20_000;
    bytes[at] ^= 1;
    check(&bytes, &Image { artifact: digest(&bytes), ..plain.image.clone() }, MIB, "reads back as");
    // More than was pinned is not read at all.
    let longer = [made_.bytes.as_slice(), &[0; 5000]].concat();
    let device = Device::new(Loader::Grub, MIB);
    install(&device.slots(), &made_.image, &Line::new(&longer)).unwrap();
}

#[test]
fn a_fleet_may_demand_the_artifact_s_own_signature() {
    let folder = tempfile::tempdir().unwrap();
    let pair = |name: &str| {
        let (private, public) = (folder.path().join(name), folder.path().join(format!("{name}.pub")));
        Cmd::new("openssl")
            .args(["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out"])
            .arg(&private)
            .check()
            .unwrap();
        Cmd::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(&private)
            .arg("-out")
            .arg(&public)
            .check()
            .unwrap();
        (PrivateKey::from_pem(&fs::read_to_string(private).unwrap()).unwrap(), fs::read(public).unwrap())
    };
    let ((ours, our_public), (theirs, _)) = (pair("ours"), pair("theirs"));
    let install_on = |made: &Made, keys: &[(&str, &[u8])]| {
        let device = Device::new(Loader::Grub, MIB);
        fs::create_dir_all(device.paths.artifact_keys()).unwrap();
        for (name, key) in keys {
            fs::write(device.paths.artifact_keys().join(name), key).unwrap();
        }
        install(&device.slots(), &made.image, &Line::new(&made.bytes))
    };
    let signed = |key| made(noise(MIB, 7), Encoding::Gzip(1), "board", key);
    let keys: [(&str, &[u8]); 1] = [("ours.pem", &our_public)];
    assert!(install_on(&signed(Some(&ours)), &keys).is_ok());
    assert!(matches!(install_on(&signed(Some(&theirs)), &keys), Err(InstallError::Refused(_))));
    assert!(matches!(install_on(&signed(None), &keys), Err(InstallError::Refused(_))));
    // A folder without a key in it is no permission.
    assert!(matches!(install_on(&signed(None), &[]), Err(InstallError::Slots(SlotsError::Key { .. }))));
}

fn work(image: &Image) -> Work {
    let commit = "1".repeat(40).parse().unwrap();
    Work {
        target: Target { stage: "canary".parse().unwrap(), commit, rolling: String::new() },
        scope: Scope::Full,
        started_at: jiff::Timestamp::UNIX_EPOCH,
        seen_at: jiff::Timestamp::UNIX_EPOCH,
        attempt: 1,
        urged: false,
        suite: None,
        committed_at: None,
        policy: Policy { carry: vec!["/srv/app/*.conf".into(), "/opt/key".into()], ..Policy::default() },
        image: Some(Box::new(image.clone())),
        checkpoint: Some("0000000001".into()),
        interruptions: 0,
        stuck: 0,
        changed_tasks: 0,
        packages: Default::default(),
    }
}

const LOADERS: [Loader; 3] = [Loader::Grub, Loader::UBoot, Loader::MenderGrub(MenderParts { a: 2, b: 3 })];

/// A device with a verified image, and the folder that stands for its mounted root.
fn ready(loader: Loader, made: &Made) -> Device {
    let device = Device::new(loader, made.rootfs.len());
    install(&device.slots(), &made.image, &Line::new(&made.bytes)).unwrap();
    let new = |path: &str, text: &str| device.put(&format!("run/volary/other-slot/{path}"), text.as_bytes());
    new("etc/volary/image.json", std::str::from_utf8(&image_json("new")).unwrap());
    new("etc/volary/slots.json", "of the new image");
    new("etc/hostname", "generic\n");
    new("etc/ssh/ssh_host_ed25519_key", "generic");
    device.put("etc/volary/agent.json", b"who it is");
    device.put("etc/machine-id", b"0123\n");
    device.put("etc/hostname", b"pump-7\n");
    device.put("etc/ssh/ssh_host_ed25519_key", b"its key");
    device.put("etc/ssh/sshd_config", b"of the old image");
    device.put("srv/app/a.conf", b"a");
    device.put("srv/app/a.log", b"not named");
    device
}

#[test]
fn what_must_survive_is_carried_and_the_other_slot_is_tried() {
    let made = usual(MIB, Encoding::Gzip(1));
    for loader in LOADERS {
        let device = ready(loader, &made);
        assert!(matches!(switch::switch(&device.paths, &work(&made.image)), Event::Done(_)), "{loader:?}");
        let there = |path: &str| {
            fs::read_to_string(device.at("run/volary/other-slot").join(path)).unwrap_or_default()
        };
        assert_eq!(there("etc/volary/agent.json"), "who it is");
        assert_eq!(there("etc/machine-id"), "0123\n");
        assert_eq!(there("etc/hostname"), "pump-7\n");
        assert_eq!(there("etc/ssh/ssh_host_ed25519_key"), "its key");
        assert_eq!(there("srv/app/a.conf"), "a");
        assert_eq!(there("etc/volary/slots.json"), "of the new image");
        assert_eq!(there("etc/volary/image.json"), String::from_utf8(image_json("new")).unwrap());
        assert_eq!(there("etc/ssh/sshd_config") + &there("srv/app/a.log"), "");
        assert_eq!(device.state(), BootState::on_trial(Slot::B));
        // A confirmed trial stays, one that is not goes back.
        assert_eq!(device.boot(), Slot::B);
        let seen = device.slots().seen().unwrap();
        assert_eq!((seen.slot, seen.other_is_next), (Slot::B, false));
        assert_eq!(device.boot(), Slot::A);
        device.slots().set(BootState::on_trial(Slot::B)).unwrap();
        assert_eq!(device.boot(), Slot::B);
        switch::commit(&device.paths).unwrap();
        assert_eq!((device.boot(), device.boot()), (Slot::B, Slot::B));
    }
}

#[test]
fn a_switch_that_is_cut_leaves_the_old_slot_or_a_trial_of_the_new_one() {
    let made = usual(MIB, Encoding::None);
    for loader in LOADERS {
        let device = ready(loader, &made);
        let (_, calls) = fuse::with(u64::MAX, 0, || switch::switch(&device.paths, &work(&made.image)));
        assert!(calls >= 3, "{calls}");
        for at in 0..calls {
            for seed in 0..4 {
                let device = ready(loader, &made);
                fuse::with(at, seed * 1000 + at, || switch::switch(&device.paths, &work(&made.image)));
                let state = device.state();
                let fine = [BootState::confirmed(Slot::A), BootState::on_trial(Slot::B)];
                assert!(fine.contains(&state), "{loader:?} cut at {at}: {state:?}");
                // It is done again, from what is there.
                let again = switch::switch(&device.paths, &work(&made.image));
                assert!(matches!(again, Event::Done(_)), "{loader:?} cut at {at}: {again:?}");
                assert_eq!(device.state(), BootState::on_trial(Slot::B));
            }
        }
    }
}

#[test]
fn an_undo_leads_to_the_slot_of_its_checkpoint_wherever_it_is_cut() {
    let made = usual(MIB, Encoding::None);
    for loader in LOADERS {
        let device = ready(loader, &made);
        switch::switch(&device.paths, &work(&made.image));
        assert_eq!(device.boot(), Slot::B);
        let (way, calls) = fuse::with(u64::MAX, 0, || switch::go_back(&device.paths, Some(Slot::A)));
        assert_eq!(way.unwrap(), Way::Elsewhere);
        assert_eq!(device.state(), BootState::confirmed(Slot::A));
        for at in 0..calls {
            let begun = BootState { slot: Slot::B, trial: Some(Trial::Begun) };
            device.slots().set(begun).unwrap();
            let (way, _) = fuse::with(at, at, || switch::go_back(&device.paths, Some(Slot::A)));
            assert!(way.is_err());
            // Whichever of the two it says, the next boot is that of the old slot.
            assert_eq!(device.state().at_boot(), BootState::confirmed(Slot::A), "{loader:?} cut at {at}");
        }
        device.put("proc/cmdline", b"volary.slot=a");
        assert_eq!(switch::go_back(&device.paths, Some(Slot::A)).unwrap(), Way::Here);
        assert_eq!(switch::go_back(&device.paths, None).unwrap(), Way::Here);
    }
}

#[test]
fn an_image_that_calls_itself_otherwise_is_not_booted() {
    let made = usual(MIB, Encoding::None);
    let device = ready(Loader::Grub, &made);
    device.put("run/volary/other-slot/etc/volary/image.json", &image_json("newer"));
    let Event::Failed(failure) = switch::switch(&device.paths, &work(&made.image)) else { panic!() };
    assert!(failure.message.contains("image newer for board"), "{failure}");
    assert_eq!(device.state(), BootState::confirmed(Slot::A));
}

#[test]
fn a_slot_that_was_changed_is_written_anew() {
    let made = usual(MIB, Encoding::Gzip(1));
    let device = ready(Loader::Grub, &made);
    switch::switch(&device.paths, &work(&made.image));
    device.put("dev/slot3", &[&made.rootfs[..MIB / 2], &[1; MIB / 2]].concat());
    // It ran and failed: the boot loader is back in slot A.
    assert_eq!((device.boot(), device.boot()), (Slot::B, Slot::A));
    let installed = install(&device.slots(), &made.image, &Line::new(&made.bytes)).unwrap();
    assert!(
        installed.written as usize >= MIB / 2 && installed.written as usize <= MIB * 5 / 8,
        "{installed:?}"
    );
    assert_eq!(fs::read(device.at("dev/slot3")).unwrap(), made.rootfs);
}

#[test]
fn a_pending_trial_is_taken_back_before_the_slot_is_written() {
    let made = usual(MIB, Encoding::Gzip(1));
    let device = Device::new(Loader::Grub, MIB);
    device.slots().set(BootState::on_trial(Slot::B)).unwrap();
    let line = Line::new(&made.bytes);
    line.breaks.replace(vec![0; 10]);
    install(&device.slots(), &made.image, &line).unwrap_err();
    assert_eq!(device.state(), BootState::confirmed(Slot::A));
}

#[test]
fn a_boot_state_that_is_damaged_or_lost_is_mended() {
    for loader in LOADERS {
        let device = Device::new(loader, MIB);
        let slots = device.slots();
        slots.set(BootState { slot: Slot::A, trial: Some(Trial::Begun) }).unwrap();
        let place = |area: &volary_boot::Area| match area.place {
            Place::Offset(at) => ("dev/bootenv".to_owned(), at as usize),
            Place::File(file) => (format!("boot/efi/grub-mender-grubenv/{file}"), 0),
        };
        let places: Vec<(String, usize)> = loader.areas().iter().map(place).collect();
        let damage = |which: &[(String, usize)]| {
            for (file, at) in which {
                let mut bytes = fs::read(device.at(file)).unwrap();
                bytes[*at..*at + 32].fill(0xEE);
                device.put(file, &bytes);
            }
        };
        damage(&places[places.len() - 1..]);
        assert!(!slots.boot_state().unwrap().damaged.is_empty());
        slots.mend().unwrap();
        let found = slots.boot_state().unwrap();
        assert_eq!((found.state.trial, found.damaged.len()), (Some(Trial::Begun), 0), "a trial stays one");
        damage(&places);
        assert!(matches!(slots.boot_state(), Err(SlotsError::Lost { .. })));
        slots.mend().unwrap();
        assert_eq!(device.state(), BootState::confirmed(Slot::A));
    }
}

#[test]
fn files_of_the_image_that_make_no_sense_are_told() {
    let check = |path: &str, text: &str, expected: &str| {
        let device = Device::new(Loader::Grub, MIB);
        device.put(path, text.as_bytes());
        let error = Slots::open(&device.paths).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(switch::running(&device.paths), None);
    };
    check("etc/volary/slots.json", "{}", "slots.json: missing field");
    check("etc/volary/image.json", r#"{"version": 2, "device_type": "board", "name": "x"}"#, "version 2");
    check("etc/volary/image.json", r#"{"version": 1, "device_type": "board", "nom": "x"}"#, "unknown field");
    check("proc/cmdline", "quiet", "neither /dev/slot2 nor /dev/slot3");
    let device = Device::new(Loader::Grub, MIB);
    fs::remove_file(device.paths.image()).unwrap();
    assert!(matches!(Slots::open(&device.paths), Err(SlotsError::NoImage(..))));
    fs::remove_file(device.paths.slots()).unwrap();
    assert!(Slots::open(&device.paths).unwrap().is_none());
}

/// A root file system and its successor: a few blocks differ, a few moved.
fn generations() -> (Vec<u8>, Vec<u8>) {
    let old = noise(2 * MIB, 3);
    let mut new = old.clone();
    new[300_000..300_500].fill(7);
    new[MIB..MIB + 8192].copy_from_slice(&noise(8192, 5));
    new.copy_within(0..65_536, MIB + 262_144);
    (old, new)
}

/// An artifact without scripts, with its block file and the pair from `old` beside it.
fn with_blocks(old: &Path, rootfs: Vec<u8>) -> (Made, BTreeMap<String, Vec<u8>>) {
    let source = Source::new("rootfs.ext4", rootfs.len() as u64, rootfs.as_slice());
    let draft = Draft {
        name: "new".into(),
        depends: Depends { device_types: vec!["board".into()], ..Depends::default() },
        payloads: vec![PayloadDraft::rootfs_image("new", source)],
        ..Draft::default()
    };
    let mut output = Cursor::new(Vec::new());
    let options = WriteOptions { encoding: Encoding::Gzip(1), key: None, threads: 1 };
    write(&mut output, draft, &options).unwrap();
    let mut blocks = Cursor::new(Vec::new());
    volary_artifact::blocks::write_blocks(rootfs.as_slice(), rootfs.len() as u64, &mut blocks, 3, 1).unwrap();
    let new = old.with_extension("new");
    fs::write(&new, &rootfs).unwrap();
    let (old_file, new_file) = (fs::File::open(old).unwrap(), fs::File::open(new).unwrap());
    let mut pair = Vec::new();
    volary_artifact::blocks::write_pair(&old_file, &new_file, &mut pair, 10).unwrap();
    let from = format!(".from-{}", digest(&fs::read(old).unwrap()).hex());
    let beside = [(".blocks".to_owned(), blocks.into_inner()), (from, pair)].into();
    (pinned(output.into_inner(), rootfs), beside)
}

#[test]
fn only_what_the_device_lacks_is_fetched() {
    let (old, new) = generations();
    let device = Device::new(Loader::Grub, 2 * MIB);
    device.put("dev/slot2", &old);
    let (made, beside) = with_blocks(&device.at("dev/slot2"), new);
    let fetched = |device: &Device, beside: &BTreeMap<String, Vec<u8>>| {
        device.put("dev/slot3", &vec![0; 2 * MIB]);
        let _ = fs::remove_file(device.paths.slots_state().join("install.json"));
        let mut line = Line::new(&made.bytes);
        line.beside = beside.clone();
        let installed = install(&device.slots(), &made.image, &line).unwrap();
        assert_eq!(installed.length, made.rootfs.len() as u64);
        assert_eq!(fs::read(device.at("dev/slot3")).unwrap(), made.rootfs);
        assert!(device.is_verified());
        (line.read.get(), line.asked.borrow().iter().any(|name| name.starts_with(".from-")))
    };
    let whole = made.bytes.len() as u64;
    let (blocks, asked) = fetched(&device, &beside);
    assert!(blocks < 150_000 && !asked, "{blocks} of {whole}: nobody knows what this slot was made of");
    // Once it is known what was put into the slot that runs, the pair is smaller still.
    device.put(
        "var/lib/volary/slots/rootfs.a",
        digest(&fs::read(device.at("dev/slot2")).unwrap()).to_string().as_bytes(),
    );
    let (pair, asked) = fetched(&device, &beside);
    assert!(pair < blocks && asked, "{pair}, and {blocks} with blocks");
    // A device that is not quite what the pair was made for takes the rest from the block file.
    let mut changed = old.clone();
    changed[500_000] ^= 1;
    device.put("dev/slot2", &changed);
    let (rest, _) = fetched(&device, &beside);
    assert!(rest < 400_000, "{rest}");
    // Without these files, or with broken ones, the whole artifact does it.
    let broken = beside.keys().map(|name| (name.clone(), vec![0x55; 5000])).collect();
    for beside in [BTreeMap::new(), broken] {
        assert!(fetched(&device, &beside).0 >= whole, "{:?}", beside.keys());
    }
}

#[test]
fn blocks_that_were_fetched_before_a_power_cut_are_not_fetched_again() {
    let (old, new) = generations();
    let device = Device::new(Loader::Grub, 2 * MIB);
    device.put("dev/slot2", &old);
    let (made, beside) = with_blocks(&device.at("dev/slot2"), new);
    let run = |device: &Device| {
        let mut line = Line::new(&made.bytes);
        line.beside = beside.clone();
        let result = install(&device.slots(), &made.image, &line);
        (result, line.read.get())
    };
    let (_, calls) = fuse::with(u64::MAX, 0, || run(&device));
    assert!(calls > 6, "{calls}");
    for at in (0..calls).step_by(3) {
        let device = Device::new(Loader::Grub, 2 * MIB);
        device.put("dev/slot2", &old);
        let ((result, _), _) = fuse::with(at, at * 17 + 3, || run(&device));
        assert!(result.is_err(), "cut at {at}");
        assert!(!device.is_verified());
        let (result, read) = run(&device);
        result.unwrap();
        assert!(read < 160_000, "cut at {at}: {read}");
        assert_eq!(fs::read(device.at("dev/slot3")).unwrap(), made.rootfs, "cut at {at}");
    }
}

#[test]
fn scripts_are_taken_from_the_front_of_an_artifact_only_if_its_manifest_is_pinned() {
    let mut made_ = usual(MIB, Encoding::Gzip(1));
    let device = Device::new(Loader::Grub, MIB);
    device.put("dev/slot2", &made_.rootfs);
    let mut blocks = Cursor::new(Vec::new());
    volary_artifact::blocks::write_blocks(made_.rootfs.as_slice(), MIB as u64, &mut blocks, 3, 1).unwrap();
    let beside: BTreeMap<_, _> = [(".blocks".to_owned(), blocks.into_inner())].into();
    let pinned = made_.image.manifest;
    for (manifest, whole) in [(pinned, false), (None, true)] {
        made_.image.manifest = manifest;
        let _ = fs::remove_file(device.paths.slots_state().join("install.json"));
        let line = Line { beside: beside.clone(), ..Line::new(&made_.bytes) };
        install(&device.slots(), &made_.image, &line).unwrap();
        assert_eq!(line.read.get() >= made_.image.size, whole, "{manifest:?}");
    }
    // A server that gives other scripts to those who do not read all.
    made_.image.manifest = Some(digest(b"another"));
    let _ = fs::remove_file(device.paths.slots_state().join("install.json"));
    let line = Line { beside, ..Line::new(&made_.bytes) };
    let error = install(&device.slots(), &made_.image, &line).unwrap_err().to_string();
    assert!(error.contains("the artifact's manifest has the digest"), "{error}");
}
