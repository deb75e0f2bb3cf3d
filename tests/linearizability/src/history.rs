//! The history, and its file: one JSON object a line.
//!
//! ```text
//! {"format":"kvd-history","version":1,"base_revision":1}          the header; base_revision is optional
//! {"client":3,"key":"k","op":"put","value":"v7","called":10,"returned":20,"outcome":"ok","revision":2}
//! {"client":4,"key":"k","op":"get","called":15,"returned":25,"outcome":"ok","existed":true,"read":"v7",
//!  "mod_revision":2,"revision":2}                                 (one line in the file)
//! {"client":5,"key":"k","op":"delete","called":30,"outcome":"unknown"}
//! ```
//!
//! | field | holds |
//! |---|---|
//! | `client` | who asked; a client has one operation in flight |
//! | `key`, `op` | the key, and one of `put`, `get`, `stale-get`, `delete`, `append`, `increment` |
//! | `value` | what a put writes or an append adds |
//! | `if` | a put's condition: `"absent"`, or `{"value":"v7"}` |
//! | `by` | what an increment adds |
//! | `called`, `returned` | moments of one clock, any unit; operations that touch in a moment count as concurrent |
//! | `outcome` | `ok`; `refused`: the condition did not hold; `fail`: nothing was done; `unknown`: done once or not at all, at any moment after `called` |
//! | `existed`, `read` | what a get found; whether a delete found something |
//! | `number` | the length after an append, the number after an increment |
//! | `revision` | the store's revision of a write, or the one that a read saw |
//! | `mod_revision` | the revision of the last write of the key, as a get was told |
//!
//! `base_revision` is the store's revision before the first operation, given if nobody but these clients wrote since.

use std::io::{BufRead, Write};

use serde::{Deserialize, Serialize};

/// What a history file begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// Always `kvd-history`.
    pub format: String,
    /// Always 1.
    pub version: u64,
    /// The store's revision before the first operation, if nobody else wrote since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_revision: Option<u64>,
}

impl Header {
    /// The header of a history that this version writes.
    pub fn new(base_revision: Option<u64>) -> Header {
        Header { format: FORMAT.into(), version: VERSION, base_revision }
    }
}

const FORMAT: &str = "kvd-history";
const VERSION: u64 = 1;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Action {
    /// To write a value; with a condition, a compare-and-swap.
    Put {
        /// The value.
        value: String,
        /// Under which condition.
        #[serde(rename = "if", default, skip_serializing_if = "Option::is_none")]
        condition: Option<Condition>,
    },
    /// To remove the key.
    Delete,
    /// A linearizable read.
    Get,
    /// A read of some earlier state.
    StaleGet,
    /// To add to the end of the value; an absent key counts as the empty value.
    Append {
        /// What to add.
        value: String,
    },
    /// To add to a number; an absent key counts as 0.
    Increment {
        /// How much.
        by: i64,
    },
}

/// Under which condition a put writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Condition {
    /// There is no such key.
    Absent,
    /// The key has this value.
    Value(String),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was done.
    Ok,
    /// Its condition did not hold, so nothing was written.
    Refused,
    /// Nothing was done, for a reason that tells nothing of the state.
    Fail,
    /// It was done once or not at all, at some moment after it was called, be it after all others.
    Unknown,
}

/// One operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Op {
    /// Who asked.
    pub client: u64,
    /// The key.
    pub key: String,
    /// For what.
    #[serde(flatten)]
    pub action: Action,
    /// When it was asked for.
    pub called: u64,
    /// When the answer came. Absent only if the outcome is unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned: Option<u64>,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether the key was there, for a get or a delete.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existed: Option<bool>,
    /// The value that a get found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<String>,
    /// The length after an append, the number after an increment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<i64>,
    /// The store's revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// The revision of the key's last write, as a get was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mod_revision: Option<u64>,
}

impl Op {
    /// An operation that has no answer yet.
    pub fn new(client: u64, key: impl Into<String>, action: Action, called: u64) -> Op {
        Op {
            client,
            key: key.into(),
            action,
            called,
            returned: None,
            outcome: Outcome::Unknown,
            existed: None,
            read: None,
            number: None,
            revision: None,
            mod_revision: None,
        }
    }

    /// Whether it may have changed the store.
    pub fn may_write(&self) -> bool {
        let reads = matches!(self.action, Action::Get | Action::StaleGet);
        !reads && matches!(self.outcome, Outcome::Ok | Outcome::Unknown) && self.existed != Some(false)
    }

    /// What is wrong with the line itself.
    fn complaint(&self) -> Option<&'static str> {
        let is_get = matches!(self.action, Action::Get | Action::StaleGet);
        let has_condition = matches!(self.action, Action::Put { condition: Some(_), .. });
        match (self.outcome, self.returned) {
            (Outcome::Unknown, _) => {}
            (_, None) => return Some("it has an outcome, and no `returned`"),
            (_, Some(returned)) if returned < self.called => return Some("it returned before it was called"),
            _ => {}
        }
        match self.outcome {
            Outcome::Ok if is_get && self.existed != Some(self.read.is_some()) => {
                Some("a get that is ok has `existed`, and `read` if that is true")
            }
            Outcome::Refused if !has_condition => Some("only a put with a condition can be refused"),
            _ => None,
        }
    }
}

/// Operations, in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct History {
    /// What the file begins with.
    pub header: Header,
    /// The operations.
    pub ops: Vec<Op>,
}

/// A file that is no history.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// It cannot be read.
    #[error("reading the history: {0}")]
    Io(#[from] std::io::Error),
    /// A line is not what it should be.
    #[error("line {line}: {problem}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: String,
    },
}

impl History {
    /// A history of these operations.
    pub fn new(base_revision: Option<u64>, ops: Vec<Op>) -> History {
        History { header: Header::new(base_revision), ops }
    }

    /// Reads a history file.
    ///
    /// # Errors
    /// If it cannot be read, or a line is malformed: it names the line. Also a last line that was cut off: a history
    /// with an operation missing could accuse the store wrongly.
    pub fn parse(from: impl BufRead) -> Result<History, FormatError> {
        let mut lines = (1..).zip(from.lines());
        let bad = |line, problem: String| Err(FormatError::Line { line, problem });
        let Some((_, first)) = lines.next() else { return bad(1, "the file is empty".into()) };
        let header: Header = serde_json::from_str(&first?)
            .map_err(|e| FormatError::Line { line: 1, problem: format!("not a header: {e}") })?;
        if (header.format.as_str(), header.version) != (FORMAT, VERSION) {
            return bad(1, format!("this reads {FORMAT} version {VERSION}"));
        }
        let mut ops = Vec::new();
        for (line, text) in lines {
            let op: Op = serde_json::from_str(&text?)
                .map_err(|e| FormatError::Line { line, problem: e.to_string() })?;
            if let Some(problem) = op.complaint() {
                return bad(line, problem.into());
            }
            ops.push(op);
        }
        Ok(History { header, ops })
    }

    /// Writes a history file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, mut to: impl Write) -> std::io::Result<()> {
        serde_json::to_writer(&mut to, &self.header)?;
        writeln!(to)?;
        for op in &self.ops {
            serde_json::to_writer(&mut to, op)?;
            writeln!(to)?;
        }
        to.flush()
    }
}

impl std::fmt::Display for Op {
    /// As one reads it in a complaint: who, when, what, and the answer.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Op { client, key, called, .. } = self;
        write!(f, "client {client} [{called}..")?;
        match self.returned {
            Some(returned) => write!(f, "{returned}] ")?,
            None => write!(f, "?] ")?,
        }
        match &self.action {
            Action::Put { value, condition: None } => write!(f, "put {key} = {value}")?,
            Action::Put { value, condition: Some(Condition::Absent) } => {
                write!(f, "put {key} = {value} if absent")?;
            }
            Action::Put { value, condition: Some(Condition::Value(old)) } => {
                write!(f, "put {key} = {value} if {old}")?;
            }
            Action::Delete => write!(f, "delete {key}")?,
            Action::Get => write!(f, "get {key}")?,
            Action::StaleGet => write!(f, "get {key}, stale")?,
            Action::Append { value } => write!(f, "append {key} {value}")?,
            Action::Increment { by } => write!(f, "increment {key} by {by}")?,
        }
        match self.outcome {
            Outcome::Ok => write!(f, " -> ok")?,
            Outcome::Refused => write!(f, " -> condition does not hold")?,
            Outcome::Fail => write!(f, " -> nothing done")?,
            Outcome::Unknown => write!(f, " -> unknown")?,
        }
        match (&self.read, self.existed) {
            (Some(read), _) => write!(f, " {read}")?,
            (None, Some(false)) => write!(f, " absent")?,
            _ => {}
        }
        if let Some(number) = self.number {
            write!(f, " {number}")?;
        }
        if let Some(revision) = self.mod_revision {
            write!(f, " written at revision {revision}")?;
        }
        match self.revision {
            Some(revision) => write!(f, " @ {revision}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = r#"{"format":"kvd-history","version":1}"#;

    fn parse(lines: &str) -> Result<History, FormatError> {
        History::parse(format!("{HEADER}\n{lines}").as_bytes())
    }

    #[test]
    fn what_is_written_reads_back() {
        let text = concat!(
            r#"{"format":"kvd-history","version":1,"base_revision":1}"#,
            "\n",
            r#"{"client":1,"key":"k","op":"put","value":"a","if":{"value":"b"},"called":1,"returned":2,"outcome":"refused"}"#,
            "\n",
            r#"{"client":2,"key":"k","op":"put","value":"c","if":"absent","called":1,"outcome":"unknown"}"#,
            "\n",
            r#"{"client":3,"key":"k","op":"get","called":3,"returned":4,"outcome":"ok","existed":true,"read":"a","revision":7,"mod_revision":5}"#,
            "\n",
            r#"{"client":4,"key":"n","op":"increment","by":-2,"called":3,"returned":4,"outcome":"ok","number":-2}"#,
            "\n",
        );
        let history = History::parse(text.as_bytes()).unwrap();
        assert_eq!((history.header.base_revision, history.ops.len()), (Some(1), 4));
        let mut written = Vec::new();
        history.write(&mut written).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), text);
    }

    #[test]
    fn bad_lines_are_named() {
        let op = |rest: &str| format!(r#"{{"client":1,"key":"k",{rest}}}"#);
        for (rest, problem) in [
            (r#""op":"put","called":1,"returned":2,"outcome":"ok""#, "missing field `value`"),
            (r#""op":"get","called":1,"returned":2,"outcome":"ok""#, "a get that is ok"),
            (r#""op":"get","called":1,"returned":2,"outcome":"ok","existed":true"#, "a get that is ok"),
            (r#""op":"delete","called":1,"outcome":"ok""#, "no `returned`"),
            (r#""op":"delete","called":2,"returned":1,"outcome":"ok""#, "returned before it was called"),
            (r#""op":"delete","called":1,"returned":1,"outcome":"refused""#, "only a put"),
            (r#""op":"jump","called":1,"returned":1,"outcome":"ok""#, "unknown variant `jump`"),
        ] {
            let error = parse(&op(rest)).unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(problem), "{error}");
        }
        assert!(parse(r#"{"client":1,"key"#).is_err(), "a line that was cut off");
        assert!(History::parse(&b""[..]).is_err());
        assert!(History::parse(&br#"{"format":"kvd-history","version":2}"#[..]).is_err());
    }
}
