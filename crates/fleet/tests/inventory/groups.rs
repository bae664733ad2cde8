//! Random inventories with many groups, from a seed.

use std::collections::BTreeMap;

use volary_fleet::inventory::Layout;

use super::generate::{Dice, Generated};

/// The inventory of a seed with so many groups, in INI and YAML and folders of variables, nested without a
/// circle.
pub fn generate_groups(seed: u64, groups: usize) -> Generated {
    let mut dice = Dice::new(seed);
    let mut made = Generated { files: BTreeMap::new(), layout: Layout::new("") };
    let hosts: Vec<String> = (0..60).map(|number| format!("host-{number:02}")).collect();
    let (mut ini, mut yaml) = (hosts.join("\n") + "\n", String::from("all:\n  children:\n"));
    for group in 0..groups {
        ini.push_str(&format!("[g{group}]\n"));
        for _ in 0..dice.below(3) {
            ini.push_str(&format!(
                "{} from_ini_{}={group}\n",
                hosts[dice.below(hosts.len())],
                dice.below(40)
            ));
        }
        let below = groups - group - 1;
        if below > 0 && dice.chance(80) {
            // Mostly near ones, so that it becomes deep, and now and then any.
            let child =
                group + 1 + if dice.chance(70) { dice.below(below.min(8)) } else { dice.below(below) };
            ini.push_str(&format!("[g{group}:children]\ng{child}\n"));
        }
        if dice.chance(40) {
            ini.push_str(&format!("[g{group}:vars]\nshared_{}={group}\nown_{group}=yes\n", dice.below(50)));
        }
        if dice.chance(10) {
            ini.push_str(&format!("[g{group}:vars]\nansible_group_priority={}\n", dice.below(4)));
        }
        if dice.chance(30) {
            let key = dice.below(50);
            yaml.push_str(&format!("    g{group}:\n      vars:\n        shared_{key}: [{group}, yaml]\n"));
        }
        if dice.chance(15) {
            let text = format!("shared_{}: {{from: file, group: {group}}}\n", dice.below(50));
            made.files.insert(format!("group_vars/g{group}.yml"), text.into_bytes());
        }
    }
    made.files.insert("inventory/01-groups".into(), ini.into_bytes());
    made.files.insert("inventory/02-more.yml".into(), yaml.into_bytes());
    made.files.insert("site.yml".into(), b"[]\n".to_vec());
    made.layout.sources = vec!["inventory".into()];
    made
}
