//! `promote:` of `volary.yml`: stages into which the server merges by itself.

use super::FleetConfig;
use crate::fields::{FieldError, Fields};

/// The server's name in `.volary/allowed_signers` for the key with which it merges. It stands for no
/// person: the key signs for stages that `promote` names, and never for the first one.
pub const PROMOTER: &str = "volary-promoter";

/// Who merges into a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Promote {
    /// People.
    #[default]
    People,
    /// The server too, when a release manager asks it to on the page and every gate says go.
    Asked,
    /// The server too, as soon as every gate says go.
    Automatic,
}

pub(super) fn promote(section: &Fields<'_>, stage: &str) -> Result<Promote, FieldError> {
    match section.text(stage)? {
        "automatic" => Ok(Promote::Automatic),
        "asked" => Ok(Promote::Asked),
        "people" => Ok(Promote::People),
        other => {
            let message = format!("{other:?} is nobody who could merge");
            Err(section.complain(stage, message, "write `automatic`, `asked` or `people`"))
        }
    }
}

/// Nothing is merged into the first stage.
pub(super) fn into_first(config: &FleetConfig, fields: &Fields<'_>) -> Option<FieldError> {
    let first = &config.first().name;
    config.promote.contains_key(first).then(|| {
        let message = format!("{first} is the first stage: people push to it and nothing is merged into it");
        fields.complain("promote", message, format!("remove promote.{first}"))
    })
}
