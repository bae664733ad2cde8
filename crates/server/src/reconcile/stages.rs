//! The branches of the stages: where they are, and since when.

use std::sync::Arc;

use crate::app::App;
use crate::evidence;
use crate::fleet_view::FleetView;

/// Reads the fleet repository and notes what moved.
pub(crate) async fn stages(app: Arc<App>) -> Result<(), String> {
    // One at a time: an older reading must not replace a newer one.
    let _turn = app.reading_stages.lock().await;
    let (layout, before) = (app.layout.clone(), app.view.get());
    let last = before.clone();
    let view = tokio::task::spawn_blocking(move || FleetView::read(&layout, &last))
        .await
        .map_err(|error| format!("it has a bug: {error}"))?;
    let known = app.store.branches().await.map_err(|error| error.to_string())?;
    for stage in &view.stages {
        let Some(tip) = &stage.tip else { continue };
        let was = known.iter().find(|branch| branch.name == stage.branch);
        // Each look at a promotion comes here; nothing is to be written then.
        if was.is_some_and(|was| was.tip == tip.commit) {
            continue;
        }
        let moved = app
            .store
            .branch_seen(&stage.branch, &tip.commit, volary_host::now())
            .await
            .map_err(|error| error.to_string())?;
        if moved && was.is_some() {
            let suite = stage.suite.as_ref().map(|suite| format!(" ({suite})")).unwrap_or_default();
            let text = format!("{} is at {}{suite}: {}", stage.name, tip.commit.short(), tip.subject);
            app.event("branch-moved", &stage.branch, &text).await;
            for why in &tip.overrides {
                let text =
                    format!("a gate of {} was overridden with {}: {why}", stage.name, tip.commit.short());
                app.event("gate-overridden", stage.name.as_str(), &text).await;
            }
        }
    }
    let changed = view.stages.iter().map(|stage| &stage.tip).ne(before.stages.iter().map(|stage| &stage.tip));
    let (layout, now) = (app.layout.clone(), view.clone());
    let settled = tokio::task::spawn_blocking(move || evidence::settle(&layout, &now))
        .await
        .map_err(|error| format!("it has a bug: {error}"))?;
    app.view.set(view);
    if changed {
        app.news.notify_waiters();
        app.nudges.devices.notify_one();
        app.nudges.rollouts.notify_one();
        app.nudges.gate_commands.notify_one();
        app.nudges.gates();
        app.nudges.deltas.notify_one();
    }
    for evidence in settled.map_err(|problem| format!("evidence cannot be kept in git: {problem}"))? {
        let text = format!("{} has the evidence for {}", evidence.stage, evidence.merge.short());
        app.event("evidence-kept", evidence.stage.as_str(), &text).await;
    }
    Ok(())
}
