//! A package of Debian itself, imported with its packaging.

use volary_host::Cmd;

use crate::common::{Attempt, builder, workspace};
use crate::source::Source;

#[test]
fn an_imported_package_builds_without_its_upstream_tarball() {
    let source = Source { dir: tempfile::tempdir().unwrap() };
    let folder = source.path().join("import");
    let script = workspace().join("examples/sources/import-debian.sh");
    let said = Cmd::new(script)
        .arg("tree")
        .arg(&folder)
        .timeout(std::time::Duration::from_secs(300))
        .check()
        .unwrap()
        .text();
    let imported = said.trim().strip_prefix("tree ").unwrap().to_owned();
    let head = Cmd::new("git").args(["rev-parse", "HEAD"]).cwd(&folder).check().unwrap().text();
    let attempt = Attempt::of(&builder(), &Source::new(), |request| {
        request.repository = folder.clone();
        request.commit = head.trim().parse().unwrap();
    });
    let built = attempt.built();
    assert!(built.version.starts_with(&format!("{imported}+git7.")), "{}", built.version);
    // The patches of debian/ were applied: the commit has them only as files.
    assert!(attempt.log().contains("dpkg-source: info: applying "), "{}", attempt.log());
}
