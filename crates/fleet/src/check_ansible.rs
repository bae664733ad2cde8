//! Ansible's own view of a fleet repository: can it read the playbook and the inventory?

use std::path::Path;

use volary_host::{Cmd, CmdError, Output};

use crate::check::{Finding, error_in, inventory, playbook, warning_in};
use crate::check_inventory;
use crate::object::ObjectError;
use crate::snapshot::{Files, FolderFiles};

/// Lets Ansible read what is in `folder`.
pub(crate) fn run(folder: &Path) -> Result<Vec<Finding>, ObjectError> {
    let files = FolderFiles::new(folder)?;
    let (Some(playbook), Some(inventory)) = (playbook(&files), inventory(&files)) else {
        return Ok(Vec::new());
    };
    if let Some(vault) = first_vault(&files)? {
        let remedy = "run `ansible-playbook --syntax-check` where the vault password is";
        return Ok(vec![warning_in(&vault, "it is encrypted, so Ansible's own check was left out", remedy)]);
    }
    let scratch = tempfile::tempdir()
        .map_err(volary_host::FileError::at("create a folder in", &std::env::temp_dir()))?;
    // Through the plugin a large fleet takes Ansible minutes, and our reader was through it already.
    let is_split = check_inventory::is_split(&files);
    let source = if is_split { "localhost," } else { inventory };
    let ansible = |program: &str| {
        Cmd::new(program)
            .cwd(folder)
            .env("ANSIBLE_HOME", scratch.path())
            .env("ANSIBLE_LOCAL_TEMP", scratch.path())
            .env("ANSIBLE_NOCOLOR", "1")
            .env("ANSIBLE_LOCALHOST_WARNING", "False")
            .env("ANSIBLE_INVENTORY_UNPARSED_WARNING", "False")
            // An inventory that Ansible cannot read is an error here, not a remark.
            .env("ANSIBLE_INVENTORY_ANY_UNPARSED_IS_FAILED", "True")
            // Byte code must not appear in somebody's work tree.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .args(["-i", source])
    };
    let hosts = match ansible("ansible-inventory").arg("--list").run() {
        Err(CmdError::Start { .. }) => {
            let remedy = "install ansible-core to have the playbook checked too";
            return Ok(vec![warning_in(playbook, "Ansible is not installed here", remedy)]);
        }
        Err(error) => return Err(error.into()),
        Ok(output) => output,
    };
    if !hosts.status.success() {
        return Ok(vec![complaint(folder, inventory, &hosts)]);
    }
    let syntax = ansible("ansible-playbook").args(["--syntax-check", playbook]).run()?;
    if !syntax.status.success() {
        return Ok(vec![complaint(folder, playbook, &syntax)]);
    }
    Ok(Vec::new())
}

fn first_vault(files: &FolderFiles) -> Result<Option<String>, ObjectError> {
    for path in files.paths().iter().filter(|path| path.contains("_vars/") || path.contains("vars/")) {
        let content = files.read(path)?.unwrap_or_default();
        if content.windows(15).any(|part| part == b"$ANSIBLE_VAULT;") {
            return Ok(Some(path.clone()));
        }
    }
    Ok(None)
}

fn complaint(folder: &Path, file: &str, output: &Output) -> Finding {
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &output.text();
    let inside = format!("{}/", folder.display());
    let said = said.replace(&inside, "");
    let (place, line) = place(&said).unwrap_or((file.to_owned(), None));
    let text: Vec<&str> = said
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.starts_with("[WARNING]"))
        .take(12)
        .collect();
    Finding { line, ..error_in(&place, format!("Ansible cannot use it:\n  {}", text.join("\n  ")), "") }
}

/// Where Ansible saw the error, in the words of 2.14 (`in 'FILE': line N`) or 2.19 (`Origin: FILE:N:M`).
fn place(said: &str) -> Option<(String, Option<usize>)> {
    if let Some((_, rest)) = said.split_once("appears to be in '") {
        let (file, rest) = rest.split_once('\'')?;
        let digits = rest.strip_prefix(": line ").and_then(|rest| rest.split(',').next());
        return Some((file.to_owned(), digits.and_then(|digits| digits.parse().ok())));
    }
    let (_, rest) = said.split_once("Origin: ")?;
    let mut parts = rest.lines().next()?.split(':');
    let file = parts.next()?.to_owned();
    Some((file, parts.next().and_then(|line| line.parse().ok())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_an_error_is_found_in_both_dialects() {
        let check = |said: &str, expected: Option<(&str, usize)>| {
            let expected = expected.map(|(file, line)| (file.to_owned(), Some(line)));
            assert_eq!(place(said), expected);
        };
        check(
            "ERROR! x\n\nThe error appears to be in 'site.yml': line 3, column 5, but",
            Some(("site.yml", 3)),
        );
        check("[ERROR]: x\nOrigin: roles/a/tasks/main.yml:7:3\n\n7 ...", Some(("roles/a/tasks/main.yml", 7)));
        check("no place", None);
    }
}
