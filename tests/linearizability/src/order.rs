//! Do the answers agree with the order that the store claims?
//!
//! kvd gives every change of the store the next revision, and tells it to the writer; a read is told the store's
//! revision and that of the key's last write. So the history comes with a witness, the order of all changes, and this
//! check verifies the witness in O(n log n) instead of searching for one:
//!
//! - no two writes have one revision, and none has two ([`Rule::TwoOrders`], [`Rule::AppliedTwice`]);
//! - a read shows the last write at its revision, one that was asked for before the read returned, and none that
//!   was refused ([`Rule::WrongRead`], [`Rule::FailedWriteSeen`], [`Rule::NeverWritten`], [`Rule::Future`]);
//! - conditions held, or did not, and deletes found something, or not, at their revision ([`Rule::WrongCondition`]);
//! - what was called after something else had returned comes after it ([`Rule::RealTime`], [`Rule::StaleRead`]);
//! - writes without an answer are placed where somebody saw them, once; what a read shows to be gone was deleted by
//!   somebody ([`Rule::Lost`]);
//! - if the history says where the revisions begin: no revision was taken by nobody ([`Rule::Phantom`]).
//!
//! Writes without an answer that nobody saw may explain what would be a contradiction otherwise, and this check is
//! generous there: it does not ask whether *their* conditions held. The search does.
//!
//! It needs revisions, and values that are put once: what has none is counted as [`Placed::skipped`], and left to the
//! search. Keys that are appended to or counted are left out, but for the revisions that they take.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Action, Condition, History, Op, Outcome};

/// What was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Two writes were acknowledged at one revision: there were two orders, so two leaders.
    TwoOrders,
    /// One write took two revisions.
    AppliedTwice,
    /// A read shows another value than the last write at its revision.
    WrongRead,
    /// A read shows a write that was said not to have been done.
    FailedWriteSeen,
    /// A read shows a value that nobody wrote to this key.
    NeverWritten,
    /// A read shows what was asked for only after it had returned, or a revision above its own.
    Future,
    /// A condition, or whether a delete found something, contradicts the order.
    WrongCondition,
    /// A write comes before something that had returned before the write was called.
    RealTime,
    /// A read shows a state older than one that had been told to somebody before it was called.
    StaleRead,
    /// A write is gone, and nobody deleted or overwrote it.
    Lost,
    /// There are more revisions than writes.
    Phantom,
}

/// How much of a history the check could place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Placed {
    /// Operations whose place in the order was checked.
    pub checked: usize,
    /// Operations that have an answer and no revision, or whose key is not a register.
    pub skipped: usize,
}

/// A broken rule, the operation (as index) where it shows, and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// What was broken.
    pub rule: Rule,
    /// Where.
    pub op: usize,
    /// How.
    pub what: String,
}

/// Checks a history. `Err(None)` if its values are not unique, so that a read does not tell which write it saw.
///
/// # Errors
/// The first contradiction that is found.
pub fn check(history: &History) -> Result<Placed, Option<Broken>> {
    let mut order = Order::new(&history.ops)?;
    order.place_acknowledged()?;
    order.place_what_was_seen()?;
    let needs = order.compare_with_the_order()?;
    order.meet(needs)?;
    order.real_time()?;
    if let Some(base) = history.header.base_revision {
        order.phantoms(base)?;
    }
    Ok(order.placed)
}

/// One change of a key: its revision and who made it.
#[derive(Debug, Clone, Copy)]
struct Change {
    revision: u64,
    op: usize,
}

/// A write without a revision that has to have happened on a key, in the revisions above `after` up to `until`.
#[derive(Debug)]
struct Need {
    kind: Needed,
    after: u64,
    until: u64,
    /// When whoever saw its effect returned.
    deadline: u64,
    seen_by: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Needed {
    Delete,
    Put,
    /// Either.
    Change,
}

struct Order<'a> {
    ops: &'a [Op],
    /// Who put a value.
    writers: HashMap<&'a str, usize>,
    /// Whether a key takes puts and deletes only.
    registers: HashMap<&'a str, bool>,
    /// Who took a revision.
    taken: BTreeMap<u64, usize>,
    /// The revision of each write that has one.
    revision_of: HashMap<usize, u64>,
    /// The changes of each register, by revision.
    changes: HashMap<&'a str, Vec<Change>>,
    placed: Placed,
}

fn broken<T>(rule: Rule, op: usize, what: String) -> Result<T, Option<Broken>> {
    Err(Some(Broken { rule, op, what }))
}

impl<'a> Order<'a> {
    fn new(ops: &'a [Op]) -> Result<Order<'a>, Option<Broken>> {
        let mut writers = HashMap::new();
        let mut registers: HashMap<&str, bool> = HashMap::new();
        for (number, op) in ops.iter().enumerate() {
            let is_register = registers.entry(&op.key).or_insert(true);
            match &op.action {
                Action::Put { value, .. } => {
                    if writers.insert(value.as_str(), number).is_some() {
                        return Err(None);
                    }
                }
                Action::Append { .. } | Action::Increment { .. } => *is_register = false,
                Action::Delete | Action::Get | Action::StaleGet => {}
            }
        }
        Ok(Order {
            ops,
            writers,
            registers,
            taken: BTreeMap::new(),
            revision_of: HashMap::new(),
            changes: HashMap::new(),
            placed: Placed::default(),
        })
    }

    fn is_register(&self, op: &Op) -> bool {
        self.registers.get(op.key.as_str()).copied().unwrap_or(false)
    }

    /// Gives a write its revision.
    fn place(&mut self, op: usize, revision: u64) -> Result<(), Option<Broken>> {
        if let Some(other) = self.taken.insert(revision, op) {
            let what =
                format!("revision {revision} belongs to two writes; the other is: {}", self.ops[other]);
            return broken(Rule::TwoOrders, op, what);
        }
        self.revision_of.insert(op, revision);
        Ok(())
    }

    fn place_acknowledged(&mut self) -> Result<(), Option<Broken>> {
        for (number, op) in self.ops.iter().enumerate() {
            if op.outcome == Outcome::Ok
                && op.may_write()
                && let Some(revision) = op.revision
            {
                self.place(number, revision)?;
            }
        }
        Ok(())
    }

    /// Writes without an answer, where a read saw them.
    fn place_what_was_seen(&mut self) -> Result<(), Option<Broken>> {
        for (number, op) in self.ops.iter().enumerate() {
            let (Some(read), true) = (&op.read, self.is_register(op)) else { continue };
            let Some(writer) = self.writers.get(read.as_str()).copied() else {
                return broken(Rule::NeverWritten, number, format!("nobody wrote {read}"));
            };
            let write = &self.ops[writer];
            if write.key != op.key {
                return broken(Rule::NeverWritten, number, format!("{read} was written to {}", write.key));
            }
            if matches!(write.outcome, Outcome::Fail | Outcome::Refused) {
                return broken(Rule::FailedWriteSeen, number, format!("it was not done: {write}"));
            }
            if op.returned.is_some_and(|returned| returned < write.called) {
                return broken(Rule::Future, number, format!("it shows what was asked for later: {write}"));
            }
            let Some(revision) = op.mod_revision else { continue };
            if op.revision.is_some_and(|seen| seen < revision) {
                return broken(Rule::Future, number, "the write is above the revision that was read".into());
            }
            match self.revision_of.get(&writer) {
                Some(known) if *known == revision => {}
                Some(known) => {
                    let what = format!("{read} is at revision {revision}, and was at {known}: {write}");
                    return broken(Rule::AppliedTwice, number, what);
                }
                None => self.place(writer, revision)?,
            }
        }
        for (revision, op) in &self.taken {
            let (revision, op) = (*revision, *op);
            if self.is_register(&self.ops[op]) {
                self.changes.entry(&self.ops[op].key).or_default().push(Change { revision, op });
            }
        }
        Ok(())
    }

    /// The last change of a key at a revision.
    fn last_at(&self, key: &str, revision: u64) -> Option<Change> {
        let changes = self.changes.get(key)?;
        let later = changes.partition_point(|change| change.revision <= revision);
        Some(changes[later.checked_sub(1)?])
    }

    /// What the key holds after a change; `None` for nothing.
    fn value_after(&self, change: Option<Change>) -> Option<&'a str> {
        match &self.ops[change?.op].action {
            Action::Put { value, .. } => Some(value),
            _ => None,
        }
    }

    /// Compares every answer with the last change at its revision. Returns what has to have happened out of sight.
    fn compare_with_the_order(&mut self) -> Result<HashMap<&'a str, Vec<Need>>, Option<Broken>> {
        let ops = self.ops;
        let mut needs: HashMap<&str, Vec<Need>> = HashMap::new();
        // For each change, the highest revision at which it was still seen.
        let mut seen_until: HashMap<u64, (u64, usize)> = HashMap::new();
        for (number, op) in ops.iter().enumerate() {
            let answered = matches!(op.outcome, Outcome::Ok | Outcome::Refused);
            let own = self.revision_of.get(&number).copied();
            let (Some(revision), true) = (own.or(op.revision), self.is_register(op)) else {
                self.placed.skipped += usize::from(answered);
                continue;
            };
            self.placed.checked += usize::from(answered);
            // A write, be it one without an answer that was seen, met the state just below its own revision.
            let at = if own.is_some() { revision.saturating_sub(1) } else { revision };
            let done = op.outcome != Outcome::Refused;
            let last = self.last_at(&op.key, at);
            let value = self.value_after(last);
            let held = |what: &str| {
                let held = value.map_or("nothing".to_owned(), |value| {
                    format!("{value} of {}", last.map_or(0, |c| c.revision))
                });
                format!("at revision {at} the key holds {held}, {what}")
            };
            let after = last.map_or(0, |change| change.revision);
            let mut need = |kind| {
                let deadline = op.returned.unwrap_or(u64::MAX);
                let need = Need { kind, after, until: at, deadline, seen_by: number };
                needs.entry(&op.key).or_default().push(need);
            };
            let mut still_there = || {
                let seen = seen_until.entry(after).or_insert((at, number));
                *seen = (*seen).max((at, number));
            };
            match (&op.action, op.existed) {
                (Action::Get | Action::StaleGet, Some(true)) => {
                    if value != op.read.as_deref() {
                        return broken(Rule::WrongRead, number, held("and not what was read"));
                    }
                    still_there();
                }
                // Something was there; whether it was this value nobody was told.
                (Action::Delete, Some(true)) if value.is_none() => need(Needed::Put),
                (Action::Get | Action::StaleGet | Action::Delete, Some(false)) if value.is_some() => {
                    need(Needed::Delete);
                }
                (Action::Put { condition: Some(Condition::Absent), .. }, _) => {
                    match (done, value.is_some()) {
                        (true, true) => need(Needed::Delete),
                        (false, false) => need(Needed::Put),
                        (false, true) | (true, false) => {}
                    }
                }
                (Action::Put { condition: Some(Condition::Value(wanted)), .. }, _) => {
                    match (done, value == Some(wanted)) {
                        (true, true) => still_there(),
                        (false, true) => need(Needed::Change),
                        (true, false) => self.seen_by_condition(number, wanted, at)?,
                        (false, false) => {}
                    }
                }
                _ => {}
            }
        }
        for needs in needs.values_mut() {
            for need in &*needs {
                // The change was undone at or below `until`, yet somebody saw it above.
                if let Some((above, by)) = seen_until.get(&need.after)
                    && *above >= need.until
                    && need.after > 0
                {
                    let what = format!("at revision {}, although it was gone: {}", above, ops[need.seen_by]);
                    return broken(Rule::WrongRead, *by, what);
                }
            }
            merge(needs);
        }
        Ok(needs)
    }

    /// A condition held for a value that is not the last known one: its put, without an answer, has to lie between.
    fn seen_by_condition(&self, number: usize, wanted: &str, at: u64) -> Result<(), Option<Broken>> {
        let writer = self.writers.get(wanted).copied();
        match writer.map(|writer| (&self.ops[writer], self.revision_of.get(&writer))) {
            Some((write, None)) if write.key == self.ops[number].key && write.may_write() => Ok(()),
            Some((write, _)) => {
                let what = format!("at revision {at} the key does not hold {wanted} of: {write}");
                broken(Rule::WrongCondition, number, what)
            }
            None => broken(Rule::WrongCondition, number, format!("nobody wrote {wanted}")),
        }
    }

    /// Finds a write without a place for everything that has to have happened out of sight.
    fn meet(&self, needs: HashMap<&'a str, Vec<Need>>) -> Result<(), Option<Broken>> {
        let mut hidden: HashMap<(&str, Needed), Vec<u64>> = HashMap::new();
        for (number, op) in self.ops.iter().enumerate() {
            if op.may_write() && !self.revision_of.contains_key(&number) {
                let kind = if op.action == Action::Delete { Needed::Delete } else { Needed::Put };
                hidden.entry((&op.key, kind)).or_default().push(op.called);
            }
        }
        hidden.values_mut().for_each(|called| called.sort_unstable());
        let taken: Vec<u64> = self.taken.keys().copied().collect();
        for (key, mut needs) in needs {
            // What only one kind can meet comes first, and takes the youngest that is old enough.
            needs.sort_by_key(|need| (need.kind == Needed::Change, need.deadline));
            for need in needs {
                let kinds: &[Needed] = match need.kind {
                    Needed::Change => &[Needed::Delete, Needed::Put],
                    Needed::Delete => &[Needed::Delete],
                    Needed::Put => &[Needed::Put],
                };
                let met = kinds.iter().any(|kind| {
                    let Some(called) = hidden.get_mut(&(key, *kind)) else { return false };
                    match called.partition_point(|called| *called <= need.deadline).checked_sub(1) {
                        Some(youngest) => {
                            called.remove(youngest);
                            true
                        }
                        None => false,
                    }
                });
                // It took a revision in between, too.
                let between =
                    taken.partition_point(|r| *r <= need.until) - taken.partition_point(|r| *r <= need.after);
                if !met || between as u64 >= need.until.saturating_sub(need.after) {
                    let what = match self.taken.get(&need.after) {
                        Some(write) if need.kind != Needed::Put => format!(
                            "at revision {} it is gone, and nobody deleted or replaced: {}",
                            need.until, self.ops[*write]
                        ),
                        _ => format!("at revision {} something is there that nobody wrote", need.until),
                    };
                    return broken(Rule::Lost, need.seen_by, what);
                }
            }
        }
        Ok(())
    }

    /// What was called after something had returned comes after it.
    fn real_time(&self) -> Result<(), Option<Broken>> {
        let mut calls: Vec<(u64, usize)> = Vec::new();
        let mut returns: Vec<(u64, u64, usize)> = Vec::new();
        for (number, op) in self.ops.iter().enumerate() {
            let answered = matches!(op.outcome, Outcome::Ok | Outcome::Refused);
            let revision =
                op.revision.filter(|_| answered).or_else(|| self.revision_of.get(&number).copied());
            if let (Some(revision), false) = (revision, op.action == Action::StaleGet) {
                calls.push((op.called, number));
                if let (true, Some(returned)) = (answered, op.returned) {
                    returns.push((returned, revision, number));
                }
            }
        }
        calls.sort_unstable();
        returns.sort_unstable();
        let mut returns = returns.into_iter().peekable();
        let mut newest = (0, 0);
        for (called, number) in calls {
            while let Some((_, revision, by)) = returns.next_if(|(returned, ..)| *returned < called) {
                newest = newest.max((revision, by));
            }
            let op = &self.ops[number];
            let own = self.revision_of.get(&number).copied();
            let revision = own.or(op.revision).unwrap_or(u64::MAX);
            if revision < newest.0 || (own.is_some() && revision == newest.0) {
                let rule = if own.is_some() { Rule::RealTime } else { Rule::StaleRead };
                let what = format!(
                    "it is at revision {revision}, but revision {} had been told before it was called: {}",
                    newest.0, self.ops[newest.1]
                );
                return broken(rule, number, what);
            }
        }
        Ok(())
    }

    /// Every revision was taken by somebody.
    fn phantoms(&self, base: u64) -> Result<(), Option<Broken>> {
        let mut acknowledged: Vec<u64> = Vec::new();
        let mut others: Vec<u64> = Vec::new();
        for op in self.ops.iter().filter(|op| op.may_write()) {
            match op.revision.filter(|_| op.outcome == Outcome::Ok) {
                Some(revision) => acknowledged.push(revision),
                None => others.push(op.called),
            }
        }
        acknowledged.sort_unstable();
        others.sort_unstable();
        for (number, op) in self.ops.iter().enumerate() {
            let (Some(revision), Some(returned)) = (op.revision, op.returned) else { continue };
            let taken = acknowledged.partition_point(|taken| *taken <= revision) as u64;
            let open = revision.saturating_sub(base).saturating_sub(taken);
            let others = others.partition_point(|called| *called <= returned) as u64;
            if open > others {
                let what = format!(
                    "{} revisions above {base}, of which {taken} were acknowledged, and only {others} writes without \
                     an answer",
                    revision - base
                );
                return broken(Rule::Phantom, number, what);
            }
        }
        Ok(())
    }
}

/// Needs of one kind that follow the same change are one: a single write explains them all, in the narrowest range and
/// by the earliest deadline.
fn merge(needs: &mut Vec<Need>) {
    needs.sort_by_key(|need| (need.after, need.kind, need.until));
    needs.dedup_by(|later, first| {
        let same = (later.after, later.kind) == (first.after, first.kind);
        if same && later.deadline < first.deadline {
            (first.deadline, first.seen_by) = (later.deadline, later.seen_by);
        }
        same
    });
    // A delete is a change, too.
    let exact: Vec<u64> = needs.iter().filter(|n| n.kind != Needed::Change).map(|n| n.after).collect();
    needs.retain(|need| need.kind != Needed::Change || !exact.contains(&need.after));
}
