//! URLs of peers: `http://HOST:PORT` and nothing else.
//!
//! The same check serves the command line, membership changes and the transport, so that a URL which one of them
//! takes is a URL that all of them take. A host is a name, an IPv4 address or an IPv6 address in brackets; the port is
//! never implied. One trailing slash is accepted and dropped. Two equal URLs print alike.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Longest URL that is looked at, in bytes: a DNS name has at most 253, the rest is scheme and port.
const MAX_LEN: usize = 300;

/// Where a peer listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerUrl {
    host: String,
    port: u16,
}

impl PeerUrl {
    /// The host: a name in lower case, or an address; an IPv6 address stands without its brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, 1 to 65535.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// `HOST:PORT`, as a Host header has it and as `std::net::ToSocketAddrs` takes it.
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for PeerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority())
    }
}

impl FromStr for PeerUrl {
    type Err = PeerUrlError;

    fn from_str(url: &str) -> Result<PeerUrl, PeerUrlError> {
        parse_peer_url(url)
    }
}

/// A peer URL that cannot be used. The text names the URL and what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("peer URL {url:?} {fault}; it must look like http://HOST:PORT")]
pub struct PeerUrlError {
    /// The URL as it was given, cut if it is very long.
    pub url: String,
    /// What is wrong with it.
    pub fault: &'static str,
}

/// Parses a peer URL.
///
/// # Errors
/// Anything but `http://HOST:PORT`: another scheme (TLS included, which is not supported yet), a path, a user, no port.
///
/// ```
/// use kvd_raftpb::peer_url::parse_peer_url;
/// assert_eq!(parse_peer_url("http://127.0.0.1:9021/").unwrap().authority(), "127.0.0.1:9021");
/// assert!(parse_peer_url("127.0.0.1:9021").is_err());
/// ```
pub fn parse_peer_url(url: &str) -> Result<PeerUrl, PeerUrlError> {
    let fault = |fault| PeerUrlError { url: url.chars().take(MAX_LEN).collect(), fault };
    if url.len() > MAX_LEN {
        return Err(fault("is too long"));
    }
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(fault("has no scheme"));
    };
    if scheme.eq_ignore_ascii_case("https") {
        return Err(fault("asks for TLS, which is not supported yet"));
    }
    if !scheme.eq_ignore_ascii_case("http") {
        return Err(fault("has a scheme other than http"));
    }
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if authority.contains(['/', '?', '#']) {
        return Err(fault("has a path"));
    }
    if authority.contains('@') {
        return Err(fault("has a user"));
    }
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let Some((host, port)) = rest.split_once("]") else {
                return Err(fault("has an unclosed bracket"));
            };
            let Ok(host) = host.parse::<Ipv6Addr>() else {
                return Err(fault("has brackets around something other than an IPv6 address"));
            };
            (host.to_string(), port.strip_prefix(':'))
        }
        None => match authority.rsplit_once(':') {
            Some((host, port)) => (host.to_ascii_lowercase(), Some(port)),
            None => (authority.to_ascii_lowercase(), None),
        },
    };
    if host.is_empty() {
        return Err(fault("has no host"));
    }
    if !host.contains(':') && !host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(fault("has a host that is neither a name nor an address"));
    }
    if authority.starts_with(|c: char| c != '[') && host.contains(':') {
        return Err(fault("has an IPv6 address without brackets"));
    }
    let Some(port) = port.filter(|port| !port.is_empty()) else {
        return Err(fault("has no port"));
    };
    let digits = port.bytes().all(|b| b.is_ascii_digit());
    match port.parse() {
        Ok(port) if digits && port != 0 => Ok(PeerUrl { host, port }),
        _ => Err(fault("has a port that is not a number from 1 to 65535")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usable_urls_print_in_one_form() {
        for (url, want) in [
            ("http://127.0.0.1:9021", "http://127.0.0.1:9021"),
            ("http://127.0.0.1:9021/", "http://127.0.0.1:9021"),
            ("HTTP://Node-1.Example.COM:1", "http://node-1.example.com:1"),
            ("http://a_b:65535", "http://a_b:65535"),
            ("http://[::1]:9021", "http://[::1]:9021"),
            ("http://[0:0:0:0:0:0:0:1]:09021", "http://[::1]:9021"),
        ] {
            let parsed = parse_peer_url(url).unwrap();
            assert_eq!(parsed.to_string(), want);
            assert_eq!(parsed.to_string().parse::<PeerUrl>().unwrap(), parsed);
        }
        assert_eq!(parse_peer_url("http://[::1]:5").unwrap().host(), "::1");
        assert_eq!(parse_peer_url("http://[::1]:5").unwrap().authority(), "[::1]:5");
    }

    #[test]
    fn each_fault_is_named() {
        for (url, fault) in [
            ("", "no scheme"),
            ("127.0.0.1:9021", "no scheme"),
            ("https://a:1", "TLS"),
            ("ftp://a:1", "other than http"),
            ("http://", "no host"),
            ("http://:9021", "no host"),
            ("http://a", "no port"),
            ("http://a:", "no port"),
            ("http://a:0", "1 to 65535"),
            ("http://a:65536", "1 to 65535"),
            ("http://a:+1", "1 to 65535"),
            ("http://a:x", "1 to 65535"),
            ("http://a:1/raft", "path"),
            ("http://a:1//", "path"),
            ("http://a:1?x", "path"),
            ("http://u@a:1", "user"),
            ("http://a b:1", "neither a name"),
            ("http://a\r\n:1", "neither a name"),
            ("http://::1:1", "without brackets"),
            ("http://[::1:1", "unclosed"),
            ("http://[a]:1", "IPv6"),
            ("http://[::1]", "no port"),
        ] {
            let error = parse_peer_url(url).unwrap_err();
            assert!(error.fault.contains(fault), "{url:?}: {error}");
            assert!(error.to_string().contains("http://HOST:PORT"));
        }
    }

    #[test]
    fn length_is_bounded() {
        let url = |len: usize| format!("http://{}:9021", "a".repeat(len - "http://:9021".len()));
        assert!(parse_peer_url(&url(MAX_LEN - 1)).is_ok());
        assert!(parse_peer_url(&url(MAX_LEN)).is_ok());
        assert_eq!(parse_peer_url(&url(MAX_LEN + 1)).unwrap_err().fault, "is too long");
    }
}
