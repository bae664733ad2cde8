//! The boot state itself, and the rule of every boot loader.

use std::fmt;
use std::str::FromStr;

use volary_model::Slot;

/// Which slot boots, and whether it is on trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootState {
    /// The slot that boots.
    pub slot: Slot,
    /// How far its trial is; `None` if it is confirmed.
    pub trial: Option<Trial>,
}

/// How far the trial of a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trial {
    /// It was not booted yet.
    New,
    /// It was booted once: the next boot goes back.
    Begun,
}

impl BootState {
    /// Every state there is.
    pub const ALL: [Self; 6] = [
        Self::confirmed(Slot::A),
        Self::confirmed(Slot::B),
        Self::on_trial(Slot::A),
        Self::on_trial(Slot::B),
        Self { slot: Slot::A, trial: Some(Trial::Begun) },
        Self { slot: Slot::B, trial: Some(Trial::Begun) },
    ];

    /// This slot, for ever.
    pub const fn confirmed(slot: Slot) -> Self {
        Self { slot, trial: None }
    }

    /// This slot, once.
    pub const fn on_trial(slot: Slot) -> Self {
        Self { slot, trial: Some(Trial::New) }
    }

    /// What a boot loader makes of it: the state that it leaves, whose slot it boots.
    #[must_use]
    pub const fn at_boot(self) -> Self {
        match self.trial {
            None => self,
            Some(Trial::New) => Self { slot: self.slot, trial: Some(Trial::Begun) },
            Some(Trial::Begun) => Self::confirmed(self.slot.other()),
        }
    }

    /// The slot that a device with this state goes back to, or stays in.
    pub const fn confirmed_slot(self) -> Slot {
        match self.trial {
            None => self.slot,
            Some(Trial::New | Trial::Begun) => self.slot.other(),
        }
    }

    /// The word that stands for it in GRUB's blocks.
    pub const fn word(self) -> &'static str {
        match (self.slot, self.trial) {
            (Slot::A, None) => "a",
            (Slot::B, None) => "b",
            (Slot::A, Some(Trial::New)) => "a-new",
            (Slot::B, Some(Trial::New)) => "b-new",
            (Slot::A, Some(Trial::Begun)) => "a-begun",
            (Slot::B, Some(Trial::Begun)) => "b-begun",
        }
    }
}

impl fmt::Display for BootState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.trial {
            None => write!(f, "slot {}", self.slot),
            Some(Trial::New) => write!(f, "slot {}, to be tried once", self.slot),
            Some(Trial::Begun) => write!(f, "slot {}, on trial", self.slot),
        }
    }
}

impl FromStr for BootState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|state| state.word() == text).ok_or_else(|| {
            let words = Self::ALL.map(Self::word).join(", ");
            format!("{:?} is none of {words}", text.chars().take(40).collect::<String>())
        })
    }
}
