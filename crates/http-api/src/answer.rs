//! Answers: what a request gets back, and which status an error of the store has.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use kvd_kvstore::{Age, Error, MembershipRefusal};

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

/// 400.
pub(crate) fn bad(reason: &str) -> Answer {
    words(StatusCode::BAD_REQUEST, reason)
}

/// 405 with the methods that there are.
pub(crate) fn method_not_allowed(allow: &'static str) -> Answer {
    let mut answer = words(StatusCode::METHOD_NOT_ALLOWED, &format!("this method is not one of {allow}"));
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
    answer
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

/// The answer to a request that the store did not do.
pub(crate) fn failed(error: &Error) -> Answer {
    let status = status_of(error);
    let answer = words(status, &error.to_string());
    if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
        return with_header(answer, RETRY_AFTER, RETRY_AFTER_SECONDS);
    }
    answer
}

fn status_of(error: &Error) -> StatusCode {
    match error {
        Error::EmptyKey => StatusCode::BAD_REQUEST,
        Error::KeyTooLong { .. }
        | Error::ValueTooLarge { .. }
        | Error::RequestTooLarge { .. }
        | Error::WouldBeTooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
        Error::NotANumber | Error::Overflow => StatusCode::CONFLICT,
        Error::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        Error::NoLeader | Error::Stopped | Error::Removed => StatusCode::SERVICE_UNAVAILABLE,
        Error::Unknown { .. } => StatusCode::GATEWAY_TIMEOUT,
        Error::Membership(refusal) => match refusal {
            MembershipRefusal::Removed(_) => StatusCode::GONE,
            MembershipRefusal::Unknown(_) => StatusCode::NOT_FOUND,
            MembershipRefusal::Conflict { .. } | MembershipRefusal::LastVoter(_) => StatusCode::CONFLICT,
            MembershipRefusal::Invalid(_) => StatusCode::BAD_REQUEST,
        },
        Error::Refused(_) | Error::BadResponse => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
