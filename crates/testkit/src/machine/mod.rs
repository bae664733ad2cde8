//! A virtual machine with a kernel of its own: for what a container cannot show, such as a firewall
//! that closes everything, a reboot, and a power cut under a real file system.
//!
//! QEMU emulates the processor, so that it runs wherever the tests do; it is some ten times slower
//! than a container. The machine has a time of its own, that of the instructions it ran: what it needs
//! by its own clock does not depend on what else this machine does. It reaches the lab's server through
//! QEMU's own network, and is itself reached through a serial line by QEMU's guest agent, which no
//! firewall closes.

mod disk;
mod firmware;
mod guest;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use volary_host::{CmdError, Output, create_dir, tail};

use crate::{Cache, Debian, Lab, LabError, Process, wait_until};
use disk::Base;
pub use firmware::Firmware;
use guest::Guest;

/// How long a boot may take on a machine that is busy with other things: minutes where it has a core for itself.
const BOOT: Duration = Duration::from_secs(1800);

/// How long an orderly power-off may take.
const POWER_OFF: Duration = Duration::from_secs(180);

/// How long a command may take that was given no other limit.
const PATIENCE: Duration = Duration::from_secs(300);

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(700);

/// Each instruction takes two nanoseconds of the machine's own time, however busy this one is: a
/// small processor of 500 million instructions a second. While it is idle, time passes as here.
const SPEED: &str = "shift=1,sleep=on";

/// The machine's disk, in its folder.
const DISK: &str = "disk.qcow2";

/// A virtual machine. Dropping it cuts its power; its disk stays until the lab ends.
#[derive(Debug)]
pub struct Machine<'a> {
    lab: &'a Lab,
    name: String,
    folder: PathBuf,
    boots: Boots,
    running: Mutex<Option<Running>>,
}

/// What starts the machine's kernel.
#[derive(Debug)]
enum Boots {
    /// QEMU itself, from the cache.
    Kernel(Base),
    /// The firmware, from the machine's own disk.
    Firmware(Firmware),
}

#[derive(Debug)]
struct Running {
    qemu: Process,
    guest: Guest,
}

impl<'a> Machine<'a> {
    /// Makes a machine of the lab and boots it. The disk is made once and kept in the cache.
    ///
    /// # Errors
    /// [`LabError::Boot`] with the end of its console.
    pub fn start_new(lab: &'a Lab, cache: &Cache, debian: Debian, name: &str) -> Result<Self, LabError> {
        let base = Base::in_cache(cache, debian)?;
        let folder = lab.folder().join("machines").join(name);
        create_dir(&folder)?;
        base.new_disk(&folder.join(DISK))?;
        let boots = Boots::Kernel(base);
        let machine = Self { lab, name: name.to_owned(), folder, boots, running: Mutex::new(None) };
        machine.start()?;
        Ok(machine)
    }

    /// Makes a machine whose firmware boots from a disk image, as a device does. The image is not written to; the
    /// machine's disk begins as its copy, of `size` bytes. It is switched off: [`Machine::start`] is next.
    /// The image must have `qemu-guest-agent`.
    ///
    /// # Errors
    /// That its disk cannot be made.
    pub fn from_image(
        lab: &'a Lab,
        name: &str,
        firmware: Firmware,
        image: &Path,
        size: u64,
    ) -> Result<Self, LabError> {
        let folder = lab.folder().join("machines").join(name);
        create_dir(&folder)?;
        firmware.prepare(image, size, &folder)?;
        let boots = Boots::Firmware(firmware);
        Ok(Self { lab, name: name.to_owned(), folder, boots, running: Mutex::new(None) })
    }

    /// Its disk, in QEMU's format; only to be read or written while the machine is off.
    pub fn disk(&self) -> PathBuf {
        self.folder.join(DISK)
    }

    /// Switches it on and returns at once.
    ///
    /// # Errors
    /// That QEMU cannot be started.
    pub fn switch_on(&self) -> Result<(), LabError> {
        let mut running = self.running();
        if running.is_none() {
            *running = Some(self.launch()?);
        }
        Ok(())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The log of its serial console.
    pub fn console(&self) -> PathBuf {
        self.folder.join("console.log")
    }

    /// Switches it on and waits until systemd has done its work. Does nothing if it runs.
    ///
    /// # Errors
    /// [`LabError::Boot`] with what systemd waits for.
    pub fn start(&self) -> Result<(), LabError> {
        self.switch_on()?;
        self.wait_for_boot()
    }

    /// Waits until systemd says that the boot is over, also after a reboot from inside.
    ///
    /// # Errors
    /// [`LabError::Boot`] with what systemd waits for.
    pub fn wait_for_boot(&self) -> Result<(), LabError> {
        let booted = wait_until("boot", BOOT, || {
            if let Some(running) = self.running().as_mut() {
                // That QEMU ended would otherwise be seen as a long boot.
                running.qemu.check_alive().map_err(|error| error.to_string())?;
            }
            let output = self.exec(&["systemctl", "is-system-running"]).map_err(|error| error.to_string())?;
            match output.text().trim() {
                "running" | "degraded" => Ok(()),
                state => Err(state.to_owned()),
            }
        });
        booted.map_err(|error| LabError::Boot {
            device: self.name.clone(),
            timeout: BOOT,
            state: error.to_string(),
            console: self.console_end(30),
        })
    }

    /// The end of its console, for messages.
    pub fn console_end(&self, lines: usize) -> String {
        tail(&volary_host::read(&self.console()).unwrap_or_default(), lines)
    }

    /// Cuts its power: QEMU is killed, what the machine had not flushed to its disk is gone.
    ///
    /// # Errors
    /// [`LabError::Waited`] if the kernel does not let it go.
    pub fn cut_power(&self) -> Result<(), LabError> {
        match self.running().take() {
            Some(mut running) => running.qemu.kill(),
            None => Ok(()),
        }
    }

    /// Shuts it down in order; its disk stays for the next [`Machine::start`].
    ///
    /// # Errors
    /// [`LabError::Waited`] if it does not power off; it is then switched off hard.
    pub fn stop(&self) -> Result<(), LabError> {
        let _ = self.exec(&["systemctl", "poweroff"]);
        let mut running = self.running();
        let Some(machine) = running.as_mut() else { return Ok(()) };
        let ended = wait_until(&format!("{} to power off", self.name), POWER_OFF, || {
            if machine.qemu.check_alive().is_err() { Ok(()) } else { Err("it still runs".to_owned()) }
        });
        *running = None;
        ended
    }

    /// Runs a program inside as root and gives what it said, whatever its exit status; five minutes
    /// at most.
    ///
    /// # Errors
    /// [`LabError::NotRunning`], or that it took too long.
    pub fn exec(&self, args: &[&str]) -> Result<Output, LabError> {
        self.run(args, &[], PATIENCE)
    }

    /// Runs a program inside that must succeed, and gives its standard output.
    ///
    /// # Errors
    /// As [`Machine::exec`], and that it failed, with the end of what it said.
    pub fn check(&self, args: &[&str]) -> Result<String, LabError> {
        self.checked(args, self.exec(args)?)
    }

    /// Writes a file in the machine.
    ///
    /// # Errors
    /// That it cannot be written.
    pub fn write(&self, dest: &str, bytes: &[u8], mode: u32) -> Result<(), LabError> {
        let script = "cat > \"$0.new\" && chmod \"$1\" \"$0.new\" && mv \"$0.new\" \"$0\" && sync";
        let args = ["sh", "-c", script, dest, &format!("{mode:o}")];
        let output = self.run(&args, bytes, PATIENCE)?;
        self.checked(&args, output).map(drop)
    }

    /// Copies a file of this machine into it.
    ///
    /// # Errors
    /// That the file cannot be read or written.
    pub fn copy_in(&self, source: &Path, dest: &str, mode: u32) -> Result<(), LabError> {
        self.write(dest, &volary_host::read(source)?, mode)
    }

    /// Looks at the machine until `look` gives `Ok`; what it gave last stands in the error.
    ///
    /// # Errors
    /// [`LabError::Waited`] after `timeout`.
    pub fn wait_until<T>(
        &self,
        what: &str,
        timeout: Duration,
        mut look: impl FnMut(&Self) -> Result<T, String>,
    ) -> Result<T, LabError> {
        wait_until(&format!("{what} on {}", self.name), timeout, || {
            // A look costs an emulated processor more than it costs a container.
            look(self).inspect_err(|_| std::thread::sleep(LOOK))
        })
    }

    fn run(&self, args: &[&str], stdin: &[u8], limit: Duration) -> Result<Output, LabError> {
        let guest = match self.running().as_ref() {
            Some(running) => running.guest.clone(),
            None => return Err(LabError::NotRunning(self.name.clone())),
        };
        guest.run(args, stdin, limit)
    }

    fn checked(&self, args: &[&str], output: Output) -> Result<String, LabError> {
        if output.status.success() {
            return Ok(output.text());
        }
        let said = if output.stderr.trim_ascii().is_empty() { &output.stdout } else { &output.stderr };
        let command = format!("[{}] {}", self.name, args.join(" "));
        Err(CmdError::Failed { command, status: output.status, tail: tail(said, 20) }.into())
    }

    fn launch(&self) -> Result<Running, LabError> {
        let serial = self.folder.join("guest.sock");
        let mut args: Vec<String> =
            ["-nodefaults", "-display", "none", "-smp", "1"].map(str::to_owned).to_vec();
        let mut give = |option: &str, value: String| args.extend([option.to_owned(), value]);
        let program = match &self.boots {
            Boots::Kernel(base) => {
                let id = Sha256::digest(format!("{} {}", self.folder.display(), self.name));
                let id: String = id[..16].iter().map(|byte| format!("{byte:02x}")).collect();
                let append = format!(
                    "root=/dev/vda rw console=ttyS0 net.ifnames=0 panic=10 systemd.machine_id={id} systemd.hostname={}",
                    self.name
                );
                give("-machine", "q35".to_owned());
                give("-m", "768".to_owned());
                give("-kernel", base.kernel().display().to_string());
                give("-initrd", base.first_root().display().to_string());
                give("-append", append);
                "qemu-system-x86_64"
            }
            Boots::Firmware(firmware) => firmware.arguments(&self.folder, &mut give),
        };
        give("-accel", "tcg".to_owned());
        give("-icount", SPEED.to_owned());
        give("-rtc", "base=utc,clock=vm".to_owned());
        // What the machine flushes is on this machine's disk; what it does not may be lost.
        give(
            "-drive",
            format!("if=none,id=disk,format=qcow2,cache=writeback,file={}", self.disk().display()),
        );
        give("-device", "virtio-blk-pci,drive=disk,bootindex=1".to_owned());
        give("-netdev", "user,id=net".to_owned());
        give("-device", "virtio-net-pci,netdev=net,romfile=".to_owned());
        give("-chardev", format!("file,id=console,append=on,path={}", self.console().display()));
        give("-serial", "chardev:console".to_owned());
        give("-device", "virtio-rng-pci".to_owned());
        give("-device", "virtio-serial-pci".to_owned());
        give("-chardev", format!("socket,id=guest,server=on,wait=off,path={}", serial.display()));
        give("-device", "virtserialport,chardev=guest,name=org.qemu.guest_agent.0".to_owned());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let log = self.folder.join("qemu.log");
        let what = format!("the machine {}", self.name);
        let qemu = self.lab.start_process(&what, Path::new(program), &args, &[], &log)?;
        Ok(Running { qemu, guest: Guest::at(&serial) })
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
