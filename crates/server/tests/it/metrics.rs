//! Measurements: what a device sends is there for people, once, after a restart too.

use std::io::Write;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use volary_api::v1::device::ReceivedBatch;
use volary_api::v1::metrics::{DeviceMetrics, JournalLine, SeriesPoints};

use crate::support::{Client, DeviceKey, TestServer};

/// Five points of two series, the last ten seconds ago.
pub fn samples(id: &str) -> Value {
    json!({
        "id": id, "boot_id": "b", "at": Timestamp::now() + SignedDuration::from_secs(3600), "age": 10,
        "step": 60, "points": 5,
        "series": {
            "memory_available_bytes": [4096, 8192, null, 16384, 20480],
            "unit_memory_bytes{unit=\"app.service\"}": [100.5],
            "cpu_seconds_total": [1, 2, 3, 4, 5],
        },
        "errors": [{"age": 30, "priority": 3, "unit": "app.service", "message": "it broke"}],
        "errors_left_out": 2,
    })
}

fn send(device: &Client, lines: &[String]) -> ReceivedBatch {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(lines.join("\n").as_bytes()).unwrap();
    let body = gzip.finish().unwrap();
    device.post_bytes("/device/v1/metrics", &body, &[("content-encoding", "gzip")]).json()
}

fn values(server: &TestServer, device: &str) -> Vec<(String, f64)> {
    let metrics: DeviceMetrics = server.admin().get(&format!("/api/v1/devices/{device}/metrics")).json();
    metrics.values.into_iter().map(|value| (value.series.to_string(), value.value)).collect()
}

fn points(server: &TestServer, path: &str) -> Vec<SeriesPoints> {
    server.admin().get(&format!("/api/v1/devices/dev-1/metrics/{path}")).json()
}

#[test]
fn what_is_sent_is_there_once_and_after_a_restart() {
    let mut server = TestServer::start();
    let key = DeviceKey::new();
    let device = key.join(&server, "dev-1", "development");
    DeviceKey::new().join(&server, "dev-2", "development");
    let bad = json!({"id": "2", "boot_id": "b", "at": "2026-11-27T00:00:00Z", "step": 60, "points": 1,
        "series": {"device_x{device=\"dev-2\"}": [1]}});
    let lines = [samples("1").to_string(), "{\"id\": 7}".to_owned(), bad.to_string()];
    for _ in 0..2 {
        let answer = send(&device, &lines);
        assert_eq!(answer.received, ["1"]);
        let refused: Vec<u32> = answer.refused.iter().map(|refused| refused.line).collect();
        assert_eq!(refused, [2, 3]);
        assert!(answer.refused[1].error.contains("none of them device"), "{}", answer.refused[1].error);
    }
    server.stop();
    server.resume();
    let measured = values(&server, "dev-1");
    assert_eq!(measured[0].0, "clock_offset_seconds");
    assert!((3595.0..3605.0).contains(&measured[0].1), "the clock is an hour ahead: {}", measured[0].1);
    assert_eq!(
        measured[1..],
        [
            ("cpu_seconds_total".to_owned(), 5.0),
            ("memory_available_bytes".to_owned(), 20480.0),
            ("unit_memory_bytes{unit=\"app.service\"}".to_owned(), 100.5),
        ]
    );
    assert_eq!(values(&server, "dev-2"), [], "a device writes its own alone");

    let memory = points(&server, "memory_available_bytes").remove(0);
    let found: Vec<f64> = memory.points.iter().map(|(_, value)| *value).collect();
    assert_eq!(found, [4096.0, 8192.0, 16384.0, 20480.0]);
    let age = Timestamp::now().duration_since(memory.points[3].0).as_secs();
    assert!((10..60).contains(&age), "the server's clock counts, not the device's: {age}");
    assert_eq!(points(&server, "unit_memory_bytes").len(), 1);
    let exact = "unit_memory_bytes%7Bunit%3D%22app.service%22%7D?step=3600";
    assert_eq!(points(&server, exact)[0].points[0].1, 100.5);
    server.admin().get("/api/v1/devices/dev-1/metrics/load1").refused(404, "dev-1 has no load1");
    server.admin().get("/api/v1/devices/dev-3/metrics").refused(404, "no device dev-3");
    server.admin().get("/api/v1/devices/dev-1/metrics/a%20b").refused(400, "as Prometheus has them");
    server.with_role("upload").get("/api/v1/devices/dev-1/metrics").refused(403, "viewer");
    server.anonymous().get("/api/v1/devices/dev-1/metrics").refused(401, "token");

    let errors: Vec<JournalLine> = server.admin().get("/api/v1/devices/dev-1/errors").json();
    assert_eq!(
        (errors.len(), errors[0].unit.as_str(), errors[0].message.as_str()),
        (1, "app.service", "it broke")
    );

    server.admin().delete("/api/v1/devices/dev-1");
    key.join(&server, "dev-1", "development");
    assert_eq!(values(&server, "dev-1"), [], "the next of that name begins anew");
}

#[test]
fn too_much_at_once_is_refused() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    let lines = "{}\n".repeat(1001);
    device.post_bytes("/device/v1/metrics", lines.as_bytes(), &[]).refused(413, "1000 lines");
    let large = vec![b' '; (1 << 20) + 1];
    device.post_bytes("/device/v1/metrics", &large, &[]).refused(413, "larger than");
    let mut samples = samples("1");
    samples["series"]["x"] = json!(["NaN"]);
    let answer = send(&device, &[samples.to_string().replace("\"NaN\"", "1e999")]);
    assert!(answer.received.is_empty() && answer.refused.len() == 1);
    server.anonymous().post("/device/v1/metrics", &json!({})).refused(401, "client certificate");
}
