//! Debian's formats: version order, control paragraphs, dependencies, packages and indexes.
//!
//! Everything here is pure: text or a reader in, typed values or a typed error out. It knows no
//! stages, devices, disks or network. All parsers read what others wrote, so their input is
//! bounded and no text makes them panic.

#![warn(missing_docs)]

pub mod changelog;
pub mod changes;
pub mod clearsign;
pub mod control;
#[cfg(feature = "deb")]
pub mod deb;
pub mod packages;
pub mod relation;
pub mod release;
pub mod tracker;
pub mod version;

pub use control::{ControlError, Paragraph};
pub use version::{InvalidVersion, Version};

/// True if `name` may name a package (Debian policy 5.6.7): at least two of lower-case letters,
/// digits, `+`, `-` and `.`, beginning with a letter or digit. No such name can leave a folder.
pub fn is_package_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (2..=128).contains(&bytes.len())
        && plain(bytes[0])
        && bytes.iter().all(|&byte| plain(byte) || b"+-.".contains(&byte))
}

/// True if `name` may name an architecture (dpkg: a lower-case letter or digit, then also dashes).
pub fn is_architecture(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    (1..=32).contains(&bytes.len())
        && plain(bytes[0])
        && bytes.iter().all(|&byte| plain(byte) || byte == b'-')
}

/// True if `name` is the name of a file in a folder, nothing that leads out of it, and nothing
/// that a shell, a terminal or a URL would take for something else.
pub fn is_file_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._~:%@,=".contains(&byte);
    (1..=255).contains(&name.len()) && !name.starts_with(['.', '-']) && name.bytes().all(allowed)
}
