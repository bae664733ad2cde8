//! `make test-foreign`: the agent for the other architectures of devices, built, packed, and started
//! by qemu-user, and its unit tests and those of what it is made of.
//!
//! Not here: tests that start a container; those are of this machine's architecture.

use std::time::Duration;

use anyhow::ensure;
use clap::Args;
use volary_host::Cmd;

use crate::deb::{self, AgentDebArgs};
use crate::target::Target;
use crate::workspace::Workspace;

/// How long building and running the tests of one architecture may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The agent and what it is made of.
const CRATES: [&str; 9] = [
    "volary-agent",
    "volary-api",
    "volary-artifact",
    "volary-boot",
    "volary-debian",
    "volary-device",
    "volary-fleet",
    "volary-host",
    "volary-model",
];

/// What no emulator can show where the agent is built against glibc: qemu-user makes a fork of a vfork, and
/// glibc hears through the memory that a vfork shares that a program is not there.
const NOT_EMULATED: &str = "cmd::tests::a_missing_program_says_so";

/// Which architectures are tested.
#[derive(Args)]
pub struct TestForeignArgs {
    /// The architectures, as Debian names them
    #[arg(value_parser = Target::ARCHITECTURES, default_values = ["arm64", "armhf"])]
    architectures: Vec<String>,
}

/// Builds, packs, starts, tests.
pub fn run(args: &TestForeignArgs) -> anyhow::Result<()> {
    let workspace = Workspace::find()?;
    for architecture in &args.architectures {
        let target = Target::of(Some(architecture))?;
        let wanted = AgentDebArgs { dev: false, architecture: Some(architecture.clone()) };
        let package = deb::build(&workspace, &wanted)?;
        let named = Cmd::new("dpkg-deb").arg("--field").args([&package]).arg("Architecture").check()?.text();
        ensure!(named.trim() == architecture, "{} says it is for {named}", package.display());
        let program = workspace.target.join(&target.triple).join("agent/volary-agent");
        let kind = Cmd::new("file").arg("--brief").arg(&program).check()?.text();
        ensure!(
            kind.contains("statically linked") || kind.contains("static-pie"),
            "it is not static: {kind}"
        );
        let version = target.run(&program, "version")?;
        ensure!(version.starts_with("volary-agent "), "it says {version}");
        let size = std::fs::metadata(&program)?.len();
        println!(
            "{architecture}: {} of {}, {size} bytes, it runs",
            version.lines().next().unwrap_or(""),
            target.triple
        );
        test(&workspace, &target)?;
    }
    Ok(())
}

/// The unit tests of the agent and of what it is made of.
fn test(workspace: &Workspace, target: &Target) -> anyhow::Result<()> {
    let packages = CRATES.iter().flat_map(|name| ["--package", *name]);
    let skipped: &[&str] = if target.is_musl() { &[] } else { &["--", "--skip", NOT_EMULATED] };
    let cargo = Cmd::new("cargo")
        .args(["test", "--lib", "--no-fail-fast", "--target", &target.triple])
        .args(packages)
        .args(skipped)
        .env("CARGO_ENCODED_RUSTFLAGS", target.flags().join("\u{1f}"));
    let cargo = target.tools(cargo).cwd(&workspace.root).timeout(PATIENCE);
    let mut passed = 0;
    cargo.check_lines(&mut |line| {
        if line.starts_with("test result") || line.contains("FAILED") || line.contains("panicked") {
            println!("{}: {line}", target.debian);
        }
        passed += u32::from(line.starts_with("test result: ok"));
    })?;
    ensure!(passed as usize == CRATES.len(), "only {passed} of {} crates were tested", CRATES.len());
    Ok(())
}
