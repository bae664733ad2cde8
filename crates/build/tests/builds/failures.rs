//! Sources that do not build: each failure is one line that says why.

use std::time::{Duration, Instant};

use volary_build::{BuildError, Origin};

use crate::common::{Attempt, builder, package};
use crate::source::Source;

const DEBHELPER: &str = "debhelper-compat (= 13)";

fn failing(build_depends: &str, recipe: &str) -> Attempt {
    Attempt::of(&builder(), &package("broken", build_depends, recipe), |_| {})
}

#[test]
fn a_compile_error_is_shown_with_its_place() {
    let source = package("broken", DEBHELPER, "$(CC) -Wall -c main.c");
    source.write("main.c", "int main(void)\n{\n\tint unused;\n\treturn missing;\n}\n");
    let attempt = Attempt::of(&builder(), &source, |_| {});
    assert!(attempt.reason().starts_with("main.c:4:16: error: ‘missing’ undeclared"), "{}", attempt.reason());
    let Err(error) = &attempt.result else { panic!() };
    assert!(!error.is_setup() && error.tail().contains("dpkg-buildpackage: error"), "{}", error.tail());
}

#[test]
fn a_missing_build_dependency_is_named() {
    let attempt = failing(&format!("{DEBHELPER}, libnosuch-dev (>= 2)"), "true");
    assert_eq!(attempt.reason(), "unmet build dependency: libnosuch-dev (>= 2) (it is not installable)");
}

#[test]
fn failing_tests_are_told_from_failing_compilers() {
    let source = package("broken", DEBHELPER, "true");
    source.write("Makefile", "all:\ninstall:\ncheck:\n\t@echo 1 is not 2; exit 1\n");
    let attempt = Attempt::of(&builder(), &source, |_| {});
    assert_eq!(attempt.reason(), "tests failed: 1 is not 2");
}

#[test]
fn a_hanging_build_is_stopped_with_all_that_it_started() {
    let recipe = "(setsid sleep 7777.31 &) ; echo waiting; sleep 7777.31";
    let source = package("hanging", DEBHELPER, recipe);
    let builder = builder();
    // So that the time is not spent on what the first build on a machine has to install.
    Attempt::of(&builder, &package("warm", DEBHELPER, "true"), |_| {}).built();
    let started = Instant::now();
    let attempt = Attempt::of(&builder, &source, |request| request.timeout = Duration::from_secs(8));
    assert!(matches!(attempt.result, Err(BuildError::TimedOut { .. })), "{:?}", attempt.result);
    assert!(started.elapsed() < Duration::from_secs(60));
    assert!(attempt.reason().starts_with("stopped after 8 s while building: "), "{}", attempt.reason());
    assert_eq!(running("sleep\u{0}7777.31"), 0);
}

/// How many processes of this machine have exactly these words as their command.
pub fn running(words: &str) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = processes.filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok());
    commands.filter(|command| command.trim_end_matches('\0') == words).count()
}

#[test]
fn there_is_no_network_but_oneself() {
    let source = package("quiet", DEBHELPER, "perl net.pl");
    let script = "use IO::Socket::INET;\n\
        my $own = IO::Socket::INET->new(Listen => 1, LocalAddr => '127.0.0.1:0') or die \"no loopback: $@\";\n\
        IO::Socket::INET->new('127.0.0.1:' . $own->sockport) or die \"no way to oneself: $@\";\n\
        open(my $fh, '<', '/proc/net/dev') or die;\n\
        my @devices = grep { /:/ } <$fh>;\n\
        die \"devices: @devices\" if @devices != 1;\n\
        IO::Socket::INET->new(PeerAddr => '192.0.2.1:80', Timeout => 5) and die 'a way out';\n\
        die \"not a plain user\" if $> == 0 or $< == 0;\n\
        die \"can write to /etc\" if open(my $out, '>', '/etc/passwd');\n";
    source.write("net.pl", script);
    Attempt::of(&builder(), &source, |_| {}).built();
}

#[test]
fn one_build_leaves_nothing_to_the_next() {
    let recipe = "test ! -e /tmp/left && touch /tmp/left /var/tmp/left";
    let source = package("untidy", DEBHELPER, recipe);
    let builder = builder();
    for _ in 0..2 {
        Attempt::of(&builder, &source, |_| {}).built();
    }
}

#[test]
fn a_source_without_packaging_says_what_is_missing() {
    let source = Source::new();
    source.write("hello.c", "int main(void) { return 0; }\n");
    let attempt = Attempt::of(&builder(), &source, |_| {});
    assert!(
        attempt.reason().starts_with("there is no debian/control in the source at "),
        "{}",
        attempt.reason()
    );
}

#[test]
fn a_broken_changelog_is_shown_with_its_line() {
    let source = package("broken", DEBHELPER, "true");
    source.write("debian/changelog", "<<<<<<< HEAD\nbroken (1.0) unstable; urgency=low\n");
    let reason = Attempt::of(&builder(), &source, |_| {}).reason();
    assert!(reason.contains("cannot be read: line 1 should read \"package (version)"), "{reason}");
    source.write("debian/changelog", &" ".repeat((4 << 20) + 1));
    let reason = Attempt::of(&builder(), &source, |_| {}).reason();
    assert!(reason.contains("has more than 4 MiB"), "{reason}");
}

#[test]
fn links_out_of_the_source_are_not_followed() {
    let source = package("sly", DEBHELPER, "true");
    std::fs::remove_file(source.path().join("debian/changelog")).unwrap();
    std::os::unix::fs::symlink("/etc/hostname", source.path().join("debian/changelog")).unwrap();
    let reason = Attempt::of(&builder(), &source, |_| {}).reason();
    assert!(reason.starts_with("there is no debian/changelog in the source at "), "{reason}");
}

#[test]
fn a_commit_that_is_not_there_is_named() {
    let source = package("x1", DEBHELPER, "true");
    let gone = "0123456789012345678901234567890123456789";
    let attempt = Attempt::of(&builder(), &source, |request| request.commit = gone.parse().unwrap());
    assert!(attempt.reason().starts_with(&format!("commit {gone} is not in ")), "{}", attempt.reason());
}

#[test]
fn other_failures_are_explained_too() {
    let builder = builder();
    let check = |name: &str, recipe: &str, change: &dyn Fn(&crate::source::Source), expected: &str| {
        let source = package("broken", DEBHELPER, recipe);
        change(&source);
        let attempt = Attempt::of(&builder, &source, |_| {});
        let reason = attempt.reason();
        assert!(reason.contains(expected) && !reason.contains('\n'), "{name}: {reason}\n{}", attempt.log());
    };
    let nothing = |_: &crate::source::Source| ();
    let main = "extern int missing(void);\nint main(void) { return missing(); }\n";
    check(
        "link",
        "$(CC) -o x main.c",
        &|source| source.write("main.c", main),
        "undefined reference to `missing'",
    );
    check("command", "cp nothing there", &nothing, "cp: cannot stat 'nothing': No such file or directory");
    check("perl", "perl -e 'die qq(no luck\\n)'", &nothing, "no luck (make[1]: *** [Makefile:2: all] Error");
    let install = |source: &crate::source::Source| source.write("debian/install", "no/such/file usr/bin\n");
    check("install", "true", &install, "dh_install: warning: Cannot find (any matches for) \"no/such/file\"");
    let patch = |source: &crate::source::Source| {
        source.write("debian/source/format", "3.0 (quilt)\n");
        source.write("debian/changelog", &CHANGELOG.replace("1.0", "1.0-1"));
        // dpkg-source takes a first patch that does not apply for one that is applied already.
        source.write("debian/patches/series", "good.patch\nbad.patch\n");
        source.write("debian/patches/good.patch", "--- /dev/null\n+++ b/new\n@@ -0,0 +1,1 @@\n+new\n");
        source.write(
            "debian/patches/bad.patch",
            "--- a/Makefile\n+++ b/Makefile\n@@ -1,1 +1,1 @@\n-no\n+yes\n",
        );
    };
    check("patch", "true", &patch, "bad.patch");
    let dependency = |source: &crate::source::Source| {
        source.write("debian/rules", "#!/usr/bin/make -f\n%:\n\tdh $@ --with nosuch\n")
    };
    check("add-on", "true", &dependency, "nosuch");
}

const CHANGELOG: &str =
    "broken (1.0) unstable; urgency=low\n\n  * x\n\n -- T <t@example.org>  Mon, 02 Nov 2026 09:00:00 +0000\n";

#[test]
fn submodules_come_from_registered_sources_only() {
    let library = Source::new();
    library.write("part.txt", "from the submodule\n");
    let commit = library.commit("A part");
    let source = package("whole", DEBHELPER, "cat lib/part.txt");
    source.write(".gitmodules", "[submodule \"lib\"]\n\tpath = lib\n\turl = ../part.git\n");
    let link = format!("160000,{commit},lib");
    // As `git submodule add` leaves it, without a clone in the work tree.
    source.git(&["update-index", "--add", "--cacheinfo", &link]);
    source.git(&["add", "debian", "Makefile", ".gitmodules"]);
    source.git(&["commit", "--quiet", "-m", "With a submodule"]);
    let head: volary_model::CommitId = source.git(&["rev-parse", "HEAD"]).parse().unwrap();
    let attempt = |url: &str, registered: &str| {
        Attempt::of(&builder(), &Source::new(), |request| {
            request.repository = source.path().to_owned();
            request.commit = head.clone();
            request.url = url.to_owned();
            request.origins =
                vec![Origin { url: registered.to_owned(), copies: vec![library.path().to_owned()] }];
        })
    };
    let good = attempt("https://h.example/team/whole", "https://h.example/team/part");
    good.built();
    assert!(good.log().contains("\nfrom the submodule\n"), "{}", good.log());
    let reason = attempt("https://h.example/team/whole", "https://h.example/other/part").reason();
    assert!(
        reason.starts_with("the submodule lib (commit ")
            && reason.contains("register it: volary source add NAME https://h.example/team/part.git"),
        "{reason}"
    );
}
