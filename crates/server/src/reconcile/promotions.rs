//! Merges into stages that take merges by the server, and tells what those wait for that it does not make.

use std::collections::BTreeMap;
use std::sync::Arc;

use volary_api::v1::fleet::Say;
use volary_fleet::Promote;

use crate::app::App;
use crate::gates::GateError;
use crate::promoter::{self, Merge};
use crate::promotion::{self, Facts};

/// What one stage waits for.
type Waits = Result<Option<Merge>, String>;

/// Asks the gates of each such stage.
pub(super) async fn promotions(app: Arc<App>) -> Result<(), String> {
    let facts = Facts::gather(&app).await.map_err(|error| error.to_string())?;
    let asked = tokio::task::spawn_blocking(move || due(&facts)).await.map_err(|error| error.to_string())?;
    let mut waiting = BTreeMap::new();
    for (stage, waits) in asked.map_err(|error| error.to_string())? {
        match waits {
            Ok(None) => {}
            Err(why) => drop(waiting.insert(stage, why)),
            Ok(Some(merge)) => {
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

/// The stages that take merges by the server, with what each waits for: nothing, or a reason.
fn due(facts: &Facts) -> Result<Vec<(volary_model::StageName, Waits)>, GateError> {
    let (repository, config) = match facts.repository() {
        Ok(read) => read,
        // A fleet without a first commit has no stages yet.
        Err(_) => return Ok(Vec::new()),
    };
    let mut due = Vec::new();
    for stage in &config.stages {
        let Some(from) = &stage.from else { continue };
        let Some(base) = repository.branch(&stage.branch)? else { continue };
        let own = volary_fleet::Rules::at(&repository, &base).ok().map(|rules| rules.config);
        if own.is_none_or(|own| own.promote_of(&stage.name) != Promote::Automatic) {
            continue;
        }
        let promotion = promotion::preview(facts, from, &stage.name)?;
        if promotion.up_to_date {
            continue;
        }
        let closed: Vec<String> = promotion
            .verdicts
            .iter()
            .filter(|verdict| verdict.say != Say::Go)
            .map(|verdict| format!("{}: {}", verdict.gate, verdict.reason))
            .collect();
        let waits = if closed.is_empty() {
            Ok(Some(Merge {
                from: from.clone(),
                to: stage.name.clone(),
                branch: stage.branch.clone(),
                base,
                commit: promotion.commit,
                suite: promotion.suite_after.unwrap_or_else(|| "no release".to_owned()),
                asked_by: String::new(),
            }))
        } else {
            Err(closed.join("; "))
        };
        due.push((stage.name.clone(), waits));
    }
    Ok(due)
}
