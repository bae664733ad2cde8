//! What must hold in the tree and what no compiler checks.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::workspace::Workspace;

/// No file of code is longer: nobody can hold more in mind.
const MOST_LINES: usize = 800;

/// Hosts that packages come from, in two parts so that this file does not name them. Which mirror
/// a machine uses is the machine's business.
const REGISTRIES: &[(&str, &str)] = &[
    ("deb.", "debian.org"),
    ("ftp.", "debian.org"),
    ("security.", "debian.org"),
    ("snapshot.", "debian.org"),
    ("index.", "crates.io"),
    ("static.", "crates.io"),
    ("registry.", "npmjs.org"),
    ("files.", "pythonhosted.org"),
    ("pypi.", "org"),
    ("pkg.", "dev"),
];

/// Everything that is not as it must be, each as `file: what is wrong`.
pub fn problems(workspace: &Workspace) -> anyhow::Result<Vec<String>> {
    let mut problems = Vec::new();
    for file in workspace.files()? {
        let path = workspace.path(&file);
        // Pictures and the like have no text to look at.
        let Ok(text) = volary_host::read_to_string(&path) else { continue };
        problems.extend(
            of_text(&file, &text).into_iter().map(|problem| format!("{}: {problem}", file.display())),
        );
    }
    match volary_host::read_to_string(&workspace.path("ARCHITECTURE.md")) {
        Ok(text) => problems.extend(
            of_crate_table(&text, &workspace.crates)
                .into_iter()
                .map(|problem| format!("ARCHITECTURE.md: {problem}")),
        ),
        Err(error) => problems.push(error.to_string()),
    }
    match volary_host::read_to_string(&workspace.path("CHANGELOG.md")) {
        Ok(text) if text.lines().any(|line| line.starts_with("## Unreleased")) => {}
        Ok(_) => problems.push("CHANGELOG.md: it has no section \"## Unreleased\"".to_owned()),
        Err(error) => problems.push(error.to_string()),
    }
    Ok(problems)
}

fn of_text(file: &Path, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let is_rust = file.extension().is_some_and(|extension| extension == "rs");
    if is_rust && !text.starts_with("//!") {
        problems.push("it does not begin with a \"//!\" line that says its purpose".to_owned());
    }
    let lines = text.lines().count();
    let is_code = is_rust || file.extension().is_some_and(|extension| extension == "py" || extension == "sh");
    if is_code && lines > MOST_LINES {
        problems
            .push(format!("it has {lines} lines; split it, nobody can hold more than {MOST_LINES} in mind"));
    }
    if file.file_name().is_some_and(|name| name == "Cargo.lock") {
        return problems;
    }
    for (host, domain) in REGISTRIES {
        let name = format!("{host}{domain}");
        if let Some(line) = text.lines().position(|line| line.contains(&name)) {
            problems.push(format!("line {} names a package registry; leave that to the machine", line + 1));
        }
    }
    problems
}

/// Compares the table under `| crate |` with what cargo says. Columns: crate, responsibility, must
/// not know, depends on. A row may name several crates, separated by commas.
fn of_crate_table(text: &str, crates: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let rows = text.lines().skip_while(|line| !line.starts_with("| crate |")).skip(2);
    let mut problems = Vec::new();
    let mut seen = BTreeSet::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, _, depends] = cells[..] else {
            problems.push(format!("this row of the crate table has not four columns: {row}"));
            continue;
        };
        let said = names(depends);
        for name in names(name) {
            match crates.get(&name) {
                None => problems.push(format!("there is no crate {name}")),
                Some(real) if *real != said => {
                    problems.push(format!("{name} depends on \"{}\", not on \"{}\"", list(real), list(&said)))
                }
                Some(_) => {}
            }
            seen.insert(name);
        }
    }
    let absent = crates.keys().filter(|name| !seen.contains(*name));
    problems.extend(absent.map(|name| format!("the crate table has no row for {name}")));
    problems
}

fn names(cell: &str) -> BTreeSet<String> {
    let names = cell.split(',').map(|name| name.trim().trim_matches('`'));
    names.filter(|name| !name.is_empty() && !["–", "-", "—"].contains(name)).map(str::to_owned).collect()
}

fn list(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        assert_eq!(problems(&Workspace::find().unwrap()).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_wrong_file_is_found() {
        let check = |name: &str, text: &str, expected: &str| {
            let found = of_text(Path::new(name), text);
            assert!(found.len() == 1 && found[0].contains(expected), "{found:?}");
        };
        check("a.rs", "fn main() {}", "//!");
        check("a.rs", &format!("//!{}", "\n".repeat(801)), "801 lines");
        check("a.md", &["\nsee https://deb", ".debian.org/x"].concat(), "line 2");
        assert!(of_text(Path::new("a.rs"), "//! Fine.\n").is_empty());
    }

    #[test]
    fn the_crate_table_is_compared() {
        let crates: BTreeMap<_, _> = [("a", vec![]), ("b", vec!["a"])]
            .map(|(name, on)| (name.to_owned(), on.into_iter().map(str::to_owned).collect()))
            .into();
        let check = |rows: &str, expected: &[&str]| {
            let text = format!("# T\n| crate | r | m | d |\n|---|---|---|---|\n{rows}\nend\n");
            let found = of_crate_table(&text, &crates);
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!(found.contains(expected), "{found}");
            }
        };
        check("| `a` | x | y | – |\n| `b` | x | y | `a` |", &[]);
        check("| `a` | x | y | – |\n| `b` | x | y | – |", &["b depends on \"a\", not on \"\""]);
        check("| `a` | x | y | – |\n| `c` | x | y | – |", &["no crate c", "no row for b"]);
        check("| `a` | x |\n| `b` | x | y | `a` |", &["four columns", "no row for a"]);
    }
}
