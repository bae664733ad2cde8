//! Round trips with Mender's own tool: it reads, checks and signs ours, we read, check and sign its.

mod common;

use std::io::Cursor;

use common::{
    Keys, draft, full_draft, mender, mender_accepts, mender_has_zstd, noise, store, unsigned, written,
};
use volary_artifact::{
    Augment, Compression, Encoding, Error, InPlace, Info, PayloadDraft, PayloadType, Policy, Reader,
    Signature, Source, WriteOptions, inspect, sign_copy, sign_in_place, verify, write,
};

const ALL: [&str; 7] = ["none", "gzip", "lzma", "zstd_fastest", "zstd_fast", "zstd_better", "zstd_best"];

#[test]
fn mender_reads_what_we_write() {
    let dir = tempfile::tempdir().unwrap();
    let (rsa, ec) = (Keys::rsa(dir.path()), Keys::ecdsa(dir.path()));
    let zstd = mender_has_zstd();
    // Several blocks of gzip, and of zstd.
    let (small, large) = (noise(3 << 20), noise(9 << 20));
    let keys = [None, Some(&rsa), Some(&ec)];
    for (name, key) in ALL.into_iter().zip(keys.into_iter().cycle()) {
        let encoding = match name {
            // Level 6 takes a minute in a build for debugging.
            "lzma" => Encoding::Xz(0),
            name => name.parse().unwrap(),
        };
        let image = if name == "zstd_fast" { &large } else { &small };
        let bytes = written(full_draft(image), encoding, key.map(Keys::private).as_ref());
        for threads in [1, 2] {
            let info = verify(&bytes[..], &unsigned(threads)).unwrap();
            assert_eq!((info.name.as_str(), info.payload_size()), ("release-2", image.len() as u64));
        }
        if zstd || !name.starts_with("zstd") {
            let file = store(dir.path(), "ours.mender", &bytes);
            mender_accepts(&file, key.map(|k| k.public.as_path()))
                .unwrap_or_else(|said| panic!("{name}: {said}"));
        }
    }
}

#[test]
fn mender_shows_what_we_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let file = store(dir.path(), "a.mender", &written(full_draft(b"image"), Encoding::default(), None));
    let said = mender(&["read", file.to_str().unwrap()]).text();
    for line in [
        // Only what versions 3 and 4 of the tool print alike.
        "release-2",
        "board",
        "other",
        "blue",
        "release-1",
        "green",
        "ArtifactInstall_Enter_00_first",
        "ArtifactInstall_Leave_50",
        "rootfs-image.version: release-2",
        "rootfs-image.checksum: 6105d6cc76af400325e94d588ce511be5bfdbb73b437dc51eca43917d7a43e3d",
        "extra: more <&> \"quoted\"",
        "custom: value",
        "root.ext4",
    ] {
        assert!(said.contains(line), "{line} is missing in {said}");
    }
}

#[test]
fn mender_reads_modules_with_several_files_and_several_payloads() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (noise(3 << 20), noise(100));
    let payload = |module: &str| {
        let files = vec![
            Source::new("one.bin", one.len() as u64, &one[..]),
            Source::new("two", 100, &two[..]),
            Source::new("empty", 0, &b""[..]),
        ];
        let mut payload = PayloadDraft::module(module, "release-2", files);
        payload.meta_data = serde_json::from_str(r#"{"a":["b",1],"c":{"d":null}}"#).unwrap();
        payload
    };
    for (count, payloads) in [(1, vec![payload("app")]), (2, vec![payload("app"), payload("other")])] {
        let bytes = written(draft(payloads), Encoding::Gzip(6), None);
        mender_accepts(&store(dir.path(), "m.mender", &bytes), None).unwrap();
        let info = verify(&bytes[..], &unsigned(2)).unwrap();
        assert_eq!(info.payloads.len(), count);
        let names: Vec<&str> = info.payloads[0].files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!(names, ["one.bin", "two", "empty"]);
        assert_eq!(info.payloads[0].provides["rootfs-image.app.version"], "release-2");
    }
    let bytes = written(draft(vec![PayloadDraft::module("none", "release-2", vec![])]), Encoding::None, None);
    mender_accepts(&store(dir.path(), "n.mender", &bytes), None).unwrap();
    let bytes = written(draft(vec![PayloadDraft::empty()]), Encoding::default(), None);
    mender_accepts(&store(dir.path(), "e.mender", &bytes), None).unwrap();
    assert_eq!(verify(&bytes[..], &unsigned(1)).unwrap().payloads[0].kind, PayloadType::Empty);
}

#[test]
fn we_read_what_mender_writes() {
    let dir = tempfile::tempdir().unwrap();
    let image = store(dir.path(), "root.ext4", &noise(3 << 20));
    let script = store(dir.path(), "ArtifactCommit_Leave_10_x", b"#!/bin/sh\n");
    let keys = [None, Some(Keys::rsa(dir.path())), Some(Keys::ecdsa(dir.path()))];
    let path = dir.path().join("theirs.mender");
    for (name, key) in ALL.into_iter().zip(keys.iter().cycle()) {
        if name.starts_with("zstd") && !mender_has_zstd() {
            continue;
        }
        let mut args =
            vec!["write", "rootfs-image", "-n", "r1", "-t", "board", "-t", "b2", "-N", "r0", "-g", "blue"];
        args.extend([
            "-G",
            "green",
            "-d",
            "k:v",
            "-p",
            "x:y",
            "--compression",
            name,
            "-s",
            script.to_str().unwrap(),
        ]);
        args.extend(["-f", image.to_str().unwrap(), "-o", path.to_str().unwrap()]);
        if let Some(key) = key {
            args.extend(["-k", key.private.to_str().unwrap()]);
        }
        let output = mender(&args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let bytes = volary_host::read(&path).unwrap();
        let trusted: Vec<_> = key.iter().map(Keys::public).collect();
        let mut policy = unsigned(2);
        if key.is_some() {
            policy.signatures = volary_artifact::Signatures::Require(&trusted);
        }
        let info = verify(&bytes[..], &policy).unwrap_or_else(|error| panic!("{name}: {error}"));
        check_theirs(&info, name);
        assert_eq!(matches!(info.signature, Signature::Verified { .. }), key.is_some());
    }
}

fn check_theirs(info: &Info, compression: &str) {
    assert_eq!(info.name, "r1");
    assert_eq!(info.group.as_deref(), Some("blue"));
    assert_eq!(info.depends.device_types, ["board", "b2"]);
    assert_eq!(info.depends.names, ["r0"]);
    assert_eq!(info.depends.groups, ["green"]);
    assert_eq!(info.scripts[0].name, "ArtifactCommit_Leave_10_x");
    let payload = &info.payloads[0];
    assert_eq!(payload.kind, PayloadType::RootfsImage);
    assert_eq!(payload.depends["k"], ["v"]);
    assert_eq!(payload.provides["x"], "y");
    assert_eq!(payload.provides["rootfs-image.checksum"], payload.files[0].digest.hex());
    assert_eq!(payload.clears_provides.as_ref().unwrap().len(), 3);
    assert_eq!(payload.files[0].size, Some(3 << 20));
    let expected = match compression {
        "none" => Compression::None,
        "gzip" => Compression::Gzip,
        "lzma" => Compression::Xz,
        _ => Compression::Zstd,
    };
    assert_eq!((info.header_compression, payload.compression), (expected, Some(expected)));
}

#[test]
fn we_read_menders_modules_and_bootstrap_and_augmented_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let file = store(dir.path(), "a.bin", &noise(4000));
    let meta = store(dir.path(), "meta", br#"{ "a": [1, "b"] }"#);
    let path = dir.path().join("theirs.mender");
    let (file, meta, output) = (file.to_str().unwrap(), meta.to_str().unwrap(), path.to_str().unwrap());
    let made = |args: &[&str]| {
        let done = mender(&[args, &["-n", "r1", "-t", "board", "-o", output]].concat());
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        volary_host::read(&path).unwrap()
    };
    let bytes = made(&["write", "module-image", "-T", "app", "-f", file, "-f", "/etc/hostname", "-m", meta]);
    let info = verify(&bytes[..], &Policy::unsigned()).unwrap();
    assert_eq!(info.payloads[0].files.len(), 2);
    assert_eq!(info.payloads[0].meta_data.as_ref().unwrap()["a"][1], "b");

    let bytes = made(&["write", "bootstrap-artifact"]);
    assert_eq!(verify(&bytes[..], &Policy::unsigned()).unwrap().payloads[0].kind, PayloadType::Empty);

    let args = ["write", "module-image", "-T", "app", "-p", "k:v", "-d", "d:1", "--augment-type", "app"];
    let bytes = made(
        &[&args[..], &["--augment-file", file, "--augment-depends", "x:y", "--augment-provides", "k:w"]]
            .concat(),
    );
    assert!(matches!(verify(&bytes[..], &Policy::unsigned()), Err(Error::Augmented)));
    let policy = Policy { augment: Augment::Accept, ..Policy::unsigned() };
    let info = verify(&bytes[..], &policy).unwrap();
    let payload = &info.payloads[0];
    assert!(payload.augmented);
    assert_eq!(payload.files[0].name, "a.bin");
    assert_eq!((payload.depends["x"][0].as_str(), payload.depends["d"][0].as_str()), ("y", "1"));
    assert_eq!(payload.provides["k"], "w");
}

#[test]
fn both_sign_what_either_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let (rsa, ec) = (Keys::rsa(dir.path()), Keys::ecdsa(dir.path()));
    let image = noise(1 << 20);
    let ours = written(full_draft(&image), Encoding::default(), None);
    let file = store(dir.path(), "a.mender", &ours);
    let path = file.to_str().unwrap();

    // Theirs over ours, with both keys one after the other.
    for key in [&rsa, &ec] {
        let output = mender(&["sign", path, "-k", key.private.to_str().unwrap(), "--force"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let signed = volary_host::read(&file).unwrap();
        verify(&signed[..], &Policy::signed_by(&[key.public()])).unwrap();
    }
    // Ours over theirs: the RSA signature has another size, the second is replaced in place.
    for key in [&rsa, &ec] {
        let signed = volary_host::read(&file).unwrap();
        let mut copy = Vec::new();
        let size = sign_copy(&signed[..], &mut copy, &key.private(), &Policy::unsigned()).unwrap();
        assert_eq!(size, copy.len() as u64);
        mender_accepts(&store(dir.path(), "copy.mender", &copy), Some(&key.public)).unwrap();

        let mut place = Cursor::new(copy.clone());
        assert_eq!(sign_in_place(&mut place, &key.private(), &Policy::unsigned()).unwrap(), InPlace::Signed);
        assert_eq!(place.into_inner(), copy, "signatures are reproducible");
    }
    let other = Keys::make(dir.path(), "other", &["ecparam", "-genkey", "-noout", "-name", "prime256v1"]);
    let mut place = Cursor::new(volary_host::read(&file).unwrap());
    assert_eq!(sign_in_place(&mut place, &other.private(), &Policy::unsigned()).unwrap(), InPlace::Signed);
    let signed = place.into_inner();
    mender_accepts(&store(dir.path(), "other.mender", &signed), Some(&other.public)).unwrap();
    assert!(mender_accepts(&dir.path().join("other.mender"), Some(&ec.public)).is_err());
    assert!(matches!(verify(&signed[..], &Policy::signed_by(&[ec.public()])), Err(Error::Signature { .. })));
    verify(&signed[..], &Policy::signed_by(&[ec.public(), other.public()])).unwrap();
    assert_eq!(
        sign_in_place(Cursor::new(ours), &ec.private(), &Policy::unsigned()).unwrap(),
        InPlace::NeedsCopy
    );
}

#[test]
fn equal_input_gives_equal_bytes_for_any_number_of_threads() {
    let dir = tempfile::tempdir().unwrap();
    let keys = [Keys::rsa(dir.path()).private(), Keys::ecdsa(dir.path()).private()];
    for (encoding, size) in [
        (Encoding::None, 1 << 20),
        (Encoding::Gzip(2), 3 << 20),
        (Encoding::Xz(0), 1 << 20),
        (Encoding::Zstd(3), 9 << 20),
    ] {
        let image = noise(size);
        for key in &keys {
            let one = |threads| {
                let mut output = Cursor::new(Vec::new());
                let options = WriteOptions { encoding, key: Some(key), threads };
                write(&mut output, full_draft(&image), &options).unwrap();
                output.into_inner()
            };
            let first = one(1);
            assert!(first == one(3) && first == one(1), "{encoding}");
        }
    }
}

#[test]
fn a_payload_streams_and_its_sizes_are_known_before() {
    let image = noise(5 << 20);
    let bytes = written(full_draft(&image), Encoding::Zstd(1), None);
    let mut reader = Reader::open(&bytes[..], &unsigned(2)).unwrap();
    assert_eq!(reader.scripts()[0].name, "ArtifactInstall_Enter_00_first");
    assert!(reader.raw_header_info().starts_with(br#"{"payloads":[{"type":"rootfs-image"}]"#));
    assert!(reader.raw_payload_header(0).unwrap().0.starts_with(br#"{"type":"rootfs-image""#));
    assert_eq!(reader.info().payloads[0].files[0].size, None);
    let file = reader.next_file().unwrap().unwrap();
    assert_eq!((file.name(), file.size(), file.payload()), ("root.ext4", 5 << 20, 0));
    let mut out = Vec::new();
    assert_eq!(file.copy_to(&mut out).unwrap(), 5 << 20);
    assert!(out == image);
    assert!(reader.next_file().unwrap().is_none());
    assert!(reader.next_file().unwrap().is_none());
    let json = serde_json::to_value(inspect(&bytes[..], &Policy::unsigned()).unwrap()).unwrap();
    assert_eq!(json["payloads"][0]["type"], "rootfs-image");
    assert_eq!(json["signature"]["state"], "absent");
}
