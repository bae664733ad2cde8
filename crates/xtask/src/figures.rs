//! Figures: measured values with where and when they were measured, and the page made of them.
//!
//! Each stands in `target/figures/NAME.json`; `docs/figures.md` is made from those files, so that
//! no number there is typed by hand. What another machine or run measured stays there until it is
//! measured again.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use volary_host::{Cmd, create_dir, write_atomic};

use crate::workspace::Workspace;

/// A value with its unit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Value {
    /// How much.
    pub value: f64,
    /// Of what: `MiB`, `s`.
    pub unit: String,
}

/// A comparison that a figure should pass: `<=` or `>=`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Ours is not more than so much, in its unit.
    #[serde(rename = "<=")]
    AtMost,
    /// The peer's is at least so many times ours.
    #[serde(rename = ">=")]
    TimesLess,
}

/// What a figure should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// The comparison.
    pub op: Op,
    /// With what.
    pub value: f64,
}

/// One measured figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figure {
    /// The version of this form.
    pub version: u32,
    /// Its name, also the file's.
    pub name: String,
    /// What it says, for the page.
    pub meaning: String,
    /// Measured on ours.
    pub ours: Value,
    /// Measured on the peer in the same run, if there is one.
    pub peer: Option<Value>,
    /// What it should be.
    pub goal: Goal,
    /// The machine: processor, memory, system.
    pub machine: String,
    /// When, UTC.
    pub date: String,
    /// Of which commit.
    pub commit: String,
    /// By which command.
    pub command: String,
}

impl Figure {
    /// A figure of this machine and this commit, measured now.
    pub fn new(
        workspace: &Workspace,
        name: &str,
        meaning: &str,
        ours: (f64, &str),
        at_most: f64,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            version: 1,
            name: name.to_owned(),
            meaning: meaning.to_owned(),
            ours: Value { value: ours.0, unit: ours.1.to_owned() },
            peer: None,
            goal: Goal { op: Op::AtMost, value: at_most },
            machine: machine()?,
            date: Cmd::new("date").args(["--utc", "+%Y-%m-%d %H:%M"]).check()?.text().trim().to_owned(),
            commit: commit(workspace)?,
            command: String::new(),
        })
    }

    /// Beside what was measured on a peer in the same run.
    #[must_use]
    pub fn beside(mut self, peer: (f64, &str)) -> Self {
        self.peer = Some(Value { value: peer.0, unit: peer.1.to_owned() });
        self
    }

    /// The goal is another one: the peer needs at least so many times what ours needs.
    #[must_use]
    pub fn times_less(mut self, times: f64) -> Self {
        self.goal = Goal { op: Op::TimesLess, value: times };
        self
    }

    /// Which command measured it.
    #[must_use]
    pub fn by(mut self, command: &str) -> Self {
        command.clone_into(&mut self.command);
        self
    }

    /// How many times ours the peer's is.
    fn ratio(&self) -> Option<f64> {
        self.peer.as_ref().map(|peer| peer.value / self.ours.value)
    }

    /// True if it is what it should be.
    pub fn holds(&self) -> bool {
        match self.goal.op {
            Op::AtMost => self.ours.value <= self.goal.value,
            Op::TimesLess => self.ratio().is_some_and(|ratio| ratio >= self.goal.value),
        }
    }

    fn goal(&self) -> String {
        match self.goal.op {
            Op::AtMost => format!("<= {}", self.goal.value),
            Op::TimesLess => format!(">= {}", self.goal.value),
        }
    }

    /// The line that every benchmark prints.
    pub fn line(&self) -> String {
        let peer = self.peer.as_ref();
        let peer = peer.map_or("- -".to_owned(), |peer| format!("{:.2} {}", peer.value, peer.unit));
        let ratio = self.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
        format!(
            "figure {} ours {:.2} {} peer {peer} ratio {ratio} goal {} holds {}",
            self.name,
            self.ours.value,
            self.ours.unit,
            self.goal(),
            if self.holds() { "yes" } else { "no" }
        )
    }

    /// Writes it to `target/figures` and prints its line.
    pub fn publish(&self, workspace: &Workspace) -> anyhow::Result<()> {
        let folder = workspace.target.join("figures");
        create_dir(&folder)?;
        let text = format!("{}\n", serde_json::to_string_pretty(self)?);
        write_atomic(&folder.join(format!("{}.json", self.name)), text.as_bytes(), 0o644)?;
        println!("{}", self.line());
        Ok(())
    }
}

/// Makes `docs/figures.md` from what was measured.
pub fn write_page(workspace: &Workspace) -> anyhow::Result<()> {
    let folder = workspace.target.join("figures");
    let mut figures = Vec::new();
    for entry in folder
        .read_dir()
        .with_context(|| format!("cannot read {}: run make bench-agent", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            figures.push(read(&path)?);
        }
    }
    ensure!(!figures.is_empty(), "{} has no figures: run make bench-agent", folder.display());
    let path = workspace.path("docs/figures.md");
    let before = volary_host::read_to_string(&path).unwrap_or_default();
    Ok(write_atomic(&path, page(&figures, &before).as_bytes(), 0o644)?)
}

/// The lines of a page, by the name of their figure.
fn lines<'a>(page: &'a str, start: &str) -> BTreeMap<&'a str, &'a str> {
    let lines = page.lines().filter_map(|line| Some((line.strip_prefix(start)?.split('`').next()?, line)));
    lines.collect()
}

fn read(path: &Path) -> anyhow::Result<Figure> {
    let bytes = volary_host::read(path)?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not a figure: measure it again", path.display()))
}

/// The page of these figures. Those of `before` that were not measured now stay as they are.
fn page(figures: &[Figure], before: &str) -> String {
    let mut page = String::from(
        "# Figures\n\nMade by `cargo xtask figures` from what the `make bench` targets and the campaigns \
         measured; do not edit. The ratio says how many times ours the peer's is; a goal with × is about \
         the ratio, one without is about ours.\n\n\
         | figure | ours | peer | ratio | goal | holds | what it is |\n|---|---|---|---|---|---|---|\n",
    );
    let list = |start, line: fn(&Figure) -> String| {
        let mut all: BTreeMap<&str, String> =
            lines(before, start).into_iter().map(|(name, line)| (name, line.to_owned())).collect();
        all.extend(figures.iter().map(|figure| (figure.name.as_str(), line(figure))));
        all.into_values().collect::<Vec<_>>().join("\n")
    };
    writeln!(page, "{}\n\nMeasured:\n\n{}", list("| `", row), list("- `", origin))
        .expect("a String takes any write");
    page
}

fn row(figure: &Figure) -> String {
    let peer =
        figure.peer.as_ref().map_or("–".to_owned(), |peer| format!("{:.2} {}", peer.value, peer.unit));
    let ratio = figure.ratio().map_or("–".to_owned(), |ratio| format!("{ratio:.1}"));
    let goal = match figure.goal.op {
        Op::AtMost => format!("≤ {}", figure.goal.value),
        Op::TimesLess => format!("≥ {} ×", figure.goal.value),
    };
    let holds = if figure.holds() { "yes" } else { "**no**" };
    let Figure { name, ours, meaning, .. } = figure;
    format!(
        "| `{name}` | {:.2} {} | {peer} | {ratio} | {goal} | {holds} | {meaning} |",
        ours.value, ours.unit
    )
}

fn origin(figure: &Figure) -> String {
    let Figure { name, date, commit, command, machine, .. } = figure;
    format!("- `{name}`: {date} UTC, {commit}, `{command}`, {machine}")
}

fn commit(workspace: &Workspace) -> anyhow::Result<String> {
    let git =
        |args: &[&str]| Cmd::new("git").args(args).cwd(&workspace.root).check().map(|output| output.text());
    let id = git(&["rev-parse", "--short", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Ok(format!("{}{}", id.trim(), if changed.trim().is_empty() { "" } else { " with changes" }))
}

fn machine() -> anyhow::Result<String> {
    let cpus = volary_host::read_to_string(Path::new("/proc/cpuinfo"))?;
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown processor");
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = Cmd::new("uname").arg("-sr").check()?.text();
    Ok(format!("{count} × {}, {}", model.trim_start_matches([' ', '\t', ':']), kernel.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(value: f64) -> Figure {
        Figure {
            version: 1,
            name: "agent-size".into(),
            meaning: "size of the agent".into(),
            ours: Value { value, unit: "MiB".into() },
            peer: None,
            goal: Goal { op: Op::AtMost, value: 6.0 },
            machine: "a machine".into(),
            date: "2026-11-22 10:00".into(),
            commit: "0123456".into(),
            command: "make bench".into(),
        }
    }

    #[test]
    fn the_line_says_whether_the_goal_holds() {
        assert_eq!(
            figure(5.5).line(),
            "figure agent-size ours 5.50 MiB peer - - ratio - goal <= 6 holds yes"
        );
        assert!(figure(6.5).line().ends_with("holds no"));
    }

    #[test]
    fn a_goal_against_a_peer_is_about_the_ratio() {
        let figure = figure(0.5).beside((26.0, "MiB"));
        let line = figure.clone().times_less(50.0).line();
        assert_eq!(line, "figure agent-size ours 0.50 MiB peer 26.00 MiB ratio 52.00 goal >= 50 holds yes");
        assert!(!figure.times_less(53.0).holds());
    }

    #[test]
    fn the_page_has_every_figure() {
        let page = page(&[figure(5.5)], "");
        assert!(
            page.contains("| `agent-size` | 5.50 MiB | – | – | ≤ 6 | yes | size of the agent |"),
            "{page}"
        );
        let text = serde_json::to_string(&figure(5.5)).unwrap();
        assert_eq!(serde_json::from_str::<Figure>(&text).unwrap(), figure(5.5));
    }

    #[test]
    fn what_was_measured_elsewhere_stays_on_the_page() {
        let other = Figure { name: "agent-idle".into(), ..figure(3.0) };
        let before = page(&[figure(7.0), other], "");
        let after = page(&[figure(5.5)], &before);
        assert!(after.contains("| `agent-size` | 5.50 MiB |") && !after.contains("7.00"), "{after}");
        assert!(
            after.contains("| `agent-idle` | 3.00 MiB |") && after.contains("- `agent-idle`: "),
            "{after}"
        );
    }
}
