//! More people than one must sign: who counts, what counts, and what does not; and keys that expire.

mod support;

use support::{Fleet, device, stage};
use volary_fleet::{
    Advance, CONFIG_FILE, LooseStore, ObjectSource, PackLimits, ReadObjects, Refusal, RootSigners,
    SIGNERS_FILE, Start, approval_message, pack_for_device, read_pack, verify_advance,
};
use volary_host::read_to_string;
use volary_model::CommitId;

fn advance(fleet: &Fleet, name: &str, from: &CommitId, tip: &CommitId) -> Result<Advance, Refusal> {
    verify_advance(&fleet.repository(), &stage(name), Start::After(from), tip)
}

fn refused(result: Result<Advance, Refusal>, expected: &[&str]) {
    let text = result.expect_err("it must be refused").to_string();
    assert!(expected.iter().all(|part| text.contains(part)), "{text}");
}

/// Appends to `volary.yml` in the work tree.
fn add_rules(fleet: &Fleet, text: &str) {
    let old = read_to_string(&fleet.work().join(CONFIG_FILE)).unwrap();
    fleet.write(CONFIG_FILE, &format!("{old}\n{text}"));
}

/// A fleet of alice, bob and carol, in which two must sign for the canaries; returns the commit that
/// canary is at.
fn two_for_canary() -> (Fleet, CommitId) {
    let fleet = Fleet::new();
    fleet.branch("canary", "master");
    fleet.new_key("carol", &["-t", "ed25519"]);
    let signers: String = ["alice", "bob", "carol"].map(|who| fleet.signer_line(who, "")).concat();
    fleet.write(SIGNERS_FILE, &signers);
    add_rules(&fleet, "quorum: { canary: 2 }\n");
    fleet.commit("alice", "Two for the canaries");
    let at = fleet.promote("alice", "master", "canary");
    fleet.checkout("master");
    (fleet, at)
}

#[test]
fn an_approval_of_what_is_promoted_or_of_the_merge_makes_two() {
    let (fleet, at) = two_for_canary();
    let work = fleet.commit("alice", "Work");
    let merge = fleet.promote("alice", "master", "canary");
    let needed = [
        "signed by alice@example.com, and canary needs 2 different people",
        "approvals may come from bob@example.com, carol@example.com",
        &format!("volary approve --stage canary {}", work.short()),
    ];
    refused(advance(&fleet, "canary", &at, &merge), &needed);
    fleet.approve("bob", &work, "canary");
    let step = advance(&fleet, "canary", &at, &merge).unwrap().steps.remove(0);
    assert_eq!(step.approvals[0].name(), "bob@example.com");

    fleet.checkout("master");
    fleet.commit("alice", "More work");
    let next = fleet.promote("carol", "master", "canary");
    refused(advance(&fleet, "canary", &merge, &next), &["signed by carol@example.com, and canary needs 2"]);
    fleet.approve("alice", &next, "canary");
    // All the way from where canary was: each step needs its own.
    assert_eq!(advance(&fleet, "canary", &at, &next).unwrap().steps.len(), 2);
}

#[test]
fn what_does_not_count() {
    let (fleet, at) = two_for_canary();
    let before = fleet.tip("master");
    fleet.write("group_vars/all.yml", "---\nnew: 1\n");
    let work = fleet.commit("alice", "Work");
    let merge = fleet.promote("alice", "master", "canary");
    let one = |expected: &str| {
        refused(advance(&fleet, "canary", &at, &merge), &["needs 2 different people", expected]);
    };
    // The same person again; another stage; another commit; a stranger.
    fleet.approve("alice", &work, "canary");
    one("bob@example.com, carol@example.com");
    fleet.approve("bob", &work, "production");
    fleet.approve("bob", &before, "canary");
    one("bob@example.com");
    fleet.approve("mallory", &work, "canary");
    one("an approval does not count: the key");
    // A true signature on a text that is no approval, or names other files.
    fleet.tag_as_approval("bob", &work, "canary", "Looks good to me\n");
    let other = fleet.repository().commit(&before).unwrap().tree;
    fleet.tag_as_approval("bob", &work, "canary", &approval_message(&work, &other, &stage("canary")));
    one("bob@example.com");
    // A replay: bob's approval of one commit kept as if it were of another.
    let tag = fleet.approve("bob", &before, "canary");
    let forged = format!("refs/approvals/{work}/canary/{tag}");
    fleet.git(&["update-ref", &forged, &tag.to_string()]);
    one("bob@example.com");
    fleet.approve("bob", &work, "canary");
    advance(&fleet, "canary", &at, &merge).unwrap();
}

#[test]
fn keys_of_one_person_count_once() {
    let fleet = Fleet::new();
    fleet.new_key("second", &["-t", "ed25519"]);
    let second = fleet.signer_line("second", "").replace("second@example.com", "alice@example.com");
    fleet.write(SIGNERS_FILE, &(fleet.signer_line("alice", "") + &second + &fleet.signer_line("bob", "")));
    add_rules(&fleet, "quorum: { development: 2 }\n");
    let at = fleet.commit("alice", "Two for development");
    let tip = fleet.commit("alice", "Work");
    fleet.approve("second", &tip, "development");
    refused(advance(&fleet, "development", &at, &tip), &["bob@example.com may approve it"]);
    fleet.approve("bob", &tip, "development");
    advance(&fleet, "development", &at, &tip).unwrap();
}

#[test]
fn only_those_who_may_sign_for_the_stage_count() {
    let (fleet, _) = two_for_canary();
    add_rules(&fleet, "signers: { canary: [alice@example.com, carol@example.com] }\n");
    let rules = fleet.commit("alice", "Not bob");
    fleet.approve("bob", &rules, "canary");
    let at = fleet.promote("alice", "master", "canary");
    fleet.checkout("master");
    let work = fleet.commit("alice", "Work");
    let merge = fleet.promote("alice", "master", "canary");
    fleet.approve("bob", &work, "canary");
    refused(
        advance(&fleet, "canary", &at, &merge),
        &["carol@example.com may approve it", "does not count: bob@example.com may not sign for canary"],
    );
}

#[test]
fn a_change_of_the_rules_needs_what_the_old_rules_ask() {
    let (fleet, at) = two_for_canary();
    let old = read_to_string(&fleet.work().join(CONFIG_FILE)).unwrap();
    // Fewer people, other signers, or a mistake on the way: none of it counts for its own step.
    for (path, text) in [
        (CONFIG_FILE, old.replace("canary: 2", "canary: 1")),
        (CONFIG_FILE, old.replace("quorum: { canary: 2 }", "signers: { canary: [alice@example.com] }")),
        (SIGNERS_FILE, fleet.signer_line("alice", "")),
    ] {
        fleet.checkout("master");
        let kept = fleet.tip("master");
        fleet.write(path, &text);
        let work = fleet.commit("alice", "Make it easy for me");
        let merge = fleet.commit_tree("alice", "master^{tree}", &["canary", "master"], "Promote");
        refused(advance(&fleet, "canary", &at, &merge), &["needs 2 different people"]);
        if path == CONFIG_FILE {
            fleet.approve("bob", &work, "canary");
            advance(&fleet, "canary", &at, &merge).unwrap();
        }
        fleet.git(&["reset", "--quiet", "--hard", kept.as_str()]);
    }
}

#[test]
fn after_a_tip_enough_people_must_be_able_to_sign() {
    let fleet = Fleet::new();
    let root = fleet.tip("master");
    add_rules(&fleet, "quorum: { development: 3 }\n");
    let tip = fleet.commit("alice", "Three of two");
    refused(
        advance(&fleet, "development", &root, &tip),
        &["nothing could follow it", "needs 3 different people", "2 of"],
    );
    fleet.git(&["reset", "--quiet", "--hard", root.as_str()]);
    fleet.write(SIGNERS_FILE, &fleet.signer_line("alice", "valid-before=\"20200101Z\""));
    let tip = fleet.commit("alice", "Nobody any more");
    refused(advance(&fleet, "development", &root, &tip), &["nothing could follow it", "0 of"]);
}

#[test]
fn a_new_device_and_one_that_comes_from_another_stage() {
    let (fleet, at) = two_for_canary();
    let signers = read_to_string(&fleet.work().join(SIGNERS_FILE)).unwrap();
    let root = |quorum: u32, name: &str, tip: &CommitId| {
        let lines: Vec<&str> = signers.lines().collect();
        let RootSigners { signers, quorum } =
            RootSigners::parse(&RootSigners::to_text(&lines, quorum)).unwrap();
        verify_advance(&fleet.repository(), &stage(name), Start::First { signers: &signers, quorum }, tip)
    };
    // The tip itself asks for two; and for development the device was told to.
    refused(root(1, "canary", &at), &["canary needs 2"]);
    let work = fleet.tip("master");
    root(1, "development", &work).unwrap();
    refused(root(2, "development", &work), &["development needs 2"]);
    fleet.approve("bob", &at, "canary");
    root(1, "canary", &at).unwrap();
    fleet.approve("bob", &work, "development");
    root(2, "development", &work).unwrap();
    // A device of development goes over to canary: what development's commit says of canary counts.
    fleet.commit("alice", "Work");
    let merge = fleet.promote("carol", "master", "canary");
    let from = |tip| verify_advance(&fleet.repository(), &stage("canary"), Start::From(&work), tip);
    refused(from(&merge), &["canary needs 2"]);
    fleet.approve("alice", &merge, "canary");
    from(&merge).unwrap();
}

#[test]
fn approvals_travel_with_the_objects() {
    let (fleet, at) = two_for_canary();
    let work = fleet.commit("alice", "Work");
    let merge = fleet.promote("alice", "master", "canary");
    let tag = fleet.approve("bob", &work, "canary");
    let folder = tempfile::tempdir().unwrap();
    let store = LooseStore::open(folder.path()).unwrap();
    let receive = |want: &CommitId, have: Option<&CommitId>| {
        let pack = pack_for_device(&fleet.repository(), want, have, &device("dev-1")).unwrap();
        read_pack(&pack[..], &PackLimits::default(), &mut |object| store.insert(&object).map(drop)).unwrap();
    };
    receive(&at, None);
    receive(&merge, Some(&at));
    let verified = || verify_advance(&store, &stage("canary"), Start::After(&at), &merge);
    assert_eq!(verified().unwrap().steps[0].approvals.len(), 1);
    assert_eq!(store.approvals(&work).unwrap(), [tag]);
    // What is left of a tag after a power cut is no approval, and heals with the next fetch.
    let (head, rest) = (&tag.to_string()[..2], &tag.to_string()[2..]);
    volary_host::write_atomic(&folder.path().join(head).join(rest), b"torn", 0o444).unwrap();
    refused(verified(), &["needs 2"]);
    receive(&merge, Some(&at));
    verified().unwrap();
    // A device that is new there gets them too.
    let fresh = tempfile::tempdir().unwrap();
    let fresh = LooseStore::open(fresh.path()).unwrap();
    let pack = pack_for_device(&fleet.repository(), &merge, None, &device("dev-1")).unwrap();
    read_pack(&pack[..], &PackLimits::default(), &mut |object| fresh.insert(&object).map(drop)).unwrap();
    assert_eq!(fresh.approvals(&work).unwrap(), [tag]);
    store.retain(&|_| false).unwrap();
    assert_eq!(store.approvals(&work).unwrap(), []);
}

/// 2024-01-01, between the commits before and after it.
const END: i64 = 1_704_067_200;

/// A fleet in which alice's key ends at [`END`], with what was accepted then.
fn with_an_end() -> (Fleet, CommitId) {
    let fleet = Fleet::new();
    let signers = fleet.signer_line("alice", "valid-before=\"20240101Z\"") + &fleet.signer_line("bob", "");
    fleet.write(SIGNERS_FILE, &signers);
    let at = fleet.commit("bob", "Alice's key ends with the year");
    (fleet, at)
}

#[test]
fn a_key_that_expired_after_it_signed_does_not_stop_the_fleet() {
    let (fleet, at) = with_an_end();
    fleet.at(END - 60);
    let signed = fleet.commit("alice", "In time");
    fleet.at(END + 86_400);
    let tip = fleet.commit("bob", "Much later");
    // A device that was away all the time takes both.
    assert_eq!(advance(&fleet, "development", &at, &tip).unwrap().steps.len(), 2);
    advance(&fleet, "development", &signed, &tip).unwrap();
}

#[test]
fn an_expired_key_signs_nothing_new_whatever_date_it_writes() {
    let (fleet, _) = with_an_end();
    fleet.at(END + 60);
    let late = fleet.commit("bob", "After the end");
    fleet.commit("alice", "And I");
    let tip = fleet.tip("HEAD");
    refused(advance(&fleet, "development", &late, &tip), &["was not valid for git at the time"]);
    fleet.git(&["reset", "--quiet", "--hard", late.as_str()]);
    fleet.at(END - 3600);
    let back_dated = fleet.commit("alice", "And I, back-dated");
    refused(
        advance(&fleet, "development", &late, &back_dated),
        &[
            "alice@example.com",
            "expired before what this follows was made",
            "the time that it claims is not true",
        ],
    );
    // Nor does it help to put something innocent in between.
    fleet.at(END - 1800);
    let tip = fleet.commit("bob", "Innocent, with a slow clock");
    refused(advance(&fleet, "development", &late, &tip), &["expired before what this follows"]);
}

#[test]
fn an_approval_with_an_expired_key_counts_if_it_was_made_in_time() {
    let fleet = Fleet::new();
    fleet.new_key("carol", &["-t", "ed25519"]);
    let alice = fleet.signer_line("alice", "valid-before=\"20240101Z\"");
    fleet.write(SIGNERS_FILE, &(alice + &fleet.signer_line("bob", "") + &fleet.signer_line("carol", "")));
    add_rules(&fleet, "quorum: { development: 2 }\n");
    let at = fleet.commit("bob", "Rules");
    fleet.at(END - 600);
    let work = fleet.commit("bob", "Work");
    fleet.approve("alice", &work, "development");
    fleet.at(END + 600);
    let next = fleet.commit("bob", "More");
    assert_eq!(advance(&fleet, "development", &at, &work).unwrap().steps.len(), 1);
    fleet.at(END - 300);
    fleet.approve("alice", &next, "development");
    refused(
        advance(&fleet, "development", &work, &next),
        &["development needs 2", "alice@example.com", "expired before what this follows"],
    );
}
