//! Sources that do not build: each failure is one line that says why.

use std::time::{Duration, Instant};

use volary_build::BuildError;

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
