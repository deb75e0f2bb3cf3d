//! A blocking HTTP/1.1 client, just large enough for the tests.
//!
//! It sends a request once and never again: a failed request may or may not have happened, and the test has to know.
//! Bodies come with a Content-Length or in chunks; both are read.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Longest wait for one answer: more than the 5 s that a request may wait for a leader.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Largest body that is read, in bytes.
const MAX_BODY: u64 = 64 << 20;

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Header fields in order, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body.
    pub body: Vec<u8>,
}

impl Response {
    /// Value of the first header field of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The body as text; bytes that are not UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A client of one address, with one connection that is kept and opened again when it was lost.
#[derive(Debug)]
pub struct Client {
    port: u16,
    timeout: Duration,
    connection: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client of 127.0.0.1:`port`. Connects with the first request.
    pub fn new(port: u16) -> Client {
        Client::with_timeout(port, TIMEOUT)
    }

    /// A client that waits so long for each part of an answer, instead of 15 s.
    pub fn with_timeout(port: u16, timeout: Duration) -> Client {
        Client { port, timeout, connection: None }
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// Anything that kept the answer from arriving; the connection is closed then, and the outcome of the request is
    /// unknown, but for [`io::ErrorKind::ConnectionRefused`]: then nothing was sent.
    pub fn request(&mut self, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
        self.request_with(method, path, &[], body)
    }

    /// As [`Client::request`], with more header fields.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn request_with(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(self.timeout))?;
                stream.set_write_timeout(Some(self.timeout))?;
                BufReader::new(stream)
            }
        };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Length: {}\r\n",
            self.port,
            body.len()
        )
        .into_bytes();
        for (name, value) in headers {
            request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        // A server that refuses a body may answer and close before it has read everything: its answer counts.
        let written = connection.get_mut().write_all(&request);
        let response = match read_response(&mut connection) {
            Ok(response) => response,
            Err(e) => return Err(written.err().unwrap_or(e)),
        };
        if written.is_ok() && response.header("connection") != Some("close") {
            self.connection = Some(connection);
        }
        Ok(response)
    }

    /// `PUT /KEY`.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn put(&mut self, key: &str, value: impl AsRef<[u8]>) -> io::Result<Response> {
        self.request("PUT", &format!("/{key}"), value.as_ref())
    }

    /// `GET /KEY`.
    ///
    /// # Errors
    /// As [`Client::request`].
    pub fn get(&mut self, key: &str) -> io::Result<Response> {
        self.request("GET", &format!("/{key}"), b"")
    }
}

/// Reads one answer.
///
/// # Errors
/// If the stream ends early, or is not HTTP/1.x, or a body is larger than 64 MiB.
pub fn read_response(from: &mut impl BufRead) -> io::Result<Response> {
    let status_line = line(from)?;
    let status = status_line
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1))
        .and_then(|code| code.parse().ok())
        .ok_or_else(|| invalid(format!("not a status line: {status_line:?}")))?;
    let mut headers = Vec::new();
    loop {
        let field = line(from)?;
        if field.is_empty() {
            break;
        }
        let (name, value) =
            field.split_once(':').ok_or_else(|| invalid(format!("not a header: {field:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut response = Response { status, headers, body: Vec::new() };
    if status == 204 || status == 304 {
        return Ok(response);
    }
    if response.header("transfer-encoding") == Some("chunked") {
        loop {
            let size = line(from)?;
            let size = u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|e| invalid(format!("chunk size {size:?}: {e}")))?;
            read_body(from, size, &mut response.body)?;
            line(from)?; // the end of the chunk; after the last one, of the (absent) trailers
            if size == 0 {
                return Ok(response);
            }
        }
    }
    let length = match response.header("content-length") {
        Some(length) => length.parse().map_err(|e| invalid(format!("content-length {length:?}: {e}")))?,
        None => 0,
    };
    read_body(from, length, &mut response.body)?;
    Ok(response)
}

fn read_body(from: &mut impl BufRead, length: u64, body: &mut Vec<u8>) -> io::Result<()> {
    if body.len() as u64 + length > MAX_BODY {
        return Err(invalid(format!("a body above {MAX_BODY} bytes")));
    }
    let read = from.take(length).read_to_end(body)?;
    if (read as u64) < length { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    from.take(16 << 10).read_line(&mut line)?;
    match line.strip_suffix('\n') {
        Some(line) => Ok(line.trim_end_matches('\r').to_owned()),
        None if line.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
        None => Err(invalid(format!("a line without an end: {line:?}"))),
    }
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(bytes: &[u8]) -> io::Result<Response> {
        read_response(&mut io::BufReader::with_capacity(1, bytes))
    }

    #[test]
    fn a_body_with_a_length() {
        let response = parse(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: b \r\n\r\nabcd").unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "abc"));
        assert_eq!(response.header("x-a"), Some("b"));
    }

    #[test]
    fn a_body_in_chunks() {
        let response =
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x\r\n0123456789\r\n0\r\n\r\n")
                .unwrap();
        assert_eq!(response.text(), "abc0123456789");
    }

    #[test]
    fn no_content_has_no_body() {
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap().body, b"");
    }

    #[test]
    fn an_answer_cut_anywhere_is_an_error() {
        let whole = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(parse(whole).unwrap().status, 404);
        for cut in 0..whole.len() {
            assert!(parse(&whole[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn what_is_not_http_is_an_error() {
        assert!(parse(b"SSH-2.0-x\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 abc\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n").is_err());
        assert!(parse(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").is_err());
    }
}
