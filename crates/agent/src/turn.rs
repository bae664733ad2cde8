//! Asks the server for a turn to change, where the fleet bounds how many devices of a site do so at
//! once. Not here: who gets one (the server), and when to ask (`volary-device`).

use volary_api::v1::device::{AskTurn, Turn};
use volary_device::{Event, Work};

use crate::agent::Agent;
use crate::http::HttpError;
use crate::log;

/// How soon to ask again when there was no answer: a minute, as for everything that is away.
const AWAY: u32 = 60;

/// Asks. Without an answer the device waits: what the bound is there to prevent is that a site loses
/// its devices together, and that is no better while the server is away. Only a person who stands
/// before the device with its fleet in hand outranks it.
pub fn ask(agent: &Agent, work: &Work) -> Event {
    let asked = AskTurn {
        stage: work.target.stage.clone(),
        commit: work.target.commit.clone(),
        site: work.policy.site.clone(),
        after: format!("{:016}", agent.state.last_report),
    };
    let at_most = work.policy.per_site_at_most.unwrap_or_default();
    if agent.is_without_server() {
        log::say(format!(
            "at most {at_most} of a site may change at once; nobody counts them here, and somebody said where \
             to take the fleet from, so it goes on"
        ));
        return Event::TurnGranted;
    }
    match agent.server.turn(&asked) {
        Ok(Turn::Granted { seconds }) => {
            log::say(format!("it is this device's turn to change, for {seconds} s"));
            Event::TurnGranted
        }
        Ok(Turn::Wait { reason, again_after }) => Event::TurnRefused { reason, again_after },
        Ok(Turn::Unknown) => refused(at_most, "the server answered in a way that is not known"),
        Err(HttpError::Refused { problem, .. }) => {
            refused(at_most, &format!("the server gives this device no turn: {problem}"))
        }
        Err(error) => {
            log::say(error.to_string());
            // Not the error itself: it says something else each time, and each would be reported.
            refused(at_most, "the server, which gives the turns, did not answer")
        }
    }
}

fn refused(at_most: u32, why: &str) -> Event {
    let reason = format!("at most {at_most} of a site may change at once, and {why}");
    Event::TurnRefused { reason, again_after: AWAY }
}

/// Gives a turn back that was not used. If that fails it ends by itself.
pub fn give_back(agent: &Agent) {
    if let Err(error) = agent.server.give_turn_back() {
        log::say(format!("the turn is not given back, it ends by itself: {error}"));
    }
}
