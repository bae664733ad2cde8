//! One line per event on standard error, which is the journal under systemd and the terminal
//! for a person. Quiet when nothing happens.

use std::io::{IsTerminal, Write};

/// Writes one line. Line breaks inside become an indented continuation. That nobody listens is
/// no reason to fail.
pub fn say(text: impl AsRef<str>) {
    let text = text.as_ref().trim_end().replace('\n', "\n  ");
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Writes what was asked for to standard output.
pub fn print(text: impl AsRef<str>) {
    let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
}

/// True if a person watches.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal()
}
