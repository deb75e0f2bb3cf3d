//! From the path of a request to a key.

use std::borrow::Cow;

/// First path segments that are endpoints, now or later. A key under one is reached through `/v1/kv/`.
pub const RESERVED: [&str; 8] = ["v1", "v3", "metrics", "health", "livez", "readyz", "version", "ui"];

/// The bytes of a path: without its leading slash, percent-decoded. `None` if a `%` is not followed by two hex digits.
pub(crate) fn decode(path: &str) -> Option<Cow<'_, [u8]>> {
    let path = path.strip_prefix('/').unwrap_or(path).as_bytes();
    let Some(first) = path.iter().position(|&b| b == b'%') else {
        return Some(Cow::Borrowed(path));
    };
    let mut decoded = Vec::with_capacity(path.len());
    decoded.extend_from_slice(&path[..first]);
    let mut rest = path[first..].iter();
    while let Some(&byte) = rest.next() {
        decoded.push(match byte {
            b'%' => hex(*rest.next()?)? << 4 | hex(*rest.next()?)?,
            _ => byte,
        });
    }
    Some(Cow::Owned(decoded))
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// The reserved segment that a decoded path begins with, and what follows it, the slash included.
pub(crate) fn reserved(path: &[u8]) -> Option<(&'static str, &[u8])> {
    let end = path.iter().position(|&b| b == b'/').unwrap_or(path.len());
    let (first, rest) = path.split_at(end);
    RESERVED.iter().find(|name| name.as_bytes() == first).map(|name| (*name, rest))
}

/// A member's id in decimal digits, and nothing but digits.
pub(crate) fn member_id(path: &[u8]) -> Option<u64> {
    if !path.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(path).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_path_becomes_bytes() {
        for (path, key) in [
            ("/", &b""[..]),
            ("/foo", b"foo"),
            ("/foo/bar/", b"foo/bar/"),
            ("//foo", b"/foo"),
            ("/a+b", b"a+b"),
            ("/%61%2F%2fb", b"a//b"),
            ("/%ff%00%25", b"\xff\0%"),
            ("/tail%20", b"tail "),
        ] {
            assert_eq!(decode(path).as_deref(), Some(key), "{path}");
        }
        for path in ["/%", "/%4", "/%g1", "/%1g", "/ok%", "/%%41", "/%+1"] {
            assert_eq!(decode(path), None, "{path}");
        }
    }

    #[test]
    fn a_path_without_percent_is_not_copied() {
        assert!(matches!(decode("/foo"), Some(Cow::Borrowed(b"foo"))));
    }

    #[test]
    fn reserved_segments_are_whole_segments() {
        assert_eq!(reserved(b"v1"), Some(("v1", &b""[..])));
        assert_eq!(reserved(b"v1/kv/a"), Some(("v1", &b"/kv/a"[..])));
        assert_eq!(reserved(b"health"), Some(("health", &b""[..])));
        for path in [&b""[..], b"v", b"v10", b"v1x/kv", b"/v1", b"healthy", b"a/v1", b"V1"] {
            assert_eq!(reserved(path), None);
        }
    }

    #[test]
    fn ids_are_digits() {
        assert_eq!(member_id(b"0"), Some(0));
        assert_eq!(member_id(b"4"), Some(4));
        assert_eq!(member_id(b"18446744073709551615"), Some(u64::MAX));
        for id in [&b""[..], b"x", b"+4", b"-1", b" 4", b"4/", b"18446744073709551616", b"4\xff"] {
            assert_eq!(member_id(id), None);
        }
    }

    proptest! {
        #[test]
        fn any_key_can_be_written_as_a_path(key in any::<Vec<u8>>()) {
            let path: String = key.iter().map(|b| format!("%{b:02X}")).collect();
            prop_assert_eq!(decode(&format!("/{path}")).unwrap().into_owned(), key);
        }
    }
}
