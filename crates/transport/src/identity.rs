//! Who asks, and whether they may: the headers that each request and each answer carries.
//!
//! | header | holds |
//! |---|---|
//! | `Kvd-From` | the sender's member id, decimal |
//! | `Kvd-To` | the member that the sender means to reach, decimal |
//! | `Kvd-Cluster` | the sender's cluster id, 16 hex digits |
//! | `Kvd-Version` | the newest protocol version that the sender speaks |
//! | `Kvd-Min-Version` | the oldest protocol version that the sender speaks |
//! | `Kvd-Stream` | posts only: the stream that the post stands in for |
//! | `Kvd-Boot`, `Kvd-Place` | posts, and the answer that begins a stream: its [`Place`], two numbers, decimal |
//! | `Kvd-Limit-Ms` | calls only: for how long the caller will wait, in milliseconds, decimal |
//!
//! Two members understand each other if each one's newest version is at least the other's oldest. The order of checks
//! is fixed: well-formed, version, cluster, recipient, removed, known. So a member of another cluster never learns who
//! is a member of this one.

use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{StatusCode, Uri};

use crate::order::Place;
use crate::outbox::Class;

/// The protocol version that this build speaks.
pub(crate) const VERSION: u64 = 1;
/// The oldest protocol version that this build understands.
pub(crate) const MIN_VERSION: u64 = 1;

pub(crate) const FROM: HeaderName = HeaderName::from_static("kvd-from");
pub(crate) const TO: HeaderName = HeaderName::from_static("kvd-to");
pub(crate) const CLUSTER: HeaderName = HeaderName::from_static("kvd-cluster");
const STREAM: HeaderName = HeaderName::from_static("kvd-stream");
const BOOT: HeaderName = HeaderName::from_static("kvd-boot");
const PLACE: HeaderName = HeaderName::from_static("kvd-place");
pub(crate) const LIMIT: HeaderName = HeaderName::from_static("kvd-limit-ms");
const NEWEST: HeaderName = HeaderName::from_static("kvd-version");
const OLDEST: HeaderName = HeaderName::from_static("kvd-min-version");

/// A request that is not granted: the status, and a sentence for whoever reads the other side's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, reason: impl Into<String>) -> Refusal {
        Refusal { status, reason: reason.into() }
    }
}

/// Writes the headers of a message from `from` to `to` (if it is known).
pub(crate) fn write(headers: &mut HeaderMap, from: u64, cluster: Option<u64>, to: Option<u64>) {
    headers.insert(FROM, HeaderValue::from(from));
    if let Some(to) = to {
        headers.insert(TO, HeaderValue::from(to));
    }
    if let Some(cluster) = cluster
        && let Ok(value) = HeaderValue::try_from(format!("{cluster:016x}"))
    {
        headers.insert(CLUSTER, value);
    }
    headers.insert(NEWEST, HeaderValue::from(VERSION));
    headers.insert(OLDEST, HeaderValue::from(MIN_VERSION));
}

/// Checks the headers of a request to member `own` of `cluster`, and returns its sender.
pub(crate) fn check(headers: &HeaderMap, own: u64, cluster: u64) -> Result<u64, Refusal> {
    let from = sender(headers)?;
    let theirs = number(headers, &CLUSTER, 16)?;
    let to = number(headers, &TO, 10)?;
    let mismatch = |reason| Err(Refusal::new(StatusCode::PRECONDITION_FAILED, reason));
    if theirs != cluster {
        return mismatch(format!("cluster mismatch: this is {cluster:016x}, you are of {theirs:016x}"));
    }
    if to != own {
        return mismatch(format!("recipient mismatch: this is member {own}, you want {to}"));
    }
    Ok(from)
}

/// Checks who a request is from and that its version is understood, and nothing else.
pub(crate) fn sender(headers: &HeaderMap) -> Result<u64, Refusal> {
    let from = number(headers, &FROM, 10)?;
    let (newest, oldest) = (number(headers, &NEWEST, 10)?, number(headers, &OLDEST, 10)?);
    if newest < MIN_VERSION || oldest > VERSION {
        return Err(Refusal::new(
            StatusCode::PRECONDITION_FAILED,
            format!(
                "version mismatch: this speaks {MIN_VERSION} to {VERSION}, you speak {oldest} to {newest}"
            ),
        ));
    }
    if from == 0 {
        return Err(Refusal::new(StatusCode::BAD_REQUEST, "header kvd-from is 0, which is no member's id"));
    }
    Ok(from)
}

/// Who an answer is from: member id and cluster id. `None` if it is not from a kvd member, or from one that this build
/// does not understand.
pub(crate) fn answerer(headers: &HeaderMap) -> Option<(u64, u64)> {
    Some((sender(headers).ok()?, number(headers, &CLUSTER, 16).ok()?))
}

/// Writes the place of a stream or a post.
pub(crate) fn write_place(headers: &mut HeaderMap, place: Place) {
    headers.insert(BOOT, HeaderValue::from(place.boot));
    headers.insert(PLACE, HeaderValue::from(place.number));
}

/// The place of a stream or a post.
pub(crate) fn place(headers: &HeaderMap) -> Result<Place, Refusal> {
    Ok(Place { boot: number(headers, &BOOT, 10)?, number: number(headers, &PLACE, 10)? })
}

/// Writes the class of a post.
pub(crate) fn write_class(headers: &mut HeaderMap, class: Class) {
    headers.insert(STREAM, HeaderValue::from_static(class.name()));
}

/// The class of a post.
pub(crate) fn class(headers: &HeaderMap) -> Result<Class, Refusal> {
    let value = headers.get(STREAM).and_then(|value| value.to_str().ok());
    value.and_then(Class::parse).ok_or_else(|| {
        Refusal::new(StatusCode::BAD_REQUEST, format!("header {STREAM} is missing or names no stream"))
    })
}

/// A request's target. Paths are built from constants and numbers, so there is none that does not parse.
pub(crate) fn path(path: String) -> Uri {
    Uri::try_from(path).unwrap_or_default()
}

pub(crate) fn number(headers: &HeaderMap, name: &HeaderName, radix: u32) -> Result<u64, Refusal> {
    let bad = |what| Refusal::new(StatusCode::BAD_REQUEST, format!("header {name} {what}"));
    let value = headers.get(name).ok_or_else(|| bad("is missing"))?;
    value
        .to_str()
        .ok()
        .filter(|text| text.bytes().all(|b| b.is_ascii_alphanumeric()))
        .and_then(|text| u64::from_str_radix(text, radix).ok())
        .ok_or_else(|| bad("is not a number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        write(&mut headers, 2, Some(0xC1), Some(1));
        headers
    }

    fn with(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = headers();
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn own_headers_pass() {
        assert_eq!(check(&headers(), 1, 0xC1), Ok(2));
        assert_eq!(answerer(&headers()), Some((2, 0xC1)));
        assert_eq!(answerer(&HeaderMap::new()), None);
    }

    #[test]
    fn each_header_is_needed_and_must_be_a_number() {
        for name in [FROM, TO, CLUSTER, NEWEST, OLDEST] {
            let mut headers = headers();
            headers.remove(&name);
            let refusal = check(&headers, 1, 0xC1).unwrap_err();
            assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
            assert!(refusal.reason.contains(name.as_str()) && refusal.reason.contains("missing"));
            for bad in ["", "x y", "+2", "-1", "18446744073709551616000", "é"] {
                headers.insert(&name, HeaderValue::from_bytes(bad.as_bytes()).unwrap());
                assert_eq!(check(&headers, 1, 0xC1).unwrap_err().status, StatusCode::BAD_REQUEST, "{bad}");
            }
        }
    }

    #[test]
    fn a_mismatch_says_which() {
        for (name, value, word) in [
            ("kvd-cluster", "c2", "cluster"),
            ("kvd-to", "3", "recipient"),
            ("kvd-min-version", "2", "version"),
        ] {
            let refusal = check(&with(name, value), 1, 0xC1).unwrap_err();
            assert_eq!(refusal.status, StatusCode::PRECONDITION_FAILED);
            assert!(refusal.reason.starts_with(word), "{}", refusal.reason);
        }
    }

    #[test]
    fn ranges_of_versions_must_overlap() {
        for (oldest, newest, fits) in
            [("0", "0", false), ("0", "1", true), ("1", "9", true), ("2", "9", false)]
        {
            let mut headers = headers();
            headers.insert(OLDEST, HeaderValue::from_static(oldest));
            headers.insert(NEWEST, HeaderValue::from_static(newest));
            assert_eq!(check(&headers, 1, 0xC1).is_ok(), fits, "{oldest} to {newest}");
        }
    }

    #[test]
    fn nobody_is_member_zero() {
        assert_eq!(check(&with("kvd-from", "0"), 1, 0xC1).unwrap_err().status, StatusCode::BAD_REQUEST);
    }
}
