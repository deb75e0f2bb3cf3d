//! Commands that are one command of the log.

use kvd_kvstore::command::{Command, Response};
use kvd_kvstore::txn::parse_number;
use kvd_kvstore::{Compare, Error, Limits, Operation, Target, Txn};

use super::{Planned, Shape, everything};
use crate::errors::{self, NOT_AN_INTEGER, SYNTAX};
use crate::parse::Request;
use crate::reply::Replies;
use crate::table::Id;

/// The options of a SET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SetOptions {
    /// Only if the key is there (`XX`), or is not (`NX`).
    pub(super) exists: Option<bool>,
    /// Return what was there before.
    pub(super) get: bool,
}

impl SetOptions {
    pub(super) fn read(request: &Request<'_>) -> Result<Self, String> {
        let mut options = Self::default();
        for argument in request.iter().skip(3) {
            let is = |option: &str| argument.eq_ignore_ascii_case(option.as_bytes());
            let condition = if is("nx") { Some(false) } else { is("xx").then_some(true) };
            if let Some(exists) = condition {
                if options.exists.is_some_and(|before| before != exists) {
                    return Err(SYNTAX.into());
                }
                options.exists = Some(exists);
            } else if is("get") {
                options.get = true;
            } else if ["ex", "px", "exat", "pxat"].into_iter().any(is) {
                let option = errors::beginning(argument, 4).to_uppercase();
                return Err(format!("ERR the option {option} is not supported yet: keys do not expire"));
            } else if !is("keepttl") {
                return Err(SYNTAX.into());
            }
        }
        Ok(options)
    }
}

/// What `request` is; `Err` with the words if its arguments are wrong.
pub(super) fn plan(id: Id, request: &Request<'_>, limits: &Limits) -> Result<Planned, String> {
    let (command, shape) = match id {
        Id::Set => {
            let options = SetOptions::read(request)?;
            let (key, value) = (request.keep(1), request.keep(2));
            match options {
                SetOptions { get: true, .. } => return Ok(Planned::Other(id)),
                SetOptions { exists: None, .. } => (Command::Put { key, value }, Shape::Ok),
                SetOptions { exists: Some(exists), .. } => {
                    let compare = Compare { key: key.clone(), target: Target::Exists(exists) };
                    (when(compare, Operation::Put { key, value }), Shape::OkOrNull)
                }
            }
        }
        Id::Setnx => {
            let (key, value) = (request.keep(1), request.keep(2));
            let compare = Compare { key: key.clone(), target: Target::Exists(false) };
            (when(compare, Operation::Put { key, value }), Shape::Flag)
        }
        Id::Mset => {
            if request.len().is_multiple_of(2) {
                return Err(errors::arity("mset"));
            }
            let put = |at| Operation::Put { key: request.keep(at), value: request.keep(at + 1) };
            (all((1..request.len()).step_by(2).map(put).collect()), Shape::Ok)
        }
        Id::Del | Id::Unlink if request.len() == 2 => {
            (Command::Delete { key: request.keep(1) }, Shape::Deleted)
        }
        Id::Del | Id::Unlink => {
            let delete = |at| Operation::Delete { key: request.keep(at) };
            (all((1..request.len()).map(delete).collect()), Shape::Deleted)
        }
        Id::Flushall | Id::Flushdb => {
            let how = request.get(1);
            let known = how.eq_ignore_ascii_case(b"async") || how.eq_ignore_ascii_case(b"sync");
            if request.len() > 2 || (request.len() == 2 && !known) {
                return Err(SYNTAX.into());
            }
            (all(vec![everything()]), Shape::Ok)
        }
        Id::Incr => (increment(request, 1), Shape::Number),
        Id::Decr => (increment(request, -1), Shape::Number),
        Id::Incrby => (increment(request, number(request.get(2))?), Shape::Number),
        Id::Decrby => {
            let by = number(request.get(2))?.checked_neg().ok_or("ERR decrement would overflow")?;
            (increment(request, by), Shape::Number)
        }
        Id::Append => {
            let limit = limits.value_bytes as u64;
            let append = Operation::Append { key: request.keep(1), suffix: request.keep(2), limit };
            (all(vec![append]), Shape::Number)
        }
        id => return Ok(Planned::Other(id)),
    };
    Ok(Planned::Write(command, shape))
}

fn increment(request: &Request<'_>, by: i64) -> Command {
    all(vec![Operation::Increment { key: request.keep(1), by }])
}

fn number(argument: &[u8]) -> Result<i64, String> {
    parse_number(argument).ok_or_else(|| NOT_AN_INTEGER.into())
}

fn all(operations: Vec<Operation>) -> Command {
    Command::Txn(Txn { compares: Vec::new(), operations })
}

/// One operation on one condition.
pub(super) fn when(compare: Compare, operation: Operation) -> Command {
    Command::Txn(Txn { compares: vec![compare], operations: vec![operation] })
}

/// Writes the answer to a write.
pub(crate) fn render(answer: Result<Response, Error>, shape: Shape, replies: &mut Replies) {
    let response = match answer {
        Ok(response) => response,
        Err(error) => return replies.error(&errors::words(&error)),
    };
    match (shape, response) {
        (Shape::Ok, Response::Put(_) | Response::Txn(_)) => replies.ok(),
        (Shape::OkOrNull, Response::Txn(done)) if done.succeeded => replies.ok(),
        (Shape::OkOrNull, Response::Txn(_)) => replies.null(),
        (Shape::Flag, Response::Txn(done)) => replies.integer(done.succeeded.into()),
        (Shape::Deleted, Response::Delete(deleted)) => replies.integer(deleted.existed.into()),
        (Shape::Deleted, Response::Txn(done)) => replies.integer(done.deleted as i64),
        (Shape::Number, Response::Txn(done)) if done.numbers.len() == 1 => replies.integer(done.numbers[0]),
        _ => replies.error(&errors::words(&Error::BadResponse)),
    }
}
