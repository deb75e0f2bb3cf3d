//! A blocking client for Redis's protocol that shows replies as they come, of kvd and of a real Redis alike.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::PATIENCE;

/// A reply, in RESP2 or RESP3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK`.
    Simple(String),
    /// `-ERR words`.
    Error(String),
    /// `:1`.
    Integer(i64),
    /// Bytes; also RESP3's text, without what says that it is text.
    Bulk(Vec<u8>),
    /// RESP2's two and RESP3's one.
    Null,
    /// An array, or RESP3's set.
    Array(Vec<Reply>),
    /// RESP3's map.
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    /// What there is of text in it.
    pub fn text(&self) -> String {
        match self {
            Reply::Simple(text) | Reply::Error(text) => text.clone(),
            Reply::Bulk(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Reply::Integer(number) => number.to_string(),
            other => panic!("{other:?} is no text"),
        }
    }
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// A request as clients send it.
pub fn request<A: AsRef<[u8]>>(arguments: &[A]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", arguments.len()).into_bytes();
    for argument in arguments.iter().map(AsRef::as_ref) {
        bytes.extend(format!("${}\r\n", argument.len()).bytes());
        bytes.extend_from_slice(argument);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

impl Connection {
    /// Connects to a port of this machine.
    pub fn open(port: u16) -> io::Result<Connection> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    /// Sends bytes, whatever they are.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Sends one request and reads its reply.
    ///
    /// # Panics
    /// If the connection fails: a test that expects that uses [`Connection::send`] and [`Connection::read`].
    pub fn call<A: AsRef<[u8]>>(&mut self, arguments: &[A]) -> Reply {
        self.send(&request(arguments)).expect("a request is sent");
        self.read().expect("a request is answered")
    }

    /// Splits `line` at its spaces, sends that and reads the reply.
    ///
    /// # Panics
    /// As [`Connection::call`].
    pub fn line(&mut self, line: &str) -> Reply {
        self.call(&line.split(' ').collect::<Vec<_>>())
    }

    /// Whether the other side has closed the connection, once all that it sent has been read.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }

    /// Reads one reply.
    pub fn read(&mut self) -> io::Result<Reply> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::InvalidData)?;
        let (kind, rest) = line.split_at_checked(1).ok_or(io::ErrorKind::InvalidData)?;
        let number = || rest.parse::<i64>().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e));
        Ok(match kind {
            "+" => Reply::Simple(rest.to_owned()),
            "-" => Reply::Error(rest.to_owned()),
            ":" => Reply::Integer(number()?),
            "_" => Reply::Null,
            "$" | "*" if number()? < 0 => Reply::Null,
            "$" => Reply::Bulk(self.bulk(number()? as usize)?),
            "=" => Reply::Bulk(self.bulk(number()? as usize)?.split_off(4)),
            "*" | "~" => Reply::Array((0..number()?).map(|_| self.read()).collect::<io::Result<_>>()?),
            "%" => Reply::Map(
                (0..number()?).map(|_| Ok((self.read()?, self.read()?))).collect::<io::Result<_>>()?,
            ),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{line:?} is no reply"))),
        })
    }

    fn bulk(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length + 2];
        self.stream.read_exact(&mut bytes)?;
        bytes.truncate(length);
        Ok(bytes)
    }
}
