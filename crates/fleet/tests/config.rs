//! `volary.yml`: what its sections mean, their defaults, and what each mistake is told.

use std::time::Duration;

use jiff::civil::{Weekday, date};
use volary_fleet::{DriftAction, FleetConfig, Freeze, Moment, SERIES, Zone};
use volary_model::{Bound, Severity, StageName, WatchKind};

const STAGES: &str = "version: 1\nstages:\n  dev: { branch: master }\n  prod: { branch: prod, from: dev }\n";

fn parse(sections: &str) -> FleetConfig {
    FleetConfig::parse(&format!("{STAGES}{sections}")).unwrap()
}

fn stage(name: &str) -> StageName {
    name.parse().unwrap()
}

#[test]
fn the_servers_key_merges_where_the_file_says_so_whatever_signers_says() {
    let text = "version: 1\nstages:\n  dev: { branch: master, packages: rolling }\n  canary: { branch: canary, from: dev }\n  \
                prod: { branch: prod, from: canary }\npromote: { canary: automatic, prod: people }\n\
                signers: { canary: [alice] }\n";
    let config = FleetConfig::parse(text).unwrap();
    let may = |stage: &str, name: &str| config.may_sign(&stage.parse().unwrap(), &[name.to_owned()]);
    assert!(may("canary", volary_fleet::PROMOTER) && may("canary", "alice") && !may("canary", "bob"));
    assert!(
        !may("prod", volary_fleet::PROMOTER) && !may("dev", volary_fleet::PROMOTER) && may("prod", "bob")
    );
}

#[test]
fn without_sections_the_defaults_hold() {
    let (config, prod) = (parse(""), stage("prod"));
    assert_eq!(config.confirm_of(&prod), Duration::from_secs(300));
    assert_eq!(config.run_within_of(&prod), Duration::from_secs(3600));
    assert_eq!(config.splay_of(&prod), Duration::ZERO);
    assert_eq!(config.quorum_of(&prod), 1);
    assert_eq!((config.windows_of(&prod), config.stop_of(&prod)), (None, None));
    assert_eq!((config.rollout_of(&prod), config.drift_of(&prod)), (None, None));
    assert_eq!((config.fresh_of(&prod), config.long_poll), (None, Duration::ZERO));
    assert_eq!((config.freezes_of(&prod).count(), config.checkpoint.len()), (0, 0));
}

#[test]
fn each_section_is_read_for_the_stage_that_it_names() {
    let config = parse(
        "confirm: { prod: 10m }\nrun_within: { prod: 2h }\nsplay: { prod: 15m }\nquorum: { prod: 2 }\n\
         checkpoint: [/opt/app, /srv/data/x]\nrollout: { prod: { per_site_at_most: 3 } }\n\
         drift: { prod: { every: 12h, do: repair }, dev: {} }\nstop: { prod: \"  the sensor lies \" }\n\
         windows:\n  prod: { install: [\"Mon..Fri 02:00-05:00\", \"Sat 22:00-04:00\"], time_zone: Europe/Paris }\n",
    );
    let (dev, prod) = (stage("dev"), stage("prod"));
    let seconds = |count| Duration::from_secs(count);
    assert_eq!((config.confirm_of(&prod), config.confirm_of(&dev)), (seconds(600), seconds(300)));
    assert_eq!((config.run_within_of(&prod), config.run_within_of(&dev)), (seconds(7200), seconds(3600)));
    assert_eq!((config.splay_of(&prod), config.splay_of(&dev)), (seconds(900), Duration::ZERO));
    assert_eq!((config.quorum_of(&prod), config.quorum_of(&dev)), (2, 1));
    assert_eq!(config.checkpoint, ["/opt/app", "/srv/data/x"]);
    assert_eq!(config.rollout_of(&prod).unwrap().per_site_at_most, Some(3));
    let (repairs, reports) = (config.drift_of(&prod).unwrap(), config.drift_of(&dev).unwrap());
    assert_eq!((repairs.every, repairs.action), (seconds(12 * 3600), DriftAction::Repair));
    assert_eq!((reports.every, reports.action), (seconds(24 * 3600), DriftAction::Report));
    assert_eq!((config.stop_of(&prod), config.stop_of(&dev)), (Some("the sensor lies"), None));
    let windows = config.windows_of(&prod).unwrap();
    assert_eq!(windows.zone, Zone::Named("Europe/Paris".into()));
    assert!(windows.install[0].days.contains(Weekday::Friday));
    assert!(!windows.install[0].days.contains(Weekday::Saturday));
    assert_eq!((windows.install[1].from, windows.install[1].until), (22 * 60, 4 * 60));
}

#[test]
fn freezes_are_days_local_times_or_exact_ones() {
    let config = parse(
        "freeze:\n\
         \x20 - { stage: prod, from: 2026-12-20, until: 2027-01-06, reason: Christmas }\n\
         \x20 - { stage: [dev, prod], from: \"2026-07-01 08:00\", until: 2026-07-01T18:00, reason: audit }\n\
         \x20 - { stage: dev, from: 2026-07-01T08:00+02:00, until: 2026-07-01T18:00Z, reason: move }\n",
    );
    let prod = stage("prod");
    let of_prod: Vec<&Freeze> = config.freezes_of(&prod).collect();
    let local = |year, month, day, hour| Moment::Local(date(year, month, day).at(hour, 0, 0, 0));
    // A day as an end means all of it.
    assert_eq!((of_prod[0].from, of_prod[0].until), (local(2026, 12, 20, 0), local(2027, 1, 7, 0)));
    assert_eq!(of_prod[0].reason, "Christmas");
    assert_eq!((of_prod[1].from, of_prod[1].until), (local(2026, 7, 1, 8), local(2026, 7, 1, 18)));
    assert_eq!(of_prod.len(), 2);
    let exact = |text: &str| Moment::Exact(text.parse().unwrap());
    assert_eq!(config.freezes[2].from, exact("2026-07-01T06:00:00Z"));
    assert_eq!(config.freezes[2].until, exact("2026-07-01T18:00:00Z"));
}

#[test]
fn mistakes_are_named_with_line_field_and_remedy() {
    let check = |sections: &str, expected: &[&str]| {
        let error = FleetConfig::parse(&format!("{STAGES}{sections}")).unwrap_err().to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{sections}: {error}");
    };
    check("widnows: {}\n", &["line 5, widnows", "did you mean \"windows\"?"]);
    check(
        "confirm: { prdo: 5m }\n",
        &["line 5, confirm.prdo", "there is no stage", "did you mean \"prod\"?"],
    );
    check("confirm: { prod: 0s }\n", &["line 5, confirm.prod", "out of range, which is 1 s to 3600 s"]);
    check("confirm: { prod: 61m }\n", &["confirm.prod", "out of range"]);
    check("confirm: 5m\n", &["line 5, confirm", "not a map"]);
    check("run_within: { prod: 30s }\n", &["run_within.prod", "out of range"]);
    check("splay: { prod: 2d }\n", &["splay.prod", "out of range"]);
    check("quorum: { prod: 0 }\n", &["quorum.prod", "nobody signed", "at least 1"]);
    check("quorum: { prod: two }\n", &["quorum.prod", "not a whole number"]);
    check(
        "signers: { prod: [a, b, a] }\nquorum: { prod: 3 }\n",
        &["line 6, quorum", "3 people must sign for prod, and signers.prod names 2"],
    );
    check("signers: { prod: a }\n", &["signers.prod", "not a list"]);
    check("promote: { dev: automatic }\n", &["promote.", "first stage"]);
    check("promote: { prod: sometimes }\n", &["promote.prod", "`automatic`, `asked` or `people`"]);
    check("rollout: { prod: { per_site_at_most: 0 } }\n", &["rollout.prod.per_site_at_most", "no device"]);
    check("rollout: { prod: { waves: [1%] } }\n", &["rollout.prod.waves", "not 100%"]);
    check("rollout: { prod: { waves: [5%, 5%, 100%] } }\n", &["rollout.prod.waves", "5% adds no device"]);
    check(
        "rollout: { prod: { waves: [5%, all] } }\n",
        &["rollout.prod.waves", "\"all\" is not a percentage"],
    );
    check("rollout: { prod: { waves: 100% } }\n", &["rollout.prod.waves", "not a list"]);
    check(
        "rollout: { prod: { pause: 1h, per_site_at_most: 1 } }\n",
        &["rollout.prod.pause", "without `waves`"],
    );
    check("rollout: { prod: {} }\n", &["rollout.prod", "nothing is said"]);
    check("drift: { prod: { do: ignore } }\n", &["drift.prod.do", "`report` or `repair`"]);
    check("drift: { prod: { every: 1s } }\n", &["drift.prod.every", "out of range"]);
    check("fresh: { prod: 1m }\n", &["fresh.prod", "out of range"]);
    check("long_poll: 1h\n", &["long_poll", "out of range"]);
    check("stop: { prod: }\n", &["stop.prod", "there is no value"]);
    check(&format!("stop: {{ prod: {} }}\n", "x".repeat(501)), &["stop.prod", "501 bytes"]);
}

#[test]
fn mistakes_in_lists_are_named_by_their_own_line() {
    let check = |sections: &str, expected: &[&str]| {
        let error = FleetConfig::parse(&format!("{STAGES}{sections}")).unwrap_err().to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{sections}: {error}");
    };
    let paths = |path: &str| format!("checkpoint:\n  - /opt\n  - {path}\n");
    check(&paths("opt"), &["line 7, checkpoint", "not an absolute path", "begin with `/`"]);
    check(&paths("/"), &["line 7", "too much to save"]);
    for path in ["/opt/../etc", "/opt/./x", "//opt", "/opt/"] {
        check(&paths(path), &["line 7", "not written as a plain path"]);
    }
    check(&paths("/proc/sys"), &["nothing below /proc can be put back"]);
    check(&paths("/var/lib/volary"), &["nothing below /var/lib/volary"]);
    parse("checkpoint: [/procedures, /var/lib/volary2]\n");
    let windows =
        |text: &str| format!("windows:\n  prod:\n    install:\n      - 01:00-02:00\n      - {text}\n");
    check(
        &windows("Mo 02:00-05:00"),
        &["line 9, windows.prod.install", "\"Mo\" is no day", "Mon..Fri 02:00-05:00"],
    );
    check("windows: { prod: { install: [] } }\n", &["windows.prod.install", "there are 0 windows"]);
    check("windows: { prod: { time_zone: UTC } }\n", &["windows.prod.install", "missing"]);
    check(
        "windows: { prod: { install: 01:00-02:00, time_zone: Paris } }\n",
        &["windows.prod.time_zone", "\"Paris\" is no time zone", "`Area/City`"],
    );
    let freeze = |text: &str| format!("freeze:\n  - {{ {text} }}\n");
    check(
        &freeze("stage: prdo, from: 2026-01-01, until: 2026-01-02, reason: x"),
        &["line 6, freeze[0].stage", "did you mean"],
    );
    check(&freeze("stage: [], from: 2026-01-01, until: 2026-01-02, reason: x"), &["no stage is named"]);
    check(&freeze("stage: prod, from: 2026-01-01, until: 2026-01-02"), &["freeze[0].reason", "missing"]);
    check(
        &freeze("stage: prod, from: 2026-01-03, until: 2026-01-02, reason: x"),
        &["freeze[0].until", "before it begins"],
    );
    for time in ["soon", "2026-02-30", "20260101", "2026-01-01T25:00", "\"2026-01-01T08:00[Europe/Paris]\""] {
        check(
            &freeze(&format!("stage: prod, from: {time}, until: 2027-01-02, reason: x")),
            &["freeze[0].from", "no date or time"],
        );
    }
    check("freeze: { stage: prod }\n", &["line 5, freeze", "not a list"]);
}

/// What `volary init` writes offers sections in comments: each is valid as it stands there.
#[test]
fn the_examples_in_the_template_are_valid() {
    let template = include_str!("../../../templates/fleet/volary.yml");
    let is_example = |line: &str| {
        let key: String =
            line.chars().take_while(|letter| letter.is_ascii_lowercase() || *letter == '_').collect();
        line.starts_with("  ") || (!key.is_empty() && line[key.len()..].starts_with(':'))
    };
    let uncomment = |line: &str| match line.strip_prefix("# ") {
        Some(example) if is_example(example) => format!("{example}\n"),
        Some(_) | None => format!("{line}\n"),
    };
    let text: String = template.lines().map(uncomment).collect();
    // The example names one signer; two must sign, so that another one is added here.
    let config =
        FleetConfig::parse(&text.replace("[alice@example.com]", "[alice@example.com, bob]")).unwrap();
    let production = stage("production");
    assert_eq!(config.quorum_of(&production), 2);
    assert!(config.windows_of(&production).is_some() && config.stop_of(&production).is_some());
    assert_eq!((config.freezes.len(), config.drift.len(), config.rollout.len()), (1, 1, 1));
    assert_eq!(config.metrics_of(&production).unwrap().units, ["ssh.service"]);
}

#[test]
fn metrics_are_on_and_each_stage_has_its_own() {
    let default = parse("").metrics_of(&stage("prod")).unwrap();
    assert_eq!((default.every.as_secs(), default.send.as_secs(), default.journal), (60, 300, 20));
    assert_eq!(default.series.len(), SERIES.len());
    assert_eq!(parse("metrics: { prod: {} }\n").metrics_of(&stage("prod")), Some(default.clone()));
    let config = parse(
        "metrics:\n  dev: off\n  prod:\n    every: 10m\n    set: [load1, uptime_seconds]\n    units: app.service\n    \
         certificates: [/etc/app/tls.crt]\n    files: { fleet_queue: /run/app/queue }\n    commands: { \
         fleet_bar: [metrics/pressure, --bar], fleet_up: metrics/up }\n    journal: 0\n",
    );
    assert_eq!(config.metrics_of(&stage("dev")), None);
    let prod = config.metrics_of(&stage("prod")).unwrap();
    assert_eq!((prod.every.as_secs(), prod.send.as_secs(), prod.journal), (600, 600, 0));
    assert_eq!(Vec::from_iter(&prod.series), ["load1", "uptime_seconds"]);
    assert_eq!((&prod.units[0][..], &prod.certificates[0][..]), ("app.service", "/etc/app/tls.crt"));
    assert_eq!(prod.files["fleet_queue"], "/run/app/queue");
    assert_eq!(prod.commands["fleet_bar"], ["metrics/pressure", "--bar"]);
    assert_eq!(prod.commands["fleet_up"], ["metrics/up"]);
    let basic = parse("metrics: { prod: { set: basic } }\n").metrics_of(&stage("prod")).unwrap();
    assert!(basic.series.contains("disk_free_bytes") && !basic.series.contains("load1"));
    assert!(SERIES.is_sorted(), "people look for names in the messages");
}

#[test]
fn mistakes_about_metrics_are_named() {
    let check = |entry: &str, expected: &[&str]| {
        let error = FleetConfig::parse(&format!("{STAGES}metrics: {{ prod: {entry} }}\n")).unwrap_err();
        let error = error.to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{entry}: {error}");
    };
    check("on", &["line 5, metrics.prod", "\"on\" is nothing", "`off`"]);
    check("{ evry: 1m }", &["metrics.prod.evry", "did you mean \"every\"?"]);
    check("{ every: 0s }", &["metrics.prod.every", "out of range, which is 1 s to 3600 s"]);
    check("{ every: 10m, send: 5m }", &["metrics.prod.send", "out of range, which is 600 s"]);
    check("{ every: 10s, send: 24h }", &["metrics.prod.send", "8640 points", "at most 720"]);
    check("{ set: [lod1] }", &["metrics.prod.set", "\"lod1\" is nothing", "did you mean \"load1\"?"]);
    check("{ set: [basic, load1] }", &["metrics.prod.set", "without a list"]);
    check("{ set: [fleet_x] }", &["metrics.prod.set", "because they are named"]);
    check("{ units: [app] }", &["metrics.prod.units", "write it in full: app.service"]);
    check("{ units: [--all.service] }", &["metrics.prod.units", "not the name of a unit"]);
    check("{ certificates: [tls.crt] }", &["metrics.prod.certificates", "not an absolute path"]);
    check("{ files: { queue: /run/q } }", &["metrics.prod.files.queue", "begin with `fleet_`"]);
    check("{ files: { fleet_Q: /run/q } }", &["metrics.prod.files.fleet_Q", "lower-case"]);
    check("{ files: { fleet_: /run/q } }", &["metrics.prod.files.fleet_", "no name for a series"]);
    check("{ files: { fleet_q: /run/../q } }", &["metrics.prod.files.fleet_q", "plain path"]);
    check("{ commands: { fleet_q: /bin/true } }", &["metrics.prod.commands.fleet_q", "not in the fleet"]);
    check("{ commands: { fleet_q: [] } }", &["metrics.prod.commands.fleet_q", "this is no command"]);
    check("{ commands: { fleet_q: ../up } }", &["metrics.prod.commands.fleet_q", "plain path"]);
    let twice = "{ files: { fleet_q: /run/q }, commands: { fleet_q: up } }";
    check(twice, &["metrics.prod.commands", "fleet_q is the name of a file and of a command"]);
    check("{ journal: 1000 }", &["metrics.prod.journal", "at most 200 lines a minute"]);
}

#[test]
fn watch_rules_are_read_with_their_defaults() {
    let rules = parse(
        "watch:\n  - { name: leak, kind: leak, series: 'unit_memory_bytes{unit=\"app-*\"}', stages: prod }\n  \
         - { name: low, kind: threshold, series: disk_free_bytes, of: disk_size_bytes, below: 5%, severity: critical }\n  \
         - { name: swap, kind: threshold, series: swap_used_bytes, above: 64 MiB, for: 1m, clear: 2m, text: look }\n  \
         - { name: flaps, kind: flapping }\n  - { name: gone, kind: absence, longer_than: 1h }\n",
    )
    .watch;
    let names: Vec<(&str, &str)> =
        rules.iter().map(|rule| (rule.name.as_str(), rule.kind.as_str())).collect();
    let expected = [
        ("leak", "leak"),
        ("low", "threshold"),
        ("swap", "threshold"),
        ("flaps", "flapping"),
        ("gone", "absence"),
    ];
    assert_eq!(names, expected);
    let WatchKind::Leak { series, window, at_least } = &rules[0].kind else { panic!("{:?}", rules[0]) };
    assert_eq!(series.to_string(), "unit_memory_bytes{unit=\"app-*\"}");
    assert_eq!((*window, *at_least), (Duration::from_secs(7 * 86_400), 0.09));
    assert_eq!((rules[0].stages.as_slice(), rules[0].severity), (&[stage("prod")][..], Severity::Warning));
    assert_eq!((rules[0].held_for, rules[0].clear_after), (Duration::ZERO, Duration::from_secs(7 * 3600)));
    let WatchKind::Threshold { bound, part_of, .. } = &rules[1].kind else { panic!("{:?}", rules[1]) };
    assert_eq!((*bound, part_of.as_deref()), (Bound::Below(0.05), Some("disk_size_bytes")));
    assert_eq!((rules[1].severity, rules[1].held_for), (Severity::Critical, Duration::from_secs(300)));
    let WatchKind::Threshold { bound, .. } = &rules[2].kind else { panic!("{:?}", rules[2]) };
    assert_eq!((*bound, rules[2].text.as_str()), (Bound::Above(67_108_864.0), "look"));
    assert_eq!(
        (rules[2].held_for, rules[2].clear_after),
        (Duration::from_secs(60), Duration::from_secs(120))
    );
    assert_eq!(rules[3].clear_after, Duration::from_secs(600));
}

#[test]
fn a_watch_rule_that_cannot_be_read_says_why() {
    let check = |rule: &str, expected: &str| {
        let text = format!("{STAGES}watch:\n  - {{ {rule} }}\n");
        let error = FleetConfig::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with("line 6, watch[0]") && error.contains(expected), "{error}");
    };
    check("name: a", "the key \"kind\" is missing");
    check("name: a, kind: leek, series: x", "there is no kind \"leek\"; did you mean \"leak\"?");
    check("name: a, kind: leak", "the key \"series\" is missing");
    check("name: A, kind: flapping", "\"A\" is no name of a rule");
    check("name: a, kind: leak, series: x, above: 3", "the key \"above\" is unknown");
    check("name: a, kind: leak, series: 'x{', window: 7d", "series");
    check("name: a, kind: threshold, series: x", "there is no bound");
    check("name: a, kind: threshold, series: x, above: 1, below: 0", "there are two bounds");
    check("name: a, kind: threshold, series: x, above: NaN", "\"NaN\" is not a number");
    check("name: a, kind: threshold, series: x, above: 5%", "\"5%\" is not a number");
    check("name: a, kind: threshold, series: x, above: 5, of: y", "\"5\" is not a percentage");
    check("name: a, kind: threshold, series: x, above: 5%, of: 'y{}'", "is no name of a series");
    check("name: a, kind: flapping, restarts: 0", "0 would always hold");
    check("name: a, kind: flapping, stages: [produ]", "there is no stage \"produ\"");
    check("name: a, kind: flapping, severity: bad", "severity");
    check("name: a, kind: version-skew, longer_than: 0s", "out of range");
    let two =
        format!("{STAGES}watch:\n  - {{ name: a, kind: flapping }}\n  - {{ name: a, kind: clock-skew }}\n");
    assert!(FleetConfig::parse(&two).unwrap_err().to_string().contains("there are two rules \"a\""));
    assert!(
        FleetConfig::parse(&format!("{STAGES}watch: 3\n"))
            .unwrap_err()
            .to_string()
            .contains("this is not a list")
    );
    assert_eq!(parse("watch: []\n").watch, []);
}

#[test]
fn gates_are_read_with_their_defaults() {
    let gates = parse(
        "gates:\n  prod:\n    watch: critical\n    no_worse_than: prod\n    freeze: true\n    \
         time: { open: [\"Mon..Thu 08:00-16:00\"], time_zone: Europe/Paris }\n",
    )
    .gates_of(&stage("prod"));
    assert_eq!((gates.watch, gates.freeze), (Some(Severity::Critical), true));
    let compared = gates.no_worse_than.unwrap();
    assert_eq!((compared.stage, compared.looks, compared.devices_at_least), (stage("prod"), 4, 3));
    assert_eq!((compared.watched, compared.effect.hundredths()), (Duration::from_secs(86_400), 500));
    let time = gates.time.unwrap();
    assert_eq!((time.open.len(), time.zone), (1, Zone::Named("Europe/Paris".into())));
    let gates =
        parse("gates: { prod: { no_worse_than: { stage: dev, watched: 12h, looks: 6, effect: 10% } } }\n");
    let compared = gates.gates_of(&stage("prod")).no_worse_than.unwrap();
    assert_eq!((compared.looks, compared.watched), (6, Duration::from_secs(12 * 3600)));
}

#[test]
fn a_gate_that_cannot_be_read_says_why() {
    let check = |gate: &str, expected: &str| {
        let text = format!("{STAGES}gates: {{ prod: {{ {gate} }} }}\n");
        let error = FleetConfig::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with("line 5, gates") && error.contains(expected), "{error}");
    };
    check("watch: bad", "severity");
    check("no_worse_than: prd", "there is no stage \"prd\"; did you mean \"prod\"?");
    check("no_worse_than: { stage: dev, looks: 7 }", "7 looks are not taken; write 1 to 6");
    check("no_worse_than: { watched: 1d }", "\"stage\" is missing");
    check("time: { open: [] }", "there are 0 times");
    check("time: { open: \"Mon 8-16\" }", "is no time of day");
    check("time: { open: \"08:00-16:00\", time_zone: device }", "a merge is made by people");
    check("freeze: maybe", "neither true nor false");
}

#[test]
fn gates_whose_word_comes_from_elsewhere_have_a_name_and_an_age() {
    let config =
        parse("gates:\n  prod:\n    command: { rig: 1h }\n    external: { field-test: 7d, lab: 90s }\n");
    let gates = config.gates_of(&stage("prod"));
    let hour = Duration::from_secs(3600);
    assert_eq!(
        gates.command.iter().map(|(name, age)| (name.as_str(), *age)).collect::<Vec<_>>(),
        [("rig", hour)]
    );
    assert_eq!(gates.external.len(), 2);
    for (written, expected) in [
        ("command: { rig: 5s }", "gates.prod.command.rig"),
        ("command: rig", "this is not a map of keys"),
        ("external: {}", "there are 0 names"),
        ("external: { \"a b\": 1h }", "gate name \"a b\" is not valid"),
        ("command: { rig: /bin/true }", "is not a duration"),
    ] {
        let text = format!("{STAGES}gates:\n  prod:\n    {written}\n");
        let problem = FleetConfig::parse(&text).unwrap_err().to_string();
        assert!(problem.contains(expected), "{written}: {problem}");
    }
}
