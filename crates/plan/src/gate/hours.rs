//! Gates about the time of the merge itself.

use super::{Say, Verdict};

/// Whether merges are let in at this moment, by the hours of the gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours {
    /// True if they are.
    pub open: bool,
    /// The hours, as they are written, with their zone.
    pub written: String,
}

/// What is known of freezes of the stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frozen {
    /// None is on.
    No,
    /// One is on; its time and reason.
    Yes(String),
}

/// `time`: merges only in these hours. `Err` says why that cannot be told.
pub(super) fn time(hours: Option<&Result<Hours, String>>) -> Verdict {
    let (say, reason) = match hours {
        None => (Say::Ask, "it is not known whether merges are let in now".to_owned()),
        Some(Err(why)) => (Say::Ask, why.clone()),
        Some(Ok(Hours { open: true, written })) => (Say::Go, format!("merges are let in now: {written}")),
        Some(Ok(Hours { open: false, written })) => (Say::Stop, format!("merges are let in only: {written}")),
    };
    Verdict { gate: "time".into(), say, reason }
}

/// `freeze`: no merge while a freeze of the stage is on.
pub(super) fn freeze(frozen: Option<&Frozen>) -> Verdict {
    let (say, reason) = match frozen {
        None => (Say::Ask, "the freezes of the stage are not known".to_owned()),
        Some(Frozen::No) => (Say::Go, "no freeze is on".to_owned()),
        Some(Frozen::Yes(what)) => (Say::Stop, format!("a freeze is on: {what}")),
    };
    Verdict { gate: "freeze".into(), say, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_freezes_stop() {
        let hours = |open| Ok(Hours { open, written: "Mon 08:00-16:00, time zone: UTC".to_owned() });
        let say = |hours: &Result<Hours, String>| time(Some(hours)).say;
        assert_eq!((say(&hours(true)), say(&hours(false))), (Say::Go, Say::Stop));
        assert_eq!(say(&Err("time zone X/Y is not known".to_owned())), Say::Ask);
        assert_eq!(
            time(Some(&hours(false))).reason,
            "merges are let in only: Mon 08:00-16:00, time zone: UTC"
        );
        assert_eq!((freeze(Some(&Frozen::No)).say, freeze(None).say), (Say::Go, Say::Ask));
        let frozen = freeze(Some(&Frozen::Yes("until 6 January: rest".to_owned())));
        assert_eq!(
            (frozen.say, frozen.reason.as_str()),
            (Say::Stop, "a freeze is on: until 6 January: rest")
        );
    }
}
