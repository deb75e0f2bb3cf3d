//! What each command does.
//!
//! | module | commands |
//! |---|---|
//! | `writes` | those that are one command of the log: SET, DEL, MSET, INCR, ... and what their answers look like |
//! | `reads` | GET, MGET, ...; and SET with GET, which reads and then writes on a condition |
//! | `scans` | KEYS, SCAN, DBSIZE |
//! | `connection` | HELLO, AUTH, CLIENT, PING, SELECT, ...: what only this connection is asked |
//! | `about` | COMMAND and CONFIG |
//! | `info` | INFO, ROLE, TIME |
//! | `admin` | JOIN, LEAVE, SNAPSHOT |

mod about;
mod admin;
mod connection;
mod info;
mod reads;
mod scans;
mod writes;

use bytes::Bytes;
use kvd_kvstore::Limits;
use kvd_kvstore::command::Command;

use crate::connection::look_up;
use crate::parse::Request;
use crate::table::Id;

pub(crate) use writes::render;

/// What is to be done about a request.
#[derive(Debug)]
pub(crate) enum Planned {
    /// Propose it.
    Write(Command, Shape),
    /// Say no, in these words.
    Refuse(String),
    /// Anything else; it waits until the writes before it are answered.
    Other(Id),
    /// Close the connection without a word.
    Hangup,
}

/// What the answer to a write looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// `+OK`.
    Ok,
    /// `+OK`, or null if the condition did not hold.
    OkOrNull,
    /// 1, or 0 if the condition did not hold.
    Flag,
    /// How many keys were removed.
    Deleted,
    /// The number that came of it.
    Number,
}

/// Decides what is to be done about a request, and checks its arguments if that is a write.
pub(crate) fn plan(request: &Request<'_>, limits: &Limits) -> Planned {
    let spec = match look_up(request) {
        Ok(spec) => spec,
        Err(planned) => return planned,
    };
    writes::plan(spec.id, request, limits).unwrap_or_else(Planned::Refuse)
}

/// All keys at once.
fn everything() -> kvd_kvstore::Operation {
    kvd_kvstore::Operation::DeleteRange { start: Bytes::new(), end: Bytes::new() }
}
