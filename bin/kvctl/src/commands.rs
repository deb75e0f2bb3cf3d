//! The commands that send one request.

use std::io::Write;

use crate::bench::Protocol;
use crate::http::{Connection, encode_path, request};
use crate::{Endpoint, Error};

/// `put KEY VALUE`.
pub(crate) async fn put(endpoints: &[Endpoint], key: &str, value: &[u8]) -> Result<(), Error> {
    match ask(endpoints, "PUT", &format!("/v1/kv{}", encode_path(key)), value).await? {
        (_, 200..=299, _) => Ok(()),
        (endpoint, status, body) => Err(Error::Status { endpoint, status, body }),
    }
}

/// `get KEY`: the value as it is, without a line end of ours.
pub(crate) async fn get(endpoints: &[Endpoint], key: &str, out: &mut dyn Write) -> Result<(), Error> {
    match ask(endpoints, "GET", &format!("/v1/kv{}", encode_path(key)), b"").await? {
        (_, 200, value) => Ok(out.write_all(&value).and_then(|()| out.flush())?),
        (_, 404, _) => Err(Error::NoSuchKey(key.to_owned())),
        (endpoint, status, body) => Err(Error::Status { endpoint, status, body }),
    }
}

/// One request at the first endpoint that takes a connection: who answered, the status and the body.
pub(crate) async fn ask(
    endpoints: &[Endpoint],
    method: &str,
    path: &str,
    body: &[u8],
) -> Result<(Endpoint, u16, Vec<u8>), Error> {
    let mut failed = Error::Local(std::io::Error::other("no endpoint was given"));
    for endpoint in endpoints {
        if endpoint.protocol() != Protocol::Http {
            let source = std::io::Error::other("this command speaks HTTP: give an http:// endpoint");
            failed = Error::Connect { endpoint: endpoint.clone(), source };
            continue;
        }
        let mut connection = match Connection::open(endpoint).await {
            Ok(connection) => connection,
            Err(source) => {
                failed = Error::Connect { endpoint: endpoint.clone(), source };
                continue;
            }
        };
        let mut answer = Vec::new();
        let request = request(method, endpoint, path, body);
        return match connection.exchange(&request, Some(&mut answer)).await {
            Ok(head) => Ok((endpoint.clone(), head.status, answer)),
            Err(source) => Err(Error::NoAnswer { endpoint: endpoint.clone(), source }),
        };
    }
    Err(failed)
}
