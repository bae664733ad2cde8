//! The clocks: the wall's, which people and servers move, and the boot's, which nobody can.

use std::path::Path;
use std::time::Duration;

use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};

/// The time now. A function of its own so that callers outside tests have one place to look for
/// where real time enters.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Time since the machine was switched on, sleep included. It only ever rises.
pub fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Time since the machine was switched on, sleep left out: the clock of the journal.
pub fn awake() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The id of this boot; empty where the kernel does not tell.
pub fn boot_id() -> String {
    let text = crate::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"));
    text.unwrap_or_default().trim().to_owned()
}

/// Sets the wall clock.
///
/// # Errors
/// What the system said: in a container, and for other users than root, it is not permitted.
pub fn set_clock(to: jiff::Timestamp) -> std::io::Result<()> {
    let nanoseconds = to.subsec_nanosecond();
    let (seconds, nanoseconds) = if nanoseconds < 0 {
        (to.as_second() - 1, nanoseconds + 1_000_000_000)
    } else {
        (to.as_second(), nanoseconds)
    };
    let time = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_boot_clock_rises() {
        let before = since_boot();
        std::thread::sleep(Duration::from_millis(2));
        assert!(since_boot() > before && before > Duration::ZERO);
        assert_eq!(boot_id().len(), 36);
    }
}
