//! As much of Redis's protocol (RESP2) as a load generator needs, and no more.
//!
//! A command is an array of bulk strings. The answers that are understood are those that `SET`, `GET` and `READONLY`
//! have:
//!
//! ```text
//! +OK\r\n    -ERR why\r\n    :1\r\n    $5\r\nvalue\r\n    $-1\r\n (nothing there)
//! ```
//!
//! A line has at most 16 KiB, a string at most 64 MiB. What is not understood is an error, never a guess.

use crate::http::{Error, MAX_BODY};

/// Longest line of an answer, in bytes: the text of an error, or a length.
const MAX_LINE: usize = 16 << 10;

/// What a server answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reply<'a> {
    /// Done; or the value that was asked for, which nobody looks at.
    Done,
    /// There is nothing under the key.
    Nil,
    /// No; with the first word of the reason, which is its kind (`ERR`, `CLUSTERDOWN`).
    Error(&'a [u8]),
}

/// The bytes of a command.
pub fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Parses the first answer in `bytes`, and says how many bytes it has; `None` if they do not hold all of it yet.
///
/// # Errors
/// [`Error::Protocol`], see the module.
pub fn parse_reply(bytes: &[u8]) -> Result<Option<(usize, Reply<'_>)>, Error> {
    let Some(end) = bytes.iter().take(MAX_LINE).position(|&b| b == b'\n') else {
        return if bytes.len() >= MAX_LINE { Err(Error::Protocol("a line above 16 KiB")) } else { Ok(None) };
    };
    let line = bytes[..end].strip_suffix(b"\r").ok_or(Error::Protocol("a line without a carriage return"))?;
    let (&kind, text) = line.split_first().ok_or(Error::Protocol("an empty line"))?;
    let line_length = end + 1;
    match kind {
        b'+' | b':' => Ok(Some((line_length, Reply::Done))),
        b'-' => Ok(Some((line_length, Reply::Error(text.split(|&b| b == b' ').next().unwrap_or(text))))),
        b'$' if text == b"-1" => Ok(Some((line_length, Reply::Nil))),
        b'$' => {
            let length = std::str::from_utf8(text)
                .ok()
                .filter(|text| text.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|text| text.parse::<usize>().ok())
                .filter(|&length| length <= MAX_BODY)
                .ok_or(Error::Protocol("a bad length of a string"))?;
            let whole = line_length + length + 2;
            match bytes.get(line_length + length..whole) {
                None => Ok(None),
                Some(b"\r\n") => Ok(Some((whole, Reply::Done))),
                Some(_) => Err(Error::Protocol("a string that is longer than its length")),
            }
        }
        _ => Err(Error::Protocol("a type of RESP that was not asked for")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_arrays_of_strings() {
        assert_eq!(
            command(&[b"SET", b"a key", b"1\r\n2"]),
            b"*3\r\n$3\r\nSET\r\n$5\r\na key\r\n$4\r\n1\r\n2\r\n"
        );
    }

    #[test]
    fn every_answer_is_incomplete_until_its_last_byte() {
        for (text, wanted) in [
            ("+OK\r\n", Reply::Done),
            (":12\r\n", Reply::Done),
            ("$0\r\n\r\n", Reply::Done),
            ("$5\r\na\r\nbc\r\n", Reply::Done),
            ("$-1\r\n", Reply::Nil),
            ("-CLUSTERDOWN no leader\r\n", Reply::Error(b"CLUSTERDOWN")),
            ("-ERR\r\n", Reply::Error(b"ERR")),
        ] {
            for cut in 0..text.len() {
                assert!(parse_reply(&text.as_bytes()[..cut]).unwrap().is_none(), "{text:?} cut at {cut}");
            }
            let more = format!("{text}+OK\r\n");
            assert_eq!(parse_reply(more.as_bytes()).unwrap(), Some((text.len(), wanted)), "{text:?}");
        }
    }

    #[test]
    fn what_is_not_understood_is_an_error() {
        for text in
            ["\r\n", "+OK\n", "*1\r\n", "hello\r\n", "$-2\r\n", "$+1\r\n", "$x\r\n", "$\r\n", "$1\r\nabc\r\n"]
        {
            assert!(parse_reply(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn lines_and_strings_are_bounded() {
        let line = |length: usize| [&b"+"[..], &vec![b'a'; length - 3], b"\r\n"].concat();
        assert!(parse_reply(&line(MAX_LINE)).unwrap().is_some());
        assert!(parse_reply(&line(MAX_LINE + 1)).is_err());
        assert!(parse_reply(&line(MAX_LINE + 1)[..MAX_LINE - 1]).unwrap().is_none());
        assert!(parse_reply(format!("${MAX_BODY}\r\n").as_bytes()).unwrap().is_none());
        assert!(parse_reply(format!("${}\r\n", MAX_BODY + 1).as_bytes()).is_err());
    }
}
