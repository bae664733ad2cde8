//! Turns: the fleet may roll its commits out in waves, and bound how many devices of a site change at once.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::NoContent;
use volary_api::v1::device::{AskTurn, Turn};
use volary_fleet::{Rules, is_ancestor};
use volary_model::{CommitId, StageName};
use volary_plan::turn::{self, Decision, Held};
use volary_store::{NewTurn, StoreError};

use crate::app::App;
use crate::fleet_view::{self, FleetView, Pace};
use crate::http::auth::DeviceIdentity;
use crate::http::input::{Input, blocking};
use crate::http::refusal::Refusal;
use crate::rollouts;

/// The longest name of a site, and the longest id of a report.
const TEXT_LIMIT: usize = 200;

/// `POST /device/v1/turn`. What bounds the site is read from the commit that the device goes for, as
/// the device reads it.
pub(crate) async fn ask(
    State(app): State<Arc<App>>,
    DeviceIdentity(member): DeviceIdentity,
    Input(asked): Input<AskTurn>,
) -> Result<Json<Turn>, Refusal> {
    let site = asked.site.unwrap_or_default();
    if site.len() > TEXT_LIMIT || asked.after.len() > TEXT_LIMIT {
        return Err(Refusal::invalid(format!("a site's name has at most {TEXT_LIMIT} characters")));
    }
    if asked.stage != member.stage {
        return Err(Refusal::conflict(format!(
            "{} is in the stage {}, not in {}; a device gets turns of its own stage",
            member.name, member.stage, asked.stage
        )));
    }
    let pace = pace(&app, &asked.stage, &asked.commit).await?;
    let length = turn::length(pace.run_within, pace.confirm_within);
    // Whoever goes by way of an older commit goes in its turn for the one that it goes to: the older one
    // is not rolled out any more.
    let (rolled_out, in_waves) = match asked.towards {
        None => (asked.commit.clone(), pace.waves.is_some()),
        Some(towards) => {
            on_the_way(&app, &asked.commit, &towards).await?;
            let in_waves = self::pace(&app, &asked.stage, &towards).await?.waves.is_some();
            (towards, in_waves)
        }
    };
    if in_waves
        && let Err((reason, again_after)) =
            rollouts::may_begin(&app.rollouts.get(), &asked.stage, &rolled_out, &member.name)
    {
        app.store.give_turn_back(&member.name).await?;
        // The answer to what is desired changes with this one.
        return Ok(Json(Turn::Wait { reason, again_after: seconds(again_after), told: true }));
    }
    let Some(at_most) = pace.per_site_at_most else {
        app.store.give_turn_back(&member.name).await?;
        if in_waves {
            rollouts::begins(&app, &asked.stage, &rolled_out, &member.name).await?;
        }
        return Ok(Json(granted(length)));
    };
    let wanted = NewTurn {
        device: member.name.clone(),
        stage: asked.stage,
        site,
        commit: asked.commit,
        after: asked.after,
    };
    Ok(Json(match take(&app, &wanted, at_most, length).await? {
        Decision::Granted { .. } => {
            if in_waves {
                rollouts::begins(&app, &wanted.stage, &rolled_out, &wanted.device).await?;
            }
            granted(length)
        }
        Decision::Wait { reason, again_after } => {
            Turn::Wait { reason, again_after: seconds(again_after), told: false }
        }
    }))
}

/// Takes a turn if there is one.
pub(super) async fn take(
    app: &App,
    wanted: &NewTurn,
    at_most: u32,
    length: Duration,
) -> Result<Decision, StoreError> {
    let now = volary_host::now();
    app.store
        .take_turn(wanted, now, |turns| {
            let held: Vec<Held> = turns
                .iter()
                .map(|turn| Held {
                    device: turn.device.clone(),
                    since: turn.granted_at,
                    until: turn.expires_at,
                })
                .collect();
            match turn::decide(&wanted.device, at_most, &held, length, now) {
                decision @ Decision::Granted { until } => (Some(until), decision),
                decision @ Decision::Wait { .. } => (None, decision),
            }
        })
        .await
}

/// `DELETE /device/v1/turn`: the device does not change itself after all.
pub(crate) async fn give_back(
    State(app): State<Arc<App>>,
    DeviceIdentity(member): DeviceIdentity,
) -> Result<NoContent, Refusal> {
    app.store.give_turn_back(&member.name).await?;
    app.store.rollout_not_begun(&member.stage, &member.name).await?;
    Ok(NoContent)
}

fn granted(length: Duration) -> Turn {
    Turn::Granted { seconds: seconds(length) }
}

fn seconds(duration: Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// How a commit paces its stage. That of the tip is known; a device may go for an older one that it
/// got just before the branch moved.
async fn pace(app: &Arc<App>, stage: &StageName, commit: &CommitId) -> Result<Pace, Refusal> {
    let view = app.view.get();
    let known = view.stage(stage).filter(|known| known.tip.as_ref().is_some_and(|tip| tip.commit == *commit));
    if let Some(known) = known {
        return Ok(known.pace.clone());
    }
    let (layout, stage, commit) = (app.layout.clone(), stage.clone(), commit.clone());
    blocking(move || older_pace(&layout, &view, &stage, &commit)).await?
}

/// Refuses a commit that is not on the way to the other one.
async fn on_the_way(app: &Arc<App>, commit: &CommitId, towards: &CommitId) -> Result<(), Refusal> {
    let (layout, commit, towards) = (app.layout.clone(), commit.clone(), towards.clone());
    let is_on_it = blocking(move || -> Result<bool, Refusal> {
        let repository = fleet_view::open(&layout).map_err(Refusal::broken)?;
        Ok(commit != towards && is_ancestor(&repository, &commit, &towards).unwrap_or(false))
    });
    if is_on_it.await?? {
        Ok(())
    } else {
        Err(Refusal::conflict("the commit is not on the way to the other one"))
    }
}

fn older_pace(
    layout: &crate::Layout,
    view: &FleetView,
    stage: &StageName,
    commit: &CommitId,
) -> Result<Pace, Refusal> {
    let repository = fleet_view::open(layout).map_err(Refusal::broken)?;
    let mut tips = view.stages.iter().filter_map(|stage| stage.tip.as_ref());
    if !tips.any(|tip| is_ancestor(&repository, commit, &tip.commit).unwrap_or(false)) {
        return Err(Refusal::not_found(format!("commit {commit} is not on the branch of any stage")));
    }
    let rules = Rules::at(&repository, commit).map_err(Refusal::conflict)?;
    Ok(Pace::of(&rules.config, stage))
}
