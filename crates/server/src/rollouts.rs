//! Rollouts as the server knows them: how devices stand to a commit, and who may begin.
//!
//! Not here: when a wave opens and what stops it (`volary_plan::rollout`), and the loop that asks
//! (`reconcile::rollouts`).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use volary_model::{CommitId, DeviceName, Place, StageName};
use volary_plan::condition::Condition;
use volary_plan::rollout::{self, Member, Outlook, Policy, Standing, State};
use volary_store::{DeviceState, StoreError};

use crate::app::App;
use crate::facts::Judged;

/// How soon a device asks again whose wave is not open: a wave may open with the next report.
const AGAIN: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(600));

/// A rollout that goes on.
#[derive(Debug, Clone)]
pub(crate) struct Now {
    /// How.
    pub(crate) policy: Policy,
    /// How far it is.
    pub(crate) state: State,
    /// What it waits for.
    pub(crate) outlook: Outlook,
}

impl Now {
    /// True if every device gets the same answer to whether it may begin.
    pub(crate) fn answers_as(&self, other: &Self) -> bool {
        let asked = |now: &Self| {
            let State { commit, wave, open, halt, finished_at, .. } = &now.state;
            (commit.clone(), *wave, *open, halt.clone(), finished_at.is_some())
        };
        asked(self) == asked(other) && self.policy == other.policy
    }
}

/// The rollouts of all stages that have waves.
pub(crate) type Rollouts = BTreeMap<StageName, Now>;

/// How the devices of a stage stand to a commit. `begun` are those that were let begin.
pub(crate) fn members(
    devices: &[Judged],
    stage: &StageName,
    commit: &CommitId,
    begun: &BTreeSet<DeviceName>,
) -> Vec<Member> {
    devices
        .iter()
        .filter(|device| device.record.state == DeviceState::Accepted)
        .filter(|device| device.record.stage.as_ref() == Some(stage))
        .map(|device| {
            let name = &device.record.name;
            Member {
                device: name.clone(),
                place: Place::of(commit, name),
                standing: standing(device, commit, begun.contains(name)),
            }
        })
        .collect()
}

fn standing(device: &Judged, commit: &CommitId, begun: bool) -> Standing {
    let ended = device.convergence.as_ref().is_some_and(|convergence| convergence.commit == *commit);
    let there = ended || device.record.good_commit.as_ref() == Some(commit);
    match (device.condition, there) {
        (Condition::Silent, _) if begun || there => Standing::Lost,
        (Condition::Silent | Condition::New | Condition::Waiting | Condition::Rejected, _) if !begun => {
            Standing::Away
        }
        // What it said last is about another commit.
        (_, false) if begun => Standing::Changing,
        (_, false) if is_held(device, commit) => Standing::Held,
        (_, false) => Standing::Untouched,
        (Condition::Failed | Condition::Refused, true) => Standing::Bad(device.reason.clone()),
        (_, true) => Standing::Good,
    }
}

/// True if a person keeps the device from this commit.
fn is_held(device: &Judged, commit: &CommitId) -> bool {
    let waiting = device.report.as_ref().and_then(|report| report.waiting.as_ref());
    waiting.is_some_and(|waiting| waiting.held && waiting.commit == *commit)
}

/// Whether a device may begin with a commit of its stage now.
///
/// # Errors
/// Why not, and when to ask again.
pub(crate) fn may_begin(
    rollouts: &Rollouts,
    stage: &StageName,
    commit: &CommitId,
    device: &DeviceName,
) -> Result<(), (String, Duration)> {
    let Some(now) = rollouts.get(stage).filter(|now| now.state.commit == *commit) else {
        return Err(("the rollout of this commit has not begun yet".to_owned(), AGAIN.0));
    };
    rollout::may_begin(&now.policy, &now.state, Place::of(commit, device)).map_err(|reason| {
        let left = now.outlook.next_at.map(|at| at.duration_since(volary_host::now()));
        let left = left.and_then(|left| Duration::try_from(left).ok()).unwrap_or(AGAIN.0 * 3);
        (reason, left.clamp(AGAIN.0, AGAIN.1))
    })
}

/// Notes that a device begins, if its stage has waves.
pub(crate) async fn begins(
    app: &App,
    stage: &StageName,
    commit: &CommitId,
    device: &DeviceName,
) -> Result<(), StoreError> {
    app.store.rollout_begun(stage, commit, device, volary_host::now()).await?;
    app.nudges.rollouts.notify_one();
    Ok(())
}
