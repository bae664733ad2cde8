//! Queues the consequences of builds: what build-depends on a package that changed is built again,
//! if its source asks for that. What is built again is `volary_plan::rebuild`'s decision.

use std::collections::BTreeSet;
use std::sync::Arc;

use volary_plan::rebuild::{SourceFacts, rebuilds};
use volary_store::{Build, BuildFacts, NewRebuild};

use crate::app::App;

/// Plans for all builds that ended well and for which that was not done yet.
pub(super) async fn plan_all(app: Arc<App>) -> Result<(), String> {
    for build in app.store.unplanned().await.map_err(|error| error.to_string())? {
        plan(&app, &build).await?;
    }
    Ok(())
}

async fn plan(app: &Arc<App>, build: &Build) -> Result<(), String> {
    let known = app.store.build_facts().await.map_err(|error| error.to_string())?;
    let depot = app.archive.clone();
    let facts = tokio::task::spawn_blocking(move || {
        known.into_iter().map(|known| facts(&depot, known)).collect::<Vec<_>>()
    })
    .await
    .map_err(|error| error.to_string())?;
    let version = build.version.as_deref().unwrap_or_default();
    let planned: Vec<NewRebuild> = rebuilds(build.source.as_str(), &facts)
        .into_iter()
        .filter_map(|item| {
            let because = if item.because.of == build.source.as_str() {
                format!("rebuilt because {} of {} {version} changed", item.because.package, item.because.of)
            } else {
                format!(
                    "rebuilt because {} of {} is, after {} {version}",
                    item.because.package, item.because.of, build.source
                )
            };
            let after = item.after.iter().filter_map(|name| name.parse().ok()).collect();
            Some(NewRebuild { source: item.source.parse().ok()?, because, after })
        })
        .collect();
    let queued = app
        .store
        .queue_rebuilds(build.id, &planned, volary_host::now())
        .await
        .map_err(|error| error.to_string())?;
    for queued in queued {
        let because = queued.because.as_deref().unwrap_or_default();
        let text = format!("{} {}: {because} (build {})", queued.source, queued.commit.short(), queued.id);
        app.event("build-queued", &queued.id.to_string(), &text).await;
        app.nudges.builds.notify_waiters();
        app.nudges.builds.notify_one();
    }
    Ok(())
}

fn facts(depot: &crate::depot::Depot, known: BuildFacts) -> SourceFacts {
    let mut packages = BTreeSet::new();
    for package in &known.packages {
        let Some((name, version)) = package.split_once('=') else { continue };
        packages.insert(name.to_owned());
        packages.extend(depot.provides(name, version));
    }
    SourceFacts {
        name: known.source.to_string(),
        build_depends: known.needs.into_iter().collect(),
        packages,
        asks: known.asks,
    }
}
