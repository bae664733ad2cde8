//! Percent-encoding by RFC 3986, section 2.1: what is not unreserved goes as `%XX`.

/// Encodes what goes into a query, a form or a segment of a path.
pub fn encode(text: &str) -> String {
    encode_but(text, b"-._~")
}

/// Encodes a path but for its slashes.
pub fn encode_path(path: &str) -> String {
    encode_but(path, b"-._~/")
}

fn encode_but(text: &str, kept: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || kept.contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_survive_a_query() {
        assert_eq!(encode("1:2.0+git7~x/é"), "1%3A2.0%2Bgit7~x%2F%C3%A9");
    }

    #[test]
    fn slashes_stay_in_a_path() {
        assert_eq!(encode_path("pool/g/g++ ü.deb"), "pool/g/g%2B%2B%20%C3%BC.deb");
    }
}
