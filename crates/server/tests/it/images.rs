//! Images: from the upload to the devices that fetch them, and what keeps them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};

use serde_json::Value;
use volary_api::v1::fleet::{Promotion, Say};
use volary_api::v1::image::Image;
use volary_api::v1::status::Status;
use volary_artifact::blocks::{Ranges, apply_pair, assemble};
use volary_artifact::{PayloadDraft, PrivateKey, Source};
use volary_host::Cmd;

use crate::support::{
    Client, TestServer, lock_text, make_artifact, publish, wait_for, write, write_artifact,
};

const TYPE: &str = "qemu-amd64";

fn rootfs(seed: u8) -> Vec<u8> {
    (0..300_000u32).map(|at| (at / 7) as u8 ^ seed).collect()
}

/// What is in the folder of the artifacts.
fn files(server: &TestServer) -> Vec<String> {
    let entries = std::fs::read_dir(server.layout().images()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn what_is_published_is_served_for_ever() {
    let mut server = TestServer::start();
    let bytes = make_artifact("2026.1", &[TYPE, "qemu-other"], &rootfs(1), None);
    server.with_role("viewer").put("/api/v1/images", &bytes).refused(403, "developer");
    let developer = server.with_role("developer");
    let sent = developer.put("/api/v1/images", &bytes);
    assert_eq!(sent.status.as_u16(), 201);
    let image: Image = sent.json();
    assert_eq!((image.name.as_str(), image.kind.as_str()), ("2026.1", "rootfs-image"));
    assert_eq!((image.size, image.rootfs_size), (bytes.len() as u64, Some(300_000)));
    assert_eq!(image.device_types.len(), 2);
    let again = developer.put(&format!("/api/v1/images?digest={}", image.artifact), &bytes);
    assert_eq!(again.status.as_u16(), 200, "a repetition changes nothing");
    assert_eq!(files(&server), [image.artifact.hex()]);

    let path = format!("/images/{}", image.artifact.hex());
    let anybody = server.anonymous();
    let whole = anybody.get(&path);
    assert_eq!(whole.body, bytes);
    assert_eq!(whole.header("etag"), format!("\"{}\"", image.artifact.hex()));
    assert!(whole.header("cache-control").contains("immutable"));
    assert_eq!(whole.header("content-type"), "application/vnd.mender-artifact");
    let part = anybody.get_with(&path, &[("range", "bytes=1000-1999"), ("if-range", whole.header("etag"))]);
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &bytes[1000..2000]));
    assert_eq!(part.header("content-range"), format!("bytes 1000-1999/{}", bytes.len()));
    let same = anybody.get_with(&path, &[("if-none-match", whole.header("etag"))]);
    assert_eq!((same.status.as_u16(), same.body.len()), (304, 0));
    let head = anybody.head(&path);
    assert_eq!((head.status.as_u16(), head.header("content-length")), (200, &*bytes.len().to_string()));
    anybody.get(&format!("/images/{}", "0".repeat(64))).refused(404, "volary image list");
    anybody.get(&format!("/images/{}", image.artifact.hex().to_uppercase())).refused(404, "names no image");
    anybody.get(&format!("{path}.blocks")).refused(404, "fetch the whole artifact");
    anybody.get(&format!("{path}.from-{}", "0".repeat(64))).refused(404, "fetch the whole artifact");
    anybody.get(&format!("{path}.from-../../ca.pem")).refused(404, "");
    write(server.layout().images().join(format!("{}.blocks", image.artifact.hex())), "index");
    assert_eq!(anybody.get(&format!("{path}.blocks")).text(), "index");

    // What a killed server left is gone after the next start, and what was published is not.
    write(server.layout().images().join(".tmpAbCdEf"), "half");
    write(server.layout().images().join("0".repeat(64)), "a file whose record was never written");
    server.stop();
    server.resume();
    let blocks = format!("{}.blocks", image.artifact.hex());
    wait_for("the sweep", || (files(&server).len() == 2).then_some(()));
    assert!(files(&server).contains(&image.artifact.hex()) && files(&server).contains(&blocks));
    let images: Vec<Image> = server.admin().get("/api/v1/images").json();
    assert_eq!(images.len(), 1);
    assert!(images[0].kept.iter().any(|why| why.contains("newest 5 of qemu-amd64")), "{images:?}");
    server.admin().delete(&format!("/api/v1{path}")).json::<Image>();
    assert_eq!(files(&server), [""; 0]);
    server.admin().delete(&format!("/api/v1{path}")).refused(404, "has no image");
    assert_eq!((server.events("image-published").len(), server.events("image-removed").len()), (1, 1));
}

struct Fetched<'a>(&'a Client, String);

impl Ranges for Fetched<'_> {
    fn range(&mut self, start: u64, length: u64) -> io::Result<Box<dyn Read + '_>> {
        let answer = self.0.get_with(&self.1, &[("range", &format!("bytes={start}-{}", start + length - 1))]);
        assert_eq!(answer.status.as_u16(), 206);
        Ok(Box::new(io::Cursor::new(answer.body)))
    }
}

fn file(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(content).unwrap();
    file
}

#[test]
fn a_device_makes_an_image_out_of_the_one_before() {
    let server = TestServer::start();
    let admin = server.admin();
    let old: Vec<u8> = (0..400u32 * 1024).flat_map(|at| (at.wrapping_mul(at) >> 4).to_le_bytes()).collect();
    let mut new = old.clone();
    new[500_000..500_100].fill(b'x');
    let first = publish(&admin, &make_artifact("2026.1", &[TYPE], &old, None));
    let second = publish(&admin, &make_artifact("2026.2", &[TYPE], &new, None));
    let git = server.fleet_clone();
    git.commit("volary.lock", &lock_text(TYPE, &second), "Pin the second image");
    git.push("HEAD:master").unwrap();

    let anybody = server.anonymous();
    let blocks = format!("/images/{}.blocks", second.artifact.hex());
    let pair = format!("/images/{}.from-{}", second.artifact.hex(), first.rootfs.hex());
    for path in [&blocks, &pair] {
        wait_for("the server to make what devices fetch", || {
            (anybody.head(path).status.as_u16() == 200).then_some(())
        });
    }
    let mut slot = file(&vec![0; new.len()]);
    let told =
        assemble(&mut Fetched(&anybody, blocks), &file(&old), &mut slot, &second.rootfs, &mut |_| Ok(()))
            .unwrap();
    assert_eq!(told.new, 4096);
    let mut slot = file(&vec![0; new.len()]);
    let told =
        apply_pair(&mut Fetched(&anybody, pair), &file(&old), &mut slot, &second.rootfs, &mut |_| Ok(()))
            .unwrap();
    assert!(told.complete && told.fetched < 1000, "{told:?}");

    let of_first = format!("{}.blocks", first.artifact.hex());
    wait_for("the block file of the first", || files(&server).contains(&of_first).then_some(()));
    admin.delete(&format!("/api/v1/images/{}", first.artifact.hex())).json::<Image>();
    let left = files(&server);
    assert!(left.len() == 3 && left.iter().all(|name| name.starts_with(&second.artifact.hex())), "{left:?}");
}

#[test]
fn what_is_no_image_is_refused_and_leaves_nothing() {
    let server = TestServer::start();
    let admin = server.admin();
    let good = make_artifact("2026.1", &[TYPE], &rootfs(1), None);
    let put = |bytes: &[u8], part: &str| admin.put("/api/v1/images", bytes).refused(422, part);
    put(b"not an artifact", "the artifact is refused");
    put(&good[..good.len() - 5000], "the artifact is refused");
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    put(&bad, "the artifact is refused");
    put(&make_artifact("Release 1", &[TYPE], &rootfs(1), None), "image name \"Release 1\" is not valid");
    put(&make_artifact("a", &["Raspberry"], &rootfs(1), None), "device type \"Raspberry\" is not valid");
    let files_only = PayloadDraft::module("single-file", "x", vec![Source::new("f", 1, &b"f"[..])]);
    put(&write_artifact("x", &[TYPE], files_only, None), "leads to no root file system");
    let image = Source::new("rootfs", 3, &b"abc"[..]);
    let mut payload = PayloadDraft::rootfs_image("x", image);
    payload.checksum_key = None;
    payload.provides.insert("rootfs-image.checksum".into(), "ab".repeat(32));
    put(&write_artifact("x", &[TYPE], payload, None), "and its root file system is");
    let announced = format!("/api/v1/images?digest=sha256:{}", "ab".repeat(32));
    admin.put(&announced, &good).refused(422, "was announced; send it again");
    assert_eq!(files(&server), [""; 0]);

    publish(&admin, &good);
    let other = make_artifact("2026.1", &[TYPE], &rootfs(2), None);
    admin.put("/api/v1/images", &other).refused(409, "another image for qemu-amd64 is called 2026.1");
    assert_eq!(files(&server).len(), 1);
    // For devices that have something else already, there may be more ways to the same image.
    let sum: Image = admin.get("/api/v1/images").json::<Vec<Image>>().remove(0);
    let mut delta =
        PayloadDraft::module("mender-binary-delta", "2026.1", vec![Source::new("d", 1, &b"d"[..])]);
    delta.provides = BTreeMap::from([("rootfs-image.checksum".into(), sum.rootfs.hex())]);
    delta.depends = BTreeMap::from([("rootfs-image.checksum".into(), vec!["cd".repeat(32)])]);
    let delta = publish(&admin, &write_artifact("2026.1", &[TYPE], delta, None));
    assert_eq!((delta.rootfs, delta.rootfs_size), (sum.rootfs, None));
}

#[test]
fn a_server_that_knows_keys_takes_only_what_they_signed() {
    let mut server = TestServer::made();
    let dir = server.made.dir.clone();
    let make = |name: &str| {
        let path = dir.join(name);
        Cmd::new("openssl")
            .args(["ecparam", "-genkey", "-noout", "-name", "prime256v1", "-out"])
            .arg(&path)
            .check()
            .unwrap();
        PrivateKey::from_pem(&std::fs::read_to_string(&path).unwrap()).unwrap()
    };
    let (ours, theirs) = (make("ours.pem"), make("theirs.pem"));
    Cmd::new("openssl")
        .args(["ec", "-pubout", "-in"])
        .arg(dir.join("ours.pem"))
        .arg("-out")
        .arg(dir.join("ours.pub"))
        .check()
        .unwrap();
    let config = dir.join("server.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    write(&config, format!("{text}[images]\nkeys = [\"ours.pub\"]\n"));
    server.resume();
    let admin = server.admin();
    let artifact = |key| make_artifact("2026.1", &[TYPE], &rootfs(1), key);
    admin.put("/api/v1/images", &artifact(None)).refused(422, "the artifact is not signed");
    admin.put("/api/v1/images", &artifact(Some(&theirs))).refused(422, "none of the 1 keys");
    let image = publish(&admin, &artifact(Some(&ours)));
    assert_eq!(image.signed_by, Some(ours.public_key().fingerprint()));
}

#[test]
fn a_pinned_image_is_known_shown_and_kept() {
    let server = TestServer::start();
    let (admin, fleet) = (server.admin(), server.fleet_clone());
    for stage in ["canary", "production"] {
        fleet.push(&format!("HEAD:{stage}")).unwrap();
    }
    let bytes = make_artifact("2026.1", &[TYPE], &rootfs(1), None);
    let image = publish(&admin, &bytes);
    let path = format!("/api/v1/images/{}", image.artifact.hex());
    admin.delete(&path).json::<Image>();
    let first = fleet.commit("volary.lock", &lock_text(TYPE, &image), "Pin an image");
    let refused = fleet.push("HEAD:master").unwrap_err();
    assert!(
        refused.contains("pins the image 2026.1 for qemu-amd64, which this server does not have"),
        "{refused}"
    );
    assert!(refused.contains("volary image publish FILE"), "{refused}");
    publish(&admin, &bytes);
    fleet.push("HEAD:master").unwrap();
    admin.delete(&path).refused(409, "stage development pins it for qemu-amd64");
    let shown: Image = admin.get(&path).json();
    assert_eq!(shown.pinned_by.len(), 1);
    let status: Status = admin.get("/api/v1/status").json();
    let pinned = &status.stages[0].images;
    assert_eq!((pinned.len(), pinned[0].name.as_str(), pinned[0].known), (1, "2026.1", true));
    let page = admin.get("/").text();
    assert!(page.contains("2026.1") && page.contains(&format!("/images/{}", image.artifact.hex())), "{page}");

    let preview = "/api/v1/promotion?from=development&to=canary";
    let promotion: Promotion = admin.get(preview).json();
    assert_eq!(promotion.commit.as_str(), first);
    let change = &promotion.images[0];
    assert_eq!((&change.from, change.to.as_ref().unwrap().as_str()), (&None, "2026.1"));
    let says = |promotion: &Promotion| {
        let verdict = promotion.verdicts.iter().find(|verdict| verdict.gate == "images").unwrap();
        (verdict.say, verdict.reason.clone())
    };
    assert_eq!(says(&promotion).0, Say::Go);
    // Somebody removes the file behind the server's back.
    let file = server.layout().image(&image.artifact);
    std::fs::rename(&file, server.scratch().join("away")).unwrap();
    let promotion: Promotion = admin.get(preview).json();
    let (say, reason) = says(&promotion);
    assert_eq!(say, Say::Stop);
    assert!(reason.contains("does not have 2026.1 for qemu-amd64"), "{reason}");
    assert!(admin.get("/").text().contains("the server does not have it"));
    let merge = fleet.merge(&first, "canary", "Promote");
    let refused = fleet.push(&format!("{merge}:canary")).unwrap_err();
    assert!(refused.contains("the gate \"images\" says stop"), "{refused}");
    publish(&admin, &bytes);
    fleet.push(&format!("{merge}:canary")).unwrap();
    let promotion: Promotion = admin.get("/api/v1/promotion?from=canary&to=production").json();
    assert_eq!(promotion.images.len(), 1);

    // A device that runs another image is on its way, whatever else it says.
    let device = crate::support::DeviceKey::new().join(&server, "dev-1", "development");
    let report = |id: &str, name: &str| {
        let suite = status.stages[0].suite.as_deref();
        let mut report =
            serde_json::to_value(crate::support::good_report(id, "development", &first, suite)).unwrap();
        report["image"] = serde_json::json!({"device_type": TYPE, "name": name, "slot": "b"});
        assert!(device.post("/device/v1/reports", &report).status.is_success());
        let device: Value = admin.get("/api/v1/devices/dev-1").json();
        (device["condition"].clone(), device["reason"].clone())
    };
    assert_eq!(report("1", "2025.9"), ("converging".into(), "image 2025.9, its stage pins 2026.1".into()));
    assert_eq!(report("2", "2026.1"), ("good".into(), "".into()));
    assert!(admin.get("/").text().contains("2026.1 (qemu-amd64, slot b)"));
}
