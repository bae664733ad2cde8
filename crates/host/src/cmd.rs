//! Runs other programs: always with a time limit, always with captured and bounded output.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

/// How much of a stream is kept; more is read and thrown away, so that a chatty program neither
/// blocks nor fills the memory.
const OUTPUT_LIMIT: usize = 16 << 20;

/// How often what cannot be waited for is looked at: a program that dies, or one of a kernel that does not
/// tell of ends.
const POLL: Duration = Duration::from_millis(5);

/// How often it is looked whether somebody asked a program to end.
const LISTEN: Duration = Duration::from_millis(100);

/// How long pipes that stay open are listened to after the program ended: when nothing comes, and
/// when something does.
const QUIET_END: Duration = Duration::from_millis(500);
const NOISY_END: Duration = Duration::from_secs(5);

/// A line longer than this is handed over in parts.
const LINE_LIMIT: usize = 64 << 10;

/// A program to run. Arguments are passed as they are: no shell is involved.
#[derive(Debug, Clone)]
pub struct Cmd {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, Option<OsString>)>,
    cwd: Option<PathBuf>,
    stdin: Vec<u8>,
    timeout: Duration,
    stop: Option<Stop>,
}

/// Asks programs that run to end, from another thread. Clones share one state, and what was asked
/// once stays asked: a program that is started later ends at once.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Asks.
    pub fn ask(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// True if somebody asked.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What a program that ended left behind.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output, at most 16 MiB.
    pub stdout: Vec<u8>,
    /// Its standard error, at most 16 MiB.
    pub stderr: Vec<u8>,
    /// How long it ran.
    pub elapsed: Duration,
}

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CmdError {
    /// It could not be started at all.
    #[error("cannot run {program}: {source}{}", hint(source))]
    Start {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It ran longer than it may and was killed, with all it had started.
    #[error("{command} did not end within {} s and was stopped{}", .timeout.as_secs(), indented(.tail))]
    TimedOut {
        /// The command line.
        command: String,
        /// The limit.
        timeout: Duration,
        /// The end of its output.
        tail: String,
    },
    /// It was asked to end by its [`Stop`] and was killed, with all it had started.
    #[error("{command} was stopped on request")]
    Stopped {
        /// The command line.
        command: String,
    },
    /// It said that it failed.
    #[error("{command} failed ({}){}", ending(*.status), indented(.tail))]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error, or of its output if that was empty.
        tail: String,
    },
    /// Its pipes could not be served.
    #[error("cannot talk to {command}: {source}")]
    Pipe {
        /// The command line.
        command: String,
        /// What the system said.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::NotFound { " (is it installed?)" } else { "" }
}

fn indented(tail: &str) -> String {
    if tail.is_empty() { String::new() } else { format!(":\n  {}", tail.trim_end().replace('\n', "\n  ")) }
}

fn ending(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// The last `lines` lines of what a program printed, as text.
pub fn tail(bytes: &[u8], lines: usize) -> String {
    let said = bytes.trim_ascii_end();
    let Some(before) = lines.checked_sub(1) else { return String::new() };
    // From its end: a device has no room for all lines of a program that printed megabytes of them.
    let mut ends = said.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    let start = ends.nth(before).unwrap_or(0);
    let text = String::from_utf8_lossy(&said[start..]);
    // A picture or something packed is nothing to read.
    let is_odd = |c: &char| *c == char::REPLACEMENT_CHARACTER || (c.is_control() && !c.is_whitespace());
    let odd = text.chars().filter(is_odd).count();
    if odd > 16 && odd * 4 > text.chars().count() {
        return format!("{} bytes that are no text", said.len() - start);
    }
    text.lines().collect::<Vec<_>>().join("\n")
}

impl Output {
    /// Standard output as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Cmd {
    /// The program `program`, with a time limit of one minute.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            stdin: Vec::new(),
            timeout: Duration::from_secs(60),
            stop: None,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// The same command as the last arguments of another one, as in `env COMMAND…`.
    #[must_use]
    pub fn within(mut self, outer: &[&str]) -> Self {
        let mut words = outer.iter().map(OsString::from);
        let program = words.next().expect("an outer command has a name");
        let inner = std::mem::replace(&mut self.program, program);
        let args = std::mem::take(&mut self.args);
        self.args = words.chain([inner]).chain(args).collect();
        self
    }

    /// Sets an environment variable; the rest of the environment is inherited.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), Some(value.as_ref().to_owned())));
        self
    }

    /// Takes an environment variable away.
    #[must_use]
    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.env.push((key.as_ref().to_owned(), None));
        self
    }

    /// The folder to run in.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(dir.as_ref().to_owned());
        self
    }

    /// What the program reads on standard input; otherwise it reads nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may run before it and everything it started is killed.
    #[must_use]
    pub fn timeout(mut self, limit: Duration) -> Self {
        self.timeout = limit;
        self
    }

    /// Ends it, and everything it started, as soon as `stop` is asked.
    #[must_use]
    pub fn stop(mut self, stop: &Stop) -> Self {
        self.stop = Some(stop.clone());
        self
    }

    /// The command line as a person would type it, for messages.
    pub fn line(&self) -> String {
        let mut line = self.program.to_string_lossy().into_owned();
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            let plain = !arg.is_empty()
                && !arg.contains(|c: char| c.is_whitespace() || "'\"$\\;&|<>(){}*?".contains(c));
            let quoted = if plain { arg.into_owned() } else { format!("'{}'", arg.replace('\'', "'\\''")) };
            write!(line, " {quoted}").expect("a String takes any write");
        }
        line
    }

    /// The bare command, for callers that must stream both ways (git over HTTP) and take the
    /// duty of ending it upon themselves. Its pipes and time limit are not set up.
    #[allow(clippy::disallowed_methods, reason = "this is the one door to processes")]
    pub fn into_std(self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.args);
        for (key, value) in &self.env {
            match value {
                Some(value) => command.env(key, value),
                None => command.env_remove(key),
            };
        }
        if let Some(dir) = &self.cwd {
            command.current_dir(dir);
        }
        command
    }

    /// Runs it to its end, whatever its exit status.
    ///
    /// # Errors
    /// [`CmdError::Start`], [`CmdError::TimedOut`], [`CmdError::Stopped`]; a non-zero exit status is not an error here.
    pub fn run(&self) -> Result<Output, CmdError> {
        self.stream(&mut |_| {})
    }

    /// Runs it to its end and takes a non-zero exit status as an error that shows the last
    /// 20 lines of what it said.
    ///
    /// # Errors
    /// As [`Cmd::run`], and [`CmdError::Failed`].
    pub fn check(&self) -> Result<Output, CmdError> {
        self.checked(self.run()?)
    }

    /// As [`Cmd::check`], and hands over each line of output and of errors as it comes.
    ///
    /// # Errors
    /// As [`Cmd::check`].
    pub fn check_lines(&self, on_line: &mut dyn FnMut(&str)) -> Result<Output, CmdError> {
        let mut pending = Vec::new();
        let output = self.stream(&mut |bytes| {
            pending.extend_from_slice(bytes);
            while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                on_line(String::from_utf8_lossy(&line).trim_end());
            }
            if pending.len() > LINE_LIMIT {
                on_line(String::from_utf8_lossy(&std::mem::take(&mut pending)).trim_end());
            }
        })?;
        if !pending.is_empty() {
            on_line(String::from_utf8_lossy(&pending).trim_end());
        }
        self.checked(output)
    }

    fn checked(&self, output: Output) -> Result<Output, CmdError> {
        if output.status.success() {
            return Ok(output);
        }
        let said =
            if output.stderr.iter().all(u8::is_ascii_whitespace) { &output.stdout } else { &output.stderr };
        Err(CmdError::Failed { command: self.line(), status: output.status, tail: tail(said, 20) })
    }

    fn stream(&self, on_bytes: &mut dyn FnMut(&[u8])) -> Result<Output, CmdError> {
        let started = Instant::now();
        let mut command = self.clone().into_std();
        command
            .stdin(if self.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own, so that a time-out reaches the grandchildren too.
            .process_group(0);
        let mut child = command.spawn().map_err(|source| CmdError::Start {
            program: self.program.to_string_lossy().into_owned(),
            source,
        })?;

        if let Some(mut pipe) = child.stdin.take() {
            let bytes = self.stdin.clone();
            // A program that ends without reading everything is not an error of ours.
            std::thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let mut pipes = [
            child.stdout.take().map(|pipe| File::from(OwnedFd::from(pipe))),
            child.stderr.take().map(|pipe| File::from(OwnedFd::from(pipe))),
        ];
        // Becomes readable when the program ends.
        let end = rustix::process::pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).ok();

        let mut streams = [Vec::new(), Vec::new()];
        let mut buffer = vec![0; 64 << 10];
        let mut exited: Option<(ExitStatus, Instant)> = None;
        while exited.is_none() || pipes.iter().any(Option::is_some) {
            let left = self.timeout.saturating_sub(started.elapsed());
            let wait = match exited {
                // A daemon that the program left behind may hold the pipes open.
                Some((_, at)) => QUIET_END.saturating_sub(at.elapsed()).max(POLL),
                None if end.is_none() => POLL,
                None if self.stop.is_some() => left.min(LISTEN),
                None => left,
            };
            let ready = wait_for(&pipes, end.as_ref().filter(|_| exited.is_none()), wait);
            let mut quiet = true;
            for (index, pipe) in pipes.iter_mut().enumerate().filter(|(index, _)| ready[*index]) {
                match pipe.as_ref().map(|mut pipe| pipe.read(&mut buffer)) {
                    Some(Ok(count @ 1..)) => {
                        let bytes = &buffer[..count];
                        on_bytes(bytes);
                        let room = OUTPUT_LIMIT.saturating_sub(streams[index].len());
                        streams[index].extend_from_slice(&bytes[..count.min(room)]);
                        quiet = false;
                    }
                    Some(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                    Some(Ok(0) | Err(_)) | None => *pipe = None,
                }
            }
            if exited.is_none() {
                let status =
                    child.try_wait().map_err(|source| CmdError::Pipe { command: self.line(), source })?;
                exited = status.map(|status| (status, Instant::now()));
            }
            // Do not wait for it, nor listen to it for ever.
            let patience = if quiet { QUIET_END } else { NOISY_END };
            if exited.is_some_and(|(_, at)| at.elapsed() > patience) {
                break;
            }
            if exited.is_none() && self.stop.as_ref().is_some_and(Stop::is_asked) {
                kill_group(&mut child);
                return Err(CmdError::Stopped { command: self.line() });
            }
            if exited.is_none() && started.elapsed() > self.timeout {
                kill_group(&mut child);
                let tail = tail(if streams[1].is_empty() { &streams[0] } else { &streams[1] }, 20);
                return Err(CmdError::TimedOut { command: self.line(), timeout: self.timeout, tail });
            }
        }
        let (status, _) = exited.expect("the loop ends only after the program ended");
        let [stdout, stderr] = streams;
        Ok(Output { status, stdout, stderr, elapsed: started.elapsed() })
    }
}

/// Waits until one of the pipes has something to say, or the program ends, and at most this long. Says which
/// pipes can be read without waiting.
fn wait_for(pipes: &[Option<File>; 2], end: Option<&OwnedFd>, limit: Duration) -> [bool; 2] {
    let open = pipes.iter().enumerate().filter_map(|(index, pipe)| Some((index, pipe.as_ref()?)));
    let (numbers, mut waited): (Vec<usize>, Vec<PollFd<'_>>) =
        open.map(|(index, pipe)| (index, PollFd::new(pipe, PollFlags::IN))).unzip();
    waited.extend(end.map(|end| PollFd::new(end, PollFlags::IN)));
    // A moment more than asked for: one that ends too early would be one for nothing.
    let limit = Timespec::try_from(limit + Duration::from_millis(1)).ok();
    let mut ready = [false; 2];
    // Interrupted by a signal, nothing is ready.
    if rustix::event::poll(&mut waited, limit.as_ref()).is_ok() {
        for (index, fd) in numbers.into_iter().zip(&waited) {
            ready[index] = !fd.revents().is_empty();
        }
    }
    ready
}

/// How long to wait until what was killed is gone. A process that hangs in the kernel outlives it.
const DYING: Duration = Duration::from_secs(10);

/// Kills the program with all processes of its group, and waits until they are gone: with the first
/// process of a namespace goes all that is in it, and only then is it gone itself (pid_namespaces(7)).
fn kill_group(child: &mut Child) {
    let members = group_members(child.id());
    if let Some(group) = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended this instant; then there is nothing left to kill.
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    let _ = child.wait();
    let killed = Instant::now();
    while killed.elapsed() < DYING && members.iter().any(|&member| group_of(member) == Some(child.id())) {
        std::thread::sleep(POLL);
    }
}

fn group_members(group: u32) -> Vec<u32> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter(|&process| group_of(process) == Some(group)).collect()
}

/// The process group of a process that lives, not of one that only waits to be asked for its status.
fn group_of(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name before it is the program's own choice, spaces and parentheses included (proc(5)).
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let dead = matches!(fields.next()?, "Z" | "X");
    let group = fields.nth(1)?.parse().ok()?;
    (!dead).then_some(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_taken_from_the_end() {
        assert_eq!(tail(b"one\r\ntwo\n\nfour\n \n", 2), "\nfour");
        assert_eq!(tail(b"one\r\ntwo\n", 2), "one\ntwo");
        assert_eq!(tail(b"one\r\ntwo\n", 9), "one\ntwo");
        assert_eq!([tail(b"one\n", 0), tail(b"", 3), tail(b"\n\n", 3)], ["", "", ""]);
        assert_eq!(tail(b"\xff\n\xc3", 2), "\u{fffd}\n\u{fffd}");
        assert_eq!(tail(&[0x8b; 40], 20), "40 bytes that are no text");
        assert_eq!(tail(&[b"text\0".repeat(40), vec![b'\n']].concat(), 20), "text\0".repeat(40));
    }

    #[test]
    fn output_and_status_come_back() {
        let output = Cmd::new("sh").args(["-c", "cat; echo err >&2; exit 3"]).stdin("in").run().unwrap();
        assert_eq!(
            (output.text().as_str(), output.stderr.as_slice(), output.status.code()),
            ("in", &b"err\n"[..], Some(3))
        );
    }

    #[test]
    fn a_command_can_stand_within_another() {
        let output = Cmd::new("echo").arg("in").within(&["env", "-u", "HOME"]).run().unwrap();
        assert_eq!(output.text(), "in\n");
    }

    #[test]
    fn what_was_stopped_is_gone_with_its_group_and_namespace() {
        let stop = Stop::default();
        let mark = format!("{}.31", 70_000 + std::process::id() % 10_000);
        let script =
            format!("for i in 1 2 3 4 5 6 7 8; do setsid sleep {mark} & done; echo up; sleep {mark}");
        let ended = Cmd::new("unshare")
            .args(["--user", "--map-root-user", "--pid", "--fork", "--kill-child=KILL", "sh", "-c", &script])
            .stop(&stop)
            .check_lines(&mut |_| stop.ask());
        assert!(matches!(ended, Err(CmdError::Stopped { .. })), "{ended:?}");
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let commands = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let sleep = format!("sleep\0{mark}\0").into_bytes();
        assert_eq!(commands.filter(|command| *command == sleep).count(), 0);
    }

    #[test]
    fn a_failure_shows_what_the_program_said() {
        let error = Cmd::new("sh").args(["-c", "echo no such thing >&2; exit 2"]).check().unwrap_err();
        let text = error.to_string();
        assert!(text.contains("exit status 2") && text.contains("no such thing"), "{text}");
    }

    #[test]
    fn a_hanging_program_is_stopped_with_its_children() {
        let started = Instant::now();
        let error =
            Cmd::new("sh").args(["-c", "sleep 60 & sleep 60"]).timeout(Duration::from_millis(100)).run();
        assert!(matches!(error, Err(CmdError::TimedOut { .. })));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_program_ends_when_it_is_asked_to() {
        let stop = Stop::default();
        let asking = stop.clone();
        let mut lines = 0;
        let ended =
            Cmd::new("sh").args(["-c", "echo one; sleep 60 & sleep 60"]).stop(&stop).check_lines(&mut |_| {
                lines += 1;
                asking.ask();
            });
        assert!(matches!(ended, Err(CmdError::Stopped { .. })), "{ended:?}");
        assert_eq!(lines, 1);
        let late = Cmd::new("sleep").arg("60").stop(&stop).run();
        assert!(matches!(late, Err(CmdError::Stopped { .. })), "{late:?}");
    }

    #[test]
    fn a_program_that_prints_without_end_is_stopped_too() {
        let started = Instant::now();
        let error = Cmd::new("yes").timeout(Duration::from_millis(300)).run();
        assert!(matches!(error, Err(CmdError::TimedOut { .. })));
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn closed_pipes_do_not_hide_the_end() {
        let output = Cmd::new("sh").args(["-c", "exec >&- 2>&-; sleep 0.1; exit 3"]).run().unwrap();
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn a_line_without_end_is_handed_over_in_parts() {
        let mut longest = 0;
        let mut whole = 0;
        Cmd::new("head")
            .args(["-c", "1000000", "/dev/zero"])
            .check_lines(&mut |line| {
                longest = longest.max(line.len());
                whole += line.len();
            })
            .unwrap();
        assert!(whole == 1_000_000 && longest <= LINE_LIMIT + (64 << 10), "{whole} {longest}");
    }

    #[test]
    fn a_daemon_left_behind_is_not_waited_for() {
        let started = Instant::now();
        Cmd::new("sh").args(["-c", "sleep 60 & echo done"]).check().unwrap();
        assert!(started.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_missing_program_says_so() {
        let error = Cmd::new("no-such-program-here").run().unwrap_err().to_string();
        assert!(error.contains("is it installed?"), "{error}");
    }

    #[test]
    fn lines_arrive_whole() {
        let mut lines = Vec::new();
        Cmd::new("printf").arg("a\nb").check_lines(&mut |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["a", "b"]);
    }
}
