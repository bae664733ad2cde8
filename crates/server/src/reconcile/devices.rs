//! Notices when a device's condition changes, silence included, and judges for those who tell of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use volary_model::{DeviceName, StageName};
use volary_plan::condition::Condition;
use volary_plan::text;
use volary_store::NewEvent;

use crate::app::App;
use crate::facts::{Judged, Judgement};
use crate::standing::Standing;

/// The name under which the conditions of the last run are kept, over restarts.
const SETTING: &str = "conditions";

/// Reports come in swarms; a run for each would be wasted.
const GATHER: Duration = Duration::from_millis(500);

/// More devices of a stage than this with the same news are told of together.
const FEW: usize = 20;

/// Judges all devices and adds events for those that changed.
pub(super) async fn devices(app: Arc<App>) -> Result<(), String> {
    // Of a large fleet too, no more than a tenth of the time goes into it.
    tokio::time::sleep(GATHER.max(app.judged.get().took * 9)).await;
    let begun = Instant::now();
    let failed = |error: volary_store::StoreError| error.to_string();
    let before: BTreeMap<String, Condition> =
        app.store.setting(SETTING).await.map_err(failed)?.unwrap_or_default();
    let (judged, view) = app.judge().await.map_err(failed)?;
    let standings = judged.iter().map(|judged| (judged.record.name.clone(), Standing::of(judged)));
    app.standings.set(standings.collect());
    let mut after = BTreeMap::new();
    let mut changed = Vec::new();
    for device in &judged {
        let name = device.record.name.to_string();
        let was = before.get(&name).copied();
        // On its way is no news: the end of the way is.
        let settled = match device.condition {
            Condition::Converging => was.unwrap_or(Condition::Converging),
            condition => condition,
        };
        if was != Some(settled)
            && let Some(news) = news(device)
        {
            changed.push((news, device.record.stage.as_ref(), &device.record.name));
        }
        after.insert(name, settled);
    }
    if before != after {
        app.store.set_setting(SETTING, &after).await.map_err(failed)?;
    }
    app.events(&events(changed)).await;
    let (at, devices) = (Some(volary_host::now()), Arc::new(judged));
    app.judged.set(Judgement { at, took: begun.elapsed(), view, devices });
    app.nudges.alerts.notify_one();
    app.nudges.feeds.notify_waiters();
    Ok(())
}

/// What became of a device, without its name, so that what became of others can be seen to be the same.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct News {
    kind: &'static str,
    /// The words before `what` for one device, and for several.
    verbs: [&'static str; 2],
    what: String,
}

/// What is told of devices whose conditions changed. Many with the same news are one event: a merge that a large fleet
/// follows must not push out all else that happened.
fn events<'a>(
    changed: impl IntoIterator<Item = (News, Option<&'a StageName>, &'a DeviceName)>,
) -> Vec<NewEvent> {
    let mut alike: BTreeMap<(News, Option<&StageName>), Vec<&DeviceName>> = BTreeMap::new();
    for (news, stage, device) in changed {
        alike.entry((news, stage)).or_default().push(device);
    }
    let mut events = Vec::new();
    for ((News { kind, verbs: [one, several], what }, stage), devices) in alike {
        let event =
            |subject: &str, text: String| NewEvent { kind: kind.into(), subject: subject.into(), text };
        match stage {
            Some(stage) if devices.len() > FEW => {
                let some: Vec<String> = devices.iter().take(3).map(ToString::to_string).collect();
                let count = devices.len();
                let some = text::of_all(&some, count);
                events.push(event(
                    stage.as_str(),
                    format!("{count} devices of {stage} {several} {what}: {some}"),
                ));
            }
            _ => events.extend(devices.iter().map(|device| {
                let name = device.as_str();
                event(name, format!("{name} {one} {what}"))
            })),
        }
    }
    events
}

fn news(device: &Judged) -> Option<News> {
    let (kind, verbs, what) = match device.condition {
        Condition::Good => {
            let commit = device.record.good_commit.as_ref().map_or("", |commit| commit.short());
            let suite = device.record.suite.as_ref().map(|suite| format!(" ({suite})")).unwrap_or_default();
            ("device-good", ["is", "are"], format!("good at {commit}{suite}"))
        }
        Condition::Failed => ("device-failed", ["failed:"; 2], device.reason.clone()),
        Condition::Refused => ("device-refused", ["refused:"; 2], device.reason.clone()),
        Condition::Silent => ("device-silent", ["is", "are"], format!("silent: {}", device.reason)),
        // The one who did it made the event.
        Condition::Waiting | Condition::Rejected | Condition::New | Condition::Converging => return None,
    };
    Some(News { kind, verbs, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of devices 0 to `count` of a stage that are good, and one that is not.
    fn told(count: usize) -> Vec<String> {
        let stage: StageName = "canary".parse().unwrap();
        let names: Vec<DeviceName> =
            (0..count).map(|number| format!("dev-{number:03}").parse().unwrap()).collect();
        let bad: DeviceName = "bad".parse().unwrap();
        let good = || News { kind: "device-good", verbs: ["is", "are"], what: "good at 1234567".into() };
        let failed = News { kind: "device-failed", verbs: ["failed:"; 2], what: "dns".into() };
        let mut changed: Vec<_> = names.iter().map(|name| (good(), Some(&stage), name)).collect();
        changed.push((failed, Some(&stage), &bad));
        events(changed)
            .into_iter()
            .map(|event| format!("{} {}: {}", event.kind, event.subject, event.text))
            .collect()
    }

    #[test]
    fn many_with_the_same_news_are_one_event() {
        assert_eq!(
            told(2),
            [
                "device-failed bad: bad failed: dns",
                "device-good dev-000: dev-000 is good at 1234567",
                "device-good dev-001: dev-001 is good at 1234567",
            ]
        );
        assert_eq!(told(FEW).len(), FEW + 1);
        assert_eq!(
            told(FEW + 1),
            [
                "device-failed bad: bad failed: dns",
                "device-good canary: 21 devices of canary are good at 1234567: dev-000, dev-001, dev-002 and 18 more",
            ]
        );
    }
}
