//! Answers: what a request gets back, and which status an error of the store has.
//!
//! A refusal is one thing in two forms: a line of text at the root, where raftexample's clients read it, and under `/v1`
//! `application/problem+json` (RFC 9457) with a stable `code`, which programs may rely on.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use kvd_kvstore::{Age, Error, MembershipRefusal};
use serde_json::{Value, json};

/// Every answer's body is in memory when the answer begins: a value, or a few words.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Seconds after which a client may try again what an overload or a missing leader prevented: an election takes
/// about that long.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

/// 204: done, nothing to say.
pub(crate) fn done() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

/// 200 with a value, which is any bytes.
pub(crate) fn value(value: Bytes) -> Answer {
    content(StatusCode::OK, "application/octet-stream", value)
}

/// 200 with a JSON document.
pub(crate) fn document(value: &Value) -> Answer {
    content(StatusCode::OK, "application/json", format!("{value}\n").into())
}

/// An answer of some content type.
pub(crate) fn content(status: StatusCode, content_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

/// One line of text.
pub(crate) fn words(status: StatusCode, words: &str) -> Answer {
    content(status, "text/plain; charset=utf-8", format!("{words}\n").into())
}

/// The answer with one more header.
pub(crate) fn with_header(mut answer: Answer, name: HeaderName, value: HeaderValue) -> Answer {
    answer.headers_mut().insert(name, value);
    answer
}

/// The answer with the header `Kvd-Staleness-Ms`, if the read was a stale one: a number of milliseconds, or `unknown`.
pub(crate) fn with_age(answer: Answer, age: Age) -> Answer {
    let value = match age {
        Age::Current => return answer,
        // Up to three weeks as a number; a member that was cut off for longer does not know.
        Age::AtMost(age) => u32::try_from(age.as_millis()).ok().map(HeaderValue::from),
        Age::Unknown => None,
    };
    let value = value.unwrap_or(HeaderValue::from_static("unknown"));
    with_header(answer, HeaderName::from_static("kvd-staleness-ms"), value)
}

/// Why a request was not done.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    /// Stable; see the table in the crate's documentation.
    code: &'static str,
    /// One line.
    detail: String,
    /// Whether it may help to try again soon.
    retry: bool,
    /// The methods that there are.
    allow: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retry: false, allow: None }
    }

    /// 400.
    pub(crate) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", detail)
    }

    /// 405 with the methods that there are.
    pub(crate) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this method is not one of {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail) }
    }

    /// As one line of text.
    pub(crate) fn text(self) -> Answer {
        let answer = words(self.status, &self.detail);
        self.with_headers(answer)
    }

    /// As a problem document; with the leader's id if it is known, for whoever wants to ask there.
    pub(crate) fn problem(self, leader: Option<u64>) -> Answer {
        let mut problem = json!({
            "type": "about:blank",
            "title": self.status.canonical_reason().unwrap_or_default(),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        });
        if let Some(leader) = leader {
            problem["leader"] = leader.to_string().into();
        }
        let body = format!("{problem}\n").into();
        let answer = content(self.status, "application/problem+json", body);
        self.with_headers(answer)
    }

    fn with_headers(self, mut answer: Answer) -> Answer {
        if self.retry {
            answer = with_header(answer, RETRY_AFTER, RETRY_AFTER_SECONDS);
        }
        match self.allow {
            Some(allow) => with_header(answer, ALLOW, HeaderValue::from_static(allow)),
            None => answer,
        }
    }
}

impl From<&Error> for Refusal {
    /// The refusal of a request that the store did not do.
    fn from(error: &Error) -> Self {
        let (status, code) = match error {
            Error::EmptyKey => (StatusCode::BAD_REQUEST, "bad_request"),
            Error::KeyTooLong { .. }
            | Error::ValueTooLarge { .. }
            | Error::RequestTooLarge { .. }
            | Error::WouldBeTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Error::NotANumber => (StatusCode::CONFLICT, "not_a_number"),
            Error::Overflow => (StatusCode::CONFLICT, "overflow"),
            Error::Overloaded => (StatusCode::TOO_MANY_REQUESTS, "overloaded"),
            Error::NoSpace => (StatusCode::INSUFFICIENT_STORAGE, "no_space"),
            Error::NoLeader => (StatusCode::SERVICE_UNAVAILABLE, "no_leader"),
            Error::Stopped => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
            Error::Removed => (StatusCode::SERVICE_UNAVAILABLE, "removed"),
            Error::Unknown { .. } => (StatusCode::GATEWAY_TIMEOUT, "outcome_unknown"),
            Error::Membership(refusal) => match refusal {
                MembershipRefusal::Removed(_) => (StatusCode::GONE, "member_removed"),
                MembershipRefusal::Unknown(_) => (StatusCode::NOT_FOUND, "member_unknown"),
                MembershipRefusal::Conflict { .. } => (StatusCode::CONFLICT, "member_conflict"),
                MembershipRefusal::LastVoter(_) => (StatusCode::CONFLICT, "last_voter"),
                MembershipRefusal::LosesQuorum { .. } => (StatusCode::CONFLICT, "loses_quorum"),
                MembershipRefusal::NotCaughtUp(_) => (StatusCode::CONFLICT, "not_caught_up"),
                MembershipRefusal::NotTakenOver { .. } => (StatusCode::CONFLICT, "not_taken_over"),
                MembershipRefusal::Joint => (StatusCode::CONFLICT, "change_under_way"),
                MembershipRefusal::Invalid(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            },
            Error::Refused(_) | Error::BadResponse => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
        };
        let retry = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::INSUFFICIENT_STORAGE
        );
        Self { retry, ..Self::new(status, code, error.to_string()) }
    }
}
