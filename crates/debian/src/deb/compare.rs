//! Compares two `.deb` files that should be the same: which file inside differs, and where first.
//!
//! Each package is read twice, forward only: once for a digest of every file, and once more for the
//! content of the few that differ. Nothing is unpacked to a disk.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::ar::Members;
use super::tar::{Entries, Kind};
use super::{CONTROL_MEMBER_LIMIT, DATA_FLOOR, DATA_RATIO, DebError, Problem, unpack};

/// How many files' contents are looked into; the names of the others are enough.
const LOOK_INTO: usize = 50;

/// A larger file is not looked into, only named.
const LARGEST: u64 = 8 << 20;

/// How much of a line or of bytes is shown.
const SHOWN: usize = 60;

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The member of the package: `control.tar.xz`, `data.tar.xz`; empty for the package itself.
    pub member: String,
    /// The file in it; empty for the member itself.
    pub path: String,
    /// What differs, in words.
    pub what: String,
}

/// Opens a package from its beginning; called twice.
pub type Open<'a> = &'a dyn Fn() -> io::Result<Box<dyn Read>>;

/// What is in one tar member.
#[derive(Default)]
struct Listing {
    files: BTreeMap<String, File>,
    order: Vec<String>,
}

#[derive(PartialEq, Eq)]
struct File {
    kind: Kind,
    size: u64,
    fields: Vec<(&'static str, String)>,
    sha256: [u8; 32],
}

/// One package: its members in order, with what is in them.
struct Package {
    members: Vec<(String, [u8; 32])>,
    listings: BTreeMap<String, Listing>,
}

/// What differs between two packages; empty if they are the same, byte for byte. `file` is how
/// errors name them.
///
/// # Errors
/// [`DebError`] if one of them is no usable package.
pub fn compare(first: Open<'_>, second: Open<'_>, file: &str) -> Result<Vec<Difference>, DebError> {
    differences(first, second).map_err(|problem| DebError { file: file.to_owned(), problem })
}

fn differences(first: Open<'_>, second: Open<'_>) -> Result<Vec<Difference>, Problem> {
    let (one, two) = (read(first)?, read(second)?);
    if one.members == two.members {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    let names = |read: &Package| read.members.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    if names(&one) != names(&two) {
        let what = format!("its members are {} and {}", names(&one).join(", "), names(&two).join(", "));
        found.push(Difference { member: String::new(), path: String::new(), what });
    }
    let mut contents: Vec<(String, String)> = Vec::new();
    for (name, listing) in &one.listings {
        let Some(other) = two.listings.get(name) else { continue };
        let before = found.len();
        listings(name, listing, other, &mut found, &mut contents);
        let same =
            |read: &Package| read.members.iter().find(|(member, _)| member == name).map(|(_, sum)| *sum);
        if found.len() == before
            && contents.iter().all(|(member, _)| member != name)
            && same(&one) != same(&two)
        {
            let what = "the same files, packed in another way".to_owned();
            found.push(Difference { member: name.clone(), path: String::new(), what });
        }
    }
    let looked_into = &contents[..contents.len().min(LOOK_INTO)];
    let (left, right) = (pick(first, looked_into)?, pick(second, looked_into)?);
    for (index, key) in contents.iter().enumerate() {
        let what = match (left.get(key), right.get(key)) {
            (Some(left), Some(right)) => first_difference(left, right),
            _ if index >= LOOK_INTO => "its content differs".to_owned(),
            _ => "its content differs; it is too large to be looked into".to_owned(),
        };
        found.push(Difference { member: key.0.clone(), path: key.1.clone(), what });
    }
    Ok(found)
}

fn listings(
    member: &str,
    one: &Listing,
    two: &Listing,
    found: &mut Vec<Difference>,
    contents: &mut Vec<(String, String)>,
) {
    let mut note = |path: &str, what: String| {
        found.push(Difference { member: member.to_owned(), path: path.to_owned(), what });
    };
    for (path, file) in &one.files {
        let Some(other) = two.files.get(path) else {
            note(path, "it is only in the first".to_owned());
            continue;
        };
        let mut what = String::new();
        for ((name, before), (_, after)) in file.fields.iter().zip(&other.fields) {
            if before != after {
                let separator = if what.is_empty() { "" } else { "; " };
                write!(what, "{separator}{name} {before} and {after}").expect("a String takes any write");
            }
        }
        if !what.is_empty() {
            note(path, what);
        }
        if file.sha256 != other.sha256 {
            contents.push((member.to_owned(), path.clone()));
        }
    }
    for path in two.files.keys().filter(|path| !one.files.contains_key(*path)) {
        note(path, "it is only in the second".to_owned());
    }
    let shared = |listing: &Listing, other: &Listing| {
        listing.order.iter().filter(|path| other.files.contains_key(*path)).cloned().collect::<Vec<_>>()
    };
    let (left, right) = (shared(one, two), shared(two, one));
    if let Some((a, b)) = left.iter().zip(&right).find(|(a, b)| a != b) {
        note("", format!("its files stand in another order: first {a} and {b}"));
    }
}

fn read(package: Open<'_>) -> Result<Package, Problem> {
    let mut result = Package { members: Vec::new(), listings: BTreeMap::new() };
    let mut members = Members::begin(package().map_err(Problem::Read)?)?;
    while let Some(name) = members.next()? {
        let limit = limit(&name, members.size())?;
        let mut packed = Hashing { inner: &mut members, hash: Sha256::new() };
        if name.contains(".tar") {
            let mut listing = Listing::default();
            {
                let mut entries = Entries::new(unpack::open(&mut packed, &name, limit)?, &name);
                while let Some(entry) = entries.next()? {
                    let sha256 = entries.digest()?;
                    let fields = entry.fields();
                    let file = File { kind: entry.kind, size: entry.size, fields, sha256 };
                    listing.order.push(entry.path.clone());
                    listing.files.insert(entry.path, file);
                }
            }
            result.listings.insert(name.clone(), listing);
        }
        io::copy(&mut packed, &mut io::sink()).map_err(|error| unpack::problem(&name, error))?;
        result.members.push((name, packed.hash.finalize().into()));
    }
    Ok(result)
}

/// The contents of some files, by member and path.
fn pick(
    package: Open<'_>,
    wanted: &[(String, String)],
) -> Result<BTreeMap<(String, String), Vec<u8>>, Problem> {
    let mut contents = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(contents);
    }
    let mut members = Members::begin(package().map_err(Problem::Read)?)?;
    while let Some(name) = members.next()? {
        if !wanted.iter().any(|(member, _)| *member == name) {
            continue;
        }
        let limit = limit(&name, members.size())?;
        let mut entries = Entries::new(unpack::open(&mut members, &name, limit)?, &name);
        while let Some(entry) = entries.next()? {
            let key = (name.clone(), entry.path);
            if entry.kind == Kind::File && entry.size <= LARGEST && wanted.contains(&key) {
                contents.insert(key, entries.content()?);
            }
        }
    }
    Ok(contents)
}

fn limit(name: &str, size: u64) -> Result<u64, Problem> {
    if name.starts_with("control.tar") {
        if size > CONTROL_MEMBER_LIMIT {
            return Err(Problem::Bomb { member: name.to_owned(), limit: CONTROL_MEMBER_LIMIT });
        }
        return Ok(CONTROL_MEMBER_LIMIT);
    }
    Ok(DATA_FLOOR.max(size.saturating_mul(DATA_RATIO)))
}

/// Where two contents differ first: the line of texts, the byte of others; of compressed files, what
/// is in them.
fn first_difference(one: &[u8], two: &[u8]) -> String {
    if let (Some(left), Some(right)) = (gunzip(one), gunzip(two)) {
        if left == right {
            return "the same content, compressed in another way".to_owned();
        }
        return format!("unpacked, {}", first_difference(&left, &right));
    }
    if let (Some(left), Some(right)) = (text(one), text(two)) {
        let mut lines = left.lines().zip(right.lines()).enumerate();
        return match lines.find(|(_, (left, right))| left != right) {
            Some((number, (left, right))) => {
                let (left, right) = around(left, right);
                format!("line {} reads {left:?} and {right:?}", number + 1)
            }
            None => format!("{} and {} lines", left.lines().count(), right.lines().count()),
        };
    }
    let at = one.iter().zip(two).position(|(left, right)| left != right);
    match at {
        Some(at) => {
            let sizes = if one.len() == two.len() {
                String::new()
            } else {
                format!("; {} and {} bytes", one.len(), two.len())
            };
            format!("byte {at}: {} and {}{sizes}", bytes(&one[at..]), bytes(&two[at..]))
        }
        None => format!("{} and {} bytes", one.len(), two.len()),
    }
}

/// Some of two lines from a little before where they differ.
fn around(left: &str, right: &str) -> (String, String) {
    let same = left.chars().zip(right.chars()).take_while(|(a, b)| a == b).count();
    let from = same.saturating_sub(SHOWN / 3);
    let cut = |line: &str| line.chars().skip(from).take(SHOWN).collect();
    (cut(left), cut(right))
}

/// The next bytes, as text where they are text: most differences in programs are a path or a time.
fn bytes(rest: &[u8]) -> String {
    let printable: String = rest
        .iter()
        .take(SHOWN)
        .take_while(|byte| (32..127).contains(*byte))
        .map(|&byte| byte as char)
        .collect();
    if printable.len() >= 4 {
        return format!("{printable:?}");
    }
    rest.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn text(content: &[u8]) -> Option<&str> {
    std::str::from_utf8(content).ok().filter(|text| !text.contains('\0'))
}

fn gunzip(content: &[u8]) -> Option<Vec<u8>> {
    if !content.starts_with(&[0x1f, 0x8b]) {
        return None;
    }
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(content).take(LARGEST).read_to_end(&mut out).ok()?;
    Some(out)
}

/// Hashes what passes through.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hash.update(&buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::{Path, PathBuf};
    use volary_host::Cmd;

    /// Makes a package by a shell script that runs in its root, then packs it.
    fn make(dir: &Path, name: &str, script: &str, pack: &str) -> PathBuf {
        let root = dir.join(name);
        let prepare = format!(
            "mkdir -p {0}/DEBIAN {0}/usr/bin && cd {0} && umask 022 && \
             printf 'Package: x\\nVersion: 1\\nArchitecture: all\\nMaintainer: T <t@e.org>\\nDescription: d\\n' >DEBIAN/control && \
             printf 'one\\ntwo\\n' >usr/bin/text && printf '\\000\\001built at /one\\000' >usr/bin/program && {script} && \
             find . -exec touch -h -d @1700000000 {{}} + && cd .. && dpkg-deb --root-owner-group {pack} --build {0} {0}.deb",
            root.display()
        );
        Cmd::new("sh").args(["-c", &prepare]).env("SOURCE_DATE_EPOCH", "1700000000").check().unwrap();
        dir.join(format!("{name}.deb"))
    }

    fn check(one: (&str, &str), two: (&str, &str), expected: &[&str]) {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (make(dir.path(), "one", one.0, one.1), make(dir.path(), "two", two.0, two.1));
        let open = |path: PathBuf| move || Ok(Box::new(std::fs::File::open(&path)?) as Box<dyn Read>);
        let found: Vec<String> = compare(&open(one), &open(two), "x.deb")
            .unwrap()
            .iter()
            .map(|item| format!("{} {}: {}", item.member, item.path, item.what))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_same_is_the_same() {
        check(("true", ""), ("true", ""), &[]);
    }

    #[test]
    fn what_differs_is_named_with_its_place() {
        check(
            ("true", ""),
            ("printf 'one\\n2\\n' >usr/bin/text; printf '\\000\\001built at /two\\000' >usr/bin/program", ""),
            &[
                "data.tar.xz usr/bin/program: byte 12: 6f 6e 65 00 and 74 77 6f 00",
                "data.tar.xz usr/bin/text: line 2 reads \"two\" and \"2\"",
            ],
        );
        check(
            ("touch usr/a", ""),
            ("touch usr/b; chmod 700 usr/bin/text; ln -s x usr/l", ""),
            &[
                "data.tar.xz usr/a: it is only in the first",
                "data.tar.xz usr/bin/text: mode 644 and 700",
                "data.tar.xz usr/b: it is only in the second",
                "data.tar.xz usr/l: it is only in the second",
            ],
        );
        check(
            ("echo a | gzip -n >usr/x.gz; ln -s a usr/l", ""),
            ("echo b | gzip -n >usr/x.gz; ln -s b usr/l", ""),
            &[
                "data.tar.xz usr/l: link a and b",
                "data.tar.xz usr/x.gz: unpacked, line 1 reads \"a\" and \"b\"",
            ],
        );
        check(
            ("echo a >DEBIAN/conffiles; mkdir etc; touch etc/a; echo /etc/a >DEBIAN/conffiles", ""),
            (
                "mkdir etc; touch etc/a; echo /etc/a >DEBIAN/conffiles; echo 'Homepage: y' >>DEBIAN/control",
                "",
            ),
            &["control.tar.xz control: 5 and 6 lines"],
        );
    }

    #[test]
    fn another_way_of_packing_is_said() {
        check(
            ("true", "-Zxz -z1"),
            ("true", "-Zxz -z9"),
            &[
                "control.tar.xz : the same files, packed in another way",
                "data.tar.xz : the same files, packed in another way",
            ],
        );
        let members = " : its members are debian-binary, control.tar.xz, data.tar.xz and debian-binary, control.tar.gz, data.tar.gz";
        check(("true", "-Zxz"), ("true", "-Zgzip --uniform-compression"), &[members]);
    }

    #[test]
    fn what_is_no_package_is_an_error() {
        let open = || Ok(Box::new(&b"!<arch>\nshort"[..]) as Box<dyn Read>);
        let error = compare(&open, &open, "x.deb").unwrap_err();
        assert!(error.to_string().starts_with("x.deb is not a usable Debian package"), "{error}");
    }
}
