//! Gates about what was measured on the devices of the stage before.

use volary_model::Severity;

use super::{Say, Verdict};
use crate::compare::Comparison;
use crate::text;
use crate::watch::{Finding, State};

/// `no_worse_than`: the devices that have the commit do no worse than those of a stage that did not change.
pub(super) fn no_worse_than(found: Option<&Result<Comparison, String>>) -> Verdict {
    let (say, reason) = match found {
        None => (Say::Ask, "devices have not been compared".to_owned()),
        Some(Err(why)) => (Say::Ask, why.clone()),
        Some(Ok(comparison)) => (comparison.say, comparison.reason.clone()),
    };
    Verdict { gate: "no_worse_than".into(), say, reason }
}

/// `watch`: no rule of this severity or worse fires on the devices of the stage before. A rule that lacks data does not
/// fire; that no rule could be asked is *ask*.
pub(super) fn watch(severity: Severity, findings: Option<&Result<Vec<Finding>, String>>) -> Verdict {
    let (say, reason) = match findings {
        None => (Say::Ask, "the rules have not been asked".to_owned()),
        Some(Err(why)) => (Say::Ask, why.clone()),
        Some(Ok(findings)) => judge(severity, findings),
    };
    Verdict { gate: "watch".into(), say, reason }
}

fn judge(severity: Severity, findings: &[Finding]) -> (Say, String) {
    let asked: Vec<&Finding> = findings.iter().filter(|finding| finding.severity >= severity).collect();
    let firing: Vec<String> = asked
        .iter()
        .filter(|finding| finding.state == State::Firing)
        .map(|finding| format!("{} on {} ({})", finding.rule, finding.device, finding.text))
        .collect();
    let told = asked.iter().filter(|finding| finding.state != State::NotEnough).count();
    let knows =
        |rule: &str| asked.iter().any(|finding| finding.rule == rule && finding.state != State::NotEnough);
    let mut unknown: Vec<String> =
        asked.iter().map(|finding| finding.rule.clone()).filter(|rule| !knows(rule)).collect();
    unknown.sort();
    unknown.dedup();
    if !firing.is_empty() {
        return (
            Say::Stop,
            format!(
                "{} of severity {severity} or worse: {}",
                text::count(firing.len(), "finding"),
                text::some(&firing, 3)
            ),
        );
    }
    match told {
        0 => (Say::Ask, format!("no rule of severity {severity} or worse has enough data to tell")),
        _ if !unknown.is_empty() => {
            (Say::Ask, format!("without enough data to tell: {}", text::some(&unknown, 3)))
        }
        // A rule answers for each series of each device.
        _ => (Say::Go, format!("nothing fires in {} of rules", text::count(told, "answer"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(state: State, severity: Severity) -> Finding {
        Finding {
            rule: "leak".to_owned(),
            device: "d1".parse().unwrap(),
            series: "a".to_owned(),
            state,
            severity,
            text: "60 MiB".to_owned(),
            since: None,
        }
    }

    #[test]
    fn what_fires_stops_and_what_is_not_known_asks() {
        let check = |severity, findings: &[Finding], say, reason: &str| {
            let verdict = watch(severity, Some(&Ok(findings.to_vec())));
            assert_eq!((verdict.say, verdict.reason.as_str()), (say, reason));
        };
        let fires = [finding(State::Quiet, Severity::Critical), finding(State::Firing, Severity::Warning)];
        check(
            Severity::Warning,
            &fires,
            Say::Stop,
            "1 finding of severity warning or worse: leak on d1 (60 MiB)",
        );
        check(Severity::Critical, &fires, Say::Go, "nothing fires in 1 answer of rules");
        let unknown = [finding(State::NotEnough, Severity::Critical)];
        let why = "no rule of severity warning or worse has enough data to tell";
        check(Severity::Warning, &unknown, Say::Ask, why);
        check(Severity::Warning, &[], Say::Ask, why);
        assert_eq!(watch(Severity::Warning, None).say, Say::Ask);
        let unread = watch(Severity::Warning, Some(&Err("not yet".to_owned())));
        assert_eq!((unread.say, unread.reason.as_str()), (Say::Ask, "not yet"));
    }

    #[test]
    fn a_comparison_speaks_for_itself() {
        let comparison = |say| Comparison { say, reason: "why".to_owned(), look: 1, tests: Vec::new() };
        for say in [Say::Go, Say::Ask, Say::Stop] {
            let verdict = no_worse_than(Some(&Ok(comparison(say))));
            assert_eq!((verdict.say, verdict.reason.as_str()), (say, "why"));
        }
        assert_eq!(no_worse_than(Some(&Err("no stage".to_owned()))).say, Say::Ask);
        assert_eq!(no_worse_than(None).say, Say::Ask);
    }
}
