//! Checkpoint and undo together, on roots of their own with the real dpkg.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use volary_device::Target;
use volary_host::{Cmd, create_dir, read_to_string, write_atomic};

use super::{Ended, How, Undone};
use crate::answers::Answers;
use crate::checkpoint::manifest::{Manifest, PathWas};
use crate::checkpoint::store::{By, Reason, Store};
use crate::checkpoint::{self, Wanted, files, keep};
use crate::paths::Paths;
use crate::rescue;
use volary_device::Cause;

const TIMES: checkpoint::Times =
    checkpoint::Times { confirm: Duration::from_secs(30), run: Duration::from_secs(60) };

struct Root {
    dir: TempDir,
    paths: Paths,
}

/// Each path of a root with what it is, so that two states can be compared.
type Snapshot = BTreeMap<PathBuf, String>;

impl Root {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths::below(dir.path());
        paths.prepare().unwrap();
        for folder in ["info", "updates", "triggers"] {
            create_dir(&paths.dpkg().join(folder)).unwrap();
        }
        write_atomic(&paths.dpkg().join("status"), b"", 0o644).unwrap();
        let root = Self { dir, paths };
        root.put("etc/hosts", "127.0.0.1 localhost\n", 0o644);
        root.put("etc/secret", "key", 0o600);
        root.put("etc/app/app.conf", "level=1\n", 0o640);
        root.put("etc/app/empty", "", 0o644);
        root.put("etc/volary/accepted.json", "old", 0o644);
        root.put("etc/volary/device.key", "key 1", 0o600);
        root.put("usr/local/bin/tool", "#!/bin/sh\n", 0o755);
        root.put("usr/share/other", "not saved", 0o644);
        symlink("app/app.conf", root.at("etc/app.link")).unwrap();
        root
    }

    fn at(&self, path: &str) -> PathBuf {
        self.dir.path().join(path)
    }

    fn put(&self, path: &str, text: &str, mode: u32) {
        create_dir(self.at(path).parent().unwrap()).unwrap();
        write_atomic(&self.at(path), text.as_bytes(), mode).unwrap();
    }

    fn text(&self, path: &str) -> String {
        read_to_string(&self.at(path)).unwrap()
    }

    fn take(&self) -> Manifest {
        self.take_with(&[])
    }

    fn take_with(&self, trees: &[&str]) -> Manifest {
        let target = Target {
            stage: "canary".parse().unwrap(),
            commit: "c".repeat(40).parse().unwrap(),
            rolling: String::new(),
        };
        let path = PathWas { server: String::new(), ca: String::new(), worked: false };
        let wanted = Wanted {
            target,
            slot: None,
            image: false,
            trees: trees.iter().map(PathBuf::from).collect(),
            path,
        };
        checkpoint::take(&self.paths, &wanted, &Answers::default()).unwrap()
    }

    fn arm(&self) -> Manifest {
        let manifest = self.take();
        checkpoint::arm(&self.paths, &manifest, TIMES).unwrap();
        manifest
    }

    fn undo(&self) -> Undone {
        let store = Store::open(&self.paths).unwrap();
        let undoing = store.claim(By::Agent, failed()).unwrap().expect("something is armed");
        match super::run(&self.paths, &store, undoing, How { by_agent: true, at_boot: false }).unwrap() {
            Ended::Undone(undone) => *undone,
            Ended::Rebooting => panic!("a root of its own is not rebooted"),
        }
    }

    fn snapshot(&self) -> Snapshot {
        let mut found = Snapshot::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().flatten() {
                let (path, meta) = (entry.path(), entry.metadata().unwrap());
                let inside = path.strip_prefix(self.dir.path()).unwrap().to_owned();
                // dpkg writes its own record of what happened, and the rescue stays in place.
                let own = ["var/lib/volary", "var/lib/dpkg", "var/log", "etc/systemd"];
                if own.iter().any(|own| inside.starts_with(own)) {
                    continue;
                }
                let what = if meta.is_dir() {
                    folders.push(path);
                    "folder".to_owned()
                } else if meta.is_symlink() {
                    format!("link to {}", fs::read_link(&path).unwrap().display())
                } else {
                    format!("{:?} of {}", read_to_string(&path).unwrap(), meta.mtime())
                };
                found.insert(inside, format!("{what} {:o} {}:{}", meta.mode(), meta.uid(), meta.gid()));
            }
        }
        found
    }

    /// What a careless playbook does to the saved folders.
    fn spoil(&self) {
        self.put("etc/hosts", "0.0.0.0 volary.test\n", 0o644);
        fs::set_permissions(self.at("etc/secret"), fs::Permissions::from_mode(0o666)).unwrap();
        fs::remove_dir_all(self.at("etc/app")).unwrap();
        self.put("etc/app", "a file where a folder was", 0o644);
        fs::remove_file(self.at("etc/app.link")).unwrap();
        symlink("/dev/null", self.at("etc/app.link")).unwrap();
        fs::remove_file(self.at("usr/local/bin/tool")).unwrap();
        self.put("usr/local/bin/tool/inside", "a folder where a file was", 0o644);
        self.put("etc/new/deep/file", "new", 0o644);
        symlink("file", self.at("etc/new/deep/link")).unwrap();
        let large = fs::File::create(self.at("etc/large")).unwrap();
        large.set_len(64 << 20).unwrap();
    }
}

fn failed() -> Reason {
    Reason {
        cause: Cause::Failed,
        step: "check".into(),
        what: "10-door".into(),
        message: "the door is open".into(),
        journal: String::new(),
    }
}

#[test]
fn files_are_as_they_were() {
    let root = Root::new();
    root.arm();
    let before = root.snapshot();
    root.spoil();
    assert_ne!(root.snapshot(), before);
    let undone = root.undo();
    assert_eq!(root.snapshot(), before);
    assert_eq!(undone.could_not, Vec::<String>::new());
    assert!(undone.files >= 6 && undone.removed >= 4, "{undone:?}");
    assert_eq!(super::last(&root.paths), Some(undone));
    let store = Store::open(&root.paths).unwrap();
    assert_eq!((store.armed().unwrap(), store.undoing().unwrap()), (None, None));
    assert!(!root.at("var/lib/volary/checkpoint/reserve").exists(), "it was given up");
}

#[test]
fn an_identity_comes_back_and_never_goes_back() {
    let root = Root::new();
    root.arm();
    root.put("etc/volary/accepted.json", "newer", 0o644);
    fs::remove_file(root.at("etc/volary/device.key")).unwrap();
    root.undo();
    assert_eq!(root.text("etc/volary/accepted.json"), "newer");
    assert_eq!(root.text("etc/volary/device.key"), "key 1");
    assert_eq!(fs::metadata(root.at("etc/volary/device.key")).unwrap().mode() & 0o777, 0o600);
}

#[test]
fn an_undo_that_is_cut_off_anywhere_is_finished() {
    let root = Root::new();
    let manifest = root.arm();
    let before = root.snapshot();
    for cut in 0..manifest.files.len() {
        root.spoil();
        {
            let store = Store::open(&root.paths).unwrap();
            if cut > 0 {
                // The rounds before ended; this one is armed anew.
                checkpoint_again(&root, &store, &manifest);
            }
            let undoing = store.claim(By::Timer, failed()).unwrap().unwrap();
            // A part of it, then the power goes: nothing else was written but what is on the disk.
            let part = Manifest { files: manifest.files[..cut].to_vec(), ..manifest.clone() };
            let mut undo = super::Undo::new(&root.paths, &store, &part, &undoing, How::default());
            for entry in &part.files {
                drop(super::files::one(&undo, entry));
            }
            undo.could_not("cut");
        }
        rescue::run(&root.paths, false).unwrap();
        assert_eq!(root.snapshot(), before, "cut after {cut} files");
    }
}

fn checkpoint_again(root: &Root, store: &Store, manifest: &Manifest) {
    let mut armed = volary_device::Armed {
        version: 1,
        checkpoint: manifest.id.clone(),
        target: manifest.target.clone(),
        mode: volary_device::Mode::Applying,
        grace: 90,
        deadline: u64::MAX,
        latest: u64::MAX,
        boot: volary_host::boot_id(),
        boots: 0,
        path_worked: false,
    };
    armed.deadline /= 2;
    store.arm(&armed).unwrap();
    assert!(root.paths.checkpoint().join("armed.json").exists());
}

#[test]
fn each_moment_of_the_protocol_is_before_or_after() {
    // Armed, and the power goes: whoever comes after the deadline undoes it.
    let root = Root::new();
    let manifest = root.arm();
    let before = root.snapshot();
    root.spoil();
    let changed = root.snapshot();
    let armed_file = root.paths.checkpoint().join("armed.json");
    let undoing_file = root.paths.checkpoint().join("undoing.json");
    let armed = fs::read(&armed_file).unwrap();

    // Confirmed: the file is gone, and nobody undoes it any more.
    fs::remove_file(&armed_file).unwrap();
    rescue::run(&root.paths, false).unwrap();
    assert_eq!(root.snapshot(), changed);
    let store = Store::open(&root.paths).unwrap();
    assert_eq!(store.claim(By::Timer, failed()).unwrap(), None);

    // The claim was written, and the power went before the armed file was removed.
    write_atomic(&armed_file, &armed, 0o600).unwrap();
    store.claim(By::Timer, failed()).unwrap().unwrap();
    write_atomic(&armed_file, &armed, 0o600).unwrap();
    assert!(!store.disarm(&manifest.id).unwrap(), "an undo that began is not confirmed any more");
    drop(store);
    rescue::run(&root.paths, true).unwrap();
    assert_eq!(root.snapshot(), before);
    assert!(!armed_file.exists() && !undoing_file.exists());
    // Once more does nothing.
    root.spoil();
    rescue::run(&root.paths, true).unwrap();
    assert_ne!(root.snapshot(), before);

    // The record is damaged: the last checkpoint it is.
    write_atomic(&armed_file, b"{\"version\": 1, \"che", 0o600).unwrap();
    rescue::run(&root.paths, true).unwrap();
    assert_eq!(root.snapshot(), before);
}

#[test]
fn a_checkpoint_that_is_cut_off_is_none() {
    let root = Root::new();
    let first = root.take();
    let store = Store::open(&root.paths).unwrap();
    let half = store.folder(&store.next_id());
    create_dir(&half.join("packages")).unwrap();
    assert_eq!(store.ids(), std::slice::from_ref(&first.id));
    drop(store);
    let second = root.take();
    assert!(second.id > first.id);
    // Contents are on the disk before the manifest that names them, so a half one has no say.
    let store = Store::open(&root.paths).unwrap();
    store.prune(&[&second.id]).unwrap();
    assert_eq!(store.ids(), std::slice::from_ref(&second.id));
    assert!(!half.exists());
    drop(store);
    checkpoint::arm(&root.paths, &second, TIMES).unwrap();
    let before = root.snapshot();
    root.spoil();
    assert_eq!(root.undo().could_not, Vec::<String>::new());
    assert_eq!(root.snapshot(), before, "contents of the first checkpoint that the second needs are there");
}

#[test]
fn files_that_nobody_wrote_to_are_not_read_again() {
    let root = Root::new();
    let mut first = root.take();
    let found = files::walk(&root.paths, &files::trees(&[]));
    // Written within the last seconds: a second change could look like none.
    assert!(files::to_read(&found, &files::Known::from(Some(&first))) > 0);
    first.clock.wall += Duration::from_secs(60);
    assert_eq!(files::to_read(&found, &files::Known::from(Some(&first))), 0);
    root.put("etc/hosts", "changed 1 localhost\n", 0o644);
    let found = files::walk(&root.paths, &files::trees(&[]));
    let read = files::to_read(&found, &files::Known::from(Some(&first)));
    assert_eq!(read, root.text("etc/hosts").len() as u64);
}

#[test]
fn what_was_not_saved_is_not_said_to_be_back() {
    let root = Root::new();
    let large = fs::File::create(root.at("etc/large")).unwrap();
    large.set_len(17 << 20).unwrap();
    let manifest = root.arm();
    assert_eq!(manifest.left_out.len(), 1);
    large.set_len(18 << 20).unwrap();
    let undone = root.undo();
    assert_eq!(undone.could_not, ["/etc/large was not saved: it has more than 16 MiB"]);
    assert!(root.at("etc/large").exists(), "what was there is not taken for new");
}

#[test]
fn a_fleet_names_more_folders() {
    let root = Root::new();
    root.put("opt/app/data/setting", "1", 0o644);
    let manifest = root.take_with(&["/opt/app", "/opt/none"]);
    checkpoint::arm(&root.paths, &manifest, TIMES).unwrap();
    let before = root.snapshot();
    root.put("opt/app/data/setting", "2", 0o644);
    root.put("opt/app/new", "2", 0o644);
    root.undo();
    assert_eq!(root.snapshot(), before);
}

#[test]
fn what_ansible_made_elsewhere_is_removed_and_what_it_changed_is_named() {
    let root = Root::new();
    root.put("opt/old/conf", "before", 0o644);
    let manifest = root.arm();
    std::thread::sleep(Duration::from_millis(50));
    root.put("opt/new/bin/tool", "made", 0o755);
    root.put("opt/old/conf", "after", 0o644);
    let made = "{\"path\":\"/opt/new\",\"created\":true}\n{\"path\":\"/opt/old/conf\",\"created\":false}\n\
                {\"path\":\"/usr/share/other\",\"created\":true}\n{\"path\":\"/opt\",\"created\":true}\n\
                {\"path\":\"/opt/../etc/hosts\",\"created\":true}\nhalf a li";
    root.put(&format!("var/lib/volary/checkpoint/{}/made.jsonl", manifest.id), made, 0o600);
    let undone = root.undo();
    assert!(!root.at("opt/new").exists());
    assert_eq!(root.text("opt/old/conf"), "after");
    assert_eq!(root.text("usr/share/other"), "not saved");
    assert_eq!(root.text("etc/hosts"), "127.0.0.1 localhost\n");
    let said = undone.could_not.join("\n");
    assert!(said.contains("/opt/old/conf was changed"), "{said}");
    assert!(said.contains("/usr/share/other may be older"), "{said}");
}

#[test]
fn a_convergence_without_a_change_leaves_the_checkpoint_before_the_last_one() {
    let root = Root::new();
    let first = root.arm();
    assert!(checkpoint::disarm(&root.paths, true).unwrap());
    root.arm();
    assert!(checkpoint::remaining(&root.paths).is_some());
    assert!(checkpoint::disarm(&root.paths, false).unwrap());
    assert_eq!(Store::open(&root.paths).unwrap().ids(), [first.id]);
    assert!(!checkpoint::disarm(&root.paths, true).unwrap(), "it is confirmed already");
    assert_eq!(checkpoint::remaining(&root.paths), None);
}

/// Builds a package with the real dpkg-deb.
fn build(root: &Root, name: &str, version: &str, files: &[(&str, &str)]) -> PathBuf {
    let work = root.dir.path().join("var/log/work").join(format!("{name}-{version}"));
    create_dir(&work.join("DEBIAN")).unwrap();
    let mut conffiles = String::new();
    for (path, text) in files {
        let file = work.join(path);
        create_dir(file.parent().unwrap()).unwrap();
        write_atomic(&file, text.as_bytes(), 0o644).unwrap();
        if path.starts_with("etc/") {
            conffiles.push_str(&format!("/{path}\n"));
        }
    }
    fs::hard_link(work.join(files[0].0), work.join(format!("{}.same", files[0].0))).unwrap();
    symlink("../nowhere", work.join(format!("{}.link", files[0].0))).unwrap();
    write_atomic(&work.join("DEBIAN/conffiles"), conffiles.as_bytes(), 0o644).unwrap();
    let control = format!(
        "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: T <t@volary.test>\n\
         Description: a test\n of several lines\n"
    );
    write_atomic(&work.join("DEBIAN/control"), control.as_bytes(), 0o644).unwrap();
    let deb = root.dir.path().join("var/log").join(keep::file_name(&format!("{name}:all"), version));
    Cmd::new("dpkg-deb")
        .args(["--root-owner-group", "-Znone", "--build"])
        .args([&work, &deb])
        .check()
        .unwrap();
    deb
}

fn dpkg(root: &Root, args: &[&str]) {
    let cmd = Cmd::new("dpkg").args(["--force-not-root", "--force-confold", "--root"]).arg(root.dir.path());
    cmd.args(args).check().unwrap();
}

fn versions(root: &Root) -> BTreeMap<String, String> {
    checkpoint::packages::look(&root.paths).unwrap().installed
}

#[test]
fn packages_go_back_without_any_network() {
    let root = Root::new();
    let files = |version: &'static str| [("usr/lib/pulse/lib", version), ("etc/pulse.conf", version)];
    let one = build(&root, "pulse", "1:1.0", &files("one"));
    let two = build(&root, "pulse", "1:2.0", &files("two"));
    let gone = build(&root, "gone", "3", &[("usr/lib/gone", "gone")]);
    let new = build(&root, "new", "1", &[("usr/lib/new", "new")]);
    dpkg(&root, &["--install", one.to_str().unwrap(), gone.to_str().unwrap()]);
    // A person's own setting in a configuration file of the package.
    root.put("etc/pulse.conf", "mine", 0o644);
    for deb in [&one, &gone] {
        fs::remove_file(deb).unwrap();
    }
    root.arm();
    let (before, had) = (root.snapshot(), versions(&root));
    let plan = format!(
        "VERSION 3\nDir=/\n\npulse 1:1.0 all none < 1:2.0 all none {}\ngone 3 all none > - - none **REMOVE**\n\
         new - - none < 1 all none {}\n",
        two.display(),
        new.display()
    );
    keep::run(&root.paths, &plan).unwrap();
    dpkg(&root, &["--install", two.to_str().unwrap(), new.to_str().unwrap()]);
    dpkg(&root, &["--purge", "gone"]);
    root.put("etc/pulse.conf", "spoiled", 0o644);
    assert_eq!(root.text("usr/lib/pulse/lib"), "two");
    for deb in [&two, &new] {
        fs::remove_file(deb).unwrap();
    }
    let undone = root.undo();
    assert_eq!(undone.could_not, Vec::<String>::new());
    assert_eq!(versions(&root), had);
    assert_eq!(undone.packages["pulse:all"], ("1:2.0".to_owned(), "1:1.0".to_owned()));
    assert_eq!(undone.packages["new:all"], ("1".to_owned(), String::new()));
    let ignore_times = |snapshot: Snapshot| -> Snapshot {
        let without = |(path, what): (PathBuf, String)| {
            (path, what.split(" of ").next().unwrap_or_default().to_owned())
        };
        snapshot.into_iter().filter(|(path, _)| !path.starts_with("var/log")).map(without).collect()
    };
    assert_eq!(ignore_times(root.snapshot()), ignore_times(before));
    let inode = |path: &str| fs::metadata(root.at(path)).unwrap().ino();
    assert_eq!(inode("usr/lib/pulse/lib"), inode("usr/lib/pulse/lib.same"), "hard links are one file still");
}

#[test]
fn a_version_that_is_not_kept_is_named() {
    let root = Root::new();
    let files = [("usr/lib/pulse/lib", "x")];
    let (one, two) = (build(&root, "pulse", "1", &files), build(&root, "pulse", "2", &files));
    dpkg(&root, &["--install", one.to_str().unwrap()]);
    root.arm();
    dpkg(&root, &["--install", two.to_str().unwrap()]);
    let undone = root.undo();
    assert_eq!(undone.could_not, ["pulse:all is not at 1 again, but: 2"]);
}

#[test]
fn without_an_armed_checkpoint_apt_is_not_held_up() {
    let root = Root::new();
    let deb = build(&root, "pulse", "1", &[("usr/lib/pulse/lib", "x")]);
    let plan = format!("VERSION 3\n\npulse - - none < 1 all none {}\n", deb.display());
    keep::run(&root.paths, &plan).unwrap();
    let kept = root.paths.checkpoint().join("packages/pulse_1_all.deb");
    assert_eq!(fs::metadata(&kept).unwrap().ino(), fs::metadata(&deb).unwrap().ino(), "it costs nothing");
    // It is not installed: the next tidying takes it.
    keep::prune(&root.paths);
    assert!(!kept.exists());
}

#[test]
fn a_ledger_of_a_newer_agent_is_put_back() {
    let root = Root::new();
    let state = volary_device::State::new("canary".parse().unwrap(), 1);
    let ledger = volary_device::encode(&state, 4);
    write_atomic(&root.paths.ledger(0), &ledger, 0o600).unwrap();
    root.arm();
    write_atomic(&root.paths.ledger(0), b"volary-ledger 99 5 0 0\n", 0o600).unwrap();
    write_atomic(&root.paths.ledger(1), b"volary-ledger 99 6 0 0\n", 0o600).unwrap();
    {
        let store = Store::open(&root.paths).unwrap();
        let undoing = store.claim(By::Timer, failed()).unwrap().unwrap();
        super::run(&root.paths, &store, undoing, How::default()).unwrap();
    }
    assert_eq!(fs::read(root.paths.ledger(0)).unwrap(), ledger);
    assert!(!root.paths.ledger(1).exists());
}
