//! Every text parser against texts that were good and then damaged at random: errors are fine,
//! panics, hangs and outgrown results are not.

mod common;

use common::Random;
use volary_debian::control::Paragraphs;
use volary_debian::{Version, changelog, changes::Changes, clearsign, packages, relation, release};

impl Random {
    /// Replaces, removes, doubles or inserts pieces; what is not UTF-8 after that is replaced.
    fn damage(&mut self, text: &str) -> String {
        const PIECES: [&str; 20] = [
            "\n",
            " ",
            ":",
            "\0",
            "(",
            ")",
            "|",
            ",",
            "-",
            "~",
            "é",
            "\r\n",
            "[",
            "<",
            "0",
            "9999999999999999999999",
            "-----BEGIN PGP SIGNED MESSAGE-----",
            "\n\n",
            "\n- ",
            "../",
        ];
        let mut bytes = text.as_bytes().to_vec();
        for _ in 0..=self.below(5) {
            let at = self.below(bytes.len() + 1);
            let end = (at + self.below(30)).min(bytes.len());
            match self.below(4) {
                0 => drop(bytes.drain(at..end)),
                1 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                2 => {
                    bytes.splice(at..at, PIECES[self.below(PIECES.len())].bytes());
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = self.below(256) as u8;
                    }
                }
            }
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn check(seed: u64, good: &str, read: impl Fn(&str)) {
    let mut random = Random(seed);
    read(good);
    for _ in 0..4000 {
        read(&random.damage(good));
    }
}

const CONTROL: &str = "Package: hello\nSource: greet (1.0)\nVersion: 1:2.0~rc1-3+b1\nArchitecture: amd64\n\
    Depends: libc6 (>= 2.30), a | b:any (<< 3) [amd64 !armhf] <!nocheck>\nFilename: pool/h.deb\nSize: 123\n\
    SHA256: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\nDescription: x\n long\n .\n more\n\n";

#[test]
fn control_and_packages() {
    check(0x0001_5eed, CONTROL, |text| {
        for paragraph in Paragraphs::new(text).flatten() {
            let written = paragraph.to_string();
            let again = Paragraphs::new(&written).next().expect("it is there").expect("it is well-formed");
            assert_eq!(again, paragraph, "{text:?}");
        }
        assert!(packages::iterate(text).count() <= text.len());
    });
}

#[test]
fn relations() {
    check(0x0002_5eed, "libc6 (>= 2.30), a | b:any (<< 3) [amd64 !armhf] <!nocheck>, c (= 1:2-3)", |text| {
        if let Ok(relations) = relation::parse(text) {
            let shown: Vec<String> = relations.iter().map(ToString::to_string).collect();
            relation::parse(&shown.join(", ")).expect("what is shown can be read");
        }
    });
}

#[test]
fn versions() {
    check(0x0003_5eed, "1:2.0~rc1+dfsg-3+b1", |text| {
        if let Ok(version) = text.parse::<Version>() {
            assert_eq!(version.as_str(), text);
            assert_eq!(version.cmp(&text.parse().unwrap()), std::cmp::Ordering::Equal);
        }
    });
}

#[test]
fn uploads_and_signatures() {
    let hash = "0123456789abcdef".repeat(4);
    let text = format!(
        "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\nSource: hello\nVersion: 1.0\nChecksums-Sha256:\n \
         {hash} 10 hello_1.0_amd64.deb\nFiles:\n 0123 10 misc optional hello_1.0_amd64.deb\n\
         -----BEGIN PGP SIGNATURE-----\n\nabc\n-----END PGP SIGNATURE-----\n"
    );
    check(0x0004_5eed, &text, |text| {
        if let Ok(Some(signed)) = clearsign::split(text) {
            assert!(signed.payload.len() <= text.len() + 1);
        }
        if let Ok(changes) = Changes::parse(text) {
            assert!(changes.files.iter().all(|file| !file.name.contains('/')));
        }
    });
}

#[test]
fn releases() {
    let hash = "0123456789abcdef".repeat(4);
    let text = format!(
        "Origin: O\nDate: Sun, 22 Nov 2026 10:00:00 UTC\nValid-Until: Sun, 29 Nov 2026 10:00:00 UTC\nSHA256:\n \
         {hash} 17 main/binary-amd64/Packages\n {hash} 18 main/binary-amd64/Packages.gz\n"
    );
    check(0x0005_5eed, &text, |text| {
        if let Ok(read) = release::Release::parse(text) {
            let _ = (read.date(), read.valid_until());
            assert!(read.files.keys().all(|path| !path.split('/').any(|part| part == "..")));
        }
    });
}

#[test]
fn changelogs() {
    let text = "hello (2.0-1) unstable; urgency=medium\n\n  * New.\n\n -- A <a@b.c>  Sun, 22 Nov 2026 10:00:00 +0000\n\n";
    check(0x0006_5eed, &text.repeat(2), |text| {
        assert!(changelog::entries(text).count() <= text.len());
        let _ = changelog::between(text, &"1".parse().unwrap(), &"3".parse().unwrap());
    });
}
