//! What of the rescue lives outside of the agent: a copy of the program, the dead man's timer of
//! this boot, and the unit that looks after each boot. All of it belongs to PID 1, so it outlives
//! the agent, its unit and its package.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_host::{Cmd, CmdError, FileError, NewFile, create_dir, read_to_string, sync_dir, write_atomic};

use crate::paths::Paths;
use crate::units;

/// The unit of the boot, which the agent writes itself: a package can be removed.
pub const UNIT_FILE: &str = "/etc/systemd/system/volary-rescue-boot.service";

/// What enables it.
pub const LINK: &str = "/etc/systemd/system/sysinit.target.wants/volary-rescue-boot.service";

/// What the names of the timer and its service begin with; the checkpoint follows, so that one
/// that sleeps still for the change before is in nobody's way.
const TIMER: &str = "volary-rescue-";

/// Where systemd keeps what it knows of units that came without a file.
const TRANSIENT: &str = "/run/systemd/transient";

/// Before the network, so that its files are right when it comes up; and not waited for by
/// `sysinit.target`, since systemd must be able to work for what an undo starts.
const UNIT: &str = "\
[Unit]
Description=Undo of a change by Volary that was not confirmed
Documentation=man:volary-agent(8)
DefaultDependencies=no
RequiresMountsFor=/var/lib/volary/checkpoint /etc /usr
After=local-fs.target systemd-remount-fs.service
Before=systemd-sysctl.service nftables.service netfilter-persistent.service network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
ConditionPathExists=|/var/lib/volary/checkpoint/armed.json
ConditionPathExists=|/var/lib/volary/checkpoint/undoing.json

[Service]
Type=oneshot
ExecStart=/var/lib/volary/checkpoint/rescue/volary-agent rescue --boot
TimeoutStartSec=30min
OOMScoreAdjust=-900

[Install]
WantedBy=sysinit.target
";

/// How soon after its end the rescue is started again: it ends only early if it was killed.
const AGAIN: Duration = Duration::from_secs(10);

/// How much of the program is read at a time, in bytes.
const AT_ONCE: usize = 64 << 10;

/// Where the copy of the program is that runs the undo.
pub fn program(paths: &Paths) -> PathBuf {
    paths.checkpoint().join("rescue/volary-agent")
}

/// Copies the running program for the rescue, unless the copy is the same.
///
/// # Errors
/// [`FileError`].
pub fn copy_program(paths: &Paths) -> Result<(), FileError> {
    let (own, copy) = (Path::new("/proc/self/exe"), program(paths));
    let open = || File::open(own).map_err(FileError::at("read", own));
    if is_copy(open()?, &copy) {
        return Ok(());
    }
    create_dir(copy.parent().expect("the program is in a folder"))?;
    let mut new = NewFile::create(&copy, 0o700)?;
    io::copy(&mut open()?, new.file()).map_err(FileError::at("write", &copy))?;
    new.keep()
}

/// True if there is a file with the same content, and nothing else than a program of root. Both have
/// some megabytes, so they are never in memory as a whole.
fn is_copy(program: File, copy: &Path) -> bool {
    let Ok(copy) = File::open(copy) else { return false };
    let (Ok(own), Ok(there)) = (program.metadata(), copy.metadata()) else { return false };
    own.len() == there.len() && there.permissions().mode() & 0o777 == 0o700 && are_same(program, copy)
}

/// True if both can be read and say the same.
fn are_same(one: impl Read, other: impl Read) -> bool {
    let (mut one, mut other) =
        (BufReader::with_capacity(AT_ONCE, one), BufReader::with_capacity(AT_ONCE, other));
    loop {
        let (Ok(left), Ok(right)) = (one.fill_buf(), other.fill_buf()) else { return false };
        let length = left.len().min(right.len());
        if length == 0 {
            return left.len() == right.len();
        }
        if left[..length] != right[..length] {
            return false;
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Writes and enables the unit of the boot. Needs no reload: systemd reads it at the next boot.
///
/// # Errors
/// [`FileError`].
pub fn install(paths: &Paths) -> Result<(), FileError> {
    let file = paths.on_device(Path::new(UNIT_FILE));
    if read_to_string(&file).ok().as_deref() != Some(UNIT) {
        create_dir(file.parent().expect("a unit is in a folder"))?;
        write_atomic(&file, UNIT.as_bytes(), 0o644)?;
    }
    let link = paths.on_device(Path::new(LINK));
    let target = Path::new("../volary-rescue-boot.service");
    if fs::read_link(&link).ok().as_deref() != Some(target) {
        let folder = link.parent().expect("a link is in a folder");
        create_dir(folder)?;
        volary_host::remove_if_exists(&link)?;
        symlink(target, &link).map_err(FileError::at("link", &link))?;
        sync_dir(folder)?;
    }
    Ok(())
}

/// Starts the dead man's timer of this boot: the rescue looks after `grace` for the first time and
/// stays until there is nothing to look after. Where systemd does not run there is none.
///
/// # Errors
/// [`CmdError`].
pub fn start_timer(paths: &Paths, checkpoint: &str, grace: Duration) -> Result<(), CmdError> {
    if !paths.is_device() || !units::is_booted() {
        return Ok(());
    }
    stop_timer(paths);
    let after = format!("--on-active={}", grace.as_secs().max(1));
    let again = format!("--on-unit-inactive={}", AGAIN.as_secs());
    Cmd::new("systemd-run")
        .args([
            "--quiet",
            "--no-block",
            "--collect",
            "--unit",
            &format!("{TIMER}{checkpoint}"),
            &after,
            &again,
        ])
        .args(["--description", "Undo of a change by Volary that is not confirmed in time"])
        .args(["--timer-property", "AccuracySec=1s", "--timer-property", "IgnoreOnIsolate=yes"])
        .args(["--property", "OOMScoreAdjust=-900", "--property", "IgnoreOnIsolate=yes"])
        .args(["--property", "KillMode=mixed", "--property", "TimeoutStopSec=30min"])
        .arg(program(paths))
        .arg("rescue")
        .check()
        .map(drop)
}

/// Stops it. That it is not there, or that systemd is not, is fine: without an armed checkpoint
/// the rescue does nothing.
pub fn stop_timer(paths: &Paths) {
    if !paths.is_device() || !units::is_booted() || !has_timer(Path::new(TRANSIENT)) {
        return;
    }
    let _ = Cmd::new("systemctl").args(["stop", "--quiet", &format!("{TIMER}*.timer")]).run();
}

/// True if systemd has a file of such a timer, as it has for each that was not stopped; also if that
/// cannot be told.
fn has_timer(transient: &Path) -> bool {
    let Ok(mut files) = fs::read_dir(transient) else { return true };
    files.any(|file| file.is_ok_and(|file| file.file_name().to_string_lossy().starts_with(TIMER)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_timer_is_stopped_if_there_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str| volary_host::write_atomic(&dir.path().join(name), b"", 0o644).unwrap();
        assert!(has_timer(&dir.path().join("gone")), "not known");
        put("run-u7.scope");
        assert!(!has_timer(dir.path()));
        put("volary-rescue-0000000002.timer");
        assert!(has_timer(dir.path()));
    }

    #[test]
    fn the_rescue_is_put_in_place_once() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        for _ in 0..2 {
            copy_program(&paths).unwrap();
            install(&paths).unwrap();
        }
        let (own, copy) = (Path::new("/proc/self/exe"), program(&paths));
        let is_copied = || volary_host::read(&copy).unwrap() == volary_host::read(own).unwrap();
        assert!(is_copied());
        let link = dir.path().join(LINK.trim_start_matches('/'));
        assert_eq!(read_to_string(&link).unwrap(), UNIT, "the link leads to the unit");
        // One that is right stays; one that is not is replaced.
        let number = || fs::metadata(&copy).unwrap().ino();
        let first = number();
        copy_program(&paths).unwrap();
        assert_eq!(number(), first);
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
        copy_program(&paths).unwrap();
        assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o700);
        for text in [&b"short"[..], b""] {
            write_atomic(&copy, text, 0o700).unwrap();
            copy_program(&paths).unwrap();
            assert!(is_copied());
        }
    }

    #[test]
    fn the_same_is_told_from_what_only_begins_or_ends_the_same() {
        let long = vec![7; AT_ONCE + 1];
        let mut other = long.clone();
        other[AT_ONCE] = 8;
        for (one, another, same) in
            [(&long, &long, true), (&long, &other, false), (&long, &long[..AT_ONCE].to_vec(), false)]
        {
            assert_eq!(are_same(&one[..], &another[..]), same);
            // However much comes at a time.
            assert_eq!(are_same(one[..9].chain(&one[9..]), &another[..]), same);
        }
        assert!(are_same(&b""[..], &b""[..]));
    }
}
