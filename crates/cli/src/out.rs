//! How the command speaks: aligned tables and colour for people, JSON for programs.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use jiff::Timestamp;
use serde::Serialize;
use volary_plan::text;

use crate::failure::Failure;

/// Where everything that is printed goes through.
pub struct Out {
    json: bool,
    colour: bool,
}

/// A colour with a meaning.
#[derive(Clone, Copy)]
pub enum Tone {
    /// It is as it should be.
    Good,
    /// It is on its way, or somebody must look.
    Warn,
    /// It is broken.
    Bad,
    /// Less important.
    Dim,
    /// A heading.
    Bold,
}

impl Out {
    /// Colour only on a terminal, and not if `NO_COLOR` asks for none.
    pub fn new(json: bool) -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self { json, colour }
    }

    /// True if JSON was asked for.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints `value` as JSON, if that was asked for; otherwise lets `text` print.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce(&T)) {
        if self.json {
            let json = serde_json::to_string_pretty(value).expect("wire types are JSON");
            self.raw(&format!("{json}\n"));
        } else {
            text(value);
        }
    }

    /// One line of text; nothing when JSON was asked for.
    pub fn line(&self, line: impl AsRef<str>) {
        if !self.json {
            self.raw(&format!("{}\n", line.as_ref()));
        }
    }

    /// Text as it is, whatever was asked for. A reader that went away is no error.
    pub fn raw(&self, text: &str) {
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
    }

    /// Text in a tone.
    pub fn tone(&self, tone: Tone, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        if !self.colour {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => "32",
            Tone::Warn => "33",
            Tone::Bad => "31",
            Tone::Dim => "2",
            Tone::Bold => "1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A table with aligned columns; `nothing` stands in its place when it has no rows.
    pub fn table(&self, headers: &[&str], rows: Vec<Vec<String>>, nothing: &str) {
        if self.json {
            return;
        }
        if rows.is_empty() {
            return self.line(nothing);
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        table.set_header(headers.iter().map(|header| self.tone(Tone::Dim, header)));
        table.add_rows(rows);
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        for line in table.lines() {
            self.line(line.trim_end());
        }
    }

    /// Something that a person should know and that is no part of the answer: on standard error.
    pub fn note(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "note: {text}");
    }

    /// What a person who pushes gets to read: git passes standard error on.
    pub fn refusal(&self, text: &str) {
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    /// Tells why the command failed, on standard error.
    pub fn failure(&self, failure: &Failure) {
        let mut stderr = std::io::stderr().lock();
        let mut text = format!("error: {}\n", failure.error);
        let mut said = failure.error.to_string();
        for cause in failure.error.chain().skip(1) {
            let cause = cause.to_string();
            // Many sentences hold their cause already.
            if !said.contains(&cause) {
                text.push_str(&format!("  because: {cause}\n"));
                said = cause;
            }
        }
        if let Some(help) = &failure.help {
            text.push_str(&format!("help: {help}\n"));
        }
        let _ = stderr.write_all(text.as_bytes());
    }
}

/// How long ago something was.
pub fn ago(at: Timestamp) -> String {
    match std::time::Duration::try_from(volary_host::now().duration_since(at)) {
        Ok(past) if past.as_secs() < 2 => "now".into(),
        Ok(past) => format!("{} ago", text::duration(past)),
        // A clock that runs ahead somewhere is worth seeing, not hiding.
        Err(_) => format!("{at:.0}"),
    }
}

/// How long ago something was, or a dash.
pub fn ago_or_dash(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "–".into(), ago)
}

/// A size as people read it.
pub fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", count as f64 / 1e6),
        _ => format!("{:.1} GB", count as f64 / 1e9),
    }
}
