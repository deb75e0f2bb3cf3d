//! Replies to bytes, in the protocol that the client speaks.
//!
//! ```text
//!            RESP2                RESP3
//! simple     +OK\r\n              +OK\r\n
//! error      -ERR words\r\n       -ERR words\r\n
//! integer    :1\r\n               :1\r\n
//! bulk       $1\r\nv\r\n          $1\r\nv\r\n
//! null       $-1\r\n              _\r\n
//! array      *2\r\n ...           *2\r\n ...
//! map        *4\r\n ...           %2\r\n ...        twice as many replies follow
//! set        *2\r\n ...           ~2\r\n ...
//! verbatim   $5\r\nwords\r\n      =9\r\ntxt:words\r\n
//! ```

use bytes::{BufMut as _, BytesMut};

/// Which protocol a client speaks: RESP2 until it says `HELLO 3`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Protocol {
    #[default]
    Resp2,
    Resp3,
}

impl Protocol {
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Resp2 => 2,
            Self::Resp3 => 3,
        }
    }
}

/// Replies that were not sent yet.
#[derive(Debug, Default)]
pub(crate) struct Replies {
    pub(crate) bytes: BytesMut,
    pub(crate) protocol: Protocol,
}

impl Replies {
    pub(crate) fn ok(&mut self) {
        self.simple("OK");
    }

    pub(crate) fn simple(&mut self, words: &str) {
        self.line(b'+', words.as_bytes());
    }

    /// An error; its first word is what a program looks at. A line's end within it is a space to the client.
    pub(crate) fn error(&mut self, words: &str) {
        let start = self.bytes.len();
        self.line(b'-', words.as_bytes());
        let end = self.bytes.len() - 2;
        for byte in &mut self.bytes[start..end] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
    }

    pub(crate) fn integer(&mut self, number: i64) {
        self.number(b':', number);
    }

    /// How many there are of something.
    pub(crate) fn count(&mut self, count: usize) {
        self.integer(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn bulk(&mut self, bytes: &[u8]) {
        self.header(b'$', bytes.len());
        self.bytes.reserve(bytes.len() + 2);
        self.bytes.put_slice(bytes);
        self.bytes.put_slice(b"\r\n");
    }

    pub(crate) fn null(&mut self) {
        self.bytes.extend_from_slice(match self.protocol {
            Protocol::Resp2 => b"$-1\r\n",
            Protocol::Resp3 => b"_\r\n",
        });
    }

    /// A value, or null.
    pub(crate) fn bulk_or_null(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.bulk(bytes),
            None => self.null(),
        }
    }

    pub(crate) fn array(&mut self, length: usize) {
        self.header(b'*', length);
    }

    /// A null in the place of an array, which RESP2 tells apart.
    pub(crate) fn null_array(&mut self) {
        match self.protocol {
            Protocol::Resp2 => self.bytes.extend_from_slice(b"*-1\r\n"),
            Protocol::Resp3 => self.null(),
        }
    }

    /// `pairs` keys with their values follow.
    pub(crate) fn map(&mut self, pairs: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', pairs * 2),
            Protocol::Resp3 => self.header(b'%', pairs),
        }
    }

    pub(crate) fn set(&mut self, length: usize) {
        match self.protocol {
            Protocol::Resp2 => self.header(b'*', length),
            Protocol::Resp3 => self.header(b'~', length),
        }
    }

    /// Text for people.
    pub(crate) fn verbatim(&mut self, text: &str) {
        match self.protocol {
            Protocol::Resp2 => self.bulk(text.as_bytes()),
            Protocol::Resp3 => {
                self.header(b'=', text.len() + 4);
                self.bytes.put_slice(b"txt:");
                self.bytes.extend_from_slice(text.as_bytes());
                self.bytes.put_slice(b"\r\n");
            }
        }
    }

    fn line(&mut self, kind: u8, words: &[u8]) {
        self.bytes.reserve(words.len() + 3);
        self.bytes.put_u8(kind);
        self.bytes.put_slice(words);
        self.bytes.put_slice(b"\r\n");
    }

    fn header(&mut self, kind: u8, length: usize) {
        self.number(kind, i64::try_from(length).unwrap_or(i64::MAX));
    }

    fn number(&mut self, kind: u8, number: i64) {
        // The longest is -9223372036854775808.
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            at -= 1;
            digits[at] = b'-';
        }
        self.line(kind, &digits[at..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(reply: impl Fn(&mut Replies)) -> [String; 2] {
        [Protocol::Resp2, Protocol::Resp3].map(|protocol| {
            let mut replies = Replies { protocol, ..Replies::default() };
            reply(&mut replies);
            String::from_utf8(replies.bytes.to_vec()).unwrap()
        })
    }

    #[test]
    fn every_kind_in_both_protocols() {
        let same = |text: &str| [text.to_owned(), text.to_owned()];
        let differ = |two: &str, three: &str| [two.to_owned(), three.to_owned()];
        assert_eq!(both(Replies::ok), same("+OK\r\n"));
        assert_eq!(both(|r| r.error("ERR no\r\nway")), same("-ERR no  way\r\n"));
        assert_eq!(both(|r| r.bulk(b"a\r\n")), same("$3\r\na\r\n\r\n"));
        assert_eq!(both(|r| r.bulk_or_null(Some(b""))), same("$0\r\n\r\n"));
        assert_eq!(both(|r| r.array(0)), same("*0\r\n"));
        assert_eq!(both(|r| r.bulk_or_null(None)), differ("$-1\r\n", "_\r\n"));
        assert_eq!(both(Replies::null_array), differ("*-1\r\n", "_\r\n"));
        assert_eq!(both(|r| r.map(2)), differ("*4\r\n", "%2\r\n"));
        assert_eq!(both(|r| r.set(2)), differ("*2\r\n", "~2\r\n"));
        assert_eq!(both(|r| r.verbatim("words")), differ("$5\r\nwords\r\n", "=9\r\ntxt:words\r\n"));
    }

    #[test]
    fn integers_of_every_length() {
        for number in [0, 1, -1, 9, 10, 12_345, i64::MAX, i64::MIN, i64::MIN + 1] {
            assert_eq!(both(|r| r.integer(number))[0], format!(":{number}\r\n"));
        }
    }
}
