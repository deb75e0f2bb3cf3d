//! Where a member takes requests: `http://HOST:PORT`, or `redis://HOST:PORT`.

use std::fmt;
use std::str::FromStr;

use crate::bench::Protocol;

/// The client URL of a member. Prints as it was given, without a trailing slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    protocol: Protocol,
    authority: String,
}

/// Text that is no endpoint.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an endpoint looks like http://HOST:PORT, or redis://HOST:PORT for bench")]
pub struct EndpointError;

impl Endpoint {
    /// `HOST:PORT`, for the Host header and to connect to.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    /// What its URL says that it speaks.
    pub fn protocol(&self) -> Protocol {
        self.protocol
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(url: &str) -> Result<Endpoint, EndpointError> {
        let (protocol, authority) = match url.split_once("://").ok_or(EndpointError)? {
            ("http", authority) => (Protocol::Http, authority),
            ("redis", authority) => (Protocol::Redis, authority),
            _ => return Err(EndpointError),
        };
        let authority = authority.strip_suffix('/').unwrap_or(authority);
        let (host, port) = authority.rsplit_once(':').ok_or(EndpointError)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.' || c == '_';
        let host_is_good = match bracketed {
            true => {
                host.len() > 2
                    && host[1..host.len() - 1].chars().all(|c| c.is_ascii_hexdigit() || ":.".contains(c))
            }
            false => !host.is_empty() && host.chars().all(plain),
        };
        let port_is_good = port.bytes().all(|b| b.is_ascii_digit()) && matches!(port.parse::<u16>(), Ok(1..));
        if host_is_good && port_is_good {
            Ok(Endpoint { protocol, authority: authority.to_owned() })
        } else {
            Err(EndpointError)
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            Protocol::Http => "http",
            Protocol::Redis => "redis",
        };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports() {
        for good in
            ["http://127.0.0.1:9121", "http://kvd-1.local:65535", "http://[::1]:1", "redis://127.0.0.1:6379"]
        {
            assert_eq!(good.parse::<Endpoint>().map(|e| e.to_string()).as_deref(), Ok(good));
        }
        assert_eq!("http://a:1/".parse::<Endpoint>().map(|e| e.authority().to_owned()).as_deref(), Ok("a:1"));
        for bad in [
            "",
            "127.0.0.1:1",
            "https://a:1",
            "http://a",
            "http://:1",
            "http://a:0",
            "http://a:65536",
            "http://a:+1",
            "http://a:1/x",
            "http://[]:1",
            "http://a b:1",
            "http://a\r\n:1",
            "http://::1:1",
        ] {
            assert_eq!(bad.parse::<Endpoint>(), Err(EndpointError), "{bad:?}");
        }
    }
}
