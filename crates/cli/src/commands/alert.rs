//! `volary alert` and `volary feed`: what is wrong in the fleet, and who is told of it.

use std::time::Duration;

use clap::Subcommand;
use volary_api::v1::alert::{
    Alert, AlertChange, AlertDetails, AlertState, Feed, NewSilence, Severity, Silence,
};
use volary_plan::text;

use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago, ago_or_dash, bytes};

/// How many alerts that are over are listed with --all.
const RESOLVED: u32 = 50;

/// What to do with alerts.
#[derive(Subcommand)]
pub enum AlertCommand {
    /// List the alerts that go on
    List {
        /// Also the last 50 that are over
        #[arg(long)]
        all: bool,
    },
    /// Show one alert: its devices, and what became of it
    Show {
        /// The alert
        id: u64,
    },
    /// Tell nobody of some alerts for a while
    Silence {
        /// Conditions that must all hold: stage=canary, device=shop-*, rule=device-silent, check=dns
        #[arg(required = true, value_name = "LABEL=VALUE")]
        matchers: Vec<String>,
        /// For how long: 30m, 2h, 3d
        #[arg(long = "for", value_name = "TIME", value_parser = length)]
        length: Duration,
        /// Why; it stands in the list with your name
        #[arg(long)]
        reason: String,
    },
    /// List the silences
    Silences {
        /// Also those that ended
        #[arg(long)]
        all: bool,
    },
    /// End a silence before its time
    Unsilence {
        /// The silence
        id: u64,
    },
    /// Show what became of alerts, newest first
    History {
        /// How many changes
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
}

/// What to do with feeds.
#[derive(Subcommand)]
pub enum FeedCommand {
    /// List who is told of alerts and measurements, what waits for them, and what fails
    List,
}

/// A time such as `2h`.
fn length(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no time; write 30m, 2h or 3d");
    let unit = text.chars().last().ok_or_else(wrong)?;
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

/// Runs `volary alert …`.
pub fn run(command: AlertCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    match command {
        AlertCommand::List { all } => {
            let resolved = if all { RESOLVED } else { 0 };
            let alerts: Vec<Alert> = client.get(&format!("/api/v1/alerts?resolved={resolved}"))?;
            out.show(&alerts, |alerts| list(alerts, out));
        }
        AlertCommand::Show { id } => {
            let details: AlertDetails = client.get(&format!("/api/v1/alerts/{id}"))?;
            out.show(&details, |details| show(details, out));
        }
        AlertCommand::Silence { matchers, length, reason } => {
            let request = NewSilence { matchers, seconds: length.as_secs(), reason };
            let silence: Silence = client.post("/api/v1/silences", &request)?;
            out.show(&silence, |silence| {
                out.line(format!(
                    "silence {}: {} until {:.0}",
                    silence.id,
                    silence.matchers.join(" "),
                    silence.ends_at
                ));
                out.line(format!("help: end it before with: volary alert unsilence {}", silence.id));
            });
        }
        AlertCommand::Silences { all } => {
            let silences: Vec<Silence> = client.get(&format!("/api/v1/silences?all={all}"))?;
            out.show(&silences, |silences| list_silences(silences, out));
        }
        AlertCommand::Unsilence { id } => {
            client.delete(&format!("/api/v1/silences/{id}"))?;
            out.line(format!("silence {id} has ended"));
        }
        AlertCommand::History { limit } => {
            let changes: Vec<AlertChange> = client.get(&format!("/api/v1/alert-changes?limit={limit}"))?;
            out.show(&changes, |changes| history(changes, out));
        }
    }
    Ok(())
}

/// Runs `volary feed …`.
pub fn feed(command: &FeedCommand, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let FeedCommand::List = command;
    let feeds: Vec<Feed> = connection.client()?.get("/api/v1/feeds")?;
    out.show(&feeds, |feeds| {
        let rows = feeds
            .iter()
            .map(|feed| {
                let waiting = format!("{} ({})", feed.waiting, bytes(feed.bytes));
                let problem = match (&feed.problem, feed.failing_since) {
                    (Some(problem), Some(since)) => format!("fails since {}: {problem}", ago(since)),
                    (Some(problem), None) => problem.clone(),
                    (None, _) => String::new(),
                };
                let lost = feed.dropped + feed.refused;
                vec![
                    feed.name.clone(),
                    ago_or_dash(feed.sent_at),
                    waiting,
                    lost.to_string(),
                    out.tone(Tone::Bad, problem),
                ]
            })
            .collect();
        out.table(&["FEED", "TOLD", "WAITING", "LOST", ""], rows, "no feeds; server.toml turns them on");
    });
    Ok(())
}

fn list(alerts: &[Alert], out: &Out) {
    let rows = alerts
        .iter()
        .map(|alert| {
            let state = match alert.state {
                AlertState::Pending => out.tone(Tone::Dim, "pending"),
                AlertState::Resolved => out.tone(Tone::Dim, "resolved"),
                AlertState::Firing if alert.silenced == alert.devices => out.tone(Tone::Dim, "silenced"),
                AlertState::Firing => match alert.severity {
                    Severity::Critical => out.tone(Tone::Bad, "critical"),
                    Severity::Warning => out.tone(Tone::Warn, "warning"),
                },
            };
            let when = alert.ended_at.or(alert.began_at).unwrap_or(alert.since);
            vec![alert.id.to_string(), state, ago(when), alert.summary.clone()]
        })
        .collect();
    out.table(&["ALERT", "STATE", "SINCE", "WHAT"], rows, "no alerts");
}

fn show(details: &AlertDetails, out: &Out) {
    let alert = &details.alert;
    out.line(out.tone(Tone::Bold, &alert.summary));
    let labels: Vec<String> = alert.labels.iter().map(|(label, value)| format!("{label}={value}")).collect();
    out.line(format!("rule={} {}", alert.rule, labels.join(" ")));
    let began = alert.began_at.unwrap_or(alert.since);
    match alert.ended_at {
        None => out.line(format!("since {}", ago(began))),
        Some(ended) => {
            let lasted = Duration::try_from(ended.duration_since(began)).unwrap_or_default();
            let most = text::count(alert.most, "device");
            out.line(format!("over {}, after {}; at most {most}", ago(ended), text::duration(lasted)));
        }
    }
    out.line("");
    let rows = details
        .devices
        .iter()
        .map(|device| {
            let state = match (device.silenced, device.quiet_since) {
                (true, _) => out.tone(Tone::Dim, "silenced"),
                (false, Some(_)) => out.tone(Tone::Dim, "quiet"),
                (false, None) => String::new(),
            };
            vec![device.device.to_string(), ago(device.since), state, device.summary.clone()]
        })
        .collect();
    out.table(&["DEVICE", "SINCE", "", "WHY"], rows, "no devices");
    out.line("");
    history(&details.changes, out);
}

fn history(changes: &[AlertChange], out: &Out) {
    let rows = changes
        .iter()
        .map(|change| {
            vec![ago(change.at), change.alert.to_string(), change.kind.clone(), change.text.clone()]
        })
        .collect();
    out.table(&["WHEN", "ALERT", "", "WHAT"], rows, "nothing yet");
}

fn list_silences(silences: &[Silence], out: &Out) {
    let rows = silences
        .iter()
        .map(|silence| {
            let end = match &silence.ended_by {
                Some(by) => format!("ended {} by {by}", ago(silence.ends_at)),
                None => format!("{:.0}", silence.ends_at),
            };
            vec![
                silence.id.to_string(),
                silence.matchers.join(" "),
                end,
                silence.author.clone(),
                silence.reason.clone(),
            ]
        })
        .collect();
    out.table(&["SILENCE", "WHAT", "UNTIL", "BY", "WHY"], rows, "no silences");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, seconds) in [("30m", 1_800), ("2h", 7_200), ("3d", 259_200), ("5s", 5)] {
            assert_eq!(length(text), Ok(Duration::from_secs(seconds)));
        }
        for text in ["", "h", "2", "2w", "-1h", "2é", "99999999999999999999d"] {
            assert!(length(text).unwrap_err().contains("write 30m"), "{text}");
        }
    }
}
