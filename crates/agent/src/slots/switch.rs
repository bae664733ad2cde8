//! The effects of the machine around the slots: install an image, boot into it, keep it, go back.

use std::path::Path;
use std::time::Instant;

use volary_api::v1::device::RunningImage;
use volary_boot::BootState;
use volary_device::{Event, Failure, Gains, Image, Running, Step, Work};
use volary_host::{Cmd, remove_if_exists, write_atomic};
use volary_model::Slot;

use super::carry::{Mounted, carry};
use super::files::ImageFile;
use super::install::{InstallError, install};
use super::journal::{Journal, Progress};
use super::scripts::{self, Moment, State};
use super::source::OnServer;
use super::{Slots, SlotsError};
use crate::agent::Agent;
use crate::log;
use crate::paths::Paths;

/// Which slot runs, for the start of the machine. A device whose slots cannot be understood runs the one
/// that it goes back to: nothing is installed, and what was under way is undone.
pub fn running(paths: &Paths) -> Option<Running> {
    let seen = Slots::open(paths).and_then(|slots| slots.map(|slots| slots.seen()).transpose());
    seen.unwrap_or_else(|error| {
        log::say(error.to_string());
        None
    })
}

/// The image that runs, for reports.
pub fn image(paths: &Paths) -> Option<RunningImage> {
    let slots = Slots::open(paths).ok()??;
    let state = slots.boot_state().ok().map(|found| found.state);
    Some(RunningImage {
        device_type: slots.image.device_type.to_string(),
        name: slots.image.name.to_string(),
        slot: Some(slots.running.to_string()),
        on_trial: state.is_some_and(|state| state.slot == slots.running && state.trial.is_some()),
    })
}

/// At the start of the agent: a copy of the boot state that is damaged is mended. A trial stays one.
pub fn mend(paths: &Paths) {
    let mended = Slots::open(paths).and_then(|slots| slots.map_or(Ok(()), |slots| slots.mend()));
    if let Err(error) = mended {
        log::say(error.to_string());
    }
}

/// Puts the image of a convergence into the other slot.
pub fn install_image(agent: &Agent, work: &Work) -> Event {
    let Some(image) = &work.image else { return Event::Installed };
    let since = Instant::now();
    log::say(format!("installing image {} into slot {}", image.name, image.into));
    match try_install(agent, image) {
        Ok((written, length)) => {
            log::say(format!(
                "image {} is in slot {}: {} of {} MiB were written, in {} s",
                image.name,
                image.into,
                written >> 20,
                length >> 20,
                since.elapsed().as_secs()
            ));
            Event::Installed
        }
        Err(InstallError::Line(message)) => {
            log::say(&message);
            Event::Unreachable(message)
        }
        Err(InstallError::Refused(message)) => Event::Refused(failure(image, message)),
        Err(error @ InstallError::Slots(_)) => Event::Failed(failure(image, error.to_string())),
    }
}

fn try_install(agent: &Agent, image: &Image) -> Result<(u64, u64), InstallError> {
    let slots = opened(&agent.paths)?;
    if slots.running == image.into {
        return Err(SlotsError::NotInstalled(image.into).into());
    }
    scripts::run(&agent.paths, State::Download, Moment::Enter)?;
    let path = format!("/images/{}", image.artifact.hex());
    let fetch = OnServer { server: &agent.server, path };
    let installed = match install(&slots, image, &fetch) {
        Ok(installed) => installed,
        Err(error) => {
            scripts::run(&agent.paths, State::Download, Moment::Error)?;
            return Err(error);
        }
    };
    scripts::run(&agent.paths, State::Download, Moment::Leave)?;
    Ok((installed.written, installed.length))
}

fn opened(paths: &Paths) -> Result<Slots, SlotsError> {
    let slots = Slots::open(paths)?;
    slots.ok_or_else(|| SlotsError::Invalid { path: paths.slots(), detail: "it is gone".to_owned() })
}

fn failure(image: &Image, message: String) -> Failure {
    Failure { step: Step::Image, what: image.name.to_string(), message }
}

/// Carries over what must survive, and says that the other slot is tried at the next boot.
pub fn switch(paths: &Paths, work: &Work) -> Event {
    let Some(image) = &work.image else { return Event::Done(Gains::default()) };
    match try_switch(paths, image, &work.policy.carry) {
        Ok(copied) => {
            log::say(format!("{copied} files are carried into slot {}, which boots next", image.into));
            Event::Done(Gains::default())
        }
        Err(error) => {
            let _ = scripts::run(paths, State::Install, Moment::Error);
            Event::Failed(failure(image, error.to_string()))
        }
    }
}

fn try_switch(paths: &Paths, image: &Image, named: &[String]) -> Result<u32, SlotsError> {
    let slots = opened(paths)?;
    let journal = Journal::load(paths).filter(|journal| journal.is_of(image));
    match journal.map(|journal| journal.progress) {
        Some(Progress::Verified { .. } | Progress::Used) if slots.running != image.into => {}
        Some(_) | None => return Err(SlotsError::NotInstalled(image.into)),
    }
    // From here on it is not what was verified any more.
    Journal { progress: Progress::Used, ..Journal::begin(image) }.save(paths)?;
    scripts::run(paths, State::Install, Moment::Enter)?;
    let other = Mounted::new(&slots)?;
    check_image(&slots, image, &other.at)?;
    let copied = carry(&paths.on_device(Path::new("/")), &other.at, named)?;
    other.close()?;
    slots.set(BootState::on_trial(image.into))?;
    scripts::run(paths, State::Install, Moment::Leave)?;
    Ok(copied)
}

/// An image that calls itself by another name would be installed again and again.
fn check_image(slots: &Slots, image: &Image, root: &Path) -> Result<(), SlotsError> {
    let path = root.join("etc/volary/image.json");
    let found = ImageFile::load(&path)?;
    if found
        .as_ref()
        .is_some_and(|found| found.name == image.name && found.device_type == slots.image.device_type)
    {
        return Ok(());
    }
    let what = found.map_or_else(
        || "nothing".to_owned(),
        |found| format!("image {} for {}", found.name, found.device_type),
    );
    let detail = format!(
        "it says {what}, and volary.lock pins image {} for {}; pin it by its own name",
        image.name, slots.image.device_type
    );
    Err(SlotsError::Invalid { path, detail })
}

/// Boots into the slot that is tried.
pub fn reboot(paths: &Paths, work: &Work) -> Event {
    let Some(image) = &work.image else { return Event::Rebooting };
    let booting = scripts::run(paths, State::Reboot, Moment::Enter).and_then(|()| boot(paths));
    match booting {
        Ok(()) => {
            log::say(format!("booting slot {}", image.into));
            Event::Rebooting
        }
        Err(error) => {
            let _ = scripts::run(paths, State::Reboot, Moment::Error);
            Event::Failed(failure(image, error.to_string()))
        }
    }
}

/// Boots. In a root of its own, which is no device, whoever made it does.
///
/// # Errors
/// [`SlotsError`].
pub fn boot(paths: &Paths) -> Result<(), SlotsError> {
    if paths.is_device() {
        Cmd::new("systemctl").args(["reboot", "--no-block"]).check()?;
    }
    Ok(())
}

/// Once after the boot into a new slot: the scripts that wait for it.
///
/// # Errors
/// The failure of the change.
pub fn arrived(paths: &Paths, work: &Work) -> Result<(), Failure> {
    let (Some(image), Some(checkpoint)) = (&work.image, &work.checkpoint) else { return Ok(()) };
    let mark = paths.slots_state().join("arrived");
    if volary_host::read(&mark).is_ok_and(|there| there == checkpoint.as_bytes()) {
        return Ok(());
    }
    log::say(format!("image {} runs in slot {}, on trial", image.name, image.into));
    scripts::run(paths, State::Reboot, Moment::Leave)
        .and_then(|()| Ok(write_atomic(&mark, checkpoint.as_bytes(), 0o600)?))
        .map_err(|error| failure(image, error.to_string()))
}

/// What has a say before a new slot is kept.
///
/// # Errors
/// The failure of the change.
pub fn before_commit(paths: &Paths, work: &Work) -> Result<(), Failure> {
    let Some(image) = &work.image else { return Ok(()) };
    scripts::run(paths, State::Commit, Moment::Enter).map_err(|error| failure(image, error.to_string()))
}

/// The slot that runs boots from now on. Before the timer is disarmed: whoever is cut off in between
/// does this again.
///
/// # Errors
/// [`SlotsError`]; then the change is not kept yet.
pub fn commit(paths: &Paths) -> Result<(), SlotsError> {
    match Slots::open(paths)? {
        Some(slots) => slots.stay(),
        None => Ok(()),
    }
}

/// After a new slot is kept. That a script fails changes nothing any more.
pub fn after_commit(paths: &Paths, work: &Work) {
    if work.image.is_none() {
        return;
    }
    if let Err(error) = scripts::run(paths, State::Commit, Moment::Leave) {
        log::say(error.to_string());
    }
    let _ = remove_if_exists(&paths.slots_state().join("arrived"));
}

/// What an undo has to do with the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The device runs the slot that the checkpoint was made in.
    Here,
    /// It does not: it has to boot first.
    Elsewhere,
}

/// The slot that a checkpoint was made in boots from now on. `None` is a checkpoint of a device without
/// slots.
///
/// # Errors
/// [`SlotsError`]; the undo is repeated.
pub fn go_back(paths: &Paths, slot: Option<Slot>) -> Result<Way, SlotsError> {
    let (Some(slot), Some(slots)) = (slot, Slots::open(paths)?) else { return Ok(Way::Here) };
    if slots.running == slot {
        slots.stay()?;
        return Ok(Way::Here);
    }
    scripts::run(paths, State::Rollback, Moment::Enter)?;
    slots.go(slot)?;
    scripts::run(paths, State::Rollback, Moment::Leave)?;
    scripts::run(paths, State::RollbackReboot, Moment::Enter)?;
    log::say(format!("slot {slot} boots from now on, as before the change"));
    Ok(Way::Elsewhere)
}

/// An image did not stay: its scripts hear of it, once. `booted` says that the undo booted the old slot.
pub fn after_undo(paths: &Paths, image: bool, booted: bool) {
    if !image {
        return;
    }
    if booted {
        let _ = scripts::run(paths, State::RollbackReboot, Moment::Leave);
    }
    for moment in [Moment::Enter, Moment::Leave] {
        let _ = scripts::run(paths, State::Failure, moment);
    }
}
