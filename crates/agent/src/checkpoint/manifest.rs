//! What a checkpoint remembers, as it stands in `manifest.json`. Only types, and how they are
//! written; what fills them is in the neighbouring files, what puts it back is in `undo`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use volary_device::Target;
use volary_model::Slot;

/// The version of this format. An older agent that is put back reads what a newer one wrote, so
/// fields are only added, with a default, as long as it stays the same.
pub const VERSION: u32 = 1;

/// What a device was before a change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`VERSION`].
    pub version: u32,
    /// Its own name: the folder it is in.
    pub id: String,
    /// What the change goes for.
    pub target: Target,
    /// The wall clock.
    pub clock: Clock,
    /// The slot that ran; `None` on a device without slots. It is put back in this slot alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slot: Option<Slot>,
    /// True if the change puts an image into the other slot.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub image: bool,
    /// How the management path was.
    pub path: PathWas,
    /// The folders whose files are remembered: what is new in them goes away again.
    pub trees: Vec<FileName>,
    /// Everything in those folders.
    pub files: Vec<Entry>,
    /// What was left out, and why.
    pub left_out: Vec<LeftOut>,
    /// Packages: `name:architecture` → version, as dpkg has them.
    pub packages: BTreeMap<String, String>,
    /// Packages that apt thinks were asked for by a person.
    pub manual: BTreeSet<String>,
    /// Packages on hold.
    pub held: BTreeSet<String>,
    /// Units that ran or had failed.
    pub units: BTreeMap<String, UnitWas>,
    /// The kernel's network state; `None` where it was not looked at.
    pub network: Option<Network>,
    /// True if `MemAvailable` was at a twentieth of the memory or more.
    pub memory_was_free: bool,
}

/// The clocks at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clock {
    /// The wall's.
    pub wall: Timestamp,
    /// Milliseconds since boot.
    pub boot_ms: u64,
    /// Which boot.
    pub boot_id: String,
    /// True if the kernel said that a time server keeps it right.
    pub synchronised: bool,
}

/// The way to the server before the change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathWas {
    /// The server.
    pub server: String,
    /// Its authority, PEM: the file may be gone when it is needed.
    pub ca: String,
    /// Whether it worked. What did not work is not judged.
    pub worked: bool,
}

/// One file, folder or link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its absolute path.
    pub path: FileName,
    /// What it is.
    #[serde(flatten)]
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// When its content changed, seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Extended attributes, access lists among them: name → value in hex.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// A folder.
    Folder,
    /// A symbolic link.
    Link {
        /// Where it leads, as it is written in it.
        target: FileName,
    },
    /// A file whose content is a blob.
    File {
        /// SHA-256 of its content, hex: the blob's name.
        sha256: String,
        /// By what the file is known again without reading it.
        seen: Seen,
        /// It comes back if it is gone, and is left as it is otherwise: an identity or a record
        /// that must not go back in time.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        only_if_gone: bool,
    },
}

/// What changes whenever somebody writes to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// Device.
    pub dev: u64,
    /// Number on it.
    pub ino: u64,
    /// Length.
    pub size: u64,
    /// Status change, seconds and nanoseconds.
    pub ctime: (i64, i64),
}

/// What is not in the checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Which file or folder.
    pub path: FileName,
    /// Why.
    pub why: String,
}

/// How a unit of systemd was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitWas {
    /// `active`, `failed`, …
    pub active: String,
    /// `running`, `exited`, …
    pub sub: String,
    /// `enabled`, `disabled`, `static`, …
    pub file: String,
    /// How often systemd had started it again.
    #[serde(default)]
    pub restarts: u32,
}

/// What the kernel knew of the network. Text as the tools give and take it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// `nft list ruleset`; `None` where there is no nft.
    pub nftables: Option<String>,
    /// `iptables-legacy-save` and `ip6tables-legacy-save`.
    pub iptables: [Option<String>; 2],
    /// `ip -details route show table all`, IPv4 and IPv6, without what the kernel makes itself.
    pub routes: [BTreeSet<String>; 2],
    /// `ip rule show`, IPv4 and IPv6.
    pub rules: [BTreeSet<String>; 2],
    /// Interface → how it was.
    pub links: BTreeMap<String, Link>,
    /// Path below `/proc/sys/net` → value.
    pub sysctls: BTreeMap<String, String>,
}

/// One interface.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Whether it was switched on.
    pub up: bool,
    /// The longest packet.
    pub mtu: u32,
    /// The bridge or bond that it belongs to.
    pub master: Option<String>,
    /// Its addresses, each as the arguments that add it.
    pub addresses: BTreeSet<String>,
}

impl Manifest {
    /// What is remembered of a path.
    pub fn entry(&self, path: &Path) -> Option<&Entry> {
        // The walk gives them in the order of their paths.
        let found = self.files.binary_search_by(|entry| entry.path.as_path().cmp(path)).ok()?;
        self.files.get(found)
    }
}

/// A path that stands in JSON: names of files need not be text. Bytes that are not UTF-8, and
/// `%`, are written as `%` and two hex digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileName(PathBuf);

impl FileName {
    /// The path.
    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl From<PathBuf> for FileName {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl From<&Path> for FileName {
    fn from(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Serialize for FileName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use std::os::unix::ffi::OsStrExt;
        let mut text = String::new();
        for chunk in self.0.as_os_str().as_bytes().utf8_chunks() {
            text.push_str(&chunk.valid().replace('%', "%25"));
            for byte in chunk.invalid() {
                write!(text, "%{byte:02X}").expect("a String takes any write");
            }
        }
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use std::os::unix::ffi::OsStringExt;
        let text = String::deserialize(deserializer)?;
        let mut parts = text.split('%');
        let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
        for part in parts {
            let byte = part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            let wrong = || serde::de::Error::custom(format!("{text:?} has a % without two hex digits"));
            bytes.push(byte.ok_or_else(wrong)?);
            bytes.extend_from_slice(&part.as_bytes()[2..]);
        }
        Ok(Self(std::ffi::OsString::from_vec(bytes).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_text_survive() {
        use std::os::unix::ffi::OsStrExt;
        for bytes in [&b"/etc/plain"[..], b"/etc/100%", b"/etc/\xff\xfe%41", "/etc/ü".as_bytes()] {
            let name = FileName::from(Path::new(std::ffi::OsStr::from_bytes(bytes)));
            let json = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<FileName>(&json).unwrap(), name, "{json}");
        }
        assert!(serde_json::from_str::<FileName>("\"/etc/%4\"").is_err());
    }
}
