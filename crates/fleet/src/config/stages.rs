//! `stages:` of `volary.yml`: the branches that devices follow, in their order.

use volary_model::StageName;

use crate::fields::{FieldError, Fields, invalid};
use crate::yaml::Node;

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

pub(super) fn stages(fields: &Fields<'_>) -> Result<Vec<Stage>, FieldError> {
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
