//! Artifacts that are no root file system: an update module on the device installs them, by Mender's
//! contract (version 3), so that modules that exist run as they are.
//!
//! What follows what is for [`machine`] to say; what is under way stands in [`record`], written before it
//! is done, so that after a power cut the state comes that the contract says. An artifact that is
//! installed while a commit is converged to (by a task of its playbook) belongs to that change: it is
//! committed and rolled back with it. One that a person installs waits for a person.

mod feed;
pub mod machine;
pub mod record;
#[cfg(test)]
mod tests;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_artifact::{Info, PayloadType, Policy, Reader, unmet};
use volary_host::{Cmd, CmdError, FileError, Lock, LockError, Output, boot_id, create_dir, write_atomic};
use volary_model::Digest;

use crate::checkpoint::store;
use crate::log;
use crate::paths::Paths;
use crate::slots::hash::Running;
use crate::slots::scripts::{self, Moment};
use crate::slots::{SlotsError, artifact_keys};
use machine::{Ended, Reboot, STATES, State, after};
use record::Record;

/// How long a module may take for one state: Mender's default.
const LIMIT: Duration = Duration::from_secs(4 * 3600);

/// How much of what a module says is kept.
const SAID: usize = 10 << 10;

/// The version of the contract.
const CONTRACT: &[u8] = b"3";

/// Added to the artifact's name on a device of which nobody knows what it is, as Mender does.
const INCONSISTENT: &str = "_INCONSISTENT";

/// Why an artifact is not installed, or not what it was to become.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The artifact.
    #[error("the artifact is refused: {0}")]
    Artifact(#[from] volary_artifact::Error),
    /// It is sound, and not for this device now.
    #[error("{0}")]
    Refused(String),
    /// A file of ours is not what this agent understands.
    #[error("{}: {detail}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// The module, or a script, says no.
    #[error("{0}")]
    Failed(String),
    /// The module cannot be run.
    #[error(transparent)]
    Program(#[from] CmdError),
    /// What is shared with images: scripts, keys, what the image is called.
    #[error(transparent)]
    Slots(#[from] SlotsError),
    /// Another one is at work.
    #[error("{0}; try again when it is done")]
    Busy(#[from] LockError),
}

/// How far an update got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is installed, and waits for the decision whether it stays.
    Waiting,
    /// The device has to boot before it goes on.
    Reboots,
    /// It lasts.
    Lasts,
    /// The device is as before, as far as the module can do that.
    Back {
        /// What failed; none if a person did not want it.
        why: Option<String>,
        /// It could not be put back.
        inconsistent: bool,
    },
}

fn lock(paths: &Paths) -> Result<Lock, ModuleError> {
    create_dir(&paths.modules())?;
    Ok(Lock::acquire(&paths.modules().join("lock"), Duration::from_secs(5))?)
}

/// Installs an artifact, as far as it gets before somebody has to decide. What lasts under the name
/// `lasts_as` already, with the digest that is pinned, is not installed again.
///
/// # Errors
/// [`ModuleError`] if nothing was begun. What failed later was rolled back, which is an outcome.
pub fn install(
    paths: &Paths,
    artifact: impl Read,
    pinned: Option<Digest>,
    lasts_as: Option<&str>,
) -> Result<Outcome, ModuleError> {
    let _lock = lock(paths)?;
    let change = store::peek_armed(paths).map(|armed| armed.checkpoint);
    if let (Some(name), Some(pinned)) = (lasts_as, pinned)
        && record::lasting(paths)?.get(name) == Some(&pinned)
    {
        return Ok(Outcome::Lasts);
    }
    // What was cut off is put back first.
    if let Some(record) = waiting(paths)? {
        // A playbook that was cut off runs again.
        if record.state == State::Waiting && record.checkpoint == change && record.digest == pinned {
            return Ok(Outcome::Waiting);
        }
        return Err(ModuleError::Refused(format!(
            "artifact {} is not done yet: volary-agent artifact commit, or: volary-agent artifact rollback",
            record.artifact
        )));
    }
    let provides = record::provides(paths)?;
    let keys = artifact_keys(paths)?;
    let policy = if keys.is_empty() { Policy::unsigned() } else { Policy::signed_by(&keys) };
    let mut hashed = Hashed { input: artifact, running: Running::default() };
    let mut reader = Reader::open(&mut hashed, &policy)?;
    let module = module_of(reader.info())?;
    if let Some(module) = &module {
        program(paths, module)?;
    }
    if let Some(mismatch) = unmet(reader.info(), &provides).into_iter().next() {
        return Err(ModuleError::Refused(mismatch.to_string()));
    }
    let mut record = Record {
        version: 1,
        artifact: reader.info().name.clone(),
        digest: None,
        module,
        state: State::Download,
        checkpoint: change,
        failed: None,
        reboot: Reboot::No,
        rolls_back: false,
        boot: None,
        rollback_reboots: 0,
        states: 0,
        inconsistent: false,
        lasts: false,
        lasts_as: lasts_as.map(str::to_owned),
        provides: volary_artifact::provides_after(reader.info(), &provides),
    };
    record.save(paths)?;
    log::say(format!("installing artifact {}", record.artifact));
    let downloaded = download(paths, &record, &mut reader, &provides);
    drop(reader);
    let downloaded = downloaded.and_then(|()| {
        let digest = hashed.running.finish();
        record.digest = Some(digest);
        match pinned {
            Some(pinned) if pinned != digest => Err(ModuleError::Refused(format!(
                "the artifact has the digest {digest}, and {pinned} is wanted"
            ))),
            Some(_) | None => Ok(()),
        }
    });
    let ended = ended_by(&mut record, downloaded);
    drive(paths, record, Some(ended))
}

/// What hashes all that goes through it.
struct Hashed<R> {
    input: R,
    running: Running,
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.running.update(&buffer[..count]);
        Ok(count)
    }
}

fn module_of(info: &Info) -> Result<Option<String>, ModuleError> {
    let [payload] = info.payloads.as_slice() else {
        let count = info.payloads.len();
        return Err(ModuleError::Refused(format!("the artifact has {count} payloads instead of one")));
    };
    match &payload.kind {
        PayloadType::Module(module) => Ok(Some(module.clone())),
        PayloadType::Empty => Ok(None),
        PayloadType::RootfsImage => Err(ModuleError::Refused(
            "the artifact holds a root file system; volary.lock pins those: volary bump --image TYPE=NAME"
                .to_owned(),
        )),
    }
}

/// The module's program: ours before Mender's.
fn program(paths: &Paths, module: &str) -> Result<PathBuf, ModuleError> {
    let folders = paths.module_folders();
    // A payload's type is any text; only a plain name is a file of these folders.
    let plain = !module.is_empty() && !module.contains('/') && !module.starts_with('.');
    let found = folders.iter().map(|folder| folder.join(module)).find(|path| plain && path.is_file());
    found.ok_or_else(|| {
        let places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        ModuleError::Refused(format!(
            "there is no update module {module:?} in {}; install the package that has it",
            places.join(" or ")
        ))
    })
}

fn download<R: Read>(
    paths: &Paths,
    record: &Record,
    reader: &mut Reader<R>,
    provides: &std::collections::BTreeMap<String, String>,
) -> Result<(), ModuleError> {
    let tree = paths.module_tree();
    make_tree(&tree, record, reader, provides)?;
    scripts::keep_in(&paths.module_scripts(), reader.scripts())?;
    scripts::run(paths, scripts::State::Download, Moment::Enter)?;
    if record.module.is_some() {
        let sizes = ask(paths, record, "ProvidePayloadFileSizes")?;
        let sizes = match sizes.as_str() {
            "Yes" => true,
            "" | "No" => false,
            other => return Err(strange("ProvidePayloadFileSizes", other)),
        };
        let state = if sizes { "DownloadWithFileSizes" } else { "Download" };
        let output = feed::download(command(paths, record, state)?, &tree, reader, sizes)?;
        heed(record, state, &output)?;
    }
    while reader.next_file()?.is_some() {}
    scripts::run(paths, scripts::State::Download, Moment::Leave)?;
    Ok(())
}

/// The files that the contract promises.
fn make_tree<R: Read>(
    tree: &Path,
    record: &Record,
    reader: &Reader<R>,
    provides: &std::collections::BTreeMap<String, String>,
) -> Result<(), ModuleError> {
    remove_tree(tree)?;
    for folder in [tree, &tree.join("header"), &tree.join("tmp")] {
        create_dir(folder)?;
    }
    let info = reader.info();
    let has = |key: &str| provides.get(key).map(String::as_bytes).unwrap_or_default();
    let (type_info, meta_data) = reader.raw_payload_header(0).unwrap_or_default();
    let files: [(&str, &[u8]); 10] = [
        ("version", CONTRACT),
        ("current_artifact_name", has("artifact_name")),
        ("current_artifact_group", has("artifact_group")),
        ("current_device_type", has("device_type")),
        ("header/artifact_name", info.name.as_bytes()),
        ("header/artifact_group", info.group.as_deref().unwrap_or_default().as_bytes()),
        ("header/payload_type", record.module.as_deref().unwrap_or_default().as_bytes()),
        ("header/header-info", reader.raw_header_info()),
        ("header/type-info", type_info),
        ("header/meta-data", meta_data),
    ];
    for (name, bytes) in files {
        write_atomic(&tree.join(name), bytes, 0o600)?;
    }
    Ok(())
}

fn remove_tree(tree: &Path) -> Result<(), ModuleError> {
    match std::fs::remove_dir_all(tree) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FileError::at("remove", tree)(error).into())
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn command(paths: &Paths, record: &Record, state: &str) -> Result<Cmd, ModuleError> {
    let module = record.module.as_deref().unwrap_or_default();
    let tree = paths.module_tree();
    create_dir(&tree)?;
    Ok(Cmd::new(program(paths, module)?).arg(state).arg(&tree).cwd(&tree).timeout(LIMIT))
}

/// Runs a state of the module, if there is one.
fn call(paths: &Paths, record: &Record, state: &str) -> Result<(), ModuleError> {
    if record.module.is_none() {
        return Ok(());
    }
    let output = command(paths, record, state)?.run()?;
    heed(record, state, &output)
}

/// Asks the module something; no word is an answer too.
fn ask(paths: &Paths, record: &Record, question: &str) -> Result<String, ModuleError> {
    if record.module.is_none() {
        return Ok(String::new());
    }
    let output = command(paths, record, question)?.run()?;
    heed(record, question, &Output { stdout: Vec::new(), ..output.clone() })?;
    Ok(output.text().trim().to_owned())
}

fn strange(question: &str, answer: &str) -> ModuleError {
    ModuleError::Failed(format!("the update module answers {question} with {answer:?}"))
}

/// Passes on what a module said, and takes a status that is not zero as an error.
fn heed(record: &Record, state: &str, output: &Output) -> Result<(), ModuleError> {
    let name = format!("{} {state}", record.module.as_deref().unwrap_or_default());
    let text = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(SAID)]).trim_end().to_owned();
    let said = [text(&output.stdout), text(&output.stderr)];
    let said: Vec<&str> = said.iter().map(String::as_str).filter(|text| !text.is_empty()).collect();
    let said = said.join("\n");
    if !said.is_empty() {
        log::say(format!("{name}: {said}"));
    }
    match output.status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(ModuleError::Failed(format!("{name} ended with status {code}\n{said}"))),
        None => Err(ModuleError::Failed(format!("{name} was killed\n{said}"))),
    }
}

/// Takes down why a state did not end well.
fn ended_by(record: &mut Record, result: Result<(), ModuleError>) -> Ended {
    match result {
        Ok(()) => Ended::Well,
        Err(error) => {
            log::say(error.to_string());
            record.failed.get_or_insert(error.to_string());
            Ended::Failed
        }
    }
}

/// Goes on from how a state ended, or with the state of the record, until somebody is needed.
fn drive(paths: &Paths, mut record: Record, mut ended: Option<Ended>) -> Result<Outcome, ModuleError> {
    loop {
        let ended = match ended.take() {
            Some(ended) => ended,
            None => {
                let now = boot_id();
                match record.state {
                    State::Waiting => return Ok(Outcome::Waiting),
                    State::Reboot if record.boot.as_ref() == Some(&now) => return Ok(Outcome::Reboots),
                    State::RollbackReboot
                        if record.reboot == Reboot::Automatic && record.boot.as_ref() == Some(&now) =>
                    {
                        return Ok(Outcome::Reboots);
                    }
                    // It booted.
                    State::Reboot => Ended::Cut,
                    State::RollbackReboot if record.boot.as_ref() != Some(&now) => Ended::Cut,
                    _ => {
                        let result = perform(paths, &mut record);
                        if let Err(error) = &result {
                            complain(paths, record.state, error);
                        }
                        ended_by(&mut record, result)
                    }
                }
            }
        };
        let boots = matches!(record.state, State::Reboot | State::RollbackReboot);
        if ended == Ended::Cut && !boots && !record.lasts {
            let why = format!("the device was cut off in the state {:?}", record.state);
            record.failed.get_or_insert(why);
        }
        let at = record.state;
        record.states += 1;
        let Some(next) = after(at, ended, &record.known()) else { return over(paths, &record) };
        let given_up = matches!(next, State::Failure | State::Cleanup) && !at.is_over();
        let lost = ended == Ended::Failed && matches!(at, State::Rollback | State::VerifyRollbackReboot);
        record.inconsistent |= lost || given_up && (at.has_changed() || record.states >= STATES);
        record.lasts |= next == State::CommitLeave;
        if matches!(next, State::Reboot | State::RollbackReboot) {
            record.boot = Some(boot_id());
        }
        record.rollback_reboots += u32::from(next == State::RollbackReboot);
        record.state = next;
        record.save(paths)?;
    }
}

impl State {
    /// The module's work was begun and is not known to be undone.
    fn has_changed(self) -> bool {
        matches!(self, Self::Install | Self::Reboot | Self::VerifyReboot | Self::Waiting | Self::Commit)
    }

    fn is_over(self) -> bool {
        matches!(self, Self::CommitLeave | Self::Failure | Self::Cleanup)
    }
}

/// Does what a state is for.
fn perform(paths: &Paths, record: &mut Record) -> Result<(), ModuleError> {
    use scripts::State as Of;
    let folder = paths.module_scripts();
    let run = |state, moment| scripts::run_in(&folder, state, moment);
    match record.state {
        State::Download | State::Waiting | State::Reboot => Ok(()),
        State::Install => {
            record.rolls_back = match ask(paths, record, "SupportsRollback")?.as_str() {
                "Yes" => true,
                "" | "No" => false,
                other => return Err(strange("SupportsRollback", other)),
            };
            record.save(paths)?;
            run(Of::Install, Moment::Enter)?;
            call(paths, record, "ArtifactInstall")?;
            run(Of::Install, Moment::Leave)?;
            record.reboot = match ask(paths, record, "NeedsArtifactReboot")?.as_str() {
                "Yes" => Reboot::Yes,
                "Automatic" => Reboot::Automatic,
                "" | "No" => Reboot::No,
                other => return Err(strange("NeedsArtifactReboot", other)),
            };
            Ok(())
        }
        State::VerifyReboot => {
            call(paths, record, "ArtifactVerifyReboot")?;
            Ok(run(Of::Reboot, Moment::Leave)?)
        }
        State::Commit => {
            run(Of::Commit, Moment::Enter)?;
            call(paths, record, "ArtifactCommit")
        }
        State::CommitLeave => {
            record::provide(paths, &record.provides)?;
            if let (Some(name), Some(digest)) = (&record.lasts_as, record.digest) {
                record::last(paths, name, digest)?;
            }
            Ok(run(Of::Commit, Moment::Leave)?)
        }
        State::Rollback => {
            run(Of::Rollback, Moment::Enter)?;
            call(paths, record, "ArtifactRollback")?;
            Ok(run(Of::Rollback, Moment::Leave)?)
        }
        State::RollbackReboot => {
            run(Of::RollbackReboot, Moment::Enter)?;
            match record.reboot {
                Reboot::Yes => call(paths, record, "ArtifactRollbackReboot"),
                Reboot::Automatic | Reboot::No => Ok(()),
            }
        }
        State::VerifyRollbackReboot => {
            call(paths, record, "ArtifactVerifyRollbackReboot")?;
            Ok(run(Of::RollbackReboot, Moment::Leave)?)
        }
        State::Failure => {
            run(Of::Failure, Moment::Enter)?;
            call(paths, record, "ArtifactFailure")?;
            Ok(run(Of::Failure, Moment::Leave)?)
        }
        State::Cleanup => call(paths, record, "Cleanup"),
    }
}

/// The scripts for a state that failed.
fn complain(paths: &Paths, state: State, error: &ModuleError) {
    let of = match state {
        State::Install => scripts::State::Install,
        State::Reboot | State::VerifyReboot => scripts::State::Reboot,
        State::Commit => scripts::State::Commit,
        _ => return,
    };
    if let Err(also) = scripts::run_in(&paths.module_scripts(), of, Moment::Error) {
        log::say(format!("{also}; it was run because of: {error}"));
    }
}

/// The end: what the device provides is taken down, and nothing is left of the update.
fn over(paths: &Paths, record: &Record) -> Result<Outcome, ModuleError> {
    if record.inconsistent && !record.lasts {
        let mut provides = record::provides(paths)?;
        provides.insert("artifact_name".to_owned(), format!("{}{INCONSISTENT}", record.artifact));
        record::provide(paths, &provides)?;
    }
    remove_tree(&paths.module_tree())?;
    remove_tree(&paths.module_scripts())?;
    Record::remove(paths)?;
    if record.lasts {
        log::say(format!("artifact {} stays", record.artifact));
        return Ok(Outcome::Lasts);
    }
    log::say(match record.inconsistent {
        true => format!("artifact {} failed, and could not be put back", record.artifact),
        false => format!("artifact {} is put back", record.artifact),
    });
    Ok(Outcome::Back { why: record.failed.clone(), inconsistent: record.inconsistent })
}

/// After a start: what was cut off goes on as the contract says. An update that waits goes on waiting.
///
/// # Errors
/// [`ModuleError`]; it can be tried again.
pub fn resume(paths: &Paths) -> Result<Option<Outcome>, ModuleError> {
    let _lock = lock(paths)?;
    Record::load(paths)?.map(|record| take_up(paths, record)).transpose()
}

/// With the lock in our hand, a state that is under way is one whose process died.
fn take_up(paths: &Paths, record: Record) -> Result<Outcome, ModuleError> {
    let cut = match record.state {
        State::Waiting | State::Reboot | State::RollbackReboot => None,
        _ => Some(Ended::Cut),
    };
    drive(paths, record, cut)
}

/// The update that waits or has to boot, taken up before; `None` if there is none any more.
fn waiting(paths: &Paths) -> Result<Option<Record>, ModuleError> {
    let Some(record) = Record::load(paths)? else { return Ok(None) };
    take_up(paths, record)?;
    Record::load(paths)
}

/// A person decides.
fn by_hand(paths: &Paths) -> Result<Record, ModuleError> {
    let Some(record) = waiting(paths)? else {
        return Err(ModuleError::Refused("no artifact waits to be committed or rolled back".to_owned()));
    };
    if record.checkpoint.is_some()
        && record.checkpoint == store::peek_armed(paths).map(|armed| armed.checkpoint)
    {
        return Err(ModuleError::Refused(format!(
            "artifact {} belongs to a change that is under way, and stays or goes with it: volary-agent confirm, \
             or: volary-agent revert",
            record.artifact
        )));
    }
    Ok(record)
}

/// A person wants it to stay.
///
/// # Errors
/// [`ModuleError`].
pub fn commit(paths: &Paths) -> Result<Outcome, ModuleError> {
    let _lock = lock(paths)?;
    let record = by_hand(paths)?;
    if record.state != State::Waiting {
        let name = &record.artifact;
        return Err(ModuleError::Refused(format!(
            "artifact {name} wants the device to boot before it can stay"
        )));
    }
    drive(paths, record, Some(Ended::Well))
}

/// A person does not want it.
///
/// # Errors
/// [`ModuleError`].
pub fn roll_back(paths: &Paths) -> Result<Outcome, ModuleError> {
    let _lock = lock(paths)?;
    let record = by_hand(paths)?;
    if !record.rolls_back {
        let module = record.module.as_deref().unwrap_or_default();
        return Err(ModuleError::Refused(format!(
            "the update module {module} cannot roll back; commit artifact {} and install another one",
            record.artifact
        )));
    }
    go_back(paths, record)
}

fn go_back(paths: &Paths, mut record: Record) -> Result<Outcome, ModuleError> {
    // A reboot that was not begun need not be made up for.
    if record.state == State::Reboot {
        record.boot = None;
    }
    match record.state {
        State::Waiting | State::Reboot => drive(paths, record, Some(Ended::Failed)),
        _ => drive(paths, record, None),
    }
}

/// Boots the device for an update that wants that, or lets its module do it.
///
/// # Errors
/// [`ModuleError`].
pub fn reboot(paths: &Paths) -> Result<Outcome, ModuleError> {
    let _lock = lock(paths)?;
    match waiting(paths)? {
        Some(record) => boot(paths, record),
        None => Err(ModuleError::Refused("no artifact wants the device to boot".to_owned())),
    }
}

fn boot(paths: &Paths, mut record: Record) -> Result<Outcome, ModuleError> {
    let (back, of) = match record.state {
        State::Reboot => (false, scripts::State::Reboot),
        State::RollbackReboot => (true, scripts::State::RollbackReboot),
        _ => return drive(paths, record, None),
    };
    let itself = record.reboot == Reboot::Yes;
    let booting = scripts::run_in(&paths.module_scripts(), of, Moment::Enter)
        .map_err(ModuleError::from)
        .and_then(|()| match itself {
            true => call(paths, &record, if back { "ArtifactRollbackReboot" } else { "ArtifactReboot" }),
            false => Ok(crate::slots::switch::boot(paths)?),
        });
    match booting {
        // Whoever is booted is killed in the middle of it.
        Ok(()) if !itself => Ok(Outcome::Reboots),
        Err(_) if itself && paths.is_device() && goes_down() => Ok(Outcome::Reboots),
        other => {
            if let Err(error) = &other {
                complain(paths, record.state, error);
            }
            let ended = ended_by(&mut record, other);
            drive(paths, record, Some(ended))
        }
    }
}

fn goes_down() -> bool {
    let asked = Cmd::new("systemctl").arg("is-system-running").run();
    asked.is_ok_and(|output| output.text().trim() == "stopping")
}

/// How the update of a change is before the change is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// There is none, or it waits.
    Ready,
    /// The device boots for it.
    Booting,
}

/// True if an update is under way that stays or goes with a change.
///
/// # Errors
/// [`ModuleError`].
pub fn belongs_to_change(paths: &Paths) -> Result<bool, ModuleError> {
    Ok(Record::load(paths)?.is_some_and(|record| record.checkpoint.is_some()))
}

fn of_change(paths: &Paths, checkpoint: Option<&str>) -> Result<Option<Record>, ModuleError> {
    let ours = |record: &Record| record.checkpoint.is_some() && record.checkpoint.as_deref() == checkpoint;
    Ok(Record::load(paths)?.filter(ours))
}

/// Boots the device if the update of this change wants that, and goes on after the boot.
///
/// # Errors
/// [`ModuleError`]: the change is not to stay.
pub fn settle(paths: &Paths, checkpoint: Option<&str>) -> Result<Settled, ModuleError> {
    if of_change(paths, checkpoint)?.is_none() {
        return Ok(Settled::Ready);
    }
    let _lock = lock(paths)?;
    let Some(record) = of_change(paths, checkpoint)? else { return Ok(Settled::Ready) };
    let outcome = match take_up(paths, record)? {
        Outcome::Reboots => match of_change(paths, checkpoint)? {
            Some(record) => boot(paths, record)?,
            None => return Ok(Settled::Ready),
        },
        other => other,
    };
    match outcome {
        Outcome::Waiting | Outcome::Lasts => Ok(Settled::Ready),
        Outcome::Reboots => Ok(Settled::Booting),
        Outcome::Back { why, .. } => Err(ModuleError::Failed(why.unwrap_or_default())),
    }
}

/// The change holds: its update stays.
///
/// # Errors
/// [`ModuleError`]: the module said no, and the change is not to stay.
pub fn commit_change(paths: &Paths, checkpoint: Option<&str>) -> Result<(), ModuleError> {
    if of_change(paths, checkpoint)?.is_none() {
        return Ok(());
    }
    let _lock = lock(paths)?;
    let Some(record) = of_change(paths, checkpoint)? else { return Ok(()) };
    let outcome = match record.state {
        State::Waiting => drive(paths, record, Some(Ended::Well))?,
        _ => take_up(paths, record)?,
    };
    match outcome {
        Outcome::Lasts => Ok(()),
        Outcome::Back { why, .. } => Err(ModuleError::Failed(why.unwrap_or_default())),
        Outcome::Waiting | Outcome::Reboots => {
            Err(ModuleError::Failed("the artifact of this change is not ready to stay".to_owned()))
        }
    }
}

/// The change is undone: its update goes too. Without one nothing is done.
///
/// # Errors
/// [`ModuleError`]; it can be tried again.
pub fn undo_change(paths: &Paths, checkpoint: &str, why: &str) -> Result<Option<Outcome>, ModuleError> {
    if of_change(paths, Some(checkpoint))?.is_none() {
        return Ok(None);
    }
    let _lock = lock(paths)?;
    let Some(record) = of_change(paths, Some(checkpoint))? else { return Ok(None) };
    take_up(paths, record)?;
    let Some(mut record) = of_change(paths, Some(checkpoint))? else { return Ok(None) };
    record.failed.get_or_insert_with(|| why.to_owned());
    let outcome = go_back(paths, record)?;
    match (&outcome, of_change(paths, Some(checkpoint))?) {
        (Outcome::Reboots, Some(record)) => boot(paths, record).map(Some),
        _ => Ok(Some(outcome)),
    }
}
