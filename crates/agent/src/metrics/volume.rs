//! What a day of measurements costs a link: batches of a machine that works, packed as they are sent.
//! `docs/metrics.md` has the figures; this prints them: `cargo test -p volary-agent volume -- --nocapture`.

use std::collections::BTreeMap;

use super::store::Store;
use super::tests::{QUESTIONS, moment, plan, put};
use super::{Looker, Meter, Reading};
use crate::http::gzip;

/// What a request and its answer have beside the body, on a kept connection: headers of HTTP, the answer's
/// body, records of TLS. An estimate, not a measurement.
const AROUND: usize = 450;

/// How much of a day is simulated: the rest is the same.
const HOURS: u64 = 4;

/// Numbers that look like those of a machine and are the same each time (xorshift).
struct Noise(u64);

impl Noise {
    fn up_to(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % (most + 1)
    }
}

/// A gateway with two links, an eMMC, a boot partition and ten units.
fn machine() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in [
        ("proc/uptime", "1.0 1.0\n"),
        ("proc/stat", "cpu  1 0 1 0 0 0 0 0\n"),
        ("proc/loadavg", "0.10 0.10 0.05 1/90 1\n"),
        ("proc/meminfo", "MemTotal: 497848 kB\nMemAvailable: 210000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n"),
        ("proc/pressure/memory", "some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"),
        ("proc/vmstat", "oom_kill 0\n"),
        ("proc/net/dev", "eth0: 1 9 0 0 0 0 0 0 1 9\nwwan0: 1 9 0 0 0 0 0 0 1 9\n"),
        ("proc/diskstats", "179 0 mmcblk0 1 2 3 4 5 6 7 8\n"),
        ("sys/class/thermal/thermal_zone0/temp", "47000\n"),
        (
            "proc/self/mountinfo",
            "1 0 179:2 / / rw - ext4 /dev/root rw\n3 1 179:1 / /boot rw - vfat /dev/x rw\n",
        ),
        ("boot/x", ""),
        ("sys/block/mmcblk0/device/life_time", "0x01 0x02\n"),
        ("sys/block/mmcblk0/device/pre_eol_info", "0x01\n"),
        ("sys/class/thermal/thermal_zone0/type", "cpu-thermal\n"),
        ("run/systemd/timesync/synchronized", ""),
        ("var/lib/dpkg/status", "Status: install ok installed\n"),
    ] {
        put(root.path(), path, text.as_bytes());
    }
    for unit in 0..10 {
        let path = format!("sys/fs/cgroup/system.slice/unit-{unit}.service/memory.stat");
        put(root.path(), &path, format!("anon {}\n", (2200 + unit * 301) * 4096).as_bytes());
    }
    root
}

/// What a minute of work changes. Counters go on; most processes stay as large as they were.
fn live(values: &mut BTreeMap<String, f64>, seconds: u64, noise: &mut Noise) {
    for (name, value) in values {
        let base = name.split('{').next().unwrap_or_default();
        let mut rises = |most: u64| *value += noise.up_to(most * seconds / 60) as f64;
        match base {
            "uptime_seconds" => *value += seconds as f64,
            "cpu_seconds_total" => {
                *value = ((*value + noise.up_to(900) as f64 / 100.0) * 100.0).round() / 100.0
            }
            "network_receive_bytes_total" => rises(90_000),
            "network_transmit_bytes_total" => rises(400_000),
            "disk_written_bytes_total" => *value += noise.up_to(4000) as f64 * 512.0,
            "disk_free_bytes" if name.contains("\"/\"") => {
                *value = (900_000 - noise.up_to(40)) as f64 * 4096.0;
            }
            "inodes_free" if name.contains("\"/\"") => *value = (300_000 - noise.up_to(20)) as f64,
            "load1" => *value = noise.up_to(60) as f64 / 100.0,
            "memory_available_bytes" => *value = (210_000 + noise.up_to(9000)) as f64 * 1024.0,
            "temperature_celsius" => *value = 47.0 + noise.up_to(25) as f64 / 10.0,
            "certificate_expiry_seconds" => *value -= seconds as f64,
            "unit_memory_bytes" if ["-0.", "-1.", "-2."].iter().any(|unit| name.contains(unit)) => {
                *value = (2200 + noise.up_to(50)) as f64 * 4096.0;
            }
            _ => {}
        }
    }
}

/// Bytes of a day, with a plan.
fn day(metrics: &str) -> usize {
    let units: Vec<String> = (0..10).map(|unit| format!("unit-{unit}.service")).collect();
    let plan = plan(metrics, &units.iter().map(String::as_str).collect::<Vec<_>>());
    let (root, folder) = (machine(), tempfile::tempdir().unwrap());
    let meter = Meter::with(Store::new(folder.path().to_owned()), |_, _, _| Reading::default(), None);
    meter.follow(Some(plan));
    let plan = meter.state().plan.clone().unwrap();
    let (every, send) = (plan.metrics.every.as_secs(), plan.metrics.send.as_secs());
    let mut values = Looker::new(root.path(), QUESTIONS).look(&plan, &moment(1)).values;
    values.insert("certificate_expiry_seconds{file=\"/etc/volary/device.crt\"}".to_owned(), 3e7);
    let (mut noise, mut bytes) = (Noise(88_172_645_463_325_252), 0);
    for time in 1..=HOURS * 3600 / every {
        live(&mut values, every, &mut noise);
        let now = moment(time * every);
        let mut state = meter.state();
        state.ring.push(time, values.clone());
        if time % (send / every) == 0 {
            let batch = state.batch(&[], &now).unwrap();
            let line = serde_json::to_vec(&batch.ready(&now)).unwrap();
            bytes += gzip(&line).len() + AROUND;
            state.commit(&batch.samples, Reading::default());
        }
    }
    bytes * usize::try_from(24 / HOURS).unwrap()
}

#[test]
fn a_day_costs_little() {
    for (metrics, most) in [
        ("", 450_000),
        ("set: basic", 400_000),
        ("send: 15m", 240_000),
        ("set: basic, send: 15m", 190_000),
        ("every: 5m, set: basic, send: 1h", 50_000),
        ("every: 30s, send: 1m", 2_000_000),
    ] {
        let bytes = day(metrics);
        println!("{{ {metrics} }}: {} kB a day", bytes / 1000);
        assert!(bytes <= most, "{{ {metrics} }} costs {bytes} bytes a day");
    }
}
