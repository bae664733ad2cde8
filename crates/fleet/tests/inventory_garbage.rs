//! Damaged inventories: whatever stands in the files, the reader answers, and never panics.

#[path = "inventory/generate.rs"]
mod generate;
#[path = "inventory/values.rs"]
mod values;

use generate::{Dice, generate, mutate};
use volary_fleet::inventory::{Inventory, Layout, MemoryTree, to_json};

fn read_all(tree: &MemoryTree, layout: &Layout) -> usize {
    let Ok(inventory) = Inventory::read(tree, layout) else { return 0 };
    let names: Vec<&str> = inventory.hosts().take(20).collect();
    for name in &names {
        if let Ok(view) = inventory.host(tree, name) {
            for (_, value) in view.variables.iter() {
                to_json(value);
            }
        }
        // Either an inventory or a reason: both are fine.
        let _ = inventory.one_host(name, std::path::Path::new("/srv/fleet"));
    }
    names.len()
}

#[test]
fn damaged_inventories_never_panic() {
    let mut hosts = 0;
    for seed in 1..=1500 {
        let mut made = generate(seed);
        let mut dice = Dice::new(seed + 1_000_000);
        for content in made.files.values_mut() {
            for _ in 0..dice.below(6) {
                mutate(&mut dice, content);
            }
            if dice.chance(5) {
                content.truncate(dice.below(content.len() + 1));
            }
        }
        let tree =
            made.files.into_iter().fold(MemoryTree::new(), |tree, (path, content)| tree.with(&path, content));
        hosts += read_all(&tree, &made.layout);
    }
    assert!(hosts > 500, "only {hosts} hosts were left: the damage is too great to test anything");
}

#[test]
fn attacks_on_memory_and_stack_end() {
    let bomb = (1..20).fold("a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned(), |text, n| {
        let item = format!("*a{}", n - 1);
        format!("{text}a{n}: &a{n} [{}]\n", [item.as_str(); 9].join(", "))
    });
    let deep = |open: &str, close: &str| {
        format!("all: {{vars: {{a: {}{}}}}}\n", open.repeat(20_000), close.repeat(20_000))
    };
    let texts = [
        bomb,
        deep("[", "]"),
        deep("{a: ", "}"),
        format!("{{\"all\": {{\"vars\": {{\"a\": {}{}}}}}}}", "[".repeat(20_000), "]".repeat(20_000)),
        format!("h a={}\n", "[".repeat(20_000)),
        format!("h a={}1\n", "(".repeat(20_000)),
        "h[1:99999999999]\n".to_owned(),
        "h[1:99999][1:99999]\n".to_owned(),
        "h[0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1][0:1]\n"
            .to_owned(),
        format!("all: {{vars: {{a: {}}}}}\n", "9".repeat(1_000_000)),
        format!("all: {{vars: {{a: 0x{}}}}}\n", "f".repeat(1_000_000)),
        "&a a: *a\n".to_owned(),
        "a: &a [*a]\n".to_owned(),
    ];
    for text in texts {
        for name in ["hosts", "hosts.yml"] {
            let tree = MemoryTree::new().with(name, text.as_str());
            read_all(&tree, &Layout::new(name));
            let tree =
                MemoryTree::new().with("hosts", "h\n").with(&format!("group_vars/all/{name}"), text.as_str());
            read_all(&tree, &Layout::new("hosts"));
        }
    }
}
