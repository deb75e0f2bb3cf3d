//! `/v1/kv/KEY`: raw bytes in and out, under any key, with revisions.
//!
//! Here is what the root does, for keys of every shape, and DELETE. Conditions, expiry, history and lists come later;
//! a request that asks for one of them is refused rather than done without.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};
use hyper::{Method, Request, StatusCode};
use kvd_kvstore::Door;

use crate::answer::{self, Answer, Refusal};
use crate::root;
use crate::server::{Connection, Shared};

const ALLOW: &str = "GET, PUT, DELETE";
/// The revision of the store that a read saw or a write took.
const KVD_REVISION: HeaderName = HeaderName::from_static("kvd-revision");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The key of a path whose reserved segment is `v1`.
pub(crate) fn key<'a>(segment: &str, rest: &'a [u8]) -> Option<&'a [u8]> {
    if segment == "v1" { rest.strip_prefix(b"/kv/") } else { None }
}

/// Answers one request for `key`.
pub(crate) async fn handle<D: Door>(
    shared: &Shared<D>,
    connection: &Connection,
    key: Bytes,
    request: Request<Incoming>,
) -> Answer {
    match answer(shared, connection, key, request).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.problem(shared.door.status().leader),
    }
}

async fn answer<D: Door>(
    shared: &Shared<D>,
    connection: &Connection,
    key: Bytes,
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    if let Some(what) = not_there_yet(request.headers(), request.uri().query()) {
        let detail = format!("{what} is not supported yet");
        return Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "not_implemented", detail));
    }
    match *request.method() {
        Method::GET => {
            let reading = root::get(shared, key, request.uri().query()).await?;
            let revision = HeaderValue::from(reading.revision);
            let answer = match reading.record {
                Some(record) => tagged(answer::value(record.value), record.mod_revision),
                None => root::no_such_key().problem(None),
            };
            Ok(answer::with_age(answer::with_header(answer, KVD_REVISION, revision), reading.age))
        }
        Method::PUT => {
            let written = root::put(shared, connection, key, request).await?;
            let answer = tagged(answer::done(), written.revision);
            Ok(answer::with_header(answer, KVD_REVISION, HeaderValue::from(written.revision)))
        }
        Method::DELETE => {
            let deleted = shared.door.delete(key).await.map_err(|error| Refusal::from(&error))?;
            let answer = if deleted.existed { answer::done() } else { root::no_such_key().problem(None) };
            Ok(answer::with_header(answer, KVD_REVISION, HeaderValue::from(deleted.revision)))
        }
        _ => Err(Refusal::method_not_allowed(ALLOW)),
    }
}

fn tagged(answer: Answer, mod_revision: u64) -> Answer {
    match HeaderValue::try_from(format!("\"{mod_revision}\"")) {
        Ok(tag) => answer::with_header(answer, ETAG, tag),
        // Digits in quotes are always a header's value.
        Err(_) => answer,
    }
}

fn not_there_yet(headers: &HeaderMap, query: Option<&str>) -> Option<String> {
    let header =
        [IF_MATCH, IF_NONE_MATCH, IDEMPOTENCY_KEY].into_iter().find(|name| headers.contains_key(name));
    if let Some(name) = header {
        return Some(format!("the header {name}"));
    }
    let mut names =
        query.unwrap_or_default().split('&').map(|pair| pair.split('=').next().unwrap_or_default());
    names.find(|name| matches!(*name, "ttl" | "rev")).map(|name| format!("the parameter {name}"))
}
