//! Measurements as Prometheus reads them: its text format, the labels of devices, and in how many parts a
//! fleet is scraped. Pure.
//!
//! Values have no timestamps: with them Prometheus would go on with a series for five minutes after it
//! ended. What a silent device measured last is not repeated; when it was heard of last is.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use volary_model::{DeviceName, is_counter};
use volary_plan::condition::Condition;

use crate::standing::Standing;

/// What stands before the name of each series of a device.
pub(crate) const PREFIX: &str = "volary_device_";

/// The age in seconds at which a value is repeated no more: a device may send each five minutes.
const STALE: i64 = 900;

/// The most series in one scrape that Prometheus still reads in a second.
const SHARD: usize = 50_000;

/// A part of the devices: the `part`th of `parts`, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shard {
    part: u64,
    parts: u64,
}

impl Shard {
    /// Reads `2/4`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (part, parts) = text.split_once('/')?;
        let shard = Self { part: part.parse().ok()?, parts: parts.parse().ok()? };
        (1..=shard.parts).contains(&shard.part).then_some(shard)
    }

    /// True for one part alone, which has what is of the server as well.
    pub(crate) fn is_first(self) -> bool {
        self.part == 1
    }

    /// True if the device is in it. It stays so as long as the number of parts does.
    pub(crate) fn has(self, device: &DeviceName) -> bool {
        let digest = Sha256::digest(device.as_str().as_bytes());
        let first: [u8; 8] = digest[..8].try_into().expect("a digest has 32 bytes");
        u64::from_be_bytes(first) % self.parts + 1 == self.part
    }
}

/// In how many parts so many series are scraped.
pub(crate) fn parts(series: usize) -> usize {
    series.div_ceil(SHARD).max(1)
}

/// The labels of a device, as they are written: `device="dev-1",stage="canary",type="rpi4"`.
pub(crate) fn labels_text(device: &DeviceName, standing: &Standing) -> String {
    let labels = labels(device, standing);
    let labels: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    labels.join(",")
}

/// The labels of a device; what is not known is left out.
pub(crate) fn labels(device: &DeviceName, standing: &Standing) -> Vec<(&'static str, String)> {
    let mut labels = vec![("device", device.to_string())];
    labels.extend(standing.stage.as_ref().map(|stage| ("stage", stage.to_string())));
    labels.extend(standing.device_type.as_ref().map(|kind| ("type", kind.clone())));
    labels
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A page for Prometheus, in the making: it wants all of a name beside each other.
#[derive(Debug, Default)]
pub(crate) struct Page(BTreeMap<String, String>);

impl Page {
    /// Adds a value of the server itself.
    pub(crate) fn add(&mut self, name: &str, labels: &str, value: f64) {
        let lines = self.0.entry(name.to_owned()).or_default();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        writeln!(lines, "{name}{labels} {value}").expect("a String takes any write");
    }

    /// Adds a device's value by the name of its series. `of` are the device's labels.
    pub(crate) fn add_value(&mut self, series: &str, of: &str, value: f64) {
        let (base, own) = series.split_once('{').unwrap_or((series, ""));
        let own = own.trim_end_matches('}');
        let comma = if own.is_empty() { "" } else { "," };
        if !self.0.contains_key(base) {
            self.0.insert(base.to_owned(), String::new());
        }
        let lines = self.0.get_mut(base).expect("it was put there");
        writeln!(lines, "{PREFIX}{base}{{{of}{comma}{own}}} {value}").expect("a String takes any write");
    }

    /// Its text. `prefix` stands before all names of the page.
    pub(crate) fn text(self, prefix: &str) -> String {
        let mut text = String::with_capacity(self.0.values().map(|lines| lines.len() + 80).sum());
        for (name, lines) in self.0 {
            let kind = if is_counter(&name) { "counter" } else { "gauge" };
            writeln!(text, "# TYPE {prefix}{name} {kind}").expect("a String takes any write");
            text.push_str(&lines);
        }
        text
    }
}

/// True if a value is still told.
pub(crate) fn is_told(standing: &Standing, at: Timestamp, now: Timestamp) -> bool {
    standing.condition != Condition::Silent && now.as_second() - at.as_second() <= STALE
}

/// Where Prometheus scrapes, in the words of its service discovery by HTTP.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Target {
    /// The server's host and port.
    targets: Vec<String>,
    /// How to ask there, and for which part of the devices.
    labels: BTreeMap<&'static str, String>,
}

/// What service discovery is told: one target for each part of the devices.
pub(crate) fn targets(url: &str, parts: usize) -> Vec<Target> {
    let address = url.trim_start_matches("https://");
    let (host, path) = address.split_once('/').unwrap_or((address, ""));
    let path = if path.is_empty() { "/metrics".to_owned() } else { format!("/{path}/metrics") };
    // Prometheus wants the port.
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    let host = if has_port { host.to_owned() } else { format!("{host}:443") };
    let target = |part: usize| Target {
        targets: vec![host.clone()],
        labels: BTreeMap::from([
            ("__scheme__", "https".to_owned()),
            ("__metrics_path__", path.clone()),
            ("__param_shard", format!("{part}/{parts}")),
            ("shard", format!("{part}/{parts}")),
        ]),
    };
    (1..=parts).map(target).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(condition: Condition) -> Standing {
        let device_type = Some("a \"b\"".to_owned());
        Standing { stage: Some("canary".parse().unwrap()), device_type, condition, seen_at: None }
    }

    #[test]
    fn a_page_has_all_of_a_name_together() {
        let of = labels_text(&"dev-1".parse().unwrap(), &standing(Condition::Good));
        assert_eq!(of, r#"device="dev-1",stage="canary",type="a \"b\"""#);
        let mut page = Page::default();
        page.add_value("load1", &of, 0.5);
        page.add_value("x_total{unit=\"y\"}", "device=\"a\"", 3.0);
        page.add_value("load1", "device=\"b\"", 2_000_000.0);
        assert_eq!(
            page.text(PREFIX),
            "# TYPE volary_device_load1 gauge\n\
             volary_device_load1{device=\"dev-1\",stage=\"canary\",type=\"a \\\"b\\\"\"} 0.5\n\
             volary_device_load1{device=\"b\"} 2000000\n\
             # TYPE volary_device_x_total counter\n\
             volary_device_x_total{device=\"a\",unit=\"y\"} 3\n"
        );
        let mut page = Page::default();
        page.add("volary_devices", "", 2.0);
        assert_eq!(page.text(""), "# TYPE volary_devices gauge\nvolary_devices 2\n");
    }

    #[test]
    fn each_device_is_in_one_part() {
        for parts in [1_u64, 2, 7] {
            let shards: Vec<Shard> =
                (1..=parts).map(|part| Shard::parse(&format!("{part}/{parts}")).unwrap()).collect();
            let mut sizes = vec![0; shards.len()];
            for number in 0..1000 {
                let device: DeviceName = format!("dev-{number}").parse().unwrap();
                let mut found = shards.iter().enumerate().filter(|(_, shard)| shard.has(&device));
                sizes[found.next().unwrap().0] += 1;
                assert!(found.next().is_none());
            }
            assert!(sizes.iter().all(|size| *size > 1000 / shards.len() / 2), "{sizes:?}");
        }
        for wrong in ["", "1", "0/2", "3/2", "1/0", "a/b", "1/2/3"] {
            assert_eq!(Shard::parse(wrong), None, "{wrong}");
        }
        assert_eq!((parts(0), parts(50_000), parts(50_001)), (1, 1, 2));
    }

    #[test]
    fn what_is_old_or_silent_is_not_repeated() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert!(is_told(&standing(Condition::Failed), at(100), at(1000)));
        assert!(!is_told(&standing(Condition::Good), at(100), at(1001)));
        assert!(!is_told(&standing(Condition::Silent), at(1000), at(1000)));
    }

    #[test]
    fn service_discovery_has_a_target_for_each_part() {
        let check = |url: &str, host: &str, path: &str| {
            let targets = targets(url, 2);
            assert_eq!(targets[1].targets[0], host);
            assert_eq!(targets[1].labels["__metrics_path__"], path);
            assert_eq!(targets[1].labels["__param_shard"], "2/2");
        };
        check("https://h.example:8443", "h.example:8443", "/metrics");
        check("https://h.example", "h.example:443", "/metrics");
        check("https://[::1]:8443/volary", "[::1]:8443", "/volary/metrics");
        check("https://[::1]", "[::1]:443", "/metrics");
    }
}
