//! As much of an HTTP/1.1 client as a load generator needs, and no more, so that it takes little of the machine that
//! it measures: one connection, one request in flight, the request's bytes made by the caller.
//!
//! An answer is a head of at most 16 KiB and a body whose length the head states (RFC 9112, section 6.3; a 204 has
//! none). Left out on purpose: chunked bodies, bodies that end with the connection, interim (1xx) answers, trailers.
//! kvd sends none of them to a plain request; what is not understood is an error, never a guess.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Endpoint;

/// Longest head of an answer, in bytes. kvd's own have some hundred.
const MAX_HEAD: usize = 16 << 10;

/// Longest body of an answer, in bytes; a value of kvd has at most 1.5 MiB.
pub(crate) const MAX_BODY: usize = 64 << 20;

/// Why an answer did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The connection failed or was closed.
    #[error("connection lost")]
    Io(#[from] io::Error),
    /// The answer is not what this client understands.
    #[error("not an answer this client understands: {0}")]
    Protocol(&'static str),
}

/// The head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Bytes of the head, the empty line included.
    pub length: usize,
    /// Bytes of the body that follow.
    pub body_length: usize,
    /// Whether the server closes the connection after this answer.
    pub close: bool,
}

/// Parses the head of an answer; `None` if `bytes` do not hold all of it yet.
///
/// # Errors
/// [`Error::Protocol`], see the module.
pub fn parse_head(bytes: &[u8]) -> Result<Option<Head>, Error> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if bytes.len() > MAX_HEAD { Err(Error::Protocol("a head above 16 KiB")) } else { Ok(None) };
    };
    let mut lines = bytes[..end].split(|&b| b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let status = status_of(lines.next().unwrap_or_default())?;
    let mut length = None;
    let mut close = false;
    for line in lines {
        let colon =
            line.iter().position(|&b| b == b':').ok_or(Error::Protocol("a header without a colon"))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            length = Some(
                number(value).filter(|&n| n <= MAX_BODY).ok_or(Error::Protocol("a bad Content-Length"))?,
            );
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(Error::Protocol("a body without a stated length"));
        } else if name.eq_ignore_ascii_case(b"connection") {
            close |= value.eq_ignore_ascii_case(b"close");
        }
    }
    let body_length = match (status, length) {
        (204 | 304, _) => 0,
        (_, Some(length)) => length,
        (_, None) => return Err(Error::Protocol("a body without a stated length")),
    };
    Ok(Some(Head { status, length: end + 4, body_length, close }))
}

/// The code in `HTTP/1.1 CODE REASON`.
fn status_of(line: &[u8]) -> Result<u16, Error> {
    const BAD: Error = Error::Protocol("a bad status line");
    let rest = line.strip_prefix(b"HTTP/1.1 ").or_else(|| line.strip_prefix(b"HTTP/1.0 ")).ok_or(BAD)?;
    let (code, rest) = rest.split_at_checked(3).ok_or(BAD)?;
    match number(code) {
        Some(code @ 200..=599) if matches!(rest.first(), None | Some(b' ')) => Ok(code as u16),
        _ => Err(BAD),
    }
}

/// A decimal number of at most 9 digits.
fn number(digits: &[u8]) -> Option<usize> {
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(digits.iter().fold(0, |n, digit| n * 10 + usize::from(digit - b'0')))
}

/// A connection with at most one request in flight.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    /// What was read and not yet consumed; empty between two requests.
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// If the name cannot be resolved or nobody takes the connection.
    pub async fn open(endpoint: &Endpoint) -> io::Result<Connection> {
        let stream = TcpStream::connect(endpoint.authority()).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, buffer: Vec::with_capacity(4096) })
    }

    /// Sends a whole request and reads the answer; the body goes to `body` unless it is `None`.
    ///
    /// After an error, and after an answer with [`Head::close`], the connection is of no more use.
    ///
    /// # Errors
    /// See [`Error`]: whether the request took effect is then unknown.
    pub async fn exchange(&mut self, request: &[u8], body: Option<&mut Vec<u8>>) -> Result<Head, Error> {
        // A server may refuse a large body, and close, before it has read all of it: then its answer counts.
        let written = self.stream.write_all(request).await;
        match (self.read_answer(body).await, written) {
            (Ok(head), Ok(())) => Ok(head),
            (Ok(head), Err(_)) => Ok(Head { close: true, ..head }),
            (Err(Error::Io(_)), Err(error)) => Err(error.into()),
            (Err(error), _) => Err(error),
        }
    }

    async fn read_answer(&mut self, body: Option<&mut Vec<u8>>) -> Result<Head, Error> {
        let head = loop {
            if let Some(head) = parse_head(&self.buffer)? {
                break head;
            }
            self.read_more().await?;
        };
        let end = head.length + head.body_length;
        while self.buffer.len() < end {
            self.read_more().await?;
        }
        if self.buffer.len() > end {
            return Err(Error::Protocol("more bytes than the answer has"));
        }
        if let Some(body) = body {
            body.extend_from_slice(&self.buffer[head.length..]);
        }
        self.buffer.clear();
        Ok(head)
    }

    async fn read_more(&mut self) -> Result<(), Error> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            _ => Ok(()),
        }
    }
}

/// The bytes of a request without a body, or with one.
///
/// The path is sent as it is: see [`encode_path`].
pub fn request(method: &str, endpoint: &Endpoint, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n",
        endpoint.authority(),
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// `/KEY` with every byte percent-encoded that means something in a path or may not stand there (RFC 3986, 3.3).
pub fn encode_path(key: &str) -> String {
    let mut path = String::from("/");
    for byte in key.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                path.push(char::from(byte))
            }
            _ => path.push_str(&format!("%{byte:02X}")),
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(bytes: &str) -> Option<Head> {
        parse_head(bytes.as_bytes()).unwrap()
    }

    #[test]
    fn heads_are_understood() {
        let text = "HTTP/1.1 204 No Content\r\ndate: x\r\n\r\n";
        assert_eq!(head(text), Some(Head { status: 204, length: text.len(), body_length: 0, close: false }));
        let text = "HTTP/1.1 503 Service Unavailable\r\nCONTENT-LENGTH:  12 \r\nConnection: Close\r\n\r\n";
        let wanted = Head { status: 503, length: text.len(), body_length: 12, close: true };
        assert_eq!(head(&format!("{text}the body")), Some(wanted));
        assert_eq!(head("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n").map(|h| h.status), Some(200));
    }

    #[test]
    fn a_head_is_incomplete_until_its_last_byte() {
        let text = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\n";
        for cut in 0..text.len() {
            assert_eq!(head(&text[..cut]), None, "cut at {cut}");
        }
        assert!(head(text).is_some());
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in [
            "HTTP/2 200 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 20\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 2000 OK\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\n",
            "HTTP/1.1 600 x\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno colon\r\ncontent-length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        ] {
            assert!(parse_head(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn heads_and_bodies_are_bounded() {
        assert!(parse_head(&[b'a'; MAX_HEAD]).unwrap().is_none());
        assert!(parse_head(&[b'a'; MAX_HEAD + 1]).is_err());
        let with =
            |n: usize| parse_head(format!("HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n").as_bytes());
        assert_eq!(with(MAX_BODY).unwrap().unwrap().body_length, MAX_BODY);
        assert!(with(MAX_BODY + 1).is_err());
    }

    #[test]
    fn keys_become_paths() {
        assert_eq!(encode_path("a/b-c"), "/a/b-c");
        assert_eq!(encode_path("a b?#%é"), "/a%20b%3F%23%25%C3%A9");
    }
}
