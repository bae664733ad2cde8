//! The records on a real database file.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use volary_model::{BuildMethod, BuildScope, CommitId, DeviceName, Digest, SourceName};
use volary_store::{
    BuildState, Client, DeviceChanges, DeviceState, Enrolling, Enrolment, JoinRefusal, NewBuild, NewEvent,
    NewRebuild, NewReport, NewTurn, ReproductionState, Store, Turn,
};

/// Runs a test body on a fresh database.
fn with_store<F: Future<Output = ()>>(body: impl FnOnce(Store, std::path::PathBuf) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db.sqlite");
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let store = Store::open(&path).await.unwrap();
        body(store, path).await;
    });
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + second).unwrap()
}

fn commit(digit: char) -> CommitId {
    digit.to_string().repeat(40).parse().unwrap()
}

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn source() -> SourceName {
    "pulse".parse().unwrap()
}

fn new_build(digit: char) -> NewBuild {
    NewBuild {
        commit: commit(digit),
        subject: format!("commit {digit}"),
        author: "A <a@example.com>".into(),
        committed_at: at(0),
        targets: vec![("amd64".parse().unwrap(), BuildScope::Full)],
    }
}

/// As [`new_build`], for arm64 too.
fn new_builds(digit: char) -> NewBuild {
    let mut build = new_build(digit);
    build.targets.push(("arm64".parse().unwrap(), BuildScope::Any));
    build
}

fn enrolling(name: &str, key: u8, secret: Option<u8>) -> Enrolling {
    Enrolling {
        name: name.parse().unwrap(),
        fingerprint: digest(key),
        csr: "csr".into(),
        architecture: "amd64".parse().unwrap(),
        os: "Debian".into(),
        secret: secret.map(digest),
        client: Client::Agent,
    }
}

fn report(id: &str, good: char, packages: &[(&str, &str)]) -> NewReport {
    NewReport {
        device: "dev-1".parse().unwrap(),
        id: id.into(),
        stage: Some("canary".parse().unwrap()),
        good_commit: Some(commit(good)),
        suite: Some("rolling".into()),
        convergence: None,
        converged: None,
        packages: packages
            .iter()
            .map(|(name, version)| ((*name).into(), (*version).into()))
            .collect::<BTreeMap<_, _>>(),
        os: None,
        body: format!("{{\"id\":\"{id}\"}}"),
    }
}

#[test]
fn builds_of_a_source_are_queued_once_and_numbers_only_rise() {
    with_store(|store, _| async move {
        assert!(store.add_source(&source(), None, "master", &[], at(0)).await.unwrap());
        assert!(!store.add_source(&source(), None, "other", &[], at(0)).await.unwrap());
        let first =
            store.advance_source(&source(), None, &commit('a'), &[new_build('a')], at(1)).await.unwrap();
        assert_eq!(first.len(), 1);
        let again =
            store.advance_source(&source(), None, &commit('a'), &[new_build('a')], at(1)).await.unwrap();
        assert!(again.is_empty(), "somebody else moved the tip already");
        assert!(store.remove_source(&source(), at(2)).await.unwrap());
        assert!(store.sources().await.unwrap().is_empty());
        assert!(
            store
                .add_source(&source(), Some("https://x"), "main", &["arm64".parse().unwrap()], at(3))
                .await
                .unwrap()
        );
        store.advance_source(&source(), None, &commit('b'), &[new_build('b')], at(4)).await.unwrap();
        let numbers: Vec<u64> =
            store.builds(Some(&source()), 10).await.unwrap().iter().map(|build| build.number).collect();
        assert_eq!(numbers, [2, 1]);
    });
}

#[test]
fn the_queue_survives_a_kill_and_keeps_the_order_of_a_source() {
    with_store(|store, path| async move {
        store.add_source(&source(), None, "master", &[], at(0)).await.unwrap();
        let commits = [new_build('a'), new_build('b')];
        store.advance_source(&source(), None, &commit('b'), &commits, at(1)).await.unwrap();
        let first = store.claim_build(at(2)).await.unwrap().unwrap();
        assert_eq!((first.commit.clone(), first.state), (commit('a'), BuildState::Running));
        assert_eq!(store.claim_build(at(2)).await.unwrap(), None, "one build of a source at a time");

        let store = Store::open(&path).await.unwrap();
        let requeued = store.requeue_running(at(3)).await.unwrap();
        assert_eq!((requeued.len(), requeued[0].state), (1, BuildState::Queued));
        let again = store.claim_build(at(4)).await.unwrap().unwrap();
        assert_eq!((again.id, again.number, again.attempts), (first.id, first.number, 2));

        store
            .build_built(again.id, "1.0+git1", BuildMethod::Native, &["pulse=1.0+git1".into()])
            .await
            .unwrap();
        let kept = volary_model::Digest::from_bytes([7; 32]);
        store.keep_buildinfo(again.id, &kept).await.unwrap();
        assert_eq!(store.build(again.id).await.unwrap().unwrap().buildinfo, Some(kept));
        store.forget_buildinfo(again.id).await.unwrap();
        assert_eq!(store.build(again.id).await.unwrap().unwrap().buildinfo, None);
        assert!(store.requeue_running(at(5)).await.unwrap().is_empty());
        assert_eq!(
            store.claim_build(at(5)).await.unwrap(),
            None,
            "a newer one waits for the older's include"
        );
        assert_eq!(store.built().await.unwrap().len(), 1);
        store.build_succeeded(again.id, &["pulse=1.0+git1".into()], at(6)).await.unwrap();
        let second = store.claim_build(at(7)).await.unwrap().unwrap();
        assert_eq!(second.commit, commit('b'));
        store.build_failed(second.id, "no debian/", at(8)).await.unwrap();
        let retried = store.retry_build(second.id, at(9)).await.unwrap().unwrap();
        assert_eq!((retried.state, retried.reason), (BuildState::Queued, None));
        assert_eq!(store.retry_build(again.id, at(9)).await.unwrap(), None, "it succeeded");
    });
}

#[test]
fn the_first_build_of_a_commit_goes_before_its_others_and_takes_them_along() {
    with_store(|store, _| async move {
        store.add_source(&source(), None, "master", &[], at(0)).await.unwrap();
        let commits = [new_builds('a'), new_builds('b')];
        let ids = store.advance_source(&source(), None, &commit('b'), &commits, at(1)).await.unwrap();
        assert_eq!(ids, [1, 2, 3, 4]);
        let finish = async |id| {
            store.build_built(id, "1", BuildMethod::Native, &[]).await.unwrap();
            store.build_succeeded(id, &[], at(3)).await.unwrap();
        };
        let claim = async || store.claim_build(at(2)).await.unwrap().map(|build| build.id);
        assert_eq!((claim().await, claim().await), (Some(1), None), "arm64 waits for amd64");
        finish(1).await;
        assert_eq!((claim().await, claim().await, claim().await), (Some(2), Some(3), None));
        finish(2).await;
        let gone = store.build_failed(3, "no", at(4)).await.unwrap();
        assert_eq!((gone.len(), gone[0].id, gone[0].state), (1, 4, BuildState::Failed));
        assert_eq!(gone[0].reason.as_deref(), Some("build 3 of the same commit for amd64 failed"));
        assert_eq!(claim().await, None);
        store.retry_build(3, at(5)).await.unwrap().unwrap();
        assert_eq!(store.build(4).await.unwrap().unwrap().state, BuildState::Queued);
        assert_eq!((claim().await, claim().await), (Some(3), None));
        finish(3).await;
        assert_eq!(claim().await, Some(4));
    });
}

#[test]
fn a_build_that_the_machine_cannot_do_does_not_starve_the_others() {
    with_store(|store, _| async move {
        let other = "other".parse().unwrap();
        for name in [&source(), &other] {
            store.add_source(name, None, "master", &[], at(0)).await.unwrap();
        }
        let commits = [new_build('a'), new_build('b')];
        store.advance_source(&source(), None, &commit('b'), &commits, at(1)).await.unwrap();
        store.advance_source(&other, None, &commit('c'), &[new_build('c')], at(1)).await.unwrap();
        let claim = async |second| store.claim_build(at(second)).await.unwrap().map(|build| build.id);
        assert_eq!(claim(2).await, Some(1));
        store.build_postponed(1, "no chroot", at(2)).await.unwrap();
        assert_eq!(claim(2).await, Some(3), "the newer commit of the same source keeps its place behind");
        assert_eq!((claim(31).await, claim(32).await), (None, Some(1)));
        // Twice as long each time, but not for ever: when it is taken again tells how long.
        for wait in [60, 120, 240, 480, 900, 900] {
            store.build_postponed(1, "no chroot", at(1000)).await.unwrap();
            assert_eq!(claim(1000 + wait - 1).await, None, "{wait}");
            assert_eq!(claim(1000 + wait).await, Some(1), "{wait}");
        }
        store.build_postponed(1, "no chroot", at(1000)).await.unwrap();
        store.retry_build(1, at(1000)).await.unwrap().unwrap();
        assert_eq!(claim(1000).await, Some(1), "somebody asked for it");
        store.build_postponed(1, "no chroot", at(1000)).await.unwrap();
        store.forget_waits().await.unwrap();
        let again = store.claim_build(at(1000)).await.unwrap().unwrap();
        assert_eq!((again.id, again.attempts), (1, 1), "these were no attempts that count");
    });
}

#[test]
fn a_build_that_takes_the_server_down_each_time_ends() {
    with_store(|store, _| async move {
        store.add_source(&source(), None, "master", &[], at(0)).await.unwrap();
        store.advance_source(&source(), None, &commit('a'), &[new_build('a')], at(1)).await.unwrap();
        for _ in 0..5 {
            store.claim_build(at(2)).await.unwrap().unwrap();
            store.requeue_running(at(3)).await.unwrap();
        }
        let build = store.build(1).await.unwrap().unwrap();
        assert_eq!(build.state, BuildState::Failed);
        assert_eq!(build.reason.as_deref(), Some("the server was stopped during each of 5 attempts"));
    });
}

#[test]
fn an_enrolment_is_recognised_by_name_and_key() {
    with_store(|store, _| async move {
        let first = store.enroll(&enrolling("dev-1", 1, None), at(0)).await.unwrap();
        let Enrolment::Known { device, changed: true } = first else { panic!("{first:?}") };
        assert_eq!(device.state, DeviceState::Waiting);
        let again = store.enroll(&enrolling("dev-1", 1, None), at(1)).await.unwrap();
        assert!(matches!(again, Enrolment::Known { changed: false, .. }));
        let other_key = store.enroll(&enrolling("dev-1", 2, None), at(1)).await.unwrap();
        assert_eq!(other_key, Enrolment::NameTaken { by: digest(1) });
        let other_name = store.enroll(&enrolling("dev-2", 1, None), at(1)).await.unwrap();
        assert_eq!(other_name, Enrolment::KeyTaken { by: "dev-1".parse().unwrap() });
        store.reject_device(&"dev-1".parse().unwrap()).await.unwrap();
        let rejected = store.enroll(&enrolling("dev-1", 1, None), at(2)).await.unwrap();
        assert!(
            matches!(rejected, Enrolment::Known { device, changed: false } if device.state == DeviceState::Rejected)
        );
    });
}

#[test]
fn who_keeps_devices_in_memory_reads_what_changed() {
    with_store(async |store, _| {
        store.enroll(&enrolling("dev-1", 1, None), at(0)).await.unwrap();
        store.enroll(&enrolling("dev-2", 2, None), at(0)).await.unwrap();
        let names = |changes: &DeviceChanges| -> Vec<(String, bool)> {
            changes.devices.iter().map(|(name, device)| (name.to_string(), device.is_some())).collect()
        };
        let all = store.device_changes(0, 100).await.unwrap();
        assert_eq!(names(&all), [("dev-1".into(), true), ("dev-2".into(), true)]);
        assert_eq!(all.devices[0].1, store.device(&"dev-1".parse().unwrap()).await.unwrap());
        assert_eq!(names(&store.device_changes(0, 1).await.unwrap()), [("dev-1".into(), true)]);

        // A sign of life is no change, and is there all the same.
        store.devices_seen(&[("dev-1".parse().unwrap(), at(50))]).await.unwrap();
        store
            .devices_seen(&[("dev-1".parse().unwrap(), at(40)), ("gone".parse().unwrap(), at(40))])
            .await
            .unwrap();
        assert!(store.device_changes(all.last, 100).await.unwrap().devices.is_empty());
        assert_eq!(store.device(&"dev-1".parse().unwrap()).await.unwrap().unwrap().seen_at, Some(at(50)));
        assert_eq!(store.last_seen().await.unwrap(), [("dev-1".parse().unwrap(), at(50))]);

        let (first, other) = ("dev-1".parse().unwrap(), "dev-9".parse().unwrap());
        assert!(store.rename_waiting(&first, &other).await.unwrap());
        let mut renamed = names(&store.device_changes(all.last, 100).await.unwrap());
        renamed.sort();
        assert_eq!(renamed, [("dev-1".into(), false), ("dev-9".into(), true)]);
        let before = store.device_changes(0, 100).await.unwrap().last;
        assert!(store.remove_device(&other).await.unwrap());
        let removed = store.device_changes(before, 100).await.unwrap();
        assert_eq!(names(&removed), [("dev-9".into(), false)]);
        assert_eq!(store.waiting_devices().await.unwrap(), 1);
    });
}

#[test]
fn a_join_token_counts_each_device_once() {
    with_store(|store, _| async move {
        let stage = "canary".parse().unwrap();
        store.add_join_secret(&digest(9), &stage, 1, at(100), at(0)).await.unwrap();
        let unknown = store.enroll(&enrolling("dev-1", 1, Some(8)), at(1)).await.unwrap();
        assert_eq!(unknown, Enrolment::Refused(JoinRefusal::Unknown));
        let late = store.enroll(&enrolling("dev-1", 1, Some(9)), at(100)).await.unwrap();
        assert_eq!(late, Enrolment::Refused(JoinRefusal::Expired));
        for changed in [true, false] {
            let known = store.enroll(&enrolling("dev-1", 1, Some(9)), at(1)).await.unwrap();
            let Enrolment::Known { device, changed: did } = known else { panic!("{known:?}") };
            assert_eq!(
                (device.state, device.stage, did),
                (DeviceState::Accepted, Some(stage.clone()), changed)
            );
        }
        let second = store.enroll(&enrolling("dev-2", 2, Some(9)), at(1)).await.unwrap();
        assert_eq!(second, Enrolment::Refused(JoinRefusal::UsedUp));
        assert_eq!(store.device(&"dev-2".parse().unwrap()).await.unwrap(), None);
    });
}

#[test]
fn a_waiting_device_that_comes_back_with_a_token_is_accepted() {
    with_store(|store, _| async move {
        let stage = "canary".parse().unwrap();
        store.enroll(&enrolling("dev-1", 1, None), at(0)).await.unwrap();
        store.add_join_secret(&digest(9), &stage, 1, at(100), at(0)).await.unwrap();
        let known = store.enroll(&enrolling("dev-1", 1, Some(9)), at(1)).await.unwrap();
        assert!(
            matches!(known, Enrolment::Known { device, changed: true } if device.state == DeviceState::Accepted)
        );
    });
}

#[test]
fn a_report_counts_once_and_since_stands_while_nothing_changes() {
    with_store(|store, _| async move {
        let name: DeviceName = "dev-1".parse().unwrap();
        store.enroll(&enrolling("dev-1", 1, None), at(0)).await.unwrap();
        assert!(store.add_report(&report("1", 'a', &[("pulse", "1")]), at(10)).await.unwrap());
        assert!(!store.add_report(&report("1", 'b', &[]), at(11)).await.unwrap());
        assert!(store.add_report(&report("2", 'a', &[("pulse", "1")]), at(20)).await.unwrap());
        let silent_on_suite = NewReport { suite: None, ..report("3", 'a', &[("pulse", "1")]) };
        assert!(store.add_report(&silent_on_suite, at(30)).await.unwrap());
        let device = store.device(&name).await.unwrap().unwrap();
        assert_eq!((device.since, device.seen_at), (Some(at(10)), Some(at(30))));
        assert_eq!(device.suite.as_deref(), Some("rolling"));
        assert_eq!(store.devices_with("pulse", "1").await.unwrap()[0].first_seen, at(10));

        store.add_report(&report("4", 'b', &[("pulse", "2")]), at(40)).await.unwrap();
        assert_eq!(store.device(&name).await.unwrap().unwrap().since, Some(at(40)));
        assert!(store.devices_with("pulse", "1").await.unwrap().is_empty());
        assert_eq!(store.devices_with("pulse", "2").await.unwrap()[0].first_seen, at(40));
        let bodies: Vec<String> =
            store.reports(&name, 2).await.unwrap().into_iter().map(|report| report.body).collect();
        assert_eq!(bodies, ["{\"id\":\"4\"}", "{\"id\":\"3\"}"]);

        assert!(store.remove_device(&name).await.unwrap());
        assert!(store.reports(&name, 2).await.unwrap().is_empty());
    });
}

#[test]
fn old_reports_go() {
    with_store(|store, _| async move {
        store.enroll(&enrolling("dev-1", 1, None), at(0)).await.unwrap();
        for number in 0..205 {
            store.add_report(&report(&number.to_string(), 'a', &[]), at(number)).await.unwrap();
        }
        let kept = store.reports(&"dev-1".parse().unwrap(), 1000).await.unwrap();
        assert_eq!((kept.len(), kept[0].body.as_str()), (200, "{\"id\":\"204\"}"));
    });
}

#[test]
fn tokens_settings_branches_and_events_come_back() {
    with_store(|store, path| async move {
        assert!(store.add_token("alice", "admin", &digest(1), None, at(0)).await.unwrap());
        assert!(!store.add_token("alice", "viewer", &digest(2), None, at(0)).await.unwrap());
        store.token_used("alice", at(5)).await.unwrap();
        assert_eq!(store.tokens().await.unwrap()[0].used_at, Some(at(5)));
        assert!(store.remove_token("alice").await.unwrap());
        assert!(!store.remove_token("alice").await.unwrap());

        store.set_setting("x", &vec![1, 2]).await.unwrap();
        store.set_setting("x", &vec![3]).await.unwrap();
        assert_eq!(store.setting::<Vec<u8>>("x").await.unwrap(), Some(vec![3]));
        assert_eq!(store.setting::<u8>("y").await.unwrap(), None);

        assert!(store.branch_seen("master", &commit('a'), at(1)).await.unwrap());
        assert!(!store.branch_seen("master", &commit('a'), at(2)).await.unwrap());
        assert_eq!(store.branches().await.unwrap()[0].moved_at, at(1));

        store.add_event(at(0), "release-cut", "v1.0", "v1.0 was cut", None).await.unwrap();
        store.add_event(at(0) + SignedDuration::from_secs(1), "x", "y", "z", None).await.unwrap();
        let reader = Store::open_read_only(&path).await.unwrap();
        assert_eq!(reader.events(10, false).await.unwrap()[0].kind, "x");
        let many: Vec<NewEvent> = (0..4_500)
            .map(|number| NewEvent { kind: "k".into(), subject: format!("\"{number}\""), text: "t".into() })
            .collect();
        store.add_events(at(2), &many).await.unwrap();
        store.add_events(at(3), &[]).await.unwrap();
        let kept = reader.events(5_000, false).await.unwrap();
        assert_eq!(kept.len(), many.len() + 2);
        let first = kept.iter().take(many.len()).rev();
        assert!(first.zip(&many).all(|(kept, new)| (kept.at, &kept.subject) == (at(2), &new.subject)));
        assert!(reader.add_event(at(0), "a", "b", "c", None).await.is_err(), "it is opened to read only");
    });
}

#[test]
fn old_events_go_however_many_come_at_once() {
    with_store(|store, _| async move {
        let event =
            |number: usize| NewEvent { kind: "k".into(), subject: number.to_string(), text: "t".into() };
        let events: Vec<NewEvent> = (0..104_500).map(event).collect();
        store.add_events(at(0), &events[..3_000]).await.unwrap();
        store.add_events(at(1), &events[3_000..]).await.unwrap();
        let kept = store.events(200_000, false).await.unwrap();
        assert_eq!((kept.len(), kept[0].subject.as_str()), (100_000, "104499"));
        assert_eq!(kept.last().unwrap().subject, "4500");
    });
}

#[test]
fn a_build_is_cancelled_while_it_waits_or_runs() {
    with_store(|store, _| async move {
        store.add_source(&source(), None, "master", &[], at(0)).await.unwrap();
        let commits = [new_build('a'), new_build('b')];
        let ids = store.advance_source(&source(), None, &commit('b'), &commits, at(1)).await.unwrap();
        let running = store.claim_build(at(2)).await.unwrap().unwrap();
        for id in [running.id, ids[1]] {
            let cancelled = store.cancel_build(id, "cancelled by ada", at(3)).await.unwrap().unwrap();
            assert_eq!((cancelled.state, cancelled.ended_at), (BuildState::Cancelled, Some(at(3))));
            assert_eq!(store.cancel_build(id, "again", at(4)).await.unwrap(), None);
        }
        // What its worker says afterwards changes nothing.
        store.build_failed(running.id, "killed", at(5)).await.unwrap();
        store.build_built(running.id, "1", BuildMethod::Native, &[]).await.unwrap();
        let build = store.build(running.id).await.unwrap().unwrap();
        assert_eq!((build.state, build.reason.as_deref()), (BuildState::Cancelled, Some("cancelled by ada")));
        assert!(store.requeue_running(at(6)).await.unwrap().is_empty());
        assert_eq!(store.claim_build(at(6)).await.unwrap(), None);
        assert!(store.retry_build(running.id, at(7)).await.unwrap().is_some());
    });
}

/// A build that ended well.
async fn built(store: &Store, name: &str, needs: &[&str], asks: bool) -> i64 {
    let name: SourceName = name.parse().unwrap();
    store.add_source(&name, None, "master", &[], at(0)).await.unwrap();
    let known = store.sources().await.unwrap().into_iter().find(|source| source.name == name).unwrap();
    let next = if known.tip.is_some() { 'b' } else { 'a' };
    let ids = store
        .advance_source(&name, known.tip.as_ref(), &commit(next), &[new_build(next)], at(1))
        .await
        .unwrap();
    store.claim_build(at(2)).await.unwrap().unwrap();
    let needs: Vec<String> = needs.iter().map(|name| (*name).to_owned()).collect();
    store.build_needs(ids[0], &needs, asks).await.unwrap();
    store.build_built(ids[0], "1", BuildMethod::Native, &[format!("{name}=1")]).await.unwrap();
    store.build_succeeded(ids[0], &[format!("{name}=1")], at(3)).await.unwrap();
    ids[0]
}

#[test]
fn consequences_are_queued_once_and_wait_for_each_other() {
    with_store(|store, _| async move {
        built(&store, "app", &["lib"], false).await;
        built(&store, "tool", &["lib"], false).await;
        let lib = built(&store, "lib", &[], true).await;
        assert_eq!(store.unplanned().await.unwrap().iter().map(|build| build.id).collect::<Vec<_>>(), [lib]);
        let facts = store.build_facts().await.unwrap();
        let known: Vec<_> = facts.iter().map(|facts| (facts.source.as_str(), facts.asks)).collect();
        assert_eq!(known, [("app", false), ("lib", true), ("tool", false)]);
        assert_eq!(facts[0].needs, ["lib"]);

        let rebuild = |name: &str, after: &[&str]| NewRebuild {
            source: name.parse().unwrap(),
            because: "lib changed".into(),
            after: after.iter().map(|name| name.parse().unwrap()).collect(),
        };
        let plan = [rebuild("tool", &[]), rebuild("app", &["tool"])];
        let queued = store.queue_rebuilds(lib, &plan, at(4)).await.unwrap();
        assert_eq!(queued.len(), 2);
        assert!(queued.iter().all(|build| build.number == 2 && build.caused_by == Some(lib)), "{queued:?}");
        assert!(store.queue_rebuilds(lib, &plan, at(4)).await.unwrap().is_empty(), "it was planned");
        assert!(store.unplanned().await.unwrap().is_empty());

        let tool = store.claim_build(at(5)).await.unwrap().unwrap();
        assert_eq!((tool.source.as_str(), tool.because.as_deref()), ("tool", Some("lib changed")));
        assert_eq!(store.claim_build(at(5)).await.unwrap(), None, "app waits for tool");
        // A consequence has no consequences of its own.
        store.build_needs(tool.id, &[], true).await.unwrap();
        store.build_failed(tool.id, "x", at(6)).await.unwrap();
        assert_eq!(store.claim_build(at(7)).await.unwrap().unwrap().source.as_str(), "app");
        assert!(store.unplanned().await.unwrap().is_empty());
    });
}

#[test]
fn a_hook_is_told_what_it_does_not_know_and_not_the_history() {
    with_store(|store, _| async move {
        built(&store, "old", &[], false).await;
        store.know_status_hook("h").await.unwrap();
        let age = SignedDuration::from_hours(1);
        let untold = async |now| {
            let untold = store.untold("h", age, now).await.unwrap();
            untold.into_iter().map(|item| (item.build.source.to_string(), item.attempts)).collect::<Vec<_>>()
        };
        assert!(untold(at(4)).await.is_empty());
        let id = built(&store, "pulse", &[], false).await;
        assert_eq!(untold(at(4)).await, [("pulse".to_owned(), 0)]);
        store.status_failed(id, "h", "no", at(10)).await.unwrap();
        assert!(untold(at(9)).await.is_empty(), "not yet");
        assert_eq!(untold(at(11)).await, [("pulse".to_owned(), 1)]);
        assert_eq!(store.statuses(id).await.unwrap()[0].problem.as_deref(), Some("no"));
        store.status_told(id, "h", "succeeded").await.unwrap();
        assert!(untold(at(11)).await.is_empty());
        let late = built(&store, "late", &[], false).await;
        assert_eq!(untold(at(12)).await.len(), 1);
        assert!(untold(at(3 + 3600)).await.is_empty(), "nobody waits for build {late} any more");
    });
}

#[test]
fn a_comparison_waits_once_and_survives_a_kill() {
    with_store(|store, path| async move {
        let id = built(&store, "pulse", &[], false).await;
        let first = store.reproduce(id, "ada", at(4)).await.unwrap();
        assert_eq!(store.reproduce(id, "bob", at(5)).await.unwrap(), first);
        assert!(store.claim_reproduction(at(6)).await.unwrap().is_some());
        assert_eq!(store.claim_reproduction(at(6)).await.unwrap(), None);
        let store = Store::open(&path).await.unwrap();
        store.requeue_reproductions().await.unwrap();
        let mut again = store.claim_reproduction(at(7)).await.unwrap().unwrap();
        again.state = ReproductionState::Same;
        again.varied = vec!["umask".into()];
        store.reproduced(&again, at(8)).await.unwrap();
        let known = store.reproduction_of(id).await.unwrap().unwrap();
        assert_eq!(
            (known.state, known.varied.len(), known.ended_at),
            (ReproductionState::Same, 1, Some(at(8)))
        );
    });
}

fn turn(device: &str, goes_for: char, after: &str) -> NewTurn {
    NewTurn {
        device: device.parse().unwrap(),
        stage: "canary".parse().unwrap(),
        site: "north".into(),
        commit: commit(goes_for),
        after: after.into(),
    }
}

/// Takes a turn if at most one other device of the site has one.
async fn take(store: &Store, wanted: &NewTurn, now: Timestamp) -> bool {
    let device = wanted.device.clone();
    let decide = move |held: &[Turn]| {
        let free = held.iter().all(|turn| turn.device == device);
        (free.then(|| now + SignedDuration::from_secs(600)), free)
    };
    store.take_turn(wanted, now, decide).await.unwrap()
}

async fn accepted(store: &Store, names: &[(&str, u8)]) {
    for (name, key) in names {
        store.enroll(&enrolling(name, *key, None), at(0)).await.unwrap();
        store.accept_device(&name.parse().unwrap(), &"canary".parse().unwrap()).await.unwrap();
    }
}

#[test]
fn a_turn_is_given_once_and_outlives_a_restart() {
    with_store(|store, path| async move {
        accepted(&store, &[("dev-1", 1), ("dev-2", 2)]).await;
        assert!(take(&store, &turn("dev-1", 'a', "1"), at(1)).await);
        assert!(!take(&store, &turn("dev-2", 'a', "1"), at(2)).await);
        assert!(take(&store, &turn("dev-1", 'a', "1"), at(3)).await, "again: the answer was lost");
        let elsewhere = NewTurn { site: "south".into(), ..turn("dev-2", 'a', "1") };
        assert!(take(&store, &elsewhere, at(4)).await);
        store.close().await;
        let store = Store::open(&path).await.unwrap();
        let turns = store.turns(at(5)).await.unwrap();
        let told: Vec<_> =
            turns.iter().map(|turn| (turn.device.as_str(), turn.site.as_str(), turn.granted_at)).collect();
        assert_eq!(told, [("dev-1", "north", at(1)), ("dev-2", "south", at(4))]);
        assert!(!take(&store, &turn("dev-2", 'a', "1"), at(6)).await);
        assert_eq!(store.turns(at(6)).await.unwrap().len(), 1, "what it had elsewhere is given up");
        assert!(store.give_turn_back(&"dev-1".parse().unwrap()).await.unwrap());
        assert!(!store.give_turn_back(&"dev-1".parse().unwrap()).await.unwrap());
        assert!(take(&store, &turn("dev-2", 'a', "1"), at(7)).await);
        // A device that fell silent holds nobody up for ever.
        assert!(!take(&store, &turn("dev-1", 'a', "1"), at(606)).await);
        assert!(take(&store, &turn("dev-1", 'a', "1"), at(607)).await);
    });
}

#[test]
fn the_report_of_the_convergence_gives_the_turn_back() {
    with_store(|store, _| async move {
        accepted(&store, &[("dev-1", 1)]).await;
        assert!(take(&store, &turn("dev-1", 'b', "1"), at(1)).await);
        let told =
            |id: &str, of: Option<char>| NewReport { converged: of.map(commit), ..report(id, 'a', &[]) };
        // One of an attempt before, one of another commit, one of health.
        for (id, of) in [("1", Some('b')), ("2", Some('a')), ("3", None)] {
            store.add_report(&told(id, of), at(2)).await.unwrap();
            assert_eq!(store.turns(at(2)).await.unwrap().len(), 1, "report {id}");
        }
        store.add_report(&told("4", Some('b')), at(3)).await.unwrap();
        assert_eq!(store.turns(at(3)).await.unwrap(), []);
    });
}

#[test]
fn health_does_not_push_out_results() {
    with_store(|store, _| async move {
        accepted(&store, &[("dev-1", 1)]).await;
        let result = NewReport { convergence: Some("{}".into()), ..report("0000", 'a', &[]) };
        let mut reports = vec![result];
        reports.extend((1..=500).map(|number| report(&format!("{number:04}"), 'a', &[])));
        assert_eq!(store.add_reports(&reports, at(1)).await.unwrap(), vec![true; 501]);
        assert_eq!(store.add_reports(&reports[400..], at(2)).await.unwrap(), vec![false; 101], "once");
        let device = "dev-1".parse().unwrap();
        assert_eq!(store.reports(&device, 1000).await.unwrap().len(), 201);
        let results = store.results(&device, 1000).await.unwrap();
        assert_eq!(results.iter().map(|kept| kept.body.as_str()).collect::<Vec<_>>(), ["{\"id\":\"0000\"}"]);
    });
}
