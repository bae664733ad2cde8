//! One file for each group of commands.

pub mod alert;
pub mod approve;
pub mod archive;
pub mod archive_export;
pub mod archive_import;
pub mod archive_keys;
pub mod archive_mirror;
pub mod archive_send;
pub mod archive_upkeep;
pub mod artifact;
pub mod build;
mod bump_keys;
pub mod check;
pub mod cve;
pub mod device;
mod device_show;
pub mod export_fleet;
pub mod fleet;
pub mod gate;
pub mod image;
mod image_build;
mod image_import;
mod image_publish;
pub mod inventory;
pub mod metrics;
pub mod release;
pub mod rollout;
pub mod server;
pub mod simulate;
pub mod source;
pub mod status;
pub mod token;
pub mod user;
pub mod verify;
pub mod watch;

/// Percent-encodes what goes into a query or a path segment.
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_survive_a_query() {
        assert_eq!(super::encode("1:2.0+git7~x/é"), "1%3A2.0%2Bgit7~x%2F%C3%A9");
    }
}
