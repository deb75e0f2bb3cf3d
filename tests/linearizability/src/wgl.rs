//! Is there any order of one key's operations that explains every answer?
//!
//! The search of Wing and Gong (1993) with Lowe's improvements ("Testing for linearizability", 2017): it walks through
//! calls and returns in the order of time, and chooses an operation to happen only when one that has not happened yet
//! *returns* (just in time); a configuration, which is the place in time, the set of pending operations that have
//! happened, and the state, is visited once.
//!
//! Operations of unknown outcome are pending for ever, and may happen or not. One that does is only of use if somebody
//! sees it: after it, whatever happens next must depend on the state. Without this rule every unknown write would
//! double the search.
//!
//! The search can still take exponential time. It ends at [`Limits`] with [`Verdict::Unknown`].

use std::collections::HashSet;
use std::time::Instant;

use crate::history::{Action, Op, Outcome};
use crate::model::{Model, State};
use crate::report::Limits;

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order; this is one: indexes into the operations that were given, without those that did not happen.
    Linearizable(Vec<usize>),
    /// There is none.
    Violation {
        /// The operation (as index) at whose return the search got stuck, wherever it got furthest.
        stuck_at: usize,
        /// What the key held there, in one of the orders that got so far.
        value: Option<String>,
    },
    /// The limit was reached. It may or may not be linearizable.
    Unknown(String),
}

/// Searches an order for the operations of one key.
pub fn check_key(ops: &[&Op], limits: &Limits) -> Verdict {
    Search::new(ops, limits).run()
}

/// A return in the order of time, with what is pending there.
struct Return {
    op: usize,
    /// Operations with an answer that are under way, this one included.
    pending: Vec<usize>,
    /// How many of the operations without an answer have been called.
    unknown: usize,
}

/// A set of slots. An operation has a slot while it is pending.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
struct Slots(Vec<u64>);

impl Slots {
    fn has(&self, slot: usize) -> bool {
        self.0.get(slot / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    fn with(&self, slot: usize) -> Slots {
        let mut slots = self.clone();
        if slots.0.len() <= slot / 64 {
            slots.0.resize(slot / 64 + 1, 0);
        }
        slots.0[slot / 64] |= 1 << (slot % 64);
        slots
    }

    fn without(mut self, slot: usize) -> Slots {
        if let Some(word) = self.0.get_mut(slot / 64) {
            *word &= !(1 << (slot % 64));
        }
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
        self
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Configuration {
    /// The return that comes next.
    at: usize,
    happened: Slots,
    state: State,
    /// The last to happen was one without an answer, and nobody has seen it yet.
    unseen: bool,
}

/// A configuration, and how far its choices were tried.
struct Frame {
    here: Configuration,
    next_choice: usize,
    /// What happened to get here.
    by: Option<usize>,
}

struct Search<'a> {
    ops: &'a [&'a Op],
    limits: &'a Limits,
    model: Model,
    returns: Vec<Return>,
    /// Operations without an answer, by call.
    unknown: Vec<usize>,
    slots: Vec<usize>,
}

impl<'a> Search<'a> {
    fn new(ops: &'a [&'a Op], limits: &'a Limits) -> Search<'a> {
        // At one moment calls come first: operations that touch are concurrent.
        let mut events = Vec::new();
        for (number, op) in ops.iter().enumerate() {
            let counts = match (op.outcome, &op.action) {
                (Outcome::Fail, _) | (_, Action::StaleGet) | (Outcome::Unknown, Action::Get) => false,
                (Outcome::Ok | Outcome::Refused | Outcome::Unknown, _) => true,
            };
            if counts {
                events.push((op.called, false, number));
                if op.outcome != Outcome::Unknown {
                    events.push((op.returned.unwrap_or(u64::MAX), true, number));
                }
            }
        }
        events.sort_unstable();

        let mut slots = vec![0; ops.len()];
        let (mut free, mut used) = (Vec::new(), 0);
        let (mut returns, mut unknown, mut pending) = (Vec::new(), Vec::new(), Vec::new());
        for (_, is_return, op) in events {
            if is_return {
                returns.push(Return { op, pending: pending.clone(), unknown: unknown.len() });
                pending.retain(|other| *other != op);
                free.push(slots[op]);
            } else {
                slots[op] = free.pop().unwrap_or_else(|| {
                    used += 1;
                    used - 1
                });
                match ops[op].outcome {
                    Outcome::Unknown => unknown.push(op),
                    _ => pending.push(op),
                }
            }
        }
        Search { ops, limits, model: Model::default(), returns, unknown, slots }
    }

    fn run(mut self) -> Verdict {
        let begun = Instant::now();
        let start = Configuration { at: 0, happened: Slots::default(), state: State::ABSENT, unseen: false };
        let mut visited = HashSet::new();
        let mut furthest = (0, State::ABSENT);
        let mut stack = vec![Frame { here: self.pass_returned(start), next_choice: 0, by: None }];
        let mut tried = 0u64;
        while let Some(frame) = stack.last_mut() {
            let at = frame.here.at;
            if at == self.returns.len() {
                return Verdict::Linearizable(stack.iter().filter_map(|frame| frame.by).collect());
            }
            if at > furthest.0 {
                furthest = (at, frame.here.state);
            }
            let Some(choice) = self.choice(at, frame.next_choice) else {
                stack.pop();
                continue;
            };
            frame.next_choice += 1;
            tried += 1;
            if tried.is_multiple_of(4096) && begun.elapsed() > self.limits.time {
                return Verdict::Unknown(format!("no answer after {:?}", self.limits.time));
            }
            if let Some(next) = self.after(&stack[stack.len() - 1].here, choice) {
                let next = self.pass_returned(next);
                if visited.insert(next.clone()) {
                    if visited.len() as u64 > self.limits.steps {
                        return Verdict::Unknown(format!("no answer after {} steps", self.limits.steps));
                    }
                    stack.push(Frame { here: next, next_choice: 0, by: Some(choice) });
                }
            }
        }
        let (at, state) = furthest;
        Verdict::Violation {
            stuck_at: self.returns[at].op,
            value: self.model.value(state).map(str::to_owned),
        }
    }

    /// The operations that may happen before a return: the returning one first, for it has to.
    fn choice(&self, at: usize, number: usize) -> Option<usize> {
        let Return { op, pending, unknown } = &self.returns[at];
        if number == 0 {
            return Some(*op);
        }
        let number = number - 1;
        match pending.get(number) {
            Some(other) => Some(*other),
            // The newest first: it is the likeliest to have been seen.
            None => unknown.checked_sub(1 + number - pending.len()).map(|i| self.unknown[i]),
        }
    }

    /// The configuration after an operation has happened, if it can.
    fn after(&mut self, here: &Configuration, choice: usize) -> Option<Configuration> {
        let (op, slot) = (self.ops[choice], self.slots[choice]);
        if here.happened.has(slot) || (here.unseen && Model::is_blind(op)) {
            return None;
        }
        let state = self.model.step(here.state, op)?;
        let optional = op.outcome == Outcome::Unknown;
        if optional && state == here.state {
            return None;
        }
        Some(Configuration { at: here.at, happened: here.happened.with(slot), state, unseen: optional })
    }

    /// Goes on over the returns of what has happened.
    fn pass_returned(&self, mut here: Configuration) -> Configuration {
        while let Some(next) = self.returns.get(here.at)
            && here.happened.has(self.slots[next.op])
        {
            here.at += 1;
            here.happened = here.happened.without(self.slots[next.op]);
        }
        here
    }
}
