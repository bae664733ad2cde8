//! What a source build-depends on: worked out by apt, installed once, kept as a layer.
//!
//! Unpacking the same thirty packages for each build would take longer than most builds. apt first
//! only lists what it would install; a layer in the base with exactly that list is laid over the
//! base instead of installing again. A layer is what an installation wrote, nothing else, so a
//! build over it is as clean as one that installed everything itself.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use volary_host::create_dir;

use crate::base::Base;
use crate::builder::Phase;
use crate::cache::{Cache, Place};
use crate::diagnose::diagnose;
use crate::error::{BuildError, SetupError};
use crate::isolation::{Bind, Ended, Network, Run, RunAs};
use crate::layers::{LISTS_FRESH, Layers};
use crate::limits::{Limits, Watch};
use crate::log::Log;
use crate::sources::{self, AptSource};
use crate::target::Target;

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
    /// Which of them are needed.
    pub target: &'a Target<'a>,
    /// When the whole build must be over.
    pub deadline: Instant,
    /// How long the whole build may take, for the message.
    pub limit: Duration,
}

impl Wanted<'_> {
    fn layers(&self) -> Layers<'_> {
        Layers { cache: self.cache, base: self.base, place: self.place }
    }
}

/// The folders to build over, the topmost first: a layer with the dependencies, and the base.
pub(crate) fn ensure(wanted: &Wanted<'_>, log: &mut Log<'_>) -> Result<Vec<PathBuf>, BuildError> {
    let layers = wanted.layers();
    let question = question(wanted)?;
    if let Some(question) = &question
        && let Some(layer) = layers.recall(question)?
    {
        log.line("(the same as before; they are installed already)");
        return Ok(layers.over(layer.as_deref()));
    }
    let stale = volary_host::now().duration_since(wanted.base.made) > LISTS_FRESH;
    let first = match (stale, wanted.extra.is_empty()) {
        (true, _) => Update::All,
        (false, true) => Update::Nothing,
        (false, false) => Update::Extra,
    };
    let mut before = log.lines();
    let mut attempt = attempt(wanted, first, log)?;
    // Lists that are a little old name packages that are gone from the mirrors.
    if first != Update::All && matches!(attempt, Attempt::Ended(Ended::Badly(_))) {
        before = log.lines();
        attempt = self::attempt(wanted, Update::All, log)?;
    }
    match attempt {
        Attempt::Ready { layer, lists } => {
            if let Some(question) = question {
                layers.remember(&question, layer.as_deref(), lists)?;
            }
            Ok(layers.over(layer.as_deref()))
        }
        Attempt::Ended(ended) => Err(failed(wanted, &ended, before, log)),
    }
}

/// How one attempt came out.
enum Attempt {
    /// The layer is there, or none is needed; and when the lists were fetched that say so.
    Ready { layer: Option<String>, lists: Timestamp },
    /// apt did not do it.
    Ended(Ended),
}

fn attempt(wanted: &Wanted<'_>, update: Update, log: &mut Log<'_>) -> Result<Attempt, BuildError> {
    // Each in a folder of its own: what a failed installation left must not get into a layer.
    let place = wanted.place.dir().join(match update {
        Update::Nothing | Update::Extra => "depends",
        Update::All => "depends-again",
    });
    sources::write(wanted.extra, &place.join("upper"))?;
    let before = log.lines();
    let started = volary_host::now();
    match apt(wanted, &place, &Step::List(update), log)? {
        Ended::Well => {}
        ended => return Ok(Attempt::Ended(ended)),
    }
    let lists = match update {
        Update::Nothing | Update::Extra => wanted.base.made,
        Update::All => started,
    };
    let installs = installs(&log.since(before));
    if installs.is_empty() {
        return Ok(Attempt::Ready { layer: None, lists });
    }
    let key = key(&installs);
    if !wanted.layers().claim(&key)? {
        match apt(wanted, &place, &Step::Install, log)? {
            Ended::Well => wanted.layers().keep(&place.join("upper"), &key)?,
            ended => return Ok(Attempt::Ended(ended)),
        }
    }
    Ok(Attempt::Ready { layer: Some(key), lists })
}

/// Names what apt is asked: the source's own words on what it needs, and what the extra archives
/// offer. None where the latter cannot be known without asking.
fn question(wanted: &Wanted<'_>) -> Result<Option<String>, SetupError> {
    let Some(archives) = sources::state(wanted.extra) else { return Ok(None) };
    let control = volary_host::read(&wanted.tree.join("debian/control"))?;
    let mut hasher = Sha256::new();
    hasher.update(archives);
    hasher.update(wanted.target.build_dep());
    // The first paragraph, which is that of the source.
    for line in control.split_inclusive(|&byte| byte == b'\n').skip_while(|line| line.trim_ascii().is_empty())
    {
        if line.trim_ascii().is_empty() {
            break;
        }
        hasher.update(line);
    }
    Ok(Some(hex(&hasher.finalize()[..16])))
}

/// How apt is asked, both to list and to install: the answers must be the same.
const OPTIONS: &str = "-q -y --no-install-recommends -o Dpkg::Use-Pty=0";

/// What the commands answer when packages or lists cannot be fetched, to be told from those that
/// do not exist. apt itself answers 100 to everything.
const NOT_FETCHED: i32 = 42;

/// What installs. Downloaded packages come from the shared folder by hard link and go back in the
/// same way, since apt locks the folder that it works in. It checks the hash of each before use.
fn install(own: &str, which: &str) -> String {
    let find =
        |from: &str, to: &str| format!("find {from} -maxdepth 1 -name '*.deb' -exec ln -f -t {to} {{}} +");
    let (shared, own) = (format!("{INSIDE}/archives"), format!("{INSIDE}/archives/{own}"));
    let apt = format!("apt-get build-dep {OPTIONS} {which} -o Dir::Cache::archives={own}/ {INSIDE}/source");
    format!(
        "{} && {{ {apt} --download-only || exit {NOT_FETCHED}; }} && {} && {apt} && \
         rm -rf /etc/apt/sources.list.d/volary-* /etc/apt/apt.conf.d/90volary-*",
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
    binds.extend(sources::binds(wanted.extra));
    let command = match step {
        Step::List(update) => {
            let update = update.command();
            format!(
                "{{ {update} || exit {NOT_FETCHED}; }} && \
                 apt-get build-dep --simulate {OPTIONS} {} {INSIDE}/source",
                wanted.target.build_dep()
            )
        }
        Step::Install => install(&name_of(&own), &wanted.target.build_dep()),
    };
    let rootfs = wanted.base.rootfs();
    let ended = wanted.cache.isolation().run(
        &Run {
            lower: &[&rootfs],
            place,
            emulator: wanted.base.emulator.as_ref(),
            network: Network::On,
            run_as: RunAs::Root,
            binds: &binds,
            environment: &environment(),
            dir: "/",
            command: &command,
            timeout: wanted.deadline.saturating_duration_since(Instant::now()),
            watch: Watch { limits: &Limits::default(), stop: wanted.place.stop() },
            host: "builder",
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
    hex(&digest[..16])
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn failed(wanted: &Wanted<'_>, ended: &Ended, before: usize, log: &Log<'_>) -> BuildError {
    let (phase, tail) = (Phase::Dependencies, log.tail());
    match ended {
        Ended::TimedOut => {
            BuildError::TimedOut { phase, limit: wanted.limit, last: log.last().to_owned(), tail }
        }
        Ended::Badly(NOT_FETCHED) => {
            SetupError::Packages { reason: diagnose(&log.since(before)), tail }.into()
        }
        Ended::Broken(_) => BuildError::Cancelled,
        Ended::Well | Ended::Badly(_) | Ended::OutOfMemory => {
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
}
