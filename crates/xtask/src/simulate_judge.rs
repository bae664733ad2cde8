//! How often the judges are wrong: `make simulate-judge` writes `docs/judges.md` and the figures.

use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::Args;
use volary_host::write_atomic;
use volary_simulate::judges::{Row, Shape, Table, leaks_found, promotions_stopped, tables};

use crate::figures::Figure;
use crate::workspace::Workspace;

/// What the page is about; the tables follow.
const HEAD: &str = "# How often the judges are wrong

A watch rule that finds leaks and the gate `no_worse_than` judge noisy measurements, so they are sometimes wrong. Here
is how often, on made-up fleets whose truth is known, beside what others do with the same data. Each number is the
share of cases in which the method raises the alarm: where nothing is wrong it should be small, where something is
(**bold**) it should be near 100 %.

What the judges do, and why, stands at the head of `crates/plan/src/leak.rs` and `crates/plan/src/compare.rs`; what is
made up, in `crates/simulate/src/judges/`. Other methods are written down from their descriptions.
";

/// Count how often judges are wrong.
#[derive(Args)]
pub struct SimulateJudgeArgs {
    /// How many of each case; of the largest fleets a part of that
    #[arg(long, default_value_t = 1000)]
    runs: u64,
    /// The seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs all cases, writes the page and the figures.
pub fn run(args: &SimulateJudgeArgs, workspace: &Workspace) -> anyhow::Result<()> {
    ensure!(
        args.runs >= 100,
        "--runs {} is too few to count one in a hundred: write at least 100",
        args.runs
    );
    let begun = Instant::now();
    let tables = tables(args.runs, args.seed);
    let command = format!("make simulate-judge RUNS={} SEED={}", args.runs, args.seed);
    let page = page(&tables, &command);
    write_atomic(&workspace.path("docs/judges.md"), page.as_bytes(), 0o644)?;
    print!("{page}");
    figures(args, workspace, &tables, &command)?;
    println!("all of it took {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn figures(
    args: &SimulateJudgeArgs,
    workspace: &Workspace,
    tables: &[Table],
    command: &str,
) -> anyhow::Result<()> {
    let publish =
        |name: &str, meaning: &str, ours: f64, peer: Option<f64>, at_most: f64| -> anyhow::Result<()> {
            let figure = Figure::new(workspace, name, meaning, (100.0 * ours, "%"), at_most)?;
            let figure = match peer {
                Some(peer) => figure.beside((100.0 * peer, "%")),
                None => figure,
            };
            figure.by(command).publish(workspace)
        };
    let (runs, seed) = (args.runs, args.seed);
    let sound =
        [Shape::Flat, Shape::DayCycle, Shape::SawTooth, Shape::WarmUp, Shape::SlowWarmUp, Shape::Step];
    let worst = sound.into_iter().map(|shape| leaks_found(shape, 0.0, runs, seed)).fold(0.0, f64::max);
    let steps = find(tables, "one step of")?;
    publish(
        "judge-leak-false",
        "weeks without a leak that are called one, in the worst of flat, cyclic, saw teeth, warm-up (also of 48 h) and one step; \
         the peer is a straight line through the samples of one step",
        worst,
        Some(steps.share(1)),
        1.0,
    )?;
    let leaks = [Shape::Flat, Shape::DayCycle, Shape::SawToothOfHalfADay, Shape::WarmUpOfADay];
    let missed = leaks.into_iter().map(|shape| 1.0 - leaks_found(shape, 0.1, runs, seed)).fold(0.0, f64::max);
    publish(
        "judge-leak-missed",
        "leaks of 0.1 MiB/h in 60 MiB that a week does not show, in the worst of flat, cyclic, saw teeth, warm-up",
        missed,
        None,
        5.0,
    )?;
    let small = leaks_found(Shape::Flat, 0.05, runs, seed);
    publish(
        "judge-small-leak-missed",
        "leaks of 0.05 MiB/h in 60 MiB that a week does not show",
        1.0 - small,
        None,
        14.0,
    )?;
    let alike = find(tables, "5 of 55, no change")?;
    publish(
        "judge-canary-false",
        "promotions of 5 canaries beside 50 devices that are stopped without a cause, over 4 metrics and 4 looks; the peer \
         is Kayenta's rule on one metric",
        promotions_stopped(0.0, runs, seed),
        Some(alike.share(2)),
        2.0,
    )?;
    let worse = find(tables, "5 of 55, +10 %")?;
    publish(
        "judge-canary-missed",
        "promotions of 5 canaries beside 50 devices that are not stopped though one metric rises by 10 %; the peer is \
         Kayenta's rule",
        1.0 - promotions_stopped(0.1, runs, seed),
        Some(1.0 - worse.share(2)),
        10.0,
    )
}

fn find<'a>(tables: &'a [Table], case: &str) -> anyhow::Result<&'a Row> {
    let mut rows = tables.iter().flat_map(|table| &table.rows);
    rows.find(|row| row.case.starts_with(case)).with_context(|| format!("there is no case {case:?}"))
}

fn page(tables: &[Table], command: &str) -> String {
    let mut page = String::from(HEAD);
    writeln!(page, "\nMade by `{command}`; do not edit.").expect("a String takes any write");
    for table in tables {
        page.push_str(&section(table));
    }
    page
}

fn section(table: &Table) -> String {
    let mut text = format!("\n## {}\n\n{}\n\n| case | runs |", table.title, table.explained);
    for method in &table.methods {
        write!(text, " {method} |").expect("a String takes any write");
    }
    text.push_str("\n|---|---|");
    text.push_str(&"---|".repeat(table.methods.len()));
    text.push('\n');
    for row in &table.rows {
        let case = if row.alarm_is_right { format!("**{}**", row.case) } else { row.case.clone() };
        write!(text, "| {case} | {} |", row.runs).expect("a String takes any write");
        for index in 0..table.methods.len() {
            write!(text, " {} |", percent(row, index)).expect("a String takes any write");
        }
        text.push('\n');
    }
    text
}

/// Small shares with a digit, so that 0.4 % is not called none.
fn percent(row: &Row, index: usize) -> String {
    match 100.0 * row.share(index) {
        share if share > 0.0 && share < 9.95 => format!("{share:.1} %"),
        share if share > 99.0 && share < 100.0 => format!("{share:.1} %"),
        share => format!("{share:.0} %"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_written() {
        let row = |case: &str, alarm_is_right, alarms: [u64; 2]| Row {
            case: case.to_owned(),
            alarm_is_right,
            runs: 1000,
            alarms: alarms.to_vec(),
        };
        let table = Table {
            title: "Leaks".to_owned(),
            explained: "Weeks.".to_owned(),
            methods: vec!["ours", "theirs"],
            rows: vec![row("flat", false, [4, 310]), row("leak", true, [1000, 999])],
        };
        let expected = "\n## Leaks\n\nWeeks.\n\n| case | runs | ours | theirs |\n|---|---|---|---|\n\
                        | flat | 1000 | 0.4 % | 31 % |\n| **leak** | 1000 | 100 % | 99.9 % |\n";
        assert_eq!(section(&table), expected);
    }
}
