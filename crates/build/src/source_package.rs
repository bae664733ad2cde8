//! The source package (`.dsc` and tars) of what is built, made before anything has changed the
//! tree. Not here: whether it is published.

use std::path::Path;
use std::time::{Duration, Instant};

use volary_model::CommitId;

use crate::collect::read_bounded;
use crate::emulate::Emulator;
use crate::error::{BuildError, SetupError};
use crate::isolation::{Ended, Isolation, Network, Run, RunAs};
use crate::limits::Watch;
use crate::log::Log;
use crate::repository::Repository;

/// What a source package is made of.
pub(crate) struct Wanted<'a> {
    pub isolation: Isolation,
    /// The view of the source: the unpacked tree is in `build/PACKAGE` of the first.
    pub lower: &'a [&'a Path],
    /// A folder for the new files, which come to `upper/build` in it.
    pub place: &'a Path,
    pub emulator: Option<&'a Emulator>,
    pub package: &'a str,
    pub version: &'a str,
    /// Seconds since 1970 for the files of an upstream tarball.
    pub upstream_time: i64,
    pub deadline: Instant,
    pub watch: Watch<'a>,
}

/// Makes it. The answer is why there is none, if there is none: binary packages can be built all
/// the same.
pub(crate) fn make(wanted: &Wanted<'_>, log: &mut Log<'_>) -> Result<Option<String>, BuildError> {
    let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "+-.:~".contains(c));
    if !plain(wanted.package) || !plain(wanted.version) {
        return Ok(Some("its name or version has characters that no file name has".to_owned()));
    }
    let tree = wanted.lower[0].join("build").join(wanted.package);
    let usual = usual(&format_of(&tree), wanted);
    let whole = whole(wanted);
    // A native package with a revision, patches that are applied already: then all in one tarball.
    let command = match usual {
        Some(usual) => format!("{{ {{ {usual}; }} || {{ {whole}; }}; }}"),
        None => whole,
    };
    let ended = wanted.isolation.run(
        &Run {
            lower: wanted.lower,
            place: wanted.place,
            emulator: wanted.emulator,
            network: Network::Off,
            run_as: RunAs::Builder,
            binds: &[],
            environment: &[
                ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
                ("HOME", "/nonexistent".to_owned()),
                ("LC_ALL", "C.UTF-8".to_owned()),
            ],
            dir: "/build",
            command: &format!("umask 022 && {command}"),
            timeout: wanted.deadline.saturating_duration_since(Instant::now()).max(Duration::from_secs(1)),
            watch: wanted.watch,
            host: "builder",
        },
        log,
    )?;
    Ok(match ended {
        Ended::Well => None,
        Ended::Badly(_) | Ended::TimedOut | Ended::OutOfMemory => Some(log.last().to_owned()),
        Ended::Broken(_) if wanted.watch.stop.is_asked() => return Err(SetupError::Stopped.into()),
        Ended::Broken(_) => Some("it broke a bound of builds".to_owned()),
    })
}

/// The time for upstream's files: of the newest commit that changed any, so that the tarball stays
/// the same, byte for byte, while only the packaging changes.
pub(crate) fn upstream_time(repository: &Repository, commit: &CommitId) -> Option<i64> {
    let log = repository.git().args(["-c", "log.showSignature=false", "log", "-1", "--format=%ct"]);
    let log = log.args([commit.as_str(), "--", ".", ":(exclude)debian"]);
    log.run().ok()?.text().trim().parse().ok()
}

/// The first line of `debian/source/format`.
fn format_of(tree: &Path) -> String {
    let path = tree.join("debian/source/format");
    let inside = path.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let text = if inside { read_bounded(&path).ok().flatten() } else { None };
    text.and_then(|text| text.lines().next().map(|line| line.trim().to_owned())).unwrap_or("1.0".to_owned())
}

/// What dpkg-source needs for the source's own format, if it is one that a commit alone can make.
fn usual(format: &str, wanted: &Wanted<'_>) -> Option<String> {
    let package = wanted.package;
    let build = format!("dpkg-source --build {package}");
    // Files have no epoch in their names.
    let version = wanted.version.split_once(':').map_or(wanted.version, |(_, rest)| rest);
    let upstream = version.rsplit_once('-').map(|(upstream, _)| upstream);
    let (end, compress) = match format {
        "3.0 (native)" => return Some(build),
        "1.0" if upstream.is_none() => return Some(build),
        "1.0" => ("gz", "gzip -9n"),
        "3.0 (quilt)" => ("xz", "xz -T1"),
        _ => return None,
    };
    let upstream = upstream?;
    let tar = tar(
        wanted,
        &format!("--anchored --exclude={package}/debian --transform 's,^{package},{package}-{upstream},S'"),
    );
    Some(format!("{tar} | {compress} >{package}_{upstream}.orig.tar.{end} && {build}"))
}

/// Everything in one tarball, whatever the source's format.
fn whole(wanted: &Wanted<'_>) -> String {
    let (package, version) = (wanted.package, wanted.version);
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    let file = format!("{package}_{version}.tar.xz");
    format!(
        "rm -f {package}_*.dsc {package}_*.tar.* {package}_*.diff.gz; {} | xz -T1 >{file} && dpkg-source '--format=3.0 (custom)' \
         '--target-format=3.0 (native)' --build {package} {file}",
        tar(wanted, "")
    )
}

fn tar(wanted: &Wanted<'_>, more: &str) -> String {
    let (package, time) = (wanted.package, wanted.upstream_time);
    format!("tar --sort=name --owner=0 --group=0 --numeric-owner --mtime=@{time} {more} -cf - {package}")
}
