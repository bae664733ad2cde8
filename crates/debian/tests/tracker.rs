//! A file as large as the one that Debian's security tracker publishes: what is not kept costs no memory.

use std::io::Read;

use volary_debian::tracker;

/// So large is the real one, and so many faults are in it, most of them of a few packages.
const BYTES: usize = 70_000_000;
const FAULTS: usize = 45_000;
const PACKAGES: usize = 3_500;

/// How much more than before the process may hold: the faults of the largest package, and buffers.
const MEMORY_KIB: usize = 8 << 10;

/// The file, made piece by piece while it is read, in the form that the tracker publishes.
struct Published {
    next: usize,
    piece: Vec<u8>,
    place: usize,
}

/// The package of a fault: the first has a tenth of all, as Linux does.
fn package(fault: usize) -> usize {
    fault.saturating_sub(FAULTS / 10) * PACKAGES / FAULTS
}

fn one(fault: usize) -> String {
    let begins = fault == 0 || package(fault) != package(fault - 1);
    let before = match (fault, begins) {
        (0, _) => "{\"package-0\":{".to_owned(),
        (_, true) => format!("}},\"package-{}\":{{", package(fault)),
        (_, false) => ",".to_owned(),
    };
    let in_release = |release: &str| {
        let (status, version) = match fault % 4 {
            0 => ("resolved", ",\"fixed_version\":\"0\"".to_owned()),
            1 | 2 => ("resolved", format!(",\"fixed_version\":\"1:{}.{}-1+deb12u3\"", fault % 90, fault % 7)),
            _ => ("open", String::new()),
        };
        format!(
            "\"{release}\":{{\"status\":\"{status}\",\"repositories\":{{\"{release}\":\"1:91.0-1\",\"{release}-security\":\"1:91.0-1+deb12u1\"}}{version},\"urgency\":\"not yet assigned\"}}"
        )
    };
    let releases: Vec<String> =
        ["bullseye", "bookworm", "trixie", "forky", "sid"].into_iter().map(in_release).collect();
    // What it is about is most of the file.
    let filler = "A flaw in the parsing of untrusted input leads to a crash or worse. ".repeat(12);
    format!(
        "{before}\"CVE-{}-{fault}\":{{\"description\":\"{filler}\",\"scope\":\"remote\",\"debianbug\":{fault},\"releases\":{{{}}}}}",
        1999 + fault % 28,
        releases.join(",")
    )
}

impl Read for Published {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.place == self.piece.len() {
            self.piece = match self.next {
                fault if fault < FAULTS => one(fault).into_bytes(),
                FAULTS => b"}}".to_vec(),
                _ => return Ok(0),
            };
            (self.next, self.place) = (self.next + 1, 0);
        }
        let count = buffer.len().min(self.piece.len() - self.place);
        buffer[..count].copy_from_slice(&self.piece[self.place..self.place + count]);
        self.place += count;
        Ok(count)
    }
}

/// The most memory that this process ever held, in KiB.
fn most_memory() -> usize {
    let status = volary_host::read_to_string("/proc/self/status".as_ref()).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_file_as_large_as_the_real_one_takes_no_memory() {
    let bytes: usize = (0..FAULTS).map(|fault| one(fault).len()).sum();
    assert!(bytes > BYTES, "it has only {bytes} bytes");
    let before = most_memory();
    let (mut packages, mut faults, mut largest) = (0, 0, 0);
    tracker::read(Published { next: 0, piece: Vec::new(), place: 0 }, "bookworm", &mut |_, found| {
        packages += 1;
        faults += found.len();
        largest = largest.max(found.len());
        Ok(())
    })
    .unwrap();
    assert_eq!(faults, FAULTS);
    assert!(packages > 2000 && largest > FAULTS / 10, "{packages} packages, the largest with {largest}");
    let more = most_memory() - before;
    assert!(more < MEMORY_KIB, "it took {more} KiB");
}
