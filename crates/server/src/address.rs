//! Which addresses of other systems are taken: what stands before `://` says whether others can read what is sent there.

/// True for an address of a web service, by TLS or without.
pub(crate) fn is_web(address: &str) -> bool {
    is_https(address) || address.starts_with("http://")
}

/// True for an address whose other side proves who it is.
pub(crate) fn is_https(address: &str) -> bool {
    address.starts_with("https://")
}

/// True if nobody on the way can read or change what is sent to this address: TLS, or this machine.
pub(crate) fn is_safe(address: &str) -> bool {
    let local = |rest: &str| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if host.contains('@') {
            return false;
        }
        let host = host.rsplit_once(':').map_or(host, |(host, _)| host);
        matches!(host, "127.0.0.1" | "localhost" | "[::1]")
    };
    let plain = address.chars().all(|c| c.is_ascii_graphic());
    plain && (is_https(address) || address.strip_prefix("http://").is_some_and(local))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_provider_is_reached_safely() {
        for good in
            ["https://login.example", "http://127.0.0.1:8080/x", "http://localhost/", "http://[::1]:1"]
        {
            assert!(is_safe(good), "{good}");
        }
        for bad in [
            "http://login.example",
            "http://localhost@login.example",
            "ftp://x",
            "https://a b",
            "http://127.0.0.1.x",
            "http://localhost:x@y.z",
        ] {
            assert!(!is_safe(bad), "{bad}");
        }
    }
}
