//! `volary metrics`: what a device measures.

use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use volary_api::v1::metrics::{DeviceMetrics, JournalLine, SeriesPoints};
use volary_model::{DeviceName, SeriesName};

use super::encode;
use crate::config::Connection;
use crate::failure::Failure;
use crate::out::{Out, Tone, ago, bytes};

/// How many letters wide a curve is.
const WIDTH: usize = 60;

/// How many lines of the journal are shown.
const ERRORS: u32 = 20;

/// The heights of a curve.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Which measurements to show.
#[derive(Args)]
pub struct MetricsArgs {
    /// The device
    device: DeviceName,
    /// The series; without its labels all that have this name. Without a series: the newest value of each
    series: Option<SeriesName>,
    /// How far back: 90m, 24h, 14d
    #[arg(long, default_value = "24h", value_name = "TIME", value_parser = since)]
    since: Duration,
    /// Show the newest errors in the device's journal instead
    #[arg(long, conflicts_with = "series")]
    errors: bool,
}

fn since(text: &str) -> Result<Duration, String> {
    let wrong = || "write a number and m, h or d: 90m, 24h, 14d".to_owned();
    let unit = text.chars().last().ok_or_else(wrong)?;
    let seconds = match unit {
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(wrong()),
    };
    let count: u64 = text[..text.len() - unit.len_utf8()].parse().map_err(|_| wrong())?;
    let whole = count.checked_mul(seconds).filter(|whole| (60..=400 * 86_400).contains(whole));
    whole.map(Duration::from_secs).ok_or_else(|| "it must be 1m to 400d".to_owned())
}

/// Runs `volary metrics`.
pub fn run(args: &MetricsArgs, connection: &Connection, out: &Out) -> Result<(), Failure> {
    let client = connection.client()?;
    let path = format!("/api/v1/devices/{}", encode(args.device.as_str()));
    match &args.series {
        _ if args.errors => {
            let lines: Vec<JournalLine> = client.get(&format!("{path}/errors?limit={ERRORS}"))?;
            out.show(&lines, |lines| errors(lines, out));
        }
        None => {
            let metrics: DeviceMetrics = client.get(&format!("{path}/metrics"))?;
            out.show(&metrics, |metrics| latest(metrics, out));
        }
        Some(series) => {
            let to = volary_host::now();
            let from = to - SignedDuration::try_from(args.since).unwrap_or(SignedDuration::MAX);
            // Two points for each letter, and no finer than a minute.
            let step = (args.since.as_secs() / (2 * WIDTH as u64)).max(60);
            let query =
                format!("from={}&to={}&step={step}", encode(&from.to_string()), encode(&to.to_string()));
            let found: Vec<SeriesPoints> =
                client.get(&format!("{path}/metrics/{}?{query}", encode(series.as_str())))?;
            out.show(&found, |found| curves(found, (from, to), out));
        }
    }
    Ok(())
}

fn latest(metrics: &DeviceMetrics, out: &Out) {
    let rows = metrics.values.iter().map(|value| {
        let old = volary_host::now().duration_since(value.at) > SignedDuration::from_mins(15);
        let age = ago(value.at);
        let age = if old { out.tone(Tone::Dim, age) } else { age };
        vec![value.series.to_string(), text(&value.series, value.value), age]
    });
    out.table(&["SERIES", "VALUE", "MEASURED"], rows.collect(), "it has measured nothing yet");
    if metrics.points_left_out > 0 {
        out.line("");
        out.line(format!("{} points were left out: it has too many series", metrics.points_left_out));
        out.line("help: raise metrics.series_per_device in server.toml, or measure less");
    }
}

fn errors(lines: &[JournalLine], out: &Out) {
    let rows = lines.iter().map(|line| {
        let priority = ["emergency", "alert", "critical", "error"].get(usize::from(line.priority));
        vec![
            ago(line.at),
            priority.map_or_else(|| line.priority.to_string(), |word| (*word).to_owned()),
            line.unit.clone(),
            line.message.clone(),
        ]
    });
    out.table(&["WHEN", "PRIORITY", "UNIT", "MESSAGE"], rows.collect(), "no errors in its journal");
}

fn curves(found: &[SeriesPoints], span: (Timestamp, Timestamp), out: &Out) {
    for (number, series) in found.iter().enumerate() {
        if number > 0 {
            out.line("");
        }
        let is_counter = series.series.is_counter();
        let points = if is_counter { rates(&series.points, &series.boots) } else { series.points.clone() };
        let unit = if is_counter { " a second" } else { "" };
        out.line(out.tone(Tone::Bold, series.series.as_str()));
        out.line(curve(&points, span));
        let of =
            |value: Option<f64>| value.map_or_else(|| "–".to_owned(), |value| text(&series.series, value));
        let values = || points.iter().map(|(_, value)| *value);
        let least = values().min_by(f64::total_cmp);
        let most = values().max_by(f64::total_cmp);
        out.line(format!("least {}, most {}, last {}{unit}", of(least), of(most), of(values().next_back())));
        if is_counter && !series.boots.is_empty() {
            let times = volary_plan::text::count(series.boots.len(), "time");
            out.line(format!("booted {times}, last {}", ago(series.boots[series.boots.len() - 1])));
        }
    }
}

/// How fast a counter rose between two points; across a boot nobody knows.
fn rates(points: &[(Timestamp, f64)], boots: &[Timestamp]) -> Vec<(Timestamp, f64)> {
    let pairs = points.windows(2).filter_map(|pair| {
        let [(before, low), (after, high)] = pair else { return None };
        let booted = boots.iter().any(|boot| before < boot && boot <= after);
        let seconds = after.duration_since(*before).as_secs_f64();
        (!booted && high >= low && seconds > 0.0).then(|| (*after, (high - low) / seconds))
    });
    pairs.collect()
}

/// The points as a line of bars from the least to the most, a gap where there are none.
fn curve(points: &[(Timestamp, f64)], (from, to): (Timestamp, Timestamp)) -> String {
    let whole = to.duration_since(from).as_secs_f64().max(1.0);
    let mut columns: Vec<Vec<f64>> = vec![Vec::new(); WIDTH];
    for (at, value) in points {
        let place = at.duration_since(from).as_secs_f64() / whole * WIDTH as f64;
        columns[(place.max(0.0) as usize).min(WIDTH - 1)].push(*value);
    }
    let mean = |values: &Vec<f64>| {
        let count = values.len() as f64;
        (!values.is_empty()).then(|| values.iter().map(|value| value / count).sum::<f64>())
    };
    let means: Vec<Option<f64>> = columns.iter().map(mean).collect();
    let present = || means.iter().flatten().copied();
    let least = present().fold(f64::INFINITY, f64::min);
    let most = present().fold(f64::NEG_INFINITY, f64::max);
    let bar = |mean: &Option<f64>| match mean {
        None => ' ',
        Some(_) if most <= least => BARS[0],
        Some(mean) => BARS[((mean - least) / (most - least) * 7.0).round() as usize % 8],
    };
    means.iter().map(bar).collect::<String>().trim_end().to_owned()
}

/// A value as people read it, by the unit in the name.
fn text(series: &SeriesName, value: f64) -> String {
    let base = series.base().trim_end_matches("_total");
    if base.ends_with("_bytes") && value >= 0.0 {
        return bytes(value as u64);
    }
    if base.ends_with("_ratio") {
        return format!("{:.1} %", value * 100.0);
    }
    let unit = match base {
        _ if base.ends_with("_seconds") => " s",
        _ if base.ends_with("_celsius") => " °C",
        _ => "",
    };
    let digits = if value == value.trunc() { 0 } else { 3 };
    format!("{value:.digits$}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn times_are_read() {
        assert_eq!(since("90m"), Ok(Duration::from_secs(5400)));
        assert_eq!(since("14d"), Ok(Duration::from_secs(14 * 86_400)));
        for wrong in ["", "h", "5", "5s", "0m", "-1h", "401d", "99999999999999999999d", "5é"] {
            assert!(since(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_curve_has_gaps_and_heights() {
        let points: Vec<_> = (0..60).filter(|n| *n != 30).map(|n| (at(n * 10 + 5), n as f64)).collect();
        let curve = curve(&points, (at(0), at(600)));
        assert_eq!(curve.chars().count(), WIDTH);
        assert!(
            curve.starts_with('▁') && curve.ends_with('█') && curve.chars().nth(30) == Some(' '),
            "{curve}"
        );
        assert_eq!(super::curve(&[], (at(0), at(600))), "");
        assert_eq!(super::curve(&[(at(1), 5.0)], (at(0), at(600))), "▁");
    }

    #[test]
    fn rates_stop_at_boots() {
        let points = [(at(0), 0.0), (at(60), 60.0), (at(120), 30.0), (at(180), 90.0), (at(240), 100.0)];
        assert_eq!(rates(&points, &[at(230)]), [(at(60), 1.0), (at(180), 1.0)]);
    }

    #[test]
    fn units_are_in_the_name() {
        let check = |name: &str, value: f64, expected: &str| {
            assert_eq!(text(&name.parse().unwrap(), value), expected);
        };
        check("memory_available_bytes", 2_500_000.0, "2.5 MB");
        check("memory_pressure_ratio", 0.125, "12.5 %");
        check("temperature_celsius{zone=\"cpu\"}", 45.5, "45.500 °C");
        check("uptime_seconds", 60.0, "60 s");
        check("unit_failed{unit=\"x\"}", 1.0, "1");
    }
}
