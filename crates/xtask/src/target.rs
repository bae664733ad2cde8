//! What the agent is built for: how the compiler, Debian and QEMU name it, and the tools that it
//! takes. Every binary is static, so that it runs on any Debian: against musl where Rust's library
//! for it can be had, against glibc otherwise.

use std::path::Path;

use anyhow::{bail, ensure};
use volary_host::Cmd;

/// A target of the compiler.
pub struct Target {
    /// The compiler's name.
    pub triple: String,
    /// Debian's name.
    pub debian: String,
    musl: bool,
    /// The prefix of the C compiler and of QEMU; `None` for this machine's own.
    foreign: Option<Foreign>,
}

struct Foreign {
    compiler: &'static str,
    emulator: &'static str,
}

impl Target {
    /// The architectures that devices have.
    pub const ARCHITECTURES: [&'static str; 3] = ["amd64", "arm64", "armhf"];

    /// That of an architecture, or of this machine.
    pub fn of(architecture: Option<&str>) -> anyhow::Result<Self> {
        let here = Cmd::new("dpkg").arg("--print-architecture").check()?.text().trim().to_owned();
        let debian = architecture.unwrap_or(&here).to_owned();
        let (machine, gnu, musl, compiler, emulator) = match debian.as_str() {
            "amd64" => ("x86_64", "gnu", "musl", "x86_64-linux-gnu-gcc", "qemu-x86_64-static"),
            "arm64" => ("aarch64", "gnu", "musl", "aarch64-linux-gnu-gcc", "qemu-aarch64-static"),
            "armhf" => ("armv7", "gnueabihf", "musleabihf", "arm-linux-gnueabihf-gcc", "qemu-arm-static"),
            other => bail!("the agent is not built for {other}, only for {}", Self::ARCHITECTURES.join(", ")),
        };
        let foreign = (debian != here).then_some(Foreign { compiler, emulator });
        let sysroot = Cmd::new("rustc").args(["--print", "sysroot"]).check()?.text();
        let libraries = Path::new(sysroot.trim()).join("lib/rustlib");
        let has = |triple: &str| libraries.join(triple).join("lib").is_dir();
        let triples = [
            (format!("{machine}-unknown-linux-{musl}"), true),
            (format!("{machine}-unknown-linux-{gnu}"), false),
        ];
        // For ring, musl needs a C compiler of its own here; a foreign compiler does for both.
        let compiles = |musl: bool| {
            let compiler = foreign.as_ref().map_or("musl-gcc", |foreign| foreign.compiler);
            (!musl && foreign.is_none()) || Cmd::new(compiler).arg("--version").run().is_ok()
        };
        let usable = triples.iter().find(|(triple, musl)| has(triple) && compiles(*musl));
        let Some((triple, musl)) = usable.cloned() else {
            bail!(
                "nothing here builds for {debian}: Rust's library for {} or {} is needed, and {compiler}; \
                 run: scripts/setup foreign",
                triples[0].0,
                triples[1].0
            );
        };
        Ok(Self { triple, debian, musl, foreign })
    }

    /// True if it is built against musl, false if against glibc.
    pub const fn is_musl(&self) -> bool {
        self.musl
    }

    /// Flags of the compiler.
    pub fn flags(&self) -> Vec<&'static str> {
        if self.musl { Vec::new() } else { vec!["-Ctarget-feature=+crt-static"] }
    }

    /// Lets cargo find the C compiler, the linker and the emulator.
    pub fn tools(&self, cargo: Cmd) -> Cmd {
        let Some(foreign) = &self.foreign else { return cargo };
        let name = self.triple.replace('-', "_");
        let upper = name.to_uppercase();
        // Rust brings musl's start files; the C compiler's are glibc's.
        let linker = if self.musl { "rust-lld" } else { foreign.compiler };
        cargo
            .env(format!("CC_{name}"), foreign.compiler)
            .env(format!("CARGO_TARGET_{upper}_LINKER"), linker)
            .env(format!("CARGO_TARGET_{upper}_RUNNER"), foreign.emulator)
    }

    /// Runs a program of this architecture, which must succeed.
    pub fn run(&self, program: &Path, arg: &str) -> anyhow::Result<String> {
        let cmd = match &self.foreign {
            Some(foreign) => Cmd::new(foreign.emulator).arg(program),
            None => Cmd::new(program),
        };
        let said = cmd.arg(arg).check()?.text();
        ensure!(!said.is_empty(), "{} said nothing", program.display());
        Ok(said)
    }
}
