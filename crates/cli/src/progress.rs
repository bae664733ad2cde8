//! A line that says how far something is: on standard error, and only on a terminal.

use std::io::{IsTerminal, Write};

use crate::out::Out;

/// One line, written over and over.
pub struct Line {
    is_shown: bool,
    last: String,
}

impl Line {
    /// Nothing is shown to programs.
    pub fn new(out: &Out) -> Self {
        Self { is_shown: !out.is_json() && std::io::stderr().is_terminal(), last: String::new() }
    }

    /// Shows this text in place of the one before.
    pub fn show(&mut self, text: &str) {
        if self.is_shown && self.last != text {
            // Back to the start of the line, and the rest of it cleared.
            let _ = write!(std::io::stderr(), "\r{text}\x1b[K");
            self.last = text.to_owned();
        }
    }

    /// Takes it away.
    pub fn end(&mut self) {
        if !self.last.is_empty() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
            self.last.clear();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.end();
    }
}
