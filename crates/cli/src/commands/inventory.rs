//! `volary inventory`: what the inventory of a fleet repository says of a host, and the layout with
//! one file for each host. Works on a folder; no server is asked.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::anyhow;
use clap::{Args, Subcommand};
use serde::Serialize;
use volary_fleet::inventory::{
    Change, DirTree, GroupView, HostView, Inventory, InventoryError, ReadOptions, Split, Value, fleet_layout,
    to_json,
};
use volary_host::{Cmd, FileError, create_dir, read, remove_if_exists, write_atomic};

use crate::failure::Failure;
use crate::out::{Out, Tone};

/// Commands about the inventory.
#[derive(Subcommand)]
pub enum InventoryCommand {
    /// Show the groups and variables of a host, and where each comes from
    Show(ShowArgs),
    /// Give each host a file of its own: for large fleets, and so that no device reads another's variables
    Split(SplitArgs),
}

/// Options of `volary inventory show`.
#[derive(Args)]
pub struct ShowArgs {
    /// The host
    host: String,
    /// The fleet repository's folder
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

/// Options of `volary inventory split`.
#[derive(Args)]
pub struct SplitArgs {
    /// The fleet repository's folder, without changes that are not committed
    #[arg(default_value = ".")]
    dir: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
}

/// Runs a command about the inventory.
pub fn run(command: &InventoryCommand, out: &Out) -> Result<(), Failure> {
    match command {
        InventoryCommand::Show(args) => show(args, out),
        InventoryCommand::Split(args) => split(args, out),
    }
}

/// A host as programs read it.
#[derive(Serialize)]
struct Shown<'a> {
    host: &'a str,
    /// As `group_names` in a play.
    group_names: Vec<&'a str>,
    /// In order of precedence: later ones override earlier ones.
    groups: Vec<ShownGroup<'a>>,
    variables: BTreeMap<&'a str, ShownVariable<'a>>,
    /// Files that only whoever has the password can read, and that may override variables.
    vaulted_files: &'a [String],
}

#[derive(Serialize)]
struct ShownGroup<'a> {
    name: &'a str,
    depth: usize,
    priority: i64,
}

impl<'a> ShownGroup<'a> {
    fn of(group: &'a GroupView) -> Self {
        Self { name: &group.name, depth: group.depth, priority: group.priority }
    }
}

#[derive(Serialize)]
struct ShownVariable<'a> {
    value: serde_json::Value,
    /// The group whose variable it is; none for the host's own.
    group: Option<&'a str>,
    file: &'a str,
}

fn show(args: &ShowArgs, out: &Out) -> Result<(), Failure> {
    let tree = DirTree::new(&args.dir);
    let layout = fleet_layout(&tree)?.ok_or_else(|| no_inventory(&args.dir))?;
    let options = ReadOptions { host: Some(&args.host), origins: true };
    let inventory = Inventory::read_with(&tree, &layout, &options)?;
    if let Some(source) = inventory.unreadable() {
        return Err(InventoryError::from(source.clone()).into());
    }
    let view = inventory.host(&tree, &args.host)?;
    for warning in inventory.warnings().iter().chain(&view.warnings) {
        out.note(&warning.to_string());
    }
    out.show(&shown(&view), |shown| print(shown, &view, out));
    Ok(())
}

fn no_inventory(dir: &Path) -> Failure {
    let names = volary_fleet::INVENTORIES.join(", ");
    Failure::with_help(
        anyhow!("there is no inventory in {}", dir.display()),
        format!("go to a clone of the fleet repository; looked for {names}"),
    )
}

fn shown(view: &HostView) -> Shown<'_> {
    let variables = view.variables.iter().filter_map(|(key, value)| {
        let origin = view.origins.get(key.as_text()?)?;
        let value = serde_json::from_str(&to_json(value)).unwrap_or_else(|_| to_json(value).into());
        let variable = ShownVariable { value, group: origin.group.as_deref(), file: &origin.file };
        Some((key.as_text()?, variable))
    });
    Shown {
        host: &view.name,
        group_names: view.group_names(),
        groups: view.groups.iter().map(ShownGroup::of).collect(),
        variables: variables.collect(),
        vaulted_files: &view.sealed,
    }
}

fn print(shown: &Shown<'_>, view: &HostView, out: &Out) {
    let named = |group: &ShownGroup<'_>| match group.priority {
        1 => group.name.to_owned(),
        priority => format!("{} (priority {priority})", group.name),
    };
    let groups: Vec<String> = shown.groups.iter().map(named).collect();
    out.line(format!("{}: {}", out.tone(Tone::Bold, shown.host), groups.join(" < ")));
    let row = |(key, variable): (&&str, &ShownVariable<'_>)| {
        let value = view.variables.get(key).map_or_else(String::new, value_line);
        let owner = variable.group.map_or_else(|| "itself".to_owned(), |group| format!("group {group}"));
        vec![(*key).to_owned(), value, owner, variable.file.to_owned()]
    };
    let rows = shown.variables.iter().map(row).collect();
    out.table(&["variable", "value", "of", "in"], rows, "it has no variables");
    for file in shown.vaulted_files {
        out.line(format!("{file} is vaulted as a whole; what is in it may override what is above"));
    }
}

/// More than this of a value is for `--json`.
const VALUE: usize = 60;

fn value_line(value: &Value) -> String {
    let text = match value {
        Value::Vault(_) => "(vaulted)".to_owned(),
        value => to_json(value),
    };
    match text.char_indices().nth(VALUE) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn split(args: &SplitArgs, out: &Out) -> Result<(), Failure> {
    clean(&args.dir)?;
    let tree = DirTree::new(&args.dir);
    let layout = fleet_layout(&tree)?.ok_or_else(|| no_inventory(&args.dir))?;
    let split = Split::plan(&tree, &layout)?;
    if !args.dry_run {
        apply(&args.dir, &split.changes)?;
    }
    let summary = Summary::of(&split);
    out.show(&summary, |summary| {
        let done = if args.dry_run { "would be" } else { "are" };
        out.line(format!(
            "{} hosts {done} in files of their own: {} files written, {} removed; {} names the plugin",
            summary.hosts, summary.written, summary.removed, summary.inventory
        ));
        if !args.dry_run {
            out.line("the groups and variables of every host were compared: they are the same");
            out.line("look at it with `git status`, then commit it: git add --all && git commit -S");
        }
    });
    split.notes.iter().for_each(|note| out.note(note));
    Ok(())
}

/// What was done, as programs read it.
#[derive(Serialize)]
struct Summary<'a> {
    hosts: usize,
    written: usize,
    removed: usize,
    inventory: &'a str,
    notes: &'a [String],
}

impl<'a> Summary<'a> {
    fn of(split: &'a Split) -> Self {
        let written = split.changes.iter().filter(|change| matches!(change, Change::Write { .. })).count();
        Self {
            hosts: split.hosts,
            written,
            removed: split.changes.len() - written,
            inventory: &split.source,
            notes: &split.notes,
        }
    }
}

/// Whatever goes wrong later, git has everything that was there.
fn clean(dir: &Path) -> Result<(), Failure> {
    let status = Cmd::new("git").cwd(dir).args(["status", "--porcelain", "."]).run()?;
    if !status.status.success() {
        return Err(Failure::with_help(
            anyhow!("{} is in no git repository", dir.display()),
            "the split is undone with git; begin with: git init && git add --all && git commit",
        ));
    }
    if !status.text().trim().is_empty() {
        return Err(Failure::with_help(
            anyhow!("{} has changes that are not committed", dir.display()),
            "commit them, or put them away with: git stash --include-untracked",
        ));
    }
    Ok(())
}

/// Makes the changes in their order; after each of them the inventory says the same. If one fails,
/// those before it are taken back.
fn apply(dir: &Path, changes: &[Change]) -> Result<(), Failure> {
    let mut undo: Vec<(PathBuf, Option<Vec<u8>>)> = Vec::new();
    let made = changes.iter().try_for_each(|change| make(dir, change, &mut undo));
    // Host files were not flushed one by one; the switch to them counts only with all of them.
    let made = made.and_then(|()| Ok(Cmd::new("sync").arg("--file-system").arg(dir).check().map(drop)?));
    let Err(failure) = made else { return Ok(()) };
    let mut whole = true;
    for (path, before) in undo.iter().rev() {
        let back = match before {
            Some(content) => write_atomic(path, content, 0o644),
            None => remove_if_exists(path),
        };
        whole &= back.is_ok();
        prune(dir, path);
    }
    let help = if whole { "everything is as it was" } else { "go back with: git restore . && git clean -fd" };
    Err(Failure::with_help(failure.error, help))
}

fn make(dir: &Path, change: &Change, undo: &mut Vec<(PathBuf, Option<Vec<u8>>)>) -> Result<(), Failure> {
    match change {
        Change::Write { path, text } => {
            let path = dir.join(path);
            create_dir(path.parent().unwrap_or(dir))?;
            if path.exists() {
                // The switch: what it leads to must be on disk before.
                Cmd::new("sync").arg("--file-system").arg(dir).check()?;
                undo.push((path.clone(), Some(read(&path)?)));
                write_atomic(&path, text.as_bytes(), 0o644)?;
            } else {
                undo.push((path.clone(), None));
                let write = || fs::File::create_new(&path)?.write_all(text.as_bytes());
                write().map_err(FileError::at("write", &path))?;
            }
        }
        Change::Remove { path } => {
            let path = dir.join(path);
            undo.push((path.clone(), Some(read(&path)?)));
            remove_if_exists(&path)?;
            prune(dir, &path);
        }
    }
    Ok(())
}

/// Removes the folders of a file that are empty, as git does.
fn prune(dir: &Path, path: &Path) {
    let above = path.ancestors().skip(1).take_while(|above| *above != dir && above.starts_with(dir));
    for folder in above {
        if fs::remove_dir(folder).is_err() {
            return;
        }
    }
}
