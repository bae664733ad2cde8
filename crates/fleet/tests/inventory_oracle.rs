//! Inventories as Ansible itself reads them: the reader must say the same about every host.
//!
//! `VOLARY_INVENTORY_CAMPAIGN=N` compares N generated inventories instead of the usual number;
//! `VOLARY_INVENTORY_SEED=S` begins with that seed, to see one again.

#[path = "inventory/compare.rs"]
mod compare;
#[path = "inventory/generate.rs"]
mod generate;
#[path = "inventory/values.rs"]
mod values;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use compare::{Oracle, Tally, compare};
use generate::{Generated, generate};

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

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number"))
}

#[test]
fn generated_inventories_are_read_as_ansible_reads_them() {
    let count = setting("VOLARY_INVENTORY_CAMPAIGN").unwrap_or(500);
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
