//! Sends points on a connection of the agent: first those on disk, oldest first, then those in memory.

use std::time::Duration;

use volary_api::v1::device::ReceivedBatch;
use volary_host::since_boot;

use super::journal::Reading;
use super::store::{Batch, Name};
use super::{Meter, Moment, State};
use crate::http::{HttpError, Server};
use crate::log;

/// How long a server is left alone that does not know measurements: it may be brought up to date any day.
const UNKNOWN: Duration = Duration::from_secs(6 * 3600);

/// How many batches go out in one request, and how many bytes of them as they are packed on disk. A
/// request that breaks off on a bad link is sent again as a whole.
const TOGETHER: usize = 24;
const TOGETHER_BYTES: u64 = 128 << 10;

/// The most requests with batches of the past in one go: the device has other things to do.
const REQUESTS: usize = 10;

/// The state is written at least this often, so that ids rise also if the clock is lost.
const REMEMBER: Duration = Duration::from_secs(24 * 3600);

/// Why nothing more is sent now.
enum Ends {
    /// The server is away, or not what it should be.
    Error(HttpError),
    /// The server does not know measurements.
    Unknown,
}

impl Meter {
    /// True if there are points enough to send.
    pub fn is_due(&self) -> bool {
        self.due_in().is_some_and(|wait| wait.is_zero())
    }

    /// How long until there are points enough to send; `None` if nothing is to be sent.
    pub fn due_in(&self) -> Option<Duration> {
        let state = self.state();
        let plan = state.plan.as_ref()?;
        // What an agent before this one could not send goes with the first question.
        if state.tried_at.is_none() && !self.shared.store.waiting().is_empty() {
            return Some(Duration::ZERO);
        }
        if state.sending.is_some() || state.ring.points() == 0 {
            return Some(plan.metrics.send).filter(|_| state.sending.is_none());
        }
        let now = since_boot();
        let gathered =
            plan.metrics.every.saturating_mul(u32::try_from(state.ring.points()).unwrap_or(u32::MAX));
        let full = plan.metrics.send.saturating_sub(gathered);
        let quiet = state.quiet_until.map_or(Duration::ZERO, |until| until.saturating_sub(now));
        // What did not get through waits for its next turn.
        let again =
            state.tried_at.map_or(Duration::ZERO, |at| (at + plan.metrics.send / 2).saturating_sub(now));
        Some(full.max(quiet).max(again))
    }

    /// How long until it is worth to wake up only in order to send: half as long again as the fleet wants,
    /// so that nearly always a question to the server comes first.
    pub fn wakes_in(&self) -> Option<Duration> {
        let slack = self.state().plan.as_ref()?.metrics.send / 2;
        Some(self.due_in()?.saturating_add(slack))
    }

    /// Sends what waits, if it is due. What does not get through stays.
    pub fn send_if_due(&self, server: &Server) {
        if self.is_due() {
            self.send(server);
        }
    }

    /// Sends what waits.
    pub fn send(&self, server: &Server) {
        let now = Moment::now();
        let mut state = self.state();
        let Some(plan) = state.plan.clone() else { return };
        if state.sending.is_some() {
            return;
        }
        state.sending = Some(None);
        state.tried_at = Some(now.since_boot);
        let read = state.read();
        drop(state);
        let reading = self.reading(&plan, &read, &now);
        let mut state = self.state();
        let batch = state.batch(&reading.lines, &now);
        state.sending = Some(batch.clone());
        drop(state);
        let sent = self.deliver(server, batch.as_ref());
        self.settle(batch, reading, sent);
    }

    fn settle(&self, batch: Option<Batch>, reading: Reading, sent: Result<bool, Ends>) {
        let mut state = self.state();
        // Nobody else took it meanwhile, as the end of the process does.
        let is_ours = state.sending.take().is_some();
        match sent {
            Ok(false) => {}
            Ok(true) => {
                if let Some(batch) = batch.filter(|_| is_ours) {
                    let is_further = state.commit(&batch.samples, reading);
                    if is_further || since_boot().saturating_sub(state.remembered_at) >= REMEMBER {
                        self.remember(&mut state);
                    }
                }
            }
            Err(Ends::Unknown) => {
                if state.quiet_until.is_none() {
                    log::say("the server does not know measurements; they are kept here");
                }
                state.quiet_until = Some(since_boot() + UNKNOWN);
                return;
            }
            Err(Ends::Error(error)) => {
                log::say(format!("measurements wait until the server takes them: {error}"));
            }
        }
        state.quiet_until = None;
    }

    /// What is on disk, then what is in memory, so that ids rise. False if so much is on disk that the
    /// rest has to wait.
    fn deliver(&self, server: &Server, last: Option<&Batch>) -> Result<bool, Ends> {
        let waiting = self.shared.store.waiting();
        let groups = together(&waiting);
        for group in groups.iter().take(REQUESTS) {
            let batches: Vec<(&Name, Batch)> =
                group.iter().filter_map(|(name, _)| Some((name, self.shared.store.batch(name)?))).collect();
            let settled = post(server, &batches.iter().map(|(_, batch)| batch).collect::<Vec<_>>())?;
            for ((name, _), is_settled) in batches.iter().zip(settled) {
                if is_settled && let Err(error) = self.shared.store.forget(name) {
                    log::say(error.to_string());
                }
            }
        }
        if groups.len() > REQUESTS {
            return Ok(false);
        }
        match last {
            None => Ok(true),
            Some(batch) => Ok(post(server, &[batch])? == [true]),
        }
    }
}

/// What goes out in one request each.
fn together(waiting: &[(Name, u64)]) -> Vec<&[(Name, u64)]> {
    let mut groups = Vec::new();
    let (mut from, mut size) = (0, 0);
    for (at, (_, own)) in waiting.iter().enumerate() {
        if at > from && (at - from == TOGETHER || size + own > TOGETHER_BYTES) {
            groups.push(&waiting[from..at]);
            (from, size) = (at, 0);
        }
        size += own;
    }
    if from < waiting.len() {
        groups.push(&waiting[from..]);
    }
    groups
}

/// Sends some batches in one request; says for each whether it need not be sent again.
fn post(server: &Server, batches: &[&Batch]) -> Result<Vec<bool>, Ends> {
    if batches.is_empty() {
        return Ok(Vec::new());
    }
    let now = Moment::now();
    let lines: Vec<Vec<u8>> = batches
        .iter()
        .map(|batch| serde_json::to_vec(&batch.ready(&now)).expect("samples have only text keys"))
        .collect();
    match server.metrics(&lines) {
        Ok(answer) => Ok(settled(batches, &answer)),
        Err(HttpError::Refused { status: 404 | 405, .. }) => Err(Ends::Unknown),
        // One of them may be why; it will never be taken.
        Err(error @ HttpError::Refused { status: 400 | 409 | 413 | 422, .. }) => match batches {
            [_] => {
                log::say(format!("measurements are lost: {error}"));
                Ok(vec![true])
            }
            many => {
                let each = many.iter().map(|batch| post(server, &[batch]));
                each.collect::<Result<Vec<_>, _>>().map(|all| all.concat())
            }
        },
        Err(error) => Err(Ends::Error(error)),
    }
}

fn settled(batches: &[&Batch], answer: &ReceivedBatch) -> Vec<bool> {
    let is_settled = |(at, batch): (usize, &&Batch)| {
        let line = u32::try_from(at + 1).unwrap_or(u32::MAX);
        let refused = answer.refused.iter().find(|refused| refused.line == line);
        if answer.received.contains(&batch.samples.id) {
            return true;
        }
        if let Some(refused) = refused {
            log::say(format!("measurements are lost: {}", refused.error));
        }
        refused.is_some()
    };
    batches.iter().enumerate().map(is_settled).collect()
}

impl State {
    /// True if something waits in memory.
    #[cfg(test)]
    pub(super) fn points(&self) -> usize {
        self.ring.points()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_has_its_bounds() {
        let sizes = |waiting: &[u64]| {
            let waiting: Vec<(Name, u64)> = waiting.iter().map(|size| (Name::default(), *size)).collect();
            together(&waiting).into_iter().map(<[_]>::len).collect::<Vec<_>>()
        };
        assert_eq!(sizes(&[]), Vec::<usize>::new());
        assert_eq!(sizes(&[10; 50]), [24, 24, 2]);
        assert_eq!(sizes(&[100 << 10, 20 << 10, 200 << 10, 1]), [2, 1, 1]);
    }
}
