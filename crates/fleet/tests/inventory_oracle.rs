//! Inventories as Ansible itself reads them: the reader must say the same about every host.
//!
//! `VOLARY_INVENTORY_CAMPAIGN=N` compares N generated inventories instead of the usual number (by
//! `cargo test`: nextest ends long tests);
//! `VOLARY_INVENTORY_GROUPS=N` does so with inventories of a thousand groups.
//! `VOLARY_INVENTORY_SEED=S` begins with that seed, to see one again. `VOLARY_INVENTORY_PLACES=FILE`
//! adds inventories on disk, one a line: root, sources with commas between, and playbook folder, with
//! tabs between.

#[path = "inventory/compare.rs"]
mod compare;
#[path = "inventory/generate.rs"]
mod generate;
#[path = "inventory/groups.rs"]
mod groups;
#[path = "inventory/values.rs"]
mod values;

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use compare::{Oracle, Tally, compare};
use generate::{Generated, generate};
use groups::generate_groups;
use volary_fleet::inventory::{DirTree, Inventory, InventoryError, Layout};

fn write(root: &Path, made: &Generated) {
    for (path, content) in &made.files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("below the root")).expect("a fresh folder");
        put(&path, content);
    }
}

/// Without the flush to disk that would take most of the test's time.
fn put(path: &Path, content: &[u8]) {
    let mut file = File::create(path).expect("the folder is ours");
    file.write_all(content).expect("the folder is ours");
}

/// Inventories outside of this repository that somebody wants compared.
fn places() -> Vec<(PathBuf, Layout)> {
    let Some(file) = std::env::var_os("VOLARY_INVENTORY_PLACES") else { return Vec::new() };
    let text = std::fs::read_to_string(file).expect("the file is named in the environment");
    let line = |line: &str| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [root, sources, playbook] = fields.as_slice() else { panic!("{line:?} has not three fields") };
        let sources = sources.split(',').map(str::to_owned).collect();
        (root.into(), Layout { sources, playbook_folder: (*playbook).into() })
    };
    text.lines().map(line).collect()
}

/// One line about one of them, or how it differs.
fn verdict(root: &Path, layout: &Layout) -> Result<String, String> {
    // What is refused is refused before Ansible runs it: it may be anybody's program.
    let ours = match Inventory::read(&DirTree::new(root), layout) {
        Err(refused @ InventoryError::Unsupported(_)) => return Ok(format!("refused: {refused}")),
        ours => ours,
    };
    let tally = compare(&mut Oracle::start_in(root), root, layout, true)?;
    let Tally { hosts, one_host, both_refuse, left, .. } = tally;
    if both_refuse + left > 0 {
        return Ok(format!("not compared as a whole: {tally:?}"));
    }
    let ours = ours.map_err(|error| error.to_string())?;
    let refused = ours.hosts().find_map(|host| ours.one_host(host, root).err());
    let refused = refused.map_or_else(String::new, |error| format!("; alone refused: {error}"));
    Ok(format!("equal: {hosts} hosts, {one_host} of them also alone{refused}"))
}

#[test]
fn inventories_of_others_are_read_as_ansible_reads_them() {
    let places = places();
    if places.is_empty() {
        println!("SKIP: no inventories are named in VOLARY_INVENTORY_PLACES");
        return;
    }
    let mut failed = 0;
    for (root, layout) in places {
        let verdict = verdict(&root, &layout);
        failed += usize::from(verdict.is_err());
        let verdict = verdict.unwrap_or_else(|difference| format!("DIFFERS: {difference}"));
        println!("{}\t{}\t{verdict}", root.display(), layout.sources.join(","));
    }
    assert_eq!(failed, 0, "some inventories differ");
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn generated_inventories_are_read_as_ansible_reads_them() {
    let count = setting("VOLARY_INVENTORY_CAMPAIGN").unwrap_or(120);
    let first = setting("VOLARY_INVENTORY_SEED").unwrap_or(1);
    let mut oracle = Oracle::start();
    let mut sum = Tally::default();
    let mut failures = Vec::new();
    for seed in first..first + count {
        let made = generate(seed);
        let folder = tempfile::tempdir().expect("a folder for one inventory");
        write(folder.path(), &made);
        match compare(&mut oracle, folder.path(), &made.layout, seed % 5 == 0) {
            Ok(tally) => {
                sum.inventories += tally.inventories;
                sum.hosts += tally.hosts;
                sum.one_host += tally.one_host;
                sum.both_refuse += tally.both_refuse;
                sum.left += tally.left;
            }
            Err(difference) => failures.push(format!("seed {seed} ({:?}):\n{difference}", made.layout)),
        }
    }
    println!("{count} inventories: {sum:?}");
    let shown = failures.iter().take(5).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(failures.is_empty(), "{} of {count} differ\n{shown}", failures.len());
    let left = u64::try_from(sum.left).expect("few");
    assert!(left * 5 < count, "{left} of {count} are left to Ansible: that is more than some odd ones");
}

#[test]
fn a_thousand_groups_are_read_as_ansible_reads_them() {
    let mut oracle = Oracle::start();
    for seed in 1..=setting("VOLARY_INVENTORY_GROUPS").unwrap_or(3) {
        let made = generate_groups(seed, 1000);
        let folder = tempfile::tempdir().expect("a folder for one inventory");
        write(folder.path(), &made);
        let tally = compare(&mut oracle, folder.path(), &made.layout, true);
        let Tally { hosts, one_host, both_refuse, left, .. } =
            tally.unwrap_or_else(|difference| panic!("seed {seed}:\n{difference}"));
        assert_eq!((hosts, one_host, both_refuse, left), (60, 20, 0, 0), "seed {seed}");
    }
}
