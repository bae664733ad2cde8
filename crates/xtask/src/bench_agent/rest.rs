//! What wakes an agent at rest, from what strace saw of each of its threads.
//!
//! The process is at rest while every thread waits for a time, for another thread, or for what it
//! stood waiting for when the watch began, as the thread that hears signals does. What wakes it
//! from there begins a burst; the answer of the server, the end of a program, a flush come within
//! one. A timer that runs out counts wherever it runs out, so that a loop which sleeps and looks
//! is not taken for one long burst.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use volary_host::{Cmd, create_dir, read_to_string};

/// A shorter rest is none: a thread that is woken by another one takes a moment to show it.
const REST: f64 = 0.02;

/// What a look at the machine opens first that nothing else does.
const LOOKED_AT: &str = "\"/proc/stat\"";

/// Calls that say something to the server.
const SENDS: [&str; 5] = ["sendto", "sendmsg", "write", "writev", "connect"];

/// Calls that wait for a time, or for another thread.
const WAITS: [&str; 4] = ["futex", "clock_nanosleep", "nanosleep", "restart_syscall"];

/// Why an agent at rest began to work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// Its timer, and it asked or told the server.
    Asked,
    /// Its timer, and it looked at the machine.
    Looked,
    /// A timer, and neither came of it.
    ForNothing,
    /// Something that is no timer of the agent.
    Woken,
}

/// One time that it began to work.
#[derive(Debug, Clone, PartialEq)]
pub struct WakeUp {
    /// Why.
    pub cause: Cause,
    /// Seconds since the epoch.
    pub at: f64,
    /// The call that came back, and in which thread.
    pub call: String,
}

impl fmt::Display for WakeUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3} {:?}: {}", self.at, self.cause, self.call)
    }
}

/// How many there were.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Count(BTreeMap<Cause, u32>);

impl Count {
    /// Of these.
    pub fn of(wake_ups: &[WakeUp]) -> Self {
        let mut count = Self::default();
        for wake_up in wake_ups {
            *count.0.entry(wake_up.cause).or_default() += 1;
        }
        count
    }

    /// For one cause.
    pub fn by(&self, cause: Cause) -> u32 {
        self.0.get(&cause).copied().unwrap_or(0)
    }

    /// Those beyond the agent's timers, if it was to ask and to look at least so far apart.
    pub fn beyond(&self, watched: Duration, asks: Duration, looks: Duration) -> u32 {
        let most = |every: Duration| {
            u32::try_from(watched.as_millis() / every.as_millis().max(1))
                .unwrap_or(u32::MAX)
                .saturating_add(1)
        };
        self.by(Cause::Woken)
            + self.by(Cause::ForNothing)
            + self.by(Cause::Asked).saturating_sub(most(asks))
            + self.by(Cause::Looked).saturating_sub(most(looks))
    }
}

/// Watches a process for that long. What strace says is left in `folder`.
pub fn watch(process: u32, time: Duration, folder: &Path) -> anyhow::Result<Vec<WakeUp>> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    create_dir(folder)?;
    let threads = names(process)?;
    let said = Cmd::new("timeout")
        .args(["--signal=INT", &format!("{}s", time.as_secs()), "strace", "--quiet=attach,exit"])
        .args([
            "--follow-forks",
            "--output-separately",
            "--detach-on=execve",
            "--absolute-timestamps=format:unix,precision:us",
        ])
        .args(["--syscall-times=us", "--decode-fds=all", &format!("--attach={process}"), "--output"])
        .arg(folder.join("thread"))
        .timeout(time + Duration::from_secs(60))
        .run()?;
    ensure!(
        said.status.code() == Some(124),
        "strace did not watch: {}",
        String::from_utf8_lossy(&said.stderr)
    );
    let mut texts = BTreeMap::new();
    for entry in folder.read_dir().with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        let number = path.extension().and_then(|number| number.to_str()?.parse::<u32>().ok());
        texts.insert(
            number.with_context(|| format!("{} names no thread", path.display()))?,
            read_to_string(&path)?,
        );
    }
    ensure!(texts.contains_key(&process), "strace saw nothing of process {process}");
    Ok(wake_ups(&threads, &texts))
}

fn names(process: u32) -> anyhow::Result<BTreeMap<u32, String>> {
    let folder = std::path::PathBuf::from(format!("/proc/{process}/task"));
    let mut names = BTreeMap::new();
    for task in folder.read_dir().context("the agent has gone")? {
        let path = task?.path();
        let number = path.file_name().and_then(|number| number.to_str()?.parse().ok());
        names.insert(
            number.context("a thread without a number")?,
            read_to_string(&path.join("comm"))?.trim().to_owned(),
        );
    }
    Ok(names)
}

/// One call of a thread. A thread that was stopped in a call when the watch ended is in it for ever.
#[derive(Debug)]
struct Call<'a> {
    start: f64,
    end: f64,
    name: &'a str,
    text: &'a str,
}

impl<'a> Call<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let (start, rest) = line.split_once(' ')?;
        let start: f64 = start.parse().ok()?;
        let (name, _) = rest.split_once('(')?;
        let is_name =
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let lasted = rest.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')?.1.parse::<f64>().ok());
        // From this one nobody comes back.
        let lasted = if name.starts_with("exit") { Some(0.0) } else { lasted };
        let end = lasted.map_or(f64::INFINITY, |lasted| start + lasted);
        is_name.then_some(Self { start, end, name, text: rest })
    }

    fn result(&self) -> &'a str {
        self.text.rsplit_once(" = ").map_or("", |(_, result)| result)
    }

    /// What it waits on, by its name and its first argument.
    fn subject(&self) -> (&'a str, &'a str) {
        let arguments = &self.text[self.name.len()..];
        (self.name, arguments.split([',', ')']).next().unwrap_or_default())
    }

    fn is_wait(&self) -> bool {
        WAITS.contains(&self.name) && (self.name != "futex" || self.text.contains("FUTEX_WAIT"))
    }

    /// True if it waited for a time, which came.
    fn is_timer(&self) -> bool {
        let slept = self.name.ends_with("nanosleep") && self.result().starts_with('0');
        slept || (self.is_wait() && self.result().contains("ETIMEDOUT"))
    }
}

/// What woke a process whose threads did this. `threads` are the names of those that were there at
/// the beginning; of the others, those that a thread made as threads count too.
fn wake_ups(threads: &BTreeMap<u32, String>, texts: &BTreeMap<u32, String>) -> Vec<WakeUp> {
    let made: BTreeSet<u32> = texts.values().flat_map(|text| text.lines()).filter_map(made_thread).collect();
    let mut wake_ups = Vec::new();
    // When a thread came to rest, or left it: with which call.
    let mut turns: Vec<(f64, bool, String)> = Vec::new();
    for (number, text) in texts {
        let name = threads.get(number);
        if name.is_none() && !made.contains(number) {
            continue;
        }
        let calls: Vec<Call<'_>> = text.lines().filter_map(Call::parse).collect();
        let Some(first) = calls.first() else { continue };
        let name = name.map_or("a new thread", String::as_str);
        let was_there = threads.contains_key(number);
        let stood = Some(first.subject()).filter(|_| was_there);
        let rests = |call: &Call<'_>| call.is_wait() || Some(call.subject()) == stood;
        if !was_there {
            turns.push((first.start, false, format!("{name} began")));
        }
        for (at, call) in calls.iter().enumerate().filter(|(_, call)| rests(call)) {
            let said = format!("{name}: {}", call.text);
            if at > 0 || !was_there {
                turns.push((call.start, true, String::new()));
            }
            if call.end.is_infinite() {
                continue;
            }
            turns.push((call.end, false, if call.is_timer() { String::new() } else { said.clone() }));
            if call.is_timer() {
                let then = calls[at + 1..].iter().take_while(|call| !rests(call));
                wake_ups.push(WakeUp { cause: Cause::of(then), at: call.end, call: said });
            }
        }
        // It is gone, and what is gone wakes nobody.
        turns.extend(
            calls.last().filter(|last| last.end.is_finite()).map(|last| (last.end, true, String::new())),
        );
    }
    wake_ups.extend(woken(turns));
    wake_ups.sort_by(|a, b| a.at.total_cmp(&b.at));
    wake_ups
}

/// Where all threads were at rest for a while and something else than a timer ended that.
fn woken(mut turns: Vec<(f64, bool, String)>) -> Vec<WakeUp> {
    turns.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut awake, mut since) = (0_i64, f64::NEG_INFINITY);
    let mut found = Vec::new();
    for (at, to_rest, call) in turns {
        if to_rest {
            awake -= 1;
            if awake == 0 {
                since = at;
            }
            continue;
        }
        if awake == 0 && at - since >= REST && !call.is_empty() {
            found.push(WakeUp { cause: Cause::Woken, at, call });
        }
        awake += 1;
    }
    found
}

/// The thread that a call made; a process that it made is nothing of the agent.
fn made_thread(line: &str) -> Option<u32> {
    let call = Call::parse(line)
        .filter(|call| call.name.starts_with("clone") && call.text.contains("CLONE_THREAD"))?;
    call.result().split(' ').next()?.parse().ok()
}

impl Cause {
    /// What came of a timer.
    fn of<'a>(then: impl Iterator<Item = &'a Call<'a>>) -> Self {
        let mut cause = Self::ForNothing;
        for call in then {
            if SENDS.contains(&call.name) && call.text.contains("<TCP") {
                return Self::Asked;
            }
            if call.name.starts_with("open") && call.text.contains(LOOKED_AT) {
                cause = Self::Looked;
            }
        }
        cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNALS: &str = "0.000001 recvfrom(3<UNIX-STREAM:[1->2]>,  <detached ...>\n";

    /// A poll at 10 and a look at 30, as strace writes them down.
    const MAIN: &str = "\
        0.000002 restart_syscall(<... resuming interrupted read ...>) = -1 ETIMEDOUT (Connection timed out) <10.000000>\n\
        10.000100 sendto(5<TCP:[1.1.1.1:2->1.1.1.2:3]>, \"x\", 1, 0, NULL, 0) = 1 <0.000100>\n\
        10.000300 recvfrom(5<TCP:[1.1.1.1:2->1.1.1.2:3]>, \"y\", 1, 0, NULL, NULL) = 1 <0.500000>\n\
        10.600000 clone3({flags=CLONE_VM|CLONE_VFORK, exit_signal=SIGCHLD}, 88) = 44 <0.010000>\n\
        10.700000 wait4(44, NULL, 0, NULL) = 44 <1.000000>\n\
        11.700000 --- SIGCHLD {si_signo=SIGCHLD} ---\n\
        11.800000 futex(0x1, FUTEX_WAIT_BITSET_PRIVATE, 0, {tv_sec=1, tv_nsec=2}, FUTEX_BITSET_MATCH_ANY <detached ...>\n";
    const LOOKS: &str = "\
        0.000001 restart_syscall(<... resuming interrupted read ...>) = -1 ETIMEDOUT (Connection timed out) <30.000000>\n\
        30.000100 openat(AT_FDCWD</>, \"/proc/stat\", O_RDONLY|O_CLOEXEC) = 6</proc/stat> <0.000100>\n\
        30.000200 write(1<UNIX-STREAM:[8->9]>, \"x\", 1) = 1 <0.000100>\n\
        30.000400 futex(0x2, FUTEX_WAIT_BITSET_PRIVATE, 0, {tv_sec=1, tv_nsec=2}, FUTEX_BITSET_MATCH_ANY <detached ...>\n";
    const CHILD: &str = "10.600100 nanosleep({tv_sec=1, tv_nsec=0}, NULL) = 0 <1.000000>\n";

    fn seen(main: &str, looks: &str, more: &[(u32, &str)]) -> Vec<WakeUp> {
        let threads = [(1, "volary-agent"), (2, "volary-agent"), (3, "metrics")];
        let threads = threads.map(|(number, name)| (number, name.to_owned())).into();
        let texts =
            [(1, main), (2, SIGNALS), (3, looks), (44, CHILD)].into_iter().chain(more.iter().copied());
        wake_ups(&threads, &texts.map(|(number, text)| (number, text.to_owned())).collect())
    }

    fn causes(main: &str, looks: &str, more: &[(u32, &str)]) -> Vec<Cause> {
        seen(main, looks, more).iter().map(|wake_up| wake_up.cause).collect()
    }

    #[test]
    fn a_poll_and_a_look_are_timers_with_all_that_they_wait_for() {
        assert_eq!(causes(MAIN, LOOKS, &[]), [Cause::Asked, Cause::Looked]);
    }

    #[test]
    fn a_loop_that_sleeps_is_caught_however_short_it_sleeps() {
        for sleep in [5.0, 0.5, 0.001] {
            let line = |number: f64| {
                let at = 12.0 + number * sleep;
                format!(
                    "{at:.6} futex(0x1, FUTEX_WAIT_PRIVATE, 0, {{tv_sec=1}}) = -1 ETIMEDOUT (Connection timed out) <{sleep:.6}>\n"
                )
            };
            let main = MAIN.lines().take(6).map(|line| format!("{line}\n")).collect::<String>();
            let main = main + &(0..20).map(|number| line(f64::from(number))).collect::<String>();
            let count = Count::of(&seen(&main, LOOKS, &[]));
            assert_eq!(
                (count.by(Cause::Asked), count.by(Cause::Looked), count.by(Cause::ForNothing)),
                (1, 1, 20)
            );
            assert!(
                count.beyond(Duration::from_secs(300), Duration::from_secs(54), Duration::from_secs(60))
                    >= 20
            );
        }
        let new = "20.000000 clock_nanosleep(CLOCK_REALTIME, 0, {tv_sec=0}, NULL) = 0 <0.100000>\n".repeat(3);
        let main = MAIN.replace("CLONE_VM|CLONE_VFORK", "CLONE_VM|CLONE_THREAD").replace("= 44", "= 45");
        assert_eq!(
            causes(&main, LOOKS, &[(45, &new)]).iter().filter(|cause| **cause == Cause::ForNothing).count(),
            3
        );
    }

    #[test]
    fn whoever_is_woken_without_a_timer_is_caught() {
        let woken = |looks: &str| {
            let all = seen(MAIN, looks, &[]);
            all.into_iter()
                .filter(|wake_up| wake_up.cause == Cause::Woken)
                .map(|wake_up| format!("{:.3}", wake_up.at))
                .collect::<Vec<_>>()
        };
        let spurious = LOOKS.replace("-1 ETIMEDOUT (Connection timed out)", "0");
        assert_eq!(woken(&spurious), ["30.000"]);
        // Within the burst of the poll it is the poll's doing.
        let within = spurious.replace("<30.000000>", "<10.300000>").replace("30.000", "10.400");
        assert_eq!(woken(&within), Vec::<String>::new());
        let signal = SIGNALS.replace(" <detached ...>", "\"x\", 1, 0, NULL, NULL) = 1 <20.000000>");
        let texts: BTreeMap<u32, String> = [(1, MAIN.to_owned()), (2, signal), (3, LOOKS.to_owned())].into();
        let threads = BTreeMap::from([(1, "a".to_owned()), (2, "b".to_owned()), (3, "c".to_owned())]);
        let found = wake_ups(&threads, &texts);
        assert!(
            found
                .iter()
                .any(|wake_up| wake_up.cause == Cause::Woken && wake_up.call.starts_with("b: recvfrom")),
            "{found:?}"
        );
    }

    #[test]
    fn more_polls_or_looks_than_there_are_to_be_are_beyond() {
        let some = |cause, count| (0..count).map(move |_| WakeUp { cause, at: 0.0, call: String::new() });
        let all: Vec<WakeUp> = some(Cause::Asked, 6).chain(some(Cause::Looked, 6)).collect();
        let [watched, asks, looks] = [320, 54, 60].map(Duration::from_secs);
        assert_eq!(Count::of(&all).beyond(watched, asks, looks), 0);
        let all: Vec<WakeUp> = some(Cause::Asked, 9).chain(some(Cause::Looked, 10)).collect();
        assert_eq!(Count::of(&all).beyond(watched, asks, looks), 7);
    }
}
