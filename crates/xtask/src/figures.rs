//! Figures: measured values with where and when they were measured, and the page made of them.
//!
//! Each stands in `target/figures/NAME.json`; `docs/figures.md` is made from those files, so that
//! no number there is typed by hand.

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
    /// Not more than.
    #[serde(rename = "<=")]
    AtMost,
}

/// What a figure should be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Goal {
    /// The comparison.
    pub op: Op,
    /// With what, in the unit of ours.
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
            command: "make bench".to_owned(),
        })
    }

    /// True if it is what it should be.
    pub fn holds(&self) -> bool {
        match self.goal.op {
            Op::AtMost => self.ours.value <= self.goal.value,
        }
    }

    /// The line that every benchmark prints.
    pub fn line(&self) -> String {
        let (peer, ratio) = match &self.peer {
            Some(peer) => {
                (format!("{:.2} {}", peer.value, peer.unit), format!("{:.2}", self.ours.value / peer.value))
            }
            None => ("- -".to_owned(), "-".to_owned()),
        };
        format!(
            "figure {} ours {:.2} {} peer {peer} ratio {ratio} goal <= {} holds {}",
            self.name,
            self.ours.value,
            self.ours.unit,
            self.goal.value,
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
    for entry in
        folder.read_dir().with_context(|| format!("cannot read {}: run make bench", folder.display()))?
    {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            figures.push(read(&path)?);
        }
    }
    ensure!(!figures.is_empty(), "{} has no figures: run make bench", folder.display());
    figures.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(write_atomic(&workspace.path("docs/figures.md"), page(&figures).as_bytes(), 0o644)?)
}

fn read(path: &Path) -> anyhow::Result<Figure> {
    let bytes = volary_host::read(path)?;
    serde_json::from_slice(&bytes)
        .with_context(|| format!("{} is not a figure: run make bench again", path.display()))
}

fn page(figures: &[Figure]) -> String {
    let mut page = String::from(
        "# Figures\n\nMade by `cargo xtask figures` from what `make bench` measured; do not edit.\n\n\
         | figure | ours | peer | goal | holds | what it is |\n|---|---|---|---|---|---|\n",
    );
    for figure in figures {
        let peer =
            figure.peer.as_ref().map_or("–".to_owned(), |peer| format!("{:.2} {}", peer.value, peer.unit));
        writeln!(
            page,
            "| `{}` | {:.2} {} | {peer} | ≤ {} | {} | {} |",
            figure.name,
            figure.ours.value,
            figure.ours.unit,
            figure.goal.value,
            if figure.holds() { "yes" } else { "**no**" },
            figure.meaning
        )
        .expect("a String takes any write");
    }
    page.push_str("\nMeasured:\n\n");
    for figure in figures {
        writeln!(
            page,
            "- `{}`: {} UTC, {}, `{}`, {}",
            figure.name, figure.date, figure.commit, figure.command, figure.machine
        )
        .expect("a String takes any write");
    }
    page
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
    fn the_page_has_every_figure() {
        let page = page(&[figure(5.5)]);
        assert!(page.contains("| `agent-size` | 5.50 MiB | – | ≤ 6 | yes | size of the agent |"), "{page}");
        let text = serde_json::to_string(&figure(5.5)).unwrap();
        assert_eq!(serde_json::from_str::<Figure>(&text).unwrap(), figure(5.5));
    }
}
