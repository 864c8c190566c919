//! Origins of pages in a browser.

use std::net::Ipv6Addr;

/// What an origin must be, for a person.
pub(super) const ORIGIN: &str = "origins such as https://dashboard.example.com:8443, without a path, or *";

/// Whether a text is an origin as a browser states it, `https://host:port`, or `*` for all.
pub fn is_origin(text: &str) -> bool {
    let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    text == "*" || authority.is_some_and(is_authority)
}

fn is_authority(authority: &str) -> bool {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !authority.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    };
    let is_port = |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let is_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && host.bytes().all(is_plain),
    };
    is_host && port.is_none_or(is_port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_as_browsers_state_them() {
        for good in
            ["*", "https://a.example", "http://127.0.0.1:3000", "http://[::1]:3000", "http://[::1]", "http://a_b"]
        {
            assert!(is_origin(good), "{good}");
        }
        for wrong in [
            "",
            "a.example",
            "https://",
            "https://a.example/",
            "https://a.example/x",
            "https://a.example?x",
            "ftp://a.example",
            "https://u@a",
            "https://a b",
            "https://a\n",
            "https://a.example:",
            "https://a.example:+1",
            "https://a.example:65536",
            "https://:1",
            "https://[::1",
            "https://[a]",
            "https://ä.example",
            "https://a,https://b",
        ] {
            assert!(!is_origin(wrong), "{wrong}");
        }
    }
}
