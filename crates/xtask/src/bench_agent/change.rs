//! A commit that changes one template: everything that the agent does for it, against the same
//! `ansible-playbook` alone on the same device.

use std::time::Instant;

use anyhow::{Context, ensure};
use volary_model::CommitId;

use super::fleet::{CHANGING, DEVICE, PLACE, write_change};
use super::stand::Stand;
use super::{figure, median};

/// What the agent may need beside Ansible, in seconds of CPU.
const BESIDE: f64 = 0.3;

/// The agent finds this before the real one; it writes down what that cost.
const WRAPPER: &str = "/usr/local/bin/ansible-playbook";

/// Where the wrapper writes, as `times` of bash does.
const TIMES: &str = "/run/bench-times";

/// Measures and writes the figures.
pub fn measure(stand: &Stand<'_>, rounds: usize) -> anyhow::Result<()> {
    let (mut ours, mut theirs, mut beside, mut beyond) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let script =
        format!("#!/bin/bash\n/usr/bin/ansible-playbook \"$@\"\nended=$?\ntimes > {TIMES}\nexit $ended\n");
    stand.device.write(WRAPPER, script.as_bytes(), 0o755)?;
    stand.wait_until_idle()?;
    for turn in 1..=rounds {
        write_change(&stand.fleet, turn)?;
        let (cpu, started) = (stand.device.cpu()?, Instant::now());
        let commit = stand.converge(&format!("change {turn}"))?;
        ours.push((stand.device.cpu()? - cpu).as_secs_f64());
        let wall = started.elapsed().as_secs_f64();
        let times = String::from_utf8(stand.device.read(TIMES)?)?;
        let playbook = of_children(&times).with_context(|| format!("times says {times:?}"))?;
        theirs.push(stand.frozen(|| playbook_alone(stand, &commit))?);
        let (ours, theirs) = (ours[ours.len() - 1], theirs[theirs.len() - 1]);
        beside.push(ours - playbook);
        beyond.push(ours - theirs);
        println!(
            "change {turn}: ours {ours:.3} s of CPU in {wall:.0} s, {playbook:.3} s of it ansible-playbook, which alone \
             takes {theirs:.3} s"
        );
    }
    let (ours, theirs, beside, beyond) = (median(&ours), median(&theirs), median(&beside), median(&beyond));
    figure(
        stand.workspace,
        "agent-change-cpu-beside",
        "CPU of a convergence that changes one template but for its ansible-playbook: the agent, all else that it \
         starts, and what systemd and the journal do for it",
        (beside, "s"),
        BESIDE,
    )?
    .publish(stand.workspace)?;
    figure(
        stand.workspace,
        "agent-change-cpu",
        "CPU of a convergence that changes one template, all that the agent starts included, beyond that of \
         the same ansible-playbook alone: the median of the differences of turns",
        (beyond, "s"),
        BESIDE,
    )?
    .publish(stand.workspace)?;
    figure(
        stand.workspace,
        "agent-change-cpu-whole",
        "the whole of it; the peer is ansible-playbook alone",
        (ours, "s"),
        theirs + BESIDE,
    )?
    .beside((theirs, "s"))
    .publish(stand.workspace)
}

/// The CPU of its children, in seconds, by what `times` of bash prints: two lines of user and system time.
fn of_children(times: &str) -> Option<f64> {
    let seconds = |word: &str| {
        let (minutes, seconds) = word.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    let mut words = times.lines().nth(1)?.split_whitespace();
    Some(seconds(words.next()?)? + seconds(words.next()?)?)
}

/// The playbook of a commit on the same device, by hand, where one template differs.
fn playbook_alone(stand: &Stand<'_>, commit: &CommitId) -> anyhow::Result<f64> {
    let changed = format!("{PLACE}/{CHANGING}");
    let script = format!(
        "rm -rf /root/alone && cp -r /var/lib/volary/checkout/{commit} /root/alone && echo x >> {changed}"
    );
    stand.device.check(&["sh", "-c", &script])?;
    // What the agent gives to Ansible.
    let variables = serde_json::json!({
        "volary_agent": true,
        "volary_stage": "development",
        "volary_suite": "rolling",
        "volary_release": "",
        "volary_archive_url": format!("{}/archive", stand.url()),
        "volary_ca_file": "/etc/volary/ca.pem",
        "volary_commit": commit.as_str(),
    });
    stand.device.write("/root/variables.json", variables.to_string().as_bytes(), 0o600)?;
    let script = format!(
        "cd /root/alone && exec ansible-playbook --inventory inventory.yml --connection local --limit {DEVICE} \
         --extra-vars @/root/variables.json --diff site.yml"
    );
    let (output, cpu) = stand.measure(&["sh", "-c", &script])?;
    let said = output.text();
    let recap =
        said.lines().last().unwrap_or_default().to_owned() + said.lines().rev().nth(1).unwrap_or_default();
    ensure!(recap.contains("changed=1 "), "the playbook alone should have changed one thing: {recap}");
    Ok(cpu)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_bash_are_understood() {
        assert_eq!(of_children("0m0.001s 0m0.002s\n1m6.500s 0m0.250s\n"), Some(66.75));
        assert_eq!(of_children("0m0.001s 0m0.002s\n"), None);
    }
}
