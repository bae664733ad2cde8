//! Version numbers: the laws of an order, and dpkg's own function as the reference.

use std::cmp::Ordering;

use volary_debian::Version;

use crate::memory::bounded;

/// Reads the lines of the input as versions and compares each with each.
pub fn all(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    bounded(text.len() * 8 + 8192, || {
        let versions: Vec<Version> = text.split('\n').take(6).filter_map(|line| line.parse().ok()).collect();
        for a in &versions {
            same_when_read_again(a);
            for b in &versions {
                let order = a.cmp(b);
                assert_eq!(order, reference(a, b), "{a} and {b}");
                assert_eq!(order.reverse(), b.cmp(a), "{a} and {b}: not antisymmetric");
                for c in &versions {
                    if order.is_le() && b <= c {
                        assert!(a <= c, "{a}, {b}, {c}: not transitive");
                    }
                }
            }
        }
    });
}

fn same_when_read_again(version: &Version) {
    let dash = if version.revision().is_empty() { "" } else { "-" };
    // Always with the epoch: without one a colon in the upstream version would begin one.
    let parts = format!("{}:{}{dash}{}", version.epoch(), version.upstream(), version.revision());
    let again: Version = parts.parse().expect("the parts of a version make a version");
    assert_eq!(again, *version, "{parts}");
    assert_eq!(version.to_string().parse::<Version>().expect("what is shown reads back"), *version);
}

/// The comparison as dpkg's lib/dpkg/version.c does it, byte for byte, written down again
/// without a look at ours.
fn reference(a: &Version, b: &Version) -> Ordering {
    let parts = verrevcmp(a.upstream().as_bytes(), b.upstream().as_bytes());
    let parts = if parts == 0 { verrevcmp(a.revision().as_bytes(), b.revision().as_bytes()) } else { parts };
    a.epoch().cmp(&b.epoch()).then(parts.cmp(&0))
}

fn order(byte: u8) -> i32 {
    match byte {
        b'0'..=b'9' => 0,
        b'a'..=b'z' | b'A'..=b'Z' => byte.into(),
        b'~' => -1,
        0 => 0,
        _ => i32::from(byte) + 256,
    }
}

fn verrevcmp(a: &[u8], b: &[u8]) -> i32 {
    let at = |text: &[u8], index: usize| text.get(index).copied().unwrap_or(0);
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let mut first_difference = 0;
        while (i < a.len() && !at(a, i).is_ascii_digit()) || (j < b.len() && !at(b, j).is_ascii_digit()) {
            let (left, right) = (order(at(a, i)), order(at(b, j)));
            if left != right {
                return left - right;
            }
            i += 1;
            j += 1;
        }
        while at(a, i) == b'0' {
            i += 1;
        }
        while at(b, j) == b'0' {
            j += 1;
        }
        while at(a, i).is_ascii_digit() && at(b, j).is_ascii_digit() {
            if first_difference == 0 {
                first_difference = i32::from(at(a, i)) - i32::from(at(b, j));
            }
            i += 1;
            j += 1;
        }
        if at(a, i).is_ascii_digit() {
            return 1;
        }
        if at(b, j).is_ascii_digit() {
            return -1;
        }
        if first_difference != 0 {
            return first_difference;
        }
    }
    0
}
