//! `volary watch`: rules of a working copy against a recorded past; no server is needed.

use std::path::Path;

use serde_json::{Value, json};
use volary_host::{Cmd, Output, write_atomic};

const CONFIG: &str = "version: 1
stages:
  dev: { branch: master }
watch:
  - { name: disk-low, kind: threshold, series: disk_free_bytes, of: disk_size_bytes, below: 5%, for: 10m, severity: critical }
  - { name: hot, kind: threshold, series: temperature_celsius, above: 85 }
";

fn volary(dir: &Path, args: &[&str]) -> Output {
    Cmd::new(env!("CARGO_BIN_EXE_volary")).cwd(dir).env("HOME", dir).args(args).run().unwrap()
}

#[track_caller]
fn ok(dir: &Path, args: &[&str]) -> String {
    let output = volary(dir, args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.text()
}

/// A working copy, and two hours in which a disk is almost full for one.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write_atomic(&folder.path().join("volary.yml"), CONFIG.as_bytes(), 0o644).unwrap();
    let points = |value: &dyn Fn(i64) -> f64| -> Vec<Value> {
        let at = |minute: i64| format!("2026-11-27T{:02}:{:02}:00Z", minute / 60, minute % 60);
        (0..120).map(|minute| json!({ "at": at(minute), "value": value(minute) })).collect()
    };
    let free = points(&|minute| if (30..90).contains(&minute) { 1e8 } else { 5e9 });
    let history = json!({ "version": 1, "devices": [{ "device": "pump-7", "stage": "dev", "series": {
        "disk_free_bytes{mount=\"/\"}": free, "disk_size_bytes{mount=\"/\"}": points(&|_| 1e10) } }] });
    write_atomic(&folder.path().join("past.json"), history.to_string().as_bytes(), 0o644).unwrap();
    folder
}

#[test]
fn rules_are_listed_and_tried_on_a_past() {
    let folder = folder();
    let dir = folder.path();
    let list = ok(dir, &["watch", "list"]);
    assert!(list.contains("disk_free_bytes is below 5.0 % of disk_size_bytes"), "{list}");
    let list: Value = serde_json::from_str(&ok(dir, &["--json", "watch", "list"])).unwrap();
    assert_eq!((&list[0]["name"], &list[0]["for_seconds"]), (&json!("disk-low"), &json!(600)));

    let said = ok(dir, &["watch", "test", "disk-low", "--history", "past.json"]);
    assert!(said.contains("2026-11-27 00:4") && said.contains("1.0 %, at least 5.0 % is right"), "{said}");
    let said: Value =
        serde_json::from_str(&ok(dir, &["--json", "watch", "test", "--all", "--history", "past.json"]))
            .unwrap();
    let episodes = said["episodes"].as_array().unwrap();
    assert_eq!((episodes.len(), &episodes[0]["device"]), (1, &json!("pump-7")), "{said}");
    assert!(episodes[0]["until"].is_string());
    assert!(said["now"].as_array().unwrap().iter().any(|finding| finding["state"] == "not-enough"), "{said}");
}

#[test]
fn what_cannot_be_tried_says_why() {
    let folder = folder();
    let dir = folder.path();
    let fails = |args: &[&str]| {
        let output = volary(dir, args);
        assert!(!output.status.success(), "{}", output.text());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let error = fails(&["watch", "test", "disk", "--history", "past.json"]);
    assert!(
        error.contains("there is no rule \"disk\"") && error.contains("known are disk-low, hot"),
        "{error}"
    );
    assert!(fails(&["watch", "test", "hot", "--history", "volary.yml"]).contains("is no history of devices"));
    assert!(fails(&["watch", "test", "hot", "--history", "no.json"]).contains("no.json"));
    assert!(
        fails(&["watch", "test", "hot", "--history", "past.json", "--since", "7x"])
            .contains("a number and a unit")
    );
    assert!(fails(&["watch", "list", "elsewhere"]).contains("elsewhere/volary.yml"));
}
