//! Packages for another architecture than this machine's: cross-built, and under qemu-user.

use std::fs;

use volary_build::Built;
use volary_host::Cmd;
use volary_model::{Architecture, BuildMethod, BuildScope};

use crate::common::{Attempt, builder, package};
use crate::source::Source;

/// A program in C with a recipe for its build; with `recipe` for Volary.
fn program(make: &str, recipe: &str) -> Source {
    let source = package("far", "debhelper-compat (= 13)", make);
    source.write("far.c", "#include <stdio.h>\nint main(void) { puts(\"far out\"); return 0; }\n");
    let install = "install:\n\tinstall -D far $(DESTDIR)/usr/bin/far\n";
    source.write("Makefile", &format!("all:\n\t{make}\n{install}"));
    if !recipe.is_empty() {
        source.write("debian/volary.yml", &format!("version: 1\n{recipe}\n"));
    }
    source
}

fn arm64() -> Architecture {
    "arm64".parse().unwrap()
}

fn attempt(source: &Source) -> Attempt {
    Attempt::of(&builder(), source, |request| {
        request.architecture = Some(arm64());
        request.scope = BuildScope::Any;
    })
}

/// How many kinds of programs this machine as a whole knows besides its own.
fn registered() -> usize {
    fs::read_dir("/proc/sys/fs/binfmt_misc").map_or(0, Iterator::count)
}

/// Asserts that the package says arm64 and that its program is one.
fn check_arm64(built: &Built, method: BuildMethod) {
    assert_eq!((&built.architecture, built.method), (&arm64(), method));
    let is_it = |name: &str| name.starts_with("far_") && name.ends_with("_arm64.deb");
    let deb = built.files.iter().find(|path| is_it(&path.file_name().unwrap().to_string_lossy())).unwrap();
    let field = Cmd::new("dpkg-deb").arg("--field").arg(deb).arg("Architecture").check().unwrap().text();
    assert_eq!(field.trim(), "arm64");
    let dir = tempfile::tempdir().unwrap();
    Cmd::new("dpkg-deb").arg("--extract").arg(deb).arg(dir.path()).check().unwrap();
    let elf = fs::read(dir.path().join("usr/bin/far")).unwrap();
    // 183 is EM_AARCH64 of elf.h.
    assert_eq!((&elf[..4], elf[18], elf[19]), (&b"\x7fELF"[..], 183, 0));
    assert!(built.changes.to_string_lossy().ends_with("_arm64.changes"), "{:?}", built.changes);
}

#[test]
#[ignore = "its chroots take many minutes; make test-slow runs it"]
fn a_package_is_cross_built_if_it_can_be() {
    let attempt = attempt(&program("$(CC) -o far far.c", ""));
    check_arm64(attempt.built(), BuildMethod::Cross);
    assert!(attempt.log().contains("aarch64-linux-gnu-gcc -o far far.c"), "{}", attempt.log());
}

#[test]
#[ignore = "its chroots take many minutes; make test-slow runs it"]
fn one_that_runs_what_it_builds_is_built_under_emulation() {
    let before = registered();
    let run = "$(CC) -o far far.c && ./far && uname -m && id -un";
    let fallen_back = attempt(&program(run, ""));
    check_arm64(fallen_back.built(), BuildMethod::Emulated);
    let log = fallen_back.log();
    assert!(log.contains("==> cross failed: ") && log.contains("\naarch64\nbuilder\n"), "{log}");

    let at_once = attempt(&program(run, "cross: never"));
    check_arm64(at_once.built(), BuildMethod::Emulated);
    assert!(!at_once.log().contains("==> cross failed: "), "{}", at_once.log());
    // Installed once for the first of the two, and no emulator is left behind.
    assert!(!at_once.log().contains("Unpacking "), "{}", at_once.log());
    assert_eq!(registered(), before, "the machine as a whole learns of no emulator");

    let never = attempt(&program(run, "cross: always"));
    assert!(never.reason().contains("far"), "{}", never.reason());
}

#[test]
fn a_recipe_or_architecture_that_cannot_be_fails_the_commit() {
    let reason = attempt(&program("true", "crosses: never")).reason();
    assert!(reason.starts_with("debian/volary.yml cannot be read: "), "{reason}");
    assert!(reason.contains("crosses"), "{reason}");
    let unknown = Attempt::of(&builder(), &program("true", ""), |request| {
        request.architecture = Some("sparc64".parse().unwrap());
    });
    assert!(unknown.reason().starts_with("nothing can build for sparc64; "), "{}", unknown.reason());
    assert!(!unknown.result.unwrap_err().is_setup(), "no waiting mends it");
}
