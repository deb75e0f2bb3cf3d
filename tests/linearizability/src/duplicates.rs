//! Was something applied twice, or not at all, although the answers do not show it?
//!
//! A put that is applied twice looks like a put. So retries are tested with operations that add: an append of a token
//! that is used once, an increment. Two kinds of keys are checked, others are passed over:
//!
//! - **logs**: only appends, of tokens that end in `;` (and have no other) and are used once, and reads. A token is in the log once if it
//!   was acknowledged, at most once if the outcome is unknown, not at all if nothing was done; it stays where it is;
//!   and whoever reads later sees more;
//! - **counters**: only increments by 1 or more, and reads. A number lies between the sum of what was acknowledged
//!   before it was asked for and the sum of what was asked for before it was told; no two acknowledged increments were
//!   told one number.

use std::collections::{HashMap, HashSet};

use crate::history::{Action, Op, Outcome};

/// What a key is, seen from the operations on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only appends of tokens, and reads.
    Log,
    /// Only increments by positive numbers, and reads.
    Counter,
    /// Anything else: not checked here.
    Other,
}

/// What a key is.
pub fn kind(ops: &[&Op]) -> Kind {
    let mut tokens = HashSet::new();
    let mut is_token = |value: &str| {
        value.ends_with(';') && value.matches(';').count() == 1 && tokens.insert(value.to_owned())
    };
    let mut writes = ops.iter().filter(|op| !matches!(op.action, Action::Get | Action::StaleGet)).peekable();
    match writes.peek().map(|op| &op.action) {
        Some(Action::Append { .. })
            if writes.all(|op| matches!(&op.action, Action::Append { value } if is_token(value))) =>
        {
            Kind::Log
        }
        Some(Action::Increment { .. })
            if writes.all(|op| matches!(op.action, Action::Increment { by } if by > 0)) =>
        {
            Kind::Counter
        }
        _ => Kind::Other,
    }
}

/// Checks one key. An error is the operation (as index) where it shows, and words.
pub fn check_key(ops: &[&Op]) -> Result<Kind, (usize, String)> {
    let kind = kind(ops);
    match kind {
        Kind::Log => log(ops)?,
        Kind::Counter => counter(ops)?,
        Kind::Other => {}
    }
    Ok(kind)
}

fn log(ops: &[&Op]) -> Result<(), (usize, String)> {
    let mut appends = HashMap::new();
    for (number, op) in ops.iter().enumerate() {
        if let Action::Append { value } = &op.action {
            appends.insert(value.as_str(), number);
        }
    }
    let reads = || (0..).zip(ops).filter(|(_, op)| op.existed.is_some());
    let longest = reads().map(|(_, op)| op.read.as_deref().unwrap_or_default()).max_by_key(|r| r.len());
    let longest = longest.unwrap_or_default();

    // Where each token ends in the longest read, and its problems. Every other read is a beginning of that one.
    let mut ends = HashMap::new();
    let mut end = 0;
    let by = reads().find(|(_, op)| op.read.as_deref() == Some(longest)).map_or(0, |(number, _)| number);
    for token in longest.split_inclusive(';') {
        end += token.len();
        let Some(append) = appends.get(token) else { return Err((by, format!("nobody appended {token}"))) };
        if ops[*append].outcome == Outcome::Fail {
            return Err((by, format!("it was not done: {}", ops[*append])));
        }
        if ends.insert(token, end).is_some() {
            return Err((by, format!("applied twice: {}", ops[*append])));
        }
    }
    for (number, op) in reads() {
        let read = op.read.as_deref().unwrap_or_default();
        if !longest.starts_with(read) {
            return Err((number, format!("what was read here is no beginning of {longest}")));
        }
        for (token, append) in &appends {
            let append = ops[*append];
            let is_there = ends.get(token).is_some_and(|end| *end <= read.len());
            if is_there && op.returned.is_some_and(|returned| returned < append.called) {
                return Err((number, format!("it shows what was asked for later: {append}")));
            }
            let before = append.returned.is_some_and(|returned| returned < op.called);
            if !is_there && before && append.outcome == Outcome::Ok && op.action == Action::Get {
                return Err((number, format!("it does not show: {append}")));
            }
        }
    }
    Ok(())
}

fn counter(ops: &[&Op]) -> Result<(), (usize, String)> {
    // (moment, amount) of what was acknowledged and of what was asked for, by moment, with running sums.
    let mut acknowledged = Vec::new();
    let mut asked = Vec::new();
    let mut told: HashMap<i64, usize> = HashMap::new();
    for (number, op) in ops.iter().enumerate() {
        let Action::Increment { by } = op.action else { continue };
        if op.outcome == Outcome::Fail {
            continue;
        }
        asked.push((op.called, by));
        if let (Outcome::Ok, Some(returned)) = (op.outcome, op.returned) {
            acknowledged.push((returned, by));
            if let Some(other) = op.number.and_then(|n| told.insert(n, number)) {
                return Err((number, format!("the same number was told to: {}", ops[other])));
            }
        }
    }
    let (acknowledged, asked) = (Sums::new(acknowledged), Sums::new(asked));
    for (number, op) in ops.iter().enumerate() {
        let seen = match (&op.action, op.existed) {
            (Action::Increment { .. }, _) if op.outcome == Outcome::Ok => op.number,
            (Action::Get, Some(false)) => Some(0),
            (Action::Get, Some(true)) => op.read.as_deref().and_then(|read| read.parse().ok()),
            _ => None,
        };
        let (Some(seen), Some(returned)) = (seen, op.returned) else { continue };
        let own = if let Action::Increment { by } = op.action { by } else { 0 };
        let least = acknowledged.below(op.called) + own;
        let most = asked.up_to(returned);
        if seen < least {
            return Err((number, format!("{seen} is less than the {least} that had been acknowledged")));
        }
        if seen > most {
            return Err((number, format!("{seen} is more than the {most} that had been asked for")));
        }
    }
    Ok(())
}

/// Sums over time.
struct Sums(Vec<(u64, i64)>);

impl Sums {
    fn new(mut amounts: Vec<(u64, i64)>) -> Sums {
        amounts.sort_unstable();
        let mut sum = 0i64;
        for (_, amount) in &mut amounts {
            sum = sum.saturating_add(*amount);
            *amount = sum;
        }
        Sums(amounts)
    }

    fn at(&self, count: usize) -> i64 {
        count.checked_sub(1).map_or(0, |last| self.0[last].1)
    }

    fn below(&self, moment: u64) -> i64 {
        self.at(self.0.partition_point(|(at, _)| *at < moment))
    }

    fn up_to(&self, moment: u64) -> i64 {
        self.at(self.0.partition_point(|(at, _)| *at <= moment))
    }
}
