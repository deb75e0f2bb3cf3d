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

/// `status`: one line an endpoint.
pub(crate) async fn status(endpoints: &[Endpoint], out: &mut dyn Write) -> Result<(), Error> {
    let mut not_ready = 0;
    for endpoint in endpoints {
        let one = std::slice::from_ref(endpoint);
        let line = match ask(one, "GET", "/readyz", b"").await {
            Ok((_, 200, _)) => {
                let metrics =
                    ask(one, "GET", "/metrics", b"").await.map(|(_, _, body)| body).unwrap_or_default();
                let leads = metrics.split(|&b| b == b'\n').any(|line| line == b"etcd_server_is_leader 1");
                if leads { "ready, leads".to_owned() } else { "ready".to_owned() }
            }
            answer => {
                not_ready += 1;
                match answer {
                    Ok((_, _, body)) => format!("not ready: {}", String::from_utf8_lossy(&body).trim()),
                    Err(error) => error.to_string(),
                }
            }
        };
        writeln!(out, "{endpoint}  {line}")?;
    }
    if not_ready == 0 { Ok(()) } else { Err(Error::NotReady(not_ready)) }
}

/// One request at the first endpoint that takes a connection: who answered, the status and the body.
async fn ask(
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
