//! The last table: asked of each device itself, compared with what the story made it expect.

use anyhow::ensure;
use volary_testkit::Device;
use volary_testkit::chain::{installed, unit_state};

use super::sources;
use super::story::{Story, say};

/// What a device must say at the end.
pub struct Expected<'a> {
    /// The device.
    pub device: &'a Device,
    /// Its stage.
    pub stage: &'a str,
    /// The version of volary-pulse.
    pub pulse: &'a str,
    /// The version of hello.
    pub hello: &'a str,
    /// Whether it had a broken version in between, and undid that by itself.
    pub came_back: bool,
}

/// Asks every device and prints what it says. Fails if one is not as expected.
pub fn print(story: &Story, expected: &[Expected<'_>]) -> anyhow::Result<()> {
    let mut rows = vec![
        ["device", "stage", sources::PULSE, sources::HELLO, sources::UNIT, "as expected"].map(str::to_owned),
    ];
    let mut wrong = Vec::new();
    for one in expected {
        let pulse = installed(one.device, sources::PULSE)?;
        let hello = installed(one.device, sources::HELLO)?;
        let unit = unit_state(one.device, sources::UNIT)?;
        let right =
            pulse.as_deref() == Some(one.pulse) && hello.as_deref() == Some(one.hello) && unit == "active";
        if !right {
            wrong.push(one.device.name());
        }
        let word = match (right, one.came_back) {
            (true, false) => "yes",
            (true, true) => "yes: it came back by itself",
            (false, _) => "NO",
        };
        let absent = || "not installed".to_owned();
        rows.push([
            one.device.name().to_owned(),
            one.stage.to_owned(),
            pulse.unwrap_or_else(absent),
            hello.unwrap_or_else(absent),
            unit,
            word.to_owned(),
        ]);
    }
    let widths: Vec<usize> =
        (0..6).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    for (index, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        let line = cells.join("  ");
        let line = line.trim_end();
        match index {
            0 => say!("{}", story.bold(line)),
            _ if row[5] == "NO" => say!("{}", story.red(line)),
            _ if row[5] == "yes" => say!("{}", story.green(line)),
            _ => say!("{line}"),
        }
    }
    ensure!(wrong.is_empty(), "not as expected: {}", wrong.join(", "));
    Ok(())
}
