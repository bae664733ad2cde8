//! dpkg's own Perl library, and dpkg itself, as the judges of generated texts: order of versions,
//! dependencies and whether they are fulfilled, paragraphs. One process reads all the cases.

mod common;

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt::Write as _;
use std::time::Duration;

use common::Random;
use volary_debian::Version;
use volary_debian::control::Paragraphs;
use volary_debian::relation::{self, Offers};
use volary_host::Cmd;

/// The scripts need a few seconds; a busy machine is given more.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a script in `perl/` says of its input, by line.
fn ask(script: &str, input: String) -> Vec<String> {
    let path = format!("{}/tests/perl/{script}.pl", env!("CARGO_MANIFEST_DIR"));
    let output = Cmd::new("perl").arg(path).stdin(input).timeout(PATIENCE).check().unwrap();
    output.text().lines().map(str::to_owned).collect()
}

/// Pieces that versions are made of; each is there because it has confused some comparison.
const PIECES: [&str; 30] = [
    "0",
    "1",
    "9",
    "10",
    "00",
    "007",
    "a",
    "z",
    "A",
    "Z",
    "rc",
    "git",
    "+",
    "+b1",
    "~",
    "~~",
    ".",
    ".0",
    "..",
    "-",
    "--",
    ":",
    "+dfsg",
    "~bpo12+1",
    "99999999999999999999",
    "100000000000000000000",
    "0000000000000000000000001",
    "2147483648",
    "18446744073709551616",
    "20261122",
];

fn version(random: &mut Random) -> String {
    let mut text = random.one_of(&["", "", "", "0:", "00:", "1:", "2:", "2147483647:"]).to_owned();
    write!(text, "{}", random.below(3)).unwrap();
    for _ in 0..random.below(8) {
        text.push_str(random.one_of(&PIECES));
    }
    text
}

/// Half of the second versions are the first one with a small change: those are the close calls.
fn pair(random: &mut Random) -> (String, String) {
    loop {
        let a = version(random);
        let b = if random.below(2) == 0 { version(random) } else { changed(&a, random) };
        if a.parse::<Version>().is_ok() && b.parse::<Version>().is_ok() {
            return (a, b);
        }
    }
}

fn changed(text: &str, random: &mut Random) -> String {
    let at = random.below(text.len() + 1);
    let (start, end) = text.split_at(at);
    match random.below(3) {
        0 => format!("{start}{}{end}", random.one_of(&PIECES)),
        1 => format!("{start}{}", end.get(1..).unwrap_or("")),
        _ => format!("{start}{}{}", random.one_of(&PIECES), end.get(1..).unwrap_or("")),
    }
}

/// For each pair whether dpkg finds the second version at least as new. `--compare-versions` takes
/// a process for each question; `--merge-avail` compares any number of packages in one, with the
/// same function: it keeps what is known of a package if what is offered is older.
fn second_is_not_older<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)> + Clone) -> Vec<bool> {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        volary_host::write_atomic(&path, text.as_bytes(), 0o644).unwrap();
        path
    };
    let list = |versions: &mut dyn Iterator<Item = &str>, mark: &str| {
        versions.enumerate().fold(String::new(), |mut text, (index, version)| {
            writeln!(text, "Package: p{index}\nVersion: {version}\nArchitecture: all\nMaintainer: x <a@b>\nDescription: {mark}\n").unwrap();
            text
        })
    };
    for name in ["updates", "info", "triggers"] {
        volary_host::create_dir(&dir.path().join(name)).unwrap();
    }
    write("status", "");
    let available = write("available", &list(&mut pairs.clone().map(|(a, _)| a), "first"));
    let offered = write("offered", &list(&mut pairs.clone().map(|(_, b)| b), "second"));
    Cmd::new("dpkg")
        .arg("--admindir")
        .arg(dir.path())
        .arg("--merge-avail")
        .arg(offered)
        .timeout(PATIENCE)
        .check()
        .unwrap();
    let mut kept = vec![None; pairs.count()];
    for paragraph in Paragraphs::new(&volary_host::read_to_string(&available).unwrap()) {
        let paragraph = paragraph.unwrap();
        let index: usize = paragraph.get("Package").unwrap()[1..].parse().unwrap();
        kept[index] = Some(paragraph.get("Description") == Some("second"));
    }
    kept.into_iter().map(|kept| kept.expect("dpkg lost a package")).collect()
}

#[test]
fn version_order_is_that_of_dpkg_on_100_000_pairs() {
    let mut random = Random(0x5eed_0003);
    let pairs: Vec<(String, String)> = (0..100_000).map(|_| pair(&mut random)).collect();
    let not_older = second_is_not_older(pairs.iter().map(|(a, b)| (a.as_str(), b.as_str())));
    let not_newer = second_is_not_older(pairs.iter().map(|(a, b)| (b.as_str(), a.as_str())));
    let mut seen = [0; 3];
    for ((a, b), (not_older, not_newer)) in pairs.iter().zip(not_older.into_iter().zip(not_newer)) {
        let expected = match (not_older, not_newer) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => panic!("dpkg finds each of {a} and {b} newer than the other"),
        };
        let (left, right): (Version, Version) = (a.parse().unwrap(), b.parse().unwrap());
        assert_eq!(left.cmp(&right), expected, "{a} and {b}");
        assert_eq!(right.cmp(&left), expected.reverse(), "{b} and {a}");
        seen[(expected as i8 + 1) as usize] += 1;
    }
    assert!(seen.iter().all(|&count| count > 1000), "the cases are too much alike: {seen:?}");
}

#[test]
fn versions_are_valid_where_dpkg_says_so() {
    let mut random = Random(0x5eed_0005);
    let strange = ["_", " ", "é", "(", "/", ":", "-", "%", "x", "+", "~", "", "4294967296:", "1:"];
    let mut script = String::new();
    let mut texts = Vec::new();
    while texts.len() < 1000 {
        let text = version(&mut random);
        let at = random.below(text.len() + 1);
        let text = format!("{}{}{}", &text[..at], random.one_of(&strange), &text[at..]);
        writeln!(script, "dpkg --validate-version '{text}' 2>/dev/null && echo {}", texts.len()).unwrap();
        texts.push(text);
    }
    let output = Cmd::new("sh").stdin(format!("{script}true\n")).timeout(PATIENCE).check().unwrap().text();
    let valid: HashSet<usize> = output.lines().map(|line| line.parse().unwrap()).collect();
    for (index, text) in texts.iter().enumerate() {
        // dpkg leaves blanks around a version away and, by its use of strtol, reads an epoch of
        // "+1"; neither is a version by deb-version(7).
        if text.trim() == text && !text.starts_with('+') {
            assert_eq!(text.parse::<Version>().is_ok(), valid.contains(&index), "{text:?}");
        }
    }
    assert!((200..800).contains(&valid.len()), "the cases are too much alike: {}", valid.len());
}

const NAMES: [&str; 6] = ["aa", "bb", "libc6", "c++", "d.e", "virtual"];
const VERSIONS: [&str; 8] = ["1.0", "1.0-1", "1.0-0", "1:0.1", "2.0~rc1", "2.0", "2.0+b1", "0~"];

/// Packages that are there, as the script wants them, and as ours.
fn facts(random: &mut Random) -> (String, Offers) {
    let (mut text, mut offers) = (Vec::new(), Offers::new());
    let mut names = NAMES.to_vec();
    for _ in 0..random.below(4) {
        let name = names.swap_remove(random.below(names.len()));
        let version = random.one_of(&VERSIONS);
        let mut words = vec![name.to_owned(), version.to_owned()];
        let mut provides = Vec::new();
        for _ in 0..random.below(3) {
            let (virtual_name, provided) = (random.one_of(&NAMES), random.one_of(&VERSIONS));
            if random.below(2) == 0 {
                words.push(format!("{virtual_name}={provided}"));
                provides.push(format!("{virtual_name} (= {provided})"));
            } else {
                words.push(virtual_name.to_owned());
                provides.push(virtual_name.to_owned());
            }
        }
        offers.add(name, &version.parse().unwrap(), Some(&provides.join(", ")));
        text.push(words.join(" "));
    }
    (text.join(";"), offers)
}

fn target(random: &mut Random) -> String {
    let mut text = random.one_of(&NAMES).to_owned();
    text.push_str(random.one_of(&["", "", "", ":any", " "]));
    if random.below(3) > 0 {
        let operator = random.one_of(&["<<", "<=", "=", ">=", ">>", "<", ">"]);
        let (before, after) = (random.one_of(&["", " ", " \t"]), random.one_of(&["", " "]));
        write!(text, "{before}({after}{operator}{before}{}{after})", random.one_of(&VERSIONS)).unwrap();
    }
    text.push_str(random.one_of(&[
        "",
        "",
        "",
        "",
        " [amd64]",
        " [armhf]",
        "[!amd64]",
        " [!armhf !arm64]",
        " [linux-any]",
        " [any]",
        " [any-amd64]",
        " [any-arm64 i386]",
        " [!linux-any]",
        " [gnu-any-amd64]",
        " [kfreebsd-any]",
        " [!hurd-any]",
    ]));
    text
}

fn field(random: &mut Random) -> String {
    let mut text = String::new();
    for index in 0..=random.below(4) {
        if index > 0 {
            text.push_str(random.one_of(&[", ", " | ", ",", "|", ",  "]));
        }
        text.push_str(&target(random));
    }
    // Some are damaged.
    if random.below(4) == 0 {
        let at = random.below(text.len());
        let strange =
            random.one_of(&["(", ")", "[", "]", "<", "$", "~", "|", ",", ":", "=", "a b", "-", "+"]);
        text.insert_str(at, strange);
    }
    text
}

#[test]
fn relations_hold_where_dpkgs_library_says_so() {
    let mut random = Random(0x5eed_0006);
    let mut input = String::new();
    let mut cases = Vec::new();
    for _ in 0..4000 {
        let ((known, offers), field) = (facts(&mut random), field(&mut random));
        writeln!(input, "{known}\t{field}").unwrap();
        cases.push((known, offers, field));
    }
    let answers = ask("relations", input);
    assert_eq!(answers.len(), cases.len());
    let mut seen = [0; 3];
    for ((known, offers, field), answer) in cases.iter().zip(answers) {
        let (answer, shown) = answer.split_once('\t').unwrap();
        let ours = relation::parse(field);
        let Ok(relations) = &ours else {
            // The library reads a version only when it compares it.
            let is_version = matches!(ours, Err(relation::RelationError::Version(_)));
            assert!(answer == "invalid" || is_version, "{field:?}: {ours:?}");
            seen[2] += 1;
            continue;
        };
        assert_ne!(answer, "invalid", "{field:?}: {ours:?}");
        let again = relation::parse(shown).unwrap();
        assert_eq!(*relations, again, "{field:?} reads as {shown:?}");
        // A damaged ":any" names an architecture; an archive's closure is within one.
        let mut targets = relations.iter().flat_map(|relation| &relation.alternatives);
        if targets.any(|target| target.qualifier.as_deref().is_some_and(|qualifier| qualifier != "any")) {
            continue;
        }
        let counts = relations.iter().filter_map(|relation| {
            let mut relation = relation.clone();
            relation.alternatives.retain(|target| target.counts_for("amd64"));
            (!relation.alternatives.is_empty()).then_some(relation)
        });
        let holds = counts.into_iter().all(|relation| offers.fulfil(&relation));
        assert_eq!(holds.to_string(), answer, "{field:?} with {known:?}");
        seen[usize::from(holds)] += 1;
    }
    assert!(seen.iter().all(|&count| count > 300), "the cases are too much alike: {seen:?}");
}

fn paragraph(random: &mut Random) -> String {
    let mut text = String::new();
    for _ in 0..random.below(6) {
        text.push_str(random.one_of(&[
            "Package: hello",
            "package:b",
            "Version:\t1.0 ",
            "Depends: a,",
            "Description: x: y",
            "Empty:",
            "X-Y:z:",
            "# comment",
            "#",
            "Files:",
            "A B: c",
            "-x: y",
            ": x",
        ]));
        text.push('\n');
        for _ in 0..random.below(3) {
            text.push_str(random.one_of(&[
                " more",
                " .",
                "\tmore: x",
                "  indented ",
                " # no comment",
                "# comment",
                " -x",
            ]));
            text.push('\n');
        }
    }
    text.push_str(random.one_of(&["", "\n", "\n\n", "\nOther: paragraph\n", " \n", "\t\nOther: x\n"]));
    text
}

/// The first paragraph of each text: the same fields with the same lines. The library changes
/// the case of names, and takes a word without a colon for a field, which dpkg itself does not.
#[test]
fn paragraphs_read_as_dpkgs_library_reads_them() {
    let mut random = Random(0x5eed_0007);
    let texts: Vec<String> = (0..20_000).map(|_| paragraph(&mut random)).collect();
    let lower_name = |line: String| match line.split_once('\t') {
        Some((name, value)) => format!("{}\t{value}", name.to_lowercase()),
        None => line,
    };
    let answers: Vec<String> = ask("paragraphs", texts.join("%%\n")).into_iter().map(lower_name).collect();
    let answers: Vec<&[String]> = answers.split(|line| line == "%%").take(texts.len()).collect();
    assert_eq!(answers.len(), texts.len());
    let mut seen = [0; 2];
    for (text, expected) in texts.iter().zip(answers) {
        let ours = match Paragraphs::new(text).next() {
            Some(Ok(paragraph)) => paragraph
                .fields()
                .map(|(name, value)| {
                    // dpkg's library takes the dot of an empty line away, ours keeps it.
                    let lines = value.split('\n').map(|line| line.trim());
                    let lines: Vec<&str> = lines
                        .enumerate()
                        .map(|(i, line)| if i > 0 && line == "." { "" } else { line })
                        .collect();
                    format!("{}\t{}", name.to_lowercase(), lines.join("|"))
                })
                .collect(),
            _ => vec!["invalid".to_owned()],
        };
        assert_eq!(ours, expected, "{text:?}");
        seen[usize::from(ours[0] == "invalid")] += 1;
    }
    assert!(seen.iter().all(|&count| count > 500), "the cases are too much alike: {seen:?}");
}
