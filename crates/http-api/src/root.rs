//! raftexample's surface, at the root.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use kvd_kvstore::admin::Admin;
use kvd_kvstore::{Consistency, Door, Error};

use crate::answer::{self, Answer, Refusal};
use crate::server::{Connection, Shared};
use crate::{body, members, operations, path, v1};

const ALLOW: &str = "PUT, GET, POST, DELETE";
/// The longest body of a POST, in bytes: a peer URL is a host name and little more.
const URL_BYTES: usize = 1024;

/// Answers one request.
pub(crate) async fn handle<D: Admin>(
    shared: &Shared<D>,
    connection: &Connection,
    request: Request<Incoming>,
) -> Answer {
    let Some(path) = path::decode(request.uri().path()) else {
        return Refusal::bad("the path has a % without two hexadecimal digits after it").text();
    };
    if let Some((segment, rest)) = path::reserved(&path) {
        if let Some(key) = v1::key(segment, rest) {
            let key = Bytes::copy_from_slice(key);
            return v1::handle(shared, connection, key, request).await;
        }
        if segment == "v1"
            && let Some(route) = members::Route::of(rest)
        {
            return members::handle(shared, connection, route, request).await;
        }
        return match *request.method() {
            Method::GET if rest.is_empty() => operations::handle(shared, segment).await,
            Method::GET => operations::not_found(),
            Method::PUT => Refusal::bad(format!(
                "paths whose first segment is `{segment}` are reserved here; /v1/kv/{segment}... is the way to such a key"
            ))
            .text(),
            _ => Refusal::method_not_allowed("GET").text(),
        };
    }
    match *request.method() {
        Method::PUT => {
            let key = Bytes::copy_from_slice(&path);
            match put(shared, connection, key, request).await {
                Ok(_) => answer::done(),
                Err(refusal) => refusal.text(),
            }
        }
        Method::GET => match get(shared, Bytes::copy_from_slice(&path), request.uri().query()).await {
            Ok(kvd_kvstore::Reading { record: Some(record), age, .. }) => {
                answer::with_age(answer::value(record.value), age)
            }
            Ok(reading) => answer::with_age(no_such_key().text(), reading.age),
            Err(refusal) => refusal.text(),
        },
        Method::POST => {
            let Some(id) = path::member_id(&path) else { return bad_member_id().text() };
            match add_member(shared, connection, id, request).await {
                Ok(()) => answer::done(),
                Err(refusal) => refusal.text(),
            }
        }
        Method::DELETE => {
            let Some(id) = path::member_id(&path) else { return bad_member_id().text() };
            match shared.door.remove_member(id).await {
                Ok(()) => answer::done(),
                Err(error) => Refusal::from(&error).text(),
            }
        }
        _ => Refusal::method_not_allowed(ALLOW).text(),
    }
}

/// Writes the body of `request` under `key`.
pub(crate) async fn put<D: Door>(
    shared: &Shared<D>,
    connection: &Connection,
    key: Bytes,
    request: Request<Incoming>,
) -> Result<kvd_kvstore::Written, Refusal> {
    let limits = shared.door.limits();
    limits.check_key(&key).map_err(|error| Refusal::from(&error))?;
    let (head, body) = request.into_parts();
    let read = body::read(body, &head.headers, limits.value_bytes, &connection.gauge, &shared.bodies).await;
    let value = read.map_err(|error| match error {
        body::Error::TooLong { declared } => {
            let limit = limits.value_bytes as u64;
            // A body of unknown length was given up one byte beyond the limit or later.
            Refusal::from(&Error::ValueTooLarge { len: declared.unwrap_or(limit + 1), limit })
        }
        other => no_body(&other),
    })?;
    shared.door.put(key, value).await.map_err(|error| Refusal::from(&error))
}

/// Reads `key` as the query says.
pub(crate) async fn get<D: Door>(
    shared: &Shared<D>,
    key: Bytes,
    query: Option<&str>,
) -> Result<kvd_kvstore::Reading, Refusal> {
    let how = consistency(query).ok_or_else(bad_consistency)?;
    let reading = shared.door.get(key, how).await.map_err(|error| Refusal::from(&error))?;
    if how == Consistency::Linearizable {
        shared.confirmed();
    }
    Ok(reading)
}

/// 404 for a key.
pub(crate) fn no_such_key() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "key_not_found", "there is no such key")
}

pub(crate) fn bad_consistency() -> Refusal {
    Refusal::bad("consistency is `linearizable` or `stale`")
}

pub(crate) fn consistency(query: Option<&str>) -> Option<Consistency> {
    let mut how = Consistency::default();
    for pair in query.unwrap_or_default().split('&') {
        match pair.split_once('=').unwrap_or((pair, "")) {
            ("consistency", "linearizable") => how = Consistency::Linearizable,
            ("consistency", "stale") => how = Consistency::Stale,
            ("consistency", _) => return None,
            _ => {}
        }
    }
    Some(how)
}

async fn add_member<D: Door>(
    shared: &Shared<D>,
    connection: &Connection,
    id: u64,
    request: Request<Incoming>,
) -> Result<(), Refusal> {
    let (head, body) = request.into_parts();
    let read = body::read(body, &head.headers, URL_BYTES, &connection.gauge, &shared.bodies).await;
    let url = read.map_err(|error| match error {
        body::Error::TooLong { .. } => {
            let detail = format!("the body is a peer URL, which has at most {URL_BYTES} bytes");
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
        }
        other => no_body(&other),
    })?;
    let url = std::str::from_utf8(&url).map_err(|_| {
        Refusal::bad("the body is not text; it has to be a peer URL, such as http://127.0.0.1:9021")
    })?;
    shared.door.add_member(id, url.trim()).await.map_err(|error| Refusal::from(&error))
}

fn bad_member_id() -> Refusal {
    Refusal::bad(
        "the path has to be a member id, a number from 1 to 18446744073709551615; keys are deleted under /v1/kv/",
    )
}

pub(crate) fn no_body(error: &body::Error) -> Refusal {
    match error {
        body::Error::Overloaded => Refusal::from(&Error::Overloaded),
        body::Error::TooLong { .. } => {
            Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "the body is too long")
        }
        body::Error::Broken(error) => Refusal::bad(format!("the body cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_says_how_to_read() {
        use Consistency::{Linearizable, Stale};
        for (query, how) in [
            (None, Some(Linearizable)),
            (Some(""), Some(Linearizable)),
            (Some("consistency=stale"), Some(Stale)),
            (Some("a=b&consistency=linearizable"), Some(Linearizable)),
            (Some("consistency=stale&x"), Some(Stale)),
            (Some("consistency"), None),
            (Some("consistency="), None),
            (Some("consistency=Stale"), None),
            (Some("consistency=stale&consistency=no"), None),
        ] {
            assert_eq!(consistency(query), how, "{query:?}");
        }
    }
}
