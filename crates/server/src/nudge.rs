//! How reconcilers are woken, and where the last run's outcome can be seen.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use tokio::sync::Notify;

/// One bell for each reconciler. A ring while it runs makes it run once more.
#[derive(Debug, Default)]
pub(crate) struct Nudges {
    /// Sources may have new commits.
    pub(crate) poll: Notify,
    /// A build may be waiting.
    pub(crate) builds: Notify,
    /// Somebody may have to be told of a build.
    pub(crate) statuses: Notify,
    /// A build may have consequences.
    pub(crate) rebuilds: Notify,
    /// The fleet repository may have moved.
    pub(crate) stages: Notify,
    /// A release has a new suite, or will have no more.
    pub(crate) suites: Notify,
    /// The archive may have a new state to export.
    pub(crate) exports: Notify,
    /// A mirror may be due.
    pub(crate) mirrors: Notify,
    /// An image may be without its block file.
    pub(crate) deltas: Notify,
    /// Devices may have changed their condition.
    pub(crate) devices: Notify,
    /// A stage may have a commit that commands of gates are to be asked of.
    pub(crate) gate_commands: Notify,
    /// A gate may have opened.
    pub(crate) promotions: Notify,
    /// Forges may have something to be told of a promotion.
    pub(crate) forges: Notify,
    /// A rollout may go on.
    pub(crate) rollouts: Notify,
    /// Something may fire, or a silence changed.
    pub(crate) alerts: Notify,
    /// Feeds may have something to tell.
    pub(crate) feeds: Notify,
}

impl Nudges {
    /// What gates say may be another thing now.
    pub(crate) fn gates(&self) {
        self.promotions.notify_one();
        self.forges.notify_one();
    }
}

/// What the last run of each reconciler came to.
#[derive(Debug, Default)]
pub(crate) struct Outcomes(Mutex<BTreeMap<&'static str, Outcome>>);

/// The last run of a reconciler.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// When it ended.
    pub(crate) at: Timestamp,
    /// Why it failed, if it did.
    pub(crate) problem: Option<String>,
}

impl Outcomes {
    /// Keeps an outcome; a problem is logged when it is new, not at each repetition.
    pub(crate) fn keep(&self, reconciler: &'static str, problem: Option<String>) {
        let mut outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = outcomes.get(reconciler).and_then(|outcome| outcome.problem.clone());
        match (&before, &problem) {
            (before, Some(problem)) if before.as_ref() != Some(problem) => {
                tracing::error!(reconciler, %problem, "the reconciler failed; it tries again");
            }
            (Some(_), None) => tracing::info!(reconciler, "the reconciler works again"),
            _ => {}
        }
        outcomes.insert(reconciler, Outcome { at: volary_host::now(), problem });
    }

    /// The problems of those that failed last.
    pub(crate) fn problems(&self) -> Vec<String> {
        let outcomes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outcomes
            .iter()
            .filter_map(|(name, outcome)| {
                let problem = outcome.problem.as_ref()?;
                Some(format!("{name} (last tried {:.0}): {problem}", outcome.at))
            })
            .collect()
    }
}
