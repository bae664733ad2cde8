//! What the tests of whole builds share: sources, and a builder on the shared cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use volary_build::{
    BuildError, BuildRequest, Builder, BuilderConfig, Built, Event, Finding, Limits, LintianPolicy, Renewal,
};
use volary_host::{Cmd, Stop};
use volary_model::BuildScope;

use crate::source::Source;

/// The repository of this workspace.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A repository with the files of a folder of the workspace.
pub fn source_of(folder: &str) -> Source {
    let source = Source::new();
    let from = workspace().join(folder).join(".");
    Cmd::new("cp").arg("-a").arg(from).arg(source.path()).check().unwrap();
    source
}

/// A package with only a `Makefile`, whose `all` is `recipe`.
pub fn package(name: &str, build_depends: &str, recipe: &str) -> Source {
    let source = Source::new();
    let control = format!(
        "Source: {name}\nSection: misc\nPriority: optional\nMaintainer: T <t@example.org>\n\
         Build-Depends: {build_depends}\nStandards-Version: 4.6.2\n\nPackage: {name}\n\
         Architecture: any\nDepends: ${{misc:Depends}}\nDescription: test package\n Nothing.\n"
    );
    let changelog = format!(
        "{name} (1.0) unstable; urgency=low\n\n  * x\n\n -- T <t@example.org>  Mon, 02 Nov 2026 09:00:00 +0000\n"
    );
    source.write("debian/control", &control);
    source.write("debian/changelog", &changelog);
    source.write("debian/rules", "#!/usr/bin/make -f\n%:\n\tdh $@\n");
    source.write("debian/source/format", "3.0 (native)\n");
    source.write("Makefile", &format!("all:\n\t{recipe}\ninstall:\n"));
    source
}

/// A builder on the cache that all runs share, with its chroot made.
pub fn builder() -> Builder {
    let builder = Builder::open(BuilderConfig::default()).unwrap();
    builder.prepare(Renewal::WhenOld, &mut |_| {}).unwrap();
    builder
}

/// A build of the source's newest commit into a folder of its own.
pub struct Attempt {
    pub dir: tempfile::TempDir,
    pub result: Result<Built, BuildError>,
    pub findings: Vec<Finding>,
}

impl Attempt {
    pub fn of(builder: &Builder, source: &Source, change: impl FnOnce(&mut BuildRequest)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut request = BuildRequest {
            source: "test".parse().unwrap(),
            repository: source.path().to_owned(),
            commit: source.commit("Say something\n\nAnd why."),
            url: String::new(),
            origins: Vec::new(),
            number: 7,
            architecture: None,
            scope: BuildScope::Full,
            output: dir.path().join("out"),
            log: dir.path().join("log"),
            timeout: Duration::from_secs(300),
            limits: Limits::default(),
            stop: Stop::default(),
            extra_sources: Vec::new(),
            because: None,
            source_package: false,
            lintian: LintianPolicy::default(),
            again: false,
        };
        change(&mut request);
        let mut findings = Vec::new();
        let result = builder.build(&request, &mut |event| {
            if let Event::Finding(finding) = event {
                findings.push(finding.clone());
            }
        });
        Self { dir, result, findings }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    pub fn built(&self) -> &Built {
        match &self.result {
            Ok(built) => built,
            Err(error) => panic!("{error}\n{}", self.log()),
        }
    }

    pub fn reason(&self) -> String {
        match &self.result {
            Ok(built) => panic!("it built {}", built.version),
            Err(error) => error.to_string(),
        }
    }
}
