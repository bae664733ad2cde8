//! One device: a container with systemd as PID 1 on an overlay that outlives stop and power cut.

use std::fs::{self, File, Permissions};
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sha2::{Digest, Sha256};
use volary_host::{Cmd, CmdError, FileError, Output, create_dir, tail, write_atomic};

use crate::lab::Place;
use crate::{Cost, LabError, Root, cgroup, cost, wait_until};

const LAUNCH: &str = include_str!("scripts/lab-device.sh");

/// How long a boot may take on a busy machine. It takes less than a second on an idle one.
const BOOT: Duration = Duration::from_secs(120);

/// How long an orderly power-off may take: more than systemd gives a service to end.
const POWER_OFF: Duration = Duration::from_secs(120);

/// What a device is given before its first boot.
#[derive(Debug, Clone, Default)]
pub struct DeviceOptions {
    /// Further names in `/etc/hosts` for the lab's host beside `volary.test`.
    pub host_names: Vec<String>,
    /// Files by absolute path: content and permission bits.
    pub files: Vec<(PathBuf, Vec<u8>, u32)>,
    /// A disk of its own with so many MiB, that can be filled; this machine's otherwise.
    pub disk: Option<u64>,
}

/// A device. Dropping it cuts its power; its disk stays until the lab ends.
#[derive(Debug)]
pub struct Device {
    name: String,
    machine: String,
    address: Ipv4Addr,
    place: Place,
    root: Root,
    launcher: Mutex<Option<Child>>,
}

impl Device {
    /// Makes its disk. `addresses` are its own and the host's.
    pub(crate) fn new(
        place: &Place,
        name: &str,
        machine: String,
        root: &Root,
        addresses: (Ipv4Addr, Ipv4Addr),
        options: &DeviceOptions,
    ) -> Result<Self, LabError> {
        let device = Self {
            name: name.to_owned(),
            machine,
            address: addresses.0,
            place: place.clone(),
            root: root.clone(),
            launcher: Mutex::new(None),
        };
        let upper = device.folder().join("upper");
        create_dir(&device.folder().join("work"))?;
        if let Some(size) = options.disk {
            device.make_disk(size)?;
        }
        device.make_parents(Path::new("/x"))?;
        debug_assert!(upper.is_dir());
        let names = options.host_names.join(" ");
        let hosts = format!("127.0.0.1 localhost {name}\n{} volary.test {names}\n", addresses.1);
        // A machine id of its own: with an empty one systemd would take this for a first boot and
        // reset what is enabled. Unique by the lab's folder and the name.
        let id = Sha256::digest(format!("{} {name}", place.folder.display()));
        let id: String = id[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        device.seed(Path::new("/etc/hosts"), hosts.as_bytes(), 0o644)?;
        device.seed(Path::new("/etc/hostname"), format!("{name}\n").as_bytes(), 0o644)?;
        device.seed(Path::new("/etc/machine-id"), format!("{id}\n").as_bytes(), 0o444)?;
        let network = format!("ADDRESS={}/24\n", addresses.0);
        device.seed(Path::new("/etc/lab-network"), network.as_bytes(), 0o644)?;
        for (path, bytes, mode) in &options.files {
            device.seed(path, bytes, *mode)?;
        }
        Ok(device)
    }

    /// Its name, which is also its host name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the lab's network.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Switches it on and waits until systemd has done its work. A failed unit is no error: see
    /// [`Device::failed_units`]. Does nothing if it runs.
    ///
    /// # Errors
    /// [`LabError::Boot`] with what systemd waits for.
    pub fn start(&self) -> Result<(), LabError> {
        {
            let mut launcher = self.launcher();
            if launcher.is_none() {
                *launcher = Some(self.launch()?);
            }
        }
        self.wait_for_boot()
    }

    /// Waits until systemd says that the boot is over, also after a reboot from inside.
    ///
    /// # Errors
    /// [`LabError::Boot`] with what systemd waits for.
    pub fn wait_for_boot(&self) -> Result<(), LabError> {
        let booted = wait_until("boot", BOOT, || {
            let output = self.exec(&["systemctl", "is-system-running"]).map_err(|error| error.to_string())?;
            match output.text().trim() {
                "running" | "degraded" => Ok(()),
                state => Err(state.to_owned()),
            }
        });
        booted.map_err(|error| {
            let ask = |args: &[&str]| self.exec(args).map(|output| output.text()).unwrap_or_default();
            let failed = ask(&["systemctl", "--failed", "--no-legend", "--plain"]);
            let jobs = ask(&["systemctl", "list-jobs", "--no-legend", "--plain"]);
            let console = volary_host::read(&self.console()).unwrap_or_default();
            LabError::Boot {
                device: self.name.clone(),
                timeout: BOOT,
                state: format!("{error}; failed units: {}; waiting jobs: {}", failed.trim(), jobs.trim()),
                console: tail(&console, 20),
            }
        })
    }

    /// The names of units that failed.
    ///
    /// # Errors
    /// [`LabError::NotRunning`].
    pub fn failed_units(&self) -> Result<Vec<String>, LabError> {
        let units = self.check(&["systemctl", "--failed", "--no-legend", "--plain"])?;
        Ok(units.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect())
    }

    /// Shuts it down in order; its disk stays for the next [`Device::start`].
    ///
    /// # Errors
    /// [`LabError::Waited`] if it does not power off; it is then switched off hard.
    pub fn stop(&self) -> Result<(), LabError> {
        let mut launcher = self.launcher();
        let Some(child) = launcher.as_mut() else { return Ok(()) };
        for supervisor in cgroup::processes(&self.cgroup().join("supervisor")) {
            // systemd-nspawn passes this on as the signal that asks systemd to power off.
            let _ = kill_process(supervisor, Signal::TERM);
        }
        let ended = wait_until(&format!("{} to power off", self.name), POWER_OFF, || {
            if matches!(child.try_wait(), Ok(None)) { Err("it still runs".to_owned()) } else { Ok(()) }
        });
        let killed = cgroup::kill(&self.cgroup());
        let _ = child.wait();
        *launcher = None;
        ended.and(killed)
    }

    /// Cuts its power: every process ends at once and nothing is said to anybody.
    ///
    /// # Errors
    /// [`LabError::Waited`] if the kernel does not let a process go.
    pub fn kill(&self) -> Result<(), LabError> {
        let mut launcher = self.launcher();
        let Some(mut child) = launcher.take() else { return Ok(()) };
        cgroup::kill(&self.cgroup())?;
        // The launcher sees its child end and ends too, unless it was just between two.
        if matches!(child.try_wait(), Ok(None)) {
            let ended = wait_until("launcher", Duration::from_secs(2), || match child.try_wait() {
                Ok(None) => Err("it runs".to_owned()),
                _ => Ok(()),
            });
            if ended.is_err() {
                let _ = child.kill();
                let _ = child.wait();
                cgroup::kill(&self.cgroup())?;
            }
        }
        Ok(())
    }

    /// A command that runs inside the device, as root, with a clean environment; for callers that
    /// want another time limit, standard input, or lines as they come.
    ///
    /// # Errors
    /// [`LabError::NotRunning`].
    pub fn command(&self, args: &[&str]) -> Result<Cmd, LabError> {
        let init = self.init().ok_or_else(|| LabError::NotRunning(self.name.clone()))?;
        let group = self.cgroup().join("exec");
        create_dir(&group)?;
        // Its own group beside systemd's, so that a power cut ends it too.
        let command = Cmd::new("sh")
            .args(["-c", "echo $$ > \"$0/cgroup.procs\" && exec \"$@\""])
            .arg(group)
            .args(["nsenter", "--target", &init.as_raw_nonzero().to_string(), "--all", "/usr/bin/env", "-i"])
            .args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb"])
            .arg("DEBIAN_FRONTEND=noninteractive")
            .args(args);
        Ok(command.timeout(Duration::from_secs(300)))
    }

    /// Runs a program inside and gives what it said, whatever its exit status; five minutes at
    /// most.
    ///
    /// # Errors
    /// [`LabError::NotRunning`], or that it took too long.
    pub fn exec(&self, args: &[&str]) -> Result<Output, LabError> {
        Ok(self.command(args)?.run()?)
    }

    /// Runs a program inside that must succeed, and gives its standard output.
    ///
    /// # Errors
    /// As [`Device::exec`], and that it failed, with the end of what it said.
    pub fn check(&self, args: &[&str]) -> Result<String, LabError> {
        let checked = self.command(args)?.check();
        Ok(checked.map_err(|error| self.named(args, error))?.text())
    }

    /// Runs a program inside that must succeed, and says what it cost, with all it started itself.
    /// Nothing else must be run in the device meanwhile.
    ///
    /// # Errors
    /// As [`Device::check`].
    pub fn measure(&self, args: &[&str]) -> Result<(Output, Cost), LabError> {
        let command = self.command(args)?;
        let group = self.cgroup().join("exec");
        let before = cost::cpu(&group)?;
        let output = command.check().map_err(|error| self.named(args, error))?;
        let cost = Cost { cpu: cost::cpu(&group)?.saturating_sub(before), wall: output.elapsed };
        Ok((output, cost))
    }

    /// Copies a file of this machine into the device.
    ///
    /// # Errors
    /// That the file cannot be read or written.
    pub fn copy_in(&self, source: &Path, dest: &str, mode: u32) -> Result<(), LabError> {
        self.write(dest, &volary_host::read(source)?, mode)
    }

    /// Writes a file in the device, with the folders above it.
    ///
    /// # Errors
    /// That it cannot be written.
    pub fn write(&self, dest: &str, bytes: &[u8], mode: u32) -> Result<(), LabError> {
        let script = "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0.new\" && chmod \"$1\" \"$0.new\" && mv \"$0.new\" \"$0\"";
        self.command(&["sh", "-c", script, dest, &format!("{mode:o}")])?.stdin(bytes).check()?;
        Ok(())
    }

    /// Reads a file of the device.
    ///
    /// # Errors
    /// That it cannot be read.
    pub fn read(&self, path: &str) -> Result<Vec<u8>, LabError> {
        Ok(self.command(&["cat", "--", path])?.check()?.stdout)
    }

    /// Looks at the device until `look` gives `Ok`; what it gave last stands in the error.
    ///
    /// # Errors
    /// [`LabError::Waited`] after `timeout`.
    pub fn wait_until<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut look: impl FnMut(&Self) -> Result<T, String>,
    ) -> Result<T, LabError> {
        wait_until(&format!("{what} on {}", self.name), timeout, || look(self))
    }

    /// As [`Device::measure`], with what the device's own services did meanwhile.
    ///
    /// # Errors
    /// As [`Device::check`].
    pub fn measure_whole(&self, args: &[&str]) -> Result<(Output, Duration), LabError> {
        let before = self.cpu()?;
        let (output, cost) = self.measure(args)?;
        Ok((output, cost.cpu + self.cpu()? - before))
    }

    /// The processor time of all that systemd runs on the device, without what [`Device::exec`] does.
    ///
    /// # Errors
    /// That it does not run.
    pub fn cpu(&self) -> Result<Duration, LabError> {
        cost::cpu(&self.cgroup().join("payload"))
    }

    /// The processor time of a unit that runs, such as `system.slice/x.service`, with all it started.
    ///
    /// # Errors
    /// That it does not run.
    pub fn unit_cpu(&self, unit: &str) -> Result<Duration, LabError> {
        cost::cpu(&self.cgroup().join("payload").join(unit))
    }

    /// Bytes of all frames that the device's network card sent and received, with every header.
    ///
    /// # Errors
    /// That it does not run.
    pub fn wire_bytes(&self) -> Result<u64, LabError> {
        // The other end of its cable, as systemd-nspawn names it: reading it costs the device nothing.
        let cable = format!("/sys/class/net/vb-{}/statistics", self.machine);
        let count = |counter: &str| -> Result<u64, LabError> {
            let path = Path::new(&cable).join(counter);
            let text = volary_host::read_to_string(&path)?;
            let strange = |_| FileError::at("understand", &path)(std::io::Error::other("it is no number"));
            Ok(text.trim().parse().map_err(strange)?)
        };
        Ok(count("rx_bytes")? + count("tx_bytes")?)
    }

    /// A process of the device as this machine numbers it.
    ///
    /// # Errors
    /// That it does not run.
    pub fn pid_outside(&self, unit: &str) -> Result<u32, LabError> {
        let group = self.cgroup().join("payload").join(unit);
        let first = cgroup::processes(&group).into_iter().next();
        let first = first.ok_or_else(|| LabError::NotRunning(format!("{unit} of {}", self.name)))?;
        Ok(first.as_raw_nonzero().get().unsigned_abs())
    }

    /// The log of its console.
    pub fn console(&self) -> PathBuf {
        self.folder().join("console.log")
    }

    fn launch(&self) -> Result<Child, LabError> {
        let console = self.console();
        let output = File::options()
            .create(true)
            .append(true)
            .open(&console)
            .and_then(|file| Ok((file.try_clone()?, file)))
            .map_err(FileError::at("write", &console))?;
        let mut command = Cmd::new("unshare")
            .args(["--mount", "--propagation", "private", "--", "setsid", "sh", "-c", LAUNCH, "lab-device"])
            .args([&self.place.cgroup, &self.place.cgroup_root])
            .arg(&self.name)
            .args([self.root.path(), &self.folder()])
            .args([&self.machine, &self.place.bridge])
            .cwd("/")
            .into_std();
        let child = command.stdin(Stdio::null()).stdout(output.0).stderr(output.1).spawn();
        Ok(child.map_err(|source| CmdError::Start { program: "unshare".to_owned(), source })?)
    }

    /// The device's PID 1 as this machine numbers it.
    fn init(&self) -> Option<Pid> {
        cgroup::init_below(&cgroup::processes(&self.cgroup().join("supervisor")))
    }

    fn named(&self, args: &[&str], error: CmdError) -> CmdError {
        match error {
            CmdError::Failed { status, tail, .. } => {
                CmdError::Failed { command: format!("[{}] {}", self.name, args.join(" ")), status, tail }
            }
            other => other,
        }
    }

    fn launcher(&self) -> MutexGuard<'_, Option<Child>> {
        self.launcher.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn folder(&self) -> PathBuf {
        self.place.folder.join("devices").join(&self.name)
    }

    fn cgroup(&self) -> PathBuf {
        self.place.cgroup.join(&self.name)
    }

    /// A file with an empty file system that the device's launcher mounts.
    fn make_disk(&self, size: u64) -> Result<(), LabError> {
        let image = self.folder().join("disk.img");
        let made = File::create(&image).and_then(|file| file.set_len(size << 20));
        made.map_err(FileError::at("write", &image))?;
        Cmd::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&image).check()?;
        Ok(())
    }

    /// Puts a file on the disk before the device runs.
    fn seed(&self, path: &Path, bytes: &[u8], mode: u32) -> Result<(), LabError> {
        self.make_parents(path)?;
        let inside = path.strip_prefix("/").unwrap_or(path);
        Ok(write_atomic(&self.folder().join("upper").join(inside), bytes, mode)?)
    }

    /// Makes the folders above `path` on the disk with the permissions that they have in the root,
    /// since the upper layer's are the ones that count.
    fn make_parents(&self, path: &Path) -> Result<(), LabError> {
        let inside = path.strip_prefix("/").unwrap_or(path);
        let parents: Vec<&Path> = inside.ancestors().skip(1).collect();
        for parent in parents.into_iter().rev() {
            let folder = self.folder().join("upper").join(parent);
            if folder.is_dir() {
                continue;
            }
            let mode =
                fs::metadata(self.root.path().join(parent)).map_or(0o755, |lower| lower.permissions().mode());
            create_dir(&folder)?;
            fs::set_permissions(&folder, Permissions::from_mode(mode))
                .map_err(FileError::at("write", &folder))?;
        }
        Ok(())
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // The lab ends what is left.
        let _ = self.kill();
    }
}
