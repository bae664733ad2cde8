//! Where file systems begin. The number of a file's device does not tell: an overlay gives its
//! files other numbers than its folders.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The paths that something is mounted on, as this process sees them; files may be among them.
pub fn mount_points() -> BTreeSet<PathBuf> {
    parse(&crate::read(Path::new("/proc/self/mountinfo")).unwrap_or_default())
}

fn parse(mountinfo: &[u8]) -> BTreeSet<PathBuf> {
    let lines = mountinfo.split(|&byte| byte == b'\n');
    let fields = lines.filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    fields.map(|field| PathBuf::from(OsString::from_vec(unescape(field)))).collect()
}

/// Spaces and the like stand as `\` and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| byte == b'\\') {
            Some(escaped) => {
                plain.push(escaped);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_understood() {
        let text = b"22 1 0:20 / / rw - ext4 /dev/sda rw\n23 22 0:21 / /a\\040b rw - tmpfs tmpfs rw\n";
        let found: Vec<_> = parse(text).into_iter().collect();
        assert_eq!(found, [PathBuf::from("/"), PathBuf::from("/a b")]);
        assert!(mount_points().contains(Path::new("/")));
    }
}
