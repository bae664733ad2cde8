//! Commands that speak for a gate: `[gate_commands.NAME]` in `server.toml`, and running one with no more rights than it
//! needs. Which are due, and what their exit means, is decided elsewhere.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use volary_api::v1::fleet::Promotion;
use volary_host::{Cmd, CmdError, Stop};
use volary_model::GateName;
use volary_plan::gate::{Say, word_of_exit};

/// The longest reason, which is a line of output: it stands in lists, in evidence and at forges.
pub(crate) const REASON: usize = 300;

/// The longest time that a command may have, in seconds.
const LONGEST: u64 = 3600;

/// Who a command runs as where the server is root and nobody is named.
const NOBODY: &str = "nobody";

/// Where programs of a command are looked for.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command that speaks for a gate. It reads the promotion as JSON on standard input; exit status 0 is *go*, 1 is
/// *stop*, everything else *ask*, and the last line that it prints is the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateCommand {
    /// The program and its arguments; no shell is involved.
    pub command: Vec<String>,
    /// Seconds after which it is stopped, and the gate says *ask*.
    #[serde(default = "default_timeout")]
    pub timeout: u64,
    /// The user that it runs as, if the server runs as root; default: `nobody`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
}

fn default_timeout() -> u64 {
    300
}

/// What a command reads.
#[derive(Debug, Serialize)]
struct Input<'a> {
    /// Version of this form.
    version: u32,
    fleet: &'a str,
    gate: &'a GateName,
    promotion: &'a Promotion,
}

impl GateCommand {
    /// What types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.command.first().is_some_and(|program| program.starts_with('/')) {
            return Err("command must begin with the absolute path of a program".to_owned());
        }
        if self.timeout == 0 || self.timeout > LONGEST {
            return Err(format!("timeout must be 1 to {LONGEST} seconds"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        match &self.user {
            Some(user) if user.is_empty() || user.starts_with('-') || !user.chars().all(plain) => {
                Err("user must be the name of a user of this machine".to_owned())
            }
            Some(user) if user == "root" => {
                Err("user must not be root: a command needs no rights over the server that asks it"
                    .to_owned())
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Runs it to its end. `None` if the server ended it because it ends itself.
    pub(crate) fn run(
        &self,
        fleet: &str,
        gate: &GateName,
        promotion: &Promotion,
        stop: &Stop,
    ) -> Option<(Say, String)> {
        let input = Input { version: 1, fleet, gate, promotion };
        let input = serde_json::to_vec(&input).expect("a promotion is plain data");
        let limited = match self.limited() {
            Ok(limited) => limited,
            Err(problem) => return Some((Say::Ask, line(&problem))),
        };
        let run = limited.stdin(input).timeout(Duration::from_secs(self.timeout)).stop(stop).run();
        match run {
            Ok(output) => {
                let said = last_line(&output.stdout).or_else(|| last_line(&output.stderr));
                let ending = || match output.status.code() {
                    Some(code) => format!("it ended with exit status {code} and said nothing"),
                    None => "it was killed".to_owned(),
                };
                Some((word_of_exit(output.status.code()), said.unwrap_or_else(ending)))
            }
            Err(CmdError::TimedOut { .. }) => Some((
                word_of_exit(None),
                format!("it did not end within {} s and was stopped", self.timeout),
            )),
            Err(CmdError::Stopped { .. }) => None,
            Err(error @ (CmdError::Start { .. } | CmdError::Failed { .. } | CmdError::Pipe { .. })) => {
                Some((word_of_exit(None), line(&error.to_string())))
            }
        }
    }

    /// The command as another user without capabilities, groups or a way to get any, and with nothing of the
    /// server's environment.
    fn limited(&self) -> Result<Cmd, String> {
        let mut command = Cmd::new("env").args(["-i", PATH, "LANG=C.UTF-8", "HOME=/nonexistent"]).args([
            "setpriv",
            "--no-new-privs",
            "--inh-caps=-all",
        ]);
        if rustix::process::geteuid().is_root() {
            let user = self.user.as_deref().unwrap_or(NOBODY);
            let group = Cmd::new("id").args(["-g", user]).check().map_err(|error| error.to_string())?;
            command = command
                .args(["--reuid", user, "--regid", group.text().trim()])
                .args(["--clear-groups", "--bounding-set=-all"]);
        }
        Ok(command.arg("--").args(&self.command).cwd("/"))
    }
}

/// The last line that says something.
fn last_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    text.lines().rev().map(line).find(|line| !line.is_empty())
}

/// Text as one line of bounded length.
pub(crate) fn line(text: &str) -> String {
    let plain: String = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if plain.chars().count() <= REASON {
        return plain;
    }
    plain.chars().take(REASON - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &[&str], user: Option<&str>, timeout: u64, expected: &str) {
        let command = command.iter().map(|&word| word.to_owned()).collect();
        let problem = GateCommand { command, timeout, user: user.map(str::to_owned) }.check().err();
        let problem = problem.unwrap_or_default();
        assert!(problem.contains(expected) && problem.is_empty() == expected.is_empty(), "{problem}");
    }

    #[test]
    fn mistakes_are_named() {
        check(&["/bin/true", "x"], Some("lab"), 300, "");
        check(&[], None, 300, "absolute path");
        check(&["true"], None, 300, "absolute path");
        check(&["/bin/true"], None, 0, "1 to 3600 seconds");
        check(&["/bin/true"], None, 3601, "1 to 3600 seconds");
        check(&["/bin/true"], Some("root"), 1, "must not be root");
        check(&["/bin/true"], Some("--reuid"), 1, "the name of a user");
    }

    #[test]
    fn the_reason_is_the_last_line_that_says_something() {
        assert_eq!(last_line(b"one\ntwo\n\n  \n"), Some("two".to_owned()));
        assert_eq!(last_line(b"\n"), None);
        assert_eq!(last_line(b"a\x1b[31mred"), Some("a [31mred".to_owned()));
        assert_eq!(last_line("ü".repeat(999).as_bytes()).unwrap().chars().count(), REASON);
    }
}
