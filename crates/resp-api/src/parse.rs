//! Bytes to requests.
//!
//! # Contract
//!
//! [`Parser::next`] takes the next whole request off the front of a buffer, or says that there is none yet; it goes on
//! where it stopped, so a request that comes in many pieces is looked at once. However the bytes are cut into pieces,
//! the requests are the same. An argument is a place in the request's bytes: nothing is allocated for a request, but
//! for the list of places, which is used again.
//!
//! A length counts against [`Limits`] before anything is kept on its account. After an error the bytes have no meaning
//! any more, and the connection is to be closed.
//!
//! # Format
//!
//! ```text
//! *2\r\n $3\r\nGET\r\n $1\r\nk\r\n      an array of bulk strings, in RESP2 and RESP3 alike
//! GET k\r\n                             inline: words between spaces, "..." and '...' quote; also with \n alone
//! ```
//!
//! Arrays of no or of negative length, and empty lines, are skipped.

use std::fmt;
use std::ops::Range;

use bytes::{Buf as _, Bytes, BytesMut};
use kvd_kvstore::txn::parse_number;

use crate::inline;

/// What a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Arguments, the command's name among them. 131,072.
    pub arguments: usize,
    /// Bytes of one argument. 2 MiB, so that a value over its limit is refused in words.
    pub argument_bytes: usize,
    /// Bytes of an inline request, or of a line that tells a length. 64 KiB.
    pub line_bytes: usize,
    /// Bytes of a request from its first to its last. 2 MiB and 64 KiB: the longest command, and what is around it.
    pub request_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            arguments: 1 << 17,
            argument_bytes: 2 << 20,
            line_bytes: 64 << 10,
            request_bytes: (2 << 20) + (64 << 10),
        }
    }
}

/// Bytes that are no request. Displayed in Redis's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolError {
    /// The length of the array is no number, or over the limit.
    ArrayLength,
    /// The line with that length does not end.
    ArrayLine,
    /// The length of an argument is no number, negative, or over the limit.
    BulkLength,
    /// The line with that length does not end.
    BulkLine,
    /// An argument does not begin as one.
    NotBulk(u8),
    /// An argument does not end where its length says.
    BulkEnd,
    /// An inline request does not end.
    Inline,
    /// An inline request opens a quote and does not close it, or goes on right behind one.
    Quotes,
    /// A request is longer than any may be.
    Request,
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            Self::ArrayLength => f.write_str("invalid multibulk length"),
            Self::ArrayLine => f.write_str("too big mbulk count string"),
            Self::BulkLength => f.write_str("invalid bulk length"),
            Self::BulkLine => f.write_str("too big bulk count string"),
            Self::NotBulk(byte) => write!(f, "expected '$', got '{}'", byte.escape_ascii()),
            Self::BulkEnd => f.write_str("a bulk string does not end where its length says"),
            Self::Inline => f.write_str("too big inline request"),
            Self::Quotes => f.write_str("unbalanced quotes in request"),
            Self::Request => f.write_str("too big request"),
        }
    }
}

impl std::error::Error for ProtocolError {}

/// A whole request.
#[derive(Debug)]
pub struct Request<'a> {
    bytes: Bytes,
    places: &'a [Range<usize>],
}

impl Request<'_> {
    /// The number of arguments, the name among them; at least 1.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a request is never empty")]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Argument `at`; the name is argument 0. Empty behind the last.
    #[must_use]
    pub fn get(&self, at: usize) -> &[u8] {
        self.places.get(at).map_or(&[], |place| &self.bytes[place.clone()])
    }

    /// Argument `at` to keep: it shares the buffer that the request came in.
    #[must_use]
    pub fn keep(&self, at: usize) -> Bytes {
        self.places.get(at).map_or_else(Bytes::new, |place| self.bytes.slice(place.clone()))
    }

    /// All arguments.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.places.iter().map(|place| &self.bytes[place.clone()])
    }

    /// Bytes of the whole request.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }
}

/// Takes requests off the front of one connection's buffer.
#[derive(Debug, Default)]
pub struct Parser {
    limits: Limits,
    /// Places of the arguments that were found, from the request's first byte.
    places: Vec<Range<usize>>,
    /// Bytes of the request that were understood.
    at: usize,
    /// Bytes in which no end of a line was found.
    searched: usize,
    /// Arguments that are still to come; `None` between two requests.
    left: Option<usize>,
    /// The length of the argument that comes next, once it is known.
    bulk: Option<usize>,
}

impl Parser {
    /// A parser for a new connection.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The next request in `buffer`, which is the one of the last call, with more bytes at its end. `None`: it is not
    /// whole yet.
    ///
    /// # Errors
    /// [`ProtocolError`]: nothing more can be made of this connection's bytes.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Request<'_>>, ProtocolError> {
        loop {
            let whole = match self.left {
                Some(left) => self.arguments(buffer, left)?,
                None if buffer.is_empty() => false,
                None if buffer[0] == b'*' => match self.array(buffer)? {
                    Some(()) => continue,
                    None => false,
                },
                None => self.inline(buffer)?,
            };
            if !whole {
                return Ok(None);
            }
            (self.left, self.searched) = (None, 0);
            let bytes = std::mem::take(&mut self.at);
            if self.places.is_empty() {
                buffer.advance(bytes);
                continue;
            }
            return Ok(Some(Request { bytes: buffer.split_to(bytes).freeze(), places: &self.places }));
        }
    }

    /// The first line of an array.
    fn array(&mut self, buffer: &BytesMut) -> Result<Option<()>, ProtocolError> {
        let Some(line) = self.line(buffer, ProtocolError::ArrayLine)? else { return Ok(None) };
        let length = parse_number(&buffer[line]).ok_or(ProtocolError::ArrayLength)?;
        let length = usize::try_from(length).unwrap_or(0);
        if length > self.limits.arguments {
            return Err(ProtocolError::ArrayLength);
        }
        self.places.clear();
        self.left = Some(length);
        Ok(Some(()))
    }

    /// The bulk strings of an array, `left` of which are to come. Whether they are all there.
    fn arguments(&mut self, buffer: &BytesMut, mut left: usize) -> Result<bool, ProtocolError> {
        while left > 0 {
            let length = match self.bulk {
                Some(length) => length,
                None => {
                    match buffer.get(self.at) {
                        None => break,
                        Some(b'$') => {}
                        Some(other) => return Err(ProtocolError::NotBulk(*other)),
                    }
                    let Some(line) = self.line(buffer, ProtocolError::BulkLine)? else { break };
                    let length = parse_number(&buffer[line]).and_then(|length| usize::try_from(length).ok());
                    let length = length.filter(|length| *length <= self.limits.argument_bytes);
                    let length = length.ok_or(ProtocolError::BulkLength)?;
                    if self.at + length + 2 > self.limits.request_bytes {
                        return Err(ProtocolError::Request);
                    }
                    self.bulk = Some(length);
                    length
                }
            };
            let end = self.at + length;
            let Some(close) = buffer.get(end..end + 2) else { break };
            if close != b"\r\n" {
                return Err(ProtocolError::BulkEnd);
            }
            self.places.push(self.at..end);
            (self.at, self.searched, self.bulk) = (end + 2, 0, None);
            left -= 1;
        }
        self.left = Some(left);
        Ok(left == 0)
    }

    /// An inline request. Whether it is all there.
    fn inline(&mut self, buffer: &mut BytesMut) -> Result<bool, ProtocolError> {
        let Some(end) = self.line_end(buffer, ProtocolError::Inline)? else { return Ok(false) };
        let line = buffer[..end].strip_suffix(b"\r").map_or(end, <[u8]>::len);
        self.places.clear();
        inline::split(&mut buffer[..line], self.limits.arguments, &mut self.places)?;
        self.at = end + 1;
        Ok(true)
    }

    /// A line behind its first byte, which tells what it is, without its end.
    fn line(
        &mut self,
        buffer: &BytesMut,
        error: ProtocolError,
    ) -> Result<Option<Range<usize>>, ProtocolError> {
        let Some(end) = self.line_end(buffer, error)? else { return Ok(None) };
        let start = self.at + 1;
        let line = buffer[start..end].strip_suffix(b"\r").map_or(end - start, <[u8]>::len);
        (self.at, self.searched) = (end + 1, 0);
        Ok(Some(start..start + line))
    }

    /// Where the line that begins at `self.at` has its `\n`.
    fn line_end(&mut self, buffer: &[u8], error: ProtocolError) -> Result<Option<usize>, ProtocolError> {
        let rest = &buffer[self.at..];
        let found = rest[self.searched..].iter().position(|byte| *byte == b'\n');
        let length = found.map_or(rest.len(), |found| self.searched + found);
        if length > self.limits.line_bytes {
            return Err(error);
        }
        self.searched = length;
        Ok(found.map(|_| self.at + length))
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
