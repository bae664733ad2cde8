//! Asks the server for a turn to change, where the fleet rolls its commits out in waves, or bounds how
//! many devices of a site change at once. Not here: who gets one (the server), and when to ask
//! (`volary-device`).

use jiff::Timestamp;
use volary_api::v1::device::{AskTurn, Turn};
use volary_device::{Event, Policy, Work};
use volary_model::Place;

use crate::agent::Agent;
use crate::http::HttpError;
use crate::log;

/// How soon to ask again when there was no answer: a minute, as for everything that is away.
const AWAY: u32 = 60;

/// Asks. Without an answer the device waits: what turns are there to prevent is that devices are lost
/// together, and that is no better while the server is away. Only a person who stands before the
/// device with its fleet in hand outranks it.
pub fn ask(agent: &Agent, work: &Work) -> Event {
    let asked = AskTurn {
        stage: work.target.stage.clone(),
        commit: work.target.commit.clone(),
        towards: agent.state.towards(&work.target).cloned(),
        site: work.policy.site.clone(),
        after: format!("{:016}", agent.state.last_report),
    };
    let bound = bound(&work.policy);
    if agent.is_without_server() {
        log::say(format!(
            "{bound}; nobody counts them here, and somebody said where to take the fleet from, so it goes on"
        ));
        return Event::TurnGranted;
    }
    match agent.server.turn(&asked) {
        Ok(Turn::Granted { seconds }) => {
            log::say(format!("it is this device's turn to change, for {seconds} s"));
            Event::TurnGranted
        }
        Ok(Turn::Wait { reason, again_after, told }) => Event::TurnRefused { reason, again_after, told },
        Ok(Turn::Unknown) => refused(&bound, "the server answered in a way that is not known"),
        Err(HttpError::Refused { problem, .. }) => {
            refused(&bound, &format!("the server gives this device no turn: {problem}"))
        }
        Err(error) => {
            log::say(error.to_string());
            if agent.is_elsewhere() && work.policy.per_site_at_most.is_none() {
                return by_clock(agent, work, volary_host::now());
            }
            // Not the error itself: it says something else each time, and each would be reported.
            refused(&bound, "the server, which gives the turns, did not answer")
        }
    }
}

/// The commit came from a place that has files and counts nothing: waves open by the clock.
fn by_clock(agent: &Agent, work: &Work, now: Timestamp) -> Event {
    let place = Place::of(&work.target.commit, &agent.config.name);
    let (wave, opens) = work.policy.wave_by_clock(place, work.committed_at.unwrap_or(now));
    if opens <= now {
        return Event::TurnGranted;
    }
    let waves = work.policy.waves.len();
    let reason =
        format!("without the server wave {wave} of {waves}, its own, opens {}", opens.strftime("%F %T UTC"));
    let left = u32::try_from(opens.duration_since(now).as_secs()).unwrap_or(u32::MAX);
    // The server may be back before, and stop what begins then.
    Event::TurnRefused { reason, again_after: left.clamp(1, 10 * AWAY), told: false }
}

fn bound(policy: &Policy) -> String {
    match policy.per_site_at_most {
        Some(at_most) => format!("at most {at_most} of a site may change at once"),
        None => format!("changes come in {} waves", policy.waves.len()),
    }
}

fn refused(bound: &str, why: &str) -> Event {
    Event::TurnRefused { reason: format!("{bound}, and {why}"), again_after: AWAY, told: false }
}

/// Gives a turn back that was not used. If that fails it ends by itself.
pub fn give_back(agent: &Agent) {
    if let Err(error) = agent.server.give_turn_back() {
        log::say(format!("the turn is not given back, it ends by itself: {error}"));
    }
}
