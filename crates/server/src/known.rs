//! All devices with their newest reports in memory: what changed since the last time is read, and nothing else.
//! Reports are long, and those who judge the fleet ask for all of them again and again.

use std::collections::BTreeMap;
use std::sync::Arc;

use volary_api::v1::device::{Convergence, Report};
use volary_model::DeviceName;
use volary_plan::condition::Observed;
use volary_store::{Device, Store, StoreError};

use crate::facts::observed;

/// Changes that are read at once.
const CHANGES: u32 = 1000;

/// A device with what its report says, read.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    /// What the records have, without the long texts.
    pub(crate) record: Arc<Device>,
    /// Its newest report.
    pub(crate) report: Option<Arc<Report>>,
    /// Its newest convergence.
    pub(crate) convergence: Option<Arc<Convergence>>,
    /// What is judged by; `seen_at` is of the last time.
    pub(crate) observed: Observed,
}

impl Known {
    /// Reads what a record says.
    pub(crate) fn of(mut record: Device) -> Self {
        let report: Option<Report> =
            record.report.as_deref().and_then(|report| serde_json::from_str(report).ok());
        let convergence: Option<Convergence> =
            record.convergence.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let observed = observed(&record, report.as_ref(), convergence.as_ref());
        record.csr = String::new();
        (record.certificate, record.report, record.convergence) = (None, None, None);
        Self {
            record: Arc::new(record),
            report: report.map(Arc::new),
            convergence: convergence.map(Arc::new),
            observed,
        }
    }
}

/// All devices by name.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    pub(crate) all: BTreeMap<DeviceName, Known>,
    /// The change that was read last.
    last: i64,
}

impl Devices {
    /// Reads what changed.
    pub(crate) async fn refresh(&mut self, store: &Store) -> Result<(), StoreError> {
        loop {
            let changes = store.device_changes(self.last, CHANGES).await?;
            if changes.devices.is_empty() {
                return Ok(());
            }
            for (name, device) in changes.devices {
                match device {
                    Some(device) => self.all.insert(name, Known::of(device)),
                    None => self.all.remove(&name),
                };
            }
            self.last = changes.last;
        }
    }
}
