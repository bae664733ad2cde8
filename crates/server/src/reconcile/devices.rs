//! Notices when a device's condition changes, silence included, and judges for those who tell of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use volary_plan::condition::Condition;

use crate::app::App;
use crate::facts::{Judged, Judgement};
use crate::standing::Standing;

/// The name under which the conditions of the last run are kept, over restarts.
const SETTING: &str = "conditions";

/// Reports come in swarms; a run for each would be wasted.
const GATHER: Duration = Duration::from_millis(500);

/// Judges all devices and adds an event for each that changed.
pub(super) async fn devices(app: Arc<App>) -> Result<(), String> {
    // Of a large fleet too, no more than a tenth of the time goes into it.
    tokio::time::sleep(GATHER.max(app.judged.get().took * 9)).await;
    let begun = Instant::now();
    let text = |error: volary_store::StoreError| error.to_string();
    let before: BTreeMap<String, Condition> =
        app.store.setting(SETTING).await.map_err(text)?.unwrap_or_default();
    let (judged, view) = app.judge().await.map_err(text)?;
    let standings = judged.iter().map(|judged| (judged.record.name.clone(), Standing::of(judged)));
    app.standings.set(standings.collect());
    let mut after = BTreeMap::new();
    let mut events = Vec::new();
    for device in &judged {
        let name = device.record.name.to_string();
        let was = before.get(&name).copied();
        // On its way is no news: the end of the way is.
        let settled = match device.condition {
            Condition::Converging => was.unwrap_or(Condition::Converging),
            condition => condition,
        };
        if was != Some(settled)
            && let Some((kind, text)) = news(device)
        {
            events.push((kind, name.clone(), text));
        }
        after.insert(name, settled);
    }
    if before != after {
        app.store.set_setting(SETTING, &after).await.map_err(text)?;
    }
    for (kind, name, text) in events {
        app.event(kind, &name, &text).await;
    }
    let (at, devices) = (Some(volary_host::now()), Arc::new(judged));
    app.judged.set(Judgement { at, took: begun.elapsed(), view, devices });
    app.nudges.alerts.notify_one();
    app.nudges.feeds.notify_waiters();
    Ok(())
}

fn news(device: &Judged) -> Option<(&'static str, String)> {
    let name = &device.record.name;
    match device.condition {
        Condition::Good => {
            let commit = device.record.good_commit.as_ref().map_or("", |commit| commit.short());
            let suite = device.record.suite.as_ref().map(|suite| format!(" ({suite})")).unwrap_or_default();
            Some(("device-good", format!("{name} is good at {commit}{suite}")))
        }
        Condition::Failed => Some(("device-failed", format!("{name} failed: {}", device.reason))),
        Condition::Refused => Some(("device-refused", format!("{name} refused: {}", device.reason))),
        Condition::Silent => Some(("device-silent", format!("{name} is silent: {}", device.reason))),
        // The one who did it made the event.
        Condition::Waiting | Condition::Rejected | Condition::New | Condition::Converging => None,
    }
}
