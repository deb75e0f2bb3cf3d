//! What one key does: a register with conditions, appends and increments.

use std::collections::HashMap;

use crate::history::{Action, Condition, Op, Outcome};

/// The value of a key, as a number that stands for it; equal values have equal numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State(u32);

impl State {
    /// The key is absent.
    pub const ABSENT: State = State(0);
}

/// The sequential behaviour of one key, and every value that came up so far.
#[derive(Debug)]
pub struct Model {
    values: Vec<Option<String>>,
    numbers: HashMap<String, State>,
}

impl Default for Model {
    fn default() -> Model {
        Model { values: vec![None], numbers: HashMap::new() }
    }
}

impl Model {
    /// The value behind a state; `None` if the key is absent.
    pub fn value(&self, state: State) -> Option<&str> {
        self.values[state.0 as usize].as_deref()
    }

    fn state(&mut self, value: &str) -> State {
        if let Some(state) = self.numbers.get(value) {
            return *state;
        }
        // A history has far fewer than 2^32 operations, each of which makes one value at most.
        let state = State(u32::try_from(self.values.len()).unwrap_or(u32::MAX));
        self.values.push(Some(value.to_owned()));
        self.numbers.insert(value.to_owned(), state);
        state
    }

    /// The state after `op`, if it can happen in this state with the answer that was given. What has no answer can
    /// happen where it changes something; where it changes nothing, it is as if it never happened.
    pub fn step(&mut self, state: State, op: &Op) -> Option<State> {
        let known = op.outcome != Outcome::Unknown;
        let old = self.value(state);
        match &op.action {
            Action::Get | Action::StaleGet => (known && old == op.read.as_deref()).then_some(state),
            Action::Put { value, condition } => {
                let holds = match condition {
                    None => true,
                    Some(Condition::Absent) => old.is_none(),
                    Some(Condition::Value(wanted)) => old == Some(wanted),
                };
                match op.outcome {
                    Outcome::Refused => (!holds).then_some(state),
                    _ => holds.then(|| self.state(value)),
                }
            }
            Action::Delete => match op.existed {
                Some(existed) if existed != old.is_some() => None,
                _ => Some(State::ABSENT),
            },
            Action::Append { value } => {
                let new = format!("{}{value}", old.unwrap_or_default());
                match op.number {
                    Some(length) if usize::try_from(length) != Ok(new.len()) => None,
                    _ => Some(self.state(&new)),
                }
            }
            Action::Increment { by } => {
                let new = old.unwrap_or("0").parse::<i64>().ok()?.checked_add(*by)?;
                match op.number {
                    Some(number) if number != new => None,
                    _ => Some(self.state(&new.to_string())),
                }
            }
        }
    }

    /// Whether `op` does the same in every state, and so tells nothing of the one before it.
    pub fn is_blind(op: &Op) -> bool {
        match &op.action {
            Action::Put { condition, .. } => condition.is_none(),
            Action::Delete => op.existed.is_none(),
            _ => false,
        }
    }
}
