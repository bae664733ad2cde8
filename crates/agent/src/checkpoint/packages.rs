//! Which packages a device has, by dpkg's own database and apt's own marks.

use std::collections::{BTreeMap, BTreeSet};

use volary_host::{Cmd, CmdError};

use crate::apt;
use crate::paths::Paths;

/// What dpkg and apt say of all packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Packages {
    /// `name:architecture` → version, of those that are installed whole.
    pub installed: BTreeMap<String, String>,
    /// Those that an interrupted dpkg left half done.
    pub half: BTreeSet<String>,
    /// Those on hold.
    pub held: BTreeSet<String>,
    /// Those that were asked for by a person, as apt remembers.
    pub manual: BTreeSet<String>,
}

/// Looks.
///
/// # Errors
/// [`CmdError`] if dpkg-query does not answer.
pub fn look(paths: &Paths) -> Result<Packages, CmdError> {
    let marked = if paths.is_device() { marked().unwrap_or_default() } else { String::new() };
    Ok(of(&apt::listed(paths.dpkg())?, &marked))
}

/// What apt marks as asked for by a person.
///
/// # Errors
/// [`CmdError`] without apt.
pub fn marked() -> Result<String, CmdError> {
    Ok(Cmd::new("apt-mark").arg("showmanual").run()?.text())
}

/// What dpkg listed, with apt's marks, which are a help for a person.
pub fn of(listed: &str, marked: &str) -> Packages {
    Packages { manual: marked.lines().map(str::to_owned).collect(), ..parse(listed) }
}

fn parse(listed: &str) -> Packages {
    let mut packages = Packages::default();
    for line in listed.lines() {
        let mut fields = line.split('\t');
        let (Some(status), Some(name), Some(architecture), Some(version)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let mut letters = status.chars();
        let (wanted, is) = (letters.next(), letters.next());
        let broken = letters.next() == Some('R');
        let key = format!("{name}:{architecture}");
        match is {
            // W and t: a trigger of it has yet to run, which is no trouble of its own.
            Some('i' | 'W' | 't') if !broken => {
                if wanted == Some('h') {
                    packages.held.insert(key.clone());
                }
                packages.installed.insert(key, version.to_owned());
            }
            Some('i' | 'W' | 't' | 'U' | 'F' | 'H') => {
                packages.half.insert(key);
            }
            _ => {}
        }
    }
    packages
}

/// What has to happen with packages so that they are as they were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// `name:architecture` → version that was there.
    pub back: BTreeMap<String, String>,
    /// Those that are new.
    pub new: BTreeSet<String>,
}

/// Compares what was with what is.
pub fn difference(before: &BTreeMap<String, String>, now: &Packages) -> Difference {
    let back = before.iter().filter(|(key, version)| now.installed.get(*key) != Some(version));
    let there = now.installed.keys().chain(&now.half);
    // A package that went from "any" to "all" is the same package, not a new one.
    let name = |key: &str| key.split_once(':').map_or(key.to_owned(), |(name, _)| name.to_owned());
    let back: BTreeMap<String, String> = back.map(|(key, version)| (key.clone(), version.clone())).collect();
    let names: BTreeSet<String> = back.keys().map(|key| name(key)).collect();
    let new = there
        .filter(|key| !before.contains_key(*key))
        .filter(|key| !(names.contains(&name(key)) && turns(key, &back)))
        .cloned()
        .collect();
    Difference { back, new }
}

/// True if installing what goes back replaces this one: it or the other is for all architectures.
fn turns(key: &str, back: &BTreeMap<String, String>) -> bool {
    let Some((name, architecture)) = key.split_once(':') else { return false };
    back.keys()
        .filter_map(|other| other.split_once(':'))
        .any(|(other, of)| other == name && (of == "all" || architecture == "all"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dpkg_is_understood() {
        let found = parse(
            "ii \tlibc6\tamd64\t2.36-9\nrc \tgone\tamd64\t1\nhi \tkept\tall\t1.0\niF \thalf\tamd64\t2\n\
             iiR\tbroken\tall\t1\nit \twaits\tall\t3\n",
        );
        assert_eq!(found.installed.keys().collect::<Vec<_>>(), ["kept:all", "libc6:amd64", "waits:all"]);
        assert_eq!(found.half, BTreeSet::from(["broken:all".to_owned(), "half:amd64".to_owned()]));
        assert_eq!(found.held, BTreeSet::from(["kept:all".to_owned()]));
    }

    #[test]
    fn a_difference_names_what_goes_back_and_what_is_new() {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, version)| ((*key).to_owned(), (*version).to_owned())).collect()
        };
        let before =
            map(&[("same:all", "1"), ("moved:amd64", "1"), ("gone:all", "1"), ("turned:amd64", "1")]);
        let now = Packages {
            installed: map(&[("same:all", "1"), ("moved:amd64", "2"), ("new:all", "1"), ("turned:all", "2")]),
            half: BTreeSet::from(["torn:all".to_owned()]),
            ..Packages::default()
        };
        let found = difference(&before, &now);
        assert_eq!(found.back.keys().collect::<Vec<_>>(), ["gone:all", "moved:amd64", "turned:amd64"]);
        assert_eq!(found.new.iter().collect::<Vec<_>>(), ["new:all", "torn:all"]);
    }
}
