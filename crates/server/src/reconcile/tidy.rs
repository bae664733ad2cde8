//! Removes what of old builds nobody needs any more. What that is decides `housekeeping`.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::SignedDuration;
use volary_store::BuildState;

use crate::app::App;
use crate::housekeeping::{OldBuild, surplus};

/// What was said for gates longer ago counts for none: no gate may wait longer than 366 days.
const SAID: SignedDuration = SignedDuration::from_hours(400 * 24);

/// Looks at all builds, and removes.
pub(super) async fn tidy(app: Arc<App>) -> Result<(), String> {
    let said = volary_host::now().checked_sub(SAID).unwrap_or(jiff::Timestamp::MIN);
    app.store.forget_gate_words(said).await.map_err(|error| error.to_string())?;
    let builds = app.store.builds(None, u32::MAX).await.map_err(|error| error.to_string())?;
    let depot = app.archive.clone();
    let names: BTreeSet<String> = builds
        .iter()
        .flat_map(|build| build.packages.iter().filter_map(|package| package.split_once('=')))
        .map(|(name, _)| name.to_owned())
        .collect();
    let asked = tokio::task::spawn_blocking(move || {
        Ok::<_, volary_archive::Error>((depot.builds_offered()?, depot.builds_archived(&names)?))
    });
    let (offered, archived) =
        asked.await.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    let old: Vec<OldBuild> = builds
        .iter()
        .map(|build| OldBuild {
            id: build.id,
            source: build.source.clone(),
            over: match build.state {
                BuildState::Queued | BuildState::Running | BuildState::Built => false,
                BuildState::Succeeded | BuildState::Failed | BuildState::Cancelled => true,
            },
            has_buildinfo: build.buildinfo.is_some(),
        })
        .collect();
    let keep = usize::try_from(app.config.build_logs).unwrap_or(usize::MAX);
    let surplus = surplus(&old, &offered, &archived, keep);
    for id in surplus.buildinfos {
        // The record first: it must not promise what is gone.
        app.store.forget_buildinfo(id).await.map_err(|error| error.to_string())?;
        remove(&app.layout.buildinfo(id))?;
    }
    for id in surplus.logs {
        remove(&app.layout.build_log(id))?;
        remove(&app.layout.build(id).join("again.log"))?;
        // Only if nothing else is in it.
        let _ = std::fs::remove_dir(app.layout.build(id));
    }
    Ok(())
}

fn remove(path: &std::path::Path) -> Result<(), String> {
    volary_host::remove_if_exists(path).map_err(|error| error.to_string())
}
