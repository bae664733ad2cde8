//! What bounds a build, and cancelling it.

use std::time::{Duration, Instant};

use volary_build::{BuildError, Limits};
use volary_host::Stop;

use crate::common::{Attempt, builder, package};
use crate::failures::running;

const DEBHELPER: &str = "debhelper-compat (= 13)";

fn bounded(recipe: &str, limits: Limits) -> Attempt {
    Attempt::of(&builder(), &package("bounded", DEBHELPER, recipe), |request| request.limits = limits)
}

#[test]
fn a_build_that_says_nothing_is_stopped() {
    let silence = Some(Duration::from_secs(3));
    let attempt = bounded("echo thinking; sleep 7777.41", Limits { silence, ..Limits::default() });
    assert!(matches!(attempt.result, Err(BuildError::Silent { .. })), "{:?}", attempt.result);
    let reason = attempt.reason();
    assert!(reason.contains("it said nothing for 3 s after: thinking"), "{reason}");
    assert_eq!(running("sleep\u{0}7777.41"), 0);
}

#[test]
fn a_build_that_fills_the_disk_is_stopped() {
    let limits = Limits { disk: Some(64 << 20), ..Limits::default() };
    let attempt = bounded("yes >endless", limits);
    assert!(matches!(attempt.result, Err(BuildError::DiskLimit { .. })), "{:?}", attempt.result);
    assert!(attempt.reason().contains("it wrote more than 64 MiB"), "{}", attempt.reason());
}

#[test]
fn memory_and_processes_are_bounded_and_the_log_says_how() {
    let limits = Limits { memory: Some(400 << 20), processes: Some(200), ..Limits::default() };
    let attempt = bounded("perl -e '$$n = 900; $$x = \"a\" x ($$n << 20); print length $$x'", limits.clone());
    assert!(attempt.reason().contains("not enough memory: "), "{}", attempt.reason());
    let said = attempt.log();
    assert!(said.contains("limits: 400 MiB of memory and 200 processes, by "), "{said}");
    // What fits is not disturbed.
    bounded("perl -e '$$n = 50; $$x = \"a\" x ($$n << 20); print length $$x'", limits.clone()).built();

    let recipe = "perl -e 'for (1..300) { my $$p = fork; die qq(no fork: $$!) unless defined $$p; \
                  if (!$$p) { sleep 7777; exit } }'";
    let attempt = bounded(recipe, limits);
    assert!(attempt.reason().contains("no fork: Resource temporarily unavailable"), "{}", attempt.reason());
}

#[test]
fn a_build_is_cancelled_promptly_with_all_its_processes() {
    let stop = Stop::default();
    let asking = stop.clone();
    let source = package("cancelled", DEBHELPER, "(setsid sleep 7777.42 &) ; sleep 7777.42");
    let builder = builder();
    let asked = std::thread::spawn(move || {
        let started = Instant::now();
        while running("sleep\u{0}7777.42") < 2 {
            assert!(started.elapsed() < Duration::from_secs(240), "the build does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        asking.ask();
        Instant::now()
    });
    let attempt = Attempt::of(&builder, &source, |request| request.stop = stop);
    let took = asked.join().unwrap().elapsed();
    assert!(matches!(attempt.result, Err(BuildError::Cancelled)), "{:?}", attempt.result);
    assert!(took < Duration::from_secs(30), "{took:?}");
    assert_eq!(running("sleep\u{0}7777.42"), 0);
}
