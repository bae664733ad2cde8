//! How the devices stood when they were judged last: what goes beside their measurements. It is made where
//! they are judged anyway, since that reads each device's report.

use std::collections::BTreeMap;

use jiff::Timestamp;
use volary_model::{DeviceName, StageName};
use volary_plan::condition::Condition;

use crate::facts::Judged;

/// The devices by name.
pub(crate) type Standings = BTreeMap<DeviceName, Standing>;

/// How a device stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    /// Its stage, if it has one.
    pub(crate) stage: Option<StageName>,
    /// The kind of hardware, if it told.
    pub(crate) device_type: Option<String>,
    /// Whether it is what its stage wants.
    pub(crate) condition: Condition,
    /// When it was heard of last.
    pub(crate) seen_at: Option<Timestamp>,
}

impl Standing {
    /// How a device stands.
    pub(crate) fn of(judged: &Judged) -> Self {
        let image = judged.report.as_ref().and_then(|report| report.image.as_ref());
        Self {
            stage: judged.record.stage.clone(),
            device_type: image.map(|image| image.device_type.clone()),
            condition: judged.condition,
            seen_at: judged.seen_at,
        }
    }
}
