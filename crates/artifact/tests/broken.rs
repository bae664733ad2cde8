//! Broken artifacts: what is wrong, what Mender's tool (Debian's 3.9) says, what we say and why we are
//! stricter where we are. Each case is made from a good artifact by one change, and every checksum that
//! the change touches is corrected, so that the rule itself is what refuses it.

mod common;

use std::io::Write;

use base64::Engine;
use common::{Keys, mender_accepts, store};
use ring::digest::{SHA256, digest};
use volary_artifact::{Augment, Error, Limits, Policy, Signatures, verify};

/// What Mender's tool says to a broken artifact.
#[derive(Debug, Clone, Copy)]
enum Mender {
    /// It refuses it too.
    Refuses,
    /// It takes it, and we do not, because of this.
    Accepts(&'static str),
}
use Mender::{Accepts, Refuses};

/// A member of a tar as it is to be written.
#[derive(Clone)]
struct Entry {
    name: String,
    body: Vec<u8>,
    kind: u8,
}

fn entry(name: &str, body: impl Into<Vec<u8>>) -> Entry {
    Entry { name: name.into(), body: body.into(), kind: b'0' }
}

/// The parts of an artifact before they are put together.
#[derive(Clone)]
struct Parts {
    version: String,
    header: Vec<Entry>,
    /// What stands in the payload.
    data: Vec<Entry>,
    /// Changes the manifest's text after it was made.
    manifest: fn(String) -> String,
    /// Changes the packed bytes of header and data.
    pack_header: fn(Vec<u8>) -> Vec<u8>,
    pack_data: fn(Vec<u8>) -> Vec<u8>,
    /// Changes the outer members.
    outer: fn(&mut Vec<Entry>),
    /// Changes the finished file.
    file: fn(&mut Vec<u8>),
}

const HEADER_INFO: &str = r#"{"payloads":[{"type":"rootfs-image"}],"artifact_provides":{"artifact_name":"r1"},"artifact_depends":{"device_type":["board"]}}"#;
const TYPE_INFO: &str = r#"{"type":"rootfs-image","artifact_provides":{"rootfs-image.version":"r1"},"clears_artifact_provides":["rootfs-image.*"]}"#;

fn good() -> Parts {
    Parts {
        version: r#"{"format":"mender","version":3}"#.into(),
        header: vec![
            entry("header-info", HEADER_INFO),
            entry("scripts/ArtifactInstall_Enter_00", "#!/bin/sh\n"),
            entry("headers/0000/type-info", TYPE_INFO),
            entry("headers/0000/meta-data", ""),
        ],
        data: vec![entry("root.ext4", "the image")],
        manifest: |text| text,
        pack_header: gzip,
        pack_data: gzip,
        outer: |_| (),
        file: |_| (),
    }
}

fn gzip(bytes: Vec<u8>) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&bytes).unwrap();
    encoder.finish().unwrap()
}

fn hex(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn tar(entries: &[Entry]) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in entries {
        let mut header = [0_u8; 512];
        header[..entry.name.len()].copy_from_slice(entry.name.as_bytes());
        header[100..107].copy_from_slice(b"0000600");
        header[124..135].copy_from_slice(format!("{:011o}", entry.body.len()).as_bytes());
        header[136..147].copy_from_slice(b"00000000000");
        header[156] = entry.kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        all.extend(with_checksum(header));
        all.extend(&entry.body);
        all.resize(all.len().next_multiple_of(512), 0);
    }
    all.resize(all.len() + 1024, 0);
    all
}

fn with_checksum(mut header: [u8; 512]) -> [u8; 512] {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

impl Parts {
    fn build(&self) -> Vec<u8> {
        let header = (self.pack_header)(tar(&self.header));
        let data = (self.pack_data)(tar(&self.data));
        let mut lines = String::new();
        let mut listed: Vec<&str> = Vec::new();
        for file in self.data.iter().filter(|file| file.kind == b'0') {
            if !listed.contains(&file.name.as_str()) {
                lines += &format!("{}  data/0000/{}\n", hex(&file.body), file.name);
                listed.push(&file.name);
            }
        }
        lines += &format!("{}  header.tar.gz\n", hex(&header));
        lines += &format!("{}  version\n", hex(self.version.as_bytes()));
        let mut outer = vec![
            entry("version", self.version.as_bytes()),
            entry("manifest", (self.manifest)(lines)),
            entry("header.tar.gz", header),
            entry("data/0000.tar.gz", data),
        ];
        (self.outer)(&mut outer);
        let mut file = tar(&outer);
        (self.file)(&mut file);
        file
    }

    fn info(mut self, text: &str) -> Self {
        self.header[0].body = text.into();
        self
    }

    fn type_info(mut self, text: &str) -> Self {
        self.header[2].body = text.into();
        self
    }

    fn script(mut self, name: &str) -> Self {
        self.header[1].name = format!("scripts/{name}");
        self
    }
}

/// One row of the table.
struct Case {
    name: &'static str,
    parts: Parts,
    mender: Mender,
    /// A part of what we say.
    says: &'static str,
}

fn case(name: &'static str, parts: Parts, mender: Mender, says: &'static str) -> Case {
    Case { name, parts, mender, says }
}

const PARSERS_DIFFER: &str = "readers disagree on what it means: a check by one says nothing about another";
const UNCHECKED: &str = "no checksum covers it";
const CPP_REFUSES: &str = "Mender's C++ client refuses it";
const NO_CONDITION_UNREAD: &str = "a condition that is not understood cannot be checked";

fn front_cases() -> Vec<Case> {
    let g = good;
    vec![
        case("not a tar", Parts { file: |f| *f = b"hello".repeat(500), ..g() }, Refuses, "not a tar"),
        case("nothing", Parts { file: Vec::clear, ..g() }, Refuses, "cut off"),
        case("cut in the payload", Parts { file: |f| f.truncate(f.len() - 1500), ..g() }, Refuses, "cut off"),
        case(
            "cut before the end marker",
            Parts { file: |f| f.truncate(f.len() - 1024), ..g() },
            Accepts("an end that is missing cannot be told from a member that is missing"),
            "cut off",
        ),
        case(
            "bytes behind the end",
            Parts { file: |f| f.extend([1; 512]), ..g() },
            Accepts(UNCHECKED),
            "something follows the end",
        ),
        case("a tar header is damaged", Parts { file: |f| f[1] ^= 1, ..g() }, Refuses, "checksum is wrong"),
        case(
            "version is missing",
            Parts { outer: |o| drop(o.remove(0)), ..g() },
            Refuses,
            "\"manifest\" where version",
        ),
        case(
            "version is called version2",
            Parts { outer: |o| o[0].name = "version2".into(), ..g() },
            Accepts("it compares the beginning of the name only"),
            "where version",
        ),
        case(
            "version 4",
            Parts { version: r#"{"format":"mender","version":4}"#.into(), ..g() },
            Refuses,
            "version 4",
        ),
        case(
            "version 1",
            Parts { version: r#"{"format":"mender","version":1}"#.into(), ..g() },
            Refuses,
            "write it again",
        ),
        case(
            "version 2",
            Parts { version: r#"{"format":"mender","version":2}"#.into(), ..g() },
            Refuses,
            "format version 2",
        ),
        case(
            "format of somebody else",
            Parts { version: r#"{"format":"other","version":3}"#.into(), ..g() },
            Accepts("it never looks at the format"),
            "not mender",
        ),
        case(
            "unknown key in version",
            Parts { version: r#"{"format":"mender","version":3,"x":1}"#.into(), ..g() },
            Refuses,
            "unknown field",
        ),
        case(
            "a key twice in version",
            Parts { version: r#"{"format":"mender","version":4,"version":3}"#.into(), ..g() },
            Accepts(PARSERS_DIFFER),
            "duplicate field",
        ),
        case("manifest is missing", Parts { outer: |o| drop(o.remove(1)), ..g() }, Refuses, "where manifest"),
        case("manifest is empty", Parts { manifest: |_| String::new(), ..g() }, Refuses, "newline"),
        case(
            "manifest without last newline",
            Parts { manifest: |m| m.trim_end().to_owned(), ..g() },
            Refuses,
            "newline",
        ),
        case(
            "one blank in manifest",
            Parts { manifest: |m| m.replace("  ", " "), ..g() },
            Refuses,
            "two spaces",
        ),
        case(
            "upper case in manifest",
            Parts { manifest: |m| m[..64].to_uppercase() + &m[64..], ..g() },
            Refuses,
            "lower-case",
        ),
        case(
            "blank line in manifest",
            Parts { manifest: |m| m + "\n", ..g() },
            Accepts("what is signed has one spelling only"),
            "two spaces",
        ),
        case(
            "carriage returns in manifest",
            Parts { manifest: |m| m.replace('\n', "\r\n"), ..g() },
            Refuses,
            "is not allowed",
        ),
        case(
            "a line twice",
            Parts { manifest: |m| m.clone() + &m[m.len() - 74..], ..g() },
            Refuses,
            "listed twice",
        ),
        case(
            "version not in manifest",
            Parts { manifest: |m| without(&m, "  version"), ..g() },
            Refuses,
            "version is not listed",
        ),
        case(
            "header not in manifest",
            Parts { manifest: |m| without(&m, "header.tar"), ..g() },
            Refuses,
            "has to be listed",
        ),
        case(
            "a file that is not there",
            Parts { manifest: |m| format!("{}  data/0000/ghost\n{m}", "0".repeat(64)), ..g() },
            Refuses,
            "cannot have 2 files",
        ),
        case(
            "manifest names a path",
            Parts { manifest: |m| format!("{}  ../../etc/passwd\n{m}", "0".repeat(64)), ..g() },
            Refuses,
            "no part of an artifact",
        ),
        case(
            "manifest names a payload that is not there",
            Parts { manifest: |m| format!("{}  data/0001/x\n{m}", "0".repeat(64)), ..g() },
            Refuses,
            "belongs to no payload",
        ),
        case(
            "wrong sum of version",
            Parts { manifest: |m| flip(&m, "  version"), ..g() },
            Refuses,
            "version is damaged",
        ),
        case(
            "wrong sum of header",
            Parts { manifest: |m| flip(&m, "  header"), ..g() },
            Refuses,
            "header.tar.gz is damaged",
        ),
        case(
            "wrong sum of payload",
            Parts { manifest: |m| flip(&m, "  data"), ..g() },
            Refuses,
            "root.ext4 is damaged",
        ),
    ]
}

fn without(manifest: &str, part: &str) -> String {
    manifest.lines().filter(|line| !line.contains(part)).map(|line| format!("{line}\n")).collect()
}

fn flip(manifest: &str, part: &str) -> String {
    let other = |line: &str| if line.starts_with('0') { "1" } else { "0" };
    let change = |line: &str| match line.contains(part) {
        true => format!("{}{}\n", other(line), &line[1..]),
        false => format!("{line}\n"),
    };
    manifest.lines().map(change).collect()
}

fn order_cases() -> Vec<Case> {
    let g = good;
    let pax = |record: &str| Entry { kind: b'x', ..entry("pax", record) };
    let mut long_pax = g();
    long_pax.data.insert(0, pax(&"x".repeat(40_000)));
    let mut sparse = g();
    sparse.data.insert(0, pax("22 GNU.sparse.major=1\n"));
    vec![
        case("data before header", Parts { outer: |o| o.swap(2, 3), ..g() }, Refuses, "header.tar"),
        case(
            "unknown member",
            Parts { outer: |o| o.insert(2, entry("readme", "hi")), ..g() },
            Refuses,
            "\"readme\"",
        ),
        case(
            "member behind the data",
            Parts { outer: |o| o.push(entry("readme", "hi")), ..g() },
            Refuses,
            "the end",
        ),
        case(
            "second payload that nobody announced",
            Parts { outer: |o| o.push(Entry { name: "data/0001.tar.gz".into(), ..o[3].clone() }), ..g() },
            Accepts("neither header nor manifest know it"),
            "the end of the artifact",
        ),
        case(
            "the payload twice",
            Parts { outer: |o| o.push(o[3].clone()), ..g() },
            Accepts("a device would install the second over the first"),
            "the end of the artifact",
        ),
        case(
            "no payload member",
            Parts { outer: |o| drop(o.pop()), ..g() },
            Refuses,
            "data/0000.tar is missing",
        ),
        case(
            "payload member with a path",
            Parts { outer: |o| o[3].name = "data/../data/0000.tar.gz".into(), ..g() },
            Accepts(PARSERS_DIFFER),
            "where data/0000.tar",
        ),
        case(
            "payload number with one digit",
            Parts { outer: |o| o[3].name = "data/0.tar.gz".into(), ..g() },
            Accepts(PARSERS_DIFFER),
            "where data/0000.tar",
        ),
        case(
            "payload with unknown suffix",
            Parts { outer: |o| o[3].name = "data/0000.tar.bz2".into(), ..g() },
            Refuses,
            "where data/0000.tar",
        ),
        case(
            "augmented manifest without header",
            Parts { outer: |o| o.insert(2, entry("manifest-augment", "")), ..g() },
            Refuses,
            "augmented",
        ),
        case(
            "payload is a folder",
            Parts {
                data: vec![Entry { kind: b'5', ..entry("root.ext4", "") }],
                manifest: |m| format!("{}  data/0000/root.ext4\n{m}", hex(b"")),
                ..g()
            },
            Accepts("only regular files have content to check"),
            "only regular files",
        ),
        case(
            "payload is a link",
            Parts {
                data: vec![Entry { kind: b'2', ..entry("root.ext4", "") }],
                manifest: |m| format!("{}  data/0000/root.ext4\n{m}", hex(b"")),
                ..g()
            },
            Accepts("only regular files have content to check"),
            "only regular files",
        ),
        case("huge extended header", long_pax, Refuses, "too large"),
        case(
            "sparse file",
            sparse,
            Accepts("a reader that knows sparse files sees other content"),
            "not allowed",
        ),
        case(
            "payload file twice",
            Parts { data: vec![entry("root.ext4", "the image"), entry("root.ext4", "the image")], ..g() },
            Accepts("a device would write it twice"),
            "only once",
        ),
        case(
            "payload file with a path",
            Parts { data: vec![entry("a/root.ext4", "x")], ..g() },
            Refuses,
            "not allowed",
        ),
        case(
            "payload file with a blank",
            Parts { data: vec![entry("root ext4", "x")], ..g() },
            Refuses,
            "not allowed",
        ),
        case("payload file called ..", Parts { data: vec![entry("..", "x")], ..g() }, Refuses, "not allowed"),
        case(
            "payload file not in manifest",
            Parts { manifest: |m| m.replace("root.ext4", "other.ext4"), ..g() },
            Refuses,
            "not in the manifest",
        ),
        case(
            "no payload file",
            Parts { data: vec![], ..g() },
            Accepts("a device would boot a slot that nothing was written to"),
            "cannot have 0 files",
        ),
        case(
            "two root file systems",
            Parts { data: vec![entry("a", "x"), entry("b", "x")], ..g() },
            Refuses,
            "cannot have 2 files",
        ),
        case("payload is not gzip", Parts { pack_data: |d| d, ..g() }, Refuses, "cannot be unpacked"),
        case(
            "packed payload is cut",
            Parts {
                pack_data: |d| {
                    let mut d = gzip(d);
                    d.truncate(d.len() - 6);
                    d
                },
                ..g()
            },
            Accepts("it stops at the end of the tar and never sees the end of the stream"),
            "cannot be unpacked",
        ),
        case(
            "garbage behind the packed payload",
            Parts { pack_data: |d| [gzip(d), vec![7; 90]].concat(), ..g() },
            Accepts(UNCHECKED),
            "cannot be unpacked",
        ),
        case(
            "garbage behind the payload's tar",
            Parts { pack_data: |d| gzip([d, vec![7; 90]].concat()), ..g() },
            Accepts(UNCHECKED),
            "something follows",
        ),
        case(
            "gigabytes of zeros behind the payload",
            Parts { pack_data: |d| gzip([d, vec![0; 3 << 20]].concat()), ..g() },
            Accepts("it unpacks for ever what nobody asked for"),
            "something follows",
        ),
    ]
}

fn header_cases() -> Vec<Case> {
    let g = good;
    let replaced = |from: &str, to: &str| {
        let text = HEADER_INFO.replace(from, to);
        assert_ne!(text, HEADER_INFO, "{from}");
        g().info(&text)
    };
    let typed = |from: &str, to: &str| {
        let text = TYPE_INFO.replace(from, to);
        assert_ne!(text, TYPE_INFO, "{from}");
        g().type_info(&text)
    };
    let with = |change: fn(&mut Vec<Entry>)| {
        let mut parts = g();
        change(&mut parts.header);
        parts
    };
    vec![
        case("header is not gzip", Parts { pack_header: |h| h, ..g() }, Refuses, "cannot be unpacked"),
        case(
            "garbage behind the header",
            Parts { pack_header: |h| gzip([h, vec![1; 9]].concat()), ..g() },
            Accepts("nothing there has a meaning, and it is signed"),
            "something follows",
        ),
        case("header-info is not first", with(|h| h.swap(0, 1)), Refuses, "where header-info"),
        case(
            "header-info is called header-info2",
            with(|h| h[0].name = "header-info2".into()),
            Accepts("it compares the beginning of the name only"),
            "where header-info",
        ),
        case("header-info is not JSON", g().info("hello"), Refuses, "expected"),
        case(
            "two JSON texts in header-info",
            g().info(&format!("{HEADER_INFO}{HEADER_INFO}")),
            Accepts(PARSERS_DIFFER),
            "trailing",
        ),
        case(
            "unknown key in header-info",
            replaced(r#"{"payloads""#, r#"{"x":1,"payloads""#),
            Refuses,
            "unknown field",
        ),
        case(
            "key in other case in header-info",
            replaced("payloads", "Payloads"),
            Accepts(PARSERS_DIFFER),
            "unknown field",
        ),
        case("no payloads", replaced(r#"[{"type":"rootfs-image"}]"#, "[]"), Refuses, "0 payloads"),
        case("empty payload type", replaced("rootfs-image", ""), Refuses, "payload type"),
        case("no device type", replaced(r#"["board"]"#, "[]"), Refuses, "no device could"),
        case("device type is missing", replaced(r#""device_type":["board"]"#, ""), Refuses, "missing field"),
        case(
            "no artifact name",
            replaced(r#""artifact_name":"r1""#, ""),
            Accepts("devices report their state by the name"),
            "missing field",
        ),
        case(
            "empty artifact name",
            replaced(r#""r1""#, r#""""#),
            Accepts("devices report their state by the name"),
            "artifact name",
        ),
        case(
            "artifact name with a newline",
            replaced(r#""r1""#, r#""r1\nx""#),
            Accepts("later versions refuse it; names end in line-based files"),
            "artifact name",
        ),
        case(
            "artifact name of 300 bytes",
            g().info(&HEADER_INFO.replace("r1", &"x".repeat(300))),
            Accepts("later versions refuse it"),
            "artifact name",
        ),
        case(
            "type-info is missing",
            with(|h| drop(h.remove(2))),
            Accepts("it may hold conditions"),
            "type-info",
        ),
        case(
            "type-info is of another type",
            typed(r#""rootfs-image","#, r#""other","#),
            Accepts("versions from 4.4 on refuse it"),
            "as header-info says",
        ),
        case(
            "type-info without type",
            typed(r#""type":"rootfs-image","#, ""),
            Accepts("versions from 4.4 on refuse it"),
            "missing field",
        ),
        case(
            "unknown key in type-info",
            typed(r#"{"type""#, r#"{"x":1,"type""#),
            Accepts(NO_CONDITION_UNREAD),
            "unknown field",
        ),
        case("a list in provides", typed(r#":"r1""#, r#":["r1"]"#), Refuses, "expected a string"),
        case(
            "a provided key twice",
            typed(r#":"r1""#, r#":"r1","rootfs-image.version":"r2""#),
            Accepts(PARSERS_DIFFER),
            "stands twice",
        ),
        case(
            "payload provides the artifact's name",
            typed("rootfs-image.version", "artifact_name"),
            Accepts("which of the two names would count?"),
            "only header-info may",
        ),
        case(
            "depends on nothing",
            typed(r#"{"type""#, r#"{"artifact_depends":{"a":[]},"type""#),
            Accepts("no device can meet it"),
            "empty list",
        ),
        case(
            "type-info twice",
            with(|h| h.push(h[2].clone())),
            Accepts("which of the two would count?"),
            "the end of the header",
        ),
        case(
            "meta-data before type-info",
            with(|h| h.swap(2, 3)),
            Accepts(CPP_REFUSES),
            "where headers/0000/type-info",
        ),
        case("meta-data is a list", with(|h| h[3].body = b"[]".to_vec()), Refuses, "expected a map"),
        case(
            "unknown header file",
            with(|h| h.push(entry("headers/0000/x", ""))),
            Refuses,
            "the end of the header",
        ),
        case(
            "header of a payload that is not there",
            with(|h| h.push(entry("headers/0001/type-info", TYPE_INFO))),
            Refuses,
            "the end of the header",
        ),
        case(
            "folder in the header",
            with(|h| h.insert(2, Entry { kind: b'5', ..entry("headers/0000/", "") })),
            Accepts(CPP_REFUSES),
            "only regular files",
        ),
        case(
            "script of a state that artifacts have not",
            g().script("Download_Enter_00"),
            Accepts(CPP_REFUSES),
            "state script name",
        ),
        case(
            "script for an error that cannot be",
            g().script("ArtifactRollback_Error_00"),
            Accepts("no client ever runs it"),
            "state script name",
        ),
        case(
            "script without number",
            g().script("ArtifactInstall_Enter"),
            Accepts(CPP_REFUSES),
            "state script name",
        ),
        case(
            "script with a path",
            g().script("ArtifactInstall_Enter_00_a/../../x"),
            Refuses,
            "state script name",
        ),
        case(
            "script twice",
            with(|h| h.insert(1, h[1].clone())),
            Accepts("which of the two would run?"),
            "no such script",
        ),
        case(
            "script behind the payloads",
            with(|h| {
                let s = h.remove(1);
                h.push(s);
            }),
            Refuses,
            "the end of the header",
        ),
    ]
}

#[test]
fn good_is_good() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = good().build();
    verify(&bytes[..], &Policy::unsigned()).unwrap();
    mender_accepts(&store(dir.path(), "good.mender", &bytes), None).unwrap();
    // Mender's tool wrote this until 4.3.
    let old = good().type_info(&TYPE_INFO.replace(r#""rootfs-image","#, r#""","#)).build();
    verify(&old[..], &Policy::unsigned()).unwrap();
}

#[test]
fn broken_artifacts_are_refused_with_the_reason() {
    let dir = tempfile::tempdir().unwrap();
    // The recorded answers are those of Debian 12 and 13; a newer tool is stricter in some.
    let judge = !std::env::var("MENDER_ARTIFACT").is_ok_and(|tool| !tool.is_empty());
    let cases: Vec<Case> = [front_cases(), order_cases(), header_cases()].into_iter().flatten().collect();
    assert!(cases.len() >= 40);
    let mut wrong = Vec::new();
    for case in &cases {
        let bytes = case.parts.build();
        for threads in [1, 2] {
            let mut policy = Policy::unsigned();
            policy.limits = Limits { threads, ..Limits::default() };
            match verify(&bytes[..], &policy) {
                Ok(_) => wrong.push(format!("{}: accepted by us", case.name)),
                Err(error) if !error.to_string().contains(case.says) => {
                    wrong.push(format!("{}: says {error:?} {error}", case.name));
                }
                Err(_) => {}
            }
        }
        let theirs = mender_accepts(&store(dir.path(), "broken.mender", &bytes), None);
        match (theirs, case.mender) {
            (Ok(()), Refuses) if judge => wrong.push(format!("{}: mender accepts it", case.name)),
            (_, Accepts("")) => wrong.push(format!("{}: why are we stricter?", case.name)),
            (Err(said), Accepts(_)) if judge => {
                wrong.push(format!("{}: mender refuses it: {said}", case.name))
            }
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows are wrong:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// A good artifact with this text as its signature.
fn with_signature(text: &[u8]) -> Vec<u8> {
    let bytes = good().build();
    // Version and manifest take 1024 bytes each.
    let member = tar(&[entry("manifest.sig", text)]);
    [&bytes[..2048], &member[..member.len() - 1024], &bytes[2048..]].concat()
}

#[test]
fn broken_signatures_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let key = Keys::ecdsa(dir.path());
    let trusted = [key.public()];
    let policy = Policy::signed_by(&trusted);
    let mut signed = Vec::new();
    volary_artifact::sign_copy(&good().build()[..], &mut signed, &key.private(), &Policy::unsigned())
        .unwrap();
    verify(&signed[..], &policy).unwrap();
    let text = String::from_utf8(signed[2048 + 512..2048 + 512 + 88].to_vec()).unwrap();

    assert!(matches!(verify(&good().build()[..], &policy), Err(Error::NotSigned)));
    let other_text = text.replacen(&text[..1], if text.starts_with('A') { "B" } else { "A" }, 1);
    let zeros = base64::engine::general_purpose::STANDARD.encode([0; 64]);
    for bad in ["", "!", &text[..87], &format!("{text}\n"), &other_text, &zeros] {
        let error = verify(&with_signature(bad.as_bytes())[..], &policy).unwrap_err();
        assert!(matches!(error, Error::Signature { .. }), "{bad}: {error}");
    }
    // A signature does not help a manifest that was changed.
    let mut forged = signed.clone();
    let at = 1024 + 512;
    forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
    assert!(matches!(verify(&forged[..], &policy), Err(Error::Signature { .. })));
    assert!(mender_accepts(&store(dir.path(), "forged.mender", &forged), Some(&key.public)).is_err());
}

#[test]
fn limits_hold() {
    let mut parts = good();
    parts.header[1].body = vec![b'x'; 100_000];
    let bytes = parts.build();
    let check = |limits: Limits, says: &str| {
        let policy = Policy { signatures: Signatures::Ignore, augment: Augment::Refuse, limits };
        let error = verify(&bytes[..], &policy).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    };
    check(Limits { header: 50_000, ..Limits::default() }, "unpacked, is larger than the limit");
    check(Limits { header: 100, ..Limits::default() }, "larger than the limit");
    check(Limits { manifest: 100, ..Limits::default() }, "manifest is larger than the limit");
}
