//! GRUB itself, as a program: what it decides about disks.

use std::fs;
use std::path::Path;
use std::time::Duration;

use volary_host::Cmd;

/// Disks that one run of GRUB looks at.
const AT_ONCE: usize = 100;

/// What GRUB decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// What the script printed after `DECISION`.
    pub said: String,
    /// The disk afterwards.
    pub disk: Vec<u8>,
}

/// Runs a script on each disk, with `root` and `disk` set to it. `after` is run after it and prints
/// a line that begins with `DECISION`.
pub fn decide(disks: &[Vec<u8>], script: &str, after: &str) -> Vec<Decision> {
    disks.chunks(AT_ONCE).flat_map(|disks| some(disks, script, after)).collect()
}

fn some(disks: &[Vec<u8>], script: &str, after: &str) -> Vec<Decision> {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: String| folder.path().join(name);
    let mut map = String::new();
    for (number, disk) in disks.iter().enumerate() {
        let file = path(format!("disk{number}"));
        fs::write(&file, disk).unwrap();
        map.push_str(&format!("(hd{number}) {}\n", file.display()));
    }
    let names: Vec<String> = (0..disks.len()).map(|number| format!("hd{number}")).collect();
    fs::write(path("map".into()), map).unwrap();
    fs::write(path("script.cfg".into()), format!("{script}\n{after}\n")).unwrap();
    // GRUB's own name for the folder that its configuration came from is of no use here.
    let script = path("script.cfg".into());
    let main = format!(
        "set cmdpath=\nfor each in {}; do\n  set root=$each\n  source (host){}\ndone\nexit\n",
        names.join(" "),
        script.display()
    );
    fs::write(path("grub.cfg".into()), main).unwrap();
    let output = run(folder.path());
    let said: Vec<&str> =
        output.split("DECISION ").skip(1).map(|rest| rest.split('.').next().unwrap()).collect();
    assert_eq!(said.len(), disks.len(), "GRUB said: {output}");
    (0..disks.len())
        .map(|number| Decision {
            said: said[number].trim().to_owned(),
            disk: fs::read(path(format!("disk{number}"))).unwrap(),
        })
        .collect()
}

/// What GRUB printed, without what it sends to place it on a terminal.
fn run(folder: &Path) -> String {
    let command =
        Cmd::new("grub-emu").args(["-r", "host", "-d"]).arg(folder).arg("-m").arg(folder.join("map"));
    let output = command
        .timeout(Duration::from_secs(120))
        .run()
        .expect("these tests need Debian's package grub-emu; `make setup` installs it");
    let text = output.text();
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\u{1b}' => {
                // An escape sequence ends with a letter.
                characters.by_ref().find(char::is_ascii_alphabetic);
            }
            '\r' | '\n' => {}
            other => plain.push(other),
        }
    }
    plain
}
