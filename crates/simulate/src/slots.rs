//! The two slots of a device: what an image does to the one that it goes into, and which one boots.

use volary_boot::{BootState, Trial};
use volary_device::{Event, Failure, Image, Running, Step, Work};
use volary_model::{Digest, Slot};

use crate::device::Device;
use crate::disk::Config;
use crate::plan::{Ms, Plan, SECOND, System};
use crate::rules::Violation;

/// The slots of a disk beside the one that runs, whose content is [`crate::disk::Disk::config`].
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    pub(crate) running: Slot,
    pub(crate) boot: BootState,
    /// What is in the other one; `None` if it is half written, or was never written.
    pub(crate) other: Option<Config>,
}

impl Slots {
    pub(crate) const fn new() -> Self {
        Self { running: Slot::A, boot: BootState::confirmed(Slot::A), other: None }
    }
}

fn failure(message: &str) -> Event {
    Event::Failed(Failure { step: Step::Image, what: String::new(), message: message.to_owned() })
}

impl Plan {
    /// The image that a commit pins, with what its system does; `None` in a world without slots.
    pub(crate) fn image(&self, commit: usize) -> Option<usize> {
        self.images.as_ref().map(|images| images.pinned[commit - 1])
    }

    fn system(&self, image: usize) -> System {
        self.images.as_ref().map_or(System::Fine, |images| images.systems[image])
    }

    /// True if a device should keep this commit.
    pub(crate) fn is_good(&self, commit: usize) -> bool {
        let fine = self.image(commit).is_none_or(|image| self.system(image) == System::Fine);
        self.commit(commit).kind.is_good() && fine
    }
}

impl Device<'_> {
    pub(crate) fn running(&self) -> Option<Running> {
        let Slots { running, boot, .. } = self.disk.slots;
        self.plan.images.as_ref().map(|_| Running {
            slot: running,
            other_is_next: boot.slot != running && boot.trial == Some(Trial::New),
        })
    }

    /// The image that a commit pins, if the slot that runs has another one.
    pub(crate) fn wanted_image(&self, commit: usize) -> Option<Box<Image>> {
        let number = self.plan.image(commit).filter(|image| *image != self.disk.config.image)?;
        let digest = Digest::from_bytes([number as u8; 32]);
        Some(Box::new(Image {
            name: format!("image-{number}").parse().expect("an image's name"),
            artifact: digest,
            size: 1 << 28,
            rootfs: digest,
            manifest: None,
            from: None,
            into: self.disk.slots.running.other(),
        }))
    }

    /// The other slot is written: what was in it is gone, also for who would go back to it.
    pub(crate) fn begin_install(&mut self) {
        let other = self.disk.slots.running.other();
        self.disk.slots.other = None;
        self.disk.saved.take_if(|saved| saved.slot == other);
        self.disk.saved_before.take_if(|saved| saved.slot == other);
    }

    pub(crate) fn install(&mut self, work: &Work) -> Event {
        if !self.is_answered() {
            return Event::Unreachable("the line went".to_owned());
        }
        let Some(image) = &work.image else { return failure("there is no image") };
        let number = usize::from(image.artifact.as_bytes()[0]);
        let mut config = Config { image: number, ..Config::default() };
        match self.plan.system(number) {
            System::Fine | System::Panics | System::Hangs => {}
            System::WithoutAgent => config.agent_disabled = true,
            System::Sick => config.service_dead_at = Some(0),
        }
        self.disk.slots.other = Some(config);
        Event::Installed
    }

    /// What must survive is carried over, and the other slot is to be tried.
    pub(crate) fn switch(&mut self, work: &Work) -> Event {
        let into = work.image.as_ref().map(|image| image.into);
        if self.disk.slots.other.is_none() || into != Some(self.disk.slots.running.other()) {
            return failure("the image is not in the other slot");
        }
        self.disk.slots.boot = BootState::on_trial(self.disk.slots.running.other());
        Event::Done(volary_device::Gains::default())
    }

    /// The slot that runs boots from now on.
    pub(crate) fn keep_slot(&mut self) {
        self.disk.slots.boot = BootState::confirmed(self.disk.slots.running);
    }

    /// The boot loader. True if the system comes up; else the device goes down after a while.
    pub(crate) fn load(&mut self) -> Result<bool, Violation> {
        let slots = &mut self.disk.slots;
        slots.boot = slots.boot.at_boot();
        if slots.boot.slot != slots.running {
            let Some(config) = slots.other.take() else {
                return Err(self.rules.broken("only a slot that is whole boots", format!("{slots:?}")));
            };
            slots.running = slots.boot.slot;
            slots.other = Some(std::mem::replace(&mut self.disk.config, config));
        }
        let slot = self.disk.slots.boot;
        self.say(|| format!("the boot loader boots {slot}"));
        let down_in: Ms = match self.plan.system(self.disk.config.image) {
            System::Fine | System::WithoutAgent | System::Sick => return Ok(true),
            // `panic=10`, and the watchdog.
            System::Panics => 15 * SECOND,
            System::Hangs => 70 * SECOND,
        };
        self.power_off(down_in, "does not come up");
        Ok(false)
    }

    /// True if what is undone was saved in the slot that runs. Else the device boots that one first.
    pub(crate) fn is_where_it_was_saved(&mut self) -> bool {
        let checkpoint = self.disk.undoing.as_ref().map(|undoing| undoing.armed.checkpoint.as_str());
        let saved = self.disk.saved.as_ref().filter(|saved| Some(saved.id.as_str()) == checkpoint);
        let slot = saved.map_or(self.disk.slots.running, |saved| saved.slot);
        self.disk.slots.boot = BootState::confirmed(slot);
        slot == self.disk.slots.running
    }
}
