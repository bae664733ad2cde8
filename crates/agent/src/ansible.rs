//! The real Ansible: one run of the playbook for this host, and which stage its variables name.
//!
//! Ansible gets an inventory of this host alone, which `volary-fleet` makes of the repository's: it
//! costs the same however large the fleet is. What that does not read is an error, never a guess.
//!
//! What a run did comes from a callback plugin of ours that appends lines of JSON to a file:
//! neither Debian 12 nor 13 ships a callback with results for machines outside of the collections,
//! and text for people is not parsed.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use volary_api::v1::device::DriftedTask;
use volary_fleet::SITE_VARIABLE;
use volary_fleet::inventory::{
    DirTree, Handover, INVENTORIES, Inventory, InventoryError, Map, PLAYBOOKS, ReadOptions, Value,
    fleet_layout, to_json,
};
use volary_host::{Cmd, CmdError, FileError, create_dir, read_to_string, remove_if_exists, write_atomic};
use volary_model::{CommitId, DeviceName, InvalidName, StageName};

use crate::checkpoint;
use crate::paths::Paths;
use crate::units;

/// The callback plugin.
const PLUGIN: &str = include_str!("ansible/volary.py");

/// Variables that every run gets.
#[derive(Debug, Clone, Serialize)]
pub struct Variables {
    /// Always true: lets roles tell the agent from a plain `ansible-pull`.
    pub volary_agent: bool,
    /// The stage.
    pub volary_stage: StageName,
    /// The suite: `rolling`, `v1.0/r2`; empty without a release.
    pub volary_suite: String,
    /// The release: `v1.0`; empty for rolling and without a release.
    pub volary_release: String,
    /// The archive: `https://server/archive`.
    pub volary_archive_url: String,
    /// The certificate of the server's authority, as a file on the device.
    pub volary_ca_file: PathBuf,
    /// The commit.
    pub volary_commit: CommitId,
}

/// Why a run did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum AnsibleError {
    /// A program could not run, or ran too long.
    #[error(transparent)]
    Cmd(#[from] CmdError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// No inventory.
    #[error("there is no inventory at commit {}: one of {} is needed", .0.short(), INVENTORIES.join(", "))]
    NoInventory(CommitId),
    /// No playbook.
    #[error("there is no playbook at commit {}: site.yml or local.yml is needed", .0.short())]
    NoPlaybook(CommitId),
    /// The device is not there.
    #[error("device {name} is not in the inventory at commit {}", .commit.short())]
    NotInInventory {
        /// The device.
        name: DeviceName,
        /// The commit.
        commit: CommitId,
    },
    /// The inventory, or a file of variables, cannot be read.
    #[error("the inventory at commit {} cannot be used: {cause}", .commit.short())]
    Inventory {
        /// The commit.
        commit: CommitId,
        /// What is wrong, and the remedy.
        cause: InventoryError,
    },
    /// `volary_stage` is no stage name.
    #[error("volary_stage: {0}")]
    Stage(#[from] InvalidName),
    /// `volary_stage` is no text that can be read.
    #[error("volary_stage is {0}; it must be the name of a stage, neither vaulted nor a template")]
    StageKind(&'static str),
    /// A task failed.
    #[error("{message}")]
    Task {
        /// Its name.
        task: String,
        /// What it said.
        message: String,
    },
    /// It failed before or outside of a task: a syntax error, a missing role or collection.
    #[error("{0}")]
    Playbook(String),
}

impl AnsibleError {
    /// What failed: the task's name, if it was one.
    pub fn what(&self) -> &str {
        match self {
            Self::Task { task, .. } => task,
            _ => "",
        }
    }
}

/// What a run of the playbook is for.
#[derive(Debug, Clone, Copy)]
enum Mode {
    /// To change the device.
    Apply,
    /// To see what it would change.
    Look,
}

/// What happens while a playbook runs.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
enum Event {
    Start,
    Task {
        task: String,
    },
    Changed {
        task: String,
        #[serde(default)]
        diff: String,
    },
    Failed {
        task: String,
        message: String,
    },
    Unreachable {
        task: String,
        message: String,
    },
    NoHosts,
    Stats {
        hosts: Vec<String>,
    },
}

/// What a device's variables say about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// `volary_stage`: the stage it belongs to.
    pub stage: Option<StageName>,
    /// `volary_site`: where it is; devices of one site can be told to change one after the other.
    pub site: Option<String>,
}

/// What the inventory of a commit says about this device. It is read once for each commit: both the
/// decision whether it can be applied and the run itself need it.
#[derive(Debug, Default)]
pub struct Handed(RefCell<Option<(CommitId, Known)>>);

#[derive(Debug, Clone)]
struct Known {
    host: Host,
    handover: Handover,
}

/// Ansible on the checkout of one commit.
pub struct Ansible<'a> {
    /// Where the agent's files are.
    pub paths: &'a Paths,
    /// The files of the commit.
    pub checkout: &'a Path,
    /// The commit.
    pub commit: &'a CommitId,
    /// The device.
    pub name: &'a DeviceName,
    /// What was read before.
    pub handed: &'a Handed,
}

impl Ansible<'_> {
    /// What the device's variables say about itself. A file that is vaulted as a whole can't say it.
    ///
    /// # Errors
    /// [`AnsibleError`].
    pub fn host(&self) -> Result<Host, AnsibleError> {
        Ok(self.known()?.host)
    }

    fn known(&self) -> Result<Known, AnsibleError> {
        if let Some((commit, known)) = self.handed.0.borrow().as_ref()
            && commit == self.commit
        {
            return Ok(known.clone());
        }
        let tree = DirTree::new(self.checkout);
        let inventory = self.inventory(&tree)?;
        let name = self.name.as_str();
        let host = inventory.host(&tree, name).map_err(|error| self.refused(error))?;
        let handover = inventory.one_host(name, self.checkout).map_err(|error| self.refused(error))?;
        let known = Known { host: about_itself(&host.variables)?, handover };
        self.handed.0.replace(Some((self.commit.clone(), known.clone())));
        Ok(known)
    }

    /// Runs the playbook for this host alone, for at most `limit`. Returns how many tasks changed
    /// something. `progress` is given each line that Ansible prints.
    ///
    /// # Errors
    /// [`AnsibleError`].
    pub fn playbook(
        &self,
        variables: &Variables,
        limit: Duration,
        progress: &mut dyn FnMut(&str),
    ) -> Result<u32, AnsibleError> {
        let changed = self.run(variables, limit, Mode::Apply, progress)?;
        Ok(u32::try_from(changed.len()).unwrap_or(u32::MAX))
    }

    /// The tasks that would change something, with their differences, in Ansible's check mode:
    /// nothing is changed.
    ///
    /// # Errors
    /// [`AnsibleError`].
    pub fn would_change(
        &self,
        variables: &Variables,
        limit: Duration,
    ) -> Result<Vec<DriftedTask>, AnsibleError> {
        self.run(variables, limit, Mode::Look, &mut |_| {})
    }

    /// Returns the tasks that changed something, or would.
    fn run(
        &self,
        variables: &Variables,
        limit: Duration,
        mode: Mode,
        progress: &mut dyn FnMut(&str),
    ) -> Result<Vec<DriftedTask>, AnsibleError> {
        let playbook = PLAYBOOKS.into_iter().find(|name| self.checkout.join(name).is_file());
        let playbook = playbook.ok_or_else(|| AnsibleError::NoPlaybook(self.commit.clone()))?;
        let inventory = self.hand_over()?;
        let plugins = self.paths.ansible();
        create_dir(&plugins)?;
        write_atomic(&plugins.join("volary.py"), PLUGIN.as_bytes(), 0o644)?;
        let file = self.paths.variables();
        let text = serde_json::to_vec(variables).expect("variables are text");
        write_atomic(&file, &text, 0o600)?;
        remove_if_exists(&self.paths.events())?;
        let mut command = self.command("ansible-playbook").arg("--diff");
        match mode {
            Mode::Apply => {
                if let Some(made) = checkpoint::made_file(self.paths) {
                    command = command.env("VOLARY_MADE", made);
                }
            }
            Mode::Look => command = command.arg("--check").env("VOLARY_DIFFS", "yes"),
        }
        command = command
            .args(inventory.sources.iter().flat_map(|source| ["--inventory", source]))
            .args(["--connection", "local", "--limit", self.name.as_str()])
            .args(["--extra-vars", &format!("@{}", file.display())])
            .arg(playbook)
            .env("ANSIBLE_CALLBACK_PLUGINS", &plugins)
            .env("ANSIBLE_RETRY_FILES_ENABLED", "False")
            .env("VOLARY_EVENTS", self.paths.events())
            .env(crate::undo::MARK, "yes")
            .timeout(limit);
        let ended = units::unprotected(command).check_lines(progress);
        let events = events(&read_to_string(&self.paths.events()).unwrap_or_default());
        remove_if_exists(&self.paths.events())?;
        remove_if_exists(&file)?;
        for (path, _) in &inventory.files {
            remove_if_exists(&self.checkout.join(path))?;
        }
        self.judge(ended.err(), &events)
    }

    /// Brings together how the program ended and what the plugin heard.
    fn judge(&self, ended: Option<CmdError>, events: &[Event]) -> Result<Vec<DriftedTask>, AnsibleError> {
        let failed = last_failure(events);
        let running = events.iter().rev().find_map(|event| match event {
            Event::Task { task } => Some(task.clone()),
            _ => None,
        });
        match ended {
            None => {}
            // A task that failed and was rescued ends well; one that was not does not.
            Some(CmdError::Failed { tail, .. }) => {
                let (task, message) = failed.ok_or_else(|| AnsibleError::Playbook(tail.clone()))?;
                let message = if message.is_empty() { tail } else { message };
                return Err(AnsibleError::Task { task, message });
            }
            Some(error @ CmdError::TimedOut { .. }) => {
                let message = error.to_string();
                return Err(match running {
                    Some(task) => AnsibleError::Task { task, message },
                    None => AnsibleError::Playbook(message),
                });
            }
            Some(error) => return Err(error.into()),
        }
        let ours = |event: &Event| matches!(event, Event::Stats { hosts } if hosts.iter().any(|host| host == self.name.as_str()));
        if !events.iter().any(ours) {
            let played = "the playbook has no play for this device: no task was run";
            return Err(AnsibleError::Playbook(played.to_owned()));
        }
        let changed = events.iter().filter_map(|event| match event {
            Event::Changed { task, diff } => Some(DriftedTask { task: task.clone(), diff: diff.clone() }),
            Event::Start
            | Event::Task { .. }
            | Event::Failed { .. }
            | Event::Unreachable { .. }
            | Event::NoHosts
            | Event::Stats { .. } => None,
        });
        Ok(changed.collect())
    }

    /// Writes the inventory of this host alone into the checkout.
    fn hand_over(&self) -> Result<Handover, AnsibleError> {
        let handover = self.known()?.handover;
        for (path, text) in &handover.files {
            write_atomic(&self.checkout.join(path), text.as_bytes(), 0o600)?;
        }
        Ok(handover)
    }

    fn inventory(&self, tree: &DirTree) -> Result<Inventory, AnsibleError> {
        let layout = fleet_layout(tree).map_err(|error| self.refused(error))?;
        let layout = layout.ok_or_else(|| AnsibleError::NoInventory(self.commit.clone()))?;
        let options = ReadOptions { host: Some(self.name.as_str()), origins: false };
        let inventory = Inventory::read_with(tree, &layout, &options).map_err(|error| self.refused(error))?;
        // A source that nobody can read in full: what it would have said is not known.
        match inventory.unreadable() {
            Some(source) => Err(self.refused(source.clone().into())),
            None => Ok(inventory),
        }
    }

    fn refused(&self, error: InventoryError) -> AnsibleError {
        let commit = self.commit.clone();
        match error {
            InventoryError::UnknownHost { .. } => {
                AnsibleError::NotInInventory { name: self.name.clone(), commit }
            }
            cause => AnsibleError::Inventory { commit, cause },
        }
    }

    fn command(&self, program: &str) -> Cmd {
        Cmd::new(program)
            .cwd(self.checkout)
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_DEPRECATION_WARNINGS", "False")
            // Modules would write a line each into the journal, among those of the agent.
            .env("ANSIBLE_NO_TARGET_SYSLOG", "True")
            // The checkout stays exactly the commit's files.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
    }
}

fn about_itself(variables: &Map) -> Result<Host, AnsibleError> {
    let stage = match variables.get("volary_stage") {
        None | Some(Value::Null) => None,
        Some(Value::Text(stage)) => Some(stage.parse()?),
        Some(other) => return Err(AnsibleError::StageKind(other.kind())),
    };
    let site = match variables.get(SITE_VARIABLE) {
        Some(Value::Text(site)) => Some(site.clone()),
        // A site may be called 7.
        Some(number @ (Value::Int(_) | Value::Float(_))) => Some(to_json(number)),
        _ => None,
    };
    Ok(Host { stage, site })
}

/// The failure that ended the run: those before it were rescued, or the run would have ended there.
/// The plugin does not tell ignored ones.
fn last_failure(events: &[Event]) -> Option<(String, String)> {
    events.iter().rev().find_map(|event| match event {
        Event::Failed { task, message } => Some((task.clone(), message.clone())),
        Event::Unreachable { task, message } => Some((task.clone(), format!("unreachable: {message}"))),
        Event::Start | Event::Task { .. } | Event::Changed { .. } | Event::NoHosts | Event::Stats { .. } => {
            None
        }
    })
}

fn events(text: &str) -> Vec<Event> {
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rescued_failure_is_not_what_failed() {
        let heard = events(
            "{\"event\":\"failed\",\"task\":\"rescued\",\"message\":\"a\"}\n\
             {\"event\":\"task\",\"task\":\"next\"}\n\
             {\"event\":\"failed\",\"task\":\"next\",\"message\":\"b\"}\n\
             {\"event\":\"stats\",\"hosts\":[\"dev-1\"]}\n",
        );
        assert_eq!(last_failure(&heard), Some(("next".to_owned(), "b".to_owned())));
    }
}
