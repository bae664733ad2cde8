//! Gates whose word comes from elsewhere: a command that the server runs, and a status that others post.

use std::time::Duration;

use jiff::Timestamp;
use volary_model::GateName;

use super::{Say, Verdict};
use crate::text;

/// How much later than due a command may be run again before its word counts no more: it waits for its
/// turn and takes its time.
const LATE: Duration = Duration::from_secs(2 * 3600);

/// A gate whose word comes from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its name, as `volary.yml` has it.
    pub name: GateName,
    /// From whom its word comes.
    pub from: Teller,
    /// How old the word may be: a command is run again after this, a status is *ask* after it.
    pub for_long: Duration,
}

/// Who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Teller {
    /// A command of the server.
    Command,
    /// Somebody, over the API.
    External,
}

impl Teller {
    /// As the gate is called in `volary.yml`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Command => "command",
            Self::External => "external",
        }
    }
}

/// What was said about the commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Word {
    /// The word itself.
    pub say: Say,
    /// Why, in one line.
    pub reason: String,
    /// Who said it; a command says nothing here.
    pub by: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// What is known of a gate's word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known {
    /// Nothing was said of this commit.
    Nothing,
    /// The server has no such command.
    NoCommand,
    /// This was said last.
    Said(Word),
}

/// What a command that ended means: go, stop, or that a person must look. `None` is one that did not end by itself.
pub fn word_of_exit(status: Option<i32>) -> Say {
    match status {
        Some(0) => Say::Go,
        Some(1) => Say::Stop,
        Some(_) | None => Say::Ask,
    }
}

/// True if a command is to be run: it never was for this commit, or its word is as old as it may be.
pub fn is_due(for_long: Duration, last: Option<Timestamp>, now: Timestamp) -> bool {
    last.is_none_or(|last| age(last, now) >= for_long)
}

/// What such a gate says.
pub(super) fn verdict(told: &Told, known: &Known, now: Timestamp) -> Verdict {
    let (say, reason) = judge(told, known, now);
    Verdict { gate: format!("{}:{}", told.from.word(), told.name).into(), say, reason }
}

fn judge(told: &Told, known: &Known, now: Timestamp) -> (Say, String) {
    let name = &told.name;
    let word = match (known, told.from) {
        (Known::NoCommand, _) => {
            let remedy = format!("the server's operator adds [gate_commands.{name}] to server.toml");
            return (Say::Ask, format!("the server has no command of this name; {remedy}"));
        }
        (Known::Nothing, Teller::Command) => {
            return (Say::Ask, "the command has not been run for this commit yet".to_owned());
        }
        (Known::Nothing, Teller::External) => {
            return (
                Say::Ask,
                format!("nobody said anything of this commit; say it with: volary gate set {name}"),
            );
        }
        (Known::Said(word), _) => word,
    };
    let (age, bound) = (age(word.at, now), told.for_long);
    let by = word.by.as_ref().map(|by| format!("{by}, ")).unwrap_or_default();
    let said = format!("{} ({by}{} ago)", word.reason, text::duration(age));
    let too_old = match told.from {
        Teller::Command => age > bound.saturating_add(LATE),
        Teller::External => age > bound,
    };
    // What was refused stays refused until somebody says otherwise: only a go gets old.
    if too_old && word.say == Say::Go {
        return (Say::Ask, format!("what was said is older than {}: {said}", text::duration(bound)));
    }
    (word.say, said)
}

/// How long ago it was; nothing, if the clock went back since.
fn age(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(at)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).unwrap()
    }

    fn word(say: Say, by: Option<&str>) -> Known {
        Known::Said(Word { say, reason: "the rig is fine".to_owned(), by: by.map(str::to_owned), at: at(10) })
    }

    fn check(from: Teller, known: &Known, now: i64, say: Say, why: &str) {
        let told = Told { name: "rig".parse().unwrap(), from, for_long: HOUR };
        let verdict = verdict(&told, known, at(now));
        assert_eq!((verdict.say, verdict.reason.as_str()), (say, why));
        assert_eq!(verdict.gate, format!("{}:rig", from.word()));
    }

    #[test]
    fn what_was_not_said_is_ask() {
        check(
            Teller::Command,
            &Known::Nothing,
            10,
            Say::Ask,
            "the command has not been run for this commit yet",
        );
        check(
            Teller::Command,
            &Known::NoCommand,
            10,
            Say::Ask,
            "the server has no command of this name; the server's operator adds [gate_commands.rig] to server.toml",
        );
        check(
            Teller::External,
            &Known::Nothing,
            10,
            Say::Ask,
            "nobody said anything of this commit; say it with: volary gate set rig",
        );
    }

    #[test]
    fn a_go_gets_old_and_a_stop_does_not() {
        let (go, stop) = (word(Say::Go, Some("lab")), word(Say::Stop, Some("lab")));
        check(Teller::External, &go, 11, Say::Go, "the rig is fine (lab, 1 h ago)");
        check(
            Teller::External,
            &go,
            12,
            Say::Ask,
            "what was said is older than 1 h: the rig is fine (lab, 2 h ago)",
        );
        check(Teller::External, &stop, 12, Say::Stop, "the rig is fine (lab, 2 h ago)");
        check(Teller::External, &word(Say::Ask, None), 12, Say::Ask, "the rig is fine (2 h ago)");
        // A command that is due waits for its turn.
        check(Teller::Command, &word(Say::Go, None), 13, Say::Go, "the rig is fine (3 h ago)");
        check(
            Teller::Command,
            &word(Say::Go, None),
            14,
            Say::Ask,
            "what was said is older than 1 h: the rig is fine (4 h ago)",
        );
        // A clock that went back makes nothing old.
        check(Teller::External, &go, 1, Say::Go, "the rig is fine (lab, 0 s ago)");
    }

    #[test]
    fn only_nought_is_go() {
        assert_eq!(word_of_exit(Some(0)), Say::Go);
        assert_eq!(word_of_exit(Some(1)), Say::Stop);
        for status in [Some(2), Some(127), Some(-1), None] {
            assert_eq!(word_of_exit(status), Say::Ask, "{status:?}");
        }
    }

    #[test]
    fn a_command_is_run_once_and_then_as_often_as_the_policy_says() {
        assert!(is_due(HOUR, None, at(10)));
        assert!(!is_due(HOUR, Some(at(10)), at(10)));
        assert!(is_due(HOUR, Some(at(9)), at(10)));
        assert!(!is_due(HOUR, Some(at(11)), at(10)));
    }
}
