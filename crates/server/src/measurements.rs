//! What measurements on the wire mean here: times by the server's clock, checked names and values. Pure.

use std::collections::BTreeSet;

use jiff::Timestamp;
use volary_api::v1::metrics::{POINTS_LIMIT, SERIES_LIMIT, Samples};
use volary_model::SeriesName;
use volary_store::{JournalLine, NewSamples};

/// How far the device's clock is ahead of ours, in seconds.
pub(crate) const CLOCK_OFFSET: &str = "clock_offset_seconds";

/// The longest ids.
const ID_LIMIT: usize = 200;

/// The oldest measurements that are taken, in seconds: what is older no rollup would keep.
const OLDEST: u64 = 400 * 86_400;

/// The most lines of the journal in one line of a request, and the most characters of one.
const ERRORS_LIMIT: usize = 1000;
const MESSAGE_LIMIT: usize = 1000;
const UNIT_LIMIT: usize = 200;

/// Measurements as they are kept, or why they never are.
pub(crate) fn accept(samples: Samples, now: Timestamp) -> Result<NewSamples, String> {
    if samples.id.is_empty() || samples.id.len() > ID_LIMIT || samples.boot_id.len() > ID_LIMIT {
        return Err(format!("id has 1 to {ID_LIMIT} characters, boot_id at most {ID_LIMIT}"));
    }
    if samples.series.len() > SERIES_LIMIT || samples.errors.len() > ERRORS_LIMIT {
        return Err(format!("there are at most {SERIES_LIMIT} series and {ERRORS_LIMIT} errors in one line"));
    }
    let times = times(&samples, now)?;
    let mut series = Vec::with_capacity(samples.series.len() + 1);
    let mut names = BTreeSet::from([CLOCK_OFFSET.to_owned()]);
    for (name, values) in samples.series {
        let parsed: SeriesName =
            name.parse().map_err(|error: volary_model::InvalidName| error.to_string())?;
        if parsed.as_str() == CLOCK_OFFSET {
            continue;
        }
        if !names.insert(parsed.as_str().to_owned()) {
            return Err(format!("{parsed} is there twice"));
        }
        series.push((parsed.as_str().to_owned(), column(&name, &values, times.len())?));
    }
    let offset = (samples.at.as_millisecond() - now.as_millisecond()) as f64 / 1000.0;
    let mut column = vec![f64::NAN; times.len()];
    if let Some(last) = column.last_mut() {
        *last = (offset * 10.0).round() / 10.0;
    }
    series.push((CLOCK_OFFSET.to_owned(), column));
    let errors = samples.errors.into_iter().map(|error| JournalLine {
        at: ago(now, error.age.min(OLDEST)),
        priority: error.priority.min(7),
        unit: plain(&error.unit, UNIT_LIMIT),
        message: plain(&error.message, MESSAGE_LIMIT),
    });
    Ok(NewSamples {
        id: samples.id,
        boot_id: samples.boot_id,
        times,
        series,
        errors: errors.collect(),
        errors_left_out: samples.errors_left_out,
    })
}

/// When the points were made, by our clock.
fn times(samples: &Samples, now: Timestamp) -> Result<Vec<i64>, String> {
    let points = samples.points as usize;
    if points > POINTS_LIMIT {
        return Err(format!("points is {points}, and {POINTS_LIMIT} are taken"));
    }
    let span = u64::from(samples.step).saturating_mul(u64::from(samples.points.saturating_sub(1)));
    if samples.step == 0 || samples.age.saturating_add(span) > OLDEST {
        return Err(format!(
            "step must be at least 1, and the first point at most {} days old",
            OLDEST / 86_400
        ));
    }
    if points == 0 {
        if samples.series.is_empty() {
            return Ok(vec![now.as_second()]);
        }
        return Err("there are series, but points is 0".to_owned());
    }
    let newest = ago(now, samples.age).as_second();
    Ok((0..i64::from(samples.points)).rev().map(|back| newest - back * i64::from(samples.step)).collect())
}

/// The values of a series, one for each time.
fn column(name: &str, values: &[Option<f64>], points: usize) -> Result<Vec<f64>, String> {
    if values.len() > points {
        return Err(format!("{name} has {} points, and points is {points}", values.len()));
    }
    if values.iter().flatten().any(|value| !value.is_finite()) {
        return Err(format!("{name} has a value that is no finite number"));
    }
    let lacks = std::iter::repeat_n(f64::NAN, points - values.len());
    Ok(lacks.chain(values.iter().map(|value| value.unwrap_or(f64::NAN))).collect())
}

fn ago(now: Timestamp, seconds: u64) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    now.checked_sub(jiff::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// The beginning of a text without what would move a terminal's cursor.
fn plain(text: &str, limit: usize) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(limit).collect()
}

/// One point for each `step` seconds, at the end of the time that it is about: the mean, of a counter the
/// last.
pub(crate) fn thinned(points: &[(Timestamp, f64)], step: u32, is_counter: bool) -> Vec<(Timestamp, f64)> {
    let step = i64::from(step);
    if step == 0 {
        return points.to_vec();
    }
    // A point that stands at the end of a time is about what was before it.
    let end = |at: Timestamp| (at.as_second() - 1).div_euclid(step) * step + step;
    let same = |a: &(Timestamp, f64), b: &(Timestamp, f64)| end(a.0) == end(b.0);
    let one = |group: &[(Timestamp, f64)]| {
        let at = Timestamp::from_second(end(group[0].0)).unwrap_or(group[0].0);
        let mean = || group.iter().map(|(_, value)| value / group.len() as f64).sum();
        (at, if is_counter { group[group.len() - 1].1 } else { mean() })
    };
    points.chunk_by(same).map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use volary_api::v1::metrics::JournalError;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn now() -> Timestamp {
        Timestamp::from_second(NOW).unwrap()
    }

    fn samples() -> Samples {
        Samples {
            id: "1".into(),
            boot_id: "b".into(),
            at: now() + jiff::SignedDuration::from_millis(90_040),
            age: 7,
            step: 60,
            points: 3,
            series: BTreeMap::from([
                ("load1".into(), vec![Some(0.5), None, Some(0.25)]),
                ("x{b=\"2\",a=\"1\"}".into(), vec![Some(1.0)]),
            ]),
            errors: vec![JournalError {
                age: 9,
                priority: 3,
                unit: "a.service".into(),
                message: "no\x1b[2J".into(),
            }],
            errors_left_out: 4,
        }
    }

    fn bits(values: &[f64]) -> Vec<u64> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn times_are_ours_and_the_offset_is_a_series() {
        let kept = accept(samples(), now()).unwrap();
        assert_eq!(kept.times, [NOW - 127, NOW - 67, NOW - 7]);
        let nan = f64::NAN;
        let expected: [(&str, &[f64]); 3] = [
            ("load1", &[0.5, nan, 0.25]),
            ("x{a=\"1\",b=\"2\"}", &[nan, nan, 1.0]),
            (CLOCK_OFFSET, &[nan, nan, 90.0]),
        ];
        for ((name, values), (expected, wanted)) in kept.series.iter().zip(expected) {
            assert_eq!((name.as_str(), bits(values)), (expected, bits(wanted)));
        }
        assert_eq!(kept.errors[0].at.as_second(), NOW - 9);
        assert_eq!(kept.errors[0].message, "no [2J");
    }

    #[test]
    fn errors_come_without_measurements_too() {
        let kept = accept(Samples { points: 0, series: BTreeMap::new(), ..samples() }, now()).unwrap();
        assert_eq!((kept.times, kept.series.len(), kept.errors.len()), (vec![NOW], 1, 1));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |change: &dyn Fn(&mut Samples), expected: &str| {
            let mut samples = samples();
            change(&mut samples);
            let problem = accept(samples, now()).unwrap_err();
            assert!(problem.contains(expected), "{problem}");
        };
        check(&|samples| samples.id.clear(), "id has 1 to 200");
        check(&|samples| samples.points = 2, "load1 has 3 points, and points is 2");
        check(&|samples| samples.points = 0, "points is 0");
        check(&|samples| samples.points = 1441, "1440 are taken");
        check(&|samples| samples.step = 0, "step must be at least 1");
        check(&|samples| samples.age = u64::MAX, "400 days");
        check(&|samples| drop(samples.series.insert("x y".into(), Vec::new())), "\"x y\" is not valid");
        check(&|samples| drop(samples.series.insert("x{a=\"1\",b=\"2\"}".into(), Vec::new())), "twice");
        check(&|samples| drop(samples.series.insert("y".into(), vec![Some(f64::NAN)])), "no finite number");
        check(&|samples| drop(samples.series.insert("y".into(), vec![Some(f64::INFINITY)])), "no finite");
        let many = (0..501).map(|number| (format!("x{number}"), Vec::new()));
        check(&|samples| samples.series = many.clone().collect(), "at most 500 series");
    }

    #[test]
    fn points_are_thinned() {
        let at = |seconds: i64| Timestamp::from_second(seconds).unwrap();
        let points = [(at(1), 1.0), (at(60), 3.0), (at(61), 5.0), (at(300), 9.0)];
        let check = |step, is_counter, expected: &[(i64, f64)]| {
            let thin = thinned(&points, step, is_counter);
            let thin: Vec<(i64, f64)> = thin.iter().map(|(at, value)| (at.as_second(), *value)).collect();
            assert_eq!(thin, expected);
        };
        check(0, false, &[(1, 1.0), (60, 3.0), (61, 5.0), (300, 9.0)]);
        check(60, false, &[(60, 2.0), (120, 5.0), (300, 9.0)]);
        check(300, true, &[(300, 9.0)]);
    }
}
