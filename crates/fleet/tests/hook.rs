//! A bare repository whose pre-receive hook is ours: what real `git push` gets past it.
//!
//! git needs a program as its hook. This test binary is that program: the hook calls it back with
//! the name of the one test that then plays the hook.

mod support;

use std::io::Read;
use std::path::{Path, PathBuf};

use support::Fleet;
use volary_fleet::{AllowedSigners, HookOptions, RefUpdate, pre_receive};
use volary_host::Cmd;

const ROLE: &str = "VOLARY_TEST_PLAYS_HOOK";

/// Not a test of its own: what git runs as the hook. Without the variable it has nothing to do.
#[test]
fn plays_the_hook() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).unwrap();
    let updates: Vec<RefUpdate> = input.lines().map(|line| line.parse().unwrap()).collect();
    if let Err(rejections) = pre_receive(Path::new("."), &updates, &HookOptions::default()) {
        for rejection in rejections {
            eprintln!("{rejection}");
        }
        std::process::exit(1);
    }
}

struct Hosted {
    fleet: Fleet,
    bare: PathBuf,
}

impl Hosted {
    /// An empty hosted repository and a fleet that was not pushed yet.
    fn new(fleet: Fleet) -> Self {
        let bare = fleet.path().join("hosted.git");
        fleet.git(&["init", "--quiet", "--bare", "--initial-branch=master", bare.to_str().unwrap()]);
        let program = std::env::current_exe().unwrap();
        let hook = format!(
            "#!/bin/sh\nexport {ROLE}=1\nexec '{}' --exact plays_the_hook --nocapture\n",
            program.display()
        );
        volary_host::write_atomic(&bare.join("hooks/pre-receive"), hook.as_bytes(), 0o755).unwrap();
        Self { fleet, bare }
    }

    /// A hosted fleet whose three stages begin at the first commit.
    fn three_stages() -> Self {
        let hosted = Self::new(Fleet::new());
        hosted.fleet.branch("canary", "master");
        hosted.fleet.branch("production", "master");
        hosted.accepted(&["master", "canary", "production"]);
        hosted
    }

    fn push(&self, refs: &[&str]) -> (bool, String) {
        let push = self.fleet.command().args(["push", "--quiet"]).arg(&self.bare).args(refs).run().unwrap();
        (push.status.success(), String::from_utf8_lossy(&push.stderr).into_owned())
    }

    #[track_caller]
    fn accepted(&self, refs: &[&str]) {
        let (taken, said) = self.push(refs);
        assert!(taken, "{said}");
    }

    #[track_caller]
    fn refused(&self, refs: &[&str], expected: &str) {
        let before = self.refs();
        let (taken, said) = self.push(refs);
        assert!(!taken && said.contains(expected), "taken: {taken}, said:\n{said}");
        assert_eq!(self.refs(), before, "nothing moved");
    }

    fn refs(&self) -> String {
        Cmd::new("git").arg("--git-dir").arg(&self.bare).arg("for-each-ref").check().unwrap().text()
    }
}

#[test]
fn the_whole_chain_is_taken() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    fleet.write("group_vars/all.yml", "---\na: 1\n");
    fleet.commit("alice", "Work");
    hosted.accepted(&["master"]);
    fleet.promote("alice", "master", "canary");
    hosted.accepted(&["canary"]);
    fleet.promote("bob", "canary", "production");
    hosted.accepted(&["production"]);
    // All at once, in one push.
    fleet.checkout("master");
    fleet.commit("alice", "More");
    fleet.promote("alice", "master", "canary");
    fleet.promote("alice", "canary", "production");
    hosted.accepted(&["master", "canary", "production"]);
    // git alone believes the result.
    fleet.git(&["verify-commit", "master", "canary", "production"]);
}

#[test]
fn a_plain_git_merge_is_taken_too() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    for round in ["1", "2"] {
        fleet.checkout("master");
        fleet.write("group_vars/all.yml", &format!("---\na: {round}\n"));
        fleet.commit("alice", "Work");
        hosted.accepted(&["master"]);
        fleet.checkout("canary");
        fleet.merge("alice", "master", "Merge master");
        hosted.accepted(&["canary"]);
    }
}

#[test]
fn a_file_that_no_device_would_read_is_refused_by_its_name() {
    let hosted = Hosted::three_stages();
    hosted.fleet.write("images/board.img", &"x".repeat((32 << 20) + 1));
    hosted.fleet.commit("alice", "An image");
    hosted.refused(&["master"], "images/board.img has 33554433 bytes, more than the 33554432");
    // Also if a later commit of the same push takes it out: devices may begin in between.
    std::fs::remove_file(hosted.fleet.work().join("images/board.img")).unwrap();
    hosted.fleet.commit("alice", "No image");
    hosted.refused(&["master"], "volary image publish");
}

#[test]
fn unsigned_and_unknown_are_refused() {
    let hosted = Hosted::three_stages();
    hosted.fleet.commit("", "Unsigned");
    hosted.refused(&["master"], "is not signed; sign with `git commit -S`");
    hosted.fleet.commit("alice", "Signed on top");
    hosted.refused(&["master"], "is not signed");
    hosted.fleet.git(&["reset", "--quiet", "--hard", "HEAD~2"]);
    hosted.fleet.commit("mallory", "Stranger");
    hosted.refused(&["master"], "not in .volary/allowed_signers");
    hosted.accepted(&["master:refs/heads/feature", "master:refs/tags/v1"]);
    hosted.accepted(&[":refs/heads/feature"]);
}

#[test]
fn the_order_of_stages_is_kept() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    fleet.commit("alice", "Work");
    hosted.accepted(&["master"]);
    fleet.promote("alice", "master", "production");
    hosted.refused(
        &["production"],
        "takes merges of canary only; first `volary promote --from development --to canary`",
    );
    fleet.promote("alice", "master", "canary");
    fleet.git(&["checkout", "--quiet", "production"]);
    fleet.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    fleet.promote("alice", "canary", "production");
    hosted.refused(&["production"], "is not on canary");
    hosted.accepted(&["canary", "production"]);
}

#[test]
fn what_was_never_pushed_to_the_first_stage_is_refused() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    fleet.git(&["checkout", "--quiet", "-b", "side"]);
    fleet.commit("alice", "Beside master");
    fleet.promote("alice", "side", "canary");
    hosted.refused(&["canary"], "is not on development, and canary takes merges of development only");
}

#[test]
fn branches_are_neither_rewritten_nor_deleted() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    fleet.commit("alice", "Work");
    hosted.accepted(&["master"]);
    fleet.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    hosted.refused(&["+master"], "a stage never goes back");
    fleet.commit("alice", "Other work");
    hosted.refused(&["+master"], "the branch was rewritten");
    hosted.refused(&[":canary"], "cannot be deleted");
    hosted.refused(&[":master"], "cannot be deleted");
}

#[test]
fn a_changed_merge_is_refused() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    fleet.write("group_vars/all.yml", "---\na: 1\n");
    fleet.commit("alice", "Work");
    hosted.accepted(&["master"]);
    fleet.checkout("canary");
    fleet.commit("alice", "Direct");
    hosted.refused(&["canary"], "use `volary promote --from development --to canary`");
    fleet.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    let evil = fleet.commit_tree("alice", "canary^{tree}", &["canary", "master"], "Old files");
    hosted.refused(&[&format!("{evil}:refs/heads/canary")], "different: group_vars/all.yml");
    hosted.refused(&["master:refs/heads/canary"], "is not a merge of development into canary");
}

#[test]
fn a_broken_configuration_is_refused_with_its_line() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    let good = volary_host::read_to_string(&fleet.work().join("volary.yml")).unwrap();
    fleet.write("volary.yml", &good.replace("gates:", "gatse:"));
    fleet.commit("alice", "Typo");
    hosted.refused(&["master"], "did you mean \"gates\"?");
    fleet.write("volary.yml", &good);
    fleet.write("group_vars/all.yml", "a:\n - b\nc\n");
    fleet.commit("alice", "Broken YAML");
    hosted.refused(&["master"], "group_vars/all.yml, line");
}

#[test]
fn a_broken_first_push_is_explained() {
    let fleet = Fleet::empty();
    fleet.write("volary.yml", "version: 1\nstages:\n  a: {brunch: master}\n");
    fleet.commit("alice", "Begin");
    let hosted = Hosted::new(fleet);
    hosted.refused(&["master"], "did you mean \"branch\"?");
}

#[test]
fn the_first_push_needs_the_signers_that_the_server_was_given() {
    let fleet = Fleet::new();
    let hosted = Hosted::new(fleet);
    let tip = hosted.fleet.tip("master");
    // The objects come in under a free name; the hook function is then asked about master.
    hosted.accepted(&["master:refs/heads/feature"]);
    let update = RefUpdate { old: None, new: Some(tip), name: "refs/heads/master".into() };
    let judge = |who: &str| {
        let signers = AllowedSigners::parse(&hosted.fleet.signer_line(who, "")).unwrap();
        let options = HookOptions { initial_signers: Some(signers), ..HookOptions::default() };
        pre_receive(&hosted.bare, std::slice::from_ref(&update), &options)
    };
    judge("alice").unwrap();
    let message = judge("mallory").unwrap_err()[0].to_string();
    assert!(message.starts_with("master: commit ") && message.contains("allowed_signers"), "{message}");
}

#[test]
fn a_new_stage_begins_where_its_source_is() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    let text = volary_host::read_to_string(&fleet.work().join("volary.yml")).unwrap();
    fleet.write("volary.yml", &text.replace("gates:", "  edge: { branch: edge, from: canary }\n\ngates:"));
    fleet.commit("alice", "Add a stage");
    hosted.accepted(&["master"]);
    fleet.branch("edge", "master");
    hosted.refused(&["edge"], "must start at a commit that is on canary");
    fleet.promote("alice", "master", "canary");
    hosted.accepted(&["canary"]);
    fleet.git(&["branch", "--force", "edge", "canary"]);
    hosted.accepted(&["edge"]);
    let first = fleet.tip("edge");
    fleet.checkout("master");
    fleet.commit("alice", "Work");
    fleet.promote("alice", "master", "canary");
    fleet.promote("alice", "canary", "edge");
    hosted.accepted(&["master", "canary", "edge"]);
    assert_ne!(first, fleet.tip("edge"));
}

#[test]
fn lines_that_are_no_updates_are_refused() {
    let id = "0123456789abcdef0123456789abcdef01234567";
    let zero = "0".repeat(40);
    let update: RefUpdate = format!("{zero} {id} refs/heads/a b").parse().unwrap();
    assert_eq!((&update.old, update.branch()), (&None, Some("a b")));
    for line in ["", id, "x y refs/heads/a", &format!("{id} {id} a")] {
        assert!(line.parse::<RefUpdate>().is_err(), "{line}");
    }
}

/// A hosted fleet in which two must sign for development, and what is pushed there.
fn two_for_development(last: &str) -> Hosted {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    let old = volary_host::read_to_string(&fleet.work().join("volary.yml")).unwrap();
    fleet.write("volary.yml", &format!("{old}\nquorum: {{ development: 2 }}\n"));
    fleet.new_key("carol", &["-t", "ed25519"]);
    let signers = volary_host::read_to_string(&fleet.work().join(".volary/allowed_signers")).unwrap();
    fleet.write(".volary/allowed_signers", &(signers + &fleet.signer_line("carol", last)));
    fleet.commit("alice", "Two for development");
    hosted.accepted(&["master"]);
    hosted
}

#[test]
fn approvals_are_taken_with_what_they_approve_or_before() {
    let hosted = two_for_development("");
    let fleet = &hosted.fleet;
    let work = fleet.commit("alice", "Work");
    hosted.refused(&["master"], "development needs 2 different people");
    hosted.accepted(&["master:refs/heads/next"]);
    let tag = fleet.approve("bob", &work, "development");
    let approval = format!("refs/approvals/{work}/development/{tag}");
    hosted.accepted(&["master", &approval]);
    hosted.refused(&[&format!(":{approval}")], "is on development already");
    // And first the approval, then the branch.
    let more = fleet.commit("alice", "More");
    hosted.accepted(&["master:refs/heads/next"]);
    let tag = fleet.approve("bob", &more, "development");
    let approval = format!("refs/approvals/{more}/development/{tag}");
    hosted.accepted(&[&approval]);
    hosted.accepted(&[&format!(":{approval}")]);
    hosted.refused(&["master"], "development needs 2");
    hosted.accepted(&[&approval]);
    hosted.accepted(&["master"]);
}

#[test]
fn what_is_no_approval_is_not_kept_as_one() {
    let hosted = two_for_development("valid-before=\"20240101Z\"");
    let fleet = &hosted.fleet;
    let work = fleet.commit("alice", "Work");
    let tag = fleet.approve("bob", &work, "development");
    let refs = |commit: &str, stage: &str, tag: &str| format!("{tag}:refs/approvals/{commit}/{stage}/{tag}");
    let (tag, commit) = (tag.to_string(), work.as_str());
    let other = fleet.tip("master~1");
    hosted.refused(&[&format!("{tag}:refs/approvals/x")], "make one with: volary approve");
    hosted.refused(&[&refs(commit, "nowhere", &tag)], "there is no stage nowhere");
    hosted.refused(&[&refs(commit, "canary", &tag)], "it approves");
    hosted.refused(&[&refs(other.as_str(), "development", &tag)], "it approves");
    hosted.refused(&[&format!("{tag}:refs/approvals/{commit}/development/{commit}")], "must name the tag");
    hosted.refused(&[&refs(commit, "development", commit)], "not a valid tag");
    let stranger = fleet.approve("mallory", &work, "development").to_string();
    hosted.refused(&[&refs(commit, "development", &stranger)], "not in .volary/allowed_signers");
    let late = fleet.approve("carol", &work, "development").to_string();
    hosted.refused(&[&refs(commit, "development", &late)], "the key of carol@example.com has expired");
    let text = fleet.tag_as_approval("bob", &work, "development", "Looks good\n").to_string();
    hosted.refused(&[&refs(commit, "development", &text)], "has no line Volary-Tree");
    hosted.accepted(&[&refs(commit, "development", &tag)]);
}

#[test]
fn times_that_are_not_true_are_refused() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    fleet.at(4_000_000_000);
    fleet.commit("alice", "From the future");
    hosted.refused(&["master"], "is dated in the future");
    fleet.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    fleet.at(1_700_100_000);
    let line = fleet.signer_line("alice", "valid-before=\"20240101Z\"") + &fleet.signer_line("bob", "");
    fleet.write(".volary/allowed_signers", &line);
    fleet.commit("bob", "An end for alice's key");
    hosted.accepted(&["master"]);
    // In time by its own date, and pushed years later.
    fleet.commit("alice", "Found an old key");
    hosted.refused(&["master"], "signed with a key of alice@example.com that has expired");
    fleet.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    fleet.commit("bob", "With a key that is valid");
    hosted.accepted(&["master"]);
}

#[test]
fn a_stage_gets_the_newer_agent_before_what_needs_it() {
    let hosted = Hosted::three_stages();
    let fleet = &hosted.fleet;
    let text = volary_host::read_to_string(&fleet.work().join("volary.yml")).unwrap();
    let lock = volary_host::read_to_string(&fleet.work().join("volary.lock")).unwrap();
    fleet.write("volary.yml", &format!("{text}needs_agent: \"999.0\"\n"));
    fleet.commit("alice", "For agents that nobody has");
    hosted.refused(&["master"], "it needs volary-agent 999.0.0 or newer, and this is");
    fleet.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    // Where a stage takes packages from rolling there is no release to wait for.
    fleet.write("volary.lock", &format!("# another release\n{lock}"));
    fleet.commit("alice", "The release");
    fleet.write("volary.yml", &format!("{text}needs_agent: \"0.1\"\n"));
    fleet.commit("alice", "What needs it");
    hosted.accepted(&["master"]);
    fleet.promote("alice", "master", "canary");
    hosted.refused(&["canary"], "bring the release with the newer agent there first");
    fleet.git(&["reset", "--quiet", "--hard", "HEAD~1"]);
    fleet.promote("alice", "master~1", "canary");
    hosted.accepted(&["canary"]);
    fleet.promote("alice", "master", "canary");
    hosted.accepted(&["canary"]);
}
