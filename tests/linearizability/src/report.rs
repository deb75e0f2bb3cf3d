//! All checks of a history, and what they found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::duplicates::Kind;
use crate::history::{History, Op};
use crate::order::Placed;
use crate::wgl::Verdict;
use crate::{duplicates, order, wgl};

/// How long a search may go on for each key, whichever comes first.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Configurations that are visited, and remembered: about 200 bytes each. 2,000,000 by default.
    pub steps: u64,
    /// Time. A minute by default.
    pub time: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { steps: 2_000_000, time: Duration::from_secs(60) }
    }
}

const ORDER: &str = "order of revisions";

/// A contradiction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The check that found it.
    pub check: &'static str,
    /// The key.
    pub key: String,
    /// What, and the operation where it shows.
    pub what: String,
    /// That operation, as index into the history.
    pub op: usize,
}

/// What the checks found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// How many keys and operations there were.
    pub keys: usize,
    /// How many operations.
    pub ops: usize,
    /// What the order of revisions could place. `None` if it was contradicted, or if values were put twice, so that it
    /// could not be used.
    pub placed: Option<Placed>,
    /// How many keys were logs or counters.
    pub adding: usize,
    /// The contradictions: at most one for each key and check, and one of the order of revisions.
    pub violations: Vec<Violation>,
    /// Keys without an answer, and why.
    pub unknown: Vec<(String, String)>,
}

impl Report {
    /// 0: everything can be true. 1: something cannot. 3: the limit was reached, so nobody knows.
    pub fn exit_code(&self) -> u8 {
        match (self.violations.is_empty(), self.unknown.is_empty()) {
            (false, _) => 1,
            (true, false) => 3,
            (true, true) => 0,
        }
    }

    /// Whether every check that applies passed.
    pub fn passed(&self) -> bool {
        self.exit_code() == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} operations on {} keys", self.ops, self.keys)?;
        match self.placed {
            _ if self.violations.iter().any(|violation| violation.check == ORDER) => {
                writeln!(f, "order of revisions: contradicted")?;
            }
            Some(Placed { checked, skipped }) => {
                writeln!(f, "order of revisions: {checked} operations placed, {skipped} without a revision")?;
            }
            None => writeln!(f, "order of revisions: not checked, values were put twice")?,
        }
        writeln!(f, "logs and counters: {} keys", self.adding)?;
        for (key, why) in &self.unknown {
            writeln!(f, "UNKNOWN: key {key}: {why}")?;
        }
        for violation in &self.violations {
            writeln!(f, "VIOLATION ({}): key {}: {}", violation.check, violation.key, violation.what)?;
        }
        let verdict = match self.exit_code() {
            0 => "every answer can be true",
            1 => "these answers cannot all be true",
            _ => "nobody knows: a limit was reached",
        };
        write!(f, "{verdict}")
    }
}

/// Runs every check.
pub fn check(history: &History, limits: &Limits) -> Report {
    let mut report = Report { ops: history.ops.len(), ..Report::default() };
    let mut keys: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (number, op) in history.ops.iter().enumerate() {
        keys.entry(&op.key).or_default().push(number);
    }
    report.keys = keys.len();

    match order::check(history) {
        Ok(placed) => report.placed = Some(placed),
        Err(None) => {}
        Err(Some(broken)) => {
            let op = &history.ops[broken.op];
            report.violations.push(Violation {
                check: ORDER,
                key: op.key.clone(),
                what: format!("{:?}: {op}: {}", broken.rule, broken.what),
                op: broken.op,
            });
        }
    }
    for (key, numbers) in keys {
        let ops: Vec<&Op> = numbers.iter().map(|number| &history.ops[*number]).collect();
        let mut violation = |check, op: usize, what: String| {
            report.violations.push(Violation { check, key: key.to_owned(), what, op: numbers[op] });
        };
        match duplicates::check_key(&ops) {
            Ok(Kind::Other) => {}
            Ok(Kind::Log | Kind::Counter) => report.adding += 1,
            Err((op, what)) => violation("applied once", op, format!("{}: {what}", ops[op])),
        }
        match wgl::check_key(&ops, limits) {
            Verdict::Linearizable(_) => {}
            Verdict::Violation { stuck_at, value } => {
                let held = value.map_or("nothing".to_owned(), |value| format!("{value:?}"));
                let what =
                    format!("no order explains it; the longest ends, with {held}, at: {}", ops[stuck_at]);
                violation("linearizable", stuck_at, what);
            }
            Verdict::Unknown(why) => report.unknown.push((key.to_owned(), why)),
        }
    }
    report
}
