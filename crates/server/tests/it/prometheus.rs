//! What Prometheus gets: the page that it scrapes, and what is sent to it. The test with the real program
//! is run by `make test-slow`, which installs it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};

use serde_json::{Value, json};
use volary_api::v1::device::{Enrolled, ReceivedBatch};
use volary_host::Cmd;

use crate::support::{Client, DeviceKey, TestServer, wait_for, write};

/// One point of three series.
fn samples(id: u32, value: f64) -> Value {
    json!({
        "id": format!("{id:06}"), "boot_id": "b", "at": "2026-11-27T00:00:00Z", "age": 0, "step": 1, "points": 1,
        "series": {"load1": [value], "unit_memory_bytes{unit=\"a \\\"b\\\".service\"}": [value * 4096.0],
            "cpu_seconds_total": [value + 0.25]},
    })
}

fn send(device: &Client, samples: &Value) {
    let answer: ReceivedBatch = device.post("/device/v1/metrics", samples).json();
    assert_eq!(answer.received.len(), 1, "{:?}", answer.refused);
}

/// All send at once: each waits until what it sent is on the disk.
fn send_all(devices: &[Client], samples: impl Fn(u32) -> Value + Sync) {
    let part = devices.len().div_ceil(SENDERS);
    std::thread::scope(|scope| {
        for (devices, first) in devices.chunks(part).zip((0..).step_by(part)) {
            let samples = &samples;
            scope.spawn(move || {
                devices.iter().zip(first..).for_each(|(device, number)| send(device, &samples(number)));
            });
        }
    });
}

#[test]
fn the_page_has_the_server_and_its_devices() {
    let server = TestServer::start();
    let device = DeviceKey::new().join(&server, "dev-1", "development");
    DeviceKey::new().join(&server, "dev-2", "development");
    send(&device, &samples(1, 0.5));
    let viewer = server.with_role("viewer");
    let page = wait_for("the devices were judged", || {
        let page = viewer.get("/metrics").text();
        page.contains("device=\"dev-2\"").then_some(page)
    });
    for line in [
        "# TYPE volary_device_cpu_seconds_total counter",
        "volary_device_cpu_seconds_total{device=\"dev-1\",stage=\"development\"} 0.75",
        "volary_device_unit_memory_bytes{device=\"dev-1\",stage=\"development\",unit=\"a \\\"b\\\".service\"} 2048",
        "volary_device_good{device=\"dev-2\",stage=\"development\"} 0",
        "volary_devices{stage=\"development\",condition=\"new\"} 2",
        "volary_metrics_requests_total 1",
    ] {
        assert!(page.lines().any(|found| found == line), "no {line} in\n{page}");
    }
    assert!(
        page.contains("volary_device_last_seen_timestamp_seconds{device=\"dev-1\",stage=\"development\"} 1")
    );
    assert!(page.lines().any(|line| line.starts_with("process_resident_memory_bytes ")));

    let parts: Vec<String> =
        (1..=3).map(|part| viewer.get(&format!("/metrics?shard={part}/3")).text()).collect();
    let count = |text: &str| text.matches("volary_device_good{").count();
    assert_eq!(parts.iter().map(|part| count(part)).sum::<usize>(), 2);
    assert_eq!(parts.iter().filter(|part| part.contains("volary_build_info")).count(), 1);
    viewer.get("/metrics?shard=4/3").refused(400, "shard=1/4");
    let packed = viewer.get_with("/metrics", &[("accept-encoding", "gzip")]);
    assert_eq!(&packed.body[..2], [0x1f, 0x8b]);
    let targets: Value = viewer.get("/prometheus/sd").json();
    assert_eq!(targets[0]["labels"]["__param_shard"], "1/1");
    assert!(server.url.ends_with(targets[0]["targets"][0].as_str().unwrap()));
    server.anonymous().get("/metrics").refused(401, "token");
    server.anonymous().get("/prometheus/sd").refused(401, "token");
}

/// How many devices the real one is told of.
const DEVICES: u32 = 1000;

/// Of how many of them at once.
const SENDERS: usize = 64;

/// A real Prometheus on this machine.
struct Prometheus {
    child: Child,
    port: u16,
}

impl Prometheus {
    fn start(folder: &Path, port: u16) -> Self {
        let mut command = Cmd::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .args(["--web.enable-remote-write-receiver", "--log.level=warn"])
            .into_std();
        let child =
            command.stdin(Stdio::null()).spawn().expect("prometheus is installed by scripts/setup machine");
        let prometheus = Self { child, port };
        wait_for("Prometheus answers", || {
            ureq::get(format!("http://127.0.0.1:{port}/-/ready")).call().is_ok().then_some(())
        });
        prometheus
    }

    /// What a query finds: the device with the value, of series with or without a job.
    fn find(&self, query: &str) -> BTreeMap<String, String> {
        let url = format!("http://127.0.0.1:{}/api/v1/query", self.port);
        let text = ureq::get(url).query("query", query).call().unwrap().body_mut().read_to_string().unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        let found = answer["data"]["result"].as_array().unwrap().iter();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        found.map(|one| (text(&one["metric"]["device"]), text(&one["value"][1]))).collect()
    }
}

impl Drop for Prometheus {
    /// As a power cut would, as far as a program sees.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
#[ignore = "it needs Prometheus; make test-slow installs and runs it"]
fn a_real_prometheus_knows_what_we_know() {
    let mut server = TestServer::made();
    let port = free_port();
    let config = server.made.dir.join("server.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let feed = format!("[feeds.prometheus.main]\nurl = \"http://127.0.0.1:{port}/api/v1/write\"\n");
    write(&config, format!("{text}\n{feed}"));
    server.resume();
    let names: Vec<String> = (0..DEVICES).map(|number| format!("dev-{number}")).collect();
    let secret = server.join_secret("development", DEVICES);
    let join = |key: &DeviceKey, name: &str, secret: Option<&str>, server: &TestServer| {
        let enrolled: Enrolled = key.enroll(server, name, secret).json();
        let Enrolled::Accepted { certificate, .. } = enrolled else { panic!("{enrolled:?}") };
        key.client(server, &certificate)
    };
    let keys: Vec<DeviceKey> = names.iter().map(|_| DeviceKey::new()).collect();
    let devices: Vec<Client> =
        keys.iter().zip(&names).map(|(key, name)| join(key, name, Some(&secret), &server)).collect();
    let viewer = server.with_role("viewer");
    wait_for("the devices were judged", || {
        let page = viewer.get("/metrics").text();
        let judged = page.matches("volary_device_good{").count();
        (judged == DEVICES as usize).then_some(())
    });

    let folder = server.scratch().join("prometheus");
    std::fs::create_dir(&folder).unwrap();
    // Nothing is said twice by an anchor: Prometheus does not copy secrets.
    let who = format!(
        "tls_config: {{ca_file: {}}}, authorization: {{type: Bearer, credentials: {}}}",
        server.ca().display(),
        server.admin_token()
    );
    let job = format!(
        "global: {{scrape_interval: 1s}}\nscrape_configs:\n- {{job_name: volary, scheme: https, {who},\n   \
         metric_relabel_configs: [{{action: labeldrop, regex: shard}}],\n   \
         http_sd_configs: [{{url: '{}/prometheus/sd', refresh_interval: 1s, {who}}}]}}\n",
        server.url
    );
    write(folder.join("prometheus.yml"), job);
    let prometheus = Prometheus::start(&folder, port);

    let expected = |base: f64| -> BTreeMap<String, String> {
        names.iter().zip(0..).map(|(name, n)| (name.clone(), (base + f64::from(n)).to_string())).collect()
    };
    send_all(&devices, |number| samples(1, 1.5 + f64::from(number)));
    for job in ["job=\"volary\"", "job=\"\""] {
        wait_for(&format!("{job} has what was measured"), || {
            (prometheus.find(&format!("volary_device_load1{{{job}}}")) == expected(1.5)).then_some(())
        });
    }
    let unit =
        "volary_device_unit_memory_bytes{unit=\"a \\\"b\\\".service\",stage=\"development\",job=\"\"} / 4096";
    assert_eq!(prometheus.find(unit), expected(1.5));
    assert_eq!(prometheus.find("volary_device_cpu_seconds_total{job=\"\"} - 0.25"), expected(1.5));

    // It dies; devices go on, the server is started anew, and nothing is lost.
    drop(prometheus);
    for second in 0..4 {
        // Prometheus takes one value for a series and a second.
        let now = volary_host::now().as_second();
        wait_for("the next second", || (volary_host::now().as_second() > now).then_some(()));
        send_all(&devices, |number| samples(2 + second, f64::from(second) * 10.0 + f64::from(number)));
    }
    server.stop();
    server.resume();
    let prometheus = Prometheus::start(&folder, port);
    wait_for("everything has arrived", || {
        let count = prometheus.find("count_over_time(volary_device_load1{job=\"\"}[1h])");
        (count.len() == names.len() && count.values().all(|count| count == "5")).then_some(())
    });
    assert_eq!(prometheus.find("last_over_time(volary_device_load1{job=\"\"}[1h])"), expected(30.0));
    let sums: BTreeMap<String, String> = names
        .iter()
        .zip(0..)
        .map(|(name, n)| (name.clone(), (61.5 + 5.0 * f64::from(n)).to_string()))
        .collect();
    assert_eq!(prometheus.find("sum_over_time(volary_device_load1{job=\"\"}[1h])"), sums);

    // A point from before the last does not keep out what comes after. The server has another port now.
    let device = join(&keys[1], "dev-1", None, &server);
    let mut late = samples(8, 7.0);
    late["age"] = json!(120);
    send(&device, &late);
    let mut newest = samples(9, 77.0);
    newest["series"]["fresh"] = json!([1]);
    send(&device, &newest);
    wait_for("the newest value", || {
        (prometheus.find("last_over_time(volary_device_load1{job=\"\",device=\"dev-1\"}[1h])")["dev-1"]
            == "77")
            .then_some(())
    });
    assert_eq!(prometheus.find("volary_device_fresh{job=\"\"}")["dev-1"], "1");
}
