//! How a stage moves: every allowed way, and every forbidden one with its own message.

mod support;

use support::{Fleet, stage};
use volary_fleet::{Advance, AllowedSigners, Refusal, SIGNERS_FILE, Start, verify_advance};
use volary_model::CommitId;

fn advance(fleet: &Fleet, name: &str, from: &CommitId, tip: &CommitId) -> Result<Advance, Refusal> {
    verify_advance(&fleet.repository(), &stage(name), Start::After(from), tip)
}

/// A fleet with three branches, whose later stages begin at the first commit.
fn three_stages() -> (Fleet, CommitId) {
    let fleet = Fleet::new();
    let root = fleet.tip("HEAD");
    fleet.branch("canary", "master");
    fleet.branch("production", "master");
    (fleet, root)
}

fn refused(result: Result<Advance, Refusal>, expected: &str) {
    let text = result.expect_err("it must be refused").to_string();
    assert!(text.contains(expected), "{text}");
}

#[test]
fn signed_work_goes_through_all_stages() {
    let (fleet, root) = three_stages();
    fleet.write("group_vars/all.yml", "---\na: 1\n");
    let one = fleet.commit("alice", "One");
    let two = fleet.commit("bob", "Two");
    let steps = advance(&fleet, "development", &root, &two).unwrap().steps;
    assert_eq!(steps.iter().map(|step| &step.commit).collect::<Vec<_>>(), [&one, &two]);
    assert_eq!(steps[1].signer.name(), "bob@example.com");
    let canary = fleet.promote("alice", "master", "canary");
    let step = advance(&fleet, "canary", &root, &canary).unwrap().steps.remove(0);
    assert_eq!(step.merged, Some(two));
    let production = fleet.promote("bob", "canary", "production");
    advance(&fleet, "production", &root, &production).unwrap();
    assert!(advance(&fleet, "production", &production, &production).unwrap().steps.is_empty());

    // A second round, on top of the first.
    fleet.checkout("master");
    fleet.commit("alice", "Three");
    let canary_2 = fleet.promote("alice", "master", "canary");
    advance(&fleet, "canary", &canary, &canary_2).unwrap();
    assert_eq!(advance(&fleet, "canary", &root, &canary_2).unwrap().steps.len(), 2);
}

#[test]
fn each_step_must_be_signed() {
    let (fleet, root) = three_stages();
    fleet.commit("", "Unsigned");
    let tip = fleet.commit("alice", "Signed on top");
    refused(advance(&fleet, "development", &root, &tip), "is not signed");
    fleet.git(&["reset", "--quiet", "--hard", root.as_str()]);
    let tip = fleet.commit("mallory", "By a stranger");
    refused(advance(&fleet, "development", &root, &tip), "not in .volary/allowed_signers");
}

#[test]
fn a_commit_cannot_let_itself_in() {
    let (fleet, root) = three_stages();
    fleet.write(SIGNERS_FILE, &(fleet.signer_line("mallory", "") + &fleet.signer_line("alice", "")));
    let tip = fleet.commit("mallory", "Let myself in");
    refused(advance(&fleet, "development", &root, &tip), "not in .volary/allowed_signers");
    fleet.git(&["reset", "--quiet", "--soft", root.as_str()]);
    fleet.commit("alice", "Let mallory in, bob out");
    let tip = fleet.commit("mallory", "Now I may");
    advance(&fleet, "development", &root, &tip).unwrap();
    let tip = fleet.commit("bob", "I no longer");
    refused(advance(&fleet, "development", &root, &tip), "not in .volary/allowed_signers");
}

#[test]
fn a_stage_takes_its_own_signers_only() {
    let (fleet, _) = three_stages();
    let text = volary_host::read_to_string(&fleet.work().join("volary.yml")).unwrap();
    fleet.write("volary.yml", &format!("{text}\nsigners:\n  canary: [alice@example.com]\n"));
    fleet.commit("alice", "Only alice for canary");
    let first = fleet.promote("alice", "master", "canary");
    fleet.checkout("master");
    fleet.commit("bob", "Bob may here");
    let tip = fleet.promote("bob", "master", "canary");
    refused(advance(&fleet, "canary", &first, &tip), "bob@example.com, who may not sign for canary");
}

#[test]
fn only_identical_merges_reach_later_stages() {
    let (fleet, root) = three_stages();
    fleet.write("group_vars/all.yml", "---\na: 1\n");
    fleet.commit("alice", "Work");
    fleet.checkout("canary");
    let direct = fleet.commit("alice", "Directly on canary");
    refused(advance(&fleet, "canary", &root, &direct), "is not a merge of development into canary");
    fleet.git(&["reset", "--quiet", "--hard", root.as_str()]);
    fleet.write("group_vars/extra.yml", "---\n");
    fleet.git(&["add", "--all"]);
    let tree = fleet.git(&["write-tree"]).text();
    let evil = fleet.commit_tree("alice", tree.trim(), &["canary", "master"], "Evil merge");
    refused(advance(&fleet, "canary", &root, &evil), "different: group_vars/all.yml, group_vars/extra.yml");
    let fast_forward = fleet.tip("master");
    refused(advance(&fleet, "canary", &root, &fast_forward), "is not a merge");
}

#[test]
fn a_stage_never_goes_back() {
    let (fleet, root) = three_stages();
    let old = fleet.commit("alice", "Old");
    let new = fleet.commit("alice", "New");
    let canary = fleet.promote("alice", "master", "canary");
    refused(advance(&fleet, "development", &new, &old), "is older than");
    refused(advance(&fleet, "canary", &canary, &root), "is older than");
    let back = fleet.commit_tree("alice", &format!("{old}^{{tree}}"), &["canary", old.as_str()], "Back");
    refused(advance(&fleet, "canary", &canary, &back), "takes canary back");
    let other = fleet.commit_tree("alice", "HEAD^{tree}", &[root.as_str()], "Another way");
    refused(advance(&fleet, "development", &new, &other), "the branch was rewritten");
    let unrelated = fleet.commit_tree("alice", "HEAD^{tree}", &[], "Unrelated");
    refused(advance(&fleet, "development", &new, &unrelated), "the branch was rewritten");
}

#[test]
fn a_merge_for_one_stage_is_not_taken_by_another() {
    let (fleet, root) = three_stages();
    fleet.commit("alice", "Work");
    let bound = "Promote\n\nVolary-Stage: canary\n";
    let merge = fleet.commit_tree("alice", "master^{tree}", &["canary", "master"], bound);
    advance(&fleet, "canary", &root, &merge).unwrap();
    refused(advance(&fleet, "production", &root, &merge), "was signed for stage canary, not for production");
}

#[test]
fn the_first_commit_needs_the_signers_that_came_with_the_device() {
    let (fleet, root) = three_stages();
    let first = |name: &str, signers: &str, tip: &CommitId| {
        let signers = AllowedSigners::parse(signers).unwrap();
        verify_advance(&fleet.repository(), &stage(name), Start::First { signers: &signers, quorum: 1 }, tip)
    };
    let alice = fleet.signer_line("alice", "");
    first("development", &alice, &root).unwrap();
    first("production", &alice, &root).unwrap();
    refused(first("development", &fleet.signer_line("mallory", ""), &root), "not in .volary/allowed_signers");
    let work = fleet.commit("alice", "Work");
    first("development", &alice, &work).unwrap();
    // A commit of development handed to a new production device.
    refused(first("production", &alice, &work), "is not a merge of canary into production");
    let canary = fleet.promote("alice", "master", "canary");
    first("canary", &alice, &canary).unwrap();
    refused(first("nowhere", &alice, &canary), "no stage nowhere");
}

#[test]
fn a_broken_commit_in_between_changes_no_rules() {
    let (fleet, root) = three_stages();
    let good = volary_host::read_to_string(&fleet.work().join("volary.yml")).unwrap();
    fleet.write("volary.yml", "stages: [\n");
    fleet.git(&["rm", "--quiet", "--cached", SIGNERS_FILE]);
    let signers = volary_host::read_to_string(&fleet.work().join(SIGNERS_FILE)).unwrap();
    volary_host::remove_if_exists(&fleet.work().join(SIGNERS_FILE)).unwrap();
    let broken = fleet.commit("alice", "Break the rules");
    refused(advance(&fleet, "development", &root, &broken), "nothing could follow it");
    let tip = fleet.commit("mallory", "Use the gap");
    refused(advance(&fleet, "development", &root, &tip), "not in .volary/allowed_signers");
    fleet.git(&["reset", "--quiet", "--hard", broken.as_str()]);
    fleet.write("volary.yml", &good);
    fleet.write(SIGNERS_FILE, &signers);
    let mended = fleet.commit("bob", "Mend it");
    assert_eq!(advance(&fleet, "development", &root, &mended).unwrap().steps.len(), 2);
}

/// `volary.yml` of a version that is to come.
fn of_the_future(fleet: &Fleet) {
    fleet.write("volary.yml", "needs_agent: \"999.0\"\nversion: 2\nstages: [who, knows]\n");
}

#[test]
fn what_is_for_newer_programs_is_verified_as_far_as_it_can_be() {
    let (fleet, root) = three_stages();
    let before = fleet.commit("alice", "Before");
    of_the_future(&fleet);
    let future = fleet.commit("alice", "Of the future");
    let found = advance(&fleet, "development", &root, &future).unwrap_err();
    assert!(found.to_string().contains("it needs volary-agent 999.0.0 or newer, and this is"), "{found}");
    let way = |found: Refusal| match found {
        Refusal::TooOld { commit, before, .. } => (commit, before),
        other => panic!("{other}"),
    };
    assert_eq!(way(found), (future.clone(), Some(before.clone())));
    let found = advance(&fleet, "development", &before, &future).unwrap_err();
    assert_eq!(way(found), (future.clone(), None), "there is nothing on the way");
    // What follows cannot be judged, even where the newest rules can be read again: they may have let bob go.
    fleet.write("volary.yml", &volary_host::read_to_string(&fleet.work().join("volary.yml")).unwrap());
    fleet.git(&["checkout", "--quiet", root.as_str(), "--", "volary.yml"]);
    let after = fleet.commit("bob", "As before");
    let found = advance(&fleet, "development", &root, &after).unwrap_err();
    assert_eq!(way(found), (future.clone(), Some(before)));
    assert_eq!(way(advance(&fleet, "development", &future, &after).unwrap_err()), (future, None));
    // It says nothing of a commit that it would not take anyway.
    fleet.git(&["reset", "--quiet", "--hard", root.as_str()]);
    of_the_future(&fleet);
    let stranger = fleet.commit("mallory", "By a stranger");
    refused(advance(&fleet, "development", &root, &stranger), "not in .volary/allowed_signers");
    fleet.checkout("canary");
    of_the_future(&fleet);
    let direct = fleet.commit("alice", "Directly on canary");
    refused(advance(&fleet, "canary", &root, &direct), "is not a merge of development into canary");
}
