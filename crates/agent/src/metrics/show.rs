//! `volary-agent metrics`: what a look finds now, and how much waits to be sent.

use std::collections::BTreeMap;

use serde::Serialize;

use super::store::Store;
use super::{Looker, Moment, Plan};
use crate::agent::Agent;

/// Everything that `metrics` says; the JSON form of it is stable.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The version of this format: 1.
    pub version: u32,
    /// Seconds between two looks of the daemon; 0 if the fleet wants none.
    pub every: u64,
    /// Seconds between two sendings.
    pub send: u64,
    /// What a look finds now.
    pub series: BTreeMap<String, f64>,
    /// How many numbers found no place, since there are too many.
    pub left_out: u32,
    /// Batches that could not be sent and wait on disk.
    pub waiting_batches: usize,
    /// Points that were lost since they waited too long.
    pub lost_points: u64,
}

/// Looks.
pub fn show(agent: &Agent) -> Shown {
    let store = Store::new(agent.paths.metrics());
    let kept = store.kept();
    let mut shown = Shown {
        version: 1,
        every: 0,
        send: 0,
        series: BTreeMap::new(),
        left_out: 0,
        waiting_batches: store.waiting().len(),
        lost_points: kept.lost,
    };
    if let Some(plan) = Plan::of(agent) {
        let now = Moment::now();
        let mut looker = Looker::of(&agent.paths);
        looker.unclean = kept.in_boot(&now.boot_id, looker.ended_badly()).unclean;
        let look = looker.look(&plan, &now);
        (shown.every, shown.send) = (plan.metrics.every.as_secs(), plan.metrics.send.as_secs());
        (shown.series, shown.left_out) = (look.values, look.left_out);
    }
    shown
}

impl Shown {
    /// For a person: one series a line.
    pub fn text(&self) -> String {
        let mut lines = match self.every {
            0 => vec!["the fleet wants no measurements of this stage: metrics in volary.yml".to_owned()],
            every => vec![format!("measured each {every} s, sent each {} s", self.send)],
        };
        let width = self.series.keys().map(String::len).max().unwrap_or(0);
        lines.extend(self.series.iter().map(|(name, value)| format!("{name:<width$}  {value}")));
        let notes = [
            (u64::from(self.left_out), "numbers found no place"),
            (self.waiting_batches as u64, "batches wait to be sent"),
            (self.lost_points, "points were lost since they waited too long"),
        ];
        lines.extend(
            notes.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")),
        );
        lines.join("\n")
    }
}
