//! The commands: what each is called, how many arguments it takes, which of them are keys, and what it is for.
//!
//! One table for running them and for telling about them (`COMMAND`): a command that is not here does not exist.

use Flag::{Admin, Denyoom, Fast, Loading, NoAuth, Noscript, Readonly, Stale, Write};

/// What a command does; the names are the commands'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Id {
    Append,
    Auth,
    Client,
    Command,
    Config,
    Dbsize,
    Decr,
    Decrby,
    Del,
    Echo,
    Exists,
    Flushall,
    Flushdb,
    Get,
    Hello,
    Incr,
    Incrby,
    Info,
    Join,
    Keys,
    Leave,
    Mget,
    Mset,
    Ping,
    Quit,
    Readonly,
    Readwrite,
    Reset,
    Role,
    Scan,
    Select,
    Set,
    Setnx,
    Snapshot,
    Strlen,
    Time,
    Type,
    Unlink,
}

/// What is true of a command, in Redis's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    Admin,
    Denyoom,
    Fast,
    Loading,
    NoAuth,
    Noscript,
    Readonly,
    Stale,
    Write,
}

impl Flag {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Admin => "admin",
            Denyoom => "denyoom",
            Fast => "fast",
            Loading => "loading",
            NoAuth => "no_auth",
            Noscript => "noscript",
            Readonly => "readonly",
            Stale => "stale",
            Write => "write",
        }
    }
}

/// One command.
#[derive(Debug)]
pub(crate) struct Spec {
    pub(crate) id: Id,
    /// In lower case.
    pub(crate) name: &'static str,
    /// The number of arguments with the name; if negative, at least as many.
    pub(crate) arity: i64,
    pub(crate) flags: &'static [Flag],
    /// The places of the first key and of the last (negative: from the end), and how far keys are apart; 0: no keys.
    pub(crate) keys: (i64, i64, i64),
    pub(crate) group: &'static str,
    /// The version of Redis that had it first; empty if none has it.
    pub(crate) since: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) subcommands: &'static [Sub],
}

/// A command of two words.
#[derive(Debug)]
pub(crate) struct Sub {
    /// In lower case.
    pub(crate) name: &'static str,
    /// As of [`Spec`], both words counted.
    pub(crate) arity: i64,
    pub(crate) summary: &'static str,
}

const ONE: (i64, i64, i64) = (1, 1, 1);
const ALL: (i64, i64, i64) = (1, -1, 1);
const PAIRS: (i64, i64, i64) = (1, -1, 2);
const NONE: (i64, i64, i64) = (0, 0, 0);

const fn spec(
    id: Id,
    name: &'static str,
    arity: i64,
    flags: &'static [Flag],
    keys: (i64, i64, i64),
    about: (&'static str, &'static str, &'static str),
) -> Spec {
    let (group, since, summary) = about;
    Spec { id, name, arity, flags, keys, group, since, summary, subcommands: &[] }
}

const fn with_subcommands(of: Spec, subcommands: &'static [Sub]) -> Spec {
    Spec { subcommands, ..of }
}

const fn sub(name: &'static str, arity: i64, summary: &'static str) -> Sub {
    Sub { name, arity, summary }
}

const PLAIN: &[Flag] = &[Fast, Loading, Stale];
const OF_CONNECTION: &[Flag] = &[Noscript, Loading, Stale, Fast];
const OF_SERVER: &[Flag] = &[Loading, Stale];

/// All commands, ordered by name.
pub(crate) static COMMANDS: &[Spec] = &[
    spec(Id::Append, "append", 3, &[Write, Denyoom, Fast], ONE, ("string", "2.0.0", "Appends to a value")),
    spec(
        Id::Auth,
        "auth",
        -2,
        &[Noscript, Loading, Stale, Fast, NoAuth],
        NONE,
        ("connection", "1.0.0", "Authenticates the connection; there are no passwords yet"),
    ),
    with_subcommands(
        spec(Id::Client, "client", -2, OF_CONNECTION, NONE, ("connection", "2.4.0", "About this connection")),
        &[
            sub("getname", 2, "The name of this connection"),
            sub("help", 2, "What there is"),
            sub("id", 2, "The number of this connection"),
            sub("info", 2, "What is known of this connection"),
            sub("setinfo", 4, "Tells which library the client is"),
            sub("setname", 3, "Names this connection"),
        ],
    ),
    with_subcommands(
        spec(Id::Command, "command", -1, OF_SERVER, NONE, ("server", "2.8.13", "About the commands")),
        &[
            sub("count", 2, "How many there are"),
            sub("docs", -2, "What they are for"),
            sub("getkeys", -3, "Which arguments of a command are keys"),
            sub("help", 2, "What there is"),
            sub("info", -2, "Arity, flags and places of keys"),
            sub("list", -2, "Their names"),
        ],
    ),
    with_subcommands(
        spec(
            Id::Config,
            "config",
            -2,
            &[Admin, Noscript, Loading, Stale],
            NONE,
            ("server", "2.0.0", "About the configuration"),
        ),
        &[sub("get", -3, "Parameters, by pattern"), sub("help", 2, "What there is")],
    ),
    spec(Id::Dbsize, "dbsize", 1, &[Readonly, Fast], NONE, ("server", "1.0.0", "The number of keys")),
    spec(
        Id::Decr,
        "decr",
        2,
        &[Write, Denyoom, Fast],
        ONE,
        ("string", "1.0.0", "Subtracts one from a number"),
    ),
    spec(
        Id::Decrby,
        "decrby",
        3,
        &[Write, Denyoom, Fast],
        ONE,
        ("string", "1.0.0", "Subtracts from a number"),
    ),
    spec(Id::Del, "del", -2, &[Write], ALL, ("generic", "1.0.0", "Removes keys, all at one moment")),
    spec(Id::Echo, "echo", 2, PLAIN, NONE, ("connection", "1.0.0", "Returns its argument")),
    spec(
        Id::Exists,
        "exists",
        -2,
        &[Readonly, Fast],
        ALL,
        ("generic", "1.0.0", "How many of the keys are there"),
    ),
    spec(Id::Flushall, "flushall", -1, &[Write], NONE, ("server", "1.0.0", "Removes all keys at one moment")),
    spec(Id::Flushdb, "flushdb", -1, &[Write], NONE, ("server", "1.0.0", "Removes all keys at one moment")),
    spec(Id::Get, "get", 2, &[Readonly, Fast], ONE, ("string", "1.0.0", "The value of a key")),
    spec(
        Id::Hello,
        "hello",
        -1,
        &[Noscript, Loading, Stale, Fast, NoAuth],
        NONE,
        ("connection", "6.0.0", "Chooses the protocol"),
    ),
    spec(Id::Incr, "incr", 2, &[Write, Denyoom, Fast], ONE, ("string", "1.0.0", "Adds one to a number")),
    spec(Id::Incrby, "incrby", 3, &[Write, Denyoom, Fast], ONE, ("string", "1.0.0", "Adds to a number")),
    spec(Id::Info, "info", -1, OF_SERVER, NONE, ("server", "1.0.0", "About this member")),
    spec(
        Id::Join,
        "join",
        3,
        &[Admin, Noscript, Stale],
        NONE,
        ("cluster", "", "Adds a member: its peer address and its id"),
    ),
    spec(Id::Keys, "keys", 2, &[Readonly], NONE, ("generic", "1.0.0", "All keys that match a pattern")),
    spec(
        Id::Leave,
        "leave",
        2,
        &[Admin, Noscript, Stale],
        NONE,
        ("cluster", "", "Removes a member, by its id"),
    ),
    spec(
        Id::Mget,
        "mget",
        -2,
        &[Readonly, Fast],
        ALL,
        ("string", "1.0.0", "The values of keys, at one moment"),
    ),
    spec(
        Id::Mset,
        "mset",
        -3,
        &[Write, Denyoom],
        PAIRS,
        ("string", "1.0.1", "Sets keys to values, all at one moment"),
    ),
    spec(Id::Ping, "ping", -1, &[Fast], NONE, ("connection", "1.0.0", "Returns PONG, or its argument")),
    spec(
        Id::Quit,
        "quit",
        -1,
        &[Noscript, Loading, Stale, Fast, NoAuth],
        NONE,
        ("connection", "1.0.0", "Closes the connection"),
    ),
    spec(Id::Readonly, "readonly", 1, PLAIN, NONE, ("cluster", "3.0.0", "From now on reads may be stale")),
    spec(
        Id::Readwrite,
        "readwrite",
        1,
        PLAIN,
        NONE,
        ("cluster", "3.0.0", "From now on reads are linearizable"),
    ),
    spec(
        Id::Reset,
        "reset",
        1,
        &[Noscript, Loading, Stale, Fast, NoAuth],
        NONE,
        ("connection", "6.2.0", "Makes the connection a new one"),
    ),
    spec(
        Id::Role,
        "role",
        1,
        &[Noscript, Loading, Stale, Fast],
        NONE,
        ("server", "2.8.12", "Leader or follower"),
    ),
    spec(
        Id::Scan,
        "scan",
        -2,
        &[Readonly],
        NONE,
        ("generic", "2.8.0", "Goes through the keys in small steps"),
    ),
    spec(Id::Select, "select", 2, PLAIN, NONE, ("connection", "1.0.0", "Chooses a database; there is 0")),
    spec(Id::Set, "set", -3, &[Write, Denyoom], ONE, ("string", "1.0.0", "Sets a key to a value")),
    spec(
        Id::Setnx,
        "setnx",
        3,
        &[Write, Denyoom, Fast],
        ONE,
        ("string", "1.0.0", "Sets a key that is absent"),
    ),
    spec(
        Id::Snapshot,
        "snapshot",
        1,
        &[Admin, Noscript, Stale],
        NONE,
        ("server", "", "Has this member write a snapshot"),
    ),
    spec(Id::Strlen, "strlen", 2, &[Readonly, Fast], ONE, ("string", "2.2.0", "The length of a value")),
    spec(Id::Time, "time", 1, PLAIN, NONE, ("server", "2.6.0", "This member's clock")),
    spec(Id::Type, "type", 2, &[Readonly, Fast], ONE, ("generic", "1.0.0", "`string`, or `none`")),
    spec(
        Id::Unlink,
        "unlink",
        -2,
        &[Write, Fast],
        ALL,
        ("generic", "4.0.0", "Removes keys, all at one moment"),
    ),
];

/// The longest name, in bytes.
const LONGEST: usize = 9;

/// The command of that name, in any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Spec> {
    let mut lower = [0; LONGEST];
    let lower = lower.get_mut(..name.len())?;
    lower.copy_from_slice(name);
    lower.make_ascii_lowercase();
    let at = COMMANDS.binary_search_by(|spec| spec.name.as_bytes().cmp(lower)).ok()?;
    Some(&COMMANDS[at])
}

/// Whether `len` arguments, names among them, are as many as `arity` says.
pub(crate) fn takes(arity: i64, len: usize) -> bool {
    let wanted = arity.unsigned_abs() as usize;
    if arity < 0 { len >= wanted } else { len == wanted }
}

impl Spec {
    /// The subcommand of that name, in any case.
    pub(crate) fn subcommand(&self, name: &[u8]) -> Option<&'static Sub> {
        self.subcommands.iter().find(|sub| sub.name.as_bytes().eq_ignore_ascii_case(name))
    }

    /// The places of the keys among `len` arguments.
    pub(crate) fn key_places(&self, len: usize) -> impl Iterator<Item = usize> + use<> {
        let (first, last, step) = self.keys;
        let last = if last < 0 { len as i64 + last } else { last };
        let places = if step == 0 { 0..0 } else { first..last + 1 };
        places.step_by(step.max(1) as usize).filter_map(|place| usize::try_from(place).ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_ordered_and_every_command_is_found() {
        assert!(COMMANDS.is_sorted_by(|a, b| a.name < b.name));
        assert_eq!(COMMANDS.iter().map(|spec| spec.name.len()).max(), Some(LONGEST));
        for spec in COMMANDS {
            assert_eq!(find(spec.name.to_uppercase().as_bytes()).map(|found| found.id), Some(spec.id));
            assert!(spec.subcommands.is_sorted_by(|a, b| a.name < b.name));
        }
        for name in [&b""[..], b"g", b"gett", b"readwritee", b"g\0t", &[b'x'; 1000]] {
            assert!(find(name).is_none());
        }
    }

    #[test]
    fn arguments_are_counted() {
        assert!(takes(2, 2) && !takes(2, 1) && !takes(2, 3));
        assert!(takes(-2, 2) && takes(-2, 9) && !takes(-2, 1));
    }

    #[test]
    fn keys_are_where_the_table_says() {
        let places = |name: &str, len| find(name.as_bytes()).unwrap().key_places(len).collect::<Vec<_>>();
        assert_eq!(places("get", 2), [1]);
        assert_eq!(places("mget", 4), [1, 2, 3]);
        assert_eq!(places("mset", 5), [1, 3]);
        assert_eq!(places("ping", 2), [0; 0]);
    }
}
