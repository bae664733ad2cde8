//! `volary.yml`: the stages of a fleet, who may sign for them, and the gates between them.
//!
//! Read by hand from YAML nodes, so that each complaint names field, line and remedy. Whether a
//! gate is open is decided elsewhere; here are only its numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use volary_model::StageName;

use crate::fields::{FieldError, Fields, invalid};
use crate::yaml::{Node, Value};

/// How often devices ask when `poll` is not given: soon enough for a person who waits.
const DEFAULT_POLL: Duration = Duration::from_secs(60);

/// The content of `volary.yml`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleetConfig {
    /// The stages, each after the one it takes merges from; the first has no `from`.
    pub stages: Vec<Stage>,
    /// Conditions for merging *into* a stage.
    pub gates: BTreeMap<StageName, Gates>,
    /// Principals of `.volary/allowed_signers` that may sign for a stage; a stage that is not
    /// named here takes all of them.
    pub signers: BTreeMap<StageName, Vec<String>>,
    /// How often devices ask for news.
    pub poll: Duration,
}

/// A stage: a branch that devices follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// Its name.
    pub name: StageName,
    /// Its branch in the fleet repository.
    pub branch: String,
    /// The stage whose branch is merged into it; the first stage has none.
    pub from: Option<StageName>,
    /// Where its packages come from.
    pub packages: Packages,
}

/// Where a stage's packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packages {
    /// The suite `rolling`: every newest build.
    Rolling,
    /// The release revision in `volary.lock`.
    Lock,
}

/// Conditions of a merge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Gates {
    /// The release in `volary.lock` takes no more picks.
    pub frozen: bool,
    /// How long the commit has been on the stage before, unchanged.
    pub soak: Option<Duration>,
    /// How the devices of the stage before must be.
    pub healthy: Option<Healthy>,
}

/// How the devices of the stage before must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthy {
    /// At least this part of them is healthy.
    pub at_least: Percent,
    /// At most this part of them is silent.
    pub silent_at_most: Percent,
    /// There are at least so many of them.
    pub devices_at_least: u32,
}

/// A part of a whole, in hundredths of a percent so that 99.95 % is exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u16);

impl Percent {
    /// So many hundredths of a percent, at most 10,000.
    pub const fn from_hundredths(hundredths: u16) -> Option<Self> {
        if hundredths <= 10_000 { Some(Self(hundredths)) } else { None }
    }

    /// The part as a number from 0 to 10,000.
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// The part as a number from 0 to 1.
    pub fn fraction(self) -> f64 {
        f64::from(self.0) / 10_000.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0 / 100, self.0 % 100) {
            (whole, 0) => write!(f, "{whole}%"),
            (whole, part) if part % 10 == 0 => write!(f, "{whole}.{}%", part / 10),
            (whole, part) => write!(f, "{whole}.{part:02}%"),
        }
    }
}

impl FleetConfig {
    /// Parses and validates the text of `volary.yml`.
    ///
    /// # Errors
    /// [`FieldError`] with line, field and remedy.
    pub fn parse(text: &str) -> Result<Self, FieldError> {
        let root = crate::yaml::parse(text).map_err(FieldError::from)?;
        let fields = Fields::new(&root, "", &["version", "stages", "gates", "signers", "poll"])?;
        fields.version()?;
        let stages = stages(&fields)?;
        let config = Self {
            gates: per_stage(&fields, "gates", &stages, gates)?,
            signers: per_stage(&fields, "signers", &stages, signers)?,
            poll: match fields.get("poll") {
                Some(_) => fields.duration("poll", Duration::from_secs(1), Duration::from_secs(86_400))?,
                None => DEFAULT_POLL,
            },
            stages,
        };
        match config.first_stage_gate(&fields) {
            Some(error) => Err(error),
            None => Ok(config),
        }
    }

    /// The stage with this name.
    pub fn stage(&self, name: &StageName) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == *name)
    }

    /// The stage that follows this branch.
    pub fn stage_of_branch(&self, branch: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.branch == branch)
    }

    /// The stage without `from`: the one that people push to.
    pub fn first(&self) -> &Stage {
        self.stages.first().expect("a parsed configuration has a first stage")
    }

    /// The stages that take merges from this one.
    pub fn after<'a>(&'a self, name: &'a StageName) -> impl Iterator<Item = &'a Stage> {
        self.stages.iter().filter(move |stage| stage.from.as_ref() == Some(name))
    }

    /// The gates of merging into a stage; none are written as the default.
    pub fn gates_of(&self, name: &StageName) -> Gates {
        self.gates.get(name).cloned().unwrap_or_default()
    }

    /// True if somebody with one of these names may sign for the stage.
    pub fn may_sign(&self, stage: &StageName, principals: &[String]) -> bool {
        self.signers.get(stage).is_none_or(|names| names.iter().any(|name| principals.contains(name)))
    }

    fn first_stage_gate(&self, fields: &Fields<'_>) -> Option<FieldError> {
        let first = &self.first().name;
        self.gates.contains_key(first).then(|| {
            let message =
                format!("{first} is the first stage: people push to it and nothing is merged into it");
            fields.complain("gates", message, format!("remove gates.{first}"))
        })
    }
}

fn stages(fields: &Fields<'_>) -> Result<Vec<Stage>, FieldError> {
    let mut read: Vec<(Stage, usize)> = Vec::new();
    for (name, key_line, node) in fields.entries("stages")? {
        let field = format!("stages.{name}");
        let name: StageName = name.parse().map_err(|error| invalid(key_line, &field, error))?;
        let stage = stage(name, node, &field)?;
        if let Some((other, _)) = read.iter().find(|(other, _)| other.branch == stage.branch) {
            let message = format!("branch {} belongs to stage {} already", stage.branch, other.name);
            return Err(FieldError::new(node.line, field, message, "give each stage a branch of its own"));
        }
        read.push((stage, key_line));
    }
    in_order(fields, read)
}

fn stage(name: StageName, node: &Node, field: &str) -> Result<Stage, FieldError> {
    let fields = Fields::new(node, field, &["branch", "from", "packages"])?;
    let branch = fields.text("branch")?.to_owned();
    if !is_branch(&branch) {
        let message = format!("{branch:?} is not a branch name that git takes");
        return Err(fields.complain("branch", message, "use letters, digits, dashes and dots"));
    }
    let from = match fields.get("from") {
        Some(_) => Some(fields.parsed("from")?),
        None => None,
    };
    let packages = match fields.get("packages") {
        Some(_) => match fields.text("packages")? {
            "rolling" => Packages::Rolling,
            "lock" => Packages::Lock,
            other => {
                let message = format!("{other:?} is no source of packages");
                return Err(fields.complain("packages", message, "write `rolling` or `lock`"));
            }
        },
        None => Packages::Lock,
    };
    Ok(Stage { name, branch, from, packages })
}

/// What git's `check-ref-format` takes, without its rarer freedoms.
fn is_branch(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 100
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./+".contains(&byte))
        && !name.starts_with(['-', '/', '.'])
        && !name.ends_with(['/', '.'])
        && !name.ends_with(".lock")
        && name != "HEAD"
        && !["..", "//", "/.", ".lock/"].iter().any(|bad| name.contains(bad))
}

/// Orders the stages along `from`, and finds missing, double and circular beginnings.
fn in_order(fields: &Fields<'_>, mut read: Vec<(Stage, usize)>) -> Result<Vec<Stage>, FieldError> {
    let wrong = |line: usize, field: String, message: String, remedy: &str| {
        Err(FieldError::new(line, field, message, remedy))
    };
    for (stage, line) in &read {
        if let Some(from) = &stage.from
            && !read.iter().any(|(other, _)| other.name == *from)
        {
            let names: Vec<&str> = read.iter().map(|(stage, _)| stage.name.as_str()).collect();
            let message = format!("there is no stage {from}");
            let remedy = format!("the stages are {}", names.join(", "));
            return wrong(*line, format!("stages.{}.from", stage.name), message, &remedy);
        }
    }
    let firsts: Vec<&(Stage, usize)> = read.iter().filter(|(stage, _)| stage.from.is_none()).collect();
    match firsts[..] {
        [_] => {}
        [] => {
            let remedy = "remove `from` of the stage that people push to";
            return Err(fields.complain("stages", "no stage is the first: each has a `from`", remedy));
        }
        [first, second, ..] => {
            let message = format!("{} and {} both have no `from`", first.0.name, second.0.name);
            let remedy = "exactly one stage is the first; write `from:` at the other";
            return wrong(second.1, format!("stages.{}", second.0.name), message, remedy);
        }
    }
    let mut ordered: Vec<Stage> = Vec::with_capacity(read.len());
    while !read.is_empty() {
        let ready = read.iter().position(|(stage, _)| match &stage.from {
            None => true,
            Some(from) => ordered.iter().any(|before| before.name == *from),
        });
        let Some(ready) = ready else {
            let (stage, line) = &read[0];
            let message = format!("following `from` of {} goes round in a circle", stage.name);
            return wrong(
                *line,
                format!("stages.{}.from", stage.name),
                message,
                "let it lead to the first stage",
            );
        };
        ordered.push(read.remove(ready).0);
    }
    Ok(ordered)
}

fn per_stage<T>(
    fields: &Fields<'_>,
    name: &str,
    stages: &[Stage],
    read: fn(&Node, &str) -> Result<T, FieldError>,
) -> Result<BTreeMap<StageName, T>, FieldError> {
    let mut map = BTreeMap::new();
    if fields.get(name).is_none() {
        return Ok(map);
    }
    let known: Vec<&str> = stages.iter().map(|stage| stage.name.as_str()).collect();
    for (key, line, node) in fields.entries(name)? {
        let field = format!("{name}.{key}");
        let Some(stage) = stages.iter().find(|stage| stage.name.as_str() == key) else {
            let remedy = crate::fields::did_you_mean(key, &known);
            return Err(FieldError::new(line, field, format!("there is no stage {key:?}"), remedy));
        };
        map.insert(stage.name.clone(), read(node, &field)?);
    }
    Ok(map)
}

fn gates(node: &Node, field: &str) -> Result<Gates, FieldError> {
    let fields = Fields::new(node, field, &["frozen", "soak", "healthy"])?;
    Ok(Gates {
        frozen: match fields.get("frozen") {
            Some(_) => fields.truth("frozen")?,
            None => false,
        },
        soak: match fields.get("soak") {
            Some(_) => Some(fields.duration("soak", Duration::ZERO, Duration::from_secs(366 * 86_400))?),
            None => None,
        },
        healthy: match fields.get("healthy") {
            Some(node) => Some(healthy(node, &format!("{field}.healthy"))?),
            None => None,
        },
    })
}

fn healthy(node: &Node, field: &str) -> Result<Healthy, FieldError> {
    let fields = Fields::new(node, field, &["at_least", "silent_at_most", "devices_at_least"])?;
    let or = |name: &str, default: u16| match fields.get(name) {
        Some(_) => fields.percent(name),
        None => Ok(Percent(default)),
    };
    Ok(Healthy {
        at_least: or("at_least", 10_000)?,
        silent_at_most: or("silent_at_most", 0)?,
        devices_at_least: match fields.get("devices_at_least") {
            Some(_) => fields.number("devices_at_least")?,
            None => 1,
        },
    })
}

fn signers(node: &Node, field: &str) -> Result<Vec<String>, FieldError> {
    let remedy = "write a list of names from .volary/allowed_signers: [alice@example.com]";
    let Value::List(items) = &node.value else {
        return Err(FieldError::new(node.line, field.into(), "this is not a list", remedy));
    };
    let names = items.iter().map(|item| match &item.value {
        Value::Scalar(name) if !name.is_empty() => Ok(name.clone()),
        _ => Err(FieldError::new(item.line, field.into(), "this is not a name", remedy)),
    });
    let names: Vec<String> = names.collect::<Result<_, _>>()?;
    if names.is_empty() {
        return Err(FieldError::new(node.line, field.into(), "nobody may sign for this stage", remedy));
    }
    Ok(names)
}
