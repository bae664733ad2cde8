//! Hears of news at once: keeps one question open at the server, if the fleet wants that.
//!
//! It only wakes the daemon, which then asks as ever; so whatever goes wrong here costs time and
//! nothing else. A connection and a thread of its own, since the daemon must hear signals meanwhile.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use volary_host::now;

use crate::http::{Answer, Server};

/// The longest pause after errors in a row: as long as the daemon itself waits then.
const LONGEST_PAUSE: Duration = Duration::from_secs(600);

/// Starts to listen. `wake` is called at each change, and says whether somebody still hears it.
pub fn listen(
    server: Server,
    wait: Duration,
    wake: impl Fn() -> bool + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let run = move || {
        let mut etag: Option<String> = None;
        let mut failures = 0;
        loop {
            let started = Instant::now();
            match server.news(etag.as_deref(), wait) {
                Ok(Answer::Desired(desired, tag)) => {
                    failures = 0;
                    etag = tag;
                    // Without a tag each answer is "new", and the fleet may have had enough of it.
                    if !wake() || etag.is_none() || desired.long_poll == 0 {
                        return;
                    }
                }
                Ok(Answer::Unchanged) => {
                    failures = 0;
                    // A server that answers at once does not know how to wait, or is about to end.
                    if started.elapsed() < wait / 2 {
                        std::thread::sleep(jittered(wait));
                    }
                }
                Err(_) => {
                    failures += 1;
                    let quiet = server.quiet_until().map(|until| until.duration_since(now()));
                    let quiet = quiet.and_then(|quiet| Duration::try_from(quiet).ok()).unwrap_or_default();
                    std::thread::sleep(jittered(pause(failures)).max(quiet));
                }
            }
        }
    };
    std::thread::Builder::new().name("listen".into()).stack_size(256 << 10).spawn(run)
}

/// Five seconds, and twice as long after each further failure.
fn pause(failures: u32) -> Duration {
    Duration::from_secs(5).saturating_mul(1 << failures.saturating_sub(1).min(10)).min(LONGEST_PAUSE)
}

/// Between three and five quarters of a time, by the clock: devices lose their server together, and
/// must not come back together.
fn jittered(time: Duration) -> Duration {
    let part = u32::try_from(now().as_nanosecond().unsigned_abs() / 1000 % 512).expect("below 512");
    time * (768 + part) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_ten_minutes() {
        let seconds: Vec<u64> = (1..=9).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
        let long = Duration::from_secs(1000);
        assert!((0..1000).all(|_| (750..=1250).contains(&jittered(long).as_secs())));
    }
}
