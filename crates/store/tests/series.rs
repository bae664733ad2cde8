//! The measurements' file: what was taken is there, once, after any end; rollups and limits.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use volary_model::DeviceName;
use volary_store::{Appended, JournalLine, NewBatch, NewSamples, Series, SeriesOptions, StoreError};

/// 2026-11-27 00:00.
const START: i64 = 1_795_737_600;
const DAY: i64 = 86_400;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn name(number: usize) -> DeviceName {
    format!("dev-{number}").parse().unwrap()
}

fn options() -> SeriesOptions {
    SeriesOptions { gather: Duration::ZERO, ..SeriesOptions::default() }
}

async fn open(folder: &Path, how: SeriesOptions) -> Series {
    Series::open(&folder.join("metrics.sqlite"), how).await.unwrap()
}

/// One value of each of some series at a time.
fn samples(id: &str, time: i64, series: &[(&str, f64)]) -> NewSamples {
    NewSamples {
        id: id.into(),
        boot_id: "boot".into(),
        times: vec![time],
        series: series.iter().map(|(name, value)| ((*name).to_owned(), vec![*value])).collect(),
        errors: Vec::new(),
        errors_left_out: 0,
    }
}

fn batch(device: usize, time: i64, samples: Vec<NewSamples>) -> NewBatch {
    NewBatch { device: name(device), received: at(time), samples }
}

async fn range(series: &Series, device: usize, name_of: &str) -> Vec<(i64, f64)> {
    let points = series.range(&name(device), name_of, at(0), at(START + 1000 * DAY)).await.unwrap();
    points.into_iter().map(|(at, value)| (at.as_second(), value)).collect()
}

#[tokio::test]
async fn what_was_taken_is_there_once_after_each_start() {
    let folder = tempfile::tempdir().unwrap();
    let how = SeriesOptions { hold: Duration::from_secs(600), ..options() };
    let mut expected: BTreeMap<(usize, &str), Vec<(i64, f64)>> = BTreeMap::new();
    let mut series = open(folder.path(), how.clone()).await;
    for minute in 0..60 {
        let time = START + 60 * minute;
        for device in 0..3 {
            // Each device has a rhythm of its own, so that some are in blocks and some are not.
            if !(minute as usize).is_multiple_of(device + 1) {
                continue;
            }
            let values = [("memory_bytes", minute as f64 * 4096.0), ("load", 0.25 * device as f64)];
            let sent = batch(device, time, vec![samples(&minute.to_string(), time, &values)]);
            let appended = series.append(sent.clone()).await.unwrap();
            assert_eq!(appended, Appended { new: 1, left_out: 0 });
            for (name, value) in values {
                expected.entry((device, name)).or_default().push((time, value));
            }
            // The answer was lost.
            if minute % 7 == 0 {
                assert_eq!(series.append(sent).await.unwrap().new, 0);
            }
        }
        if minute % 11 == 10 {
            // As a kill leaves it: nobody says that it ends.
            drop(series);
            series = open(folder.path(), how.clone()).await;
        }
        for ((device, name), points) in &expected {
            assert_eq!(range(&series, *device, name).await, *points, "after minute {minute}");
        }
    }
    assert!(series.stats().blocks > 0, "no head became a block");
    let latest = series.latest(&name(0)).unwrap().unwrap();
    assert_eq!(latest.received, at(START + 59 * 60));
    let values: Vec<(&str, f64)> = latest.values.iter().map(|value| (&*value.series, value.value)).collect();
    assert_eq!(values, [("load", 0.0), ("memory_bytes", 59.0 * 4096.0)]);
    let mut seen = Vec::new();
    series.for_each_latest(|device, of| seen.push((device.clone(), of.get("load").unwrap().1)));
    seen.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(seen, [(name(0), 0.0), (name(1), 0.25), (name(2), 0.5)]);
}

#[tokio::test]
async fn requests_share_commits() {
    let folder = tempfile::tempdir().unwrap();
    let how = SeriesOptions { gather: Duration::from_millis(300), ..options() };
    let series = open(folder.path(), how).await;
    let mut tasks = tokio::task::JoinSet::new();
    for device in 0..500 {
        let series = series.clone();
        tasks.spawn(async move {
            series.append(batch(device, START, vec![samples("1", START, &[("x", 1.0)])])).await
        });
    }
    for appended in tasks.join_all().await {
        assert_eq!(appended.unwrap().new, 1);
    }
    let stats = series.stats();
    assert_eq!((stats.devices, stats.requests, stats.points), (500, 500, 500));
    assert!(stats.commits < 50, "{} commits", stats.commits);
}

#[tokio::test]
async fn too_many_at_once_are_refused_and_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let how = SeriesOptions { gather: Duration::from_secs(3600), queue: 3, ..options() };
    let series = open(folder.path(), how).await;
    let send = |id: &str| series.append(batch(1, START, vec![samples(id, START, &[("x", 1.0)])]));
    send("first").await.unwrap();
    let mut waiting = tokio::task::JoinSet::new();
    for number in 0..12 {
        let series = series.clone();
        let sent = batch(1, START, vec![samples(&number.to_string(), START + number, &[("x", 1.0)])]);
        waiting.spawn(async move { series.append(sent).await });
    }
    let refused = loop {
        tokio::task::yield_now().await;
        if series.stats().refused > 0 {
            break waiting.join_next().await.unwrap().unwrap();
        }
    };
    assert!(refused.unwrap_err().to_string().contains("send them again later"));
}

/// Sends a value each minute of some hours, and sees to the upkeep as the server does.
async fn feed(series: &Series, from: i64, hours: i64, value: impl Fn(i64) -> f64) {
    // A flush to the disk each, so not too many.
    for start in (from..from + hours * 3600).step_by(10_800) {
        let times: Vec<i64> = (0..180).map(|minute| start + minute * 60).collect();
        let gauge = times.iter().map(|time| value(*time)).collect();
        let counter = times.iter().map(|time| (time - START) as f64).collect();
        let sent = NewSamples {
            id: start.to_string(),
            boot_id: "boot".into(),
            series: vec![("gauge".into(), gauge), ("busy_seconds_total".into(), counter)],
            times,
            errors: Vec::new(),
            errors_left_out: 0,
        };
        series.append(batch(1, start + 10_800, vec![sent])).await.unwrap();
        series.upkeep(at(start + 10_800)).await.unwrap();
    }
}

#[tokio::test]
async fn days_become_coarser_and_go() {
    let folder = tempfile::tempdir().unwrap();
    let how = SeriesOptions {
        raw: Duration::from_secs(DAY as u64),
        five_minutes: Duration::from_secs(3 * DAY as u64),
        hour: Duration::from_secs(40 * DAY as u64),
        ..options()
    };
    let series = open(folder.path(), how).await;
    feed(&series, START, 6 * 24, |time| (time - START) as f64 / 3600.0).await;
    let end = START + 6 * DAY;
    let points = range(&series, 1, "busy_seconds_total").await;
    assert!(points.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "time and counter rise over all levels");
    let steps = |points: &[(i64, f64)], from: i64, to: i64| -> Vec<i64> {
        let within = points.windows(2).filter(|pair| pair[0].0 >= from && pair[1].0 <= to);
        let mut steps: Vec<i64> = within.map(|pair| pair[1].0 - pair[0].0).collect();
        steps.sort_unstable();
        steps.dedup();
        steps
    };
    assert_eq!(steps(&points, START, START + 2 * DAY), [3600]);
    assert_eq!(steps(&points, START + 4 * DAY, START + 5 * DAY - 3600), [300]);
    assert_eq!(steps(&points, end - DAY + 3600, end), [60]);
    for (time, value) in &points {
        let lag = (time - START) as f64 - value;
        assert!((0.0..=60.0).contains(&lag), "at {time} the counter is {value}");
    }
    let gauge = range(&series, 1, "gauge").await;
    for (time, value) in &gauge {
        let now = (time - START) as f64 / 3600.0;
        assert!((now - 0.51..=now).contains(value), "at {time} the gauge is {value}");
    }
    let coarse = series.ranges(&name(1), |name| name == "gauge", at(0), at(end), 3600).await.unwrap();
    let coarse: Vec<(i64, f64)> =
        coarse["gauge"].iter().map(|(at, value)| (at.as_second(), *value)).collect();
    assert_eq!(steps(&coarse, START, START + 5 * DAY), [3600]);
    assert!(coarse.len() < gauge.len() && coarse.last() == gauge.last());

    // It is silent from then on, and everything goes when its time comes.
    for day in 0..45 {
        series.upkeep(at(end + day * DAY)).await.unwrap();
    }
    assert_eq!(range(&series, 1, "gauge").await, []);
    assert_eq!(series.series_of(&name(1)).unwrap().len(), 2, "its newest values stay");
}

#[tokio::test]
async fn what_comes_days_late_is_rolled_up_too() {
    let folder = tempfile::tempdir().unwrap();
    let series = open(folder.path(), options()).await;
    feed(&series, START, 24, |_| 1.0).await;
    feed(&series, START + 6 * DAY, 24, |_| 3.0).await;
    // What it kept while it was away.
    let late: Vec<NewSamples> = (0..24)
        .map(|hour| samples(&format!("late-{hour}"), START + 2 * DAY + hour * 3600, &[("gauge", 2.0)]))
        .collect();
    let now = START + 7 * DAY;
    series.append(batch(1, now, late)).await.unwrap();
    for hour in 0..60 {
        series.upkeep(at(now + hour * 3600)).await.unwrap();
    }
    let points = range(&series, 1, "gauge").await;
    let of = |day: i64| points.iter().filter(|(time, _)| (time - 1 - START) / DAY == day).count();
    assert_eq!((of(0), of(1), of(2)), (288, 0, 24));
    assert!(points.iter().filter(|(time, _)| (time - 1 - START) / DAY == 2).all(|(_, value)| *value == 2.0));
}

#[tokio::test]
async fn boots_are_marked() {
    let folder = tempfile::tempdir().unwrap();
    let series = open(folder.path(), SeriesOptions { hold: Duration::from_secs(120), ..options() }).await;
    for minute in 0..20 {
        let time = START + 60 * minute;
        let mut sent = samples(&minute.to_string(), time, &[("x_total", (minute % 8) as f64)]);
        sent.boot_id = format!("boot-{}", minute / 8);
        series.append(batch(1, time, vec![sent])).await.unwrap();
    }
    let boots = series.boots(&name(1), at(START), at(START + DAY)).await.unwrap();
    assert_eq!(boots, [at(START + 8 * 60), at(START + 16 * 60)]);
}

#[tokio::test]
async fn a_device_has_so_many_series_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let how = SeriesOptions { series: 3, names: 4, ..options() };
    let series = open(folder.path(), how).await;
    let send = async |device, id: &str, names: &[(&str, f64)]| {
        series.append(batch(device, START, vec![samples(id, START, names)])).await.unwrap().left_out
    };
    assert_eq!(send(1, "1", &[("a", 1.0), ("b", 1.0)]).await, 0);
    assert_eq!(send(1, "2", &[("a", 2.0), ("c", 2.0), ("d", 2.0)]).await, 1);
    assert_eq!(send(2, "1", &[("a", 1.0), ("e", 1.0), ("f", 1.0)]).await, 1, "all together have four names");
    assert_eq!(series.latest(&name(1)).unwrap().unwrap().left_out, 1);
    let names: Vec<String> =
        series.series_of(&name(1)).unwrap().iter().map(|name| name.to_string()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(series.stats().left_out, 2);
}

#[tokio::test]
async fn the_newest_lines_of_the_journal_stay() {
    let folder = tempfile::tempdir().unwrap();
    let series = open(folder.path(), SeriesOptions { errors: 5, ..options() }).await;
    for minute in 0..4 {
        let mut sent = samples(&minute.to_string(), START + minute, &[]);
        sent.errors = (0..3)
            .map(|number| JournalLine {
                at: at(START + 10 * minute + number),
                priority: 3,
                unit: "app.service".into(),
                message: format!("{minute}.{number}"),
            })
            .collect();
        sent.errors_left_out = 2;
        series.append(batch(1, START, vec![sent])).await.unwrap();
    }
    let lines = series.errors(&name(1), 10).await.unwrap();
    let messages: Vec<&str> = lines.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(messages, ["3.2", "3.1", "3.0", "2.2", "2.1"]);
    assert_eq!(series.latest(&name(1)).unwrap().unwrap().errors_left_out, 8);
}

#[tokio::test]
async fn a_device_that_is_forgotten_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let series = open(folder.path(), options()).await;
    feed(&series, START, 3, |_| 1.0).await;
    series.forget(&name(1)).await.unwrap();
    assert!(series.latest(&name(1)).unwrap().is_none() && range(&series, 1, "gauge").await.is_empty());
    drop(series);
    let series = open(folder.path(), options()).await;
    assert!(series.latest(&name(1)).unwrap().is_none(), "it came back from the log");
    series.append(batch(1, START, vec![samples("1", START, &[("gauge", 9.0)])])).await.unwrap();
    drop(series);
    let series = open(folder.path(), options()).await;
    assert_eq!(range(&series, 1, "gauge").await, [(START, 9.0)]);
}

#[tokio::test]
async fn what_comes_while_history_is_read_is_there_once() {
    let folder = tempfile::tempdir().unwrap();
    let how = SeriesOptions { hold: Duration::from_secs(60), patience: Duration::ZERO, ..options() };
    let sent = |device: usize, minute: i64| {
        let time = START + minute;
        batch(device, time, vec![samples(&minute.to_string(), time, &[("x", minute as f64)])])
    };
    let series = open(folder.path(), SeriesOptions { hold: Duration::from_secs(86_400), ..options() }).await;
    for minute in 0..100 {
        series.append(sent(1, minute)).await.unwrap();
        series.append(sent(2, minute)).await.unwrap();
    }
    drop(series);
    // It is killed at any time of the reading, and reads again.
    for minute in 100..130 {
        let series = open(folder.path(), how.clone()).await;
        // Nothing else runs before this one waits.
        assert!(series.is_reading());
        let asked = series.range(&name(1), "x", at(0), at(START + DAY)).await;
        assert!(matches!(asked, Err(StoreError::Reading)), "{asked:?}");
        assert!(matches!(series.latest(&name(1)), Err(StoreError::Reading)));
        series.for_each_latest(|_, _| panic!("these would be old"));
        // What was acknowledged is known, and blocks are not made of a part.
        assert_eq!(series.append(sent(1, minute)).await.unwrap().new, 1);
        assert_eq!(series.append(sent(1, minute - 1)).await.unwrap().new, 0);
        series.upkeep(at(START + minute)).await.unwrap();
        for _ in 100..minute {
            tokio::task::yield_now().await;
        }
    }
    let series = open(folder.path(), how.clone()).await;
    series.forget(&name(2)).await.unwrap();
    series.append(sent(2, 500)).await.unwrap();
    series.history().await.unwrap();
    assert!(!series.is_reading());
    let expected: Vec<(i64, f64)> = (0..130).map(|minute| (START + minute, minute as f64)).collect();
    assert_eq!(range(&series, 1, "x").await, expected);
    assert_eq!(range(&series, 2, "x").await, [(START + 500, 500.0)], "it was forgotten");
    series.upkeep(at(START + 1000)).await.unwrap();
    assert!(series.stats().blocks >= 2);
    assert_eq!(range(&series, 1, "x").await, expected);
    series.close().await;
    let series = open(folder.path(), options()).await;
    assert_eq!(range(&series, 1, "x").await, expected);
}

#[tokio::test]
async fn history_that_is_damaged_is_told_and_nothing_is_taken_on_top() {
    let folder = tempfile::tempdir().unwrap();
    let series = open(folder.path(), options()).await;
    series.append(batch(1, START, vec![samples("1", START, &[("x", 1.0)])])).await.unwrap();
    series.close().await;
    let file = folder.path().join("metrics.sqlite");
    let db = sqlx::SqlitePool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    sqlx::query("UPDATE log SET body = x'ff00'").execute(&db).await.unwrap();
    db.close().await;
    let error = Series::open(&file, options()).await.unwrap_err();
    assert!(error.to_string().contains("row of the log"), "{error}");
    let series = open(folder.path(), SeriesOptions { patience: Duration::ZERO, ..options() }).await;
    assert!(matches!(series.history().await, Err(StoreError::Unread(_))));
    assert!(series.append(batch(1, START, Vec::new())).await.is_err());
    assert!(series.latest(&name(1)).is_err());
    series.close().await;
}

#[tokio::test]
async fn a_file_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("metrics.sqlite")).unwrap();
    let error = Series::open(&folder.path().join("metrics.sqlite"), options()).await.unwrap_err();
    assert!(matches!(error, StoreError::Open { .. }), "{error}");
}

#[tokio::test]
async fn after_the_end_nothing_is_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let series = open(folder.path(), options()).await;
    series.close().await;
    assert!(series.append(batch(1, START, Vec::new())).await.is_err());
    assert!(series.upkeep(at(START)).await.is_err());
}

#[tokio::test]
async fn who_follows_the_log_gets_everything_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let how = SeriesOptions { hold: Duration::from_secs(60), ..options() };
    let mut series = open(folder.path(), how.clone()).await;
    series.hold("reader", 0);
    let (mut place, mut found) = (0, Vec::new());
    for minute in 0..30 {
        let time = START + 60 * minute;
        series
            .append(batch(1, time, vec![samples(&minute.to_string(), time, &[("x", minute as f64)])]))
            .await
            .unwrap();
        if minute == 15 {
            series.close().await;
            series = open(folder.path(), how.clone()).await;
            series.hold("reader", place);
        }
        // It reads rarely, while blocks are made.
        if minute % 10 == 9 {
            let tail = series.tail(place, 1000).await.unwrap();
            for request in tail.requests {
                assert_eq!(request.device, name(1));
                found.extend(request.series.into_iter().flat_map(|(_, points)| points));
            }
            place = tail.last;
            series.hold("reader", place);
        }
    }
    let expected: Vec<(i64, f64)> = (0..30).map(|minute| (START + 60 * minute, minute as f64)).collect();
    assert_eq!(found, expected);
    assert_eq!(place, series.tail_end());
    series.upkeep(at(START + DAY)).await.unwrap();
    assert!(series.tail(0, 1000).await.unwrap().requests.len() <= 1, "what nobody needs goes");
}
