//! Errors in words. The first word is stable: programs look at it.
//!
//! | first word | when | was it done |
//! |---|---|---|
//! | `ERR` | the request cannot be | no |
//! | `TRYAGAIN` | no leader in time, or this member is stopping | no |
//! | `BUSY` | more is in flight than this member takes | no |
//! | `MISCONF` | this member's disk is full; as Redis, whose append-only file cannot be written | no |
//! | `UNKNOWN` | proposed, and no answer in time | perhaps, or it may yet be |
//! | `CLUSTERDOWN` | this member was removed from its cluster | no |
//! | `NOPERM` | an administrator's command from another machine | no |
//! | `NOPROTO`, `WRONGPASS` | as in Redis | no |

use std::fmt::Write as _;

use kvd_kvstore::Error;

use crate::parse::Request;

pub(crate) const SYNTAX: &str = "ERR syntax error";
pub(crate) const NOT_AN_INTEGER: &str = "ERR value is not an integer or out of range";

/// Bytes of a request that an error repeats.
const REPEATED: usize = 128;

/// What the store's error is to a client.
pub(crate) fn words(error: &Error) -> String {
    let first = match error {
        Error::NotANumber => return NOT_AN_INTEGER.into(),
        Error::Overflow => return "ERR increment or decrement would overflow".into(),
        Error::WouldBeTooLarge { .. } => {
            return "ERR string exceeds maximum allowed size (proto-max-bulk-len)".into();
        }
        Error::NoLeader | Error::Stopped => "TRYAGAIN",
        Error::Overloaded => "BUSY",
        Error::NoSpace => "MISCONF",
        Error::Unknown { .. } => "UNKNOWN",
        Error::Removed => "CLUSTERDOWN",
        Error::EmptyKey
        | Error::KeyTooLong { .. }
        | Error::ValueTooLarge { .. }
        | Error::RequestTooLarge { .. }
        | Error::Membership(_)
        | Error::Refused(_)
        | Error::BadResponse => "ERR",
    };
    format!("{first} {error}")
}

/// A wrong number of arguments, for a command or for `command|subcommand`.
pub(crate) fn arity(name: &str) -> String {
    format!("ERR wrong number of arguments for '{name}' command")
}

pub(crate) fn unknown_command(request: &Request<'_>) -> String {
    let mut arguments = String::new();
    for argument in request.iter().skip(1) {
        if arguments.len() >= REPEATED {
            break;
        }
        // Writing to a string does not fail.
        let _ = write!(arguments, "'{}' ", beginning(argument, REPEATED - arguments.len()));
    }
    let name = beginning(request.get(0), REPEATED);
    format!("ERR unknown command '{name}', with args beginning with: {arguments}")
}

pub(crate) fn unknown_subcommand(request: &Request<'_>, command: &str) -> String {
    let name = beginning(request.get(1), REPEATED);
    format!("ERR unknown subcommand '{name}'. Try {} HELP.", command.to_uppercase())
}

/// The first bytes of an argument as text, up to a zero: Redis prints it as C does.
pub(crate) fn beginning(argument: &[u8], bytes: usize) -> String {
    let text = argument[..argument.len().min(bytes)].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(text.unwrap_or_default()).into_owned()
}
