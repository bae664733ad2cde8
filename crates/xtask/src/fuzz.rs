//! The fuzzing campaign: builds the fuzzers of `fuzz/` and runs them one after the other, each for
//! the same time and within bounds of memory and time for one input.
//!
//! What they hold against their inputs stands in `fuzz/src/`. New inputs that reach new code are
//! kept in `target/fuzz/corpus`, so that the next campaign begins where this one ended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use clap::Args;
use volary_host::{Cmd, Output, create_dir};

use crate::figures::Figure;
use crate::workspace::Workspace;

/// Run the fuzzers.
#[derive(Args)]
pub struct FuzzArgs {
    /// How long each of them runs
    #[arg(long, default_value_t = 600)]
    seconds_each: u64,
    /// Only this one; may be given several times
    #[arg(long, value_name = "TARGET")]
    only: Vec<String>,
}

/// One fuzzer.
struct Target {
    name: &'static str,
    /// What it reads, for the page of figures.
    what: &'static str,
    dictionary: &'static str,
    /// Bytes of the longest input that it makes. Longer ones cost speed and find little more.
    longest: u32,
    /// MiB that the whole process may hold, and what one allocation may ask for. Text parsers
    /// need little; xz may ask for a window of 65 MiB, and zstd for one of 128.
    memory: (u32, u32),
}

const TEXT: (u32, u32) = (512, 64);
const PACKED: (u32, u32) = (1024, 300);

const TARGETS: [Target; 16] = [
    Target { name: "deb", what: "whole .deb files", dictionary: "package", longest: 65_536, memory: PACKED },
    Target {
        name: "ar",
        what: "the outer archive of a .deb",
        dictionary: "package",
        longest: 65_536,
        memory: PACKED,
    },
    Target {
        name: "tar",
        what: "the tar archives in a .deb",
        dictionary: "package",
        longest: 32_768,
        memory: TEXT,
    },
    Target {
        name: "control",
        what: "control paragraphs",
        dictionary: "control",
        longest: 4096,
        memory: TEXT,
    },
    Target { name: "changes", what: ".changes and .dsc", dictionary: "control", longest: 4096, memory: TEXT },
    Target {
        name: "release",
        what: "Release and InRelease",
        dictionary: "control",
        longest: 4096,
        memory: TEXT,
    },
    Target {
        name: "packages",
        what: "Packages and Sources",
        dictionary: "control",
        longest: 4096,
        memory: TEXT,
    },
    Target {
        name: "version",
        what: "version numbers and their order",
        dictionary: "control",
        longest: 512,
        memory: TEXT,
    },
    Target {
        name: "relation",
        what: "dependency fields",
        dictionary: "control",
        longest: 2048,
        memory: TEXT,
    },
    Target {
        name: "clearsign",
        what: "clearsigned texts",
        dictionary: "control",
        longest: 4096,
        memory: TEXT,
    },
    Target {
        name: "changelog",
        what: "debian/changelog",
        dictionary: "control",
        longest: 4096,
        memory: TEXT,
    },
    Target {
        name: "tracker",
        what: "the data of Debian's security tracker",
        dictionary: "tracker",
        longest: 4096,
        memory: TEXT,
    },
    Target {
        name: "git",
        what: "git objects, packs, signatures, lock and configuration",
        dictionary: "git",
        longest: 4096,
        memory: TEXT,
    },
    Target {
        name: "artifact",
        what: "update artifacts",
        dictionary: "package",
        longest: 32_768,
        memory: PACKED,
    },
    Target {
        name: "blocks",
        what: "block files of images",
        dictionary: "blocks",
        longest: 32_768,
        memory: PACKED,
    },
    Target { name: "pair", what: "pairs of images", dictionary: "blocks", longest: 32_768, memory: PACKED },
];

/// An input that takes longer counts as a hang. The slowest honest ones take a tenth of a second.
const SECONDS_FOR_AN_INPUT: u32 = 25;

/// What makes the compiler count edges and show comparisons to the fuzzer, as cargo-fuzz has it.
const INSTRUMENT: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    -Zsanitizer=address -Ccodegen-units=1 --cfg fuzzing";

/// A build from nothing takes minutes, on a busy machine many.
const BUILD: Duration = Duration::from_secs(3 * 3600);

/// Builds, runs, and publishes one figure for each fuzzer.
pub fn run(args: &FuzzArgs) -> anyhow::Result<()> {
    let known: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
    if let Some(unknown) = args.only.iter().find(|name| !known.contains(&name.as_str())) {
        bail!("there is no fuzzer {unknown}; there are {}", known.join(", "));
    }
    let workspace = Workspace::find()?;
    let programs = build(&workspace)?;
    let mut findings = Vec::new();
    for target in TARGETS {
        if args.only.is_empty() || args.only.iter().any(|name| name == target.name) {
            let (figure, finding) = fuzz(&workspace, &programs, &target, args.seconds_each)?;
            figure.publish(&workspace)?;
            findings.extend(finding);
        }
    }
    for finding in &findings {
        println!("{finding}\n");
    }
    ensure!(findings.is_empty(), "{} fuzzers found something", findings.len());
    Ok(())
}

/// Returns the folder of the programs.
fn build(workspace: &Workspace) -> anyhow::Result<PathBuf> {
    let version = Cmd::new("rustc").arg("-vV").check()?.text();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc names no host")?;
    let target = workspace.target.join("fuzz/build");
    Cmd::new("cargo")
        // With `--target` build scripts and macros stay as they are.
        .args(["build", "--quiet", "--release", "--locked", "--target", host])
        .cwd(workspace.path("fuzz"))
        .env("CARGO_TARGET_DIR", &target)
        .env("RUSTFLAGS", INSTRUMENT)
        // The address sanitizer is for the nightly compiler only, unless one insists.
        .env("RUSTC_BOOTSTRAP", "1")
        .timeout(BUILD)
        .check()?;
    Ok(target.join(host).join("release"))
}

fn fuzz(
    workspace: &Workspace,
    programs: &Path,
    target: &Target,
    seconds: u64,
) -> anyhow::Result<(Figure, Option<String>)> {
    let name = target.name;
    let work = workspace.target.join("fuzz");
    let (corpus, found) = (work.join("corpus").join(name), work.join("found").join(name));
    create_dir(&corpus)?;
    create_dir(&found)?;
    let (memory, one) = target.memory;
    let options = [
        format!("-max_total_time={seconds}"),
        format!("-max_len={}", target.longest),
        format!("-timeout={SECONDS_FOR_AN_INPUT}"),
        format!("-rss_limit_mb={memory}"),
        format!("-malloc_limit_mb={one}"),
        format!(
            "-dict={}",
            workspace.path(format!("fuzz/dictionaries/{}.dict", target.dictionary)).display()
        ),
        format!("-artifact_prefix={}/", found.display()),
        "-print_final_stats=1".to_owned(),
    ];
    let output = Cmd::new("nice")
        .args(["-n", "15"])
        .arg(programs.join(name))
        .args(options)
        .arg(&corpus)
        .arg(workspace.path(format!("fuzz/seeds/{name}")))
        // Freed memory that the sanitizer holds back would count as held by the parser, and leaks
        // cannot come from safe code.
        .env("ASAN_OPTIONS", "quarantine_size_mb=16:detect_leaks=0")
        .timeout(Duration::from_secs(seconds + 600))
        .run()?;
    let stats = Stats::of(&output).unwrap_or_default();
    let failed = !output.status.success();
    let finding = failed.then(|| {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let panic = said.lines().find(|line| line.contains("panicked at")).unwrap_or("");
        format!(
            "{name}: {panic}\n{}\nthe input is in {}",
            volary_host::tail(&output.stderr, 6),
            found.display()
        )
    });
    let meaning = format!(
        "crashes, hangs and outgrown memory while fuzzing the reader of {} for {} s: {} inputs, {} edges, \
         at most {} MiB, slowest {} s",
        target.what,
        output.elapsed.as_secs(),
        stats.inputs,
        stats.edges,
        stats.megabytes,
        stats.slowest
    );
    let found = if failed { 1.0 } else { 0.0 };
    let mut figure = Figure::new(workspace, &format!("fuzz-{name}"), &meaning, (found, "findings"), 0.0)?;
    figure.command = format!("make fuzz ONLY={name} SECONDS_EACH={seconds}");
    Ok((figure, finding))
}

/// What a fuzzer says of its run at the end.
#[derive(Debug, Default, PartialEq)]
struct Stats {
    inputs: u64,
    edges: u64,
    megabytes: u64,
    slowest: u64,
}

impl Stats {
    fn of(output: &Output) -> Option<Self> {
        Self::parse(&String::from_utf8_lossy(&output.stderr))
    }

    fn parse(said: &str) -> Option<Self> {
        let stat = |name: &str| {
            let line = said.lines().rfind(|line| line.starts_with(name))?;
            line[name.len()..].trim().parse().ok()
        };
        let (_, after) = said.rsplit_once(" cov: ")?;
        Some(Self {
            inputs: stat("stat::number_of_executed_units:")?,
            edges: after.split_whitespace().next()?.parse().ok()?,
            megabytes: stat("stat::peak_rss_mb:")?,
            slowest: stat("stat::slowest_unit_time_sec:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_run_is_read() {
        let said = "#2 INITED cov: 100 ft: 1\n#99\tDONE   cov: 123 ft: 456 corp: 7/8b\nDone 99 runs in 1 second(s)\n\
                    stat::number_of_executed_units: 99\nstat::average_exec_per_sec:     9\n\
                    stat::slowest_unit_time_sec:    0\nstat::peak_rss_mb:              42\n";
        let expected = Stats { inputs: 99, edges: 123, megabytes: 42, slowest: 0 };
        assert_eq!(Stats::parse(said), Some(expected));
        assert_eq!(Stats::parse("killed"), None);
    }

    /// A fuzzer that is not in the list would never run.
    #[test]
    fn every_fuzzer_is_in_the_campaign() {
        let workspace = Workspace::find().unwrap();
        let listed = workspace.path("fuzz/fuzz_targets").read_dir().unwrap();
        let mut there: Vec<String> =
            listed.map(|entry| entry.unwrap().file_name().to_string_lossy().replace(".rs", "")).collect();
        let mut known: Vec<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
        there.sort();
        known.sort();
        assert_eq!(there, known);
        for target in TARGETS {
            assert!(
                workspace.path(format!("fuzz/seeds/{}", target.name)).is_dir(),
                "{} has no seeds",
                target.name
            );
            assert!(workspace.path(format!("fuzz/dictionaries/{}.dict", target.dictionary)).is_file());
        }
    }
}
