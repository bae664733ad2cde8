//! What travels to a device: enough to verify and apply, nothing of other hosts, real git reads it.

mod support;

use std::cell::Cell;

use support::{Fleet, device, stage};
use volary_fleet::inventory::Inventory;
use volary_fleet::{
    AllowedSigners, LooseStore, Object, ObjectError, ObjectId, ObjectSource, Own, PackLimits, ReadObjects,
    Start, checkout, device_objects, entry_at, loose_path, missing_for_device, pack_for_device, read_pack,
    verify_advance,
};
use volary_host::Cmd;
use volary_model::CommitId;

struct Device {
    dir: tempfile::TempDir,
    store: LooseStore,
}

impl Device {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = LooseStore::open(&dir.path().join("objects")).unwrap();
        Self { dir, store }
    }

    /// Fetches and returns how many objects came.
    fn fetch(&self, fleet: &Fleet, want: &CommitId, have: Option<&CommitId>) -> u32 {
        let pack = pack_for_device(&fleet.repository(), want, have, &device("dev-1")).unwrap();
        read_pack(&pack[..], &PackLimits::default(), &mut |object| self.store.insert(&object).map(drop))
            .unwrap()
    }

    /// Checks out as the device does and returns the files.
    fn files(&self, commit: &CommitId) -> String {
        let tree = self.store.commit(commit).unwrap().tree;
        let work = self.dir.path().join("work");
        checkout(&self.store, &tree, &work, Some(&device("dev-1"))).unwrap();
        Cmd::new("find").cwd(&work).args([".", "-type", "f"]).check().unwrap().text()
    }
}

/// A fleet with variables of three hosts.
fn fleet() -> Fleet {
    let fleet = Fleet::new();
    for host in ["dev-1", "dev-2", "prod-1"] {
        fleet.write(&format!("host_vars/{host}.yml"), &format!("---\nsecret: of {host}\n"));
        fleet.write(&format!("inventory/host_vars/{host}/vault.yml"), &format!("---\nvault: of {host}\n"));
    }
    for group in ["canary", "production"] {
        fleet.write(&format!("group_vars/{group}/vault.yml"), &format!("---\nvault: of {group}\n"));
    }
    fleet.write("inventory.yml", INVENTORY);
    fleet.commit("alice", "Add hosts");
    fleet.branch("canary", "master");
    fleet
}

const INVENTORY: &str = "all:
  children:
    development: {hosts: {dev-1: , dev-2: }}
    canary:
    production: {hosts: {prod-1: }}
";

#[test]
fn a_first_fetch_has_everything_but_other_hosts() {
    let fleet = fleet();
    let tip = fleet.tip("master");
    let device = Device::new();
    device.fetch(&fleet, &tip, None);
    let files = device.files(&tip);
    assert!(
        files.contains("./host_vars/dev-1.yml") && files.contains("./inventory/host_vars/dev-1/vault.yml")
    );
    assert!(files.contains("./site.yml"));
    assert!(!files.contains("dev-2") && !files.contains("prod-1"), "{files}");
    assert!(files.contains("./group_vars/all.yml") && files.contains("./group_vars/development.yml"));
    assert!(!files.contains("canary") && !files.contains("production"), "{files}");
    let repository = fleet.repository();
    let tree = repository.commit(&tip).unwrap().tree;
    for path in ["host_vars/prod-1.yml", "group_vars/production.yml", "group_vars/canary/vault.yml"] {
        let secret = entry_at(&repository, &tree, path).unwrap().unwrap().id;
        assert!(device.store.find(&secret).unwrap().is_none(), "{path}");
    }
    let signers = AllowedSigners::parse(&fleet.signer_line("alice", "")).unwrap();
    verify_advance(&device.store, &stage("development"), Start::First { signers: &signers, quorum: 1 }, &tip)
        .unwrap();
}

/// Counts how often one object is asked for.
struct Counting<'a> {
    store: &'a LooseStore,
    of: ObjectId,
    times: Cell<u32>,
}

impl ObjectSource for Counting<'_> {
    fn load(&self, id: &ObjectId) -> Result<Option<Object>, ObjectError> {
        self.times.set(self.times.get() + u32::from(*id == self.of));
        self.store.load(id)
    }
}

#[test]
fn a_device_reads_the_inventory_of_a_commit_once() {
    let fleet = fleet();
    let tip = fleet.tip("master");
    let device = Device::new();
    device.fetch(&fleet, &tip, None);
    let tree = device.store.commit(&tip).unwrap().tree;
    let inventory = entry_at(&device.store, &tree, "inventory.yml").unwrap().unwrap().id;
    let objects = Counting { store: &device.store, of: inventory, times: Cell::new(0) };
    let own = Own::new(support::device("dev-1"));
    let first = own.objects(&objects, &tip, None).unwrap();
    assert_eq!(first, device_objects(&device.store, &tip, None, &support::device("dev-1")).unwrap());
    let once = objects.times.take();
    assert!(once > 0);
    assert_eq!(own.objects(&objects, &tip, None).unwrap(), first);
    assert_eq!(objects.times.take(), 0);
    // Whether it is there, and its file, are looked up anew each time.
    let work = device.dir.path().join("work");
    assert!(own.checkout(&objects, &tree, &work).unwrap().written > 5);
    assert_eq!(objects.times.take(), 1);
    assert_eq!(own.missing(&objects, &tip).unwrap(), None);
    assert_eq!(objects.times.take(), 1);
    std::fs::remove_file(device.dir.path().join("objects").join(loose_path(&inventory))).unwrap();
    assert_eq!(own.missing(&objects, &tip).unwrap(), Some(inventory));
    // Another commit is another inventory.
    fleet.write("inventory.yml", &INVENTORY.replace("dev-1: , ", ""));
    let without = fleet.commit("alice", "Remove dev-1");
    device.fetch(&fleet, &without, Some(&tip));
    let later = own.objects(&device.store, &without, None).unwrap();
    assert_eq!(later, device_objects(&device.store, &without, None, &support::device("dev-1")).unwrap());
}

#[test]
fn a_later_fetch_has_only_what_changed() {
    let fleet = fleet();
    let old = fleet.tip("master");
    let device = Device::new();
    let first = device.fetch(&fleet, &old, None);
    fleet.write("group_vars/all.yml", "---\na: 1\n");
    fleet.write("host_vars/dev-2.yml", "---\nsecret: other\n");
    fleet.commit("alice", "One");
    fleet.write("group_vars/all.yml", "---\na: 2\n");
    let new = fleet.commit("bob", "Two");
    let later = device.fetch(&fleet, &new, Some(&old));
    // Two commits with their roots, .volary and two blobs for the rules, group_vars, host_vars, one file.
    assert!(later <= 10 && first > 40, "first {first}, later {later}");
    verify_advance(&device.store, &stage("development"), Start::After(&old), &new).unwrap();
    assert!(device.files(&new).contains("group_vars/all.yml"));
    assert_eq!(device.fetch(&fleet, &new, Some(&new)), 1, "nothing but the commit itself");
}

#[test]
fn a_device_verifies_promotions_with_what_it_got() {
    let fleet = fleet();
    fleet.commit("alice", "Work");
    let old = fleet.promote("alice", "master", "canary");
    let device = Device::new();
    device.fetch(&fleet, &old, None);
    let name = stage("canary");
    let signers = AllowedSigners::parse(&fleet.signer_line("alice", "")).unwrap();
    verify_advance(&device.store, &name, Start::First { signers: &signers, quorum: 1 }, &old).unwrap();
    let mut accepted = old;
    for round in 0..3 {
        fleet.checkout("master");
        for part in 0..3 {
            fleet.write("group_vars/all.yml", &format!("---\na: {round}.{part}\n"));
            fleet.commit("alice", "Work");
        }
        if round == 1 {
            // Two promotions at once.
            fleet.promote("alice", "master", "canary");
            fleet.checkout("master");
            fleet.commit("bob", "More");
        }
        let tip = fleet.promote("bob", "master", "canary");
        device.fetch(&fleet, &tip, Some(&accepted));
        verify_advance(&device.store, &name, Start::After(&accepted), &tip).unwrap();
        accepted = tip;
    }
    // An older promotion that was signed and is whole: still refused.
    let back = fleet.commit_tree("alice", "master~3^{tree}", &["canary", "master~3"], "Back");
    device.fetch(&fleet, &back, Some(&accepted));
    let error = verify_advance(&device.store, &name, Start::After(&accepted), &back).unwrap_err().to_string();
    assert!(error.contains("takes canary back"), "{error}");
}

#[test]
fn a_commit_that_the_server_does_not_know_counts_as_none() {
    let fleet = fleet();
    let tip = fleet.tip("master");
    let unknown: CommitId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    let name = device("dev-1");
    let repository = fleet.repository();
    assert_eq!(
        device_objects(&repository, &tip, Some(&unknown), &name).unwrap(),
        device_objects(&repository, &tip, None, &name).unwrap()
    );
}

#[test]
fn a_device_that_changes_its_stage_gets_all_it_needs() {
    let fleet = fleet();
    let master = fleet.commit("alice", "Work");
    let canary = fleet.promote("alice", "master", "canary");
    let device = Device::new();
    device.fetch(&fleet, &master, None);
    device.fetch(&fleet, &canary, Some(&master));
    assert!(device.files(&canary).contains("site.yml"));
    fleet.checkout("master");
    let newer = fleet.commit("alice", "More");
    device.fetch(&fleet, &newer, Some(&canary));
    assert!(device.files(&newer).contains("site.yml"));
}

/// The files of variables that the device has at a commit.
fn variables(device: &Device, commit: &CommitId) -> Vec<String> {
    let mut files: Vec<String> = device.files(commit).lines().map(|path| path[2..].to_owned()).collect();
    files.retain(|path| path.contains("_vars/") || path.starts_with("inventory/"));
    files.sort();
    files
}

#[test]
fn a_device_that_comes_into_a_group_gets_its_variables_which_did_not_change() {
    let fleet = fleet();
    let old = fleet.tip("master");
    let device = Device::new();
    device.fetch(&fleet, &old, None);
    let before = [
        "group_vars/all.yml",
        "group_vars/development.yml",
        "host_vars/dev-1.yml",
        "inventory/host_vars/dev-1/vault.yml",
    ];
    assert_eq!(variables(&device, &old), before);
    fleet.write("inventory.yml", &INVENTORY.replace("canary:\n", "canary: {hosts: {dev-1: }}\n"));
    let new = fleet.commit("alice", "Move dev-1");
    device.fetch(&fleet, &new, Some(&old));
    assert_eq!(missing_for_device(&device.store, &new, &support::device("dev-1")).unwrap(), None);
    let mut after = before.to_vec();
    after.splice(1..1, ["group_vars/canary.yml", "group_vars/canary/vault.yml"]);
    assert_eq!(variables(&device, &new), after);
    // And back: what it had meanwhile is not checked out.
    fleet.write("inventory.yml", INVENTORY);
    let back = fleet.commit("alice", "Move it back");
    device.fetch(&fleet, &back, Some(&new));
    assert_eq!(variables(&device, &back), before);
}

#[test]
fn links_lead_to_the_variables_that_they_name_and_to_no_others() {
    let fleet = fleet();
    let link = |path: &str, target: &str| {
        let path = fleet.work().join(path);
        let _ = std::fs::remove_file(&path);
        std::os::unix::fs::symlink(target, path).unwrap();
    };
    fleet.write("group_vars/production/db.yml", "a: 1\n");
    fleet.write("group_vars/production/other.yml", "a: 2\n");
    link("group_vars/development.yml", "production.yml");
    link("group_vars/production.yml", "production/db.yml");
    link("host_vars/dev-2.yml", "dev-1.yml");
    link("group_vars/canary.yml", "production/other.yml");
    let tip = fleet.commit("alice", "Link");
    let device = Device::new();
    device.fetch(&fleet, &tip, None);
    assert_eq!(missing_for_device(&device.store, &tip, &support::device("dev-1")).unwrap(), None);
    let expected = [
        "group_vars/all.yml",
        "group_vars/production/db.yml",
        "host_vars/dev-1.yml",
        "inventory/host_vars/dev-1/vault.yml",
    ];
    assert_eq!(variables(&device, &tip), expected);
    let text = std::fs::read_to_string(device.dir.path().join("work/group_vars/development.yml")).unwrap();
    assert_eq!(text, "a: 1\n");
}

#[test]
fn who_is_not_in_the_inventory_gets_no_variables() {
    let fleet = fleet();
    for (text, message) in [
        ("all: {hosts: {other: }}\n", "Forget dev-1"),
        ("plugin: ansible.builtin.constructed\n", "Use a plugin"),
        ("plugin: volary.fleet.host_files\nnonsense: 1\n", "Mistype"),
    ] {
        fleet.write("inventory.yml", text);
        let tip = fleet.commit("alice", message);
        let device = Device::new();
        device.fetch(&fleet, &tip, None);
        let expected = ["host_vars/dev-1.yml", "inventory/host_vars/dev-1/vault.yml"];
        assert_eq!(variables(&device, &tip), expected, "{message}");
    }
}

#[test]
fn of_hosts_with_files_of_their_own_a_device_gets_its_own() {
    let fleet = fleet();
    let write = |host: &str, text: &str| {
        fleet.write(&format!("inventory/hosts/{}", Inventory::host_file(host)), text);
    };
    fleet.write("inventory.yml", "plugin: volary.fleet.host_files\n");
    fleet.write("inventory/groups.yml", "development:\ncanary:\nproduction:\n");
    for number in 1..600 {
        write(&format!("dev-{number}"), &format!("groups: [development]\nvars: {{n: {number}}}\n"));
    }
    let old = fleet.commit("alice", "Split");
    let device = Device::new();
    let first = device.fetch(&fleet, &old, None);
    let own = format!("inventory/hosts/{}", Inventory::host_file("dev-1"));
    let inventory = |commit: &CommitId| {
        let mut files = variables(&device, commit);
        files.retain(|path| path.starts_with("inventory/") && !path.contains("_vars"));
        files
    };
    assert_eq!(inventory(&old), ["inventory/groups.yml", own.as_str()]);
    write("dev-2", "groups: [canary]\n");
    let new = fleet.commit("alice", "Move dev-2");
    let later = device.fetch(&fleet, &new, Some(&old));
    // The commit, its root, .volary and two files for the rules, and two folders on the way.
    assert!(first < 100 && later <= 7, "first {first}, later {later}");
    assert_eq!(missing_for_device(&device.store, &new, &support::device("dev-1")).unwrap(), None);
    write("dev-1", "groups: [production]\n");
    let moved = fleet.commit("alice", "Move dev-1");
    device.fetch(&fleet, &moved, Some(&new));
    assert_eq!(inventory(&moved), ["inventory/groups.yml", own.as_str()]);
    assert!(variables(&device, &moved).contains(&"group_vars/production/vault.yml".to_owned()));
    assert!(!variables(&device, &moved).contains(&"group_vars/development.yml".to_owned()));
}

#[test]
fn the_commits_between_are_those_of_git() {
    let fleet = fleet();
    let root = fleet.tip("master~1");
    for (index, time) in [1_700_100_000, 1_600_000_000, 1_700_200_000, 1_500_000_000].into_iter().enumerate()
    {
        // Clocks that go back and forth.
        fleet.at(time);
        fleet.checkout("master");
        fleet.commit("alice", &format!("Work {index}"));
        fleet.git(&["checkout", "--quiet", "-b", &format!("side-{index}")]);
        fleet.commit("bob", "Beside");
        fleet.checkout("master");
        fleet.commit("bob", "Meanwhile");
        fleet.merge("alice", &format!("side-{index}"), "Merge");
        fleet.promote("alice", "master", "canary");
    }
    let repository = fleet.repository();
    let names = ["master", "canary", "side-1", "side-3", "master~3", "canary~2", root.as_str()];
    for want in names {
        for have in names {
            let expected = fleet.git(&["rev-list", want, &format!("^{have}")]).text();
            let sent =
                device_objects(&repository, &fleet.tip(want), Some(&fleet.tip(have)), &device("dev-1"));
            let sent: Vec<ObjectId> = sent.unwrap();
            for id in expected.lines() {
                assert!(sent.contains(&id.parse().unwrap()), "{id} from {have} to {want}");
            }
        }
    }
}

#[test]
fn a_hole_in_the_store_is_noticed_and_mended() {
    let fleet = fleet();
    let tip = fleet.tip("master");
    let device = Device::new();
    let name = support::device("dev-1");
    assert!(missing_for_device(&device.store, &tip, &name).unwrap().is_some());
    device.fetch(&fleet, &tip, None);
    assert_eq!(missing_for_device(&device.store, &tip, &name).unwrap(), None);
    let tree = device.store.commit(&tip).unwrap().tree;
    for path in ["site.yml", "group_vars", "host_vars/dev-1.yml"] {
        let id = entry_at(&device.store, &tree, path).unwrap().unwrap().id;
        device.store.retain(&|kept| *kept != id).unwrap();
        assert_eq!(missing_for_device(&device.store, &tip, &name).unwrap(), Some(id), "{path}");
        device.fetch(&fleet, &tip, None);
        assert_eq!(missing_for_device(&device.store, &tip, &name).unwrap(), None);
    }
}

#[test]
fn real_git_reads_the_pack_and_the_store() {
    let fleet = fleet();
    let tip = fleet.tip("master");
    let pack = pack_for_device(&fleet.repository(), &tip, None, &device("dev-1")).unwrap();
    let bare = fleet.path().join("device.git");
    fleet.git(&["init", "--quiet", "--bare", bare.to_str().unwrap()]);
    Cmd::new("git").arg("--git-dir").arg(&bare).args(["index-pack", "--stdin"]).stdin(pack).check().unwrap();

    let device = Device::new();
    device.fetch(&fleet, &tip, None);
    let config = "[core]\n\trepositoryformatversion = 0\n\tbare = true\n";
    let git_dir = device.dir.path();
    volary_host::write_atomic(&git_dir.join("config"), config.as_bytes(), 0o644).unwrap();
    volary_host::write_atomic(&git_dir.join("HEAD"), b"ref: refs/heads/master\n", 0o644).unwrap();
    volary_host::create_dir(&git_dir.join("refs")).unwrap();
    let shown = Cmd::new("git").arg("--git-dir").arg(git_dir).args(["show", &format!("{tip}:site.yml")]);
    assert!(shown.check().unwrap().text().contains("volary.fleet.apt_source"));
}

#[test]
fn a_pack_of_git_with_deltas_is_refused() {
    let fleet = Fleet::empty();
    let long: String = (0..2000).map(|line| format!("line {line}\n")).collect();
    fleet.write("a", &long);
    fleet.commit("", "One");
    fleet.write("a", &(long + "one more\n"));
    fleet.commit("", "Two");
    let make = |args: &[&str]| {
        let ids = fleet.git(&["rev-list", "--objects", "--no-object-names", "HEAD"]).stdout;
        fleet
            .command()
            .args(["pack-objects", "--stdout", "--quiet"])
            .args(args)
            .stdin(ids)
            .check()
            .unwrap()
            .stdout
    };
    let read = |pack: Vec<u8>| read_pack(&pack[..], &PackLimits::default(), &mut |_| Ok(()));
    let error = read(make(&["--no-reuse-delta"])).unwrap_err().to_string();
    assert!(error.contains("is a delta"), "{error}");
    assert_eq!(read(make(&["--window=0", "--no-reuse-delta"])).unwrap(), 6);
}

#[test]
fn the_batch_reader_survives_what_is_not_there() {
    let fleet = fleet();
    let repository = fleet.repository();
    let missing: ObjectId = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
    assert!(repository.load(&missing).unwrap().is_none());
    repository.commit(&fleet.tip("master")).unwrap();
    assert_eq!(repository.branch("nowhere").unwrap(), None);
    assert_eq!(repository.resolve("--help").unwrap(), None);
    assert_eq!(repository.head_branch().unwrap().as_deref(), Some("master"));
    assert_eq!(repository.branch("canary").unwrap(), Some(fleet.tip("canary")));
}
