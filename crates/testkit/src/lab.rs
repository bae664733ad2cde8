//! A network of devices on this machine, which is gone when its owner is gone.
//!
//! Everything of lab number N carries the number: the folder `N` in the cache, the bridge `vlyN`
//! with the network 10.77.N.0/24, the control group `volary-lab-N`, and in `/run/volary-lab`, since
//! two caches share one machine, `N.lock` and `N.folder`, which says where the folder is. The lock
//! is held for as long as the owner lives, so whoever can take it may clear away what a killed
//! owner left. A guardian process waits for the lock too and does that at once.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use volary_host::{Cmd, CmdError, Lock, LockError, create_dir, write_atomic};

use crate::{Cache, Device, DeviceOptions, LabError, Meter, Process, Root, cgroup};

/// Where the locks of all labs of this machine are.
const LOCKS: &str = "/run/volary-lab";

const CLEAN: &str = include_str!("scripts/lab-clean.sh");

/// The highest number of a lab; it is the third byte of the network.
const LAST: u8 = 250;

/// The last byte of the first device's address; below is room for this machine's own.
const FIRST_ADDRESS: u8 = 11;

/// A running lab. Dropping it ends every device and process in it and removes their disks.
#[derive(Debug)]
pub struct Lab {
    number: u8,
    place: Place,
    guardian: Child,
    devices: Mutex<BTreeMap<String, Ipv4Addr>>,
    processes: Mutex<u32>,
    // Last: it is released after everything else is gone.
    _lock: Lock,
}

/// Where the parts of one lab are.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) bridge: String,
    pub(crate) cgroup: PathBuf,
    pub(crate) cgroup_root: PathBuf,
}

impl Place {
    fn new(folder: PathBuf, number: u8) -> Result<Self, LabError> {
        let cgroup_root = cgroup::mount_point()?;
        Ok(Self {
            folder,
            bridge: format!("vly{number}"),
            cgroup: cgroup_root.join(format!("volary-lab-{number}")),
            cgroup_root,
        })
    }

    fn clean_args(&self) -> [&Path; 3] {
        [&self.cgroup, Path::new(&self.bridge), &self.folder]
    }

    fn clean(&self) -> Result<(), CmdError> {
        let clean = Cmd::new("sh").args(["-c", CLEAN, "lab-clean"]).args(self.clean_args());
        clean.timeout(Duration::from_secs(120)).check().map(drop)
    }
}

impl Lab {
    /// Opens a lab on the first free network, after clearing away what killed runs left behind.
    ///
    /// # Errors
    /// [`LabError::NoNetwork`] if all are taken, [`LabError::NoCgroup`], or what failed.
    pub fn open(cache: &Cache) -> Result<Self, LabError> {
        Self::cleanup_stale(cache)?;
        let taken = Cmd::new("ip").args(["-4", "-oneline", "address"]).check()?.text();
        for number in 1..=LAST {
            if taken.contains(&format!(" 10.77.{number}.")) {
                continue;
            }
            match Lock::acquire(&lock_path(number), Duration::ZERO) {
                Ok(lock) => return Self::set_up(cache, number, lock),
                Err(LockError::Held(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(LabError::NoNetwork)
    }

    fn set_up(cache: &Cache, number: u8, lock: Lock) -> Result<Self, LabError> {
        let place = Place::new(cache.labs().join(number.to_string()), number)?;
        write_atomic(&folder_path(number), place.folder.as_os_str().as_encoded_bytes(), 0o644)?;
        create_dir(&place.folder.join("devices"))?;
        create_dir(&place.folder.join("logs"))?;
        create_dir(&place.cgroup.join("launch"))?;
        let mut guardian = Cmd::new("setsid")
            .arg("flock")
            .arg(lock_path(number))
            .args(["sh", "-c", CLEAN, "lab-clean"])
            .args(place.clean_args())
            .cwd("/")
            .into_std();
        let guardian = guardian
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|source| CmdError::Start { program: "setsid flock".to_owned(), source })?;
        // From here on dropping the lab undoes everything.
        let lab = Self {
            number,
            place,
            guardian,
            devices: Mutex::default(),
            processes: Mutex::new(0),
            _lock: lock,
        };
        let bridge = &lab.place.bridge;
        Cmd::new("ip").args(["link", "add", bridge, "type", "bridge"]).check()?;
        let address = format!("{}/24", lab.host_address());
        Cmd::new("ip").args(["address", "add", &address, "dev", bridge]).check()?;
        Cmd::new("ip").args(["link", "set", bridge, "up"]).check()?;
        Ok(lab)
    }

    /// Takes down every lab whose owner is gone: containers, bridges, disks.
    ///
    /// # Errors
    /// [`LabError::Clean`] if something cannot be removed.
    pub fn cleanup_stale(cache: &Cache) -> Result<(), LabError> {
        create_dir(Path::new(LOCKS))?;
        for number in 1..=LAST {
            // After a reboot there is nothing but the folder.
            let here = cache.labs().join(number.to_string());
            let folder = match volary_host::read_to_string(&folder_path(number)) {
                Ok(folder) => PathBuf::from(folder),
                Err(_) if here.exists() => here,
                Err(_) => continue,
            };
            // A lab whose lock is held lives, or its guardian is at work.
            let Ok(_lock) = Lock::acquire(&lock_path(number), Duration::ZERO) else { continue };
            let place = Place::new(folder, number)?;
            let bridge = Path::new("/sys/class/net").join(&place.bridge);
            if place.folder.exists() || place.cgroup.exists() || bridge.exists() {
                place.clean().map_err(|source| LabError::Clean { number, source })?;
            }
            volary_host::remove_if_exists(&folder_path(number))?;
        }
        Ok(())
    }

    /// A handle that takes the lab down from another thread, for a program that is interrupted.
    pub fn breaker(&self) -> Breaker {
        Breaker { number: self.number, place: self.place.clone() }
    }

    /// This machine's address on the lab's network: what devices call the server.
    pub fn host_address(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }

    /// A folder that is removed with the lab.
    pub fn folder(&self) -> &Path {
        &self.place.folder
    }

    /// Makes a device on top of `root` and boots it. Devices may be started from several
    /// threads at once.
    ///
    /// # Errors
    /// [`LabError::Boot`] with the reason, [`LabError::Twice`], [`LabError::Full`].
    pub fn start_device(&self, name: &str, root: &Root, options: DeviceOptions) -> Result<Device, LabError> {
        let address = self.new_address(name)?;
        // Short, since systemd-nspawn makes the name of a network interface of it: at most 15 bytes.
        let machine = format!("vly{}d{}", self.number, address.octets()[3]);
        let device = Device::new(&self.place, name, machine, root, (address, self.host_address()), &options)?;
        device.start()?;
        Ok(device)
    }

    /// Starts several devices with the same root at once; they come back in the order of `names`.
    ///
    /// # Errors
    /// The first that did not start; the others are ended.
    pub fn start_devices(
        &self,
        names: &[&str],
        root: &Root,
        options: &DeviceOptions,
    ) -> Result<Vec<Device>, LabError> {
        std::thread::scope(|scope| {
            let start = |name| scope.spawn(move || self.start_device(name, root, options.clone()));
            let started: Vec<_> = names.iter().copied().map(start).collect();
            started
                .into_iter()
                .map(|thread| thread.join().expect("starting a device does not panic"))
                .collect()
        })
    }

    /// Starts a program of this machine that ends with the lab, whatever it starts itself.
    ///
    /// # Errors
    /// That it cannot be started.
    pub fn start_process(
        &self,
        what: &str,
        program: &Path,
        args: &[&str],
        env: &[(&str, &str)],
        log: &Path,
    ) -> Result<Process, LabError> {
        let number = {
            let mut count = self.processes.lock().unwrap_or_else(PoisonError::into_inner);
            *count += 1;
            *count
        };
        let group = self.place.cgroup.join(format!("process-{number}"));
        Process::start(what, group, program, args, env, log)
    }

    /// Something to measure commands with; `name` is unique in the lab.
    ///
    /// # Errors
    /// That the control group cannot be made.
    pub fn meter(&self, name: &str) -> Result<Meter, LabError> {
        Meter::new(self.place.cgroup.join(format!("meter-{name}")))
    }

    fn new_address(&self, name: &str) -> Result<Ipv4Addr, LabError> {
        let mut devices = self.devices.lock().unwrap_or_else(PoisonError::into_inner);
        if devices.contains_key(name) {
            return Err(LabError::Twice(name.to_owned()));
        }
        let host = u8::try_from(devices.len())
            .ok()
            .and_then(|count| count.checked_add(FIRST_ADDRESS))
            .filter(|&host| host < FIRST_ADDRESS + 200)
            .ok_or_else(|| LabError::Full(name.to_owned()))?;
        let address = Ipv4Addr::new(10, 77, self.number, host);
        devices.insert(name.to_owned(), address);
        Ok(address)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next run. The lock is still held, so the
        // guardian has not begun and is not needed any more.
        if self.place.clean().is_ok() {
            let _ = volary_host::remove_if_exists(&folder_path(self.number));
        }
        let _ = self.guardian.kill();
        let _ = self.guardian.wait();
    }
}

/// Takes a lab down while its owner is busy elsewhere. What the owner does meanwhile fails.
#[derive(Debug, Clone)]
pub struct Breaker {
    number: u8,
    place: Place,
}

impl Breaker {
    /// Ends every device and process of the lab and removes their disks.
    ///
    /// # Errors
    /// [`LabError::Clean`] if something cannot be removed.
    pub fn take_down(&self) -> Result<(), LabError> {
        self.place.clean().map_err(|source| LabError::Clean { number: self.number, source })
    }
}

fn lock_path(number: u8) -> PathBuf {
    Path::new(LOCKS).join(format!("{number}.lock"))
}

fn folder_path(number: u8) -> PathBuf {
    Path::new(LOCKS).join(format!("{number}.folder"))
}
