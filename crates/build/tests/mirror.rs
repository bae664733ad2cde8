//! Source repositories: what is new in them, and how their copies survive trouble. Real git.

#[path = "builds/source.rs"]
mod source;

use std::fs;

use source::Source;
use volary_build::{GitError, Repository, SourceMirror};
use volary_host::write_atomic;
use volary_model::CommitId;

struct Fixture {
    source: Source,
    dir: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        Self { source: Source::new(), dir: tempfile::tempdir().unwrap() }
    }

    fn mirror(&self) -> SourceMirror {
        SourceMirror::new(self.dir.path().join("mirror.git"))
    }

    fn url(&self) -> String {
        format!("file://{}", self.source.path().display())
    }

    fn update(&self) -> Result<CommitId, GitError> {
        self.mirror().update(&self.url(), "master")
    }
}

#[test]
fn a_mirror_follows_its_branch_also_when_it_is_rewritten() {
    let fixture = Fixture::new();
    let one = fixture.source.commit("one");
    assert_eq!(fixture.update().unwrap(), one);
    let two = fixture.source.commit("two");
    assert_eq!(fixture.update().unwrap(), two);
    assert_eq!(fixture.update().unwrap(), two);
    fixture.source.git(&["reset", "--quiet", "--hard", one.as_str()]);
    let other = fixture.source.commit("other");
    assert_eq!(fixture.update().unwrap(), other);
    let mirror = fixture.mirror();
    assert_eq!(mirror.repository().new_commits(Some(&two), &other).unwrap(), [other]);
}

#[test]
fn new_commits_go_along_first_parents_from_the_oldest() {
    let source = Source::new();
    let one = source.commit("one");
    source.git(&["checkout", "--quiet", "-b", "side"]);
    source.commit("side 1");
    source.commit("side 2");
    source.git(&["checkout", "--quiet", "master"]);
    let two = source.commit("two");
    source.git(&["merge", "--quiet", "--no-ff", "-m", "merge", "side"]);
    let merge: CommitId = source.git(&["rev-parse", "HEAD"]).parse().unwrap();
    let repository = Repository::new(source.path());
    let check = |last: Option<&CommitId>, tip: &CommitId, expected: &[&CommitId]| {
        let new = repository.new_commits(last, tip).unwrap();
        assert_eq!(new.iter().collect::<Vec<_>>(), expected);
    };
    check(Some(&one), &merge, &[&two, &merge]);
    check(Some(&merge), &merge, &[]);
    check(None, &merge, &[&merge]);
    let unknown: CommitId = "0".repeat(40).parse().unwrap();
    check(Some(&unknown), &merge, &[&merge]);
    assert!(matches!(repository.new_commits(None, &unknown), Err(GitError::NoCommit { .. })));
}

#[test]
fn a_commit_says_who_when_and_what() {
    let source = Source::new();
    let commit = source.commit("Grüße\n\nBody.");
    let info = Repository::new(source.path()).commit_info(&commit).unwrap();
    assert_eq!(info.subject, "Grüße");
    assert_eq!((info.author.as_str(), info.committer_email.as_str()), ("Ada", "ada@example.org"));
    assert_eq!(info.committed.to_string(), "2026-11-22T10:00:05Z");
    assert_eq!(info.id, commit);
}

#[test]
fn an_export_has_all_files_and_nothing_of_git() {
    let source = Source::new();
    source.write("debian/rules", "rules");
    source.write("crlf.txt", "a\r\nb\r\n");
    source.write(".gitattributes", "debian export-ignore\n*.txt text=auto\n");
    std::os::unix::fs::symlink("crlf.txt", source.path().join("link")).unwrap();
    let commit = source.commit("x");
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("a/tree");
    Repository::new(source.path()).export(&commit, &tree).unwrap();
    let mut names: Vec<String> = fs::read_dir(&tree)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, [".gitattributes", "crlf.txt", "debian", "link"]);
    assert_eq!(fs::read_dir(tree.parent().unwrap()).unwrap().count(), 1, "no index stays");
    assert_eq!(fs::read_to_string(tree.join("debian/rules")).unwrap(), "rules");
}

#[test]
fn what_is_wrong_with_an_address_is_said() {
    let fixture = Fixture::new();
    fixture.source.commit("x");
    let check = |url: &str, branch: &str, expected: &str| {
        let error = fixture.mirror().update(url, branch).unwrap_err().to_string();
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    };
    let url = fixture.url();
    check(&url, "main", "has no branch \"main\"; push it, or register");
    check(&url, "a..b", "\"a..b\" is no valid name of a branch");
    check(
        "file:///no/such/repository",
        "master",
        "cannot reach the source repository file:///no/such/repository: ",
    );
    check(
        "http://user:secret@127.0.0.1:9/x.git",
        "master",
        "repository http://127.0.0.1:9/x.git: unable to access",
    );
    check("--upload-pack=touch /tmp/x", "master", "is no valid URL");
    check("ext::sh -c true", "master", "transport 'ext' not allowed");
    check("", "master", "is no valid URL");
    let none = Repository::new(fixture.dir.path().join("none")).tip("master").unwrap_err();
    assert!(matches!(none, GitError::Unreachable { .. }), "{none}");
}

#[test]
fn an_interrupted_fetch_heals() {
    let fixture = Fixture::new();
    fixture.source.commit("one");
    fixture.update().unwrap();
    let two = fixture.source.commit("two");
    let path = fixture.mirror().repository().path().to_owned();
    for lock in ["refs/heads/master.lock", "packed-refs.lock", "config.lock", "shallow.lock"] {
        write_atomic(&path.join(lock), b"", 0o644).unwrap();
    }
    assert_eq!(fixture.update().unwrap(), two);
}

#[test]
fn a_damaged_mirror_is_made_anew() {
    let fixture = Fixture::new();
    fixture.source.write("file", "content");
    fixture.source.commit("one");
    fixture.update().unwrap();
    let two = fixture.source.commit("two");
    let path = fixture.mirror().repository().path().to_owned();
    for entry in fs::read_dir(path.join("objects")).unwrap().flatten() {
        fs::remove_dir_all(entry.path()).unwrap();
    }
    write_atomic(&path.join("HEAD"), b"garbage", 0o644).unwrap();
    assert_eq!(fixture.update().unwrap(), two);
    let tree = fixture.dir.path().join("tree");
    fixture.mirror().repository().export(&two, &tree).unwrap();
    assert_eq!(fs::read_to_string(tree.join("file")).unwrap(), "content");
}
