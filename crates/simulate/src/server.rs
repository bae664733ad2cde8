//! What a device gets when it asks, and what it finds out about what it got.

use volary_device::{Event, Failure, Passed, Step, Target, Work};
use volary_model::StageName;

use crate::device::Device;
use crate::plan::{Mood, Plan};

/// Numbers from here on are commits that nobody signed for the stage.
const FORGED: usize = 0xF00D_0000;

pub(crate) fn stage() -> StageName {
    "development".parse().expect("a stage name")
}

fn other_stage() -> StageName {
    "canary".parse().expect("a stage name")
}

fn away() -> Event {
    Event::Unreachable("no answer".to_owned())
}

impl Device<'_> {
    /// True if the path to the server works, as the agent and the timer try it: its own faults do
    /// not count.
    pub(crate) fn path_works(&self) -> bool {
        self.has_link() && self.plan.mood(self.now) != Mood::Down
    }

    /// True if packets leave the device and come back.
    fn has_link(&self) -> bool {
        let outside = self.link_back_at.is_none_or(|back| back <= self.now);
        outside && self.disk.config.path_lost_at.is_none_or(|lost| self.now < lost)
    }

    /// True if a request is answered as it should be.
    pub(crate) fn is_answered(&mut self) -> bool {
        let lost = self.plan.mood(self.now) == Mood::Lossy && self.dice.chance(333);
        self.path_works() && self.plan.mood(self.now) != Mood::InTrouble && !lost
    }

    /// The answer to: what is my commit?
    pub(crate) fn ask(&mut self, known: Option<&Target>) -> Event {
        if !self.is_answered() {
            return away();
        }
        self.send();
        let tip = self.plan.tip(self.now);
        let (stage, number) = match self.plan.mood(self.now) {
            Mood::OffersOld => (stage(), usize::try_from(self.dice.between(1, tip as u64 + 1)).unwrap_or(1)),
            Mood::OffersOther => (other_stage(), FORGED),
            Mood::OffersForged => (stage(), FORGED + tip),
            Mood::Fine | Mood::Down | Mood::InTrouble | Mood::Lossy => (stage(), tip),
        };
        let target = Target { stage, commit: Plan::id(number), rolling: self.plan.rolling(self.now) };
        if known == Some(&target) && self.dice.chance(500) {
            return Event::Unchanged;
        }
        // Nothing depends on it: the worlds of earlier seeds stay what they were.
        let _ = self.dice.chance(20);
        Event::Offered { target, poll: self.plan.poll }
    }

    /// The answer to: may I change now? Others of the site may be at it.
    pub(crate) fn ask_turn(&mut self) -> Event {
        let crowded = self.dice.chance(200) && self.now < self.plan.kind_from;
        let reason = match (self.is_answered(), crowded) {
            (true, false) => return Event::TurnGranted,
            (true, true) => "another device of the site changes now",
            (false, _) => "the server did not answer",
        };
        Event::TurnRefused { reason: reason.to_owned(), again_after: self.plan.poll, told: crowded }
    }

    pub(crate) fn fetch(&mut self) -> Event {
        if self.is_answered() { Event::Fetched } else { away() }
    }

    /// Only what the stage's people signed, and only forward.
    pub(crate) fn verify(&mut self, work: &Work) -> Event {
        if !self.is_answered() {
            return away();
        }
        let refused = |message: &str| {
            Event::Refused(Failure { step: Step::Verify, what: String::new(), message: message.to_owned() })
        };
        let Some(number) = self.plan.number(&work.target.commit) else {
            return refused("nobody who may has signed it");
        };
        let accepted = self.disk.ledger.accepted.get(&work.target.stage);
        let accepted = accepted.and_then(|commit| self.plan.number(commit)).unwrap_or(0);
        if number < accepted {
            return refused("it is older than what was accepted");
        }
        let commit = self.plan.commit(number);
        Event::Verified(Box::new(Passed {
            committed_at: Some(crate::device::wall(commit.at, 0)),
            policy: commit.policy.clone(),
            image: self.wanted_image(number),
            ..Passed::default()
        }))
    }

    /// Sends the reports that wait. An acknowledgement may get lost: then the report comes twice.
    pub(crate) fn send(&mut self) {
        while let Some(report) = self.disk.queue.first().cloned() {
            if !self.path_works() || self.plan.mood(self.now) == Mood::InTrouble {
                return;
            }
            self.rules.received(&report);
            if self.plan.mood(self.now) == Mood::Lossy && self.dice.chance(333) {
                return;
            }
            self.disk.queue.remove(0);
        }
    }
}
