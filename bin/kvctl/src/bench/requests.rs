//! The bytes of requests, and what answers to them mean.
//!
//! A request is made once for each client. What follows is a copy with other digits in its key.

use std::ops::Range;

use super::keys::{Keys, Random};
use super::{Bench, Protocol};
use crate::http::{Error, parse_head, request};
use crate::resp::{Reply, command, parse_reply};
use crate::{Endpoint, Operation};

/// Before the ten digits of a key's number.
const KEY_PREFIX: &str = "bench-";

/// An answer at the beginning of what was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// How many bytes it has.
    pub(crate) length: usize,
    pub(crate) outcome: Outcome,
    /// Whether the server closes the connection after it.
    pub(crate) close: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Written, or read.
    Done,
    /// Read, and there was nothing.
    Absent,
    /// Anything else, by its kind.
    Refused(String),
}

/// The requests of one client.
#[derive(Debug)]
pub(crate) struct Requests {
    protocol: Protocol,
    put: Template,
    get: Template,
    /// Of a hundred requests, so many read.
    read_percent: u32,
    keys: Keys,
    random: Random,
    /// What a connection begins with, and what has an answer of its own.
    opening: Vec<u8>,
}

/// A request whose key is replaced in place.
#[derive(Debug)]
struct Template {
    bytes: Vec<u8>,
    /// Where the digits of the key's number stand.
    digits: Range<usize>,
}

impl Requests {
    pub(crate) fn new(endpoint: &Endpoint, load: &Bench, keys: Keys, client: u32) -> Requests {
        let mut random = Random::new(u64::from(client));
        let value: Vec<u8> = (0..load.clients().value_bytes).map(|_| random.next() as u8).collect();
        let key = format!("{KEY_PREFIX}{:010}", 0);
        let protocol = load.protocol_at(endpoint);
        let (put, get, opening) = match protocol {
            Protocol::Http => {
                let query = if load.stale() { "?consistency=stale" } else { "" };
                let get = request("GET", endpoint, &format!("/{key}{query}"), b"");
                (request("PUT", endpoint, &format!("/{key}"), &value), get, Vec::new())
            }
            Protocol::Redis => (
                command(&[b"SET", key.as_bytes(), &value]),
                command(&[b"GET", key.as_bytes()]),
                if load.stale() { command(&[b"READONLY"]) } else { Vec::new() },
            ),
        };
        Requests {
            protocol,
            put: Template::new(put),
            get: Template::new(get),
            read_percent: load.read_percent(),
            keys,
            random,
            opening,
        }
    }

    /// What a new connection begins with; empty if there is nothing to say.
    pub(crate) fn opening(&self) -> &[u8] {
        &self.opening
    }

    /// Appends the next request to `out`; `None` if that was all.
    pub(crate) fn next(&mut self, out: &mut Vec<u8>) -> Option<Operation> {
        let reads = match self.read_percent {
            0 => false,
            100 => true,
            percent => self.random.below(100) < percent,
        };
        let key = self.keys.next(&mut self.random)?;
        if reads {
            self.get.copy(key, out);
            Some(Operation::Get)
        } else {
            self.put.copy(key, out);
            Some(Operation::Put)
        }
    }

    /// The answer at the beginning of `bytes`, to a request of this kind; `None` if it is not complete.
    pub(crate) fn answer(&self, bytes: &[u8], to: Operation) -> Result<Option<Answer>, Error> {
        match self.protocol {
            Protocol::Http => {
                let Some(head) = parse_head(bytes)? else { return Ok(None) };
                let length = head.length + head.body_length;
                let outcome = match (head.status, to) {
                    (200..=299, _) => Outcome::Done,
                    (404, Operation::Get) => Outcome::Absent,
                    (status, _) => Outcome::Refused(status.to_string()),
                };
                let answer = Answer { length, outcome, close: head.close };
                Ok((bytes.len() >= length).then_some(answer))
            }
            Protocol::Redis => Ok(parse_reply(bytes)?.map(|(length, reply)| {
                let outcome = match reply {
                    Reply::Done => Outcome::Done,
                    Reply::Nil => Outcome::Absent,
                    Reply::Error(kind) => Outcome::Refused(String::from_utf8_lossy(kind).into_owned()),
                };
                Answer { length, outcome, close: false }
            })),
        }
    }
}

impl Template {
    fn new(bytes: Vec<u8>) -> Template {
        // The key stands before the value, which might look like one.
        let prefix = KEY_PREFIX.as_bytes();
        let start = bytes.windows(prefix.len()).position(|w| w == prefix).unwrap_or_default() + prefix.len();
        Template { bytes, digits: start..start + 10 }
    }

    /// Appends the request for another key.
    fn copy(&mut self, key: u32, out: &mut Vec<u8>) {
        let mut number = key;
        for digit in self.bytes[self.digits.clone()].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        out.extend_from_slice(&self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tests::load;

    fn requests(endpoint: &str, line: &str) -> Requests {
        let load = load(line);
        let endpoint = endpoint.parse().unwrap();
        Requests::new(&endpoint, &load, load.keys(), 7)
    }

    fn next(requests: &mut Requests) -> (Operation, String) {
        let mut out = Vec::new();
        let operation = requests.next(&mut out).unwrap();
        (operation, String::from_utf8_lossy(&out).into_owned())
    }

    #[test]
    fn only_the_key_changes_between_requests() {
        for endpoint in ["http://127.0.0.1:1", "redis://127.0.0.1:1"] {
            let mut requests = requests(endpoint, "put --value-bytes 3 --keys 1000");
            let (mut first, mut second) = (Vec::new(), Vec::new());
            requests.next(&mut first);
            requests.next(&mut second);
            assert_ne!(first, second);
            let digits = requests.put.digits.clone();
            assert_eq!(first[..digits.start], second[..digits.start]);
            assert_eq!(first[digits.end..], second[digits.end..]);
        }
    }

    #[test]
    fn requests_read_like_this() {
        let (_, text) = next(&mut requests("http://127.0.0.1:1", "put --value-bytes 3 --keys 1"));
        assert!(
            text.starts_with(
                "PUT /bench-0000000000 HTTP/1.1\r\nHost: 127.0.0.1:1\r\nContent-Length: 3\r\n\r\n"
            ),
            "{text}"
        );
        let (_, text) = next(&mut requests("http://127.0.0.1:1", "get --keys 1 --stale"));
        assert!(text.starts_with("GET /bench-0000000000?consistency=stale HTTP/1.1\r\n"), "{text}");
        let (_, text) = next(&mut requests("redis://127.0.0.1:1", "put --value-bytes 3 --keys 1"));
        assert!(text.starts_with("*3\r\n$3\r\nSET\r\n$16\r\nbench-0000000000\r\n$3\r\n"), "{text:?}");
        let mut stale = requests("redis://127.0.0.1:1", "get --keys 1 --stale");
        assert_eq!(next(&mut stale).1, "*2\r\n$3\r\nGET\r\n$16\r\nbench-0000000000\r\n");
        assert_eq!(stale.opening(), b"*1\r\n$8\r\nREADONLY\r\n");
    }

    #[test]
    fn a_mix_has_its_ratio() {
        for (percent, wanted) in [(0, 0..=0), (100, 1000..=1000), (90, 850..=950), (1, 1..=30)] {
            let mut requests = requests("http://a:1", &format!("mixed --read-percent {percent}"));
            let reads = (0..1000).filter(|_| next(&mut requests).0 == Operation::Get).count();
            assert!(wanted.contains(&reads), "{percent}: {reads}");
        }
    }

    #[test]
    fn answers_mean_the_same_in_both_protocols() {
        use Operation::{Get, Put};
        let http = requests("http://a:1", "put");
        let redis = requests("redis://a:1", "put");
        let absent = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        for (requests, text, to, wanted) in [
            (&http, "HTTP/1.1 204 No Content\r\n\r\n", Put, Outcome::Done),
            (&http, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab", Get, Outcome::Done),
            (&http, absent, Get, Outcome::Absent),
            (&http, absent, Put, Outcome::Refused("404".to_owned())),
            (&redis, "+OK\r\n", Put, Outcome::Done),
            (&redis, "$2\r\nab\r\n", Get, Outcome::Done),
            (&redis, "$-1\r\n", Get, Outcome::Absent),
            (&redis, "-OOM no\r\n", Put, Outcome::Refused("OOM".to_owned())),
        ] {
            let two = [text, text].concat();
            let answer = requests.answer(two.as_bytes(), to).unwrap().unwrap();
            assert_eq!(answer, Answer { length: text.len(), outcome: wanted, close: false });
            assert_eq!(requests.answer(&text.as_bytes()[..text.len() - 1], to).unwrap(), None);
        }
    }
}
