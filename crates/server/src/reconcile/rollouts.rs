//! Takes the rollouts of all stages on by what their devices say.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use volary_model::CommitId;
use volary_plan::condition::Condition;
use volary_plan::rollout::{self, News, State};

use crate::app::App;
use crate::facts::Judged;
use crate::rollouts::{Now, members};

/// Reports come in swarms; a run for each would be wasted.
const GATHER: Duration = Duration::from_millis(500);

/// Takes each a step further once the swarm is over, and tells what became of it.
pub(super) async fn gathered(app: Arc<App>) -> Result<(), String> {
    tokio::time::sleep(GATHER.max(app.judged.get().took * 9)).await;
    rollouts(&app).await
}

/// The same at once, for a person who waits.
pub(crate) async fn rollouts(app: &App) -> Result<(), String> {
    let _turn = app.rolling_out.lock().await;
    let text = |error: volary_store::StoreError| error.to_string();
    let view = app.view.get();
    let staged = || {
        view.stages.iter().filter_map(|stage| Some((stage, stage.pace.waves.as_ref()?, stage.tip.as_ref()?)))
    };
    if staged().next().is_none() {
        app.rollouts.set(BTreeMap::new());
        return Ok(());
    }
    let devices = app.devices().await.map_err(text)?;
    let mut staged_now = BTreeSet::new();
    for (stage, policy, tip) in staged() {
        let begun = app.store.rollout_devices(&stage.name, &tip.commit).await.map_err(text)?;
        let members = members(&devices, &stage.name, &tip.commit, &begun);
        let now = volary_host::now();
        let (state, outlook, news, is_new) = app
            .store
            .change_rollout(&stage.name, &tip.commit, now, |before: Option<State>| {
                let is_new = before.is_none();
                let before = before.unwrap_or_else(|| begin(&tip.commit, &devices, now));
                let (state, outlook, news) = rollout::step(policy, before, &members, now);
                let kept = (state.clone(), outlook.says.clone(), state.finished_at.is_some());
                (Some(kept), (state, outlook, news, is_new))
            })
            .await
            .map_err(text)?;
        app.set_rollout(&stage.name, Now { policy: policy.clone(), state, outlook: outlook.clone() });
        if is_new {
            let text =
                format!("{} reaches {} in {} waves", tip.commit.short(), stage.name, policy.waves.len());
            app.event("rollout-began", stage.name.as_str(), &text).await;
        }
        for one in news {
            let (kind, text) = match one {
                News::Opened(_) => ("rollout-wave", outlook.says.clone()),
                News::Stopped(_) => ("rollout-stopped", outlook.says.clone()),
                News::Finished => ("rollout-finished", outlook.says.clone()),
            };
            let text = format!("{} in {}: {text}", tip.commit.short(), stage.name);
            app.event(kind, stage.name.as_str(), &text).await;
        }
        staged_now.insert(stage.name.clone());
    }
    app.keep_rollouts(&staged_now);
    Ok(())
}

/// What fails already, without the commit, says nothing about it.
fn begin(commit: &CommitId, devices: &[Judged], now: Timestamp) -> State {
    let failing = devices.iter().filter(|device| device.condition == Condition::Failed);
    let forgiven = failing.map(|device| device.record.name.clone()).collect();
    State { forgiven, ..State::begin(commit.clone(), now) }
}
