//! raftexample's surface, at the root.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::{Method, Request, StatusCode};
use kvd_kvstore::{Consistency, Door, Error};

use crate::answer::{self, Answer};
use crate::server::{Connection, Shared};
use crate::{body, operations, path, v1};

const ALLOW: &str = "PUT, GET, POST, DELETE";
/// The longest body of a POST, in bytes: a peer URL is a host name and little more.
const URL_BYTES: usize = 1024;

/// Answers one request.
pub(crate) async fn handle<D: Door>(
    shared: &Shared<D>,
    connection: &Connection,
    request: Request<Incoming>,
) -> Answer {
    let Some(path) = path::decode(request.uri().path()) else {
        return answer::bad("the path has a % without two hexadecimal digits after it");
    };
    if let Some((segment, rest)) = path::reserved(&path) {
        if let Some(key) = v1::key(segment, rest) {
            let key = Bytes::copy_from_slice(key);
            return v1::handle(shared, connection, key, request).await;
        }
        return match *request.method() {
            Method::GET if rest.is_empty() => operations::handle(shared, segment).await,
            Method::GET => operations::not_found(),
            Method::PUT => answer::bad(&format!(
                "paths whose first segment is `{segment}` are reserved here; /v1/kv/{segment}... is the way to such a key"
            )),
            _ => answer::method_not_allowed("GET"),
        };
    }
    match *request.method() {
        Method::PUT => {
            let key = Bytes::copy_from_slice(&path);
            match put(shared, connection, key, request).await {
                Ok(_) => answer::done(),
                Err(refusal) => refusal,
            }
        }
        Method::GET => match get(shared, Bytes::copy_from_slice(&path), request.uri().query()).await {
            Ok(kvd_kvstore::Reading { record: Some(record), age, .. }) => {
                answer::with_age(answer::value(record.value), age)
            }
            Ok(reading) => answer::with_age(no_such_key(), reading.age),
            Err(refusal) => refusal,
        },
        Method::POST => {
            let Some(id) = path::member_id(&path) else { return bad_member_id() };
            add_member(shared, connection, id, request).await
        }
        Method::DELETE => {
            let Some(id) = path::member_id(&path) else { return bad_member_id() };
            match shared.door.remove_member(id).await {
                Ok(()) => answer::done(),
                Err(error) => answer::failed(&error),
            }
        }
        _ => answer::method_not_allowed(ALLOW),
    }
}

/// Writes the body of `request` under `key`.
pub(crate) async fn put<D: Door>(
    shared: &Shared<D>,
    connection: &Connection,
    key: Bytes,
    request: Request<Incoming>,
) -> Result<kvd_kvstore::Written, Answer> {
    let limits = shared.door.limits();
    limits.check_key(&key).map_err(|error| answer::failed(&error))?;
    let (head, body) = request.into_parts();
    let read = body::read(body, &head.headers, limits.value_bytes, &connection.gauge, &shared.bodies).await;
    let value = read.map_err(|error| match error {
        body::Error::TooLong { declared } => {
            let limit = limits.value_bytes as u64;
            // A body of unknown length was given up one byte beyond the limit or later.
            answer::failed(&Error::ValueTooLarge { len: declared.unwrap_or(limit + 1), limit })
        }
        other => no_body(&other),
    })?;
    shared.door.put(key, value).await.map_err(|error| answer::failed(&error))
}

/// Reads `key` as the query says.
pub(crate) async fn get<D: Door>(
    shared: &Shared<D>,
    key: Bytes,
    query: Option<&str>,
) -> Result<kvd_kvstore::Reading, Answer> {
    let how = consistency(query).ok_or_else(|| answer::bad("consistency is `linearizable` or `stale`"))?;
    let reading = shared.door.get(key, how).await.map_err(|error| answer::failed(&error))?;
    if how == Consistency::Linearizable {
        shared.confirmed();
    }
    Ok(reading)
}

/// 404 for a key.
pub(crate) fn no_such_key() -> Answer {
    answer::words(StatusCode::NOT_FOUND, "there is no such key")
}

fn consistency(query: Option<&str>) -> Option<Consistency> {
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
) -> Answer {
    let (head, body) = request.into_parts();
    let read = body::read(body, &head.headers, URL_BYTES, &connection.gauge, &shared.bodies).await;
    let url = match read {
        Ok(url) => url,
        Err(body::Error::TooLong { .. }) => {
            let reason = format!("the body is a peer URL, which has at most {URL_BYTES} bytes");
            return answer::words(StatusCode::PAYLOAD_TOO_LARGE, &reason);
        }
        Err(other) => return no_body(&other),
    };
    let Ok(url) = std::str::from_utf8(&url) else {
        return answer::bad("the body is not text; it has to be a peer URL, such as http://127.0.0.1:9021");
    };
    match shared.door.add_member(id, url.trim()).await {
        Ok(()) => answer::done(),
        Err(error) => answer::failed(&error),
    }
}

fn bad_member_id() -> Answer {
    answer::bad(
        "the path has to be a member id, a number from 1 to 18446744073709551615; keys are deleted under /v1/kv/",
    )
}

fn no_body(error: &body::Error) -> Answer {
    match error {
        body::Error::Overloaded => answer::failed(&Error::Overloaded),
        body::Error::TooLong { .. } => answer::words(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long"),
        body::Error::Broken(error) => answer::bad(&format!("the body cannot be read: {error}")),
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
