//! Packages of ours that build-depend on each other, through an archive of ours.

use std::fs;
use std::path::Path;

use volary_build::{AptLocation, AptSource};
use volary_host::{Cmd, write_atomic};

use crate::common::{Attempt, builder, package};

/// A signed archive in a folder, made with the tools of Debian; returns its key.
fn publish(debs: &[&Path], archive: &Path) -> String {
    let run = |cmd: Cmd| cmd.env("GNUPGHOME", archive.join("gnupg")).check().unwrap().text();
    fs::create_dir_all(archive.join("gnupg")).unwrap();
    fs::create_dir_all(archive.join("dists/rolling/main/binary-amd64")).unwrap();
    for deb in debs {
        fs::copy(deb, archive.join(deb.file_name().unwrap())).unwrap();
    }
    let packages = run(Cmd::new("dpkg-scanpackages").args(["--multiversion", "."]).cwd(archive));
    let index = "main/binary-amd64/Packages";
    let dist = archive.join("dists/rolling");
    write_atomic(&dist.join(index), packages.as_bytes(), 0o644).unwrap();
    let sum = run(Cmd::new("sha256sum").arg(dist.join(index)));
    let release = format!(
        "Origin: Test\nSuite: rolling\nCodename: rolling\nComponents: main\nArchitectures: amd64\n\
         Date: Sun, 22 Nov 2026 10:00:00 UTC\nSHA256:\n {} {} {index}\n",
        sum.split(' ').next().unwrap(),
        packages.len(),
    );
    let gpg = || Cmd::new("gpg").args(["--batch", "--quiet", "--pinentry-mode=loopback", "--passphrase="]);
    if !archive.join("gnupg/pubring.kbx").exists() {
        run(gpg().args(["--quick-generate-key", "test@example.org", "ed25519", "sign", "never"]));
    }
    let signed = run(gpg().arg("--clearsign").stdin(release));
    write_atomic(&dist.join("InRelease"), signed.as_bytes(), 0o644).unwrap();
    run(gpg().args(["--export", "--armor"]))
}

#[test]
fn a_package_of_ours_can_need_another_in_its_newest_build() {
    let builder = builder();
    let library = package("volary-testlib", "debhelper-compat (= 13)", "true");
    library.write("Makefile", "all:\ninstall:\n\tinstall -D Makefile $(DESTDIR)/usr/share/testlib/file\n");
    // What packages bring runs as root, with no right over the machine.
    library.write(
        "debian/postinst",
        "#!/bin/sh\nset -e\ngrep ^CapBnd /proc/self/status >/usr/share/testlib/rights\n\
         useradd --system testlib\n\
         for no in 'mount -t tmpfs no /mnt' 'mknod /no b 8 0' 'chroot / true' \
             'test -w /proc/sys/kernel/core_pattern'; do\n\
             ! $no 2>/dev/null || echo \"$no\" >>/usr/share/testlib/rights\ndone\n",
    );
    let recipe = "sed 's/^/it has /' /usr/share/testlib/rights";
    let user = package("volary-testuser", "debhelper-compat (= 13), volary-testlib", recipe);
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");

    let mut versions = Vec::new();
    for number in [1, 2] {
        let built = Attempt::of(&builder, &library, |request| request.number = number);
        let debs: Vec<&Path> = built.built().files.iter().map(|path| path.as_path()).collect();
        let debs: Vec<&Path> = debs.into_iter().filter(|path| path.extension().unwrap() == "deb").collect();
        let key = publish(&debs, &archive);
        let with_archive = |key: &str| {
            Attempt::of(&builder, &user, |request| {
                request.extra_sources = vec![AptSource {
                    location: AptLocation::Folder(archive.clone()),
                    suite: "rolling".to_owned(),
                    components: vec!["main".to_owned()],
                    key: key.to_owned(),
                }];
            })
        };
        let attempt = with_archive(&key);
        attempt.built();
        let unpacked = format!("Inst volary-testlib ({}", built.built().version);
        assert!(attempt.log().contains(&unpacked), "{unpacked} in {}", attempt.log());
        let log = attempt.log();
        let rights: Vec<_> = log.lines().filter_map(|line| line.split("it has ").nth(1)).collect();
        assert_eq!(&rights[1..], ["CapBnd:\t00000000800001fb"], "{log}");
        versions.push(built.built().version.clone());

        if number == 2 {
            // Nothing changed in the archive: apt is not asked again.
            let again = with_archive(&key);
            assert!(!again.log().contains("Inst "), "{}", again.log());
            again.built();
        }
    }
    assert_ne!(versions[0], versions[1]);

    // Another key does not sign it.
    let other = publish(&[], &dir.path().join("other"));
    let attempt = Attempt::of(&builder, &user, |request| {
        request.extra_sources = vec![AptSource {
            location: AptLocation::Folder(archive.clone()),
            suite: "rolling".to_owned(),
            components: vec!["main".to_owned()],
            key: other,
        }];
    });
    assert!(attempt.reason().starts_with("cannot fetch build dependencies: "), "{}", attempt.reason());
    assert!(attempt.result.unwrap_err().is_setup());
}
