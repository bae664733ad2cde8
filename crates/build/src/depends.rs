//! What a source build-depends on: worked out by apt, installed once, kept as a layer.
//!
//! Unpacking the same thirty packages for each build would take longer than most builds. apt first
//! only lists what it would install; a layer in the base with exactly that list is laid over the
//! base instead of installing again. A layer is what an installation wrote, nothing else, so a
//! build over it is as clean as one that installed everything itself.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use jiff::SignedDuration;
use sha2::{Digest as _, Sha256};
use volary_host::{Cmd, create_dir};

use crate::base::Base;
use crate::builder::{AptLocation, AptSource, Phase};
use crate::cache::{Cache, Place};
use crate::diagnose::diagnose;
use crate::error::{BuildError, SetupError};
use crate::isolation::{Bind, Ended, Network, Run, RunAs};
use crate::log::Log;
use crate::repository::at;

/// Package lists of Debian itself are fetched again for a build when the chroot is older.
const LISTS_FRESH: SignedDuration = SignedDuration::from_hours(24);

/// How many layers a base keeps; the least recently used go. One takes about 150 MiB.
const LAYERS: usize = 16;

/// A place inside where only apt looks: the source read-only, local archives.
const INSIDE: &str = "/volary";

/// What to do with package lists before apt is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Update {
    /// Use those of the base.
    Nothing,
    /// Fetch those of the extra sources only.
    Extra,
    /// Fetch all.
    All,
}

impl Update {
    fn command(self) -> &'static str {
        match self {
            Self::Nothing => "true",
            Self::Extra => {
                "apt-get update -q -o APT::Update::Error-Mode=any -o Dir::Etc::sourcelist=/dev/null \
                 -o APT::Get::List-Cleanup=false"
            }
            Self::All => "apt-get update -q -o APT::Update::Error-Mode=any",
        }
    }
}

/// What apt is asked to do.
enum Step {
    /// Refresh the lists and say what would be installed.
    List(Update),
    /// Install it.
    Install,
}

/// What dependencies are installed for.
pub(crate) struct Wanted<'a> {
    pub cache: &'a Cache,
    pub base: &'a Base,
    pub place: &'a Place,
    /// The unpacked source.
    pub tree: &'a Path,
    pub extra: &'a [AptSource],
    /// When the whole build must be over.
    pub deadline: Instant,
    /// How long the whole build may take, for the message.
    pub limit: Duration,
}

/// The folders to build over, the topmost first: a layer with the dependencies, and the base.
pub(crate) fn ensure(wanted: &Wanted<'_>, log: &mut Log<'_>) -> Result<Vec<PathBuf>, BuildError> {
    let place = wanted.place.dir().join("depends");
    let stale = volary_host::now().duration_since(wanted.base.made) > LISTS_FRESH;
    let first = match (stale, wanted.extra.is_empty()) {
        (true, _) => Update::All,
        (false, true) => Update::Nothing,
        (false, false) => Update::Extra,
    };
    write_sources(wanted, &place.join("upper"))?;

    // Lists that are a little old name packages that are gone from the mirrors: fetched again once.
    let mut last = None;
    for update in [first, Update::All] {
        if last.is_some() && first == Update::All {
            break;
        }
        let before = log.lines();
        match apt(wanted, &place, &Step::List(update), log)? {
            Ended::Well => {}
            ended => {
                last = Some((ended, before));
                continue;
            }
        }
        let installs = installs(&log.since(before));
        if installs.is_empty() {
            return Ok(vec![wanted.base.rootfs()]);
        }
        let key = key(&installs);
        let layer = wanted.base.layers().join(&key);
        if claim(wanted, &layer, &key)? {
            log.line(&format!(
                "(the {} packages are already unpacked in layer {})",
                installs.len(),
                &key[..12]
            ));
            return Ok(vec![layer, wanted.base.rootfs()]);
        }
        let before = log.lines();
        match apt(wanted, &place, &Step::Install, log)? {
            Ended::Well => {
                keep(wanted, &place.join("upper"), &layer, &key)?;
                return Ok(vec![layer, wanted.base.rootfs()]);
            }
            ended => last = Some((ended, before)),
        }
    }
    let (ended, before) = last.expect("the loop ran");
    Err(failed(wanted, &ended, before, log))
}

/// How apt is asked, both to list and to install: the answers must be the same.
const OPTIONS: &str = "-q -y --no-install-recommends -o Dpkg::Use-Pty=0";

/// What installs. Downloaded packages come from the shared folder by hard link and go back in the
/// same way, since apt locks the folder that it works in. It checks the hash of each before use.
fn install(own: &str) -> String {
    let find =
        |from: &str, to: &str| format!("find {from} -maxdepth 1 -name '*.deb' -exec ln -f -t {to} {{}} +");
    let (shared, own) = (format!("{INSIDE}/archives"), format!("{INSIDE}/archives/{own}"));
    format!(
        "{} && apt-get build-dep {OPTIONS} -o Dir::Cache::archives={own}/ {INSIDE}/source && {} && \
         rm -rf /etc/apt/sources.list.d/volary-* /etc/apt/apt.conf.d/90volary",
        find(&shared, &own),
        find(&own, &shared),
    )
}

fn apt(wanted: &Wanted<'_>, place: &Path, step: &Step, log: &mut Log<'_>) -> Result<Ended, BuildError> {
    let bind = |source: &Path, target: String, writable| Bind { source: source.to_owned(), target, writable };
    let archives = wanted.base.archives();
    // In the shared folder, because hard links cannot leave a mount.
    let own = archives.join(name_of(wanted.place.dir()));
    wanted.cache.isolation().remove(&own)?;
    create_dir(&own)?;
    let mut binds = vec![
        bind(wanted.tree, format!("{INSIDE}/source"), false),
        bind(&archives, format!("{INSIDE}/archives"), true),
    ];
    for (index, source) in wanted.extra.iter().enumerate() {
        if let AptLocation::Folder(folder) = &source.location {
            binds.push(bind(folder, format!("{INSIDE}/archive-{index}"), false));
        }
    }
    let command = match step {
        Step::List(update) => {
            format!("{} && apt-get build-dep --simulate {OPTIONS} {INSIDE}/source", update.command())
        }
        Step::Install => install(&name_of(&own)),
    };
    let rootfs = wanted.base.rootfs();
    let ended = wanted.cache.isolation().run(
        &Run {
            lower: &[&rootfs],
            place,
            network: Network::On,
            run_as: RunAs::Root,
            binds: &binds,
            environment: &environment(),
            dir: "/",
            command: &command,
            timeout: wanted.deadline.saturating_duration_since(Instant::now()),
        },
        log,
    );
    wanted.cache.isolation().remove(&own)?;
    Ok(ended?)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The environment of apt: nothing of the builder's but its proxy.
fn environment() -> Vec<(&'static str, String)> {
    let mut environment = vec![
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME", "/root".to_owned()),
        ("LC_ALL", "C.UTF-8".to_owned()),
        ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
    ];
    for name in ["http_proxy", "https_proxy", "no_proxy"] {
        if let Ok(value) = std::env::var(name)
            && !value.contains('\n')
        {
            environment.push((name, value));
        }
    }
    environment
}

/// Puts the extra sources into the folder that becomes the upper one of the view.
fn write_sources(wanted: &Wanted<'_>, upper: &Path) -> Result<(), SetupError> {
    if wanted.extra.is_empty() {
        return Ok(());
    }
    let lists = upper.join("etc/apt/sources.list.d");
    let settings = upper.join("etc/apt/apt.conf.d");
    create_dir(&lists)?;
    create_dir(&settings)?;
    for (index, source) in wanted.extra.iter().enumerate() {
        let uri = match &source.location {
            AptLocation::Folder(_) => format!("file:{INSIDE}/archive-{index}"),
            AptLocation::Url { url, ca } => {
                if let Some(ca) = ca {
                    let file = format!("volary-{index}.pem");
                    let host = url.split("://").nth(1).unwrap_or_default();
                    let host = host.split(['/', ':']).next().unwrap_or_default();
                    let line =
                        format!("Acquire::https::{host}::CAInfo \"/etc/apt/sources.list.d/{file}\";\n");
                    put(&lists.join(file), ca)?;
                    put(&settings.join("90volary"), &line)?;
                }
                url.clone()
            }
        };
        put(&lists.join(format!("volary-{index}.sources")), &deb822(source, &uri))?;
    }
    Ok(())
}

fn put(path: &Path, text: &str) -> Result<(), SetupError> {
    Ok(volary_host::write_atomic(path, text.as_bytes(), 0o644)?)
}

/// The source in the format of sources.list(5), with its key inside.
fn deb822(source: &AptSource, uri: &str) -> String {
    let mut text = format!("Types: deb\nURIs: {uri}\nSuites: {}\n", source.suite);
    if !source.components.is_empty() {
        writeln!(text, "Components: {}", source.components.join(" ")).expect("a String takes any write");
    }
    text.push_str("Signed-By:\n");
    for line in source.key.trim_end().lines() {
        let line = if line.trim().is_empty() { "." } else { line };
        writeln!(text, " {line}").expect("a String takes any write");
    }
    text
}

/// The lines of apt's simulation that say what would change.
fn installs(said: &str) -> Vec<String> {
    let mut lines: Vec<String> = said
        .lines()
        .filter(|line| line.starts_with("Inst ") || line.starts_with("Remv "))
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines
}

/// Names a layer: the same packages of the same versions on the same base are the same layer.
fn key(installs: &[String]) -> String {
    let digest = Sha256::digest(installs.join("\n"));
    digest[..16].iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn parts(wanted: &Wanted<'_>, key: &str) -> [String; 2] {
    [wanted.base.id.clone(), format!("{}/{key}", wanted.base.id)]
}

/// True if the layer is there; then it is noted as used.
fn claim(wanted: &Wanted<'_>, layer: &Path, key: &str) -> Result<bool, SetupError> {
    let _books = wanted.cache.lock()?;
    if !layer.exists() {
        return Ok(false);
    }
    wanted.place.uses(&parts(wanted, key))?;
    let folder = fs::File::open(layer).map_err(at("open", layer))?;
    folder.set_modified(SystemTime::now()).map_err(at("touch", layer))?;
    Ok(true)
}

/// Makes what an installation wrote a layer, and lets the least recently used ones go.
fn keep(wanted: &Wanted<'_>, upper: &Path, layer: &Path, key: &str) -> Result<(), SetupError> {
    // Its name says that it is whole, so it must be on the disk before it gets it.
    Cmd::new("sync").arg("--file-system").arg(upper).timeout(Duration::from_secs(600)).check()?;
    let trash = wanted.cache.place("old-layers")?;
    let _books = wanted.cache.lock()?;
    if !layer.exists() {
        fs::rename(upper, layer).map_err(at("move the new layer to", layer))?;
        let now = fs::File::open(layer).and_then(|folder| folder.set_modified(SystemTime::now()));
        now.map_err(at("touch", layer))?;
    }
    wanted.place.uses(&parts(wanted, key))?;

    let used = wanted.cache.in_use()?;
    let layers = wanted.base.layers();
    let mut all: Vec<(SystemTime, String)> = fs::read_dir(&layers)
        .map_err(at("read", &layers))?
        .flatten()
        .filter_map(|entry| {
            let age = entry.metadata().and_then(|meta| meta.modified()).ok()?;
            Some((age, entry.file_name().to_string_lossy().into_owned()))
        })
        .collect();
    all.sort();
    let surplus = all.len().saturating_sub(LAYERS);
    for (_, name) in all.into_iter().take(surplus) {
        if !used.contains(&format!("{}/{name}", wanted.base.id)) {
            let from = layers.join(&name);
            fs::rename(&from, trash.dir().join(&name)).map_err(at("remove", &from))?;
        }
    }
    Ok(())
}

fn failed(wanted: &Wanted<'_>, ended: &Ended, before: usize, log: &Log<'_>) -> BuildError {
    let (phase, tail) = (Phase::Dependencies, log.tail());
    match ended {
        Ended::TimedOut => {
            BuildError::TimedOut { phase, limit: wanted.limit, last: log.last().to_owned(), tail }
        }
        Ended::Well | Ended::Badly => {
            BuildError::Failed { phase, reason: diagnose(&log.since(before)), tail }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_packages_are_the_same_layer() {
        let one = "Reading...\nInst b (1 x [amd64])\nInst a (2 x [all])\nConf a (2 x [all])\n";
        let two = "Inst a (2 x [all])\nnoise\nInst b (1 x [amd64])";
        assert_eq!(key(&installs(one)), key(&installs(two)));
        assert_ne!(key(&installs(one)), key(&installs("Inst a (3 x [all])\nInst b (1 x [amd64])")));
        assert!(installs("Reading package lists...\n0 upgraded, 0 newly installed").is_empty());
    }

    #[test]
    fn a_source_carries_its_key() {
        let source = AptSource {
            location: AptLocation::Folder("/srv".into()),
            suite: "rolling".to_owned(),
            components: vec!["main".to_owned()],
            key: "-----BEGIN-----\n\nabc\n-----END-----\n".to_owned(),
        };
        assert_eq!(
            deb822(&source, "file:/volary/archive-0"),
            "Types: deb\nURIs: file:/volary/archive-0\nSuites: rolling\nComponents: main\n\
             Signed-By:\n -----BEGIN-----\n .\n abc\n -----END-----\n"
        );
    }
}
