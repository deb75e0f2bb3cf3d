//! The Redis door, spoken in RESP2. Its answers carry no revisions, but it has the operations that add.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kvd_linearizability::Action;

use super::{Answer, Door, Told};

const TIMEOUT: Duration = Duration::from_millis(2500);

/// The longest reply that is read, in bytes.
const MAX_REPLY: i64 = 64 << 20;

/// What an error begins with that says that nothing was done.
const NOTHING_DONE: [&str; 4] = ["TRYAGAIN ", "BUSY ", "CLUSTERDOWN ", "MISCONF "];

/// A client of one member's Redis port.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    connection: Option<BufReader<TcpStream>>,
}

/// A reply, as far as these commands have them.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(Option<String>),
}

impl Redis {
    /// A client of 127.0.0.1:`port`.
    pub fn new(port: u16) -> Redis {
        Redis { port, connection: None }
    }

    fn call(&mut self, words: &[&str]) -> io::Result<Reply> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let stream = TcpStream::connect(("127.0.0.1", self.port))?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(TIMEOUT))?;
                stream.set_write_timeout(Some(TIMEOUT))?;
                BufReader::new(stream)
            }
        };
        let mut request = format!("*{}\r\n", words.len());
        for word in words {
            request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        connection.get_mut().write_all(request.as_bytes())?;
        let reply = read_reply(&mut connection)?;
        self.connection = Some(connection);
        Ok(reply)
    }
}

impl Door for Redis {
    fn can(&self, action: &Action) -> bool {
        !matches!(action, Action::StaleGet | Action::Put { condition: Some(_), .. })
    }

    fn ask(&mut self, key: &str, action: &Action, _tag: Option<u64>) -> Answer {
        let by;
        let words: &[&str] = match action {
            Action::Get => &["GET", key],
            Action::Put { value, .. } => &["SET", key, value],
            Action::Delete => &["DEL", key],
            Action::Append { value } => &["APPEND", key, value],
            Action::Increment { by: amount } => {
                by = amount.to_string();
                &["INCRBY", key, &by]
            }
            Action::StaleGet => return Answer::Wrong("this door cannot be asked for that".into()),
        };
        match self.call(words) {
            Ok(reply) => meaning(action, reply),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Answer::Nothing,
            Err(_) => Answer::Unknown,
        }
    }
}

fn meaning(action: &Action, reply: Reply) -> Answer {
    let told = Told::default();
    match (action, reply) {
        (Action::Get, Reply::Bulk(read)) => {
            Answer::Done(Told { existed: Some(read.is_some()), read, ..told })
        }
        (Action::Put { .. }, Reply::Simple(ok)) if ok == "OK" => Answer::Done(told),
        (Action::Delete, Reply::Integer(n @ 0..=1)) => Answer::Done(Told { existed: Some(n == 1), ..told }),
        (Action::Append { .. } | Action::Increment { .. }, Reply::Integer(number)) => {
            Answer::Done(Told { number: Some(number), ..told })
        }
        // These keys hold what the action wants: anything but a refusal for the moment is a fault of the store.
        (_, Reply::Error(error)) if error.starts_with("WRONGTYPE") || error.contains("not an integer") => {
            Answer::Wrong(error)
        }
        (_, Reply::Error(error)) if NOTHING_DONE.iter().any(|code| error.starts_with(code)) => {
            Answer::Nothing
        }
        (_, Reply::Error(_)) => Answer::Unknown,
        (_, reply) => Answer::Wrong(format!("answered with {reply:?}")),
    }
}

fn read_reply(from: &mut impl BufRead) -> io::Result<Reply> {
    let mut line = String::new();
    from.take(64 << 10).read_line(&mut line)?;
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("not a reply: {line:?}"));
    let text = line.strip_suffix("\r\n").ok_or_else(invalid)?;
    let (kind, rest) = text.split_at_checked(1).ok_or_else(invalid)?;
    let number = || rest.parse::<i64>().map_err(|_| invalid());
    match kind {
        "+" => Ok(Reply::Simple(rest.to_owned())),
        "-" => Ok(Reply::Error(rest.to_owned())),
        ":" => Ok(Reply::Integer(number()?)),
        "$" => match number()? {
            -1 => Ok(Reply::Bulk(None)),
            len @ 0..=MAX_REPLY => {
                let mut bytes = vec![0; len as usize + 2];
                from.read_exact(&mut bytes)?;
                bytes.truncate(len as usize);
                Ok(Reply::Bulk(Some(String::from_utf8_lossy(&bytes).into_owned())))
            }
            _ => Err(invalid()),
        },
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(bytes: &[u8]) -> io::Result<Reply> {
        read_reply(&mut BufReader::with_capacity(1, bytes))
    }

    #[test]
    fn replies_of_every_kind() {
        assert_eq!(reply(b"+OK\r\n").unwrap(), Reply::Simple("OK".into()));
        assert_eq!(reply(b"-ERR no\r\n").unwrap(), Reply::Error("ERR no".into()));
        assert_eq!(reply(b":-3\r\n").unwrap(), Reply::Integer(-3));
        assert_eq!(reply(b"$-1\r\n").unwrap(), Reply::Bulk(None));
        assert_eq!(reply(b"$3\r\na\r\n\r\n").unwrap(), Reply::Bulk(Some("a\r\n".into())));
        for bad in [&b""[..], b"+OK", b"$5\r\nabc\r\n", b"$-2\r\n", b"?\r\n", b"\r\n", b":x\r\n"] {
            assert!(reply(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn replies_mean_what_their_commands_say() {
        let get = meaning(&Action::Get, Reply::Bulk(None));
        assert_eq!(get, Answer::Done(Told { existed: Some(false), ..Told::default() }));
        let incr = meaning(&Action::Increment { by: 1 }, Reply::Integer(4));
        assert_eq!(incr, Answer::Done(Told { number: Some(4), ..Told::default() }));
        assert_eq!(meaning(&Action::Delete, Reply::Error("TRYAGAIN later".into())), Answer::Nothing);
        assert_eq!(meaning(&Action::Delete, Reply::Error("UNKNOWN outcome".into())), Answer::Unknown);
        assert!(matches!(meaning(&Action::Get, Reply::Integer(1)), Answer::Wrong(_)));
        assert!(matches!(meaning(&Action::Get, Reply::Error("WRONGTYPE x".into())), Answer::Wrong(_)));
    }
}
