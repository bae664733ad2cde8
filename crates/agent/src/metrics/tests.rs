//! Machines made of files: what a look finds on them, and what becomes of the points.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use volary_fleet::FleetConfig;
use volary_host::{create_dir, write_atomic};
use volary_model::SeriesName;

use super::disks::Space;
use super::journal::{Files, Line, Reading};
use super::services::Said;
use super::store::Store;
use super::{Look, Looker, Meter, Moment, Plan, Questions};

/// A machine: a small router with an eMMC.
const MACHINE: &[(&str, &str)] = &[
    ("proc/uptime", "86401.25 340000.00\n"),
    ("proc/stat", "cpu  1000 200 300 99999 50 10 20 30 0 0\ncpu0 1 2 3 4\nintr 5\n"),
    ("proc/loadavg", "0.52 0.40 0.31 1/200 4711\n"),
    (
        "proc/meminfo",
        "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nSwapTotal: 100 kB\nSwapFree: 75 kB\n",
    ),
    ("proc/pressure/memory", "some avg10=9.00 avg60=12.50 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00\n"),
    ("proc/vmstat", "nr_free_pages 5\noom_kill 3\n"),
    (
        "proc/net/dev",
        "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 9 9 0 0 0 0 0 0 9 9 0 0 0 0 0 0\n  \
         eth0:1000 9 0 0 0 0 0 0 2000 9 0 0 0 0 0 0\nveth12: 5 9 0 0 0 0 0 0 5 9 0 0 0 0 0 0\n",
    ),
    (
        "proc/self/mountinfo",
        "1 0 179:2 / / rw - ext4 /dev/root rw\n2 1 179:2 /x /srv/bound rw - ext4 /dev/root rw\n\
         3 1 179:1 / /boot rw shared:1 - vfat /dev/mmcblk0p1 rw\n4 1 0:5 / /nfs rw - nfs4 host:/ rw\n\
         5 1 0:6 / /run rw - tmpfs tmpfs rw\n7 1 8:2 / /run/x rw - ext4 x rw\n6 1 8:1 / /media/a\\040b rw - ext4 /dev/sda1 rw\n",
    ),
    ("boot/x", ""),
    ("media/a b/x", ""),
    ("nfs/x", ""),
    (
        "proc/diskstats",
        "179 0 mmcblk0 1 2 3 4 5 6 2048 8 0 0 0\n179 1 mmcblk0p1 1 2 3 4 5 6 7 8 0 0 0\n7 0 loop0 1 2 3 4 5 6 7 8\n",
    ),
    ("sys/block/mmcblk0/device/life_time", "0x01 0x03\n"),
    ("sys/block/mmcblk0/device/pre_eol_info", "0x02\n"),
    ("sys/block/mmcblk0boot0/x", ""),
    ("sys/block/loop0/x", ""),
    ("sys/class/thermal/thermal_zone0/type", "cpu\n"),
    ("sys/class/thermal/thermal_zone0/temp", "48312\n"),
    ("sys/class/thermal/thermal_zone1/type", "cpu\n"),
    ("sys/class/thermal/thermal_zone1/temp", "-5000\n"),
    ("sys/class/thermal/thermal_zone2/temp", "-273150\n"),
    ("run/systemd/timesync/synchronized", ""),
    ("run/reboot-required", ""),
    (
        "var/lib/dpkg/status",
        "Package: a\nStatus: install ok installed\n\nPackage: b\nStatus: install ok half-configured\n\nPackage: c\n\
         Status: install reinstreq installed\n\nPackage: d\nStatus: deinstall ok config-files\n\nPackage: e\n\
         Status: install ok triggers-pending\n",
    ),
    ("var/lib/dpkg/updates/0000", ""),
    ("run/app/queue", " 17\n"),
    ("sys/fs/cgroup/system.slice/app.service/memory.stat", "anon 4096\nfile 999999\nkernel 1\n"),
    ("sys/fs/cgroup/system.slice/app.service/memory.swap.current", "1024\n"),
    ("sys/fs/cgroup/system.slice/old.service/cgroup.procs", "7\n8\nx\n"),
    ("proc/7/status", "Name: a\nRssAnon:       8 kB\nVmSwap:      2 kB\n"),
];

/// Makes a file, which need not survive a power cut.
pub(super) fn put(root: &Path, path: &str, bytes: &[u8]) {
    let path = root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(&path).unwrap().write_all(bytes).unwrap();
}

fn machine(files: &[(&str, &str)]) -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        put(root.path(), path, text.as_bytes());
    }
    root
}

fn space(_: &Path) -> Option<Space> {
    Some(Space { size: 100.0, free: 40.0, inodes: 10.0, inodes_free: 4.0 })
}

thread_local! {
    /// How often systemd was asked; each test has a thread of its own.
    static ASKED: Cell<u32> = const { Cell::new(0) };
}

fn said(units: &[String]) -> BTreeMap<String, Said> {
    ASKED.set(ASKED.get() + 1);
    let of = |unit: &String| Said {
        failed: unit.starts_with("bad"),
        restarts: 2,
        group: format!("/system.slice/{unit}"),
    };
    units.iter().map(|unit| (unit.clone(), of(unit))).collect()
}

pub(super) const QUESTIONS: Questions = Questions { space, units: said, clock: || Some(false) };

/// The plan of a device of the only stage, by what stands in `metrics` for it.
pub(super) fn plan(metrics: &str, units: &[&str]) -> Plan {
    let text =
        format!("version: 1\nstages:\n  dev: {{ branch: master }}\nmetrics: {{ dev: {{ {metrics} }} }}\n");
    let stage = "dev".parse().unwrap();
    let metrics = FleetConfig::parse(&text).unwrap().metrics_of(&stage).unwrap();
    Plan {
        stage,
        commit: None,
        units: units.iter().map(|unit| (*unit).to_owned()).collect(),
        certificates: metrics.certificates.clone(),
        metrics,
        checkout: None,
    }
}

pub(super) fn moment(since_boot: u64) -> Moment {
    let since_boot = Duration::from_secs(since_boot);
    Moment {
        boot_id: "boot".to_owned(),
        since_boot,
        awake: since_boot,
        at: "2026-11-27T12:00:00Z".parse().unwrap(),
    }
}

fn look(root: &Path, plan: &Plan) -> Look {
    Looker::new(root, QUESTIONS).look(plan, &moment(100))
}

#[test]
fn every_source_is_read() {
    let root = machine(MACHINE);
    let plan = plan(
        "files: { fleet_queue: /run/app/queue, fleet_none: /run/none }",
        &["app.service", "old.service", "bad.socket"],
    );
    let mut looker = Looker::new(root.path(), QUESTIONS);
    looker.unclean = Some(true);
    let found = looker.look(&plan, &moment(100));
    let text: Vec<String> = found.values.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let expected = [
        "clock_synchronised 1",
        "cpu_seconds_total 15.6",
        "disk_free_bytes{mount=\"/\"} 40",
        "disk_free_bytes{mount=\"/boot\"} 40",
        "disk_free_bytes{mount=\"/media/a b\"} 40",
        "disk_size_bytes{mount=\"/\"} 100",
        "disk_size_bytes{mount=\"/boot\"} 100",
        "disk_size_bytes{mount=\"/media/a b\"} 100",
        "disk_written_bytes_total{disk=\"mmcblk0\"} 1048576",
        "dpkg_broken_packages 2",
        "dpkg_interrupted 1",
        "flash_life_used_ratio{disk=\"mmcblk0\"} 0.3",
        "flash_pre_eol{disk=\"mmcblk0\"} 2",
        "fleet_queue 17",
        "inodes_free{mount=\"/\"} 4",
        "inodes_free{mount=\"/boot\"} 4",
        "inodes_free{mount=\"/media/a b\"} 4",
        "inodes_total{mount=\"/\"} 10",
        "inodes_total{mount=\"/boot\"} 10",
        "inodes_total{mount=\"/media/a b\"} 10",
        "load1 0.52",
        "memory_available_bytes 614400",
        "memory_pressure_ratio 0.125",
        "memory_total_bytes 1024000",
        "network_receive_bytes_total{interface=\"eth0\"} 1000",
        "network_transmit_bytes_total{interface=\"eth0\"} 2000",
        "oom_kills_total 3",
        "reboot_pending 1",
        "swap_total_bytes 102400",
        "swap_used_bytes 25600",
        "temperature_celsius{zone=\"cpu\"} 48.3",
        "temperature_celsius{zone=\"thermal_zone1\"} -5",
        "unclean_boot 1",
        "unit_failed{unit=\"app.service\"} 0",
        "unit_failed{unit=\"bad.socket\"} 1",
        "unit_failed{unit=\"old.service\"} 0",
        "unit_memory_bytes{unit=\"app.service\"} 5120",
        "unit_memory_bytes{unit=\"old.service\"} 10240",
        "unit_restarts_total{unit=\"app.service\"} 2",
        "unit_restarts_total{unit=\"bad.socket\"} 2",
        "unit_restarts_total{unit=\"old.service\"} 2",
        "uptime_seconds 86401",
    ];
    assert_eq!(text, expected);
    let as_servers_write_it =
        |name: &String| name.parse::<SeriesName>().is_ok_and(|parsed| parsed.as_str() == name);
    assert!(found.values.keys().all(as_servers_write_it));
    let some = look(root.path(), &self::plan("set: [load1, uptime_seconds]", &["app.service"]));
    assert_eq!(some.values.keys().collect::<Vec<_>>(), ["load1", "uptime_seconds"]);
}

#[test]
fn a_machine_without_files_has_almost_nothing_to_tell() {
    let root = tempfile::tempdir().unwrap();
    let found = look(root.path(), &plan("", &[]));
    let names: Vec<&String> = found.values.keys().collect();
    assert_eq!(names, ["clock_synchronised", "reboot_pending"]);
    assert!(found.values.values().all(|value| *value == 0.0));
}

#[test]
fn garbage_leaves_holes_and_nothing_else() {
    let huge = "9".repeat(400);
    let line = format!("{huge} {huge} {huge} {huge} {huge} {huge} {huge} {huge} {huge} {huge}\n");
    let garbage: [&[u8]; 8] = [
        b"",
        b"\n\n\n",
        b"\xff\xfe\x00\x01",
        b"nan inf -1 1e9 0x 0xzz : : - - -\n",
        b"cpu  \neth0: 1\nsome avg60=\nMemTotal: -1 kB\noom_kill -3\nStatus:\nanon\nRssAnon: kB\n",
        b"cpu  18446744073709551616 1 1 1\neth0: 99999999999999999999 0 0 0 0 0 0 0 1\n",
        line.as_bytes(),
        b"18446744073709551615 18446744073709551615 mmcblk0 1 1 1 1 1 1 18446744073709551615\n",
    ];
    let plan = plan("files: { fleet_queue: /run/app/queue }", &["app.service", "old.service"]);
    for bytes in garbage {
        let root = tempfile::tempdir().unwrap();
        for (path, _) in MACHINE {
            put(root.path(), path, bytes);
        }
        let found = look(root.path(), &plan);
        assert!(
            found.values.values().all(|value| value.is_finite() && *value >= -60.0),
            "{:?}",
            found.values
        );
        let numbers: Vec<&String> =
            found.values.keys().filter(|name| *name == "load1" || *name == "fleet_queue").collect();
        assert!(numbers.is_empty() || bytes.starts_with(b"1844"), "{numbers:?} of {bytes:?}");
    }
    // Folders where files should be, and a pipe that nobody writes to.
    let root = machine(&[("proc/stat/x", ""), ("proc/meminfo/x", ""), ("proc/uptime", "5.5\n")]);
    volary_host::Cmd::new("mkfifo").arg(root.path().join("proc/loadavg")).check().unwrap();
    let found = look(root.path(), &plan);
    assert_eq!(found.values.get("uptime_seconds"), Some(&5.0));
    assert!(!found.values.contains_key("load1") && !found.values.contains_key("cpu_seconds_total"));
}

#[test]
fn two_hundred_units_leave_room_for_the_rest() {
    let root = machine(MACHINE);
    let names: Vec<String> = (0..200).map(|number| format!("unit{number:03}.service")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for unit in &names {
        put(root.path(), &format!("sys/fs/cgroup/system.slice/{unit}/memory.stat"), b"anon 4096\n");
    }
    let found = look(root.path(), &plan("", &names));
    let of_units = found.values.keys().filter(|name| name.starts_with("unit_")).count();
    assert_eq!((of_units, found.left_out), (300, 0));
    assert!(found.values.contains_key("unit_memory_bytes{unit=\"unit099.service\"}"));
    assert!(found.values.contains_key("uptime_seconds"));
}

#[test]
fn systemd_is_asked_only_when_something_ran_anew() {
    let root = machine(&[]);
    let links = root.path().join("run/systemd/units");
    create_dir(&links).unwrap();
    let link = links.join("invocation:app.service");
    symlink("one", &link).unwrap();
    let (plan, mut looker) = (plan("", &["app.service"]), Looker::new(root.path(), QUESTIONS));
    let mut asked = |at: u64| {
        let found = looker.look(&plan, &moment(at));
        assert_eq!(found.values["unit_restarts_total{unit=\"app.service\"}"], 2.0);
        ASKED.get()
    };
    assert_eq!((asked(60), asked(120), asked(180)), (1, 1, 1));
    std::fs::remove_file(&link).unwrap();
    assert_eq!((asked(240), asked(300)), (2, 2), "it ended");
    symlink("two", &link).unwrap();
    assert_eq!((asked(360), asked(420)), (3, 3), "it runs again");
    assert_eq!((asked(360 + 899), asked(360 + 900)), (3, 4), "now and then anyway");
}

#[test]
fn the_database_of_dpkg_is_read_when_it_changes() {
    let root = machine(&[("var/lib/dpkg/status", "Status: install ok unpacked\n")]);
    let (plan, mut looker) = (plan("", &[]), Looker::new(root.path(), QUESTIONS));
    let mut broken = || looker.look(&plan, &moment(60)).values["dpkg_broken_packages"];
    assert_eq!((broken(), broken()), (1.0, 1.0));
    put(root.path(), "var/lib/dpkg/status", b"Status: install ok installed\n");
    assert_eq!(broken(), 0.0);
}

#[test]
fn programs_of_the_fleet_print_a_number() {
    let root = machine(&[]);
    let program = |name: &str, text: &str| {
        let path = root.path().join(name);
        create_dir(path.parent().unwrap()).unwrap();
        write_atomic(&path, text.as_bytes(), 0o755).unwrap();
    };
    program("metrics/good", "#!/bin/sh\nprintf '%s\\n' \"$1$VOLARY_STAGE\" | tr -d a-z\n");
    program("metrics/bad", "#!/bin/sh\necho 5; exit 1\n");
    program("metrics/words", "#!/bin/sh\necho nan\n");
    let wanted = "set: load1, commands: { fleet_a: [metrics/good, 1.5], fleet_b: metrics/bad, fleet_c: \
                  metrics/words, fleet_d: metrics/none }";
    let plan = Plan { checkout: Some(root.path().to_owned()), ..plan(wanted, &[]) };
    assert_eq!(look(root.path(), &plan).values, BTreeMap::from([("fleet_a".to_owned(), 1.5)]));
}

fn errors(after: Option<&str>, _: Option<&Files>, _: &Moment) -> Reading {
    let line = |age: u64| Line {
        age: Duration::from_secs(age),
        priority: 3,
        unit: "app.service".to_owned(),
        message: "no disk".to_owned(),
    };
    match after {
        None => {
            let (lines, cursor) = (vec![line(90), line(5)], Some("one".to_owned()));
            Reading { lines, cursor, cut: false, files: None }
        }
        Some(_) => Reading::default(),
    }
}

/// A meter with these points in memory.
fn meter(folder: &Path, plan: &Plan, points: u64) -> Meter {
    let meter = Meter::with(Store::new(folder.to_owned()), errors, None);
    meter.follow(Some(plan.clone()));
    let now = volary_host::since_boot().as_secs() / 60;
    let plan = meter.state().plan.clone().unwrap();
    for time in (now + 1).saturating_sub(points)..=now {
        let values = BTreeMap::from([("uptime_seconds".to_owned(), time as f64)]);
        meter.add(&plan, time, Look { values, left_out: 0 });
    }
    meter
}

#[test]
fn what_is_in_memory_is_written_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan("", &[]);
    meter(dir.path(), &plan, 3).end(true);
    let store = Store::new(dir.path().to_owned());
    let batch = store.batch(&store.waiting()[0].0).unwrap();
    assert_eq!((batch.samples.points, batch.samples.step), (3, 60));
    assert_eq!(batch.samples.series["uptime_seconds"].len(), 3);
    assert!(batch.samples.errors.is_empty(), "at a shutdown the journal is not asked");
    let kept = store.kept();
    assert!(kept.ended && kept.cursor.is_none());
    assert_eq!(format!("{:016}", kept.last_id), batch.samples.id);
    // The next one goes on from there.
    let meter = meter(dir.path(), &plan, 1);
    assert_eq!(meter.state().kept.unclean, None, "in the same boot nothing is known of the one before");
    assert!(meter.state().kept.last_id >= kept.last_id && meter.waiting() == 1);
}

#[test]
fn an_hour_of_points_goes_to_disk_with_the_errors() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan("send: 60s", &[]);
    let meter = meter(dir.path(), &plan, 61);
    let (state, store) = (meter.state(), Store::new(dir.path().to_owned()));
    assert_eq!((state.points(), store.waiting().len()), (1, 1));
    let samples = store.batch(&store.waiting()[0].0).unwrap().samples;
    assert_eq!((samples.points, samples.errors.len(), &samples.errors[0].message[..]), (60, 2, "no disk"));
    let counted = &samples.series["journal_errors_total{unit=\"app.service\"}"];
    assert_eq!((counted.len(), counted[0]), (60, Some(0.0)));
    assert_eq!((state.kept.cursor.as_deref(), store.kept().cursor.as_deref()), (Some("one"), Some("one")));
}

thread_local! {
    /// Whether the journal's files were known when it was read, each time.
    static KNOWN: std::cell::RefCell<Vec<bool>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn quiet(_: Option<&str>, known: Option<&Files>, _: &Moment) -> Reading {
    KNOWN.with_borrow_mut(|all| all.push(known.is_some()));
    Reading { files: Some(Files::default()), ..Reading::default() }
}

#[test]
fn the_journal_is_known_once_what_it_said_is_in_other_hands() {
    let dir = tempfile::tempdir().unwrap();
    let plan = Arc::new(plan("", &[]));
    let meter = Meter::with(Store::new(dir.path().to_owned()), quiet, None);
    meter.follow(Some(Plan::clone(&plan)));
    let read = || {
        let known = meter.state().read();
        meter.reading(&plan, &known, &Moment::now())
    };
    // Read, and then not sent: the next time it is read anew.
    read();
    let reading = read();
    meter.add(&plan, 1, Look::default());
    meter.keep(&mut meter.state(), reading, &Moment::now());
    read();
    // What is written without a look at the journal changes nothing.
    meter.add(&plan, 2, Look::default());
    meter.keep(&mut meter.state(), Reading::default(), &Moment::now());
    read();
    assert_eq!(KNOWN.take(), [false, false, true, true]);
}

#[test]
fn it_is_sent_when_there_are_points_enough() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan("send: 3m", &[]);
    let due = |points| meter(dir.path(), &plan, points).due_in().map(|wait| wait.as_secs());
    assert_eq!([due(0), due(1), due(2), due(3), due(9)], [Some(180), Some(120), Some(60), Some(0), Some(0)]);
    let meter = meter(dir.path(), &plan, 3);
    assert!(meter.is_due());
    assert_eq!(meter.wakes_in().unwrap().as_secs(), 90);
    meter.follow(None);
    assert_eq!((meter.due_in(), meter.waiting()), (None, 1), "what was measured is not lost");
    meter.follow(Some(plan));
    assert!(meter.is_due(), "what is on disk goes as soon as it can");
}
