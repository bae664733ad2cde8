//! Where everything lies on a device. One root for all of it, so that a test has its own device.

use std::path::{Path, PathBuf};

use volary_host::{FileError, create_dir};
use volary_model::CommitId;

/// The folders and files of the agent.
#[derive(Debug, Clone)]
pub struct Paths {
    root: PathBuf,
    etc: PathBuf,
    state: PathBuf,
    backups: PathBuf,
    run: PathBuf,
    dpkg: PathBuf,
    tpm: PathBuf,
}

impl Paths {
    /// The paths below `root`, which is `/` on a device.
    pub fn below(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            etc: root.join("etc/volary"),
            state: root.join("var/lib/volary"),
            backups: root.join("var/backups/volary-agent"),
            run: root.join("run/volary"),
            dpkg: root.join("var/lib/dpkg"),
            tpm: root.join("dev/tpmrm0"),
        }
    }

    /// A path of the device, as a program on it names it, below this root.
    pub fn on_device(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// True on a device: its kernel, its systemd and its apt may be touched. A root of its own has
    /// files only.
    pub fn is_device(&self) -> bool {
        self.root == Path::new("/")
    }

    /// What the device was before the last changes, and everything that the rescue needs.
    pub fn checkpoint(&self) -> PathBuf {
        self.state.join("checkpoint")
    }

    /// How the agent finds the two slots; not there on a device that has none.
    pub fn slots(&self) -> PathBuf {
        self.etc.join("slots.json")
    }

    /// What the root file system that runs says of itself.
    pub fn image(&self) -> PathBuf {
        self.etc.join("image.json")
    }

    /// Public keys (PEM) of which one must have signed an artifact; without the folder none need have.
    pub fn artifact_keys(&self) -> PathBuf {
        self.etc.join("artifact-keys")
    }

    /// What is in the other slot, and the scripts of the artifact that it came from.
    pub fn slots_state(&self) -> PathBuf {
        self.state.join("slots")
    }

    /// Updates by update modules: the one that is under way, and what the device provides.
    pub fn modules(&self) -> PathBuf {
        self.state.join("modules")
    }

    /// The folder of the module that runs: its working directory, with the files of Mender's contract.
    pub fn module_tree(&self) -> PathBuf {
        self.modules().join("payloads/0000/tree")
    }

    /// The scripts of the artifact that a module installs.
    pub fn module_scripts(&self) -> PathBuf {
        self.modules().join("scripts")
    }

    /// Where update modules are looked for, in this order.
    pub fn module_folders(&self) -> [PathBuf; 2] {
        ["/usr/share/volary/modules/v3", "/usr/share/mender/modules/v3"]
            .map(|folder| self.on_device(Path::new(folder)))
    }

    /// Where the other slot is mounted for a moment.
    pub fn other_slot(&self) -> PathBuf {
        self.run.join("other-slot")
    }

    /// Makes the folders. The state is for root alone: fleet variables may be secret.
    ///
    /// # Errors
    /// [`FileError`] if one cannot be made.
    pub fn prepare(&self) -> Result<(), FileError> {
        use std::os::unix::fs::PermissionsExt;
        for dir in [&self.etc, &self.state, &self.run, &self.spool()] {
            create_dir(dir)?;
        }
        std::fs::set_permissions(&self.state, std::fs::Permissions::from_mode(0o700))
            .map_err(FileError::at("protect", &self.state))
    }

    /// Who the device is and whom it asks; written by `enroll`, last of all.
    pub fn config(&self) -> PathBuf {
        self.etc.join("agent.json")
    }

    /// What an enrolment that is not finished wants; it goes on from here.
    pub fn enrolling(&self) -> PathBuf {
        self.etc.join("enrolling.json")
    }

    /// The private key, or what the TPM makes it of; for root alone.
    pub fn key(&self) -> PathBuf {
        self.etc.join("device.key")
    }

    /// The TPM, with the kernel's manager of what is loaded in it.
    pub fn tpm(&self) -> PathBuf {
        self.tpm.clone()
    }

    /// The client certificate.
    pub fn certificate(&self) -> PathBuf {
        self.etc.join("device.crt")
    }

    /// The certificate of the server's authority.
    pub fn ca(&self) -> PathBuf {
        self.etc.join("ca.pem")
    }

    /// The `allowed_signers` that the device began with.
    pub fn signers(&self) -> PathBuf {
        self.etc.join("allowed_signers")
    }

    /// The accepted commits once more, beside the key and where Debian keeps backups: whoever
    /// empties a folder does not make the device forget how far it went.
    pub fn accepted(&self) -> [PathBuf; 2] {
        [self.etc.join("accepted.json"), self.backups.join("accepted.json")]
    }

    /// One of the two copies of the ledger.
    pub fn ledger(&self, slot: usize) -> PathBuf {
        self.state.join(format!("ledger.{slot}"))
    }

    /// git objects.
    pub fn objects(&self) -> PathBuf {
        self.state.join("objects")
    }

    /// What git fetches from a remote, for as long as that takes.
    pub fn fetched_elsewhere(&self) -> PathBuf {
        self.state.join("elsewhere.git")
    }

    /// The folder of checkouts.
    pub fn checkouts(&self) -> PathBuf {
        self.state.join("checkout")
    }

    /// The checkout of one commit.
    pub fn checkout(&self, commit: &CommitId) -> PathBuf {
        self.checkouts().join(commit.as_str())
    }

    /// Reports that wait to be sent.
    pub fn spool(&self) -> PathBuf {
        self.state.join("spool")
    }

    /// Measurements that wait to be sent.
    pub fn metrics(&self) -> PathBuf {
        self.state.join("metrics")
    }

    /// How the last convergences ended, one JSON a line.
    pub fn history(&self) -> PathBuf {
        self.state.join("history.jsonl")
    }

    /// The details of the last look for drift.
    pub fn drift(&self) -> PathBuf {
        self.state.join("drift.json")
    }

    /// A folder for what is only tried: it is made and removed again.
    pub fn scratch(&self) -> PathBuf {
        self.run.join("plan")
    }

    /// What the agent gives to Ansible: its callback plugin.
    pub fn ansible(&self) -> PathBuf {
        self.state.join("ansible")
    }

    /// The database of dpkg.
    pub fn dpkg(&self) -> &Path {
        &self.dpkg
    }

    /// Held by whoever converges.
    pub fn lock(&self) -> PathBuf {
        self.run.join("lock")
    }

    /// Variables for the playbook that runs.
    pub fn variables(&self) -> PathBuf {
        self.run.join("variables.json")
    }

    /// What the playbook that runs did so far, as lines of JSON.
    pub fn events(&self) -> PathBuf {
        self.run.join("events.jsonl")
    }
}
