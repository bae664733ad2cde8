//! Merges into stages that take merges by the server, and tells what those wait for that it does not make.

use std::collections::BTreeMap;
use std::sync::Arc;

use volary_fleet::{Promote, Rules};
use volary_model::{CommitId, StageName};

use crate::app::App;
use crate::gates::GateError;
use crate::promoter::{self, Merge};
use crate::promotion::{self, Facts};
use crate::{Layout, fleet_view};

/// The merge that is due, or what it waits for.
type Waits = Result<Merge, String>;

/// Asks the gates of each such stage.
pub(super) async fn promotions(app: Arc<App>) -> Result<(), String> {
    let layout = app.layout.clone();
    let stages = tokio::task::spawn_blocking(move || automatic(&layout)).await;
    let stages = stages.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
    // Most fleets have none; then no device needs to be judged for it. A merge is judged again, by devices as they
    // are then.
    if stages.is_empty() {
        app.promotions.set(BTreeMap::new());
        return Ok(());
    }
    let facts = Facts::gather_lately(&app).await.map_err(|error| error.to_string())?;
    let asked = tokio::task::spawn_blocking(move || due(&facts, stages)).await;
    let asked = asked.map_err(|error| error.to_string())?;
    let mut waiting = BTreeMap::new();
    for (stage, waits) in asked.map_err(|error| error.to_string())? {
        match waits {
            Err(why) => drop(waiting.insert(stage, why)),
            Ok(merge) => {
                let (layout, wanted) = (app.layout.clone(), merge.clone());
                let made = tokio::task::spawn_blocking(move || promoter::merge(&layout, &wanted)).await;
                match made.map_err(|error| error.to_string())? {
                    Ok(commit) => {
                        let text = format!(
                            "every gate said go: {} was merged into {} as {}",
                            merge.commit.short(),
                            merge.to,
                            commit.short()
                        );
                        app.event("promoted", merge.to.as_str(), &text).await;
                        app.nudges.stages.notify_one();
                    }
                    Err(why) => drop(waiting.insert(stage, why)),
                }
            }
        }
    }
    app.promotions.set(waiting);
    Ok(())
}

/// A stage that takes merges by the server.
struct Automatic {
    from: StageName,
    to: StageName,
    branch: String,
    base: CommitId,
}

/// The stages that take merges by the server, as the commit says that each is at.
fn automatic(layout: &Layout) -> Result<Vec<Automatic>, GateError> {
    // A fleet without a first commit has no stages yet; one that cannot be read is told by who reads its stages.
    let Ok(repository) = fleet_view::open(layout) else { return Ok(Vec::new()) };
    let Ok(config) = fleet_view::head_config(&repository) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for stage in &config.stages {
        let Some(from) = &stage.from else { continue };
        let Some(base) = repository.branch(&stage.branch)? else { continue };
        let own = Rules::at(&repository, &base).ok().map(|rules| rules.config);
        if own.is_some_and(|own| own.promote_of(&stage.name) == Promote::Automatic) {
            let (from, to, branch) = (from.clone(), stage.name.clone(), stage.branch.clone());
            found.push(Automatic { from, to, branch, base });
        }
    }
    Ok(found)
}

/// The merges of these that are due, and what the others wait for.
fn due(facts: &Facts, stages: Vec<Automatic>) -> Result<Vec<(StageName, Waits)>, GateError> {
    let mut due = Vec::new();
    for Automatic { from, to, branch, base } in stages {
        let found = promotion::preview(facts, &from, &to)?;
        if found.up_to_date {
            continue;
        }
        let waits = match promoter::closed(&found.verdicts) {
            Some(closed) => Err(closed),
            None => Ok(Merge::of(found, base, &branch, "")),
        };
        due.push((to, waits));
    }
    Ok(due)
}
