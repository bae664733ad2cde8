//! Accounts, sessions, and who did what.

use jiff::{SignedDuration, Timestamp};
use volary_model::Digest;
use volary_store::{By, NewSession, Store};

fn with_store<F: Future<Output = ()>>(body: impl FnOnce(Store) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(&dir.path().join("db.sqlite")).await.unwrap();
        body(store.clone()).await;
        store.close().await;
    });
}

fn at(second: i64) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second)
}

fn digest(byte: u8) -> Digest {
    Digest::from_bytes([byte; 32])
}

fn new<'a>(hash: &'a Digest, account: Option<&'a str>, ends: i64) -> NewSession<'a> {
    let (how, role) = if account.is_some() { ("password", "admin") } else { ("oidc", "viewer") };
    NewSession { hash, person: "alice", how, account, role, subject: None, expires_at: at(ends) }
}

#[test]
fn a_session_ends_with_its_time_its_account_and_a_new_password() {
    with_store(|store| async move {
        assert!(store.add_user("alice", "viewer", "one", at(0)).await.unwrap());
        assert!(!store.add_user("alice", "admin", "two", at(0)).await.unwrap());
        let (first, second, other) = (digest(1), digest(2), digest(3));
        for hash in [&first, &second] {
            assert!(store.add_session(&new(hash, Some("alice"), 100), Some("one"), at(1)).await.unwrap());
        }
        assert!(store.add_session(&new(&other, None, 50), None, at(1)).await.unwrap());
        // The account's role counts, not the one of the session; of others the session's own.
        let kept = store.session(&first, at(2)).await.unwrap().unwrap();
        assert_eq!((kept.role.as_str(), kept.account.as_deref()), ("viewer", Some("alice")));
        assert!(store.set_user_role("alice", "operator").await.unwrap());
        assert_eq!(store.session(&first, at(2)).await.unwrap().unwrap().role, "operator");
        assert_eq!(store.session(&other, at(2)).await.unwrap().unwrap().role, "viewer");
        assert!(store.session(&other, at(50)).await.unwrap().is_none());

        assert!(store.set_user_password("alice", "three", Some(kept.id), at(5)).await.unwrap());
        assert!(store.session(&first, at(6)).await.unwrap().is_some());
        assert!(store.session(&second, at(6)).await.unwrap().is_none());
        // Somebody who gave the old password just before comes too late.
        assert!(!store.add_session(&new(&second, Some("alice"), 100), Some("one"), at(6)).await.unwrap());
        assert!(store.remove_user("alice").await.unwrap());
        assert!(store.session(&first, at(6)).await.unwrap().is_none());
        assert!(store.add_session(&new(&first, None, 300), None, at(200)).await.unwrap());
        assert_eq!(store.sessions(at(0)).await.unwrap().len(), 1, "those that ended are forgotten");
    });
}

#[test]
fn what_people_did_outlives_what_happened() {
    with_store(|store| async move {
        let by = By { name: "alice".into(), how: "oidc".into(), subject: Some("0815".into()) };
        store.add_event(at(0), "release-cut", "v1", "v1 was cut", Some(&by)).await.unwrap();
        store.add_event(at(1), "device-failed", "dev-1", "it failed", None).await.unwrap();
        let events = store.events(10, true).await.unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].by, Some(by));
        assert_eq!(store.events(10, false).await.unwrap().len(), 2);
    });
}
