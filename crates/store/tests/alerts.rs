//! Alerts, silences and the queues of feeds, on a real database file.

use jiff::Timestamp;
use volary_store::{AlertChange, AlertStep, Leaves, NewMessage, NewSilence, Store, StoredAlert};

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

fn alert(id: u64, state: &str) -> StoredAlert {
    StoredAlert {
        id,
        rule: "device-failed".into(),
        state: state.into(),
        since: at(0),
        began_at: (state != "pending").then(|| at(1)),
        ended_at: (state == "resolved").then(|| at(2)),
        version: 1,
        body: format!("{{\"id\":{id}}}"),
    }
}

fn change(alert: u64, kind: &str) -> AlertChange {
    AlertChange { alert, at: at(1), kind: kind.into(), text: format!("{alert} {kind}") }
}

fn message(feed: &str, limit: u64, body: &str) -> NewMessage {
    NewMessage { feed: feed.into(), limit, body: body.into() }
}

async fn bodies(store: &Store, feed: &str) -> Vec<String> {
    let messages = store.messages(feed, 100).await.unwrap();
    messages.into_iter().map(|message| String::from_utf8(message.body).unwrap()).collect()
}

#[test]
fn alerts_live_and_are_forgotten() {
    with_store(|store, path| async move {
        assert_eq!(store.next_alert().await.unwrap(), 1);
        let step = AlertStep {
            alerts: vec![alert(1, "firing"), alert(2, "pending"), alert(3, "firing")],
            changes: vec![change(1, "began"), change(3, "began")],
            ..AlertStep::default()
        };
        store.keep_alerts(&step, at(1)).await.unwrap();
        let step = AlertStep {
            alerts: vec![alert(1, "resolved")],
            forgotten: vec![2],
            changes: vec![change(1, "resolved")],
            ..AlertStep::default()
        };
        store.keep_alerts(&step, at(2)).await.unwrap();
        let store = Store::open(&path).await.unwrap();
        assert_eq!(store.open_alerts().await.unwrap(), [alert(3, "firing")]);
        assert_eq!(store.resolved_alerts(9).await.unwrap(), [alert(1, "resolved")]);
        assert_eq!((store.alert(2).await.unwrap(), store.alert(u64::MAX).await.unwrap()), (None, None));
        let kinds = async |alert| {
            let changes = store.alert_changes(alert, 9).await.unwrap();
            changes.into_iter().map(|change| change.text).collect::<Vec<_>>()
        };
        assert_eq!(kinds(None).await, ["1 resolved", "3 began", "1 began"]);
        assert_eq!(kinds(Some(1)).await, ["1 resolved", "1 began"]);
        let step = AlertStep { alerts: vec![alert(3, "resolved")], ..AlertStep::default() };
        store.keep_alerts(&step, at(3)).await.unwrap();
        assert_eq!(store.prune_alerts(at(9)).await.unwrap(), 1, "the newest stays");
        assert_eq!(kinds(None).await, ["3 began"]);
        assert_eq!(store.next_alert().await.unwrap(), 4);
    });
}

#[test]
fn silences_end_by_time_or_by_a_person() {
    with_store(|store, _| async move {
        let silence = |ends| NewSilence {
            matchers: "[\"stage=canary\"]".into(),
            reason: "works on the network".into(),
            author: "ada".into(),
            ends_at: at(ends),
        };
        let first = store.add_silence(&silence(10), at(0)).await.unwrap();
        let second = store.add_silence(&silence(100), at(0)).await.unwrap();
        let open = async |second| {
            let silences = store.silences(Some(at(second))).await.unwrap();
            silences.into_iter().map(|silence| silence.id).collect::<Vec<_>>()
        };
        assert_eq!(open(9).await, [first, second]);
        assert_eq!(open(10).await, [second]);
        assert!(store.end_silence(first, "bob", at(11)).await.unwrap().is_none(), "it ended by itself");
        let ended = store.end_silence(second, "bob", at(12)).await.unwrap().unwrap();
        assert_eq!(ended.made, silence(100));
        assert!(store.end_silence(second, "bob", at(12)).await.unwrap().is_none());
        assert_eq!(open(12).await, [0_u64; 0]);
        let all = store.silences(None).await.unwrap();
        let ended_by: Vec<_> = all.iter().map(|silence| silence.ended_by.as_deref()).collect();
        assert_eq!(ended_by, [None, Some("bob")]);
    });
}

#[test]
fn queues_keep_order_and_drop_the_oldest() {
    with_store(|store, path| async move {
        let some = ["aaaa", "bbbb", "cccc"].map(|body| message("one", 10, body));
        let dropped = store.enqueue(&some, at(0)).await.unwrap();
        assert_eq!(dropped, [("one".to_owned(), 1)]);
        let step = AlertStep {
            messages: vec![message("two", 3, "larger than its queue"), message("one", 10, "dd")],
            ..AlertStep::default()
        };
        assert_eq!(store.keep_alerts(&step, at(1)).await.unwrap(), []);
        let store = Store::open(&path).await.unwrap();
        assert_eq!(bodies(&store, "one").await, ["bbbb", "cccc", "dd"]);
        assert_eq!(bodies(&store, "two").await, ["larger than its queue"]);
        let first = store.messages("one", 1).await.unwrap()[0].seq;
        for _ in 0..2 {
            store.message_leaves("one", first, Leaves::Sent, at(2)).await.unwrap();
        }
        let next = store.messages("one", 1).await.unwrap()[0].seq;
        store.message_leaves("one", next, Leaves::Refused, at(3)).await.unwrap();
        let record = store.feed("one").await.unwrap();
        assert_eq!(
            (record.waiting, record.bytes, record.sent, record.dropped, record.refused),
            (1, 2, 1, 1, 1)
        );
        assert_eq!(record.sent_at, Some(at(2)));
    });
}

#[test]
fn feeds_remember_how_they_are() {
    with_store(|store, _| async move {
        assert_eq!(store.feed("f").await.unwrap().attempts, 0);
        store.feed_failed("f", "no route", at(10), at(0)).await.unwrap();
        store.feed_failed("f", "refused", at(30), at(10)).await.unwrap();
        let record = store.feed("f").await.unwrap();
        assert_eq!((record.attempts, record.problem.as_deref()), (2, Some("refused")));
        assert_eq!((record.failing_since, record.next_at), (Some(at(0)), Some(at(30))));
        store.set_feed_state("f", "{\"a\":1}").await.unwrap();
        store.feed_works("f", at(31)).await.unwrap();
        let record = store.feed("f").await.unwrap();
        assert_eq!((record.attempts, record.problem, record.failing_since), (0, None, None));
        assert_eq!(store.feed_state("f").await.unwrap(), "{\"a\":1}");
        store.enqueue(&[message("gone", 10, "x"), message("f", 10, "y")], at(32)).await.unwrap();
        assert_eq!(store.keep_feeds(&["f".into()]).await.unwrap(), ["gone"]);
        assert_eq!((bodies(&store, "gone").await.len(), bodies(&store, "f").await.len()), (0, 1));
    });
}
