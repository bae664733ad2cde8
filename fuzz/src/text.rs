//! The parsers of Debian's text formats.

use volary_debian::changes::{Changes, ListedFile};
use volary_debian::control::{Paragraph, Paragraphs};
use volary_debian::relation::{self, Offers};
use volary_debian::release::{self, Release};
use volary_debian::tracker::{self as faults, Fault, Status};
use volary_debian::{changelog as log, clearsign as frame, packages as index};

use crate::memory::bounded;

/// What a text parser may hold: copies of the text, and what each line costs beside its bytes.
fn limit(text: &str) -> usize {
    64 * text.len() + (64 << 10)
}

fn with(data: &[u8], check: impl FnOnce(&str)) {
    if let Ok(text) = std::str::from_utf8(data) {
        bounded(limit(text), || check(text));
    }
}

/// Paragraphs: what is written reads back as the same, and no field is lost or doubled.
pub fn control(data: &[u8]) {
    with(data, |text| {
        let mut fields = 0;
        for paragraph in Paragraphs::new(text).flatten() {
            fields += paragraph.fields().count();
            reads_back(&paragraph);
        }
        assert!(fields <= text.bytes().filter(|&byte| byte == b':').count());
        assert_eq!(Paragraph::parse(text).is_ok(), {
            let mut all = Paragraphs::new(text);
            matches!((all.next(), all.next()), (Some(Ok(_)), None))
        });
    });
}

fn reads_back(paragraph: &Paragraph) {
    let written = paragraph.to_string();
    assert_eq!(&Paragraph::parse(&written).expect("what is written is one paragraph"), paragraph);
    for (name, value) in paragraph.fields() {
        assert_eq!(paragraph.get(&name.to_ascii_uppercase()), Some(value));
        assert!(paragraph.lines(name).all(|line| !line.is_empty() && line.trim() == line));
    }
}

/// Relations: what is shown reads back as the same, and a package fulfils "itself, or anything".
pub fn relation(data: &[u8]) {
    with(data, |text| {
        let Ok(relations) = relation::parse(text) else { return };
        let shown = relations.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        assert_eq!(relation::parse(&shown).expect("what is shown reads back"), relations, "{shown}");
        let mut offers = Offers::new();
        for target in relations.iter().flat_map(|relation| &relation.alternatives) {
            assert!(!target.name.is_empty());
            if let Some((_, version)) = &target.version {
                offers.add(&target.name, version, Some(text));
            }
            for architecture in ["amd64", "armhf", "all"] {
                let _ = target.counts_for(architecture);
            }
        }
        for relation in &relations {
            let any = relation.alternatives.iter().any(|target| offers.fulfil_target(target));
            assert_eq!(offers.fulfil(relation), any);
        }
    });
}

/// `Packages` and `Sources`: names stay inside the archive, relations can be asked.
pub fn packages(data: &[u8]) {
    with(data, |text| {
        for package in index::iterate(text).flatten() {
            assert!(stays_inside(&package.filename), "{:?}", package.filename);
            assert!(is_sha256(&package.sha256));
            reads_back(&package.paragraph);
            let source = package.paragraph.get("Source");
            let again = index::source_of(&package.name, &package.version, source);
            assert_eq!(again.expect("it was read once"), (package.source, package.source_version));
        }
        for paragraph in Paragraphs::new(text).flatten() {
            for field in ["Depends", "Build-Depends", "Provides", "Build-Depends-Indep"] {
                let _ = relation::parse(paragraph.get(field).unwrap_or(""));
            }
        }
    });
}

/// `Release`: what is written reads back as the same, and its dates too.
pub fn release(data: &[u8]) {
    with(data, |text| {
        let Ok(read) = Release::parse(text) else { return };
        assert!(read.files.keys().all(|path| stays_inside(path)));
        assert!(read.files.values().all(|file| is_sha256(&file.sha256)));
        // One that lists nothing in SHA-256 and says nothing else has no text.
        if !read.text().is_empty() {
            assert_eq!(Release::parse(&read.text()).expect("what is written reads back"), read);
        }
        for date in [read.date(), read.valid_until()].into_iter().flatten().flatten() {
            let written = release::format_date(date);
            assert_eq!(release::parse_date(&written).expect("what is written reads back"), date, "{written}");
        }
    });
}

/// `.changes` and `.dsc`: only plain file names, each once.
pub fn changes(data: &[u8]) {
    with(data, |text| {
        let Ok(changes) = Changes::parse(text) else { return };
        let mut names: Vec<&str> = changes.files.iter().map(|file| file.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), changes.files.len(), "a file stands there twice");
        for ListedFile { name, sha256, .. } in &changes.files {
            assert!(is_sha256(sha256));
            assert!(!name.contains(['/', '\0', '\n', ' ']) && !name.starts_with('.'), "{name:?}");
        }
        let again = Changes::parse(&changes.paragraph.to_string()).expect("what is written reads back");
        assert_eq!((again.files, again.source, again.signed), (changes.files, changes.source, false));
        assert_eq!(again.version.as_str(), changes.version.as_str());
    });
}

/// Clearsigned texts: everything that is not empty is payload, signature or frame.
pub fn clearsign(data: &[u8]) {
    with(data, |text| {
        match frame::split(text) {
            Err(_) => {}
            Ok(None) => assert!(!text.lines().any(|line| line == "-----BEGIN PGP SIGNED MESSAGE-----")),
            Ok(Some(signed)) => {
                assert!(text.trim_start().starts_with("-----BEGIN PGP SIGNED MESSAGE-----"));
                assert!(text.trim_end().ends_with(signed.signature));
                assert!(signed.payload.is_empty() || signed.payload.ends_with('\n'));
                // No frame within the frame: another reader could take the inner one.
                let escaped = signed.payload.lines().map(|line| match line.starts_with('-') {
                    true => format!("- {line}\n"),
                    false => format!("{line}\n"),
                });
                let again = format!(
                    "-----BEGIN PGP SIGNED MESSAGE-----\n\n{}{}\n",
                    escaped.collect::<String>(),
                    signed.signature
                );
                let again = frame::split(&again).expect("framed again").expect("it is framed").payload;
                assert_eq!(again, signed.payload.replace("\r\n", "\n"));
            }
        }
    });
}

/// Changelogs: what is read can be written as a changelog that reads the same.
pub fn changelog(data: &[u8]) {
    with(data, |text| {
        let entries: Vec<_> = log::entries(text).flatten().collect();
        if let Some(first) = entries.first() {
            assert_eq!(log::top(text).as_ref(), Ok(first));
        }
        for entry in &entries {
            assert!(volary_debian::is_package_name(&entry.source));
            let written = format!(
                "{} ({}) {}; urgency=low\n\n{}\n\n -- {}\n",
                entry.source, entry.version, entry.distribution, entry.changes, entry.trailer
            );
            assert_eq!(log::top(&written).as_ref(), Ok(entry), "{written}");
        }
        let (old, new) = ("1".parse().expect("a version"), "1:0".parse().expect("a version"));
        if let Ok(found) = log::between(text, &old, &new) {
            assert!(found.iter().all(|entry| old < entry.version && entry.version <= new));
        }
    });
}

/// The security tracker: names are plain, a version that mends a fault does not have it, and what the server keeps
/// of it reads back as the same.
pub fn tracker(data: &[u8]) {
    with(data, |text| {
        for release in ["bookworm", "sid"] {
            let _ = faults::read(text.as_bytes(), release, &mut |package, found| {
                assert!(volary_debian::is_package_name(package));
                assert!(!found.is_empty());
                found.iter().for_each(fault);
                let kept = serde_json::to_string(&found).expect("faults are plain data");
                assert!(!kept.contains('\n'), "one package is one line");
                let read: Vec<Fault> = serde_json::from_str(&kept).expect("what is kept reads back");
                assert_eq!(read, found);
                Ok(())
            });
        }
    });
}

fn fault(fault: &Fault) {
    assert!(!fault.id.is_empty() && fault.id.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(!fault.urgency.chars().any(char::is_control));
    let old = "0~~".parse().expect("a version");
    match &fault.status {
        Status::FixedIn(version) | Status::OpenUntil(version) => {
            assert!(!fault.has(version));
            assert_eq!(fault.has(&old), old < *version);
        }
        Status::Open => assert!(fault.has(&old)),
        Status::Never | Status::Undetermined => assert!(!fault.has(&old)),
    }
}

fn stays_inside(path: &str) -> bool {
    !path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
