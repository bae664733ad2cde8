//! What apt would do to get to a suite, without doing it: indexes are fetched into a folder of their
//! own, apt simulates against them, and nothing that the device uses is touched. Not here: what the
//! playbook would do to packages.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use volary_fleet::LockedRelease;
use volary_host::{Cmd, FileError, create_dir, write_atomic};
use volary_model::Architecture;

use crate::apt::{self, AptError};

/// Where the indexes of apt are on every Debian.
const LISTS: &str = "/var/lib/apt/lists";

/// The sources of apt on every Debian.
const SOURCES: (&str, &str) = ("/etc/apt/sources.list", "/etc/apt/sources.list.d");

/// The suite to go to.
#[derive(Debug)]
pub struct Wanted<'a> {
    /// The archive: `https://server/archive`.
    pub archive: &'a str,
    /// The suite.
    pub suite: &'a str,
    /// What the signed lock says of it, if it is pinned.
    pub locked: Option<&'a LockedRelease>,
    /// The key that signs the archive, as a file.
    pub key: &'a Path,
    /// The certificate of the server's authority, as a file.
    pub ca: &'a Path,
    /// What the device runs on.
    pub architecture: &'a Architecture,
    /// The database of dpkg.
    pub dpkg: &'a Path,
}

/// The packages that would move: name → (before, after), empty text for "not there".
pub type Moves = BTreeMap<String, (String, String)>;

/// What would move, in the folder `scratch`, which is made and removed again.
///
/// # Errors
/// [`AptError`], also if apt could not do it.
pub fn moves(wanted: &Wanted<'_>, scratch: &Path) -> Result<Moves, AptError> {
    clear(scratch)?;
    let found = simulated(wanted, scratch);
    clear(scratch)?;
    found
}

fn simulated(wanted: &Wanted<'_>, scratch: &Path) -> Result<Moves, AptError> {
    let apt = Apart::new(wanted, scratch)?;
    apt.update()?;
    let source = apt.source(wanted)?;
    if let Some(locked) = wanted.locked {
        apt::check_release(&source, locked, wanted.architecture)?;
    }
    let offers = apt::offers(&source, wanted.locked)?;
    let plan = apt::plan(&apt::installed(wanted.dpkg)?, &offers);
    if plan.is_empty() { Ok(Moves::new()) } else { apt.install(&plan) }
}

fn clear(folder: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(FileError::at("remove", folder)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// apt with indexes and sources of its own.
struct Apart {
    /// A configuration that outranks that of the system.
    conf: PathBuf,
    /// The one source that is fetched.
    list: PathBuf,
}

impl Apart {
    fn new(wanted: &Wanted<'_>, scratch: &Path) -> Result<Self, AptError> {
        let (lists, parts) = (scratch.join("lists"), scratch.join("sources.list.d"));
        create_dir(&lists.join("partial"))?;
        create_dir(&parts)?;
        // What the other sources offer is needed for dependencies, and is there already.
        link_all(Path::new(LISTS), &lists, |_| true)?;
        let ours = |path: &Path| {
            let text = volary_host::read_to_string(path).unwrap_or_default();
            text.contains(wanted.archive)
        };
        link_all(Path::new(SOURCES.1), &parts, |path| !ours(path))?;
        let main = Path::new(SOURCES.0);
        if main.is_file() && !ours(main) {
            link(main, &parts.join("main.list"))?;
        }
        let list = parts.join("volary-plan.sources");
        write_atomic(&list, source(wanted).as_bytes(), 0o644)?;
        let conf = scratch.join("apt.conf");
        let host = wanted.archive.trim_start_matches("https://");
        let host = host.split(['/', ':']).next().unwrap_or(host);
        let text = format!(
            "Dir::State::lists \"{}/\";\nDir::Etc::sourcelist \"/dev/null\";\nDir::Etc::sourceparts \"{}/\";\n\
             Dir::Cache::pkgcache \"\";\nDir::Cache::srcpkgcache \"\";\nAPT::Sandbox::User \"root\";\n\
             Acquire::https::{host}::CaInfo \"{}\";\n",
            lists.display(),
            parts.display(),
            wanted.ca.display()
        );
        write_atomic(&conf, text.as_bytes(), 0o644)?;
        Ok(Self { conf, list })
    }

    fn command(&self, args: &[&str]) -> Cmd {
        apt::noninteractive(Cmd::new("apt-get").args(args)).env("APT_CONFIG", &self.conf)
    }

    fn update(&self) -> Result<(), AptError> {
        let list = format!("Dir::Etc::sourcelist={}", self.list.display());
        self.command(&["update", "-q", "--error-on=any"])
            .args(["-o", &list, "-o", "Dir::Etc::sourceparts=-", "-o", "APT::Get::List-Cleanup=0"])
            .timeout(apt::UPDATE)
            .check()?;
        Ok(())
    }

    fn source(&self, wanted: &Wanted<'_>) -> Result<apt::Source, AptError> {
        let listed =
            self.command(&["indextargets", "--no-release-info", "--format", apt::TARGETS]).check()?.text();
        apt::find_source(&listed, wanted.archive, wanted.suite, wanted.architecture).ok_or_else(|| {
            AptError::NoSource { url: wanted.archive.to_owned(), suite: wanted.suite.to_owned() }
        })
    }

    fn install(&self, plan: &[String]) -> Result<Moves, AptError> {
        let said = self
            .command(&["install", "--simulate", "-q", "-y", "--allow-downgrades", "--no-remove"])
            .arg("--no-install-recommends")
            .args(plan)
            .timeout(apt::UPDATE)
            .check()?;
        Ok(parse(&said.text()))
    }
}

/// A source of the wanted suite alone. Its components are those that the lock names, or all that the
/// archive of a fleet has by itself.
fn source(wanted: &Wanted<'_>) -> String {
    let mut components: Vec<String> = wanted
        .locked
        .iter()
        .flat_map(|locked| locked.indexes.keys())
        .filter_map(|index| index.to_string().split_once('/').map(|(component, _)| component.to_owned()))
        .collect();
    components.sort();
    components.dedup();
    if components.is_empty() {
        components.push("main".to_owned());
    }
    format!(
        "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\nArchitectures: {}\nSigned-By: {}\n",
        wanted.archive,
        wanted.suite,
        components.join(" "),
        wanted.architecture,
        wanted.key.display()
    )
}

fn link(target: &Path, at: &Path) -> Result<(), FileError> {
    symlink(target, at).map_err(FileError::at("link", at))
}

/// Links the files of a folder into another one.
fn link_all(from: &Path, to: &Path, wanted: impl Fn(&Path) -> bool) -> Result<(), FileError> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().unwrap_or_default();
        if path.is_file() && name != "lock" && wanted(&path) {
            link(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// What `apt-get --simulate` says: `Inst name [before] (after suite [arch])`, `Remv name [before]`.
fn parse(said: &str) -> Moves {
    let mut moves = Moves::new();
    for line in said.lines() {
        let mut words = line.split_whitespace();
        let (Some(verb @ ("Inst" | "Remv")), Some(name)) = (words.next(), words.next()) else { continue };
        let between = |open: char, close: char| {
            let (_, rest) = line.split_once(open)?;
            rest.split([' ', close]).next().map(str::to_owned)
        };
        // Of a package that is new, the first bracket is that of its architecture.
        let before = line.split_once('(').map_or(line, |(before, _)| before);
        let before = before.split_once('[').and_then(|(_, rest)| rest.split(']').next()).unwrap_or_default();
        let after = if verb == "Inst" { between('(', ')').unwrap_or_default() } else { String::new() };
        moves.insert(name.to_owned(), (before.to_owned(), after));
    }
    moves
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_apt_would_do_is_understood() {
        let said = "Reading package lists...\nInst libc6 [2.36-9+deb12u4] (2.36-9+deb12u9 Debian:12.9/stable [amd64])\n\
                    Inst new (1.0 volary:rolling [all])\nRemv old [1]\nConf libc6 (2.36-9+deb12u9 Debian [amd64])\n\
                    0 upgraded, 1 newly installed\n";
        let moves: Vec<String> = parse(said)
            .into_iter()
            .map(|(name, (before, after))| format!("{name} {before}>{after}"))
            .collect();
        assert_eq!(moves, ["libc6 2.36-9+deb12u4>2.36-9+deb12u9", "new >1.0", "old 1>"]);
    }

    #[test]
    fn the_source_has_the_components_of_the_lock() {
        let digest = volary_model::Digest::from_bytes([1; 32]);
        let index = |name: &str| (name.parse().unwrap(), digest);
        let locked = LockedRelease {
            release: "v1.0/r1".parse().unwrap(),
            digest,
            indexes: [index("main/amd64"), index("debug/amd64"), index("main/arm64")].into(),
        };
        let wanted = Wanted {
            archive: "https://v:1/archive",
            suite: "v1.0/r1",
            locked: Some(&locked),
            key: Path::new("/k.asc"),
            ca: Path::new("/ca.pem"),
            architecture: &"amd64".parse().unwrap(),
            dpkg: Path::new("/var/lib/dpkg"),
        };
        assert!(source(&wanted).contains("Components: debug main\n"), "{}", source(&wanted));
        assert!(source(&Wanted { locked: None, ..wanted }).contains("Components: main\n"));
    }
}
