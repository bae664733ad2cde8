//! Which objects Icinga is to have, and what it takes to get there. Only objects whose variables say
//! that they are managed by this fleet are ever changed or deleted.

use std::collections::{BTreeMap, BTreeSet};

use volary_store::DeviceState;

use super::results::CheckResult;
use crate::facts::Judged;

/// The variable that says whose an object is, and its value.
pub(super) const MANAGED_BY: (&str, &str) = ("managed_by", "volary");

/// The variable that says which fleet it belongs to: two servers may share an Icinga.
pub(super) const FLEET: &str = "volary_fleet";

/// The custom variables of an object.
pub(super) type Variables = BTreeMap<String, String>;

/// An object as Icinga has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Existing {
    /// It is ours.
    Ours(Variables),
    /// Somebody else made it. It is left alone.
    Foreign,
}

/// What Icinga has, by name: `HOST` and `HOST!SERVICE`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Known(pub(super) BTreeMap<String, Existing>);

/// One change of the objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Makes a host or service.
    Create(String, Variables),
    /// Sets variables; `None` takes one away.
    Modify(String, BTreeMap<String, Option<String>>),
    /// Deletes a host with its services, or a service.
    Delete(String),
}

impl Step {
    /// The object's name.
    pub(super) fn object(&self) -> &str {
        match self {
            Self::Create(object, _) | Self::Modify(object, _) | Self::Delete(object) => object,
        }
    }
}

impl Known {
    /// True if the object is there and ours.
    pub(super) fn is_ours(&self, object: &str) -> bool {
        matches!(self.0.get(object), Some(Existing::Ours(_)))
    }

    /// Notes that a step was taken.
    pub(super) fn note(&mut self, step: &Step) {
        match step {
            Step::Create(object, variables) => {
                self.0.insert(object.clone(), Existing::Ours(variables.clone()));
            }
            Step::Modify(object, changes) => {
                if let Some(Existing::Ours(variables)) = self.0.get_mut(object) {
                    for (name, value) in changes {
                        match value {
                            Some(value) => variables.insert(name.clone(), value.clone()),
                            None => variables.remove(name),
                        };
                    }
                }
            }
            Step::Delete(object) => {
                let below = format!("{object}!");
                self.0.retain(|name, _| name != object && !name.starts_with(&below));
            }
        }
    }
}

/// The objects that Icinga is to have: a host for each accepted device, and a service for each result.
pub(super) fn wanted(
    devices: &[Judged],
    fleet: &str,
    results: &[CheckResult],
) -> BTreeMap<String, Variables> {
    let own = || {
        let own = [MANAGED_BY, (FLEET, fleet)];
        own.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect::<Variables>()
    };
    let mut wanted = BTreeMap::new();
    for device in devices.iter().filter(|device| device.record.state == DeviceState::Accepted) {
        let record = &device.record;
        let mut variables = own();
        let mut set = |name: &str, value: Option<String>| {
            variables.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("architecture", Some(record.architecture.to_string()));
        set("stage", record.stage.as_ref().map(ToString::to_string));
        set("release", record.suite.clone());
        let image = device.report.as_ref().and_then(|report| report.image.as_ref());
        set("device_type", image.map(|image| image.device_type.clone()));
        wanted.insert(record.name.to_string(), variables);
    }
    let services = results.iter().filter(|result| result.object.contains('!'));
    wanted.extend(services.map(|result| (result.object.clone(), own())));
    wanted
}

/// What it takes from what is known to what is wanted: what goes first, then hosts before services.
pub(super) fn steps(wanted: &BTreeMap<String, Variables>, known: &Known) -> Vec<Step> {
    let mut steps = Vec::new();
    let gone: BTreeSet<&str> = known
        .0
        .iter()
        .filter(|(object, existing)| matches!(existing, Existing::Ours(_)) && !wanted.contains_key(*object))
        .map(|(object, _)| object.as_str())
        .collect();
    for object in &gone {
        // A host takes its services along.
        if !object.split_once('!').is_some_and(|(host, _)| gone.contains(host)) {
            steps.push(Step::Delete((*object).to_owned()));
        }
    }
    for (object, variables) in wanted {
        match known.0.get(object) {
            None => {
                let host = object.split_once('!').map(|(host, _)| host);
                let foreign = host.is_some_and(|host| matches!(known.0.get(host), Some(Existing::Foreign)));
                if !foreign {
                    steps.push(Step::Create(object.clone(), variables.clone()));
                }
            }
            Some(Existing::Foreign) => {}
            Some(Existing::Ours(has)) => {
                let mut changes: BTreeMap<String, Option<String>> = BTreeMap::new();
                let new = variables.iter().filter(|(name, value)| has.get(*name) != Some(value));
                changes.extend(new.map(|(name, value)| (name.clone(), Some(value.clone()))));
                let old = has.keys().filter(|name| !variables.contains_key(*name));
                changes.extend(old.map(|name| (name.clone(), None)));
                if !changes.is_empty() {
                    steps.push(Step::Modify(object.clone(), changes));
                }
            }
        }
    }
    // A name with "!" follows the host that it begins with, since "!" sorts before all that names have.
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// The variables of one of ours; `None` for somebody else's.
    type Own<'a> = Option<&'a [(&'a str, &'a str)]>;

    fn known(objects: &[(&str, Own<'_>)]) -> Known {
        let existing =
            |own: &Own<'_>| own.map_or(Existing::Foreign, |pairs| Existing::Ours(variables(pairs)));
        Known(objects.iter().map(|(name, own)| ((*name).to_owned(), existing(own))).collect())
    }

    #[test]
    fn it_takes_few_steps_and_touches_nothing_of_others() {
        let wanted: BTreeMap<String, Variables> = BTreeMap::from([
            ("a".into(), variables(&[("stage", "canary")])),
            ("a!converge".into(), Variables::new()),
            ("b".into(), variables(&[("stage", "canary")])),
            ("b!converge".into(), Variables::new()),
            ("foreign".into(), Variables::new()),
            ("foreign!converge".into(), Variables::new()),
        ]);
        let mut there = known(&[
            ("b", Some(&[("stage", "development"), ("release", "v1.0/r1")])),
            ("b!converge", Some(&[])),
            ("b!old", Some(&[])),
            ("foreign", None),
            ("gone", Some(&[])),
            ("gone!converge", Some(&[])),
            ("other", None),
        ]);
        let taken = steps(&wanted, &there);
        let changes =
            BTreeMap::from([("release".to_owned(), None), ("stage".to_owned(), Some("canary".to_owned()))]);
        assert_eq!(
            taken,
            [
                Step::Delete("b!old".into()),
                Step::Delete("gone".into()),
                Step::Create("a".into(), variables(&[("stage", "canary")])),
                Step::Create("a!converge".into(), Variables::new()),
                Step::Modify("b".into(), changes),
            ]
        );
        taken.iter().for_each(|step| there.note(step));
        assert_eq!(steps(&wanted, &there), [], "one round is enough");
        assert!(there.is_ours("a!converge") && !there.is_ours("other") && !there.is_ours("gone!converge"));
    }
}
