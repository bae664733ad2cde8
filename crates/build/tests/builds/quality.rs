//! What a build gives besides packages: its source package, what lintian says, and whether it comes
//! out the same under other circumstances.

use std::path::Path;

use volary_build::{BuildError, LintianPolicy, Phase};
use volary_host::Cmd;

use crate::common::{Attempt, builder, package};
use crate::source::Source;

const DEBHELPER: &str = "debhelper-compat (= 13)";

/// The names of the files, sorted, without the version.
fn unpacked(attempt: &Attempt) -> (tempfile::TempDir, String) {
    let dsc = attempt.built().source_package.as_ref().expect("there is a source package");
    let dir = tempfile::tempdir().unwrap();
    let into = dir.path().join("unpacked");
    Cmd::new("dpkg-source").args(["--no-check", "-x"]).arg(dsc).arg(&into).check().unwrap();
    let find = Cmd::new("find").args([".", "-type", "f", "-not", "-path", "./.pc/*"]).cwd(&into).check();
    let mut names: Vec<String> = find.unwrap().text().lines().map(str::to_owned).collect();
    names.sort();
    (dir, names.join(" "))
}

fn with_source(source: &Source) -> Attempt {
    Attempt::of(&builder(), source, |request| request.source_package = true)
}

const FILES: &str = "./Makefile ./debian/changelog ./debian/control ./debian/rules ./debian/source/format";

#[test]
fn a_native_source_package_has_the_commit_and_its_version() {
    let source = package("sourced", DEBHELPER, "true");
    let attempt = with_source(&source);
    let (dir, names) = unpacked(&attempt);
    assert_eq!(names, FILES);
    let built = attempt.built();
    let changelog = std::fs::read_to_string(dir.path().join("unpacked/debian/changelog")).unwrap();
    assert!(changelog.starts_with(&format!("sourced ({})", built.version)), "{changelog}");
    let phases: Vec<Phase> = built.phases.iter().map(|time| time.phase).collect();
    assert!(phases.contains(&Phase::Source), "{phases:?}");
    // The same commit again is the same source package, byte for byte.
    let again = Attempt::of(&builder(), &source, |request| {
        request.source_package = true;
        request.commit = attempt.built().commit.id.clone();
    });
    assert_eq!(attempt.built().version, again.built().version);
    let dsc = |attempt: &Attempt| std::fs::read(attempt.built().source_package.as_ref().unwrap()).unwrap();
    assert_eq!(dsc(&attempt), dsc(&again));
}

#[test]
fn upstream_stays_the_same_while_the_packaging_changes() {
    let source = package("quilted", DEBHELPER, "true");
    source.write("debian/source/format", "3.0 (quilt)\n");
    let changelog = "quilted (1.0-1) unstable; urgency=low\n\n  * x\n\n -- T <t@example.org>  Mon, 02 Nov 2026 09:00:00 +0000\n";
    source.write("debian/changelog", changelog);
    source.write("debian/patches/series", "one.patch\n");
    source.write("debian/patches/one.patch", "--- /dev/null\n+++ b/patched\n@@ -0,0 +1,1 @@\n+new\n");
    let orig = |attempt: &Attempt| {
        let named = |path: &&std::path::PathBuf| path.to_string_lossy().ends_with("quilted_1.0.orig.tar.xz");
        std::fs::read(attempt.built().files.iter().find(named).unwrap()).unwrap()
    };
    let first = with_source(&source);
    let (_dir, names) = unpacked(&first);
    assert!(names.contains("./patched") && names.contains("./debian/patches/one.patch"), "{names}");
    source.write("debian/README.Debian", "more\n");
    assert_eq!(orig(&first), orig(&with_source(&source)));
    source.write("more", "more\n");
    assert_ne!(orig(&first), orig(&with_source(&source)));
}

#[test]
fn a_source_that_dpkg_would_not_pack_is_packed_as_a_whole() {
    // Native, but with a revision.
    let source = package("odd", DEBHELPER, "true");
    let changelog = "odd (1.0-1) unstable; urgency=low\n\n  * x\n\n -- T <t@example.org>  Mon, 02 Nov 2026 09:00:00 +0000\n";
    source.write("debian/changelog", changelog);
    let (_dir, names) = unpacked(&with_source(&source));
    assert_eq!(names, FILES);
}

fn deb(built: &Path) -> bool {
    built.extension().is_some_and(|end| end == "deb")
}

#[test]
fn other_circumstances_do_not_show_in_a_package_that_does_not_ask_for_them() {
    let check = |recipe: &str, same: bool| {
        let source = package("again", DEBHELPER, recipe);
        source.write(
            "Makefile",
            &format!(
                "all:\n\t{recipe}\ninstall:\n\tinstall -D -m 644 told $(DESTDIR)/usr/share/again/told\n"
            ),
        );
        let first = Attempt::of(&builder(), &source, |_| {});
        let second = Attempt::of(&builder(), &source, |request| {
            request.again = true;
            request.commit = first.built().commit.id.clone();
        });
        assert!(!second.built().varied.is_empty() && first.built().varied.is_empty());
        assert_eq!(first.built().version, second.built().version);
        let read = |attempt: &Attempt| {
            let path = attempt.built().files.iter().find(|path| deb(path)).unwrap().clone();
            std::fs::read(path).unwrap()
        };
        assert_eq!(read(&first) == read(&second), same, "{recipe}\n{}", second.log());
    };
    check("echo constant >told", true);
    for recipe in ["pwd >told", "hostname >told", "date +%Z >told", "nproc >told", "env | grep ^HOME >told"] {
        check(recipe, false);
    }
}

#[test]
fn lintian_stops_what_the_policy_names_and_shows_the_rest() {
    let source = package("lintable", DEBHELPER, "true");
    source.write("Makefile", "all:\ninstall:\n\tinstall -D Makefile $(DESTDIR)/opt/lintable/file\n");
    let policy = |refuse: &[&str]| {
        let refuse = refuse.iter().map(|word| (*word).to_owned()).collect();
        LintianPolicy { run: true, refuse }
    };
    let shown = Attempt::of(&builder(), &source, |request| request.lintian = policy(&[]));
    shown.built();
    assert!(shown.findings.iter().any(|finding| finding.tag == "dir-or-file-in-opt"), "{}", shown.log());
    let stopped =
        Attempt::of(&builder(), &source, |request| request.lintian = policy(&["dir-or-file-in-opt"]));
    assert!(matches!(stopped.result, Err(BuildError::Lintian { .. })), "{:?}", stopped.result);
    let reason = stopped.reason();
    assert!(reason.starts_with("lintian stops it: error: lintable: dir-or-file-in-opt"), "{reason}");
}
