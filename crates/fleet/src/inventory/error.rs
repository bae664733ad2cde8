//! What can go wrong with an inventory, and what is merely worth a warning.

use std::fmt;
use std::io;

/// Why an inventory or the variables of a host can't be told.
///
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// Something that only Ansible itself can read.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The inventory does not know the host.
    #[error("the inventory has no host {name:?}; add it, or enrol the device under a name that is there")]
    UnknownHost {
        /// The name asked for.
        name: String,
    },
    /// A file of variables that Ansible can't read either.
    #[error("cannot read the variables in {file}: {message}; correct the file")]
    Variables {
        /// The file.
        file: String,
        /// What is wrong, with the line where it can be told.
        message: String,
    },
    /// Groups that Ansible refuses.
    #[error("the groups of the inventory make no tree: {message}; correct the `children`")]
    Groups {
        /// What is wrong.
        message: String,
    },
    /// A file of the layout with one file for each host.
    #[error("{file}: {message}")]
    HostFiles {
        /// The file.
        file: String,
        /// What is wrong with it, and what would be right.
        message: String,
    },
    /// A file or folder that can't be read.
    #[error("cannot read {path} of the inventory")]
    Read {
        /// The path in the tree.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl InventoryError {
    pub(crate) fn read(path: &str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Read { path: path.to_owned(), source }
    }
}

/// An inventory, or a part of it, that this reader leaves to Ansible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("cannot read {file} without Ansible: {reason}; {remedy}")]
pub struct Unsupported {
    /// The file.
    pub file: String,
    /// What is in the way.
    pub reason: Reason,
    /// What to do to have it read without Ansible.
    pub remedy: &'static str,
}

/// What is in the way of reading an inventory without Ansible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// A program whose output is the inventory.
    Script,
    /// The configuration of an inventory plugin.
    Plugin {
        /// The plugin.
        name: String,
    },
    /// A plugin for variables beside the playbook.
    VarsPlugin,
    /// TOML.
    Toml,
    /// The inventory itself is vaulted as a whole.
    SealedInventory,
    /// A file that neither Ansible nor this reader can read, or only Ansible.
    Unreadable {
        /// What each format had against it.
        attempts: Vec<String>,
    },
    /// A setting in `ansible.cfg` that changes how inventories are read.
    Setting {
        /// Section and key.
        key: String,
        /// Its value.
        value: String,
    },
    /// A link that leaves the tree.
    Link,
    /// Something rare in the text.
    Rare {
        /// What it is.
        what: String,
    },
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Script => f.write_str("it is a program"),
            Self::Plugin { name } => write!(f, "it configures the inventory plugin {name}"),
            Self::VarsPlugin => f.write_str("it is a plugin for variables"),
            Self::Toml => f.write_str("it is TOML"),
            Self::SealedInventory => f.write_str("it is vaulted as a whole"),
            Self::Unreadable { attempts } => write!(f, "it has no known form ({})", attempts.join("; ")),
            Self::Setting { key, value } => {
                write!(f, "the setting {key} = {value} changes how inventories are read")
            }
            Self::Link => f.write_str("it is a link that leaves the repository"),
            Self::Rare { what } => write!(f, "it has {what}"),
        }
    }
}

impl Reason {
    pub(crate) fn of(self, file: &str) -> Unsupported {
        let remedy = match &self {
            Self::Script | Self::Plugin { .. } => {
                "store its result in the repository as YAML (`ansible-inventory --list --export --yaml`)"
            }
            Self::VarsPlugin => "put the variables into group_vars and host_vars",
            Self::Toml => "write it as YAML",
            Self::SealedInventory => "vault only the values that are secret",
            Self::Unreadable { .. } => "correct it or take it out of the inventory",
            Self::Setting { .. } => "remove the setting",
            Self::Link => "let it point into the repository",
            Self::Rare { .. } => "write it in another way",
        };
        Unsupported { file: file.to_owned(), reason: self, remedy }
    }
}

/// Something that Ansible warns about too, or passes over in silence, and that may be a mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// A group's name is not one that can be used as a variable.
    GroupName {
        /// The group.
        group: String,
    },
    /// A group and a host have one name.
    SameName {
        /// The name.
        name: String,
    },
    /// A source is not there.
    Missing {
        /// The path.
        path: String,
    },
    /// A source that no format fits. What was read of it before the mistake counts, as in Ansible.
    Unreadable(Unsupported),
    /// A part of a file is passed over.
    Skipped {
        /// The file.
        file: String,
        /// The group in it.
        group: String,
        /// Why.
        reason: String,
    },
    /// A key stands twice in a map; the last one counts.
    DuplicateKey {
        /// The file.
        file: String,
        /// The line where the map begins, from 1.
        line: usize,
        /// The key.
        key: String,
    },
    /// `group_vars` or `host_vars` is no folder.
    NoFolder {
        /// The path.
        path: String,
    },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GroupName { group } => {
                write!(f, "the group name {group:?} has characters other than letters, digits and _")
            }
            Self::SameName { name } => write!(f, "{name:?} is a group and a host"),
            Self::Missing { path } => write!(f, "the inventory {path} is not there"),
            Self::Unreadable(unsupported) => write!(f, "{}: {}", unsupported.file, unsupported.reason),
            Self::Skipped { file, group, reason } => {
                write!(f, "{file}: a part of group {group:?} is passed over: {reason}")
            }
            Self::DuplicateKey { file, line, key } => {
                write!(f, "{file}:{line}: the key {key:?} stands twice in the map, the last one counts")
            }
            Self::NoFolder { path } => write!(f, "{path} is no folder and is passed over"),
        }
    }
}
