//! Commands in a machine by QEMU's guest agent: lines of JSON over a serial line, which work also
//! when the machine's network does not.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use volary_host::{CmdError, FileError, Output};

use crate::LabError;

/// How long one line of the agent may take. It answers at once, unless the machine is very busy; and a line with a
/// package in it has some megabytes, which an emulated machine reads for a minute.
const ANSWER: Duration = Duration::from_secs(300);

/// How often a program that runs is asked after.
const LOOK: Duration = Duration::from_millis(150);

/// The agent of one machine. Its copies take turns.
#[derive(Debug, Clone)]
pub(super) struct Guest {
    socket: PathBuf,
    /// The number of the next conversation.
    turn: Arc<Mutex<u64>>,
}

impl Guest {
    pub(super) fn at(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), turn: Arc::new(Mutex::new(1)) }
    }

    /// Runs a program with a clean environment.
    pub(super) fn run(&self, args: &[&str], stdin: &[u8], limit: Duration) -> Result<Output, LabError> {
        let command = args.join(" ");
        let failed = |source: io::Error| FileError::at("talk to the machine through", &self.socket)(source);
        let started = Instant::now();
        let environment = ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "TERM=dumb"];
        let words: Vec<&&str> = ["-i"].iter().chain(&environment).chain(args).collect();
        let mut execution = json!({
            "path": "/usr/bin/env",
            "arg": words,
            "capture-output": true,
        });
        if !stdin.is_empty() {
            execution["input-data"] = Value::from(STANDARD.encode(stdin));
        }
        let begun = self.ask("guest-exec", &execution).map_err(failed)?;
        loop {
            let status = self.ask("guest-exec-status", &json!({ "pid": begun["pid"] })).map_err(failed)?;
            if status["exited"] == Value::Bool(true) {
                let stream = |name: &str| {
                    STANDARD.decode(status[name].as_str().unwrap_or_default()).unwrap_or_default()
                };
                return Ok(Output {
                    status: exit_status(&status),
                    stdout: stream("out-data"),
                    stderr: stream("err-data"),
                    elapsed: started.elapsed(),
                });
            }
            if started.elapsed() > limit {
                return Err(CmdError::TimedOut { command, timeout: limit, tail: String::new() }.into());
            }
            std::thread::sleep(LOOK);
        }
    }

    /// One question and its answer, on a connection of its own.
    fn ask(&self, question: &str, arguments: &Value) -> io::Result<Value> {
        let mut turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *turn += 1;
        let mut stream = UnixStream::connect(&self.socket)?;
        stream.set_read_timeout(Some(ANSWER))?;
        stream.set_write_timeout(Some(ANSWER))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        // What an earlier conversation left unread, or half said, ends here.
        let greeting = json!({ "execute": "guest-sync", "arguments": { "id": *turn } });
        stream.write_all(format!("\n{greeting}\n").as_bytes())?;
        while read(&mut lines)?.get("return") != Some(&Value::from(*turn)) {}
        let line = json!({ "execute": question, "arguments": arguments });
        stream.write_all(format!("{line}\n").as_bytes())?;
        let mut answer = read(&mut lines)?;
        match answer.get("error") {
            Some(error) => Err(io::Error::other(format!("{question}: {error}"))),
            None => Ok(answer["return"].take()),
        }
    }
}

fn read(lines: &mut BufReader<UnixStream>) -> io::Result<Value> {
    let mut line = String::new();
    if lines.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(serde_json::from_str(line.trim())?)
}

fn exit_status(status: &Value) -> ExitStatus {
    let number = |name: &str| status[name].as_i64().and_then(|number| i32::try_from(number).ok());
    ExitStatus::from_raw(number("signal").unwrap_or_else(|| number("exitcode").unwrap_or(255) << 8))
}
