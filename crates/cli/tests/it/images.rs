//! An image's way from a file to a stage's lock, through the commands.

use crate::support::Desk;

#[test]
fn an_image_is_published_pinned_promoted_and_kept() {
    let desk = Desk::new();
    desk.ok(&["clone", "fleet"]);
    let fleet = desk.fleet();
    for (name, content) in [("2026.1", b'a'), ("2026.2", b'b')] {
        let image = desk.path().join(format!("{name}.ext4"));
        volary_host::write_atomic(&image, &[content; 200_000], 0o644).unwrap();
        let (image, artifact) = (image.display().to_string(), format!("{name}.mender"));
        desk.ok(&[
            "artifact",
            "write",
            &artifact,
            &image,
            "--name",
            name,
            "--device-type",
            "pi",
            "--device-type",
            "qemu",
        ]);
    }
    let first = desk.json(&["image", "publish", "2026.1.mender"]);
    assert_eq!((&first["is_new"], &first["name"]), (&true.into(), &"2026.1".into()));
    assert_eq!(desk.json(&["image", "publish", "2026.1.mender"])["is_new"], false);
    let said = desk.ok(&["image", "publish", "2026.2.mender"]);
    assert!(
        said.contains("2026.2 for pi, qemu is published") && said.contains("volary bump --image pi=2026.2"),
        "{said}"
    );
    let broken = desk.path().join("broken.mender");
    volary_host::write_atomic(&broken, b"no artifact", 0o644).unwrap();
    let (_, said) = desk.fails(&["image", "publish", "broken.mender"]);
    assert!(said.contains("broken.mender is not a sound artifact"), "{said}");
    assert_eq!(desk.json(&["image", "list"]).as_array().unwrap().len(), 2);
    assert!(desk.ok(&["image", "list"]).contains("2026.1"));

    let bump = |args: &[&str]| desk.ok_in(&fleet, &[&["bump"], args].concat());
    let (_, said) = desk.fails(&["bump", "--image", "pi=9"]);
    assert!(said.contains("no clone"), "{said}");
    let refused = desk.run_in(&fleet, &["bump", "--image", "pi=9"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("no image 9 for pi") && said.contains("it has: 2026.2, 2026.1"), "{said}");
    let said = bump(&["--image", "pi=2026.1", "--image", "qemu=2026.1"]);
    assert!(said.contains("pins image 2026.1 for pi and image 2026.1 for qemu at"), "{said}");
    assert!(bump(&["--image", "pi=2026.1"]).contains("already"));
    assert_eq!(desk.git(&["log", "-1", "--format=%s"]), "bump 2 images");
    assert!(desk.ok_in(&fleet, &["check", "--no-ansible"]).contains("is sound"));

    let preview = ["promote", "--from", "development", "--to", "canary", "--dry-run"];
    let said = desk.ok_in(&fleet, &preview);
    assert!(said.contains("images") && said.contains("the server has 2 pinned images"), "{said}");
    desk.ok_in(&fleet, &["promote", "--from", "development", "--to", "canary", "--yes"]);
    // This reads the stages anew; a push only rings the bell for that.
    assert!(desk.ok_in(&fleet, &preview).contains("canary has everything of development already"));
    let status = desk.ok(&["status"]);
    assert_eq!(status.matches("image: 2026.1 for pi").count(), 2, "{status}");

    // With a release in the same commit, which stays when the next image comes alone.
    let deb = desk.deb("hello", "1.0", "");
    desk.ok(&["archive", "upload", &deb]);
    desk.ok(&["release", "cut", "v1.0"]);
    bump(&["v1.0", "--image", "pi=2026.2"]);
    let message = desk.git(&["log", "-1", "--format=%B"]);
    assert!(
        message.contains("bump version to v1.0") && message.contains("Pins image 2026.2 for pi."),
        "{message}"
    );
    bump(&["--image", "qemu=2026.2"]);
    let lock = volary_host::read_to_string(&fleet.join("volary.lock")).unwrap();
    assert!(lock.contains("v1.0") && lock.matches("2026.2").count() == 2, "{lock}");

    let (status, said) = desk.fails(&["image", "remove", "2026.1"]);
    assert!(status == 1 && said.contains("stage canary pins it for pi"), "{said}");
    assert!(desk.ok(&["image", "show", "pi=2026.2"]).contains("stage development pins it for qemu"));
    desk.ok_in(&fleet, &["promote", "--from", "development", "--to", "canary", "--yes"]);
    assert!(desk.ok(&["image", "remove", "2026.1"]).contains("is gone"));
    // Who can ask is told of what the server lost; who cannot is not.
    let artifact = first["artifact"].as_str().unwrap();
    let text = lock.replace(desk.json(&["image", "list"])[0]["artifact"].as_str().unwrap(), artifact);
    volary_host::write_atomic(&fleet.join("volary.lock"), text.as_bytes(), 0o644).unwrap();
    let checked = desk.run_in(&fleet, &["check", "--no-ansible"]);
    assert!(
        checked.text().contains("images.pi: the server does not have the image 2026.2"),
        "{}",
        checked.text()
    );
    let nobody = desk.run_in(&fleet, &["--config", "/nonexistent", "check", "--no-ansible"]);
    assert!(nobody.status.success(), "{}", nobody.text());
}
