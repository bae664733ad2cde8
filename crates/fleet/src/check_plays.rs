//! What plays and templates ask about other hosts, which a device on its own does not know.

use crate::check::{Finding, warning_in};
use crate::object::ObjectError;
use crate::snapshot::{FileKind, Files};

/// Looks through plays, roles, templates and variables.
pub(crate) fn run(files: &dyn Files, findings: &mut Vec<Finding>) -> Result<(), ObjectError> {
    for path in files.paths().iter().filter(|path| is_of_play(path)) {
        if !matches!(files.kind(path), Some(FileKind::File | FileKind::Executable)) {
            continue;
        }
        let text = String::from_utf8(files.read(path)?.unwrap_or_default()).unwrap_or_default();
        if let Some((line, word)) = first(&text, others) {
            let message = format!("it asks about other hosts ({word}); a device knows only itself");
            let remedy = "put what it needs to know of others into group_vars/";
            findings.push(Finding { line: Some(line), ..warning_in(path, message, remedy) });
        }
        if let Some((line, word)) = first(&text, makes_groups) {
            let message = format!(
                "{word} makes groups while the play runs; if the inventory has the group, a device that is not in \
                 it there has none of its group_vars"
            );
            let remedy =
                "put the device into the group in the inventory, or give the new group a name of its own";
            findings.push(Finding { line: Some(line), ..warning_in(path, message, remedy) });
        }
    }
    Ok(())
}

fn is_of_play(path: &str) -> bool {
    let vendored = path.starts_with("collections/") || path.contains("/collections/");
    let kind = [".yml", ".yaml", ".j2"].iter().any(|end| path.ends_with(end));
    !vendored && (kind || path.contains("/templates/")) && !path.starts_with('.')
}

fn first(text: &str, find: fn(&str) -> Option<&'static str>) -> Option<(usize, &'static str)> {
    let mut lines = text.lines().enumerate();
    lines.find_map(|(at, line)| {
        let code = if line.trim_start().starts_with('#') { "" } else { line };
        find(code).map(|word| (at + 1, word))
    })
}

/// Uses of other hosts' variables, and of lists of hosts but to ask whether this one is in them.
fn others(line: &str) -> Option<&'static str> {
    let mut asked = uses(line, "hostvars");
    if asked.any(|(_, after)| !after.trim_start_matches(['[', ' ']).starts_with("inventory_hostname")) {
        return Some("hostvars");
    }
    let asks_for_itself = |before: &str| {
        let before = before.trim_end().strip_suffix(" in").unwrap_or("").trim_end();
        before.strip_suffix(" not").unwrap_or(before).trim_end().ends_with("inventory_hostname")
    };
    uses(line, "groups").any(|(before, _)| !asks_for_itself(before)).then_some("groups")
}

/// Where a variable stands in a line and something is taken out of it: what is before and after.
fn uses<'a>(line: &'a str, name: &'static str) -> impl Iterator<Item = (&'a str, &'a str)> {
    line.match_indices(name).filter_map(move |(at, _)| {
        let (before, after) = (&line[..at], &line[at + name.len()..]);
        let inside =
            before.ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '\'' | '"'));
        let taken = after
            .strip_prefix('.')
            .map_or(after.starts_with('['), |name| name.starts_with(|c: char| c.is_alphabetic() || c == '_'));
        (!inside && taken).then_some((before, after))
    })
}

fn makes_groups(line: &str) -> Option<&'static str> {
    let key = line.trim_start().trim_start_matches("- ").split(':').next()?;
    let module = key.trim_start_matches("ansible.builtin.").trim_start_matches("ansible.legacy.");
    ["group_by", "add_host"].into_iter().find(|name| *name == module && line.contains(':'))
}

#[cfg(test)]
mod tests {
    use super::{makes_groups, others};

    #[test]
    fn questions_about_others() {
        for (line, expected) in [
            ("{% for host in groups['db'] %}", Some("groups")),
            ("  loop: \"{{ groups.all }}\"", Some("groups")),
            ("{{ hostvars['db-1'].address }}", Some("hostvars")),
            ("{{ hostvars[groups['db'][0]].address }}", Some("hostvars")),
            ("{{ hostvars[inventory_hostname].x }}", None),
            ("when: inventory_hostname in groups['db']", None),
            ("when: inventory_hostname not in groups.db", None),
            ("groups: [docker]", None),
            ("{{ user.groups[0] }} {{ ldap_groups[1] }} {{ item['groups'][0] }}", None),
            ("members of groups.", None),
        ] {
            assert_eq!(others(line), expected, "{line}");
        }
    }

    #[test]
    fn groups_made_by_plays() {
        assert_eq!(makes_groups("    - ansible.builtin.group_by: {key: x}"), Some("group_by"));
        assert_eq!(makes_groups("      add_host:"), Some("add_host"));
        assert_eq!(makes_groups("# group_by"), None);
    }
}
