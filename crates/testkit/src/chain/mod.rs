//! The whole chain as one value: a server, a person's desk, and devices that follow. The demo and
//! the system tests are told in its words. Only the real programs are used: `volary`, git, and the
//! agent inside the devices.

mod clone;
mod desk;
mod tools;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use volary_api::v1::build::{Build, BuildState};
use volary_api::v1::fleet::DeviceToken;
use volary_api::v1::status::{Condition, Device as KnownDevice, Status};
use volary_host::{Cmd, create_dir};
use volary_model::CommitId;

pub use clone::Clone;
pub use desk::Desk;
pub use tools::Tools;

use crate::{Device, Lab, LabError, Process, wait_until};

/// The server's port in the lab. The address is the lab's own, so nobody else has it.
pub const PORT: u16 = 8443;

/// How long the server may take to answer after its start.
const SERVER_START: Duration = Duration::from_secs(60);

/// A server in a lab, with the desk of its operator.
#[derive(Debug)]
pub struct Chain {
    // First: it ends before the lab takes its folder away.
    server: Mutex<Option<Process>>,
    tools: Tools,
    desk: Desk,
    folder: PathBuf,
    logs: PathBuf,
    lab: Lab,
}

impl Chain {
    /// Makes a new server in the lab with `volary init` and starts it. Logs go to the folder
    /// `logs`, which outlives the lab.
    ///
    /// # Errors
    /// What `volary init` or `volary serve` said.
    pub fn open(lab: Lab, tools: Tools, logs: &Path) -> Result<Self, LabError> {
        create_dir(logs)?;
        let folder = lab.folder().join("server");
        let home = lab.folder().join("home");
        let config = folder.join("client.toml");
        let desk = Desk::new(&home, &tools.volary, &config, &logs.join("commands.log"))?;
        let chain = Self { server: Mutex::new(None), tools, desk, folder, logs: logs.to_owned(), lab };
        chain.init_server()?;
        chain.start_server()?;
        Ok(chain)
    }

    /// Makes a new server where this chain's is, which is not there yet or was moved away.
    ///
    /// # Errors
    /// What `volary init` said.
    pub fn init_server(&self) -> Result<(), LabError> {
        let dir = self.folder.display().to_string();
        let (address, port) = (self.lab.host_address().to_string(), PORT.to_string());
        let init =
            ["init", &dir, "--fleet", "demo", "--host", &address, "--host", "volary.test", "--port", &port];
        self.desk.check(&self.desk.volary(&init).args(["--operator", desk::EMAIL])).map(drop)
    }

    /// The lab that the devices are in.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// The programs under test.
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The operator's desk.
    pub fn desk(&self) -> &Desk {
        &self.desk
    }

    /// The server's folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where the logs of everything are.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// The server's address as everybody calls it.
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", self.lab.host_address())
    }

    /// Starts the server and waits until it answers. Does nothing if it runs.
    ///
    /// # Errors
    /// [`LabError::Ended`] with what it said.
    pub fn start_server(&self) -> Result<(), LabError> {
        let mut server = self.server();
        if server.is_none() {
            let dir = self.folder.display().to_string();
            let home = self.desk.home().display().to_string();
            let env = [("HOME", home.as_str()), ("NO_COLOR", "1")];
            let log = self.logs.join("server.log");
            // This lab's address only: the next lab has a server with the same port.
            let listen = format!("{}:{PORT}", self.lab.host_address());
            let args = ["serve", &dir, "--listen", &listen];
            let process = self.lab.start_process("volary serve", &self.tools.volary, &args, &env, &log)?;
            *server = Some(process);
        }
        let Some(process) = server.as_mut() else { return Ok(()) };
        let mut ended = None;
        let answered = wait_until("the server to answer", SERVER_START, || {
            if let Err(error) = process.check_alive() {
                ended = Some(error);
                return Ok(());
            }
            let asked = self.desk.volary(&["status", "--json"]).run().map_err(|error| error.to_string())?;
            if asked.status.success() { Ok(()) } else { Err(volary_host::tail(&asked.stderr, 3)) }
        });
        match ended {
            Some(error) => {
                *server = None;
                Err(error)
            }
            None => answered,
        }
    }

    /// SIGKILL to the server; it stays down until [`Chain::start_server`].
    ///
    /// # Errors
    /// [`LabError::Waited`] if the kernel does not let it go.
    pub fn kill_server(&self) -> Result<(), LabError> {
        match self.server().take() {
            Some(mut process) => process.kill(),
            None => Ok(()),
        }
    }

    /// Ends the server in order.
    ///
    /// # Errors
    /// [`LabError::Waited`] if it does not end on SIGTERM.
    pub fn stop_server(&self) -> Result<(), LabError> {
        match self.server().take() {
            Some(mut process) => process.stop(Duration::from_secs(30)).map(drop),
            None => Ok(()),
        }
    }

    /// Changes the text of `server.toml` while the server is down, and starts it again.
    ///
    /// # Errors
    /// That the file cannot be read or written, or what `volary serve` said.
    pub fn reconfigure(&self, change: impl FnOnce(String) -> String) -> Result<(), LabError> {
        self.stop_server()?;
        let path = self.folder.join("server.toml");
        let text = change(volary_host::read_to_string(&path)?);
        volary_host::write_atomic(&path, text.as_bytes(), 0o600)?;
        self.start_server()
    }

    /// As [`Chain::reconfigure`], with another value for one of the first keys, which a new server writes whole.
    ///
    /// # Errors
    /// As [`Chain::reconfigure`]; a key that is none is refused by the server.
    pub fn set(&self, key: &str, value: &str) -> Result<(), LabError> {
        let is_other = |line: &&str| line.split_once(" = ").is_none_or(|(name, _)| name != key);
        self.reconfigure(|text| {
            let others: Vec<&str> = text.lines().filter(is_other).collect();
            format!("{key} = {value}\n{}\n", others.join("\n"))
        })
    }

    /// The processor time that the running server and all it started have used.
    ///
    /// # Errors
    /// That it does not run, or that the kernel does not tell.
    pub fn server_cpu(&self) -> Result<Duration, LabError> {
        match self.server().as_ref() {
            Some(process) => process.cpu(),
            None => Err(LabError::NotRunning("volary serve".to_owned())),
        }
    }

    /// The id of the running server's process.
    ///
    /// # Errors
    /// That it does not run.
    pub fn server_id(&self) -> Result<u32, LabError> {
        let id = self.server().as_ref().map(Process::id);
        id.ok_or_else(|| LabError::NotRunning("volary serve".to_owned()))
    }

    /// Runs `volary` as the operator, which must succeed, and gives what it printed.
    ///
    /// # Errors
    /// That it failed, with what it said.
    pub fn volary(&self, args: &[&str]) -> Result<String, LabError> {
        Ok(self.desk.check(&self.desk.volary(args))?.text())
    }

    /// The state of everything as the server knows it.
    ///
    /// # Errors
    /// That the server does not answer.
    pub fn status(&self) -> Result<Status, LabError> {
        self.desk.json(&["status"])
    }

    /// One device as the server knows it.
    ///
    /// # Errors
    /// That the server does not answer, or that the device is not among the accepted ones.
    pub fn known(&self, device: &str) -> Result<KnownDevice, LabError> {
        let devices: Vec<KnownDevice> = self.desk.json(&["device", "list"])?;
        let found = devices.into_iter().find(|known| known.name.as_str() == device);
        found.ok_or_else(|| LabError::Unknown(device.to_owned()))
    }

    /// Clones a repository that the server hosts (`fleet`, or a source) to the desk, ready to sign
    /// and to push.
    ///
    /// # Errors
    /// What `volary clone` said.
    pub fn clone_of(&self, repository: &str) -> Result<Clone, LabError> {
        let dir = self.desk.home().join(repository);
        self.volary(&["clone", repository, &dir.display().to_string()])?;
        Ok(Clone::new(self.desk.clone(), dir))
    }

    /// The clone that [`Chain::clone_of`] made before.
    pub fn existing_clone(&self, repository: &str) -> Clone {
        Clone::new(self.desk.clone(), self.desk.home().join(repository))
    }

    /// Waits until the server has heard that a device is at `commit` and is well.
    ///
    /// # Errors
    /// [`LabError::Waited`] with the condition it is in and why.
    pub fn wait_for_good(&self, device: &str, commit: &CommitId, limit: Duration) -> Result<(), LabError> {
        wait_until(&format!("{device} to be good at {}", commit.short()), limit, || {
            self.is_good(device, commit)
        })
    }

    /// That a device is good at a commit.
    ///
    /// # Errors
    /// How it is instead.
    pub fn is_good(&self, device: &str, commit: &CommitId) -> Result<(), String> {
        let known = self.known(device).map_err(|error| error.to_string())?;
        match known.condition {
            Condition::Good if known.commit.as_ref() == Some(commit) => Ok(()),
            other => {
                let at = known.commit.as_ref().map_or("no commit", |commit| commit.short());
                Err(format!("{other:?} at {at}: {}", known.reason))
            }
        }
    }

    /// Waits until the build of a commit ended, well or not.
    ///
    /// # Errors
    /// [`LabError::Waited`] with the state it is in.
    pub fn wait_for_build(
        &self,
        source: &str,
        commit: &CommitId,
        limit: Duration,
    ) -> Result<Build, LabError> {
        let what = format!("the build of {source} {}", commit.short());
        wait_until(&what, limit, || {
            let builds: Vec<Build> =
                self.desk.json(&["build", "list", "--source", source]).map_err(|error| error.to_string())?;
            let build = builds.into_iter().find(|build| build.commit == *commit).ok_or("none was queued")?;
            match build.state {
                BuildState::Queued | BuildState::Running => Err(format!("{:?}", build.state)),
                BuildState::Succeeded | BuildState::Failed | BuildState::Cancelled => Ok(build),
            }
        })
    }

    /// Installs the agent on a device and enrols it with a join token for `stage`.
    ///
    /// # Errors
    /// What dpkg or the agent said.
    pub fn join(&self, device: &Device, stage: &str) -> Result<(), LabError> {
        let token: DeviceToken = self.desk.json(&["device", "token", "--stage", stage])?;
        device.copy_in(&self.tools.agent_deb()?, "/var/tmp/volary-agent.deb", 0o644)?;
        device.check(&["dpkg", "--install", "/var/tmp/volary-agent.deb"])?;
        device.check(&["volary-agent", "enroll", "--token", &token.token])?;
        Ok(())
    }

    /// Waits until a device has a version of a package, by asking its dpkg. Between two looks it
    /// makes sure that the server runs, whose end would otherwise only be seen as a long wait.
    ///
    /// # Errors
    /// [`LabError::Waited`] with what is installed and what the server knows of the device.
    pub fn wait_for_package(
        &self,
        device: &Device,
        package: &str,
        version: &str,
        limit: Duration,
    ) -> Result<(), LabError> {
        let waited = device.wait_until(&format!("{package} {version}"), limit, |device| {
            match installed(device, package).map_err(|error| error.to_string())? {
                Some(found) if found == version => Ok(()),
                Some(found) => Err(format!("version {found}")),
                None => Err("not installed".to_owned()),
            }
        });
        waited.map_err(|error| self.explained(device, error))
    }

    /// Adds to a vain wait what the server knows of the device.
    fn explained(&self, device: &Device, error: LabError) -> LabError {
        match error {
            LabError::Waited { what, timeout, last } => {
                let known = match self.known(device.name()) {
                    Ok(known) => format!("{:?}: {}", known.condition, known.reason),
                    Err(error) => error.to_string(),
                };
                LabError::Waited { what, timeout, last: format!("{last}; the server says {known}") }
            }
            other => other,
        }
    }

    /// Writes what helps to understand a failure beside the other logs: the journal of each
    /// device, the server's view of everything.
    pub fn collect(&self, devices: &[Device]) {
        let keep = |name: &str, bytes: &[u8]| {
            // Each of these may be impossible just because of the failure; the rest still helps.
            let _ = volary_host::write_atomic(&self.logs.join(name), bytes, 0o644);
        };
        for device in devices {
            if let Ok(journal) = device.exec(&["journalctl", "--no-pager", "--boot"]) {
                keep(&format!("{}.journal", device.name()), &journal.stdout);
            }
            if let Ok(console) = volary_host::read(&device.console()) {
                keep(&format!("{}.console", device.name()), &console);
            }
        }
        for (name, args) in [
            ("status.txt", &["status"][..]),
            ("builds.txt", &["build", "list"]),
            ("devices.txt", &["device", "list"]),
            ("events.txt", &["events"]),
        ] {
            if let Ok(output) = self.desk.volary(args).timeout(Duration::from_secs(10)).run() {
                keep(name, &[output.stdout, output.stderr].concat());
            }
        }
    }

    /// A plain command of this machine with the desk's environment.
    pub fn command(&self, program: &str) -> Cmd {
        self.desk.command(program)
    }

    fn server(&self) -> MutexGuard<'_, Option<Process>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The version of a package that a device has installed, by asking dpkg there.
///
/// # Errors
/// That the device does not run.
pub fn installed(device: &Device, package: &str) -> Result<Option<String>, LabError> {
    let output = device.exec(&["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package])?;
    let text = output.text();
    Ok(text.strip_prefix("installed ").map(|version| version.trim().to_owned()))
}

/// What systemd on a device says of a unit: `active`, `failed`, `inactive`, `activating`.
///
/// # Errors
/// That the device does not run.
pub fn unit_state(device: &Device, unit: &str) -> Result<String, LabError> {
    Ok(device.exec(&["systemctl", "is-active", unit])?.text().trim().to_owned())
}

/// An inventory with these devices, each with its stage: the template's form.
pub fn inventory(devices: &[(&str, &str)]) -> String {
    let mut text = String::from("---\nall:\n  children:\n");
    for stage in ["development", "canary", "production"] {
        text.push_str(&format!("    {stage}:\n      hosts:\n"));
        for (name, _) in devices.iter().filter(|(_, of)| *of == stage) {
            text.push_str(&format!("        {name}:\n"));
        }
    }
    text
}
