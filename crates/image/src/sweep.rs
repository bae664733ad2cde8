//! Goes once through the root file system as a tar: leaves out what differs from build to build or
//! belongs to one device only, reads what the builder wants to know, and adds our own files.
//!
//! Entries that stay are passed on byte for byte, so that nothing of them (capabilities, access
//! lists) is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

/// The unit of a tar.
const BLOCK: usize = 512;

/// Longer names and attributes do not occur.
const LONGEST_EXTENSION: u64 = 1 << 20;

/// What is taken out is held in memory.
const LARGEST_TAKEN: u64 = 256 << 20;

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It stays.
    Keep,
    /// It is left out.
    Drop,
    /// It stays, and the builder reads it.
    Read,
}

/// What the name of an entry says of its fate, without what the builder wants to read.
pub(crate) fn fate(path: &str, is_folder: bool) -> Fate {
    // What each boot makes anew; the folders themselves are mount points.
    const EMPTIED: [&str; 9] = [
        "dev/",
        "proc/",
        "sys/",
        "run/",
        "tmp/",
        "var/tmp/",
        "var/cache/apt/",
        "var/lib/apt/lists/",
        "var/backups/",
    ];
    // Identities, clocks, caches, and how it was built.
    const DROPPED: [&str; 20] = [
        "etc/.pwd.lock",
        "etc/adjtime",
        "etc/apt/apt.conf.d/99mmdebstrap",
        "etc/dpkg/dpkg.cfg.d/99mmdebstrap",
        "etc/group-",
        "etc/gshadow-",
        "etc/hostname",
        "etc/machine-id",
        "etc/passwd-",
        "etc/shadow-",
        "etc/subgid-",
        "etc/subuid-",
        "root/.ansible",
        "root/.bash_history",
        "root/.cache",
        "var/cache/ldconfig/aux-cache",
        "var/lib/dbus/machine-id",
        "var/lib/dpkg/lock",
        "var/lib/systemd/random-seed",
        "var/lib/ucf/registry.0",
    ];
    let inside = |folder: &str| path.starts_with(folder);
    let is_host_key = inside("etc/ssh/ssh_host_");
    let is_log = inside("var/log/") && !is_folder;
    let is_old = (inside("var/lib/dpkg/") || inside("var/cache/debconf/")) && path.ends_with("-old");
    let is_dropped = DROPPED
        .iter()
        .any(|name| path == *name || path.strip_prefix(name).is_some_and(|r| r.starts_with('/')));
    if EMPTIED.iter().any(|folder| inside(folder)) || is_host_key || is_log || is_old || is_dropped {
        Fate::Drop
    } else {
        Fate::Keep
    }
}

/// Something of ours in the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ours {
    /// A folder with these permission bits.
    Folder(u32),
    /// A file with these bytes and permission bits.
    File(Vec<u8>, u32),
    /// A symbolic link to this target.
    Link(String),
}

/// What was found on the way.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// The files that were read.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Symbolic links among them.
    pub links: BTreeMap<String, String>,
    folders: BTreeSet<String>,
}

/// Passes a tar on. `fate` decides; [`add`] and [`finish`] come after it.
pub(crate) fn sweep(
    input: &mut impl Read,
    output: &mut impl Write,
    fate: &dyn Fn(&str, bool) -> Fate,
) -> io::Result<Swept> {
    let mut swept = Swept::default();
    loop {
        let Some(entry) = Entry::read(input)? else { return Ok(swept) };
        let is_folder = entry.kind == b'5';
        let fate = fate(&entry.path, is_folder);
        if is_folder && fate == Fate::Keep {
            swept.folders.insert(entry.path.clone());
        }
        let wants = fate == Fate::Read;
        if wants && entry.kind == b'2' {
            swept.links.insert(entry.path.clone(), entry.link.clone());
        }
        let stays = fate != Fate::Drop;
        if stays {
            output.write_all(&entry.raw)?;
        }
        let padded = entry.size.next_multiple_of(BLOCK as u64);
        let mut content = input.take(padded);
        if wants && matches!(entry.kind, b'0' | 0) {
            if entry.size > LARGEST_TAKEN {
                return Err(broken(&format!("{} is too large to be read", entry.path)));
            }
            let mut bytes = Vec::new();
            content.read_to_end(&mut bytes)?;
            output.write_all(&bytes)?;
            if bytes.len() as u64 != padded {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.truncate(usize::try_from(entry.size).expect("it is below the limit"));
            swept.files.insert(entry.path, bytes);
        } else {
            let passed = if stays {
                io::copy(&mut content, output)?
            } else {
                io::copy(&mut content, &mut io::sink())?
            };
            if passed != padded {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// Adds what is ours, in the order of the names, with the folders that it needs.
pub(crate) fn add(
    output: &mut impl Write,
    swept: &Swept,
    ours: &BTreeMap<String, Ours>,
    time: u64,
) -> io::Result<()> {
    let mut folders = swept.folders.clone();
    for (path, what) in ours {
        let parents = path.match_indices('/').map(|(at, _)| &path[..at]);
        for parent in parents {
            if !ours.contains_key(parent) && folders.insert(parent.to_owned()) {
                output.write_all(&header(&format!("{parent}/"), b'5', 0o755, 0, "", time))?;
            }
        }
        match what {
            // A package's own stays as it is.
            Ours::Folder(_) if folders.contains(path) => {}
            Ours::Folder(mode) => output.write_all(&header(&format!("{path}/"), b'5', *mode, 0, "", time))?,
            Ours::Link(target) => output.write_all(&header(path, b'2', 0o777, 0, target, time))?,
            Ours::File(bytes, mode) => {
                output.write_all(&header(path, b'0', *mode, bytes.len() as u64, "", time))?;
                output.write_all(bytes)?;
                output.write_all(&[0; BLOCK][..bytes.len().next_multiple_of(BLOCK) - bytes.len()])?;
            }
        }
    }
    Ok(())
}

/// The end of a tar.
pub(crate) fn finish(output: &mut impl Write) -> io::Result<()> {
    output.write_all(&[0; 2 * BLOCK])?;
    output.flush()
}

/// An entry with all that stands before its content.
struct Entry {
    path: String,
    kind: u8,
    size: u64,
    link: String,
    raw: Vec<u8>,
}

impl Entry {
    /// The next one; `None` at the end.
    fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let mut raw = Vec::new();
        let (mut long_path, mut long_link, mut long_size) = (None, None, None);
        loop {
            let at = raw.len();
            raw.resize(at + BLOCK, 0);
            input.read_exact(&mut raw[at..])?;
            let head = &raw[at..];
            if head.iter().all(|&byte| byte == 0) {
                return Ok(None);
            }
            check_sum(head)?;
            let size = number(&head[124..136])?;
            let kind = head[156];
            if !matches!(kind, b'x' | b'g' | b'L' | b'K') {
                let path = long_path.unwrap_or_else(|| ustar_path(head));
                let path = path.trim_start_matches("./").trim_end_matches('/').to_owned();
                let link = long_link.unwrap_or_else(|| text(&head[157..257]));
                // Links have no content, whatever size they claim.
                let size = if matches!(kind, b'0' | 0 | b'7') { long_size.unwrap_or(size) } else { 0 };
                return Ok(Some(Self { path, kind, size, link, raw }));
            }
            if size > LONGEST_EXTENSION {
                return Err(broken("an extended header is too long"));
            }
            let from = raw.len();
            let length = usize::try_from(size).expect("it is below the limit");
            raw.resize(from + length.next_multiple_of(BLOCK), 0);
            input.read_exact(&mut raw[from..])?;
            let content = &raw[from..from + length];
            match kind {
                b'L' => long_path = Some(text(content)),
                b'K' => long_link = Some(text(content)),
                b'x' => {
                    for (key, value) in pax(content)? {
                        match key.as_str() {
                            "path" => long_path = Some(value),
                            "linkpath" => long_link = Some(value),
                            "size" => {
                                long_size = Some(value.parse().map_err(|_| broken("a size is no number"))?);
                            }
                            _ => {}
                        }
                    }
                }
                _ => return Err(broken("global extended headers are not expected")),
            }
        }
    }
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the root file system's tar: {what}"))
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn ustar_path(head: &[u8]) -> String {
    let prefix = if &head[257..263] == b"ustar\0" { text(&head[345..500]) } else { String::new() };
    let name = text(&head[..100]);
    if prefix.is_empty() { name } else { format!("{prefix}/{name}") }
}

/// A number in octal, or in binary if its first bit is set.
fn number(field: &[u8]) -> io::Result<u64> {
    if field[0] & 0x80 != 0 {
        let tail: [u8; 8] = field[field.len() - 8..].try_into().expect("these are eight");
        return Ok(u64::from_be_bytes(tail));
    }
    let digits = text(field);
    u64::from_str_radix(digits.trim(), 8).map_err(|_| broken("a number is not octal"))
}

fn sum(head: &[u8]) -> u64 {
    let blank = |at| (148..156).contains(&at);
    head.iter().enumerate().map(|(at, &byte)| u64::from(if blank(at) { b' ' } else { byte })).sum()
}

fn check_sum(head: &[u8]) -> io::Result<()> {
    if number(&head[148..156])? == sum(head) { Ok(()) } else { Err(broken("a header's checksum is wrong")) }
}

/// The records of a pax header: `LENGTH KEY=VALUE\n`.
fn pax(mut rest: &[u8]) -> io::Result<Vec<(String, String)>> {
    let mut records = Vec::new();
    while !rest.is_empty() {
        let wrong = || broken("an extended header is malformed");
        let space = rest.iter().position(|&byte| byte == b' ').ok_or_else(wrong)?;
        let length: usize = text(&rest[..space]).parse().map_err(|_| wrong())?;
        if length <= space + 1 || length > rest.len() {
            return Err(wrong());
        }
        let record = String::from_utf8_lossy(&rest[space + 1..length - 1]);
        let (key, value) = record.split_once('=').ok_or_else(wrong)?;
        records.push((key.to_owned(), value.to_owned()));
        rest = &rest[length..];
    }
    Ok(records)
}

/// The header of something of ours; it belongs to root.
fn header(path: &str, kind: u8, mode: u32, size: u64, link: &str, time: u64) -> [u8; BLOCK] {
    assert!(path.len() < 98 && link.len() < 100, "our own paths are short: {path}");
    let mut head = [0; BLOCK];
    let mut put = |at: usize, text: &[u8]| head[at..at + text.len()].copy_from_slice(text);
    put(0, format!("./{path}").as_bytes());
    put(100, format!("{mode:07o}").as_bytes());
    put(108, b"0000000");
    put(116, b"0000000");
    put(124, format!("{size:011o}").as_bytes());
    put(136, format!("{time:011o}").as_bytes());
    put(156, &[kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000root");
    put(297, b"root");
    let sum = sum(&head);
    head[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    head
}

#[cfg(test)]
mod tests {
    use volary_host::Cmd;

    use super::*;

    #[test]
    fn identities_and_traces_are_left_out() {
        let check = |path: &str, is_folder: bool, expected: Fate| {
            assert_eq!(fate(path, is_folder), expected, "{path}");
        };
        for path in
            ["etc/machine-id", "etc/ssh/ssh_host_rsa_key", "var/log/apt/term.log", "var/lib/dpkg/status-old"]
        {
            check(path, false, Fate::Drop);
        }
        for path in ["tmp/x", "dev/null", "root/.cache/x/y", "var/lib/apt/lists/lock"] {
            check(path, false, Fate::Drop);
        }
        check("var/log/journal", true, Fate::Keep);
        for path in ["etc/passwd", "etc/ssh/sshd_config", "var/lib/dpkg/status", "root/.cachet", "usr/tmp/x"]
        {
            check(path, false, Fate::Keep);
        }
        for path in ["dev", "tmp", "run"] {
            check(path, true, Fate::Keep);
        }
    }

    #[test]
    fn what_stays_is_what_tar_wrote() {
        let dir = tempfile::tempdir().unwrap();
        let long = format!("{}/{}", "x".repeat(90), "ü".repeat(60));
        let script = format!(
            "set -e; mkdir -p r/etc r/tmp r/{0}; cd r; echo a >tmp/gone; head -c 1000 /dev/zero >etc/kept; \
             ln etc/kept etc/other; ln -s kept etc/soft; echo long >{long}; mkfifo etc/pipe; \
             tar --format=pax --pax-option=delete=atime,delete=ctime --sort=name -cf ../in.tar .",
            "x".repeat(90)
        );
        let run = |script: &str| Cmd::new("sh").args(["-c", script]).cwd(dir.path()).check().unwrap().text();
        run(&script);
        let input = volary_host::read(&dir.path().join("in.tar")).unwrap();
        let wants = |path: &str, is_folder: bool| match path {
            "etc/kept" => Fate::Read,
            "etc/pipe" => Fate::Drop,
            "etc/soft" => Fate::Read,
            _ => fate(path, is_folder),
        };
        let mut output = Vec::new();
        let swept = sweep(&mut input.as_slice(), &mut output, &wants).unwrap();
        let ours = [
            ("etc/pipe".to_owned(), Ours::Link("other".into())),
            ("new/folder/file".to_owned(), Ours::File(b"text\n".to_vec(), 0o600)),
            ("data".to_owned(), Ours::Folder(0o700)),
        ];
        add(&mut output, &swept, &ours.into(), 1_700_000_000).unwrap();
        finish(&mut output).unwrap();
        assert_eq!(swept.files["etc/kept"], vec![0; 1000]);
        assert_eq!(swept.links["etc/soft"], "kept");
        volary_host::write_atomic(&dir.path().join("out.tar"), &output, 0o644).unwrap();
        run("mkdir o && tar -xpf out.tar -C o && test o/etc/other -ef o/etc/kept && test -L o/etc/soft");
        let found = run("cd o && find . -mindepth 1 | LC_ALL=C sort");
        let expected = format!(
            "./data\n./etc\n./etc/kept\n./etc/other\n./etc/pipe\n./etc/soft\n./new\n./new/folder\n./new/folder/file\n\
             ./tmp\n./{}\n./{long}\n",
            "x".repeat(90)
        );
        assert_eq!(found, expected);
        assert_eq!(
            run("cat o/new/folder/file; readlink o/etc/pipe; stat -c %a%Y o/data"),
            "text\nother\n7001700000000\n"
        );
    }

    #[test]
    fn a_tar_that_ends_too_early_is_no_root() {
        let head = header("a", b'0', 0o644, 600, "", 0);
        let error = |bytes: &[u8]| sweep(&mut &*bytes, &mut Vec::new(), &fate).unwrap_err().kind();
        assert_eq!(error(&head), io::ErrorKind::UnexpectedEof);
        assert_eq!(error(&[]), io::ErrorKind::UnexpectedEof);
        let mut wrong = head;
        wrong[0] = b'b';
        assert_eq!(error(&wrong), io::ErrorKind::InvalidData);
    }
}
